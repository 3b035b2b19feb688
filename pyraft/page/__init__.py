"""A cluster over HTTP: a page that shows it as it changes, its status as JSON, metrics, and answers for probes.

Duty: `application` makes an aiohttp application of a node, for programs to mount; `pyraft serve --http` runs it.
pyraft/OPERATING.md says what it offers and how it is guarded.

    from pyraft import page

    async with Node("data/1", Shop()) as node:
        async with page.served(node, "127.0.0.1:8080"):
            ...

Failure modes: it needs aiohttp (`pip install 'pyraft-uv[http]'`), and is an ImportError without.
"""

from pyraft.page.application import Guard, application, is_loopback, served

__all__ = ["Guard", "application", "is_loopback", "served"]

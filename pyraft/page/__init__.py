"""A cluster over HTTP: a page that shows it as it changes, its status as JSON, metrics, and answers for probes.

Duty: `application` makes an aiohttp application of a node, for programs to mount, and `overlook` one of a cluster that
is looked at from outside; `served` and `watched` run them. `pyraft serve --http` has the first one. pyraft/OPERATING.md
says what they offer and how they are guarded.

    from pyraft import page

    async with Node("data/1", Shop()) as node:
        async with page.served(node, "127.0.0.1:8080"):
            ...

Failure modes: it needs aiohttp (`pip install 'pyraft-uv[http]'`), and is an ImportError without.
"""

from pyraft.page.guard import Guard, is_loopback
from pyraft.page.https import Https
from pyraft.page.site import application, overlook, served, watched

__all__ = ["Guard", "Https", "application", "is_loopback", "overlook", "served", "watched"]

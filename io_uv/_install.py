"""Whether the `pyraft` beside this package is the one that belongs to it.

Duty: the distribution of that name on PyPI is another project's. Where it was installed over ours, the first import of
one of our modules would fail with a riddle; imported before all others, this one says what has happened.

Failure modes: ImportError, with what to do.
"""

import pyraft

if not hasattr(pyraft, "raft_version_number"):
    raise ImportError(
        f"the package pyraft in {next(iter(pyraft.__path__))} is not the one of pyraft-uv: another distribution was "
        "installed over it or took it along when it was uninstalled; uninstall both, and install pyraft-uv again"
    )

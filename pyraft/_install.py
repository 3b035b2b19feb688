"""The installation: its version, whether it is compiled, and whether another distribution has put files among ours.

Duty: on PyPI the name pyraft belongs to another project, whose distribution brings a package `pyraft` too, with an
`__init__.py` and a `log.py` of its own. Whichever is installed last overwrites these, and uninstalling either removes
them. `warn_of_others` looks for it when ours is imported; if theirs has won, `io_uv` is the first of ours to notice.

Failure modes: none; in a directory that cannot be listed, as in a zip file, nothing is found.
"""

import os
import sys
import warnings

ADVICE = "uninstall both, and install pyraft-uv again"


def warn_of_others(package: str) -> None:
    """Warn if the distribution `pyraft` is installed beside the directory `package`, which is ours."""
    try:
        names = os.listdir(os.path.dirname(package))
    except OSError:
        return
    others = [name for name in names if name.lower().startswith("pyraft-") and name.endswith("-info")]
    if others:
        text = f"{others[0]} is another project, installed over parts of this package: {ADVICE}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def describe(version: str, library: int, compiled: bool) -> str:
    """Return what `python -m pyraft --version` prints; `library` is raft_version_number()."""
    form = "compiled" if compiled else "pure Python"
    python = ".".join(map(str, sys.version_info[:3]))
    number = f"{library // 10000}.{library // 100 % 100}.{library % 100}"
    return f"pyraft-uv {version} (libraft {number}), {form}, on Python {python}"

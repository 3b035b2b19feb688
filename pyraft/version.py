"""The version of raft.h whose behaviour this is; pyraft's own is `pyraft.__version__`.

Duty: the constants of raft.h that name it, and the function that a program asks at run time.

Failure modes: none.
"""

from typing import Final

RAFT_VERSION_MAJOR: Final = 0
RAFT_VERSION_MINOR: Final = 18
RAFT_VERSION_RELEASE: Final = 1
RAFT_VERSION_NUMBER: Final = RAFT_VERSION_MAJOR * 100 * 100 + RAFT_VERSION_MINOR * 100 + RAFT_VERSION_RELEASE


def raft_version_number() -> int:
    """Return the version of the C library whose behaviour this is, as in raft.h: 1801 for 0.18.1."""
    return RAFT_VERSION_NUMBER

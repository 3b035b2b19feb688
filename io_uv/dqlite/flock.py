"""The lock that a node of dqlite from 1.16.5 on has on its data directory.

Duty: `hold` makes the file `dqlite-lock`, which stays, and takes flock(2) on it, so that no C node starts in a
directory where a node of ours runs, and no node of ours where a C node runs. Source: server.c of canonical/dqlite.

Happy path: `lock = hold(directory)` before anything else is done there, `lock.release()` after everything else. The
kernel releases it when the process ends.

Failure modes: Failure(RAFT_BUSY) if another process has it, RAFT_IOERR if the file cannot be made. Nodes of dqlite
before 1.16.5 take no lock.
"""

import os
from typing import Final

from io_uv import fs
from io_uv.failure import Failure, failure
from io_uv.pyuv.alone import Alone
from pyraft.errors import RAFT_BUSY

NAME: Final = "dqlite-lock"


class Lock(Alone):
    """The lock on one directory."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Let others have the directory."""
        if self._fd >= 0:
            fs.close(self._fd)
            self._fd = -1


def hold(directory: str) -> Lock:
    """Take the lock. Raises Failure."""
    try:
        fd = fs.open(fs.join(directory, NAME), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except OSError as exc:
        raise failure(f"open {fs.join(directory, NAME)}", exc) from None
    lock = Lock(fd)
    try:
        fs.flock(fd)
    except BlockingIOError:
        lock.release()
        raise Failure(RAFT_BUSY, f"directory '{directory}' is in use by another node of dqlite") from None
    except OSError as exc:
        lock.release()
        raise failure(f"flock {fs.join(directory, NAME)}", exc) from None
    return lock

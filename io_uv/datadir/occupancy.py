"""Other users of a data directory: a tool that reads or mends one has it for itself.

Duty: `hold` takes every lock that a server of this family takes (our own, and `dqlite-lock` where that file is), and
looks for processes that take none: libraft and cowsql lock nothing, but keep the segments that they write open.

Happy path: `with hold(path):` around everything that reads or changes the directory. Failure modes: Failure(RAFT_BUSY),
with the process where it can be found out. Nobody can see these from here: a C server of another user, when this is not
root, or one in another container or on another machine.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from io_uv import directory, disk, fs, metadata, segment, snapshot_file
from io_uv.failure import Failure, failure
from pyraft.errors import RAFT_BUSY, RAFT_UNAUTHORIZED

_EFFECTIVE: Final = os.access in os.supports_effective_ids

DQLITE_LOCK: Final = "dqlite-lock"


@contextlib.contextmanager
def hold(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have the data directory for this process while the block runs. Raises Failure(RAFT_BUSY) if another one has it.

    Errors besides: RAFT_UNAUTHORIZED where this user may not read a file of the server's, those of
    `directory.check_dir`, and RAFT_IOERR.
    """
    dir = os.fspath(path)
    directory.check_dir(dir)
    _require_readable(dir)
    with contextlib.ExitStack() as held:
        lock = directory.lock_dir(dir)
        held.callback(lock.release)
        _hold_dqlite(dir, held)
        user = _writer(dir)
        if user is not None:
            raise Failure(RAFT_BUSY, f"directory '{dir}' is in use: process {user} has a segment open")
        yield


def _require_readable(dir: str) -> None:
    """Raise Failure(RAFT_UNAUTHORIZED) for a file that this user may not read: it would pass for a damaged one."""
    for name in filter(disk.means_something, fs.list_dir(dir)):
        means = segment.parse_name(name) or snapshot_file.parse_name(name) or name in metadata.NAMES
        path = fs.join(dir, name)
        if means and os.path.isfile(path) and not os.access(path, os.R_OK, effective_ids=_EFFECTIVE):
            text = f"{name} in directory '{dir}' may not be read by this user: run this as the user of the server"
            raise Failure(RAFT_UNAUTHORIZED, text)


def _hold_dqlite(dir: str, held: contextlib.ExitStack) -> None:
    """Take dqlite's lock, if it has ever been there: the file stays when its server ends."""
    path = fs.join(dir, DQLITE_LOCK)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise failure(f"open {DQLITE_LOCK}", exc) from None
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(RAFT_BUSY, f"directory '{dir}' is in use by a dqlite server, which has {DQLITE_LOCK}") from None
    except OSError as exc:
        raise failure(f"flock {DQLITE_LOCK}", exc) from None


def _writer(dir: str) -> int | None:
    """Return a process, other than this one, that has an open segment of the directory open; None if none is seen."""
    wanted = set()
    for name in fs.list_dir(dir):
        info = segment.parse_name(name)
        if info is not None and info.is_open:
            with contextlib.suppress(OSError):
                stat = os.stat(fs.join(dir, name), follow_symlinks=False)
                wanted.add((stat.st_dev, stat.st_ino))
    if not wanted:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    stat = descriptor.stat()
                    if (stat.st_dev, stat.st_ino) in wanted:
                        return int(process.name)
    return None

"""Each call that the system refuses a server although it can do without, told once.

Duty: containers (seccomp), gVisor, old kernels and some file systems refuse system calls that only make things quicker
or safer. `refused` tells such an answer from a failure; `Refusals` keeps, for one server, what was refused, so that
nobody asks again, and the logger `io_uv` hears of each thing once: what, the errno, and what is used instead. The
substitutes are where the calls are made: `fs`, `directory`, `kaio`, `writer`, `prepare`, `tcp_common`, `pyuv.loop`.

An errno of REFUSED may also be a true failure. Each substitute is such that this does no harm: what was refused is done
again, whole, in the other way, and only the outcome of that counts. Where that is impossible (fsync, fdatasync and
O_DSYNC, whose second success proves nothing; opening, renaming and removing files) nothing is substituted. ENOSPC and
EDQUOT are never refusals.

Happy path: nothing is refused. Failure modes: none of its own.
"""

import errno
import logging
from typing import Final

REFUSED: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EAGAIN, errno.ENOPROTOOPT}
)
"""The answers of a sandbox, an old kernel or a file system to a call that it does not want or know."""
# Two errnos have two names each; these are the ones in the manual pages of the calls.
_NAMES: Final = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EAGAIN: "EAGAIN"}

AIO: Final = "asynchronous writes"
DIRECT: Final = "O_DIRECT"
EVENTFD: Final = "eventfd"
FALLOCATE: Final = "fallocate"
FLOCK: Final = "flock"
FSTATFS: Final = "fstatfs"
LOOP: Final = "uvloop"
OFD_LOCK: Final = "F_OFD_SETLK"
STATX: Final = "statx"
XATTR: Final = "extended attributes"

_INSTEAD: Final = {
    AIO: "a thread makes the writes of entries",
    DIRECT: "a thread writes entries through the page cache, synced, and segments are not filled with zeros ahead",
    EVENTFD: "a pipe wakes the loop, and a thread makes the writes of entries",
    FALLOCATE: "segments are allocated by writing a zero to each of their blocks",
    FLOCK: "the directory is locked by F_OFD_SETLK alone, which versions that know only flock do not see",
    FSTATFS: "the file system is taken for one that is on a disk and writes in place",
    LOOP: "asyncio's own loop is run in the place of uvloop, with more system calls",
    OFD_LOCK: "the directory is locked by flock alone, which a server that has no flock does not see",
    STATX: "fstat is used, with which writes may take longer",
    XATTR: "damage to the last batch of an open segment is taken for a torn write",
}

NO_EVENTFD_AT_ALL: Final = (
    "asyncio's own loop is run in the place of uvloop, pipes wake it, and a thread makes the writes of entries"
)

_log: Final = logging.getLogger("io_uv")


def refused(exc: OSError) -> bool:
    """Return whether this is how something is refused that there is a substitute for."""
    return exc.errno in REFUSED


class Refusals:
    """All that was refused to the server of a directory. Threads of that server may share it."""

    __slots__ = ("_known", "dir", "never_noted", "some")

    def __init__(self, dir: str) -> None:
        self.dir = dir
        self._known: dict[str, object] = {}
        # Whether there is any: where there is none, as on most machines, nothing has to be looked up.
        self.some = False
        # Whether attributes were refused before the first segment was made, so that none of this server has the note.
        self.never_noted = False

    def __contains__(self, thing: object) -> bool:
        return thing in self._known

    def note(self, thing: str, exc: OSError, call: str = "", instead: str = "") -> None:
        """Take note that a call was refused, and log it the first time; it is named `call`, or `thing` without one."""
        mine = object()
        self.some = True
        if self._known.setdefault(thing, mine) is not mine:
            return
        name = _NAMES.get(exc.errno or 0) or errno.errorcode.get(exc.errno or 0, str(exc.errno))
        text = instead or _INSTEAD[thing]
        _log.warning("%s: %s is refused here (%s): %s", self.dir, call or thing, name, text)

    def note_aio(self, exc: OSError, call: str) -> None:
        """Take note that writes cannot be asynchronous, as io_setup or the like is refused, or eventfd."""
        if call == EVENTFD:
            self.note(EVENTFD, exc)
            self._known.setdefault(AIO, self)
        else:
            self.note(AIO, exc, call)


_serving: Final[dict[str, Refusals]] = {}


def begin(refusals: Refusals) -> None:
    """Have `at` find this: its server has the directory for itself now."""
    _serving[refusals.dir] = refusals


def end(refusals: Refusals) -> None:
    """Forget it: the server gives the directory back."""
    if _serving.get(refusals.dir) is refusals:
        del _serving[refusals.dir]


def at(dir: str) -> Refusals:
    """Return what was refused to the server that has a directory, or an empty one that nobody keeps."""
    return _serving.get(dir) or Refusals(dir)

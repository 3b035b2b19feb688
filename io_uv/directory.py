"""The data directory itself: that there is one, that no other server has it, and that it is still there.

Duty: `check_dir` looks at it, `lock_dir` takes it for one server, as two would destroy each other's segments.
`DirLock.require` says whether its path still leads to it. Files are found by their path: behind a directory that is
moved away, or that another one is put or mounted in the place of, a server would write half of its log into the one and
half into the other, and rename and remove files that it never made.

Locks. flock(2) on the directory is what every version of this library takes, exclusively. Where a sandbox refuses it,
a lock of another kind must do, and whoever has flock must see that one: so every server takes both. The other one is
F_OFD_SETLK, shared, as a directory cannot be opened for writing: whoever has taken it asks whether others have one too
(F_OFD_GETLK). Two that start at once both take it before they ask, so at most one of them goes on, and perhaps neither
where there is no flock to decide first. No file is needed; the kernel gives both up with the last descriptor.

Happy path: both are taken. Failure modes: RAFT_BUSY if another server has it. EAGAIN of flock means that, unless a
pipe of our own cannot be locked either: then it is a refusal. If neither kind is to be had, as on file systems
without locks, RAFT_IOERR: a second server would not be noticed. Four kinds of users stay unseen: a server that has only
flock where this one has only the other kind, an older version where flock is refused, a C process (it takes no lock),
and a server whose kernel is another one (gVisor, virtual machines, network file systems).
"""

import contextlib
import errno
import fcntl
import os
import stat

from io_uv import fs
from io_uv.failure import Failure, failure, strerror
from io_uv.pyuv.alone import Alone
from io_uv.refusal import FLOCK, OFD_LOCK, Refusals
from pyraft.errors import RAFT_BUSY, RAFT_INVALID, RAFT_IOERR, RAFT_NOTFOUND, RAFT_UNAUTHORIZED


def check_dir(dir: str) -> None:
    """Check that `dir` is a directory whose mode lets its owner write.

    Errors: RAFT_NOTFOUND, RAFT_UNAUTHORIZED (no access to the path), RAFT_INVALID (no directory, or not writable),
    RAFT_IOERR. Source: uv_fs.c.
    """
    try:
        mode = fs.stat(dir).st_mode
    except FileNotFoundError:
        raise Failure(RAFT_NOTFOUND, f"directory '{dir}' does not exist") from None
    except PermissionError:
        raise Failure(RAFT_UNAUTHORIZED, f"can't access directory '{dir}'") from None
    except NotADirectoryError:
        raise Failure(RAFT_INVALID, f"path '{dir}' is not a directory") from None
    except (OSError, ValueError) as exc:
        raise failure(f"can't stat '{dir}'", exc) from None
    if not stat.S_ISDIR(mode):
        raise Failure(RAFT_INVALID, f"path '{dir}' is not a directory")
    if not mode & stat.S_IWUSR:
        raise Failure(RAFT_INVALID, f"directory '{dir}' is not writable")


def absolute(dir: str) -> str:
    """Return the path as one that a later chdir(2) of the process, as daemons do, does not lead elsewhere."""
    # C: uv.c keeps a relative one, and writes wherever it leads then.
    if os.path.isabs(dir):
        return dir
    try:
        return os.path.join(os.getcwd(), dir)
    except OSError:
        return dir  # the working directory is gone, but for the names in it


class DirLock(Alone):
    """Exclusive use of a data directory, until release(), or until this object or its process ends."""

    __slots__ = ("_fd", "_identity", "_pid")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = (0, 0)
        self._pid = os.getpid()

    def require(self, dir: str) -> None:
        """Raise Failure(RAFT_IOERR) if the path `dir` does not lead to this directory any more, as far as can be told.

        The next call may succeed: the directory can be put back. Any thread may ask.
        """
        # C: uv.c goes on with whatever has that path.
        try:
            status = fs.stat(dir)
        except (FileNotFoundError, NotADirectoryError):
            raise Failure(RAFT_IOERR, f"directory '{dir}' was moved away or removed") from None
        except OSError:
            return  # the operation itself tells what is wrong there
        if (status.st_dev, status.st_ino) != self._identity:
            raise Failure(RAFT_IOERR, f"another directory was put in the place of '{dir}', or mounted over it")

    def remember(self) -> None:
        """Take note which directory this is; raise OSError."""
        status = fs.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)

    def release(self) -> None:
        """Let others use the directory."""
        fd, self._fd = self._fd, -1
        if fd < 0 or os.getpid() != self._pid:
            return  # in a forked child the descriptor was closed at once, and the lock is the parent's
        # Closing alone would leave the locks with a child that was forked without a word to Python. The kernel has the
        # same order: the holder of the first lock must not find the second one taken.
        with contextlib.suppress(OSError):
            fs.ofd_lock(fd, fcntl.F_UNLCK)
        with contextlib.suppress(OSError):
            fs.funlock(fd)
        fs.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_pid"):  # else it was interrupted while it was made
            self.release()


def lock_dir(dir: str, refusals: Refusals | None = None) -> DirLock:
    """Take exclusive use of `dir`; RAFT_BUSY if another instance has it, in this process or in another one.

    C does without. If a server is started twice, the second one reads, and so closes, the segments that the first one
    is writing: all that the first one acknowledges from then on is lost.
    """
    if refusals is None:
        refusals = Refusals(dir)
    try:
        fd = fs.open(dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise failure(f"open directory '{dir}'", exc) from None
    lock = DirLock(fd)
    try:
        try:
            lock.remember()
        except OSError as exc:
            raise failure(f"stat directory '{dir}'", exc) from None
        _take(fd, dir, refusals)
    except BaseException:
        lock.release()  # at once: the exception may keep this frame, and so the lock, for a while
        raise
    return lock


def _take(fd: int, dir: str, refusals: Refusals) -> None:
    try:
        no_flock = _take_flock(fd)
        no_ofd = _take_ofd(fd)
    except _BusyError:
        raise Failure(RAFT_BUSY, f"directory '{dir}' is in use by another server") from None
    if no_flock is not None and no_ofd is not None:
        reasons = f"flock: {strerror(no_flock)}; F_OFD_SETLK: {strerror(no_ofd)}"
        text = f"directory '{dir}' cannot be locked against a second server, which would destroy it: {reasons}"
        raise Failure(RAFT_IOERR, text)
    if no_flock is not None:
        refusals.note(FLOCK, no_flock)
    if no_ofd is not None:
        refusals.note(OFD_LOCK, no_ofd)


class _BusyError(Exception):
    """Another server has the directory."""


def _take_flock(fd: int) -> OSError | None:
    """Take the one lock; return why there is none of this kind."""
    try:
        fs.flock(fd)
    except BlockingIOError as exc:
        if _nobody_could_hold_it():
            return exc
        raise _BusyError from None
    except OSError as exc:
        return exc
    return None


def _nobody_could_hold_it() -> bool:
    """Return whether even a new pipe, which nobody else has, is called locked."""
    try:
        ends = os.pipe()
    except OSError:
        return False
    try:
        fs.flock(ends[0])
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        for end in ends:
            os.close(end)


def _take_ofd(fd: int) -> OSError | None:
    """Take an open file description lock (fcntl); return the error of a system that has none, None once it is ours."""
    try:
        fs.ofd_lock(fd, fcntl.F_RDLCK)
    except OSError as exc:
        # A stranger's exclusive lock is in the way, or it is a refusal.
        if exc.errno in (errno.EAGAIN, errno.EACCES) and _conflict(fd, fcntl.F_RDLCK):
            raise _BusyError from None
        return exc
    try:
        taken = fs.ofd_conflict(fd, fcntl.F_WRLCK)
    except OSError as exc:
        # A lock that nobody can ask for is of no use.
        return exc
    if taken:
        raise _BusyError
    return None


def _conflict(fd: int, kind: int) -> bool:
    try:
        return fs.ofd_conflict(fd, kind)
    except OSError:
        return False

"""The abilities of the file system of the data directory.

Duty: find out, with files that are gone again at once, whether fallocate(2) works, whether writes can go around the
page cache (O_DIRECT) and in which block size, whether they can be submitted without blocking (Linux AIO with RWF_NOWAIT
and RWF_DSYNC), and whether files have attributes. The type of the file system tells the rest: whether it copies on
write, or is in memory.

Happy path on ext4 and XFS: fallocate, 4096, asynchronous. On tmpfs: fallocate, no direct I/O, hence not asynchronous.
The AIO context that has made the write is handed over to those who ask for it: to destroy one takes tens of
milliseconds, on a loop, and a server is about to need one.

Failure modes: a refused feature is done without, and `refusal` tells the log. RAFT_NOSPACE or RAFT_IOERR "create I/O
capabilities probe file: …", RAFT_IOERR "probe Direct I/O: …" or "probe Async I/O: …" for a disk that fails otherwise,
RAFT_NOMEM where there is no memory for the write. But for the last the texts end with the directory.
"""

import errno
import select
from collections.abc import Callable
from typing import Final, TypeVar

from io_uv import fs, kaio
from io_uv.failure import Failure, failure
from io_uv.refusal import DIRECT, FALLOCATE, FSTATFS, STATX, XATTR, Refusals, at, refused
from pyraft import heap
from pyraft.errors import RAFT_NOMEM

_T = TypeVar("_T")

_FALLOCATE_FILE: Final = ".probe_fallocate"
_FILE: Final = ".probe"
_FILE_SIZE: Final = 4096
_BLOCK_SIZES: Final = (4096, 2048, 1024, 512)

_TMPFS: Final = 0x01021994
_ZFS: Final = 0x2FC12FC1
_UBIFS: Final = 0x24051905
_BTRFS: Final = 0x9123683E
_BCACHEFS: Final = 0xCA451A4E

_UNTOLD_MSECS: Final = 1000


class Capabilities:
    """The result of probing.

    `direct_io` is the block size of direct I/O in bytes, 0 without; `copy_on_write` says that a file system writes
    to a fresh place whatever was there, `in_memory` that a write costs no disk access. `context`, for writing, is there
    if `async_io` is true and a context was asked for; the asker closes it.
    """

    __slots__ = ("async_io", "context", "copy_on_write", "direct_io", "fallocate", "in_memory")

    def __init__(self, direct_io: int, context: kaio.Context | None, fallocate: bool, kind: int) -> None:
        self.direct_io = direct_io
        self.async_io = context is not None
        self.context = context
        self.fallocate = fallocate
        self.copy_on_write = kind in (_BTRFS, _ZFS, _BCACHEFS)
        self.in_memory = kind == _TMPFS


def probe(dir: str, refusals: Refusals | None = None, keep: bool = False) -> Capabilities:
    """Return what the file system of `dir` can do, to `keep` with a context. Files of an interrupted probe go first.

    Refusals are noted in `refusals`, by default those of the server that has the directory.
    """
    try:
        found = _probe(dir, at(dir) if refusals is None else refusals)
    except Failure as exc:
        if exc.code == RAFT_NOMEM:
            raise
        raise Failure(exc.code, f"{exc.message}, in directory '{dir}'") from None
    if not keep and found.context is not None:
        found.context.close()
        found.context = None
    return found


def _probe(dir: str, refusals: Refusals) -> Capabilities:
    can_fallocate = _probe_fallocate(dir, refusals)
    _remove(dir, _FILE)
    try:
        fd = fs.allocate_file(dir, _FILE, _FILE_SIZE, can_fallocate)
    except Failure as exc:
        raise exc.wrap("create I/O capabilities probe file") from None
    try:
        _remove(dir, _FILE)
        _probe_notes(fd, refusals)
        _probe_links(fd, refusals)
        kind, direct_io = _wrapped("probe Direct I/O", _probe_direct, fd, refusals)
        # Without direct I/O a submission may block, which makes it useless on a loop.
        context = _wrapped("probe Async I/O", _probe_async, fd, direct_io, refusals) if direct_io else None
        return Capabilities(direct_io, context, can_fallocate, kind)
    finally:
        fs.close(fd)


def _wrapped(prefix: str, fn: Callable[..., _T], *args: int | Refusals) -> _T:
    try:
        return fn(*args)
    except Failure as exc:
        raise exc.wrap(prefix) from None


def _remove(dir: str, name: str) -> None:
    try:
        fs.remove_if_there(dir, name)
    except Failure:
        return


def _probe_fallocate(dir: str, refusals: Refusals) -> bool:
    """Return whether fallocate works; other problems are left for the steps that follow to report."""
    _remove(dir, _FALLOCATE_FILE)
    try:
        fd = fs.open_file(dir, _FALLOCATE_FILE, fs.O_CREATE_NEW)
    except Failure:
        return False
    try:
        fs.fallocate(fd, 0, _FILE_SIZE)
    except OSError as exc:
        if refused(exc):
            refusals.note(FALLOCATE, exc)
        return False
    else:
        return True
    finally:
        # C: uv_fs.c:probeFallocate leaves the descriptor open.
        fs.close(fd)
        _remove(dir, _FALLOCATE_FILE)


def _aligned(size: int) -> heap.Memory:
    memory = heap.raft_aligned_alloc(size, size)
    if memory is None:
        raise Failure(RAFT_NOMEM, "out of memory")
    memory[:] = bytes(size)
    return memory


def _probe_notes(fd: int, refusals: Refusals) -> None:
    """Find out whether the notes of sizes can be made and removed again; if not, this server makes none."""
    call = "fsetxattr"
    try:
        fs.setxattr(fd, fs.SIZE_NOTE, b"0")
        call = "fgetxattr"
        fs.getxattr(fd, fs.SIZE_NOTE)
        call = "fremovexattr"
        fs.removexattr(fd, fs.SIZE_NOTE)
    except OSError as exc:
        if refused(exc):
            refusals.note(XATTR, exc, call)
            refusals.never_noted = True


def _probe_links(fd: int, refusals: Refusals) -> None:
    """Find out whether statx works: it is called after every write."""
    try:
        fs.links(fd)
    except OSError as exc:
        if refused(exc):
            refusals.note(STATX, exc)


def _file_system(fd: int, refusals: Refusals) -> int:
    """Return the type of the file system, 0 if that is not told here."""
    try:
        return fs.file_system(fd)
    except OSError as exc:
        if not refused(exc):
            raise failure("fstatfs", exc) from None
        refusals.note(FSTATFS, exc)
        return 0


def _probe_direct(fd: int, refusals: Refusals) -> tuple[int, int]:
    """Return the type of the file system, and the largest block size with which a direct write works, 0 if none.

    C: uv_fs.c:probeDirectIO goes on without O_DIRECT on tmpfs, ZFS and UBIFS only, where EINVAL is usual.
    """
    kind = _file_system(fd, refusals)
    try:
        fs.set_direct(fd)
    except OSError as exc:
        if not refused(exc):
            raise failure("fcntl", exc) from None
        if exc.errno != errno.EINVAL or kind not in (_TMPFS, _ZFS, _UBIFS):
            refusals.note(DIRECT, exc)
        return kind, 0
    for size in _BLOCK_SIZES:
        memory = _aligned(size)
        try:
            fs.write(fd, memory)
        except OSError as exc:
            if exc.errno in (errno.EIO, errno.EOPNOTSUPP) and size != _BLOCK_SIZES[-1]:
                continue
            # Overlays such as shiftfs accept the flag and fail the write.
            if exc.errno != errno.EIO and not refused(exc):
                raise failure("write", exc) from None
            refusals.note(DIRECT, exc)
            return kind, 0
        finally:
            heap.raft_aligned_free(size, memory)
        return kind, size
    return kind, 0


def _probe_async(fd: int, size: int, refusals: Refusals) -> kaio.Context | None:
    """Return a context by which a direct write is submitted without blocking and made durable on its own, if any."""
    try:
        context = kaio.Context(1)
    except OSError as exc:
        _no_async(refusals, exc, kaio.called(exc))
        return None
    memory = _aligned_for(context, size)
    kept = None
    try:
        context.submit(fd, memory, size, 0, nowait=True, dsync=True)
        result = _result_of(context)
        # A write that would have blocked shows that the flag is known; such writes go to a thread.
        if result > 0 or result == -errno.EAGAIN:
            kept = context
    except OSError as exc:
        _no_async(refusals, exc, kaio.called(exc) if exc.filename else "io_submit")
        return None
    finally:
        if kept is None:
            context.close()
        heap.raft_aligned_free(size, memory)
    if result < 0 and kept is None:
        refusals.note_aio(OSError(-result, ""), "io_submit")
    return kept


def _aligned_for(context: kaio.Context, size: int) -> heap.Memory:
    try:
        return _aligned(size)
    except Failure:
        context.close()
        raise


def _result_of(context: kaio.Context) -> int:
    """Wait for the one write, and return its result."""
    poll = select.poll()
    poll.register(context.fileno(), select.POLLIN)
    while True:
        try:
            told = poll.poll(_UNTOLD_MSECS)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, "poll") from None
        done = context.reap()
        if done and not told:
            raise OSError(errno.ENOSYS, "", "io_submit")  # a completion that nobody is told of is of no use
        if done:
            return done[0][1]


def _no_async(refusals: Refusals, exc: OSError, call: str) -> None:
    if not refused(exc):
        raise failure(call, exc) from None
    refusals.note_aio(exc, call)

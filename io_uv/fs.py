"""File system: thin calls, and the durable operations built from them.

Duty: every file operation of io_uv goes through the functions of this module (or through `kaio`), so that there is
one place where tests record them or make them fail.
The first group wraps one system call each and raises OSError. The second group works on a name in a directory, leaves
the disk durable on return and raises `Failure`.

Happy path of a new file: `tmp-NAME` is written and synced, renamed to NAME, and the directory is synced; a power cut
leaves all of it or nothing under NAME.

Failure modes: every failure carries a code and a text with libuv's wording ("open: no such file or directory").
After a failed fsync nothing is assumed about the file: a caller that goes on must write the data again.
"""

import errno
import fcntl
import os
import stat as stat_
import struct
from collections.abc import Callable, Iterable
from typing import Final

from io_uv import descriptors, libc, refusal
from io_uv.failure import FULL, Failure, failure
from io_uv.refusal import DIRECT, FALLOCATE, XATTR, Refusals
from pyraft.errors import (
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_NOSPACE,
)
from pyraft.types import BytesLike

MAX_DIR_LEN: Final = 894
"""Longest data directory in bytes: C keeps paths in 1024 bytes, of which 128 are for the file name."""
MAX_NAME_LEN: Final = 128
"""Longest file name in bytes that the library makes or opens."""
TMP_PREFIX: Final = "tmp-"

CHUNK: Final = 1024 * 1024
"""Size in bytes of the pieces in which large files are handled."""

O_CREATE_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
"""Flags of open for a file that must not exist yet."""

_MODE: Final = 0o600
SIZE_NOTE: Final = "user.raft.size"
"""Attribute of segments of ours, see note_size."""
# struct flock: type, whence, start, length, owner; the owner of an OFD lock has no number.
_FLOCK: Final = struct.Struct("@hhqqi0q")
place, leads_to, pread = libc.Place, libc.Place.leads, os.pread

# ---- one system call each --------------------------------------------------------------------------------------------


def open(path: str, flags: int, mode: int = _MODE) -> int:
    """open(2); the descriptor is not inherited by child processes, whether they execute another program or not."""
    return descriptors.open(path, flags | os.O_CLOEXEC, mode)


def close(fd: int) -> None:
    """close(2)."""
    descriptors.close(fd)


def read(fd: int, n: int) -> bytes:
    """read(2)."""
    return os.read(fd, n)


def readv(fd: int, buffers: list[memoryview]) -> int:
    """readv(2)."""
    return os.readv(fd, buffers)


def rewind(fd: int) -> None:
    """lseek(2) to the start."""
    os.lseek(fd, 0, os.SEEK_SET)


def write(fd: int, data: BytesLike) -> int:
    """write(2)."""
    return os.write(fd, data)


def pwrite(fd: int, data: BytesLike, offset: int) -> int:
    """pwrite(2)."""
    return os.pwrite(fd, data, offset)


def fsync(fd: int) -> None:
    """fsync(2)."""
    os.fsync(fd)


def fdatasync(fd: int) -> None:
    """fdatasync(2)."""
    os.fdatasync(fd)


def ftruncate(fd: int, size: int) -> None:
    """ftruncate(2)."""
    os.ftruncate(fd, size)


def fallocate(fd: int, offset: int, size: int) -> None:
    """fallocate(2)."""
    libc.fallocate(fd, offset, size)


def rename(old: str, new: str) -> None:
    """rename(2)."""
    os.rename(old, new)


def unlink(path: str) -> None:
    """unlink(2)."""
    os.unlink(path)


def stat(path: str) -> os.stat_result:
    """stat(2)."""
    return os.stat(path)


def lstat(path: str) -> os.stat_result:
    """lstat(2)."""
    return os.lstat(path)


def fstat(fd: int) -> os.stat_result:
    """fstat(2)."""
    return os.fstat(fd)


def links(fd: int) -> int:
    """Return how many names a file has, 0 once it was removed, without making writes slower as fstat does (libc)."""
    return libc.links(fd)


def listdir(path: str) -> list[str]:
    """Return the names in a directory, in no particular order."""
    return os.listdir(path)


def statvfs(path: str) -> os.statvfs_result:
    """statvfs(3)."""
    return os.statvfs(path)


def setxattr(fd: int, name: str, value: bytes) -> None:
    """fsetxattr(2)."""
    os.setxattr(fd, name, value)


def getxattr(fd: int, name: str) -> bytes:
    """fgetxattr(2)."""
    return os.getxattr(fd, name)


def removexattr(fd: int, name: str) -> None:
    """fremovexattr(2)."""
    os.removexattr(fd, name)


def set_direct(fd: int) -> None:
    """Switch the descriptor to direct I/O (O_DIRECT)."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)


def leave_direct(fd: int) -> bool:
    """Switch the descriptor back from direct I/O to the page cache; return whether it was direct."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_DIRECT:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)


def flock(fd: int) -> None:
    """flock(2): exclusive, without waiting."""
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def funlock(fd: int) -> None:
    """flock(2): give the lock up."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def ofd_lock(fd: int, kind: int, start: int = 0, length: int = 0) -> None:
    """fcntl(2), F_OFD_SETLK: take the lock (F_RDLCK, F_WRLCK) of the file or some bytes, or give it up (F_UNLCK)."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def ofd_conflict(fd: int, kind: int) -> bool:
    """fcntl(2), F_OFD_GETLK: return whether somebody else has a lock that excludes one of this `kind`."""
    found: bytes = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def file_system(fd: int) -> int:
    """Return the type of the file system that a file is on, as fstatfs(2) has it (TMPFS_MAGIC and so on)."""
    return libc.fstatfs_type(fd)


# ---- on names in a directory -----------------------------------------------------------------------------------------


def join(dir: str, name: str) -> str:
    """Return the path of `name` in `dir`; RAFT_INVALID if either is longer than the library supports."""
    if len(os.fsencode(dir)) > MAX_DIR_LEN or len(os.fsencode(name)) > MAX_NAME_LEN or "\0" in dir or "\0" in name:
        raise Failure(RAFT_INVALID, f"path too long: {name}")
    return f"{dir}/{name}"


def sync_dir(dir: str) -> None:
    """Make the names in `dir` durable: renames, unlinks and new files before this call survive a power cut."""
    try:
        fd = open(dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise failure("open directory", exc) from None
    try:
        fsync(fd)
    except OSError as exc:
        raise failure("fsync directory", exc) from None
    finally:
        close(fd)


def list_dir(dir: str) -> list[str]:
    """Return the names in `dir`, sorted."""
    try:
        return sorted(listdir(dir))
    except OSError as exc:
        raise failure("scan data directory", exc) from None


def size_of(dir: str, name: str) -> int | None:
    """Return the size in bytes of a file, or None if there is none of that name."""
    try:
        return stat(join(dir, name)).st_size
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise failure("stat", exc) from None


def is_dir(dir: str, name: str) -> bool:
    """Return whether a name is that of a directory."""
    try:
        return stat_.S_ISDIR(stat(join(dir, name)).st_mode)
    except OSError as exc:
        raise failure("stat", exc) from None


def open_file(dir: str, name: str, flags: int) -> int:
    """Open a file, not what a symbolic link of that name leads to, and return its descriptor."""
    try:
        return open(join(dir, name), flags | os.O_NOFOLLOW)
    except OSError as exc:
        raise failure("open", exc) from None


def read_exactly(fd: int, n: int) -> bytes:
    """Read n bytes from the current position; RAFT_IOERR "short read: …" if the file ends before."""
    try:
        data = read(fd, n)
        if len(data) == n:
            return data
        parts = [data]
        got = len(data)
        while got < n and parts[-1]:
            parts.append(read(fd, n - got))
            got += len(parts[-1])
    except (OSError, MemoryError) as exc:
        raise failure("read", exc) from None
    if got < n:
        raise Failure(RAFT_IOERR, f"short read: {got} bytes instead of {n}")
    return b"".join(parts)


def read_file(dir: str, name: str) -> bytes:
    """Return the content of a file, read in one piece: other threads run meanwhile and nothing is copied twice."""
    fd = open_file(dir, name, os.O_RDONLY)
    try:
        return read_exactly(fd, fstat(fd).st_size)
    except OSError as exc:
        raise failure("stat", exc) from None
    finally:
        close(fd)


def write_all(fd: int, bufs: Iterable[BytesLike]) -> int:
    """Write the buffers one after the other, in whole, and return the number of bytes."""
    total = 0
    for buf in bufs:
        view = memoryview(buf)
        if view.nbytes == 0:
            continue
        view = view.cast("B")
        done = 0
        while done < len(view):
            try:
                n = write(fd, view[done:] if done else view)
            except (OSError, MemoryError) as exc:
                raise failure("write", exc) from None
            if n == 0:
                raise Failure(RAFT_IOERR, f"short write: {total + done} only bytes written")
            done += n
        total += done
    return total


def sync(fd: int, data_only: bool = False) -> None:
    """fsync or fdatasync, failing with a Failure."""
    try:
        if data_only:
            fdatasync(fd)
        else:
            fsync(fd)
    except OSError as exc:
        raise failure("fsync", exc) from None


def _write_new(path: str, bufs: Iterable[BytesLike], head: Callable[[], bytes] | None = None) -> None:
    try:
        fd = open(path, O_CREATE_NEW)
    except OSError as exc:
        raise failure("open", exc) from None
    try:
        write_all(fd, bufs)
        if head is not None:
            rewind(fd)
            write_all(fd, [head()])
        sync(fd)
    except BaseException:
        close(fd)
        raise
    try:
        close(fd)
    except OSError as exc:
        raise failure("close", exc) from None


def _unlink_quietly(path: str) -> None:
    try:
        unlink(path)
    except OSError:
        return


def make_file(dir: str, name: str, bufs: Iterable[BytesLike], head: Callable[[], bytes] | None = None) -> None:
    """Create a file with the given content, durable on return, or leave nothing of that name.

    `bufs` may be a generator: large content is written piece by piece, and in the end `head()` over the beginning. A
    file that has the name already is an error and stays. A left-over tmp file fails the call too, but is removed.
    """
    tmp_path = join(dir, TMP_PREFIX + name)
    path = join(dir, name)
    try:
        _write_new(tmp_path, bufs, head)
        if size_of(dir, name) is not None:
            raise Failure(RAFT_IOERR, "rename: file already exists")
        rename_file(dir, TMP_PREFIX + name, name)
    except BaseException:
        _unlink_quietly(tmp_path)
        raise
    try:
        sync_dir(dir)
    except Failure:
        _unlink_quietly(path)
        raise


def replace_file(dir: str, name: str, data: BytesLike) -> None:
    """Like make_file for a small file that may exist: a power cut leaves the old or the new content."""
    tmp_path = join(dir, TMP_PREFIX + name)
    _unlink_quietly(tmp_path)
    try:
        _write_new(tmp_path, [data])
        rename_file(dir, TMP_PREFIX + name, name)
    except BaseException:
        _unlink_quietly(tmp_path)
        raise
    sync_dir(dir)


def overwrite_file(dir: str, name: str, data: bytes) -> None:
    """Write `data` over the start of a file, in place, creating it if there is none; durable on return."""
    path = join(dir, name)
    created = False
    try:
        fd = open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        created = True
        fd = open_file(dir, name, os.O_WRONLY | os.O_CREAT)
    except OSError as exc:
        raise failure("open", exc) from None
    try:
        write_all(fd, [data])
        sync(fd, data_only=not created)
    except BaseException:
        close(fd)
        raise
    try:
        close(fd)
    except OSError as exc:
        raise failure("close", exc) from None
    if created:
        sync_dir(dir)


def rewrite_file(dir: str, name: str, data: BytesLike) -> None:
    """Write the start of a file again as it was read, and sync it: it is on the disk then, and not only in the cache.

    After a write or sync that failed the kernel may keep content that never reached the disk and takes it for clean, so
    that a sync alone changes nothing. A reader of such content must not act on it before this.
    """
    fd = open_file(dir, name, os.O_WRONLY)
    try:
        write_all(fd, [data])
        sync(fd)
    finally:
        close(fd)


def note_size(fd: int, size: int, refusals: Refusals) -> None:
    """Record, in an attribute of the file that C ignores, that it has `size` bytes, durably so already.

    The note says that this library made the file, and that nobody but a vandal makes it shorter. Where no attributes
    are to be had nothing is recorded.
    """
    if XATTR in refusals:
        return
    try:
        setxattr(fd, SIZE_NOTE, str(size).encode())
    except OSError as exc:
        if refusal.refused(exc):
            refusals.note(XATTR, exc, "fsetxattr")


def noted_size(fd: int, refusals: Refusals) -> int:
    """Return what note_size recorded for the file, 0 if nothing, or if that cannot be read here."""
    try:
        text = getxattr(fd, SIZE_NOTE)
    except OSError as exc:
        if refusal.refused(exc):
            refusals.note(XATTR, exc, "fgetxattr")
        return 0
    return int(text) if text.isdigit() else 0


def _forget_size(fd: int, refusals: Refusals, own: bool) -> bool:
    """Remove the note, durably, before the file is cut. Return whether it is certain that none stands.

    `own` says that this server made the file. The sync is made in any case: an attempt before this one may have removed
    the note and not lived to sync it.
    """
    try:
        getxattr(fd, SIZE_NOTE)
        removexattr(fd, SIZE_NOTE)
    except OSError as exc:
        if refusal.refused(exc):
            refusals.note(XATTR, exc, "fremovexattr")
            return own and refusals.never_noted
        if exc.errno != errno.ENODATA:
            raise failure("removexattr", exc) from None
    sync(fd)
    return True


def _fallocate(fd: int, size: int, refusals: Refusals) -> bool:
    """Allocate the blocks; return False if that is refused."""
    try:
        fallocate(fd, 0, size)
    except OSError as exc:
        if not refusal.refused(exc):
            raise
        refusals.note(FALLOCATE, exc)
        return False
    return True


def _emulate_fallocate(fd: int, size: int) -> None:
    try:
        block = min(os.fstatvfs(fd).f_bsize or 512, 4096)
    except OSError:
        block = 512  # no file system has smaller ones
    offset = (size - 1) % block
    while offset < size:
        pwrite(fd, b"\0", offset)
        offset += block


def allocate_file(dir: str, name: str, size: int, use_fallocate: bool, direct: bool = False) -> int:
    """Create a file of `size` zero bytes and return a descriptor for synchronous writes (O_DSYNC), direct if asked.

    Without fallocate(2) one byte is written per block instead, without O_DIRECT the descriptor goes through the page
    cache: see `refusal`. The directory is left to the caller to sync.
    Errors: RAFT_NOSPACE "not enough space to allocate N bytes", or what `failure` says; no file is left behind.
    """
    path = join(dir, name)
    refusals = refusal.at(dir)
    use_fallocate = use_fallocate and FALLOCATE not in refusals
    fd = open_file(dir, name, O_CREATE_NEW | (os.O_DSYNC if use_fallocate else 0))
    try:
        try:
            if use_fallocate and not _fallocate(fd, size, refusals):
                use_fallocate = False
                close(fd)
                fd = -1
                fd = open_file(dir, name, os.O_WRONLY)
            if not use_fallocate:
                _emulate_fallocate(fd, size)
            sync(fd)
            note_size(fd, size, refusals)
        except OSError as exc:
            if exc.errno in FULL:
                raise Failure(RAFT_NOSPACE, f"not enough space to allocate {size} bytes") from None
            raise failure("posix_allocate", exc) from None
        if not use_fallocate:
            close(fd)
            fd = -1
            fd = open_file(dir, name, os.O_WRONLY | os.O_DSYNC)
        if direct:
            try_direct(fd, refusals)
    except BaseException:
        if fd >= 0:
            close(fd)
        _unlink_quietly(path)
        raise
    return fd


def try_direct(fd: int, refusals: Refusals) -> None:
    """Switch a descriptor to direct I/O. If that is refused, writes go through the page cache."""
    if DIRECT in refusals:
        return
    try:
        set_direct(fd)
    except OSError as exc:
        if not refusal.refused(exc):
            raise failure("fcntl", exc) from None
        refusals.note(DIRECT, exc)


def remove_file(dir: str, name: str) -> None:
    """Unlink a file; not durable before the next sync_dir."""
    try:
        unlink(join(dir, name))
    except OSError as exc:
        raise failure("unlink", exc) from None


def remove_if_there(dir: str, name: str) -> None:
    """Unlink a file if there is one of that name."""
    try:
        unlink(join(dir, name))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise failure("unlink", exc) from None


def rename_file(dir: str, name: str, new_name: str) -> None:
    """Rename a file, replacing what has the new name; not durable before the next sync_dir."""
    try:
        rename(join(dir, name), join(dir, new_name))
    except OSError as exc:
        raise failure("rename", exc) from None


def truncate_file(dir: str, name: str, size: int, own: bool = False) -> None:
    """Cut a file to `size` bytes, durably; `own` if this server made it.

    A note of its size must not outlive the cut: with it the file would be taken for damaged. Where attributes are
    refused and a note may stand, a copy without it takes the file's place.
    """
    fd = open_file(dir, name, os.O_RDWR)
    try:
        if not _forget_size(fd, refusal.at(dir), own):
            replace_file(dir, name, read_exactly(fd, size))
            return
        try:
            ftruncate(fd, size)
        except OSError as exc:
            raise failure("truncate", exc) from None
        sync(fd)
    finally:
        close(fd)


def truncate_and_rename(dir: str, name: str, size: int, new_name: str, own: bool = False) -> None:
    """Cut a file to `size` bytes, durably, then rename it; the directory is left to the caller to sync."""
    truncate_file(dir, name, size, own)
    rename_file(dir, name, new_name)

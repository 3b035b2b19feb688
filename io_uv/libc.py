"""Calls of the C library that the os module does not have, or not in this form.

Duty: `fs` offers them as file_system, links, place and fallocate, so that tests can make them fail.

Failure modes: OSError with the errno of the system call.
"""

import ctypes
import errno
import os
import struct
import sys
from typing import Any, Final

# The interpreter lock is kept: their answers are in memory.
_libc: Final = ctypes.PyDLL(None, use_errno=True)

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_STATX_NLINK: Final = 0x4
_STATX_INO: Final = 0x100
# The number of links in struct statx (256 bytes), behind mask, block size and attributes.
_STATX_LINKS: Final = struct.Struct("<16xI" if sys.byteorder == "little" else ">16xI")
# The inode, and the two halves of the device's number.
_STATX_IDENTITY: Final = struct.Struct("<32xQ96xII" if sys.byteorder == "little" else ">32xQ96xII")
_STATX_PLACE: Final = _STATX_INO | _STATX_NLINK
# Absent before glibc 2.28.
_statx: Final[Any] = getattr(_libc, "statx", None)
# A path may lead to where the system has to wait, so this gives the interpreter lock up, as os.stat does.
_statx_path: Final[Any] = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def _find_fallocate() -> Any:
    # CDLL, as a call that waits must not hold the interpreter lock.
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call


_fallocate: Final = _find_fallocate()


def _check(rv: int) -> None:
    if rv != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fstatfs_type(fd: int) -> int:
    """Return the type of the file system that a file is on, as fstatfs(2) has it (TMPFS_MAGIC and so on)."""
    # struct statfs begins with the type, a long; the rest takes less than 256 bytes everywhere.
    buf = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(fd, buf))
    return ctypes.c_ulong.from_buffer(buf).value


def fallocate(fd: int, offset: int, size: int) -> None:
    """fallocate(2). posix_fallocate(3) hides that it is not supported: it writes to every block, synced each time."""
    if _fallocate is None:
        os.posix_fallocate(fd, offset, size)
        return
    while _fallocate(fd, 0, offset, size) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def links(fd: int) -> int:
    """Return the number of names that a file has, by statx(2) asked for nothing else.

    After an fstat(2) the next write has to change the file's times, as somebody has seen them (Linux 6.13 and newer);
    with one between any two, durable writes of 4 KiB on ext4 were seen to take half as long again.
    """
    if _statx is None:
        return os.fstat(fd).st_nlink
    buf = ctypes.create_string_buffer(256)
    _check(_statx(fd, b"", _AT_EMPTY_PATH, _STATX_NLINK, buf))
    found: int = _STATX_LINKS.unpack_from(buf)[0]
    return found


class Place:
    """An open file and the path that it was opened by: `leads` says whether that still leads to it, by one statx(2).

    For a file with several names the answer is no: the path may be in another directory by now, which links to the same
    file. As in `links`, writes are not made slower. Both raise OSError if that cannot be told, ENOSYS without statx.
    """

    __slots__ = ("_args", "_buf", "_identity")

    def __init__(self, fd: int, path: str) -> None:
        if _statx is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._buf = ctypes.create_string_buffer(256)
        _check(_statx(fd, b"", _AT_EMPTY_PATH, _STATX_INO, self._buf))
        self._identity = _STATX_IDENTITY.unpack_from(self._buf)
        self._args = (_AT_FDCWD, os.fsencode(path), 0, _STATX_PLACE, self._buf)

    def leads(self) -> bool:
        """Return whether the path leads to the file, and no other path does."""
        if _statx_path(*self._args) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if _STATX_LINKS.unpack_from(self._buf)[0] != 1:
            return False
        return _STATX_IDENTITY.unpack_from(self._buf) == self._identity

"""The files that an operator gives to TLS: reading them once, and handing on what was read.

Duty: `read` returns the bytes of a certificate, key or list; `in_memory` gives bytes a path for the few moments in
which OpenSSL, which takes nothing but paths for keys and revocation lists, reads them. So each file is read once, and
what was judged is what is used, also if it is replaced meanwhile.

Happy path: a file in memory alone (memfd), reached through /proc. Where that is refused, a temporary file that nobody
else can read.

Failure modes: Failure(RAFT_INVALID) with the reason of the system. A file that others may change is used, and the
logger is told, as it is of a key that others may read.
"""

import contextlib
import logging
import os
import select
import stat
import tempfile
from collections.abc import Iterator
from typing import Final

from io_uv import fs
from io_uv.failure import Failure, failure
from pyraft.errors import RAFT_INVALID

_log: Final = logging.getLogger("io_uv")

_LARGEST: Final = 16 * 1024 * 1024
"""A revocation list of 400,000 certificates has this size."""
_PATIENCE_MSECS: Final = 1000
"""For the loop stands still meanwhile."""


def read(path: str, secret: bool = False) -> bytes:
    """Return the content of a file, symbolic links followed; `secret` if nobody else should be able to read it."""
    data, status = _look(path)
    warn_of_access(path, status, secret)
    return data


def peek(path: str) -> bytes:
    """Return what `read` would, and say nothing of who else may read or write the file."""
    return _look(path)[0]


def _look(path: str) -> tuple[bytes, os.stat_result]:
    try:
        # Without O_NONBLOCK opening a FIFO would wait for ever for whoever is at its other end.
        fd = fs.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as exc:
        raise failure("open", exc, RAFT_INVALID) from None
    try:
        status = fs.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size > _LARGEST:
            raise Failure(RAFT_INVALID, f"{status.st_size} bytes, more than {_LARGEST}")
        data = _read_all(fd)
    except OSError as exc:
        raise failure("read", exc, RAFT_INVALID) from None
    finally:
        fs.close(fd)
    return data, status


def _read_all(fd: int) -> bytes:
    parts = []
    size = 0
    while data := _read(fd):
        parts.append(data)
        size += len(data)
        if size > _LARGEST:
            raise Failure(RAFT_INVALID, f"more than {_LARGEST} bytes")
    return b"".join(parts)


def _read(fd: int) -> bytes:
    """Read on; a pipe, such as the shell makes for the output of a program, is given some time."""
    while True:
        try:
            return fs.read(fd, fs.CHUNK)
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(_PATIENCE_MSECS):
                raise Failure(RAFT_INVALID, f"nothing to read in {_PATIENCE_MSECS} ms") from None


def others_may_write(status: os.stat_result) -> bool:
    """Return whether somebody else than the owner may write a file, or into a directory where all may remove all."""
    mode = status.st_mode
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    return mode & (stat.S_IWGRP | stat.S_IWOTH) != 0 and not sticky


def warn_of_access(path: str, status: os.stat_result, secret: bool = False) -> None:
    """Tell the logger if others than the owner may write a file or directory, or read one that is secret."""
    mode = status.st_mode
    if others_may_write(status):
        _log.warning("%s may be written by others (mode %03o)", path, stat.S_IMODE(mode))
    elif secret and mode & stat.S_IROTH:
        _log.warning("%s, which is secret, may be read by everybody (mode %03o)", path, stat.S_IMODE(mode))


@contextlib.contextmanager
def in_memory(data: bytes) -> Iterator[str]:
    """Give `data` a path that leads to it until the end of the block."""
    try:
        fd = os.memfd_create("raft", os.MFD_CLOEXEC)
    except (OSError, AttributeError):
        fd = -1
    path = f"/proc/self/fd/{fd}"
    try:
        if fd >= 0 and os.path.exists(path):
            fs.write_all(fd, [data])
            yield path
            return
    finally:
        if fd >= 0:
            fs.close(fd)
    with tempfile.NamedTemporaryFile(prefix="raft-") as file:
        file.write(data)
        file.flush()
        yield file.name

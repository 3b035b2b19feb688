"""How an operation of io_uv fails: a RAFT_* code and a text.

Duty: `Failure`, the exception inside io_uv, and `failure`, the one place where an OSError becomes one. The texts are
those of libuv: the call, a colon, what is the matter in lower case ("open: no such file or directory").

Failure modes: none. A Failure never crosses the RaftIo table: its functions return the code and leave the text there.
"""

import errno
import logging
import os
from typing import Final

from pyraft.errors import RAFT_IOERR, RAFT_NOMEM, RAFT_NOSPACE, escape_record

# Here, as every module of io_uv comes by: nothing that others have said reaches the log as it is.
logging.getLogger("io_uv").addFilter(escape_record)

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""Errors of system calls when the disk or a quota is used up."""

# libuv's texts where they differ from the lower-cased ones of the C library.
_TEXTS: Final = {
    errno.EBUSY: "resource busy or locked",
    errno.EEXIST: "file already exists",
    errno.EFAULT: "bad address in system call argument",
    errno.EIO: "i/o error",
    errno.EISDIR: "illegal operation on a directory",
    errno.ELOOP: "too many symbolic links encountered",
    errno.ENAMETOOLONG: "name too long",
    errno.ENFILE: "file table overflow",
    errno.ENOMEM: "not enough memory",
    errno.ENOTSUP: "operation not supported on socket",
    errno.ESPIPE: "invalid seek",
    errno.ETXTBSY: "text file is busy",
    errno.EXDEV: "cross-device link not permitted",
}


class Failure(Exception):
    """An operation of io_uv that failed: a RAFT_* code and a text for `RaftIo.errmsg`. It never crosses that table."""

    __slots__ = ("code", "message")

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def wrap(self, prefix: str) -> "Failure":
        """Return a new one with "prefix: " in front of the text."""
        return self.__class__(self.code, f"{prefix}: {self.message}" if self.message else prefix)

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"


class Unknown(Failure):
    """Content of a kind that this version does not know, which does not make it damaged.

    It may be a later version's, so nothing is set aside, passed over or repaired for it, but the start refused.
    """

    __slots__ = ()


def message_of(exc: Exception) -> str:
    """Return what to say of a Failure, or of another exception that was caught beside it."""
    return exc.message if isinstance(exc, Failure) else str(exc)


_FORMATS: Final = 256
"""Format numbers are small. Other words where one should be are damage."""


def unknown_format(format: int, code: int, message: str) -> Failure:
    """Return the Failure for a format word that is not the one that is known."""
    return Unknown(code, message) if 0 < format < _FORMATS else Failure(code, message)


def strerror(exc: OSError) -> str:
    """Return libuv's text for the error."""
    number = exc.errno or 0
    return _TEXTS.get(number) or os.strerror(number).lower()


def failure(call: str, exc: BaseException, code: int = RAFT_IOERR) -> Failure:
    """Return the Failure for an exception of the system call `call`.

    RAFT_NOMEM for a MemoryError, RAFT_NOSPACE instead of RAFT_IOERR if there is no space, else `code`.
    """
    if isinstance(exc, MemoryError):
        return Failure(RAFT_NOMEM, "out of memory")
    if isinstance(exc, OSError):
        if code == RAFT_IOERR and exc.errno in FULL:
            # C: uv_fs.c has RAFT_IOERR unless posix_fallocate fails. On a full XFS open does, or removexattr.
            code = RAFT_NOSPACE
        return Failure(code, f"{call}: {strerror(exc)}")
    return Failure(code, f"{call}: {exc}")

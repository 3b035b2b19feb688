"""Descriptor: a pipe or terminal in the place of a stream's socket.

Duty: the methods of a socket that streams call (recv, recv_into, send, sendmsg, fileno, setblocking, close), on a
descriptor of another kind: one end of `os.pipe`, a FIFO, a terminal; so on what standard input and output usually are.

Failure modes: OSError from each, as from a socket, ENOTSOCK from what only sockets can do; the end of input is an empty
read. A regular file cannot be polled, so `Pipe.open` refuses it. Writing to a pipe without a reader raises SIGPIPE,
which Python ignores: EPIPE.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from typing import Any


class Descriptor:
    """Owns `fd` and reads and writes it as a socket would."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, -1 when it has been closed."""
        return self._fd

    def setblocking(self, enable: bool) -> None:
        """Choose whether reads and writes wait."""
        os.set_blocking(self._fd, enable)

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        return os.read(self._fd, size)

    def recv_into(self, buffer: Any) -> int:
        """Read into a buffer; return how many bytes."""
        return os.readv(self._fd, [buffer])

    def send(self, data: Any, flags: int = 0) -> int:
        """Write what the system takes; return how many bytes."""
        return os.write(self._fd, data)

    def sendmsg(self, buffers: Sequence[Any], ancillary: Any = (), flags: int = 0) -> int:
        """Write what the system takes of several buffers; return how many bytes."""
        return os.writev(self._fd, list(buffers))

    def _not_a_socket(self, *_: Any) -> Any:
        raise OSError(errno.ENOTSOCK, "Socket operation on non-socket")

    shutdown = getsockname = getpeername = getsockopt = setsockopt = recvmsg = _not_a_socket

    def close(self) -> None:
        """Give the descriptor back. Again: nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def is_stream(fd: int) -> bool:
    """Whether a descriptor is a pipe or a character device, which can be polled and is not a socket."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def directions(fd: int) -> tuple[bool, bool]:
    """Whether a descriptor is open for reading, and for writing."""
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    return mode != os.O_WRONLY, mode != os.O_RDONLY

"""Pipe: a local (Unix domain) socket as a stream, which can also pass handles between processes.

Duty: `Pipe(loop, ipc)` with bind, listen, accept, connect, open and the names of both ends. A name is a path, or begins
with a NUL for Linux's abstract namespace. bind makes the file and close removes it.

With `ipc` a TCP or Pipe handle can be sent along with data (`write(data, callback, handle)`): the receiver's read
callback sees `pending_handle_type()` and takes it with `accept`. Handles and data arrive in order, handles not later
than the data they were sent with.

Failure modes: PipeError with the system's code; connect reports everything to its callback, as libuv does. At most 64
handles wait to be accepted; all that a peer sends beyond is closed.
"""

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, cast

from io_uv.pyuv import errno, error
from io_uv.pyuv.descriptor import Descriptor, directions, is_stream
from io_uv.pyuv.endpoint import Endpoint, Socket
from io_uv.pyuv.handle import check_callback, closed_error
from io_uv.pyuv.loop import Loop
from io_uv.pyuv.stream import IOV_MAX, READ_SIZE, Buffer, Stream, _buffers, _Write
from io_uv.pyuv.tcp import TCP

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

UV_UNKNOWN_HANDLE: Final = 0
UV_NAMED_PIPE: Final = 7
UV_TCP: Final = 12

_PENDING_LIMIT: Final = 64
_PATH_LIMIT: Final = 107  # bytes of sockaddr_un.sun_path, less the NUL


class Pipe(Stream):
    """`Pipe(loop, ipc=False)`: a Unix domain socket; with `ipc` handles can be passed through it."""

    __slots__ = ("_ipc", "_path", "_received")

    _error: ClassVar[type[error.UVError]] = error.PipeError

    def __init__(self, loop: Loop, ipc: bool = False) -> None:
        if not isinstance(ipc, bool):
            raise TypeError("ipc must be a bool")
        self._ipc = ipc
        self._path: bytes | None = None  # of the file that bind has made
        self._received: deque[socket.socket] = deque()
        super().__init__(loop)

    @property
    def ipc(self) -> bool:
        """Whether handles can be passed."""
        return self._ipc

    def bind(self, name: str | bytes) -> None:
        """Bind to a name. A path must not exist."""
        if self._closed:
            raise closed_error()
        path = os.fsencode(name)
        if self._path is not None:
            raise self._fail(errno.UV_EINVAL)
        if len(path) > _PATH_LIMIT:
            raise self._fail(errno.UV_ENAMETOOLONG)
        try:
            self._make_socket().bind(path)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None
        if path[:1] != b"\0":
            self._path = path

    def connect(self, name: str | bytes, callback: "Callable[[Self, int | None], object]") -> None:
        """Connect to a name; `callback(pipe, error)` says how it ended."""
        if self._closed:
            raise closed_error()
        check_callback(callback)
        path = os.fsencode(name)
        if len(path) > _PATH_LIMIT:  # which Python would report without a number
            self._delayed_error = errno.UV_ENAMETOOLONG
        self._start_connect(self._make_socket(), path, callback)

    def open(self, fd: int) -> None:
        """Take over a descriptor, which this handle then closes: a Unix stream socket, a pipe's end or a terminal.

        Raises UV_EINVAL for anything else, UV_EBADF for no descriptor, UV_EBUSY if the handle has one already.
        """
        if self._closed:
            raise closed_error()
        try:
            plain = is_stream(fd)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None
        if not plain:
            self._open(fd, (socket.AF_UNIX,))
            return
        readable, writable = directions(fd)
        self._take(cast(socket.socket, Descriptor(fd)))
        self._readable, self._writable = readable, writable

    def accept(self, client: Endpoint) -> None:
        """Move the pending connection, or the first handle that was passed, to `client`, a fresh TCP or Pipe."""
        if self._closed:
            raise closed_error()
        if not isinstance(client, TCP | Pipe):
            raise TypeError("Only TCP and Pipe objects are supported for accept")
        if self._listen_cb is not None or not self._ipc:
            super().accept(client)
            return
        if not self._received:
            raise self._fail(errno.UV_EAGAIN)
        client._take(self._received[0])
        self._received.popleft()

    def pending_handle_type(self) -> int:
        """Kind of the handle that `accept` would take next: UV_TCP, UV_NAMED_PIPE, or UV_UNKNOWN_HANDLE for none."""
        if not self._received:
            return UV_UNKNOWN_HANDLE if self._accepted is None else UV_NAMED_PIPE
        return UV_NAMED_PIPE if self._received[0].family == socket.AF_UNIX else UV_TCP

    def pending_instances(self, count: int) -> None:
        """Windows only; does nothing, as in libuv elsewhere."""
        if self._closed:
            raise closed_error()
        int(count)

    def getsockname(self) -> str:
        """The name bound to, "" for none."""
        try:
            return _decode(self._socket().getsockname())
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def getpeername(self) -> str:
        """The name that the other end is bound to. Raises UV_ENOTCONN without another end."""
        try:
            return _decode(self._socket().getpeername())
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def write(
        self,
        data: Buffer | Sequence[Buffer],
        callback: "Callable[[Self, int | None], object] | None" = None,
        handle: Stream | None = None,
    ) -> None:
        """As Stream.write; with `handle`, a TCP or Pipe of this process, a copy of it is passed to the other end.

        Raises UV_EINVAL for a handle on a pipe without ipc, and for one without a socket UV_EBADF.
        """
        if handle is None:
            super().write(data, callback)
            return
        if self._closed:
            raise closed_error()
        if callback is not None and not callable(callback):
            raise TypeError("'callback' must be a callable or None")
        if not isinstance(handle, TCP | Pipe):
            raise TypeError("Only TCP and Pipe objects are supported")
        if not self._ipc:
            raise self._fail(errno.UV_EINVAL)
        self._writable_socket()
        buffers = _buffers(data)
        total = sum(map(len, buffers))
        if not total:
            raise ValueError("a handle is sent with one byte at least")
        write = _Write(deque(buffers), total, callback)
        # A copy: the caller may close the handle before the system has taken it.
        write.handles.append(os.dup(handle.fileno()))
        self._enqueue(write)

    def _receive(self, sock: socket.socket) -> bytes:
        if not self._ipc:
            return sock.recv(READ_SIZE)
        fds = array.array("i")
        data, ancillary, _, _ = sock.recvmsg(READ_SIZE, socket.CMSG_SPACE(_PENDING_LIMIT * fds.itemsize))
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        for fd in fds:
            self._keep(fd)
        return data

    def _keep(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        if len(self._received) < _PENDING_LIMIT:
            try:
                self._received.append(Socket(fileno=fd))
            except OSError:  # not a socket
                os.close(fd)
        else:
            os.close(fd)

    def _send_queued(self, sock: socket.socket, write: _Write) -> int:
        if not write.handles:
            return super()._send_queued(sock, write)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", write.handles))
        sent = sock.sendmsg(list(write.buffers)[:IOV_MAX], [rights], socket.MSG_NOSIGNAL)
        _close_all(write.handles)
        return sent

    def _finish_write(self, code: int | None) -> None:
        _close_all(self._queue[0].handles)
        super()._finish_write(code)

    def _make_socket(self) -> socket.socket:
        if self._sock is None:
            try:
                self._sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as exc:
                raise self._fail(errno.from_os_error(exc)) from None
        return self._sock

    def _release(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            # Before the socket is closed: afterwards the name may be another server's.
            with contextlib.suppress(OSError):
                os.unlink(path)
        while self._received:
            self._received.popleft().close()
        super()._release()

    def _forked(self, usable: bool) -> None:
        self._path = None  # the parent's
        super()._forked(usable)

    def _drop(self) -> None:
        while self._received:
            self._received.popleft().close()
        while self._queue:
            _close_all(self._queue.popleft().handles)
        super()._drop()


def _decode(name: str | bytes) -> str:
    return os.fsdecode(name)


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())

"""Endpoint: the socket under a stream, and how it comes to be connected.

Duty: `listen`, `accept` and `connect` of TCP and Pipe, the socket's options, and the watching of its descriptor, on
which reads and writes (`io_uv.pyuv.stream`) are built.

A connection: the listener becomes readable, one connection is accepted and told of, `accept` moves it to a handle of
the caller. Until then no other is taken. The other way: `connect`, the socket becomes writable, the callback.

Failure modes: a failure after the call goes to the callback. No descriptor left for a connection: the listener's
callback gets the code (UV_EMFILE), and the connection, which waits in the system, is tried again 100 ms later.
"""

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from io_uv.pyuv import errno, error
from io_uv.pyuv.handle import Handle, check_callback, closed_error, nothing
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

StatusCallback = Callable[[Any, "int | None"], object]

ACCEPTS_PER_TURN: Final = 64
ACCEPT_PAUSE: Final = 0.1


class Socket(socket.socket):
    """A socket that closes itself without the standard library's ResourceWarning: a handle that is forgotten closes
    itself, by design, and of a forgotten cycle the socket may be taken down first.
    """

    __slots__ = ()

    def __del__(self) -> None:
        if self.fileno() >= 0:  # else closed, or never made
            self.close()


class Endpoint(Handle):
    """Base of Stream: a handle with a socket."""

    __slots__ = (
        "_accept_timer",
        "_accepted",
        "_connect_cb",
        "_delayed_error",
        "_listen_cb",
        "_polling",
        "_readable",
        "_sock",
        "_writable",
        "_writer",
    )

    _error: ClassVar[type[error.UVError]] = error.StreamError

    def __init__(self, loop: Loop) -> None:
        self._sock: socket.socket | None = None
        self._delayed_error = 0  # of bind or connect, reported by what follows, as libuv does
        self._readable = False
        self._writable = False
        # Watching: _polling while the reader is armed (reads or connections), _writer while the writer is.
        self._polling = False
        self._writer = False
        self._listen_cb: StatusCallback | None = None
        self._accepted: socket.socket | None = None
        self._accept_timer: Any = None
        self._connect_cb: StatusCallback | None = None
        super().__init__(loop)

    # State.

    @property
    def readable(self) -> bool:
        """Whether the stream is connected, or being connected."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether the stream is connected, or being connected, and not shut down."""
        return self._writable

    @property
    def send_buffer_size(self) -> int:
        """The socket's send buffer in bytes; Linux reports twice what was set."""
        return self._buffer_size(socket.SO_SNDBUF)

    @send_buffer_size.setter
    def send_buffer_size(self, value: int) -> None:
        self._set_buffer_size(socket.SO_SNDBUF, value)

    @property
    def receive_buffer_size(self) -> int:
        """The socket's receive buffer in bytes; Linux reports twice what was set."""
        return self._buffer_size(socket.SO_RCVBUF)

    @receive_buffer_size.setter
    def receive_buffer_size(self, value: int) -> None:
        self._set_buffer_size(socket.SO_RCVBUF, value)

    def fileno(self) -> int:
        """The socket's descriptor, for looking at. Raises UV_EBADF while there is no socket."""
        return self._socket().fileno()

    def set_blocking(self, enable: bool) -> None:
        """Make writes wait until the system has taken them. For pipes to a terminal; stops the loop meanwhile."""
        self._socket().setblocking(bool(enable))

    # Connections.

    def listen(self, callback: "Callable[[Self, int | None], object]", backlog: int = 511) -> None:
        """Call `callback(stream, error)` for each incoming connection, which `accept` then takes.

        No further one is reported until it is taken. On an error (no descriptors left, for example) the connection
        waits in the system and is tried again 100 ms later. Raises what a bind that failed has put off.
        """
        if self._closed:
            raise closed_error()
        check_callback(callback)
        if backlog < 0:
            raise ValueError("backlog must be bigger than 0")
        if self._delayed_error:
            raise self._fail(self._delayed_error)
        sock = self._listen_socket()
        try:
            sock.listen(backlog)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None
        self._listen_cb = callback
        if self._accepted is None and self._accept_timer is None:
            self._poll(True)
        self._activate()

    def accept(self, client: "Endpoint") -> None:
        """Move the connection that the listen callback told of to `client`, a fresh stream of the same kind.

        Raises UV_EAGAIN if there is none, UV_EBUSY if client has a socket already.
        """
        if self._closed:
            raise closed_error()
        if not isinstance(client, Endpoint):
            raise TypeError("Only stream objects are supported for accept")
        sock = self._accepted
        if sock is None:
            raise self._fail(errno.UV_EAGAIN)
        client._take(sock)
        self._accepted = None
        if self._listen_cb is not None:
            self._poll(True)

    def _on_connection(self) -> None:
        sock = self._sock
        assert sock is not None
        for _ in range(ACCEPTS_PER_TURN):
            code: int | None = None
            try:
                self._accepted = _accept(sock)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                code = errno.from_os_error(exc)
                self._pause_accepting()
            callback = self._listen_cb
            assert callback is not None
            try:
                callback(self, code)
            except BaseException:
                self._loop._uncaught()
            if code is not None or self._closed:
                return
            if self._accepted is not None:
                self._poll(False)  # until accept() is called
                return

    def _pause_accepting(self) -> None:
        # The connection stays in the backlog, so the socket stays readable: polling on would only spin.
        self._poll(False)
        self._accept_timer = self._loop._uv.call_later(ACCEPT_PAUSE, self._loop._enter, self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._accept_timer = None
        if self._accepted is None:
            self._poll(True)

    def _start_connect(self, sock: socket.socket, address: Any, callback: StatusCallback) -> None:
        """Begin to connect; all that comes of it reaches the callback."""
        if self._connect_cb is not None:
            raise self._fail(errno.UV_EALREADY)
        code = self._delayed_error
        self._delayed_error = 0
        if not code:
            try:
                code = -sock.connect_ex(address)
            except OSError as exc:
                code = errno.from_os_error(exc)
        self._connect_cb = callback
        self._readable = self._writable = True
        self._settle()
        if code == errno.UV_EINPROGRESS:
            self._arm_writer(True)
        else:
            self._loop._defer(self._connected, code)

    def _finish_connect(self) -> None:
        assert self._sock is not None
        code = -self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code != errno.UV_EINPROGRESS:
            self._connected(code)

    def _connected(self, code: int) -> None:
        callback = self._connect_cb
        if callback is None:  # closed meanwhile
            return
        self._connect_cb = None
        self._arm_writer(False)
        self._readable = self._writable = not code
        self._begin(code)
        self._settle()
        try:
            callback(self, code or None)
        except BaseException:
            self._loop._uncaught()
        if not code and self._sock is not None:
            self._go_on()

    # The socket.

    def _fail(self, code: int) -> error.UVError:
        return error.make(self._error, code)

    def _socket(self) -> socket.socket:
        if self._closed:
            raise closed_error()
        if self._sock is None:
            raise self._fail(errno.UV_EBADF)
        return self._sock

    def _listen_socket(self) -> socket.socket:
        return self._socket()

    def _take(self, sock: socket.socket) -> None:
        """Become the owner of a connected socket."""
        if self._closed:
            raise closed_error()
        if self._sock is not None:
            raise self._fail(errno.UV_EBUSY)
        sock.setblocking(False)
        self._sock = sock
        self._readable = self._writable = True

    def _open(self, fd: int, families: tuple[int, ...]) -> None:
        if self._closed:
            raise closed_error()
        if self._sock is not None:
            raise self._fail(errno.UV_EBUSY)
        try:
            sock = Socket(fileno=fd)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None
        if sock.family not in families or sock.type != socket.SOCK_STREAM:
            sock.detach()
            raise self._fail(errno.UV_EINVAL)
        self._take(sock)

    def _buffer_size(self, option: int) -> int:
        try:
            return self._socket().getsockopt(socket.SOL_SOCKET, option)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def _set_buffer_size(self, option: int, value: int) -> None:
        try:
            self._socket().setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def _poll(self, enable: bool) -> None:
        if enable != self._polling:
            assert self._sock is not None
            # If this is interrupted, a socket that is watched passes for one, and is let go when it ends.
            if enable:
                self._polling = True
                self._loop._uv.add_reader(self._sock.fileno(), self._loop._enter, self._on_readable)
            else:
                self._loop._uv.remove_reader(self._sock.fileno())
                self._polling = False

    def _arm_writer(self, enable: bool) -> None:
        if enable != self._writer:
            assert self._sock is not None
            if enable:
                self._writer = True
                self._loop._uv.add_writer(self._sock.fileno(), self._loop._enter, self._on_writable)
            else:
                self._loop._uv.remove_writer(self._sock.fileno())
                self._writer = False

    def _settle(self) -> None:
        """Requests have come or gone: keep the loop and this handle alive while there are any."""
        busy = self._connect_cb is not None or self._has_requests()
        if busy == self._busy:
            return
        self._busy = busy
        if busy:
            self._loop._strong.add(self)
            self._loop._retain()
        else:
            if not self._active and not self._closed:
                self._loop._strong.discard(self)
            self._loop._release()

    def _release(self) -> None:
        self._readable = self._writable = False
        self._listen_cb = None
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            accepted.close()
        sock = self._sock
        if sock is not None:
            try:
                self._poll(False)
                self._arm_writer(False)
            finally:
                self._sock = None
                sock.close()
        if self._connect_cb is not None:
            self._loop._defer(self._connect_cb, self, errno.UV_ECANCELED)
            self._connect_cb = None
        self._cancel_requests()
        self._settle()

    def mute(self) -> None:
        """Handle.mute."""
        super().mute()
        for name in ("_connect_cb", "_listen_cb"):
            if getattr(self, name) is not None:
                setattr(self, name, nothing)

    def _mend(self) -> None:
        super()._mend()
        if self._closed or self._sock is None:
            return
        # Set where it is: a poll that was noted may not have been armed, or the other way round.
        for watched, watch in ((self._polling, self._poll), (self._writer, self._arm_writer)):
            watch(not watched)
            watch(watched)
        if self._accepted is not None and self._listen_cb is not None:
            self._accepted.close()  # the callback that was to take it is not called any more
            self._accepted = None
            self._poll(True)
        self._busy = self._connect_cb is not None or self._has_requests()
        if self._busy:
            self._loop._strong.add(self)

    def _drop(self) -> None:
        for sock in (self._accepted, self._sock):
            if sock is not None:
                sock.close()
        self._accepted = self._sock = None

    def _descriptors(self) -> Iterable[int]:
        return () if self._sock is None else (self._sock.fileno(),)

    # Stream adds these.

    def _on_readable(self) -> None:
        raise NotImplementedError

    def _on_writable(self) -> None:
        raise NotImplementedError

    def _begin(self, code: int) -> None:
        """Connected, or not: before the callback is told."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Connected: after the callback was told."""
        raise NotImplementedError

    def _has_requests(self) -> bool:
        raise NotImplementedError

    def _cancel_requests(self) -> None:
        raise NotImplementedError


def _accept(listener: socket.socket) -> Socket:
    sock, _ = listener.accept()
    return Socket(sock.family, sock.type, sock.proto, sock.detach())

"""Stream: reads and queued writes on the non-blocking socket of a TCP or Pipe.

Duty: `start_read`, `start_read_into`, `write`, `write_now`, `try_write`, `shutdown`.

Writes: the data are sent at once when nothing is queued; all that the system does not take is queued as views on the
caller's buffers (not to be changed before the callback) and sent when the socket is writable again, as many buffers per
call as the system takes. Several buffers are joined below 64 KiB and gathered with sendmsg above; nothing large is ever
copied. The callback comes from a later part of the loop's turn, never inside write().

Reads: `start_read` hands out bytes of up to 64 KiB. `start_read_into`, an addition for large payloads, reads into a
buffer that the caller supplies. Both read on while the system fills what they offer, 32 times at most.

Failure modes: a call that cannot be begun raises the handle's exception (TCPError, PipeError); all that fails later is
a code in the callback, a failed write included. At the end of the stream or at an error reading stops, and the
callback gets UV_EOF or the code.
"""

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from io_uv.pyuv import errno
from io_uv.pyuv.endpoint import Endpoint, StatusCallback
from io_uv.pyuv.handle import check_callback, closed_error, nothing
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

Buffer = bytes | bytearray | memoryview
AllocCallback = Callable[[Any, int], "bytearray | memoryview"]

READ_SIZE: Final = 65536
JOIN_LIMIT: Final = 65536
READS_PER_TURN: Final = 32
IOV_MAX: Final = 1024


class _Write:
    """The rest of a write that the system has not taken whole."""

    __slots__ = ("buffers", "callback", "handles", "left")

    def __init__(self, buffers: deque[Buffer], left: int, callback: StatusCallback | None) -> None:
        self.buffers = buffers
        self.left = left
        self.callback = callback
        self.handles: list[int] = []  # descriptors to pass along with the first byte (Pipe)


class Stream(Endpoint):
    """Base of TCP and Pipe. Not to be instantiated itself."""

    __slots__ = ("_alloc_cb", "_queue", "_queue_size", "_read_cb", "_shutdown_cb", "_shutting")

    def __init__(self, loop: Loop) -> None:
        self._read_cb: Any = None
        self._alloc_cb: AllocCallback | None = None
        self._queue: deque[_Write] = deque()
        self._queue_size = 0
        self._shutting = False
        self._shutdown_cb: StatusCallback | None = None
        super().__init__(loop)

    @property
    def write_queue_size(self) -> int:
        """Bytes of writes that the system has not taken yet."""
        return self._queue_size

    # Reading.

    def start_read(self, callback: "Callable[[Self, bytes | None, int | None], object]") -> None:
        """Call `callback(stream, data, error)` with each piece that arrives, as bytes, until `stop_read`.

        `data` is None when `error` is not: UV_EOF at the end, another code when reading failed; reading has stopped
        then. Raises UV_ENOTCONN on a stream that is not connected. A started read gets the new callback.
        """
        self._start_read(callback, None)

    def start_read_into(
        self,
        alloc: "Callable[[Self, int], bytearray | memoryview]",
        callback: "Callable[[Self, int | None, int | None], object]",
    ) -> None:
        """Like start_read, into buffers of the caller (an addition to pyuv).

        Before each read `alloc(stream, suggested_size)` returns a writable buffer of 1 or more bytes; then
        `callback(stream, n, error)` says how many bytes of it were filled, from its start. `n` is None when `error`
        is not. An exception from `alloc`, or an empty buffer (UV_ENOBUFS), stops reading.
        """
        check_callback(alloc)
        self._start_read(callback, alloc)

    def _start_read(self, callback: Any, alloc: AllocCallback | None) -> None:
        if self._closed:
            raise closed_error()
        check_callback(callback)
        if not self._readable:
            raise self._fail(errno.UV_ENOTCONN)
        self._read_cb = callback
        self._alloc_cb = alloc
        if self._connect_cb is None:
            self._poll(True)
        self._activate()

    def stop_read(self) -> None:
        """Stop reading. Later bytes wait in the system. Nothing happens if reading has not been started."""
        if self._closed:
            raise closed_error()
        self._stop_reading()

    def _stop_reading(self) -> None:
        if self._read_cb is not None:
            self._read_cb = self._alloc_cb = None
            self._poll(False)
            self._deactivate()

    def _on_readable(self) -> None:
        loop = self._loop
        if loop._watched:
            loop._woke()
        if self._listen_cb is not None:
            self._on_connection()
        elif self._alloc_cb is not None:
            self._read_into()
        else:
            self._read()

    def _read(self) -> None:
        sock = self._sock
        assert sock is not None
        for _ in range(READS_PER_TURN):
            try:
                data = self._receive(sock)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._end_read(errno.from_os_error(exc))
                return
            if not data:
                self._end_read(errno.UV_EOF)
                return
            try:
                self._read_cb(self, data, None)
            except BaseException:
                self._loop._uncaught()
            if len(data) < READ_SIZE or self._read_cb is None or self._alloc_cb is not None:
                return

    def _receive(self, sock: socket.socket) -> bytes:
        return sock.recv(READ_SIZE)

    def _read_into(self) -> None:
        sock = self._sock
        assert sock is not None
        for _ in range(READS_PER_TURN):
            alloc = self._alloc_cb
            if alloc is None or self._read_cb is None:
                return
            try:
                buffer = alloc(self, READ_SIZE)
                size = len(buffer)
            except BaseException:
                self._stop_reading()
                self._loop._uncaught()
                return
            if not size:
                self._end_read(errno.UV_ENOBUFS)
                return
            try:
                n = sock.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._end_read(errno.from_os_error(exc))
                return
            if not n:
                self._end_read(errno.UV_EOF)
                return
            try:
                self._read_cb(self, n, None)
            except BaseException:
                self._loop._uncaught()
            if n < size:
                return

    def _end_read(self, code: int) -> None:
        callback = self._read_cb
        self._stop_reading()
        try:
            callback(self, None, code)
        except BaseException:
            self._loop._uncaught()

    # Writing.

    def write(
        self, data: Buffer | Sequence[Buffer], callback: "Callable[[Self, int | None], object] | None" = None
    ) -> None:
        """Send data, a bytes-like object or a sequence of them; `callback(stream, error)` when the system has all.

        Buffers must not be changed before. Data written while a connection is being made follow it. A write that
        fails, or that a close cuts off (UV_ECANCELED), says so in its callback. Raises TypeError for anything else,
        ValueError for an empty sequence, UV_EBADF before there is a socket, UV_EPIPE after shutdown.
        """
        if self._closed:
            raise closed_error()
        if callback is not None and not callable(callback):
            raise TypeError("'callback' must be a callable or None")
        self._write(data, callback)

    def write_now(
        self, data: Buffer | Sequence[Buffer], callback: "Callable[[Self, int | None], object] | None" = None
    ) -> bool:
        """Like write, but return True, and never call back, if the system takes all at once (an addition to pyuv)."""
        if self._closed:
            raise closed_error()
        if callback is not None and not callable(callback):
            raise TypeError("'callback' must be a callable or None")
        sock = self._sock
        if type(data) is list and len(data) == 2 and type(data[0]) is type(data[1]) is bytes:
            # A head and what it is about, as most writes are: joined without a further call, where that is little.
            first, second = data
            if len(first) + len(second) < JOIN_LIMIT:
                data = first + second
        if (
            type(data) is bytes
            and data
            and sock is not None
            and self._writable
            and not self._queue
            and self._connect_cb is None
        ):
            # _write, where the system takes all at once.
            try:
                sent = sock.send(data, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                if callback is not None:
                    self._loop._defer(callback, self, errno.from_os_error(exc))
                return False
            if sent == len(data):
                return True
            write = _Write(deque((data,)), len(data), callback)
            _consume(write, sent)
            self._enqueue(write)
            return False
        return self._write(data, callback, True)

    def try_write(self, data: Buffer) -> int:
        """Send what the system takes of data at once, and return how many bytes that were.

        Raises UV_EAGAIN if it takes none, or if writes are queued.
        """
        if self._closed:
            raise closed_error()
        sock = self._writable_socket()
        if self._queue or self._connect_cb is not None:
            raise self._fail(errno.UV_EAGAIN)
        try:
            return sock.send(data, socket.MSG_NOSIGNAL)
        except OSError as exc:
            raise self._fail(errno.from_os_error(exc)) from None

    def shutdown(self, callback: "Callable[[Self, int | None], object] | None" = None) -> None:
        """End the outgoing direction after what is queued; `callback(stream, error)` follows.

        Raises UV_ENOTCONN on a stream that is not connected or was shut down before.
        """
        if self._closed:
            raise closed_error()
        if callback is not None and not callable(callback):
            raise TypeError("'callback' must be a callable or None")
        if self._sock is None or not self._writable or self._shutting:
            raise self._fail(errno.UV_ENOTCONN)
        self._shutting = True
        self._writable = False
        self._shutdown_cb = callback
        self._settle()
        if not self._queue and self._connect_cb is None:
            self._finish_shutdown()

    def _write(self, data: Buffer | Sequence[Buffer], callback: StatusCallback | None, now: bool = False) -> bool:
        """Send, or queue; return True if all is sent and `now`, in the place of the callback."""
        sock = self._sock
        if sock is None or not self._writable:
            raise self._fail(errno.UV_EBADF if sock is None else errno.UV_EPIPE)
        if type(data) is bytes:
            buffers: Sequence[Buffer] = (data,)
            total = len(data)
        else:
            buffers = _buffers(data)
            total = sum(map(len, buffers))
        sent = 0
        if not self._queue and self._connect_cb is None:
            try:
                sent = _send(sock, buffers, total)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                if callback is not None:
                    self._loop._defer(callback, self, errno.from_os_error(exc))
                return False
            if sent == total:
                if now:
                    return True
                if callback is not None:
                    self._loop._defer(callback, self, None)
                return False
        write = _Write(deque(buffers), total, callback)
        _consume(write, sent)
        self._enqueue(write)
        return False

    def _enqueue(self, write: _Write) -> None:
        self._queue.append(write)
        self._queue_size += write.left
        self._settle()
        if self._connect_cb is None:
            self._arm_writer(True)

    def _on_writable(self) -> None:
        loop = self._loop
        if loop._watched:
            loop._woke()
        if self._connect_cb is not None:
            self._finish_connect()
            return
        self._flush()

    def _flush(self) -> None:
        queue, sock = self._queue, self._sock
        assert sock is not None
        while queue:
            write = queue[0]
            try:
                sent = self._send_queued(sock, write)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._finish_write(errno.from_os_error(exc))
                continue
            self._queue_size -= sent
            _consume(write, sent)
            if write.left:
                return
            self._finish_write(None)
        self._arm_writer(False)
        if self._shutting:
            self._finish_shutdown()
        self._settle()

    def _send_queued(self, sock: socket.socket, write: _Write) -> int:
        return _send(sock, write.buffers, write.left)

    def _finish_write(self, code: int | None) -> None:
        write = self._queue.popleft()
        self._queue_size -= write.left
        if write.callback is not None:
            self._loop._defer(write.callback, self, code)

    def _finish_shutdown(self) -> None:
        assert self._sock is not None
        code = None
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            code = errno.from_os_error(exc)
        self._shutting = False
        callback, self._shutdown_cb = self._shutdown_cb, None
        if callback is not None:
            self._loop._defer(callback, self, code)
        self._settle()

    def _writable_socket(self) -> socket.socket:
        sock = self._sock
        if sock is None or not self._writable:
            raise self._fail(errno.UV_EBADF if sock is None else errno.UV_EPIPE)
        return sock

    # Endpoint asks for these.

    def _begin(self, code: int) -> None:
        if code:
            self._stop_reading()
            self._cancel_requests()
            return
        if self._read_cb is not None:
            self._poll(True)
        if self._shutting:
            self._writable = False

    def _go_on(self) -> None:
        if self._queue:
            self._arm_writer(True)
        elif self._shutting:
            self._finish_shutdown()

    def mute(self) -> None:
        """Handle.mute."""
        super().mute()
        self._shutdown_cb = None
        if self._read_cb is not None:
            self._read_cb = nothing
        for write in self._queue:
            write.callback = None

    def _has_requests(self) -> bool:
        return bool(self._queue) or self._shutting

    def _cancel_requests(self) -> None:
        """Call back what is in flight with UV_ECANCELED."""
        defer = self._loop._defer
        while self._queue:
            self._finish_write(errno.UV_ECANCELED)
        if self._shutdown_cb is not None:
            defer(self._shutdown_cb, self, errno.UV_ECANCELED)
        self._shutdown_cb = None
        self._shutting = False

    def _release(self) -> None:
        self._read_cb = self._alloc_cb = None
        super()._release()


def _buffers(data: Any) -> Sequence[Buffer]:
    """A write's data as flat byte buffers."""
    if isinstance(data, list | tuple):
        if not data:
            raise ValueError("iterable is empty")
        return [item if type(item) is bytes else _buffer(item) for item in data]
    if isinstance(data, Sequence) and not isinstance(data, str | bytes | bytearray | memoryview):
        return _buffers(list(data))
    return (_buffer(data),)


def _buffer(data: Any) -> Buffer:
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError("only bytes and sequences are supported") from None
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _send(sock: socket.socket, buffers: Sequence[Buffer] | deque[Buffer], total: int) -> int:
    """Send what the system takes of the buffers, `total` bytes, in one call."""
    if len(buffers) == 1:
        return sock.send(buffers[0], socket.MSG_NOSIGNAL)
    if total < JOIN_LIMIT:
        return sock.send(b"".join(buffers), socket.MSG_NOSIGNAL)
    if len(buffers) > IOV_MAX:
        return sock.sendmsg([buffers[i] for i in range(IOV_MAX)], (), socket.MSG_NOSIGNAL)
    return sock.sendmsg(buffers, (), socket.MSG_NOSIGNAL)


def _consume(write: _Write, sent: int) -> None:
    """Drop the first `sent` bytes of a write."""
    write.left -= sent
    buffers = write.buffers
    while sent:
        size = len(buffers[0])
        if size > sent:
            buffers[0] = memoryview(buffers[0])[sent:]
            return
        buffers.popleft()
        sent -= size

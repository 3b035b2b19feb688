"""Sending messages.

The happy path of io.send is: encode the message; find the client of the target server, or make one, which begins to
connect at once; if it is connected, gather the message with others of the same turn of the loop; write them with one
call at the turn's end; call back when the system has taken them.

Possible failure modes are:

- The message has no encoding: io.send returns RAFT_MALFORMED or RAFT_TOOBIG. More is queued for that server than
  allowed, because it is away or reads too slowly: RAFT_NOCONNECTION. io.close was called: RAFT_CANCELED. No callback.
- There is no connection: the message waits. After each attempt to connect that failed only the newest 3 keep waiting,
  the others fail with RAFT_NOCONNECTION, oldest first; another attempt follows after the retry delay, the first time
  after a lasting connection at once.
- A write fails, or the peer closes, which the client notices by reading: RAFT_IOERR for all under way; it reconnects.
- The target's address changes, or io.close: what is being written and then what waits fails with RAFT_CANCELED, after
  stream, timer and connect request have ended, never inside the call.
"""

import logging
from collections import deque
from typing import Any, Final, TypeAlias

from io_uv import closing, encoding, pyuv
from io_uv.fs import Failure
from io_uv.state import Uv
from io_uv.transport import RaftUvConnect
from pyraft.errors import RAFT_CANCELED, RAFT_IOERR, RAFT_NOCONNECTION, errmsg_cut
from pyraft.tracing import trace
from pyraft.types import RaftIo, RaftIoSend, RaftMessage, raft_io_send_cb

_log: Final = logging.getLogger("io_uv")

_MAX_PENDING: Final = 3
_WARN_AFTER: Final = 5
"""Attempts to connect in a row that fail before the logger hears of it: a server that is restarted is no news."""

Send: TypeAlias = tuple[RaftIoSend, list[Any], int]
"""A message on its way: request, buffers, their size in bytes."""


class Client:
    """`struct uvClient`: the connection to one server, whether there is one at the moment or not."""

    __slots__ = (
        "address",
        "closing",
        "connected_at",
        "connecting",
        "failures",
        "forgiving",
        "gathered",
        "id",
        "old_stream",
        "pending",
        "size",
        "stream",
        "timer",
        "uv",
        "writing",
    )

    def __init__(self, uv: Uv, id: int, address: str) -> None:
        self.uv = uv
        self.id = id
        self.address = address
        self.timer: Any = pyuv.Timer(uv.loop)  # of the next attempt to connect; None once closed
        self.connecting = False
        self.failures = 0  # attempts to connect in a row that failed
        self.stream: Any = None  # while connected
        self.old_stream: Any = None  # while it is being closed
        self.connected_at = 0
        self.forgiving = False  # whether the last connection or attempt was one that lasted
        self.pending: deque[Send] = deque()  # waiting for a connection
        self.gathered: list[Send] = []  # to be written at the end of this turn
        self.writing: deque[list[Send]] = deque()  # one list per write under way
        self.size = 0  # bytes in all three
        self.closing = False

    # Messages.

    def submit(self, send: Send) -> None:
        """Write a message at the end of the turn, or keep it until there is a connection."""
        self.size += send[2]
        if self.stream is None:
            self.pending.append(send)
            return
        if not self.gathered:
            uv = self.uv
            if not uv.dirty_clients:
                uv.end_of_turn.add(lambda: flush(uv))
            uv.dirty_clients.append(self)
        self.gathered.append(send)

    def flush(self) -> None:
        """Write what was gathered."""
        if self.stream is None:
            return
        sends, self.gathered = self.gathered, []
        if not sends:
            return
        data = sends[0][1] if len(sends) == 1 else [buf for send in sends for buf in send[1]]
        self.writing.append(sends)
        try:
            self.stream.write(data[0] if len(data) == 1 else data, self._write_cb)
        except pyuv.error.UVError as exc:
            self.writing.pop()
            trace(self.uv.tracer, f"write to server {self.id}: {exc.args[1]}")
            self._disconnect()
            self._finish(sends, RAFT_IOERR)

    def _write_cb(self, stream: Any, error: int | None) -> None:
        sends = self.writing.popleft()
        status = 0
        if error is not None:
            status = RAFT_IOERR
            if not self.closing:
                if stream is self.stream:
                    trace(self.uv.tracer, f"write to server {self.id}: {pyuv.errno.strerror(error)}")
                    self._disconnect()
            elif error == pyuv.errno.UV_ECANCELED:
                status = RAFT_CANCELED
        self._finish(sends, status)

    def _finish(self, sends: list[Send], status: int) -> None:
        for req, _, size in sends:
            self.size -= size
            closing.fire(self.uv, req.cb, req, status)

    # The connection.

    def connect(self) -> None:
        """Make an attempt to connect, and schedule another one if it cannot be begun."""
        assert not self.closing
        assert self.stream is None
        assert self.old_stream is None
        assert not self.connecting
        transport = self.uv.transport
        self.connecting = True
        try:
            rv = transport.connect(transport, RaftUvConnect(), self.id, self.address, self._connect_cb)
        except Exception as exc:
            closing.report(self.uv, exc)
            transport.errmsg = f"{type(exc).__name__}: {exc}"
            rv = RAFT_NOCONNECTION
        if rv != 0:
            self.connecting = False
            self._failed()
            self._retry_later()

    def _connect_cb(self, req: RaftUvConnect, stream: Any, status: int) -> None:
        self.connecting = False
        if self.closing:
            if status == 0:
                self.stream = stream
                self._disconnect()
            else:
                self._maybe_destroy()
            return
        if status == 0:
            if self.failures >= _WARN_AFTER:
                _log.warning("server %d at %s is reached", self.id, self.address)
            self.failures = 0
            self.stream = stream
            self.connected_at = self.uv.loop.now()
            self.gathered.extend(self.pending)
            self.pending.clear()
            self.flush()
            if stream is self.stream:
                # C: uv_send.c never reads, and notices that a peer is gone only when a write fails.
                stream.start_read(self._read_cb)
            return
        self._failed()
        while len(self.pending) > _MAX_PENDING:
            self._finish([self.pending.popleft()], RAFT_NOCONNECTION)
        # A callback may have closed everything.
        if not self.closing:
            self._connect_again(False)

    def _failed(self) -> None:
        """Say that an attempt to connect has failed."""
        reason = self.uv.transport.errmsg
        trace(self.uv.tracer, f"connect to server {self.id} at {self.address}: {reason}")
        self.failures += 1
        if self.failures == _WARN_AFTER:
            _log.warning("server %d at %s cannot be reached, trying on: %s", self.id, self.address, reason)

    def _retry_later(self) -> None:
        self.timer.start(self._timer_cb, self.uv.connect_retry_delay / 1000, 0)

    def _timer_cb(self, timer: Any) -> None:
        self.connect()

    def _read_cb(self, stream: Any, data: bytes | None, error: int | None) -> None:
        """Nothing is expected from the peer but the end of the connection."""
        if error is None or stream is not self.stream:
            return
        reason = getattr(stream, "reason", "") or pyuv.errno.strerror(error)
        trace(self.uv.tracer, f"connection to server {self.id}: {reason}")
        self._disconnect()

    def _disconnect(self) -> None:
        """Close the connection; another attempt follows unless the client is closing."""
        assert self.old_stream is None
        self.old_stream, self.stream = self.stream, None
        self.pending.extend(self.gathered)
        self.gathered = []
        self.old_stream.close(self._disconnect_cb)

    def _disconnect_cb(self, stream: Any) -> None:
        self.old_stream = None
        if self.closing:
            self._maybe_destroy()
            return
        self._connect_again(self.uv.loop.now() - self.connected_at >= self.uv.connect_retry_delay)

    def _connect_again(self, lasted: bool) -> None:
        """Connect after a connection or an attempt has ended, at once if it has lasted."""
        at_once = lasted or self.forgiving
        # One short connection or failed attempt is forgiven: both ends may reload their certificates at the same time.
        self.forgiving = lasted
        if at_once:
            self.connect()
        else:
            # C: uv_send.c:uvClientDisconnectCloseCb connects at once, over and over if the peer accepts and closes.
            self._retry_later()

    # The end.

    def abort(self) -> None:
        """Shut the client down: the instance is closing or the server's address has changed."""
        uv = self.uv
        uv.clients.remove(self)
        uv.aborting.append(self)
        self.closing = True
        if self.stream is not None:
            self._disconnect()
        self.timer.close(self._timer_close_cb)

    def _timer_close_cb(self, timer: Any) -> None:
        self.timer = None
        self._maybe_destroy()

    def _maybe_destroy(self) -> None:
        """Cancel what waits and vanish, if nothing is left that could still call back."""
        if self.connecting or self.timer is not None or self.old_stream is not None:
            return
        assert self.stream is None
        assert not self.writing
        sends = list(self.pending)
        self.pending.clear()
        self._finish(sends, RAFT_CANCELED)
        closing.gone(self.uv, self)


def send(io: RaftIo, req: RaftIoSend, message: RaftMessage, cb: raft_io_send_cb) -> int:
    """Implementation of RaftIo.send. The head of this module says what it returns and calls back."""
    uv: Uv = io.impl
    if uv.closing:
        # C: uv_send.c:UvSend asserts.
        return closing.refuse(uv)
    req.cb = cb
    try:
        bufs = encoding.encode_message(message)
    except Failure as failure:
        io.errmsg = errmsg_cut(failure.message)
        return failure.code
    size = sum(map(len, bufs))
    client = _get_client(uv, message.server_id, message.server_address)
    # C: uv_send.c queues without limit while the first attempt to connect lasts or the peer does not read.
    if client.size and client.size + size > uv.limits.queue:
        io.errmsg = f"{client.size} bytes are queued for server {client.id}, the limit is {uv.limits.queue}"
        return RAFT_NOCONNECTION
    client.submit((req, bufs, size))
    return 0


def flush(uv: Uv) -> None:
    """Write at once what io.send has gathered in this turn of the loop, one call per server."""
    clients, uv.dirty_clients = uv.dirty_clients, []
    for client in clients:
        client.flush()


def close(uv: Uv) -> None:
    """Abort all clients."""
    for client in list(uv.clients):
        client.abort()


def _get_client(uv: Uv, id: int, address: str) -> Client:
    """Return the client of a server, a new one if there is none or if the server's address has changed."""
    for client in uv.clients:
        if client.id == id:
            if client.address == address:
                found: Client = client
                return found
            client.abort()
            break
    client = Client(uv, id, address)
    uv.clients.append(client)
    client.connect()
    return client

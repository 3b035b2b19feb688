"""A client: the connection to one server, whether there is one at the moment or not.

Duty: connect, and connect again; gather the messages of a turn of the loop and write them with one call; call each back
once. A client exists for a member, and tries for ever, or for somebody else who is being answered: then it makes one
attempt, and goes when it has not been used for a while.

Happy path: messages wait until the transport has connected, then each turn's are written together. A connection
counts for good when something has come back on it (over TLS, see tcp_connect), or when it has lasted the retry delay:
a peer that does not want us accepts the connection all the same, and the system takes what is written.

Failure modes: those at the head of `send`. The logger `io_uv` hears of five failures in a row, or of one for which
the peer has named a reason that will not go away by itself, and of the end of that; and of messages that are too large
for a peer, whose size is then refused with growing pauses.
"""

import logging
from collections import deque
from typing import Final, TypeAlias

from io_uv import callbacks, closing, pyuv, spool, tcp_common
from io_uv.state import Uv
from io_uv.transport import RaftUvConnect, RaftUvStream
from pyraft.errors import RAFT_CANCELED, RAFT_IOERR, RAFT_NOCONNECTION, RAFT_UNAUTHORIZED
from pyraft.tracing import trace
from pyraft.types import RaftIoSend

_log: Final = logging.getLogger("io_uv")

_MAX_PENDING: Final = 3
_WARN_AFTER: Final = 5
"""Attempts to connect in a row that fail before the logger hears of it: a server that restarts is not worth a line."""
_TLS_ALERT: Final = b"\x15\x03"
_REFUSAL: Final = tcp_common.REFUSED.to_bytes(8, "little")
_LARGE: Final = 64 * 1024
_MAX_LOSSES: Final = 3
_SETTLED_MSECS: Final = 5_000
_FIRST_PAUSE_MSECS: Final = 1_000
_LAST_PAUSE_MSECS: Final = 60_000

Send: TypeAlias = tuple[RaftIoSend, list[bytes | memoryview], int]
"""A message on its way: request, buffers, their size in bytes."""


class Large:
    """Messages that are too large for a peer, as far as is known: it cannot say so, it ends the connection.

    Three connections in a row that end within seconds of a large message make its size suspect. Messages of that size
    are refused then, for a second, two, four, up to a minute; in between one is tried.
    """

    __slots__ = ("_at", "_losses", "_pause", "_until", "last", "size")

    def __init__(self) -> None:
        self.size = 0
        """The smallest size that is suspect."""
        self.last = 0
        """The largest message of the last seconds."""
        self._at = 0  # when it went out
        self._losses = 0
        self._pause = 0
        self._until = 0

    def written(self, now: int, size: int) -> None:
        """A write has begun whose largest message has so many bytes; without effect if it and the last are small."""
        over = now - self._at > _SETTLED_MSECS
        if over and self.last >= _LARGE and self.last >= self.size:
            # The connection has survived it.
            self._losses = self._pause = self.size = 0
        if over or size >= self.last:
            self.last, self._at = size, now

    def lost(self, now: int) -> bool:
        """The connection has ended; return whether that makes a size suspect for the first time."""
        last, self.last = self.last, 0
        if last < _LARGE or now - self._at > _SETTLED_MSECS:
            return False
        self._losses += 1
        self.size = min(self.size, last) if self.size else last
        if self._losses < _MAX_LOSSES:
            return False
        first = self._pause == 0
        self._pause = _FIRST_PAUSE_MSECS if first else min(2 * self._pause, _LAST_PAUSE_MSECS)
        self._until = now + self._pause
        return first

    def refuses(self, now: int, size: int) -> bool:
        """Return whether a message is not to be sent now."""
        return self._losses >= _MAX_LOSSES and size >= self.size and now < self._until


class Client:
    """`struct uvClient`: the connection to one server, whether there is one at the moment or not."""

    __slots__ = (
        "address",
        "answering",
        "closing",
        "connected_at",
        "connecting",
        "failures",
        "forgiving",
        "gathered",
        "id",
        "known",
        "large",
        "old_stream",
        "pending",
        "proven",
        "reason",
        "size",
        "stream",
        "timer",
        "told",
        "used_at",
        "uv",
        "writing",
    )

    def __init__(self, uv: Uv, id: int, address: str, answering: bool = False) -> None:
        self.uv = uv
        self.id = id
        self.address = address
        self.answering = answering  # a server that is not a member, for as long as it is answered
        self.used_at: int = uv.loop.now()
        # Until the next attempt to connect; while connected, until the connection counts as lasting; None once closed.
        self.timer: pyuv.Timer | None = pyuv.Timer(uv.loop)
        self.connecting = False
        self.failures = 0  # attempts to connect in a row that failed
        self.stream: RaftUvStream | None = None  # while connected
        self.old_stream: RaftUvStream | None = None  # while it is being closed
        self.connected_at = 0
        self.proven = False  # whether the peer has let us in, as far as one can see
        self.reason = ""  # why it has not, by what it sent back
        self.told = False  # whether the logger knows that there is no way to the peer
        self.known = ""  # and why, as it was told last
        self.large = Large()
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
        if self.answering:
            self.used_at = self.uv.loop.now()
        if self.stream is None:
            self.pending.append(send)
            return
        if not self.gathered:
            uv = self.uv
            if not uv.dirty_clients:
                uv.end_of_turn.add(uv.send_start)
            uv.dirty_clients.append(self)
        self.gathered.append(send)

    def flush(self) -> list[Send]:
        """Write what was gathered; return what the system has taken at once, which the caller calls back."""
        stream = self.stream
        if stream is None or not self.gathered:
            return []
        sends, self.gathered = self.gathered, []
        if len(sends) == 1:
            data, largest = sends[0][1], sends[0][2]
        else:
            data, largest = [buf for send in sends for buf in send[1]], max(send[2] for send in sends)
        if largest >= _LARGE or self.large.last >= _LARGE:
            self.large.written(self.uv.loop.now(), largest)
        # Those that were written before and are not called back yet come first.
        first = not self.writing
        self.writing.append(sends)
        try:
            if largest > spool.WINDOW:
                data = spool.write_ahead(stream, data)
                first = False
            if first and type(stream) is pyuv.TCP:
                if stream.write_now(data[0] if len(data) == 1 else data, self._write_cb):
                    return self.writing.pop()
            else:
                # A list may be another client's as well (RaftAppendEntries.encoded).
                stream.write(data[0] if len(data) == 1 else list(data), self._write_cb)
        except pyuv.error.UVError as exc:
            self.writing.pop()
            trace(self.uv.tracer, f"write to server {self.id}: {exc.args[1]}")
            self._disconnect()
            self.finish(sends, RAFT_IOERR)
        return []

    def _write_cb(self, stream: RaftUvStream, error: int | None) -> None:
        sends = self.writing.popleft()
        status = 0
        if error is not None:
            status = RAFT_IOERR
            if not self.closing:
                if stream is self.stream:
                    trace(self.uv.tracer, f"write to server {self.id}: {pyuv.errno.strerror(error)}")
                    self._lost(pyuv.errno.strerror(error))
            elif error == pyuv.errno.UV_ECANCELED:
                status = RAFT_CANCELED
        self.finish(sends, status)

    def finish(self, sends: list[Send], status: int) -> None:
        """Call back: callbacks.fire without its call, as this is done for each message."""
        for req, _, size in sends:
            self.size -= size
            if req.cb is not None:
                try:
                    req.cb(req, status)
                except Exception as exc:
                    callbacks.report(self.uv, exc)

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
            callbacks.report(self.uv, exc)
            transport.errmsg = f"{type(exc).__name__}: {exc}"
            rv = RAFT_NOCONNECTION
        if rv != 0:
            self.connecting = False
            self._failed(transport.errmsg)
            self._retry_later()

    def _connect_cb(self, req: RaftUvConnect, stream: RaftUvStream | None, status: int) -> None:
        self.connecting = False
        if self.closing:
            if status == 0:
                self.stream = stream
                self._disconnect()
            else:
                self._maybe_destroy()
            return
        if status == 0:
            assert stream is not None
            self.stream = stream
            self.connected_at = self.uv.loop.now()
            self.proven = False
            self.reason = ""
            if getattr(stream, "welcome", False):
                self._prove()
            self._start_timer(self._watch_msecs())
            self.gathered.extend(self.pending)
            self.pending.clear()
            taken = self.flush()
            if stream is self.stream:
                # C: uv_send.c never reads, and notices that a peer is gone only when a write fails.
                stream.start_read(self._read_cb)
            self.finish(taken, 0)
            return
        self.large = Large()  # a peer that is away does not refuse messages
        self._failed(self.uv.transport.errmsg, certain=status == RAFT_UNAUTHORIZED)
        keep = 0 if self.answering else _MAX_PENDING
        while len(self.pending) > keep:
            self.finish([self.pending.popleft()], RAFT_NOCONNECTION)
        # A callback may have closed everything.
        if not self.closing:
            self._connect_again(False)

    def _failed(self, reason: str, certain: bool = False) -> None:
        """Take note of an attempt to connect that has failed, or of a connection that the peer did not keep.

        `certain` if trying again will not help until an operator has done something.
        """
        trace(self.uv.tracer, f"connect to server {self.id} at {self.address}: {reason}")
        self.failures += 1
        news = not self.told or (certain and reason != self.known)  # that nobody listened says less
        if news and not self.answering and (certain or self.failures >= _WARN_AFTER):
            self.told, self.known = True, reason
            _log.warning("server %d at %s cannot be reached, trying on: %s", self.id, self.address, reason)

    def _prove(self) -> None:
        """The connection is a good one: something has come back, or it has lasted."""
        if self.proven:
            return
        self.proven = True
        self.failures = 0
        if self.told:
            self.told = False
            _log.warning("server %d at %s is reached", self.id, self.address)

    def _watch_msecs(self) -> int:
        return self.uv.limits.answer_msecs if self.answering else self.uv.connect_retry_delay

    def _retry_later(self) -> None:
        if self.answering:
            # Nobody owes a stranger a second attempt.
            self.abort()
            return
        self._start_timer(self.uv.connect_retry_delay)

    def _start_timer(self, msecs: int) -> None:
        assert self.timer is not None
        self.timer.start(self._timer_cb, msecs / 1000, 0)

    def _timer_cb(self, timer: pyuv.Timer) -> None:
        if self.stream is None:
            self.connect()
            return
        self._prove()
        if not self.answering:
            return
        idle = self.uv.loop.now() - self.used_at
        if idle >= self.uv.limits.answer_msecs:
            self.abort()
        else:
            self._start_timer(self.uv.limits.answer_msecs - idle)

    def adopt(self) -> None:
        """The peer has become a member: keep a connection to it from now on."""
        self.answering = False
        if self.stream is not None and not self.proven:
            self._start_timer(self._watch_msecs())

    def dismiss(self) -> None:
        """This server is not a member any more: let go of the peer when it has nothing to answer to it."""
        if self.answering:
            return
        self.answering = True
        self.used_at = self.uv.loop.now()
        if self.stream is not None:
            self._start_timer(self._watch_msecs())
        elif not self.connecting and self.old_stream is None:
            self.abort()

    def _read_cb(self, stream: RaftUvStream, data: bytes | None, error: int | None) -> None:
        """Nothing is expected from the peer but the end of the connection."""
        if error is None:
            if data is not None and data[:2] == _TLS_ALERT and not self.proven:
                self.reason = "it answers with an alert of TLS, which this server does not speak"
            elif data is not None and stream is self.stream and data[:8] == _REFUSAL:
                self._refused(data)
            return
        if stream is not self.stream:
            return
        reason = getattr(stream, "reason", "") or pyuv.errno.strerror(error)
        trace(self.uv.tracer, f"connection to server {self.id}: {reason}")
        self._lost(reason)

    def _refused(self, data: bytes) -> None:
        """The peer says that it does not let us in; it does so in one piece, once it has our handshake."""
        self.proven = False
        self.reason = tcp_common.decode_answer(data) or "it does not let us in"
        self._lost(self.reason)

    def _lost(self, reason: str) -> None:
        """The peer has ended the connection."""
        now: int = self.uv.loop.now()
        if self.large.lost(now):
            _log.warning(
                "server %d at %s ends the connection whenever a message of %d bytes comes, which may be above a limit "
                "of its own (raft_uv_limits); tried again with growing pauses",
                *(self.id, self.address, self.large.size),
            )
        if not self.proven:
            certain = self.reason != ""
            self._failed(
                self.reason or f"it ended the connection after {now - self.connected_at} ms: {reason}", certain
            )
        self._disconnect()

    def _disconnect(self) -> None:
        """Close the connection; another attempt follows unless the client is closing."""
        stream = self.stream
        assert stream is not None
        assert self.old_stream is None
        if self.timer is not None and not self.closing:
            self.timer.stop()
        self.old_stream, self.stream = stream, None
        self.pending.extend(self.gathered)
        self.gathered = []
        stream.close(self._disconnect_cb)

    def _disconnect_cb(self, stream: RaftUvStream) -> None:
        self.old_stream = None
        if self.closing:
            self._maybe_destroy()
            return
        self._connect_again(self.uv.loop.now() - self.connected_at >= self.uv.connect_retry_delay)

    def _connect_again(self, lasted: bool) -> None:
        """Connect after a connection or an attempt has ended, at once if it has lasted."""
        if self.answering:
            self.abort()
            return
        at_once = lasted or self.forgiving
        # One short connection or failed attempt is forgiven: both ends may reload their certificates at the same time.
        self.forgiving = lasted
        if at_once:
            self.connect()
        else:
            # C: uv_send.c:uvClientDisconnectCloseCb connects at once, over and over if the peer accepts and closes.
            self._retry_later()

    # The end.

    def forget(self) -> None:
        """In a forked child: have nothing to write, and nobody to write to."""
        self.closing = True
        self.stream = self.old_stream = None
        self.gathered = []
        self.pending.clear()
        self.writing.clear()

    def abort(self) -> None:
        """Shut the client down: the instance is closing or the server's address has changed."""
        uv = self.uv
        uv.clients.remove(self)
        uv.aborting.append(self)
        self.closing = True
        if self.stream is not None:
            self._disconnect()
        assert self.timer is not None
        self.timer.close(self._timer_close_cb)

    def _timer_close_cb(self, timer: pyuv.Timer) -> None:
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
        self.finish(sends, RAFT_CANCELED)
        closing.gone(self.uv, self)


def flush(uv: Uv) -> None:
    """Write at once what io.send has gathered in this turn of the loop, one call per server.

    Messages that the system takes at once are called back when all is written: C's callbacks come a turn later, which
    costs one.
    """
    clients, uv.dirty_clients = uv.dirty_clients, []
    taken: list[tuple[Client, list[Send]]] = []
    for client in clients:
        sends = client.flush()
        if sends:
            taken.append((client, sends))
    for client, sends in taken:
        client.finish(sends, 0)

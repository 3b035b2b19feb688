"""Receiving messages.

The happy path of an inbound message is: the transport hands over a stream on which a peer has introduced itself; bytes
are read in large pieces, each of which may hold many messages or part of one; preamble and header are decoded, the
payload is cut into entries, and the message goes to the recv callback with the peer's id and address. A payload that is
long and not there yet is read straight into a buffer of its size, or, if it is a snapshot from `Limits.mapped` on, into
a file, window by window. Entries beyond `Limits.piece` become several messages (see `pieces`), and nothing is read from
their connection until what one of them has brought is stored. If that lasts the core gets a heartbeat with each tick.

Possible failure modes are:

- The peer disconnects, or reading fails: the stream is closed.
- The bytes are not a message, or one that must not reach the core: the stream is closed, with a trace, and now and then
  a line in the log, that names peer, type of the message, where it began in the stream and what is wrong with it.
- More peers are connected than allowed: the oldest connection that never brought a message is closed, or else the one
  that has been silent longest, so that strangers who only connect push out each other.
- There is no memory for a message, or the disk has no room for a snapshot that is read into a file: the stream is
  closed, and the log says so.
- The callback raises: `io.report` hears of it, and reading goes on.
- A write does not end: connections that wait for it wait on. One that fails ends the wait as well.
"""

import mmap
import time
from collections.abc import Callable
from typing import Final, TypeVar

from io_uv import append, callbacks, closing, encoding, lane, pieces, pyuv, spool, tcp
from io_uv.failure import Failure
from io_uv.state import Limits, Uv
from io_uv.transport import RaftUvStream, RaftUvTransport
from pyraft.errors import RAFT_NOMEM, errmsg_cut
from pyraft.tracing import trace
from pyraft.types import RaftMessage

_TYPE_MASK: Final = 0xFFFF
# Payloads from this size on are read into a buffer of their own, and are not collected in pieces.
_LARGE: Final = 64 * 1024
# A buffer for entries, which are copied out of it, is kept for the next message up to this size.
_T = TypeVar("_T", bytes, int)
_KEPT: Final = 4 * 1024 * 1024
_AHEAD: Final = 8
"""Pieces of large messages that are taken while a snapshot is being stored."""


class Reader:
    """Cuts the bytes of one connection into messages. It can be tested and fuzzed alone, as all that it does beside is
    to put large snapshots into files of `dir`.

    `feed` takes whatever has arrived and calls `deliver(message)` for every message that it completes. While `missing`
    is not None, the bytes that follow may also be put there directly, and `filled` told how many they were. If
    `is_busy()` holds when a message was delivered that is a piece of a larger one, the reader is `held`: it delivers
    nothing until `resume`.
    """

    __slots__ = (
        "_deliver",
        "_dir",
        "_have",
        "_is_busy",
        "_kept",
        "_large",
        "_lengths",
        "_limits",
        "_message",
        "_need",
        "_payload",
        "_piece",
        "_pieces",
        "_position",
        "_size",
        "_spool",
        "_start",
        "_type",
        "_unread",
        "held",
        "missing",
        "stopped",
    )

    def __init__(
        self,
        limits: Limits,
        deliver: Callable[[RaftMessage], None],
        dir: str = "",
        is_busy: Callable[[], bool] | None = None,
    ) -> None:
        self._limits = limits
        self._deliver = deliver
        self._dir = dir
        self._is_busy = is_busy
        self._piece = min(limits.piece, limits.payload)
        # Pieces of something that needs so many bytes: preamble, preamble and header, or a small payload.
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = encoding.PREAMBLE_SIZE
        # The message whose payload is awaited.
        self._message: RaftMessage | None = None
        self._lengths: list[int] = []
        self._size = 0
        self._payload: mmap.mmap | None = None
        self._kept: mmap.mmap | None = None
        # The message that is taken in pieces, and what has come behind the piece that holds the reader.
        self._large: pieces.Large | None = None
        self._unread = b""
        self._spool: spool.Spool | None = None
        # Offsets in the stream, for traces: of the next byte to be parsed, and of the current message.
        self._position = 0
        self._start = 0
        self._type = 0
        self.missing: memoryview | None = None
        """Where the next bytes belong, while a large payload is incomplete."""
        self.held = False
        """Set as long as what comes is kept for `resume`."""
        self.stopped = False
        """Set to end `feed` after the message that is being delivered."""

    def end(self) -> None:
        """Deliver nothing more, and let go of what a large payload has taken."""
        self.stopped = True
        self._spool = self._payload = self.missing = None
        self._large = None
        self._unread = b""

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises Failure, naming the message and its offset, when they are not what a peer may send."""
        try:
            if self.missing is not None:
                n = self._put(data)
                if n == len(data) or self.stopped:
                    return
                data = data[n:]
                if self.held:
                    self._unread = data
                    return
            elif self._pieces:
                self._pieces.append(data)
                self._have += len(data)
                if self._have < self._need:
                    return
                data = b"".join(self._pieces)
                self._pieces = []
            elif self.held:
                self._unread += data
                return
            self._parse(data)
        except Failure as failure:
            raise self._named(failure) from None

    def resume(self, data: bytes) -> None:
        """Go on with what has come while the reader was held, and then `data`. Raises Failure as feed does."""
        data, self._unread = self._unread + data, b""
        self.held = False
        try:
            self._await_piece()
        except Failure as failure:
            raise self._named(failure) from None
        if data:
            self.feed(data)

    @property
    def awaited(self) -> int:
        """Bytes of the piece that comes next, while the reader is held."""
        return 0 if self._large is None else self._large.size

    def beat(self) -> RaftMessage | None:
        """Return a heartbeat in the place of the piece that comes next, while the reader is held."""
        large = self._large
        return large.beat() if self.held and large is not None else None

    def drop(self) -> None:
        """Deliver nothing more of the message that is taken in pieces."""
        if self._large is not None:
            self._large.drop()

    def filled(self, n: int) -> None:
        """Take note that `n` bytes were put into `missing`. Raises Failure as feed does."""
        try:
            self._fill(n)
        except Failure as failure:
            raise self._named(failure) from None

    def _named(self, failure: Failure) -> Failure:
        return failure.wrap(f"{encoding.name_of(self._type)} at byte {self._start} of the stream")

    def _parse(self, data: bytes) -> None:
        """Deliver all messages that `data` completes and keep what is left over."""
        at = 0
        if self._message is not None:
            at = self._size
            self._finish(data, 0)
        end = len(data)
        need = encoding.PREAMBLE_SIZE
        word: int
        size: int
        while not self.stopped and end - at >= encoding.PREAMBLE_SIZE:
            found = lane.decode(data, at, end, self._limits)
            if found is not None:
                message, at = found
                self._deliver(message)
                continue
            self._start = self._position + at
            word, size = encoding.preamble.unpack_from(data, at)
            self._type = word & _TYPE_MASK
            if not 0 < size <= self._limits.header:
                raise encoding.bad_header_size(size, self._limits.header)
            need = encoding.PREAMBLE_SIZE + size
            if end - at < need:
                break
            header = at + encoding.PREAMBLE_SIZE
            at += need
            need = encoding.PREAMBLE_SIZE
            self._message, self._lengths, self._size = encoding.decode_header(
                self._type, data, header, size, self._limits
            )
            if self._size > self._piece and pieces.is_large(self._lengths, self._size, self._piece):
                self._position += at
                data = self._begin_pieces(data[at:])
                at, end = 0, len(data)
                continue
            if end - at < self._size:
                self._position += at
                self._await_payload(data[at:])
                return
            payload, at = at, at + self._size
            self._finish(data, payload)
        self._position += at
        if at < end and not self.stopped:
            self._keep(data[at:], need)

    def _keep(self, rest: bytes, need: int) -> None:
        self._pieces = [rest]
        self._have = len(rest)
        self._need = need

    def _finish(self, data: bytes | mmap.mmap, at: int) -> None:
        """The message's payload is complete, at data[at:]."""
        message, size = self._message, self._size
        assert message is not None
        if size:
            encoding.attach_payload(message, self._lengths, data, at, size)
        self._message = None
        self._deliver(message)

    def _finish_spool(self, filled: spool.Spool) -> None:
        """The data of a large snapshot is complete."""
        message = self._message
        assert message is not None
        args = message.install_snapshot
        assert args is not None
        args.data = filled.take()
        self._message = self._spool = None
        self._deliver(message)

    def _await_payload(self, begin: bytes) -> None:
        """Only the beginning of the payload is there."""
        assert self._message is not None
        size = self._size
        if size < _LARGE:
            self._keep(begin, size)
            return
        # Anonymous mappings take memory as they are filled, so that an announcement alone costs nothing.
        if self._message.install_snapshot is not None:
            if 0 < self._limits.mapped <= size:
                self._spool = spool.Spool(self._dir, 0)
                self._spool.begin(size)
                self.missing = self._spool.room
                self._put(begin)
                return
            self._payload = _map(size)
            self.missing = memoryview(self._payload)[:size]
        else:
            self._await_entries(size)
        if begin:
            self._put(begin)

    def _await_entries(self, size: int) -> None:
        """Have `size` bytes of entries come to where they are copied from."""
        if self._kept is None or len(self._kept) < size:
            self._kept = _map(1 << (size - 1).bit_length())
        self._payload = self._kept
        if size > _KEPT:
            self._kept = None
        self.missing = memoryview(self._payload)[:size]

    # Messages in pieces.

    def _begin_pieces(self, begin: bytes) -> bytes:
        """Take the message that is awaited in pieces; return what is left of `begin`, which came behind its header."""
        message = self._message
        assert message is not None
        self._large = pieces.Large(message, self._lengths, self._piece)
        self._message = None
        self._await_piece()
        rest = begin[self._put(begin) :]
        if self.held:
            self._unread = rest
            return b""
        return rest

    def _await_piece(self) -> None:
        """Have the next piece come, if there is one."""
        large = self._large
        if large is not None:
            self._await_entries(large.size)

    def _finish_piece(self, large: pieces.Large, payload: mmap.mmap) -> None:
        """The payload of a piece is complete."""
        message = large.take(payload)
        if large.size == 0:
            self._large = None
        if message is not None:
            self._deliver(message)
        if large.size == 0 or self.stopped:
            return
        if message is not None and message.append_entries is not None and message.append_entries.refused:
            large.drop()
        elif message is not None and self._is_busy is not None and self._is_busy():
            self.held = True
            return
        self._await_piece()

    def _put(self, data: bytes) -> int:
        """Put into `missing` what belongs there; return how many bytes that were."""
        at = 0
        while at < len(data) and self.missing is not None and not self.stopped:
            n = min(len(data) - at, len(self.missing))
            self.missing[:n] = data[at : at + n]
            self._fill(n)
            at += n
        return at

    def _fill(self, n: int) -> None:
        missing = self.missing
        assert missing is not None
        self._position += n
        filling = self._spool
        if filling is not None:
            filling.filled(n)
            self.missing = filling.room
            if self.missing is None:
                self._finish_spool(filling)
            return
        if n < len(missing):
            self.missing = missing[n:]
            return
        payload, self._payload, self.missing = self._payload, None, None
        assert payload is not None
        large = self._large
        if large is None:
            self._finish(payload, 0)
        else:
            self._finish_piece(large, payload)


class Server:
    """`struct uvServer`: an inbound connection of a peer. Named for that struct, as client.Client is for uvClient."""

    __slots__ = ("_quiet_at", "_reader", "_stop_read", "_way", "address", "heard_at", "id", "noted", "stream", "uv")

    def __init__(self, uv: Uv, id: int, address: str, stream: RaftUvStream) -> None:
        self.uv = uv
        self.id = id
        self.address = address
        self.stream = stream
        self.heard_at = 0  # number of its last message, counting those of all
        self.noted = 0  # the same when the figures were told
        # The same at the last tick of a time without messages, and our connection to the peer in that time.
        self._quiet_at = -1
        self._way: RaftUvStream | None = None
        # Streams of other transports need not have this: then nothing waits.
        self._stop_read: Callable[[], object] | None = getattr(stream, "stop_read", None)
        self._reader = Reader(uv.limits, self._deliver, uv.dir, None if self._stop_read is None else self._is_busy)

    def start(self) -> None:
        """Start reading."""
        self.stream.start_read(self._read_cb)

    def note(self, now: float) -> None:
        """Have the figures know at what time something new has come from this member."""
        uv = self.uv
        self.noted = self.heard_at
        if uv.peers.members is not None and self.id in uv.peers.members:
            uv.figures.contacts[self.id] = now

    def abort(self) -> None:
        """Close the connection; nothing is delivered from it any more."""
        uv = self.uv
        if self.heard_at != self.noted:  # no tick has looked since
            self.note(time.monotonic())
        self._reader.end()
        uv.servers.remove(self)
        if self in uv.held:
            uv.held.remove(self)
        uv.aborting.append(self)
        self.stream.close(self._close_cb)

    def _close_cb(self, stream: RaftUvStream) -> None:
        closing.gone(self.uv, self)

    def _deliver(self, message: RaftMessage) -> None:
        uv = self.uv
        uv.peers.heard += 1
        self.heard_at = uv.peers.heard
        message.server_id = self.id
        message.server_address = self.address
        if uv.recv_cb is not None:  # callbacks.fire is repeated here: a call less for each message
            try:
                uv.recv_cb(uv.io, message)
            except Exception as exc:
                callbacks.report(uv, exc)

    def _read_cb(self, stream: RaftUvStream, data: bytes | None, error: int | None) -> None:
        if error is not None:
            self._lost(error)
            return
        assert data is not None
        reader = self._reader
        if not self._take(reader.feed, data):
            return
        if reader.missing is not None and not reader.stopped:
            self._read_into_place()
        elif reader.held:
            self._hold()

    def _read_into_place(self) -> bool:
        """Have bytes read straight to where they belong; False if the stream cannot, as in some other transports."""
        read_into = getattr(self.stream, "start_read_into", None)
        if read_into is None:
            return False
        read_into(self._alloc_cb, self._read_into_cb)
        return True

    # Pieces of large messages.

    def _is_busy(self) -> bool:
        return append.is_busy(self.uv)

    def _hold(self) -> None:
        """Read nothing more until `go_on`."""
        stop_read = self._stop_read
        if stop_read is not None and not self._reader.stopped:
            stop_read()
            self.uv.held.append(self)

    def beat(self) -> None:
        """A tick of a connection that is held: deliver a heartbeat if nothing else has come since the last one.

        The leader's own ones wait behind the piece that comes next, and it needs answers to them. It is taken to live
        as long as our connection to it does, whose end is noticed. One made anew may lead to a server started again.
        """
        uv, reader = self.uv, self._reader
        if self.heard_at != self._quiet_at:
            self._quiet_at, self._way = self.heard_at, None
        way = next((one.stream for one in uv.clients if one.id == self.id and one.stream is not None), None)
        if self._way is None:
            self._way = way
            return
        message = reader.beat() if way is self._way else None
        args = None if message is None else message.append_entries
        if message is None or args is None:
            return
        message.server_id, message.server_address = self.id, self.address
        uv.end_of_turn.hold()
        callbacks.fire(uv, uv.recv_cb, uv.io, message)
        uv.end_of_turn.release()
        if args.refused and self in uv.held:
            reader.drop()
            uv.held.remove(self)
            self.go_on()

    def go_on(self) -> None:
        """Go on behind a piece of a message: what it has brought is stored, or lost."""
        reader = self._reader
        if reader.stopped or not self._take(reader.resume, b"") or reader.stopped:
            return
        if reader.held:
            self.uv.held.append(self)
        elif reader.missing is None or not self._read_into_place():
            self.stream.start_read(self._read_cb)

    def _take(self, take: Callable[[_T], None], what: _T) -> bool:
        """Have the reader take what has come, as one event; return whether the connection is still good."""
        end_of_turn = self.uv.end_of_turn
        end_of_turn.hold()
        try:
            take(what)
        except Failure as failure:
            self._drop(failure)
            return False
        except MemoryError:
            # The reader itself has raised it: exceptions of a message's callback do not get here.
            self._drop(Failure(RAFT_NOMEM, "no memory for a message of the peer"))
            return False
        finally:
            end_of_turn.release()
        return True

    def _alloc_cb(self, stream: RaftUvStream, suggested_size: int) -> memoryview:
        missing = self._reader.missing
        assert missing is not None
        return missing

    def _read_into_cb(self, stream: RaftUvStream, n: int | None, error: int | None) -> None:
        if error is not None:
            self._lost(error)
            return
        assert n is not None
        reader = self._reader
        if not self._take(reader.filled, n):
            return
        if reader.missing is None and not reader.stopped:
            if reader.held:
                self._hold()
            else:
                stream.start_read(self._read_cb)

    def _lost(self, error: int) -> None:
        if error != pyuv.errno.UV_EOF:
            reason = getattr(self.stream, "reason", "") or pyuv.errno.strerror(error)
            trace(self.uv.tracer, f"peer {self.id} at {self.address}: receive data: {reason}")
        if not self._reader.stopped:
            self.abort()

    def _drop(self, failure: Failure) -> None:
        trace(self.uv.tracer, f"peer {self.id} at {self.address}: {failure.message}: connection dropped")
        self.uv.peers.teller.warn(
            (self.id, self.address, failure.code),
            "connection of server %d at %s dropped: %s",
            *(self.id, self.address, failure.message),
        )
        if not self._reader.stopped:
            self.abort()


def start(uv: Uv) -> int:
    """Listen and accept peers; the messages they send go to uv.recv_cb. Returns what the transport's listen does."""
    transport = uv.transport
    tcp.adopt(transport, uv.tracer, uv.limits, uv.refusals)
    rv: int = transport.listen(
        transport, lambda transport, id, address, stream: _accept_cb(uv, transport, id, address, stream)
    )
    if rv != 0:
        uv.io.errmsg = errmsg_cut(f"listen: {transport.errmsg}" if transport.errmsg else "listen")
    return rv


def go_on(uv: Uv, at_tick: bool) -> None:
    """Let the connections go on that are held, if all that was brought is stored.

    The log in memory grows while a snapshot is being stored, and becomes shorter only afterwards: so until then they
    take one piece at each tick, _AHEAD at the most, however long the disk takes. Those that go on waiting at a tick
    have the core hear a heartbeat.
    """
    put = uv.snapshot_put_work
    if append.is_busy(uv) or (put is not None and (not at_tick or put.taken >= _AHEAD * uv.limits.piece)):
        if at_tick:
            for server in list(uv.held):
                server.beat()
        return
    held, uv.held = uv.held, []
    for server in held:
        if put is not None:
            put.taken += server._reader.awaited
        server.go_on()


def close(uv: Uv) -> None:
    """Close all inbound connections."""
    for server in list(uv.servers):
        server.abort()


def _accept_cb(uv: Uv, transport: RaftUvTransport, id: int, address: str, stream: RaftUvStream) -> None:
    if id == uv.id:
        # Its acknowledgements would count as our own.
        trace(uv.tracer, f"peer at {address} claims to be this server, {id}: connection dropped")
        uv.peers.teller.warn((id, address), "a peer that says it is at %s claims to be this server, %d", address, id)
        stream.close(lambda stream: None)
        return
    if len(uv.servers) >= uv.limits.connections:
        silent = min(uv.servers, key=lambda server: server.heard_at)
        trace(uv.tracer, f"peer {silent.id} at {silent.address}: dropped in favour of a new connection")
        text = "more than %d peers are connected: the one silent longest goes, server %d at %s"
        uv.peers.teller.warn("connections", text, uv.limits.connections, silent.id, silent.address)
        silent.abort()
    server = Server(uv, id, address, stream)
    uv.servers.append(server)
    try:
        server.start()
    except pyuv.error.UVError as exc:
        trace(uv.tracer, f"peer {id} at {address}: start reading: {exc.args[1]}")
        server.abort()


def _map(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size)
    except (OSError, OverflowError, MemoryError):
        raise Failure(RAFT_NOMEM, f"no memory for a payload of {size} bytes") from None

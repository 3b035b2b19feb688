"""Receiving messages.

The happy path of an inbound message is: the transport hands over a stream on which a peer has introduced itself; bytes
are read in large pieces, each of which may hold many messages or part of one; preamble and header are decoded, the
payload is cut into entries, and the message goes to the recv callback with the peer's id and address. A payload that is
long and not there yet is read straight into a buffer of its size.

Possible failure modes are:

- The peer disconnects, or reading fails: the stream is closed.
- The bytes are not a message, or one that must not reach the core: the stream is closed, with a trace, and now and then
  a line in the log, that names peer, type of the message, where it began in the stream and what is wrong with it.
- More peers are connected than allowed: the oldest connection that never brought a message is closed, or else the one
  that has been silent longest, so that strangers who only connect push out each other.
- The callback raises: `io.report` hears of it, and reading goes on.
"""

import mmap
from collections.abc import Callable
from typing import Final, TypeVar

from io_uv import callbacks, closing, encoding, lane, pyuv, tcp
from io_uv.failure import Failure
from io_uv.state import Limits, Uv
from io_uv.transport import RaftUvStream, RaftUvTransport
from pyraft.errors import RAFT_MALFORMED, RAFT_NOMEM, RAFT_TOOBIG, errmsg_cut
from pyraft.tracing import trace
from pyraft.types import RaftMessage

_TYPE_MASK: Final = 0xFFFF
# Payloads from this size on are read into a buffer of their own, and are not collected in pieces.
_LARGE: Final = 64 * 1024
# A buffer for entries, which are copied out of it, is kept for the next message up to this size.
_T = TypeVar("_T", bytes, int)
_KEPT: Final = 4 * 1024 * 1024


class Reader:
    """Cuts the bytes of one connection into messages. It does no I/O, so that it can be tested and fuzzed alone.

    `feed` takes whatever has arrived and calls `deliver(message)` for every message that it completes. While `missing`
    is not None, the bytes that follow may also be put there directly, and `filled` told how many they were.
    """

    __slots__ = (
        "_deliver",
        "_have",
        "_kept",
        "_lengths",
        "_limits",
        "_message",
        "_need",
        "_payload",
        "_pieces",
        "_position",
        "_size",
        "_start",
        "_type",
        "missing",
        "stopped",
    )

    def __init__(self, limits: Limits, deliver: Callable[[RaftMessage], None]) -> None:
        self._limits = limits
        self._deliver = deliver
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
        # Offsets in the stream, for traces: of the next byte to be parsed, and of the current message.
        self._position = 0
        self._start = 0
        self._type = 0
        self.missing: memoryview | None = None
        """Where the next bytes belong, while a large payload is incomplete."""
        self.stopped = False
        """Set to end `feed` after the message that is being delivered."""

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises Failure, naming the message and its offset, when they are not what a peer may send."""
        try:
            if self.missing is not None:
                n = min(len(data), len(self.missing))
                self.missing[:n] = data[:n]
                self._fill(n)
                if n == len(data) or self.stopped:
                    return
                data = data[n:]
            elif self._pieces:
                self._pieces.append(data)
                self._have += len(data)
                if self._have < self._need:
                    return
                data = b"".join(self._pieces)
                self._pieces = []
            self._parse(data)
        except Failure as failure:
            raise self._named(failure) from None

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
                raise _bad_header_size(size, self._limits.header)
            need = encoding.PREAMBLE_SIZE + size
            if end - at < need:
                break
            header = at + encoding.PREAMBLE_SIZE
            at += need
            need = encoding.PREAMBLE_SIZE
            self._message, self._lengths, self._size = encoding.decode_header(
                self._type, data, header, size, self._limits
            )
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

    def _await_payload(self, begin: bytes) -> None:
        """Only the beginning of the payload is there."""
        assert self._message is not None
        size = self._size
        if size < _LARGE:
            self._keep(begin, size)
            return
        # Anonymous mappings take memory as they are filled, so that an announcement alone costs nothing.
        if self._message.install_snapshot is not None:
            self._payload = _map(size)
        else:
            if self._kept is None or len(self._kept) < size:
                self._kept = _map(1 << (size - 1).bit_length())
            self._payload = self._kept
            if size > _KEPT:
                self._kept = None
        self.missing = memoryview(self._payload)[:size]
        if begin:
            self.missing[: len(begin)] = begin
            self._fill(len(begin))

    def _fill(self, n: int) -> None:
        assert self.missing is not None
        self._position += n
        if n < len(self.missing):
            self.missing = self.missing[n:]
            return
        payload, self._payload, self.missing = self._payload, None, None
        assert payload is not None
        self._finish(payload, 0)


class Server:
    """`struct uvServer`: an inbound connection of a peer."""

    __slots__ = ("_reader", "address", "heard_at", "id", "stream", "uv")

    def __init__(self, uv: Uv, id: int, address: str, stream: RaftUvStream) -> None:
        self.uv = uv
        self.id = id
        self.address = address
        self.stream = stream
        self.heard_at = 0  # number of its last message, counting those of all
        self._reader = Reader(uv.limits, self._deliver)

    def start(self) -> None:
        """Start reading."""
        self.stream.start_read(self._read_cb)

    def abort(self) -> None:
        """Close the connection; nothing is delivered from it any more."""
        uv = self.uv
        self._reader.stopped = True
        uv.servers.remove(self)
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
        if uv.recv_cb is not None:  # callbacks.fire without its call, as this is done for each message
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
            # Streams of other transports need not have this.
            read_into = getattr(stream, "start_read_into", None)
            if read_into is not None:
                read_into(self._alloc_cb, self._read_into_cb)

    def _take(self, take: Callable[[_T], None], what: _T) -> bool:
        """Have the reader take what has come, as one event; return whether the connection is still good."""
        end_of_turn = self.uv.end_of_turn
        end_of_turn.hold()
        try:
            take(what)
        except Failure as failure:
            self._drop(failure)
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


def _bad_header_size(size: int, limit: int) -> Failure:
    if size == 0:
        return Failure(RAFT_MALFORMED, "header of 0 bytes")
    return Failure(RAFT_TOOBIG, f"header of {size} bytes exceeds the limit of {limit}")

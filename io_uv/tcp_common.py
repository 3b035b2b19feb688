"""The common part of listening, connecting and the transport itself.

Duty: the state of a stock transport (`UvTcp`, C's src/uv_tcp.h), the handshake that opens every connection, the options
of its sockets, and calling back the transport's close.

Happy path: the connecting side introduces itself and gets no answer: word 1, word own id, word length of the address
padded to a multiple of 8, the own address closed and padded with NULs.

Over TLS the acceptor answers: with word 1, or with word 2 and a reason.

Failure modes: a handshake that is not exactly one raises Failure(RAFT_MALFORMED), or RAFT_UNAUTHORIZED for a peer that
begins with TLS.
"""

import asyncio
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from io_uv import ip, pyuv
from io_uv.failure import Failure
from io_uv.refusal import Refusals, refused
from io_uv.state import Limits
from io_uv.teller import Teller
from io_uv.transport import (
    RaftUvDial,
    RaftUvGuest,
    RaftUvHandshake,
    RaftUvTransport,
    raft_uv_accept_cb,
    raft_uv_dialer,
    raft_uv_opening,
    raft_uv_serve_cb,
    raft_uv_transport_close_cb,
)
from pyraft.errors import RAFT_MALFORMED, RAFT_UNAUTHORIZED
from pyraft.tracing import NoopTracer, RaftTracer
from pyraft.types import UNSET, RaftIo

if TYPE_CHECKING:
    from io_uv.gate import Gate
    from io_uv.tcp_connect import Connect
    from io_uv.tcp_listen import Incoming
    from io_uv.tls import Security

_log: Final = logging.getLogger("io_uv")

PROTOCOL: Final = 1
WELCOME: Final = struct.pack("<Q", 1)
REFUSED: Final = 2
"""The answer of an acceptor over TLS, and there only: a C server sends nothing, and reads nothing from an acceptor."""
HANDSHAKE_SIZE: Final = 24

_KEEPALIVE_SECONDS: Final = 10
_KEEPALIVE_INTERVAL_SECONDS: Final = 5
_KEEPALIVE_PROBES: Final = 3

MAX_REFUSAL: Final = 1024

_handshake: Final = struct.Struct("<3Q")


ELSEWHERE: Final = "another thread runs the loop: pyuv.Async.send gets there"
"""Why a call is refused; pyraft.calls has it for those of the core."""


def elsewhere(loop: pyuv.Loop) -> bool:
    """Return whether another thread than this one runs the loop just now."""
    return not loop._closed and asyncio._get_running_loop() is not loop._uv and loop._uv.is_running()


def misplaced(loop: pyuv.Loop, *tables: RaftIo | RaftUvTransport | RaftUvDial) -> bool:
    """Return whether to refuse a call, as another thread runs the loop; errmsg of the tables says so then."""
    if not elsewhere(loop):
        return False
    for table in tables:
        table.errmsg = ELSEWHERE
    return True


def ignored(loop: pyuv.Loop, name: str) -> bool:
    """Return whether function `name`, which returns nothing, is called as in `misplaced`; the log says so then."""
    if not elsewhere(loop):
        return False
    _log.error("%s does nothing: %s", name, ELSEWHERE)
    return True


def check_loop(loop: object) -> None:
    """Raise TypeError if that is not a loop of pyuv, as the compiler does in C: asyncio's own is a frequent mistake."""
    if not isinstance(loop, pyuv.Loop):
        how = "pyuv.Loop(asyncio.get_running_loop()) makes one of asyncio's"
        raise TypeError(f"loop must be an io_uv.pyuv.Loop, and is a {type(loop).__name__}: {how}")


def mind_threads(io: RaftIo, loop: pyuv.Loop) -> None:
    """Fill in RaftIo.thread and RaftIo.elsewhere, see there."""
    io.thread = threading.get_ident
    io.elsewhere = lambda io: elsewhere(loop)


class StockHandshake:
    """libraft's way of beginning a connection between servers."""

    answered = True

    def encode(self, id: int, address: str) -> bytes:
        """Return what server `id` says first."""
        return encode_handshake(id, address)

    def reader(self, limit: int) -> "Handshake":
        """Return the reader of one handshake."""
        return Handshake(limit)


class UvTcp:
    """`struct UvTcp`, to which RaftUvTransport.impl points."""

    def __init__(self, transport: RaftUvTransport, loop: pyuv.Loop) -> None:
        self.transport = transport
        self.loop = loop
        self.id = 0
        self.address = ""
        self.bind_address: str | None = None
        self.limits = Limits()
        self.tracer: RaftTracer = NoopTracer
        self.refusals = Refusals("transport")
        # Wraps both kinds of connection where TLS is on: tls.Security.
        self.security: Security | None = None
        # Listening: tcp_listen.
        self.accept_cb: raft_uv_accept_cb = UNSET
        self.listeners: list[pyuv.TCP] = []
        self.accepting: dict[Incoming, None] = {}
        self.sweeper: pyuv.Timer | None = None
        self.gate: Gate | None = None
        self.teller = Teller(loop)
        self.turned_away = 0
        """Inbound connections that were closed before they had got anywhere, since the start."""
        # Other protocols on the port: guests.
        self.services: dict[int | Callable[[int], bool], raft_uv_serve_cb] = {}
        self.guests: dict[RaftUvGuest, None] = {}
        # Connecting: tcp_connect. A dialer that is not the stock one has a time limit from outside.
        self.connecting: dict[Connect, None] = {}
        self.dialer: raft_uv_dialer = UNSET
        self.dialer_limited = False
        self.opening: raft_uv_opening | None = None
        # How connections between servers begin, both ways: tcp_connect, tcp_listen.
        self.handshake: RaftUvHandshake = StockHandshake()
        # All that the close callback waits for besides listeners.
        self.aborting: set[object] = set()
        self.closing = False
        self.close_cb: raft_uv_transport_close_cb | None = None


class Handshake:
    """A handshake being received: feed it what arrives until it is complete."""

    __slots__ = ("_buf", "_limit", "address", "id", "more", "rest")

    def __init__(self, limit: int) -> None:
        self._buf = bytearray()
        self._limit = limit
        self.id = 0
        self.address = ""
        self.more = b""
        """The bytes behind the end of the address, in the room for its padding; libraft does not look at them."""
        self.rest = b""
        """The bytes that followed the handshake in the last piece."""

    def feed(self, data: bytes) -> bool:
        """Take some bytes; True once id, address and rest are known. Raises Failure(RAFT_MALFORMED)."""
        buf = self._buf
        buf += data
        if len(buf) >= 8 and int.from_bytes(buf[:8], "little") != PROTOCOL:
            if buf[:2] == b"\x16\x03":
                raise Failure(RAFT_UNAUTHORIZED, "it speaks TLS, which this server does not")
            raise Failure(RAFT_MALFORMED, "unknown protocol version at offset 0")
        if len(buf) < HANDSHAKE_SIZE:
            return False
        _, id, size = _handshake.unpack_from(buf)
        if id == 0:
            raise Failure(RAFT_MALFORMED, "server id 0 at offset 8")
        # C: uv_tcp_listen.c:uvTcpDecodePreamble allocates whatever length it reads.
        if not 0 < size <= self._limit:
            raise Failure(RAFT_MALFORMED, f"address of {size} bytes at offset 16, the limit is {self._limit}")
        end = HANDSHAKE_SIZE + size
        if len(buf) < end:
            return False
        length = buf.find(b"\0", HANDSHAKE_SIZE, end)
        if length < 0:
            raise Failure(RAFT_MALFORMED, "address at offset 24 has no end")
        address = buf[HANDSHAKE_SIZE:length].decode("utf-8", "surrogateescape")
        if ip.has_control(address):
            raise Failure(RAFT_MALFORMED, "control characters in the address at offset 24")
        self.id = id
        self.address = address
        self.more = bytes(buf[length + 1 : end])
        self.rest = bytes(buf[end:])
        return True


def encode_handshake(id: int, address: str, more: bytes = b"") -> bytes:
    """Return the handshake by which server `id` introduces itself, with `more` behind the end of its address."""
    name = address.encode("utf-8", "surrogateescape") + b"\0"
    name += bytes(-len(name) % 8) + more
    name += bytes(-len(name) % 8)
    return _handshake.pack(PROTOCOL, id, len(name)) + name


def encode_refusal(reason: str) -> bytes:
    """Return the bytes that tell a peer why it is not let in: word 2, word length, text padded with zeros to words.

    They go to peers over TLS, and to peers whose handshake says that they read on (`RaftUvHandshake`, `hears`).
    """
    text = reason.encode("utf-8", "replace")[:MAX_REFUSAL]
    return struct.pack("<2Q", REFUSED, len(text)) + text + bytes(-len(text) % 8)


def decode_answer(data: bytes) -> str | None:
    """Return "" for a welcome, else why there is none; None while the answer is not complete."""
    if len(data) < 8:
        return None
    if data[:8] == WELCOME:
        return ""
    if len(data) < 16:
        return None
    word, size = struct.unpack_from("<2Q", data)
    if word != REFUSED or size > MAX_REFUSAL:
        return "its answer to our handshake makes no sense"
    if len(data) < 16 + size:
        return None
    return "the peer says: " + data[16 : 16 + size].decode("utf-8", "replace")


_LATE: Final = "a peer that vanishes is noticed late"


def tune(handle: pyuv.TCP, t: UvTcp) -> None:
    """Set the options of a connection: no delay for small writes, and an end for connections whose peer is gone.

    An option that a sandbox or an old kernel refuses is done without. Raises OSError or pyuv.error.UVError otherwise,
    which on a connection that has just been reset is to be expected.
    """
    # C: uv_tcp_connect.c and uv_tcp_listen.c set no options at all: small messages wait for the acknowledgement of
    # their predecessor, and a peer that vanished without a word is noticed after a quarter of an hour.
    options = (
        ("TCP_NODELAY", socket.IPPROTO_TCP, socket.TCP_NODELAY, 1, "small messages may wait for others"),
        ("SO_KEEPALIVE", socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1, _LATE),
        ("TCP_KEEPIDLE", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS, _LATE),
        ("TCP_KEEPINTVL", socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS, _LATE),
        ("TCP_KEEPCNT", socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES, _LATE),
        ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, t.limits.unanswered_msecs, _LATE),
    )
    sock = socket.socket(handle.family, socket.SOCK_STREAM, fileno=os.dup(handle.fileno()))
    try:
        for name, level, option, value, instead in options:
            try:
                sock.setsockopt(level, option, value)
            except OSError as exc:
                if not refused(exc):
                    raise
                t.refusals.note(name, exc, instead=instead)
    finally:
        sock.close()


def host_of(stream: Any) -> str:
    """Return the host at the other end of a stream over TCP, "" if that cannot be told."""
    try:
        name = stream.getpeername()
    except (pyuv.error.UVError, OSError):
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""


def call_both(callback: Callable[[Any], object] | None, stream: object, gone_cb: Callable[[], object]) -> None:
    """Call back the close of a stream, then whoever counts streams, whatever the first one raises."""
    try:
        if callback is not None:
            callback(stream)
    finally:
        gone_cb()


def maybe_fire_close(t: UvTcp) -> None:
    """Call back the transport's close if it was called and nothing is left to wait for."""
    if not t.closing or t.aborting or t.listeners or t.guests:
        return
    assert not t.accepting
    assert not t.connecting
    cb, t.close_cb = t.close_cb, None
    if cb is not None:
        cb(t.transport)

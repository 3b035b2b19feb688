"""The stock transport: plain TCP, or TLS over it.

Duty: `raft_uv_tcp_init` and its kin of raft/uv.h; the state that listening and connecting share (`UvTcp`, C's
src/uv_tcp.h); the handshake that opens every connection; the options of its sockets; the transport's close.

Happy path: init, set_bind_address, then the functions of the table: `init`, `listen` (tcp_listen), `connect`
(tcp_connect), `close`. Who connects introduces itself and gets no answer: word 1, word own id, word length of the
address padded to a multiple of 8, the own address closed and padded with NULs.

Plain TCP protects nothing: whoever reaches the port can claim any id. See `tls` for a transport that checks.

Failure modes: close calls back once all listeners and all connections that nobody owns yet are closed; connections that
were handed over are their owners'. A handshake that is not exactly one raises Failure(RAFT_MALFORMED).
"""

import os
import socket
import struct
from typing import Any, Final

from io_uv import ip, tcp_connect, tcp_listen
from io_uv.fs import Failure
from io_uv.state import Limits
from io_uv.transport import TRANSPORT_VERSION, RaftUvTransport, raft_uv_transport_close_cb
from pyraft.errors import RAFT_INVALID, RAFT_MALFORMED
from pyraft.tracing import NoopTracer, RaftTracer

PROTOCOL: Final = 1
HANDSHAKE_SIZE: Final = 24

_KEEPALIVE_SECONDS: Final = 10
_KEEPALIVE_INTERVAL_SECONDS: Final = 5
_KEEPALIVE_PROBES: Final = 3

_handshake: Final = struct.Struct("<3Q")


class UvTcp:
    """`struct UvTcp`: what RaftUvTransport.impl points to."""

    def __init__(self, transport: RaftUvTransport, loop: Any) -> None:
        self.transport = transport
        self.loop = loop
        self.id = 0
        self.address = ""
        self.bind_address: str | None = None
        self.limits = Limits()
        self.tracer: RaftTracer = NoopTracer
        # Wraps both kinds of connection where TLS is on: tls.Security.
        self.security: Any = None
        # Listening: tcp_listen.
        self.accept_cb: Any = None
        self.listeners: list[Any] = []
        self.accepting: dict[Any, None] = {}
        self.sweeper: Any = None
        # Connecting: tcp_connect.
        self.connecting: dict[Any, None] = {}
        # Whatever the close callback waits for besides listeners.
        self.aborting: set[Any] = set()
        self.closing = False
        self.close_cb: raft_uv_transport_close_cb | None = None


class Handshake:
    """A handshake being received: feed it what arrives until it is complete."""

    __slots__ = ("_buf", "_limit", "address", "id", "rest")

    def __init__(self, limit: int) -> None:
        self._buf = bytearray()
        self._limit = limit
        self.id = 0
        self.address = ""
        self.rest = b""
        """What followed the handshake in the last piece."""

    def feed(self, data: bytes) -> bool:
        """Take some bytes; True once id, address and rest are known. Raises Failure(RAFT_MALFORMED)."""
        buf = self._buf
        buf += data
        if len(buf) >= 8 and int.from_bytes(buf[:8], "little") != PROTOCOL:
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
        self.id = id
        self.address = buf[HANDSHAKE_SIZE:length].decode("utf-8", "surrogateescape")
        self.rest = bytes(buf[end:])
        return True


def encode_handshake(id: int, address: str) -> bytes:
    """Return the handshake by which server `id` introduces itself."""
    name = address.encode("utf-8", "surrogateescape") + b"\0"
    name += bytes(-len(name) % 8)
    return _handshake.pack(PROTOCOL, id, len(name)) + name


def raft_uv_tcp_init(transport: RaftUvTransport, loop: Any) -> int:
    """Make `transport` one that uses TCP sockets on `loop`, an io_uv.pyuv.Loop.

    Returns RAFT_INVALID if transport.version is not 1. Source: raft/uv.h.
    """
    if transport.version != TRANSPORT_VERSION:
        transport.errmsg = f"Invalid version: {transport.version}"
        return RAFT_INVALID
    transport.errmsg = ""
    transport.impl = UvTcp(transport, loop)
    transport.init = _init
    transport.listen = tcp_listen.listen
    transport.connect = tcp_connect.connect
    transport.close = _close
    return 0


def raft_uv_tcp_close(transport: RaftUvTransport) -> None:
    """Release what raft_uv_tcp_init allocated, after the transport's close has called back. Source: raft/uv.h."""
    transport.impl = None


def raft_uv_tcp_set_bind_address(transport: RaftUvTransport, address: str) -> int:
    """Set the address to listen on, where it is not the one given to raft_init; call it before raft_init.

    `address` is host[:port] or [IPv6 literal][:port]; 0.0.0.0 or an empty host means all IPv4 interfaces, the default
    port is 8080. Peers are told the address of raft_init all the same. Returns RAFT_INVALID if host or port is too
    long. Source: raft/uv.h.
    """
    t: UvTcp = transport.impl
    try:
        ip.split(address)
    except Failure:
        return RAFT_INVALID
    t.bind_address = address
    return 0


def adopt(transport: RaftUvTransport, tracer: RaftTracer, limits: Limits) -> None:
    """Have a stock transport report to `tracer` and keep to `limits`; other transports are left alone."""
    t = transport.impl
    if isinstance(t, UvTcp):
        t.tracer = tracer
        t.limits = limits


def tune(handle: Any, limits: Limits) -> None:
    """Set the options of a connection: no delay for small writes, and an end for connections whose peer is gone.

    Raises pyuv.error.UVError or OSError, which on a connection that has just been reset is to be expected.
    """
    # C: uv_tcp_connect.c and uv_tcp_listen.c set no options at all: small messages wait for the acknowledgement of
    # their predecessor, and a peer that vanished without a word is noticed after a quarter of an hour.
    handle.nodelay(True)
    handle.keepalive(True, _KEEPALIVE_SECONDS)
    sock = socket.socket(fileno=os.dup(handle.fileno()))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.unanswered_msecs)
    finally:
        sock.close()


def maybe_fire_close(t: UvTcp) -> None:
    """Call back the transport's close if it was called and nothing is left to wait for."""
    if not t.closing or t.aborting or t.listeners:
        return
    assert not t.accepting
    assert not t.connecting
    cb, t.close_cb = t.close_cb, None
    if cb is not None:
        cb(t.transport)


def _init(transport: RaftUvTransport, id: int, address: str) -> int:
    t: UvTcp = transport.impl
    assert id > 0
    t.id = id
    t.address = address
    return 0


def _close(transport: RaftUvTransport, cb: raft_uv_transport_close_cb) -> None:
    t: UvTcp = transport.impl
    assert not t.closing
    t.closing = True
    t.close_cb = cb
    tcp_listen.close(t)
    tcp_connect.close(t)
    maybe_fire_close(t)

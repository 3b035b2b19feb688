"""The stock transport: plain TCP, or TLS over it.

Duty: `raft_uv_tcp_init` and its kin of raft/uv.h: they fill in the table of a transport whose state is
`tcp_common.UvTcp`; and the transport's close.

Happy path: init, set_bind_address, then the functions of the table: `init`, `listen` (tcp_listen), `connect`
(tcp_connect), `close`.

Plain TCP protects nothing: whoever reaches the port can claim any id. See `tls` for a transport that checks.

Failure modes: close calls back once all listeners, all connections that nobody owns yet and all guests are closed;
connections that were handed to raft are its own.
"""

from io_uv import guests, ip, tcp_connect, tcp_listen
from io_uv.fs import Failure
from io_uv.pyuv import Loop
from io_uv.state import Limits
from io_uv.tcp_common import UvTcp, maybe_fire_close
from io_uv.transport import TRANSPORT_VERSION, RaftUvTransport, raft_uv_transport_close_cb
from pyraft.errors import RAFT_INVALID, errmsg_cut
from pyraft.tracing import RaftTracer


def raft_uv_tcp_init(transport: RaftUvTransport, loop: Loop) -> int:
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
    transport.check_address = _check_address
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


def _init(transport: RaftUvTransport, id: int, address: str) -> int:
    t: UvTcp = transport.impl
    assert id > 0
    t.id = id
    t.address = address
    if t.security is not None:
        try:
            t.security.identify(id, address)
        except Failure as failure:
            transport.errmsg = errmsg_cut(failure.message)
            return failure.code
    return 0


def _check_address(transport: RaftUvTransport, address: str) -> int:
    try:
        ip.check_peer(address)
    except Failure as failure:
        transport.errmsg = errmsg_cut(failure.message)
        return failure.code
    return 0


def _close(transport: RaftUvTransport, cb: raft_uv_transport_close_cb) -> None:
    t: UvTcp = transport.impl
    assert not t.closing
    t.closing = True
    t.close_cb = cb
    tcp_listen.close(t)
    tcp_connect.close(t)
    guests.close(t)
    maybe_fire_close(t)

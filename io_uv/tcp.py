"""The stock transport: plain TCP, or TLS over it.

Duty: `raft_uv_tcp_init` and its kin of raft/uv.h: they fill in the table of a transport whose state is
`tcp_common.UvTcp`; and the transport's close.

Happy path: init, set_bind_address, then the functions of the table: `init`, `listen` (tcp_listen), `connect`
(tcp_connect), `close`.

Plain TCP protects nothing: anybody who reaches the port can claim any id. See `tls` for a transport that checks.

Failure modes: close calls back once all listeners, all connections that nobody owns yet and all guests are closed;
connections that were handed to raft are its own.
"""

import logging
from collections.abc import Callable
from typing import Final

from io_uv import guests, ip, tcp_connect, tcp_dial, tcp_listen
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from io_uv.refusal import Refusals
from io_uv.state import Limits, Uv
from io_uv.tcp_common import UvTcp, check_loop, ignored, maybe_fire_close, misplaced
from io_uv.transport import (
    TRANSPORT_VERSION,
    RaftUvHandshake,
    RaftUvTransport,
    raft_uv_dialer,
    raft_uv_opening,
    raft_uv_transport_close_cb,
)
from pyraft.errors import RAFT_INVALID, errmsg_cut
from pyraft.tracing import RaftTracer

_log: Final = logging.getLogger("io_uv")


def raft_uv_tcp_init(transport: RaftUvTransport, loop: Loop) -> int:
    """Make `transport` one that uses TCP sockets on `loop`, an io_uv.pyuv.Loop.

    Returns RAFT_INVALID if transport.version is not 1, or if another thread runs the loop. Raises TypeError for a loop
    that is not of pyuv.
    Source: raft/uv.h.
    """
    if transport.version != TRANSPORT_VERSION:
        transport.errmsg = f"Invalid version: {transport.version}"
        return RAFT_INVALID
    check_loop(loop)
    if misplaced(loop, transport):
        return RAFT_INVALID
    transport.errmsg = ""
    t = transport.impl = UvTcp(transport, loop)
    t.dialer = tcp_dial.dial
    transport.init = _init
    transport.listen = tcp_listen.listen
    transport.connect = tcp_connect.connect
    transport.close = _close
    transport.check_address = _check_address
    transport.same_address = _same_address
    return 0


def raft_uv_tcp_close(transport: RaftUvTransport) -> None:
    """Release what raft_uv_tcp_init allocated, after the transport's close has called back. Source: raft/uv.h.

    Called while a server uses the transport, it changes nothing, and the log says so.
    """
    if isinstance(transport.impl, UvTcp) and ignored(transport.impl.loop, "raft_uv_tcp_close"):
        return
    if isinstance(transport.impl, UvTcp) and isinstance(transport.data, Uv) and not transport.data.closed:
        # C: uv_tcp.c:raft_uv_tcp_close frees it. Here the server would raise AttributeError for the rest of its life.
        _log.error("raft_uv_tcp_close does nothing: server %d uses the transport", transport.impl.id)
        return
    transport.impl = None


def raft_uv_tcp_set_bind_address(transport: RaftUvTransport, address: str) -> int:
    """Set the address to listen on, where it is not the one given to raft_init; call it before raft_init.

    `address` is host[:port] or [IPv6 literal][:port]; 0.0.0.0 or an empty host means all IPv4 interfaces, the default
    port is 8080. Peers are told the address of raft_init all the same. Returns RAFT_INVALID if host or port is too
    long; ours: for a text that cannot be encoded, for transports that raft_uv_tcp_init or raft_uv_tls_init have not
    made, and if another thread runs the loop.
    Source: raft/uv.h.
    """
    t = _open_to_settings(transport)
    if t is None or not isinstance(address, str):
        return RAFT_INVALID
    try:
        ip.split(address)
    except Failure:
        return RAFT_INVALID
    t.bind_address = address
    return 0


def raft_uv_set_dialer(
    transport: RaftUvTransport,
    dialer: raft_uv_dialer,
    check_address: Callable[[RaftUvTransport, str], int] | None = None,
) -> int:
    """Have `dialer(transport, req)` open the streams to addresses, raft's and those of raft_uv_dial. Ours.

    For proxies, HTTP upgrades, Unix sockets, maps of addresses, a TLS of one's own. `req` is a RaftUvDial: the dialer
    sets `req.cancel`, returns 0 and calls `req.cb(req, stream, status)` once, never inside itself or cancel: with a
    stream and 0; or, when nothing of the attempt is left, with None, a code and a text in `req.errmsg`: RAFT_CANCELED
    after a cancel, RAFT_UNAUTHORIZED if trying again will not help, else RAFT_NOCONNECTION. After any other code that
    it returns there is no callback. It is cancelled after `limits.connect_msecs`. On a transport of raft_uv_tls_init
    TLS is spoken on what it opens, which must be a pyuv TCP or Pipe handle.

    Addresses may be any text then; `check_address(transport, address)` says which ones can be members': 0, or
    RAFT_INVALID and a text in transport.errmsg. Where the server listens, `raft_uv_tcp_set_bind_address` says.

    Call it before raft_init. RAFT_INVALID if the transport is not one of raft_uv_tcp_init or raft_uv_tls_init, or if
    another thread runs the loop.
    """
    t = _open_to_settings(transport)
    if t is None:
        return RAFT_INVALID
    t.dialer = dialer
    t.dialer_limited = True
    transport.check_address = check_address
    transport.same_address = None
    return 0


def raft_uv_set_opening(transport: RaftUvTransport, opening: raft_uv_opening) -> int:
    """Have `opening(transport, req, stream)` do what comes before anything else on a stream that was opened. Ours.

    For an HTTP upgrade, or the words of a proxy: behind the dialer and TLS, before the handshake of servers, and before
    raft_uv_dial hands the stream over. `req` is a RaftUvDial with id and address. The opening writes and reads as it
    needs, returns 0, and when it is done, reading no more, calls `req.cb(req, stream, 0)`, or, for a stream that is of
    no use, `req.cb(req, None, code)` with a text in `req.errmsg`: RAFT_UNAUTHORIZED if trying again will not help, else
    RAFT_NOCONNECTION. After any other code that it returns there is no callback. The stream is closed by others:
    `req.cancel()`, which it may set, says so before that, and nobody waits for a callback then. It all has to be over
    within `limits.connect_msecs`.

    Call it before raft_init. RAFT_INVALID if the transport is not one of raft_uv_tcp_init or raft_uv_tls_init, or if
    another thread runs the loop.
    """
    t = _open_to_settings(transport)
    if t is None:
        return RAFT_INVALID
    t.opening = opening
    return 0


def raft_uv_set_handshake(transport: RaftUvTransport, handshake: RaftUvHandshake) -> int:
    """Have connections between servers begin as `handshake` says, in both directions. Ours.

    Its encoding is written on the streams that this server opens; its readers read what peers begin with, unless
    the first word is served (raft_uv_serve), within the limits for handshakes. Call it before raft_start. RAFT_INVALID
    if the transport is not one of raft_uv_tcp_init or raft_uv_tls_init, or if another thread runs the loop.
    """
    t = _open_to_settings(transport)
    if t is None:
        return RAFT_INVALID
    t.handshake = handshake
    return 0


def _open_to_settings(transport: RaftUvTransport) -> UvTcp | None:
    """Return the state of a stock transport; None, with errmsg, for another one, or if another thread runs the loop."""
    t = transport.impl
    if not isinstance(t, UvTcp):
        transport.errmsg = "not a stock transport"
        return None
    return None if misplaced(t.loop, transport) else t


def adopt(transport: RaftUvTransport, tracer: RaftTracer, limits: Limits, refusals: Refusals) -> None:
    """Have a stock transport report to `tracer` and `refusals`, and keep to `limits`; others are left alone."""
    t = transport.impl
    if isinstance(t, UvTcp):
        t.tracer = tracer
        t.limits = limits
        t.refusals = refusals


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


def _same_address(transport: RaftUvTransport, one: str, other: str) -> bool:
    return ip.is_same_peer(one, other)


def _close(transport: RaftUvTransport, cb: raft_uv_transport_close_cb) -> None:
    t: UvTcp = transport.impl
    assert not t.closing
    t.closing = True
    t.close_cb = cb
    tcp_listen.close(t)
    tcp_connect.close(t)
    guests.close(t)
    maybe_fire_close(t)

"""Connecting to another server.

The happy path of a connect request is: the dialer opens a stream to the address (`tcp_dial`, or whoever was given to
raft_uv_set_dialer); with TLS agree on keys and see that the certificate names the server; write the handshake; once it
is written and, with TLS, the peer has answered that we are let in, call back with the stream. Older versions do not
answer, and are taken to have let us in when they have not hung up within a second. raft_uv_dial stops behind TLS. The
opening, if raft_uv_set_opening has been given one, comes behind TLS, for both.

Possible failure modes are:

- The dialer refuses: connect returns its code, no callback.
- It finds no way, or an own one takes too long: RAFT_NOCONNECTION.
- The opening says so, or has not called back in time: RAFT_NOCONNECTION, or RAFT_UNAUTHORIZED if it says that.
- TLS or the write of the handshake fails: RAFT_NOCONNECTION. RAFT_UNAUTHORIZED if trying again will not help: one end's
  certificate does not please the other.
- The transport is closed: RAFT_CANCELED, unless the request was failing already.

Callbacks come after everything of the request is closed, thus never inside connect.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from io_uv import pyuv, tcp_common
from io_uv.transport import (
    RaftUvConnect,
    RaftUvDial,
    RaftUvDuplex,
    RaftUvTransport,
    raft_uv_connect_cb,
    raft_uv_dial_cb,
)
from pyraft.errors import RAFT_CANCELED, RAFT_INVALID, RAFT_NOCONNECTION, RAFT_UNAUTHORIZED, errmsg_cut
from pyraft.types import raft_id

if TYPE_CHECKING:
    from io_uv.tls import TlsStream

_WELCOME_SECONDS: Final = 1.0


class Connect:
    """`struct uvTcpConnect`: a request of raft, which introduces the own server, or of raft_uv_dial."""

    __slots__ = ("address", "answer", "dial", "done", "id", "introduces", "reason", "status", "stream", "t", "timer")

    def __init__(
        self,
        t: tcp_common.UvTcp,
        id: raft_id,
        address: str,
        introduces: bool,
        done: Callable[[RaftUvDuplex | None, int], object],
    ) -> None:
        self.t = t
        self.id = id
        self.address = address
        self.introduces = introduces
        self.done = done
        self.dial: RaftUvDial | None = None  # while the dialer is at work, or what was set for an opened stream
        self.stream: RaftUvDuplex | TlsStream | None = None  # for the caller: the dialled stream, or TLS on it
        self.timer = pyuv.Timer(t.loop)
        self.answer = b""
        self.reason = ""
        self.status: int | None = None  # None while the request may succeed


def connect(transport: RaftUvTransport, req: RaftUvConnect, id: int, address: str, cb: raft_uv_connect_cb) -> int:
    """Implementation of RaftUvTransport.connect. The head of this module says what it returns and calls back."""
    t: tcp_common.UvTcp = transport.impl
    assert not t.closing
    req.cb = cb
    return _begin(Connect(t, id, address, True, lambda stream, status: req.cb(req, stream, status)))


def raft_uv_dial(transport: RaftUvTransport, req: RaftUvDial, id: raft_id, address: str, cb: raft_uv_dial_cb) -> int:
    """Open a stream to server `id` at `address`, for a protocol of one's own, as the transport does for raft. Ours.

    The transport's dialer opens it; over TLS the peer's certificate must name the server, or with an id of 0 only be
    signed by one of the authorities. Nothing is written on it. `cb(req, stream, status)` follows, never inside this;
    the stream is the caller's. `req.cancel()` ends the request with RAFT_CANCELED, and so does the transport's close;
    `req.errmsg` says what went wrong.

    Errors, here or in the callback: RAFT_NOCONNECTION; RAFT_UNAUTHORIZED if a certificate, of either end, is not taken;
    RAFT_CANCELED once the transport is closed; RAFT_INVALID if it is not one of raft_uv_tcp_init or raft_uv_tls_init,
    or if another thread runs the loop; and the codes of a dialer of raft_uv_set_dialer.
    """
    t = transport.impl
    if not isinstance(t, tcp_common.UvTcp):
        req.errmsg = transport.errmsg = "not a stock transport"
        return RAFT_INVALID
    if tcp_common.misplaced(t.loop, transport, req):
        return RAFT_INVALID
    if t.closing:
        req.errmsg = transport.errmsg = "closed"
        return RAFT_CANCELED
    req.id, req.address, req.cb = id, address, cb

    def done(stream: RaftUvDuplex | None, status: int) -> None:
        req.cancel = None
        req.errmsg = transport.errmsg if status != 0 else ""
        req.cb(req, stream, status)

    r = Connect(t, id, address, False, done)
    rv = _begin(r)
    if rv == 0:
        req.cancel = lambda: _cancel(r)
    else:
        req.errmsg = transport.errmsg
    return rv


def close(t: tcp_common.UvTcp) -> None:
    """Cancel all requests."""
    for r in list(t.connecting):
        _end(r, RAFT_CANCELED)


def _cancel(r: Connect) -> None:
    if r.status is None and r in r.t.connecting:
        _end(r, RAFT_CANCELED)


def _begin(r: Connect) -> int:
    t = r.t
    dial = r.dial = RaftUvDial()
    dial.id, dial.address = r.id, r.address
    dial.cb = lambda dial, stream, status: _dialled(r, stream, status)
    t.connecting[r] = None
    try:
        rv = t.dialer(t.transport, dial)
    except BaseException:
        _forget(r)
        raise
    if rv != 0:
        t.transport.errmsg = errmsg_cut(dial.errmsg)
        _forget(r)
    elif r.dial is not None and t.dialer_limited:
        _limit(r)
    return rv


def _forget(r: Connect) -> None:
    r.timer.close()
    del r.t.connecting[r]


def _limit(r: Connect) -> None:
    r.timer.start(lambda timer: _timer_cb(r), r.t.limits.connect_msecs / 1000, 0)


def _timer_cb(r: Connect) -> None:
    _fail(r, f"uv_tcp_connect(): {pyuv.errno.strerror(pyuv.errno.UV_ETIMEDOUT)}")


def _dialled(r: Connect, stream: RaftUvDuplex | None, status: int) -> None:
    """The dialer is done, or has given up."""
    dial, r.dial = r.dial, None
    if dial is None or r.status is not None:
        if stream is not None:
            # It came too late, or a second time.
            stream.close(lambda stream: _closed(r) if dial is not None else None)
        elif dial is not None:
            if status not in (0, RAFT_CANCELED) and r.status == RAFT_CANCELED:
                r.status, r.reason = _code(status), dial.errmsg
            _closed(r)
        return
    if stream is None:
        _fail(r, dial.errmsg or f"the dialer says {status}", _code(status))
        return
    r.stream = stream
    _limit(r)
    security = r.t.security
    if security is None:
        _ready(r)
    elif isinstance(stream, pyuv.TCP | pyuv.Pipe):
        r.stream = security.connect(stream, r.id, r.address, lambda stream, reason: _secured(r, reason))
    else:
        _fail(r, f"TLS needs a TCP or Pipe handle, not a {type(stream).__name__}")


def _code(status: int) -> int:
    return RAFT_UNAUTHORIZED if status == RAFT_UNAUTHORIZED else RAFT_NOCONNECTION


def _tls(r: Connect) -> "TlsStream":
    """Return the stream of a request that uses TLS."""
    return cast("TlsStream", r.stream)


def _secured(r: Connect, reason: str) -> None:
    """TLS is established and the peer is the one that was meant, or not: then `reason` says why."""
    if r.status is not None:
        return
    if reason:
        _fail(r, f"uv_tcp_connect(): {reason}", RAFT_UNAUTHORIZED if _tls(r).certain else RAFT_NOCONNECTION)
        return
    if r.t.gate is not None and r.id != 0:
        # A peer has proven itself there: it comes before strangers when it calls back, also after a restart of ours.
        r.t.gate.trust(tcp_common.host_of(r.stream))
    _ready(r)


def _ready(r: Connect) -> None:
    """The stream is open: have done on it what is to come first."""
    t = r.t
    assert r.stream is not None
    if t.opening is None:
        _use(r)
        return
    dial = r.dial = RaftUvDial()
    dial.id, dial.address = r.id, r.address
    dial.cb = lambda dial, stream, status: _prepared(r, dial, status)
    try:
        rv = t.opening(t.transport, dial, r.stream)
    except BaseException as exc:
        _fail(r, f"{type(exc).__name__}: {exc}")
        raise
    if rv != 0:
        _prepared(r, dial, rv)


def _prepared(r: Connect, dial: RaftUvDial, status: int) -> None:
    """The opening is done with the stream."""
    if r.status is not None or r.dial is not dial:
        return
    r.dial = None
    if status != 0:
        _fail(r, dial.errmsg or f"the opening says {status}", _code(status))
    else:
        _use(r)


def _use(r: Connect) -> None:
    """Introduce the own server on the stream, or hand it over as it is."""
    t = r.t
    assert r.stream is not None
    if r.introduces:
        stream: Any = r.stream
        introduce = getattr(t.handshake, "introduce", None)
        data = t.handshake.encode(t.id, t.address) if introduce is None else introduce(t.id, t.address, r.id)
        stream.write(data, lambda stream, error: _handshake_cb(r, error))
    else:
        _hand_over(r)


def _handshake_cb(r: Connect, error: int | None) -> None:
    """The handshake was written: hand the stream over."""
    if r.status is not None:
        return
    if error is not None:
        _fail(r, f"uv_tcp_connect(): {pyuv.errno.strerror(error)}")
    elif r.t.security is None or not r.t.handshake.answered:
        _hand_over(r)
    else:
        # With TLS 1.3 nothing so far tells whether the peer takes our certificate. It answers, but for older versions.
        r.timer.start(lambda timer: _hand_over(r), _WELCOME_SECONDS, 0)
        _tls(r).start_read(lambda stream, data, error: _answer_cb(r, data, error))


def _answer_cb(r: Connect, data: bytes | None, error: int | None) -> None:
    """The acceptor says whether we are let in, or hangs up."""
    if r.status is not None:
        return
    if error is not None:
        reason = _tls(r).reason or pyuv.errno.strerror(error)
        _fail(r, f"uv_tcp_connect(): {reason}", RAFT_UNAUTHORIZED if _tls(r).certain else RAFT_NOCONNECTION)
        return
    r.answer += data or b""
    refusal = tcp_common.decode_answer(r.answer)
    if refusal is None:
        return
    if refusal:
        _fail(r, f"uv_tcp_connect(): {refusal}", RAFT_UNAUTHORIZED)
        return
    _tls(r).welcome = True
    _hand_over(r)


def _hand_over(r: Connect) -> None:
    _forget(r)
    if r.t.security is not None:
        _tls(r).stop_read()
    stream: Any = r.stream
    r.done(stream, 0)


def _fail(r: Connect, reason: str, code: int = RAFT_NOCONNECTION) -> None:
    r.reason = reason
    _end(r, code)


def _end(r: Connect, status: int) -> None:
    """Close what the request holds; it is called back with `status` after that."""
    r.status = status
    _forget(r)
    r.t.aborting.add(r)
    dial = r.dial
    if dial is not None and dial.cancel is not None:
        dial.cancel()
    if dial is not None and r.stream is None:
        # The dialer calls back, or its request would be forgotten: close waits for that.
        return
    stream: Any = r.stream or pyuv.TCP(r.t.loop)
    stream.close(lambda stream: _closed(r))


def _closed(r: Connect) -> None:
    assert r.status is not None
    r.t.aborting.discard(r)
    r.t.transport.errmsg = errmsg_cut(r.reason or "canceled")
    r.done(None, r.status)
    tcp_common.maybe_fire_close(r.t)

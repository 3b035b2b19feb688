"""Connecting to another server.

The happy path of a connect request is: resolve the host, in a thread if it is a name; connect to the first address;
with TLS agree on keys and see that the certificate names the server; write the handshake; once it is written and, with
TLS, the peer has answered that we are let in, call back with the stream. Older versions do not answer, and are taken to
have let us in when they have not hung up within a second.

Possible failure modes are:

- The address cannot be taken apart or has no host: connect returns RAFT_NOCONNECTION, no callback.
- The host cannot be resolved: RAFT_NOCONNECTION.
- An address does not answer in time or refuses: the next one is tried; after the last one RAFT_NOCONNECTION.
- TLS or the write of the handshake fails: RAFT_NOCONNECTION, without trying other addresses. RAFT_UNAUTHORIZED if
  trying again will not help: one end's certificate does not please the other.
- The transport is closed: RAFT_CANCELED, unless the request was failing already.

Callbacks come after the handle is closed, thus never inside connect.
"""

from typing import TYPE_CHECKING, Final, cast

from io_uv import ip, pyuv, tcp_common
from io_uv.fs import Failure
from io_uv.transport import RaftUvConnect, RaftUvTransport, raft_uv_connect_cb
from pyraft.errors import RAFT_CANCELED, RAFT_NOCONNECTION, RAFT_UNAUTHORIZED, errmsg_cut

if TYPE_CHECKING:
    from io_uv.tls import TlsStream

_WELCOME_SECONDS: Final = 1.0


class Connect:
    """`struct uvTcpConnect`: a connect request."""

    __slots__ = ("address", "addresses", "answer", "handle", "id", "req", "resolving", "status", "stream", "t", "timer")

    def __init__(self, t: tcp_common.UvTcp, req: RaftUvConnect, id: int, address: str) -> None:
        self.t = t
        self.req = req
        self.id = id
        self.address = address
        self.addresses: list[ip.SockAddr] = []  # still to be tried
        self.handle: pyuv.TCP | None = None  # of the current attempt
        self.stream: pyuv.TCP | TlsStream | None = None  # what the caller will get: the handle, or TLS around it
        self.timer = pyuv.Timer(t.loop)
        self.resolving: pyuv.dns.GAIRequest | None = None
        self.answer = b""
        self.status: int | None = None  # None while the request may succeed


def connect(transport: RaftUvTransport, req: RaftUvConnect, id: int, address: str, cb: raft_uv_connect_cb) -> int:
    """Implementation of RaftUvTransport.connect. The head of this module says what it returns and calls back."""
    t: tcp_common.UvTcp = transport.impl
    assert not t.closing
    try:
        host, port = ip.split(address)
    except Failure:
        transport.errmsg = errmsg_cut(f"uv_tcp_connect(): Cannot split {address} into host and service")
        return RAFT_NOCONNECTION
    if not host or not ip.is_port(port):
        transport.errmsg = "uv_tcp_connect(): Cannot initiate getaddrinfo invalid argument"
        return RAFT_NOCONNECTION
    req.cb = cb
    r = Connect(t, req, id, address)
    t.connecting[r] = None
    addresses = ip.literal_addresses(host, port)
    if addresses is None:
        r.resolving = ip.resolve(t.loop, host, port, lambda addresses, error: _resolved(r, addresses, error))
    else:
        r.addresses = addresses
        _try_next(r)
    return 0


def close(t: tcp_common.UvTcp) -> None:
    """Cancel all connect requests. A look-up that a thread has begun is not waited for."""
    for r in list(t.connecting):
        _end(r, RAFT_CANCELED)


def _resolved(r: Connect, addresses: list[ip.SockAddr], error: str) -> None:
    r.resolving = None
    if r.status is not None:
        return
    if error:
        _fail(r, f"uv_getaddrinfo(): {error}")
        return
    r.addresses = addresses
    _try_next(r)


def _try_next(r: Connect) -> None:
    """Connect to the first of the remaining addresses."""
    t = r.t
    handle = r.handle = pyuv.TCP(t.loop)
    try:
        handle.connect(r.addresses.pop(0), lambda handle, error: _connect_cb(r, handle, error))
    except (pyuv.error.UVError, ValueError) as exc:
        _failed_address(r, str(exc.args[-1]))
        return
    r.timer.start(lambda timer: _timer_cb(r), t.limits.connect_msecs / 1000, 0)


def _timer_cb(r: Connect) -> None:
    reason = pyuv.errno.strerror(pyuv.errno.UV_ETIMEDOUT)
    if r.stream is None:
        _failed_address(r, reason)
    else:
        _fail(r, f"uv_tcp_connect(): {reason}")


def _failed_address(r: Connect, reason: str) -> None:
    """An address did not work: go on with the next one, or give up."""
    if r.addresses:
        r.timer.stop()
        assert r.handle is not None
        r.handle.close()
        _try_next(r)
    else:
        _fail(r, f"uv_tcp_connect(): {reason}")


def _connect_cb(r: Connect, handle: pyuv.TCP, error: int | None) -> None:
    """The TCP connection is established, or could not be."""
    if r.status is not None or handle is not r.handle:
        return
    if error is not None:
        _failed_address(r, pyuv.errno.strerror(error))
        return
    t = r.t
    try:
        tcp_common.tune(handle, t.limits)
    except (pyuv.error.UVError, OSError) as exc:
        _failed_address(r, str(exc.args[-1]))
        return
    if t.security is None:
        r.stream = handle
        _introduce(r)
    else:
        r.stream = t.security.connect(handle, r.id, r.address, lambda stream, reason: _secured(r, reason))


def _tls(r: Connect) -> "TlsStream":
    """Return the stream of a request that uses TLS."""
    return cast("TlsStream", r.stream)


def _secured(r: Connect, reason: str) -> None:
    """TLS is established and the peer is the one that was meant, or not: then `reason` says why."""
    if r.status is not None:
        return
    if reason:
        _fail(r, f"uv_tcp_connect(): {reason}", RAFT_UNAUTHORIZED if _tls(r).certain else RAFT_NOCONNECTION)
    else:
        _introduce(r)


def _introduce(r: Connect) -> None:
    t = r.t
    assert r.stream is not None
    r.stream.write(tcp_common.encode_handshake(t.id, t.address), lambda stream, error: _handshake_cb(r, error))


def _handshake_cb(r: Connect, error: int | None) -> None:
    """The handshake was written: hand the stream over."""
    if r.status is not None:
        return
    if error is not None:
        _fail(r, f"uv_tcp_connect(): {pyuv.errno.strerror(error)}")
    elif r.t.security is None:
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
    del r.t.connecting[r]
    r.timer.close()
    if r.t.security is not None:
        _tls(r).stop_read()
    r.req.cb(r.req, r.stream, 0)


def _fail(r: Connect, reason: str, code: int = RAFT_NOCONNECTION) -> None:
    r.t.transport.errmsg = errmsg_cut(reason)
    _end(r, code)


def _end(r: Connect, status: int) -> None:
    """Close what the request holds; it is called back with `status` after that."""
    r.status = status
    del r.t.connecting[r]
    r.t.aborting.add(r)
    if r.resolving is not None:
        r.resolving.cancel()
    r.timer.close()
    stream = r.stream or r.handle or pyuv.TCP(r.t.loop)
    stream.close(lambda stream: _closed(r))


def _closed(r: Connect) -> None:
    assert r.status is not None
    r.t.aborting.discard(r)
    r.req.cb(r.req, None, r.status)
    tcp_common.maybe_fire_close(r.t)

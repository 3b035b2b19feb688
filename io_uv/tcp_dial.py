"""Opening a TCP stream to an address: the dialer of a transport until raft_uv_set_dialer names another.

The happy path of a dial is: resolve the host, in a thread if it is a name; connect to the first address; set the
connection's options; call back with the stream.

Possible failure modes are:

- The address cannot be taken apart or has no host: RAFT_NOCONNECTION is returned, no callback.
- The host cannot be resolved: RAFT_NOCONNECTION.
- An address does not answer in time or refuses: the next one is tried; after the last one RAFT_NOCONNECTION.
- It is cancelled: RAFT_CANCELED. A look-up that a thread has begun is not waited for.

Callbacks come after the handle is closed, thus never inside dial or cancel.
"""

from io_uv import ip, pyuv, tcp_common
from io_uv.failure import Failure
from io_uv.transport import RaftUvDial, RaftUvTransport
from pyraft.errors import RAFT_CANCELED, RAFT_NOCONNECTION


class Attempt:
    """A dial under way."""

    __slots__ = ("addresses", "handle", "req", "resolving", "status", "t", "timer")

    def __init__(self, t: tcp_common.UvTcp, req: RaftUvDial) -> None:
        self.t = t
        self.req = req
        self.addresses: list[ip.SockAddr] = []  # still to be tried
        self.handle: pyuv.TCP | None = None  # of the current attempt
        self.timer = pyuv.Timer(t.loop)
        self.resolving: pyuv.dns.GAIRequest | None = None
        self.status: int | None = None  # None while the request may succeed


def dial(transport: RaftUvTransport, req: RaftUvDial) -> int:
    """The stock dialer. The head of this module says what it returns and calls back."""
    t: tcp_common.UvTcp = transport.impl
    try:
        host, port = ip.split(req.address)
    except Failure:
        req.errmsg = f"uv_tcp_connect(): Cannot split {req.address} into host and service"
        return RAFT_NOCONNECTION
    if not host or not ip.is_port(port):
        req.errmsg = "uv_tcp_connect(): Cannot initiate getaddrinfo invalid argument"
        return RAFT_NOCONNECTION
    a = Attempt(t, req)
    req.cancel = lambda: _cancel(a)
    addresses = ip.literal_addresses(host, port)
    if addresses is None:
        a.resolving = ip.resolve(t.loop, host, port, lambda addresses, error: _resolved(a, addresses, error))
    else:
        a.addresses = addresses
        _try_next(a)
    return 0


def _cancel(a: Attempt) -> None:
    if a.status is None:
        _end(a, RAFT_CANCELED)


def _resolved(a: Attempt, addresses: list[ip.SockAddr], error: str) -> None:
    a.resolving = None
    if a.status is not None:
        return
    if error:
        _fail(a, f"uv_getaddrinfo(): {error}")
        return
    a.addresses = addresses
    _try_next(a)


def _try_next(a: Attempt) -> None:
    """Connect to the first of the remaining addresses."""
    t = a.t
    handle = a.handle = pyuv.TCP(t.loop)
    try:
        handle.connect(a.addresses.pop(0), lambda handle, error: _connect_cb(a, handle, error))
    except (pyuv.error.UVError, ValueError) as exc:
        _failed_address(a, str(exc.args[-1]))
        return
    a.timer.start(lambda timer: _timer_cb(a), t.limits.connect_msecs / 1000, 0)


def _timer_cb(a: Attempt) -> None:
    _failed_address(a, pyuv.errno.strerror(pyuv.errno.UV_ETIMEDOUT))


def _failed_address(a: Attempt, reason: str) -> None:
    """An address did not work: go on with the next one, or give up."""
    if a.addresses:
        a.timer.stop()
        assert a.handle is not None
        a.handle.close()
        _try_next(a)
    else:
        _fail(a, f"uv_tcp_connect(): {reason}")


def _connect_cb(a: Attempt, handle: pyuv.TCP, error: int | None) -> None:
    """The TCP connection is established, or could not be."""
    if a.status is not None or handle is not a.handle:
        return
    if error is not None:
        _failed_address(a, pyuv.errno.strerror(error))
        return
    try:
        tcp_common.tune(handle, a.t)
    except (pyuv.error.UVError, OSError) as exc:
        _failed_address(a, str(exc.args[-1]))
        return
    a.status = 0
    a.timer.close()
    a.req.cb(a.req, handle, 0)


def _fail(a: Attempt, reason: str) -> None:
    a.req.errmsg = reason
    _end(a, RAFT_NOCONNECTION)


def _end(a: Attempt, status: int) -> None:
    """Close what the attempt holds; it is called back with `status` after that."""
    a.status = status
    if a.resolving is not None:
        a.resolving.cancel()
    a.timer.close()
    handle = a.handle or pyuv.TCP(a.t.loop)
    handle.close(lambda handle: a.req.cb(a.req, None, status))

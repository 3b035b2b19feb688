"""Accepting connections.

The happy path of an inbound connection is: a listener accepts it; its bytes are collected until the handshake is
complete, in whatever pieces they come; with TLS the peer's certificate must name the server that the handshake claims
to come from; then the accept callback gets id, address and stream. Bytes that the peer sent behind the handshake are
delivered by the stream first. A first word that somebody serves makes the connection a guest instead (`guests`).

Possible failure modes are:

- listen cannot resolve or bind one of its addresses: nothing listens, RAFT_IOERR (or RAFT_NAMETOOLONG).
- A connection sends no valid handshake within the time for it, or breaks: it is closed, with a trace.
- More connections are in their handshake than allowed: the oldest of the host to blame is closed (_victim). A peer
  needs a moment only; a host that fills the table with silent connections pushes out its own.
- The transport is closed: connections in their handshake are closed with it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from io_uv import guests, ip, pyuv, tcp_common
from io_uv.failure import Failure, message_of
from io_uv.gate import Gate
from io_uv.transport import RaftUvHandshakeReader, RaftUvTransport, raft_uv_accept_cb
from pyraft.errors import RAFT_IOERR
from pyraft.tracing import trace

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

    from io_uv.tls import TlsStream

# C: uv_tcp_listen.c:uvTcpBindListen asks for a backlog of 1: peers that connect at the same time wait for a second.
_BACKLOG = 128
_NO_REUSE = "a restart may find the address in use for a minute"


class Inbound(pyuv.TCP):
    """An accepted connection. `rewind` puts bytes back that were read too early."""

    reason = ""  # tls.TlsStream has one

    def __init__(self, loop: pyuv.Loop) -> None:
        super().__init__(loop)
        self.gone_cb: Callable[[], object] | None = None
        """Called once the connection is closed, behind the callback of close."""
        self._rest = b""
        self._rest_cb: Callable[[Any, bytes | None, int | None], object] | None = None
        self._idle: pyuv.Idle | None = None

    def rewind(self, data: bytes) -> None:
        """Have the next start_read deliver `data` before what the socket has."""
        self._rest = data

    def start_read(self, callback: "Callable[[Self, bytes | None, int | None], object]") -> None:
        """Start reading, as any pyuv stream does."""
        if not self._rest:
            super().start_read(callback)
            return
        self._rest_cb = callback
        self._idle = pyuv.Idle(self._loop)
        self._idle.start(self._deliver_rest)

    def stop_read(self) -> None:
        """Stop reading."""
        if self._drop_idle():
            return
        super().stop_read()

    def close(self, callback: "Callable[[Self], object] | None" = None) -> None:
        """Close the connection."""
        self._drop_idle()
        gone_cb = self.gone_cb
        if gone_cb is None:
            super().close(callback)
        else:
            super().close(lambda stream: tcp_common.call_both(callback, stream, gone_cb))

    def _deliver_rest(self, idle: pyuv.Idle) -> None:
        self._drop_idle()
        data, self._rest = self._rest, b""
        callback, self._rest_cb = self._rest_cb, None
        assert callback is not None
        super().start_read(callback)
        callback(self, data, None)

    def _drop_idle(self) -> bool:
        if self._idle is None:
            return False
        self._idle.close()
        self._idle = None
        return True


class Incoming:
    """`struct uvTcpIncoming`: an accepted connection whose handshake is under way."""

    __slots__ = ("deadline", "handshake", "host", "received", "refused", "stream", "t")

    def __init__(self, t: tcp_common.UvTcp, stream: "Inbound | TlsStream", host: str) -> None:
        self.t = t
        self.host = host
        self.stream = stream
        self.received = b""
        self.refused = False  # and is left time to read why
        self.handshake: RaftUvHandshakeReader | None = None  # once the first word is known, and raft's
        self.deadline = t.loop.now() + t.limits.handshake_msecs


def listen(transport: RaftUvTransport, cb: raft_uv_accept_cb) -> int:
    """Implementation of RaftUvTransport.listen: listen on all addresses that the own or the bind address stands for.

    Returns RAFT_NAMETOOLONG, or RAFT_IOERR if a name cannot be resolved or an address cannot be bound. A host name is
    looked up here and now, since the result decides what is returned; a numeric one takes no look-up.
    """
    t: tcp_common.UvTcp = transport.impl
    t.accept_cb = cb
    try:
        addresses = ip.bind_addresses(t.address if t.bind_address is None else t.bind_address)
        for address in addresses:
            t.listeners.append(_bind_listen(t, address))
    except Failure as failure:
        transport.errmsg = failure.message
        _close_listeners(t)
        return failure.code
    t.sweeper = pyuv.Timer(t.loop)
    if t.security is not None:
        t.gate = Gate(t.loop)
    return 0


def close(t: tcp_common.UvTcp) -> None:
    """Close the listeners and all connections in their handshake."""
    for incoming in list(t.accepting):
        _abort(incoming)
    _close_listeners(t)
    if t.sweeper is not None:
        t.sweeper.close()
        t.sweeper = None
    if t.gate is not None:
        t.gate.close()


def _bind_listen(t: tcp_common.UvTcp, address: ip.SockAddr) -> pyuv.TCP:
    listener = pyuv.TCP(t.loop)
    try:
        listener.bind(address)
        if listener.refusal is not None:
            t.refusals.note("SO_REUSEADDR", listener.refusal, instead=_NO_REUSE)
        listener.listen(lambda handle, error: _listen_cb(t, handle, error), _BACKLOG)
    except pyuv.error.UVError as exc:
        listener.close()
        raise Failure(RAFT_IOERR, f"listen on {address[0]} port {address[1]}: {exc.args[1]}") from None
    return listener


def _close_listeners(t: tcp_common.UvTcp) -> None:
    # C: uv_tcp_listen.c:uvTcpListenOnMultipleIP frees listeners that libuv is still closing.
    for listener in t.listeners:
        t.aborting.add(listener)
        listener.close(lambda handle: _gone(t, handle))
    t.listeners = []


def _gone(t: tcp_common.UvTcp, thing: object) -> None:
    t.aborting.discard(thing)
    tcp_common.maybe_fire_close(t)


def _listen_cb(t: tcp_common.UvTcp, listener: pyuv.TCP, error: int | None) -> None:
    """A connection waits to be accepted, or accepting failed: out of descriptors, for example."""
    if error is not None:
        reason = pyuv.errno.strerror(error)
        trace(t.tracer, f"accept: {reason}")
        t.teller.warn(("accept", error), "a connection cannot be accepted: %s", reason)
        return
    handle = Inbound(t.loop)
    try:
        listener.accept(handle)
        tcp_common.tune(handle, t)
    except (pyuv.error.UVError, OSError) as exc:
        trace(t.tracer, f"accept: {exc}")
        handle.close()
        return
    if len(t.accepting) >= t.limits.connections:
        text = "more than %d connections are in their handshake: the oldest of the host to blame goes"
        t.teller.warn("connections", text, t.limits.connections)
        _drop(_victim(t), "too many connections without a handshake")
    host = tcp_common.host_of(handle)
    stream: Inbound | TlsStream = handle
    if t.security is not None:
        assert t.gate is not None
        stream = t.security.accept(handle, t.gate, host)
    incoming = Incoming(t, stream, host)
    t.accepting[incoming] = None
    assert t.sweeper is not None
    if not t.sweeper.active:
        t.sweeper.start(lambda timer: _sweep(t), t.limits.handshake_msecs / 1000, 0)
    stream.start_read(lambda stream, data, error: _read_cb(incoming, data, error))


def _read_cb(incoming: Incoming, data: bytes | None, error: int | None) -> None:
    t = incoming.t
    if error is not None:
        reason = incoming.stream.reason or pyuv.errno.strerror(error)
        _drop(incoming, reason, tell=getattr(incoming.stream, "certain", False))
        return
    assert data is not None
    if incoming.refused:
        return
    if incoming.handshake is None:
        incoming.received += data
        if len(incoming.received) < guests.WORD_SIZE or _is_guest(incoming):
            return
        incoming.handshake, data = t.handshake.reader(t.limits.handshake_address), incoming.received
    handshake = incoming.handshake
    try:
        if not handshake.feed(data):
            return
        if t.security is not None:
            t.security.check(cast("TlsStream", incoming.stream), handshake.id, handshake.address)
    except (Failure, ValueError) as failure:
        _refuse(incoming, message_of(failure))
        return
    except BaseException:
        _drop(incoming, "what reads its handshake raised")
        raise
    _let_in(incoming, handshake)


def _is_guest(incoming: Incoming) -> bool:
    """Hand the connection over if somebody serves its first word; return whether that is so."""
    t, stream, received = incoming.t, incoming.stream, incoming.received
    try:
        cb = guests.find(t, int.from_bytes(received[: guests.WORD_SIZE], "little"))
    except BaseException:
        _drop(incoming, "the function that serves its first word raised")
        raise
    if cb is None:
        return False
    stream.stop_read()
    if t.gate is not None:
        t.gate.trust(incoming.host)
    _forget(incoming)
    guests.welcome(t, stream, received, incoming.host, cb)
    return True


def _let_in(incoming: Incoming, handshake: RaftUvHandshakeReader) -> None:
    """The handshake is complete, and the peer who it says: hand the connection over."""
    t, stream = incoming.t, incoming.stream
    stream.stop_read()
    if t.security is not None:
        assert t.gate is not None
        t.gate.trust(incoming.host)
        if t.handshake.answered:
            stream.write(tcp_common.WELCOME)
    _forget(incoming)
    if handshake.rest:
        stream.rewind(handshake.rest)
    t.accept_cb(t.transport, handshake.id, handshake.address, stream)


def _refuse(incoming: Incoming, reason: str) -> None:
    """The peer is not let in, and is told so where it listens."""
    if incoming.t.security is not None and incoming.t.handshake.answered:
        incoming.stream.write(tcp_common.encode_refusal(reason))
    elif incoming.t.security is None and getattr(incoming.handshake, "hears", False):
        # It has sent messages meanwhile. Closing with those unread would reset the connection, and lose the reason.
        incoming.refused = True
        incoming.stream.write(tcp_common.encode_refusal(reason))
        incoming.t.teller.warn((incoming.host, reason), "a peer at %s is not let in: %s", incoming.host, reason)
        return
    _drop(incoming, reason, tell=True)


def _sweep(t: tcp_common.UvTcp) -> None:
    """Close connections whose time for the handshake is over; `accepting` is in the order of the deadlines."""
    now = t.loop.now()
    while t.accepting:
        incoming = next(iter(t.accepting))
        if incoming.deadline > now:
            assert t.sweeper is not None
            t.sweeper.start(lambda timer: _sweep(t), max(incoming.deadline - now, 1) / 1000, 0)
            return
        _drop(incoming, "timed out")


def _victim(t: tcp_common.UvTcp) -> Incoming:
    """Return the connection that makes room for a new one in a full table: the oldest of the host to blame.

    A host with more than half of the table is to blame, be it a peer's: a flood from one host pushes out its own. A
    flood from many hosts is blamed on those from which no peer has come before, on the one with most in the table.
    """
    counts: dict[str, int] = {}
    for incoming in t.accepting:
        counts[incoming.host] = counts.get(incoming.host, 0) + 1
    known = t.gate.hosts if t.gate is not None else {}
    half = len(t.accepting) // 2
    worst = max(counts, key=lambda host: (counts[host] > half, host not in known, counts[host]))
    victim: Incoming = next(incoming for incoming in t.accepting if incoming.host == worst)
    return victim


def _drop(incoming: Incoming, reason: str, tell: bool = False) -> None:
    """Close a connection in its handshake; `tell` the log if an operator has to do something about it."""
    t = incoming.t
    t.turned_away += 1
    if tell:
        t.teller.warn((incoming.host, reason), "a peer at %s is not let in: %s", incoming.host, reason)
    if t.tracer.enabled:
        trace(t.tracer, f"handshake of {_peer_name(incoming.stream)}: {reason}")
    _abort(incoming)


def _abort(incoming: Incoming) -> None:
    t = incoming.t
    _forget(incoming)
    t.aborting.add(incoming)
    incoming.stream.close(lambda stream: _gone(t, incoming))


def _forget(incoming: Incoming) -> None:
    t = incoming.t
    del t.accepting[incoming]
    if not t.accepting:
        assert t.sweeper is not None
        t.sweeper.stop()


def _peer_name(stream: "Inbound | TlsStream") -> str:
    try:
        name = stream.getpeername()
    except (pyuv.error.UVError, OSError):
        return "a peer that is gone"
    return f"{name[0]} port {name[1]}"

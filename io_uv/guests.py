"""Other protocols on the transport's port.

Duty: an accepted connection whose first word is not a raft peer's finds its protocol here. `raft_uv_serve` registers
who takes such connections, `raft_uv_upgrade` hands one on to raft when its protocol says that a server is behind it.

Happy path: a listener accepts a connection; over TLS the peer's certificate is verified; the first 8 bytes are the
word, little-endian. A registered word comes first, then the predicates in the order of their registration, then
libraft's handshake. The protocol's callback gets a `RaftUvGuest`, which from then on has no time limit and counts
against `limits.guests` until it is closed or handed on. Raft's peers are counted by themselves, and nothing that guests
do closes one of their connections.

Failure modes: words that nobody has registered are refused, with a line in the log at a bounded rate. Before the word
is complete, time and number of connections are limited as for handshakes. Where the table of guests is full, the host
with most of them loses its newest, be it the one that has just come. An exception of a callback closes its connection
and goes to the loop's excepthook.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from io_uv import ip, tcp_common
from io_uv.failure import Failure
from io_uv.tcp_common import UvTcp
from io_uv.transport import RaftUvGuest, RaftUvTransport, raft_uv_serve_cb
from pyraft.errors import RAFT_CANCELED, RAFT_INVALID, RAFT_MALFORMED, errmsg_cut
from pyraft.tracing import trace
from pyraft.types import raft_id

WORD_SIZE: Final = 8
_WORDS: Final = 1 << 64

Word: TypeAlias = int | Callable[[int], bool]


def raft_uv_serve(transport: RaftUvTransport, word: Word, cb: raft_uv_serve_cb | None) -> int:
    """Have `cb(transport, guest)` take every accepted connection that begins with `word`. Ours.

    `word` is the value of the first 8 bytes, little-endian, from 0 to 2^64 - 1, or a function that says of such a value
    whether it is one of the protocol's. The value 1 takes the place of libraft's handshake: peers are then let in by
    raft_uv_upgrade only. A `cb` of None ends the service; guests that are there stay. Call it before or after listen.

    Errors: RAFT_INVALID, with a text, for a word that is served already, or not served and to be ended, or impossible;
    or if the transport is not one of raft_uv_tcp_init or raft_uv_tls_init, or another thread runs the loop.
    """
    t = transport.impl
    if not isinstance(t, UvTcp):
        return _refuse(transport, RAFT_INVALID, "not a stock transport")
    if tcp_common.misplaced(t.loop, transport):
        return RAFT_INVALID
    if not callable(word) and not (type(word) is int and 0 <= word < _WORDS):
        return _refuse(transport, RAFT_INVALID, f"{word!r} is not a word of 64 bits")
    if (word in t.services) == (cb is not None):
        return _refuse(transport, RAFT_INVALID, f"{word} is {'served already' if cb else 'not served'}")
    if cb is None:
        del t.services[word]
    else:
        t.services[word] = cb
    return 0


def raft_uv_upgrade(guest: RaftUvGuest, id: raft_id, address: str, rest: bytes = b"") -> int:
    """Hand a guest's connection to raft, as one that server `id` at `address` has opened. Ours.

    `rest` is what the protocol has read of it already and raft is to read first. Raft owns the stream then: the guest
    does not touch it any more and `closed_cb` is never called. Nothing is written on it. The connection is used in one
    direction only, so `id` and `address` are believed as those of a handshake are: over TLS the peer's certificate
    has to name the server.

    Errors: RAFT_CANCELED if the stream or the transport is closed, or the guest was handed on before; RAFT_INVALID for
    an id of 0, or if another thread runs the loop; RAFT_MALFORMED for an address that is empty, has control characters
    or is longer than `limits.handshake_address`; RAFT_UNAUTHORIZED if the certificate names somebody else. The guest
    stays as it was.
    """
    transport, stream = guest.transport, guest.stream
    t = transport.impl
    if isinstance(t, UvTcp) and tcp_common.misplaced(t.loop, transport):
        return RAFT_INVALID
    if not isinstance(t, UvTcp) or t.closing or guest not in t.guests or stream.closed:
        return _refuse(transport, RAFT_CANCELED, "the connection is closed or was handed on")
    if id <= 0:
        return _refuse(transport, RAFT_INVALID, f"{id} is not the id of a server")
    size = len(address.encode("utf-8", "surrogateescape"))
    if not 0 < size < t.limits.handshake_address or ip.has_control(address):
        return _refuse(transport, RAFT_MALFORMED, f"an address of {size} bytes")
    inner: Any = stream
    if t.security is not None:
        try:
            t.security.check(inner, id, address)
        except Failure as failure:
            t.teller.warn((guest.host, failure.message), "a peer at %s is not let in: %s", guest.host, failure.message)
            return _refuse(transport, failure.code, failure.message)
    stream.stop_read()
    inner.gone_cb = None
    del t.guests[guest]
    if rest:
        inner.rewind(rest)
    t.accept_cb(transport, id, address, inner)
    return 0


def find(t: UvTcp, word: int) -> raft_uv_serve_cb | None:
    """Return who serves connections that begin with `word`."""
    cb = t.services.get(word)
    if cb is None:
        for service, service_cb in list(t.services.items()):
            if callable(service) and service(word):
                return service_cb
    return cb


def welcome(t: UvTcp, stream: Any, received: bytes, host: str, cb: raft_uv_serve_cb) -> None:
    """Make an accepted connection, from which nothing is read at the moment, a guest and hand it over."""
    if not _make_room(t, host):
        t.turned_away += 1
        t.aborting.add(stream)
        stream.close(lambda stream: _refused(t, stream))
        return
    certificate = stream.certificate() if t.security is not None else {}
    guest = RaftUvGuest(t.transport, stream, received, host, certificate)
    t.guests[guest] = None
    stream.gone_cb = lambda: _gone(t, guest)
    try:
        cb(t.transport, guest)
    except BaseException:
        if guest in t.guests and not stream.closed:
            stream.close()
        raise


def close(t: UvTcp) -> None:
    """Close all guests, in the order in which they came."""
    for guest in list(t.guests):
        if not guest.stream.closed:
            guest.stream.close()


def _gone(t: UvTcp, guest: RaftUvGuest) -> None:
    """A guest's stream is closed."""
    del t.guests[guest]
    try:
        if guest.closed_cb is not None:
            guest.closed_cb(guest)
    finally:
        tcp_common.maybe_fire_close(t)


def _refused(t: UvTcp, stream: Any) -> None:
    t.aborting.discard(stream)
    tcp_common.maybe_fire_close(t)


def _make_room(t: UvTcp, host: str) -> bool:
    """See that one more guest may come from `host`: the host with most of them loses its newest.

    Return False if that is the one that has just come. A flood from one host costs its own connections only.
    """
    if len(t.guests) < t.limits.guests:
        return True
    guests = [guest for guest in t.guests if not guest.stream.closed]
    if len(guests) < t.limits.guests:
        return True
    text = "more than %d guests are connected: the host with most of them loses its newest"
    t.teller.warn("guests", text, t.limits.guests)
    counts: dict[str, int] = {host: 1}
    for guest in guests:
        counts[guest.host] = counts.get(guest.host, 0) + 1
    worst = max(counts, key=lambda name: (counts[name], name == host))
    trace(t.tracer, f"guest from {worst}: too many connections")
    if worst == host:
        return False
    next(guest for guest in reversed(guests) if guest.host == worst).stream.close()
    return True


def _refuse(transport: RaftUvTransport, code: int, text: str) -> int:
    transport.errmsg = errmsg_cut(text)
    return code

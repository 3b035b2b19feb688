"""The border between raft_uv and the network: opening and accepting connections.

Duty: `RaftUvTransport` and `RaftUvConnect` of raft/uv.h. `raft_uv_tcp_init` and `raft_uv_tls_init` fill a transport in;
an own one does the same with its own functions. A connection is one-way: the side that connected only writes, the one
that accepted only reads.

A stream is a pyuv TCP or Pipe handle, or whatever has the same `write(data, callback)`, `start_read(callback)`,
`close(callback)`, `closed` and their callback signatures; raft_uv uses nothing else of it, except, where they exist,
`start_read_into` for long payloads, `stop_read` between pieces of large messages, and `reason`, a text that says more
than the number of an error. Of pyuv's own TCP it uses `write_now`.

Ours, for the stock transports: `RaftUvGuest` is a connection of another protocol on the same port (`guests`),
`RaftUvDial` a request for a stream to an address (`tcp_connect`), `RaftUvHandshake` how a connection between servers
begins (`tcp_common` has libraft's).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from pyraft.types import UNSET, raft_id

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

TRANSPORT_VERSION: Final = 1

Data: TypeAlias = bytes | bytearray | memoryview
"""Bytes that a stream is given to write."""


class RaftUvStream(Protocol):
    """A connection as raft_uv needs it, see above; for type checkers only. Results of calls are not looked at."""

    @property
    def closed(self) -> bool:
        """True from the call of close on."""
        ...

    def write(self, data: Data | Sequence[Data], callback: "Callable[[Self, int | None], object]", /) -> object:
        """Write bytes-like objects, one or a list; `callback(stream, error)` when the system has all, None for well."""
        ...

    def start_read(self, callback: "Callable[[Self, bytes | None, int | None], object]", /) -> object:
        """Call `callback(stream, data, error)` with what comes; data None and an error, a UV_* code, at the end."""
        ...

    def close(self, callback: "Callable[[Self], object]", /) -> object:
        """Close; all that is being written is called back first, then `callback(stream)`, never inside this."""
        ...


class RaftUvDuplex(RaftUvStream, Protocol):
    """A stream that is used in both directions: reading may stop, and `callback(stream)` of close may be left out."""

    def stop_read(self) -> object:
        """Read no more, until start_read is called again."""
        ...

    def close(self, callback: "Callable[[Self], object] | None" = None, /) -> object:
        """Close, as RaftUvStream.close."""
        ...


class RaftUvGuest:
    """An accepted connection that speaks another protocol than raft's, see raft_uv_serve. Ours.

    The protocol owns `stream` and may close it at any time; the transport closes it too, when it is closed itself.
    In either case, `closed_cb(guest)` follows once, from the loop, before the close callback of the transport.
    """

    __slots__ = ("certificate", "closed_cb", "data", "host", "received", "stream", "transport")

    def __init__(
        self,
        transport: "RaftUvTransport",
        stream: RaftUvDuplex,
        received: bytes,
        host: str,
        certificate: dict[str, Any],
    ) -> None:
        self.transport = transport
        self.stream = stream
        self.received = received
        """All that has come, from the first word on; all that follows is the stream's to deliver."""
        self.host = host
        """The address that the peer connects from, without the port; empty if it is gone already."""
        self.certificate = certificate
        """The peer's verified certificate, as ssl.SSLObject.getpeercert has it; empty without TLS."""
        self.closed_cb: Callable[[RaftUvGuest], object] | None = None
        self.data: Any = None


class RaftUvDial:
    """A request for a stream to server `id` (0: any server) at `address`; `cb(req, stream, status)`. Ours.

    `cancel()`, set by the one that takes the request, ends it: cb follows with RAFT_CANCELED, or with what had
    happened already. `errmsg` says why there is no stream.
    """

    __slots__ = ("address", "cancel", "cb", "data", "errmsg", "id")

    def __init__(self) -> None:
        self.id: raft_id = 0
        self.address = ""
        self.errmsg = ""
        self.data: Any = None
        self.cb: Callable[[Self, RaftUvDuplex | None, int], object] = UNSET
        self.cancel: Callable[[], object] | None = None


class RaftUvHandshakeReader(Protocol):
    """The reader of one inbound handshake."""

    id: raft_id
    address: str
    rest: bytes
    """The bytes that have come behind the handshake."""

    def feed(self, data: bytes, /) -> bool:
        """Take some bytes; True once id, address and rest are known. ValueError, with a reason, if it cannot be one."""
        ...


class RaftUvHandshake(Protocol):
    """How connections between servers begin, see raft_uv_set_handshake. It has 8 bytes at least.

    It may have `introduce(id, address, peer)` instead of `encode`, which also gets the id of the server that is called.
    A reader may have an attribute `hears`: whether the peer reads a refusal on a plain connection, as io_uv's do.
    """

    answered: bool
    """Whether over TLS the acceptor answers, as io_uv's do."""

    def encode(self, id: raft_id, address: str, /) -> bytes:
        """Return what server `id` says first on a connection that it opens."""
        ...

    def reader(self, limit: int, /) -> RaftUvHandshakeReader:
        """Return the reader of one handshake whose address takes `limit` bytes at most."""
        ...


class RaftUvConnect:
    """`struct raft_uv_connect`: a request to connect; `cb(req, stream, status)`, the stream None unless status is 0."""

    __slots__ = ("cb", "data")

    def __init__(self) -> None:
        self.data: Any = None
        self.cb: Callable[[Self, RaftUvStream | None, int], None] = UNSET


class RaftUvTransport:
    """`struct raft_uv_transport`: a table of functions that take the table first.

    * `init(t, id, address) -> int`: the identity of the own server, before anything else.
    * `listen(t, cb) -> int`: from now on call `cb(t, id, address, stream)` for every connection that a peer has opened
      and introduced itself on; the stream belongs to cb from then on.
    * `connect(t, req, id, address, cb) -> int`: connect to a server and call `cb(req, stream, status)`, never inside
      connect; an error that connect returns brings no callback. The stream belongs to cb.
    * `close(t, cb)`: stop accepting, end all connect requests with RAFT_CANCELED, call `cb(t)` when nothing is left.

    * `check_address(t, address) -> int`, ours, optional: whether a server can be reached at an address.
    * `same_address(t, one, other) -> bool`, ours, optional: whether two addresses are one server's.

    `errmsg` describes the last error. `version` is 1; 0 is refused.
    """

    __slots__ = (
        "check_address",
        "close",
        "connect",
        "data",
        "errmsg",
        "impl",
        "init",
        "listen",
        "same_address",
        "version",
    )

    def __init__(self) -> None:
        self.version = TRANSPORT_VERSION
        self.data: Any = None
        self.impl: Any = None
        self.errmsg = ""
        self.init: Callable[[Self, raft_id, str], int] = UNSET
        self.listen: Callable[[Self, raft_uv_accept_cb], int] = UNSET
        self.connect: Callable[[Self, RaftUvConnect, raft_id, str, raft_uv_connect_cb], int] = UNSET
        self.close: Callable[[Self, raft_uv_transport_close_cb], None] = UNSET
        self.check_address: Callable[[Self, str], int] | None = None
        self.same_address: Callable[[Self, str, str], bool] | None = None


raft_uv_accept_cb: TypeAlias = Callable[[RaftUvTransport, raft_id, str, RaftUvStream], None]
raft_uv_connect_cb: TypeAlias = Callable[[RaftUvConnect, RaftUvStream | None, int], None]
raft_uv_transport_close_cb: TypeAlias = Callable[[RaftUvTransport], None]
raft_uv_serve_cb: TypeAlias = Callable[[RaftUvTransport, RaftUvGuest], object]
raft_uv_dial_cb: TypeAlias = Callable[[RaftUvDial, RaftUvDuplex | None, int], object]
raft_uv_dialer: TypeAlias = Callable[[RaftUvTransport, RaftUvDial], int]
raft_uv_opening: TypeAlias = Callable[[RaftUvTransport, RaftUvDial, RaftUvDuplex], int]

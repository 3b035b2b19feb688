"""The border between raft_uv and the network: who opens and accepts connections.

Duty: `RaftUvTransport` and `RaftUvConnect` of raft/uv.h. `raft_uv_tcp_init` and `raft_uv_tls_init` fill a transport in;
an own one does the same with its own functions. A connection is one-way: who connected only writes, who accepted
only reads.

A stream is a pyuv TCP or Pipe handle, or whatever has the same `write(data, callback)`, `start_read(callback)`,
`close(callback)`, `closed` and their callback signatures; raft_uv uses nothing else of it, except, where they exist,
`start_read_into` for long payloads and `reason`, a text that says more than the number of an error.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from pyraft.types import UNSET, raft_id

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

TRANSPORT_VERSION: Final = 1


class RaftUvStream(Protocol):
    """What raft_uv needs of a connection, as above; for type checkers only. What a call returns is not looked at."""

    @property
    def closed(self) -> bool: ...

    def write(self, data: Any, callback: Callable[[Any, int | None], object], /) -> object: ...

    def start_read(self, callback: Callable[[Any, bytes | None, int | None], object], /) -> object: ...

    def close(self, callback: Callable[[Any], object], /) -> object: ...


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

    `errmsg` describes the last error. `version` is 1; 0 is refused.
    """

    __slots__ = ("check_address", "close", "connect", "data", "errmsg", "impl", "init", "listen", "version")

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


raft_uv_accept_cb: TypeAlias = Callable[[RaftUvTransport, raft_id, str, RaftUvStream], None]
raft_uv_connect_cb: TypeAlias = Callable[[RaftUvConnect, RaftUvStream | None, int], None]
raft_uv_transport_close_cb: TypeAlias = Callable[[RaftUvTransport], None]

"""One port for dqlite's servers and clients: how a connection begins, and what becomes of it.

Duty: `listen` has a stock transport speak dqlite, in both directions. A connection of ours to a server begins with the
version word and CONNECT. One that comes in begins with the version word; the first request decides: CONNECT hands it
to raft, with what came behind it, and anything else is a client's. Source: conn.c, transport.c of canonical/dqlite.

Happy path of a client: `request_cb(channel, request)` is called for one request at a time; the next one comes when
`channel.answer(...)` was called and the system has taken the answer.

Failure modes: a header that cannot be one, or a body beyond the limit, ends the connection. Requests that make no sense
are answered with FAILURE 1005. A client may be silent for as long as it likes, and no more is read from one that does
not wait for answers. Clients and servers of a dqlite before 1.0 begin with another word and are refused. INTERRUPT
waits for its turn, as long as nobody here runs queries.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from io_uv import spool
from io_uv.dqlite import messages, requests, responses, upgrade, words
from io_uv.dqlite.messages import Splitter
from io_uv.dqlite.words import ParseError
from io_uv.guests import raft_uv_serve, raft_uv_upgrade
from io_uv.tcp import raft_uv_set_handshake, raft_uv_set_opening
from io_uv.transport import RaftUvDuplex, RaftUvGuest, RaftUvTransport

MAX_REQUEST: Final = 16 << 20
"""Bytes that a request of a client may take by default."""


class DqliteHandshake:
    """The first words of a server of dqlite on a connection that it opens to another one."""

    answered = False

    def encode(self, id: int, address: str) -> bytes:
        """Return the version word and CONNECT."""
        return words.u64(messages.PROTOCOL) + requests.Connect(id, address).encode()

    def reader(self, limit: int) -> "_Refusing":
        """Return a reader for connections that do not begin with the version word, which is served: it refuses them."""
        return _Refusing()


class _Refusing:
    """Refuses what begins with another word."""

    id = 0
    address = ""
    rest = b""

    def feed(self, data: bytes) -> bool:
        """Take some bytes."""
        raise ValueError("it does not begin with dqlite's version word")


class Channel:
    """The connection of one client."""

    def __init__(self, guest: RaftUvGuest, cb: "request_cb", limit: int) -> None:
        self.guest = guest
        self.closed_cb: Callable[[Channel], object] | None = None
        """Called once when the client's connection has ended, by whomever."""
        self.data: Any = None
        self._cb = cb
        self._splitter = Splitter(limit)
        self._busy = False
        """Whether a request waits for its answer, or for the system to take that."""
        self._delivering = False
        self._paused = False
        self._raft = False
        """Whether the stream is raft's now."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be answered any more."""
        return self._raft or self.guest.stream.closed

    def answer(self, *answers: responses.Response) -> None:
        """Answer the request that is under way, with one message or more; a closed channel takes it and is silent."""
        assert self._busy
        assert answers
        if not self.closed:
            pieces = [piece for one in answers for piece in one.pieces()]
            self.guest.stream.write(spool.write_ahead(self.guest.stream, pieces), self._written)

    def close(self) -> None:
        """End the connection."""
        if not self.closed:
            self.guest.stream.close()

    def begin(self) -> None:
        """Read from the connection, what has come already first."""
        self.guest.closed_cb = self._closed
        self.guest.stream.start_read(self._read_cb)
        self._splitter.feed(self.guest.received[words.WORD :])
        self._deliver()

    def _read_cb(self, stream: RaftUvDuplex, data: bytes | None, error: int | None) -> None:
        if data is None:
            self.close()
        else:
            self._splitter.feed(data)
            self._deliver()

    def _written(self, stream: RaftUvDuplex, error: int | None) -> None:
        self._busy = False
        if error is None:
            self._deliver()

    def _deliver(self) -> None:
        """Hand the next request on, unless one is under way."""
        if self._delivering or self.closed:
            return
        self._delivering = True
        try:
            if not self._busy and (message := self._splitter.take()) is not None:
                self._busy = True
                self._request(message)
        except ParseError as exc:
            self._warn("a client at %s: %s", str(exc))
            self.close()
        except BaseException:
            self.close()
            raise
        finally:
            self._delivering = False
        if not self.closed:
            self._pause(self._busy and len(self._splitter) > 0)

    def _request(self, message: tuple[int, int, bytes]) -> None:
        try:
            request = requests.decode(*message)
        except ParseError as exc:
            code = responses.ERROR if "schema" in str(exc) else responses.PARSE
            self.answer(responses.Failed(code, str(exc)))
            return
        if isinstance(request, requests.Connect):
            self._upgrade(request)
        else:
            self._cb(self, request)

    def _upgrade(self, hello: requests.Connect) -> None:
        """Hand the connection to raft."""
        if self._paused:
            self._pause(False)
        rv = raft_uv_upgrade(self.guest, hello.id, hello.address, self._splitter.rest)
        if rv == 0:
            self._raft = True
            return
        self._warn("a server at %s is not let in: %s", self.guest.transport.errmsg)
        self.close()

    def _warn(self, text: str, reason: str) -> None:
        """Tell the log, at a bounded rate: anybody who reaches the port can do wrong as often as they like."""
        host = self.guest.host
        self.guest.transport.impl.teller.warn((host, reason), text, host, reason)

    def _pause(self, wanted: bool) -> None:
        """Read no more, or again."""
        if wanted and not self._paused:
            self.guest.stream.stop_read()
        elif self._paused and not wanted:
            self.guest.stream.start_read(self._read_cb)
        self._paused = wanted

    def _closed(self, guest: RaftUvGuest) -> None:
        if self.closed_cb is not None:
            self.closed_cb(self)


request_cb: TypeAlias = Callable[[Channel, requests.Request], object]


def listen(transport: RaftUvTransport, cb: request_cb, limit: int = MAX_REQUEST, path: str = "") -> int:
    """Have a stock transport speak dqlite; `cb(channel, request)` for what clients ask. Call it before raft_start.

    `limit` is that of a request's body in bytes. With a `path`, connections of ours begin with a request for an HTTP
    upgrade there, and those of others may (`upgrade`).

    Errors: RAFT_INVALID, with a text in transport.errmsg, if it is not a transport of raft_uv_tcp_init or
    raft_uv_tls_init, or word 1 is served already.
    """
    rv = raft_uv_set_handshake(transport, DqliteHandshake())
    if rv != 0:
        return rv

    def begin(guest: RaftUvGuest) -> None:
        Channel(guest, cb, limit).begin()

    if path:
        raft_uv_set_opening(transport, upgrade.opening(path))
        rv = upgrade.serve(transport, path, begin)
        if rv != 0:
            return rv
    return raft_uv_serve(transport, messages.PROTOCOL, lambda transport, guest: begin(guest))

"""A connection to another member: calls go out in groups, outcomes and answers come back.

Duty: `Link` is one connection, from the greeting to its end, for any asyncio loop.

Happy path: `link = await Link.open(address, cluster, id)`, then `send` groups of calls, `ask` for answers; many of both
may be under way.

Failure modes: a member that cannot be reached raises OSError, one that refuses us, or is of another cluster, Refused.
When the connection ends, what was under way is answered with None, or raises Lost. The link ends it itself when nothing
has come for SILENCE seconds although something was due, and when the other end sends anything but messages.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias, cast

from io_uv import credentials
from pyraft.node import wire
from pyraft.node.deadlines import within
from pyraft.node.errors import Malformed, NodeError, Refused
from pyraft.node.proposer import Done, Wire

CONNECT_SECONDS: Final = 2.0
_PORT: Final = re.compile("[0-9]{1,5}")
SILENCE: Final = 3.0
"""Seconds without a word after which a connection on which an answer is due counts as dead."""


Connect: TypeAlias = Callable[
    [Callable[[], asyncio.Protocol], str, int, "ssl.SSLContext | None"], Coroutine[Any, Any, None]
]


class Lost(NodeError):
    """The connection has ended, and nobody knows what has become of what was asked."""


class Elsewhere(NodeError):
    """The one who was asked does not lead; `leader` is where to go instead, if it knows."""

    def __init__(self, leader: str | None) -> None:
        self.leader = leader
        super().__init__(f"another member leads: {leader}" if leader else "no leader is known there")


def split(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [IPv6]:PORT. Raises OSError, as connecting to it would.

    The port is a number in ASCII digits, 0 for any that is free, and nothing is in the address that cannot be seen.
    """
    host, _, port = address.rpartition(":")
    if not host or not _PORT.fullmatch(port) or int(port) > 65535 or " " in host or not host.isprintable():
        raise OSError(f"{address!r:.300} is not of the form HOST:PORT")
    return (host[1:-1] if host.startswith("[") and host.endswith("]") else host), int(port)


def require_form(address: object) -> None:
    """Raise ValueError for anything but an address that can be connected to, before it is tried again and again."""
    if not isinstance(address, str):
        raise ValueError(f"{address!r} is not an address: HOST:PORT, a string")
    try:
        _, port = split(address)
    except OSError as exc:
        raise ValueError(str(exc)) from None
    if port == 0:
        raise ValueError(f"{address!r:.300} has no port that anybody could connect to")


async def dial(protocol: Callable[[], asyncio.Protocol], host: str, port: int, secure: ssl.SSLContext | None) -> None:
    """Connect `protocol()` to an address. Raises OSError."""
    await asyncio.get_running_loop().create_connection(protocol, host, port, ssl=secure)


class Link(asyncio.Protocol):
    """One connection; see the head of this module."""

    def __init__(self, address: str, cluster: str, secure: ssl.SSLContext | None = None) -> None:
        self.address = address
        self._secure = secure
        self.cluster = cluster
        """The cluster's id; where we have none yet, that of the other end once it has greeted us."""
        self.peer = 0
        """The other end's id."""
        self.elsewhere: Callable[[Link, str | None], object] | None = None
        """Called when the other end says that it does not lead, with the leader's address."""
        self.ended: Callable[[Link], object] | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = wire.Frames(wire.MAX_FRAME)
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._open = False
        self._next = 0
        self._groups: dict[int, tuple[int, list[bytes], Done]] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._watch: asyncio.TimerHandle | None = None
        self._heard = 0.0

    @classmethod
    async def open(
        cls,
        address: str,
        cluster: str = "",
        id: int = 0,
        secure: ssl.SSLContext | None = None,
        connect: Connect | None = None,
    ) -> "Link":
        """Connect to a member and greet it. `id` is ours, 0 if we are not a member; `secure` has it use TLS.

        `connect(protocol, host, port, secure)` makes the connection, `dial` where it is not given.
        """
        host, port = split(address)
        link = cls(address, cluster, secure)

        async def greet() -> None:
            await (connect or dial)(lambda: link, host, port, secure)
            link._write(wire.WORD.to_bytes(8, "little") + wire.pack(wire.HELLO, wire.VERSION, cluster, id))
            await link._greeted

        try:
            await within(greet(), CONNECT_SECONDS)
        except TimeoutError:
            link.close()
            raise OSError(f"no answer from {address} in {CONNECT_SECONDS} s") from None
        except ValueError as exc:
            link.close()
            if isinstance(exc, (OSError, NodeError)):
                raise
            # asyncio's and ssl's word for a host that nobody can be asked for.
            raise OSError(f"{address!r:.300} cannot be looked up: {exc}") from None
        except BaseException:
            link.close()
            raise
        return link

    @property
    def is_open(self) -> bool:
        """Whether calls can be sent."""
        return self._open

    def send(self, calls: list[Wire], done: Done) -> None:
        """Have `calls` executed; `done(outcomes or None)` follows."""
        if not self._open:
            self._loop.call_soon(done, None)
            return
        self._next += 1
        self._groups[self._next] = (len(calls), [], done)
        self._write(wire.pack(wire.CALLS, self._next, calls))
        self._expect()

    def ask(self, what: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Return a future for the answer. It raises Lost, Elsewhere, or Refused with the other end's text."""
        future = self._loop.create_future()
        if not self._open:
            future.set_exception(Lost(f"the connection to {self.address} has ended"))
            return future
        self._next += 1
        self._asked[self._next] = future
        self._write(wire.pack(wire.ASK, self._next, what, list(arguments)))
        self._expect()
        return future

    def close(self) -> None:
        """End the connection, and all that is under way on it."""
        if self._transport is not None:
            self._transport.abort()
        self._end(None)

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that the connection is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self._end(exc)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        self._heard = self._loop.time()
        self._frames.feed(data)
        try:
            while (message := self._frames.next()) is not None:
                self._take(message)
        except Malformed as exc:
            if self._transport is not None:
                self._transport.abort()
            self._end(exc)

    # Below: received frames, and the end.

    def _take(self, message: list[Any]) -> None:
        kind = message[0]
        if not self._open:
            self._greet(message)
        elif kind == wire.OUTCOMES and wire.fits(message, int, int, list):
            self._outcomes(*message[1:])
        elif kind == wire.ELSEWHERE and wire.fits(message, int, int, str):
            self._not_there(message[1], message[3] or None)
        elif kind == wire.ANSWER and len(message) == 4 and type(message[1]) is int:
            self._answer(*message[1:])
        elif kind != wire.PONG:
            raise Malformed(f"message {kind} of {len(message)} parts from {self.address}")

    def _greet(self, message: list[Any]) -> None:
        if self._greeted.done():
            return
        if message[0] == wire.REFUSED and wire.fits(message, str):
            self._greeted.set_exception(Refused(f"{self.address}: {message[1][:500]}"))
            return
        if message[0] != wire.WELCOME:
            raise Malformed(f"no greeting from {self.address}")
        cluster, self.peer = wire.check_hello(message)
        if self.cluster not in ("", cluster):
            self._greeted.set_exception(
                Refused(f"the server at {self.address} is of cluster {cluster[:40]}, and this one is of {self.cluster}")
            )
            return
        if self._secure is not None:
            assert self._transport is not None
            certificate = self._transport.get_extra_info("peercert") or {}
            if not credentials.names_server(certificate, self.peer, self.address):
                names = credentials.names_of(certificate)
                self._greeted.set_exception(Refused(f"the certificate at {self.address} is that of {names}"))
                return
        self.cluster = cluster
        self._open = True
        self._greeted.set_result(None)

    def _outcomes(self, group: int, first: int, values: list[Any]) -> None:
        count, outcomes, done = self._group(group)
        fits = first == len(outcomes) and 0 < len(values) <= count - first
        if not fits or not all(type(value) is bytes for value in values):
            raise Malformed(f"outcomes that nobody waits for, from {self.address}")
        outcomes.extend(values)
        if len(outcomes) == count:
            del self._groups[group]
            done(outcomes)

    def _group(self, group: int) -> tuple[int, list[bytes], Done]:
        found = self._groups.get(group)
        if found is None:
            raise Malformed(f"an answer to calls that nobody has sent, from {self.address}")
        return found

    def _not_there(self, group: int, leader: str | None) -> None:
        _, outcomes, done = self._group(group)
        if outcomes:
            raise Malformed(f"two answers from {self.address}")
        del self._groups[group]
        if self.elsewhere is not None:
            self.elsewhere(self, leader)
        done(None)

    def _answer(self, number: int, status: Any, value: Any) -> None:
        future = self._asked.pop(number, None)
        if future is None:
            raise Malformed(f"an answer that nobody waits for, from {self.address}")
        if future.done():
            return
        if status == wire.DONE:
            future.set_result(value)
        elif status == wire.NOT_HERE and (value is None or type(value) is str):
            if self.elsewhere is not None:
                self.elsewhere(self, value)
            future.set_exception(Elsewhere(value))
        elif status == wire.FAILED and type(value) is str:
            future.set_exception(Refused(value[:500]))
        else:
            future.set_exception(Lost("an answer of an unknown kind"))
            raise Malformed(f"an answer of status {status!r:.20} from {self.address}")

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _expect(self) -> None:
        """Begin to watch for silence, now that an answer is due."""
        if self._watch is None:
            self._heard = self._loop.time()
            self._watch = self._loop.call_later(SILENCE / 2, self._look)

    def _look(self) -> None:
        self._watch = None
        if not self._groups and not self._asked:
            return
        silent = self._loop.time() - self._heard
        if silent >= SILENCE:
            self.close()
            return
        if silent >= SILENCE / 3:
            self._write(wire.pack(wire.PING))
        self._watch = self._loop.call_later(SILENCE / 2, self._look)

    def _guess(self) -> str:
        return "no reason given" + ("" if self._secure else ", as by a member that expects TLS")

    def _end(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        was_open, self._open = self._open, False
        if not self._greeted.done():
            self._greeted.set_exception(OSError(f"{self.address} has hung up: {exc or self._guess()}"))
            self._greeted.exception()  # whoever waits gets it; nobody may
        groups, self._groups = self._groups, {}
        asked, self._asked = self._asked, {}
        for _, _, done in groups.values():
            done(None)
        for future in asked.values():
            if not future.done():
                future.set_exception(Lost(f"the connection to {self.address} has ended: {exc or 'it was closed'}"))
        if was_open and self.ended is not None:
            self.ended(self)

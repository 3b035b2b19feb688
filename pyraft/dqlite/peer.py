"""A connection to a node of dqlite, as its clients have: one request, one answer.

Duty: `Peer` opens one and asks; `find_leader` finds out who leads, as go-dqlite does: each address in turn says who,
and whoever is named has to say the same of itself.

Happy path: `async with await find_leader(addresses) as peer: await peer.ask(requests.Cluster())`.

Failure modes: DqliteError for a FAILURE; OSError, which TimeoutError is, for connections that cannot be had or break,
for an answer that takes longer than the time, and for bytes that do not make an answer. A connection that broke in the
middle is closed; the request may have been carried out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from io_uv.dqlite import messages, requests, responses, words
from io_uv.dqlite.messages import Splitter
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Response
from io_uv.dqlite.words import ParseError
from pyraft.dqlite.errors import DqliteError

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial: TypeAlias = Callable[[str], Awaitable[Streams]]


async def dial_tcp(address: str) -> Streams:
    """Open a connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), port)


class Peer:
    """A connection to a node. Close it, or use it in `async with`."""

    def __init__(self, address: str, streams: Streams) -> None:
        self.address = address
        self._reader, self._writer = streams
        self._splitter = Splitter(1 << 32)
        self._broken = False

    @classmethod
    async def open(cls, address: str, dial: Dial = dial_tcp, seconds: float = CONNECT_SECONDS) -> "Peer":
        """Connect to a node."""
        try:
            streams = await asyncio.wait_for(dial(address), seconds)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no connection to {address} within {seconds:g} s") from None
        peer = cls(address, streams)
        peer._writer.write(words.u64(messages.PROTOCOL))
        return peer

    async def __aenter__(self) -> "Peer":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._broken = True
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    async def ask(self, request: Request, seconds: float = ANSWER_SECONDS) -> Response:
        """Return the answer, the first part of it where there are more (`more`)."""
        if self._broken:
            raise ConnectionError(f"the connection to {self.address} is closed")
        self._broken = True  # unless all goes well
        self._writer.write(request.encode())
        answer = await self._answer(seconds)
        self._broken = False
        if isinstance(answer, responses.Failed):
            raise DqliteError(answer.code, answer.message)
        return answer

    async def more(self, seconds: float = ANSWER_SECONDS) -> Response:
        """Return the next part of an answer."""
        answer = await self._answer(seconds)
        if isinstance(answer, responses.Failed):
            raise DqliteError(answer.code, answer.message)
        return answer

    async def _answer(self, seconds: float) -> Response:
        try:
            return await asyncio.wait_for(self._read(), seconds)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer from {self.address} within {seconds:g} s") from None
        except ParseError as exc:
            raise ConnectionError(f"{self.address} has answered with nonsense: {exc}") from None

    async def _read(self) -> Response:
        await self._writer.drain()
        while (message := self._splitter.take()) is None:
            data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionResetError(f"{self.address} has ended the connection")
            self._splitter.feed(data)
        return responses.decode(*message)

    async def leader(self) -> str:
        """Return the address of the leader as this node knows it, "" for none."""
        answer = await self.ask(requests.Leader(), CONNECT_SECONDS)
        if not isinstance(answer, responses.Server):
            raise ConnectionError(f"{self.address} does not say who leads")
        return answer.address


async def find_leader(addresses: Iterable[str], dial: Dial = dial_tcp) -> Peer:
    """Return a connection to the node that leads. OSError, with what each one said, if none is found now."""
    said: list[str] = []
    for address in dict.fromkeys(addresses):
        try:
            peer = await Peer.open(address, dial)
        except OSError as exc:
            said.append(f"{address}: {exc}")
            continue
        other = await _led_by(peer, said)
        if other == address:
            return peer
        await peer.close()
        if not other:
            continue
        try:
            peer = await Peer.open(other, dial)
        except OSError as exc:
            said.append(f"{other}: {exc}")
            continue
        if await _led_by(peer, said) == other:
            return peer
        await peer.close()
    raise ConnectionError("no leader is found: " + "; ".join(said))


async def _led_by(peer: Peer, said: list[str]) -> str:
    try:
        leader = await peer.leader()
    except (OSError, DqliteError) as exc:
        said.append(f"{peer.address}: {exc}")
        return ""
    said.append(f"{peer.address}: {leader or 'nobody'} leads")
    return leader

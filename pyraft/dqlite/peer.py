"""A connection to a node of dqlite, as its clients have: one request, one answer.

Duty: `Peer` opens one and asks; `find_leader` finds out who leads: all addresses are asked at the same time, and
whoever is named has to say the same of itself, as go-dqlite has it.

Happy path: `async with await find_leader(addresses) as peer: await peer.ask(requests.Cluster())`.

Failure modes: DqliteError for a FAILURE; OSError, which TimeoutError is, for connections that cannot be had or break,
for an answer that takes longer than the time, or than `limit`, and for bytes that do not make an answer. A connection
that broke in the middle is closed; the request may have been carried out.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from io_uv.dqlite import messages, requests, responses, words
from io_uv.dqlite.messages import Splitter
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Response
from io_uv.dqlite.words import ParseError
from pyraft.dqlite.errors import DqliteError
from pyraft.node.deadlines import within
from pyraft.node.link import require_form, split

T = TypeVar("T", bound=Response)

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial: TypeAlias = Callable[[str], Awaitable[Streams]]


async def dial_tcp(address: str) -> Streams:
    """Open a connection to HOST:PORT."""
    return await connect(address)


async def connect(address: str, **options: Any) -> Streams:
    """Open a connection to HOST:PORT with options of asyncio. Raises OSError, also for a text without host or port."""
    try:
        require_form(address)
        return await asyncio.open_connection(*split(address), **options)
    except UnicodeError as exc:
        raise OSError(f"{address!r:.300} has no host that could be one: {exc}") from None
    except ValueError as exc:
        raise OSError(str(exc)) from None


def several(addresses: Iterable[str]) -> list[str]:
    """Return the addresses that a caller has given, each once. TypeError for a text, which would be one per letter."""
    if isinstance(addresses, str):
        raise TypeError(f"nodes are several addresses, not {addresses!r}")
    found = list(dict.fromkeys(addresses))
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"an address is a text, HOST:PORT, not {one!r}")
    return found


class Peer:
    """A connection to a node. Close it, or use it in `async with`."""

    def __init__(self, address: str, streams: Streams) -> None:
        self.address = address
        self._reader, self._writer = streams
        self._splitter = Splitter()
        self._broken = False
        self._more = False
        """Whether parts of an answer are still to come."""

    @classmethod
    async def open(cls, address: str, dial: Dial = dial_tcp, seconds: float = CONNECT_SECONDS) -> "Peer":
        """Connect to a node."""
        dialing = asyncio.ensure_future(dial(address))
        try:
            streams = await within(dialing, seconds)
        except TimeoutError:
            raise TimeoutError(f"no connection to {address} within {seconds:g} s") from None
        except asyncio.CancelledError:
            if dialing.done() and not dialing.cancelled() and dialing.exception() is None:
                dialing.result()[1].close()  # it has come about in the same moment
            raise
        peer = cls(address, streams)
        peer._writer.write(words.u64(messages.PROTOCOL))
        return peer

    async def __aenter__(self) -> "Peer":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def usable(self) -> bool:
        """Whether it may be asked, as far as is known here."""
        return not (self._broken or self._more or self._reader.at_eof() or self._writer.is_closing())

    @property
    def limit(self) -> int:
        """The longest body of an answer that is taken, in bytes."""
        return self._splitter.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._splitter.limit = limit

    async def close(self) -> None:
        """Close the connection. Nothing is waited for: of a node that does not answer there may be nothing to come."""
        self._broken = True
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, request: Request, seconds: float = ANSWER_SECONDS) -> Response:
        """Return the answer, the first part of it where there are more (`more`)."""
        if self._broken or self._more:
            raise ConnectionError(f"the connection to {self.address} is {'closed' if self._broken else 'not free'}")
        return await self._exchange(request, seconds)

    async def more(self, seconds: float = ANSWER_SECONDS) -> Response:
        """Return the next part of an answer."""
        return await self._exchange(None, seconds)

    async def interrupt(self, seconds: float = ANSWER_SECONDS) -> None:
        """End a query of whose rows more are to come. TimeoutError if the node goes on sending them for so long."""
        request: Request | None = requests.Interrupt()
        deadline = time.monotonic() + seconds
        while True:
            if left(deadline) == 0.0:  # an answer that is here already takes no time
                self._broken = True
                raise TimeoutError(f"{self.address} has gone on with a query for {seconds:g} s")
            with contextlib.suppress(DqliteError):  # that the query has failed meanwhile
                if isinstance(await self._exchange(request, left(deadline)), responses.Empty):
                    return
            request = None

    async def _exchange(self, request: Request | None, seconds: float) -> Response:
        """Send a request if there is one, and return what comes next."""
        self._broken, self._more = True, False  # unless all goes well
        if request is not None:
            self._writer.write(request.encode())
        answer = await self._answer(seconds)
        self._broken, self._more = False, isinstance(answer, responses.Rows) and answer.more
        if isinstance(answer, responses.Failed):
            raise DqliteError(answer.code, answer.message)
        return answer

    async def _answer(self, seconds: float) -> Response:
        try:
            return await within(self._read(), seconds)
        except TimeoutError:
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

    async def leader(self, seconds: float = CONNECT_SECONDS) -> str:
        """Return the address of the leader as this node knows it, "" for none."""
        answer = await self.ask(requests.Leader(), seconds)
        if not isinstance(answer, responses.Server):
            raise ConnectionError(f"{self.address} does not say who leads")
        return answer.address

    async def members(self) -> tuple[responses.Member, ...]:
        """Return the members of the cluster as this node knows them, none if it does not tell."""
        answer = await self.ask(requests.Cluster())
        return tuple(answer.members) if isinstance(answer, responses.Servers) else ()


def left(deadline: float) -> float:
    """Return the seconds up to a moment of time.monotonic(), 0 behind it."""
    return max(0.0, deadline - time.monotonic())


async def expect(kind: type[T], peer: Peer, request: Request, deadline: float) -> T:
    """Return an answer of a kind; the connection is closed if it is another one, and ConnectionError says so."""
    answer = await peer.ask(request, left(deadline))
    if not isinstance(answer, kind):
        await peer.close()
        raise ConnectionError(f"{peer.address} has answered {type(request).__name__} with {type(answer).__name__}")
    return answer


async def find_leader(addresses: Iterable[str], dial: Dial = dial_tcp, seconds: float | None = None) -> Peer:
    """Return a connection to the node that leads. OSError, with what each one said, if none is found now.

    With `seconds` it takes no longer than that, else as long as connecting and an answer may take.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    said: dict[str, str] = {}
    asking: dict[asyncio.Task[Peer | str], str] = {}

    def ask(address: str) -> None:
        if address not in said:
            said[address] = "no answer yet"
            asking[asyncio.ensure_future(_leading(address, dial))] = address

    for address in addresses:
        ask(address)
    try:
        while asking:
            patience = None if deadline is None else left(deadline)
            done, _ = await asyncio.wait(asking, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                address = asking.pop(task)
                try:
                    found = task.result()
                except (OSError, DqliteError) as exc:
                    said[address] = str(exc) or type(exc).__name__
                    continue
                if isinstance(found, Peer):
                    return found
                said[address] = f"{found or 'nobody'} leads"
                if found:
                    ask(found)
    finally:
        await _end(asking)
    if not said:
        raise ConnectionError("no leader is found: no address of a node is known")
    raise ConnectionError("no leader is found: " + "; ".join([f"{at}: {what}" for at, what in said.items()]))


async def _end(asking: "Iterable[asyncio.Task[Peer | str]]") -> None:
    """End questions whose answers nobody wants."""
    tasks = list(asking)
    for task in tasks:
        task.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Peer):
            await found.close()


async def _leading(address: str, dial: Dial) -> Peer | str:
    """Return a connection to the node if it leads, else the address of the one that does, "" for nobody."""
    peer = await Peer.open(address, dial)
    try:
        leader = await peer.leader()
    except BaseException:
        await peer.close()
        raise
    if leader == address:
        return peer
    await peer.close()
    return leader

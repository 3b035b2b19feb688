"""The connections of a client, all of them to the node that leads.

Duty: `Pool` hands a `Session` to one caller at a time, opens new ones up to a number, and finds out who leads: the
addresses that it was given, and those of the members that it has seen, are asked at the same time.

Happy path: `session = await pool.take(deadline)`, then `pool.give(session)`.

Failure modes: Unavailable if no leader is found, or no connection becomes free, in the time; its text has what each
node said. A connection that is of no use, or to a node that was told not to lead any more (`doubt`), is closed
when it comes back. Nothing is kept of a node that does not answer.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from io_uv.dqlite import responses
from pyraft.dqlite.errors import DqliteError, Unavailable
from pyraft.dqlite.peer import CONNECT_SECONDS, Dial, Peer, find_leader, left, several
from pyraft.dqlite.session import Session, check_database

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0


class Store(Protocol):
    """Where the addresses of nodes are kept."""

    def addresses(self) -> Iterable[str]:
        """Return those that are known."""
        ...

    def note(self, members: "tuple[responses.Member, ...]") -> None:
        """Take note of the members, as the leader has just told them."""
        ...


class Addresses:
    """A store in memory: the addresses that were given, and those of the members."""

    def __init__(self, given: Iterable[str]) -> None:
        self._given = tuple(several(given))
        self._members: tuple[str, ...] = ()
        if not self._given:
            raise ValueError("no address of a node is given")

    def addresses(self) -> Iterable[str]:
        """Return those that are known, members first."""
        return tuple(dict.fromkeys(self._members + self._given))

    def note(self, members: "tuple[responses.Member, ...]") -> None:
        """Take note of the members."""
        self._members = tuple([one.address for one in members])


def store_of(nodes: Iterable[str] | Store) -> Store:
    """Return the store that a caller has given, one in memory where these are addresses."""
    return Addresses(nodes) if isinstance(nodes, Iterable) else nodes


class Pool:
    """Sessions for one database."""

    def __init__(self, store: Store, database: str, dial: Dial, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool of {size} connections")
        self.store = store
        self.database = check_database(database)
        self.dial = dial
        self.size = size
        self._leader = ""
        self._idle: list[Session] = []
        self._open: set[Session] = set()
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._search: asyncio.Task[str] | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close all connections, those that are in use as well."""
        self._stay()
        self._closed = True
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])
        sessions = list(self._open)
        self._open.clear()
        self._idle.clear()
        for session in sessions:
            await session.close()

    async def take(self, deadline: float) -> Session:
        """Return a connection that nobody else uses. Raises Unavailable."""
        await self._turn(deadline)
        try:
            if self._closed:
                raise Unavailable("the client is closed")
            while self._idle:
                session = self._idle.pop()
                if session.usable and session.peer.address == self._leader:
                    return session
                await self._end(session)
            session = await self._connect(deadline)
        except BaseException:
            self._free()
            raise
        return session

    async def give(self, session: Session) -> None:
        """Take a connection back, to be used again if it can be."""
        self._free()
        if session.usable and session.peer.address == self._leader and not self._closed:
            self._idle.append(session)
        else:
            await self._end(session)

    async def drop(self, session: Session) -> None:
        """Take a connection back and close it."""
        self._free()
        await self._end(session)

    def doubt(self, session: Session) -> None:
        """Look for the leader anew: this node does not lead, or does not answer."""
        if session.peer.address == self._leader:
            self._leader = ""

    async def _end(self, session: Session) -> None:
        self._open.discard(session)
        await session.close()

    # Turns.

    def _stay(self) -> None:
        """Raise RuntimeError in another event loop than before: the connections are of that one."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        if self._loop is not running:
            raise RuntimeError("a client serves one event loop, that of its first call: make another one here")

    async def _turn(self, deadline: float) -> None:
        self._stay()
        if self._closed:
            raise Unavailable("the client is closed")
        if self._taken < self.size:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait([turn], timeout=left(deadline))
        except BaseException:
            self._give_up(turn)
            raise
        if not turn.done():
            self._give_up(turn)
            raise Unavailable(f"all {self.size} connections are in use")

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        if turn.done():
            self._free()
        else:
            self._waiting.remove(turn)

    def _free(self) -> None:
        """Let the next one have its turn."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._taken -= 1

    # Connecting.

    async def _connect(self, deadline: float) -> Session:
        pause, said = _FIRST_PAUSE, "no leader is found"
        while True:
            if self._closed:
                raise Unavailable("the client is closed")
            try:
                session = await self._attempt(deadline)
                if session is not None:
                    return session
            except (OSError, DqliteError) as exc:
                said = str(exc) or type(exc).__name__
                self._leader = ""
            if left(deadline) <= pause:
                raise Unavailable(said)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _attempt(self, deadline: float) -> Session | None:
        """Return a connection to the leader; None if the node that was thought to lead does not."""
        address = self._leader or await self._find(deadline)
        peer = await Peer.open(address, self.dial, min(CONNECT_SECONDS, left(deadline)))
        try:
            if await peer.leader(min(CONNECT_SECONDS, left(deadline))) != address:
                raise ConnectionError(f"{address} does not lead any more")
            session = await Session.open(peer, self.database, deadline)
        except BaseException:
            await peer.close()
            raise
        if self._closed:
            await peer.close()
            raise Unavailable("the client is closed")
        self._leader = address
        self._open.add(session)
        return session

    async def _find(self, deadline: float) -> str:
        """Return the address of the leader, which one task looks for and others wait for."""
        if self._search is None:
            self._search = asyncio.get_running_loop().create_task(self._look())
            self._search.add_done_callback(self._looked)
        task = self._search
        done, _ = await asyncio.wait([task], timeout=left(deadline))
        if not done:
            raise TimeoutError("no leader was found in time")
        if task.cancelled():
            raise Unavailable("the client is closed")  # it was not the caller's task that was cancelled
        return task.result()

    def _looked(self, task: "asyncio.Task[str]") -> None:
        self._search = None
        if not task.cancelled():
            task.exception()  # seen: perhaps nobody waits any more

    async def _look(self) -> str:
        async with await find_leader(self.store.addresses(), self.dial) as peer:
            if members := await peer.members():
                self.store.note(members)
            return peer.address

"""The members of a cluster of dqlite, as an administrator sees and changes them.

Duty: `Cluster` asks the leader for the members and has it add, promote, demote and remove them and hand the leadership
on; it asks any node for its weight and its databases. These are the requests that go-dqlite's client has.

Happy path: `await Cluster(["10.0.0.1:9001"]).members()`.

Failure modes: those of `client`: DqliteError for what a node refuses, Unavailable if no leader answers in the time,
Unknown if a change may have been made. Another change under way is waited for.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Final, TypeVar

from io_uv.dqlite import requests, responses
from io_uv.dqlite.requests import Request
from io_uv.dqlite.responses import Member, Metadata, Response
from pyraft.dqlite import codes
from pyraft.dqlite.errors import DqliteError, Unavailable, Unknown
from pyraft.dqlite.peer import Dial, Peer, dial_tcp, expect, find_leader, left
from pyraft.dqlite.pool import Store, store_of

T = TypeVar("T", bound=Response)

TIMEOUT_SECONDS: Final = 15.0
ASSIGN_SECONDS: Final = 600.0
"""A server that becomes a voter gets all of the log first."""
MAX_DUMP: Final = 1 << 32

_PAUSE: Final = 0.05


class Cluster:
    """The administration of a cluster. Each call has a connection of its own."""

    def __init__(
        self, nodes: Iterable[str] | Store, *, dial: Dial = dial_tcp, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        """`nodes` are addresses of some of the members, HOST:PORT, or where these are kept."""
        self.nodes = store_of(nodes)
        self.dial = dial
        self.timeout_seconds = timeout_seconds

    async def leader(self) -> Member:
        """Return who leads."""
        answer = await self._lead(responses.Server, requests.Leader(), reads=True)
        return Member(answer.id, answer.address)

    async def members(self) -> tuple[Member, ...]:
        """Return the members with their roles: VOTER, STANDBY or SPARE of io_uv.dqlite.responses."""
        members = (await self._lead(responses.Servers, requests.Cluster(), reads=True)).members
        self.nodes.note(members)
        return members

    async def add(self, id: int, address: str) -> None:
        """Add a server, as a spare. ValueError for an id or an address that no member can have."""
        if not 0 < id < 1 << 64:
            raise ValueError(f"{id} is not the id of a member: a number from 1 to 2**64 - 1")
        if not address:
            raise ValueError("a member has an address")
        await self._lead(responses.Empty, requests.Add(id, address))

    async def assign(self, id: int, role: int, *, timeout_seconds: float = ASSIGN_SECONDS) -> None:
        """Give a member a role. One that becomes a voter gets all of the log first.

        ValueError for another number, behind which a leader of dqlite 1.11 leads no more.
        """
        if role not in (responses.VOTER, responses.STANDBY, responses.SPARE):
            raise ValueError(f"{role!r} is not a role: VOTER, STANDBY or SPARE of io_uv.dqlite.responses")
        await self._lead(responses.Empty, requests.Assign(id, role), timeout_seconds)

    async def remove(self, id: int) -> None:
        """Remove a member."""
        await self._lead(responses.Empty, requests.Remove(id))

    async def transfer(self, id: int) -> None:
        """Have the leader hand the leadership to a voter; return once the voter leads or the leader leads no more."""
        try:
            await self._lead(responses.Empty, requests.Transfer(id))
        except DqliteError:  # a leader refuses to hand over to itself
            if (await self.leader()).id != id:
                raise

    async def describe(self, address: str) -> Metadata:
        """Return failure domain and weight of the node at an address."""
        return await self._ask(Metadata, address, requests.Describe())

    async def weigh(self, address: str, weight: int) -> None:
        """Set the weight of the node at an address, until it ends: role management prefers lower ones for voters."""
        await self._ask(responses.Empty, address, requests.Weight(weight))

    async def dump(self, database: str, address: str = "") -> dict[str, bytes]:
        """Return the files of a database by name, as the leader has them, or the node at an address.

        A file whose name ends in "-wal" may be empty. Both together are read by sqlite3. They are in memory as a whole.
        """
        request = requests.Dump(database)
        if address:
            found = await self._ask(responses.Files, address, request, MAX_DUMP)
        else:
            found = await self._lead(responses.Files, request, reads=True, limit=MAX_DUMP)
        return {name: bytes(data) for name, data in found.files}

    async def _ask(self, kind: type[T], address: str, request: Request, limit: int = 0) -> T:
        """Return the answer of a node."""
        deadline = time.monotonic() + self.timeout_seconds
        try:
            async with await Peer.open(address, self.dial, left(deadline)) as peer:
                return await _answer(kind, peer, request, deadline, limit)
        except OSError as exc:
            raise Unavailable(str(exc)) from exc

    async def _lead(
        self, kind: type[T], request: Request, seconds: float = 0.0, *, reads: bool = False, limit: int = 0
    ) -> T:
        """Return the leader's answer; look for it again while the request was not carried out."""
        deadline = time.monotonic() + (seconds or self.timeout_seconds)
        while True:
            sent = False
            said: Exception
            try:
                async with await find_leader(self.nodes.addresses(), self.dial, left(deadline)) as peer:
                    sent = True
                    return await _answer(kind, peer, request, deadline, limit)
            except OSError as exc:
                if sent and not reads:
                    raise Unknown(f"it is not known whether it was done: {exc}") from exc
                said = exc
            except DqliteError as exc:
                if codes.is_unknown(exc) and not reads:
                    raise Unknown(f"it is not known whether it was done: {exc}") from exc
                if not codes.is_refused(exc):
                    raise
                said = exc
            if left(deadline) <= _PAUSE:
                raise Unavailable(f"nothing was done in time: {said}") from said
            await asyncio.sleep(_PAUSE)


async def _answer(kind: type[T], peer: Peer, request: Request, deadline: float, limit: int) -> T:
    if limit:
        peer.limit = limit
    return await expect(kind, peer, request, deadline)

"""The members of a cluster, and changes of them, at the leader.

Duty: `Council` answers what nodes and clients ask about members, and carries out changes; `Member` is what it says of
one. A change is asked for by what is to be the case, so asking again is harmless.

Happy path: `join`, from a server that is to be added; `promote`, from the same once it runs: it becomes a voter, or
stands by if there are enough; `remove`, `demote`, `transfer`, `members`.

Failure modes: a node that does not lead raises Elsewhere, and so does one that cannot do it just now: the asker is to
try again. A request that can never be fulfilled is Refused, with the reason.
"""

import dataclasses
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_DUPLICATEADDRESS,
    RAFT_DUPLICATEID,
    RAFT_INVALID,
    RAFT_NOTFOUND,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftServer,
    aio,
)
from pyraft.node.errors import Refused
from pyraft.node.link import Elsewhere
from pyraft.node.settings import Settings

ROLES: Final = {RAFT_VOTER: "voter", RAFT_STANDBY: "standby", RAFT_SPARE: "spare"}


@dataclass(frozen=True)
class Member:
    """One member, as the leader sees it."""

    id: int
    address: str
    role: str
    """voter, standby (has the log and no vote) or spare (is known and has nothing)."""
    leads: bool = False


@dataclass(frozen=True)
class View:
    """The leader and the members of the cluster, as one member knows it at a moment."""

    leader: int
    """The leader's id, 0 if none is known."""
    members: tuple[Member, ...]
    """All members; empty until this one has the log's beginning."""


def view(server: aio.Server) -> View:
    """Return what a server knows."""
    leader = server.leader[0]
    servers = server.raft.configuration.servers
    return View(leader, tuple(Member(s.id, s.address, ROLES[s.role], s.id == leader) for s in servers))


class Council:
    """The leader's part in changes of the members."""

    def __init__(self, server: aio.Server, settings: Settings, cluster: str) -> None:
        self._server = server
        self._settings = settings
        self._cluster = cluster
        self.answers: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            "members": self.members,
            "join": self.join,
            "promote": self.promote,
            "demote": self.demote,
            "remove": self.remove,
            "transfer": self.transfer,
        }

    async def members(self) -> list[list[Any]]:
        """Return the members as lists of what a Member has."""
        self._lead()
        own = self._server.raft.id
        return [list(dataclasses.astuple(Member(s.id, s.address, ROLES[s.role], s.id == own))) for s in self._servers()]

    async def join(self, id: int, address: str) -> list[Any]:
        """Have a server added that is there already, or will be; return the cluster's id and its addresses."""
        self._lead()
        known = self._find(id)
        if known is not None and known.address != address:
            raise Refused(f"member {id} is at {known.address}, not at {address}")
        if known is None:
            try:
                await self._server.add(id, address)
            except aio.RaftError as exc:
                if exc.code == RAFT_DUPLICATEADDRESS:
                    other = next((s.id for s in self._servers() if s.address == address), 0)
                    raise Refused(
                        f"{address} is the address of member {other}: if that is gone, remove it first"
                    ) from None
                if exc.code != RAFT_DUPLICATEID:
                    raise self._failure(exc) from None
        return [self._cluster, [s.address for s in self._servers() if s.id != id]]

    async def promote(self, id: int) -> str:
        """Have a member that runs get the role that there is for it: voter, if there are not enough yet, or standby."""
        self._lead()
        known = self._known(id)
        if known.role == RAFT_VOTER:
            return ROLES[RAFT_VOTER]
        voters = sum(s.role == RAFT_VOTER for s in self._servers())
        return await self._assign(known, RAFT_VOTER if voters < self._settings.voters else RAFT_STANDBY)

    async def demote(self, id: int) -> str:
        """Have a member stand by. The leader hands over first."""
        self._lead()
        known = self._known(id)
        await self._hand_over(id)
        return await self._assign(known, RAFT_STANDBY)

    async def remove(self, id: int) -> None:
        """Remove a member. The leader hands over first."""
        self._lead()
        if self._find(id) is None:
            return
        await self._hand_over(id)
        try:
            await self._server.remove(id)
        except aio.RaftError as exc:
            if exc.code != RAFT_NOTFOUND:
                raise self._failure(exc) from None

    async def transfer(self, id: int) -> int:
        """Have another member lead: `id`, or if that is 0 any; return who does."""
        self._lead()
        if id == self._server.raft.id:
            return id
        if id and self._known(id).role != RAFT_VOTER:
            raise Refused(f"member {id} does not vote, so it cannot lead")
        if not id and sum(s.role == RAFT_VOTER for s in self._servers()) < 2:
            raise Refused("there is no other voter that could lead")
        try:
            return (await self._server.transfer(id))[0]
        except aio.RaftError as exc:
            raise self._failure(exc) from None

    # Below: helpers of these.

    def _lead(self) -> None:
        if not self._server.is_leader:
            raise Elsewhere(self._server.leader[1])

    def _servers(self) -> list[RaftServer]:
        return list(self._server.raft.configuration.servers)

    def _find(self, id: int) -> RaftServer | None:
        return next((s for s in self._servers() if s.id == id), None)

    def _known(self, id: int) -> RaftServer:
        known = self._find(id)
        if known is None:
            raise Refused(f"{id} is not a member of cluster {self._cluster}")
        return known

    async def _hand_over(self, id: int) -> None:
        """If it is this leader's own turn: have another one carry it out."""
        if id != self._server.raft.id:
            return
        if sum(s.role == RAFT_VOTER for s in self._servers()) < 2:
            raise Refused(f"member {id} is the only voter: without it there is no cluster")
        await self.transfer(0)
        raise Elsewhere(self._server.leader[1])

    async def _assign(self, known: RaftServer, role: int) -> str:
        if known.role != role:
            try:
                await self._server.assign(known.id, role)
            except aio.RaftError as exc:
                if exc.code != RAFT_BADROLE:
                    raise self._failure(exc) from None
        return ROLES[role]

    def _failure(self, exc: aio.RaftError) -> Exception:
        """Tell what will not do from what does not at the moment."""
        if exc.code in (RAFT_BADID, RAFT_INVALID):
            return Refused(exc.message)
        leader = None if self._server.is_leader else self._server.leader[1]
        return Elsewhere(leader)

"""The members of a cluster: who they are, and changes of that, at the leader.

Duty: `Council` answers what nodes and clients ask about members, carries out changes, and has standbys vote in the
place of voters that are gone; `Member` is what it says of one. A request for a change names the state that is wanted,
so asking again is harmless.

Happy path: `join`, from a server that is to be added; `promote`, from the same once it runs: it becomes a voter, or
stands by if there are enough; `remove`, `demote`, `replace`, `transfer`, `roster`. `look_after`, again and again.

Failure modes: a node that does not lead raises Elsewhere, and so does one that cannot fulfil the request just now: the
asker is to try again. One that can never be fulfilled is Refused, with the reason. A stand-in that fails when its turn
has come leaves a voter less, which the next look makes up for.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_DUPLICATEADDRESS,
    RAFT_DUPLICATEID,
    RAFT_INVALID,
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftConfiguration,
    RaftServer,
    aio,
    raft_last_index,
)
from pyraft.node.admission import Admission
from pyraft.node.errors import CommandFailed, Refused
from pyraft.node.leases import Restraint
from pyraft.node.link import Elsewhere
from pyraft.node.registry import Registry, unpack
from pyraft.node.settings import Settings

_logger = logging.getLogger("pyraft")

ROLES: Final = {RAFT_VOTER: "voter", RAFT_STANDBY: "standby", RAFT_SPARE: "spare"}

_HAND_OVERS: Final = 3
"""Attempts to have another member lead before a leader goes. Each takes up to an election timeout."""

_ANSWER_SECONDS: Final = 5.0
"""How long the answer of a member that is to vote is waited for: less than those who ask wait."""

_LOOK_SECONDS: Final = 0.02
"""How often it is looked for meanwhile."""

NEAR: Final = 1000
"""How many entries a stand-in may be behind when it is called."""


@dataclass(frozen=True)
class Member:
    """One member, as the leader sees it."""

    id: int
    address: str
    role: str
    """voter, standby (has the log and no vote) or spare (is known and has nothing)."""
    leads: bool = False
    name: str = ""
    """Its name, version and data are what it has told (`Node`), empty before it has."""
    version: str = ""
    data: Any = field(default=None, hash=False)
    last_contact: float | None = None
    """How many seconds ago the leader has heard from it; None for not since it leads, and in views."""
    behind: int | None = None
    """How many entries of the leader's log it is not known to have; None in views."""


@dataclass(frozen=True)
class View:
    """The leader and the members of the cluster, as one member knows it at a moment."""

    leader: int
    """The leader's id, 0 if none is known."""
    members: tuple[Member, ...]
    """All members; empty until this one has the log's beginning."""


def view(server: aio.Server, registry: Registry) -> View:
    """Return what a server knows."""
    leader = server.leader[0]
    servers = server.raft.configuration.servers
    return View(leader, tuple(Member(**describe(s, registry), leads=s.id == leader) for s in servers))


def rows(configuration: RaftConfiguration) -> list[list[Any]]:
    """Return id, address and role of all members, as they travel."""
    return [[s.id, s.address, ROLES[s.role]] for s in configuration.servers]


def describe(server: RaftServer, registry: Registry) -> dict[str, Any]:
    """Return what all members know of one, by the names that Member has for it."""
    known: dict[str, Any] = {"id": server.id, "address": server.address, "role": ROLES[server.role]}
    facts = registry.facts.get(server.id)
    if facts is not None:
        known.update(name=facts.name, version=facts.version, data=unpack(facts.data))
    return known


async def hand_over(server: aio.Server) -> None:
    """Have another voter lead, if this one does and another is there, before it goes."""
    if not server.is_leader:
        return
    voters = [s for s in server.raft.configuration.servers if s.role == RAFT_VOTER and s.id != server.raft.id]
    for _ in range(_HAND_OVERS if voters else 0):
        try:
            await server.transfer()
            return
        except aio.RaftError as exc:
            if exc.code != RAFT_NOCONNECTION:  # that one has not taken over in time, and this one leads on
                return


class Council:
    """The leader's part in changes of the members."""

    def __init__(
        self,
        server: aio.Server,
        settings: Settings,
        cluster: str,
        registry: Registry,
        admission: Admission,
        restraint: Restraint,
        now: Callable[[], float],
    ) -> None:
        """`restraint` knows when members were heard of, by `now`."""
        self._server = server
        self._settings = settings
        self._cluster = cluster
        self._registry = registry
        self._admission = admission
        self._heard = restraint.contact
        self._now = now
        self._resting: dict[int, bool] = {}
        """Members that were told to rest, or not to, which the registry could not take."""
        self._leadership: tuple[Any, float] = (None, 0.0)
        self.answers: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            "members": self.members,
            "roster": self.roster,
            "join": self.join,
            "promote": self.promote,
            "demote": self.demote,
            "remove": self.remove,
            "replace": self.replace,
            "transfer": self.transfer,
        }

    async def members(self) -> list[list[Any]]:
        """Return id, address, role and leadership of all members, for older nodes."""
        self._lead()
        raft = self._server.raft
        return [[*row, row[0] == raft.id] for row in rows(raft.configuration)]

    async def roster(self) -> list[dict[str, Any]]:
        """Return the members as maps of what a Member has."""
        self._lead()
        found = []
        for s in self._servers():
            known = describe(s, self._registry)
            contact, behind = self._contact(s.id), self._behind(s.id)
            last = None if contact is None else max(0.0, self._now() - contact)
            found.append({**known, "leads": s.id == self._server.raft.id, "last_contact": last, "behind": behind})
        return found

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
                    said = f"{address} is the address of member {other}" if other else exc.message
                    raise Refused(f"{said}: if that is gone, remove it first") from None
                if exc.code != RAFT_DUPLICATEID:
                    raise self._failure(exc) from None
        return [self._cluster, [s.address for s in self._servers() if s.id != id]]

    async def promote(self, id: int) -> str:
        """Have a member that runs get the role that there is for it: voter, if there are not enough yet, or standby."""
        self._lead()
        known = self._known(id)
        if known.role == RAFT_VOTER:
            return ROLES[RAFT_VOTER]
        missing = self._admission.missing_from(id) if known.role == RAFT_SPARE else None
        if missing is not None:
            raise Refused(
                f"the program of member {id} does not have what all others have, '{missing}' for one: start it with "
                "their program"
            )
        await self._rest(id, False)
        voters = sum(s.role == RAFT_VOTER for s in self._servers())
        if voters >= self._settings.voters:
            return await self._assign(known, RAFT_STANDBY)
        if known.role == RAFT_STANDBY:
            await self._hear(known)
        return await self._assign(known, RAFT_VOTER)

    async def demote(self, id: int) -> str:
        """Have a member stand by until it is promoted. The leader hands over first."""
        self._lead()
        known = self._known(id)
        await self._hand_over(id)
        await self._rest(id, True)
        return await self._assign(known, RAFT_STANDBY)

    async def replace(self, id: int, by: int = 0) -> int:
        """Remove a member, and have another one vote in its place: `by`, or if that is 0 the best that stands by.

        Return which one does, 0 if nobody has to. The leader hands over first.
        """
        self._lead()
        known = self._find(id)
        if known is None and not by:
            return 0
        stand_in = self._known(by) if by else self._stand_in()
        voters = sum(s.role == RAFT_VOTER for s in self._servers())
        votes = known is not None and known.role == RAFT_VOTER
        if stand_in is None and votes:
            raise Refused(f"nobody stands by who could take the place of member {id}: have one join first")
        if id == by:
            raise Refused(f"member {id} cannot take its own place")
        await self._hand_over(id)
        if by and stand_in is not None and stand_in.role != RAFT_VOTER:
            await self._hear(stand_in)
        if known is not None and votes:
            await self._assign(known, RAFT_STANDBY)
        if not by and not votes and voters >= self._settings.voters:
            stand_in = None  # it was replaced before, or had no vote
        if stand_in is not None:
            await self._rest(stand_in.id, False)
            await self._assign(stand_in, RAFT_VOTER)
        await self.remove(id)
        return 0 if stand_in is None else stand_in.id

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

    async def look_after(self) -> None:
        """As the leader, have standbys vote in the place of voters that are gone, or that there should be."""
        self._since()
        stand_in = self._stand_in()
        if stand_in is None or not self._server.is_leader:
            return
        voters = [s for s in self._servers() if s.role == RAFT_VOTER]
        gone = next((s for s in voters if self._silence(s.id) > self._settings.replace_seconds), None)
        if gone is not None:
            text = "member %d has not been heard of for %.0f s: %d votes in its place"
            _logger.warning(text, gone.id, self._silence(gone.id), stand_in.id)
            await self._assign(gone, RAFT_STANDBY)
        elif len(voters) >= self._settings.voters:
            return
        await self._assign(stand_in, RAFT_VOTER)

    def strangers(self) -> list[int]:
        """Return the ids in the registry that are those of no member."""
        ids = {s.id for s in self._servers()}
        return [id for id in {**self._registry.facts, **self._registry.resting} if id not in ids]

    # Below: helpers of these.

    def _contact(self, id: int) -> float | None:
        """Return when a member was heard of last by this leader, by the clock; None for not yet."""
        if id == self._server.raft.id:
            return self._now()
        return self._heard(id)

    def _since(self) -> float:
        """Return when this member was first asked here since it leads, which it is each second."""
        leader = self._server.raft.leader_state
        if self._leadership[0] is not leader:
            self._leadership = (leader, self._now())
        return self._leadership[1]

    async def _hear(self, known: RaftServer) -> None:
        """Have a member that is to vote answer first. Raises Refused if it does not: a vote that nobody casts is lost.

        A spare is sent nothing, so it stands by for that.
        """
        was = known.role
        await self._assign(known, RAFT_STANDBY)
        recent = self._recent()
        deadline = self._now() + min(recent, _ANSWER_SECONDS)
        while self._contact(known.id) is None or self._silence(known.id) >= recent:
            self._lead()
            if self._now() >= deadline:
                await self._assign(self._known(known.id), was)
                raise Refused(
                    f"member {known.id} at {known.address} does not answer, so it cannot vote: start it first"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    def _recent(self) -> float:
        """Return how long ago a member that is there has been heard of at most, in seconds."""
        return max(1.0, 2 * self._settings.election_timeout_msecs / 1000)

    def _silence(self, id: int) -> float:
        """Return for how many seconds a member was not heard of."""
        contact = self._contact(id)
        return self._now() - (self._since() if contact is None else contact)

    def _behind(self, id: int) -> int | None:
        raft = self._server.raft
        if raft.leader_state is None:
            return None
        if id == raft.id:
            return 0
        for i, server in enumerate(raft.configuration.servers):
            if server.id == id:
                match = raft.leader_state.progress[i].match_index
                return raft_last_index(raft) - match if match > 0 or self._contact(id) is not None else None
        return None

    def _stand_in(self) -> RaftServer | None:
        """Return the standby that is to vote next: one that is there, is not to rest, and lacks least."""
        recent = self._recent()
        able = []
        for s in self._servers():
            if s.role != RAFT_STANDBY or self._resting.get(s.id, s.id in self._registry.resting):
                continue
            behind = self._behind(s.id)
            if self._contact(s.id) is not None and self._silence(s.id) < recent and behind is not None:
                able.append((behind, s.id, s))
        return min(able)[2] if able and min(able)[0] <= NEAR else None

    async def _rest(self, id: int, resting: bool) -> None:
        if self._resting.get(id, id in self._registry.resting) == resting:
            return
        self._resting[id] = resting
        try:
            await self._registry.rest(id, resting)
        except CommandFailed:  # a member does not have the registry: this leader at least goes by it
            return
        self._resting.pop(id, None)

    def _lead(self) -> None:
        if not self._server.is_leader:
            raise Elsewhere(self._server.leader[1])

    def _servers(self) -> list[RaftServer]:
        return list(self._server.raft.configuration.servers)

    def _find(self, id: int) -> RaftServer | None:
        if type(id) is not int:  # of another program: such a member would pass for one that was removed already
            raise Refused(f"the id of a member must be a whole number, not {id!r:.60}")
        return next((s for s in self._servers() if s.id == id), None)

    def _known(self, id: int) -> RaftServer:
        known = self._find(id)
        if known is None:
            raise Refused(f"{id} is not a member" + (f" of cluster {self._cluster}" if self._cluster else ""))
        return known

    async def _hand_over(self, id: int) -> None:
        """If the change is of this leader itself, have another member lead and carry it out."""
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
        """Return Refused for what can never be done, Elsewhere for what cannot be done at the moment."""
        if exc.code in (RAFT_BADID, RAFT_INVALID):
            return Refused(exc.message)
        leader = None if self._server.is_leader else self._server.leader[1]
        return Elsewhere(leader)

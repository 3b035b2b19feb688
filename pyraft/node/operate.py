"""The way into a running cluster for those who operate it: ask its members, have the leader change something.

Duty: `Operator` asks one member (`ask`), whoever leads (`lead`), or all of them (`survey`), over the port that they
have for each other. The command `pyraft` is a thin layer on it.

    async with Operator(["10.0.0.1:9001"]) as operator:
        survey = await operator.survey()
        await operator.transfer(survey.members[1].id)

Happy path: as above. Any member's address will do: it knows the others.

Failure modes: a member that cannot be reached is a line of the survey, with the reason; if none of those given can be,
Unavailable, or Refused with what they say. A change that no leader has carried out in time is Unavailable, and may be
carried out all the same: each request names the state that is wanted, so it can be made again.
"""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pyraft.node.asking import Asking
from pyraft.node.deadlines import within
from pyraft.node.errors import Malformed, NodeError, Refused, Unavailable
from pyraft.node.link import Elsewhere, Link, Lost, dial
from pyraft.node.route import Route, persist
from pyraft.node.status import Status, parse
from pyraft.node.tls import Tls


@dataclass(frozen=True)
class Seen:
    """One member as it was found."""

    id: int
    address: str
    role: str
    status: Status | None = None
    """Its own words; None if it could not be asked."""
    problem: str = ""
    """Why it could not."""
    behind: int | None = None
    """How many entries it lacks of what the leader has, by its own word or, without that, by the leader's."""
    clock: float = 0.0
    """By how many seconds, at least, its time of day is ahead of the asker's; below 0 it is behind (`ahead`)."""
    name: str = ""
    """The name that it has told the others, if it is known."""

    @property
    def votes(self) -> bool:
        """Whether it is a voter."""
        return self.role == "voter"


@dataclass(frozen=True)
class Survey:
    """All members of a cluster, as they were found."""

    members: list[Seen] = field(default_factory=list)
    leader: Seen | None = None
    """The leader, if one of those that were asked leads."""
    cluster: str = ""

    @property
    def voters(self) -> list[Seen]:
        """The members that vote."""
        return [one for one in self.members if one.votes]


class Sink(Protocol):
    """A place that a backup is written to."""

    def write(self, data: bytes, /) -> object:
        """Take more of it."""
        ...


class Operator(Asking):
    """A way into a cluster, open inside `async with`; see the head of this module."""

    def __init__(self, via: Sequence[str], *, tls: Tls | None = None, seconds: float = 10.0) -> None:
        """`via` are addresses (HOST:PORT) of members, one at least; `seconds` is how long each question may take."""
        if isinstance(via, str) or not via:
            raise ValueError("via are addresses of members, one at least")
        self.via = list(via)
        self.seconds = seconds
        self._tls = tls
        self._links: dict[str, Link] = {}

    async def __aenter__(self) -> "Operator":
        self._secure = None if self._tls is None else self._tls.context()
        self._route = Route(lambda: None, lambda: self.via, lambda: None, secure=self._secure, connect=dial)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for link in self._links.values():
            link.close()
        await self._route.close()

    # Questions.

    async def ask(self, address: str, what: str, *arguments: Any, seconds: float | None = None) -> Any:
        """Return what one member answers. Raises Unavailable if it cannot be reached in time, Refused if it refuses."""
        limit = self.seconds if seconds is None else seconds
        try:
            link = await self._link(address)
            return await within(link.ask(what, *arguments), limit)
        except TimeoutError:
            raise Unavailable(f"{address} has not answered in {limit:g} s") from None
        except Elsewhere:
            raise Unavailable(f"{address} cannot answer: no leader is known there, or it does not answer") from None
        except (OSError, Lost) as exc:
            raise Unavailable(f"{address} cannot be reached: {_why(exc)}") from None

    async def lead(self, what: str, *arguments: Any) -> Any:
        """Return what the leader answers, once there is one. Raises Unavailable if there is none in time."""
        try:
            return await persist(lambda: self._route.ask(what, *arguments), self.seconds, self._route.refusal)
        except Unavailable as exc:
            raise Unavailable(f"{_WORDS.get(what, what)}, asked for by way of {', '.join(self.via)}: {exc}") from None

    async def _errand(self, what: str, *arguments: Any) -> Any:
        return await self.lead(what, *arguments)

    async def status(self, address: str) -> Status:
        """Return the status of one member. Raises as `ask` does, and Malformed for an answer that is not a status."""
        return parse(await self.ask(address, "status"))

    async def ping(self, address: str) -> float:
        """Return how many seconds a question to a member and its answer take."""
        await self.ask(address, "ping")  # so that there is a connection
        began = time.perf_counter()
        await self.ask(address, "ping")
        return time.perf_counter() - began

    async def survey(self) -> Survey:
        """Ask all members. Raises what the first of those at `via` raises, as `status`, if none of them answers."""
        found: dict[int, Seen] = {}
        problems: dict[str, NodeError] = {}
        await self._look(self.via, found, problems)
        others = [one.address for one in assemble(found, problems).members if one.id not in found]
        await self._look(others, found, problems)
        return assemble(found, problems)

    async def look(self, address: str) -> Seen:
        """Return one member as it is, whose role is not known yet. Raises as `status` does."""
        try:
            await self._link(address)
            began = time.time()
            status = await self.status(address)
        except OSError as exc:
            raise Unavailable(f"{address} cannot be reached: {_why(exc)}") from None
        return Seen(status.id, address, "", status, clock=ahead(status.clock / 1e6, began, time.time()))

    # Changes.

    async def add(self, id: int, address: str) -> None:
        """Have a server added as a spare. A server of this layer adds itself, by `join`.

        Raises Refused, beside what `lead` raises, if another server is found at that address; nobody need be there yet.
        """
        found = None
        with contextlib.suppress(NodeError):
            found = parse(await self.ask(address, "status", seconds=min(self.seconds, _GLANCE)))
        if found is not None and found.id != id:
            cluster = f" of cluster {found.cluster}" if found.cluster else ""
            raise Refused(f"at {address} is server {found.id}{cluster}, not {id}")
        await self.lead("join", id, address)

    async def snapshot(self, address: str) -> int:
        """Have a member take a snapshot of all that it has applied; return its index."""
        return _index(await self.ask(address, "snapshot", seconds=max(self.seconds, _LONG)))

    async def backup(self, address: str, begin: Callable[[dict[str, Any]], Sink]) -> dict[str, Any]:
        """Write the state of the cluster, as that member has it with all that is acknowledged by now, to a sink.

        `begin(head)` returns the sink. Returns the head of the backup; `pyraft.node.backup` makes a file of it all.
        Raises Refused, Unavailable; Malformed if its checksum is not that of its data.
        """
        point = []
        if not (await self.status(address)).cluster:  # of the C-style API: it cannot ask its leader by itself
            point = [_index(await self.lead("index"))]
        answer = await self.ask(address, "backup", *point, seconds=max(self.seconds, _LONG))
        match answer:
            case [int(number), {"size": int(size), "sha256": str(wanted)}]:
                head: dict[str, Any] = answer[1]
            case _:
                raise Malformed(f"an answer without a backup, from {address}")
        sink = begin(head)
        digest = hashlib.sha256()
        offset = 0
        while offset < size:
            piece = await self.ask(address, "piece", number, offset)
            if type(piece) is not bytes or not 0 < len(piece) <= size - offset:
                raise Malformed(f"an answer without a part of the backup, from {address}")
            digest.update(piece)
            sink.write(piece)
            offset += len(piece)
        if digest.hexdigest() != wanted:
            raise Malformed(f"the backup from {address} has been damaged on its way, or there: take another one")
        await self.ask(address, "close", number)
        return head

    # Below: connections.

    async def _link(self, address: str) -> Link:
        link = self._links.get(address)
        if link is None or not link.is_open:
            link = self._links[address] = await Link.open(address, secure=self._secure)
        return link

    async def _look(self, addresses: Iterable[str], found: dict[int, Seen], problems: dict[str, NodeError]) -> None:
        async def look(address: str) -> None:
            try:
                seen = await self.look(address)
                found[seen.id] = seen
            except NodeError as exc:
                problems[address] = exc

        await asyncio.gather(*map(look, dict.fromkeys(addresses)))


_WORDS = {"roster": "the members", "join": "add", "index": "the last entry"}
"""Questions whose names on the wire are not those that operators know."""

_GLANCE = 2.0
"""Seconds that are given at most to a server that need not be there."""

_LONG = 120.0
"""Seconds that taking a snapshot may take at least."""


def _why(exc: Exception) -> str:
    """Return why somebody cannot be reached: asyncio's own words name the address again."""
    return os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else str(exc)


def _index(answer: Any) -> int:
    if type(answer) is not int:
        raise Malformed("an answer that is not an index")
    return answer


def _authority(one: Seen) -> tuple[bool, int, int]:
    """Return how much a member's word about the others counts: a leader's most, then that of who has heard last."""
    assert one.status is not None
    return one.status.state == "leader", one.status.term, one.status.last


def assemble(found: dict[int, Seen], problems: dict[str, NodeError]) -> Survey:
    """Return a survey: members that were asked, by their ids, and members that could not be, by their addresses.

    If none was asked, one of the problems is raised.
    """
    if not found:
        raise next(iter(problems.values()))
    best = max(found.values(), key=_authority).status
    assert best is not None
    matches = {row[0]: row[1] for row in best.matches}
    members = []
    known = {row[0]: row for row in best.members}
    for id in dict.fromkeys([*known, *found]):
        _, address, role = known.get(id, (id, found[id].address if id in found else "", "not a member"))[:3]
        seen = found.get(id)
        # A leader knows nothing yet of one that has been silent since it leads, and 0 stands for that.
        stored = (matches.get(id) or None) if seen is None or seen.status is None else seen.status.stored
        members.append(
            Seen(
                id,
                address,
                role,
                None if seen is None else seen.status,
                str(problems.get(address, "")) if seen is None else "",
                None if stored is None else max(0, best.last - stored),
                0.0 if seen is None else seen.clock,
                next((text for text in known.get(id, ())[3:4] if type(text) is str), ""),
            )
        )
    leader = next((one for one in members if one.id == best.id), None) if best.state == "leader" else None
    return Survey(members, leader, best.cluster)


def ahead(clock: float, began: float, ended: float) -> float:
    """Return by how many seconds a clock is ahead that was read between two moments of this one; below 0, behind.

    An answer that has taken long leaves room for every difference up to that, and only the rest is certain: a busy
    machine or a slow disk is not a clock that is wrong.
    """
    return max(0.0, clock - ended) + min(0.0, clock - began)

"""The status of a server that only uses the C-style API, for the command `pyraft`: one call offers it on raft's port.

Duty: `offer_status` has connections that begin with this layer's word answered: with the status that a node tells
(`status.Status`), and with the members where the server leads. `pyraft status`, `members`, `ping`, `check` and `watch`
work on clusters of such servers, and on mixed ones. A program that says how many voters there are to be has changes of
the members taken too, of the command and of a page beside the cluster: the leader has them carried out by raft_add,
raft_assign, raft_remove and raft_transfer. With `backups` it gives out snapshots of its state machine (`giving`).

Happy path, behind raft_uv_tcp_init and raft_init, before or behind raft_start:

    offer_status(transport, io, raft)               # or offer_status(transport, io, raft, voters=3, backups=True)

Failure modes: the code of raft_uv_serve. Calls and queries, which a node would take, are answered as by a member that
does not lead. The connections end with the transport. Everybody who reaches the port may ask, as with a node, and
without TLS could as well send messages of raft in a leader's name.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from typing import Any

import io_uv
from io_uv import health
from io_uv.histogram import Histogram
from pyraft import (
    RAFT_LEADER,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftChange,
    RaftIo,
    RaftReadIndex,
    RaftTransfer,
    aio,
    raft_add,
    raft_assign,
    raft_errmsg,
    raft_leader,
    raft_read_index,
    raft_remove,
    raft_state,
    raft_transfer,
)
from pyraft.errors import RAFT_NOCONNECTION, RAFT_SHUTDOWN
from pyraft.node import status, wire
from pyraft.node.admission import Admission
from pyraft.node.council import Council, rows
from pyraft.node.desk import Ruler
from pyraft.node.errors import Refused
from pyraft.node.given import check_number
from pyraft.node.giving import Giving
from pyraft.node.link import Elsewhere
from pyraft.node.proposer import Proposer
from pyraft.node.registry import Registry
from pyraft.node.replica import Replica
from pyraft.node.service import Service
from pyraft.node.settings import Settings

_CHANGES = ("join", "promote", "demote", "remove", "replace", "transfer")
_LOOK_SECONDS = 0.02
"""How often a server is looked at by those who wait for something: it tells nobody here."""


class _Core:
    """The part of an aio.Server that a service asks, of a server whose calls nobody takes here."""

    is_leader = False

    def __init__(self, raft: Raft, io: RaftIo) -> None:
        self.raft = raft
        self.io = io

    @property
    def leader(self) -> tuple[int, str | None]:
        """The leader as this server knows it."""
        return raft_leader(self.raft)

    async def wait_until(self, test: Callable[[], bool]) -> None:
        """Wait until `test()` is true. Raises RaftError at the end of the server."""
        while not test():
            if raft_state(self.raft) == RAFT_UNAVAILABLE:
                raise aio.RaftError(RAFT_SHUTDOWN, self.raft.cause)
            await asyncio.sleep(_LOOK_SECONDS)


class _Steered(_Core):
    """The same of a server whose members are changed here: `aio.Server` has these for servers of its own."""

    @property
    def is_leader(self) -> bool:  # type: ignore[override]
        """Whether it takes changes."""
        return raft_state(self.raft) == RAFT_LEADER

    async def add(self, id: int, address: str) -> None:
        """Add a server as a spare."""
        await self._change(raft_add, id, address)

    async def assign(self, id: int, role: int = RAFT_VOTER) -> None:
        """Give a server another role."""
        await self._change(raft_assign, id, role)

    async def remove(self, id: int) -> None:
        """Remove a server."""
        await self._change(raft_remove, id)

    async def transfer(self, id: int = 0) -> tuple[int, str | None]:
        """Hand leadership over; return who leads then. RAFT_NOCONNECTION if this server still does."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rv = raft_transfer(self.raft, RaftTransfer(), id, lambda req: _resolve(future, None))
        if rv != 0:
            raise aio.RaftError(rv, raft_errmsg(self.raft))
        await future
        if self.is_leader:
            raise aio.RaftError(RAFT_NOCONNECTION, "nobody has taken over, this server leads on")
        return self.leader

    async def _change(self, function: Callable[..., int], *arguments: Any) -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        rv = function(self.raft, RaftChange(), *arguments, lambda req, status: _resolve(future, status))
        if rv != 0:
            raise aio.RaftError(rv, raft_errmsg(self.raft))
        rv = await future
        if rv != 0:
            raise aio.RaftError(rv)


def _resolve(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():  # whoever asked may be gone
        future.set_result(result)


class _Facts:
    """The facts of members, of which such servers tell none; their I/O knows when a member was heard of."""

    def __init__(self, io: RaftIo) -> None:
        self._io = io
        self.facts: dict[int, Any] = {}
        self.resting: dict[int, None] = {}

    async def rest(self, id: int, resting: bool) -> None:
        """Nothing: nobody has a stand-by vote by itself here."""

    def contact(self, id: int) -> float | None:
        """Return when a member was heard of last, by time.monotonic(); None for not yet."""
        silence = health.silence(self._io, id)
        return None if silence is None else time.monotonic() - silence


class _Ground:
    """The ground of a service whose connections are handed to it."""

    def serve(self, word: int, accept: Any) -> None:
        """Nothing: `offer_status` has registered itself."""


class _Offer:
    """The answers of one server."""

    def __init__(self, raft: Raft, io: RaftIo, commits: Histogram | None, voters: int, backups: bool) -> None:
        self._raft = raft
        self._io = io
        self._commits = commits
        self._voters = voters
        self._backups = backups
        self._ruler = Ruler()
        self.service: Service | None = None
        self.answers: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            "ping": self.ping,
            "status": self.status,
            "members": self.members,
            "index": self.index,
        }

    async def ping(self) -> int:
        """Return the id of the server."""
        return self._raft.id

    async def status(self) -> dict[str, Any]:
        """Return its status."""
        assert self.service is not None
        visitors = [[visitor.host, visitor.id] for visitor in self.service.visitors]
        found = status.gather(self._raft, self._io, visitors=visitors, commits=self._commits)
        found = dataclasses.replace(found, changes=self._voters > 0)
        return status.packed(await self._ruler.measured(found, self._io))

    async def members(self) -> list[list[Any]]:
        """Return the members, if it leads."""
        if raft_state(self._raft) != RAFT_LEADER:
            raise Elsewhere(raft_leader(self._raft)[1])
        return [[*row, row[0] == self._raft.id] for row in rows(self._raft.configuration)]

    async def index(self) -> int:
        """Return the index of what is acknowledged, once this leader has shown that it leads."""
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        rv = raft_read_index(self._raft, RaftReadIndex(), lambda req, status, index: _resolve(future, (status, index)))
        status, index = await future if rv == 0 else (rv, 0)
        if status != 0:
            raise Elsewhere(raft_leader(self._raft)[1])
        return index

    def begin(self) -> Service:
        """Make the service, on the loop that connections come on."""
        steered: Any = _Steered(self._raft, self._io)
        core: Any = steered if self._voters else _Core(self._raft, self._io)
        ground: Any = _Ground()
        table = Replica({})
        admission = Admission(core, table, Registry(), Proposer(core, table, lambda: 0))
        facts: Any = _Facts(self._io)
        settings = Settings(voters=max(1, self._voters))
        council = Council(steered, settings, "", facts, admission, facts, time.monotonic)
        self.answers |= {name: council.answers[name] for name in ("roster", *(_CHANGES if self._voters else ()))}
        if self._backups:
            self.answers |= Giving(steered, self._has, lambda: time.time_ns() // 1000).answers
        service = self.service = Service(core, ground, admission, "")
        service.answers = self.answers
        return service

    async def _has(self, point: int) -> None:
        """Wait until everything up to `point`, which the leader has told, is applied here."""
        try:
            await _Core(self._raft, self._io).wait_until(lambda: self._raft.last_applied >= point)
        except aio.RaftError as exc:
            raise Refused(f"the server has stopped: {exc}") from None


def offer_status(
    transport: io_uv.RaftUvTransport,
    io: RaftIo,
    raft: Raft,
    commits: Histogram | None = None,
    voters: int = 0,
    backups: bool = False,
) -> int:
    """Answer `pyraft status` and its kin on the port of `transport`; return 0, or raft_uv_serve's code.

    A program that measures its own calls, from raft_apply to the callback, gives the histogram that it does it with.
    With `voters` above 0 changes of the members are taken too: a member that is promoted votes while there are fewer
    voters than that, and stands by else. With `backups` the state of the machine is given to those who ask for it: its
    `snapshot` or `snapshot_async` has to be there. All servers of the cluster are to offer the same.

    Raises TypeError for an argument of another type, ValueError for fewer voters than 0.
    """
    for what, given, cls in (
        ("the transport", transport, io_uv.RaftUvTransport),
        ("io", io, RaftIo),
        ("raft", raft, Raft),
        ("commits", commits, (Histogram, type(None))),
        ("backups", backups, bool),
    ):
        if not isinstance(given, cls):
            raise TypeError(f"offer_status(transport, io, raft, …): {what} cannot be {given!r:.60}")
    check_number("voters", voters)
    if voters < 0:
        raise ValueError(f"the number of voters must be 0 or more, not {voters}")
    offer = _Offer(raft, io, commits, voters, backups)

    def accept(transport: io_uv.RaftUvTransport, guest: io_uv.RaftUvGuest) -> None:
        (offer.service or offer.begin()).accept(transport, guest)

    return io_uv.raft_uv_serve(transport, wire.WORD, accept)

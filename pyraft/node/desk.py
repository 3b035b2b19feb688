"""The desk of a member, where operators ask: its status, a snapshot, a backup. It answers whether it leads or not.

Duty: `Desk.answers` are the questions that a node's `Service` answers beside those of council and queries. They are
about this member alone, so anybody who is to know all of a cluster asks each.

Happy path: "ping" is answered with the id, "status" with what `status.gather` says and the sizes of the directory.
Snapshots and backups are those of `giving`.

Failure modes: Refused with the reason.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from io_uv import health
from io_uv.histogram import Histogram
from pyraft import RaftIo, aio
from pyraft.node import status
from pyraft.node.deadlines import within
from pyraft.node.giving import Giving
from pyraft.node.outside import Outside
from pyraft.node.proposer import Proposer
from pyraft.node.service import Answers, Service

_MEASURE_SECONDS: Final = 1.0


class Desk:
    """The answers of one member to operators; see the head of this module."""

    def __init__(
        self, service: Service, proposer: Proposer, outside: Outside, caught_up: Callable[[str], Awaitable[None]]
    ) -> None:
        """`caught_up(what)` waits until all that is acknowledged is applied here. The service gives the answers."""
        self._service = service
        self._proposer = proposer
        self._server = service.server
        self._seconds = outside.seconds
        self._microseconds = outside.microseconds
        self._cluster = service.cluster
        self._machine = type(service.replica.machines[""]).__name__
        self.giving = Giving(
            self._server, lambda: caught_up("backup"), outside.microseconds, self._cluster, self._machine
        )
        self._began = self._changed = outside.seconds()
        self._ruler = Ruler()
        self.page = ""
        """Where this member's page is, if it serves one."""
        self.renewals: list[Callable[[], Callable[[], None]]] = []
        """Functions that read files of certificates of its own again, and return what puts them to use."""
        self.answers: Answers = {"ping": self.ping, "status": self.status, **self.giving.answers}
        service.answers = {**service.answers, **self.answers}
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Note since when this leader leads, until the server ends."""
        known = self._leadership()
        try:
            while True:
                await self._server.wait_until(lambda known=known: self._leadership() not in (None, known))  # type: ignore[misc]
                known = self._leadership()
                self._changed = self._seconds()
        except aio.RaftError:
            return

    def _leadership(self) -> tuple[int, int] | None:
        """Return the term and the leader; None where none is known, as for a time by one that tries to hand over."""
        leader, _ = self._server.leader
        return (self._server.raft.current_term, leader) if leader else None

    async def close(self) -> None:
        """Stop watching, and forget the backup that is being given out."""
        self.giving.forget()
        self._watcher.cancel()
        await asyncio.wait([self._watcher])

    async def ping(self) -> int:
        """Return the id of this member: the shortest answer."""
        return self._server.raft.id

    async def status(self) -> dict[str, Any]:
        """Return the status of this member as it travels."""
        server = self._server
        now = self._seconds()
        visitors = [[visitor.host, visitor.id] for visitor in self._service.visitors]
        facts = self._service.admission.registry.facts
        found = dataclasses.replace(
            status.gather(server.raft, server.io, self._microseconds(), visitors, self._proposer.commits),
            cluster=self._cluster,
            machine=self._machine,
            page=self.page,
            leader_seconds=now - self._changed,
            up_seconds=now - self._began,
        )
        members = [[*row, facts[row[0]].name] if row[0] in facts else row for row in found.members]
        found = dataclasses.replace(found, members=members)
        return status.packed(await self._ruler.measured(found, server.io))

    def figures(self) -> "Figures":
        """Return what metrics have of this layer."""
        proposer = self._proposer
        return Figures(
            self._seconds() - self._began,
            self._microseconds() / 1e6,
            len(self._service.visitors),
            proposer.calls,
            proposer.lost,
            proposer.commits,
        )


class Figures(NamedTuple):
    """The figures of a node beside those of its server, for metrics."""

    up_seconds: float
    clock: float
    connections: int
    calls: int
    lost: int
    commits: Histogram


class Ruler:
    """Measures a directory, one time at a time: a disk that hangs keeps one thread, however often somebody asks."""

    def __init__(self) -> None:
        self._under_way: asyncio.Future[health.Sizes] | None = None

    async def measured(self, found: status.Status, io: RaftIo) -> status.Status:
        """Return a status with the sizes of its directory; one that cannot be read is what ails the disk."""
        where = health.directory(io)
        if not where:
            return found
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.get_running_loop().run_in_executor(None, health.measure, where)
        try:
            sizes = await within(asyncio.shield(self._under_way), _MEASURE_SECONDS)
        except TimeoutError:
            problem = f"the directory cannot be read: no answer in {_MEASURE_SECONDS:g} s"
        except OSError as exc:
            problem = f"the directory cannot be read: {exc}"
        else:
            return status.with_sizes(found, sizes)
        return dataclasses.replace(found, disk=found.disk or problem)

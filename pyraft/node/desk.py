"""The desk of a member, where operators ask: its status, a snapshot, a backup. It answers whether it leads or not.

Duty: `Desk.answers` are the questions that a node's `Service` answers beside those of council and queries. They are
about this member alone, so anybody who is to know all of a cluster asks each.

Happy path: "ping" is answered with the id, "status" with what `status.gather` says and the sizes of the directory.
"snapshot" takes one of all that is applied and returns its index. "backup" returns the head of a backup, of all that is
acknowledged by then; "piece" the parts of it, until "close" or some time without a question.

Failure modes: Refused with the reason. One backup at a time is given out; while one is, it is in memory.
"""

import asyncio
import dataclasses
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from io_uv import health
from io_uv.histogram import Histogram
from pyraft import (
    RAFT_UNAVAILABLE,
    RaftIo,
    RaftIoSnapshotGet,
    RaftSnapshot,
    aio,
    log,
    raft_state,
    raft_strerror,
    snapshot,
)
from pyraft.node import status
from pyraft.node.council import rows
from pyraft.node.errors import Refused, Unavailable
from pyraft.node.outside import Outside
from pyraft.node.proposer import Proposer
from pyraft.node.service import Answers, Service

_logger = logging.getLogger("pyraft")

PIECE: Final = 1 << 20
"""A backup is given out in pieces of so many bytes."""

IDLE_SECONDS: Final = 30.0
"""A backup that nobody asks for is forgotten after so long."""

_ATTEMPTS: Final = 4
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
        self._caught_up = caught_up
        self._seconds = outside.seconds
        self._microseconds = outside.microseconds
        self._cluster = service.cluster
        self._machine = type(service.replica.machines[""]).__name__
        self._began = self._changed = outside.seconds()
        self._backup: Backup | None = None
        self._number = 0
        self._busy = False
        self._ruler = Ruler()
        self.leader_changes = 0
        """How often another leader became known here, or none any more, since the start."""
        self.answers: Answers = {
            "ping": self.ping,
            "status": self.status,
            "snapshot": self.snapshot,
            "backup": self.backup,
            "piece": self.piece,
            "close": self.close_backup,
        }
        service.answers = {**service.answers, **self.answers}
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Note since when this leader leads, until the server ends."""
        server = self._server
        try:
            while True:
                known = server.leader
                await server.wait_until(lambda known=known: server.leader != known)  # type: ignore[misc]
                self._changed = self._seconds()
                self.leader_changes += 1
        except aio.RaftError:
            return

    async def close(self) -> None:
        """Stop counting, and forget the backup that is being given out."""
        self._forget()
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
        found = dataclasses.replace(
            status.gather(server.raft, server.io, self._microseconds(), visitors),
            cluster=self._cluster,
            machine=self._machine,
            leader_seconds=now - self._changed,
            up_seconds=now - self._began,
        )
        return status.packed(await self._ruler.measured(found, server.io))

    async def snapshot(self) -> int:
        """Take a snapshot of all that is applied here, and return its index; that of the newest if that has it all."""
        server = self._server
        r = server.raft
        state = r.snapshot
        wanted = r.last_applied
        for _ in range(_ATTEMPTS):
            if log.snapshot_index(r.log) >= wanted:
                return log.snapshot_index(r.log)
            rv = snapshot.take_now(r)
            if rv != 0:
                raise Refused(f"no snapshot can be taken: {state.problem or raft_strerror(rv)}")
            try:
                await server.wait_until(lambda: state.pending is None and state.put is None)
            except aio.RaftError as exc:
                raise Refused(f"no snapshot can be taken: {exc}") from None
            if state.problem:
                raise Refused(f"no snapshot could be taken: {state.problem}")
        raise Refused("no snapshot can be taken at the moment: the state machine or the disk is busy")

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

    # Backups.

    async def backup(self) -> list[Any]:
        """Make ready a backup of all that is acknowledged by now; return its number, its head, and its size."""
        if self._busy:
            raise Refused("another backup is being made of this member: ask again, or ask another member")
        self._busy = True
        try:
            await self._caught_up("backup")
            await self.snapshot()
            found = await _read(self._server)
            data, digest = await asyncio.get_running_loop().run_in_executor(None, _whole, found)
        finally:
            self._busy = False
        self._forget()
        self._number += 1
        self._backup = Backup(self._number, data, self._forget)
        _logger.info("member %d gives out a backup of entry %d, %d bytes", self._server.raft.id, found.index, len(data))
        head = {
            "cluster": self._cluster,
            "machine": self._machine,
            "version": status.VERSION,
            "index": found.index,
            "term": found.term,
            "taken": self._microseconds(),
            "members": rows(found.configuration),
            "size": len(data),
            "sha256": digest,
        }
        return [self._number, head]

    async def piece(self, number: int, offset: int) -> bytes:
        """Return the part of a backup that begins at `offset`, b"" at its end."""
        found = self._backup
        if found is None or found.number != number:
            raise Refused("that backup is not kept any more: begin again")
        return found.piece(offset)

    async def close_backup(self, number: int) -> None:
        """Forget a backup that has been given out."""
        if self._backup is not None and self._backup.number == number:
            self._forget()

    def _forget(self) -> None:
        found, self._backup = self._backup, None
        if found is not None:
            found.timer.cancel()


class Figures(NamedTuple):
    """The figures of a node beside those of its server, for metrics."""

    up_seconds: float
    clock: float
    connections: int
    calls: int
    lost: int
    commits: Histogram


class Backup:
    """A backup that is being given out."""

    def __init__(self, number: int, data: bytes, forget: Callable[[], None]) -> None:
        self.number = number
        self._data = data
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self.timer = self._loop.call_later(IDLE_SECONDS, forget)

    def piece(self, offset: int) -> bytes:
        """Return a part, and keep the rest for some more time."""
        if type(offset) is not int or not 0 <= offset <= len(self._data):
            raise Refused(f"a backup of {len(self._data)} bytes has no part at {offset!r:.40}")
        self.timer.cancel()
        self.timer = self._loop.call_later(IDLE_SECONDS, self._forget)
        return self._data[offset : offset + PIECE]


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
            sizes = await asyncio.wait_for(asyncio.shield(self._under_way), _MEASURE_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            problem = f"the directory cannot be read: no answer in {_MEASURE_SECONDS:g} s"
        except OSError as exc:
            problem = f"the directory cannot be read: {exc}"
        else:
            return status.with_sizes(found, sizes)
        return dataclasses.replace(found, disk=found.disk or problem)


def _whole(found: RaftSnapshot) -> tuple[bytes, str]:
    """Return the data of a snapshot in one piece, and its digest; in a thread, as it may be large."""
    data = b"".join(found.bufs)
    return data, hashlib.sha256(data).hexdigest()


async def _read(server: aio.Server) -> RaftSnapshot:
    """Return the newest snapshot."""
    if raft_state(server.raft) == RAFT_UNAVAILABLE:
        raise Refused(f"the server has stopped: {server.raft.cause}")
    future: asyncio.Future[tuple[RaftSnapshot | None, int]] = asyncio.get_running_loop().create_future()

    def done(req: RaftIoSnapshotGet, found: RaftSnapshot | None, rv: int) -> None:
        if not future.done():
            future.set_result((found, rv))

    rv = server.io.snapshot_get(server.io, RaftIoSnapshotGet(), done)
    if rv != 0:
        raise Refused(f"the snapshot cannot be read: {server.io.errmsg}")
    found, rv = await future
    if found is None:
        raise Unavailable(f"the snapshot cannot be read: {raft_strerror(rv)}")
    return found

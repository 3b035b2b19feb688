"""Snapshots and backups of one member for operators who ask for them: a node, or a server of the C-style API.

Duty: `Giving.answers` are the questions: "snapshot" takes one of all that is applied and returns its index. "backup"
returns the head of a backup, of all that is acknowledged by then; "piece" the parts of it, until "close" or some time
without a question.

Happy path: `Giving(server, caught_up, microseconds)`, its answers among those of a `Service`; in the end `forget`.

Failure modes: Refused with the reason. One backup at a time is given out, from the file of its snapshot.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from io_uv import health, listing, snapshot_file
from io_uv.failure import Failure
from pyraft import (
    RAFT_UNAVAILABLE,
    Raft,
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
from pyraft.node.handout import Handout, InMemory, Source
from pyraft.node.service import Answers

_logger = logging.getLogger("pyraft")

T = TypeVar("T")

PIECE: Final = 1 << 20
"""A backup is given out in pieces of so many bytes."""

IDLE_SECONDS: Final = 30.0
"""A backup that nobody asks for is forgotten after so long."""

_ATTEMPTS: Final = 4


class Giver(Protocol):
    """The server that gives: an aio.Server, or what takes its place for one of the C-style API."""

    raft: Raft
    io: RaftIo

    async def wait_until(self, test: Callable[[], bool]) -> None:
        """Wait until `test()` is true. Raises RaftError at the end of the server."""
        ...


class Giving:
    """The answers; see the head of this module."""

    def __init__(
        self,
        server: Giver,
        caught_up: Callable[..., Awaitable[None]],
        microseconds: Callable[[], int],
        cluster: str = "",
        machine: str = "",
    ) -> None:
        """`caught_up(…)` waits until all that is acknowledged is applied here, `microseconds()` is the time of day."""
        self._server = server
        self._caught_up = caught_up
        self._microseconds = microseconds
        self._cluster = cluster
        self._machine = machine
        self._backup: Handout | None = None
        self._forgetting: asyncio.TimerHandle | None = None
        self._number = 0
        self._busy = False
        self.answers: Answers = {
            "snapshot": self.snapshot,
            "backup": self.backup,
            "piece": self.piece,
            "close": self.close_backup,
        }

    async def snapshot(self) -> int:
        """Take a snapshot of all that is applied here, unless the newest has it all; return the index of the newest."""
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

    async def backup(self, *point: int) -> list[Any]:
        """Make ready a backup of all that is acknowledged by now; return its number, its head, and its size.

        `point` is what `caught_up` takes.
        """
        if self._busy:
            raise Refused("another backup is being made of this member: ask again, or ask another member")
        self._busy = True
        try:
            await self._caught_up(*point)
            await self.snapshot()
            self._number += 1
            made = Handout(self._number, await _source(self._server), PIECE)
            await _in_thread(made.measure)
        finally:
            self._busy = False
        self.forget()
        self._backup, found = made, made.source.snapshot
        self._keep()
        _logger.info("member %d gives out a backup of entry %d, %d bytes", self._server.raft.id, found.index, made.size)
        head = {
            "cluster": self._cluster,
            "machine": self._machine,
            "version": status.VERSION,
            "index": found.index,
            "term": found.term,
            "taken": self._microseconds(),
            "members": rows(found.configuration),
            "size": made.size,
            "sha256": made.sha256,
        }
        return [made.number, head]

    async def piece(self, number: int, offset: int) -> bytes:
        """Return the part of a backup that begins at `offset`, b"" at its end. The parts go out in order."""
        found = self._backup
        if found is None or found.number != number:
            raise Refused("that backup is not kept any more: begin again")
        self._keep()
        return await _in_thread(found.piece, offset)

    async def close_backup(self, number: int) -> None:
        """Forget a backup that has been given out."""
        if self._backup is not None and self._backup.number == number:
            self.forget()

    def _keep(self) -> None:
        """Keep the backup that is being given out for some more time."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.forget)

    def forget(self) -> None:
        """Give out nothing more."""
        found, self._backup = self._backup, None
        if found is not None:
            found.close()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Return what `work` returns; a disk that fails is Refused."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    except Failure as exc:
        raise Refused(f"the snapshot cannot be read: {exc.message}") from None


async def _source(server: Giver) -> Source:
    """Return the data of the newest snapshot."""
    if raft_state(server.raft) == RAFT_UNAVAILABLE:
        raise Refused(f"the server has stopped: {server.raft.cause}")
    where = health.directory(server.io)
    if where:
        return await _in_thread(_stored, where)
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
    return InMemory(found)


def _stored(dir: str) -> Source:
    """Open the newest snapshot of a directory; in a thread. Newer ones may take its place meanwhile."""
    for attempt in range(_ATTEMPTS):
        try:
            return snapshot_file.Stored(dir, snapshot_file.require(listing.list(dir)[0]))
        except Failure:
            if attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")

"""A node: one member of a cluster inside an asyncio program, with a machine that all members share.

Duty: `Node` owns what a member is made of, from the loop's handles to the session, and the order in which that begins
and ends. It carries out the calls of its machine's users.

    async with Node("data/1", Shop()) as node:      # the directory was made by init or join
        await node.machine.take("apple")

Happy path: as above. A command is sent to whoever leads and counts once; a query sees all that was acknowledged before.
At the end a leader hands over first, if another member can lead.

Failure modes: a directory that is no member's, or has lost its log, or is in use, is Refused, and nothing starts. A
call ends with a result, the command's exception, CommandFailed or Unknown (`caller`), a query with its result or
Unavailable. When the node is closed, or stops by itself, what waits and whatever comes gets Stopped, with the cause.
"""

import asyncio
import contextlib
import functools
import logging
from typing import Any, Generic, TypeVar

from pyraft import (
    RAFT_CORRUPT,
    RAFT_VOTER,
    RaftIo,
    aio,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from pyraft.node import caller
from pyraft.node.caller import Calls
from pyraft.node.errors import Refused, Stopped, Unavailable, Unknown
from pyraft.node.founding import describe
from pyraft.node.ground import Ground
from pyraft.node.identity import JOINED, MEMBER, NODE_FILE, Directory, Identity, read, write
from pyraft.node.machine import Machine
from pyraft.node.outbox import Path
from pyraft.node.proposer import Proposer
from pyraft.node.reads import Reads
from pyraft.node.replica import Replica
from pyraft.node.settings import Settings

M = TypeVar("M", bound=Machine)

_logger = logging.getLogger("pyraft")


class Node(Generic[M]):
    """One member, open inside `async with`."""

    def __init__(self, directory: Directory, machine: M, *, settings: Settings | None = None, name: str = "") -> None:
        """A node on a directory that `init` or `join` has made; nothing is touched before `async with`.

        `machine` becomes this node's: a machine that belongs to a node already is a RuntimeError, one whose state
        cannot be tracked a TypeError. `name` says of the session in the cluster whose it is.
        """
        self.directory = directory
        self.machine = machine
        self.settings = settings or Settings()
        self.name = name
        self._replica = Replica({"": machine})
        self._identity: Identity | None = None
        self._ground: Ground | None = None
        self._server: aio.Server | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._cause: BaseException | None = None
        self._closing = asyncio.Lock()

    def __repr__(self) -> str:
        identity = self._identity
        return f"<Node {'not started' if identity is None else f'{identity.id} at {identity.address}'}>"

    # What it is.

    @property
    def id(self) -> int:
        """The id of this member in the cluster."""
        return self._own().id

    @property
    def address(self) -> str:
        """The address at which the others reach it."""
        return self._own().address

    @property
    def cluster(self) -> str:
        """The id of the cluster."""
        return self._own().cluster

    @property
    def server(self) -> aio.Server:
        """The server of the core, for all that this layer does not offer."""
        if self._server is None:
            raise Stopped("the node is not started")
        return self._server

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, as far as it knows; see `pyraft.aio.Server.is_leader`."""
        return self.server.is_leader

    @property
    def leader(self) -> tuple[int, str | None]:
        """Id and address of the leader as this member knows it; (0, None) for none."""
        return self.server.leader

    # Its life.

    async def __aenter__(self) -> "Node[M]":
        try:
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hand over, if this member leads and another can, end what waits, and stop. Again: nothing."""
        async with self._closing:
            if self._ground is not None:
                await self._hand_over()
                await self._close()

    async def _start(self) -> None:
        if self._ground is not None or self._cause is not None:
            raise RuntimeError("a node is started once")
        identity = self._identity = self._member()
        ground = self._ground = Ground(self.directory)
        server = ground.server(self._replica, identity)
        self._set(server)
        self._look_at_log(ground.io, identity)
        self._reads = Reads(self._round)
        self._calls = Calls(self._replica, self._find, self.settings, self.name)
        self._proposer = Proposer(server, self._replica)
        self._server = server
        try:
            await server.start()
        except aio.RaftError:
            if not self._lost:
                raise
            raise Refused(
                f"member {identity.id} has lost its log, '{self.directory}' has its {NODE_FILE} and no entry. It has "
                "stored and promised what is not here any more, so it must not go on under its id: remove the member, "
                "and join as a new one in an empty directory"
            ) from None
        for machine in self._replica.machines.values():
            assert machine._node is not None
            machine._node.caller = self
        self._watcher = asyncio.get_running_loop().create_task(self._watch(server))

    async def _close(self) -> None:
        self._cause = self._cause or Stopped("the node is closed")
        for machine in self._replica.machines.values():
            if machine._node is not None:
                machine._node.caller = None
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._server is not None:
            self._calls.close(self._failure)
            self._reads.close(self._failure)
            self._proposer.close()
        ground, self._ground = self._ground, None
        if ground is not None:
            await ground.close()

    async def _hand_over(self) -> None:
        server = self._server
        if server is None or not server.is_leader:
            return
        voters = [s for s in server.raft.configuration.servers if s.role == RAFT_VOTER and s.id != self.id]
        if voters:
            with contextlib.suppress(aio.RaftError):
                await server.transfer()

    def _member(self) -> Identity:
        """Return who this directory belongs to; Refused if that is nobody who could start."""
        identity = read(self.directory)
        if identity is None:
            raise Refused(
                f"'{self.directory}' has no {NODE_FILE}, so no member of a cluster is in it. `pyraft init` begins a "
                "new cluster, `pyraft join` makes it a new member of one that runs. If a member was in it, its data is "
                "gone: remove it, and have it come back by joining as a new one, in an empty directory"
            )
        if identity.phase not in (MEMBER, JOINED):
            raise Refused(describe(self.directory, identity))
        return identity

    def _set(self, server: aio.Server) -> None:
        settings = self.settings
        raft_set_heartbeat_timeout(server.raft, settings.heartbeat_msecs)
        raft_set_election_timeout(server.raft, settings.election_timeout_msecs)
        raft_set_snapshot_threshold(server.raft, settings.snapshot_entries)
        raft_set_snapshot_trailing(server.raft, settings.trailing_entries)

    def _look_at_log(self, io: RaftIo, identity: Identity) -> None:
        """See to it that a member whose log is gone does not start: it has promised things that it has forgotten."""
        load = io.load
        self._lost = False

        def checked(io: RaftIo) -> Any:
            loaded = load(io)
            rv, _, _, snapshot, _, entries = loaded
            if rv == 0 and identity.phase == MEMBER and snapshot is None and len(entries) == 0:
                self._lost = True
                return RAFT_CORRUPT, 0, 0, None, 0, entries
            return loaded

        io.load = checked

    def _become_member(self) -> None:
        """Note that there is a log now, whose loss would matter."""
        identity = self._own().at(MEMBER)
        write(self.directory, identity)
        self._identity = identity

    async def _watch(self, server: aio.Server) -> None:
        """Tell the others of a new leader, and of the end."""
        known = server.leader
        try:
            while True:
                self._calls.outbox.wake()
                self._reads.wake()
                if self._has_begun():
                    self._become_member()
                await server.wait_until(functools.partial(self._is_news, known))
                known = server.leader
        except aio.RaftError as exc:
            self._stop(exc)
        except OSError as exc:
            _logger.exception("member %d cannot note that it is one", self.id)
            self._stop(exc)

    def _is_news(self, known: tuple[int, str | None]) -> bool:
        return self.server.leader != known or self._has_begun()

    def _has_begun(self) -> bool:
        """Return whether the log of a member that has joined has its first entry, on disk."""
        return self._own().phase == JOINED and self.server.raft.last_stored > 0

    def _stop(self, exc: BaseException) -> None:
        """The server has stopped by itself: end what waits with the cause."""
        self._cause = exc
        self._calls.close(self._failure)
        self._reads.close(self._failure)
        self._proposer.close()

    def _failure(self) -> BaseException:
        cause = self._cause
        if isinstance(cause, Stopped):
            return Stopped(str(cause))
        stopped = Stopped(f"the node has stopped: {cause}")
        stopped.__cause__ = cause
        return stopped

    def _own(self) -> Identity:
        if self._identity is None:
            raise Stopped("the node is not started")
        return self._identity

    # Calls.

    async def call(self, machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> Any:
        """Have a command executed: what `await node.machine.command(…)` does."""
        return await self._calls.call(machine, name, version, args, kwargs)

    async def ask(self, machine: Machine, name: str, args: Any, kwargs: Any) -> Any:
        """Have a query answered, linearizably: what `await node.machine.query(…)` does."""
        future = self._reads.wait()
        deadlines = self._calls.deadlines
        deadlines.add(future, self._calls.timeout(), lambda future: future.set_exception(self._unavailable(name)))
        try:
            await future
        finally:
            deadlines.discard(future)
        return self._replica.ask(machine, name, args, kwargs)

    async def outcome(self, unknown: Unknown) -> Any:
        """Make certain what has become of a call: have it done if it was not, once, and return its result.

        Raises the command's exception, or CommandFailed; Unknown again if the time is over, or nobody can know any
        more; ValueError for a call that was never sent, and so has not happened and will not.
        """
        return await self._calls.outcome(unknown)

    def timeout(self, seconds: float) -> "contextlib._GeneratorContextManager[None]":
        """`with node.timeout(0.5):` gives the calls and queries in the block so many seconds each."""
        return caller.timeout(seconds)

    def _find(self) -> Path | None:
        return self._proposer if self.server.is_leader else None

    async def _round(self) -> None:
        await self.server.barrier()

    def _unavailable(self, name: str) -> Unavailable:
        leader, address = self.leader
        who = f"the leader, {leader} at {address}, has not answered" if leader else "no leader is known"
        return Unavailable(f"no answer in time to {name}(): {who}")

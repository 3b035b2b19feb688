"""A node: one member of a cluster inside an asyncio program, with a machine that all members share.

Duty: `Node` owns what a member is made of, from the loop's handles to the session, and the order in which that begins
and ends. It carries out the calls of its machine's users.

    async with Node("data/1", Shop()) as node:      # the directory was made by init or join
        await node.machine.take("apple")

Happy path: as above. A command is sent to whoever leads and counts once; a query sees all that was acknowledged before.
At the end a leader hands over first, if another member can lead.

Failure modes: a directory that is not a member's, or has lost its log, or is in use, is Refused, and nothing starts. A
call ends with a result, the command's exception, CommandFailed or Unknown (`caller`), a query with its result or
Unavailable. When the node is closed, or stops by itself, what waits and whatever comes gets Stopped, with the cause.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from pyraft import (
    RAFT_SPARE,
    aio,
)
from pyraft.errors import printable
from pyraft.node import caller
from pyraft.node.admission import Admission
from pyraft.node.applied import Applied
from pyraft.node.asking import Asking
from pyraft.node.caller import Calls, Named
from pyraft.node.council import Council, View, hand_over, view
from pyraft.node.desk import Desk
from pyraft.node.endings import to_the_end
from pyraft.node.errors import CommandFailed, NodeError, Refused, Stopped, Unavailable, Unknown
from pyraft.node.founding import describe
from pyraft.node.given import check_directory, check_options
from pyraft.node.ground import Base, settle
from pyraft.node.identity import JOINED, LEFT, MEMBER, NODE_FILE, Directory, Identity
from pyraft.node.leases import Leases, Restraint
from pyraft.node.link import Elsewhere
from pyraft.node.loading import Loading
from pyraft.node.machine import Machine
from pyraft.node.outbox import Path
from pyraft.node.outside import Outside
from pyraft.node.proposer import Proposer
from pyraft.node.reads import Reads
from pyraft.node.registry import About
from pyraft.node.route import Route, persist
from pyraft.node.service import Service
from pyraft.node.settings import Settings
from pyraft.node.shared_time import SharedTime
from pyraft.node.streams import Streams
from pyraft.node.things import Things
from pyraft.node.tls import Tls, renew
from pyraft.node.waits import Waits

M = TypeVar("M", bound=Machine)
R = TypeVar("R")

_logger = logging.getLogger("pyraft")

_EXPIRE_SECONDS: Final = 0.5
"""How often a leader looks for recipes that have ended."""

_CARE_SECONDS: Final = 1.0
"""How often a leader looks after the members."""

_PATIENCE_SECONDS: Final = 2.0
"""How long a member waits before it tries again to tell of itself what an older one could not take."""


class Node(Asking, Things, Generic[M]):
    """One member, open inside `async with`."""

    def __init__(
        self,
        directory: Directory,
        machine: M,
        *,
        settings: Settings | None = None,
        name: str = "",
        version: str = "",
        data: Any = None,
        tls: Tls | None = None,
    ) -> None:
        """A node on a directory that `init` or `join` has made; nothing is touched before `async with`.

        `machine` becomes this node's: a machine that belongs to a node already is a RuntimeError, one whose state
        cannot be tracked a TypeError. Others see `name`, `version`, of the program, and `data` in `members()`: up to
        4096 bytes of plain values, as an address of HTTP. `tell` changes the data.
        """
        check_directory(directory)
        check_options(settings, tls)
        self.directory = directory
        self.machine = machine
        self.settings = settings or Settings()
        self.name = name
        self.outside = Outside()
        self._tls = tls
        self._about = About(name, version, data)
        self._furnish(machine)
        self._waits = Waits(self._replica, self._until)
        self._identity: Identity | None = None
        self._ground: Base | None = None
        self._server: aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._cause: BaseException | None = None
        self._closing = asyncio.Lock()

    def __repr__(self) -> str:
        identity = self._identity
        return f"<Node {'not started' if identity is None else f'{identity.id} at {identity.address}'}>"

    # Questions.

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
        if self._ground is not None or self._cause is not None:
            raise RuntimeError("a node is started once")
        try:
            await self._start()
        except BaseException:
            await to_the_end(self._close())
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hand over, if this member leads and another can, end what waits, and stop. Again: nothing.

        One who is cancelled meanwhile waits all the same: the directory is free when this is over.
        """
        await to_the_end(self._end())

    async def _end(self) -> None:
        async with self._closing:
            if self._ground is not None:
                if self._server is not None:
                    await hand_over(self._server)
                await self._close(orderly=True)

    def reload_certificates(self) -> None:
        """Take the files of Tls as they are now, for all connections: those that there are end, and are made anew.

        The page of this node takes its own. Raises Refused if one is of no use, or there is none: all stays as it was.
        """
        if self._ground is None or not (self._tls or self._desk.renewals):
            raise Refused("this node uses no certificates")
        renew(self._tls, self._ground, self._route, self._desk.renewals)

    async def _start(self) -> None:
        identity = self._identity = self._member()
        secure = None if self._tls is None else self._tls.context()
        outside = self.outside
        ground = self._ground = outside.ground(self.directory, self._tls)
        server = ground.server(self._replica, identity)
        # A member that comes back is to be found at once, not after a second.
        ground.retry(self.settings.heartbeat_msecs)
        settle(server.raft, self.settings)
        Streams(self._replica, ground.io)
        loading = Loading(ground.io, identity, self._replica)
        restraint = Restraint(server.raft, ground.io, outside.seconds, self.settings.election_timeout_msecs)
        self._leases = Leases(server.raft, restraint, outside.seconds, self.settings.clock_drift)
        self._reads = Reads(self._round, outside.seconds)
        self._calls = Calls(self._replica, self._find, self.settings, self.name, outside.token)
        self._now = SharedTime(server.raft, self._replica, outside.microseconds, outside.seconds)
        tracing = self._calls.tracing
        self._proposer = Proposer(server, self._replica, self._now, tracing)
        self._applied = Applied(server, self._replica, tracing, outside.microseconds)
        self._route = Route(
            self._leader_elsewhere, self._others, self._ready, identity.cluster, identity.id, secure, outside.connect
        )
        self._calls.outbox.reason = self._no_way
        self._admission = Admission(server, self._replica, self._registry, self._proposer)
        self._admission.about = lambda: self._about
        self._service = Service(server, ground, self._admission, identity.cluster)
        self._council = Council(
            server, self.settings, identity.cluster, self._registry, self._admission, restraint, outside.seconds
        )
        self._service.answers = {
            **self._council.answers,
            "index": self._index,
            "query": self._query,
            "await": self._waits.answer,
        }
        self._desk = Desk(self._service, self._proposer, outside, self._caught_up)
        self._server = server
        restraint.announces = self._bind(True)
        try:
            await server.start()
        except aio.RaftError:
            if (refusal := loading.refusal(self.directory)) is None:
                raise
            raise refusal from None
        for machine in self._replica.machines.values():
            assert machine._node is not None
            machine._node.caller = self
        loop = asyncio.get_running_loop()
        tasks = (self._watch(server), self._take_part(), self._expire(), self._lead())
        self._tasks = [loop.create_task(task) for task in tasks]

    async def _close(self, orderly: bool = False) -> None:
        self._cause = self._cause or Stopped("the node is closed")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            self._calls.close(self._failure)
            self._reads.close(self._failure)
            self._proposer.close()
            await self._desk.close()
            await self._route.close()
            await self._service.close()
            if orderly and (seconds := self._leases.leave()) > 0:
                await asyncio.sleep(seconds)
            if orderly or not self._server.raft.started:
                self._bind(False)
        ground, self._ground = self._ground, None
        if ground is not None:
            await ground.close()

    def _member(self) -> Identity:
        """Return who this directory belongs to; Refused if that is nobody who could start."""
        identity = self.outside.read(self.directory)
        if identity is None:
            raise Refused(
                f"'{self.directory}' has no {NODE_FILE}, so no member of a cluster is in it. `pyraft init` begins a "
                "new cluster, `pyraft join` makes it a new member of one that runs. If a member was in it, its data is "
                "gone: remove it, and have it come back by joining as a new one, in an empty directory"
            )
        if identity.phase not in (MEMBER, JOINED):
            raise Refused(describe(self.directory, identity))
        return identity

    def _note(self, **changes: Any) -> None:
        """Change what the directory says of this member."""
        identity = dataclasses.replace(self._own(), **changes)
        if identity != self._identity:
            self.outside.write(self.directory, identity)
            self._identity = identity

    def _bind(self, bound: bool) -> bool:
        """Note whether there are promises that an older version would not keep; return whether the note is there."""
        try:
            self._note(bound=bound)
        except OSError as exc:
            _logger.warning("member %d cannot note what it promises in its directory: %s", self.id, exc)
            return False
        return True

    async def _watch(self, server: aio.Server) -> None:
        """Tell the others of a new leader, and of the end."""
        known = server.leader
        try:
            while True:
                self._calls.outbox.wake()
                self._reads.wake()
                if self._has_begun():
                    self._note(phase=MEMBER)  # there is a log now, whose loss would matter
                await server.wait_until(functools.partial(self._is_news, known))
                known = server.leader
        except aio.RaftError as exc:
            self._stop(exc)
        except OSError as exc:
            _logger.exception("member %d cannot store that it has become a member", self.id)
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

    def _require_start(self) -> None:
        """Raise Stopped for a node that is not started, or has stopped."""
        if self._cause is not None:
            raise self._failure()
        if self._server is None:
            raise Stopped("the node is not started")

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

    def call(self, machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Have a command executed, as `await node.machine.command(…)` does."""
        if self._admission.lacking:
            version = self._common(machine, name, version, args, kwargs)
        return self._calls.call(machine, name, version, args, kwargs)

    def _common(self, machine: Machine, name: str, newest: int, args: Any, kwargs: Any) -> int:
        """Return the version of a command to call: the newest that all members have, if the arguments fit."""
        assert machine._node is not None
        version = self._admission.version(machine._node.name, name, newest)
        return version if self._calls.fits(machine, name, version, args, kwargs) else newest

    async def ask(self, machine: Machine, name: str, args: Any, kwargs: Any) -> Any:
        """Have a query answered, linearizably, as `await node.machine.query(…)` does."""
        if self._cause is not None:
            raise self._failure()
        self._calls.check_loop()
        stale = caller.STALE.get()
        if not ((caller.LEASE.get() and self._leased()) or (stale is not None and self.staleness <= stale)):
            await self._caught_up(name)
        return self._replica.ask(machine, name, args, kwargs)

    def _leased(self) -> bool:
        """Return whether a query may be answered at once, as no other member can lead; have that renewed in time."""
        left = self._leases.left
        if 0 < left < self._leases.length / 2:
            self._reads.renew()
        return left > 0

    def read(self, *, stale: float | None = None, lease: bool = False) -> "contextlib._GeneratorContextManager[None]":
        """`with node.read(stale=0.5):` has the queries in the block answered from the state that is here.

        All that was acknowledged more than `stale` seconds ago is in it; if that is not certain, a query asks the
        leader, as it would without. `float("inf")` never asks, and works without a majority.

        With `lease=True` the leader answers without a round as long as no other can have been elected since the last
        one: queries stay linearizable where the clocks of members run at the same rate, up to Settings.clock_drift.
        Elsewhere, and when that is not certain, it changes nothing.
        """
        return caller.read(stale, lease)

    @property
    def staleness(self) -> float:
        """How old the state here can be, in seconds: all that was acknowledged before that is in it. At first, inf."""
        self._require_start()
        return self.outside.seconds() - self._reads.complete

    async def _query(self, machine: str, name: str, arguments: bytes) -> bytes:
        """Answer the query of a client, with an outcome as commands have it."""
        if not self._replica.asks(machine, name):
            raise Refused(f"the program of this member has no query {printable(str(name)[:80])}")
        await self._caught_up(name)
        return self._replica.answer(machine, name, arguments)

    def session(self, name: str, acknowledged: int = 0) -> Named:
        """Return a session whose calls have numbers of the caller's own: `await session.call(17, shop.take, "apple")`.

        A call with the same name and number counts once, whichever program makes it, also after a crash: the outcome is
        kept until a later call of the session acknowledges it (`acknowledged`: all numbers up to it), and for an hour
        after the last call at most.
        """
        self._require_start()
        return self._calls.named(name, acknowledged)

    async def ready(self) -> None:
        """Wait until this member has all that is acknowledged by now: in a rolling restart, the moment for the next.

        The others know its program then, so that its new commands count. Raises Unavailable if the time passes first.
        """
        self._require_start()
        await self._caught_up("ready")
        with contextlib.suppress(CommandFailed, Unknown):  # an older member could not take it, or nobody did in time
            if await self._introduce():
                await self._caught_up("ready")

    async def _caught_up(self, what: str) -> None:
        future = self._reads.wait()
        deadlines = self._calls.deadlines
        deadlines.add(future, self._calls.timeout(), lambda future: future.set_exception(self._unavailable(what)))
        try:
            await future
        finally:
            deadlines.discard(future)

    async def outcome(self, unknown: Unknown) -> Any:
        """Make certain what has become of a call: have it done if it was not, once, and return its result.

        Raises the command's exception, or CommandFailed; Unknown again if the time is over, or nobody can know any
        more; ValueError for a call that was never sent, and so has not happened and will not.
        """
        self._require_start()
        return await self._calls.outcome(unknown)

    # Recipes.

    async def _until(self, test: Callable[[], bool]) -> None:
        if self._server is None:
            raise Stopped("the node is not started")
        try:
            await self._applied.until(test)
        except aio.RaftError:
            raise self._failure() from None

    async def _wait(self, machine: Machine, query: str, *args: Any) -> None:
        await self._waits.wait(machine, query, *args)

    async def _expire(self) -> None:
        """As the leader, have removed from the recipes what has ended."""
        while True:
            await asyncio.sleep(_EXPIRE_SECONDS)
            for machine in (self._recipes, self._gates):
                if self.server.is_leader and machine.is_due(self._now()):
                    with contextlib.suppress(NodeError):
                        await machine.expire()

    # Members.

    async def tell(self, data: Any) -> None:
        """Have others see other data of this member in `members()`. TypeError or ValueError for what cannot be told."""
        about = About(self.name, self._about.version, data)
        self._require_start()
        self._about = about
        await self._introduce()

    async def changes(self) -> AsyncIterator[View]:
        """Yield who leads and who the members are, as this member knows it: now, and after each change of that.

        A state that comes and goes while the caller is busy is left out. The end of the node is the end of it.
        """
        told: list[View] = []
        with contextlib.suppress(Stopped):
            while True:
                await self._until(lambda: [view(self.server, self._registry)] != told)
                told[:] = [view(self.server, self._registry)]
                yield told[0]

    async def leave(self) -> None:
        """Have this member removed for good, and stop. Its directory is of no use any more."""
        await self.remove(self.id)
        self._note(phase=LEFT)
        await self.close()

    async def _errand(self, what: str, *arguments: Any) -> Any:
        """Have whoever leads answer a question, or carry out a change."""
        self._require_start()

        def attempt() -> Awaitable[Any]:
            if self.server.is_leader:
                return self._service.answers[what](*arguments)
            return self._route.ask(what, *arguments)

        return await persist(attempt, self._calls.timeout(), self._route.refusal)

    async def _take_part(self) -> None:
        """Have the others know this member, and if it is new have it get its role, now that it can catch up."""
        placed = False
        while True:
            if placed or not self._is_spare():
                with contextlib.suppress(NodeError):
                    await self._caught_up("ready")  # else what is known here may be old
                    await self._introduce()
                    return
                await asyncio.sleep(_PATIENCE_SECONDS)
                continue
            with contextlib.suppress(NodeError):
                await self._introduce()
            try:
                role = await self._errand("promote", self.id)
            except Unavailable:
                continue
            except NodeError as exc:
                _logger.error("member %d gets no role in its cluster: %s", self.id, exc)
                return
            _logger.info("member %d is a %s now", self.id, role)
            placed = True

    def _is_spare(self) -> bool:
        """Return whether this member has no role yet, by what it knows."""
        own = [s for s in self.server.raft.configuration.servers if s.id == self.id]
        return not own or own[0].role == RAFT_SPARE

    async def _introduce(self) -> bool:
        """Tell the others what is news of this member; return whether. CommandFailed if an older one cannot."""
        is_news = self._registry.facts.get(self.id) != self._about.facts(self._admission.offers)
        if is_news:
            await self._registry.tell(*self._admission.introduction(self._about))
        return is_news

    async def _lead(self) -> None:
        """As the leader, see to the members: standbys in the place of those that are gone, and no trace of others."""
        while True:
            await asyncio.sleep(_CARE_SECONDS)
            if self.server.is_leader:
                try:
                    await self._council.look_after()
                    if strangers := self._council.strangers():
                        await self._registry.forget(strangers)
                except (NodeError, aio.RaftError) as exc:
                    _logger.info("members are looked after again in a moment: %s", exc)

    # The way to the leader.

    def _find(self) -> Path | None:
        server = self._server
        return self._admission if server is not None and server.is_leader else self._route.find()

    def _no_way(self) -> str:
        """Return why calls get nowhere."""
        return self._route.why() if self.leader[0] else "no leader is known"

    def _leader_elsewhere(self) -> str | None:
        """Return where raft knows the leader to be, if that is another member."""
        id, address = self.server.leader
        return None if id == self.id else address

    def _others(self) -> list[str]:
        """Return where there may be members that know more."""
        known = [s.address for s in self.server.raft.configuration.servers if s.id != self.id]
        return known or [address for address in self._own().members if address != self.address]

    def _ready(self) -> None:
        self._calls.outbox.wake()
        self._reads.wake()

    async def _round(self) -> None:
        """See to it that all that is acknowledged by now is applied here."""
        server = self.server
        if server.is_leader:
            round = self._leases.begin()
            await server.read_index()
            self._leases.end(round)
            return
        index = await self._route.ask("index")
        if type(index) is not int:
            raise Unavailable("the leader answered with something other than an index")
        await self._applied.until(lambda: server.raft.last_applied >= index)

    async def _index(self) -> int:
        """Return an index up to which all that is acknowledged by now has been applied.

        The end of the leadership ends it: two that lead in turns and ask each other would wait for ever.
        """
        try:
            if self.server.is_leader:
                return await self.server.read_index()
        except aio.RaftError:
            pass
        raise Elsewhere(self._leader_elsewhere())

    def _unavailable(self, name: str) -> Unavailable:
        leader, address = self.leader
        who = f"the leader, {leader} at {address}, has not answered" if leader else "no leader is known"
        return Unavailable(f"no answer in time to {name}(): {who}")

"""A member of a cluster of dqlite: it votes and stores, and has others lead.

Duty: `Member` is a node on a data directory. It asks the cluster to take it in, in the role that it is to have, answers
clients (`gateway`), keeps the databases' pages (`io_uv.dqlite.machine`), and hands leadership on as soon as it has it,
since it runs no SQL.

Happy path: `async with Member(directory, address, join=[…])`; `await member.joined()` returns when the cluster has
given it its role. A new directory gets an id and the file `join`, which goes when that has come about, as in
go-dqlite's app. A directory that has been a node's, of any program, goes on as it is.

Failure modes: Refused for a directory in use, or of another node; a start that fails leaves nothing behind that it has
made for a new one. Joining is tried again and again, and the log says
why it takes long; if the address is another member's, it never will, and `joined` and `wait_closed` raise Refused. If
this member leads and no other voter answers, it goes on as the leader, so that the configuration can be changed. A
disk that fails stops it: `wait_closed` raises pyraft.aio.RaftError.
"""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import io_uv
from io_uv import fs
from io_uv.datadir import newdir
from io_uv.dqlite import flock, port, requests, responses
from io_uv.dqlite.machine import DqliteFsm
from io_uv.failure import Failure
from pyraft import (
    RAFT_LEADER,
    RAFT_VOTER,
    aio,
    raft_digest,
    raft_set_snapshot_trailing,
    raft_strerror,
    snapshot,
)
from pyraft.dqlite import store
from pyraft.dqlite.dialing import dialer
from pyraft.dqlite.errors import DqliteError, Refused
from pyraft.dqlite.gateway import ROLES, Gateway
from pyraft.dqlite.lxd import LxdTls
from pyraft.dqlite.peer import Dial, find_leader, several
from pyraft.dqlite.settings import Settings
from pyraft.dqlite.store import Info
from pyraft.dqlite.tls import shares_name
from pyraft.node import identity
from pyraft.node.deadlines import within
from pyraft.node.errors import Refused as NodeRefused
from pyraft.node.ground import Ground
from pyraft.node.identity import MEMBER, Identity
from pyraft.node.link import require_form
from pyraft.node.tls import Tls

JOIN: Final = "join"
"""The file of a directory whose node the cluster has not taken in yet."""
DATABASES: Final = "databases"
"""The folder of the databases in the data directory."""

LARGEST_SNAPSHOT: Final = 16 << 30
"""Bytes of a snapshot that is taken from others."""
IN_MEMORY: Final = 1 << 20
"""Bytes of a snapshot from which on it is in files."""

_RETRY_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_CERTIFICATES_SECONDS: Final = 10.0
"""Between two looks at the certificates of LXD."""
_FEWEST: Final = 3
"""Members that there are before go-dqlite's role management lets more than one vote."""
_ASSIGN_SECONDS: Final = 600.0
"""A server that becomes a voter gets all of the log first."""

_log: Final = logging.getLogger("pyraft")


class Member:
    """A node. `role` is that of the wire, one of `io_uv.dqlite.responses`: VOTER (a witness), STANDBY or SPARE."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        address: str,
        join: Iterable[str] = (),
        *,
        role: int = responses.VOTER,
        id: int = 0,
        bind: str = "",
        settings: Settings | None = None,
        keep_role: bool = True,
        tls: Tls | None = None,
        upgrade: str = "",
        dial: Dial | None = None,
        prepare: Callable[[io_uv.RaftUvTransport], object] | None = None,
    ) -> None:
        """Nothing happens before `start`.

        `address` is what the others know it by, `bind` where it listens if that is another one, `join` where members of
        the cluster are. `id` 0 stands for a new one, or that of the directory. With `keep_role` it asks for its role
        again if it was given a lesser one. `tls` is the certificate that all share, as with SimpleTLSConfig of
        go-dqlite's app. `upgrade` is the path of an HTTP upgrade that connections to other nodes begin with, as in LXD
        (io_uv.dqlite.upgrade). `dial` opens connections to other nodes as a client, if not in one of these ways;
        `prepare` may give raft's transport a dialer or a policy, see io_uv.raft_uv_set_dialer.
        """
        self.directory = os.fspath(directory)
        self.address = address
        self.join = several(join)
        self.role = role
        self.id = id
        self.bind = bind
        self.settings = settings or Settings()
        self.keep_role = keep_role
        self.tls = tls
        self.upgrade = upgrade
        self.dial_is_own = dial is not None or prepare is not None
        self.dial = dial if dial is not None else dialer(tls, upgrade)
        self._dials = dial is None
        """Whether connections as a client are opened with the certificates of `tls`."""
        self.prepare = prepare
        self.fsm = DqliteFsm(os.path.join(self.directory, DATABASES))
        self.server: aio.Server = None  # type: ignore[assignment]
        self.gateway: Gateway = None  # type: ignore[assignment]
        self._ground: Ground | None = None
        self._lock: flock.Lock | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._joined: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._told = ""
        self._certificates = b""
        """The fingerprint of the certificates in force, where they are LXD's."""

    async def __aenter__(self) -> "Member":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # Beginning and end.

    async def start(self) -> None:
        """Read the directory and take part; joining goes on behind that. Raises Refused, RaftError, OSError."""
        loop = asyncio.get_running_loop()
        self._joined, self._ended = loop.create_future(), loop.create_future()
        self._check_addresses()
        with newdir.undone(*self._begun_with()) as begun:
            try:
                with newdir.making(self.directory, 0o700):
                    await self._open()
            except (Failure, NodeRefused) as exc:
                await self.close()
                raise Refused(str(exc) if isinstance(exc, NodeRefused) else exc.message) from None
            except BaseException:
                await self.close()
                raise
            finally:
                if os.path.lexists(os.path.join(self.directory, "metadata1")):
                    begun[:] = [one for one in begun if one.name == flock.NAME]  # it has a term, and perhaps a promise
        self._begin(self._join())
        self._begin(self._lead())
        self._begin(self._keep())
        self._begin(self._bound_log())
        if isinstance(self.tls, LxdTls):
            self._begin(self._watch_certificates(self.tls))

    def _check_addresses(self) -> None:
        """Refuse addresses that no node can have, before anything is made for them; a `dial` knows its own forms."""
        if self.dial_is_own:
            return
        for one in (self.address, *self.join):
            try:
                require_form(one)
            except ValueError as exc:
                raise Refused(f"no node is at {one!r:.100}: {exc}") from None

    def _begun_with(self) -> list[Path]:
        """Return the files and directories that a start makes at first: where it fails the new ones go again."""
        directory = Path(self.directory)
        names = (flock.NAME, JOIN, store.INFO, DATABASES)
        return [*(directory / name for name in names), directory, *directory.parents]

    async def _open(self) -> None:
        self._lock = flock.hold(self.directory)
        self._settle_identity()
        self._make_server()
        self._open_machine()
        await self.server.start()

    def _settle_identity(self) -> None:
        """Find out which node the directory is, or make it one, durably."""
        known = store.read_info(self.directory)
        node = identity.read(self.directory)
        if node is not None:
            raise Refused(f"directory '{self.directory}' belongs to member {node.id} of a cluster that is not dqlite's")
        if known is not None:
            joins = os.path.exists(os.path.join(self.directory, JOIN))
            # As long as nobody knows the node, an address that was a mistake can be mended.
            if self.id not in (0, known.id) or (self.address != known.address and not joins):
                raise Refused(f"directory '{self.directory}' is that of node {known.id} at {known.address}")
            self.id = known.id
            if self.address != known.address:
                store.write_info(self.directory, Info(self.id, self.address, known.role))
            return
        used = os.path.exists(os.path.join(self.directory, "metadata1"))
        if used and self.id == 0:
            raise Refused(f"directory '{self.directory}' is a node's, and nothing there says which id it has: give it")
        # JavaScript and many readers of JSON round from 2^53 on. LXD keeps ids in a column of SQLite: one of 2^63 or
        # more stops its heartbeats.
        self.id = self.id or raft_digest(self.address, time.time_ns()) >> 11 or 1
        if not used:
            fs.replace_file(self.directory, JOIN, b"")
        store.write_info(self.directory, Info(self.id, self.address, responses.SPARE))

    def _make_server(self) -> None:
        if isinstance(self.tls, LxdTls):
            self._certificates = self.tls.fingerprint()
        ground = self._ground = Ground(self.directory, self.tls)
        if self.tls is not None and not isinstance(self.tls, LxdTls):
            io_uv.raft_uv_tls_set_policy(ground.transport, shares_name(self.tls))
        if self.prepare is not None:
            self.prepare(ground.transport)
        self._check_address(ground.transport)
        if self.bind:
            io_uv.raft_uv_tcp_set_bind_address(ground.transport, self.bind)
        rv = port.listen(
            ground.transport, lambda channel, request: self.gateway.request(channel, request), path=self.upgrade
        )
        if rv != 0:
            raise Refused(ground.transport.errmsg)
        self.server = ground.server(self.fsm, Identity(self.id, self.address, "", MEMBER))
        io_uv.raft_uv_set_snapshot_compression(ground.io, True)
        io_uv.raft_uv_set_snapshot_check(ground.io, self.fsm.check)
        limits = io_uv.raft_uv_limits(ground.io)
        limits.snapshot, limits.mapped = LARGEST_SNAPSHOT, IN_MEMORY
        load = ground.io.load
        ground.io.load = lambda io: self._check_loaded(load(io))
        self.settings.apply(self.server.raft)
        self.fsm.freezing_cb = self._trim
        self.gateway = Gateway(self.server, self.fsm, self.settings.failure_domain, self.settings.weight)

    def _check_address(self, transport: io_uv.RaftUvTransport) -> None:
        """Raise Refused for a node that is to join under an address at which nobody could reach it."""
        check = transport.check_address
        joins = os.path.exists(os.path.join(self.directory, JOIN))
        if joins and check is not None and check(transport, self.address) != 0:
            raise Refused(transport.errmsg)

    def _check_loaded(self, loaded: Any) -> Any:
        """Write and check the databases of a snapshot that was loaded, in the thread that has loaded it."""
        rv, _, _, found, _, _ = loaded
        if rv == 0 and found is not None:
            self.fsm.check(found.bufs[0])  # if it is refused, restoring says so once more
        return loaded

    def _open_machine(self) -> None:
        """Make the state machine ready, when the directory is locked. Raises Failure, OSError."""
        self.fsm.open()

    async def close(self) -> None:
        """Stop taking part, and give the directory back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._ground is not None:
            ground, self._ground = self._ground, None
            await ground.close()
        if self.gateway is not None:
            await self.gateway.close()
        self.fsm.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        for future in (self._joined, self._ended):
            if future is not None and not future.done():
                future.set_result(None)

    async def joined(self) -> None:
        """Wait until the cluster has given this member its role, or it is closed. Raises Refused if it never will."""
        assert self._joined is not None
        await asyncio.shield(self._joined)

    async def wait_closed(self) -> None:
        """Wait until the member is closed. Raises what has stopped it."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    def _begin(self, doing: Any) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        task.add_done_callback(self._task_done)
        self._tasks.append(task)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        """Tell those who wait for this member why it ends, where it does by itself."""
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            self._failed(exc)

    def _failed(self, cause: BaseException) -> None:
        for future in (self._joined, self._ended):
            if future is not None and not future.done():
                future.set_exception(cause)
                future.exception()  # seen: perhaps nobody waits

    # Joining.

    @property
    def own_role(self) -> int | None:
        """The role in the configuration in force, as on the wire; None for a node that is not a member."""
        for one in self.server.raft.configuration.servers:
            if one.id == self.id:
                return ROLES[one.role]
        return None

    async def _join(self) -> None:
        if os.path.exists(os.path.join(self.directory, JOIN)):
            while True:
                try:
                    await self._ask_in()
                    break
                except (OSError, DqliteError) as exc:
                    self._tell(f"it is not taken into the cluster yet: {exc}")
                await asyncio.sleep(_RETRY_SECONDS)
            await self.server.wait_until(lambda: self.own_role == self.role)
            self._note_members()
            with contextlib.suppress(FileNotFoundError):
                fs.unlink(os.path.join(self.directory, JOIN))
        assert self._joined is not None
        if not self._joined.done():
            self._joined.set_result(None)

    async def _ask_in(self) -> None:
        """Ask the leader for a place, unless that was done before; DqliteError or OSError if it cannot be now."""
        known = [one.address for one in store.read_cluster(self.directory)]
        known += [one.address for one in self.server.raft.configuration.servers]
        asked = [one for one in (*self.join, *known) if one != self.address]
        if not asked:
            raise ConnectionError("it knows no other node: none was given to join")
        async with await find_leader(asked, self.dial) as peer:
            members = await peer.members()
            for one in members:
                if one.address == self.address and one.id != self.id:
                    raise Refused(f"address {self.address} is node {one.id}'s: remove that one first")
                if one.id == self.id and one.address != self.address:
                    raise Refused(f"node {one.id} is a member at {one.address}: remove it first, or go on there")
            own = next((one for one in members if one.id == self.id), None)
            if own is None:
                await peer.ask(requests.Add(self.id, self.address))
            if self.role != (own.role if own is not None else responses.SPARE):
                await peer.ask(requests.Assign(self.id, self.role), _ASSIGN_SECONDS)

    def _note_members(self) -> None:
        servers = self.server.raft.configuration.servers
        store.write_info(self.directory, Info(self.id, self.address, self.role))
        members = [Info(one.id, one.address, ROLES[one.role]) for one in servers]
        if members != store.read_cluster(self.directory):
            store.write_cluster(self.directory, members)

    async def _keep(self) -> None:
        """Keep the node store as the members are, and the role of this one as it is to be.

        Role management takes the vote of a member that was away, and go-dqlite's takes that of one of four at random.
        Nobody sends such a member anything any more, so that it does not see a leader.
        """
        await self.joined()
        noted, pause = self.server.raft.configuration, _LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            if self.server.raft.configuration is not noted:
                noted = self.server.raft.configuration
                self._note_members()
            if not self.keep_role or (self.own_role == self.role and self.server.leader[0] != 0):
                pause = max(_LOOK_SECONDS, pause / 2)
                continue
            try:
                if await self._ask_back():
                    pause = min(_LONGEST_PAUSE, pause * 4)
            except (OSError, DqliteError) as exc:
                self._tell(f"it cannot ask for its role: {exc}")

    async def _ask_back(self) -> bool:
        """Ask the leader for this member's role, if it has a lesser one; return whether it had to be asked."""
        addresses = [one.address for one in store.read_cluster(self.directory) if one.address != self.address]
        async with await find_leader([*addresses, *self.join], self.dial) as peer:
            members = await peer.members()
            own = next((one.role for one in members if one.id == self.id), None)
            if own is None or own <= self.role or (self.role == responses.VOTER and len(members) < _FEWEST):
                return False
            self._tell(f"it asks for its role again, {self.role}, as it was given role {own}")
            await peer.ask(requests.Assign(self.id, self.role), _ASSIGN_SECONDS)
            return True

    def _tell(self, problem: str) -> None:
        """Log what keeps this member from what it should do, unless that was said last."""
        if self._told != problem:
            self._told = problem
            _log.warning("dqlite node %d at %s: %s", self.id, self.address, problem)

    # Certificates.

    def reload_certificates(self) -> None:
        """Take the files of `tls` as they are now; all connections are made anew. Refused, and all stays, if they fail.

        Those of LXD are looked at every ten seconds, and taken when they are others.
        """
        if self.tls is None or self._ground is None:
            return
        dial = dialer(self.tls, self.upgrade) if self._dials else self.dial
        try:
            self._ground.reload_certificates()
        except NodeRefused as exc:
            raise Refused(str(exc)) from None
        self.dial = dial

    async def _watch_certificates(self, tls: LxdTls) -> None:
        """Take LXD's certificates whenever they are others: nodes come and go there without a word to this one."""
        while True:
            await asyncio.sleep(_CERTIFICATES_SECONDS)
            found = await asyncio.get_running_loop().run_in_executor(None, tls.fingerprint)
            if found == self._certificates:
                continue
            try:
                self.reload_certificates()
            except Refused as exc:
                self._tell(f"certificates stay as they were: {exc}")
            else:
                self._certificates = found
                _log.info("dqlite node %d at %s: certificates were read again", self.id, self.address)

    # The log.

    def _trim(self) -> None:
        """Have a snapshot that is taken now keep no more of the log than settings.log_bytes."""
        raft = self.server.raft
        raft_set_snapshot_trailing(raft, self.settings.trailing(raft))

    async def _bound_log(self) -> None:
        """Take a snapshot whenever the entries that were applied since the last one are many bytes."""
        raft, fsm, limit = self.server.raft, self.fsm, self.settings.log_bytes
        while True:
            await self.server.wait_until(lambda: fsm.applied_bytes >= limit and raft.snapshot.pending is None)
            rv = snapshot.take_now(raft)
            if rv != 0 or fsm.applied_bytes >= limit:
                self._tell(f"no snapshot can be taken now, and the log grows: {raft_strerror(rv)}")
                await asyncio.sleep(_RETRY_SECONDS)

    # Leading.

    async def _lead(self) -> None:
        """Hand leadership on, each time that this member has it, for as long as it has it."""
        server, seconds = self.server, self.settings.election_msecs / 1000
        while True:
            await server.wait_until(lambda: server.state == RAFT_LEADER)
            self.gateway.reluctant = True
            while server.state == RAFT_LEADER:
                with contextlib.suppress(TimeoutError):
                    ready = server.wait_until(lambda: server.state != RAFT_LEADER or bool(self._voters_that_answer()))
                    await within(ready, seconds)
                voters = self._voters_that_answer()
                self.gateway.reluctant = bool(voters)
                if not voters and server.state == RAFT_LEADER:
                    self._tell("it leads, and serves no statements, since no other voter answers")
                if voters:
                    await self._hand_on(random.choice(voters))
            self.gateway.reluctant = False

    async def _hand_on(self, id: int) -> None:
        try:
            await self.server.transfer(id)
        except aio.RaftError as exc:
            if self.server.state == RAFT_LEADER:
                self._tell(f"it leads, and cannot hand that on to node {id} yet: {exc.message}")
                await asyncio.sleep(self.settings.heartbeat_msecs / 1000)

    def _voters_that_answer(self) -> list[int]:
        """Return the other voters that have answered lately; any of them may be one that serves SQL."""
        raft = self.server.raft
        leader = raft.leader_state
        if leader is None:
            return []
        members = zip(raft.configuration.servers, leader.progress, strict=True)
        return [one.id for one, p in members if one.id != self.id and one.role == RAFT_VOTER and p.recent_recv]

    def databases(self) -> dict[str, Path]:
        """Return the files of the databases by name; their pages change with every transaction."""
        return {name: Path(one.path) for name, one in self.fsm.databases.items()}

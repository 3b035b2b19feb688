"""A simulated cluster for the tests of the core's public API: `pyraft.fixture` with its questions and orders short.

Duty: `Cluster` owns a RaftFixture and one PairFsm per server; its methods step the simulation and assert that what
was waited for came in time. A request is a `Pending`, which records how often its callback fired and with what.
Servers are named by their index, from 0, as in the fixture; their ids are one higher.

Failure modes: a wait that runs out raises an AssertionError that shows the time and the state of every server.
"""

from collections.abc import Callable
from typing import Any

from pyraft import (
    RAFT_COMMAND,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftConfiguration,
    RaftEntry,
    RaftIo,
    RaftMessage,
    RaftSnapshot,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_configuration_encode,
    raft_init,
    raft_last_applied,
    raft_last_index,
    raft_remove,
    raft_set_heartbeat_timeout,
    raft_set_install_snapshot_timeout,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    raft_state,
    raft_transfer,
)
from pyraft import fixture as fx
from pyraft.types import STATE_NAMES
from tests.lib import fsm as fsms


class Pending:
    """A request under way: its callback's statuses in order, the last result, and when and where it fired."""

    def __init__(self, cluster: "Cluster", r: Raft, req: Any) -> None:
        self.cluster = cluster
        self.r = r
        self.req = req
        self.rv = 0
        self.statuses: list[int | None] = []
        self.result: Any = None
        self.time = 0
        self.applied = 0

    def fire(self, req: Any, status: int | None = None, result: Any = None) -> None:
        """Be the callback of any kind of request; a transfer has no status and records None."""
        assert req is self.req
        assert not self.statuses, "a request's callback fired twice"
        self.statuses.append(status)
        self.result = result
        self.time = self.cluster.time
        self.applied = raft_last_applied(self.r)

    @property
    def done(self) -> bool:
        """Whether the callback has fired."""
        return bool(self.statuses)

    @property
    def status(self) -> int | None:
        """The status that the callback got; the callback must have fired."""
        assert self.statuses, "the callback has not fired"
        return self.statuses[0]

    @property
    def index(self) -> int:
        """The index of the request's entry."""
        index: int = self.req.index
        return index


class Cluster:
    """`n` servers on a RaftFixture, not bootstrapped and not started unless the class methods say so."""

    def __init__(
        self,
        n: int,
        *,
        pre_vote: bool = False,
        heartbeat: int = 0,
        fsm_version: int = 3,
        snapshot_async: bool = False,
    ) -> None:
        self.f = fx.RaftFixture()
        self.fsms: list[fsms.PairFsm] = []
        self.recv_cbs: dict[int, Any] = {}
        assert fx.raft_fixture_init(self.f) == 0
        for _ in range(n):
            self.grow(fsm_version, snapshot_async)
        for i in range(n):
            raft_set_pre_vote(self.raft(i), pre_vote)
            if heartbeat:
                raft_set_heartbeat_timeout(self.raft(i), heartbeat)

    def close(self) -> None:
        """Close the fixture, completing what is pending."""
        fx.raft_fixture_close(self.f)

    # Setting up.

    def grow(self, fsm_version: int = 2, snapshot_async: bool = False) -> int:
        """Add a pristine server that is connected to all others but not started; return its index."""
        fsm = fsms.PairFsm(fsm_version, snapshot_async)
        self.fsms.append(fsm)
        assert fx.raft_fixture_grow(self.f, fsm) == 0
        i = self.n - 1
        io = self.raft(i).io
        start = io.start

        def spying_start(io: RaftIo, msecs: int, tick: Any, recv: Any) -> Any:
            self.recv_cbs[i] = recv
            return start(io, msecs, tick, recv)

        io.start = spying_start
        return i

    def grow_started(self) -> int:
        """Add a pristine server and start it; return its index."""
        i = self.grow()
        assert raft_start(self.raft(i)) == 0
        return i

    def configuration(self, voters: int | None = None) -> RaftConfiguration:
        """Return the configuration of all servers, the first `voters` (all) of them voting."""
        rv, conf = fx.raft_fixture_configuration(self.f, self.n if voters is None else voters)
        assert rv == 0
        return conf

    def bootstrap(self, voters: int | None = None) -> None:
        """Bootstrap all servers."""
        assert fx.raft_fixture_bootstrap(self.f, self.configuration(voters)) == 0

    def bootstrap_one(self, i: int) -> None:
        """Bootstrap server `i` alone, with all servers as voters."""
        assert raft_bootstrap(self.raft(i), self.configuration()) == 0

    def start(self) -> None:
        """Start all servers."""
        assert fx.raft_fixture_start(self.f) == 0

    def ready(self, voters: int | None = None) -> "Cluster":
        """Bootstrap and start all servers; return the cluster."""
        self.bootstrap(voters)
        self.start()
        return self

    def led(self, voters: int | None = None) -> "Cluster":
        """Bootstrap and start all servers and elect server 0, which takes until t=1045; return the cluster."""
        self.ready(voters)
        self.elect(0)
        assert self.time == 1045
        return self

    def add_entry(self, i: int, term: int, buf: bytes, type: int = RAFT_COMMAND) -> None:
        """Add an entry to those on the disk of server `i`, which must not be started yet."""
        fx.raft_fixture_add_entry(self.f, i, RaftEntry(term, type, buf))

    def add_change(self, i: int, term: int, conf: RaftConfiguration, type: int) -> None:
        """Add an entry with a configuration to those on the disk of server `i`."""
        rv, blob = raft_configuration_encode(conf)
        assert rv == 0
        self.add_entry(i, term, blob, type)

    def set_term(self, i: int, term: int) -> None:
        """Set the term on the disk of server `i`, which must not be started yet."""
        fx.raft_fixture_set_term(self.f, i, term)

    def set_snapshot(self, i: int, index: int, term: int, conf_index: int, x: int, y: int) -> None:
        """Put a snapshot on the disk of server `i`, with all servers as voters."""
        snapshot = RaftSnapshot()
        snapshot.index = index
        snapshot.term = term
        snapshot.configuration = self.configuration()
        snapshot.configuration_index = conf_index
        snapshot.bufs = [fsms.content(x, y)]
        fx.raft_fixture_set_snapshot(self.f, i, snapshot)

    def compact_early(self, threshold: int = 3, trailing: int = 1, install_timeout: int | None = None) -> None:
        """Make every server take a snapshot after `threshold` entries and keep `trailing` ones."""
        for i in range(self.n):
            raft_set_snapshot_threshold(self.raft(i), threshold)
            raft_set_snapshot_trailing(self.raft(i), trailing)
            if install_timeout is not None:
                raft_set_install_snapshot_timeout(self.raft(i), install_timeout)

    # Questions.

    @property
    def n(self) -> int:
        """Number of servers."""
        return fx.raft_fixture_n(self.f)

    @property
    def time(self) -> int:
        """The simulated time in ms."""
        return fx.raft_fixture_time(self.f)

    @property
    def leader(self) -> int | None:
        """Index of the stable leader, or None."""
        i = fx.raft_fixture_leader_index(self.f)
        return i if i < self.n else None

    def raft(self, i: int) -> Raft:
        """Return the Raft of server `i`."""
        return fx.raft_fixture_get(self.f, i)

    def state(self, i: int) -> int:
        """Return the state code of server `i`."""
        return raft_state(self.raft(i))

    def states(self) -> list[int]:
        """Return the state codes of all servers."""
        return [self.state(i) for i in range(self.n)]

    def term(self, i: int) -> int:
        """Return the current term of server `i`."""
        return self.raft(i).current_term

    def voted_for(self, i: int) -> int:
        """Return the id that the disk of server `i` holds as its vote, 0 for none."""
        return fx.raft_fixture_voted_for(self.f, i)

    def applied(self, i: int) -> int:
        """Return the index of the last entry that server `i` applied."""
        return raft_last_applied(self.raft(i))

    def last_index(self, i: int) -> int:
        """Return the index of the last entry in the log of server `i`."""
        return raft_last_index(self.raft(i))

    def n_send(self, i: int, type: int) -> int:
        """Return how many messages of a type server `i` has sent."""
        return fx.raft_fixture_n_send(self.f, i, type)

    def n_recv(self, i: int, type: int) -> int:
        """Return how many messages of a type server `i` has received."""
        return fx.raft_fixture_n_recv(self.f, i, type)

    def roles(self, i: int) -> dict[int, int]:
        """Return the configuration in force on server `i` as {id: role}."""
        return {s.id: s.role for s in self.raft(i).configuration.servers}

    def change_indexes(self, i: int) -> tuple[int, int]:
        """Return the committed and the uncommitted configuration index of server `i`."""
        r = self.raft(i)
        return r.configuration_committed_index, r.configuration_uncommitted_index

    def __repr__(self) -> str:
        parts = []
        for i in range(self.n):
            r = self.raft(i)
            parts.append(
                f"{i}: {STATE_NAMES[raft_state(r)]} term {r.current_term} vote {self.voted_for(i)} "
                f"last {raft_last_index(r)} stored {r.last_stored} commit {r.commit_index} applied {r.last_applied}"
            )
        return f"t={self.time} leader {self.leader}; " + "; ".join(parts)

    # Stepping.

    def step(self, n: int = 1) -> None:
        """Run `n` events."""
        fx.raft_fixture_step_n(self.f, n)

    def elapse(self, msecs: int) -> None:
        """Run until `msecs` have passed."""
        fx.raft_fixture_step_until_elapsed(self.f, msecs)

    def until(self, stop: Callable[[], bool], msecs: int) -> None:
        """Run until `stop()` holds."""
        reached = fx.raft_fixture_step_until(self.f, lambda f, arg: stop(), None, msecs)
        assert reached, repr(self)

    def until_done(self, pending: Pending, msecs: int = 2000) -> Any:
        """Run until the request's callback has fired; return its status."""
        self.until(lambda: pending.done, msecs)
        return pending.status

    def until_leader(self, msecs: int = 10000) -> int:
        """Run until there is a stable leader; return its index."""
        assert fx.raft_fixture_step_until_has_leader(self.f, msecs), repr(self)
        leader = self.leader
        assert leader is not None
        return leader

    def until_no_leader(self, msecs: int) -> None:
        """Run until there is no stable leader."""
        assert fx.raft_fixture_step_until_has_no_leader(self.f, msecs), repr(self)
        assert self.leader is None

    def until_applied(self, i: int, index: int, msecs: int) -> None:
        """Run until server `i` (all for n) has applied entry `index`."""
        assert fx.raft_fixture_step_until_applied(self.f, i, index, msecs), repr(self)

    def until_state(self, i: int, state: int, msecs: int = 2000) -> None:
        """Run until server `i` is in `state`."""
        assert fx.raft_fixture_step_until_state_is(self.f, i, state, msecs), repr(self)

    def until_term(self, i: int, term: int, msecs: int = 2000) -> None:
        """Run until server `i` is in `term`."""
        assert fx.raft_fixture_step_until_term_is(self.f, i, term, msecs), repr(self)

    def until_voted_for(self, i: int, j: int, msecs: int = 2000) -> None:
        """Run until server `i` has voted for server `j`."""
        assert fx.raft_fixture_step_until_voted_for(self.f, i, j, msecs), repr(self)

    def until_delivered(self, i: int, j: int, msecs: int) -> None:
        """Run until nothing is under way any more from server `i` to server `j`."""
        assert fx.raft_fixture_step_until_delivered(self.f, i, j, msecs), repr(self)

    # Orders.

    def elect(self, i: int) -> None:
        """Make server `i` leader; nobody may lead before."""
        fx.raft_fixture_elect(self.f, i)
        assert self.leader == i

    def depose(self) -> None:
        """Make the leader step down."""
        fx.raft_fixture_depose(self.f)
        assert self.leader is None

    def cut(self, i: int, j: int) -> None:
        """Drop all messages between servers `i` and `j` silently, both ways."""
        fx.raft_fixture_saturate(self.f, i, j)
        fx.raft_fixture_saturate(self.f, j, i)

    def heal(self, i: int, j: int) -> None:
        """Undo `cut`."""
        fx.raft_fixture_desaturate(self.f, i, j)
        fx.raft_fixture_desaturate(self.f, j, i)

    def isolate(self, i: int) -> None:
        """Cut server `i` from all others."""
        for j in range(self.n):
            if j != i:
                self.cut(i, j)

    def rejoin(self, i: int) -> None:
        """Undo `isolate`."""
        for j in range(self.n):
            if j != i:
                self.heal(i, j)

    def disconnect(self, i: int, j: int) -> None:
        """Make sends between servers `i` and `j` fail, both ways."""
        fx.raft_fixture_disconnect(self.f, i, j)
        fx.raft_fixture_disconnect(self.f, j, i)

    def reconnect(self, i: int, j: int) -> None:
        """Undo `disconnect`."""
        fx.raft_fixture_reconnect(self.f, i, j)
        fx.raft_fixture_reconnect(self.f, j, i)

    def kill(self, i: int) -> None:
        """Stop the ticks of server `i` and cut it from all others."""
        fx.raft_fixture_kill(self.f, i)

    def revive(self, i: int) -> None:
        """Undo `kill`."""
        fx.raft_fixture_revive(self.f, i)

    def restart(self, i: int, keep: int | None = None, recovering: bool = False) -> None:
        """Close server `i` and start it from what was on its disk, while messages to and from it are lost.

        Of its log only the entries up to `keep` are left; with 0 its disk is empty. `recovering`: its I/O says that
        entries may be missing.
        """
        r = self.raft(i)
        impl = r.io.impl
        self.kill(i)
        self.elapse(100)
        raft_close(r, None)
        if keep is not None:
            impl.stored = {index: entry for index, entry in impl.stored.items() if index <= keep}
            impl.next_index = keep + 1
        if keep == 0:
            impl.term = impl.voted_for = 0
            impl.snapshot, impl.start_index = None, 1
            impl.filling = False
        impl.filling = impl.filling or recovering
        self.fsms[i].x = self.fsms[i].y = 0
        assert raft_init(r, r.io, r.fsm, r.id, r.address) == 0
        assert raft_start(r) == 0
        self.revive(i)

    def set_randomized(self, i: int, msecs: int) -> None:
        """Set what server `i` draws as its election timeout from now on."""
        fx.raft_fixture_set_randomized_election_timeout(self.f, i, msecs)

    def set_disk_latency(self, i: int, msecs: int) -> None:
        """Set how long disk operations of server `i` take."""
        fx.raft_fixture_set_disk_latency(self.f, i, msecs)

    def set_network_latency(self, i: int, msecs: int) -> None:
        """Set how long messages sent by server `i` travel."""
        fx.raft_fixture_set_network_latency(self.f, i, msecs)

    def deliver(self, i: int, message: RaftMessage) -> None:
        """Hand server `i` a message out of the blue, past the simulated network."""
        self.recv_cbs[i](self.raft(i).io, message)

    # Requests.

    def pending(self, i: int, req: Any) -> Pending:
        """Return a recorder for a request that is going to be made of server `i`."""
        return Pending(self, self.raft(i), req)

    def apply(self, i: int, *commands: bytes) -> Pending:
        """Submit commands to server `i` in one request, which must be accepted."""
        p = self.pending(i, RaftApply())
        p.rv = raft_apply(p.r, p.req, list(commands), len(commands), p.fire)
        assert p.rv == 0
        assert not p.done
        return p

    def add_x(self, i: int, value: int = 1) -> Pending:
        """Submit the command that adds `value` to x to server `i`."""
        return self.apply(i, fsms.add_x(value))

    def barrier(self, i: int) -> Pending:
        """Submit a barrier to server `i`."""
        p = self.pending(i, RaftBarrier())
        p.rv = raft_barrier(p.r, p.req, p.fire)
        assert p.rv == 0
        return p

    def add(self, i: int, id: int) -> Pending:
        """Ask server `i` to add the server with that id, whose address is the id in decimal."""
        p = self.pending(i, RaftChange())
        p.rv = raft_add(p.r, p.req, id, str(id), p.fire)
        assert p.rv == 0
        return p

    def assign(self, i: int, id: int, role: int) -> Pending:
        """Ask server `i` to give the server with that id a role."""
        p = self.pending(i, RaftChange())
        p.rv = raft_assign(p.r, p.req, id, role, p.fire)
        assert p.rv == 0
        return p

    def remove(self, i: int, id: int) -> Pending:
        """Ask server `i` to remove the server with that id."""
        p = self.pending(i, RaftChange())
        p.rv = raft_remove(p.r, p.req, id, p.fire)
        assert p.rv == 0
        return p

    def transfer(self, i: int, id: int) -> Pending:
        """Ask server `i` to hand its leadership to the server with that id (0: to any)."""
        p = self.pending(i, RaftTransfer())
        p.rv = raft_transfer(p.r, p.req, id, p.fire)
        assert p.rv == 0
        return p

    def add_spare(self) -> int:
        """Add a started, pristine server to the cluster and, as a spare, to the configuration; return its index."""
        leader = self.leader
        assert leader is not None
        i = self.grow_started()
        assert self.until_done(self.add(leader, i + 1)) == 0
        return i

    def promote(self, i: int, role: int = RAFT_VOTER, msecs: int = 10000) -> None:
        """Give server `i` a role and wait until that is committed."""
        leader = self.leader
        assert leader is not None
        assert self.until_done(self.assign(leader, i + 1, role), msecs) == 0

    def progress(self) -> int:
        """Show that the cluster works: wait for a leader, have it apply a command; return the command's index."""
        leader = self.leader if self.leader is not None else self.until_leader(10000)
        p = self.add_x(leader)
        self.until_applied(leader, p.index, 3000)
        assert p.status == 0
        return p.index

    def progress_times(self, n: int) -> int:
        """Do `progress` n times; return the last command's index."""
        index = 0
        for _ in range(n):
            index = self.progress()
        return index

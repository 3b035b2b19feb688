"""One simulated server: its RaftIo table, its state machine, and its lives from boot to crash.

Duty: `boot` makes a new Raft on what the disk holds; the table's functions turn what the core asks for into events of
the world; `enter` is the only way into the core, after which the invariants of this server are checked.

Happy path: tick, message and disk events call the core; `crash` ends a life at any moment, `stop` closes it properly.

Failure modes: armed faults make one call fail; `faulted` remembers that something was broken in this life, so that a
server that becomes unavailable without a reason is found. `PowerLoss` ends the life in the middle of a call.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pyraft
from pyraft import (
    RAFT_CANCELED,
    RAFT_CORRUPT,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RAFT_UNAVAILABLE,
    Raft,
    RaftAppendEntries,
    RaftIo,
    RaftMessage,
    RaftSnapshot,
    RaftTimeoutNow,
    configuration,
    log,
)
from pyraft.types import RAFT_CHANGE, RAFT_IO_APPEND_ENTRIES, RAFT_IO_TIMEOUT_NOW, EntryBatch
from tests.lib.simulation.disk import APPEND, PUT, Disk
from tests.lib.simulation.machine import Machine
from tests.lib.simulation.network import in_turn

if TYPE_CHECKING:
    from tests.lib.simulation.world import World

RESTART_DELAYS: Final = (1, 50, 400, 1500)
MAX_BACKLOG: Final = 5000
OPERATION_FAULTS: Final = {APPEND: "append_fault", PUT: "put_fault"}
BORNE: Final = ("append_fault", "put_fault", "get_fault")
"""Faults that no server stops for."""


class PowerLoss(BaseException):
    """Raised out of a function of the table: the process ends here."""


class Node:
    """Server `id` of a world. `up` while it has a Raft; `life` counts its boots, so that old events can be told."""

    def __init__(self, world: "World", id: int) -> None:
        self.world = world
        self.id = id
        self.address = f"server-{id}"
        self.disk = Disk()
        self.up = False
        self.booted = False
        self.life = 0
        self.raft = Raft()
        self.io = RaftIo()
        self.machine: Machine | None = None
        self.lost = False
        self.depth = 0
        self.faulted = False
        self.stopping = False
        self.restart_planned = False
        self.paused_until = 0
        self.disk_factor = 1
        self.disk_free = 0
        self.armed: dict[str, int] = {}
        self.power_loss_in = -1
        self.deferred = False
        self.c_like = False
        self.c_commits: dict[Any, tuple[int, int]] = {}
        """The term and leader_commit of the messages whose entries a server like C's is writing."""
        self.message: RaftMessage | None = None
        """The message that is being handled."""
        self.latest_send: dict[tuple[int, int], tuple[int, float]] = {}
        self.reads = 0
        """How many snapshots are being read."""
        self.silent = False
        """Whether what it sends goes nowhere."""
        self.gave_up = False
        """Whether it does not start, as it may have lost entries and seems to be the only voter."""
        self.installing = False
        self.cut_log = False
        self.pending: dict[int, str] = {}
        self.tick_cb: Any = None
        self.recv_cb: Any = None
        self.msecs = 0
        self.rate = 1.0
        self.offset = 0

    def __repr__(self) -> str:
        r = self.raft
        state = ("unavailable", "follower", "candidate", "leader")[r.state] if self.up else "down"
        return (
            f"{self.id}: {state}, term {r.current_term} vote {r.voted_for}, log {r.log.offset + 1}.."
            f"{pyraft.raft_last_index(r)} stored {r.last_stored} commit {r.commit_index} applied {r.last_applied}, "
            f"disk term {self.disk.term} vote {self.disk.vote} {self.disk.start}..{self.disk.last}"
        )

    # Lives.

    def bootstrap(self, conf: pyraft.RaftConfiguration) -> None:
        """Put the first entry on the disk, or a snapshot if the profile has the cluster begin with one."""
        profile = self.world.profile
        self.disk.term = profile.first_term
        if profile.first_index == 0:
            terms = [profile.first_term]
            self.disk.terms, self.disk.types, self.disk.bufs = terms, [RAFT_CHANGE], [configuration.encode(conf)]
            return
        snapshot = RaftSnapshot()
        snapshot.index = snapshot.configuration_index = profile.first_index
        snapshot.term = profile.first_term
        snapshot.configuration = configuration.copy(conf)
        snapshot.bufs = [Machine(self, 1, False).empty()]
        self.disk.snapshot = snapshot
        self.disk.start = profile.first_index + 1

    def first_boot(self) -> None:
        """Start the first life, unless somebody has been quicker."""
        if not self.booted:
            self.boot()

    def boot(self) -> None:
        """Start a new life from what is on disk."""
        world, profile = self.world, self.world.profile
        assert not self.up
        self.life += 1
        self.up = self.booted = True
        self.lost = self.faulted = self.stopping = self.restart_planned = self.deferred = False
        self.armed.clear()
        self.pending.clear()
        self.c_commits.clear()
        self.silent = False
        self.reads = 0
        self.power_loss_in = -1
        self.paused_until = 0
        self.disk_free = world.now
        self.rate = 1.0 + world.random.uniform(-profile.skew, profile.skew)
        self.offset = world.random.randint(0, 100000)
        self.raft = Raft()
        # Side by side, and one after the other: servers that take the lane (pyraft.steady) and such that do not.
        self.raft.lane = (self.id + self.life) % 3 != 0
        self.io = RaftIo()
        self._fill(self.io)
        self.machine = Machine(self, profile.machine_version, profile.machine_async)
        r = self.raft
        rv = pyraft.raft_init(r, self.io, self.machine, self.id, self.address)
        assert rv == 0, pyraft.raft_errmsg(r)
        pyraft.raft_register_state_cb(r, self._state_changed)
        pyraft.raft_set_election_timeout(r, profile.election)
        pyraft.raft_set_heartbeat_timeout(r, profile.heartbeat)
        pyraft.raft_set_install_snapshot_timeout(r, profile.install_timeout)
        pyraft.raft_set_snapshot_threshold(r, profile.threshold)
        pyraft.raft_set_snapshot_trailing(r, profile.trailing)
        pyraft.raft_set_pre_vote(r, world.random.random() < profile.pre_vote)
        # Withheld votes are yielded sooner than by default, so that the runs need not last as long.
        r.vote_patience = 3
        if self.c_like:
            pyraft.raft_set_max_append_bytes(r, 1 << 40)
        elif profile.max_append_bytes:
            pyraft.raft_set_max_append_bytes(r, profile.max_append_bytes)
        if profile.max_inflight_bytes:
            pyraft.raft_set_max_inflight_bytes(r, profile.max_inflight_bytes)
        world.checks.booted(self)
        rv = self.enter(pyraft.raft_start, r)
        if rv == RAFT_CORRUPT and self.disk.recovering:
            self.gave_up, self.up = True, False
            self.life += 1
        elif rv != 0 and self.up and not self.faulted:
            world.violate(f"server {self.id} does not start: {rv} {pyraft.raft_errmsg(r)}")

    def _state_changed(self, r: Raft, old: int, new: int) -> None:
        if new == RAFT_LEADER:
            self.world.checks.leads(self, r.current_term)
            self.world.elected(self)

    def crash(self) -> None:
        """End this life at once: memory is lost, and what the disk had not done yet, but for a random prefix."""
        self.up = False
        self.life += 1
        self.disk.crash(self.world.random)
        self.pending.clear()
        self.plan_boot()

    def stop(self) -> None:
        """End this life properly, with raft_close."""
        self.stopping = True
        self.enter(pyraft.raft_close, self.raft, lambda r: self._closed())

    def _closed(self) -> None:
        self.up = False
        self.life += 1
        if self.pending:
            self.world.violate(f"server {self.id} closed without completing {sorted(self.pending.values())}")
        self.plan_boot()

    def plan_boot(self) -> None:
        """Have the server booted some time later."""
        if not self.world.ending:
            delay = 1 if self.world.healed else self.world.random.choice(RESTART_DELAYS)
            self.world.at(delay, self._boot_if_down, self.life)

    def _boot_if_down(self, life: int) -> None:
        if self.life == life and not self.up and not self.world.ending:
            self.boot()

    def crash_if(self, life: int) -> None:
        """Crash if that life is not over yet."""
        if self.up and self.life == life:
            self.crash()

    def enter(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call into the core; return what it returned, or None if the server lost its power in there."""
        self.depth += 1
        result = None
        try:
            result = fn(*args)
        except PowerLoss:
            pass
        finally:
            self.depth -= 1
        if not self.lost:
            self.world.touched.append(self)
            return result
        if self.depth > 0:
            raise PowerLoss
        if self.up:
            self.crash()
        return None

    def late(self, life: int, fn: Callable[..., Any], *args: Any) -> bool:
        """Return whether an event of `life` is void, or put off because the process is paused."""
        if not self.up or self.life != life:
            return True
        if self.world.now < self.paused_until:
            self.world.at(self.paused_until - self.world.now, fn, *args)
            return True
        return False

    def check_available(self) -> None:
        """After an event: a server that gave up must have had a reason, and is restarted by its operator."""
        if self.up and self.raft.state == RAFT_UNAVAILABLE and not self.stopping and not self.restart_planned:
            if not self.faulted:
                self.world.violate(f"server {self.id} became unavailable: {pyraft.raft_errmsg(self.raft)}")
            self.restart_planned = True
            self.world.at(1 if self.world.healed else 200, self.crash_if, self.life)

    # The table.

    def _fill(self, io: RaftIo) -> None:
        io.init = lambda io, id, address: 0
        io.close = self._close
        io.load = self._load
        io.start = self._start
        io.bootstrap = io.recover = lambda io, conf: RAFT_IOERR
        io.set_term = self._set_term
        io.set_vote = self._set_vote
        io.send = self._send
        io.append = self._append
        io.truncate = self._truncate
        io.snapshot_put = self._snapshot_put
        io.snapshot_get = self._snapshot_get
        io.async_work = self._async_work
        io.time = lambda io: self.offset + int(self.world.now * self.rate)
        io.random = lambda io, low, high: self.world.random.randint(low, high)
        io.report = self._report
        io.features = 0xFFFF
        io.recovering = lambda io: self.disk.recovering
        io.recovered = self._recovered
        if self.world.profile.defer:
            io.defer = self._defer
        if self.world.profile.apply_msecs:
            io.later = self._later

    def _call(self, fault: str = "") -> bool:
        """Begin a call of the table: perhaps lose power, perhaps (True) fail."""
        if self.lost:
            raise PowerLoss
        if self.power_loss_in >= 0:
            self.power_loss_in -= 1
            if self.power_loss_in < 0:
                self.lost = True
                raise PowerLoss
        return self._fails(fault)

    def _fails(self, fault: str) -> bool:
        """Return whether the call or operation at hand is the one that an armed fault makes fail."""
        left = self.armed.get(fault, -1)
        if left >= 0:
            self.armed[fault] = left - 1
            if left == 0:
                self.faulted = self.faulted or fault not in BORNE
                self.io.errmsg = f"injected {fault}"
                return True
        return False

    def _report(self, io: RaftIo, exc: BaseException) -> None:
        if isinstance(exc, PowerLoss):
            self.lost = True
        else:
            self.world.violate(f"a callback on server {self.id} raised {type(exc).__name__}: {exc}")

    def _close(self, io: RaftIo, cb: Any) -> None:
        self.world.at(1, self._finish_close, self.life, cb)

    def _finish_close(self, life: int, cb: Any) -> None:
        if not self.up or self.life != life:
            return

        def finish() -> None:
            for op in list(self.disk.queue):
                self.disk.queue.popleft()
                status = RAFT_CANCELED if self.world.random.random() < 0.5 else op.status
                if op.status == 0:
                    self.disk.perform(op)
                if op.cb is not None:
                    op.cb(op.req, status)
            cb(self.io)

        self.enter(finish)

    def _load(self, io: RaftIo) -> tuple[int, int, int, RaftSnapshot | None, int, EntryBatch]:
        start, entries = self.disk.load()
        return 0, self.disk.term, self.disk.vote, copy_snapshot(self.disk.snapshot), start, entries

    def _start(self, io: RaftIo, msecs: int, tick: Any, recv: Any) -> int:
        self.tick_cb, self.recv_cb, self.msecs = tick, recv, msecs
        self.world.at(int(msecs / self.rate), self._tick, self.life)
        return 0

    def _tick(self, life: int) -> None:
        if not self.late(life, self._tick, life):
            self.world.at(max(1, int(self.msecs / self.rate)), self._tick, life)
            self.enter(self.tick_cb, self.io)

    def receive(self, message: RaftMessage) -> None:
        """A message arrives, whichever life this is; nobody hears it while the server is down."""
        if self.up and self.world.now < self.paused_until:
            self.world.at(self.paused_until - self.world.now, self.receive, message)
        elif self.up and self.recv_cb is not None and not self.stopping:
            self.installing = message.install_snapshot is not None
            self.message = message
            self.world.prompt.arrives(self, message)
            self.enter(self.recv_cb, self.io, message)
            self.installing = False
            self.message = None
            if self.c_like and message.append_entries is not None:
                args = message.append_entries
                if log.term_of(self.raft.log, args.prev_log_index) == args.prev_log_term or args.prev_log_index == 0:
                    self._commit_like_c(args.term, args.leader_commit)

    def _commit_like_c(self, term: int, leader_commit: int) -> None:
        """After a message that has matched: commit all that is stored, also behind its end, as C does.

        The core does not; so it gets a message that ends at the index that C would commit, and its answer is lost.
        """
        r = self.raft
        index = min(leader_commit, r.last_stored)
        if not self.up or r.current_term != term or r.follower_state is None or index <= r.commit_index:
            return
        leader = r.follower_state.current_leader
        if leader.id == 0 or r.snapshot.install is not None or r.recovering:
            return  # To one that recovers, a message without entries would say where the leader's log ends.
        args = RaftAppendEntries()
        args.term, args.prev_log_index, args.leader_commit = term, index, index
        args.prev_log_term = log.term_of(r.log, index)
        message = RaftMessage()
        message.type, message.server_id = RAFT_IO_APPEND_ENTRIES, leader.id
        message.server_address = self.world.nodes[leader.id].address
        message.append_entries = args
        self.silent = True
        self.enter(self.recv_cb, self.io, message)
        self.silent = False

    def transfer_like_old_c(self, id: int) -> None:
        """Send TimeoutNow as libraft before 0.18 does when all is sent, whether the target has stored it or not."""
        r = self.raft
        args = RaftTimeoutNow()
        args.term, args.last_log_index, args.last_log_term = r.current_term, log.last_index(r.log), log.last_term(r.log)
        message = RaftMessage()
        message.type, message.server_id, message.server_address = RAFT_IO_TIMEOUT_NOW, id, self.world.nodes[id].address
        message.timeout_now = args
        self._send(self.io, None, message, None)

    def _set_term(self, io: RaftIo, term: int) -> int:
        return self._store(term, 0, "term_fault")

    def _set_vote(self, io: RaftIo, server_id: int) -> int:
        return self._store(self.disk.term, server_id, "vote_fault")

    def _store(self, term: int, vote: int, fault: str) -> int:
        """Store a term or vote; one that fails, or during which the power goes, may be stored nevertheless."""
        try:
            fails = self._call(fault)
        except PowerLoss:
            if self.world.random.random() < 0.5:
                self.disk.term, self.disk.vote = term, vote
            raise
        if not fails or self.world.random.random() < 0.3:
            self.disk.term, self.disk.vote = term, vote
        return RAFT_IOERR if fails else 0

    def _send(self, io: RaftIo, req: Any, message: RaftMessage, cb: Any) -> int:
        if self._call("send_fault"):
            self.world.prompt.not_sent(self)
            return RAFT_IOERR
        if self.c_like:
            self._speak_c(message)
        if self.silent:
            return 0
        self.world.checks.sends(self, message)
        self.world.prompt.send(self, message)
        if message.install_snapshot is not None:
            message.install_snapshot.conf = configuration.copy(message.install_snapshot.conf)
        delay = self.world.random.randint(0, 2)
        if self.world.network.connections:
            when, tie = in_turn(self.world, delay, self.latest_send, (self.life, message.server_id))
            self.world.at_turn(when, tie, self._sent, self.life, req, message, cb)
        else:
            self.world.at(delay, self._sent, self.life, req, message, cb)
        return 0

    def _speak_c(self, message: RaftMessage) -> None:
        """Make a message what a C server would send: nothing of ours in it, and acknowledging all that is stored."""
        result = message.append_entries_result
        if message.append_entries is not None:
            message.append_entries.whole = False
        if message.request_vote_result is not None:
            message.request_vote_result.no_member = False
        if result is None:
            return
        result.features = 0
        if result.rejected == 0 and not self.installing:
            # A snapshot that came while an own one was stored is answered with its index, stored or not.
            result.last_log_index = max(result.last_log_index, self.raft.last_stored)

    def _sent(self, life: int, req: Any, message: RaftMessage, cb: Any) -> None:
        if self.up and self.life == life and self.world.now < self.paused_until:
            self.world.at_turn(self.paused_until, -1.0, self._sent, life, req, message, cb)
            return
        if not self.up or self.life != life:
            return
        if self.stopping:
            status = RAFT_CANCELED
        else:
            status = 0 if self.world.network.carry(self, message) else RAFT_NOCONNECTION
        if cb is not None:
            self.enter(cb, req, status)

    def _append(self, io: RaftIo, req: Any, entries: EntryBatch, n: int, cb: Any) -> int:
        if self._call("append_sync_fault"):
            return RAFT_IOERR
        if req.index != self.disk.next_index:
            self.world.violate(f"server {self.id} appends entry {req.index}, the disk is at {self.disk.next_index}")
        batch = EntryBatch.of(entries, n)
        if self.c_like and self.message is not None and self.message.append_entries is not None:
            args = self.message.append_entries
            self.c_commits[req] = (args.term, args.leader_commit)
        self.world.checks.appends(self, req.index, batch)
        self.disk.append(req, cb, batch)
        self._operate()
        return 0

    def _truncate(self, io: RaftIo, index: int) -> int:
        self._call()
        self.cut_log = True
        self.disk.truncate(index)
        self._operate()
        return 0

    def _snapshot_put(self, io: RaftIo, trailing: int, req: Any, snapshot: RaftSnapshot, cb: Any) -> int:
        self.world.checks.commits(self)
        self._call()
        stored = copy_snapshot(snapshot)
        assert stored is not None
        self.disk.put(req, cb, trailing, stored)
        self._operate()
        return 0

    def _operate(self) -> None:
        """Plan when the operation just queued takes effect: after all before it."""
        low, high = self.world.profile.disk
        latency = self.world.random.randint(low, high) * self.disk_factor
        self.disk_free = min(max(self.disk_free, self.world.now) + latency, self.world.now + MAX_BACKLOG)
        self.world.at(self.disk_free - self.world.now, self._operated, self.life)

    def _operated(self, life: int) -> None:
        if self.late(life, self._operated, life) or not self.disk.queue:
            return
        op = self.disk.queue.popleft()
        if op.status == 0:
            if self._fails(OPERATION_FAULTS.get(op.kind, "")):
                op.status = RAFT_IOERR
                if op.kind == APPEND:
                    self.disk.fail(op, self.world.random, RAFT_IOERR)
                else:
                    self.world.prompt.put_failed(self)
                    if op.trailing == 0:
                        self.disk.next_index = op.first
            else:
                self.disk.perform(op)
        if op.cb is not None:
            self.enter(op.cb, op.req, op.status)
            commit = self.c_commits.pop(op.req, None)
            if commit is not None and op.status == 0:
                self._commit_like_c(*commit)

    def _snapshot_get(self, io: RaftIo, req: Any, cb: Any) -> int:
        self._call()
        self.world.prompt.reads_snapshot(self, req.server_id)
        self.reads += 1
        dice, profile = self.world.random, self.world.profile
        delay = dice.randint(*profile.disk) * self.disk_factor
        if profile.reading[1]:
            delay += dice.randint(*profile.reading)
        self.world.at(delay, self._got, self.life, req, cb)
        return 0

    def _got(self, life: int, req: Any, cb: Any) -> None:
        if self.late(life, self._got, life, req, cb):
            return
        self.reads -= 1
        snapshot = copy_snapshot(self.disk.snapshot)
        status = 0 if snapshot is not None else RAFT_NOTFOUND
        if self._fails("get_fault"):
            snapshot, status = None, RAFT_IOERR
            self.world.prompt.read_failed(self)
        self.enter(cb, req, snapshot, status)

    def _async_work(self, io: RaftIo, req: Any, cb: Any) -> int:
        self._call()
        self.world.at(self.world.random.randint(0, 50), self._worked, self.life, req, cb)
        return 0

    def _worked(self, life: int, req: Any, cb: Any) -> None:
        if not self.late(life, self._worked, life, req, cb):
            self.enter(cb, req, req.work(req))

    def _recovered(self, io: RaftIo) -> int:
        if self._call("term_fault"):
            return RAFT_IOERR
        self.world.checks.recovered(self)
        self.disk.recovering = False
        self.disk.damaged_last = 0
        return 0

    def _defer(self, io: RaftIo, bufs: Any, n: int, fn: Any) -> int:
        if self._call("append_sync_fault"):
            return RAFT_IOERR
        if not self.deferred:
            self.deferred = True
            self.world.at(self.world.random.randint(0, 4), self._turn_ends, self.life, fn)
        return 0

    def _later(self, io: RaftIo, fn: Any) -> int:
        self._call()
        self.world.at(self.world.random.randint(0, 4), self._have_turn, self.life, fn)
        return 0

    def _have_turn(self, life: int, fn: Any) -> None:
        if self.up and self.life == life:
            self.enter(fn)

    def _turn_ends(self, life: int, fn: Any) -> None:
        if self.up and self.life == life:
            self.deferred = False
            self.enter(fn)


def copy_snapshot(snapshot: RaftSnapshot | None) -> RaftSnapshot | None:
    """Return a copy of a snapshot, its buffers joined."""
    if snapshot is None:
        return None
    fresh = RaftSnapshot()
    fresh.index = snapshot.index
    fresh.term = snapshot.term
    fresh.configuration = configuration.copy(snapshot.configuration)
    fresh.configuration_index = snapshot.configuration_index
    fresh.bufs = [b"".join(bytes(buf) for buf in snapshot.bufs)]
    return fresh

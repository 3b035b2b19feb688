"""One explored server, and everything that can happen to it in one step.

Duty: `Server` is what one server is, in memory and on disk. `Stage` is the RaftIo table and state machine of whichever
server is on it: `run` lets one event happen there, from the core's function that the event enters to the last callback
that follows, and collects what went out: messages, notes for the invariants, and the first broken promise.

Happy path: an event is (kind, argument); `mode` is None or how it goes wrong. When the core returns, sends are called
back, snapshots are read and writes end, unless the disk is slow: then each write ends by an event of its own.

Promises, checked the moment they are made (figure 3.1): a vote that is granted or asked for is stored, and there is one
per term; all that is acknowledged is on the disk; the term that a server speaks in is on its disk; terms never go back.
After the step: the commit index has not gone back; requests of a leadership that is over have been called back; a
server has not stopped unless something had failed in its life; no assertion of the core has failed.

Failure modes: `problem` is the first of these that was broken, in words, else empty.
"""

from collections.abc import Callable
from typing import Any, Final

import pyraft
from pyraft import (
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RAFT_UNAVAILABLE,
    Raft,
    RaftApply,
    RaftChange,
    RaftFsm,
    RaftIo,
    RaftMessage,
    RaftReadIndex,
    RaftSnapshot,
    RaftTransfer,
    configuration,
    flags,
    log,
)
from pyraft.types import RAFT_CHANGE, EntryBatch
from tests.lib.explorer.disk import Disk
from tests.lib.explorer.freeze import FIRST_ID, LONG, NOW, address, freeze, name

COMMAND_SIZE: Final = 8
MEMBERS: Final = {
    "append_entries": pyraft.RAFT_IO_APPEND_ENTRIES,
    "append_entries_result": pyraft.RAFT_IO_APPEND_ENTRIES_RESULT,
    "request_vote": pyraft.RAFT_IO_REQUEST_VOTE,
    "request_vote_result": pyraft.RAFT_IO_REQUEST_VOTE_RESULT,
    "install_snapshot": pyraft.RAFT_IO_INSTALL_SNAPSHOT,
    "timeout_now": pyraft.RAFT_IO_TIMEOUT_NOW,
}
_NAMES: Final = {type: name for name, type in MEMBERS.items()}
Event = tuple[Any, ...]
Mode = tuple[str, int] | None


class PowerLoss(BaseException):
    """Raised out of a function of the table: the process ends here."""


class Server:
    """One server. `machine` holds the commands applied, `requests` those that wait for their callback.

    `faulted` once something has failed in this life, which is a reason to stop. With `like_c` it acknowledges all that
    it has stored, and announces nothing, as the C library does (B8).
    """

    __slots__ = ("disk", "faulted", "id", "like_c", "machine", "raft", "reads", "requests")

    def __init__(self, id: int, like_c: bool = False) -> None:
        self.id = id
        self.like_c = like_c
        self.raft = Raft()
        self.disk = Disk()
        self.machine: list[bytes] = []
        self.reads: list[tuple[Any, Any]] = []
        self.requests: list[Any] = []
        self.faulted = False


def command(n: int) -> bytes:
    """Return the n'th command."""
    return b"\xc0" + n.to_bytes(COMMAND_SIZE - 1, "big")


class Stage:
    """Where a server performs one step; see the module's head.

    `settings` is applied to each Raft that is made. With `lazy` every write and read ends by an event of its own.
    Without `promises` those are not checked, so that only what comes of a broken one shows.
    """

    def __init__(self, settings: Callable[[Raft], None], lazy: bool, servers: int, promises: bool = True) -> None:
        global _stage
        _stage = self
        self.settings = settings
        self.lazy = lazy
        self.promises = promises
        self.identity = tuple(range(servers))
        self.server = Server(FIRST_ID)
        self.now = NOW
        self.mode: Mode = None
        self.calls_left = -1
        self.lost = False
        self.answering = ""
        self.sends: list[tuple[int, str, Any]] = []
        self.notes: list[tuple[Any, ...]] = []
        self.after: list[tuple[Any, ...]] = []
        self.rv = 0
        self.committed_before = 0
        self.problem = ""
        self.wrote = False
        self.stores = False
        self.crashed = False
        self.calls = 0
        self.tick: Any = None
        self.recv: Any = None
        self.io = self._table()
        self.fsm = self._machine()

    # One step.

    def run(self, server: Server, event: Event, mode: Mode, now: int) -> None:
        """Let `event` happen to a server whose clock shows `now`; `self.now` is what it shows afterwards."""
        self.server, self.mode = server, mode
        self.now = now
        self.sends, self.notes, self.after = [], [], []
        self.problem, self.answering = "", ""
        self.wrote = self.stores = self.crashed = False
        self.calls = 0
        self.lost = False
        self.calls_left = mode[1] if mode is not None and mode[0] == "power" else -1
        self.rv = 0
        self.io.data = server.raft
        self.committed_before = server.raft.commit_index
        life = server.raft
        try:
            getattr(self, f"_on_{event[0]}")(*event[1:])
            self._settle()
        except PowerLoss:
            self._on_crash(0)
            self._settle()
        except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as exc:
            self.crashed = True
            self._broken(f"raises {type(exc).__name__}: {exc or 'an assertion has failed'}")
            return
        self._check(server, self.committed_before if server.raft is life else 0)

    def _settle(self) -> None:
        """Do what follows when the core has returned: callbacks of sends, snapshots read, writes ended."""
        disk = self.server.disk
        slow = self.lazy or (self.mode is not None and self.mode[0] == "slow")
        while True:
            if self.after:
                fn, *args = self.after.pop(0)
                fn(*args)
            elif self.server.reads and not slow:
                self._on_read()
            elif disk.queue and self.wrote and not slow:
                op = disk.finish()
                op.cb(op.req, op.status)
            else:
                return

    def _check(self, server: Server, commit: int) -> None:
        r = server.raft
        if r.commit_index < commit:
            self._broken(f"goes back from commit index {commit} to {r.commit_index}")
        if self.promises and r.current_term != server.disk.term and not server.faulted:
            self._broken(f"is in term {r.current_term}, its disk in {server.disk.term}")
        if r.state == RAFT_UNAVAILABLE and not server.faulted:
            self._broken(f"stops although nothing has failed: {r.errmsg}")
        left = [req for req in server.requests if r.state == RAFT_UNAVAILABLE or type(req) is not RaftTransfer]
        if left and r.leader_state is None:
            self._broken(f"leads no more and has not called back a {type(left[0]).__name__}")

    def _broken(self, what: str) -> None:
        if not self.problem:
            for i in self.identity:
                what = what.replace(str(FIRST_ID + i), str(i + 1))
            self.problem = what

    # Events.

    def _on_boot(self) -> None:
        server = self.server
        r = server.raft = Raft()
        server.machine = []
        server.reads, server.requests = [], []
        server.faulted = False
        assert pyraft.raft_init(r, self.io, self.fsm, server.id, address(server.id)) == 0
        self.settings(r)
        pyraft.raft_register_state_cb(r, _state_changed)
        rv = pyraft.raft_start(r)
        if rv != 0:
            self._broken(f"does not start: {rv} {r.errmsg}")

    def _on_crash(self, keep: int) -> None:
        self.server.disk.crash(keep)
        self.after = []
        self.calls_left = -1
        self.lost = False
        self.wrote = False
        self._on_boot()

    def _on_deliver(self, source: int, member: str, args: Any) -> None:
        message = RaftMessage()
        message.type = MEMBERS[member]
        message.server_id = source
        message.server_address = address(source)
        setattr(message, member, args)
        self.answering = member
        self.recv(self.io, message)

    def _on_write(self) -> None:
        op = self.server.disk.finish()
        op.cb(op.req, op.status)

    def _on_fail(self) -> None:
        self.server.faulted = True
        op = self.server.disk.fail()
        op.cb(op.req, op.status)

    def _on_read(self) -> None:
        req, cb = self.server.reads.pop(0)
        found = self.server.disk.snapshot
        if found is None:
            cb(req, None, RAFT_NOTFOUND)
        else:
            cb(req, _copy(found), 0)

    def _on_timeout(self) -> None:
        """The election timeout of a follower or candidate passes, and with it that of a transfer."""
        self.now += LONG
        self.tick(self.io)

    def _on_heartbeat(self) -> None:
        self.now += 1
        self.tick(self.io)

    def _on_contact(self) -> None:
        """A leader's election timeout passes, after which it counts who has answered; a transfer began later."""
        self.now += LONG
        r = self.server.raft
        if r.transfer is not None:
            r.transfer.start = self.now
        self.tick(self.io)

    def _on_expire(self) -> None:
        """The timeout of a transfer passes; the server's own began later."""
        self.now += LONG
        self.server.raft.election_timer_start = self.now
        self.tick(self.io)

    def _on_apply(self, n: int) -> None:
        buf = command(n)
        self._submit(RaftApply(), lambda r, req: pyraft.raft_apply(r, req, [buf], 1, _called_back), buf)

    def _on_add(self, id: int) -> None:
        self._submit(RaftChange(), lambda r, req: pyraft.raft_add(r, req, id, address(id), _called_back))

    def _on_assign(self, id: int, role: int) -> None:
        self._submit(RaftChange(), lambda r, req: pyraft.raft_assign(r, req, id, role, _called_back))

    def _on_remove(self, id: int) -> None:
        self._submit(RaftChange(), lambda r, req: pyraft.raft_remove(r, req, id, _called_back))

    def _on_transfer(self, id: int) -> None:
        self._submit(RaftTransfer(), lambda r, req: pyraft.raft_transfer(r, req, id, _called_back))

    def _on_ask(self, committed: int) -> None:
        self._submit(RaftReadIndex(), lambda r, req: pyraft.raft_read_index(r, req, _called_back), committed)

    def _submit(self, req: Any, call: Callable[[Raft, Any], int], data: Any = None) -> None:
        req.data = data
        self.server.requests.append(req)
        self.rv = call(self.server.raft, req)
        if self.rv != 0:
            self.server.requests = [other for other in self.server.requests if other is not req]

    # The core calls these.

    def _table(self) -> RaftIo:
        io = RaftIo()
        io.features = flags.PROVEN_ANSWERS | flags.ECHOED_QUESTIONS
        io.init = lambda io, id, address: 0
        io.load = self._load
        io.start = self._start
        io.set_term = self._set_term
        io.set_vote = self._set_vote
        io.send = self._send
        io.append = self._append
        io.truncate = self._truncate
        io.snapshot_put = self._snapshot_put
        io.snapshot_get = self._snapshot_get
        io.time = lambda io: self.now
        io.random = lambda io, low, high: low
        io.report = self._report
        return io

    def _machine(self) -> RaftFsm:
        fsm = RaftFsm()
        fsm.version = 1
        fsm.apply = self._fsm_apply
        fsm.snapshot = lambda fsm: (0, [b"".join(self.server.machine)])
        fsm.restore = self._fsm_restore
        return fsm

    def _call(self) -> None:
        """Begin a call that leaves something on the disk: perhaps lose power.

        Between two messages it makes no difference, as any that was sent may be lost.
        """
        self.calls += 1
        if self.calls_left == 0:
            self.lost = True
        self.calls_left -= 1
        if self.lost:
            raise PowerLoss

    def _report(self, io: RaftIo, exc: BaseException) -> None:
        self._broken(f"has a callback that raised {exc!r}")

    def _load(self, io: RaftIo) -> tuple[int, int, int, RaftSnapshot | None, int, EntryBatch]:
        disk = self.server.disk
        start, entries = disk.load()
        found = None if disk.snapshot is None else _copy(disk.snapshot)
        return 0, disk.term, disk.vote, found, start, entries

    def _start(self, io: RaftIo, msecs: int, tick: Any, recv: Any) -> int:
        self.tick, self.recv = tick, recv
        return 0

    def _meta_fails(self) -> bool:
        self._call()
        self.stores = True
        if self.mode is None or self.mode[0] != "meta" or self.server.faulted:
            return False
        self.server.faulted = True
        return True

    def _set_term(self, io: RaftIo, term: int) -> int:
        if self._meta_fails():
            return RAFT_IOERR
        disk = self.server.disk
        if term < disk.term:
            self._broken(f"goes back from term {disk.term} to {term}")
        if term != disk.term:
            disk.cast = 0
        disk.term, disk.vote = term, 0
        return 0

    def _set_vote(self, io: RaftIo, id: int) -> int:
        if self._meta_fails():
            return RAFT_IOERR
        disk = self.server.disk
        if self.promises:
            self._cast(disk, id)
        disk.vote = id
        return 0

    def _cast(self, disk: Disk, id: int) -> None:
        if disk.cast not in (0, id):
            self._broken(f"votes for server {name(id)} in term {disk.term} as well")
        disk.cast = id

    def _send(self, io: RaftIo, req: Any, message: RaftMessage, cb: Any) -> int:
        if self.lost:
            raise PowerLoss
        member = _NAMES[message.type]
        args = getattr(message, member)
        if self.server.like_c and member == "append_entries_result":
            args.features = args.question = 0
            if args.rejected == 0:
                args.last_log_index = self.server.raft.last_stored
        if self.promises:
            self._check_promises(message.server_id, member, args)
        lost = self.mode is not None and self.mode[0] == "cut" and self.mode[1] == message.server_id
        if not lost:
            self.sends.append((message.server_id - FIRST_ID, member, freeze(args, self.now, self.identity)))
        self.after.append((cb, req, RAFT_NOCONNECTION if lost else 0))
        return 0

    def _check_promises(self, target: int, member: str, args: Any) -> None:
        disk, r = self.server.disk, self.server.raft
        if r.current_term > disk.term:
            self._broken(f"speaks in term {r.current_term}, which is not on its disk")
        if member == "request_vote" and not args.pre_vote and (disk.term, disk.vote) != (args.term, self.server.id):
            self._broken("asks for votes and has not stored its own")
        if member == "request_vote_result" and args.vote_granted and not args.pre_vote:
            if (disk.term, disk.vote) != (args.term, target):
                self._broken(f"grants server {name(target)} a vote that is not on its disk")
            self._cast(disk, target)
        index = args.last_log_index if member == "append_entries_result" and args.rejected == 0 else 0
        # A snapshot that need not be installed, since its entries are in memory, is acknowledged before they are
        # stored: what it covers is committed without this server.
        known = index <= r.commit_index or self.answering == "install_snapshot"
        if not known and not disk.holds(index, log.term_of(r.log, index)):
            self._broken(f"acknowledges entry {index}, which is not on its disk")

    def _append(self, io: RaftIo, req: Any, entries: Any, n: int, cb: Any) -> int:
        self._call()
        disk = self.server.disk
        if req.index != disk.next_index:
            self._broken(f"writes entry {req.index}, where its disk goes on with {disk.next_index}")
        self.wrote = self.wrote or not disk.queue
        disk.append(EntryBatch.of(entries, n), req, cb)
        return 0

    def _truncate(self, io: RaftIo, index: int) -> int:
        self._call()
        self.server.disk.truncate(index)
        return 0

    def _snapshot_put(self, io: RaftIo, trailing: int, req: Any, snapshot: RaftSnapshot, cb: Any) -> int:
        self._call()
        self._note_commits()
        self.wrote = self.wrote or not self.server.disk.queue
        self.server.disk.put(_copy(snapshot), trailing, req, cb)
        return 0

    def _note_commits(self) -> None:
        """Note what was committed in this step, as the snapshot may take its place in the log before the end of it."""
        r = self.server.raft
        for index in range(self.committed_before + 1, r.commit_index + 1):
            entry = log.get(r.log, index)
            if entry is not None:
                buf = entry.buf if entry.type != RAFT_CHANGE else freeze(entry.buf, self.now, self.identity)
                self.notes.append(("commits", index, (entry.term, entry.type, buf)))

    def _snapshot_get(self, io: RaftIo, req: Any, cb: Any) -> int:
        self.server.reads.append((req, cb))
        return 0

    def _fsm_apply(self, fsm: RaftFsm, buf: bytes) -> tuple[int, Any]:
        self.server.machine.append(buf)
        return 0, buf

    def _fsm_restore(self, fsm: RaftFsm, buf: Any) -> int:
        data = bytes(buf)
        self.server.machine = [data[i : i + COMMAND_SIZE] for i in range(0, len(data), COMMAND_SIZE)]
        return 0


def _copy(snapshot: RaftSnapshot) -> RaftSnapshot:
    copied = RaftSnapshot()
    copied.index, copied.term = snapshot.index, snapshot.term
    copied.configuration = configuration.copy(snapshot.configuration)
    copied.configuration_index = snapshot.configuration_index
    copied.bufs = [b"".join(bytes(buf) for buf in snapshot.bufs)]
    return copied


# Callbacks are functions of this module, so that a frozen server can hold them.

_stage: Stage


def _state_changed(r: Raft, old: int, new: int) -> None:
    if new == RAFT_LEADER:
        _stage.notes.append(("leads", r.current_term))


def _called_back(req: Any, status: int = 0, result: Any = None) -> None:
    server = _stage.server
    if not any(other is req for other in server.requests):
        _stage._broken(f"calls a {type(req).__name__} back twice")
    server.requests = [other for other in server.requests if other is not req]
    if type(req) is RaftApply and status == 0:
        _stage.notes.append(("acknowledges", req.index, req.data))
    if type(req) is RaftReadIndex and status == 0:
        if req.index < req.data:
            _stage._broken(f"answers a read with {req.index}, and {req.data} entries were committed when it was asked")
        if server.raft.last_applied < req.index:
            _stage._broken(f"answers a read with {req.index}, and has applied {server.raft.last_applied}")

"""One server against a scripted world: an I/O table whose every completion, message and tick the test decides.

Duty: `ScriptIo` records each call in `calls`, keeps what was stored as a disk would, and holds back completions until
the test asks for them (`finish_append`, `finish_put`, …). `Solo` is a Raft on such a table with the part of the other
servers played by the test: `recv` hands it a message, `tick` lets time pass, `sent` gives what it sent since.
With `deferring` the table offers `defer`, and `turn` ends the loop turn.

Failure modes: `fail` makes the next call of a table function return a code; `raises` makes it raise.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pyraft import (
    RAFT_CHANGE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftConfiguration,
    RaftEntry,
    RaftIo,
    RaftMessage,
    RaftSnapshot,
    raft_apply,
    raft_configuration_add,
    raft_configuration_encode,
    raft_init,
    raft_start,
    raft_state,
)
from pyraft.types import Entries, EntryBatch
from tests.lib import messages as msg
from tests.lib.fsm import PairFsm, add_x


class ScriptIo(RaftIo):
    """A RaftIo under the test's control; see the module's head."""

    def __init__(self, deferring: bool = False) -> None:
        super().__init__()
        self.now = 0
        self.timeout: int | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.term = 0
        self.vote = 0
        self.stored: list[RaftEntry] = []
        self.start_index = 1
        self.stored_snapshot: RaftSnapshot | None = None
        self.messages: list[RaftMessage] = []
        self.sends: list[tuple[Any, RaftMessage, Any]] = []
        self.appends: list[tuple[Any, EntryBatch, Any]] = []
        self.puts: list[tuple[Any, int, RaftSnapshot, Any]] = []
        self.gets: list[tuple[Any, Any]] = []
        self.works: list[tuple[Any, Any]] = []
        self.deferred: Callable[[], None] | None = None
        self.reported: list[BaseException] = []
        self.faults: dict[str, list[int]] = {}
        self.exceptions: dict[str, BaseException] = {}
        self.on_tick: Any = None
        self.on_recv: Any = None
        self.on_close: Any = None
        self.init = _init
        self.close = _close
        self.load = _load
        self.start = _start
        self.bootstrap = _bootstrap
        self.recover = _recover
        self.set_term = _set_term
        self.set_vote = _set_vote
        self.send = _send
        self.append = _append
        self.truncate = _truncate
        self.snapshot_put = _snapshot_put
        self.snapshot_get = _snapshot_get
        self.time = _time
        self.random = _random
        self.async_work = _async_work
        self.report = _report
        if deferring:
            self.defer = _defer

    def fail(self, name: str, *codes: int) -> None:
        """Make the next calls of a function return these codes, one each (0: that call succeeds)."""
        self.faults.setdefault(name, []).extend(codes)

    def raises(self, name: str, exc: BaseException) -> None:
        """Make the next call of a function raise."""
        self.exceptions[name] = exc

    def note(self, name: str, *args: Any) -> int:
        """Record a call; return the code it is to end with."""
        self.calls.append((name, *args))
        exc = self.exceptions.pop(name, None)
        if exc is not None:
            raise exc
        faults = self.faults.get(name)
        code = faults.pop(0) if faults else 0
        if code != 0:
            self.errmsg = f"{name} failed"
        return code

    def names(self) -> list[str]:
        """Return the names of the calls since the last time, and forget them."""
        names = [call[0] for call in self.calls]
        self.calls.clear()
        return names

    def finish_append(self, status: int = 0, position: int = 0) -> None:
        """Complete a write, the oldest by default."""
        req, batch, cb = self.appends.pop(position)
        if status == 0:
            self.stored.extend(batch)
        cb(req, status)

    def finish_appends(self) -> None:
        """Complete all writes, also those that completions start."""
        while self.appends:
            self.finish_append()

    def finish_sends(self, status: int = 0) -> None:
        """Complete all sends that are under way now."""
        sends, self.sends = self.sends, []
        for req, _message, cb in sends:
            cb(req, status)

    def finish_put(self, status: int = 0) -> None:
        """Complete the snapshot_put under way."""
        req, trailing, snapshot, cb = self.puts.pop(0)
        if status == 0:
            self.stored_snapshot = snapshot
            if trailing == 0:
                self.stored = []
                self.start_index = snapshot.index + 1
        cb(req, status)

    def finish_get(self, status: int = 0) -> None:
        """Complete the oldest snapshot_get."""
        req, cb = self.gets.pop(0)
        cb(req, self.stored_snapshot if status == 0 else None, status)

    def finish_work(self, status: int | None = None) -> None:
        """Run the oldest async work, as a thread would, and complete it with what it returned (or `status`)."""
        req, cb = self.works.pop(0)
        rv = req.work(req)
        cb(req, rv if status is None else status)

    def turn(self) -> None:
        """End the loop turn: run what was deferred."""
        fn, self.deferred = self.deferred, None
        if fn is not None:
            fn()


def _init(io: ScriptIo, id: int, address: str) -> int:
    return io.note("init", id, address)


def _close(io: ScriptIo, cb: Any) -> None:
    io.note("close")
    io.on_close = cb


def _load(io: ScriptIo) -> tuple[int, int, int, RaftSnapshot | None, int, Entries]:
    rv = io.note("load")
    if rv != 0:
        return rv, 0, 0, None, 0, []
    return 0, io.term, io.vote, io.stored_snapshot, io.start_index, list(io.stored)


def _start(io: ScriptIo, msecs: int, tick: Any, recv: Any) -> int:
    rv = io.note("start", msecs)
    if rv == 0:
        io.on_tick, io.on_recv = tick, recv
    return rv


def _bootstrap(io: ScriptIo, conf: RaftConfiguration) -> int:
    rv = io.note("bootstrap", conf.n)
    if rv == 0:
        io.term = 1
        io.stored.append(change(1, conf))
    return rv


def _recover(io: ScriptIo, conf: RaftConfiguration) -> int:
    return io.note("recover", conf.n)


def _set_term(io: ScriptIo, term: int) -> int:
    rv = io.note("set_term", term)
    if rv == 0:
        io.term, io.vote = term, 0
    return rv


def _set_vote(io: ScriptIo, server_id: int) -> int:
    rv = io.note("set_vote", server_id)
    if rv == 0:
        io.vote = server_id
    return rv


def _send(io: ScriptIo, req: Any, message: RaftMessage, cb: Any) -> int:
    rv = io.note("send", message.type, message.server_id)
    if rv == 0:
        io.messages.append(message)
        io.sends.append((req, message, cb))
    return rv


def _append(io: ScriptIo, req: Any, entries: Entries, n: int, cb: Any) -> int:
    rv = io.note("append", n)
    if rv == 0:
        io.appends.append((req, EntryBatch.of(entries, n), cb))
    return rv


def _truncate(io: ScriptIo, index: int) -> int:
    rv = io.note("truncate", index)
    if rv == 0:
        del io.stored[index - io.start_index :]
    return rv


def _snapshot_put(io: ScriptIo, trailing: int, req: Any, snapshot: RaftSnapshot, cb: Any) -> int:
    rv = io.note("snapshot_put", trailing, snapshot.index)
    if rv == 0:
        io.puts.append((req, trailing, snapshot, cb))
    return rv


def _snapshot_get(io: ScriptIo, req: Any, cb: Any) -> int:
    rv = io.note("snapshot_get")
    if rv == 0:
        io.gets.append((req, cb))
    return rv


def _time(io: ScriptIo) -> int:
    return io.now


def _random(io: ScriptIo, min: int, max: int) -> int:
    return min if io.timeout is None else io.timeout


def _async_work(io: ScriptIo, req: Any, cb: Any) -> int:
    rv = io.note("async_work")
    if rv == 0:
        io.works.append((req, cb))
    return rv


def _report(io: ScriptIo, exc: BaseException) -> None:
    io.reported.append(exc)


def _defer(io: ScriptIo, bufs: Sequence[Any], n: int, fn: Callable[[], None]) -> int:
    rv = io.note("defer", n)
    if rv == 0:
        assert io.deferred is None or io.deferred == fn
        io.deferred = fn
    return rv


def configuration(*roles: int) -> RaftConfiguration:
    """Return a configuration of servers 1, 2, … with these roles; their addresses are their ids."""
    conf = RaftConfiguration()
    for i, role in enumerate(roles):
        assert raft_configuration_add(conf, i + 1, str(i + 1), role) == 0
    return conf


def change(term: int, conf: RaftConfiguration) -> RaftEntry:
    """Return a CHANGE entry."""
    rv, blob = raft_configuration_encode(conf)
    assert rv == 0
    return RaftEntry(term, RAFT_CHANGE, blob)


BAD_CHANGE = RaftEntry(1, RAFT_CHANGE, b"\x07garbage")
"""An entry of term 1 that says it is a configuration and does not decode."""


class Solo:
    """Server 1 of a cluster whose other servers the test plays; by default three voters, term 1, entry 1 stored."""

    def __init__(
        self,
        *roles: int,
        terms: Sequence[int] = (),
        term: int = 1,
        vote: int = 0,
        deferring: bool = False,
        fsm: PairFsm | None = None,
        start: bool = True,
    ) -> None:
        self.conf = configuration(*(roles or (RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)))
        self.io = ScriptIo(deferring)
        self.io.term = term
        self.io.vote = vote
        self.io.stored = [change(1, self.conf), *msg.commands(terms)]
        self.fsm = fsm if fsm is not None else PairFsm()
        self.r = Raft()
        assert raft_init(self.r, self.io, self.fsm, 1, "1") == 0
        if start:
            assert raft_start(self.r) == 0
            self.io.calls.clear()

    @property
    def state(self) -> int:
        """The server's state code."""
        return raft_state(self.r)

    def recv(self, message: RaftMessage) -> None:
        """Hand the server a message."""
        self.io.on_recv(self.io, message)

    def tick(self, msecs: int = 100) -> None:
        """Let `msecs` pass and the tick timer fire once."""
        self.io.now += msecs
        self.io.on_tick(self.io)

    def sent(self) -> list[RaftMessage]:
        """Return the messages sent since the last time; their sends complete now."""
        messages, self.io.messages = self.io.messages, []
        self.io.finish_sends()
        return messages

    def reply(self) -> RaftMessage:
        """Return the one message sent since the last time."""
        messages = self.sent()
        assert len(messages) == 1, messages
        return messages[0]

    def stand(self) -> None:
        """Let the election timeout pass, so that the server becomes candidate; forget what it sent."""
        self.tick(1000)
        self.sent()

    def lead(self) -> None:
        """Make the server leader of its next term, its barrier stored and acknowledged by a majority."""
        self.stand()
        term = self.r.current_term
        for server in self.conf.servers[1:]:
            if server.role == RAFT_VOTER:
                self.recv(msg.request_vote_result(server.id, term))
        self.io.finish_appends()
        last = self.r.last_stored
        voters = [server.id for server in self.conf.servers if server.role == RAFT_VOTER and server.id != 1]
        for id in voters[: (len(voters) + 1) // 2]:
            self.recv(msg.append_entries_result(id, term, last))
        self.sent()
        self.io.calls.clear()


def leader(*roles: int, **options: Any) -> Solo:
    """Return a leader of term 2 whose barrier, entry 2, is committed and acknowledged by server 2."""
    s = Solo(*roles, **options)
    s.lead()
    assert s.r.commit_index == s.r.last_stored
    return s


class Statuses:
    """A callback of any request that has a status: what it got, in `seen`."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, req: Any, status: int, result: Any = None) -> None:
        self.seen.append(status)


def command(s: Solo, value: int = 1, cb: Any = None) -> RaftApply:
    """Submit to a leader the command that adds `value` to x."""
    req = RaftApply()
    assert raft_apply(s.r, req, [add_x(value)], 1, cb) == 0
    return req

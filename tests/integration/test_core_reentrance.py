"""User code that calls back into the core from where it was called: writes that end inside io.append, servers that are
closed or started again from inside a function of the I/O table or the FSM, requests that are used again too early.
Each request gets exactly one of a code and a callback, and nothing leads back from closed.
"""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_SHUTDOWN,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftSnapshot,
    RaftTransfer,
    accept,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_last_applied,
    raft_last_index,
    raft_remove,
    raft_set_pre_vote,
    raft_start,
    raft_state,
    raft_transfer,
)
from pyraft import log as logs
from pyraft.types import EntryBatch, RaftRequest
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.compiled import takes
from tests.lib.solo import ScriptIo, Solo, Statuses, command, leader


class Boom(Exception):
    """An exception of user code."""


def completing(status: int = 0, rv: int = 0) -> Callable[..., int]:
    """Return an io.append that ends each write inside the call, with `status`, and then returns `rv`."""

    def append(io: ScriptIo, req: Any, entries: Any, n: int, cb: Any) -> int:
        io.note("append", n)
        if status == 0:
            io.stored.extend(EntryBatch.of(entries, n))
        cb(req, status)
        return rv

    return append


# Writes that end inside io.append


def alone(deferring: bool = False) -> Solo:
    """Return a leader that is the only voter and whose disk is as quick as the call."""
    s = Solo(RAFT_VOTER, deferring=deferring)
    s.io.append = completing()
    assert s.state == RAFT_LEADER
    return s


@pytest.mark.parametrize("deferring", [False, True])
def test_leader_applies_what_is_written_inside_the_call(deferring: bool) -> None:
    """A single voter's command is applied and called back before io.append returns, once."""
    s = alone(deferring)
    done = Statuses()
    command(s, 5, done)
    s.io.turn()
    assert done.seen == [0]
    assert s.fsm.x == 5
    assert not s.r.writes
    assert s.state == RAFT_LEADER


@pytest.mark.parametrize("deferring", [False, True])
def test_callback_of_a_write_inside_the_call_may_submit(deferring: bool) -> None:
    """Commands that callbacks submit are written, applied and called back once each, in the order of submission."""
    s = alone(deferring)
    order: list[str] = []

    def first(req: RaftApply, status: int, result: Any) -> None:
        order.append("first")
        assert raft_barrier(s.r, RaftBarrier(), lambda req, status: order.append("barrier")) == 0
        command(s, 10, lambda req, status, result: order.append("third"))

    command(s, 1, first)
    command(s, 100, lambda req, status, result: order.append("second"))
    for _ in range(3):
        s.io.turn()
    assert sorted(order) == ["barrier", "first", "second", "third"]
    assert order[0] == "first"
    assert order.index("barrier") < order.index("third")
    assert s.fsm.x == 111
    assert raft_last_applied(s.r) == raft_last_index(s.r) == len(s.io.stored)
    assert not s.r.writes


@pytest.mark.parametrize("deferring", [False, True])
def test_write_that_fails_inside_the_call_ends_the_leadership(deferring: bool) -> None:
    """The request gets the status in its callback and 0 from its function; the log is as before."""
    s = leader(deferring=deferring)
    last = raft_last_index(s.r)
    s.io.append = completing(RAFT_IOERR)
    done = Statuses()
    command(s, cb=done)
    s.io.turn()
    assert done.seen == [RAFT_IOERR]
    assert s.state == RAFT_FOLLOWER
    assert raft_last_index(s.r) == last
    assert not s.r.writes


def test_change_that_is_written_inside_the_call_is_committed() -> None:
    """A single voter's changes end inside the call and leave the way free for the next one."""
    s = alone()
    done = Statuses()
    assert raft_add(s.r, RaftChange(), 2, "2", done) == 0
    assert raft_assign(s.r, RaftChange(), 2, RAFT_STANDBY, done) == 0
    assert raft_remove(s.r, RaftChange(), 2, done) == 0
    assert done.seen == [0, 0, 0]
    assert s.r.configuration.n == 1
    assert s.r.configuration_uncommitted_index == 0


def test_change_whose_write_fails_inside_the_call_is_rolled_back() -> None:
    """Its configuration is out of force again, and its request is told once."""
    s = leader()
    s.io.append = completing(RAFT_IOERR)
    done = Statuses()
    assert raft_add(s.r, RaftChange(), 4, "4", done) == 0
    assert done.seen == [RAFT_LEADERSHIPLOST]
    assert s.state == RAFT_FOLLOWER
    assert s.r.configuration.n == 3
    assert s.r.configuration_uncommitted_index == 0


def test_promotion_whose_write_fails_inside_the_call_is_rolled_back() -> None:
    """The server that had caught up is what it was, and the request is told once."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    done = Statuses()
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, done) == 0
    s.io.append = completing(RAFT_IOERR)
    s.recv(msg.append_entries_result(3, 2, raft_last_index(s.r)))
    assert done.seen == [RAFT_LEADERSHIPLOST]
    assert s.state == RAFT_FOLLOWER
    assert s.r.configuration.servers[2].role == RAFT_STANDBY
    assert s.r.configuration_uncommitted_index == 0


def test_follower_acknowledges_what_is_written_inside_the_call() -> None:
    """Its reply says that everything is stored."""
    s = Solo()
    s.io.append = completing()
    s.recv(msg.append_entries(2, 1, 1, 1, 3, msg.commands([1, 1])))
    result = s.reply().append_entries_result
    assert result is not None
    assert (result.rejected, result.last_log_index) == (0, 3)
    assert not accept.is_writing(s.r)
    assert not s.r.writes
    assert raft_last_applied(s.r) == 3


def test_follower_stops_writing_where_a_write_inside_the_call_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a message that takes several writes nothing is written behind the one that failed."""
    monkeypatch.setattr(logs, "MAX_ENTRIES", 1)
    s = Solo()
    s.io.append = completing(RAFT_IOERR)
    s.recv(msg.append_entries(2, 1, 1, 1, 1, msg.commands([1, 1])))
    assert s.io.names().count("append") == 1
    assert raft_last_index(s.r) == 1
    assert not accept.is_writing(s.r)


def test_follower_that_the_fsm_closes_inside_io_append_writes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsm.apply of an entry stored inside the call closes the server: its next write does not begin."""
    monkeypatch.setattr(logs, "MAX_ENTRIES", 1)
    s = Solo()
    s.io.append = completing()

    def apply(fsm: Any, buf: bytes) -> tuple[int, Any]:
        raft_close(s.r, None)
        return 0, None

    s.fsm.apply = apply
    s.recv(msg.append_entries(2, 1, 1, 1, 3, msg.commands([1, 1])))
    assert s.io.names().count("append") == 1
    assert s.state == RAFT_UNAVAILABLE


def test_refused_write_is_forgotten() -> None:
    """A write that io.append refuses, or raises for, is not under way, even if it has ended inside the call."""
    s = leader()
    s.io.fail("append", RAFT_IOERR)
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None) == RAFT_IOERR
    assert not s.r.writes
    s.io.raises("append", Boom())
    done = Statuses()
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, done) == RAFT_IOERR
    assert done.seen == []
    assert not s.r.writes
    s = alone()
    s.io.append = completing(rv=RAFT_IOERR)
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, done) == 0
    assert done.seen == [0]
    assert not s.r.writes


# Closed from inside


def submissions(s: Solo, done: list[Any]) -> dict[str, Callable[[], int]]:
    """Return what submits a request of each kind to the leader; its callback appends to `done`."""
    return {
        "apply": lambda: raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, lambda *args: done.append(args[1])),
        "barrier": lambda: raft_barrier(s.r, RaftBarrier(), lambda *args: done.append(args[1])),
        "add": lambda: raft_add(s.r, RaftChange(), 4, "4", lambda *args: done.append(args[1])),
        "remove": lambda: raft_remove(s.r, RaftChange(), 3, lambda *args: done.append(args[1])),
        "promote": lambda: raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, lambda *args: done.append(args[1])),
        "transfer": lambda: raft_transfer(s.r, RaftTransfer(), 2, lambda req: done.append(RAFT_LEADERSHIPLOST)),
    }


@pytest.mark.parametrize("ending", ["return", "fail", "raise"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("append", "send") for kind in ("apply", "barrier", "add", "remove")]
    + [("send", "promote"), ("send", "transfer")],
)
def test_close_from_inside_a_submission_is_told_once(name: str, kind: str, ending: str) -> None:
    """A request of a server that is closed inside io.append or io.send is called back, and its function returns 0."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    done: list[Any] = []

    def closing(*args: Any) -> int:
        raft_close(s.r, None)
        if ending == "raise":
            raise Boom
        return RAFT_IOERR if ending == "fail" else 0

    if name == "send":
        # The leader talks to server 3 at once when it has been heard from.
        s.tick()
        s.sent()
    setattr(s.io, name, closing)
    s.io.now += 1000
    assert submissions(s, done)[kind]() == 0
    assert done == [RAFT_LEADERSHIPLOST]
    assert s.state == RAFT_UNAVAILABLE


def test_fsm_that_raises_inside_a_submission_is_told_once() -> None:
    """If the command is applied inside the call and fsm.apply raises, the callback tells, not the code."""
    s = alone()
    done = Statuses()

    def apply(fsm: Any, buf: bytes) -> tuple[int, Any]:
        raise Boom

    s.fsm.apply = apply
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, done) == 0
    assert done.seen == [RAFT_LEADERSHIPLOST]
    assert s.state == RAFT_UNAVAILABLE


# raft_start


def inside(s: Solo, name: str, act: Callable[[], Any]) -> list[Any]:
    """Have function `name` of the I/O table or the FSM call `act` once, before it does its work; return the results."""
    table: Any = s.fsm if name == "restore" else s.io
    function = getattr(table, name)
    results: list[Any] = []

    def wrapper(*args: Any) -> Any:
        if not results:
            results.append(None)
            results[0] = act()
        return function(*args)

    setattr(table, name, wrapper)
    return results


def startable(name: str, *roles: int) -> Solo:
    """Return a server that was not started, with a snapshot if its state machine's restore is to be called."""
    s = Solo(*roles, start=False)
    s.io.recovering = lambda io: False
    if name == "restore":
        s.io.stored_snapshot = found = RaftSnapshot()
        found.index = found.term = found.configuration_index = 1
        found.configuration = s.conf
        found.bufs = [bytes(16)]
        s.io.stored = []
        s.io.start_index = 2
    return s


@pytest.mark.parametrize("name", ["load", "restore", "recovering", "start", "random", "set_term", "set_vote"])
def test_close_from_inside_a_start_is_the_end(name: str) -> None:
    """raft_start then returns RAFT_SHUTDOWN; no function of the table but those that were to run is called any more."""
    s = startable(name, *([] if name == "restore" else [RAFT_VOTER]))
    states: list[int] = []
    closed: list[Raft] = []

    def close() -> None:
        assert raft_close(s.r, closed.append) == 0
        s.io.on_close(s.io)
        states.append(raft_state(s.r))
        s.io.calls.clear()

    inside(s, name, close)
    assert raft_start(s.r) == RAFT_SHUTDOWN
    assert raft_errmsg(s.r) == "closed"
    assert closed == [s.r]
    assert s.state == RAFT_UNAVAILABLE
    assert set(s.io.names()) <= {name} | ({"set_vote"} if name == "set_term" else set())
    assert raft_start(s.r) == RAFT_SHUTDOWN


@pytest.mark.parametrize("name", ["load", "restore", "recovering", "start", "random"])
def test_start_from_inside_a_start_is_busy(name: str) -> None:
    """So is all that is for servers that were not started; the start itself goes on."""
    s = startable(name)
    results = inside(s, name, lambda: [raft_start(s.r), raft_bootstrap(s.r, s.conf)])
    assert raft_start(s.r) == 0
    assert results == [[RAFT_BUSY, RAFT_BUSY]]
    assert s.state == RAFT_FOLLOWER


def test_init_from_inside_a_start_is_busy() -> None:
    """An object that was closed inside raft_start cannot be used again until that has returned."""
    s = startable("load")

    def again() -> int:
        raft_close(s.r, None)
        s.io.on_close(s.io)
        return raft_init(s.r, s.io, s.fsm, 1, "1")

    results = inside(s, "load", again)
    assert raft_start(s.r) == RAFT_SHUTDOWN
    assert results == [RAFT_BUSY]
    assert raft_init(s.r, s.io, s.fsm, 1, "1") == 0
    assert raft_start(s.r) == 0
    assert s.state == RAFT_FOLLOWER


def test_start_can_be_repeated_after_an_interrupt() -> None:
    """KeyboardInterrupt out of io.load leaves no start under way."""
    s = startable("load")
    s.io.raises("load", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        raft_start(s.r)
    s.r.failed = False
    assert raft_start(s.r) == 0


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("name", ["set_term", "set_vote", "random", "send"])
def test_close_from_inside_an_election_is_the_end(name: str, pre_vote: bool) -> None:
    """A candidate that its I/O table closes asks nobody any more and stays closed, whatever the function returns."""
    s = Solo()
    raft_set_pre_vote(s.r, pre_vote)
    inside(s, name, lambda: raft_close(s.r, None))
    if name == "set_term":
        s.io.fail("set_term", RAFT_IOERR)
    s.tick(1000)
    if pre_vote and name.startswith("set_"):
        assert s.state != RAFT_UNAVAILABLE
    else:
        assert s.state == RAFT_UNAVAILABLE
        assert len(s.io.messages) <= 1


def test_close_from_inside_the_adoption_of_a_term_is_the_end() -> None:
    """A leader that is closed inside io.set_term does not become follower."""
    s = leader()
    inside(s, "set_term", lambda: raft_close(s.r, None))
    s.recv(msg.append_entries(2, 3, 1, 1))
    assert s.state == RAFT_UNAVAILABLE


# Requests that are used again

KINDS: dict[str, type[RaftRequest]] = {
    "apply": RaftApply,
    "barrier": RaftBarrier,
    "add": RaftChange,
    "assign": RaftChange,
    "promote": RaftChange,
    "remove": RaftChange,
    "transfer": RaftTransfer,
}


def request(kind: str) -> Any:
    """Return a request for a call of this kind."""
    return KINDS[kind]()


@pytest.mark.parametrize("second", ["apply", "barrier", "add", "assign", "promote", "remove", "transfer"])
@pytest.mark.parametrize("first", ["apply", "barrier", "promote", "add", "transfer"])
def test_request_that_is_under_way_is_refused(first: str, second: str) -> None:
    """Its second use changes nothing, and its first ends as if there had been no second."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    req = request(first)
    done: list[str] = []

    def submit(kind: str) -> int:
        def cb(*args: Any) -> None:
            done.append(kind)

        if kind == "apply":
            return raft_apply(s.r, req, [fsms.set_x(1)], 1, cb)
        if kind == "barrier":
            return raft_barrier(s.r, req, cb)
        if kind == "add":
            return raft_add(s.r, req, 4, "4", cb)
        if kind == "transfer":
            return raft_transfer(s.r, req, 2, cb)
        if kind == "remove":
            return raft_remove(s.r, req, 3, cb)
        return raft_assign(s.r, req, 3, RAFT_VOTER if kind == "promote" else RAFT_SPARE, cb)

    assert submit(first) == 0
    last = raft_last_index(s.r)
    if takes(KINDS[second], req):
        assert submit(second) != 0
    else:
        with pytest.raises(TypeError):
            submit(second)
    assert raft_last_index(s.r) == last
    raft_close(s.r, None)
    assert done == [first]
    assert not req.pending


def test_request_under_way_is_busy() -> None:
    """The code and its text say what is wrong; other servers in the process refuse the request as well."""
    s, other = leader(), leader()
    req: Any = command(s)
    for r in (s.r, other.r):
        calls = {
            "apply": lambda r=r: raft_apply(r, req, [fsms.set_x(1)], 1, None),
            "barrier": lambda r=r: raft_barrier(r, req, None),
            "add": lambda r=r: raft_add(r, req, 4, "4", None),
            "transfer": lambda r=r: raft_transfer(r, req, 2, None),
        }
        for kind, call in calls.items():
            if not takes(KINDS[kind], req):
                with pytest.raises(TypeError):
                    call()
                continue
            r.errmsg = ""
            if isinstance(req, KINDS[kind]):
                assert call() == RAFT_BUSY
                assert "under way" in raft_errmsg(r)
            else:
                assert call() == RAFT_INVALID
                assert raft_errmsg(r) == f"the request is a RaftApply, not a {KINDS[kind].__name__}"
        assert raft_state(r) == RAFT_LEADER


def test_request_can_be_used_again_once_it_was_called_back() -> None:
    """It can already inside its callback; and after a call that returned a code."""
    s = alone()
    seen: list[int] = []

    def again(req: RaftApply, status: int, result: Any) -> None:
        seen.append(status)
        if len(seen) < 3:
            assert raft_apply(s.r, req, [fsms.add_x(1)], 1, again) == 0

    req = RaftApply()
    s.io.append, quick = ScriptIo().append, s.io.append
    s.io.fail("append", RAFT_IOERR)
    assert raft_apply(s.r, req, [fsms.add_x(1)], 1, again) == RAFT_IOERR
    s.io.append = quick
    assert raft_apply(s.r, req, [fsms.add_x(1)], 1, again) == 0
    assert seen == [0, 0, 0]
    assert s.fsm.x == 3


@pytest.mark.parametrize("kind", ["apply", "barrier", "add", "promote", "transfer"])
def test_request_whose_submission_failed_can_be_used_again(kind: str) -> None:
    """A code means that the request is free."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    req = request(kind)
    s.tick()
    s.sent()
    s.io.now += 1000
    for name in ("append", "send"):
        s.io.raises(name, Boom())
    if kind == "apply":
        assert raft_apply(s.r, req, [fsms.set_x(1)], 1, None) != 0
    elif kind == "barrier":
        assert raft_barrier(s.r, req, None) != 0
    elif kind == "add":
        assert raft_add(s.r, req, 4, "4", None) != 0
    elif kind == "promote":
        assert raft_assign(s.r, req, 3, RAFT_VOTER, None) != 0
    else:
        assert raft_transfer(s.r, req, 2, None) != 0
    assert not req.pending

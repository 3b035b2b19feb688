"""The core's API used wrongly: too early, too late, twice, on the wrong server, with the wrong arguments; and user
code that raises. An error is a code, never an exception and never a changed state; code that raises stops the server
(FSM, I/O table) or is reported (callbacks).
"""

import logging
from typing import Any

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_BUSY,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftBuffer,
    RaftChange,
    RaftConfiguration,
    RaftRequest,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_last_applied,
    raft_last_index,
    raft_leader,
    raft_recover,
    raft_register_state_cb,
    raft_remove,
    raft_role,
    raft_set_snapshot_threshold,
    raft_start,
    raft_state,
    raft_transfer,
    raft_voter_contacts,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.compiled import COMPILED
from tests.lib.solo import ScriptIo, Solo, configuration, leader


def unexpected(*args: Any) -> None:
    """Be a callback that must never fire."""
    raise AssertionError(f"callback of a refused request fired with {args}")


def requests(r: Raft) -> list[int]:
    """Make every kind of request; return the codes."""
    return [
        raft_apply(r, RaftApply(), [fsms.set_x(1)], 1, unexpected),
        raft_barrier(r, RaftBarrier(), unexpected),
        raft_add(r, RaftChange(), 4, "4", unexpected),
        raft_assign(r, RaftChange(), 2, RAFT_VOTER, unexpected),
        raft_remove(r, RaftChange(), 2, unexpected),
        raft_transfer(r, RaftTransfer(), 2, unexpected),
    ]


# Too early, too late, twice


def test_requests_before_the_start_are_refused() -> None:
    """A server that was not started leads nothing, knows nothing, and says so."""
    s = Solo(start=False)
    assert requests(s.r) == [RAFT_NOTLEADER] * 6
    assert raft_state(s.r) == RAFT_UNAVAILABLE
    assert raft_leader(s.r) == (0, None)
    assert (raft_last_index(s.r), raft_last_applied(s.r)) == (0, 0)
    assert raft_role(s.r) == -1
    assert raft_voter_contacts(s.r) == -1


def test_requests_on_a_follower_are_refused() -> None:
    """Every kind of request is RAFT_NOTLEADER on a follower; its log stays as it is."""
    s = Solo()
    assert requests(s.r) == [RAFT_NOTLEADER] * 6
    assert raft_errmsg(s.r) == "server is not the leader: no leader is known"
    assert raft_last_index(s.r) == 1


def test_requests_on_a_candidate_are_refused() -> None:
    """A candidate does not lead."""
    s = Solo()
    s.stand()
    assert requests(s.r) == [RAFT_NOTLEADER] * 6


def test_requests_after_close_are_refused() -> None:
    """From raft_close on everything is RAFT_NOTLEADER, before and after its callback."""
    s = leader()
    closed: list[Raft] = []
    raft_close(s.r, closed.append)
    assert requests(s.r) == [RAFT_NOTLEADER] * 6
    s.io.on_close(s.io)
    assert closed == [s.r]
    assert requests(s.r) == [RAFT_NOTLEADER] * 6


def test_second_start_is_refused() -> None:
    """A started server is RAFT_BUSY for another start; it goes on undisturbed."""
    s = leader()
    assert raft_start(s.r) == RAFT_BUSY
    assert raft_errmsg(s.r) == "already started"
    assert s.state == RAFT_LEADER
    assert "load" not in s.io.names()


def test_start_after_close_is_refused() -> None:
    """A closed server cannot be started."""
    s = leader()
    raft_close(s.r, None)
    s.io.on_close(s.io)
    assert raft_start(s.r) != 0
    assert s.state == RAFT_UNAVAILABLE


def test_bootstrap_and_recover_of_a_started_server_are_refused() -> None:
    """They are for servers that were not started."""
    s = Solo()
    assert raft_bootstrap(s.r, s.conf) == RAFT_BUSY
    assert raft_recover(s.r, s.conf) == RAFT_BUSY
    assert s.io.names() == []


def test_closing_twice_closes_once() -> None:
    """A second raft_close closes nothing again; both callbacks fire once."""
    s = leader()
    first: list[Raft] = []
    second: list[Raft] = []
    raft_close(s.r, first.append)
    raft_close(s.r, second.append)
    assert s.io.names().count("close") == 1
    assert first == second == []
    s.io.on_close(s.io)
    assert len(first) + len(second) >= 1
    assert len(first) <= 1
    assert len(second) <= 1


def test_messages_and_ticks_after_close_are_dropped() -> None:
    """Nothing that comes in while a server closes has an effect or an answer."""
    s = Solo()
    raft_close(s.r, None)
    s.io.calls.clear()
    s.recv(msg.request_vote(2, 9, 9, 9))
    s.recv(msg.append_entries(2, 9, 1, 1, 0, msg.commands([1])))
    s.tick(5000)
    assert s.io.names() == []
    assert s.r.current_term == 1


def test_completions_after_close_do_no_harm() -> None:
    """Writes, sends and snapshots that end after raft_close change nothing."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    p = RaftApply()
    statuses: list[int] = []
    assert raft_apply(s.r, p, [fsms.set_x(1)], 1, lambda req, status, result: statuses.append(status)) == 0
    raft_close(s.r, None)
    assert statuses == [RAFT_LEADERSHIPLOST]
    s.io.finish_appends()
    s.io.finish_sends(RAFT_IOERR)
    while s.io.puts:
        s.io.finish_put()
    assert s.state == RAFT_UNAVAILABLE
    assert statuses == [RAFT_LEADERSHIPLOST]


# Wrong arguments


@pytest.mark.parametrize(
    ("bufs", "n"),
    [
        pytest.param([fsms.set_x(1)], 2, id="fewer buffers than n"),
        pytest.param([], 1, id="no buffer"),
        pytest.param([fsms.set_x(1)], 0, id="n is 0"),
        pytest.param([fsms.set_x(1)], -1, id="n is negative"),
        pytest.param(["text"], 1, id="text"),
        pytest.param([None], 1, id="None"),
        pytest.param([fsms.set_x(1), 7], 2, id="a number"),
        pytest.param(None, 1, id="no sequence"),
    ],
)
def test_apply_of_what_is_no_buffer_is_invalid(bufs: Any, n: int) -> None:
    """Wrong buffers are RAFT_INVALID; nothing is logged, written or sent."""
    s = leader()
    assert raft_apply(s.r, RaftApply(), bufs, n, unexpected) == RAFT_INVALID
    assert raft_last_index(s.r) == 2
    assert s.io.names() == []
    assert s.r.leader_state.requests == {}


@pytest.mark.parametrize(
    "submit",
    [
        pytest.param(lambda r, req: raft_apply(r, req, [fsms.set_x(1)], 1, None), id="apply"),
        pytest.param(lambda r, req: raft_barrier(r, req, None), id="barrier"),
        pytest.param(lambda r, req: raft_add(r, req, 4, "4", None), id="add"),
        pytest.param(lambda r, req: raft_assign(r, req, 3, 0, None), id="assign"),
        pytest.param(lambda r, req: raft_remove(r, req, 3, None), id="remove"),
        pytest.param(lambda r, req: raft_transfer(r, req, 3, None), id="transfer"),
    ],
)
def test_request_that_is_none_leaves_no_trace(submit: Any) -> None:
    """An object that is not a request, or one of another kind, is refused before anything has changed: the next one is
    served."""
    s = leader()
    for req in (None, RaftRequest()):
        if COMPILED:
            with pytest.raises(TypeError):
                submit(s.r, req)
        else:
            assert submit(s.r, req) == RAFT_INVALID
            assert raft_errmsg(s.r).startswith(f"the request is a {type(req).__name__}, not a Raft")
    assert raft_last_index(s.r) == 2
    assert s.io.names() == []
    assert s.r.leader_state.requests == {}
    assert s.r.leader_state.change is None
    done: list[int] = []
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(5)], 1, lambda req, status, result: done.append(status)) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert done == [0]


@pytest.mark.parametrize(
    "buf",
    [
        pytest.param(fsms.set_x(5), id="bytes"),
        pytest.param(bytearray(fsms.set_x(5)), id="bytearray"),
        pytest.param(memoryview(fsms.set_x(5)), id="memoryview"),
        pytest.param(RaftBuffer(fsms.set_x(5) + b"more", 16), id="RaftBuffer"),
        pytest.param(RaftBuffer(fsms.set_x(5)), id="whole RaftBuffer"),
    ],
)
def test_apply_takes_any_buffer(buf: Any) -> None:
    """Any bytes-like object and a RaftBuffer are taken; extra buffers beyond n are not looked at."""
    s = leader()
    bufs: list[Any] = [buf, "not looked at"]
    assert raft_apply(s.r, RaftApply(), bufs, 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.fsm.x == 5
    assert s.fsm.applied == [fsms.set_x(5)]


def test_buffer_that_changes_after_the_call_is_of_no_concern() -> None:
    """A mutable buffer is copied."""
    s = leader()
    buf = bytearray(fsms.set_x(5))
    assert raft_apply(s.r, RaftApply(), [buf], 1, None) == 0
    buf[8] = 99
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.fsm.x == 5


def test_refused_write_leaves_no_trace() -> None:
    """A code that io.append returns is raft_apply's: log, requests and followers are as before."""
    s = leader()
    for submit in (
        lambda: raft_apply(s.r, RaftApply(), [b"123456789"], 1, unexpected),
        lambda: raft_barrier(s.r, RaftBarrier(), unexpected),
        lambda: raft_add(s.r, RaftChange(), 4, "4", unexpected),
        lambda: raft_remove(s.r, RaftChange(), 3, unexpected),
        lambda: raft_assign(s.r, RaftChange(), 3, 0, unexpected),
    ):
        s.io.fail("append", RAFT_INVALID)
        assert submit() == RAFT_INVALID
        assert raft_errmsg(s.r) == "io: append failed"
        assert raft_last_index(s.r) == 2
        assert s.r.leader_state.requests == {}
        assert s.r.leader_state.change is None
        assert [server.id for server in s.r.configuration.servers] == [1, 2, 3]
        assert [server.role for server in s.r.configuration.servers] == [RAFT_VOTER] * 3
        assert s.r.configuration_uncommitted_index == 0
        assert len(s.r.leader_state.progress) == 3
        assert s.sent() == []
    assert s.state == RAFT_LEADER
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None) == 0


@pytest.mark.parametrize("id", [0, -1, 1 << 64])
def test_id_out_of_range_is_bad(id: int) -> None:
    """An id is 1 to 2**64-1."""
    s = leader()
    assert raft_add(s.r, RaftChange(), id, "x", unexpected) == RAFT_BADID
    assert raft_configuration_add(RaftConfiguration(), id, "x", RAFT_VOTER) == RAFT_BADID
    assert raft_last_index(s.r) == 2


def test_role_out_of_range_is_bad() -> None:
    """A role is stand-by, voter or spare."""
    s = leader()
    for role in (-1, 3, 999):
        assert raft_assign(s.r, RaftChange(), 2, role, unexpected) == RAFT_BADROLE
        assert raft_configuration_add(RaftConfiguration(), 1, "x", role) == RAFT_BADROLE


# Code of users that raises


class Boom(Exception):
    """An exception of user code."""


def raising(*args: Any) -> Any:
    """Be user code with a bug."""
    raise Boom("bug")


def test_fsm_apply_that_raises_stops_a_leader(caplog: pytest.LogCaptureFixture) -> None:
    """The leader becomes unavailable, says what failed, logs the traceback, and fails what waits."""
    s = leader()
    statuses: list[int] = []
    s.fsm.apply = raising
    for _ in range(2):
        assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, lambda q, status, x: statuses.append(status)) == 0
    with caplog.at_level(logging.ERROR):
        s.recv(msg.append_entries_result(2, 2, 4))
        s.io.finish_appends()
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "fsm.apply: Boom: bug"
    assert statuses == [RAFT_LEADERSHIPLOST, RAFT_LEADERSHIPLOST]
    assert raft_last_applied(s.r) == 2
    assert any(record.exc_info is not None and record.exc_info[0] is Boom for record in caplog.records)


@pytest.mark.parametrize("in_completion", [False, True])
def test_fsm_apply_that_raises_stops_a_follower(in_completion: bool) -> None:
    """A follower becomes unavailable as well, in a message handler and in a disk completion, and answers nothing."""
    s = Solo()
    s.fsm.apply = raising
    commit = 2 if in_completion else 0
    s.recv(msg.append_entries(2, 1, 1, 1, commit, msg.commands([1])))
    s.io.finish_appends()
    if not in_completion:
        s.sent()
        s.recv(msg.append_entries(2, 1, 2, 1, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "fsm.apply: Boom: bug"
    assert s.sent() == []


@pytest.mark.parametrize("part", ["snapshot", "snapshot_finalize"])
def test_fsm_snapshot_that_raises_stops_the_server(part: str) -> None:
    """Whichever FSM function raises while a snapshot is taken, the server becomes unavailable."""
    s = leader()
    setattr(s.fsm, part, raising)
    raft_set_snapshot_threshold(s.r, 1)
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    if s.io.puts:
        s.io.finish_put()
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == f"fsm.{part}: Boom: bug"


def test_snapshot_async_that_raises_stops_the_server() -> None:
    """An exception in the worker thread is reported on the loop, and the FSM's lock is given back."""
    s = Solo(fsm=fsms.PairFsm(3, snapshot_async=True))
    s.lead()
    s.fsm.snapshot_async = raising
    raft_set_snapshot_threshold(s.r, 1)
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.finish_work()
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "fsm.snapshot_async: Boom: bug"
    assert not s.fsm.locked


def test_fsm_restore_that_raises_stops_the_server() -> None:
    """A snapshot that the FSM chokes on is fail-stop, and nothing is acknowledged."""
    s = Solo()
    s.fsm.restore = raising
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(0, 0)))
    s.io.finish_put()
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "fsm.restore: Boom: bug"
    assert s.sent() == []


@pytest.mark.parametrize("answer", [None, 0, (0,), "no", (0, None, None)])
def test_fsm_that_answers_nonsense_stops_the_server(answer: Any) -> None:
    """An answer of the wrong shape is as bad as an exception."""
    s = leader()
    s.fsm.apply = lambda fsm, buf: answer
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r).startswith("fsm.apply: ")


def _apply_one(s: Solo) -> Any:
    return raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None)


IO_CALLS: dict[str, Any] = {
    "set_term": lambda s: s.recv(msg.append_entries(2, 9, 1, 1)),
    "set_vote": lambda s: s.tick(1000),
    "send": lambda s: s.recv(msg.append_entries(2, 1, 1, 1)),
    "append": lambda s: s.recv(msg.append_entries(2, 1, 3, 1, 0, msg.commands([1]))),
    "truncate": lambda s: s.recv(msg.append_entries(2, 2, 1, 1, 0, msg.commands([2]))),
    "snapshot_put": lambda s: s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(0, 0))),
}


@pytest.mark.parametrize("name", IO_CALLS)
def test_io_function_that_raises_stops_a_follower(name: str) -> None:
    """An exception from the I/O table is fail-stop too, and never leaves the core."""
    s = Solo(terms=[1, 1])
    s.io.raises(name, Boom("disk"))
    IO_CALLS[name](s)
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == f"io.{name}: Boom: disk"


@pytest.mark.parametrize("name", ["append", "send"])
def test_io_function_that_raises_in_apply_stops_the_leader(name: str) -> None:
    """raft_apply returns a code, the server is unavailable, nothing is raised."""
    s = leader()
    s.io.raises(name, Boom("disk"))
    rv = _apply_one(s)
    assert rv != 0
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == f"io.{name}: Boom: disk"


@pytest.mark.parametrize("name", ["init", "load", "start"])
def test_io_function_that_raises_at_the_start_is_an_error(name: str) -> None:
    """raft_start fails with a code and a text when the I/O table raises."""
    if name == "init":
        r, io = Raft(), ScriptIo()
        io.raises("init", Boom("disk"))
        assert raft_init(r, io, fsms.PairFsm(), 1, "1") == RAFT_IOERR
    else:
        s = Solo(start=False)
        r = s.r
        s.io.raises(name, Boom("disk"))
        assert raft_start(r) == RAFT_IOERR
    assert raft_state(r) == RAFT_UNAVAILABLE
    assert raft_errmsg(r) == f"io.{name}: Boom: disk"


def test_callbacks_that_raise_are_reported_and_change_nothing() -> None:
    """An exception of a completion callback goes to io.report; the server and the other callbacks go on."""
    s = leader()
    statuses: list[int] = []
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, raising) == 0
    assert raft_barrier(s.r, RaftBarrier(), raising) == 0
    assert raft_remove(s.r, RaftChange(), 3, raising) == 0
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(2)], 1, lambda q, status, x: statuses.append(status)) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 6))
    assert [type(exc) for exc in s.io.reported] == [Boom] * 3
    assert statuses == [0]
    assert s.state == RAFT_LEADER
    assert s.fsm.x == 2


def test_state_transfer_and_close_callbacks_that_raise_are_reported() -> None:
    """The same holds for the state callback, a transfer's and raft_close's."""
    s = Solo()
    raft_register_state_cb(s.r, raising)
    s.lead()
    assert s.state == RAFT_LEADER
    assert raft_transfer(s.r, RaftTransfer(), 3, raising) == 0
    s.recv(msg.append_entries(3, 3, 2, 2))
    assert s.state == RAFT_FOLLOWER
    raft_close(s.r, raising)
    s.io.on_close(s.io)
    assert len(s.io.reported) == 6
    assert s.state == RAFT_UNAVAILABLE


def test_exception_of_a_callback_without_report_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An I/O table without report, or whose report raises, gets the exception into the log."""
    for report in (None, raising):
        caplog.clear()
        s = leader()
        s.io.report = report
        assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, raising) == 0
        s.io.finish_appends()
        s.recv(msg.append_entries_result(2, 2, 3))
        assert s.state == RAFT_LEADER
        assert any(record.exc_info is not None and record.exc_info[0] is Boom for record in caplog.records)


# Callbacks that call back


def test_apply_from_the_callbacks_of_a_leader_on_its_way_out_is_refused() -> None:
    """A callback that fires while the leader steps down sees the state LEADER but gets RAFT_NOTLEADER (B33)."""
    s = leader()
    seen: list[tuple[int, int]] = []

    def again(req: RaftApply, status: int, result: Any) -> None:
        seen.append((raft_state(s.r), raft_apply(s.r, RaftApply(), [fsms.set_x(2)], 1, unexpected)))

    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, again) == 0
    s.recv(msg.append_entries(2, 9, 2, 2))
    assert seen == [(RAFT_LEADER, RAFT_NOTLEADER)]
    assert s.state == RAFT_FOLLOWER


def test_close_from_an_apply_callback() -> None:
    """A callback may close the server: the rest of the pass is not applied, and everything ends once."""
    s = leader()
    closed: list[Raft] = []
    statuses: list[int] = []
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, lambda q, status, x: raft_close(s.r, closed.append)) == 0
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, lambda q, status, x: statuses.append(status)) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 4))
    assert s.state == RAFT_UNAVAILABLE
    assert len(statuses) == 1
    s.io.on_close(s.io)
    assert closed == [s.r]


def test_close_from_the_state_callback() -> None:
    """The state callback may close the server as it becomes leader."""
    s = Solo()
    raft_register_state_cb(s.r, lambda r, old, new: raft_close(r, None) if new == RAFT_LEADER else None)
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert s.io.names()[-1] == "close"
    assert s.io.appends == []


def test_unaligned_payloads_are_the_business_of_the_io() -> None:
    """The core takes a payload of any length; the I/O implementation decides (io_uv wants multiples of 8)."""
    s = leader()
    assert raft_apply(s.r, RaftApply(), [b"123"], 1, None) == 0
    assert s.io.appends[-1][1].bufs == [b"123"]


def test_configuration_of_a_caller_is_copied() -> None:
    """A change that a caller makes to its configuration after raft_bootstrap is of no concern."""
    s = Solo(start=False)
    s.io.stored.clear()
    conf = configuration(RAFT_VOTER)
    assert raft_bootstrap(s.r, conf) == 0
    conf.servers.clear()
    assert raft_start(s.r) == 0
    assert s.r.configuration.n == 1

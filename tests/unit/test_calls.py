"""The border to foreign code: an exception behind it stops the server, is named, and never gets out of the core."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_SHUTDOWN,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBuffer,
    RaftChange,
    RaftTransfer,
    calls,
    raft_add,
    raft_apply,
    raft_assign,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_last_applied,
    raft_last_index,
    raft_recover,
    raft_register_state_cb,
    raft_remove,
    raft_set_max_catch_up_round_duration,
    raft_set_snapshot_threshold,
    raft_start,
    raft_state,
    raft_transfer,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, Statuses, command, leader


class Boom(Exception):
    """An exception of foreign code."""


def commit(s: Solo) -> None:
    """Store everything that the leader appended and have server 2 acknowledge it."""
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, raft_last_index(s.r)))


def needing_a_snapshot() -> Solo:
    """Return a leader whose follower 3 needs a snapshot that the next tick reads."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    s.r.snapshot.trailing = 1
    command(s)
    commit(s)
    s.io.finish_put()
    s.recv(msg.append_entries_result(3, 2, 0, rejected=2))
    s.recv(msg.append_entries_result(3, 2, 0, rejected=1))
    return s


def due_for_a_snapshot() -> Solo:
    """Return a leader with an asynchronous FSM that takes a snapshot with the next command."""
    s = leader(fsm=fsms.PairFsm(3, snapshot_async=True))
    raft_set_snapshot_threshold(s.r, 1)
    return s


def apply_and_commit(s: Solo) -> None:
    """Have a command applied."""
    command(s)
    commit(s)


RAISING: dict[str, tuple[Callable[[], Solo], Callable[[Solo], Any]]] = {
    "snapshot_get": (needing_a_snapshot, lambda s: s.tick()),
    "async_work": (due_for_a_snapshot, apply_and_commit),
    "snapshot_put": (needing_a_snapshot, apply_and_commit),
    "truncate": (lambda: Solo(terms=[1]), lambda s: s.recv(msg.append_entries(2, 2, 1, 1, 0, msg.commands([2])))),
}


@pytest.mark.parametrize("name", RAISING)
def test_io_function_that_raises_stops_the_server(name: str) -> None:
    """Whichever function of the I/O table raises, and on whatever occasion: unavailable, with its name."""
    make, act = RAISING[name]
    s = make()
    s.io.raises(name, Boom("disk"))
    act(s)
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == f"io.{name}: Boom: disk"


def raising(*args: Any) -> Any:
    """Be foreign code with a bug."""
    raise Boom("bug")


@pytest.mark.parametrize("name", ["time", "random"])
def test_clock_and_dice_that_raise_stop_the_server(name: str) -> None:
    """io.time and io.random follow the same rule."""
    s = Solo()
    setattr(s.io, name, raising)
    s.tick(1000)
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == f"io.{name}: Boom: bug"


def test_defer_that_raises_stops_the_leader() -> None:
    """raft_apply returns a code and its callback never fires."""
    s = leader(deferring=True)
    s.io.raises("defer", Boom("loop"))
    done = Statuses()
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, done) == RAFT_IOERR
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "io.defer: Boom: loop"
    assert done.seen == []


@pytest.mark.parametrize("name", ["bootstrap", "recover"])
def test_bootstrap_and_recover_that_raise_are_errors(name: str) -> None:
    """Before the start there is nothing to stop: the call fails with a code and a text, and can be repeated."""
    s = Solo(start=False)
    call = raft_bootstrap if name == "bootstrap" else raft_recover
    s.io.raises(name, Boom("disk"))
    assert call(s.r, s.conf) == RAFT_IOERR
    assert raft_errmsg(s.r) == f"io.{name}: Boom: disk"
    assert call(s.r, s.conf) == 0


def test_close_that_raises_still_calls_back() -> None:
    """If io.close raises nobody else would ever tell that the server is closed."""
    s = leader()
    s.io.raises("close", Boom("loop"))
    closed: list[Raft] = []
    assert raft_close(s.r, closed.append) == 0
    assert closed == [s.r]
    assert raft_errmsg(s.r) == "io.close: Boom: loop"


def test_only_the_first_exception_is_told() -> None:
    """If two functions raise on the way, raft_errmsg names the first; both are logged."""
    s = leader(deferring=True)
    command(s)
    s.io.raises("append", Boom("first"))
    s.io.raises("set_term", Boom("second"))
    s.recv(msg.append_entries(2, 9, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "io.append: Boom: first"


def test_keyboard_interrupt_gets_through() -> None:
    """KeyboardInterrupt and its like are passed on, and the server stops at its next entry."""
    s = leader()

    def interrupted(fsm: Any, buf: bytes) -> Any:
        raise KeyboardInterrupt

    s.fsm.apply = interrupted
    command(s)
    s.io.finish_appends()
    with pytest.raises(KeyboardInterrupt):
        s.recv(msg.append_entries_result(2, 2, 3))
    s.tick()
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r).startswith("fsm.apply: KeyboardInterrupt")


def test_keyboard_interrupt_in_a_callback_is_reported() -> None:
    """A completion callback never ends a pass, whatever it raises."""
    s = leader()

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    command(s, cb=interrupted)
    command(s, 2)
    commit(s)
    assert s.fsm.x == 3
    assert s.state == RAFT_LEADER
    assert [type(exc) for exc in s.io.reported] == [KeyboardInterrupt]


def test_barrier_of_a_new_leader_that_raises() -> None:
    """A send that raises while a leader begins stops it. The barrier stays, as the disk has it, and perhaps others."""
    s = Solo()
    s.stand()
    s.io.raises("send", Boom("network"))
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_last_index(s.r) == 2


def test_requests_without_callbacks() -> None:
    """No callback is needed anywhere."""
    s = leader()
    command(s)
    commit(s)
    assert raft_last_applied(s.r) == 3
    assert raft_close(s.r, None) == 0
    s.io.on_close(s.io)
    assert raft_state(s.r) == RAFT_UNAVAILABLE


@pytest.mark.parametrize(
    "bufs",
    [
        pytest.param([fsms.content(1, 0)], id="bytes"),
        pytest.param([bytearray(fsms.content(1, 0))], id="bytearray"),
        pytest.param([memoryview(fsms.content(1, 0))], id="memoryview"),
        pytest.param([RaftBuffer(fsms.content(1, 0) + b"more", 16)], id="RaftBuffer"),
        pytest.param([fsms.content(1, 0)[:8], fsms.content(1, 0)[8:]], id="two buffers"),
    ],
)
def test_snapshots_may_be_any_buffers(bufs: list[Any]) -> None:
    """fsm.snapshot may return any bytes-like objects; the I/O table gets them read-only and uncopied."""
    s = leader()
    s.fsm.snapshot = lambda fsm: (0, bufs)
    s.fsm.snapshot_finalize = None
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    commit(s)
    stored = s.io.puts[0][2].bufs
    assert b"".join(bytes(buf) for buf in stored) == fsms.content(1, 0)
    assert all(memoryview(buf).readonly for buf in stored)


def test_snapshot_that_is_no_buffer_stops_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """The results of fsm.snapshot have to be buffers."""
    s = leader()
    bufs: Any = ["text"]
    s.fsm.snapshot = lambda fsm: (0, bufs)
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    with caplog.at_level(logging.ERROR):
        commit(s)
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r).startswith("fsm.snapshot: TypeError")
    assert caplog.records


def test_exceptions_of_a_self_election_are_an_error_of_the_start() -> None:
    """A single voter whose FSM raises on what is committed at once cannot start."""
    s = Solo(RAFT_VOTER, terms=[1], start=False)
    s.fsm.apply = raising
    assert raft_start(s.r) == RAFT_SHUTDOWN
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "fsm.apply: Boom: bug"


def test_close_from_the_state_callback_of_a_start() -> None:
    """A state callback may close a single voter before it elects itself."""
    s = Solo(RAFT_VOTER, start=False)
    cb: Any = lambda r, old, new: raft_close(r, None) if new == RAFT_FOLLOWER else None  # noqa: E731
    raft_register_state_cb(s.r, cb)
    raft_start(s.r)
    assert s.state == RAFT_UNAVAILABLE
    assert "set_term" not in s.io.names()
    raft_set_max_catch_up_round_duration(s.r, 1)
    assert s.r.max_catch_up_round_duration == 1


def test_write_that_raises_at_the_end_of_a_turn_stops_the_leader() -> None:
    """An exception of io.append when deferred commands are given out stops the server in that turn."""
    s = leader(deferring=True)
    done = Statuses()
    command(s, cb=done)
    s.io.raises("append", Boom("disk"))
    s.io.turn()
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "io.append: Boom: disk"
    assert done.seen == [RAFT_IOERR]


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: raft_add(r, RaftChange(), 1, "1", None),
        lambda r: raft_remove(r, RaftChange(), 9, None),
        lambda r: raft_assign(r, RaftChange(), 9, RAFT_VOTER, None),
        lambda r: raft_transfer(r, RaftTransfer(), 9, None),
    ],
    ids=["add", "remove", "assign", "transfer"],
)
def test_io_that_raises_in_front_of_a_bad_request_stops_the_leader(ask: Callable[[Raft], int]) -> None:
    """Commands that wait are given out first: if io.send raises there the server stops in that call, and says why."""
    s = leader(deferring=True)
    done = Statuses()
    command(s, cb=done)
    s.io.raises("send", Boom("wire"))
    assert ask(s.r) == RAFT_SHUTDOWN
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "io.send: Boom: wire"
    assert done.seen == [RAFT_LEADERSHIPLOST]


def test_a_random_function_that_raises_gives_the_latest_time() -> None:
    """The number is used before the server stops."""
    s = Solo()

    def raising(*_: object) -> int:
        raise Boom("random")

    s.io.random = raising
    assert calls.random(s.r, 5, 9) == 9
    assert s.r.failed

"""The orders in which callbacks come, as pyraft/CALLBACKS.md has them: on close, at a step-down, at a stop."""

from collections.abc import Callable

import pytest

import pyraft
from pyraft import (
    RAFT_IOERR,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftReadIndex,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_barrier,
    raft_close,
    raft_last_index,
    raft_read_index,
    raft_register_state_cb,
    raft_remove,
    raft_transfer,
)
from pyraft.errors import code_name
from pyraft.types import STATE_NAMES
from tests.integration.test_callbacks import depose
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, leader


def told(s: Solo) -> list[str]:
    """Return a list to which each change of state is appended."""
    events: list[str] = []
    raft_register_state_cb(s.r, lambda r, old, new: events.append(f"{STATE_NAMES[old]} → {STATE_NAMES[new]}"))
    return events


def submit_everything(s: Solo, events: list[str]) -> None:
    """Submit two commands, a barrier, a change, a read, and last a transfer, which all tell `events` how they end."""

    def cb(name: str) -> Callable[..., None]:
        return lambda req, *args: events.append(f"{name} {code_name(args[0]) if args and args[0] else ''}".strip())

    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, cb("first")) == 0
    assert raft_add(s.r, RaftChange(), 9, "9", cb("change")) == 0
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, cb("second")) == 0
    assert raft_barrier(s.r, RaftBarrier(), cb("barrier")) == 0
    assert raft_read_index(s.r, RaftReadIndex(), cb("read")) == 0
    assert raft_transfer(s.r, RaftTransfer(), 2, cb("transfer")) == 0


LOST = [f"{name} RAFT_LEADERSHIPLOST" for name in ("first", "second", "barrier", "change", "read")]


@pytest.mark.parametrize("deferring", [False, True])
def test_order_on_close(deferring: bool) -> None:
    """Transfer, requests as submitted, change, read, state; then io.close, and the close callback alone after it."""
    s = leader(deferring=deferring)
    events = told(s)
    submit_everything(s, events)
    raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, None)
    assert raft_close(s.r, lambda r: events.append("closed")) == 0
    assert events == ["transfer", *LOST[:-1], "read RAFT_SHUTDOWN", "leader → unavailable"]
    assert s.io.names()[-1] == "close"
    s.io.on_close(s.io)
    assert events[-1] == "closed"
    assert events.count("closed") == 1


@pytest.mark.parametrize("deferring", [False, True])
def test_order_at_a_step_down(deferring: bool) -> None:
    """Requests as submitted, the change, the read, the state; the transfer when its target leads."""
    s = leader(deferring=deferring)
    events = told(s)
    submit_everything(s, events)
    s.recv(msg.append_entries(3, 9, 1, 1))
    assert events == [*LOST, "leader → follower"]
    s.recv(msg.append_entries(2, 10, 1, 1))
    assert events[-1] == "transfer"


def test_order_when_a_write_fails() -> None:
    """The requests of the write with its status, the others after it, the change, the read, the state."""
    s = leader()
    events = told(s)
    submit_everything(s, events)
    s.io.finish_append(RAFT_IOERR)
    assert events == ["first RAFT_IOERR", *LOST[1:], "leader → follower"]


def test_order_when_a_server_stops_by_itself() -> None:
    """It is that of raft_close, but that the read is lost like all the rest."""
    s = leader()
    events = told(s)
    submit_everything(s, events)
    s.io.fail("set_term", RAFT_IOERR)
    depose(s)
    assert events == ["transfer", *LOST, "leader → unavailable"]


def test_order_when_a_call_was_interrupted() -> None:
    """Each request is called back with what its callback takes, though nothing else of the server is looked at."""
    s = leader()
    events = told(s)
    submit_everything(s, events)
    assert s.io.interrupted is not None
    s.io.interrupted(s.io, "interrupted in the middle")
    assert events == [*LOST, "transfer", "leader → unavailable"]
    assert s.io.reported == []


def test_the_callbacks_of_an_interrupted_server_get_their_own_arguments() -> None:
    """The transfer's has no status, the read's an index, the command's a result."""
    s = leader()
    seen: list[tuple[object, ...]] = []
    assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, lambda req, status, result: seen.append((result,))) == 0
    assert raft_barrier(s.r, RaftBarrier(), lambda req, status: seen.append(())) == 0
    assert raft_read_index(s.r, RaftReadIndex(), lambda req, status, index: seen.append((index,))) == 0
    assert raft_add(s.r, RaftChange(), 9, "9", lambda req, status: seen.append(())) == 0
    assert raft_transfer(s.r, RaftTransfer(), 2, lambda req: seen.append(())) == 0
    assert s.io.interrupted is not None
    s.io.interrupted(s.io, "interrupted in the middle")
    assert s.io.reported == []
    assert seen == [(None,), (), (), (0,), ()]


def test_order_when_a_leader_removes_itself() -> None:
    """Requests that it cannot answer any more are lost, then it steps down, then the removal has succeeded."""
    s = leader()
    events = told(s)
    assert raft_remove(s.r, RaftChange(), 1, lambda req, status: events.append(f"removed {status}")) == 0
    s.io.finish_appends()
    last = raft_last_index(s.r)
    raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, lambda req, status, result: events.append(f"command {status}"))
    for id in (2, 3):
        s.recv(msg.append_entries_result(id, s.r.current_term, last))
    assert events == [f"command {pyraft.RAFT_LEADERSHIPLOST}", "leader → follower", "removed 0"]

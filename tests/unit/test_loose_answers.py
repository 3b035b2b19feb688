"""Answers of another type than a table's annotations promise: what Python can take for a number or a tuple is taken.

Compiled modules test by themselves what functions with types return, so that the border has to ask without them.
"""

from array import array
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_LEADER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftHeap,
    RaftTransfer,
    calls,
    raft_add,
    raft_apply,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_heap_set,
    raft_heap_set_default,
    raft_init,
    raft_last_applied,
    raft_malloc,
    raft_recover,
    raft_register_state_cb,
    raft_set_snapshot_threshold,
    raft_start,
    raft_transfer,
)
from pyraft.fixture import RaftFixture, raft_fixture_grow, raft_fixture_init, raft_fixture_step_until
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, Statuses, command

IO = "init load start bootstrap recover set_term set_vote send append truncate snapshot_put snapshot_get time random"
IO += " async_work defer later check_address same_address check_configuration recovering recovered filling"
FSM = "apply apply_batch snapshot restore snapshot_async snapshot_finalize"


def loosen(table: Any, names: str) -> None:
    """Have functions of a table answer with floats for numbers and lists for tuples."""
    for name in names.split():
        function = getattr(table, name)
        if function is not None:
            setattr(table, name, lambda *args, function=function: loose(function(*args)))


def loose(answer: Any) -> Any:
    """Return an answer in other clothes."""
    if isinstance(answer, tuple):
        return [float(item) if isinstance(item, int) else item for item in answer]
    return float(answer) if isinstance(answer, int) else answer


def life(s: Solo) -> list[Any]:
    """Lead a server through everything that calls functions of its tables; return what it did and answered."""
    told: list[Any] = []
    assert raft_start(s.r) == 0
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([2, 2])))
    s.io.finish_appends()
    s.recv(msg.append_entries(2, 3, 1, 1, 1, msg.commands([3])))  # cuts what came last
    s.io.finish_appends()
    told.append(s.io.names())
    s.lead()
    raft_set_snapshot_threshold(s.r, 1)
    s.r.snapshot.trailing = 1
    command(s, 5, lambda req, status, result: told.append((status, result)))
    s.io.turn()
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, s.r.last_stored))
    s.io.finish_work()
    s.io.finish_put()
    s.recv(msg.append_entries_result(3, s.r.current_term, 0, rejected=3))
    s.recv(msg.append_entries_result(3, s.r.current_term, 0, rejected=1))
    s.tick()
    s.io.finish_get()
    s.recv(msg.install_snapshot(2, s.r.current_term + 1, 9, 3, s.conf, 1, fsms.content(7, 8)))
    s.io.finish_put()
    told += [s.io.names(), [message.type for message in s.sent()], s.fsm.x, s.fsm.n_finalized, raft_last_applied(s.r)]
    return told


@pytest.mark.parametrize("deferring", [False, True])
def test_numbers_and_sequences_of_other_types_will_do(deferring: bool) -> None:
    """A server whose tables answer loosely lives the same life as one with the types of the annotations."""
    lives = []
    for loosely in (False, True):
        s = Solo(start=False, deferring=deferring, fsm=fsms.PairFsm(3, snapshot_async=True))
        s.fsm.apply_batch = lambda fsm, bufs: (0, [fsm.apply(fsm, buf)[1] for buf in bufs])
        s.io.recovering = lambda io: False
        if loosely:
            loosen(s.io, IO)
            loosen(s.fsm, FSM)
        lives.append(life(s))
    assert lives[0] == lives[1]
    assert lives[0][1] == (0, (5, 0))
    assert {"truncate", "async_work", "snapshot_put", "snapshot_get"} <= {*lives[0][0], *lives[0][2]}
    assert lives[0][-3:] == [7, 1, 9]


@pytest.mark.parametrize("call", [raft_bootstrap, raft_recover, lambda r, conf: calls.recovered(r)])
def test_what_comes_once_may_answer_loosely(call: Callable[..., int]) -> None:
    """A float is a code, too."""
    s = Solo(start=False)
    s.io.recovered = lambda io: 0
    loosen(s.io, IO)
    assert call(s.r, s.conf) == 0


def test_callbacks_may_return_something() -> None:
    """The result of a callback means nothing, in every place that calls one."""
    s = Solo(start=False)
    number: Any = lambda r, old, new: 1  # noqa: E731
    raft_register_state_cb(s.r, number)
    assert raft_start(s.r) == 0
    s.lead()
    statuses = Statuses()

    def answer(*args: Any) -> Any:
        statuses(*args) if len(args) > 1 else statuses(args[0], 0)
        return "anything"

    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, answer) == 0
    assert raft_barrier(s.r, RaftBarrier(), answer) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, s.r.last_stored))
    assert raft_add(s.r, RaftChange(), 4, "4", answer) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, s.r.last_stored))
    assert raft_transfer(s.r, RaftTransfer(), 2, answer) == 0
    assert s.state == RAFT_LEADER
    assert raft_close(s.r, answer) == 0
    s.io.on_close(s.io)
    assert statuses.seen == [0] * 5
    assert s.io.reported == []


def test_commands_may_be_anything_that_has_memory() -> None:
    """They may be what no annotation names."""
    s = Solo()
    s.lead()
    assert raft_apply(s.r, RaftApply(), [array("Q", [fsms.ADD_X, 3])], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, s.r.last_stored))
    assert s.fsm.x == 3


def test_heap_may_give_any_memory() -> None:
    """An object that a user's heap calls memory is handed on as it is."""
    heap, memory = RaftHeap(), array("B", bytes(4))
    heap.malloc = lambda data, size: memory  # type: ignore[assignment, return-value]
    raft_heap_set(heap)
    try:
        given: object = raft_malloc(4)
        assert given is memory
    finally:
        raft_heap_set_default()


def test_fixture_stops_at_whatever_is_true() -> None:
    """The condition of raft_fixture_step_until need not be a bool."""
    f = RaftFixture()
    raft_fixture_init(f)
    assert raft_fixture_grow(f, fsms.PairFsm()) == 0
    assert raft_fixture_step_until(f, lambda f, arg: f.servers, None, 1)  # type: ignore[arg-type, return-value]


def test_server_of_another_class_is_one() -> None:
    """A Raft may be subclassed; its callbacks get it as it is."""

    class Named(Raft):
        def __init__(self) -> None:
            super().__init__()
            self.name = "mine"

    s, named, fresh = Solo(start=False), list[str](), Named()
    io = Solo(start=False).io
    assert raft_init(fresh, io, s.fsm, 1, "1") == 0
    raft_close(fresh, lambda r: named.append(r.name))
    io.on_close(io)
    assert named == ["mine"]

"""The calls that each callback may make, as the table of pyraft/CALLBACKS.md has it: tried, cell by cell.

Each cell is a world of its own, in which the callback calls the function once. The code returned there must be the one
in the table; a request that was taken must have been called back once when the server has been closed, and one that was
refused never.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import io_uv
import pyraft
from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftReadIndex,
    RaftSnapshot,
    RaftTransfer,
    fixture,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_close,
    raft_init,
    raft_last_index,
    raft_read_index,
    raft_register_state_cb,
    raft_remove,
    raft_set_snapshot_threshold,
    raft_start,
    raft_state,
    raft_transfer,
)
from pyraft.errors import code_name
from pyraft.types import STATE_NAMES
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, command, leader

TABLE = Path(pyraft.__file__).with_name("CALLBACKS.md")


class Probe:
    """Calls one function inside a callback, once; records raft_state, the returned code and later callbacks."""

    def __init__(self, function: str) -> None:
        self.function = function
        self.state = -1
        self.code = -1
        self.called_back = 0

    def __call__(self, s: Solo) -> None:
        """The callback under test has fired."""
        if self.state == -1:
            self.state = raft_state(s.r)
            self.code = self._call(s)

    @property
    def fired(self) -> bool:
        """Whether the callback has fired."""
        return self.state != -1

    def _done(self, *args: Any) -> None:
        self.called_back += 1

    def _call(self, s: Solo) -> int:
        calls: dict[str, Callable[[], int]] = {
            "raft_apply": lambda: raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, self._done),
            "raft_barrier": lambda: raft_barrier(s.r, RaftBarrier(), self._done),
            "raft_read_index": lambda: raft_read_index(s.r, RaftReadIndex(), self._done),
            "raft_add": lambda: raft_add(s.r, RaftChange(), 9, "9", self._done),
            "raft_assign": lambda: raft_assign(s.r, RaftChange(), 3, RAFT_SPARE, self._done),
            "raft_remove": lambda: raft_remove(s.r, RaftChange(), 3, self._done),
            "raft_transfer": lambda: raft_transfer(s.r, RaftTransfer(), 2, self._done),
            "raft_start": lambda: raft_start(s.r),
            "raft_init": lambda: raft_init(s.r, s.io, s.fsm, 1, "1"),
            "raft_close": lambda: raft_close(s.r, self._done),
        }
        return calls[self.function]()


REQUESTS = ("raft_apply", "raft_barrier", "raft_read_index", "raft_add", "raft_assign", "raft_remove", "raft_transfer")
OTHERS = ("raft_start", "raft_init", "raft_close")


def acknowledge(s: Solo, *ids: int) -> None:
    """Let our writes end and servers (2 by default) acknowledge the whole log."""
    s.io.finish_appends()
    for id in ids or (2,):
        s.recv(msg.append_entries_result(id, s.r.current_term, raft_last_index(s.r)))


def depose(s: Solo) -> None:
    """Let server 2 lead a later term."""
    s.recv(msg.append_entries(2, 9, 1, 1))


def wait(s: Solo, ticks: int) -> None:
    """Let time pass, with server 2 answering."""
    for _ in range(ticks):
        s.recv(msg.append_entries_result(2, s.r.current_term, raft_last_index(s.r)))
        s.tick()
        s.sent()


def submit(s: Solo, kind: str, probe: Probe) -> None:
    """Submit a request whose callback is the one under test."""
    if kind == "apply":
        assert raft_apply(s.r, RaftApply(), [fsms.set_x(1)], 1, lambda req, status, result: probe(s)) == 0
    elif kind == "barrier":
        assert raft_barrier(s.r, RaftBarrier(), lambda req, status: probe(s)) == 0
    elif kind == "read":
        assert raft_read_index(s.r, RaftReadIndex(), lambda req, status, index: probe(s)) == 0
    elif kind == "change":
        assert raft_add(s.r, RaftChange(), 4, "4", lambda req, status: probe(s)) == 0
    else:
        assert raft_transfer(s.r, RaftTransfer(), 2, lambda req: probe(s)) == 0


def succeeds(kind: str) -> Callable[[Probe], Solo]:
    def world(probe: Probe) -> Solo:
        s = leader()
        submit(s, kind, probe)
        acknowledge(s)
        return s

    return world


def ends(kind: str) -> Callable[[Probe], Solo]:
    def world(probe: Probe) -> Solo:
        s = leader()
        submit(s, kind, probe)
        depose(s)
        return s

    return world


def closes(kind: str) -> Callable[[Probe], Solo]:
    def world(probe: Probe) -> Solo:
        s = leader()
        submit(s, kind, probe)
        raft_close(s.r, None)
        return s

    return world


def removes_itself(probe: Probe) -> Solo:
    s = leader()
    assert raft_remove(s.r, RaftChange(), 1, lambda req, status: probe(s)) == 0
    acknowledge(s, 2, 3)
    return s


def write_fails(probe: Probe) -> Solo:
    s = leader()
    submit(s, "apply", probe)
    s.io.finish_append(RAFT_IOERR)
    return s


def too_slow(probe: Probe) -> Solo:
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, lambda req, status: probe(s)) == 0
    wait(s, 60)
    return s


def transfer_times_out(probe: Probe) -> Solo:
    s = leader()
    submit(s, "transfer", probe)
    wait(s, 12)
    return s


def transfer_works(probe: Probe) -> Solo:
    s = leader()
    submit(s, "transfer", probe)
    s.recv(msg.append_entries(2, 3, raft_last_index(s.r), 2))
    return s


def transfer_at_a_stop(probe: Probe) -> Solo:
    s = leader()
    submit(s, "transfer", probe)
    s.io.fail("set_term", RAFT_IOERR)
    depose(s)
    return s


def changes(old: int, new: int) -> Callable[[Probe], Solo]:
    def world(probe: Probe) -> Solo:
        def told(r: object, before: int, after: int) -> None:
            if (before, after) == (old, new):
                probe(s)

        s = Solo(start=False)
        raft_register_state_cb(s.r, told)
        assert raft_start(s.r) in (0, pyraft.RAFT_SHUTDOWN)
        if old != RAFT_UNAVAILABLE and new in (RAFT_CANDIDATE, RAFT_LEADER):
            s.stand()
            if not probe.fired:
                s.recv(msg.request_vote_result(2, s.r.current_term))
        elif old != RAFT_UNAVAILABLE:
            if old == RAFT_LEADER:
                s.lead()
            elif old == RAFT_CANDIDATE:
                s.stand()
            if new == RAFT_UNAVAILABLE:
                s.io.fail("set_term", RAFT_IOERR)
            depose(s)
        return s

    return world


def closing_changes(probe: Probe) -> Solo:
    s = leader()
    raft_register_state_cb(s.r, lambda r, old, new: probe(s))
    raft_close(s.r, None)
    return s


def is_closed(probe: Probe) -> Solo:
    s = leader()
    raft_close(s.r, lambda r: probe(s))
    s.io.on_close(s.io)
    return s


def hook(s: Solo, name: str, probe: Probe) -> None:
    """Have a function of the FSM be the callback under test, before it does its work."""
    function = getattr(s.fsm, name)

    def hooked(*args: Any) -> Any:
        probe(s)
        return function(*args)

    setattr(s.fsm, name, hooked)


def applies_as_leader(probe: Probe) -> Solo:
    s = leader()
    hook(s, "apply", probe)
    command(s)
    acknowledge(s)
    return s


def applies_as_follower(probe: Probe) -> Solo:
    s = Solo()
    hook(s, "apply", probe)
    s.recv(msg.append_entries(2, 1, 1, 1, 2, msg.commands([1])))
    s.io.finish_appends()
    return s


def batched(s: Solo) -> Solo:
    """Give the state machine an apply_batch."""
    s.fsm.apply_batch = lambda fsm, bufs: (0, [fsm.apply(fsm, buf)[1] for buf in bufs])
    return s


def applies_many_as_leader(probe: Probe) -> Solo:
    s = batched(leader())
    hook(s, "apply_batch", probe)
    command(s)
    command(s)
    acknowledge(s)
    return s


def applies_many_as_follower(probe: Probe) -> Solo:
    s = batched(Solo())
    hook(s, "apply_batch", probe)
    s.recv(msg.append_entries(2, 1, 1, 1, 3, msg.commands([1, 1])))
    s.io.finish_appends()
    return s


def succeeds_with_others(probe: Probe) -> Solo:
    s = batched(leader())
    submit(s, "apply", probe)
    command(s)
    acknowledge(s)
    return s


def applies_while_handing_over(probe: Probe) -> Solo:
    s = leader()
    hook(s, "apply", probe)
    command(s)
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    acknowledge(s)
    return s


def succeeds_while_handing_over(probe: Probe) -> Solo:
    s = leader()
    submit(s, "apply", probe)
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    acknowledge(s)
    return s


def applies_as_candidate(probe: Probe) -> Solo:
    """The rest of a piece is applied in a later turn, when the follower has become candidate."""
    s = Solo()
    rest: list[Callable[[], None]] = []

    def later(io: Any, fn: Callable[[], None]) -> int:
        rest.append(fn)
        return 0

    apply = s.fsm.apply

    def slow(fsm: Any, buf: Any) -> Any:
        s.io.now += 100
        if s.state == RAFT_CANDIDATE:
            probe(s)
        return apply(fsm, buf)

    s.io.later = later
    s.fsm.apply = slow
    s.recv(msg.append_entries(2, 1, 1, 1, 3, msg.commands([1, 1])))
    s.io.finish_appends()
    s.tick(2000)
    assert s.state == RAFT_CANDIDATE
    while rest:
        rest.pop(0)()
    return s


def leads_again(probe: Probe) -> Solo:
    s = leader()
    command(s)
    submit(s, "transfer", probe)
    s.recv(msg.append_entries(3, 3, 3, 2))
    s.io.finish_appends()
    s.recv(msg.timeout_now(3, 3, 3, 2))
    assert not probe.fired
    s.recv(msg.request_vote_result(2, 4))
    return s


def timeout_now_is_not_sent(probe: Probe) -> Solo:
    """The target had to catch up first."""
    s = leader()
    command(s)
    s.io.finish_appends()
    submit(s, "transfer", probe)
    s.io.fail("send", RAFT_IOERR)
    acknowledge(s)
    return s


def takes_snapshot_as_follower(name: str) -> Callable[[Probe], Solo]:
    def world(probe: Probe) -> Solo:
        s = Solo()
        hook(s, name, probe)
        raft_set_snapshot_threshold(s.r, 1)
        s.recv(msg.append_entries(2, 1, 1, 1, 2, msg.commands([1])))
        s.io.finish_appends()
        if s.io.puts:
            s.io.finish_put()
        return s

    return world


def gives_a_snapshot_up(probe: Probe) -> Solo:
    s = leader()
    hook(s, "snapshot_finalize", probe)
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    acknowledge(s)
    raft_close(s.r, None)
    s.io.finish_put(pyraft.RAFT_CANCELED)
    return s


def takes_snapshot(name: str) -> Callable[[Probe], Solo]:
    def world(probe: Probe) -> Solo:
        s = leader()
        hook(s, name, probe)
        raft_set_snapshot_threshold(s.r, 1)
        command(s)
        acknowledge(s)
        if s.io.puts:
            s.io.finish_put()
        return s

    return world


def restores_at_the_start(probe: Probe) -> Solo:
    s = Solo(start=False)
    s.io.stored_snapshot = found = RaftSnapshot()
    found.index = found.term = found.configuration_index = 1
    found.configuration = s.conf
    found.bufs = [bytes(16)]
    s.io.stored = []
    s.io.start_index = 2
    hook(s, "restore", probe)
    raft_start(s.r)
    return s


def restores_the_leaders(probe: Probe) -> Solo:
    s = Solo()
    hook(s, "restore", probe)
    s.recv(msg.install_snapshot(2, 1, 5, 1, s.conf, 1, bytes(16)))
    s.io.finish_put()
    return s


WORLDS: dict[str, Callable[[Probe], Solo]] = {
    "`raft_apply_cb`, status 0": succeeds("apply"),
    "`raft_apply_cb`, status 0, of a leader that is handing leadership over": succeeds_while_handing_over,
    "`raft_barrier_cb`, status 0": succeeds("barrier"),
    "`raft_read_index_cb`, status 0": succeeds("read"),
    "`raft_change_cb`, status 0": succeeds("change"),
    "`raft_change_cb`, status 0, of a leader that removed itself": removes_itself,
    "`raft_change_cb`, RAFT_NOCONNECTION": too_slow,
    "`raft_apply_cb`, RAFT_LEADERSHIPLOST": ends("apply"),
    "`raft_barrier_cb`, RAFT_LEADERSHIPLOST": ends("barrier"),
    "`raft_change_cb`, RAFT_LEADERSHIPLOST": ends("change"),
    "`raft_read_index_cb`, RAFT_LEADERSHIPLOST": ends("read"),
    "`raft_apply_cb`, the status of a failed write": write_fails,
    "`raft_transfer_cb`, the target has not taken over": transfer_times_out,
    "`raft_transfer_cb`, the TimeoutNow could not be sent": timeout_now_is_not_sent,
    "`raft_transfer_cb`, this server leads again": leads_again,
    "`raft_transfer_cb`, another server leads": transfer_works,
    "`raft_transfer_cb`, the server stops by itself": transfer_at_a_stop,
    "`raft_state_cb`, unavailable → follower": changes(RAFT_UNAVAILABLE, RAFT_FOLLOWER),
    "`raft_state_cb`, follower → candidate": changes(RAFT_FOLLOWER, RAFT_CANDIDATE),
    "`raft_state_cb`, candidate → leader": changes(RAFT_CANDIDATE, RAFT_LEADER),
    "`raft_state_cb`, candidate → follower": changes(RAFT_CANDIDATE, RAFT_FOLLOWER),
    "`raft_state_cb`, leader → follower": changes(RAFT_LEADER, RAFT_FOLLOWER),
    "`raft_state_cb`, leader → unavailable": changes(RAFT_LEADER, RAFT_UNAVAILABLE),
    "`raft_state_cb`, candidate → unavailable": changes(RAFT_CANDIDATE, RAFT_UNAVAILABLE),
    "`raft_state_cb`, follower → unavailable": changes(RAFT_FOLLOWER, RAFT_UNAVAILABLE),
    "`raft_transfer_cb`, inside `raft_close`": closes("transfer"),
    "`raft_apply_cb`, inside `raft_close`": closes("apply"),
    "`raft_barrier_cb`, inside `raft_close`": closes("barrier"),
    "`raft_change_cb`, inside `raft_close`": closes("change"),
    "`raft_read_index_cb`, inside `raft_close`": closes("read"),
    "`raft_state_cb`, inside `raft_close`": closing_changes,
    "`raft_close_cb`": is_closed,
    "`fsm.apply`, on a leader": applies_as_leader,
    "`fsm.apply`, on a leader that is handing leadership over": applies_while_handing_over,
    "`fsm.apply`, on a candidate": applies_as_candidate,
    "`fsm.apply`, on a follower": applies_as_follower,
    "`fsm.apply_batch`, on a leader": applies_many_as_leader,
    "`fsm.apply_batch`, on a follower": applies_many_as_follower,
    "`raft_apply_cb`, status 0, behind `fsm.apply_batch`": succeeds_with_others,
    "`fsm.snapshot`, on a leader": takes_snapshot("snapshot"),
    "`fsm.snapshot`, on a follower": takes_snapshot_as_follower("snapshot"),
    "`fsm.snapshot_finalize`, on a leader": takes_snapshot("snapshot_finalize"),
    "`fsm.snapshot_finalize`, on a follower": takes_snapshot_as_follower("snapshot_finalize"),
    "`fsm.snapshot_finalize`, behind `raft_close`": gives_a_snapshot_up,
    "`fsm.restore`, inside `raft_start`": restores_at_the_start,
    "`fsm.restore`, of the leader's snapshot": restores_the_leaders,
}


def table() -> dict[str, list[str]]:
    """Return the rows of the table: what comes in the column of the state, of requests, and of the other functions."""
    section = TABLE.read_text().split("## Calls from callbacks")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_table_has_all_that_is_tried_here() -> None:
    """No row is missing, and none is only claimed."""
    assert set(table()) == set(WORLDS)


def test_the_tables_have_every_callback() -> None:
    """Each type of a callback is named, and each function that takes one."""
    found = set()
    for module in (pyraft, io_uv, fixture):
        for name in module.__all__:
            value = getattr(module, name)
            takes_one = inspect.isfunction(value) and "Callable" in str(inspect.signature(value))
            if takes_one or re.search(r"_(cb|fn|dialer)$", name):
                found.add(name)
    names = ("apply", "apply_batch", "snapshot", "snapshot_async", "snapshot_finalize", "restore")
    found |= {f"fsm.{name}" for name in names}
    text = TABLE.read_text()
    assert {name for name in found if not re.search(rf"`{name}`", text)} == set()


@pytest.mark.parametrize("function", [*REQUESTS, *OTHERS])
@pytest.mark.parametrize("inside", WORLDS)
def test_call_from_a_callback(inside: str, function: str) -> None:
    """The state reads, and the function returns, what the table says, and nothing is forgotten afterwards."""
    state, requests, *others = table()[inside]
    expected = requests if function in REQUESTS else others[OTHERS.index(function)]
    probe = Probe(function)
    s = WORLDS[inside](probe)
    assert probe.fired
    assert STATE_NAMES[probe.state] == state
    assert (code_name(probe.code) if probe.code else "0") == expected
    assert s.io.reported == []
    if function in REQUESTS:
        raft_close(s.r, None)
        assert probe.called_back == (1 if probe.code == 0 else 0)
    elif function == "raft_close" and probe.code == 0:
        assert s.r.state == RAFT_UNAVAILABLE
        assert probe.called_back == 0
        s.io.on_close(s.io)
        assert probe.called_back == 1

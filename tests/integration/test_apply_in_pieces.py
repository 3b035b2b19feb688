"""A backlog that takes long to apply, or many reads to call back, are taken in pieces; with io.later others have their
turns between.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv import pyuv, segment
from pyraft import (
    RAFT_BUSY,
    RAFT_COMMAND,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_UNAVAILABLE,
    EntryBatch,
    RaftApply,
    RaftBarrier,
    RaftReadIndex,
    raft_apply,
    raft_barrier,
    raft_close,
    raft_init,
    raft_last_applied,
    raft_last_index,
    raft_read_index,
    raft_set_snapshot_threshold,
    raft_start,
    snapshot,
)
from pyraft.reads import SLICE_MSECS
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.reads import answer, asking_leader
from tests.lib.solo import Solo, Statuses, leader
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until


class Later:
    """io.later of a scripted world, whose state machine takes `msecs` for each command."""

    def __init__(self, s: Solo, msecs: int = SLICE_MSECS // 2) -> None:
        self.s = s
        self.waiting: list[Callable[[], None]] = []
        apply: Any = s.fsm.apply

        def slow(fsm: Any, buf: bytes) -> Any:
            s.io.now += msecs
            return apply(fsm, buf)

        s.fsm.apply = slow
        s.io.later = self.later

    def later(self, io: Any, fn: Callable[[], None]) -> int:
        """Note what is to be called."""
        self.waiting.append(fn)
        return 0

    def turn(self) -> int:
        """Call it; return what is applied then."""
        [fn] = self.waiting
        self.waiting.clear()
        fn()
        return raft_last_applied(self.s.r)

    def rest(self) -> None:
        """Call it until nothing is left."""
        while self.waiting:
            self.turn()


def backlog(n: int, cb: Any = None) -> tuple[Solo, Later]:
    """Return a leader that has committed n commands, entries 3 to n + 2, and begun to apply them."""
    s = leader()
    later = Later(s)
    bufs = [fsms.add_x(1)] * n
    for _ in bufs:
        assert raft_apply(s.r, RaftApply(), bufs, 1, cb) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, n + 2))
    return s, later


def test_backlog_is_applied_in_pieces_and_called_back_in_order() -> None:
    """As much is applied as fits a slice, then the rest has its turn; all that is committed meanwhile comes behind
    it.
    """
    called: list[int] = []
    s, later = backlog(7, lambda req, status, result: called.append(req.index))
    assert (raft_last_applied(s.r), s.r.commit_index) == (4, 9)
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, lambda req, status, result: called.append(req.index)) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 10))
    assert (raft_last_applied(s.r), s.r.commit_index) == (4, 10)
    assert [later.turn() for _ in range(3)] == [6, 8, 10]
    assert (later.waiting, called, s.fsm.x) == ([], list(range(3, 11)), 8)


def test_heartbeats_and_answers_go_out_between_the_pieces() -> None:
    """A leader keeps its followers, and a follower answers its leader, while they have much to apply."""
    s, later = backlog(9)
    s.sent()
    s.tick()
    assert sorted(message.server_id for message in s.sent()) == [2, 3]
    later.rest()
    s = Solo()
    later = Later(s)
    s.recv(msg.append_entries(2, 1, 1, 1, 10, msg.commands([1] * 9)))
    s.io.finish_appends()
    assert s.reply().append_entries_result.last_log_index == 10
    assert raft_last_applied(s.r) == 3
    s.recv(msg.append_entries(2, 1, 10, 1, 10))
    assert s.reply().append_entries_result.last_log_index == 10
    assert raft_last_applied(s.r) == 3
    later.rest()
    assert raft_last_applied(s.r) == 10


def test_one_long_command_after_the_other_takes_a_turn_each() -> None:
    """However long one takes, the next one waits; and one is applied in each turn."""
    s = leader()
    later = Later(s, 40 * SLICE_MSECS)
    for _ in range(3):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 5))
    assert raft_last_applied(s.r) == 3
    assert [later.turn(), later.turn()] == [4, 5]


def test_commands_of_one_event_count_together() -> None:
    """Many messages that are handled without a pause commit one entry each; they have one slice."""
    s = Solo()
    later = Later(s)
    for index in range(2, 10):
        s.recv(msg.append_entries(2, 1, index - 1, 1, index, msg.commands([1])))
        s.io.finish_append()
    assert raft_last_applied(s.r) == 3
    later.rest()
    assert raft_last_applied(s.r) == 9
    s.io.now += 5
    s.recv(msg.append_entries(2, 1, 9, 1, 10, msg.commands([1])))
    s.io.finish_append()
    assert (raft_last_applied(s.r), later.waiting) == (10, [])


def test_quick_commands_need_no_turns() -> None:
    """As long as no time passes nothing waits, and the clock is looked at ever more rarely."""
    s = leader()
    Later(s, 0)
    asked: list[int] = []
    clock = s.io.time
    s.io.time = lambda io: asked.append(1) or clock(io)
    for _ in range(2000):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    asked.clear()
    s.recv(msg.append_entries_result(2, 2, 2002))
    assert raft_last_applied(s.r) == 2002
    assert len(asked) < 100


def test_barrier_waits_for_the_backlog_before_it() -> None:
    """It is called back when all that was committed before is applied."""
    s, later = backlog(5)
    statuses = Statuses()
    assert raft_barrier(s.r, RaftBarrier(), statuses) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 8))
    while later.waiting:
        assert statuses.seen == []
        later.turn()
    assert (statuses.seen, raft_last_applied(s.r)) == ([0], 8)


def test_leader_that_steps_down_goes_on_applying() -> None:
    """The commands that are not applied yet are called back as those of any leader that loses office."""
    statuses = Statuses()
    s, later = backlog(6, statuses)
    s.recv(msg.append_entries(2, 3, 8, 2, 8))
    assert (s.state, statuses.seen) == (RAFT_FOLLOWER, [0] * 2 + [RAFT_LEADERSHIPLOST] * 4)
    later.rest()
    assert (raft_last_applied(s.r), s.fsm.x) == (8, 6)


def test_server_that_is_closed_meanwhile_applies_no_more() -> None:
    """A call by io.later does nothing by then, to the server that is made anew in its place neither."""
    s, later = backlog(6)
    [fn] = later.waiting
    raft_close(s.r, None)
    fn()
    assert (s.state, s.fsm.x) == (RAFT_UNAVAILABLE, 2)
    s.io.on_close(s.io)
    assert raft_init(s.r, s.io, s.fsm, 1, "1") == 0
    assert raft_start(s.r) == 0
    fn()
    assert (s.state, s.fsm.x) == (RAFT_FOLLOWER, 2)


@pytest.mark.parametrize("raising", [True, False])
def test_state_machine_that_fails_in_a_later_piece_stops_a_follower(raising: bool) -> None:
    """It does as in the piece that a message brings; a leader whose machine returns a code tries again."""
    s = Solo()
    later = Later(s)
    s.recv(msg.append_entries(2, 1, 1, 1, 10, msg.commands([1] * 9)))
    s.io.finish_appends()
    s.fsm.apply = lambda fsm, buf: fsms.missing(fsm) if raising else (RAFT_IOERR, None)
    later.turn()
    assert (s.state, later.waiting) == (RAFT_UNAVAILABLE, [])


def test_leader_whose_state_machine_returns_a_code_in_a_later_piece_tries_again() -> None:
    """It does so with the next answer, as in C."""
    s, later = backlog(6)
    apply = s.fsm.apply
    s.fsm.apply = lambda fsm, buf: (RAFT_IOERR, None)
    later.turn()
    assert (s.state, later.waiting) == (RAFT_LEADER, [])
    s.fsm.apply = apply
    s.recv(msg.append_entries_result(3, 2, 8))
    later.rest()
    assert raft_last_applied(s.r) == 8


def test_snapshot_is_taken_when_the_backlog_is_applied() -> None:
    """It is not taken after each piece, which would stop the world too, but behind what was committed at first."""
    s, later = backlog(8)
    raft_set_snapshot_threshold(s.r, 4)
    for index in range(11, 15):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
        s.io.finish_appends()
        s.recv(msg.append_entries_result(2, 2, index))
    applied = []
    while s.fsm.n_snapshots == 0:
        applied.append(later.turn())
    assert applied == [6, 8, 10]
    later.rest()
    assert raft_last_applied(s.r) == 14


def test_snapshot_that_is_installed_meanwhile_takes_the_place_of_the_backlog() -> None:
    """If it is not installed, the backlog goes on with the next heartbeat."""
    for status in (0, RAFT_IOERR):
        s = Solo()
        later = Later(s)
        s.recv(msg.append_entries(2, 1, 1, 1, 10, msg.commands([1] * 9)))
        s.io.finish_appends()
        s.recv(msg.install_snapshot(2, 1, 20, 1, s.conf, 1, fsms.content(50, 0)))
        assert (later.turn(), later.waiting) == (3, [])
        s.io.finish_put(status)
        if status == 0:
            assert (raft_last_applied(s.r), s.fsm.x) == (20, 50)
            continue
        s.recv(msg.append_entries(2, 1, 10, 1, 10))
        later.rest()
        assert raft_last_applied(s.r) == 10


def leader_with_backlog() -> tuple[Solo, Later]:
    """A leader whose entries 3 to 8 the others have: none is on its own disk yet, and it has applied 4."""
    s = leader()
    later = Later(s)
    for _ in range(6):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    for id in (2, 3):
        s.recv(msg.append_entries_result(id, 2, 8))
    assert raft_last_applied(s.r) == 4
    return s, later


def test_entries_of_the_backlog_that_the_own_disk_loses_are_applied_when_they_come_again() -> None:
    """They are committed, so the commit index does not tell that they are back."""
    s, later = leader_with_backlog()
    for _ in range(4):
        s.io.finish_append()
    s.io.finish_append(RAFT_IOERR)
    later.rest()
    assert raft_last_applied(s.r) == 6
    s.recv(msg.append_entries(2, 3, 6, 2, 8, msg.commands([2, 2])))
    s.io.finish_append(RAFT_IOERR)  # Of what the leader of before had submitted.
    s.io.finish_appends()
    later.rest()
    assert raft_last_applied(s.r) == 8


def test_no_snapshot_ends_with_an_entry_that_the_own_disk_has_lost() -> None:
    """Its term is unknown. There is a snapshot when the leader has sent the entry again."""
    s, later = leader_with_backlog()
    raft_set_snapshot_threshold(s.r, 2)
    s.io.finish_append()
    s.io.finish_append(RAFT_IOERR)
    later.rest()
    assert snapshot.take_now(s.r) == RAFT_BUSY
    assert (raft_last_index(s.r), s.fsm.n_snapshots, s.io.puts) == (3, 0, [])
    s.recv(msg.append_entries(2, 3, 3, 2, 8, msg.commands([2] * 5)))
    for _ in range(4):
        s.io.finish_append(RAFT_IOERR)  # The writes of the former leader.
    s.io.finish_appends()
    later.rest()
    assert (raft_last_applied(s.r), s.fsm.n_snapshots) == (8, 1)
    assert [put[2].term for put in s.io.puts] == [2]


def test_io_that_calls_nothing_later_any_more_gets_all_at_once() -> None:
    """A code of io.later does not leave entries behind."""
    s = leader()
    Later(s)
    s.io.later = lambda io, fn: RAFT_IOERR
    for _ in range(6):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 8))
    assert raft_last_applied(s.r) == 8


def slow_reads(n: int) -> tuple[Solo, Later, list[tuple[int, int]]]:
    """Return a leader of which n reads were asked and confirmed, each of which takes half a slice to be called back."""
    s = asking_leader()
    later = Later(s)
    called: list[tuple[int, int]] = []
    for i in range(n):

        def cb(req: RaftReadIndex, status: int, index: int, i: int = i) -> None:
            s.io.now += SLICE_MSECS // 2
            called.append((i, status))

        assert raft_read_index(s.r, RaftReadIndex(), cb) == 0
    s.recv(answer(2, 1))  # The first one had a round of its own.
    s.recv(answer(2, 2))
    return s, later, called


def test_many_reads_are_called_back_in_pieces_and_in_order() -> None:
    """A round may have any number of them; the rest has its turns, and heartbeats go out between."""
    s, later, called = slow_reads(8)
    assert called == [(i, 0) for i in range(3)]
    s.sent()
    s.tick()
    assert sorted(message.server_id for message in s.sent()) == [2, 3]
    later.turn()
    assert called == [(i, 0) for i in range(5)]
    late: list[int] = []
    assert raft_read_index(s.r, RaftReadIndex(), lambda req, status, index: late.append(len(called))) == 0
    s.recv(answer(2, 3))
    assert len(called) == 5
    later.rest()
    assert (called, late) == ([(i, 0) for i in range(8)], [8])


def test_reads_that_have_no_turn_before_the_leadership_ends_fail() -> None:
    """They fail as others do that are under way then; all that io.later calls by then does nothing."""
    s, later, called = slow_reads(8)
    s.recv(msg.append_entries(3, 5, 2, 2, 2))
    assert s.state == RAFT_FOLLOWER
    assert called == [(i, 0 if i < 3 else RAFT_LEADERSHIPLOST) for i in range(8)]
    later.rest()
    assert len(called) == 8


def test_reads_are_called_back_at_once_by_an_io_that_calls_nothing_later() -> None:
    """A code of io.later does not keep them waiting."""
    s = asking_leader()
    Later(s)
    s.io.later = lambda io, fn: RAFT_IOERR
    called: list[int] = []

    def cb(req: RaftReadIndex, status: int, index: int) -> None:
        s.io.now += SLICE_MSECS
        called.append(status)

    for _ in range(4):
        assert raft_read_index(s.r, RaftReadIndex(), cb) == 0
    s.recv(answer(2, 1))
    s.recv(answer(2, 2))
    assert called == [0] * 4


def test_start_with_a_long_log_leaves_the_loop_its_turns(tmp_path: Path) -> None:
    """The only voter commits all of it at once, and applies it while timers fire and others are served."""
    loop = pyuv.Loop()
    Node(tmp_path, 1, members := free_addresses(1), loop).start().close()
    node = Node(tmp_path, 1, members, loop)
    segment.write_closed(str(tmp_path), 2, [EntryBatch([1] * 200, [RAFT_COMMAND] * 200, [bytes(8)] * 200)])
    apply = node.fsm.apply

    def slow(fsm: Any, buf: bytes) -> Any:
        time.sleep(0.002)
        return apply(fsm, buf)

    node.fsm.apply = slow
    node.start()
    assert node.state == RAFT_LEADER
    assert len(node.fsm.numbers) < 100
    ticks: list[int] = []
    timer = pyuv.Timer(loop)
    timer.start(lambda _: ticks.append(len(node.fsm.numbers)), 0.02, 0.02)
    run_until(loop, lambda: len(node.fsm.numbers) == 200)
    timer.close()
    assert len(ticks) > 5
    assert max(b - a for a, b in itertools.pairwise(ticks)) < 100
    node.close()

"""An I/O table that offers `defer`: what is applied in one loop turn goes out together at its end.

One io.append and one AppendEntries per follower for all commands of the turn; all that else moves the core gives them
out first, so that the order of I/O calls is the C library's.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOCONNECTION,
    RAFT_NOSPACE,
    RAFT_SPARE,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftTransfer,
    convert,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_close,
    raft_errmsg,
    raft_last_index,
    raft_remove,
    raft_transfer,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, configuration


class Applied:
    """A command under way and the statuses that its callback got."""

    def __init__(self, s: Solo, *commands: bytes) -> None:
        self.req = RaftApply()
        self.statuses: list[int] = []
        self.rv = raft_apply(s.r, self.req, list(commands) or [fsms.add_x(1)], len(commands) or 1, self)

    def __call__(self, req: RaftApply, status: int, result: Any) -> None:
        assert req is self.req
        self.statuses.append(status)


def leader(*roles: int, streaming: bool = True) -> Solo:
    """Return a leader on an I/O table with `defer`, both followers up to date and in pipeline mode."""
    s = Solo(*roles, deferring=True)
    s.lead()
    if streaming:
        s.recv(msg.append_entries_result(3, 2, 2))
    s.io.turn()
    s.sent()
    s.io.calls.clear()
    return s


def calls(s: Solo) -> list[tuple[Any, ...]]:
    """Return the calls of the I/O table since the last time, without the asking to be deferred."""
    noted = [call for call in s.io.calls if call[0] != "defer"]
    s.io.calls.clear()
    return noted


ROUND = [("send", RAFT_IO_APPEND_ENTRIES, 2), ("send", RAFT_IO_APPEND_ENTRIES, 3)]


def test_commands_of_a_turn_go_out_together() -> None:
    """Three raft_apply calls of five entries make one write and one message per follower, at the end of the turn."""
    s = leader()
    requests = [Applied(s), Applied(s, *[fsms.add_x(n) for n in (1, 2, 3)]), Applied(s)]
    assert [p.rv for p in requests] == [0, 0, 0]
    assert [p.req.index for p in requests] == [3, 4, 7]
    assert raft_last_index(s.r) == 7
    assert calls(s) == []
    s.io.turn()
    assert calls(s) == [("append", 5), *ROUND]
    for m in s.sent():
        assert (m.append_entries.prev_log_index, m.append_entries.n_entries) == (2, 5)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 7))
    assert [p.statuses for p in requests] == [[0], [0], [0]]
    assert s.fsm.x == 1 + 6 + 1


def test_turns_without_commands_do_nothing() -> None:
    """The end of a turn in which everything went out already has nothing to give out."""
    s = leader()
    Applied(s)
    fn = s.io.deferred
    s.io.turn()
    calls(s)
    assert fn is not None
    fn()
    assert calls(s) == []


def test_every_turn_starts_anew() -> None:
    """After a turn the next command is deferred to the end of its own turn."""
    s = leader()
    for index in (3, 4, 5):
        Applied(s)
        assert s.io.deferred is not None
        s.io.turn()
        assert calls(s) == [("append", 1), *ROUND]
        assert raft_last_index(s.r) == index


def test_without_defer_everything_goes_out_at_once() -> None:
    """An I/O table without defer gets each command as libraft gives it."""
    s = Solo()
    s.lead()
    s.recv(msg.append_entries_result(3, 2, 2))
    s.sent()
    for _ in range(2):
        Applied(s)
        assert calls(s) == [("append", 1), *ROUND]


def test_refused_commands_leave_no_trace() -> None:
    """The error that defer returns is raft_apply's, and the log and the requests are as before."""
    s = leader()
    first = Applied(s)
    s.io.fail("defer", RAFT_NOSPACE)
    second = Applied(s)
    assert second.rv == RAFT_NOSPACE
    assert raft_errmsg(s.r) == "io: defer failed"
    assert raft_last_index(s.r) == 3
    s.io.fail("defer", RAFT_INVALID)
    assert Applied(s, b"123456789").rv == RAFT_INVALID
    third = Applied(s)
    assert third.req.index == 4
    s.io.turn()
    assert calls(s) == [("append", 2), *ROUND]
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 4))
    assert (first.statuses, second.statuses, third.statuses) == ([0], [], [0])


def test_error_of_a_deferred_write_counts_as_its_completion() -> None:
    """The callbacks get the code that io.append returns at the end of the turn; the leader steps down."""
    s = leader()
    requests = [Applied(s), Applied(s)]
    s.io.fail("append", RAFT_NOSPACE)
    s.io.turn()
    assert [p.statuses for p in requests] == [[RAFT_NOSPACE], [RAFT_NOSPACE]]
    assert s.state == RAFT_FOLLOWER
    assert raft_last_index(s.r) == 2
    assert calls(s) == [("append", 2)]


def test_error_of_a_second_batch_leaves_the_first() -> None:
    """If the entries of a turn need two writes and the second is refused, only its own requests get the error."""
    s = leader()
    first = Applied(s, *[fsms.add_x(1)] * 32768)
    second = Applied(s)
    s.io.fail("append", 0, RAFT_IOERR)
    s.io.turn()
    assert (first.statuses, second.statuses) == ([RAFT_LEADERSHIPLOST], [RAFT_IOERR])
    assert s.state == RAFT_FOLLOWER
    assert raft_last_index(s.r) == 2 + 32768


@pytest.mark.parametrize(
    ("payload", "n", "batches"),
    [(0, 65537, [65536, 1]), (16, 32769, [32768, 1]), (1 << 18, 9, [3, 3, 3]), (1 << 21, 2, [1, 1]), (8, 200, [200])],
)
def test_a_write_is_bounded(payload: int, n: int, batches: list[int]) -> None:
    """A write of deferred entries has at most 65536 of them and 1 MiB, headers included, but at least one."""
    s = leader()
    half = n // 2
    for part in (half, n - half):
        assert Applied(s, *[bytes(payload)] * part).rv == 0
    s.io.turn()
    assert [call[1] for call in calls(s) if call[0] == "append"] == batches


# Events that give out the deferred commands first.

REMOTE = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)

MOVERS: dict[str, Callable[[Solo], Any]] = {
    "tick": lambda s: s.tick(),
    "raft_add": lambda s: raft_add(s.r, RaftChange(), 4, "4", None),
    "raft_remove": lambda s: raft_remove(s.r, RaftChange(), 3, None),
    "raft_assign": lambda s: raft_assign(s.r, RaftChange(), 3, RAFT_SPARE, None),
    "raft_transfer": lambda s: raft_transfer(s.r, RaftTransfer(), 2, None),
    "raft_close": lambda s: raft_close(s.r, None),
    "AppendEntries": lambda s: s.recv(msg.append_entries(3, 9, 2, 2)),
    "stale AppendEntries": lambda s: s.recv(msg.append_entries(3, 1, 1, 1)),
    "RequestVote": lambda s: s.recv(msg.request_vote(3, 1, 1, 1)),
    "disrupting RequestVote": lambda s: s.recv(msg.request_vote(3, 9, 9, 9, disrupt=True)),
    "InstallSnapshot": lambda s: s.recv(msg.install_snapshot(3, 9, 9, 9, REMOTE, 1, fsms.content(0, 0))),
    "TimeoutNow": lambda s: s.recv(msg.timeout_now(3, 2, 3, 2)),
    "result of a higher term": lambda s: s.recv(msg.append_entries_result(3, 9, 2)),
}


@pytest.mark.parametrize("mover", MOVERS)
def test_whatever_moves_the_core_gives_out_first(mover: str) -> None:
    """Ticks, requests of other servers, changes, transfers, steps down and close find nothing left to give out."""
    s = leader()
    Applied(s)
    Applied(s)
    assert calls(s) == []
    MOVERS[mover](s)
    made = calls(s)
    assert made[0] in (("append", 2), ("append", 3))
    assert made[1:3] == ROUND
    assert [call for call in made[3:] if call[0] == "append" and call[1] >= 2] == []
    fn = s.io.deferred
    if fn is not None:
        fn()
        assert calls(s) == []


def test_barriers_of_a_turn_go_out_with_its_commands() -> None:
    """One write and one message per follower; each is called back in its place."""
    s = leader()
    seen: list[tuple[int, int]] = []

    def cb(req: RaftApply | RaftBarrier, status: int, result: Any = None) -> None:
        seen.append((req.index, status))

    for _ in range(3):
        assert raft_barrier(s.r, RaftBarrier(), cb) == 0
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, cb) == 0
    assert calls(s) == []
    s.io.turn()
    assert calls(s) == [("append", 6), *ROUND]
    s.io.finish_append()
    s.recv(msg.append_entries_result(2, 2, 8))
    assert seen == [(index, 0) for index in range(3, 9)]


def test_a_barrier_that_cannot_be_deferred_or_stored_is_told() -> None:
    """The code of io.defer is returned; that of the late io.append comes back with the callback."""
    s = leader()
    statuses: list[int] = []
    s.io.fail("defer", RAFT_NOSPACE)
    assert raft_barrier(s.r, RaftBarrier(), lambda req, status: statuses.append(status)) == RAFT_NOSPACE
    assert (raft_last_index(s.r), statuses) == (2, [])
    assert raft_barrier(s.r, RaftBarrier(), lambda req, status: statuses.append(status)) == 0
    s.io.fail("append", RAFT_IOERR)
    s.io.turn()
    assert (statuses, s.state) == ([RAFT_IOERR], RAFT_FOLLOWER)


def test_results_do_not_give_out() -> None:
    """A follower's result is digested at once, but what it makes due waits for the end of the turn."""
    s = leader()
    first = Applied(s)
    s.io.turn()
    s.sent()
    s.io.finish_appends()
    calls(s)
    Applied(s)
    s.recv(msg.append_entries_result(2, 2, 3))
    assert first.statuses == [0]
    assert calls(s) == []
    s.io.turn()
    assert calls(s) == [("append", 1), *ROUND]


def test_completed_writes_do_not_give_out() -> None:
    """A write that ends is digested at once, and commands applied in its callbacks wait for the end of the turn."""
    s = leader()
    seen: list[int] = []

    def again(req: RaftApply, status: int, result: Any) -> None:
        seen.append(status)
        if len(seen) < 3:
            assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, again) == 0

    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, again) == 0
    for n in range(3):
        s.io.turn()
        assert calls(s) == [("append", 1), *ROUND]
        s.recv(msg.append_entries_result(2, 2, 3 + n))
        assert len(seen) == n
        s.io.finish_append()
        assert len(seen) == n + 1
        assert calls(s) == []


def test_promotion_gives_out_first() -> None:
    """When a result completes a promotion the commands go first, then the change."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE, streaming=False)
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, None) == 0
    s.sent()
    calls(s)
    Applied(s)
    s.recv(msg.append_entries_result(3, 2, 2))
    names = [call[0] for call in calls(s)]
    assert names.count("append") == 2
    assert names[0] == "append"
    (_r1, commands, _cb1), (_r2, change, _cb2) = s.io.appends
    assert [e.type for e in commands] == [1]
    assert [e.type for e in change] == [3]
    assert [server.role for server in s.r.configuration.servers] == [RAFT_VOTER] * 3


def test_leader_that_steps_down_gives_out_in_its_term() -> None:
    """Commands of the turn are sent and written in the term in which they were accepted, then lose their leader."""
    s = leader()
    p = Applied(s)
    s.recv(msg.append_entries(3, 9, 2, 2))
    assert s.state == RAFT_FOLLOWER
    assert p.statuses == [RAFT_LEADERSHIPLOST]
    sent = [m.append_entries for m in s.sent() if m.append_entries is not None]
    assert [a.term for a in sent] == [2, 2]
    assert [e.term for e in s.io.appends[0][1]] == [2]


def test_close_gives_out_and_fails_what_waits() -> None:
    """raft_close writes the commands of the turn, then tells their callbacks that leadership is lost."""
    s = leader()
    p = Applied(s)
    closed: list[Any] = []
    raft_close(s.r, closed.append)
    assert p.statuses == [RAFT_LEADERSHIPLOST]
    assert s.state == RAFT_UNAVAILABLE
    assert [call[0] for call in calls(s)] == ["append", "send", "send", "close"]
    s.io.on_close(s.io)
    assert closed == [s.r]
    s.io.turn()
    assert calls(s) == []


def test_stop_gives_out_and_fails_what_waits() -> None:
    """A leader that stops for any other reason writes the commands of the turn as raft_close does."""
    s = leader()
    p = Applied(s)
    convert.to_unavailable(s.r)
    assert p.statuses == [RAFT_LEADERSHIPLOST]
    assert [call[0] for call in calls(s)] == ["append", "send", "send"]


def test_write_that_fails_drops_what_was_deferred_behind_it() -> None:
    """Commands deferred behind a failing write lose their leader, and are not written in the place of what failed."""
    s = leader()
    first = Applied(s)
    s.io.turn()
    calls(s)
    second = Applied(s)
    s.io.finish_append(RAFT_IOERR)
    assert first.statuses == [RAFT_IOERR]
    assert second.statuses == [RAFT_LEADERSHIPLOST]
    assert s.state == RAFT_FOLLOWER
    assert raft_last_index(s.r) == 2
    assert ("append", 1) not in calls(s)


def test_single_voter_defers_too() -> None:
    """Without followers the turn's commands are one write."""
    s = Solo(RAFT_VOTER, deferring=True)
    assert s.state == RAFT_LEADER
    requests = [Applied(s) for _ in range(5)]
    assert calls(s) == []
    s.io.turn()
    assert calls(s) == [("append", 5)]
    s.io.finish_appends()
    assert [p.statuses for p in requests] == [[0]] * 5


def play(s: Solo, rng: random.Random, steps: int) -> list[tuple[Any, ...]]:
    """Do random things to a leader, ending the turn after every command; return the calls of its I/O table."""
    s.lead()
    for _ in range(steps):
        kind = rng.randrange(10)
        if kind < 4:
            bufs = [fsms.add_x(1)] * rng.randrange(1, 4)
            raft_apply(s.r, RaftApply(), bufs, len(bufs), None)
            s.io.turn()
        elif kind < 6:
            last = raft_last_index(s.r)
            acknowledged = rng.randrange(max(1, last - 3), last + 1)
            s.recv(msg.append_entries_result(rng.choice((2, 3)), s.r.current_term, acknowledged))
        elif kind == 6:
            s.tick()
        elif kind == 7:
            s.io.finish_sends(rng.choice((0, 0, RAFT_NOCONNECTION)))
        elif kind == 8 and s.io.appends:
            s.io.finish_append()
        else:
            raft_barrier(s.r, RaftBarrier(), None)
            s.io.turn()
        if s.state != RAFT_LEADER and not s.io.appends:
            break
    return [call for call in s.io.calls if call[0] != "defer"]


@pytest.mark.parametrize("seed", range(20))
def test_turns_of_one_command_are_what_c_does(seed: int) -> None:
    """With one command in each turn the calls are, one by one, those of an I/O table without defer."""
    played = [play(Solo(deferring=deferring), random.Random(seed), 150) for deferring in (False, True)]
    assert played[0] == played[1], f"seed {seed}"
    assert len(played[0]) > 50, f"seed {seed}"


def test_a_leaders_writes_may_wait_for_the_messages_and_a_followers_may_not() -> None:
    """The followers have the longer way to a commit (10.2.1), and what a follower writes is waited for."""
    s = leader()
    Applied(s)
    s.io.turn()
    raft_barrier(s.r, RaftBarrier(), None)
    s.io.turn()
    assert [req.may_wait for req, _, _ in s.io.appends] == [True, True]
    s.io.finish_appends()
    term = s.r.current_term + 1
    s.recv(msg.append_entries(2, term, s.r.last_stored, s.r.current_term, entries=msg.commands([term])))
    assert [req.may_wait for req, _, _ in s.io.appends] == [False]

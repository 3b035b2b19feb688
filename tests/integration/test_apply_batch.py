"""fsm.apply_batch (ours): commands that stand side by side in one call come to what they come to one by one.

pyraft/README.md names the difference: all commands of a call are applied before the first of them is called back.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftApply,
    RaftBarrier,
    RaftReadIndex,
    raft_apply,
    raft_barrier,
    raft_close,
    raft_errmsg,
    raft_last_applied,
    raft_last_index,
    raft_read_index,
    snapshot,
)
from pyraft.reads import SLICE_MSECS
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, command, leader


def batching(s: Solo, calls: list[int] | None = None) -> Solo:
    """Give the state machine an apply_batch, which notes how many commands each call brings."""
    sizes = [] if calls is None else calls

    def apply_batch(fsm: Any, bufs: list[bytes]) -> tuple[int, list[Any]]:
        sizes.append(len(bufs))
        results: list[Any] = []
        for buf in bufs:
            rv, result = fsm.apply(fsm, buf)
            if rv != 0:
                return rv, results
            results.append(result)
        return 0, results

    s.fsm.apply_batch = apply_batch
    return s


def commit(s: Solo, index: int = 0) -> None:
    """Store everything and have server 2 acknowledge it, up to `index` or all."""
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, index or raft_last_index(s.r)))


Told = list[tuple[int, int, Any]]


def teller(told: Told, number: int) -> Callable[[Any, int, Any], None]:
    return lambda req, status, result: told.append((number, status, result))


@pytest.mark.parametrize("seed", range(20))
def test_a_server_with_it_lives_the_life_of_one_without(seed: int) -> None:
    """Commands and barriers in calls of any size: state, callbacks, their order and results, and indexes are equal."""
    lives = []
    sizes: list[int] = []
    for batched in (False, True):
        draw = random.Random(seed)
        s = leader()
        if batched:
            batching(s, sizes)
        told: Told = []
        for number in range(30):
            if draw.random() < 0.2:
                cb: Any = teller(told, number)
                assert raft_barrier(s.r, RaftBarrier(), lambda req, status, cb=cb: cb(req, status, None)) == 0
            else:
                bufs = [fsms.add_x(draw.randint(1, 9)) for _ in range(draw.randint(1, 5))]
                assert raft_apply(s.r, RaftApply(), bufs, len(bufs), teller(told, number)) == 0
            if draw.random() < 0.3:
                commit(s, draw.randint(s.r.commit_index, raft_last_index(s.r)))
        commit(s)
        assert not s.r.apply.owed
        lives.append((told, s.fsm.applied, s.fsm.x, raft_last_applied(s.r)))
    assert lives[0] == lives[1]
    assert [number for number, _, _ in lives[0][0]] == list(range(30))
    assert max(sizes) > 3
    assert min(sizes) > 1


def test_a_follower_gets_batches_and_one_command_goes_to_apply() -> None:
    """A call brings two commands or more; barriers and configurations stand between calls."""
    sizes: list[int] = []
    s = batching(Solo(), sizes)
    s.recv(msg.append_entries(2, 1, 1, 1, 6, msg.commands([1] * 5)))
    s.io.finish_appends()
    assert (sizes, len(s.fsm.applied), raft_last_applied(s.r)) == ([5], 5, 6)
    s.recv(msg.append_entries(2, 1, 6, 1, 7, msg.commands([1])))
    s.io.finish_appends()
    assert (sizes, len(s.fsm.applied), raft_last_applied(s.r)) == ([5], 6, 7)


def test_all_are_applied_before_the_first_is_called_back() -> None:
    """raft_last_applied says so, and a snapshot that a callback asks for has all of them."""
    s = batching(leader())
    seen: list[tuple[int, int, int]] = []

    def cb(req: RaftApply, status: int, result: Any) -> None:
        seen.append((req.index, raft_last_applied(s.r), s.fsm.x))
        if req.index == 3:
            assert snapshot.take_now(s.r) == 0

    for _ in range(3):
        command(s, cb=cb)
    commit(s)
    assert seen == [(3, 5, 3), (4, 5, 3), (5, 5, 3)]
    [(_, _, taken, _)] = s.io.puts
    assert (taken.index, list(taken.bufs)) == (5, [fsms.content(3, 0)])


def test_a_code_in_the_middle_applies_those_before_it() -> None:
    """They are called back, the one that failed is tried again, and nothing behind it is applied."""
    sizes: list[int] = []
    s = batching(leader(), sizes)
    good, bad = s.fsm.apply, [fsms.add_x(3)]
    s.fsm.apply = lambda fsm, buf: (RAFT_IOERR, None) if buf in bad else good(fsm, buf)
    told: Told = []
    for number in range(1, 6):
        command(s, number, teller(told, number))
    commit(s)
    assert told == [(1, 0, (1, 0)), (2, 0, (3, 0))]
    assert (s.state, raft_last_applied(s.r), s.r.stuck_index) == (RAFT_LEADER, 4, 5)
    bad.clear()
    s.recv(msg.append_entries_result(3, 2, 7))
    assert [status for _, status, _ in told] == [0] * 5
    assert (raft_last_applied(s.r), s.fsm.x, sizes) == (7, 15, [5, 3])


def test_a_code_stops_a_follower_and_is_told_with_its_entry(caplog: pytest.LogCaptureFixture) -> None:
    """It does as a code of fsm.apply does."""
    s = batching(Solo())
    good = s.fsm.apply
    s.fsm.apply = lambda fsm, buf: good(fsm, buf) if len(fsm.applied) < 2 else (RAFT_IOERR, None)
    s.recv(msg.append_entries(2, 1, 1, 1, 1, msg.commands([1] * 5)))
    s.io.finish_appends()
    s.recv(msg.append_entries(2, 1, 6, 1, 6))
    assert (s.state, raft_last_applied(s.r)) == (RAFT_UNAVAILABLE, 3)
    assert "for entry 4" in caplog.records[0].getMessage()


@pytest.mark.parametrize("where", range(4))
def test_a_code_for_a_command_has_it_applied_by_itself(where: int) -> None:
    """The exception of fsm.apply is told; those before it are called back, those behind it are not applied."""
    s = leader()
    good, bad = s.fsm.apply, fsms.add_x(3)

    def apply(fsm: Any, buf: bytes) -> tuple[int, Any]:
        if buf == bad:
            raise KeyError("three")
        return good(fsm, buf)

    def apply_batch(fsm: Any, bufs: list[bytes]) -> tuple[int, list[Any]]:
        n = bufs.index(bad) if bad in bufs else len(bufs)
        return (0 if n == len(bufs) else RAFT_IOERR), [good(fsm, buf)[1] for buf in bufs[:n]]

    s.fsm.apply, s.fsm.apply_batch = apply, apply_batch
    told: Told = []
    for number in range(4):
        command(s, 3 if number == where else 1, teller(told, number))
    commit(s)
    assert (s.state, raft_last_applied(s.r), s.fsm.x) == (RAFT_UNAVAILABLE, 2 + where, where)
    assert raft_errmsg(s.r) == "fsm.apply: KeyError: 'three'"
    assert [status for _, status, _ in told] == [0] * where + [RAFT_LEADERSHIPLOST] * (4 - where)


def test_a_command_that_is_taken_by_itself_goes_on_with_those_behind_it() -> None:
    """A machine may refuse a command among others, and take it alone."""
    sizes: list[int] = []
    s = leader()
    bad = fsms.add_x(3)

    def apply_batch(fsm: Any, bufs: list[bytes]) -> tuple[int, list[Any]]:
        sizes.append(len(bufs))
        n = bufs.index(bad) if bad in bufs else len(bufs)
        return (0 if n == len(bufs) else RAFT_IOERR), [fsm.apply(fsm, buf)[1] for buf in bufs[:n]]

    s.fsm.apply_batch = apply_batch
    told: Told = []
    for number in (1, 2, 3, 4, 5):
        command(s, number, teller(told, number))
    commit(s)
    assert [(number, status) for number, status, _ in told] == [(number, 0) for number in (1, 2, 3, 4, 5)]
    assert (raft_last_applied(s.r), s.fsm.x, sizes) == (7, 15, [5, 2])


@pytest.mark.parametrize(
    "answer",
    [
        (0, [1]),
        (0, [1, 2, 3]),
        (RAFT_IOERR, [1, 2]),
        (0, 5),
        None,
        KeyError("gone"),
    ],
)
def test_an_answer_that_cannot_be_stops_the_server(answer: Any) -> None:
    """Too few or too many results, none, or an exception leave nobody able to tell what was applied."""
    s = leader()

    def apply_batch(fsm: Any, bufs: list[bytes]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    s.fsm.apply_batch = apply_batch
    told: Told = []
    for number in range(2):
        command(s, cb=teller(told, number))
    commit(s)
    assert (s.state, raft_last_applied(s.r)) == (RAFT_UNAVAILABLE, 2)
    assert raft_errmsg(s.r).startswith("fsm.apply_batch: ")
    assert [status for _, status, _ in told] == [RAFT_LEADERSHIPLOST] * 2


def test_a_callback_that_closes_the_server_fails_the_others() -> None:
    """Their commands are applied; nobody says any more what becomes of them."""
    s = batching(leader())
    told: Told = []

    def cb(req: RaftApply, status: int, result: Any) -> None:
        told.append((0, status, result))
        raft_close(s.r, None)

    command(s, cb=cb)
    for number in (1, 2):
        command(s, cb=teller(told, number))
    commit(s)
    assert [(number, status) for number, status, _ in told] == [
        (0, 0),
        (1, RAFT_LEADERSHIPLOST),
        (2, RAFT_LEADERSHIPLOST),
    ]
    assert (s.state, s.fsm.x) == (RAFT_UNAVAILABLE, 3)


def at_once(s: Solo) -> None:
    """End the turn, and all writes, here."""
    s.io.turn()
    s.io.finish_appends()


def test_what_a_callback_gets_committed_comes_behind_the_callbacks_that_are_owed() -> None:
    """A write that ends inside a callback, on the only voter: its commands follow in the order of the log."""
    s = batching(leader(RAFT_VOTER, deferring=True))
    told: Told = []

    def cb(req: RaftApply, status: int, result: Any) -> None:
        told.append((1, status, result))
        for number in (4, 5):
            command(s, cb=teller(told, number))
        at_once(s)

    command(s, cb=cb)
    for number in (2, 3):
        command(s, cb=teller(told, number))
    at_once(s)
    assert told == [(number, 0, (number, 0)) for number in range(1, 6)]
    assert raft_last_applied(s.r) == raft_last_index(s.r)


def test_a_read_is_called_back_behind_the_commands_up_to_its_index() -> None:
    """The only voter answers it at once, but for the callbacks that are owed."""
    s = batching(leader(RAFT_VOTER, deferring=True))
    told: list[Any] = []

    def cb(req: RaftApply, status: int, result: Any) -> None:
        told.append(req.index)
        if len(told) == 1:
            read = RaftReadIndex()
            assert raft_read_index(s.r, read, lambda req, status, index: told.append(("read", status, index))) == 0
            s.io.turn()

    for _ in range(3):
        command(s, cb=cb)
    at_once(s)
    first = told[0]
    assert told == [first, first + 1, first + 2, ("read", 0, first + 2)]


class Slow:
    """io.later of a scripted world, whose state machine takes `msecs` for each command."""

    def __init__(self, s: Solo, msecs: int) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.msecs = msecs
        good = s.fsm.apply

        def slow(fsm: Any, buf: bytes) -> Any:
            s.io.now += self.msecs
            return good(fsm, buf)

        def put(io: Any, fn: Callable[[], None]) -> int:
            self.waiting.append(fn)
            return 0

        s.fsm.apply = slow
        s.io.later = put

    def turn(self) -> None:
        """Call what is to be called later."""
        [fn] = self.waiting
        self.waiting.clear()
        fn()


def many(s: Solo, n: int) -> None:
    """Have n commands committed at once."""
    for _ in range(n):
        command(s)
    commit(s)


def test_calls_grow_as_long_as_they_take_no_time() -> None:
    """The clock is looked at between two, and the next backlog begins where the last one had got to."""
    sizes: list[int] = []
    s = batching(leader(), sizes)
    slow = Slow(s, 0)
    many(s, 511)
    assert sizes == [2, 4, 8, 16, 32, 64, 128, 128, 128]  # the first command is alone
    sizes.clear()
    many(s, 260)
    assert sizes == [128, 128, 4]
    assert slow.waiting == []


def test_calls_get_small_when_commands_take_time_and_the_rest_has_its_turn() -> None:
    """One long call is what others wait for; the next ones begin with one command."""
    sizes: list[int] = []
    s = batching(leader(), sizes)
    slow = Slow(s, 0)
    many(s, 300)
    sizes.clear()
    s.io.now += 100
    slow.msecs = SLICE_MSECS // 2
    many(s, 150)
    assert sizes == [128]
    turns = []
    while slow.waiting:
        s.io.now += 100
        before = raft_last_applied(s.r)
        slow.turn()
        turns.append(raft_last_applied(s.r) - before)
    assert max(turns) <= 3
    assert sum(turns) == 150 - 128
    assert s.fsm.x == 450


def test_one_long_call_makes_the_next_ones_short_even_if_it_was_the_last_of_its_backlog() -> None:
    """The time of the last call counts as well."""
    sizes: list[int] = []
    s = batching(leader(), sizes)
    slow = Slow(s, 0)
    many(s, 63)
    slow.msecs = SLICE_MSECS
    s.io.now += 100
    many(s, 20)
    sizes.clear()
    s.io.now += 100
    slow.msecs = 0
    many(s, 3)
    assert sizes == [2]


@pytest.mark.parametrize("batched", [False, True])
def test_long_commands_are_followed_by_a_look_at_the_clock_sooner(batched: bool) -> None:
    """Only so many of them as have 64 KiB, but for the last one, are applied before others have their turn."""
    sizes: list[int] = []
    s = batching(leader(), sizes) if batched else leader()
    slow = Slow(s, 0)
    many(s, 127)
    del sizes[:]
    content = s.fsm.apply

    def apply(fsm: Any, buf: bytes) -> Any:
        return content(fsm, buf[: len(fsms.add_x(1))])

    s.fsm.apply = apply
    slow.msecs = SLICE_MSECS // 2
    s.io.now += 100
    before = raft_last_applied(s.r)
    for _ in range(30):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1) + bytes(24 * 1024)], 1, None) == 0
    commit(s)
    assert raft_last_applied(s.r) == before + 3
    assert sizes == ([3] if batched else [])
    while slow.waiting:
        s.io.now += 100
        slow.turn()
    assert raft_last_applied(s.r) == before + 30

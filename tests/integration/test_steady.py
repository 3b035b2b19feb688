"""The lane (pyraft.steady, stream, stored) is the general path: two servers, one with and one without, stay the same.

States and messages are drawn at random, around what a cluster does where all is well. After each step all data of the
two, all calls of their I/O tables, all messages and all callbacks are compared. In `test_steady_alone.py` each test
of the lane fails alone.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from io_uv import encoding
from pyraft import (
    RAFT_BARRIER,
    RAFT_COMMAND,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_TOOBIG,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftMessage,
    RaftReadIndex,
    RaftTransfer,
    accept,
    flags,
    log,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_read_index,
    raft_remove,
    raft_set_max_append_bytes,
    raft_set_max_inflight_bytes,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_transfer,
    steady,
    stored,
    stream,
)
from pyraft.types import EntryBatch
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.compiled import COMPILED
from tests.lib.dump import dump
from tests.lib.solo import Solo

SEEDS = 60
STEPS = 100


class Twin(Solo):
    """A server of the pair, and what its callbacks got."""

    def __init__(self, lane: bool, seed: int) -> None:
        draw = random.Random(seed)
        others = draw.choice([[RAFT_VOTER] * 2] * 4 + [[RAFT_VOTER, RAFT_STANDBY], [RAFT_VOTER] * 4, [RAFT_SPARE], []])
        super().__init__(RAFT_VOTER, *others, deferring=draw.random() < 0.7)
        self.r.lane = lane
        self.seen: list[Any] = []
        self.requests = 0
        if seed % 2:
            self.fsm.apply_batch = lambda fsm, bufs: (0, [fsm.apply(fsm, buf)[1] for buf in bufs])
        if draw.random() < 0.3:
            raft_set_snapshot_threshold(self.r, draw.randint(2, 6))
            raft_set_snapshot_trailing(self.r, draw.randint(1, 4))
        if draw.random() < 0.3:
            raft_set_max_append_bytes(self.r, draw.randint(30, 200))
            raft_set_max_inflight_bytes(self.r, draw.randint(60, 400))
        if draw.random() < 0.5:
            self.note_alike()
        if draw.random() < 0.6:
            self.lead()
        elif others:
            self.recv(msg.append_entries(2, 1, 1, 1, 1, EntryBatch([], [], [])))

    def note_alike(self) -> None:
        """Have io.append note of several entries whether they are alike, as io_uv's does."""
        append = self.io.append

        def noting(io: Any, req: Any, entries: EntryBatch, n: int, cb: Any) -> int:
            encoding.look(entries)
            return append(io, req, entries, n, cb)

        self.io.append = noting

    def called_back(self) -> Callable[..., None]:
        """Return the callback of a new request; some submit another command."""
        self.requests += 1
        number = self.requests

        def cb(req: Any, *what: Any) -> None:
            self.seen.append((number, *what))
            if number % 3 == 0:
                self.apply(1)

        return cb

    def apply(self, n: int) -> int:
        """Submit n commands at once."""
        return raft_apply(self.r, RaftApply(), [fsms.add_x(k + 1) for k in range(n)], n, self.called_back())

    def all(self) -> Any:
        """Return what is to be the same."""
        io = self.io
        messages = [dump(m) for m in io.messages]
        io.messages.clear()
        calls, io.calls[:] = list(io.calls), []
        under_way = (len(io.sends), len(io.appends), len(io.puts), len(io.gets), len(io.works))
        return (
            calls,
            messages,
            self.seen,
            self.fsm.x,
            self.fsm.y,
            under_way,
            [str(e) for e in io.reported],
            dump(self.r),
        )


Step = Callable[[Twin], Any]


def an_answer(r: Raft, draw: random.Random) -> Step:
    """Draw an AppendEntriesResult, most often what a good follower says."""
    src = draw.choice([2, 2, 3, 3, draw.randint(0, 6)])
    term = r.current_term + draw.choice([0] * 60 + [-1, 1])
    leader = r.leader_state
    end = leader.deferred_index - 1 if leader is not None and leader.deferred_index > 0 else log.last_index(r.log)
    last = max(0, end + draw.choice([0, 0, 0, 0, 0, -1, -2, 1 if end == log.last_index(r.log) else 0]))
    rejected = draw.choice([0] * 25 + [last, max(0, last - 2)])
    features = draw.choice([flags.PROVEN_ANSWERS | flags.ECHOED_QUESTIONS] * 25 + [0, flags.PROVEN_ANSWERS, 1])
    question = draw.choice([0] * 25 + [leader.reads.number if leader else 1])

    def step(s: Twin) -> None:
        m = msg.append_entries_result(src, term, last, rejected)
        assert m.append_entries_result is not None
        m.append_entries_result.features = features
        m.append_entries_result.question = question
        s.recv(m)

    return step


def an_append(r: Raft, draw: random.Random) -> Step:
    """Draw an AppendEntries, most often one that goes on where the log ends."""
    src = draw.choice([2] * 6 + [3])
    term = r.current_term + (draw.choice([0] * 14 + [-1, 1]) if r.leader_state is None else draw.choice([0, 1, 1]))
    prev = max(0, log.last_index(r.log) + draw.choice([0] * 8 + [-1, -2, 1]))
    prev_term = log.term_of(r.log, prev) or draw.randint(0, 1)
    if draw.random() < 0.05:
        prev_term += 1
    n = draw.choice([0, 1, 1, 1, 2, 3, 7])
    commit = prev + draw.choice([-1, 0, 0, 1, n])
    listed, looked = draw.random() < 0.1, draw.random() < 0.5
    entry_term, type = term, RAFT_COMMAND
    if n > 1 and draw.random() < 0.1:
        entry_term, type = draw.choice([(term - 1, type), (term + 1, type), (term, RAFT_BARRIER)])
    question = draw.choice([0] * 15 + [3])

    def step(s: Twin) -> None:
        batch = EntryBatch([entry_term] * n, [type] * n, [fsms.add_x(k) for k in range(n)])
        if looked:
            encoding.look(batch)
        m = msg.append_entries(src, term, prev, prev_term, max(0, commit), list(batch) if listed else batch)
        assert m.append_entries is not None
        m.append_entries.question = question
        s.recv(m)

    return step


def another_thing(r: Raft, draw: random.Random) -> Step:
    """Draw something else that happens to a server."""
    status = draw.choice([0] * 80 + [RAFT_IOERR])
    id = draw.randint(1, 6)
    msecs = draw.choice([100, 100, 100, 500])
    things: list[Step] = [
        *[lambda s: s.io.appends and s.io.finish_append(status)] * 8,
        *[lambda s: s.io.turn()] * 8,
        *[lambda s: s.io.finish_sends(status)] * 3,
        *[lambda s: s.tick(msecs)] * 3,
        lambda s: s.io.works and s.io.finish_work(),
        lambda s: s.io.puts and s.io.finish_put(status),
        lambda s: s.io.gets and s.io.finish_get(status),
        lambda s: s.r.state == RAFT_LEADER and s.io.fail("send", RAFT_TOOBIG),
        lambda s: raft_barrier(s.r, RaftBarrier(), s.called_back()),
        lambda s: raft_read_index(s.r, RaftReadIndex(), s.called_back()),
    ]
    if draw.random() < 0.03:
        things = [
            lambda s: raft_add(s.r, RaftChange(), id, str(id), s.called_back()),
            lambda s: raft_assign(s.r, RaftChange(), id, RAFT_VOTER, s.called_back()),
            lambda s: raft_remove(s.r, RaftChange(), id, s.called_back()),
            lambda s: raft_transfer(s.r, RaftTransfer(), id, s.called_back()),
            lambda s: s.io.fail("send", draw_code),
            lambda s: s.io.fail("append", RAFT_IOERR),
        ]
    draw_code = draw.choice([-1, *range(1, 20)])
    return draw.choice(things)


def a_step(r: Raft, draw: random.Random) -> Step:
    """Draw what happens next to a server in this state."""
    kind = draw.random()
    if r.state == RAFT_LEADER and kind < 0.25:
        n = draw.choice([1, 1, 1, 2, 5])
        return lambda s: s.apply(n)
    if r.state == RAFT_FOLLOWER and kind < 0.25:
        return lambda s: s.io.appends and s.io.finish_append()
    if kind < 0.55:
        return an_answer(r, draw) if r.state == RAFT_LEADER else an_append(r, draw)
    if kind < 0.552:
        return an_append(r, draw)
    return another_thing(r, draw)


@pytest.mark.parametrize("block", range(6))
def test_the_lane_is_the_general_path(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every step of random lives everything is the same with and without the lane, which is taken often."""
    taken = [0, 0, 0, 0, 0]
    if not COMPILED:
        _count(monkeypatch, taken)
    steps = 0
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        draw = random.Random(seed)
        a, b = Twin(True, seed), Twin(False, seed)
        assert a.all() == b.all(), f"seed {seed}, at the beginning"
        for number in range(STEPS):
            if a.r.state == RAFT_UNAVAILABLE:
                break
            step = a_step(a.r, draw)
            results = dump(step(a)), dump(step(b))
            assert results[0] == results[1], f"seed {seed}, step {number}"
            assert a.all() == b.all(), f"seed {seed}, step {number}"
            steps += 1
    if not COMPILED:
        assert min(taken) > steps // 100, f"of {steps} steps the lane took {taken}"


def _count(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    """Count answers, AppendEntries, messages and writes of the lane, those of a leader and those of a follower."""
    received, message, by_leader, by_follower = steady.received, stream.message, stored.by_leader, accept.stored

    def counted_received(r: Raft, m: RaftMessage) -> int | None:
        rv = received(r, m)
        if rv is not None:
            taken[0 if m.append_entries is None else 1] += 1
        return rv

    def counted_message(*args: Any) -> Any:
        made = message(*args)
        taken[2] += made is not None
        return made

    def counted_write(r: Raft, *args: Any) -> bool:
        done = by_leader(r, *args) if r.leader_state is not None else by_follower(r, *args)
        taken[3 if r.leader_state is not None else 4] += done
        return done

    monkeypatch.setattr(stored, "by_leader", counted_write)
    monkeypatch.setattr(accept, "stored", counted_write)
    monkeypatch.setattr(steady, "received", counted_received)
    monkeypatch.setattr(stream, "message", counted_message)

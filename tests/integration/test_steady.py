"""The lane (pyraft.steady, stream, stored) is the general path: two servers, one with and one without, stay the same.

States and messages are drawn at random, around what a cluster does where all is well. After each step all data of the
two, all calls of their I/O tables, all messages and all callbacks are compared. Then each test of the lane fails alone.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
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
from pyraft.progress import PROGRESS__PIPELINE
from pyraft.state import RaftInstall, RaftWrite
from pyraft.types import EntryBatch, RaftAppendEntries, RaftSnapshot, RaftTimeoutNow
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.compiled import COMPILED
from tests.lib.solo import Solo

SEEDS = 60
STEPS = 100
APART = ("cb", "data", "encoded", "exception", "flush", "fsm", "io", "lane", "raft", "resume", "tracer")
"""Fields that are not compared: they lead elsewhere, or are what makes the difference."""


def dump(thing: Any) -> Any:
    """Return all data of a struct and of what it refers to, as something that can be compared."""
    if thing is None or isinstance(thing, (int, str, bytes, float)):
        return thing
    if isinstance(thing, (list, tuple, deque)):
        return [dump(item) for item in thing]
    if isinstance(thing, dict):
        return [(key, dump(value)) for key, value in thing.items()]
    if isinstance(thing, (set, frozenset)):
        return sorted(thing)
    if callable(thing):
        return "function"
    fields = ((name, getattr(thing, name)) for name in msg.fields_of(thing) if name not in APART)
    return [type(thing).__name__, *((name, dump(value)) for name, value in fields if not callable(value))]


class Twin(Solo):
    """A server of the pair, and what its callbacks got."""

    def __init__(self, lane: bool, seed: int) -> None:
        draw = random.Random(seed)
        others = draw.choice([[RAFT_VOTER] * 2] * 4 + [[RAFT_VOTER, RAFT_STANDBY], [RAFT_VOTER] * 4, [RAFT_SPARE], []])
        super().__init__(RAFT_VOTER, *others, deferring=draw.random() < 0.7)
        self.r.lane = lane
        self.seen: list[Any] = []
        self.requests = 0
        if draw.random() < 0.3:
            raft_set_snapshot_threshold(self.r, draw.randint(2, 6))
            raft_set_snapshot_trailing(self.r, draw.randint(1, 4))
        if draw.random() < 0.3:
            raft_set_max_append_bytes(self.r, draw.randint(30, 200))
            raft_set_max_inflight_bytes(self.r, draw.randint(60, 400))
        if draw.random() < 0.6:
            self.lead()
        elif others:
            self.recv(msg.append_entries(2, 1, 1, 1, 1, EntryBatch([], [], [])))

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
    n = draw.choice([0, 1, 1, 1, 2, 3])
    commit = prev + draw.choice([-1, 0, 0, 1, n])
    listed = draw.random() < 0.1
    question = draw.choice([0] * 15 + [3])

    def step(s: Twin) -> None:
        batch = EntryBatch([term] * n, [RAFT_COMMAND] * n, [fsms.add_x(k) for k in range(n)])
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


# Each test of the lane, failing alone.


def led() -> Solo:
    """Return a leader that has sent entry 3 to two followers in PIPELINE."""
    s = Solo(deferring=True)
    s.lead()
    s.recv(msg.append_entries_result(3, 2, 2))
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.turn()
    assert s.r.leader_state is not None
    assert [p.state for p in s.r.leader_state.progress[1:]] == [PROGRESS__PIPELINE] * 2
    return s


def followed() -> Solo:
    """Return a follower of server 2 in term 1 with entries 1 and 2."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, msg.commands([1])))
    s.io.finish_appends()
    assert s.r.state == RAFT_FOLLOWER
    return s


def answer() -> RaftMessage:
    return msg.append_entries_result(2, 2, 3)


def test_an_answer_resets_what_it_resets_on_the_general_path() -> None:
    """Counters of a follower that has refused something before, and its window."""
    dumps = []
    for lane in (True, False):
        s = led()
        s.r.lane = lane
        leader = s.r.leader_state
        assert leader is not None
        p = leader.progress[1]
        p.streamed, p.denials, p.refusals, p.steps_back, p.next_index = 5, 2, 3, 4, 3
        p.recent_recv = False
        p.inflight.append((4, 10))
        p.inflight_bytes += 10
        s.recv(answer())
        dumps.append(dump(s.r))
        assert (p.match_index, p.denials, p.inflight_bytes) == (3, 0, 10)
    assert dumps[0] == dumps[1]


def append(n: int = 1) -> RaftMessage:
    return msg.append_entries(2, 1, 2, 1, 2, EntryBatch([1] * n, [RAFT_COMMAND] * n, [fsms.add_x(1)] * n))


@pytest.mark.parametrize("n", [0, 1])
def test_an_append_resets_what_it_resets_on_the_general_path(n: int) -> None:
    """Counters of what has gone wrong before, and the election clock; and the leader may have moved."""
    dumps = []
    for lane in (True, False):
        s = followed()
        s.r.lane = lane
        s.r.snapshot.refusals, s.r.votes_withheld, s.r.election_timer_start = 3, 2, -7
        m = append(n)
        m.server_address = "elsewhere"
        s.recv(m)
        s.io.finish_appends()
        dumps.append(dump(s.r))
        assert (s.r.snapshot.refusals, s.r.votes_withheld, s.r.election_timer_start) == (0, 0, s.io.now)
    assert dumps[0] == dumps[1]


def refused(s: Solo, m: RaftMessage) -> None:
    """Check that the lane does not take a message, and leaves everything as it is."""
    before, calls = dump(s.r), list(s.io.calls)
    assert steady.received(s.r, m) is None
    assert (dump(s.r), s.io.calls) == (before, calls)


def change(path: str, value: Any) -> Callable[[Any], None]:
    """Return what sets the attribute that a path leads to."""

    def set_it(start: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            start = start[int(name)] if name.isdigit() else getattr(start, name)
        if isinstance(start, list):
            start[int(last)] = value
        else:
            setattr(start, last, value)

    return set_it


P = "leader_state.progress.1."


@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{P}{field}" for field in ("state=0", "loose=1", "questions=1", "match_index=3", "proven_index=3")),
        *("r.transfer", "r.leader_state.promotee_id=9", "r.leader_state=None", f"r.{P}features=32768"),
        *("m.type=6", "m.server_id=9", "m.append_entries_result=None", "m.append_entries_result.last_log_index=2"),
        *(f"m.append_entries_result.{field}" for field in ("term=1", "rejected=3", "question=1")),
    ],
)
def test_answers_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    assert steady.received(led().r, answer()) == 0
    s, m = led(), answer()
    alter(s, m, path)
    refused(s, m)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{field}" for field in ("recovering=1", "filling=1", "follower_state=None")),
        *(f"r.snapshot.{field}" for field in ("replacing=1", "refused_index=1", "put=install")),
        *(f"r.said.{field}" for field in ("leader_id=3", "leader_term=0", "removed=1", "waits=1")),
        *(f"m.append_entries.{field}" for field in ("term=2", "question=1", "prev_log_index=1", "prev_log_term=2")),
        *("m.type=6", "m.append_entries=None", "m.append_entries.entries=list", "m.append_entries_result=1"),
        *("term 0", "compacted", "server 0", "entry of a later term", "entry without a term"),
    ],
)
def test_entries_that_the_lane_leaves_to_the_general_path(path: str, n: int) -> None:
    """One thing is not as it should be: then nothing is done."""
    if path.startswith("entry") and n == 0:
        pytest.skip("there is none")
    assert steady.received(followed().r, append(n)) == 0
    s, m = followed(), append(n)
    args = m.append_entries
    assert args is not None
    if path == "term 0":
        s.r.log.terms[-1] = args.prev_log_term = 0
    elif path == "compacted":
        s.r.log.offset = 2
    elif path == "server 0":
        m.server_id = s.r.said.leader_id = 0
    elif path.startswith("entry"):
        args.entries = EntryBatch([2 if "later" in path else 0], [RAFT_COMMAND], [fsms.add_x(1)])
    else:
        alter(s, m, path)
    refused(s, m)


def alter(s: Solo, m: RaftMessage | RaftWrite, text: str) -> None:
    """Change a field of the server or the message or write: "r.field=1", "m.field=None"; some values are made here."""
    path, _, word = text.partition("=")
    value: Any = None
    if word == "list" and isinstance(m, RaftMessage) and m.append_entries:
        value = list(m.append_entries.entries)
    if word == "order":
        value = (2, RaftTimeoutNow())
    if word.isdigit():
        value = int(word)
    if path == "r.transfer":
        value = RaftTransfer()
    if word == "install":
        value = RaftInstall(s.r, s.r.current_term, RaftSnapshot(), s.r.log, 0)
    if COMPILED and path.endswith(("append_entries_result", "recovering", "filling", "removed", "waits")):
        pytest.skip("a compiled field takes values of its type only")
    whole = s.r if path[0] == "r" else m
    change(path[2:], value)(whole)


@pytest.mark.parametrize(
    "path",
    [
        *(f"{P}{field}" for field in ("state=0", "next_index=5", "inflight_bytes=99999999", "lacking=4")),
        *("leader_state.first_index=4", "log.offset=2", "max_append_bytes=20"),
    ],
)
def test_messages_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then no message is made, and nothing is changed."""
    s = Solo(deferring=True)
    s.lead()
    s.recv(msg.append_entries_result(3, 2, 2))
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)] * 2, 2, None) == 0
    leader = s.r.leader_state
    assert leader is not None
    leader.progress[1].next_index = 3
    assert stream.message(s.r, leader, leader.progress[1], None) is not None
    alter_path, _, word = path.partition("=")
    change(alter_path, int(word))(s.r)
    before = dump(s.r)
    assert stream.message(s.r, leader, leader.progress[1], None) is None
    assert dump(s.r) == before


def written(s: Solo) -> Any:
    """Return the write that is under way."""
    ((req, _entries, _cb),) = s.io.appends
    assert isinstance(req, RaftWrite)
    return req


def told(s: Solo) -> tuple[int, int]:
    """Return the last index and the rejected one of the answer that was sent last."""
    result = s.io.messages[-1].append_entries_result
    assert result is not None
    return result.last_log_index, result.rejected


def follower_that_writes() -> Solo:
    s = followed()
    s.recv(append())
    return s


@pytest.mark.parametrize(
    "path",
    [
        *(f"r.{field}" for field in ("follower_state=None", "current_term=2", "recovering=1", "last_stored=1")),
        *("r.follower_state.timeout_now=order", "r.snapshot.put=install", "r.snapshot.replacing=1", "r.log.offset=3"),
        *("r.log.terms.-1=2", "w.standing=0", "w.entries.types.0=3"),
    ],
)
def test_a_followers_writes_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    s = follower_that_writes()
    assert accept.stored(s.r, written(s))
    assert (s.r.last_stored, told(s)) == (3, (3, 0))
    s = follower_that_writes()
    alter(s, written(s), path)
    before, calls = dump(s.r), list(s.io.calls)
    assert not accept.stored(s.r, written(s))
    assert (dump(s.r), s.io.calls) == (before, calls)


@pytest.mark.parametrize("path", ["r.snapshot.put=install", "r.last_stored=1", "w.standing=0"])
def test_a_leaders_writes_that_the_lane_leaves_to_the_general_path(path: str) -> None:
    """One thing is not as it should be: then nothing is done."""
    s = led()
    assert s.r.leader_state is not None
    assert stored.by_leader(s.r, s.r.leader_state, written(s))
    assert s.r.last_stored == s.r.leader_state.progress[0].proven_index == 3
    s = led()
    assert s.r.leader_state is not None
    alter(s, written(s), path)
    before = dump(s.r)
    assert not stored.by_leader(s.r, s.r.leader_state, written(s))
    assert dump(s.r) == before


def test_a_failed_write_is_never_the_lanes() -> None:
    """A leader steps down, a follower rejects."""
    s = led()
    s.io.finish_append(RAFT_IOERR)
    assert s.r.state == RAFT_FOLLOWER
    s = follower_that_writes()
    s.io.finish_append(RAFT_IOERR)
    assert (s.r.last_stored, told(s)) == (2, (2, 3))


def test_a_message_is_made_once_for_all_who_are_to_get_the_same() -> None:
    """Any difference makes another one: predecessor, commit index, term, the entries themselves."""
    s = led()
    leader = s.r.leader_state
    assert leader is not None
    first, second = (m.append_entries for m in s.io.messages[-2:])
    assert first is second
    assert first is not None
    assert first.whole
    assert first.encoded == []
    p = leader.progress[1]
    p.next_index = 3
    assert stream.message(s.r, leader, p, first) is first
    for path, value in (
        ("leader_commit", 1),
        ("prev_log_index", 1),
        ("prev_log_term", 1),
        ("term", 1),
        ("entries", EntryBatch([2], [RAFT_COMMAND], [fsms.add_x(9)])),
        ("entries", EntryBatch([1], [RAFT_COMMAND], [fsms.add_x(1)])),
        ("entries", EntryBatch([2], [RAFT_COMMAND + 1], [fsms.add_x(1)])),
    ):
        other = copy_of(first)
        setattr(other, path, value)
        made = stream.message(s.r, leader, p, other)
        assert made is not other
        assert made is not None
        assert dump(made) == dump(first)


def copy_of(args: RaftAppendEntries) -> RaftAppendEntries:
    other = RaftAppendEntries()
    for name in ("term", "prev_log_index", "prev_log_term", "leader_commit", "whole", "entries"):
        setattr(other, name, getattr(args, name))
    return other

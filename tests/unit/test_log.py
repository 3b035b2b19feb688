"""The in-memory log: indexes, terms, truncation at both ends. Its ring buffer and reference counts are C's alone."""

import random
from time import thread_time
from typing import Any

import pytest

from pyraft import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, RAFT_VOTER, RaftConfiguration, RaftLog, configuration, log
from pyraft.types import EntryBatch
from tests.lib.covers import covers


def log_of(*terms: int) -> RaftLog:
    """Return a log with a command of each of these terms, whose payload tells its index."""
    lg = RaftLog()
    for term in terms:
        push(lg, term)
    return lg


def push(lg: RaftLog, term: int = 1) -> None:
    """Append a command."""
    log.append(lg, term, RAFT_COMMAND, b"%d" % (log.last_index(lg) + 1))


def held(lg: RaftLog) -> list[int]:
    """Return the indexes of the entries held, which their payloads confirm."""
    found = [i for i in range(log.last_index(lg) + 2) if log.get(lg, i) is not None]
    for i in found:
        entry = log.get(lg, i)
        assert entry is not None
        assert entry.buf == b"%d" % i
    assert len(found) == log.num_entries(lg)
    return found


def acquired(lg: RaftLog, index: int, *limits: int) -> list[bytes]:
    """Return the payloads of what acquire gives."""
    return log.acquire(lg, index, *limits).bufs


@covers("logNumEntries/empty", "logLastIndex/empty", "logLastTerm/empty", "logGet/empty_log")
def test_a_pristine_log_is_empty() -> None:
    """It has no entry, index 0 and term 0."""
    lg = RaftLog()
    assert (log.num_entries(lg), log.last_index(lg), log.last_term(lg)) == (0, 0, 0)
    assert log.get(lg, 1) is None
    assert log.term_of(lg, 0) == 0


@covers(
    "logNumEntries/not_wrapped",
    "logLastIndex/one",
    "logLastIndex/two",
    "logTermOf/one",
    "logTermOf/two",
    "logTermOf/beyondLast",
    "logGet/one",
    "logGet/two",
    "logAppend/one",
    "logAppend/two",
    "logAppend/three",
)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_entries_are_found_by_index(n: int) -> None:
    """Indexes start at 1; all that is beyond the end has neither entry nor term."""
    lg = log_of(*range(1, n + 1))
    assert (log.num_entries(lg), log.last_index(lg), log.last_term(lg)) == (n, n, n)
    assert held(lg) == list(range(1, n + 1))
    assert [log.term_of(lg, i) for i in range(n + 2)] == [0, *range(1, n + 1), 0]


@covers("logAppend/many", "logAppend/batch", "logAppend/wrap")
def test_many_entries_in_three_ways() -> None:
    """They come one by one, as commands and as a batch; the batch is not modified."""
    lg = log_of(1)
    log.append_commands(lg, 2, [b"%d" % i for i in range(2, 1001)])
    batch = EntryBatch([3] * 2000, [RAFT_BARRIER] * 2000, [b"%d" % i for i in range(1001, 3001)])
    log.append_batch(lg, batch)
    push(lg, 4)
    assert held(lg) == list(range(1, 3002))
    assert [log.term_of(lg, i) for i in (1, 2, 1000, 1001, 3000, 3001)] == [1, 2, 2, 3, 3, 4]
    entry = log.get(lg, 2000)
    assert entry is not None
    assert entry.type == RAFT_BARRIER
    assert len(batch) == 2000


def test_a_configuration_is_an_entry() -> None:
    """It is encoded, with type RAFT_CHANGE."""
    conf = RaftConfiguration()
    configuration.raft_configuration_add(conf, 1, "1", RAFT_VOTER)
    lg = log_of(1)
    log.append_configuration(lg, 2, conf)
    entry = log.get(lg, 2)
    assert entry is not None
    assert (entry.type, entry.term, entry.buf) == (RAFT_CHANGE, 2, configuration.encode(conf))


@covers(
    "logNumEntries/offset",
    "logLastIndex/emptyWithOffset",
    "logLastTerm/snapshot",
    "logGet/emptyWithOffset",
    "logTermOf/snapshotLastIndex",
)
def test_a_snapshot_of_everything_leaves_its_index_and_term() -> None:
    """With no trailing entries the log is empty but goes on counting."""
    lg = log_of(1, 1, 2)
    log.snapshot(lg, 3, 0)
    assert (log.num_entries(lg), log.last_index(lg), log.last_term(lg)) == (0, 3, 2)
    assert (log.snapshot_index(lg), log.snapshot_term(lg)) == (3, 2)
    assert held(lg) == []
    assert [log.term_of(lg, i) for i in range(5)] == [0, 0, 0, 2, 0]
    push(lg, 3)
    assert held(lg) == [4]


@covers(
    "logNumEntries/wrapped",
    "logNumEntries/offsetNotEmpty",
    "logLastIndex/twoWithOffset",
    "logGet/twoWithOffset",
    "logTermOf/withSnapshot",
    "logTermOf/snapshotTrailing",
    "logSnapshot/trailing",
    "logSnapshot/lessThanHighestIndex",
    "logSnapshot/wrap",
)
@pytest.mark.parametrize(
    ("n", "index", "trailing", "left"),
    [(5, 4, 1, [4, 5]), (5, 4, 2, [3, 4, 5]), (3, 3, 2, [2, 3]), (5, 2, 0, [3, 4, 5])],
)
def test_a_snapshot_keeps_trailing_entries(n: int, index: int, trailing: int, left: list[int]) -> None:
    """Entries up to index - trailing go; those left keep their index and term, as does the snapshot's end."""
    lg = log_of(*range(1, n + 1))
    log.snapshot(lg, index, trailing)
    assert held(lg) == left
    known = sorted({*left, index})
    assert [i for i in range(1, n + 1) if log.term_of(lg, i) != 0] == known
    assert [log.term_of(lg, i) for i in known] == known
    push(lg, 9)
    push(lg, 9)
    assert held(lg) == [*left, n + 1, n + 2]


@covers("logSnapshot/trailingHigherThanNumEntries", "logSnapshot/trailingMatchesOutstanding")
@pytest.mark.parametrize("trailing", [2, 3, 10])
def test_a_snapshot_drops_nothing_if_too_little_is_there(trailing: int) -> None:
    """Fewer entries than trailing, or exactly as many, all stay."""
    lg = log_of(1, 1)
    log.snapshot(lg, 2, trailing)
    assert held(lg) == [1, 2]
    assert log.snapshot_index(lg) == 2


def test_a_snapshot_needs_its_last_entry() -> None:
    """A snapshot beyond the log is a bug of the caller."""
    with pytest.raises(AssertionError):
        log.snapshot(log_of(1), 2, 0)


@covers("logTruncate/lastOfOne", "logTruncate/lastOfTwo", "logTruncate/wrap")
@pytest.mark.parametrize(("index", "left"), [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (9, [1, 2, 3])])
def test_truncation_drops_the_tail(index: int, left: list[int]) -> None:
    """The entry at the index goes, and all after it; beyond the end nothing does."""
    lg = log_of(1, 2, 3)
    log.truncate(lg, index)
    assert held(lg) == left
    push(lg, 7)
    assert log.term_of(lg, len(left) + 1) == 7


def test_truncation_never_reaches_below_what_is_held() -> None:
    """The compacted part stays as it is."""
    lg = log_of(1, 1, 1, 1)
    log.snapshot(lg, 3, 1)
    log.truncate(lg, 1)
    assert (held(lg), log.last_index(lg)) == ([], 2)


@covers("logAcquire/one", "logAcquire/two", "logAcquire/wrap", "logAcquire/outOfRange")
def test_acquire_gives_all_from_an_index_on() -> None:
    """It gives nothing before the first entry held, and nothing after the last."""
    lg = log_of(1, 1, 2, 2)
    assert acquired(lg, 3) == [b"3", b"4"]
    assert acquired(lg, 1) == [b"1", b"2", b"3", b"4"]
    assert acquired(lg, 5) == []
    log.snapshot(lg, 2, 0)
    assert acquired(lg, 2) == []
    batch = log.acquire(lg, 3)
    assert (batch.terms, batch.types, batch.bufs) == ([2, 2], [RAFT_COMMAND] * 2, [b"3", b"4"])


@pytest.mark.parametrize(
    ("index", "max_bytes", "max_entries", "n"),
    [
        (1, 0, 2, 2),
        (1, 1, 0, 1),
        (1, 34, 0, 2),
        (1, 33, 0, 1),
        (1, 51, 0, 3),
        (2, 1000, 0, 3),
        (4, 1, 1, 1),
        (1, 1000, 3, 3),
        (5, 1, 1, 0),
    ],
)
def test_acquire_is_bounded(index: int, max_bytes: int, max_entries: int, n: int) -> None:
    """Bytes bound it, 16 of header each included, and the number; one entry always goes, if there is one."""
    assert len(acquired(log_of(1, 1, 1, 1), index, max_bytes, max_entries)) == n


@pytest.mark.parametrize("n", [1023, 1024, 1025, 5000])
def test_acquire_stops_exactly_at_the_bound(n: int) -> None:
    """One more entry would not fit, for any number of entries."""
    lg = RaftLog()
    log.append_commands(lg, 1, [bytes(84)] * 10000)
    assert len(log.acquire(lg, 1, n * 100)) == n
    assert len(log.acquire(lg, 1, n * 100 + 99)) == n
    assert log.weight(acquired(lg, 1, n * 100)) == n * 100


@covers("logTruncate/referenced", "logTruncate/acquired", "logTruncate/acquireAppend")
def test_what_was_acquired_stays_as_it_was() -> None:
    """Entries on their way to disk or peers do not change when the log does (B35)."""
    lg = log_of(1, 1, 1)
    batch = log.acquire(lg, 2)
    log.truncate(lg, 2)
    for i in range(256):
        log.append(lg, 2, RAFT_BARRIER, b"new%d" % i)
    log.snapshot(lg, 200, 0)
    assert (batch.terms, batch.types, batch.bufs) == ([1, 1], [RAFT_COMMAND] * 2, [b"2", b"3"])


@covers("logRestore/initial", "logRestore/wipe")
@pytest.mark.parametrize("terms", [(), (1, 1, 1)])
def test_restore_replaces_the_log_by_a_snapshot(terms: tuple[int, ...]) -> None:
    """The log is empty and ends with the snapshot; all that was there can be put back (B6)."""
    lg = log_of(*terms)
    former = log.restore(lg, 2, 3)
    assert (log.last_index(lg), log.last_term(lg), log.snapshot_index(lg), held(lg)) == (2, 3, 2, [])
    push(lg, 4)
    assert held(lg) == [3]
    log.put_back(lg, former)
    assert (held(lg), log.snapshot_index(lg)) == (list(range(1, len(terms) + 1)), 0)
    push(lg, 5)
    assert log.last_index(lg) == len(terms) + 1


def test_start_sets_where_the_log_begins() -> None:
    """After loading, the first entry may be before the snapshot's end, at most right after it."""
    lg = RaftLog()
    log.start(lg, 5, 2, 4)
    for term in (2, 2, 3):
        push(lg, term)
    assert held(lg) == [4, 5, 6]
    assert [log.term_of(lg, i) for i in (3, 4, 5, 6)] == [0, 2, 2, 3]
    with pytest.raises(AssertionError):
        log.start(RaftLog(), 5, 2, 7)


@pytest.mark.parametrize(
    ("index", "terms", "n"),
    [(3, [2, 2], 2), (3, [2, 3], 1), (3, [1, 2], 0), (3, [2, 2, 2], 2), (5, [2], 0), (2, [2, 2], 2), (1, [1, 2], 0)],
)
def test_matching_counts_what_is_still_there(index: int, terms: list[int], n: int) -> None:
    """The leading entries whose terms are still those; a compacted one counts only as the snapshot's end."""
    lg = log_of(1, 2, 2, 2)
    log.snapshot(lg, 2, 0)
    assert log.matching(lg, index, terms) == n


def test_a_random_life_agrees_with_a_list() -> None:
    """Appends, truncations and snapshots in random order, against a plain list of (index, term)."""
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    lg, model, last, snapshot = RaftLog(), dict[int, int](), 0, (0, 0)
    for _ in range(3000):
        what = rng.random()
        if what < 0.6:
            for _ in range(rng.choice((1, 1, 1, 400))):
                last += 1
                model[last] = rng.randrange(1, 5)
                push(lg, model[last])
        elif what < 0.8 and model:
            index = rng.randint(max(min(model), snapshot[0] + 1), last + 1)
            log.truncate(lg, index)
            model = {i: term for i, term in model.items() if i < index}
            last = min(last, index - 1)
        elif model and last > snapshot[0]:
            index = rng.randint(max(min(model), snapshot[0] + 1), last)
            trailing = rng.choice((0, 1, 500, 1500))
            snapshot = (index, model[index])
            log.snapshot(lg, index, trailing)
            if index - trailing in model:
                model = {i: term for i, term in model.items() if i > index - trailing}
        assert log.last_index(lg) == last, seed
        assert log.num_entries(lg) == len(model), seed
        for index in (rng.randint(1, last + 1) for _ in range(3)):
            expected = snapshot[1] if index == snapshot[0] else model.get(index, 0)
            assert log.term_of(lg, index) == expected, seed
            entry = log.get(lg, index)
            assert (entry is not None) == (index in model), seed
            assert entry is None or entry.buf == b"%d" % index, seed


def test_dropped_payloads_are_released_at_once() -> None:
    """A snapshot gives the memory of what it drops back, even before the lists are compacted."""

    class Payload(bytes):
        alive = 0

        def __new__(cls, data: bytes) -> Any:
            cls.alive += 1
            return super().__new__(cls, data)

        def __del__(self) -> None:
            Payload.alive -= 1

    lg = RaftLog()
    for i in range(100):
        log.append(lg, 1, RAFT_COMMAND, Payload(b"%d" % i))
    log.snapshot(lg, 60, 0)
    assert Payload.alive == 40


def test_dropping_the_head_costs_the_same_whatever_the_length() -> None:
    """Small steps along a long log move each entry about once, not the whole log each time."""

    def cost(n: int) -> float:
        lg = RaftLog()
        log.append_commands(lg, 1, [b"x"] * n)
        begin = thread_time()
        for index in range(100, n // 2, 100):
            log.snapshot(lg, index, 0)
        return (thread_time() - begin) / (n // 2)

    # Moving the whole log for each hundred entries would make the ratio 32.
    assert min(cost(640_000) for _ in range(3)) < 8 * min(cost(20_000) for _ in range(3))


@pytest.mark.parametrize(
    ("index", "first", "limits", "lowest"),
    [
        (9, 1, (0, 100), 6),  # what the snapshot has replaced cannot be sent
        (9, 7, (0, 100), 7),
        (9, 1, (0, 2), 8),
        (9, 1, (1, 100), 9),  # one is always sent
        (6, 1, (0, 100), 6),
    ],
)
def test_the_lowest_index_from_which_another_is_reached(
    index: int, first: int, limits: tuple[int, int], lowest: int
) -> None:
    """It is as far back as one message goes, and as the log does."""
    lg = log_of(*[1] * 9)
    log.snapshot(lg, 5, 0)
    assert log.reaching(lg, index, first, *limits) == lowest

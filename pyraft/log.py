"""The in-memory log: every entry after the last compaction, and what the newest snapshot covers.

Duty: index arithmetic over three parallel lists (payloads, terms, types). An index is known to the log if its entry
is held, or, for its term only, if it is the index of the newest snapshot. It knows neither disk nor network.

Happy path: `append` extends the lists, `acquire` slices them, `snapshot` drops their head, `truncate` their tail.
The head is dropped by moving a mark; the lists are compacted when half of them is dead, so that each entry is moved
at most once on average, however long the log and however small the steps.

Failure modes: none at run time; an index that a caller must not use is an assertion.
"""

from typing import Final

from pyraft import configuration
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, EntryBatch, RaftConfiguration, RaftEntry, no_entries

MAX_ENTRIES: Final = 65536
"""Entries in one message or one write where there is a choice: a quarter of what a reader of segments takes."""

HEADER_SIZE: Final = 16
"""Bytes that an entry takes on the wire besides its payload."""
_COMPACT_MIN: Final = 1024
_FITTING_STEP: Final = 1024


class LogSnapshot:
    """Index and term of the last entry that the newest snapshot covers; 0 and 0 without one."""

    __slots__ = ("last_index", "last_term")

    def __init__(self) -> None:
        self.last_index = 0
        self.last_term = 0


class RaftLog:
    """`struct raft_log`. The first entry held has index offset + 1; slot 0 of the lists stands for index base + 1."""

    __slots__ = ("base", "bufs", "offset", "snapshot", "terms", "types")

    def __init__(self) -> None:
        self.bufs: list[bytes] = []
        self.terms: list[int] = []
        self.types: list[int] = []
        self.base = 0
        self.offset = 0
        self.snapshot = LogSnapshot()


def start(lg: RaftLog, snapshot_index: int, snapshot_term: int, start_index: int) -> None:
    """Set the starting point of an empty log; `start_index` is at most snapshot_index + 1."""
    assert num_entries(lg) == 0
    assert 0 < start_index <= snapshot_index + 1
    assert snapshot_index == 0 or snapshot_term != 0
    lg.snapshot.last_index = snapshot_index
    lg.snapshot.last_term = snapshot_term
    _clear(lg, start_index - 1)


def num_entries(lg: RaftLog) -> int:
    """Return the number of entries held."""
    return lg.base + len(lg.bufs) - lg.offset


def last_index(lg: RaftLog) -> int:
    """Return the index of the last entry, or, when none is held, of the last one dropped; 0 for a pristine log."""
    return lg.base + len(lg.bufs)


def last_term(lg: RaftLog) -> int:
    """Return the term of the last entry, 0 if the log is empty."""
    index = lg.base + len(lg.bufs)
    return term_of(lg, index) if index > 0 else 0


def term_of(lg: RaftLog, index: int) -> int:
    """Return the term of `index`, from its entry or from the snapshot; 0 if it is unknown, which shows no conflict."""
    if index > lg.offset:
        slot = index - lg.base - 1
        return lg.terms[slot] if slot < len(lg.terms) else 0
    if index == lg.snapshot.last_index:
        return lg.snapshot.last_term
    return 0


def snapshot_index(lg: RaftLog) -> int:
    """Return the last index of the newest snapshot, 0 without one."""
    return lg.snapshot.last_index


def snapshot_term(lg: RaftLog) -> int:
    """Return the term of the last index of the newest snapshot, 0 without one."""
    return lg.snapshot.last_term


def get(lg: RaftLog, index: int) -> RaftEntry | None:
    """Return the entry at `index`, None if it is not held."""
    slot = index - lg.base - 1
    if index <= lg.offset or slot >= len(lg.bufs):
        return None
    return RaftEntry(lg.terms[slot], lg.types[slot], lg.bufs[slot])


def newest_change(lg: RaftLog, index: int) -> int:
    """Return the index of the last CHANGE entry held up to `index`, 0 for none."""
    while index > lg.offset and lg.types[index - lg.base - 1] != RAFT_CHANGE:
        index -= 1
    return index if index > lg.offset else 0


def append(lg: RaftLog, term: int, type: int, buf: bytes) -> None:
    """Append one entry."""
    assert term > 0
    assert type in (RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE)
    lg.bufs.append(buf)
    lg.terms.append(term)
    lg.types.append(type)


def append_commands(lg: RaftLog, term: int, bufs: list[bytes]) -> None:
    """Append a RAFT_COMMAND entry for each of `bufs`."""
    assert term > 0
    n = len(bufs)
    if n == 1:
        lg.bufs.append(bufs[0])
        lg.terms.append(term)
        lg.types.append(RAFT_COMMAND)
        return
    lg.bufs.extend(bufs)
    lg.terms.extend([term] * n)
    lg.types.extend([RAFT_COMMAND] * n)


def append_batch(lg: RaftLog, batch: EntryBatch) -> None:
    """Append the entries of a batch; it is not modified."""
    lg.bufs.extend(batch.bufs)
    lg.terms.extend(batch.terms)
    lg.types.extend(batch.types)


def append_configuration(lg: RaftLog, term: int, conf: RaftConfiguration) -> None:
    """Append a RAFT_CHANGE entry that carries `conf`."""
    append(lg, term, RAFT_CHANGE, configuration.encode(conf))


def acquire(lg: RaftLog, index: int, max_bytes: int = 0, max_entries: int = 0) -> EntryBatch:
    """Return the entries from `index` on, none if it is not held.

    `max_bytes` (see weight) and `max_entries` limit them, but one is always returned; 0 means no limit.
    """
    slot = index - lg.base - 1
    end = len(lg.bufs)
    if index <= lg.offset or slot >= end:
        return no_entries()
    if 0 < max_entries < end - slot:
        end = slot + max_entries
    if max_bytes > 0 and end - slot > 1:
        end = _fitting(lg.bufs, slot, end, max_bytes)
    return EntryBatch(lg.terms[slot:end], lg.types[slot:end], lg.bufs[slot:end])


def lowest_next(lg: RaftLog) -> int:
    """Return the lowest index from which on entries can be sent: it is held, and the term before it is known."""
    return lg.offset + 1 if lg.offset in (0, lg.snapshot.last_index) else lg.offset + 2


def reaching(lg: RaftLog, index: int, first: int, max_bytes: int, max_entries: int) -> int:
    """Return the lowest index, at least `first`, from which on all up to `index`, which is held, fit (see acquire)."""
    bufs = lg.bufs
    slot = index - lg.base - 1
    least = max(first, lg.offset + 1, index + 1 - max_entries) - lg.base - 1
    total = len(bufs[slot]) + HEADER_SIZE
    while slot > least:
        total += len(bufs[slot - 1]) + HEADER_SIZE
        if 0 < max_bytes < total:
            break
        slot -= 1
    return lg.base + 1 + slot


def weight(bufs: list[bytes]) -> int:
    """Return the bytes that entries with these payloads take on the wire, their headers included."""
    return sum(map(len, bufs)) + HEADER_SIZE * len(bufs)


def weight_of(batch: EntryBatch) -> int:
    """Return `weight` of the entries of a batch, without a look at each where they are known to be alike."""
    alike = batch.alike
    return (alike + HEADER_SIZE) * len(batch.bufs) if alike >= 0 else weight(batch.bufs)


def _fitting(bufs: list[bytes], slot: int, end: int, max_bytes: int) -> int:
    """Return where to stop so that the entries from `slot` on fit, one at least; look only as far as needed."""
    first = slot
    total = 0
    while slot < end:
        step = bufs[slot : min(end, slot + _FITTING_STEP)]
        size = weight(step)
        if total + size > max_bytes:
            total += len(bufs[slot]) + HEADER_SIZE
            while total <= max_bytes:
                slot += 1
                total += len(bufs[slot]) + HEADER_SIZE
            return max(slot, first + 1)
        total += size
        slot += len(step)
    return end


def matching(lg: RaftLog, index: int, terms: list[int]) -> int:
    """Return how many of the entries that were at `index` and on, with these terms, are still (or again) there."""
    slot = index - lg.base - 1
    if index > lg.offset and lg.terms[slot : slot + len(terms)] == terms:
        return len(terms)
    for n, term in enumerate(terms):
        if term_of(lg, index + n) != term:
            return n
    return len(terms)


def truncate(lg: RaftLog, index: int) -> None:
    """Drop the entries from `index` on."""
    slot = max(index - 1, lg.offset) - lg.base
    if slot >= len(lg.bufs):
        return
    del lg.bufs[slot:]
    del lg.terms[slot:]
    del lg.types[slot:]


def snapshot(lg: RaftLog, index: int, trailing: int) -> None:
    """Record that a snapshot covers all up to `index`, and drop entries up to index - trailing, if that one is held."""
    term = term_of(lg, index)
    assert term != 0, "a snapshot ends with an entry of the log"
    lg.snapshot.last_index = index
    lg.snapshot.last_term = term
    if index > trailing and lg.offset < index - trailing <= last_index(lg):
        _drop_head(lg, index - trailing)


def restore(lg: RaftLog, index: int, term: int) -> RaftLog:
    """Empty the log: a snapshot up to `index` of `term` replaces it. Return the former content, for `put_back`."""
    assert index > 0
    assert term > 0
    former = RaftLog()
    _move(lg, former)
    lg.snapshot = LogSnapshot()
    lg.snapshot.last_index = index
    lg.snapshot.last_term = term
    lg.bufs, lg.terms, lg.types = [], [], []
    _clear(lg, index)
    return former


def put_back(lg: RaftLog, former: RaftLog) -> None:
    """Undo `restore`."""
    _move(former, lg)


def _move(src: RaftLog, dst: RaftLog) -> None:
    dst.bufs, dst.terms, dst.types = src.bufs, src.terms, src.types
    dst.base, dst.offset, dst.snapshot = src.base, src.offset, src.snapshot


def _clear(lg: RaftLog, offset: int) -> None:
    lg.bufs.clear()
    lg.terms.clear()
    lg.types.clear()
    lg.base = offset
    lg.offset = offset


def _drop_head(lg: RaftLog, index: int) -> None:
    """Drop the entries up to `index`, their payloads at once, their slots when half of all slots is dead."""
    first = lg.offset - lg.base
    dead = index - lg.base
    lg.offset = index
    if dead < _COMPACT_MIN or dead * 2 < len(lg.bufs):
        lg.bufs[first:dead] = [b""] * (dead - first)
        return
    del lg.bufs[:dead]
    del lg.terms[:dead]
    del lg.types[:dead]
    lg.base = index

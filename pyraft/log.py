"""The in-memory log: every entry after the last compaction, and what the newest snapshot covers.

Duty: index arithmetic over three parallel lists (payloads, terms, types). An index is known to the log if its entry
is held, or, for its term only, if it is the index of the newest snapshot. It knows neither disk nor network.

Happy path: `append` extends the lists, `acquire` slices them, `snapshot` drops their head, `truncate` their tail.
The head is dropped by moving a mark; the lists are compacted when half of them is dead, so that each entry is moved
at most once on average, however long the log and however small the steps.

Failure modes: none at run time; an index that a caller must not use is an assertion.
"""

from typing import Final

from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, EntryBatch, RaftEntry, no_entries

ENTRY_OVERHEAD: Final = 16
"""Bytes that an entry costs beside its payload, on the wire and on disk: its header."""

_COMPACT_MIN: Final = 1024


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


def start(l: RaftLog, snapshot_index: int, snapshot_term: int, start_index: int) -> None:
    """Set the starting point of an empty log; `start_index` is at most snapshot_index + 1."""
    assert num_entries(l) == 0
    assert 0 < start_index <= snapshot_index + 1
    assert snapshot_index == 0 or snapshot_term != 0
    l.snapshot.last_index = snapshot_index
    l.snapshot.last_term = snapshot_term
    _clear(l, start_index - 1)


def num_entries(l: RaftLog) -> int:
    """Return the number of entries held."""
    return l.base + len(l.bufs) - l.offset


def last_index(l: RaftLog) -> int:
    """Return the index of the last entry, or, when none is held, of the last one dropped; 0 for a pristine log."""
    return l.base + len(l.bufs)


def last_term(l: RaftLog) -> int:
    """Return the term of the last entry, 0 if the log is empty."""
    index = l.base + len(l.bufs)
    return term_of(l, index) if index > 0 else 0


def term_of(l: RaftLog, index: int) -> int:
    """Return the term of `index`, from its entry or from the snapshot; 0 if it is unknown."""
    if index > l.offset:
        slot = index - l.base - 1
        return l.terms[slot] if slot < len(l.terms) else 0
    if index == l.snapshot.last_index:
        return l.snapshot.last_term
    return 0


def snapshot_index(l: RaftLog) -> int:
    """Return the last index of the newest snapshot, 0 without one."""
    return l.snapshot.last_index


def snapshot_term(l: RaftLog) -> int:
    """Return the term of the last index of the newest snapshot, 0 without one."""
    return l.snapshot.last_term


def get(l: RaftLog, index: int) -> RaftEntry | None:
    """Return the entry at `index`, None if it is not held."""
    slot = index - l.base - 1
    if index <= l.offset or slot >= len(l.bufs):
        return None
    return RaftEntry(l.terms[slot], l.types[slot], l.bufs[slot])


def append(l: RaftLog, term: int, type: int, buf: bytes) -> None:
    """Append one entry."""
    assert term > 0
    assert type in (RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE)
    l.bufs.append(buf)
    l.terms.append(term)
    l.types.append(type)


def append_commands(l: RaftLog, term: int, bufs: list[bytes]) -> None:
    """Append a RAFT_COMMAND entry for each of `bufs`."""
    assert term > 0
    n = len(bufs)
    l.bufs.extend(bufs)
    l.terms.extend([term] * n)
    l.types.extend([RAFT_COMMAND] * n)


def append_batch(l: RaftLog, batch: EntryBatch) -> None:
    """Append the entries of a batch; it is not modified."""
    l.bufs.extend(batch.bufs)
    l.terms.extend(batch.terms)
    l.types.extend(batch.types)


def acquire(l: RaftLog, index: int, max_bytes: int = 0, max_entries: int = 0) -> EntryBatch:
    """Return the entries from `index` on, none if it is not held.

    `max_bytes` (payloads plus ENTRY_OVERHEAD each) and `max_entries` limit them, but one is always returned; 0 is no
    limit.
    """
    slot = index - l.base - 1
    size = len(l.bufs)
    if index <= l.offset or slot >= size:
        return no_entries()
    end = size if max_entries == 0 else min(size, slot + max_entries)
    if max_bytes > 0:
        # No more than this many can fit, so a follower far behind does not cost a pass over the whole log.
        end = min(end, slot + max_bytes // ENTRY_OVERHEAD + 1)
        bufs = l.bufs[slot:end]
        if payload_size(bufs) > max_bytes:
            end = slot + _fitting(bufs, max_bytes)
            del bufs[end - slot :]
    else:
        bufs = l.bufs[slot:end]
    return EntryBatch(l.terms[slot:end], l.types[slot:end], bufs)


def payload_size(bufs: list[bytes]) -> int:
    """Return the bytes that entries with these payloads weigh, their headers included."""
    return sum(map(len, bufs)) + ENTRY_OVERHEAD * len(bufs)


def _fitting(bufs: list[bytes], max_bytes: int) -> int:
    total = 0
    for n, buf in enumerate(bufs):
        total += len(buf) + ENTRY_OVERHEAD
        if total > max_bytes:
            return max(n, 1)
    return len(bufs)


def matching(l: RaftLog, index: int, terms: list[int]) -> int:
    """Return how many of the entries that were at `index` and on, with these terms, are still (or again) there."""
    slot = index - l.base - 1
    if index > l.offset and l.terms[slot : slot + len(terms)] == terms:
        return len(terms)
    for n, term in enumerate(terms):
        if term_of(l, index + n) != term:
            return n
    return len(terms)


def truncate(l: RaftLog, index: int) -> None:
    """Drop the entries from `index` on."""
    slot = max(index - 1, l.offset) - l.base
    if slot >= len(l.bufs):
        return
    del l.bufs[slot:]
    del l.terms[slot:]
    del l.types[slot:]


def snapshot(l: RaftLog, index: int, trailing: int) -> None:
    """Record that a snapshot covers all up to `index`, and drop entries up to index - trailing, if that one is held."""
    term = term_of(l, index)
    assert term != 0, "a snapshot ends with an entry of the log"
    l.snapshot.last_index = index
    l.snapshot.last_term = term
    if index > trailing and l.offset < index - trailing <= last_index(l):
        _drop_head(l, index - trailing)


def restore(l: RaftLog, index: int, term: int) -> RaftLog:
    """Empty the log: a snapshot up to `index` of `term` replaces it. Return the former content, for `put_back`."""
    assert index > 0
    assert term > 0
    former = RaftLog()
    _move(l, former)
    l.snapshot = LogSnapshot()
    l.snapshot.last_index = index
    l.snapshot.last_term = term
    l.bufs, l.terms, l.types = [], [], []
    _clear(l, index)
    return former


def put_back(l: RaftLog, former: RaftLog) -> None:
    """Undo `restore`."""
    _move(former, l)


def _move(src: RaftLog, dst: RaftLog) -> None:
    dst.bufs, dst.terms, dst.types = src.bufs, src.terms, src.types
    dst.base, dst.offset, dst.snapshot = src.base, src.offset, src.snapshot


def _clear(l: RaftLog, offset: int) -> None:
    l.bufs.clear()
    l.terms.clear()
    l.types.clear()
    l.base = offset
    l.offset = offset


def _drop_head(l: RaftLog, index: int) -> None:
    """Drop the entries up to `index`, their payloads at once, their slots when half of all slots is dead."""
    first = l.offset - l.base
    dead = index - l.base
    l.offset = index
    if dead < _COMPACT_MIN or dead * 2 < len(l.bufs):
        l.bufs[first:dead] = [b""] * (dead - first)
        return
    del l.bufs[:dead]
    del l.terms[:dead]
    del l.types[:dead]
    l.base = index

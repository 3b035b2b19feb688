"""The disk of one explored server: its durable data, and the operations that are still on their way.

Duty: term, vote, snapshot and entries, and a queue of appends, truncations and snapshots that take effect in order,
one `finish` each. A truncation has no callback and takes effect as soon as it is at the head.

Failure modes: `fail` makes the head fail; all that is queued behind an append that failed is void and fails too, until
a truncation at or before it, or a snapshot that replaces the log. `crash` lets the first `keep` units take effect (an
entry is a unit, so an append may be torn) and forgets the rest.
"""

from typing import Any, Final

from pyraft import RAFT_IOERR
from pyraft.types import EntryBatch, RaftSnapshot

APPEND: Final = 0
TRUNCATE: Final = 1
PUT: Final = 2


class Operation:
    """Entries from index `first` on, a truncation at `first`, or a snapshot (`trailing` 0: it replaces the log)."""

    __slots__ = ("batch", "cb", "first", "kind", "req", "snapshot", "status", "trailing")

    def __init__(self, kind: int, first: int, req: Any = None, cb: Any = None) -> None:
        self.kind = kind
        self.first = first
        self.req = req
        self.cb = cb
        self.batch = EntryBatch([], [], [])
        self.snapshot: RaftSnapshot | None = None
        self.trailing = 0
        self.status = 0

    @property
    def units(self) -> int:
        """How many crashes can tell apart: 1, for an append the number of its entries."""
        return max(1, len(self.batch)) if self.status == 0 else 0


class Disk:
    """`cast` is the vote that was cast in the stored term, which `vote` is too unless it was forgotten."""

    __slots__ = ("bufs", "cast", "next_index", "queue", "snapshot", "start", "term", "terms", "types", "vote")

    def __init__(self) -> None:
        self.term = 0
        self.vote = 0
        self.cast = 0
        self.snapshot: RaftSnapshot | None = None
        self.start = 1
        self.terms: list[int] = []
        self.types: list[int] = []
        self.bufs: list[bytes] = []
        self.queue: list[Operation] = []
        self.next_index = 1

    @property
    def last(self) -> int:
        """Index of the last durable entry."""
        return self.start + len(self.terms) - 1

    def holds(self, index: int, term: int) -> bool:
        """Return whether the entry `index` of `term` is durable, itself or in the snapshot."""
        if self.snapshot is not None and index <= self.snapshot.index:
            return True
        slot = index - self.start
        return 0 <= slot < len(self.terms) and self.terms[slot] == term

    def load(self) -> tuple[int, EntryBatch]:
        """Return (start index, entries) for a server that starts."""
        if self.snapshot is not None and self.last < self.snapshot.index:
            self._restart(self.snapshot.index + 1)
        self.next_index = self.last + 1
        return self.start, EntryBatch(self.terms[:], self.types[:], self.bufs[:])

    def append(self, batch: EntryBatch, req: Any, cb: Any) -> None:
        """Queue entries behind all that are there or queued."""
        op = Operation(APPEND, self.next_index, req, cb)
        op.batch = batch
        self.next_index += len(batch)
        self.queue.append(op)

    def truncate(self, index: int) -> None:
        """Queue the removal of the entries from `index` on."""
        self.next_index = index
        self.queue.append(Operation(TRUNCATE, index))
        self._settle()

    def put(self, snapshot: RaftSnapshot, trailing: int, req: Any, cb: Any) -> None:
        """Queue a snapshot; if it replaces the log, entries go on behind it, or behind what was there if it fails."""
        op = Operation(PUT, self.next_index, req, cb)
        op.snapshot = snapshot
        op.trailing = trailing
        if trailing == 0:
            self.next_index = snapshot.index + 1
        self.queue.append(op)

    def finish(self) -> Operation:
        """Let the head take effect, unless it is to fail; the caller calls back with its status."""
        op = self.queue.pop(0)
        if op.status == 0:
            self._perform(op, op.units)
        elif op.kind == PUT and op.trailing == 0:
            self.next_index = op.first
        self._settle()
        return op

    def fail(self) -> Operation:
        """Let the head fail, and void what depends on it."""
        head = self.queue[0]
        head.status = RAFT_IOERR
        if head.kind == APPEND:
            for later in self.queue[1:]:
                if later.kind == TRUNCATE and later.first <= head.first:
                    break
                if later.kind == PUT and later.trailing == 0:
                    later.first = min(later.first, head.first)
                    break
                if later.kind == APPEND:
                    later.status = RAFT_IOERR
            else:
                self.next_index = head.first
        return self.finish()

    def units(self) -> int:
        """Return how many units are queued."""
        return sum(op.units for op in self.queue)

    def crash(self, keep: int) -> None:
        """Let the first `keep` units take effect and forget the rest."""
        for op in self.queue:
            if keep == 0:
                break
            n = min(keep, op.units)
            keep -= n
            if n:
                self._perform(op, n)
        self.queue = []

    def _settle(self) -> None:
        while self.queue and self.queue[0].kind == TRUNCATE:
            self._cut(self.queue.pop(0).first)

    def _perform(self, op: Operation, n: int) -> None:
        if op.kind == APPEND:
            assert self.start <= op.first <= self.last + 1, "entries are written behind a gap"
            self._cut(op.first)
            self.terms += op.batch.terms[:n]
            self.types += op.batch.types[:n]
            self.bufs += op.batch.bufs[:n]
        elif op.kind == TRUNCATE:
            self._cut(op.first)
        else:
            assert op.snapshot is not None
            self.snapshot = op.snapshot
            if op.trailing == 0:
                self._restart(op.snapshot.index + 1)
            else:
                self._drop(min(op.snapshot.index - op.trailing, self.last) - self.start + 1)

    def _cut(self, index: int) -> None:
        slot = max(0, index - self.start)
        del self.terms[slot:], self.types[slot:], self.bufs[slot:]

    def _drop(self, n: int) -> None:
        if n > 0:
            del self.terms[:n], self.types[:n], self.bufs[:n]
            self.start += n

    def _restart(self, index: int) -> None:
        self.terms, self.types, self.bufs = [], [], []
        self.start = index

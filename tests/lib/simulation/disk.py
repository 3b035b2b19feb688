"""The disk of one simulated server, and what is still on its way there.

Duty: durable term, vote, snapshot and entries, and a queue of operations (append, truncate, snapshot) that take
effect in order when the server's disk gets to them. `crash` lets a random prefix of them take effect and forgets the
rest.

Happy path: an operation is submitted, becomes due, takes effect, calls back. Nothing overtakes: like the writes of one
log on a real disk, an operation is durable only if all before it are.

Failure modes: a failed append stores nothing, or a part that nobody was told about and that a later write overwrites
or a restart finds; all that was queued behind it is void (see `fail`). Term and vote are durable when the call returns,
or, if it fails, perhaps durable nevertheless. `damage` loses durable entries, and the disk says so from then on; a
`replacement` has lost everything, and nobody says so.
"""

from collections import deque
from random import Random
from typing import Any, Final

from pyraft import configuration
from pyraft.types import RAFT_CHANGE, RAFT_VOTER, EntryBatch, RaftConfiguration, RaftSnapshot

APPEND: Final = 0
TRUNCATE: Final = 1
PUT: Final = 2


class Operation:
    """A write under way: entries from index `first` on, a truncation at `first`, or a snapshot.

    For a snapshot that replaces the log, `first` is where the log goes on if storing it fails.
    """

    __slots__ = ("batch", "cb", "first", "install", "keep", "kind", "req", "snapshot", "status", "trailing")

    def __init__(self, kind: int, req: Any = None, cb: Any = None) -> None:
        self.kind = kind
        self.req = req
        self.cb = cb
        self.first = 0
        self.keep = 0
        self.batch: EntryBatch | None = None
        self.snapshot: RaftSnapshot | None = None
        self.trailing = 0
        self.status = 0


class Disk:
    """The disk of one server; it survives the server's lives."""

    __slots__ = (
        *(
            "bufs",
            "damaged_last",
            "damaged_term",
            "next_index",
            "queue",
            "recovering",
            "snapshot",
            "start",
            "term",
            "terms",
            "types",
        ),
        "vote",
        "wiped_last",
        "wiped_last_term",
        "wiped_term",
    )

    def __init__(self) -> None:
        self.term = 0
        self.vote = 0
        self.snapshot: RaftSnapshot | None = None
        self.start = 1
        self.terms: list[int] = []
        self.types: list[int] = []
        self.bufs: list[bytes] = []
        self.queue: deque[Operation] = deque()
        self.next_index = 1
        self.recovering = False
        self.damaged_last = 0  # Index of the last entry before the damage that it recovers from, and the term then.
        self.damaged_term = 0
        self.wiped_last = 0  # Index and term of the last entry of the disk that was replaced by this one, its term.
        self.wiped_last_term = 0
        self.wiped_term = 0

    @property
    def last(self) -> int:
        """Index of the last durable entry (start - 1 for none)."""
        return self.start + len(self.terms) - 1

    def holds(self, index: int, term: int) -> bool:
        """Return whether the entry `index` of `term` is durable here, itself or in the snapshot."""
        if self.snapshot is not None and index <= self.snapshot.index:
            return True
        slot = index - self.start
        return 0 <= slot < len(self.terms) and self.terms[slot] == term

    def may_have_held(self, index: int, term: int) -> bool:
        """Return whether it has lost an entry that may have been this one, to damage or with its former disk."""
        if self.lacks_what_it_had and index <= self.wiped_last and term <= self.wiped_term:
            return True
        return self.recovering and index <= self.damaged_last and term <= self.damaged_term

    @property
    def last_term(self) -> int:
        """Term of the last durable entry, in the snapshot if it is not here; 0 for an empty disk."""
        if self.terms:
            return self.terms[-1]
        return self.snapshot.term if self.snapshot is not None else 0

    @property
    def lacks_what_it_had(self) -> bool:
        """Whether its former disk may have had what this one has not: a log that ends later has all of it (5.4)."""
        return (self.last_term, self.last) < (self.wiped_last_term, self.wiped_last)

    def load(self) -> tuple[int, EntryBatch]:
        """Return (start index, entries) for a server that starts; entries that end before the snapshot are useless."""
        if self.snapshot is not None and self.last < self.snapshot.index:
            self._restart(self.snapshot.index + 1)
        self.next_index = self.last + 1
        return self.start, EntryBatch(self.terms[:], self.types[:], self.bufs[:])

    # Submission.

    def append(self, req: Any, cb: Any, batch: EntryBatch) -> None:
        """Queue an append of `batch` at the next index."""
        op = Operation(APPEND, req, cb)
        op.batch = batch
        op.first = self.next_index
        op.keep = len(batch)
        self.next_index += len(batch)
        self.queue.append(op)

    def truncate(self, index: int) -> None:
        """Queue a truncation: the entries from `index` on are to go."""
        op = Operation(TRUNCATE)
        op.first = index
        self.next_index = index
        self.queue.append(op)

    def put(self, req: Any, cb: Any, trailing: int, snapshot: RaftSnapshot) -> None:
        """Queue a snapshot; with `trailing` 0, or if the log ends before it, it replaces the log."""
        op = Operation(PUT, req, cb)
        op.snapshot = snapshot
        op.trailing = 0 if snapshot.index >= self.next_index else trailing
        op.first = self.next_index
        if op.trailing == 0:
            self.next_index = snapshot.index + 1
        self.queue.append(op)

    # Effect.

    def perform(self, op: Operation) -> None:
        """Let one operation take effect."""
        if op.kind == APPEND:
            assert op.batch is not None
            self._store(op.first, op.batch, op.keep)
        elif op.kind == TRUNCATE:
            self._cut(op.first)
        else:
            assert op.snapshot is not None
            self._put(op.snapshot, op.trailing)

    def fail(self, op: Operation, dice: Random, status: int) -> None:
        """Let the append `op` fail. A write queued behind the hole is void: it fails too, or it only seems to succeed.

        A truncation at or before the hole, or a snapshot that replaces the log, ends the damage. One that ends beyond
        the hole now replaces it as well, but what was queued behind that before is void.
        """
        if op.keep == 0:
            return  # It was void itself, and what follows it may be new.
        if dice.random() < 0.3:
            assert op.batch is not None
            self._store(op.first, op.batch, dice.randint(0, op.keep))
        later_fail = dice.random() < 0.5
        next_index = op.first
        for later in self.queue:
            if later.kind == TRUNCATE and later.first <= op.first:
                return
            if later.kind == PUT and later.trailing == 0:
                later.first = min(later.first, op.first)
                return
            if later.kind == PUT and later.snapshot.index >= op.first:
                later.trailing = 0
                later.first = op.first
                next_index = later.snapshot.index + 1
            if later.kind == APPEND:
                later.keep = 0
                if later_fail:
                    later.status = status
        self.next_index = min(self.next_index, next_index)

    def crash(self, dice: Random) -> None:
        """Lose what is queued, except for a random prefix whose last append may itself be a prefix."""
        for op in list(self.queue)[: dice.randint(0, len(self.queue))]:
            self.queue.popleft()
            if op.status == 0:
                self.perform(op)
        if self.queue and self.queue[0].kind == APPEND:
            op = self.queue[0]
            op.keep = dice.randint(0, op.keep)
            self.perform(op)
        self.queue.clear()

    def damage(self, dice: Random) -> None:
        """Lose some of the last entries, which the server may have acknowledged; the disk knows that it has."""
        index = self.start + dice.randint(0, len(self.terms))
        conf = self._configuration(index)
        if conf is None or [s.role for s in conf.servers].count(RAFT_VOTER) < 2:
            return  # A server that seems to be the only voter does not start any more.
        self.damaged_last = max(self.damaged_last, self.last)
        self.damaged_term = self.term
        self._cut(index)
        self.recovering = True

    def _configuration(self, index: int) -> RaftConfiguration | None:
        """Return the newest configuration before entry `index`."""
        for slot in range(index - self.start - 1, -1, -1):
            if self.types[slot] == RAFT_CHANGE:
                return configuration.decode(self.bufs[slot])[1]
        return self.snapshot.configuration if self.snapshot is not None else None

    def replacement(self) -> "Disk":
        """Return the empty disk that takes the place of this one."""
        disk = Disk()
        mine, former = (self.last_term, self.last), (self.wiped_last_term, self.wiped_last)
        disk.wiped_last_term, disk.wiped_last = max(mine, former)
        disk.wiped_term = max(self.term, self.wiped_term)
        return disk

    def _store(self, first: int, batch: EntryBatch, n: int) -> None:
        if n == 0:
            return
        assert self.start <= first <= self.last + 1, f"a write at {first} on a log of {self.start} to {self.last}"
        self._cut(first)
        self.terms += batch.terms[:n]
        self.types += batch.types[:n]
        self.bufs += batch.bufs[:n]

    def _cut(self, index: int) -> None:
        slot = max(0, index - self.start)
        del self.terms[slot:], self.types[slot:], self.bufs[slot:]

    def _put(self, snapshot: RaftSnapshot, trailing: int) -> None:
        self.snapshot = snapshot
        if trailing == 0:
            self._restart(snapshot.index + 1)
            return
        gone = min(snapshot.index - trailing, self.last) - self.start + 1
        if gone > 0:
            del self.terms[:gone], self.types[:gone], self.bufs[:gone]
            self.start += gone

    def _restart(self, index: int) -> None:
        self.terms, self.types, self.bufs = [], [], []
        self.start = index

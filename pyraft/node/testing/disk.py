"""The disk of one simulated member: durable data, and data on its way there.

Duty: `Disk` holds term, vote, snapshot and entries, and a queue of writes that take effect in their order, each some
time after it came. It survives the member's lives.

Happy path: `append`, `truncate`, `put`; when the first of them is due, `perform` has it take effect.

Failure modes: `crash` has a random part of the queue take effect, from its beginning, as a power cut does; `cancel`
tells who waits for the rest that it will not come.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from pyraft import RAFT_CANCELED, configuration
from pyraft.node.identity import Identity
from pyraft.types import EntryBatch, RaftSnapshot

APPEND, TRUNCATE, PUT, GET = range(4)
_NOT_BEFORE: Final = 0.0


class Write:
    """One operation in the queue; `done(status)` follows it, if there is one."""

    __slots__ = ("batch", "done", "due", "first", "keep", "kind", "snapshot", "trailing")

    def __init__(self, kind: int, done: Callable[[int], None] | None) -> None:
        self.kind = kind
        self.done = done
        self.due = _NOT_BEFORE
        self.first = 0
        self.keep = 0
        self.batch: EntryBatch | None = None
        self.snapshot: RaftSnapshot | None = None
        self.trailing = 0


class Disk:
    """See the head of this module."""

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.term = 0
        self.vote = 0
        self.snapshot: RaftSnapshot | None = None
        self.start = 1
        """Index of the first entry."""
        self.entries: list[tuple[int, int, bytes]] = []
        """Term, type and payload of each."""
        self.queue: deque[Write] = deque()
        self.next = 1
        """Index of the next entry to be written, when all that is queued is done."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been stored, ever."""
        return self.term == 0 and self.vote == 0 and self.snapshot is None and not self.entries

    def load(self) -> tuple[int, EntryBatch]:
        """Return the first index and the entries, for a member that starts."""
        if self.snapshot is not None and self.start + len(self.entries) <= self.snapshot.index:
            self._restart(self.snapshot.index + 1)
        self.next = self.start + len(self.entries)
        found = self.entries
        return self.start, EntryBatch([e[0] for e in found], [e[1] for e in found], [e[2] for e in found])

    # Requests.

    def append(self, batch: EntryBatch, done: Callable[[int], None]) -> Write:
        """Have entries written behind those that there are."""
        write = Write(APPEND, done)
        write.batch, write.first, write.keep = batch, self.next, len(batch)
        self.next += len(batch)
        self.queue.append(write)
        return write

    def truncate(self, index: int) -> Write:
        """Have the entries from `index` on removed."""
        write = Write(TRUNCATE, None)
        write.first = self.next = index
        self.queue.append(write)
        return write

    def put(self, snapshot: RaftSnapshot, trailing: int, done: Callable[[int], None]) -> Write:
        """Have a snapshot stored. With `trailing` 0, or if the log ends before it, it takes the log's place."""
        write = Write(PUT, done)
        write.snapshot = copied(snapshot)
        write.trailing = 0 if snapshot.index >= self.next else trailing
        if write.trailing == 0:
            self.next = snapshot.index + 1
        self.queue.append(write)
        return write

    # Outcomes.

    def perform(self, write: Write) -> None:
        """Have a write take effect."""
        if write.kind == APPEND:
            assert write.batch is not None
            batch = write.batch
            self.entries += [(batch.terms[i], batch.types[i], bytes(batch.bufs[i])) for i in range(write.keep)]
        elif write.kind == TRUNCATE:
            del self.entries[max(0, write.first - self.start) :]
        elif write.kind == PUT:
            assert write.snapshot is not None
            self.snapshot = write.snapshot
            if write.trailing == 0:
                self._restart(write.snapshot.index + 1)
            else:
                gone = max(0, write.snapshot.index - write.trailing - self.start + 1)
                del self.entries[:gone]
                self.start += gone

    def crash(self, dice: Random) -> list[Write]:
        """Lose what is queued, but for a random part from its beginning; return what was not done."""
        for _ in range(dice.randint(0, len(self.queue))):
            self.perform(self.queue.popleft())
        if self.queue and self.queue[0].kind == APPEND:
            first = self.queue[0]
            first.keep = dice.randint(0, first.keep)
            self.perform(first)
        return self.give_up()

    def give_up(self) -> list[Write]:
        """Empty the queue; return what was in it."""
        left = list(self.queue)
        self.queue.clear()
        return left

    def _restart(self, index: int) -> None:
        self.entries = []
        self.start = index


def cancel(writes: list[Write]) -> None:
    """Tell who waits for these that they will not be done."""
    for write in writes:
        if write.done is not None:
            write.done(RAFT_CANCELED)


def copied(snapshot: RaftSnapshot) -> RaftSnapshot:
    """Return a copy that shares nothing that may change."""
    fresh: Any = RaftSnapshot()
    fresh.index, fresh.term = snapshot.index, snapshot.term
    fresh.configuration = configuration.copy(snapshot.configuration)
    fresh.configuration_index = snapshot.configuration_index
    fresh.bufs = [b"".join(bytes(piece) for piece in snapshot.bufs)]
    copy: RaftSnapshot = fresh
    return copy

"""Buffers and log entries: struct raft_buffer and struct raft_entry, one by one and as columns.

Duty: the types that stand wherever C has a raft_buffer (`Buffer`, `RaftBuffer`, `as_bytes`) or an array of raft_entry
(`Entries`, `EntryBatch`). The library keeps payloads as `bytes`. Others import all of this from `types`, where the rest
of raft.h is.

Failure modes: `as_bytes` raises TypeError on anything but a buffer; callers at the border make that
RAFT_INVALID.
"""

from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast, overload

RAFT_COMMAND: Final = 1
RAFT_BARRIER: Final = 2
RAFT_CHANGE: Final = 3


class BytesLike(Protocol):
    """All that memoryview() takes: bytes, bytearray, memoryview, array.array, mmap.mmap, …; for type checkers only."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class RaftBuffer:
    """`struct raft_buffer`: the first `len` bytes of the bytes-like object `base` (all of it by default)."""

    __slots__ = ("base", "len")

    def __init__(self, base: BytesLike = b"", len: int | None = None) -> None:
        self.base = base
        self.len = memoryview(base).nbytes if len is None else len


Buffer: TypeAlias = BytesLike | RaftBuffer
"""The types that are accepted wherever C takes a raft_buffer."""


_Fsm = TypeVar("_Fsm")
_Answer = TypeVar("_Answer")

Given: TypeAlias = (
    Callable[[_Fsm, list[bytes]], _Answer]
    | Callable[[_Fsm, list[memoryview]], _Answer]
    | Callable[[_Fsm, list[bytes | memoryview]], _Answer]
)
"""A function of a state machine that gets what `snapshot` gave: bytes as they are, all else as views of it."""


def as_bytes(buf: Buffer) -> bytes:
    """Return the content of a buffer as `bytes`: itself if it is bytes, else a copy.

    Raises TypeError on anything but a buffer, ValueError on a RaftBuffer longer than its base or a released memoryview,
    BufferError on memory that is not contiguous.
    """
    if type(buf) is bytes:
        return buf
    if isinstance(buf, RaftBuffer):
        view = memoryview(buf.base)
        if not 0 <= buf.len <= view.nbytes:
            raise ValueError(f"a buffer of length {buf.len} on {view.nbytes} bytes")
        if type(buf.base) is bytes and buf.len == len(buf.base):
            return buf.base
        return view.tobytes()[: buf.len]
    return bytes(memoryview(buf))


class RaftEntry:
    """`struct raft_entry`: one entry of the log. `buf` is its payload."""

    __slots__ = ("buf", "term", "type")

    def __init__(self, term: int = 0, type: int = RAFT_COMMAND, buf: Buffer = b"") -> None:
        self.term = term
        self.type = type
        self.buf: Any = buf  # any buffer in what users make, bytes in what they get

    def __repr__(self) -> str:
        return f"RaftEntry({self.term}, {self.type}, {self.buf!r})"


class EntryBatch:
    """Entries as three parallel lists; the library hands these out wherever C has an array of raft_entry.

    It reads as a sequence of RaftEntry, made on access. The columns spare an object per entry in the log, in messages
    and on the way to the disk; the collector has nothing to visit in them. Never mutate one that was handed over.
    It is registered as a Sequence, not derived: a compiled class must not have an interpreted base.

    `head` and `body` are for implementations of RaftIo: the batch in their own encoding, once one of them has made it
    for a file or a message, so that others need not make it again. None before; slices of a batch have none.

    `alike` is a note of theirs, too: if several entries are all commands of one term with payloads of one length, which
    is common, it is that length, and nobody needs to look at each of them again. -1 where nobody has looked, or it is
    not so.
    """

    __slots__ = ("alike", "body", "bufs", "head", "terms", "types")

    def __init__(self, terms: list[int], types: list[int], bufs: list[bytes]) -> None:
        self.terms = terms
        self.types = types
        self.bufs = bufs
        self.alike = -1
        self.head: bytes | None = None
        self.body: bytes | None = None

    @staticmethod
    def of(entries: "Entries", n: int) -> "EntryBatch":
        """Return the first `n` of any sequence of entries as a batch (the same object where it is one of n)."""
        if isinstance(entries, EntryBatch):
            if len(entries.bufs) == n:
                return entries
            return EntryBatch(entries.terms[:n], entries.types[:n], entries.bufs[:n])
        head = entries[:n]
        return EntryBatch([e.term for e in head], [e.type for e in head], [as_bytes(e.buf) for e in head])

    def __len__(self) -> int:
        return len(self.bufs)

    @overload
    def __getitem__(self, i: int) -> RaftEntry: ...

    @overload
    def __getitem__(self, i: slice) -> "EntryBatch": ...

    def __getitem__(self, i: Any) -> "RaftEntry | EntryBatch":
        if isinstance(i, slice):
            return EntryBatch(self.terms[i], self.types[i], self.bufs[i])
        return RaftEntry(self.terms[i], self.types[i], self.bufs[i])

    def __iter__(self) -> Iterator[RaftEntry]:
        for i in range(len(self.bufs)):
            yield RaftEntry(self.terms[i], self.types[i], self.bufs[i])

    def __repr__(self) -> str:
        return f"EntryBatch({list(self)!r})"


cast(ABCMeta, Sequence).register(EntryBatch)

Entries: TypeAlias = Sequence[RaftEntry] | EntryBatch
"""The types that stand where C has an array of raft_entry."""


def no_entries() -> EntryBatch:
    """Return a fresh empty batch."""
    return EntryBatch([], [], [])

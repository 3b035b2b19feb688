"""The memory that an open segment is written from.

Duty: `SegmentBuffer` encodes batches of entries, one behind the other, into page-aligned memory whose address direct
I/O accepts, and cuts it into writes of whole blocks. Two arenas take turns: while one is being written the next
batches go into the other, so that memory under a write in flight is never touched. A last block that is only partly
used is copied to the head of the other arena, as the next write has to write it again, extended (uv_segment.c).

Happy path: append() for each io.append; take() when a write may start, given_back() when it is done.

Failure modes: append() raises Failure(RAFT_NOMEM) when the heap has no memory, and Failure(RAFT_TOOBIG) for a payload
of 4 GiB and more; the buffer is then as before.
"""

import struct
from typing import Final

from io_uv import crc, encoding, kaio, segment
from io_uv.failure import Failure
from pyraft import errors, heap
from pyraft.types import EntryBatch

FORMAT_SIZE: Final = 8
"""Size of the format word at the head of a segment."""
CHECKSUMS_SIZE: Final = 8

_MIN_ARENA: Final = 64 * 1024
_FORMAT: Final = struct.pack("<Q", segment.DISK_FORMAT)
_CHECKSUMS: Final = struct.Struct("<II")


def batch_size(batch: EntryBatch) -> int:
    """Return the bytes that a batch takes in a segment. Payloads have a length that is a multiple of 8."""
    bufs = batch.bufs
    n = len(bufs)
    if n == 1:
        payload = len(bufs[0])
    else:
        payload = batch.alike * n if batch.alike >= 0 else sum(map(len, bufs))
    return CHECKSUMS_SIZE + encoding.BATCH_HEADER_SIZE + encoding.ENTRY_HEADER_SIZE * n + payload


_GONE: Final = memoryview(b"")  # of an arena that was given back


class Arena:
    """Page-aligned memory from the heap of raft_heap_set; `address` is where it is."""

    __slots__ = ("address", "block_size", "memory", "size")

    def __init__(self, block_size: int, size: int) -> None:
        memory = heap.raft_aligned_alloc(block_size, size)
        if memory is None:
            raise Failure(errors.RAFT_NOMEM, "out of memory")
        self.memory = memory
        self.address = kaio.address_of(memory)
        self.block_size = block_size
        self.size = size

    def free(self) -> None:
        """Give the memory back to the heap."""
        memory, self.memory = self.memory, _GONE
        heap.raft_aligned_free(self.block_size, memory)


class SegmentBuffer:
    """Encoded batches that wait to be written to one segment; format() comes first.

    `used` is the number of bytes in the arena that is being filled, the copied head of the last block included.
    """

    __slots__ = ("_active", "_block_size", "_first", "_head", "_spare", "_taken", "used")

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._active: Arena | None = None
        self._spare: Arena | None = None
        self._taken: Arena | None = None
        # How many of the `used` bytes were copied from the write before.
        self._head = 0
        # Where the first batch of the segment ends, until it is taken.
        self._first = 0
        self.used = 0

    def append(self, batch: EntryBatch, size: int) -> None:
        """Encode a batch that takes `size` bytes (batch_size) behind what is there."""
        start = self.used
        arena = self._active
        if arena is None or arena.size < start + size:
            arena = self._make_room(start + size)
        if self._first > FORMAT_SIZE and self._spare is not None and self._spare.size < arena.size:
            # The first write will leave this batch behind for the other arena.
            self._spare = self._larger(self._spare, 0, arena.size)
        if len(batch.bufs) == 1:
            header, payload = encoding.encode_batch_header(batch), batch.bufs[0]
        else:
            header, payload = encoding.encode_batch(batch)
        # Each checksum starts from 0 (raft/uv.h).
        head = _CHECKSUMS.pack(crc.continued(header, 0), crc.continued(payload, 0)) + header
        middle = start + len(head)
        arena.memory[start:middle] = head
        arena.memory[middle : start + size] = payload
        self.used = start + size
        if start == FORMAT_SIZE and self._first == FORMAT_SIZE:
            self._first = self.used

    def format(self) -> None:
        """Start a segment: put the format word at its head. Both arenas are made here, so that take() cannot fail."""
        assert self.used == 0
        arena = self._make_room(FORMAT_SIZE)
        if self._spare is None:
            self._spare = Arena(self._block_size, arena.size)
        arena.memory[0:FORMAT_SIZE] = _FORMAT
        self.used = self._first = FORMAT_SIZE

    def take(self) -> tuple[Arena, int, int]:
        """Return (arena, length, used) of the next write: `used` bytes, and zeros up to `length`, whole blocks.

        The first write of a segment has its first batch only. So a segment that lost its first sector to a power cut
        holds no whole batch, and one that holds a batch without it is known to be damaged (B38).

        The arena must not be touched until given_back() is called. Entries appended from now on go into the other
        one, behind a copy of the last block where that is not full.
        """
        assert self._taken is None
        assert self._active is not None
        assert self.used > self._head
        arena, block = self._active, self._block_size
        end, self._first = self._first or self.used, 0
        full = end - end % block
        rest = self.used - full
        other = self._spare
        assert other is not None
        self._taken, self._active, self._spare = arena, other, None
        self._head = end - full
        self.used = rest
        other.memory[0:rest] = arena.memory[full : full + rest]
        if end == full:
            return arena, full, end
        arena.memory[end : full + block] = bytes(full + block - end)
        return arena, full + block, end

    def given_back(self) -> None:
        """Say that the write of the arena that take() returned has ended."""
        assert self._taken is not None
        self._spare, self._taken = self._taken, None

    def close(self) -> None:
        """Release all memory. No write may be in flight."""
        assert self._taken is None
        for arena in (self._active, self._spare):
            if arena is not None:
                arena.free()
        self._active = self._spare = None

    def _make_room(self, size: int) -> Arena:
        """Return the arena being filled, grown to hold `size` bytes with what it has kept."""
        self._active = self._larger(self._active, self.used, size)
        return self._active

    def _larger(self, arena: Arena | None, used: int, size: int) -> Arena:
        """Return an arena of `size` bytes and more with the first `used` ones of the given one, which is released."""
        wanted = max(_MIN_ARENA, 1 << (size - 1).bit_length())
        fresh = Arena(self._block_size, wanted + -wanted % self._block_size)
        if arena is not None:
            fresh.memory[0:used] = arena.memory[0:used]
            arena.free()
        return fresh

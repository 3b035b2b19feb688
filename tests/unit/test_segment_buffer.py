"""The memory that segments are written from."""

import random
import struct

import pytest

from io_uv import crc
from io_uv.failure import Failure
from io_uv.segment_buffer import SegmentBuffer, batch_size
from pyraft import errors, heap
from pyraft.types import EntryBatch
from tests.lib.messages import four_gib

BLOCK = 512


def batch(*sizes: int, term: int = 1) -> EntryBatch:
    return EntryBatch([term] * len(sizes), [1] * len(sizes), [bytes([i + 1]) * size for i, size in enumerate(sizes)])


def encoded(b: EntryBatch) -> bytes:
    """A batch as raft/uv.h describes it, put together independently."""
    header = struct.pack("<Q", len(b.bufs))
    for term, type, buf in zip(b.terms, b.types, b.bufs, strict=True):
        header += struct.pack("<QB3xI", term, type, len(buf))
    payload = b"".join(b.bufs)
    return struct.pack("<II", crc.crc32_stdlib(header), crc.crc32_stdlib(payload)) + header + payload


def make() -> SegmentBuffer:
    buffer = SegmentBuffer(BLOCK)
    buffer.format()
    return buffer


def test_golden_bytes() -> None:
    """A segment with one entry has the bytes that libraft writes."""
    buffer = make()
    b = EntryBatch([1], [1], [b"ABCDEFGH"])
    buffer.append(b, batch_size(b))
    arena, length, used = buffer.take()
    assert used == 48
    assert length == BLOCK
    golden = "0100000000000000486653db68d6d0530100000000000000010000000000000001000000080000004142434445464748"
    assert bytes(arena.memory[:used]).hex() == golden
    assert not any(arena.memory[used:length])


def test_address_is_page_aligned() -> None:
    """Direct I/O gets an aligned address."""
    buffer = make()
    buffer.append(batch(8), batch_size(batch(8)))
    arena, _, _ = buffer.take()
    assert arena.address % 4096 == 0


def test_partly_used_block_is_written_again() -> None:
    """The last block of a write that it does not fill comes back at the head of the next write."""
    buffer = make()
    first, second = batch(600), batch(64, 64)
    buffer.append(first, batch_size(first))
    arena, length, used = buffer.take()
    assert (length, used) == (2 * BLOCK, 8 + 32 + 600)
    kept = bytes(arena.memory[BLOCK:used])
    buffer.append(second, batch_size(second))
    buffer.given_back()
    arena, length, used = buffer.take()
    assert bytes(arena.memory[:used]) == kept + encoded(second)
    assert length == BLOCK


def test_full_block_is_not_written_again() -> None:
    """After a write that ends with a block the next one starts afresh."""
    buffer = make()
    first = batch(BLOCK - 8 - 32)
    buffer.append(first, batch_size(first))
    _, length, used = buffer.take()
    assert length == used == BLOCK
    assert buffer.used == 0
    buffer.append(batch(8), batch_size(batch(8)))
    buffer.given_back()
    arena, _, used = buffer.take()
    assert bytes(arena.memory[:used]) == encoded(batch(8))


def test_memory_in_flight_is_not_touched() -> None:
    """Entries appended while a write is in flight, however many, leave the memory of the write alone."""
    buffer = make()
    buffer.append(batch(64), batch_size(batch(64)))
    arena, length, _ = buffer.take()
    before = bytes(arena.memory[:length])
    for _ in range(5):
        big = batch(100_000)
        buffer.append(big, batch_size(big))
    assert bytes(arena.memory[:length]) == before


def test_payload_of_4_gib_is_refused() -> None:
    """A length that has no room in its field is refused, and nothing has changed."""
    buffer = make()
    with pytest.raises(Failure) as info:
        buffer.append(EntryBatch([1], [1], [four_gib()]), 64)
    assert info.value.code == errors.RAFT_TOOBIG
    assert buffer.used == 8


@pytest.fixture
def failing_heap() -> "list[int]":
    """Make aligned allocations fail once the count in the list is used up."""
    return [0]


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the heap has no memory, append fails with RAFT_NOMEM and what was there stays."""
    left = [4]
    base = heap.RaftHeap()

    def aligned_alloc(data: object, alignment: int, size: int) -> heap.Memory | None:
        left[0] -= 1
        return base.aligned_alloc(data, alignment, size) if left[0] >= 0 else None

    mine = heap.RaftHeap()
    original = heap.RaftHeap().aligned_alloc
    base.aligned_alloc = original
    mine.aligned_alloc = aligned_alloc
    heap.raft_heap_set(mine)
    try:
        buffer = make()
        buffer.append(batch(8), batch_size(batch(8)))
        big = batch(100_000)
        buffer.append(big, batch_size(big))
        bigger = batch(1_000_000)
        with pytest.raises(Failure) as info:
            buffer.append(bigger, batch_size(bigger))
    finally:
        heap.raft_heap_set_default()
    assert info.value.code == errors.RAFT_NOMEM
    arena, _, used = buffer.take()
    assert bytes(arena.memory[8:used]) == encoded(batch(8))
    buffer.given_back()
    arena, _, used = buffer.take()
    assert bytes(arena.memory[8:used]) == encoded(batch(8)) + encoded(big)


def test_any_sequence_of_writes_adds_up_to_the_file() -> None:
    """Appends may come at any time; the writes laid over each other are format word and batches, one behind the
    other."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    buffer = make()
    expected = struct.pack("<Q", 1)
    disk = bytearray(1 << 20)
    next_block, in_flight = 0, False
    for _ in range(300):
        if rng.random() < 0.6:
            b = batch(*(8 * rng.randrange(0, 40) for _ in range(rng.randrange(1, 6))), term=rng.randrange(1, 9))
            buffer.append(b, batch_size(b))
            expected += encoded(b)
        elif not in_flight and len(expected) > next_block * BLOCK + buffer._head:
            arena, length, used = buffer.take()
            offset = next_block * BLOCK
            disk[offset : offset + length] = arena.memory[:length]
            next_block = (offset + used) // BLOCK
            written = offset + used
            assert bytes(disk[:written]) == expected[:written]
            assert not any(disk[written : offset + length])
            in_flight = True
        elif in_flight:
            buffer.given_back()
            in_flight = False


def test_the_first_write_of_a_segment_has_one_batch() -> None:
    """The batch that came after it follows in the next write, from the block in which the first batch ends."""
    buffer = make()
    batches = [batch(24), batch(9000), batch(64), batch(16)]
    for each in batches:
        buffer.append(each, batch_size(each))
    image = struct.pack("<Q", 1) + b"".join(map(encoded, batches))
    arena, length, used = buffer.take()
    assert (length, used) == (BLOCK, 8 + batch_size(batches[0]))
    assert bytes(arena.memory[:length]) == image[:used].ljust(length, b"\0")
    buffer.given_back()
    arena, length, used = buffer.take()
    assert used == len(image)
    assert bytes(arena.memory[:length]) == image.ljust(length, b"\0")
    buffer.given_back()
    buffer.close()

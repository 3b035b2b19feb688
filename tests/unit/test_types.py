"""The structs of raft.h: what reads as a C count, what is a buffer, how they print, batches as sequences."""

from typing import Any

import pytest

from pyraft import (
    RAFT_CHANGE,
    RAFT_COMMAND,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VERSION_NUMBER,
    EntryBatch,
    RaftAppendEntries,
    RaftBuffer,
    RaftConfiguration,
    RaftEntry,
    RaftServer,
    RaftSnapshot,
    raft_configuration_add,
    raft_version_number,
)
from pyraft.types import Entries, as_bytes, no_entries

ENTRIES = [RaftEntry(1, RAFT_COMMAND, b"one"), RaftEntry(2, RAFT_CHANGE, bytearray(b"two")), RaftEntry(2, 1, b"")]


def plain(entries: Entries) -> list[tuple[int, int, bytes]]:
    """Return entries as comparable values."""
    return [(e.term, e.type, e.buf) for e in entries]


def test_version_is_that_of_the_c_library() -> None:
    """0.18.1 reads 1801."""
    assert raft_version_number() == RAFT_VERSION_NUMBER == 1801


def test_a_server_is_nobody_until_it_is_told_who() -> None:
    """In C everything is zero at first, too."""
    server = RaftServer()
    assert (server.id, server.address, server.role) == (0, "", RAFT_STANDBY)


def test_counts_follow_their_arrays() -> None:
    """n, n_entries and n_bufs, which C keeps beside its arrays, are lengths."""
    conf = RaftConfiguration()
    assert conf.n == 0
    assert raft_configuration_add(conf, 1, "one", RAFT_SPARE) == 0
    args = RaftAppendEntries()
    args.entries = ENTRIES
    snapshot = RaftSnapshot()
    snapshot.bufs = [b"a", b"b"]
    assert (conf.n, args.n_entries, snapshot.n_bufs) == (1, 3, 2)


def test_structs_print_what_they_hold() -> None:
    """The repr of servers, configurations, entries and batches names their content."""
    conf = RaftConfiguration()
    raft_configuration_add(conf, 1, "one", RAFT_SPARE)
    assert repr(conf) == "RaftConfiguration([RaftServer(1, 'one', spare)])"
    assert repr(RaftServer(2, "two", 77)) == "RaftServer(2, 'two', 77)"
    assert repr(EntryBatch([3], [1], [b"x"])) == "EntryBatch([RaftEntry(3, 1, b'x')])"


def test_batch_reads_as_a_sequence() -> None:
    """A batch made of entries gives them back, whole, by index, by slice and in a loop."""
    batch = EntryBatch.of(ENTRIES, 3)
    expected = [(1, 1, b"one"), (2, 3, b"two"), (2, 1, b"")]
    assert len(batch) == 3
    assert plain(batch) == plain(list(batch)) == expected
    assert plain(batch[1:]) == expected[1:]
    assert isinstance(batch[1:], EntryBatch)
    assert plain([batch[-1]]) == expected[-1:]
    assert type(batch.bufs[1]) is bytes
    assert len(no_entries()) == 0


def test_batch_of_a_batch_is_not_copied_unless_cut() -> None:
    """The first n of a batch of n is the batch itself, fewer are another one."""
    batch = EntryBatch.of(ENTRIES, 3)
    assert EntryBatch.of(batch, 3) is batch
    assert plain(EntryBatch.of(batch, 2)) == plain(batch)[:2]
    assert plain(EntryBatch.of(ENTRIES, 1)) == plain(batch)[:1]


@pytest.mark.parametrize(
    "buf",
    [b"text", bytearray(b"text"), memoryview(b"text"), RaftBuffer(b"text"), RaftBuffer(bytearray(b"textual"), 4)],
    ids=lambda buf: type(buf).__name__,
)
def test_buffers_become_bytes(buf: Any) -> None:
    """Any bytes-like object and a RaftBuffer give the bytes that they stand for."""
    assert as_bytes(buf) == b"text"
    assert type(as_bytes(buf)) is bytes


def test_bytes_are_not_copied() -> None:
    """bytes, alone or as the whole of a RaftBuffer, stay the object that they are."""
    data = b"text"
    assert as_bytes(data) is data
    assert as_bytes(RaftBuffer(data)) is data


@pytest.mark.parametrize("length", [-1, 5])
def test_buffer_with_a_wrong_length_is_refused(length: int) -> None:
    """A RaftBuffer that claims more than its memory, or less than nothing, is a ValueError."""
    with pytest.raises(ValueError, match="on 4 bytes"):
        as_bytes(RaftBuffer(b"text", length))


@pytest.mark.parametrize("thing", ["text", 7, None, [b"text"]])
def test_what_is_no_buffer_is_refused(thing: Any) -> None:
    """Everything else is a TypeError."""
    with pytest.raises(TypeError):
        as_bytes(thing)

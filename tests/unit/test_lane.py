"""The lane's codec (io_uv.lane) is the general one: what it reads and writes means the same there."""

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from io_uv import encoding, lane
from io_uv.state import Limits
from pyraft.types import (
    RAFT_BARRIER,
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_TIMEOUT_NOW,
    EntryBatch,
    RaftEntry,
    RaftMessage,
)
from tests.lib import messages as m

BOUNDS = (0, 1, 2, 7, 10**16 - 2, 10**16 - 1, 10**16, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
words = st.sampled_from(BOUNDS) | st.integers(0, (1 << 64) - 1)
small = st.integers(1, 1 << 40)
TAG = encoding.TAG
WHOLE = encoding.TAG | encoding.WHOLE


def general(data: bytes, limits: Limits) -> tuple[RaftMessage, int]:
    """Decode the message at the head of some bytes with the general codec; return it and where it ends."""
    word, size = encoding.preamble.unpack_from(data)
    message, lengths, payload = encoding.decode_header(word & 0xFFFF, data, encoding.PREAMBLE_SIZE, size, limits)
    at = encoding.PREAMBLE_SIZE + size
    if payload:
        encoding.attach_payload(message, lengths, data, at, payload)
    return message, at + payload


def content(message: RaftMessage) -> Any:
    """Return everything in a message of the lane, to compare."""
    args, result = message.append_entries, message.append_entries_result
    head = (message.type, message.server_id, message.server_address)
    if result is not None:
        return head, [getattr(result, name) for name in m.fields_of(result)]
    assert args is not None
    batch = args.entries
    assert isinstance(batch, EntryBatch)
    fields = [getattr(args, name) for name in m.fields_of(args) if name != "entries"]
    return head, fields, [getattr(batch, name) for name in ("terms", "types", "bufs", "alike", "head", "body")]


def check(data: bytes, limits: Limits, before: bytes = b"") -> bool:
    """Decode both ways; return whether the lane took it."""
    found = lane.decode(before + data, len(before), len(before) + len(data), limits)
    if found is None:
        return False
    message, end = general(data, limits)
    assert content(found[0]) == content(message)
    assert found[1] == len(before) + end
    return True


@given(st.lists(words, min_size=4, max_size=4), st.binary(max_size=70), st.sampled_from([32, 24, 40]))
def test_results_are_read_as_ever(numbers: list[int], rest: bytes, size: int) -> None:
    """All that is taken decodes to the same; all that is in range is taken."""
    data = struct.pack("<6Q", RAFT_IO_APPEND_ENTRIES_RESULT, size, *numbers) + rest
    in_range = numbers[0] < 1 << 63 and max(numbers[1:3]) < 10**16
    assert check(data, Limits(), rest) == (in_range and size == 32)


@given(st.lists(words, min_size=4, max_size=4), st.sampled_from([WHOLE, TAG, TAG | 6, 0, 1]), st.binary(max_size=70))
def test_heartbeats_are_read_as_ever(numbers: list[int], last: int, rest: bytes) -> None:
    """All that is taken decodes to the same."""
    data = struct.pack("<8Q", RAFT_IO_APPEND_ENTRIES, 48, *numbers, 0, last) + rest
    if check(data, Limits(), rest):
        assert last == WHOLE


@given(
    st.lists(small, min_size=4, max_size=4) | st.lists(words, min_size=4, max_size=4),
    words | small,
    st.integers(0, 4),
    st.binary(max_size=64),
    st.sampled_from([WHOLE, WHOLE, WHOLE, TAG, 0]),
    st.integers(0, 100),
)
@example([1] * 4, 1, RAFT_COMMAND, b"", WHOLE, 0)
def test_single_entries_are_read_as_ever(
    numbers: list[int], entry_term: int, type: int, payload: bytes, last: int, limit: int
) -> None:
    """All that is taken decodes to the same."""
    limits = Limits()
    limits.payload = limit
    data = struct.pack("<8QB3xIQ", RAFT_IO_APPEND_ENTRIES, 64, *numbers, 1, entry_term, type, len(payload), last)
    check(data + payload, limits, payload)


def several(numbers: list[int], entries: list[tuple[int, int, int]], last: int, count: int = -1) -> bytes:
    """Return an AppendEntries with these words behind the preamble, and entries of these terms, types and lengths."""
    head = struct.pack("<2Q", RAFT_IO_APPEND_ENTRIES, 48 + 16 * len(entries))
    head += struct.pack("<5Q", *numbers, len(entries) if count < 0 else count)
    headers = b"".join(struct.pack("<QB3xI", *entry) for entry in entries)
    return head + headers + struct.pack("<Q", last) + b"".join(bytes([i]) * e[2] for i, e in enumerate(entries))


@given(
    st.lists(small, min_size=4, max_size=4),
    st.tuples(small, st.sampled_from([RAFT_COMMAND] * 4 + [RAFT_BARRIER]), st.integers(0, 9)),
    st.integers(2, 9),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(-2, 2)), max_size=2),
    st.sampled_from([WHOLE, WHOLE, WHOLE, TAG, 0]),
    st.integers(0, 100) | st.just(1 << 20),
)
def test_several_entries_are_read_as_ever(
    numbers: list[int],
    entry: tuple[int, int, int],
    n: int,
    changes: list[tuple[int, int, int]],
    last: int,
    limit: int,
) -> None:
    """All that is taken decodes to the same; some entries differ from the others."""
    limits = Limits()
    limits.payload = limit
    entries = [[entry[0], entry[1], 8 * entry[2]] for _ in range(n)]
    for position, field, change in changes:
        entries[position % n][field] = max(0, entries[position % n][field] + change)
    data = several(numbers, [(a, b, c) for a, b, c in entries], last)
    check(data + b"rest", limits, b"before")


ALIKE = [(3, RAFT_COMMAND, 16)] * 3


@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("entry", [(4, RAFT_COMMAND, 16), (3, RAFT_BARRIER, 16), (3, RAFT_COMMAND, 24)])
def test_entries_that_are_not_alike_are_left_to_the_general_codec(where: int, entry: tuple[int, int, int]) -> None:
    """One of three differs, wherever it stands."""
    assert check(several([5, 8, 4, 7], ALIKE, WHOLE), Limits())
    entries = list(ALIKE)
    entries[where] = entry
    assert not check(several([5, 8, 4, 7], entries, WHOLE), Limits())


@pytest.mark.parametrize("entry", [(0, 1, 16), (6, 1, 16), (3, RAFT_BARRIER, 16), (3, 1, 12), (3, 1, 0)])
def test_alike_entries_that_are_left_to_the_general_codec(entry: tuple[int, int, int]) -> None:
    """No term, a later one, no command, lengths that a disk does not take, or none."""
    assert not takes(several([5, 8, 4, 7], [entry] * 3, WHOLE))


def takes(data: bytes, limits: Limits | None = None) -> bool:
    """Return whether the lane takes some bytes, which the general codec may refuse."""
    return lane.decode(data, 0, len(data), limits or Limits()) is not None


def test_headers_of_several_entries_that_are_left_to_the_general_codec() -> None:
    """One number is not as it should be, a byte that nobody uses is set, or not all of it is there."""
    good = several([5, 8, 4, 7], ALIKE, WHOLE)
    assert check(good, Limits())
    for position, value in ((0, 1 << 63), (1, 10**16 - 3), (2, 1 << 63), (3, 10**16)):
        numbers = [5, 8, 4, 7]
        numbers[position] = value
        assert not takes(several(numbers, ALIKE, WHOLE))
    assert check(several([5, 10**16 - 4, 4, 7], ALIKE, WHOLE), Limits())
    for count in (0, 2, 4, 3 | 1 << 32):
        assert not takes(several([5, 8, 4, 7], ALIKE, WHOLE, count))
    for last in (0, TAG, TAG | 2):
        assert not takes(several([5, 8, 4, 7], ALIKE, last))
    for entry in range(3):
        for byte in (9, 10, 11):
            spoilt = bytearray(good)
            spoilt[56 + 16 * entry + byte] = 1
            assert not check(bytes(spoilt), Limits())
    for size in (48 + 40, 48 + 56):
        assert not takes(struct.pack("<2Q", RAFT_IO_APPEND_ENTRIES, size) + good[16:])
    assert not any(lane.decode(good, 0, end, Limits()) for end in range(len(good)))
    assert not any(lane.decode(good[:end], 0, end, Limits()) for end in range(len(good)))
    limits = Limits()
    limits.payload = 47
    assert not takes(good, limits)
    limits.payload, limits.header = 48, 95
    assert not takes(good, limits)
    limits.header = 96
    assert takes(good, limits)


GOOD = [RAFT_IO_APPEND_ENTRIES, 64, 5, 8, 4, 7, 1, 3, RAFT_COMMAND, 16, WHOLE]
PAYLOAD = bytes(range(16))


def one(**changed: int) -> bytes:
    """Return an AppendEntries of one command, with these of its numbers changed (by position, "n3")."""
    numbers = list(GOOD)
    for name, value in changed.items():
        numbers[int(name[1:])] = value
    return struct.pack("<8QB3xIQ", *numbers) + PAYLOAD


@pytest.mark.parametrize(
    ("position", "value"),
    [
        *((0, RAFT_IO_APPEND_ENTRIES_RESULT), (0, RAFT_IO_APPEND_ENTRIES | 1 << 16), (1, 48), (1, 80), (2, 1 << 63)),
        *((2, 2), (3, 10**16 - 1), (4, 1 << 63), (5, 10**16), (6, 0), (6, 2), (7, 0), (7, 6), (8, RAFT_BARRIER)),
        *((8, 9), (9, 12), (9, 24), (10, 0), (10, TAG), (10, TAG | 2)),
    ],
)
def test_an_entry_that_is_left_to_the_general_codec(position: int, value: int) -> None:
    """One number is not as it should be."""
    assert check(one(), Limits())
    assert not check(one(**{f"n{position}": value}), Limits())


@pytest.mark.parametrize(
    ("kind", "position", "value"),
    [
        *(("heartbeat", i, v) for i, v in ((0, 9), (1, 47), (2, 1 << 63), (3, 10**16 - 1), (4, 1 << 63), (5, 10**16))),
        *(("heartbeat", i, v) for i, v in ((6, 1), (7, 0), (7, TAG), (7, TAG | 2))),
        *(("result", i, v) for i, v in ((0, 9), (1, 24), (2, 1 << 63), (3, 10**16), (4, 10**16))),
    ],
)
def test_others_that_are_left_to_the_general_codec(kind: str, position: int, value: int) -> None:
    """One number is not as it should be."""
    numbers = [RAFT_IO_APPEND_ENTRIES, 48, 5, 8, 4, 7, 0, WHOLE]
    if kind == "result":
        numbers = [RAFT_IO_APPEND_ENTRIES_RESULT, 32, 5, 0, 8, 0xC000]
    layout = f"<{len(numbers)}Q"
    assert check(struct.pack(layout, *numbers), Limits())
    numbers[position] = value
    assert not check(struct.pack(layout, *numbers), Limits())


def test_the_last_numbers_in_range_are_taken() -> None:
    """A commit index may be the last one there is, an index before an entry the last but one."""
    assert check(one(n3=10**16 - 2, n5=10**16 - 1), Limits())
    assert check(one(n2=(1 << 63) - 1, n4=(1 << 63) - 1, n7=(1 << 63) - 1), Limits())


def test_a_message_that_is_not_there_whole_is_left_to_the_general_codec() -> None:
    """It is at every length, and beyond the limits that are set."""
    whole = {one(): 64}
    whole[struct.pack("<8Q", RAFT_IO_APPEND_ENTRIES, 48, 5, 8, 4, 7, 0, WHOLE)] = 48
    whole[struct.pack("<6Q", RAFT_IO_APPEND_ENTRIES_RESULT, 32, 5, 0, 8, 0xC000)] = 32
    for data, size in whole.items():
        assert not any(lane.decode(data, 0, end, Limits()) for end in range(len(data)))
        assert not any(lane.decode(data[:end], 0, end, Limits()) for end in range(len(data)))
        limits = Limits()
        limits.header = size - 1
        assert not check(data, limits)
    limits = Limits()
    limits.payload = 15
    assert not check(one(), limits)


SIZES = (st.integers(2, 9), st.sampled_from([8, 64]))

messages = st.one_of(
    st.builds(lambda a, b, c: m.append_entries_result(2, a, b, c), words | small, words | small, words | small),
    st.builds(
        lambda term, prev, prev_term, commit, sizes: m.append_entries(
            2, term, prev, prev_term, commit, [RaftEntry(term, RAFT_COMMAND, bytes(n)) for n in sizes]
        ),
        *([small] * 4),
        st.lists(st.integers(0, 5).map(lambda n: 8 * n), max_size=3) | st.builds(lambda n, size: [size] * n, *SIZES),
    ),
)


@given(messages, st.booleans(), st.booleans(), st.integers(0, 9), st.booleans(), st.booleans())
def test_messages_are_written_as_ever(
    message: RaftMessage, whole: bool, kept: bool, question: int, as_batch: bool, looked: bool
) -> None:
    """All that is written is the same bytes, kept for others where the message asks for that."""
    args, result = message.append_entries, message.append_entries_result
    if args is not None:
        args.whole, args.question = whole, question
        if as_batch:
            args.entries = EntryBatch.of(args.entries, len(args.entries))
            if looked:
                encoding.look(args.entries)
        if kept:
            args.encoded = []
    if result is not None:
        result.features, result.question = 0xC000, question
    bufs = lane.encode(message)
    if bufs is None:
        assert result is None or max(result.term, result.rejected, result.last_log_index) >= 1 << 64 or args is None
        return
    if args is not None and kept:
        assert args.encoded is bufs
        assert lane.encode(message) is bufs
        args.encoded = None
    assert b"".join(bufs) == b"".join(encoding.encode_message(message))


def test_what_cannot_be_written_is_left_to_the_general_codec() -> None:
    """It says what is wrong."""
    assert lane.encode(m.append_entries_result(2, 1 << 64, 1)) is None
    batch = EntryBatch([1 << 64], [RAFT_COMMAND], [b""])
    message = m.append_entries(2, 1, 1, 1, 1, batch)
    assert message.append_entries is not None
    message.append_entries.whole = True
    assert lane.encode(message) is None
    batch.terms[0] = 1
    assert lane.encode(message) is not None
    several = message.append_entries.entries = EntryBatch([1, 1], [RAFT_COMMAND] * 2, [bytes(8), bytes(8)])
    assert lane.encode(message) is None
    encoding.look(several)
    assert lane.encode(message) is not None
    message.append_entries.prev_log_index = 1 << 64
    assert lane.encode(message) is None
    message.append_entries.prev_log_index = 1
    several.alike, several.head = 1 << 32, None  # more than there is room for
    several.terms[0] = 1 << 64
    assert lane.encode(message) is None
    message.append_entries.entries = batch
    message.append_entries.whole = False
    assert lane.encode(message) is None
    assert lane.encode(m.timeout_now(2, 1, 1, 1)) is None
    assert lane.encode(RaftMessage()) is None
    good = m.append_entries(2, 1, 1, 1, 1, EntryBatch([1], [RAFT_COMMAND], [b""]))
    assert good.append_entries is not None
    good.append_entries.whole = True
    assert lane.encode(good) is not None
    good.type = RAFT_IO_TIMEOUT_NOW
    assert lane.encode(good) is None
    for kind in (RAFT_IO_APPEND_ENTRIES, RAFT_IO_APPEND_ENTRIES_RESULT):
        nothing = RaftMessage()
        nothing.type = kind
        assert lane.encode(nothing) is None


def test_short_payloads_are_joined_once_and_long_ones_not_copied() -> None:
    """For all followers, of one entry and of several."""
    for size, pieces in ((64, 1), (64 * 1024, 2)):
        for n in (1, 2):
            batch = EntryBatch([1] * n, [RAFT_COMMAND] * n, [bytes(size)] * n)
            encoding.look(batch)
            message = m.append_entries(2, 1, 1, 1, 1, batch)
            assert message.append_entries is not None
            message.append_entries.whole = True
            message.append_entries.encoded = []
            bufs = lane.encode(message)
            assert bufs is not None
            assert len(bufs) == pieces
            if pieces == 2:
                assert bufs[1] is (batch.body if n > 1 else batch.bufs[0])

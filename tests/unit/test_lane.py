"""The lane's codec (io_uv.lane) is the general one: what it reads and writes means the same there."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import encoding, lane
from io_uv.state import Limits
from pyraft.types import (
    RAFT_BARRIER,
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
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
    return head, fields, batch.terms, batch.types, batch.bufs


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
    """All that is taken decodes to the same; what is in range is taken."""
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
def test_single_entries_are_read_as_ever(
    numbers: list[int], entry_term: int, type: int, payload: bytes, last: int, limit: int
) -> None:
    """All that is taken decodes to the same."""
    limits = Limits()
    limits.payload = limit
    data = struct.pack("<8QB3xIQ", RAFT_IO_APPEND_ENTRIES, 64, *numbers, 1, entry_term, type, len(payload), last)
    check(data + payload, limits, payload)


GOOD = [RAFT_IO_APPEND_ENTRIES, 64, 5, 8, 4, 7, 1, 5, RAFT_COMMAND, 16, WHOLE]
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
        *((2, 4), (3, 10**16 - 1), (4, 1 << 63), (5, 10**16), (6, 0), (6, 2), (7, 0), (7, 6), (8, RAFT_BARRIER)),
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


def test_a_message_that_is_not_there_whole_is_left_to_the_general_codec() -> None:
    """At every length, and beyond the limits that are set."""
    whole = {one(): 64}
    whole[struct.pack("<8Q", RAFT_IO_APPEND_ENTRIES, 48, 5, 8, 4, 7, 0, WHOLE)] = 48
    whole[struct.pack("<6Q", RAFT_IO_APPEND_ENTRIES_RESULT, 32, 5, 0, 8, 0xC000)] = 32
    for data, size in whole.items():
        assert not any(lane.decode(data, 0, end, Limits()) for end in range(len(data)))
        limits = Limits()
        limits.header = size - 1
        assert not check(data, limits)
    limits = Limits()
    limits.payload = 15
    assert not check(one(), limits)


messages = st.one_of(
    st.builds(lambda a, b, c: m.append_entries_result(2, a, b, c), words | small, words | small, words | small),
    st.builds(
        lambda term, prev, prev_term, commit, sizes: m.append_entries(
            2, term, prev, prev_term, commit, [RaftEntry(term, RAFT_COMMAND, bytes(n)) for n in sizes]
        ),
        *([small] * 4),
        st.lists(st.integers(0, 5).map(lambda n: 8 * n), max_size=3),
    ),
)


@given(messages, st.booleans(), st.booleans(), st.integers(0, 9), st.booleans())
def test_messages_are_written_as_ever(
    message: RaftMessage, whole: bool, kept: bool, question: int, as_batch: bool
) -> None:
    """All that is written is the same bytes, kept for others where the message asks for that."""
    args, result = message.append_entries, message.append_entries_result
    if args is not None:
        args.whole, args.question = whole, question
        if as_batch:
            args.entries = EntryBatch.of(args.entries, len(args.entries))
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
    assert bufs == encoding.encode_message(message)


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
    message.append_entries.whole = False
    assert lane.encode(message) is None
    assert lane.encode(m.timeout_now(2, 1, 1, 1)) is None
    assert lane.encode(RaftMessage()) is None

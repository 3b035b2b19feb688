"""The bytes of messages: equal to libraft's, and never trusted when they come from outside."""

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from io_uv import encoding
from io_uv.failure import Failure
from io_uv.state import Limits
from pyraft import configuration
from pyraft.errors import RAFT_MALFORMED, RAFT_TOOBIG
from pyraft.types import (
    NOBODYS,
    RAFT_BARRIER,
    RAFT_CHANGE,
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RAFT_IO_TIMEOUT_NOW,
    RAFT_VOTER,
    EntryBatch,
    RaftBuffer,
    RaftConfiguration,
    RaftEntry,
    RaftMessage,
    RaftServer,
)
from tests.lib import messages as m
from tests.lib.covers import covers

LIMITS = Limits()


def conf(*servers: tuple[int, str, int]) -> RaftConfiguration:
    """Return a configuration."""
    c = RaftConfiguration()
    c.servers = [RaftServer(*server) for server in servers]
    return c


ONE = conf((1, "1", RAFT_VOTER))
ONE_BLOB = bytes.fromhex("010100000000000000010000000000000031000100000000")


def words(*numbers: int) -> bytes:
    """Return words."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def wire(message: RaftMessage) -> bytes:
    """Return a message's bytes."""
    return b"".join(bytes(buf) for buf in encoding.encode_message(message))


def decode(data: bytes, limits: Limits = LIMITS) -> RaftMessage:
    """Return the message that `data` is exactly."""
    word, size = encoding.preamble.unpack_from(data)
    message, lengths, payload = encoding.decode_header(word & 0xFFFF, data, 16, size, limits)
    assert len(data) == 16 + size + payload
    if payload:
        encoding.attach_payload(message, lengths, data, 16 + size, payload)
    return message


def decode_words(type: int, *numbers: int) -> RaftMessage:
    """Decode a message of header words without payload."""
    header = words(*numbers)
    return decode(words(type, len(header)) + header)


# Bytes that the C library sends.


def test_request_vote_is_encoded_as_by_c() -> None:
    """A RequestVote has five words, the last one flags."""
    expected = "0300000000000000 2800000000000000 0300000000000000 0200000000000000 7b00000000000000 0200000000000000"
    assert wire(m.request_vote(2, 3, 123, 2, disrupt=True)) == bytes.fromhex(expected + " 0100000000000000")
    assert wire(m.request_vote(2, 3, 123, 2, pre_vote=True))[-8:] == words(2)
    assert wire(m.request_vote(2, 3, 123, 2, pre_vote=True, disrupt=True))[-8:] == words(3)


def test_timeout_now_is_encoded_as_by_c() -> None:
    """A TimeoutNow has three words."""
    expected = "0600000000000000 1800000000000000 0300000000000000 7b00000000000000 0200000000000000"
    assert wire(m.timeout_now(2, 3, 123, 2)) == bytes.fromhex(expected)


def test_heartbeat_is_encoded_as_by_c() -> None:
    """An AppendEntries without entries has five words and an unused one."""
    expected = (
        "0100000000000000 3000000000000000 0500000000000000 0a00000000000000"
        "0400000000000000 0900000000000000 0000000000000000 0000000000000000"
    )
    assert wire(m.append_entries(2, 5, 10, 4, 9)) == bytes.fromhex(expected)


def test_append_entries_is_encoded_as_by_c() -> None:
    """Entry headers are those of a segment; payloads follow the unused word without padding."""
    entries = [RaftEntry(4, RAFT_COMMAND, b"ABCDEFGH"), RaftEntry(5, RAFT_BARRIER, b"0123456789abcdef")]
    header = words(5, 10, 4, 9, 2) + words(4) + struct.pack("<B3xI", 1, 8) + words(5) + struct.pack("<B3xI", 2, 16)
    expected = words(1, 48 + 32) + header + words(0) + b"ABCDEFGH0123456789abcdef"
    assert wire(m.append_entries(2, 5, 10, 4, 9, entries)) == expected


def test_append_entries_result_is_encoded_as_by_c() -> None:
    """An AppendEntriesResult has four words, the last one features."""
    assert wire(m.append_entries_result(2, 3, 123, 7)) == words(2, 32, 3, 7, 123, 0)


@pytest.mark.parametrize(("granted", "pre_vote"), [(True, False), (False, True)])
def test_request_vote_result_is_encoded_as_by_c(granted: bool, pre_vote: bool) -> None:
    """A RequestVoteResult has three words, whatever version it says it has."""
    message = m.request_vote_result(2, 3, granted, pre_vote=pre_vote, version=1)
    assert wire(message) == words(4, 24, 3, int(granted), int(pre_vote))


def test_install_snapshot_is_encoded_as_by_c() -> None:
    """An InstallSnapshot carries a configuration blob, an unused word and the data in one piece."""
    header = words(5, 100, 4, 98, 24) + ONE_BLOB + words(16) + words(0)
    assert len(header) == 56 + 24
    message = m.install_snapshot(2, 5, 100, 4, ONE, 98, b"snapshot" * 2)
    assert wire(message) == words(5, len(header)) + header + b"snapshot" * 2


@covers("byteFlip/32")
def test_batch_header_is_encoded_as_by_c() -> None:
    """The header of a batch is the number of entries and 16 bytes for each."""
    batch = EntryBatch([1, 2], [1, 1], [b"IJKLMNOP", b"QRSTUVWXYZ012345"])
    expected = "0200000000000000 0100000000000000 0100000008000000 0200000000000000 0100000010000000"
    assert encoding.encode_batch_header(batch) == bytes.fromhex(expected)


def test_payloads_are_handed_on_uncopied() -> None:
    """The buffers of the message go to the socket, but for several small ones."""
    for sizes in ([8], [40 * 1024, 40 * 1024]):
        entries = [RaftEntry(1, RAFT_COMMAND, bytes(size)) for size in sizes]
        bufs = encoding.encode_message(m.append_entries(2, 1, 0, 0, 0, entries))
        assert len(bufs) == 1 + len(sizes)
        assert all(buf is entry.buf for buf, entry in zip(bufs[1:], entries, strict=True))
    data = bytes(1 << 20)
    view = encoding.encode_message(m.install_snapshot(2, 1, 1, 1, ONE, 1, data))[1]
    assert isinstance(view, memoryview)
    assert view.obj is data


def test_snapshot_data_may_be_any_buffer() -> None:
    """A RaftBuffer and a memoryview are sent like bytes."""
    expected = wire(m.install_snapshot(2, 1, 1, 1, ONE, 1, b"12345678"))
    for data in (RaftBuffer(b"12345678xxxx", 8), memoryview(b"12345678"), bytearray(b"12345678")):
        assert wire(m.install_snapshot(2, 1, 1, 1, ONE, 1, data)) == expected  # type: ignore[arg-type]


# Messages that must be refused before they reach the socket.


def test_unknown_type_is_not_encoded() -> None:
    """A message type that does not exist is malformed."""
    with pytest.raises(Failure) as caught:
        encoding.encode_message(m.message(1, 666))
    assert caught.value.code == RAFT_MALFORMED


def test_what_does_not_fit_its_field_is_too_big() -> None:
    """Terms above 64 bits have no room on the wire."""
    for message in (
        m.append_entries(2, 1, 0, 0, 0, EntryBatch([1 << 64], [1], [b""])),
        m.append_entries(2, 1 << 64, 0, 0),
    ):
        with pytest.raises(Failure) as caught:
            encoding.encode_message(message)
        assert caught.value.code == RAFT_TOOBIG


def test_payload_of_4_gib_is_too_big() -> None:
    """Payloads of 4 GiB have no room on the wire either."""
    with pytest.raises(Failure) as caught:
        encoding.encode_message(m.append_entries(2, 1, 0, 0, 0, EntryBatch([1], [1], [m.four_gib()])))
    assert caught.value.code == RAFT_TOOBIG


def test_terms_above_32_bits_are_encoded() -> None:
    """A large term takes the slower way to the same layout."""
    batch = EntryBatch([1 << 40, 3], [1, 2], [bytes(8), b""])
    data = encoding.encode_batch_header(batch)
    assert data == words(2, 1 << 40, 1 | 8 << 32, 3, 2)
    assert encoding.decode_batch_header(data, 0, 2) == ([1 << 40, 3], [1, 2], [8, 0])


# Decoding.


u63 = st.integers(0, (1 << 63) - 1)
term_ = st.integers(1, (1 << 63) - 1)
index = st.integers(0, 10**16 - 1)


@st.composite
def batches(draw: Any) -> EntryBatch:
    """Entries as a leader sends them."""
    n = draw(st.integers(0, 20))
    types = [draw(st.sampled_from([RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE])) for _ in range(n)]
    bufs = [ONE_BLOB if type == RAFT_CHANGE else bytes(8 * draw(st.integers(0, 4))) for type in types]
    return EntryBatch(sorted(draw(term_) for _ in range(n)), types, bufs)


@given(term_, st.integers(0, 10**16 - 21), u63, index, batches())
def test_append_entries_comes_back(term: int, prev: int, prev_term: int, commit: int, batch: EntryBatch) -> None:
    """A configuration that was encoded is decoded to the same columns."""
    term = max(term, *batch.terms, 0)
    args = decode(wire(m.append_entries(2, term, prev, prev_term, commit, batch))).append_entries
    assert args is not None
    assert (args.version, args.term, args.prev_log_index, args.prev_log_term) == (0, term, prev, prev_term)
    assert args.leader_commit == commit
    assert isinstance(args.entries, EntryBatch)
    assert args.entries.terms == batch.terms
    assert args.entries.types == batch.types
    assert args.entries.bufs == batch.bufs
    assert all(type(buf) is bytes for buf in args.entries.bufs)


@given(term_, st.integers(1, (1 << 64) - 1), index, u63, st.booleans(), st.booleans())
def test_votes_come_back(term: int, candidate: int, last: int, last_term: int, one: bool, two: bool) -> None:
    """RequestVote and its result are decoded to what they were."""
    message = m.request_vote(2, term, last, last_term, disrupt=one, pre_vote=two, candidate=candidate)
    vote = decode(wire(message)).request_vote
    assert vote is not None
    assert (vote.version, vote.term, vote.candidate_id) == (2, term, candidate)
    assert (vote.last_log_index, vote.last_log_term, vote.disrupt_leader, vote.pre_vote) == (last, last_term, one, two)
    result = decode(wire(m.request_vote_result(2, term, one, pre_vote=two))).request_vote_result
    assert result is not None
    assert (result.version, result.term, result.vote_granted, result.pre_vote) == (2, term, one, two)


@given(term_, index, index)
def test_results_and_timeouts_come_back(term: int, a: int, b: int) -> None:
    """AppendEntriesResult and TimeoutNow are decoded to what they were."""
    result = decode(wire(m.append_entries_result(2, term, a, b))).append_entries_result
    assert result is not None
    assert (result.version, result.term, result.last_log_index, result.rejected, result.features) == (1, term, a, b, 0)
    timeout = decode(wire(m.timeout_now(2, term, a, b))).timeout_now
    assert timeout is not None
    assert (timeout.version, timeout.term, timeout.last_log_index, timeout.last_log_term) == (0, term, a, b)


@given(term_, st.integers(1, 1 << 52), term_, st.integers(0, 1 << 52), st.binary(max_size=64))
def test_install_snapshot_comes_back(term: int, last: int, last_term: int, conf_index: int, data: bytes) -> None:
    """An InstallSnapshot is decoded to what it was; the data is a read-only view."""
    term = max(term, last_term)
    args = decode(wire(m.install_snapshot(2, term, last, last_term, ONE, conf_index, data))).install_snapshot
    assert args is not None
    assert (args.version, args.term, args.last_index, args.last_term) == (0, term, last, last_term)
    assert args.conf_index == conf_index
    assert [(s.id, s.address, s.role) for s in args.conf.servers] == [(1, "1", RAFT_VOTER)]
    assert args.data == data
    assert not data or memoryview(args.data).readonly


def test_older_layouts_are_accepted() -> None:
    """The sizes of older versions decode, and say so in the version; all that they lack is false or 0."""
    vote = decode_words(RAFT_IO_REQUEST_VOTE, 3, 2, 123, 2).request_vote
    assert vote is not None
    assert (vote.version, vote.disrupt_leader, vote.pre_vote) == (1, False, False)
    vote_result = decode_words(RAFT_IO_REQUEST_VOTE_RESULT, 3, 5).request_vote_result
    assert vote_result is not None
    assert (vote_result.version, vote_result.vote_granted, vote_result.pre_vote) == (1, True, False)
    result = decode_words(RAFT_IO_APPEND_ENTRIES_RESULT, 3, 7, 123).append_entries_result
    assert result is not None
    assert (result.version, result.rejected, result.last_log_index, result.features) == (0, 7, 123, 0)
    heartbeat = decode_words(RAFT_IO_APPEND_ENTRIES, 5, 10, 4, 9, 0).append_entries
    assert heartbeat is not None
    assert (heartbeat.leader_commit, heartbeat.n_entries) == (9, 0)


def test_a_snapshot_without_the_unused_word_is_accepted() -> None:
    """Newer relatives leave the word at the end of an InstallSnapshot out."""
    header = words(5, 100, 4, 98, 24) + ONE_BLOB + words(8)
    args = decode(words(5, len(header)) + header + b"snapshot").install_snapshot
    assert args is not None
    assert args.data == b"snapshot"


def test_longer_headers_are_accepted() -> None:
    """Words that a newer version adds at the end are ignored."""
    vote = decode_words(RAFT_IO_REQUEST_VOTE, 3, 2, 123, 2, 2, 77).request_vote
    assert vote is not None
    assert (vote.version, vote.pre_vote) == (2, True)
    assert decode_words(RAFT_IO_REQUEST_VOTE_RESULT, 3, 1, 1, 9).request_vote_result is not None
    assert decode_words(RAFT_IO_APPEND_ENTRIES_RESULT, 3, 0, 1, 0, 9).append_entries_result is not None
    assert decode_words(RAFT_IO_TIMEOUT_NOW, 3, 1, 1, 9).timeout_now is not None
    assert decode_words(RAFT_IO_APPEND_ENTRIES, 5, 10, 4, 9, 0, 1, 2, 3).append_entries is not None


@pytest.mark.parametrize("number", [1, 2, 77, (1 << 31) - 1])
def test_questions_and_their_answers_arrive(number: int) -> None:
    """They are told from what C leaves in the word, from messages that go to the end, and from cowsql's capacity."""
    message = m.append_entries(2, 5, 0, 0, 0)
    assert message.append_entries is not None
    message.append_entries.question = number
    data = wire(message)
    args = decode(data).append_entries
    assert args is not None
    assert (args.question, args.whole, args.prev_log_index) == (number, False, 0)
    for word in (0, 1, number << 1, (1 << 64) - 1, 0x7079726600000001, 0x7079726600000000 | number << 1 | 1):
        args = decode(data[:-8] + words(word)).append_entries
        assert args is not None
        assert args.question == 0
    answer = m.append_entries_result(2, 5, 0)
    assert answer.append_entries_result is not None
    answer.append_entries_result.features = 0xC000
    answer.append_entries_result.question = number
    result = decode(wire(answer)).append_entries_result
    assert result is not None
    assert (result.question, result.features) == (number, 0xC000)
    for features in (0x8000, 0x4000, 1):
        answer.append_entries_result.features = features
        result = decode(wire(answer)).append_entries_result
        assert result is not None
        assert (result.question, result.features) == (0, features)


@pytest.mark.parametrize("index", [NOBODYS, NOBODYS + 4097, (1 << 64) - 1])
def test_a_predecessor_that_nobody_has_and_its_refusal_arrive(index: int) -> None:
    """A leader names it to a server of which it knows nothing yet; were it refused here, nothing else would come."""
    args = decode(wire(m.append_entries(2, 5, index, 5, 9))).append_entries
    assert args is not None
    assert (args.prev_log_index, args.prev_log_term, args.n_entries, args.whole) == (index, 5, 0, False)
    result = decode(wire(m.append_entries_result(2, 5, 9, index))).append_entries_result
    assert result is not None
    assert (result.rejected, result.last_log_index) == (index, 9)


def test_what_relatives_put_into_unused_bytes_is_ignored() -> None:
    """Features and capacity that newer relatives report do not change flags or features."""
    last = struct.pack("<BBHHH", 1, 0, 0xFFFF, 0xFFFF, 0)
    vote_result = decode(words(4, 24, 3, 1) + last).request_vote_result
    assert vote_result is not None
    assert vote_result.pre_vote is True
    last = struct.pack("<HHI", 1, 0xFFFF, 0)
    result = decode(words(2, 32, 3, 0, 9) + last).append_entries_result
    assert result is not None
    assert result.features == 1


def test_the_number_of_entries_has_32_bits() -> None:
    """As in C the upper half of the word is ignored."""
    args = decode_words(RAFT_IO_APPEND_ENTRIES, 5, 10, 4, 9, 7 << 32, 0).append_entries
    assert args is not None
    assert args.n_entries == 0


# Hostile bytes.


def samples() -> list[bytes]:
    """One message of each type, with everything that a message may have."""
    entries = [
        RaftEntry(4, RAFT_COMMAND, bytes(8)),
        RaftEntry(4, RAFT_CHANGE, configuration.encode(conf((1, "a", 1), (2, "b", 0)))),
        RaftEntry(5, RAFT_BARRIER, b""),
    ]
    return [
        wire(message)
        for message in (
            m.append_entries(2, 5, 10, 4, 9, entries),
            m.append_entries(2, 5, 10, 4, 9),
            m.append_entries_result(2, 3, 123, 7),
            m.request_vote(2, 3, 123, 2),
            m.request_vote_result(2, 3),
            m.install_snapshot(2, 5, 100, 4, ONE, 98, b"snapshot"),
            m.timeout_now(2, 3, 123, 2),
        )
    ]


def attempt(data: bytes) -> bool:
    """Decode bytes that may be anything; True if they were taken for a message. Only a Failure may come out."""
    word, size = encoding.preamble.unpack_from(data)
    size = min(size, len(data) - 16)
    try:
        message, lengths, payload = encoding.decode_header(word & 0xFFFF, data, 16, size, LIMITS)
        if payload:
            if 16 + size + payload > len(data):
                return False
            encoding.attach_payload(message, lengths, data, 16 + size, payload)
    except Failure as failure:
        code = failure.code if failure.message else 0
    else:
        return True
    assert code in (RAFT_MALFORMED, RAFT_TOOBIG)
    return False


@pytest.mark.parametrize("data", samples())
def test_headers_of_every_length_are_judged(data: bytes) -> None:
    """A header cut anywhere decodes only at a size that some version has; nothing behind it is touched."""
    word, size = encoding.preamble.unpack_from(data)
    accepted = []
    codes = set()
    for length in range(size + 1):
        try:
            encoding.decode_header(word & 0xFFFF, data[: 16 + length], 16, length, LIMITS)
        except Failure as failure:
            codes.add(failure.code)
        else:
            accepted.append(length)
    assert codes == {RAFT_MALFORMED}
    least = {1: size - 8, 2: 24, 3: 32, 4: 16, 5: size - 8, 6: 24}[word]
    if word in (2, 3, 4):
        assert accepted == [least, size]
    else:
        assert accepted == list(range(least, size + 1))


@pytest.mark.parametrize("data", samples())
def test_every_flipped_bit_is_judged(data: bytes) -> None:
    """No single wrong bit makes the decoder raise anything but its own failure."""
    for i in range(len(data) * 8):
        if not 2 <= i // 8 < 16:
            flipped = bytearray(data)
            flipped[i // 8] ^= 1 << i % 8
            attempt(bytes(flipped))


@settings(max_examples=1000)
@given(st.integers(0, 7), st.binary(max_size=256))
def test_random_headers_are_judged(type: int, header: bytes) -> None:
    """Any bytes at all are either a message or a Failure."""
    attempt(words(type, len(header)) + header)


NUMBERS = (0, 1, 2, 3, 4, 7, 8, 24, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)


@pytest.mark.parametrize("data", samples())
def test_mangled_messages_are_judged(data: bytes) -> None:
    """So are messages in which each word, and each two, are replaced by numbers that mean something."""
    places = range(16, len(data) - 7, 8)
    for at, number in itertools.product(places, NUMBERS):
        once = data[:at] + words(number) + data[at + 8 :]
        attempt(once)
        for second, other in itertools.product(places[: places.index(at)], NUMBERS):
            attempt(once[:second] + words(other) + once[second + 8 :])


@pytest.mark.parametrize("type", [0, 4, 0xFF])
def test_an_entry_type_that_does_not_exist_is_refused(type: int) -> None:
    """C dies of an entry type outside 1..3 (B23)."""
    with pytest.raises(Failure, match="unknown type") as caught:
        decode_words(RAFT_IO_APPEND_ENTRIES, 5, 10, 4, 9, 2, 4, 1, 4, type, 0)
    assert caught.value.code == RAFT_MALFORMED


@pytest.mark.parametrize(
    ("type", "numbers", "problem"),
    [
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 1, 0, 1, 0), "term out of range"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 1, 1 << 63, 1, 0), "term out of range"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 1, 6, 1, 0), "term out of range"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10**16 - 1, 4, 9, 1, 4, 1, 0), "index out of range"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10**16, 4, 9, 0, 0), "out of range at offset 8"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 1, 4, 1 | 7 << 32, 0), "multiple of 8"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 2, 4, 1), "2 entries at offset 32 do not fit"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 0xFFFF_FFFF, 4, 1), "do not fit"),
        (RAFT_IO_APPEND_ENTRIES, (5, 10, 4, 9, 1, 4, 3, 0), "configuration"),
        (RAFT_IO_APPEND_ENTRIES, (1 << 63, 10, 4, 9, 0, 0), "out of range at offset 0"),
        (RAFT_IO_APPEND_ENTRIES, (5, 1 << 63, 4, 9, 0, 0), "out of range at offset 8"),
        (RAFT_IO_APPEND_ENTRIES, (5, NOBODYS - 1, 4, 9, 0, 0), "out of range at offset 8"),
        (RAFT_IO_APPEND_ENTRIES, (5, NOBODYS, 4, 9, 1, 4, 1, 0), "out of range at offset 8"),
        (RAFT_IO_APPEND_ENTRIES, (5, NOBODYS, 1 << 63, 9, 0, 0), "out of range at offset 16"),
        (RAFT_IO_APPEND_ENTRIES_RESULT, (5, NOBODYS - 1, 9, 0), "out of range at offset 8"),
        (RAFT_IO_APPEND_ENTRIES_RESULT, (5, NOBODYS, 10**16, 0), "out of range at offset 16"),
        (RAFT_IO_APPEND_ENTRIES_RESULT, (5, 0, 1 << 63, 0), "out of range at offset 16"),
        (RAFT_IO_REQUEST_VOTE, (1, 0, 0, 0, 0), "candidate id 0"),
        (RAFT_IO_REQUEST_VOTE, ((1 << 64) - 1, 1, 0, 0, 0), "out of range"),
        (RAFT_IO_REQUEST_VOTE_RESULT, (1 << 63, 0, 0), "out of range"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, 100, 4, 98, 24, 0, 0, 0, 0), "does not fit|format"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, 100, 4, 98, (1 << 64) - 1, 0, 0), "does not fit"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, 1 << 63, 4, 98, 0, 0, 0), "out of range"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, (1 << 52) + 1, 4, 98, 0, 0, 0), "out of range at offset 8"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, 100, 6, 98, 0, 0, 0), "of a later term"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, 0, 4, 98, 0, 0, 0), "without index or term"),
        (RAFT_IO_INSTALL_SNAPSHOT, (5, 9, 0, 98, 0, 0, 0), "without index or term"),
        (RAFT_IO_TIMEOUT_NOW, (5, 1, 1 << 63), "out of range"),
    ],
)
def test_what_would_harm_the_core_is_refused(type: int, numbers: tuple[int, ...], problem: str) -> None:
    """Numbers, lengths and counts that no honest peer sends end in a Failure that says what is wrong."""
    with pytest.raises(Failure, match=problem) as caught:
        decode_words(type, *numbers)
    assert caught.value.code == RAFT_MALFORMED


@pytest.mark.parametrize("type", [0, 7, 666, 0xFFFF])
def test_an_unknown_message_type_is_refused(type: int) -> None:
    """A message type that does not exist is malformed."""
    with pytest.raises(Failure, match="unknown message type"):
        decode_words(type, 1, 2, 3)


def test_a_configuration_without_servers_is_refused() -> None:
    """Neither a snapshot nor an entry may bring a configuration of nobody: it has no encoding."""
    blob = b"\1" + bytes(15)
    header = words(5, 100, 4, 98, 16) + blob + words(0, 0)
    with pytest.raises(Failure, match="without servers"):
        decode(words(5, len(header)) + header)
    with pytest.raises(Failure, match="without servers"):
        decode(wire(m.append_entries(2, 5, 10, 4, 9, [RaftEntry(4, RAFT_CHANGE, blob)])))


def test_payloads_above_the_limit_are_refused() -> None:
    """An announcement of more than the limit is refused before anything is allocated."""
    limits = Limits()
    limits.payload = 1024
    data = wire(m.append_entries(2, 5, 10, 4, 9, [RaftEntry(4, RAFT_COMMAND, bytes(1024))]))
    assert decode(data, limits).append_entries is not None
    data = wire(m.append_entries(2, 5, 10, 4, 9, [RaftEntry(4, RAFT_COMMAND, bytes(1032))]))
    with pytest.raises(Failure) as caught:
        decode(data, limits)
    assert caught.value.code == RAFT_TOOBIG
    header = words(5, 100, 4, 98, 24) + ONE_BLOB + words((1 << 64) - 1, 0)
    with pytest.raises(Failure) as caught:
        decode(words(5, len(header)) + header, limits)
    assert caught.value.code == RAFT_TOOBIG


def test_many_servers_are_decoded_in_time() -> None:
    """A configuration as large as a header may be does not stall the loop for long."""
    servers = b"".join(words(i + 1) + b"%x\0\1" % i for i in range(30_000))
    blob = b"\1" + words(30_000) + servers
    header = words(5, 100, 4, 98, len(blob)) + blob + words(0, 0)
    args = decode(words(5, len(header)) + header).install_snapshot
    assert args is not None
    assert len(args.conf.servers) == 30_000


def test_append_entries_tells_in_its_unused_word_whether_it_goes_to_the_end_of_the_log() -> None:
    """Other words there are C's, of no meaning."""
    for entries in ((), (RaftEntry(4, RAFT_COMMAND, b"ABCDEFGH"),)):
        message = m.append_entries(2, 5, 10, 4, 9, entries)
        assert message.append_entries is not None
        message.append_entries.whole = True
        data = wire(message)
        end = 16 + 48 + 16 * len(entries)
        for word in (int.from_bytes(data[end - 8 : end], "little"), 0, 1, 7, (1 << 64) - 1):
            decoded = decode(data[: end - 8] + words(word) + data[end:])
            assert decoded.append_entries is not None
            assert decoded.append_entries.whole == (word == 0x7079726600000001)

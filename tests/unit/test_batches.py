"""Several entries are encoded once, for the file and all messages, and what a message brought is written as it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import encoding
from io_uv.failure import Failure
from io_uv.segment_buffer import batch_size
from io_uv.state import Limits
from pyraft import log
from pyraft.errors import RAFT_MALFORMED
from pyraft.types import RAFT_COMMAND, RAFT_IO_APPEND_ENTRIES, EntryBatch, RaftEntry, RaftMessage
from tests.lib import messages as m

LIMITS = Limits()
SIZES, SMALL = st.integers(0, 3).map(lambda n: 8 * n), st.integers(2, 9)


def wire(message: RaftMessage) -> bytes:
    """Return a message's bytes."""
    return b"".join(bytes(buf) for buf in encoding.encode_message(message))


def test_batches_are_encoded_once_for_files_and_messages() -> None:
    """Header and payloads of several entries are kept, and are in the message whatever their size."""
    batch = EntryBatch([1, 2], [RAFT_COMMAND] * 2, [bytes(40 * 1024), b"x" * 40 * 1024])
    message = m.append_entries(2, 2, 0, 0, 0, batch)
    before = b"".join(encoding.encode_message(message))
    head, body = encoding.encode_batch(batch)
    assert encoding.encode_batch(batch) == (head, body)
    assert encoding.encode_batch(batch)[1] is body
    bufs = encoding.encode_message(message)
    assert bufs[1] is body
    assert b"".join(bufs) == before
    small = EntryBatch([1, 2], [RAFT_COMMAND] * 2, [bytes(8), bytes(16)])
    encoding.encode_message(m.append_entries(2, 2, 0, 0, 0, small))
    assert (small.head, small.body) == (encoding.encode_batch_header(small), bytes(24))
    assert (small[:2].head, EntryBatch.of(small, 1).body) == (None, None)


def received(data: bytes) -> EntryBatch:
    """Return the entries of an AppendEntries of the wire."""
    _, size = encoding.preamble.unpack_from(data)
    at = encoding.PREAMBLE_SIZE
    message, lengths, payload = encoding.decode_header(RAFT_IO_APPEND_ENTRIES, data, at, size, LIMITS)
    if at + size + payload > len(data):
        raise Failure(RAFT_MALFORMED, "it would have to be waited for")
    if payload:
        encoding.attach_payload(message, lengths, data, at + size, payload)
    assert message.append_entries is not None
    assert isinstance(message.append_entries.entries, EntryBatch)
    return message.append_entries.entries


@given(
    st.lists(st.tuples(st.integers(1, 1 << 40), st.sampled_from([1, 2]), st.integers(0, 3)), min_size=2, max_size=9),
    st.integers(-1, 40 + 16 * 9),
    st.integers(1, 255),
    st.booleans(),
)
def test_what_a_message_brought_goes_to_disk_as_it_came(
    entries: list[tuple[int, int, int]], spoilt: int, xor: int, alike: bool
) -> None:
    """It is what would be made of the entries; bits that C may leave anything in have it made anew."""
    if alike:
        entries = entries[:1] * len(entries)
    batch = EntryBatch(*map(list, zip(*entries, strict=True)))
    batch.bufs = [bytes([n]) * 8 * (1 if alike else n) for n in range(len(entries))]
    message = m.append_entries(2, 1 << 40, 1, 1, 1, batch)
    assert message.append_entries is not None
    message.append_entries.whole = True
    data = bytearray(b"".join(encoding.encode_message(message)))
    if spoilt >= 0:
        data[encoding.PREAMBLE_SIZE + 32 + spoilt % (8 + 16 * len(entries))] ^= xor
    try:
        found = received(bytes(data))
    except Failure:
        return
    assert spoilt >= 0 or found.head is not None
    assert (found.head is None) or found.body is not None
    assert encoding.encode_batch(found) == (encoding.encode_batch_header(found), b"".join(found.bufs))


@pytest.mark.parametrize("sizes", [(8, 16), (8, 8)])
def test_messages_of_others_are_encoded_anew(sizes: tuple[int, int]) -> None:
    """They may come from C, whose unused bytes are what was in the memory."""
    entries = [RaftEntry(1, RAFT_COMMAND, bytes(size)) for size in sizes]
    message = m.append_entries(2, 1, 1, 1, 1, entries)
    assert received(wire(message)).head is None
    assert message.append_entries is not None
    message.append_entries.whole = True
    good = wire(message)
    assert received(good).head is not None
    for byte in (4, 7, 8 + 9, 8 + 10, 8 + 11, 24 + 9, 24 + 11):
        data = bytearray(good)
        data[encoding.PREAMBLE_SIZE + 32 + byte] = 1
        assert received(bytes(data)).head is None


several = st.lists(
    st.tuples(st.sampled_from([1, 2, 1 << 40]), st.sampled_from([1, 1, 1, 2, 3]), st.sampled_from([8, 8, 16])),
    max_size=4,
)


@given(several | st.builds(lambda one, n: [one] * n, st.tuples(st.integers(1, 1 << 64), st.just(1), SIZES), SMALL))
def test_what_is_known_of_entries_is_true(entries: list[tuple[int, int, int]]) -> None:
    """Several commands of one term and length are alike, and nothing else is; they are encoded as without knowing."""
    batch = EntryBatch([e[0] for e in entries], [e[1] for e in entries], [bytes(e[2]) for e in entries])
    fresh = batch[:]
    encoding.look(batch)
    same = len(entries) > 1 and len(set(entries)) == 1 and entries[0][1] == RAFT_COMMAND
    assert batch.alike == (entries[0][2] if same else -1)
    assert (batch_size(batch), log.weight_of(batch)) == (batch_size(fresh), log.weight(fresh.bufs))
    headers: list[bytes | str] = []
    for one in (batch, fresh):
        try:
            headers.append(encoding.encode_batch_header(one))
        except Failure as failure:
            headers.append(failure.message)
    assert headers[0] == headers[1]
    encoding.look(batch)
    assert batch[:].alike == EntryBatch.of(batch, max(0, len(entries) - 1)).alike == -1


@given(several, st.integers(0, 9), st.booleans())
def test_entries_of_a_message_are_known_to_be_alike_if_they_are(
    entries: list[tuple[int, int, int]], repeated: int, whole: bool
) -> None:
    """As `look` would find out, whoever has sent it."""
    entries = [(e[0], e[1], e[2]) for e in entries if e[1] != 3] + entries[:1] * repeated
    entries = [e for e in entries if e[1] != 3]
    batch = EntryBatch([e[0] for e in entries], [e[1] for e in entries], [bytes(e[2]) for e in entries])
    message = m.append_entries(2, 1 << 40, 1, 1, 1, batch)
    assert message.append_entries is not None
    message.append_entries.whole = whole
    found = received(wire(message))
    looked = batch[:]
    encoding.look(looked)
    assert (found.alike, found.bufs) == (looked.alike, batch.bufs)
    assert (found.terms, found.types) == (batch.terms, batch.types)


@pytest.mark.parametrize(("term", "size", "before"), [(0, 8, 1), (6, 8, 1), (3, 12, 1), (3, 8, 10**16 - 3)])
def test_alike_entries_that_nobody_may_send_are_refused(term: int, size: int, before: int) -> None:
    """No term or a later one, lengths that no disk takes, indexes out of range."""
    for values in ((3, 8, 1), (term, size, before)):
        batch = EntryBatch([values[0]] * 3, [RAFT_COMMAND] * 3, [bytes(values[1])] * 3)
        data = wire(m.append_entries(2, 5, values[2], 1, 1, batch))
        if values == (3, 8, 1):
            assert received(data).alike == 8
        else:
            with pytest.raises(Failure):
                received(data)

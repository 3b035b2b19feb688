"""Cutting a stream of bytes into messages, wherever the network cuts it and whatever is in it."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from io_uv import encoding
from io_uv.failure import Failure
from io_uv.recv import Reader
from io_uv.state import Limits
from io_uv.tcp_common import Handshake
from pyraft.errors import RAFT_MALFORMED, RAFT_TOOBIG
from pyraft.types import RAFT_COMMAND, RAFT_VOTER, RaftConfiguration, RaftEntry, RaftMessage, RaftServer
from tests.lib import messages as m
from tests.lib.peer import handshake, stream_into, words

LARGE = 64 * 1024


def configuration() -> RaftConfiguration:
    """Return a configuration of one server."""
    conf = RaftConfiguration()
    conf.servers.append(RaftServer(1, "a", RAFT_VOTER))
    return conf


def payload(n: int) -> bytes:
    """Return `n` bytes that are not all the same."""
    return bytes(i % 251 for i in range(n))


def entries(*sizes: int) -> list[RaftEntry]:
    """Return one command per size."""
    return [RaftEntry(2, RAFT_COMMAND, payload(size)) for size in sizes]


def small_messages() -> list[RaftMessage]:
    """Messages of every type, some with payloads."""
    return [
        m.request_vote(2, 3, 123, 2),
        m.append_entries(2, 3, 1, 1, 1, entries(8, 16)),
        m.append_entries(2, 3, 1, 1),
        m.append_entries(2, 3, 1, 1, 1, entries(0, 0)),
        m.install_snapshot(2, 3, 9, 2, configuration(), 1, payload(40)),
        m.install_snapshot(2, 3, 9, 2, configuration(), 1, b""),
        m.append_entries_result(2, 3, 123),
        m.request_vote_result(2, 3),
        m.timeout_now(2, 3, 1, 1),
    ]


def wire(*messages: RaftMessage) -> bytes:
    """Return the bytes of messages one after the other."""
    return b"".join(bytes(buf) for message in messages for buf in encoding.encode_message(message))


class Sink:
    """A reader and what it has delivered, encoded again, which shows every field."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.delivered: list[bytes] = []
        self.reader = Reader(limits or Limits(), lambda message: self.delivered.append(wire(message)))

    def put_in_pieces(self, data: bytes, size: int) -> None:
        """Put pieces of a size."""
        for at in range(0, len(data), size):
            self.put(data[at : at + size])

    def put(self, data: bytes) -> None:
        """Give it bytes as a stream does."""
        stream_into(self.reader, data)


@pytest.mark.parametrize("size", [*range(1, 80), 1000, 10_000])
def test_messages_may_come_in_any_pieces(size: int) -> None:
    """Cut into pieces of any size the stream holds the same messages."""
    sink = Sink()
    sink.put_in_pieces(wire(*small_messages()), size)
    assert sink.delivered == [wire(message) for message in small_messages()]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("cut", [15, 16, 17, 71, 72, 88, 89, 1000, 65_000, 70_000])
@pytest.mark.parametrize("kind", ["entries", "snapshot"])
def test_a_large_payload_may_come_in_pieces(kind: str, cut: int, direct: bool) -> None:
    """Copied by feed or read into place, a payload above 64 KiB arrives whole, and so does what follows it."""
    if kind == "entries":
        message = m.append_entries(2, 3, 1, 1, 1, entries(LARGE, 8, 1000, 0, LARGE))
    else:
        message = m.install_snapshot(2, 3, 9, 2, configuration(), 1, payload(2 * LARGE))
    follower = m.timeout_now(2, 3, 1, 1)
    data = wire(message, follower, message)
    sink = Sink()
    put = sink.put if direct else sink.reader.feed
    for at in range(0, len(data), cut):
        put(data[at : at + cut])
    assert sink.delivered == [wire(message), wire(follower), wire(message)]
    assert sink.reader.missing is None


def test_a_delivered_snapshot_keeps_its_bytes() -> None:
    """Its buffer is not used again for what comes later."""
    delivered: list[Any] = []
    reader = Reader(Limits(), delivered.append)
    for fill in (b"a", b"b"):
        data = wire(m.install_snapshot(2, 3, 9, 2, configuration(), 1, fill * 2 * LARGE))
        reader.feed(data[:1000])
        reader.feed(data[1000:])
    first, second = (bytes(message.install_snapshot.data) for message in delivered)
    assert (first, second) == (b"a" * 2 * LARGE, b"b" * 2 * LARGE)


def test_delivered_entries_keep_their_bytes() -> None:
    """The buffer that large entries are read into is used again, but not for what was handed out."""
    delivered: list[Any] = []
    reader = Reader(Limits(), delivered.append)
    for fill in (b"a", b"b"):
        data = wire(m.append_entries(2, 3, 1, 1, 1, [RaftEntry(1, RAFT_COMMAND, fill * LARGE)]))
        reader.feed(data[:1000])
        reader.feed(data[1000:])
    assert [message.append_entries.entries.bufs for message in delivered] == [[b"a" * LARGE], [b"b" * LARGE]]


def test_a_buffer_is_kept_unless_it_is_very_large() -> None:
    """Reading into place does not make a new mapping each time, and one huge message does not hold memory for ever."""
    reader = Reader(Limits(), lambda message: None)
    kept = []
    for size in (LARGE, 2 * LARGE, LARGE, 5 << 20, LARGE):
        data = wire(m.append_entries(2, 3, 1, 1, 1, entries(size)))
        reader.feed(data[:1000])
        reader.feed(data[1000:])
        kept.append(reader._kept)
    assert [None if buffer is None else len(buffer) for buffer in kept] == [LARGE, 2 * LARGE, 2 * LARGE, None, LARGE]
    assert kept[1] is kept[2]


def test_stopping_while_delivering_ends_at_that_message() -> None:
    """The rest behind the message that made somebody close the connection is not looked at."""
    delivered: list[RaftMessage] = []

    def deliver(message: RaftMessage) -> None:
        delivered.append(message)
        reader.stopped = True

    reader = Reader(Limits(), deliver)
    reader.feed(wire(m.timeout_now(2, 3, 1, 1)) + b"\xff" * 100)
    assert len(delivered) == 1


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_failure_names_message_and_offset(before: int, cut: int) -> None:
    """The text says which message is bad and where it begins in the stream."""
    good = wire(m.append_entries(2, 3, 1, 1, 1, entries(8)))
    bad = words(1, 16, 1, 2)
    data = good * before + bad
    sink = Sink()
    expected = f"AppendEntries at byte {len(good) * before} of the stream: header of 16 bytes is shorter than 40"
    with pytest.raises(Failure, match=f"^{expected} ") as caught:
        sink.put_in_pieces(data, cut)
    assert caught.value.code == RAFT_MALFORMED
    assert len(sink.delivered) == before


def test_a_failure_after_a_large_payload_names_its_offset() -> None:
    """Bytes that were read into place count too."""
    good = wire(m.append_entries(2, 3, 1, 1, 1, entries(LARGE)))
    data = good + words(666, 8, 0)
    sink = Sink()
    with pytest.raises(Failure, match=f"^message of type 666 at byte {len(good)} of the stream: unknown message type"):
        sink.put_in_pieces(data, 1000)
    assert sink.delivered == [good]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (words(1, 0), RAFT_MALFORMED),
        (words(1, (4 << 20) + 1), RAFT_TOOBIG),
        (words(1, (1 << 64) - 1), RAFT_TOOBIG),
        (words(7, 8, 1), RAFT_MALFORMED),
        (words(1, 72, 1, 1, 1, 1, 1, 1, 1 | 0xFFFF_FFF8 << 32, 0, 0), RAFT_TOOBIG),
    ],
)
def test_bad_announcements_are_refused_at_once(data: bytes, code: int) -> None:
    """Nothing is waited for, or allocated, because of a length that is out of bounds."""
    sink = Sink()
    with pytest.raises(Failure) as caught:
        sink.reader.feed(data)
    assert caught.value.code == code


def test_an_announced_payload_takes_no_memory_until_it_comes() -> None:
    """A gigabyte is announced to many readers; the process does not grow by more than a little."""
    limits = Limits()
    header = words(3, 9, 2, 1, len(BLOB)) + BLOB + words(limits.payload, 0)
    announcement = words(5, len(header)) + header
    before = resident_kib()
    sinks = [Sink(limits) for _ in range(100)]
    for sink in sinks:
        sink.reader.feed(announcement + bytes(100))
        assert sink.reader.missing is not None
        assert len(sink.reader.missing) == limits.payload - 100
    assert resident_kib() - before < 50 * 1024


BLOB = bytes.fromhex("010100000000000000010000000000000031000100000000")


def resident_kib() -> int:
    """Return the resident memory of this process in KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def test_only_the_low_half_of_the_type_word_is_used() -> None:
    """Newer relatives put a version behind the type; it is ignored, as in C."""
    data = bytearray(wire(m.timeout_now(2, 3, 1, 1)))
    data[2:8] = b"\1\2\3\4\5\6"
    sink = Sink()
    sink.reader.feed(bytes(data))
    assert sink.delivered == [wire(m.timeout_now(2, 3, 1, 1))]


# Anything at all.


def drive(data: bytes, sizes: list[int], limits: Limits) -> None:
    """Feed a connection's bytes in pieces to handshake and reader. Only a Failure may come out, nothing may pile up."""
    hello = Handshake(limits.handshake_address)
    reader: Reader | None = None
    delivered = 0

    def deliver(message: RaftMessage) -> None:
        nonlocal delivered
        delivered += 1

    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        piece = data[at : at + size]
        at += size
        try:
            if reader is None:
                if hello.feed(piece):
                    assert hello.id > 0
                    reader = Reader(limits, deliver)
                    reader.feed(hello.rest)
            else:
                reader.feed(piece)
        except Failure:
            return
    assert delivered * 24 <= len(data)
    if reader is not None:
        assert sum(map(len, reader._pieces)) <= len(data)


@settings(max_examples=500)
@given(st.binary(max_size=300), st.lists(st.integers(1, 64), min_size=1, max_size=5))
def test_random_connections_are_survived(data: bytes, sizes: list[int]) -> None:
    """They are noise from the first byte on."""
    drive(data, sizes, Limits())


@settings(max_examples=500)
@given(st.binary(max_size=300), st.lists(st.integers(1, 64), min_size=1, max_size=5))
def test_random_messages_are_survived(data: bytes, sizes: list[int]) -> None:
    """They are noise after a handshake."""
    drive(handshake(2, "127.0.0.1:9002") + data, sizes, Limits())


NUMBERS = (0, 1, 3, 5, 8, 24, 64, 1 << 20, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)
PIECES = ([1 << 16], [7], [64, 3, 16], [1])


def test_every_word_and_bit_of_a_connection_may_be_wrong() -> None:
    """A good connection with each word in turn replaced by a number that means something, and each bit flipped."""
    good = handshake(2, "127.0.0.1:9002") + wire(*small_messages())
    for at in range(0, len(good), 8):
        for number in NUMBERS:
            drive(good[:at] + words(number) + good[at + 8 :], PIECES[0], Limits())
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit >> 3] ^= 1 << (bit & 7)
        drive(bytes(data), PIECES[0], Limits())


def test_mangled_connections_are_survived() -> None:
    """A good connection with a few bytes or words changed, cut out or put in; `make fuzz` has millions of these."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(4000):
        data = bytearray(handshake(2, "127.0.0.1:9002") + wire(*small_messages()))
        for _ in range(rng.randint(1, 4)):
            mangle(rng, data)
        drive(bytes(data), rng.choice(PIECES), Limits())


def mangle(rng: random.Random, data: bytearray) -> None:
    """Change one place of a connection."""
    at = rng.randint(0, max(len(data) - 8, 0))
    kind = rng.choice(("bit", "word", "cut", "insert"))
    if kind == "bit" and data:
        data[at] ^= 1 << rng.randint(0, 7)
    elif kind == "word":
        data[at & ~7 : (at & ~7) + 8] = words(rng.choice(NUMBERS))
    elif kind == "cut":
        del data[at : at + rng.randint(1, 64)]
    else:
        data[at:at] = rng.randbytes(rng.randint(1, 64))

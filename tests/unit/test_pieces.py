"""Large AppendEntries in pieces: real bytes through a Reader, cut anywhere, held, refused, lost and spoilt."""

import itertools
import random
from collections.abc import Iterator

import pytest

from io_uv import encoding
from io_uv.failure import Failure
from io_uv.recv import Reader
from io_uv.state import Limits
from pyraft.errors import RAFT_MALFORMED, RAFT_TOOBIG
from pyraft.types import RAFT_CHANGE, RAFT_COMMAND, EntryBatch, RaftAppendEntries, RaftEntry, RaftMessage
from tests.lib import messages as m
from tests.lib.peer import stream_into

PIECE = 48
SIZES = (0, 8, 16, 0, 24, 8, 40, 0, 48, 0, 56, 0, 8, 200, 0, 48, 48, 0, 0)
"""Of entries: empty ones at the ends and between pieces, some as large as a piece, larger, and in pieces of several."""
PIECES = ((0, 8, 16, 0, 24), (8, 40, 0), (48, 0), (56, 0), (8,), (200, 0), (48,), (48, 0, 0))
"""The same as they are delivered."""


def entries(sizes: tuple[int, ...] = SIZES) -> list[RaftEntry]:
    """Return a command for each size, in terms that rise now and then."""
    payloads = [bytes((i + j) % 251 for j in range(size)) for i, size in enumerate(sizes)]
    return [RaftEntry(2 + i // 4, RAFT_COMMAND, payload) for i, payload in enumerate(payloads)]


def large(prev: int = 10, commit: int = 100, sizes: tuple[int, ...] = SIZES) -> RaftMessage:
    """Return a large AppendEntries of term 9 that says that it goes to the end of the log."""
    message = m.append_entries(2, 9, prev, 1 if prev else 0, commit, entries(sizes))
    assert message.append_entries is not None
    message.append_entries.whole = True
    return message


def wire(*messages: RaftMessage) -> bytes:
    """Return the bytes of messages one after the other."""
    return b"".join(bytes(buf) for message in messages for buf in encoding.encode_message(message))


def limits(piece: int = PIECE) -> Limits:
    """Return limits with pieces of a size."""
    found = Limits()
    found.piece = piece
    return found


class Taker:
    """A reader with small pieces, what it has delivered, and an owner that refuses a piece or is busy behind each."""

    def __init__(self, refuse: int = -1, busy: bool = False, bounds: Limits | None = None) -> None:
        self.delivered: list[RaftMessage] = []
        self.refuse = refuse
        self.reader = Reader(bounds or limits(), self.deliver, "", (lambda: True) if busy else None)

    def deliver(self, message: RaftMessage) -> None:
        """Keep a message."""
        args = message.append_entries
        if args is not None and args.partial and len(self.delivered) == self.refuse:
            args.refused = True
        self.delivered.append(message)

    def put(self, data: bytes) -> None:
        """Give it bytes as a stream does."""
        stream_into(self.reader, data)

    @property
    def parts(self) -> list[RaftAppendEntries]:
        """The AppendEntries among what was delivered."""
        return [message.append_entries for message in self.delivered if message.append_entries is not None]


def sizes_of(args: RaftAppendEntries) -> tuple[int, ...]:
    """Return the lengths of a message's payloads."""
    assert isinstance(args.entries, EntryBatch)
    return tuple(map(len, args.entries.bufs))


def check(parts: list[RaftAppendEntries], prev: int = 10, commit: int = 100, n: int = len(PIECES)) -> None:
    """See that the first `n` pieces of `large` are as the leader itself might have sent them."""
    sent = entries()
    at = 0
    assert [sizes_of(part) for part in parts] == list(PIECES[:n])
    for i, part in enumerate(parts):
        assert isinstance(part.entries, EntryBatch)
        end = at + len(PIECES[i])
        assert part.entries.bufs == [entry.buf for entry in sent[at:end]]
        assert part.entries.terms == [entry.term for entry in sent[at:end]]
        assert part.entries.types == [entry.type for entry in sent[at:end]]
        before = sent[at - 1].term if at else (1 if prev else 0)
        assert (part.term, part.prev_log_index, part.prev_log_term) == (9, prev + at, before)
        last = i == len(PIECES) - 1
        assert (part.partial, part.whole) == (not last, last)
        assert part.leader_commit == (commit if last else min(commit, prev + end))
        at = end


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yield the data in one, cut at every place, and in pieces of many sizes."""
    yield [data]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    for size in (1, 2, 7, 8, 13, 48, 100):
        yield [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("direct", [False, True])
def test_pieces_make_up_the_message_however_it_comes(direct: bool) -> None:
    """With a message before it, and others behind it that are whole."""
    small, after = m.append_entries(2, 9, 3, 1, 3, entries((8, 40))), m.timeout_now(2, 9, 1, 1)
    data = wire(small, large(), after, large(), after)
    for pieces in cuts(data):
        taker = Taker()
        for piece in pieces:
            (taker.put if direct else taker.reader.feed)(piece)
        found = taker.parts
        assert (sizes_of(found[0]), found[0].partial) == ((8, 40), False)
        check(found[1 : 1 + len(PIECES)])
        check(found[1 + len(PIECES) :])
        assert [message.type for message in taker.delivered].count(after.type) == 2
        assert taker.reader.missing is None


@pytest.mark.parametrize(("prev", "commit"), [(0, 0), (0, 7), (10, 0), (10, 12), (10, 25), (10, 29), (10, 10**9)])
def test_no_piece_commits_more_than_it_brings(prev: int, commit: int) -> None:
    """But the last one, which says what the message says, wherever the commit index is."""
    taker = Taker()
    taker.reader.feed(wire(large(prev, commit)))
    check(taker.parts, prev, commit)


def test_a_beat_stands_behind_each_piece() -> None:
    """While the reader is held: a heartbeat of the same leader, which does not say where its log ends."""
    taker = Taker(busy=True)
    assert taker.reader.beat() is None
    taker.reader.feed(wire(large()))
    end = 10
    for piece, following in itertools.pairwise(PIECES):
        end += len(piece)
        assert taker.reader.awaited == sum(following)
        beat = taker.reader.beat()
        assert beat is not None
        args = beat.append_entries
        assert args is not None
        sent = entries()[end - 11]
        assert (args.term, args.prev_log_index, args.prev_log_term) == (9, end, sent.term)
        assert (list(args.entries), args.leader_commit) == ([], end)
        assert (args.partial, args.whole) == (True, False)
        taker.reader.resume(b"")
    assert taker.reader.beat() is None
    check(taker.parts)


def test_a_beat_that_is_refused_has_the_rest_dropped() -> None:
    """As a piece is."""
    taker = Taker(busy=True)
    taker.reader.feed(wire(large(), m.timeout_now(2, 9, 1, 1)))
    taker.reader.drop()
    assert taker.reader.beat() is not None
    taker.reader.resume(b"")
    assert [message.timeout_now is not None for message in taker.delivered] == [False, True]


def test_a_message_within_the_limit_is_delivered_whole() -> None:
    """So is one with one entry, and, with a limit of 0, any. The bound for one entry bounds a piece, too."""
    for sizes, piece, payload, n in (
        ((24, 24), 48, 1 << 30, 1),
        ((24, 24, 8), 48, 1 << 30, 2),
        ((200,), 48, 1 << 30, 1),
        (SIZES, 0, 1 << 30, 1),
        ((24, 24), 48, 40, 2),
        ((0, 200, 0), 48, 1 << 30, 1),
    ):
        bounds = limits(piece)
        bounds.payload = payload
        taker = Taker(bounds=bounds)
        message = large(sizes=sizes)
        taker.reader.feed(wire(message))
        assert len(taker.parts) == n
        assert tuple(itertools.chain(*map(sizes_of, taker.parts))) == sizes
        if n == 1:
            assert wire(taker.delivered[0]) == wire(message)


def test_the_limit_of_a_payload_is_that_of_one_entry() -> None:
    """The same is said of it as of a message with one entry; without pieces it is that of all."""
    for sizes, piece, said in (((8, 48, 56), PIECE, 56), ((48, 8), 0, 56), ((56,), PIECE, 56)):
        bounds = limits(piece)
        bounds.payload = 48
        taker = Taker(bounds=bounds)
        with pytest.raises(Failure, match=f"payload of {said} bytes exceeds the limit of 48 ") as caught:
            taker.reader.feed(wire(large(sizes=sizes)))
        assert caught.value.code == RAFT_TOOBIG
        assert not taker.delivered
    bounds = limits()
    bounds.payload = 48
    taker = Taker(bounds=bounds)
    taker.reader.feed(wire(large(sizes=(48, 48, 48))))
    assert list(map(sizes_of, taker.parts)) == [(48,)] * 3


@pytest.mark.parametrize("refuse", range(len(PIECES) - 1))
def test_behind_a_refused_piece_the_rest_is_dropped(refuse: int) -> None:
    """And what follows the message is delivered; another one is taken."""
    after = m.timeout_now(2, 9, 1, 1)
    for pieces in cuts(wire(large(), after)):
        taker = Taker(refuse)
        for piece in pieces:
            taker.put(piece)
        check(taker.parts, n=refuse + 1)
        assert taker.delivered[-1].type == after.type
        taker.refuse = -1
        before = len(taker.parts)
        taker.put(wire(large()))
        check(taker.parts[before:])


@pytest.mark.parametrize("direct", [False, True])
def test_nothing_comes_behind_a_piece_until_its_owner_goes_on(direct: bool) -> None:
    """All that arrives meanwhile is kept, in order; nothing is awaited, and the last piece holds nobody."""
    after = m.timeout_now(2, 9, 1, 1)
    data = wire(large(), after, large())
    for pieces in cuts(data):
        taker = Taker(busy=True)
        held = 0
        for piece in pieces:
            before = len(taker.delivered)
            (taker.put if direct else taker.reader.feed)(piece)
            while taker.reader.held:
                assert taker.reader.missing is None
                # The end of a message, one behind it, and the first piece of the next.
                assert len(taker.delivered) <= before + 3
                taker.reader.feed(b"")
                before = len(taker.delivered)
                taker.reader.resume(b"")
                held += 1
        assert held == 2 * (len(PIECES) - 1)
        check(taker.parts[: len(PIECES)])
        check(taker.parts[len(PIECES) :])
        assert len(taker.delivered) == 2 * len(PIECES) + 1


def test_all_that_comes_to_a_held_reader_is_kept() -> None:
    """A stream that does not stop at once loses nothing."""
    data = wire(large(), m.timeout_now(2, 9, 1, 1))
    taker = Taker(busy=True)
    for at in range(0, len(data), 5):
        taker.reader.feed(data[at : at + 5])
    assert len(taker.delivered) == 1
    while taker.reader.held:
        taker.reader.resume(b"")
    check(taker.parts)
    assert len(taker.delivered) == len(PIECES) + 1


def test_a_connection_that_ends_in_the_middle_has_brought_whole_pieces() -> None:
    """At every byte: those that are complete. An ended reader lets go of the rest, held or not."""
    message = large()
    data = wire(message)
    header = len(data) - sum(SIZES)
    ends = [header + end for end in itertools.accumulate(map(sum, PIECES))]
    for end in range(len(data)):
        taker = Taker()
        taker.reader.feed(data[:end])
        check(taker.parts, n=sum(end >= one for one in ends))
        taker.reader.end()
        assert taker.reader.missing is None
        assert taker.reader._large is None
        held = Taker(busy=True)
        held.reader.feed(data[:end])
        held.reader.end()
        assert (held.reader._large, held.reader._unread) == (None, b"")


def test_stopping_at_a_piece_ends_there() -> None:
    """As when its owner closes the connection while it is delivered."""
    taker = Taker()
    deliver = taker.deliver

    def stop(message: RaftMessage) -> None:
        deliver(message)
        if len(taker.delivered) == 3:
            taker.reader.end()

    taker.reader = Reader(limits(), stop)
    taker.reader.feed(wire(large()))
    check(taker.parts, n=3)
    assert taker.reader.missing is None


@pytest.mark.parametrize("busy", [False, True])
def test_a_piece_that_makes_no_sense_ends_the_connection_behind_the_others(busy: bool) -> None:
    """A configuration that does not decode, in the third piece; the text names the message, and where it began."""
    sent = entries()
    sent[8] = RaftEntry(4, RAFT_CHANGE, bytes(48))
    small = wire(m.timeout_now(2, 9, 1, 1))
    data = small + wire(m.append_entries(2, 9, 10, 1, 0, sent))
    taker = Taker(busy=busy)

    def take() -> None:
        taker.reader.feed(data)
        while taker.reader.held:
            taker.reader.resume(b"")

    with pytest.raises(Failure, match=f"^AppendEntries at byte {len(small)} of the stream: ") as caught:
        take()
    assert caught.value.code == RAFT_MALFORMED
    assert [sizes_of(part) for part in taker.parts] == list(PIECES[:2])


def test_random_messages_are_the_sum_of_their_pieces() -> None:
    """Of random sizes, limits, cuts, holds and refusals."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        sizes = tuple(8 * rng.choice((0, 0, 1, 2, 3, 9, 40)) for _ in range(rng.randint(2, 30)))
        piece = rng.choice((1, 8, 24, 64, 200, 1000))
        refuse = rng.choice((-1, -1, 0, 1, 3))
        taker = Taker(refuse, rng.random() < 0.5, limits(piece))
        data = wire(large(sizes=sizes), m.timeout_now(2, 9, 1, 1))
        at = 0
        while at < len(data):
            n = rng.choice((1, 5, 16, 100, 1000))
            taker.put(data[at : at + n])
            at += n
            while taker.reader.held and (at >= len(data) or rng.random() < 0.7):
                taker.reader.resume(b"")
        found = tuple(itertools.chain(*map(sizes_of, taker.parts)))
        assert taker.delivered[-1].timeout_now is not None
        if any(part.refused for part in taker.parts):
            assert sizes[: len(found)] == found
        else:
            assert sizes == found
        for part in taker.parts:
            if sum(sizes_of(part)) > piece:
                assert sum(size > 0 for size in sizes_of(part)) == 1 or len(taker.parts) == 1


def resident_kib() -> int:
    """Return the resident memory of this process in KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def test_a_message_of_any_size_takes_no_more_than_a_piece() -> None:
    """256 MiB in entries of 64 KiB, dropped when they are there."""
    n, size = 4096, 1 << 16
    message = m.append_entries(2, 9, 10, 1, 0, [RaftEntry(2, RAFT_COMMAND, bytes(size))] * n)
    head = bytes(encoding.encode_message(message)[0])
    taker: list[int] = []
    bounds = Limits()
    bounds.payload = 1 << 20
    reader = Reader(bounds, lambda message: taker.append(len(message.append_entries.entries)))
    before = resident_kib()
    most = 0
    reader.feed(head)
    for _ in range(n):
        reader.feed(bytes(size))
        most = max(most, resident_kib() - before)
    assert sum(taker) == n
    assert len(taker) == n * size // bounds.payload
    assert most < 32 * 1024

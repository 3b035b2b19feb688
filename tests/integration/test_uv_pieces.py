"""Large AppendEntries in pieces, over real sockets: what the core makes of them, and what their leader is told.

The leader is a raw socket, which sends as a C server does: all that the follower lacks in one message.
"""

import errno
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from io_uv import encoding
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_FOLLOWER,
    RaftApply,
    raft_apply,
    raft_last_index,
    raft_set_election_timeout,
    snapshot,
)
from pyraft.types import (
    RAFT_COMMAND,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    EntryBatch,
    RaftEntry,
    RaftIo,
    RaftIoAppend,
    RaftMessage,
)
from tests.lib import faults
from tests.lib import messages as m
from tests.lib.faults import Faults
from tests.lib.peer import Connection, PeerServer, connect, handshake, port_of
from tests.lib.tlstest import Authority, tls_init
from tests.lib.uvnode import Node, free_addresses, make_nodes, settled
from tests.lib.uvtest import Outcome, UvIo, run_until

SIZE = 1000
PER_PIECE = 4
PIECE = PER_PIECE * SIZE
N = 40
HOUR = 3_600_000
TERM = 2


def numbered(first: int, n: int = N) -> list[RaftEntry]:
    """Return commands of SIZE bytes that begin with the numbers from `first` on."""
    return [RaftEntry(TERM, RAFT_COMMAND, i.to_bytes(8, "little").ljust(SIZE, b"x")) for i in range(first, first + n)]


def wire(message: RaftMessage) -> bytes:
    """Return a message's bytes."""
    return b"".join(bytes(buf) for buf in encoding.encode_message(message))


class Pair:
    """A follower, and the socket that leads it. Its log begins with entry 1, the configuration, of term 1."""

    def __init__(self, dir: Path) -> None:
        self.loop = Loop()
        self.server = PeerServer(self.loop)
        members = {**free_addresses(1), 2: self.server.address, 3: "127.0.0.1:1"}
        self.node = Node(dir, 1, members, self.loop).start()
        raft_set_election_timeout(self.node.raft, HOUR)
        self.node.uv.limits.piece = PIECE
        self.peers: list[Connection] = []
        self.answering: Connection | None = None
        self.latest: tuple[int, int] | None = None

    def lead(self) -> Connection:
        """Connect as the leader."""
        peer = connect(self.loop, port_of(self.node.transport))
        self.peers.append(peer)
        peer.send(handshake(2, self.server.address))
        return peer

    def led(self) -> Connection:
        """Connect as a leader whose term is stored."""
        peer = self.lead()
        peer.send(wire(m.append_entries(2, TERM, 1, 1, 1)))
        assert self.answers(1) == [(0, 1)]
        return peer

    def answer(self) -> tuple[int, int]:
        """Wait for an answer; return what it refuses, and its last index."""
        if self.answering is None:
            self.answering = self.server.accept()
            assert self.answering.read_handshake()[0] == 1
        type, header = self.answering.read_message()
        term, rejected, last, _ = struct.unpack("<4Q", header)
        assert (type, term) == (RAFT_IO_APPEND_ENTRIES_RESULT, TERM)
        return rejected, last

    def answers(self, n: int) -> list[tuple[int, int]]:
        """Wait for so many answers. Acknowledgments that tell nothing new do not count: heartbeats have such."""
        found: list[tuple[int, int]] = []
        while len(found) < n:
            answer = self.answer()
            if answer[0] != 0 or answer != self.latest:
                found.append(answer)
            self.latest = answer
        return found

    def ticks(self, n: int) -> None:
        """Wait for so many heartbeat intervals of the follower."""
        uv, ticks = self.node.uv, 0
        tick_cb = uv.tick_cb

        def tick(io: RaftIo) -> None:
            nonlocal ticks
            ticks += 1
            tick_cb(io)

        uv.tick_cb = tick
        run_until(self.loop, lambda: ticks >= n)
        uv.tick_cb = tick_cb

    def holds(self, n: int) -> bool:
        """Whether the log of the follower is what was sent, from number 1 on."""
        log = self.node.raft.log
        return log.bufs[1:] == [entry.buf for entry in numbered(1, n)]

    def close(self) -> None:
        """Close everything."""
        for peer in self.peers:
            peer.close()
        self.node.close()
        self.server.close()
        self.loop.close()


@pytest.fixture
def f(tmp_path: Path) -> Iterator[Pair]:
    """A follower and its leader."""
    pair = Pair(tmp_path)
    yield pair
    pair.close()


@pytest.fixture
def slow(f: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """The disk of the follower's snapshots, which may stall; it works again at the end."""
    faults = Faults(monkeypatch, f.node.dir / "tmp-snapshot")
    yield faults
    faults.heal()


ENDS = [1 + i for i in range(PER_PIECE, N + 1, PER_PIECE)]
"""The last index of each piece."""


def test_more_entries_than_a_header_may_have_end_the_connection(f: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, with the limit; a higher one has the message taken, however many there are."""
    data = wire(m.append_entries(2, TERM, 1, 1, 1, numbered(1)))
    size = len(data) - encoding.PREAMBLE_SIZE - N * SIZE
    f.node.uv.limits.header = size - 1
    f.led().send_all(data)
    text = f"header of {size} bytes exceeds the limit of {size - 1}"
    run_until(f.loop, lambda: text in caplog.text)
    assert raft_last_index(f.node.raft) == 1
    f.node.uv.limits.header = size
    f.lead().send_all(data)
    run_until(f.loop, lambda: f.holds(N))


def test_each_piece_is_stored_and_answered(f: Pair) -> None:
    """The answers rise to the end of the message; all that the leader has committed is applied; so is a second one."""
    leader = f.lead()
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1))))
    assert f.answers(len(ENDS)) == [(0, end) for end in ENDS]
    assert f.holds(N)
    assert f.node.raft.commit_index == 30
    assert f.node.fsm.numbers == list(range(1, 30))
    # As C does in PROBE: once more, with what has come since. The pieces that bring nothing new are answered as well.
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 45, numbered(1, N + 8))))
    assert f.answers(len(ENDS) + 2) == [(0, end) for end in [*ENDS, 1 + N + 4, 1 + N + 8]]
    assert f.holds(N + 8)
    assert f.node.fsm.numbers == list(range(1, 45))
    assert f.node.uv.held == []


def test_the_core_has_stored_a_piece_before_the_next_is_read(f: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk does not answer, the log has no more than the first one, however much the leader has sent."""
    sick = Faults(monkeypatch, f.node.dir)
    leader = f.led()
    sick.stall()
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1, 3 * N))))
    run_until(f.loop, lambda: f.node.uv.held)
    for _ in range(20):
        f.loop.run(1)
    assert raft_last_index(f.node.raft) == 1 + PER_PIECE
    [server] = f.node.uv.held
    sick.heal()
    assert f.answers(3 * N // PER_PIECE)[-1] == (0, 1 + 3 * N)
    assert f.holds(3 * N)
    assert f.node.uv.servers == [server]


def test_a_connection_lost_in_the_middle_leaves_whole_pieces(f: Pair) -> None:
    """They are answered, and the leader goes on behind them over another connection."""
    data = wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1)))
    leader = f.lead()
    leader.send_all(data[: len(data) - N * SIZE + 5 * PIECE + 100])
    leader.close()
    assert f.answers(5) == [(0, end) for end in ENDS[:5]]
    run_until(f.loop, lambda: f.node.uv.servers == [])
    assert f.holds(5 * PER_PIECE)
    assert f.node.uv.held == []
    again = f.lead()
    again.send_all(wire(m.append_entries(2, TERM, ENDS[4], TERM, 30, numbered(1 + 5 * PER_PIECE, N - 5 * PER_PIECE))))
    assert f.answers(5) == [(0, end) for end in ENDS[5:]]
    assert f.holds(N)


def test_a_refused_message_is_refused_once(f: Pair) -> None:
    """By the index of its own predecessor; its rest is read and dropped, and what comes behind it is answered."""
    leader = f.lead()
    leader.send_all(
        wire(m.append_entries(2, TERM, 50, TERM, 30, numbered(50))) + wire(m.append_entries(2, TERM, 1, 1, 1))
    )
    assert f.answers(2) == [(50, 1), (0, 1)]
    assert raft_last_index(f.node.raft) == 1
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1))))
    assert f.answers(len(ENDS)) == [(0, end) for end in ENDS]


def test_a_message_of_an_old_term_is_refused_once(f: Pair) -> None:
    """As the sender leads no more, it has to hear of that no more often than by any message."""
    leader = f.led()
    old = [RaftEntry(1, RAFT_COMMAND, bytes(SIZE))] * N
    leader.send_all(wire(m.append_entries(2, 1, 1, 1, 30, old)) + wire(m.append_entries(2, TERM, 1, 1, 1)))
    assert f.answers(2) == [(1, 1), (0, 1)]
    assert raft_last_index(f.node.raft) == 1


def test_a_write_that_fails_in_the_middle_ends_the_message(f: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its piece is refused, as any message whose entries are not stored, and the next one; the leader goes on there."""
    sick = Faults(monkeypatch, f.node.dir)
    leader = f.lead()
    data = wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1)))
    begin = len(data) - N * SIZE + 2 * PIECE
    leader.send_all(data[:begin])
    assert f.answers(2) == [(0, end) for end in ENDS[:2]]
    sick.begin(faults.always(errno.EIO, *faults.WRITES))
    leader.send_all(data[begin:] + wire(m.append_entries(2, TERM, ENDS[1], TERM, 1)))
    found = f.answers(1)
    while found[-1][0] != 0:
        assert found[-1][0] > ENDS[1]
        assert found[-1][1] == ENDS[1]
        found += f.answers(1)
    assert found[-1] == (0, ENDS[1])
    assert len(found) <= 3
    assert raft_last_index(f.node.raft) == ENDS[1]
    sick.heal()
    run_until(f.loop, lambda: f.node.uv.finalize_failure is None and f.node.uv.prepare_failure is None)
    found = []
    while not found or found[-1] != (0, 1 + N):
        if not found or found[-1][0] != 0:
            leader.send_all(wire(m.append_entries(2, TERM, ENDS[1], TERM, 30, numbered(9, N - 8))))
        found += f.answers(1)
    assert f.holds(N)
    assert f.node.state == RAFT_FOLLOWER


def test_closing_while_a_connection_is_held(f: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on then, and the close ends."""
    sick = Faults(monkeypatch, f.node.dir)
    leader = f.led()
    sick.stall()
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1))))
    run_until(f.loop, lambda: f.node.uv.held)
    uv = f.node.uv
    [server] = uv.held
    server.abort()
    assert uv.held == []
    assert raft_last_index(f.node.raft) == 1 + PER_PIECE
    sick.heal()
    f.node.close()


AHEAD = 8
"""Pieces that are taken while a snapshot is being stored."""


def held_by_a_snapshot(f: Pair, slow: Faults) -> int:
    """Have a follower whose disk does not store its snapshot take a message of 30 pieces; return where its log ends."""
    leader = f.led()
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 1 + N, numbered(1))))
    assert f.answers(len(ENDS))[-1] == (0, 1 + N)
    slow.stall()
    assert snapshot.take_now(f.node.raft) == 0
    run_until(f.loop, lambda: f.node.uv.snapshot_put_work is not None)
    leader.send_all(wire(m.append_entries(2, TERM, 1 + N, TERM, 1 + 4 * N, numbered(1 + N, 3 * N))))
    end = 1 + N + (1 + AHEAD) * PER_PIECE  # the first one holds the connection
    f.answers(1 + AHEAD)
    assert f.latest == (0, end)
    return end


def test_a_message_takes_no_more_memory_however_long_a_snapshot_is_stored(f: Pair, slow: Faults) -> None:
    """Its leader is followed and answered all the time, and the rest is taken when the snapshot is stored."""
    end = held_by_a_snapshot(f, slow)
    raft = f.node.raft
    for _ in range(2 * AHEAD):
        since = raft.election_timer_start
        assert f.answer() == (0, end)
        run_until(f.loop, lambda since=since: raft.election_timer_start > since)
    assert raft_last_index(raft) == end
    assert f.node.uv.snapshot_put_work is not None
    slow.heal()
    f.answers((3 * N - (1 + AHEAD) * PER_PIECE) // PER_PIECE)
    assert f.latest == (0, 1 + 4 * N)
    assert f.node.fsm.numbers == list(range(1, 1 + 4 * N))
    assert f.node.uv.held == []


def test_a_leader_that_is_gone_is_not_followed_for_as_long_as_a_snapshot_is_stored(f: Pair, slow: Faults) -> None:
    """Its end is seen on the connection to it, even if somebody is there again at once."""
    f.node.uv.connect_retry_delay = 10
    end = held_by_a_snapshot(f, slow)
    assert f.answer() == (0, end)
    [client] = [client for client in f.node.uv.clients if client.id == 2]
    former = client.stream
    assert f.answering is not None
    f.answering.close()
    run_until(f.loop, lambda: client.stream not in (None, former))
    raft = f.node.raft
    since = raft.election_timer_start
    f.ticks(5)
    assert raft.election_timer_start == since
    assert len(f.node.uv.held) == 1
    slow.heal()
    run_until(f.loop, lambda: raft_last_index(raft) == 1 + 4 * N)


def test_a_heartbeat_that_is_refused_ends_the_message(f: Pair, slow: Faults) -> None:
    """Another term has come: the rest is read, although the snapshot is not stored, and what comes behind it counts."""
    end = held_by_a_snapshot(f, slow)
    other = f.lead()
    other.send(wire(m.request_vote(2, TERM + 1, 10**6, TERM, disrupt=True)))
    run_until(f.loop, lambda: f.node.raft.current_term == TERM + 1)
    run_until(f.loop, lambda: f.node.uv.held == [])
    assert f.node.uv.snapshot_put_work is not None
    assert raft_last_index(f.node.raft) == end
    slow.heal()


def test_a_leader_is_answered_while_the_disk_has_not_stored_a_piece(f: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is behind a message that is not in pieces."""
    sick = Faults(monkeypatch, f.node.dir)
    leader = f.led()
    sick.stall()
    leader.send_all(wire(m.append_entries(2, TERM, 1, 1, 30, numbered(1))))
    for _ in range(3):
        assert f.answer() == (0, 1)
    assert raft_last_index(f.node.raft) == 1 + PER_PIECE
    sick.heal()
    assert f.answers(len(ENDS)) == [(0, end) for end in ENDS]


class Storing(UvIo):
    """A RaftIo whose receiver appends what comes, and counts ticks and what is not stored yet."""

    def __init__(self, dir: Path) -> None:
        super().__init__(dir)
        self.start()
        self.uv.limits.piece = PIECE
        self.ticks = 0
        self.pieces: list[int] = []
        self.outcomes: list[Outcome] = []
        assert self.io.start(self.io, 20, self.tick, self.recv) == 0

    def tick(self, io: RaftIo) -> None:
        """Count."""
        self.ticks += 1

    def recv(self, io: RaftIo, message: RaftMessage) -> None:
        """Append the entries of a message, all earlier ones being stored."""
        assert all(outcome.calls for outcome in self.outcomes)
        self.pieces.append(self.ticks)
        assert message.append_entries is not None
        batch = message.append_entries.entries
        assert isinstance(batch, EntryBatch)
        outcome = Outcome()
        self.outcomes.append(outcome)
        assert io.append(io, RaftIoAppend(), batch, len(batch), outcome) == 0


@pytest.mark.parametrize("storing", [False, True])
def test_while_a_snapshot_is_stored_a_piece_comes_with_each_tick(tmp_path: Path, storing: bool) -> None:
    """Else as soon as the one before is stored. Behind some of them nothing comes until it is stored."""
    t = Storing(tmp_path)
    # In front of the barrier of a put nothing would be written; here only its mark is looked at.
    t.uv.snapshot_put_work = SimpleNamespace(taken=0) if storing else None
    peer = connect(t.loop, port_of(t.transport))
    peer.send(handshake(2, "127.0.0.1:1"))
    peer.send_all(wire(m.append_entries(2, TERM, 0, 0, 30, numbered(1))))
    if storing:
        run_until(t.loop, lambda: len(t.outcomes) == 1 + AHEAD)
        ticks = t.ticks
        run_until(t.loop, lambda: t.ticks > ticks + 5)
        assert len(t.outcomes) == 1 + AHEAD
        t.uv.snapshot_put_work = None
    run_until(t.loop, lambda: len(t.outcomes) == N // PER_PIECE and t.outcomes[-1].calls)
    assert [outcome.statuses for outcome in t.outcomes] == [[0]] * (N // PER_PIECE)
    if storing:
        assert len(set(t.pieces)) == N // PER_PIECE
    peer.close()
    t.close()
    assert t.reported == []


@pytest.mark.parametrize("secure", [False, True])
def test_leaders_of_ours_may_send_large_messages_too(tmp_path: Path, secure: bool) -> None:
    """Over TCP and TLS: all is applied everywhere."""
    loop = Loop()
    if secure:
        authority = Authority(tmp_path)
        members = free_addresses(3)
        nodes = []
        for id in members:
            (tmp_path / str(id)).mkdir()
            init = tls_init(authority, f"server{id}", f"raft-server-{id}")
            nodes.append(Node(tmp_path / str(id), id, members, loop, init).start())
    else:
        nodes = make_nodes(tmp_path, 3, loop)
    for node in nodes:
        node.uv.limits.piece = PIECE
    leader = settled(nodes)
    for number in range(4):
        bufs = [entry.buf for entry in numbered(1 + number * N)]
        done = Outcome()
        assert raft_apply(leader.raft, RaftApply(), bufs, N, done) == 0
        run_until(loop, lambda done=done: done.calls)
    total = 4 * N
    run_until(loop, lambda: all(len(node.fsm.numbers) == total for node in nodes))
    assert all(node.fsm.numbers == list(range(1, total + 1)) for node in nodes)
    for node in nodes:
        node.close()
    loop.close()

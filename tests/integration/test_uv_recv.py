"""io.start's recv callback: what peers send, and what becomes of peers that send something else."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import encoding, health, pyuv, raft_uv_set_tracer
from io_uv.pyuv import UV_RUN_NOWAIT
from pyraft.errors import RAFT_IOERR
from pyraft.tracing import RaftTracer
from pyraft.types import (
    RAFT_COMMAND,
    RAFT_VOTER,
    EntryBatch,
    RaftConfiguration,
    RaftEntry,
    RaftIo,
    RaftMessage,
    RaftServer,
)
from tests.lib import messages as m
from tests.lib.covers import covers
from tests.lib.peer import Connection, connect, handshake, port_of, words
from tests.lib.uvtest import Outcome, UvIo, run_until

PEER_ID = 2
PEER_ADDRESS = "127.0.0.1:666"


class Receiver(UvIo):
    """A RaftIo that receives, and what it has received."""

    def __init__(self, dir: Path) -> None:
        super().__init__(dir)
        self.start()
        self.traces: list[str] = []
        tracer = RaftTracer(lambda t, file, line, func, level, text: self.traces.append(text), True)
        raft_uv_set_tracer(self.io, tracer)
        self.received: list[RaftMessage] = []
        assert self.io.start(self.io, 60_000, lambda io: None, self.recv) == 0
        self.peers: list[Connection] = []

    def recv(self, io: RaftIo, message: RaftMessage) -> None:
        """Keep a message."""
        assert io is self.io
        self.received.append(message)

    def connect(self) -> Connection:
        """Return a new connection."""
        peer = connect(self.loop, port_of(self.transport))
        self.peers.append(peer)
        return peer

    def peer(self, id: int = PEER_ID) -> Connection:
        """Return a new connection on which a peer has introduced itself."""
        peer = self.connect()
        before = len(self.uv.servers)
        peer.send(handshake(id, PEER_ADDRESS))
        run_until(self.loop, lambda: len(self.uv.servers) > before)
        return peer

    def wait_received(self, n: int = 1) -> RaftMessage:
        """Turn the loop until so many messages have arrived; return the last one."""
        run_until(self.loop, lambda: len(self.received) >= n)
        assert len(self.received) == n
        return self.received[-1]


@pytest.fixture
def f(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver."""
    receiver = Receiver(tmp_path)
    yield receiver
    receiver.close()
    for peer in receiver.peers:
        peer.close()
    assert receiver.reported == []


def wire(message: RaftMessage) -> bytes:
    """Return a message's bytes."""
    return b"".join(bytes(buf) for buf in encoding.encode_message(message))


def configuration() -> RaftConfiguration:
    """Return a configuration of two servers."""
    conf = RaftConfiguration()
    conf.servers = [RaftServer(1, "127.0.0.1:9001", RAFT_VOTER), RaftServer(2, "127.0.0.1:9002", RAFT_VOTER)]
    return conf


def fields(part: Any) -> dict[str, Any]:
    """Return the fields of a message's member."""
    values = {name: getattr(part, name) for name in m.fields_of(part)}
    if "conf" in values:
        values["conf"] = [(server.id, server.address, server.role) for server in values["conf"].servers]
    if "entries" in values:
        values["entries"] = [(entry.term, entry.type, entry.buf) for entry in values["entries"]]
    return values


ENTRIES = [RaftEntry(2, RAFT_COMMAND, b"01234567"), RaftEntry(3, RAFT_COMMAND, b"abcdefgh")]


@covers(
    "recv/first",
    "recv/requestVoteResult",
    "recv/appendEntries",
    "recv/heartbeat",
    "recv/appendEntriesResult",
    "recv/installSnapshot",
    "recv/timeoutNow",
)
@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("request_vote", m.request_vote(2, 3, 123, 2, disrupt=True)),
        ("request_vote_result", m.request_vote_result(2, 3, True, pre_vote=True)),
        ("append_entries", m.append_entries(2, 3, 10, 2, 9, ENTRIES)),
        ("append_entries", m.append_entries(2, 3, 10, 2, 9)),
        ("append_entries_result", m.append_entries_result(2, 3, 10, 4)),
        ("install_snapshot", m.install_snapshot(2, 3, 10, 2, configuration(), 1, b"snapshot")),
        ("timeout_now", m.timeout_now(2, 3, 10, 2)),
    ],
)
def test_every_kind_of_message_is_delivered(f: Receiver, member: str, message: RaftMessage) -> None:
    """All fields arrive, with the id and the address that the peer has introduced itself with."""
    f.peer().send(wire(message))
    received = f.wait_received()
    assert (received.type, received.server_id, received.server_address) == (message.type, PEER_ID, PEER_ADDRESS)
    assert fields(getattr(received, member)) == fields(getattr(message, member))
    common = (member, "type", "server_id", "server_address")
    others = [name for name in m.fields_of(RaftMessage()) if name not in common]
    assert all(getattr(received, name) is None for name in others)


@covers("recv/second")
def test_messages_follow_each_other_on_a_connection(f: Receiver) -> None:
    """A second message is delivered after the first."""
    peer = f.peer()
    peer.send(wire(m.timeout_now(2, 3, 10, 2)))
    f.wait_received(1)
    peer.send(wire(m.timeout_now(2, 3, 11, 2)))
    assert f.wait_received(2).timeout_now.last_log_index == 11


def test_many_messages_may_come_at_once(f: Receiver) -> None:
    """A thousand messages in one piece, the handshake before them, are delivered in order."""
    peer = f.connect()
    data = b"".join(wire(m.append_entries_result(2, 3, i)) for i in range(1000))
    peer.send_all(handshake(PEER_ID, PEER_ADDRESS) + data)
    f.wait_received(1000)
    results = [message.append_entries_result.last_log_index for message in f.received]
    assert results == list(range(1000))


def test_a_message_may_come_byte_by_byte(f: Receiver) -> None:
    """It is delivered when its last byte is there."""
    peer = f.peer()
    data = wire(m.append_entries(2, 3, 10, 2, 9, ENTRIES))
    for i in range(len(data)):
        assert f.received == []
        peer.send(data[i : i + 1])
        f.loop.run(UV_RUN_NOWAIT)
    entries = f.wait_received().append_entries.entries
    assert isinstance(entries, EntryBatch)
    assert entries.bufs == [b"01234567", b"abcdefgh"]


@pytest.mark.parametrize("size", [64 * 1024, 1 << 20, 5 << 20])
def test_large_entries_are_read_into_place(f: Receiver, size: int) -> None:
    """Large payloads arrive whole, twice in a row and with small messages between them."""
    peer = f.peer()
    payload = bytes(range(256)) * (size // 256)
    message = m.append_entries(2, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, payload)])
    for i in range(2):
        peer.send_all(wire(message) + wire(m.timeout_now(2, 3, 10, 2)))
        f.wait_received(2 * i + 2)
        entries = f.received[2 * i].append_entries.entries
        assert isinstance(entries, EntryBatch)
        assert entries.bufs == [payload]


def test_a_large_snapshot_is_not_copied(f: Receiver) -> None:
    """Its data is a read-only view on the buffer that it was read into."""
    peer = f.peer()
    data = bytes(range(256)) * 40_000
    peer.send_all(wire(m.install_snapshot(2, 3, 10, 2, configuration(), 1, data)))
    received = f.wait_received().install_snapshot.data
    assert isinstance(received, memoryview)
    assert received.readonly
    assert received == data


def test_a_member_that_goes_before_a_tick_was_heard_of(f: Receiver) -> None:
    """Its message counts although no tick has looked at the connection."""
    assert f.io.configured is not None
    f.io.configured(f.io, configuration().servers)
    peer = f.peer()
    assert health.silence(f.io, PEER_ID) is None
    peer.send(wire(m.timeout_now(2, 3, 10, 2)))
    f.wait_received()
    assert health.silence(f.io, PEER_ID) == 0.0
    peer.close()
    run_until(f.loop, lambda: f.uv.servers == [])
    silence = health.silence(f.io, PEER_ID)
    assert silence is not None
    assert silence < 60


def test_peers_are_told_apart(f: Receiver) -> None:
    """Each message carries the id of the connection that it came from."""
    peers = {id: f.peer(id) for id in (2, 3, 4)}
    for id, peer in peers.items():
        peer.send(wire(m.timeout_now(2, id, 1, 1)))
    f.wait_received(3)
    assert all(message.timeout_now.term == message.server_id for message in f.received)


# Strangers.


@covers("recv/badProtocol")
def test_an_unknown_protocol_is_dropped(f: Receiver) -> None:
    """The connection is closed and nothing else happens."""
    peer = f.connect()
    peer.send(handshake(PEER_ID, PEER_ADDRESS, protocol=0x060606))
    peer.wait_end()
    f.peer().send(wire(m.timeout_now(2, 3, 10, 2)))
    f.wait_received()


@covers("recv/badSize", "recv/badType")
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (words(3, 0), "RequestVote at byte 0 of the stream: header of 0 bytes"),
        (words(0xFEFE, 8, 1), "message of type 65278 at byte 0 of the stream: unknown message type"),
        (words(3, 1 << 40), "exceeds the limit of 4194304"),
        (words(1, 64, 1, 1, 1, 1, 1, 1, 9, 0), "entry 0 of 1 has unknown type 9"),
        (words(5, 64, 1, 1, 1, 1, 16, 0, 0, 0), "InstallSnapshot at byte 0 of the stream: configuration"),
    ],
)
def test_what_is_no_message_ends_the_connection(f: Receiver, data: bytes, problem: str) -> None:
    """The peer finds its connection closed; the trace names it, the message and the offset; others go on."""
    other = f.peer(3)
    peer = f.peer()
    peer.send(data)
    peer.wait_end()
    [text] = f.traces
    assert text.startswith(f"peer {PEER_ID} at {PEER_ADDRESS}: ")
    assert problem in text
    assert text.endswith(": connection dropped")
    other.send(wire(m.timeout_now(2, 3, 10, 2)))
    assert f.wait_received().server_id == 3


def test_a_bad_message_does_not_undo_those_before_it(f: Receiver) -> None:
    """Good messages in the same piece are delivered first."""
    peer = f.peer()
    good = wire(m.timeout_now(2, 3, 10, 2))
    peer.send(good * 3 + words(3, 0))
    peer.wait_end()
    assert len(f.received) == 3
    assert f"RequestVote at byte {3 * len(good)} of the stream" in f.traces[0]


@pytest.mark.parametrize("n", [0, 8, 16, 40, 100, 200])
def test_a_peer_that_goes_away_is_forgotten(f: Receiver, n: int) -> None:
    """A connection that ends within a message leaves nothing behind."""
    peer = f.peer()
    data = wire(m.append_entries(2, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, bytes(100 * 1024))]))
    peer.send(data[:n])
    f.loop.run(UV_RUN_NOWAIT)
    peer.close()
    run_until(f.loop, lambda: not f.uv.servers and not f.uv.aborting)
    assert f.received == []


def test_a_peer_that_resets_while_a_payload_is_read_is_forgotten(f: Receiver) -> None:
    """The same while the payload is read into place; the trace has the system's reason."""
    peer = f.peer()
    data = wire(m.append_entries(2, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, bytes(1 << 20))]))
    peer.send(data[:100_000])
    server = f.uv.servers[0]
    run_until(f.loop, lambda: server._reader.missing is not None and len(server._reader.missing) < 1 << 20)
    peer.reset()
    run_until(f.loop, lambda: not f.uv.servers and not f.uv.aborting)
    assert f.traces == [f"peer {PEER_ID} at {PEER_ADDRESS}: receive data: connection reset by peer"]


def test_a_peer_with_the_own_id_is_dropped(f: Receiver) -> None:
    """Its acknowledgments would count as ours."""
    peer = f.connect()
    peer.send(handshake(1, PEER_ADDRESS) + wire(m.append_entries_result(2, 3, 10)))
    peer.wait_end()
    assert f.received == []
    assert "claims to be this server" in f.traces[0]


class BareStream:
    """A stream with what `transport` asks of one, and not a parameter more."""

    def __init__(self) -> None:
        self.closed = False
        self.read_cb: Callable[[Any, bytes | None, int | None], object] | None = None

    def write(self, data: Any, callback: Callable[[Any, int | None], object]) -> None:
        """Do nothing: accepted connections are only read from."""
        raise AssertionError

    def start_read(self, callback: Callable[[Any, bytes | None, int | None], object]) -> None:
        """Keep the callback."""
        self.read_cb = callback

    def close(self, callback: Callable[[Any], object]) -> None:
        """Close at once."""
        self.closed = True
        callback(self)


def test_streams_of_other_transports_need_no_more_than_their_contract(f: Receiver) -> None:
    """One that brings a message and ends, one that brings a payload in pieces, and one that is refused at once."""
    transport = f.uv.transport
    refused, stream = BareStream(), BareStream()
    transport.impl.accept_cb(transport, 1, PEER_ADDRESS, refused)
    assert refused.closed
    transport.impl.accept_cb(transport, PEER_ID, PEER_ADDRESS, stream)
    read_cb = stream.read_cb
    assert read_cb is not None
    data = wire(m.append_entries(2, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, bytes(1 << 17))]))
    read_cb(stream, wire(m.timeout_now(2, 3, 1, 1)) + data[:1000], None)
    read_cb(stream, data[1000:], None)
    assert len(f.received) == 2
    read_cb(stream, None, pyuv.errno.UV_EOF)
    assert stream.closed
    assert f.uv.servers == f.uv.aborting == []


def test_too_many_connections_push_out_the_silent(f: Receiver) -> None:
    """A peer that never sent a message goes first, however new; then the one that was silent longest."""
    f.uv.limits.connections = 3
    peers = [f.peer(id) for id in (2, 3, 4)]
    for peer in (peers[0], peers[2]):
        peer.send(wire(m.timeout_now(2, 3, 1, 1)))
    f.wait_received(2)
    newcomer = f.connect()
    newcomer.send(handshake(5, PEER_ADDRESS))
    peers[1].wait_end()
    another = f.connect()
    another.send(handshake(6, PEER_ADDRESS) + wire(m.timeout_now(2, 3, 1, 1)))
    newcomer.wait_end()
    f.wait_received(3)
    assert sorted(server.id for server in f.uv.servers) == [2, 4, 6]
    f.uv.servers[0].heard_at -= 1000
    silent = {2: peers[0], 4: peers[2]}[f.uv.servers[0].id]
    f.connect().send(handshake(7, PEER_ADDRESS))
    silent.wait_end()


def test_an_exception_of_the_callback_is_reported(tmp_path: Path) -> None:
    """The connection is not harmed by it, and messages behind it are delivered."""
    f = Receiver(tmp_path)

    def recv(io: RaftIo, message: RaftMessage) -> None:
        f.received.append(message)
        if len(f.received) == 1:
            raise ValueError("mine")

    f.uv.recv_cb = recv
    f.peer().send(wire(m.timeout_now(2, 3, 1, 1)) * 2)
    f.wait_received(2)
    assert [type(exc) for exc in f.reported] == [ValueError]
    f.close()
    f.peers[0].close()


def test_a_message_that_there_is_no_memory_for_ends_the_connection(
    f: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rest could not be told from the next message; the log says so, and nothing is raised on the loop."""
    peer = f.peer()
    run_until(f.loop, lambda: f.uv.servers)

    def short(data: bytes) -> None:
        raise MemoryError

    assert not f.uv.servers[0]._take(short, b"")
    peer.wait_end()
    assert f.reported == []
    assert "no memory for a message of the peer" in caplog.text


# Closing and listening.


@covers("recv/closeBeforeAccept")
def test_closing_with_a_connection_pending(f: Receiver) -> None:
    """A connection that has not introduced itself is closed with the instance."""
    peer = f.connect()
    f.wait(f.begin_close())
    peer.wait_end()


def test_closing_within_a_message(f: Receiver) -> None:
    """Half a payload is dropped, and the close callback waits for the connection."""
    peer = f.peer()
    data = wire(m.append_entries(2, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, bytes(1 << 20))]))
    peer.send(data[:1000])
    server = f.uv.servers[0]
    run_until(f.loop, lambda: server._reader.missing is not None)
    f.wait(f.begin_close())
    peer.wait_end()
    assert f.received == []


def test_closing_from_the_callback(f: Receiver) -> None:
    """The callback may close everything; all that is behind its message is not delivered."""
    outcome = Outcome()

    def recv(io: RaftIo, message: RaftMessage) -> None:
        f.received.append(message)
        f.closed = True
        io.close(io, outcome)

    f.uv.recv_cb = recv
    peer = f.peer()
    peer.send(wire(m.timeout_now(2, 3, 1, 1)) * 5)
    f.wait(outcome)
    assert len(f.received) == 1
    peer.wait_end()


def test_a_port_in_use_is_told_by_io_start(f: Receiver, tmp_path: Path) -> None:
    """io.start returns the transport's code and its text."""
    (tmp_path / "other").mkdir()
    other = UvIo(tmp_path / "other", f"127.0.0.1:{port_of(f.transport)}")
    other.start()
    assert other.io.start(other.io, 60_000, lambda io: None, lambda io, message: None) == RAFT_IOERR
    assert other.io.errmsg == f"listen: listen on {other.address.replace(':', ' port ')}: address already in use"
    other.close()


def test_a_first_tick_may_be_late(tmp_path: Path) -> None:
    """The figures also see a loop that is held up right after io.start."""
    f = UvIo(tmp_path)
    f.start()
    assert f.io.start(f.io, 1, lambda io: None, lambda io, message: None) == 0
    time.sleep(0.1)  # the fault: nothing else runs meanwhile
    run_until(f.loop, lambda: sum(health.figures(f.io).lateness.counts) > 0)
    assert health.figures(f.io).lateness.total > 0.09
    f.close()

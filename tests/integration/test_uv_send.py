"""io.send: messages on their way to a peer that is there, comes and goes, does not read, or never existed."""

import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import raft_uv_set_connect_retry_delay
from io_uv.client import flush
from pyraft.errors import RAFT_CANCELED, RAFT_IOERR, RAFT_MALFORMED, RAFT_NOCONNECTION, RAFT_TOOBIG
from pyraft.types import RAFT_COMMAND, RAFT_VOTER, RaftConfiguration, RaftEntry, RaftIoSend, RaftMessage, RaftServer
from tests.lib import messages as m
from tests.lib.covers import covers
from tests.lib.peer import PeerServer, unused_port
from tests.lib.uvtest import DEADLINE_SECONDS, Outcome, UvIo, run_until

PEER = 2
LONG = 3_600_000
"""A retry delay that no test waits for."""


class Sender(UvIo):
    """A RaftIo that sends to a peer's listening socket."""

    def __init__(self, dir: Path) -> None:
        super().__init__(dir, "127.0.0.1:9001")
        self.start()
        raft_uv_set_connect_retry_delay(self.io, 1)
        self.peer = PeerServer(self.loop)

    def message(self) -> RaftMessage:
        """Return a RequestVote to the peer."""
        return self.to_peer(m.request_vote(1, 3, 123, 2))

    def to_peer(self, message: RaftMessage, address: str | None = None) -> RaftMessage:
        """Address a message to the peer."""
        message.server_id = PEER
        message.server_address = self.peer.address if address is None else address
        return message

    def submit_send(self, message: RaftMessage | None = None) -> Outcome:
        """Send; do not wait."""
        outcome = Outcome()
        rv = self.io.send(self.io, RaftIoSend(), message or self.message(), outcome)
        assert rv == 0, self.io.errmsg
        assert outcome.calls == [], "called back inside io.send"
        return outcome

    def send(self, message: RaftMessage | None = None) -> int:
        """Send, and return the status of the callback."""
        outcome = self.submit_send(message)
        self.wait(outcome)
        [status] = outcome.statuses
        return status


@pytest.fixture
def f(tmp_path: Path) -> Iterator[Sender]:
    """A sender and its peer."""
    sender = Sender(tmp_path)
    yield sender
    sender.close()
    sender.peer.close()
    assert sender.reported == []


def header_of(message: RaftMessage) -> tuple[int, bytes]:
    """Return type and header of a message."""
    from io_uv.encoding import encode_message

    data = bytes(encode_message(message)[0])
    return message.type, data[16:]


@covers("send/first")
def test_the_first_message_opens_a_connection(f: Sender) -> None:
    """The peer gets a handshake with the own id and address, then the message."""
    assert f.send() == 0
    connection = f.peer.accept()
    assert connection.read_handshake() == (1, "127.0.0.1:9001")
    assert connection.read_message() == header_of(f.message())


@covers("send/second")
def test_the_second_message_uses_the_connection(f: Sender) -> None:
    """No second connection is made."""
    assert f.send() == 0
    connection = f.peer.accept()
    assert f.send() == 0
    connection.read_handshake()
    for _ in range(2):
        assert connection.read_message() == header_of(f.message())
    assert f.peer.nobody_waits()


@covers("send/parallel")
def test_messages_in_parallel_keep_their_order(f: Sender) -> None:
    """Two messages sent before there is a connection both arrive, in order."""
    first = f.submit_send()
    second = f.submit_send(f.to_peer(m.timeout_now(1, 3, 123, 2)))
    f.wait(first, second)
    assert (first.statuses, second.statuses) == ([0], [0])
    connection = f.peer.accept()
    connection.read_handshake()
    assert connection.read_message()[0] == 3
    assert connection.read_message()[0] == 6


def configuration() -> RaftConfiguration:
    """Return a configuration of one server."""
    conf = RaftConfiguration()
    conf.servers.append(RaftServer(1, "127.0.0.1:9001", RAFT_VOTER))
    return conf


ENTRIES = [RaftEntry(1, RAFT_COMMAND, b"0123456789abcdef"), RaftEntry(1, RAFT_COMMAND, b"ABCDEFGH")]


@covers("send/voteResult", "send/appendEntries", "send/heartbeat", "send/appendEntriesResult", "send/installSnapshot")
@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (m.request_vote_result(1, 3), b""),
        (m.append_entries(1, 3, 10, 2, 9, ENTRIES), b"0123456789abcdefABCDEFGH"),
        (m.append_entries(1, 3, 10, 2, 9), b""),
        (m.append_entries_result(1, 3, 10), b""),
        (m.install_snapshot(1, 3, 10, 2, configuration(), 1, b"snapshot"), b"snapshot"),
        (m.timeout_now(1, 3, 10, 2), b""),
    ],
)
def test_every_kind_of_message_arrives(f: Sender, message: RaftMessage, payload: bytes) -> None:
    """Header and payload of each type reach the peer."""
    assert f.send(f.to_peer(message)) == 0
    connection = f.peer.accept()
    connection.read_handshake()
    assert connection.read_message() == header_of(message)
    assert connection.read(len(payload)) == payload


def test_messages_of_one_turn_are_written_together(f: Sender) -> None:
    """All that is sent to a connected peer within a turn of the loop goes out with one write, at the turn's end."""
    assert f.send() == 0
    connection = f.peer.accept()
    connection.read_handshake()
    connection.read_message()
    stream = f.uv.clients[0].stream
    writes: list[Any] = []
    write = stream.write_now

    def record(data: Any, cb: Any) -> bool:
        writes.append(data)
        taken: bool = write(data, cb)
        return taken

    stream.write_now = record
    outcomes = [f.submit_send() for _ in range(10)]
    assert writes == []
    f.wait(*outcomes)
    assert len(writes) == 1
    for _ in range(10):
        assert connection.read_message() == header_of(f.message())


def test_a_flush_writes_at_once(f: Sender) -> None:
    """Code that moves the core at the end of a turn can have its messages written without another one."""
    assert f.send() == 0
    outcome = f.submit_send()
    flush(f.uv)
    assert f.uv.clients[0].gathered == []
    assert outcome.statuses == [0]


def test_small_messages_are_not_delayed(f: Sender) -> None:
    """The connection has TCP_NODELAY, and notices a peer that vanished."""
    assert f.send() == 0
    sock = socket.socket(fileno=f.uv.clients[0].stream.fileno())
    try:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == f.uv.limits.unanswered_msecs
    finally:
        sock.detach()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_a_peer_is_reached_by_ipv6(f: Sender) -> None:
    """An address in brackets is an IPv6 one."""
    try:
        peer = PeerServer(f.loop, socket.AF_INET6)
    except OSError as exc:
        pytest.skip(f"no IPv6 loopback: {exc}")
    assert f.send(f.to_peer(f.message(), peer.address)) == 0
    assert peer.accept().read_handshake() == (1, "127.0.0.1:9001")
    peer.close()


def test_a_peer_is_reached_by_name(f: Sender) -> None:
    """A host name is resolved off the loop."""
    assert f.send(f.to_peer(f.message(), f"localhost:{f.peer.port}")) == 0
    assert f.peer.accept().read_handshake() == (1, "127.0.0.1:9001")


# Peers that are not there.


@covers("send/noConnection", "send/badAddress")
@pytest.mark.parametrize("address", ["127.0.0.1:123456", "1", "unknown.invalid:9001", "", ":9001", "x" * 1025])
def test_a_message_to_nowhere_waits_until_the_end(f: Sender, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an address that leads nowhere the message waits for a connection, and is canceled by io.close."""
    monkeypatch.setattr(socket, "getaddrinfo", no_names(socket.getaddrinfo))
    outcome = f.submit_send(f.to_peer(f.message(), address))
    closed = f.begin_close()
    assert outcome.calls == [], "called back inside io.close"
    f.wait(closed)
    assert outcome.statuses == [RAFT_CANCELED]


def no_names(getaddrinfo: Any) -> Any:
    """Return a getaddrinfo that knows numeric addresses only, so that no test asks a name server."""

    def resolve(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        return getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)

    return resolve


@covers("send/evictOldPending")
def test_only_the_newest_messages_wait_for_a_peer_that_is_away(f: Sender) -> None:
    """After a failed attempt to connect the newest 3 stay, the others fail; io.close cancels those."""
    address = f"127.0.0.1:{unused_port()}"
    outcomes = [f.submit_send(f.to_peer(f.message(), address)) for _ in range(5)]
    f.wait(outcomes[0], outcomes[1])
    assert [outcome.statuses for outcome in outcomes[:2]] == [[RAFT_NOCONNECTION]] * 2
    assert all(outcome.calls == [] for outcome in outcomes[2:])
    f.wait(f.begin_close())
    assert [outcome.statuses for outcome in outcomes[2:]] == [[RAFT_CANCELED]] * 3


def test_evicted_messages_fail_oldest_first(f: Sender) -> None:
    """The callbacks of evicted messages come in the order in which they were sent."""
    address = f"127.0.0.1:{unused_port()}"
    order: list[int] = []
    for i in range(6):
        rv = f.io.send(f.io, RaftIoSend(), f.to_peer(f.message(), address), lambda req, status, i=i: order.append(i))
        assert rv == 0
    run_until(f.loop, lambda: len(order) == 3)
    assert order == [0, 1, 2]


def test_a_message_reaches_a_peer_that_comes_later(f: Sender) -> None:
    """Attempts to connect go on; all that still waits is sent when one succeeds."""
    port = unused_port()
    outcome = f.submit_send(f.to_peer(f.message(), f"127.0.0.1:{port}"))
    client = f.uv.clients[0]
    run_until(f.loop, lambda: client.stream is None and client.timer.active)
    peer = PeerServer(f.loop, port=port)
    f.wait(outcome)
    assert outcome.statuses == [0]
    connection = peer.accept()
    connection.read_handshake()
    assert connection.read_message() == header_of(f.message())
    peer.close()


@covers("send/changeToUnconnectedAddress")
def test_a_new_address_replaces_the_connection(f: Sender) -> None:
    """A message to the same id at another address aborts the old client; all that waits for the new one is canceled."""
    assert f.send() == 0
    before = f.submit_send()
    f.wait(before)
    elsewhere = f.submit_send(f.to_peer(f.message(), "127.0.0.2:1"))
    assert len(f.uv.clients) == 1
    f.wait(f.begin_close())
    assert (before.statuses, elsewhere.statuses) == ([0], [RAFT_CANCELED])


def test_messages_to_the_old_address_are_canceled(f: Sender) -> None:
    """A message that waits for a client whose server has moved is called back with RAFT_CANCELED, not inside
    io.send."""
    waiting = f.submit_send(f.to_peer(f.message(), f"127.0.0.1:{unused_port()}"))
    moved = f.submit_send()
    assert waiting.calls == []
    f.wait(waiting, moved)
    assert (waiting.statuses, moved.statuses) == ([RAFT_CANCELED], [0])
    assert f.uv.aborting == []


# Messages that cannot be sent.


@covers("send/badMessage")
def test_a_bad_message_is_refused(f: Sender) -> None:
    """An unknown type is RAFT_MALFORMED at once, without a callback."""
    outcome = Outcome()
    message = f.to_peer(m.message(1, 666))
    assert f.io.send(f.io, RaftIoSend(), message, outcome) == RAFT_MALFORMED
    assert f.io.errmsg == "unknown message type 666"
    assert f.send() == 0
    assert outcome.calls == []


def test_a_message_without_room_for_its_numbers_is_refused(f: Sender) -> None:
    """A term above 64 bits is RAFT_TOOBIG at once."""
    assert f.io.send(f.io, RaftIoSend(), f.to_peer(m.timeout_now(1, 1 << 64, 1, 1)), Outcome()) == RAFT_TOOBIG


def test_a_message_after_io_close_is_refused(f: Sender) -> None:
    """C asserts; here it is RAFT_CANCELED, without a callback."""
    closed = f.begin_close()
    outcome = Outcome()
    assert f.io.send(f.io, RaftIoSend(), f.message(), outcome) == RAFT_CANCELED
    f.wait(closed)
    assert outcome.calls == []


# Connections that break.


def reset(f: Sender) -> None:
    """Have the peer reset the connection, and wait until the system knows. The client, without a turn, does not."""
    connection = f.peer.accept()
    connection.read_handshake()
    connection.read_message()
    connection.reset()
    poll = select.poll()
    poll.register(f.uv.clients[0].stream.fileno(), 0)
    assert poll.poll(1000 * DEADLINE_SECONDS)


@covers("send/reconnectAfterWriteError")
def test_a_write_error_leads_to_a_new_connection(f: Sender) -> None:
    """The message whose write failed gets RAFT_IOERR, the next one a new connection."""
    assert f.send() == 0
    reset(f)
    assert f.send() == RAFT_IOERR
    assert f.send() == 0
    assert f.peer.accept().read_handshake() == (1, "127.0.0.1:9001")


@covers("send/reconnectAfterMultipleWriteErrors")
def test_all_messages_of_a_failed_write_are_called_back(f: Sender) -> None:
    """Two messages under way when the peer dies both get RAFT_IOERR."""
    assert f.send() == 0
    reset(f)
    outcomes = [f.submit_send(), f.submit_send()]
    f.wait(*outcomes)
    assert [outcome.statuses for outcome in outcomes] == [[RAFT_IOERR], [RAFT_IOERR]]
    assert f.send() == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_ends_the_connection_is_noticed_at_once(f: Sender, how: str) -> None:
    """Without anything to send the connection is made anew, so that the next message does not fail."""
    assert f.send() == 0
    connection = f.peer.accept()
    connection.read_handshake()
    connection.read_message()
    getattr(connection, how)()
    again = f.peer.accept()
    assert again.read_handshake() == (1, "127.0.0.1:9001")
    assert f.send() == 0
    assert again.read_message() == header_of(f.message())


def test_a_peer_that_accepts_and_hangs_up_is_not_hammered(f: Sender) -> None:
    """A connection that did not last the retry delay is followed by that delay."""
    raft_uv_set_connect_retry_delay(f.io, LONG)
    outcome = f.submit_send()
    f.peer.accept().close()
    client = f.uv.clients[0]
    run_until(f.loop, lambda: client.stream is None and client.timer.active)
    assert outcome.calls
    assert f.peer.nobody_waits()


def test_one_short_connection_after_a_lasting_one_is_forgiven(f: Sender) -> None:
    """Both ends may have a reason of their own to begin anew: the delay comes with the second short connection."""
    raft_uv_set_connect_retry_delay(f.io, LONG)
    f.submit_send()
    client = f.uv.clients[0]
    run_until(f.loop, lambda: client.stream is not None)
    for lasted in (True, False):
        connection = f.peer.accept()
        connection.read_handshake()
        run_until(f.loop, lambda: client.stream is not None)
        if lasted:
            client.connected_at -= LONG
        connection.close()
    again = f.peer.accept()
    again.read_handshake()
    again.close()
    run_until(f.loop, lambda: client.stream is None and client.timer.active)
    assert f.peer.nobody_waits()


def test_one_failed_attempt_after_a_lasting_connection_is_forgiven(f: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that was not ready for a moment is reached without the delay, which follows the second failure."""
    raft_uv_set_connect_retry_delay(f.io, LONG)
    f.submit_send()
    connection = f.peer.accept()
    connection.read_handshake()
    client = f.uv.clients[0]
    run_until(f.loop, lambda: client.stream is not None)
    client.connected_at -= LONG
    attempts: list[bool] = []
    connect = f.transport.connect

    def to_nobody(transport: Any, req: Any, id: int, address: str, cb: Any) -> Any:
        assert client.old_stream is None
        attempts.append(client.timer.active)
        return connect(transport, req, id, f"127.0.0.1:{unused_port()}", cb)

    monkeypatch.setattr(f.transport, "connect", to_nobody)
    connection.close()
    run_until(f.loop, lambda: client.stream is None and client.timer.active)
    assert attempts == [False, False]


def test_what_the_peer_sends_back_is_ignored(f: Sender) -> None:
    """Connections are one-way: bytes from the acceptor change nothing."""
    assert f.send() == 0
    connection = f.peer.accept()
    connection.read_handshake()
    connection.send(b"x" * 1000)
    assert f.send() == 0
    connection.read_message()
    connection.read_message()


# Slow peers and large messages.


def big(f: Sender, size: int) -> RaftMessage:
    """Return an AppendEntries with one entry of `size` bytes."""
    return f.to_peer(m.append_entries(1, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, bytes(size))]))


def test_what_is_queued_for_a_slow_peer_is_bounded(f: Sender) -> None:
    """Beyond the limit io.send answers RAFT_NOCONNECTION (B41); when the peer reads again it takes more."""
    f.uv.limits.queue = 4 << 20
    assert f.send() == 0
    connection = f.peer.accept()
    outcomes = []
    while True:
        outcome = Outcome()
        rv = f.io.send(f.io, RaftIoSend(), big(f, 1 << 20), outcome)
        if rv != 0:
            break
        outcomes.append(outcome)
        assert len(outcomes) < 100
        f.loop.run(2)
    assert rv == RAFT_NOCONNECTION
    assert f.io.errmsg.endswith("bytes are queued for server 2, the limit is 4194304")
    assert f.uv.clients[0].size <= 4 << 20
    assert outcome.calls == []
    run_until(f.loop, lambda: connection.pump() and all(outcome.calls for outcome in outcomes))
    assert all(outcome.statuses == [0] for outcome in outcomes)
    assert f.uv.clients[0].size == 0
    assert f.send() == 0


def test_the_queue_is_bounded_before_the_first_connection_too(f: Sender) -> None:
    """While an attempt to connect lasts the same limit holds."""
    f.uv.limits.queue = 1 << 20
    outcome = f.submit_send(big(f, 1 << 19))
    assert f.io.send(f.io, RaftIoSend(), big(f, 1 << 20), Outcome()) == RAFT_NOCONNECTION
    f.wait(outcome)


def test_a_single_message_may_exceed_the_limit(f: Sender) -> None:
    """A snapshot that is larger than the queue may be is sent when nothing else waits."""
    f.uv.limits.queue = 1 << 20
    data = b"snapshot" * (1 << 20)
    message = f.to_peer(m.install_snapshot(1, 3, 10, 2, configuration(), 1, data))
    outcome = f.submit_send(message)
    connection = f.peer.accept()
    connection.read_handshake()
    connection.read_message()
    assert connection.read(len(data)) == data
    f.wait(outcome)
    assert outcome.statuses == [0]


# Closing.


@covers("send/closeDuringWrite")
def test_closing_cancels_a_write(f: Sender) -> None:
    """A write that the peer does not take is called back with RAFT_CANCELED after io.close."""
    outcome = f.submit_send(big(f, 8 << 20))
    run_until(f.loop, lambda: f.uv.clients and f.uv.clients[0].writing)
    queued = f.submit_send()
    closed = f.begin_close()
    assert outcome.calls == []
    f.wait(closed)
    assert (outcome.statuses, queued.statuses) == ([RAFT_CANCELED], [RAFT_CANCELED])


def test_closing_cancels_writes_before_what_waits(f: Sender) -> None:
    """The order of the callbacks is that of the messages, and the close callback is the last."""
    order: list[str] = []
    f.submit_send(big(f, 8 << 20))
    run_until(f.loop, lambda: f.uv.clients and f.uv.clients[0].writing)
    for name in ("first", "second"):
        f.io.send(f.io, RaftIoSend(), f.message(), lambda req, status, name=name: order.append(name))
    f.closed = True
    f.io.close(f.io, lambda io: order.append("closed"))
    run_until(f.loop, lambda: "closed" in order)
    assert order == ["first", "second", "closed"]


@covers("send/closeDuringConnection")
def test_closing_cancels_a_connect(f: Sender) -> None:
    """A message that waits for the first connection is canceled."""
    outcome = f.submit_send()
    f.wait(f.begin_close())
    assert outcome.statuses == [RAFT_CANCELED]


def test_closing_while_waiting_for_a_retry_is_immediate(f: Sender) -> None:
    """A client that waits for its next attempt to connect does not hold io.close up."""
    raft_uv_set_connect_retry_delay(f.io, LONG)
    outcome = f.submit_send(f.to_peer(f.message(), f"127.0.0.1:{unused_port()}"))
    run_until(f.loop, lambda: f.uv.clients[0].timer.active)
    f.wait(f.begin_close())
    assert outcome.statuses == [RAFT_CANCELED]


def test_an_exception_of_a_callback_is_reported(f: Sender) -> None:
    """The connection and the other callbacks are not harmed by it."""

    def fail(req: RaftIoSend, status: int) -> None:
        raise ValueError("mine")

    assert f.io.send(f.io, RaftIoSend(), f.message(), fail) == 0
    assert f.send() == 0
    [exc] = f.reported
    assert isinstance(exc, ValueError)
    f.reported.clear()


def test_io_close_from_a_callback_of_an_evicted_message(f: Sender) -> None:
    """A callback may close everything."""
    outcome = Outcome()

    def close(req: RaftIoSend, status: int) -> None:
        f.closed = True
        f.io.close(f.io, outcome)

    address = f"127.0.0.1:{unused_port()}"
    f.io.send(f.io, RaftIoSend(), f.to_peer(f.message(), address), close)
    for _ in range(3):
        f.submit_send(f.to_peer(f.message(), address))
    f.wait(outcome)


def test_a_transport_whose_connect_raises(f: Sender, caplog: pytest.LogCaptureFixture) -> None:
    """The exception is reported, the attempt counts as failed, the logger hears of the fifth, and close ends."""
    attempts: list[int] = []

    def connect(transport: Any, req: Any, id: int, address: str, cb: Any) -> int:
        attempts.append(id)
        raise ValueError("bug")

    f.transport.connect = connect
    raft_uv_set_connect_retry_delay(f.io, 1)
    outcome = f.submit_send(f.message())
    run_until(f.loop, lambda: len(attempts) >= 6)
    assert {str(exc) for exc in f.reported} == {"bug"}
    f.reported.clear()
    (record,) = caplog.records
    assert record.getMessage().endswith("cannot be reached, trying on: ValueError: bug")
    f.wait(f.begin_close())
    assert outcome.statuses == [RAFT_CANCELED]

"""dqlite's port: servers and clients on one listener, in any pieces, and what ends a connection."""

from collections.abc import Iterator

import pytest

from io_uv import RaftUvTransport, raft_uv_tcp_init
from io_uv.dqlite import messages, port, requests, responses
from io_uv.dqlite.messages import Splitter
from io_uv.pyuv import UV_RUN_NOWAIT
from pyraft.errors import RAFT_INVALID
from tests.lib import messages as m
from tests.lib.peer import Connection, Transport, connect, handshake, words
from tests.lib.tlstest import Pair

VERSION = words(1)
HELLO = VERSION + requests.Connect(2, "127.0.0.1:666").encode()


class Clients:
    """Keeps what clients ask."""

    def __init__(self) -> None:
        self.asked: list[tuple[port.Channel, requests.Request]] = []
        self.closed: list[port.Channel] = []

    def __call__(self, channel: port.Channel, request: requests.Request) -> None:
        channel.closed_cb = self.closed.append
        self.asked.append((channel, request))

    @property
    def requests(self) -> list[requests.Request]:
        """The requests without their channels."""
        return [request for _, request in self.asked]


@pytest.fixture
def clients() -> Clients:
    """The requests of clients of `f`."""
    return Clients()


@pytest.fixture
def f(clients: Clients) -> Iterator[Transport]:
    """A transport that listens for dqlite's servers and clients."""
    yield from listening(Transport(), clients)


def listening(transport: Transport, clients: Clients, path: str = "") -> Iterator[Transport]:
    """Have a transport listen for dqlite, with a path for upgrades, too; it is closed at the end."""
    assert port.listen(transport.t, clients, limit=1 << 16, path=path) == 0
    assert transport.listen() == 0
    yield transport
    transport.close()


def heard(f: Transport, peer: Connection, n: int) -> list[responses.Response]:
    """Wait for `n` answers."""
    splitter, found = Splitter(), list[responses.Response]()

    def enough() -> bool:
        peer.pump()
        splitter.feed(peer.data)
        peer.data = b""
        found.extend(responses.decode(*message) for message in splitter)
        return len(found) >= n

    f.run_until(enough)
    return found


def test_a_server_comes_in_any_pieces(f: Transport) -> None:
    """Its stream is raft's from the byte behind CONNECT on, and what came too early is put back."""
    for size in (1, 7, 24, 1000):
        peer = connect(f.loop, f.port)
        data = HELLO + b"raft"
        for at in range(0, len(data), size):
            peer.send(data[at : at + size])
            f.loop.run(UV_RUN_NOWAIT)
        f.run_until(lambda: f.accepted)
        id, address, stream = f.accepted.pop()
        assert (id, address) == (2, "127.0.0.1:666")
        got: list[bytes] = []
        stream.start_read(lambda stream, data, error, got=got: got.append(data))
        f.run_until(lambda got=got: b"".join(got) == b"raft")
        stream.close()
        peer.close()


def test_messages_pass_both_ways(pair: Pair) -> None:
    """Two servers open connections with CONNECT."""
    one, two = pair.add(1, raft_uv_tcp_init), pair.add(2, raft_uv_tcp_init)
    for server in (one, two):
        assert port.listen(server.transport, lambda channel, request: None) == 0
    outcomes = [one.send_to(two, m.timeout_now(1, 3, 10, 2)), two.send_to(one, m.timeout_now(2, 3, 11, 2))]
    pair.run_until(lambda: one.received and two.received and all(outcome.calls for outcome in outcomes))
    assert (one.received[0].server_id, two.received[0].server_id) == (2, 1)


def test_a_client_is_answered_in_turn(f: Transport, clients: Clients) -> None:
    """The second request waits for the answer to the first, and a message may come with the version word or later."""
    peer = connect(f.loop, f.port)
    peer.send(VERSION)
    f.loop.run(UV_RUN_NOWAIT)
    peer.send(requests.Leader().encode() + requests.Cluster().encode())
    f.run_until(lambda: clients.asked)
    f.loop.run(UV_RUN_NOWAIT)
    assert clients.requests == [requests.Leader()]
    clients.asked[0][0].answer(responses.Server(3, "x:1"))
    assert heard(f, peer, 1) == [responses.Server(3, "x:1")]
    f.run_until(lambda: len(clients.asked) == 2)
    clients.asked[1][0].answer(responses.Empty(), responses.Welcome())
    assert heard(f, peer, 2) == [responses.Empty(), responses.Welcome()]
    assert clients.asked[0][0] is clients.asked[1][0]
    peer.close()
    f.run_until(lambda: clients.closed)
    assert clients.closed == [clients.asked[0][0]]
    assert clients.closed[0].closed


def test_requests_that_make_no_sense_are_answered(f: Transport, clients: Clients) -> None:
    """They get dqlite's codes and texts, and the connection goes on."""
    peer = connect(f.loop, f.port)
    bad = [(2, 0, bytes(8)), (200, 0, bytes(8)), (4, 7, bytes(16)), (15, 0, b"x" * 8)]
    for type, schema, body in bad:
        head = bytes([len(body) // 8, 0, 0, 0, type, schema, 0, 0])
        peer.send((VERSION if type == 2 else b"") + head + body)
    peer.send(requests.Leader().encode())
    assert heard(f, peer, 4) == [
        responses.Failed(1005, "unrecognized request type"),
        responses.Failed(1005, "unrecognized request type"),
        responses.Failed(1, "unrecognized schema version"),
        responses.Failed(1005, "text at offset 0 has no end"),
    ]
    f.run_until(lambda: clients.asked)
    peer.close()


@pytest.mark.parametrize(
    "data",
    [
        VERSION + bytes(8),
        VERSION + bytes([1, 32, 0, 0, 0, 0, 0, 0]),
        VERSION + b"\xff" * 8,
        VERSION + requests.Connect(0, "a:1").encode(),
        VERSION + requests.Connect(2, "").encode(),
        VERSION + requests.Connect(2, "a\n:1").encode(),
        VERSION + requests.Connect(2, "a" * 5000).encode(),
        handshake(2, "127.0.0.1:666", 0x86104DD760433FE5),
    ],
    ids=["no body", "long body", "longest", "id 0", "no address", "control", "long address", "before 1.0"],
)
def test_what_cannot_be_ends_the_connection(f: Transport, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    """A line in the log says why; libraft's own handshake is a request of a body of 2 words here, and waits."""
    peer = connect(f.loop, f.port)
    peer.send(data)
    peer.wait_end()
    assert len(caplog.records) == 1
    assert f.accepted == []
    peer.close()


def asking(f: Transport, clients: Clients) -> tuple[Connection, port.Channel]:
    """A client whose first request is under way."""
    peer = connect(f.loop, f.port)
    peer.send(VERSION + requests.Leader().encode())
    f.run_until(lambda: clients.asked)
    channel = clients.asked[0][0]
    return peer, channel


def test_the_log_is_not_filled_by_strangers(f: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty lines in a minute are all that clients and servers get who come again and again with something else."""
    for n in range(60):
        data = messages.HEADER.pack(1 << 20 | n, 0, 0, 0) if n % 2 else requests.Connect(0, f"a:{n}").encode()
        peer = connect(f.loop, f.port)
        peer.send(VERSION + data)
        peer.wait_end()
        peer.close()
    assert 0 < len(caplog.records) <= 20


def test_a_client_that_does_not_wait_is_not_read(f: Transport, clients: Clients) -> None:
    """While its request is under way no more than what has come is kept, and afterwards all of it is answered."""
    peer, channel = asking(f, clients)
    peer.send(requests.Leader().encode() * 1000)
    f.run_until(lambda: channel._paused)
    for n in range(1, 1001):
        channel.answer(responses.Empty())
        f.run_until(lambda n=n: len(clients.asked) == n + 1)
    channel.answer(responses.Empty())
    assert len(heard(f, peer, 1001)) == 1001
    peer.close()


def test_a_callback_that_raises_costs_its_connection(f: Transport) -> None:
    """The exception goes to the loop's excepthook."""
    other = Transport("127.0.0.1:0", 5)
    assert port.listen(other.t, lambda channel, request: 1 / 0) == 0
    assert other.listen() == 0
    peer = connect(other.loop, other.port)
    peer.send(VERSION + requests.Leader().encode())
    peer.wait_end()
    assert [type(error) for error in other.errors] == [ZeroDivisionError]
    other.errors.clear()
    peer.close()
    other.close()


def test_a_channel_that_is_closed_is_silent(f: Transport, clients: Clients) -> None:
    """An answer that comes after the end of the connection, or of the transport, is for nobody."""
    peer, channel = asking(f, clients)
    channel.close()
    channel.close()
    channel.answer(responses.Empty())
    peer.wait_end()
    assert peer.data == b""
    peer.close()


def test_a_port_is_listened_on_once(f: Transport, clients: Clients) -> None:
    """A second protocol for the word is refused, and so is a transport of one's own."""
    assert port.listen(f.t, clients) == RAFT_INVALID
    assert port.listen(RaftUvTransport(), clients) == RAFT_INVALID

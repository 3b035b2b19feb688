"""The stock transport's connect: reaching a peer, or saying why not."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from io_uv import tcp_dial
from io_uv.pyuv import UV_RUN_NOWAIT
from pyraft.errors import RAFT_CANCELED, RAFT_NOCONNECTION
from tests.lib.covers import covers
from tests.lib.peer import PeerServer, Transport, resolver, unused_port
from tests.lib.uvtest import DEADLINE_SECONDS


@pytest.fixture
def f() -> Iterator[Transport]:
    """A transport of server 1."""
    transport = Transport("127.0.0.1:9001")
    yield transport
    transport.close()


def expect_connected(f: Transport, peer: PeerServer) -> None:
    """Turn the loop until the connect request has succeeded, and check what the peer got."""
    stream, status = f.wait_connected()
    assert status == 0
    assert not stream.closed
    assert peer.accept().read_handshake() == (1, "127.0.0.1:9001")


# Success.


@covers("tcp_connect/first")
def test_a_peer_is_reached(f: Transport, peer: PeerServer) -> None:
    """The stream is connected and the handshake written when the callback comes."""
    assert f.connect(peer.address) == 0
    expect_connected(f, peer)


@covers("tcp_connect/connectByName")
def test_a_peer_is_reached_by_name(f: Transport, peer: PeerServer) -> None:
    """localhost is resolved."""
    assert f.connect(f"localhost:{peer.port}") == 0
    expect_connected(f, peer)


@covers("tcp_connect/firstIP", "tcp_connect/secondIP")
@pytest.mark.parametrize("right", [0, 1, 2])
def test_all_addresses_of_a_name_are_tried(
    f: Transport, peer: PeerServer, right: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that answers serves, be it the first, the second or the third."""
    addresses = [("127.0.0.1", unused_port()) for _ in range(3)]
    addresses[right] = ("127.0.0.1", peer.port)
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"any-host": addresses}))
    assert f.connect("any-host:9001") == 0
    expect_connected(f, peer)


def test_an_address_that_does_not_answer_is_given_up(
    f: Transport, peer: PeerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time for an attempt the next address is tried."""
    try_next = tcp_dial._try_next

    def with_patience_for_the_last(attempt: tcp_dial.Attempt) -> None:
        f.t.impl.limits.connect_msecs = 50 if len(attempt.addresses) > 1 else 3_600_000
        try_next(attempt)

    monkeypatch.setattr(tcp_dial, "_try_next", with_patience_for_the_last)
    with socket.socket() as full:
        # A listener with a full backlog answers nobody.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            waiting.append(sock)
        addresses = [full.getsockname(), ("127.0.0.1", peer.port)]
        monkeypatch.setattr(socket, "getaddrinfo", resolver({"any-host": addresses}))
        assert f.connect("any-host:9001") == 0
        expect_connected(f, peer)
        monkeypatch.undo()
        f.t.impl.limits.connect_msecs = 50
        assert f.connect(f"127.0.0.1:{full.getsockname()[1]}") == 0
        f.run_until(lambda: len(f.connected) == 2)
        assert f.connected[1] == (None, RAFT_NOCONNECTION)
        assert f.t.errmsg == "uv_tcp_connect(): connection timed out"
        for sock in waiting:
            sock.close()


# Failure.


@covers("tcp_connect/refused")
def test_a_peer_that_is_not_there_refuses(f: Transport) -> None:
    """The callback gets RAFT_NOCONNECTION and no stream."""
    assert f.connect(f"127.0.0.1:{unused_port()}") == 0
    assert f.wait_connected() == (None, RAFT_NOCONNECTION)
    assert f.t.errmsg == "uv_tcp_connect(): connection refused"


def test_an_unknown_name_is_no_connection(f: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text has the name of the resolver's error, as in C."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver({}))
    assert f.connect("unknown.example:9001") == 0
    assert f.wait_connected() == (None, RAFT_NOCONNECTION)
    assert f.t.errmsg == "uv_getaddrinfo(): EAI_NONAME"


@pytest.mark.parametrize(
    ("address", "errmsg"),
    [
        ("", "uv_tcp_connect(): Cannot initiate getaddrinfo invalid argument"),
        (":9001", "uv_tcp_connect(): Cannot initiate getaddrinfo invalid argument"),
        ("x" * 1025, "uv_tcp_connect(): Cannot split " + "x" * 224),
        ("x:" + "9" * 32, f"uv_tcp_connect(): Cannot split x:{'9' * 32} into host and service"),
    ],
)
def test_a_bad_address_is_refused_at_once(f: Transport, address: str, errmsg: str) -> None:
    """connect returns RAFT_NOCONNECTION, and there is no callback."""
    assert f.connect(address) == RAFT_NOCONNECTION
    assert f.t.errmsg == errmsg
    for _ in range(3):
        f.loop.run(UV_RUN_NOWAIT)
    assert f.connected == []


def test_many_requests_at_once_are_independent(f: Transport, peer: PeerServer) -> None:
    """Some succeed and some fail."""
    nobody = f"127.0.0.1:{unused_port()}"
    for address in (peer.address, nobody, peer.address, nobody):
        assert f.connect(address) == 0
    f.run_until(lambda: len(f.connected) == 4)
    assert sorted(status for _, status in f.connected) == [0, 0, RAFT_NOCONNECTION, RAFT_NOCONNECTION]


# Closing.


@covers("tcp_connect/closeImmediately")
def test_closing_cancels_a_request(f: Transport, peer: PeerServer) -> None:
    """The callback gets RAFT_CANCELED, not inside close, and the transport's close callback comes after it."""
    assert f.connect(peer.address) == 0
    f.begin_close()
    assert f.connected == []
    assert f.ended == []
    assert f.wait_connected() == (None, RAFT_CANCELED)
    assert f.ended == [f.t]


@covers("tcp_connect/closeDuringDnsLookup")
def test_closing_does_not_wait_for_a_name_server(f: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that hangs is left to its thread; all that it finds is ignored."""
    asked, answer, answered = threading.Event(), threading.Event(), threading.Event()

    def resolve(*args: Any) -> list[Any]:
        if args[5] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        asked.set()
        answer.wait(DEADLINE_SECONDS)
        answered.set()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert f.connect("any-host:9001") == 0
    f.run_until(asked.is_set)
    f.begin_close()
    assert f.wait_connected() == (None, RAFT_CANCELED)
    f.run_until(lambda: f.ended)
    assert not answered.is_set()
    answer.set()


@covers("tcp_connect/closeDuringDnsLookupAbort", "tcp_connect/closeDuringConnectAbort")
@pytest.mark.parametrize("host", ["500.0.0.1", "127.0.0.1"])
def test_closing_while_a_failed_request_ends(f: Transport, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has failed but whose handle is not closed yet keeps its RAFT_NOCONNECTION."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver({}))
    end = tcp_dial._end

    def end_and_close(attempt: tcp_dial.Attempt, status: int) -> None:
        end(attempt, status)
        f.begin_close()

    monkeypatch.setattr(tcp_dial, "_end", end_and_close)
    assert f.connect(f"{host}:{unused_port()}") == 0
    f.run_until(lambda: f.closed)
    assert f.wait_connected() == (None, RAFT_NOCONNECTION)
    f.run_until(lambda: f.ended)


@covers("tcp_connect/closeDuringSecondConnect")
def test_closing_during_the_second_attempt(f: Transport, peer: PeerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first address has refused, a close cancels the attempt with the second."""
    addresses = [("127.0.0.1", unused_port()), ("127.0.0.1", peer.port)]
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"any-host": addresses}))
    assert f.connect("any-host:9001") == 0
    attempts: list[tcp_dial.Attempt] = []
    try_next = tcp_dial._try_next
    monkeypatch.setattr(tcp_dial, "_try_next", lambda attempt: (attempts.append(attempt), try_next(attempt)))
    f.run_until(lambda: len(attempts) == 2)
    f.begin_close()
    assert f.wait_connected() == (None, RAFT_CANCELED)


def test_closing_after_a_stream_was_handed_over_leaves_it(f: Transport, peer: PeerServer) -> None:
    """The stream belongs to the caller of connect."""
    assert f.connect(peer.address) == 0
    stream, _ = f.wait_connected()
    f.begin_close()
    f.run_until(lambda: f.ended)
    assert not stream.closed

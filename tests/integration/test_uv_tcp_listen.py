"""The stock transport's listen: connections that get in, in any number of pieces."""

import socket
from collections.abc import Iterator

import pytest

from io_uv import raft_uv_tcp_close, raft_uv_tcp_init, raft_uv_tcp_set_bind_address, tcp_listen
from io_uv.pyuv import UV_RUN_NOWAIT, Loop, errno
from io_uv.tcp_common import Handshake, encode_handshake
from io_uv.transport import RaftUvTransport
from pyraft.errors import RAFT_INVALID, RAFT_IOERR, RAFT_NAMETOOLONG
from pyraft.tracing import RaftTracer
from tests.lib.covers import covers
from tests.lib.peer import Transport, connect, handshake, resolver, unused_port, words

PEER_ID = 2
PEER_ADDRESS = "127.0.0.1:666"
HELLO = handshake(PEER_ID, PEER_ADDRESS)


@pytest.fixture
def f() -> Iterator[Transport]:
    """A transport that listens on a free port."""
    transport = Transport()
    assert transport.listen() == 0
    yield transport
    transport.close()


def listening(address: str, bind_address: str = "") -> tuple[Transport, int]:
    """Return a transport with these addresses, and what its listen returned."""
    transport = Transport(address)
    if bind_address:
        assert raft_uv_tcp_set_bind_address(transport.t, bind_address) == 0
    return transport, transport.listen()


def traced(transport: Transport) -> list[str]:
    """Return a list in which the transport's traces are collected."""
    messages: list[str] = []
    transport.t.impl.tracer = RaftTracer(lambda t, file, line, func, level, text: messages.append(text), True)
    return messages


def expect_peer(transport: Transport) -> None:
    """Turn the loop until the peer was accepted."""
    transport.run_until(lambda: transport.accepted)
    [(id, address, _)] = transport.accepted
    assert (id, address) == (PEER_ID, PEER_ADDRESS)


# Success.


@covers("tcp_listen/success")
@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("bind_address", ["", "127.0.0.1", "localhost", "blank", "0.0.0.0"])
def test_a_peer_that_introduces_itself_is_accepted(address: str, bind_address: str) -> None:
    """The accept callback gets its id, its address and the stream, whatever address is listened on."""
    port = unused_port()
    host = "" if bind_address == "blank" else bind_address
    transport, rv = listening(f"{address}:{port}", f"{host}:{port}" if bind_address else "")
    assert rv == 0, transport.t.errmsg
    peer = connect(transport.loop, port)
    peer.send(HELLO)
    expect_peer(transport)
    peer.close()
    transport.close()


@covers("tcp_listen/firstOfTwo", "tcp_listen/secondOfTwo")
@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
def test_all_addresses_of_a_name_are_listened_on(addresses: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may use either of two addresses."""
    port = unused_port()
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"any-host": [(host, port) for host in addresses]}))
    transport, rv = listening(f"any-host:{port}")
    assert rv == 0
    peer = connect(transport.loop, port)
    peer.send(HELLO)
    expect_peer(transport)
    peer.close()
    transport.close()


def test_three_addresses_are_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """C binds the second of three addresses again and fails (B16)."""
    port = unused_port()
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"any-host": [(host, port) for host in hosts]}))
    transport, rv = listening(f"any-host:{port}")
    assert rv == 0
    names = [listener.getsockname() for listener in transport.t.impl.listeners]
    assert names == [(host, port) for host in hosts]
    transport.close()


def test_ipv6_is_listened_on() -> None:
    """An address in brackets is an IPv6 one."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError as exc:
        pytest.skip(f"no IPv6 loopback: {exc}")
    transport, rv = listening("[::1]:0")
    assert rv == 0
    peer = connect(transport.loop, transport.port, socket.AF_INET6)
    peer.send(HELLO)
    expect_peer(transport)
    peer.close()
    transport.close()


@pytest.mark.parametrize("size", [1, 3, 7, 8, 16, 24, 25, 39])
def test_a_handshake_may_come_in_any_pieces(f: Transport, size: int) -> None:
    """Wherever the network cuts the handshake, and whatever follows it, nothing is lost."""
    peer = connect(f.loop, f.port)
    data = HELLO + b"first message"
    for at in range(0, len(data), size):
        peer.send(data[at : at + size])
        for _ in range(3):
            f.loop.run(UV_RUN_NOWAIT)
    expect_peer(f)
    stream = f.accepted[0][2]
    received: list[bytes] = []
    stream.start_read(lambda stream, data, error: received.append(data))
    assert received == [], "called back inside start_read"
    f.run_until(lambda: b"".join(received) == b"first message")
    peer.send(b" and more")
    f.run_until(lambda: b"".join(received) == b"first message and more")
    peer.close()


def test_reading_may_stop_before_what_followed_the_handshake(f: Transport) -> None:
    """Bytes behind the handshake wait for a reader, through stop and start, and a close drops them."""
    peer = connect(f.loop, f.port)
    peer.send(HELLO + b"first")
    expect_peer(f)
    stream = f.accepted[0][2]
    received: list[bytes] = []
    stream.start_read(lambda stream, data, error: received.append(data))
    stream.stop_read()
    for _ in range(3):
        f.loop.run(UV_RUN_NOWAIT)
    assert received == []
    stream.start_read(lambda stream, data, error: received.append(data))
    f.run_until(lambda: received)
    assert received == [b"first"]
    peer.close()


def test_an_address_need_not_be_padded(f: Transport) -> None:
    """Its length may be any, and it ends at the first NUL."""
    peer = connect(f.loop, f.port)
    peer.send(words(1, PEER_ID, 17) + b"127.0.0.1:666\0xyz")
    expect_peer(f)
    peer.close()


def test_a_second_connection_with_the_same_id_stands_beside_the_first(f: Transport) -> None:
    """As in C nothing is assumed about the first one."""
    peers = [connect(f.loop, f.port) for _ in range(2)]
    for peer in peers:
        peer.send(HELLO)
    f.run_until(lambda: len(f.accepted) == 2)
    assert not any(stream.closed for _, _, stream in f.accepted)
    for peer in peers:
        peer.close()


# Addresses that cannot be listened on.


@covers("tcp_listen/invalidAddress", "tcp_listen/resolveFailure")
@pytest.mark.parametrize("address", ["500.1.2.3:9000", "not-existing:9000", "192.0.2.0:9000", "failing:9000"])
@pytest.mark.parametrize("bind_address", ["", "500.1.2.3:9000", "not-existing:9000", "192.0.2.0:9000", "failing:9000"])
def test_a_bad_address_is_an_io_error(address: str, bind_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a name that is unknown nor an address of somebody else can be listened on."""
    failing = socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure in name resolution")
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"failing": failing}))
    transport, rv = listening(address, bind_address)
    assert rv == RAFT_IOERR
    assert transport.t.errmsg
    assert transport.t.impl.listeners == []
    transport.close()


@covers("tcp_listen/alreadyBound", "tcp_listen/cannotBindFirst", "tcp_listen/cannotBindSecond")
@pytest.mark.parametrize(
    "hosts",
    [["127.0.0.1"] * 3, ["192.0.2.0", "127.0.0.1"], ["127.0.0.1", "192.0.2.0"]],
)
def test_one_address_that_fails_fails_all(hosts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens then, and the port is free again."""
    port = unused_port()
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"any-host": [(host, port) for host in hosts]}))
    transport, rv = listening(f"any-host:{port}")
    assert rv == RAFT_IOERR
    assert transport.t.impl.listeners == []
    transport.close()
    again, rv = listening(f"127.0.0.1:{port}")
    assert rv == 0
    again.close()


def test_a_port_in_use_is_an_io_error(f: Transport) -> None:
    """The text says what and why."""
    transport, rv = listening(f"127.0.0.1:{f.port}")
    assert rv == RAFT_IOERR
    assert transport.t.errmsg == f"listen on 127.0.0.1 port {f.port}: address already in use"
    transport.close()


def test_a_name_that_is_too_long_is_refused() -> None:
    """listen says so; set_bind_address answers RAFT_INVALID and keeps what it had."""
    transport, rv = listening("x" * 1025)
    assert rv == RAFT_NAMETOOLONG
    assert raft_uv_tcp_set_bind_address(transport.t, "x:" + "9" * 32) == RAFT_INVALID
    for wrong in ("\ud800:1", "a\n:1", 9001, None):
        assert raft_uv_tcp_set_bind_address(transport.t, wrong) == RAFT_INVALID  # type: ignore[arg-type]
    assert raft_uv_tcp_set_bind_address(RaftUvTransport(), "127.0.0.1:0") == RAFT_INVALID
    assert transport.t.impl.bind_address is None
    transport.close()


def test_another_version_is_refused() -> None:
    """raft_uv_tcp_init knows version 1 only."""
    transport = RaftUvTransport()
    transport.version = 2
    loop = Loop()
    assert raft_uv_tcp_init(transport, loop) == RAFT_INVALID
    assert transport.errmsg == "Invalid version: 2"
    raft_uv_tcp_close(transport)
    loop.close()


# Peers that do not introduce themselves.


@covers("tcp_listen/badProtocol")
@pytest.mark.parametrize(
    "hello",
    [
        handshake(PEER_ID, PEER_ADDRESS, protocol=0x060606),
        b"GET / HTTP/1.1\r\n\r\n",
        words(1, 0, 8) + b"1\0\0\0\0\0\0\0",
        words(1, PEER_ID, 0),
        words(1, PEER_ID, 4097),
        words(1, PEER_ID, (1 << 64) - 1),
        words(1, PEER_ID, 8) + b"12345678",
    ],
)
def test_a_bad_handshake_ends_the_connection(f: Transport, hello: bytes) -> None:
    """The peer finds the connection closed, and a trace says why."""
    messages = traced(f)
    peer = connect(f.loop, f.port)
    peer.send(hello)
    peer.wait_end()
    assert f.accepted == []
    assert len(messages) == 1
    assert messages[0].startswith("handshake of 127.0.0.1 port ")
    peer.close()


@covers("tcp_listen/peerAbort")
@pytest.mark.parametrize("n", [0, 8, 16, 24, 32])
def test_a_peer_that_goes_away_is_forgotten(f: Transport, n: int) -> None:
    """A connection that ends within its handshake leaves nothing behind."""
    peer = connect(f.loop, f.port)
    peer.send(HELLO[:n]) if n else None
    f.run_until(lambda: f.t.impl.accepting)
    peer.close()
    f.run_until(lambda: not f.t.impl.accepting)
    assert f.accepted == []


def test_a_handshake_has_a_time_limit(f: Transport) -> None:
    """A peer that says nothing, or says it too slowly, is dropped."""
    f.t.impl.limits.handshake_msecs = 50
    messages = traced(f)
    silent = connect(f.loop, f.port)
    f.run_until(lambda: f.t.impl.accepting)
    slow = connect(f.loop, f.port)
    slow.send(HELLO[:-1])
    silent.wait_end()
    slow.wait_end()
    assert [message.split(": ")[1] for message in messages] == ["timed out"] * 2
    silent.close()
    slow.close()


def test_too_many_handshakes_push_out_the_oldest(f: Transport) -> None:
    """Silent connections cannot keep a real peer out."""
    f.t.impl.limits.connections = 3
    f.t.impl.limits.handshake_msecs = 3_600_000
    silent = []
    for _ in range(5):
        silent.append(connect(f.loop, f.port))
        n = len(silent)
        f.run_until(lambda n=n: len(f.t.impl.accepting) == min(n, 3))
    for peer in silent[:2]:
        peer.wait_end()
    peer = connect(f.loop, f.port)
    peer.send(HELLO)
    expect_peer(f)
    for connection in [*silent, peer]:
        connection.close()


# Closing.


@covers("tcp_listen/pending")
def test_closing_with_a_connection_pending() -> None:
    """A connection that was not accepted yet does not matter."""
    f = Transport()
    assert f.listen() == 0
    peer = connect(f.loop, f.port)
    f.close()
    peer.close()


@covers("tcp_listen/closeBeforeHandshake", "tcp_listen/handshake")
@pytest.mark.parametrize("n", [0, 8, 16, 24, 32])
def test_closing_during_a_handshake(n: int) -> None:
    """The connection is closed, and the close callback comes after that."""
    f = Transport()
    assert f.listen() == 0
    peer = connect(f.loop, f.port)
    peer.send(HELLO[:n]) if n else None
    f.run_until(lambda: f.t.impl.accepting)
    f.begin_close()
    assert f.ended == []
    peer.wait_end()
    f.close()
    assert f.accepted == []
    peer.close()


def test_closing_a_transport_that_never_listened_calls_back_at_once() -> None:
    """As in C there is nothing to wait for."""
    f = Transport()
    f.begin_close()
    assert f.ended == [f.t]
    f.close()


def test_the_handshake_is_that_of_c() -> None:
    """It is word 1, id, length of the address padded to words, address."""
    expected = words(1, 1, 16) + b"127.0.0.1:9001\0\0"
    assert encode_handshake(1, "127.0.0.1:9001") == expected
    assert encode_handshake(1, "12345678") == words(1, 1, 16) + b"12345678" + bytes(8)
    reader = Handshake(4096)
    assert reader.feed(expected)
    assert (reader.id, reader.address, reader.rest) == (1, "127.0.0.1:9001", b"")


def test_a_connection_that_cannot_be_accepted_is_told_once(f: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel says so again and again while there is no descriptor left."""
    [listener] = f.t.impl.listeners
    for _ in range(3):
        tcp_listen._listen_cb(f.t.impl, listener, errno.UV_EMFILE)
    assert [record.getMessage() for record in caplog.records] == [
        "a connection cannot be accepted: too many open files"
    ]
    assert f.accepted == []

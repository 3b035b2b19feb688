"""How streams are opened and how connections begin: dialers, handshakes, and whose a certificate is."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import (
    RaftUvDial,
    RaftUvDuplex,
    RaftUvGuest,
    RaftUvTransport,
    pyuv,
    raft_uv_dial,
    raft_uv_serve,
    raft_uv_set_dialer,
    raft_uv_set_handshake,
    raft_uv_tls_init,
    raft_uv_tls_set_policy,
    raft_uv_upgrade,
)
from io_uv.pyuv import Loop
from io_uv.tcp_common import Handshake
from pyraft.errors import RAFT_CANCELED, RAFT_INVALID, RAFT_NOCONNECTION, RAFT_UNAUTHORIZED
from tests.lib import messages as m
from tests.lib.peer import PeerServer, Transport, connect, resolver, unused_port, words
from tests.lib.tlstest import Authority, Pair, tls_init
from tests.lib.uvtest import run_until

WORD = 77


@pytest.fixture
def f() -> Iterator[Transport]:
    """A transport of server 1."""
    transport = Transport("127.0.0.1:0")
    yield transport
    transport.close()


class Dial(RaftUvDial):
    """A request that keeps what it was called back with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, int]] = []

    def begin(self, transport: RaftUvTransport, address: str, id: int = 0) -> int:
        """Dial; the callback must not come inside that."""
        rv = raft_uv_dial(transport, self, id, address, lambda req, stream, status: self.calls.append((stream, status)))
        assert self.calls == []
        return rv

    def wait(self, loop: Loop) -> tuple[Any, int]:
        """Turn the loop until the callback has come."""
        run_until(loop, lambda: self.calls)
        [call] = self.calls
        return call


# raft_uv_dial.


def test_a_dial_gives_a_stream_on_which_nothing_was_written(f: Transport, peer: PeerServer) -> None:
    """Both ends may write and read; it is the caller's, and outlives the transport."""
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    stream, status = req.wait(f.loop)
    assert (status, req.errmsg, req.cancel) == (0, "", None)
    f.begin_close()
    f.run_until(lambda: f.ended)
    stream.write(b"hello", lambda stream, error: None)
    other = peer.accept()
    assert other.read(5) == b"hello"
    other.send(b"there")
    heard: list[bytes] = []
    stream.start_read(lambda stream, data, error: heard.append(data))
    f.run_until(lambda: heard == [b"there"])
    stream.close()


def test_a_dial_that_fails_says_why(f: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does at once for anything but an address, in the callback where nobody listens, by a text in the request."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver({}))  # a name server may take longer than a dial may
    req = Dial()
    assert req.begin(f.t, ":1") == RAFT_NOCONNECTION
    assert req.errmsg == f.t.errmsg == "uv_tcp_connect(): Cannot initiate getaddrinfo invalid argument"
    assert req.begin(f.t, f"127.0.0.1:{unused_port()}") == 0
    other = Dial()
    other.begin(f.t, "nowhere.invalid:1")
    assert req.wait(f.loop) == (None, RAFT_NOCONNECTION)
    assert req.errmsg == "uv_tcp_connect(): connection refused"
    assert other.wait(f.loop) == (None, RAFT_NOCONNECTION)
    assert other.errmsg.startswith("uv_getaddrinfo(): ")
    assert raft_uv_dial(RaftUvTransport(), req, 0, "127.0.0.1:1", lambda *args: None) == RAFT_INVALID


def test_a_dial_may_be_cancelled_by_its_owner_and_by_closing(f: Transport, peer: PeerServer) -> None:
    """RAFT_CANCELED once, and not inside cancel or close; later calls are refused."""
    first, second = Dial(), Dial()
    first.begin(f.t, peer.address)
    assert first.cancel is not None
    cancel = first.cancel
    cancel()
    cancel()
    assert first.calls == []
    assert first.wait(f.loop) == (None, RAFT_CANCELED)
    second.begin(f.t, peer.address)
    f.begin_close()
    assert second.wait(f.loop) == (None, RAFT_CANCELED)
    assert f.ended == [f.t]
    assert Dial().begin(f.t, peer.address) == RAFT_CANCELED


# Dialers.


class Mapped:
    """A dialer of Unix sockets in a directory, by name; its fields say what it is to do wrong."""

    def __init__(self, dir: Path, loop: Loop) -> None:
        self.dir = dir
        self.loop = loop
        self.silent = False
        self.code = 0
        self.requests: list[RaftUvDial] = []

    def __call__(self, transport: RaftUvTransport, req: RaftUvDial) -> int:
        self.requests.append(req)
        if self.code:
            req.errmsg = "not today"
            return self.code
        pipe = pyuv.Pipe(self.loop)

        def closed(pipe: pyuv.Pipe) -> None:
            req.cb(req, None, RAFT_CANCELED)

        def connected(pipe: pyuv.Pipe, error: int | None) -> None:
            if error is None:
                req.cb(req, pipe, 0)
            else:
                req.errmsg = pyuv.errno.strerror(error)
                pipe.close(lambda pipe: req.cb(req, None, RAFT_NOCONNECTION))

        req.cancel = lambda: pipe.close(closed)
        if not self.silent:
            pipe.connect(str(self.dir / req.address), connected)
        return 0


@pytest.fixture
def mapped(f: Transport, tmp_path: Path) -> Mapped:
    """A dialer that the transport uses."""
    dialer = Mapped(tmp_path, f.loop)
    assert raft_uv_set_dialer(f.t, dialer) == 0
    return dialer


def test_a_dialer_decides_how_addresses_are_reached(f: Transport, mapped: Mapped) -> None:
    """Raft's handshake goes over what it opens; its addresses need not be hosts and ports."""
    listener, accepted = pyuv.Pipe(f.loop), pyuv.Pipe(f.loop)
    listener.bind(str(mapped.dir / "two"))
    listener.listen(lambda listener, error: listener.accept(accepted))
    assert f.t.check_address is None
    assert f.connect("two", 2) == 0
    assert f.wait_connected()[1] == 0
    assert (mapped.requests[0].id, mapped.requests[0].address) == (2, "two")
    heard: list[bytes | None] = []
    accepted.start_read(lambda pipe, data, error: heard.append(data))
    f.run_until(lambda: heard)
    reader = Handshake(4096)
    assert reader.feed(b"".join(filter(None, heard)))
    assert (reader.id, reader.address) == (1, "127.0.0.1:0")
    listener.close()
    accepted.close()


def test_what_a_dialer_says_is_passed_on(f: Transport, mapped: Mapped) -> None:
    """Its code where it returns one, its text, and that nobody is there."""
    mapped.code = RAFT_UNAUTHORIZED
    assert f.connect("two") == RAFT_UNAUTHORIZED
    assert f.t.errmsg == "not today"
    mapped.code = 0
    assert f.connect("nobody") == 0
    assert f.wait_connected() == (None, RAFT_NOCONNECTION)
    assert f.t.errmsg == "no such file or directory"


@pytest.mark.parametrize("end", ["time", "close", "cancel"])
def test_a_dialer_that_takes_too_long_is_cancelled(f: Transport, mapped: Mapped, end: str) -> None:
    """The limit for connecting ends it, a close, or its caller; the callback comes when nothing of it is left."""
    mapped.silent = True
    if end == "time":
        f.t.impl.limits.connect_msecs = 20
    req = Dial()
    assert req.begin(f.t, "two") == 0
    if end == "close":
        f.begin_close()
    elif end == "cancel":
        assert req.cancel is not None
        req.cancel()
    assert req.wait(f.loop) == (None, RAFT_NOCONNECTION if end == "time" else RAFT_CANCELED)
    assert req.errmsg == ("uv_tcp_connect(): connection timed out" if end == "time" else "canceled")


def test_a_stream_that_comes_too_late_is_closed(f: Transport, peer: PeerServer) -> None:
    """So is a second one; the transport's close waits for the dialer and for the stream."""
    requests: list[RaftUvDial] = []

    def dialer(transport: RaftUvTransport, req: RaftUvDial) -> int:
        requests.append(req)
        return 0

    def open_stream() -> pyuv.TCP:
        stream = pyuv.TCP(f.loop)
        done: list[int | None] = []
        stream.connect(("127.0.0.1", peer.port), lambda stream, error: done.append(error))
        f.run_until(lambda: done)
        return stream

    assert raft_uv_set_dialer(f.t, dialer) == 0
    assert f.connect("two") == 0
    first, second, third = open_stream(), open_stream(), open_stream()
    requests[0].cb(requests[0], first, 0)
    f.wait_connected()
    requests[0].cb(requests[0], second, 0)
    assert (first.closed, second.closed) == (False, True)
    req = Dial()
    assert req.begin(f.t, "three") == 0
    f.begin_close()
    f.loop.run(pyuv.UV_RUN_NOWAIT)
    assert (f.ended, req.calls) == ([], [])
    requests[1].cb(requests[1], third, 0)
    assert third.closed
    assert req.wait(f.loop) == (None, RAFT_CANCELED)


def test_a_dialer_that_raises_costs_its_request_only(f: Transport, peer: PeerServer) -> None:
    """The exception reaches the caller, which for raft is a failed attempt, and nothing of the request stays."""

    def dialer(transport: RaftUvTransport, req: RaftUvDial) -> int:
        raise LookupError(req.address)

    assert raft_uv_set_dialer(f.t, dialer) == 0
    with pytest.raises(LookupError):
        f.connect("two")
    assert f.t.impl.connecting == {}


def test_hooks_are_for_stock_transports() -> None:
    """An own transport has own ways."""
    other = RaftUvTransport()
    assert raft_uv_set_dialer(other, lambda transport, req: 0) == RAFT_INVALID
    assert raft_uv_set_handshake(other, Short()) == RAFT_INVALID
    assert raft_uv_tls_set_policy(other, lambda certificate, id, address: True) == RAFT_INVALID
    assert other.errmsg == "not a TLS transport"


# Handshakes.


class Short:
    """A handshake of a word for the protocol, one for the id, and an address of 16 bytes."""

    answered = False

    def encode(self, id: int, address: str) -> bytes:
        """Introduce a server."""
        return words(WORD, id) + address.encode().ljust(16, b"\0")

    def reader(self, limit: int) -> "ShortReader":
        """Read one."""
        assert limit == 4096
        return ShortReader()


class ShortReader:
    """Reads what Short has written."""

    def __init__(self) -> None:
        self.id = 0
        self.address = ""
        self.rest = b""

    def feed(self, data: bytes) -> bool:
        """Take some bytes."""
        self.rest += data
        if self.rest[:8] != words(WORD):
            raise ValueError("not the short way")
        if len(self.rest) < 32:
            return False
        self.id = int.from_bytes(self.rest[8:16], "little")
        self.address = self.rest[16:32].rstrip(b"\0").decode()
        self.rest = self.rest[32:]
        return True


@pytest.mark.parametrize("tls", [False, True])
def test_connections_may_begin_in_another_way(pair: Pair, authority: Authority, tls: bool) -> None:
    """Messages pass in both directions, over TLS without the answer of stock handshakes."""
    names = ["raft-server-1", "raft-server-2"]
    one, two = (pair.add(i + 1, tls_init(authority, name, name)) for i, name in enumerate(names))
    for server in (one, two):
        if not tls:
            server.transport.impl.security = None
        assert raft_uv_set_handshake(server.transport, Short()) == 0
    outcomes = [one.send_to(two, m.timeout_now(1, 3, 10, 2)), two.send_to(one, m.timeout_now(2, 3, 11, 2))]
    pair.run_until(lambda: one.received and two.received and all(outcome.calls for outcome in outcomes))
    assert (one.received[0].server_id, two.received[0].server_id) == (2, 1)
    assert one.received[0].server_address == "127.0.0.1:0"


def test_a_reader_says_what_is_wrong(f: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """ValueError costs the connection, with the reason in the log; other exceptions reach the excepthook too."""
    assert raft_uv_set_handshake(f.t, Short()) == 0
    assert f.listen() == 0
    first, second = connect(f.loop, f.port), connect(f.loop, f.port)
    first.send(words(1))
    first.wait_end()
    assert "a peer at 127.0.0.1 is not let in: not the short way" in caplog.text
    second.send(words(WORD, 2) + b"\xff" * 16)
    second.wait_end()
    assert f.errors == [], "UnicodeDecodeError is a ValueError"

    class Broken(Short):
        def reader(self, limit: int) -> ShortReader:
            reader = ShortReader()
            reader.feed = lambda data: data.mistake  # type: ignore[attr-defined]
            return reader

    assert raft_uv_set_handshake(f.t, Broken()) == 0
    third = connect(f.loop, f.port)
    third.send(words(WORD, 2))
    third.wait_end()
    assert [type(error) for error in f.errors] == [AttributeError]
    f.errors.clear()
    for connection in (first, second, third):
        connection.close()


def test_a_protocol_that_serves_clients_and_servers_under_one_word(pair: Pair, authority: Authority) -> None:
    """dqlite's is one: a word, then a request; one of them makes the stream raft's, in both directions, over TLS."""
    served: list[bytes] = []

    class Dqlite:
        answered = False

        def encode(self, id: int, address: str) -> bytes:
            name = address.encode() + b"\0"
            name += bytes(-len(name) % 8)
            return words(1, (len(name) + 8) // 8 | 11 << 32, id) + name

        def reader(self, limit: int) -> Handshake:
            raise AssertionError("word 1 is served")

    def serve(transport: RaftUvTransport, guest: RaftUvGuest) -> None:
        guest.data = b""
        guest.stream.start_read(lambda stream, data, error: take(guest, stream, data))
        take(guest, guest.stream, guest.received[8:])

    def take(guest: RaftUvGuest, stream: RaftUvDuplex, data: bytes | None) -> None:
        if data is None:
            stream.close()
            return
        guest.data += data
        size = 8 + 8 * (guest.data[0] if guest.data else 0)
        if len(guest.data) < max(16, size):
            return
        if guest.data[4] != 11:
            served.append(guest.data)
            stream.write(b"answer", lambda stream, error: None)
            return
        id, name = int.from_bytes(guest.data[8:16], "little"), guest.data[16:size].rstrip(b"\0").decode()
        assert raft_uv_upgrade(guest, id, name, guest.data[size:]) == 0

    names = ["raft-server-1", "raft-server-2"]
    one, two = (pair.add(i + 1, tls_init(authority, name, name)) for i, name in enumerate(names))
    for server in (one, two):
        assert raft_uv_set_handshake(server.transport, Dqlite()) == 0
        assert raft_uv_serve(server.transport, 1, serve) == 0
    one.send_to(two, m.timeout_now(1, 3, 10, 2))
    two.send_to(one, m.timeout_now(2, 3, 10, 2))
    pair.run_until(lambda: one.received and two.received)
    req = Dial()
    assert req.begin(one.transport, two.listens_at, 2) == 0
    client, status = req.wait(pair.loop)
    assert status == 0
    client.write(words(1, 1, 5), lambda stream, error: None)
    heard: list[bytes] = []
    client.start_read(lambda stream, data, error: heard.append(data))
    pair.run_until(lambda: heard)
    assert (heard, served) == ([b"answer"], [words(1, 5)])
    client.close()


# TLS.


def test_guests_over_tls_show_their_certificates(authority: Authority, pair: Pair) -> None:
    """The protocol gets the verified certificate; a server that is handed on must be the one that it names; nothing is
    written to guests.
    """
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    guests: list[RaftUvGuest] = []
    assert raft_uv_serve(two.transport, WORD, lambda transport, guest: guests.append(guest)) == 0
    req = Dial()
    assert req.begin(one.transport, two.listens_at, 2) == 0
    client, _ = req.wait(pair.loop)
    heard: list[bytes] = []
    client.start_read(lambda stream, data, error: heard.append(data))
    client.write(words(WORD) + b"more", lambda stream, error: None)
    pair.run_until(lambda: guests)
    [guest] = guests
    assert guest.received == words(WORD) + b"more"
    assert guest.certificate["subjectAltName"] == (("DNS", "raft-server-1"),)
    assert raft_uv_upgrade(guest, 3, "127.0.0.1:3") == RAFT_UNAUTHORIZED
    assert two.transport.errmsg == "certificate of raft-server-1 does not name server 3 at 127.0.0.1:3"
    guest.stream.write((b"an", bytearray(b"sw"), memoryview(b"er")), lambda stream, error: None)
    pair.run_until(lambda: b"".join(heard) == b"answer")
    heard.clear()
    guest.stream.write(b"yours", lambda stream, error: None)
    pair.run_until(lambda: heard)
    assert heard == [b"yours"]
    assert raft_uv_upgrade(guest, 1, "127.0.0.1:3") == 0
    assert [server.id for server in two.uv.servers] == [1]
    client.close()


def test_a_dial_over_tls_wants_the_server_or_anybody(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """An id that the certificate does not name is RAFT_UNAUTHORIZED, 0 takes whom the authority vouches for only."""
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    (tmp_path / "other").mkdir()
    stranger = pair.add(1, tls_init(Authority(tmp_path / "other"), "one", "raft-server-1"))
    wrong, anybody, foreign = Dial(), Dial(), Dial()
    assert wrong.begin(one.transport, two.listens_at, 3) == 0
    assert wrong.wait(pair.loop) == (None, RAFT_UNAUTHORIZED)
    assert "does not name server 3" in wrong.errmsg
    assert anybody.begin(one.transport, two.listens_at) == 0
    stream, status = anybody.wait(pair.loop)
    assert status == 0
    stream.close()
    assert foreign.begin(stranger.transport, two.listens_at) == 0
    assert foreign.wait(pair.loop) == (None, RAFT_UNAUTHORIZED)


def test_servers_may_share_a_certificate(authority: Authority, pair: Pair) -> None:
    """A policy that says yes takes the place of names; without one the shared certificate is nobody's."""
    files = authority.issue("shared", "cluster.example")
    asked: list[tuple[int, str]] = []

    def init(transport: RaftUvTransport, loop: Loop) -> int:
        rv = raft_uv_tls_init(transport, loop, *files, authority.path)
        assert transport.init(transport, 1, "127.0.0.1:1") == RAFT_INVALID
        return rv or raft_uv_tls_set_policy(transport, lambda certificate, id, address: not asked.append((id, address)))

    one, two = pair.add(1, init), pair.add(2, init)
    one.send_to(two, m.timeout_now(1, 3, 10, 2))
    pair.run_until(lambda: two.received)
    assert asked == [(1, "127.0.0.1:0"), (2, "127.0.0.1:0"), (2, two.listens_at), (1, "127.0.0.1:0")]

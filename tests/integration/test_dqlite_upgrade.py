"""HTTP upgrades to dqlite: on the port, on connections of ours, with TLS and without, and what is refused.

A program of Go that speaks it with net/http is in interop/dqlite.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import raft_uv_set_opening
from io_uv.dqlite import requests, responses, upgrade
from io_uv.dqlite.words import ParseError
from io_uv.pyuv import UV_RUN_NOWAIT
from pyraft.dqlite import Cluster, Member, Refused, dialer
from pyraft.errors import RAFT_CANCELED, RAFT_INVALID, RAFT_NOCONNECTION, RAFT_UNAUTHORIZED
from pyraft.node.tls import Tls
from tests.integration.test_dqlite_member import FAST, Founder, World, address
from tests.integration.test_dqlite_port import HELLO, VERSION, Clients, heard, listening
from tests.integration.test_uv_dial import Dial
from tests.lib.dqlite_scripted import overdue
from tests.lib.peer import Connection, PeerServer, Transport, connect, words
from tests.lib.tlstest import Authority

PATH = upgrade.LXD
Come = Callable[[], Connection]
ASK = upgrade.request(PATH, "127.0.0.1:8443")
GO = (
    b"POST /internal/database HTTP/1.1\r\nHost: 10.0.0.1:8443\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: 0\r\nUpgrade: dqlite\r\nX-Dqlite-Version: 1\r\n\r\n"
)
"""A request as net/http writes it."""
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: dqlite\r\n\r\n"


@pytest.fixture
def clients() -> Clients:
    """The requests of clients of `f`."""
    return Clients()


@pytest.fixture
def f(clients: Clients) -> Iterator[Transport]:
    """A transport that listens for upgrades, and asks for them."""
    transport = Transport()
    transport.t.impl.limits.handshake_msecs = 60_000
    yield from listening(transport, clients, PATH)


@pytest.fixture
def come(f: Transport) -> Iterator[Callable[[], Connection]]:
    """Connects to `f`; the connections are closed at the end."""
    made: list[Connection] = []

    def another() -> Connection:
        made.append(connect(f.loop, f.port))
        return made[-1]

    yield another
    for one in made:
        one.close()


def head(peer: Connection) -> bytes:
    """Wait for the head of an answer, and return it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += peer.read(1)
    return data


# In.


@pytest.mark.parametrize("asked", [ASK, GO])
def test_a_server_and_a_client_come_by_an_upgrade(f: Transport, come: Come, clients: Clients, asked: bytes) -> None:
    """It comes in any pieces; without one they come as ever."""
    for size in (1, 7, 1000):
        peer = come()
        for at in range(0, len(asked), size):
            peer.send(asked[at : at + size])
            f.loop.run(UV_RUN_NOWAIT)
        assert head(peer).startswith(b"HTTP/1.1 101 ")
        for at in range(0, len(HELLO), size):
            peer.send(HELLO[at : at + size])
            f.loop.run(UV_RUN_NOWAIT)
        f.run_until(lambda: f.accepted)
        id, name, stream = f.accepted.pop()
        assert (id, name) == (2, "127.0.0.1:666")
        got: list[bytes] = []
        stream.start_read(lambda stream, data, error, got=got: got.append(data))
        peer.send(b"raft")
        f.run_until(lambda got=got: b"".join(got) == b"raft")
        stream.close()
    for before in (b"", asked):
        peer = come()
        if before:
            peer.send(before)
            head(peer)
        peer.send(VERSION + requests.Leader().encode())
        f.run_until(lambda: clients.asked)
        clients.asked.pop()[0].answer(responses.Server(3, "x:1"))
        assert heard(f, peer, 1) == [responses.Server(3, "x:1")]
        peer.close()


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (ASK.replace(b"database", b"other"), 404),
        (ASK.replace(b"POST", b"GET"), 405),
        (ASK.replace(b"POST", b"PUT"), 405),
        (ASK.replace(b"Upgrade: dqlite\r\n", b""), 400),
        (ASK.replace(b"Upgrade: dqlite", b"Upgrade: websocket"), 400),
        (ASK.replace(b"Length: 0", b"Length: 5"), 400),
        (ASK.replace(b"Length: 0", b"Length: 0\r\nContent-Length: 0"), 400),
        (ASK.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 400),
        (ASK.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (ASK.replace(b"Version: 1", b"Version: one"), 400),
        (ASK.replace(b"Version: 1", b"Version: \xb2"), 400),
        (ASK.replace(b"X-Dqlite-Version: 1\r\n", b""), 426),
        (ASK.replace(b"Version: 1", b"Version: 0"), 426),
        (ASK.replace(b"Version: 1", b"Version: 2"), 503),
        (ASK.replace(b"Version: 1", b"Version: " + b"9" * 5000), 503),
    ],
)
def test_other_requests_are_answered_and_the_connection_ends(
    f: Transport, come: Come, asked: bytes, status: int
) -> None:
    """They get the statuses that LXD has for them."""
    peer = come()
    peer.send(asked + VERSION)
    assert head(peer).startswith(b"HTTP/1.1 %d " % status)
    peer.wait_end()
    assert peer.data == upgrade._REASONS[status].join((f"{status} ", "\n")).encode()
    f.run_until(lambda: not f.t.impl.guests)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/2\r\n\r\n",
        b"POST /internal/database\r\n\r\n",
        b"POST " + b"x" * upgrade.MAX_HEAD,
        ASK.replace(b"Host:", b"Host"),
        ASK.replace(b"Host:", b"Ho st:"),
        ASK.replace(b"Host:", b" folded:"),
        ASK.replace(b"Host:", b":"),
        ASK.replace(b"pyraft", b"py\x00raft"),
        ASK.replace(b"pyraft", b"py\nraft"),
        ASK.replace(b"\r\n\r\n", b"\r\nX: y" * 70 + b"\r\n\r\n"),
        ASK + words(2),
        ASK + b"POST / H",
    ],
)
def test_what_is_none_of_http_or_dqlite_ends_the_connection(
    f: Transport, come: Come, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has a line."""
    peer = come()
    peer.send(data)
    peer.wait_end()
    assert "a client at 127.0.0.1 is not let in" in caplog.text
    f.run_until(lambda: not f.t.impl.guests)


def test_who_says_nothing_is_let_go_of(f: Transport, come: Come) -> None:
    """It is so in a request, and behind the answer; a client that has said its version may be silent."""
    f.t.impl.limits.handshake_msecs = 50
    for said in (ASK[:20], ASK, ASK + VERSION[:7]):
        peer = come()
        peer.send(said)
        peer.wait_end()
    answered = False
    while not answered:  # on a busy machine the time may be over before its request is read
        peer = come()
        peer.send(ASK + VERSION)
        f.run_until(lambda: not peer.pump() or peer.data.endswith(b"\r\n\r\n"))  # noqa: B023
        answered = peer.data.endswith(b"\r\n\r\n")
    peer.data = b""
    silent = come()
    silent.send(ASK)
    silent.wait_end()
    peer.send(HELLO[8:])
    f.run_until(lambda: f.accepted)
    peer.close()


def test_connections_end_with_the_transport(f: Transport, come: Come) -> None:
    """They do in the middle of a request, and behind it; and so they do when the other end goes."""
    peers = [come() for _ in range(4)]
    for peer, said in zip(peers, (ASK[:20], ASK, ASK[:30], ASK + VERSION[:3]), strict=True):
        peer.send(said)
    f.run_until(lambda: len(f.t.impl.guests) == 4)
    peers[0].close()
    peers[1].close()
    f.run_until(lambda: len(f.t.impl.guests) == 2)
    f.begin_close()
    f.run_until(lambda: f.ended)
    assert not f.t.impl.guests


# Out.


def test_a_server_asks_for_an_upgrade_before_it_introduces_itself(f: Transport, peer: PeerServer) -> None:
    """It waits for the answer: what came earlier would be lost in a Go server."""
    assert f.connect(peer.address) == 0
    other = peer.accept()
    asked = upgrade.request(PATH, peer.address)
    assert other.read(len(asked)) == asked
    f.loop.run(UV_RUN_NOWAIT)
    assert not other.pump() or other.data == b""
    for at in range(0, len(SWITCHED), 5):
        other.send(SWITCHED[at : at + 5])
        f.loop.run(UV_RUN_NOWAIT)
    stream, status = f.wait_connected()
    assert status == 0
    hello = VERSION + requests.Connect(1, "127.0.0.1:0").encode()
    assert other.read(len(hello)) == hello
    stream.write(b"raft", lambda stream, error: None)
    assert other.read(4) == b"raft"


def test_a_dialled_stream_is_behind_the_upgrade(f: Transport, peer: PeerServer) -> None:
    """Nothing was written on it but the request."""
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    other = peer.accept()
    head(other)
    other.send(SWITCHED)
    stream, status = req.wait(f.loop)
    assert (status, req.errmsg) == (0, "")
    stream.close()
    other.wait_end()
    assert other.data == b""


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", RAFT_NOCONNECTION, "status 404 Not Found"),
        (b"HTTP/1.1 403 no\r\n\r\n", RAFT_UNAUTHORIZED, "status 403 no"),
        (b"HTTP/1.1 426\r\n\r\n", RAFT_UNAUTHORIZED, "outdated"),
        (b"HTTP/1.1 101 x\r\nUpgrade: h2c\r\n\r\n", RAFT_NOCONNECTION, "something else"),
        (SWITCHED + b"early", RAFT_NOCONNECTION, "before it was spoken to"),
        (b"220 mail.example.org ESMTP\r\n\r\n", RAFT_NOCONNECTION, "does not follow HTTP: no status"),
        (b"x" * upgrade.MAX_HEAD, RAFT_NOCONNECTION, "without an end"),
        (b"", RAFT_NOCONNECTION, "instead of answering"),
    ],
)
def test_other_answers_are_no_connection(f: Transport, peer: PeerServer, said: bytes, status: int, text: str) -> None:
    """The text says why, and the connection is closed."""
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    other = peer.accept()
    head(other)
    if said:
        other.send(said)
    else:
        other.close()
    assert req.wait(f.loop) == (None, status)
    assert text in req.errmsg


def test_an_upgrade_may_be_given_up(f: Transport, peer: PeerServer) -> None:
    """Its caller gives it up, its time is over, or the transport closes."""
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    head(peer.accept())
    assert req.cancel is not None
    req.cancel()
    assert req.wait(f.loop) == (None, RAFT_CANCELED)
    f.t.impl.limits.connect_msecs = 50
    late = Dial()
    assert late.begin(f.t, peer.address) == 0
    other = peer.accept()
    assert late.wait(f.loop) == (None, RAFT_NOCONNECTION)
    other.send(SWITCHED)
    assert "timed out" in late.errmsg
    f.t.impl.limits.connect_msecs = 60_000
    last = Dial()
    assert last.begin(f.t, peer.address) == 0
    head(peer.accept())
    f.begin_close()
    assert last.wait(f.loop) == (None, RAFT_CANCELED)
    f.run_until(lambda: f.ended)


def test_an_opening_may_refuse_at_once_or_fail(f: Transport, peer: PeerServer) -> None:
    """It does with a code, by an exception, or twice; an address that has no place in a request is refused."""
    assert raft_uv_set_opening(f.t, lambda t, req, stream: RAFT_UNAUTHORIZED) == 0
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    assert req.wait(f.loop) == (None, RAFT_UNAUTHORIZED)
    assert req.errmsg == f"the opening says {RAFT_UNAUTHORIZED}"

    def raising(t: Any, req: Any, stream: Any) -> int:
        raise ZeroDivisionError("opening")

    raft_uv_set_opening(f.t, raising)
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    assert req.wait(f.loop) == (None, RAFT_NOCONNECTION)
    assert [type(exc) for exc in f.errors] == [ZeroDivisionError]
    f.errors.clear()

    def twice(t: Any, req: Any, stream: Any) -> int:
        req.cb(req, stream, 0)
        req.cb(req, None, RAFT_NOCONNECTION)
        return 0

    raft_uv_set_opening(f.t, twice)
    req = Dial()
    assert req.begin(f.t, peer.address) == 0
    stream, status = req.wait(f.loop)
    assert status == 0
    stream.close()
    with pytest.raises(ValueError, match="no address for a request"):
        upgrade.request(PATH, "a b")
    for path in ("internal", "/a b", "", "/\r\n"):
        with pytest.raises(ValueError, match="no path"):
            upgrade.opening(path)
    f.t.impl.closing = True
    f.t.impl.closing = False
    impl, f.t.impl = f.t.impl, None
    assert raft_uv_set_opening(f.t, raising) == RAFT_INVALID
    f.t.impl = impl


# Members and clients.


class Tunnelled(World):
    """Members whose connections begin with upgrades."""

    def __init__(self, folder: Path, tls: Tls | None) -> None:
        super().__init__(folder)
        self.options: dict[str, Any] = {"tls": tls, "upgrade": PATH}
        self.founder = Founder(folder / "1", address(), id=1, settings=FAST, **self.options)
        self.made = [self.founder]


@pytest.mark.parametrize("secure", [False, True])
def test_members_and_clients_meet_by_upgrades(tmp_path: Path, secure: bool) -> None:
    """A member joins, follows, and gets a snapshot; clients without an upgrade are served as well, other paths not."""
    tls = None
    if secure:
        certificate, key = Authority(tmp_path).issue("node", "cluster")
        tls = Tls(str(certificate), str(key), str(tmp_path / "ca.pem"))

    async def run() -> None:
        world = Tunnelled(tmp_path, tls)
        try:
            await world.founder.start()
            await world.founder.server.wait_until(lambda: world.founder.server.is_leader)
            await world.write("create table t(a)", *[f"insert into t values({n})" for n in range(30)])
            other = await world.member(2, **world.options)
            await world.equal(world.founder, other)
            for path in (PATH, ""):
                found = await Cluster([other.address], dial=dialer(tls, path)).members()
                assert [one.id for one in found] == [1, 2]
            dial = dialer(tls, "/other")
            await overdue(
                lambda seconds: Cluster([other.address], dial=dial, timeout_seconds=seconds).members(),
                *(Exception, "status 404 Not Found"),
            )
        finally:
            await world.close()

    asyncio.run(asyncio.wait_for(run(), 300))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"HTTP/1.1 426 x\r\n\r\n", "outdated"),
        (b"HTTP/1.1 101 x\r\n\r\n", "something else"),
        (b"nonsense\r\n\r\n", "no status of HTTP"),
        (b"x" * 100_000, "no upgrade"),
        (b"x" * upgrade.MAX_HEAD + b"\r\n\r\n", "without an end"),
        (b"HTTP/1.1", "has ended the connection instead of answering"),
    ],
)
def test_a_client_that_gets_another_answer_says_so(said: bytes, text: str) -> None:
    """The text has the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            with pytest.raises(OSError, match=text):
                await dialer(None, PATH)(at)
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(asyncio.wait_for(run(), 300))


def test_a_member_with_an_impossible_path_is_refused(tmp_path: Path) -> None:
    """It is refused before anything is done."""
    with pytest.raises(ValueError, match="no path of a URL"):
        Member(tmp_path / "1", address(), upgrade="internal")
    assert issubclass(Refused, Exception)


# Heads.


def parsed(data: bytes) -> Callable[[], upgrade.Head | None]:
    """Return a call that takes a head."""
    return lambda: upgrade.take_head(bytearray(data))


def test_no_head_does_harm() -> None:
    """Bytes at random, and good ones with some of them changed, give a head, none, or ParseError."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(3000):
        data = bytearray(dice.choice((ASK, GO, SWITCHED)))
        for _ in range(dice.randint(0, 4)):
            data[dice.randrange(len(data))] = dice.choice(b"\r\n :\0\xff" + data)
        with contextlib.suppress(ParseError):
            found = upgrade.take_head(data)
            if found is not None:
                with contextlib.suppress(ParseError):
                    assert upgrade.judge(found, PATH) in (101, 400, 404, 405, 426, 503)
                with contextlib.suppress(ParseError):
                    upgrade.refusal(found)
    assert parsed(ASK[:-1])() is None
    two = upgrade.take_head(bytearray(b"a b c\r\nX: 1\r\nx:  2 \r\n\r\nrest"))
    assert two is not None
    assert (two.first, two.fields) == (["a", "b", "c"], {"x": "1, 2"})

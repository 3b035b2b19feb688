"""Targets of `hostile` that speak dqlite: requests, answers, log entries and snapshots that nobody should send.

Duty: each function takes bytes and raises when something is wrong; `corpus` has good inputs for them.

These must hold: nothing but ParseError is raised, and what was accepted can be encoded again and is the same then. A
client that such answers come to has DqliteError, OSError or Refused, and is of no use behind the second.
"""

import asyncio
import sqlite3
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from io_uv.dqlite import commands, image, requests, responses, upgrade, words
from io_uv.dqlite.messages import Layout, Splitter
from io_uv.dqlite.words import ParseError
from pyraft.dqlite.errors import DqliteError, Refused
from pyraft.dqlite.peer import Peer
from pyraft.dqlite.session import Session, Statement


def dqlite_requests(data: bytes) -> None:
    """Requests as they arrive on a connection; the first byte says in what pieces."""
    _stream(data, requests.decode)


def dqlite_responses(data: bytes) -> None:
    """Answers, likewise."""
    _stream(data, responses.decode)


def _stream(data: bytes, decode: Callable[[int, int, bytes], Layout]) -> None:
    splitter = Splitter(1 << 20)
    size = (13, 100, 1000, 65536)[data[0] % 4] if data else 1
    try:
        for at in range(1, len(data), size):
            splitter.feed(data[at : at + size])
            for message in splitter:
                decoded = decode(*message)
                body = decoded.body()
                assert decode(decoded.TYPE, decoded.schema, body).body() == body
    except ParseError:
        return


def dqlite_upgrade(data: bytes) -> None:
    """Requests and answers of HTTP; the first byte says in what pieces."""
    size = (1, 13, 1000, 65536)[data[0] % 4] if data else 1
    held = bytearray()
    try:
        for at in range(1, len(data), size):
            held += data[at : at + size]
            while (head := upgrade.take_head(held)) is not None:
                if head.first[0].startswith("HTTP/"):
                    status, reason = upgrade.refusal(head)
                    assert (status == 0) == (reason == "")
                else:
                    assert upgrade.judge(head, upgrade.LXD) in (101, 400, 404, 405, 426, 503)
    except ParseError:
        return


class _Nowhere(asyncio.Transport):
    """The other end of a client, which has said already all that it will ever say."""

    def __init__(self, protocol: asyncio.StreamReaderProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take what the client says."""

    def is_closing(self) -> bool:
        """Whether the client has gone."""
        return self._closed

    def abort(self) -> None:
        """Let the client go."""
        if not self._closed:
            self._closed = True
            self._protocol.connection_lost(None)


def dqlite_session(data: bytes) -> None:
    """A client's connection: the first byte says what it asks, the rest is what comes, and then the end."""
    asyncio.run(_converse(data))


async def _converse(data: bytes) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = _Nowhere(protocol)
    protocol.connection_made(transport)
    reader.feed_data(data[1:])
    reader.feed_eof()
    peer = Peer("127.0.0.1:1", (reader, asyncio.StreamWriter(transport, protocol, reader, loop)))
    deadline = time.monotonic() + 60
    try:
        if data[:1] > b"\x7f":
            await peer.leader()
        session = await Session.open(peer, "test.db", deadline)
        for turn in range(8):
            await _ask(session, (data[0] + turn) % 5, deadline)
    except (DqliteError, Refused):
        return
    except ValueError as exc:
        if "parameters for a statement" not in str(exc):  # the node tells how many there are
            raise
    except OSError:
        assert not peer.usable
    finally:
        await peer.close()
        assert not peer.usable


async def _ask(session: Session, what: int, deadline: float) -> None:
    if what == 0:
        await session.execute("insert into t values(?)", (1,), deadline)
    elif what == 1:
        await session.execute(Statement("insert into t values(1)"), (), deadline)
    elif what == 2:
        await session.query("select ?", tuple(range(256)), deadline)
    else:
        part = await session.query(Statement("select 1") if what == 3 else "select 1", (), deadline)
        for _ in range(3):
            if part.more:
                part = await session.next_rows(deadline)
        if part.more:
            await session.interrupt(deadline)


def dqlite_commands(data: bytes) -> None:
    """A log entry."""
    try:
        command = commands.decode(data)
    except ParseError:
        return
    assert commands.decode(command.encode()) == command


def dqlite_snapshots(data: bytes) -> None:
    """A snapshot."""
    try:
        for database in image.decode(data):
            for number, page, size in image.frames(database):
                assert number > 0
                assert size > 0
                assert len(page) == database.page_size
    except ParseError:
        return


def corpus() -> dict[str, list[bytes]]:
    """Return good inputs for every target."""
    values = (1, -2.5, "text", b"blob", None, True)
    asked: list[requests.Request] = [
        *(requests.Leader(), requests.Client(1), requests.Open("test.db"), requests.Prepare(0, "select 1", 1)),
        *(requests.Exec(0, 1, values), requests.Query(0, 1, values, 1), requests.ExecSql(0, "select ?", values)),
        *(requests.Connect(2, "127.0.0.1:9002"), requests.Add(3, "127.0.0.1:9003"), requests.Assign(3, 0)),
        *(requests.Dump("test.db"), requests.Cluster(), requests.Transfer(2), requests.Weight(1)),
    ]
    answered: list[responses.Response] = [
        *(responses.Failed(10250, "not leader"), responses.Server(1, "127.0.0.1:9001"), responses.Welcome()),
        responses.Servers((responses.Member(1, "a:1", 0), responses.Member(2, "b:2", 1))),
        responses.Servers((responses.Member(1, "a:1"), responses.Member(2, "b:2"))),
        *(responses.Db(), responses.Stmt(0, 0, 1, 9, 1), responses.Result(1, 1), responses.Empty()),
        *responses.parts(("a", "b", "c", "d", "e", "f"), [(*values[:2], "long" * 400, *values[3:])] * 4),
        *(responses.Files((("x", bytes(64)), ("x-wal", b""))), responses.Metadata(0, 0)),
    ]
    entries = [
        commands.Open("test.db").encode(),
        commands.Frames("test.db", 512, (1, 2), memoryview(bytes(1024))).encode(),
        commands.Undo(1).encode(),
        commands.Checkpoint("test.db").encode(),
    ]
    return {
        "dqlite_requests": [bytes([i]) + b"".join([one.encode() for one in asked[i:] + asked[:i]]) for i in range(8)],
        "dqlite_responses": [
            bytes([i]) + b"".join([one.encode() for one in answered[i:] + answered[:i]]) for i in range(8)
        ],
        "dqlite_session": [
            bytes([what]) + b"".join([one.encode() for one in _conversation(what)]) for what in range(5)
        ],
        "dqlite_upgrade": [
            bytes([i]) + (upgrade.request(upgrade.LXD, "a:1") + b"HTTP/1.1 101 x\r\nUpgrade: dqlite\r\n\r\n") * 2
            for i in range(4)
        ],
        "dqlite_commands": entries,
        "dqlite_snapshots": [_snapshot(1), _snapshot(3)],
    }


def _conversation(what: int) -> list[responses.Response]:
    """Return the answers that a client is content with that asks from question `what` on."""
    stmt, modern = responses.Stmt(0, 1, 0), responses.Stmt(0, 2, 0, 8, 1)
    rows = [responses.Rows(("a",), ((n, "text", None, b"b")[:1],), n < 4) for n in range(5)]
    answers: list[list[responses.Response]] = [
        [responses.Result(1, 1)],
        [stmt, responses.Result(1, 1)],
        [modern, responses.Empty(), responses.Rows(("a",), ((1,),))],
        [stmt, *rows[3:]],
        [*rows[:4], responses.Empty()],
    ]
    turns = [one for turn in range(5) for one in answers[(what + turn) % 5]]
    return [responses.Welcome(), responses.Db(), *turns]


def _snapshot(n: int) -> bytes:
    """Return a snapshot of small databases, each with a write-ahead log."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        connection = sqlite3.connect(path, isolation_level=None)
        for statement in ("pragma page_size=512", "pragma journal_mode=wal", "create table t(a)"):
            connection.execute(statement)
        main, wal = path.read_bytes(), Path(folder, "x-wal").read_bytes()
        connection.close()
    size = struct.unpack_from(">I", main, 28)[0] * 512
    one = words.u64(size) + words.u64(len(wal)) + main[:size] + wal
    return image.header(n) + b"".join([words.text(f"{at}.db") + one for at in range(n)])

"""Targets of `hostile` that speak dqlite: requests, answers, log entries and snapshots that nobody should send.

Duty: each function takes bytes and raises when something is wrong; `corpus` has good inputs for them.

These must hold: nothing but ParseError is raised, and what was accepted can be encoded again and is the same then.
"""

import sqlite3
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from io_uv.dqlite import commands, image, requests, responses, words
from io_uv.dqlite.messages import Layout, Splitter
from io_uv.dqlite.words import ParseError


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
        "dqlite_commands": entries,
        "dqlite_snapshots": [_snapshot(1), _snapshot(3)],
    }


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

"""The core's expectations of a RaftIo, asked of both implementations: the simulated one and io_uv.

Each test runs on the fixture's table, in virtual time, and on files and sockets.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyraft import configuration as configuration_
from pyraft import errors, fixture_io
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_COMMAND,
    RAFT_IO_REQUEST_VOTE,
    RaftEntry,
    RaftIo,
    RaftIoAppend,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftRequestVote,
)
from tests.lib.ports import free_port
from tests.lib.uvtest import Outcome, UvIo, configuration, run_until, snapshot


class FixtureBackend:
    """Two simulated servers; the second one only receives."""

    def __init__(self, dir: Path) -> None:
        self.timeline = fixture_io.Timeline()
        self.servers = [self._make(0), self._make(1)]
        self.io = self.servers[0].io
        self.address = "2"
        self.received: list[RaftMessage] = []

    def _make(self, index: int) -> fixture_io.RaftFixtureServer:
        server = fixture_io.RaftFixtureServer(index + 1)
        server.impl = fixture_io.init(server.io, index, self.timeline)
        assert server.io.init(server.io, server.id, server.address) == 0
        return server

    def start_peer(self) -> None:
        peer = self.servers[1]
        fixture_io.connect(self.servers[0].impl, peer.impl)
        peer.io.start(peer.io, 1000, lambda io: None, lambda io, message: self.received.append(message))

    def run_until(self, done: Callable[[], object]) -> None:
        for _ in range(1000):
            if done():
                return
            fixture_io.fire_next(self.timeline, self.servers)
        raise AssertionError("does not happen")

    def restart(self) -> RaftIo:
        return self.io

    def close(self) -> None:
        closed = Outcome()
        self.io.close(self.io, closed)
        assert closed.calls == [(self.io,)]


class UvBackend:
    """A server on disk and network, and a peer that only receives."""

    def __init__(self, dir: Path) -> None:
        (dir / "1").mkdir()
        (dir / "2").mkdir()
        self.t = UvIo(dir / "1").start()
        self.io = self.t.io
        self.peer: UvIo | None = None
        self.dir = dir
        self.address = ""
        self.received: list[RaftMessage] = []

    def start_peer(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        peer = self.peer = UvIo(self.dir / "2", self.address, 2, self.t.loop)
        peer.start()
        assert peer.io.start(peer.io, 1000, lambda io: None, lambda io, message: self.received.append(message)) == 0

    def run_until(self, done: Callable[[], object]) -> None:
        run_until(self.t.loop, done)

    def restart(self) -> RaftIo:
        self.t = self.t.reopen()
        self.io = self.t.io
        return self.io

    def close(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.t.close()


Backend = FixtureBackend | UvBackend


@pytest.fixture(params=[FixtureBackend, UvBackend], ids=["fixture", "uv"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    backend: Backend = request.param(tmp_path)
    yield backend
    backend.close()


def wait(backend: Backend, *outcomes: Outcome) -> None:
    backend.run_until(lambda: all(outcome.calls for outcome in outcomes))


def append(backend: Backend, *payloads: bytes, term: int = 1) -> Outcome:
    io, outcome = backend.io, Outcome()
    entries = [RaftEntry(term, RAFT_COMMAND, payload) for payload in payloads]
    assert io.append(io, RaftIoAppend(), entries, len(entries), outcome) == 0
    assert outcome.calls == [], "no callback comes before append returns"
    return outcome


def payloads(loaded: tuple[Any, ...]) -> list[bytes]:
    return [entry.buf for entry in loaded[5]]


def test_pristine(backend: Backend) -> None:
    """A new server has no term, no vote, no snapshot and no entries; the first index is 1."""
    rv, term, voted_for, found, start_index, entries = backend.io.load(backend.io)
    assert (rv, term, voted_for, found, start_index, len(entries)) == (0, 0, 0, None, 1, 0)


def test_term_and_vote(backend: Backend) -> None:
    """Term and vote are stored on return; a new term has no vote."""
    io = backend.io
    assert io.set_term(io, 3) == 0
    assert io.set_vote(io, 2) == 0
    io = backend.restart()
    assert io.load(io)[:3] == (0, 3, 2)
    assert io.set_term(io, 4) == 0
    io = backend.restart()
    assert io.load(io)[:3] == (0, 4, 0)


def test_bootstrap(backend: Backend) -> None:
    """Bootstrapping gives term 1 and one entry with the configuration, and works once."""
    io = backend.io
    assert io.bootstrap(io, configuration()) == 0
    assert io.bootstrap(io, configuration()) == errors.RAFT_CANTBOOTSTRAP
    io = backend.restart()
    rv, term, _, _, start_index, entries = io.load(io)
    assert (rv, term, start_index) == (0, 1, 1)
    assert [(entry.term, entry.type) for entry in entries] == [(1, RAFT_CHANGE)]
    assert entries[0].buf == configuration_.encode(configuration())


def test_append(backend: Backend) -> None:
    """Appends are called back in order with their requests, and are there after a restart."""
    order: list[str] = []
    io = backend.io
    for name in ("a", "b", "c"):
        entry = RaftEntry(1, RAFT_COMMAND, name.encode() * 8)
        req = RaftIoAppend()
        req.data = name
        assert io.append(io, req, [entry], 1, lambda req, status: order.append(f"{req.data} {status}")) == 0
    assert order == []
    backend.run_until(lambda: len(order) == 3)
    assert order == ["a 0", "b 0", "c 0"]
    io = backend.restart()
    assert payloads(io.load(io)) == [b"a" * 8, b"b" * 8, b"c" * 8]


def test_order_of_completions(backend: Backend) -> None:
    """Appends complete in the order of submission, and a put after those before it, though the disk becomes faster."""
    io = backend.io
    order: list[str] = []
    for name, latency in (("a", 100), ("b", 10), ("put", 0), ("c", 5)):
        if isinstance(backend, FixtureBackend):
            backend.servers[0].impl.disk_latency = latency
        done = functools.partial(note, order, name)
        if name == "put":
            rv = io.snapshot_put(io, 5, RaftIoSnapshotPut(), snapshot(1, 1, b"content!"), done)
        else:
            rv = io.append(io, RaftIoAppend(), [RaftEntry(1, RAFT_COMMAND, name.encode() * 8)], 1, done)
        assert rv == 0
    backend.run_until(lambda: len(order) == 4)
    assert [name for name in order if name != "put"] == ["a", "b", "c"]
    assert order.index("put") > order.index("b")


def note(order: list[str], name: str, req: object, status: int) -> None:
    """A callback that notes its name, if all went well."""
    assert status == 0
    order.append(name)


def test_truncate(backend: Backend) -> None:
    """Truncating and appending take effect in the order in which they were asked for."""
    first = append(backend, b"a" * 8, b"b" * 8, b"c" * 8)
    assert backend.io.truncate(backend.io, 2) == 0
    second = append(backend, b"d" * 8, term=2)
    wait(backend, first, second)
    assert first.statuses == second.statuses == [0]
    io = backend.restart()
    loaded = io.load(io)
    assert payloads(loaded) == [b"a" * 8, b"d" * 8]
    assert [entry.term for entry in loaded[5]] == [1, 2]


def test_own_snapshot(backend: Backend) -> None:
    """A snapshot that keeps trailing entries leaves those behind it alone, and get returns it."""
    io, outcome = backend.io, Outcome()
    wait(backend, append(backend, *(bytes([i]) * 8 for i in range(5))))
    assert io.snapshot_put(io, 2, RaftIoSnapshotPut(), snapshot(3, 1, b"content!"), outcome) == 0
    assert outcome.calls == []
    wait(backend, outcome, append(backend, b"z" * 8))
    assert outcome.statuses == [0]
    got = Outcome()
    assert io.snapshot_get(io, RaftIoSnapshotGet(), got) == 0
    assert got.calls == []
    wait(backend, got)
    _, found, status = got.calls[0]
    assert (status, found.index, found.term, found.configuration_index) == (0, 3, 1, 1)
    assert b"".join(bytes(buf) for buf in found.bufs) == b"content!"
    io = backend.restart()
    loaded = io.load(io)
    assert loaded[3].index == 3
    assert payloads(loaded)[-3:] == [b"\x03" * 8, b"\x04" * 8, b"z" * 8]
    assert loaded[4] + len(loaded[5]) == 7


def test_install(backend: Backend) -> None:
    """A snapshot with trailing 0 replaces the log; the next append follows it."""
    io, outcome = backend.io, Outcome()
    wait(backend, append(backend, b"a" * 8, b"b" * 8))
    assert io.snapshot_put(io, 0, RaftIoSnapshotPut(), snapshot(10, 4, b"content!"), outcome) == 0
    wait(backend, outcome)
    assert outcome.statuses == [0]
    wait(backend, append(backend, b"c" * 8, term=4))
    io = backend.restart()
    rv, _, _, found, start_index, entries = io.load(io)
    assert (rv, found.index, found.term, start_index) == (0, 10, 4, 11)
    assert [entry.buf for entry in entries] == [b"c" * 8]


def test_get_without_a_snapshot(backend: Backend) -> None:
    """There is no snapshot to get from a new server."""
    outcome = Outcome()
    assert backend.io.snapshot_get(backend.io, RaftIoSnapshotGet(), outcome) == 0
    wait(backend, outcome)
    assert outcome.calls[0][1:] == (None, errors.RAFT_NOTFOUND)


@pytest.mark.parametrize("status", [0, 5])
def test_async_work(backend: Backend, status: int) -> None:
    """Work hands its return value to the callback."""
    req, outcome = RaftIoAsyncWork(), Outcome()
    req.work = lambda req: status
    assert backend.io.async_work(backend.io, req, outcome) == 0
    assert outcome.calls == []
    wait(backend, outcome)
    assert outcome.calls == [(req, status)]


def test_ticks_and_time(backend: Backend) -> None:
    """Ticks come every so many milliseconds, the first after that time; the clock moves with them."""
    io = backend.io
    times: list[int] = []
    before = io.time(io)
    assert io.start(io, 30, lambda io: times.append(io.time(io)), lambda io, message: None) == 0
    backend.run_until(lambda: len(times) >= 3)
    assert times[0] - before >= 29
    assert all(b - a >= 29 for a, b in itertools.pairwise(times))


def test_random(backend: Backend) -> None:
    """A random number lies within its bounds."""
    assert all(1000 <= backend.io.random(backend.io, 1000, 2000) <= 2000 for _ in range(100))


def test_send(backend: Backend) -> None:
    """A message reaches the peer with the sender's id and address, and its callback gets 0."""
    backend.start_peer()
    io, outcome = backend.io, Outcome()
    message = RaftMessage()
    message.type = RAFT_IO_REQUEST_VOTE
    message.server_id, message.server_address = 2, backend.address
    vote = message.request_vote = RaftRequestVote()
    vote.term, vote.candidate_id, vote.last_log_index, vote.last_log_term, vote.pre_vote = 3, 1, 7, 2, True
    req = RaftIoSend()
    assert io.send(io, req, message, outcome) == 0
    assert outcome.calls == []
    backend.run_until(lambda: backend.received and outcome.calls)
    assert outcome.calls == [(req, 0)]
    (got,) = backend.received
    assert (got.type, got.server_id) == (RAFT_IO_REQUEST_VOTE, 1)
    assert got.request_vote is not None
    assert (got.request_vote.term, got.request_vote.last_log_index, got.request_vote.pre_vote) == (3, 7, True)


def test_everything_pending_ends_with_close(tmp_path: Path) -> None:
    """io.close of io_uv ends all that is pending, each exactly once, and then calls back once."""
    backend = UvBackend(tmp_path)
    io = backend.io
    ended: list[str] = []
    for _ in range(3):
        io.append(io, RaftIoAppend(), [RaftEntry(1, RAFT_COMMAND, bytes(8))], 1, lambda *_: ended.append("append"))
    io.truncate(io, 2)
    io.snapshot_put(io, 5, RaftIoSnapshotPut(), snapshot(1), lambda *_: ended.append("put"))
    io.snapshot_get(io, RaftIoSnapshotGet(), lambda *_: ended.append("get"))
    work = RaftIoAsyncWork()
    work.work = lambda req: 0
    io.async_work(io, work, lambda *_: ended.append("work"))
    backend.t.closed = True
    io.close(io, lambda io: ended.append("close"))
    backend.run_until(lambda: "close" in ended)
    assert sorted(ended) == ["append", "append", "append", "close", "get", "put", "work"]
    assert ended[-1] == "close"
    backend.close()

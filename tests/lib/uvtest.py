"""Running io_uv in tests: loops with a deadline, and a RaftIo on a temporary directory.

`run_until` turns a loop until a condition holds, and fails when that takes too long: no test sleeps. `UvIo` is a RaftIo
set up as the C library's tests do it: blocks of 4096 bytes, segments of 4 blocks, automatic recovery off.
"""

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from io_uv import (
    raft_uv_close,
    raft_uv_init,
    raft_uv_set_auto_recovery,
    raft_uv_set_block_size,
    raft_uv_set_segment_size,
    raft_uv_tcp_close,
    raft_uv_tcp_init,
)
from io_uv.pyuv import UV_RUN_ONCE, Loop, Timer
from io_uv.transport import RaftUvTransport
from pyraft.types import (
    RAFT_COMMAND,
    RAFT_VOTER,
    RaftConfiguration,
    RaftEntry,
    RaftIo,
    RaftIoAppend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftServer,
    RaftSnapshot,
)

DEADLINE_SECONDS = 120.0

BLOCK_SIZE = 4096
SEGMENT_SIZE = 4 * BLOCK_SIZE


def run_until(loop: Loop, done: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Turn the loop until `done()` is true; AssertionError if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    timer = Timer(loop)
    # The condition may come about without an event that would end the loop's wait.
    timer.start(lambda _: None, 0.02, 0.02)
    try:
        while not done():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            loop.run(UV_RUN_ONCE)
    finally:
        timer.close()


class Outcome:
    """Records the calls of a callback: `statuses` holds the status of each, `calls` all arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)

    @property
    def statuses(self) -> list[int]:
        """The last argument of each call."""
        return [call[-1] for call in self.calls]


def entry(size: int, term: int = 1, fill: int = 0) -> RaftEntry:
    """Return an entry whose payload starts with `fill` as a word and has `size` bytes."""
    return RaftEntry(term, RAFT_COMMAND, fill.to_bytes(8, "little").ljust(size, b"\0")[:size])


class UvIo:
    """A RaftIo of io_uv on a directory, with a TCP transport that only listens when io.start is called."""

    def __init__(self, dir: Path, address: str = "127.0.0.1:0", id: int = 1, loop: Loop | None = None) -> None:
        self.dir = dir
        self.id = id
        self.address = address
        self.loop = loop or Loop()
        self._own_loop = loop is None
        self.transport = RaftUvTransport()
        assert raft_uv_tcp_init(self.transport, self.loop) == 0
        self.io = RaftIo()
        assert raft_uv_init(self.io, self.loop, os.fspath(dir), self.transport) == 0
        raft_uv_set_auto_recovery(self.io, False)
        self.fill = itertools.count(1)
        self.closed = False
        self.reported: list[BaseException] = []
        self.loop.excepthook = self._excepthook

    def _excepthook(self, typ: Any, value: BaseException, tb: Any) -> None:
        self.reported.append(value)

    @property
    def uv(self) -> Any:
        """The instance's state."""
        return self.io.impl

    def init(self) -> int:
        """Call io.init, then choose the sizes of the C tests."""
        rv: int = self.io.init(self.io, self.id, self.address)
        raft_uv_set_block_size(self.io, BLOCK_SIZE)
        raft_uv_set_segment_size(self.io, SEGMENT_SIZE)
        return rv

    def start(self) -> "UvIo":
        """Init and load an instance that must be fine, and return it."""
        assert self.init() == 0, self.io.errmsg
        self.loaded = self.io.load(self.io)
        assert self.loaded[0] == 0, self.io.errmsg
        return self

    def submit(self, n: int = 1, size: int = 64, term: int = 1) -> Outcome:
        """Append `n` entries of `size` bytes; each payload starts with the next number. Do not wait."""
        outcome = Outcome()
        entries = [entry(size, term, next(self.fill)) for _ in range(n)]
        rv = self.io.append(self.io, RaftIoAppend(), entries, n, outcome)
        assert rv == 0, self.io.errmsg
        assert outcome.calls == []
        return outcome

    def wait(self, *outcomes: Outcome) -> None:
        """Turn the loop until each of these callbacks has fired."""
        run_until(self.loop, lambda: all(outcome.calls for outcome in outcomes))

    def append(self, n: int = 1, size: int = 64, term: int = 1) -> None:
        """Append entries and wait until they are durable."""
        outcome = self.submit(n, size, term)
        self.wait(outcome)
        assert outcome.statuses == [0], self.io.errmsg

    def truncate(self, index: int) -> None:
        """Truncate; do not wait."""
        assert self.io.truncate(self.io, index) == 0, self.io.errmsg

    def put(self, index: int, term: int = 1, trailing: int = 128, data: bytes = bytes(8)) -> Outcome:
        """Put a snapshot; do not wait."""
        outcome = Outcome()
        rv = self.io.snapshot_put(self.io, trailing, RaftIoSnapshotPut(), snapshot(index, term, data), outcome)
        assert rv == 0, self.io.errmsg
        return outcome

    def get(self) -> tuple[RaftSnapshot | None, int]:
        """Get the newest snapshot: (snapshot, status)."""
        outcome = Outcome()
        assert self.io.snapshot_get(self.io, RaftIoSnapshotGet(), outcome) == 0
        self.wait(outcome)
        _, found, status = outcome.calls[0]
        return found, status

    def names(self) -> list[str]:
        """Return the names of segments and snapshots in the directory."""
        return sorted(
            name for name in os.listdir(self.dir) if not name.startswith("metadata") and not name.endswith(".sum")
        )

    def wait_for(self, *names: str) -> None:
        """Turn the loop until the directory has all these files."""
        run_until(self.loop, lambda: set(names) <= set(os.listdir(self.dir)))

    def wait_until_gone(self, *names: str) -> None:
        """Turn the loop until the directory has none of these files."""
        run_until(self.loop, lambda: not set(names) & set(os.listdir(self.dir)))

    def begin_close(self) -> Outcome:
        """Call io.close; do not wait."""
        outcome = Outcome()
        self.closed = True
        self.io.close(self.io, outcome)
        return outcome

    def close(self) -> None:
        """Close and release everything, if not done yet, and check that the loop has nothing left to do."""
        if not self.closed:
            outcome = self.begin_close()
            self.wait(outcome)
        if self.io.impl is not None:
            run_until(self.loop, lambda: self.uv.closed)
            raft_uv_close(self.io)
            raft_uv_tcp_close(self.transport)
            if self._own_loop:
                self.loop.close()

    def reopen(self) -> "UvIo":
        """Close, and load the directory with a fresh instance."""
        self.close()
        return UvIo(self.dir, self.address, self.id).start()


def numbers(entries: Any) -> list[int]:
    """Return the numbers that UvIo.submit put in front of payloads."""
    return [int.from_bytes(e.buf[:8], "little") for e in entries]


def snapshot(index: int, term: int = 1, data: bytes = bytes(8)) -> RaftSnapshot:
    """Return a snapshot of one server."""
    found = RaftSnapshot()
    found.index = index
    found.term = term
    found.configuration = configuration()
    found.configuration_index = 1
    found.bufs = [data]
    return found


def configuration() -> RaftConfiguration:
    """Return a configuration of one voter."""
    conf = RaftConfiguration()
    conf.servers.append(RaftServer(1, "127.0.0.1:9001", RAFT_VOTER))
    return conf

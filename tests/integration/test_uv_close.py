"""io.start and io.close of io_uv: ticks, the close callback, and that nothing is left behind."""

import gc
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from io_uv.pyuv import Loop
from pyraft import errors, heap
from tests.lib.threads import foreign_threads, open_fds
from tests.lib.uvtest import Outcome, UvIo, run_until


def test_close_before_init(tmp_path: Path) -> None:
    """Without a successful io.init the close callback comes inside io.close."""
    t = UvIo(tmp_path)
    assert t.begin_close().calls == [(t.io,)]
    t.loop.close()


@pytest.mark.parametrize("steps", ["init", "load", "start", "append", "snapshot"])
def test_close_at_any_point(tmp_path: Path, steps: str) -> None:
    """After a successful io.init the callback comes once, from the loop, and the loop has nothing left to do."""
    t = UvIo(tmp_path)
    assert t.init() == 0
    if steps != "init":
        assert t.io.load(t.io)[0] == 0
    if steps in ("start", "append", "snapshot"):
        assert t.io.start(t.io, 10, lambda io: None, lambda io, message: None) == 0
    if steps in ("append", "snapshot"):
        t.append(3)
        t.submit(2)
    if steps == "snapshot":
        t.put(1)
    outcome = t.begin_close()
    assert outcome.calls == []
    t.wait(outcome)
    t.loop.run()
    assert outcome.calls == [(t.io,)]
    assert not t.loop.alive
    t.loop.close()


@pytest.mark.parametrize("chance", [False, True])
def test_all_memory_goes_back_to_the_heap(tmp_path: Path, chance: bool) -> None:
    """All memory that io_uv has taken from the program's heap goes back, once each, whatever was under way."""
    default, taken = heap.RaftHeap(), heap.RaftHeap()
    held: list[int] = []

    def aligned_alloc(data: object, alignment: int, size: int) -> heap.Memory | None:
        memory = default.aligned_alloc(default.data, alignment, size)
        held.append(id(memory))
        kept.append(memory)
        return memory

    def aligned_free(data: object, alignment: int, memory: heap.Memory) -> None:
        held.remove(id(memory))

    kept: list[Any] = []  # so that no two have one id
    taken.aligned_alloc, taken.aligned_free = aligned_alloc, aligned_free
    heap.raft_heap_set(taken)
    try:
        t = UvIo(tmp_path).start()
        for n in (1, 300, 3):
            t.append(n)
        if chance:
            t.submit(2)
        t.close()
    finally:
        heap.raft_heap_set_default()
    assert kept
    assert held == []


def test_close_without_callback(tmp_path: Path) -> None:
    """The callback may be None."""
    t = UvIo(tmp_path).start()
    t.io.close(t.io, None)
    t.loop.run()
    assert t.uv.closed
    t.loop.close()


def test_close_callback_that_raises(tmp_path: Path) -> None:
    """An exception in the close callback goes to the excepthook."""
    t = UvIo(tmp_path).start()

    def bad(io: Any) -> None:
        raise RuntimeError("in close")

    t.io.close(t.io, bad)
    t.loop.run()
    assert [str(exc) for exc in t.reported] == ["in close"]
    t.loop.close()


def test_nothing_is_left(tmp_path: Path) -> None:
    """Many lives of a server leave no file descriptor, no thread of its own and no file."""
    loop = Loop()

    def live() -> None:
        t = UvIo(tmp_path, loop=loop).start()
        assert t.io.start(t.io, 10, lambda io: None, lambda io, message: None) == 0
        t.append(2)
        t.wait(t.put(2, trailing=1))
        t.append(1)
        t.wait_for("open-2", "open-3")
        t.close()

    live()
    gc.collect()
    fds, threads = open_fds(), foreign_threads()
    for _ in range(5):
        live()
    gc.collect()
    assert open_fds() == fds
    assert foreign_threads() == threads
    assert not [name for name in os.listdir(tmp_path) if name.startswith(("open-", "tmp-", ".probe"))]
    loop.close()


def test_ticks_stop_at_close(tmp_path: Path) -> None:
    """No tick comes after io.close, and a tick may close."""
    t = UvIo(tmp_path).start()
    ticks: list[int] = []
    closed = Outcome()

    def tick(io: Any) -> None:
        ticks.append(io.time(io))
        if len(ticks) == 3:
            t.closed = True
            io.close(io, closed)

    assert t.io.start(t.io, 5, tick, lambda io, message: None) == 0
    t.loop.run()
    assert len(ticks) == 3
    assert len(closed.calls) == 1
    t.loop.close()


def test_tick_that_raises(tmp_path: Path) -> None:
    """A tick that raises is reported, and the next one comes."""
    t = UvIo(tmp_path).start()
    ticks: list[int] = []

    def tick(io: Any) -> None:
        ticks.append(1)
        raise RuntimeError("tick")

    assert t.io.start(t.io, 5, tick, lambda io, message: None) == 0
    run_until(t.loop, lambda: len(ticks) >= 2)
    assert str(t.reported[0]) == "tick"
    t.close()


def test_start_on_an_address_in_use(tmp_path: Path) -> None:
    """When the transport cannot listen, io.start says so and starts no timer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        t = UvIo(tmp_path, f"127.0.0.1:{server.getsockname()[1]}").start()
        ticks: list[int] = []
        assert t.io.start(t.io, 1, lambda io: ticks.append(1), lambda io, message: None) == errors.RAFT_IOERR
        assert "address already in use" in t.io.errmsg
    t.close()
    assert ticks == []


def test_two_servers_on_one_loop(tmp_path: Path) -> None:
    """Several instances share a loop and do not mind each other's close."""
    loop = Loop()
    for name in "ab":
        (tmp_path / name).mkdir()
    a, b = UvIo(tmp_path / "a", loop=loop).start(), UvIo(tmp_path / "b", loop=loop).start()
    a.append(2)
    a.close()
    b.append(3)
    b.close()
    loop.close()

"""RaftIo.async_work of io_uv."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyraft import errors
from pyraft.types import RaftIoAsyncWork
from tests.lib.covers import covers
from tests.lib.uvtest import DEADLINE_SECONDS, Outcome, UvIo, run_until


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    yield t
    t.close()


def submit(t: UvIo, work: Any) -> tuple[RaftIoAsyncWork, Outcome]:
    req, outcome = RaftIoAsyncWork(), Outcome()
    req.work = work
    assert t.io.async_work(t.io, req, outcome) == 0
    assert outcome.calls == []
    return req, outcome


@pytest.mark.parametrize("status", [-1, 0, 1, 37])
@covers("UvAsyncWork/work")
def test_status(t: UvIo, status: int) -> None:
    """The value that the function returns in its thread reaches the callback on the loop."""
    threads: list[threading.Thread] = []

    def work(req: RaftIoAsyncWork) -> int:
        threads.append(threading.current_thread())
        return status

    req, outcome = submit(t, work)
    t.wait(outcome)
    assert outcome.calls == [(req, status)]
    assert threads[0] is not threading.current_thread()


def test_function_that_raises(t: UvIo) -> None:
    """An exception of the function ends as RAFT_IOERR with its text, not in a callback that never comes."""

    def work(req: RaftIoAsyncWork) -> int:
        raise RuntimeError("broken")

    _, outcome = submit(t, work)
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]
    assert t.io.errmsg == "async work: RuntimeError: broken"


def test_close_waits(t: UvIo) -> None:
    """io.close waits for work in threads; its callback comes first."""
    gate = threading.Event()
    order: list[str] = []
    req = RaftIoAsyncWork()
    req.work = lambda req: 0 if gate.wait(DEADLINE_SECONDS) else 1
    t.io.async_work(t.io, req, lambda req, status: order.append(f"work {status}"))
    t.closed = True
    t.io.close(t.io, lambda io: order.append("close"))
    assert t.io.async_work(t.io, RaftIoAsyncWork(), Outcome()) == errors.RAFT_CANCELED
    gate.set()
    run_until(t.loop, lambda: "close" in order)
    assert order == ["work 0", "close"]

"""The behaviour of io_uv without descriptors, threads or AIO events: it says so, and goes on as soon as there are
some."""

import errno
import resource
from pathlib import Path
from typing import Any

import pytest

from io_uv import kaio
from io_uv.pyuv import Timer
from io_uv.writer import THREAD
from pyraft import errors
from pyraft.types import RaftIoAppend, RaftIoAsyncWork
from tests.lib import faults
from tests.lib.threads import Starts
from tests.lib.uvtest import SEGMENT_SIZE, Outcome, UvIo, entry, numbers, run_until


def test_out_of_descriptors(tmp_path: Path) -> None:
    """Without file descriptors appends that need a new segment fail; with some again they succeed."""
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 10
    t.append()
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and not t.uv.aborting and t.uv.prepare_inflight is None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    statuses: list[int] = []
    texts: list[str] = []

    # All in one run of the loop: beginning a run needs descriptors itself.
    def begin(timer: Timer) -> None:
        timer.close()
        # Open descriptors stay. A limit above 0 would leave a number to whoever asks after a thread has closed
        # something.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        step()

    def step() -> None:
        t.io.append(t.io, RaftIoAppend(), [entry(12000, fill=len(statuses) + 2)], 1, done)

    def done(req: RaftIoAppend, status: int) -> None:
        statuses.append(status)
        texts.append(t.io.errmsg)
        if len(statuses) < 6:
            step()
            return
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        t.loop.stop()

    Timer(t.loop).start(begin, 0.0, 0.0)
    t.loop.run()
    assert statuses[0] == 0
    assert statuses[-1] == errors.RAFT_IOERR
    assert "too many open files" in texts[-1]
    run_until(t.loop, lambda: t.uv.finalize_failure is None and t.uv.prepare_failure is None)
    t.append()
    fresh = t.reopen()
    good = [i + 2 for i, status in enumerate(statuses) if status == 0]
    assert numbers(fresh.loaded[5]) == [1, *good, 2]
    fresh.close()


@pytest.mark.parametrize("name", ["raft-writer", "pyuv-worker"])
def test_out_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without threads appends, snapshots and work fail with RAFT_TOOMANY; with some again they succeed."""
    with monkeypatch.context() as patch:
        starts = Starts(patch, name)
        t = UvIo(tmp_path).start()
        t.uv.disk_retry_delay = 10
        t.uv.writer._mode = THREAD
        for _ in range(2):
            outcome = t.submit()
            t.wait(outcome)
            assert outcome.statuses == [errors.RAFT_TOOMANY]
            assert "start thread: resource temporarily unavailable" in t.io.errmsg
        put, work = t.put(1, trailing=10), Outcome()
        async_work = RaftIoAsyncWork()
        async_work.work = lambda req: 0
        assert t.io.async_work(t.io, async_work, work) == 0
        t.wait(put, work)
        expected = errors.RAFT_TOOMANY if name == "pyuv-worker" else 0
        assert put.statuses == work.statuses == [expected]
        starts.left = 100
        run_until(t.loop, lambda: t.uv.finalize_failure is None and t.uv.prepare_failure is None)
        t.append()
        fresh = t.reopen()
        assert numbers(fresh.loaded[5]) == [3]
        fresh.close()
        starts.end()


@pytest.mark.parametrize("healthy", [0, 1])
def test_closing_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: int) -> None:
    """io.close ends although no thread can be had, whether some work was done before or not."""
    with monkeypatch.context() as patch:
        starts = Starts(patch, "raft-writer", "pyuv-worker")
        starts.left = 100 * healthy
        t = UvIo(tmp_path).start()
        if healthy:
            t.append()
            run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and not t.uv.aborting)
            starts.end()
            starts.left = 0
            starts.pool._threads.clear()
        outcome = t.submit()
        t.close()
        assert len(outcome.calls) == 1
    fresh = UvIo(tmp_path).start()
    fresh.append()
    fresh.close()


def test_out_of_aio_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without AIO events the thread writes, from the first append on, and io_setup is not asked for again.

    C fails then, and so did this library: but plain writes need no events.
    """
    t = UvIo(tmp_path).start()
    asked: list[int] = []

    def refuse(n: int) -> Any:
        asked.append(n)
        raise faults.error(errno.EAGAIN)

    monkeypatch.setattr(kaio, "Context", refuse)
    for _ in range(4):
        t.append(1, SEGMENT_SIZE // 2)
    assert len(asked) <= 1
    told = [record.getMessage() for record in caplog.records if record.name == "io_uv"]
    expected = f"{tmp_path}: io_setup is refused here (EAGAIN): a thread makes the writes of entries"
    assert told == [expected] * len(asked)
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == [1, 2, 3, 4]
    fresh.close()

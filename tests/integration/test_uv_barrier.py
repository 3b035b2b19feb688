"""Barriers of io_uv, on which truncates and snapshots wait, and RaftIo.defer."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import append, fs
from io_uv.failure import Failure
from io_uv.pyuv import Timer
from pyraft import errors
from tests.lib.covers import covers
from tests.lib.faults import refuse_allocation
from tests.lib.uvtest import DEADLINE_SECONDS, SEGMENT_SIZE, UvIo, run_until


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    yield t
    t.close()
    assert t.reported == []


class Request:
    """A barrier request of a test: `ran` when it has its turn."""

    def __init__(self, t: UvIo, blocking: bool, release: bool = True, task: Callable[[], object] | None = None) -> None:
        self.t = t
        self.ran = False
        self.closing = False
        self._release = release
        self._task = task
        append.request_barrier(t.uv, append.Barrier(self.run, blocking, lambda next_index: next_index))

    def run(self) -> None:
        self.ran = True
        self.closing = self.t.uv.closing
        if self.closing:
            return
        if self._task is not None:
            self.t.loop.queue_work(self._task, lambda _: self.release())
        elif self._release:
            self.release()

    def release(self) -> None:
        append.release_barrier(self.t.uv)


@covers("append/barrierOpenSegments")
def test_barrier_waits_for_all_segments(t: UvIo) -> None:
    """A barrier on three full segments fires when all appends have fired and all three are closed."""
    outcomes = [t.submit(4, (SEGMENT_SIZE - 200) // 4 // 8 * 8) for _ in range(3)]
    seen: list[list[str]] = []
    request = Request(t, blocking=True, release=False)
    run_until(t.loop, lambda: request.ran)
    assert all(outcome.statuses == [0] for outcome in outcomes)
    seen.append([name for name in t.names() if "-" in name and not name.startswith("open")])
    assert seen == [[f"{first:016}-{first + 3:016}" for first in (1, 5, 9)]]
    request.release()


@covers("append/barrierOpenSegmentsExitEarly")
def test_barrier_gives_up_at_close(t: UvIo) -> None:
    """A barrier that has not had its turn is told by io.close, inside it."""
    for _ in range(3):
        t.submit(4, (SEGMENT_SIZE - 200) // 4 // 8 * 8)
    request = Request(t, blocking=True)
    assert not request.ran
    t.begin_close()
    assert request.closing


@covers("append/twoBarriersOpenSegments")
def test_two_barriers(t: UvIo) -> None:
    """Two barriers with appends in between both get their turn, in order."""
    t.submit(4, 4000)
    first = Request(t, blocking=True)
    t.submit(4, 4000)
    second = Request(t, blocking=True)
    run_until(t.loop, lambda: second.ran)
    assert first.ran


@covers("append/twoBarriersExitEarly")
def test_two_barriers_give_up_at_close(t: UvIo) -> None:
    """All barriers that wait are told by io.close."""
    t.submit(4, 4000)
    first = Request(t, blocking=True)
    t.submit(4, 4000)
    second = Request(t, blocking=True)
    t.begin_close()
    assert first.closing
    assert second.closing


@covers("append/blockingBarrierNoOpenSegments")
def test_barrier_with_nothing_to_wait_for(t: UvIo) -> None:
    """A barrier fires at once if no segment is in use; appends wait until it is released."""
    request = Request(t, blocking=True, release=False)
    assert request.ran
    outcome = t.submit()
    t.wait_for("open-1", "open-2")
    assert outcome.calls == []
    request.release()
    t.wait(outcome)


@covers("append/blockingBarrierSingleOpenSegment")
def test_barrier_closes_an_idle_segment(t: UvIo) -> None:
    """A barrier has the idle segment closed and then fires; appends come after it."""
    t.append()
    request = Request(t, blocking=True, release=False)
    outcome = t.submit()
    run_until(t.loop, lambda: request.ran)
    assert "0000000000000001-0000000000000001" in t.names()
    assert outcome.calls == []
    request.release()
    t.wait(outcome)


@pytest.mark.parametrize("blocking", [False, True])
@covers("append/nonBlockingBarrierLongBlockingTask", "append/blockingBarrierLongBlockingTask")
def test_long_task_behind_a_barrier(t: UvIo, blocking: bool) -> None:
    """While a barrier's owner is busy appends complete if it is non-blocking, and wait for it if it is blocking."""
    gate = threading.Event()
    t.append()
    request = Request(t, blocking=blocking, task=lambda: gate.wait(DEADLINE_SECONDS))
    outcome = t.submit()
    run_until(t.loop, lambda: request.ran)
    if blocking:
        t.loop.queue_work(gate.set)
        t.wait(outcome)
        assert gate.is_set()
    else:
        t.wait(outcome)
        assert not gate.is_set()
        gate.set()
    assert outcome.statuses == [0]


def test_blocking_request_upgrades_what_it_waits_behind(t: UvIo) -> None:
    """A blocking request behind a non-blocking one that is busy holds back writes from the moment it is made."""
    gate = threading.Event()
    t.append()
    first = Request(t, blocking=False, task=lambda: gate.wait(DEADLINE_SECONDS))
    run_until(t.loop, lambda: first.ran)
    t.append()
    second = Request(t, blocking=True)
    outcome = t.submit()
    t.wait_for("0000000000000002-0000000000000002")
    assert outcome.calls == []
    assert not second.ran
    gate.set()
    t.wait(outcome)
    assert second.ran


def test_request_with_an_idle_segment_behind_a_busy_one_is_not_lost(t: UvIo) -> None:
    """A request whose only segment is idle, made while an earlier request is busy, gets its turn (C loses it)."""
    gate = threading.Event()
    t.append()
    first = Request(t, blocking=False, task=lambda: gate.wait(DEADLINE_SECONDS))
    run_until(t.loop, lambda: first.ran)
    t.append()
    second = Request(t, blocking=True)
    gate.set()
    run_until(t.loop, lambda: second.ran)


def test_requests_run_one_at_a_time(t: UvIo) -> None:
    """A segment that is closed while a request is busy does not let the next request run beside it (C does)."""
    gate = threading.Event()
    t.append()
    first = Request(t, blocking=False, task=lambda: gate.wait(DEADLINE_SECONDS))
    second = Request(t, blocking=False)
    run_until(t.loop, lambda: first.ran)
    for _ in range(5):
        t.append(1, SEGMENT_SIZE // 2)
    t.wait_for("0000000000000002-0000000000000002")
    assert not second.ran
    gate.set()
    run_until(t.loop, lambda: second.ran)


def test_second_segment_of_a_blocking_barrier_waits_for_the_first(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a blocking barrier ahead, no segment is written before the one in front of it is closed (B28)."""
    gate = threading.Event()
    cut = fs.truncate_and_rename
    monkeypatch.setattr(fs, "truncate_and_rename", lambda *args: (gate.wait(DEADLINE_SECONDS), cut(*args))[1])
    t.append(1, 64)
    first = t.submit(1, SEGMENT_SIZE - 1024)
    second = t.submit(1, SEGMENT_SIZE - 1024)
    request = Request(t, blocking=True)
    t.wait(first)
    turned: list[bool] = []
    t.wait_for("open-3")
    t.loop.queue_work(lambda: None, lambda _: turned.append(True))
    run_until(t.loop, lambda: turned)
    assert second.calls == []
    gate.set()
    run_until(t.loop, lambda: request.ran)
    assert second.statuses == [0]


def test_what_waits_for_a_segment_that_cannot_be_closed_fails(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends that wait for a segment in front of theirs to be closed fail when that fails; the barrier waits on."""
    t.uv.disk_retry_delay = 20

    def refuse(*args: Any) -> None:
        raise Failure(errors.RAFT_IOERR, "rename: i/o error")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "truncate_and_rename", refuse)
        t.append(1, 64)
        first = t.submit(1, SEGMENT_SIZE - 1024)
        second = t.submit(1, SEGMENT_SIZE - 1024)
        request = Request(t, blocking=True)
        t.wait(first, second)
        assert second.statuses == [errors.RAFT_IOERR]
        assert not request.ran
    run_until(t.loop, lambda: request.ran)
    t.append()


# ---- coalescing ------------------------------------------------------------------------------------------------------


def test_defer_runs_once_at_the_end_of_the_turn(t: UvIo) -> None:
    """However often it is asked for in a turn, the function runs once, after what is due in the turn."""
    order: list[str] = []

    def fn() -> None:
        order.append("deferred")

    def now(timer: Any) -> None:
        for i in range(3):
            order.append(f"ask {i}")
            assert t.io.defer(t.io, [bytes(8)], 1, fn) == 0
        timer.close()

    for _ in range(2):
        Timer(t.loop).start(now, 0.0, 0.0)
    run_until(t.loop, lambda: "deferred" in order)
    assert order.count("deferred") == 1
    t.io.defer(t.io, [bytes(8)], 1, fn)
    run_until(t.loop, lambda: order.count("deferred") == 2)


def test_defer_reports_a_full_disk(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first append that a full disk makes fail is let through, so that a leader steps down; then defer says no."""
    refuse_allocation(monkeypatch, *range(2, 100))
    t.append(1, 64)
    run_until(t.loop, lambda: t.uv.prepare_failure)
    assert t.io.defer(t.io, [bytes(SEGMENT_SIZE)], 1, lambda: None) == 0
    outcome = t.submit(1, SEGMENT_SIZE)
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_NOSPACE]
    assert t.io.defer(t.io, [bytes(SEGMENT_SIZE)], 1, lambda: None) == errors.RAFT_NOSPACE
    assert "not enough space" in t.io.errmsg
    monkeypatch.undo()
    t.append(1, 64)
    assert t.io.defer(t.io, [bytes(SEGMENT_SIZE)], 1, lambda: None) == 0

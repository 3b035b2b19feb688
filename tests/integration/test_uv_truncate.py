"""RaftIo.truncate of io_uv: the end of the log is removed, and appends go on from there."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import fs, retry, segment
from io_uv.failure import Failure
from pyraft import errors
from tests.lib.covers import covers
from tests.lib.uvtest import DEADLINE_SECONDS, UvIo, numbers, run_until


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    yield t
    t.close()
    assert t.reported == []


def stored(t: UvIo) -> list[int]:
    """Close, and return the numbers of the entries that a new start finds, from index 1 on."""
    fresh = t.reopen()
    assert fresh.loaded[4] == 1
    fresh.close()
    return numbers(fresh.loaded[5])


@covers("truncate/wholeSegment")
def test_whole_segment(t: UvIo) -> None:
    """Truncating from the first entry leaves nothing of the log."""
    t.append(3)
    t.truncate(1)
    t.append()
    assert stored(t) == [4]


@covers("truncate/sameAsLastIndex")
def test_last_entry(t: UvIo) -> None:
    """Truncating from the last entry takes only that."""
    t.append(3)
    t.truncate(3)
    t.append()
    assert stored(t) == [1, 2, 4]


@covers("truncate/partialSegment")
def test_part_of_a_segment(t: UvIo) -> None:
    """A segment is cut in the middle."""
    t.append(2)
    t.append(2)
    t.truncate(2)
    t.append()
    assert stored(t) == [1, 5]


@covers("truncate/pendingAppend")
def test_pending_append(t: UvIo) -> None:
    """Entries that are not written yet are written first, with success, then removed."""
    pending = t.submit(3)
    t.truncate(2)
    t.append()
    assert pending.statuses == [0]
    assert stored(t) == [1, 4]


@covers("truncate/multiplePending")
def test_several_pending(t: UvIo) -> None:
    """Appends and truncates that wait together take effect in order."""
    outcomes = [t.submit(3)]
    t.truncate(2)
    outcomes.append(t.submit(2))
    t.truncate(3)
    outcomes.append(t.submit(1))
    t.wait(*outcomes)
    assert [outcome.statuses for outcome in outcomes] == [[0]] * 3
    assert stored(t) == [1, 4, 6]


@covers("truncate/closing")
def test_closing(t: UvIo) -> None:
    """io.close while a truncate waits: the append behind it is cancelled."""
    t.append(1)
    t.submit(1)
    t.truncate(1)
    last = t.submit(1)
    t.begin_close()
    assert last.statuses == [errors.RAFT_CANCELED]


@covers("truncate/closingMultiple")
def test_closing_with_several(t: UvIo) -> None:
    """io.close while several truncates wait: all appends behind them are cancelled."""
    t.append(2)
    t.submit(1)
    t.truncate(2)
    behind = [t.submit(1)]
    t.truncate(2)
    behind.append(t.submit(1))
    t.begin_close()
    assert [outcome.statuses for outcome in behind] == [[errors.RAFT_CANCELED]] * 2


def test_close_while_truncating(t: UvIo) -> None:
    """io.close waits for a truncate that a thread is busy with."""
    t.append(4)
    t.truncate(2)
    run_until(t.loop, lambda: t.uv.truncate_work)
    assert stored(t) == [1]


def test_several_segments(t: UvIo) -> None:
    """All segments behind the index go, and only those."""
    for _ in range(8):
        t.append(1, 4096)
    t.truncate(5)
    t.append()
    assert stored(t) == [1, 2, 3, 4, 9]


def test_index_that_is_not_there(t: UvIo) -> None:
    """Truncating behind the end does nothing (C: an assertion); index 0 is refused."""
    t.append(2)
    t.truncate(3)
    t.truncate(7)
    assert t.io.truncate(t.io, 0) == errors.RAFT_INVALID
    t.append()
    assert stored(t) == [1, 2, 3]


def test_failed_truncate_is_repeated(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a truncate fails appends fail with its status; when it succeeds they work again (B45)."""
    t.uv.disk_retry_delay = 20
    attempts: list[int] = []
    truncate_log = segment.truncate_log

    def failing(dir: str, infos: list[segment.SegmentInfo], index: int) -> None:
        attempts.append(index)
        if len(attempts) < 3:
            raise Failure(errors.RAFT_IOERR, "unlink: i/o error")
        truncate_log(dir, infos, index)

    monkeypatch.setattr(segment, "truncate_log", failing)
    t.append(4)
    t.truncate(2)
    waiting = t.submit()
    t.wait(waiting)
    assert waiting.statuses == [errors.RAFT_IOERR]
    assert t.io.errmsg == "truncate from 2: unlink: i/o error"
    meanwhile = t.submit()
    t.wait(meanwhile)
    assert meanwhile.statuses == [errors.RAFT_IOERR]
    assert t.io.defer(t.io, [bytes(8)], 1, lambda: None) == errors.RAFT_IOERR
    run_until(t.loop, lambda: retry.failing(t.uv) is None)
    t.append()
    assert attempts == [2, 2, 2]
    assert stored(t) == [1, 7]


def test_close_gives_up_a_failing_truncate(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """io.close does not wait for a truncate that fails all the time: the next start has the longer log."""
    t.append(4)
    with monkeypatch.context() as patch:

        def failing(*args: object) -> None:
            raise Failure(errors.RAFT_IOERR, "unlink: i/o error")

        patch.setattr(segment, "truncate_log", failing)
        t.truncate(2)
        run_until(t.loop, lambda: retry.failing(t.uv))
        t.close()
    assert stored(t) == [1, 2, 3, 4]


def test_attempt_that_fails_while_closing_is_no_success(
    t: UvIo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A last attempt that ends after io.close, in vain, does not log that all is well again."""
    t.uv.disk_retry_delay = 1
    gate, attempts = threading.Event(), []

    def failing(*args: object) -> None:
        attempts.append(args)
        if len(attempts) == 2:
            gate.wait(DEADLINE_SECONDS)
        raise Failure(errors.RAFT_IOERR, "unlink: i/o error")

    t.append(4)
    with monkeypatch.context() as patch:
        patch.setattr(segment, "truncate_log", failing)
        t.truncate(2)
        run_until(t.loop, lambda: len(attempts) == 2)
        closed = t.begin_close()
        gate.set()
        t.wait(closed)
    assert "trying again" in caplog.text
    assert "segments can be made" not in caplog.text


def test_every_failing_step_is_repeated(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file operation of a truncate fails, the repetition finishes the job."""
    t.uv.disk_retry_delay = 5
    kept: list[int] = []
    for step in range(8):
        for _ in range(3):
            t.append(2, 4096)
        kept = kept[: t.uv.append_next_index - 1]
        with monkeypatch.context() as patch:
            left = [step]

            def count(name: str, left: list[int] = left, patch: pytest.MonkeyPatch = patch) -> None:
                call = getattr(fs, name)

                def maybe(*args: object) -> object:
                    left[0] -= 1
                    if left[0] == -1:
                        raise OSError(5, "")
                    return call(*args)

                patch.setattr(fs, name, maybe)

            run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and t.uv.prepare_inflight is None)
            run_until(t.loop, lambda: not t.uv.finalize_busy)
            for name in ("unlink", "fsync", "write", "rename", "open"):
                count(name)
            t.truncate(t.uv.append_next_index - 3)
            run_until(t.loop, lambda: not t.uv.barriers)
    t.append(1, 64)
    fresh = t.reopen()
    found = numbers(fresh.loaded[5])
    assert found == [i for i in range(1, 49) if (i - 1) % 6 < 3] + [49]
    fresh.close()


def test_random_appends_and_truncates(t: UvIo) -> None:
    """A new start after any row of appends and truncates finds what should be there."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    model: list[int] = []
    next_number = 1
    for _ in range(60):
        if rng.random() < 0.75 or not model:
            n = rng.randrange(1, 5)
            outcome = t.submit(n, rng.choice((8, 64, 2048, 4096, 8192)))
            model += range(next_number, next_number + n)
            next_number += n
            if rng.random() < 0.5:
                t.wait(outcome)
        else:
            index = rng.randrange(1, len(model) + 1)
            t.truncate(index)
            del model[index - 1 :]
    t.append()
    model.append(next_number)
    assert stored(t) == model


def test_one_attempt_at_a_time(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repetition that takes longer than the retry delay is not joined by another one."""
    t.uv.disk_retry_delay = 1
    gate, running, attempts = threading.Event(), threading.Lock(), []
    truncate_log = segment.truncate_log

    def slow(dir: str, infos: list[segment.SegmentInfo], index: int) -> None:
        assert running.acquire(blocking=False)
        attempts.append(index)
        try:
            if len(attempts) == 1:
                raise Failure(errors.RAFT_IOERR, "unlink: i/o error")
            gate.wait(DEADLINE_SECONDS)
            truncate_log(dir, infos, index)
        finally:
            running.release()

    monkeypatch.setattr(segment, "truncate_log", slow)
    t.append(4)
    t.truncate(2)
    run_until(t.loop, lambda: len(attempts) == 2)
    for _ in range(3):
        t.uv.retry_timer.stop()
        retry._expired(t.uv)
    gate.set()
    run_until(t.loop, lambda: not t.uv.barriers)
    assert len(attempts) == 2
    t.append()
    assert stored(t) == [1, 5]

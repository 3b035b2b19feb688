"""RaftIo.append of io_uv: the bytes that reach the disk, when, and in which files."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs
from io_uv.failure import Failure
from io_uv.pyuv import Timer
from io_uv.refusal import FALLOCATE, REFUSED
from pyraft import errors
from pyraft.types import RaftBuffer, RaftIoAppend
from tests.lib.covers import covers
from tests.lib.faults import refuse_allocation
from tests.lib.uvtest import BLOCK_SIZE, DEADLINE_SECONDS, SEGMENT_SIZE, Outcome, UvIo, entry, numbers, run_until


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    yield t
    t.close()
    assert t.reported == []


def stored(t: UvIo) -> list[int]:
    """Close, and return the numbers of the entries that a new start finds."""
    fresh = t.reopen()
    found = numbers(fresh.loaded[5])
    assert fresh.loaded[4] == 1
    fresh.close()
    return found


@pytest.mark.parametrize("size", [9, 63])
@covers("append/unaligned")
def test_unaligned(t: UvIo, size: int) -> None:
    """A payload whose length is not a multiple of 8 is refused at once, with C's text."""
    outcome = Outcome()
    assert t.io.append(t.io, RaftIoAppend(), [entry(64), entry(size)], 2, outcome) == errors.RAFT_INVALID
    assert t.io.errmsg == "entry buffers must be 8-byte aligned"
    assert t.io.defer(t.io, [bytes(64), bytes(size)], 2, lambda: None) == errors.RAFT_INVALID
    assert t.io.errmsg == "entry buffers must be 8-byte aligned"
    assert outcome.calls == []


def test_arguments(t: UvIo) -> None:
    """No entries, fewer than n, and payloads that are not buffers are refused."""
    for entries, n in [([], 0), ([entry(8)], 2), ([entry(8)], -1)]:
        assert t.io.append(t.io, RaftIoAppend(), entries, n, Outcome()) == errors.RAFT_INVALID
    bad = entry(8)
    for buf in (3, RaftBuffer(bytes(8), 16)):
        bad.buf = buf
        assert t.io.append(t.io, RaftIoAppend(), [bad], 1, Outcome()) == errors.RAFT_INVALID


@covers("append/first")
def test_first(t: UvIo) -> None:
    """One entry of 64 bytes is there after a new start."""
    t.append(1, 64)
    assert stored(t) == [1]


def test_callback_gets_its_request(t: UvIo) -> None:
    """The callback's first argument is the request, whose cb it is."""
    req, outcome = RaftIoAppend(), Outcome()
    t.io.append(t.io, req, [entry(8)], 1, outcome)
    t.wait(outcome)
    assert outcome.calls == [(req, 0)]
    assert req.cb is outcome


def test_only_the_first_n(t: UvIo) -> None:
    """The first n entries of a longer sequence are stored."""
    outcome = Outcome()
    t.io.append(t.io, RaftIoAppend(), [entry(8, fill=i) for i in range(5)], 2, outcome)
    t.wait(outcome)
    assert stored(t) == [0, 1]


@covers("append/prepareSegments")
def test_segments_in_reserve(t: UvIo) -> None:
    """With the first append one segment comes into use and two are prepared."""
    t.append(1, 64)
    t.wait_for("open-1", "open-2", "open-3")
    paths = [t.dir / f"open-{i}" for i in (1, 2, 3)]
    run_until(t.loop, lambda: [path.stat().st_size for path in paths] == [SEGMENT_SIZE] * 3)


def test_nothing_is_prepared_before_the_first_append(t: UvIo) -> None:
    """A server that stores nothing makes no segments."""
    assert t.names() == []


@covers("append/finalizeSegment")
def test_full_segment_is_closed(t: UvIo) -> None:
    """When a segment is full it is closed under the indexes that it holds, and another is prepared."""
    n = 0
    while n * (32 + BLOCK_SIZE) < SEGMENT_SIZE:
        t.append(1, BLOCK_SIZE)
        n += 1
    t.append(1, 64)
    t.wait_for("0000000000000001-0000000000000003", "open-4")
    t.wait_until_gone("open-1")


@covers("append/firstBig")
def test_first_batch_larger_than_a_segment(t: UvIo) -> None:
    """A batch is never split: it makes its segment grow."""
    t.append(4, SEGMENT_SIZE)
    assert stored(t) == [1, 2, 3, 4]


@covers("append/secondBig")
def test_second_batch_larger_than_a_segment(t: UvIo) -> None:
    """A large batch behind a small one gets a segment of its own."""
    t.append(1, 64)
    t.append(4, SEGMENT_SIZE)
    assert stored(t) == [1, 2, 3, 4, 5]


@covers("append/severalBig")
def test_several_large_batches(t: UvIo) -> None:
    """Large batches that are queued together all get there."""
    t.wait(*[t.submit(2, SEGMENT_SIZE) for _ in range(3)])
    assert stored(t) == [1, 2, 3, 4, 5, 6]


@covers("append/fitBlock")
def test_two_in_one_block(t: UvIo) -> None:
    """Two small appends share a block, which is written twice."""
    t.append(1, 64)
    t.append(1, 64)
    assert stored(t) == [1, 2]


@covers("append/matchBlock")
def test_exactly_one_block(t: UvIo) -> None:
    """An append that fills a block exactly is followed by one in the next block."""
    t.append(1, BLOCK_SIZE - 8 - 32)
    assert t.uv.append_segments[0].written // BLOCK_SIZE == 1
    t.append(1, 64)
    assert t.uv.append_segments[0].written // BLOCK_SIZE == 1
    assert stored(t) == [1, 2]


@covers("append/exceedBlock")
def test_across_blocks(t: UvIo) -> None:
    """Appends cross the borders of blocks in all ways."""
    t.append(1, BLOCK_SIZE - 16)
    t.append(1, 64)
    t.append(1, BLOCK_SIZE)
    t.append(2, 64)
    assert stored(t) == [1, 2, 3, 4, 5]


@covers("append/batch", "append/wait")
def test_appends_during_a_write_are_combined(t: UvIo) -> None:
    """Entries appended while a write is in flight are written together afterwards, and called back in order."""
    writes: list[int] = []
    t.append(1, 64)
    submit = t.uv.writer.submit

    def counted(fd: int, arena: Any, length: int, offset: int, cb: Any) -> None:
        writes.append(length)
        submit(fd, arena, length, offset, cb)

    t.uv.writer = Spy(t.uv.writer, counted)
    order: list[int] = []
    first = t.submit(1, 64)
    for i in range(3):
        t.io.append(t.io, RaftIoAppend(), [entry(64, fill=10 + i)], 1, partial(record, order, i))
    assert len(writes) == 1
    run_until(t.loop, lambda: len(order) == 3)
    assert first.statuses == [0]
    assert order == [0, 1, 2]
    assert len(writes) == 2
    assert stored(t) == [1, 2, 10, 11, 12]


@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("may_wait", [False, True])
def test_a_write_that_may_wait_starts_at_the_end_of_the_turn(t: UvIo, may_wait: bool, turning: bool) -> None:
    """It does behind all that the turn has to do, whoever appends; any other starts inside the call."""
    t.append(1, 64)
    order: list[str] = []
    submit = t.uv.writer.submit

    def noted(*args: Any) -> None:
        order.append("write")
        submit(*args)

    t.uv.writer = Spy(t.uv.writer, noted)
    req, outcome = RaftIoAppend(), Outcome()
    req.may_wait = may_wait

    def append() -> None:
        assert t.io.append(t.io, req, [entry(64, fill=2)], 1, outcome) == 0
        order.append("appended")
        t.uv.end_of_turn.add(partial(order.append, "messages"))

    if turning:
        t.uv.end_of_turn.add(append)
    else:
        append()
    t.wait(outcome)
    assert order == (["appended", "messages", "write"] if may_wait else ["write", "appended", "messages"])
    assert stored(t) == [1, 2]


def record(order: list[int], i: int, req: RaftIoAppend, status: int) -> None:
    """A callback that notes its number."""
    order.append(i)


class Spy:
    """A writer whose submit is another's."""

    def __init__(self, writer: Any, submit: Callable[..., Any]) -> None:
        self.writer = writer
        self.submit = submit

    def __getattr__(self, name: str) -> Any:
        return getattr(self.writer, name)


@covers("append/resizeArena")
def test_mixed_sizes_queued(t: UvIo) -> None:
    """Appends of very different size that gather during a write make the memory grow."""
    outcomes = [t.submit(1, 64), t.submit(1, 64), t.submit(2, 64), t.submit(2, BLOCK_SIZE), t.submit(1, 32)]
    t.wait(*outcomes)
    assert stored(t) == [1, 2, 3, 4, 5, 6, 7]


def test_append_from_a_callback(t: UvIo) -> None:
    """A callback may append; that comes after what was queued before."""
    order: list[str] = []
    done = Outcome()

    def again(req: Any, status: int) -> None:
        order.append("first")
        t.io.append(t.io, RaftIoAppend(), [entry(8, fill=3)], 1, done)

    t.io.append(t.io, RaftIoAppend(), [entry(8, fill=1)], 1, again)
    t.io.append(t.io, RaftIoAppend(), [entry(8, fill=2)], 1, lambda req, status: order.append("second"))
    t.wait(done)
    assert order == ["first", "second"]
    assert stored(t) == [1, 2, 3]


def test_callback_that_raises(tmp_path: Path) -> None:
    """An exception in a callback goes to the loop's excepthook; the other callbacks fire and appends go on."""
    t = UvIo(tmp_path).start()

    def bad(req: Any, status: int) -> None:
        raise RuntimeError("callback")

    t.io.append(t.io, RaftIoAppend(), [entry(8, fill=1)], 1, bad)
    second = t.submit()
    t.wait(second)
    t.append()
    assert [str(exc) for exc in t.reported] == ["callback"]
    t.close()


@covers("append/counter")
def test_counters(t: UvIo) -> None:
    """Counters of open segments go up, and never come back."""
    for _ in range(10):
        t.append(1, BLOCK_SIZE)
    t.wait_for("0000000000000001-0000000000000003", "0000000000000004-0000000000000006", "open-4")


@covers("append/cancel")
def test_close_cancels(t: UvIo) -> None:
    """An append that waits for its segment when io.close comes ends with RAFT_CANCELED, inside io.close."""
    outcome = t.submit(1, 64)
    t.begin_close()
    assert outcome.statuses == [errors.RAFT_CANCELED]


def test_close_lets_the_write_in_flight_end(t: UvIo) -> None:
    """The write in flight at io.close completes with its own status; all that waits behind it is cancelled."""
    t.append(1, 64)
    writing = t.submit(1, 64)
    waiting = t.submit(1, 64)
    closed = t.begin_close()
    assert waiting.statuses == [errors.RAFT_CANCELED]
    assert writing.calls == []
    t.wait(closed)
    assert writing.statuses == [0]
    assert stored(t) == [1, 2]


def test_append_after_close(t: UvIo) -> None:
    """Nothing is accepted after io.close."""
    t.begin_close()
    assert t.io.append(t.io, RaftIoAppend(), [entry(8)], 1, Outcome()) == errors.RAFT_CANCELED
    assert t.io.truncate(t.io, 1) == errors.RAFT_CANCELED
    assert t.io.defer(t.io, [bytes(8)], 1, lambda: None) == errors.RAFT_CANCELED


@covers("append/prepareClosing")
def test_close_while_preparing(t: UvIo) -> None:
    """io.close waits for the segment that is being made, and removes it."""
    outcome = t.submit(1, 64)
    assert t.uv.prepare_inflight is not None
    t.close()
    assert outcome.statuses == [errors.RAFT_CANCELED]
    assert t.names() == []


@covers("append/removeSegmentUponClose")
def test_close_removes_the_reserve(t: UvIo) -> None:
    """Prepared segments that were not used are removed."""
    t.append(1, 64)
    t.wait_for("open-2", "open-3")
    t.close()
    assert t.names() == ["0000000000000001-0000000000000001"]


@covers("append/currentSegment")
def test_close_closes_the_current_segment(t: UvIo) -> None:
    """The segment in use is closed under the index that it holds, at its exact length."""
    t.append(1, 64)
    t.close()
    assert t.names() == ["0000000000000001-0000000000000001"]
    assert (t.dir / "0000000000000001-0000000000000001").stat().st_size == 8 + 32 + 64


def test_close_from_a_callback(t: UvIo) -> None:
    """io.close may be called from the callback of an append."""
    t.append(1, 64)
    closed = Outcome()
    t.io.append(t.io, RaftIoAppend(), [entry(8, fill=9)], 1, lambda req, status: t.io.close(t.io, closed))
    waiting = t.submit(1, 64)
    t.wait(closed)
    assert waiting.statuses == [errors.RAFT_CANCELED]
    t.closed = True
    assert stored(t) == [1, 9]


@covers("append/truncateClosing")
def test_close_with_a_truncate_pending(t: UvIo) -> None:
    """An append behind a truncate that has not run is cancelled; the truncate is dropped."""
    t.append(2, 64)
    t.submit(2, 64)
    t.truncate(2)
    last = t.submit(2, 64)
    t.begin_close()
    assert last.statuses == [errors.RAFT_CANCELED]


# ---- failing disks ---------------------------------------------------------------------------------------------------


@covers("append/noSpaceUponPrepareCurrent")
def test_no_space_for_the_current_segment(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no segment can be made the append fails with RAFT_NOSPACE and C's text."""
    refuse_allocation(monkeypatch, 1)
    outcome = t.submit(1, 64)
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_NOSPACE]
    assert t.io.errmsg == f"create segment open-1: not enough space to allocate {SEGMENT_SIZE} bytes"
    assert t.uv.append_next_index == 1


@covers("append/noSpaceUponPrepareSpare")
def test_no_space_for_the_next_segment(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the current segment has room appends succeed; then they fail."""
    refuse_allocation(monkeypatch, *range(2, 100))
    t.append(3, 4096)
    outcome = t.submit(1, SEGMENT_SIZE - 64)
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_NOSPACE]
    monkeypatch.undo()
    t.append(1, 64)
    assert stored(t) == [1, 2, 3, 5]


@covers("append/noSpaceResolved")
def test_works_again_with_the_next_append(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each append tries again, with the next counter, and the first that finds space succeeds."""
    t.uv.disk_retry_delay = 3_600_000  # only appends try
    tried = refuse_allocation(monkeypatch, 1, 2)
    for _ in range(2):
        outcome = t.submit(1, 64)
        t.wait(outcome)
        assert outcome.statuses == [errors.RAFT_NOSPACE]
    t.append(1, 64)
    assert tried[:3] == ["open-1", "open-2", "open-3"]
    assert stored(t) == [3]


@covers("append/noSpaceUponWrite")
def test_short_write(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write fails its append and all that wait; the segment keeps what was good, and appends work again."""
    t.append(1, 64)
    submit = t.uv.writer.submit
    real = t.uv.writer

    def short(fd: int, arena: Any, length: int, offset: int, cb: Any) -> None:
        t.uv.writer = real
        text = f"short write: {BLOCK_SIZE} bytes instead of {length}"
        submit(fd, arena, length, offset, lambda failure: cb(Failure(errors.RAFT_NOSPACE, text)))

    t.uv.writer = Spy(real, short)
    failing = [t.submit(1, BLOCK_SIZE), t.submit(1, 64), t.submit(1, SEGMENT_SIZE)]
    t.wait(*failing)
    assert [o.statuses for o in failing] == [[errors.RAFT_NOSPACE]] * 3
    assert t.io.errmsg == "short write: 4096 bytes instead of 8192"
    assert t.uv.append_next_index == 2
    t.append(1, 64)
    assert stored(t) == [1, 5]


def test_nothing_follows_a_failed_write_before_it_is_cut_off(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed may be on the disk all the same: the next segment is not written before it is cut off."""
    t.append(1, 64)
    gate = threading.Event()
    cut = fs.truncate_and_rename
    monkeypatch.setattr(fs, "truncate_and_rename", lambda *args: (gate.wait(DEADLINE_SECONDS), cut(*args))[1])
    real = t.uv.writer

    def fail(fd: int, arena: Any, length: int, offset: int, cb: Any) -> None:
        t.uv.writer = real
        real.submit(fd, arena, length, offset, lambda failure: cb(Failure(errors.RAFT_IOERR, "write failed: -5")))

    t.uv.writer = Spy(real, fail)
    failed = t.submit(1, 64)
    t.wait(failed)
    after = t.submit(1, 64)
    turned: list[bool] = []
    timer = Timer(t.loop)
    timer.start(lambda _: turned.append(True), 0.05, 0)
    run_until(t.loop, lambda: turned)
    timer.close()
    assert after.calls == []
    gate.set()
    t.wait(after)
    assert after.statuses == [0]
    assert stored(t) == [1, 3]


def test_failed_write_with_an_install_waiting(t: UvIo) -> None:
    """The next index after a failed write is the one behind a snapshot whose installation waits for that write."""
    t.append(3, 64)
    real = t.uv.writer

    def fail(fd: int, arena: Any, length: int, offset: int, cb: Any) -> None:
        t.uv.writer = real
        real.submit(fd, arena, length, offset, lambda failure: cb(Failure(errors.RAFT_IOERR, "write failed: -5")))

    t.uv.writer = Spy(real, fail)
    failed = t.submit(3, 64)
    install = t.put(10, trailing=0)
    behind = t.submit(1, 64)
    t.wait(failed, behind)
    assert t.uv.append_next_index == 11
    after = t.submit(1, 64)
    t.wait(install, after)
    assert (install.statuses, after.statuses) == ([0], [0])
    fresh = t.reopen()
    assert fresh.loaded[4] == 11
    assert numbers(fresh.loaded[5]) == [8]
    fresh.close()


def test_failed_write_with_a_truncate_waiting(t: UvIo) -> None:
    """The next index after a failed write is right even if a truncate waits that has set it."""
    t.append(3, 64)
    real = t.uv.writer

    def fail(fd: int, arena: Any, length: int, offset: int, cb: Any) -> None:
        t.uv.writer = real
        real.submit(fd, arena, length, offset, lambda failure: cb(Failure(errors.RAFT_IOERR, "write failed: -5")))

    t.uv.writer = Spy(real, fail)
    failed = t.submit(3, 64)
    t.truncate(5)
    behind = t.submit(1, 64)
    assert t.uv.append_next_index == 6
    t.wait(failed, behind)
    assert failed.statuses == behind.statuses == [errors.RAFT_IOERR]
    assert t.uv.append_next_index == 4
    t.append(1, 64)
    assert stored(t) == [1, 2, 3, 8]


def test_file_operations_that_fail_are_no_exceptions(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError of any kind in the thread that prepares ends as a status."""

    def refuse(*args: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fs, "allocate_file", refuse)
    outcome = t.submit()
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]


def test_a_segment_that_is_where_it_was_takes_one_question(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path leads to the file: neither its links nor the directory are asked for again, until it does not."""
    asked: list[str] = []

    def counted(name: str) -> None:
        function = getattr(fs, name)

        def call(*args: Any) -> Any:
            asked.append(name)
            return function(*args)

        monkeypatch.setattr(fs, name, call)

    t.append(1, 64)
    for name in ("links", "leads_to", "place"):
        counted(name)
    for _ in range(5):
        t.append(1, 64)
    assert asked == ["leads_to"] * 5
    path = Path(t.uv.dir) / f"open-{t.uv.append_segments[0].counter}"
    asked.clear()
    path.rename(path.with_name("elsewhere"))
    t.append(1, 64)
    assert asked == ["leads_to", "links", "place"]
    path.with_name("elsewhere").rename(path)
    t.append(1, 64)
    assert asked[3:] == ["leads_to"]


@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("later", [False, True])
def test_a_removed_segment_is_noticed_without_statx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, later: bool
) -> None:
    """fstat tells it; statx is not asked for at each write, and the log hears once that it is refused."""
    asked: list[int] = []

    def refuse(fd: int) -> int:
        asked.append(fd)
        raise OSError(code, "")

    if not later:
        monkeypatch.setattr(fs, "links", refuse)
    t = UvIo(tmp_path).start()
    monkeypatch.setattr(fs, "links", refuse)
    for _ in range(3):
        t.append(1, 64)
    (tmp_path / f"open-{t.uv.append_segments[0].counter}").unlink()
    outcome = t.submit(1, 64)
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]
    assert "was removed" in t.io.errmsg
    assert len(asked) == 1
    assert [record.getMessage() for record in caplog.records if "statx is refused here" in record.getMessage()] != []
    closed = t.begin_close()
    t.wait(closed)
    t.loop.close()


def test_what_is_refused_is_told_to_each_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each one that starts on the directory is told once; all that was refused to one is asked for by the next."""

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EPERM, "")

    for refused in (True, True, False):
        with monkeypatch.context() as patch:
            if refused:
                patch.setattr(fs, "fallocate", refuse)
            caplog.clear()
            t = UvIo(tmp_path).start()
            for _ in range(3):
                t.append(1, SEGMENT_SIZE // 2)
            assert (FALLOCATE in t.uv.refusals) is refused
            t.close()
            told = [record.getMessage().split(": ")[1] for record in caplog.records]
            assert told == ["fallocate is refused here (EPERM)"] * refused

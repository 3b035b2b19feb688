"""The reserve of open segments of io_uv, and how it is filled with zeros ahead of time."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, prepare, raft_uv_set_segment_size
from io_uv.failure import Failure
from io_uv.refusal import REFUSED
from pyraft import errors
from tests.lib.uvtest import DEADLINE_SECONDS, UvIo, numbers, run_until

PIECES = 8
SIZE = PIECES * prepare.FILL_PIECE


class Filler:
    """Stands in front of what fills segments: counts its pieces, and holds them while the gate is closed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.pieces: list[int] = []
        self.files: list[str] = []
        """The names of the segments that the pieces belong to."""
        self.begun = threading.Event()
        self.synced: list[int] = []
        pwrite, fdatasync = fs.pwrite, fs.fdatasync

        def held(fd: int, data: Any, offset: int) -> int:
            if threading.current_thread().name.startswith("pyuv-worker"):
                assert not any(data)
                self.files.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
                self.pieces.append(offset)
                self.begun.set()
                self.gate.wait(DEADLINE_SECONDS)
            return pwrite(fd, data, offset)

        def noted(fd: int) -> None:
            self.synced.append(fd)
            fdatasync(fd)

        patch.setattr(fs, "pwrite", held)
        patch.setattr(fs, "fdatasync", noted)


@pytest.fixture
def filler(monkeypatch: pytest.MonkeyPatch) -> Filler:
    return Filler(monkeypatch)


@pytest.fixture
def t(tmp_path: Path, filler: Filler) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    raft_uv_set_segment_size(t.io, SIZE)
    if not t.uv.zero_fill:
        pytest.skip("segments are not filled on this file system")
    yield t
    filler.gate.set()
    t.close()
    assert t.reported == []


def test_reserve_is_filled(t: UvIo, filler: Filler) -> None:
    """Both segments of the reserve are overwritten with zeros and synced, the one in use is left alone."""
    t.append()
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and all(idle.filled for idle in t.uv.prepare_pool))
    assert filler.pieces == [i * prepare.FILL_PIECE for i in range(PIECES)] * 2
    assert len(filler.synced) == 2
    assert [(t.dir / f"open-{i}").stat().st_size for i in (1, 2, 3)] == [SIZE] * 3
    assert not any((t.dir / "open-2").read_bytes())


def test_request_stops_the_filler_and_waits_for_it(t: UvIo, filler: Filler) -> None:
    """A segment that is needed while it is being filled leaves the pool after the piece under way."""
    filler.gate.clear()
    t.append()
    run_until(t.loop, filler.begun.is_set)
    t.wait(t.submit(1, SIZE - 4096))  # the segment in use takes it, and nothing more of that size
    waiting = [t.submit(1, SIZE - 4096), t.submit()]
    turned: list[bool] = []
    t.loop.queue_work(lambda: None, lambda _: turned.append(True))
    run_until(t.loop, lambda: turned)
    assert waiting[0].calls == [], "written to while zeros are being written to it"
    filler.gate.set()
    t.wait(*waiting)
    assert filler.pieces[0] == 0
    assert filler.files.count(filler.files[0]) == 1, "the filler of the first segment went on"
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == [1, 2, 3, 4]
    fresh.close()


def test_no_append_waits_for_the_whole_filling(t: UvIo, filler: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the filler is told to be, a request ends it within a piece."""
    monkeypatch.setattr(prepare, "FILL_PAUSE", 1e6)
    t.append()
    run_until(t.loop, filler.begun.is_set)
    t.wait(*[t.submit(1, SIZE - 4096) for _ in range(3)])
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == [1, 2, 3, 4]
    fresh.close()


def test_close_while_filling(t: UvIo, filler: Filler) -> None:
    """io.close stops the filler, waits for the piece under way and removes the segment."""
    filler.gate.clear()
    t.append()
    run_until(t.loop, filler.begun.is_set)
    closed = t.begin_close()
    turned: list[bool] = []
    t.loop.queue_work(lambda: None, lambda _: turned.append(True))
    run_until(t.loop, lambda: turned)
    assert closed.calls == []
    filler.gate.set()
    t.wait(closed)
    assert len(filler.pieces) == 1
    assert t.names() == ["0000000000000001-0000000000000001"]


def test_order_of_counters(t: UvIo) -> None:
    """Segments are used in the order of their counters, as loading reads them in that order."""
    for _ in range(6):
        t.submit(1, SIZE - 4096)
    t.append()
    assert t.uv.append_segments[-1].counter == 6
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2)
    assert [idle.counter for idle in t.uv.prepare_pool] == [7, 8]


def test_made_durable_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment whose directory cannot be synced is not used, as its name might not be durable."""
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 3_600_000  # nothing is made but for the test's appends

    def refuse(dir: str) -> None:
        raise Failure(errors.RAFT_IOERR, "fsync directory: i/o error")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "sync_dir", refuse)
        outcome = t.submit()
        t.wait(outcome)
        assert outcome.statuses == [errors.RAFT_IOERR]
        assert t.io.errmsg == "create segment open-1: fsync directory: i/o error"
        assert t.names() == []
    t.append()
    t.close()


@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("name", ["set_direct", "pwrite"])
def test_filling_ends_where_direct_writes_are_refused(
    t: UvIo, filler: Filler, monkeypatch: pytest.MonkeyPatch, code: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The segments are used as they are, nothing is tried again, and the log hears of it once."""
    asked: list[int] = []
    call = getattr(fs, name)

    def refuse(fd: int, *args: Any) -> Any:
        if name == "set_direct" or threading.current_thread().name.startswith("pyuv-worker"):
            asked.append(fd)
            raise OSError(code, "")
        return call(fd, *args)

    monkeypatch.setattr(fs, name, refuse)
    for _ in range(3):
        t.append(1, SIZE // 2)
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and not t.uv.aborting and t.uv.prepare_inflight is None)
    assert len(asked) == 1
    assert t.uv.prepare_failure is None
    told = [record.getMessage() for record in caplog.records if record.name == "io_uv"]
    assert len(told) == 1
    assert "O_DIRECT is refused here" in told[0]
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == [1, 2, 3]
    fresh.close()


def full(t: UvIo) -> None:
    """Wait until the reserve is made and nobody fills it any more."""
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and not t.uv.aborting and t.uv.prepare_inflight is None)


def test_no_more_is_filled_than_the_last_segments_needed(t: UvIo, filler: Filler) -> None:
    """Each snapshot closes the segment in use, which is nearly empty where they follow each other closely."""
    t.append()
    full(t)
    index = 1
    for _ in range(4):
        filler.pieces.clear()
        t.wait(t.put(index))
        t.append(2)
        index += 2
        full(t)
    assert filler.pieces == [0], "one piece is enough for two entries"
    assert {idle.filled for idle in t.uv.prepare_pool} == {prepare.FILL_PIECE}
    assert 0 < max(t.uv.prepare_used) < prepare.FILL_PIECE
    fresh = t.reopen()
    assert numbers(fresh.loaded[5])[-2:] == [index - 1, index]
    fresh.close()


def test_what_was_filled_too_little_is_filled_further(t: UvIo, filler: Filler) -> None:
    """When segments are used up again, those in reserve get the rest, behind what they have."""
    t.append()
    index = 1
    for _ in range(4):
        t.wait(t.put(index))
        t.append()
        index += 1
        full(t)
    filler.pieces.clear()
    for _ in range(3):
        t.append(1, SIZE - 4096)
        full(t)
    assert [idle.filled for idle in t.uv.prepare_pool] == [SIZE] * 2
    # One that was filled for one entry goes on behind its first piece.
    assert filler.pieces.count(prepare.FILL_PIECE) > filler.pieces.count(0)


def test_a_failed_write_that_left_nothing_tells_nothing_of_what_is_needed(t: UvIo) -> None:
    """A segment that was closed empty does not count."""
    before = t.uv.prepare_used
    prepare.used(t.uv, 0)
    assert t.uv.prepare_used == before

"""The reserve of open segments of io_uv, and how it is filled with zeros ahead of time."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, prepare, raft_uv_set_segment_size
from io_uv.failure import Failure
from io_uv.refusal import REFUSED
from pyraft import errors
from tests.lib.uvtest import UvIo, numbers, run_until

PIECES = 8
SIZE = PIECES * prepare.FILL_PIECE


class Filler:
    """Stands in front of what fills segments: counts its pieces, and holds them while the gate is closed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.pieces: list[int] = []
        self.begun = threading.Event()
        self.synced: list[int] = []
        pwrite, fdatasync = fs.pwrite, fs.fdatasync

        def held(fd: int, data: Any, offset: int) -> int:
            if threading.current_thread().name.startswith("pyuv-worker"):
                assert not any(data)
                self.pieces.append(offset)
                self.begun.set()
                self.gate.wait(20)
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
    t.append()
    filler.gate.clear()
    run_until(t.loop, filler.begun.is_set)
    waiting = [t.submit(1, SIZE - 4096), t.submit()]
    turned: list[bool] = []
    t.loop.queue_work(lambda: None, lambda _: turned.append(True))
    run_until(t.loop, lambda: turned)
    assert waiting[0].calls == [], "written to while zeros are being written to it"
    filler.gate.set()
    t.wait(*waiting)
    assert filler.pieces[0] == 0
    assert filler.pieces.count(prepare.FILL_PIECE) <= 1, "the filler of the first segment went on"
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == [1, 2, 3]
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
    t.append()
    filler.gate.clear()
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

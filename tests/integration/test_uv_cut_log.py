"""Snapshots that the log on disk does not reach: what is appended next keeps its indexes over a crash (io_uv).

An open segment does not say its first index: that is the one behind the closed segments, or else behind the snapshot.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import segment
from io_uv.failure import Failure
from pyraft import errors
from tests.lib.uvtest import Outcome, UvIo, numbers


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    dir = tmp_path / "data"
    dir.mkdir()
    t = UvIo(dir).start()
    yield t
    t.close()
    assert t.reported == []


class Failing:
    """A writer whose next write fails, told when `tell` is called if it is `late`."""

    def __init__(self, t: UvIo, late: bool = False) -> None:
        self.t, self.real, self.late = t, t.uv.writer, late
        self.told: Any = None
        t.uv.writer = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def submit(self, fd: int, arena: Any, length: int, offset: int, cb: Any) -> None:
        """Write nothing, and fail."""
        self.t.uv.writer = self.real
        self.told = lambda: cb(Failure(errors.RAFT_IOERR, "write failed: -5"))
        if not self.late:
            self.t.loop._uv.call_soon(self.told)


def killed(t: UvIo, tmp_path: Path) -> tuple[int | None, int, list[int]]:
    """Return what a start would find if the process were killed now: snapshot, start index, numbers of the entries."""
    copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
    shutil.copytree(t.dir, copy)
    found = UvIo(copy).start()
    rv, _, _, snapshot, start_index, entries = found.loaded
    assert rv == 0, found.io.errmsg
    found.close()
    return snapshot.index if snapshot else None, start_index, numbers(entries)


def put(t: UvIo, index: int, trailing: int = 1) -> Outcome:
    """Put a snapshot and wait."""
    outcome = t.put(index, trailing=trailing)
    t.wait(outcome)
    return outcome


def test_snapshot_that_ends_beyond_the_log_is_an_install(t: UvIo, tmp_path: Path) -> None:
    """Entries appended behind it follow it, now and after a crash."""
    t.append(3)
    assert put(t, 9, trailing=5).statuses == [0]
    assert t.uv.append_next_index == 10
    t.append(2)
    assert killed(t, tmp_path) == (9, 10, [4, 5])


def test_appends_that_fail_before_a_snapshot_make_it_an_install(t: UvIo, tmp_path: Path) -> None:
    """It waited for entries 4 and 5, which it holds; all that came after it fails with them, and comes again behind
    it.
    """
    t.append(3)
    Failing(t)
    failed = [t.submit(), t.submit()]
    own = t.put(5, trailing=1)
    behind = t.submit()
    t.wait(own, behind, *failed)
    assert [outcome.statuses for outcome in (*failed, behind)] == [[errors.RAFT_IOERR]] * 3
    assert (own.statuses, t.uv.append_next_index) == ([0], 6)
    after = t.submit()
    t.wait(after)
    assert killed(t, tmp_path) == (5, 6, [7])


def test_appends_that_come_before_it_is_stored_wait_for_it(t: UvIo, tmp_path: Path) -> None:
    """They must not be on disk before the log that it replaces has gone."""
    t.append(3)
    failing = Failing(t, late=True)
    failed = t.submit()
    own = t.put(4, trailing=1)
    failing.told()
    behind = t.submit()
    order: list[str] = []
    for outcome, name in ((own, "put"), (behind, "append")):
        outcome.calls = Noting(order, name)
    t.wait(own, behind)
    assert (failed.statuses, order) == ([errors.RAFT_IOERR], ["put", "append"])
    assert killed(t, tmp_path) == (4, 5, [5])


class Noting(list[Any]):
    """The calls of an outcome, which notes its name with the first."""

    def __init__(self, order: list[str], name: str) -> None:
        super().__init__()
        self.order, self.name = order, name

    def append(self, call: Any) -> None:
        self.order.append(self.name)
        super().append(call)


def test_snapshot_that_waits_in_front_of_one_that_became_an_install_holds_back_too(t: UvIo, tmp_path: Path) -> None:
    """Two puts wait, the second becomes an install: nothing that comes after is written while the first is stored."""
    t.append(3)
    failing = Failing(t, late=True)
    failed = t.submit()
    first, second = t.put(2, trailing=1), t.put(4, trailing=1)
    failing.told()
    assert [barrier.blocking for barrier in t.uv.barriers] == [True, True]
    behind = t.submit()
    t.wait(failed, first, second, behind)
    assert (first.statuses, second.statuses, behind.statuses) == ([0], [0], [0])
    assert killed(t, tmp_path) == (4, 5, [5])


def test_snapshot_that_cannot_be_stored_leaves_the_log_where_its_append_failed(
    t: UvIo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next append follows what is there."""
    t.append(3)
    Failing(t)
    failed = t.submit()
    own = t.put(4, trailing=1)
    with monkeypatch.context() as patch:
        patch.setattr("io_uv.snapshot_file.write", refuse)
        t.wait(failed, own)
    assert own.statuses == [errors.RAFT_IOERR]
    assert t.uv.append_next_index == 4
    after = t.submit()
    t.wait(after)
    assert killed(t, tmp_path) == (None, 1, [1, 2, 3, 5])


def refuse(*args: object) -> Any:
    """Fail."""
    raise Failure(errors.RAFT_IOERR, "refused")


def test_no_snapshot_is_put_in_force_that_the_files_do_not_reach(t: UvIo) -> None:
    """The memory may say anything: the files are looked at before anything is stored."""
    t.append(3)
    assert put(t, 1).statuses == [0]
    (t.dir / segment.closed_name(1, 3)).unlink()
    assert put(t, 3).statuses == [errors.RAFT_IOERR]
    assert "the log on disk ends with entry 1, before the snapshot" in t.io.errmsg


def test_second_snapshot_of_the_entry_that_an_install_ended_with(t: UvIo, tmp_path: Path) -> None:
    """No segment is there, and the log reaches the snapshot by the one that is installed."""
    t.append(2)
    assert put(t, 7, trailing=0).statuses == [0]
    assert put(t, 7, trailing=3).statuses == [0]
    t.append(1)
    assert killed(t, tmp_path) == (7, 8, [3])


def test_last_closed_segment_stays_whatever_is_asked_for(t: UvIo) -> None:
    """Open segments are counted from it."""
    t.append(3)
    t.wait(t.put(1, trailing=100))
    t.append(2)
    infos = [segment.SegmentInfo(name, *map(int, name.split("-"))) for name in t.names() if name[0] == "0"]
    segment.keep_trailing(str(t.dir), infos, 100, 1)
    assert [name for name in t.names() if name[0] == "0"] == [segment.closed_name(1, 3)]

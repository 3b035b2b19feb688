"""RaftIo.snapshot_put and RaftIo.snapshot_get of io_uv."""

import errno
import gc
import os
import shutil
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import fs, raft_uv_set_snapshot_compression, snapshot_file
from io_uv.failure import Failure
from pyraft import errors
from pyraft.types import RaftIoSnapshotGet, RaftIoSnapshotPut, RaftSnapshot
from tests.lib.covers import covers
from tests.lib.uvtest import DEADLINE_SECONDS, Outcome, UvIo, numbers, run_until, snapshot


@pytest.fixture
def t(tmp_path: Path) -> Iterator[UvIo]:
    t = UvIo(tmp_path).start()
    yield t
    t.close()
    assert t.reported == []


def put(t: UvIo, index: int, trailing: int = 128, term: int = 1, data: bytes = bytes(8)) -> None:
    """Put a snapshot that must succeed."""
    outcome = t.put(index, term, trailing, data)
    t.wait(outcome)
    assert outcome.statuses == [0], t.io.errmsg


def snapshots(t: UvIo) -> list[str]:
    """Return the names of the snapshots' data files, oldest first."""
    return sorted(
        (name for name in os.listdir(t.dir) if name.startswith("snapshot-") and name.count(".") == 0),
        key=lambda name: [int(part) for part in name.split("-")[1:]],
    )


@covers("snapshot_put/first")
def test_first(t: UvIo) -> None:
    """A snapshot that was put is what get returns."""
    put(t, 1, data=b"somedata")
    found, status = t.get()
    assert status == 0
    assert found is not None
    assert (found.term, found.index, found.configuration_index) == (1, 1, 1)
    assert bytes(found.bufs[0]) == b"somedata"
    assert [server.id for server in found.configuration.servers] == [1]


class Weighty(bytearray):
    """The data of a snapshot, of which one can tell whether it is still there."""


@pytest.mark.parametrize("trailing", [0, 128])
def test_the_data_is_let_go(t: UvIo, trailing: int) -> None:
    """When it is stored nothing keeps it, not even until the next garbage collection: it may be a mapped file."""
    data = Weighty(8)
    there = weakref.ref(data)
    gc.collect()
    gc.disable()
    try:
        put(t, 1, trailing, data=data)  # type: ignore[arg-type]
        del data
        assert there() is None
    finally:
        gc.enable()


def test_several_buffers(t: UvIo) -> None:
    """The buffers of a snapshot are stored one after the other, and come back as one."""
    parts = snapshot(1)
    parts.bufs = [b"some", bytearray(b"more"), memoryview(b"data")]
    outcome = Outcome()
    t.io.snapshot_put(t.io, 10, RaftIoSnapshotPut(), parts, outcome)
    t.wait(outcome)
    found, _ = t.get()
    assert found is not None
    assert bytes(found.bufs[0]) == b"somemoredata"


@covers("snapshot_put/entriesLessThanTrailing")
def test_fewer_entries_than_trailing(t: UvIo) -> None:
    """A snapshot whose trailing entries reach back to the first keeps all segments."""
    for _ in range(40):
        t.append(10, 8)
    put(t, 100, trailing=128)
    t.append()
    fresh = t.reopen()
    assert fresh.loaded[4] == 1
    assert numbers(fresh.loaded[5])[:400] == list(range(1, 401))
    fresh.close()


@covers("snapshot_put/entriesMoreThanTrailing")
def test_more_entries_than_trailing(t: UvIo) -> None:
    """Segments that end before the trailing entries are removed."""
    for _ in range(4):
        t.append(50, 8)
        t.wait(t.put(1, trailing=1000))
    put(t, 190, trailing=100)
    closed = [name for name in t.names() if name[0] == "0"]
    assert closed == [
        "0000000000000051-0000000000000100",
        "0000000000000101-0000000000000150",
        "0000000000000151-0000000000000200",
    ]
    fresh = t.reopen()
    assert fresh.loaded[4] == 51
    fresh.close()


def test_trailing_boundaries(t: UvIo) -> None:
    """With a segment per entry 1 to 5, a snapshot at 4 with 2 trailing entries removes 1 and 2 (as C does)."""
    for _ in range(5):
        t.append()
        t.wait(t.put(1, trailing=1000))
    put(t, 4, trailing=2)
    assert [name for name in t.names() if name[0] == "0"] == [f"{i:016}-{i:016}" for i in (3, 4, 5)]


def test_last_two_snapshots_stay(t: UvIo) -> None:
    """Of all snapshots the last two are kept, with all their files."""
    for index in range(1, 5):
        put(t, index)
    assert [name.split("-")[2] for name in snapshots(t)] == ["3", "4"]
    assert sum(name.startswith("snapshot-") and name.endswith(".meta") for name in os.listdir(t.dir)) == 2


def test_name_has_the_time_since_the_epoch(t: UvIo) -> None:
    """The third number of the name is in ms since the epoch, so that names sort right after a reboot (B21)."""
    before = time.time_ns() // 1_000_000
    put(t, 1)
    stamp = int(snapshots(t)[0].split("-")[3])
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_same_entry_twice_at_once(t: UvIo) -> None:
    """Two snapshots of one entry in one millisecond do not collide, and the later one counts."""
    first, second = t.put(3, data=b"1" * 8), t.put(3, data=b"2" * 8)
    t.wait(first, second)
    assert first.statuses == second.statuses == [0]
    found, _ = t.get()
    assert found is not None
    assert bytes(found.bufs[0]) == b"2" * 8


@pytest.mark.parametrize("compressed", [True, False])
@covers("snapshot_put/install", "snapshot_put/installNoCompression")
def test_install(t: UvIo, compressed: bool) -> None:
    """An install removes the log and moves the next index behind the snapshot."""
    assert raft_uv_set_snapshot_compression(t.io, compressed) == 0
    t.append(4)
    put(t, 1, trailing=0, data=b"x" * 4096)
    data = (t.dir / snapshots(t)[0]).read_bytes()
    assert data[:4] == struct.pack("<I", 0x184D2204) if compressed else data == b"x" * 4096
    assert [name for name in t.names() if name[0] == "0"] == []
    assert t.uv.append_next_index == 2
    t.append()
    fresh = t.reopen()
    assert fresh.loaded[4] == 2
    assert numbers(fresh.loaded[5]) == [5]
    fresh.close()


@covers("snapshot_put/installWithoutPreviousEntries")
def test_install_on_an_empty_log(t: UvIo) -> None:
    """An install needs no log."""
    put(t, 1, trailing=0)
    fresh = t.reopen()
    assert fresh.loaded[4] == 2
    fresh.close()


@covers("snapshot_put/installMultipleWithoutPreviousEntries")
def test_installs_on_an_empty_log(t: UvIo) -> None:
    """Installs follow each other."""
    for index in (1, 3, 1337):
        put(t, index, trailing=0)
    fresh = t.reopen()
    assert fresh.loaded[3].index == 1337
    assert fresh.loaded[4] == 1338
    fresh.close()


@covers("snapshot_put/installMultipleAppendEntriesInBetween")
def test_installs_and_appends(t: UvIo) -> None:
    """Appends before, during and after an install succeed; those from before it are removed by it."""
    outcomes = [t.submit(1)]
    installs = [t.put(1, trailing=0)]
    outcomes.append(t.submit(1))
    installs.append(t.put(3, trailing=0))
    outcomes.append(t.submit(2))
    installs.append(t.put(1337, trailing=0))
    outcomes.append(t.submit(1))
    t.wait(*outcomes, *installs)
    assert [outcome.statuses for outcome in outcomes + installs] == [[0]] * 7
    fresh = t.reopen()
    assert fresh.loaded[4] == 1338
    assert numbers(fresh.loaded[5]) == [5]
    fresh.close()


def test_own_snapshot_does_not_stop_appends(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a snapshot is written appends go on, in new segments; during an install they wait."""
    gate = threading.Event()
    write = snapshot_file.write
    monkeypatch.setattr(snapshot_file, "write", lambda *args: (gate.wait(DEADLINE_SECONDS), write(*args))[1])
    t.append()
    own = t.put(1, trailing=10)
    t.append()
    assert own.calls == []
    install = t.put(2, trailing=0)
    waiting = t.submit()
    gate.set()
    t.wait(waiting)
    assert own.statuses == install.statuses == [0]
    fresh = t.reopen()
    assert fresh.loaded[4] == 3
    assert numbers(fresh.loaded[5]) == [3]
    fresh.close()


def test_put_is_called_back_before_blocked_appends(t: UvIo) -> None:
    """The callback of an install runs before the appends that it held back are written."""
    order: list[str] = []
    t.io.snapshot_put(t.io, 0, RaftIoSnapshotPut(), snapshot(5), lambda req, status: order.append("put"))
    waiting = t.submit()
    t.wait(waiting)
    assert order == ["put"]


def test_put_without_configuration(t: UvIo) -> None:
    """A snapshot without a server cannot be stored."""
    empty = RaftSnapshot()
    empty.index = empty.term = 1
    outcome = Outcome()
    assert t.io.snapshot_put(t.io, 1, RaftIoSnapshotPut(), empty, outcome) == errors.RAFT_INVALID
    assert outcome.calls == []


@pytest.mark.parametrize("trailing", [0, 10])
def test_failed_put(t: UvIo, monkeypatch: pytest.MonkeyPatch, trailing: int) -> None:
    """A put that cannot write its files fails with RAFT_IOERR, leaves none of them, and the next one works."""
    t.append(2)

    def refuse(*args: object) -> None:
        raise OSError(28, "")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "write", refuse)
        outcome = t.put(1, trailing=trailing)
        t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]
    assert "no space left on device" in t.io.errmsg
    assert snapshots(t) == []
    put(t, 1, trailing=trailing)
    t.append()


def test_appends_go_on_where_they_were_after_a_failed_install(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core puts its log back when an install fails, so the next append follows the old entries (B6)."""
    t.append(2)

    def refuse(*args: object) -> None:
        raise OSError(28, "")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "write", refuse)
        outcome = t.put(9, trailing=0)
        t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]
    t.append()
    fresh = t.reopen()
    assert (fresh.loaded[4], numbers(fresh.loaded[5])) == (1, [1, 2, 3])
    fresh.close()


def fail_to_remove(monkeypatch: pytest.MonkeyPatch, part: str, times: int) -> list[str]:
    """Let the next calls to unlink files fail that have `part` in their names; return a list of these as it grows."""
    original = fs.unlink
    failed: list[str] = []

    def unlink(path: str) -> None:
        if part in os.path.basename(path) and len(failed) < times:
            failed.append(path)
            raise OSError(errno.EIO, "")
        original(path)

    monkeypatch.setattr(fs, "unlink", unlink)
    return failed


def test_nothing_follows_an_install_before_the_former_log_has_gone(
    t: UvIo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Behind the former segments, which an open one's name does not tell, new entries would get their indexes."""
    t.uv.disk_retry_delay = 1
    t.append(10)
    failed = fail_to_remove(monkeypatch, "-0", 3)
    outcome = t.put(100, trailing=0)
    follows = t.submit()
    run_until(t.loop, lambda: len(failed) >= 2)
    assert (outcome.calls, follows.calls) == ([], [])
    t.wait(outcome, follows)
    assert (outcome.statuses, follows.statuses) == ([0], [0])
    assert t.uv.append_next_index == 102
    assert [t.names()[0][:5], *snapshots(t)] == ["open-", *snapshots(t)]
    copy = tmp_path_factory.mktemp("killed") / "data"
    shutil.copytree(t.dir, copy)
    killed = UvIo(copy).start()
    assert (killed.loaded[3].index, killed.loaded[4], numbers(killed.loaded[5])) == (100, 101, [11])
    killed.close()
    assert len(caplog.messages) == 2
    assert "the log in front of the snapshot at 100 cannot be removed: delete closed segment" in caplog.messages[0]
    assert caplog.messages[1].endswith("the log in front of the snapshot at 100 is removed")


def test_close_gives_an_install_up_whose_former_log_cannot_be_removed(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside io.close, with the reason. The next start finds the snapshot and removes the log."""
    t.uv.disk_retry_delay = 3_600_000  # it waits between two attempts for as long as the test looks
    t.append(10)
    with monkeypatch.context() as patch:
        failed = fail_to_remove(patch, "-0", 1 << 30)
        outcome = t.put(100, trailing=0)
        run_until(t.loop, lambda: t.uv.snapshot_put_work is not None and t.uv.snapshot_put_work.timer is not None)
        closed = t.begin_close()
        assert outcome.statuses == [errors.RAFT_IOERR]
        t.wait(closed)
    assert failed != []
    assert "put snapshot at 100: delete closed segment" in t.io.errmsg
    t.close()
    fresh = UvIo(t.dir).start()
    assert (fresh.loaded[3].index, fresh.loaded[4], len(fresh.loaded[5])) == (100, 101, 0)
    fresh.append()
    again = fresh.reopen()
    assert (again.loaded[4], numbers(again.loaded[5])) == (101, [1])
    again.close()


@pytest.mark.parametrize("part", ["-0", ".meta"])
def test_a_put_succeeds_although_old_files_cannot_be_removed(
    t: UvIo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    """They are left to the next one, and the logger is told."""
    for index in (2, 4, 6):
        t.append(2)
        failed = fail_to_remove(monkeypatch, part, 1 if index == 6 else 0)
        put(t, index, trailing=1)
    assert len(failed) == 1
    assert len(caplog.messages) == 1
    assert "is stored, but what it replaces stays until the next one: delete" in caplog.messages[0]
    t.append()
    put(t, 7, trailing=1)
    assert len(snapshots(t)) == 2
    fresh = t.reopen()
    assert (fresh.loaded[3].index, numbers(fresh.loaded[5])[-1]) == (7, 7)
    fresh.close()


def test_a_put_removes_nothing_that_is_loaded_if_terms_have_run_backwards(t: UvIo) -> None:
    """As after a C server's recovering, which writes term 1: the older snapshot, of a higher term, counts."""
    t.append(3, term=5)
    t.append(3, term=3)
    put(t, 2, term=5, trailing=1)
    put(t, 3, term=5, trailing=1)
    put(t, 4, term=3, trailing=1)
    assert {name.split("-")[2] for name in snapshots(t)} == {"2", "3", "4"}
    fresh = t.reopen()
    assert fresh.loaded[3].index == 3
    assert numbers(fresh.loaded[5])[-3:] == [4, 5, 6]
    fresh.close()


def test_an_install_is_loaded_although_an_older_snapshot_has_a_higher_term(t: UvIo) -> None:
    """The log behind that one is gone, so it goes too."""
    t.append(6)
    put(t, 3, term=5, trailing=1)
    put(t, 20, term=2, trailing=0)
    t.append()
    fresh = t.reopen()
    assert (fresh.loaded[3].index, fresh.loaded[4], numbers(fresh.loaded[5])) == (20, 21, [7])
    fresh.close()


def test_close_cancels_a_put_that_waits(t: UvIo) -> None:
    """A put that has not begun is cancelled inside io.close."""
    t.append()
    t.submit()
    outcome = t.put(1)
    t.begin_close()
    assert outcome.statuses == [errors.RAFT_CANCELED]
    assert t.io.snapshot_put(t.io, 1, RaftIoSnapshotPut(), snapshot(1), Outcome()) == errors.RAFT_CANCELED
    assert t.io.snapshot_get(t.io, RaftIoSnapshotGet(), Outcome()) == errors.RAFT_CANCELED


@pytest.mark.parametrize("trailing", [0, 10])
def test_close_lets_a_put_end_that_has_begun(t: UvIo, trailing: int) -> None:
    """A put that a thread is busy with ends with its own status, before the close callback."""
    order: list[str] = []
    t.io.snapshot_put(
        t.io, trailing, RaftIoSnapshotPut(), snapshot(4), lambda req, status: order.append(f"put {status}")
    )
    run_until(t.loop, lambda: t.uv.snapshot_put_work)
    t.closed = True
    t.io.close(t.io, lambda io: order.append("close"))
    run_until(t.loop, lambda: "close" in order)
    assert order == ["put 0", "close"]


def test_get_without_a_snapshot(t: UvIo) -> None:
    """Without a snapshot get says RAFT_NOTFOUND (C: success and garbage, B25)."""
    assert t.get() == (None, errors.RAFT_NOTFOUND)


def test_several_gets(t: UvIo) -> None:
    """Gets may run at the same time."""
    put(t, 1)
    outcomes = [Outcome() for _ in range(4)]
    for outcome in outcomes:
        assert t.io.snapshot_get(t.io, RaftIoSnapshotGet(), outcome) == 0
        assert outcome.calls == []
    t.wait(*outcomes)
    assert [outcome.statuses for outcome in outcomes] == [[0]] * 4


def test_close_waits_for_a_get(t: UvIo) -> None:
    """A get under way ends before the close callback."""
    put(t, 1)
    outcome = Outcome()
    t.io.snapshot_get(t.io, RaftIoSnapshotGet(), outcome)
    t.close()
    assert outcome.statuses == [0]


def test_get_of_a_damaged_snapshot(t: UvIo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the snapshot reaches the callback as a code, and errmsg as a text."""
    put(t, 1)

    def damaged(*given: object) -> None:
        raise Failure(errors.RAFT_CORRUPT, "read x: checksum mismatch")

    monkeypatch.setattr(snapshot_file, "read", damaged)
    assert t.get() == (None, errors.RAFT_CORRUPT)
    assert t.io.errmsg == "get snapshot: read x: checksum mismatch"

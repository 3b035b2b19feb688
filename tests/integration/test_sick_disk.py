"""The behaviour of io_uv when the disk is full, fails, stalls or vanishes: nothing acknowledged is lost, and it
recovers.

io_uv/README.md has the table of outcomes that these tests hold.
"""

import errno
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, probe, retry
from io_uv.pyuv import Loop
from pyraft import RAFT_LEADER, RAFT_UNAVAILABLE, errors
from pyraft.types import RAFT_IO_APPEND_ENTRIES, RaftIo, RaftIoAppend, RaftIoSend, RaftMessage
from tests.lib import faults
from tests.lib.faults import SHORT, Faults
from tests.lib.uvnode import Node, free_addresses, leader_of, make_nodes, settled, unsettle
from tests.lib.uvtest import SEGMENT_SIZE, Outcome, UvIo, entry, numbers, run_until


class History:
    """The requests to a RaftIo and its acknowledgments: numbers of entries by index."""

    def __init__(self, t: UvIo) -> None:
        self.t = t
        self.acknowledged: dict[int, int] = {}
        self.tried: dict[int, set[int]] = {}

    def submit(self, n: int = 1, size: int = 64) -> "Append":
        t = self.t
        append = Append(t.uv.append_next_index, [next(t.fill) for _ in range(n)])
        entries = [entry(size, 1, number) for number in append.numbers]
        assert t.io.append(t.io, RaftIoAppend(), entries, n, append.outcome) == 0, t.io.errmsg
        for i, number in enumerate(append.numbers):
            self.tried.setdefault(append.index + i, set()).add(number)
        return append

    def wait(self, *appends: "Append") -> None:
        self.t.wait(*[append.outcome for append in appends])
        for append in appends:
            assert len(append.outcome.calls) == 1
            if append.outcome.statuses == [0]:
                self.acknowledged.update({append.index + i: number for i, number in enumerate(append.numbers)})

    def truncate(self, index: int) -> None:
        assert self.t.io.truncate(self.t.io, index) == 0
        self.acknowledged = {i: number for i, number in self.acknowledged.items() if i < index}

    def check(self, loaded: tuple[Any, ...]) -> None:
        """Check that all that was acknowledged is there, and nothing that nobody asked for."""
        rv, _, _, _, start, entries = loaded
        assert rv == 0
        found = dict(enumerate(numbers(entries), start))
        for index, number in self.acknowledged.items():
            assert index < start or found.get(index) == number, f"acknowledged entry {index} is lost"
        for index, number in found.items():
            assert number in self.tried[index], f"entry {index} was never asked for"


class Append:
    def __init__(self, index: int, numbers: list[int]) -> None:
        self.index = index
        self.numbers = numbers
        self.outcome = Outcome()


def life(t: UvIo, history: History) -> None:
    """Append in several sizes, roll over, truncate and take a snapshot; go on, whatever fails."""
    for _ in range(3):
        history.wait(history.submit())
    history.wait(history.submit(2, 4096), history.submit(1, 8000))
    history.wait(history.submit(1, 12000))
    history.truncate(max(1, t.uv.append_next_index - 2))
    history.wait(history.submit())
    # Only what was applied is ever in a snapshot.
    puts = [t.put(max(history.acknowledged), trailing=2)] if history.acknowledged else []
    history.wait(history.submit())
    history.wait(history.submit(3, 2000), history.submit())
    t.wait(*puts)
    history.wait(history.submit(1, 12000), history.submit())


def copy(dir: Path, target: Path) -> None:
    """Copy a directory in which files come and go, as a crash would leave it."""
    while True:
        try:
            shutil.copytree(dir, target)
        except (shutil.Error, FileNotFoundError):
            shutil.rmtree(target, ignore_errors=True)
        else:
            return


def live_through(dir: Path, plan: faults.Plan, mode: str) -> tuple[int, int]:
    """Live through a sick disk, then check a crash, that it goes on, and a new start; return calls made and failed."""
    (dir / "data").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        if mode == "thread":
            found = probe.probe(os.fspath(dir))
            found.async_io = False
            patch.setattr(probe, "probe", lambda dir, keep: found)
        sick = Faults(patch)
        t = UvIo(dir / "data").start()
        t.uv.disk_retry_delay = 5
        history = History(t)
        sick.begin(plan)
        life(t, history)
        calls, failed = len(sick.calls), sick.failed
        sick.heal()
        copy(dir / "data", dir / "crashed")
        crashed = UvIo(dir / "crashed").start()
        history.check(crashed.loaded)
        crashed.close()
        last = history.submit()
        history.wait(last)
        while last.outcome.statuses != [0]:
            run_until(t.loop, lambda: retry.failing(t.uv) is None)
            last = history.submit()
            history.wait(last)
        fresh = t.reopen()
        assert t.reported == []
        history.check(fresh.loaded)
        history = History(fresh)
        last = history.submit()
        history.wait(last)
        assert last.outcome.statuses == [0]
        fresh.close()
        assert [name for name in os.listdir(dir / "data") if name.startswith(("open-", "tmp-"))] == []
    shutil.rmtree(dir)
    return calls, failed


def test_healthy(tmp_path: Path) -> None:
    """Without faults everything is acknowledged: the check itself is right."""
    calls, failed = live_through(tmp_path / "x", faults.nothing, "aio")
    assert failed == 0
    assert calls > 80


@pytest.mark.parametrize("mode", ["aio", "thread"])
@pytest.mark.parametrize("code", faults.ERRNOS, ids=lambda code: "short" if code == SHORT else errno.errorcode[code])
def test_any_call_may_fail(tmp_path: Path, code: int, mode: str) -> None:
    """Whichever call fails, once or several in a row, acknowledged entries are there, after a crash and otherwise.

    A sample of all cases, by seed; SICK_DISK_CASES=all begins with each call once (some minutes).
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    everything = os.environ.get("SICK_DISK_CASES") == "all"
    firsts = range(125) if everything else rng.sample(range(125), 4)
    for first in firsts:
        length = rng.choice((0, 0, 1, 5, 20))
        print(f"calls {first} to {first + length} fail")
        live_through(tmp_path / "x", faults.between(first, first + length, code), mode)


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_failing_fsync(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While syncing fails nothing that needs it is reported as done; a later success covers new writes only."""
    sick = Faults(monkeypatch)
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 5
    history = History(t)
    history.wait(history.submit())
    sick.begin(faults.always(errno.EIO, call))
    put = t.put(1, trailing=10)
    for _ in range(4):
        history.wait(history.submit(1, 12000))
    if call == "fsync":
        assert put.calls == []  # its segment cannot be closed yet
        assert t.io.set_vote(t.io, 1) == errors.RAFT_IOERR  # a new file and its name
    sick.heal()
    t.wait(put)
    fresh = t.reopen()
    history.check(fresh.loaded)
    fresh.close()


def test_segment_that_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a segment cannot be closed appends fail with the reason, and nothing overtakes it (B45)."""
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 10
    sick = Faults(monkeypatch)
    history = History(t)
    history.wait(history.submit())
    sick.begin(faults.always(errno.EACCES, "rename"))
    appends = [history.submit(1, 12000) for _ in range(3)]
    history.wait(*appends)
    run_until(t.loop, lambda: t.uv.finalize_failure)
    failing = history.submit()
    assert failing.outcome.calls == []
    history.wait(failing)
    assert failing.outcome.statuses == [errors.RAFT_IOERR]
    assert t.io.errmsg == "close segment open-1: rename: permission denied"
    assert t.io.defer(t.io, [bytes(8)], 1, lambda: None) == errors.RAFT_IOERR
    assert [name for name in t.names() if name[0] == "0"] == []
    sick.heal()
    run_until(t.loop, lambda: t.uv.finalize_failure is None)
    history.wait(history.submit())
    fresh = t.reopen()
    history.check(fresh.loaded)
    fresh.close()


def test_close_while_a_segment_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """io.close does not wait for a sick disk to heal; segments that stay open are read by the next start."""
    t = UvIo(tmp_path).start()
    history = History(t)
    rename = fs.rename

    def refuse(old: str, new: str) -> None:
        # The others could be closed, and must not be: a closed segment behind an open one does not load.
        if old.endswith("open-1"):
            raise faults.error(errno.EACCES)
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "rename", refuse)
        history.wait(history.submit())
        appends = [history.submit(1, 12000) for _ in range(3)]
        history.wait(*appends)
        t.close()
    assert [name for name in t.names() if name[0] == "0"] == []
    fresh = UvIo(tmp_path).start()
    history.check(fresh.loaded)
    assert len(history.acknowledged) >= 2
    fresh.close()


# ---- full ------------------------------------------------------------------------------------------------------------


def test_space_that_comes_back_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that nobody writes to finds out by itself that there is space again; the log has beginning and end."""
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 10
    sick = Faults(monkeypatch)
    sick.begin(faults.always(errno.ENOSPC, "fallocate"))
    outcome = t.submit()
    t.wait(outcome)
    assert outcome.statuses == [errors.RAFT_NOSPACE]
    assert t.io.defer(t.io, [bytes(8)], 1, lambda: None) == errors.RAFT_NOSPACE
    sick.heal()
    run_until(t.loop, lambda: t.uv.prepare_failure is None)
    assert t.io.defer(t.io, [bytes(8)], 1, lambda: None) == 0
    run_until(t.loop, lambda: not t.uv.retry_timer.active)
    assert said(caplog) == [
        f"create segment open-1: not enough space to allocate {SEGMENT_SIZE} bytes; trying again every 10 ms",
        "segments can be made and closed again",
    ]
    t.append()
    t.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the logger `io_uv` was told, without the directory."""
    return [record.message.split(": ", 1)[1] for record in caplog.records if record.name == "io_uv"]


def test_room_for_some_segments_is_one_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While every other attempt to make a segment fails the disk counts as sick; the log hears of that once."""
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 10
    fallocate, calls = fs.fallocate, itertools.count()

    def every_other(*args: Any) -> None:
        if next(calls) % 2:
            raise faults.error(errno.ENOSPC)
        fallocate(*args)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "fallocate", every_other)
        for _ in range(8):
            t.append(1, 12000)
            run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2)
        assert next(calls) >= 16
    # Long enough after the last failure, and no attempt before that ends it.
    run_until(t.loop, lambda: t.uv.prepare_failure is None and t.uv.calm == retry.CALM - 1)
    assert len(said(caplog)) == 1
    run_until(t.loop, lambda: not t.uv.retries)
    assert said(caplog)[1:] == ["segments can be made and closed again"]
    t.close()


def test_who_could_write_again_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a write that succeeded the next append that the disk refuses fails by its callback: a leader steps down.

    Two things fail, then one of them: the server leads again on the segments that it has left, until they are used up.
    """
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 10
    t.append(1, 12000)
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2 and t.uv.prepare_inflight is None)
    sick = Faults(monkeypatch)
    sick.begin(lambda number, name: errno.ENOSPC if name in ("fallocate", "rename") else 0)
    t.wait(t.submit(1, 12000))
    run_until(t.loop, lambda: t.uv.finalize_failure and t.uv.prepare_failure)
    failing = t.submit(1, 12000)
    t.wait(failing)
    assert failing.statuses == [errors.RAFT_NOSPACE]
    assert t.io.defer(t.io, [bytes(12000)], 1, lambda: None) == errors.RAFT_NOSPACE
    sick.begin(faults.always(errno.ENOSPC, "fallocate"))
    run_until(t.loop, lambda: t.uv.finalize_failure is None)
    while t.uv.prepare_pool:
        t.append(1, 12000)
    assert t.io.defer(t.io, [bytes(12000)], 1, lambda: None) == 0
    refused = t.submit(1, 12000)
    t.wait(refused)
    assert refused.statuses == [errors.RAFT_NOSPACE]
    assert t.io.defer(t.io, [bytes(12000)], 1, lambda: None) == errors.RAFT_NOSPACE
    t.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_full_disk_of_a_single_server(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands fail with RAFT_NOSPACE, the server stays up, and goes on by itself when there is space."""
    node = Node(tmp_path, 1, free_addresses(1), loop).start()
    sick = Faults(monkeypatch)
    assert node.try_apply(1) == 0
    sick.begin(faults.always(errno.ENOSPC, "fallocate"))
    statuses = []
    for number in range(2, 40):
        run_until(loop, lambda: node.state == RAFT_LEADER)
        statuses.append(node.try_apply(number, 8000))
    assert statuses[-1] == errors.RAFT_NOSPACE
    assert set(statuses) <= {0, errors.RAFT_NOSPACE}
    assert node.raft.current_term < 10, "a full disk must not make the server elect itself all the time"
    sick.heal()
    run_until(loop, lambda: node.uv.prepare_failure is None and node.state == RAFT_LEADER)
    assert node.try_apply(100) == 0
    applied = list(node.fsm.numbers)
    node.close()
    again = Node(tmp_path, 1, node.members, loop).start()
    assert again.fsm.numbers == applied
    again.close()


def test_leader_with_a_full_disk_hands_over(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader with a full disk steps down, another server takes over, and the first catches up with space."""
    nodes = make_nodes(tmp_path, 3, loop)
    first = settled(nodes)
    assert first.try_apply(1) == 0
    unsettle(nodes)
    sick = Faults(monkeypatch, first.dir)
    sick.begin(faults.always(errno.ENOSPC, "fallocate"))
    number = 1
    while first.state == RAFT_LEADER:
        number += 1
        first.try_apply(number, 8000)
    run_until(loop, lambda: leader_of(nodes) not in (None, first))
    numbers, applied = itertools.count(1000), []

    def apply() -> bool:
        leader, number = leader_of(nodes), next(numbers)
        if leader is not None and leader.try_apply(number, 8000) == 0:
            applied.append(number)
        return len(applied) == 10  # the cluster goes on without the full disk

    run_until(loop, apply)
    assert first.state != 0, "the server with the full disk is not unavailable"
    sick.heal()
    settled(nodes)
    run_until(loop, lambda: all(node.fsm.numbers == nodes[0].fsm.numbers for node in nodes))
    assert set(applied) <= set(first.fsm.numbers)
    for node in nodes:
        node.close()


def test_read_only_disk_of_a_server_that_has_to_vote(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that cannot store a new term stops, and the log says so; that its disk works again changes nothing."""
    nodes = make_nodes(tmp_path, 3, loop)
    first = settled(nodes)
    assert first.try_apply(1) == 0
    sick = Faults(monkeypatch, first.dir)
    sick.begin(faults.always(errno.EROFS))
    # The others may have stored, and with that committed, it before the own write fails; and it may lead no more then.
    assert first.try_apply(2) in (0, errors.RAFT_IOERR, errors.RAFT_LEADERSHIPLOST)
    unsettle(nodes)
    run_until(loop, lambda: first.state == RAFT_UNAVAILABLE)
    sick.heal()
    run_until(loop, lambda: not first.uv.retries)
    records = [record for record in caplog.records if record.name == "pyraft"]
    assert [record.levelname for record in records if "could not be stored" not in record.getMessage()] == ["ERROR"]
    text = records[-1].getMessage()
    assert text.startswith(f"server {first.id} stops, until it is closed and started again: io: ")
    assert text.endswith("read-only file system")
    assert said(caplog)[-1] == "segments can be made and closed again"
    assert first.state == RAFT_UNAVAILABLE
    for node in nodes:
        node.close()


# ---- stalls ----------------------------------------------------------------------------------------------------------


def test_a_stalled_disk_does_not_stop_the_cluster(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the leader's disk hangs its loop turns: heartbeats go out, and the followers' disks make a majority."""
    nodes = make_nodes(tmp_path, 3, loop)
    leader = settled(nodes)
    assert leader.try_apply(1) == 0
    heartbeats: Counter[int] = Counter()
    send = leader.io.send

    def counting(io: RaftIo, req: RaftIoSend, message: RaftMessage, cb: Any) -> int:
        if message.type == RAFT_IO_APPEND_ENTRIES and message.append_entries.n_entries == 0:
            heartbeats[message.server_id] += 1
        return send(io, req, message, cb)

    leader.io.send = counting
    sick = Faults(monkeypatch, leader.dir)
    sick.stall()
    number = 1
    while len(heartbeats) < 2 or min(heartbeats.values()) < 30:  # those of three election timeouts
        number += 1
        assert leader.try_apply(number) == 0
        before = heartbeats.total()
        run_until(loop, lambda before=before: heartbeats.total() > before)
    assert leader.raft.last_stored < number
    sick.heal()
    run_until(loop, lambda: leader.raft.last_stored >= number)
    for node in nodes:
        node.close()


# ---- what is not there any more --------------------------------------------------------------------------------------


def test_directory_deleted_under_the_server(tmp_path: Path) -> None:
    """Once the directory is gone nothing is acknowledged any more, although the open file still takes writes."""
    dir = tmp_path / "data"
    dir.mkdir()
    t = UvIo(dir).start()
    t.uv.disk_retry_delay = 5
    t.append()
    shutil.rmtree(dir)
    for _ in range(3):
        outcome = t.submit()
        t.wait(outcome)
        assert outcome.statuses == [errors.RAFT_IOERR]
    assert t.io.set_term(t.io, 5) == errors.RAFT_IOERR
    put = t.put(1, trailing=10)
    closed = t.begin_close()
    t.wait(closed)
    assert len(put.calls) == 1


def test_fill_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that cannot be filled with zeros ahead of time is removed, and another one made after a while."""
    t = UvIo(tmp_path).start()
    t.uv.disk_retry_delay = 3_600_000  # until the test has looked
    assert t.uv.zero_fill, "this test needs a disk with direct I/O"
    sick = Faults(monkeypatch)
    sick.begin(faults.always(errno.EIO, "pwrite"))
    t.append()
    run_until(t.loop, lambda: t.uv.prepare_failure)
    assert t.uv.prepare_failure.message == "fill segment open-2: write: i/o error"
    assert t.uv.prepare_inflight is None
    assert [idle.name for idle in t.uv.prepare_pool] == ["open-3"]
    t.wait_until_gone("open-2")
    sick.heal()
    t.uv.retry_timer.start(lambda _: retry._expired(t.uv), 0.01, 0.0)
    run_until(t.loop, lambda: len(t.uv.prepare_pool) == 2)
    assert t.uv.prepare_failure is None
    for _ in range(6):
        t.append(1, SEGMENT_SIZE // 2)
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == list(range(1, 8))
    fresh.close()


def test_failed_metadata_store(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot store its term does not take part any more, as in C; the term on disk is the old one."""
    node = Node(tmp_path, 1, free_addresses(1), loop).start()
    term = node.raft.current_term
    sick = Faults(monkeypatch)
    sick.begin(faults.always(errno.EIO, "write", "fdatasync"))
    assert node.io.set_term(node.io, term + 1) == errors.RAFT_IOERR
    sick.heal()
    node.close()
    t = UvIo(tmp_path).start()
    assert t.loaded[1] == term
    t.close()
    assert fs.size_of(os.fspath(tmp_path), "metadata1") == 32

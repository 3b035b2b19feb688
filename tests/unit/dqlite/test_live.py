"""Live files: readers see whole transactions, whenever the writer is killed, and nobody else writes."""

import errno
import os
import random
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from io_uv import fs
from io_uv.dqlite import live
from io_uv.dqlite.live import LiveFile
from io_uv.dqlite.machine import DqliteFsm
from io_uv.failure import Failure
from pyraft.errors import RAFT_BUSY, RAFT_CORRUPT
from tests.lib.dqlite import PAGE, Source, database

SEED = int(os.environ.get("DQLITE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
KILLS = int(os.environ.get("DQLITE_KILLS", "12"))
"""How many moments of a life are tried; 0 for all."""


class World:
    """A leader's database, a state machine that follows it, and a live file."""

    def __init__(self, folder: Path, page_size: int = PAGE) -> None:
        (folder / "leader").mkdir()
        self.source = Source(folder / "leader", page_size=page_size)
        self.fsm = DqliteFsm(str(folder / "databases"))
        self.fsm.open()
        self.path = folder / "live.db"
        self.file: LiveFile | None = None
        self.dirty: set[int] = set()
        self.readers: list[sqlite3.Connection] = []
        self.log: list[bytes] = []
        self.fsm.applied_cb = lambda frames: self.dirty.update(frames.numbers)

    def run(self, *statements: str) -> None:
        """Have the leader run statements and the machine follow."""
        for entry in self.source.run(*statements):
            self.log.append(entry)
            assert self.fsm.apply(self.fsm, entry) == (0, None)

    def begin_anew(self) -> None:
        """Have the machine of another process, with all of the log."""
        self.fsm.close()
        self.fsm.open()
        for entry in self.log:
            assert self.fsm.apply(self.fsm, entry) == (0, None)

    def publish(self) -> None:
        """Make visible what the machine has."""
        one = self.fsm.databases["test.db"]
        if self.file is None:
            if not self.path.exists():
                LiveFile.make(str(self.path), [one.image()])
            self.file = LiveFile(str(self.path), one.page_size)
            self.file.replace(one.n_pages, one.page)
        else:
            self.file.commit(sorted(n for n in self.dirty if n <= one.n_pages), one.page, one.n_pages)
        self.dirty.clear()

    def reader(self) -> sqlite3.Connection:
        """Return a new connection of a reader."""
        made = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, isolation_level=None)
        self.readers.append(made)
        return made

    def close(self) -> None:
        """Close everything, readers first."""
        for one in self.readers:
            one.close()
        if self.file is not None:
            self.file.close()
        self.fsm.close()
        self.source.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world with pages of 4096 bytes."""
    made = World(tmp_path)
    yield made
    made.close()


def dump(connection: sqlite3.Connection) -> list[str]:
    """Return all that a database says."""
    return list(connection.iterdump())


def tend(file: LiveFile) -> bool:
    """Move the log into the database."""
    file.checkpoint()
    return file.restart()


def test_readers_follow_whatever_comes_in_between(world: World) -> None:
    """Chance chooses: transactions, VACUUM, readers in the middle of one, checkpoints, logs begun anew, other lives."""
    print(f"seed {SEED}: DQLITE_SEED={SEED} repeats this")
    rng = random.Random(SEED)
    world.run("create table t(a)", "create index i on t(a)")
    world.publish()
    steady, restarts, old = world.reader(), 0, list[tuple[sqlite3.Connection, list[str]]]()
    for n in range(1000):
        if n >= 100 and restarts:
            break
        kind = rng.randrange(14)
        if kind < 6:
            world.run(f"insert into t values(hex(randomblob({rng.randrange(6000)})))")
        elif kind < 8:
            world.run("begin", "delete from t where random() % 3 = 0", "insert into t values(1)", "commit")
        elif kind == 8:
            world.run("vacuum")
        elif kind == 9 and len(old) < 3:
            one = world.reader()
            one.execute("begin")
            old.append((one, dump(one)))
        elif kind == 10 and old:
            one, seen = old.pop(rng.randrange(len(old)))
            assert dump(one) == seen, "a reader keeps the state that it began with"
            one.execute("commit")
        elif kind == 11:
            assert world.file is not None
            restarts += tend(world.file)
        elif kind == 12:
            assert world.file is not None
            world.file.close()
            world.file = None
        if rng.randrange(3) or world.file is None:
            world.publish()
            assert dump(steady) == dump(world.source.connection)
            content = world.source.content()
            assert b"".join(map(world.file.content, range(1, world.file.n_pages + 1))) == content
    assert restarts
    for one, seen in old:
        assert dump(one) == seen
    assert steady.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_large_transaction(tmp_path: Path) -> None:
    """It goes over several parts of the index; an earlier life's log is found again, and a log is cut in the end."""
    world = World(tmp_path, 512)
    world.run("create table t(a)")
    world.publish()
    reader = world.reader()
    statement = "insert into t with recursive c(x) as (select 1 union all select x + 1 from c limit 4000) "
    world.run(statement + "select hex(randomblob(500)) from c")
    world.publish()
    assert world.file is not None
    assert world.file.last_frame > 8200
    assert reader.execute("select count(*) from t").fetchone() == (4000,)
    assert dump(reader) == dump(world.source.connection)
    world.file.close()  # a reader is there, so the log stays
    world.file = None
    world.run("update t set a = hex(randomblob(500)) where rowid % 2")
    world.publish()
    assert dump(reader) == dump(world.source.connection)
    file: LiveFile | None = world.file
    assert file is not None
    assert tend(file)
    world.run("delete from t where rowid > 7", "vacuum")
    world.publish()
    assert tend(file)
    assert world.path.stat().st_size == len(world.source.content())
    assert reader.execute("pragma integrity_check").fetchone() == ("ok",)
    world.close()


def test_nobody_else_writes(world: World) -> None:
    """Nobody can while it is open; all that somebody wrote meanwhile is undone when it is opened again."""
    world.run("create table t(a)", "insert into t values(1)")
    world.publish()
    other = sqlite3.connect(world.path, timeout=0, isolation_level=None)
    world.readers.append(other)
    for statement in ("insert into t values(2)", "pragma journal_mode=delete", "begin immediate", "vacuum"):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute(statement).fetchall()
    with pytest.raises(Failure, match="somebody else writes") as caught:
        LiveFile(str(world.path), PAGE)
    assert caught.value.code == RAFT_BUSY
    assert world.file is not None
    world.file.close()
    world.file = None
    other.execute("insert into t values(2)")
    other.execute("begin immediate")
    with pytest.raises((Failure, sqlite3.OperationalError)):
        world.publish()
    other.execute("rollback")
    world.publish()
    assert other.execute("select a from t").fetchall() == [(1,)]


def test_what_is_not_a_live_file(tmp_path: Path) -> None:
    """Files that are not databases in WAL mode, or have other pages, are refused as such."""
    path = tmp_path / "x.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        LiveFile(str(path), PAGE)
    path.write_bytes(b"")
    with pytest.raises(Failure, match="in mode delete") as caught:
        LiveFile(str(path), PAGE)
    assert caught.value.code == RAFT_CORRUPT
    LiveFile.make(str(path), [database("create table t(a)")])
    with pytest.raises(Failure, match="pages of 4096 bytes"):
        LiveFile(str(path), 512)
    LiveFile(str(path), PAGE).close()
    assert os.listdir(tmp_path) == ["x.db"], "the last one to close leaves one file"


def test_names_of_live_files() -> None:
    """No database's file is one that SQLite has beside another one."""
    names = ["a", "a-wal", "a-shm", "a-journal", "a-wal%live", "../a"]
    found = [live.file_name(name) for name in names]
    assert found[:2] == ["a", "a-wal%live"]
    assert len(set(found)) == len(found)
    assert not [name for name in found if name.endswith(("-wal", "-shm", "-journal")) or "/" in name]


def test_a_failing_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write in turn: nothing of the transaction is visible, and it is made visible later as a whole."""
    world.run("create table t(a)")
    world.publish()
    reader, pwrite, left = world.reader(), fs.pwrite, [0]

    def failing(fd: int, data: bytes, offset: int) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "full")
        left[0] -= 1
        return pwrite(fd, data, offset)

    for n in range(4):
        world.run("begin", *["insert into t values(hex(randomblob(200000)))"] * 3, "commit")
        before = dump(reader)
        monkeypatch.setattr(fs, "pwrite", failing)
        left[0] = n
        try:
            world.publish()
        except OSError:
            assert dump(reader) == before
        monkeypatch.setattr(fs, "pwrite", pwrite)
        world.publish()
        assert dump(reader) == dump(world.source.connection)
    assert n > 1


# Kills.


def test_what_a_kill_in_a_restart_leaves_is_put_right(world: World) -> None:
    """Of the log begun anew nothing is in the database, whatever of the former one was."""
    world.run("create table t(a)", "insert into t values(0)")
    world.publish()
    reader = world.reader()
    assert dump(reader)  # from now on it has the log open, which so stays
    for n in range(1, 9):
        world.run(f"insert into t values({n})")
        world.publish()
    file, world.file = world.file, None
    assert file is not None
    file.checkpoint()
    frames = file.last_frame
    assert frames == file._words[live._BACKFILLED] == 8
    file._begin_log()
    file._publish()  # killed here
    file.close()
    world.publish()
    for n in range(9, 18):
        world.run(f"insert into t values({n})")
        world.publish()
        assert world.file is not None
        assert world.file.last_frame == n - 8
        assert reader.execute("select max(a) from t").fetchone() == (n,)


def killed_at(line: int, work: Callable[[], object]) -> int:
    """Run `work` in a child that is killed at that line of the module, 0 for none; return how many it came to."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        _, status = os.waitpid(pid, 0)
        with open(reading, "rb") as file:
            data = file.read()
        assert (os.WTERMSIG(status) if os.WIFSIGNALED(status) else status) == (signal.SIGKILL if line else 0)
        return int(data or b"0")
    seen = [0]

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            seen[0] += 1
            if seen[0] == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    status = 1
    try:
        os.close(reading)
        sys.settrace(lambda frame, event, arg: local if frame.f_code.co_filename == live.__file__ else None)
        work()
        sys.settrace(None)
        os.write(writing, str(seen[0]).encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def life(world: World, entries: list[bytes]) -> None:
    """Do as a writer does: transactions, and in between the log goes into the database."""
    world.begin_anew()
    for at, entry in enumerate(entries):
        assert world.fsm.apply(world.fsm, entry) == (0, None)
        world.publish()
        if at % 2 == 0:
            assert world.file is not None
            tend(world.file)


def whole(connection: sqlite3.Connection) -> int:
    """Return which state a reader sees; all rows of it are of one transaction."""
    [(least, most, n)] = connection.execute("select min(a), max(a), count(*) from t").fetchall()
    assert least == most
    assert n == 12
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    return int(least)


def try_a_kill(folder: Path, line: int, watched: bool) -> int:
    """Kill a writer at a line, look at what readers see, and go on in another life; return the lines of a whole one."""
    folder.mkdir()
    world = World(folder)
    world.run("create table t(a, b)")
    rows = "with recursive c(x) as (select 1 union all select x + 1 from c limit 12) select 0, hex(randomblob(1500))"
    world.run(f"insert into t {rows} from c")
    steady = None
    if watched:
        world.publish()
        assert world.file is not None
        world.file.close()
        world.file = None
        steady = world.reader()
        assert whole(steady) == 0
    entries = [world.source.run("update t set a = a + 1, b = hex(randomblob(1500))")[0] for _ in range(4)]
    world.fsm.close()  # a child has none of its descriptors
    lines = killed_at(line, lambda: life(world, entries))
    if world.path.exists():
        seen = whole(world.reader())
        assert steady is None or seen == whole(steady)
    world.log += entries
    world.begin_anew()
    world.publish()
    assert whole(world.reader()) == 4
    assert steady is None or whole(steady) == 4, "a reader of the former life goes on"
    world.run("insert into t select * from t")
    world.publish()
    assert dump(steady or world.reader()) == dump(world.source.connection)
    world.close()
    return lines


@pytest.mark.parametrize("watched", [False, True])
def test_a_kill_at_any_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:
    """Readers see a state between two transactions, and go on when there is a writer again.

    Without a reader during the kill the next one recovers what the log has by its checksums.
    """
    print(f"seed {SEED}: DQLITE_SEED={SEED} repeats this")
    rng = random.Random(SEED)
    monkeypatch.setattr(live, "_PIECE", 2)  # a transaction is written in many pieces
    lines = try_a_kill(tmp_path / "0", 0, watched)
    assert lines > 500
    chosen = range(1, lines + 1) if KILLS == 0 else rng.sample(range(1, lines + 1), KILLS)
    for line in chosen:
        print(f"line {line} of {lines}")
        try_a_kill(tmp_path / str(line), line, watched)

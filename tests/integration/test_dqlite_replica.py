"""Replicas: what their live files show, and when; changes as they come; backups of a cluster that runs."""

import asyncio
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from io_uv.dqlite import responses
from pyraft import raft_set_snapshot_threshold
from pyraft.dqlite import Change, DqliteError, Overrun, Refused, Replica, backup
from pyraft.dqlite.publish import POSITION
from pyraft.progress import PROGRESS__PROBE
from tests.integration.test_dqlite_member import FAST, World, address, in_world
from tests.lib import lock_byte
from tests.lib.dqlite import PAGE, database
from tests.lib.nodes import until

KILLS = int(os.environ.get("DQLITE_KILLS", "2"))


async def replica_of(world: World, id: int, **options: Any) -> Replica:
    """Start a replica and wait until it is in the cluster."""
    options = {"settings": FAST, **options}
    made = Replica(world.folder / str(id), address(), [world.founder.address], id=id, **options)
    world.made.append(made)
    await made.start()
    await made.joined()
    return made


def reader(replica: Replica, name: str = "test.db") -> sqlite3.Connection:
    """Return a connection to a live file."""
    return sqlite3.connect(f"file:{replica.databases()[name]}?mode=ro", uri=True, isolation_level=None)


def rows(connection: sqlite3.Connection) -> int:
    """Return how many rows a reader sees."""
    return int(connection.execute("select count(*) from t").fetchone()[0])


def whole(connection: sqlite3.Connection) -> int:
    """Return the number that all rows have, in whatever transaction a reader sees."""
    least, most = connection.execute("select min(a), max(a) from t").fetchone()
    assert least == most
    return int(least)


def now_shown(replica: Replica) -> int:
    """Return how many rows a new reader sees."""
    with closing(reader(replica)) as connection:
        return rows(connection)


async def shown(connection: sqlite3.Connection, n: int) -> None:
    """Wait until a reader sees so many rows; it never sees fewer than before."""
    before = 0
    while (now := rows(connection)) != n:
        assert before <= now <= n
        before = now
        await asyncio.sleep(0.01)


def test_changes_are_told_when_the_file_has_them(tmp_path: Path) -> None:
    """Each transaction is told in turn, with index, pages and size; a snapshot as a whole."""

    async def test(world: World) -> None:
        replica = await replica_of(world, 2)
        assert replica.own_role == responses.STANDBY
        changes, seen = replica.changes(), list[Change]()
        await world.write("create table t(a)")
        for n in range(20):
            await world.write(f"insert into t values(zeroblob({n * 700}))")
        async for change in changes:
            seen.append(change)
            assert now_shown(replica) >= len(seen) - 1
            if len(seen) == 21:
                break
        indexes = [one.index for one in seen]
        assert indexes == sorted(set(indexes))
        assert seen[-1].index == world.founder.server.raft.last_applied
        assert {one.database for one in seen} == {"test.db"}
        assert all(one.pages and not one.whole for one in seen)
        assert seen[-1].n_pages * 4096 == len(world.source.content())
        connection = reader(replica)
        assert rows(connection) == 20
        # It misses so much that a snapshot comes, whose content is told of as one change.
        await replica.close()
        with pytest.raises(StopAsyncIteration):
            await changes.__anext__()
        # The leader keeps what it has begun to send for a while. That may be all that is missing: then another round.
        leader, n, last = world.founder.server.raft, 20, seen[-1]
        while not last.whole:
            await until(lambda: leader.leader_state.progress[1].state == PROGRESS__PROBE)
            for _ in range(40):
                await world.write("insert into t values(1)")
            n, end = n + 40, leader.last_applied
            # Snapshots are taken in a thread: one that leaves out what is missing may come a moment later.
            await until(lambda index=last.index: leader.log.offset > index)
            again = world.made[-1] = Replica(replica.directory, replica.address, settings=FAST)
            changes = again.changes()
            await again.start()
            while not last.whole and last.index < end:
                index, last = last.index, await changes.__anext__()
                assert last.index > index
            if not last.whole:
                await again.close()
        assert last.pages == ()
        await shown(connection, n)
        connection.close()

    in_world(tmp_path, test)


def test_a_slow_consumer_is_told(tmp_path: Path) -> None:
    """It gets what there was room for, then Overrun with the number that it has missed, then the end."""

    async def test(world: World) -> None:
        await world.write("create table t(a)")
        replica = await replica_of(world, 2)
        slow, quick = replica.changes(3), replica.changes()
        for _ in range(10):
            await world.write("insert into t values(1)")
        found = [await quick.__anext__() for _ in range(10)]
        assert [await slow.__anext__() for _ in range(3)] == found[:3]
        with pytest.raises(Overrun, match="7 changes behind entry") as caught:
            await slow.__anext__()
        assert (caught.value.index, caught.value.missed) == (found[2].index, 7)
        with pytest.raises(StopAsyncIteration):
            await slow.__anext__()
        quick.close()
        await world.write("insert into t values(1)")
        with pytest.raises(StopAsyncIteration):
            await quick.__anext__()

    in_world(tmp_path, test)


def test_readers_never_go_back(tmp_path: Path) -> None:
    """A replica that starts again has an older state at first, which nobody sees; readers need not connect again."""

    async def test(world: World) -> None:
        await world.write("create table t(a)")
        await world.write("insert into t values(1)")
        none_taken = dataclasses.replace(FAST, snapshot_threshold=1000, snapshot_trailing=1000)
        raft_set_snapshot_threshold(world.founder.server.raft, 1000)
        replica = await replica_of(world, 2, settings=none_taken)
        while "test.db" not in replica.databases():
            await asyncio.sleep(0.01)
        connection = reader(replica)
        for n in range(30):
            await world.write(f"insert into t values({n})")
        await shown(connection, 31)
        await replica.close()
        await world.founder.close()
        # There is no snapshot of all this, and nobody tells it how much of its log is committed.
        again = world.made[-1] = Replica(replica.directory, replica.address, settings=none_taken)
        await again.start()
        assert again.server.raft.last_applied < again._publisher._bound
        assert rows(connection) == 31
        world.made[0] = type(world.founder)(world.founder.directory, world.founder.address, settings=FAST)
        await world.made[0].start()
        await world.made[0].server.wait_until(lambda: world.made[0].server.is_leader)
        await world.write("insert into t values(1)")
        await shown(connection, 32)
        connection.close()

    in_world(tmp_path, test)


def test_a_shorter_log_is_shown_in_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cluster that has lost its majority may have lost entries: the files follow later, and the log says so."""

    async def test(world: World) -> None:
        await world.write("create table t(a)")
        replica = await replica_of(world, 2)
        while "test.db" not in replica.databases():
            await asyncio.sleep(0.01)
        with closing(reader(replica)) as connection:
            await replica.close()
            Path(replica.files, POSITION).write_bytes((1 << 40).to_bytes(8, "little"))
            await world.write("insert into t values(1)")
            again = world.made[-1] = Replica(replica.directory, replica.address, settings=FAST)
            await again.start()
            await shown(connection, 1)

    in_world(tmp_path, test)
    assert "shorter than it was" in caplog.text


def test_kills_of_a_replica(tmp_path: Path) -> None:
    """The command is killed again and again while the cluster writes: a reader sees whole transactions, and goes on."""

    async def test(world: World) -> None:
        rows = "with recursive c(x) as (select 1 union all select x + 1 from c limit 50) select 0 from c"
        await world.write("create table t(a)")
        await world.write(f"insert into t {rows}")
        at, folder = address(), tmp_path / "shared"
        command = [sys.executable, "-m", "pyraft", "dqlite", "replica", str(tmp_path / "2"), f"--address={at}"]
        command += [f"--join={world.founder.address}", "--id=2", "--network-latency=40", f"--files={folder}"]
        written: list[int] = []
        command += ["--snapshot-threshold=8", "--snapshot-trailing=8", "--changes"]
        seen: list[int] = []
        connection: sqlite3.Connection | None = None
        for at_end in [False] * KILLS + [True]:
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                line = await process.stdout.readline()
                assert line == f"node 2 at {at} is in the cluster; databases are in {folder}\n".encode()
                for _ in range(25):
                    await world.write("update t set a = a + 1")
                    written.append(len(written))
                    if connection is None and folder.joinpath("test.db").exists():
                        connection = sqlite3.connect(f"file:{folder}/test.db?mode=ro", uri=True, isolation_level=None)
                    if connection is not None:
                        seen.append(whole(connection))
                        assert seen == sorted(seen)
                if at_end:
                    while connection is None:
                        await asyncio.sleep(0.01)
                        if folder.joinpath("test.db").exists():
                            path = f"file:{folder}/test.db?mode=ro"
                            connection = sqlite3.connect(path, uri=True, isolation_level=None)
                    while whole(connection) != len(written):
                        await asyncio.sleep(0.01)
                    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
                    connection.close()
                process.send_signal(signal.SIGTERM if at_end else signal.SIGKILL)
                said = (await process.stdout.read()).decode().splitlines()
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        assert process.returncode == 0
        assert said, "changes are told"
        assert all(line.startswith('{"database": "test.db", "index": ') for line in said)
        assert sorted(os.listdir(folder)) == ["%position", "test.db"]

    in_world(tmp_path, test, 200 * (KILLS + 1))


# Backups.


def test_a_backup_of_a_cluster(tmp_path: Path) -> None:
    """The leader gives it, or a member that is named; it is sound, with no log beside it; a failure leaves none."""

    async def test(world: World) -> None:
        await world.write("create table t(a)")
        for n in range(20):
            await world.write(f"insert into t values(zeroblob({n * 900}))")
        replica = await replica_of(world, 2)
        await world.equal(replica)
        target = tmp_path / "kept" / "a.db"
        target.parent.mkdir()
        found = await backup.take([replica.address], "test.db", target)
        assert (found.address, found.n_pages * 4096) == (world.founder.address, len(world.source.content()))
        with closing(sqlite3.connect(target)) as connection:
            assert list(connection.iterdump()) == list(world.source.connection.iterdump())
        assert target.read_bytes()[:16] == b"SQLite format 3\0"
        other = tmp_path / "kept" / "b.db"
        assert (await backup.take([], "test.db", other, member=replica.address)).address == replica.address
        assert other.read_bytes() == target.read_bytes()
        with pytest.raises(Refused, match=r"a\.db already"):
            await backup.take([replica.address], "test.db", target)
        with pytest.raises(DqliteError, match="database does not exist"):
            await backup.take([replica.address], "none", tmp_path / "kept" / "c.db")
        world.founder.fsm.databases["test.db"].write((2,), bytes(4096), found.n_pages)
        with pytest.raises(Refused, match="is not sound"):
            await backup.take([replica.address], "test.db", tmp_path / "kept" / "c.db")
        assert sorted(os.listdir(target.parent)) == ["a.db", "b.db"]

    in_world(tmp_path, test)


class Answering:
    """A node that answers every DUMP with the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __call__(self, address: str) -> Any:
        """Serve as the function that opens connections."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.server = server
        return await asyncio.open_connection(*server.sockets[0].getsockname())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(16)
        writer.write(self.data)
        await writer.drain()
        writer.close()
        self.server.close()


def test_a_backup_has_zeros_where_sqlite_has_nothing(tmp_path: Path) -> None:
    """The page at 1 GiB, moved here, has what a node's memory had; SQLite's own pages are as they came."""
    at = 4 * PAGE
    with lock_byte.moved(at) as problem:
        if problem:
            pytest.skip(problem)
        main = database("create table t(a)", "insert into t values(zeroblob(40000))")
        dirty = main[:at] + b"\x5a" * PAGE + main[at + PAGE :]
        answer = responses.Files((("x", dirty), ("x-wal", b""))).encode()
        found = asyncio.run(backup.take([], "x", tmp_path / "x", member="node:1", dial=Answering(answer)))
        assert (tmp_path / "x").read_bytes() == main[:18] + b"\1\1" + main[20:]
        assert found.n_pages * PAGE == len(main) > at + PAGE


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", "has ended the connection"),
        (responses.Empty().encode(), "an answer of type 8"),
        (responses.Files((("y", b""), ("y-wal", b""))).encode(), "of another name"),
        (responses.Files((("x", b""), ("x-wal", b""))).encode(), "knows no database 'x'"),
        (responses.Files((("x", bytes(4096)), ("x-wal", b""))).encode(), "not that of a database"),
        (responses.Files((("x", bytes(4096)), ("x-wal", b""))).encode()[:-2000], "has ended the connection"),
        (responses.Failed(1, "no").encode(), "no"),
    ],
)
def test_bad_answers_leave_no_backup(tmp_path: Path, answer: bytes, what: str) -> None:
    """There is no file, and nothing beside it, after any of them."""
    with pytest.raises((OSError, Refused, DqliteError), match=what):
        asyncio.run(backup.take([], "x", tmp_path / "x", member="node:1", dial=Answering(answer)))
    assert os.listdir(tmp_path) == []

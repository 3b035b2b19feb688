"""The client of this project in clusters of go-dqlite: values, rows, transactions, members, nodes that are killed."""

import asyncio
import contextlib
import datetime
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv.dqlite import requests, responses
from io_uv.dqlite.tuples import IsoTime, UnixTime
from pyraft.dqlite import Aborted, Client, Cluster, DqliteError, Refused, Statement, Transaction, Unavailable
from pyraft.dqlite.session import Parameter
from tests.interop.dqlite.driver import Cluster as Nodes
from tests.interop.dqlite.driver import Node, ask
from tests.interop.dqlite.load import Load
from tests.interop.dqlite.test_witness import CREATE, TRANSFERS, check, three

TABLE = "create table m(i int, f float, t text, b blob, n int, d datetime, o boolean)"
LONG = "with recursive c(x) as (select 1 union all select x + 1 from c limit 5000) select x, hex(x) from c"


@pytest.fixture
def node(cluster: Callable[..., Nodes]) -> Node:
    """A node of go-dqlite that leads a cluster of its own."""
    made = cluster().go()
    made.start()
    return made


def test_values_go_both_ways(node: Node) -> None:
    """They go as parameters, prepared or not, and in rows; the types are those that the columns have."""

    async def run() -> None:
        async with Client([node.address], "test.db") as client:
            await client.execute(TABLE)
            rows: list[tuple[Parameter, ...]] = [
                (-2, 1.5, "hi ü", b"12345678", None, 1700000000, True),
                ((1 << 63) - 1, -0.0, "", b"", None, datetime.datetime(2026, 1, 2, 3, 4, 5, 6), False),
            ]
            insert = Statement("insert into m values(?, ?, ?, ?, ?, ?, ?)")
            assert (await client.execute(insert, *rows[0])).last_insert_id == 1
            assert (await client.execute(insert.sql, *rows[1])).rows_affected == 1
            for query in ("select * from m", Statement("select * from m")):
                table = await client.query(query)
                assert table.columns == tuple("iftbndo")
                assert table[0] == rows[0]
                assert table[1] == (*rows[1][:5], "2026-01-02 03:04:05.000006", False)
                assert [type(value) for value in table[0][5:]] == [UnixTime, bool]
                assert isinstance(table[1][5], IsoTime)
            with pytest.raises(DqliteError, match="no such table"):
                await client.query("select * from v")
            await client.execute("create unique index u on m(t)")
            with pytest.raises(DqliteError, match="UNIQUE"):
                await client.execute(insert, *rows[0])

    asyncio.run(run())


def test_rows_in_parts_and_given_up(node: Node) -> None:
    """All rows come, those of a prepared query too; behind a query that was given up the connection goes on."""

    async def run() -> None:
        async with Client([node.address], "test.db", size=1) as client:
            for query in (LONG, Statement(LONG)):
                assert len(await client.query(query)) == 5000
                for taken in (0, 1, 700, 5000):
                    async with client.rows(query) as rows:
                        seen = []
                        if taken:
                            async for row in rows:
                                seen.append(row[0])
                                if len(seen) == taken:
                                    break
                    assert seen == list(range(1, taken + 1))
                    assert list(await client.query("select 1")) == [(1,)]

    asyncio.run(run())


def test_transactions(node: Node) -> None:
    """They are committed, rolled back, behind errors, beside each other; each increment of `transact` counts once."""

    async def run() -> None:
        async with Client([node.address], "test.db") as client:
            await client.execute("create table t(a integer primary key, b text)")
            await client.execute("insert into t values(0, 0)")
            with pytest.raises(KeyError):
                await _insert_and_fail(client, "insert into t values(1, 'x')")
            async with client.transaction() as transaction:
                with pytest.raises(DqliteError, match="UNIQUE"):
                    await transaction.execute("insert into t values(0, 'x')")
                await transaction.execute("insert into t values(2, 'x')")
            with pytest.raises(Aborted, match="rolled back"):
                await _insert_and_fail(client, "insert or rollback into t values(0, 'x')", DqliteError)
            assert list(await client.query("select a from t")) == [(0,), (2,)]

            async def count(transaction: Transaction) -> None:
                [[n]] = await transaction.query("select b from t where a = 0")
                await transaction.execute("update t set b = ? where a = 0", int(str(n)) + 1)

            await asyncio.gather(*[client.transact(count, timeout_seconds=60) for _ in range(20)])
            assert list(await client.query("select b from t where a = 0")) == [("20",)]

    asyncio.run(run())


async def _insert_and_fail(client: Client, text: str, caught: type[Exception] = ValueError) -> None:
    """Run a statement in a transaction, and another one behind an error of this class; KeyError if there is none."""
    async with client.transaction() as transaction:
        with contextlib.suppress(caught):
            await transaction.execute(text)
            raise KeyError
        await transaction.execute("insert into t values(3, 'x')")


def test_what_dqlite_before_1_15_cannot_do(node: Node) -> None:
    """More than 255 parameters and rows of a write (1.18.2) are refused, or work: the node's version is found out."""

    async def run() -> None:
        async with Client([node.address], "test.db") as client:
            await client.execute("create table t(a)")
            for sql, values in (("insert into t values(7) returning a", ()), ("select ?256", tuple(range(256)))):
                try:
                    table = await client.query(sql, *values)
                except Refused:
                    continue
                assert table[0] in ((7,), (255,))
            assert len(await client.query("select * from t")) <= 1

    asyncio.run(run())


def test_why_rows_of_a_write_are_refused(cluster: Callable[..., Nodes]) -> None:
    """A leader of dqlite 1.11 that is asked for them, by another client, has the row, and nobody else gets it."""
    both = cluster()
    first, second, witness, client = three(both)
    client.ask("exec insert into t(b) values('seen by all')")
    both.until_equal([first, second, witness])
    opening = (requests.Client(1), requests.Open("test.db"), requests.Prepare(0, "select 1", 1))
    insert = requests.QuerySql(0, "insert into t(b) values('by query') returning b")
    *_, stmt, answer = ask(first.address, *opening, insert)
    if isinstance(stmt, responses.Stmt) and stmt.schema == 1:
        pytest.skip("this is dqlite 1.15 or newer")
    assert answer == responses.Rows(("b",), (("by query",),))
    first.kill()
    assert client.ask("query select count(*) from t") == "1"


def test_rows_of_a_write_are_on_all_members(cluster: Callable[..., Nodes], tmp_path: Path) -> None:
    """A leader of dqlite 1.18.2 or newer hands them out and replicates them; 300 parameters go there, too."""
    both = cluster()
    first, second, witness, _ = three(both)

    async def run() -> None:
        async with Client([first.address, second.address], "test.db") as client:
            try:
                table = await client.query("insert into t(b) values(?), (?) returning a, b", "x", "y")
            except Refused:
                pytest.skip("this is a dqlite before 1.18.2")
            assert list(table) == [(1, "x"), (2, "y")]
            values = [str(n) for n in range(300)]
            text = f"insert into t(b) values{', '.join(['(?)'] * 300)}"
            for statement in (text, Statement(text)):
                assert (await client.execute(statement, *values)).rows_affected == 300
                async with client.transaction() as transaction:
                    assert len(await transaction.query(Statement(text + " returning b"), *values)) == 300
            assert len(await client.query(f"select {', '.join('?' * 300)}", *range(300))) == 1

    asyncio.run(run())
    check(both.until_equal([first, second, witness]), tmp_path, 1202)


def test_the_members_are_administered(cluster: Callable[..., Nodes], tmp_path: Path) -> None:
    """They are added, promoted, described, asked for the database, given the leadership, removed."""
    both = cluster()
    first, second, witness = both.go(), both.go(), both.python()

    async def run() -> Node:
        admin = Cluster([first.address, second.address])
        await admin.add(second.id, second.address)
        await admin.assign(second.id, responses.VOTER)
        await in_thread(witness.start)
        assert {one.id: one.role for one in await admin.members()} == {1: 0, 2: 0, 3: 0}
        async with Client([first.address], "test.db") as client:
            await client.execute(CREATE.partition(" ")[2])
            for target in (second, witness, first):
                await admin.transfer(target.id)
                assert (await client.execute("insert into t(b) values('x')")).rows_affected == 1
            files = await admin.dump("test.db")
            assert list(files) == ["test.db", "test.db-wal"]
        await admin.weigh(witness.address, 5)
        assert await admin.describe(witness.address) == responses.Metadata(0, 5)
        leader = await admin.leader()
        other, left = (first, second) if leader.id != first.id else (second, first)
        await admin.remove(other.id)
        assert len(await admin.members()) == 2
        with pytest.raises(DqliteError):
            await admin.assign(99, 0)
        with pytest.raises(Unavailable, match="no leader"):
            await Cluster(["127.0.0.1:1"], timeout_seconds=0.5).members()
        return left

    first.start()
    second.start()
    check(both.until_equal([asyncio.run(run()), witness]), tmp_path, 3)


def test_each_node_is_killed_under_load(cluster: Callable[..., Nodes], tmp_path: Path) -> None:
    """Two Go nodes and a witness: the client goes on, every acknowledged row is there, and none that was refused."""
    both = cluster(threshold=64, trailing=64)
    first, second, witness, _ = three(both)
    nodes = [first, second, witness]
    random.Random(7).shuffle(nodes)
    load = Load(both, 4)

    async def run() -> None:
        async with load:
            for node in nodes:
                await load.until(40)
                await in_thread(node.kill)
                await load.until(40)
                await in_thread(node.start)
            await load.until(40)

    asyncio.run(run())
    load.judge(both.until_equal([first, second, witness]), tmp_path)


async def in_thread(function: Callable[[], object]) -> None:
    """Run a function that blocks."""
    await asyncio.get_running_loop().run_in_executor(None, function)


def test_transfers_right_after_writes(cluster: Callable[..., Nodes], tmp_path: Path) -> None:
    """A program that uses our client sees no error while the leadership goes to and fro, but perhaps an unknown end."""
    both = cluster()
    first, second, witness, _ = three(both)
    load = Load(both, 3)

    async def run() -> None:
        admin = Cluster([first.address, second.address], timeout_seconds=60)
        async with load:
            for n in range(TRANSFERS):
                await load.until(3)
                members = [first, second, witness] if n % 2 else [first, second]
                leader = (await admin.leader()).address
                target = next(one for one in members[::-1] if one.address != leader)
                await admin.transfer(target.id)

    asyncio.run(run())
    print(dict(load.counts), load.why)
    assert set(load.counts) <= {"done", "Unknown"}, f"{dict(load.counts)}: {load.why}"
    load.judge(both.until_equal([first, second, witness]), tmp_path)

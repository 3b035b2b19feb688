"""Transactions, rows, parameters and administration of the client of dqlite, against nodes that a test writes."""

import contextlib
import datetime
from typing import Any

import pytest

from io_uv.dqlite import requests, responses
from io_uv.dqlite.requests import Exec, ExecSql, Query, QuerySql, Request
from io_uv.dqlite.responses import Failed, Response, Rows
from io_uv.dqlite.tuples import IsoTime
from pyraft.dqlite import Aborted, Client, Cluster, DqliteError, Refused, Statement, Unavailable, Unknown, session
from pyraft.dqlite import peer as peers
from tests.integration.test_dqlite_client import INSERT, INTERRUPTED, NOT_LEADER, always, once, run
from tests.lib.dqlite_scripted import END, HANG, SOON, Endless, Scripted, overdue


def texts(node: Scripted) -> list[str]:
    """Return the statements that a node was sent."""
    return [one.sql for one in node.asked if isinstance(one, (ExecSql, QuerySql))]


def test_a_transaction_is_committed_or_rolled_back() -> None:
    """It ends with its block, by an exception of the program, or by one of the node."""

    async def test() -> None:
        async with Scripted() as node, Client([node.address], "x") as client:
            async with client.transaction() as transaction:
                await transaction.execute(INSERT)
            with pytest.raises(KeyError):
                async with client.transaction(reads_only=True):
                    raise KeyError
            assert texts(node) == ["begin immediate", INSERT, "commit", "begin", "rollback"]
            assert node.count(requests.Open) == 1
            with pytest.raises(RuntimeError, match="it was committed"):
                await transaction.execute(INSERT)

    run(test())


@pytest.mark.parametrize(
    "answers",
    [END, [NOT_LEADER], [INTERRUPTED], [Failed(10506, "lost")], [Failed(5, "busy")], [Failed(4, "x")]],
)
@pytest.mark.parametrize("where", ["insert", "commit"])
def test_nothing_of_a_transaction_was_done(answers: "list[Response]", where: str) -> None:
    """Before COMMIT was sent that is certain, whatever happens; then only what says so is, and the rest is Unknown.

    No statement goes to the node behind that, though the program may have caught the error.
    """
    unknown = where == "commit" and (answers is END or answers[0] in (Failed(10506, "lost"), Failed(4, "x")))

    async def test() -> None:
        async with Scripted(once(ExecSql, *answers, says=where)) as node, Client([node.address], "x") as client:
            with pytest.raises(Unknown if unknown else Aborted):
                await _twice(client)
            assert texts(node).count(INSERT) == (1 if where == "insert" else 2)
            assert texts(node)[-1].startswith(where)
            await client.execute(INSERT)

    run(test())


async def _twice(client: Client) -> None:
    async with client.transaction() as transaction:
        for _ in range(2):
            with contextlib.suppress(Aborted):
                await transaction.execute(INSERT)


@pytest.mark.parametrize("open", [True, False])
def test_behind_an_error_a_transaction_goes_on_if_it_is_there(open: bool) -> None:
    """SQLite may have rolled it back: then statements behind that would be transactions of their own."""
    refusal: Response = Failed(1, "cannot start a transaction within a transaction")

    def answer(request: Request) -> "list[Response] | None":
        sql = getattr(request, "sql", "")
        if sql == "begin" and open:
            return [refusal]
        return [Failed(19, "constraint")] if sql == INSERT else None

    async def test() -> None:
        async with Scripted(answer) as node, Client([node.address], "x") as client:
            seen: list[type[Exception]] = []
            try:
                async with client.transaction() as transaction:
                    with pytest.raises(DqliteError, match="constraint"):
                        await transaction.execute(INSERT)
                    await transaction.execute("insert into u values(1)")
            except Aborted as exc:
                seen.append(type(exc))
            assert seen == ([] if open else [Aborted])
            assert texts(node)[3:] == (["insert into u values(1)", "commit"] if open else [])

    run(test())


def test_statements_that_are_not_for_here() -> None:
    """Ends of transactions, several statements, none, rows of an execute: ValueError, and nothing is sent."""

    async def test() -> None:
        async with Scripted() as node, Client([node.address], "x") as client:
            for text in ("begin", "COMMIT", " /* x */ rollback", "savepoint a", "select 1; select 2", "", "-- x"):
                with pytest.raises(ValueError):
                    await client.execute(text)
            returning = ("insert into t values(1) returning a", "select 1", "with a(b) as (values(1)) select b from a")
            for text in (*returning, "values(1)", "explain select 1"):
                with pytest.raises(ValueError, match="query"):
                    await client.execute(text)
            with pytest.raises(ValueError, match="may write"):
                async with client.rows("delete from t"):
                    pass
            with pytest.raises(ValueError):
                await client.execute(INSERT, 1 << 63)
            with pytest.raises(ValueError):
                await client.execute(INSERT, "a\0b")
            assert texts(node) == []
            async with client.transaction() as transaction:
                await transaction.execute("savepoint a")
                await transaction.execute("rollback to a")
                with pytest.raises(ValueError):
                    await transaction.execute("rollback")
            assert texts(node) == ["begin immediate", "savepoint a", "rollback to a", "commit"]

    run(test())


def test_one_statement_at_a_time_in_a_transaction() -> None:
    """Another one meanwhile, be it beside rows that are still coming, is a mistake of the program."""
    parts: list[Response] = [Rows(("a",), ((1,),), True), Rows(("a",), ((2,),))]

    async def test() -> None:
        async with Scripted(always(QuerySql, [*parts])) as node, Client([node.address], "x") as client:
            async with client.transaction() as transaction:
                async with transaction.rows("select a from t") as rows:
                    assert rows.columns == ("a",)
                    with pytest.raises(RuntimeError):
                        await transaction.execute(INSERT)
                    assert [row async for row in rows] == [(1,), (2,)]
                await transaction.execute(INSERT)
            assert texts(node) == ["begin immediate", "select a from t", INSERT, "commit"]

    run(test())


def test_rows_come_in_parts() -> None:
    """A query gives all; they are given as they come; INTERRUPT gives them up in the middle; a break is told."""
    parts: list[Response] = [Rows(("a",), ((n,),), n < 2) for n in range(3)]

    async def test() -> None:
        async with Scripted(always(QuerySql, [*parts])) as node, Client([node.address], "x") as client:
            table = await client.query("select a from t")
            assert (table.columns, table.rows, table[2]) == (("a",), [(0,), (1,), (2,)], (2,))
            assert table.dicts()[1] == {"a": 1}
            async with client.rows("select a from t") as rows:
                assert [row async for row in rows] == [(0,), (1,), (2,)]
            assert node.count(requests.Interrupt) == 0
            node.answer = always(QuerySql, parts[:2])
            async with client.rows("select a from t") as rows:
                async for row in rows:
                    assert row == (0,)
                    break
            assert node.count(requests.Interrupt) == 1
            assert node.count(requests.Open) == 1
            node.answer = always(QuerySql, [parts[0], NOT_LEADER])
            with pytest.raises(Unavailable, match="in the middle"):
                async with client.rows("select a from t") as rows:
                    assert [row async for row in rows] == [(0,), (1,), (2,)]
            node.answer = always(QuerySql, [parts[0]])

            async def read(seconds: float) -> None:
                async with client.rows("select a from t", timeout_seconds=seconds) as rows:
                    assert [row async for row in rows] == [(0,), (1,), (2,)]

            await overdue(read, Unavailable, "in the middle")
            assert len(await _after(node, client)) == 1

    run(test())


def test_a_query_that_goes_on_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of dqlite 1.11 send all rows before they hear of an INTERRUPT: the connection is given up in time."""
    times = iter([3.0, 3.0, 2.0, 2.0, 1.0, 1.0])
    monkeypatch.setattr(peers, "left", lambda deadline: next(times, 0.0))

    async def test() -> None:
        peer = Endless("10.0.0.1:9001", (None, None))  # type: ignore[arg-type]
        with pytest.raises(TimeoutError, match="gone on with a query"):
            await peer.interrupt(3.0)
        assert peer.n == 3
        assert not peer.usable

    run(test())


def test_many_rows_are_one_transaction() -> None:
    """The statement is prepared once; nothing is committed where a node refuses one of them."""

    async def test() -> None:
        async with Scripted() as node, Client([node.address], "x") as client:
            assert await client.execute_many("insert into t values(?, ?)", [(1, "a"), [2, "b"], (3, "c")]) == 3
            assert texts(node) == ["begin immediate", "commit"]
            assert node.count(requests.Prepare) == 1
            assert [one.parameters for one in node.asked if isinstance(one, Exec)] == [(1, "a"), (2, "b"), (3, "c")]
            assert await client.execute_many(Statement("insert into t values(?, ?)"), []) == 0
            node.answer = always(Exec, [Failed(2067, "UNIQUE")])
            with pytest.raises(DqliteError, match="UNIQUE"):
                await client.execute_many("insert into t values(?, ?)", [(1, "a")])
            assert texts(node).count("commit") == 2

    run(test())


def test_a_value_too_few_is_told_before_anything_is_sent() -> None:
    """A node would take NULL for it, and a new one ignore what is too many; named parameters are the node's matter."""

    async def test() -> None:
        async with Scripted() as node, Client([node.address], "x") as client:
            for text, values in (("select ?, ?", (1,)), ("select ?", (1, 2)), ("select 1", (1,))):
                with pytest.raises(ValueError, match="parameters for a statement with"):
                    await client.query(text, *values)
            assert node.count(QuerySql) == 0
            await client.query("select ?1, ?1", 1)

    run(test())


async def _after(node: Scripted, client: Client) -> Any:
    node.answer = lambda request: None
    return await client.query("select a from t")


def test_what_old_nodes_cannot_do() -> None:
    """More than 255 parameters, which dqlite 1.11 would misread, and rows of a write, which it would not replicate."""

    async def test() -> None:
        many = list(range(256))
        ask = "select " + ", ".join("?" * 256)
        async with Scripted() as node, Client([node.address], "x") as client:
            with pytest.raises(Refused, match="255"):
                await client.query(ask, *many)
            with pytest.raises(Refused, match="not replicated"):
                await client.query("insert into t values(1) returning a")
            assert texts(node) == []
            node.old = False
        async with Scripted() as node, Client([node.address], "x") as client:
            node.old = False
            await client.query(ask, *many)
            assert len(await client.query("insert into t values(1) returning a")) == 1
            assert [one.schema for one in node.asked if isinstance(one, QuerySql)] == [1, 0]
            assert node.count(requests.Finalize) == 1
        middle = always(ExecSql, [Failed(100, "rows yielded when none expected for EXEC request")])
        async with Scripted(middle) as node, Client([node.address], "x") as client:
            node.old = False
            await client.query(ask, *many)
            for text in ("insert into t values(1) returning a", "insert into t values(1)"):
                with pytest.raises(Refused, match="not replicated"):
                    await client.query(text)
            assert texts(node) == [ask, "select 1"]
        prepare = always(requests.Prepare, [Failed(1005, "schema")])
        async with Scripted(prepare) as node, Client([node.address], "x") as client:
            with pytest.raises(Refused):
                await client.query(ask, *many)

    run(test())


def test_parameters_and_prepared_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates go as text; a statement is prepared once per connection, with its parameters counted; the oldest goes."""
    monkeypatch.setattr(session, "MAX_PREPARED", 2)

    async def test() -> None:
        when = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
        given = (1, 2.5, "t", b"b", bytearray(b"c"), memoryview(b"d"), None, True, when, when.date(), IsoTime("x"))
        async with Scripted() as node, Client([node.address], "x") as client:
            await client.execute(f"insert into t values({', '.join('?' * len(given))})", *given)
            [sent] = [one for one in node.asked if type(one) is ExecSql]
            times = (IsoTime("2026-01-02 03:04:05+00:00"), IsoTime("2026-01-02"), IsoTime("x"))
            assert sent.parameters == (1, 2.5, "t", b"b", b"c", b"d", None, True, *times)
            assert [type(one) for one in sent.parameters[-3:]] == [IsoTime] * 3
            insert = Statement("insert into t values(?, ?)")
            for n in range(3):
                await client.execute(insert, n, n)
            await client.query(Statement("select ?"), 1)
            with pytest.raises(ValueError, match="1 parameters for a statement with 2"):
                await client.execute(insert, 1)
            assert (node.count(requests.Prepare), node.count(Exec), node.count(Query)) == (2, 3, 1)
            await client.query(Statement("select 1"))
            assert node.count(requests.Finalize) == 1

    run(test())


def test_the_members_are_administered() -> None:
    """Each request goes to the leader, again where it was not carried out; Unknown where nobody can say."""

    async def test() -> None:
        async with Scripted() as node:
            cluster = Cluster([node.address], timeout_seconds=120)
            assert (await cluster.leader()).address == node.address
            assert [one.role for one in await cluster.members()] == [0]
            node.answer = once(requests.Add, NOT_LEADER)
            await cluster.add(2, "127.0.0.1:2")
            node.answer = once(requests.Assign, Failed(5, "busy"))
            await cluster.assign(2, responses.VOTER)
            assert (node.count(requests.Add), node.count(requests.Assign)) == (2, 2)
            for answers in (END, [Failed(10506, "lost")]):
                node.answer = once(requests.Remove, *answers)
                with pytest.raises(Unknown):
                    await cluster.remove(2)
            node.answer = always(requests.Transfer, [Failed(1, "leadership transfer failed")])
            with pytest.raises(DqliteError):
                await cluster.transfer(2)
            node.answer = always(requests.Describe, [responses.Metadata(3, 4)])
            assert await cluster.describe(node.address) == responses.Metadata(3, 4)
            await cluster.weigh(node.address, 9)
            node.answer = always(requests.Dump, [responses.Files((("x", b"12345678"), ("x-wal", b"")))])
            assert await cluster.dump("x") == {"x": b"12345678", "x-wal": b""}
            assert await cluster.dump("x", node.address) == {"x": b"12345678", "x-wal": b""}
            node.leader = ""
            addresses = [node.address]
            await overdue(
                lambda seconds: Cluster(addresses, timeout_seconds=seconds).members(), Unavailable, "nobody leads"
            )
            node.answer = always(requests.Describe, HANG)
            with pytest.raises(Unavailable):
                await Cluster(addresses, timeout_seconds=SOON).describe(node.address)

    run(test())

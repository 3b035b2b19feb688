"""The client of dqlite against nodes that answer as a test has it: what is tried again, and what nobody knows."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from io_uv.dqlite import requests, responses
from io_uv.dqlite.requests import ExecSql, QuerySql, Request
from io_uv.dqlite.responses import Failed, Response
from pyraft.dqlite import Client, DqliteError, Statement, Unavailable, Unknown
from pyraft.dqlite.peer import dial_tcp
from pyraft.dqlite.pool import Addresses, Pool
from tests.lib.dqlite_scripted import END, HANG, SOON, Scripted, overdue
from tests.lib.ports import free_port

INSERT = "insert into t values(1)"
DEADLINE = 300.0

NOT_LEADER = Failed(10250, "not leader")
INTERRUPTED = Failed(9, "interrupted")
"""The answer of a node of dqlite 1.18.4 or newer that ceases to lead while it runs a statement."""


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test."""
    asyncio.run(asyncio.wait_for(test, DEADLINE))


def once(kind: type[Request], *answers: Response, says: str = "") -> Callable[[Request], "list[Response] | None"]:
    """Return an answer for the first request of a kind, about a text that begins so; END if there are no answers."""
    left = [list(answers) or END]

    def answer(request: Request) -> "list[Response] | None":
        return left.pop() if left and type(request) is kind and getattr(request, "sql", "").startswith(says) else None

    return answer


def always(
    kind: type[Request], answers: "list[Response]", says: str = ""
) -> Callable[[Request], "list[Response] | None"]:
    """Return an answer for all requests of a kind, about a text that begins so."""
    return lambda request: answers if type(request) is kind and getattr(request, "sql", "").startswith(says) else None


@pytest.mark.parametrize(
    "failure",
    [
        *(NOT_LEADER, Failed(5, "busy"), Failed(517, "busy"), Failed(7, "not an error"), INTERRUPTED),
        Failed(12, "no database"),
    ],
)
def test_what_was_not_done_is_tried_again(failure: Failed) -> None:
    """A write, a query, and a transaction as a whole; 7 is raft's NOTLEADER, as nodes of 1.11 hand it on."""

    async def test() -> None:
        async with Scripted(once(ExecSql, failure)) as node, Client([node.address], "x") as client:
            assert (await client.execute(INSERT)).rows_affected == 1
            assert node.count(ExecSql) == 2
            node.answer = once(QuerySql, failure)
            assert list(await client.query("select 1")) == [(1,)]
            assert node.count(QuerySql) == 2
            node.answer = once(ExecSql, failure, says="insert")

            async def body(transaction: Any) -> int:
                return int((await transaction.execute(INSERT)).last_insert_id)

            assert await client.transact(body) == 1
            said = [one.sql for one in node.asked if type(one) is ExecSql]
            assert [one for one in said if one != "rollback"][-5:] == [*["begin immediate", INSERT] * 2, "commit"]

    run(test())


@pytest.mark.parametrize(
    "failure",
    [Failed(10506, "lost"), Failed(10, "leader exec failed"), Failed(778, "disk"), Failed(4, "abort"), Failed(0, "")],
)
def test_what_nobody_knows_is_unknown(failure: Failed) -> None:
    """A write is sent once, and so is the end of a transaction; a query is asked again."""

    async def test() -> None:
        async with Scripted(always(ExecSql, [failure], "insert")) as node, Client([node.address], "x") as client:
            with pytest.raises(Unknown, match="not known"):
                await client.execute(INSERT)
            assert node.count(ExecSql) == 1
            node.answer = once(QuerySql, failure)
            assert len(await client.query("select 1")) == 1
            node.answer = always(ExecSql, [failure], "commit")
            with pytest.raises(Unknown):
                async with client.transaction() as transaction:
                    await transaction.execute(INSERT)
            said = [one.sql for one in node.asked if type(one) is ExecSql]
            assert said == [INSERT, "begin immediate", INSERT, "commit"]

    run(test())


@pytest.mark.parametrize("failure", [Failed(1, "no such table"), Failed(19, "constraint"), Failed(7, "out of memory")])
def test_what_is_refused_is_refused_once(failure: Failed) -> None:
    """The error has the node's code and text, and the connection stays."""

    async def test() -> None:
        async with Scripted(always(ExecSql, [failure])) as node, Client([node.address], "x") as client:
            for _ in range(2):
                with pytest.raises(DqliteError) as caught:
                    await client.execute(INSERT)
                assert (caught.value.code, caught.value.message) == (failure.code, failure.message)
            assert node.count(ExecSql) == 2
            assert node.count(requests.Open) == 1

    run(test())


@pytest.mark.parametrize("answers", [END, HANG, [responses.Welcome()]])
def test_a_connection_that_breaks(answers: "list[Response]") -> None:
    """Behind a write the outcome is not known; behind PREPARE, OPEN or a query nothing was done, and it goes on."""

    async def test() -> None:
        async with Scripted(always(ExecSql, answers)) as node, Client([node.address], "x", size=1) as client:
            if answers is HANG:
                await overdue(lambda seconds: client.execute(INSERT, timeout_seconds=seconds), Unknown, "not known")
                assert node.count(ExecSql) == 1
                node.answer = always(QuerySql, HANG)
                with pytest.raises(Unavailable):
                    await client.query("select 1", timeout_seconds=SOON)
                return
            with pytest.raises(Unknown):
                await client.execute(INSERT)
            assert node.count(ExecSql) == 1
            for kind in (QuerySql, requests.Prepare, requests.Open, requests.Client):
                node.answer = once(kind, *answers)
                seen = node.count(kind)
                if kind is QuerySql:
                    await client.query("select 1")
                else:
                    await client.execute(Statement(INSERT))
                if kind in (QuerySql, requests.Prepare):
                    assert node.count(kind) == seen + 2
            assert node.count(requests.Exec) == 3

    run(test())


def test_the_leader_is_found_again() -> None:
    """Another node says who it is; an address where nothing answers holds nothing up, and is told of in the end."""

    async def test() -> None:
        dead = f"127.0.0.1:{free_port()}"
        async with Scripted(always(requests.Leader, HANG)) as quiet, Scripted() as one, Scripted() as other:
            one.leader = other.address
            async with Client([quiet.address, dead, one.address], "x") as client:
                await client.execute(INSERT, timeout_seconds=60)
                assert (one.count(ExecSql), other.count(ExecSql)) == (0, 1)
                assert not [task for task in asyncio.all_tasks() if "_leading" in repr(task)], (
                    "nobody waits for an answer"
                )
                one.leader, other.leader = None, one.address
                other.answer = always(ExecSql, [NOT_LEADER])
                one.answer = lambda request: (
                    [responses.Servers((responses.Member(1, one.address, 0), responses.Member(2, other.address, 0)))]
                    if isinstance(request, requests.Cluster)
                    else None
                )
                await client.execute(INSERT)
                assert one.count(ExecSql) == 1
                one.leader = other.leader = ""
                one.answer = always(ExecSql, [NOT_LEADER])
                await overdue(lambda seconds: client.execute(INSERT, timeout_seconds=seconds), Unavailable, "lead")

    run(test())


def test_a_connection_waits_until_the_leader_has_applied_its_log() -> None:
    """Nothing is prepared before that: dqlite 1.11 would not know tables that other leaders have made."""

    async def test() -> None:
        async with Scripted() as node:
            order: list[int] = []
            node.answer = lambda request: order.append(node.barriers) if isinstance(request, ExecSql) else None
            node.barrier = [NOT_LEADER]
            client = Client([node.address], "x.db", timeout_seconds=30)
            waiting = asyncio.ensure_future(client.execute(INSERT))
            while node.barriers < 2:
                assert not waiting.done()
                await asyncio.sleep(0)
            node.barrier = [responses.Rows(("0",), ((0,),))]
            await waiting
            await client.execute(INSERT)
            assert order == [node.barriers] * 2
            await client.close()

    run(test())


def test_a_pool_has_so_many_connections() -> None:
    """Others wait for one, in their order; one that is cancelled, waiting or asking, takes nothing with it."""

    async def test() -> None:
        async with Scripted() as node, Client([node.address], "x", size=2) as client:
            node.answer = always(QuerySql, HANG, "select hang")
            hung = [asyncio.ensure_future(client.query("select hang")) for _ in range(2)]
            while node.count(QuerySql) < 2:
                await asyncio.sleep(0)
            waiting = [asyncio.ensure_future(client.execute(INSERT)) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable, match="all 2 connections are in use"):
                await client.execute(INSERT, timeout_seconds=0.01)
            waiting[0].cancel()
            hung[0].cancel()
            await asyncio.wait([*waiting, hung[0]])
            assert [one.cancelled() for one in waiting] == [True, False, False]
            assert node.count(ExecSql) == 2
            assert node.open <= 2
            hung[1].cancel()
            await asyncio.wait(hung)
            await asyncio.gather(*[client.execute(INSERT) for _ in range(20)])
            assert node.connections == 5  # one of them to look for the leader
        with pytest.raises(Unavailable, match="closed"):
            await client.execute(INSERT)

    run(test())


def test_a_turn_that_comes_to_one_that_is_cancelled_is_passed_on() -> None:
    """Both happen at the same moment: nobody has the turn then, and others would wait for ever."""

    async def test() -> None:
        async with Scripted() as node:
            pool = Pool(Addresses([node.address]), "x", dial_tcp, 1)
            deadline = time.monotonic() + DEADLINE
            session = await pool.take(deadline)
            waiting = asyncio.ensure_future(pool.take(deadline))
            await asyncio.sleep(0)
            await pool.give(session)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert await pool.take(deadline) is session
            waiting = asyncio.ensure_future(pool.take(deadline))
            await asyncio.sleep(0)
            await pool.close()
            await pool.give(session)
            with pytest.raises(Unavailable, match="closed"):
                await waiting

    run(test())


def test_one_address_for_several_is_a_mistake() -> None:
    """A text would be an address per letter."""
    with pytest.raises(TypeError, match="several"):
        Client("127.0.0.1:9001", "x")
    with pytest.raises(ValueError, match="no address"):
        Client([], "x")

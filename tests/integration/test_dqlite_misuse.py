"""Clients and members of dqlite that are used wrongly, or that meet what nodes send seldom: clear errors, no hangs."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv.dqlite import messages, requests, words
from io_uv.dqlite.requests import ExecSql, QuerySql, Request
from io_uv.dqlite.responses import Failed, Response, Rows
from pyraft.dqlite import (
    Aborted,
    Client,
    Cluster,
    Member,
    Refused,
    Replica,
    Settings,
    Transaction,
    Unavailable,
    backup,
    store,
)
from pyraft.dqlite import session as sessions
from pyraft.dqlite.peer import dial_tcp, find_leader
from tests.integration.test_dqlite_client import always, once, run
from tests.integration.test_dqlite_member import FAST, World, address, in_world
from tests.lib.dqlite_scripted import HANG, Endless, Scripted, overdue


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("", "0 bytes"),
        ("a\0b", "NUL"),
        ("ä" * 253, "506 bytes"),
        (":memory:", "another meaning"),
        ("file:x?mode=memory", "another meaning"),
        ("x.db-wal", "another meaning"),
    ],
)
def test_names_with_which_a_node_ends_are_not_sent(name: str, what: str) -> None:
    """The first, fourth and fifth are the end of a node of dqlite 1.11, for all of its clients."""
    with pytest.raises(ValueError, match=what):
        Client(["127.0.0.1:9001"], name)
    Client(["127.0.0.1:9001"], "ä" * 252)


def test_one_address_for_several_is_a_mistake_everywhere(tmp_path: Path) -> None:
    """A text would be an address per letter, for administrators, members and backups, too."""
    with pytest.raises(TypeError, match="several"):
        Cluster("127.0.0.1:9001")
    with pytest.raises(TypeError, match="several"):
        Member(tmp_path, "127.0.0.1:9002", "127.0.0.1:9001")
    with pytest.raises(TypeError, match="several"):
        asyncio.run(backup.take("127.0.0.1:9001", "x", tmp_path / "kept"))
    with pytest.raises(TypeError, match="an address is a text"):
        Client([None], "x")  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", ["nonsense", "127.0.0.1:99999", "127.0.0.1:0", "a..b:9001", "127.0.0.1:x", ":9001"])
def test_what_is_no_address_is_told(wrong: str) -> None:
    """It is as if nobody were there, not the end of whoever asks: others may be there."""

    async def test() -> None:
        with pytest.raises(OSError, match=r"of the form HOST:PORT|no port|no host"):
            await dial_tcp(wrong)
        async with Scripted() as node, Client([wrong, node.address], "x") as client:
            await client.execute("insert into t values(1)")

    run(test())


def test_a_client_is_of_one_event_loop() -> None:
    """In another one nothing is sent: its connections would do that, and nobody would hear of the answer."""
    client = Client(["127.0.0.1:1"], "x")

    async def fail() -> None:
        with pytest.raises(Unavailable):
            await client.query("select 1", timeout_seconds=0)

    asyncio.run(fail())
    for call in (lambda: client.execute("insert into t values(1)"), client.close):
        with pytest.raises(RuntimeError, match="one event loop"):
            asyncio.run(call())


@pytest.mark.parametrize("dead", [True, False], ids=["between two searches", "in a search"])
def test_a_client_that_is_closed_in_a_search(dead: bool) -> None:
    """A call that waits for a leader is told, and not cancelled: that would end a task that nobody has cancelled."""

    async def test() -> None:
        async with Scripted(always(requests.Leader, HANG)) as node:
            client = Client(["127.0.0.1:1" if dead else node.address], "x", timeout_seconds=1e6)
            asking = asyncio.ensure_future(client.query("select 1"))
            seen = False
            while not dead and not node.asked:
                await asyncio.sleep(0.01)
            while dead and not (seen and client._pool._search is None):
                seen = seen or client._pool._search is not None
                await asyncio.sleep(0)
            await client.close()
            with pytest.raises(Unavailable, match="the client is closed"):
                await asking

    run(test())


def test_one_that_is_cancelled_twice_gives_its_connection_back() -> None:
    """The second time comes while the rest of the rows is given up, which the node does not answer."""

    async def test() -> None:
        parts: list[Response] = [Rows(("a",), ((1,),), True)]

        def answer(request: Request) -> "list[Response] | None":
            if isinstance(request, QuerySql) and request.sql == "select a from t":
                return parts
            return HANG if isinstance(request, requests.Interrupt) else None

        async with Scripted(answer) as node, Client([node.address], "x", size=1, timeout_seconds=1e6) as client:
            for within in (False, True):

                async def leave(within: bool = within) -> None:
                    async with contextlib.AsyncExitStack() as stack:
                        source: Any = client
                        if within:
                            source = await stack.enter_async_context(client.transaction())
                        await stack.enter_async_context(source.rows("select a from t"))
                        await asyncio.Event().wait()

                task, n = asyncio.ensure_future(leave()), node.count(requests.Interrupt)
                while not (client._pool._taken and node.asked and isinstance(node.asked[-1], QuerySql)):
                    await asyncio.sleep(0.01)
                while node.count(requests.Interrupt) == n:
                    task.cancel()
                    await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.wait([task])
                assert len(await client.query("select b from t")) == 1

    run(test())


def test_names_of_columns_that_fill_a_message() -> None:
    """A node of dqlite sends messages without a row then, for ever."""

    async def test() -> None:
        endless: list[Response] = [Rows(("a" * 4096,), (), True)] * 3
        async with Scripted(always(QuerySql, endless)) as node, Client([node.address], "x") as client:
            with pytest.raises(Refused, match="name fewer columns"):
                await client.query("select a from t")
            with pytest.raises(Refused, match="name fewer columns"):
                async with client.rows("select a from t"):
                    pass
            with pytest.raises(Refused, match="name fewer columns"):
                async with client.transaction() as transaction:
                    await transaction.query("select a from t")
            later: list[Response] = [Rows(("a",), ((1,),), True), *endless]
            node.answer = always(QuerySql, later)
            async with client.rows("select a from t") as rows:
                with pytest.raises(Refused, match="name fewer columns"):
                    [row async for row in rows]

    run(test())


class Closed(Endless):
    """One that takes note of its end."""

    async def close(self) -> None:
        """Take note."""
        self._broken = True


def test_rows_without_an_end_are_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are here as soon as they are looked for, so that no wait for them takes too long."""
    times = iter([3.0, 3.0, 2.0, 2.0, 1.0, 1.0])
    monkeypatch.setattr(sessions, "left", lambda deadline: next(times, 0.0))

    async def test() -> None:
        peer = Closed("10.0.0.1:9001", (None, None))  # type: ignore[arg-type]
        session = sessions.Session(peer)
        for n in (1, 2, 3):
            assert (await session.next_rows(1.0)).rows == ((n,),)
        with pytest.raises(TimeoutError, match="have no end in the time"):
            await session.next_rows(1.0)
        assert peer._broken

    run(test())


def test_a_row_is_as_large_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit that messages of strangers have is not one for the leader's answers."""
    monkeypatch.setattr(messages.Splitter.__init__, "__defaults__", (1 << 12,))

    async def test() -> None:
        row: list[Response] = [Rows(("a",), ((bytes(1 << 13),),))]
        async with Scripted(once(QuerySql, *row)) as node, Client([node.address], "x") as client:
            [[value]] = await client.query("select a from t", timeout_seconds=5)
            assert value == bytes(1 << 13)

    run(test())


def test_a_transaction_whose_connection_was_given_up_is_not_committed() -> None:
    """The program goes on behind a statement that has taken it too long; COMMIT is not sent, and that is certain."""

    async def test() -> None:
        slow = always(ExecSql, HANG, "update")
        async with Scripted(slow) as node, Client([node.address], "x") as client:

            async def change() -> None:
                async with client.transaction() as transaction:
                    changing = asyncio.ensure_future(transaction.execute("update t set a = 1"))
                    while getattr(node.asked[-1], "sql", "")[:6] != "update":
                        await asyncio.sleep(0.01)
                    changing.cancel()
                    await asyncio.wait([changing])

            with pytest.raises(Aborted, match="nothing was committed"):
                await change()
            assert [one for one in node.asked if getattr(one, "sql", "") == "commit"] == []

    run(test())


@pytest.mark.parametrize("code", [5, 517])
def test_a_database_that_somebody_else_writes_is_unavailable(code: int) -> None:
    """It is so for a statement and for the beginning of a transaction; nothing was done, and it may be tried later."""

    async def test() -> None:
        locked = always(ExecSql, [Failed(code, "database is locked")])
        async with Scripted(locked) as node, Client([node.address], "x") as client:
            insert = "insert into t values(1)"
            await overdue(
                lambda seconds: client.execute(insert, timeout_seconds=seconds), Unavailable, "database is locked"
            )
            await overdue(
                lambda seconds: client.execute_many(insert, [()], timeout_seconds=seconds),
                *(Unavailable, "database is locked"),
            )

    run(test())


@pytest.mark.parametrize("ending", ["commit", "roll_back"])
def test_a_transaction_that_the_program_ends_itself(ending: str) -> None:
    """The end of its block does no more, and `transact` does not run it again: with `commit` it would be done twice."""

    async def test() -> None:
        async with Scripted() as node, Client([node.address], "x") as client:

            async def body(transaction: Transaction) -> str:
                await transaction.execute("update t set a = a + 1")
                await getattr(transaction, ending)()
                return "done"

            assert await client.transact(body) == "done"
            said = [one.sql for one in node.asked if isinstance(one, ExecSql)]
            assert said == ["begin immediate", "update t set a = a + 1", ending.replace("_", "")]

            async def more(transaction: Transaction) -> None:
                await body(transaction)
                for call in (transaction.commit, lambda: transaction.query("select 1")):
                    with pytest.raises(RuntimeError, match="the transaction is over"):
                        await call()

            await client.transact(more)
            assert len([one for one in node.asked if isinstance(one, ExecSql)]) == 2 * len(said)

    run(test())


def test_an_administrator_has_no_more_than_the_time() -> None:
    """A node that takes connections and is silent takes none of that of others, and not longer."""

    async def test() -> None:
        async with Scripted(always(requests.Leader, HANG)) as node:
            with pytest.raises(OSError, match="no answer yet"):
                await find_leader([node.address], seconds=0)
            await overdue(
                lambda seconds: Cluster([node.address], timeout_seconds=seconds).members(), Unavailable, "no answer yet"
            )

    run(test())


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda cluster: cluster.add(0, "10.0.0.1:9001"), "not the id of a member"),
        (lambda cluster: cluster.add(1 << 64, "10.0.0.1:9001"), "not the id of a member"),
        (lambda cluster: cluster.add(2, ""), "has an address"),
        (lambda cluster: cluster.assign(1, 7), "is not a role"),
        (lambda cluster: cluster.remove(-1), "not a number from 0"),
        (lambda cluster: cluster.transfer(1 << 64), "not a number from 0"),
        (lambda cluster: cluster.weigh(cluster.nodes.addresses()[0], -5), "not a number from 0"),
    ],
)
def test_what_no_leader_should_be_asked_for(call: Callable[[Cluster], Any], what: str) -> None:
    """A leader of dqlite 1.11 takes the id 0, and leads no more behind a role with the number 7."""

    async def test() -> None:
        async with Scripted() as node:
            with pytest.raises(ValueError, match=what):
                await call(Cluster([node.address]))
            assert {type(one) for one in node.asked} <= {requests.Leader}

    run(test())


def test_numbers_that_do_not_fit() -> None:
    """They are told as the mistakes of a program that they are."""
    for encode, wrong in ((words.u32, 1 << 32), (words.u64, -1), (words.i64, 1 << 63)):
        with pytest.raises(ValueError, match="is not a number"):
            encode(wrong)
    for weight in (-1, 1 << 64):
        with pytest.raises(Refused, match="a weight of"):
            Settings(weight=weight)
        with pytest.raises(Refused, match="a failure domain of"):
            Settings(failure_domain=weight)


def test_an_address_that_was_a_mistake_can_be_mended(tmp_path: Path) -> None:
    """Until the cluster has taken the node in; it keeps its id."""

    async def test(world: World) -> None:
        for wrong in ("127.0.0.1", "127.0.0.1:0", ":9001"):
            with pytest.raises(Refused, match=r"no (node is at|server can be reached)"):
                await Member(tmp_path / "2", wrong, [world.founder.address], settings=FAST).start()
            assert not (tmp_path / "2").exists()
        async with Member(tmp_path / "2", address(), [address()], settings=FAST):
            pass  # nobody was there to take it in
        known = store.read_info(str(tmp_path / "2"))
        assert known is not None
        member = Member(tmp_path / "2", address(), [world.founder.address], settings=FAST)
        world.made.append(member)
        await member.start()
        await member.joined()
        assert member.id == known.id
        assert store.read_info(member.directory) == store.Info(known.id, member.address, 0)

    in_world(tmp_path, test)


def test_an_address_that_the_cluster_knows_cannot(tmp_path: Path) -> None:
    """The others would go on looking for the node at the old one."""

    async def test(world: World) -> None:
        await Cluster([world.founder.address]).add(2, address())
        member = Member(tmp_path / "2", address(), [world.founder.address], id=2, settings=FAST)
        world.made.append(member)
        await member.start()
        with pytest.raises(Refused, match="node 2 is a member at"):
            await member.joined()

    in_world(tmp_path, test)


def test_a_node_that_knows_nobody_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may still be added by somebody else, and waits for that."""

    async def test() -> None:
        async with Member(tmp_path / "1", address(), settings=FAST) as member:
            while "it knows no other node" not in caplog.text:
                await asyncio.sleep(0.01)
            assert member.server is not None

    run(test())


def test_nobody_waits_for_changes_that_cannot_come(tmp_path: Path) -> None:
    """They end for a replica that is closed, before or after they are asked for, and raise what has stopped it."""

    async def test(world: World) -> None:
        standby = await world.member(2, role=1)
        impostor = Replica(tmp_path / "9", standby.address, [world.founder.address], id=9, settings=FAST)
        await standby.close()
        async with impostor:
            changes = impostor.changes()
            with pytest.raises(Refused, match="is node 2's"):
                await changes.__anext__()
            assert [one async for one in changes] == []
            changes = impostor.changes()
        assert [one async for one in changes] == []
        assert [one async for one in impostor.changes()] == []

    in_world(tmp_path, test)


def test_live_files_are_of_one_replica(tmp_path: Path) -> None:
    """Another one would put its index in the place of the first one's, and new databases beside its."""

    async def test(world: World) -> None:
        def replica(id: int) -> Replica:
            join, files = [world.founder.address], tmp_path / "live"
            return Replica(tmp_path / str(id), address(), join, files=files, settings=FAST, id=id)

        async with replica(2):
            for _ in range(2):
                with pytest.raises(Refused, match="live' are another replica's"):
                    await replica(3).start()
        async with replica(3) as member:
            await member.joined()

    in_world(tmp_path, test)

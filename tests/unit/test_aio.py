"""The asyncio front on one server against a scripted world: awaitables, errors, waiting, closing, cancelling."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_CANCELED,
    RAFT_CANTBOOTSTRAP,
    RAFT_CANTCHANGE,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTFOUND,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftConfiguration,
    raft_close,
    raft_set_pre_vote,
)
from pyraft.aio import RaftError, Server
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import ScriptIo, change, configuration


class World:
    """An asyncio server, its table and its state machine; the test plays servers 2, 3, …"""

    def __init__(self, *roles: int) -> None:
        self.io = ScriptIo()
        self.io.term = 1
        self.conf = configuration(*(roles or (RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)))
        self.io.stored = [change(1, self.conf)]
        self.fsm = fsms.PairFsm()
        self.server = Server(self.io, self.fsm, 1, "1")

    def recv(self, message: Any) -> None:
        """Hand the server a message."""
        self.io.on_recv(self.io, message)

    def tick(self, msecs: int = 100) -> None:
        """Let time pass and the tick timer fire."""
        self.io.now += msecs
        self.io.on_tick(self.io)

    async def lead(self) -> None:
        """Start the server and make it leader of term 2, its barrier committed."""
        await self.server.start()
        self.tick(1000)
        self.recv(msg.request_vote_result(2, 2))
        self.io.finish_appends()
        self.recv(msg.append_entries_result(2, 2, 2))
        assert self.server.is_leader

    def commit(self, index: int) -> None:
        """Store everything and have server 2 acknowledge it up to `index`."""
        self.io.finish_appends()
        self.recv(msg.append_entries_result(2, 2, index))

    async def close(self) -> None:
        """Close the server; the I/O ends at once."""
        closing = asyncio.create_task(self.server.close())
        await asyncio.sleep(0)
        self.io.on_close(self.io)
        await closing


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on a loop of its own."""

    async def main() -> None:
        await asyncio.wait_for(scenario(), 20)

    asyncio.run(main())


async def refused(awaitable: Awaitable[Any]) -> RaftError:
    """Await what must fail with a RaftError; return that."""
    with pytest.raises(RaftError) as caught:
        await awaitable
    return caught.value


def test_error_carries_code_and_text() -> None:
    """A RaftError has the code and the message; without one, the code's text."""
    plain = RaftError(RAFT_NOTLEADER)
    assert (plain.code, plain.message, str(plain)) == (RAFT_NOTLEADER,) + ("server is not the leader",) * 2
    told = RaftError(RAFT_IOERR, "io: disk on fire")
    assert (told.code, str(told)) == (RAFT_IOERR, "io: disk on fire")


def test_refused_init_raises() -> None:
    """A table that raft_init refuses raises RaftError with its text."""
    io = ScriptIo()
    io.version = 0
    with pytest.raises(RaftError, match="version must be set") as caught:
        Server(io, fsms.PairFsm(), 1, "1")
    assert caught.value.code == -1


def test_bootstrap_and_recover_raise_what_the_disk_says() -> None:
    """Their errors carry the text of the I/O table."""
    w = World()
    w.io.fail("bootstrap", RAFT_CANTBOOTSTRAP)
    with pytest.raises(RaftError, match="bootstrap failed") as caught:
        w.server.bootstrap(w.conf)
    assert caught.value.code == RAFT_CANTBOOTSTRAP
    w.io.fail("recover", RAFT_IOERR)
    with pytest.raises(RaftError, match="recover failed"):
        w.server.recover(w.conf)
    w.server.bootstrap(w.conf)
    w.server.recover(w.conf)
    assert w.io.names() == ["init", "bootstrap", "recover", "bootstrap", "recover"]


def test_refused_bootstrap_says_why() -> None:
    """What the core refuses by itself is told in its words, not in what the I/O table said last."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        w.io.fail("bootstrap", RAFT_IOERR)
        with pytest.raises(RaftError, match="bootstrap failed"):
            w.server.bootstrap(w.conf)
        with pytest.raises(RaftError, match="the configuration has no servers"):
            w.server.bootstrap(RaftConfiguration())
        await w.server.start()
        for function in (w.server.bootstrap, w.server.recover):
            with pytest.raises(RaftError, match="already started"):
                function(w.conf)
        await w.close()

    run(scenario)


def test_second_start_does_not_read_the_log_again() -> None:
    """Starting a running or a closed server raises, and leaves its files alone: they are in use."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        await w.server.start()
        with pytest.raises(RaftError, match="already started"):
            await w.server.start()
        await w.close()
        with pytest.raises(RaftError, match="closed"):
            await w.server.start()
        assert w.io.names().count("load") == 1

    run(scenario)


def test_start_loads_in_a_thread() -> None:
    """The log is read off the loop, everything else on it, and the table is as before afterwards."""

    async def scenario() -> None:
        w = World()
        load, start = w.io.load, w.io.start
        threads: list[int] = []

        def noting(io: ScriptIo) -> Any:
            threads.append(threading.get_ident())
            return load(io)

        w.io.load = noting
        await w.server.start()
        assert threads
        assert threads[0] != threading.get_ident()
        assert (w.io.load, w.io.start) == (noting, start)
        assert w.server.state == RAFT_FOLLOWER
        assert not w.server.is_leader
        await w.close()

    run(scenario)


def test_start_that_fails_raises_and_may_be_repeated() -> None:
    """A failing load raises its code and text; another start can work."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        w.io.fail("load", RAFT_IOERR)
        error = await refused(w.server.start())
        assert (error.code, error.message) == (RAFT_IOERR, "io: load failed")
        await w.server.start()
        assert w.server.is_leader
        await w.close()

    run(scenario)


def test_cancelled_start_waits_for_its_thread() -> None:
    """A start that is cancelled leaves no thread behind that reads the disk."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        load = w.io.load
        entered, release = threading.Event(), threading.Event()
        ended: list[bool] = []

        def slow(io: ScriptIo) -> Any:
            entered.set()
            release.wait(10)
            ended.append(True)
            return load(io)

        w.io.load = slow
        starting = asyncio.create_task(w.server.start())
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 10)
        starting.cancel()
        await asyncio.sleep(0)
        assert not starting.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert ended == [True]
        assert w.server.state == RAFT_UNAVAILABLE

    run(scenario)


def test_apply_returns_what_the_fsm_answered() -> None:
    """apply resolves when the command is applied, with the FSM's result for the first buffer."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        applying = asyncio.ensure_future(w.server.apply(fsms.add_x(5), fsms.add_x(7)))
        await asyncio.sleep(0)
        assert not applying.done()
        w.commit(4)
        assert await applying == (5, 0)
        assert w.fsm.x == 12
        await w.close()

    run(scenario)


def test_requests_on_a_follower_raise() -> None:
    """Every request on a follower is RAFT_NOTLEADER with its text."""

    async def scenario() -> None:
        w = World()
        await w.server.start()
        for request in (
            w.server.apply(fsms.add_x(1)),
            w.server.barrier(),
            w.server.add(4, "4"),
            w.server.assign(2, RAFT_STANDBY),
            w.server.remove(2),
            w.server.transfer(2),
        ):
            error = await refused(request)
            assert (error.code, error.message) == (RAFT_NOTLEADER, "server is not the leader")
        await w.close()

    run(scenario)


def test_apply_of_nonsense_raises() -> None:
    """What raft_apply refuses at once is raised."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        assert (await refused(w.server.apply("text"))).code == RAFT_INVALID
        assert (await refused(w.server.apply())).code == RAFT_INVALID
        await w.close()

    run(scenario)


def test_failed_write_raises_at_the_awaiter() -> None:
    """A command whose write fails raises the disk's code."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        applying = asyncio.ensure_future(w.server.apply(fsms.add_x(5)))
        await asyncio.sleep(0)
        w.io.finish_append(RAFT_IOERR)
        assert (await refused(applying)).code == RAFT_IOERR
        assert w.server.state == RAFT_FOLLOWER
        await w.close()

    run(scenario)


def test_barrier_and_changes() -> None:
    """barrier, add, assign and remove resolve when committed; a second change meanwhile raises."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        requests = [w.server.barrier(), w.server.add(4, "4"), w.server.assign(4, RAFT_STANDBY), w.server.remove(4)]
        for index, request in enumerate(requests, 3):
            task = asyncio.ensure_future(request)
            await asyncio.sleep(0)
            if index == 4:
                assert (await refused(w.server.add(5, "5"))).code == RAFT_CANTCHANGE
            w.commit(index)
            assert await task is None
        assert [server.id for server in w.server.raft.configuration.servers] == [1, 2, 3]
        assert (await refused(w.server.assign(9, RAFT_SPARE))).code == RAFT_NOTFOUND
        await w.close()

    run(scenario)


def test_transfer_returns_who_leads() -> None:
    """transfer resolves when it has ended, with the leader known then."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        task = asyncio.ensure_future(w.server.transfer(2))
        await asyncio.sleep(0)
        assert w.server.leader == (0, None)
        w.recv(msg.append_entries(2, 3, 2, 2))
        assert await task == (2, "2")
        await w.close()

    run(scenario)


def test_wait_leader_and_leader_change() -> None:
    """Waiters are resolved by the message or tick after which their condition holds."""

    async def scenario() -> None:
        w = World()
        await w.server.start()
        waiting = asyncio.ensure_future(w.server.wait_leader())
        await asyncio.sleep(0)
        w.tick()
        await asyncio.sleep(0)
        assert not waiting.done()
        w.recv(msg.append_entries(2, 1, 1, 1))
        assert await waiting == (2, "2")
        assert await w.server.wait_leader() == (2, "2")
        changing = asyncio.ensure_future(w.server.leader_change())
        await asyncio.sleep(0)
        w.recv(msg.append_entries(2, 1, 1, 1))
        await asyncio.sleep(0)
        assert not changing.done()
        w.tick(1000)
        assert await changing == (0, None)
        await w.close()

    run(scenario)


def test_state_changes_that_no_message_brings_are_noticed() -> None:
    """A leader that steps down because its disk failed wakes who waits, though no tick or message came."""

    async def scenario() -> None:
        w = World()
        seen: list[tuple[int, int]] = []
        w.server.on_state = lambda old, new: seen.append((old, new))
        await w.lead()
        applying = asyncio.ensure_future(w.server.apply(fsms.add_x(1)))
        changing = asyncio.ensure_future(w.server.leader_change())
        await asyncio.sleep(0)
        w.io.finish_append(RAFT_IOERR)
        assert await changing == (0, None)
        await refused(applying)
        assert seen[-1] == (RAFT_LEADER, RAFT_FOLLOWER)
        assert seen[0] == (RAFT_UNAVAILABLE, RAFT_FOLLOWER)
        await w.close()

    run(scenario)


def test_wait_until_passes_on_what_the_test_raises() -> None:
    """A condition that raises ends its waiter with that exception and disturbs nobody else."""

    async def scenario() -> None:
        w = World()
        await w.server.start()
        calls: list[int] = []

        def bad() -> bool:
            calls.append(1)
            if len(calls) > 1:
                raise KeyError("bad")
            return False

        waiting = asyncio.ensure_future(w.server.wait_until(bad))
        other = asyncio.ensure_future(w.server.wait_leader())
        await asyncio.sleep(0)
        w.recv(msg.append_entries(2, 1, 1, 1))
        with pytest.raises(KeyError):
            await waiting
        assert await other == (2, "2")
        await w.close()

    run(scenario)


def test_cancelled_waiter_is_forgotten() -> None:
    """Cancelling a waiter takes it off the list."""

    async def scenario() -> None:
        w = World()
        await w.server.start()
        waiting = asyncio.ensure_future(w.server.wait_leader())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        w.recv(msg.append_entries(2, 1, 1, 1))
        assert w.server.leader == (2, "2")
        await w.close()

    run(scenario)


def test_cancelled_request_changes_nothing() -> None:
    """The entry of a cancelled apply is committed and applied all the same."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        applying = asyncio.ensure_future(w.server.apply(fsms.add_x(5)))
        await asyncio.sleep(0)
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
        w.commit(3)
        assert w.fsm.x == 5
        assert w.io.reported == []
        await w.close()

    run(scenario)


def test_close_ends_everything() -> None:
    """Commands get RAFT_LEADERSHIPLOST, waiters RAFT_CANCELED; close waits for the I/O; the second does nothing."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        applying = asyncio.ensure_future(w.server.apply(fsms.add_x(5)))
        waiting = asyncio.ensure_future(w.server.leader_change())
        forever = asyncio.ensure_future(w.server.wait_until(lambda: False))
        await asyncio.sleep(0)
        closing = asyncio.create_task(w.server.close())
        await asyncio.sleep(0)
        assert (await refused(applying)).code == RAFT_LEADERSHIPLOST
        for waiter in (waiting, forever):
            assert (await refused(waiter)).code == RAFT_CANCELED
        assert not closing.done()
        w.io.on_close(w.io)
        await closing
        await w.server.close()
        assert w.io.names().count("close") == 1
        assert (await refused(w.server.wait_leader())).code == RAFT_CANCELED
        assert (await refused(w.server.apply(fsms.add_x(5)))).code == RAFT_NOTLEADER

    run(scenario)


def test_close_after_a_cancelled_one_waits_too() -> None:
    """Giving up waiting does not make the I/O end: the next close waits for it, and is not another raft_close."""

    async def scenario() -> None:
        w = World()
        await w.server.start()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(w.server.close(), 0.01)
        closing = asyncio.create_task(w.server.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not closing.done()
        w.io.on_close(w.io)
        await closing
        assert w.io.names().count("close") == 1

    run(scenario)


def test_close_after_raft_close_returns() -> None:
    """Whoever has called raft_close has its callback; close() does not wait for one that will never fire."""

    async def scenario() -> None:
        w = World()
        await w.server.start()
        closed: list[object] = []
        assert raft_close(w.server.raft, closed.append) == 0
        await w.server.close()
        w.io.on_close(w.io)
        assert closed == [w.server.raft]

    run(scenario)


def test_server_is_a_context_manager() -> None:
    """async with starts and closes."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        w.io.close = lambda io, cb: cb(io)
        async with w.server as server:
            assert server is w.server
            raft_set_pre_vote(server.raft, True)
            assert server.is_leader
            assert server.leader == (1, "1")
        assert server.state == RAFT_UNAVAILABLE

    run(scenario)


def test_context_manager_that_cannot_start_closes() -> None:
    """The directory and the handles are given back, so that another attempt can be made."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        w.io.close = lambda io, cb: (w.io.calls.append(("close",)), cb(io))
        w.io.fail("load", RAFT_IOERR)
        with pytest.raises(RaftError, match="load failed"):
            async with w.server:
                pytest.fail("not started")
        assert w.io.names()[-1] == "close"

    run(scenario)

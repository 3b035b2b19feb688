"""The asyncio front from start to end: starting, stopping by itself, closing, and whose it is."""

import asyncio
import threading
from typing import Any

import pytest

from pyraft import (
    RAFT_CANCELED,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RAFT_SHUTDOWN,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    raft_close,
    raft_set_pre_vote,
)
from pyraft.aio import RaftError
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.aio_world import World, refused, run
from tests.lib.solo import ScriptIo


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
            release.wait(100)
            ended.append(True)
            return load(io)

        w.io.load = slow
        starting = asyncio.create_task(w.server.start())
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 100)
        starting.cancel()
        await asyncio.sleep(0)
        assert not starting.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert ended == [True]
        assert w.server.state == RAFT_UNAVAILABLE

    run(scenario)


def test_requests_before_the_start_raise() -> None:
    """A server that has not been started says that, not that somebody else might lead."""

    async def scenario() -> None:
        w = World()
        for request in (w.server.apply(fsms.add_x(1)), w.server.barrier(), w.server.transfer()):
            error = await refused(request)
            assert (error.code, error.message) == (RAFT_CANCELED, "the server is not started")
        w.io.fail("load", RAFT_IOERR)
        await refused(w.server.start())
        assert (await refused(w.server.barrier())).message == "the server is not started"
        await w.server.start()
        assert (await refused(w.server.barrier())).code == RAFT_NOTLEADER
        await w.close()

    run(scenario)


def test_stop_ends_everything() -> None:
    """A server that stops by itself tells waiters and later requests why, whatever raft_errmsg says by then."""

    async def scenario() -> None:
        w = World()
        await w.lead()

        def fail(fsm: Any, buf: bytes) -> Any:
            raise KeyError("gone")

        w.fsm.apply = fail
        applying = asyncio.ensure_future(w.server.apply(fsms.add_x(5)))
        waiters = [
            asyncio.ensure_future(waiter)
            for waiter in (w.server.leader_change(), w.server.wait_until(lambda: w.server.state == RAFT_UNAVAILABLE))
        ]
        await asyncio.sleep(0)
        w.commit(3)
        with pytest.raises(RaftError, match="already started"):
            w.server.bootstrap(w.conf)
        later = [w.server.wait_leader(), w.server.apply(fsms.add_x(1)), w.server.add(4, "4"), w.server.transfer(2)]
        for awaitable in (applying, *waiters, *later):
            error = await refused(awaitable)
            assert error.code == RAFT_SHUTDOWN
            assert error.message == "the server has stopped: fsm.apply: KeyError: 'gone'"
            assert isinstance(error.__cause__, KeyError)
        await w.close()
        assert (await refused(w.server.wait_leader())).code == RAFT_CANCELED

    run(scenario)


def test_stop_answers_what_is_under_way_with_its_cause() -> None:
    """Commands, barriers, changes and transfers hear why, also of a disk that fails; a leader that goes on does not."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        lost = asyncio.ensure_future(w.server.apply(fsms.add_x(5)))
        await asyncio.sleep(0)
        w.recv(msg.append_entries(2, 3, 1, 1))
        assert (await refused(lost)).code == RAFT_LEADERSHIPLOST
        await w.close()

        w = World()
        await w.lead()
        server = w.server
        submitted = (server.apply(fsms.add_x(5)), server.barrier(), server.add(4, "4"), server.transfer(2))
        waiting = [asyncio.ensure_future(request) for request in submitted]
        await asyncio.sleep(0)
        w.io.fail("set_term", RAFT_IOERR)
        w.recv(msg.append_entries(2, 5, 1, 1))
        for request in waiting:
            error = await refused(request)
            assert (error.code, error.message) == (RAFT_SHUTDOWN, "the server has stopped: io: set_term failed")
            assert error.__cause__ is None
        await w.close()

    run(scenario)


def test_leader_that_had_no_turn_does_not_say_that_it_leads() -> None:
    """A process that was suspended may have been succeeded: is_leader is false until a tick has looked."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        w.io.now += 999
        assert w.server.is_leader
        w.io.now += 1
        assert not w.server.is_leader
        assert w.server.state == RAFT_LEADER
        w.tick(0)
        assert w.server.is_leader
        w.tick(1000)
        assert w.server.state == RAFT_FOLLOWER
        await w.close()

    run(scenario)


def test_a_clock_that_raises_ends_the_server_and_tells_who_waits() -> None:
    """io.time stops the core at a tick, and what waits for something ends with it."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        waiting = asyncio.create_task(w.server.wait_until(lambda: False))
        await asyncio.sleep(0)

        def broken(io: Any) -> int:
            raise OSError("no clock")

        w.io.time = broken
        w.tick()
        error = await refused(waiting)
        assert (error.code, str(error.__cause__)) == (RAFT_SHUTDOWN, "no clock")
        await w.close()

    run(scenario)


def test_only_voter_leads_however_long_it_had_no_turn() -> None:
    """Nobody can have succeeded the only voter: is_leader stays true when its process was suspended."""

    async def scenario() -> None:
        w = World(RAFT_VOTER)
        await w.server.start()
        assert w.server.is_leader
        w.io.now += 100_000
        assert w.server.is_leader
        await w.close()

    run(scenario)


def test_follower_that_stops_says_why() -> None:
    """So does one whose disk fails under a message; an on_state that raises changes nothing about it."""

    async def scenario() -> None:
        w = World()
        await w.server.start()

        def bad(old: int, new: int) -> None:
            raise ValueError("no")

        w.server.on_state = bad
        waiting = asyncio.ensure_future(w.server.wait_leader())
        await asyncio.sleep(0)
        w.io.fail("set_term", RAFT_IOERR)
        w.recv(msg.append_entries(2, 5, 1, 1))
        error = await refused(waiting)
        assert (error.code, error.message) == (RAFT_SHUTDOWN, "the server has stopped: io: set_term failed")
        assert len(w.io.reported) == 1
        await w.close()

    run(scenario)


def test_another_loop_is_refused() -> None:
    """A server belongs to the loop that it was made on, or else used on first."""
    w = World()

    async def scenario() -> None:
        await w.server.start()

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another loop"):
            await w.server.apply(fsms.add_x(1))
        with pytest.raises(RuntimeError, match="another loop"):
            await w.server.wait_until(lambda: True)
        made_there = made[0]
        with pytest.raises(RuntimeError, match="another loop"):
            await made_there.server.start()
        assert made_there.io.names() == ["init"]

    made: list[World] = []

    async def make() -> None:
        made.append(World())

    run(scenario)
    run(make)
    run(elsewhere)


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
        error = await refused(w.server.apply(fsms.add_x(5)))
        assert (error.code, error.message) == (RAFT_CANCELED, "the server is closed")

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
    """The caller of raft_close has its callback; close() does not wait for one that will never fire."""

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
        close: Any = lambda io, cb: (w.io.calls.append(("close",)), cb(io))  # noqa: E731
        w.io.close = close
        w.io.fail("load", RAFT_IOERR)
        with pytest.raises(RaftError, match="load failed"):
            async with w.server:
                pytest.fail("not started")
        assert w.io.names()[-1] == "close"

    run(scenario)

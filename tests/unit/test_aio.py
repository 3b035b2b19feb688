"""The asyncio front on one server against a scripted world: awaitables, errors, waiting, closing, cancelling."""

import array
import asyncio
import copy
import pickle
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
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftBuffer,
    RaftConfiguration,
)
from pyraft.aio import RaftError, Server
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.aio_world import World, refused, run
from tests.lib.solo import ScriptIo


def test_error_carries_code_and_text() -> None:
    """A RaftError has the code and the message; without one, the code's text. It prints the code's name."""
    plain = RaftError(RAFT_NOTLEADER)
    assert (plain.code, plain.message) == (RAFT_NOTLEADER, "server is not the leader")
    assert str(plain) == "RAFT_NOTLEADER: server is not the leader"
    told = RaftError(RAFT_IOERR, "io: disk on fire")
    assert (told.code, str(told)) == (RAFT_IOERR, "RAFT_IOERR: io: disk on fire")
    assert repr(told) == "RaftError(RAFT_IOERR, 'io: disk on fire')"
    assert str(RaftError(-1, "version must be set")) == "-1: version must be set"


def test_error_survives_pickling_and_copying() -> None:
    """Another process is told the same code and text."""
    for error in (RaftError(RAFT_IOERR, "io: disk on fire"), RaftError(RAFT_NOTLEADER)):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert (again.code, again.message) == (error.code, error.message)
            assert (str(again), repr(again)) == (str(error), repr(error))


def test_repr_says_who_and_what() -> None:
    """Id, address and state of a server show in a log."""

    async def scenario() -> None:
        w = World()
        assert repr(w.server) == "<aio.Server 1 at 1, unavailable>"
        await w.lead()
        assert repr(w.server) == "<aio.Server 1 at 1, leader>"
        await w.close()

    run(scenario)


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
    """A request that the core refuses by itself is told in its words, not in what the I/O table said last."""

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
            text = "server is not the leader: no leader is known"
            assert (error.code, error.message) == (RAFT_NOTLEADER, text)
        await w.close()

    run(scenario)


def test_apply_of_nonsense_raises() -> None:
    """A code that raft_apply returns at once is raised."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        text: Any = "text"
        error = await refused(w.server.apply(fsms.add_x(1), text))
        assert (error.code, error.message) == (RAFT_INVALID, "command 2 is not a bytes-like object but str")
        assert (await refused(w.server.apply())).code == RAFT_INVALID
        await w.close()

    run(scenario)


def test_any_buffer_is_applied() -> None:
    """Python's buffers and RaftBuffers are taken here."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        data = fsms.add_x(5)
        kinds = (bytearray(data), memoryview(data), array.array("B", data), RaftBuffer(data + b"more", len(data)))
        applying = asyncio.ensure_future(w.server.apply(*kinds))
        await asyncio.sleep(0)
        w.commit(2 + len(kinds))
        assert await applying == (5, 0)
        assert w.fsm.applied == [data] * len(kinds)
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


def test_transfer_that_fails_raises() -> None:
    """An election timeout later the target does not lead: this server does, or another one, or nobody."""

    async def attempt(w: World, id: int, *messages: Any) -> RaftError:
        await w.lead()
        task = asyncio.ensure_future(w.server.transfer(id))
        await asyncio.sleep(0)
        w.io.timeout = 5000  # for an election of its own
        for message in messages:
            w.recv(message)
        w.recv(msg.append_entries_result(2, 2, 2))
        w.tick(1000)
        error = await refused(task)
        await w.close()
        return error

    async def scenario() -> None:
        error = await attempt(World(), 2)
        assert (error.code, error.message) == (RAFT_NOCONNECTION, "server 2 has not taken over, this one leads on")
        error = await attempt(World(), 0)
        assert error.code == RAFT_NOCONNECTION
        error = await attempt(World(), 2, msg.append_entries(3, 3, 2, 2))
        assert (error.code, error.message) == (RAFT_LEADERSHIPLOST, "server 2 has not taken over, server 3 leads")
        error = await attempt(World(), 2, msg.request_vote(3, 3, 2, 2, disrupt=True))
        assert (error.code, error.message) == (RAFT_LEADERSHIPLOST, "server 2 has not taken over, no leader is known")

    run(scenario)


def test_transfer_that_a_close_ends_raises() -> None:
    """The attempt is over, and so is the server."""

    async def scenario() -> None:
        w = World()
        await w.lead()
        task = asyncio.ensure_future(w.server.transfer(2))
        await asyncio.sleep(0)
        await w.close()
        assert (await refused(task)).code == RAFT_CANCELED

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

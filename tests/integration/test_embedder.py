"""Mistakes of programs that embed a server: they are told what and where, and the server lives on."""

import asyncio
import copy
import dataclasses
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv import RaftUvTransport, pyuv, raft_uv_close, raft_uv_init, raft_uv_tcp_close, raft_uv_tcp_init
from io_uv.directory import lock_dir
from pyraft import (
    RAFT_BUSY,
    RAFT_INVALID,
    RAFT_VOTER,
    Raft,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    aio,
    raft_bootstrap,
    raft_close,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_recover,
)
from tests.lib.compiled import COMPILED
from tests.lib.uvnode import free_addresses


class World:
    """One aio.Server on the running loop; `apply` is its state machine's."""

    def __init__(self, dir: Path, apply: Callable[..., Any] = lambda fsm, buf: (0, len(buf))) -> None:
        (self.address,) = free_addresses(1).values()
        self.loop = pyuv.Loop(asyncio.get_running_loop())
        self.transport, self.io, self.fsm = RaftUvTransport(), RaftIo(), RaftFsm()
        self.fsm.version, self.fsm.apply = 1, apply
        assert raft_uv_tcp_init(self.transport, self.loop) == 0
        assert raft_uv_init(self.io, self.loop, dir, self.transport) == 0
        self.server = aio.Server(self.io, self.fsm, 1, self.address)

    def members(self) -> RaftConfiguration:
        """Return a configuration of this server alone."""
        conf = RaftConfiguration()
        assert raft_configuration_add(conf, 1, self.address, RAFT_VOTER) == 0
        return conf

    async def lead(self) -> None:
        """Bootstrap, start, and wait until it leads."""
        self.server.bootstrap(self.members())
        await self.server.start()
        await self.server.wait_until(lambda: self.server.is_leader)

    async def close(self) -> None:
        """Close everything in order."""
        await asyncio.wait_for(self.server.close(), 120)
        raft_uv_close(self.io)
        raft_uv_tcp_close(self.transport)
        self.loop.close()
        await asyncio.sleep(0)
        assert self.io.impl is None
        assert self.transport.impl is None


@pytest.mark.parametrize("conf", [None, {1: "127.0.0.1:1"}, "127.0.0.1:1", [(1, "127.0.0.1:1")]])
@pytest.mark.parametrize("call", [raft_bootstrap, raft_recover])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, call: Callable[[Raft, Any], int], conf: Any) -> None:
    """It costs nothing more: not this server, which is bootstrapped and started then, nor others on its loop."""

    async def scenario() -> None:
        world = World(tmp_path)
        raft = world.server.raft
        try:
            assert call(raft, conf) == RAFT_INVALID
            assert raft_errmsg(raft) == f"the configuration is a {type(conf).__name__}, not a RaftConfiguration"
        except TypeError:
            assert COMPILED
        await world.lead()
        assert await world.server.apply(b"12345678") == 8
        await world.close()

    asyncio.run(scenario())


@pytest.mark.skipif(COMPILED, reason="compiled functions check the types of their arguments themselves")
@pytest.mark.parametrize(
    ("io", "fsm", "text"),
    [
        (None, RaftFsm(), "io must be a RaftIo and is None"),
        (RaftIo, RaftFsm(), "io must be a RaftIo and is <class"),
        (RaftIo(), None, "fsm must be a RaftFsm and is None"),
        (RaftIo(), RaftFsm, "fsm must be a RaftFsm and is <class"),
    ],
)
def test_what_is_no_table_is_refused(io: Any, fsm: Any, text: str) -> None:
    """The text names it, and the object may be initialised right afterwards."""
    raft = Raft()
    assert raft_init(raft, io, fsm, 1, "1") == RAFT_INVALID
    assert raft_errmsg(raft).startswith(text)


async def _coroutine(fsm: RaftFsm, buf: bytes) -> tuple[int, None]:
    return 0, None


@pytest.mark.parametrize(
    ("name", "function", "text"),
    [
        ("apply", "apply", "fsm.apply must be a function and is 'apply'"),
        ("apply", _coroutine, "fsm.apply is a coroutine function"),
        ("snapshot", _coroutine, "fsm.snapshot is a coroutine function"),
        ("restore", 7, "fsm.restore must be a function and is 7"),
    ],
)
def test_what_is_no_function_of_a_state_machine_is_refused(name: str, function: Any, text: str) -> None:
    """It is when the server is made, not with the first command that comes to it."""
    raft, fsm = Raft(), RaftFsm()
    fsm.apply = lambda fsm, buf: (0, None)
    setattr(fsm, name, function)
    assert raft_init(raft, RaftIo(), fsm, 1, "1") == RAFT_INVALID
    assert raft_errmsg(raft).startswith(text)


@pytest.mark.parametrize("answer", [None, 0, "OK", ("OK", 0), (0, 1, 2), {}])
def test_an_answer_of_another_shape_is_named(tmp_path: Path, answer: Any) -> None:
    """A program that forgets the code, or the result, is told what was returned and what is expected."""

    async def scenario() -> None:
        world = World(tmp_path, lambda fsm, buf: answer)
        await world.lead()
        with pytest.raises(aio.RaftError) as caught:
            await world.server.apply(b"12345678")
        assert f"fsm.apply: TypeError: it returned {answer!r} where (rv, result) is expected" in str(caught.value)
        await world.close()

    asyncio.run(scenario())


def test_a_loop_that_is_not_of_pyuv_is_refused(tmp_path: Path) -> None:
    """Asyncio's own is a frequent mistake, and nobody would notice before the first connection."""

    async def scenario() -> None:
        for loop in (asyncio.get_running_loop(), None):
            with pytest.raises(TypeError, match=r"loop must be an io_uv.pyuv.Loop, and is a .*pyuv.Loop\(asyncio"):
                raft_uv_tcp_init(RaftUvTransport(), loop)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"loop must be an io_uv.pyuv.Loop, and is a .*pyuv.Loop\(asyncio"):
                raft_uv_init(RaftIo(), loop, tmp_path, RaftUvTransport())  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_released_too_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The things that raft_uv_init and raft_uv_tcp_init have made are kept while the server uses them: they could not
    be closed any more, and would keep directory and port.
    """

    async def scenario() -> None:
        world = World(tmp_path)
        await world.lead()
        with caplog.at_level(logging.ERROR):
            raft_uv_close(world.io)
            raft_uv_tcp_close(world.transport)
        assert [record.getMessage() for record in caplog.records] == [
            "raft_uv_close does nothing: server 1 is not closed, its raft_close has not called back",
            "raft_uv_tcp_close does nothing: server 1 uses the transport",
        ]
        assert await world.server.apply(b"12345678") == 8
        await world.close()

    asyncio.run(scenario())


def test_nothing_of_a_server_is_copied(tmp_path: Path) -> None:
    """The copy of a loop, a handle or a lock would close what the original uses, when it is thrown away."""

    @dataclasses.dataclass
    class Settings:
        server: Any

    async def scenario() -> None:
        world = World(tmp_path)
        await world.lead()
        lock = world.io.impl.lock
        for what in (world.server, world.loop, world.io.impl.timer, lock):
            for operation in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot be copied or pickled"):
                    operation(what)
        for what in (world.server.raft, world.io, world.transport):
            # mypyc's classes miss the arguments of their __init__ first.
            with pytest.raises(TypeError, match=r"cannot be copied or pickled|__init__\(\) missing"):
                copy.deepcopy(what)
        with pytest.raises(TypeError, match=r"aio\.Server cannot be copied"):
            dataclasses.asdict(Settings(world.server))
        assert await world.server.apply(b"12345678") == 8
        await world.close()

    asyncio.run(scenario())


def test_the_loop_of_asyncio_is_closed_before_the_server(tmp_path: Path) -> None:
    """Waiters are told what to do, and raft_close gives the directory back, as with a loop of pyuv."""

    async def scenario() -> World:
        world = World(tmp_path)
        await world.lead()
        return world

    async def afterwards() -> None:
        for coroutine in (world.server.apply(b"12345678"), world.server.close()):
            with pytest.raises(RuntimeError, match=r"another loop, which was closed before it: raft_close"):
                await coroutine

    world = asyncio.run(scenario())
    asyncio.run(afterwards())
    closed: list[Raft] = []
    assert raft_close(world.server.raft, closed.append) == 0
    assert closed == [world.server.raft]
    raft_uv_close(world.io)
    raft_uv_tcp_close(world.transport)
    lock_dir(str(tmp_path)).release()


def test_two_servers_with_one_table(tmp_path: Path) -> None:
    """The second is refused, and the first goes on."""

    async def scenario() -> None:
        world = World(tmp_path)
        await world.lead()
        with pytest.raises(aio.RaftError) as caught:
            aio.Server(world.io, world.fsm, 2, world.address)
        assert caught.value.code == RAFT_BUSY
        assert await world.server.apply(b"12345678") == 8
        await world.close()

    asyncio.run(scenario())

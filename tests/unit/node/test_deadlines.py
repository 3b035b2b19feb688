"""Waiting for one attempt: its time, and a cancellation that comes in the moment in which it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import io_uv
import pyraft
from pyraft.dqlite import Peer
from pyraft.node.deadlines import within


def plain(future: "asyncio.Future[int]") -> Awaitable[int]:
    """Return an attempt that is a future."""
    return future


async def task(future: "asyncio.Future[int]") -> int:
    """Wait for a future, as an attempt that is a coroutine."""
    return await future


@pytest.mark.parametrize(("make", "turns"), [(plain, 0), (task, 0), (task, 1)])
def test_a_cancellation_is_not_forgotten(make: Callable[["asyncio.Future[int]"], Awaitable[int]], turns: int) -> None:
    """The attempt ends in the same turn: a loop that is closed then would go on, and its closer wait for ever."""

    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(within(make(future), 60))
        for _ in range(3):
            await asyncio.sleep(0)
        future.set_result(7)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())


def test_an_attempt_has_its_time() -> None:
    """Its result or exception is passed on; when its time is over it is cancelled, and has ended."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, 7)
        assert await within(future, 60) == 7
        future = loop.create_future()
        loop.call_soon(future.set_exception, OSError("no"))
        with pytest.raises(OSError, match="no"):
            await within(task(future), 60)
        ended = []

        async def slow() -> None:
            try:
                await loop.create_future()
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        with pytest.raises(TimeoutError):
            await within(slow(), 0.001)
        assert ended == [True]

    asyncio.run(scenario())


def test_a_connection_that_comes_about_as_nobody_wants_it_any_more_is_closed() -> None:
    """Else its descriptor would stay open until the garbage collector comes."""

    async def scenario() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        streams = await asyncio.open_connection(*server.sockets[0].getsockname())
        dialed = asyncio.get_running_loop().create_future()

        async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            await dialed
            return streams

        opening = asyncio.ensure_future(Peer.open("node:1", dial))
        for _ in range(3):
            await asyncio.sleep(0)
        dialed.set_result(None)
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert streams[1].is_closing()
        await streams[1].wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_the_packages_wait_in_no_other_way() -> None:
    """asyncio.wait_for forgets a cancellation, before Python 3.12."""
    for package in (pyraft, io_uv):
        assert package.__file__ is not None
        for path in Path(package.__file__).parent.rglob("*.py"):
            assert "asyncio.wait_for(" not in path.read_text(), path

"""Nodes, clients and locks whose tasks are cancelled again and again, as anyio's scopes do it."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from pyraft.node import Node, connect, init
from pyraft.node.endings import to_the_end
from tests.lib.nodes import LOOPS, QUICK, Shop, run
from tests.lib.uvnode import free_addresses


async def cancelled_in_each_turn(work: Coroutine[Any, Any, None], ready: asyncio.Event) -> None:
    """Run `work`, and cancel it once it is ready, in each turn of the loop, until it has ended."""
    task = asyncio.ensure_future(work)
    await ready.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()


@pytest.mark.parametrize("kind", LOOPS)
def test_a_node_that_is_cancelled_is_closed(tmp_path: Path, kind: str) -> None:
    """Its directory is free at once, for the next one; also if it was cancelled while it began."""

    async def main() -> None:
        before = asyncio.all_tasks()
        (address,) = free_addresses(1).values()
        await init(tmp_path / "1", address)
        ready = asyncio.Event()

        async def work() -> None:
            async with Node(tmp_path / "1", Shop(), settings=QUICK) as node:
                await node.machine.put("apple")
                ready.set()
                await asyncio.Event().wait()

        await cancelled_in_each_turn(work(), ready)
        ready.set()
        await cancelled_in_each_turn(work(), ready)
        async with Node(tmp_path / "1", Shop(), settings=QUICK) as node:
            assert await node.machine.put("apple") == 2
        assert asyncio.all_tasks() == before

    run(main, kind)


def test_a_lock_whose_holder_is_cancelled_is_given_back(tmp_path: Path) -> None:
    """The next one has it long before it would end; a client leaves nothing behind either."""

    async def main() -> None:
        before = asyncio.all_tasks()
        (address,) = free_addresses(1).values()
        await init(tmp_path / "1", address)
        async with Node(tmp_path / "1", Shop(), settings=QUICK) as node:

            async def hold(ready: asyncio.Event) -> None:
                async with connect([address], Shop(), settings=QUICK) as client, node.lock("cron", ttl=80_000):
                    await client.machine.put("apple")
                    ready.set()
                    await asyncio.Event().wait()

            async def wait(ready: asyncio.Event) -> None:
                ready.set()
                async with node.lock("cron", ttl=80_000):
                    raise AssertionError

            await cancelled_in_each_turn(hold(ready := asyncio.Event()), ready)
            async with node.lock("cron"):
                await cancelled_in_each_turn(wait(ready := asyncio.Event()), ready)
            async with node.lock("cron", ttl=80_000) as lock:
                assert lock.token
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0)

    run(main)


def test_work_to_the_end_has_its_result_or_error() -> None:
    """One who is not cancelled gets both; one who is gets neither, and the error is not missed."""

    async def fail(*_: object) -> int:
        await asyncio.sleep(0)
        raise LookupError

    async def succeed() -> int:
        return 3

    async def main() -> None:
        assert await to_the_end(succeed()) == 3
        with pytest.raises(LookupError):
            await to_the_end(fail())
        task = asyncio.ensure_future(to_the_end(fail()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)

"""Attempts that are made again until one succeeds, and the end of that."""

import asyncio
from collections.abc import Callable

import pytest

from pyraft.node.errors import Unavailable
from pyraft.node.link import Lost
from pyraft.node.route import persist


@pytest.mark.parametrize("end", [lambda f: f.set_exception(Lost("x")), lambda f: f.set_result(1), lambda f: None])
def test_a_cancelled_one_ends_when_its_attempt_ends_at_once(end: Callable[["asyncio.Future[int]"], None]) -> None:
    """As when a node is closed, whose connections end in the same turn: it does not try on."""

    async def scenario() -> None:
        attempts: list[asyncio.Future[int]] = []

        def attempt() -> "asyncio.Future[int]":
            attempts.append(asyncio.get_running_loop().create_future())
            return attempts[-1]

        task = asyncio.ensure_future(persist(attempt, 60))
        while not attempts:
            await asyncio.sleep(0)
        end(attempts[0])
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert task.cancelled()
        assert len(attempts) == 1
        assert attempts[0].done()

    asyncio.run(scenario())


def test_an_attempt_that_does_not_end_is_given_up() -> None:
    """The time is over: Unavailable, and what was tried is cancelled."""

    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(Unavailable, match="no answer"):
            await persist(lambda: future, 0.01)
        assert future.cancelled()

    asyncio.run(scenario())

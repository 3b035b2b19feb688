"""Attempts that are made again until one succeeds, and the end of that."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyraft.node.errors import Unavailable
from pyraft.node.link import Link, Lost
from pyraft.node.route import Route, persist


@pytest.mark.parametrize("end", [lambda f: f.set_exception(Lost("x")), lambda f: f.set_result(1), lambda f: None])
def test_a_cancelled_one_ends_when_its_attempt_ends_at_once(end: Callable[["asyncio.Future[int]"], None]) -> None:
    """When a node is closed its connections end in the same turn: it does not try on."""

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


def test_a_member_that_knows_no_leader_is_better_news_than_one_that_is_down() -> None:
    """Where a majority is down the reason is not that one of them cannot be reached."""

    async def refused(*arguments: Any) -> None:
        raise OSError("refused")

    async def scenario() -> None:
        route = Route(lambda: None, lambda: ["down:1"], lambda: None, connect=refused)
        assert route.why() == "there is no connection to a member yet"
        with pytest.raises(Lost, match="no connection to a member yet"):
            await route.ask("members")
        assert route._connecting is not None
        await asyncio.wait([route._connecting[1]])
        assert route.why() == "no connection to a member, the last attempt: refused"
        route._link = Link("up:1", "")
        route._elsewhere(route._link, None)
        with pytest.raises(Lost, match="up:1 knows no leader, and the last attempt at another member: refused"):
            await route.ask("members")
        await route.close()

    asyncio.run(scenario())

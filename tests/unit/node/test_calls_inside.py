"""Commands and queries that use what has to be awaited: each such mistake is told in words that name it."""

import asyncio
from typing import Any

import pytest

from pyraft.node import Machine, command, query
from pyraft.node.testing import Cluster, simulate

HANDLES: list[Any] = []


def own(machine: Machine) -> Any:
    """Return the node whose machine that is; there are several in this process."""
    assert machine._node is not None
    return machine._node.caller


class Shop(Machine):
    """A machine with all the mistakes."""

    def __init__(self) -> None:
        self.n = 0

    @command
    def add(self) -> int:
        """Count."""
        self.n += 1
        return self.n

    @query
    def left(self) -> int:
        """Look."""
        return self.n

    @query
    def query_with_command(self) -> Any:
        """Call a command."""
        return self.add()

    @query
    def query_with_query(self) -> bool:
        """Call a query, and use what it returns."""
        return bool(self.left() > 1)  # type: ignore[operator]  # the mistake

    @query
    def query_with_time(self) -> Any:
        """Ask for the time."""
        return self.now

    @query
    def query_with_recipe(self) -> Any:
        """Use a recipe."""
        return own(self).map("users").get("ann")

    @query
    def query_with_coroutine(self) -> Any:
        """Return what was to be awaited."""
        return asyncio.sleep(0)

    @command
    def command_with_command(self) -> Any:
        """Call a command."""
        return self.add()

    @command
    def command_with_query(self) -> int:
        """Call a query, and use what it returns."""
        return self.left() + 1  # type: ignore[operator]  # the mistake

    @command
    def command_with_recipe(self) -> Any:
        """Use a recipe, and leave it at that: nobody would have heard of it."""
        _ = own(self).counter("hits").add(1)

    @command
    def command_with_lock(self) -> Any:
        """Take a lock."""
        return own(self).lock("cron")

    @command
    def command_with_handle(self) -> Any:
        """Use a recipe that was made before."""
        return HANDLES[0].add(1)

    @command
    def command_with_coroutine(self) -> Any:
        """Return what was to be awaited."""
        return asyncio.sleep(0)

    @command
    def command_with_coroutines(self) -> Any:
        """Return several of these."""
        self.n += 1
        return [Waits()]


class Waits:
    """One that can be awaited."""

    def __await__(self) -> Any:
        """Nobody does."""
        raise AssertionError


MISTAKES = [
    ("query_with_command", "a query cannot call a command or query: share a plain method instead"),
    ("query_with_query", "a query cannot call a command or query: share a plain method instead"),
    ("query_with_time", "only a command has a shared time"),
    ("query_with_recipe", "a query cannot use maps, locks and the like"),
    ("query_with_coroutine", r"query_with_coroutine\(\) has returned a coroutine and not a result"),
    ("command_with_command", "a command cannot call a command or query: share a plain method instead"),
    ("command_with_query", "a command cannot call a command or query: share a plain method instead"),
    ("command_with_recipe", "a command cannot use maps, locks and the like"),
    ("command_with_lock", "a command cannot use maps, locks and the like"),
    ("command_with_handle", r"command_with_handle\(\) has returned a coroutine and not a result"),
    ("command_with_coroutine", r"command_with_coroutine\(\) has returned a coroutine and not a result"),
    ("command_with_coroutines", "a Waits cannot be packed: await it, and give its result"),
]


def test_each_mistake_is_told_on_every_member_and_to_clients() -> None:
    """Nothing of such a command stays, no coroutine is left over that nobody awaits, and calls go on."""

    async def scenario(cluster: Cluster[Any]) -> None:
        leader = await cluster.lead()
        HANDLES[:] = [leader.counter("hits")]
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        async with cluster.client() as client:
            for program in (leader, follower, client):
                for name, text in MISTAKES:
                    kind = TypeError if name == "command_with_coroutines" else RuntimeError
                    with pytest.raises(kind, match=text):
                        await getattr(program.machine, name)()
                with pytest.raises(TypeError, match=r"an argument of map_set.*: a Waits cannot be packed: await it"):
                    await program.map("users").set("ann", Waits())
        assert await follower.machine.left() == 0
        assert await follower.machine.add() == 1
        assert await leader.counter("hits").get() == 0

    simulate(scenario, Shop, nodes=2)


def test_a_machine_in_no_node_says_so_at_the_call() -> None:
    """Nothing has to be awaited for that."""
    shop = Shop()
    for call in (shop.add, shop.left):
        with pytest.raises(RuntimeError, match="this Shop belongs to no node or client that is open: call it inside"):
            _ = call()


def test_coroutine_functions_cannot_be_commands_or_queries() -> None:
    """They could await something, and each member would come to its result at another time."""

    async def take(self: Machine) -> None:
        pass

    for kind in (command, query):
        with pytest.raises(TypeError, match=r"take must return its result: no coroutine function or generator"):
            kind(take)

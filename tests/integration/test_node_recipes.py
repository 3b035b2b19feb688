"""Maps, counters, locks and elections: on any node, one holder at a time, and over when they should be."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pyraft.node import Conflict, Node, connect
from pyraft.node.recipes import Recipes
from pyraft.node.replica import Replica
from tests.lib.nodes import Nodes, Shop, all_of, run, until


class Table:
    """The machine alone, with a clock of the test's own."""

    def __init__(self) -> None:
        self.machine = Recipes()
        self.replica = Replica({"r": self.machine})
        self.seconds = 0.0
        assert self.replica.do_apply(self.replica.entry(0, []))[0] == 0

    def do(self, name: str, *args: Any) -> Any:
        """Execute a command, at the time that it is."""
        arguments = self.replica.codec.pack([list(args), {}])
        entry = self.replica.entry(int(self.seconds * 1e6), [[b"", 0, 0, "r", name, 1, arguments]])
        (outcome,) = self.replica.do_apply(entry)[1]
        return self.replica.result("r", outcome)

    def ask(self, name: str, *args: Any) -> Any:
        """Answer a query."""
        return self.replica.ask(self.machine, name, args, {})


def test_maps_have_revisions() -> None:
    """A change may expect a revision; revisions never come twice, also behind a removal; failures change nothing."""
    table = Table()
    first = table.do("map_set", "m", "a", [1, 2])
    assert table.ask("map_get", "m", "a") == ([1, 2], first)
    second = table.do("map_set", "m", "a", 2, None, first)
    assert second > first
    for revision in (0, first, 99):
        with pytest.raises(Conflict) as caught:
            table.do("map_set", "m", "a", 3, None, revision)
        assert caught.value.revision == second
        with pytest.raises(Conflict):
            table.do("map_delete", "m", "a", revision)
    assert table.do("map_set", "m", "b", 1, None, 0) > second
    assert table.do("map_set", "other", "a", 1) > second
    assert table.ask("map_items", "m") == {"a": 2, "b": 1}
    assert table.ask("map_items", "m", "b") == {"b": 1}
    assert table.do("map_delete", "m", "a", second)
    assert not table.do("map_delete", "m", "a")
    assert table.do("map_set", "m", "a", 1, None, 0) > second + 2
    assert table.do("map_delete", "m", "a")
    assert table.do("map_delete", "m", "b")
    assert "m" not in table.machine.maps


def test_keys_of_old_programs_that_are_no_strings_spoil_nothing() -> None:
    """One such key had every question for the items, state and changes of its map fail, for everybody and for good."""
    table = Table()
    for key in ("b", 3, b"a", None, "a"):
        table.do("map_set", "m", key, key)
    assert table.ask("map_items", "m") == {"a": "a", "b": "b"}
    assert table.ask("map_items", "m", "b") == {"b": "b"}
    assert list(table.ask("map_state", "m")[1]) == ["a", "b"]
    assert [change[2] for change in table.ask("map_changes", "m", "", 0)[1]] == ["b", "a"]
    assert table.ask("map_get", "m", 3) == (3, 2)
    assert table.do("map_delete", "m", 3)


def test_keys_and_counts_of_wrong_types_are_not_sent(tmp_path: Path) -> None:
    """They are the caller's TypeError, and the things stay as they were."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            (node,) = await cluster.grow(1)
            things = node.map("m"), node.counter("n")
            for key in (3, b"a", None):
                with pytest.raises(TypeError, match="key of a map must be a string"):
                    await things[0].set(key, 1)  # type: ignore[arg-type]
            for n in (1.5, float("nan"), "1"):
                with pytest.raises(TypeError, match="counts in whole numbers"):
                    await things[1].add(n)  # type: ignore[arg-type]
            assert await things[0].set("a", 1) == 1
            assert await things[1].add() == 1

    run(scenario)


def test_values_end() -> None:
    """A value with a time to live is gone for commands at once, and for queries when that was executed; not before."""
    table = Table()
    table.do("map_set", "m", "a", 1, 10.0)
    table.do("map_set", "m", "b", 1, 10.0)
    table.do("map_set", "m", "c", 1)
    table.seconds = 9.9
    table.do("expire")
    table.do("map_set", "m", "b", 2, 10.0)  # and so later
    assert table.ask("map_items", "m") == {"a": 1, "b": 2, "c": 1}
    assert not table.machine.is_due(int(9.9e6))
    table.seconds = 10.5
    with pytest.raises(Conflict):
        table.do("map_set", "m", "a", 2, None, 1)
    assert table.do("map_delete", "m", "a") is False
    table.do("map_set", "m", "d", 1, 1.0)
    assert table.machine.is_due(int(11.0e6))
    table.seconds = 12.0
    table.do("expire")
    assert table.ask("map_items", "m") == {"b": 2, "c": 1}
    table.seconds = 30.0
    table.do("expire")
    assert table.ask("map_items", "m") == {"c": 1}
    assert table.machine.ends == {}
    for ttl in (0, -1, float("nan"), 1e10, "x"):
        with pytest.raises((ValueError, TypeError)):
            table.do("map_set", "m", "a", 1, ttl)
    assert table.machine.ends == {}


def test_locks_have_one_holder_and_growing_tokens() -> None:
    """A lock goes to another one when it is given back, or has ended; each holder's token is larger than all before."""
    table = Table()
    one = table.do("lock_acquire", "l", b"one", 10.0)
    assert one > 0
    assert table.do("lock_acquire", "l", b"one", 10.0) == one
    assert table.do("lock_acquire", "l", b"two", 10.0) == 0
    assert table.do("lock_acquire", "other", b"two", 10.0) > one
    assert not table.do("lock_release", "l", b"two")
    assert not table.do("lock_extend", "l", one + 1, 10.0)
    table.seconds = 9.0
    assert table.do("lock_extend", "l", one, 10.0)
    table.seconds = 18.9
    assert table.do("lock_acquire", "l", b"two", 10.0) == 0
    table.seconds = 19.1
    assert not table.do("lock_extend", "l", one, 10.0)
    two = table.do("lock_acquire", "l", b"two", 10.0)
    assert two > one
    assert not table.do("lock_release", "l", b"one")
    assert table.do("lock_release", "l", b"two")
    assert table.ask("lock_token", "l") == 0
    assert table.do("lock_acquire", "l", b"one", 10.0) > two
    table.seconds = 40.0
    table.do("expire")
    assert table.machine.locks == {}
    assert table.machine.ends == {}


def test_recipes_on_any_node(tmp_path: Path) -> None:
    """Maps and counters are the same on each node and for clients; values end without anybody's doing."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            nodes = await cluster.grow(3)
            for node in nodes:
                await node.map("users").set(f"user {node.id}", {"id": node.id})
            assert [sorted(await node.map("users").items("user")) for node in nodes] == [
                sorted(f"user {node.id}" for node in nodes)
            ] * 3
            assert sorted(await all_of(*[node.counter("n").add() for node in nodes for _ in range(20)])) == list(
                range(1, 61)
            )
            async with connect([nodes[0].address], Shop()) as client:
                users = client.map("users")
                revision = await users.revision(f"user {nodes[0].id}")
                await users.set(f"user {nodes[0].id}", 1, revision=revision)
                with pytest.raises(Conflict, match="the revision is"):
                    await users.set(f"user {nodes[0].id}", 1, revision=revision)
                assert await nodes[1].map("users").get(f"user {nodes[0].id}") == 1
                assert await nodes[1].map("users").get("nobody", 5) == 5
                assert await users.delete(f"user {nodes[0].id}")
                assert await client.counter("n").get() == 60
            await nodes[1].map("users").set("short", 1, ttl=0.1)
            await until(lambda: all("short" not in node._recipes.maps["users"] for node in nodes))

    run(scenario)


def test_lock_on_several_nodes(tmp_path: Path) -> None:
    """Many who want a lock on three nodes have it one after the other, under growing tokens."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            nodes = await cluster.grow(3)
            inside = 0
            tokens: list[int] = []

            async def holder(node: Node[Shop]) -> None:
                nonlocal inside
                async with node.lock("l", ttl=600) as lock:
                    inside += 1
                    assert inside == 1
                    tokens.append(lock.token)
                    await node.machine.put("apple")
                    assert inside == 1
                    inside -= 1

            await all_of(*[holder(node) for node in nodes for _ in range(5)])
            assert len(tokens) == 15
            assert tokens == sorted(set(tokens))
            lock = nodes[0].lock("l")
            await lock.acquire()
            with pytest.raises(RuntimeError, match="holds lock"):
                await lock.acquire()
            waiting = asyncio.ensure_future(nodes[1].lock("l").acquire())
            await until(lambda: nodes[1]._server._waiters)
            waiting.cancel()
            await asyncio.wait([waiting])
            await lock.release()
            await lock.release()
            assert await nodes[2].lock("l").acquire() > tokens[-1]

    run(scenario)


def test_lock_is_lost_at_once_for_a_process_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks before its loop has had a turn: the time is over all the same, and another one may have the lock."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            (node,) = await cluster.grow(1)
            lock = node.lock("l", ttl=600.0)
            for _ in range(2):
                await lock.acquire()
                assert not lock.lost.is_set()
                with monkeypatch.context() as patch:
                    patch.setattr(lock.lost, "_now", lambda: node.outside.seconds() + 590.0)
                    assert lock.lost.is_set()
                await lock.release()

    run(scenario)

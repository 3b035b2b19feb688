"""Sets, queues and locks, in virtual time, through faults and snapshots."""

import asyncio

import pytest

from pyraft.node import Queue, Settings, Stopped
from pyraft.node.testing import Cluster, simulate
from tests.lib.nodes import Shop

SHORT = Settings(snapshot_entries=20, trailing_entries=5)


def test_sets_are_shared() -> None:
    """A value that one member, or a client, puts in is there for all; a value that no set can hold is a TypeError."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        one, two, three = (cluster.nodes[number].set("seen") for number in (1, 2, 3))
        assert await one.add("a")
        assert not await two.add("a")
        assert await two.add(("b", 7))
        async with cluster.client() as client:
            assert await client.set("seen").add(3)
            assert await client.set("seen").has("a")
        assert await three.all() == {"a", ("b", 7), 3}
        assert await three.discard("a")
        assert not await one.discard("a")
        assert not await one.has("a")
        assert await cluster.nodes[1].set("other").all() == set()
        with pytest.raises(TypeError):
            await one.add([1])
        for value in (("b", 7), 3):
            await one.discard(value)
        assert await one.all() == set()
        assert "seen" not in cluster.nodes[1]._stores.sets

    simulate(scenario, Shop)


def test_queues_give_each_value_to_one_taker_in_order() -> None:
    """Takers on all members wait for what comes, and get it once, in order, while members are killed and cut off."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        taken: list[int] = []
        lost = 0

        async def take(number: int) -> None:
            nonlocal lost
            while True:
                node = cluster.nodes.get(number)
                if node is None:
                    await asyncio.sleep(0.05)
                    continue
                try:
                    with node.timeout(300):
                        value = await node.queue("jobs").take()
                except Stopped:
                    lost += 1  # it may have taken one
                else:
                    taken.append(value)

        takers = [asyncio.ensure_future(take(number)) for number in (1, 2, 3)]
        faults = asyncio.ensure_future(cluster.faults(15))
        async with cluster.client() as client:
            put = Queue(client._stores, "jobs", cluster.nodes[1]._until).put
            for value in range(100):
                with client.timeout(300):
                    await put(value)
                await asyncio.sleep(0.1)
        await faults
        node = await cluster.lead()
        await cluster.until(lambda: "jobs" not in node._stores.queues)
        await asyncio.sleep(5)
        for taker in takers:
            taker.cancel()
        assert len(set(taken)) == len(taken) >= 100 - lost
        assert await node.queue("jobs").size() == 0

    simulate(scenario, Shop, settings=SHORT)


def test_a_queue_keeps_its_order() -> None:
    """Without faults one taker gets all values in the order in which they were put in, across a snapshot."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        for value in range(60):
            assert await cluster.nodes[1 + value % 3].queue("q").put([value]) == value + 1
        await cluster.kill(2)
        queue = (await cluster.start(2)).queue("q")
        assert [await queue.take() for _ in range(60)] == [[value] for value in range(60)]
        waiting = asyncio.ensure_future(queue.take())
        await asyncio.sleep(1)
        assert not waiting.done()
        await cluster.nodes[1].queue("q").put(None)
        assert await waiting is None

    simulate(scenario, Shop, settings=SHORT)


def test_a_lock_of_a_closed_node_is_lost_without_a_word() -> None:
    """The task that keeps it for the program ends, and leaves no exception that nobody sees."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        lock = cluster.nodes[1].lock("l", ttl=3.0)
        await lock.acquire()
        keeper = lock._keeper
        assert keeper is not None
        await cluster.stop(1)
        await asyncio.wait([keeper])
        assert keeper.exception() is None
        assert lock.lost.is_set()
        assert await cluster.nodes[2].lock("l").acquire() > 1

    simulate(scenario, Shop)

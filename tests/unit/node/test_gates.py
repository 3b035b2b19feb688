"""Watching maps, and things that are held for a time: locks, semaphores, elections, barriers; in virtual time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyraft.node import Client, Compacted, Event, Node, Refused, Settings, recipes
from pyraft.node.testing import CLIENTS, Cluster, simulate
from tests.lib.nodes import Shop

SHORT = Settings(snapshot_entries=20, trailing_entries=5)


async def follow(m: Any, seen: list[Event], **kwargs: Any) -> None:
    """Note the changes of a map."""
    async for event in m.watch(**kwargs):
        seen.append(event)


def test_watchers_see_each_change_once() -> None:
    """All members and clients do, through faults: kinds, values and those before, by prefix, from a revision."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        first = await cluster.nodes[1].map("m").set("a1", 0)
        seen: dict[Any, list[Event]] = {1: [], 2: [], "client": [], "other": []}
        tasks = [asyncio.ensure_future(follow(cluster.nodes[n].map("m"), seen[n], prefix="a")) for n in (1, 2)]
        async with cluster.client() as client:
            tasks.append(asyncio.ensure_future(follow(client.map("m"), seen["client"], after=first)))
            tasks.append(asyncio.ensure_future(follow(client.map("other"), seen["other"])))
            await asyncio.sleep(1)
            three = cluster.nodes[3].map("m")
            await three.set("a1", [1])
            await three.set("b", 2)
            await three.set("a2", {"x": 1}, ttl=5)
            cluster.isolate(cluster.number_of(await cluster.lead()))
            await asyncio.sleep(10)
            cluster.heal()
            await cluster.lead()
            assert await three.delete("a1")
            assert not await three.delete("a1")
            await cluster.until(lambda: all(len(seen[who]) >= 4 for who in (1, 2)) and len(seen["client"]) >= 5)
            kinds = [(e.kind, e.key, e.value, e.previous) for e in seen["client"]]
            assert kinds == [
                ("set", "a1", [1], 0),
                ("set", "b", 2, None),
                ("set", "a2", {"x": 1}, None),
                ("expired", "a2", None, {"x": 1}),
                ("deleted", "a1", None, [1]),
            ]
            assert [e.revision for e in seen["client"]] == list(range(first + 1, first + 6))
            assert seen[1] == seen[2] == [e for e in seen["client"] if e.key.startswith("a")]
            assert seen["other"] == []
            for task in tasks:
                task.cancel()

    simulate(scenario, Shop)


def test_a_watch_goes_on_from_a_state() -> None:
    """Nothing is missed between reading a map and watching it, and a value that has ended is told before its key is set
    again.
    """

    async def scenario(cluster: Cluster[Shop]) -> None:
        m = cluster.nodes[1].map("m")
        for n in range(400):
            await m.set(f"k{n}", n)
        revision, values = await m.state("k39")
        assert values["k399"] == (399, revision)
        for n in range(300):
            await m.set("k1", n)
        seen: list[Event] = []
        task = asyncio.ensure_future(follow(cluster.nodes[2].map("m"), seen, after=revision))
        await cluster.until(lambda: len(seen) == 300)
        assert [e.value for e in seen] == list(range(300))
        task.cancel()
        await m.set("short", 1, ttl=1)
        await asyncio.sleep(1.02)
        before = await m.set("short", 2)
        events = [e async for e in until(m, before, after=before - 3)]
        assert [(e.kind, e.previous) for e in events] == [("set", None), ("expired", 1), ("set", None)]

    async def until(m: Any, revision: int, after: int) -> Any:
        async for event in m.watch(after=after):
            yield event
            if event.revision == revision:
                return

    simulate(scenario, Shop)


def test_changes_that_are_forgotten_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last ones are kept, by number and by size; a watcher that comes too late gets Compacted, with a revision
    from which it can watch; members that restart from snapshots know the same.
    """
    monkeypatch.setattr(recipes, "HISTORY", 50)
    monkeypatch.setattr(recipes, "HISTORY_BYTES", 2000)

    async def scenario(cluster: Cluster[Shop]) -> None:
        m = cluster.nodes[1].map("m")
        first = await m.set("a", 0)
        for n in range(60):
            last = await m.set("a", n)
        await cluster.restart(2)
        for number in (1, 2):
            await cluster.nodes[number].ready()
        async with cluster.client() as client:
            for source in (cluster.nodes[1], cluster.nodes[2], client):
                with pytest.raises(Compacted) as caught:
                    await follow(source.map("m"), [], after=first)
                assert caught.value.revision == last - 50
                seen: list[Event] = []
                task = asyncio.ensure_future(follow(source.map("m"), seen, after=caught.value.revision))
                await cluster.until(lambda seen=seen: len(seen) == 50)
                task.cancel()
        for _ in range(10):
            last = await m.set("a", b"x" * 300)
        await cluster.nodes[1].ready()
        with pytest.raises(Compacted) as caught:
            await follow(m, [], after=last - 5)
        assert caught.value.revision == last - 3
        machine = cluster.nodes[1]._recipes
        assert machine.history_bytes == sum(len(c[4] or b"") + len(c[5] or b"") for c in machine.history) <= 2000

    simulate(scenario, Shop, settings=SHORT)


def holders(cluster: Cluster[Shop], limit: int) -> tuple[Callable[[Any], Any], list[int], list[int]]:
    """Return a coroutine function that holds something for a while, and what it notes: those inside, and all tokens."""
    inside: list[int] = []
    tokens: list[int] = []

    async def hold(thing: Any) -> None:
        async with thing as held:
            inside.append(held.token)
            tokens.append(held.token)
            assert len(inside) <= limit
            await asyncio.sleep(cluster.random.uniform(0.1, 3))
            assert not held.lost.is_set()
            inside.remove(held.token)

    return hold, inside, tokens


def test_semaphore_has_so_many_holders() -> None:
    """Many who want one of two places, on members and clients, have them in turn, each under a new token."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        hold, _, tokens = holders(cluster, 2)
        async with cluster.client() as client:
            sources: list[Node[Shop] | Client[Shop]] = [*cluster.nodes.values(), client]
            await asyncio.gather(*[hold(source.semaphore("s", 2, ttl=4)) for source in sources for _ in range(5)])
            assert len(set(tokens)) == 20
            one = client.semaphore("s", 2)
            await one.acquire()
            with pytest.raises(ValueError, match="has 2 places, not 3"):
                await cluster.nodes[1].semaphore("s", 3).acquire()
            assert await one.taken() == 1
            await one.release()
            assert await one.taken() == 0
            await cluster.nodes[1].semaphore("s", 3).acquire()  # nobody has one, so there may be three
        await asyncio.sleep(1)

    simulate(scenario, Shop)


def test_places_of_the_dead_are_free_after_their_time() -> None:
    """They are not before; one that is cut off knows that its place is lost before another one has it."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        holder = next(node for node in cluster.nodes.values() if not node.is_leader)
        other = next(node for node in cluster.nodes.values() if node is not holder)
        place = holder.semaphore("s", 1, ttl=3)
        await place.acquire()
        await asyncio.sleep(30)
        assert not place.lost.is_set()
        waiting = asyncio.ensure_future(other.semaphore("s", 1, ttl=3).acquire())
        cluster.isolate(cluster.number_of(holder))
        await place.lost.wait()
        assert not waiting.done()
        cut = cluster.now
        assert await waiting > 0
        assert cluster.now - cut < 3.1
        cluster.heal()

    simulate(scenario, Shop)


def test_barrier_lets_all_through_at_once() -> None:
    """Three wait for each other, again and again; one that is cancelled or dies is not counted."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        async with cluster.client() as client:
            sources: list[Any] = [cluster.nodes[1], cluster.nodes[2], client]
            barriers = [source.barrier("b", 3, ttl=3) for source in sources]
            for _ in range(3):
                waiting = [asyncio.ensure_future(b.wait()) for b in barriers[:2]]
                await asyncio.sleep(20)
                assert not any(task.done() for task in waiting)
                assert await barriers[0].waiting() == 2
                assert sorted([await barriers[2].wait(), *await asyncio.gather(*waiting)]) == [0, 1, 2]
            gone = asyncio.ensure_future(barriers[2].wait())
            await asyncio.sleep(1)
            with pytest.raises(ValueError, match="has 3 parties, not 4"):
                await client.barrier("b", 4).wait()
            gone.cancel()
            await asyncio.wait([gone])
            assert await barriers[0].waiting() == 0
            dead = asyncio.ensure_future(cluster.nodes[3].barrier("b", 3, ttl=3).wait())
            await cluster.until(lambda: cluster.nodes[1]._gates.barriers)
            await cluster.kill(3)
            await asyncio.wait([dead])
            assert dead.exception() is not None
            waiting = [asyncio.ensure_future(b.wait()) for b in barriers[:2]]
            await asyncio.sleep(10)
            assert not any(task.done() for task in waiting)
            assert sorted([await client.barrier("b", 3).wait(), *await asyncio.gather(*waiting)]) == [0, 1, 2]
            await cluster.until(lambda: not cluster.nodes[1]._gates.barriers)

    simulate(scenario, Shop)


def test_locks_and_elections_of_clients() -> None:
    """Clients and members have a lock one after the other, and run a job one at a time; the leader may go meanwhile."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        hold, _, tokens = holders(cluster, 1)
        async with cluster.client() as one, cluster.client() as two:
            sources: list[Any] = [one, two, *cluster.nodes.values()]
            await asyncio.gather(*[hold(source.lock("l", ttl=4)) for source in sources for _ in range(3)])
            assert tokens == sorted(set(tokens))
            assert len(tokens) == 15
            running: list[str] = []

            async def job(name: str) -> None:
                assert running == []
                running.append(name)
                try:
                    await asyncio.Event().wait()
                finally:
                    running.remove(name)

            jobs = {
                name: asyncio.ensure_future(source.elect("cron", lambda name=name: job(name), ttl=3))
                for name, source in (("one", one), ("two", two))
            }
            await cluster.until(lambda: running)
            (name,) = running
            await cluster.kill(cluster.number_of(await cluster.lead()))
            await asyncio.sleep(20)
            jobs[name].cancel()
            await asyncio.wait([jobs[name]])
            await cluster.until(lambda: running and running != [name])
            for task in jobs.values():
                task.cancel()
            queue = asyncio.ensure_future(two.queue("q").take())
            await asyncio.sleep(12)
            await one.queue("q").put("x")
            assert await queue == "x"

    simulate(scenario, Shop)


def test_lock_is_lost_before_it_ends() -> None:
    """A holder that is cut off knows so before another one can have the lock; while it is not, it keeps it."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        async with cluster.client() as client:
            lock = client.lock("l", ttl=2)
            token = await lock.acquire()
            await asyncio.sleep(20)
            assert not lock.lost.is_set()
            waiting = asyncio.ensure_future(cluster.nodes[1].lock("l", ttl=2).acquire())
            cluster.isolate(CLIENTS)
            await lock.lost.wait()
            lost = cluster.now
            assert not waiting.done()
            assert await waiting > token
            assert cluster.now - lost < 3
            cluster.heal()
            await lock.release()

    simulate(scenario, Shop)


def test_election_runs_one_job_at_a_time() -> None:
    """The job runs on one node; when that is closed another one's goes on; results and exceptions are the caller's."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        running: list[int] = []

        async def job(number: int) -> str:
            assert running == []
            running.append(number)
            try:
                await asyncio.Event().wait()
            finally:
                running.remove(number)
            return "never"

        tasks = {
            number: asyncio.ensure_future(node.elect("cron", lambda number=number: job(number), ttl=1.0))
            for number, node in cluster.nodes.items()
        }
        await cluster.until(lambda: running)
        (first,) = running
        tasks[first].cancel()
        await asyncio.wait([tasks[first]])
        await cluster.until(lambda: running and running != [first])
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
        assert running == []

        node = cluster.nodes[1]

        async def result() -> int:
            return 5

        async def failure() -> None:
            raise Refused("no")

        assert await node.elect("other", result) == 5
        with pytest.raises(Refused):
            await node.elect("other", failure)
        for ttl in (0.1, 1e9):
            with pytest.raises(ValueError, match="ttl"):
                node.lock("l", ttl=ttl)

    simulate(scenario, Shop)

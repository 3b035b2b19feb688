"""Several nodes: they join by any member's address, take calls anywhere, and none is lost or counted twice."""

import asyncio
import itertools
from pathlib import Path

import pytest

from pyraft import RAFT_LEADERSHIPLOST, aio
from pyraft.node import Node, Refused, Stopped, Unavailable, Unknown, View, init, join
from pyraft.node.identity import JOINED, JOINING, MEMBER, Identity, read, write
from tests.lib.nodes import LOOPS, PATIENT, QUICK, Nodes, Shop, all_of, run, until

loops = pytest.mark.parametrize("kind", LOOPS)


@loops
def test_calls_and_queries_on_any_node(tmp_path: Path, kind: str) -> None:
    """Three nodes joined by the addresses of others: a call counts on any, and a query sees it on any at once."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            nodes = await cluster.grow(3)
            assert len({node.cluster for node in nodes}) == 1
            assert len({node.id for node in nodes}) == 3
            for count, node in enumerate(nodes, 1):
                assert await node.machine.put("apple") == count
                for other in nodes:
                    assert await other.machine.left("apple") == count
            follower = cluster.followers()[0]
            with pytest.raises(LookupError, match="pear"):
                await follower.machine.take("pear")
            results = await all_of(*[node.machine.put("plum") for _ in range(200) for node in nodes])
            assert sorted(results) == list(range(1, 601))

    run(scenario, kind)


def test_queries_wait_for_what_is_acknowledged(tmp_path: Path) -> None:
    """A leader answers only behind a round that shows that it still leads; a follower only once it has what the leader
    had at that.
    """

    async def lost() -> int:
        raise aio.RaftError(RAFT_LEADERSHIPLOST)

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(2)
            leader, (follower,) = cluster.leader(), cluster.followers()
            assert await follower.machine.put("apple") == 1
            read_index = leader.server.read_index
            leader.server.read_index = lost
            for node in (leader, follower):
                with node.timeout(0.3), pytest.raises(Unavailable):
                    await node.machine.left("apple")
                with node.timeout(0.3), pytest.raises(Unavailable):
                    await node.ready()
            leader.server.read_index = read_index
            index = follower.server.raft.last_applied + 10
            leader._service.answers = {**leader._service.answers, "index": lambda: at(index)}
            query = asyncio.ensure_future(follower.machine.left("apple"))
            await asked.wait()
            await follower.members()  # whose answer comes behind the index
            while not query.done():
                assert follower.server.raft.last_applied < index + 50
                await leader.machine.put("pear")
            assert follower.server.raft.last_applied >= index
            assert await query == 1

    async def at(index: int) -> int:
        asked.set()
        return index

    asked = asyncio.Event()
    run(scenario)


@loops
def test_leader_is_lost_under_load(tmp_path: Path, kind: str) -> None:
    """While leaders go, with and without a word, every call on the other nodes counts exactly once."""

    async def scenario() -> None:
        async with Nodes(tmp_path, settings=QUICK) as cluster:
            await cluster.grow(3)
            done: dict[int, int] = {}
            stop = False

            async def load(node: Node[Shop], number: int) -> None:
                while not stop:
                    await node.machine.put(f"item {number}")
                    done[number] = done.get(number, 0) + 1

            for _ in range(3):
                lost, _ = await cluster.leading()
                clients = [
                    asyncio.ensure_future(load(node, 10 * number + client))
                    for number, node in cluster.nodes.items()
                    if number != lost
                    for client in range(4)
                ]
                before = sum(done.values())
                await until(lambda before=before: sum(done.values()) > before + 100)
                await cluster.vanish(lost)
                before = sum(done.values())
                await until(lambda before=before: sum(done.values()) > before + 100)
                stop = True
                await asyncio.gather(*clients)
                stop = False
                await cluster.start(lost)
            expected = {f"item {number}": count for number, count in done.items()}
            for node in cluster.nodes.values():
                assert await node.machine.all() == expected

    run(scenario, kind)


def test_closing_the_leader_hands_over(tmp_path: Path) -> None:
    """A leader that is closed has another one lead first: calls that are under way go on within moments."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(3)
            for _ in range(2):
                leader = cluster.leader()
                number = next(n for n, node in cluster.nodes.items() if node is leader)
                (other, _) = cluster.followers()
                calls = [asyncio.ensure_future(other.machine.put("apple")) for _ in range(50)]
                await cluster.nodes.pop(number).close()
                assert cluster.leader() is not leader
                await asyncio.gather(*calls)
                await (await cluster.start(number)).ready()
            assert await other.machine.left("apple") == 100

    run(scenario)


def test_members_are_asked_and_changed_on_any_node(tmp_path: Path) -> None:
    """Any node tells who the members are, and has them promoted, demoted, removed; a leader hands over first."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            one, two, three = await cluster.grow(3)
            for node in (one, two, three):
                members = await node.members()
                assert {(m.id, m.address, m.role) for m in members} == {
                    (n.id, n.address, "voter") for n in (one, two, three)
                }
                assert [m.id for m in members if m.leads] == [cluster.leader().id]
            assert await two.transfer(three.id) == three.id
            await until(lambda: three.is_leader)
            await one.demote(three.id)
            await until(lambda: not three.is_leader)
            assert {m.role for m in await three.members() if m.id == three.id} == {"standby"}
            assert await two.promote(three.id) == "voter"
            assert await two.promote(three.id) == "voter"
            with pytest.raises(Refused, match="not a member"):
                await two.promote(12345)
            await one.transfer(one.id)
            await until(lambda: one.is_leader)
            await two.remove(one.id)
            assert {m.id for m in await two.members()} == {two.id, three.id}
            await two.remove(one.id)
            await cluster.nodes.pop(1).close()
            await three.leave()
            del cluster.nodes[3]
            with pytest.raises(Refused, match="has left"):
                await cluster.start(3)
            assert [m.id for m in await two.members()] == [two.id]
            with pytest.raises(Refused, match="only voter"):
                await two.remove(two.id)
            assert await two.machine.put("apple") == 1

    run(scenario)


def test_reads_of_bounded_staleness(tmp_path: Path) -> None:
    """Within the time that is allowed since the last round, queries make none, and work when the others are gone."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(2)
            (follower,) = cluster.followers()
            rounds = 0
            make = follower._reads._round

            async def counting() -> None:
                nonlocal rounds
                rounds += 1
                await make()

            follower._reads._round = counting
            await cluster.leader().machine.put("apple")
            with follower.read(stale=1000):
                await follower.machine.left("apple")  # the first one, in whose time nothing is known yet, or is
                before = rounds
                for _ in range(10):
                    assert await follower.machine.left("apple") in (0, 1)
                assert rounds == before
            assert await follower.machine.left("apple") == 1
            assert rounds == before + 1
            assert 0 <= follower.staleness < 1000
            with follower.read(stale=0):
                assert await follower.machine.left("apple") == 1
            assert rounds == before + 2
            await cluster.vanish(next(number for number, node in cluster.nodes.items() if node is not follower))
            with follower.read(stale=1000):
                assert await follower.machine.left("apple") == 1
            with follower.read(stale=0), follower.timeout(0.2), pytest.raises(Unavailable):
                await follower.machine.left("apple")
            for stale in (-1, float("nan"), "x"):
                with pytest.raises(ValueError, match="the age of a state"), follower.read(stale=stale):  # type: ignore[arg-type]
                    pass
            await follower.close()
            with follower.read(stale=1000), pytest.raises(Stopped):
                await follower.machine.left("apple")

    run(scenario)


def test_changes_are_told(tmp_path: Path) -> None:
    """A node tells of new members, roles and leaders as it learns of them, until it is closed."""

    async def scenario() -> None:
        views: list[View] = []

        async def follow(node: Node[Shop]) -> None:
            async for view in node.changes():
                views.append(view)

        async with Nodes(tmp_path) as cluster:
            one = await cluster.start(1)
            following = asyncio.ensure_future(follow(one))
            await until(lambda: views)
            assert [(m.id, m.role, m.leads) for m in views[0].members] == [(one.id, "voter", True)]
            await cluster.start(2)
            two = cluster.nodes[2]
            await until(lambda: [m.role for m in views[-1].members] == ["voter", "voter"])
            assert "spare" in {m.role for view in views for m in view.members}
            await one.transfer(two.id)
            await until(lambda: views[-1].leader == two.id)
            assert [m.id for m in views[-1].members if m.leads] == [two.id]
            assert all(before != after for before, after in itertools.pairwise(views))
            await one.close()
            await following

    run(scenario)


def test_enough_voters_have_others_stand_by(tmp_path: Path) -> None:
    """Beyond the number of voters that was asked for, members stand by: they have the state, and take calls."""

    async def scenario() -> None:
        import dataclasses

        async with Nodes(tmp_path, settings=dataclasses.replace(PATIENT, voters=1)) as cluster:
            await cluster.start(1)
            two = await cluster.start(2)
            await until(lambda: cluster.roles(two) == ["voter", "standby"])
            assert await two.machine.put("apple") == 1
            assert await two.machine.left("apple") == 1

    run(scenario)


def test_join_is_refused_and_repeated(tmp_path: Path) -> None:
    """Joining again is harmless; a taken address, another cluster, a foreign directory are refused with the reason."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            one = await cluster.start(1)
            free = cluster.addresses
            with pytest.raises(ValueError, match="join needs the address of a member"):
                await join(tmp_path / "2", free[2])
            first = await join(tmp_path / "2", free[2], one.address)
            assert first.phase == JOINED
            assert await join(tmp_path / "2", free[2], one.address) == first
            assert await join(tmp_path / "2", free[2]) == first
            with pytest.raises(Refused, match="is the address of member"):
                await join(tmp_path / "3", free[2], one.address)
            assert not (tmp_path / "3").exists()
            (tmp_path / "3").mkdir()
            write(tmp_path / "3", Identity(7, free[2], "", JOINING, (one.address,)))  # as a kill leaves it
            with pytest.raises(Refused, match="was joining with address"):
                await join(tmp_path / "3", free[3], one.address)
            with pytest.raises(Refused, match=r"the join of .* was interrupted"):
                await cluster.start(3)
            with pytest.raises(Refused, match="belongs to member"):
                await join(tmp_path / "2", free[4], one.address)
            two = await cluster.start(2)
            await until(lambda: cluster.roles(two) == ["voter", "voter"])
            await until(lambda: read(tmp_path / "2").phase == MEMBER)

            await init(tmp_path / "other", free[5])
            async with Node(tmp_path / "other", Shop()) as other:
                other._route._members = lambda: [one.address]
                other._route.find()
                await until(lambda: other._route.refusals)
                assert "and you are of" in str(other._route.refusal())

    run(scenario)


def test_join_finds_the_leader_by_any_member(tmp_path: Path) -> None:
    """The address of a member that does not lead, behind one where nobody is, is enough; without one it gives up."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(2)
            (follower,) = cluster.followers()
            free = cluster.addresses
            assert (await join(tmp_path / "3", free[3], free[8], follower.address)).cluster == follower.cluster
            with pytest.raises(Unavailable, match=r"(not done|no answer) in 0\.3 s"):
                await join(tmp_path / "4", free[4], free[8], timeout_seconds=0.3)
            assert not (tmp_path / "4").exists()

    run(scenario)


def test_follower_without_a_leader_says_what_it_knows(tmp_path: Path) -> None:
    """When the others are gone, a call that was never sent says so, and one that may have been executed as well."""

    async def scenario() -> None:
        async with Nodes(tmp_path, settings=QUICK) as cluster:
            await cluster.grow(2)
            leader, _ = await cluster.leading()
            follower = cluster.nodes[3 - leader]
            assert await follower.machine.put("apple") == 1
            await cluster.vanish(leader)
            await until(lambda: follower.leader == (0, None))
            with follower.timeout(0.2), pytest.raises(Unknown) as caught:
                await follower.machine.put("apple")
            assert not caught.value.sent
            await cluster.start(leader)
            assert await follower.machine.put("apple") == 2

    run(scenario)

"""Members in virtual time: what they tell of themselves, who votes for whom, and two versions of a program at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import RAFT_STANDBY, RAFT_VOTER
from pyraft.node import CommandFailed, Member, Node, Refused, Settings, View
from pyraft.node.registry import REGISTRY, Registry, pack
from pyraft.node.replica import Replica
from pyraft.node.stores import STORES, Stores
from pyraft.node.testing import CLIENTS, Cluster, simulate
from tests.lib.nodes import Shop
from tests.unit.node.test_versions import Bank, NewBank

THREE = Settings(voters=3, replace_seconds=20)


def roles(cluster: Cluster[Any]) -> dict[int, str]:
    """Return the roles as the leader's log has them."""
    leader = cluster.leader
    assert leader is not None
    names = {RAFT_VOTER: "voter", RAFT_STANDBY: "standby"}
    return {s.id: names.get(s.role, "spare") for s in leader.server.raft.configuration.servers}


async def told(cluster: Cluster[Any], *numbers: int) -> None:
    """Wait until all members know those of these numbers."""
    await cluster.until(
        lambda: all(number in node._registry.facts for node in cluster.nodes.values() for number in numbers)
    )


def test_members_tell_of_themselves() -> None:
    """Name, version and data of each member are there on all, for clients too, through restarts, and may change."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        one = cluster.nodes[1]
        await told(cluster, 1, 2, 3)
        seen: list[View] = []

        async def follow() -> None:
            async for view in cluster.nodes[3].changes():
                seen.append(view)

        following = asyncio.ensure_future(follow())
        await one.tell({"http": "10.0.0.1:80", "zones": [1, 2]})
        with pytest.raises(TypeError):
            await one.tell((1, 2))
        with pytest.raises(ValueError, match="4096"):
            await one.tell("x" * 5000)
        members = {m.id: m for m in await cluster.nodes[2].members()}
        assert members[1].data == {"http": "10.0.0.1:80", "zones": [1, 2]}
        assert members[2].data is None
        async with cluster.client() as client:
            assert {m.id: m.data for m in await client.members()} == {id: m.data for id, m in members.items()}
        await cluster.until(lambda: seen and seen[-1].members[0].data == members[1].data)
        following.cancel()
        await one.ready()
        revision = one._registry.revision
        await cluster.restart(2)
        await asyncio.sleep(10)
        assert one._registry.revision == revision  # nothing new, so nothing is written
        await cluster.restart(1)
        await cluster.until(lambda: cluster.nodes[3]._registry.facts[1].data == pack(None))

    simulate(scenario, Shop)
    with pytest.raises(ValueError, match="name and version"):
        Node("data", Shop(), version="x" * 300)


def test_contact_and_distance_of_members() -> None:
    """The leader tells for how long it has heard nothing of a member, and what that one does not have."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await told(cluster, 1, 2, 3)
        leader = await cluster.lead()
        await leader.machine.put("apple")
        await asyncio.sleep(1)
        by_id = {m.id: m for m in await leader.members()}
        assert by_id[leader.id].last_contact == 0.0
        assert by_id[leader.id].leads
        assert all(m.last_contact is not None and m.last_contact < 0.3 and m.behind == 0 for m in by_id.values())
        (away, near) = [node for node in cluster.nodes.values() if node is not leader]
        cluster.isolate(cluster.number_of(away))
        for _ in range(7):
            await near.machine.put("apple")
        await asyncio.sleep(10)
        by_id = {m.id: m for m in await near.members()}
        last = by_id[away.id].last_contact
        assert last is not None
        assert 9 < last < 11
        assert by_id[away.id].behind == 7
        assert (by_id[near.id].behind, by_id[leader.id].behind) == (0, 0)
        await leader.transfer(near.id)
        await cluster.until(lambda: cluster.leader is near)
        assert {m.id: m for m in await near.members()}[away.id].last_contact is None

    simulate(scenario, Shop)


def test_standby_votes_for_a_voter_that_is_gone() -> None:
    """After the set time, not before; the one that was gone stands by when it is back."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        for _ in range(2):
            await cluster.add()
        await cluster.until(lambda: list(roles(cluster).values()).count("standby") == 2)
        leader = await cluster.lead()
        await leader.demote(4)  # is to rest, and does
        gone = next(number for number in (1, 2, 3) if number != cluster.number_of(leader))
        await cluster.kill(gone)
        await asyncio.sleep(15)
        assert roles(cluster)[gone] == "voter"
        await cluster.until(lambda: roles(cluster)[gone] == "standby")
        await cluster.until(lambda: roles(cluster)[5] == "voter")
        assert roles(cluster)[4] == "standby"
        await cluster.start(gone)
        await asyncio.sleep(60)
        assert sorted(roles(cluster).values()) == ["standby", "standby", "voter", "voter", "voter"]
        assert roles(cluster)[5] == "voter"
        # A voter that is removed leaves its place to the one that does not rest.
        await cluster.nodes[5].remove(5)
        await cluster.until(lambda: roles(cluster)[gone] == "voter")
        assert roles(cluster)[4] == "standby"
        assert await cluster.nodes[4].promote(4) == "standby"  # nor does it rest any more
        await (await cluster.lead()).remove(gone)
        await cluster.until(lambda: roles(cluster)[4] == "voter")

    simulate(scenario, Shop, settings=THREE, check=False)


def test_nobody_stands_in_for_more_than_is_gone() -> None:
    """Without a standby that is there and near, a voter that is gone keeps its vote."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await cluster.add()
        await cluster.until(lambda: roles(cluster)[4] == "standby")
        leader = await cluster.lead()
        gone = next(number for number in (1, 2, 3) if number != cluster.number_of(leader))
        await cluster.kill(gone)
        await cluster.kill(4)
        await asyncio.sleep(100)
        assert roles(cluster)[gone] == "voter"
        await cluster.start(4)
        await cluster.until(lambda: roles(cluster)[4] == "voter")

    simulate(scenario, Shop, settings=THREE)


def test_replace() -> None:
    """One member goes, leader or not, alive or not, and another one votes in its place; again, nothing changes."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        await told(cluster, 1, 2, 3)
        with pytest.raises(Refused, match="stands by"):
            await cluster.nodes[1].replace(2)
        for _ in range(3):
            await cluster.add()
        await cluster.until(lambda: list(roles(cluster).values()).count("standby") == 3)
        leader = await cluster.lead()
        old = cluster.number_of(leader)
        assert await leader.replace(old, 5) == 5
        assert await cluster.nodes[6].replace(old, 5) == 5
        assert await cluster.nodes[6].replace(old) == 0
        await cluster.until(lambda: old not in cluster.nodes[6]._registry.facts)
        assert {id for id, role in roles(cluster).items() if role == "voter"} == {1, 2, 3, 5} - {old}
        dead = next(number for number in (1, 2, 3) if number != old and cluster.nodes[number] is not cluster.leader)
        await cluster.kill(dead)
        async with cluster.client() as client:
            by = await client.replace(dead)
            assert by in (4, 6)
            with pytest.raises(Refused, match="its own place"):
                await client.replace(by, by)
        assert sorted(roles(cluster).values()) == ["standby", "voter", "voter", "voter"]
        assert dead not in roles(cluster)

    simulate(scenario, Shop, settings=Settings(voters=3, replace_seconds=1e6), check=False)


def test_rolling_upgrade() -> None:
    """While members get the next version of a program, one after the other and under load, calls take the version that
    all have, no member stops, and from the last restart on the new version counts.
    """

    async def scenario(cluster: Cluster[Any]) -> None:
        await told(cluster, 1, 2, 3)
        paid = 0
        stop = False

        async def load() -> None:
            nonlocal paid
            while not stop:
                await cluster.nodes[3].machine.pay("ann", 10)
                paid += 10

        loading = asyncio.ensure_future(load())
        for number in (1, 2):
            await cluster.lead()
            await cluster.stop(number)
            new = await cluster.start(number, NewBank)
            await new.ready()
            await cluster.until(lambda new=new: any("close" in o for o in new._registry.facts[new.id].offers))
            for leader in cluster.nodes:
                await new.transfer(leader)
                before = (await new.machine.balance("bob")) or 0
                assert await new.machine.pay("bob", 5) == before + 5  # version 1: without a fee
                with pytest.raises(CommandFailed, match="has no pay in version 2"):
                    await new.machine.pay("bob", 5, fee=2)
                with pytest.raises(CommandFailed, match="has no close in"):
                    await new.machine.close("bob")
        stop = True
        await loading
        assert await cluster.nodes[3].machine.balance("ann") == paid > 0
        await cluster.stop(3)
        new = await cluster.start(3, NewBank)
        await cluster.until(lambda: all(not node._admission.lacking for node in cluster.nodes.values()))
        for node in cluster.nodes.values():
            assert await node.machine.pay("eve", 10, fee=3) == 7
            assert await node.machine.pay("eve", 10) == 16  # version 2: a fee of 1
            assert await node.machine.close("eve") == 16
            assert node._cause is None

    simulate(scenario, Bank)


def test_a_new_member_with_an_older_program_gets_no_role() -> None:
    """It would stop at what all others know; the refusal names that, and with their program it gets in."""

    async def scenario(cluster: Cluster[Any]) -> None:
        await told(cluster, 1, 2, 3)
        cluster._machine = Bank
        await cluster.add()
        await asyncio.sleep(10)
        assert roles(cluster)[4] == "spare"
        with pytest.raises(Refused, match="does not have what all others have, ' close 1'"):
            await cluster.nodes[1].promote(4)
        cluster._machine = NewBank
        await cluster.restart(4)
        await cluster.until(lambda: roles(cluster)[4] == "voter")

    simulate(scenario, NewBank)


def without_registry(node: Node[Any]) -> None:
    """Have a node, before it starts, be one of a version that knows nothing of registries."""
    replica = node._replica
    del replica.machines[REGISTRY]
    replica._commands = {key: value for key, value in replica._commands.items() if key[0] != REGISTRY}
    replica._functions = {key: value for key, value in replica._functions.items() if key[0] != REGISTRY}
    assert not replica.knows(REGISTRY, "tell", 1)
    assert REGISTRY not in {offered[0] for offered in replica.offers()}
    start = node._start

    async def older() -> None:
        await start()
        node._leases._restraint.features = 0
        for what in ("roster", "replace"):
            del node._service.answers[what]  # type: ignore[attr-defined]

    async def nothing() -> None:
        pass

    node._start, node._take_part, node._lead = older, nothing, nothing


def test_older_members_are_not_told_what_would_stop_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a member has no registry, none is told of the others, and all goes on; then everybody is."""
    begin: Callable[..., Any] = Node.__aenter__

    async def enter(node: Node[Any]) -> Any:
        if node.outside.number in old:  # type: ignore[attr-defined]
            without_registry(node)
        return await begin(node)

    monkeypatch.setattr(Node, "__aenter__", enter)
    old = {1, 2, 3}

    async def scenario(cluster: Cluster[Shop]) -> None:
        for number in (2, 3, 1):
            old.discard(number)
            await cluster.restart(number)
            for leader in (1, 2, 3):
                await cluster.nodes[number].transfer(leader)
                await cluster.nodes[1].machine.put("apple")
                await asyncio.sleep(3)
            assert all(node._cause is None for node in cluster.nodes.values())
            if old:
                assert cluster.nodes[number]._registry.facts == {}
                by = await cluster.nodes[number].members()
                assert [(m.id, m.role) for m in by] == [(1, "voter"), (2, "voter"), (3, "voter")]
        await told(cluster, 1, 2, 3)

    simulate(scenario, Shop)


def test_snapshots_leave_machines_out_that_were_never_used() -> None:
    """So older programs, which do not have them, can take a snapshot; newer ones put them back to their beginning."""

    def snapshot(replica: Replica) -> bytes:
        bufs = replica.do_snapshot_async(replica.do_snapshot()[1])[1]
        assert replica.do_snapshot_finalize(bufs) == 0
        return b"".join(bufs)

    def newer() -> Replica:
        return Replica({"": Shop(), STORES: Stores(), REGISTRY: Registry()})

    def do(replica: Replica, machine: str, name: str, *args: Any) -> None:
        call = [b"", 0, 0, machine, name, 1, replica.codec.pack([list(args), {}])]
        assert replica.do_apply(replica.entry(1, [call]))[0] == 0

    older = Replica({"": Shop()})
    new = newer()
    do(new, "", "put", "apple")
    unused = snapshot(new)
    assert older.do_restore(unused) == 0
    assert older.machines[""].content()["stock"] == {"apple": 1}
    do(new, STORES, "set_add", "s", 1)
    do(new, REGISTRY, "rest", 1, True)
    used = snapshot(new)
    assert older.do_restore(used) != 0
    again = newer()
    assert again.do_restore(used) == 0
    assert again.machines[STORES].content() == {"sets": {"s": {1}}, "queues": {}}
    assert again.machines[REGISTRY].content()["resting"] == {1: None}
    assert again.do_restore(unused) == 0
    assert again.machines[STORES].content() == Stores().content()
    do(again, STORES, "set_add", "s", 2)
    assert again.machines[STORES].content()["sets"] == {"s": {2}}


def test_a_member_is_what_others_say() -> None:
    """Members compare by all that is known of them, and can be in sets with any data."""
    assert Member(1, "a:1", "voter", data={"a": 1}) in {Member(1, "a:1", "voter", data={"a": 1})}
    assert Member(1, "a:1", "voter", data={"a": 1}) != Member(1, "a:1", "voter", data={"a": 2})
    assert CLIENTS == 0

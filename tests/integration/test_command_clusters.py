"""The commands for running clusters, on clusters of real nodes in this process, over their ports."""

import asyncio
import errno
import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from io_uv import health
from io_uv.histogram import BOUNDS
from pyraft import log
from pyraft.aio import RaftError
from pyraft.command.watch import Pace, Rate, links
from pyraft.node import Node, Settings, Tls, council, init, join
from pyraft.node.operate import Seen, Survey
from pyraft.node.status import Status, parse
from tests.integration.test_command import run
from tests.lib import faults, nodes
from tests.lib.nodes import QUICK, Nodes, Shop, until
from tests.lib.tlstest import Authority
from tests.lib.uvnode import free_addresses

CALM = Settings(heartbeat_msecs=50, election_timeout_msecs=10_000)
"""The commands run beside the nodes in one process: none of these is to take the others for dead meanwhile."""

MORTAL = Settings(heartbeat_msecs=50, election_timeout_msecs=3000)
"""The same where a leader goes, and the test waits for the next."""


def on(n: int, dir: Path, scenario: Callable[[Nodes, "Shell"], Awaitable[None]], settings: Settings = CALM) -> None:
    """Run a scenario on a cluster of n voters."""

    async def main() -> None:
        async with Nodes(dir, settings=settings) as cluster:
            await cluster.grow(n)
            await scenario(cluster, Shell(cluster))

    nodes.run(main)


class Shell:
    """Runs the command in a thread, as its loop is another one than that of the nodes."""

    def __init__(self, cluster: Nodes) -> None:
        self.cluster = cluster

    async def __call__(self, *words: object, via: int = 1) -> Result:
        where = self.cluster.addresses[via]
        return await asyncio.to_thread(run, *words, "--via", where)

    async def json(self, *words: object, via: int = 1) -> Any:
        return json.loads((await self(*words, "--json", via=via)).output)


def test_who_leads_and_how_the_members_are(tmp_path: Path) -> None:
    """Any member tells who leads, who there is, how far behind they are, and how long an answer takes."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        await leader.machine.put("apple", 3)
        for via in (1, 2, 3):
            result = await pyraft("status", via=via)
            assert result.exit_code == 0, result.output
            assert f"leader   {leader.address}, for " in result.output
            assert f"cluster  {leader.cluster}" in result.output
            rows = [line.split() for line in result.output.splitlines() if line.startswith("  127.")]
            assert sorted(row[0] for row in rows) == sorted(node.address for node in cluster.nodes.values())
            assert {row[1] for row in rows} == {"voter"}
            assert sorted(row[2] for row in rows) == ["follower", "follower", "leader"]
            assert len(result.output.splitlines()) == 9, result.output  # no remarks
        found = await pyraft.json("status", via=2)
        assert (found["leader"], found["cluster"]) == (leader.id, leader.cluster)
        (led,) = [one for one in found["members"] if one["id"] == leader.id]
        raft = leader.server.raft
        assert led["status"]["last"] == log.last_index(raft.log)
        assert led["status"]["machine"] == "Shop"
        assert led["status"]["segments"] > 0
        assert led["status"]["segment_bytes"] > 0
        assert 0 < led["status"]["free"] <= led["status"]["total"]
        assert {row[0] for row in led["status"]["matches"]} == {node.id for node in cluster.nodes.values()}
        assert [row["leads"] for row in await pyraft.json("members") if row["id"] == leader.id] == [True]
        result = await pyraft("ping", via=3)
        assert (result.exit_code, result.output.count("127.0.0.1:")) == (0, 3)
        result = await pyraft("check", via=3)
        assert (result.exit_code, "FAULT" in result.output) == (0, False), result.output
        assert "ok    quorum: 1 of the 3 voters may fail" in result.output

    on(3, tmp_path, scenario)


def test_all_that_one_member_tells(tmp_path: Path) -> None:
    """It tells of its log, its disk and its connections: who is connected."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        follower = cluster.followers()[0]
        await follower.machine.put("apple")  # over a connection to the leader
        result = await pyraft("status", leader.address)
        assert result.exit_code == 0, result.output
        for text in ("state      leader", "disk       takes entries", "connections to members", "  a client from 127"):
            assert text in result.output, result.output
        assert f"  member {follower.id} from 127.0.0.1" in result.output
        assert f"  {follower.id} at {follower.address}\n" in result.output
        told = (await pyraft.json("status", follower.id))["status"]
        assert (told["state"], told["segment_size"]) == ("follower", 8 << 20)
        result = await pyraft("status", "10.0.0.1:1")
        assert (result.exit_code, "10.0.0.1:1 is not a member" in result.output) == (1, True)

    on(2, tmp_path, scenario)


def test_members_are_changed(tmp_path: Path) -> None:
    """They are named by address or id, through a member that does not lead."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        other = cluster.followers()[0]
        result = await pyraft("transfer", other.address)
        assert result.output == f"member {other.id} at {other.address} leads\n"
        assert cluster.leader() is other
        (third,) = [node for node in cluster.followers() if node.address != cluster.addresses[1]][:1]
        assert (await pyraft("demote", third.id)).output.endswith("is a standby\n")
        assert "standby" in cluster.roles(other)
        row = {"id": third.id, "address": third.address}
        assert await pyraft.json("demote", third.id) == {**row, "role": "standby"}
        assert await pyraft.json("transfer", other.id) == {"id": other.id, "address": other.address}
        (taken,) = await pyraft.json("snapshot", "take", third.address)
        assert (taken["address"], taken["done"]) == (third.address, True)
        assert (await pyraft("promote", third.address)).output.endswith("is a voter\n")
        assert cluster.roles(other) == ["voter"] * 3
        added = cluster.addresses[7]
        assert (await pyraft("add", f"7={added}")).output == f"member 7 at {added} is a spare\n"
        result = await pyraft("add", f"8={added}")
        assert (result.exit_code, "is the address of member 7" in result.output) == (1, True)
        assert await pyraft.json("remove", 7) == {"id": 7, "address": added}
        assert await pyraft.json("add", f"8={added}") == {"id": 8, "address": added, "role": "spare"}
        assert (await pyraft("remove", 8)).exit_code == 0
        assert (await pyraft("remove", other.address)).exit_code == 0  # the leader
        await until(lambda: cluster.roles(third) == ["voter"] * 2)
        result = await pyraft("remove", other.address)
        assert (result.exit_code, "is not a member" in result.output) == (1, True)

    on(3, tmp_path, scenario)


def test_a_node_of_another_cluster_is_not_added(tmp_path: Path) -> None:
    """It is found at the address that is given, under its own id, and nothing is changed."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        await init(cluster.dir / "other", cluster.addresses[9])
        async with Node(cluster.dir / "other", Shop(), settings=CALM) as other:
            result = await pyraft("add", f"7={other.address}")
            assert result.exit_code == 1
            said = f"Error: at {other.address} is server {other.id} of cluster {other.cluster}, not 7\n"
            assert result.output == said
        assert cluster.roles(cluster.leader()) == ["voter"]
        result = await pyraft("add", f"7={cluster.addresses[9]}")
        assert result.exit_code == 0  # nobody is there yet

    on(1, tmp_path, scenario)


def test_a_member_is_replaced(tmp_path: Path) -> None:
    """One that stands by takes its place; the list says who has been heard from when, and who is behind."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        old, new = cluster.followers()
        assert (await pyraft("demote", new.address)).exit_code == 0
        result = await pyraft("replace", old.address, new.address)
        told = " ".join(result.output.split())
        assert told == f"member {old.id} at {old.address} is removed, and {new.id} votes in its place"
        await until(lambda: cluster.roles(leader) == ["voter"] * 2)
        result = await pyraft("members")
        rows = [line.split()[1:] for line in result.output.splitlines()[1:]]
        assert sorted(rows)[0 if leader.address < new.address else 1][:4] == [leader.address, "leads", "0", "now"]
        assert any(row[:2] == [new.address, "voter"] and row[-1] == "ago" for row in rows), result.output
        result = await pyraft("replace", new.address)
        assert (result.exit_code, result.output.startswith("Error: ")) == (1, True)  # nobody stands by

    on(3, tmp_path, scenario)


def test_a_dead_member_is_replaced_by_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has only joined, or has stopped, is refused with the reason, and the roles stay as they were."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        dead = cluster.nodes[3]
        monkeypatch.setattr(council, "_ANSWER_SECONDS", 0.2)  # nobody will answer
        await cluster.vanish(3)
        where = cluster.dir / "4"
        new = await join(where, cluster.addresses[4], cluster.addresses[1])
        result = await pyraft("replace", dead.address, new.address)
        assert (result.exit_code, f"member {new.id} at {new.address} does not answer" in result.output) == (1, True), (
            result.output
        )
        assert sorted(cluster.roles(cluster.nodes[1])) == ["spare", *["voter"] * 3]
        await cluster.start(4)
        await until(lambda: cluster.roles(cluster.nodes[1]) == ["voter"] * 4)
        assert (await pyraft("demote", new.address)).exit_code == 0
        await cluster.vanish(4)
        cluster.nodes[1]._leases._restraint._contacts.pop(new.id)  # as after some time
        for words in (("replace", dead.address, new.address), ("promote", new.address)):
            result = await pyraft(*words)
            assert (result.exit_code, "start it first" in result.output) == (1, True), result.output
            assert sorted(cluster.roles(cluster.nodes[1])) == ["standby", *["voter"] * 3]
        monkeypatch.undo()
        await cluster.start(4)
        assert (await pyraft("replace", dead.address, new.address)).exit_code == 0
        assert cluster.roles(cluster.nodes[1]) == ["voter"] * 3

    on(3, tmp_path, scenario)


class Mistaken(Shop):
    """A machine whose snapshot goes wrong as long as `mistake` says how."""

    mistake = ""

    def snapshot(self) -> Any:
        """Return the state as one piece, raise, or return what is not bytes."""
        if self.mistake == "raises":
            raise LookupError("no state")
        return {"a text": 1} if self.mistake else [repr(self.stock).encode()]


@pytest.mark.parametrize(("mistake", "why"), [("raises", "LookupError: no state"), ("is a dict", "TypeError: string")])
def test_a_mistake_in_a_snapshot_stops_no_member(
    mistake: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The snapshot is refused with the reason, which the log has once, `check` finds it, and the member goes on."""
    monkeypatch.setattr(Mistaken, "mistake", mistake)
    address = free_addresses(1)[1]

    async def main() -> None:
        await init(tmp_path / "1", address)
        async with Node(tmp_path / "1", Mistaken(), settings=QUICK) as node:
            for number in (1, 2):
                assert await node.machine.put("apple") == number
                for words in (("snapshot", "take"), ("backup", str(tmp_path / "file"))):
                    result = await asyncio.to_thread(run, *words, "--via", address)
                    assert result.exit_code == 1
                    assert f"no snapshot could be taken: the state of the machines cannot be encoded: {why}" in (
                        " ".join(result.output.split())
                    )
            assert "FAULT snapshots" in (await asyncio.to_thread(run, "check", "--via", address)).output
            monkeypatch.setattr(Mistaken, "mistake", "")
            assert (await asyncio.to_thread(run, "snapshot", "take", "--via", address)).exit_code == 0
            assert "ok    snapshots" in (await asyncio.to_thread(run, "check", "--via", address)).output
            assert await node.machine.put("apple") == 3

    nodes.run(main)
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [
        "the state of the machines cannot be encoded, so no snapshot can be taken and the log grows"
    ]


def test_a_cluster_that_is_not_well(tmp_path: Path) -> None:
    """A member that is gone, and then a majority: what still answers says so, and the exit code is 1."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        gone = [number for number, node in cluster.nodes.items() if number != 1 and not node.is_leader]
        last = next(number for number in (2, 3) if number != gone[0])
        await cluster.vanish(gone[0])
        result = await pyraft("status")
        assert result.exit_code == 1
        where = cluster.addresses[gone[0]]
        assert f"  * {where} cannot be reached" in result.output, result.output
        for _ in range(5):
            await cluster.leader().machine.put("apple")
        result = await pyraft("status")
        (row,) = [line.split() for line in result.output.splitlines() if line.startswith(f"  {where} ")]
        assert row[2:4] == ["no", "answer"]
        assert int(row[4]) >= 5, result.output  # entries that it lacks, by the leader's word
        result = await pyraft("check")
        assert result.exit_code == 1
        assert f"FAULT members: 1 of 3: {where} cannot be reached: Connection refused" in result.output
        assert "FAULT quorum: no further one of the 3 voters may fail" in result.output
        assert "ok    leader: " in result.output
        assert (await pyraft("ping")).exit_code == 1
        await cluster.vanish(last)
        await until(lambda: not any(node.leader[0] for node in cluster.nodes.values()))
        result = await pyraft("status")
        assert (result.exit_code, "leader   nobody leads" in result.output) == (1, True), result.output
        result = await pyraft("check")
        assert "FAULT leader: nobody leads" in result.output
        assert "FAULT quorum: no majority of the 3 voters runs: nothing can be stored" in result.output
        result = await pyraft("transfer", "--timeout", 0.5)
        assert (result.exit_code, result.output.startswith("Error: ")) == (1, True), result.output

    on(3, tmp_path, scenario, MORTAL)


def test_a_transfer_that_failed_is_no_new_leadership(tmp_path: Path) -> None:
    """The leader knows none while it tries to hand over, and leads on since it was elected; the reason is told."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        number, gone = next((n, node.id) for n, node in cluster.nodes.items() if n != 1 and not node.is_leader)
        await cluster.vanish(number)
        where = cluster.addresses[number]
        result = await pyraft("transfer", where, "--timeout", 0.5)
        assert (result.exit_code, f"{where} cannot be reached" in " ".join(result.output.split())) == (1, True)
        kept = False
        while not kept:  # a busy machine may have another one elected meanwhile
            await until(lambda: any(node.is_leader for node in cluster.nodes.values()))
            leader = cluster.leader()
            term, began = leader.server.raft.current_term, time.monotonic()
            with pytest.raises(RaftError):
                await leader.server.transfer(gone)
            took = time.monotonic() - began
            kept = leader.is_leader and leader.server.raft.current_term == term
        assert parse(await leader._desk.status()).leader_seconds >= took

    on(3, tmp_path, scenario, QUICK)


def test_nobody_is_there(tmp_path: Path) -> None:
    """A wrong address, or none, is told in a line, by each command."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        for words in (["status"], ["members"], ["ping"], ["transfer"], ["remove", "1"], ["snapshot", "take"]):
            result = await pyraft(*words, "--timeout", 0.5, via=9)
            assert result.exit_code == 1, result.output
            assert result.output.startswith("Error: "), result.output
            assert cluster.addresses[9].split(":")[1] in result.output
        result = await pyraft("check", via=9)
        assert (result.exit_code, result.output.startswith("FAULT members: ")) == (1, True)
        assert run("status").exit_code == 2
        assert run("status", "--via", "x:1", "--cert", "a").exit_code == 2

    on(1, tmp_path, scenario)


def test_a_snapshot_is_taken(tmp_path: Path) -> None:
    """Each member takes one of all that it has applied; again, as there is nothing new, it is the same one."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        await leader.machine.put("apple", 3)
        last = log.last_index(leader.server.raft.log)
        await until(lambda: all(node.server.raft.last_applied == last for node in cluster.nodes.values()))
        for _ in range(2):
            result = await pyraft("snapshot", "take")
            assert result.output.count(f"has a snapshot up to entry {last}\n") == 2, result.output
        assert len(list(tmp_path.glob("*/snapshot-*.meta"))) == 2
        await leader.machine.put("apple")
        result = await pyraft("snapshot", "take", leader.address)
        assert result.output == f"{leader.address}: has a snapshot up to entry {last + 1}\n"
        await cluster.vanish(1)
        node = await cluster.start(1)
        await node.ready()
        assert await node.machine.left("apple") == 4

    on(2, tmp_path, scenario, MORTAL)


def test_a_sick_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower whose disk takes no entries is a fault, with the disk's own words, and then not any more."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        follower = cluster.followers()[0]
        (number,) = [n for n, node in cluster.nodes.items() if node is follower]
        sick = faults.Faults(monkeypatch, tmp_path / str(number))
        sick.begin(faults.always(errno.EIO, "pwrite", "write", "aio"))
        await cluster.leader().machine.put("apple")
        await until(lambda: health.ailment(follower.server.io))
        result = await pyraft("check")
        assert result.exit_code == 1
        assert f"FAULT disk: {follower.address}: " in result.output, result.output
        result = await pyraft("status")
        assert f"  * {follower.address}: its disk: " in result.output
        sick.heal()
        io = follower.server.io.impl
        io.calm = 1000  # as if seconds had passed without a failure
        await until(lambda: not health.ailment(follower.server.io))
        sick.begin(faults.always(errno.EIO, "listdir"))
        assert "cannot be read" in (await pyraft("status", follower.address)).output
        sick.heal()

    on(3, tmp_path, scenario)


def test_over_tls(tmp_path: Path) -> None:
    """The command gets in with certificates of the cluster's authority, and not without."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("node", "127.0.0.1")
    words = ("--cert", cert, "--key", key, "--ca", authority.path)

    async def main() -> None:
        where = free_addresses(1)[1]
        await init(tmp_path / "1", where)
        async with Node(tmp_path / "1", Shop(), settings=QUICK, tls=Tls(cert, key, authority.path)):
            result = await asyncio.to_thread(run, "status", "--via", where, *words)
            assert (result.exit_code, f"leader   {where}" in result.output) == (0, True), result.output
            result = await asyncio.to_thread(run, "status", "--via", where)
            assert (result.exit_code, result.output.startswith("Error: ")) == (1, True), result.output

    nodes.run(main)


def test_a_cluster_is_watched(tmp_path: Path) -> None:
    """Views follow each other; a leader that dies is seen, and so is a cluster of which nobody is left."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        old = cluster.leader()
        await old.machine.put("apple")
        (number,) = [n for n, node in cluster.nodes.items() if node is old]
        (via, *_) = [n for n in cluster.nodes if n != number]
        result = await pyraft("watch", "--interval", 0.05, "--count", 2, via=via)
        assert result.exit_code == 0, result.output
        assert result.output.count(f"leader   {old.address}") == 2
        assert " entries committed per second\n" in result.output
        assert " connections between members\n" in result.output
        result = await pyraft("watch", "--interval", 0.05, "--count", 2, "--json", via=via)
        first, second = map(json.loads, result.output.splitlines())
        assert (first["leader"], first["rate"], first["commit_seconds"]) == (old.id, None, None)
        assert (second["cluster"], second["rate"]) == (old.cluster, 0.0)
        await cluster.vanish(number)
        await until(lambda: any(node.is_leader for node in cluster.nodes.values()))
        result = await pyraft("watch", "--count", 1, via=via)
        assert f"leader   {cluster.leader().address}" in result.output, result.output
        assert f"  * {old.address} cannot be reached" in result.output
        result = await pyraft("watch", "--count", 1, via=9)
        assert (result.exit_code, "cannot be reached" in result.output) == (0, True)
        result = await pyraft("watch", "--count", 1, "--json", via=9)
        assert "cannot be reached" in json.loads(result.output)["problem"]

    on(3, tmp_path, scenario, MORTAL)


def test_how_long_commits_take() -> None:
    """The leader's counts since the last survey tell; another leader, or one that does not measure, tells nothing."""

    def survey(id: int, counts: list[int]) -> Survey:
        leader = Seen(id, "a:1", "voter", Status(id=id, state="leader", commit_counts=counts))
        return Survey([leader], leader)

    none = [0] * (len(BOUNDS) + 1)
    pace = Pace()
    assert pace.latency(Survey()) is None
    assert pace.latency(survey(1, none)) is None
    assert pace.latency(survey(1, none)) is None
    assert pace.latency(survey(1, [60, 0, 39, 1, *none[4:]])) == (BOUNDS[0], BOUNDS[2])
    assert pace.latency(survey(1, [60, 0, 39, 1, *none[4:-1], 2])) == (math.inf, math.inf)
    assert pace.latency(survey(2, [70, *none[1:]])) is None
    assert pace.latency(survey(2, [71, *none[1:]])) == (BOUNDS[0], BOUNDS[0])
    assert pace.latency(survey(2, [])) is None


def test_links_that_are_missing_are_told() -> None:
    """Those between members that answer: of one that does not something else is told already."""

    def seen(id: int, *links: list[Any]) -> Seen:
        return Seen(id, f"h:{id}", "voter", Status(id=id, links=list(links)))

    members = [seen(1, [2, "h:2", True], [3, "h:3", False]), seen(2, [1, "h:1", False]), Seen(3, "h:3", "voter")]
    assert links(Survey(members)) == (1, ["h:2 has no connection to h:1"])


def test_the_rate_of_commits() -> None:
    """The leader's commit index tells it; a change of leaders that takes the index back gives no rate."""

    def survey(commit: int) -> Survey:
        leader = Seen(1, "a:1", "voter", Status(id=1, state="leader", commit=commit))
        return Survey([leader], leader)

    rate = Rate()
    assert rate.of(Survey(), 1.0) is None
    assert rate.of(survey(10), 2.0) is None
    assert rate.of(survey(40), 5.0) == 10.0
    assert rate.of(survey(5), 6.0) is None
    assert rate.of(survey(6), 7.0) == 1.0

"""Backups of clusters that run, and new clusters that begin with them: the functions, and the commands on them."""

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs
from pyraft.aio import RaftError
from pyraft.node import Machine, Malformed, Node, NodeError, Refused, Settings, backup, giving, init, join
from pyraft.node.identity import read
from pyraft.node.operate import Operator
from tests.integration.test_command import run
from tests.integration.test_command_clusters import Shell, on
from tests.lib import faults, nodes
from tests.lib.nodes import QUICK, Nodes, Shop, all_of, until
from tests.lib.uvnode import free_addresses


def test_a_backup_comes_back_as_a_new_cluster(tmp_path: Path) -> None:
    """It has all that was acknowledged, maps and sessions too, under other ids, and others can join it."""
    file = tmp_path / "shop.backup"

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        shop = cluster.nodes[1].machine
        await all_of(*(shop.put("apple") for _ in range(50)))
        await cluster.nodes[2].map("users").set("ann", 7)
        assert await cluster.nodes[1].session("orders").call(1, shop.put, "pear") == 1
        result = await pyraft("backup", file)
        assert result.exit_code == 0, result.output
        head = json.loads(run("dir", "backup", file, "--json").output)
        assert head["cluster"] == cluster.nodes[1].cluster
        assert sorted(row[0] for row in head["members"]) == sorted(node.id for node in cluster.nodes.values())
        await shop.put("apple")  # behind it
        where = free_addresses(2)
        result = await asyncio.to_thread(run, "dir", "restore", file, tmp_path / "new", "--address", where[1])
        assert result.exit_code == 0, result.output
        own = read(tmp_path / "new")
        assert own is not None
        assert own.cluster != cluster.nodes[1].cluster
        assert own.id not in [node.id for node in cluster.nodes.values()]
        async with Node(tmp_path / "new", Shop(), settings=QUICK) as node:
            assert await node.machine.all() == {"apple": 50, "pear": 1}
            assert await node.map("users").get("ann") == 7
            assert await node.session("orders").call(1, node.machine.put, "pear") == 1  # it was executed before
            assert await node.machine.put("apple") == 51
            await join(tmp_path / "second", where[2], where[1])
            async with Node(tmp_path / "second", Shop(), settings=QUICK) as second:
                await until(lambda: cluster.roles(second) == ["voter"] * 2)
                await second.ready()
                with second.read(stale=float("inf")):
                    assert await second.machine.left("apple") == 51
            assert await shop.left("apple") == 51  # of the old cluster: 50 and 1

    on(3, tmp_path, scenario)


def test_a_backup_has_all_that_was_acknowledged_before(tmp_path: Path) -> None:
    """Its member hears of what is committed only with the next heartbeat, in half a second."""
    slow = Settings(heartbeat_msecs=500, election_timeout_msecs=10_000)

    async def main() -> None:
        async with Nodes(tmp_path, settings=slow) as cluster:
            await cluster.grow(2)
            leader, (follower,) = cluster.leader(), cluster.followers()
            async with Operator([cluster.addresses[1]]) as operator:
                for number in range(3):
                    count = await leader.machine.put("apple")
                    await backup.take(operator, tmp_path / f"b{number}", follower.address)
                    await backup.restore(tmp_path / f"b{number}", tmp_path / f"new{number}", free_addresses(1)[1])
                    async with Node(tmp_path / f"new{number}", Shop(), settings=QUICK) as node:
                        assert await node.machine.left("apple") == count

    nodes.run(main)


def test_a_large_backup_goes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time take turns; one that nobody fetches is forgotten."""
    monkeypatch.setattr(giving, "PIECE", 1000)

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        leader = cluster.leader()
        for n in range(20):
            await leader.machine.note(str(n) * 2000)
        async with Operator([leader.address]) as operator:
            number, head = await operator.ask(leader.address, "backup")
            assert head["size"] > 20_000
            assert len(await operator.ask(leader.address, "piece", number, 0)) == 1000
            assert await operator.ask(leader.address, "piece", number, head["size"]) == b""
            with pytest.raises(Refused, match="no part at 99999999"):
                await operator.ask(leader.address, "piece", number, 99999999)
            taken = await backup.take(operator, tmp_path / "b", leader.address)
            assert taken.size == head["size"]
            with pytest.raises(Refused, match="not kept any more"):
                await operator.ask(leader.address, "piece", number, 0)
            monkeypatch.setattr(giving, "IDLE_SECONDS", 0.01)
            number, _ = await operator.ask(leader.address, "backup")
            await until(lambda: leader._desk.giving._backup is None)
        assert backup.examine(tmp_path / "b") == taken

    on(1, tmp_path, scenario)


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    """Whichever byte is another, and wherever it is cut off; and nothing is made of it."""
    path = tmp_path / "b"

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        await cluster.leader().machine.put("apple")
        assert (await pyraft("backup", path)).exit_code == 0
        result = await pyraft("backup", path)
        assert (result.exit_code, "there is a file" in result.output) == (1, True)

    on(1, tmp_path, scenario)
    content = path.read_bytes()
    bad = tmp_path / "bad"
    for at in range(len(content)):
        bad.write_bytes(content[:at] + bytes((content[at] ^ 0x01,)) + content[at + 1 :])
        with pytest.raises(Refused):
            backup.examine(bad)
    for end in range(0, len(content), 7):
        bad.write_bytes(content[:end])
        with pytest.raises(Refused):
            backup.examine(bad)
    bad.write_bytes(content + b"x")
    with pytest.raises(Refused):
        backup.examine(bad)
    result = run("dir", "restore", bad, tmp_path / "new", "--address", "127.0.0.1:1")
    assert (result.exit_code, "is damaged" in result.output) == (1, True)
    assert not (tmp_path / "new").exists()
    assert run("dir", "backup", tmp_path / "none").exit_code == 1


def test_a_backup_that_cannot_be_written_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without such a directory, or without room, the text has the name that was given, and there is no file."""

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        where = tmp_path / "none" / "b"
        result = await pyraft("backup", where)
        assert (result.exit_code, f"No such file or directory: '{where}'" in result.output) == (1, True), result.output
        (tmp_path / "full").mkdir()
        where = tmp_path / "full" / "b"
        fsync = fs.fsync

        def full(fd: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
                raise faults.error(errno.ENOSPC)
            fsync(fd)

        monkeypatch.setattr(fs, "fsync", full)
        result = await pyraft("backup", where)
        assert (result.exit_code, f"No space left on device: '{where}'" in result.output) == (1, True), result.output
        assert os.listdir(tmp_path / "full") == []

    on(1, tmp_path / "nodes", scenario)


def test_a_restore_takes_only_an_empty_directory(tmp_path: Path) -> None:
    """It takes neither a member's nor one with something in it, and only an address that others could use."""
    path = tmp_path / "b"

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        await pyraft("backup", path)

    on(1, tmp_path, scenario)
    where = free_addresses(1)[1]

    async def main() -> None:
        await init(tmp_path / "member", where)
        with pytest.raises(Refused, match="belongs to a member already"):
            await backup.restore(path, tmp_path / "member", where)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").touch()
        with pytest.raises(Refused, match="not empty"):
            await backup.restore(path, tmp_path / "full", where)
        with pytest.raises(Refused):
            await backup.restore(path, tmp_path / "new", "nowhere")
        await backup.restore(path, tmp_path / "new", where)  # what was refused has left nothing behind

    nodes.run(main)


def test_a_restore_that_is_interrupted_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever step the disk begins to fail, no member comes of it that has less than all."""
    path = tmp_path / "b"

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        await cluster.nodes[1].machine.put("apple", 7)
        await pyraft("backup", path)

    on(1, tmp_path, scenario)
    where = free_addresses(1)[1]

    async def main() -> None:
        for number in range(100):
            directory = tmp_path / f"new{number}"
            directory.mkdir()
            sick = faults.Faults(monkeypatch, directory)
            sick.begin(faults.between(number, 10_000, errno.ENOSPC))
            try:
                await backup.restore(path, directory, where)
            except (OSError, NodeError, RaftError):
                restored = False
            else:
                restored = True
            monkeypatch.undo()
            try:
                async with Node(directory, Shop(), settings=QUICK) as node:
                    assert await node.machine.put("apple") == 8  # all, if it was the very last step that failed
            except (NodeError, RaftError):
                assert not restored
            if restored:
                assert number > 10
                return
        raise AssertionError("it never succeeds")

    nodes.run(main)


class Other(Machine):
    """Another machine than that of the backup."""


def test_the_program_has_to_fit_the_backup(tmp_path: Path) -> None:
    """A node with another machine says what is wrong and does not start."""
    path = tmp_path / "b"

    async def scenario(cluster: Nodes, pyraft: Shell) -> None:
        await pyraft("backup", path)

    on(1, tmp_path, scenario)

    async def main() -> None:
        await backup.restore(path, tmp_path / "new", free_addresses(1)[1])
        with pytest.raises(Exception, match="is of another program: it has a snapshot of a Shop, not of a Other"):
            async with Node(tmp_path / "new", Other(), settings=QUICK):
                pass

    nodes.run(main)


@pytest.mark.parametrize(
    "head",
    [None, [], {}, {"size": "1"}, {"members": [1]}, {"index": 0}, {"term": 1 << 63}, {"size": -1}, {"cluster": 3}],
)
def test_heads_of_others(head: Any) -> None:
    """A member may be hostile: a head of other types is Malformed."""
    texts = {"cluster": "c", "machine": "m", "version": "1", "sha256": "x"}
    good = {**texts, "index": 1, "term": 1, "taken": 1, "members": [], "size": 1}
    assert backup._head(good).size == 1
    with pytest.raises(Malformed):
        backup._head({**good, **head} if type(head) is dict and head else head)

"""Directories that go from go-dqlite to this project and back, and a leader of this project that Go nodes follow."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from io_uv.dqlite import requests, responses
from pyraft import RAFT_LEADER
from pyraft.dqlite import Peer, Settings
from tests.integration.test_command import run
from tests.integration.test_dqlite_member import Founder
from tests.interop.dqlite.driver import DEADLINE, LATENCY, Cluster, Node
from tests.interop.dqlite.test_witness import CREATE, INSERT, check, three
from tests.interop.driver import until
from tests.lib.dqlite import Source
from tests.lib.ports import free_port


def test_a_directory_goes_there_and_back(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """Go to Python after a clean stop, to Go after SIGKILL: a voter with all that it had, whose vote counts."""
    both = cluster(threshold=32, trailing=32)
    first, second, third, client = three(both)
    ours, theirs = third.command, second.command
    client.ask(f"load 60 {INSERT}")
    assert second.lines is not None
    assert second.lines.ask("quit") == "closed"
    second.kill()
    for command in (ours, theirs):
        second.command = command
        second.start()
        until("a leader", lambda: second.ask(requests.Leader()) != responses.Server(0, ""))
        # With the witness away, nothing is committed without the directory's node.
        third.kill()
        client.ask(f"load 60 {INSERT}")
        third.start()
        if command is ours:
            second.kill(signal.SIGKILL)
    said = int(client.ask("query select count(*) from t"))
    assert said >= 180
    check(both.until_equal([first, second, third]), tmp_path, said)


def test_a_go_node_follows_a_leader_of_ours(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """It gets our snapshot, then entries, becomes a voter, leads, and runs statements on what it got."""
    both = cluster(threshold=32, trailing=32)
    both.nodes.append(Node(lambda node: [], 1, tmp_path / "none"))  # id 1 would found a cluster of its own
    go = both.go()
    address = f"127.0.0.1:{free_port()}"

    async def run() -> None:
        settings = Settings(snapshot_threshold=16, snapshot_trailing=16).at_latency(LATENCY)
        source = Source(tmp_path)
        async with Founder(tmp_path / "ours", address, id=7, settings=settings) as founder:
            await founder.server.wait_until(lambda: founder.server.state == RAFT_LEADER)
            for n in range(60):
                statement = f"insert into t(b) values(hex(randomblob({n * 100})))" if n else CREATE.partition(" ")[2]
                for entry in source.run(statement):
                    await founder.server.apply(entry)
            assert list((tmp_path / "ours").glob("snapshot-*"))
            await asyncio.get_running_loop().run_in_executor(None, go.start)
            async with await Peer.open(address) as peer:
                await peer.ask(requests.Add(go.id, go.address))
                await peer.ask(requests.Assign(go.id, responses.VOTER), DEADLINE)
                await _until_dumped(go, source)
                await peer.ask(requests.Transfer(go.id), DEADLINE)
            assert await _statements(go) == (59, 60)
            await founder.server.wait_until(lambda: founder.server.leader[0] == go.id)
            assert founder.own_role == responses.VOTER
        source.close()

    asyncio.run(asyncio.wait_for(run(), DEADLINE))


def test_a_directory_of_a_go_node_is_looked_into_and_moved(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """It is shown and checked, its log decoded, exported and imported: a Go node goes on there with every row."""
    both = cluster(threshold=32, trailing=32)
    node = both.go()
    node.start()
    client = both.client()
    client.ask(CREATE)
    assert client.ask(f"load 100 {INSERT}") == "0"
    assert run("dir", "show", node.dir).exit_code == 1, "it runs, and takes no lock"
    assert node.lines is not None
    assert node.lines.ask("quit") == "closed"
    node.kill()
    result = run("dir", "show", node.dir)
    assert result.exit_code == 0, result.output
    for words in (f"server {node.id}", node.address, "restores the snapshot at"):
        assert words in " ".join(result.output.split()), result.output
    assert run("dir", "check", node.dir).exit_code == 0
    log = run("dir", "log", node.dir).output
    assert "dqlite FRAMES test.db: pages " in log
    assert "dqlite CHECKPOINT" in log or "dqlite OPEN" in log or log.count("FRAMES") > 10
    result = run("dir", "export", node.dir, tmp_path / "go.export")
    assert (result.exit_code, "file       info.yaml" in result.output) == (0, (node.dir / "info.yaml").exists())
    node.dir.rename(tmp_path / "before")
    result = run("dir", "import", tmp_path / "go.export", node.dir)
    assert result.exit_code == 0, result.output
    node.start()
    assert int(client.ask("query select count(*) from t")) >= 100


async def _until_dumped(go: Node, source: Source) -> None:
    expected, end = source.content(), time.monotonic() + DEADLINE
    while (await asyncio.get_running_loop().run_in_executor(None, go.dump)) != expected:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def _statements(go: Node) -> tuple[int, int]:
    """Insert a row at the Go node; return the numbers of rows before and behind."""
    counts: list[int] = []
    async with await Peer.open(go.address) as peer:
        await peer.ask(requests.Client(1))
        await peer.ask(requests.Open("test.db"))
        for _ in range(2):
            answer = await peer.ask(requests.QuerySql(0, "select count(*) from t"))
            assert isinstance(answer, responses.Rows)
            [[n]] = answer.rows
            assert isinstance(n, int)
            counts.append(n)
            await peer.ask(requests.ExecSql(0, "insert into t(b) values('here')"))
    return counts[0], counts[1]

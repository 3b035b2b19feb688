"""`pyraft dir` on directories of go-dqlite's nodes and of ours beside them, and clusters that have lost a majority."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv.dqlite import requests, responses
from tests.interop.dqlite.driver import Cluster, Lines, Node, ask
from tests.interop.dqlite.test_witness import INSERT, check, three
from tests.interop.driver import until


def pyraft(*arguments: object) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "pyraft", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("clean", [False, True])
def test_directories_of_both_kinds_are_shown_and_checked(cluster: Callable[..., Cluster], clean: bool) -> None:
    """Some were left by SIGKILL, some by clean stops, with snapshots, and with pages in the log; one in use is refused.

    Each is exported and comes back as the same, and its node goes on in that.
    """
    both = cluster(threshold=32, trailing=32)
    first, second, witness, client = three(both)
    nodes = [first, second, witness]
    client.ask(f"load 100 {INSERT}")
    command = [sys.executable, "-m", "pyraft", "dir", "show", str(nodes[0].dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    for node in nodes:
        if clean and node is not witness:
            assert node.lines is not None
            assert node.lines.ask("quit") == "closed"
        node.kill(signal.SIGTERM if clean else signal.SIGKILL)
    for node in nodes:
        assert "snapshots" in pyraft("dir", "show", node.dir)
        found = pyraft("dir", "check", node.dir)
        assert "damage" not in found
        assert "dqlite FRAMES test.db: pages " in pyraft("dir", "log", node.dir)
        term, last_term, index = map(int, pyraft("dir", "position", node.dir).split(":"))
        assert term >= last_term > 0
        assert index > 100
        file, copy = node.dir.with_suffix(".export"), node.dir.with_suffix(".copy")
        pyraft("dir", "export", node.dir, file)
        pyraft("dir", "examine", file)
        pyraft("dir", "import", file, copy)
        assert pyraft("dir", "position", copy) == f"{term}:{last_term}:{index}\n"
        for name in ("info.yaml", "cluster.yaml"):
            if (node.dir / name).exists():
                (copy / name).write_bytes((node.dir / name).read_bytes())
        node.dir = copy
    for node in nodes:
        node.start()
    client.ask(f"load 10 {INSERT}")


def survivor_of(both: Cluster, which: int) -> tuple[Node, Node, Lines]:
    """Lose two nodes of three for good; return the other one, which leads alone now, the witness, and a client."""
    first, second, witness, client = three(both)
    nodes = [first, second, witness]
    client.ask(f"load 100 {INSERT}")
    both.until_equal(nodes)
    for node in nodes:
        node.kill()
    left = nodes[which]
    pyraft("dir", "recover", left.dir, f"--server={left.id}={left.address}", "--apply")
    left.start()
    until("a leader", lambda: left.ask(requests.Leader()) == responses.Server(left.id, left.address))
    return left, witness, client


def test_a_go_survivor_is_recovered(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """The other two are gone for good; it leads alone with all rows, and a new witness joins it."""
    both = cluster(threshold=32, trailing=32)
    second, witness, client = survivor_of(both, 1)
    client.ask(f"load 20 {INSERT}")
    both.nodes = [second]
    fresh = Node(witness.command, 9, tmp_path / "node9")
    both.nodes.append(fresh)
    fresh.start()
    client.ask(f"load 20 {INSERT}")
    rows = int(client.ask("query select count(*) from t"))
    assert rows >= 140
    check(both.until_equal([second, fresh]), tmp_path, rows)


def test_a_witness_that_survives_alone_is_recovered(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """It leads, as nobody else can; a new Go node joins it, gets all that there was, and serves statements."""
    both = cluster(threshold=32, trailing=32)
    witness, _, _ = survivor_of(both, 2)
    go = both.go()
    go.start()
    changes = (requests.Add(go.id, go.address), requests.Assign(go.id, responses.VOTER))
    assert ask(witness.address, *changes) == [responses.Empty()] * 2
    until("the Go node leads", lambda: go.ask(requests.Leader()) == responses.Server(go.id, go.address))
    other = both.client()
    other.ask(f"load 20 {INSERT}")
    rows = int(other.ask("query select count(*) from t"))
    assert rows >= 120
    check(both.until_equal([go, witness]), tmp_path, rows)

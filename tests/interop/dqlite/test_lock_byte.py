"""The page at 1 GiB, which SQLite does not use: dqlite has in it what its memory had, and other bytes on each node.

It is moved to 64 KiB, so that a small database has it. `malloc` is told to fill what it gives (MALLOC_PERTURB_, of
glibc), with other bytes for each Go node: a page that a checkpoint passes has those.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.dqlite.driver import Cluster, Failed, Node, differing
from tests.interop.driver import until
from tests.lib import lock_byte
from tests.lib.dqlite import PAGE

AT = 16 * PAGE


def ours(arguments: list[str]) -> list[str]:
    """Return a command of ours, which begins with `python -m pyraft`, with that page moved."""
    return [sys.executable, "-m", "tests.lib.lock_byte", str(AT), *arguments[3:]]


def moved(node: Node, filling: int = 0) -> Node:
    """Have a node begin with that page moved, and one of Go with memory that is filled."""
    command = node.command
    if node.ours:
        node.command = lambda node: ours(command(node))
    else:
        settings = [f"PEER_LOCK_BYTE={AT}", f"MALLOC_PERTURB_={filling}"]
        node.command = lambda node: ["env", *settings, *command(node)]
    return node


def backup(node: Node, path: Path) -> bytes:
    """Take a backup from a node, and return it."""
    command = ["python", "-m", "pyraft", "dqlite", "backup", "test.db", str(path), f"--from={node.address}"]
    subprocess.run(ours(command), check=True)
    content = path.read_bytes()
    path.unlink()
    return content


def test_nodes_differ_in_the_page_that_sqlite_does_not_use(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """Ours has zeros in it, by transactions and by a Go node's snapshot, and a backup has, of whichever node."""
    with lock_byte.moved(AT) as problem:
        if problem:
            pytest.skip(problem)
    both = cluster(threshold=16, trailing=16)
    first, second = moved(both.go(), 1), moved(both.go(), 2)
    by_entries, by_snapshot = moved(both.python()), moved(both.python("standby"))
    try:
        first.start()
    except Failed as exc:
        pytest.skip(str(exc))
    second.start()
    client = both.client()
    client.ask(f"add {second.id} {second.address}")
    client.ask(f"assign {second.id} 0")
    by_entries.start()
    client.ask("exec create table t(a integer primary key, b blob)")
    for _ in range(4):  # a checkpoint comes when there are 1,000 frames
        client.ask(f"exec insert into t(b) values(zeroblob({400 * PAGE}))")
    client.ask("load 40 insert into t(b) values(?)")
    by_snapshot.start()
    nodes = (first, second, by_entries, by_snapshot)

    def come() -> list[bytes]:
        return [node.dump() for node in nodes]

    def same() -> bool:
        pages = [content[:AT] + content[AT + PAGE :] for content in come()]
        return all(one == pages[0] for one in pages)

    until("the same pages but one", same)
    contents = come()
    assert contents[2][AT : AT + PAGE] == bytes(PAGE)
    assert differing(contents[0], contents[1]) == differing(contents[0], contents[2]) == [AT // PAGE + 1]
    assert contents[3] == contents[2]
    kept = [backup(node, tmp_path / "kept.db") for node in nodes]
    assert all(one == kept[2] for one in kept)

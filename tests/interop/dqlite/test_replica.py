"""A replica beside nodes of go-dqlite: its files, and backups of the leader and of the replica."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.interop.dqlite.driver import Cluster, Node
from tests.interop.dqlite.test_witness import CREATE, INSERT, is_beginning
from tests.interop.driver import until


def reader(replica: Node) -> sqlite3.Connection:
    """Return a connection to the replica's file, once that is there."""
    path = replica.dir / "replica" / "test.db"
    until("the file", path.exists)
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def count(connection: sqlite3.Connection) -> int:
    """Return how many rows there are."""
    return int(connection.execute("select count(*) from t").fetchone()[0])


def test_a_replica_shows_what_go_nodes_write(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """They write, VACUUM and send a snapshot; a backup of the leader and one of the replica say the same."""
    both = cluster(threshold=32, trailing=32)
    first, replica = both.go(), both.python("replica")
    first.start()
    client = both.client()
    client.ask(CREATE)
    replica.start()
    with closing(reader(replica)) as connection:
        client.send(f"load 100 {INSERT}")
        seen = [count(connection) for _ in range(200)]
        client.read()
        assert seen == sorted(seen)
        rows = int(client.ask("query select count(*) from t"))
        until("all rows", lambda: count(connection) == rows)
        replica.kill()
        client.ask(f"load 100 {INSERT}")
        client.ask("exec delete from t where a % 3 = 0")
        client.ask("exec vacuum")
        client.ask(f"load 5 {INSERT}")
        assert count(connection) == rows, "the former state, as nobody writes it"
        replica.start()
        rows = int(client.ask("query select count(*) from t"))
        until("all rows", lambda: count(connection) == rows)
        until("the same pages", lambda: is_beginning(replica, first))
        files = [tmp_path / name for name in ("leader.db", "replica.db")]
        for file, how in zip(files, (f"--via={replica.address}", f"--from={replica.address}"), strict=True):
            command = [sys.executable, "-m", "pyraft", "dqlite", "backup", "test.db", str(file), how]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            source = (replica if "--from" in how else first).address
            assert f" of 'test.db' from {source} are in {file}, and sound" in " ".join(done.stdout.split())
            with closing(sqlite3.connect(file)) as kept:
                assert list(kept.iterdump()) == list(connection.iterdump())
            file.unlink()
            done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)["size"] == file.stat().st_size
    assert replica.kill(signal.SIGTERM) == 0
    assert sorted(os.listdir(replica.dir / "replica")) == ["%position", "test.db"]

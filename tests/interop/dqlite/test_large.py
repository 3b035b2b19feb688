"""Databases that are large: 1 GiB by `make dqlite-large`, another size by DQLITE_MEGABYTES.

The memory that a node of ours may have of its own is limited (RLIMIT_DATA). Pages of files that it has are measured
besides: VmHWM is the most that it ever had of both. All entries behind a C leader's snapshot come as one message, of
tens of megabytes here, which is taken in pieces.

Pages are compared in backups: those have zeros where a database of more than 1 GiB has a page that SQLite does not use,
and each node of dqlite other bytes.
"""

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from io_uv import datadir
from io_uv.dqlite import requests, responses
from tests.interop.dqlite.driver import LATENCY, Cluster, Failed, Lines, Node, differing
from tests.interop.driver import until

MEGABYTES = int(os.environ.get("DQLITE_MEGABYTES", "15"))
TRANSACTIONS = max(MEGABYTES, 60)
"""As many as it takes for snapshots to be taken; below 60 MB they are smaller."""
ALLOWED = 300 << 20
"""Bytes of memory, own and pages of files, at the most."""
STACKS = 64 << 20
"""A share of RLIMIT_DATA for the stacks of threads: it counts all that is not of files, used or not."""
SECONDS = 60 + MEGABYTES
ROW = 4000
KEPT = 64
"""Entries that a node keeps behind a snapshot, and after which it takes the next one."""
LACKED = 50
"""Transactions that the leader still has as entries when the witness comes back: it sends them as one message."""
PATIENT = 200 if MEGABYTES > 100 else LATENCY
"""Milliseconds: a Go node stands still while it copies a large database, and elections are to come later than that."""
ROWS = 256 * min(MEGABYTES, 60) // 60
"""Rows of a transaction: a megabyte at most."""


class Memory:
    """The memory of a process, looked at again and again: the most of each kind in bytes."""

    def __init__(self, pid: int) -> None:
        self.most: dict[str, int] = {}
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            try:
                text = self._status.read_text()
            except OSError:
                return
            for name, size in re.findall(r"(VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB", text):
                self.most[name] = max(self.most.get(name, 0), int(size) << 10)

    def stop(self) -> dict[str, int]:
        """Return the most of each kind."""
        self._over.set()
        self._thread.join()
        return self.most


@contextmanager
def bounded(node: Node, what: str) -> Iterator[None]:
    """See that a node of ours stays below what it is allowed."""
    assert node.lines is not None
    memory, began = Memory(node.lines.process.pid), time.monotonic()
    try:
        yield
    finally:
        most = memory.stop()
        sizes = ", ".join([f"{kind} {size >> 20} MiB" for kind, size in sorted(most.items())])
        print(f"{MEGABYTES} MB, {what}: {sizes}, {time.monotonic() - began:.1f} s", flush=True)
    assert most["VmHWM"] < ALLOWED, most


def limited(node: Node) -> Node:
    """Have a node's process run with a limit of its memory."""
    command = node.command
    node.command = lambda node: ["sh", "-c", f"ulimit -d {ALLOWED + STACKS >> 10}; exec {shlex.join(command(node))}"]
    return node


def insist(client: Lines, line: str) -> str:
    """Have a client do something, again where it fails: while a large Go node stands still, another one may be elected.

    It may be done twice.
    """
    end = time.monotonic() + SECONDS
    while True:
        try:
            return client.ask(line)
        except Failed:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def fill(client: Lines, n: int, witness: Node | None = None) -> None:
    """Insert so many transactions; a witness of ours is waited for where it stores a snapshot.

    Entries that come meanwhile are in its memory, as its log.
    """
    for i in range(n):
        insist(
            client,
            f"exec insert into t(b) with recursive c(x) as (select 1 union all select x + 1 from c limit {ROWS}) "
            f"select randomblob({ROW}) from c",
        )
        if witness is not None and i % 16 == 0:
            until("the snapshot", lambda: not list(witness.dir.glob("tmp-snapshot-*")), SECONDS)


def count(client: Lines) -> int:
    """Return the number of rows."""
    return int(insist(client, "query select count(*) from t"))


def until_stored(node: Node, index: int, client: Lines) -> None:
    """Insert rows until a node has a snapshot of so many entries, and has written it.

    It looks whether one is due when it applies an entry.
    """
    assert node.lines is not None
    files = Path(f"/proc/{node.lines.process.pid}/fd")

    def stored() -> bool:
        insist(client, "load 1 insert into t(b) values(?)")
        names = [path.name.split("-") for path in node.dir.glob("snapshot-*-*-*[0-9]")]
        return any(int(name[2]) >= index for name in names) and not any(
            "snapshot" in os.path.basename(os.path.realpath(fd)) for fd in files.iterdir()
        )

    until("the snapshot", stored, SECONDS)


def backup(node: Node, path: Path) -> str:
    """Take a backup from a node, which is checked thereby; return a checksum of it."""
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pyraft", "dqlite", "backup", "test.db", str(path), f"--from={node.address}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def until_equal(one: Node, other: Node, tmp_path: Path) -> None:
    """Wait until two nodes have the same pages; say which are not if they do not."""
    files = [tmp_path / "one.db", tmp_path / "other.db"]
    try:
        until("the same pages", lambda: backup(one, files[0]) == backup(other, files[1]), SECONDS)
    except AssertionError as exc:
        found = differing(*[path.read_bytes() for path in files])
        raise AssertionError(f"{exc}; {len(found)} differ: {found[:20]}") from None


def until_size(witness: Node, n: int) -> None:
    """Wait until a node of ours has a database of so many transactions."""
    path = witness.dir / "databases" / "test.db"
    until("the database", lambda: path.exists() and path.stat().st_size > n * ROWS * ROW, SECONDS)


def leads(node: Node) -> bool:
    """Whether a node says that it leads; one that does not answer, as it is busy with a snapshot, does not."""
    try:
        return node.ask(requests.Leader()) == responses.Server(node.id, node.address)
    except (OSError, AssertionError):  # the latter for a connection that it ends
        assert node.lines is not None
        assert node.lines.process.poll() is None, node.lines.log.read_text()
        return False


def test_a_large_database(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """A witness gets it entry by entry, by a Go node's snapshot, from its own disk, and sends it to a Go node.

    In between it gets fifty transactions as one message.
    """
    both = cluster(threshold=KEPT, trailing=KEPT, latency=PATIENT)
    first, second, witness = both.go(), both.go(), limited(both.python())
    first.start()
    second.start()
    client = both.client()
    client.ask(f"add {second.id} {second.address}")
    client.ask(f"assign {second.id} 0")
    witness.start()
    client.ask("exec create table t(a integer primary key, b blob)")
    half = TRANSACTIONS // 2
    with bounded(witness, "as it grows"):
        fill(client, half, witness)
        until_size(witness, half)
    witness.kill()
    more = max(TRANSACTIONS - half, 70)
    fill(client, more)
    until_stored(first, half + more, client)
    witness.start(SECONDS)
    with bounded(witness, "by snapshot from a Go node, and a backup"):
        until_size(witness, half + more)
        until_equal(first, witness, tmp_path)
    assert list(witness.dir.glob("snapshot-*"))
    assert witness.kill(signal.SIGTERM) == 0
    witness.start(SECONDS)
    with bounded(witness, "from its own disk"):
        until_equal(first, witness, tmp_path)
    assert witness.kill(signal.SIGTERM) == 0
    fill(client, LACKED)
    witness.start(SECONDS)
    with bounded(witness, "by one large message from a Go node"):
        until_size(witness, half + more + LACKED)
    second.kill()
    until_stored(witness, datadir.position(second.dir).last_index + KEPT + 1, client)  # it has no entry for that node
    rows = count(client)
    until_equal(first, witness, tmp_path)
    with bounded(witness, "by snapshot to a Go node"):
        first.kill()
        second.start(SECONDS)
        until("the leader", lambda: leads(second), SECONDS)
    until_equal(second, witness, tmp_path)
    assert count(client) == rows

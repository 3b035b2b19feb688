"""A witness of this project in clusters of go-dqlite: joining, losing any node, snapshots both ways, transfers."""

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv.dqlite import requests, responses
from tests.interop.dqlite.driver import Cluster, Lines, Node
from tests.interop.driver import until

TRANSFERS = int(os.environ.get("DQLITE_TRANSFERS", "20"))
"""200 were run once."""

CREATE = "exec create table t(a integer primary key, b text)"
INSERT = "insert into t(b) values(?)"


def three(cluster: Cluster) -> tuple[Node, Node, Node, Lines]:
    """Start two nodes of go-dqlite and a witness, all of them voters, and a client with a table."""
    first, second, witness = cluster.go(), cluster.go(), cluster.python()
    first.start()
    second.start()
    client = cluster.client()
    client.ask(f"add {second.id} {second.address}")
    client.ask(f"assign {second.id} 0")
    witness.start()
    assert [line.split()[2] for line in client.ask("cluster").split(";")] == ["voter"] * 3
    client.ask(CREATE)
    return first, second, witness, client


def check(content: bytes, tmp_path: Path, rows: int) -> None:
    """See that a database is sound, and has so many rows."""
    path = tmp_path / "check.db"
    path.write_bytes(content)
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    [n] = connection.execute("select count(*) from t").fetchone()
    connection.close()
    assert n == rows, f"{n} rows of {rows}"


def is_beginning(one: Node, other: Node) -> bool:
    """Whether a node has the first pages of another one's database, with the latest row among them."""
    content = one.dump()
    return other.dump()[: len(content)] == content


def test_a_member_goes_from_spare_to_voter(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """A stand-by joins by itself; go-dqlite makes it a spare and a voter, and takes it out again."""
    both = cluster()
    first, member = both.go(), both.python("standby", "--any-role")
    first.start()
    client = both.client()
    client.ask(CREATE)
    member.start()
    seen: list[str] = []
    for role in ("2", "1", "0"):
        if role != "1":
            client.ask(f"assign {member.id} {role}")
        seen.append(client.ask("cluster").split(";")[1])
        if role == "2":
            assert member.ask(requests.Leader()) == responses.Server(0, ""), "only voters might know"
            client.ask(f"assign {member.id} 1")
    assert [line.split() for line in seen] == [
        [str(member.id), member.address, role] for role in ("spare", "stand-by", "voter")
    ]
    assert client.ask(f"load 20 {INSERT}") == "0"
    check(both.until_equal([first, member]), tmp_path, 20)
    assert member.kill(signal.SIGTERM) == 0
    member.start()
    leader = responses.Server(first.id, first.address)
    until("the leader", lambda: member.ask(requests.Leader()) == leader)
    client.ask(f"remove {member.id}")
    assert len(client.ask("cluster").split(";")) == 1
    assert member.dir.joinpath("info.yaml").read_text().startswith(f'Address: "{member.address}"\nID: {member.id}\n')


def test_any_of_three_may_be_lost(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """Each is killed in turn while a client writes; it sees no error but those of outcomes that nobody knows.

    Every row is there in the end, once or, where that was tried again, more often, and the replicas are page-identical.
    """
    both = cluster()
    first, second, witness, client = three(both)
    rows = 0
    for lost in (witness, first, second):
        client.send(f"load 60 insert into t(b) values('{lost.id}-' || ?)")
        lost.kill()
        client.read()
        rows += 60
        client.ask(f"load 20 insert into t(b) values('without {lost.id}-' || ?)")
        rows += 20
        lost.start()
    said = client.ask("query select count(distinct b), count(*) from t")
    distinct, count = map(int, said.split(","))
    assert distinct == rows
    check(both.until_equal([first, second, witness]), tmp_path, count)


def test_all_at_once_and_again(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """All are killed, and come back with everything; a directory of ours is locked against a second node."""
    both = cluster(threshold=32, trailing=32)
    nodes = three(both)
    client = nodes[3]
    client.ask(f"load 100 {INSERT}")
    for node in nodes[:3]:
        node.kill()
    for node in nodes[:3]:
        node.start()
    client.ask(f"load 10 {INSERT}")
    [n] = client.ask("query select count(*) from t").split(",")
    check(both.until_equal(list(nodes[:3])), tmp_path, int(n))
    second = Node(nodes[2].command, nodes[2].id, tmp_path / "log")
    second.dir = nodes[2].dir
    with pytest.raises(AssertionError, match="in use by another node of dqlite"):
        second.start()
    assert second.kill() == 1


def test_a_snapshot_comes_from_a_go_node(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """A witness that was away gets one with a write-ahead log in it, then the database shrinks by VACUUM.

    A Go node that is away in the end misses fewer entries than the leader keeps: a leader of dqlite 1.11 whose snapshot
    gets lost, as that node is just starting, sends it again half a minute later.
    """
    both = cluster(threshold=32, trailing=32)
    first, second, witness, client = three(both)
    witness.kill()
    client.ask(
        "exec insert into t(b) with recursive c(x) as (select 1 union all select x + 1 from c limit 300) "
        "select hex(randomblob(2000)) from c"
    )
    client.ask(f"load 150 {INSERT}")
    witness.start()
    content = both.until_equal([first, second, witness])
    check(content, tmp_path, 450)
    assert list(witness.dir.glob("snapshot-*")), "it came by snapshot"
    client.ask("exec delete from t where a < 400")
    client.ask("exec vacuum")
    client.ask(f"load 10 {INSERT}")
    # Nodes before dqlite 1.18.2 keep the pages that a VACUUM has given up.
    until("the same pages", lambda: is_beginning(witness, first))
    check(witness.dump(), tmp_path, 61)
    assert len(witness.dump()) < len(content) / 10
    second.kill()
    client.ask(f"load 20 {INSERT}")
    second.start()
    rows = int(client.ask("query select count(*) from t"))
    until("the same pages", lambda: is_beginning(witness, first) and is_beginning(witness, second))
    check(witness.dump(), tmp_path, rows)


def test_transfers_to_a_witness_right_after_writes(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """None fails; it hands the leadership on at once, and nothing that clients write meanwhile is missing."""
    both = cluster()
    first, second, witness, client = three(both)
    other = both.client()
    other.send(f"load {TRANSFERS * 10} insert into t(b) values('load ' || ?)")
    for n in range(TRANSFERS):
        client.ask(f"load 1 insert into t(b) values('{n}-' || ?)")
        client.ask(f"transfer {witness.id}")
    failed = other.read()
    print(f"{failed} of the load's statements failed at first: {other.ask('failures')}")
    distinct, count = map(int, client.ask("query select count(distinct b), count(*) from t").split(","))
    assert distinct == TRANSFERS * 11
    check(both.until_equal([first, second, witness]), tmp_path, count)

"""The node store of go-dqlite's app, settings, and leaders that are not found."""

import asyncio
from pathlib import Path

import pytest

from io_uv.dqlite.responses import Member
from pyraft.dqlite import NodeStore, Refused, Settings, find_leader, store
from pyraft.dqlite.store import Info
from tests.lib.ports import free_port

ONE = Info(3297041220608546238, "127.0.0.1:9001", 0)
TWO = Info((1 << 64) - 1, "[::1]:9002", 2)


def test_both_files_come_back(tmp_path: Path) -> None:
    """Ids have 64 bits, addresses are of IPv6; a directory without them has nothing."""
    directory = str(tmp_path)
    assert (store.read_info(directory), store.read_cluster(directory)) == (None, [])
    store.write_info(directory, TWO)
    store.write_cluster(directory, [ONE, TWO])
    assert store.read_info(directory) == TWO
    assert store.read_cluster(directory) == [ONE, TWO]
    store.write_cluster(directory, [])
    assert store.read_cluster(directory) == []


def test_files_of_go_are_read(tmp_path: Path) -> None:
    """They have no quotes, or single ones."""
    (tmp_path / "info.yaml").write_text("Address: 127.0.0.1:9001\nID: 3297041220608546238\nRole: 0\n")
    text = "- Address: 127.0.0.1:9001\n  ID: 3297041220608546238\n  Role: 0\n"
    (tmp_path / "cluster.yaml").write_text(text + "- Address: '[::1]:9002'\n  ID: 18446744073709551615\n  Role: 2\n")
    assert store.read_info(str(tmp_path)) == ONE
    assert store.read_cluster(str(tmp_path)) == [ONE, TWO]


@pytest.mark.parametrize("text", ["ID: 5\n", "Address: a\nID: x\n", "?\n", b"\xff\xfe", 'Address: "a\nID: 1\n'])
def test_other_files_are_refused(tmp_path: Path, text: str | bytes) -> None:
    """The text has the path."""
    (tmp_path / "info.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refused, match=r"info\.yaml"):
        store.read_info(str(tmp_path))


def test_settings_are_dqlites() -> None:
    """The defaults, those for a latency, and what dqlite would refuse."""
    assert (Settings().election_msecs, Settings().heartbeat_msecs) == (3000, 500)
    assert (Settings().snapshot_threshold, Settings().snapshot_trailing) == (1024, 8192)
    slow = Settings().at_latency(500)
    assert (slow.election_msecs, slow.heartbeat_msecs) == (7500, 750)
    for wrong in (
        {"snapshot_trailing": 3, "snapshot_threshold": 2},
        {"snapshot_trailing": 100},
        {"heartbeat_msecs": 3000},
    ):
        with pytest.raises(Refused):
            Settings(**wrong)


def test_nobody_leads_where_nobody_is() -> None:
    """The text tells what became of each address."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=f"no leader is found: {address}: "):
        asyncio.run(find_leader([address, address]))


def test_clients_find_nodes_by_the_file_of_an_app(tmp_path: Path) -> None:
    """Voters are first; it is read each time, and written only where that was asked for."""
    path = tmp_path / "cluster.yaml"
    spare, voter = Info(1, "a:1", 2), Info(2, "b:2", 0)
    kept, plain = NodeStore(path, keep=True, first=["c:3"]), NodeStore(path)
    assert (kept.addresses(), plain.addresses()) == (["c:3"], [])
    plain.note((Member(1, "a:1", 2),))
    assert not path.exists()
    kept.note((Member(1, "a:1", 2), Member(2, "b:2", 0)))
    assert store.read_cluster(str(tmp_path)) == [spare, voter]
    assert (kept.addresses(), plain.addresses()) == (["b:2", "a:1", "c:3"], ["b:2", "a:1"])
    before = path.stat().st_ino
    kept.note((Member(1, "a:1", 2), Member(2, "b:2", 0)))
    assert path.stat().st_ino == before, "it says that already"
    path.write_text("?")
    with pytest.raises(Refused, match=r"cluster\.yaml"):
        plain.addresses()


def test_a_node_store_that_cannot_be_written_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A client goes on without it."""
    NodeStore(tmp_path / "nowhere" / "cluster.yaml", keep=True).note((Member(1, "a:1", 2),))
    assert "is not what the members are" in caplog.text

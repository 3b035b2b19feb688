"""Directories as cowsql's nodes leave them, made by hand from its format: real ones are not to be had from Debian.

These are cowsql's own in them: one metadata file after a first election, snapshots that are never compressed, two of
them with times since a boot, open segments of 8 MiB, and commands that carry pages of SQLite's WAL.
"""

import json
import struct
from pathlib import Path

import pytest

from io_uv import datadir
from pyraft.types import RAFT_COMMAND, RaftEntry
from tests.integration.test_command import run
from tests.integration.test_datadir import change
from tests.lib.disk import Dir, words

NAME = b"shop.db\0"
PAGE = bytes(range(256)) * 2


def opened() -> RaftEntry:
    """Return the command that opens a database."""
    return RaftEntry(1, RAFT_COMMAND, b"\x01\x01".ljust(8, b"\0") + NAME)


def frames(*pages: int, tx: int = 7, is_commit: bool = True) -> RaftEntry:
    """Return the command that brings pages."""
    head = words(tx) + struct.pack("<IBBH", 9, is_commit, 0, 0) + struct.pack("<IHH", len(pages), len(PAGE), 0)
    body = words(*pages) + PAGE * len(pages)
    return RaftEntry(1, RAFT_COMMAND, b"\x01\x02".ljust(8, b"\0") + NAME + head + body)


@pytest.fixture
def node(tmp_path: Path) -> Dir:
    """The directory of a killed node: entries 3 to 12, of which 11 and 12 are in an open segment."""
    made = Dir(tmp_path / "node")
    made.path.mkdir()
    made.metadata(1, 1, 1, 1)
    made.closed(3, [frames(n) for n in (3, 4)], [frames(5, 6)])
    made.closed(6, *([frames(n)] for n in range(6, 11)))
    made.snapshot(1, 4, time=73199805, data=b"\x01\0\0\0\0\0\0\0 not compressed")
    made.snapshot(1, 6, time=73199928, data=b"\x01\0\0\0\0\0\0\0 not compressed")
    made.open(5, [frames(1, 2)], [frames(1, is_commit=False)], size=8 << 20)
    made.open(6, size=8 << 20)
    return made


def test_a_node_is_looked_into(node: Dir) -> None:
    """The tools tell what a start loads and what the commands say, and find nothing wrong."""
    result = run("dir", "show", node)
    assert result.exit_code == 0
    assert "restores the snapshot at 6, and loads entries 3 to 12, in term 1" in result.output
    assert "73199928 ms after a boot" in result.output
    assert "open-5 becomes 0000000000000011-0000000000000012" in result.output
    lines = run("dir", "log", node, "--from", 10).output.splitlines()
    assert [line.split(maxsplit=4)[4] for line in lines] == [
        "dqlite FRAMES shop.db: pages 10",
        "dqlite FRAMES shop.db: pages 1, 2",
        "dqlite FRAMES shop.db: pages 1, not the last of …",
    ]
    found = json.loads(run("dir", "check", node, "--json").output)
    assert found == []  # entries 1 and 2 are within the snapshots alone, as snapshots are for
    assert run("dir", "repair", node).exit_code == 0
    assert run("dir", "position", node).output == "1:1:12\n"


def test_a_node_is_repaired(node: Dir) -> None:
    """Damage in front of other segments ends the log there, with the mark; the good entries before it stay."""
    node.remove("open-5")
    node.closed(11, [frames(1, 2)])
    node.overwrite("0000000000000006-0000000000000010", 2000, b"\xff" * 16)
    assert run("dir", "check", node).exit_code == 1
    assert run("dir", "repair", node, "--apply").exit_code == 0
    found = datadir.rehearse(node.path)
    assert (found.starts, found.recovering, found.snapshot, found.last_index) == (True, True, (6, 1), 8)


def test_a_node_survives_alone(node: Dir) -> None:
    """The configuration that is written has the term above all, as cowsql's own recovery is told it."""
    node.closed(1, [change(1), opened()])
    result = run("dir", "recover", node, "--server", "1=127.0.0.1:9001", "--apply")
    assert result.exit_code == 0, result.output
    found = datadir.rehearse(node.path)
    assert (found.starts, found.term, found.last_term, found.last_index) == (True, 2, 2, 13)
    assert found.configuration is not None
    assert [one.address for one in found.configuration.servers] == ["127.0.0.1:9001"]
    assert "dqlite OPEN shop.db" in run("dir", "log", node, "--to", 2).output

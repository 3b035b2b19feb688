"""A lost majority and new addresses: real servers, their directories worked on while they are stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import datadir, marker, metadata
from io_uv.datadir import Position, Refused
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from pyraft import RAFT_LEADER, RAFT_STANDBY, RAFT_VOTER, RaftConfiguration, raft_configuration_add
from tests.integration.test_datadir import change
from tests.lib.disk import Dir, commands
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until


def servers(addresses: dict[int, str], role: int = RAFT_VOTER) -> RaftConfiguration:
    """Return a configuration."""
    found = RaftConfiguration()
    for id, address in addresses.items():
        assert raft_configuration_add(found, id, address, role) == 0
    return found


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that is closed afterwards."""
    made = Loop()
    yield made
    made.close()


def run(path: Path, members: dict[int, str], loop: Loop, ids: tuple[int, ...]) -> list[Node]:
    """Start some of the members, and wait for a leader."""
    nodes = []
    for id in ids:
        (path / str(id)).mkdir(exist_ok=True)
        nodes.append(Node(path / str(id), id, members, loop).start())
    run_until(loop, lambda: any(node.state == RAFT_LEADER for node in nodes))
    return nodes


def leader_of(nodes: list[Node], loop: Loop) -> Node:
    """Return the leader, once there is one."""
    run_until(loop, lambda: any(node.state == RAFT_LEADER for node in nodes))
    return next(node for node in nodes if node.state == RAFT_LEADER)


def apply(nodes: list[Node], loop: Loop, numbers: range) -> None:
    """Have numbers acknowledged, and applied everywhere."""
    for number in numbers:
        while leader_of(nodes, loop).try_apply(number) != 0:
            pass
    run_until(loop, lambda: all(set(numbers) <= set(node.fsm.numbers) for node in nodes))


def close(nodes: list[Node]) -> None:
    for node in nodes:
        node.close()


def test_two_survivors_of_five(tmp_path: Path, loop: Loop) -> None:
    """Three are lost. The one that is behind is refused; with the other one's log the two go on."""
    members = free_addresses(5)
    nodes = run(tmp_path, members, loop, (1, 2, 3, 4, 5))
    apply(nodes, loop, range(10))
    # Server 1 stops first, so its log is the shorter one.
    nodes[0].close()
    apply(nodes[1:], loop, range(10, 20))
    close(nodes)
    survivors = {id: members[id] for id in (1, 2)}
    one, two = (datadir.position(tmp_path / str(id)) for id in (1, 2))
    assert two.end > one.end
    with pytest.raises(Refused, match="2 has the log that goes furthest"):
        datadir.recover(tmp_path / "1", servers(survivors), [two], apply=True)
    with pytest.raises(Refused, match="has 2 servers, and says how far 1 of them have come"):
        datadir.recover(tmp_path / "2", servers(survivors), [], apply=True)
    planned = datadir.recover(tmp_path / "2", servers(survivors), [one])
    assert datadir.position(tmp_path / "2") == two
    assert datadir.recover(tmp_path / "2", servers(survivors), [one], apply=True) == planned
    assert datadir.position(tmp_path / "2").last_term > max(one.term, two.term)
    nodes = run(tmp_path, members, loop, (1, 2))
    try:
        apply(nodes, loop, range(20, 25))
        for node in nodes:
            assert sorted(set(node.fsm.numbers)) == list(range(25))
    finally:
        close(nodes)


def test_new_addresses(tmp_path: Path, loop: Loop) -> None:
    """All members are stopped and get other ports: one log gets the entry, the others are started as they are."""
    members = free_addresses(3)
    nodes = run(tmp_path, members, loop, (1, 2, 3))
    apply(nodes, loop, range(5))
    close(nodes)
    moved = free_addresses(3)
    positions = {id: datadir.position(tmp_path / str(id)) for id in moved}
    best = max(positions, key=lambda id: positions[id].end)
    others = [positions[id] for id in moved if id != best]
    with pytest.raises(Refused, match="says how far 2 of them have come"):
        datadir.recover(tmp_path / str(best), servers(moved), others[:1], apply=True)
    datadir.recover(tmp_path / str(best), servers(moved), others, apply=True)
    nodes = run(tmp_path, moved, loop, (1, 2, 3))
    try:
        apply(nodes, loop, range(5, 10))
        assert all(sorted(set(node.fsm.numbers)) == list(range(10)) for node in nodes)
    finally:
        close(nodes)


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    """The directory of a member of three, in term 4."""
    made = Dir(tmp_path)
    made.metadata(1, 1, 4)
    made.closed(1, [change(3)], commands(2, 4, term=3))
    return made


def test_refusals(dir: Dir) -> None:
    """Each says what would be lost, and nothing is touched."""
    before = {name: dir.read(name) for name in dir.names}
    two = servers({1: "1", 2: "2"})
    with pytest.raises(Refused, match="are a majority of the 3 voters: start them"):
        datadir.recover(dir.path, two, [Position("2", 4, 3, 5)], apply=True)
    with pytest.raises(Refused, match="servers 1, 2 are a majority of the 3 voters: start them"):
        datadir.recover(dir.path, servers({1: "1"}), [Position("2", 4, 3, 5)], survivors=[1, 2, 9], apply=True)
    with pytest.raises(Refused, match="has no voter"):
        datadir.recover(dir.path, servers({1: "1"}, RAFT_STANDBY), [], apply=True)
    with pytest.raises(Refused, match="server 7 is not a member, and has no log to go on with: these are 1, 2, 3"):
        datadir.recover(dir.path, servers({1: "1", 7: "7"}), [], apply=True)
    with pytest.raises(Refused, match="elsewhere has the log that goes furthest"):
        datadir.recover(dir.path, servers({1: "1"}), [Position("elsewhere", 4, 4, 2)], apply=True)
    dir.write(marker.NAME, b"because\n")
    with pytest.raises(Refused, match="files of its log were set aside"):
        datadir.recover(dir.path, servers({1: "1"}), [], apply=True)
    dir.remove(marker.NAME)
    assert {name: dir.read(name) for name in dir.names} == before
    dir.write("metadata1", b"\xff" * 32)
    with pytest.raises(Failure, match="a start is refused"):
        datadir.recover(dir.path, servers({1: "1"}), [], apply=True)


def test_the_term_is_above_every_survivors(dir: Dir) -> None:
    """So no log that was left behind has another entry of the same index and term (3.5)."""
    datadir.recover(dir.path, servers({1: "1"}), [Position("2", 9, 3, 4)], apply=True)
    last = list(datadir.entries(dir.path))[-1]
    assert (last.index, last.term) == (6, 10)
    assert metadata.load(str(dir)).term == 10


def test_one_that_was_killed_goes_on_with_the_same_call(dir: Dir) -> None:
    """It may have left a part of the new segment under the name that this has until it is whole."""
    dir.write("tmp-0000000000000006-0000000000000006", b"part")
    datadir.recover(dir.path, servers({1: "1"}), [], apply=True)
    assert list(datadir.entries(dir.path))[-1].index == 6
    assert not any(name.startswith("tmp-") for name in dir.names)


def test_an_empty_directory_is_nobodys(tmp_path: Path) -> None:
    """There is nothing to recover in it."""
    with pytest.raises(Failure, match="never a member"):
        datadir.position(tmp_path)

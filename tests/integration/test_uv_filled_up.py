"""An empty directory that a leader fills up: a note in it outlives the process until the log is whole.

Otherwise a server that is stopped half filled would start as what the first entries say that it is: a voter, or even
the only one.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import marker
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_CORRUPT,
    RAFT_FOLLOWER,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftConfiguration,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_last_index,
    raft_recover,
    raft_set_election_timeout,
    raft_start,
    raft_state,
    recv,
)
from tests.lib import messages as msg
from tests.lib.solo import change
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop."""
    loop = Loop()
    yield loop
    loop.close()


def voters(members: dict[int, str]) -> RaftConfiguration:
    """Return a configuration."""
    conf = RaftConfiguration()
    for id, address in members.items():
        assert raft_configuration_add(conf, id, address, RAFT_VOTER) == 0
    return conf


def begin(dir: Path, members: dict[int, str], loop: Loop) -> tuple[Node, int]:
    """Start server 1 on what is in its directory; return the code. It never stands: `give` is of term 1."""
    node = Node(dir, 1, members, loop)
    assert raft_init(node.raft, node.io, node.fsm, 1, members[1]) == 0
    raft_set_election_timeout(node.raft, 3_600_000)
    return node, raft_start(node.raft)


def give(node: Node, members: dict[int, str], whole: bool = False) -> None:
    """Play a leader that sends entry 1, the configuration, and two more, of which the last is perhaps not its last."""
    entries = [change(1, voters(members)), *msg.commands([1, 1])]
    message = msg.append_entries(2, 3, 0, 0, 0, entries)
    assert message.append_entries is not None
    message.append_entries.whole = whole
    message.server_address = "127.0.0.1:1"
    recv.recv_cb(node.io, message)
    run_until(node.loop, lambda: node.raft.last_stored == 3)


def test_server_that_stops_half_filled_does_not_vote_when_it_starts_again(
    tmp_path: Path, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """It does when a leader has given it the rest; then the note goes. The log does not say that it has lost any."""
    members = free_addresses(3)
    node, rv = begin(tmp_path, members, loop)
    assert (rv, marker.filling_stands(str(tmp_path))) == (0, False)
    give(node, members)
    assert marker.filling_stands(str(tmp_path))
    node.close()
    node, rv = begin(tmp_path, members, loop)
    assert (rv, raft_last_index(node.raft), node.raft.recovering, node.raft.filling) == (0, 3, True, False)
    [told] = [r.getMessage() for r in caplog.records if "does not vote" in r.getMessage()]
    assert "may lack entries" in told
    assert "before a leader had filled up its empty log (a new server lacks none), see log-incomplete" in told
    assert "has lost" not in caplog.text
    give(node, members, whole=True)
    assert not node.raft.recovering
    assert not marker.filling_stands(str(tmp_path))
    node.close()


def test_server_that_is_filled_up_at_once_has_no_note_left(tmp_path: Path, loop: Loop) -> None:
    """One that is stopped before the first entry has nothing to make up for either."""
    members = free_addresses(3)
    node, rv = begin(tmp_path, members, loop)
    recv.recv_cb(node.io, msg.append_entries(2, 3, 5, 3))
    assert marker.filling_stands(str(tmp_path))
    node.close()
    node, rv = begin(tmp_path, members, loop)
    assert (rv, node.raft.filling) == (0, True)
    give(node, members, whole=True)
    assert (node.raft.recovering, node.raft.filling, raft_state(node.raft)) == (False, False, RAFT_FOLLOWER)
    assert not marker.filling_stands(str(tmp_path))
    node.close()


def test_first_member_that_stops_half_filled_is_no_cluster_of_its_own(tmp_path: Path, loop: Loop) -> None:
    """By the first entry it is the only voter. Only an operator can say that there are no others."""
    members = free_addresses(1)
    node, rv = begin(tmp_path, members, loop)
    give(node, members)
    assert raft_state(node.raft) == RAFT_FOLLOWER
    node.close()
    node, rv = begin(tmp_path, members, loop)
    assert rv == RAFT_CORRUPT
    assert marker.FILLING_NAME in raft_errmsg(node.raft)
    assert raft_recover(node.raft, voters(members)) == 0
    assert not marker.filling_stands(str(tmp_path))
    assert raft_start(node.raft) == 0
    node.close()


def test_note_that_cannot_be_written_stops_the_server(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does as a term that cannot be stored: nothing is accepted without it."""
    members = free_addresses(3)
    node, _ = begin(tmp_path, members, loop)

    def broken(dir: str) -> None:
        raise Failure(18, "no space")

    monkeypatch.setattr(marker, "filling_set", broken)
    recv.recv_cb(node.io, msg.append_entries(2, 3, 0, 0, 0, [change(1, voters(members))]))
    assert (raft_state(node.raft), raft_errmsg(node.raft)) == (RAFT_UNAVAILABLE, "io: no space")
    node.close()
    assert not any(name[0].isdigit() or name.startswith("snapshot") for name in os.listdir(tmp_path))

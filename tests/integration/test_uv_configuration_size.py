"""A configuration that the limits of messages or files have no room for is refused before anything is done with it."""

import os
from pathlib import Path

import pytest

from io_uv import raft_uv_limits, snapshot_file
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_TOOBIG,
    RAFT_VOTER,
    RaftChange,
    RaftConfiguration,
    RaftIo,
    raft_add,
    raft_assign,
    raft_bootstrap,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_last_index,
    raft_promote,
    raft_recover,
    raft_remove,
)
from tests.lib import messages as m
from tests.lib.solo import Solo
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import Outcome, run_until

ROOM = 64
"""Bytes that a configuration may have: two servers with short addresses are less, with long ones more."""


def narrow(node: Node, limit: str, monkeypatch: pytest.MonkeyPatch, room: int = ROOM) -> None:
    """Leave that much room for a configuration."""
    if limit == "files":
        monkeypatch.setattr(snapshot_file, "MAX_CONFIGURATION", room)
    else:
        setattr(raft_uv_limits(node.io), limit, room + (56 if limit == "header" else 0))


@pytest.mark.parametrize("limit", ["payload", "header", "files"])
def test_a_configuration_above_a_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """No change begins for which members would end the connection, or for which snapshots have no room."""
    loop = Loop()
    (tmp_path / "1").mkdir()
    node = Node(tmp_path / "1", 1, free_addresses(1), loop).start()
    run_until(loop, lambda: node.state == RAFT_LEADER)
    narrow(node, limit, monkeypatch)
    last = raft_last_index(node.raft)
    own = node.members[1]
    rest = ROOM - 9 - (8 + len(own) + 2) - (8 + len(":9001") + 2)  # format and count; id, address with its NUL, role
    fits, too_long = "h" * rest + ":9001", "h" * (rest + 1) + ":9001"
    assert raft_add(node.raft, RaftChange(), 2, too_long, None) == RAFT_TOOBIG
    assert raft_errmsg(node.raft).startswith(
        f"a configuration of {ROOM + 8} bytes exceeds the limit of {ROOM}, see {limit}"
    )
    assert (raft_last_index(node.raft), len(node.raft.configuration.servers)) == (last, 1)
    assert node.try_apply(1) == 0
    outcome = Outcome()
    assert raft_add(node.raft, RaftChange(), 2, fits, outcome) == 0
    run_until(loop, lambda: outcome.calls)
    narrow(node, limit, monkeypatch, ROOM - 8)
    assert raft_assign(node.raft, RaftChange(), 2, RAFT_STANDBY, None) == RAFT_TOOBIG
    assert raft_promote(node.raft, RaftChange(), 2, None) == RAFT_TOOBIG
    assert raft_remove(node.raft, RaftChange(), 2, outcome) == 0
    run_until(loop, lambda: len(outcome.calls) == 2)
    assert [call[1] for call in outcome.calls] == [0, 0]
    node.close()
    loop.close()


def test_a_change_that_would_have_to_wait_is_refused_as_well() -> None:
    """A leader that has committed nothing of its own says so at once, and no change is under way."""

    def check(io: RaftIo, buf: bytes) -> int:
        io.errmsg = f"{len(buf)} bytes will not do"
        return RAFT_TOOBIG if len(buf) > 64 else 0

    s = Solo()
    s.stand()
    s.recv(m.request_vote_result(2, 2))
    assert s.state == RAFT_LEADER
    s.io.check_configuration = check
    assert raft_add(s.r, RaftChange(), 8, "h" * 64, None) == RAFT_TOOBIG
    assert raft_errmsg(s.r).endswith("bytes will not do")
    assert s.r.leader_state is not None
    assert s.r.leader_state.change is None
    assert raft_add(s.r, request := RaftChange(), 8, "h", None) == 0
    assert request.pending


def test_a_cluster_is_not_begun_with_a_configuration_above_a_limit(tmp_path: Path) -> None:
    """raft_bootstrap and raft_recover leave everything as it is."""
    loop = Loop()
    (tmp_path / "1").mkdir()
    node = Node(tmp_path / "1", 1, free_addresses(1), loop)
    assert raft_init(node.raft, node.io, node.fsm, 1, node.members[1]) == 0
    raft_uv_limits(node.io).payload = ROOM
    conf = RaftConfiguration()
    for id, address in enumerate((node.members[1], "h" * 40 + ":9001"), 1):
        assert raft_configuration_add(conf, id, address, RAFT_VOTER) == 0
    before = os.listdir(node.dir)
    for call in (raft_bootstrap, raft_recover):
        assert call(node.raft, conf) == RAFT_TOOBIG
        assert f"exceeds the limit of {ROOM}, see payload" in raft_errmsg(node.raft)
    assert os.listdir(node.dir) == before
    raft_uv_limits(node.io).payload = 2 * ROOM
    assert raft_bootstrap(node.raft, conf) == 0
    node.close()
    loop.close()

"""The own limits, which are taken to be those of all members, bound what a leader begins with and sends.

A configuration that messages or files have no room for is refused before anything is done with it, and entries go out
in as many messages as it takes.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from io_uv import raft_uv_limits, snapshot_file
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_TOOBIG,
    RAFT_VOTER,
    RaftApply,
    RaftChange,
    RaftConfiguration,
    RaftIo,
    RaftIoSend,
    RaftMessage,
    raft_add,
    raft_apply,
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
from tests.lib.fsm import add_x
from tests.lib.solo import ScriptIo, Solo, leader
from tests.lib.uvnode import Node, StatusOutcome, free_addresses, make_nodes, settled
from tests.lib.uvtest import Outcome, UvIo, run_until

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


# Entries.


@pytest.mark.parametrize("limits", [{"header": 1024}, {"payload": 4096, "piece": 0}])
def test_entries_that_are_too_many_for_one_message_go_out_in_several(tmp_path: Path, limits: dict[str, int]) -> None:
    """Each of them is within the limits, so all are stored everywhere, and no connection ends."""
    loop = Loop()
    nodes = make_nodes(tmp_path, 3, loop)
    first = settled(nodes)
    for node in nodes:
        for name, value in limits.items():
            setattr(raft_uv_limits(node.io), name, value)
    outcome = StatusOutcome()
    assert raft_apply(first.raft, RaftApply(), [bytes(64)] * 1000, 1000, outcome) == 0
    run_until(loop, lambda: outcome.calls and all(len(node.fsm.numbers) == 1000 for node in nodes))
    assert (outcome.statuses, first.state) == ([0], RAFT_LEADER)
    for node in nodes:
        node.close()
    loop.close()


@pytest.mark.parametrize(("header", "rv"), [(48 + 16 * 10, 0), (48 + 16 * 10 - 1, RAFT_TOOBIG)])
def test_a_message_within_the_limits_is_sent(tmp_path: Path, header: int, rv: int) -> None:
    """The last byte of room counts; one entry alone is sent whatever they are."""
    f = UvIo(tmp_path, "127.0.0.1:9001")
    limits = raft_uv_limits(f.io)
    limits.header, limits.payload = header, 8
    message = m.append_entries(1, 1, 1, 1, 1, m.commands([1] * 10))
    message.server_id, message.server_address = 2, "127.0.0.1:9"
    assert f.io.send(f.io, RaftIoSend(), message, Outcome()) == rv
    limits.header, limits.piece = 4096, 0
    assert f.io.send(f.io, RaftIoSend(), message, Outcome()) == RAFT_TOOBIG
    limits.payload = 10 * len(add_x(1))
    assert f.io.send(f.io, RaftIoSend(), message, Outcome()) == 0
    limits.header = limits.payload = 8
    message = m.append_entries(1, 1, 1, 1, 1, m.commands([1]))
    message.server_id, message.server_address = 2, "127.0.0.1:9"
    assert f.io.send(f.io, RaftIoSend(), message, Outcome()) == 0
    f.close()


@pytest.mark.parametrize("deferring", [False, True])
@pytest.mark.parametrize("most", [1, 3, 4])
def test_a_leader_sends_as_many_entries_at_once_as_pass(deferring: bool, most: int) -> None:
    """It halves their number until the I/O takes them, and goes on behind these with as many as that."""
    s = leader(deferring=deferring)
    s.recv(m.append_entries_result(3, 2, 2))
    send = s.io.send

    def refuse(io: ScriptIo, req: Any, message: RaftMessage, cb: Any) -> int:
        args = message.append_entries
        return RAFT_TOOBIG if args is not None and args.n_entries > most else send(io, req, message, cb)

    s.io.send = refuse
    assert raft_apply(s.r, RaftApply(), [add_x(1)] * 8, 8, None) == 0
    s.io.turn()
    found = [message.append_entries for message in s.sent() if message.server_id == 3]
    step = {1: 1, 3: 2, 4: 4}[most]
    assert [(args.prev_log_index, args.n_entries) for args in found] == [(i, step) for i in range(2, 10, step)]

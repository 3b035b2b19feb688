"""Whole servers, core and io_uv, on one loop: for tests of what a cluster does when a disk is sick.

A node's state machine keeps the numbers that were applied, in order.
"""

import os
import struct
from pathlib import Path
from typing import Any

from io_uv import raft_uv_close, raft_uv_init, raft_uv_tcp_close, raft_uv_tcp_init
from io_uv.pyuv import Loop
from io_uv.transport import RaftUvTransport
from pyraft import (
    RAFT_LEADER,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    raft_apply,
    raft_bootstrap,
    raft_close,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_leader,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    raft_state,
)
from tests.lib.ports import free_addresses as free_addresses  # for those that import Node
from tests.lib.uvtest import Outcome, run_until

ELECTION_MSECS = 200


class Numbers(RaftFsm):
    """A state machine that keeps the numbers given to it."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.numbers: list[int] = []
        self.apply = self._apply
        self.snapshot = self._snapshot
        self.restore = self._restore

    def _apply(self, fsm: RaftFsm, buf: bytes) -> tuple[int, Any]:
        self.numbers.append(int.from_bytes(buf[:8], "little"))
        return 0, None

    def _snapshot(self, fsm: RaftFsm) -> tuple[int, list[bytes]]:
        return 0, [struct.pack(f"<{len(self.numbers)}Q", *self.numbers)]

    def _restore(self, fsm: RaftFsm, buf: Any) -> int:
        self.numbers = list(struct.unpack(f"<{len(buf) // 8}Q", buf))
        return 0


class Node:
    """One server; `members` maps ids to addresses. A directory without a log is bootstrapped.

    `init` makes the transport, raft_uv_tcp_init or a function like it.
    """

    def __init__(self, dir: Path, id: int, members: dict[int, str], loop: Loop, init: Any = raft_uv_tcp_init) -> None:
        self.dir = dir
        self.id = id
        self.members = members
        self.loop = loop
        self.fsm = Numbers()
        self.raft = Raft()
        self.io = RaftIo()
        self.transport = RaftUvTransport()
        self.closed = False
        assert init(self.transport, loop) == 0, self.transport.errmsg
        assert raft_uv_init(self.io, loop, os.fspath(dir), self.transport) == 0

    @property
    def uv(self) -> Any:
        """The state of the I/O."""
        return self.io.impl

    def start(self, segment_size: int = 64 * 1024, threshold: int = 1 << 40) -> "Node":
        """Init, bootstrap if need be, and start with short timeouts."""
        pristine = not os.listdir(self.dir)
        r = self.raft
        assert raft_init(r, self.io, self.fsm, self.id, self.members[self.id]) == 0, raft_errmsg(r)
        self.uv.segment_size = segment_size
        self.uv.disk_retry_delay = 50
        raft_set_election_timeout(r, ELECTION_MSECS)
        raft_set_heartbeat_timeout(r, 20)
        raft_set_snapshot_threshold(r, threshold)
        raft_set_snapshot_trailing(r, 10)
        if pristine:
            conf = RaftConfiguration()
            for id, address in self.members.items():
                assert raft_configuration_add(conf, id, address, RAFT_VOTER) == 0
            assert raft_bootstrap(r, conf) == 0, raft_errmsg(r)
        assert raft_start(r) == 0, raft_errmsg(r)
        return self

    @property
    def state(self) -> int:
        """The server's role in the cluster: RAFT_LEADER and so on."""
        return raft_state(self.raft)

    def submit(self, number: int, size: int = 8) -> tuple[int, Outcome]:
        """Apply a number; return what raft_apply does, and the outcome that records its callback."""
        outcome = StatusOutcome()
        rv = raft_apply(self.raft, RaftApply(), [number.to_bytes(8, "little").ljust(size, b"\0")], 1, outcome)
        return rv, outcome

    def try_apply(self, number: int, size: int = 8) -> int:
        """Apply a number and wait; return the code of raft_apply, or the status of its callback."""
        rv, outcome = self.submit(number, size)
        if rv != 0:
            return rv
        run_until(self.loop, lambda: outcome.calls)
        return outcome.statuses[0]

    def close(self) -> None:
        """Close the server, if not done yet."""
        if self.closed:
            return
        self.closed = True
        done: list[bool] = []
        raft_close(self.raft, lambda r: done.append(True))
        run_until(self.loop, lambda: done)
        raft_uv_close(self.io)
        raft_uv_tcp_close(self.transport)


class StatusOutcome(Outcome):
    """Records the calls of a raft_apply callback (req, status, result)."""

    @property
    def statuses(self) -> list[int]:
        """The status of each call."""
        return [call[1] for call in self.calls]


def settled(nodes: list[Node]) -> Node:
    """Wait until one leads whom all others follow, and return it.

    From then on nobody is deposed because the machine was slow for a moment, until `unsettle`.
    """

    def agreed() -> bool:
        leader = leader_of(nodes)
        return leader is not None and {raft_leader(node.raft)[0] for node in nodes} == {leader.id}

    run_until(nodes[0].loop, agreed)
    for node in nodes:
        raft_set_election_timeout(node.raft, 3_600_000)
    leader = leader_of(nodes)
    assert leader is not None
    return leader


def unsettle(nodes: list[Node]) -> None:
    """Have them stand for election again when they do not hear of a leader."""
    for node in nodes:
        raft_set_election_timeout(node.raft, ELECTION_MSECS)


def make_nodes(dir: Path, n: int, loop: Loop) -> list[Node]:
    """Start a cluster of n servers in sub-directories."""
    members = free_addresses(n)
    for id in members:
        (dir / str(id)).mkdir()
    return [Node(dir / str(id), id, members, loop).start() for id in members]


def leader_of(nodes: list[Node]) -> Node | None:
    """Return the leader of the highest term, None if there is none."""
    leaders = [node for node in nodes if not node.closed and node.state == RAFT_LEADER]
    return max(leaders, key=lambda node: node.raft.current_term, default=None)

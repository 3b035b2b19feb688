"""The replicated state machine of the simulation: registers, numbered commands, snapshots of every kind.

Duty: `encode` and `Machine`. A command is put, get or compare-and-swap on one of a few integer registers, with an id
that makes it unique, and random padding. The machine counts what it applies and keeps a running digest, so that the
checker can tell whether all machines of a cluster apply the same commands in the same order.

Failure modes: on demand, `apply` fails once, `snapshot` is busy or fails; a violation is reported to the checker, not
raised, as the core would take an exception for a failure of the state machine.
"""

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from pyraft import RAFT_BUSY, RAFT_NOMEM, RaftFsm
from tests.lib.linearizability import CAS as CAS
from tests.lib.linearizability import GET as GET
from tests.lib.linearizability import PUT as PUT

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node

_COMMAND: Final = struct.Struct("<BBIII")
_STATE: Final = struct.Struct("<QII")
_ITEM: Final = struct.Struct("<BI")


def encode(op: int, key: int, id: int, value: int = 0, expected: int = 0, padding: int = 0) -> bytes:
    """Return a command: `op` on register `key`; `value` for put and cas, `expected` for cas."""
    return _COMMAND.pack(op, key, id, value, expected) + bytes(padding)


class Machine(RaftFsm):
    """The registers of one server in one of its lives. `count` commands were applied, whose digest is `digest`."""

    def __init__(self, node: "Node", version: int, asynchronous: bool) -> None:
        super().__init__()
        self.node = node
        self.version = version
        self.count = 0
        self.digest = 0
        self.registers: dict[int, int] = {}
        self.open_snapshots = 0
        self.fail_apply = False
        self.apply = self._apply
        self.snapshot = self._snapshot
        self.restore = self._restore
        if node.id % 2 == 0:
            self.apply_batch = self._apply_batch  # the others apply the same commands one by one
        if version >= 2:
            self.snapshot_finalize = self._finalize
        if version >= 3 and asynchronous:
            self.snapshot_async = self._snapshot_async

    def empty(self) -> bytes:
        """Return a snapshot of the state before the first command."""
        return _STATE.pack(0, 0, 0)

    def _apply(self, _: RaftFsm, buf: bytes) -> tuple[int, Any]:
        if self.fail_apply:
            self.fail_apply = False
            self.node.faulted = True
            return RAFT_NOMEM, None
        op, key, _id, value, expected = _COMMAND.unpack_from(buf)
        self.node.offset += self.node.world.profile.apply_msecs
        self.count += 1
        self.digest = zlib.crc32(buf, self.digest)
        self.node.world.checks.applied(self.node, self.count, self.digest, buf)
        before = self.registers.get(key, 0)
        if op == GET:
            return 0, before
        if op == CAS and before != expected:
            return 0, False
        self.registers[key] = value
        return 0, True

    def _apply_batch(self, _: RaftFsm, bufs: list[bytes]) -> tuple[int, list[Any]]:
        results: list[Any] = []
        for buf in bufs:
            rv, result = self._apply(self, buf)
            if rv != 0:
                return rv, results
            results.append(result)
        return 0, results

    def _snapshot(self, _: RaftFsm) -> tuple[int, list[bytes]]:
        dice = self.node.world.random
        if self.node.world.profile.bad_machines and dice.random() < 0.1:
            # A leader may go on with a failed snapshot, a follower becomes unavailable.
            if dice.random() < 0.5:
                return RAFT_BUSY, []
            self.node.faulted = True
            return RAFT_NOMEM, []
        self.open_snapshots += 1
        if self.open_snapshots > 1 and self.snapshot_finalize is not None:
            self.node.world.violate(f"server {self.node.id} takes a snapshot while another one is not finalized")
        items = [_ITEM.pack(k, v) for k, v in sorted(self.registers.items())]
        return 0, [_STATE.pack(self.count, self.digest, len(items)), b"".join(items)]

    def _snapshot_async(self, _: RaftFsm, bufs: list[bytes]) -> tuple[int, list[bytes]]:
        return 0, [b"".join(bufs)]

    def _finalize(self, _: RaftFsm, bufs: list[bytes]) -> int:
        self.open_snapshots -= 1
        if self.open_snapshots < 0:
            self.node.world.violate(f"server {self.node.id} finalizes a snapshot twice")
        return 0

    def _restore(self, _: RaftFsm, buf: Any) -> int:
        data = bytes(buf)
        self.count, self.digest, n = _STATE.unpack_from(data)
        self.registers = dict(_ITEM.iter_unpack(data[_STATE.size :]))
        if len(self.registers) != n:
            self.node.world.violate(f"server {self.node.id} restores a snapshot that was cut")
        self.node.world.checks.restored(self.node, self.count, self.digest)
        return 0

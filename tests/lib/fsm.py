"""The state machine that the core's tests replicate: two integers, x and y, and commands that set or add to them.

Duty: commands of 16 bytes (code, value; little-endian words) and a snapshot of 16 bytes (x, y). One class serves all
versions of the FSM table: version 1 has `snapshot` alone; from version 2 a `snapshot` takes a lock that
`snapshot_finalize` must give back; with `snapshot_async` (version 3) the content is taken in the worker.

Failure modes: a command of another length or with an unknown code fails with -1, as it does in the C tests.
"""

import struct
from typing import Any

from pyraft import RaftFsm

SET_X, SET_Y, ADD_X, ADD_Y = 1, 2, 3, 4

_PAIR = struct.Struct("<QQ")


def set_x(value: int) -> bytes:
    """Return the command that sets x."""
    return _PAIR.pack(SET_X, value)


def set_y(value: int) -> bytes:
    """Return the command that sets y."""
    return _PAIR.pack(SET_Y, value)


def add_x(value: int) -> bytes:
    """Return the command that adds to x."""
    return _PAIR.pack(ADD_X, value)


def add_y(value: int) -> bytes:
    """Return the command that adds to y."""
    return _PAIR.pack(ADD_Y, value)


def content(x: int, y: int) -> bytes:
    """Return the snapshot of a state machine that holds x and y."""
    return _PAIR.pack(x, y)


class PairFsm(RaftFsm):
    """A state machine with its own record of what was asked of it; `fail_*` make the next calls fail."""

    def __init__(self, version: int = 3, snapshot_async: bool = False) -> None:
        super().__init__()
        self.x = 0
        self.y = 0
        self.locked = False
        self.applied: list[bytes] = []
        self.n_snapshots = 0
        self.n_finalized = 0
        self.n_async = 0
        self.restored: list[tuple[int, int]] = []
        self.version = version
        self.apply = _apply
        self.restore = _restore
        self.snapshot = _snapshot
        if version >= 2:
            self.snapshot_finalize = _finalize
        if snapshot_async and version >= 3:
            self.snapshot = _prepare
            self.snapshot_async = _take


def missing(fsm: Any) -> Any:
    """Look for an attribute that is not there, as a function with a mistake in it does."""
    return fsm.gone


def _apply(fsm: PairFsm, buf: bytes) -> tuple[int, Any]:
    if len(buf) != _PAIR.size:
        return -1, None
    code, value = _PAIR.unpack(buf)
    if code == SET_X:
        fsm.x = value
    elif code == SET_Y:
        fsm.y = value
    elif code == ADD_X:
        fsm.x += value
    elif code == ADD_Y:
        fsm.y += value
    else:
        return -1, None
    fsm.applied.append(bytes(buf))
    return 0, (fsm.x, fsm.y)


def _restore(fsm: PairFsm, buf: Any) -> int:
    assert len(buf) == _PAIR.size
    fsm.x, fsm.y = _PAIR.unpack(buf)
    fsm.restored.append((fsm.x, fsm.y))
    return 0


def _lock(fsm: PairFsm) -> None:
    if fsm.version >= 2:
        assert not fsm.locked, "a snapshot was asked for before the last one was finalised"
        fsm.locked = True
    fsm.n_snapshots += 1


def _snapshot(fsm: PairFsm) -> tuple[int, list[bytes]]:
    _lock(fsm)
    return 0, [content(fsm.x, fsm.y)]


def _prepare(fsm: PairFsm) -> tuple[int, list[bytes]]:
    _lock(fsm)
    return 0, []


def _take(fsm: PairFsm, bufs: list[bytes]) -> tuple[int, list[bytes]]:
    assert fsm.locked
    fsm.n_async += 1
    return 0, [content(fsm.x, fsm.y)]


def _finalize(fsm: PairFsm, bufs: list[bytes]) -> int:
    assert fsm.locked, "snapshot_finalize without a snapshot"
    fsm.locked = False
    fsm.n_finalized += 1
    return 0

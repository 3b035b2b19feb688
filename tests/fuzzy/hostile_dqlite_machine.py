"""A target of `hostile`: what a leader of dqlite sends to a state machine, entries and snapshots, one after the other.

Duty: `dqlite_machine` has a machine in a folder of its own do what its bytes say; `corpus` has good inputs for it.

These must hold: nothing is raised, and each call returns 0 or a code that is meant for it. No file is outside of the
folder, or under a name that no database has there; no page is outside of its database; the machine takes its own
snapshots.
"""

import os
import struct
import tempfile
from pathlib import Path
from typing import Any

from io_uv.dqlite import commands, image, pages, words
from io_uv.dqlite.machine import DqliteFsm
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED
from tests.lib.dqlite import Source

PAGE = 512
APPLY, RESTORE, SNAPSHOT, FREEZE = range(4)
_PIECE = struct.Struct("<BH")


class _Quiet(DqliteFsm):
    """A machine that logs nothing."""

    def told(self, what: str, exc: Exception) -> int:
        """Return the code for what went wrong."""
        self._told = str(exc) if not hasattr(exc, "message") else exc.message
        return super().told(what, exc)


class World:
    """A machine, and something beside its folder that has to stay."""

    def __init__(self) -> None:
        memory = "/dev/shm"
        self.top = tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None)
        self.beside = Path(self.top.name, "beside")
        self.beside.write_bytes(b"stays")
        self.fsm = _Quiet(os.path.join(self.top.name, "databases"))

    def step(self, kind: int, piece: bytes) -> None:
        """Do one thing."""
        fsm: Any = self.fsm
        if kind == APPLY:
            assert fsm.apply(fsm, piece)[0] in (0, RAFT_MALFORMED)
        elif kind == RESTORE:
            if len(piece) % 2 and fsm.check(piece) == 0:
                assert fsm.restore(fsm, piece) == 0
            assert fsm.restore(fsm, piece) in (0, RAFT_MALFORMED, RAFT_CORRUPT)
        else:
            rv, bufs = fsm.snapshot(fsm)
            assert rv == 0
            found = image.decode(b"".join(bytes(buf) for buf in bufs))
            assert [one.file for one in found] == list(fsm.databases)
            if kind == SNAPSHOT:
                bufs.clear()
                assert fsm.snapshot_finalize(fsm, []) == 0

    def check(self) -> None:
        """See that everything is in its place."""
        assert sorted(os.listdir(self.top.name)) == ["beside", "databases"]
        assert self.beside.read_bytes() == b"stays"
        expected = {pages.file_name(name) for name in self.fsm.databases}
        assert len(expected) == len(self.fsm.databases)
        assert set(os.listdir(self.fsm.folder)) == expected
        for one in self.fsm.databases.values():
            content = one.image()
            assert len(content) == one.n_pages * one.page_size > 0
            assert one.frozen or os.stat(one.path).st_size == len(content)
            assert one.page(one.n_pages) == content[-one.page_size :]


_worlds: list[World] = []


def dqlite_machine(data: bytes) -> None:
    """Pieces with a kind and a length in front of each."""
    if not _worlds:
        _worlds.append(World())
    world, at = _worlds[0], 0
    world.fsm.open()
    try:
        while at + _PIECE.size <= len(data):
            kind, size = _PIECE.unpack_from(data, at)
            at += _PIECE.size
            world.step(kind % 4, data[at : at + size])
            at += size
            world.check()
    finally:
        world.fsm.close()


def corpus() -> dict[str, list[bytes]]:
    """Return good inputs for the target."""
    with tempfile.TemporaryDirectory() as folder:
        source = Source(Path(folder), page_size=PAGE)
        entries = source.run("create table t(a)", "insert into t values(zeroblob(900))", "insert into t values(1)")
        entries += source.run("delete from t where a <> 1", "vacuum", "insert into t values(zeroblob(3000))")
        content = source.content()
        source.close()
    first = commands.decode(entries[0])
    assert isinstance(first, commands.Frames)
    others = [
        commands.Frames(name, PAGE, first.numbers, first.pages).encode() for name in ("../up", "a/b", "", "x-wal")
    ]
    snapshot = image.header(1) + words.text("test.db") + words.u64(len(content)) + words.u64(0) + content
    one, two = _piece(SNAPSHOT), _piece(FREEZE)
    applied = [_piece(APPLY, entry) for entry in entries]
    return {
        "dqlite_machine": [
            b"".join(applied),
            b"".join([*applied[:2], two, *applied[2:4], one, *applied[4:]]),
            b"".join([_piece(RESTORE, snapshot), one, _piece(APPLY, commands.Checkpoint("test.db").encode())]),
            b"".join([*[_piece(APPLY, entry) for entry in others], one, _piece(RESTORE, snapshot), two]),
        ]
    }


def _piece(kind: int, data: bytes = b"") -> bytes:
    return _PIECE.pack(kind, len(data)) + data

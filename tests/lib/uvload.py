"""Loading directories in tests, through a RaftIo that is opened on them.

`Opener` is what the fixture of that name (tests/integration/conftest.py) gives: it opens instances on the directory of
the fixture `data`, and closes them at the end of the test.
"""

from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, raft_uv_set_auto_recovery
from pyraft.types import EntryBatch, RaftIo, RaftSnapshot
from tests.lib.disk import Dir, commands, numbers, singles
from tests.lib.uvtest import UvIo

PRISTINE: tuple[int, None, int, list[int]] = (0, None, 1, [])
ZERO_FORMAT = "load open segment open-{}: unexpected format version 0"


class Loaded:
    """The result of io.load, and the text."""

    def __init__(self, io: RaftIo) -> None:
        self.rv, self.term, self.voted_for, self.snapshot, self.start_index, entries = io.load(io)
        assert isinstance(entries, EntryBatch)
        self.entries = entries
        self.errmsg = io.errmsg

    def state(self) -> tuple[int, int | None, int, list[int]]:
        """Return (rv, index of the snapshot, start index, numbers of the entries)."""
        found: RaftSnapshot | None = self.snapshot
        return self.rv, found.index if found else None, self.start_index, numbers(self.entries)


class Opener:
    """Opens instances on a directory and closes them at the end of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instances: list[UvIo] = []

    def __call__(self) -> UvIo:
        instance = UvIo(self.path)
        self.instances.append(instance)
        return instance

    def close(self) -> None:
        """Close all instances."""
        while self.instances:
            self.instances.pop().close()

    def load(self, auto_recovery: bool = False) -> Loaded:
        """Init and load a fresh instance, after closing those before it: one at a time may use a directory."""
        self.close()
        instance = self()
        assert instance.init() == 0, instance.io.errmsg
        raft_uv_set_auto_recovery(instance.io, auto_recovery)
        return Loaded(instance.io)


def closed(data: Dir, first: int, n: int, number: int | None = None) -> str:
    """Write a closed segment of n commands in batches of one, numbered by their index unless said otherwise."""
    return data.closed(first, *singles(commands(number or first, n)))


def opened(data: Dir, counter: int, first: int, n: int = 1, **options: Any) -> str:
    """Write an open segment of n commands in batches of one."""
    return data.open(counter, *singles(commands(first, n)), **options)


def fail_to_open(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let files of that name in their path not open for reading."""
    original = fs.open

    def refuse(path: str, flags: int, mode: int = 0o600) -> int:
        if path.endswith(name):
            raise OSError(number, "")
        return original(path, flags, mode)

    monkeypatch.setattr(fs, "open", refuse)

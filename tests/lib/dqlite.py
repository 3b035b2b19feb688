"""Databases as dqlite has them, for tests: images in WAL mode, the transactions of a leader, and snapshots."""

import sqlite3
import struct
import tempfile
from pathlib import Path

from io_uv.dqlite import commands
from io_uv.dqlite.machine import DqliteFsm
from pyraft.types import as_bytes

PAGE = 4096


def database(*statements: str) -> bytes:
    """Return the main file of a database in WAL mode, in pages of 4096 bytes, in which statements were run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.db")
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("pragma page_size=4096")
        connection.execute("pragma journal_mode=wal")
        for statement in statements:
            connection.execute(statement)
        connection.close()
        return path.read_bytes()


def taken(fsm: DqliteFsm) -> bytes:
    """Take a snapshot."""
    rv, bufs = fsm.snapshot(fsm)
    assert rv == 0
    data = b"".join(bytes(as_bytes(buf)) for buf in bufs)
    bufs = []
    assert fsm.snapshot_finalize is not None
    assert fsm.snapshot_finalize(fsm, []) == 0
    return data


class Source:
    """A leader's database: what it runs becomes entries of the log."""

    def __init__(self, folder: Path, name: str = "test.db", page_size: int = PAGE) -> None:
        self.name = name
        self.page_size = page_size
        self.path = folder / name
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        for pragma in (f"page_size={page_size}", "journal_mode=wal", "synchronous=off", "wal_autocheckpoint=0"):
            self.connection.execute(f"pragma {pragma}")
        self._seen = 0
        self._salt = b""

    def run(self, *statements: str) -> list[bytes]:
        """Run statements; return the entries of their transactions."""
        for statement in statements:
            self.connection.execute(statement)
        return self._transactions()

    def _transactions(self) -> list[bytes]:
        wal = self.path.with_name(self.name + "-wal").read_bytes()
        if wal[16:24] != self._salt:
            self._seen, self._salt = 32, wal[16:24]
        entries: list[bytes] = []
        numbers: list[int] = []
        pages: list[bytes] = []
        while self._seen < len(wal) and wal[self._seen + 8 : self._seen + 16] == self._salt:
            number, commit = struct.unpack_from(">2I", wal, self._seen)
            numbers.append(number)
            pages.append(wal[self._seen + 24 : self._seen + 24 + self.page_size])
            self._seen += 24 + self.page_size
            if commit:
                content = memoryview(b"".join(pages))
                entries.append(commands.Frames(self.name, self.page_size, tuple(numbers), content).encode())
                numbers, pages = [], []
        return entries

    def checkpoint(self) -> None:
        """Move the log into the database, so that it begins anew."""
        self.connection.execute("pragma wal_checkpoint(truncate)")

    def content(self) -> bytes:
        """Return the database's pages as they are."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy")
            copy.write_bytes(self.path.read_bytes())
            Path(folder, "copy-wal").write_bytes(self.path.with_name(self.name + "-wal").read_bytes())
            connection = sqlite3.connect(copy, isolation_level=None)
            connection.execute("pragma wal_checkpoint(truncate)")
            connection.close()
            return copy.read_bytes()

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

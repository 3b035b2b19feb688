"""Databases as dqlite has them, for tests: images in WAL mode, and the frames that transactions leave."""

import sqlite3
import tempfile
from pathlib import Path


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

"""Moves the page that SQLite neither reads nor writes from 1 GiB to where a small database has it.

`moved` does that in this process, `python -m tests.lib.lock_byte AT …` runs the command `pyraft …` with it, and nodes
of go-dqlite (peer.go) do it by PEER_LOCK_BYTE. It is a control of SQLite's for tests. Databases that were made with it
are of no use without it, and no live file may be opened meanwhile: its locks are where they always are.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from io_uv.dqlite import image
from pyraft.__main__ import main

_PENDING_BYTE = 11
"""SQLITE_TESTCTRL_PENDING_BYTE."""


def move(at: int) -> str:
    """Move it; return why that cannot be, "" if it can. No database may be open."""
    spec = importlib.util.find_spec("_sqlite3")
    assert spec is not None
    built_in = spec.origin is None or not spec.has_location
    library = ctypes.CDLL(None if built_in else spec.origin)  # with what that is linked with
    if not hasattr(library, "sqlite3_test_control"):
        return "this Python's SQLite has no controls for tests"
    library.sqlite3_test_control(_PENDING_BYTE, ctypes.c_uint(at))
    if library.sqlite3_test_control(_PENDING_BYTE, ctypes.c_uint(0)) != at:
        return "this Python's SQLite was built without what moves it"
    image.LOCK_BYTE = at
    return ""


@contextmanager
def moved(at: int) -> Iterator[str]:
    """Have it elsewhere for a time; yields the answer of `move`."""
    before = image.LOCK_BYTE
    problem = move(at)
    try:
        yield problem
    finally:
        if not problem:
            assert not move(before)


if __name__ == "__main__":
    assert not move(int(sys.argv.pop(1)))
    main()

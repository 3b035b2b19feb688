"""Databases as pages in files: what a node that runs no SQL keeps of them.

Duty: `PageFile` holds one database. Transactions are written into it as they are applied; its image can be frozen, to
be read by another thread while transactions go on. `file_name` finds a place for any database's name.

Happy path: `write(numbers, pages, n_pages)` for each transaction, `freeze()` for a snapshot, `thaw()` when that is
stored. Transactions on a frozen file go into a second one beside it until then, so neither the image nor what follows
is in memory.

Nothing is synced: the files are made anew from raft's snapshot and log at each start. Page 1 keeps the mark of a
write-ahead log (2 in bytes 18 and 19), as dqlite has it.

Failure modes: OSError of a full or failing disk; the same write may be tried again. Names lead to no other folder.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from io_uv import fs, spool
from io_uv.pyuv.alone import Alone
from io_uv.spool import write_at
from pyraft.types import BytesLike

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_NAME: Final = 100
"""Bytes of a file's name; io_uv opens names of up to 128."""
LATER: Final = "%later"
"""End of the name of a second file: no database's file has a per cent sign there."""
FRESH: Final = "%fresh"
"""End of the name of a file that is being made."""


def file_name(name: str) -> str:
    """Return the name of a database's file: its own where that is harmless, else one with the rest escaped, or a hash.

    Two databases never have one file.
    """
    data = name.encode("utf-8", "surrogateescape")
    escaped = "".join([chr(byte) if chr(byte) in _PLAIN else f"%{byte:02x}" for byte in data])
    if escaped[:1] in ("", "."):
        escaped = f"%2e{escaped[1:]}" if escaped else "%"
    if len(escaped) > _MAX_NAME:
        return f"%{hashlib.sha256(data).hexdigest()}"
    return escaped


class PageFile(Alone):
    """The pages of one database."""

    __slots__ = (
        "_kept",
        "_later",
        "_later_fd",
        "_slots",
        "dir",
        "fd",
        "frozen",
        "n_pages",
        "name",
        "page_size",
        "path",
    )

    def __init__(self, dir: str, name: str, page_size: int, suffix: str = "") -> None:
        """Make an empty file; one that is there is emptied."""
        self.name = name
        self.dir = dir
        self.page_size = page_size
        self.n_pages = 0
        self.frozen = False
        self._later: dict[int, int] = {}
        self._later_fd = -1
        self._slots = 0
        """Pages in the second file."""
        self._kept = 0
        """How many pages of a frozen file still are the database's, where the second file has no newer ones."""
        self.path = fs.join(dir, file_name(name) + suffix)
        self.fd = fs.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)

    def write(self, numbers: Sequence[int], pages: BytesLike, n_pages: int) -> None:
        """Write pages, one behind the other in `pages`, by their numbers from 1 on; the database has `n_pages` then."""
        view = memoryview(pages)
        size = self.page_size
        if self.frozen:
            for at, number in enumerate(numbers):
                slot = self._later.get(number, self._slots)
                write_at(self._later_fd, view[at * size : (at + 1) * size], slot * size)
                self._later[number] = slot
                self._slots = max(self._slots, slot + 1)
            self._kept = min(self._kept, n_pages)
            if n_pages < self.n_pages:
                self._later = {number: slot for number, slot in self._later.items() if number <= n_pages}
            self.n_pages = n_pages
            return
        at = 0
        while at < len(numbers):
            end = at + 1
            while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
                end += 1
            write_at(self.fd, view[at * size : end * size], (numbers[at] - 1) * size)
            at = end
        self.resize(n_pages)

    def append(self, pages: BytesLike) -> None:
        """Write the pages that a new database begins with."""
        at = 0
        for piece in spool.windows(pages):
            write_at(self.fd, piece, at)
            at += len(piece)
        self.resize(at // self.page_size)

    def resize(self, n_pages: int) -> None:
        """Cut or lengthen a file that is not frozen."""
        fs.ftruncate(self.fd, n_pages * self.page_size)
        self.n_pages = n_pages

    def freeze(self) -> memoryview:
        """Return the database as it is; all that is written from now on does not change that, until thaw()."""
        assert not self.frozen
        view = spool.mapped(self.fd, self.n_pages * self.page_size)
        path = self.path + LATER
        self._later_fd = fs.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
        fs.unlink(path)
        self._kept = self.n_pages
        self.frozen = True
        return view

    def thaw(self) -> None:
        """Let go of what freeze() has returned, and move what was written since into the file.

        After an OSError the file is frozen as before, and thaw() can be called again.
        """
        if not self.frozen:
            return
        size = self.page_size
        fs.ftruncate(self.fd, self._kept * size)
        for number, slot in sorted(self._later.items()):
            write_at(self.fd, fs.pread(self._later_fd, size, slot * size), (number - 1) * size)
        fs.ftruncate(self.fd, self.n_pages * size)
        self.frozen = False
        self._later.clear()
        self._slots = 0
        fs.close(self._later_fd)
        self._later_fd = -1

    def image(self) -> bytes | memoryview:
        """Return a copy of the database as it is now, in a file without a name if it is large. OSError or Failure."""
        size = self.page_size
        copy = spool.Spool(self.dir, spool.WINDOW)
        number = 1
        while number <= self.n_pages:
            if not self.frozen:
                n = min(fs.CHUNK // size, self.n_pages + 1 - number)
                copy.write(fs.pread(self.fd, n * size, (number - 1) * size))
            else:
                n = 1
                copy.write(self.page(number))
            number += n
        return copy.take()

    def page(self, number: int) -> bytes:
        """Return a page of the database as it is now."""
        size = self.page_size
        slot = self._later.get(number)
        if slot is not None:
            return fs.pread(self._later_fd, size, slot * size)
        if self.frozen and number > self._kept:
            return bytes(size)
        return fs.pread(self.fd, size, (number - 1) * size)

    def take_place(self) -> None:
        """Put a file that was made with a suffix in the place of the database's file."""
        path = fs.join(self.dir, file_name(self.name))
        fs.rename(self.path, path)
        self.path = path

    def close(self) -> None:
        """Close the file, which stays."""
        for fd in (self.fd, self._later_fd):
            if fd >= 0:
                fs.close(fd)
        self.fd = self._later_fd = -1

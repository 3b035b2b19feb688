"""Log entries of dqlite: what a RAFT_COMMAND of its leader says.

Duty: `decode` makes an `Open`, `Frames`, `Undo` or `Checkpoint` of an entry, and refuses what does not add up; `encode`
of each makes the entry. Source: command.c of canonical/dqlite.

Happy path: a transaction is one `Frames`: pages of a database by number, in the order of the write-ahead log.

Failure modes: ParseError. Frames are checked as far as that takes no database: the lengths, the size of a page, numbers
from 1 on, and that the transaction is whole. dqlite before 1.0 sent it in pieces, which dqlite from 1.18.2 on refuses
as well.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from io_uv.dqlite import words
from io_uv.dqlite.words import ParseError, Reader
from pyraft.types import BytesLike

FORMAT: Final = 1
MAX_PAGES: Final = (1 << 32) - 2
"""Pages that a database of SQLite can have."""

_HEADER: Final = struct.Struct("<BBHI")
_FRAMES: Final = struct.Struct("<QIBBHIHH")


@dataclass(frozen=True)
class Open:
    """A database is opened for the first time."""

    file: str
    TYPE: ClassVar[int] = 1

    def encode(self) -> bytes:
        """Return the entry."""
        return _header(self.TYPE) + words.text(self.file)


@dataclass(frozen=True)
class Frames:
    """The pages that a transaction has written; of a page that comes twice the last one counts."""

    file: str
    page_size: int
    numbers: tuple[int, ...]
    pages: memoryview
    """All pages, one behind the other."""
    TYPE: ClassVar[int] = 2

    def encode(self) -> bytes:
        """Return the entry."""
        n = len(self.numbers)
        fixed = _FRAMES.pack(0, 0, 1, 0, 0, n, self.page_size, 0)
        return b"".join(
            (_header(self.TYPE), words.text(self.file), fixed, struct.pack(f"<{n}Q", *self.numbers), self.pages)
        )


@dataclass(frozen=True)
class Undo:
    """A transaction that was sent in pieces is given up; nothing to do where there are no pieces."""

    tx_id: int
    TYPE: ClassVar[int] = 3

    def encode(self) -> bytes:
        """Return the entry."""
        return _header(self.TYPE) + words.u64(self.tx_id)


@dataclass(frozen=True)
class Checkpoint:
    """The leader has moved its write-ahead log into the database; each node does that when it likes."""

    file: str
    TYPE: ClassVar[int] = 4

    def encode(self) -> bytes:
        """Return the entry."""
        return _header(self.TYPE) + words.text(self.file)


Command: TypeAlias = Open | Frames | Undo | Checkpoint


def decode(data: BytesLike) -> Command:
    """Return what an entry says; `Frames.pages` is a view of it."""
    reader = Reader(data)
    format, type, _, _ = _HEADER.unpack(reader.take(_HEADER.size, "header"))
    if format != FORMAT:
        raise ParseError(f"a command of format {format}")
    if type == Frames.TYPE:
        return _frames(reader)
    if type == Undo.TYPE:
        return Undo(reader.u64())
    if type not in (Open.TYPE, Checkpoint.TYPE):
        raise ParseError(f"a command of type {type}")
    file = reader.text()
    return Open(file) if type == Open.TYPE else Checkpoint(file)


def _frames(reader: Reader) -> Frames:
    file = reader.text()
    _, _, is_commit, _, _, n, page_size, _ = _FRAMES.unpack(reader.take(_FRAMES.size, "frames"))
    if not is_commit:
        raise ParseError("frames of a part of a transaction, as dqlite before 1.0 made them")
    if not is_page_size(page_size):
        raise ParseError(f"pages of {page_size} bytes")
    if n == 0 or reader.left != n * (8 + page_size):
        raise ParseError(f"{n} pages of {page_size} bytes in {reader.left} bytes")
    numbers = struct.unpack(f"<{n}Q", reader.take(8 * n, "numbers of pages"))
    for number in numbers:
        if not 0 < number <= MAX_PAGES:
            raise ParseError(f"page {number} of '{file}'")
    return Frames(file, page_size, numbers, reader.take(reader.left, "pages"))


def is_page_size(size: int) -> bool:
    """Return whether pages can be so long: a power of two from 512 to 32768, as 65536 has no place in a command."""
    return 512 <= size <= 32768 and size & (size - 1) == 0


def _header(type: int) -> bytes:
    return _HEADER.pack(FORMAT, type, 0, 0)

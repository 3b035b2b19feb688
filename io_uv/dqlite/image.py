"""Snapshots of dqlite: all databases, each as its main file and what its write-ahead log has beyond that.

Duty: `decode` finds the databases in a snapshot and checks that all of it adds up; `frames` finds in a write-ahead log
the pages of whole transactions; `header` and `entry` are what goes in front of all databases and of each one's pages.
Source: fsm.c of canonical/dqlite, and SQLite's file format, section 4.

Happy path: uint64 format 1, uint64 number of databases; for each text name, uint64 size of main, uint64 size of the
log, main, the log. From dqlite 1.17 on the log is always empty, and so it is in what we write.

Failure modes: ParseError, before anything is put in force. The checksums of a write-ahead log are checked, and frames
behind the last whole transaction are left out, as SQLite does; a log that has none is an error only if it is not empty.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from io_uv.dqlite import commands, words
from io_uv.dqlite.words import ParseError, Reader
from pyraft.types import BytesLike

FORMAT: Final = 1
HEADER_SIZE: Final = 100
"""Bytes of the header of a database, at the beginning of its page 1."""
LOCK_BYTE: Final = 1 << 30
"""Where a database has the page that SQLite neither reads nor writes, as other systems than POSIX lock bytes in it."""
_MAGIC: Final = b"SQLite format 3\0"

_WAL: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_WAL_MAGIC: Final = (0x377F0682, 0x377F0683)
_WAL_VERSION: Final = 3007000


@dataclass(frozen=True)
class Database:
    """A database in a snapshot; both parts are views of it."""

    file: str
    main: memoryview
    wal: memoryview
    page_size: int


def page_size_of(page: BytesLike) -> int:
    """Return the size of pages that page 1 of a database names; ParseError if it is another page."""
    head = bytes(memoryview(page)[:HEADER_SIZE])
    if len(head) < HEADER_SIZE or head[:16] != _MAGIC:
        raise ParseError("its first page is not that of a database")
    size = int.from_bytes(head[16:18], "big")
    if not commands.is_page_size(size):
        raise ParseError(f"a database with pages of {size} bytes")
    return size


def page_count_of(page: BytesLike) -> int:
    """Return the number of pages that page 1 of a database names."""
    return int.from_bytes(memoryview(page)[28:32], "big")


def lock_page_of(page_size: int) -> int:
    """Return the number of the page that SQLite neither reads nor writes.

    dqlite has memory there as malloc has given it, other bytes on each node. It is zeros in all that is ours.
    """
    return LOCK_BYTE // page_size + 1


def decode(data: BytesLike) -> list[Database]:
    """Return the databases of a snapshot."""
    reader = Reader(data)
    format, n = reader.u64(), reader.u64()
    if format != FORMAT:
        raise ParseError(f"a snapshot of format {format}")
    if n > reader.left // 24:
        raise ParseError(f"{n} databases in {reader.left} bytes")
    found: dict[str, Database] = {}
    for _ in range(n):
        file = reader.text()
        if file in found:
            raise ParseError(f"database '{file}' comes twice")
        found[file] = _database(reader, file)
    if reader.left:
        raise ParseError(f"{reader.left} bytes behind the last database")
    return list(found.values())


def _database(reader: Reader, file: str) -> Database:
    main_size, wal_size = reader.u64(), reader.u64()
    main = reader.take(main_size, f"database '{file}'")
    wal = reader.take(wal_size, f"write-ahead log of '{file}'")
    if main_size:
        page_size = page_size_of(main)
        if main_size % page_size or page_count_of(main) * page_size != main_size:
            raise ParseError(f"database '{file}' of {main_size} bytes and {page_count_of(main)} pages of {page_size}")
    elif wal_size:
        page_size = int.from_bytes(Reader(wal).take(12, "write-ahead log")[8:], "big")
        if not commands.is_page_size(page_size):
            raise ParseError(f"a write-ahead log with pages of {page_size} bytes")
    else:
        raise ParseError(f"database '{file}' is empty")
    return Database(file, main, wal, page_size)


def frames(database: Database) -> Iterator[tuple[int, memoryview, int]]:
    """Yield page number, page and the size in pages behind it, for all frames of whole transactions.

    The size is that of the transaction which the frame belongs to. ParseError for a log that begins with no header.
    """
    wal, page_size = database.wal, database.page_size
    if not wal:
        return
    magic, version, size, _, salt_1, salt_2, sum_1, sum_2 = _WAL.unpack(Reader(wal).take(_WAL.size, "write-ahead log"))
    if magic not in _WAL_MAGIC or version != _WAL_VERSION or size != page_size:
        raise ParseError(f"the write-ahead log of '{database.file}' begins with no header of one")
    order = ">" if magic & 1 else "<"
    sums = checksum(wal[: _WAL.size - 8], order, (0, 0))
    if sums != (sum_1, sum_2):
        raise ParseError(f"the write-ahead log of '{database.file}' has another checksum than it should")
    pending: list[tuple[int, memoryview]] = []
    for at in range(_WAL.size, len(wal) - page_size - _FRAME.size + 1, _FRAME.size + page_size):
        number, commit, *salts, sum_1, sum_2 = _FRAME.unpack_from(wal, at)
        page = wal[at + _FRAME.size : at + _FRAME.size + page_size]
        sums = checksum(page, order, checksum(wal[at : at + 8], order, sums))
        if salts != [salt_1, salt_2] or sums != (sum_1, sum_2) or not 0 < number <= commands.MAX_PAGES:
            return
        pending.append((number, page))
        if commit:
            for one, content in pending:
                yield one, content, commit
            pending.clear()


def checksum(data: BytesLike, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """Return the checksum of a write-ahead log behind `data`, whole words of 8 bytes."""
    first, second = sums
    view = memoryview(data)
    numbers = struct.unpack(f"{order}{len(view) // 4}I", view)
    for at in range(0, len(numbers), 2):
        first = (first + numbers[at] + second) & 0xFFFFFFFF
        second = (second + numbers[at + 1] + first) & 0xFFFFFFFF
    return first, second


def header(n: int) -> bytes:
    """Return what a snapshot of `n` databases begins with."""
    return words.u64(FORMAT) + words.u64(n)


def entry(file: str, main_size: int) -> bytes:
    """Return what stands in front of a database."""
    return words.text(file) + words.u64(main_size) + words.u64(0)

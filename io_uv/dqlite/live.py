"""A database that other programs read with SQLite while transactions are written into it.

Duty: `LiveFile` is the one writer of a database in SQLite's own WAL mode: `commit` adds a transaction to the
write-ahead log and then to its index (the -shm file), as sqlite3WalFrames does, so a reader finds all of it or nothing,
and keeps the state that it began with. Source: SQLite's documents on its file, WAL and WAL-index formats, and wal.c.

The reasons: a file renamed into place would leave open connections at an old state for ever, and costs a copy for each
transaction; a rollback journal would have readers and writer wait for each other. Here a kill at any moment leaves
frames behind the last commit, which no reader looks at, or an index whose two heads differ, which the next reader makes
anew from the log's checksums. Readers lock byte ranges; all of ours are OFD locks, which hold against readers in this
process too, and outlast a close of the file elsewhere in it. The lock of writers is kept as long as the file is open,
so that nobody else changes the database. SQLite itself moves the log into the database, and recovers what a kill left.

Happy path: `LiveFile.make(…)` once, `LiveFile(path, size)`, `commit` for each transaction, `checkpoint` in a thread.
Failure modes: OSError and sqlite3.Error, and nothing of the transaction is visible; Failure(RAFT_BUSY) where somebody
else writes. Readers with `immutable=1` have no protection, nor have any on a file system without locks or shared maps.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import sqlite3
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import quote

from io_uv import fs, spool
from io_uv.dqlite import image, pages
from io_uv.failure import Failure
from io_uv.pyuv.alone import Alone
from pyraft.errors import RAFT_BUSY, RAFT_CORRUPT
from pyraft.types import BytesLike

_VERSION: Final = 3007000
_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_BIG: Final = int(sys.byteorder == "big")
_LOG_HEAD: Final = struct.Struct(">4I8s")
_PAIR: Final = struct.Struct(">2I")
LOG_HEAD: Final = 32
"""Bytes in front of the first frame of a log."""
FRAME_HEAD: Final = 24
"""Bytes in front of each page in a log."""

_BLOCK: Final = 32768
"""Bytes of a part of the index, which has the frames of 4096 pages, or 4062 in the first part."""
_INDEX: Final = struct.Struct("=IIIBBHIIII8s")
_HEAD: Final = 48
_FIRST: Final = 136
"""Bytes in front of the first part's page numbers: two heads, and what checkpoints and readers note."""
_SLOTS: Final = 8192
_PER_BLOCK: Final = 4096
_PER_FIRST: Final = _PER_BLOCK - _FIRST // 4
_BACKFILLED, _MARKS, _ATTEMPTED = 24, 25, 32
"""Words of the index: frames that are in the database, the marks of readers, frames that may be."""
_NO_MARK: Final = 0xFFFFFFFF

_WRITE_LOCK, _READ_LOCKS, _READ_LOCKS_N, _OPEN_LOCK = 120, 124, 4, 128
"""Bytes of the index that are locked: to write, to read from the log (each of four marks), and to have it open."""
_SHARED_LOCK, _SHARED_N = 0x40000002, 510
"""Bytes of the database that everybody locks who has it open."""

_WAIT_SECONDS: Final = 1.0
_PIECE: Final = 256
"""Frames that are written at a time."""
_LOG_KEPT: Final = 64 << 20
"""Bytes of a log that is begun anew beyond which the file is cut."""


def file_name(name: str) -> str:
    """Return the name of a database's live file; SQLite's own files stand beside it."""
    found = pages.file_name(name)
    return f"{found}%live" if found.endswith(("-wal", "-shm", "-journal")) else found


class LiveFile(Alone):
    """The writing side of one database. One thread calls `commit`, any thread `checkpoint`; see `restart`."""

    def __init__(self, path: str, page_size: int) -> None:
        """Open a database that is there, recovering what a kill has left. Failure(RAFT_BUSY) if somebody writes.

        RAFT_CORRUPT for a file that is not a database in WAL mode with such pages.
        """
        self.path = path
        self.page_size = page_size
        self.n_pages = 0
        self.last_frame = 0
        self.paused = False
        """For the caller: whether nothing should be committed now."""
        self._fds: list[int] = []
        self._frames: dict[int, int] = {}
        """The newest frame of each page in the log."""
        self._change = 0
        self._sequence = 0
        self._salt = b""
        self._sums = (0, 0)
        self._barrier = threading.Lock()
        self._map: mmap.mmap | None = None
        self._connection = self._connect()
        try:
            self._db, self._log, self._shm = [self._open(suffix) for suffix in ("", "-wal", "-shm")]
            fs.ofd_lock(self._db, fcntl.F_RDLCK, _SHARED_LOCK, _SHARED_N)
            fs.ofd_lock(self._shm, fcntl.F_RDLCK, _OPEN_LOCK, 1)
            fs.ofd_lock(self._shm, fcntl.F_WRLCK, _WRITE_LOCK, 1)
            self._reach(max(1, fs.fstat(self._shm).st_size // _BLOCK) - 1)
            self._read_index()
        except BaseException as exc:
            self.close()
            if isinstance(exc, OSError) and exc.errno in (errno.EAGAIN, errno.EACCES):
                raise Failure(RAFT_BUSY, f"somebody else writes into {path}") from None
            raise

    @classmethod
    def make(cls, path: str, content: Iterable[BytesLike]) -> None:
        """Write a new database's file, whole at once under its name; all that was there before is removed."""
        fresh = path + pages.FRESH
        fd = fs.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            fs.write_all(fd, content)
            fs.fdatasync(fd)
        finally:
            fs.close(fd)
        # Without its log a database may be half a transaction: the log is the last to go.
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                fs.unlink(path + suffix)
        fs.rename(fresh, path)

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{quote(os.path.abspath(self.path))}?mode=rw"
        made = sqlite3.connect(uri, timeout=_WAIT_SECONDS, uri=True, isolation_level=None, check_same_thread=False)
        try:
            made.execute("pragma synchronous=normal")
            made.execute("pragma wal_autocheckpoint=0")
            made.execute("select count(*) from sqlite_master").fetchall()  # recovers
            found = [made.execute(f"pragma {what}").fetchone()[0] for what in ("journal_mode", "page_size")]
        except BaseException as exc:
            made.close()
            if isinstance(exc, UnicodeDecodeError):  # a text of SQLite's with bytes of the file in it
                raise Failure(RAFT_CORRUPT, f"{self.path}: {exc}") from None
            raise
        if found != ["wal", self.page_size]:
            made.close()
            raise Failure(RAFT_CORRUPT, f"{self.path} is a database in mode {found[0]} with pages of {found[1]} bytes")
        return made

    def _open(self, suffix: str) -> int:
        fd = fs.open(self.path + suffix, os.O_RDWR | os.O_NOFOLLOW)
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Stop writing; if nobody else has the database open, SQLite moves the log into it and removes that.

        Connections of this process to it should be closed before: the system drops all that they have locked.
        """
        self._release()
        for fd in self._fds:
            for start, length in ((_SHARED_LOCK, _SHARED_N), (_WRITE_LOCK, _OPEN_LOCK - _WRITE_LOCK + 1)):
                fs.ofd_lock(fd, fcntl.F_UNLCK, start, length)
        try:
            self._connection.close()
        finally:
            for fd in self._fds:
                fs.close(fd)
            self._fds.clear()

    # Transactions.

    def commit(self, numbers: Sequence[int], page: Callable[[int], BytesLike], n_pages: int) -> None:
        """Add a transaction: `page(number)` for each of `numbers`; the database has `n_pages` pages afterwards."""
        if not numbers:
            return
        pieces: list[BytesLike] = []
        sums, at = self._sums, LOG_HEAD + self.last_frame * (FRAME_HEAD + self.page_size)
        for left, number in enumerate(numbers, 1 - len(numbers)):
            content = page(number)
            head = _PAIR.pack(number, n_pages if left == 0 else 0)
            sums = image.checksum(content, _ORDER, image.checksum(head, _ORDER, sums))
            pieces += (head, self._salt, _PAIR.pack(*sums), content)
            if len(pieces) >= 4 * _PIECE:
                at = self._write_log(pieces, at)
        self._write_log(pieces, at)
        for frame, number in enumerate(numbers, self.last_frame + 1):
            self._add(frame, number)
        for frame, number in enumerate(numbers, self.last_frame + 1):
            self._frames[number] = frame
        self.last_frame += len(numbers)
        self.n_pages = n_pages
        self._sums = sums
        self._publish()

    def replace(self, n_pages: int, page: Callable[[int], BytesLike]) -> None:
        """Make the database that of `n_pages` pages, in one transaction of those that differ."""
        size = self.n_pages
        numbers = [one for one in range(1, n_pages + 1) if one > size or self.content(one) != page(one)]
        if not numbers and n_pages != size:
            numbers = [1]
        self.commit(numbers, page, n_pages)

    def content(self, number: int) -> bytes:
        """Return a page as it is now."""
        frame = self._frames.get(number)
        if frame is None:
            return fs.pread(self._db, self.page_size, (number - 1) * self.page_size)
        at = LOG_HEAD + (frame - 1) * (FRAME_HEAD + self.page_size) + FRAME_HEAD
        return fs.pread(self._log, self.page_size, at)

    def _write_log(self, pieces: list[BytesLike], at: int) -> int:
        """Write what has been put together; return where the next frame is to be."""
        data = memoryview(b"".join(pieces))
        pieces.clear()
        spool.write_at(self._log, data, at)
        return at + len(data)

    # The log, begun anew.

    def checkpoint(self) -> None:
        """Move the log into the database as far as readers allow. Commits may go on; it may take long: use a thread."""
        self._connection.execute("pragma wal_checkpoint(passive)").fetchall()

    def restart(self) -> bool:
        """Begin the log anew if all of it is in the database and no reader is in it; return whether that was done.

        No `commit` may run meanwhile.
        """
        assert self._map is not None
        if self.last_frame == 0 or self._words[_BACKFILLED] != self.last_frame:
            return False
        try:
            fs.ofd_lock(self._shm, fcntl.F_WRLCK, _READ_LOCKS, _READ_LOCKS_N)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        try:
            if fs.fstat(self._log).st_size > _LOG_KEPT:
                fs.ftruncate(self._log, LOG_HEAD)
            self._begin_log()
            self._publish()
            self._words[_BACKFILLED] = self._words[_ATTEMPTED] = 0
            for mark in range(1, 1 + _READ_LOCKS_N):
                self._words[_MARKS + mark] = 0 if mark == 1 else _NO_MARK
        finally:
            fs.ofd_lock(self._shm, fcntl.F_UNLCK, _READ_LOCKS, _READ_LOCKS_N)
        return True

    def _begin_log(self) -> None:
        """Write the head of an empty log; it is on the disk before a frame can take the place of an old one.

        Otherwise a power cut might leave the old head with new frames, and the first of these could pass for old ones.
        """
        self._sequence += 1
        first = int.from_bytes(self._salt[:4] or secrets.token_bytes(4), "big")
        salt = ((first + 1) & 0xFFFFFFFF).to_bytes(4, "big") + secrets.token_bytes(4)
        head = _LOG_HEAD.pack(0x377F0682 | _BIG, _VERSION, self.page_size, self._sequence, salt)
        sums = image.checksum(head, _ORDER, (0, 0))
        spool.write_at(self._log, memoryview(head + _PAIR.pack(*sums)), 0)
        fs.fdatasync(self._log)
        self._salt, self._sums, self.last_frame = salt, sums, 0
        self._frames.clear()

    # The index.

    def _read_index(self) -> None:
        assert self._map is not None
        head = bytes(self._map[:_HEAD])
        version, _, self._change, _, big, size, frames, self.n_pages, *sums, self._salt = _INDEX.unpack_from(head)
        right = image.checksum(head[: _INDEX.size], _ORDER, (0, 0)) == struct.unpack_from("=2I", head, _INDEX.size)
        if not right or head != self._map[_HEAD : 2 * _HEAD] or version != _VERSION:
            raise Failure(RAFT_BUSY, f"the index of {self.path} is being changed by somebody else")
        self._sequence = int.from_bytes(fs.pread(self._log, 4, 12), "big")
        if frames == 0:
            self.n_pages = fs.fstat(self._db).st_size // self.page_size
            self._begin_log()
            # A kill in `restart` leaves what was in the database of the former log. As soon as this one has as many
            # frames, readers would take all of them for moved, and not look at them.
            self._words[_BACKFILLED] = self._words[_ATTEMPTED] = 0
            self._publish()
            return
        if (size, big) != (self.page_size, _BIG):
            raise Failure(RAFT_CORRUPT, f"{self.path} has a log with pages of {size} bytes")
        self._sums = (sums[0], sums[1])
        self.last_frame = frames
        for frame in range(1, frames + 1):
            block, slot = _place(frame)
            self._frames[self._words[_number_at(block) + slot - 1]] = frame

    def _publish(self) -> None:
        """Let readers that begin now see all up to the last frame: the second head first, as they read that last."""
        assert self._map is not None
        self._change = (self._change + 1) & 0xFFFFFFFF
        head = _INDEX.pack(
            *(
                _VERSION,
                0,
                self._change,
                1,
                _BIG,
                self.page_size,
                self.last_frame,
                self.n_pages,
                *self._sums,
                self._salt,
            )
        )
        head += struct.pack("=2I", *image.checksum(head, _ORDER, (0, 0)))
        with self._barrier:
            self._map[_HEAD : 2 * _HEAD] = head
        with self._barrier:
            self._map[:_HEAD] = head

    def _add(self, frame: int, number: int) -> None:
        """Put a frame behind the last one into the index; no reader looks at it before `_publish`."""
        block, slot = _place(frame)
        self._reach(block)
        numbers, table = _number_at(block), (block * _BLOCK + 4 * _PER_BLOCK) // 2
        if slot == 1 or self._words[numbers + slot - 1] != 0:
            self._clean(block, slot)
        key = number * 383 % _SLOTS
        while self._halves[table + key] != 0:
            key = (key + 1) % _SLOTS
        self._words[numbers + slot - 1] = number
        self._halves[table + key] = slot

    def _clean(self, block: int, slot: int) -> None:
        """Remove what a transaction that was never finished has left in a part of the index, from a slot on."""
        assert self._map is not None
        table, end = (block * _BLOCK + 4 * _PER_BLOCK) // 2, 4 * (_number_at(block) + slot - 1)
        if slot == 1:
            self._map[end : (block + 1) * _BLOCK] = bytes((block + 1) * _BLOCK - end)
            return
        for key in range(table, table + _SLOTS):
            if self._halves[key] >= slot:
                self._halves[key] = 0
        self._map[end : 2 * table] = bytes(2 * table - end)

    def _reach(self, block: int) -> None:
        """Have the index mapped up to a part of it, which is made if it is not there."""
        size = (block + 1) * _BLOCK
        if self._map is not None and size <= len(self._map):
            return
        there = fs.fstat(self._shm).st_size
        if there < size:
            spool.write_at(self._shm, memoryview(bytes(size - there)), there)
        self._release()
        self._map = mmap.mmap(self._shm, size)
        self._words = memoryview(self._map).cast("I")
        self._halves = memoryview(self._map).cast("H")

    def _release(self) -> None:
        if self._map is not None:
            self._words.release()
            self._halves.release()
            self._map.close()
            self._map = None


def _place(frame: int) -> tuple[int, int]:
    """Return the part of the index that has a frame, and its place in that, from 1 on."""
    block = (frame + _PER_BLOCK - _PER_FIRST - 1) // _PER_BLOCK
    return block, frame if block == 0 else frame - _PER_FIRST - (block - 1) * _PER_BLOCK


def _number_at(block: int) -> int:
    """Return the word of the index at which the page numbers of a part begin."""
    return (_FIRST if block == 0 else block * _BLOCK) // 4

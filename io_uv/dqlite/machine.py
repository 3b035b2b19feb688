"""dqlite's state machine without SQL: transactions become pages in files, snapshots go out and come in.

Duty: `DqliteFsm` is the RaftFsm of a node. `databases` are those that transactions or a snapshot have made, in the
folder that it is given. A program that wants to know of transactions sets `applied_cb`, of snapshots `restored_cb`.
Source: fsm.c, vfs.c of canonical/dqlite.

Happy path: FRAMES are written; OPEN, UNDO and CHECKPOINT change nothing. The size of a database behind a transaction is
that in the header of page 1 where this is among the pages (a VACUUM makes it smaller), else it has grown to the
greatest page. A snapshot is the files as they are, read by a thread while later transactions go into other files. One
that comes in is written into new files, `PRAGMA quick_check` is run on each, and then they take the old ones' places.
All but the last of these may have been done by `check`, in another thread.

Failure modes: RAFT_MALFORMED for a command that does not decode, pages that are not of the database's size, and sizes
that no transaction of SQLite can lead to; RAFT_CORRUPT for a database in a snapshot that is not sound; RAFT_IOERR or
RAFT_NOSPACE for the disk's failures, and the same entry may be applied again. The logger `io_uv` hears why. Databases
that a snapshot does not name are left alone, as in dqlite.
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any, Final
from urllib.parse import quote

from io_uv import fs
from io_uv.dqlite import commands, image, pages
from io_uv.dqlite.commands import Frames
from io_uv.dqlite.pages import PageFile
from io_uv.dqlite.words import ParseError
from io_uv.failure import Failure, failure, message_of
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED
from pyraft.types import BytesLike, RaftFsm

_log: Final = logging.getLogger("io_uv")

_SLACK: Final = 2
"""Pages by which a database may grow beyond those that a transaction writes: SQLite never writes the one at 1 GiB."""


class DqliteFsm(RaftFsm):
    """The state machine of a node of dqlite that keeps pages. `open` makes its folder before raft_start."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.version = 2
        self.folder = folder
        self.databases: dict[str, PageFile] = {}
        self.applied_cb: Callable[[Frames], object] | None = None
        """Called with each transaction when it is in the files."""
        self.restored_cb: Callable[[list[str]], object] | None = None
        """Called with the names of a snapshot's databases when it is in force."""
        self.freezing_cb: Callable[[], object] | None = None
        """Called when a snapshot is about to be taken."""
        self.applied_bytes = 0
        """Bytes of the entries that were applied since the last snapshot was begun or put in force."""
        self._frozen: list[PageFile] = []
        self._checked: tuple[BytesLike, list[PageFile]] | None = None
        """A snapshot that was checked, and the files that it has become."""
        self._told = ""
        self.apply = _apply
        self.snapshot = _snapshot
        self.snapshot_finalize = _finalize
        self.restore = _restore

    def open(self) -> None:
        """Make the folder, and remove what an earlier process has left in it. Raises Failure.

        Call it when the data directory is locked: two processes in one folder would ruin each other's files.
        """
        try:
            with suppress(FileExistsError):
                os.mkdir(self.folder, 0o700)
            for name in fs.listdir(self.folder):
                fs.unlink(fs.join(self.folder, name))
        except OSError as exc:
            raise failure(f"open '{self.folder}'", exc) from None

    def close(self) -> None:
        """Close the files, when raft_close has called back."""
        self._forget_checked()
        for one in self.databases.values():
            one.close()
        self.databases.clear()
        self._frozen.clear()

    def told(self, what: str, exc: Exception) -> int:
        """Return the code for what went wrong, and log it unless that was said last."""
        if isinstance(exc, OSError):
            exc = failure("write", exc)
        code = exc.code if isinstance(exc, Failure) else RAFT_MALFORMED
        text = message_of(exc)
        if self._told != text:
            self._told = text
            _log.error("%s: %s: %s", self.folder, what, text)
        return code

    # Transactions.

    def write(self, frames: Frames) -> None:
        """Write a transaction. Raises ParseError or OSError; nothing is changed by one that makes no sense."""
        one = self.databases.get(frames.file)
        before = one.n_pages if one is not None else 0
        if one is not None and one.page_size != frames.page_size:
            raise ParseError(f"pages of {frames.page_size} bytes for '{frames.file}', which has {one.page_size}")
        n_pages = max(before, *frames.numbers)
        room = before + len(set(frames.numbers)) + _SLACK
        if n_pages > room:
            raise ParseError(f"page {n_pages} for '{frames.file}', which has {before}")
        if 1 in frames.numbers:
            n_pages = _size_in_header(frames, room)
        elif one is None:
            raise ParseError(f"'{frames.file}' begins without its first page")
        elif n_pages > before:
            raise ParseError(f"page {n_pages} for '{frames.file}', whose first page says {before}")
        if one is None:
            one = self.databases[frames.file] = PageFile(self.folder, frames.file, frames.page_size)
        one.write(frames.numbers, frames.pages, n_pages)

    # Snapshots.

    def freeze(self) -> list[BytesLike]:
        """Return the pieces of a snapshot; the files stay as they are until `thaw`."""
        pieces: list[BytesLike] = [image.header(len(self.databases))]
        for one in self.databases.values():
            view = one.freeze()  # of a file: the thread that stores it forgets what it has read
            self._frozen.append(one)
            pieces += (image.entry(one.name, len(view)), view)
        return pieces

    def thaw(self) -> None:
        """Let transactions into the files again. Raises OSError; then it can be called again."""
        while self._frozen:
            self._frozen[-1].thaw()
            self._frozen.pop()

    def check(self, data: BytesLike) -> int:
        """Look at a snapshot, and make ready what `restore` does with the same object. Any thread, one at a time.

        Returns what `restore` would. For io_uv.raft_uv_set_snapshot_check.
        """
        self._forget_checked()
        try:
            self._checked = data, self._make(data)
        except (ParseError, OSError, Failure) as exc:
            return self.told("a snapshot is refused", exc)
        return 0

    def _forget_checked(self) -> None:
        """Remove the files of a snapshot that was checked and never put in force."""
        checked, self._checked = self._checked, None
        if checked is not None:
            _remove(checked[1])

    def install(self, data: BytesLike) -> None:
        """Put a snapshot in force. Raises ParseError, Failure or OSError; everything is as it was then."""
        checked = self._checked
        if checked is not None and checked[0] is data:
            self._checked, made = None, checked[1]
        else:
            self._forget_checked()
            made = self._make(data)
        for one in made:
            one.take_place()
            former = self.databases.get(one.name)
            if former is not None:
                if former in self._frozen:  # the disk was full when it was to be thawed
                    self._frozen.remove(former)
                former.close()
            self.databases[one.name] = one
        self.applied_bytes = 0
        if self.restored_cb is not None:
            self.restored_cb([one.name for one in made])

    def _make(self, data: BytesLike) -> list[PageFile]:
        """Write the databases of a snapshot into new files, and check them. Raises as `install` does."""
        made: list[PageFile] = []
        try:
            for database in image.decode(data):
                one = PageFile(self.folder, database.file, database.page_size, pages.FRESH)
                made.append(one)
                _fill(one, database)
                _check(one)
        except BaseException:
            _remove(made)
            raise
        return made


def _apply(fsm: Any, buf: bytes) -> tuple[int, Any]:
    try:
        command = commands.decode(buf)
        if isinstance(command, Frames):
            fsm.write(command)
    except (ParseError, OSError, Failure) as exc:
        return fsm.told("a transaction cannot be applied", exc), None
    fsm.applied_bytes += len(buf)
    if isinstance(command, Frames) and fsm.applied_cb is not None:
        fsm.applied_cb(command)
    return 0, None


def _snapshot(fsm: Any) -> tuple[int, Sequence[BytesLike]]:
    try:
        fsm.thaw()
        if fsm.freezing_cb is not None:
            fsm.freezing_cb()
        fsm.applied_bytes = 0
        return 0, fsm.freeze()
    except (OSError, ValueError) as exc:
        with suppress(OSError):
            fsm.thaw()
        return int(fsm.told("no snapshot can be taken", exc)), []


def _finalize(fsm: Any, bufs: list[Any]) -> int:
    try:
        fsm.thaw()
    except OSError as exc:
        return int(fsm.told("what came during a snapshot stays beside it", exc))
    return 0


def _restore(fsm: Any, buf: BytesLike) -> int:
    try:
        fsm.install(buf)
    except (ParseError, OSError, Failure) as exc:
        return int(fsm.told("a snapshot is not put in force", exc))
    return 0


def _size_in_header(frames: Frames, room: int) -> int:
    """Return the size in pages that the transaction's page 1 names."""
    at = len(frames.numbers) - 1 - frames.numbers[::-1].index(1)
    page = frames.pages[at * frames.page_size : (at + 1) * frames.page_size]
    page_size = image.page_size_of(page)
    n_pages = image.page_count_of(page)
    if page_size != frames.page_size or not 0 < n_pages <= room:
        raise ParseError(f"the first page of '{frames.file}' names {n_pages} pages of {page_size} bytes")
    return n_pages


def _fill(one: PageFile, database: image.Database) -> None:
    """Write a database of a snapshot, its write-ahead log over its main file, and zeros where SQLite has nothing."""
    one.append(database.main)
    most = one.n_pages + len(database.wal) // database.page_size + _SLACK
    size = one.n_pages
    for number, page, size in image.frames(database):
        if max(number, size) > most:
            raise ParseError(f"page {number} of {size} in the write-ahead log of '{database.file}'")
        one.write((number,), page, max(number, one.n_pages))
    if size == 0:
        raise ParseError(f"database '{database.file}' is empty")
    one.resize(size)
    unused = image.lock_page_of(database.page_size)
    if unused <= size:
        one.write((unused,), bytes(database.page_size), size)


def _remove(made: list[PageFile]) -> None:
    """Remove files that were made and are not in force."""
    for one in made:
        one.close()
        with suppress(OSError):
            fs.unlink(one.path)


def _check(one: PageFile) -> None:
    """Run SQLite's check on a file; Failure(RAFT_CORRUPT) if the database is not sound."""
    if fault := fault_of(one.path, "quick_check"):
        raise Failure(RAFT_CORRUPT, f"database '{one.name}': {fault}")


def fault_of(path: str, check: str) -> str:
    """Return the first fault that a check of SQLite's (quick_check, integrity_check) finds in a file, "" for none."""
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            found = connection.execute(f"pragma {check}(1)").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as exc:  # the latter for a text of SQLite's with bytes of the file in it
        return str(exc) or type(exc).__name__
    if found == ("ok",):
        return ""
    return str(found[0]) if found else "nothing in it"

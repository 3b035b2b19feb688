"""Databases of a member as files that other programs read with SQLite, and the news of what changes in them.

Duty: `Publisher` has every database of a state machine in a live file (`io_uv.dqlite.live`) of a folder, and tells
subscribers (`Changes`) of each transaction when the file has it. Transactions of one turn of the loop become visible
together; the visible state is always that behind a whole one.

Happy path: `applied_cb` notes which pages a transaction wrote, and the end of the turn moves them into the live file.
From time to time a thread moves the file's log into its database.

A state machine begins anew at each start, with an older state, and live files stay. So that no reader sees an earlier
state again, the file `%position` has the index that they may be at; it is written first, and nothing becomes visible
below it, unless the cluster's log has become shorter (`release`).

Failure modes: what the disk, or another program in the way, keeps from being written is logged once and tried again
every second; nothing of it is visible, and nothing is lost. A file that is not a database is made anew. A subscriber
that is slower than the cluster gets Overrun.
"""

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from io_uv import fs
from io_uv.dqlite import live
from io_uv.dqlite.commands import Frames
from io_uv.dqlite.live import LiveFile
from io_uv.dqlite.machine import DqliteFsm
from io_uv.dqlite.pages import PageFile
from io_uv.failure import Failure, message_of
from pyraft.dqlite.errors import Overrun
from pyraft.errors import RAFT_BUSY, RAFT_CORRUPT

POSITION: Final = "%position"
"""The file with the index; no database's file has that name."""
CHANGES: Final = 1024
"""Changes that wait for a subscriber."""
FRAMES: Final = 1000
"""Frames in a log from which on it is moved into its database, as in SQLite."""
_RETRY_SECONDS: Final = 1.0
_MAX_NEWS: Final = 65536


@dataclass(frozen=True)
class Change:
    """A transaction, or several that came as a snapshot."""

    database: str
    index: int
    """The index of its entry in raft's log; the file has this change, and perhaps later ones."""
    pages: tuple[int, ...]
    """The numbers of the pages that it wrote. Which tables or rows they are of is not known here."""
    n_pages: int
    """Pages in the database behind it."""
    whole: bool = False
    """Whether the database came as a snapshot: then `pages` is empty, and nobody tells what has changed."""


class Changes:
    """Changes from now on, in order, for `async for`. Close it if you stop early.

    It ends when the member is closed, and raises what has stopped the member where that was something else.
    """

    def __init__(self, publisher: "Publisher", limit: int) -> None:
        self._publisher = publisher
        self._limit = limit
        self._waiting: deque[Change] = deque()
        self._missed = 0
        self._index = 0
        self._ended = False
        self._cause: BaseException | None = None
        self._wanted = asyncio.Event()

    def __aiter__(self) -> "Changes":
        return self

    async def __anext__(self) -> Change:
        """Return the next change. Raises Overrun, once; then it has ended."""
        while not self._waiting and not self._missed and not self._ended:
            self._wanted.clear()
            await self._wanted.wait()
        if self._waiting:
            change = self._waiting.popleft()
            self._index = change.index
            return change
        if self._missed:
            missed, self._missed = self._missed, 0
            self.close()
            raise Overrun(self._index, missed)
        if self._cause is not None:
            cause, self._cause = self._cause, None
            raise cause
        raise StopAsyncIteration

    def close(self) -> None:
        """Want no more."""
        self._publisher.subscribers.discard(self)
        self._waiting.clear()
        self.end()

    def end(self, cause: BaseException | None = None) -> None:
        """Have the iteration end after the changes that wait, by raising the cause if there is one."""
        self._ended, self._cause = True, cause
        self._wanted.set()

    def put(self, change: Change) -> None:
        """Add a change; of those behind the limit only the number is kept."""
        if self._missed or len(self._waiting) >= self._limit:
            self.lose()
        else:
            self._waiting.append(change)
            self._wanted.set()

    def lose(self) -> None:
        """Count a change that there is no room for."""
        self._missed += 1
        self._wanted.set()


class Publisher:
    """The live files of one member. `open` and `close` it; `applied` returns the index that its machine is at."""

    def __init__(self, folder: str, fsm: DqliteFsm, applied: Callable[[], int], told: Callable[[str], object]) -> None:
        self.folder = folder
        self.files: dict[str, LiveFile] = {}
        self.subscribers: set[Changes] = set()
        self._fsm = fsm
        self._applied = applied
        self._told = told
        self._dirty: dict[str, set[int] | None] = {}
        """Pages to write, by databases; None for all that differ."""
        self._news: deque[Change] = deque()
        self._bound = 0
        self._position = -1
        self._handle: asyncio.Handle | None = None
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._limits: dict[str, int] = {}
        self._closed = False

    def open(self) -> None:
        """Begin, before the machine does. Raises OSError, Failure also where the files are another replica's."""
        os.makedirs(self.folder, 0o755, exist_ok=True)
        position = fs.open(fs.join(self.folder, POSITION), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            fs.flock(position)
        except BaseException as exc:
            fs.close(position)
            if isinstance(exc, BlockingIOError):
                raise Failure(RAFT_BUSY, f"live files in '{self.folder}' are another replica's") from None
            raise
        self._position = position
        self._bound = int.from_bytes(fs.pread(self._position, 8, 0), "little")
        self._fsm.applied_cb = self._transaction
        self._fsm.restored_cb = self._restored

    def subscribe(self, limit: int) -> Changes:
        """Return the changes from now on, none if this is closed."""
        made = Changes(self, limit)
        if self._closed:
            made.end()
        else:
            self.subscribers.add(made)
        return made

    def fail(self, cause: BaseException) -> None:
        """Have those who wait for changes hear why no more will come."""
        for subscriber in self.subscribers:
            subscriber.end(cause)
        self.subscribers.clear()

    async def close(self) -> None:
        """End; the files stay."""
        if self._position >= 0 and not self._closed:
            self._flush()
        self._closed = True
        for subscriber in self.subscribers:
            subscriber.end()
        self.subscribers.clear()
        if self._handle is not None:
            self._handle.cancel()
        await asyncio.gather(*self._tending.values(), return_exceptions=True)
        for one in self.files.values():
            one.close()
        self.files.clear()
        if self._position >= 0:
            fs.close(self._position)
            self._position = -1

    @property
    def behind(self) -> bool:
        """Whether the machine has not come to what is visible already."""
        return self._applied() < self._bound

    def release(self) -> None:
        """Make visible what the machine has, even where a later index was visible before."""
        self._bound = 0
        self._soon()

    # From the machine.

    def _transaction(self, frames: Frames) -> None:
        one = self._fsm.databases[frames.file]
        dirty = self._dirty.setdefault(frames.file, set() if frames.file in self.files else None)
        if dirty is not None:
            dirty.update(frames.numbers)
        self._date_snapshots()
        self._tell(Change(frames.file, self._applied() + 1, frames.numbers, one.n_pages))

    def _restored(self, names: Sequence[str]) -> None:
        for name in names:
            self._dirty[name] = None
            self._tell(Change(name, 0, (), self._fsm.databases[name].n_pages, True))

    def _date_snapshots(self) -> None:
        """Give what came as a snapshot its index, which raft says only behind that."""
        at = len(self._news)
        while at > 0 and self._news[at - 1].index == 0:  # all before these were dated when they came to stand there
            at -= 1
            self._news[at] = replace(self._news[at], index=self._applied())

    def _tell(self, change: Change) -> None:
        if len(self._news) >= _MAX_NEWS:  # nothing becomes visible, as the disk is full perhaps
            for subscriber in self.subscribers:
                subscriber.lose()
        elif self.subscribers and (change.whole or not self.behind):  # where a snapshot leads to is not known yet
            self._news.append(change)
        self._soon()

    def _soon(self, seconds: float = 0.0) -> None:
        if self._handle is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(seconds, self._flush) if seconds else loop.call_soon(self._flush)

    # Into the live files.

    def _flush(self) -> None:
        self._handle = None
        if self._closed or self.behind:
            return
        try:
            fs.pwrite(self._position, self._applied().to_bytes(8, "little"), 0)
            for name in list(self._dirty):
                if name not in self.files or not self.files[name].paused:
                    self._write(name)
        except (OSError, Failure, sqlite3.Error) as exc:
            self._told(f"live files in {self.folder} do not follow: {message_of(exc)}")
            self._soon(_RETRY_SECONDS)
        self._deliver()

    def _deliver(self) -> None:
        """Tell of what is visible, in order."""
        self._date_snapshots()
        while self._news and self._news[0].database not in self._dirty:
            change = self._news.popleft()
            if change.whole and change.index <= self._bound:
                continue  # it was visible before
            for subscriber in list(self.subscribers):
                subscriber.put(change)

    def _write(self, name: str) -> None:
        source = self._fsm.databases[name]
        file, numbers = self.files.get(name), self._dirty[name]
        if file is None:
            file = self.files[name] = self._open(name, source)
            numbers = None
        elif file.page_size != source.page_size:
            file.close()
            del self.files[name]
            self._write(name)
            return
        if numbers is None:
            file.replace(source.n_pages, source.page)
        else:
            file.commit(sorted(one for one in numbers if one <= source.n_pages), source.page, source.n_pages)
        del self._dirty[name]
        if file.last_frame >= self._limits.get(name, FRAMES) and name not in self._tending:
            task = self._tending[name] = asyncio.get_running_loop().create_task(self._tend(name, file))
            task.add_done_callback(lambda task: self._tended(name, task))

    def _open(self, name: str, source: PageFile) -> LiveFile:
        """Take an earlier process's file where that can be, so that its readers go on; else make one."""
        path = fs.join(self.folder, live.file_name(name))
        if os.path.exists(path):
            try:
                return LiveFile(path, source.page_size)
            except (Failure, sqlite3.DatabaseError) as exc:
                useless = exc.code == RAFT_CORRUPT if isinstance(exc, Failure) else type(exc) is sqlite3.DatabaseError
                if not useless:
                    raise
                self._told(f"{path} is made anew: {message_of(exc)}")
        LiveFile.make(path, (source.page(one) for one in range(1, source.n_pages + 1)))
        return LiveFile(path, source.page_size)

    async def _tend(self, name: str, file: LiveFile) -> None:
        """Move the log into the database; commits wait for the second half, which is short."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, file.checkpoint)
        file.paused = True
        try:
            await loop.run_in_executor(None, file.checkpoint)
            done = await loop.run_in_executor(None, file.restart)
        finally:
            file.paused = False
        self._limits[name] = FRAMES if done else file.last_frame + FRAMES

    def _tended(self, name: str, task: "asyncio.Task[None]") -> None:
        del self._tending[name]
        exc = None if task.cancelled() else task.exception()
        if exc is not None:
            self._limits[name] = self.files[name].last_frame + FRAMES if name in self.files else FRAMES
            self._told(f"the log of live file '{name}' is not moved into it: {exc}")
        self._soon()

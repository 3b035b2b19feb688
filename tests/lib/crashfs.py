"""A file system in memory that knows what a power cut may do to it.

`MemoryFs` takes the place of the system calls in `io_uv.fs` (`installed`). It behaves like a real one, and keeps a
journal of everything that changes it. `Replay` goes through such a journal event by event with two views of the
disk: what is durable, and what is under way: data in sectors of 512 bytes, sizes, attributes, names. `losses` yields
the images that a power cut at this moment may leave: any of what is under way may be missing, in any combination;
only sectors of one file keep the order of their own versions. Where there are too many combinations to try all, all
and none, each alone, each but one, every prefix, and random ones are tried.

Nothing is durable but what a sync covers: fsync and fdatasync a file's data, size and attributes; a write through an
O_DSYNC descriptor itself once it has returned; the sync of the directory all names. A rename is atomic. Data whose sync
failed may be lost for ever, although a later sync succeeds: the kernel takes its pages for clean.
"""

import contextlib
import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from io_uv import fs, kaio

DIR = "/crash"
SECTOR = 512
EXHAUSTIVE = 5
"""Up to this many things under way every combination is tried."""

Event: TypeAlias = tuple[Any, ...]


class Image:
    """Files as a power cut leaves them: name to (content, attributes)."""

    __slots__ = ("files", "key")

    def __init__(self, files: dict[str, tuple[bytes, tuple[tuple[str, bytes], ...]]]) -> None:
        self.files = files
        self.key = hash(tuple(sorted(files.items())))


class _File:
    """A file while it is in use."""

    __slots__ = ("attributes", "content", "ino")

    def __init__(self, ino: int, content: bytes = b"", attributes: dict[str, bytes] | None = None) -> None:
        self.ino = ino
        self.content = bytearray(content)
        self.attributes = attributes or {}


class _Handle:
    """An open descriptor. `file` is None for the directory."""

    __slots__ = ("dsync", "file", "offset")

    def __init__(self, file: _File | None, dsync: bool) -> None:
        self.file = file
        self.dsync = dsync
        self.offset = 0


_DIRECTORY = SimpleNamespace(st_mode=stat.S_IFDIR | 0o700, st_size=0, st_dev=1, st_ino=1)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class MemoryFs:
    """The directory DIR in memory; `journal` collects events.

    `fail(call, name)` may raise OSError instead of a call. Writes through O_DSYNC descriptors, that is of entries, go
    by the name "append"; "appended" and "written" fail after the data has arrived.
    """

    def __init__(self, image: Image | None = None) -> None:
        self.names: dict[str, _File] = {}
        self.handles: dict[int, _Handle] = {}
        self.journal: list[Event] = []
        self.fail: Callable[[str, str], None] = lambda call, name: None
        self._lock = threading.RLock()
        self._next_fd = 1000
        self._next_ino = 1
        self._next_write = 1
        for name, (content, attributes) in (image.files if image else {}).items():
            self.names[name] = _File(self._next_ino, content, dict(attributes))
            self._next_ino += 1
        self.base = image or Image({})

    def number_from(self, ino: int, write: int) -> None:
        """Number new files and writes from here on."""
        self._next_ino, self._next_write = ino, write

    def note(self, *event: Any) -> None:
        """Put an event of the test's own into the journal."""
        with self._lock:
            self.journal.append(("note", *event))

    def _name(self, path: str) -> str:
        assert path.startswith(DIR + "/"), path
        return path[len(DIR) + 1 :]

    def _file(self, fd: int) -> _File:
        file = self.handles[fd].file
        assert file is not None
        return file

    def _name_of(self, fd: int) -> str:
        file = self.handles[fd].file
        return DIR if file is None else next((name for name, other in self.names.items() if other is file), "?")

    # The system calls.

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        with self._lock:
            self.fail("open", os.path.basename(path))
            file = None
            if path != DIR:
                name = self._name(path)
                file = self.names.get(name)
                if file is None:
                    if not flags & os.O_CREAT:
                        raise _error(errno.ENOENT)
                    file = self.names[name] = _File(self._next_ino)
                    self._next_ino += 1
                    self.journal.append(("create", name, file.ino))
                elif flags & os.O_EXCL:
                    raise _error(errno.EEXIST)
            self._next_fd += 1
            self.handles[self._next_fd] = _Handle(file, bool(flags & os.O_DSYNC))
            return self._next_fd

    def close(self, fd: int) -> None:
        with self._lock:
            del self.handles[fd]

    def read(self, fd: int, n: int) -> bytes:
        with self._lock:
            self.fail("read", self._name_of(fd))
            handle, file = self.handles[fd], self._file(fd)
            data = bytes(file.content[handle.offset : handle.offset + n])
            handle.offset += len(data)
            return data

    def rewind(self, fd: int) -> None:
        self.handles[fd].offset = 0

    def write(self, fd: int, data: Any) -> int:
        handle = self.handles[fd]
        n = self.pwrite(fd, data, handle.offset)
        handle.offset += n
        return n

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        content = bytes(data)
        with self._lock:
            dsync = self.handles[fd].dsync
            self.fail("append" if dsync else "write", self._name_of(fd))
            file = self._file(fd)
            number = self._next_write
            self._next_write += 1
            self.journal.append(("write", file.ino, offset, content, number))
            if offset > len(file.content):
                file.content.extend(bytes(offset - len(file.content)))
            file.content[offset : offset + len(content)] = content
            try:
                self.fail("appended" if dsync else "written", self._name_of(fd))
            except OSError:
                self.journal.append(("write_failed", file.ino, number))
                raise
            if dsync:
                self.journal.append(("durable", file.ino, number))
            return len(content)

    def fsync(self, fd: int) -> None:
        with self._lock:
            file = self.handles[fd].file
            try:
                self.fail("fsync", self._name_of(fd))
            except OSError:
                if file is not None:
                    self.journal.append(("sync_failed", file.ino))
                raise
            self.journal.append(("syncdir",) if file is None else ("sync", file.ino))

    def ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            self.fail("ftruncate", self._name_of(fd))
            file = self._file(fd)
            file.content[size:] = bytes(max(0, size - len(file.content)))
            self.journal.append(("size", file.ino, size))

    def fallocate(self, fd: int, offset: int, size: int) -> None:
        with self._lock:
            self.fail("fallocate", self._name_of(fd))
            if offset + size > len(self._file(fd).content):
                self.ftruncate(fd, offset + size)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            source, target = self._name(old), self._name(new)
            self.fail("rename", source)
            if source not in self.names:
                raise _error(errno.ENOENT)
            self.names[target] = self.names.pop(source)
            self.journal.append(("rename", source, target))

    def unlink(self, path: str) -> None:
        with self._lock:
            name = self._name(path)
            self.fail("unlink", name)
            if name not in self.names:
                raise _error(errno.ENOENT)
            del self.names[name]
            self.journal.append(("unlink", name))

    def stat(self, path: str) -> Any:
        with self._lock:
            if path == DIR:
                return _DIRECTORY
            file = self.names.get(self._name(path))
            if file is None:
                raise _error(errno.ENOENT)
            return SimpleNamespace(st_mode=stat.S_IFREG | 0o600, st_size=len(file.content))

    def fstat(self, fd: int) -> Any:
        if self.handles[fd].file is None:
            return _DIRECTORY
        return SimpleNamespace(st_mode=stat.S_IFREG | 0o600, st_size=len(self._file(fd).content))

    def links(self, fd: int) -> int:
        self._file(fd)
        return 1

    def place(self, fd: int, path: str) -> Any:
        raise _error(errno.ENOSYS)

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            return list(self.names)

    def getxattr(self, fd: int, name: str) -> bytes:
        try:
            return self._file(fd).attributes[name]
        except KeyError:
            raise _error(errno.ENODATA) from None

    def setxattr(self, fd: int, name: str, value: bytes) -> None:
        with self._lock:
            file = self._file(fd)
            file.attributes[name] = value
            self.journal.append(("attribute", file.ino, name, value))

    def removexattr(self, fd: int, name: str) -> None:
        with self._lock:
            file = self._file(fd)
            del file.attributes[name]
            self.journal.append(("attribute", file.ino, name, None))

    def file_system(self, fd: int) -> int:
        return 0xEF53

    def set_direct(self, fd: int) -> None:
        return None

    def leave_direct(self, fd: int) -> bool:
        return False

    def flock(self, fd: int) -> None:
        return None

    def ofd_lock(self, fd: int, kind: int) -> None:
        return None

    def ofd_conflict(self, fd: int, kind: int) -> bool:
        return False


_CALLS: tuple[str, ...] = ("open", "close", "read", "rewind", "write", "pwrite", "fsync", "ftruncate", "fallocate")
_CALLS += ("rename", "unlink", "stat", "fstat", "links", "place", "listdir", "getxattr", "setxattr", "removexattr")
_CALLS += ("file_system", "set_direct", "leave_direct", "flock", "ofd_lock", "ofd_conflict")


class _NoContext:
    """Asynchronous writes are refused, so the writer's thread makes them."""

    def __init__(self, n: int) -> None:
        return None

    def submit(self, *args: Any, **options: Any) -> None:
        raise _error(errno.EINVAL)

    def close(self) -> None:
        return None


@contextlib.contextmanager
def installed(memory: MemoryFs) -> Iterator[MemoryFs]:
    """Let `memory` serve the calls of io_uv.fs."""
    with pytest.MonkeyPatch.context() as patch:
        for call in _CALLS:
            patch.setattr(fs, call, getattr(memory, call), raising=False)
        patch.setattr(fs, "fdatasync", memory.fsync)
        patch.setattr(kaio, "Context", _NoContext)
        yield memory


# ---- replay ----------------------------------------------------------------------------------------------------------


class _Inode:
    """A file in a replay: its durable data, and what is under way, oldest first."""

    __slots__ = ("attributes", "content", "limbo", "pending", "size")

    def __init__(self, content: bytes = b"", attributes: dict[str, bytes] | None = None) -> None:
        self.content = bytearray(content)
        self.attributes = attributes or {}
        # ("data", offset, bytes, number of the write) / ("size", n, number) / ("attribute", name, value)
        self.pending: list[Event] = []
        # Data whose write or sync failed: it may be on the disk or not, and no later sync changes that.
        self.limbo: list[Event] = []
        # The size as the running system sees it.
        self.size = len(content)

    @property
    def under_way(self) -> list[Event]:
        """All that may be lost."""
        return self.limbo + self.pending

    def write(self, offset: int, data: bytes, number: int) -> None:
        """Put a write under way, by sectors, leaving out those that change nothing."""
        if offset + len(data) > self.size:
            self.size = offset + len(data)
            self.pending.append(("size", self.size, number))
        at = 0
        while at < len(data):
            n = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
            piece, start = data[at : at + n], offset + at
            if self.content[start : start + n] != piece or self._is_under_way(start):
                self.pending.append(("data", start, piece, number))
            at += n

    def _is_under_way(self, start: int) -> bool:
        """Return whether another version of a sector is under way."""
        return any(op[0] == "size" or _is_in(op, {start // SECTOR}) for op in self.under_way)

    def make_durable(self, number: int) -> None:
        """A write has become durable: older versions of its sectors will not come back."""
        done = [op for op in self.pending if op[-1] == number and op[0] != "attribute"]
        self.pending = [op for op in self.pending if op not in done]
        self._do(done, [op for op in self.pending if op[0] == "data" and op[-1] > number])

    def sync(self) -> None:
        """Pending writes become durable."""
        self._do(self.pending, [])

    def _do(self, done: list[Event], newer: list[Event]) -> None:
        self.content, self.attributes = self.with_changes(done)
        sectors = {op[1] // SECTOR for op in done if op[0] == "data"}
        self.limbo = [op for op in self.limbo if not _is_in(op, sectors)]
        for end in [op[1] for op in done if op[0] == "size"]:
            # Bytes that were cut off do not come back.
            self.limbo = [(*op[:2], op[2][: end - op[1]], op[3]) for op in self.limbo if op[1] < end]
        self.pending = [op for op in self.pending if op not in done and (op in newer or not _is_in(op, sectors))]

    def fail(self, number: int | None) -> None:
        """A write, or the sync of all that is pending, has failed."""
        lost = [op for op in self.pending if op[0] == "data" and number in (None, op[-1])]
        self.limbo += lost
        self.pending = [op for op in self.pending if op not in lost]

    def with_changes(self, chosen: list[Event]) -> tuple[bytearray, dict[str, bytes]]:
        """Return content and attributes with some of what is under way done."""
        content, attributes = bytearray(self.content), dict(self.attributes)
        for op in chosen:
            if op[0] == "data":
                end = op[1] + len(op[2])
                if end > len(content):
                    content.extend(bytes(end - len(content)))
                content[op[1] : end] = op[2]
            elif op[0] == "size":
                content[op[1] :] = bytes(max(0, op[1] - len(content)))
            elif op[2] is None:
                attributes.pop(op[1], None)
            else:
                attributes[op[1]] = op[2]
        return content, attributes


def _is_in(op: Event, sectors: set[int]) -> bool:
    return op[0] == "data" and op[1] // SECTOR in sectors


def _choices(pending: list[Event], rng: random.Random, more: int) -> Iterator[list[Event]]:
    """Yield subsets of what is under way, in order: all of them if there are few, else a selection."""
    n = len(pending)
    if n <= EXHAUSTIVE:
        for bits in range(1 << n):
            yield [op for i, op in enumerate(pending) if bits >> i & 1]
        return
    for i in range(n + 1):
        yield pending[:i]
        yield pending[i:]
    for i in range(n):
        yield [pending[i]]
        yield pending[:i] + pending[i + 1 :]
    for _ in range(more):
        yield [op for op in pending if rng.random() < 0.5]


class Replay:
    """The disk as a journal goes on."""

    def __init__(self, base: Image) -> None:
        self.inodes: dict[int, _Inode] = {}
        self.names: dict[str, int] = {}
        self.pending_names: list[Event] = []
        for number, (name, (content, attributes)) in enumerate(base.files.items(), 1):
            self.inodes[number] = _Inode(content, dict(attributes))
            self.names[name] = number

    def step(self, event: Event) -> None:
        """Go on by one event."""
        kind = event[0]
        if kind == "create":
            self.inodes[event[2]] = _Inode()
            self.pending_names.append(event)
        elif kind in ("rename", "unlink"):
            self.pending_names.append(event)
        elif kind == "write":
            self.inodes[event[1]].write(*event[2:])
        elif kind == "durable":
            self.inodes[event[1]].make_durable(event[2])
        elif kind == "sync":
            self.inodes[event[1]].sync()
        elif kind == "size":
            self.inodes[event[1]].size = event[2]
            self.inodes[event[1]].pending.append(("size", event[2], 0))
        elif kind == "attribute":
            self.inodes[event[1]].pending.append(("attribute", event[2], event[3]))
        elif kind == "sync_failed":
            self.inodes[event[1]].fail(None)
        elif kind == "write_failed":
            self.inodes[event[1]].fail(event[2])
        elif kind == "syncdir":
            self.names = self._names(self.pending_names)
            self.pending_names = []

    def _names(self, chosen: list[Event]) -> dict[str, int]:
        """Return the directory with some of the changes under way done. A name keeps the inode that it was to get."""
        wanted = self._targets()
        names = dict(self.names)
        for event in chosen:
            if event[0] == "create":
                names[event[1]] = event[2]
            elif event[0] == "unlink":
                names.pop(event[1], None)
            else:
                names.pop(event[1], None)
                names[event[2]] = wanted[id(event)]
        return names

    def _targets(self) -> dict[int, int]:
        """Return for each rename under way the inode that it moves."""
        names = dict(self.names)
        targets = {}
        for event in self.pending_names:
            if event[0] == "create":
                names[event[1]] = event[2]
            elif event[0] == "unlink":
                names.pop(event[1], None)
            else:
                names[event[2]] = targets[id(event)] = names.pop(event[1])
        return targets

    def image(self, names: list[Event], changes: dict[int, list[Event]]) -> Image:
        """Return the image with these changes done and all others lost."""
        files = {}
        for name, ino in self._names(names).items():
            content, attributes = self.inodes[ino].with_changes(changes.get(ino, []))
            files[name] = (bytes(content), tuple(sorted(attributes.items())))
        return Image(files)

    def running(self) -> MemoryFs:
        """Return the file system as the next process finds it when only the process has died: nothing is lost."""
        memory = MemoryFs()
        for name, ino in self._names(self.pending_names).items():
            content, attributes = self.inodes[ino].with_changes(self.inodes[ino].under_way)
            memory.names[name] = _File(ino, bytes(content), attributes)
        memory.number_from(max(self.inodes, default=0) + 1, 1 << 32)
        return memory

    def losses(self, rng: random.Random, more: int) -> Iterator[Image]:
        """Yield the images that a power cut may leave now; `more` random combinations where there are many."""
        dirty = {ino: inode.under_way for ino, inode in self.inodes.items() if inode.under_way}
        everything = dict(dirty)
        names = list(_choices(self.pending_names, rng, more))
        for chosen in names:
            yield self.image(chosen, {})
            yield self.image(chosen, everything)
        for ino, pending in dirty.items():
            for change in _choices(pending, rng, more):
                yield self.image(self.pending_names, {**everything, ino: change})
                yield self.image(self.pending_names, {ino: change})
        if len(dirty) + bool(self.pending_names) > 1:
            for _ in range(more):
                changes = {ino: [op for op in pending if rng.random() < 0.5] for ino, pending in dirty.items()}
                yield self.image(rng.choice(names), changes)


def cuts(memory: MemoryFs, rng: random.Random) -> Iterator[Image]:
    """Yield what a power cut may leave behind each event of a journal, once: files that are set aside do not count."""
    replay, seen = Replay(memory.base), set()
    for event in memory.journal:
        if event[0] == "note":
            continue
        replay.step(event)
        for image in replay.losses(rng, 1):
            kept = {name: content for name, content in image.files.items() if not name.startswith("corrupt-")}
            key = hash(tuple(sorted(kept.items())))
            if key not in seen:
                seen.add(key)
                yield image

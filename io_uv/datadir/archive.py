"""A data directory as one file: for another machine, to keep, or to be read by other programs; and back.

Duty: `export` writes what a start of a stopped server would load, of our own directories, libraft's, cowsql's and
dqlite's, to a new file; `examine` compares that file's checksum; `import_` fills an empty directory from it, which then
loads to the same term, vote, snapshot and entries, in C as well. FORMATS.md beside this package has the form of the
file.

Happy path: `export("data/1", "1.export")`, and elsewhere `import_("1.export", "data/1")`. Neither keeps the data of a
snapshot, or more than a segment of the log, in memory; but the rehearsals of a start, before and afterwards, do.

Failure modes: Failure. RAFT_CORRUPT or RAFT_MALFORMED for a file that is damaged, cut off or something else, which is
found out before anything is written; RAFT_CANTBOOTSTRAP for a directory with something in it; from an export the code
with which a start is refused. An import that fails removes what it has written. One that is killed leaves a directory
that no start takes for a shorter log: the segments come newest first, and the files of the layer above last.
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from io_uv import fs, listing, marker, metadata, segment, snapshot_file
from io_uv.datadir import newdir
from io_uv.datadir.content import Entry, bytes_of, entries
from io_uv.datadir.newfile import create
from io_uv.datadir.occupancy import hold
from io_uv.datadir.progress import Progress, Tally
from io_uv.datadir.rehearsal import Rehearsal, copy_of, start
from io_uv.failure import Failure, failure
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.errors import RAFT_CANTBOOTSTRAP, RAFT_CORRUPT, RAFT_IOERR, RAFT_MALFORMED
from pyraft.types import (
    RAFT_BARRIER,
    RAFT_CHANGE,
    RAFT_COMMAND,
    RaftConfiguration,
    RaftServer,
    RaftSnapshot,
    no_entries,
)

FORMAT: Final = "pyraft directory 1"

_TYPES: Final = {RAFT_COMMAND: "command", RAFT_BARRIER: "barrier", RAFT_CHANGE: "change"}
_NUMBERS: Final = {name: number for number, name in _TYPES.items()}
_PIECE: Final = 3 << 18
"""Bytes of a snapshot in a line: a multiple of three, so that the lines' base64 can be put together as it is."""
_MAX_HEAD: Final = 64 << 20
_SEGMENT_BYTES: Final = 4 << 20
_SEGMENT_ENTRIES: Final = 65_536
"""How much of the log an import puts into one segment."""
_CHUNK: Final = 1 << 20
_TAIL: Final = '{{"sha256":"{}"}}\n'
_TAIL_SIZE: Final = len(_TAIL.format("0" * 64))
_MAY_BE_THERE: Final = ("lost+found",)


@dataclass(frozen=True)
class Archived:
    """The snapshot of an exported directory. `size` is that of the data as it is stored, mostly an LZ4 frame."""

    index: int
    term: int
    taken_at: int
    """In ms since the epoch."""
    configuration_index: int
    configuration: list[list[Any]]
    """[id, address, role] of each server; roles are those of raft.h."""
    size: int


@dataclass(frozen=True)
class Archive:
    """The first line of an exported directory: what it loads to."""

    term: int
    voted_for: int
    first_index: int
    """Index of the first entry in the log; it is last_index + 1 without any."""
    last_index: int
    last_term: int
    snapshot: Archived | None = None
    marks: dict[str, str] = field(default_factory=dict)
    """Files of `io_uv.marker` that stand, with their texts."""
    files: dict[str, str] = field(default_factory=dict)
    """Files of the layer above that came along, as base64."""
    format: str = FORMAT

    @property
    def entries(self) -> int:
        """How many entries the log has."""
        return max(0, self.last_index - self.first_index + 1)


# ---- export ----------------------------------------------------------------------------------------------------------


def export(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    files: Sequence[str] = (),
    scratch: str | None = None,
    progress: Progress | None = None,
) -> Archive:
    """Write what a start would load from the directory `path`, whose lock the caller holds, to the new file `file`.

    `files` are names of further small files that come along if they are there. `scratch` is where the copy is made that
    the loader works on. `progress` is told of the bytes that were copied, and written. Raises Failure: a start's code
    if it would be refused; RAFT_MALFORMED without a term in the directory; RAFT_IOERR or RAFT_NOSPACE of the disk.
    """
    dir = os.fspath(path)
    with copy_of(dir, scratch, progress, files) as (copy, doubt):
        found = start(copy, path=dir)
        if not found.starts:
            raise Failure(found.code, f"{dir}: a start is refused, so there is nothing to export: {found.problem}")
        if doubt:
            raise Failure(RAFT_IOERR, f"{doubt}. Let the copy be made on the file system of the directory")
        if not found.term:
            raise Failure(RAFT_MALFORMED, f"{dir}: there is no server's term in it, so there is nothing to export")
        info = _snapshot_of(copy, found)
        head = _head(copy, found, info, [name for name in files if fs.size_of(copy, name) is not None])
        with _writing(file), create(file) as out:
            writer = _Writer(out)
            writer.line(_as_facts(head))
            tally = Tally(progress, "writing", bytes_of(copy, fs.list_dir(copy)))
            for piece in _stored(copy, info):
                writer.line({"snapshot": _text(piece)})
                tally.add(len(piece))
            for entry in entries(copy, head.first_index, head.last_index) if head.entries else ():
                writer.line(_entry_facts(entry))
                tally.add(len(entry.data))
            writer.end()
    return head


def _snapshot_of(dir: str, found: Rehearsal) -> snapshot_file.SnapshotInfo | None:
    """Return the snapshot that a start restores."""
    if found.snapshot is None:
        return None
    infos = [one for one in listing.list(dir)[0] if (one.index, one.term) == found.snapshot]
    return infos[-1]


def _head(dir: str, found: Rehearsal, info: snapshot_file.SnapshotInfo | None, files: Sequence[str]) -> Archive:
    snapshot = None
    if info is not None:
        read = snapshot_file.read_meta(dir, info)
        servers = [[one.id, one.address, one.role] for one in read.configuration.servers]
        size = fs.size_of(dir, info.data_name) or 0
        snapshot = Archived(info.index, info.term, info.timestamp, read.configuration_index, servers, size)
    marks = {name: fs.read_file(dir, name).decode("utf-8", "replace") for name in marker.NAMES if _there(dir, name)}
    return Archive(
        found.term,
        found.voted_for,
        min(found.first_index, found.last_index + 1),
        found.last_index,
        found.last_term,
        snapshot,
        marks,
        {name: _text(fs.read_file(dir, name)) for name in files},
    )


def _there(dir: str, name: str) -> bool:
    return fs.size_of(dir, name) is not None


def _stored(dir: str, info: snapshot_file.SnapshotInfo | None) -> Iterator[bytes]:
    """Yield the data file of a snapshot as it is, in pieces; nothing without one."""
    if info is None:
        return
    fd = fs.open_file(dir, info.data_name, os.O_RDONLY)
    try:
        left = fs.fstat(fd).st_size
        while left:
            piece = fs.read_exactly(fd, min(left, _PIECE))
            left -= len(piece)
            yield piece
    finally:
        fs.close(fd)


def _as_facts(head: Archive) -> dict[str, Any]:
    snapshot = None if head.snapshot is None else vars(head.snapshot)
    return {"format": head.format, **vars(head), "snapshot": snapshot}


def _entry_facts(entry: Entry) -> dict[str, Any]:
    return {"index": entry.index, "term": entry.term, "type": _TYPES[entry.type], "data": _text(entry.data)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class _Writer:
    """Writes lines, and keeps their checksum."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()

    def line(self, facts: dict[str, Any]) -> None:
        """Write a line."""
        data = json.dumps(facts, separators=(",", ":")).encode("ascii") + b"\n"
        self._digest.update(data)
        self._out.write(data)

    def end(self) -> None:
        """Write the last line."""
        self._out.write(_TAIL.format(self._digest.hexdigest()).encode("ascii"))


@contextmanager
def _writing(file: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise failure(f"write {os.fspath(file)}", exc) from None


# ---- reading ---------------------------------------------------------------------------------------------------------


def examine(file: str | os.PathLike[str], progress: Progress | None = None) -> Archive:
    """Return the first line of an exported directory whose checksum and content are right.

    `progress` is told of the bytes that were read. Raises Failure: RAFT_MALFORMED for a file that no export writes, or
    that a later version has written; RAFT_CORRUPT for one that is damaged or cut off; RAFT_IOERR if it cannot be read.
    """
    with _reading(file) as found:
        return _examine(found, os.fspath(file), progress).head


@dataclass
class _Plan:
    """A file that was looked at: where the parts of it begin."""

    head: Archive
    data_at: int
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    """For each segment to write: the offset of its first line, its first index, and its number of entries."""


@contextmanager
def _reading(file: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        with Path(file).open("rb") as found:
            yield found
    except OSError as exc:
        raise failure(f"read {os.fspath(file)}", exc) from None


def _examine(file: BinaryIO, name: str, progress: Progress | None) -> _Plan:
    """Compare the checksum, then look at each line."""
    try:
        facts = json.loads(file.readline(_MAX_HEAD))
        if type(facts) is not dict or not str(facts.get("format")).startswith("pyraft directory "):
            raise ValueError
    except (ValueError, RecursionError):
        raise Failure(RAFT_MALFORMED, f"{name} is not an exported directory, or its beginning is damaged") from None
    if facts["format"] != FORMAT:
        raise Failure(RAFT_MALFORMED, f"{name} is of format {facts['format']!r:.40}, written by a later version")
    data_at = file.tell()
    size = fs.fstat(file.fileno()).st_size
    _compare(file, name, data_at, Tally(progress, "comparing", size))
    file.seek(data_at)
    try:
        plan = _Plan(_head_of(facts), data_at)
        _walk(file, plan, Tally(progress, "reading", size))
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Failure(RAFT_MALFORMED, f"{name} is not what an export writes: {exc}") from None
    return plan


def _compare(file: BinaryIO, name: str, least: int, tally: Tally) -> None:
    """Compare the checksum of a file; one that is too short for it is cut off."""
    left = fs.fstat(file.fileno()).st_size - _TAIL_SIZE
    if left < least:
        raise Failure(RAFT_CORRUPT, f"{name} is cut off")
    digest = hashlib.sha256()
    file.seek(0)
    while left:
        piece = file.read(min(left, _CHUNK))
        if not piece:
            raise Failure(RAFT_CORRUPT, f"{name} is cut off")
        digest.update(piece)
        left -= len(piece)
        tally.add(len(piece))
    if file.read() != _TAIL.format(digest.hexdigest()).encode("ascii"):
        raise Failure(RAFT_CORRUPT, f"{name} is damaged or cut off: its checksum is not that of its content")


def _head_of(facts: dict[str, Any]) -> Archive:
    numbers = [facts[name] for name in ("term", "voted_for", "first_index", "last_index", "last_term")]
    snapshot = None
    if facts["snapshot"] is not None:
        snapshot = Archived(**facts["snapshot"])
        numbers += [snapshot.index, snapshot.term, snapshot.taken_at, snapshot.configuration_index, snapshot.size]
        _configuration(snapshot)
    if not all(type(one) is int and 0 <= one < 1 << 64 for one in numbers):
        raise ValueError("a number is of another type, or out of range")
    for texts in (facts["marks"], facts["files"]):
        if type(texts) is not dict or not all(type(text) is str for text in texts.values()):
            raise ValueError("a file without a text")
    for name, text in facts["files"].items():
        if os.path.basename(name) != name or name in ("", ".", "..") or not _is_foreign(name):
            raise ValueError(f"a file of the name {name!r:.80}")
        _data(text)
    if set(facts["marks"]) - set(marker.NAMES):
        raise ValueError("a mark of a name that nobody knows")
    head = Archive(**{**facts, "snapshot": snapshot})
    behind = 0 if snapshot is None else snapshot.index
    if head.first_index < 1 or head.first_index > behind + 1 or head.last_index < max(behind, head.first_index - 1):
        raise ValueError("the log does not go on from the snapshot")
    return head


def _is_foreign(name: str) -> bool:
    """Return whether the library gives no meaning to a name."""
    ours = segment.parse_name(name) or snapshot_file.parse_name(name) or name in marker.NAMES
    return not ours and not name.startswith(("metadata", "open-", fs.TMP_PREFIX))


def _configuration(snapshot: Archived) -> RaftConfiguration:
    found = RaftConfiguration()
    found.servers = [RaftServer(id, address, role) for id, address, role in snapshot.configuration]
    if configuration.check(found) != 0:
        raise ValueError("a configuration that raft_bootstrap would not take")
    return found


def _walk(file: BinaryIO, plan: _Plan, tally: Tally) -> None:
    """Look at each line between the first and the last, and note where segments begin."""
    head = plan.head
    size = 0
    for piece in _pieces(file, head):
        size += len(piece)
        tally.to(file.tell())
    if head.snapshot is not None and size != head.snapshot.size:
        raise ValueError(f"the snapshot has {size} bytes instead of {head.snapshot.size}")
    index, used, term = head.first_index, 0, 1
    begin, n = file.tell(), 0
    for entry in _entries(file, head):
        if entry.index != index or not term <= entry.term <= head.term:
            raise ValueError(f"entry {entry.index} of term {entry.term} follows entry {index - 1} of term {term}")
        n, used, index, term = n + 1, used + len(entry.data), index + 1, entry.term
        if used >= _SEGMENT_BYTES or n >= _SEGMENT_ENTRIES:
            plan.segments.append((begin, index - n, n))
            begin, n, used = file.tell(), 0, 0
            tally.to(begin)
    if n:
        plan.segments.append((begin, index - n, n))
    tally.to(file.tell())
    if file.tell() != fs.fstat(file.fileno()).st_size - _TAIL_SIZE:
        raise ValueError("there is more in it than its first line says")


def _pieces(file: BinaryIO, head: Archive) -> Iterator[bytes]:
    """Yield the data of the snapshot from the lines that come."""
    left = 0 if head.snapshot is None else head.snapshot.size
    while left > 0:
        piece = _data(json.loads(file.readline())["snapshot"])
        left -= len(piece)
        yield piece


def _entries(file: BinaryIO, head: Archive, most: int = 1 << 64) -> Iterator[Entry]:
    """Yield entries from the lines that come, up to the last line."""
    for _ in range(min(head.entries, most)):
        facts = json.loads(file.readline())
        if type(facts["index"]) is not int or type(facts["term"]) is not int:
            raise ValueError("an entry without an index or a term")
        yield Entry(facts["index"], facts["term"], _NUMBERS[facts["type"]], _data(facts["data"]), "")


def _data(text: Any) -> bytes:
    if type(text) is not str:
        raise ValueError("data that is not a text")
    try:
        found = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("data that is not base64") from None
    # Before Python 3.11 padding alone was taken, and no version minds bits behind the last byte.
    if base64.b64encode(found).decode() != text:
        raise ValueError("data that is not base64")
    return found


# ---- import ----------------------------------------------------------------------------------------------------------


def import_(file: str | os.PathLike[str], path: str | os.PathLike[str], progress: Progress | None = None) -> Archive:
    """Make the empty directory `path` one that loads to what the exported directory `file` has; durable on return.

    It is made if it is not there. The caller need not hold its lock. `progress` is told of the bytes that were read,
    and of those that were used. Raises Failure: what `examine` raises; RAFT_CANTBOOTSTRAP if the directory is not
    empty; a start's code if it would refuse what is in the file; RAFT_IOERR or RAFT_NOSPACE of the disk.
    """
    with _reading(file) as found:
        plan = _examine(found, os.fspath(file), progress)
        dir = os.fspath(path)
        with newdir.making(dir, 0o700), hold(dir):
            before = fs.list_dir(dir)
            if set(before) - set(_MAY_BE_THERE):
                raise Failure(RAFT_CANTBOOTSTRAP, f"directory '{dir}' is not empty: take a new one")
            try:
                _write(found, plan, dir, Tally(progress, "writing", fs.fstat(found.fileno()).st_size))
            except BaseException:
                _undo(dir, before)
                raise
    return plan.head


def _write(file: BinaryIO, plan: _Plan, dir: str, tally: Tally) -> None:
    head = plan.head
    for name, text in head.marks.items():
        fs.make_file(dir, name, [text.encode("utf-8", "surrogateescape")])
    metadata.store(dir, Metadata(1, head.term, head.voted_for))
    for offset, first, n in reversed(plan.segments):
        file.seek(offset)
        batch = no_entries()
        for entry in _entries(file, head, n):
            batch.terms.append(entry.term)
            batch.types.append(entry.type)
            batch.bufs.append(entry.data)
        segment.write_closed(dir, first, [batch])
        tally.add(file.tell() - offset)
    if head.snapshot is not None:
        file.seek(plan.data_at)
        _write_snapshot(dir, head.snapshot, _pieces(file, head))
        tally.add(file.tell() - plan.data_at)
    _compare_start(dir, head)
    for name, text in head.files.items():
        fs.make_file(dir, name, [_data(text)])


def _write_snapshot(dir: str, head: Archived, pieces: Iterator[bytes]) -> None:
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term, snapshot.configuration_index = head.index, head.term, head.configuration_index
    snapshot.configuration = _configuration(head)
    snapshot_file.write_pieces(dir, snapshot, pieces, head.taken_at)


def _compare_start(dir: str, head: Archive) -> None:
    """Have a start look at what was written: it is to load what the file says, and to change nothing."""
    found = start(dir)
    if not found.starts:
        raise Failure(found.code, f"a start on what is in the file would be refused: {found.problem}")
    loaded = (found.term, found.voted_for, found.first_index, found.last_index, found.last_term)
    wanted = (head.term, head.voted_for, head.first_index, head.last_index, head.last_term)
    if loaded != wanted or found.changes:
        raise Failure(RAFT_MALFORMED, f"a start loads {loaded} instead of {wanted} (term, vote, first, last, its term)")


def _undo(dir: str, before: Sequence[str]) -> None:
    """Remove what an import has written, as far as that goes."""
    for name in sorted(set(fs.list_dir(dir)) - set(before), key=_last_to_stay):
        try:
            Path(dir, name).unlink(missing_ok=True)
        except OSError:
            continue


def _last_to_stay(name: str) -> tuple[bool, bool, str]:
    """Return the place of a file in an order in which a kill leaves nothing that loads as a shorter log."""
    return snapshot_file.parse_name(name) is None, segment.parse_name(name) is None, name

"""The content of a data directory: read, judged, and left as it is.

Duty: `read` looks at every file of a directory and returns `Contents`: the two metadata files, the snapshots, the
segments, the marks that the library leaves, and what else lies there, each with what is wrong with it. Nothing is
written, removed or repaired, whatever state the directory is in. `entries` walks through the log.

Happy path: the caller holds the lock of the directory (`occupancy.hold`), so that nobody writes meanwhile. Checksums
are compared as the loader compares them, by the same functions. One file is in memory at a time.

Failure modes: damage is part of the answer. A directory that cannot be listed raises Failure, and so does `entries` at
the first entry that cannot be read, after all those before it. A file that cannot be read for lack of permission, or
for a disk that refuses, has that text as its problem.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from io_uv import directory, disk, fs, marker, metadata, open_segment, segment, snapshot_file, sums
from io_uv.datadir.progress import Progress, Tally
from io_uv.failure import Failure, Unknown
from io_uv.open_segment import DAMAGED, INTACT, TORN, UNWRITTEN, OpenContent
from pyraft import configuration
from pyraft.errors import RAFT_CORRUPT
from pyraft.types import RAFT_CHANGE, EntryBatch, RaftConfiguration, no_entries

VERDICTS: Final = {UNWRITTEN: "never written", INTACT: "intact", TORN: "torn by a crash", DAMAGED: "damaged"}


@dataclass
class MetadataFile:
    """`metadata1` or `metadata2`: version, term and vote (0: none), or what is wrong with it."""

    name: str
    present: bool
    version: int = 0
    term: int = 0
    voted_for: int = 0
    problem: str = ""
    known_version: int = 0
    """The version that its sidecar says it had, 0 without a sidecar."""
    unknown: bool = False
    """It is of a kind that this version does not know, perhaps of a later one: that is not damage."""
    barred: bool = False
    """It keeps every server from a start until the ids of the servers are changed (`renumbering`)."""


@dataclass
class SnapshotFile:
    """A snapshot: the data file and its .meta. `taken_at` is in ms since the epoch, `size` in bytes on disk."""

    name: str
    term: int
    index: int
    taken_at: int
    size: int = 0
    configuration_index: int = 0
    configuration: RaftConfiguration | None = None
    problem: str = ""
    unknown: bool = False
    """It is of a kind that this version does not know, perhaps of a later one: that is not damage."""


@dataclass
class SegmentFile:
    """A segment: `first` and `last` index are those of the name if it is closed, else those its entries get."""

    name: str
    is_open: bool
    first: int = 0
    last: int = 0
    size: int = 0
    entries: int = 0
    """Entries that can be read, from the first on."""
    first_term: int = 0
    last_term: int = 0
    verdict: int = INTACT
    problem: str = ""
    unknown: bool = False
    """It is of a kind that this version does not know, perhaps of a later one: that is not damage."""


@dataclass
class Contents:
    """A data directory as it is."""

    directory: str
    metadata: list[MetadataFile] = field(default_factory=list)
    snapshots: list[SnapshotFile] = field(default_factory=list)
    """Oldest first."""
    segments: list[SegmentFile] = field(default_factory=list)
    """Closed ones by index, then open ones by counter."""
    marks: dict[str, str] = field(default_factory=dict)
    """Files of `io_uv.marker` that stand, with their texts."""
    set_aside: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    """Remains of an interrupted operation; the next start removes it."""
    strange: dict[str, str] = field(default_factory=dict)
    """Names that mean something here and are not files, with what they are: a symbolic link, a FIFO. None is opened."""
    foreign: list[str] = field(default_factory=list)
    """Names that the library does not look at."""
    configuration: RaftConfiguration | None = None
    """The newest configuration in the log or the newest snapshot, committed or not."""
    configuration_index: int = 0

    @property
    def begun(self) -> bool:
        """Whether a server has ever left anything here."""
        present = any(copy.present for copy in self.metadata)
        files = (self.snapshots, self.segments, self.marks, self.set_aside, self.left_over, self.strange)
        return present or any(files)

    @property
    def term(self) -> int:
        """The current term by the metadata file that counts, 0 without any."""
        return max(((copy.version, copy.term) for copy in self.metadata if not copy.problem), default=(0, 0))[1]

    @property
    def voted_for(self) -> int:
        """The server that got the vote of this term, 0 for none."""
        return max(((copy.version, copy.voted_for) for copy in self.metadata if not copy.problem), default=(0, 0))[1]

    @property
    def first_index(self) -> int:
        """Index of the first entry of the log, 0 if it has none."""
        return next((one.first for one in self.segments if one.entries), 0)

    @property
    def last_index(self) -> int:
        """Index of the last entry, of the log or within the newest snapshot, 0 if there is neither."""
        log = max((one.first + one.entries - 1 for one in self.segments if one.entries), default=0)
        return max(log, self.snapshots[-1].index if self.snapshots else 0)

    @property
    def last_term(self) -> int:
        """Term of that entry."""
        at_end = [(one.first + one.entries - 1, one.last_term) for one in self.segments if one.entries]
        at_end += [(one.index, one.term) for one in self.snapshots[-1:]]
        return max(at_end, default=(0, 0))[1]

    @property
    def size(self) -> int:
        """Bytes that the log and the snapshots take."""
        return sum(one.size for one in self.segments) + sum(one.size for one in self.snapshots)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the ranges of indexes between two closed segments, or a snapshot and one, that are nowhere."""
        found = []
        at = 0
        for one in self.segments:
            if one.is_open or not one.last:
                continue
            covered = max((s.index for s in self.snapshots if s.index < one.first), default=0)
            if one.first > max(at, covered) + 1:
                found.append((max(at, covered) + 1, one.first - 1))
            at = max(at, one.last)
        return found


def read(path: str | os.PathLike[str], progress: Progress | None = None) -> Contents:
    """Return what is in the data directory `path`. Raises Failure if it is something else, or cannot be listed.

    `progress` is told of the bytes that were read.
    """
    dir = os.fspath(path)
    directory.check_dir(dir)
    found = Contents(dir)
    names = sorted(fs.list_dir(dir))
    found.strange = {name: kind for name in names if (kind := disk.strange_kind(dir, name))}
    names = [name for name in names if name not in found.strange]
    tally = Tally(progress, "reading", bytes_of(dir, names) if progress is not None else 0)
    _read_metadata(found)
    _read_snapshots(found, names, tally)
    _read_segments(found, names, tally)
    _sort_the_rest(found, names)
    return found


def bytes_of(dir: str, names: Iterable[str]) -> int:
    """Return how many bytes the segments and snapshots among `names` have."""
    means = [name for name in names if segment.parse_name(name) or snapshot_file.parse_name(name)]
    return sum(fs.size_of(dir, name) or 0 for name in means)


def _read_metadata(found: Contents) -> None:
    for copy in metadata.read_copies(found.directory, found.strange):
        one = MetadataFile(copy.name, copy.present, known_version=copy.known)
        if copy.metadata is not None:
            one.version, one.term, one.voted_for = copy.metadata.version, copy.metadata.term, copy.metadata.voted_for
        if copy.problem is not None:
            one.problem, one.unknown = copy.problem.message, isinstance(copy.problem, Unknown)
            one.barred = isinstance(copy.problem, metadata.Barred)
        found.metadata.append(one)
    good = [one for one in found.metadata if one.version and not one.problem]
    if len(good) == 2 and good[0].version == good[1].version:
        for one in good:
            one.problem = f"metadata1 and metadata2 are both at version {one.version}"


def _read_snapshots(found: Contents, names: Sequence[str], tally: Tally) -> None:
    present = set(names)
    infos = []
    for name in names:
        parsed = snapshot_file.parse_name(name)
        if parsed is not None and parsed[1] == snapshot_file.META_SUFFIX and parsed[0].data_name in present:
            infos.append(parsed[0])
    snapshot_file.sort(infos)
    for info in infos:
        one = SnapshotFile(info.data_name, info.term, info.index, info.timestamp)
        found.snapshots.append(one)
        try:
            one.size = fs.size_of(found.directory, info.data_name) or 0
            if one.size == 0:
                raise Failure(RAFT_CORRUPT, f"{info.data_name} is empty, and does not count")
            content = snapshot_file.read(found.directory, info)
        except Failure as exc:
            one.problem, one.unknown = exc.message, isinstance(exc, Unknown)
            continue
        finally:
            tally.add(one.size)
        one.configuration_index, one.configuration = content.configuration_index, content.configuration
    good = [one for one in found.snapshots if not one.problem]
    if good:
        found.configuration_index, found.configuration = good[-1].configuration_index, good[-1].configuration


def _read_segments(found: Contents, names: Sequence[str], tally: Tally) -> None:
    infos = [info for info in map(segment.parse_name, names) if info is not None]
    segment.sort(infos)
    closed_end = segment.last_index(infos, found.snapshots[-1].index if found.snapshots else 0)
    next_index = closed_end + 1
    judged = _judge_open(found.directory, infos)
    for info in infos:
        one = SegmentFile(info.filename, info.is_open, info.first_index, info.last_index)
        found.segments.append(one)
        entries = no_entries()
        try:
            one.size = fs.size_of(found.directory, info.filename) or 0
            if info.is_open:
                one.first = next_index
                entries = _judged(one, judged[info.filename])
                next_index += len(entries)
                one.last = next_index - 1
            else:
                entries, problem = read_closed(found.directory, info)
                if problem is not None:
                    one.verdict, one.problem, one.unknown = DAMAGED, problem.message, isinstance(problem, Unknown)
        except Failure as exc:
            one.verdict, one.problem = DAMAGED, exc.message
        tally.add(one.size)
        _take_note(found, one, entries)


def _judge_open(dir: str, infos: Sequence[segment.SegmentInfo]) -> dict[str, OpenContent | Failure]:
    """Return what the open segments hold, or why that cannot be read, by name; tears as a start sees them."""
    found: dict[str, OpenContent | Failure] = {}
    for info in infos:
        if info.is_open:
            try:
                found[info.filename] = open_segment.read(dir, info.filename)
            except Failure as exc:
                found[info.filename] = exc
    open_segment.settle([one for one in found.values() if isinstance(one, OpenContent)])
    return found


def _judged(one: SegmentFile, content: OpenContent | Failure) -> EntryBatch:
    if isinstance(content, Failure):
        raise content
    one.verdict = content.verdict
    if content.problem is not None:
        one.problem, one.unknown = content.problem.message, isinstance(content.problem, Unknown)
    return content.entries


def read_closed(dir: str, info: segment.SegmentInfo) -> tuple[EntryBatch, Failure | None]:
    """Return the good entries of a closed segment, and what is wrong behind them or with their number."""
    entries = no_entries()
    try:
        segment.read_closed(dir, info, entries)
    except Failure as exc:
        return entries[: info.last_index - info.first_index + 1], exc
    return entries, None


def _take_note(found: Contents, one: SegmentFile, entries: EntryBatch) -> None:
    """Note how far the entries of a segment go, and the last configuration among them."""
    one.entries = len(entries)
    if not entries:
        return
    one.first_term, one.last_term = entries.terms[0], entries.terms[-1]
    for at in range(len(entries) - 1, -1, -1):
        index = one.first + at
        if index <= found.configuration_index:
            return
        if entries.types[at] == RAFT_CHANGE:
            rv, conf, _ = configuration.decode(entries.bufs[at])
            if rv == 0:
                found.configuration_index, found.configuration = index, conf
                return


def _sort_the_rest(found: Contents, names: Sequence[str]) -> None:
    """Say of every other name what it is."""
    present = set(names)
    known = {one.name for one in found.metadata} | {one.name for one in found.segments}
    known |= {one.name for one in found.snapshots}
    known |= {one.name + snapshot_file.META_SUFFIX for one in found.snapshots}
    for name in names:
        if name in known:
            continue
        if name in marker.NAMES:
            found.marks[name] = _text_of(found.directory, name)
        elif name.startswith(disk.SET_ASIDE_PREFIX):
            found.set_aside.append(name)
        elif _is_sum_of(name, known):
            continue
        elif name.startswith(fs.TMP_PREFIX) or snapshot_file.parse_name(name) is not None:
            found.left_over.append(name)
        elif not _is_sum_of(name, present):
            found.foreign.append(name)


def _is_sum_of(name: str, files: set[str]) -> bool:
    return name.endswith(sums.SUFFIX) and name[: -len(sums.SUFFIX)] in files


def _text_of(dir: str, name: str) -> str:
    try:
        return fs.read_file(dir, name).decode("utf-8", "replace")
    except Failure as exc:
        return exc.message


# ---- the log ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An entry of the log, as it is on disk."""

    index: int
    term: int
    type: int
    """RAFT_COMMAND, RAFT_BARRIER or RAFT_CHANGE."""
    data: bytes
    segment: str


def entries(path: str | os.PathLike[str], first: int = 1, last: int = 1 << 63) -> Iterator[Entry]:
    """Yield the entries with indexes from `first` to `last`, those that are there, in order.

    A range that no segment has is passed over: the indexes tell. Raises Failure at the first damage, with the file and
    the byte, after the good entries in front of it.
    """
    dir = os.fspath(path)
    names = [name for name in fs.list_dir(dir) if not disk.strange_kind(dir, name)]
    found = [info for info in map(segment.parse_name, names) if info is not None]
    segment.sort(found)
    snapshots = [parsed[0].index for parsed in map(snapshot_file.parse_name, names) if parsed is not None]
    next_index = segment.last_index(found, max(snapshots, default=0)) + 1
    judged = _judge_open(dir, found)
    for info in found:
        if info.is_open:
            content = judged[info.filename]
            if isinstance(content, Failure):
                raise content
            batch, start = content.entries, next_index
            problem = content.problem if content.verdict == DAMAGED else None
            next_index += len(batch)
        elif info.last_index < first or info.first_index > last:
            continue
        else:
            start = info.first_index
            batch, problem = read_closed(dir, info)
        for at, (term, type, buf) in enumerate(zip(batch.terms, batch.types, batch.bufs, strict=True)):
            if first <= start + at <= last:
                yield Entry(start + at, term, type, bytes(buf), info.filename)
        if problem is not None and start + len(batch) <= last:
            raise problem.wrap(info.filename)

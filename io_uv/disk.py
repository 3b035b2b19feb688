"""A data directory as a whole: loading it, bootstrapping it, recovering it.

Duty: `load` turns the files into (snapshot, start index, entries) and leaves a directory with closed segments only;
`bootstrap` and `recover` write a configuration into it; `clean_up` removes left-overs. They keep no state of their own.

Happy path of load: the newest snapshot; of the closed segments the longest run without a gap that ends with the last
one; then the open segments that a crash left, each cut behind its last good batch and closed. Remains of a crash are
put in order on the way: open segments that were never written (B39), the two halves of a truncate (B18), the rest of
the log that an installed snapshot replaced. On return all that was read is durable.

Failure modes: RAFT_CORRUPT, RAFT_MALFORMED and RAFT_IOERR, with a text that names the file and where in it. A bad
newest snapshot is passed over if an older one and the log hold everything (B19). With `auto_recovery` a damaged
segment at the end of the log is set aside and the load repeated, once: first a marker is made durable (`marker`),
because entries that this server acknowledged may go with it. The logger `io_uv` hears of every file that is set aside.
A file that cannot be read, or is of a format or has an entry of a type that is not known here (failure.Unknown), does
not count as damaged: the error stops the start, and nothing is set aside for it.
"""

import logging
import os
import re
import stat
import time
from collections.abc import Sequence
from typing import Final

from io_uv import fs, listing, marker, metadata, open_segment, segment, snapshot_file
from io_uv.failure import Failure, Unknown
from io_uv.open_segment import DAMAGED, UNWRITTEN, OpenContent
from io_uv.segment import SegmentInfo
from io_uv.snapshot_file import SnapshotInfo
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.errors import RAFT_CANTBOOTSTRAP, RAFT_CORRUPT, RAFT_INVALID, RAFT_MALFORMED, RAFT_NOTFOUND, RAFT_TOOBIG
from pyraft.types import RAFT_CHANGE, EntryBatch, RaftConfiguration, RaftSnapshot, no_entries

SET_ASIDE_PREFIX: Final = "corrupt-"
_MEANT: Final = re.compile(f"metadata|snapshot-|open-|corrupt-|tmp-|[0-9]+-|{'|'.join(marker.NAMES)}")
_KINDS: Final = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
# Format word, checksums and the header of a batch of one entry, which share the first block with the configuration.
_FIRST_BLOCK_OVERHEAD: Final = 40
# Faults of a file, as opposed to a disk, a limit or a permission that keeps it from being read.
_DAMAGE: Final = (RAFT_CORRUPT, RAFT_MALFORMED)

LOST: Final = "metadata was lost, and votes with it; a new id helps where others are, raft_recover where none is"

_log: Final = logging.getLogger("io_uv")


class _Log:
    """The segments of one load: closed ones, open ones, and what is read from them."""

    __slots__ = ("auto_recovery", "closed", "dir", "entries", "files", "mapped", "open", "repeated", "start_index")

    def __init__(
        self, dir: str, segments: Sequence[SegmentInfo], auto_recovery: bool, repeated: bool, mapped: int
    ) -> None:
        self.dir = dir
        self.auto_recovery = auto_recovery
        self.repeated = repeated
        self.mapped = mapped
        # All closed segments that are there, and those that the log is made of.
        self.files = [info for info in segments if not info.is_open]
        self.closed = list(self.files)
        self.open: list[tuple[SegmentInfo, OpenContent]] = []
        self.start_index = 1
        self.entries: EntryBatch = no_entries()

    @property
    def next_index(self) -> int:
        """Index behind the last entry read so far."""
        return self.start_index + len(self.entries)


def means_something(name: str) -> bool:
    """Return whether a name may be one of a server's files: all others lie there for somebody else."""
    return _MEANT.match(name) is not None and len(os.fsencode(name)) <= fs.MAX_NAME_LEN


def strange_kind(dir: str, name: str) -> str:
    """Return what a name that means something here is, if it is neither a file nor a directory, else ""."""
    if not means_something(name):
        return ""
    try:
        mode = fs.lstat(fs.join(dir, name)).st_mode
    except OSError:
        return ""  # nobody can open it either
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "device")


def refuse_links(dir: str) -> None:
    """Raise Failure(RAFT_INVALID) if a name that means something here is a symbolic link, a FIFO, socket or device.

    A user who may make links here could have the server write to any file that it can reach, or take another file for
    its own. Opening does not follow links; this check is for files that are only looked at, and tells of links at the
    start. Opening a FIFO would wait for ever for somebody at its other end, and a device has no size.
    """
    for name in fs.list_dir(dir):
        kind = strange_kind(dir, name)
        if kind:
            raise Failure(RAFT_INVALID, f"{name} in directory '{dir}' is a {kind}")


def clean_up(dir: str) -> None:
    """Remove what interrupted operations left behind; RAFT_IOERR if the directory cannot be read."""
    listing.clean(dir)


def load(dir: str, auto_recovery: bool, mapped: int = 0) -> tuple[RaftSnapshot | None, int, EntryBatch]:
    """Return (snapshot or None, start index, entries) of a data directory; open segments are closed ones afterwards.

    The entries may begin before the snapshot's end; without any, start index is the one behind the snapshot, or 1.
    A snapshot's data of `mapped` bytes or more, if that is not 0, is in a file, see `snapshot_file.read`.
    With `auto_recovery`, `marker.marker_read(dir)` tells afterwards whether entries may have been lost.
    """
    try:
        return _load(dir, auto_recovery, False, mapped)
    except Failure as exc:
        if not auto_recovery or not _may_go(exc):
            raise
    return _load(dir, auto_recovery, True, mapped)


def _may_go(failure: Failure) -> bool:
    """Return whether automatic recovery may set aside what a failure is about: it is damage, not a later format."""
    return failure.code == RAFT_CORRUPT and not isinstance(failure, Unknown)


def _is_damage(failure: Failure) -> bool:
    """Return whether a file is at fault, and something else may stand in for it: it is known, and can be read."""
    return failure.code in _DAMAGE and not isinstance(failure, Unknown)


def _load(dir: str, auto_recovery: bool, repeated: bool, mapped: int) -> tuple[RaftSnapshot | None, int, EntryBatch]:
    snapshots, segments = listing.list(dir)
    log = _Log(dir, segments, auto_recovery, repeated, mapped)
    _read_open(log, segments)
    _resolve_overlaps(log)
    snapshot = _load_on_snapshot(log, snapshots)
    # Names that the process before gave and did not live to sync.
    fs.sync_dir(dir)
    if snapshot is None and not log.entries and marker.bootstrap_stands(dir):
        _log.warning(
            "%s: a bootstrap was interrupted; until it is repeated this server can only wait for a leader", dir
        )
    return snapshot, log.start_index, log.entries


# ---- snapshots -------------------------------------------------------------------------------------------------------


def _load_on_snapshot(log: _Log, snapshots: Sequence[SnapshotInfo]) -> RaftSnapshot | None:
    if not snapshots:
        _load_segments(log, None)
        return None
    newest = snapshots[-1]
    try:
        snapshot = snapshot_file.read(log.dir, newest, log.mapped)
    except Failure as exc:
        return _fall_back(log, snapshots, exc)
    _select(log, snapshot.index, newest.data_name)
    _load_segments(log, snapshot)
    return snapshot


def _fall_back(log: _Log, snapshots: Sequence[SnapshotInfo], problem: Failure) -> RaftSnapshot | None:
    """Load on an older snapshot, or none, if the log goes on from there without a gap and beyond the newest (B19)."""
    if not _is_damage(problem):
        raise problem
    newest = snapshots[-1]
    older: list[SnapshotInfo | None] = [*reversed(snapshots[:-1]), None]
    for info in older:
        start = 0 if info is None else info.index
        if not _covered(log, start, newest.index):
            continue
        try:
            snapshot = None if info is None else snapshot_file.read(log.dir, info, log.mapped)
        except Failure as exc:
            if not _is_damage(exc):
                raise
            continue
        _select(log, start, "" if info is None else info.data_name)
        _load_segments(log, snapshot)
        if log.auto_recovery:
            # Nothing is lost with it, and io.snapshot_get must not find it.
            for name in (newest.filename, newest.data_name):
                if fs.size_of(log.dir, name) is not None:
                    _set_aside(log.dir, name, problem.message)
        return snapshot
    raise problem


def _covered(log: _Log, start: int, end: int) -> bool:
    """Return whether the log has all entries behind `start` up to `end` by the names and contents of its segments.

    Without closed ones it has not: the open ones are counted from the newest snapshot then, which is the bad one.
    """
    run = log.closed[_run_start(log.closed) :]
    if not run or any(content.verdict == DAMAGED for _, content in log.open):
        return False
    last = run[-1].last_index + sum(len(content.entries) for _, content in log.open)
    return run[0].first_index <= start + 1 and last >= end


# ---- choosing segments -----------------------------------------------------------------------------------------------


def _run_start(closed: Sequence[SegmentInfo]) -> int:
    """Return where the longest run of segments without a gap begins that ends with the last one."""
    i = len(closed) - 1
    while i > 0 and closed[i - 1].last_index + 1 == closed[i].first_index:
        i -= 1
    return max(i, 0)


def _select(log: _Log, last_index: int, snapshot_name: str) -> None:
    """Choose the closed segments to load on a snapshot that ends at `last_index`, and the start index."""
    log.start_index = last_index + 1
    if not log.closed:
        return
    if log.closed[-1].last_index < last_index and not log.open:
        _drop_superseded(log, last_index, snapshot_name)
        return
    log.closed = log.closed[_run_start(log.closed) :]
    first = log.closed[0]
    if first.first_index > last_index + 1:
        text = f"closed segment {first.filename} is past last snapshot {snapshot_name}"
        missing = f"entries {last_index + 1} to {first.first_index - 1} are missing"
        raise Failure(RAFT_CORRUPT, f"{text}: {missing}, or it is a stray file")
    log.start_index = first.first_index


def _drop_superseded(log: _Log, last_index: int, snapshot_name: str) -> None:
    """Remove closed segments that all end before the snapshot: it was installed, and a crash came before this.

    In a repeated load one of them may have been an open segment before. They are set aside then: perhaps its entries
    were those that follow the snapshot, and somebody wants them back.
    """
    # C: uv.c:uvFilterSegments leaves them there. The entries of the next open segment then pass for their continuation.
    if log.repeated:
        for info in reversed(log.files):
            _set_aside(log.dir, info.filename, f"it ends before snapshot {snapshot_name}")
        fs.sync_dir(log.dir)
    else:
        segment.remove_closed(log.dir, log.files, last_index)
    log.closed = []


def _resolve_overlaps(log: _Log) -> None:
    """Undo a truncate that a crash cut short between its steps (B18): the head of a segment beside the segment.

    Nobody was told of such a truncate, so the longer of two segments with one first index stays, unless the log goes on
    behind the shorter one. The same segment under two spellings of its name counts once. Any other overlap stays: it
    matters only if the log needs those segments, and loading them tells then.
    """
    kept: list[SegmentInfo] = []
    for info in log.closed:
        older = kept[-1] if kept else None
        # Sorted by last index too: `older` is the head.
        if older is None or info.first_index != older.first_index or not is_head(log.dir, older, info):
            kept.append(info)
            continue
        if info.last_index == older.last_index:
            continue
        if any(other.first_index == older.last_index + 1 for other in log.closed):
            _set_aside(log.dir, info.filename, f"the log goes on behind {older.filename}, which has its first entries")
            log.files.remove(info)
        else:
            fs.remove_file(log.dir, older.filename)
            log.files.remove(older)
            kept[-1] = info
        fs.sync_dir(log.dir)
    log.closed = kept


def is_head(dir: str, head: SegmentInfo, whole: SegmentInfo) -> bool:
    """Return whether one segment has the first entries of the other, and both are good."""
    ours, theirs = no_entries(), no_entries()
    try:
        segment.load_closed(dir, head, ours)
        segment.load_closed(dir, whole, theirs)
    except Failure as exc:
        if not _is_damage(exc):
            raise
        return False
    n = len(ours)
    return (ours.terms, ours.types, ours.bufs) == (theirs.terms[:n], theirs.types[:n], theirs.bufs[:n])


def _read_open(log: _Log, segments: Sequence[SegmentInfo]) -> None:
    """Judge the open segments, and remove those in which nothing was ever complete."""
    found = []
    for info in segments:
        if info.is_open:
            try:
                found.append((info, open_segment.read(log.dir, info.filename)))
            except Failure as exc:
                raise exc.wrap(f"load open segment {info.filename}") from None
    open_segment.settle([content for _, content in found])
    for info, content in found:
        if content.verdict == DAMAGED or content.entries:
            log.open.append((info, content))
        elif not any(before.verdict == DAMAGED for _, before in log.open):
            _remove_open(log.dir, info)


def _remove_open(dir: str, info: SegmentInfo) -> None:
    try:
        fs.remove_file(dir, info.filename)
    except Failure as exc:
        raise exc.wrap(f"load open segment {info.filename}") from None


# ---- loading segments ------------------------------------------------------------------------------------------------


def _load_segments(log: _Log, snapshot: RaftSnapshot | None) -> None:
    _load_closed(log)
    if snapshot is not None and _replaced_by(log, snapshot):
        _finish_install(log, snapshot)
        return
    for i, (info, content) in enumerate(log.open):
        if content.verdict == DAMAGED:
            assert content.problem is not None
            problem = content.problem.wrap(f"load open segment {info.filename}")
            if log.auto_recovery and _may_go(problem):
                _set_open_aside(log, i, problem)
            raise problem
        _close_open(log, info, content)
    last_index = log.next_index - 1
    if snapshot is not None and last_index < snapshot.index:
        text = f"last entry on disk has index {last_index}, which is behind last snapshot's index {snapshot.index}"
        raise Failure(RAFT_CORRUPT, text)


def _load_closed(log: _Log) -> None:
    for i, info in enumerate(log.closed):
        if info.first_index != log.next_index:
            text = f"unexpected closed segment {info.filename}: first index should have been {log.next_index}"
            if info.first_index > log.next_index:
                missing = f"entries {log.next_index} to {info.first_index - 1} are missing"
                text += f": {missing}" if i > 0 else f": a snapshot is missing, or {missing}"
            raise Failure(RAFT_CORRUPT, text)
        try:
            segment.load_closed(log.dir, info, log.entries)
        except Failure as exc:
            if log.auto_recovery and _may_go(exc) and i == len(log.closed) - 1:
                _set_log_end_aside(log, info.filename, exc)
            raise


def _close_open(log: _Log, info: SegmentInfo, content: OpenContent) -> None:
    """Take over the entries of an open segment and make it a closed one, durably before the next is."""
    name = segment.closed_name(log.next_index, log.next_index + len(content.entries) - 1)
    try:
        fs.rewrite_file(log.dir, info.filename, memoryview(content.data)[: content.used])
        fs.truncate_and_rename(log.dir, info.filename, content.used, name)
        fs.sync_dir(log.dir)
    except Failure as exc:
        raise exc.wrap(f"load open segment {info.filename}") from None
    log.entries.terms.extend(content.entries.terms)
    log.entries.types.extend(content.entries.types)
    log.entries.bufs.extend(content.entries.bufs)


def _replaced_by(log: _Log, snapshot: RaftSnapshot) -> bool:
    """Return whether the closed segments are a log that the snapshot replaced: another term at its last index."""
    at = snapshot.index - log.start_index
    return 0 <= at < len(log.entries) and log.entries.terms[at] != snapshot.term


def _finish_install(log: _Log, snapshot: RaftSnapshot) -> None:
    """Remove the log that an installed snapshot replaced; a crash came in between.

    Its entries contradict what is committed at the snapshot's end, so none of them is needed (3.6.3, figure 5.3).
    """
    segment.remove_closed(log.dir, log.files, snapshot.index)
    for info, _ in log.open:
        _remove_open(log.dir, info)
    log.open = []
    log.closed = []
    log.entries = no_entries()
    log.start_index = snapshot.index + 1


# ---- automatic recovery ----------------------------------------------------------------------------------------------


def aside_name(name: str) -> str:
    """Return the name, not used before, that a file has which is set aside."""
    return f"{SET_ASIDE_PREFIX}{time.time_ns()}-{name}"


def _set_aside(dir: str, name: str, reason: str) -> None:
    kept = aside_name(name)
    fs.rename_file(dir, name, kept)
    _log.warning("%s: %s is set aside as %s: %s", dir, name, kept, reason)


def _mark(dir: str, problem: Failure) -> None:
    marker.marker_set(dir, problem.message)
    _log.warning(
        "%s: acknowledged entries may be missing (%s): the server withholds its votes while %s stands",
        dir,
        problem.message,
        marker.NAME,
    )


def _set_log_end_aside(log: _Log, name: str, problem: Failure) -> None:
    """Set a damaged file at the end of the log aside, with all open segments; the marker comes first.

    The last goes first: whatever a crash leaves is again a log with its damage at the end.
    """
    _mark(log.dir, problem)
    _set_open_ones_aside(log, [info for info, _ in log.open if info.filename != name], name)
    _set_aside(log.dir, name, problem.message)
    fs.sync_dir(log.dir)


def _set_open_ones_aside(log: _Log, infos: Sequence[SegmentInfo], damaged: str) -> None:
    for info in reversed(infos):
        _set_aside(log.dir, info.filename, f"it follows {damaged}, which is damaged")
        fs.sync_dir(log.dir)


def _set_open_aside(log: _Log, i: int, problem: Failure) -> None:
    """Set open segments from number `i` on aside. The good batches in front of the damage stay in the log."""
    info, content = log.open[i]
    log.open = log.open[i:]
    if not content.entries:
        _set_log_end_aside(log, info.filename, problem)
        return
    # C: uv_segment.c:uvSegmentLoadOpen drops what follows the good batches for good and goes on with the next segment,
    # whose entries then get wrong indexes. Here a copy of the whole stays, made before anything is cut.
    _mark(log.dir, problem)
    _set_open_ones_aside(log, [later for later, _ in log.open[1:]], info.filename)
    copy = aside_name(info.filename)
    fs.make_file(log.dir, copy, [fs.read_file(log.dir, info.filename)])
    _log.warning("%s: %s is cut, %s is a copy: %s", log.dir, info.filename, copy, problem.message)
    _close_open(log, info, content)


# ---- bootstrap and recover -------------------------------------------------------------------------------------------


def _change_entry(conf: RaftConfiguration, term: int, block_size: int) -> EntryBatch:
    blob = configuration.encode(conf)
    room = block_size - _FIRST_BLOCK_OVERHEAD
    if len(blob) > room:
        raise Failure(RAFT_TOOBIG, f"configuration of {len(blob)} bytes is larger than {room}")
    return EntryBatch([term], [RAFT_CHANGE], [blob])


def _former_file(dir: str) -> str | None:
    """Return the name of a file that only a server with a term leaves, None if there is none.

    Open segments that were made and never written to prove nothing, and neither do tmp files.
    """
    snapshots, segments = listing.list(dir)
    for info in segments:
        try:
            if not info.is_open or open_segment.read(dir, info.filename).verdict != UNWRITTEN:
                return info.filename
        except Failure as exc:
            raise exc.wrap(f"load open segment {info.filename}") from None
    if snapshots:
        return snapshots[-1].data_name
    return None if marker.marker_read(dir) is None else marker.NAME


def bootstrap(dir: str, conf: RaftConfiguration, block_size: int) -> Metadata:
    """Turn a pristine directory into that of a server whose log has one entry, `conf`, in term 1; return the metadata.

    A directory in which a process has died between storing the term and the entry goes for pristine.

    Errors: RAFT_CANTBOOTSTRAP "metadata contains term N", or for a directory whose metadata was lost: the text names a
    file that remained; RAFT_TOOBIG for a configuration that does not fit the first block; RAFT_IOERR. The first three
    leave nothing behind (B20).
    """
    # C: uv.c:uvBootstrap stores the term before it looks whether the rest can be done, and where both metadata files
    # are gone it puts an entry 1 of term 1 beside whatever is there.
    current = metadata.load(dir)
    found = _former_file(dir)
    half = may_be_half_bootstrapped(current) and found is None and marker.bootstrap_stands(dir)
    if current.term != 0 and not half:
        raise Failure(RAFT_CANTBOOTSTRAP, f"metadata contains term {current.term}")
    if found is not None:
        raise Failure(RAFT_CANTBOOTSTRAP, f"there is {found} but no term: {LOST}")
    entry = _change_entry(conf, 1, block_size)
    # The term first: an entry without metadata is a log whose metadata was lost. C: uv.c:uvBootstrap leaves a directory
    # that never leads if the process dies between the two, and refuses to bootstrap it again.
    if not half:
        marker.bootstrap_begin(dir)
        current = Metadata(current.version + 1, 1, 0)
        metadata.store(dir, current)
    segment.write_closed(dir, 1, [entry])
    marker.bootstrap_end(dir)
    return current


def may_be_half_bootstrapped(stored: Metadata) -> bool:
    """Return whether metadata are what the first step of a bootstrap leaves."""
    return (stored.version, stored.term, stored.voted_for) == (1, 1, 0)


def last_term(snapshot: RaftSnapshot | None, entries: EntryBatch) -> int:
    """Return the term in which what was loaded ends, 0 if that is nothing."""
    return max(entries.terms[-1] if entries else 0, 0 if snapshot is None else snapshot.term)


def check_term(stored: Metadata, snapshot: RaftSnapshot | None, entries: EntryBatch) -> None:
    """Check that the metadata are not older than the log: a term is stored before anything of it is.

    RAFT_CORRUPT if they are: the term and the votes since were lost. Without any metadata it is for the core to tell.
    """
    # C: uv.c:uvLoad goes on in the older term, in which this server may vote twice and lead over its own entries.
    last = last_term(snapshot, entries)
    if 0 < stored.term < last:
        raise Failure(RAFT_CORRUPT, f"metadata has term {stored.term} but the log ends in term {last}: newer {LOST}")


def recover(dir: str, conf: RaftConfiguration, block_size: int, term: int, auto_recovery: bool) -> int:
    """Append an entry with `conf` to the log of a server that is not running; return its term.

    `term` is that of the metadata; the entry gets the higher of it and the log's last (B2).
    Errors: those of load, RAFT_TOOBIG before anything is touched, RAFT_NOTFOUND for a directory without a log, where
    nothing was set aside either, RAFT_IOERR.
    """
    _change_entry(conf, term, block_size)
    snapshot, start_index, entries = load(dir, auto_recovery)
    if snapshot is None and not entries and marker.marker_read(dir) is None:
        # C: uv.c:uvRecover makes it the first server of a cluster. It is rather the wrong directory.
        raise Failure(RAFT_NOTFOUND, f"there is no log in {dir}: nothing to recover, raft_bootstrap begins anew")
    # C: uv_segment.c:uvWriteClosedSegment always writes term 1, below entries that may precede it.
    entry = _change_entry(conf, max(last_term(snapshot, entries), term, 1), block_size)
    index = start_index + len(entries)
    segment.write_closed(dir, index, [entry])
    return entry.terms[0]

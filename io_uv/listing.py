"""What a data directory holds: snapshots, segments, and left-overs.

Duty: `list` lists the snapshots and segments of a directory, sorted so that the newest is last; `clean` removes
what interrupted operations left behind. Names that are none of ours are ignored, as are those of 128 bytes and more.

A snapshot counts if its data file is there and not empty: it is written last. If a sidecar proves that data which is
missing or empty now was complete, the snapshot is listed as incomplete, so that loading can say what was lost.

Failure modes: RAFT_IOERR "scan data directory: …" or "stat: …"; `clean` ignores what it cannot remove.
"""

import builtins
import os

from io_uv import fs, segment, snapshot_file, sums
from io_uv.fs import Failure
from io_uv.segment import SegmentInfo
from io_uv.snapshot_file import META_SUFFIX, SnapshotInfo


def _known_size(dir: str, info: SnapshotInfo) -> int:
    """Return the size in bytes that the sidecar of a snapshot's data records, 0 if there is none."""
    known = sums.load(dir, info.data_name)
    return 0 if known is None else known.of


def _is_snapshot(dir: str, info: SnapshotInfo) -> bool:
    if fs.size_of(dir, info.data_name):
        return True
    info.incomplete = _known_size(dir, info) > 0
    return info.incomplete


def _is_ours(name: str) -> bool:
    return len(os.fsencode(name)) < fs.MAX_NAME_LEN


def list(dir: str) -> tuple[builtins.list[SnapshotInfo], builtins.list[SegmentInfo]]:
    """Return (snapshots, segments) of a data directory: snapshots oldest first, closed segments by index, then open."""
    snapshots: builtins.list[SnapshotInfo] = []
    segments: builtins.list[SegmentInfo] = []
    for name in fs.list_dir(dir):
        if not _is_ours(name):
            continue
        parsed = snapshot_file.parse_name(name)
        if parsed is not None:
            info, suffix = parsed
            if suffix == META_SUFFIX and _is_snapshot(dir, info):
                snapshots.append(info)
            continue
        found = segment.parse_name(name)
        if found is not None:
            segments.append(found)
    snapshot_file.sort(snapshots)
    segment.sort(segments)
    return snapshots, segments


def clean(dir: str) -> None:
    """Unlink what no complete operation leaves: tmp files, and files of a snapshot whose partner is missing.

    A .meta file whose data was complete once by its sidecar stays unless a newer snapshot is whole: it is evidence.
    """
    names = fs.list_dir(dir)
    present = set(names)
    snapshots = [info for info in list(dir)[0] if not info.incomplete]
    newest = snapshots[-1] if snapshots else None
    for name in names:
        if name.startswith(fs.TMP_PREFIX) or (_is_ours(name) and _is_orphan(dir, name, present, newest)):
            try:
                fs.remove_file(dir, name)
            except Failure:
                continue


def _is_orphan(dir: str, name: str, present: set[str], newest: SnapshotInfo | None) -> bool:
    parsed = snapshot_file.parse_name(name)
    if parsed is None:
        return False
    info, suffix = parsed
    if info.filename in present:
        if suffix != META_SUFFIX or info.data_name in present:
            return False
        outdated = newest is not None and (newest.term, newest.index) >= (info.term, info.index)
        return outdated or _known_size(dir, info) == 0
    return True

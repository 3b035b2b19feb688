"""The content of a data directory: snapshots, segments, and left-overs.

Duty: `list` lists the snapshots and segments of a directory, sorted so that the newest is last; `clean` removes
what interrupted operations left behind. Names of other people's files are ignored, as are those of 128 bytes and more.

A snapshot counts if its data file is there and not empty: it is written last.

Failure modes: RAFT_IOERR "scan data directory: …" or "stat: …"; `clean` ignores what it cannot remove.
"""

import builtins
import os

from io_uv import fs, marker, segment, snapshot_file
from io_uv.failure import Failure
from io_uv.segment import SegmentInfo
from io_uv.snapshot_file import META_SUFFIX, SnapshotInfo


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
            if suffix == META_SUFFIX and fs.size_of(dir, info.data_name):
                snapshots.append(info)
            continue
        found = segment.parse_name(name)
        if found is not None:
            segments.append(found)
    snapshot_file.sort(snapshots)
    segment.sort(segments)
    return snapshots, segments


def clean(dir: str) -> None:
    """Unlink what no complete operation leaves: tmp files, files of a snapshot whose partner is missing, and the note
    of a bootstrap behind its end.
    """
    names = fs.list_dir(dir)
    present = set(names)
    if any(info is not None and not info.is_open for info in map(segment.parse_name, names)):
        present.discard(marker.BOOTSTRAP_NAME)
    for name in names:
        if name.startswith(fs.TMP_PREFIX) or (_is_ours(name) and _is_left_over(name, present)):
            try:
                fs.remove_file(dir, name)
            except Failure:
                continue


def _is_left_over(name: str, present: set[str]) -> bool:
    if name == marker.BOOTSTRAP_NAME:
        return name not in present
    parsed = snapshot_file.parse_name(name)
    if parsed is None:
        return False
    info, _ = parsed
    return info.filename not in present or info.data_name not in present

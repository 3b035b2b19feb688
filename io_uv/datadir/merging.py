"""Small segments of a log, put together: a server that is restarted often leaves many, and a start opens each.

Duty: `merge` has two neighbours among the closed segments become one, again and again, as long as both together are
small; names without all their zeros get them. Files are set aside, none is deleted. The log loads to the same entries
before, behind, and at every moment.

Happy path: of A (entries 1 to 5) and B (6 to 9) one is written that has all of them, durably; then B is set aside, the
directory synced, and A set aside. Killed before B goes, a start finds the log going on behind A, and sets the new one
aside; killed behind that, it finds in A nothing but the head of the new one (`disk`, B18). More than two at a time
would not do: with the second of three set aside the new one counts, and the third overlaps it. Nor would the other
order: without A nothing says that B is a part of the new one.

Failure modes: Failure, with the text of a start, for a directory that does not load; RAFT_CORRUPT for segments that
overlap otherwise. A kill in the middle leaves what a start of this library, or the same call, puts in order. libraft's
loader refuses it until then, and touches nothing: it expects every segment to begin where the one before has ended.
"""

import itertools
import os
from dataclasses import dataclass, field
from typing import Final

from io_uv import disk, fs, segment
from io_uv.datadir.rehearsal import rehearse
from io_uv.failure import Failure
from io_uv.segment import SegmentInfo
from pyraft.errors import RAFT_CORRUPT
from pyraft.types import EntryBatch, no_entries

SMALL: Final = 1 << 20
"""Bytes that two segments have together at most, to be put together."""


@dataclass
class Merge:
    """Segments that were put together, or would be."""

    before: int = 0
    """How many closed segments there were."""
    after: int = 0
    applied: bool = False
    steps: list[str] = field(default_factory=list)


def merge(path: str | os.PathLike[str], apply: bool = False, scratch: str | None = None, small: int = SMALL) -> Merge:
    """Put small segments of `path` together, whose lock the caller holds; only say which unless `apply`.

    `scratch` is where a copy is made, on which a start is tried. Raises Failure; calling it again then goes on.
    """
    dir = os.fspath(path)
    found = rehearse(dir, scratch)
    if not found.starts:
        raise Failure(found.code, f"a start is refused, so repair it first: {found.problem}")
    return merge_now(dir, apply, small)


def merge_now(dir: str, apply: bool, small: int = SMALL) -> Merge:
    """Do what `merge` does, with a directory that loads."""
    if apply:
        disk.clean_up(dir)
    closed = _finish(dir, apply)
    for one, other in itertools.pairwise(closed):
        if other.first_index <= one.last_index:
            raise Failure(RAFT_CORRUPT, f"{one.filename} and {other.filename} overlap")
    found = Merge(before=len(closed), applied=apply)
    sizes = {}
    for at, info in enumerate(closed):
        size = fs.size_of(dir, info.filename) or 0
        closed[at] = _spelled(dir, info, found)
        sizes[closed[at].filename] = size
    while True:
        merged = _merge_pairs(dir, closed, sizes, small, found)
        if len(merged) == len(closed):
            break
        closed = merged  # in rounds, so that no entry is written more often than there are rounds
    found.after = len(closed)
    return found


def _spelled(dir: str, info: SegmentInfo, found: Merge) -> SegmentInfo:
    """Have a segment be called as this library and libraft call it, with all zeros; return its name taken apart."""
    known = segment.parse_name(segment.closed_name(info.first_index, info.last_index))
    assert known is not None
    if known.filename != info.filename:
        found.steps.append(f"{info.filename} becomes {known.filename}")
        if found.applied:
            fs.rename_file(dir, info.filename, known.filename)
            fs.sync_dir(dir)
    return known


def _merge_pairs(
    dir: str, closed: list[SegmentInfo], sizes: dict[str, int], small: int, found: Merge
) -> list[SegmentInfo]:
    """Merge each segment with the next one where both are small; return the segments that there are then."""
    merged: list[SegmentInfo] = []
    at = 0
    while at < len(closed):
        one, other = closed[at], closed[at + 1] if at + 1 < len(closed) else None
        at += 1
        if other is None or other.first_index != one.last_index + 1:
            merged.append(one)
            continue
        size = sizes[one.filename] + sizes[other.filename]
        if size > small:
            merged.append(one)
            continue
        info = _merge_two(dir, one, other) if found.applied else _merged(one, other)
        sizes[info.filename] = size
        found.steps.append(f"{one.filename} and {other.filename} become {info.filename}")
        merged.append(info)
        at += 1
    return merged


def _finish(dir: str, apply: bool) -> list[SegmentInfo]:
    """Put in order what a kill has left, as a start does; return the closed segments that stay, sorted."""
    closed = _closed(dir)
    kept: list[SegmentInfo] = []
    for info in closed:
        head = kept[-1] if kept else None
        if head is None or head.first_index != info.first_index or not disk.is_head(dir, head, info):
            kept.append(info)
            continue
        goes_on = any(other.first_index == head.last_index + 1 for other in closed)
        if not goes_on:
            kept[-1] = info
        if apply:
            _set_aside(dir, info if goes_on else head)
    return kept


def _closed(dir: str) -> list[SegmentInfo]:
    found = [info for info in map(segment.parse_name, fs.list_dir(dir)) if info is not None and not info.is_open]
    segment.sort(found)
    return found


def _merge_two(dir: str, one: SegmentInfo, other: SegmentInfo) -> SegmentInfo:
    """Have two neighbours become one segment; each step is durable before the next."""
    ours, theirs = _load(dir, one), _load(dir, other)
    info = _merged(one, other)
    assert segment.write_closed(dir, one.first_index, [ours, theirs]) == info.filename
    both = _load(dir, info)  # from the disk, before anything else goes
    for column in ("terms", "types", "bufs"):
        if list(getattr(both, column)) != [*getattr(ours, column), *getattr(theirs, column)]:
            raise Failure(RAFT_CORRUPT, f"{info.filename} is not what was written")
    _set_aside(dir, other)
    _set_aside(dir, one)
    return info


def _merged(one: SegmentInfo, other: SegmentInfo) -> SegmentInfo:
    """Return the name of the segment that two become, taken apart."""
    info = segment.parse_name(segment.closed_name(one.first_index, other.last_index))
    assert info is not None
    return info


def _load(dir: str, info: SegmentInfo) -> EntryBatch:
    found = no_entries()
    segment.load_closed(dir, info, found)
    return found


def _set_aside(dir: str, info: SegmentInfo) -> None:
    fs.rename_file(dir, info.filename, disk.aside_name(info.filename))
    fs.sync_dir(dir)

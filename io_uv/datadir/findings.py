"""The faults of a data directory, file by file, each with its consequence in a sentence.

Duty: `check` turns `Contents` into findings, the worst first. LOSS means that entries which this server may have
acknowledged are missing or cannot be read; DAMAGE, that something is broken from which a start can recover without
loss, or by which it is stopped; NOTE, that somebody should know.

Happy path: an empty list. The acts of a start about all of it together are for `rehearsal` to say, not for this module.
Failure modes: none; a file that cannot be read is a finding.
"""

import os
from dataclasses import dataclass
from typing import Final

from io_uv import disk, keyfiles, marker, segment, sums
from io_uv.datadir.content import Contents, SegmentFile, SnapshotFile, entries, read
from io_uv.datadir.progress import Progress
from io_uv.datadir.rehearsal import NO_BEGIN
from io_uv.failure import Failure
from io_uv.open_segment import DAMAGED, TORN
from pyraft.types import RAFT_CHANGE

LOSS: Final = "loss"
DAMAGE: Final = "damage"
NOTE: Final = "note"
_ORDER: Final = (LOSS, DAMAGE, NOTE)


@dataclass(frozen=True)
class Finding:
    """Something that is to be known about a file, or about several."""

    severity: str
    """LOSS, DAMAGE or NOTE."""
    file: str
    what: str
    consequence: str


_UNKNOWN: Final = (
    "a later version may have written it, so it does not count as damaged: the start is refused, nothing is "
    "touched, and a version that knows it can go on"
)
_BARRED: Final = "no server starts on it until then, and nothing is lost: each file is here, as it was or with new ids"


def check(
    path: str | os.PathLike[str], contents: Contents | None = None, progress: Progress | None = None
) -> list[Finding]:
    """Return the findings on a data directory, the worst first; `contents` if it has been read already.

    Every checksum is compared. `progress` is told of the bytes that were read. Raises Failure as `content.read` does.
    """
    if contents is None:
        contents = read(path, progress)
    found = [
        *_metadata(contents),
        *_snapshots(contents),
        *_segments(contents),
        *_gaps(contents),
        *_overlaps(contents),
        *_begin(contents),
        *_end(contents),
        *_marks(contents),
        *_rest(contents),
    ]
    return sorted(found, key=lambda one: _ORDER.index(one.severity))


def _metadata(contents: Contents) -> list[Finding]:
    found = []
    newest = max((one.version for one in contents.metadata if not one.problem), default=0)
    for one in contents.metadata:
        if one.barred:
            found.append(Finding(DAMAGE, one.name, one.problem, _BARRED))
        elif one.unknown:
            found.append(Finding(DAMAGE, one.name, one.problem, _UNKNOWN))
        elif one.problem and 0 < one.known_version < newest:
            text = "it was the older of the two, so nothing is lost: the next term or vote is written over it"
            found.append(Finding(NOTE, one.name, one.problem, text))
        elif one.problem:
            text = (
                "term and vote may be lost, so the start is refused: this server could vote twice in a term. Where "
                "other members are alive, have them remove it and add a new one under a new id"
            )
            found.append(Finding(DAMAGE, one.name, one.problem, text))
        elif one.present and one.version == 0:
            text = "it was made and never written, which a crash explains; the start removes it"
            found.append(Finding(NOTE, one.name, "it holds nothing", text))
    if newest == 0 and not any(one.problem for one in contents.metadata) and (contents.last_index or contents.segments):
        text = (
            "term and vote are lost, so the start is refused: this server could vote twice in a term. Where other "
            "members are alive, have them remove it and add a new one under a new id"
        )
        found.append(Finding(DAMAGE, "metadata1, metadata2", "there are none beside a log", text))
    elif newest and contents.term < contents.last_term:
        what = f"term {contents.term} is behind term {contents.last_term}, in which the log ends"
        text = "newer metadata, and the votes in it, were lost, so the start is refused"
        found.append(Finding(DAMAGE, "metadata1, metadata2", what, text))
    return found


def _snapshots(contents: Contents) -> list[Finding]:
    found = []
    for i, one in enumerate(contents.snapshots, 1):
        if not one.problem:
            continue
        if i == len(contents.snapshots):
            found.append(_newest_snapshot(contents, one))
        elif any(not newer.problem for newer in contents.snapshots[i:]):
            found.append(Finding(NOTE, one.name, one.problem, "a newer snapshot is good, so this one is not needed"))
        elif one.unknown:
            found.append(Finding(DAMAGE, one.name, one.problem, _UNKNOWN))
        else:
            found.append(Finding(NOTE, one.name, one.problem, "it cannot stand in for the newest one"))
    return found


def _newest_snapshot(contents: Contents, one: SnapshotFile) -> Finding:
    if one.unknown:
        return Finding(DAMAGE, one.name, one.problem, _UNKNOWN)
    older = max((s.index for s in contents.snapshots if not s.problem), default=0)
    if _log_covers(contents, older, one.index):
        what = f"the snapshot at index {older}" if older else "the log from its first entry on"
        return Finding(
            DAMAGE, one.name, one.problem, f"nothing is lost: {what} and the entries behind it have everything"
        )
    text = (
        f"entries up to {one.index} are nowhere else here, so the start is refused; a leader that is alive sends a "
        "snapshot to a new member"
    )
    return Finding(LOSS, one.name, one.problem, text)


def _log_covers(contents: Contents, start: int, end: int) -> bool:
    """Return whether the closed and open segments have all entries behind `start` up to `end`, all of them good."""
    at = start
    for one in contents.segments:
        if one.verdict == DAMAGED:
            return False
        if one.entries and one.first <= at + 1:
            at = max(at, one.first + one.entries - 1)
    return at >= end


def _segments(contents: Contents) -> list[Finding]:
    found = []
    for one in contents.segments:
        if one.is_open and one.verdict == TORN:
            text = "only what had not been acknowledged when the server died can be missing; the start cuts it off"
            found.append(Finding(NOTE, one.name, one.problem or "its last batch is incomplete", text))
        elif one.verdict == DAMAGED:
            found.append(_damaged_segment(contents, one))
    return found


def _damaged_segment(contents: Contents, one: SegmentFile) -> Finding:
    if one.unknown:
        return Finding(DAMAGE, one.name, one.problem, _UNKNOWN)
    snapshot = max((s.index for s in contents.snapshots if not s.problem), default=0)
    if not one.is_open and one.last <= snapshot:
        text = f"the snapshot at index {snapshot} has all that it had"
        return Finding(DAMAGE, one.name, one.problem, text)
    begin = one.first + one.entries
    lost = f"entries from {begin} on"
    if not one.is_open:
        lost = f"entries {begin} to {one.last}" if begin <= one.last else f"something behind entry {one.last}"
    text = f"{lost} cannot be read, and this server may have acknowledged them"
    return Finding(LOSS, one.name, one.problem, text)


def _gaps(contents: Contents) -> list[Finding]:
    found = []
    snapshot = max((s.index for s in contents.snapshots if not s.problem), default=0)
    for first, last in contents.gaps():
        in_front = any(one.last < first for one in contents.segments if not one.is_open)
        if last <= snapshot and not in_front:
            continue  # the log begins behind an older snapshot, as a trailing one does
        if last <= snapshot:
            text = f"the snapshot at index {snapshot} has them, and the segments in front of the gap are not used"
            found.append(Finding(NOTE, "", f"entries {first} to {last} are in no segment", text))
        else:
            text = "what follows them cannot be applied, so the start is refused: a file is missing, or one is a stray"
            found.append(Finding(LOSS, "", f"entries {first} to {last} are missing", text))
    return found


def _overlaps(contents: Contents) -> list[Finding]:
    found = []
    before: SegmentFile | None = None
    for one in contents.segments:
        if one.is_open:
            continue
        if before is not None and one.first <= before.last:
            if _is_head(contents.directory, before, one):
                text = (
                    f"an interrupted truncate leaves that: the start keeps {one.name}, or what the log goes on behind"
                )
                found.append(Finding(NOTE, before.name, f"{one.name} begins with all its entries", text))
                before = one
                continue
            what = f"it has entries that {before.name} has, too"
            text = "the start is refused if the log needs both"
            found.append(Finding(DAMAGE, one.name, what, text))
        if before is None or one.last > before.last:
            before = one
    return found


def _is_head(dir: str, head: SegmentFile, whole: SegmentFile) -> bool:
    if head.first != whole.first:
        return False
    infos = segment.parse_name(head.name), segment.parse_name(whole.name)
    assert infos[0] is not None
    assert infos[1] is not None
    try:
        return disk.is_head(dir, infos[0], infos[1])
    except Failure:
        return False  # one of them is unknown or cannot be read, which is a finding of its own


def _begin(contents: Contents) -> list[Finding]:
    """Say whether a log without a snapshot in front of it lacks its first configuration."""
    if contents.first_index != 1 or any(not one.problem for one in contents.snapshots):
        return []
    try:
        first = next(entries(contents.directory, 1, 1), None)
    except Failure:
        return []  # a finding of its own
    if first is None or first.type == RAFT_CHANGE:
        return []
    text = "the servers of the cluster stand there, so the start is refused: a file is a stray, or of another log"
    return [Finding(DAMAGE, first.segment, NO_BEGIN, text)]


def _end(contents: Contents) -> list[Finding]:
    """Say whether the log ends in front of the newest snapshot."""
    if not contents.snapshots or not any(one.entries for one in contents.segments):
        return []
    index = contents.snapshots[-1].index
    last = max(one.first + one.entries - 1 for one in contents.segments if one.entries)
    if last >= index:
        return []
    what = f"the log ends at {last}, the newest snapshot at {index}"
    if any(one.is_open and (one.entries or one.verdict == DAMAGED) for one in contents.segments):
        return [Finding(DAMAGE, "", what, "an open segment that lies there cannot be counted, so the start is refused")]
    return [Finding(NOTE, "", what, "the snapshot was installed when the server died; the start removes the log")]


_MARKS: Final = {
    marker.NAME: (
        LOSS,
        "files of the log were set aside",
        "acknowledged entries may be missing: the server does not vote until a leader has filled it up",
    ),
    marker.BOOTSTRAP_NAME: (
        NOTE,
        "a bootstrap was interrupted",
        "bootstrap it again, with the configuration of its cluster; until then it can only wait for a leader",
    ),
    marker.FILLING_NAME: (
        NOTE,
        "a leader had begun to give this server its log",
        "it does not vote before it has all of it",
    ),
}


def _marks(contents: Contents) -> list[Finding]:
    return [Finding(_MARKS[name][0], name, *_MARKS[name][1:]) for name in contents.marks]


def _rest(contents: Contents) -> list[Finding]:
    found = []
    if not contents.begun:
        text = "a server that starts on it begins with nothing: before its first start, or it is the wrong directory"
        found.append(Finding(NOTE, "", "there is no file of a server in it", text))
    for name, kind in contents.strange.items():
        text = "it is not opened, and the start is refused until it has gone"
        found.append(Finding(DAMAGE, name, f"it is a {kind}", text))
    for name in contents.left_over:
        if not name.endswith(sums.SUFFIX):
            text = "an interrupted operation left it; the start removes it"
            found.append(Finding(NOTE, name, "it is incomplete", text))
    for name in contents.set_aside:
        text = "it is kept for people to look at; no start reads it"
        found.append(Finding(NOTE, name, "an earlier start or repair set it aside", text))
    if keyfiles.others_may_write(os.stat(contents.directory)):
        text = "they can change what this server has promised"
        found.append(Finding(NOTE, "", "others than its owner may write to the directory", text))
    return found

"""Mending a data directory that a start refuses.

Duty: `repair` brings a directory into a state that loads. Files are set aside (renamed to `corrupt-NS-NAME`), never
removed, but for those that a start would remove itself. A directory that loads is left alone, so a repair never makes
one worse: all that a start would have found is there afterwards.

Happy path: the loader of raft_start is run; while it refuses, the first rule below that fits is applied, and it is run
again. Without `apply` all of it happens on a copy. With it, too, and then, if the copy loads in the end, the same on
the directory. Rules that lose nothing come first. Where acknowledged entries may be missing afterwards, the mark of
`io_uv.marker` is durable before anything is touched: the server then withholds its votes until a leader has given it
everything again, as after automatic recovery, and does not start at all if it is the only voter.

Failure modes: a state that no rule fits is left as it is, with the reason. Lost metadata are such a state: no tool
knows for whom this server has voted. A kill in the middle leaves a state from which the same call goes on.
"""

import functools
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from io_uv import disk, fs, marker, segment
from io_uv.datadir.content import Contents, SegmentFile, read, read_closed
from io_uv.datadir.rehearsal import Rehearsal, copy_of, start
from io_uv.open_segment import DAMAGED
from pyraft.types import EntryBatch

_MOST_STEPS: Final = 100

OTHERS_ALIVE: Final = (
    "Where other members are alive and have a leader, nothing needs to be repaired: have them remove this server, "
    "empty the directory, and add it again under a new id."
)
ONLY_VOTER: Final = (
    "It is the only voter by what is left of its log, and does not start while the mark stands: missing entries may "
    f"have added others. If it never had other members, remove {marker.NAME}; what is missing is lost then."
)


@dataclass
class Repair:
    """The acts of a repair, done or planned."""

    needed: bool = False
    """Whether a start is refused without it."""
    applied: bool = False
    steps: list[str] = field(default_factory=list)
    may_lose: str = ""
    """Which acknowledged entries may be missing afterwards; empty if none can."""
    start: Rehearsal = field(default_factory=Rehearsal)
    """The acts of a start afterwards."""
    advice: str = ""


def repair(path: str | os.PathLike[str], apply: bool = False, scratch: str | None = None) -> Repair:
    """Mend the data directory `path`, whose lock the caller holds; only say how unless `apply`.

    `scratch` is where the copy for the dry run is made. Raises Failure as `content.read` does, and if the copy or a
    change fails; calling it again then goes on.
    """
    dir = os.fspath(path)
    with copy_of(dir, scratch) as (copy, doubt):
        found = _mend(copy, dir)
        found.start.doubt = doubt
    if not apply or not found.needed or not found.start.starts:
        return found
    done = _mend(dir, dir)
    done.applied = True
    return done


@dataclass
class _Step:
    """One change: `act` makes it. `loses` says which entries may have been acknowledged and are missing then."""

    text: str
    act: Callable[[str], None]
    loses: str = ""


def _mend(dir: str, path: str) -> Repair:
    """Mend a directory, which is `path` or a copy of it."""
    found = Repair()
    most = _MOST_STEPS + 2 * len(fs.list_dir(dir))
    while True:
        found.start = start(dir, path=path)
        if found.start.starts or len(found.steps) >= most:
            break
        found.needed = True
        if found.start.unknown:
            break
        found.steps += [f"{change}, as by a start" for change in found.start.changes]
        step = _next_step(read(dir))
        if step is None:
            break
        if step.loses:
            marker.marker_set(dir, step.text)
            found.may_lose = found.may_lose or step.loses
        step.act(dir)
        fs.sync_dir(dir)
        found.steps.append(step.text)
    found.advice = _advice(found)
    return found


def _advice(found: Repair) -> str:
    if not found.needed:
        return "A start loads this directory as it is."
    if found.start.barred:
        return f"{found.start.problem}."
    if found.start.unknown:
        return (
            f"{found.start.problem}. It may be a later version's: only a version that knows it can tell, or repair it."
        )
    if not found.start.starts:
        return f"No rule of this tool fits: {found.start.problem}. {OTHERS_ALIVE}"
    if not found.may_lose:
        return ""
    if found.start.alone:
        return f"{OTHERS_ALIVE} {ONLY_VOTER}"
    return OTHERS_ALIVE


# ---- rules, those that lose nothing first ----------------------------------------------------------------------------


def _next_step(contents: Contents) -> _Step | None:
    for rule in _RULES:
        step = rule(contents)
        if step is not None:
            return step
    return None


def _closed(contents: Contents) -> list[SegmentFile]:
    return [one for one in contents.segments if not one.is_open]


def _batch(dir: str, one: SegmentFile) -> EntryBatch:
    """Return the good entries of a closed segment."""
    info = segment.parse_name(one.name)
    assert info is not None
    return read_closed(dir, info)[0]


def _surplus(contents: Contents) -> _Step | None:
    """A closed segment all of whose good entries another, intact one has, too, bit by bit."""
    for one in _closed(contents):
        if one.unknown:
            continue
        for other in _closed(contents):
            last = one.first + one.entries - 1
            if other is one or other.verdict == DAMAGED or not other.first <= one.first <= last <= other.last:
                continue
            # If two are equal, the one with a name as this library gives it stays.
            same_range = (one.first, one.last) == (other.first, other.last)
            if same_range and one.verdict != DAMAGED and len(one.name) >= len(other.name):
                continue
            at = one.first - other.first
            ours, theirs = _batch(contents.directory, one), _batch(contents.directory, other)
            theirs = theirs[at : at + len(ours)]
            if (ours.terms, ours.types, ours.bufs) == (theirs.terms, theirs.types, theirs.bufs):
                return _aside(one.name, f"{other.name} has its entries, too")
    return None


def _behind_snapshot(contents: Contents) -> _Step | None:
    """Damaged closed segments, and those in front of a gap, that end before a good snapshot: nobody needs them."""
    good = [one.index for one in contents.snapshots[-1:] if not one.problem]
    if not good:
        return None
    gap = max((last for _, last in contents.gaps() if last <= good[0]), default=0)
    closed = _closed(contents)
    useless = [
        at for at, one in enumerate(closed) if one.last <= good[0] and (one.verdict == DAMAGED or one.last <= gap)
    ]
    if not useless:
        return None
    names = [one.name for one in closed[: useless[-1] + 1]]
    return _all_aside(names, f"the snapshot at index {good[0]} has their entries, and {names[-1]} is of no use")


def _repeated(contents: Contents) -> _Step | None:
    """A closed segment begins with entries that the one before has, too: that one ends in front of it from now on.

    Killed behind this step, and without, the shorter one is the head of the other, which a start sets aside.
    """
    for one, other in itertools.pairwise(_closed(contents)):
        if not one.first < other.first <= one.last < other.last or DAMAGED in (one.verdict, other.verdict):
            continue
        ours, theirs = _batch(contents.directory, one), _batch(contents.directory, other)
        at = other.first - one.first
        head, rest = ours[:at], ours[at:]
        theirs = theirs[: len(rest)]
        if (rest.terms, rest.types, rest.bufs) != (theirs.terms, theirs.types, theirs.bufs):
            continue  # no rule says which of the two is right
        name = segment.closed_name(one.first, other.first - 1)
        return _Step(
            f"{name} is written with the entries of {one.name} in front of {other.name}, which has the others, too",
            functools.partial(_write, first_index=one.first, batch=head),
        )
    return None


def _bad_snapshot(contents: Contents) -> _Step | None:
    """The newest snapshot cannot be read, and the log alone does not replace it."""
    if not contents.snapshots or not contents.snapshots[-1].problem:
        return None
    one = contents.snapshots[-1]
    if not _something_else(contents):
        return None
    loses = f"entries up to {one.index} that are in no older snapshot and not in the log"

    def act(dir: str) -> None:
        for name in (one.name + ".meta", one.name):
            if fs.size_of(dir, name) is not None:
                _set_aside(dir, name)

    return _Step(f"{one.name} is set aside: {one.problem}", act, loses)


def _something_else(contents: Contents) -> bool:
    """Return whether there is a state to go on from without the newest snapshot."""
    return any(not older.problem for older in contents.snapshots[:-1]) or contents.first_index == 1


def _gap(contents: Contents) -> _Step | None:
    """Entries are missing between two segments, or behind the snapshot, so those that follow cannot be applied."""
    index = max((one.index for one in contents.snapshots), default=0)
    gaps = [(first, last) for first, last in contents.gaps() if last > index]
    if not gaps:
        return None
    first, last = gaps[0]
    if first == 1:
        return None  # nothing would be left
    following = [one.name for one in contents.segments if one.is_open or one.first > last]
    return _all_aside(
        following[::-1], f"entries {first} to {last} are missing in front of them", f"entries from {first} on"
    )


def _damaged(contents: Contents) -> _Step | None:
    """A closed segment is damaged: the good entries in front of the damage stay, under a name of their own.

    The rule for surplus segments sets the damaged one aside then, and that for gaps what follows. In any other order a
    kill in between could leave the damaged one at the end of the log, where a start sets all of it aside.
    """
    covered = max((one.index for one in contents.snapshots if not one.problem), default=0)
    for one in _closed(contents):
        if one.verdict == DAMAGED:
            loses = f"entries from {one.first + one.entries} on"
            if one.entries:
                return _keep_head(contents.directory, one, loses)
            if one.first > 1 and (one.first <= covered + 1 or one is not _closed(contents)[0]):
                return _aside(one.name, one.problem, loses)
            return None  # nothing would be left
        covered = max(covered, one.last)
    return None


def _unrelated(contents: Contents) -> _Step | None:
    """The log ends in front of the snapshot and an open segment lies there, whose indexes nobody can tell."""
    snapshots = [one.index for one in contents.snapshots[-1:] if not one.problem]
    ends = [one.first + one.entries - 1 for one in contents.segments if one.entries]
    if not snapshots or not ends or max(ends) >= snapshots[0]:
        return None
    one = contents.segments[-1]
    reason = f"the log ends at {max(ends)}, before the snapshot at {snapshots[0]}, so its indexes are not known"
    return _aside(one.name, reason, f"entries from {snapshots[0] + 1} on")


_RULES: Final = (_surplus, _behind_snapshot, _repeated, _damaged, _gap, _bad_snapshot, _unrelated)


# ---- changes ---------------------------------------------------------------------------------------------------------


def _set_aside(dir: str, name: str) -> None:
    fs.rename_file(dir, name, disk.aside_name(name))


def _aside(name: str, reason: str, loses: str = "") -> _Step:
    return _Step(f"{name} is set aside: {reason}", lambda dir: _set_aside(dir, name), loses)


def _all_aside(names: list[str], reason: str, loses: str = "") -> _Step:
    """Set files aside, one durably after the other: the order is what makes a kill in between harmless."""

    def act(dir: str) -> None:
        for name in names:
            _set_aside(dir, name)
            fs.sync_dir(dir)

    if len(names) == 1:
        return _Step(f"{names[0]} is set aside: {reason}", act, loses)
    return _Step(f"{names[0]} to {names[-1]}, {len(names)} files, are set aside in this order: {reason}", act, loses)


def _write(dir: str, first_index: int, batch: EntryBatch) -> None:
    segment.write_closed(dir, first_index, [batch])


def _keep_head(dir: str, one: SegmentFile, loses: str) -> _Step:
    """Write the good entries of a damaged segment under the name that they deserve."""
    good = _batch(dir, one)
    name = segment.closed_name(one.first, one.first + len(good) - 1)

    def act(dir: str) -> None:
        if name == one.name:
            # It has all entries that its name promises, and more. A copy stays, and the file is replaced in one step.
            kept = disk.aside_name(name)
            fs.make_file(dir, kept, [fs.read_file(dir, name)])
            fs.replace_file(dir, name, b"".join(segment.encode_file([good])))
        else:
            segment.write_closed(dir, one.first, [good])

    return _Step(f"{name} is written with the good entries of {one.name}: {one.problem}", act, loses)

"""New ids for the servers of a stopped cluster: the same history, of servers that are called otherwise.

Duty: `renumber` puts new ids in the place of old ones wherever a directory has them: in the configurations of the log
and of snapshots, in the vote, and in files of the layer above, whose new contents the caller gives. Entries keep index
and term, and become the same in each directory, so that logs that matched match afterwards (dissertation, 3.5),
whichever goes furthest. All members are stopped, and each directory gets the same ids, here or on its machine.

Nothing can fork by it, not even half done: no server has or had a new id, so an id means one directory before and
behind. Votes and entries stay in their directory, so majorities by old and by new ids are majorities of the same
directories, and two of them have one in common (3.6.1). A directory that was forgotten only fails to take part.

Happy path: what changes is written beside, as `renumbered-NAME`; then the metadata bar every start, here and in C
(`metadata.bar`); the files change places, and the vote by its new name lifts the bar. The old files are set aside.

Failure modes: `Refused` with the reason, nothing touched; Failure. Killed before the bar a directory loads as it was;
behind it no server starts, and the same call completes it.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from io_uv import disk, fs, listing, metadata, segment, snapshot_file
from io_uv.datadir.content import read_closed
from io_uv.datadir.recovery import Refused
from io_uv.datadir.rehearsal import Rehearsal, copy_of, start
from io_uv.failure import Failure, Unknown
from io_uv.segment import SegmentInfo
from io_uv.snapshot_file import SnapshotInfo
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED
from pyraft.types import RAFT_CHANGE, EntryBatch, RaftConfiguration

PREFIX: Final = "renumbered-"
"""The names of what is written beside begin with it."""
_PLAN: Final = PREFIX + "plan"


@dataclass(frozen=True)
class Seat:
    """The directory of a member. Its lock is the caller's."""

    path: str | os.PathLike[str]
    id: int = 0
    """The id of the member, old or new; 0 if nothing in the directory tells it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The new contents of files of the layer above that name ids."""


@dataclass
class _Plan:
    """The files of a directory in which ids change. `known` are all ids that are in it."""

    known: set[int] = field(default_factory=set)
    segments: list[SegmentInfo] = field(default_factory=list)
    snapshots: list[SnapshotInfo] = field(default_factory=list)
    useless: list[str] = field(default_factory=list)
    """Damaged files that no start loads."""


@dataclass
class _Look:
    """A directory as it is before anything changes."""

    seat: Seat
    barred: bool = False
    done: bool = False
    found: Rehearsal = field(default_factory=Rehearsal)
    plan: _Plan = field(default_factory=_Plan)

    @property
    def dir(self) -> str:
        """The directory."""
        return os.fspath(self.seat.path)


def renumber(
    seats: Sequence[Seat],
    ids: Mapping[int, int],
    elsewhere: Collection[int] = (),
    *,
    apply: bool = False,
    scratch: str | None = None,
) -> list[str]:
    """Give the servers with ids that `ids` has the ids that it has for them; return what was done, or would be done.

    `seats` are the directories that are here; `elsewhere` the members, by their old ids, whose directories are not, and
    get the same there. Directories in which it was done already are left alone, so a call can be repeated. Raises
    Refused: `ids` is empty, or has a number that is not an id; a new id was given twice, or is one that a server has or
    had; a member is neither here nor elsewhere; two directories are one member's, or one is a stranger's; a call with
    other ids was interrupted. Raises Failure with what a start would say if a directory does not load.
    """
    _check_ids(ids)
    looked = [_look(one, ids, scratch) for one in seats]
    _account(looked, ids, elsewhere)
    steps = []
    for one in looked:
        steps += [f"{one.dir}: {step}" for step in _steps(one, ids)]
        if apply:
            _change(one, ids)
    return steps


# ---- looking ---------------------------------------------------------------------------------------------------------


def _check_ids(ids: Mapping[int, int]) -> None:
    if not ids:
        raise Refused("there are no ids to change")
    for id in (*ids, *ids.values()):
        if not configuration.is_id(id):
            raise Refused(f"{id} cannot be the id of a server: a number of 64 bits, not 0")
    twice = sorted({id for id in ids.values() if list(ids.values()).count(id) > 1})
    if twice:
        raise Refused(f"id {twice[0]} would be that of two servers")
    both = sorted(set(ids) & set(ids.values()))
    if both:
        raise Refused(f"id {both[0]} is that of a server already: a directory that was forgotten would be taken for it")


def _look(seat: Seat, ids: Mapping[int, int], scratch: str | None) -> _Look:
    dir = os.fspath(seat.path)
    if metadata.barred(dir) is not None:
        begun = _begun(dir)
        if begun != dict(ids):
            given = ", ".join(f"{old}={new}" for old, new in sorted(begun.items()))
            raise Refused(f"{dir}: other ids were being given to the servers, and that was interrupted: {given}")
        return _Look(seat, barred=True)
    with copy_of(dir, scratch) as (copy, _):
        found = _started(copy, dir)
        look = _Look(seat, found=found, plan=_plan(copy, ids))
    if found.configuration is None and not seat.id:
        raise Failure(RAFT_CORRUPT, f"{dir}: there is no configuration in it, so it was never a member")
    new = sorted(look.plan.known & set(ids.values()))
    old = look.plan.known & set(ids)
    if new and old:
        raise Refused(f"{dir}: id {new[0]} is that of a server already, or was: take one that none has ever had")
    look.done = bool(new) or (not old and seat.id in ids.values())
    return look


def _started(dir: str, name: str) -> Rehearsal:
    found = start(dir, path=name)
    if not found.starts:
        raise Failure(found.code, f"{name}: a start is refused: {found.problem}")
    return found


def _plan(dir: str, ids: Mapping[int, int]) -> _Plan:
    """Look for ids in each file of a directory on which a start has worked: there are no open segments."""
    plan = _Plan()
    vote = metadata.load(dir).voted_for
    plan.known |= {vote} if vote else set()
    snapshots, segments = listing.list(dir)
    for info in segments:
        batch, problem = read_closed(dir, info)
        if problem is not None:
            if not _is_damage(problem):
                raise problem.wrap(info.filename)
            plan.useless.append(info.filename)
            continue
        found = {one.id for _, conf in _configurations(info.filename, batch) for one in conf.servers}
        plan.known |= found
        if found & set(ids):
            plan.segments.append(info)
    for one in snapshots:
        try:
            servers = snapshot_file.read_meta(dir, one).configuration.servers
        except Failure as exc:
            if not _is_damage(exc):
                raise
            plan.useless += [one.filename, one.data_name]
            continue
        found = {server.id for server in servers}
        plan.known |= found
        if found & set(ids):
            plan.snapshots.append(one)
    return plan


def _is_damage(problem: Failure) -> bool:
    """Return whether a file is at fault, and not a disk or a version that does not know it."""
    return problem.code in (RAFT_CORRUPT, RAFT_MALFORMED) and not isinstance(problem, Unknown)


def _configurations(name: str, batch: EntryBatch) -> list[tuple[int, RaftConfiguration]]:
    """Return the configurations among entries, each with its place."""
    found = []
    for at, (type, buf) in enumerate(zip(batch.types, batch.bufs, strict=True)):
        if type == RAFT_CHANGE:
            rv, conf, problem = configuration.decode(buf)
            if rv != 0:
                raise Unknown(rv, f"{name}: entry {at + 1} in it: {problem}")
            found.append((at, conf))
    return found


def _account(looked: Sequence[_Look], ids: Mapping[int, int], elsewhere: Collection[int]) -> None:
    """Raise Refused unless every member is here or elsewhere, once, by the log that goes furthest."""
    before = {new: old for old, new in ids.items()}
    known = [one for one in looked if one.found.configuration is not None]
    if not known:
        if not all(one.barred for one in looked):
            raise Refused("none of the directories has a configuration, which would say who the members are")
        return  # they were accounted for when it began
    furthest = max(known, key=lambda one: (one.found.last_term, one.found.last_index))
    conf = furthest.found.configuration
    assert conf is not None
    members = {before.get(one.id, one.id) if furthest.done else one.id for one in conf.servers}
    for id in (*ids, *elsewhere):
        if id not in members:
            raise Refused(f"server {id} is not a member: these are {_list(members)}")
    seen: dict[int, str] = {}
    for one in looked:
        id = before.get(one.seat.id, one.seat.id)
        if not id:
            continue
        if id in seen:
            raise Refused(f"{seen[id]} and {one.dir} are both of server {id}: one of them is a copy, remove it")
        if id not in members or id in elsewhere:
            what = "is said to be elsewhere" if id in members else f"is not a member: these are {_list(members)}"
            raise Refused(f"{one.dir} is of server {id}, which {what}")
        seen[id] = one.dir
    missing = members - set(seen) - set(elsewhere)
    unnamed = len(looked) - len(seen)
    if unnamed > len(missing):
        raise Refused(f"there are more directories than members: {_list(members)}")
    if unnamed < len(missing):
        raise Refused(
            f"of the members {_list(missing)} {len(missing) - unnamed} have no directory here: give them, or say that "
            "they are elsewhere, and have the same done there before anybody is started"
        )


def _list(ids: Collection[int]) -> str:
    return ", ".join(map(str, sorted(ids)))


def _steps(look: _Look, ids: Mapping[int, int]) -> list[str]:
    if look.done:
        return ["it has the new ids already"]
    if look.barred:
        return ["what was interrupted is completed"]
    steps = [f"{name} is damaged, and no start loads it: it is set aside" for name in look.plan.useless]
    names = [one.filename for one in look.plan.segments] + [one.filename for one in look.plan.snapshots]
    names += sorted(look.seat.files)
    steps += [f"{name} gets the new ids" for name in names]
    vote = look.found.voted_for
    if vote in ids:
        steps.append(f"the vote of term {look.found.term} is one for server {ids[vote]}, who was {vote}")
    return steps


# ---- changing --------------------------------------------------------------------------------------------------------


def _change(look: _Look, ids: Mapping[int, int]) -> None:
    if not look.barred and not look.done:
        _started(look.dir, look.dir)
    renumber_now(look.dir, ids, look.seat.files)


def renumber_now(dir: str, ids: Mapping[int, int], files: Mapping[str, bytes]) -> None:
    """Do what `renumber` does with a directory on which a start has worked, or that an earlier call has barred."""
    pending = metadata.barred(dir)
    if pending is None:
        _clear(dir)
        plan = _plan(dir, ids)
        if plan.known & set(ids.values()):
            return
        stored = metadata.load(dir)
        _prepare(dir, plan, ids, files)
        pending = Metadata(stored.version + 1, stored.term, ids.get(stored.voted_for, stored.voted_for))
        metadata.bar(dir, pending)
    _switch(dir)
    metadata.store(dir, pending)
    _clear(dir)


def _prepare(dir: str, plan: _Plan, ids: Mapping[int, int], files: Mapping[str, bytes]) -> None:
    """Write beside what is to be, durably."""
    for info in plan.segments:
        batch, problem = read_closed(dir, info)
        if problem is not None:
            raise problem.wrap(info.filename)
        for at, conf in _configurations(info.filename, batch):
            batch.bufs[at] = configuration.encode(_renamed(conf, ids))
        fs.make_file(dir, PREFIX + info.filename, segment.encode_file([batch]))
    for one in plan.snapshots:
        read = snapshot_file.read_meta(dir, one)
        meta = snapshot_file.encode_meta(_renamed(read.configuration, ids), read.configuration_index)
        fs.make_file(dir, PREFIX + one.filename, [meta])
    for name, data in files.items():
        fs.make_file(dir, PREFIX + name, [data])
    facts = {"ids": {str(old): new for old, new in ids.items()}, "aside": plan.useless}
    fs.make_file(dir, _PLAN, [json.dumps(facts).encode() + b"\n"])


def _renamed(conf: RaftConfiguration, ids: Mapping[int, int]) -> RaftConfiguration:
    """Return a configuration with the new ids."""
    found = configuration.copy(conf)
    for one in found.servers:
        one.id = ids.get(one.id, one.id)
    return found


def _begun(dir: str) -> dict[int, int]:
    """Return the ids that an interrupted call was giving."""
    return {int(old): int(new) for old, new in _facts(dir)["ids"].items()}


def _facts(dir: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(fs.read_file(dir, _PLAN))
        return found
    except ValueError:
        raise Failure(RAFT_MALFORMED, f"{_PLAN} in directory '{dir}' is not what was written") from None


def _switch(dir: str) -> None:
    """Have the files change places. Nothing is replaced: what has a name is away, durably, before another gets it."""
    names = set(fs.list_dir(dir))
    for name in _facts(dir)["aside"]:
        if name in names:
            fs.rename_file(dir, name, disk.aside_name(name))
    new = sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX) and name != _PLAN)
    for name in new:
        if name in names:
            fs.rename_file(dir, name, disk.aside_name(name))
    fs.sync_dir(dir)
    for name in new:
        fs.rename_file(dir, PREFIX + name, name)
    fs.sync_dir(dir)


def _clear(dir: str) -> None:
    """Remove what was written beside and is not needed."""
    names = [name for name in fs.list_dir(dir) if name.startswith(PREFIX)]
    for name in names:
        fs.remove_file(dir, name)
    if names:
        fs.sync_dir(dir)

"""The acts of a start on a data directory, found out on a copy.

Duty: `rehearse` copies a directory and has the loader of raft_start work on the copy: it returns what would be loaded,
or why nothing would, and each change that the start would make to the files, in words. So there is no second opinion
about what a start does. Only three refusals are the core's, not the loader's, and are repeated here: that of a log
without a term, of one that does not begin with a configuration, and of a lone voter that may have lost entries.

Happy path: copies have the files that a start looks at, and are gone afterwards. The attribute with the
size of a segment is copied, too; where the place of the copies refuses attributes, `doubt` says what that may change.

Failure modes: Failure if the directory cannot be copied, RAFT_NOSPACE for instance (`scratch` names another place).
A refusal by the start is part of the answer.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from io_uv import disk, fs, marker, metadata, segment
from io_uv.datadir.progress import Progress, Tally
from io_uv.failure import Failure, Unknown, failure
from pyraft import configuration
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR
from pyraft.types import RAFT_CHANGE, EntryBatch, RaftConfiguration, RaftSnapshot

NO_BEGIN: Final = "the log does not begin with a configuration"
_MOST_KEPT: Final = 256
"""Files that are open during a start, at most."""


@dataclass
class Rehearsal:
    """How a start went on a copy of a directory."""

    code: int = 0
    """0, or the code that raft_start would return."""
    problem: str = ""
    """The text of raft_errmsg then."""
    unknown: bool = False
    """The start is refused for something that this version does not know, which may be a later version's."""
    barred: bool = False
    """It is refused until the ids of the servers are changed, which was interrupted (`renumbering`)."""
    forgotten: bool = False
    """It is refused as there are entries and no term: the metadata are gone, and the votes in them."""
    alone: bool = False
    """There is one voter: if it is this server, it is refused while the mark of `io_uv.marker` stands."""
    term: int = 0
    voted_for: int = 0
    snapshot: tuple[int, int] | None = None
    """Index and term of the snapshot that would be restored."""
    first_index: int = 0
    """Index of the first entry that would be in the log; it is last_index + 1 if none would."""
    last_index: int = 0
    last_term: int = 0
    configuration: RaftConfiguration | None = None
    """The last one in what would be loaded, committed or not."""
    configuration_index: int = 0
    recovering: bool = False
    """Acknowledged entries may be missing: the server would withhold its votes until a leader has filled it up."""
    changes: list[str] = field(default_factory=list)
    """The fate of files, in order of their names."""
    doubt: str = ""

    @property
    def starts(self) -> bool:
        """Whether the log would load."""
        return self.code == 0


def rehearse(
    path: str | os.PathLike[str],
    scratch: str | None = None,
    auto_recovery: bool = True,
    progress: Progress | None = None,
) -> Rehearsal:
    """Return what raft_start would do with the directory `path`, whose lock the caller holds.

    `scratch` is where the copy is made, as tempfile.mkdtemp takes it; `progress` is told of the bytes that were copied.
    Source of what happens: `io_uv.disk`.
    """
    dir = os.fspath(path)
    with copy_of(dir, scratch, progress) as (copy, doubt):
        return start(copy, auto_recovery, doubt, path=dir)


def start(dir: str, auto_recovery: bool = True, doubt: str = "", *, path: str | None = None) -> Rehearsal:
    """Do to `dir` itself what raft_init and raft_start do to its files, and return what came of it.

    `path` is the directory that it is a copy of, for texts: nobody can look at the copy afterwards.
    """
    found = Rehearsal(doubt=doubt)
    with _unheard(), _kept(dir):
        before = _files(dir)
        try:
            disk.clean_up(dir)
            disk.refuse_links(dir)
            stored = metadata.load(dir)
            found.term, found.voted_for = stored.term, stored.voted_for
            snapshot, start_index, entries = disk.load(dir, auto_recovery)
            disk.check_term(stored, snapshot, entries)
            _take_over(found, snapshot, start_index, entries)
            if snapshot is None and entries.types and entries.types[0] != RAFT_CHANGE:
                raise Failure(RAFT_CORRUPT, NO_BEGIN)
            if stored.term == 0 and found.last_index > 0:
                found.forgotten = True
                raise Failure(RAFT_CORRUPT, f"there is a log but no term: {disk.LOST}")
        except Failure as exc:
            found.code, found.problem, found.unknown = exc.code, exc.message, isinstance(exc, Unknown)
            found.barred = isinstance(exc, metadata.Barred)
        found.changes = _differences(before, _files(dir))
    if path is not None:
        found.problem = found.problem.replace(dir, path)
    found.recovering = marker.marker_read(dir) is not None
    conf = found.configuration
    found.alone = found.recovering and conf is not None and configuration.voter_count(conf) == 1
    return found


def _take_over(found: Rehearsal, snapshot: RaftSnapshot | None, start_index: int, entries: EntryBatch) -> None:
    found.first_index = start_index
    found.last_index = start_index + len(entries) - 1
    found.last_term = disk.last_term(snapshot, entries)
    if snapshot is not None:
        found.snapshot = snapshot.index, snapshot.term
        found.last_index = max(found.last_index, snapshot.index)
        found.configuration_index, found.configuration = snapshot.configuration_index, snapshot.configuration
    for at in range(len(entries) - 1, -1, -1):
        if entries.types[at] == RAFT_CHANGE and start_index + at > found.configuration_index:
            rv, conf, _ = configuration.decode(entries.bufs[at])
            if rv == 0:
                found.configuration_index, found.configuration = start_index + at, conf
            return


@contextmanager
def copy_of(
    dir: str, scratch: str | None = None, progress: Progress | None = None, also: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield a copy of a directory, and what may be different there; the copy is removed afterwards.

    Names that mean nothing to a start stay out of it, but for those in `also`: they may have any size.
    A second name beside the copy keeps the inode of each file from being given to another one, see _kept.
    """
    try:
        place = tempfile.mkdtemp(prefix="raft-rehearsal-", dir=scratch)
    except OSError as exc:
        raise failure("make a directory for the copy", exc) from None
    try:
        copy, names = os.path.join(place, "copy"), os.path.join(place, "names")
        os.mkdir(copy)
        os.mkdir(names)
        lost = _copy(dir, copy, progress, also)
        for name in os.listdir(copy):
            if os.path.isfile(os.path.join(copy, name)):
                os.link(os.path.join(copy, name), os.path.join(names, name))
        yield copy, lost
    except OSError as exc:
        raise failure("copy the directory", exc) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copy(dir: str, place: str, progress: Progress | None, also: Collection[str]) -> str:
    """Copy the files of `dir`; return "" or what got lost of them."""
    lost = ""
    names = [name for name in fs.list_dir(dir) if name in also or disk.means_something(name)]

    def size(name: str) -> int:
        return os.stat(fs.join(dir, name), follow_symlinks=False).st_size

    tally = Tally(progress, "copying", 0 if progress is None else sum(map(size, names)))
    for name in names:
        source, target = fs.join(dir, name), fs.join(place, name)
        if name.startswith(disk.SET_ASIDE_PREFIX):
            continue
        try:
            if os.path.islink(source) or not os.path.isfile(source):
                _copy_odd(source, target)
                continue
            if name.startswith(fs.TMP_PREFIX):
                Path(target).touch()  # a start removes it, without a look
                continue
            shutil.copyfile(source, target)
            tally.add(os.stat(target).st_size)
        except OSError as exc:
            raise failure(f"copy {name} to {os.path.dirname(place)}", exc, RAFT_IOERR) from None
        if not _copy_note(source, target):
            lost = "the copy could not be given the noted sizes of segments: a shortened segment would pass for a tear"
    return lost


def _copy_odd(source: str, target: str) -> None:
    """Put something of the same kind in place of anything but a file."""
    if os.path.islink(source):
        os.symlink("nowhere", target)
    elif os.path.isdir(source):
        os.mkdir(target)
    else:
        os.mkfifo(target)


def _copy_note(source: str, target: str) -> bool:
    """Copy the attribute with the size of a segment; return False if there is one that could not be copied."""
    try:
        note = os.getxattr(source, fs.SIZE_NOTE)
    except OSError:
        return True
    try:
        os.setxattr(target, fs.SIZE_NOTE, note)
    except OSError:
        return False
    return True


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what the loader says about a copy out of the log of this program."""
    logger = logging.getLogger("io_uv")
    was = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was


@contextmanager
def _kept(dir: str) -> Iterator[None]:
    """Keep the inodes of files that a start may remove from being given to new ones, which would pass for them."""
    names = sorted(filter(disk.means_something, fs.list_dir(dir)), reverse=True)  # the closed segments last
    with ExitStack() as stack:
        with suppress(OSError):
            for name in names[:_MOST_KEPT]:
                stack.callback(fs.close, fs.open(fs.join(dir, name), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        yield


def _files(dir: str) -> dict[str, tuple[int, int]]:
    """Return size and inode of each file, by name: a renamed one keeps its inode."""
    found = {}
    for name in filter(disk.means_something, fs.list_dir(dir)):
        stat = os.stat(fs.join(dir, name), follow_symlinks=False)
        found[name] = stat.st_size, stat.st_ino
    return found


def _differences(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    """Say in words what happened to the files."""
    now_at = {inode: name for name, (_, inode) in after.items()}
    said = []
    for name, (size, inode) in sorted(before.items()):
        new_name = now_at.get(inode)
        if name in after and new_name == name:
            if after[name][0] < size and segment.parse_name(name) is not None:
                said.append(f"{name} is cut from {size} to {after[name][0]} bytes")
        elif new_name is None:
            said.append(f"{name} is removed" if name not in after else f"{name} is written anew")
        elif new_name.startswith(disk.SET_ASIDE_PREFIX):
            said.append(f"{name} is set aside")
        else:
            cut = f", cut from {size} to {after[new_name][0]} bytes" if after[new_name][0] < size else ""
            said.append(f"{name} becomes {new_name}{cut}")
    for name, (_, inode) in sorted(after.items()):
        if name not in before and inode not in {inode for _, inode in before.values()}:
            said.append(f"{name} appears")
    return said

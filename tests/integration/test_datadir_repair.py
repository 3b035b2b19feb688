"""Mending directories that a start refuses: files stay or are set aside, and no loss is without a mark.

The last tests take directories of servers that were killed, damage every file of them in every way that test_damage
knows (a part of them here), and see that a repair leaves nothing missing that a start would have found.
"""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from io_uv import datadir, disk, marker, metadata
from io_uv.datadir import repairs
from io_uv.failure import Failure
from pyraft.types import RAFT_CHANGE
from tests.integration.test_damage import _after_a_kill, _cuts, _flips, _with_a_log_only, _with_compressed_snapshots
from tests.integration.test_datadir import change
from tests.integration.test_stopped_anywhere import Recorder, put
from tests.lib.disk import Dir, commands, numbers
from tests.lib.power_cut import Expected, Found


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    """A directory with metadata of term 1."""
    made = Dir(tmp_path)
    made.metadata(1, 1, 1)
    return made


def repaired(dir: Dir) -> datadir.Repair:
    """Repair a directory after a dry run, which says the same and changes nothing."""
    before = dir.names
    planned = datadir.repair(dir.path)
    assert dir.names == before
    assert not planned.applied
    done = datadir.repair(dir.path, apply=True)
    assert done.steps == planned.steps
    assert (done.needed, done.may_lose, done.advice) == (planned.needed, planned.may_lose, planned.advice)
    assert done.applied == (planned.needed and planned.start.starts)
    return done


def log(dir: Dir) -> tuple[int, list[int]]:
    """Load a directory without automatic recovery; return the start index and the numbers of its commands."""
    _, start, entries = disk.load(str(dir), False)
    return start, numbers([entry for entry in entries if entry.type != RAFT_CHANGE])


def test_a_directory_that_loads_is_left_alone(dir: Dir) -> None:
    """So is one with damage that a start gets over by itself: that is the start's affair."""
    dir.closed(1, [change(1)], commands(2, 4))
    name = dir.closed(6, commands(6, 2))
    done = repaired(dir)
    assert not done.needed
    assert done.steps == []
    dir.overwrite(name, 20, b"\xff")
    assert not repaired(dir).needed
    assert dir.has(name)


def test_damage_in_the_middle_cuts_the_log_there(dir: Dir) -> None:
    """The good entries in front of it stay, what follows is set aside, newest first, and the mark stands."""
    dir.closed(1, [change(1)], commands(2, 1))
    name = dir.closed(3, commands(3, 2), commands(5, 2))
    dir.closed(7, commands(7, 2))
    dir.open(1, commands(9, 2))
    dir.overwrite(name, 100, b"\xff")
    done = repaired(dir)
    assert done.needed
    assert done.may_lose == "entries from 5 on"
    assert "remove this server" in done.advice
    assert marker.marker_read(str(dir)) is not None
    assert log(dir) == (1, [2, 3, 4])
    aside = [one.split("-", 2)[2] for one in dir.names if one.startswith("corrupt-")]
    assert sorted(aside) == ["0000000000000003-0000000000000006", "0000000000000007-0000000000000008", "open-1"]


def test_a_gap_ends_the_log(dir: Dir) -> None:
    """Entries behind the missing ones cannot be applied."""
    dir.closed(1, [change(1)], commands(2, 4))
    dir.closed(9, commands(9, 2))
    done = repaired(dir)
    assert done.may_lose == "entries from 6 on"
    assert log(dir) == (1, [2, 3, 4, 5])


@pytest.mark.parametrize("snapshot", [False, True], ids=["gap", "snapshot"])
def test_any_number_of_segments_is_set_aside(dir: Dir, monkeypatch: pytest.MonkeyPatch, snapshot: bool) -> None:
    """All those behind a gap, or in front of one that a snapshot covers, are one step, in the order that is said."""
    monkeypatch.setattr(repairs, "_MOST_STEPS", 1)
    dir.closed(1, [change(1)])
    names = [dir.closed(3 + i, commands(3 + i, 1)) for i in range(20)]
    if snapshot:
        dir.snapshot(1, 15)
        dir.overwrite(names[10], 40, b"\xff")
        names = ["0000000000000001-0000000000000001", *names[:11]]
    renamed: list[str] = []
    monkeypatch.setattr(disk, "aside_name", lambda name: renamed.append(name) or f"corrupt-1-{name}")
    done = datadir.repair(dir.path, apply=True)
    assert (done.start.starts, done.applied, done.may_lose) == (True, True, "" if snapshot else "entries from 2 on")
    assert renamed[-len(names) :] == (names if snapshot else names[::-1])
    assert len(done.steps) == 1
    assert f"{len(names)} files, are set aside in this order" in done.steps[0]
    assert not [name for name in names if dir.has(name)]


def test_a_gap_in_front_of_a_snapshot_costs_nothing(dir: Dir) -> None:
    """Segments that the snapshot covers go, without a mark."""
    dir.closed(1, [change(1)], commands(2, 1))
    name = dir.closed(3, commands(3, 2))
    dir.closed(5, commands(5, 4))
    dir.snapshot(1, 6)
    dir.overwrite(name, 40, b"\xff")
    done = repaired(dir)
    assert done.needed
    assert done.may_lose == ""
    assert marker.marker_read(str(dir)) is None
    assert log(dir) == (5, [5, 6, 7, 8])


def test_a_segment_whose_entries_another_one_has(dir: Dir) -> None:
    """They are within another one; a longer one that says something else is not taken for it."""
    dir.closed(1, [change(1)], commands(2, 5))
    dir.closed(3, commands(3, 2))
    dir.closed(7, commands(7, 2))
    done = repaired(dir)
    assert done.may_lose == ""
    assert done.steps == [
        "0000000000000003-0000000000000004 is set aside: 0000000000000001-0000000000000006 has its entries, too"
    ]
    assert log(dir) == (1, [2, 3, 4, 5, 6, 7, 8])


def overlapping(dir: Dir) -> None:
    """Make a log in which two neighbours have two entries in common."""
    dir.closed(1, [change(1)], commands(2, 5))
    dir.closed(5, commands(5, 4))
    dir.closed(9, commands(9, 2))


def test_neighbours_that_have_entries_in_common(dir: Dir) -> None:
    """The first one ends in front of the second one afterwards, and nothing is lost."""
    overlapping(dir)
    done = repaired(dir)
    assert (done.may_lose, len(done.steps)) == ("", 1)
    assert "0000000000000001-0000000000000004 is written with the entries" in done.steps[0]
    assert done.start.changes == ["0000000000000001-0000000000000006 is set aside"]
    assert marker.marker_read(str(dir)) is None
    assert log(dir) == (1, [2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert [name.split("-", 2)[2] for name in dir.names if name.startswith("corrupt-")] == [
        "0000000000000001-0000000000000006"
    ]


def test_neighbours_that_have_entries_in_common_and_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each change of the repair: a start that is not refused finds all, and the same call ends with all."""
    (tmp_path / "0").mkdir()
    dir = Dir(tmp_path / "0")
    dir.metadata(1, 1, 1)
    overlapping(dir)
    with monkeypatch.context() as patched:
        recorder = Recorder(patched, dir.path)
        recorder.take("before")
        datadir.repair(dir.path, apply=True, scratch=str(tmp_path))
    loaded = 0
    for number, (what, image, _) in enumerate(recorder.images, 1):
        killed = Dir(put(image, tmp_path / f"{number}"))
        found = datadir.rehearse(killed.path)
        if found.starts:
            loaded += 1
            assert (found.first_index, found.last_index, found.recovering) == (1, 10, False), what
        datadir.repair(killed.path, apply=True)
        assert log(killed) == (1, [2, 3, 4, 5, 6, 7, 8, 9, 10]), what
        assert marker.marker_read(str(killed)) is None
    assert loaded > 1


def test_overlaps_that_contradict_each_other_are_left_to_people(dir: Dir) -> None:
    """No rule says which of the two is right."""
    dir.closed(1, [change(1)], commands(2, 5))
    dir.closed(3, commands(33, 2))
    dir.closed(7, commands(7, 2))
    done = repaired(dir)
    assert done.needed
    assert not done.applied
    assert not done.start.starts
    assert "No rule of this tool fits" in done.advice


def test_a_bad_snapshot_without_the_log_in_front_of_it(dir: Dir) -> None:
    """The older snapshot and what follows it are gone on from, marked."""
    dir.snapshot(1, 2)
    name = dir.snapshot(1, 6, time=2000)
    dir.closed(3, commands(3, 2))
    dir.overwrite(f"{name}.meta", 40, b"\xff")
    done = repaired(dir)
    assert done.may_lose == "entries up to 6 that are in no older snapshot and not in the log"
    assert marker.marker_read(str(dir)) is not None
    found, start, entries = disk.load(str(dir), False)
    assert found is not None
    assert (found.index, start, numbers(entries)) == (2, 3, [3, 4])


def test_the_only_snapshot_is_bad(dir: Dir) -> None:
    """Nothing is left to go on from: it says so, and touches nothing."""
    name = dir.snapshot(1, 6)
    dir.closed(7, commands(7, 2))
    dir.overwrite(f"{name}.meta", 40, b"\xff")
    before = dir.names
    done = repaired(dir)
    assert not done.applied
    assert dir.names == before


def test_lost_metadata_cannot_be_mended(dir: Dir) -> None:
    """Nobody knows for whom this server has voted."""
    dir.closed(1, [change(1)])
    dir.write("metadata1", b"\xff" * 32)
    done = repaired(dir)
    assert not done.applied
    assert "add it again under a new id" in done.advice
    dir.remove("metadata1")
    done = repaired(dir)
    assert (done.needed, done.applied, done.steps) == (True, False, [])
    assert "there is a log but no term" in done.advice


def test_a_repair_that_was_killed_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each of its changes the same call ends with the same log, and none starts without the mark before."""
    (tmp_path / "0").mkdir()
    dir = Dir(tmp_path / "0")
    dir.metadata(1, 1, 1)
    dir.closed(1, [change(1)], commands(2, 1))
    name = dir.closed(3, commands(3, 2), commands(5, 2))
    dir.closed(7, commands(7, 2))
    dir.open(1, commands(9, 2), ours=True)
    dir.overwrite(name, 100, b"\xff")
    with monkeypatch.context() as patched:
        recorder = Recorder(patched, dir.path)
        recorder.take("before")
        datadir.repair(dir.path, apply=True, scratch=str(tmp_path))
    assert log(dir) == (1, [2, 3, 4])
    assert len(recorder.images) > 8
    for number, (what, image, _) in enumerate(recorder.images, 1):
        killed = Dir(put(image, tmp_path / str(number)))
        datadir.repair(killed.path, apply=True)
        assert log(killed) == (1, [2, 3, 4]), what
        assert marker.marker_read(str(killed)) is not None, what


class Started(Found):
    """The finds of a start on a real directory, as test_damage compares it."""

    def __init__(self, dir: str) -> None:
        state = metadata.load(dir)
        self.version, self.term, self.voted_for = state.version, state.term, state.voted_for
        disk.clean_up(dir)
        self.snapshot, self.start_index, self.entries = disk.load(dir, False)
        self.marked = marker.marker_read(dir) is not None


def outcome(dir: Dir, expected: Expected) -> str:
    """Repair a directory and start on it; return "whole", "marked", "left" or what is wrong."""
    done = datadir.repair(dir.path, apply=True)
    if done.needed and not done.applied:
        return "left"
    try:
        found = Started(str(dir)) if done.applied else None
    except Failure as exc:
        return f"a start after the repair is refused: {exc}"
    if found is None:
        return "not needed"
    problem = expected.problems(found, fall_back=True)
    return "marked" if found.marked else problem or "whole"


@pytest.mark.parametrize("make", [_with_compressed_snapshots, _with_a_log_only])
def test_no_repair_hides_a_loss(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """After some hundred of the damages of test_damage all is there, or the mark says that it may not be."""
    image, expected = _after_a_kill(make)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    cases = []
    for name, (content, _) in image.files.items():
        cases += [(name, what, damaged) for what, damaged in rng.sample([*_flips(content), *_cuts(content)], 12)]
    outcomes: Counter[str] = Counter()
    for number, (damaged_name, what, damaged) in enumerate(cases):
        path = tmp_path / str(number)
        path.mkdir()
        for name, (content, attributes) in image.files.items():
            (path / name).write_bytes(damaged if name == damaged_name else content)
            for attribute, value in attributes:
                os.setxattr(path / name, attribute, value)
        found = outcome(Dir(path), expected)
        assert found in ("whole", "marked", "left", "not needed"), f"{damaged_name}: {what}: {found}"
        outcomes[found] += 1
    print(dict(outcomes))
    assert outcomes["whole"] + outcomes["marked"] > 0

"""Small segments are put together: same entries, whatever interrupts it."""

import json
import os
import random
from pathlib import Path

import pytest

from io_uv import datadir, disk, marker
from io_uv.datadir import merging
from io_uv.failure import Failure
from tests.integration.test_command import run
from tests.integration.test_datadir import change
from tests.integration.test_stopped_anywhere import image_of, put
from tests.lib.crashfs import DIR, Image, MemoryFs, Replay, cuts, installed
from tests.lib.disk import Dir, commands, numbers


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    """A log of 14 entries in six closed segments, and two in an open one."""
    made = Dir(tmp_path / "data")
    made.path.mkdir()
    made.metadata(1, 1, 1)
    made.closed(1, [change(1)], commands(2, 2))
    for first, n in ((4, 1), (5, 2), (7, 1), (8, 4), (12, 3)):
        made.closed(first, commands(first, n))
    made.open(1, commands(15, 2), ours=True)
    return made


def loaded(dir: Path) -> tuple[int, list[int]]:
    """Load a directory as a start does, which may put it in order; nothing may be set aside as lost."""
    disk.clean_up(str(dir))
    _, start, entries = disk.load(str(dir), True)
    assert marker.marker_read(str(dir)) is None
    return start, numbers(entries[1:])


ALL = (1, list(range(2, 17)))


def closed(dir: Path) -> list[str]:
    """Return the names of the closed segments."""
    return sorted(name for name in os.listdir(dir) if name[:1].isdigit())


def test_small_segments_become_one(dir: Dir) -> None:
    """Without --apply nothing is changed; all that they were made of is set aside, and the log is what it was."""
    before = image_of(dir.path)
    planned = datadir.merge(dir.path)
    assert image_of(dir.path) == before
    done = datadir.merge(dir.path, apply=True)
    assert (planned.steps, planned.before, planned.after) == (done.steps, 6, 1)
    assert (done.before, done.after, planned.applied, done.applied) == (6, 1, False, True)
    assert closed(dir.path) == ["0000000000000001-0000000000000014"]
    assert len([name for name in dir.names if name.startswith("corrupt-")]) == 10
    assert datadir.merge(dir.path, apply=True).steps == []
    assert loaded(dir.path) == ALL


def test_large_segments_stay(dir: Dir) -> None:
    """Two that are large together, and those on both sides of a gap that a snapshot covers."""
    dir.closed(17, commands(17, 2, size=600_000))
    dir.closed(19, commands(19, 2, size=400_000))
    dir.closed(21, commands(21, 2))
    dir.remove("open-1")
    dir.snapshot(1, 16)
    done = datadir.merge(dir.path, apply=True)
    assert closed(dir.path) == [
        "0000000000000001-0000000000000014",
        "0000000000000017-0000000000000018",
        "0000000000000019-0000000000000022",
    ]
    assert (done.before, done.after) == (9, 3)
    assert disk.load(str(dir), False)[1] == 17


def test_names_without_their_zeros_get_them(dir: Dir, tmp_path: Path) -> None:
    """Large ones too; of one that is there under both names one stays. A kill in between changes nothing."""
    dir.closed(17, commands(17, 2, size=600_000))
    dir.rename("0000000000000017-0000000000000018", "17-18")
    dir.rename("0000000000000004-0000000000000004", "4-4")
    dir.write("5-6", dir.read("0000000000000005-0000000000000006"))
    dir.remove("open-1")
    dir.closed(15, commands(15, 2))
    before = image_of(dir.path)
    planned = datadir.merge(dir.path)
    assert image_of(dir.path) == before
    assert planned.steps[:2] == [
        "4-4 becomes 0000000000000004-0000000000000004",
        "17-18 becomes 0000000000000017-0000000000000018",
    ]
    memory = MemoryFs(Image(before))
    with installed(memory):
        merging.merge_now(DIR, True)
    replay = Replay(memory.base)
    log = (1, list(range(2, 19)))
    for number, event in enumerate(memory.journal):
        if event[0] != "note":
            replay.step(event)
            (image, *_) = list(replay.losses(random.Random(1), 1))
            assert loaded(put(image.files, tmp_path / str(number))) == log
    assert datadir.merge(dir.path, apply=True).steps == planned.steps
    assert closed(dir.path) == ["0000000000000001-0000000000000016", "0000000000000017-0000000000000018"]
    assert loaded(dir.path) == log


def test_what_does_not_load_is_left_alone(dir: Dir) -> None:
    """It is to be repaired first."""
    dir.overwrite("0000000000000004-0000000000000004", 12, b"\xff")
    before = image_of(dir.path)
    with pytest.raises(Failure, match="a start is refused, so repair it first"):
        datadir.merge(dir.path, apply=True)
    assert image_of(dir.path) == before


def test_every_power_cut_leaves_the_whole_log(dir: Dir, tmp_path: Path) -> None:
    """Any of what was under way may be missing: a start loads all, and so it does when the merge is done again."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)
    memory = MemoryFs(Image(image_of(dir.path)))
    with installed(memory):
        assert merging.merge_now(DIR, True).after == 1
    number = 0
    for number, image in enumerate(cuts(memory, rng), 1):
        assert loaded(put(image.files, tmp_path / f"{number} start")) == ALL, sorted(image.files)
        again = put(image.files, tmp_path / f"{number} again")
        assert datadir.merge(again, apply=True).after == 1, sorted(image.files)
        assert loaded(again) == ALL, sorted(image.files)
    assert number > 15


def test_the_command_merges(dir: Dir) -> None:
    """It does with --merge, where a start is not refused; it says what it would do first."""
    result = run("dir", "repair", dir, "--merge")
    assert result.exit_code == 0
    assert "6 closed segments would become 1 (--apply does it):" in result.output
    assert json.loads(run("dir", "repair", dir, "--merge", "--json").output)["merged"]["after"] == 1
    assert "6 closed segments became 1:" in run("dir", "repair", dir, "--merge", "--apply").output
    assert "no small segments to put together" in run("dir", "repair", dir, "--merge").output
    assert json.loads(run("dir", "repair", dir, "--json").output)["merged"] is None
    assert loaded(dir.path) == ALL

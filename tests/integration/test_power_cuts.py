"""The power fails at every moment of scripted runs, in every way, and nothing acknowledged is lost.

`make powercut` does the same at length; the figures are in tests/README.md. The last part shows that the method would
notice: each step that durability hangs on is left out once.
"""

import os
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from io_uv import append, disk, finalize, fs, metadata, open_segment, segment, snapshot_file
from io_uv.failure import Failure
from io_uv.open_segment import DAMAGED, TORN
from io_uv.segment import SegmentInfo
from tests.lib import power_cut_scripts
from tests.lib.crashfs import DIR, Image, MemoryFs, Replay, installed
from tests.lib.disk import commands, conf, numbers
from tests.lib.disk import segment as encode
from tests.lib.power_cut import Checker

SEED = 20261123


@pytest.mark.parametrize("name", power_cut_scripts.SCRIPTS)
def test_nothing_acknowledged_is_lost_and_nothing_is_invented(name: str) -> None:
    """It is so after every event of the script and every loss, with automatic recovery off and on."""
    report = power_cut_scripts.run(name, SEED, more=1, nested=0.03, live=0.005, killed=0.2)
    print(f"{name}, seed {SEED}: {report}")
    assert report.problems == []
    assert report.states > 1000


def test_every_kind_of_operation_is_cut_short() -> None:
    """The scripts together make all the calls that change a directory."""
    seen = set()
    for name in ("truncates", "snapshots", "sick_metadata"):
        seen |= {event[0] for event in power_cut_scripts.record(name, SEED).journal}
    expected = "create write durable sync syncdir size attribute rename unlink write_failed sync_failed note"
    assert seen == set(expected.split())


# ---- the file system -------------------------------------------------------------------------------------------------


def images(write: Callable[[], object], base: Image | None = None) -> set[tuple[tuple[str, bytes], ...]]:
    """Return what a power cut may leave at the end of some calls."""
    with installed(MemoryFs(base)) as memory:
        write()
    replay = Replay(memory.base)
    for event in memory.journal:
        replay.step(event)
    found = set()
    for image in replay.losses(random.Random(1), 5):
        found.add(tuple(sorted((name, content) for name, (content, _) in image.files.items())))
    return found


def test_a_file_that_is_not_synced_may_have_nothing_of_its_content() -> None:
    """It may have a part, or zeros in its place, and its name may be missing."""

    def write() -> None:
        fd = fs.open(f"{DIR}/x", fs.O_CREATE_NEW)
        fs.write(fd, b"a" * 512 + b"b" * 512)

    expected: set[Any] = {
        (),
        (("x", b""),),
        (("x", bytes(1024)),),
        (("x", b"a" * 512),),
        (("x", b"a" * 512 + b"b" * 512),),
        (("x", b"a" * 512 + bytes(512)),),
        (("x", bytes(512) + b"b" * 512),),
    }
    assert images(write) == expected


def test_a_sync_of_the_file_does_not_make_its_name_durable() -> None:
    """A sync of the directory does."""

    def write() -> None:
        fd = fs.open(f"{DIR}/x", fs.O_CREATE_NEW)
        fs.write(fd, b"a")
        fs.fsync(fd)

    assert images(write) == {(), (("x", b"a"),)}

    def write_and_sync() -> None:
        write()
        fs.sync_dir(DIR)

    assert images(write_and_sync) == {(("x", b"a"),)}


def test_renames_and_unlinks_are_lost_one_by_one() -> None:
    """A later one may survive an earlier one."""
    base = Image({name: (name.encode(), ()) for name in "xy"})

    def change() -> None:
        fs.rename(f"{DIR}/x", f"{DIR}/z")
        fs.unlink(f"{DIR}/y")

    both, renamed, unlinked, none = (
        (("z", b"x"),),
        (("y", b"y"), ("z", b"x")),
        (("x", b"x"),),
        (("x", b"x"), ("y", b"y")),
    )
    assert images(change, base) == {both, renamed, unlinked, none}


def test_a_made_file_is_there_as_a_whole_or_not_at_all() -> None:
    """It is there under its name; a tmp file may be left beside it."""
    for left in images(lambda: fs.make_file(DIR, "x", [b"a" * 700])):
        assert left == (("x", b"a" * 700),)


def test_data_whose_sync_failed_may_be_lost_although_a_later_sync_succeeds() -> None:
    """The kernel takes the pages for clean."""

    def write() -> None:
        fd = fs.open(f"{DIR}/x", fs.O_CREATE_NEW)
        fs.write(fd, b"a")
        fs.sync_dir(DIR)
        memory = fs.fsync.__self__  # type: ignore[attr-defined]
        memory.fail = lambda call, name: (_ for _ in ()).throw(OSError(5, "i/o error")) if call == "fsync" else None
        with pytest.raises(OSError):
            fs.fsync(fd)
        memory.fail = lambda call, name: None
        fs.fsync(fd)

    assert images(write) == {(("x", b"\0"),), (("x", b"a"),)}


# ---- would it be noticed? --------------------------------------------------------------------------------------------


def _nothing(*args: Any, **options: Any) -> None:
    return None


def _no_sync_dir(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fs, "sync_dir", _nothing)


def _no_sync_of_new_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fs, "sync", _nothing)


def _no_synchronous_writes(patch: pytest.MonkeyPatch) -> None:
    opened = fs.open_file
    patch.setattr(fs, "open_file", lambda dir, name, flags: opened(dir, name, flags & ~os.O_DSYNC))


def _no_sync_after_closing_a_segment(patch: pytest.MonkeyPatch) -> None:
    close = finalize._close_segment

    def close_only(dir: str, dying: finalize.DyingSegment) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(fs, "sync_dir", _nothing)
            close(dir, dying)

    patch.setattr(finalize, "_close_segment", close_only)


def _truncate_upwards(patch: pytest.MonkeyPatch) -> None:
    def truncate(dir: str, infos: Sequence[SegmentInfo], index: int) -> None:
        closed = [info for info in infos if not info.is_open]
        for info in closed:
            if info.first_index < index <= info.last_index:
                segment._keep_head(dir, closed, info, index)
        for info in closed:
            if info.first_index >= index:
                fs.remove_file(dir, info.filename)
        fs.sync_dir(dir)

    patch.setattr(segment, "truncate_log", truncate)


def _remove_upwards(patch: pytest.MonkeyPatch) -> None:
    def remove(dir: str, infos: Sequence[SegmentInfo], last_index: int) -> None:
        for info in infos:
            if not info.is_open:
                fs.remove_file(dir, info.filename)
        fs.sync_dir(dir)

    patch.setattr(segment, "remove_closed", remove)


def _remove_before_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    write = snapshot_file.write

    def remove_and_write(dir: str, *args: Any) -> Any:
        for name in fs.list_dir(dir):
            if name.startswith("0"):
                fs.remove_file(dir, name)
        fs.sync_dir(dir)
        return write(dir, *args)

    patch.setattr(snapshot_file, "write", remove_and_write)


def _overlaps_are_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk, "_resolve_overlaps", _nothing)


def _a_replaced_log_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk, "_replaced_by", lambda log, snapshot: False)


def _tears_are_damage(patch: pytest.MonkeyPatch) -> None:
    judge = open_segment.judge

    def strict(data: bytes, noted: int = 0) -> open_segment.OpenContent:
        content = judge(data, noted)
        if content.verdict == TORN:
            content.verdict = DAMAGED
            content.problem = content.problem or Failure(12, "torn")
        return content

    patch.setattr(open_segment, "judge", strict)


def _a_broken_segment_holds_nothing_up(patch: pytest.MonkeyPatch) -> None:
    """It is closed when something has been written to the next one."""
    written = threading.Event()
    close, completed = finalize._close_segment, append._write_cb

    def close_late(*args: Any) -> None:
        written.wait(0.2)
        close(*args)

    def write_cb(uv: Any, part: Any, used: int, last_index: int, failure: Any) -> None:
        written.set() if failure is None else written.clear()
        completed(uv, part, used, last_index, failure)
        uv.append_broken = False
        append.advance(uv)

    patch.setattr(append, "_write_cb", write_cb)
    patch.setattr(finalize, "_close_segment", close_late)


def _state_is_written_over(patch: pytest.MonkeyPatch) -> None:
    """Term and vote go to one file, in place, over what is valid."""
    patch.setattr(metadata, "file_of", lambda version: "metadata1")
    patch.setattr(fs, "sync", _nothing)


@pytest.mark.parametrize(
    ("name", "mutate"),
    [
        ("appends_and_rolls", _no_sync_dir),
        ("truncates", _no_sync_of_new_files),
        ("appends_and_rolls", _no_synchronous_writes),
        ("appends_and_rolls", _no_sync_after_closing_a_segment),
        ("truncates", _truncate_upwards),
        ("truncates", _overlaps_are_refused),
        ("installs", _remove_upwards),
        ("installs", _a_replaced_log_is_kept),
        ("snapshots", _remove_before_the_snapshot),
        ("gathered_writes", _tears_are_damage),
        ("sick_writes", _a_broken_segment_holds_nothing_up),
        ("terms_and_votes", _state_is_written_over),
    ],
)
def test_a_step_that_is_left_out_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """The first crash state that shows it is told; threads may have to be unlucky, so several runs are cut."""
    mutate(monkeypatch)
    for _ in range(8):
        memory = power_cut_scripts.record(name, SEED)
        if Checker(SEED, more=2, nested=0, live=0, killed=0).check(memory, stop=True).problems:
            return
    pytest.fail("nothing was noticed")


# ---- starts ----------------------------------------------------------------------------------------------------------


def _problems_of_cut_starts(base: Image, expected: list[int]) -> set[str]:
    """Cut the power at every moment of a start on an image; return what is wrong with the starts after that."""
    with installed(MemoryFs(base)) as memory:
        _, _, entries = disk.load(DIR, False)
        assert numbers(entries) == expected
    replay, problems = Replay(base), set()
    for event in memory.journal:
        replay.step(event)
        for image in replay.losses(random.Random(1), 5):
            with installed(MemoryFs(image)):
                try:
                    _, _, entries = disk.load(DIR, False)
                except Failure as exc:
                    problems.add(exc.message)
                    continue
            if numbers(entries) != expected:
                problems.add("other entries")
    return problems


def _three_open_segments() -> Image:
    note = (("user.raft.size", b"4096"),)
    contents = [encode(commands(3 * i + 1, 2), commands(3 * i + 3, 1)).ljust(4096, b"\0") for i in range(3)]
    return Image({f"open-{i + 8}": (content, note) for i, content in enumerate(contents)})


def test_a_start_that_closes_segments_may_be_cut_short() -> None:
    """Each is closed durably before the next."""
    assert _problems_of_cut_starts(_three_open_segments(), list(range(1, 10))) == set()


def test_closing_segments_without_a_sync_in_between_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later name would survive an earlier one."""
    close = disk._close_open

    def close_only(*args: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(fs, "sync_dir", _nothing)
            close(*args)

    monkeypatch.setattr(disk, "_close_open", close_only)
    assert _problems_of_cut_starts(_three_open_segments(), list(range(1, 10)))


def test_a_start_that_finishes_a_truncate_or_an_install_may_be_cut_short() -> None:
    """It does the same again."""

    def closed(first: int, last: int) -> dict[str, Any]:
        return {segment.closed_name(first, last): (encode(commands(first, last - first + 1)), ())}

    overlap = Image({**closed(1, 5), **closed(1, 2), **closed(6, 7)})
    assert _problems_of_cut_starts(overlap, list(range(1, 8))) == set()
    meta = snapshot_file.encode_meta(conf(), 1)
    pair = {"snapshot-2-4-1.meta": (meta, ()), "snapshot-2-4-1": (b"data", ())}
    replaced = Image({**closed(1, 3), **closed(4, 5), **closed(6, 8), **pair})
    assert _problems_of_cut_starts(replaced, []) == set()

"""Loading data directories with snapshots and closed segments: what the C suite's load cases do, and more."""

import errno
import logging
import shutil
from collections.abc import Callable

import pytest

from io_uv import marker, segment
from pyraft.errors import (
    RAFT_CORRUPT,
    RAFT_IOERR,
    RAFT_MALFORMED,
)
from tests.lib.covers import covers
from tests.lib.disk import Dir, commands, numbers, words
from tests.lib.disk import segment as encode
from tests.lib.uvload import PRISTINE, Opener, closed, fail_to_open, opened
from tests.lib.uvtest import UvIo

# ---- snapshots -------------------------------------------------------------------------------------------------------


@covers("load/onlyOneSnapshot")
def test_a_snapshot_alone_starts_the_log_behind_it(data: Dir, opener: Opener) -> None:
    """Snapshot 1/1, start index 2."""
    data.snapshot(1, 1, data=words(1))
    loaded = opener.load()
    assert loaded.state() == (0, 1, 2, [])
    assert loaded.snapshot.term == 1
    assert loaded.snapshot.bufs == [words(1)]


@covers("load/manySnapshots")
def test_the_newest_complete_snapshot_is_loaded(data: Dir, opener: Opener) -> None:
    """Term counts before index; a .meta file without data is removed."""
    data.remove(data.snapshot(1, 8, 1000))
    data.snapshot(1, 8, 1001, words(2))
    data.snapshot(2, 6, 1002, words(3))
    data.snapshot(2, 9, 1003, words(4))
    loaded = opener.load()
    assert loaded.state() == (0, 9, 10, [])
    assert (loaded.snapshot.term, loaded.snapshot.bufs) == (2, [words(4)])
    assert not data.has("snapshot-1-8-1000.meta")


def test_snapshots_of_one_entry_are_told_apart_by_their_time(data: Dir, opener: Opener) -> None:
    """Times are numbers: 1000 is after 999."""
    data.snapshot(1, 2, 999, words(1))
    data.snapshot(1, 2, 1000, words(2))
    assert opener.load().snapshot.bufs == [words(2)]


@covers("load/emptySnapshot")
def test_a_snapshot_with_an_empty_data_file_does_not_count(data: Dir, opener: Opener) -> None:
    """The older one is loaded."""
    data.snapshot(1, 4, data=words(1))
    data.snapshot(2, 6, data=b"")
    assert opener.load().state() == (0, 4, 5, [])


@covers("load/orphanedSnapshotFiles")
def test_halves_of_snapshots_are_removed(data: Dir, opener: Opener) -> None:
    """One is data without .meta, one .meta without data."""
    data.remove(data.snapshot(2, 18))
    data.remove(data.snapshot(2, 19) + ".meta")
    data.snapshot(2, 16, data=words(4))
    assert opener.load().state() == (0, 16, 17, [])
    assert data.names == ["snapshot-2-16-1000", "snapshot-2-16-1000.meta"]


@covers("load/closedSegmentWithEntriesBehindSnapshot")
def test_a_log_that_ends_before_the_snapshot_is_disregarded(data: Dir, opener: Opener) -> None:
    """It is removed too (C leaves that to the next snapshot): an open segment has no index in its name."""
    name = closed(data, 1, 1)
    data.snapshot(1, 2)
    assert opener.load().state() == (0, 2, 3, [])
    assert not data.has(name)


def test_entries_that_follow_an_installed_snapshot_keep_their_indexes_whatever_a_crash_left_of_the_former_log(
    data: Dir, opener: Opener, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A kill between the snapshot and the removal of the log, a start, an append, another kill."""
    closed(data, 1, 1, number=7)
    data.snapshot(1, 2)
    instance = opener().start()
    instance.append()
    copy = tmp_path_factory.mktemp("killed") / "data"
    shutil.copytree(data.path, copy)
    killed = UvIo(copy).start()
    assert (killed.loaded[4], numbers(killed.loaded[5])) == (3, [1])
    killed.close()


def test_unused_open_segments_do_not_hold_a_log_behind_the_snapshot_back(data: Dir, opener: Opener) -> None:
    """C takes the zeros for entries to come and fails (B39)."""
    closed(data, 1, 1)
    data.snapshot(1, 5)
    data.open(1)
    data.open(2, commands(9, 1, size=1024), ours=True)
    data.overwrite("open-2", 0, bytes(512))
    assert opener.load().state() == (0, 5, 6, [])


@covers("load/openSegmentWithEntriesPastSnapshot")
def test_a_log_that_reaches_the_snapshot_with_an_open_segment_is_loaded(data: Dir, opener: Opener) -> None:
    """It has closed 1-1, open-1 with entry 2, and a snapshot at 2."""
    closed(data, 1, 1)
    opened(data, 1, 2)
    data.snapshot(1, 2)
    assert opener.load().state() == (0, 2, 1, [1, 2])


@covers("load/openSegmentWithEntriesBehindSnapshot")
def test_an_open_segment_that_ends_before_the_snapshot_is_refused(data: Dir, opener: Opener) -> None:
    """Entries between would be missing."""
    closed(data, 1, 1)
    opened(data, 1, 2)
    data.snapshot(1, 3)
    loaded = opener.load()
    text = "last entry on disk has index 2, which is behind last snapshot's index 3"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


@covers("load/openSegmentWithEntriesBehindSnapshotAutoRecovery")
def test_automatic_recovery_disregards_entries_behind_the_snapshot(data: Dir, opener: Opener) -> None:
    """The second attempt finds closed segments only. Nothing is lost, so no marker is left."""
    closed(data, 1, 1)
    opened(data, 1, 2)
    data.snapshot(1, 3)
    assert opener.load(auto_recovery=True).state() == (0, 3, 4, [])
    assert marker.marker_read(str(data)) is None
    kept = [name.split("-", 2)[2] for name in data.names if name.startswith("corrupt-")]
    assert sorted(kept) == [segment.closed_name(1, 1), segment.closed_name(2, 2)]


@covers("load/openSegmentNoClosedSegmentsSnapshotPresent")
def test_an_open_segment_alone_continues_the_snapshot(data: Dir, opener: Opener) -> None:
    """It has a snapshot at 3, and open-1 with entry 4."""
    data.snapshot(1, 3)
    opened(data, 1, 4)
    assert opener.load().state() == (0, 3, 4, [4])


@covers("load/closedSegmentsOverlappingWithSnapshot")
def test_a_log_around_the_snapshot_is_loaded_whole(data: Dir, opener: Opener) -> None:
    """Start index 1, six entries."""
    closed(data, 1, 1)
    closed(data, 2, 2)
    closed(data, 4, 3)
    data.snapshot(1, 4)
    assert opener.load().state() == (0, 4, 1, [1, 2, 3, 4, 5, 6])


@covers("load/nonContiguousClosedSegments")
def test_segments_before_a_gap_that_the_snapshot_covers_are_disregarded(data: Dir, opener: Opener) -> None:
    """It has closed 1-1 and 4-6, and a snapshot at 4."""
    closed(data, 1, 1)
    closed(data, 4, 3)
    data.snapshot(1, 4)
    assert opener.load().state() == (0, 4, 4, [4, 5, 6])


@covers("load/closedSegmentWithEntriesPastSnapshot")
def test_a_gap_behind_the_snapshot_is_refused(data: Dir, opener: Opener) -> None:
    """It has closed 6-6 and a snapshot at 4: entry 5 is missing."""
    closed(data, 6, 1)
    data.snapshot(1, 4)
    loaded = opener.load()
    text = (
        "closed segment 0000000000000006-0000000000000006 is past last snapshot snapshot-1-4-1000:"
        " entries 5 to 5 are missing, or it is a stray file"
    )
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


def test_a_log_that_an_installed_snapshot_replaced_is_removed(data: Dir, opener: Opener) -> None:
    """A crash came before its removal; entry 4 is of term 1 and the snapshot at 4 of term 2."""
    closed(data, 1, 3)
    closed(data, 4, 3)
    data.snapshot(2, 4)
    assert opener.load().state() == (0, 4, 5, [])
    assert data.names == ["snapshot-2-4-1000", "snapshot-2-4-1000.meta"]


# ---- closed segments -------------------------------------------------------------------------------------------------


def corrupt_data_checksum(data: Dir, name: str) -> None:
    data.overwrite(name, 12, (123456789).to_bytes(4, "little"))


@covers("load/closedSegmentWithInconsistentFilename")
def test_a_closed_segment_with_fewer_entries_than_its_name_says_is_refused(data: Dir, opener: Opener) -> None:
    """It has three instead of four."""
    data.rename(closed(data, 1, 3), segment.closed_name(1, 4))
    loaded = opener.load()
    text = "load closed segment 0000000000000001-0000000000000004: found 3 entries (expected 4)"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


def test_a_closed_segment_with_more_entries_than_its_name_says_is_refused(data: Dir, opener: Opener) -> None:
    """It has three instead of two: C refuses it too."""
    data.rename(closed(data, 1, 3), segment.closed_name(1, 2))
    loaded = opener.load()
    text = "load closed segment 0000000000000001-0000000000000002: found 3 entries (expected 2)"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


@covers("load/closedSegmentWithInconsistentFilenameAutoRecovery")
def test_automatic_recovery_sets_the_last_closed_segment_aside(data: Dir, opener: Opener) -> None:
    """The server starts without it, and marked."""
    data.rename(closed(data, 1, 3), segment.closed_name(1, 4))
    assert opener.load(auto_recovery=True).state() == PRISTINE
    assert marker.marker_read(str(data)) is not None


def with_last_damaged(data: Dir) -> str:
    data.snapshot(1, 4)
    closed(data, 5, 1)
    closed(data, 6, 2)
    name = closed(data, 8, 2)
    corrupt_data_checksum(data, name)
    return name


def with_last_damaged_and_open(data: Dir) -> str:
    data.snapshot(1, 4)
    closed(data, 5, 1)
    closed(data, 6, 2)
    name = closed(data, 8, 1)
    opened(data, 1, 9)
    corrupt_data_checksum(data, name)
    return name


@covers(
    "load/closedSegmentsWithSnapshotLastSegmentCorrupt",
    "load/closedSegmentsWithSnapshotLastSegmentCorruptOpenSegment",
)
@pytest.mark.parametrize("make", [with_last_damaged, with_last_damaged_and_open])
def test_a_damaged_closed_segment_is_refused(data: Dir, opener: Opener, make: Callable[[Dir], str]) -> None:
    """The text names the segment, the batch and the byte."""
    name = make(data)
    loaded = opener.load()
    text = f"load closed segment {name}: entries batch 1 starting at byte 8: data checksum mismatch"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)
    assert data.has(name)


@covers(
    "load/closedSegmentsWithSnapshotLastSegmentCorruptAutoRecovery",
    "load/closedSegmentsWithSnapshotLastSegmentCorruptOpenSegmentWithAutoRecovery",
)
@pytest.mark.parametrize("make", [with_last_damaged, with_last_damaged_and_open])
def test_automatic_recovery_sets_a_damaged_last_segment_aside_with_all_open_ones(
    data: Dir, opener: Opener, make: Callable[[Dir], str]
) -> None:
    """The entries before it stay."""
    name = make(data)
    assert opener.load(auto_recovery=True).state() == (0, 4, 5, [5, 6, 7])
    assert not data.has(name)
    assert not data.has("open-1")
    text = marker.marker_read(str(data))
    assert text is not None
    assert name in text


@pytest.mark.parametrize("size", [1, 20, 70])
def test_automatic_recovery_sets_a_cut_last_segment_aside(data: Dir, opener: Opener, size: int) -> None:
    """It is cut within the format word, within a batch, or between batches."""
    closed(data, 1, 3)
    name = closed(data, 4, 2)
    data.resize(name, size)
    assert opener.load().rv == RAFT_CORRUPT
    assert data.has(name)
    assert opener.load(auto_recovery=True).state() == (0, None, 1, [1, 2, 3])
    assert name in (marker.marker_read(str(data)) or "")


def test_a_segment_that_the_disk_fails_to_read_stops_the_start_and_stays(
    data: Dir, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That does not count as damage."""
    name = closed(data, 1, 2)
    with monkeypatch.context() as patch:
        fail_to_open(patch, name, errno.EIO)
        loaded = opener.load(auto_recovery=True)
    assert (loaded.rv, loaded.errmsg) == (RAFT_IOERR, f"load closed segment {name}: read file: open: i/o error")
    assert data.names == [name]


def test_the_logger_hears_what_automatic_recovery_does(
    data: Dir, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    """It hears that votes are withheld, and of each file with the reason."""
    name = with_last_damaged_and_open(data)
    with caplog.at_level(logging.WARNING, "io_uv"):
        assert opener.load(auto_recovery=True).rv == 0
    problem = f"load closed segment {name}: entries batch 1 starting at byte 8: data checksum mismatch"
    votes, later, damaged = caplog.messages
    assert votes == (
        f"{data}: acknowledged entries may be missing ({problem}):"
        f" the server withholds its votes while {marker.NAME} stands"
    )
    assert later.startswith(f"{data}: open-1 is set aside as corrupt-")
    assert later.endswith(f": it follows {name}, which is damaged")
    assert damaged.startswith(f"{data}: {name} is set aside as corrupt-")
    assert damaged.endswith(f": {problem}")


@covers("load/closedSegmentsWithSnapshotSecondLastSegmentCorrupt")
@pytest.mark.parametrize("auto_recovery", [False, True])
def test_a_damaged_segment_before_the_last_is_refused_every_time(
    data: Dir, opener: Opener, auto_recovery: bool
) -> None:
    """Automatic recovery does not change that: there is no log without it."""
    data.snapshot(1, 4)
    closed(data, 5, 1)
    name = closed(data, 6, 2)
    closed(data, 8, 2)
    corrupt_data_checksum(data, name)
    text = f"load closed segment {name}: entries batch 1 starting at byte 8: data checksum mismatch"
    for _ in range(2):
        loaded = opener.load(auto_recovery)
        assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)
    assert marker.marker_read(str(data)) is None


@covers("load/closedSegmentWithCorruptedBatchHeader")
def test_a_damaged_batch_header_is_refused(data: Dir, opener: Opener) -> None:
    """The checksum of the header does not match."""
    name = closed(data, 1, 1)
    data.overwrite(name, 8, words(12345678))
    loaded = opener.load()
    text = f"load closed segment {name}: entries batch 1 starting at byte 8: header checksum mismatch"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


@covers("load/closedSegmentWithCorruptedBatchData")
def test_damaged_batch_data_is_refused(data: Dir, opener: Opener) -> None:
    """The checksum of the data does not match."""
    name = closed(data, 1, 1)
    corrupt_data_checksum(data, name)
    loaded = opener.load()
    text = f"load closed segment {name}: entries batch 1 starting at byte 8: data checksum mismatch"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


@covers("load/closedSegmentWithBadIndex")
def test_a_missing_first_segment_is_refused(data: Dir, opener: Opener) -> None:
    """The log starts at 2 without a snapshot."""
    closed(data, 2, 1)
    loaded = opener.load()
    text = (
        "unexpected closed segment 0000000000000002-0000000000000002: first index should have been 1:"
        " a snapshot is missing, or entries 1 to 1 are missing"
    )
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


def test_a_missing_segment_in_the_middle_is_refused(data: Dir, opener: Opener) -> None:
    """The text tells which entries it had."""
    closed(data, 1, 2)
    name = closed(data, 6, 1)
    loaded = opener.load()
    text = f"unexpected closed segment {name}: first index should have been 3: entries 3 to 5 are missing"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


@covers(
    "load/emptyClosedSegment",
    "load/closedSegmentWithBadFormat",
)
@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"", RAFT_CORRUPT, "file is empty"),
        (words(2), RAFT_CORRUPT, "unexpected format version 2"),
        (b"1234567", RAFT_CORRUPT, "file has only 7 bytes"),
        (
            words(1),
            RAFT_CORRUPT,
            "entries batch 1 starting at byte 8: read preamble: short read: 0 bytes instead of 8",
        ),
        (
            encode(commands(1, 1))[:-4],
            RAFT_CORRUPT,
            "entries batch 1 starting at byte 8: read data: short read: 4 bytes instead of 8",
        ),
        (
            encode(commands(1, 1))[:28],
            RAFT_CORRUPT,
            "entries batch 1 starting at byte 8: read header: short read: 4 bytes instead of 16",
        ),
        (
            words(1, 0, 0),
            RAFT_CORRUPT,
            "entries batch 1 starting at byte 8: entries count in preamble is zero",
        ),
        (
            words(1, 0, 262145),
            RAFT_CORRUPT,
            "entries batch 1 starting at byte 8: entries count 262145 in preamble is too high",
        ),
    ],
)
def test_what_is_no_complete_closed_segment_is_refused(
    data: Dir, opener: Opener, content: bytes, code: int, text: str
) -> None:
    """Each has the text of the C library."""
    name = segment.closed_name(1, 1)
    data.write(name, content)
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (code, f"load closed segment {name}: {text}")


def test_an_unknown_entry_type_is_malformed(data: Dir, opener: Opener) -> None:
    """Its checksums are right."""
    entries = commands(1, 1)
    entries[0].type = 4
    data.closed(1, entries)
    loaded = opener.load()
    assert loaded.rv == RAFT_MALFORMED
    assert loaded.errmsg.startswith(f"load closed segment {segment.closed_name(1, 1)}: entries batch 1 starting at")


def test_closed_segments_need_no_leading_zeros(data: Dir, opener: Opener) -> None:
    """1-2 and 10-10 sort as numbers, and keep their names."""
    data.rename(closed(data, 1, 9), "1-9")
    data.rename(closed(data, 10, 1), "10-10")
    opened(data, 1, 11)
    assert opener.load().state() == (0, None, 1, list(range(1, 12)))
    assert {"1-9", "10-10", segment.closed_name(11, 11)} <= set(data.names)


# ---- a truncate cut short --------------------------------------------------------------------------------------------


def test_a_truncate_cut_short_between_its_steps_never_was(data: Dir, opener: Opener) -> None:
    """The head 1-2 lies beside the whole 1-5, and 6-7 is still there (B18)."""
    closed(data, 1, 5)
    closed(data, 1, 2)
    closed(data, 6, 2)
    assert opener.load().state() == (0, None, 1, list(range(1, 8)))
    assert data.names == [segment.closed_name(1, 5), segment.closed_name(6, 7)]


def test_a_truncate_that_was_completed_stays(data: Dir, opener: Opener) -> None:
    """The log went on behind the head, so the whole segment is the left-over."""
    closed(data, 1, 5)
    closed(data, 1, 2)
    data.closed(3, commands(30, 1, term=2))
    assert opener.load().state() == (0, None, 1, [1, 2, 30])
    assert not data.has(segment.closed_name(1, 5))


def test_overlapping_segments_that_no_truncate_leaves_are_refused(data: Dir, opener: Opener) -> None:
    """They are a head with other entries, an overlap in the middle, and a damaged segment beside its head."""
    whole = closed(data, 1, 5)
    head = closed(data, 1, 2, number=8)
    text = f"unexpected closed segment {whole}: first index should have been 3"
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)
    closed(data, 1, 2)
    corrupt_data_checksum(data, whole)
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)
    data.remove(head)
    closed(data, 1, 5)
    middle = closed(data, 4, 3)
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (
        RAFT_CORRUPT,
        f"unexpected closed segment {middle}: first index should have been 6",
    )


def test_overlapping_segments_behind_the_snapshot_do_not_matter(data: Dir, opener: Opener) -> None:
    """They stay until a snapshot removes them, as in C."""
    closed(data, 1, 5)
    closed(data, 3, 7)
    closed(data, 20, 2)
    data.snapshot(1, 19)
    kept = data.names
    assert opener.load().state() == (0, 19, 20, [20, 21])
    assert data.names == kept

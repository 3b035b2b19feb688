"""Loading data directories through RaftIo: what the C suite's load, init, bootstrap, recover and set_term cases do."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import marker, raft_uv_init, raft_uv_set_auto_recovery, segment
from io_uv.pyuv import Loop
from io_uv.transport import RaftUvTransport
from pyraft import configuration
from pyraft.errors import (
    RAFT_CANTBOOTSTRAP,
    RAFT_CORRUPT,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_MALFORMED,
    RAFT_NAMETOOLONG,
    RAFT_NOTFOUND,
    RAFT_TOOBIG,
)
from pyraft.types import RAFT_CHANGE, RAFT_VOTER, EntryBatch, RaftIo, RaftSnapshot
from tests.lib.covers import covers
from tests.lib.disk import BLOCK_SIZE, SEGMENT_SIZE, Dir, commands, conf, numbers, singles, words
from tests.lib.disk import segment as encode
from tests.lib.uvtest import UvIo


class Loaded:
    """What io.load returned, and the text."""

    def __init__(self, io: RaftIo) -> None:
        self.rv, self.term, self.voted_for, self.snapshot, self.start_index, entries = io.load(io)
        self.entries: EntryBatch = entries
        self.errmsg = io.errmsg

    def state(self) -> tuple[int, int | None, int, list[int]]:
        """Return (rv, index of the snapshot, start index, numbers of the entries)."""
        found: RaftSnapshot | None = self.snapshot
        return self.rv, found.index if found else None, self.start_index, numbers(self.entries)


class Opener:
    """Opens instances on a directory and closes them at the end of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instances: list[UvIo] = []

    def __call__(self) -> UvIo:
        instance = UvIo(self.path)
        self.instances.append(instance)
        return instance

    def load(self, auto_recovery: bool = False) -> Loaded:
        """Init and load a fresh instance."""
        instance = self()
        assert instance.init() == 0, instance.io.errmsg
        raft_uv_set_auto_recovery(instance.io, auto_recovery)
        return Loaded(instance.io)


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """An empty data directory."""
    return Dir(tmp_path)


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens instances on it."""
    opener = Opener(tmp_path)
    yield opener
    for instance in opener.instances:
        instance.close()


PRISTINE: tuple[int, None, int, list[int]] = (0, None, 1, [])
ZERO_FORMAT = "load open segment open-{}: unexpected format version 0"


def closed(data: Dir, first: int, n: int, number: int | None = None) -> str:
    """Write a closed segment of n commands in batches of one, numbered by their index unless said otherwise."""
    return data.closed(first, *singles(commands(number or first, n)))


def opened(data: Dir, counter: int, first: int, n: int = 1, **options: Any) -> str:
    """Write an open segment of n commands in batches of one."""
    return data.open(counter, *singles(commands(first, n)), **options)


# ---- nothing, or nothing of ours -------------------------------------------------------------------------------------


@covers("load/emptyDir")
def test_an_empty_directory_is_pristine(opener: Opener) -> None:
    """Term and vote are 0, the log starts at 1, there is no snapshot."""
    loaded = opener.load()
    assert (loaded.state(), loaded.term, loaded.voted_for) == (PRISTINE, 0, 0)


@covers("load/ignoreUnknownFiles")
@pytest.mark.parametrize(
    "name",
    ["garbage", "0000000000000000000000000001-00000000001garbage", "open-1garbage", "x" * 200, "snapshot-1-2-3.old"],
)
def test_files_of_other_names_are_ignored(data: Dir, opener: Opener, name: str) -> None:
    """They stay, whatever their length (B24)."""
    data.write(name, bytes(128))
    assert opener.load().state() == PRISTINE
    assert data.has(name)


@covers("load/removeUnusableFiles")
@pytest.mark.parametrize(
    "name",
    [
        "tmp-0000000001221212-0000000001221217",
        "tmp-snapshot-15-8260687-512469866",
        "snapshot-525-43326736-880259052",
        "snapshot-999-13371337-880259052.meta",
        "snapshot-20-8260687-512469866",
        "snapshot-88-8260687-512469866.meta",
        "snapshot-88-8260999-512469866.meta",
        "tmp-snapshot-88-8260999-512469866.meta",
        "tmp-snapshot-33-8260687-512469866",
        "snapshot-33-8260687-512469866.meta",
        "tmp-metadata1",
        "tmp-metadata2",
        "tmp-open1",
        "tmp-open13",
        "snapshot-1-2-3.sum",
    ],
)
def test_left_overs_are_removed_at_init(data: Dir, opener: Opener, name: str) -> None:
    """Neither a tmp file nor a snapshot file without its partner is of any use."""
    data.write(name, bytes(128))
    assert opener.load().state() == PRISTINE
    assert not data.has(name)


# ---- open segments ---------------------------------------------------------------------------------------------------


@covers("load/emptyOpenSegment")
@pytest.mark.parametrize("size", [0, 1, 7])
def test_an_open_segment_without_a_whole_word_is_removed(data: Dir, opener: Opener, size: int) -> None:
    """Nothing was ever written to it."""
    data.write("open-1", bytes(size))
    assert opener.load().state() == PRISTINE
    assert not data.has("open-1")


@covers("load/openSegmentWithTrailingZeros")
def test_an_open_segment_of_zeros_is_removed(data: Dir, opener: Opener) -> None:
    """It was prepared and not used."""
    data.open(1, size=256)
    assert opener.load().state() == PRISTINE
    assert not data.has("open-1")


@covers("load/bothOpenAndClosedSegments")
def test_open_segments_continue_closed_ones(opener: Opener, data: Dir) -> None:
    """Closed 1-2 and 3-3, then an open segment with entry 4."""
    closed(data, 1, 2)
    closed(data, 3, 1)
    closed(data, 4, 1)
    data.unfinalise(4, 4, 1)
    assert opener.load().state() == (0, None, 1, [1, 2, 3, 4])


@covers("load/openSegmentWithNonZeroData")
def test_garbage_in_the_last_batch_of_a_segment_of_unknown_make_passes_for_a_tear(data: Dir, opener: Opener) -> None:
    """As in C the good batch before it stays; nothing says that this file was larger or whole once."""
    opened(data, 1, 1, 2)
    data.overwrite("open-1", 60, words(123456789))
    assert opener.load().state() == (0, None, 1, [1])
    assert not data.has("open-1")
    assert data.has(segment.closed_name(1, 1))


def test_garbage_in_the_last_batch_of_our_own_segment_is_damage(data: Dir, opener: Opener) -> None:
    """No write torn at 512 bytes leaves it: the entry was acknowledged, so the load names batch and byte."""
    # C: uv_segment.c:uvSegmentLoadOpen drops the batch without a word.
    opened(data, 1, 1, 2, ours=True)
    data.overwrite("open-1", 60, words(123456789))
    loaded = opener.load()
    assert loaded.rv == RAFT_CORRUPT
    assert loaded.errmsg.startswith("load open segment open-1: entries batch 2 starting at byte 48: entries count ")
    assert data.has("open-1")


@covers("load/openSegmentWithIncompleteBatch")
def test_an_incomplete_batch_is_cut_off(data: Dir, opener: Opener) -> None:
    """The second batch lost all but its first bytes."""
    opened(data, 1, 1, 2)
    data.overwrite("open-1", 62, bytes(256))
    assert opener.load().state() == (0, None, 1, [1])


@covers("load/openSegmentWithIncompleteFirstBatch")
def test_a_segment_with_an_incomplete_first_batch_is_removed(data: Dir, opener: Opener) -> None:
    """Nothing in it counts."""
    opened(data, 1, 1)
    data.overwrite("open-1", 0, words(1, 0, 0, 0))
    assert opener.load().state() == PRISTINE
    assert data.names == []


@covers("load/twoOpenSegments")
def test_open_segments_are_closed_one_after_the_other(data: Dir, opener: Opener) -> None:
    """Each gets the name of its indexes."""
    opened(data, 1, 1)
    opened(data, 2, 2)
    assert opener.load().state() == (0, None, 1, [1, 2])
    assert data.names == [segment.closed_name(1, 1), segment.closed_name(2, 2)]


def test_open_segments_are_read_in_numeric_order(data: Dir, opener: Opener) -> None:
    """open-9 comes before open-10."""
    opened(data, 10, 2)
    opened(data, 9, 1)
    assert opener.load().state() == (0, None, 1, [1, 2])


@covers("load/secondOpenSegmentIsAllZeros")
def test_an_unused_open_segment_behind_a_used_one_is_removed(data: Dir, opener: Opener) -> None:
    """The first is closed."""
    opened(data, 1, 1)
    data.open(2)
    assert opener.load().state() == (0, None, 1, [1])
    assert data.names == [segment.closed_name(1, 1)]


@covers("load/openSegment")
def test_an_open_segment_alone_is_loaded(data: Dir, opener: Opener) -> None:
    """One entry."""
    opened(data, 1, 1)
    assert opener.load().state() == (0, None, 1, [1])


@covers("load/openSegmentWithIncompleteFormat")
def test_an_open_segment_with_half_a_format_word_is_discarded(data: Dir, opener: Opener) -> None:
    """C answers RAFT_IOERR for good (B1)."""
    data.write("open-1", bytes(4))
    assert opener.load().state() == PRISTINE
    assert data.names == []


@covers(
    "load/openSegmentWithIncompletePreamble",
    "load/openSegmentWithIncompleteBatchHeader",
    "load/openSegmentWithIncompleteBatchData",
)
@pytest.mark.parametrize("good", [0, 1])
@pytest.mark.parametrize("left", [1, 8, 15, 16, 24, 36])
def test_an_open_segment_that_ends_within_a_batch_ends_before_it(
    data: Dir, opener: Opener, good: int, left: int
) -> None:
    """C answers RAFT_IOERR, or aborts where a good batch precedes (B1)."""
    opened(data, 1, 1, good + 1)
    data.resize("open-1", 8 + 40 * good + left)
    assert opener.load().state() == (0, None, 1, [1][:good])
    assert data.names == [segment.closed_name(1, 1)][:good]


def test_an_open_segment_of_ours_that_became_shorter_is_damage(data: Dir, opener: Opener) -> None:
    """It carries a note of its size; the text gives both."""
    for size in (0, 4, 16, 48, 60, 4096):
        opened(data, 1, 1, 2, ours=True)
        data.resize("open-1", size)
        loaded = opener.load()
        assert loaded.rv == RAFT_CORRUPT
        assert loaded.errmsg.startswith("load open segment open-1: ")
        assert data.has("open-1")
        data.remove("open-1")


def test_a_bad_batch_in_front_of_good_ones_is_damage(data: Dir, opener: Opener) -> None:
    """Whoever made the segment: what lies behind was written after it, or together with it and whole."""
    opened(data, 1, 1, 3)
    data.overwrite("open-1", 48 + 32, b"\xff")
    loaded = opener.load()
    assert loaded.rv == RAFT_CORRUPT
    assert loaded.errmsg == "load open segment open-1: entries batch 2 starting at byte 48: data checksum mismatch"


def test_a_tear_in_front_of_a_segment_in_use_is_damage(data: Dir, opener: Opener) -> None:
    """One write at a time is under way, so the earlier segment was complete."""
    big = commands(1, 1, size=1024)
    data.open(1, big, ours=True)
    data.overwrite("open-1", 512, bytes(512))
    opened(data, 2, 2, ours=True)
    loaded = opener.load()
    assert loaded.rv == RAFT_CORRUPT
    assert loaded.errmsg == "load open segment open-1: entries batch 1 starting at byte 8: data checksum mismatch"
    data.remove("open-2")
    assert opener.load().state() == PRISTINE


@covers("load/openSegmentWithZeroFormatAndThenData")
def test_a_lost_format_word_in_front_of_a_good_batch_is_damage(data: Dir, opener: Opener) -> None:
    """The batch shows that the segment was in use."""
    opened(data, 1, 1)
    data.overwrite("open-1", 0, words(0))
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, ZERO_FORMAT.format(1))


def test_a_lost_format_word_without_a_good_batch_is_a_tear(data: Dir, opener: Opener) -> None:
    """The first block of the first write did not arrive: nothing was acknowledged (B38)."""
    data.open(1, commands(1, 1, size=8192), ours=True)
    data.overwrite("open-1", 0, bytes(512))
    assert opener.load().state() == PRISTINE
    assert data.names == []


@covers("load/openSegmentWithBadFormat")
def test_an_open_segment_of_another_format_is_refused(data: Dir, opener: Opener) -> None:
    """Format 2."""
    data.open(1, size=256)
    data.overwrite("open-1", 0, words(2))
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, "load open segment open-1: unexpected format version 2")


@covers("load/openSegmentWithNoAccessPermission")
@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_an_open_segment_that_may_not_be_read_is_an_error(data: Dir, opener: Opener) -> None:
    """RAFT_IOERR with the system's reason."""
    opened(data, 1, 1)
    (data.path / "open-1").chmod(0)
    loaded = opener.load()
    assert loaded.rv == RAFT_IOERR
    assert loaded.errmsg == "load open segment open-1: read file: open: permission denied"


def test_an_open_segment_that_cannot_be_read_is_an_error(
    data: Dir, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for root, with the failure injected."""
    opened(data, 1, 1)
    instance = opener()
    assert instance.init() == 0
    original = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if path.endswith("open-1"):
            raise PermissionError(13, "Permission denied")
        return original(path, flags, mode)

    monkeypatch.setattr("io_uv.fs.open", refuse)
    loaded = Loaded(instance.io)
    assert loaded.rv == RAFT_IOERR
    assert loaded.errmsg == "load open segment open-1: read file: open: permission denied"


# ---- damaged open segments -------------------------------------------------------------------------------------------


def with_two_open(data: Dir) -> None:
    opened(data, 1, 1)
    data.open(2)
    data.overwrite("open-1", 0, words(0))


def one_open(n_closed: int, snapshot_index: int | None = None) -> Callable[[Dir], None]:
    """Return a maker of: a snapshot, n_closed closed segments of one entry behind it, a damaged open-1."""

    def make(data: Dir) -> None:
        first = 1
        if snapshot_index is not None:
            data.snapshot(1, snapshot_index)
            first = snapshot_index + 1
        for index in range(first, first + n_closed):
            closed(data, index, 1)
        opened(data, 1, first + n_closed)
        data.overwrite("open-1", 0, words(0))

    return make


def two_open(damaged: int) -> Callable[[Dir], None]:
    """Return a maker of: closed 1-3, open-1 with 4, open-2 with 5, one of which is damaged."""

    def make(data: Dir) -> None:
        closed(data, 1, 3)
        opened(data, 1, 4)
        opened(data, 2, 5)
        data.overwrite(f"open-{damaged}", 0, words(0))

    return make


@covers(
    "load/twoOpenSegmentsFirstCorrupt",
    "load/corruptOpenSegmentNoClosedSegmentsSnapshotPresent",
    "load/corruptOpenSegmentClosedSegmentSnapshotPresent",
    "load/corruptOpenSegmentClosedSegmentsSnapshotPresent",
    "load/corruptOpenSegmentClosedSegments",
    "load/corruptOpenSegmentsClosedSegments",
    "load/corruptLastOpenSegmentClosedSegments",
)
@pytest.mark.parametrize(
    ("make", "counter"),
    [
        (with_two_open, 1),
        (one_open(0, 3), 1),
        (one_open(1, 3), 1),
        (one_open(2, 3), 1),
        (one_open(4), 1),
        (two_open(1), 1),
        (two_open(2), 2),
    ],
)
def test_a_damaged_open_segment_is_refused(
    data: Dir, opener: Opener, make: Callable[[Dir], None], counter: int
) -> None:
    """Without automatic recovery the load fails, again and again, and it and those behind it stay."""
    make(data)
    kept = [name for name in data.names if name.startswith("open-") and name >= f"open-{counter}"]
    for _ in range(2):
        loaded = opener.load()
        assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, ZERO_FORMAT.format(counter))
    assert set(kept) <= set(data.names)
    assert marker.marker_read(str(data)) is None


@covers(
    "load/twoOpenSegmentsFirstCorruptAutoRecovery",
    "load/corruptOpenSegmentNoClosedSegmentsSnapshotPresentWithAutoRecovery",
    "load/corruptOpenSegmentClosedSegmentSnapshotPresentWithAutoRecovery",
    "load/corruptOpenSegmentClosedSegmentsSnapshotPresentWithAutoRecovery",
    "load/corruptOpenSegmentClosedSegmentsWithAutoRecovery",
    "load/corruptOpenSegmentsClosedSegmentsWithAutoRecovery",
    "load/corruptLastOpenSegmentClosedSegmentsWithAutoRecovery",
)
@pytest.mark.parametrize(
    ("make", "state", "aside"),
    [
        (with_two_open, PRISTINE, ["open-1"]),
        (one_open(0, 3), (0, 3, 4, []), ["open-1"]),
        (one_open(1, 3), (0, 3, 4, [4]), ["open-1"]),
        (one_open(2, 3), (0, 3, 4, [4, 5]), ["open-1"]),
        (one_open(4), (0, None, 1, [1, 2, 3, 4]), ["open-1"]),
        (two_open(1), (0, None, 1, [1, 2, 3]), ["open-1", "open-2"]),
        (two_open(2), (0, None, 1, [1, 2, 3, 4]), ["open-2"]),
    ],
)
def test_automatic_recovery_sets_a_damaged_open_segment_aside(
    data: Dir, opener: Opener, make: Callable[[Dir], None], state: Any, aside: list[str]
) -> None:
    """So do the ones behind it; a marker says that entries may be missing."""
    make(data)
    assert opener.load(auto_recovery=True).state() == state
    assert not [name for name in data.names if name.startswith("open-")]
    assert sorted(name.split("-", 2)[2] for name in data.names if name.startswith("corrupt-")) == aside
    text = marker.marker_read(str(data))
    assert text is not None
    assert "unexpected format version 0" in text


def test_automatic_recovery_keeps_the_good_batches_and_a_copy_of_the_rest(data: Dir, opener: Opener) -> None:
    """Damage behind good batches costs what is behind it; the segments that follow are set aside too."""
    closed(data, 1, 2)
    opened(data, 1, 3, 3, ours=True)
    opened(data, 2, 6, ours=True)
    data.overwrite("open-1", 48 + 32, b"\xff")
    before = data.read("open-1")
    assert opener.load(auto_recovery=True).state() == (0, None, 1, [1, 2, 3])
    aside = {name.split("-", 2)[2]: name for name in data.names if name.startswith("corrupt-")}
    assert sorted(aside) == ["open-1", "open-2"]
    assert data.read(aside["open-1"]) == before
    assert marker.marker_read(str(data)) is not None


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
    """Numerically: 1000 is after 999."""
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
    """Data without .meta and .meta without data."""
    data.remove(data.snapshot(2, 18))
    data.remove(data.snapshot(2, 19) + ".meta")
    data.snapshot(2, 16, data=words(4))
    assert opener.load().state() == (0, 16, 17, [])
    assert data.names == ["snapshot-2-16-1000", "snapshot-2-16-1000.meta"]


@covers("load/closedSegmentWithEntriesBehindSnapshot")
def test_a_log_that_ends_before_the_snapshot_is_disregarded(data: Dir, opener: Opener) -> None:
    """Its file stays; the next snapshot removes it."""
    name = closed(data, 1, 1)
    data.snapshot(1, 2)
    assert opener.load().state() == (0, 2, 3, [])
    assert data.has(name)


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
    """Closed 1-1, open-1 with entry 2, snapshot at 2."""
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


@covers("load/openSegmentNoClosedSegmentsSnapshotPresent")
def test_an_open_segment_alone_continues_the_snapshot(data: Dir, opener: Opener) -> None:
    """Snapshot at 3, open-1 with entry 4."""
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
    """Closed 1-1 and 4-6, snapshot at 4."""
    closed(data, 1, 1)
    closed(data, 4, 3)
    data.snapshot(1, 4)
    assert opener.load().state() == (0, 4, 4, [4, 5, 6])


@covers("load/closedSegmentWithEntriesPastSnapshot")
def test_a_gap_behind_the_snapshot_is_refused(data: Dir, opener: Opener) -> None:
    """Closed 6-6, snapshot at 4: entry 5 is missing."""
    closed(data, 6, 1)
    data.snapshot(1, 4)
    loaded = opener.load()
    text = "closed segment 0000000000000006-0000000000000006 is past last snapshot snapshot-1-4-1000"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


@pytest.mark.parametrize("auto_recovery", [False, True])
@pytest.mark.parametrize("what", ["data", "meta"])
def test_a_bad_snapshot_is_passed_over_for_an_older_one_and_the_log(
    data: Dir, opener: Opener, what: str, auto_recovery: bool
) -> None:
    """The log from the older one on is complete, so nothing is lost (B19)."""
    data.snapshot(1, 2)
    name = data.snapshot(1, 5, data=bytes.fromhex("04224d1884400000"))
    if what == "meta":
        data.overwrite(name, 0, b"raw data")
        data.overwrite(f"{name}.meta", 16, b"\xff")
    closed(data, 3, 4)
    assert opener.load(auto_recovery).state() == (0, 2, 3, [3, 4, 5, 6])
    assert data.has(name) is not auto_recovery


def test_a_bad_snapshot_is_passed_over_for_the_log_alone(data: Dir, opener: Opener) -> None:
    """The log goes back to its first entry."""
    name = data.snapshot(1, 2)
    data.overwrite(f"{name}.meta", 16, b"\xff")
    closed(data, 1, 2)
    opened(data, 1, 3)
    assert opener.load().state() == (0, None, 1, [1, 2, 3])


@pytest.mark.parametrize("auto_recovery", [False, True])
def test_a_bad_snapshot_that_nothing_replaces_is_refused(data: Dir, opener: Opener, auto_recovery: bool) -> None:
    """The older one is there, but entry 4 is not, or the log ends before the bad one."""
    data.snapshot(1, 2)
    name = data.snapshot(1, 5)
    data.overwrite(f"{name}.meta", 16, b"\xff")
    closed(data, 3, 1)
    kept = data.names
    loaded = opener.load(auto_recovery)
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, f"read {name}.meta: checksum mismatch")
    closed(data, 5, 2)
    loaded = opener.load(auto_recovery)
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, f"read {name}.meta: checksum mismatch")
    assert set(kept) <= set(data.names)


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
    """Three instead of four."""
    data.rename(closed(data, 1, 3), segment.closed_name(1, 4))
    loaded = opener.load()
    text = "load closed segment 0000000000000001-0000000000000004: found 3 entries (expected 4)"
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, text)


def test_a_closed_segment_with_more_entries_than_its_name_says_is_refused(data: Dir, opener: Opener) -> None:
    """Three instead of two (B17)."""
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
    """What precedes it stays."""
    name = make(data)
    assert opener.load(auto_recovery=True).state() == (0, 4, 5, [5, 6, 7])
    assert not data.has(name)
    assert not data.has("open-1")
    text = marker.marker_read(str(data))
    assert text is not None
    assert name in text


@covers("load/closedSegmentsWithSnapshotSecondLastSegmentCorrupt")
@pytest.mark.parametrize("auto_recovery", [False, True])
def test_a_damaged_segment_before_the_last_is_refused_every_time(
    data: Dir, opener: Opener, auto_recovery: bool
) -> None:
    """With automatic recovery too: there is no log without it."""
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
    text = "unexpected closed segment 0000000000000002-0000000000000002: first index should have been 1"
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
        (b"1234567", RAFT_IOERR, "file has only 7 bytes"),
        (
            words(1),
            RAFT_IOERR,
            "entries batch 1 starting at byte 8: read preamble: short read: 0 bytes instead of 8",
        ),
        (
            encode(commands(1, 1))[:-4],
            RAFT_IOERR,
            "entries batch 1 starting at byte 8: read data: short read: 4 bytes instead of 8",
        ),
        (
            encode(commands(1, 1))[:28],
            RAFT_IOERR,
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
    """Each with the text of the C library."""
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
    """Neither a head with other entries nor an overlap in the middle."""
    closed(data, 1, 5)
    closed(data, 1, 2, number=8)
    loaded = opener.load()
    assert loaded.rv == RAFT_CORRUPT
    assert "differs from the start of" in loaded.errmsg
    data.remove(segment.closed_name(1, 2))
    closed(data, 4, 3)
    loaded = opener.load()
    assert loaded.rv == RAFT_CORRUPT
    assert "overlaps with" in loaded.errmsg


# ---- init and metadata -----------------------------------------------------------------------------------------------


@covers("init/dirTooLong")
def test_a_directory_of_895_bytes_is_too_long() -> None:
    """894 are accepted, in bytes and not characters (B24)."""
    loop = Loop()
    transport = RaftUvTransport()
    transport.version = 1
    io = RaftIo()
    assert raft_uv_init(io, loop, "a" * 894, transport) == 0
    assert io.impl.dir == "a" * 894
    assert raft_uv_init(io, loop, "a" * 895, transport) == RAFT_NAMETOOLONG
    assert io.errmsg == "directory path too long"
    assert raft_uv_init(io, loop, "ä" * 448, transport) == RAFT_NAMETOOLONG
    loop.close()


@covers("init/dirDoesNotExist")
def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    """The text names it."""
    instance = UvIo(tmp_path / "missing")
    assert instance.init() == RAFT_NOTFOUND
    assert instance.io.errmsg == f"directory '{tmp_path}/missing' does not exist"
    instance.close()


@covers("init/dirNotAccessible")
def test_a_directory_that_its_owner_may_not_write_is_invalid(tmp_path: Path) -> None:
    """By its mode, for root as well."""
    tmp_path.chmod(0)
    try:
        instance = UvIo(tmp_path)
        assert instance.init() == RAFT_INVALID
        assert instance.io.errmsg == f"directory '{tmp_path}' is not writable"
        instance.close()
    finally:
        tmp_path.chmod(0o700)


@covers("init/metadataOneTooShort")
def test_metadata_that_is_too_short_does_not_count(data: Dir, opener: Opener) -> None:
    """A crash during the very first store; the file is removed."""
    data.write("metadata1", bytes(16))
    loaded = opener.load()
    assert (loaded.rv, loaded.term, loaded.voted_for) == (0, 0, 0)
    assert not data.has("metadata1")


@covers(
    "init/metadataOneBadFormat",
    "init/metadataOneBadVersion",
    "init/metadataOneAndTwoSameVersion",
)
@pytest.mark.parametrize(
    ("files", "code", "text"),
    [
        ([words(2, 1, 1, 1)], RAFT_MALFORMED, "decode content of metadata1: bad format version 2"),
        ([words(1, 0, 1, 1)], RAFT_CORRUPT, "decode content of metadata1: version is set to zero"),
        ([words(1, 2, 1, 0)] * 2, RAFT_CORRUPT, "metadata1 and metadata2 are both at version 2"),
        ([words(1, 1, 1, 0) + b"x"], RAFT_CORRUPT, "metadata1 has size 33 instead of 32"),
    ],
)
def test_bad_metadata_is_refused(data: Dir, opener: Opener, files: list[bytes], code: int, text: str) -> None:
    """Each with the text of the C library."""
    for i, content in enumerate(files):
        data.write(f"metadata{i + 1}", content)
    instance = opener()
    assert instance.init() == code
    assert instance.io.errmsg == text


@covers(
    "set_term/first",
    "set_term/second",
    "set_term/third",
    "set_term/fourth",
)
def test_terms_go_to_the_two_files_in_turn(data: Dir, opener: Opener) -> None:
    """Odd versions to metadata1, even ones to metadata2."""
    instance = opener().start()
    expected = {}
    for version in range(1, 5):
        assert instance.io.set_term(instance.io, version) == 0
        expected[f"metadata{2 - version % 2}"] = words(1, version, version, 0)
        found = {name: data.read(name) for name in data.names if name in ("metadata1", "metadata2")}
        assert found == expected


@covers(
    "set_term/metadataOneExists",
    "set_term/metadataOneIsGreater",
    "set_term/metadataTwoIsGreater",
)
@pytest.mark.parametrize(
    ("versions", "written"),
    [((1, None), ("metadata2", 2)), ((3, 2), ("metadata2", 4)), ((1, 2), ("metadata1", 3))],
)
def test_versions_go_on_from_the_higher_one(
    data: Dir, opener: Opener, versions: tuple[int, int | None], written: tuple[str, int]
) -> None:
    """The older file is the one to be overwritten."""
    for n, version in enumerate(versions):
        if version is not None:
            data.metadata(n + 1, version, 1)
    instance = opener().start()
    assert instance.io.set_term(instance.io, 2) == 0
    name, version = written
    assert data.read(name) == words(1, version, 2, 0)


def test_a_vote_keeps_the_term_and_a_term_drops_the_vote(opener: Opener) -> None:
    """Both survive a restart."""
    instance = opener().start()
    io = instance.io
    assert io.set_term(io, 3) == 0
    assert io.set_vote(io, 2) == 0
    loaded = opener.load()
    assert (loaded.term, loaded.voted_for) == (3, 2)
    assert io.set_term(io, 4) == 0
    loaded = opener.load()
    assert (loaded.term, loaded.voted_for) == (4, 0)


# ---- bootstrap and recover -------------------------------------------------------------------------------------------


@covers("bootstrap/pristine")
def test_bootstrap_writes_the_term_and_one_configuration_entry(data: Dir, opener: Opener) -> None:
    """Byte for byte as the C library does."""
    instance = opener().start()
    c = conf(1)
    c.servers[0].address = "127.0.0.1:9001"
    assert instance.io.bootstrap(instance.io, c) == 0
    assert data.read("metadata1") == words(1, 1, 1, 0)
    assert data.read("0000000000000001-0000000000000001").hex() == (
        "01000000000000002d99f986a326929901000000000000000100000000000000030000002800000001010000000000000001000000"
        "000000003132372e302e302e313a39303031000100000000000000"
    )
    loaded = opener.load()
    assert (loaded.rv, loaded.term, loaded.entries.terms, loaded.entries.types) == (0, 1, [1], [RAFT_CHANGE])


@covers("bootstrap/termIsNonZero")
def test_bootstrap_of_a_server_with_a_term_is_refused(opener: Opener) -> None:
    """A second bootstrap."""
    instance = opener().start()
    assert instance.io.bootstrap(instance.io, conf(1)) == 0
    assert instance.io.bootstrap(instance.io, conf(1)) == RAFT_CANTBOOTSTRAP
    assert instance.io.errmsg == "metadata contains term 1"


def test_a_bootstrap_that_is_refused_leaves_nothing_behind(data: Dir, opener: Opener) -> None:
    """Neither for a configuration that is too big, nor where a first segment exists (B20)."""
    instance = opener().start()
    large = conf(1)
    large.servers[0].address = "x" * BLOCK_SIZE
    assert instance.io.bootstrap(instance.io, large) == RAFT_TOOBIG
    assert data.names == []
    name = closed(data, 1, 1)
    assert instance.io.bootstrap(instance.io, conf(1)) == RAFT_IOERR
    assert name in instance.io.errmsg
    assert data.names == [name]


@covers("recover/newConfiguration")
def test_recover_appends_the_configuration(opener: Opener) -> None:
    """In the highest term that the log or the metadata have (B2)."""
    instance = opener().start()
    io = instance.io
    assert io.bootstrap(io, conf(3)) == 0
    assert io.recover(io, conf(1)) == 0
    loaded = opener.load()
    assert (loaded.entries.terms, loaded.entries.types) == ([1, 1], [RAFT_CHANGE, RAFT_CHANGE])
    assert io.set_term(io, 5) == 0
    assert io.recover(io, conf(2)) == 0
    loaded = opener.load()
    assert loaded.entries.terms == [1, 1, 5]
    assert configuration.decode(loaded.entries.bufs[2])[1].servers[1].role == RAFT_VOTER


def test_recover_takes_the_last_term_of_log_or_snapshot(data: Dir, opener: Opener) -> None:
    """They may be above that of the metadata, which stay."""
    data.metadata(1, 1, 2)
    data.snapshot(7, 4)
    instance = opener().start()
    assert instance.io.recover(instance.io, conf(1)) == 0
    loaded = opener.load()
    assert (loaded.term, loaded.start_index, loaded.entries.terms) == (2, 5, [7])


def test_a_recover_that_is_refused_leaves_everything_alone(data: Dir, opener: Opener) -> None:
    """The configuration is too big."""
    opened(data, 1, 1)
    large = conf(1)
    large.servers[0].address = "x" * BLOCK_SIZE
    instance = opener()
    assert instance.init() == 0
    assert instance.io.recover(instance.io, large) == RAFT_TOOBIG
    assert data.names == ["open-1"]
    assert len(data.read("open-1")) == SEGMENT_SIZE

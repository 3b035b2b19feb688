"""Loading data directories with open segments: what the C suite's load cases do, and what damage does."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from io_uv import marker, segment
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR, RAFT_MALFORMED
from pyraft.types import Entries
from tests.lib.covers import covers
from tests.lib.disk import Dir, commands, words
from tests.lib.uvload import PRISTINE, ZERO_FORMAT, Loaded, Opener, closed, opened

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
    """There are closed 1-2 and 3-3, then an open segment with entry 4."""
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
    """It has one entry."""
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
    """The maker of the segment does not matter: what lies behind was written after it, or together with it and
    whole."""
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
    """Its format is 2."""
    data.open(1, size=256)
    data.overwrite("open-1", 0, words(2))
    loaded = opener.load()
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, "load open segment open-1: unexpected format version 2")


def of_the_future(index: int) -> Entries:
    """Return a batch of two entries, the second of a type that nobody knows yet."""
    entries = commands(index, 2)
    entries[1].type = 9
    return entries


@pytest.mark.parametrize("auto_recovery", [True, False])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("behind", [0, 1])
def test_an_unknown_entry_type_in_an_open_segment_is_malformed(
    data: Dir, opener: Opener, auto_recovery: bool, ours: bool, behind: int
) -> None:
    """A later version wrote it: that is neither a tear nor damage, and the file stays as it was."""
    data.open(1, commands(1, 1), of_the_future(2), *[commands(4, 1)] * behind, ours=ours)
    before = data.read("open-1")
    loaded = opener.load(auto_recovery)
    text = "load open segment open-1: entries batch 2 starting at byte 48: entry 1 of 2 has unknown type 9"
    assert (loaded.rv, loaded.errmsg) == (RAFT_MALFORMED, text)
    assert data.read("open-1") == before
    assert marker.marker_read(str(data)) is None


@pytest.mark.parametrize("offset", [0, 40])
def test_a_good_batch_of_unknown_type_shows_that_what_is_before_it_is_damage(
    data: Dir, opener: Opener, offset: int
) -> None:
    """A lost format word, or a bad batch, in front of a complete batch with good checksums does not count as a tear."""
    data.open(1, *[commands(1, 1)] * (offset > 0), of_the_future(2))
    data.overwrite("open-1", offset, words(0))
    before = data.read("open-1")
    assert opener.load().rv == RAFT_CORRUPT
    assert data.read("open-1") == before


def test_a_header_of_unknown_type_whose_data_is_bad_is_no_evidence(data: Dir, opener: Opener) -> None:
    """Behind a bad batch it may be what lies about on a disk, or in somebody's payload."""
    data.open(1, commands(1, 1), of_the_future(2))
    data.overwrite("open-1", 40, words(0))
    data.overwrite("open-1", 48 + 8 + 40, words(0))
    assert opener.load().state() == PRISTINE


@covers("load/openSegmentWithNoAccessPermission")
@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_an_open_segment_that_may_not_be_read_is_an_error(data: Dir, opener: Opener) -> None:
    """It is RAFT_IOERR with the system's reason."""
    opened(data, 1, 1)
    (data.path / "open-1").chmod(0)
    loaded = opener.load()
    assert loaded.rv == RAFT_IOERR
    assert loaded.errmsg == "load open segment open-1: read file: open: permission denied"


def test_an_open_segment_that_cannot_be_read_is_an_error(
    data: Dir, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same for root, with the failure injected."""
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

"""Segments: names, the bytes of the C library, damage of every kind, and the order of removals."""

import itertools
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import fs, open_segment, segment
from io_uv.failure import Failure
from io_uv.open_segment import DAMAGED, INTACT, TORN, UNWRITTEN
from io_uv.segment import SegmentInfo
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED, RAFT_NOSPACE
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, EntryBatch, RaftEntry, no_entries
from tests.lib import disk
from tests.lib.disk import SEGMENT_SIZE, Dir, command, commands, numbers, singles, words

ENTRY = st.builds(
    RaftEntry,
    term=st.integers(1, (1 << 64) - 1),
    type=st.sampled_from([RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE]),
    buf=st.integers(0, 30).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)),
)


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """An empty directory."""
    return Dir(tmp_path)


def of(entries: list[RaftEntry]) -> EntryBatch:
    return EntryBatch.of(entries, len(entries))


def columns(entries: EntryBatch) -> Any:
    return entries.terms, entries.types, entries.bufs


def load(data: Dir, name: str) -> EntryBatch:
    info = segment.parse_name(name)
    assert info is not None
    entries = no_entries()
    segment.load_closed(str(data), info, entries)
    return entries


def failure(data: Dir, name: str) -> Failure:
    with pytest.raises(Failure) as caught:
        load(data, name)
    return caught.value


# ---- names -----------------------------------------------------------------------------------------------------------


def test_names_are_rendered_as_in_c() -> None:
    """Closed ones have 16 digits, open ones none added; larger numbers take more."""
    assert segment.closed_name(1, 20) == "0000000000000001-0000000000000020"
    assert segment.open_name(7) == "open-7"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0000000000000001-0000000000000020", (False, 1, 20, 0)),
        ("1-20", (False, 1, 20, 0)),
        ("9999999999999999-9999999999999999", (False, 9999999999999999, 9999999999999999, 0)),
        ("open-1", (True, 0, 0, 1)),
        ("open-01", (True, 0, 0, 1)),
        ("open-123456789012345678901234567890", (True, 0, 0, 123456789012345678901234567890)),
    ],
)
def test_names_are_read_as_in_c(name: str, expected: tuple[bool, int, int, int]) -> None:
    """They have leading zeros or not, at most 16 digits in closed ones."""
    info = segment.parse_name(name)
    assert info is not None
    assert (info.is_open, info.first_index, info.last_index, info.counter) == expected


@pytest.mark.parametrize(
    "name",
    [
        "garbage",
        "00000000000000001-0000000000000020",
        "0000000000000001-0000000000000020 ",
        "0000000000000001-0000000000000020\n",
        "open-1garbage",
        "open-",
        "open--1",
        "open-1\n",
        "0-0",
        "0-5",
        "5-3",
        "-1-2",
        "\u0661-\u0662",
        "metadata1",
        "snapshot-1-2-3",
        "corrupt-1-open-1",
        "tmp-open-1",
    ],
)
def test_other_names_are_no_segments(name: str) -> None:
    """Empty ranges are not either."""
    assert segment.parse_name(name) is None


def test_segments_sort_as_numbers_closed_before_open() -> None:
    """The spelling does not matter."""
    names = ["open-10", "10-12", "open-9", "0000000000000001-0000000000000009", "13-13"]
    infos = [info for info in map(segment.parse_name, names) if info is not None]
    segment.sort(infos)
    expected = ["0000000000000001-0000000000000009", "10-12", "13-13", "open-9", "open-10"]
    assert [info.filename for info in infos] == expected


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_a_batch_has_the_bytes_of_the_c_library() -> None:
    """libraft wrote the two examples."""
    one = of([RaftEntry(1, RAFT_COMMAND, b"ABCDEFGH")])
    assert b"".join(segment.encode_batch(one)).hex() == (
        "486653db68d6d0530100000000000000010000000000000001000000080000004142434445464748"
    )
    two = of([RaftEntry(1, RAFT_COMMAND, b"IJKLMNOP"), RaftEntry(2, RAFT_COMMAND, b"QRSTUVWXYZ012345")])
    assert b"".join(segment.encode_batch(two)).hex() == (
        "59dc8e4df052e1910200000000000000010000000000000001000000080000000200000000000000"
        "0100000010000000" + b"IJKLMNOPQRSTUVWXYZ012345".hex()
    )


def test_a_closed_segment_has_the_bytes_of_the_c_library(data: Dir) -> None:
    """It is that of a bootstrapped server."""
    blob = bytes.fromhex("01010000000000000001000000000000003132372e302e302e313a39303031000100000000000000")
    name = segment.write_closed(str(data), 1, [of([RaftEntry(1, RAFT_CHANGE, blob)])])
    assert name == "0000000000000001-0000000000000001"
    assert data.read(name).hex() == (
        "01000000000000002d99f986a3269299010000000000000001000000000000000300000028000000" + blob.hex()
    )
    assert os.stat(data.path / name).st_mode & 0o777 == 0o600


@given(st.lists(st.lists(ENTRY, min_size=1, max_size=8), min_size=1, max_size=5), st.integers(1, 1 << 40))
def test_what_is_written_is_read(batches: list[list[RaftEntry]], first: int) -> None:
    """It equals what the description of the format says."""
    with tempfile.TemporaryDirectory() as path:
        data = Dir(Path(path))
        name = segment.write_closed(path, first, [of(entries) for entries in batches])
        assert data.read(name) == disk.segment(*batches)
        assert columns(load(data, name)) == columns(of([entry for entries in batches for entry in entries]))


@pytest.mark.parametrize("sizes", [(8, 8, 8), (16, 8, 24), (8, 0, 16), (0, 0), (0, 8), (8, 16, 8, 0)])
def test_entries_are_cut_where_they_end(data: Dir, sizes: tuple[int, ...]) -> None:
    """Sizes that are the first one on average are not all the first one, and may be nothing."""
    bufs = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    name = segment.write_closed(str(data), 1, [of([RaftEntry(1, RAFT_COMMAND, buf) for buf in bufs])])
    assert load(data, name).bufs == bufs


def test_unused_bytes_of_a_header_are_ignored_but_checked(data: Dir) -> None:
    """C leaves garbage there and puts it under the checksum."""
    header = words(1, 1) + b"\x01\xaa\xbb\xcc" + (8).to_bytes(4, "little")
    payload = words(5)
    content = words(1) + disk.crc(header).to_bytes(4, "little") + disk.crc(payload).to_bytes(4, "little")
    name = segment.closed_name(1, 1)
    data.write(name, content + header + payload)
    assert numbers(load(data, name)) == [5]


def test_large_batches_are_split_on_writing(data: Dir) -> None:
    """No reader takes more than 262,144 entries in one (B40)."""
    n = 262_145
    name = segment.write_closed(str(data), 1, [EntryBatch([1] * n, [1] * n, [b""] * n)])
    assert len(load(data, name)) == n
    assert data.read(name)[16:24] == words(262_144)


@pytest.mark.parametrize("n", [1, 64])
def test_a_large_log_comes_back_in_order(data: Dir, n: int) -> None:
    """It has 200,000 entries in four files, in batches of one too; `make bench` says how long it takes."""
    payloads = [number.to_bytes(8, "little") * 8 for number in range(200_000)]
    for at in range(0, 200_000, 50_000):
        part = payloads[at : at + 50_000]
        pieces = [part[i : i + n] for i in range(0, 50_000, n)]
        batches = [EntryBatch([3] * len(bufs), [1] * len(bufs), bufs) for bufs in pieces]
        segment.write_closed(str(data), at + 1, batches)
    entries = no_entries()
    for info in map(segment.parse_name, data.names):
        if info is not None:
            segment.load_closed(str(data), info, entries)
    assert entries.bufs == payloads


# ---- damage to closed segments ---------------------------------------------------------------------------------------


def closed_example(data: Dir) -> str:
    return data.closed(1, commands(1, 3, size=24), [command(4, 0)], [RaftEntry(2, RAFT_BARRIER, bytes(8))])


def test_every_flipped_byte_of_a_closed_segment_is_told(data: Dir) -> None:
    """The text has the name, the batch and the byte."""
    name = closed_example(data)
    content = data.read(name)
    for at, flip in itertools.product(range(len(content)), (0x01, 0x80, 0xFF)):
        data.overwrite(name, at, bytes((content[at] ^ flip,)))
        found = failure(data, name)
        assert found.code in (RAFT_CORRUPT, RAFT_MALFORMED)
        assert found.message.startswith(f"load closed segment {name}: ")
        assert "starting at byte" in found.message or "unexpected format version" in found.message
        data.overwrite(name, at, content[at : at + 1])
    assert len(load(data, name)) == 5


def test_every_way_to_cut_a_closed_segment_is_told(data: Dir) -> None:
    """At a batch boundary the count gives it away."""
    name = closed_example(data)
    content = data.read(name)
    for length in range(len(content)):
        data.write(name, content[:length])
        found = failure(data, name)
        assert found.code == RAFT_CORRUPT
        assert found.message.startswith(f"load closed segment {name}: ")


def test_a_failed_load_leaves_the_entries_before_it(data: Dir) -> None:
    """Batches in front of the bad one are taken back."""
    name = closed_example(data)
    data.overwrite(name, len(data.read(name)) - 1, b"\xff")
    entries = of(commands(1, 2))
    with pytest.raises(Failure):
        segment.load_closed(str(data), SegmentInfo(name, 1, 5), entries)
    assert numbers(entries) == [1, 2]


@given(st.binary(max_size=200))
def test_garbage_is_a_failure(content: bytes) -> None:
    """It never raises another exception."""
    with tempfile.TemporaryDirectory() as path:
        data = Dir(Path(path))
        name = segment.closed_name(1, 1)
        data.write(name, words(1) + content)
        assert failure(data, name).code in (RAFT_CORRUPT, RAFT_MALFORMED)


def test_a_segment_that_cannot_be_opened_is_told(data: Dir) -> None:
    """The text has its name."""
    name = segment.closed_name(1, 1)
    assert failure(data, name).message == f"load closed segment {name}: read file: open: no such file or directory"


# ---- open segments ---------------------------------------------------------------------------------------------------


def judge(content: bytes, ours: bool = True, size: int = SEGMENT_SIZE) -> open_segment.OpenContent:
    """Judge the content of an open segment, filled up with zeros."""
    return open_segment.judge(content.ljust(size, b"\0"), size if ours else 0)


def sectors(content: bytes, start: int, new: bytes) -> list[bytes]:
    """Return all that a torn write of `new` at `start` over `content` may leave: every subset of its sectors."""
    n = len(new) // 512
    found = []
    for arrived in itertools.product((False, True), repeat=n):
        disk_content = bytearray(content)
        for i, there in enumerate(arrived):
            if there:
                disk_content[start + 512 * i : start + 512 * (i + 1)] = new[512 * i : 512 * (i + 1)]
        found.append(bytes(disk_content))
    return found


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_every_tear_of_a_write_is_accepted_and_loses_nothing_before_it(seed: int, ours: bool) -> None:
    """Of random batches in blocks of 2048 all complete ones are there, and new entries from the first on, or none."""
    rng = random.Random(seed)
    block = 2048
    content = bytes(16 * 1024)
    stored: list[RaftEntry] = []
    image = words(1)
    for _ in range(4):
        first_write = len(image) == 8
        n = 1 if first_write else rng.randrange(1, 4)
        new: list[list[RaftEntry]] = []
        for _ in range(n):
            before = len(stored) + sum(map(len, new))
            new.append(commands(before + 1, rng.randrange(1, 5), size=8 * rng.randrange(1, 60)))
        start = len(image) - len(image) % block if not first_write else 0
        fresh = image + b"".join(disk.batch(entries) for entries in new)
        write = fresh[start:].ljust(-(-(len(fresh) - start) // block) * block, b"\0")
        added = [entry for entries in new for entry in entries]
        for torn in sectors(content, start, write):
            found = open_segment.judge(torn, len(torn) if ours else 0)
            assert found.verdict != DAMAGED, found.problem
            got = numbers(found.entries)
            assert got[: len(stored)] == [i + 1 for i in range(len(stored))]
            assert got == list(range(1, len(got) + 1))
            assert len(got) <= len(stored) + len(added)
        content = content[:start] + write + content[start + len(write) :]
        assert judge(content, size=len(content)).verdict == INTACT
        stored += added
        image = fresh
        if len(image) > 12_000:
            break


def test_every_flipped_byte_of_our_open_segment_is_told_or_costs_nothing() -> None:
    """In the batches it is told; in the zeros behind them nothing is lost."""
    content = disk.segment(*singles(commands(1, 12, size=64)), commands(13, 3, size=200))
    for at, flip in itertools.product(range(len(content) + 300), (0x01, 0x80, 0xFF)):
        damaged = bytearray(content.ljust(SEGMENT_SIZE, b"\0"))
        damaged[at] ^= flip
        found = open_segment.judge(bytes(damaged), SEGMENT_SIZE)
        if at < len(content):
            assert found.verdict == DAMAGED
            assert found.problem is not None
            assert found.problem.code == RAFT_CORRUPT
        else:
            assert len(found.entries) == 15
    whole = judge(content)
    assert (whole.verdict, whole.used, len(whole.entries)) == (INTACT, len(content), 15)


def test_every_flipped_byte_in_front_of_the_last_batch_is_told_for_any_open_segment() -> None:
    """A segment of a C process carries no note; good batches behind the damage prove it."""
    last = disk.batch([command(13, 64)])
    content = disk.segment(*singles(commands(1, 12, size=64)))
    for at, flip in itertools.product(range(len(content)), (0x01, 0x80, 0xFF)):
        damaged = bytearray((content + last).ljust(SEGMENT_SIZE, b"\0"))
        damaged[at] ^= flip
        assert open_segment.judge(bytes(damaged)).verdict == DAMAGED


def test_every_way_to_cut_our_open_segment_is_told() -> None:
    """It is known to have been larger."""
    content = disk.segment(*singles(commands(1, 5, size=64))).ljust(4096, b"\0")
    for length in range(len(content)):
        found = open_segment.judge(content[:length], 4096)
        assert found.verdict == DAMAGED
        assert found.problem is not None
        assert found.problem.code == RAFT_CORRUPT


@pytest.mark.parametrize("size", range(8))
def test_fewer_bytes_than_the_format_word_are_nothing(size: int) -> None:
    """They are in a file of unknown make (B1)."""
    assert open_segment.judge(words(1)[:size]).verdict == UNWRITTEN


def test_zeros_are_an_unwritten_segment() -> None:
    """Their number does not matter."""
    for size in (8, 512, SEGMENT_SIZE):
        assert judge(b"", size=size).verdict == UNWRITTEN


def test_a_format_word_alone_holds_nothing() -> None:
    """Followed by zeros, or by the end of the file."""
    for content in (words(1), words(1, 0, 0)):
        found = open_segment.judge(content)
        assert (found.verdict, len(found.entries), found.used) == (INTACT, 0, 8)


@pytest.mark.parametrize("trailing", [8, 1, 15, 0])
def test_a_full_segment_may_have_a_few_bytes_left(trailing: int) -> None:
    """They are too few for another batch (B1)."""
    content = disk.segment(commands(1, 3))
    found = open_segment.judge(content + bytes(trailing), len(content) + trailing)
    assert (found.verdict, numbers(found.entries), found.used) == (INTACT, [1, 2, 3], len(content))


def test_a_large_first_batch_may_have_lost_the_end_of_the_file() -> None:
    """It made the file grow, and the new size did not reach the disk."""
    content = disk.segment(commands(1, 1, size=3 * SEGMENT_SIZE)).ljust(13 * 4096, b"\0")
    found = open_segment.judge(content[: 2 * SEGMENT_SIZE], SEGMENT_SIZE)
    assert (found.verdict, len(found.entries)) == (TORN, 0)
    second = disk.segment(commands(1, 1), commands(2, 1, size=3 * SEGMENT_SIZE))
    assert open_segment.judge(second[: 2 * SEGMENT_SIZE], SEGMENT_SIZE).verdict == DAMAGED


def test_a_lost_first_sector_is_a_tear_without_a_good_batch_behind_it() -> None:
    """With one the segment was in use (B38)."""
    lost = bytearray(disk.segment(commands(1, 1, size=4096)).ljust(SEGMENT_SIZE, b"\0"))
    lost[:512] = bytes(512)
    assert judge(bytes(lost)).verdict == TORN
    found = judge(words(0) + disk.segment(commands(1, 1))[8:])
    assert found.verdict == DAMAGED
    assert found.problem is not None
    assert found.problem.message == "unexpected format version 0"


@pytest.mark.parametrize("count", [0, 1 << 40])
def test_a_count_that_nobody_writes_is_damage(count: int) -> None:
    """The sector that it stands in was written, so it is not a tear, in the last batch either."""
    good = disk.segment(commands(1, 2))
    last = disk.segment(commands(3, 1))[8:]
    content = (good + last[:8] + words(count) + last[16:]).ljust(SEGMENT_SIZE, b"\0")
    found = open_segment.judge(content, SEGMENT_SIZE)
    assert (found.verdict, numbers(found.entries)) == (DAMAGED, [1, 2])


def test_another_format_is_damage() -> None:
    """It is format 2."""
    found = judge(words(2))
    assert found.verdict == DAMAGED
    assert found.problem is not None
    assert (found.problem.code, found.problem.message) == (RAFT_CORRUPT, "unexpected format version 2")


@given(st.binary(max_size=400), st.booleans())
def test_any_open_content_is_judged(content: bytes, ours: bool) -> None:
    """It never raises an exception."""
    found = judge(words(1) + content, ours)
    assert found.verdict in (UNWRITTEN, INTACT, TORN, DAMAGED)
    assert (found.verdict == DAMAGED) <= (found.problem is not None)


# ---- removing --------------------------------------------------------------------------------------------------------


class Steps:
    """Records unlinks, renames and directory syncs by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: Dir) -> None:
        self.steps: list[str] = []
        unlink, rename, sync_dir = fs.unlink, fs.rename, fs.sync_dir

        def recorded_unlink(path: str) -> None:
            self.steps.append(f"unlink {os.path.basename(path).lstrip('0')}")
            unlink(path)

        def recorded_rename(old: str, new: str) -> None:
            self.steps.append(f"rename {os.path.basename(new).lstrip('0')}")
            rename(old, new)

        def recorded_sync(dir: str) -> None:
            self.steps.append("sync")
            sync_dir(dir)

        monkeypatch.setattr(fs, "unlink", recorded_unlink)
        monkeypatch.setattr(fs, "rename", recorded_rename)
        monkeypatch.setattr(fs, "sync_dir", recorded_sync)


def log(data: Dir, *ranges: tuple[int, int]) -> list[SegmentInfo]:
    infos = []
    for first, last in ranges:
        name = data.closed(first, *singles(commands(first, last - first + 1)))
        infos.append(SegmentInfo(name, first, last))
    data.open(1)
    return [*infos, SegmentInfo("open-1", counter=1)]


def left(data: Dir) -> list[str]:
    return [name.replace("0", "") for name in data.names if not name.startswith("open")]


@pytest.mark.parametrize(
    ("last_index", "trailing", "expected"),
    [
        (4, 2, ["3-3", "4-4", "5-5"]),
        (4, 4, ["1-1", "2-2", "3-3", "4-4", "5-5"]),
        (4, 9, ["1-1", "2-2", "3-3", "4-4", "5-5"]),
        (4, 0, ["5-5"]),
        (9, 0, ["5-5"]),
        (5, 1, ["5-5"]),
    ],
)
def test_trailing_entries_stay(data: Dir, last_index: int, trailing: int, expected: list[str]) -> None:
    """So does everything above the snapshot, even without any (B3), and what an open segment would be counted from."""
    infos = log(data, (1, 1), (2, 2), (3, 3), (4, 4), (5, 5))
    segment.keep_trailing(str(data), infos, last_index, trailing)
    assert left(data) == expected


def test_a_segment_goes_only_as_a_whole(data: Dir) -> None:
    """One entry of it is still wanted."""
    infos = log(data, (1, 3), (4, 9))
    segment.keep_trailing(str(data), infos, 6, 4)
    assert left(data) == ["1-3", "4-9"]
    segment.keep_trailing(str(data), infos, 6, 3)
    assert left(data) == ["4-9"]


def test_a_segment_that_cannot_be_removed_is_told(data: Dir) -> None:
    """The text has its name."""
    infos = log(data, (1, 1), (2, 2))
    data.remove(infos[0].filename)
    with pytest.raises(Failure) as caught:
        segment.keep_trailing(str(data), infos, 2, 0)
    expected = "delete closed segment 0000000000000001-0000000000000001: unlink: no such file or directory"
    assert caught.value.message == expected


@pytest.mark.parametrize(
    ("index", "expected"),
    [(1, []), (2, ["1-1"]), (4, ["1-3"]), (5, ["1-3", "4-4"]), (9, ["1-3", "4-6", "7-8"]), (10, ["1-3", "4-6", "7-9"])],
)
def test_a_truncate_keeps_the_entries_before_its_index(data: Dir, index: int, expected: list[str]) -> None:
    """Whole segments keep their names, the one that is cut gets another."""
    infos = log(data, (1, 3), (4, 6), (7, 9))
    segment.truncate_log(str(data), infos, index)
    assert left(data) == expected
    if index == 5:
        assert numbers(load(data, segment.closed_name(4, 4))) == [4]


def test_a_truncate_goes_from_the_end_and_syncs_each_step(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between leaves no hole, and at worst the head beside the whole."""
    infos = log(data, (1, 3), (4, 6), (7, 8))
    steps = Steps(monkeypatch, data)
    segment.truncate_log(str(data), infos, 2)
    assert steps.steps == [
        "unlink 7-0000000000000008",
        "sync",
        "unlink 4-0000000000000006",
        "sync",
        "rename 1-0000000000000001",
        "sync",
        "unlink 1-0000000000000003",
        "sync",
    ]


def test_a_truncate_can_be_repeated_after_a_failure(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can, at whatever step it failed."""
    for failing in range(20):
        infos = log(data, (1, 3), (4, 6), (7, 8))
        count = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("unlink", "rename", "fsync"):
                original = getattr(fs, name)

                def call(*args: Any, original: Any = original, failing: int = failing, count: Any = count) -> Any:
                    if next(count) == failing:
                        raise OSError(5, "Input/output error")
                    return original(*args)

                patch.setattr(fs, name, call)
            try:
                segment.truncate_log(str(data), infos, 5)
                failed = False
            except Failure:
                failed = True
        again = [info for info in map(segment.parse_name, data.names) if info is not None]
        segment.sort(again)
        segment.truncate_log(str(data), again, 5)
        assert left(data) == ["1-3", "4-4"]
        for name in data.names:
            data.remove(name)
        if not failed:
            assert failing > 5
            return
    pytest.fail("never got through")


def test_an_install_removes_what_is_beyond_the_snapshot_first(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest goes first, each durably: no crash leaves a log that starts behind the snapshot."""
    infos = log(data, (1, 3), (4, 6), (7, 8))
    steps = Steps(monkeypatch, data)
    segment.remove_closed(str(data), infos, 5)
    assert steps.steps == [
        "unlink 7-0000000000000008",
        "sync",
        "unlink 4-0000000000000006",
        "sync",
        "unlink 1-0000000000000003",
        "sync",
    ]
    assert left(data) == []


def test_a_failed_write_leaves_no_segment(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names it."""

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fs, "fsync", fail)
    with pytest.raises(Failure) as caught:
        segment.write_closed(str(data), 1, [of(commands(1, 2))])
    name = segment.closed_name(1, 2)
    assert (caught.value.code, caught.value.message) == (
        RAFT_NOSPACE,
        f"write closed segment {name}: fsync: no space left on device",
    )
    assert data.names == []

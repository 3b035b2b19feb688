"""Snapshot files: the bytes of the C library, content of every kind, damage of every kind."""

import itertools
import os
import random
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import compress, fs, snapshot_file, sums
from io_uv.failure import Failure
from io_uv.snapshot_file import SnapshotInfo
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED, RAFT_NOSPACE, RAFT_NOTFOUND, RAFT_TOOBIG
from pyraft.types import RaftConfiguration, RaftServer, RaftSnapshot
from tests.lib.disk import Dir, conf, crc, snapshot, words
from tests.lib.frames import framed

MEGABYTE = 1024 * 1024


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """An empty directory."""
    return Dir(tmp_path)


def write(data: Dir, content: Any, compressed: bool = True, index: int = 3, time: int = 1000) -> SnapshotInfo:
    bufs = [content] if isinstance(content, bytes) else content
    return snapshot_file.write(str(data), snapshot(index, 1, bufs), compressed, time)


def write_made(data: Dir, pieces: Any, compressed: bool = True, index: int = 3) -> SnapshotInfo:
    """Write content that is not there yet: `pieces` is any iterable."""
    made = snapshot(index, 1, [])
    made.bufs = pieces
    return snapshot_file.write(str(data), made, compressed, 1000)


def read(data: Dir, info: SnapshotInfo) -> RaftSnapshot:
    return snapshot_file.read(str(data), info)


def info_of(name: str) -> SnapshotInfo:
    parsed = snapshot_file.parse_name(name + ".meta")
    assert parsed is not None
    return parsed[0]


def content_or_failure(data: Dir, info: SnapshotInfo) -> Any:
    """Return the content, or the Failure."""
    try:
        return read(data, info).bufs[0]
    except Failure as exc:
        return exc


def failure(data: Dir, info: SnapshotInfo) -> Failure:
    with pytest.raises(Failure) as caught:
        read(data, info)
    return caught.value


# ---- names -----------------------------------------------------------------------------------------------------------


def test_names_are_read_with_their_suffix() -> None:
    """They have term, index and time in decimal."""
    for suffix in ("", ".meta", ".sum"):
        parsed = snapshot_file.parse_name("snapshot-1-22-333" + suffix)
        assert parsed is not None
        info, found = parsed
        assert (info.term, info.index, info.timestamp, found) == (1, 22, 333, suffix)
        assert (info.filename, info.data_name) == ("snapshot-1-22-333.meta", "snapshot-1-22-333")


@pytest.mark.parametrize(
    "name", ["snapshot-1-2", "snapshot-1-2-3.metadata", "snapshot-1-2-3\n", "xsnapshot-1-2-3", "snapshot-a-2-3"]
)
def test_other_names_are_no_snapshots(name: str) -> None:
    """They give None."""
    assert snapshot_file.parse_name(name) is None


def test_snapshots_sort_by_term_then_index_then_time() -> None:
    """All three are compared as numbers."""
    names = ["snapshot-2-9-1", "snapshot-1-10-1", "snapshot-1-9-11", "snapshot-1-9-2", "snapshot-10-1-1"]
    infos = [info_of(name) for name in names]
    snapshot_file.sort(infos)
    expected = ["snapshot-1-9-2", "snapshot-1-9-11", "snapshot-1-10-1", "snapshot-2-9-1", "snapshot-10-1-1"]
    assert [info.data_name for info in infos] == expected


def test_timestamps_are_milliseconds_since_the_epoch() -> None:
    """They are later than those of the same entry, wherever the clock was then (B21)."""
    before = time.time_ns() // 1_000_000
    stamp = snapshot_file.timestamp_now([], 1, 2)
    assert before <= stamp <= before + 10_000
    future = before + 10**9
    infos = [info_of(f"snapshot-1-2-{future}"), info_of(f"snapshot-1-3-{future + 5}")]
    assert snapshot_file.timestamp_now(infos, 1, 2) == future + 1


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_the_meta_file_has_the_bytes_of_the_c_library(data: Dir) -> None:
    """It has index 3, term 1, configuration index 1 and one server."""
    s = snapshot(3)
    s.configuration.servers = [RaftServer(1, "127.0.0.1:9001", 1)]
    info = snapshot_file.write(str(data), s, True, 1000)
    blob = "01010000000000000001000000000000003132372e302e302e313a39303031000100000000000000"
    assert data.read(info.filename).hex() == ("0100000000000000f27a47c40000000001000000000000002800000000000000" + blob)
    assert os.stat(data.path / info.filename).st_mode & 0o777 == 0o600


def test_compressed_data_has_the_bytes_of_the_c_library(data: Dir) -> None:
    """They are one LZ4 frame."""
    info = write(data, bytes(range(1, 9)))
    expected = "04224d184c400800000000000000b108000080010203040506070800000000680d3a14"
    assert data.read(info.data_name).hex() == expected


def test_raw_data_is_the_buffers_one_after_the_other(data: Dir) -> None:
    """They are any bytes-like objects."""
    info = write(data, [b"abc", b"", bytearray(b"def"), memoryview(b"ghi")], compressed=False)
    assert data.read(info.data_name) == b"abcdefghi"
    assert read(data, info).bufs == [b"abcdefghi"]


def test_files_come_one_after_the_other_each_durable(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """.meta before the data, which makes the snapshot count; the sidecar last."""
    steps: list[str] = []
    fsync, rename = fs.fsync, fs.rename

    def recorded_fsync(fd: int) -> None:
        steps.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
        fsync(fd)

    def recorded_rename(old: str, new: str) -> None:
        steps.append(f"rename {os.path.basename(new)}")
        rename(old, new)

    monkeypatch.setattr(fs, "fsync", recorded_fsync)
    monkeypatch.setattr(fs, "rename", recorded_rename)
    write(data, b"x")
    expected = []
    for name in ("snapshot-1-3-1000.meta", "snapshot-1-3-1000", "snapshot-1-3-1000.sum"):
        expected += [f"fsync tmp-{name}", f"rename {name}", f"fsync {data.path.name}"]
    assert steps == expected


# ---- content ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 65536, MEGABYTE, MEGABYTE + 1, 5 * MEGABYTE])
def test_content_comes_back(data: Dir, size: int, compressed: bool) -> None:
    """It is one buffer, read-only; an empty one comes back too, which C cannot store (B44)."""
    content = random.Random(size).randbytes(size)
    info = write(data, [content[: size // 2], content[size // 2 :]], compressed)
    found = read(data, info)
    assert found.bufs == [content]
    assert memoryview(found.bufs[0]).readonly
    assert (found.index, found.term, found.configuration_index) == (3, 1, 1)
    assert [s.id for s in found.configuration.servers] == [1]


@pytest.mark.parametrize("bufs", [[], [b""], [b"", b""]])
def test_no_content_is_stored_as_the_empty_frame(data: Dir, bufs: list[bytes]) -> None:
    """It is with compression off as well: an empty data file would not count (B44)."""
    info = write(data, bufs, compressed=False)
    assert data.read(info.data_name) == compress.EMPTY_FRAME
    assert read(data, info).bufs == [b""]


@pytest.mark.parametrize(
    "bufs", [[compress.MAGIC], [compress.MAGIC + b"more"], [b"\x04\x22", b"", b"\x4d\x18", b"more"]]
)
def test_raw_content_that_looks_like_a_frame_is_stored_in_one(data: Dir, bufs: list[bytes]) -> None:
    """It could not be told apart (B44)."""
    info = write(data, bufs, compressed=False)
    assert data.read(info.data_name) != b"".join(bufs)
    assert read(data, info).bufs == [b"".join(bufs)]


@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_any_content_comes_back(bufs: list[bytes], compressed: bool) -> None:
    """The pieces do not matter."""
    with tempfile.TemporaryDirectory() as path:
        data = Dir(Path(path))
        assert read(data, write(data, bufs, compressed)).bufs == [b"".join(bufs)]


def test_what_c_leaves_open_is_ignored(data: Dir) -> None:
    """It is the upper half of the checksum word, and bytes behind the configuration."""
    name = data.snapshot(1, 3)
    data.overwrite(name + ".meta", 12, b"\xff\xff\xff\xff")
    data.write(name + ".meta", data.read(name + ".meta") + b"more")
    assert read(data, info_of(name)).bufs == [b"snapshot"]


def test_large_raw_content_is_mapped_where_one_read_is_not_enough(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """read(2) delivers 2 GiB at most; the limit is lowered here."""
    monkeypatch.setattr(snapshot_file, "_ONE_READ", MEGABYTE)
    content = random.Random(5).randbytes(3 * MEGABYTE + 17)
    found = read(data, write(data, content, compressed=False)).bufs[0]
    assert type(found) is memoryview
    assert found.readonly
    assert found == content


class Piece(bytearray):
    """Bytes that can be seen to be gone."""


@pytest.mark.parametrize("compressed", [True, False])
def test_content_that_is_made_while_it_is_written_has_the_same_bytes(data: Dir, compressed: bool) -> None:
    """Any iterable will do; its size, which a frame begins with, is known at the end only."""
    for number, pieces in enumerate(
        ([], [b""], [b"x"], [b"", b"abc", b"d"], [bytes(70_000), b"e" * 3, bytes(MEGABYTE)])
    ):
        one = write(data, list(pieces), compressed, index=2 * number + 1)
        other = write_made(data, iter(pieces), compressed, 2 * number + 2)
        assert data.read(other.data_name) == data.read(one.data_name)
        assert read(data, other).bufs == [b"".join(pieces)]
        if compressed and b"".join(pieces):
            assert data.read(one.data_name) == framed(pieces)


@pytest.mark.parametrize("compressed", [True, False])
def test_content_that_is_made_while_it_is_written_is_never_there_as_a_whole(data: Dir, compressed: bool) -> None:
    """Of forty pieces of half a megabyte no more than a few are there at a time."""
    dice = random.Random(4)
    alive: list[weakref.ref[Piece]] = []
    most = 0

    def pieces() -> Iterator[Piece]:
        nonlocal most
        for _ in range(40):
            made = Piece(dice.randbytes(MEGABYTE // 16) * 8)
            alive.append(weakref.ref(made))
            most = max(most, sum(ref() is not None for ref in alive))
            yield made

    info = write_made(data, pieces(), compressed)
    assert most <= 4
    assert memoryview(read(data, info).bufs[0]).nbytes == 20 * MEGABYTE


def test_what_makes_the_content_and_fails_leaves_nothing(data: Dir) -> None:
    """Its exception comes out."""

    def pieces() -> Iterator[bytes]:
        yield bytes(3 * MEGABYTE)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        write_made(data, pieces())
    assert data.names == []


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_of_pieces_are_joined(first: bytes, second: bytes) -> None:
    """The sum is as if it were that of both."""
    assert sums.joined(sums.checksum(first), sums.checksum(second), len(second)) == sums.checksum(first + second)


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        "open tmp-snapshot-1-3-1000.meta",
        "fsync tmp-snapshot-1-3-1000.meta",
        "open tmp-snapshot-1-3-1000",
        "fsync tmp-snapshot-1-3-1000",
    ],
)
def test_a_failed_write_leaves_nothing(data: Dir, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The name of the file is told, and a full disk from other failures."""
    call, name = step.split()
    original = getattr(fs, call)

    def fail(target: Any, *args: Any) -> Any:
        path = target if type(target) is str else os.readlink(f"/proc/self/fd/{target}")
        if os.path.basename(path) == name:
            raise OSError(28, "No space left on device")
        return original(target, *args)

    monkeypatch.setattr(fs, call, fail)
    with pytest.raises(Failure) as caught:
        write(data, b"x")
    assert (caught.value.code, caught.value.message) == (
        RAFT_NOSPACE,
        f"write {name[4:]}: {call}: no space left on device",
    )
    assert data.names == []


def test_a_snapshot_is_not_written_twice(data: Dir) -> None:
    """The first one stays."""
    info = write(data, b"x")
    with pytest.raises(Failure):
        write(data, b"y")
    assert read(data, info).bufs == [b"x"]


def test_an_enormous_configuration_is_too_big(data: Dir) -> None:
    """No reader takes more than 1 MiB."""
    s = snapshot(3)
    s.configuration = RaftConfiguration()
    s.configuration.servers = [RaftServer(1, "x" * MEGABYTE, 1)]
    with pytest.raises(Failure) as caught:
        snapshot_file.write(str(data), s, True, 1000)
    assert caught.value.code == RAFT_TOOBIG
    assert data.names == []


def meta(blob: bytes, format: int = 1, length: int | None = None) -> bytes:
    checked = words(1, len(blob) if length is None else length)
    return words(format, crc(blob, crc(checked))) + checked + blob


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"", RAFT_CORRUPT, "short read: 0 bytes instead of 32"),
        (bytes(31), RAFT_CORRUPT, "short read: 31 bytes instead of 32"),
        (meta(b"x" * 8, format=2), RAFT_MALFORMED, "unsupported format 2"),
        (meta(b""), RAFT_CORRUPT, "no configuration data at byte 24"),
        (meta(b"", length=MEGABYTE + 1), RAFT_CORRUPT, "configuration data too big (1048577) at byte 24"),
        (meta(b"x" * 8, length=9), RAFT_CORRUPT, "short read: 8 bytes instead of 9"),
        (meta(b"x" * 8)[:-1] + b"y", RAFT_CORRUPT, "checksum mismatch"),
    ],
)
def test_bad_meta_files_are_told(data: Dir, content: bytes, code: int, text: str) -> None:
    """The text has their name."""
    name = data.snapshot(1, 3)
    data.write(name + ".meta", content)
    found = failure(data, info_of(name))
    assert (found.code, found.message) == (code, f"read {name}.meta: {text}")


def test_a_bad_configuration_is_malformed(data: Dir) -> None:
    """Its checksum is right."""
    name = data.snapshot(1, 3)
    data.write(name + ".meta", meta(b"\x02" + bytes(8)))
    found = failure(data, info_of(name))
    assert found.code == RAFT_MALFORMED
    assert found.message.startswith(f"read {name}.meta: ")


@pytest.mark.parametrize("compressed", [True, False])
def test_every_flipped_byte_is_told(data: Dir, compressed: bool) -> None:
    """In the unused half of the checksum word it is harmless; for raw data the sidecar tells."""
    content = random.Random(6).randbytes(300)
    info = write(data, content, compressed)
    for name in (info.filename, info.data_name, info.data_name + ".sum"):
        original = data.read(name)
        for at, flip in itertools.product(range(len(original)), (0x01, 0x80, 0xFF)):
            data.overwrite(name, at, bytes((original[at] ^ flip,)))
            found = content_or_failure(data, info)
            unused = name == info.filename and 12 <= at < 16
            if name.endswith(".sum") or unused:
                assert found == content
            else:
                assert isinstance(found, Failure)
                assert found.code in (RAFT_CORRUPT, RAFT_MALFORMED)
                assert found.message.startswith(f"read {name}: ")
            data.overwrite(name, at, original[at : at + 1])


@pytest.mark.parametrize("compressed", [True, False])
def test_every_way_to_cut_a_file_is_told(data: Dir, compressed: bool) -> None:
    """A cut sidecar is harmless."""
    content = random.Random(7).randbytes(200)
    info = write(data, content, compressed)
    for name in (info.filename, info.data_name, info.data_name + ".sum"):
        original = data.read(name)
        for length in range(len(original)):
            data.write(name, original[:length])
            found = content_or_failure(data, info)
            if name.endswith(".sum"):
                assert found == content
            else:
                assert isinstance(found, Failure)
                assert found.message.startswith(f"read {name}: ")
        data.write(name, original)


def test_raw_data_of_a_c_process_is_taken_as_it_is(data: Dir) -> None:
    """Nothing could tell damage there."""
    name = data.snapshot(1, 3, data=b"abc")
    data.overwrite(name, 0, b"x")
    assert read(data, info_of(name)).bufs == [b"xbc"]


def test_a_missing_file_is_told(data: Dir) -> None:
    """The text has its name."""
    info = write(data, b"x")
    data.remove(info.data_name)
    text = f"read {info.data_name}: open: no such file or directory"
    assert failure(data, info).message == text
    data.remove(info.filename)
    assert failure(data, info).message == f"read {info.filename}: open: no such file or directory"


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_garbage_is_a_failure_or_raw_content(meta_content: bytes, content: bytes) -> None:
    """It never raises another exception."""
    with tempfile.TemporaryDirectory() as path:
        data = Dir(Path(path))
        name = data.snapshot(1, 3, data=content)
        found = content_or_failure(data, info_of(name))
        assert found == content or isinstance(found, Failure)
        data.write(name + ".meta", words(1) + meta_content)
        assert isinstance(content_or_failure(data, info_of(name)), Failure)


# ---- removing --------------------------------------------------------------------------------------------------------


def test_the_newest_two_snapshots_stay(data: Dir) -> None:
    """The others go with their sidecars, .meta first."""
    infos = [write(data, b"x", index=index, time=1000 + index) for index in range(1, 5)]
    snapshot_file.remove_old(str(data), infos[:2])
    assert len(data.names) == 12
    snapshot_file.remove_old(str(data), infos)
    assert data.names == sorted(info.data_name + suffix for info in infos[2:] for suffix in ("", ".meta", ".sum"))


def test_a_snapshot_that_cannot_be_removed_is_told(data: Dir) -> None:
    """The text has its name."""
    info = write(data, b"x")
    data.remove(info.filename)
    with pytest.raises(Failure) as caught:
        snapshot_file.remove(str(data), info)
    assert caught.value.message == f"delete snapshot {info.data_name}: unlink: no such file or directory"


def test_without_a_snapshot_there_is_none_to_get() -> None:
    """C answers success (B25)."""
    with pytest.raises(Failure) as caught:
        snapshot_file.require([])
    assert caught.value.code == RAFT_NOTFOUND
    info = info_of("snapshot-1-2-3")
    assert snapshot_file.require([info]) is info


def test_a_configuration_of_several_servers_comes_back(data: Dir) -> None:
    """Its order is kept."""
    s = snapshot(3, conf_index=2)
    s.configuration = conf(3)
    found = read(data, snapshot_file.write(str(data), s, True, 1000))
    assert [(x.id, x.address, x.role) for x in found.configuration.servers] == [(1, "1", 1), (2, "2", 1), (3, "3", 1)]
    assert found.configuration_index == 2

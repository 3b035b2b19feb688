"""Term and vote on disk, the sidecars that tell damage from a legal state, and the marker of a log set aside."""

import itertools
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import fs, marker, metadata, sums
from io_uv.failure import Failure
from io_uv.state import Metadata
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR, RAFT_MALFORMED
from tests.lib.disk import Dir, words


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """An empty directory."""
    return Dir(tmp_path)


def load(data: Dir) -> tuple[int, int, int]:
    found = metadata.load(str(data))
    return found.version, found.term, found.voted_for


def failure(data: Dir) -> Failure:
    with pytest.raises(Failure) as caught:
        metadata.load(str(data))
    return caught.value


def state_or_text(data: Dir) -> Any:
    """Return what load returns, or the text of its Failure."""
    try:
        return load(data)
    except Failure as exc:
        return exc.message


def store(data: Dir, version: int, term: int, voted_for: int = 0) -> None:
    metadata.store(str(data), Metadata(version, term, voted_for))


def store_up_to(data: Dir, version: int) -> None:
    """Store a term in every odd version and a vote in every even one."""
    for v in range(1, version + 1):
        store(data, v, (v + 1) // 2, 7 if v % 2 == 0 else 0)


def test_a_store_writes_the_words_format_version_term_and_vote(data: Dir) -> None:
    """They are 32 bytes, mode 0600, odd versions in metadata1 and even ones in metadata2."""
    store(data, 1, 3)
    store(data, 2, 3, 5)
    assert data.read("metadata1").hex() == "010000000000000001000000000000000300000000000000" + "00" * 8
    assert data.read("metadata2") == words(1, 2, 3, 5)
    assert os.stat(data.path / "metadata1").st_mode & 0o777 == 0o600
    assert load(data) == (2, 3, 5)


def test_numbers_have_64_bits(data: Dir) -> None:
    """The largest one passes."""
    largest = (1 << 64) - 1
    store(data, largest, largest, largest)
    assert load(data) == (largest, largest, largest)


def test_a_store_waits_for_one_sync_of_the_file(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar costs none, and comes after it."""
    store_up_to(data, 2)
    calls: list[str] = []
    for name in ("open", "fdatasync", "fsync"):
        original = getattr(fs, name)

        def call(*args: Any, name: str = name, original: Any = original) -> Any:
            calls.append(f"{name} {os.path.basename(args[0])}" if name == "open" else name)
            return original(*args)

        monkeypatch.setattr(fs, name, call)
    store(data, 3, 2)
    assert calls == ["open metadata1", "fdatasync", "open metadata1.sum"]


@pytest.mark.parametrize("call", ["open", "write", "fdatasync"])
def test_a_failed_store_can_be_repeated(data: Dir, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The same version goes to the same file, so the other, good one is never at risk (B42)."""
    store_up_to(data, 2)
    original = getattr(fs, call)

    def fail(*args: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fs, call, fail)
    with pytest.raises(Failure) as caught:
        store(data, 3, 2)
    text = {"fdatasync": "fsync"}.get(call, call)
    assert (caught.value.code, caught.value.message) == (RAFT_IOERR, f"persist metadata1: {text}: i/o error")
    assert data.read("metadata2") == words(1, 2, 1, 7)
    monkeypatch.setattr(fs, call, original)
    store(data, 3, 9)
    assert load(data) == (3, 9, 0)


@pytest.mark.parametrize(
    ("files", "code", "text"),
    [
        ({1: words(2, 1, 1, 1)}, RAFT_MALFORMED, "decode content of metadata1: bad format version 2"),
        ({2: words(1, 0, 1, 1)}, RAFT_CORRUPT, "decode content of metadata2: version is set to zero"),
        ({2: words(1, 2, 1, 0) + b"x"}, RAFT_CORRUPT, "metadata2 has size 33 instead of 32"),
        (
            {1: words(1, 3, 1, 0), 2: words(1, 3, 1, 0)},
            RAFT_CORRUPT,
            "metadata1 and metadata2 are both at version 3",
        ),
    ],
)
def test_what_c_refuses_is_refused(data: Dir, files: dict[int, bytes], code: int, text: str) -> None:
    """The texts are the same."""
    for n, content in files.items():
        data.write(f"metadata{n}", content)
    found = failure(data)
    assert (found.code, found.message) == (code, text)


@pytest.mark.parametrize("content", [b"", bytes(16), bytes(32), words(1, 1)])
def test_a_file_that_was_never_complete_is_removed(data: Dir, content: bytes) -> None:
    """It is short, or its size reached the disk before its content."""
    data.write("metadata1", content)
    data.metadata(2, 2, 5, 1)
    assert load(data) == (2, 5, 1)
    assert data.names == ["metadata2"]


def test_files_of_a_c_process_are_taken_as_they_are(data: Dir) -> None:
    """They have no sidecars, and any parity."""
    data.metadata(1, 4, 7, 2)
    data.metadata(2, 3, 6, 1)
    assert load(data) == (4, 7, 2)


def test_a_c_process_in_between_makes_sidecars_stale(data: Dir) -> None:
    """Higher versions, whatever they hold, are accepted, and go on from there."""
    store_up_to(data, 4)
    data.metadata(1, 5, 9, 0)
    assert load(data) == (5, 9, 0)
    data.metadata(2, 6, 9, 3)
    assert load(data) == (6, 9, 3)
    store(data, 7, 10)
    assert load(data) == (7, 10, 0)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_flipped_byte_of_either_file_is_harmless_or_told(data: Dir, version: int) -> None:
    """The newest state, or a code with the file's name: never an older term or another vote."""
    store_up_to(data, version)
    expected = load(data)
    for name in [name for name in data.names if name in ("metadata1", "metadata2")]:
        content = data.read(name)
        for at, flip in itertools.product(range(32), (0x01, 0x80, 0xFF)):
            data.overwrite(name, at, bytes((content[at] ^ flip,)))
            newest = name == metadata.file_of(version)
            if newest:
                found = failure(data)
                assert found.code in (RAFT_CORRUPT, RAFT_MALFORMED)
                assert name in found.message
            else:
                assert load(data) == expected
            data.write(name, content)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_way_to_cut_either_file_is_harmless_or_told(data: Dir, version: int) -> None:
    """So is its loss."""
    store_up_to(data, version)
    expected = load(data)
    for name in [name for name in data.names if name in ("metadata1", "metadata2")]:
        content = data.read(name)
        for length in [None, *range(32)]:
            if length is None:
                data.remove(name)
            else:
                data.write(name, content[:length])
            if name == metadata.file_of(version):
                found = failure(data)
                text = f"{name} is missing" if length is None else f"{name} has only {length} bytes"
                text += f", it was at version {version} by {name}.sum"
                assert (found.code, found.message) == (RAFT_CORRUPT, text)
            else:
                assert load(data) == expected
            data.write(name, content)


def test_a_file_of_zeros_and_a_directory_are_told(data: Dir) -> None:
    """The texts say what they are."""
    store_up_to(data, 1)
    data.write("metadata1", bytes(32))
    assert failure(data).message == "metadata1 has only zeros, it was at version 1 by metadata1.sum"
    data.remove("metadata1")
    (data.path / "metadata1").mkdir()
    found = failure(data)
    assert (found.code, found.message) == (RAFT_CORRUPT, "metadata1 is a directory")


def test_every_flipped_byte_or_cut_of_a_sidecar_is_harmless(data: Dir) -> None:
    """Its own checksum tells; it counts as missing."""
    store_up_to(data, 2)
    for name in ("metadata1.sum", "metadata2.sum"):
        content = data.read(name)
        for at in range(len(content)):
            data.overwrite(name, at, bytes((content[at] ^ 0x10,)))
            assert load(data) == (2, 1, 7)
            data.write(name, content[:at])
            assert load(data) == (2, 1, 7)
            data.write(name, content)


def test_a_file_behind_its_sidecar_is_refused_until_that_is_removed(data: Dir) -> None:
    """The sidecar is written last, so a later version was there: an old copy was put back, say."""
    store_up_to(data, 2)
    old = {name: data.read(name) for name in data.names if not name.endswith(".sum")}
    store_up_to(data, 4)
    for name, content in old.items():
        data.write(name, content)
    assert failure(data).message == "metadata1 is at version 1, behind version 3 in metadata1.sum"
    data.remove("metadata1.sum")
    assert failure(data).message == "metadata2 is at version 2, behind version 4 in metadata2.sum"
    data.remove("metadata2.sum")
    assert load(data) == (2, 1, 7)


def test_a_sidecar_that_cannot_be_written_is_left_out(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store succeeds."""
    original = fs.open

    def refuse(path: str, flags: int, mode: int = 0o600) -> int:
        if path.endswith(".sum"):
            raise OSError(28, "No space left on device")
        return original(path, flags, mode)

    monkeypatch.setattr(fs, "open", refuse)
    store(data, 1, 1)
    assert data.names == ["metadata1"]
    assert load(data) == (1, 1, 0)


def test_what_is_read_is_durable(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that died, or whose sync failed, leaves a page in the cache: the newer file is written once more."""
    store_up_to(data, 2)
    content = data.read("metadata2")
    calls: list[str] = []
    for name in ("write", "fsync", "fdatasync"):
        original = getattr(fs, name)

        def call(fd: int, *args: Any, name: str = name, original: Any = original) -> Any:
            calls.append(f"{name} {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
            return original(fd, *args)

        monkeypatch.setattr(fs, name, call)
    load(data)
    assert calls == ["write metadata2", "fsync metadata2", f"fsync {data.path.name}"]
    assert data.read("metadata2") == content


@given(st.binary(max_size=40), st.binary(max_size=40), st.one_of(st.none(), st.binary(max_size=30)))
def test_any_content_gives_a_state_or_a_failure(first: bytes, second: bytes, known: bytes | None) -> None:
    """It never raises another exception."""
    with tempfile.TemporaryDirectory() as path:
        data = Dir(Path(path))
        data.write("metadata1", first)
        data.write("metadata2", second)
        if known is not None:
            data.write("metadata1.sum", known)
        try:
            assert load(data)[0] >= 0
        except Failure as exc:
            found = exc
            assert "metadata" in found.message


def test_a_sidecar_has_its_documented_bytes() -> None:
    """Magic and format, what it belongs to, the checksum, and its own."""
    data = sums.encode(5, zlib.crc32(b"content"))
    body = b"raftsum\x01" + (5).to_bytes(8, "little") + zlib.crc32(b"content").to_bytes(4, "little")
    assert data == body + zlib.crc32(body).to_bytes(4, "little")
    found = sums.decode(data)
    assert found is not None
    assert (found.of, found.crc) == (5, zlib.crc32(b"content"))


# ---- the marker ------------------------------------------------------------------------------------------------------


def test_a_marker_stands_until_it_is_cleared(data: Dir) -> None:
    """It collects reasons, one a line."""
    dir = str(data)
    assert marker.marker_read(dir) is None
    marker.marker_set(dir, "load open segment open-1: unexpected format version 0")
    marker.marker_set(dir, "another reason")
    text = marker.marker_read(dir)
    assert text is not None
    assert text.splitlines()[-2:] == ["load open segment open-1: unexpected format version 0", "another reason"]
    assert data.names == [marker.NAME]
    marker.marker_clear(dir)
    assert marker.marker_read(dir) is None
    marker.marker_clear(dir)


def test_a_marker_is_durable_on_return(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced, then the directory; clearing syncs the directory."""
    synced: list[str] = []
    monkeypatch.setattr(fs, "fsync", lambda fd: synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
    marker.marker_set(str(data), "reason")
    assert synced == ["tmp-" + marker.NAME, data.path.name]
    synced.clear()
    marker.marker_clear(str(data))
    assert synced == [data.path.name]


def test_an_empty_or_unreadable_marker_stands_too(data: Dir) -> None:
    """That the file is there is what counts."""
    data.write(marker.NAME, b"\xff\xfe\x00")
    assert marker.marker_read(str(data)) is not None
    data.write(marker.NAME, b"")
    assert marker.marker_read(str(data)) == ""


def test_a_marker_that_cannot_be_written_is_a_failure(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be set aside then."""

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fs, "fsync", fail)
    with pytest.raises(Failure) as caught:
        marker.marker_set(str(data), "reason")
    assert caught.value.message == f"write {marker.NAME}: fsync: i/o error"
    assert data.names == []

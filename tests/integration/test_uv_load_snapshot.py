"""Loading data directories whose newest snapshot is bad, or cannot be read: what replaces it, and what is told."""

import errno
import logging

import pytest

from io_uv import compress, fs
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR
from tests.lib.disk import Dir
from tests.lib.uvload import Opener, closed, fail_to_open, opened


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


@pytest.mark.parametrize("suffix", ["", ".meta"])
def test_a_cut_snapshot_is_passed_over(data: Dir, opener: Opener, suffix: str) -> None:
    """Missing bytes are damage, as flipped ones are (C: RAFT_IOERR)."""
    frame = bytes.fromhex("04224d1864400a070000006d61796265206e6f00000000")
    data.snapshot(1, 2)
    name = data.snapshot(1, 5, data=frame)
    data.resize(name + suffix, 15)
    closed(data, 3, 4)
    assert opener.load(auto_recovery=True).state() == (0, 2, 3, [3, 4, 5, 6])


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.EACCES, "permission denied"), (errno.EMFILE, "too many open files"), (errno.EIO, "i/o error")],
)
@pytest.mark.parametrize("suffix", ["", ".meta"])
def test_a_snapshot_that_cannot_be_read_stops_the_start_and_stays(
    data: Dir, opener: Opener, monkeypatch: pytest.MonkeyPatch, suffix: str, number: int, text: str
) -> None:
    """It may be intact, whatever an older one and the log hold."""
    data.snapshot(1, 2)
    name = data.snapshot(1, 5)
    closed(data, 3, 4)
    kept = data.names
    with monkeypatch.context() as patch:
        fail_to_open(patch, name + suffix, number)
        loaded = opener.load(auto_recovery=True)
    assert (loaded.rv, loaded.errmsg) == (RAFT_IOERR, f"read {name}{suffix}: open: {text}")
    assert data.names == kept
    assert opener.load(auto_recovery=True).state() == (0, 5, 3, [3, 4, 5, 6])


def test_a_compressed_snapshot_that_a_disk_fails_to_read_stays(
    data: Dir, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error in the midst of the frame is not a bad frame."""
    content = bytes.fromhex("04224d1864400a07") + bytes(2 * 1024 * 1024)
    data.snapshot(1, 2)
    name = data.snapshot(1, 5, data=content)
    closed(data, 3, 4)
    original = fs.read
    reads: list[int] = []

    def read(fd: int, n: int) -> bytes:
        if fs.fstat(fd).st_size == len(content):
            reads.append(fd)
            if len(reads) > 1:
                raise OSError(errno.EIO, "")
        return original(fd, n)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "read", read)
        patch.setattr(compress, "decompress", lambda chunks, size: b"".join(chunks))
        loaded = opener.load(auto_recovery=True)
    assert (loaded.rv, loaded.errmsg) == (RAFT_IOERR, f"read {name}: read: i/o error")
    assert data.has(name)


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("auto_recovery", [True, False])
def test_open_segments_behind_a_bad_snapshot_are_not_counted_from_an_older_one(
    data: Dir, opener: Opener, older: bool, auto_recovery: bool
) -> None:
    """After an install they alone are there. By number there would be enough of them, but not from which index."""
    if older:
        data.snapshot(1, 2)
    name = data.snapshot(1, 5)
    data.overwrite(f"{name}.meta", 16, b"\xff")
    opened(data, 1, 6, 8)
    kept = data.names
    loaded = opener.load(auto_recovery)
    assert (loaded.rv, loaded.errmsg) == (RAFT_CORRUPT, f"read {name}.meta: checksum mismatch")
    assert data.names == kept


def test_the_logger_hears_of_a_snapshot_that_is_set_aside(
    data: Dir, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    """It hears the names and what is wrong; nothing is said of votes, as nothing is lost."""
    name = data.snapshot(1, 2)
    data.overwrite(f"{name}.meta", 16, b"\xff")
    closed(data, 1, 2)
    with caplog.at_level(logging.WARNING, "io_uv"):
        assert opener.load(auto_recovery=True).rv == 0
    assert [f"{name}.meta is set aside as corrupt-" in text for text in caplog.messages] == [True, False]
    assert all(text.startswith(f"{data}: {name}") for text in caplog.messages)
    assert all(text.endswith(f"read {name}.meta: checksum mismatch") for text in caplog.messages)

"""The replacements of refused system calls on files: allocating, direct I/O, attributes."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, refusal
from io_uv.failure import Failure
from io_uv.refusal import DIRECT, FALLOCATE, REFUSED, XATTR, Refusals
from pyraft.errors import RAFT_IOERR, RAFT_NOSPACE
from tests.lib.threads import open_fds

CODES = sorted(REFUSED)
SIZE = 3 * 4096


@pytest.fixture
def dir(tmp_path: Path) -> Iterator[str]:
    """A directory that a server has, and a check that no descriptor is left open."""
    before = open_fds()
    refusals = Refusals(str(tmp_path))
    refusal.begin(refusals)
    yield str(tmp_path)
    refusal.end(refusals)
    assert open_fds() <= before


def fail(patch: pytest.MonkeyPatch, name: str, code: int) -> list[Any]:
    """Make a call of fs fail; return the list of what it is asked for."""
    asked: list[Any] = []

    def call(*args: Any) -> Any:
        asked.append(args)
        raise OSError(code, os.strerror(code))

    patch.setattr(fs, name, call)
    return asked


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return of what the log tells that it is refused."""
    return [record.getMessage().split(": ")[1].split(" is")[0] for record in caplog.records]


@pytest.mark.parametrize("code", CODES)
def test_without_fallocate_every_block_is_written(
    dir: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """The blocks are there, writes are synchronous, and for the next file nobody asks again."""
    asked = fail(monkeypatch, "fallocate", code)
    for name in ("a", "b"):
        fd = fs.allocate_file(dir, name, SIZE, use_fallocate=True)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC
        fs.close(fd)
        assert Path(dir, name).read_bytes() == bytes(SIZE)
        assert os.stat(f"{dir}/{name}").st_blocks * 512 >= SIZE
    assert len(asked) == 1
    assert names(caplog) == ["fallocate"]
    assert FALLOCATE in refusal.at(dir)


def test_the_zeros_are_not_synced_one_by_one(dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written through a descriptor without O_DSYNC, and synced once."""
    fail(monkeypatch, "fallocate", errno.EOPNOTSUPP)
    synchronous: list[int] = []
    pwrite = fs.pwrite

    def noted(fd: int, data: Any, offset: int) -> int:
        synchronous.append(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(fs, "pwrite", noted)
    fs.close(fs.allocate_file(dir, "a", SIZE, use_fallocate=True))
    assert synchronous == [0] * (SIZE // 4096)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_is_told_without_fallocate_too(
    dir: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """RAFT_NOSPACE, and the file is gone again."""
    fail(monkeypatch, "fallocate", errno.EPERM)
    fail(monkeypatch, "pwrite", code)
    with pytest.raises(Failure) as caught:
        fs.allocate_file(dir, "a", SIZE, use_fallocate=True)
    assert (caught.value.code, caught.value.message) == (
        RAFT_NOSPACE,
        f"not enough space to allocate {SIZE} bytes",
    )
    assert os.listdir(dir) == []


@pytest.mark.parametrize("name", ["open", "pwrite", "fsync"])
def test_an_allocation_without_fallocate_that_fails_leaves_nothing(
    dir: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It leaves no file and no descriptor, at whatever step."""
    fail(monkeypatch, "fallocate", errno.ENOSYS)
    call, left = getattr(fs, name), [1 if name == "open" else 0]

    def fails(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, "")
        return call(*args)

    monkeypatch.setattr(fs, name, fails)
    with pytest.raises(Failure):
        fs.allocate_file(dir, "a", SIZE, use_fallocate=True)
    assert os.listdir(dir) == []


@pytest.mark.parametrize("code", CODES)
def test_blocks_of_an_unknown_size_are_taken_for_small_ones(
    dir: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """They are where statfs is refused as well."""

    def refused(fd: int) -> Any:
        raise OSError(code, "")

    monkeypatch.setattr(os, "fstatvfs", refused)
    fs.close(fs.allocate_file(dir, "a", SIZE, use_fallocate=False))
    assert os.stat(f"{dir}/a").st_blocks * 512 >= SIZE


@pytest.mark.parametrize("code", CODES)
def test_without_direct_io_a_segment_is_made_all_the_same(
    dir: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """It goes through the page cache, synchronously; nobody asks for the next one."""
    asked = fail(monkeypatch, "set_direct", code)
    for name in ("a", "b"):
        fd = fs.allocate_file(dir, name, SIZE, True, True)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        assert flags & os.O_DSYNC
        assert not flags & os.O_DIRECT
        fs.close(fd)
    assert len(asked) == 1
    assert names(caplog) == ["O_DIRECT"]
    assert DIRECT in refusal.at(dir)


def test_another_error_of_direct_io_is_an_error(dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no file."""
    fail(monkeypatch, "set_direct", errno.EIO)
    with pytest.raises(Failure, match="fcntl: i/o error") as caught:
        fs.allocate_file(dir, "a", SIZE, True, True)
    assert caught.value.code == RAFT_IOERR
    assert os.listdir(dir) == []


def test_direct_io_is_left_once(dir: str) -> None:
    """Whether it was on is returned."""
    fd = fs.allocate_file(dir, "a", SIZE, True, True)
    assert fs.leave_direct(fd) is bool(DIRECT not in refusal.at(dir))
    assert fs.leave_direct(fd) is False
    fs.close(fd)


def noted(path: str) -> bool:
    """Whether a file has the note of its size."""
    return fs.SIZE_NOTE in os.listxattr(path)


@pytest.fixture
def segment(dir: str) -> str:
    """A file with a note of its size, and content in its first 80 bytes."""
    fd = fs.allocate_file(dir, "open-1", SIZE, True)
    fs.pwrite(fd, b"x" * 80, 0)
    fs.close(fd)
    if not noted(f"{dir}/open-1"):
        pytest.skip("needs extended attributes")
    return "open-1"


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", ["getxattr", "removexattr"])
def test_a_note_does_not_outlive_a_cut(
    dir: str, segment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, name: str
) -> None:
    """A copy without it takes the file's place: with it, the next start takes the file for damaged."""
    with monkeypatch.context() as patch:
        fail(patch, name, code)
        fs.truncate_and_rename(dir, segment, 80, "closed", True)
    assert os.listdir(dir) == ["closed"]
    assert Path(dir, "closed").read_bytes() == b"x" * 80
    assert not noted(f"{dir}/closed")
    assert names(caplog) == ["fremovexattr"]
    assert XATTR in refusal.at(dir)


@pytest.mark.parametrize("name", ["rename_file", "replace_file"])
def test_a_cut_that_is_interrupted_leaves_a_whole_segment(
    dir: str, segment: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is the old one with its note, or the cut one without: never the cut one with it."""

    def stopped(*args: Any) -> Any:
        raise Failure(RAFT_IOERR, "stopped")

    with monkeypatch.context() as patch:
        fail(patch, "removexattr", errno.EPERM)
        patch.setattr(fs, name, stopped)
        with pytest.raises(Failure, match="stopped"):
            fs.truncate_and_rename(dir, segment, 80, "closed")
    assert os.listdir(dir) == [segment]
    assert (os.stat(f"{dir}/{segment}").st_size, noted(f"{dir}/{segment}")) in ((SIZE, True), (80, False))


def test_a_server_that_never_noted_cuts_its_own_segments(dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No note stands there, so nothing has to be copied; of files that others made nobody can tell."""
    fail(monkeypatch, "setxattr", errno.EOPNOTSUPP)
    fail(monkeypatch, "getxattr", errno.EOPNOTSUPP)
    refusal.at(dir).never_noted = True
    replaced: list[str] = []
    replace = fs.replace_file
    monkeypatch.setattr(fs, "replace_file", lambda *args: (replaced.append(args[1]), replace(*args)))
    for name, own in (("a", True), ("b", False)):
        fs.close(fs.allocate_file(dir, name, SIZE, True))
        fs.truncate_and_rename(dir, name, 80, f"{name}-closed", own)
        assert os.stat(f"{dir}/{name}-closed").st_size == 80
    assert replaced == ["b"]


def test_attributes_that_cannot_be_read_or_removed_otherwise_are_an_error(
    dir: str, segment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is sick: the file keeps its name and its size."""
    for name in ("getxattr", "removexattr"):
        with monkeypatch.context() as patch:
            fail(patch, name, errno.EIO)
            with pytest.raises(Failure, match="removexattr: i/o error"):
                fs.truncate_and_rename(dir, segment, 80, "closed")
    assert os.stat(f"{dir}/{segment}").st_size == SIZE


@pytest.mark.parametrize("code", CODES)
def test_a_note_that_cannot_be_made_or_read_is_none(
    dir: str, segment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """The log has one line for both; nobody tries to make another one."""
    fd = fs.open_file(dir, segment, os.O_RDWR)
    with monkeypatch.context() as patch:
        fail(patch, "getxattr", code)
        assert fs.noted_size(fd, refusal.at(dir)) == 0
        asked = fail(patch, "setxattr", code)
        fs.note_size(fd, SIZE, refusal.at(dir))
    assert asked == []
    assert fs.noted_size(fd, refusal.at(dir)) == SIZE
    fs.close(fd)
    assert names(caplog) == ["fgetxattr"]


def test_a_full_disk_is_no_refusal_of_a_note(
    dir: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file goes without, and the next one gets one."""
    caplog.set_level(logging.DEBUG)
    with monkeypatch.context() as patch:
        fail(patch, "setxattr", errno.ENOSPC)
        fs.close(fs.allocate_file(dir, "a", SIZE, True))
    assert XATTR not in refusal.at(dir)
    assert caplog.records == []

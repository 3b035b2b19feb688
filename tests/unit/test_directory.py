"""Locking a data directory: two kinds of locks, of which a sandbox may refuse either."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import directory, fs
from io_uv.failure import Failure
from io_uv.refusal import FLOCK, OFD_LOCK, REFUSED, Refusals
from pyraft.errors import RAFT_BUSY, RAFT_IOERR
from tests.lib.threads import open_fds

CODES = sorted(REFUSED)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() <= before


def refuse(patch: pytest.MonkeyPatch, name: str, code: int = errno.EPERM) -> None:
    """Have a call of fs refused whatever it is asked for."""

    def call(*args: Any) -> Any:
        raise OSError(code, os.strerror(code))

    patch.setattr(fs, name, call)


def is_busy(dir: Path) -> bool:
    """Whether another server would find the directory taken."""
    try:
        directory.lock_dir(str(dir)).release()
    except Failure as exc:
        if exc.code != RAFT_BUSY:
            raise
        return True
    return False


@pytest.mark.parametrize("code", CODES)
def test_without_flock_the_other_lock_excludes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Servers in the sandbox and outside, whichever comes first."""
    for sandboxed in ("both", "first", "second"):
        with monkeypatch.context() as patch:
            if sandboxed != "second":
                refuse(patch, "flock", code)
            refusals = Refusals(str(tmp_path))
            lock = directory.lock_dir(str(tmp_path), refusals)
            assert (FLOCK in refusals) == (sandboxed != "second")
            if sandboxed == "first":
                patch.undo()
            elif sandboxed == "second":
                refuse(patch, "flock", code)
            assert is_busy(tmp_path)
            lock.release()
            assert not is_busy(tmp_path)


@pytest.mark.parametrize("name", ["ofd_lock", "ofd_conflict"])
@pytest.mark.parametrize("code", CODES)
def test_without_the_other_lock_flock_excludes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    """A lock that nobody can ask for counts as none."""
    refuse(monkeypatch, name, code)
    refusals = Refusals(str(tmp_path))
    lock = directory.lock_dir(str(tmp_path), refusals)
    assert FLOCK not in refusals
    assert OFD_LOCK in refusals
    assert is_busy(tmp_path)
    lock.release()
    assert not is_busy(tmp_path)


@pytest.mark.parametrize("name", ["ofd_lock", "ofd_conflict"])
@pytest.mark.parametrize("code", [*CODES, errno.ENOLCK])
def test_without_any_lock_nobody_gets_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    """The text has both reasons."""
    refuse(monkeypatch, "flock", code)
    refuse(monkeypatch, name, code)
    with pytest.raises(Failure, match="cannot be locked against a second server") as caught:
        directory.lock_dir(str(tmp_path))
    assert caught.value.code == RAFT_IOERR
    assert "flock: " in caught.value.message
    assert "F_OFD_SETLK: " in caught.value.message


def test_a_lock_that_is_held_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN of flock means either: a new pipe, which nobody else can hold, tells which. Without one: held."""
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # as every version of this library did
    try:
        assert is_busy(tmp_path)
        with monkeypatch.context() as patch:
            refuse(patch, "ofd_lock")
            assert is_busy(tmp_path)

        def no_pipe() -> Any:
            raise OSError(errno.EMFILE, "")

        monkeypatch.setattr(os, "pipe", no_pipe)
        assert is_busy(tmp_path)
    finally:
        os.close(fd)
    assert not is_busy(tmp_path)


def test_an_older_version_finds_the_lock_that_it_knows(tmp_path: Path) -> None:
    """It asks for flock alone."""
    lock = directory.lock_dir(str(tmp_path))
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_stranger_may_hold_the_other_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """An exclusive lock of somebody else is in the way of ours: the kernel answers EAGAIN or EACCES."""
    lock = fs.ofd_lock

    def held(fd: int, kind: int) -> None:
        if kind != fcntl.F_UNLCK:
            raise OSError(code, "")
        lock(fd, kind)

    monkeypatch.setattr(fs, "ofd_lock", held)
    monkeypatch.setattr(fs, "ofd_conflict", lambda fd, kind: kind == fcntl.F_RDLCK)
    assert is_busy(tmp_path)


def test_of_two_that_start_at_once_without_flock_one_at_most_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one takes its lock between the first one's taking and asking: both know of each other then."""
    refuse(monkeypatch, "flock")
    ask = fs.ofd_conflict
    second: list[bool] = []

    def between(fd: int, kind: int) -> bool:
        if not second:
            second.append(False)
            second[0] = is_busy(tmp_path)
        return ask(fd, kind)

    monkeypatch.setattr(fs, "ofd_conflict", between)
    first = is_busy(tmp_path)
    assert (first, second) == (False, [True])
    fd = os.open(tmp_path, os.O_RDONLY)
    fs.ofd_lock(fd, fcntl.F_RDLCK)  # one that has taken it and not asked yet
    assert is_busy(tmp_path)
    os.close(fd)


def test_another_process_is_excluded_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is until the one that has the lock is dead, however it died."""
    refuse(monkeypatch, "flock", errno.ENOSYS)
    script = f"import sys; from io_uv import directory; lock = directory.lock_dir({str(tmp_path)!r}); print(flush=True)"
    command = [sys.executable, "-c", script + "; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        assert is_busy(tmp_path)
        other.kill()
    assert not is_busy(tmp_path)


def test_opening_and_closing_the_directory_gives_no_lock_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sync of the directory does that; a POSIX lock would be gone."""
    refuse(monkeypatch, "flock")
    lock = directory.lock_dir(str(tmp_path))
    fs.sync_dir(str(tmp_path))
    assert is_busy(tmp_path)
    lock.release()
    lock.release()
    assert not is_busy(tmp_path)


def test_locks_are_given_up_in_the_order_that_nobody_is_turned_away_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that gets flock finds the other one free: it goes first, as at the end of a process."""
    order: list[str] = []
    for name in ("ofd_lock", "funlock"):
        call = getattr(fs, name)

        def noted(*args: Any, name: str = name, call: Any = call) -> Any:
            order.append(name)
            return call(*args)

        monkeypatch.setattr(fs, name, noted)
    directory.lock_dir(str(tmp_path)).release()
    assert order == ["ofd_lock", "ofd_lock", "funlock"]


def test_what_is_no_directory_is_not_locked(tmp_path: Path) -> None:
    """A file that has taken its place meanwhile is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(Failure, match="open directory"):
        directory.lock_dir(str(path))

"""A data directory that is moved away under a running server, or that another one takes the place of.

Files are found by their path. A server that went on there would have half of its log in each of two directories, and
would cut, rename and remove files in one that it never made.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs
from pyraft import errors
from tests.lib.uvtest import BLOCK_SIZE, UvIo, configuration, numbers, run_until


def moved(dir: Path, kind: str) -> Path:
    """Move a directory away, put a copy, one of hard links, an empty one or nothing there; return where it is now."""
    away = dir.with_name("away")
    dir.rename(away)
    if kind == "copy":
        shutil.copytree(away, dir)
    elif kind == "links":
        shutil.copytree(away, dir, copy_function=os.link)
    elif kind == "empty":
        dir.mkdir()
    return away


def contents(dir: Path) -> dict[str, bytes]:
    """Return the files of a directory, none if there is no such directory."""
    return {path.name: path.read_bytes() for path in dir.iterdir()} if dir.exists() else {}


def end(f: UvIo) -> None:
    """Close an instance that may find no directory."""
    outcome = f.begin_close()
    f.wait(outcome)
    f.loop.close()


@pytest.fixture
def dir(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["gone", "copy", "links", "empty"])
def test_nothing_is_acknowledged_in_another_directory(dir: Path, kind: str) -> None:
    """The next append fails and says why, likewise a term and a snapshot; no file of the other directory is touched."""
    f = UvIo(dir).start()
    assert f.io.set_term(f.io, 1) == 0
    f.append(3, BLOCK_SIZE)
    # The reserve is made and filled: no thread is at a file while the directory is moved.
    run_until(f.loop, lambda: len(f.uv.prepare_pool) == 2 and not f.uv.aborting)
    away = moved(dir, kind)
    before = contents(dir)
    why = "was moved away" if kind == "gone" else "another directory was put in the place of"
    outcome = f.submit()
    f.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]
    assert why in f.io.errmsg
    assert f.io.set_term(f.io, 2) == errors.RAFT_IOERR
    assert why in f.io.errmsg
    put = f.put(2)
    end(f)
    assert 0 not in put.statuses
    assert list(contents(dir)) == list(before)
    if kind != "links":  # the file that was being written is in both
        assert contents(dir) == before
    g = UvIo(away).start()
    assert numbers(g.loaded[5])[:3] == [1, 2, 3]
    g.close()


def test_it_goes_on_when_the_directory_is_back(dir: Path) -> None:
    """It does by itself, at the next attempt."""
    f = UvIo(dir).start()
    f.append(3)
    away = moved(dir, "empty")
    outcome = f.submit()
    f.wait(outcome)
    assert outcome.statuses == [errors.RAFT_IOERR]
    dir.rmdir()
    away.rename(dir)

    while True:  # an attempt in between, when there was no directory, fails what waits
        outcome = f.submit()
        f.wait(outcome)
        if outcome.statuses == [0]:
            break
        assert outcome.statuses == [errors.RAFT_IOERR]
    f = f.reopen()
    assert numbers(f.loaded[5])[:3] == [1, 2, 3]
    f.close()


@pytest.mark.parametrize("call", ["load", "bootstrap"])
def test_a_start_on_a_directory_that_was_replaced(dir: Path, call: str) -> None:
    """It was between raft_init and raft_start, or raft_bootstrap: the lock is on the other one."""
    f = UvIo(dir)
    assert f.init() == 0
    moved(dir, "empty")
    rv = f.io.load(f.io)[0] if call == "load" else f.io.bootstrap(f.io, configuration())
    assert rv == errors.RAFT_IOERR
    assert "another directory" in f.io.errmsg
    assert contents(dir) == {}
    f.close()


@pytest.fixture
def elsewhere(dir: Path) -> Iterator[None]:
    """The working directory is beside the data directory."""
    before = os.getcwd()
    os.chdir(dir.parent)
    yield
    os.chdir(before)


def test_a_relative_directory_stays_where_it_is(dir: Path, elsewhere: None) -> None:
    """A daemon changes its working directory to the root: a relative path leads elsewhere then, or nowhere."""
    f = UvIo(Path("data")).start()
    f.append()
    os.chdir("/")
    f.append(6, BLOCK_SIZE)
    assert f.io.set_term(f.io, 3) == 0
    f.close()
    g = UvIo(dir).start()
    assert numbers(g.loaded[5]) == [1, 2, 3, 4, 5, 6, 7]
    assert g.loaded[1] == 3
    g.close()


def test_a_segment_whose_place_cannot_be_had_takes_two_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails for that; it is tried again with the next write, but not where statx is refused."""
    t = UvIo(tmp_path).start()
    asked: list[int] = []

    def fails(fd: int, path: str) -> Any:
        asked.append(fd)
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(fs, "place", fails)
    for _ in range(3):
        t.append(1, 64)
    assert len(asked) == 3
    t.uv.refusals.note("statx", OSError(errno.EPERM, ""))
    t.append(1, 64)
    assert len(asked) == 3
    t.close()

"""Listing a data directory, and sweeping it."""

import os
from pathlib import Path

import pytest

from io_uv import fs, listing
from io_uv.failure import Failure
from pyraft.errors import RAFT_IOERR
from tests.lib.disk import Dir, commands


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """An empty directory."""
    return Dir(tmp_path)


def names(data: Dir) -> tuple[list[str], list[str]]:
    snapshots, segments = listing.list(str(data))
    return [info.data_name for info in snapshots], [info.filename for info in segments]


def test_snapshots_and_segments_are_listed_in_order(data: Dir) -> None:
    """The newest is last; everything else is ignored."""
    for name in ("metadata1", "metadata2", "garbage", "tmp-open-1", "corrupt-1-open-1", "x" * 128, "x" * 250):
        data.write(name, b"x")
    data.open(10)
    data.open(9)
    data.closed(2, commands(2, 3))
    data.rename(data.closed(1, commands(1, 1)), "1-1")
    data.snapshot(1, 10)
    data.snapshot(1, 9)
    data.snapshot(2, 1)
    assert names(data) == (
        ["snapshot-1-9-1000", "snapshot-1-10-1000", "snapshot-2-1-1000"],
        ["1-1", "0000000000000002-0000000000000004", "open-9", "open-10"],
    )


def test_a_snapshot_counts_with_data_only(data: Dir) -> None:
    """An empty or missing data file means that it was never complete."""
    data.snapshot(1, 1)
    data.snapshot(1, 2, data=b"")
    data.remove(data.snapshot(1, 3))
    data.remove(data.snapshot(1, 4) + ".meta")
    assert names(data)[0] == ["snapshot-1-1-1000"]


def test_names_that_are_no_utf8_are_ignored(data: Dir) -> None:
    """They stay."""
    Path(os.fsdecode(os.fsencode(str(data)) + b"/\xff\xfe")).write_bytes(b"")
    assert names(data) == ([], [])
    listing.clean(str(data))
    assert len(data.names) == 1


def test_a_directory_that_cannot_be_read_is_an_error(data: Dir) -> None:
    """It is for both functions."""
    for function in (listing.list, listing.clean):
        with pytest.raises(Failure) as caught:
            function(str(data) + "/missing")
        expected = (RAFT_IOERR, "scan data directory: no such file or directory")
        assert (caught.value.code, caught.value.message) == expected


def test_sweeping_removes_halves_and_tmp_files_only(data: Dir) -> None:
    """Whole snapshots stay, with their sidecar and under odd names; so do segments and foreign files."""
    data.snapshot(1, 1)
    data.write("snapshot-1-1-1000.sum", b"x")
    data.snapshot(1, 2)
    data.rename("snapshot-1-2-1000", "snapshot-01-2-1000")
    data.rename("snapshot-1-2-1000.meta", "snapshot-01-2-1000.meta")
    data.closed(1, commands(1, 1))
    data.open(1)
    data.write("snapshot-1-1-1000.old", b"x")
    data.write("y" * 200, b"")
    kept = data.names
    data.remove(data.snapshot(1, 3))
    data.write("snapshot-1-3-1000.sum", b"x")
    data.remove(data.snapshot(1, 4) + ".meta")
    data.write("snapshot-1-4-1000.sum", b"x")
    data.write("snapshot-1-5-1000.sum", b"x")
    data.write("tmp-anything", b"x")
    listing.clean(str(data))
    assert data.names == kept


def test_what_cannot_be_removed_is_left(data: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeping goes on with the rest."""
    data.write("tmp-a", b"")
    data.write("tmp-b", b"")
    unlink = fs.unlink

    def refuse(path: str) -> None:
        if path.endswith("tmp-a"):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr(fs, "unlink", refuse)
    listing.clean(str(data))
    assert data.names == ["tmp-a"]

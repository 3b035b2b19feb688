"""pyraft dir measure: times of durable writes, and timeouts that follow from them."""

import errno
import json
import os
from pathlib import Path

import pytest

from io_uv import datadir, fs
from io_uv.datadir import Speed
from io_uv.failure import Failure
from pyraft.errors import RAFT_NOSPACE
from tests.integration.test_command import run
from tests.lib import faults


def speed(p999: float) -> Speed:
    """Return times of a disk."""
    return Speed(4096, 100, p999 / 10, p999 / 2, p999, p999, True)


@pytest.mark.parametrize(
    ("p999", "election"),
    [
        (0.0001, 1000),
        (0.1, 1000),
        (0.1001, 1500),
        (0.2, 2000),
        (0.33, 5000),
        (1.0, 10_000),
        (1.1, 15_000),
        (70, 750_000),
    ],
)
def test_timeouts_are_ten_times_a_slow_write(p999: float, election: int) -> None:
    """They are a second at least, a round number, and ten heartbeats."""
    assert datadir.advise([speed(0.00001), speed(p999)]) == (election, election // 10)


@pytest.mark.parametrize("size", [4096, 65536])
def test_writes_are_measured_and_nothing_is_left(tmp_path: Path, size: int) -> None:
    """The times are in order, whatever the file system."""
    found = datadir.measure(tmp_path, size, 0.05)
    assert found.size == size
    assert found.writes >= 1
    assert 0 < found.p50 <= found.p99 <= found.p999 <= found.longest
    assert os.listdir(tmp_path) == []


def test_the_whole_file_is_written_over_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is from its beginning to its end, in order, within the zeros that were written before."""
    monkeypatch.setattr(datadir.speed, "_FILE", 5 * 4096)
    offsets: list[int] = []
    real = fs.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        offsets.append(offset)
        assert os.fstat(fd).st_size == 5 * 4096
        return real(fd, data, offset)

    monkeypatch.setattr(fs, "pwrite", pwrite)
    found = datadir.measure(tmp_path, 4096, 0.2)
    assert offsets[1:8] == [0, 4096, 8192, 12288, 16384, 0, 4096][: found.writes]
    assert found.writes == len(offsets) - 1


def test_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none is measured as it is used."""

    def refuse(fd: int) -> None:
        raise faults.error(errno.EINVAL)

    monkeypatch.setattr(fs, "set_direct", refuse)
    assert not datadir.measure(tmp_path, 4096, 0.02).direct


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told, and no times."""

    def full(fd: int, data: bytes, offset: int) -> int:
        raise faults.error(errno.ENOSPC)

    monkeypatch.setattr(fs, "pwrite", full)
    with pytest.raises(Failure, match=f"a file of 8 MiB in '{tmp_path}': write: no space left") as raised:
        datadir.measure(tmp_path)
    assert raised.value.code == RAFT_NOSPACE
    assert os.listdir(tmp_path) == []


def test_the_command(tmp_path: Path) -> None:
    """It tells people, or in JSON, of several disks."""
    (tmp_path / "other").mkdir()
    result = run("dir", "measure", tmp_path, tmp_path / "other", "--seconds", 0.02)
    assert result.exit_code == 0, result.output
    assert result.output.count("99.9 %") == 2
    assert "election timeout" in result.output
    facts = json.loads(run("dir", "measure", tmp_path, "--seconds", 0.02, "--json").output)
    assert facts["heartbeat_msecs"] * 10 == facts["election_timeout_msecs"] >= 1000
    assert [one["size"] for one in facts["disks"][str(tmp_path)]] == [4096, 65536]
    result = run("dir", "measure", tmp_path / "none")
    assert (result.exit_code, "does not exist" in result.output) == (1, True)
    assert run("dir", "measure", tmp_path, "--seconds", 0).exit_code == 2

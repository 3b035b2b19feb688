"""The benchmarks' own reader of directories, their report, and one short run of the harness."""

import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from fastcrc import crc32

from tests.benchmarks import machine, report, rows, sides, verify
from tests.benchmarks.processes import Cluster, Failed, Side

SIDE = Side("nobody", [])


def batch(*numbers: int) -> bytes:
    """A batch of commands whose payloads are their numbers."""
    header = struct.pack("<Q", len(numbers)) + b"".join(struct.pack("<QB3xI", 1, 1, 16) for _ in numbers)
    data = b"".join(struct.pack("<QQ", number, 0) for number in numbers)
    return struct.pack("<II", crc32.mpeg_2(header, 0), crc32.mpeg_2(data, 0)) + header + data


def segment(*batches: bytes) -> bytes:
    return struct.pack("<Q", 1) + b"".join(batches)


def cluster_of(tmp_path: Path, *logs: list[int]) -> Cluster:
    """A stopped cluster whose servers have these numbers in their logs."""
    cluster = Cluster(SIDE, tmp_path, len(logs))
    for id, log in enumerate(logs, 1):
        (tmp_path / str(id)).mkdir()
        (tmp_path / str(id) / "0000000000000001-0000000000000009").write_bytes(segment(batch(*log)))
    return cluster


def test_numbers_are_read_from_closed_and_open_segments(tmp_path: Path) -> None:
    """All whole batches count; zeros at the end of an open segment and other files do not."""
    (tmp_path / "0000000000000001-0000000000000003").write_bytes(segment(batch(1, 2), batch(3)))
    (tmp_path / "open-1").write_bytes(segment(batch(4)) + bytes(4096))
    (tmp_path / "open-2").write_bytes(bytes(4096))
    (tmp_path / "tmp-open-3").write_bytes(segment(batch(5)))
    assert verify.numbers(tmp_path, "raft") == (0, {1, 2, 3, 4})


@pytest.mark.parametrize("at", [8, 12, 24, 40, 60])
def test_a_damaged_batch_counts_as_absent(tmp_path: Path, at: int) -> None:
    """A flipped bit in checksums, header or payload, and a torn end."""
    good = segment(batch(1, 2))
    damaged = bytearray(good)
    damaged[at] ^= 1
    (tmp_path / "open-1").write_bytes(damaged)
    assert verify.numbers(tmp_path, "raft")[1] == set()
    (tmp_path / "open-1").write_bytes(good[:-1])
    assert verify.numbers(tmp_path, "raft")[1] == set()


def test_a_snapshot_covers_the_entries_before_it(tmp_path: Path) -> None:
    """The count that the newest complete snapshot begins with; one without its metadata does not count."""
    for name, count in (("snapshot-1-10-5", 7), ("snapshot-1-9-6", 6), ("snapshot-2-20-7", 9)):
        (tmp_path / name).write_bytes(struct.pack("<Q", count) + b"state")
    for name in ("snapshot-1-10-5.meta", "snapshot-1-9-6.meta"):
        (tmp_path / name).write_bytes(b"")
    assert verify.numbers(tmp_path, "raft") == (7, set())


def test_an_acknowledged_entry_must_be_on_a_majority(tmp_path: Path) -> None:
    """Two of three will do, one will not."""
    cluster = cluster_of(tmp_path, [1, 2, 3], [1, 2, 3], [1])
    cluster.acknowledged = 3
    verify.check(cluster)
    cluster.acknowledged = 4
    with pytest.raises(Failed, match="of 4 acknowledged entries"):
        verify.check(cluster)


def test_a_gap_is_noticed(tmp_path: Path) -> None:
    """An entry that is missing in the middle."""
    cluster = cluster_of(tmp_path, [1, 3], [1, 3], [1, 2, 3])
    cluster.acknowledged = 3
    with pytest.raises(Failed, match="server 1: 1 missing"):
        verify.check(cluster)


def test_the_report_compares_medians(tmp_path: Path) -> None:
    """Medians over rounds, ratios to the C library, and a picture that is well-formed."""
    row, other = rows.Row("a & b", "throughput"), rows.Row("slow", "p50")
    results: report.Results = {
        "a & b": {
            "libraft": [{"throughput": 10.0}, {"throughput": 1000.0}, {"throughput": 20.0}],
            "pyraft": [{"throughput": 40.0}],
        },
        "slow": {"libraft": [{"p50": 0.001}], "pyraft": [{"p50": 0.0005}]},
    }
    text = report.table(results, [row, other], ["pyraft", "libraft"])
    assert "| a & b: throughput | 40/s | 20/s | 2.00 |" in text
    assert "| slow: p50 | 500 µs | 1,000 µs | 0.50 |" in text
    assert "pyraft" in report.details(results, [row, other], ["pyraft", "libraft"])
    picture = ElementTree.fromstring(report.picture(results, [row, other], ["pyraft", "libraft"]))
    titles = [element.text for element in picture.iter() if element.tag.endswith("title")]
    assert titles == ["pyraft: 2.00x", "pyraft: 2.00x"]


def test_rows_have_names_of_their_own() -> None:
    """Results are kept by the row's name."""
    names = [row.name for group in rows.groups() for row in group.rows]
    assert len(set(names)) == len(names)


def test_interpreters_are_told_apart(tmp_path: Path) -> None:
    """The running one, one that is not there, one whose extension modules are others, one that does not run."""
    running = machine.interpreter(sys.executable)
    assert running.tag == sys.implementation.cache_tag
    assert running.version in str(running)
    assert 0 < machine.loop(sys.executable) < 60
    assert machine.system_python(tmp_path / "python3") == f"there is no {tmp_path / 'python3'}"
    assert machine.system_python(Path(sys.executable)) == f"{sys.executable} is the interpreter of the other sides"
    other = tmp_path / "other"
    other.write_text('#!/bin/sh\necho \'["3.9.1", "cpython-39", []]\'\n')
    other.chmod(0o755)
    assert "is cpython-39, the installed extension modules are for" in str(machine.system_python(other))
    other.write_text("#!/bin/sh\nexit 1\n")
    assert str(machine.system_python(other)).startswith(f"{other}: ")


def test_what_others_do_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 ticks 60 were idle, 10 waited for a disk, 5 were stolen."""
    ticks = iter([[0] * 8, [10, 5, 5, 60, 10, 2, 3, 5]])
    monkeypatch.setattr(machine, "_ticks", lambda: next(ticks))
    assert machine.beside(0) == machine.Beside(0.25, 0.05)


def test_the_system_s_interpreter_finds_the_packages(tmp_path: Path) -> None:
    """A side on it is the same program on the same source, with this environment's packages behind that."""
    python = machine.system_python()
    side = sides.pure_system(tmp_path)
    if isinstance(python, str):
        assert side == python
        pytest.skip(python)
    assert isinstance(side, Side)
    cluster = Cluster(side, tmp_path / "data", 1)
    try:
        cluster.start()
        assert cluster.load(8, 2, 64, 20.0, 30).entries == 30
    finally:
        cluster.kill_all()


def test_a_load_is_measured_and_verified(tmp_path: Path) -> None:
    """One server of this project: 300 entries, all on disk after SIGKILL; without them the check fails."""
    side = sides.pure(tmp_path)
    assert isinstance(side, Side)
    cluster = Cluster(side, tmp_path / "data", 1)
    try:
        cluster.start()
        loaded = cluster.load(8, 2, 64, 20.0, 300)
        assert loaded.entries == 300
        assert 0 < loaded.p50 <= loaded.p99 <= loaded.longest
        assert cluster.acknowledged == 300
        assert cluster.total(lambda process: process.cpu_exact()) > 0
        verify.check(cluster)
    finally:
        cluster.kill_all()
    for path in (tmp_path / "data" / "1").glob("open-*"):
        path.unlink()
    for path in (tmp_path / "data" / "1").glob("0*-0*"):
        path.unlink()
    with pytest.raises(Failed):
        verify.check(cluster)

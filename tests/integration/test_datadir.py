"""io_uv.datadir on directories made file by file: what is seen, what a start would do; looking changes nothing."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from io_uv import datadir, directory, marker
from io_uv.datadir import DAMAGE, LOSS, NOTE
from io_uv.failure import Failure
from io_uv.open_segment import DAMAGED, INTACT
from pyraft import configuration
from pyraft.errors import RAFT_BUSY, RAFT_CORRUPT, RAFT_UNAUTHORIZED
from pyraft.types import RAFT_CHANGE, RaftEntry
from tests.lib.disk import Dir, command, commands, conf


def change(n: int, term: int = 1) -> RaftEntry:
    """Return an entry with a configuration of n voters."""
    return RaftEntry(term, RAFT_CHANGE, configuration.encode(conf(n)))


def state(path: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return all that could change in a directory."""
    found = {}
    for one in sorted(path.iterdir()):
        stat = one.lstat()
        found[one.name] = one.read_bytes() if one.is_file() else b"", stat.st_mtime_ns, stat.st_ino
    return found


@pytest.fixture
def dir(tmp_path: Path) -> Dir:
    """A directory that looking at must leave alone."""
    return Dir(tmp_path)


def look(dir: Dir) -> tuple[datadir.Contents, list[datadir.Finding], datadir.Rehearsal]:
    """Read, check and rehearse, and see that nothing has changed."""
    before = state(dir.path)
    with datadir.hold(dir.path):
        found = datadir.read(dir.path)
        findings = datadir.check(dir.path, found)
        rehearsal = datadir.rehearse(dir.path)
        datadir.repair(dir.path)
    assert state(dir.path) == before
    return found, findings, rehearsal


def test_a_healthy_directory(dir: Dir) -> None:
    """It has metadata, a snapshot, closed and open segments and the configuration in force, and nothing to find."""
    dir.metadata(1, 3, 4, 2)
    dir.metadata(2, 2, 3)
    dir.closed(1, [change(1)], commands(2, 4))
    dir.snapshot(1, 4)
    dir.closed(6, [change(3, term=4), command(7, term=4)])
    dir.open(1, commands(8, 2, term=4), ours=True)
    dir.open(2, ours=True)
    found, findings, rehearsal = look(dir)
    assert (found.term, found.voted_for, found.first_index, found.last_index, found.last_term) == (4, 2, 1, 9, 4)
    assert found.configuration_index == 6
    assert found.configuration is not None
    assert [server.id for server in found.configuration.servers] == [1, 2, 3]
    assert [(one.index, one.term, one.size) for one in found.snapshots] == [(4, 1, 8)]
    assert [(one.name, one.first, one.last, one.entries) for one in found.segments] == [
        ("0000000000000001-0000000000000005", 1, 5, 5),
        ("0000000000000006-0000000000000007", 6, 7, 2),
        ("open-1", 8, 9, 2),
        ("open-2", 10, 9, 0),
    ]
    assert findings == []
    assert rehearsal.starts
    assert (rehearsal.term, rehearsal.voted_for, rehearsal.snapshot) == (4, 2, (4, 1))
    assert (rehearsal.first_index, rehearsal.last_index, rehearsal.last_term) == (1, 9, 4)
    assert not rehearsal.recovering
    assert rehearsal.changes == [
        "open-1 becomes 0000000000000008-0000000000000009, cut from 16384 to 72 bytes",
        "open-2 is removed",
    ]
    assert [(one.index, one.term, one.segment) for one in datadir.entries(dir.path, 5, 8)] == [
        (5, 1, "0000000000000001-0000000000000005"),
        (6, 4, "0000000000000006-0000000000000007"),
        (7, 4, "0000000000000006-0000000000000007"),
        (8, 4, "open-1"),
    ]


def test_an_empty_directory(dir: Dir) -> None:
    """Nothing is there, and nothing is wrong with that, if it is the right one."""
    found, findings, rehearsal = look(dir)
    assert (found.term, found.last_index, found.configuration) == (0, 0, None)
    assert severities(findings) == [(NOTE, "")]
    assert "there is no file of a server in it" in findings[0].what
    assert rehearsal.starts


def severities(findings: list[datadir.Finding]) -> list[tuple[str, str]]:
    return [(one.severity, one.file) for one in findings]


def test_a_torn_tail_is_a_note(dir: Dir) -> None:
    """A fault that a crash explains was not acknowledged."""
    dir.metadata(1, 1, 1)
    name = dir.open(1, [change(1)], commands(2, 40, size=64), ours=True)
    dir.overwrite(name, 1024, bytes(512))
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(NOTE, "open-1")]
    assert rehearsal.starts
    assert not rehearsal.recovering


def test_a_tear_in_front_of_a_segment_that_was_written_later_is_a_loss(dir: Dir) -> None:
    """Only one write is under way at a time, so no crash explains it: a start cuts the log there, and marks it."""
    dir.metadata(1, 1, 1)
    name = dir.open(1, [change(1)], commands(2, 40, size=64), ours=True)
    dir.overwrite(name, 1024, bytes(512))
    dir.open(2, commands(42, 2), ours=True)
    found, findings, rehearsal = look(dir)
    assert severities(findings) == [(LOSS, "open-1")]
    assert (rehearsal.recovering, rehearsal.last_index) == (True, 1)
    with pytest.raises(Failure, match="open-1"):
        list(datadir.entries(dir.path))
    assert [one.verdict for one in found.segments] == [DAMAGED, INTACT]


def test_a_log_that_begins_without_a_configuration_is_refused(dir: Dir) -> None:
    """As by the core: the loader alone would take it."""
    dir.metadata(1, 1, 1)
    name = dir.closed(1, commands(1, 3))
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(DAMAGE, name)]
    assert not rehearsal.starts
    assert "does not begin with a configuration" in rehearsal.problem
    dir.snapshot(1, 3)
    _, findings, rehearsal = look(dir)
    assert findings == []
    assert rehearsal.starts


def test_damage_at_the_end_costs_acknowledged_entries(dir: Dir) -> None:
    """A start would set the file aside and mark the directory: the finding says so before it happens."""
    dir.metadata(1, 1, 1)
    dir.closed(1, [change(1)], commands(2, 4))
    name = dir.closed(6, commands(6, 2), commands(8, 2))
    dir.overwrite(name, 100, b"\xff")
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(LOSS, name)]
    assert "entries 8 to 9" in findings[0].consequence
    assert rehearsal.starts
    assert rehearsal.recovering
    assert rehearsal.last_index == 5
    assert f"{name} is set aside" in rehearsal.changes


def test_damage_in_the_middle_stops_the_start(dir: Dir) -> None:
    """The rehearsal says with which words."""
    dir.metadata(1, 1, 1)
    name = dir.closed(1, [change(1)], commands(2, 4))
    dir.closed(6, commands(6, 4))
    dir.overwrite(name, 100, b"\xff")
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(LOSS, name)]
    assert not rehearsal.starts
    assert rehearsal.code == RAFT_CORRUPT
    assert name in rehearsal.problem


def test_missing_and_surplus_segments(dir: Dir) -> None:
    """A gap is named with its indexes, an overlap with both files."""
    dir.metadata(1, 1, 1)
    dir.closed(1, [change(1)], commands(2, 4))
    dir.closed(9, commands(9, 2))
    found, findings, rehearsal = look(dir)
    assert found.gaps() == [(6, 8)]
    assert severities(findings) == [(LOSS, "")]
    assert "6 to 8" in findings[0].what
    assert not rehearsal.starts
    dir.closed(6, commands(6, 4))
    found, findings, rehearsal = look(dir)
    assert found.gaps() == []
    assert severities(findings) == [(DAMAGE, "0000000000000009-0000000000000010")]
    assert not rehearsal.starts


def test_a_bad_newest_snapshot(dir: Dir) -> None:
    """With the whole log nothing is lost; without its beginning something is."""
    dir.metadata(1, 1, 1)
    dir.closed(1, [change(1)], commands(2, 4))
    name = dir.snapshot(1, 4)
    dir.overwrite(f"{name}.meta", 40, b"\xff")
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(DAMAGE, name)]
    assert rehearsal.starts
    dir.remove("0000000000000001-0000000000000005")
    dir.closed(5, commands(5, 2))
    _, findings, rehearsal = look(dir)
    assert (LOSS, name) in severities(findings)
    assert not rehearsal.starts


def test_a_segment_with_more_than_its_name_says(dir: Dir) -> None:
    """Bytes behind its last entry have no index that could be named."""
    dir.metadata(1, 1, 1)
    name = dir.closed(1, [change(1)], commands(2, 4))
    dir.resize(name, len(dir.read(name)) + 3)
    _, findings, _ = look(dir)
    assert severities(findings) == [(LOSS, name)]
    assert findings[0].consequence.startswith("something behind entry 5 cannot be read")


def test_a_snapshot_without_content(dir: Dir) -> None:
    """A start passes over an empty one, so entries are missing then; before, none are."""
    dir.metadata(1, 1, 1)
    dir.snapshot(1, 2)
    name = dir.snapshot(1, 6, time=2000)
    dir.closed(5, commands(5, 4))
    _, findings, rehearsal = look(dir)
    assert (findings, rehearsal.starts) == ([], True)
    dir.resize(name, 0)
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(LOSS, name), (LOSS, "")]
    assert "is empty" in findings[0].what
    assert "entries 3 to 4 are missing" in findings[1].what
    assert not rehearsal.starts


def test_files_that_mean_nothing_are_not_looked_at(dir: Dir) -> None:
    """Names of any length and files of any size may lie beside a server's."""
    dir.metadata(1, 1, 1)
    dir.closed(1, [change(1)], commands(2, 4))
    dir.write("y" * 255, b"x")
    for name in ("big", "tmp-big"):
        dir.write(name, b"")
        dir.resize(name, 1 << 40)
    with datadir.hold(dir.path):
        found = datadir.read(dir.path)
        rehearsal = datadir.rehearse(dir.path)
        assert not datadir.repair(dir.path, apply=True).needed
    assert [one.file for one in datadir.check(dir.path, found)] == ["tmp-big"]
    assert (rehearsal.starts, rehearsal.changes) == (True, ["tmp-big is removed"])
    assert found.foreign == ["big", "y" * 255]


def test_a_wrong_directory_is_not_called_right(tmp_path: Path) -> None:
    """The one above that of the server, for instance, has nothing damaged in it, and nothing else either."""
    (tmp_path / "1").mkdir()
    (finding,) = datadir.check(tmp_path)
    assert (finding.severity, finding.what) == (NOTE, "there is no file of a server in it")


def test_metadata(dir: Dir) -> None:
    """They are lost with a log beside them, behind the log, twice of one version, or were never written."""
    dir.closed(1, [change(1)], commands(2, 4, term=5))
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(DAMAGE, "metadata1, metadata2")]
    assert (rehearsal.starts, rehearsal.code, rehearsal.forgotten) == (False, RAFT_CORRUPT, True)
    dir.metadata(1, 1, 3)
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(DAMAGE, "metadata1, metadata2")]
    assert "term 3 is behind term 5" in findings[0].what
    assert not rehearsal.starts
    dir.metadata(2, 1, 5)
    _, findings, rehearsal = look(dir)
    assert not rehearsal.starts
    assert (DAMAGE, "metadata1") in severities(findings)
    dir.write("metadata2", b"")
    dir.metadata(1, 1, 5)
    _, findings, rehearsal = look(dir)
    assert severities(findings) == [(NOTE, "metadata2")]
    assert rehearsal.starts


def test_left_overs_marks_links_and_strangers(dir: Dir) -> None:
    """Each with what becomes of it."""
    dir.metadata(1, 1, 1)
    dir.closed(1, [change(1)])
    dir.write("tmp-open-1", b"x")
    dir.write("snapshot-1-9-1000.meta", b"x")
    dir.write("corrupt-12-open-1", b"x")
    dir.write(marker.NAME, b"because\n")
    dir.write("notes.txt", b"x")
    (dir.path / "open-9").symlink_to("/etc/passwd")
    os.mkfifo(dir.path / "metadata2")
    found, findings, rehearsal = look(dir)
    assert found.foreign == ["notes.txt"]
    assert sorted(severities(findings)) == sorted(
        [
            (LOSS, marker.NAME),
            (DAMAGE, "open-9"),
            (DAMAGE, "metadata2"),
            (DAMAGE, "metadata2"),
            (NOTE, "corrupt-12-open-1"),
            (NOTE, "snapshot-1-9-1000.meta"),
            (NOTE, "tmp-open-1"),
        ]
    )
    assert found.strange == {"metadata2": "FIFO", "open-9": "symbolic link"}
    assert rehearsal.problem in [f"{name} in directory '{dir}' is a {kind}" for name, kind in found.strange.items()]
    os.unlink(dir.path / "open-9")
    os.mkfifo(dir.path / "open-9")
    assert [one.index for one in datadir.entries(dir.path)] == [1]


def test_a_directory_in_use_is_left_alone(dir: Dir) -> None:
    """This library's lock tells it, dqlite's, and a process that holds no lock but a segment."""
    lock = directory.lock_dir(str(dir))
    with pytest.raises(Failure) as raised, datadir.hold(dir.path):
        pass
    assert raised.value.code == RAFT_BUSY
    lock.release()
    dir.write("dqlite-lock", b"")
    with datadir.hold(dir.path), pytest.raises(Failure, match="in use"), datadir.hold(dir.path):
        pass
    fd = os.open(dir.path / "dqlite-lock", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Failure, match="dqlite server"), datadir.hold(dir.path):
        pass
    os.close(fd)
    with datadir.hold(dir.path):
        pass


def test_a_process_without_a_lock_is_seen_by_its_segment(dir: Dir) -> None:
    """A C server is one."""
    name = dir.open(1, [change(1)])
    program = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(dir.path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        with pytest.raises(Failure, match=f"process {process.pid}"), datadir.hold(dir.path):
            pass
        process.stdin.close()
    with datadir.hold(dir.path):
        pass


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    """Says so."""
    with pytest.raises(Failure, match="does not exist"):
        datadir.read(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Failure, match="is not a directory"):
        datadir.read(tmp_path / "file")


def test_files_that_this_user_may_not_read_are_not_called_damaged(dir: Dir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at then: the advice for damage would have a healthy member removed. Others do not matter."""
    dir.metadata(1, 1, 1)
    name = dir.closed(1, [change(1)])
    dir.write("cluster.key", b"")
    unreadable = {"cluster.key"}
    may = os.access

    def access(path: str, mode: int, **options: bool) -> bool:
        return os.path.basename(path) not in unreadable and may(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    with datadir.hold(dir.path):
        assert datadir.check(dir.path) == []
    for one in (name, "metadata1"):
        unreadable.add(one)
        with pytest.raises(Failure, match=f"{one} in directory .* may not be read") as raised, datadir.hold(dir.path):
            pass
        assert raised.value.code == RAFT_UNAUTHORIZED
        unreadable.remove(one)

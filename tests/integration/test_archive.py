"""io_uv.datadir.export and import_: a directory as one file and back; damage is refused, and nothing half is left."""

import base64
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv import datadir, fs, marker, snapshot_file
from io_uv.datadir import archive
from io_uv.failure import Failure
from pyraft.errors import RAFT_CANTBOOTSTRAP, RAFT_CORRUPT, RAFT_MALFORMED
from tests.integration.test_command import run
from tests.integration.test_datadir import change
from tests.lib import faults
from tests.lib.disk import Dir, command, commands


def full(path: Path) -> Dir:
    """Return a directory with two snapshots, closed and open segments, and a vote."""
    path.mkdir()
    made = Dir(path)
    made.metadata(1, 3, 4, 2)
    made.metadata(2, 2, 3)
    made.closed(1, [change(1)], commands(2, 4))
    made.snapshot(1, 3)
    made.snapshot(1, 4)
    made.closed(6, [change(3, term=4)], commands(7, 1, term=4))
    made.open(1, commands(8, 2, term=4), ours=True)
    return made


def log_alone(path: Path) -> Dir:
    """Return one without a snapshot, and with an empty entry."""
    path.mkdir()
    made = Dir(path)
    made.metadata(1, 1, 1)
    made.closed(1, [change(1)], [command(2, 0)], commands(3, 10, size=64))
    return made


def snapshot_alone(path: Path) -> Dir:
    """Return one whose log was replaced by a snapshot."""
    path.mkdir()
    made = Dir(path)
    made.metadata(1, 3, 7)
    made.snapshot(7, 100)
    return made


def term_alone(path: Path) -> Dir:
    """Return one that has heard of a term, and has no log."""
    path.mkdir()
    made = Dir(path)
    made.metadata(1, 1, 5, 3)
    return made


def behind_a_snapshot(path: Path) -> Dir:
    """Return one whose log begins in front of its snapshot, not with 1."""
    path.mkdir()
    made = Dir(path)
    made.metadata(2, 2, 3)
    made.closed(50, commands(50, 6, term=2))
    made.closed(56, commands(56, 3, term=3))
    made.snapshot(2, 52)
    return made


KINDS = [full, log_alone, snapshot_alone, term_alone, behind_a_snapshot]


def loaded(path: Path) -> tuple[Any, ...]:
    """Return what a start would load, with all entries and the data of the snapshot."""
    with datadir.hold(path):
        found = datadir.rehearse(path)
        assert found.starts, found.problem
        content = datadir.read(path)
        servers = None if found.configuration is None else [vars_of(one) for one in found.configuration.servers]
        snapshot: Any = None
        if content.snapshots:
            one = content.snapshots[-1]
            parsed = snapshot_file.parse_name(one.name)
            assert parsed is not None
            read = snapshot_file.read(os.fspath(path), parsed[0])
            snapshot = (one.index, one.term, one.taken_at, read.configuration_index, bytes(read.bufs[0]))
        entries = [
            (one.index, one.term, one.type, one.data)
            for one in datadir.entries(path, found.first_index, max(found.last_index, 0))
        ]
    facts = (found.term, found.voted_for, found.first_index, found.last_index, found.last_term, found.recovering)
    return *facts, found.configuration_index, servers, snapshot, entries


def vars_of(server: Any) -> tuple[int, str, int]:
    return server.id, server.address, server.role


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_there_and_back(kind: Callable[[Path], Dir], tmp_path: Path) -> None:
    """It loads to the same, nothing is to be found in it, and exporting it again gives the same file."""
    made = kind(tmp_path / "a")
    before = {name: made.read(name) for name in made.names}
    with datadir.hold(made.path):
        head = datadir.export(made.path, tmp_path / "1.export")
    assert {name: made.read(name) for name in made.names} == before
    assert datadir.examine(tmp_path / "1.export") == head
    assert datadir.import_(tmp_path / "1.export", tmp_path / "deep" / "b") == head
    assert loaded(tmp_path / "deep" / "b") == loaded(made.path)
    with datadir.hold(tmp_path / "deep" / "b"):
        assert [one for one in datadir.check(tmp_path / "deep" / "b") if one.severity != datadir.NOTE] == []
        datadir.export(tmp_path / "deep" / "b", tmp_path / "2.export")
    assert (tmp_path / "1.export").read_bytes() == (tmp_path / "2.export").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["1.export", "2.export", "a", "deep"]


def test_a_log_of_several_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are cut by size and number, and the entries are all there, in order."""
    monkeypatch.setattr(archive, "_SEGMENT_BYTES", 300)
    monkeypatch.setattr(archive, "_SEGMENT_ENTRIES", 3)
    made = log_alone(tmp_path / "a")
    with datadir.hold(made.path):
        datadir.export(made.path, tmp_path / "1.export")
    datadir.import_(tmp_path / "1.export", tmp_path / "b")
    assert len(Dir(tmp_path / "b").names) > 4
    assert loaded(tmp_path / "b") == loaded(made.path)


def test_a_large_snapshot_goes_in_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raw as C programs without LZ4 store it, or a frame: the file comes back byte for byte."""
    monkeypatch.setattr(archive, "_PIECE", 300)
    made = snapshot_alone(tmp_path / "a")
    name = next(name for name in made.names if name.startswith("snapshot") and not name.endswith((".meta", ".sum")))
    made.write(name, os.urandom(1000))
    with datadir.hold(made.path):
        datadir.export(made.path, tmp_path / "1.export")
    assert (tmp_path / "1.export").read_bytes().count(b"\n") == 1 + 4 + 1
    datadir.import_(tmp_path / "1.export", tmp_path / "b")
    assert Dir(tmp_path / "b").read(name) == made.read(name)


def test_marks_and_chosen_files_come_along(tmp_path: Path) -> None:
    """A server that may lack entries is one there, too; other files stay, but for those that are named."""
    made = log_alone(tmp_path / "a")
    marker.marker_set(str(made), "a test")
    made.write("node.json", b"{}\n\xff")
    made.write("cluster.key", b"secret")
    with datadir.hold(made.path):
        head = datadir.export(made.path, tmp_path / "1.export", files=["node.json", "none"])
    assert list(head.marks) == [marker.NAME]
    datadir.import_(tmp_path / "1.export", tmp_path / "b")
    there = Dir(tmp_path / "b")
    assert there.read("node.json") == b"{}\n\xff"
    assert there.read(marker.NAME) == made.read(marker.NAME)
    assert not there.has("cluster.key")
    assert b"secret" not in (tmp_path / "1.export").read_bytes()
    with datadir.hold(there.path):
        assert datadir.rehearse(there.path).recovering


def test_a_damaged_end_is_exported_as_a_start_leaves_it(tmp_path: Path) -> None:
    """The segment that a start sets aside is left out, the mark that it leaves is there; the directory is as it was."""
    made = full(tmp_path / "a")
    made.remove("open-1")
    name = made.closed(8, commands(8, 2, term=4))
    made.overwrite(name, 100, b"\xff")
    before = made.names
    with datadir.hold(made.path):
        head = datadir.export(made.path, tmp_path / "1.export")
    assert made.names == before
    assert (head.last_index, list(head.marks)) == (7, [marker.NAME])
    datadir.import_(tmp_path / "1.export", tmp_path / "b")
    assert loaded(tmp_path / "b")[3:6] == (7, 4, True)


def test_no_export_of_nothing_or_of_what_does_not_load(tmp_path: Path) -> None:
    """A file that is there is not written over either; and no file comes of it."""
    made = full(tmp_path / "a")
    made.overwrite("0000000000000001-0000000000000005", 12, b"\xff")
    with datadir.hold(made.path), pytest.raises(Failure, match="a start is refused"):
        datadir.export(made.path, tmp_path / "1.export")
    (tmp_path / "empty").mkdir()
    with datadir.hold(tmp_path / "empty"), pytest.raises(Failure, match="nothing to export"):
        datadir.export(tmp_path / "empty", tmp_path / "1.export")
    good = log_alone(tmp_path / "good")
    (tmp_path / "there").write_bytes(b"mine")
    with datadir.hold(good.path), pytest.raises(Failure, match="file already exists"):
        datadir.export(good.path, tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"mine"
    with datadir.hold(good.path), pytest.raises(Failure, match="no such file or directory"):
        datadir.export(good.path, tmp_path / "none" / "1.export")
    assert sorted(os.listdir(tmp_path)) == ["a", "empty", "good", "there"]


def test_an_export_to_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses when the file is synced."""
    made = log_alone(tmp_path / "a")
    real = fs.fsync

    def full_disk(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            raise faults.error(errno.ENOSPC)
        real(fd)

    monkeypatch.setattr(fs, "fsync", full_disk)
    with datadir.hold(made.path), pytest.raises(Failure, match="no space left"):
        datadir.export(made.path, tmp_path / "1.export")
    assert os.listdir(tmp_path) == ["a"]


# ---- bad files -------------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Whichever byte is another, wherever it is cut off, whatever follows; and nothing is made of it."""
    made = full(tmp_path / "a")
    with datadir.hold(made.path):
        datadir.export(made.path, tmp_path / "1.export")
    content = (tmp_path / "1.export").read_bytes()
    bad = tmp_path / "bad"
    for at in range(len(content)):
        bad.write_bytes(content[:at] + bytes((content[at] ^ 0x01,)) + content[at + 1 :])
        with pytest.raises(Failure) as raised:
            datadir.examine(bad)
        assert raised.value.code in (RAFT_CORRUPT, RAFT_MALFORMED)
    for end in range(0, len(content), 3):
        bad.write_bytes(content[:end])
        with pytest.raises(Failure):
            datadir.examine(bad)
    bad.write_bytes(content + b"\n")
    with pytest.raises(Failure, match="damaged or cut off"):
        datadir.import_(bad, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def sealed(lines: list[Any]) -> bytes:
    """Return a file with these lines and a right checksum."""
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return content + b'{"sha256":"%s"}\n' % hashlib.sha256(content).hexdigest().encode()


def data(content: bytes) -> str:
    return base64.b64encode(content).decode()


ENTRY = {"index": 1, "term": 1, "type": "change", "data": data(change(1).buf)}
SNAPSHOT = {"index": 9, "term": 1, "taken_at": 1, "configuration_index": 1, "configuration": [[1, "a", 1]], "size": 3}
HEAD: dict[str, Any] = {
    "format": "pyraft directory 1",
    "term": 1,
    "voted_for": 0,
    "first_index": 1,
    "last_index": 1,
    "last_term": 1,
    "snapshot": None,
    "marks": {},
    "files": {},
}


def test_a_file_that_another_program_has_written(tmp_path: Path) -> None:
    """The form in FORMATS.md is enough to make one."""
    path = tmp_path / "1.export"
    path.write_bytes(sealed([HEAD, ENTRY]))
    datadir.import_(path, tmp_path / "b")
    assert loaded(tmp_path / "b")[:5] == (1, 0, 1, 1, 1)
    with_snapshot = {**HEAD, "first_index": 10, "last_index": 10, "snapshot": SNAPSHOT}
    path.write_bytes(sealed([with_snapshot, {"snapshot": data(b"abc")}, {**ENTRY, "index": 10}]))
    datadir.import_(path, tmp_path / "c")
    assert loaded(tmp_path / "c")[8] == (9, 1, 1, 1, b"abc")


@pytest.mark.parametrize(
    "lines",
    [
        [{**HEAD, "format": "pyraft directory 2"}, ENTRY],
        [{**HEAD, "format": "pyraft backup 1"}, ENTRY],
        [{**HEAD, "term": "1"}, ENTRY],
        [{**HEAD, "term": -1}, ENTRY],
        [{**HEAD, "term": True}, ENTRY],
        [{**HEAD, "voted_for": 1 << 64}, ENTRY],
        [{**HEAD, "more": 1}, ENTRY],
        [{name: HEAD[name] for name in HEAD if name != "marks"}, ENTRY],
        [{**HEAD, "marks": {"metadata1": "x"}}, ENTRY],
        [{**HEAD, "marks": []}, ENTRY],
        [{**HEAD, "files": {"../x": data(b"x")}}, ENTRY],
        [{**HEAD, "files": {"metadata2": data(b"x")}}, ENTRY],
        [{**HEAD, "files": {"open-1": data(b"x")}}, ENTRY],
        [{**HEAD, "files": {"log-incomplete": data(b"x")}}, ENTRY],
        [{**HEAD, "files": {"x": "?"}}, ENTRY],
        [{**HEAD, "first_index": 0}, ENTRY],
        [{**HEAD, "first_index": 2, "last_index": 2}, {**ENTRY, "index": 2}],
        [{**HEAD, "last_index": 2}, ENTRY],
        [HEAD, ENTRY, {**ENTRY, "index": 2}],
        [HEAD],
        [HEAD, {**ENTRY, "index": 2}],
        [HEAD, {**ENTRY, "index": "1"}],
        [HEAD, {**ENTRY, "term": 2}],
        [HEAD, {**ENTRY, "term": 0}],
        [{**HEAD, "last_term": 2}, ENTRY],
        [HEAD, {**ENTRY, "type": "x"}],
        [HEAD, {**ENTRY, "type": ["x"]}],
        [HEAD, {**ENTRY, "data": "=="}],
        [HEAD, {**ENTRY, "data": "YR=="}],
        [HEAD, {**ENTRY, "data": 3}],
        [HEAD, []],
        [{**HEAD, "first_index": 10, "last_index": 9, "snapshot": {**SNAPSHOT, "size": 4}}, {"snapshot": data(b"abc")}],
        [{**HEAD, "first_index": 10, "last_index": 9, "snapshot": {**SNAPSHOT, "size": 2}}, {"snapshot": data(b"abc")}],
        [{**HEAD, "first_index": 10, "last_index": 9, "snapshot": {**SNAPSHOT, "size": 3}}, {"snapshot": ""}],
        [
            {**HEAD, "first_index": 10, "last_index": 9, "snapshot": {**SNAPSHOT, "configuration": [[1, "a", 9]]}},
            {"snapshot": data(b"abc")},
        ],
        [
            {**HEAD, "first_index": 10, "last_index": 9, "snapshot": {**SNAPSHOT, "configuration": [[1, 1, 1]]}},
            {"snapshot": data(b"abc")},
        ],
        [
            {**HEAD, "first_index": 10, "last_index": 9, "snapshot": {**SNAPSHOT, "configuration": [1]}},
            {"snapshot": data(b"abc")},
        ],
        [{**HEAD, "first_index": 10, "last_index": 8, "snapshot": SNAPSHOT}, {"snapshot": data(b"abc")}],
        [[1], ENTRY],
        [{**HEAD, "snapshot": 3}, ENTRY],
    ],
)
def test_a_right_checksum_does_not_make_a_right_file(lines: list[Any], tmp_path: Path) -> None:
    """A file of other content is refused with its name, and leaves nothing."""
    path = tmp_path / "1.export"
    path.write_bytes(sealed(lines))
    with pytest.raises(Failure) as raised:
        datadir.import_(path, tmp_path / "b")
    assert raised.value.code in (RAFT_MALFORMED, RAFT_CORRUPT)
    assert not (tmp_path / "b").exists()


def test_a_snapshot_that_is_no_frame_although_it_begins_like_one(tmp_path: Path) -> None:
    """A start could not load it: found out at the end, and all is taken back."""
    path = tmp_path / "1.export"
    content = bytes.fromhex("04224d18") + b"nonsense"
    snapshot = {**SNAPSHOT, "size": len(content)}
    path.write_bytes(
        sealed([{**HEAD, "first_index": 10, "last_index": 9, "snapshot": snapshot}, {"snapshot": data(content)}])
    )
    (tmp_path / "b").mkdir()
    with pytest.raises(Failure):
        datadir.import_(path, tmp_path / "b")
    assert os.listdir(tmp_path / "b") == []


# ---- directories -----------------------------------------------------------------------------------------------------


def test_only_an_empty_directory_is_taken(tmp_path: Path) -> None:
    """One that has something in it is left as it is; that of a new file system counts as empty."""
    path = tmp_path / "1.export"
    path.write_bytes(sealed([HEAD, ENTRY]))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()
    with pytest.raises(Failure, match="is not empty") as raised:
        datadir.import_(path, tmp_path / "b")
    assert raised.value.code == RAFT_CANTBOOTSTRAP
    assert os.listdir(tmp_path / "b") == ["x"]
    (tmp_path / "c" / "lost+found").mkdir(parents=True)
    datadir.import_(path, tmp_path / "c")
    assert loaded(tmp_path / "c")[3] == 1
    (tmp_path / "file").touch()
    with pytest.raises(Failure):
        datadir.import_(path, tmp_path / "file")
    with pytest.raises(Failure, match="no such file"):
        datadir.import_(tmp_path / "none", tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("killed", [False, True], ids=["failed", "killed"])
def test_an_import_that_ends_early(
    kind: Callable[[Path], Dir], killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever step the disk begins to fail nothing is left; behind a kill nothing loads as a shorter log."""
    monkeypatch.setattr(archive, "_SEGMENT_ENTRIES", 4)
    made = kind(tmp_path / "a")
    with datadir.hold(made.path):
        datadir.export(made.path, tmp_path / "1.export")
    whole = loaded(made.path)
    for number in range(1000):
        dir = tmp_path / f"b{number}"
        dir.mkdir()
        with monkeypatch.context() as patch:
            if killed:
                patch.setattr(archive, "_undo", lambda *arguments: None)
            sick = faults.Faults(patch, dir)
            sick.begin(faults.between(number, 10_000 if killed else number, errno.ENOSPC))
            try:
                datadir.import_(tmp_path / "1.export", dir)
                done = True
            except Failure:
                done = False
        if done and not sick.failed:
            assert loaded(dir) == whole
            assert number > 10
            return
        if not killed and not done:
            assert os.listdir(dir) == [], number
            continue
        with datadir.hold(dir):
            found = datadir.rehearse(dir)
        if found.starts and found.last_index:
            assert found.last_index == whole[3], number
            assert [(one.index, one.term) for one in datadir.entries(dir)][-1:] == [(e[0], e[1]) for e in whole[9]][-1:]
    raise AssertionError("it never succeeds")


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path) -> None:
    """They tell people, or in JSON; an error is a line and an exit code of 1."""
    made = full(tmp_path / "a")
    file = tmp_path / "1.export"
    result = run("dir", "export", made, file)
    assert result.exit_code == 0, result.output
    assert "entries 1 to 9" in result.output
    assert json.loads(run("dir", "examine", file, "--json").output)["last_index"] == 9
    assert "it is whole" in run("dir", "examine", file).output
    result = run("dir", "import", file, tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "never both" in " ".join(result.output.split())
    assert loaded(tmp_path / "b") == loaded(made.path)
    facts = json.loads(run("dir", "import", file, tmp_path / "c", "--json").output)
    assert facts["snapshot"]["index"] == 4
    for words, text in (
        (("export", made, file), "already exists"),
        (("export", tmp_path / "none", tmp_path / "x"), "does not exist"),
        (("import", file, tmp_path / "b"), "is not empty"),
        (("import", tmp_path / "none", tmp_path / "d"), "no such file"),
        (("examine", made.path / "metadata1"), "is not an exported directory"),
        (("examine", made), "illegal operation on a directory"),
    ):
        result = run("dir", *words)
        assert (result.exit_code, text in result.output) == (1, True), (words, result.output)
    assert not (tmp_path / "d").exists()

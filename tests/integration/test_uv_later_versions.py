"""Files of formats that this version does not know: not understood is not damaged, so nothing of them is touched.

Automatic recovery and repair are for damage. After a step back from a later version they would otherwise lose entries
that were acknowledged, a term or a vote.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv import crc, datadir, marker, metadata
from io_uv.failure import Unknown
from io_uv.state import Metadata
from pyraft import configuration
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED
from pyraft.types import Entries
from tests.lib.disk import Dir, commands, conf, words
from tests.lib.uvload import Opener, closed, opened

LATER = words(2)


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """A directory with metadata of term 1."""
    made = Dir(tmp_path)
    made.metadata(1, 1, 1)
    return made


def of_the_future(index: int) -> Entries:
    """Return a batch whose entry is of a type that nobody knows yet."""
    entries = commands(index, 1)
    entries[0].type = 9
    return entries


def last_closed(data: Dir) -> str:
    """Write a log whose last closed segment is of another format."""
    closed(data, 1, 2)
    name = closed(data, 3, 2)
    data.overwrite(name, 0, LATER)
    return name


def first_open(data: Dir) -> str:
    """Write one whose first open segment is."""
    closed(data, 1, 2)
    name = opened(data, 1, 3, ours=True)
    opened(data, 2, 4, ours=True)
    data.overwrite(name, 0, LATER)
    return name


def type_in_closed(data: Dir) -> str:
    """Write one with an entry of an unknown type at its end."""
    closed(data, 1, 2)
    return data.closed(3, commands(3, 1), of_the_future(4))


def meta(data: Dir) -> str:
    """Write a snapshot of another format, beside an older one and a log that could take its place."""
    closed(data, 1, 9)
    data.snapshot(1, 4)
    name = data.snapshot(1, 7) + ".meta"
    data.overwrite(name, 0, LATER)
    return name


def configuration_in_meta(data: Dir) -> str:
    """Write one whose configuration is of another format, under a good checksum."""
    closed(data, 1, 9)
    data.snapshot(1, 4)
    name = data.snapshot(1, 7) + ".meta"
    blob = b"\2" + configuration.encode(conf())[1:]
    checked = words(1, len(blob))
    data.write(name, words(1, crc.crc32(blob, crc.crc32(checked))) + checked + blob)
    return name


def older_meta(data: Dir) -> str:
    """Write one beside a newer snapshot that is damaged, and a log that could take the place of both."""
    closed(data, 1, 9)
    name = data.snapshot(1, 4) + ".meta"
    data.overwrite(name, 0, LATER)
    data.overwrite(data.snapshot(1, 7) + ".meta", 16, words(1 << 60))
    return name


def type_in_head(data: Dir) -> str:
    """Write a segment with an entry of an unknown type at its end, and one that a truncate seems to have made of it."""
    name = data.closed(1, commands(1, 3), of_the_future(4))
    closed(data, 1, 2)
    return name


CASES = (last_closed, first_open, type_in_closed, meta, configuration_in_meta, older_meta, type_in_head)


@pytest.mark.parametrize("auto_recovery", [True, False])
@pytest.mark.parametrize("make", CASES)
def test_the_start_is_refused_and_the_file_stays(
    data: Dir, opener: Opener, make: Callable[[Dir], str], auto_recovery: bool
) -> None:
    """It stays under its name and as it was, and no mark says that entries may be missing."""
    name = make(data)
    before = data.read(name)
    loaded = opener.load(auto_recovery)
    assert loaded.rv in (RAFT_CORRUPT, RAFT_MALFORMED)
    assert name in loaded.errmsg
    assert data.read(name) == before
    assert marker.marker_read(str(data)) is None
    assert not any(name.startswith("corrupt-") for name in data.names)


@pytest.mark.parametrize("make", CASES)
def test_no_tool_repairs_it(data: Dir, make: Callable[[Dir], str]) -> None:
    """It says why, and what can: a version that knows the format."""
    name = make(data)
    findings = datadir.check(data.path)
    on_it = [one for one in findings if one.file and name.startswith(one.file)]
    assert [one.severity for one in on_it if "a version that knows it" in one.consequence] == ["damage"]
    assert "note" not in [one.severity for one in on_it]
    names = data.names
    found = datadir.repair(data.path, apply=True)
    assert (found.steps, found.applied, data.names) == ([], False, names)
    assert "only a version that knows it can tell" in found.advice


def test_a_word_that_is_no_format_number_is_damage(data: Dir, opener: Opener) -> None:
    """Formats are numbered from 1."""
    name = closed(data, 1, 2)
    data.overwrite(name, 0, bytes(range(1, 9)))
    assert opener.load(auto_recovery=True).rv == 0
    assert marker.marker_read(str(data)) is not None


def test_metadata_of_a_later_version_are_not_passed_over(tmp_path: Path) -> None:
    """Such a version leaves the sidecar of the file as it was, which makes it look like the older of the two."""
    dir = str(tmp_path)
    for version in range(1, 5):
        metadata.store(dir, Metadata(version, version, 0))
    (tmp_path / "metadata1").write_bytes(struct.pack("<4Q", 2, 5, 5, 3))
    with pytest.raises(Unknown, match="metadata1: bad format version 2"):
        metadata.load(dir)
    assert any(one.file == "metadata1" and one.severity == "damage" for one in datadir.check(tmp_path))


def test_metadata_whose_format_word_alone_is_damaged_are(tmp_path: Path) -> None:
    """The sidecar has the checksum of the rest."""
    dir = str(tmp_path)
    for version in range(1, 5):
        metadata.store(dir, Metadata(version, version, 0))
    Dir(tmp_path).overwrite("metadata1", 0, LATER)
    assert metadata.load(dir).term == 4

"""Term and vote, bootstrap and recover through RaftIo: what the C suite's cases do, and more."""

from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv import marker, raft_uv_init
from io_uv.pyuv import Loop
from io_uv.transport import RaftUvTransport
from pyraft import configuration
from pyraft.errors import (
    RAFT_CANTBOOTSTRAP,
    RAFT_CORRUPT,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_MALFORMED,
    RAFT_NAMETOOLONG,
    RAFT_NOTFOUND,
    RAFT_TOOBIG,
)
from pyraft.types import RAFT_CHANGE, RAFT_VOTER, RaftIo
from tests.lib.covers import covers
from tests.lib.disk import BLOCK_SIZE, SEGMENT_SIZE, Dir, commands, conf, words
from tests.lib.uvload import Opener, closed, opened
from tests.lib.uvtest import UvIo

# ---- init and metadata -----------------------------------------------------------------------------------------------


@covers("init/dirTooLong")
def test_a_directory_of_895_bytes_is_too_long() -> None:
    """894 are accepted, in bytes and not characters (B24)."""
    loop = Loop()
    transport = RaftUvTransport()
    transport.version = 1
    io = RaftIo()
    assert raft_uv_init(io, loop, "a" * 894, transport) == 0
    assert io.impl.dir == "a" * 894
    assert raft_uv_init(io, loop, "a" * 895, transport) == RAFT_NAMETOOLONG
    assert io.errmsg == "directory path too long"
    assert raft_uv_init(io, loop, "ä" * 448, transport) == RAFT_NAMETOOLONG
    loop.close()


@covers("init/dirDoesNotExist")
def test_a_missing_directory_is_not_found(tmp_path: Path) -> None:
    """The text names it."""
    instance = UvIo(tmp_path / "missing")
    assert instance.init() == RAFT_NOTFOUND
    assert instance.io.errmsg == f"directory '{tmp_path}/missing' does not exist"
    instance.close()


@covers("init/dirNotAccessible")
def test_a_directory_that_its_owner_may_not_write_is_invalid(tmp_path: Path) -> None:
    """Its mode counts, for root as well."""
    tmp_path.chmod(0)
    try:
        instance = UvIo(tmp_path)
        assert instance.init() == RAFT_INVALID
        assert instance.io.errmsg == f"directory '{tmp_path}' is not writable"
        instance.close()
    finally:
        tmp_path.chmod(0o700)


@covers("init/metadataOneTooShort")
def test_metadata_that_is_too_short_does_not_count(data: Dir, opener: Opener) -> None:
    """A crash came during the very first store; the file is removed."""
    data.write("metadata1", bytes(16))
    loaded = opener.load()
    assert (loaded.rv, loaded.term, loaded.voted_for) == (0, 0, 0)
    assert not data.has("metadata1")


@covers(
    "init/metadataOneBadFormat",
    "init/metadataOneBadVersion",
    "init/metadataOneAndTwoSameVersion",
)
@pytest.mark.parametrize(
    ("files", "code", "text"),
    [
        ([words(2, 1, 1, 1)], RAFT_MALFORMED, "decode content of metadata1: bad format version 2"),
        ([words(1, 0, 1, 1)], RAFT_CORRUPT, "decode content of metadata1: version is set to zero"),
        ([words(1, 2, 1, 0)] * 2, RAFT_CORRUPT, "metadata1 and metadata2 are both at version 2"),
        ([words(1, 1, 1, 0) + b"x"], RAFT_CORRUPT, "metadata1 has size 33 instead of 32"),
    ],
)
def test_bad_metadata_is_refused(data: Dir, opener: Opener, files: list[bytes], code: int, text: str) -> None:
    """Each has the text of the C library."""
    for i, content in enumerate(files):
        data.write(f"metadata{i + 1}", content)
    instance = opener()
    assert instance.init() == code
    assert instance.io.errmsg == text


@covers(
    "set_term/first",
    "set_term/second",
    "set_term/third",
    "set_term/fourth",
)
def test_terms_go_to_the_two_files_in_turn(data: Dir, opener: Opener) -> None:
    """Odd versions go to metadata1, even ones to metadata2."""
    instance = opener().start()
    expected = {}
    for version in range(1, 5):
        assert instance.io.set_term(instance.io, version) == 0
        expected[f"metadata{2 - version % 2}"] = words(1, version, version, 0)
        found = {name: data.read(name) for name in data.names if name in ("metadata1", "metadata2")}
        assert found == expected


@covers(
    "set_term/metadataOneExists",
    "set_term/metadataOneIsGreater",
    "set_term/metadataTwoIsGreater",
)
@pytest.mark.parametrize(
    ("versions", "written"),
    [((1, None), ("metadata2", 2)), ((3, 2), ("metadata2", 4)), ((1, 2), ("metadata1", 3))],
)
def test_versions_go_on_from_the_higher_one(
    data: Dir, opener: Opener, versions: tuple[int, int | None], written: tuple[str, int]
) -> None:
    """The older file is the one to be overwritten."""
    for n, version in enumerate(versions):
        if version is not None:
            data.metadata(n + 1, version, 1)
    instance = opener().start()
    assert instance.io.set_term(instance.io, 2) == 0
    name, version = written
    assert data.read(name) == words(1, version, 2, 0)


def test_a_vote_keeps_the_term_and_a_term_drops_the_vote(opener: Opener) -> None:
    """Both survive a restart."""
    instance = opener().start()
    io = instance.io
    assert io.set_term(io, 3) == 0
    assert io.set_vote(io, 2) == 0
    loaded = opener.load()
    assert (loaded.term, loaded.voted_for) == (3, 2)
    io = opener.instances[0].io
    assert io.set_term(io, 4) == 0
    loaded = opener.load()
    assert (loaded.term, loaded.voted_for) == (4, 0)


# ---- bootstrap and recover -------------------------------------------------------------------------------------------


@covers("bootstrap/pristine")
def test_bootstrap_writes_the_term_and_one_configuration_entry(data: Dir, opener: Opener) -> None:
    """Byte for byte as the C library does."""
    instance = opener().start()
    c = conf(1)
    c.servers[0].address = "127.0.0.1:9001"
    assert instance.io.bootstrap(instance.io, c) == 0
    assert data.read("metadata1") == words(1, 1, 1, 0)
    assert data.read("0000000000000001-0000000000000001").hex() == (
        "01000000000000002d99f986a326929901000000000000000100000000000000030000002800000001010000000000000001000000"
        "000000003132372e302e302e313a39303031000100000000000000"
    )
    loaded = opener.load()
    assert (loaded.rv, loaded.term, loaded.entries.terms, loaded.entries.types) == (0, 1, [1], [RAFT_CHANGE])


@covers("bootstrap/termIsNonZero")
def test_bootstrap_of_a_server_with_a_term_is_refused(opener: Opener) -> None:
    """A second bootstrap is refused so."""
    instance = opener().start()
    assert instance.io.bootstrap(instance.io, conf(1)) == 0
    assert instance.io.bootstrap(instance.io, conf(1)) == RAFT_CANTBOOTSTRAP
    assert instance.io.errmsg == "metadata contains term 1"


def test_a_bootstrap_that_is_refused_leaves_nothing_behind(data: Dir, opener: Opener) -> None:
    """It is refused for a configuration that is too big, and where a first segment exists (B20)."""
    instance = opener().start()
    large = conf(1)
    large.servers[0].address = "x" * BLOCK_SIZE
    assert instance.io.bootstrap(instance.io, large) == RAFT_TOOBIG
    assert data.names == []
    name = closed(data, 1, 1)
    assert instance.io.bootstrap(instance.io, conf(1)) == RAFT_CANTBOOTSTRAP
    assert name in instance.io.errmsg
    assert data.names == [name]


def with_damaged_segment(data: Dir) -> str:
    name = closed(data, 7, 2)
    data.resize(name, 0)
    return name


def with_marker(data: Dir) -> str:
    marker.marker_set(str(data), "why")
    return marker.NAME


@pytest.mark.parametrize(
    "make",
    [
        lambda data: closed(data, 7, 2),
        with_damaged_segment,
        lambda data: opened(data, 1, 7),
        lambda data: data.snapshot(2, 6),
        with_marker,
    ],
)
def test_a_directory_whose_metadata_was_lost_is_not_bootstrapped(
    data: Dir, opener: Opener, make: Callable[[Dir], str]
) -> None:
    """After a compaction there is no first segment, but there is a server's data; nothing is changed."""
    name = make(data)
    before = {file: data.read(file) for file in data.names}
    instance = opener()
    assert instance.init() == 0
    assert instance.io.bootstrap(instance.io, conf(1)) == RAFT_CANTBOOTSTRAP
    text = f"there is {name} but no term: metadata was lost, and votes with it"
    text += "; a new id helps where others are, raft_recover where none is"
    assert instance.io.errmsg == text
    assert {file: data.read(file) for file in data.names} == before


def test_a_directory_with_a_segment_that_cannot_be_read_is_not_bootstrapped(data: Dir, opener: Opener) -> None:
    """It may be a server's log."""
    (data.path / "open-1").mkdir()
    instance = opener()
    assert instance.init() == 0
    assert instance.io.bootstrap(instance.io, conf(1)) == RAFT_IOERR
    assert instance.io.errmsg.startswith("load open segment open-1: read file")
    assert data.names == ["open-1"]


def test_what_a_first_start_leaves_that_was_interrupted_is_no_log(data: Dir, opener: Opener) -> None:
    """Open segments that nothing was written to, tmp files, and metadata that were never complete."""
    data.open(1)
    data.write("open-2", b"")
    data.write("tmp-open-3", b"x")
    data.write("tmp-0000000000000001-0000000000000001", b"x")
    data.write("metadata1", bytes(10))
    instance = opener()
    assert instance.init() == 0
    assert instance.io.bootstrap(instance.io, conf(1)) == 0
    loaded = opener.load()
    assert (loaded.rv, loaded.term, loaded.entries.terms) == (0, 1, [1])


@pytest.mark.parametrize(
    "make", [lambda data: data.snapshot(7, 4), lambda data: data.closed(1, commands(1, 2, term=7))]
)
def test_metadata_older_than_log_or_snapshot_are_refused(data: Dir, opener: Opener, make: Callable[[Dir], str]) -> None:
    """Terms and votes were lost; in that term the server could vote twice, and lead over its own entries."""
    make(data)
    data.metadata(1, 5, 6, voted_for=1)
    loaded = opener.load(auto_recovery=True)
    assert loaded.rv == RAFT_CORRUPT
    assert loaded.errmsg == (
        "metadata has term 6 but the log ends in term 7: newer metadata was lost, and votes with it;"
        " a new id helps where others are, raft_recover where none is"
    )
    data.metadata(1, 5, 7, voted_for=1)
    assert opener.load().rv == 0


@covers("recover/newConfiguration")
def test_recover_appends_the_configuration(opener: Opener) -> None:
    """The entry has the highest term that the log or the metadata have (B2)."""
    instance = opener().start()
    io = instance.io
    assert io.bootstrap(io, conf(3)) == 0
    assert io.recover(io, conf(1)) == 0
    loaded = opener.load()
    assert (loaded.entries.terms, loaded.entries.types) == ([1, 1], [RAFT_CHANGE, RAFT_CHANGE])
    io = opener.instances[0].io
    assert io.set_term(io, 5) == 0
    assert io.recover(io, conf(2)) == 0
    loaded = opener.load()
    assert loaded.entries.terms == [1, 1, 5]
    assert configuration.decode(loaded.entries.bufs[2])[1].servers[1].role == RAFT_VOTER


def test_recover_takes_the_last_term_of_log_or_snapshot(data: Dir, opener: Opener) -> None:
    """They may be above that of the metadata, if newer ones were lost; these follow, without a vote."""
    data.metadata(1, 1, 2, voted_for=1)
    data.snapshot(7, 4)
    instance = opener()
    assert instance.init() == 0
    assert instance.io.recover(instance.io, conf(1)) == 0
    loaded = opener.load()
    assert (loaded.rv, loaded.term, loaded.voted_for) == (0, 7, 0)
    assert (loaded.start_index, loaded.entries.terms) == (5, [7])
    assert data.read("metadata2") == words(1, 2, 7, 0)


def test_a_recover_that_is_refused_leaves_everything_alone(data: Dir, opener: Opener) -> None:
    """The configuration is too big."""
    opened(data, 1, 1)
    large = conf(1)
    large.servers[0].address = "x" * BLOCK_SIZE
    instance = opener()
    assert instance.init() == 0
    assert instance.io.recover(instance.io, large) == RAFT_TOOBIG
    assert data.names == ["open-1"]
    assert len(data.read("open-1")) == SEGMENT_SIZE

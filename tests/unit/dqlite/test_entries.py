"""dqlite's log entries and snapshots: bytes both ways, and what is refused."""

import os
import sqlite3
from pathlib import Path

import pytest

from io_uv.dqlite import commands, image, words
from io_uv.dqlite.words import ParseError
from tests.lib.dqlite import database

PAGE = 4096


def frames(*numbers: int, file: str = "test.db", page_size: int = 512) -> bytes:
    """Return an entry with pages of these numbers, each filled with its number."""
    pages = b"".join(bytes([number % 256]) * page_size for number in numbers)
    return commands.Frames(file, page_size, numbers, memoryview(pages)).encode()


@pytest.mark.parametrize(
    "command",
    [
        commands.Open("test.db"),
        commands.Frames("test.db", 512, (1, 7, 1), memoryview(bytes(3 * 512))),
        commands.Undo(5),
        commands.Checkpoint("a"),
    ],
    ids=lambda command: type(command).__name__,
)
def test_commands_come_back(command: commands.Command) -> None:
    """Each entry, encoded and decoded, is itself."""
    assert commands.decode(command.encode()) == command


def test_a_page_is_an_entry_of_these_bytes() -> None:
    """dqlite 1.11.1 appends it so: 4144 bytes for one page of test.db, with garbage where nothing is said."""
    entry = commands.Frames("test.db", PAGE, (1,), memoryview(bytes(PAGE))).encode()
    assert len(entry) == 4144
    head = "0102000000000000 746573742e646200 0000000000000000 0000000001000000 0100000000100000 0100000000000000"
    assert entry[:48] == bytes.fromhex(head)
    spoilt = bytearray(entry)
    spoilt[2], spoilt[5], spoilt[29], spoilt[38] = 0x7F, 1, 1, 1
    assert commands.decode(spoilt) == commands.decode(entry)


GOOD = frames(1, 2)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "header of 8 bytes"),
        (b"\2" + GOOD[1:], "of format 2"),
        (b"\1\5" + GOOD[2:], "of type 5"),
        (b"\1\3" + bytes(6), "number of 8 bytes"),
        (GOOD[:8] + b"x" * 8, "no end"),
        (GOOD[:28] + b"\0" + GOOD[29:], "part of a transaction"),
        (GOOD[:36] + b"\x01\x02" + GOOD[38:], "pages of 513 bytes"),
        (GOOD[:36] + b"\0\0" + GOOD[38:], "pages of 0 bytes"),
        (GOOD[:-8], "2 pages of 512 bytes in 1032 bytes"),
        (GOOD + bytes(8), "2 pages of 512 bytes in 1048 bytes"),
        (frames(), "0 pages"),
        (GOOD[:40] + words.u64(0) + GOOD[48:], "page 0 of"),
        (GOOD[:40] + words.u64(1 << 63) + GOOD[48:], "page 9223372036854775808 of"),
    ],
)
def test_bad_commands_are_refused(data: bytes, what: str) -> None:
    """They raise nothing but ParseError, with a text that says what is wrong."""
    with pytest.raises(ParseError, match=what):
        commands.decode(data)


# Snapshots.


def snapshot(*databases: tuple[str, bytes, bytes]) -> bytes:
    """Return a snapshot of databases: name, main file, write-ahead log."""
    pieces = [image.header(len(databases))]
    for file, main, wal in databases:
        pieces += (words.text(file), words.u64(len(main)), words.u64(len(wal)), main, wal)
    return b"".join(pieces)


def test_databases_are_found_in_a_snapshot() -> None:
    """`header` and `entry` write what is in front of them."""
    one = database("create table t(a)")
    data = b"".join((image.header(2), image.entry("a", len(one)), one, image.entry("b.db", len(one)), one))
    assert data == snapshot(("a", one, b""), ("b.db", one, b""))
    found = image.decode(data)
    assert [(each.file, bytes(each.main), bytes(each.wal), each.page_size) for each in found] == [
        ("a", one, b"", PAGE),
        ("b.db", one, b"", PAGE),
    ]
    assert image.decode(image.header(0)) == []


MAIN = database("create table t(a)")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "number of 8 bytes"),
        (words.u64(2) + words.u64(0), "of format 2"),
        (words.u64(1) + b"\xff" * 8, "databases in 0 bytes"),
        (snapshot(("a", MAIN, b""), ("a", MAIN, b"")), "comes twice"),
        (snapshot(("a", MAIN, b"")) + bytes(8), "8 bytes behind"),
        (snapshot(("a", MAIN, b""))[:-8], "database 'a' of 8192 bytes"),
        (snapshot(("a", b"", b"")), "is empty"),
        (snapshot(("a", MAIN[:4096], b"")), "of 4096 bytes and 2 pages of 4096"),
        (snapshot(("a", bytes(4096), b"")), "not that of a database"),
        (snapshot(("a", MAIN[:16] + b"\0\1" + MAIN[18:], b"")), "pages of 1 bytes"),
        (snapshot(("a", b"", bytes(32))), "pages of 0 bytes"),
    ],
)
def test_bad_snapshots_are_refused(data: bytes, what: str) -> None:
    """They raise nothing but ParseError, with a text that says what is wrong."""
    with pytest.raises(ParseError, match=what):
        image.decode(data)


@pytest.fixture
def with_log(tmp_path: Path) -> tuple[bytes, bytes]:
    """The main file and the write-ahead log of a database with three transactions in the log."""
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma wal_autocheckpoint=0")
    connection.execute("create table t(a)")
    connection.execute("pragma wal_checkpoint(truncate)")
    for n in range(3):
        connection.execute("insert into t values(?)", (str(n) * 3000,))
    main, wal = (tmp_path / "x.db").read_bytes(), (tmp_path / "x.db-wal").read_bytes()
    connection.close()
    return main, wal


def test_frames_of_a_log_are_found(with_log: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Applied over the main file they give what SQLite itself makes of the two."""
    main, wal = with_log
    [one] = image.decode(snapshot(("x", *with_log)))
    content = bytearray(main)
    found = list(image.frames(one))
    for number, page, _ in found:
        content[(number - 1) * PAGE : number * PAGE] = page
    size = found[-1][2]
    path = tmp_path / "y.db"
    path.write_bytes(main)
    (tmp_path / "y.db-wal").write_bytes(wal)
    connection = sqlite3.connect(path)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    assert bytes(content[: size * PAGE]) == path.read_bytes()


def test_a_log_counts_up_to_its_last_whole_transaction(with_log: tuple[bytes, bytes]) -> None:
    """A log that is cut off anywhere, or spoilt, gives the transactions in front of that place."""
    main, wal = with_log
    [one] = image.decode(snapshot(("x", main, wal)))
    last_of = [number for number, _, _ in image.frames(one)]
    ends = range(32 + 24 + PAGE, len(wal) + 1, 24 + PAGE)
    commits = [frame for frame, end in enumerate(ends, 1) if wal[end - PAGE - 20 : end - PAGE - 16] != bytes(4)]
    assert len(commits) == 3
    for frame, end in enumerate(ends, 1):
        whole = max((commit for commit in commits if commit <= frame), default=0)
        [cut] = image.decode(snapshot(("x", main, wal[: end + 800 // 8 * 8])))
        spoilt = bytearray(wal)
        spoilt[min(end + 600, len(wal) - 1)] ^= 1
        [other] = image.decode(snapshot(("x", main, bytes(spoilt))))
        assert [number for number, _, _ in image.frames(cut)] == last_of[:whole]
        if end < len(wal):
            assert [number for number, _, _ in image.frames(other)] == last_of[:whole]
    [none] = image.decode(snapshot(("x", main, b"")))
    assert list(image.frames(none)) == []


@pytest.mark.parametrize(("at", "what"), [(0, "no header"), (8, "no header"), (16, "checksum"), (24, "checksum")])
def test_a_log_without_a_header_is_refused(with_log: tuple[bytes, bytes], at: int, what: str) -> None:
    """Its magic, its size of pages, its salts and its checksum are looked at."""
    main, wal = with_log
    spoilt = bytearray(wal)
    spoilt[at] ^= 255
    [one] = image.decode(snapshot(("x", main, bytes(spoilt))))
    with pytest.raises(ParseError, match=what):
        list(image.frames(one))
    with pytest.raises(ParseError, match="write-ahead log of 32 bytes"):
        list(image.frames(image.Database("x", memoryview(main), memoryview(os.urandom(20)), PAGE)))

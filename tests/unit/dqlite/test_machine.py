"""dqlite's state machine: its files hold what the leader's database holds, page by page; bad input changes nothing."""

import errno
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from io_uv import fs
from io_uv.dqlite import commands, flock, image, machine, pages, words
from io_uv.dqlite.machine import DqliteFsm
from io_uv.failure import Failure
from pyraft.errors import RAFT_BUSY, RAFT_CORRUPT, RAFT_MALFORMED, RAFT_NOSPACE
from tests.lib import lock_byte
from tests.lib.dqlite import PAGE, Source, database, taken

SEED = int(os.environ.get("DQLITE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)


@pytest.fixture
def fsm(tmp_path: Path) -> Iterator[DqliteFsm]:
    """A state machine with an empty folder."""
    made = DqliteFsm(str(tmp_path / "databases"))
    made.open()
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A leader's database."""
    (tmp_path / "leader").mkdir()
    made = Source(tmp_path / "leader")
    yield made
    made.close()


def feed(fsm: DqliteFsm, entries: list[bytes]) -> None:
    """Apply entries."""
    for entry in entries:
        assert fsm.apply(fsm, entry) == (0, None)


def content(fsm: DqliteFsm, name: str = "test.db") -> bytes:
    """Return the pages of a database."""
    one = fsm.databases[name]
    found = bytes(one.image())
    assert b"".join(map(one.page, range(1, one.n_pages + 1))) == found
    return found


def test_pages_are_the_leaders(fsm: DqliteFsm, source: Source) -> None:
    """They are after each transaction; VACUUM makes it smaller, and a checkpoint of the leader changes nothing."""
    seen: list[tuple[int, ...]] = []
    fsm.applied_cb = lambda frames: seen.append(frames.numbers)
    feed(fsm, source.run("create table t(a)"))
    feed(fsm, [commands.Open("test.db").encode(), commands.Undo(3).encode(), commands.Checkpoint("test.db").encode()])
    for n in range(40):
        feed(fsm, source.run(f"insert into t values(zeroblob({n * 700}))"))
        assert content(fsm) == source.content()
    grown = fsm.databases["test.db"].n_pages
    source.checkpoint()
    feed(fsm, source.run("delete from t where rowid > 3", "vacuum"))
    assert fsm.databases["test.db"].n_pages < grown / 10
    feed(fsm, source.run("insert into t values(1)"))
    assert content(fsm) == source.content() == Path(fsm.databases["test.db"].path).read_bytes()
    assert len(seen) == 44


def test_pages_are_the_leaders_whatever_comes_in_between(fsm: DqliteFsm, source: Source, tmp_path: Path) -> None:
    """Chance chooses: transactions, VACUUM, snapshots under way for a while, and snapshots into another node."""
    print(f"seed {SEED}: DQLITE_SEED={SEED} repeats this")
    rng = random.Random(SEED)
    feed(fsm, source.run("create table t(a)", "create index i on t(a)"))
    frozen: tuple[bytes, list[object]] | None = None
    for _ in range(150):
        kind = rng.randrange(12)
        if kind < 6:
            feed(fsm, source.run(f"insert into t values(hex(randomblob({rng.randrange(20000)})))"))
        elif kind < 8:
            feed(fsm, source.run("begin", "delete from t where random() % 3 = 0", "insert into t values(1)", "commit"))
        elif kind == 8:
            feed(fsm, source.run("vacuum"))
        elif kind == 9:
            source.checkpoint()
        elif frozen is None:
            rv, bufs = fsm.snapshot(fsm)
            assert rv == 0
            frozen = (source.content(), list(bufs))
        else:
            expected, bufs_ = frozen
            other = DqliteFsm(str(tmp_path / "other"))
            other.open()
            assert other.restore(other, b"".join(bytes(buf) for buf in bufs_)) == 0  # type: ignore[call-overload]
            assert content(other) == expected
            other.close()
            frozen = None
            bufs_.clear()
            fsm.snapshot_finalize(fsm, [])
            assert Path(fsm.databases["test.db"].path).read_bytes() == source.content()
        assert content(fsm) == source.content()


def test_a_snapshot_goes_into_another_node(fsm: DqliteFsm, source: Source, tmp_path: Path) -> None:
    """All databases, with odd names too; a file that a snapshot does not name is left alone."""
    feed(fsm, source.run("create table t(a)", "insert into t values(7)"))
    other_source = Source(tmp_path, "b")
    names = ["../../up", "a/b", ".", "..", "", "x" * 300, "ü", "%later", "A.DB"]
    [first, *_] = other_source.run("create table t(a)")
    frames = commands.decode(first)
    assert isinstance(frames, commands.Frames)
    for name in names:
        feed(fsm, [commands.Frames(name, PAGE, frames.numbers, frames.pages).encode()])
    data = taken(fsm)
    assert [one.file for one in image.decode(data)] == ["test.db", *names]
    other = DqliteFsm(str(tmp_path / "other"))
    other.open()
    kept = commands.Frames("kept", PAGE, frames.numbers, frames.pages)
    feed(other, [kept.encode()])
    assert other.restore(other, data) == 0
    assert other.restore(other, memoryview(data)) == 0
    assert set(other.databases) == {"test.db", "kept", *names}
    for name in names:
        assert content(other, name) == bytes(frames.pages)
    assert len(os.listdir(other.folder)) == len(names) + 2
    assert content(other) == source.content()
    assert taken(other).count(b"SQLite format 3") == len(names) + 2
    other.close()
    other_source.close()


def test_a_snapshot_with_a_write_ahead_log(fsm: DqliteFsm, source: Source) -> None:
    """dqlite up to 1.16 makes such: the main file, and transactions beyond it; the log may shrink the database."""
    source.run("create table t(a)", "insert into t values(zeroblob(100000))")
    source.checkpoint()
    source.run("delete from t", "vacuum", "insert into t values(2)")
    main, wal = source.path.read_bytes(), source.path.with_name("test.db-wal").read_bytes()
    entry = words.text("test.db") + words.u64(len(main)) + words.u64(len(wal))
    assert fsm.restore(fsm, image.header(1) + entry + main + wal) == 0
    assert content(fsm) == source.content()
    assert len(content(fsm)) < len(main)


def test_the_page_that_sqlite_never_uses_is_zeros(fsm: DqliteFsm, tmp_path: Path) -> None:
    """It is at 1 GiB, and a transaction goes past it; a snapshot of dqlite's has there what its memory had.

    Pages in the snapshot's main file and in its write-ahead log are in their places.
    """
    (tmp_path / "small").mkdir()
    with lock_byte.moved(4 * PAGE) as problem:
        if problem:
            pytest.skip(problem)
        source = Source(tmp_path / "small")
        feed(fsm, source.run("create table t(a)", "insert into t values(zeroblob(40000))"))
        source.checkpoint()
        main = source.content()
        assert main[4 * PAGE : 5 * PAGE] == bytes(PAGE)
        assert content(fsm) == main, "by transactions"
        feed(fsm, source.run("insert into t values(zeroblob(9000))"))
        wal = source.path.with_name("test.db-wal").read_bytes()
        other = DqliteFsm(str(tmp_path / "other"))
        other.open()
        dirty = main[: 4 * PAGE] + b"\x5a" * PAGE + main[5 * PAGE :]
        head = words.text("test.db") + words.u64(len(main)) + words.u64(len(wal))
        assert other.restore(other, image.header(1) + head + dirty + wal) == 0
        assert content(other) == content(fsm) == source.content()
        feed(fsm, source.run("delete from t", "vacuum"))
        assert other.restore(other, taken(fsm)) == 0
        assert content(other) == content(fsm) == source.content()
        assert len(content(fsm)) < 4 * PAGE
        other.close()
        source.close()


def test_an_earlier_process_leaves_nothing(fsm: DqliteFsm, source: Source) -> None:
    """The folder is emptied at the start: raft brings all of it again."""
    feed(fsm, source.run("create table t(a)"))
    again = DqliteFsm(fsm.folder)
    again.open()
    assert os.listdir(fsm.folder) == []
    assert taken(again) == image.header(0)


# Bad input.


def entry(*numbers: int, page_size: int = PAGE, first: bytes = b"", name: str = "test.db") -> bytes:
    """Return frames; page 1 is `first`, all others are zeros."""
    content = b"".join(first if number == 1 else bytes(page_size) for number in numbers)
    return commands.Frames(name, page_size, numbers, memoryview(content)).encode()


def page_1(n: int, page_size: int = PAGE) -> bytes:
    """Return a first page that names a size."""
    head = b"SQLite format 3\0" + page_size.to_bytes(2, "big") + b"\2\2" + bytes(8) + n.to_bytes(4, "big")
    return head + bytes(page_size - len(head))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "header of 8 bytes"),
        (entry(2, name="new"), "'new' begins without its first page"),
        (entry(1, first=bytes(PAGE), name="new"), "not that of a database"),
        (entry(1, first=page_1(0), name="new"), "names 0 pages"),
        (entry(1, first=page_1(4), name="new"), "names 4 pages"),
        (entry(1, first=page_1(1, 512) + bytes(PAGE - 512), name="new"), "names 1 pages of 512 bytes"),
        (entry(2, page_size=512), "pages of 512 bytes for 'test.db', which has 4096"),
        (entry(6), "page 6 for 'test.db', which has 2"),
        (entry((1 << 32) - 2), "page 4294967294 for"),
        (entry(3), "page 3 for 'test.db', whose first page says 2"),
    ],
)
def test_bad_transactions_change_nothing(
    fsm: DqliteFsm, source: Source, caplog: pytest.LogCaptureFixture, data: bytes, what: str
) -> None:
    """They are RAFT_MALFORMED, with the reason in the log, once."""
    feed(fsm, source.run("create table t(a)"))
    before = content(fsm)
    for _ in range(2):
        assert fsm.apply(fsm, data) == (RAFT_MALFORMED, None)
    assert content(fsm) == before
    assert list(fsm.databases) == ["test.db"]
    assert os.listdir(fsm.folder) == ["test.db"]
    [record] = caplog.records
    assert what in record.getMessage()


def test_bad_snapshots_change_nothing(fsm: DqliteFsm, source: Source, caplog: pytest.LogCaptureFixture) -> None:
    """RAFT_MALFORMED for one that does not decode, RAFT_CORRUPT for a database that SQLite finds unsound."""
    feed(fsm, source.run("create table t(a)"))
    before = content(fsm)
    good = database("create table t(a)", "create index i on t(a)", "insert into t values(1)")
    broken = bytearray(good)
    broken[PAGE + 8 : PAGE + 200] = b"\xff" * 192
    strange = good.replace(b"CREATE TABLE t", b"CRE\xd0\xc5E TABLE t")
    for bad, code, what in [
        (strange, RAFT_CORRUPT, "database 'x': "),
        (bytes(broken), RAFT_CORRUPT, "database 'x'"),
        (good[:-8], RAFT_MALFORMED, "database 'x' of"),
    ]:
        parts = [
            words.text(name) + words.u64(len(one)) + words.u64(0) + one for name, one in (("test.db", good), ("x", bad))
        ]
        for look in (fsm.check, lambda data: fsm.restore(fsm, data)):
            caplog.clear()
            fsm._told = ""
            assert look(image.header(2) + b"".join(parts)) == code
            assert what in caplog.text
            assert content(fsm) == before
            assert os.listdir(fsm.folder) == ["test.db"]


def test_what_a_thread_has_checked_is_only_put_in_its_place(
    fsm: DqliteFsm, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's check, and the writing, are done there. Of what is not put in force nothing stays."""
    feed(fsm, source.run("create table t(a)", "insert into t values(7)"))
    data, asked = taken(fsm), []
    fault_of = machine.fault_of

    def noted(path: str, check: str) -> str:
        asked.append(threading.get_ident())
        return fault_of(path, check)

    monkeypatch.setattr(machine, "fault_of", noted)
    other = DqliteFsm(str(tmp_path / "other"))
    other.open()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):  # the leader may send it again
            assert pool.submit(other.check, data).result() == 0
            assert (os.listdir(other.folder), other.databases) == (["test.db%fresh"], {})
        assert len(asked) == 2
        assert threading.get_ident() not in asked
        with monkeypatch.context() as patched:
            patched.setattr(pages, "write_at", None)
            assert other.restore(other, data) == 0
        assert len(asked) == 2
        assert content(other) == source.content()
        assert os.listdir(other.folder) == ["test.db"]
        assert pool.submit(other.check, data).result() == 0
        feed(fsm, source.run("insert into t values(8)"))
        assert other.restore(other, taken(fsm)) == 0  # another one, as at a start
        assert content(other) == source.content()
        assert os.listdir(other.folder) == ["test.db"]
        assert pool.submit(other.check, data).result() == 0
    other.close()
    assert os.listdir(other.folder) == ["test.db"]


def test_a_full_disk_is_tried_again(fsm: DqliteFsm, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAFT_NOSPACE from every write in turn; the same entry is applied later, and nothing is missing."""
    feed(fsm, source.run("create table t(a)"))
    pwrite, left = fs.pwrite, [0]

    def failing(fd: int, data: bytes, offset: int) -> int:
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "full")
        left[0] -= 1
        return pwrite(fd, data, offset)

    monkeypatch.setattr(fs, "pwrite", failing)
    for frozen in (False, True):
        [one] = source.run("insert into t values(zeroblob(50000))")
        if frozen:
            assert fsm.snapshot(fsm)[0] == 0
        for n in range(30):
            left[0] = n
            rv, _ = fsm.apply(fsm, one)
            assert rv in (0, RAFT_NOSPACE)
            if rv == 0:
                break
        assert n > 0
        left[0] = 0
        if frozen:
            assert fsm.snapshot_finalize(fsm, []) == RAFT_NOSPACE
        left[0] = 1000
        assert content(fsm) == source.content()
    assert taken(fsm).endswith(source.content())


def test_file_names() -> None:
    """Harmless names are files of that name; no other leads anywhere, and no two have one file."""
    names = [
        "test.db",
        "a_B-1.x",
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "/etc/passwd",
        "ü",
        "a%later",
        "%later",
        "x" * 101,
        "x" * 102,
    ]
    found = [pages.file_name(name) for name in names]
    assert found[:2] == names[:2]
    assert len(set(found)) == len(names)
    for name in found:
        assert 0 < len(name) <= 101
        assert "/" not in name
        assert name[0] != "."
        assert not name.endswith((pages.LATER, pages.FRESH))


def test_a_directory_is_one_nodes(tmp_path: Path) -> None:
    """dqlite's own lock says RAFT_BUSY while another has it; the file stays."""
    held = flock.hold(str(tmp_path))
    with pytest.raises(Failure, match="in use by another node of dqlite") as caught:
        flock.hold(str(tmp_path))
    assert caught.value.code == RAFT_BUSY
    held.release()
    held.release()
    flock.hold(str(tmp_path)).release()
    assert os.listdir(tmp_path) == ["dqlite-lock"]
    with pytest.raises(Failure, match="dqlite-lock: no such file"):
        flock.hold(str(tmp_path / "nowhere"))

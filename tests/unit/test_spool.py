"""Snapshots in files instead of memory: what is put in comes out, nothing has a name, and a full disk is an error."""

import errno
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, snapshot_file, spool
from io_uv.failure import Failure
from io_uv.recv import Reader
from io_uv.spool import Spool
from io_uv.state import Limits
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR, RAFT_NOSPACE, RAFT_TOOBIG
from pyraft.types import BytesLike, RaftMessage
from tests.lib import messages as m
from tests.lib.disk import snapshot
from tests.unit.test_recv_reader import Sink, configuration, entries, payload, wire

GRAIN = mmap.ALLOCATIONGRANULARITY
CONTENT = random.Random(7).randbytes(5 * GRAIN + 11)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a page, so that little is much."""
    monkeypatch.setattr(spool, "WINDOW", GRAIN)


def refused(call: Callable[..., Any], when: Callable[..., bool], code: int) -> Callable[..., Any]:
    """Return a call that fails at times."""

    def done(*args: Any) -> Any:
        if when(*args):
            raise OSError(code, os.strerror(code))
        return call(*args)

    return done


def no_nameless(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have the file system know no files without a name."""
    flagged = lambda path, flags, *mode: flags & os.O_TMPFILE == os.O_TMPFILE  # noqa: E731
    monkeypatch.setattr(fs, "open", refused(fs.open, flagged, code))


def filled(made: Spool, content: bytes) -> bytes | memoryview:
    """Put announced content into a spool, in pieces of several sizes; return what it gives."""
    made.begin(len(content))
    dice, at = random.Random(3), 0
    while made.room is not None:
        n = min(len(made.room), dice.randint(1, 3000))
        made.room[:n] = content[at : at + n]
        made.filled(n)
        at += n
    return made.take()


def test_little_stays_in_memory_and_much_does_not(tmp_path: Path) -> None:
    """The limit is the last size in memory; no name is left either way."""
    for size, is_mapped in ((0, False), (99, False), (100, False), (101, True), (len(CONTENT), True)):
        made = Spool(str(tmp_path), 100)
        for at in range(0, size, 7):
            made.write(CONTENT[at : min(at + 7, size)])
        assert made.written == size
        assert not os.listdir(tmp_path)
        found = made.take()
        assert bytes(found) == CONTENT[:size]
        assert spool.is_mapped(found) == is_mapped


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, 0])
def test_what_is_announced_is_filled_window_by_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It is where there are no files without a name, and none can be allocated, too."""
    if code:
        no_nameless(monkeypatch, code)
        monkeypatch.setattr(fs, "fallocate", refused(fs.fallocate, lambda *args: True, errno.EOPNOTSUPP))
    for size in (1, GRAIN, GRAIN + 1, 5 * GRAIN, len(CONTENT)):
        found = filled(Spool(str(tmp_path), 0), CONTENT[:size])
        assert found == CONTENT[:size]
        assert spool.is_mapped(found)
        assert not os.listdir(tmp_path)


def test_other_errors_of_the_disk_are_not_gone_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, before and in the middle; nothing is written where no place was given."""
    fallocate = fs.fallocate
    monkeypatch.setattr(fs, "fallocate", refused(fallocate, lambda fd, at, size: at > 0, errno.ENOSPC))
    with pytest.raises(Failure, match=rf"make room for {len(CONTENT)} bytes of a snapshot, of which {GRAIN}") as caught:
        filled(Spool(str(tmp_path), 0), CONTENT)
    assert caught.value.code == RAFT_NOSPACE
    monkeypatch.setattr(fs, "pwrite", refused(fs.pwrite, lambda fd, data, at: at > 50, errno.ENOSPC))
    made = Spool(str(tmp_path), 10)
    made.write(CONTENT[:100])
    with pytest.raises(Failure) as caught:
        made.write(CONTENT[:100])
    assert caught.value.code == RAFT_NOSPACE
    no_nameless(monkeypatch, errno.EIO)
    with pytest.raises(Failure, match="i/o error"):
        Spool(str(tmp_path), 0).begin(8)


def shared_bytes() -> int:
    """Return how much of files this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE


def test_what_is_forgotten_is_not_in_memory_and_comes_back(tmp_path: Path) -> None:
    """Forgetting what is in memory only does nothing."""
    size = 32 << 20
    made = Spool(str(tmp_path), 0)
    for _ in range(size >> 20):
        made.write(bytes(range(256)) * 4096)
    found = made.take()
    before = shared_bytes()
    assert sum(found[:: mmap.PAGESIZE]) == 0
    assert shared_bytes() - before > size // 2
    spool.forget(found[100:200])
    assert shared_bytes() - before < size // 4
    assert found[255] == 255
    spool.forget(b"abc")
    spool.forget(memoryview(b"abc"))
    assert b"".join(spool.windows(CONTENT, 100)) == CONTENT
    assert sum(map(len, spool.windows(found, 1 << 20))) == size
    assert shared_bytes() - before < size // 4


class Stream:
    """A stream that takes everything."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: list[bytes | memoryview], callback: Callable[[Any, int | None], object]) -> None:
        """Take it, and call back at once."""
        self.written.append(b"".join(data))
        callback(self, None)


def test_a_mapped_buffer_is_written_in_windows_behind_what_comes_before(tmp_path: Path) -> None:
    """The rest, which is not mapped, or small, is left to the caller with the last window."""
    made = Spool(str(tmp_path), 0)
    made.write(CONTENT)
    view = made.take()
    stream = Stream()
    left = spool.write_ahead(stream, [b"head", view, b"tail", view[:5]])
    assert b"".join(stream.written) + b"".join(left) == b"head" + CONTENT + b"tail" + CONTENT[:5]
    assert [len(one) for one in stream.written] == [GRAIN + 4, *[GRAIN] * 4]
    stream = Stream()
    assert spool.write_ahead(stream, [b"head", CONTENT]) == [b"head", CONTENT]
    assert not stream.written


# Messages.


class Filing(Sink):
    """A reader that puts large snapshots into files."""

    def __init__(self, dir: Path) -> None:
        super().__init__()
        limits = Limits()
        limits.mapped = 20 * GRAIN
        limits.payload = 24 * GRAIN
        limits.snapshot = 40 * GRAIN
        self.mapped: list[bool] = []
        self.reader = Reader(limits, self._take, str(dir))

    def _take(self, message: RaftMessage) -> None:
        self.delivered.append(wire(message))
        if message.install_snapshot is not None:
            self.mapped.append(spool.is_mapped(as_view(message.install_snapshot.data)))


def as_view(buf: BytesLike) -> memoryview:
    """Return a buffer as a memoryview."""
    return buf if isinstance(buf, memoryview) else memoryview(buf)


@pytest.mark.parametrize("piece", [1000, GRAIN, 65536, 1 << 22])
def test_large_snapshots_are_received_into_files(tmp_path: Path, piece: int) -> None:
    """However they come, with messages before, between and behind; the limit of entries is another one."""
    f = Filing(tmp_path)
    sizes = (20 * GRAIN - 8, 20 * GRAIN, 33 * GRAIN + 8, 21 * GRAIN)
    sent = [m.append_entries(2, 3, 1, 1, 1, entries(8, 16))]
    for size in sizes:
        sent += [m.install_snapshot(2, 3, 9, 2, configuration(), 1, payload(size)), m.timeout_now(2, 3, 1, 1)]
    f.put_in_pieces(b"".join(map(wire, sent)), piece)
    assert f.delivered == list(map(wire, sent))
    if piece < GRAIN:
        assert f.mapped == [False, True, True, True]
    assert not os.listdir(tmp_path)
    assert f.reader.missing is None
    with pytest.raises(Failure) as caught:
        f.put(wire(m.append_entries(2, 3, 1, 1, 1, entries(25 * GRAIN))))
    assert caught.value.code == RAFT_TOOBIG
    with pytest.raises(Failure) as caught:
        Filing(tmp_path).put(wire(m.install_snapshot(2, 3, 9, 2, configuration(), 1, payload(41 * GRAIN))))
    assert caught.value.code == RAFT_TOOBIG


def test_a_full_disk_ends_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does in the middle of a snapshot."""
    f = Filing(tmp_path)
    data = wire(m.install_snapshot(2, 3, 9, 2, configuration(), 1, payload(30 * GRAIN)))
    f.put(data[: GRAIN * 2])
    monkeypatch.setattr(fs, "fallocate", refused(fs.fallocate, lambda *args: True, errno.ENOSPC))
    with pytest.raises(Failure, match="InstallSnapshot at byte 0 of the stream: make room for") as caught:
        f.put(data[GRAIN * 2 :])
    assert caught.value.code == RAFT_NOSPACE
    assert not f.delivered


def test_an_ended_reader_lets_go_of_what_has_come(tmp_path: Path) -> None:
    """The file without a name is gone then, and its window."""
    before = set(os.listdir("/proc/self/fd"))
    f = Filing(tmp_path)
    f.put(wire(m.install_snapshot(2, 3, 9, 2, configuration(), 1, payload(30 * GRAIN)))[: GRAIN * 2])
    assert len(set(os.listdir("/proc/self/fd")) - before) == 2
    f.reader.end()
    assert set(os.listdir("/proc/self/fd")) == before


# Files.


@pytest.mark.parametrize("compressed", [True, False])
def test_large_snapshots_are_read_into_files(tmp_path: Path, compressed: bool) -> None:
    """They are from a size on; all that is damaged is found as ever."""
    info = snapshot_file.write(str(tmp_path), snapshot(3, 1, [CONTENT]), compressed, 1000)
    names = sorted(os.listdir(tmp_path))
    for mapped, expected in ((0, False), (len(CONTENT) + 1, False), (len(CONTENT), True), (1, True)):
        [buf] = snapshot_file.read(str(tmp_path), info, mapped).bufs
        assert bytes(buf) == CONTENT
        assert spool.is_mapped(as_view(buf)) == expected
        assert sorted(os.listdir(tmp_path)) == names
    path = tmp_path / info.data_name
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[: GRAIN * 2], whole[: GRAIN * 2] + b"x" + whole[GRAIN * 2 + 1 :]):
        path.write_bytes(damaged)
        said = []
        for mapped in (0, 1):
            with pytest.raises(Failure) as caught:
                snapshot_file.read(str(tmp_path), info, mapped)
            said.append((caught.value.code, caught.value.message))
        assert said[0] == said[1]
        assert said[0][0] == RAFT_CORRUPT


def test_a_disk_without_room_for_a_frame_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code says so: damage would be set aside."""
    info = snapshot_file.write(str(tmp_path), snapshot(3, 1, [CONTENT]), True, 1000)
    for code, expected in ((errno.ENOSPC, RAFT_NOSPACE), (errno.EIO, RAFT_IOERR)):
        with monkeypatch.context() as patched:
            patched.setattr(fs, "pwrite", refused(fs.pwrite, lambda *args: True, code))
            with pytest.raises(Failure) as caught:
                snapshot_file.read(str(tmp_path), info, 100)
        assert caught.value.code == expected

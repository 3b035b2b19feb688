"""A backup on its way out: parts in order, the last one again, nothing of its size in memory; and so on its way in."""

import asyncio
import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import listing, snapshot_file
from io_uv.failure import Failure
from pyraft.errors import RAFT_CORRUPT
from pyraft.node import Refused, backup
from pyraft.node.handout import Handout, InMemory, cut
from pyraft.types import RaftSnapshot
from tests.lib.disk import snapshot
from tests.lib.uvnode import free_addresses

MEGABYTE = 1 << 20
BLOCK = os.urandom(MEGABYTE)


def stored(dir: Path, bufs: list[bytes], compressed: bool) -> snapshot_file.Stored:
    """Return the newest snapshot of a directory, which has these data."""
    snapshot_file.write(os.fspath(dir), snapshot(7, 3, bufs), compressed, 1)
    return snapshot_file.Stored(os.fspath(dir), listing.list(os.fspath(dir))[0][-1])


def parts(found: Handout) -> Iterator[bytes]:
    """Yield all parts."""
    at = 0
    while at < found.size:
        part = found.piece(at)
        yield part
        at += len(part)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("bufs", [[b""], [b"x"], [b"abc", b"", b"defgh"], [BLOCK, BLOCK[:5]]], ids=len)
def test_all_parts_are_all_data(bufs: list[bytes], compressed: bool, tmp_path: Path) -> None:
    """The data are raw or compressed on disk; each part but the last has the size that was asked for."""
    found = Handout(1, stored(tmp_path, bufs, compressed), 300_000)
    found.measure()
    whole = b"".join(bufs)
    assert (found.size, found.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    for path in tmp_path.iterdir():
        path.unlink()  # a newer one has taken its place
    got = list(parts(found))
    assert b"".join(got) == whole
    assert {len(part) for part in got[:-1]} <= {300_000}
    assert found.piece(found.size) == b""
    found.close()


def test_parts_go_out_in_order(tmp_path: Path) -> None:
    """The last one may be asked for again; others, and any after the end, are refused."""
    found = Handout(1, InMemory(snapshot(7, 3, [b"abcdefgh"])), 3)
    found.measure()
    for offset in (3, -1, 9, 1 << 70):
        with pytest.raises(Refused, match="no part at"):
            found.piece(offset)
    assert [found.piece(0), found.piece(0), found.piece(3), found.piece(3)] == [b"abc", b"abc", b"def", b"def"]
    with pytest.raises(Refused, match="no part at 0"):
        found.piece(0)
    assert [found.piece(6), found.piece(8), found.piece(6)] == [b"gh", b"", b"gh"]
    found.close()
    with pytest.raises(Refused, match="not kept"):
        found.piece(6)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_snapshot_is_not_given_out(compressed: bool, tmp_path: Path) -> None:
    """The checksum of its file, or of the frame, tells before anything has gone out."""
    name = stored(tmp_path, [BLOCK], compressed).snapshot
    assert name.index == 7
    path = next(path for path in tmp_path.iterdir() if path.name.endswith("-1"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = Handout(1, snapshot_file.Stored(os.fspath(tmp_path), listing.list(os.fspath(tmp_path))[0][-1]), 100)
    with pytest.raises(Failure) as raised:
        found.measure()
    assert raised.value.code == RAFT_CORRUPT
    found.close()


class Slow(InMemory):
    """Data whose second part comes when it is let go."""

    def __init__(self, data: RaftSnapshot) -> None:
        super().__init__(data)
        self.reached, self.go, self.closed = threading.Event(), threading.Event(), 0

    def pieces(self) -> Iterator[bytes]:
        yield b"abc"
        self.reached.set()
        assert self.go.wait(120)
        yield b"def"

    def close(self) -> None:
        self.closed += 1


def test_closing_while_a_part_is_read(tmp_path: Path) -> None:
    """The loop does not wait for the disk, and the file is closed when the part has been read."""
    source = Slow(snapshot(7, 3))
    source.go.set()
    found = Handout(1, source, 3)
    found.measure()
    source.go.clear()
    source.reached.clear()
    assert found.piece(0) == b"abc"
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(found.piece(3)))
    thread.start()
    assert source.reached.wait(120)
    found.close()
    assert source.closed == 0
    source.go.set()
    thread.join()
    assert (got, source.closed) == ([b"def"], 1)


def test_cutting() -> None:
    """However the pieces come."""
    assert list(cut([], 3)) == []
    assert list(cut([b"", b"a", b"bcdefghijk", memoryview(b"l")], 4)) == [b"abcd", b"efgh", b"ijkl"]
    assert list(cut([b"abcde"], 4)) == [b"abcd", b"e"]


def peak(work: Any) -> int:
    """Return how many bytes Python's objects took at most, while `work()` ran."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True])
def test_nothing_of_its_size_is_in_memory_when_it_is_given_out(compressed: bool, tmp_path: Path) -> None:
    """48 MiB go out through less than 8."""
    source = stored(tmp_path, [BLOCK] * 48, compressed)

    def work() -> None:
        found = Handout(1, source, MEGABYTE)
        found.measure()
        assert sum(map(len, parts(found))) == 48 * MEGABYTE
        found.close()

    assert peak(work) < 8 * MEGABYTE


def test_nothing_of_its_size_is_in_memory_when_it_is_restored(tmp_path: Path) -> None:
    """48 MiB come in through less than 8, and are all there."""
    path = tmp_path / "big.backup"
    sum = hashlib.sha256(BLOCK * 48)
    head = {"cluster": "c", "machine": "m", "version": "1", "sha256": sum.hexdigest(), "format": backup.FORMAT}
    head |= {"index": 9, "term": 4, "taken": 1, "members": [], "size": 48 * MEGABYTE}  # type: ignore[dict-item]
    content = json.dumps(head).encode() + b"\n"
    whole = hashlib.sha256(content)
    with path.open("wb") as file:
        file.write(content)
        for _ in range(48):
            file.write(BLOCK)
            whole.update(BLOCK)
        file.write(whole.hexdigest().encode() + b"\n")
    dir = tmp_path / "new"

    def work() -> None:
        asyncio.run(backup.restore(path, dir, free_addresses(1)[1]))

    assert peak(work) < 8 * MEGABYTE
    info = listing.list(os.fspath(dir))[0][-1]
    read = snapshot_file.read(os.fspath(dir), info)
    assert (info.index, info.term, hashlib.sha256(read.bufs[0]).hexdigest()) == (9, 4, sum.hexdigest())

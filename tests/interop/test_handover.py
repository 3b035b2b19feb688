"""Data directories that a server of the other kind takes over."""

import random
import struct
import zlib
from itertools import pairwise
from typing import Any

import pytest

from tests.interop import formats
from tests.interop.driver import LEADER, Node, Status, Workshop, until

MIB = 1024 * 1024
SECTOR = 512
ENTRIES = 160


class History:
    """The commands that were submitted to a single server, in order, and the state after each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.states = [(0, 0, 0)]
        self.acknowledged = 0

    def payload(self) -> bytes:
        data = self.random.randbytes(8 * self.random.choice((1, 1, 8, 64, 511, 512, 513)))
        count, size, chain = self.states[-1]
        chain = (chain * 6364136223846793005 + zlib.crc32(data) + len(data)) % (1 << 64)
        self.states.append((count + 1, size + len(data), chain))
        return data

    def check(self, status: Status) -> None:
        """Nothing acknowledged is missing, and what is there is what was submitted, in order; the rest never was."""
        assert self.acknowledged <= status.count < len(self.states)
        assert (status.count, status.bytes, status.chain) == self.states[status.count]
        del self.states[status.count + 1 :]
        self.acknowledged = status.count


def lead(node: Node) -> Status:
    """Start a server that is alone, and wait until it leads and has applied what it has."""
    node.run()
    until(f"{node} to lead", lambda: node.status().state == LEADER)
    until(f"{node} to apply", lambda: (s := node.status()).applied == s.last)
    return node.status()


def load(node: Node, history: History, n: int) -> None:
    """Have n entries stored, up to 16 at a time so that some share a batch."""
    for _ in range(n // 16):
        numbers = [node.request("apply", history.payload().hex()) for _ in range(16)]
        assert [node.result(number)[0] for number in numbers] == [0] * 16
        history.acknowledged += 16


def kill_under_load(node: Node, history: History) -> None:
    """SIGKILL while entries are being written."""
    numbers = [node.request("apply", history.payload().hex()) for _ in range(64)]
    assert node.result(numbers[7])[0] == 0
    history.acknowledged += 8
    node.kill()


@pytest.mark.parametrize("segment", [8 * MIB, MIB // 16], ids=["8 MiB", "64 KiB"])
@pytest.mark.parametrize("compression", [1, 0], ids=["lz4", "raw"])
@pytest.mark.parametrize("end", ["clean stop", "SIGKILL"])
@pytest.mark.parametrize("kinds", [("c", "py", "c"), ("py", "c", "py")], ids=["C Python C", "Python C Python"])
def test_takes_over(workshop: Workshop, kinds: tuple[str, ...], end: str, compression: int, segment: int) -> None:
    """A directory goes from kind to kind; each loads what the last one wrote, appends, and takes snapshots."""
    settings: dict[str, Any] = {
        "threshold": 50,
        "trailing": 10,
        "blob": 5000,
        "segment": segment,
        "compression": compression,
    }
    history = History(seed=segment + compression)
    node = workshop.node(kinds[0], 1, **settings)
    node.open()
    node.bootstrap([node])
    node.quit()
    for kind, successor in pairwise([*kinds, ""]):
        node = workshop.heir(node, kind)
        history.check(lead(node))
        load(node, history, ENTRIES)
        until("a snapshot", lambda dir=node.dir: any(dir.glob("snapshot-*.meta")))
        if end == "SIGKILL" and successor:
            kill_under_load(node, history)
        else:
            history.check(node.status())
            node.quit()
            assert not [name for name in node.files() if name.startswith("open-")]


def torn(dirty: bytes, seed: int) -> dict[str, bytes]:
    """The remains of an interrupted write of one more batch: any of its 512-byte sectors, zeros for the others."""
    _, end = formats.batches(dirty)
    data = random.Random(seed).randbytes(4096)
    header = struct.pack("<QQB3xI", 1, 9, formats.COMMAND, len(data))
    batch = struct.pack("<II", formats.crc32(header), formats.crc32(data)) + header + data
    whole = (dirty[:end] + batch).ljust(len(dirty), b"\0")
    sectors = range(end // SECTOR, (end + len(batch) - 1) // SECTOR + 1)
    kept = {"none": set(), "the first": {sectors[0]}, "the last": {sectors[-1]}, "all but the last": {*sectors[:-1]}}
    kept["all but the first"] = {*sectors[1:]}
    kept["all but one in the middle"] = {*sectors} - {sectors[len(sectors) // 2]}
    return {name: _mixed(dirty, whole, numbers) for name, numbers in kept.items()}


def _mixed(old: bytes, new: bytes, sectors: set[int]) -> bytes:
    numbers = range(len(old) // SECTOR)
    return b"".join((new if i in sectors else old)[i * SECTOR : (i + 1) * SECTOR] for i in numbers)


def garbage(dirty: bytes) -> dict[str, bytes]:
    """Bytes that no interrupted write leaves, and that the C library takes for one all the same."""
    _, end = formats.batches(dirty)
    room = len(dirty) - end
    tails = {"noise": b"\x01\x02\x03" * 500, "an absurd count": b"\xff" * 16}
    return {name: dirty[:end] + tail.ljust(room, b"\0") for name, tail in tails.items()}


@pytest.mark.parametrize("reader", ["c", "py"])
@pytest.mark.parametrize("writer", ["c", "py"])
def test_reads_an_open_segment_with_a_torn_tail(workshop: Workshop, writer: str, reader: str) -> None:
    """An interrupted write may have left anything behind the last good batch: no acknowledged entry is lost."""
    history = History(seed=3)
    node = workshop.node(writer, 1, segment=4 * MIB)
    node.open()
    node.bootstrap([node])
    node.start()
    until("a leader", lambda: node.status().state == LEADER)
    load(node, history, 32)
    node.kill()
    (dirty,) = formats.open_segments(node.dir)
    content = dirty.read_bytes()
    tails = torn(content, seed=3)
    if "c" in (writer, reader):  # between two servers of ours this is damage, not a tear: see io_uv/open_segment.py
        tails |= garbage(content)
    for i, (name, torn_content) in enumerate(tails.items()):
        copy = workshop.copy(node, reader, f"copy {i}")
        (copy.dir / dirty.name).write_bytes(torn_content)
        status = lead(copy)
        assert (status.count, status.bytes, status.chain) == history.states[32], name
        copy.call("apply", "00" * 8)
        copy.quit()


def test_reads_a_segment_that_was_cut_short(workshop: Workshop) -> None:
    """Cut within its last batch, an open segment gives what is before it; the C library stops or crashes there."""
    history = History(seed=4)
    node = workshop.node("c", 1, segment=MIB)
    node.open()
    node.bootstrap([node])
    node.start()
    until("a leader", lambda: node.status().state == LEADER)
    for _ in range(4):
        node.call("apply", history.payload().hex())
    node.kill()
    (dirty,) = formats.open_segments(node.dir)
    content = dirty.read_bytes()
    _, end = formats.batches(content)
    for i, length in enumerate((end - 1, end - 9, end + 1, end + 15, 8, 7, 1)):
        copy = workshop.copy(node, "py", f"copy {i}")
        (copy.dir / dirty.name).write_bytes(content[:length])
        status = lead(copy)
        expected = 4 if length >= end else 3 if length > 8 else 0
        assert (status.count, status.bytes, status.chain) == history.states[expected], length
        copy.quit()


@pytest.mark.parametrize("kind", ["c", "py"])
def test_recovers_a_cluster_that_lost_its_majority(workshop: Workshop, kind: str) -> None:
    """A directory of a three-server cluster, of either kind, is recovered by this project to a cluster of one."""
    node = workshop.node(kind, 1)
    others = [workshop.node(kind, id) for id in (2, 3)]
    node.open()
    node.bootstrap([node, *others])
    node.start()
    node.kill()
    survivor = workshop.heir(node, "py")
    survivor.open()
    survivor.recover([survivor])
    survivor.quit()
    status = lead(survivor)
    assert status.configuration == {1: 1}
    survivor.call("apply", "00" * 8)
    survivor.quit()

"""Sick disks that are real: small file systems that fill up, are cut off or turn read-only under a running server.

They need the right to mount (root), mkfs (packages e2fsprogs, xfsprogs, btrfs-progs) and a kernel that knows the file
system; without it these tests skip and say which of these is missing.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from io_uv.pyuv import Loop
from pyraft import RAFT_LEADER, errors
from tests.lib.uvnode import Node, free_addresses, leader_of, settled, unsettle
from tests.lib.uvtest import UvIo, numbers, run_until

MIB = 1024 * 1024

FS_IOC_SHUTDOWN = 0x8004587D
"""Cuts a file system off as a power cut would (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN)."""
NO_LOG_FLUSH = 2

Mount = Callable[[str, int], Path]


class CommandFailed(Exception):
    """A command that failed, with what it wrote to standard error."""


def run(*command: str) -> None:
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {result.stderr.strip()}")


class Mounts:
    """File systems that a test has mounted."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.mounted: list[Path] = []

    def __call__(self, kind: str, size: int) -> Path:
        """Mount a fresh file system of a kind and size; skip the test if that cannot be done."""
        point = self.dir / f"mount{len(self.mounted)}"
        point.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        try:
            if kind == "tmpfs":
                run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(point))
            else:
                if shutil.which(f"mkfs.{kind}") is None:
                    pytest.skip(f"mkfs.{kind} is missing")
                image = point.with_suffix(".img")
                with image.open("wb") as file:
                    file.truncate(size)
                run(f"mkfs.{kind}", "-q", str(image))
                run("mount", "-t", kind, "-o", "loop", str(image), str(point))
        except CommandFailed as exc:
            known = f"\t{kind}\n" in Path("/proc/filesystems").read_text()
            pytest.skip(f"cannot mount {kind}, which the kernel {'knows' if known else 'does not know'}: {exc}")
        self.mounted.append(point)
        data = point / "data"
        data.mkdir()
        return data

    def again(self, kind: str, data: Path) -> Path:
        """Return the directory of a mount of what the disk holds now: what a reboot finds.

        The image is copied. To unmount it and mount it again is not enough: whoever made a mount namespace meanwhile
        (`ip netns exec` does) keeps the file system, cut off as it is, and a second mount shows the same again.
        """
        image, point = data.parent.with_suffix(".img"), self.dir / f"mount{len(self.mounted)}"
        point.mkdir()
        run("cp", "--sparse=always", str(image), str(point.with_suffix(".img")))
        options = "loop,nouuid" if kind == "xfs" else "loop"
        run("mount", "-t", kind, "-o", options, str(point.with_suffix(".img")), str(point))
        self.mounted.append(point)
        return point / data.name

    def close(self) -> None:
        for point in self.mounted:
            run("umount", "--lazy", str(point))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounts]:
    mounts = Mounts(tmp_path)
    yield mounts
    mounts.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def fill(data: Path) -> Path:
    """Take all space that is left with one file, and return it."""
    path = data.parent / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 512):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


# The smallest images that mkfs makes of these, or not much larger.
SIZES = {"tmpfs": 2 * MIB, "ext4": 24 * MIB, "xfs": 310 * MIB, "btrfs": 120 * MIB}
KINDS = pytest.mark.parametrize(("kind", "size"), SIZES.items(), ids=list(SIZES))


@KINDS
def test_all_file_systems(mount: Mounts, kind: str, size: int) -> None:
    """Appends, truncates and snapshots work whatever the file system offers."""
    t = UvIo(mount(kind, size)).start()
    for _ in range(10):
        t.append(1, 4096)
    t.truncate(8)
    t.append(2)
    t.wait(t.put(3, trailing=1))
    fresh = t.reopen()
    assert fresh.loaded[3].index == 3
    assert numbers(fresh.loaded[5])[-3:] == [7, 12, 13] or numbers(fresh.loaded[5])[-3:] == [7, 11, 12]
    fresh.close()


@KINDS
def test_full(mount: Mounts, kind: str, size: int) -> None:
    """On a full disk appends fail with RAFT_NOSPACE, at the latest when the prepared segments are used up.

    XFS needs some blocks to close a segment, and btrfs, which copies on write, for every write. With space appends go
    on by themselves, and exactly the acknowledged ones are there.
    """
    t = UvIo(mount(kind, size)).start()
    t.uv.disk_retry_delay = 20
    t.append()
    t.wait_for("open-2", "open-3")
    filler = fill(t.dir)
    statuses: list[int] = []
    for _ in range(60):
        outcome = t.submit(1, 4096)
        t.wait(outcome)
        statuses += outcome.statuses
    assert set(statuses) == {0, errors.RAFT_NOSPACE}
    good = statuses.index(errors.RAFT_NOSPACE)
    if kind != "btrfs":
        assert set(statuses[good:]) == {errors.RAFT_NOSPACE}, "what was prepared is used up first"
        assert good >= 3, "the segment in use is used up"
    assert set(statuses[-20:]) == {errors.RAFT_NOSPACE}
    text = "removexattr: no space left on device" if kind == "xfs" else "not enough space to allocate"
    assert text in t.io.errmsg
    crashed = [name for name in t.names() if name.startswith("open-")]
    assert len(crashed) <= 3
    filler.unlink()
    run_until(t.loop, lambda: not t.uv.retries)
    t.append()
    fresh = t.reopen()
    acknowledged = [number for number, status in enumerate(statuses, 2) if status == 0]
    assert numbers(fresh.loaded[5]) == [1, *acknowledged, 62]
    fresh.close()


@KINDS
def test_start_on_a_full_disk(mount: Mounts, kind: str, size: int) -> None:
    """A server does not start on a full disk: probing says RAFT_NOSPACE; with space it starts with all its entries."""
    t = UvIo(mount(kind, size)).start()
    for _ in range(5):
        t.append(1, 4096)
    t.close()
    filler = fill(t.dir)
    full = UvIo(t.dir)
    assert full.init() == errors.RAFT_NOSPACE
    text = "open: no space left on device" if kind == "xfs" else "not enough space to allocate 4096 bytes"
    assert full.io.errmsg == f"create I/O capabilities probe file: {text}, in directory '{t.dir}'"
    full.begin_close()
    full.loop.close()
    filler.unlink()
    fresh = UvIo(t.dir).start()
    assert numbers(fresh.loaded[5]) == [1, 2, 3, 4, 5]
    fresh.close()


def test_cluster_with_a_full_disk(mount: Mounts, tmp_path: Path, loop: Loop) -> None:
    """The leader's disk fills up: it hands over, the others go on, and it catches up when there is space again."""
    members = free_addresses(3)
    dirs = {id: mount("ext4", 24 * MIB) for id in members}
    nodes = [Node(dirs[id], id, members, loop).start() for id in members]
    first = settled(nodes)
    assert first.try_apply(1) == 0
    unsettle(nodes)
    filler = fill(first.dir)
    number = 1
    while first.state == RAFT_LEADER:
        number += 1
        status = first.try_apply(number, 8000)
        assert status in (0, errors.RAFT_NOSPACE, errors.RAFT_LEADERSHIPLOST)
    run_until(loop, lambda: leader_of(nodes) not in (None, first))
    for number in range(1000, 1005):
        run_until(loop, lambda: leader_of(nodes) not in (None, first))
        leader = leader_of(nodes)
        assert leader is not None
        leader.try_apply(number, 8000)
    filler.unlink()
    settled(nodes)
    run_until(loop, lambda: all(node.fsm.numbers == nodes[0].fsm.numbers for node in nodes))
    assert 1 in first.fsm.numbers
    for node in nodes:
        node.close()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_cut_off(mount: Mounts, kind: str) -> None:
    """The file system is cut off under load as by a power cut: appends fail, all acknowledged entries are there."""
    data = mount(kind, SIZES[kind])
    t = UvIo(data).start()
    for _ in range(30):
        t.append(1, 1000)
    acknowledged = 30
    outcomes = [t.submit(1, 1000) for _ in range(3)]
    fd = os.open(data, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("<I", NO_LOG_FLUSH))
    except OSError as exc:
        t.close()
        pytest.skip(f"{kind} cannot be cut off: {exc}")
    finally:
        os.close(fd)
    t.wait(*outcomes)
    for outcome in outcomes:
        acknowledged += outcome.statuses == [0]
    for _ in range(3):
        failed = t.submit()
        t.wait(failed)
        assert failed.statuses == [errors.RAFT_IOERR], t.io.errmsg
    assert t.io.set_term(t.io, 7) == errors.RAFT_IOERR, t.io.errmsg
    t.close()
    fresh = UvIo(mount.again(kind, data)).start()
    found = numbers(fresh.loaded[5])
    assert found[:acknowledged] == list(range(1, acknowledged + 1)), [o.statuses for o in outcomes]
    assert len(found) <= 33, found
    fresh.append()
    fresh.close()


def test_read_only(mount: Mounts) -> None:
    """A file system that turns read-only: appends fail with RAFT_IOERR; writable again they succeed by themselves."""
    data = mount("ext4", 24 * MIB)
    t = UvIo(data).start()
    t.uv.disk_retry_delay = 20
    t.close()
    t = UvIo(data).start()
    t.uv.disk_retry_delay = 20
    run("mount", "-o", "remount,ro", str(data.parent))
    for _ in range(2):
        outcome = t.submit()
        t.wait(outcome)
        assert outcome.statuses == [errors.RAFT_IOERR]
    assert "read-only file system" in t.io.errmsg
    assert t.io.set_term(t.io, 2) == errors.RAFT_IOERR
    run("mount", "-o", "remount,rw", str(data.parent))
    run_until(t.loop, lambda: t.uv.prepare_failure is None)
    t.append()
    fresh = t.reopen()
    assert numbers(fresh.loaded[5]) == [3]
    fresh.close()

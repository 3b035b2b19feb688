"""Probing the file system: its findings, and the meaning of each failure."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, kaio, probe
from io_uv.failure import Failure
from io_uv.refusal import AIO, DIRECT, EVENTFD, FSTATFS, REFUSED, STATX, XATTR, Refusals
from pyraft import heap
from pyraft.errors import RAFT_IOERR, RAFT_NOMEM, RAFT_NOSPACE
from tests.lib.covers import covers
from tests.lib.threads import open_fds


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def fail(monkeypatch: pytest.MonkeyPatch, name: str, code: int, when: Any = lambda *args: True) -> None:
    """Make a call of fs fail."""
    original = getattr(fs, name)

    def call(*args: Any) -> Any:
        if when(*args):
            raise error(code)
        return original(*args)

    monkeypatch.setattr(fs, name, call)


@covers("UvFsProbeCapabilities/aio")
def test_a_real_disk_has_direct_and_asynchronous_writes(tmp_path: Path) -> None:
    """On ext4 and XFS in blocks of 4096; the probe files are gone."""
    fd = os.open(tmp_path, os.O_RDONLY)
    kind = fs.file_system(fd)
    os.close(fd)
    if kind not in (0xEF53, 0x58465342):
        pytest.skip(f"needs ext4 or XFS, {tmp_path} has type {kind:x}")
    Path(tmp_path, ".probe").write_bytes(b"left over")
    Path(tmp_path, ".probe_fallocate").write_bytes(b"left over")
    before = open_fds()
    found = probe.probe(str(tmp_path))
    assert (found.direct_io, found.async_io, found.fallocate) == (4096, True, True)
    assert (found.copy_on_write, found.in_memory) == (False, False)
    assert os.listdir(tmp_path) == []
    assert open_fds() <= before


@covers("UvFsProbeCapabilities/tmpfs")
def test_tmpfs_has_no_direct_writes(tmp_path: Path) -> None:
    """Old kernels refuse O_DIRECT there, new ones accept it."""
    shm = Path("/dev/shm")
    fd = os.open(shm, os.O_RDONLY)
    kind = fs.file_system(fd)
    os.close(fd)
    if kind != 0x01021994 or not os.access(shm, os.W_OK):
        pytest.skip("needs a writable tmpfs on /dev/shm")
    directory = shm / f"probe-{os.getpid()}"
    directory.mkdir()
    try:
        found = probe.probe(str(directory))
        assert (found.async_io, found.fallocate, found.in_memory) == (False, True, True)
        assert os.listdir(directory) == []
    finally:
        directory.rmdir()


@pytest.mark.parametrize("kind", [0x01021994, 0x2FC12FC1, 0x24051905])
@covers("UvFsProbeCapabilities/zfsDirectIO")
def test_file_systems_that_are_known_to_lack_direct_writes_are_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """tmpfs, ZFS and UBIFS answer O_DIRECT with EINVAL."""
    fail(monkeypatch, "set_direct", errno.EINVAL)
    monkeypatch.setattr(fs, "file_system", lambda fd: kind)
    found = probe.probe(str(tmp_path))
    assert (found.direct_io, found.async_io) == (0, False)


@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("name", ["set_direct", "write"])
def test_where_direct_writes_are_refused_they_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    """The flag or the first write with it, by whatever file system or sandbox (in C most of them prevent the start)."""
    fail(monkeypatch, name, code)
    monkeypatch.setattr(fs, "file_system", lambda fd: 0x137F)
    refusals = Refusals(str(tmp_path))
    found = probe.probe(str(tmp_path), refusals)
    assert (found.direct_io, found.async_io) == (0, False)
    assert DIRECT in refusals


def test_another_error_of_the_flag_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is sick."""
    fail(monkeypatch, "set_direct", errno.EIO)
    with pytest.raises(Failure) as caught:
        probe.probe(str(tmp_path))
    assert (caught.value.code, caught.value.message) == (
        RAFT_IOERR,
        f"probe Direct I/O: fcntl: i/o error, in directory '{tmp_path}'",
    )


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_file_system_that_is_not_told_is_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It is neither in memory nor one that copies on write."""
    fail(monkeypatch, "file_system", code)
    refusals = Refusals(str(tmp_path))
    found = probe.probe(str(tmp_path), refusals)
    assert (found.copy_on_write, found.in_memory) == (False, False)
    assert FSTATFS in refusals
    with monkeypatch.context() as patch:
        fail(patch, "file_system", errno.EIO)
        with pytest.raises(Failure, match="probe Direct I/O: fstatfs: i/o error"):
            probe.probe(str(tmp_path))


@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("name", ["setxattr", "getxattr", "removexattr"])
def test_attributes_are_used_if_they_can_be_made_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str
) -> None:
    """A note that could not be removed again would have a segment taken for damaged."""
    fail(monkeypatch, name, code)
    refusals = Refusals(str(tmp_path))
    probe.probe(str(tmp_path), refusals)
    assert XATTR in refusals
    assert refusals.never_noted


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_statx_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """It is called after each write."""
    fail(monkeypatch, "links", code)
    refusals = Refusals(str(tmp_path))
    probe.probe(str(tmp_path), refusals)
    assert STATX in refusals


@pytest.mark.parametrize(("codes", "expected"), [((errno.EIO,), 2048), ((errno.EIO, errno.EOPNOTSUPP), 1024)])
def test_smaller_blocks_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: tuple[int, ...], expected: int
) -> None:
    """They are after EIO and EOPNOTSUPP only."""
    left = list(codes)
    refusals = Refusals(str(tmp_path))

    def write(fd: int, data: Any) -> int:
        if left:
            raise error(left.pop(0))
        return len(data)

    monkeypatch.setattr(fs, "write", write)
    assert probe.probe(str(tmp_path), refusals).direct_io == expected
    assert DIRECT not in refusals


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_no_block_size_that_works_means_no_direct_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The answer is EINVAL at 4096 (an overlay that lies about O_DIRECT), or at each of the sizes."""
    fail(monkeypatch, "write", code)
    found = probe.probe(str(tmp_path))
    assert (found.direct_io, found.async_io) == (0, False)


def test_another_error_of_the_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is sick."""
    fail(monkeypatch, "write", errno.ENODEV)
    with pytest.raises(Failure) as caught:
        probe.probe(str(tmp_path))
    assert caught.value.message == f"probe Direct I/O: write: no such device, in directory '{tmp_path}'"


@covers("UvFsProbeCapabilities/noAccess")
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says what was tried."""
    fail(monkeypatch, "open", errno.EACCES)
    with pytest.raises(Failure) as caught:
        probe.probe(str(tmp_path))
    assert (caught.value.code, caught.value.message) == (
        RAFT_IOERR,
        f"create I/O capabilities probe file: open: permission denied, in directory '{tmp_path}'",
    )


@covers("UvFsProbeCapabilities/noSpace", "init/noSpace")
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is RAFT_NOSPACE; without fallocate it is the write of the emulation that fails."""
    fail(monkeypatch, "fallocate", errno.ENOSPC)
    fail(monkeypatch, "pwrite", errno.ENOSPC)
    with pytest.raises(Failure) as caught:
        probe.probe(str(tmp_path))
    assert (caught.value.code, caught.value.message) == (
        RAFT_NOSPACE,
        f"create I/O capabilities probe file: not enough space to allocate 4096 bytes, in directory '{tmp_path}'",
    )
    assert os.listdir(tmp_path) == []


def test_a_failing_fallocate_is_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason does not matter."""
    fail(monkeypatch, "fallocate", errno.EOPNOTSUPP)
    assert probe.probe(str(tmp_path)).fallocate is False


@covers("UvFsProbeCapabilities/noResources")
@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("call", ["io_setup", "eventfd"])
def test_without_asynchronous_contexts_the_thread_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    """In C that prevents the start, also with EAGAIN, that is when fs.aio-max-nr is used up."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")

    def exhausted(n: int) -> None:
        raise OSError(code, os.strerror(code), call)

    monkeypatch.setattr(kaio, "Context", exhausted)
    refusals = Refusals(str(tmp_path))
    found = probe.probe(str(tmp_path), refusals)
    assert (found.direct_io > 0, found.async_io) == (True, False)
    assert AIO in refusals
    assert (EVENTFD in refusals) == (call == "eventfd")


def test_another_error_of_the_context_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors are left, say."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")

    def exhausted(n: int) -> None:
        raise OSError(errno.EMFILE, "", "eventfd")

    monkeypatch.setattr(kaio, "Context", exhausted)
    with pytest.raises(Failure) as caught:
        probe.probe(str(tmp_path))
    assert (caught.value.code, caught.value.message) == (
        RAFT_IOERR,
        f"probe Async I/O: eventfd: too many open files, in directory '{tmp_path}'",
    )


class FakeContext:
    """A kaio.Context whose one write ends as told."""

    submit_error = 0
    result = 0
    reap_error = 0
    told = 1

    def __init__(self, n: int) -> None:
        self._fd = os.eventfd(self.told)

    def fileno(self) -> int:
        return self._fd

    def submit(self, *args: Any, **options: Any) -> None:
        assert options == {"nowait": True, "dsync": True}
        if self.submit_error:
            raise error(self.submit_error)

    def reap(self) -> list[tuple[int, int]]:
        if self.reap_error:
            raise OSError(self.reap_error, "", "io_getevents")
        return [(0, self.result)]

    def close(self) -> None:
        os.close(self._fd)


@pytest.mark.parametrize(
    ("submit_error", "result", "expected"),
    [
        (0, 4096, True),
        (0, -errno.EAGAIN, True),
        (0, -errno.EIO, False),
        *((code, 0, False) for code in sorted(REFUSED)),
        *((0, -code, False) for code in sorted(REFUSED - {errno.EAGAIN})),
    ],
)
def test_a_write_that_would_have_blocked_counts_as_asynchronous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submit_error: int, result: int, expected: bool
) -> None:
    """Other failures do not."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")
    monkeypatch.setattr(FakeContext, "submit_error", submit_error)
    monkeypatch.setattr(FakeContext, "result", result)
    monkeypatch.setattr(kaio, "Context", FakeContext)
    refusals = Refusals(str(tmp_path))
    assert probe.probe(str(tmp_path), refusals).async_io is expected
    assert (AIO in refusals) is not expected


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_results_that_cannot_be_had_are_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """io_getevents is refused, or poll(2) is."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")
    monkeypatch.setattr(FakeContext, "reap_error", code)
    monkeypatch.setattr(kaio, "Context", FakeContext)
    refusals = Refusals(str(tmp_path))
    assert probe.probe(str(tmp_path), refusals).async_io is False
    assert AIO in refusals


def test_completions_that_nobody_is_told_of_are_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that plays Linux may forget about the eventfd: the loop would wait for ever."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")
    monkeypatch.setattr(probe, "_UNTOLD_MSECS", 1)
    monkeypatch.setattr(FakeContext, "told", 0)
    monkeypatch.setattr(FakeContext, "result", 4096)
    monkeypatch.setattr(kaio, "Context", FakeContext)
    refusals = Refusals(str(tmp_path))
    assert probe.probe(str(tmp_path), refusals).async_io is False
    assert AIO in refusals


def test_another_error_at_submission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOMEM, say."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")
    monkeypatch.setattr(FakeContext, "submit_error", errno.ENOMEM)
    monkeypatch.setattr(kaio, "Context", FakeContext)
    with pytest.raises(Failure) as caught:
        probe.probe(str(tmp_path))
    assert caught.value.message == f"probe Async I/O: io_submit: not enough memory, in directory '{tmp_path}'"


@pytest.mark.parametrize(("works", "prefix"), [(0, "probe Direct I/O"), (1, "probe Async I/O")])
def test_no_memory_for_the_write_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: int, prefix: str
) -> None:
    """The heap of raft_heap_set serves it."""
    if probe.probe(str(tmp_path)).direct_io == 0:
        pytest.skip("needs direct I/O")
    left = [works]
    faulty = heap.RaftHeap()
    original = faulty.aligned_alloc

    def alloc(data: Any, alignment: int, size: int) -> Any:
        left[0] -= 1
        return original(data, alignment, size) if left[0] >= 0 else None

    faulty.aligned_alloc = alloc
    heap.raft_heap_set(faulty)
    try:
        with pytest.raises(Failure) as caught:
            probe.probe(str(tmp_path))
    finally:
        heap.raft_heap_set_default()
    assert (caught.value.code, caught.value.message) == (RAFT_NOMEM, f"{prefix}: out of memory")


def test_the_context_is_kept_for_who_asks_for_it(tmp_path: Path) -> None:
    """It has nothing under way, and takes writes; nobody else gets one."""
    before = open_fds()
    found = probe.probe(str(tmp_path), keep=True)
    if not found.async_io:
        pytest.skip("needs asynchronous writes")
    context = found.context
    assert context is not None
    assert (context.inflight, context.reap()) == (0, [])
    assert open_fds() > before
    context.close()
    assert probe.probe(str(tmp_path)).context is None
    assert open_fds() == before

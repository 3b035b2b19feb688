"""Linux AIO through system calls."""

import errno
import mmap
import os
import platform
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import kaio
from tests.lib.covers import covers
from tests.lib.threads import open_fds

BLOCK = 4096


@pytest.fixture(params=["shared ring", "io_getevents"])
def context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[kaio.Context]:
    if request.param == "io_getevents":
        monkeypatch.setattr(kaio, "_RING_MAGIC", 0)
    context = kaio.Context(2)
    assert (context._ring is None) == (request.param == "io_getevents" or platform.machine() != "x86_64")
    yield context
    context.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, 4 * BLOCK)
    yield fd
    os.close(fd)


def block(fill: bytes) -> memoryview:
    memory = memoryview(mmap.mmap(-1, BLOCK))
    memory[:] = fill * BLOCK
    return memory


def wait(context: kaio.Context) -> list[tuple[int, int]]:
    ready, _, _ = select.select([context.fileno()], [], [], 120)
    assert ready == [context.fileno()]
    return context.reap()


def test_write(context: kaio.Context, fd: int) -> None:
    """A completed write reports its tag and length, and the bytes are in the file."""
    context.submit(fd, block(b"a"), BLOCK, BLOCK, nowait=False, tag=7)
    assert context.inflight == 1
    assert wait(context) == [(7, BLOCK)]
    assert context.inflight == 0
    assert os.pread(fd, 2 * BLOCK, 0) == bytes(BLOCK) + b"a" * BLOCK


def test_slots_are_reused(context: kaio.Context, fd: int) -> None:
    """Many more writes than slots, and than the kernel's ring has events, go through one context, several at a time."""
    buffers = [block(b"a"), block(b"b")]
    for _ in range(300):
        done: list[tuple[int, int]] = []
        for tag, buffer in enumerate(buffers):
            context.submit(fd, kaio.address_of(buffer), BLOCK, tag * BLOCK, nowait=False, tag=tag)
        while len(done) < 2:
            done += wait(context)
        assert sorted(done) == [(0, BLOCK), (1, BLOCK)]
    assert os.pread(fd, 2 * BLOCK, 0) == b"a" * BLOCK + b"b" * BLOCK


def test_bad_descriptor(context: kaio.Context) -> None:
    """A submission that the kernel refuses raises OSError and takes no slot."""
    with pytest.raises(OSError) as info:
        context.submit(-1, block(b"a"), BLOCK, 0)
    assert info.value.errno == errno.EBADF
    assert context.inflight == 0


def test_reap_without_completion(context: kaio.Context) -> None:
    """Asking when nothing has completed returns nothing and does not wait."""
    assert context.reap() == []


def test_read_only_descriptor(context: kaio.Context, tmp_path: Path) -> None:
    """Writing through a descriptor that is open for reading only fails."""
    (tmp_path / "ro").write_bytes(bytes(BLOCK))
    fd = os.open(tmp_path / "ro", os.O_RDONLY)
    with pytest.raises(OSError) as info:
        context.submit(fd, block(b"a"), BLOCK, 0)
    os.close(fd)
    assert info.value.errno == errno.EBADF


@covers("UvWriterInit/noResources")
def test_no_contexts_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the machine has no AIO events left, making a context fails with EAGAIN."""
    with pytest.raises(OSError) as info:
        kaio.Context(1 << 30)
    assert info.value.errno in (errno.EAGAIN, errno.EINVAL)


def test_no_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none for the completions, making a context fails, and the kernel's part of it is given back."""

    def refuse(*_: int) -> int:
        raise OSError(errno.EMFILE, "none left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd", refuse)
        with pytest.raises(OSError, match="none left"):
            kaio.Context(1)
    kaio.Context(1).close()


def test_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor whose system calls are not known, ENOSYS says so."""
    monkeypatch.setattr(kaio, "_found", None)
    with pytest.raises(OSError) as info:
        kaio.Context(1)
    assert info.value.errno == errno.ENOSYS


def test_close_twice() -> None:
    """Closing again does nothing."""
    context = kaio.Context(1)
    context.close()
    context.close()


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_results_are_missed_only_where_some_were_told(fd: int, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """An exception means that a write has ended: who asks without having been told learns nothing from a refusal."""
    monkeypatch.setattr(kaio, "_RING_MAGIC", 0)
    context = kaio.Context(1)
    call = kaio._call

    def refuse(which: int, *args: int, **options: bool) -> int:
        if kaio._NAMES[which] == "io_getevents":
            raise OSError(code, "", "io_getevents")
        return call(which, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kaio, "_call", refuse)
        assert context.reap() == []
        context.submit(fd, block(b"a"), BLOCK, 0, nowait=False, tag=7)
        select.select([context.fileno()], [], [], 120)
        with pytest.raises(OSError) as info:
            context.reap()
        assert (info.value.errno, kaio.called(info.value)) == (code, "io_getevents")
    assert context.reap() == [(7, BLOCK)]
    context.close()


@pytest.mark.parametrize("name", ["io_setup", "io_destroy"])
def test_what_is_refused_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A queue that cannot be made leaves nothing; one that cannot be given back is left to the kernel."""
    before = open_fds()
    call, given = kaio._call, []

    def refuse(which: int, *args: int, **options: bool) -> int:
        if kaio._NAMES[which] == name:
            given.append(args)
            raise OSError(errno.EPERM, "", name)
        return call(which, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kaio, "_call", refuse)
        if name == "io_setup":
            with pytest.raises(OSError):
                kaio.Context(1)
        else:
            kaio.Context(1).close()
    assert open_fds() <= before
    if name == "io_destroy":
        call(kaio._NAMES.index(name), *given[0])

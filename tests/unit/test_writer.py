"""Writes to open segments: Linux AIO, a thread, or in place."""

import errno
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, kaio
from io_uv.failure import Failure
from io_uv.pyuv import Loop
from io_uv.refusal import REFUSED, Refusals
from io_uv.segment_buffer import Arena
from io_uv.writer import AIO, IN_PLACE, THREAD, Writer
from pyraft import errors
from tests.lib.covers import covers
from tests.lib.threads import Starts
from tests.lib.uvtest import Outcome, run_until

BLOCK = 4096
MODES = pytest.mark.parametrize("mode", [AIO, THREAD, IN_PLACE], ids=["aio", "thread", "in-place"])


class File:
    """A preallocated file, a loop and a writer."""

    def __init__(self, path: Path, mode: int) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DSYNC, 0o600)
        os.posix_fallocate(self.fd, 0, 2 * BLOCK)
        fs.set_direct(self.fd)
        self.path = path
        self.loop = Loop()
        self.writer = Writer(self.loop, mode, Refusals("/data"))

    def write(self, fill: bytes, offset: int, blocks: int = 1) -> Outcome:
        arena = Arena(BLOCK, blocks * BLOCK)
        arena.memory[:] = fill * len(arena.memory)
        outcome = Outcome()
        self.writer.submit(self.fd, arena, blocks * BLOCK, offset, outcome)
        assert outcome.calls == []
        return outcome

    def finish(self, outcome: Outcome) -> Failure | None:
        run_until(self.loop, lambda: outcome.calls)
        failure: Failure | None = outcome.calls[0][0]
        return failure

    def close(self) -> None:
        closed: list[bool] = []
        self.writer.close(lambda: closed.append(True))
        assert not closed
        run_until(self.loop, lambda: closed)


@pytest.fixture
def new_file(tmp_path: Path) -> Iterator[Callable[[int], File]]:
    made: list[File] = []

    def make(mode: int) -> File:
        file = File(tmp_path / "file", mode)
        file.writer.setup()
        made.append(file)
        return file

    yield make
    for file in made:
        file.close()
        file.loop.close()
        os.close(file.fd)


@MODES
@covers("UvWriterSubmit/one")
def test_one_block(new_file: Callable[[int], File], mode: int) -> None:
    """One block is written where it belongs, and the callback comes in a later turn."""
    file = new_file(mode)
    assert file.finish(file.write(b"a", BLOCK)) is None
    assert file.path.read_bytes() == bytes(BLOCK) + b"a" * BLOCK


@MODES
@covers("UvWriterSubmit/two", "UvWriterSubmit/vec")
def test_two_blocks_one_after_the_other(new_file: Callable[[int], File], mode: int) -> None:
    """Writes follow each other."""
    file = new_file(mode)
    assert file.finish(file.write(b"a", 0)) is None
    assert file.finish(file.write(b"b", BLOCK)) is None
    assert file.path.read_bytes() == b"a" * BLOCK + b"b" * BLOCK


@MODES
@covers("UvWriterSubmit/twice", "UvWriterSubmit/vecTwice")
def test_same_block_twice(new_file: Callable[[int], File], mode: int) -> None:
    """A block may be written again."""
    file = new_file(mode)
    assert file.finish(file.write(b"a", 0, blocks=2)) is None
    assert file.finish(file.write(b"b", 0)) is None
    assert file.path.read_bytes() == b"b" * BLOCK + b"a" * BLOCK


@MODES
@covers("UvWriterSubmit/beyondEOF")
def test_beyond_the_end(new_file: Callable[[int], File], mode: int) -> None:
    """A write behind the allocated size makes the file grow."""
    file = new_file(mode)
    assert file.finish(file.write(b"a", 4 * BLOCK, blocks=2)) is None
    assert file.path.stat().st_size == 6 * BLOCK


def test_in_place_means_at_once(new_file: Callable[[int], File]) -> None:
    """A write that is only a copy is made inside the call, up to 1 MiB; all that is larger would hold the loop up."""
    file = new_file(IN_PLACE)
    for blocks, at_once in ((1, True), (256, True), (257, False)):
        before = set(threading.enumerate())  # some of which may be ending
        outcome = file.write(b"x", 0, blocks)
        assert (set(threading.enumerate()) <= before) is at_once
        assert file.finish(outcome) is None


def test_a_write_in_place_can_be_called_back_in_the_same_turn(new_file: Callable[[int], File]) -> None:
    """A user that has asked for that is given a function for it; it works once, the next turn has nothing to do
    then."""
    file = new_file(IN_PLACE)
    functions: list[Callable[[], None]] = []
    file.writer._soon = lambda function: functions.append(function) is None
    outcome = file.write(b"x", 0)
    [call_back] = functions
    call_back()
    assert outcome.calls == [(None,)]
    assert not file.writer.busy
    call_back()
    file.writer._soon = lambda function: False
    other = file.write(b"y", BLOCK)
    assert file.finish(other) is None
    call_back()
    assert (outcome.calls, other.calls) == ([(None,)], [(None,)])


def test_a_write_in_place_is_called_back_when_the_writer_is_closed(new_file: Callable[[int], File]) -> None:
    """The function that was to do it may be gone."""
    file = new_file(IN_PLACE)
    file.writer._soon = lambda function: True
    outcome = file.write(b"x", 0)
    closed: list[bool] = []
    file.writer.close(lambda: closed.append(True))
    assert (outcome.calls, closed) == ([], [])
    run_until(file.loop, lambda: closed)
    assert outcome.calls == [(None,)]
    file.close = lambda: None


@covers("UvWriterInit/noResources", "append/ioSetupError")
@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("call", ["io_setup", "eventfd"])
def test_no_context(
    new_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    call: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without io_setup, of AIO events for example, or without its eventfd the thread writes (C: RAFT_TOOMANY)."""

    def refuse(n: int) -> Any:
        raise OSError(code, "", call)

    monkeypatch.setattr(kaio, "Context", refuse)
    file = new_file(AIO)
    for i in range(20):
        assert file.finish(file.write(bytes([i]), BLOCK)) is None
    assert file.path.read_bytes() == bytes(BLOCK) + bytes([19]) * BLOCK
    assert [text.split(" is refused")[0] for text in told(caplog)] == [f"/data: {call}"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_no_context_for_now(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """An error that passes is an error of setup, and AIO is used when it has passed."""

    def refuse(n: int) -> Any:
        raise OSError(code, "", "io_setup")

    loop = Loop()
    writer = Writer(loop, AIO)
    with monkeypatch.context() as patch:
        patch.setattr(kaio, "Context", refuse)
        with pytest.raises(Failure, match="io_setup: ") as info:
            writer.setup()
    assert info.value.code == errors.RAFT_IOERR
    writer.setup()
    assert writer._context is not None
    closed: list[bool] = []
    writer.close(lambda: closed.append(True))
    run_until(loop, lambda: closed)
    loop.close()


@pytest.mark.parametrize("code", sorted(REFUSED))
@MODES
def test_no_eventfd(
    new_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pipe tells the loop; both its ends are closed in the end."""

    def refuse(*args: int) -> int:
        raise OSError(code, "")

    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd", refuse)
        file = new_file(mode)
    ends = {file.writer._event_fd, file.writer._waker}
    assert len(ends) == 2
    for i in range(4):
        assert file.finish(file.write(bytes([i]), 0)) is None
    assert file.path.read_bytes()[:BLOCK] == bytes([3]) * BLOCK
    assert [text.split(" is refused")[0] for text in told(caplog)] == ["/data: eventfd"]
    file.close()
    for fd in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    file.writer = Writer(file.loop, THREAD)


@pytest.mark.parametrize("code", sorted(REFUSED - {errno.EAGAIN}))
@pytest.mark.parametrize("at", ["submission", "completion"])
def test_submission_refused_in_the_midst(
    new_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    at: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The thread makes that write and all that follow, and the kernel is not asked again."""
    file = new_file(AIO)
    submit, reap, asked = kaio.Context.submit, kaio.Context.reap, []

    def fails(*args: Any) -> None:
        asked.append(True)
        if at == "submission" and len(asked) > 2:
            raise OSError(code, "", "io_submit")
        submit(*args)

    monkeypatch.setattr(kaio.Context, "submit", fails)
    if at == "completion":
        monkeypatch.setattr(
            kaio.Context, "reap", lambda self: [(tag, -code if len(asked) > 2 else n) for tag, n in reap(self)]
        )
    for i in range(30):
        assert file.finish(file.write(bytes([i]), 0)) is None
        assert file.path.read_bytes()[:BLOCK] == bytes([i]) * BLOCK
    assert len(asked) == 3
    assert [text.split(" is refused")[0] for text in told(caplog)] == ["/data: io_submit"]


def test_submission_refused_with_eagain(
    new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One write under way always finds a place: eight refusals in a row are meant."""
    file = new_file(AIO)
    asked: list[bool] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        asked.append(True)
        raise OSError(errno.EAGAIN, "", "io_submit")

    monkeypatch.setattr(kaio.Context, "submit", refuse)
    for _ in range(1100):
        assert file.finish(file.write(b"a", 0)) is None
    assert len(asked) == 8
    assert [text.split(" is refused")[0] for text in told(caplog)] == ["/data: io_submit"]


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_results_refused_in_the_midst(
    new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A write of which nobody can tell how it ended is made again, when it has ended."""
    file = new_file(AIO)
    file.writer._context._ring = None
    called, made = kaio._call, []
    pwrite = fs.pwrite
    monkeypatch.setattr(fs, "pwrite", lambda *args: (made.append(args[0]), pwrite(*args))[1])
    assert file.finish(file.write(b"a", 0)) is None
    assert made == []

    def refuse(which: int, *args: int, **options: bool) -> int:
        if kaio._NAMES[which] == "io_getevents":
            raise OSError(code, "", "io_getevents")
        return called(which, *args, **options)

    monkeypatch.setattr(kaio, "_call", refuse)
    for i in range(20):
        assert file.finish(file.write(bytes([i]), 0)) is None
        assert file.path.read_bytes()[:BLOCK] == bytes([i]) * BLOCK
    assert len(made) == 20
    assert [text.split(" is refused")[0] for text in told(caplog)] == ["/data: io_getevents"]


@pytest.mark.parametrize("code", sorted(REFUSED))
@MODES
def test_direct_writes_refused_to_one_file(
    new_file: Callable[[int], File],
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is written through the page cache, synchronously as before; nobody tries O_DIRECT on it again, nor AIO."""
    file = new_file(mode)
    pwrite, refused = fs.pwrite, []

    def fails(fd: int, data: Any, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(code, "")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(fs, "pwrite", fails)

    def submit(*args: Any, **options: Any) -> None:
        raise OSError(errno.EAGAIN, "", "io_submit")

    monkeypatch.setattr(kaio.Context, "submit", submit)
    for i in range(20):
        assert file.finish(file.write(bytes([i]), BLOCK)) is None
        assert file.path.read_bytes() == bytes(BLOCK) + bytes([i]) * BLOCK
    assert refused == [BLOCK]
    flags = fcntl.fcntl(file.fd, fcntl.F_GETFL)
    assert not flags & os.O_DIRECT
    assert flags & os.O_DSYNC
    assert [text.split(" is refused")[0] for text in told(caplog)] == ["/data: a write with O_DIRECT"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_direct_write_that_fails_is_not_made_again(
    new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Only a refusal is."""
    file = new_file(THREAD)
    made: list[int] = []

    def fails(fd: int, data: Any, offset: int) -> int:
        made.append(fd)
        raise OSError(code, "")

    monkeypatch.setattr(fs, "pwrite", fails)
    assert file.finish(file.write(b"a", 0)) is not None
    assert len(made) == 1
    assert fcntl.fcntl(file.fd, fcntl.F_GETFL) & os.O_DIRECT


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the logger io_uv."""
    return [record.getMessage() for record in caplog.records if record.name == "io_uv"]


@covers("UvWriterSubmit/noResources")
def test_thread_needs_no_aio_events(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of the thread are plain ones: they go on when the machine has no AIO events left (in C they fail)."""

    def refuse(n: int) -> Any:
        raise OSError(errno.EAGAIN, "")

    monkeypatch.setattr(kaio, "Context", refuse)
    file = new_file(THREAD)
    assert file.finish(file.write(b"a", 0)) is None


def test_would_block_at_submission(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the kernel will not take without blocking is made by the thread."""
    file = new_file(AIO)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EAGAIN, "")

    monkeypatch.setattr(kaio.Context, "submit", refuse)
    assert file.finish(file.write(b"a", 0)) is None
    assert file.path.read_bytes()[:BLOCK] == b"a" * BLOCK


def test_would_block_at_completion(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that completes with EAGAIN is made by the thread."""
    file = new_file(AIO)
    reap = kaio.Context.reap
    monkeypatch.setattr(kaio.Context, "reap", lambda self: [(tag, -errno.EAGAIN) for tag, _ in reap(self)])
    assert file.finish(file.write(b"a", 0)) is None


def test_the_quicker_way_is_taken(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every 1024 writes 8 are tried each way; the rest goes the way that was quicker."""
    file = new_file(AIO)
    ways: list[str] = []
    clock = [0.0]
    cost = {"aio": 1.0, "thread": 2.0}
    submit, pwrite = kaio.Context.submit, fs.pwrite

    def took(way: str, call: Callable[..., Any], *args: Any) -> Any:
        ways.append(way)
        clock[0] += cost[way]
        return call(*args)

    monkeypatch.setattr(kaio.Context, "submit", lambda *args: took("aio", submit, *args))
    monkeypatch.setattr(fs, "pwrite", lambda *args: took("thread", pwrite, *args))
    monkeypatch.setattr(time, "monotonic", lambda: 1.0 + clock[0])
    trial = ["aio"] * 8 + ["thread"] * 8
    for _ in range(1024):
        assert file.finish(file.write(b"a", 0)) is None
    assert ways == trial + ["aio"] * 1008
    ways.clear()
    cost["aio"] = 3.0
    for _ in range(32):
        assert file.finish(file.write(b"a", 0)) is None
    assert ways == trial + ["thread"] * 16


def test_aio_that_refuses_is_not_taken(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that AIO refused counts as the thread's: a way that refuses most of its trial is never the quicker
    one."""
    file = new_file(AIO)
    submit, asked = kaio.Context.submit, []

    def rarely(*args: Any) -> None:
        asked.append(True)
        if len(asked) > 4:
            raise OSError(errno.EAGAIN, "")
        submit(*args)

    monkeypatch.setattr(kaio.Context, "submit", rarely)
    monkeypatch.setattr(time, "monotonic", lambda: 1.0 / (1 + len(asked)))
    for _ in range(40):
        assert file.finish(file.write(b"a", 0)) is None
    assert len(asked) == 8


@pytest.mark.parametrize("mode", [AIO, THREAD])
def test_would_block_for_ever(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """EAGAIN from the thread's own write is a failure like any other: there is nobody left to make it."""
    file = new_file(mode)
    inject(monkeypatch, -errno.EAGAIN)
    failure = file.finish(file.write(b"a", 0))
    assert failure is not None
    assert (failure.code, failure.message) == (errors.RAFT_IOERR, f"write failed: -{errno.EAGAIN}")


def test_thread_that_cannot_be_started(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread the write fails, in a later turn; the next one tries again."""
    file = new_file(THREAD)
    with monkeypatch.context() as patch:
        Starts(patch, "raft-writer")
        for _ in range(2):
            failure = file.finish(file.write(b"a", 0))
            assert failure is not None
            assert failure.code == errors.RAFT_TOOMANY
            assert failure.message == "start thread: resource temporarily unavailable"
    assert file.finish(file.write(b"a", 0)) is None


def test_closing_without_threads(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer gives its descriptor back although no thread of the pool can be had."""
    file = new_file(AIO)
    fd = file.writer._event_fd
    with monkeypatch.context() as patch:
        Starts(patch, "raft-writer", "pyuv-worker")
        file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    file.writer = Writer(file.loop, THREAD)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EBADF])
@MODES
def test_error(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, mode: int, number: int) -> None:
    """An error of the write is RAFT_IOERR with its number."""
    file = new_file(mode)
    inject(monkeypatch, -number)
    failure = file.finish(file.write(b"a", 0))
    assert failure is not None
    assert (failure.code, failure.message) == (errors.RAFT_IOERR, f"write failed: -{number}")


@MODES
def test_disk_full(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """A full disk is RAFT_NOSPACE."""
    file = new_file(mode)
    inject(monkeypatch, -errno.ENOSPC)
    failure = file.finish(file.write(b"a", 0))
    assert failure is not None
    assert failure.code == errors.RAFT_NOSPACE


@MODES
def test_short_write(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """A short write is RAFT_NOSPACE, with C's text."""
    file = new_file(mode)
    inject(monkeypatch, BLOCK)
    failure = file.finish(file.write(b"a", 0, blocks=2))
    assert failure is not None
    assert failure.code == errors.RAFT_NOSPACE
    assert failure.message == "short write: 4096 bytes instead of 8192"


def inject(monkeypatch: pytest.MonkeyPatch, result: int) -> None:
    """Have every write end with this result."""

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if result < 0:
            raise OSError(-result, "")
        return result

    reap = kaio.Context.reap
    monkeypatch.setattr(kaio.Context, "reap", lambda self: [(tag, result) for tag, _ in reap(self)])
    monkeypatch.setattr(fs, "pwrite", pwrite)


@covers("UvWriterClose/threadpool", "UvWriterClose/aio")
@MODES
def test_close_waits_for_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """Closing with a write in flight calls the write back first, with its own status, then the close."""
    file = File(tmp_path / "file", mode)
    file.writer.setup()
    outcome = file.write(b"a", 0)
    order: list[str] = []
    file.writer.close(lambda: order.append("closed"))
    run_until(file.loop, lambda: order)
    assert outcome.calls == [(None,)]
    file.loop.close()
    os.close(file.fd)


def test_a_slow_disk_does_not_stop_the_loop(new_file: Callable[[int], File], monkeypatch: pytest.MonkeyPatch) -> None:
    """While the thread hangs in a write the loop goes on turning."""
    file = new_file(THREAD)
    gate: queue.SimpleQueue[None] = queue.SimpleQueue()
    pwrite = fs.pwrite
    monkeypatch.setattr(fs, "pwrite", lambda *args: (gate.get(), pwrite(*args))[1])
    outcome = file.write(b"a", 0)
    turned: list[bool] = []
    file.loop.queue_work(lambda: None, lambda _: turned.append(True))
    run_until(file.loop, lambda: turned)
    assert outcome.calls == []
    gate.put(None)
    assert file.finish(outcome) is None


def test_thread_ends_with_the_writer(new_file: Callable[[int], File]) -> None:
    """No thread is left behind by a closed writer."""
    before = set(threading.enumerate())
    file = new_file(THREAD)
    file.finish(file.write(b"a", 0))
    writers = [thread for thread in threading.enumerate() if thread.name == "raft-writer" and thread not in before]
    assert len(writers) == 1
    file.close()
    writers[0].join(120)
    assert not writers[0].is_alive()
    file.writer = Writer(file.loop, THREAD)

"""Writing blocks to open segments: one write at a time, completed from the loop.

Duty: `Writer` starts a write without blocking the loop and calls back, in a later turn, when the data is durable (the
descriptors carry O_DSYNC). One per instance serves all its segments: C makes and destroys an AIO context per segment,
and destroying one takes tens of milliseconds on the loop.

There are three ways. On a file system in memory a write is made right away: it is a copy, cheaper than any hand-over;
it is called back in the next turn, or where `soon` has it done before. On others a thread of its own makes it (the pool
may be busy with snapshots), or Linux AIO does where probing found it. Which of these two is quicker depends on the
machine's load, so they are tried in turn now and then, see _choose.

Happy path: setup() once, submit(), the callback with None; close() at the end.

A refused call (`refusal`) is replaced by another way, for good, and nothing is lost by it: without io_setup, io_submit
or an eventfd the thread makes the writes. Where io_getevents is refused, the thread repeats the write under way. A
write that is refused with O_DIRECT goes through the page cache, where O_DSYNC makes it as durable.

Failure modes, all with a Failure to the callback: an error is RAFT_IOERR "write failed: -5" (RAFT_NOSPACE if the disk
is full), a short write RAFT_NOSPACE "short write: …"; RAFT_TOOMANY if the thread is needed and cannot be started, which
the next write tries again. setup() raises Failure(RAFT_IOERR) if there is no descriptor; it may be called again.
"""

import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from io_uv import fs, kaio, work
from io_uv.failure import FULL, Failure, failure
from io_uv.pyuv import UV_READABLE, Loop, Poll, wakeup
from io_uv.pyuv.errno import UV_EAGAIN
from io_uv.refusal import AIO as ASYNC
from io_uv.refusal import DIRECT, EVENTFD, REFUSED, Refusals, refused
from io_uv.segment_buffer import Arena
from pyraft import errors

WriteCb: TypeAlias = Callable[[Failure | None], None]

AIO: Final = 0
THREAD: Final = 1
IN_PLACE: Final = 2

_IN_PLACE_LIMIT: Final = 1024 * 1024
"""Longest write in bytes that is made on the loop, on a file system in memory."""
_ROUND: Final = 1024
_TRIAL: Final = 8


class _Write:
    """A write under way."""

    __slots__ = ("arena", "began", "cb", "failure", "fd", "length", "offset", "way")

    def __init__(self, fd: int, arena: Arena, length: int, offset: int, cb: WriteCb) -> None:
        self.fd = fd
        self.arena = arena
        self.length = length
        self.offset = offset
        self.cb = cb
        # For a write that is timed: when it began, and which way it went.
        self.began = 0.0
        self.way = THREAD
        # Why it was not even begun.
        self.failure: Failure | None = None

    def make(self, refusals: Refusals) -> int:
        """Write, blocking; return the number of bytes or a negative errno."""
        data = self.arena.memory[: self.length]
        try:
            return fs.pwrite(self.fd, data, self.offset)
        except OSError as exc:
            if not refused(exc) or not _leave_direct(self.fd):
                return -(exc.errno or errno.EIO)
            refusal = exc
        try:
            done = fs.pwrite(self.fd, data, self.offset)
        except OSError as exc:
            return -(exc.errno or errno.EIO)
        refusals.note(DIRECT, refusal, "a write with O_DIRECT")
        return done


def _leave_direct(fd: int) -> bool:
    """Have the descriptor write through the page cache from now on; return False if it does already, or must not."""
    try:
        return fs.leave_direct(fd)
    except OSError:
        return False


def _judge(write: _Write, result: int) -> Failure | None:
    if write.failure is not None:
        return write.failure
    if result == write.length:
        return None
    if result < 0:
        # C: uv_writer.c:uvWriterReqSetStatus has RAFT_IOERR for a full disk too, so that nobody can tell it apart.
        full = -result in FULL
        return Failure(errors.RAFT_NOSPACE if full else errors.RAFT_IOERR, f"write failed: {result}")
    return Failure(errors.RAFT_NOSPACE, f"short write: {result} bytes instead of {write.length}")


class Writer:
    """Writes of one instance. `mode` is AIO, THREAD or IN_PLACE."""

    __slots__ = (
        "_best",
        "_close_cb",
        "_context",
        "_count",
        "_done",
        "_event_fd",
        "_loop",
        "_made",
        "_mode",
        "_poll",
        "_refusals",
        "_soon",
        "_times",
        "_todo",
        "_turned_away",
        "_waker",
        "_worker",
        "_write",
    )

    def __init__(
        self,
        loop: Loop,
        mode: int,
        refusals: Refusals | None = None,
        soon: Callable[[Callable[[], None]], bool] | None = None,
        context: "kaio.Context | None" = None,
    ) -> None:
        self._loop = loop
        self._mode = mode
        # Has a function called when the submitter of a write has done all that is urgent; False if it cannot.
        self._soon = soon
        # The result of a write that was made in place, until it is called back.
        self._made: int | None = None
        self._refusals = Refusals("") if refusals is None else refusals
        # Perhaps one that is there already (probe).
        self._context: kaio.Context | None = context
        # The loop watches one, the thread writes to the other: the same for an eventfd.
        self._event_fd = -1
        self._waker = -1
        self._poll: Poll | None = None
        self._write: _Write | None = None
        self._todo: queue.SimpleQueue[_Write | None] | None = None
        # mypyc gives C a name with one more underscore, and `__thread` is a keyword there.
        self._worker: threading.Thread | None = None
        # Results of writes that did not go through AIO.
        self._done: deque[int] = deque()
        # Which way writes go while none is tried, how many were submitted, and how long those of the trial took.
        self._best = THREAD
        self._count = -1
        # Submissions in a row that were answered with EAGAIN.
        self._turned_away = 0
        self._times: tuple[list[float], list[float]] = ([], [])
        self._close_cb: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a write is in flight."""
        return self._write is not None

    def setup(self) -> None:
        """Get ready for writing, if not done yet; raises Failure."""
        if self._poll is not None:
            return
        if self._context is None and self._mode == AIO and not (ASYNC in self._refusals or DIRECT in self._refusals):
            self._context = self._new_context()
        if self._context is not None:
            self._event_fd = self._waker = self._context.fileno()
        else:
            try:
                self._event_fd, self._waker, refusal = wakeup.open_pair()
            except OSError as exc:
                raise failure("eventfd", exc) from None
            if refusal is not None:
                self._refusals.note(EVENTFD, refusal)
        self._poll = Poll(self._loop, self._event_fd)
        self._poll.start(UV_READABLE, self._completed)

    def _new_context(self) -> "kaio.Context | None":
        """Return a context, None if it is refused: the thread writes then.

        C: uv_writer.c:UvWriterInit fails with RAFT_TOOMANY when the machine has no AIO events left.
        """
        try:
            return kaio.Context(1)
        except OSError as exc:
            if not refused(exc):
                raise failure(kaio.called(exc), exc) from None
            self._refusals.note_aio(exc, kaio.called(exc))
            return None

    def submit(self, fd: int, arena: Arena, length: int, offset: int, cb: WriteCb) -> None:
        """Write the first `length` bytes of the arena at `offset`; `cb(failure or None)` follows, never inside this."""
        assert self._write is None
        write = self._write = _Write(fd, arena, length, offset, cb)
        if self._mode == AIO and (not self._refusals.some or self._may_submit()) and self._choose(write) == AIO:
            self._submit(write)
        elif self._mode == IN_PLACE and length <= _IN_PLACE_LIMIT:
            self._made = write.make(self._refusals)
            if self._soon is None or not self._soon(self._call_back):
                self._loop._defer(self._call_back)
        else:
            self._hand_over(write)

    def _call_back(self) -> None:
        """Call a write back that was made in place, if that has not been done yet."""
        result, self._made = self._made, None
        if result is not None and self._write is not None:
            self._end(self._write, result)

    def _may_submit(self) -> bool:
        """Return whether AIO can be used: a write that is not direct would block in its submission."""
        return self._context is not None and ASYNC not in self._refusals and DIRECT not in self._refusals

    def _submit(self, write: _Write) -> None:
        """Have AIO make a write. A write that it does not take goes to the thread, whose attempt tells what is the
        matter."""
        assert self._context is not None
        try:
            self._context.submit(write.fd, write.arena.address, write.length, write.offset)
        except OSError as exc:
            # No write is under way besides, so EAGAIN every time is a refusal.
            self._turned_away = self._turned_away + 1 if exc.errno == errno.EAGAIN else 0
            if self._turned_away >= _TRIAL or (refused(exc) and exc.errno != errno.EAGAIN):
                self._refusals.note_aio(exc, "io_submit")
            self._hand_over(write)
            return
        self._turned_away = 0
        write.way = AIO

    def close(self, cb: Callable[[], None]) -> None:
        """Release everything when the write in flight, if any, has completed; then `cb()`, never inside this."""
        assert self._close_cb is None
        self._close_cb = cb
        if self._write is None:
            self._release()
        elif self._made is not None:
            self._loop._defer(self._call_back)  # lest nobody does it any more

    def forget(self) -> None:
        """In a forked child: let go of what is shared with the parent, and of the write that is the parent's."""
        if self._context is not None:
            self._context.forget()
        else:
            self._close_descriptors()
        self._event_fd = self._waker = -1
        self._context = self._poll = self._write = self._todo = self._close_cb = None

    def abandon(self) -> Callable[[], None]:
        """Have the thread end, without a callback; return what waits for that and releases everything, in a thread."""
        self._close_cb = None
        self._mode = THREAD
        if self._todo is not None:
            self._todo.put(None)
        return self._bury

    def _bury(self) -> None:
        if self._todo is not None and self._worker is not None and self._worker.ident is not None:
            self._worker.join()
        self._free()
        self._context = None
        self._event_fd = self._waker = -1

    def _choose(self, write: _Write) -> int:
        """Return which way a write goes: of 1024 the first 8 by AIO, the next 8 by the thread, the rest by the quicker.

        On an idle machine it makes no difference. Where processors are short, AIO waits up to ten times as long, as the
        kernel completes a durable write in a worker that is bound to one of them; and it refuses blocks that were
        allocated and never written, which the thread then writes after all (they count as the thread's, and AIO that
        refused half of its 8 is not taken). But beside a thread that computes in Python, AIO has to fetch the
        interpreter's lock less often.
        """
        self._count = (self._count + 1) % _ROUND
        if self._count >= 2 * _TRIAL:
            return self._best
        write.began = time.monotonic()
        return AIO if self._count < _TRIAL else THREAD

    def _timed(self, write: _Write) -> None:
        """Take note of how long a write of the trial took."""
        times = self._times[write.way]
        times.append(time.monotonic() - write.began)
        if self._count == 2 * _TRIAL - 1:
            aio, thread = map(sorted, self._times)
            trusted = len(aio) > _TRIAL // 2
            self._best = AIO if trusted and aio[len(aio) // 2] < thread[len(thread) // 2] else THREAD
            self._times = ([], [])

    def _hand_over(self, write: _Write) -> None:
        """Have the thread make a write."""
        write.way = THREAD
        if write.began:
            write.began = time.monotonic()
        if self._todo is None:
            todo: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
            try:
                self._worker = threading.Thread(target=self._serve, args=(todo,), name="raft-writer", daemon=True)
                self._worker.start()
            except (RuntimeError, MemoryError):
                write.failure = work.not_run(UV_EAGAIN)
                self._finish(0)
                return
            self._todo = todo
        self._todo.put(write)

    def _serve(self, todo: "queue.SimpleQueue[_Write | None]") -> None:
        """The thread: write what is handed over until told to end."""
        while True:
            write = todo.get()
            if write is None:
                return
            self._finish(write.make(self._refusals))
            del write  # not kept alive while waiting for the next

    def _finish(self, result: int) -> None:
        self._done.append(result)
        os.write(self._waker, wakeup.TOKEN)

    def _completed(self, poll: Poll, events: int | None, error: int | None) -> None:
        """The eventfd is readable: a write has completed."""
        result = self._reap()
        if self._done:
            result = self._done.popleft()
        write = self._write
        if result is None or write is None:
            return
        if write.way == AIO and -result in REFUSED:
            if result != -errno.EAGAIN:  # it would have blocked
                self._refusals.note_aio(OSError(-result, ""), "io_submit")
            self._hand_over(write)
            return
        self._end(write, result)

    def _end(self, write: _Write, result: int) -> None:
        """Call back a write that has been made."""
        self._write = None
        if write.began and write.failure is None:
            self._timed(write)
        if self._close_cb is not None:
            self._release()
        write.cb(None if result == write.length and write.failure is None else _judge(write, result))

    def _reap(self) -> int | None:
        """Take note of the wake-up, and return the result of a write that AIO has made."""
        if self._context is None:
            os.read(self._event_fd, 8)
            return None
        write = self._write
        if write is None or write.way != AIO:
            self._context.heard()
            return None
        try:
            done = self._context.reap()
        except OSError as exc:
            # It has been made, or has failed: the eventfd tells of nothing else, and nothing else is under way. To
            # make it again is safe only because of that, as the next write may begin in the same block.
            self._refusals.note_aio(exc, kaio.called(exc))
            self._hand_over(write)
            return None
        return done[-1][1] if done else None

    def _close_descriptors(self) -> None:
        """Close what was opened without a context."""
        for fd in {self._event_fd, self._waker}:
            if fd >= 0:
                os.close(fd)

    def _release(self) -> None:
        if self._todo is not None:
            self._todo.put(None)
            self._todo = None
        if self._poll is None:
            self._loop.queue_work(self._free, self._released)
            return
        poll, self._poll = self._poll, None
        poll.close(lambda _: self._loop.queue_work(self._free, self._released))

    def _free(self) -> None:
        """In a thread of the pool: the kernel takes its time to give an AIO context up."""
        if self._context is not None:
            self._context.close()
        else:
            self._close_descriptors()

    def _released(self, code: int | None) -> None:
        if code is not None:
            # No thread took it.
            self._free()
        cb = self._close_cb
        assert cb is not None
        cb()

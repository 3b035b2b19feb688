"""Open segments ready for writing: a pool of files that are allocated, and mostly filled with zeros, ahead of time.

Duty: hand out segments in the order of their counters and keep TARGET_POOL_SIZE more in reserve. One at a time is
allocated in a thread (fallocate, directory sync). Where it pays, those in reserve are then overwritten with zeros, one
at a time, in paced pieces: a durable write into a block that was written before needs no change of the file's extents,
which takes the file system's journal out of its way. Nobody waits for that: a request stops the filler at its next
piece. A segment never leaves the pool while its filler runs, as that would overwrite entries. Only so much is filled as
will be used, by what the last segments held when they were closed (`used`): where snapshots follow each other closely,
each closes a segment that is nearly empty.

Happy path: get() returns a segment of the pool at once, or calls back when one has been made.

Failure modes: the file cannot be made (disk full, I/O error): all who wait are told, the half-made file is removed, as
is one that cannot be filled, and `uv.prepare_failure` keeps the reason until a later attempt succeeds; the next get()
tries again (uv_prepare.c), and so does a timer (retry), as otherwise a server that nobody writes to would not notice
that there is space again.
Closing: waiters get RAFT_CANCELED, the reserve is removed, a segment still being made or filled right after that.
"""

import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from io_uv import closing, fs, retry, segment, state, work
from io_uv.failure import Failure, failure
from io_uv.refusal import DIRECT, refused
from pyraft import errors
from pyraft.tracing import TRACE_WARN, trace

TARGET_POOL_SIZE: Final = 2

FILL_PIECE: Final = 128 * 1024
FILL_PAUSE: Final = 3.0
"""How long the filler rests after each piece, in times of what writing it took."""
_ZEROS: Final = memoryview(mmap.mmap(-1, FILL_PIECE))


class IdleSegment:
    """An open segment that is being prepared or waits in the pool."""

    __slots__ = ("counter", "fd", "filled", "filling", "name", "stop")  # filled: bytes from the start on

    def __init__(self, counter: int) -> None:
        self.counter = counter
        self.name = segment.open_name(counter)
        self.fd = -1
        self.filling = False
        self.filled = 0
        self.stop = threading.Event()


PrepareCb: TypeAlias = Callable[[IdleSegment | None, Failure | None], None]


def get(uv: state.Uv, cb: PrepareCb) -> IdleSegment | None:
    """Return the next segment if it is ready, else None; then `cb(segment, None)` or `cb(None, failure)` follows."""
    assert not uv.closing
    ready = _take(uv)
    if ready is None:
        uv.prepare_reqs.append(cb)
        if uv.prepare_pool:
            uv.prepare_pool[0].stop.set()
    _refill(uv)
    return ready


def close(uv: state.Uv) -> None:
    """Cancel all requests and remove the reserve; all that a thread is busy with is removed when the thread is done."""
    assert uv.closing
    _fail_all(uv, Failure(errors.RAFT_CANCELED, errors.raft_strerror(errors.RAFT_CANCELED)))
    while uv.prepare_pool:
        idle = uv.prepare_pool.popleft()
        if idle.filling:
            idle.stop.set()
        else:
            _discard(uv, idle)


def try_again(uv: state.Uv) -> None:
    """Make another attempt after a failure, if there was one."""
    if uv.prepare_failure is not None:
        _refill(uv)


def used(uv: state.Uv, size: int) -> None:
    """A segment is closed that holds so many bytes: the next ones will hold as much, or as the one before it did."""
    if size > 0:
        uv.prepare_used = (uv.prepare_used[1], size)


def _goal(uv: state.Uv) -> int:
    """Return up to where segments are to be filled: a quarter more than what the last two needed, in whole pieces."""
    wanted = max(uv.prepare_used) * 5 // 4
    return min(_size(uv), -(-wanted // FILL_PIECE) * FILL_PIECE)


def _take(uv: state.Uv) -> IdleSegment | None:
    """Take the oldest segment out of the pool unless there is none or it is still being filled."""
    if not uv.prepare_pool or uv.prepare_pool[0].filling:
        return None
    idle: IdleSegment = uv.prepare_pool.popleft()
    return idle


def _refill(uv: state.Uv) -> None:
    """See to it that the reserve grows to its target, then that it gets filled."""
    if uv.prepare_inflight is not None:
        return
    if len(uv.prepare_pool) < TARGET_POOL_SIZE:
        _create(uv)
    else:
        _fill(uv)


def _size(uv: state.Uv) -> int:
    """Return the size of new segments: whole blocks, one at least."""
    return max(uv.segment_size // uv.block_size, 1) * uv.block_size


def _create(uv: state.Uv) -> None:
    idle = IdleSegment(uv.prepare_next_counter)
    uv.prepare_next_counter += 1
    uv.prepare_inflight = idle
    size = _size(uv)

    def make() -> None:
        fd = fs.allocate_file(uv.dir, idle.name, size, uv.fallocate, uv.direct_io)
        try:
            # Writes to the segment are durable only if its name is.
            fs.sync_dir(uv.dir)
        except Failure:
            fs.close(fd)
            fs.remove_file(uv.dir, idle.name)
            raise
        idle.fd = fd

    work.run(uv, make, lambda failure: _created(uv, idle, failure))


def _created(uv: state.Uv, idle: IdleSegment, failure: Failure | None) -> None:
    uv.prepare_inflight = None
    if uv.closing:
        if failure is None:
            _discard(uv, idle)
        closing.maybe_fire(uv)
        return
    uv.prepare_failure = failure
    if failure is not None:
        uv.prepare_failure = failure.wrap(f"create segment {idle.name}")
        retry.failed(uv, uv.prepare_failure, try_again)
        _fail_all(uv, uv.prepare_failure)
        return
    uv.prepare_pool.append(idle)
    _serve(uv)


def _serve(uv: state.Uv) -> None:
    """Give segments to those who wait, then go on filling up. A callback may close or ask for more meanwhile."""
    while uv.prepare_reqs and not uv.closing:
        idle = _take(uv)
        if idle is None:
            break
        uv.prepare_reqs.popleft()(idle, None)
    if not uv.closing:
        _refill(uv)


def _fail_all(uv: state.Uv, failure: Failure) -> None:
    """Call back all who wait now; requests that a callback makes are for another attempt."""
    waiting = list(uv.prepare_reqs)
    uv.prepare_reqs.clear()
    for cb in waiting:
        cb(None, failure)


def _discard(uv: state.Uv, idle: IdleSegment) -> None:
    """Close and remove a segment that nothing was written to; if that fails, the next start removes it."""
    try:
        fs.close(idle.fd)
        closing.require_dir(uv)
        fs.remove_file(uv.dir, idle.name)
    except (OSError, Failure) as exc:
        trace(uv.tracer, f"remove unused {idle.name}: {exc}", TRACE_WARN)


def _fill(uv: state.Uv) -> None:
    """Begin, in a thread, to fill the oldest segment of the reserve that is not filled far enough yet."""
    if not uv.zero_fill or DIRECT in uv.refusals or any(idle.filling for idle in uv.prepare_pool):
        return
    goal = _goal(uv)
    idle = next((idle for idle in uv.prepare_pool if idle.filled < goal), None)
    if idle is None:
        return
    idle.filling = True
    uv.aborting.append(idle)
    work.run(uv, lambda: _write_zeros(uv, idle, goal), lambda failure: _filled(uv, idle, goal, failure))


def _write_zeros(uv: state.Uv, idle: IdleSegment, goal: int) -> None:
    """Overwrite the segment with zeros up to `goal` through a descriptor without O_DSYNC, and sync once; in a thread.

    Where direct I/O turns out to be refused it is zeros already, only not written ones.
    """
    try:
        fd = fs.open_file(uv.dir, idle.name, os.O_WRONLY)
        try:
            fs.try_direct(fd, uv.refusals)
            offset = idle.filled
            while offset < goal and DIRECT not in uv.refusals:
                piece = _ZEROS[: min(FILL_PIECE, goal - offset)]
                began = time.monotonic()
                offset += _direct_write(uv, fd, piece, offset)
                if idle.stop.wait((time.monotonic() - began) * FILL_PAUSE):
                    return
            fs.fdatasync(fd)
        finally:
            fs.close(fd)
    except OSError as exc:
        raise failure("write", exc) from None


def _direct_write(uv: state.Uv, fd: int, piece: memoryview, offset: int) -> int:
    try:
        return fs.pwrite(fd, piece, offset)
    except OSError as exc:
        if not refused(exc):
            raise
        uv.refusals.note(DIRECT, exc, "a write with O_DIRECT")
        return 0


def _filled(uv: state.Uv, idle: IdleSegment, goal: int, failure: Failure | None) -> None:
    idle.filling = False
    idle.filled = goal
    uv.aborting.remove(idle)
    if uv.closing:
        _discard(uv, idle)
        closing.maybe_fire(uv)
        return
    if failure is not None:
        # The disk refuses this very file: entries had better go elsewhere.
        uv.prepare_pool.remove(idle)
        _discard(uv, idle)
        uv.prepare_failure = failure.wrap(f"fill segment {idle.name}")
        retry.failed(uv, uv.prepare_failure, try_again)
        if not uv.prepare_reqs:
            return  # the next one may be refused as well: it can wait for the timer
    _serve(uv)

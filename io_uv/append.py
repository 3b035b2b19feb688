"""Storing entries: RaftIo.append, and the barriers that truncating and snapshots wait at.

Duty: put batches of entries into open segments, in order, with one write in flight at a time, and call back when they
are durable (uv_append.c).

Happy path: append() encodes the batch into the memory of the newest segment that has room for it, asking prepare for
another segment if there is none. When the segment is ready, no write is in flight and no barrier holds it back, all
that has gathered for it is written at once (advance). The completion fires the callbacks in order and the next write
starts. A segment that is full or met by a barrier is handed to finalize when its last write is done; finalize tells
through `uv.after_finalize` when all are closed, and the next barrier request gets its turn.

Failure modes. A segment cannot be prepared: all appends that are not being written fail with its status. A write fails:
it and all that wait fail, the next index goes back to the first entry that is not on disk, and the segment ends with
what was good. Closed segments are not in the state they should be in (retry): appends fail with that reason. In every
case appends work again as soon as the disk does. A callback never fires inside append().
"""

import contextlib
import functools
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from io_uv import callbacks, closing, encoding, finalize, fs, prepare, retry, state
from io_uv.failure import Failure
from io_uv.libc import Place
from io_uv.refusal import STATX, refused
from io_uv.segment_buffer import FORMAT_SIZE, SegmentBuffer, batch_size
from pyraft import errors
from pyraft.tracing import TRACE_WARN, trace
from pyraft.types import Entries, EntryBatch, RaftIo, RaftIoAppend, raft_io_append_cb

_MISALIGNED: Final = "entry buffers must be 8-byte aligned"

_SLICE_SECONDS: Final = 0.01
"""After so long the rest of the callbacks of a write waits for a later turn of the loop."""


class Barrier:
    """A request to run when all earlier appends are written and their segments are closed (C's struct UvBarrierReq).

    A blocking one (truncate, install) holds back the writes of all later appends until release_barrier(); a
    non-blocking one (a snapshot of our own) only makes them go to new segments. `run()` is called once; if uv.closing
    is set then, the request has to give up. `next_index` is what the request makes of the next append index; a higher
    one leaves entries out, which makes the request a blocking one.
    """

    __slots__ = ("blocking", "next_index", "run", "running")

    def __init__(self, run: Callable[[], None], blocking: bool, next_index: Callable[[int], int]) -> None:
        self.run = run
        self.blocking = blocking
        # Applied at once, and again after a failed append has rewound the index past requests that wait.
        self.next_index = next_index
        self.running = False

    def advance(self, former: int) -> int:
        """Return the next append index after this request, and have it block if that leaves entries out."""
        index = self.next_index(former)
        self.blocking = self.blocking or index > former
        return index


class AliveSegment:
    """An open segment that is written, or will be. Its `counter` is 0, and `fd` -1, until it is ready."""

    __slots__ = (
        "barrier",
        "buffer",
        "counter",
        "fd",
        "finalize",
        "first_index",
        "last_index",
        "lost",
        "place",
        "size",
        "written",
    )

    def __init__(self, first_index: int, block_size: int) -> None:
        self.counter = 0
        self.fd = -1
        self.first_index = first_index
        self.buffer = SegmentBuffer(block_size)
        # The first barrier request that came after it.
        self.barrier: Barrier | None = None
        # Whether it takes no more entries and is to be closed when all that waits for it is written: each that has a
        # barrier, is full, or had a write that failed.
        self.finalize = False
        # Bytes promised to batches, written or not.
        self.size = FORMAT_SIZE
        # The file and its path, where one question answers the next one.
        self.place: Place | None = None
        # Why nobody would find the file again, asked when the last write was under way.
        self.lost: Failure | None = None
        # The durable part: bytes and index of the last entry.
        self.written = 0
        self.last_index = first_index - 1


class Append:
    """A RaftIoAppend under way: `n` entries from `first_index` on, encoded into the segment's buffer."""

    __slots__ = ("first_index", "n", "req", "segment")

    def __init__(self, req: RaftIoAppend, n: int, first_index: int, segment: AliveSegment) -> None:
        self.req = req
        self.n = n
        self.first_index = first_index
        self.segment = segment


def check(uv: state.Uv, bufs: Sequence[bytes], n: int) -> int:
    """Return what an append of payloads like these would come to, as far as that is known: see RaftIo.defer.

    The first append that a sick disk makes fail is let through and fails by its callback: that is what makes a leader
    step down, so that a server with a healthy disk takes over. Only then are others refused at once, until a write has
    succeeded: leading again implies a successful write, so a new leader again gets one asynchronous failure.
    """
    if n == 0:
        # Nothing is going to be written: the asker wants to be called at the end of the turn.
        return 0
    lengths = {len(bufs[0])} if len(bufs) == 1 else set(map(len, bufs))
    longest = max(lengths)
    if not _are_aligned(lengths):
        uv.io.errmsg = _MISALIGNED
        return errors.RAFT_INVALID
    if longest > uv.limits.payload:
        # The others, which are set up alike, would end the connection whenever it comes.
        uv.io.errmsg = f"a payload of {longest} bytes exceeds the limit of {uv.limits.payload}, see raft_uv_limits"
        return errors.RAFT_TOOBIG
    if not uv.append_told:
        return 0
    failure = retry.failing(uv)
    if failure is None and uv.prepare_failure is not None and not uv.prepare_pool:
        size = batch_size(EntryBatch([], [], list(bufs)))
        last = _last(uv)
        if last is None or last.finalize or last.size + size > uv.segment_size:
            failure = uv.prepare_failure
    if failure is None:
        return 0
    uv.io.errmsg = errors.errmsg_cut(failure.message)
    return failure.code


def append(io: RaftIo, req: RaftIoAppend, entries: Entries, n: int, cb: raft_io_append_cb) -> int:
    """RaftIo.append: store the first `n` entries behind the last ones; `cb(req, status)` when they are durable.

    Returned at once, without a callback: RAFT_INVALID for no entries, too few, or a payload whose length is not a
    multiple of 8; RAFT_TOOBIG for one of 4 GiB and more; RAFT_NOMEM; RAFT_IOERR without descriptors; RAFT_CANCELED
    after io.close. Through the callback: RAFT_NOSPACE, RAFT_IOERR, RAFT_TOOMANY without threads, RAFT_CANCELED.
    """
    uv: state.Uv = io.impl
    uv.loop.check()
    if uv.closing:
        return closing.refuse(uv)
    if type(entries) is EntryBatch and len(entries.bufs) == n > 0:
        batch = entries  # the core's
    elif n <= 0 or len(entries) < n:
        io.errmsg = f"append of {n} entries out of {len(entries)}"
        return errors.RAFT_INVALID
    else:
        try:
            batch = EntryBatch.of(entries, n)
        except (TypeError, ValueError, BufferError) as exc:
            io.errmsg = errors.errmsg_cut(str(exc))
            return errors.RAFT_INVALID
    bufs = batch.bufs
    if n > 1:
        encoding.look(batch)
    if len(bufs[0]) % 8 != 0 or (n > 1 and batch.alike < 0 and not _are_aligned(map(len, bufs))):
        io.errmsg = _MISALIGNED
        return errors.RAFT_INVALID
    req.cb = cb
    failure = uv.finalize_failure  # retry.failing, without its call
    if failure is None and uv.truncate_work is not None:
        failure = uv.truncate_work.failure
    if failure is not None:
        _fail_later(uv, req, failure)
        return 0
    try:
        _enqueue(uv, req, batch, n)
    except Failure as refused:
        io.errmsg = errors.errmsg_cut(refused.message)
        trace(uv.tracer, io.errmsg, TRACE_WARN)
        return refused.code
    if req.may_wait:
        uv.end_of_turn.add_last(uv.append_start)
    else:
        advance(uv)
    return 0


def _are_aligned(lengths: Iterable[int]) -> bool:
    return functools.reduce(operator.or_, lengths) % 8 == 0


def _fail_later(uv: state.Uv, req: RaftIoAppend, failure: Failure) -> None:
    """Call back with the failure in the next turn."""
    uv.append_told = True
    uv.append_doomed.append((req, failure))
    if len(uv.append_doomed) == 1:
        uv.end_of_turn.add(lambda: _fail_doomed(uv))


def _fail_doomed(uv: state.Uv) -> None:
    """Call back the appends that came while the disk was known to be sick."""
    _call_back_all(uv)
    doomed = list(uv.append_doomed)
    uv.append_doomed.clear()
    for req, failure in doomed:
        uv.io.errmsg = errors.errmsg_cut(failure.message)
        callbacks.fire(uv, req.cb, req, failure.code)


def _last(uv: state.Uv) -> AliveSegment | None:
    """Return the newest segment."""
    return uv.append_segments[-1] if uv.append_segments else None


def _enqueue(uv: state.Uv, req: RaftIoAppend, batch: EntryBatch, n: int) -> None:
    """Encode a batch into the segment that it belongs to; raises Failure and changes nothing if that cannot be done."""
    size = batch_size(batch)
    segment: AliveSegment | None = uv.append_segments[-1] if uv.append_segments else None
    if segment is None or segment.finalize or segment.size + size > uv.segment_size:
        full, segment = segment, _new_segment(uv, batch, size)
        if full is not None:
            full.finalize = True
    else:
        segment.buffer.append(batch, size)
    segment.size += size
    uv.append_pending_reqs.append(Append(req, n, uv.append_next_index, segment))
    uv.append_next_index += n


def _new_segment(uv: state.Uv, batch: EntryBatch, size: int) -> AliveSegment:
    """Add a segment that holds the batch, and request a file for it."""
    segment = AliveSegment(uv.append_next_index, uv.block_size)
    try:
        segment.buffer.format()
        segment.buffer.append(batch, size)
        if uv.prepare_pool:
            _set_up_writer(uv, uv.prepare_pool[0].counter)
    except Failure:
        segment.buffer.close()
        raise
    uv.append_segments.append(segment)
    ready = prepare.get(uv, lambda idle, failure: _prepared(uv, segment, idle, failure))
    if ready is not None:
        segment.fd, segment.counter = ready.fd, ready.counter
    return segment


def _set_up_writer(uv: state.Uv, counter: int) -> None:
    try:
        uv.writer.setup()
    except Failure as failure:
        raise failure.wrap(f"setup writer for open-{counter}") from None


def _prepared(uv: state.Uv, segment: AliveSegment, idle: "prepare.IdleSegment | None", failure: Failure | None) -> None:
    """Completion of prepare.get."""
    if idle is not None:
        try:
            _set_up_writer(uv, idle.counter)
        except Failure as refused:
            failure = refused
            closing.close_file(idle.fd)
            finalize.submit(uv, finalize.DyingSegment(idle.counter, 0, 0, 0))
    if failure is not None:
        # Another one may be gone already, with a request that failed together with this one.
        if segment in uv.append_segments:
            uv.append_segments.remove(segment)
        segment.buffer.close()
        if not uv.closing:
            fail_pending(uv, failure)
            _proceed(uv)
        return
    assert idle is not None
    segment.fd, segment.counter = idle.fd, idle.counter
    advance(uv)


def _proceed(uv: state.Uv) -> None:
    """Run the barrier request whose turn it is, if any, and then do what can be done: in this order everywhere."""
    if uv.barriers:
        _maybe_trigger_barrier(uv)
    advance(uv)


def advance(uv: state.Uv) -> None:
    """Do what can be done now: write what waits for the oldest segment, or close it and go on with the next."""
    if uv.closing or uv.append_writing_reqs or uv.append_done_reqs:
        return
    while uv.append_segments:
        segment: AliveSegment = uv.append_segments[0]
        pending = uv.append_pending_reqs
        if pending and pending[0].segment is segment:
            if segment.counter != 0 and not uv.append_broken and not (uv.barriers and _holds_back(uv, segment)):
                _write(uv, segment)
            return
        if not segment.finalize:
            return
        if segment.counter == 0:
            return
        _finalize(uv, segment)


def _write(uv: state.Uv, segment: AliveSegment) -> None:
    """Write all that waits for the segment, or the first batch only if nothing was written to it yet."""
    pending, writing = uv.append_pending_reqs, uv.append_writing_reqs
    last_index = segment.last_index
    while pending and pending[0].segment is segment:
        request = pending.popleft()
        last_index = request.first_index + request.n - 1
        writing.append(request)
        if segment.written == 0:
            break
    arena, length, used = segment.buffer.take()
    offset = segment.written - segment.written % uv.block_size  # a partly used last block is written again
    uv.writes.began = time.monotonic()
    done = functools.partial(_write_cb, uv, segment, offset + used, last_index)
    uv.writer.submit(segment.fd, arena, length, offset, done)
    # Asked while the disk is at work, so that it takes no time. C acknowledges what goes into a file that nobody will
    # find again.
    segment.lost = _lost(uv, segment)


def _write_cb(uv: state.Uv, segment: AliveSegment, written: int, last_index: int, failure: Failure | None) -> None:
    """Completion of a write: up to byte `written` and entry `last_index` the segment is durable, unless it failed."""
    segment.buffer.given_back()
    if failure is None:
        failure = segment.lost
    uv.append_done_reqs.extend(uv.append_writing_reqs)
    uv.append_writing_reqs.clear()
    now = time.monotonic()
    if failure is None:
        uv.writes.observe(now - uv.writes.began)
        segment.written = written
        segment.last_index = last_index
        uv.append_told = False
    uv.end_of_turn.hold()
    try:
        if failure is None:
            _call_back(uv, now)
        else:
            _write_failed(uv, segment, failure)
    finally:
        uv.end_of_turn.release()
    if uv.closing:
        assert not uv.append_pending_reqs
        if segment in uv.append_segments:
            _finalize(uv, segment)
        return
    if uv.barriers:  # _proceed
        _maybe_trigger_barrier(uv)
    advance(uv)
    if uv.held:
        uv.after_append()


def _call_back(uv: state.Uv, now: float) -> None:
    """Call back the appends that were in a write which succeeded: the first ones, or a part in each turn of the loop.

    C: uv_append.c:uvAppendFinishRequestsInQueue calls back all of them in one go. With a hundred thousand that takes
    seconds, in which no heartbeat goes out. While some are left the write counts as under way: nothing else is written.
    """
    done = uv.append_done_reqs
    until = now + _SLICE_SECONDS
    while done:
        req = done.popleft().req
        if req.cb is not None:  # callbacks.fire, without its call
            try:
                req.cb(req, 0)
            except Exception as exc:
                callbacks.report(uv, exc)
        # A callback may close the server, which calls back the rest.
        if done and time.monotonic() >= until and not uv.closing:
            uv.end_of_turn.later(lambda: _call_back_rest(uv))
            return


def _call_back_rest(uv: state.Uv) -> None:
    """Call back the next part, and go on as after a write if it was the last one."""
    if uv.closing:
        return
    uv.end_of_turn.hold()
    try:
        _call_back(uv, time.monotonic())
    finally:
        uv.end_of_turn.release()
    _proceed(uv)
    if uv.held:
        uv.after_append()


def is_busy(uv: state.Uv) -> bool:
    """Return whether an append has not been called back yet."""
    return bool(uv.append_pending_reqs or uv.append_writing_reqs or uv.append_done_reqs or uv.append_doomed)


def _call_back_all(uv: state.Uv) -> None:
    """Call back what is left of a write at once: something is about to be called back that came later."""
    done = uv.append_done_reqs
    while done:
        request = done.popleft()
        callbacks.fire(uv, request.req.cb, request.req, 0)


def _write_failed(uv: state.Uv, segment: AliveSegment, failure: Failure) -> None:
    """Fail the appends that were in a write, and all that wait: at once, as the next index depends on it."""
    trace(uv.tracer, f"write: {failure.message}", TRACE_WARN)
    # The failed part may be on the disk all the same. Until this segment is cut behind its last good entry nothing may
    # be written to the next: after a crash both would be read, one behind the other. C does not wait.
    uv.append_broken = True
    _finalize(uv, segment)
    # Raft wants entries stored in order, so all that wait fail as well. C rewinds the index group by group.
    failed = [*uv.append_done_reqs, *uv.append_pending_reqs]
    uv.append_done_reqs.clear()
    uv.append_pending_reqs.clear()
    _fail(uv, failed, failure)


def _lost(uv: state.Uv, segment: AliveSegment) -> Failure | None:
    """Return why nobody will find the segment again: it was removed, or the directory is not where it was.

    Neither has happened if the path of the segment leads to the file that is written, and no other path does. Otherwise
    two questions tell which of them it is.
    """
    place, segment.place = segment.place, None
    if place is not None:
        try:
            if fs.leads_to(place):
                segment.place = place
                return None
        except OSError:
            pass
    if _is_removed(uv, segment.fd):
        return Failure(errors.RAFT_IOERR, f"open-{segment.counter} was removed")
    try:
        closing.require_dir(uv)
    except Failure as failure:
        return failure
    if STATX not in uv.refusals:
        with contextlib.suppress(OSError):
            segment.place = fs.place(segment.fd, f"{uv.dir}/open-{segment.counter}")
    return None


def _is_removed(uv: state.Uv, fd: int) -> bool:
    """Return whether somebody has removed the file, with its directory maybe, while it is in use."""
    if STATX not in uv.refusals:
        try:
            return fs.links(fd) == 0
        except OSError as exc:
            if not refused(exc):
                return False
            uv.refusals.note(STATX, exc)
    try:
        return fs.fstat(fd).st_nlink == 0
    except OSError:
        return False


def fail_pending(uv: state.Uv, failure: Failure) -> None:
    """Fail all appends that are not being written."""
    _call_back_all(uv)
    failed = list(uv.append_pending_reqs)
    uv.append_pending_reqs.clear()
    _fail(uv, failed, failure)


def _fail(uv: state.Uv, failed: list[Append], failure: Failure) -> None:
    """Rewind the next index to before these appends, and call them back.

    C: uv_append.c:uvAppendFinishRequestsInQueue subtracts the number of entries, which goes wrong when a truncate that
    is still waiting has set the index meanwhile; here the requests that wait have the last word.
    """
    if not failed:
        return
    index = failed[0].first_index
    for waiting in uv.barriers:
        if not waiting.running:
            index = waiting.advance(index)
    uv.append_next_index = index
    _spread_blocking(uv)
    uv.append_told = True
    for segment in uv.append_segments:
        # Its buffer holds what was encoded for the failed ones, and an unused segment would begin with another index.
        segment.finalize = True
    uv.io.errmsg = errors.errmsg_cut(failure.message)
    for request in failed:
        callbacks.fire(uv, request.req.cb, request.req, failure.code)


def _finalize(uv: state.Uv, segment: AliveSegment) -> None:
    """Take a segment out of use: no write to it is in flight and none waits."""
    uv.append_segments.remove(segment)
    segment.buffer.close()
    closing.close_file(segment.fd)
    prepare.used(uv, segment.written)
    finalize.submit(
        uv, finalize.DyingSegment(segment.counter, segment.written, segment.first_index, segment.last_index)
    )


def after_finalize(uv: state.Uv, failure: Failure | None) -> None:
    """Take note that no segment waits for being closed any more, or that one could not be: `uv.after_finalize`."""
    if failure is not None:
        fail_pending(uv, failure)
        return
    uv.append_broken = False
    _proceed(uv)


def request_barrier(uv: state.Uv, barrier: Barrier) -> None:
    """Queue a request behind all others; it runs inside this call if there is nothing to wait for (C: UvBarrier).

    Requests run one at a time, in order. A blocking one makes those that it waits behind blocking, too.
    """
    assert not uv.closing
    uv.append_next_index = barrier.advance(uv.append_next_index)
    uv.barriers.append(barrier)
    _spread_blocking(uv)
    for segment in uv.append_segments:
        if segment.barrier is None:
            segment.barrier = barrier
            segment.finalize = True
    _proceed(uv)


def _spread_blocking(uv: state.Uv) -> None:
    """Make each request in front of a blocking one blocking: writes behind the last must not begin before the first."""
    blocking = False
    for barrier in reversed(uv.barriers):
        blocking = barrier.blocking = barrier.blocking or blocking


def release_barrier(uv: state.Uv) -> None:
    """End the request that is running and let go what it held back (C: UvUnblock)."""
    head = uv.barriers.popleft()
    assert head.running
    if uv.closing:
        closing.maybe_fire(uv)
        return
    _proceed(uv)


def _holds_back(uv: state.Uv, segment: AliveSegment) -> bool:
    """Return whether a barrier request forbids writing to a segment now."""
    head = _current_barrier(uv)
    if head is None or not head.blocking:
        return False
    if segment.barrier is not head:
        return True
    # C: uv_append.c:uvAppendMaybeStart lets the barrier's second segment be written while its first is being closed
    # (its own comment says so). If closing fails there must be no entries past the gap (B28).
    return not finalize.idle(uv)


def _current_barrier(uv: state.Uv) -> Barrier | None:
    """Return the request that is running or next to run."""
    return uv.barriers[0] if uv.barriers else None


def _maybe_trigger_barrier(uv: state.Uv) -> None:
    """Run the next request if nothing that it waits for is left."""
    head = _current_barrier(uv)
    if head is None or head.running or not finalize.idle(uv):
        return
    if any(segment.barrier is head for segment in uv.append_segments):
        return
    head.running = True
    head.run()


def _cancel_barriers(uv: state.Uv) -> None:
    """At io.close: have all requests give up that have not run yet; one that is running is released as ever."""
    waiting = [barrier for barrier in uv.barriers if not barrier.running]
    for barrier in waiting:
        uv.barriers.remove(barrier)
    for segment in uv.append_segments:
        segment.barrier = None
    for barrier in waiting:
        barrier.run()


def close(uv: state.Uv) -> None:
    """Fail what is not being written with RAFT_CANCELED, and close the segments: the one being written after that."""
    assert uv.closing
    _cancel_barriers(uv)
    prepare.close(uv)
    _fail_doomed(uv)
    fail_pending(uv, Failure(errors.RAFT_CANCELED, errors.raft_strerror(errors.RAFT_CANCELED)))
    for segment in list(uv.append_segments):
        segment.finalize = True
        if not (uv.append_writing_reqs and segment is uv.append_segments[0]):
            _finalize(uv, segment)

"""Closing open segments that are not written any more.

Duty: in a thread, one at a time and in order, cut a segment to the bytes used, sync it, rename it to its closed name,
or remove it if nothing was written; then sync the directory (uv_finalize.c). `uv.after_finalize`, which append sets, is
called when the last one is closed, or when one could not be.

Happy path: submit() queues, the thread works, the next one starts.

Failure modes: a step fails. C forgets it and goes on, which leaves an open segment in front of closed ones, a directory
that does not load. Here the segment stays at the head of the queue and is tried again (retry); nothing overtakes it,
and appends fail with its status meanwhile. Entries in it are durable all the time: it is a valid open segment. When
io.close comes first, one more attempt is made, and if that fails the rest is left open too, for the next start.
"""

from io_uv import closing, fs, retry, segment, state, work
from io_uv.failure import Failure


class DyingSegment:
    """An open segment that is not written any more; `used` bytes of it count, 0 if nothing was written."""

    __slots__ = ("counter", "first_index", "last_index", "moved", "used")

    def __init__(self, counter: int, used: int, first_index: int, last_index: int) -> None:
        assert used == 0 or 0 < first_index <= last_index
        self.counter = counter
        self.used = used
        self.first_index = first_index
        self.last_index = last_index
        # Whether only the directory sync is left to do.
        self.moved = False


def submit(uv: state.Uv, dying: DyingSegment) -> None:
    """Close a segment when those before it are closed."""
    uv.finalize_reqs.append(dying)
    if uv.finalize_failure is None or uv.closing:
        _start(uv)


def idle(uv: state.Uv) -> bool:
    """Return whether no segment waits for being closed."""
    return not uv.finalize_reqs


def try_again(uv: state.Uv) -> None:
    """Make another attempt after a failure, if there was one."""
    if uv.finalize_failure is not None:
        _start(uv)


def close(uv: state.Uv) -> None:
    """Make the last attempt, at io.close."""
    try_again(uv)


def _start(uv: state.Uv) -> None:
    if uv.finalize_busy or not uv.finalize_reqs:
        return
    dying: DyingSegment = uv.finalize_reqs[0]
    uv.finalize_busy = True
    work.run(uv, lambda: _close_segment(uv.dir, dying), lambda failure: _after(uv, dying, failure))


def _close_segment(dir: str, dying: DyingSegment) -> None:
    name = segment.open_name(dying.counter)
    if not dying.moved:
        if dying.used == 0:
            fs.remove_file(dir, name)
        else:
            new_name = segment.closed_name(dying.first_index, dying.last_index)
            fs.truncate_and_rename(dir, name, dying.used, new_name, True)
        dying.moved = True
    fs.sync_dir(dir)


def _after(uv: state.Uv, dying: DyingSegment, failure: Failure | None) -> None:
    uv.finalize_busy = False
    if failure is not None:
        _failed(uv, dying, failure)
        return
    uv.finalize_failure = None
    uv.finalize_reqs.popleft()
    _start(uv)
    if idle(uv):
        uv.after_finalize(None)
    closing.maybe_fire(uv)


def _failed(uv: state.Uv, dying: DyingSegment, failure: Failure) -> None:
    """Keep the segment for another attempt, or leave everything as it is if the instance closes."""
    failure = failure.wrap(f"close segment {segment.open_name(dying.counter)}")
    if uv.closing:
        # C: uv_finalize.c:uvFinalizeAfterWorkCb goes on with the next. A closed segment behind an open one does not
        # load, so none is closed any more: all of them stay open segments, which the next start reads in order.
        uv.finalize_reqs.clear()
        uv.finalize_failure = None
        retry.failed(uv, failure, try_again)
        closing.maybe_fire(uv)
        return
    uv.finalize_failure = failure
    retry.failed(uv, failure, try_again)
    uv.after_finalize(failure)

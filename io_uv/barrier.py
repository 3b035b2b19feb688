"""Barriers: what truncating and snapshots wait for, and what may wait for them.

Duty: a barrier request runs when all appends that came before it are written and their segments are closed. A blocking
one (truncate, install) holds back the writes of all appends that come after it until it is released, a non-blocking one
(a snapshot of our own) only makes them go to new segments. Requests run one at a time, in order; one that is blocking
makes those that it waits behind blocking too (uv_append.c: UvBarrier).

Happy path: request() marks the segments in use; when the last of them is closed the request's `run` is called; who
made the request calls release() when it is done, and the next one gets its turn.

Failure modes: closing. close() calls `run` of all requests that have not run; each finds uv.closing and gives up.
"""

from collections.abc import Callable

from io_uv import append, closing, finalize, state


class Barrier:
    """A request. `run()` is called once. `next_index` is what the request sets the next append index to, or None."""

    __slots__ = ("blocking", "next_index", "run", "running")

    def __init__(self, run: Callable[[], None], blocking: bool, next_index: Callable[[int], int]) -> None:
        self.run = run
        self.blocking = blocking
        # What the next index is after this request if it was so much before: to rewind past requests that wait.
        self.next_index = next_index
        self.running = False


def request(uv: state.Uv, barrier: Barrier) -> None:
    """Queue a request; it runs inside this call if there is nothing to wait for."""
    assert not uv.closing
    uv.append_next_index = barrier.next_index(uv.append_next_index)
    if barrier.blocking:
        for earlier in uv.barriers:
            earlier.blocking = True
    uv.barriers.append(barrier)
    for alive in uv.append_segments:
        if alive.barrier is None:
            alive.barrier = barrier
            alive.finalize = True
    append.advance(uv)
    maybe_trigger(uv)


def holds_back(uv: state.Uv, alive: "append.AliveSegment") -> bool:
    """Return whether a segment must not be written to now."""
    head = current(uv)
    if head is None or not head.blocking:
        return False
    if alive.barrier is not head:
        return True
    # C: uv_append.c:uvAppendMaybeStart lets the barrier's second segment be written while its first is being closed
    # (its own comment says so). If closing fails there must be no entries past the gap (B28).
    return not finalize.idle(uv)


def current(uv: state.Uv) -> Barrier | None:
    """Return the request that is running or next to run."""
    return uv.barriers[0] if uv.barriers else None


def maybe_trigger(uv: state.Uv) -> None:
    """Run the next request if nothing that it waits for is left."""
    head = current(uv)
    if head is None or head.running or not finalize.idle(uv):
        return
    if any(alive.barrier is head for alive in uv.append_segments):
        return
    head.running = True
    head.run()


def release(uv: state.Uv) -> None:
    """End the request that is running and let go what it held back."""
    head = uv.barriers.popleft()
    assert head.running
    if uv.closing:
        closing.maybe_fire(uv)
        return
    maybe_trigger(uv)
    append.advance(uv)


def close(uv: state.Uv) -> None:
    """Have all requests give up that have not run yet; one that is running is released as ever."""
    assert uv.closing
    waiting = [barrier for barrier in uv.barriers if not barrier.running]
    for barrier in waiting:
        uv.barriers.remove(barrier)
    for alive in uv.append_segments:
        alive.barrier = None
    for barrier in waiting:
        barrier.run()

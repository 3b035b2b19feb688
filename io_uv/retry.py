"""Trying again what a sick disk refused: a timer that runs only while something is left to try.

Duty: a full or failing disk is a state, not an end. While segments cannot be prepared, closed or cut, appends fail with
the reason (append), and this timer repeats the step every `uv.disk_retry_delay` ms until it succeeds; then appends work
again without anybody's help. C tries a preparation again with the next append, and the others never.

Happy path: a module that fails keeps its failure in `uv` and hands failed() the function that makes another attempt,
if there is still a failure; it clears the failure after a success. The logger `io_uv` hears of the beginning and the
end of such a state, which lasts as long as there are such functions (`uv.retries`). It ends when the reserve of
segments is whole and nothing has failed for CALM delays: on a disk with room for one segment but not for two, every
other attempt succeeds.

An install that cannot remove the former log has a timer of its own (snapshot), which ends with its put. Meanwhile
appends wait and do not fail.

Failure modes: none of its own; the timer ends with io.close.
"""

import logging
from collections.abc import Callable
from typing import Final

from io_uv import closing, state
from io_uv.failure import Failure
from io_uv.pyuv import Timer
from pyraft.errors import RAFT_CANCELED
from pyraft.tracing import TRACE_WARN, trace

CALM: Final = 10

_log: Final = logging.getLogger("io_uv")


def failed(uv: state.Uv, failure: Failure, try_again: Callable[[state.Uv], None]) -> None:
    """Take note of what the disk refused, and have all that has failed tried again after the delay.

    `try_again(uv)` makes another attempt if the failure still stands; it is called until the disk is healthy.
    """
    if failure.code == RAFT_CANCELED:
        return  # the loop was closed under the instance: it was not the disk, and there will be no other attempt
    uv.calm = 0
    trace(uv.tracer, failure.message, TRACE_WARN)
    if not uv.retries:
        _log.warning("%s: %s; trying again every %s ms", uv.dir, failure.message, uv.disk_retry_delay)
    if try_again not in uv.retries:
        uv.retries.append(try_again)
    if uv.closing:
        return
    if uv.retry_timer is None:
        uv.retry_timer = Timer(uv.loop)
        uv.aborting.append(uv.retry_timer)
    if not uv.retry_timer.active:
        _start(uv)


def failing(uv: state.Uv) -> Failure | None:
    """Return why closed segments are not in the state they should be in, or None: while so, appends fail with it."""
    failure = uv.finalize_failure
    if failure is None and uv.truncate_work is not None:
        failure = uv.truncate_work.failure
    return failure


def close(uv: state.Uv) -> None:
    """Stop trying."""
    if uv.retry_timer is not None:
        uv.retry_timer.close(lambda timer: closing.gone(uv, timer))
        uv.retry_timer = None


def _start(uv: state.Uv) -> Timer:
    timer = uv.retry_timer
    assert timer is not None
    timer.start(lambda _: _expired(uv), uv.disk_retry_delay / 1000, 0.0)
    return timer


def _expired(uv: state.Uv) -> None:
    timer = _start(uv)
    if failing(uv) is None and uv.prepare_failure is None:
        uv.calm += 1
        if uv.calm >= CALM and uv.prepare_inflight is None:
            timer.stop()
            uv.retries.clear()
            # No more than that: a server that could not store its term or vote meanwhile has stopped for good.
            _log.warning("%s: segments can be made and closed again", uv.dir)
        return
    for try_again in list(uv.retries):
        try_again(uv)

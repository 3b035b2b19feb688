"""Trying again what a sick disk refused: a timer that runs only while something is left to try.

Duty: a full or failing disk is a state, not an end. While segments cannot be prepared, closed or cut, appends fail with
the reason (append), and this timer repeats the step every `uv.disk_retry_delay` ms until it succeeds; then appends work
again without anybody's help. C tries a preparation again with the next append, and the others never.

Happy path: whoever fails keeps its failure in `uv` and calls failed(); after a success, succeeded(). The logger `io_uv`
hears of the beginning and the end of such a state. Failure modes: none of its own; the timer ends with io.close.
"""

import logging
from typing import Any, Final

from io_uv import closing, finalize, prepare, state, truncate
from io_uv.fs import Failure
from io_uv.pyuv import Timer
from pyraft.tracing import TRACE_WARN, trace

_log: Final = logging.getLogger("io_uv")


def failed(uv: state.Uv, failure: Failure) -> None:
    """Take note of what the disk refused, and have all that has failed tried again after the delay."""
    uv.errored = True
    trace(uv.tracer, failure.message, TRACE_WARN)
    if not uv.sick:
        uv.sick = True
        _log.warning("%s: %s; trying again every %s ms", uv.dir, failure.message, uv.disk_retry_delay)
    if uv.closing:
        return
    if uv.retry_timer is None:
        uv.retry_timer = Timer(uv.loop)
        uv.aborting.append(uv.retry_timer)
    if not uv.retry_timer.active:
        uv.retry_timer.start(lambda _: _expired(uv), uv.disk_retry_delay / 1000, 0.0)


def succeeded(uv: state.Uv) -> None:
    """Take note that something worked that may have failed before."""
    if uv.prepare_failure is not None or failing(uv) is not None:
        return
    uv.append_told = False
    if uv.sick:
        uv.sick = False
        _log.warning("%s: the disk works again", uv.dir)


def failing(uv: state.Uv) -> Failure | None:
    """Return why closed segments are not in the state they should be in, or None: while so, appends fail with it."""
    failure: Failure | None = uv.finalize_failure or uv.truncate_failure
    return failure


def close(uv: state.Uv) -> None:
    """Stop trying."""
    if uv.retry_timer is not None:
        uv.retry_timer.close(lambda timer: _closed(uv, timer))
        uv.retry_timer = None


def _expired(uv: state.Uv) -> None:
    prepare.try_again(uv)
    finalize.try_again(uv)
    truncate.try_again(uv)


def _closed(uv: state.Uv, timer: Any) -> None:
    uv.aborting.remove(timer)
    closing.maybe_fire(uv)

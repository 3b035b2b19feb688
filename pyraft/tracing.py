"""Tracers: where the library tells what it does, for debugging.

Duty: `RaftTracer` (raft.h), the two stock tracers of the C library, and the environment variable LIBRAFT_TRACE:
0 to 5, where 1 shows everything, 2 what happens to the cluster, 3 what should not happen, 4 what fails, 5 what stops a
server, 0 what has no level as well; unset switches tracing off.
A caller on a hot path tests `tracer.enabled` before it formats a message, through `trace`.

Failure modes: a LIBRAFT_TRACE that is not a number counts as 0, as C's atoi has it. Tracing never fails what it tells
about: a record that stderr does not take (a full disk, a closed pipe) is lost, what a user's tracer raises is logged.
"""

import contextlib
import logging
import os
import sys
import time
from _thread import get_native_id
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mypy_extensions import mypyc_attr

from pyraft.errors import printable

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

TRACE_NONE: Final = 0
TRACE_DEBUG: Final = 1
TRACE_INFO: Final = 2
TRACE_WARN: Final = 3
TRACE_ERROR: Final = 4
TRACE_FATAL: Final = 5

LIBRAFT_TRACE: Final = "LIBRAFT_TRACE"

_logger = logging.getLogger("pyraft")

_LEVEL_NAMES: Final = ("NONE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")


def _discard(t: "RaftTracer", file: str, line: int, func: str, level: int, message: str) -> None:
    return None


def _to_stderr(t: "RaftTracer", file: str, line: int, func: str, level: int, message: str) -> None:
    if level < t.level:
        return
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    name = _LEVEL_NAMES[level] if level < len(_LEVEL_NAMES) else _LEVEL_NAMES[0]
    # As with C's fprintf, nobody asks whether it worked. sys.stderr is None in a process without descriptor 2.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(
            f"LIBRAFT  [{os.getpid():06}] {stamp}.{now % 1_000_000_000:09} "
            f"{get_native_id():06} {name:<7} {func:<20} {file}:{line:<3} {message}\n"
        )


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftTracer:
    """`struct raft_tracer`: `emit(tracer, file, line, func, level, message)` is called for each record if enabled."""

    __slots__ = ("emit", "enabled", "impl", "level")

    def __init__(
        self,
        emit: Callable[["RaftTracer", str, int, str, int, str], None] = _discard,
        enabled: bool = False,
        level: int = TRACE_NONE,
    ) -> None:
        self.impl: Any = None
        self.enabled = enabled
        self.level = level
        self.emit: Callable[[Self, str, int, str, int, str], None] = emit


NoopTracer: Final = RaftTracer()
StderrTracer: Final = RaftTracer(_to_stderr)


def raft_tracer_maybe_enable(tracer: RaftTracer, enabled: bool) -> None:
    """Set `tracer.enabled` and its level from LIBRAFT_TRACE; leave it alone if that is not set (ours)."""
    text = os.environ.get(LIBRAFT_TRACE)
    if text is None:
        return
    try:
        level = int(text)
    except ValueError:
        level = TRACE_NONE
    tracer.enabled = enabled
    tracer.level = level if TRACE_NONE <= level <= TRACE_FATAL else TRACE_NONE


def trace(tracer: RaftTracer, message: str, level: int = TRACE_DEBUG, depth: int = 1) -> None:
    """Emit `message` with the place in the source of the caller, or of a caller `depth` calls up.

    Test `tracer.enabled` first where speed matters.
    """
    if not tracer.enabled or tracer.emit is None:
        return
    frame = sys._getframe(depth)
    code = frame.f_code
    path = code.co_filename
    for package in ("pyraft/", "io_uv/"):
        cut = path.rfind(package)
        if cut >= 0:
            path = path[cut:]
            break
    try:
        tracer.emit(tracer, path, frame.f_lineno, code.co_name, level, printable(message))
    except Exception as exc:
        _logger.error("a tracer raised", exc_info=exc)

"""Interrupts: Ctrl-C while a loop runs, and exceptions that come out of the middle of the loop's own lines.

Python raises KeyboardInterrupt in the main thread between two bytecodes, whatever these belong to. uvloop changes
nothing about that: its wake-up descriptor ends the wait, and what runs then is Python's handler.

Duty, first: `begin(loop)` puts a handler of ours in the place of Python's own (and of asyncio.Runner's, which raises at
the second Ctrl-C) while the loop is the main thread's. An interrupt that comes while a function of the loop or of what
is built on it is at work waits until that has returned to the loop, which raises it between two callbacks. In a
callback of the program, once an interrupt waits already, and anywhere with the third, it comes at once: a program that
computes for ever can be ended. Other handlers than these two are the program's and stay.

Second: an exception that is raised all the same (by a handler of the program, a second Ctrl-C, a debugger) may leave
anything half done. `Loop._enter` marks what it calls before, and takes the mark back when that has returned; a mark
that is found tells. Then `mend(loop)` tells whoever watches the loop that it was torn (a server stops for good: see
`io_uv.interrupted`), counts anew what keeps the loop going, and has all that may have been forgotten done again.

Failure modes: a callback that was taken off its queue when the interrupt came is not called any more.
"""

import contextlib
import functools
import linecache
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from io_uv.pyuv import threadpool

if TYPE_CHECKING:
    from io_uv.pyuv.loop import Loop

_LIBRARY: Final = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep]
"""Where functions live that are not to be interrupted: io_uv, and what `protect` adds."""

_OWN: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
"""Where the loop's own functions are."""

_CALL_BACK: Final = re.compile(r"(callback|_cb|done|alloc|actions\.popleft\(\))\(")
"""How lines look in which the loop's own functions call the program."""

_PATIENCE: Final = 3
"""The interrupt that comes at once wherever it finds the program, if those before it are still waiting."""


def protect(directory: str) -> None:
    """Take the modules in a directory for the loop's own."""
    _LIBRARY.append(os.path.abspath(directory) + os.sep)


def of_library(frame: FrameType) -> bool:
    """Return whether a frame runs a function that is not to be interrupted."""
    return frame.f_code.co_filename.startswith(tuple(_LIBRARY))


def passed_through(exc: BaseException) -> bool:
    """Return whether an exception came out of the middle of something, and not just out of a callback of the program.

    The loop's own functions have nothing left to do when they call back; those that are built on it may have.
    """
    tb: TracebackType | None = exc.__traceback__
    last = tb
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OWN):
        last, tb = tb, tb.tb_next
    if tb is None or last is None or not _calls_back(last):
        return True
    while tb is not None:
        if of_library(tb.tb_frame):
            return True
        tb = tb.tb_next
    return False


def _calls_back(tb: TracebackType) -> bool:
    """Return whether a function of the loop's had called back: a handler of a signal may raise in any other line."""
    line = linecache.getline(tb.tb_frame.f_code.co_filename, tb.tb_lineno)
    return _CALL_BACK.search(line) is not None


def passed_below(exc: BaseException) -> bool:
    """Return whether an exception that a callback of the program raised came through a function that it had called."""
    tb: TracebackType | None = exc.__traceback__
    while tb is not None and of_library(tb.tb_frame):
        tb = tb.tb_next
    found = tb is None
    while tb is not None and not found:
        found = of_library(tb.tb_frame)
        tb = tb.tb_next
    return found


# Ctrl-C while a loop runs.


class Postponed:
    """Our handler of SIGINT, for one loop at a time; `end` puts back what was there before."""

    __slots__ = ("_former", "_loop", "_waiting")

    def __init__(self, loop: "Loop", former: Callable[..., Any]) -> None:
        self._loop = weakref.ref(loop)
        self._former = former
        self._waiting = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Pass the signal on: now, or from between two callbacks of the loop."""
        self._waiting += 1
        loop = self._loop()
        if loop is None or self._waiting >= _PATIENCE or not self._at_work(loop, frame):
            self._waiting = 0
            self._former(signum, frame)
        elif self._waiting == 1 and not loop._mailbox.post(functools.partial(self._pass_on, loop, signum)):
            self._former(signum, frame)

    def _at_work(self, loop: "Loop", frame: FrameType | None) -> bool:
        """Return whether the library is at work; in a callback of the program, whether this is the first interrupt."""
        if loop._owned and not loop._uv.is_running():
            return False
        inner = frame
        while frame is not None and not of_library(frame):
            frame = frame.f_back
        return frame is not None and (frame is inner or self._waiting < 2 or not _of_program(inner, frame))

    def _pass_on(self, loop: "Loop", signum: int) -> None:
        """Between two callbacks: an interrupt that was waiting is due."""
        if self._waiting:
            self._waiting = 0
            try:
                self._former(signum, None)
            except BaseException as exc:
                loop.deliver(exc)

    def end(self) -> None:
        """Put back what was there before, unless the program has set something else meanwhile."""
        if cast(object, signal.getsignal(signal.SIGINT)) is self:
            signal.signal(signal.SIGINT, self._former)


def _of_program(inner: FrameType | None, library: FrameType) -> bool:
    """Return whether one of the frames between is the program's, and not of Python's own modules or of a package."""
    while inner is not None and inner is not library:
        name = inner.f_code.co_filename
        if not name.startswith(_PYTHON) and not name.startswith("<frozen"):
            return True
        inner = inner.f_back
    return False


_PYTHON: Final = os.path.dirname(os.__file__) + os.sep


def begin(loop: "Loop") -> Postponed | None:
    """Take SIGINT for a loop that the main thread runs, if nobody but Python has; return what ends this."""
    if threading.current_thread() is not threading.main_thread():
        return None
    former = signal.getsignal(signal.SIGINT)
    if not callable(former) or not _pythons(former):
        return None
    postponed = Postponed(loop, former)
    signal.signal(signal.SIGINT, postponed)
    return postponed


def _pythons(handler: Callable[..., Any]) -> bool:
    """Return whether a handler is one of Python's own that raise."""
    if handler is signal.default_int_handler:
        return True
    function = handler.func if isinstance(handler, functools.partial) else None
    return getattr(function, "__module__", "") == "asyncio.runners"


# After an exception out of the middle of the loop's own lines.


def on_stack(code: object) -> bool:
    """Return whether a function, by its code object, is being executed in this thread."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def mend(loop: "Loop") -> None:
    """Have a loop go on that was left in the middle of something. Can be interrupted and done again."""
    for watcher in list(loop._watchers):
        watcher._torn()
    for handle in loop.handles:
        with contextlib.suppress(Exception):
            handle._mend()
    for request in list(loop._requests):
        threadpool.mend(request)
    count(loop)
    resume(loop)
    loop._inside = loop._torn = False


def count(loop: "Loop") -> None:
    """Count anew which handles keep a loop going: one may have been interrupted in its start or stop."""
    handles = loop.handles
    loop._alive = sum(1 for handle in handles if handle._active and handle._ref) + sum(h._busy for h in handles)


def resume(loop: "Loop") -> None:
    """Have a loop's turn run and its mailbox emptied, whatever was noted of them."""
    loop._watch()
    loop._schedule_anew()
    loop._mailbox.rouse()

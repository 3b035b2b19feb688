"""Doing something once at the end of the loop's turn.

Duty: `EndOfTurn` runs functions after everything that is due in this turn has been handled and before the loop waits
again. What many callbacks of a turn ask for is thus done once: `RaftIo.defer` is made of it.

Happy path: add(function), any number of times; it runs once. Failure modes: an exception goes to the loop's excepthook.
"""

from collections.abc import Callable
from typing import Any

from io_uv.pyuv import Loop, Prepare


class EndOfTurn:
    """Functions to run once at the end of this turn, in the order in which they were first added.

    What a function adds runs in the same turn, behind the others: what the core flushes is written to the sockets then.
    """

    __slots__ = ("_functions", "_handle", "_running")

    def __init__(self, loop: Loop) -> None:
        self._functions: list[Callable[[], None]] = []
        self._handle: Any = Prepare(loop)
        self._running = False

    def add(self, function: Callable[[], None]) -> None:
        """Run `function` at the end of the turn, once however often it is added."""
        functions = self._functions
        if not functions:
            if not self._running:
                self._handle.start(self._run)
        elif function in functions:
            return
        functions.append(function)

    def close(self, cb: Callable[[Any], None]) -> None:
        """Forget what has not run; `cb(handle)` follows when nothing is left."""
        self._functions.clear()
        self._handle.close(cb)

    def _run(self, handle: Any) -> None:
        handle.stop()
        self._running = True
        try:
            while self._functions:
                functions, self._functions = self._functions, []
                for i, function in enumerate(functions):
                    try:
                        function()
                    except BaseException:
                        self._functions = functions[i + 1 :] + self._functions
                        raise
        finally:
            self._running = False
            if self._functions:
                handle.start(self._run)

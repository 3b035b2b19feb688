"""An asyncio loop whose time is virtual: nothing is waited for, and the order of events is the same every time.

Duty: `Timeline` is such a loop. When nothing is left to do at the moment, its time jumps to the next timer. Nothing
runs in threads: executors run on the loop.

Happy path: `loop = Timeline()`, `loop.run_until_complete(main())`; hours pass in moments.

Failure modes: when nothing can happen any more, or the time that was set as the `end` is over, Standstill is raised out
of the loop. Sockets and subprocesses do not become ready.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class Standstill(Exception):
    """Nothing can happen any more in virtual time, or its end was reached, and what was waited for has not."""


class _Clock(selectors.BaseSelector):
    """The selector of a Timeline: it has no files that become ready, and instead of waiting it sets the clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.end = math.inf
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill(f"nothing can happen any more, after {self.now:.3f} s of virtual time")
        if self.now > self.end:
            raise Standstill(f"{self.end:.3f} s of virtual time are over")
        self.now += max(timeout, 0.0)
        return []


class Timeline(asyncio.SelectorEventLoop):
    """A loop in virtual time; see the head of this module."""

    def __init__(self) -> None:
        self._virtual = _Clock()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._virtual.now

    def set_end(self, seconds: float) -> None:
        """Let Standstill be raised when so many seconds have passed altogether."""
        self._virtual.end = seconds

    def run_in_executor(  # type: ignore[override]  # of the same use: it returns a future either way
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """Run `func` on the loop, in a moment."""
        future = self.create_future()

        def run() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except Exception as exc:
                future.set_exception(exc)

        self.call_soon(run)
        return future

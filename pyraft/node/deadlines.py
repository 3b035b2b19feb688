"""Deadlines of many waiting things, with one timer.

Duty: `Deadlines` ends the futures that wait for longer than they were meant to. A timer for each of them would cost as
much as the rest of a call.

Happy path: `add(future, seconds, late)`, then `discard(future)` when the wait for it is over.

Failure modes: the time is over: `late(future)` is called, up to GRAIN seconds after that, and has to end the future.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Late: TypeAlias = Callable[["asyncio.Future[Any]"], None]

GRAIN: Final = 0.05
"""How late `late` may be, in seconds."""


class Deadlines:
    """The deadlines of one loop's futures."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[Any], tuple[float, Late]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, future: "asyncio.Future[Any]", seconds: float, late: Late) -> None:
        """Have `late(future)` called if the future is not done in so many seconds."""
        self._waiting[future] = (self._loop.time() + seconds, late)
        if self._timer is None:
            self._timer = self._loop.call_later(GRAIN, self._sweep)

    def discard(self, future: "asyncio.Future[Any]") -> None:
        """Forget a future."""
        self._waiting.pop(future, None)

    def close(self) -> None:
        """Forget all of them."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        over = [(future, late) for future, (deadline, late) in self._waiting.items() if deadline <= now]
        for future, late in over:
            self._waiting.pop(future, None)
            if not future.done():
                late(future)
        self._timer = self._loop.call_later(GRAIN, self._sweep) if self._waiting else None

"""Deadlines of many waiting things, with one timer, and of a single one.

Duty: `Deadlines` ends the futures that wait for longer than they were meant to. A timer for each of them would cost as
much as the rest of a call. `within` waits for one attempt, in the place of asyncio.wait_for.

Happy path: `add(future, seconds, late)`, then `discard(future)` when the wait for it is over.

Failure modes: the time is over: `late(future)` is called, up to GRAIN seconds after that, and has to end the future;
`within` raises TimeoutError.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")

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


async def within(attempt: Awaitable[T], seconds: float) -> T:
    """Return what an attempt does, or raise TimeoutError.

    Before Python 3.12 asyncio.wait_for forgets that it is cancelled if the attempt ends in the same moment. A task that
    is cancelled in that moment would go on, and those who wait for its end would wait for ever.
    """
    future = asyncio.ensure_future(attempt)
    try:
        await asyncio.wait([future], timeout=seconds)
        if not future.done():
            raise TimeoutError
        return future.result()
    finally:
        if not future.done():
            future.cancel()
            await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # nobody may want it any more

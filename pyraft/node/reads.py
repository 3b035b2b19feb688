"""Linearizable reads: one round for all who wait (dissertation, section 6.4).

Duty: `Reads` has rounds made, one after the other, as long as somebody waits. A round shows that everything
acknowledged before its beginning is in this server's state.

Happy path: `await reads.wait()`, then look at the state, without a pause between.

Failure modes: a round that fails, because no leader is there or it was lost, is made again for the same waiters, at
once when `wake` tells of another leader, else after a pause; a caller that wants an end sets a deadline on the future.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable

from pyraft.aio import RaftError
from pyraft.node.errors import NodeError
from pyraft.node.outbox import FIRST_PAUSE, LONGEST_PAUSE


class Reads:
    """The reads that wait for a round."""

    def __init__(self, round: Callable[[], Awaitable[None]], now: Callable[[], float]) -> None:
        """`round()` makes a round; `now()` is a time in seconds that goes on while the machine sleeps."""
        self._round = round
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[None]] = []
        self._under_way: list[asyncio.Future[None]] = []  # those for which the round under way is made
        self._runner: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._failure: Callable[[], BaseException] | None = None
        self.complete = -math.inf
        """When the last round began that succeeded, by `now`: all that was acknowledged by then is in the state."""

    def wait(self) -> "asyncio.Future[None]":
        """Return a future that is done when a round that begins from now on has succeeded."""
        future = self._loop.create_future()
        if self._failure is not None:
            future.set_exception(self._failure())
            return future
        self._waiting.append(future)
        if self._runner is None:
            self._runner = self._loop.create_task(self._run())
        return future

    def renew(self) -> None:
        """Have a round made that nobody waits for, unless one is being made."""
        if self._runner is None:
            self.wait().add_done_callback(_unasked)

    def wake(self) -> None:
        """Do not pause: another server leads."""
        self._woken.set()

    def close(self, failure: Callable[[], BaseException]) -> None:
        """Make no more rounds; all that wait or come get `failure()`."""
        self._failure = failure
        if self._runner is not None:
            self._runner.cancel()
        for future in (*self._under_way, *self._waiting):
            if not future.done():
                future.set_exception(failure())

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while True:
                self._under_way = [future for future in (*self._under_way, *self._waiting) if not future.done()]
                self._waiting = []
                if not self._under_way:
                    return
                self._woken.clear()
                began = self._now()
                try:
                    await self._round()
                except (RaftError, NodeError, OSError):
                    await self._rest(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                pause = FIRST_PAUSE
                self.complete = began
                for future in self._under_way:
                    if not future.done():
                        future.set_result(None)
        finally:
            self._runner = None

    async def _rest(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()


def _unasked(future: "asyncio.Future[None]") -> None:
    """Nobody waits for this round, nor for what ended it."""
    if not future.cancelled():
        future.exception()

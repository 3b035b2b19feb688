"""Timer: a callback after a time, once or again and again.

Duty: `Timer.start(callback, timeout, repeat)`, times in seconds with the resolution of the loop's clock, a millisecond.
A repeating timer is armed anew before its callback runs, so the callback may stop or restart it; the next time counts
from the moment it fired, and a late loop skips no callback and adds none.

Failure modes: misuse only: HandleClosedError, ValueError for a negative time, UV_EINVAL from again() before start().
"""

import asyncio
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from io_uv.pyuv import errno, error
from io_uv.pyuv.handle import Watcher, check_callback, closed_error
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along


class Timer(Watcher):
    """`Timer(loop)`: calls back after a given time."""

    __slots__ = ("_armed", "_repeat", "_timer", "_when")

    _harmless: ClassVar[bool] = True

    def __init__(self, loop: Loop) -> None:
        self._callback = None
        self._repeat = 0.0
        self._timer: asyncio.Handle | None = None
        self._when = 0.0
        self._armed = 0  # how often
        super().__init__(loop)

    def start(self, callback: "Callable[[Self], object]", timeout: float, repeat: float) -> None:
        """Call `callback(timer)` after `timeout` seconds, then every `repeat` seconds unless that is 0.

        A started timer starts anew. A time over 0 and under a millisecond is taken as one, with a RuntimeWarning.
        """
        if self._closed:
            raise closed_error()
        check_callback(callback)
        timeout = _checked(timeout, "timeout")
        self._repeat = _checked(repeat, "repeat")
        self._callback = callback
        if self._timer is not None:
            self._timer.cancel()
        self._arm(timeout)
        self._activate()

    def again(self) -> None:
        """Restart a repeating timer with its repeat value as the timeout; a timer without one is left alone.

        Raises TimerError (UV_EINVAL) if the timer was never started.
        """
        if self._closed:
            raise closed_error()
        if self._callback is None:
            raise error.make(error.TimerError, errno.UV_EINVAL)
        if self._repeat:
            self._release()
            self._arm(self._repeat)
            self._activate()

    @property
    def repeat(self) -> float:
        """Seconds between callbacks, 0.0 for a timer that fires once. A new value counts from the next callback on."""
        return self._repeat

    @repeat.setter
    def repeat(self, value: float) -> None:
        if value < 0.0:
            raise ValueError("a positive float or 0.0 is required")
        self._repeat = float(value)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _mend(self) -> None:
        super()._mend()
        if self._active and not self._closed:
            left = max(0.0, self._when - self._loop._uv.time())
            self._release()
            self._arm(left)

    def _due(self) -> float:
        return max(0.0, self._when - self._loop._uv.time()) if self._timer is not None else -1.0

    def _arm(self, seconds: float) -> None:
        loop = self._loop._uv
        self._when = loop.time() + seconds
        self._armed += 1
        self._timer = loop.call_later(seconds, self._loop._enter, self._fire, self._armed)

    def _fire(self, armed: int) -> None:
        if armed != self._armed or self._timer is None:
            return  # armed anew right before, when the loop was mended
        loop, callback = self._loop, self._callback
        if loop._watched:
            loop._woke_by_timer()
            if self._timer is None:  # a check callback stopped this timer
                return
        if self._repeat:
            self._arm(self._repeat)
        else:
            self._timer = None
            self._deactivate()
        assert callback is not None
        try:
            callback(self)
        except BaseException:
            loop._uncaught()


def _checked(seconds: float, name: str) -> float:
    seconds = float(seconds)
    if seconds < 0.0:
        raise ValueError("a positive value or zero is required")
    if 0.0 < seconds < 0.001:
        warnings.warn(
            f"timers don't have sub-millisecond accuracy, setting {name} to 1ms", RuntimeWarning, stacklevel=3
        )
        return 0.001
    return seconds

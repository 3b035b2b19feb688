"""Async: the one handle that other threads may touch; it wakes the loop.

Duty: `Async(loop, callback)`; `send()` from any thread makes the loop call `callback(async)` at least once after it.
Several sends before the loop gets there make one callback. Active from birth to close, so it keeps `Loop.run` going.
The loop holds it weakly all the same: without a reference nobody could send.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from io_uv.pyuv.handle import Handle, closed_error, nothing
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along


class Async(Handle):
    """`Async(loop, callback=None)`: thread-safe wake-up."""

    __slots__ = ("_callback", "_sent")

    def __init__(self, loop: Loop, callback: "Callable[[Self], object] | None" = None) -> None:
        if callback is not None and not callable(callback):
            raise TypeError("a callable or None is required")
        self._callback: Callable[[Any], object] | None = callback
        self._sent = False
        super().__init__(loop)
        self._activate()
        loop._strong.discard(self)

    def send(self) -> None:
        """Have the callback called by the loop. Thread-safe; raises HandleClosedError after close."""
        if self._closed:
            raise closed_error()
        if not self._sent:
            self._sent = True
            self._loop._mailbox.post(self._fire)

    def mute(self) -> None:
        """Handle.mute."""
        super().mute()
        self._callback = nothing

    def _mend(self) -> None:
        super()._mend()
        if not self._closed:
            self._loop._strong.discard(self)
            if self._sent:  # posted, or about to be
                self._loop._mailbox.post(self._fire)

    def _fire(self) -> None:
        # Cleared before the callback: a send that the callback could miss makes another one.
        self._sent = False
        if not self._closed and self._callback is not None:
            self._callback(self)

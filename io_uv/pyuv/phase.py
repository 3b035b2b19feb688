"""Prepare, Check and Idle: callbacks at fixed places of the loop's turn.

Duty: a turn runs idle callbacks, then prepare callbacks, then waits for events (not at all while an idle handle is
active), handles them, then runs check callbacks. Each handle is called once per turn, in the order of starting; one
that is started in a turn's phase waits for the next turn, one that is stopped meanwhile is left out.

On a wrapped asyncio loop a turn counts when something of this loop's happened in it: what other parts of the program
do there is not seen.
"""

from collections.abc import Callable
from typing import Any

from io_uv.pyuv.handle import Handle, check_callback, closed_error
from io_uv.pyuv.loop import Loop


class _Phase(Handle):
    __slots__ = ("_callback",)

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self._callback: Callable[[Any], object] | None = None

    def start(self, callback: Callable[[Any], object]) -> None:
        """Call `callback(handle)` once per turn. A started handle gets the new callback and keeps its place."""
        if self._closed:
            raise closed_error()
        check_callback(callback)
        self._callback = callback
        if not self._active:
            self._members()[self] = None
            self._activate()
            self._loop._watch()

    def stop(self) -> None:
        """Do not call any more. Nothing happens if the handle is not started."""
        if self._closed:
            raise closed_error()
        self._release()
        self._deactivate()

    def _release(self) -> None:
        self._members().pop(self, None)
        self._loop._watch()

    def _members(self) -> dict[Any, None]:
        raise NotImplementedError

    def _call(self) -> None:
        assert self._callback is not None
        try:
            self._callback(self)
        except BaseException:
            self._loop._uncaught()


class Prepare(_Phase):
    """`Prepare(loop)`: called right before the loop waits for events."""

    __slots__ = ()

    def _members(self) -> dict[Any, None]:
        return self._loop._prepares


class Check(_Phase):
    """`Check(loop)`: called right after the loop has handled events."""

    __slots__ = ()

    def _members(self) -> dict[Any, None]:
        return self._loop._checks


class Idle(_Phase):
    """`Idle(loop)`: called every turn; while one is active the loop does not wait for events."""

    __slots__ = ()

    def _members(self) -> dict[Any, None]:
        return self._loop._idles

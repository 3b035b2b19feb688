"""Prepare, Check and Idle: callbacks at fixed places of the loop's turn.

Duty: a turn runs idle callbacks, then prepare callbacks, then waits for events (not at all while an idle handle is
active), handles them, then runs check callbacks. Each handle is called once per turn, in the order of starting; one
that is started in a turn's phase waits for the next turn, one that is stopped meanwhile is left out.

On a wrapped asyncio loop a turn counts when something of this loop's happened in it: what other parts of the program
do there is not seen.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from io_uv.pyuv.handle import Watcher, check_callback, closed_error
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along


class _Phase(Watcher):
    # Started and stopped in every turn by some users, so everything is done in place.

    __slots__ = ("_members",)

    def __init__(self, loop: Loop, members: dict[Any, None]) -> None:
        self._callback = None
        self._members = members  # the loop's handles of this kind that are active; holds them
        super().__init__(loop)

    def start(self, callback: "Callable[[Self], object]") -> None:
        """Call `callback(handle)` once per turn. A started handle gets the new callback and keeps its place."""
        if self._closed:
            raise closed_error()
        if callback is None or callback != self._callback:
            check_callback(callback)
            self._callback = callback
        if not self._active:
            self._active = True
            self._members[self] = None
            loop = self._loop
            if self._ref:
                loop._alive += 1
            loop._watched = True
            if not loop._scheduled:
                loop._schedule_anew()

    def stop(self) -> None:
        """Do not call any more. Nothing happens if the handle is not started."""
        if self._closed:
            raise closed_error()
        self._release()

    def _release(self) -> None:
        if self._active:
            self._active = False
            self._members.pop(self, None)
            loop = self._loop
            if self._ref:
                loop._alive -= 1
                if not loop._alive:
                    loop._ended()
            loop._watch()

    def _mend(self) -> None:
        super()._mend()
        if self._active and not self._closed:
            self._loop._strong.discard(self)  # held by the members
            self._members[self] = None
        else:
            self._members.pop(self, None)


class Prepare(_Phase):
    """`Prepare(loop)`: called right before the loop waits for events."""

    __slots__ = ()

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop, loop._prepares)


class Check(_Phase):
    """`Check(loop)`: called right after the loop has handled events."""

    __slots__ = ()

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop, loop._checks)


class Idle(_Phase):
    """`Idle(loop)`: called every turn; while one is active the loop does not wait for events."""

    __slots__ = ()

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop, loop._idles)

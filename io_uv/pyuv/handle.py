"""The base of all handles: activity, references, and the close protocol.

Duty: `Handle`. A handle is *active* between its start and its stop; an active handle that is *ref'd* keeps `Loop.run`
going. The loop holds a handle strongly while it is active, has a request in flight or is closing, and weakly otherwise:
one that nobody refers to any more closes itself.

Close: `close(callback)` stops the handle at once and gives its descriptors back; all that was in flight is called back
with UV_ECANCELED, then `callback(handle)` is called, exactly once, from a later part of the loop's turn, never inside
close(). From close() on every method raises HandleClosedError; after the callback `loop` is None.

A subclass stops its own part in `_release`; it reports activity with `_activate` and `_deactivate`. It sets its own
fields before it calls `__init__` of the base, so that nobody meets a handle that an interrupt has left half made.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from io_uv.pyuv import error
from io_uv.pyuv.alone import Alone
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along


class Handle(Alone):
    """Base of all handles. Not to be instantiated itself."""

    __slots__ = ("__dict__", "__weakref__", "_active", "_busy", "_close_cb", "_closed", "_done", "_loop", "_ref")

    _harmless: ClassVar[bool] = False  # can be made on a dead loop

    def __init__(self, loop: Loop) -> None:
        if not isinstance(loop, Loop):
            raise TypeError("a pyuv.Loop is required; pyuv.Loop(loop) makes one of an asyncio or uvloop loop")
        if not (loop.inherited and self._harmless):
            loop._check_usable()
        self._loop = loop
        self._active = False
        self._busy = False  # a request is in flight: counts for the loop whatever `ref` says
        self._ref = True
        self._done = False
        self._close_cb: Callable[[Any], object] | None = None
        self._closed = False
        loop._handles.add(self)

    @property
    def loop(self) -> Loop | None:
        """The loop that the handle runs on; None once its close callback has been called."""
        return None if self._done else self._loop

    @property
    def active(self) -> bool:
        """True between start and stop."""
        return self._active

    @property
    def closed(self) -> bool:
        """True from close() on."""
        return self._closed

    @property
    def ref(self) -> bool:
        """Whether the handle keeps the loop running while it is active. True at first; may be set."""
        return self._ref

    @ref.setter
    def ref(self, value: bool) -> None:
        value = bool(value)
        if value == self._ref:
            return
        self._ref = value
        if self._active:
            if value:
                self._loop._retain()
            else:
                self._loop._release()

    def close(self, callback: "Callable[[Self], object] | None" = None) -> None:
        """Stop the handle and give back what it holds; `callback(handle)` follows once, from the loop.

        Raises HandleClosedError if close was called before, TypeError if callback is neither callable nor None. In a
        forked child it does nothing, so code that cleans up there raises no second error.
        """
        if self._closed:
            if self._loop.inherited:
                return
            raise closed_error()
        if callback is not None and not callable(callback):
            raise TypeError("a callable or None is required")
        self._close(callback)

    def _close(self, callback: Callable[[Any], object] | None) -> None:
        loop = self._loop
        loop._strong.add(self)  # an interrupt finds it there
        self._closed = True
        self._close_cb = callback
        try:
            self._release()
        finally:
            loop._closing.append(self)
            self._deactivate()
            if loop._owned:
                loop._schedule()
            else:
                loop._schedule_anew()

    def _finish_close(self) -> None:
        """Called by the loop in the closing part of its turn."""
        loop, callback = self._loop, self._close_cb
        self._close_cb = None
        try:
            if callback is not None:
                callback(self)
        except BaseException:
            loop._uncaught()
        finally:
            self._done = True
            loop._strong.discard(self)
            loop._handles.discard(self)

    def _release(self) -> None:
        """Stop whatever the handle does and free what it holds. Called once, from close."""

    def mute(self) -> None:
        """Call nobody back any more, not when it is closed either. An addition to pyuv."""
        self._close_cb = None

    def _mend(self) -> None:
        """Put the notes of the loop right, and one's own, when something was left in its middle: see `interrupt`."""
        loop = self._loop
        if self._done:
            loop._strong.discard(self)
            loop._handles.discard(self)
        elif self._closed:
            self._active = False
            loop._strong.add(self)
            if self not in loop._closing:
                loop._closing.append(self)
            self._release()
        elif self._active:
            loop._strong.add(self)

    def _forked(self, usable: bool) -> None:
        """Be closed for good, in a forked child; `usable` says whether the copy of the loop below may be touched."""
        self._closed = self._done = True
        self._close_cb = None
        with contextlib.suppress(Exception):
            if usable:
                self._release()
            else:
                self._drop()
        self._active = False

    def _drop(self) -> None:
        """Close the descriptors, and do nothing else."""

    def _descriptors(self) -> Iterable[int]:
        """Return the descriptors that the loop watches for the handle, or has watched."""
        return ()

    def _due(self) -> float:
        """Seconds until the handle needs the loop to run even if nothing happens; negative for never."""
        return -1.0

    def _activate(self) -> None:
        if not self._active:
            self._active = True
            self._loop._strong.add(self)
            if self._ref:
                self._loop._retain()

    def _deactivate(self) -> None:
        if self._active:
            self._active = False
            if self._ref:
                self._loop._release()
        if not self._busy and not self._closed:
            self._loop._strong.discard(self)

    def __del__(self) -> None:
        # Reached for a handle that is neither active nor closing, maybe from another thread: a collection runs in
        # whichever thread allocates. The loop closes it in its own thread, and holding it there brings it back to life.
        if getattr(self, "_closed", True):
            return
        self._loop._adopt(self)


def closed_error() -> error.UVError:
    """The error that a method of a closed handle raises."""
    return error.HandleClosedError("Handle is closing/closed")


class Watcher(Handle):
    """Base of the handles that are started with a callback and stopped. Each keeps it in `_callback`, None at first."""

    __slots__ = ("_callback",)

    _callback: Callable[..., object] | None

    def stop(self) -> None:
        """Stop: the callback is not called any more. Nothing happens if the handle is not started."""
        if self._closed:
            raise closed_error()
        self._release()
        self._deactivate()

    def mute(self) -> None:
        """Call nobody back any more, neither for events nor for the close."""
        super().mute()
        self._callback = nothing


def nothing(*_: object) -> None:
    """The callback of a muted handle."""


def check_callback(callback: object) -> None:
    """Raise TypeError unless the callback is callable."""
    if not callable(callback):
        raise TypeError("a callable is required")

"""Signal: a callback in the loop when the process gets a signal, in any thread's loop.

Duty: `Signal(loop).start(callback, signum)`. One handler per signal serves all loops of the process: Python runs it in
the main thread, and it wakes every loop that has a handle for the signal. The handler that was there before comes back
when the last handle stops.

Python sets handlers in its main thread only. A start elsewhere asks for that (Py_AddPendingCall, with a wake-up if a
loop of this package is what the main thread runs) and waits until it is done: up to 5 seconds, then
SignalError(UV_ETIMEDOUT), for a main thread that never runs Python cannot be told.

Failure modes: SignalError(UV_EINVAL) for a signal that cannot be caught. A signal for which the program uses
`signal.signal` or asyncio's add_signal_handler as well goes to whoever came last.
"""

import ctypes
import functools
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from io_uv.pyuv import errno, error
from io_uv.pyuv.handle import Watcher, check_callback, closed_error
from io_uv.pyuv.loop import Loop, wake_main

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

_WAIT_SECONDS: Final = 5.0


class Signal(Watcher):
    """`Signal(loop)`: calls back when a signal arrives."""

    __slots__ = ("_signum",)

    def __init__(self, loop: Loop) -> None:
        self._callback = None
        self._signum: int | None = None
        super().__init__(loop)

    def start(self, callback: "Callable[[Self, int], object]", signum: int) -> None:
        """Call `callback(signal, signum)` when signal `signum` arrives. A started handle gets the new callback."""
        if self._closed:
            raise closed_error()
        check_callback(callback)
        if signum != self._signum:
            self._release()
            try:
                _subscribe(self, signum)
            except (ValueError, OSError):
                self._deactivate()
                raise error.make(error.SignalError, errno.UV_EINVAL) from None
            self._signum = signum
        self._callback = callback
        self._activate()

    def _release(self) -> None:
        if self._signum is not None:
            _unsubscribe(self, self._signum)
            self._signum = None

    def _forked(self, usable: bool) -> None:
        global _lock
        _lock = threading.RLock()  # a thread that is not here may hold the other one
        super()._forked(usable)

    def _drop(self) -> None:
        self._release()  # a signal of the child's is not for a loop that does not run

    def _fire(self, signum: int) -> None:
        if self._signum == signum and self._callback is not None:  # not stopped meanwhile
            self._callback(self, signum)


# The handles of each signal, and its former handler. A handler may interrupt its own thread anywhere, so it takes no
# lock: it reads a tuple that is replaced whole.
_lock = threading.RLock()  # one that an interrupt has left locked is open to its thread
_subscribers: dict[int, tuple[Signal, ...]] = {}
_previous: dict[int, Any] = {}


def _subscribe(handle: Signal, signum: int) -> None:
    with _lock:
        first = signum not in _previous
        _subscribers[signum] = (*_subscribers.get(signum, ()), handle)
    if not first:
        return
    try:
        _in_main_thread(lambda: _install(signum))
    except BaseException:
        _unsubscribe(handle, signum)
        raise


def _unsubscribe(handle: Signal, signum: int) -> None:
    with _lock:
        rest = tuple(other for other in _subscribers.get(signum, ()) if other is not handle)
        _subscribers[signum] = rest
    if not rest:
        _in_main_thread(lambda: _uninstall(signum), wait=False)


def _install(signum: int) -> None:
    if signum not in _previous and _subscribers.get(signum):
        _previous[signum] = signal.signal(signum, _on_signal)


def _uninstall(signum: int) -> None:
    if signum in _previous and not _subscribers.get(signum):
        previous = _previous.pop(signum)
        if signal.getsignal(signum) is _on_signal:
            signal.signal(signum, signal.SIG_DFL if previous is None else previous)


def _on_signal(signum: int, frame: object) -> None:
    for handle in _subscribers.get(signum, ()):
        handle._loop._mailbox.post(functools.partial(handle._fire, signum))


_PENDING: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_calls: list[Callable[[], None]] = []


def _run_calls(_: object) -> int:
    while _calls:
        _calls.pop(0)()
    return 0


_run_calls_c: Final = _PENDING(_run_calls)


def _in_main_thread(action: Callable[[], None], wait: bool = True) -> None:
    """Run an action in the main thread; unless told not to, wait for it and raise what it raised."""
    if threading.current_thread() is threading.main_thread():
        action()
        return
    done = threading.Event()
    failure: list[BaseException] = []

    def call() -> None:
        try:
            action()
        except BaseException as exc:
            failure.append(exc)
        done.set()

    _calls.append(call)
    # A full queue of pending calls (32) means that one of ours is in it already, or will find room soon.
    while ctypes.pythonapi.Py_AddPendingCall(_run_calls_c, None) and not done.wait(0.01):
        pass
    wake_main()
    if not wait:
        return
    if not done.wait(_WAIT_SECONDS):
        raise error.make(error.SignalError, errno.UV_ETIMEDOUT)
    if failure:
        raise failure[0]

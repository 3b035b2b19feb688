"""Loop: pyuv's event loop on uvloop, the owner of a new one or a guest of one that runs already.

Duty: `Loop()` makes a uvloop loop and `run(mode)` runs it as uv_run does; `Loop(asyncio_loop)` puts handles on a loop
that the program runs itself (uvloop's or asyncio's own). Nothing else of the project imports uvloop.

Flow: timers, descriptors and wake-ups call their handles straight from uvloop. The parts of libuv's turn (callbacks
due, closing, idle, prepare, check) are run by `_turn`, which a call_soon puts between two waits; it is scheduled only
when there is something for it to do. Each wake-up while a prepare or check handle is active, or in UV_RUN_ONCE,
announces itself (`_woke`), so that the next turn is run.

Life: `run` returns when no ref'd active handle, request or closing handle is left, or after `stop`. `close` closes the
handles that are left, waits for work in progress and gives everything back; a collected Loop does the same for itself.

Where a sandbox refuses what libuv cannot do without (eventfd, epoll), `Loop()` makes one of asyncio's own loops
instead, and `Loop.refusal` says why: everything works, slower.

Failure: an exception of a callback goes to `excepthook`; KeyboardInterrupt and SystemExit end `run` and come out of it,
in good order: see `interrupt`, and `_enter`, which marks what is under way.
In a forked child a Loop is dead, see `forked`: its handles are closed, without a callback, and `run` raises
RuntimeError, the one in which it forked, too. A guest's host goes on, if it can.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, cast

from io_uv.pyuv import forked, interrupt, threadpool, uncaught, wakeup
from io_uv.pyuv.alone import Alone
from io_uv.pyuv.mailbox import Leave, Mailbox

if TYPE_CHECKING:
    from io_uv.pyuv.handle import Handle

UV_RUN_DEFAULT: Final = 0
UV_RUN_ONCE: Final = 1
UV_RUN_NOWAIT: Final = 2


class Loop(Alone):
    """`Loop()` owns a new uvloop loop; `Loop(asyncio_loop)` wraps one, on which `run`, `stop` and `fileno` refuse.

    A handle may be touched from the thread that runs the loop only, `Async.send` excepted.
    """

    _default: ClassVar["Loop | None"] = None

    def __init__(self, asyncio_loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.refusal: tuple[str, OSError] | None
        """The refused call that uvloop needs, and the error, where the loop is one of asyncio's for that reason."""
        self._uv: asyncio.AbstractEventLoop
        self._uv, self.refusal = wakeup.new_loop() if asyncio_loop is None else (asyncio_loop, None)
        self._owned = asyncio_loop is None
        self._closed = False
        self._inherited = False
        self._former: asyncio.AbstractEventLoop | None = None  # what was below, in a forked child
        self._last_words: BaseException | None = None
        self._others: dict[int, int] = {}  # what the host watches besides, noted before a fork
        self._thread = threading.get_ident()  # that runs the loop
        self._leaving = False  # close() was called: nothing new may begin
        self._running = False
        self._ran = False  # at least once
        self._alive = 0  # ref'd active handles, and those with a request in flight
        self._updated = 0
        # Handles: all of them weakly; strongly those that are active, have a request in flight or are closing.
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._strong: set[Handle] = set()
        self._orphans: deque[Handle] = deque()
        self._requests: set[threadpool.Request] = set()
        self._polls: dict[int, Handle] = {}  # by descriptor
        # The parts of a turn. The dicts are ordered sets.
        self._idles: dict[Any, None] = {}
        self._prepares: dict[Any, None] = {}
        self._checks: dict[Any, None] = {}
        self._closing: deque[Handle] = deque()
        self._pending: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._scheduled = False
        self._check_due = False
        # True while wake-ups must announce themselves.
        self._watched = False
        self._mode = UV_RUN_DEFAULT
        self._stopping = False
        self._begun = False  # the rest of a turn is due, stop() or not
        # Interrupts: whether something is called just now, or was left in its middle, and who wants to know of that.
        self._inside = self._torn = False
        self._interrupted = False
        self._deliberate: BaseException | None = None
        self._watchers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._postponed: interrupt.Postponed | None = None
        # The reader refers to this object weakly: the uvloop loop must not keep it alive.
        self._mailbox = Mailbox()
        ref: weakref.ref[Loop] = weakref.ref(self)
        self._uv.add_reader(self._mailbox.fd, _deliver, ref)
        forked.watch(self)
        if not self._owned:
            self._postponed = interrupt.begin(self)

    @classmethod
    def default_loop(cls) -> "Loop":
        """The process's default loop, made at the first call; a new one if that was closed."""
        if Loop._default is None or Loop._default._closed:
            Loop._default = cls()
        return Loop._default

    @property
    def default(self) -> bool:
        """Whether this is the default loop."""
        return self is Loop._default

    @property
    def inherited(self) -> bool:
        """Whether this is the dead copy of a loop, in a process that was forked from the one that it belongs to."""
        return self._inherited

    # Running.

    def run(self, mode: int = UV_RUN_DEFAULT) -> bool:
        """Run the loop: until nothing keeps it alive (UV_RUN_DEFAULT), for one turn that waits for events
        (UV_RUN_ONCE), or for one that does not wait (UV_RUN_NOWAIT). True if it is still alive afterwards.

        Raises ValueError for another mode, RuntimeError on a wrapped, closed or running loop and inside another
        running loop of the thread.
        """
        if mode not in (UV_RUN_DEFAULT, UV_RUN_ONCE, UV_RUN_NOWAIT):
            raise ValueError("invalid mode specified")
        self._check_open()
        if not self._owned:
            raise RuntimeError("a wrapped loop is run by its owner")
        if self._running and self._uv.is_running():
            raise RuntimeError("the loop is running already")
        self._recover()
        if self._stopping or not self.alive:
            self._stopping = False
            return self.alive
        self._mode = mode
        self._begun = True
        self._running = True
        self._thread = threading.get_ident()
        self._watch()
        self._schedule()
        if mode == UV_RUN_NOWAIT:
            self._halt()
        in_main = threading.current_thread() is threading.main_thread()
        try:
            self._interrupted = True
            if in_main:
                _mains.append(self)
                self._postponed = interrupt.begin(self)
            self._uv.run_forever()
            self._enter(self._finish_turn)
            self._interrupted = False
        finally:
            self._take_no_interrupts()
            if in_main and self in _mains:
                _mains.remove(self)
            self._ran = True
            self._running = self._stopping = False
            self._mode = UV_RUN_DEFAULT
            self._watch()
            if self._former is not None:
                self._former.close()
        if self._inherited:
            raise self._last_words or RuntimeError(f"the loop is closed: {forked.TEXT}")
        return self.alive

    def stop(self) -> None:
        """Have `run` return after the current turn. If the loop is not running, the next `run` returns at once."""
        if not self._owned:
            raise RuntimeError("a wrapped loop is stopped by its owner")
        if self._running:
            self._halt()
        else:
            self._stopping = True

    def close(self) -> None:
        """Give the loop back (an addition to pyuv): close every handle that is open, cancel work that has not begun,
        wait for work that has begun, call all their callbacks. Nothing new can be begun meanwhile, or later.

        On a wrapped loop the handles are closed and the callbacks follow from the loop. Raises RuntimeError on an
        owned loop that is running.
        """
        if self._closed or (self._leaving and not self._owned):
            return
        if self._running and self._uv.is_running():
            raise RuntimeError("a running loop cannot be closed")
        self._recover()
        self._leaving = True
        for handle in self.handles:
            if not handle.closed:
                handle.close()
        for request in list(self._requests):
            request.cancel()
        if self._owned:
            self._stopping = False
            while self.alive:
                self.run()
            self._give_back()
        else:
            self._take_no_interrupts()
            self._schedule()

    @property
    def alive(self) -> bool:
        """Whether ref'd active handles, requests in flight or closing handles are left."""
        return bool(self._alive or self._requests or self._closing or self._pending or self._orphans)

    @property
    def handles(self) -> "list[Handle]":
        """All handles of the loop that are not closed yet, closing ones included."""
        return list(self._strong | set(self._handles))

    # Time and the poll backend.

    def now(self) -> int:
        """The loop's time in milliseconds, from an arbitrary start; constant while callbacks of one wait are run."""
        return max(int(self._uv.time() * 1000.0 + 0.5), self._updated)

    def update_time(self) -> None:
        """Let `now` be the time of this call, after a callback that took long."""
        self._updated = time.monotonic_ns() // 1_000_000

    def fileno(self) -> int:
        """Descriptor of the poll backend, of a loop that owns its uvloop. Raises RuntimeError otherwise."""
        backend = forked.backend(self._uv) if self._owned and not self._closed else None
        if backend is None:
            raise RuntimeError("no descriptor to be had")
        return backend

    def get_timeout(self) -> float:
        """Seconds until the loop has to be run again if nothing happens: 0.0 now, -1.0 never."""
        if self._stopping or not self.alive or self._scheduled or self._pending:
            return 0.0
        due = [handle._due() for handle in self._strong]
        return min((seconds for seconds in due if seconds >= 0.0), default=-1.0)

    # Work in threads.

    def queue_work(
        self, work_callback: Callable[[], object], done_callback: Callable[[int | None], object] | None = None
    ) -> threadpool.WorkRequest:
        """Call `work_callback()` in a thread of the pool, then `done_callback(error)` in the loop.

        `error` is None, or why the work was not done: UV_ECANCELED if the returned request's `cancel()`, or `close`,
        came before it began, UV_EAGAIN if no thread can be started. An exception of the work goes to `excepthook`, in
        the loop's thread. The pool is one for the process, of UV_THREADPOOL_SIZE threads (environment variable, 4 by
        default).
        """
        if not callable(work_callback):
            raise TypeError("a callable is required")
        if done_callback is not None and not callable(done_callback):
            raise TypeError("done_cb must be a callable or None")
        self._check_usable()
        request = threadpool.WorkRequest(self, work_callback, done_callback)
        self._submit(request)
        return request

    def _submit(self, request: threadpool.Request, slow: bool = False) -> None:
        # In this order: what is interrupted before it is registered is not waited for; no end of it is told before.
        threadpool.submit(request, slow)
        self._requests.add(request)

    def _deliver(self) -> None:
        """The mailbox is readable."""
        if self._watched:
            self._woke()
        self._mailbox.deliver(self._uncaught)

    def _complete(self, request: threadpool.Request) -> None:
        """A request has ended. Called from any thread."""
        self._mailbox.post(request._deliver)

    # Exceptions of callbacks.

    def excepthook(self, typ: type[BaseException], value: BaseException, tb: TracebackType | None) -> None:
        """Called with an exception that a callback raised; prints it. May be overridden or assigned."""
        uncaught.show("Unhandled exception in callback", value, tb)

    def _uncaught(self) -> None:
        """Deal with the exception being handled."""
        uncaught.deal_with(self)

    # Handles use these.

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"the loop is closed: {forked.TEXT}" if self._inherited else "the loop is closed")

    def _check_usable(self) -> None:
        self._check_open()
        if self._leaving:
            raise RuntimeError("the loop is closed")

    def _retain(self) -> None:
        self._alive += 1

    def _release(self) -> None:
        self._alive -= 1
        self._ended()

    def _ended(self) -> None:
        """Something has ended that the loop waited for."""
        if not self._alive and not self._requests and (self._running or self._leaving):
            self._schedule()

    def _schedule(self) -> None:
        """Have `_turn` run before the next wait."""
        if not self._scheduled:
            self._schedule_anew()

    def _schedule_anew(self) -> None:
        """The same, whatever was scheduled before: an interrupt of the host may have taken that away."""
        self._scheduled = True
        self._uv.call_soon(self._enter, self._turn)

    def _defer(self, callback: Callable[..., object], *args: Any) -> None:
        """Call a callback in the next turn, where libuv would call one that is pending."""
        self._pending.append((callback, args))
        if not self._scheduled:
            self._schedule_anew()

    def _watch(self) -> None:
        """The set of idle, prepare and check handles, or the mode, has changed."""
        self._watched = bool(self._idles or self._prepares or self._checks or self._mode == UV_RUN_ONCE)

    def _woke(self) -> None:
        """An event has ended the wait while `_watched`."""
        if self._mode == UV_RUN_ONCE:
            self._halt()
        self._schedule()

    def _woke_by_timer(self) -> None:
        """The same, from a timer. Timers begin a turn: the checks of the last come before, the rest of this one will
        come, even after a stop(). In UV_RUN_ONCE they end the only turn instead.
        """
        self._woke()
        if self._mode != UV_RUN_ONCE:
            self._begun = True
        self._run_checks()

    def _adopt(self, handle: "Handle") -> None:
        """Close a handle that was given up. Called by its `__del__`, from any thread."""
        handle._closed = True
        if not self._closed and not self._uv.is_closed():
            self._strong.add(handle)
            self._orphans.append(handle)
            self._mailbox.post(self._close_orphans)
        else:
            with contextlib.suppress(RuntimeError):  # "loop is closed": its watchers are gone already
                handle._release()

    def _close_orphans(self) -> None:
        while self._orphans:
            self._orphans.popleft()._close(None)

    # Interrupts.

    def _enter(self, callback: Callable[..., object], *args: Any) -> None:
        """Call what the loop below, or `run`, is to call. It is marked as under way until it has returned."""
        if self._inside:
            interrupt.mend(self)
        self._inside = True
        callback(*args)
        self._inside = self._torn

    def check(self) -> None:
        """Mend the loop if it was left in the middle of something, and is not just now in it. An addition to pyuv."""
        if (
            self._inside
            and not self._inherited
            and not (self._owned and self._uv.is_running())
            and not interrupt.on_stack(Loop._enter.__code__)  # a guest's, or behind the last wait of a run
        ):
            interrupt.mend(self)

    def watch(self, watcher: Any) -> None:
        """Have `watcher._torn()` called when this loop, or what it called, was left in the middle of something by an
        exception. Held weakly. An addition to pyuv.
        """
        self._watchers.add(watcher)

    def torn(self) -> None:
        """Say that something that was called, and has come to an end, had been left in its middle inside."""
        self._torn = self._inside = True

    def forget_pending(self, of: Callable[[Any], bool]) -> None:
        """Drop the pending callbacks for which `of(callback)` is true."""
        left = [item for item in self._pending if not of(item[0])]
        self._pending.clear()
        self._pending.extend(left)

    def deliver(self, exc: BaseException) -> NoReturn:
        """Raise an exception that is to come out of `run`: inside a callback, and nothing was left in its middle."""
        self._deliberate = exc
        raise exc

    def _recover(self) -> None:
        """Before a run, or the end: put right what the last one may have left when an exception ended it."""
        self._running = False
        if self._inside:
            interrupt.mend(self)
        elif self._interrupted:
            interrupt.resume(self)
        self._interrupted = False
        interrupt.count(self)

    def _take_no_interrupts(self) -> None:
        if self._postponed is not None and threading.current_thread() is threading.main_thread():
            self._postponed.end()
            self._postponed = None

    # The turn.

    def _halt(self) -> None:
        if not self._stopping and not self._inherited:
            self._stopping = True
            self._uv.stop()

    def _turn(self) -> None:
        """The parts of a turn between two waits: those that end the last turn, then those that begin the next."""
        if self._closed:  # in a forked child, or by an earlier one of two that were scheduled
            return
        self._scheduled = False
        busy = False
        if self._check_due:
            self._run_checks()
        if self._pending:
            busy = True
            self._run_pending()
        if self._closing:
            busy = True
            self._run_closing()
        if self._running:
            if not self._alive and not self.alive:
                self._halt()
                return
            if self._stopping and not self._begun:
                if self._prepares or self._idles:
                    self._schedule()  # for the next run
                return
            self._begun = False
        elif self._leaving and not self.alive:
            self._give_back()
            return
        if self._idles:
            self._call_all(self._idles)
        if self._prepares:
            self._call_all(self._prepares)
        if self._checks:
            self._check_due = True
        if self._idles or self._closing or self._pending:
            busy = True
            self._schedule()
        if busy and self._mode == UV_RUN_ONCE:
            self._halt()

    def _call_all(self, handles: dict[Any, None]) -> None:
        for handle in list(handles):
            if handle in handles:  # not stopped by one before it
                try:
                    handle._callback(handle)
                except BaseException:
                    self._uncaught()

    def _run_checks(self) -> None:
        if self._check_due:
            self._check_due = False
            self._call_all(self._checks)

    def _run_pending(self) -> None:
        pending = self._pending
        for _ in range(len(pending)):
            if not pending:
                return  # this is a forked child
            callback, args = pending.popleft()
            try:
                callback(*args)
            except BaseException:
                self._uncaught()

    def _finish_turn(self) -> None:
        self._run_checks()
        self._run_pending()
        self._run_closing()

    def _run_closing(self) -> None:
        closing = self._closing
        for _ in range(len(closing)):
            if not closing:
                return  # this is a forked child
            closing.popleft()._finish_close()

    def _give_back(self) -> None:
        self._closed = True
        self._take_no_interrupts()
        if not self._uv.is_closed():
            self._uv.remove_reader(self._mailbox.fd)
            if self._owned:
                self._uv.close()
        self._mailbox.close()

    # In a forked child.

    def leave(self, exc: BaseException) -> None:
        """In a forked child, have the `run` that it forked in, or the host's, end with this exception."""
        self._last_words = exc
        if not self._owned and self._former is not None:
            self._former.call_soon(_raise, exc)

    def _forking(self) -> None:
        if self._closed:
            return
        # In the child it would be too late: the set is shared, and the parent goes on.
        fd = forked.backend(self._uv)
        watched = {} if fd is None else forked.watched(fd)
        ours = {self._mailbox.fd, *(fd for handle in self.handles for fd in handle._descriptors())}
        self._others = {fd: events for fd, events in watched.items() if fd not in ours}

    def _forked(self) -> None:
        if self._closed:
            return
        self._closed = self._inherited = self._scheduled = True
        self._leaving = False
        # A loop that runs in another thread was copied in the middle of anything.
        usable = self._thread == threading.get_ident() or not (self._running or self._uv.is_running())
        fd = forked.backend(self._uv)
        if fd is not None:
            forked.detach(self._uv, fd, {} if self._owned else self._others)
        if usable:
            with contextlib.suppress(Exception):
                self._uv.remove_reader(self._mailbox.fd)
        for handle in self.handles:
            handle._forked(usable)
        self._mailbox.close()
        phases = (self._idles, self._prepares, self._checks)
        held: Any
        for held in (*phases, self._polls, self._handles, self._strong, self._orphans, self._requests):
            held.clear()
        self._closing.clear()
        self._pending.clear()
        self._alive = 0
        self._former, self._uv = self._uv, cast(asyncio.AbstractEventLoop, forked.Nowhere())
        if self._owned:
            self._bury(self._former, usable)

    def _bury(self, uv: asyncio.AbstractEventLoop, usable: bool) -> None:
        """Close the copy of a uvloop of ours, or as much of it as is possible."""
        if not usable or not (self._ran or self._running):
            # libuv adds its own descriptors in its first turn, through a ring that it shares with the kernel, and so
            # with the parent, which may be at it just now: closing would be a turn.
            for fd in (*self._others, forked.backend(uv) or -1):
                with contextlib.suppress(OSError):
                    os.close(fd)
            forked.keep_for_ever(uv)
            return
        if not self._running:
            uv.close()
            return
        # It forked in one of its callbacks, and ends when that returns. Until then libuv must not register anything.
        if self in _mains:
            signal.set_wakeup_fd(-1)  # uvloop's, which it shares with the parent's
        for fd in forked.descriptors():
            uv.remove_reader(fd)
        uv.stop()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or not hasattr(self, "_mailbox"):
            return
        if self._owned or self._uv.is_closed():
            self._give_back()
        else:  # maybe in another thread than the loop's
            with contextlib.suppress(RuntimeError):
                self._uv.call_soon_threadsafe(Leave(self._uv, self._mailbox))


def _deliver(ref: "weakref.ref[Loop]") -> None:
    """The mailbox is readable."""
    loop = ref()
    if loop is None:  # collected; a Leave is on its way
        return
    loop._enter(loop._deliver)


def _raise(exc: BaseException) -> None:
    raise exc


_mains: list[Loop] = []


def wake_main() -> None:
    """If the main thread runs a Loop of its own, have that run some Python soon, and with it pending calls."""
    for loop in list(_mains):
        loop._mailbox.post(loop.now)  # a function that changes nothing

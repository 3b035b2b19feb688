"""The thread pool behind `Loop.queue_work` and `dns`: one for the process, as in libuv.

Duty: `submit(request, slow)` hands a request to a thread; `Request.cancel` takes one back that no thread has begun. The
threads start with the first request, UV_THREADPOOL_SIZE of them (environment variable, 4 by default, 1 to 1024), and
end with the process. A request that has ended, or cannot begin, is given to its loop, `Loop._complete`.

Slow requests (name resolution, which can hang for half a minute) never take more than half of the threads, so that disk
work always finds one.

An interrupt may come between any two lines of the main thread. So the one step that decides who begins or ends a
request also notes it (`_claim`), the threads and the main thread share no lock that could stay locked, and `mend` does
again what may not have been done: a request that is queued twice is begun once, one that has ended twice is told once.

Failure modes: an exception of work is kept and shown to the loop's excepthook. A forked child gets a pool of its own.
Where threads cannot be started (a limit of processes, memory) the pool goes on with those that it has, and tries again
with the next request; without any the request ends with UV_EAGAIN. libuv aborts the process.
"""

import atexit
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from io_uv.pyuv import errno

if TYPE_CHECKING:
    from io_uv.pyuv.loop import Loop


_LOOP: Final = object()
"""The owner of a request that no thread has begun, and none will."""


class Request:
    """Something for a thread to do, and for the loop to hear about afterwards."""

    __slots__ = ("__dict__", "_claims", "_code", "_loop", "_over", "_slow")

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._claims: dict[str, object] = {}  # its owner: the thread that begins it, or the caller that ends it before
        self._code: int | None = None  # why it never began
        self._slow = False
        self._over = False  # a thread has done it

    def cancel(self) -> bool:
        """Take the request back. True if no thread has begun it; its callback is then told UV_ECANCELED."""
        return self._end(errno.UV_ECANCELED)

    def _end(self, code: int) -> bool:
        """End the request with this code if no thread has begun it; return whether that was so."""
        if self._claims:
            return False
        self._code = code
        if not self._claim(_LOOP):
            return False
        self._loop._complete(self)
        return True

    def _claim(self, who: object) -> bool:
        """Take the request for oneself, if nobody has; return whether it is."""
        return self._claims.setdefault("owner", who) is who

    def _deliver(self) -> None:
        """The request is over; called by the loop."""
        loop = self._loop
        if self in loop._requests:
            if self._claims.get("owner") is not _LOOP:
                self._code = None
            loop._requests.remove(self)
            loop._ended()
            self._finish()

    def _execute(self) -> None:
        """The work, in a thread."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Tell the caller, in the loop's thread."""
        raise NotImplementedError


class WorkRequest(Request):
    """A call of `Loop.queue_work`."""

    __slots__ = ("_done_callback", "_exception", "_work_callback")

    def __init__(
        self, loop: "Loop", work_callback: Callable[[], object], done_callback: Callable[[int | None], object] | None
    ) -> None:
        super().__init__(loop)
        self._work_callback: Callable[[], object] | None = work_callback
        self._done_callback = done_callback
        self._exception: BaseException | None = None

    def _execute(self) -> None:
        assert self._work_callback is not None
        try:
            self._work_callback()
        except BaseException as exc:
            self._exception = exc

    def _finish(self) -> None:
        done = self._done_callback
        self._work_callback = self._done_callback = None
        if self._exception is not None:
            try:
                raise self._exception
            except BaseException:
                self._exception = None
                self._loop._uncaught()
        if done is not None:
            done(self._code)


class _Pool:
    __slots__ = ("_lock", "_queue", "_size", "_slots", "_slow_waiting", "_threads", "forked")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._slow_waiting: deque[Request] = deque()
        self._size = _size()
        self._slots: deque[int] = deque((0,))  # for slow requests: half of the threads
        self._threads: list[threading.Thread] = []
        self.forked = False

    def submit(self, request: Request, slow: bool) -> None:
        if len(self._threads) < self._size and not self._grow():
            request._end(errno.UV_EAGAIN)
            return
        if slow:
            request._slow = True
            self._slow_waiting.append(request)
            self._next_slow()
        else:
            self._queue.put(request)

    def _grow(self) -> bool:
        """Start the threads that are missing, as many as can be had; return whether there is any."""
        with self._lock:
            while len(self._threads) < self._size:
                name = f"pyuv-worker-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                try:
                    thread.start()
                except (RuntimeError, MemoryError):
                    break
                self._threads.append(thread)
                if len(self._threads) > 2 and len(self._threads) % 2:
                    self._slots.append(0)
            return bool(self._threads)

    def _serve(self) -> None:
        get = self._queue.get
        while True:
            request = get()
            if request is None:
                self._queue.put(None)  # there may be one more thread than anybody knows of
                return
            if request._claim(object()):
                request._execute()
                request._over = True
                request._loop._complete(request)
            if self.forked:  # by the work, and this thread is all that the child has
                return
            if request._slow:
                self._slots.append(0)
                self._next_slow()
            del request  # not kept alive while waiting for the next

    def _next_slow(self) -> None:
        """Begin slow requests while there are any and slots for them; to be called after one of either was added."""
        while self._slow_waiting:
            try:
                slot = self._slots.pop()
            except IndexError:
                return
            try:
                request = self._slow_waiting.popleft()
            except IndexError:
                self._slots.append(slot)
            else:
                self._queue.put(request)

    def shut_down(self) -> None:
        self._queue.put(None)
        for thread in self._threads:
            thread.join()


_pool: _Pool | None = None
_pool_lock = threading.RLock()


def submit(request: Request, slow: bool = False) -> None:
    """Hand a request to the pool; `slow` for one that may wait long for something other than this machine."""
    pool = _pool
    if pool is None:
        pool = _start()
    pool.submit(request, slow)


def mend(request: Request) -> None:
    """Have a request end that may have been left half submitted, or half ended."""
    if request._over or request._claims.get("owner") is _LOOP:
        request._loop._complete(request)
    elif not request._claims:
        submit(request, request._slow)


def _start() -> _Pool:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = _Pool()
            atexit.register(_shut_down)
        return _pool


def _shut_down() -> None:
    """At the end of the process, let work that has begun end: it may be a write to disk."""
    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        pool.shut_down()


def _forget() -> None:
    """In a forked child: the parent's threads are not there."""
    global _pool, _pool_lock
    if _pool is not None:
        _pool.forked = True
    _pool = None
    _pool_lock = threading.RLock()
    atexit.unregister(_shut_down)


def _size() -> int:
    value = os.environ.get("UV_THREADPOOL_SIZE", "")
    return min(max(int(value), 1), 1024) if value.isdecimal() else 4


os.register_at_fork(after_in_child=_forget)

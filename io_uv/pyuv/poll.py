"""Poll: a callback when a descriptor of one's own is readable or writable.

Duty: `Poll(loop, fd).start(events, callback)`; the callback gets (poll, events, error). Level-triggered: it is called
every turn for as long as the condition holds. Readable and writable are reported one after the other, not in one mask.
The descriptor stays the caller's, who closes it after stop() or close(). One active Poll per descriptor and loop.

UV_DISCONNECT can be had together with UV_READABLE only (a peer's hang-up makes a descriptor readable).
Failure modes: PollError from start, with UV_EPERM for a descriptor that cannot be polled (a plain file), UV_EBADF for a
closed one, UV_EEXIST for one that another Poll of the loop watches, UV_ENOTSUP for other events.
"""

import select
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from io_uv.pyuv import errno, error
from io_uv.pyuv.handle import Watcher, check_callback, closed_error
from io_uv.pyuv.loop import Loop

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

UV_READABLE: Final = 1
UV_WRITABLE: Final = 2
UV_DISCONNECT: Final = 4


class Poll(Watcher):
    """`Poll(loop, fd)`: watches a file descriptor."""

    __slots__ = ("_events", "_fd")

    def __init__(self, loop: Loop, fd: int) -> None:
        self._fd = fd
        self._events = 0
        self._callback = None
        super().__init__(loop)

    def start(self, events: int, callback: "Callable[[Self, int | None, int | None], object]") -> None:
        """Call `callback(poll, events, error)` when one of `events` (a mask of UV_READABLE, UV_WRITABLE,
        UV_DISCONNECT) happens. On a started handle this replaces mask and callback.
        """
        if self._closed:
            raise closed_error()
        check_callback(callback)
        if not events or events & ~7 or events & 5 == UV_DISCONNECT:
            raise error.make(error.PollError, errno.UV_ENOTSUP if events else errno.UV_EINVAL)
        if self._loop._polls.setdefault(self._fd, self) is not self:
            raise error.make(error.PollError, errno.UV_EEXIST)
        self._callback = callback
        loop, enter, former = self._loop._uv, self._loop._enter, self._events
        # Noted before: if this is interrupted, what is closed later must not be watched any more.
        self._events |= events
        try:
            if events & UV_READABLE:
                loop.add_reader(self._fd, enter, self._disconnectable if events & UV_DISCONNECT else self._readable)
            elif former & UV_READABLE:
                loop.remove_reader(self._fd)
            if events & UV_WRITABLE:
                loop.add_writer(self._fd, enter, self._writable)
            elif former & UV_WRITABLE:
                loop.remove_writer(self._fd)
        except OSError as exc:
            self._release()
            self._deactivate()
            raise error.make(error.PollError, errno.from_os_error(exc)) from None
        self._events = events
        self._activate()

    def fileno(self) -> int:
        """The descriptor being watched."""
        if self._closed:
            raise closed_error()
        return self._fd

    def _release(self) -> None:
        if self._events & UV_READABLE:
            self._loop._uv.remove_reader(self._fd)
        if self._events & UV_WRITABLE:
            self._loop._uv.remove_writer(self._fd)
        self._events = 0
        if self._loop._polls.get(self._fd) is self:
            del self._loop._polls[self._fd]

    def _mend(self) -> None:
        super()._mend()
        if self._closed or not self._active:
            return
        enter = self._loop._enter
        if self._events & UV_READABLE:
            self._loop._uv.add_reader(
                self._fd, enter, self._disconnectable if self._events & UV_DISCONNECT else self._readable
            )
        if self._events & UV_WRITABLE:
            self._loop._uv.add_writer(self._fd, enter, self._writable)

    def _descriptors(self) -> Iterable[int]:
        return (self._fd,)

    def _readable(self) -> None:
        # _happened, without its call.
        loop = self._loop
        if loop._watched:
            loop._woke()
        assert self._callback is not None
        try:
            self._callback(self, UV_READABLE, None)
        except BaseException:
            loop._uncaught()

    def _writable(self) -> None:
        self._happened(UV_WRITABLE)

    def _disconnectable(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN | select.POLLRDHUP)
        found = poller.poll(0)
        hung_up = found and found[0][1] & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        self._happened(UV_READABLE | UV_DISCONNECT if hung_up else UV_READABLE)

    def _happened(self, events: int) -> None:
        loop = self._loop
        if loop._watched:
            loop._woke()
        assert self._callback is not None
        try:
            self._callback(self, events, None)
        except BaseException:
            loop._uncaught()

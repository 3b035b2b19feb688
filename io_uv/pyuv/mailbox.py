"""Mailbox: how other threads have something called by the loop.

Duty: `post(action)` from any thread, signal handler or finaliser; the loop calls the action, in the order of posting.
One wake-up serves all that is posted before the loop gets to it. The wake-up is an eventfd that the loop watches (a
pipe where there is none): a third cheaper than call_soon_threadsafe, whose own wake-up is written while the GIL is held
and so sends the loop's thread to wait for it.

No lock: the deque is atomic, and a thread in the middle of waking holds a reference to the descriptor, which is closed
when the last reference goes. A lock would be held while the wake-up lets go of the GIL, and every thread would meet it.

Failure modes: post() to a closed mailbox answers False and drops the action.
"""

import os
from collections import deque
from collections.abc import Callable

Action = Callable[[], object]


class _Waker:
    """A descriptor that becomes readable. Closed with its last reference."""

    __slots__ = ("_write_fd", "fd")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def wake(self) -> None:
        os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")

    def __del__(self) -> None:
        os.close(self.fd)
        if self._write_fd != self.fd:
            os.close(self._write_fd)


class Mailbox:
    """Actions on their way to a loop. `fd` is readable when there are any; the loop then calls `deliver`."""

    __slots__ = ("_actions", "_sent", "_waker", "fd")

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()
        self._sent = False
        self._waker: _Waker | None = _Waker()
        self.fd = self._waker.fd

    def post(self, action: Action) -> bool:
        """Have the loop call action. False if the mailbox is closed."""
        waker = self._waker
        if waker is None:
            return False
        self._actions.append(action)
        if not self._sent:
            self._sent = True
            waker.wake()
        return True

    def deliver(self, uncaught: Callable[[], None]) -> None:
        """Call what has been posted; `uncaught()` is called while an exception of an action is handled."""
        os.read(self.fd, 8)
        # Cleared before looking: what is posted from here on wakes again.
        self._sent = False
        actions = self._actions
        left = len(actions)
        try:
            while left:
                left -= 1
                try:
                    actions.popleft()()
                except BaseException:
                    uncaught()
        finally:
            if left and self._waker is not None:  # interrupted (Ctrl-C): the rest is for the next time
                self._sent = True
                self._waker.wake()

    def close(self) -> None:
        """Take no more, and give the descriptors back."""
        self._waker = None
        self._actions.clear()

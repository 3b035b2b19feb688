"""Mailbox: how other threads have something called by the loop.

Duty: `post(action)` from any thread, signal handler or finaliser; the loop calls the action, in the order of posting.
One wake-up serves all that is posted before the loop gets to it. The wake-up is an eventfd that the loop watches
(`wakeup`; a pipe where there is none): a third cheaper than call_soon_threadsafe, whose own wake-up is written while
the GIL is held and so sends the loop's thread to wait for it.

No lock: the deque is atomic, and a thread in the middle of waking holds a reference to the descriptor, which is closed
when the last reference goes. A lock would be held while the wake-up lets go of the GIL, and every thread would meet it.

Failure modes: post() to a closed mailbox answers False and drops the action.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable

from io_uv.pyuv import wakeup

Action = Callable[[], object]


class _Descriptor(int):
    """A file descriptor that is closed with its last reference, one of which is in `_open` until the mailbox is closed:
    the cyclic collector, which finalises what is part of a forgotten cycle in any order, must not close one that a loop
    still watches.
    """

    __slots__ = ()

    def __del__(self) -> None:
        os.close(self)


_open: set[_Descriptor | None] = set()


class Mailbox:
    """Actions on their way to a loop. `fd` is readable when there are any; the loop then calls `deliver`."""

    __slots__ = ("_actions", "_fd", "_sent", "_waker")

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()
        self._sent = False
        self._fd: _Descriptor | None
        self._waker: _Descriptor | None
        reader, writer, _ = wakeup.open_pair()
        self._fd = _Descriptor(reader)
        self._waker = self._fd if writer == reader else _Descriptor(writer)
        _open.update((self._fd, self._waker))

    @property
    def fd(self) -> int:
        """The descriptor to watch; -1 if the mailbox is closed."""
        return -1 if self._fd is None else int(self._fd)

    def post(self, action: Action) -> bool:
        """Have the loop call action. False if the mailbox is closed."""
        waker = self._waker
        if waker is None:
            return False
        self._actions.append(action)
        if not self._sent:
            self._sent = True
            try:
                os.write(waker, wakeup.TOKEN)
            except BrokenPipeError:
                return False  # closed meanwhile: the loop was awake, has called the action, and has ended
        return True

    def rouse(self) -> None:
        """Have the loop look, whatever was noted of it: an exception may have come between noting and waking."""
        waker = self._waker
        if waker is not None:
            self._sent = True
            os.write(waker, wakeup.TOKEN)

    def deliver(self, uncaught: Callable[[], None]) -> None:
        """Call what has been posted; `uncaught()` is called while an exception of an action is handled."""
        assert self._fd is not None
        with contextlib.suppress(BlockingIOError):  # a delivery that was interrupted has taken the token
            os.read(self._fd, 8)
        # Cleared before looking: anything posted from here on wakes again.
        self._sent = False
        actions = self._actions
        left = len(actions)
        try:
            while left and actions:  # none after a fork, in the child
                left -= 1
                try:
                    actions.popleft()()
                except BaseException:
                    uncaught()
        finally:
            if left and self._waker is not None:  # interrupted (Ctrl-C): the rest is for the next time
                self._sent = True
                os.write(self._waker, wakeup.TOKEN)

    def close(self) -> None:
        """Take no more, and give the descriptors back."""
        _open.difference_update((self._fd, self._waker))
        self._fd = self._waker = None
        self._actions.clear()


class Leave:
    """Gives a guest's mailbox back, in the host's thread; or when the host is closed before it gets to it."""

    __slots__ = ("_mailbox", "_uv")

    def __init__(self, uv: asyncio.AbstractEventLoop, mailbox: Mailbox) -> None:
        self._uv = uv
        self._mailbox = mailbox

    def __call__(self) -> None:
        self._uv.remove_reader(self._mailbox.fd)
        self._mailbox.close()

    def __del__(self) -> None:
        self._mailbox.close()

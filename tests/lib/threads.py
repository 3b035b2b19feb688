"""Threads that cannot be started, as under a limit of processes."""

import threading

import pytest

from io_uv.pyuv import threadpool


class Starts:
    """Stands in front of Thread.start: threads whose name begins so start while `left` is above 0, else they fail.

    The pool is a fresh one meanwhile, without threads; `end` ends those that it got.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *names: str) -> None:
        self.left = 0
        self.refused = 0
        start = threading.Thread.start

        def maybe(thread: threading.Thread) -> None:
            if thread.name.startswith(names):
                if self.left == 0:
                    self.refused += 1
                    raise RuntimeError("can't start new thread")
                self.left -= 1
            start(thread)

        patch.setattr(threading.Thread, "start", maybe)
        self.pool = threadpool._Pool()
        patch.setattr(threadpool, "_pool", self.pool)

    def end(self) -> None:
        """End the threads of the pool."""
        self.pool.shut_down()

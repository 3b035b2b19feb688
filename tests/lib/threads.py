"""Threads: some that cannot be started, as under a limit of processes, and what is left of those that were."""

import os
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


class _Rendezvous(threadpool.Request):
    """Work that waits until every thread of the pool has come to it. It stands for its loop too: nobody is told."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__(self)  # type: ignore[arg-type]
        self._barrier = barrier

    def _execute(self) -> None:
        self._barrier.wait()

    def _complete(self, request: threadpool.Request) -> None:
        assert request is self


def settle() -> None:
    """Wait until no thread has anything to do with earlier work.

    One of the pool that has told a loop of its end may still hold that loop's eventfd open, although the loop has heard
    of it, and is closed; the thread of a writer that was closed is told to end, and nobody waits for it.
    """
    for thread in threading.enumerate():
        if thread.name == "raft-writer":
            thread.join(120)
    pool = threadpool._pool
    if pool is not None:
        barrier = threading.Barrier(len(pool._threads) + 1, timeout=120)
        for _ in pool._threads:
            threadpool.submit(_Rendezvous(barrier))
        barrier.wait()


def open_fds() -> set[str]:
    """Return the process's descriptors with what they are, the one that looks excepted."""
    settle()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def foreign_threads() -> set[str]:
    """Return the names of the threads that are not the pool's, which come as they are needed and stay."""
    settle()
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("pyuv-worker-")}

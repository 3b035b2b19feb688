"""A loop for each test, which has to leave nothing behind: no descriptor, no thread, no exception that nobody expected.

`loop` is a `CheckedLoop`: what callbacks raise is collected in `errors`, and fails the test unless it is taken out. A
loop that runs for 20 seconds is stopped, and the test fails.
"""

import gc
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from io_uv.pyuv import UV_RUN_ONCE, Loop, threadpool

DEADLINE_SECONDS = 20.0

# libuv makes a pipe for the process with the first loop, and keeps it.
Loop().close()


class CheckedLoop(Loop):
    """A loop that collects what callbacks raise."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []
        self._guard = self._uv.call_later(DEADLINE_SECONDS, self._expire)

    def excepthook(self, typ: object, value: BaseException, tb: object) -> None:
        self.errors.append(value)

    def _expire(self) -> None:
        self.errors.append(TimeoutError(f"the loop ran for {DEADLINE_SECONDS} s"))
        self.stop()

    def run_until(self, done: Callable[[], object]) -> None:
        """Run turns until done() holds."""
        while not done():
            assert self.run(UV_RUN_ONCE) or done(), "the loop ended before"
            assert not self.errors, self.errors

    def close(self) -> None:
        self._guard.cancel()
        super().close()


class _Rendezvous(threadpool.Request):
    """Work that waits until every thread of the pool has come to it. It stands for its loop too: nobody is told."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__(self)  # type: ignore[arg-type]
        self._barrier = barrier

    def _execute(self) -> None:
        self._barrier.wait()

    def _complete(self, request: threadpool.Request) -> None:
        assert request is self


def settle_pool() -> None:
    """Wait until no thread of the pool has anything to do with earlier work. One that has told a loop of its end may
    still hold that loop's eventfd open, although the loop has heard of it, and is closed.
    """
    pool = threadpool._pool
    if pool is not None:
        barrier = threading.Barrier(len(pool._threads) + 1, timeout=10)
        for _ in pool._threads:
            threadpool.submit(_Rendezvous(barrier))
        barrier.wait()


def open_fds() -> set[str]:
    """The process's descriptors with what they are, the one that looks excepted."""
    settle_pool()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def foreign_threads() -> set[str]:
    """Names of the threads that are not the pool's."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("pyuv-worker-")}


@pytest.fixture
def loop() -> Iterator[CheckedLoop]:
    """A loop that must leave nothing behind."""
    gc.collect()
    fds, threads = open_fds(), foreign_threads()
    loop = CheckedLoop()
    yield loop
    loop.close()
    errors = loop.errors
    del loop
    gc.collect()
    assert errors == []
    assert open_fds() == fds
    assert foreign_threads() == threads

"""A loop for each test, which has to leave nothing behind: no descriptor, no thread, no exception that nobody expected.

`loop` is a `CheckedLoop`: what callbacks raise is collected in `errors`, and fails the test unless it is taken out. A
loop that runs for two minutes is stopped, and the test fails.
"""

import gc
from collections.abc import Callable, Iterator

import pytest

from io_uv.pyuv import UV_RUN_ONCE, Loop
from tests.lib.threads import foreign_threads, open_fds

DEADLINE_SECONDS = 120.0

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

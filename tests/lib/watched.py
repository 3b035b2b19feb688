"""A plugin for pytest that writes down what runs, and has tests dawdle if that is asked for.

Duty: a line of JSON goes to the file named by FLAKY_REPORT when a test begins (`begin`, and `after`: the file that ran
before this one) and when one fails (`failed`); so who started pytest knows where it hangs, or what it was doing when it
died. With FLAKY_DAWDLE (a seed) each test sleeps at up to three of its lines, for up to 0.8 s, and threads that it
starts sleep for up to 30 ms at a few of the calls and returns that they make: what a test takes for the next moment is
then a late one, and what happens in another thread "soon" happens later, now and then.

Failure modes: compiled functions are neither called nor left as far as a profiler can see, so compiled modules dawdle
less. A test that sets a tracer of its own loses this one. The dice of threads are shared, so a seed repeats how often
they sleep, not where.
"""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ONE_IN = 400
"""How many calls and returns of a thread there are to one that sleeps."""
ONE_LINE_IN = 12
"""How many lines of tests there are to one that sleeps, until three of the test have."""
LONGEST, LONGEST_LINE = 0.03, 0.8

TESTS = str(Path(__file__).resolve().parents[1]) + os.sep

_sleep = time.sleep  # Tests put others in its place.


class Watched:
    """The knowledge of the plugin: where to write, the file of the last test, and the one before it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = ""
        self._after = ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say what begins."""
        file = nodeid.partition("::")[0]
        if file != self._file:
            self._after, self._file = self._file, file
        self._write(begin=nodeid, after=self._after)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say what failed, in its body or around it."""
        if report.failed:
            self._write(failed=report.nodeid, after=self._after)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Say which file cannot be read."""
        if report.failed:
            self._write(failed=report.nodeid, after="")

    def _write(self, **line: str) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")


class Lines:
    """Has the lines of tests sleep, each test by dice of its own."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Trace the test."""
        dice = random.Random(f"{self._seed} {pyfuncitem.nodeid}")
        left = 3

        def line(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal left
            if left == 0:
                frame.f_trace = None
                sys.settrace(None)
            elif event == "line" and dice.random() * ONE_LINE_IN < 1:
                left -= 1
                _sleep(dice.uniform(0, LONGEST_LINE))
            return line

        def called(frame: FrameType, event: str, argument: object) -> Any:
            return line if frame.f_code.co_filename.startswith(TESTS) else None

        sys.settrace(called)
        try:
            return (yield)
        finally:
            sys.settrace(None)


def dawdle(seed: str) -> None:
    """Have threads that are started from now on sleep now and then."""
    dice = random.Random(seed)

    def maybe_sleep(frame: FrameType, event: str, argument: Any) -> None:
        if dice.random() * ONE_IN < 1 and not sys.is_finalizing():
            _sleep(dice.uniform(0, LONGEST))

    threading.setprofile(maybe_sleep)


def pytest_configure(config: pytest.Config) -> None:
    """Begin, as the environment says."""
    if path := os.environ.get("FLAKY_REPORT"):
        config.pluginmanager.register(Watched(path))
    if seed := os.environ.get("FLAKY_DAWDLE"):
        dawdle(seed)
        config.pluginmanager.register(Lines(seed))

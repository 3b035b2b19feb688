"""A plugin for pytest that writes down what runs, and has threads other than the main one dawdle if that is asked for.

Duty: a line of JSON goes to the file named by FLAKY_REPORT when a test begins (`begin`, and `after`: the file that ran
before this one) and when one fails (`failed`); so who started pytest knows where it hangs, or what it was doing when it
died. With FLAKY_DAWDLE (a seed) threads that are started under the plugin sleep for up to 30 ms at a few of the calls
and returns that they make: what is to happen in another thread "soon" then comes late, now and then.

Failure modes: compiled functions are neither called nor left as far as a profiler can see, so compiled modules dawdle
less. The dice are shared by threads, so a seed repeats how often they sleep, not where.
"""

import json
import os
import random
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

ONE_IN = 400
"""How many calls and returns there are to one that sleeps."""
LONGEST = 0.03

_sleep = time.sleep  # Tests put others in its place.


class Watched:
    """What the plugin knows: where to write, the file of the last test, and the one before it."""

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

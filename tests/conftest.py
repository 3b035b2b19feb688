"""Settings of all tests: ports that were kept for one are given back behind it, and the examples that hypothesis
draws may take their time, as a busy machine makes them. asyncio, which with -X dev logs what takes long there, says
nothing of it: tests look at what is logged. Garbage collections do not go through what was imported.

A shell that runs tests in the background has them ignore SIGINT. Programs that a test starts would inherit that, and
those that are to end by it would never end: here the signal is taken as in the foreground.
"""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyraft import state
from tests.lib import ports


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --no-lane: the general path handles all messages (pyraft.steady)."""
    parser.addoption("--no-lane", action="store_true", help="have no server take the lane, see pyraft/steady.py")


def pytest_configure(config: pytest.Config) -> None:
    """Have no test of drawn examples fail for slowness. Hypothesis is imported with its plugin only: it takes long."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
    if config.getoption("--no-lane"):
        state.lane = False
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import HealthCheck, settings

        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Leave modules and collected tests out of garbage collections: hundreds of tests of handles collect twice each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _ports() -> Iterator[None]:
    """Give back the ports that a test has had kept for its servers."""
    yield
    ports.let_go()


@pytest.fixture
def near_path(tmp_path: Path) -> Iterator[Path]:
    """`tmp_path` by a short name, however long its own is: a socket's may have 107 bytes."""
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    os.close(fd)

"""Settings of all tests: the examples that hypothesis draws may take their time, as a busy machine makes them."""

import pytest

from pyraft import state


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --no-lane: the general path handles all messages (pyraft.steady)."""
    parser.addoption("--no-lane", action="store_true", help="have no server take the lane, see pyraft/steady.py")


def pytest_configure(config: pytest.Config) -> None:
    """Have no test of drawn examples fail for slowness. Hypothesis is imported with its plugin only: it takes long."""
    if config.getoption("--no-lane"):
        state.lane = False
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import HealthCheck, settings

        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")

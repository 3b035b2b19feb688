"""What holds for all tests: the examples that hypothesis draws may take their time, as a busy machine makes them."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Have no test of drawn examples fail for slowness. Hypothesis is imported with its plugin only: it takes long."""
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import HealthCheck, settings

        settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("any machine")

"""The random tests use the simulated clusters of the integration tests."""

from tests.integration.conftest import new_cluster

__all__ = ["new_cluster"]

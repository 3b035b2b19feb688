"""The random tests use the simulated clusters of the integration tests."""

import logging
from collections.abc import Iterator

import pytest

from tests.fuzzy.__main__ import quiet
from tests.integration.conftest import new_cluster

__all__ = ["new_cluster", "quiet_core"]


@pytest.fixture
def quiet_core() -> Iterator[None]:
    """Let the core's logger say nothing during a test."""
    logger = logging.getLogger("pyraft")
    before = logger.handlers[:], logger.propagate
    quiet()
    yield
    logger.handlers[:], logger.propagate = before

"""Fixtures that the integration tests share: `new_cluster` makes simulated clusters and closes them at the end."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.lib.cluster import Cluster


@pytest.fixture
def new_cluster() -> "Iterator[Callable[..., Cluster]]":
    """Return a maker of clusters; its arguments are those of Cluster. Closing completes what is pending."""
    from tests.lib.cluster import Cluster

    made: list[Cluster] = []

    def make(n: int, **options: Any) -> Cluster:
        cluster = Cluster(n, **options)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close()

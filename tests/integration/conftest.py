"""Fixtures that the integration tests share.

`new_cluster` makes simulated clusters and closes them at the end. `data` is an empty data directory, `opener` opens
instances on it. `peer` is for modules that have a transport `f`, `authority` and `pair` are for TLS.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lib.disk import Dir

if TYPE_CHECKING:
    from tests.lib.cluster import Cluster
    from tests.lib.peer import PeerServer, Transport
    from tests.lib.tlstest import Authority, Pair
    from tests.lib.uvload import Opener


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


@pytest.fixture
def data(tmp_path: Path) -> Dir:
    """An empty data directory."""
    return Dir(tmp_path)


@pytest.fixture
def opener(tmp_path: Path) -> "Iterator[Opener]":
    """Opens instances on it."""
    from tests.lib.uvload import Opener

    opener = Opener(tmp_path)
    yield opener
    opener.close()


@pytest.fixture
def peer(f: "Transport") -> "Iterator[PeerServer]":
    """A peer that listens, on the loop of the module's transport."""
    from tests.lib.peer import PeerServer

    server = PeerServer(f.loop)
    yield server
    server.close()


@pytest.fixture
def authority(tmp_path: Path) -> "Authority":
    """The authority that the servers trust."""
    from tests.lib.tlstest import Authority

    (tmp_path / "ca").mkdir()
    return Authority(tmp_path / "ca")


@pytest.fixture
def pair(tmp_path: Path) -> "Iterator[Pair]":
    """An empty set of servers."""
    from tests.lib.tlstest import Pair

    servers = Pair(tmp_path)
    yield servers
    servers.close()

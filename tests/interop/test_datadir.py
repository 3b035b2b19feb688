"""io_uv.datadir on directories that a C server has made: libraft's files are read, judged and mended like ours."""

import pytest

from io_uv import datadir
from io_uv.failure import Failure
from pyraft.errors import RAFT_BUSY
from tests.interop.driver import Cluster, Workshop, until


def test_a_directory_of_a_c_server(workshop: Workshop) -> None:
    """Refused while it runs, although it takes no lock; healthy behind a stop and a kill; the log is all there."""
    node = workshop.node("c", 1, threshold=50, trailing=10)
    cluster = Cluster([node], seed=1)
    cluster.start()
    cluster.apply(120)
    until("a snapshot", lambda: any(name.endswith(".meta") for name in node.files()))
    assert node.process is not None
    seen = pytest.raises(Failure, match=f"process {node.process.pid} has a segment open")
    with seen as raised, datadir.hold(node.dir):
        pass
    assert raised.value.code == RAFT_BUSY
    status = node.status()
    node.kill()
    for _ in range(2):
        with datadir.hold(node.dir):
            found = datadir.read(node.dir)
            assert [one for one in datadir.check(node.dir, found) if one.severity != datadir.NOTE] == []
            rehearsal = datadir.rehearse(node.dir)
            assert rehearsal.starts
            assert not rehearsal.recovering
            assert not datadir.repair(node.dir).needed
        assert (found.term, found.last_index) == (rehearsal.term, rehearsal.last_index)
        assert found.last_index >= status.last
        assert found.snapshots
        assert found.configuration is not None
        assert [(one.id, one.address) for one in found.configuration.servers] == [(1, node.address)]
        indexes = [one.index for one in datadir.entries(node.dir)]
        assert indexes == list(range(found.first_index, found.last_index + 1))
        node.run()
        cluster.leader()
        node.quit()


def test_a_c_server_starts_on_a_directory_that_was_recovered(workshop: Workshop) -> None:
    """Two of three are lost for good; the one that is left goes on alone, in C."""
    nodes = [workshop.node("c", id) for id in (1, 2, 3)]
    cluster = Cluster(nodes, seed=1)
    cluster.start()
    cluster.apply(20)
    cluster.settle()
    for node in nodes:
        node.kill()
    survivor = nodes[0]
    with datadir.hold(survivor.dir):
        current = datadir.read(survivor.dir).configuration
        assert current is not None
        current.servers = [one for one in current.servers if one.id == 1]
        datadir.recover(survivor.dir, current, [], apply=True)
    survivor.run()
    alone = Cluster([survivor], seed=2)
    alone.acknowledged = cluster.acknowledged
    alone.leader()
    alone.apply(5)
    status = alone.settle()
    assert status.count >= 25
    survivor.quit()

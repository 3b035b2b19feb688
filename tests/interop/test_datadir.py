"""io_uv.datadir on directories that a C server has made: libraft's files are read, judged and mended like ours."""

import pytest

from io_uv import datadir, metadata
from io_uv.failure import Failure
from pyraft.errors import RAFT_BUSY
from tests.interop.driver import Cluster, Failed, Workshop, until


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


def test_a_directory_of_a_c_server_is_exported_and_imported(workshop: Workshop) -> None:
    """C goes on where it was, on what was made of the file: same term, snapshot and entries, and every command."""
    node = workshop.node("c", 1, threshold=50, trailing=10)
    cluster = Cluster([node], seed=1)
    cluster.start()
    cluster.apply(120)
    until("a snapshot", lambda: any(name.endswith(".meta") for name in node.files()))
    status = node.status()
    node.kill()
    file = node.dir.with_name("c.export")
    with datadir.hold(node.dir):
        before = datadir.rehearse(node.dir)
        log = [(one.index, one.term, one.type, one.data) for one in datadir.entries(node.dir, before.first_index)]
        head = datadir.export(node.dir, file)
    assert (head.snapshot is not None, head.last_index >= status.last) == (True, True)
    node.dir.rename(node.dir.with_name("before"))
    datadir.import_(file, node.dir)
    with datadir.hold(node.dir):
        after = datadir.rehearse(node.dir)
        assert (after.term, after.voted_for, after.snapshot) == (before.term, before.voted_for, before.snapshot)
        assert [(one.index, one.term, one.type, one.data) for one in datadir.entries(node.dir)] == log
    node.run()
    cluster.leader()
    assert cluster.settle().count >= 120
    cluster.apply(5)
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


def test_c_servers_go_on_under_new_ids(workshop: Workshop) -> None:
    """Each directory is renumbered by itself; while that is under way C refuses to start, and touches nothing."""
    nodes = [workshop.node("c", id, threshold=50, trailing=10) for id in (1, 2, 3)]
    cluster = Cluster(nodes, seed=1)
    cluster.start()
    cluster.apply(120)
    cluster.settle()
    for node in nodes:
        node.kill()
    ids = {1: 11, 2: 12, 3: 13}
    for node in nodes:
        with datadir.hold(node.dir):
            datadir.renumber([datadir.Seat(node.dir)], ids, set(ids) - {node.id}, apply=True)
    state = metadata.load(str(nodes[0].dir))
    state.version += 1
    metadata.bar(str(nodes[0].dir), state)
    before = {path.name: path.read_bytes() for path in nodes[0].dir.iterdir()}
    with pytest.raises(Failed):
        nodes[0].open()
    nodes[0].kill()
    assert {path.name: path.read_bytes() for path in nodes[0].dir.iterdir()} == before
    metadata.store(str(nodes[0].dir), state)
    for node in nodes:
        node.id = ids[node.id]
        node.run()
    status = cluster.settle()
    assert status.count >= 120
    assert set(status.configuration) == {11, 12, 13}
    cluster.apply(20)
    cluster.settle()
    for node in nodes:
        node.quit()

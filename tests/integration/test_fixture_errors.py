"""The fixture's answers when a server refuses something, its tracing, and what it finds at once."""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RaftFsm,
    RaftIoAppend,
    RaftIoSnapshotPut,
    StderrTracer,
    raft_state,
)
from pyraft import fixture as fx
from pyraft.types import EntryBatch
from tests.integration.test_fixture import snapshot_of
from tests.lib.cluster import Cluster
from tests.lib.fsm import PairFsm, add_x

NewCluster = Callable[..., Cluster]


def test_growing_with_a_table_that_is_refused(new_cluster: NewCluster) -> None:
    """raft_fixture_grow returns raft_init's code and adds nothing."""
    f = fx.RaftFixture()
    assert fx.raft_fixture_init(f) == 0
    fsm = RaftFsm()
    fsm.version = 0
    assert fx.raft_fixture_grow(f, fsm) == -1
    assert fx.raft_fixture_n(f) == 0
    assert fx.raft_fixture_grow(f, PairFsm()) == 0
    fx.raft_fixture_close(f)


def test_start_stops_at_the_first_server_that_cannot(new_cluster: NewCluster) -> None:
    """raft_fixture_start returns the code of the first raft_start that fails; later servers are not started."""
    c = new_cluster(2)
    c.bootstrap(voters=1)
    fx.raft_fixture_term_fault(c.f, 0, 0)
    assert fx.raft_fixture_start(c.f) == RAFT_IOERR
    assert not c.raft(1).started


def test_events_can_be_traced(
    new_cluster: NewCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With LIBRAFT_TRACE set every server tells on stderr, with its id, what it does; the level counts."""
    for name in ("enabled", "level"):  # raft_init changes the stock tracer, which all servers share
        monkeypatch.setattr(StderrTracer, name, getattr(StderrTracer, name))
    monkeypatch.setenv("LIBRAFT_TRACE", "1")
    c = new_cluster(1).ready()
    assert raft_state(c.raft(0)) == RAFT_LEADER
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("1: ") and "follower -> candidate" in line for line in lines)
    monkeypatch.setenv("LIBRAFT_TRACE", "5")
    c = new_cluster(2).ready()
    assert c.state(0) == RAFT_FOLLOWER
    assert capsys.readouterr().err == ""


def test_a_change_of_one_of_the_newest_entries_is_found_at_once(new_cluster: NewCluster) -> None:
    """The next step finds it, in a short log and at the end of a long one."""
    for n in (2, 199):
        c = new_cluster(3).led()
        c.apply(0, *[add_x(1)] * n)
        c.until_applied(3, n + 2, 2000)
        c.raft(0).log.bufs[-2] = add_x(9)
        with pytest.raises(AssertionError, match=f"changed entry {n + 1} from"):
            c.step()
        c.raft(0).log.bufs[-2] = add_x(1)


def test_a_snapshot_of_entries_that_are_gone_replaces_those_on_their_way(new_cluster: NewCluster) -> None:
    """The entry that it ends with is neither stored nor being written, so nobody knows that it is the same one."""
    c = new_cluster(1)
    io = c.raft(0).io
    io.append(io, RaftIoAppend(), EntryBatch([1] * 6, [1] * 6, [b""] * 6), 6, lambda req, status: None)
    c.step()
    io.snapshot_put(io, 0, RaftIoSnapshotPut(), snapshot_of(4, 1, c.configuration(), b"x"), lambda req, status: None)
    c.step()
    io.snapshot_put(io, 0, RaftIoSnapshotPut(), snapshot_of(3, 2, c.configuration(), b"x"), lambda req, status: None)
    io.append(io, RaftIoAppend(), EntryBatch([2] * 4, [1] * 4, [b""] * 4), 4, lambda req, status: None)
    c.step()
    _, _, _, snapshot, start_index, entries = io.load(io)
    assert snapshot is not None
    assert (snapshot.index, start_index, len(entries)) == (3, 4, 0)

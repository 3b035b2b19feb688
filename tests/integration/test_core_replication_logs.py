"""Replication on simulated clusters whose logs differ at the start: what is filled in, replaced, rolled back."""

import logging
from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_CHANGE,
    RAFT_COMMAND,
    RAFT_SPARE,
    RAFT_UNAVAILABLE,
    RaftConfiguration,
    raft_bootstrap,
    raft_configuration_add,
)
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


def servers(conf: RaftConfiguration) -> list[tuple[int, str, int]]:
    """Return the servers of a configuration as comparable values."""
    return [(s.id, s.address, s.role) for s in conf.servers]


def with_a_third(c: Cluster) -> RaftConfiguration:
    """Return the cluster's configuration with server 3 as a spare."""
    conf = c.configuration()
    assert raft_configuration_add(conf, 3, "3", RAFT_SPARE) == 0
    return conf


@covers("replication/recvMissingEntries")
def test_shorter_log_is_filled(new_cluster: NewCluster) -> None:
    """A follower that lacks an entry is sent it."""
    c = new_cluster(2)
    c.bootstrap()
    c.add_entry(0, 1, fsms.set_x(1))
    c.start()
    assert c.until_leader(5000) == 0
    c.until_applied(1, 3, 3000)
    assert c.fsms[1].x == 1


@covers("replication/recvPrevLogTermMismatch")
def test_conflicting_entry_is_replaced(new_cluster: NewCluster) -> None:
    """An uncommitted entry of another term gives way to the leader's."""
    c = new_cluster(2)
    c.bootstrap()
    c.add_entry(0, 2, fsms.set_x(1))
    c.add_entry(1, 1, fsms.set_x(2))
    c.start()
    c.elect(0)
    c.until_applied(1, 2, 3000)
    assert c.fsms[1].x == 1
    c.until_applied(1, 3, 3000)


@covers("replication/recvRollbackConfigurationToInitial")
def test_conflicting_change_is_rolled_back_to_the_first_configuration(new_cluster: NewCluster) -> None:
    """A truncated CHANGE entry takes its configuration along: that of entry 1 is in force again."""
    c = new_cluster(2)
    c.bootstrap()
    base, conf = c.configuration(), with_a_third(c)
    c.add_entry(0, 2, fsms.set_x(1))
    c.add_change(1, 1, conf, RAFT_CHANGE)
    c.start()
    assert servers(c.raft(1).configuration) == servers(conf)
    assert c.change_indexes(1) == (1, 2)
    c.elect(0)
    c.until_applied(1, 2, 3000)
    for i in (0, 1):
        assert servers(c.raft(i).configuration) == servers(base)
        assert c.change_indexes(i) == (1, 0)


@covers("replication/recvRollbackConfigurationToPrevious")
def test_conflicting_change_is_rolled_back_to_the_committed_configuration(new_cluster: NewCluster) -> None:
    """A truncated CHANGE entry brings back the configuration of the CHANGE entry before it."""
    c = new_cluster(2)
    c.bootstrap()
    base, conf = c.configuration(), with_a_third(c)
    c.add_change(0, 1, base, RAFT_CHANGE)
    c.add_change(1, 1, base, RAFT_CHANGE)
    c.add_entry(0, 2, fsms.set_x(1))
    c.add_change(1, 1, conf, RAFT_CHANGE)
    c.start()
    assert servers(c.raft(1).configuration) == servers(conf)
    assert c.change_indexes(1) == (2, 3)
    c.elect(0)
    c.until_applied(1, 3, 3000)
    for i in (0, 1):
        assert servers(c.raft(i).configuration) == servers(base)
        assert c.change_indexes(i) == (2, 0)


@covers("replication/recvRollbackConfigurationToSnapshot")
def test_conflicting_change_is_rolled_back_to_the_snapshots_configuration(new_cluster: NewCluster) -> None:
    """Without the older CHANGE entry in the log, the configuration that came with the snapshot is in force again."""
    c = new_cluster(2)
    base, conf = c.configuration(), with_a_third(c)
    assert raft_bootstrap(c.raft(0), c.configuration()) == 0
    c.set_snapshot(1, 1, 1, 1, 5, 0)
    c.set_term(1, 1)
    c.add_entry(0, 3, fsms.set_x(1))
    c.add_change(1, 2, conf, RAFT_CHANGE)
    c.start()
    assert servers(c.raft(1).configuration) == servers(conf)
    c.elect(0)
    c.until_applied(1, 3, 3000)
    for i in (0, 1):
        assert servers(c.raft(i).configuration) == servers(base)
        assert c.change_indexes(i) == (1, 0)


@covers("replication/recvPrevIndexConflict")
def test_conflict_with_a_committed_entry_is_fatal(new_cluster: NewCluster) -> None:
    """A leader that contradicts what a follower has committed makes the follower unavailable, with its log intact."""
    c = new_cluster(2)
    c.bootstrap()
    c.add_entry(0, 2, fsms.set_x(1))
    c.add_entry(1, 1, fsms.set_x(2))
    c.start()
    c.elect(0)
    c.raft(1).commit_index = 2
    c.until_state(1, RAFT_UNAVAILABLE, 500)
    assert c.last_index(1) == 2
    assert c.fsms[1].x == 0


@covers("replication/recvMatch_last_snapshot")
def test_entries_right_behind_a_snapshot_are_accepted(new_cluster: NewCluster) -> None:
    """A message whose prev is the index and term of the follower's snapshot is accepted."""
    c = new_cluster(2)
    assert raft_bootstrap(c.raft(0), c.configuration()) == 0
    c.add_entry(0, 2, fsms.set_x(5))
    c.set_snapshot(1, 2, 2, 1, 5, 0)
    c.set_term(1, 2)
    c.start()
    c.elect(0)
    c.progress()
    c.until_applied(1, 4, 3000)
    assert [f.x for f in c.fsms] == [6, 6]


@pytest.mark.parametrize("longer", [0, 5])
def test_an_idle_leader_notices_a_member_with_another_log(
    new_cluster: NewCluster, caplog: pytest.LogCaptureFixture, longer: int
) -> None:
    """One that reaches as far as what it had acknowledged, or further: the directory is another cluster's."""
    c = new_cluster(3)
    c.led()
    for _ in range(20):
        assert c.until_done(c.add_x(0)) == 0
    c.elapse(500)
    impl = c.raft(2).io.impl
    for index in range(2, c.last_index(0) + 1 + longer):
        impl.stored[index] = (1, RAFT_COMMAND, fsms.add_x(1000))
    impl.next_index = c.last_index(0) + 1 + longer
    c.restart(2)
    with caplog.at_level(logging.WARNING, "pyraft"):
        c.until_applied(2, c.last_index(0), 1000)
    told = [r.getMessage() for r in caplog.records if "had acknowledged" in r.getMessage()]
    assert len(told) == 1
    assert "has another log now" in told[0]
    assert c.fsms[2].x == c.fsms[0].x == 20

"""Snapshots on simulated clusters: sent to followers that fell behind, installed, and taken of the own FSM."""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_LEADER,
    RAFT_SHUTDOWN,
    RAFT_UNAVAILABLE,
    RaftFsm,
    log,
    raft_last_applied,
    snapshot,
)
from pyraft import fixture as fx
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]

KINDS = [
    pytest.param({"fsm_version": version, "snapshot_async": wanted}, id=f"v{version}-{'async' if wanted else 'sync'}")
    for version in (1, 2, 3)
    for wanted in (False, True)
]
ASYNC = {"fsm_version": 3, "snapshot_async": True}


def installs(c: Cluster, target: int = 2) -> tuple[int, int]:
    """Return how many InstallSnapshot messages server 0 has sent and the target has received."""
    return c.n_send(0, RAFT_IO_INSTALL_SNAPSHOT), c.n_recv(target, RAFT_IO_INSTALL_SNAPSHOT)


def installing(c: Cluster, i: int) -> bool:
    """Whether server `i` is storing a snapshot that a leader sent."""
    r = c.raft(i)
    return r.snapshot.put is not None and r.last_stored == 0


def taking(c: Cluster, i: int) -> bool:
    """Whether server `i` is storing a snapshot of its own."""
    r = c.raft(i)
    return r.snapshot.put is not None and r.last_stored != 0


def at_rest(c: Cluster, i: int) -> bool:
    """Whether server `i` is storing no snapshot."""
    return c.raft(i).snapshot.put is None


def left_behind(c: Cluster, i: int = 2, install_timeout: int | None = None) -> None:
    """Let server `i` miss three commands, of which the leader takes a snapshot."""
    c.compact_early(install_timeout=install_timeout)
    c.cut(0, i)
    c.progress_times(3)


# Installing


@covers("snapshot/installOne")
def test_follower_that_fell_behind_gets_a_snapshot(new_cluster: NewCluster) -> None:
    """A follower that lacks entries which the leader compacted away is sent one snapshot."""
    c = new_cluster(3).led()
    left_behind(c)
    c.heal(0, 2)
    c.until_applied(2, 4, 5000)
    assert installs(c) == (1, 1)
    c.until_applied(2, 5, 5000)
    assert c.fsms[2].restored == [(1, 0)]
    assert c.fsms[2].x == 3


@covers("snapshot/installOneTimeOut")
def test_snapshot_is_sent_again_after_its_timeout(new_cluster: NewCluster) -> None:
    """A follower that takes longer to store a snapshot than the timeout is sent it a second time."""
    c = new_cluster(3).led()
    left_behind(c, install_timeout=200)
    c.set_disk_latency(2, 300)
    c.heal(0, 2)
    c.elapse(300)
    assert installs(c) == (1, 1)
    c.until_applied(2, 4, 5000)
    assert installs(c) == (2, 2)


@covers("snapshot/installOneDisconnectedFromBeginningReconnects")
def test_snapshot_is_not_sent_to_who_cannot_be_reached(new_cluster: NewCluster) -> None:
    """No snapshot is sent to a server that was never heard from; it gets one when it is back."""
    c = new_cluster(3).led()
    c.compact_early(install_timeout=200)
    c.disconnect(0, 2)
    c.progress_times(3)
    c.elapse(2000)
    assert installs(c) == (0, 0)
    c.reconnect(0, 2)
    c.until_applied(2, 4, 5000)
    assert installs(c) == (1, 1)


@covers("snapshot/installOneDisconnectedDuringOperationReconnects")
def test_snapshot_is_not_sent_to_who_has_gone(new_cluster: NewCluster) -> None:
    """No snapshot is sent to a server that was up to date and then left; it gets one when it is back."""
    c = new_cluster(3).led()
    c.compact_early(install_timeout=200)
    c.progress_times(3)
    c.until_applied(2, 5, 5000)
    assert installs(c) == (0, 0)
    c.disconnect(0, 2)
    c.elapse(2000)
    c.progress_times(3)
    assert installs(c) == (0, 0)
    c.reconnect(0, 2)
    c.until_applied(2, 8, 5000)
    assert installs(c) == (1, 1)


@covers("snapshot/noSnapshotInstallToKilled")
def test_snapshot_is_not_sent_to_a_dead_server(new_cluster: NewCluster) -> None:
    """A killed server is sent no snapshot."""
    c = new_cluster(3).led()
    c.compact_early(install_timeout=200)
    c.kill(2)
    c.progress_times(3)
    c.elapse(4000)
    assert installs(c) == (0, 0)
    assert c.leader == 0


@covers("snapshot/installOneTimeOutAppendAfter")
def test_replication_goes_on_after_a_snapshot_that_was_sent_twice(new_cluster: NewCluster) -> None:
    """Entries follow a snapshot that needed two attempts."""
    c = new_cluster(3).led()
    left_behind(c, install_timeout=200)
    c.set_disk_latency(2, 300)
    c.heal(0, 2)
    c.until_applied(2, 4, 5000)
    index = c.progress()
    c.until_applied(2, index, 5000)
    assert c.n_send(0, RAFT_IO_INSTALL_SNAPSHOT) == 2
    assert c.fsms[2].x == c.fsms[0].x == 4


@covers("snapshot/installMultipleTimeOut", "snapshot/installMultipleTimeOutAppendAfter")
@pytest.mark.parametrize("more", [0, 2])
def test_two_snapshots_that_time_out(new_cluster: NewCluster, more: int) -> None:
    """A follower on a slow disk catches up although the snapshot it is sent is out of date twice."""
    c = new_cluster(3).led()
    left_behind(c, install_timeout=200)
    c.set_disk_latency(2, 300)
    c.heal(0, 2)
    c.elapse(400)
    c.cut(0, 2)
    c.progress_times(3)
    c.heal(0, 2)
    c.progress_times(more)
    c.until_applied(2, 7 + more, 5000)
    assert c.n_send(0, RAFT_IO_INSTALL_SNAPSHOT) >= 2


@covers("snapshot/installSnapshotHeartBeats")
def test_heartbeats_arrive_during_an_installation(new_cluster: NewCluster) -> None:
    """While a snapshot is being stored heartbeats go on, the snapshot is not sent again, and no time-out comes."""
    c = new_cluster(3).led()
    left_behind(c, 1)
    c.set_disk_latency(1, 2000)
    assert c.n_recv(1, RAFT_IO_INSTALL_SNAPSHOT) == 0
    c.heal(0, 1)
    c.until(lambda: installing(c, 1), 2000)
    assert c.n_recv(1, RAFT_IO_INSTALL_SNAPSHOT) == 1
    before = c.n_recv(1, RAFT_IO_APPEND_ENTRIES)
    c.until(lambda: at_rest(c, 1), 5000)
    assert c.n_recv(1, RAFT_IO_APPEND_ENTRIES) > before + 10
    assert c.n_recv(1, RAFT_IO_INSTALL_SNAPSHOT) == 1
    c.until_applied(1, 4, 5000)
    c.progress_times(2)
    c.until_applied(1, 6, 5000)


@covers("snapshot/installSnapshotDuringEntriesWrite")
def test_snapshot_arrives_while_entries_are_being_stored(new_cluster: NewCluster) -> None:
    """A snapshot that comes while older entries are on their way to the disk does not hurt."""
    c = new_cluster(3).led()
    c.set_disk_latency(1, 2000)
    c.compact_early()
    c.progress_times(2)
    fx.raft_fixture_disconnect(c.f, 0, 1)
    index = c.progress_times(4)
    assert index == 8
    fx.raft_fixture_reconnect(c.f, 0, 1)
    c.until_applied(1, 7, 5000)
    c.set_disk_latency(1, 10)
    c.until_applied(1, 8, 5000)
    assert c.fsms[1].x == 6


@covers("snapshot/snapshotBlocksCandidate")
def test_follower_that_installs_a_snapshot_does_not_stand(new_cluster: NewCluster) -> None:
    """A follower that lost its leader stays follower while it is storing a snapshot."""
    c = new_cluster(3).led()
    left_behind(c)
    c.set_disk_latency(2, 5000)
    c.heal(0, 2)
    c.elapse(500)
    assert installs(c) == (1, 1)
    c.cut(0, 2)
    assert c.state(2) == RAFT_FOLLOWER
    assert installing(c, 2)
    c.elapse(4000)
    assert installing(c, 2)
    assert c.state(2) == RAFT_FOLLOWER
    assert c.term(2) == 2


@covers("snapshot/unavailableDiscardsSnapshot")
def test_unavailable_server_drops_its_installation(new_cluster: NewCluster) -> None:
    """A server that becomes unavailable during an installation restores nothing."""
    c = new_cluster(3).led()
    left_behind(c)
    c.set_disk_latency(2, 600)
    c.heal(0, 2)
    c.elapse(500)
    assert installs(c) == (1, 1)
    fx.raft_fixture_make_unavailable(c.f, 2)
    c.elapse(500)
    assert c.state(2) == RAFT_UNAVAILABLE
    assert raft_last_applied(c.raft(2)) == 1
    assert c.fsms[2].restored == []


@covers("snapshot/newTermWhileInstalling")
def test_term_that_changes_during_an_installation(new_cluster: NewCluster) -> None:
    """A new leader of a new term during an installation does no harm; the follower catches up with it.

    The new leader's own snapshot comes a moment before the old one is stored, so it is dropped, as in C, and comes
    again after install_snapshot_timeout.
    """
    c = new_cluster(3).led()
    left_behind(c)
    c.set_disk_latency(2, 3000)
    c.heal(0, 2)
    c.elapse(500)
    assert installs(c) == (1, 1)
    c.depose()
    c.elect(1)
    c.elapse(1000)
    assert c.state(1) == RAFT_LEADER
    c.set_disk_latency(2, 10)
    index = c.progress()
    c.until_applied(2, index, 40000)
    assert c.fsms[2].x == 4


# Taking


@covers("snapshot/takeSnapshotAppendEntries")
@pytest.mark.parametrize("kind", KINDS)
def test_entries_arrive_while_a_snapshot_is_taken(new_cluster: NewCluster, kind: dict[str, Any]) -> None:
    """A follower that is storing its snapshot goes on receiving entries and applies them."""
    c = new_cluster(3, **kind).led()
    c.compact_early()
    c.set_disk_latency(1, 2000)
    c.progress_times(3)
    c.until(lambda: taking(c, 1), 8000)
    for _ in range(5):
        c.add_x(0)
    c.until(lambda: at_rest(c, 1), 5000)
    c.until_applied(1, 9, 5000)
    c.progress_times(2)
    c.until_applied(1, 11, 5000)
    assert c.fsms[1].n_snapshots > 0
    if kind["fsm_version"] >= 2:
        c.set_disk_latency(1, 10)
        c.elapse(5000)
        assert c.fsms[1].n_finalized == c.fsms[1].n_snapshots
    if kind == ASYNC:
        assert c.fsms[1].n_async == c.fsms[1].n_snapshots


def refuse(*args: Any) -> int:
    """Be a table function that fails."""
    return -1


def refuse_bufs(*args: Any) -> tuple[int, list[bytes]]:
    """Be an FSM function that gives no content."""
    return -1, []


@covers(
    "snapshot/takeSnapshotSnapshotPutFail",
    "snapshot/takeSnapshotAsyncWorkFail",
    "snapshot/takeSnapshotAsyncFail",
    "snapshot/takeSnapshotFail",
)
@pytest.mark.parametrize(
    ("part", "kind"),
    [
        *((part, kind.values[0]) for part in ("snapshot_put", "async_work", "snapshot") for kind in KINDS),
        ("snapshot_async", ASYNC),
    ],
)
def test_leader_survives_a_snapshot_that_fails(new_cluster: NewCluster, part: str, kind: dict[str, Any]) -> None:
    """Any step of taking a snapshot may fail: the leader goes on, the log is kept and the FSM gets its lock back."""
    c = new_cluster(3, **kind).led()
    r = c.raft(0)
    if part in ("snapshot_put", "async_work"):
        setattr(r.io, part, refuse)
    else:
        setattr(r.fsm, part, refuse_bufs)
    c.compact_early()
    index = c.progress_times(3)
    c.elapse(500)
    assert c.leader == 0
    assert c.applied(0) == index
    concerned = part in ("snapshot_put", "snapshot") or kind == ASYNC
    assert (r.log.snapshot.last_index == 0) == concerned
    assert not c.fsms[0].locked
    c.progress()
    assert c.fsms[0].x == 4


@covers("snapshot/takeSnapshotAsyncFailOnce")
def test_snapshot_after_one_that_failed(new_cluster: NewCluster) -> None:
    """After a failed snapshot the next one succeeds and is what a follower gets."""
    c = new_cluster(3, **ASYNC).led()
    good = c.fsms[0].snapshot_async
    for fsm in c.fsms:
        fsm.snapshot_async = refuse_bufs
    c.compact_early()
    c.cut(0, 2)
    c.progress_times(2)
    c.elapse(200)
    assert c.raft(0).log.snapshot.last_index == 0
    c.fsms[0].snapshot_async = good
    c.progress()
    c.elapse(300)
    assert c.raft(0).log.snapshot.last_index == 5
    c.heal(0, 2)
    c.until_applied(2, 4, 5000)
    assert installs(c) == (1, 1)


def test_busy_fsm_skips_a_snapshot(new_cluster: NewCluster) -> None:
    """RAFT_BUSY from the FSM means: not now; the next entry asks again."""
    c = new_cluster(3).led()
    good = c.fsms[0].snapshot
    c.fsms[0].snapshot = lambda fsm: (RAFT_BUSY, [])
    c.compact_early()
    c.progress_times(3)
    c.elapse(100)
    assert c.raft(0).log.snapshot.last_index == 0
    c.fsms[0].snapshot = good
    index = c.progress()
    c.elapse(100)
    assert c.raft(0).log.snapshot.last_index == index


def test_snapshot_error_on_a_follower_makes_it_unavailable(new_cluster: NewCluster) -> None:
    """A follower whose FSM cannot take a snapshot while it handles a message becomes unavailable."""
    c = new_cluster(3).led()
    c.fsms[1].snapshot = refuse_bufs
    c.compact_early()
    c.progress_times(3)
    c.until_state(1, RAFT_UNAVAILABLE, 2000)
    assert c.until_done(c.add_x(0)) == 0


def test_trailing_entries_stay_in_the_log(new_cluster: NewCluster) -> None:
    """After a snapshot the log keeps the trailing entries and drops what is before them."""
    c = new_cluster(1).ready()
    c.compact_early(threshold=5, trailing=2)
    index = c.progress_times(10)
    c.elapse(100)
    log = c.raft(0).log
    assert log.snapshot.last_index in range(5, index + 1)
    assert log.offset == log.snapshot.last_index - 2
    assert c.fsms[0].x == 10


def test_stored_snapshot_is_the_content_at_its_index(new_cluster: NewCluster) -> None:
    """The FSM's content is stored at the snapshot's index, and it is restored at the next start."""
    c = new_cluster(1).ready()
    c.compact_early(threshold=3, trailing=1)
    for command in (fsms.set_x(5), fsms.set_y(7), fsms.set_x(6)):
        c.until_done(c.apply(0, command))
    c.elapse(100)
    rv, term, _vote, snapshot, start, entries = c.raft(0).io.load(c.raft(0).io)
    assert (rv, term) == (0, 2)
    assert b"".join(snapshot.bufs) == fsms.content(5, 7)
    assert (snapshot.index, snapshot.term, snapshot.configuration_index) == (3, 2, 1)
    assert (start, len(entries)) == (3, 2)


# Because somebody asks


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_is_taken_though_none_is_due(new_cluster: NewCluster, kind: dict[str, Any]) -> None:
    """It has all that is applied; one is under way at a time, and one that has it all already is enough."""
    c = new_cluster(2, **kind).led()
    c.progress_times(3)
    r = c.raft(0)
    assert snapshot.take_now(r) == 0
    assert snapshot.take_now(r) == 0
    c.until(lambda: at_rest(c, 0) and r.snapshot.pending is None, 5000)
    assert log.snapshot_index(r.log) == c.applied(0)
    assert snapshot.take_now(r) == 0
    assert r.snapshot.pending is None
    c.progress_times(1)
    assert log.snapshot_index(r.log) == c.applied(0) - 1


def broken(fsm: RaftFsm) -> tuple[int, list[bytes]]:
    """Raise, as a snapshot function with a mistake does."""
    raise ZeroDivisionError


def test_no_snapshot_is_taken_on_demand_where_none_can_be(new_cluster: NewCluster) -> None:
    """A leader's is being installed, the state machine cannot take one, or the server has ended."""
    c = new_cluster(3).led()
    left_behind(c)
    c.set_disk_latency(2, 300)
    c.heal(0, 2)
    c.until(lambda: installing(c, 2), 5000)
    assert snapshot.take_now(c.raft(2)) == RAFT_BUSY
    c.until(lambda: c.raft(2).snapshot.put is None, 5000)
    c.progress_times(1)
    c.until(lambda: at_rest(c, 0) and c.raft(0).snapshot.pending is None, 5000)
    c.raft(0).fsm.snapshot = lambda fsm: (RAFT_BUSY, [])
    c.raft(0).snapshot.threshold = 1000
    c.progress_times(1)
    assert snapshot.take_now(c.raft(0)) == RAFT_BUSY
    c.raft(1).fsm.snapshot = broken
    c.raft(1).snapshot.threshold = 1000
    c.until_applied(1, 7, 2000)
    assert snapshot.take_now(c.raft(1)) != 0
    assert c.raft(1).state == RAFT_UNAVAILABLE
    assert snapshot.take_now(c.raft(1)) == RAFT_SHUTDOWN

"""Log replication on simulated clusters: what the leader sends, and when.

Times: the leader is made at t=1030, sends its barrier at once, and ticks every 100 ms.
"""

from collections.abc import Callable

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    raft_set_election_timeout,
)
from pyraft import fixture as fx
from pyraft.progress import PROGRESS__PIPELINE, PROGRESS__PROBE
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


def n_appends(c: Cluster) -> tuple[int, int]:
    """Return how many AppendEntries server 0 has sent and server 1 has received."""
    return c.n_send(0, RAFT_IO_APPEND_ENTRIES), c.n_recv(1, RAFT_IO_APPEND_ENTRIES)


# Heartbeats


@covers("replication/sendInitialHeartbeat")
def test_new_leader_sends_at_once(new_cluster: NewCluster) -> None:
    """A leader sends its first AppendEntries when it is made, which restarts the follower's clock."""
    c = new_cluster(2).ready()
    c.step(19)
    assert c.time == 1000
    assert c.state(0) == RAFT_CANDIDATE
    c.step(6)
    assert c.time == 1030
    assert c.state(0) == RAFT_LEADER
    assert c.raft(0).leader_state.progress[1].last_send == 1030
    assert c.raft(1).election_timer_start == 1015
    c.step(2)
    assert c.raft(1).election_timer_start == 1045
    assert n_appends(c) == (1, 1)


@covers("replication/receiveFlags")
def test_leader_notes_the_features_of_a_follower(new_cluster: NewCluster) -> None:
    """The features of a follower are those of its last result: none."""
    c = new_cluster(2).ready()
    c.step(24)
    assert c.time == 1030
    assert c.state(0) == RAFT_LEADER
    progress = c.raft(0).leader_state.progress[1]
    assert progress.features == 0
    assert not progress.recent_recv
    c.step(4)
    assert c.raft(1).election_timer_start == 1045
    assert c.n_recv(1, RAFT_IO_APPEND_ENTRIES) == 1
    c.until(lambda: c.n_recv(0, RAFT_IO_APPEND_ENTRIES_RESULT) == 1, 100)
    assert progress.features == 0
    assert progress.recent_recv


@covers("replication/sendFollowupHeartbeat")
def test_leader_sends_a_heartbeat_every_interval(new_cluster: NewCluster) -> None:
    """The follower's clock restarts at 1045, 1215, 1315 and 1415, and every heartbeat is answered."""
    c = new_cluster(2).ready()
    c.step(24)
    assert c.time == 1030
    assert c.state(0) == RAFT_LEADER
    for number, (steps, clock) in enumerate(((4, 1045), (8, 1215), (7, 1315), (7, 1415)), 1):
        c.step(steps)
        assert c.raft(1).election_timer_start == clock
        assert c.n_recv(1, RAFT_IO_APPEND_ENTRIES) == number
    assert n_appends(c) == (4, 4)
    assert c.n_send(1, RAFT_IO_APPEND_ENTRIES_RESULT) == 4
    assert c.n_recv(0, RAFT_IO_APPEND_ENTRIES_RESULT) == 4


@covers("replication/sendSkipHeartbeat")
def test_entry_replaces_the_heartbeat_of_its_interval(new_cluster: NewCluster) -> None:
    """An entry sent at 1230 makes the heartbeat of 1300 needless."""
    c = new_cluster(2).ready()
    progress = None
    c.elapse(1215)
    assert c.state(0) == RAFT_LEADER
    assert n_appends(c) == (2, 2)
    c.elapse(15)
    assert c.time == 1230
    c.add_x(0)
    c.step()
    progress = c.raft(0).leader_state.progress[1]
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 3
    assert progress.last_send == 1230
    c.elapse(70)
    assert c.time == 1300
    c.step()
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 3
    assert progress.last_send == 1230


@covers("replication/skipIdle")
def test_spare_is_sent_nothing(new_cluster: NewCluster) -> None:
    """A spare gets no entries and no heartbeats."""
    c = new_cluster(2).led()
    c.add_spare()
    c.add_x(0)
    c.elapse(1000)
    assert [c.applied(i) for i in range(3)] == [4, 4, 0]
    assert c.n_recv(2, RAFT_IO_APPEND_ENTRIES) == 0


# Probe and pipeline


@covers("replication/sendProbe")
def test_probe_sends_one_message_per_interval(new_cluster: NewCluster) -> None:
    """Until a follower has acknowledged something it gets one AppendEntries per heartbeat interval."""
    c = new_cluster(2).ready()
    c.step(25)
    assert c.time == 1030
    assert c.state(0) == RAFT_LEADER
    assert n_appends(c) == (1, 0)
    c.set_network_latency(1, 250)
    for sent in (1, 2):
        c.elapse(15)
        c.add_x(0)
        c.step()
        assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == sent
        assert c.raft(0).leader_state.progress[1].state == PROGRESS__PROBE
        if sent == 1:
            c.elapse(85)
            c.step()
            assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 2
    c.until_applied(0, 4, 1000)
    assert c.raft(0).leader_state.progress[1].state == PROGRESS__PIPELINE


@covers("replication/sendPipeline")
def test_pipeline_sends_every_command_at_once(new_cluster: NewCluster) -> None:
    """After an acknowledgement commands go out at once and `next` runs ahead; commit follows the majority."""
    c = new_cluster(2).ready()
    r = c.raft(0)
    c.elapse(1070)
    assert c.time == 1070
    assert c.state(0) == RAFT_LEADER
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 1
    progress = r.leader_state.progress[1]
    assert progress.state == PROGRESS__PIPELINE
    for number, following in ((2, 4), (3, 5)):
        c.elapse(15)
        c.add_x(0)
        c.step()
        assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == number
        assert progress.next_index == following
    c.until(lambda: r.last_stored == 4 and progress.match_index == 3, 2000)
    assert r.commit_index == 3
    c.until_applied(0, 4, 1000)


@covers("replication/sendDisconnect")
def test_probe_goes_on_after_failed_sends(new_cluster: NewCluster) -> None:
    """A follower that cannot be reached is tried at every interval; failed sends do not count as sent."""
    c = new_cluster(2).ready()
    c.step(24)
    assert c.state(0) == RAFT_LEADER
    fx.raft_fixture_disconnect(c.f, 0, 1)
    c.step()
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 0
    c.elapse(100)
    c.step()
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 0
    c.elapse(100)
    fx.raft_fixture_reconnect(c.f, 0, 1)
    c.step()
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 1


@covers("replication/sendDisconnectPipeline")
def test_pipeline_falls_back_to_probe_when_a_send_fails(new_cluster: NewCluster) -> None:
    """A failed send takes a follower out of pipeline mode; when it is back it gets what it missed."""
    c = new_cluster(2).ready()
    c.elapse(1215)
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 2
    for number in (3, 4):
        c.add_x(0)
        c.step()
        assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == number
    progress = c.raft(0).leader_state.progress[1]
    assert progress.state == PROGRESS__PIPELINE
    fx.raft_fixture_disconnect(c.f, 0, 1)
    c.elapse(115)
    assert progress.state == PROGRESS__PIPELINE
    c.until(lambda: progress.state == PROGRESS__PROBE, 200)
    assert c.time == 1400
    assert c.n_send(0, RAFT_IO_APPEND_ENTRIES) == 4
    assert progress.next_index == progress.match_index + 1
    fx.raft_fixture_reconnect(c.f, 0, 1)
    c.until_applied(0, 3, 1000)
    c.until_applied(1, 4, 1000)


@covers("replication/recvTwice")
def test_entry_that_arrives_again_before_it_is_stored(new_cluster: NewCluster) -> None:
    """A second copy of an entry whose write is under way does no harm."""
    c = new_cluster(2).led()
    p = c.add_x(0)
    c.set_disk_latency(1, 300)
    c.until_delivered(0, 1, 100)
    c.elapse(110)
    c.until_delivered(0, 1, 100)
    assert c.n_recv(1, RAFT_IO_APPEND_ENTRIES) >= 2
    c.until_applied(0, p.index, 500)
    c.until_applied(1, p.index, 500)
    assert c.fsms[1].x == 1


@covers("replication/recvSkip")
def test_entries_that_are_stored_already_are_skipped(new_cluster: NewCluster) -> None:
    """An entry that is sent again because its acknowledgement got lost is acknowledged, not stored twice."""
    c = new_cluster(2).led()
    p = c.add_x(0)
    c.step()
    c.cut(0, 1)
    c.elapse(150)
    c.heal(0, 1)
    c.until_applied(0, p.index, 2000)
    c.until_applied(1, p.index, 2000)
    assert c.last_index(1) == p.index
    assert c.fsms[1].x == 1


@covers("replication/resultRetry")
def test_refused_probe_is_sent_again_from_further_back(new_cluster: NewCluster) -> None:
    """A follower without the entry before those sent refuses them; the next message starts earlier."""
    c = new_cluster(2)
    c.bootstrap()
    c.add_entry(0, 1, fsms.set_x(5))
    c.start()
    c.elect(0)
    progress = c.raft(0).leader_state.progress[1]
    assert progress.next_index == 3
    c.until(lambda: progress.next_index == 2, 200)
    c.until_applied(1, 3, 2000)
    assert c.fsms[1].x == 5


# Leaders and terms that change meanwhile


@covers("replication/recvStaleTerm")
def test_heartbeats_of_an_old_leader_are_refused(new_cluster: NewCluster) -> None:
    """A leader that was replaced while cut off is told the new term and steps down."""
    c = new_cluster(3).led()
    c.set_randomized(0, 5000)
    raft_set_election_timeout(c.raft(0), 5000)
    c.isolate(0)
    c.until_no_leader(5000)
    assert c.until_leader(10000) == 1
    assert c.state(0) == RAFT_LEADER
    c.heal(0, 2)
    c.elapse(200)
    assert c.state(0) == RAFT_FOLLOWER
    assert c.term(0) == c.term(1)
    assert c.raft(2).follower_state.current_leader.id == 2


@covers("replication/recvCandidateSameTerm")
def test_candidate_follows_a_leader_of_its_term(new_cluster: NewCluster) -> None:
    """A candidate that hears from the leader of its own term becomes follower and takes its entries."""
    c = new_cluster(3)
    c.bootstrap()
    c.isolate(2)
    c.set_randomized(2, 800)
    raft_set_election_timeout(c.raft(2), 800)
    c.start()
    c.until_state(2, RAFT_CANDIDATE, 1000)
    assert c.term(2) == 2
    c.until_state(0, RAFT_LEADER)
    assert [c.term(i) for i in range(3)] == [2, 2, 2]
    c.progress()
    assert c.state(2) == RAFT_CANDIDATE
    assert c.term(2) == 2
    c.rejoin(2)
    c.until_state(2, RAFT_FOLLOWER)
    assert c.term(2) == 2
    c.until_applied(2, 3, 2000)


@covers("replication/recvCandidateHigherTerm")
def test_candidate_follows_a_leader_of_a_higher_term(new_cluster: NewCluster) -> None:
    """A candidate that hears from the leader of a later term becomes follower and takes its entries."""
    c = new_cluster(3)
    c.bootstrap()
    c.set_randomized(1, 2000)
    raft_set_election_timeout(c.raft(1), 2000)
    c.isolate(2)
    c.set_randomized(0, 800)
    raft_set_election_timeout(c.raft(0), 800)
    c.cut(0, 1)
    c.start()
    c.until_state(2, RAFT_CANDIDATE, 1500)
    assert [c.term(0), c.term(2)] == [2, 2]
    assert c.state(0) == RAFT_CANDIDATE
    c.until_term(0, 3, 2000)
    assert c.state(2) == RAFT_CANDIDATE
    assert c.term(2) == 2
    c.heal(0, 1)
    c.until_leader(1000)
    c.progress()
    assert c.state(2) == RAFT_CANDIDATE
    c.rejoin(2)
    c.until_state(2, RAFT_FOLLOWER)
    assert c.term(2) == c.term(0)
    c.until_applied(2, 3, 2000)


@covers("replication/resultNotLeader")
def test_result_that_reaches_no_leader_is_ignored(new_cluster: NewCluster) -> None:
    """A result that arrives when its leader has become candidate changes nothing."""
    c = new_cluster(2).led()
    c.set_network_latency(1, 400)
    c.set_randomized(0, 200)
    raft_set_election_timeout(c.raft(0), 200)
    c.until_state(0, RAFT_CANDIDATE)
    before = c.n_recv(0, RAFT_IO_APPEND_ENTRIES_RESULT)
    c.elapse(400)
    assert c.n_recv(0, RAFT_IO_APPEND_ENTRIES_RESULT) > before
    assert c.state(0) in (RAFT_CANDIDATE, RAFT_FOLLOWER)
    assert c.raft(0).commit_index == 1


@covers("replication/resultLowerTerm")
def test_result_of_an_old_term_is_ignored(new_cluster: NewCluster) -> None:
    """A result of the term before last reaches the same server, leader again, and changes nothing."""
    c = new_cluster(3).led()
    c.set_network_latency(1, 2000)
    c.set_randomized(1, 2000)
    raft_set_election_timeout(c.raft(1), 2000)
    c.cut(0, 2)
    c.set_randomized(0, 200)
    raft_set_election_timeout(c.raft(0), 200)
    c.until_state(0, RAFT_FOLLOWER)
    c.heal(0, 2)
    c.until_state(0, RAFT_LEADER, 4000)
    assert c.term(0) > 2
    c.elapse(2500)


@covers("replication/resultHigherTerm")
def test_result_of_a_higher_term_deposes_the_leader(new_cluster: NewCluster) -> None:
    """A leader that reads a higher term in a result becomes follower of that term."""
    c = new_cluster(3).led()
    c.set_randomized(0, 5000)
    raft_set_election_timeout(c.raft(0), 5000)
    c.isolate(0)
    c.until_no_leader(2000)
    assert c.until_leader(4000) == 1
    assert c.state(0) == RAFT_LEADER
    c.heal(0, 2)
    c.until_state(0, RAFT_FOLLOWER)
    assert c.term(0) == c.term(1)


# Slow and failing disks


@covers("replication/persistError", "replication/diskWriteFailure")
def test_leader_that_cannot_store_steps_down(new_cluster: NewCluster) -> None:
    """A failed write ends its commands with RAFT_IOERR, and the leader becomes follower with a shorter log."""
    c = new_cluster(2).led()
    fx.raft_fixture_append_fault(c.f, 0, 0)
    p = c.add_x(0)
    c.until_state(0, RAFT_FOLLOWER)
    assert p.status == RAFT_IOERR
    assert p.time == 1055
    assert c.last_index(0) == 2
    assert c.raft(0).last_stored == 2
    c.progress()


def test_commands_behind_a_failed_write_lose_their_leader(new_cluster: NewCluster) -> None:
    """Only the commands of the failed write get its status; later ones are told RAFT_LEADERSHIPLOST."""
    c = new_cluster(2).led()
    fx.raft_fixture_append_fault(c.f, 0, 0)
    first = c.apply(0, fsms.add_x(1), fsms.add_x(2))
    second = c.add_x(0)
    c.until_state(0, RAFT_FOLLOWER)
    assert first.status == RAFT_IOERR
    assert second.status == RAFT_LEADERSHIPLOST
    assert c.last_index(0) == 2


@covers("replication/newTermWhileAppending")
def test_term_that_changes_during_a_slow_write(new_cluster: NewCluster) -> None:
    """A follower whose term rises while it is still storing goes on in the new term."""
    c = new_cluster(3)
    c.set_disk_latency(2, 3000)
    c.led()
    c.add_x(0)
    c.elapse(500)
    term = c.term(2)
    c.depose()
    c.elect(1)
    c.elapse(500)
    assert c.term(2) == term + 1
    c.elapse(3000)
    assert c.state(2) == RAFT_FOLLOWER
    assert c.term(2) == term + 1
    c.progress()


@covers("replication/lastStoredLaggingBehindCommitIndex")
def test_leader_commits_what_it_has_not_stored_itself(new_cluster: NewCluster) -> None:
    """A leader with a slow disk commits by the others' acknowledgements; as follower its commit waits for its disk."""
    c = new_cluster(3)
    c.set_disk_latency(0, 10000)
    c.led()
    c.until_applied(0, 2, 2000)
    r0, r1 = c.raft(0), c.raft(1)
    assert (r0.last_stored, r0.commit_index, r0.last_applied) == (1, 2, 2)
    assert (r1.last_stored, r1.commit_index, r1.last_applied) == (2, 1, 1)
    fx.raft_fixture_disconnect(c.f, 0, 1)
    fx.raft_fixture_disconnect(c.f, 0, 2)
    c.set_randomized(0, 10000)
    raft_set_election_timeout(r0, 10000)
    c.until_no_leader(4000)
    assert c.until_leader(2000) == 1
    c.until_applied(1, 3, 2000)
    fx.raft_fixture_reconnect(c.f, 0, 1)
    c.until_applied(0, 3, 20000)
    assert r0.last_stored >= 3


@covers("replication/failPersistBarrier")
def test_leader_that_cannot_store_its_barrier(new_cluster: NewCluster) -> None:
    """A leader whose first write fails steps down; the cluster finds a leader all the same."""
    c = new_cluster(3)
    fx.raft_fixture_append_fault(c.f, 0, 0)
    c.ready()
    fx.raft_fixture_start_elect(c.f, 0)
    c.until_state(0, RAFT_LEADER)
    c.until_state(0, RAFT_FOLLOWER)
    c.until_leader(20000)
    c.progress()


@covers("replication/failPersistBarrierFollower")
def test_followers_that_cannot_store_the_barrier(new_cluster: NewCluster) -> None:
    """Followers whose first write fails get the barrier again, and the cluster makes progress."""
    c = new_cluster(3)
    fx.raft_fixture_append_fault(c.f, 1, 0)
    fx.raft_fixture_append_fault(c.f, 2, 0)
    c.ready()
    fx.raft_fixture_start_elect(c.f, 0)
    index = c.progress_times(3)
    c.until_applied(c.n, index, 3000)
    assert [f.x for f in c.fsms] == [3, 3, 3]


@covers("replication/receiveSameWithPendingSend")
def test_leader_gets_back_the_entry_that_it_failed_to_store(new_cluster: NewCluster) -> None:
    """An entry that its leader could not store, but a follower did, comes back when that follower leads."""
    c = new_cluster(3).led()
    fx.raft_fixture_set_send_latency(c.f, 0, 1, 10000)
    c.set_disk_latency(0, 1000)
    fx.raft_fixture_append_fault(c.f, 0, 0)
    p = c.add_x(0)
    c.until_state(0, RAFT_FOLLOWER, 1500)
    assert p.status == RAFT_IOERR
    assert c.states() == [RAFT_FOLLOWER] * 3
    assert [c.raft(i).last_stored for i in range(3)] == [2, 2, 3]
    raft_set_election_timeout(c.raft(2), 500)
    fx.raft_fixture_start_elect(c.f, 2)
    c.until_state(2, RAFT_LEADER, 1000)
    assert c.term(2) == 3
    c.set_disk_latency(0, 10)
    c.until_applied(2, 3, 1000)
    c.until_applied(0, 3, 5000)
    assert c.fsms[0].x == 1

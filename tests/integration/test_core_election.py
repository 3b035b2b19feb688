"""Elections on simulated clusters: who votes for whom, at which simulated time, and what faults do to it.

Times: server 0 times out at t=1000, a message takes 15 ms, so a vote is stored at 1015 and a leader made at 1030.
"""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RAFT_LEADER,
    RAFT_UNAVAILABLE,
    raft_leader,
    raft_set_election_timeout,
    raft_set_pre_vote,
)
from pyraft import fixture as fx
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


@covers("election/twoVoters")
def test_two_voters_elect_the_first_to_time_out(new_cluster: NewCluster) -> None:
    """Events have their times: a candidate stands at 1000, the vote is stored at 1015, it leads at 1030."""
    c = new_cluster(2).ready()
    c.until_state(0, RAFT_CANDIDATE)
    assert c.time == 1000
    c.step()  # server 1 ticks
    assert c.state(1) == RAFT_FOLLOWER
    c.step()  # the request leaves server 0
    assert c.voted_for(1) == 0
    c.step()  # it reaches server 1
    assert c.voted_for(1) == 1
    assert c.time == 1015
    c.step()  # the vote leaves server 1
    assert c.state(0) == RAFT_CANDIDATE
    c.step()  # it reaches server 0
    assert c.state(0) == RAFT_LEADER
    assert c.time == 1030
    assert raft_leader(c.raft(0)) == (1, "1")


@covers("election/grantAgain")
def test_vote_is_granted_again_in_a_later_term(new_cluster: NewCluster) -> None:
    """A candidate whose first vote got lost gets it again from the same server in the next term."""
    c = new_cluster(2)
    c.bootstrap()
    c.set_randomized(1, 10000)
    raft_set_election_timeout(c.raft(1), 10000)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    assert c.time == 1000
    c.step()
    assert c.state(1) == RAFT_FOLLOWER
    c.cut(0, 1)
    c.until_term(0, 3)
    assert c.state(0) == RAFT_CANDIDATE
    assert c.time == 2000
    c.heal(0, 1)
    c.until_state(0, RAFT_LEADER)
    assert c.time == 2030
    assert c.voted_for(1) == 1


def test_same_candidate_gets_its_vote_twice_in_one_term(new_cluster: NewCluster) -> None:
    """A repeated request of the candidate that has the vote of this term is granted again, the vote kept."""
    c = new_cluster(2).ready()
    c.until_voted_for(1, 0)
    before = c.n_send(1, RAFT_IO_REQUEST_VOTE_RESULT)
    c.deliver(1, msg.request_vote(1, 2, last=1, last_term=1))
    c.step(2)
    assert c.n_send(1, RAFT_IO_REQUEST_VOTE_RESULT) == before + 2
    assert c.voted_for(1) == 1


@covers("election/grantIfLastIndexIsSame")
def test_vote_is_granted_to_an_equal_log(new_cluster: NewCluster) -> None:
    """A candidate with the same last index and term as the voter gets the vote, in spite of its lower term."""
    c = new_cluster(2)
    c.bootstrap()
    c.add_entry(0, 1, fsms.set_x(1))
    c.add_entry(1, 1, fsms.set_x(1))
    c.set_term(1, 2)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    c.until_state(0, RAFT_LEADER)
    assert c.time == 1030


@covers("election/grantIfLastIndexIsHigher")
def test_vote_is_granted_to_a_longer_log(new_cluster: NewCluster) -> None:
    """A candidate with a higher last index of the same term gets the vote."""
    c = new_cluster(2)
    c.bootstrap()
    c.add_entry(0, 1, fsms.set_x(1))
    c.set_term(1, 2)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    c.until_voted_for(1, 0)
    c.step(2)  # the vote leaves server 1 and reaches server 0
    assert c.state(0) == RAFT_LEADER
    assert c.time == 1030


@covers("election/waitQuorum")
def test_candidate_waits_for_a_majority(new_cluster: NewCluster) -> None:
    """Of five servers two votes are not enough; the third makes the leader."""
    c = new_cluster(5).ready()
    c.until_state(0, RAFT_CANDIDATE)
    for i in (1, 2, 3, 4):
        c.until_voted_for(i, 0)
    assert c.time == 1015
    c.step(4)  # the votes leave
    c.step()  # the first arrives
    assert c.time == 1030
    assert c.state(0) == RAFT_CANDIDATE
    c.step()  # the second arrives
    assert c.time == 1030
    assert c.state(0) == RAFT_LEADER


@covers("election/rejectIfHigherTerm")
def test_vote_is_refused_by_a_higher_term(new_cluster: NewCluster) -> None:
    """A voter of a higher term refuses; its answer makes the candidate a follower of that term."""
    c = new_cluster(2)
    c.bootstrap()
    c.set_term(1, 3)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    c.step(3)  # server 1 ticks, the request leaves and arrives
    assert c.n_recv(1, RAFT_IO_REQUEST_VOTE) == 1
    assert c.voted_for(1) == 0
    c.step(2)  # the answer leaves and arrives
    assert c.state(0) == RAFT_FOLLOWER
    assert c.term(0) == 3


@covers("election/rejectIfHasLeader")
def test_vote_is_refused_by_followers_of_a_leader(new_cluster: NewCluster) -> None:
    """A server cut off from the leader alone stays candidate: who knows a leader refuses, whatever the term."""
    c = new_cluster(3).ready()
    c.until_state(0, RAFT_LEADER)
    c.cut(0, 2)
    c.until_state(2, RAFT_CANDIDATE)
    c.step(20)
    assert c.state(2) == RAFT_CANDIDATE
    c.elapse(5000)
    assert c.state(2) == RAFT_CANDIDATE
    assert c.term(2) > 3
    assert (c.term(0), c.term(1)) == (2, 2)
    assert c.state(0) == RAFT_LEADER


@covers("election/rejectIfAlreadyVoted")
def test_vote_is_refused_to_the_second_candidate_of_a_term(new_cluster: NewCluster) -> None:
    """Of two candidates of one term the first to ask gets the vote and leads."""
    c = new_cluster(3)
    c.bootstrap()
    c.set_randomized(1, 1000)
    c.cut(0, 1)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    c.until_state(1, RAFT_CANDIDATE)
    assert c.time == 1000
    c.until_voted_for(2, 0)
    assert c.time == 1015
    c.until_state(0, RAFT_LEADER)
    assert c.time == 1030
    assert c.state(1) == RAFT_CANDIDATE
    assert c.voted_for(2) == 1
    assert (c.term(0), c.term(1)) == (2, 2)


@pytest.mark.parametrize(
    ("entries0", "entries1"),
    [
        pytest.param([1], [2], id="lower term"),
        pytest.param([], [2], id="lower index"),
        pytest.param([1], [1, 1], id="lower index of the same term"),
    ],
)
@covers("election/rejectIfLastTermIsLower", "election/rejectIfLastIndexIsLower")
def test_vote_is_refused_to_an_older_log(new_cluster: NewCluster, entries0: list[int], entries1: list[int]) -> None:
    """A candidate whose last entry has a lower term, or a lower index, is refused; the other server leads at 1130."""
    c = new_cluster(2)
    c.bootstrap()
    for term in entries0:
        c.add_entry(0, term, fsms.set_x(123))
    for term in entries1:
        c.add_entry(1, term, fsms.set_x(456))
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    assert c.time == 1000
    c.until_delivered(0, 1, 100)
    assert c.time == 1015
    assert c.voted_for(1) == 0
    c.until_delivered(1, 0, 100)
    assert c.time == 1030
    assert c.state(0) == RAFT_CANDIDATE
    c.until_state(1, RAFT_LEADER)
    assert c.time == 1130


@covers("election/rejectIfNotVoter")
def test_stand_by_cannot_make_a_leader(new_cluster: NewCluster) -> None:
    """A candidate that reaches only a stand-by goes on to another term at 2000."""
    c = new_cluster(3)
    c.bootstrap(voters=2)
    c.cut(0, 1)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    assert c.time == 1000
    c.until_term(0, 3)
    assert c.state(0) == RAFT_CANDIDATE
    assert c.time == 2000
    assert c.voted_for(2) == 0


@covers("election/receiveRejectResult")
def test_refused_candidate_stays_candidate(new_cluster: NewCluster) -> None:
    """A candidate that is refused because the vote of the term is given stays candidate."""
    c = new_cluster(5)
    c.bootstrap()
    c.set_randomized(4, 1020)
    for i in (2, 3, 4):
        c.cut(0, i)
    for i in (2, 3):
        c.cut(4, i)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    assert c.time == 1000
    assert c.state(4) == RAFT_FOLLOWER
    c.until_delivered(0, 1, 100)
    assert c.time == 1015
    assert c.voted_for(1) == 1
    assert c.state(0) == RAFT_CANDIDATE
    c.cut(0, 1)
    c.until_state(4, RAFT_CANDIDATE)
    assert c.time == 1100
    c.until_delivered(4, 1, 100)
    assert c.n_recv(1, RAFT_IO_REQUEST_VOTE) == 2
    c.until_delivered(1, 4, 100)
    assert c.n_recv(4, RAFT_IO_REQUEST_VOTE_RESULT) == 1
    assert c.voted_for(1) == 1
    assert [c.state(i) for i in (0, 4)] == [RAFT_CANDIDATE, RAFT_CANDIDATE]


# Faults


@covers("election/ioErrorConvertTerm")
def test_candidate_that_cannot_store_its_term_is_unavailable(new_cluster: NewCluster) -> None:
    """A failing set_term at an election makes the server unavailable; term and vote stay as they were."""
    c = new_cluster(2).ready()
    fx.raft_fixture_term_fault(c.f, 0, 0)
    c.until_state(0, RAFT_UNAVAILABLE)
    assert c.time == 1000
    assert (c.term(0), c.raft(0).voted_for) == (1, 0)


@covers("election/ioErrorConvertVote")
def test_candidate_that_cannot_store_its_vote_is_unavailable(new_cluster: NewCluster) -> None:
    """A failing set_vote at an election makes the server unavailable; the core's term stays as it was."""
    c = new_cluster(2).ready()
    fx.raft_fixture_vote_fault(c.f, 0, 0)
    c.until_state(0, RAFT_UNAVAILABLE)
    assert c.time == 1000
    assert (c.term(0), c.raft(0).voted_for) == (1, 0)


@covers("election/ioErrorSendVoteRequest")
def test_vote_request_that_cannot_be_sent_is_tried_again(new_cluster: NewCluster) -> None:
    """A vote request that fails to be sent is ignored; a later round wins."""
    c = new_cluster(2).ready()
    fx.raft_fixture_send_fault(c.f, 0, 0)
    c.until_state(0, RAFT_CANDIDATE)
    c.until_leader(5000)


@covers("election/ioErrorPersistVote")
def test_voter_that_cannot_store_its_vote_is_unavailable(new_cluster: NewCluster) -> None:
    """A voter whose set_vote fails becomes unavailable and grants nothing."""
    c = new_cluster(2).ready()
    c.until_state(0, RAFT_CANDIDATE)
    fx.raft_fixture_vote_fault(c.f, 1, 0)
    c.until_state(1, RAFT_UNAVAILABLE, 1000)
    assert c.time == 1015
    assert c.n_send(1, RAFT_IO_REQUEST_VOTE_RESULT) == 0
    assert c.voted_for(1) == 0


def test_voter_that_cannot_store_the_term_is_unavailable(new_cluster: NewCluster) -> None:
    """A voter whose set_term fails becomes unavailable and its term stays."""
    c = new_cluster(2).ready()
    c.until_state(0, RAFT_CANDIDATE)
    fx.raft_fixture_term_fault(c.f, 1, 0)
    c.until_state(1, RAFT_UNAVAILABLE, 1000)
    assert c.term(1) == 1


def test_voter_that_cannot_send_its_answer_is_unavailable(new_cluster: NewCluster) -> None:
    """An answer to a vote request that fails to be sent at once makes the voter unavailable."""
    c = new_cluster(2).ready()
    c.until_state(0, RAFT_CANDIDATE)
    fx.raft_fixture_send_fault(c.f, 1, 0)
    c.until_state(1, RAFT_UNAVAILABLE, 1000)


# Pre-vote (9.6)


@covers("election/preVote")
def test_pre_vote_comes_before_the_term_is_raised(new_cluster: NewCluster) -> None:
    """Terms and votes are stored only once the pre-vote is won, at 1030; the real vote makes the leader at 1060."""
    c = new_cluster(2, pre_vote=True).ready()
    c.until_state(0, RAFT_CANDIDATE)
    assert c.time == 1000
    assert (c.term(0), c.voted_for(0)) == (1, 0)
    c.step()  # server 1 ticks
    assert c.state(1) == RAFT_FOLLOWER
    c.step(2)  # the pre-vote request leaves and arrives
    assert c.time == 1015
    assert (c.term(1), c.voted_for(1)) == (1, 0)
    c.step(2)  # the pre-vote leaves and arrives
    assert c.time == 1030
    assert c.state(0) == RAFT_CANDIDATE
    assert (c.term(0), c.voted_for(0)) == (2, 1)
    c.step(2)  # the real request leaves and arrives
    assert (c.term(1), c.voted_for(1)) == (2, 1)
    c.step(2)  # the real vote leaves and arrives
    assert c.state(0) == RAFT_LEADER
    assert c.time == 1060


@covers("election/preVoteWithcandidateCrash")
def test_pre_vote_after_a_candidate_crashed(new_cluster: NewCluster) -> None:
    """Voters that gave their real vote to a candidate that died pre-vote for, then elect, the next one."""
    c = new_cluster(3, pre_vote=True).ready()
    c.until_state(0, RAFT_CANDIDATE)
    assert (c.time, c.term(0)) == (1000, 1)
    c.step(2)  # servers 1 and 2 tick
    assert c.states()[1:] == [RAFT_FOLLOWER, RAFT_FOLLOWER]
    c.step(2)  # the pre-vote requests leave
    for i in (1, 2):
        c.step()
        assert c.time == 1015
        assert (c.term(i), c.voted_for(i)) == (1, 0)
    c.step(2)  # the pre-votes leave
    c.step(2)  # and arrive
    assert c.state(0) == RAFT_CANDIDATE
    assert (c.time, c.term(0)) == (1030, 2)
    c.step(2)  # the real requests leave
    for i in (1, 2):
        c.step()
        assert (c.term(i), c.voted_for(i)) == (2, 1)
    c.kill(0)

    c.until_state(1, RAFT_CANDIDATE)
    assert (c.time, c.term(1)) == (2200, 2)
    c.step(5)  # server 2 ticks; the pre-vote requests leave and arrive
    assert (c.term(2), c.voted_for(2)) == (2, 1)
    c.step(2)  # server 2's pre-vote leaves and arrives
    assert (c.time, c.term(1), c.voted_for(1)) == (2230, 3, 2)
    c.step(4)  # the real requests leave and arrive
    assert c.voted_for(2) == 2
    c.step(2)  # server 2's vote leaves and arrives
    assert c.state(1) == RAFT_LEADER


@covers("election/preVoteNoStaleVotes")
def test_late_pre_vote_does_not_count_in_the_real_election(new_cluster: NewCluster) -> None:
    """A pre-vote that arrives once the real election runs is not counted in it."""
    c = new_cluster(3, pre_vote=True)
    c.bootstrap()
    c.set_term(2, 2)
    c.start()
    c.until_state(0, RAFT_CANDIDATE)
    assert (c.time, c.term(0)) == (1000, 1)
    c.step(2)  # servers 1 and 2 tick
    c.step(2)  # the pre-vote requests leave
    c.step()
    assert (c.time, c.term(1), c.voted_for(1)) == (1015, 1, 0)
    c.set_network_latency(2, 100)
    c.step()
    assert (c.time, c.term(2), c.voted_for(2)) == (1015, 2, 0)
    c.step(2)  # the pre-votes leave, that of server 2 slowly
    c.step(2)  # the pre-vote of server 1 arrives
    assert c.state(0) == RAFT_CANDIDATE
    assert (c.time, c.term(0)) == (1030, 2)
    fx.raft_fixture_saturate(c.f, 0, 1)
    fx.raft_fixture_saturate(c.f, 0, 2)
    c.until_delivered(2, 0, 100)
    assert c.n_recv(0, RAFT_IO_REQUEST_VOTE_RESULT) == 2
    assert c.state(0) == RAFT_CANDIDATE


def test_pre_vote_of_a_single_voter_is_skipped(new_cluster: NewCluster) -> None:
    """With one voter there is nobody to ask: the election is real at once, also with pre-vote on."""
    c = new_cluster(1)
    raft_set_pre_vote(c.raft(0), True)
    c.ready()
    assert c.state(0) == RAFT_LEADER
    assert (c.term(0), c.voted_for(0)) == (2, 1)


@covers("election/inFlightAppendBlocksCandidacy")
def test_follower_with_a_write_in_flight_does_not_stand(new_cluster: NewCluster) -> None:
    """A follower that lost its leader stays follower while its disk is still writing, and stands afterwards."""
    c = new_cluster(2)
    c.bootstrap()
    c.set_disk_latency(1, 10000)
    c.start()
    c.elect(0)
    c.add_x(0)
    c.until_delivered(0, 1, 1000)
    c.cut(0, 1)
    c.elapse(5000)
    assert c.state(1) == RAFT_FOLLOWER
    assert c.n_send(1, RAFT_IO_APPEND_ENTRIES_RESULT) == 0
    c.until_state(1, RAFT_CANDIDATE, 10000)
    assert c.raft(1).last_stored == 2

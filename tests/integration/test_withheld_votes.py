"""Votes that C servers withhold for ever, and who ends that: see `vote_patience` and pyraft/DEVIATIONS.md."""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_LEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftChange,
    RaftConfiguration,
    raft_assign,
    raft_configuration_add,
    raft_last_index,
    raft_remove,
    raft_start,
)
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo, Statuses, change

NewCluster = Callable[..., Cluster]


def votes(s: Solo) -> list[bool]:
    """Return whether the votes sent were granted."""
    return [m.request_vote_result.vote_granted for m in s.sent() if m.request_vote_result is not None]


def two_voters_to_one() -> Solo:
    """Return server 1 of two voters, with a stored entry 2, not committed, that leaves only server 2 as a voter."""
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 1, "1", RAFT_SPARE) == 0
    assert raft_configuration_add(conf, 2, "2", RAFT_VOTER) == 0
    s = Solo(RAFT_VOTER, RAFT_VOTER, start=False)
    s.io.stored.append(change(1, conf))
    assert raft_start(s.r) == 0
    s.io.calls.clear()
    return s


def three_voters_without_1() -> Solo:
    """Return server 1 of three voters, with a stored entry 2, not committed, that leaves 2 and 3."""
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 2, "2", RAFT_VOTER) == 0
    assert raft_configuration_add(conf, 3, "3", RAFT_VOTER) == 0
    s = Solo(start=False)
    s.io.stored.append(change(1, conf))
    assert raft_start(s.r) == 0
    s.io.calls.clear()
    return s


def test_non_voter_doubts_a_leader_that_has_been_silent_for_long() -> None:
    """It never stands itself, so it would take a leader that is gone for one that is there, for ever."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER)
    s.recv(msg.append_entries(2, 1, 1, 1))
    s.sent()
    s.recv(msg.request_vote(2, 2, 2, 1))
    assert (votes(s), s.r.current_term) == ([False], 1)
    s.io.now += 5000
    term = 2
    while not any(votes(s)):
        term += 1
        assert term < 4 * s.r.vote_patience
        s.recv(msg.request_vote(2, term, 2, 1))
    assert term > s.r.vote_patience
    assert s.r.voted_for == 2


def test_non_voter_does_not_doubt_a_leader_that_it_hears() -> None:
    """However many candidates ask: they may be servers that were removed (4.2.3)."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER)
    for term in range(2, 2 + 3 * s.r.vote_patience):
        s.recv(msg.append_entries(2, 1, 1, 1))
        s.recv(msg.request_vote(3, term, 2, 1))
    assert not any(votes(s))
    assert s.r.current_term == 1


@pytest.mark.parametrize("lower_term", [False, True])
def test_server_that_is_to_lose_its_vote_stands_when_the_others_cannot_lead(lower_term: bool) -> None:
    """Server 2 needs the vote of 1, which has the longer log: 1 leads once more, hands the entry out and steps down."""
    s = two_voters_to_one()
    if lower_term:
        s.r.current_term = s.io.term = 50
    assert raft_last_index(s.r) == 2
    s.tick(3000)
    assert s.state == RAFT_FOLLOWER
    for term in range(2, 3 + s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 1, 1, pre_vote=lower_term))
    assert not any(votes(s))
    s.tick(3000)
    assert s.state == RAFT_CANDIDATE
    term = s.r.current_term
    [request] = [m.request_vote for m in s.sent()]
    assert request is not None
    assert (request.term, request.last_log_index) == (term, 2)
    s.recv(msg.request_vote_result(2, term))
    assert s.state == RAFT_LEADER
    s.io.finish_appends()
    assert s.r.commit_index == 1, "its own copy counts for nothing"
    s.recv(msg.append_entries_result(2, term, 3))
    assert (s.r.commit_index, s.state) == (3, RAFT_FOLLOWER)


@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("voters", [2, 4])
def test_demotion_that_has_reached_nobody_does_not_cost_a_minute(voters: int, remove: bool, pre_vote: bool) -> None:
    """The leader of two voters, or of four of which one is gone, demotes itself while it is cut off, and comes back.

    The others have the shorter log and need its vote. It leads once more, hands the entry out and steps down.
    """
    c = Cluster(voters, pre_vote=pre_vote).ready()
    c.elect(0)
    c.elapse(500)
    for i in range(1, voters):
        c.cut(0, i)
    r, statuses = c.raft(0), Statuses()
    change = RaftChange()
    if remove:
        assert raft_remove(r, change, 1, statuses) == 0
    else:
        assert raft_assign(r, change, 1, RAFT_STANDBY, statuses) == 0
    assert change.index == raft_last_index(r) > c.last_index(1)
    if voters == 4:
        c.kill(3)
    c.elapse(5000)
    for i in range(1, voters if voters == 2 else 3):
        c.heal(0, i)
    began = c.time
    c.until(lambda: c.leader not in (None, 0) and c.raft(c.leader or 0).commit_index >= change.index, 20_000)
    print("a leader again after", c.time - began, "ms")
    assert c.time - began < 15_000
    role = c.roles(1).get(1)
    assert role == (None if remove else RAFT_STANDBY)
    c.close()


def test_server_that_has_lost_its_vote_stands_no_more() -> None:
    """Once the entry is committed there is no need."""
    s = Solo(RAFT_SPARE, RAFT_VOTER)
    for term in range(2, 3 + s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 0, 0))
    s.tick(3000)
    assert s.state == RAFT_FOLLOWER


def test_server_without_a_log_never_votes() -> None:
    """Its disk may have been replaced: it cannot know what it has acknowledged, however often it is asked, as in C."""
    s = Solo(term=0, start=False)
    s.io.stored = []
    assert raft_start(s.r) == 0
    for term in range(1, 4 * s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 9, 1))
        s.recv(msg.request_vote(2, term + 1, 9, 1, pre_vote=True))
    assert not any(votes(s))
    assert s.r.current_term == 4 * s.r.vote_patience - 1
    assert (s.r.voted_for, s.io.vote) == (0, 0)


def test_server_that_is_no_member_by_its_log_never_votes_nor_doubts_the_leader() -> None:
    """The candidate may need its vote, but its log does not measure what it has acknowledged."""
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 2, "2", RAFT_VOTER) == 0
    assert raft_configuration_add(conf, 3, "3", RAFT_VOTER) == 0
    s = Solo(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, start=False)
    s.io.stored = [change(1, conf)]
    assert raft_start(s.r) == 0
    s.recv(msg.append_entries(2, 1, 1, 1))
    s.io.now += 5000
    for term in range(2, 4 * s.r.vote_patience):
        s.recv(msg.request_vote(3, term, 9, 1))
    assert not any(votes(s))
    assert s.r.current_term == 1
    s.tick(5000)
    assert s.state == RAFT_FOLLOWER


def test_server_whose_removal_is_not_committed_votes_for_a_longer_log() -> None:
    """Server 2 needs that vote to lead: it has a longer log, and by it 1 is a voter still or again."""
    s = three_voters_without_1()
    for term in range(2, 3 + s.r.vote_patience):
        assert not any(votes(s))
        s.recv(msg.request_vote(2, term, 3, 1))
    assert votes(s) == [True]
    assert (s.r.voted_for, s.io.vote) == (2, 2)


def test_server_whose_removal_is_not_committed_withholds_its_vote_from_a_shorter_log() -> None:
    """The election restriction (3.6.1) never yields: what the removal stands behind may be committed."""
    s = three_voters_without_1()
    for term in range(2, 4 * s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 1, 1))
    assert not any(votes(s))
    assert s.r.voted_for == 0


def test_server_whose_removal_is_not_committed_doubts_a_leader_that_has_been_silent_for_long() -> None:
    """Otherwise it would take a leader that is gone for one that is there, and be asked in vain for ever."""
    s = three_voters_without_1()
    s.recv(msg.append_entries(3, 1, 2, 1))
    s.sent()
    s.io.now += 5000
    for term in range(2, 3 * s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 3, 1))
    assert any(votes(s))
    assert s.r.voted_for == 2


def test_server_whose_removal_is_committed_never_votes() -> None:
    """A majority without it has the entry: nobody needs its vote, and it may have lost its disk since."""
    s = three_voters_without_1()
    s.recv(msg.append_entries(3, 1, 2, 1, commit=2))
    assert (s.r.commit_index, s.r.configuration_uncommitted_index) == (2, 0)
    s.sent()
    s.io.now += 5000
    for term in range(2, 4 * s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 3, 1))
    assert not any(votes(s))
    assert s.r.voted_for == 0


@pytest.mark.parametrize("ids", [(2, 3), (1, 2, 3)])
def test_server_that_started_empty_answers_before_any_configuration_is_committed(ids: tuple[int, ...]) -> None:
    """It has entry 1 by then, and does not know that it is committed: nobody hears from it who is a member."""
    conf = RaftConfiguration()
    for id in ids:
        assert raft_configuration_add(conf, id, str(id), RAFT_VOTER) == 0
    s = Solo(term=0, start=False)
    s.io.stored = []
    s.io.features = 0xFFFF
    assert raft_start(s.r) == 0
    s.recv(msg.append_entries(2, 1, 0, 0, entries=[change(1, conf)]))
    s.io.finish_appends()
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (0, 1)
    s.sent()
    s.recv(msg.request_vote(9, 2, 3, 1))
    [answer] = [m.request_vote_result for m in s.sent()]
    assert answer is not None
    assert (answer.vote_granted, answer.no_member) == (False, False)
    s.io.now += 5000
    for term in range(2, 4 * s.r.vote_patience):
        s.recv(msg.request_vote(3, term, 0, 0))
    assert not any(votes(s))


def test_cluster_with_a_replaced_disk_waits_for_the_server_that_has_the_entries(new_cluster: NewCluster) -> None:
    """Two of three hold what is acknowledged: one is away, the other comes back empty. The third does not lead."""
    c = new_cluster(3).led()
    c.isolate(1)
    assert all(c.until_done(c.add_x(0)) == 0 for _ in range(5))
    index = c.last_index(0)
    c.kill(0)
    c.restart(2, keep=0)
    c.rejoin(1)
    c.kill(0)
    c.elapse(200_000)
    assert c.leader is None
    c.revive(0)
    c.until(lambda: c.leader == 0, 60_000)
    for i in range(3):
        c.until_applied(i, index, 60_000)

"""raft_add, raft_remove and raft_assign on simulated clusters (chapter 4 of the Raft dissertation)."""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_CANTCHANGE,
    RAFT_DUPLICATEADDRESS,
    RAFT_DUPLICATEID,
    RAFT_FOLLOWER,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftChange,
    raft_add,
    raft_assign,
    raft_errmsg,
    raft_leader,
    raft_remove,
    raft_role,
)
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


def unexpected(*args: Any) -> None:
    """Be a callback that must never fire."""
    raise AssertionError(f"callback of a refused request fired with {args}")


# raft_add


@covers("raft_add/committed")
def test_add_takes_effect_at_once_and_is_committed_later(new_cluster: NewCluster) -> None:
    """The new server is a spare from the call on; the configuration is uncommitted until its entry is applied."""
    c = new_cluster(2).led()
    c.until_applied(0, 2, 1000)
    r = c.raft(0)
    p = c.add(0, 3)
    assert r.configuration.n == 3
    server = r.configuration.servers[2]
    assert (server.id, server.address, server.role) == (3, "3", RAFT_SPARE)
    assert c.change_indexes(0) == (1, 3)
    progress = r.leader_state.progress[2]
    assert (progress.next_index, progress.match_index) == (4, 0)
    c.until_applied(0, 3, 2000)
    assert p.status == 0
    assert c.change_indexes(0) == (3, 0)


@covers("raft_add/notLeader")
def test_add_on_a_follower_is_refused(new_cluster: NewCluster) -> None:
    """A follower answers RAFT_NOTLEADER."""
    c = new_cluster(2).led()
    assert raft_add(c.raft(1), RaftChange(), 3, "3", unexpected) == RAFT_NOTLEADER


@covers("raft_add/busy")
def test_add_during_another_change_is_refused(new_cluster: NewCluster) -> None:
    """One change at a time: the second gets RAFT_CANTCHANGE, the first goes through."""
    c = new_cluster(2).led()
    p = c.add(0, 3)
    assert raft_add(c.raft(0), RaftChange(), 4, "4", unexpected) == RAFT_CANTCHANGE
    assert raft_errmsg(c.raft(0)) == "a configuration change is already in progress"
    assert c.until_done(p) == 0
    assert c.roles(0) == {1: RAFT_VOTER, 2: RAFT_VOTER, 3: RAFT_SPARE}


@covers("raft_add/duplicateId")
def test_add_of_a_known_id_is_refused(new_cluster: NewCluster) -> None:
    """An id in use is RAFT_DUPLICATEID, an address in use RAFT_DUPLICATEADDRESS, and nothing is changed."""
    c = new_cluster(2).led()
    assert raft_add(c.raft(0), RaftChange(), 2, "3", unexpected) == RAFT_DUPLICATEID
    assert raft_add(c.raft(0), RaftChange(), 3, "2", unexpected) == RAFT_DUPLICATEADDRESS
    assert c.last_index(0) == 2
    assert c.change_indexes(0) == (1, 0)
    assert c.until_done(c.add(0, 3)) == 0


# raft_remove


@covers("raft_remove/committed")
def test_remove_takes_effect_at_once_and_is_committed_later(new_cluster: NewCluster) -> None:
    """The removed server is gone from the call on; the configuration is committed when the entry is applied."""
    c = new_cluster(2).led()
    c.add_spare()
    c.promote(2, RAFT_STANDBY)
    c.until_applied(2, 2, 2000)
    p = c.remove(0, 3)
    assert c.change_indexes(0) == (4, 5)
    assert c.raft(0).configuration.n == 2
    c.until_applied(0, 5, 2000)
    assert p.status == 0
    assert c.change_indexes(0) == (5, 0)
    assert c.roles(0) == {1: RAFT_VOTER, 2: RAFT_VOTER}


@covers("raft_remove/self")
def test_leader_removes_itself(new_cluster: NewCluster) -> None:
    """A leader that removes itself leads until the entry is applied, then follows; the other server takes over."""
    c = new_cluster(2).led()
    c.until_applied(0, 2, 1000)
    p = c.remove(0, 1)
    assert c.state(0) == RAFT_LEADER
    assert raft_role(c.raft(0)) == -1
    assert c.until_done(p) == 0
    assert p.applied == 3
    assert c.state(0) == RAFT_FOLLOWER
    c.until_applied(1, 3, 10000)
    assert c.roles(1) == {2: RAFT_VOTER}
    assert c.state(1) == RAFT_LEADER


@covers("raft_remove/selfThreeNodeClusterReplicate")
def test_removed_leader_replicates_until_the_change_is_committed(new_cluster: NewCluster) -> None:
    """The leader manages a cluster without itself (4.2.2), steps down, and knows no leader; the others elect one."""
    c = new_cluster(2).led()
    c.add_spare()
    c.promote(2, RAFT_VOTER)
    c.until_applied(0, 4, 2000)
    assert raft_leader(c.raft(0)) == (1, "1")
    change = c.remove(0, 1)
    p = c.apply(0, fsms.set_x(123))
    assert p.index == 6
    c.until_no_leader(5000)
    assert raft_leader(c.raft(0)) == (0, None)
    c.until_applied(0, 5, 10000)
    assert change.status == 0
    assert c.state(0) == RAFT_FOLLOWER
    leader = c.until_leader(5000)
    assert leader in (1, 2)
    c.until_applied(1, 6, 10000)
    c.until_applied(2, 6, 10000)
    assert [f.x for f in c.fsms[1:]] == [123, 123]
    assert raft_leader(c.raft(0)) == (0, None)
    assert raft_leader(c.raft(1))[0] == leader + 1
    assert raft_leader(c.raft(1))[1] == str(leader + 1)


@covers("raft_remove/notLeader")
def test_remove_on_a_follower_is_refused(new_cluster: NewCluster) -> None:
    """A follower answers RAFT_NOTLEADER."""
    c = new_cluster(2).led()
    assert raft_remove(c.raft(1), RaftChange(), 3, unexpected) == RAFT_NOTLEADER


@covers("raft_remove/inProgress")
def test_remove_during_another_change_is_refused(new_cluster: NewCluster) -> None:
    """One change at a time: RAFT_CANTCHANGE."""
    c = new_cluster(2).led()
    c.add(0, 3)
    assert raft_remove(c.raft(0), RaftChange(), 3, unexpected) == RAFT_CANTCHANGE


@covers("raft_remove/badId")
def test_remove_of_an_unknown_id_is_refused(new_cluster: NewCluster) -> None:
    """An id that is not in the configuration is RAFT_BADID."""
    c = new_cluster(2).led()
    assert raft_remove(c.raft(0), RaftChange(), 3, unexpected) == RAFT_BADID


def test_change_of_a_deposed_leader_ends_with_leadership_lost(new_cluster: NewCluster) -> None:
    """A change that waits when the leader steps down is told RAFT_LEADERSHIPLOST."""
    c = new_cluster(2).led()
    p = c.add(0, 3)
    c.depose()
    assert c.until_done(p) == RAFT_LEADERSHIPLOST


# raft_assign


@covers("raft_assign/promoteUpToDate")
def test_promotion_of_a_server_that_has_everything(new_cluster: NewCluster) -> None:
    """A stand-by with a full log is a voter from the call on, before the change is committed."""
    c = new_cluster(2).led()
    c.add_spare()
    c.promote(2, RAFT_STANDBY)
    c.elapse(500)
    assert c.raft(0).leader_state.progress[2].match_index == 4
    p = c.assign(0, 3, RAFT_VOTER)
    assert c.roles(0)[3] == RAFT_VOTER
    assert c.change_indexes(0) == (4, 5)
    assert not p.done
    c.until_applied(0, 5, 2000)
    assert p.status == 0
    assert c.change_indexes(0) == (5, 0)


@covers("raft_assign/promoteCatchUp")
def test_promotion_waits_until_the_server_has_caught_up(new_cluster: NewCluster) -> None:
    """A spare stays one until its log is full; from then on the new voter counts for the quorum of its own change."""
    c = new_cluster(2).led()
    c.progress()
    c.add_spare()
    p = c.assign(0, 3, RAFT_VOTER)
    assert c.roles(0)[3] == RAFT_SPARE
    assert c.raft(0).leader_state.promotee_id == 3
    c.until_applied(2, 3, 2000)
    c.cut(0, 1)
    c.until(lambda: c.raft(0).leader_state.promotee_id == 0, 2000)
    assert c.roles(0)[3] == RAFT_VOTER
    assert c.change_indexes(0) == (4, 5)
    c.until_applied(0, 5, 2000)
    c.until_applied(2, 5, 2000)
    assert c.change_indexes(0) == (5, 0)
    assert p.status == 0


@covers("raft_assign/promoteNewRound")
def test_promotion_starts_another_round_for_what_came_meanwhile(new_cluster: NewCluster) -> None:
    """Entries appended during a long catch-up round make a second round; the change follows them at index 6."""
    c = new_cluster(2).led()
    c.progress()
    c.add_spare()
    p = c.assign(0, 3, RAFT_VOTER)
    leader = c.raft(0).leader_state
    assert (leader.promotee_id, leader.round_number, leader.round_index) == (3, 1, 4)
    start = c.time
    assert leader.round_start == start
    c.until(lambda: c.last_index(2) == 4, 1000)
    c.set_network_latency(2, c.raft(0).election_timeout + 100)
    added = c.add_x(0)
    assert added.index == 5
    c.until(lambda: leader.round_number == 2, 4000)
    assert c.time - start >= 1000
    assert (leader.promotee_id, leader.round_index, leader.round_start) == (3, 5, c.time)
    assert c.roles(0)[3] == RAFT_SPARE
    c.set_network_latency(2, 15)
    c.until_applied(0, added.index, 5000)
    c.until_applied(0, added.index + 1, 5000)
    assert c.change_indexes(0) == (6, 0)
    assert p.status == 0
    assert c.roles(0)[3] == RAFT_VOTER


@covers("raft_assign/changeIsImmediate")
def test_follower_adopts_a_role_before_it_is_committed(new_cluster: NewCluster) -> None:
    """A follower uses the configuration of a CHANGE entry as soon as the entry is on its disk."""
    c = new_cluster(2).led()
    c.grow_started()
    c.progress()
    assert c.until_done(c.add(0, 3)) == 0
    c.until_applied(1, 4, 2000)
    p = c.assign(0, 3, RAFT_VOTER)
    c.until(lambda: c.roles(1)[3] == RAFT_VOTER, 3000)
    assert c.change_indexes(1) == (4, 5)
    assert c.until_done(p) == 0


@covers("raft_assign/promoteToStandBy")
def test_spare_becomes_stand_by(new_cluster: NewCluster) -> None:
    """A spare becomes stand-by without catching up first, and receives entries from then on."""
    c = new_cluster(2).led()
    c.add_spare()
    c.promote(2, RAFT_STANDBY)
    assert c.roles(0)[3] == RAFT_STANDBY
    c.until_applied(2, 4, 2000)
    assert raft_role(c.raft(2)) == RAFT_STANDBY


@covers("raft_assign/notLeader")
def test_assign_on_a_follower_is_refused(new_cluster: NewCluster) -> None:
    """A follower answers RAFT_NOTLEADER."""
    c = new_cluster(2).led()
    assert raft_assign(c.raft(1), RaftChange(), 3, RAFT_VOTER, unexpected) == RAFT_NOTLEADER
    assert raft_errmsg(c.raft(1)) == "server is not the leader: server 1 at 1 leads"


@covers("raft_assign/unknownId", "raft_assign/badRole", "raft_assign/alreadyHasRole")
@pytest.mark.parametrize(
    ("id", "role", "code", "text"),
    [
        (3, RAFT_VOTER, RAFT_NOTFOUND, "no server has ID 3"),
        (3, 999, RAFT_BADROLE, "server role is not valid"),
        (1, RAFT_VOTER, RAFT_BADROLE, "server is already voter"),
    ],
)
def test_assign_of_nonsense_is_refused(new_cluster: NewCluster, id: int, role: int, code: int, text: str) -> None:
    """An unknown id, an unknown role and the role that the server has are refused, each with its text."""
    c = new_cluster(2).led()
    assert raft_assign(c.raft(0), RaftChange(), id, role, unexpected) == code
    assert raft_errmsg(c.raft(0)) == text
    assert c.last_index(0) == 2


@pytest.mark.parametrize(("role", "name"), [(RAFT_STANDBY, "stand-by"), (RAFT_SPARE, "spare")])
def test_assign_of_the_role_it_has_names_the_role(new_cluster: NewCluster, role: int, name: str) -> None:
    """The text of RAFT_BADROLE names the role that the server has already."""
    c = new_cluster(2).led()
    c.add_spare()
    if role != RAFT_SPARE:
        c.promote(2, role)
    assert raft_assign(c.raft(0), RaftChange(), 3, role, unexpected) == RAFT_BADROLE
    assert raft_errmsg(c.raft(0)) == f"server is already {name}"


def test_assign_of_an_unknown_role_on_a_follower_is_a_bad_role(new_cluster: NewCluster) -> None:
    """The role is checked before the leadership."""
    c = new_cluster(2).led()
    assert raft_assign(c.raft(1), RaftChange(), 1, 999, unexpected) == RAFT_BADROLE


@covers("raft_assign/changeRequestAlreadyInProgress")
def test_assign_during_a_promotion_is_refused(new_cluster: NewCluster) -> None:
    """While a server catches up every other change gets RAFT_CANTCHANGE; the promotion goes through."""
    c = new_cluster(2).led()
    c.add_spare()
    p = c.assign(0, 3, RAFT_VOTER)
    r = c.raft(0)
    assert raft_assign(r, RaftChange(), 3, RAFT_VOTER, unexpected) == RAFT_CANTCHANGE
    assert raft_errmsg(r) == "a configuration change is already in progress"
    assert raft_add(r, RaftChange(), 4, "4", unexpected) == RAFT_CANTCHANGE
    assert raft_remove(r, RaftChange(), 3, unexpected) == RAFT_CANTCHANGE
    assert c.until_done(p, 10000) == 0


@covers("raft_assign/leadershipLost")
def test_role_goes_back_when_the_leader_is_deposed(new_cluster: NewCluster) -> None:
    """An uncommitted role change that the next leader never saw is rolled back on the old one."""
    c = new_cluster(3).led()
    c.until_applied(0, 2, 1000)
    c.isolate(0)
    p = c.assign(0, 3, RAFT_STANDBY)
    assert c.roles(0)[3] == RAFT_STANDBY
    assert c.change_indexes(0) == (1, 3)
    c.until_state(0, RAFT_FOLLOWER, 3000)
    assert p.status == RAFT_LEADERSHIPLOST
    leader = c.until_leader(5000)
    assert leader != 0
    c.rejoin(0)
    c.until_applied(0, 3, 3000)
    assert c.roles(0) == {1: RAFT_VOTER, 2: RAFT_VOTER, 3: RAFT_VOTER}
    assert c.change_indexes(0) == (1, 0)


@covers("raft_assign/promoteUnresponsive")
def test_promotion_of_a_dead_server_fails(new_cluster: NewCluster) -> None:
    """A promotee that does not answer makes the promotion fail with RAFT_NOCONNECTION after five seconds."""
    c = new_cluster(2).led()
    c.progress()
    c.add_spare()
    p = c.assign(0, 3, RAFT_VOTER)
    start = c.time
    c.kill(2)
    assert c.until_done(p, 10000) == RAFT_NOCONNECTION
    assert raft_errmsg(c.raft(0)) == "server 3 has not caught up in time, in round 1"
    assert 5000 < c.time - start <= 5100
    assert c.roles(0)[3] == RAFT_SPARE
    assert c.until_done(c.remove(0, 3)) == 0


@covers("raft_assign/demoteToStandBy")
def test_voter_becomes_stand_by(new_cluster: NewCluster) -> None:
    """A voter can be made stand-by; the rest is the majority then."""
    c = new_cluster(2).led()
    c.promote(1, RAFT_STANDBY)
    assert c.roles(0) == {1: RAFT_VOTER, 2: RAFT_STANDBY}
    c.kill(1)
    c.progress()


@covers("raft_assign/demoteLeader", "raft_assign/demoteLeaderToSpare")
@pytest.mark.parametrize("role", [RAFT_STANDBY, RAFT_SPARE])
def test_leader_that_loses_its_vote_steps_down(new_cluster: NewCluster, role: int) -> None:
    """A demoted leader leads until the change is applied; then another server becomes leader."""
    c = new_cluster(2).led()
    p = c.assign(0, 1, role)
    assert c.leader == 0
    assert c.until_done(p, 10000) == 0
    assert c.state(0) == RAFT_FOLLOWER
    c.until(lambda: c.leader not in (None, 0), 5000)
    assert c.leader == 1

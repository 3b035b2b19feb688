"""raft_transfer on simulated clusters (3.10 of the Raft dissertation)."""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_FOLLOWER,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_TIMEOUT_NOW,
    RAFT_LEADER,
    RAFT_NOTFOUND,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RaftApply,
    RaftTransfer,
    raft_apply,
    raft_errmsg,
    raft_leader,
    raft_transfer,
)
from pyraft import fixture as fx
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


def unexpected(*args: Any) -> None:
    """Be a callback that must never fire."""
    raise AssertionError(f"callback of a refused request fired with {args}")


@covers("raft_transfer/upToDate")
def test_transfer_to_a_follower_that_has_everything(new_cluster: NewCluster) -> None:
    """TimeoutNow goes out inside the call; the target leads the next term when the callback fires."""
    c = new_cluster(3).led()
    c.elapse(500)
    p = c.transfer(0, 2)
    c.until(lambda: c.n_send(0, RAFT_IO_TIMEOUT_NOW) == 1, 10)
    c.until_done(p)
    assert c.until_leader(1000) == 1
    assert c.term(1) == 3
    assert raft_leader(c.raft(0)) == (2, "2")
    assert p.statuses == [None]


@covers("raft_transfer/catchUp")
def test_transfer_to_a_follower_that_lacks_an_entry(new_cluster: NewCluster) -> None:
    """TimeoutNow waits until the target has acknowledged the last entry."""
    c = new_cluster(3).led()
    pending = c.add_x(0)
    p = c.transfer(0, 2)
    c.step()
    assert c.n_send(0, RAFT_IO_TIMEOUT_NOW) == 0
    c.until_done(p)
    assert c.until_leader(1000) == 1
    assert c.n_send(0, RAFT_IO_TIMEOUT_NOW) == 1
    c.until_applied(c.n, pending.index, 2000)


@covers("raft_transfer/expire")
def test_transfer_to_a_dead_server_expires(new_cluster: NewCluster) -> None:
    """After an election timeout the transfer is given up; the leader stays and takes commands again."""
    c = new_cluster(3).led()
    c.add_x(0)
    c.kill(1)
    start = c.time
    p = c.transfer(0, 2)
    assert raft_leader(c.raft(0)) == (0, None)
    c.until_done(p)
    assert 1000 <= c.time - start <= 1100
    assert c.leader == 0
    assert raft_leader(c.raft(0)) == (1, "1")
    c.progress()


@covers("raft_transfer/unknownServer")
@pytest.mark.parametrize("id", [1, 4])
def test_transfer_to_itself_or_a_stranger_is_refused(new_cluster: NewCluster, id: int) -> None:
    """The leader's own id and an unknown id are RAFT_BADID."""
    c = new_cluster(3).led()
    assert raft_transfer(c.raft(0), RaftTransfer(), id, unexpected) == RAFT_BADID
    assert raft_errmsg(c.raft(0)) == "server ID is not valid"


def test_transfer_to_a_stand_by_is_refused(new_cluster: NewCluster) -> None:
    """A server without a vote is RAFT_BADID."""
    c = new_cluster(3).led(voters=2)
    assert raft_transfer(c.raft(0), RaftTransfer(), 3, unexpected) == RAFT_BADID


def test_transfer_without_another_voter_is_refused(new_cluster: NewCluster) -> None:
    """Id 0 with no other voter is RAFT_NOTFOUND."""
    c = new_cluster(2).ready(voters=1)
    assert raft_transfer(c.raft(0), RaftTransfer(), 0, unexpected) == RAFT_NOTFOUND
    assert raft_errmsg(c.raft(0)) == "there's no other voting server"


def test_transfer_on_a_follower_is_refused(new_cluster: NewCluster) -> None:
    """A follower answers RAFT_NOTLEADER."""
    c = new_cluster(3).led()
    assert raft_transfer(c.raft(1), RaftTransfer(), 3, unexpected) == RAFT_NOTLEADER


@covers("raft_transfer/twice")
def test_second_transfer_is_refused(new_cluster: NewCluster) -> None:
    """While a transfer is under way another one, and every command, gets RAFT_NOTLEADER."""
    c = new_cluster(3).led()
    p = c.transfer(0, 2)
    assert raft_transfer(c.raft(0), RaftTransfer(), 3, unexpected) == RAFT_NOTLEADER
    assert raft_errmsg(c.raft(0)) == "server is not the leader: it is handing leadership over to server 2"
    assert raft_apply(c.raft(0), RaftApply(), [fsms.set_x(1)], 1, unexpected) == RAFT_NOTLEADER
    c.until_done(p)
    assert c.until_leader(1000) == 1


@covers("raft_transfer/autoSelect")
def test_transfer_to_anybody(new_cluster: NewCluster) -> None:
    """Id 0 picks another voter."""
    c = new_cluster(3).led()
    c.until_done(c.transfer(0, 0))
    assert c.until_leader(1000) != 0


@covers("raft_transfer/autoSelectUpToDate")
def test_transfer_to_anybody_prefers_who_has_everything(new_cluster: NewCluster) -> None:
    """Id 0 picks a server that was sent everything rather than a dead one."""
    c = new_cluster(3).led()
    c.kill(1)
    c.progress()
    p = c.transfer(0, 0)
    assert p.req.id == 3
    c.until_done(p)
    assert c.until_leader(1000) == 2


@covers("raft_transfer/afterDemotion")
def test_transfer_by_a_demoted_leader_is_refused(new_cluster: NewCluster) -> None:
    """A leader that was made a spare leads no more, so it has nothing to transfer."""
    c = new_cluster(3).led()
    c.add_spare()
    c.promote(3)
    demotion = c.assign(0, 1, RAFT_SPARE)
    assert c.until_done(demotion, 1000) == 0
    assert c.applied(0) == 5
    assert raft_transfer(c.raft(0), RaftTransfer(), 2, unexpected) == RAFT_NOTLEADER
    assert raft_errmsg(c.raft(0)) == "server is not the leader: no leader is known"


@covers("raft_transfer/preVote")
@pytest.mark.parametrize("pre_vote", [False, True])
@pytest.mark.parametrize("heartbeat", [1, 100])
def test_transfer_skips_the_pre_vote(new_cluster: NewCluster, pre_vote: bool, heartbeat: int) -> None:
    """A transfer works with pre-vote too: the target's election is real at once (one round of requests)."""
    c = new_cluster(3, pre_vote=pre_vote, heartbeat=heartbeat).ready()
    c.elect(0)
    p = c.transfer(0, 2)
    c.until_done(p)
    assert c.until_leader(1000) == 1
    assert c.n_send(1, RAFT_IO_REQUEST_VOTE) == 2
    assert c.states() == [RAFT_FOLLOWER, RAFT_LEADER, RAFT_FOLLOWER]


def test_transfer_whose_message_cannot_be_sent_is_refused(new_cluster: NewCluster) -> None:
    """A TimeoutNow that io.send refuses gives raft_transfer its code; no callback comes and the leader goes on."""
    c = new_cluster(3).led()
    c.elapse(500)
    fx.raft_fixture_send_fault(c.f, 0, 0)
    assert raft_transfer(c.raft(0), RaftTransfer(), 2, unexpected) != 0
    c.progress()


def test_transfer_of_a_server_that_becomes_unavailable_ends(new_cluster: NewCluster) -> None:
    """A leader that becomes unavailable ends its transfer at once."""
    c = new_cluster(3).led()
    c.add_x(0)
    p = c.transfer(0, 2)
    fx.raft_fixture_make_unavailable(c.f, 0)
    assert p.done
    assert c.state(0) == RAFT_UNAVAILABLE


def test_transfer_target_that_is_a_stand_by_meanwhile_does_not_stand(new_cluster: NewCluster) -> None:
    """A promised target that lost its vote ignores TimeoutNow."""
    c = new_cluster(3).led(voters=2)
    assert c.roles(2)[3] == RAFT_STANDBY
    c.elapse(500)
    r = c.raft(0)
    c.deliver(2, msg.timeout_now(1, r.current_term, c.last_index(0), r.current_term))
    assert c.state(2) == RAFT_FOLLOWER

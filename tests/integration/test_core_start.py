"""raft_start on what a disk may hold, and the ticks that follow."""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IO_REQUEST_VOTE,
    RAFT_LEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    Raft,
    RaftIo,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_register_state_cb,
    raft_set_election_timeout,
    raft_start,
)
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers
from tests.lib.solo import ScriptIo, Solo, change, configuration

NewCluster = Callable[..., Cluster]

# raft_start


@covers("raft_start/oneSnapshotAndNoEntries")
def test_start_from_a_snapshot_alone(new_cluster: NewCluster) -> None:
    """A server with a snapshot and no entries restores it and takes part in the cluster."""
    c = new_cluster(2)
    c.set_snapshot(0, 6, 2, 1, 5, 7)
    c.set_term(0, 2)
    c.bootstrap_one(1)
    c.start()
    assert c.fsms[0].restored == [(5, 7)]
    assert (c.applied(0), c.last_index(0)) == (6, 6)
    assert c.raft(0).commit_index == 6
    index = c.progress()
    assert index == 8
    assert c.fsms[0].x == 6


@covers("raft_start/oneSnapshotAndSomeFollowUpEntries")
def test_start_from_a_snapshot_and_the_entries_behind_it(new_cluster: NewCluster) -> None:
    """Entries behind the snapshot are loaded but not applied before they are committed again."""
    c = new_cluster(2)
    c.bootstrap_one(1)
    c.set_snapshot(0, 6, 2, 1, 5, 7)
    c.add_entry(0, 2, fsms.set_x(6))
    c.add_entry(1, 2, fsms.add_y(2))
    c.set_term(0, 2)
    c.start()
    assert (c.applied(0), c.last_index(0)) == (6, 7)
    assert c.fsms[0].x == 5
    c.progress()
    assert c.fsms[0].x == 7


@covers("raft_start/noEntries")
def test_start_of_a_pristine_server_beside_two_others(new_cluster: NewCluster) -> None:
    """A server without anything on its disk waits to be told; the two others make progress, and it follows."""
    c = new_cluster(3)
    c.bootstrap_one(1)
    c.bootstrap_one(2)
    c.start()
    assert c.raft(0).configuration.n == 0
    index = c.progress()
    assert c.leader != 0
    c.until_applied(0, index, 2000)
    assert c.roles(0) == {1: 1, 2: 1, 3: 1}


@covers("raft_start/twoEntries")
def test_start_with_an_entry_that_the_others_lack(new_cluster: NewCluster) -> None:
    """An entry that one server alone has on its disk reaches all others when that server leads."""
    c = new_cluster(3)
    c.bootstrap_one(0)
    c.add_entry(0, 3, fsms.set_x(123))
    c.set_term(0, 3)
    c.bootstrap_one(1)
    c.bootstrap_one(2)
    c.start()
    c.elect(0)
    assert c.term(0) == 4
    c.progress()
    c.until_applied(c.n, 3, 3000)
    c.until_applied(c.n, 4, 3000)
    assert [f.x for f in c.fsms] == [124, 124, 124]


@covers("raft_start/singleVotingSelfElect")
def test_start_of_the_only_voter_makes_it_leader(new_cluster: NewCluster) -> None:
    """A single voter leads as soon as it has started; it wins a real election, with a term and a vote of its own."""
    c = new_cluster(1).ready()
    assert c.state(0) == RAFT_LEADER
    assert c.time == 0
    assert (c.term(0), c.voted_for(0)) == (2, 1)
    assert c.raft(0).commit_index == 1
    c.progress()
    assert c.fsms[0].x == 1


@covers("raft_start/singleVotingNotUs")
def test_start_of_a_server_beside_the_only_voter(new_cluster: NewCluster) -> None:
    """A server without a vote stays follower when the only voter is another one."""
    c = new_cluster(2).ready(voters=1)
    assert c.states() == [RAFT_LEADER, RAFT_FOLLOWER]
    index = c.progress()
    c.until_applied(1, index, 1000)


@covers("raft_start/singleVotingWithStateCb")
def test_start_of_the_only_voter_tells_the_state_callback(new_cluster: NewCluster) -> None:
    """The state callback sees every change that raft_start makes, in order."""
    c = new_cluster(1)
    c.bootstrap()
    seen: list[tuple[int, int]] = []

    def state_cb(r: Raft, old: int, new: int) -> None:
        assert r is c.raft(0)
        seen.append((old, new))

    raft_register_state_cb(c.raft(0), state_cb)
    c.start()
    assert seen == [
        (RAFT_UNAVAILABLE, RAFT_FOLLOWER),
        (RAFT_FOLLOWER, RAFT_CANDIDATE),
        (RAFT_CANDIDATE, RAFT_LEADER),
    ]


# Ticks


def election_clock(c: Cluster, i: int) -> int:
    """Return the time in ms since the election clock of server `i` was started."""
    return c.time - c.raft(i).election_timer_start


@covers("tick/electionTimer")
def test_tick_lets_the_election_clock_run(new_cluster: NewCluster) -> None:
    """Every tick of a server finds its election clock one heartbeat interval on."""
    c = new_cluster(3).ready()
    for i, expected in ((0, 100), (1, 100), (2, 100), (0, 200)):
        c.step()
        assert election_clock(c, i) == expected


@covers("tick/candidate")
def test_tick_turns_a_follower_into_a_candidate(new_cluster: NewCluster) -> None:
    """An expired election clock raises the term, casts the own vote and starts an election."""
    c = new_cluster(3).ready()
    r = c.raft(0)
    c.elapse(r.follower_state.randomized_election_timeout)
    assert c.time == 1000
    assert (r.current_term, r.voted_for, c.voted_for(0)) == (2, 1, 1)
    assert c.state(0) == RAFT_CANDIDATE
    assert r.follower_state is None
    assert list(r.candidate_state.votes) == [True, False, False]


@covers("tick/electionTimerNotExpired")
def test_tick_before_the_election_timeout(new_cluster: NewCluster) -> None:
    """Before its election timeout a follower stays one."""
    c = new_cluster(3).ready()
    c.elapse(c.raft(0).follower_state.randomized_election_timeout - 100)
    assert c.state(0) == RAFT_FOLLOWER
    assert c.term(0) == 1


@covers("tick/not_voter")
def test_tick_of_a_stand_by(new_cluster: NewCluster) -> None:
    """A server without a vote never becomes candidate."""
    c = new_cluster(3).ready(voters=1)
    raft_set_election_timeout(c.raft(0), 2000)
    c.set_randomized(0, 2000)
    c.elapse(c.raft(1).follower_state.randomized_election_timeout + 100)
    assert c.state(1) == RAFT_FOLLOWER


def test_tick_of_a_stand_by_without_any_voter_alive(new_cluster: NewCluster) -> None:
    """A stand-by that hears from nobody for long stays follower in its term."""
    c = new_cluster(3).ready(voters=2)
    c.kill(0)
    c.kill(1)
    c.elapse(10000)
    assert c.state(2) == RAFT_FOLLOWER
    assert c.term(2) == 1


@covers("tick/no_contact")
def test_tick_of_a_leader_without_contact(new_cluster: NewCluster) -> None:
    """A leader that hears from no majority for an election timeout steps down: at t=2100 after winning at 1030."""
    c = new_cluster(3).led()
    c.isolate(0)
    c.until_state(0, RAFT_FOLLOWER, 2000)
    assert c.time in (2000, 2100)


@covers("tick/new_election")
def test_tick_of_a_candidate_starts_another_round(new_cluster: NewCluster) -> None:
    """A candidate whose clock expires starts another election in another term."""
    c = new_cluster(3).ready()
    c.isolate(0)
    r = c.raft(0)
    c.elapse(r.follower_state.randomized_election_timeout)
    c.elapse(r.candidate_state.randomized_election_timeout)
    assert c.time == 2000
    assert (r.current_term, r.voted_for, c.voted_for(0)) == (3, 1, 1)
    assert c.state(0) == RAFT_CANDIDATE
    assert list(r.candidate_state.votes) == [True, False, False]


@covers("tick/during_election")
def test_tick_of_a_candidate_before_its_timeout(new_cluster: NewCluster) -> None:
    """Before its clock expires a candidate stays in its term."""
    c = new_cluster(3).ready()
    c.isolate(0)
    r = c.raft(0)
    c.elapse(r.follower_state.randomized_election_timeout)
    c.elapse(r.candidate_state.randomized_election_timeout - 100)
    assert c.state(0) == RAFT_CANDIDATE
    assert c.term(0) == 2


@covers("tick/request_vote_only_to_voters")
def test_tick_asks_voters_only(new_cluster: NewCluster) -> None:
    """A candidate sends vote requests to the other voters and to nobody else."""
    c = new_cluster(3).ready(voters=2)
    c.elapse(1000)
    assert c.state(0) == RAFT_CANDIDATE
    c.elapse(20)
    assert c.n_send(0, RAFT_IO_REQUEST_VOTE) == 1
    assert c.n_recv(1, RAFT_IO_REQUEST_VOTE) == 1
    assert c.n_recv(2, RAFT_IO_REQUEST_VOTE) == 0


@pytest.mark.parametrize("timeout", [500, 3000])
def test_set_election_timeout_draws_a_new_timer(new_cluster: NewCluster, timeout: int) -> None:
    """raft_set_election_timeout draws the running timer anew, as raft.h says (B27)."""
    c = new_cluster(3).ready()
    c.set_randomized(0, timeout)
    raft_set_election_timeout(c.raft(0), timeout)
    assert c.raft(0).follower_state.randomized_election_timeout == timeout
    assert c.raft(1).follower_state.randomized_election_timeout == 1100


@pytest.mark.parametrize(
    ("id", "address", "text"),
    [
        (1, "1", ""),
        (1, "elsewhere", "server 1 at elsewhere: others are told to find it at 1"),
        (4, "1", "server 4 is not in the configuration on its disk, which has 1, 2, 3"),
    ],
)
def test_a_directory_of_another_server_is_told(
    id: int, address: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be right, after a removal, so the server starts; but directories get mixed up."""
    s = Solo(start=False)
    raft_close(s.r, None)
    s.r = Raft()
    assert raft_init(s.r, s.io, s.fsm, id, address) == 0
    assert raft_start(s.r) == 0
    assert [record.getMessage() for record in caplog.records] == [text] * bool(text)


@pytest.mark.parametrize("rv", [0, RAFT_INVALID])
def test_an_address_that_is_of_no_use_to_anybody_is_told(rv: int, caplog: pytest.LogCaptureFixture) -> None:
    """A server without a log waits to be added, and a port that was left out, or 0, is not where it can be found."""
    io = ScriptIo()

    def check(_: RaftIo, address: str) -> int:
        io.errmsg = f"nobody is at {address}"
        return rv

    io.check_address = check
    r = Raft()
    assert raft_init(r, io, fsms.PairFsm(), 2, "host:0") == 0
    assert raft_start(r) == 0
    said = "server 2: nobody is at host:0. It waits to be added to a cluster, under another address"
    assert [record.getMessage() for record in caplog.records] == [said] * (rv != 0)
    assert raft_errmsg(r) == ""


def test_a_configuration_without_a_voter_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """C servers write such a one; nobody can ever lead, and a spare does not even wait for that."""
    io = ScriptIo()
    io.term = 1
    io.stored = [change(1, configuration(RAFT_SPARE, RAFT_STANDBY))]
    assert raft_init(r := Raft(), io, fsms.PairFsm(), 1, "1") == 0
    assert raft_start(r) == 0
    (record,) = caplog.records
    assert "has no voter, so nobody can lead" in record.getMessage()


@pytest.mark.parametrize("stops", [False, True])
def test_flags_go_with_the_state(stops: bool) -> None:
    """A server in another state than UNAVAILABLE is initialised and started, whenever it can be seen, to its end."""
    seen: list[tuple[int, bool, bool, bool, bool]] = []

    def look(r: Raft, *states: int) -> None:
        assert r.state == RAFT_UNAVAILABLE or (r.initialized and r.started)
        seen.append((r.state, r.initialized, r.starting, r.started, r.closing))

    s = Solo(start=False)
    look(s.r)
    raft_register_state_cb(s.r, look)
    assert raft_start(s.r) == 0
    look(s.r)
    if stops:
        s.io.raises("set_term", RuntimeError("disk"))
        s.tick(1000)
        s.tick(1000)
        assert s.r.failed
        assert seen[-1] == (RAFT_UNAVAILABLE, True, False, True, False)
    assert raft_bootstrap(s.r, s.conf) == RAFT_BUSY
    raft_close(s.r, look)
    s.io.on_close(s.io)
    begun = (RAFT_FOLLOWER, True, True, True, False)
    assert seen[:3] == [(RAFT_UNAVAILABLE, True, False, False, False), begun, (RAFT_FOLLOWER, True, False, True, False)]
    assert seen[-1] == (RAFT_UNAVAILABLE, False, False, True, True)

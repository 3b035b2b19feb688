"""The fixture itself: order of events, latencies, links, faults, counters, restarts, and what its checks catch."""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_CANTBOOTSTRAP,
    RAFT_FOLLOWER,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RAFT_UNAVAILABLE,
    Raft,
    RaftApply,
    RaftEntry,
    RaftIoAppend,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftRequestVote,
    RaftSnapshot,
    raft_apply,
    raft_close,
    raft_init,
    raft_start,
    raft_state,
)
from pyraft import fixture as fx
from tests.lib import fsm as fsms
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

NewCluster = Callable[..., Cluster]


def event_of(event: fx.RaftFixtureEvent) -> tuple[int, int]:
    return fx.raft_fixture_event_type(event), fx.raft_fixture_event_server_index(event)


def vote_request() -> RaftMessage:
    """A message that every server may get at any time: a RequestVote of term 0."""
    message = RaftMessage()
    message.type = RAFT_IO_REQUEST_VOTE
    message.server_id = 2
    message.request_vote = RaftRequestVote()
    return message


# The cases of the C suite.


@covers("raft_fixture_step/tick")
def test_ticks_fire_in_server_order(new_cluster: NewCluster) -> None:
    """With nothing else due the servers tick one after the other, every 100 ms."""
    c = new_cluster(3).ready()
    assert c.time == 0
    for time, server in ((100, 0), (100, 1), (100, 2), (200, 0)):
        assert event_of(fx.raft_fixture_step(c.f)) == (fx.RAFT_FIXTURE_TICK, server)
        assert c.time == time


@covers("raft_fixture_step/electionTimeout")
def test_the_first_election_starts_with_step_28(new_cluster: NewCluster) -> None:
    """Server 0 has the shortest election timeout and becomes candidate at 1000 ms."""
    c = new_cluster(3).ready()
    assert event_of(fx.raft_fixture_step_n(c.f, 28)) == (fx.RAFT_FIXTURE_TICK, 0)
    assert c.time == 1000
    assert c.states() == [RAFT_CANDIDATE, RAFT_FOLLOWER, RAFT_FOLLOWER]


@covers("raft_fixture_step/flushSend")
def test_sends_complete_at_once(new_cluster: NewCluster) -> None:
    """Both RequestVotes are sent before time moves on."""
    c = new_cluster(3).ready()
    c.until_state(0, RAFT_CANDIDATE)
    for _ in range(2):
        assert event_of(fx.raft_fixture_step(c.f)) == (fx.RAFT_FIXTURE_NETWORK, 0)
        assert c.time == 1000


@covers("raft_fixture_step/deliver")
def test_messages_arrive_after_the_network_latency(new_cluster: NewCluster) -> None:
    """The delivery of a message is an event of its sender, 15 ms later."""
    c = new_cluster(3).ready()
    c.until_state(0, RAFT_CANDIDATE)
    c.step(4)
    assert c.time == 1000
    assert event_of(fx.raft_fixture_step(c.f)) == (fx.RAFT_FIXTURE_NETWORK, 0)
    assert c.time == 1015


@covers("raft_fixture_elect/first")
def test_the_first_server_can_be_elected(new_cluster: NewCluster) -> None:
    """raft_fixture_elect makes server 0 leader and leaves the others followers."""
    c = new_cluster(3).ready()
    fx.raft_fixture_elect(c.f, 0)
    assert c.states() == [RAFT_LEADER, RAFT_FOLLOWER, RAFT_FOLLOWER]


@covers("raft_fixture_elect/second")
def test_any_server_can_be_elected(new_cluster: NewCluster) -> None:
    """raft_fixture_elect makes server 1 leader although its timer would be the second to expire."""
    c = new_cluster(3).ready()
    fx.raft_fixture_elect(c.f, 1)
    assert c.states() == [RAFT_FOLLOWER, RAFT_LEADER, RAFT_FOLLOWER]


@covers("raft_fixture_elect/change")
def test_another_server_is_elected_after_the_leader_was_deposed(new_cluster: NewCluster) -> None:
    """raft_fixture_depose leaves followers only, so another server can be elected."""
    c = new_cluster(3).ready()
    fx.raft_fixture_elect(c.f, 0)
    fx.raft_fixture_depose(c.f)
    assert c.states() == [RAFT_FOLLOWER] * 3
    fx.raft_fixture_elect(c.f, 1)
    assert c.states() == [RAFT_FOLLOWER, RAFT_LEADER, RAFT_FOLLOWER]


@covers("raft_fixture_elect/again")
def test_a_deposed_leader_is_elected_again(new_cluster: NewCluster) -> None:
    """The same server can lead twice."""
    c = new_cluster(3).ready()
    fx.raft_fixture_elect(c.f, 0)
    fx.raft_fixture_depose(c.f)
    assert c.states() == [RAFT_FOLLOWER] * 3
    fx.raft_fixture_elect(c.f, 0)
    assert c.states() == [RAFT_LEADER, RAFT_FOLLOWER, RAFT_FOLLOWER]


@covers("raft_fixture_step_until_applied/one")
def test_waiting_for_one_entry(new_cluster: NewCluster) -> None:
    """After the first command, at index 3, all state machines have x = 1."""
    c = new_cluster(3).led()
    c.add_x(0)
    c.until_applied(3, 3, 3000)
    assert [f.x for f in c.fsms] == [1, 1, 1]


@covers("raft_fixture_step_until_applied/two")
def test_waiting_for_two_entries(new_cluster: NewCluster) -> None:
    """After two commands all state machines have x = 2."""
    c = new_cluster(3).led()
    c.add_x(0)
    c.add_x(0)
    c.until_applied(3, 4, 4000)
    assert [f.x for f in c.fsms] == [2, 2, 2]


# Order and time.


def test_the_reference_election_takes_the_reference_times(new_cluster: NewCluster) -> None:
    """It stands at 1000, leads at 1030, and commits its barrier at 1070; the followers do at 1215."""
    c = new_cluster(3).ready()
    times: dict[str, int] = {}

    def hook(f: fx.RaftFixture, event: fx.RaftFixtureEvent) -> None:
        if c.state(0) == RAFT_LEADER:
            times.setdefault("leader", f.time)
        if c.raft(0).commit_index == 2:
            times.setdefault("committed", f.time)
        if all(c.raft(i).commit_index == 2 for i in range(3)):
            times.setdefault("everywhere", f.time)

    fx.raft_fixture_hook(c.f, hook)
    c.elapse(1500)
    assert times == {"leader": 1030, "committed": 1070, "everywhere": 1215}


def test_a_server_started_later_ticks_at_its_own_phase(new_cluster: NewCluster) -> None:
    """The first tick is one heartbeat interval after raft_start."""
    c = new_cluster(1).ready()
    c.elapse(100)
    fx.raft_fixture_set_disk_latency(c.f, 0, 37)
    io = c.raft(0).io
    io.append(io, RaftIoAppend(), [RaftEntry(1)], 1, lambda req, status: None)
    c.step()
    assert c.time == 137
    c.grow_started()
    ticks = [(event_of(fx.raft_fixture_step(c.f))[1], c.time) for _ in range(4)]
    assert ticks == [(0, 200), (1, 237), (0, 300), (1, 337)]


def test_at_the_same_time_the_lower_index_is_first_and_a_tick_before_a_request(new_cluster: NewCluster) -> None:
    """Three servers write at once and end at the time of a tick: tick 0, write 0, tick 1, write 1, ..."""
    c = new_cluster(3).ready()
    order: list[str] = []
    for i in (2, 1, 0):
        fx.raft_fixture_set_disk_latency(c.f, i, 100)
        for k in range(2):
            io = c.raft(i).io
            io.append(io, RaftIoAppend(), [RaftEntry(1)], 1, lambda req, status, i=i, k=k: order.append(f"{i}{k}"))
    events = [event_of(fx.raft_fixture_step(c.f)) for _ in range(9)]
    tick, disk = fx.RAFT_FIXTURE_TICK, fx.RAFT_FIXTURE_DISK
    assert events == [(kind, i) for i in range(3) for kind in (tick, disk, disk)]
    assert order == ["00", "01", "10", "11", "20", "21"]


def test_a_request_submitted_by_a_completion_runs_in_a_later_step(new_cluster: NewCluster) -> None:
    """Even without latency it goes to the tail: one event a step."""
    c = new_cluster(1).ready()
    fx.raft_fixture_set_disk_latency(c.f, 0, 0)
    io = c.raft(0).io
    done: list[int] = []

    def again(req: Any, status: int) -> None:
        done.append(status)
        if len(done) < 3:
            io.append(io, RaftIoAppend(), [RaftEntry(1)], 1, again)

    io.append(io, RaftIoAppend(), [RaftEntry(1)], 1, again)
    for n in range(1, 4):
        fx.raft_fixture_step(c.f)
        assert len(done) == n
        assert c.time == 0


def test_async_work_takes_its_time_and_reports_what_it_returned(new_cluster: NewCluster) -> None:
    """Work of 200 ms is an event of type WORK, and the callback gets the code that the work returned."""
    c = new_cluster(1).ready()
    io = c.raft(0).io
    req = RaftIoAsyncWork()
    req.work = lambda req: 42
    statuses: list[int] = []
    assert io.async_work(io, req, lambda req, status: statuses.append(status)) == 0
    c.step(2)
    assert statuses == []
    assert event_of(fx.raft_fixture_step(c.f)) == (fx.RAFT_FIXTURE_WORK, 0)
    assert statuses == [42]
    assert c.time == 200


def test_step_until_tells_whether_it_was_in_time(new_cluster: NewCluster) -> None:
    """The result says whether less than the limit has gone by."""
    c = new_cluster(3).ready()
    assert fx.raft_fixture_step_until_has_leader(c.f, 2000)
    assert not fx.raft_fixture_step_until_has_no_leader(c.f, 500)
    begin = c.time
    fx.raft_fixture_step_until_elapsed(c.f, 250)
    assert c.time - begin >= 250
    assert fx.raft_fixture_step_until_term_is(c.f, 1, 2, 100)
    assert fx.raft_fixture_step_until_voted_for(c.f, 1, 0, 100)
    assert not fx.raft_fixture_step_until_state_is(c.f, 1, RAFT_LEADER, 200)


# Links.


def test_a_send_to_a_disconnected_server_fails_and_messages_under_way_are_lost(new_cluster: NewCluster) -> None:
    """Disconnecting cuts one direction; it counts when a send completes and again when a message arrives."""
    c = new_cluster(2).ready()
    io = c.raft(0).io
    statuses: list[int] = []
    fx.raft_fixture_disconnect(c.f, 0, 1)
    assert io.send(io, RaftIoSend(), vote_request(), lambda req, status: statuses.append(status)) == 0
    c.step()
    assert statuses == [RAFT_NOCONNECTION]
    assert c.n_send(0, RAFT_IO_REQUEST_VOTE) == 0
    fx.raft_fixture_reconnect(c.f, 0, 1)
    io.send(io, RaftIoSend(), vote_request(), lambda req, status: statuses.append(status))
    c.step()
    assert statuses == [RAFT_NOCONNECTION, 0]
    fx.raft_fixture_disconnect(c.f, 0, 1)
    c.until_delivered(0, 1, 100)
    assert (c.n_send(0, RAFT_IO_REQUEST_VOTE), c.n_recv(1, RAFT_IO_REQUEST_VOTE)) == (1, 0)


def test_a_saturated_link_loses_messages_silently(new_cluster: NewCluster) -> None:
    """Sends over a saturated link succeed, their messages never arrive."""
    c = new_cluster(2).ready()
    io = c.raft(0).io
    statuses: list[int] = []
    assert not fx.raft_fixture_saturated(c.f, 0, 1)
    fx.raft_fixture_saturate(c.f, 0, 1)
    assert fx.raft_fixture_saturated(c.f, 0, 1)
    assert not fx.raft_fixture_saturated(c.f, 1, 0)
    io.send(io, RaftIoSend(), vote_request(), lambda req, status: statuses.append(status))
    c.until_delivered(0, 1, 100)
    assert statuses == [0]
    assert (c.n_send(0, RAFT_IO_REQUEST_VOTE), c.n_recv(1, RAFT_IO_REQUEST_VOTE)) == (1, 0)
    fx.raft_fixture_desaturate(c.f, 0, 1)
    io.send(io, RaftIoSend(), vote_request(), None)
    c.until_delivered(0, 1, 100)
    assert c.n_recv(1, RAFT_IO_REQUEST_VOTE) == 1


def test_a_send_to_an_unknown_server_fails(new_cluster: NewCluster) -> None:
    """A message for an id that no server has calls back with RAFT_NOCONNECTION."""
    c = new_cluster(1).ready()
    io = c.raft(0).io
    statuses: list[int] = []
    assert io.send(io, RaftIoSend(), vote_request(), lambda req, status: statuses.append(status)) == 0
    c.step()
    assert statuses == [RAFT_NOCONNECTION]


def test_the_send_latency_delays_the_callback_and_the_delivery(new_cluster: NewCluster) -> None:
    """A message is sent after the send latency and arrives one network latency later."""
    c = new_cluster(2).ready()
    fx.raft_fixture_set_send_latency(c.f, 0, 1, 7)
    fx.raft_fixture_set_network_latency(c.f, 0, 20)
    io = c.raft(0).io
    sent: list[int] = []
    io.send(io, RaftIoSend(), vote_request(), lambda req, status: sent.append(c.time))
    c.until_delivered(0, 1, 100)
    assert sent == [7]
    assert c.time == 27


def test_only_connected_links_can_be_saturated(new_cluster: NewCluster) -> None:
    """Saturating, or killing a server, over a cut link is an error of the test."""
    c = new_cluster(2).ready()
    fx.raft_fixture_disconnect(c.f, 0, 1)
    with pytest.raises(AssertionError, match="server 0 is not connected to server 1"):
        fx.raft_fixture_saturate(c.f, 0, 1)
    with pytest.raises(AssertionError, match="not connected"):
        fx.raft_fixture_kill(c.f, 1)


def test_a_killed_server_neither_ticks_nor_hears_and_its_disk_goes_on(new_cluster: NewCluster) -> None:
    """Killing stops ticks and saturates links, but what the disk has pending completes; reviving undoes it."""
    c = new_cluster(3).led()
    c.add_x(0)
    c.step(1)
    fx.raft_fixture_kill(c.f, 0)
    assert not fx.raft_fixture_alive(c.f, 0)
    assert fx.raft_fixture_leader_index(c.f) == 0
    heard = c.n_recv(0, RAFT_IO_REQUEST_VOTE)
    c.elapse(1000)
    assert c.raft(0).last_stored == 3
    assert c.n_recv(0, RAFT_IO_REQUEST_VOTE) == heard
    new_leader = c.until_leader(10000)
    assert new_leader != 0
    fx.raft_fixture_revive(c.f, 0)
    assert fx.raft_fixture_alive(c.f, 0)
    c.until_state(0, RAFT_FOLLOWER)


# Faults and the durable state.


def test_fault_countdowns_fail_one_call(new_cluster: NewCluster) -> None:
    """After `delay` good calls one call fails with RAFT_IOERR, and the next one works again."""
    c = new_cluster(2).ready()
    io = c.raft(0).io
    fx.raft_fixture_term_fault(c.f, 0, 1)
    assert [io.set_term(io, t) for t in (5, 6, 7)] == [0, RAFT_IOERR, 0]
    fx.raft_fixture_vote_fault(c.f, 0, 0)
    assert [io.set_vote(io, 2) for _ in range(2)] == [RAFT_IOERR, 0]
    fx.raft_fixture_send_fault(c.f, 0, 2)
    assert [io.send(io, RaftIoSend(), vote_request(), None) for _ in range(4)] == [0, 0, RAFT_IOERR, 0]
    fx.raft_fixture_send_fault(c.f, 0, 0)
    fx.raft_fixture_send_fault(c.f, 0, -1)
    assert io.send(io, RaftIoSend(), vote_request(), None) == 0
    assert fx.raft_fixture_voted_for(c.f, 0) == 2


def test_a_failed_append_stores_nothing_and_voids_the_ones_behind_it(new_cluster: NewCluster) -> None:
    """The fault counts when an append completes; later appends stand behind a hole, so they do not count either."""
    c = new_cluster(1)
    io = c.raft(0).io
    statuses: list[int] = []
    fx.raft_fixture_append_fault(c.f, 0, 1)
    for term in (1, 2, 3):
        io.append(io, RaftIoAppend(), [RaftEntry(term)], 1, lambda req, status: statuses.append(status))
    c.step(3)
    assert statuses == [0, RAFT_IOERR, 0]
    io.append(io, RaftIoAppend(), [RaftEntry(4)], 1, lambda req, status: statuses.append(status))
    c.step()
    assert [(e.term) for e in io.load(io)[5]] == [1, 4]


def test_a_truncation_holds_for_appends_on_their_way(new_cluster: NewCluster) -> None:
    """Truncating acts at once and orders before later appends, whatever is still being written."""
    c = new_cluster(1)
    io = c.raft(0).io
    io.append(io, RaftIoAppend(), [RaftEntry(1, 1, b"a"), RaftEntry(1, 1, b"b")], 2, lambda req, status: None)
    c.step()
    io.append(io, RaftIoAppend(), [RaftEntry(1, 1, b"c"), RaftEntry(1, 1, b"d")], 2, lambda req, status: None)
    assert io.truncate(io, 4) == 0
    io.append(io, RaftIoAppend(), [RaftEntry(2, 1, b"e")], 1, lambda req, status: None)
    c.step(2)
    _, _, _, _, start_index, entries = io.load(io)
    assert start_index == 1
    assert [e.buf for e in entries] == [b"a", b"b", b"c", b"e"]


def snapshot_of(index: int, term: int, conf: Any, *bufs: bytes) -> RaftSnapshot:
    snapshot = RaftSnapshot()
    snapshot.index = index
    snapshot.term = term
    snapshot.configuration = conf
    snapshot.configuration_index = 1
    snapshot.bufs = list(bufs)
    return snapshot


def test_a_local_snapshot_keeps_the_trailing_entries_and_what_follows(new_cluster: NewCluster) -> None:
    """Storing a snapshot drops entries up to index - trailing, and never one behind the snapshot."""
    c = new_cluster(1)
    io = c.raft(0).io
    entries = [RaftEntry(1, 1, b"%d" % i) for i in range(1, 7)]
    io.append(io, RaftIoAppend(), entries, 6, lambda req, status: None)
    c.step()
    for trailing, first in ((2, 3), (0, 5)):
        snapshot = snapshot_of(4, 1, c.configuration(), b"con", b"tent")
        assert io.snapshot_put(io, trailing, RaftIoSnapshotPut(), snapshot, lambda req, status: None) == 0
        assert event_of(fx.raft_fixture_step(c.f)) == (fx.RAFT_FIXTURE_DISK, 0)
        _, _, _, loaded, start_index, kept = io.load(io)
        assert loaded is not None
        assert loaded.bufs == [b"content"]
        assert start_index == first
        assert [e.buf for e in kept] == [b"%d" % i for i in range(first, 7)]


def test_a_snapshot_from_the_leader_replaces_the_log(new_cluster: NewCluster) -> None:
    """With trailing 0 and another history, all entries go and the next one follows the snapshot."""
    c = new_cluster(1)
    io = c.raft(0).io
    io.append(io, RaftIoAppend(), [RaftEntry(1), RaftEntry(1)], 2, lambda req, status: None)
    c.step()
    io.snapshot_put(io, 0, RaftIoSnapshotPut(), snapshot_of(9, 4, c.configuration(), b"x"), lambda req, status: None)
    c.step()
    io.append(io, RaftIoAppend(), [RaftEntry(5, 1, b"new")], 1, lambda req, status: None)
    c.step()
    _, _, _, snapshot, start_index, entries = io.load(io)
    assert snapshot is not None
    assert (snapshot.index, start_index) == (9, 10)
    assert [(e.term, e.buf) for e in entries] == [(5, b"new")]


def test_getting_a_snapshot_that_does_not_exist_fails(new_cluster: NewCluster) -> None:
    """Without a stored snapshot the callback gets RAFT_NOTFOUND and None."""
    c = new_cluster(1)
    io = c.raft(0).io
    got: list[Any] = []
    io.snapshot_get(io, RaftIoSnapshotGet(), lambda req, snapshot, status: got.append((snapshot, status)))
    c.step()
    assert got == [(None, RAFT_NOTFOUND)]
    fx.raft_fixture_set_snapshot(c.f, 0, snapshot_of(3, 2, c.configuration(), b"x"))
    io.snapshot_get(io, RaftIoSnapshotGet(), lambda req, snapshot, status: got.append((snapshot.index, status)))
    c.step()
    assert got[1] == (3, 0)


def test_a_server_is_bootstrapped_once(new_cluster: NewCluster) -> None:
    """A second bootstrap gives RAFT_CANTBOOTSTRAP, and recovering RAFT_IOERR."""
    c = new_cluster(1)
    c.bootstrap()
    assert fx.raft_fixture_bootstrap(c.f, c.configuration()) == RAFT_CANTBOOTSTRAP
    io = c.raft(0).io
    assert io.recover(io, c.configuration()) == RAFT_IOERR


def test_a_server_can_be_started_again_from_what_it_has_stored(new_cluster: NewCluster) -> None:
    """A new Raft on the table of a closed one loads its term, vote and entries, and ticks once per interval."""
    c = new_cluster(1).ready()
    c.add_x(0, 5)
    c.elapse(300)
    s = c.f.servers[0]
    raft_close(s.raft, None)
    s.raft = Raft()
    c.fsms[0] = fsms.PairFsm(2, False)
    assert raft_init(s.raft, s.io, c.fsms[0], 1, "1") == 0
    assert raft_start(s.raft) == 0
    assert raft_state(s.raft) == RAFT_LEADER
    c.elapse(200)
    assert c.fsms[0].x == 5
    ticks = 0
    begin = c.time
    while c.time < begin + 1000:
        ticks += event_of(fx.raft_fixture_step(c.f)) == (fx.RAFT_FIXTURE_TICK, 0)
    assert ticks == 10


def test_a_server_can_be_made_unavailable(new_cluster: NewCluster) -> None:
    """raft_fixture_make_unavailable is the end of that server; the others go on."""
    c = new_cluster(3).led()
    fx.raft_fixture_make_unavailable(c.f, 0)
    assert c.state(0) == RAFT_UNAVAILABLE
    c.until(lambda: RAFT_LEADER in c.states(), 10000)
    # It counts as alive and does not follow, so the new leader is not called stable until the server is dead.
    c.elapse(1000)
    assert c.leader is None
    fx.raft_fixture_kill(c.f, 0)
    assert c.until_leader(1000) != 0


# Leaders, checks, callbacks.


def test_a_leader_is_stable_when_all_members_follow_it(new_cluster: NewCluster) -> None:
    """A server that won but is not known yet does not count as a stable leader."""
    c = new_cluster(3).ready()
    c.until_state(0, RAFT_LEADER)
    assert (c.time, c.f.leader_id, fx.raft_fixture_leader_index(c.f)) == (1030, 0, 3)
    c.until_leader(100)
    assert (c.time, c.f.leader_id, fx.raft_fixture_leader_index(c.f)) == (1045, 1, 0)


def test_two_leaders_in_one_term_are_found(new_cluster: NewCluster) -> None:
    """Election Safety is checked after each step, dead servers included."""
    c = new_cluster(3).led()
    c.depose()
    c.elect(1)
    other, leader = c.f.servers[2].raft, c.f.servers[1].raft
    other.state, other.current_term = RAFT_LEADER, leader.current_term
    with pytest.raises(AssertionError, match=r"Election Safety: servers 2 and 3 both lead in term 3"):
        c.step()
    other.state = RAFT_FOLLOWER


@pytest.mark.parametrize(("index", "steps"), [(3, 1), (130, 5), (200, 1)])
def test_a_leader_that_changes_its_log_is_found(new_cluster: NewCluster, index: int, steps: int) -> None:
    """Leader Append-Only is checked after each step: at once near the end, a little later in the middle."""
    c = new_cluster(3).led()
    c.apply(0, *[fsms.add_x(1)] * 199)
    c.until_applied(3, 201, 2000)
    log = c.raft(0).log
    log.bufs[index - 1] = fsms.add_x(9)
    with pytest.raises(AssertionError, match=f"Leader Append-Only: server 1 changed entry {index} from"):
        c.step(steps + 7)


def test_a_leader_that_drops_entries_is_found(new_cluster: NewCluster) -> None:
    """A leader's log only grows."""
    c = new_cluster(3).led()
    c.progress()
    log = c.raft(0).log
    del log.bufs[-1], log.terms[-1], log.types[-1]
    with pytest.raises(AssertionError, match="Leader Append-Only: server 1 had entries up to 3 and has them up to 2"):
        c.step()


def test_the_copy_of_the_log_follows_compactions(new_cluster: NewCluster) -> None:
    """The check goes on while the leader takes snapshots, and the copy stays as short as the log."""
    c = new_cluster(3)
    c.compact_early(threshold=10, trailing=5)
    c.led()
    for _ in range(200):
        c.apply(0, fsms.add_x(1))
        c.step(20)
    assert c.raft(0).log.offset > 150
    assert len(c.f.log.bufs) < 100
    assert c.f.log.start + len(c.f.log.bufs) - 1 == c.last_index(0)
    assert c.f.commit_index == c.raft(0).commit_index


def test_an_exception_from_a_callback_comes_out_of_the_step(new_cluster: NewCluster) -> None:
    """It is raised after everything else that the step does, and changes nothing."""
    c = new_cluster(3).led()
    hooked: list[int] = []

    def fail(req: Any, status: int, result: Any) -> None:
        raise KeyError("mine")

    raft_apply(c.raft(0), RaftApply(), [fsms.add_x(1)], 1, fail)
    fx.raft_fixture_hook(c.f, lambda f, event: hooked.append(f.time))
    with pytest.raises(KeyError, match="mine"):
        c.elapse(1000)
    assert hooked[-1] == c.time
    c.progress()
    assert c.fsms[0].x == 2


def test_closing_completes_what_is_pending(new_cluster: NewCluster) -> None:
    """Every request has called back when raft_fixture_close returns; messages in flight are lost."""
    c = new_cluster(3).led()
    pending = [c.add_x(0) for _ in range(3)]
    fx.raft_fixture_close(c.f)
    assert all(p.done for p in pending)
    assert c.n == 0


def test_stepping_without_a_started_server_is_refused(new_cluster: NewCluster) -> None:
    """There is nothing that could happen."""
    c = new_cluster(2)
    with pytest.raises(AssertionError, match="no server was started"):
        c.step()


def test_a_fixture_has_eight_servers_at_most(new_cluster: NewCluster) -> None:
    """The ninth is refused."""
    c = new_cluster(8)
    with pytest.raises(AssertionError, match="at most 8 servers"):
        c.grow()
    assert c.n == 8
    assert c.n_recv(0, RAFT_IO_REQUEST_VOTE_RESULT) == 0

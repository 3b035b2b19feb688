"""The defects B48, B49, B52 and B53 of the C core: what depended on one number, or on the moment of a message.

B53 and B49 dropped messages while the server was busy, in B48 one index stood for two things, and B52 went back by one
entry a heartbeat. Each test fails when its repair is taken out; the labels are those of pyraft/DEVIATIONS.md.
"""

from typing import Any

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IOERR,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftApply,
    RaftMessage,
    RaftSnapshot,
    raft_apply,
    raft_close,
    raft_last_applied,
    raft_last_index,
    raft_set_election_timeout,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from pyraft.progress import PROGRESS__PROBE, PROGRESS__SNAPSHOT
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo, change, configuration, leader


def apply(s: Solo, n: int = 1) -> None:
    """Submit and store `n` commands, and have server 2 acknowledge all of the log."""
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)] * n, n, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, s.r.current_term, raft_last_index(s.r)))


def to(messages: list[RaftMessage], id: int) -> list[RaftMessage]:
    """Return the messages to server `id`."""
    return [m for m in messages if m.server_id == id]


def results(messages: list[RaftMessage]) -> list[tuple[int, int]]:
    """Return (rejected, last_log_index) of AppendEntriesResults."""
    answers = [m.append_entries_result for m in messages]
    return [(a.rejected, a.last_log_index) for a in answers if a is not None]


# B48: snapshots for a follower


def sending(newer: bool = False) -> Solo:
    """Return an idle leader that has decided to send server 3 its snapshot up to entry 5, its last one.

    With `newer` it takes another one, up to 7, before that is read.
    """
    s = leader()
    raft_set_snapshot_threshold(s.r, 3)
    raft_set_snapshot_trailing(s.r, 0)
    apply(s, 3)
    s.io.finish_put()
    s.recv(msg.append_entries_result(3, 2, 0, rejected=2))
    s.tick()
    p = s.r.leader_state.progress[2]
    assert (p.state, p.snapshot_index, len(s.io.gets)) == (PROGRESS__SNAPSHOT, 5, 1)
    if newer:
        apply(s, 3)
        s.io.finish_put()
        assert raft_last_index(s.r) == 8
    s.sent()
    return s


def test_b48_heartbeats_beside_a_snapshot_say_nothing_about_its_last_entry() -> None:
    """They have no predecessor, entries or commit index: nothing could be refused, and so be taken for its refusal."""
    s = sending()
    s.io.finish_get()
    s.sent()
    for _ in range(5):
        s.tick()
        (heartbeat,) = to(s.sent(), 3)
        args = heartbeat.append_entries
        assert args is not None
        assert (args.prev_log_index, args.prev_log_term, args.leader_commit, len(args.entries)) == (0, 0, 0, 0)
        s.recv(msg.append_entries_result(3, 2, 0))
        s.recv(msg.append_entries_result(2, 2, 5))
        assert s.r.leader_state.progress[2].match_index == 0
    assert s.io.gets == []
    assert s.r.leader_state.progress[2].state == PROGRESS__SNAPSHOT
    apply(s)
    s.sent()
    s.tick()
    (heartbeat,) = to(s.sent(), 3)
    assert heartbeat.append_entries is not None
    assert (heartbeat.append_entries.prev_log_index, heartbeat.append_entries.leader_commit) == (6, 6)
    s.recv(msg.append_entries_result(3, 2, 0, rejected=6))
    assert s.r.leader_state.progress[2].state == PROGRESS__SNAPSHOT


def test_b48_after_the_timeout_the_heartbeat_is_an_ordinary_one() -> None:
    """The leader probes again, with its last entry as the predecessor, as in C."""
    s = sending()
    s.io.finish_get()
    s.sent()
    raft_set_election_timeout(s.r, 10**9)
    s.tick(s.r.install_snapshot_timeout)
    (heartbeat,) = to(s.sent(), 3)
    assert heartbeat.append_entries is not None
    assert (heartbeat.append_entries.prev_log_index, heartbeat.append_entries.leader_commit) == (5, 5)
    assert s.r.leader_state.progress[2].state == PROGRESS__PROBE


def test_b48_follower_neither_commits_nor_claims_anything_for_such_a_heartbeat() -> None:
    """This is so for any content of its log: nothing of it has been shown to match."""
    s = Solo(terms=[1, 1])
    s.recv(msg.append_entries(2, 2, 0, 0, 0))
    assert results(s.sent()) == [(0, 0)]
    assert (s.r.commit_index, raft_last_index(s.r)) == (1, 3)


@pytest.mark.parametrize("newer", [False, True])
def test_b48_a_refused_snapshot_is_noticed_by_the_index_that_was_sent(newer: bool) -> None:
    """That of the decision does not tell: the leader may have taken another one before it was read."""
    s = sending(newer)
    s.io.finish_get()
    (message,) = [m for m in s.sent() if m.type == RAFT_IO_INSTALL_SNAPSHOT]
    args = message.install_snapshot
    assert args is not None
    assert args.last_index == (8 if newer else 5)
    p = s.r.leader_state.progress[2]
    if newer:
        s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
        assert p.state == PROGRESS__SNAPSHOT
    s.recv(msg.append_entries_result(3, 2, 0, rejected=args.last_index))
    s.tick()
    assert len(s.io.gets) == 1, "it is read again"


def test_b48_a_newer_snapshot_is_done_when_it_is_acknowledged() -> None:
    """Less than what was sent does not end the mode, and the leader goes on behind it."""
    s = sending(newer=True)
    s.io.finish_get()
    p = s.r.leader_state.progress[2]
    s.recv(msg.append_entries_result(3, 2, 5))
    assert p.state == PROGRESS__SNAPSHOT
    s.recv(msg.append_entries_result(3, 2, 8))
    assert (p.state, p.next_index) == (PROGRESS__PROBE, 9)


def test_b48_heartbeats_under_way_before_the_snapshot_do_not_count() -> None:
    """Server 3 was up to date and comes back empty: it refuses three heartbeats that were sent before the decision."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 3)
    raft_set_snapshot_trailing(s.r, 0)
    s.recv(msg.append_entries_result(3, 2, 2))
    apply(s, 3)
    s.io.finish_put()
    s.recv(msg.append_entries_result(3, 2, 5))
    p = s.r.leader_state.progress[2]
    for _ in range(4):
        s.tick()
    # Its acknowledgments are void; a rejection above that leads to the snapshot.
    p.match_index = 2
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    s.tick()
    assert (p.state, p.snapshot_index) == (PROGRESS__SNAPSHOT, 5)
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    s.io.finish_get()
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    assert (p.state, s.io.gets) == (PROGRESS__SNAPSHOT, [])
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    assert p.state == PROGRESS__PROBE, "the fifth is the snapshot's"


def test_b48_answers_to_earlier_heartbeats_that_are_lost_are_not_waited_for() -> None:
    """The answer to a heartbeat beside the snapshot comes after all of them."""
    s = sending()
    p = s.r.leader_state.progress[2]
    p.streamed, p.streamed_index = 7, 5
    s.io.finish_get()
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 0))
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    assert p.state == PROGRESS__PROBE


@pytest.mark.parametrize(("delay", "refused"), [(29, False), (31, True)])
def test_b48_the_first_heartbeat_beside_the_snapshot_tells_whose_rejection_it_was(delay: int, refused: bool) -> None:
    """It takes 30 ms to be answered. A rejection that comes later than that after the snapshot was sent is the
    snapshot's."""
    s = sending()
    p = s.r.leader_state.progress[2]
    p.streamed, p.streamed_index = 7, 5
    s.io.finish_get()
    s.io.now += delay
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    assert p.state == PROGRESS__SNAPSHOT
    s.tick(100 - delay)
    s.io.now += 30
    s.recv(msg.append_entries_result(3, 2, 0))
    assert p.state == (PROGRESS__PROBE if refused else PROGRESS__SNAPSHOT)
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 0))
    s.tick()
    assert len(s.io.gets) == (1 if refused else 0)


def test_b48_the_acknowledgment_of_the_snapshot_settles_it() -> None:
    """A rejection that came before was not the snapshot's, however late it was."""
    s = sending()
    p = s.r.leader_state.progress[2]
    p.streamed, p.streamed_index = 7, 5
    s.io.finish_get()
    s.tick()
    s.io.now += 50
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    s.recv(msg.append_entries_result(3, 2, 5))
    assert (p.state, p.match_index, p.next_index) == (PROGRESS__PROBE, 5, 6)


@pytest.mark.parametrize("newer", [False, True])
def test_b48_a_refused_snapshot_is_sent_again_soon(newer: bool) -> None:
    """A whole cluster whose leader is idle, and whose follower was away: heartbeats to it have been lost."""
    c = Cluster(3).led()
    c.compact_early(threshold=5, trailing=0)
    c.until_applied(2, 2, 2000)
    c.kill(2)
    while c.raft(0).log.snapshot.last_index == 0:
        c.until_done(c.add_x(0))
        c.elapse(100)
    c.elapse(1000)
    if newer:
        c.until_done(c.add_x(0))
    c.revive(2)
    io = c.raft(2).io
    refused: list[int] = []
    put = io.snapshot_put

    def refuse_once(io: Any, trailing: int, req: Any, snapshot: RaftSnapshot, cb: Any) -> Any:
        if refused:
            return put(io, trailing, req, snapshot, cb)
        refused.append(snapshot.index)
        return put(io, trailing, req, snapshot, lambda req, status: cb(req, RAFT_IOERR))

    io.snapshot_put = refuse_once
    c.until_applied(2, raft_last_index(c.raft(0)), 2000)
    assert len(refused) == 1


def test_b48_an_idle_leader_sends_its_snapshot_once() -> None:
    """In a whole cluster the snapshot travels for longer than many heartbeats."""
    c = Cluster(3).led()
    c.compact_early(threshold=5)
    c.cut(0, 2)
    while c.raft(0).snapshot.put is None or raft_last_index(c.raft(0)) != raft_last_applied(c.raft(0)):
        c.until_done(c.add_x(0))
    c.elapse(1000)
    c.heal(0, 2)
    c.until(lambda: c.n_send(0, RAFT_IO_INSTALL_SNAPSHOT) > 0, 2000)
    c.set_disk_latency(2, 2000)
    c.until_applied(2, raft_last_index(c.raft(0)), 20000)
    c.elapse(5000)
    assert c.n_send(0, RAFT_IO_INSTALL_SNAPSHOT) == 1


# B49: TimeoutNow during writes


def writing() -> Solo:
    """Return a follower of server 2 in term 2 that is writing entries 2 and 3, one write each, and is to take over."""
    s = Solo()
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([2])))
    s.recv(msg.append_entries(2, 2, 2, 2, 1, msg.commands([2])))
    s.recv(msg.timeout_now(2, 2, 3, 2))
    assert s.state == RAFT_FOLLOWER
    s.sent()
    return s


def test_b49_timeout_now_waits_for_the_last_write() -> None:
    """It waits for its answer too, which goes out in the old term; then the election begins, without a pre-vote."""
    s = writing()
    s.r.pre_vote = True
    s.io.finish_append()
    assert (s.state, results(s.sent())) == (RAFT_FOLLOWER, [(0, 2)])
    s.io.finish_append()
    assert (s.state, s.r.current_term) == (RAFT_CANDIDATE, 3)
    first, *votes = s.sent()
    assert first.append_entries_result is not None
    assert (first.append_entries_result.term, first.append_entries_result.last_log_index) == (2, 3)
    asked = [m.request_vote for m in votes]
    assert [(v.disrupt_leader, v.pre_vote, v.last_log_index) for v in asked if v is not None] == [(True, False, 3)] * 2


def test_b49_it_is_obeyed_once() -> None:
    """A later write does not find it again."""
    s = writing()
    s.io.finish_appends()
    s.recv(msg.append_entries(3, 3, 3, 2, 3, msg.commands([3])))
    assert s.state == RAFT_FOLLOWER
    s.io.finish_appends()
    assert s.state == RAFT_FOLLOWER


@pytest.mark.parametrize(
    "what",
    [
        "more entries",
        "other leader",
        "impostor",
        "other term",
        "conflict",
        "failed write",
        "demoted",
        "last write fails",
    ],
)
def test_b49_it_is_void_when_something_has_changed(what: str) -> None:
    """The sender must still lead in the same term, and the last entry must still be the one named."""
    s = writing()
    if what == "more entries":
        s.recv(msg.append_entries(2, 2, 3, 2, 1, msg.commands([2])))
    elif what == "other leader":
        s.recv(msg.append_entries(3, 3, 3, 2))
    elif what == "impostor":
        s.recv(msg.append_entries(3, 2, 3, 2))
    elif what == "other term":
        s.recv(msg.request_vote(3, 3, 3, 2, disrupt=True))
    elif what == "conflict":
        s.recv(msg.append_entries(2, 2, 2, 2, 1, msg.commands([1])))
    elif what == "demoted":
        s = Solo()
        demotion = change(2, configuration(RAFT_STANDBY, RAFT_VOTER, RAFT_VOTER))
        s.recv(msg.append_entries(2, 2, 1, 1, 1, [demotion]))
        s.recv(msg.timeout_now(2, 2, 2, 2))
    elif what == "failed write":
        s.io.finish_append(RAFT_IOERR)
    else:
        s.io.finish_append()
        s.io.finish_append(RAFT_IOERR)
    term = s.r.current_term
    s.io.finish_appends()
    s.tick()
    assert (s.state, s.r.current_term) == (RAFT_FOLLOWER, term)


def test_b49_the_last_of_several_counts() -> None:
    """An earlier one was for a shorter log."""
    s = Solo()
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([2])))
    s.recv(msg.timeout_now(2, 2, 2, 2))
    s.recv(msg.append_entries(2, 2, 2, 2, 1, msg.commands([2])))
    s.recv(msg.timeout_now(2, 2, 3, 2))
    s.io.finish_append()
    assert s.state == RAFT_FOLLOWER
    s.io.finish_append()
    assert s.state == RAFT_CANDIDATE


@pytest.mark.parametrize("store", ["set_term", "set_vote"])
def test_b49_a_store_that_fails_then_stops_the_server(store: str) -> None:
    """It does as when the message is obeyed at once."""
    s = writing()
    s.io.fail(store, RAFT_IOERR)
    s.io.finish_appends()
    assert s.state == RAFT_UNAVAILABLE


def test_b49_server_that_closes_meanwhile_does_not_stand() -> None:
    """Its writes end, and that is all."""
    s = writing()
    raft_close(s.r, None)
    s.io.finish_appends()
    assert s.state == RAFT_UNAVAILABLE
    assert s.sent() == []


# B52: a follower with a conflicting log


def test_b52_a_long_conflict_is_over_after_a_few_heartbeats() -> None:
    """An old leader comes back with 1,000 entries of its own: some ten messages lead to where the logs part."""
    c = Cluster(3).led()
    c.until_applied(2, 2, 2000)
    c.isolate(0)
    for _ in range(125):
        c.apply(0, *[fsms.add_x(1)] * 8)
    c.until_state(0, RAFT_FOLLOWER, 5000)
    leader = c.until_leader(10000)
    c.until_done(c.apply(leader, fsms.set_x(7)))
    assert raft_last_index(c.raft(0)) == 1002
    for _ in range(130):
        c.until_done(c.apply(leader, *[fsms.add_x(1)] * 8))
    c.rejoin(0)
    start, sent = c.time, c.n_recv(0, RAFT_IO_APPEND_ENTRIES)
    c.until_applied(0, raft_last_index(c.raft(leader)), 10000)
    assert c.time - start < 5000
    assert c.n_recv(0, RAFT_IO_APPEND_ENTRIES) - sent < 25
    assert len({fsm.x for fsm in c.fsms}) == 1


# B53: a snapshot of the leader's beside an own one


def storing(version: int = 1) -> Solo:
    """Return a follower of server 2 in term 2 that is storing a snapshot of its own, up to entry 3."""
    s = Solo(terms=[2, 2], term=2, fsm=fsms.PairFsm(version, version == 3))
    raft_set_snapshot_threshold(s.r, 2)
    raft_set_snapshot_trailing(s.r, 0)
    s.recv(msg.append_entries(2, 2, 3, 2, 3))
    assert s.r.snapshot.pending is not None
    s.sent()
    return s


def snapshot(s: Solo, index: int, src: int = 2, term: int = 2, x: int = 7) -> RaftMessage:
    """Return an InstallSnapshot of server `src` up to `index`."""
    return msg.install_snapshot(src, term, index, 2, s.conf, 1, fsms.content(x, 0))


@pytest.mark.parametrize("status", [0, RAFT_IOERR])
def test_b53_the_leaders_snapshot_waits_for_the_own_one(status: int) -> None:
    """It is installed and answered when that is stored, or has failed: without another message of the leader."""
    s = storing()
    s.recv(snapshot(s, 9))
    assert s.sent() == []
    s.io.finish_put(status)
    assert (raft_last_index(s.r), len(s.io.puts)) == (9, 1)
    s.io.finish_put()
    assert results(s.sent()) == [(0, 9)]
    assert s.fsm.x == 7
    s.recv(msg.append_entries(2, 2, 9, 2, 9))
    assert results(s.sent()) == [(0, 9)]


def test_b53_a_snapshot_that_is_taken_in_a_thread_is_waited_for_too() -> None:
    """The wait ends when it is stored, or could not be taken."""
    for failing in (False, True):
        s = storing(version=3)
        s.recv(snapshot(s, 9))
        s.io.finish_work(RAFT_IOERR if failing else None)
        if not failing:
            assert raft_last_index(s.r) == 3
            s.io.finish_put()
        assert raft_last_index(s.r) == 9


def test_b53_the_last_one_is_kept() -> None:
    """The leader may have sent a newer one meanwhile."""
    s = storing()
    s.recv(snapshot(s, 9))
    s.recv(snapshot(s, 12, x=8))
    s.io.finish_put()
    s.io.finish_put()
    assert (raft_last_index(s.r), s.fsm.x, s.io.puts) == (12, 8, [])
    assert results(s.sent()) == [(0, 12)]


def test_b53_one_that_has_become_superfluous_is_acknowledged_at_once() -> None:
    """The own snapshot covers it."""
    s = storing()
    s.recv(snapshot(s, 3))
    s.io.finish_put()
    assert results(s.sent()) == [(0, 3)]
    assert s.io.puts == []


@pytest.mark.parametrize("what", ["other leader", "impostor", "other term", "candidate", "unavailable"])
def test_b53_one_of_a_leader_that_is_gone_is_dropped(what: str) -> None:
    """Its sender must be the leader known, in the same term."""
    s = storing()
    s.recv(snapshot(s, 9))
    if what == "other leader":
        s.recv(msg.append_entries(3, 3, 3, 2))
    elif what == "impostor":
        s.recv(msg.append_entries(3, 2, 3, 2))
    elif what == "other term":
        s.recv(msg.request_vote(3, 3, 3, 2, disrupt=True))
    elif what == "candidate":
        s.tick(5000)
        assert s.state == RAFT_CANDIDATE
    else:
        s.io.fail("send", RAFT_IOERR)
        s.recv(msg.append_entries(2, 2, 3, 2))
        assert s.state == RAFT_UNAVAILABLE
    s.sent()
    s.io.finish_put()
    assert raft_last_index(s.r) == 3
    assert s.r.snapshot.afterwards is None
    assert (s.io.puts, s.sent()) == ([], [])


def test_b53_one_that_comes_again_while_it_is_installed_is_dropped() -> None:
    """C drops it too. The answer to the one under way is the answer to it, too."""
    s = storing()
    s.recv(snapshot(s, 9))
    s.io.finish_put()
    s.recv(snapshot(s, 9))
    s.io.finish_put()
    assert (raft_last_index(s.r), s.io.puts, results(s.sent())) == (9, [], [(0, 9)])


@pytest.mark.parametrize("status", [0, RAFT_IOERR])
def test_b53_a_newer_one_waits_for_the_one_that_is_installed(status: int) -> None:
    """Leaders send one when a connection had broken meanwhile. The answer to the older one is not what they need."""
    s = storing()
    s.recv(snapshot(s, 9))
    s.io.finish_put()
    s.recv(snapshot(s, 12, x=8))
    s.io.finish_put(status)
    assert results(s.sent()) == [(0, 9) if status == 0 else (9, 3)]
    s.io.finish_put()
    assert (raft_last_index(s.r), s.fsm.x, s.io.puts, results(s.sent())) == (12, 8, [], [(0, 12)])


def test_b53_a_disk_that_is_busy_is_no_own_snapshot() -> None:
    """RAFT_BUSY from io.snapshot_put for the leader's snapshot keeps nothing back."""
    s = Solo(terms=[2], term=2)
    s.io.fail("snapshot_put", RAFT_BUSY)
    s.recv(snapshot(s, 9))
    assert raft_last_index(s.r) == 2
    assert s.r.snapshot.afterwards is None
    assert s.state == RAFT_FOLLOWER


def test_b53_an_installation_that_fails_late_stops_the_server_or_is_refused() -> None:
    """The consequences are those of any installation."""
    s = storing()
    s.recv(snapshot(s, 9))
    s.io.finish_put()
    s.io.finish_put(RAFT_IOERR)
    assert results(s.sent()) == [(9, 3)]
    s = storing()
    s.recv(snapshot(s, 9))
    s.io.fail("snapshot_put", RAFT_IOERR)
    s.io.finish_put()
    assert s.state == RAFT_UNAVAILABLE


# Others of these kinds


def test_change_that_comes_again_takes_effect_with_its_own_write() -> None:
    """Two changes were sent, the first write fails, both come again, one message each.

    The second write of the first time is of an entry that has left the log since, though its copy is there.
    """
    s = Solo()
    older = change(1, configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY))
    newer = change(1, configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_VOTER))
    for index, entry in ((2, older), (3, newer)):
        s.recv(msg.append_entries(2, 1, index - 1, 1, 1, [entry]))
    s.io.finish_append(RAFT_IOERR)
    for index, entry in ((2, older), (3, newer)):
        s.recv(msg.append_entries(2, 1, index - 1, 1, 1, [entry]))
    for roles, indexes, stored in (([], (1, 0), 1), ([RAFT_STANDBY], (1, 2), 2), ([RAFT_VOTER], (2, 3), 3)):
        s.io.finish_append()
        assert [server.role for server in s.r.configuration.servers[3:]] == roles
        assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == indexes
        assert s.r.last_stored == stored


def test_stand_by_that_has_just_heard_its_leader_does_not_doubt_it() -> None:
    """However many candidates ask within the leader's time: patience is for a leader that has been silent."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER, RAFT_VOTER)
    s.recv(msg.append_entries(2, 1, 1, 1, 1))
    s.sent()
    for term in range(2, 3 + 4 * s.r.vote_patience):
        s.recv(msg.request_vote(3, term, 9, term))
        s.recv(msg.request_vote(3, term, 9, term, pre_vote=True))
    votes = [m.request_vote_result for m in s.sent()]
    assert not any(v.vote_granted for v in votes if v is not None)
    assert (s.r.current_term, s.r.votes_withheld) == (1, 0)
    s.tick(999)
    s.recv(msg.request_vote(3, 500, 9, 499))
    assert s.r.votes_withheld == 0


def test_voter_does_not_doubt_its_leader_but_stands() -> None:
    """Its own clock tells it when the leader has been silent for too long; others cannot talk it into that."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1))
    s.sent()
    s.io.now += 5000
    for term in range(2, 3 + 4 * s.r.vote_patience):
        s.recv(msg.request_vote(3, term, 9, term))
    assert (s.r.current_term, s.r.votes_withheld) == (1, 0)
    s.tick()
    assert s.state == RAFT_CANDIDATE

"""The rules of the Raft dissertation that the library implements, continued: chapters 4, 5, 6, 9 and 10."""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_CANTCHANGE,
    RAFT_FOLLOWER,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_LEADER,
    RAFT_NOCONNECTION,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftApply,
    RaftChange,
    flags,
    raft_add,
    raft_apply,
    raft_assign,
    raft_errmsg,
    raft_last_index,
    raft_leader,
    raft_remove,
    raft_set_max_append_bytes,
    raft_set_max_catch_up_rounds,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo, Statuses, change, command, configuration, leader

NewCluster = Callable[..., Cluster]


# Chapter 4: membership


def test_4_1_configuration_counts_from_the_log_on() -> None:
    """A leader uses a configuration when it appends it, a follower when it has stored it, committed or not."""
    s = leader()
    done = Statuses()
    assert raft_remove(s.r, RaftChange(), 3, done) == 0
    assert [x.id for x in s.r.configuration.servers] == [1, 2]
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (1, 3)
    s.io.finish_appends()
    assert s.r.commit_index == 2
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.r.commit_index == 3
    assert done.seen == [0]

    follower = Solo()
    new = configuration(RAFT_VOTER, RAFT_VOTER)
    follower.recv(msg.append_entries(2, 1, 1, 1, 1, [change(1, new)]))
    assert follower.r.configuration.n == 3
    follower.io.finish_appends()
    assert follower.r.configuration.n == 2
    assert (follower.r.configuration_committed_index, follower.r.configuration_uncommitted_index) == (1, 2)


def test_4_1_one_change_at_a_time() -> None:
    """A second change is refused until the first is committed."""
    s = leader()
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    assert raft_add(s.r, RaftChange(), 4, "4", None) == RAFT_CANTCHANGE
    s.io.finish_appends()
    assert raft_add(s.r, RaftChange(), 4, "4", None) == RAFT_CANTCHANGE
    s.recv(msg.append_entries_result(2, 2, 3))
    assert raft_add(s.r, RaftChange(), 4, "4", None) == 0


def test_4_1_truncated_change_falls_back() -> None:
    """A follower whose CHANGE entry is deleted goes back to the configuration before it."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [change(1, configuration(RAFT_VOTER, RAFT_VOTER))]))
    s.io.finish_appends()
    assert s.r.configuration.n == 2
    s.recv(msg.append_entries(3, 2, 1, 1, 1, msg.commands([2])))
    assert s.r.configuration.n == 3
    assert s.r.configuration_uncommitted_index == 0


def test_4_1_failed_change_falls_back_on_the_leader() -> None:
    """A leader that cannot store its CHANGE entry goes back to the configuration before it (B4)."""
    s = leader()
    done = Statuses()
    assert raft_remove(s.r, RaftChange(), 3, done) == 0
    s.io.finish_append(18)
    assert s.state == RAFT_FOLLOWER
    assert s.r.configuration.n == 3
    assert s.r.configuration_uncommitted_index == 0
    assert len(done.seen) == 1


def test_4_2_1_new_server_catches_up_before_it_votes() -> None:
    """A promoted spare is replicated to at once, and becomes a voter only when it has the whole log."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    s.io.now += 1000
    done = Statuses()
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, done) == 0
    assert [m.server_id for m in s.sent()] == [3]
    assert s.r.configuration.servers[2].role == RAFT_SPARE
    s.recv(msg.append_entries_result(3, 2, 2))
    assert s.r.configuration.servers[2].role == RAFT_VOTER
    s.io.finish_appends()
    assert done.seen == []
    s.recv(msg.append_entries_result(3, 2, 3))
    assert done.seen == [0]
    assert s.r.leader_state.promotee_id == 0


def test_4_2_1_rounds() -> None:
    """A round replicates what the log held at its start; one shorter than an election timeout ends the catch-up."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    state = s.r.leader_state
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, None) == 0
    assert (state.round_number, state.round_index) == (1, 2)
    command(s)
    s.io.finish_appends()
    for _ in range(10):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 3))
    s.recv(msg.append_entries_result(3, 2, 2))
    assert (state.round_number, state.round_index) == (2, 3)
    command(s)
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 3))
    assert state.promotee_id == 0, "the second round was short, although entry 4 is still missing"
    assert s.r.configuration.servers[2].role == RAFT_VOTER


def test_4_2_1_slow_server_is_given_up() -> None:
    """After the last round, if it takes too long, the promotion fails and the server stays what it was."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    raft_set_max_catch_up_rounds(s.r, 1)
    done = Statuses()
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, done) == 0
    for _ in range(10):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 2))
    assert done.seen == []
    s.tick()
    assert done.seen == [RAFT_NOCONNECTION]
    assert s.r.configuration.servers[2].role == RAFT_SPARE
    assert s.state == RAFT_LEADER


def test_4_2_2_leader_that_removes_itself() -> None:
    """It does not count itself in majorities, steps down when the change is committed, and then knows no leader."""
    s = leader()
    done = Statuses()
    assert raft_remove(s.r, RaftChange(), 1, done) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.state == RAFT_LEADER, "one of two voters is no majority"
    assert s.r.commit_index == 2
    s.recv(msg.append_entries_result(3, 2, 3))
    assert s.r.commit_index == 3
    assert s.state == RAFT_FOLLOWER
    assert done.seen == [0]
    assert raft_leader(s.r) == (0, None)
    s.tick(5000)
    assert s.state == RAFT_FOLLOWER, "it is no voter any more"


def test_4_2_3_server_with_a_leader_refuses_votes() -> None:
    """A follower that knows its leader refuses, and does not even adopt the term; so does the leader itself."""
    follower = Solo()
    follower.recv(msg.append_entries(2, 1, 1, 1))
    follower.sent()
    for s in (follower, leader()):
        term = s.r.current_term
        s.recv(msg.request_vote(3, term + 5, 99, term))
        result = s.reply().request_vote_result
        assert not result.vote_granted
        assert result.term == s.r.current_term == term


def test_4_2_3_transfer_may_disrupt() -> None:
    """A request with the disrupt flag is looked at also by a server that knows a leader."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1))
    s.sent()
    s.recv(msg.request_vote(3, 2, 1, 1, disrupt=True))
    assert s.reply().request_vote_result.vote_granted
    assert (s.io.term, s.io.vote) == (2, 3)


def test_4_stand_bys_and_spares_neither_vote_nor_stand() -> None:
    """A server without a vote grants none and never becomes candidate."""
    for role in (RAFT_STANDBY, RAFT_SPARE):
        s = Solo(role, RAFT_VOTER, RAFT_VOTER)
        s.recv(msg.request_vote(2, 2, 9, 1))
        assert not s.reply().request_vote_result.vote_granted
        s.tick(10000)
        assert s.state == RAFT_FOLLOWER


# Chapter 5: log compaction


def compacted() -> Solo:
    """Return a leader whose snapshot covers entries 1 to 5, with one of them left in the log."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 4)
    raft_set_snapshot_trailing(s.r, 1)
    for _ in range(3):
        command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 5))
    assert s.r.last_applied == 5
    s.io.finish_put()
    s.sent()
    return s


def test_5_1_snapshot_replaces_what_it_covers() -> None:
    """A snapshot carries the last entry's index and term and the configuration; the entries that it covers leave the
    log.
    """
    s = compacted()
    snapshot = s.io.stored_snapshot
    assert (snapshot.index, snapshot.term, snapshot.configuration_index) == (5, 2, 1)
    assert [x.id for x in snapshot.configuration.servers] == [1, 2, 3]
    assert b"".join(snapshot.bufs) == fsms.content(3, 0)
    assert s.r.log.offset == 4


def test_5_1_snapshot_holds_committed_entries_only() -> None:
    """A snapshot ends at last_applied, whatever follows in the log."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 3)
    for _ in range(4):
        command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 4))
    assert [put[2].index for put in s.io.puts] == [4]
    assert raft_last_index(s.r) == 6


def test_5_1_slow_follower_is_sent_a_snapshot() -> None:
    """A follower that needs a compacted entry is sent the snapshot, and then the entries behind it."""
    s = compacted()
    s.recv(msg.append_entries_result(3, 2, 1, rejected=2))
    s.recv(msg.append_entries_result(3, 2, 1))
    s.tick()
    s.sent()
    s.io.finish_get()
    (m,) = [m for m in s.sent() if m.type == RAFT_IO_INSTALL_SNAPSHOT]
    args = m.install_snapshot
    assert m.server_id == 3
    assert (args.term, args.last_index, args.last_term, args.conf_index) == (2, 5, 2, 1)
    assert bytes(args.data) == fsms.content(3, 0)
    command(s)
    s.recv(msg.append_entries_result(3, 2, 5))
    s.tick()
    sent = [m.append_entries for m in s.sent() if m.server_id == 3 and m.append_entries is not None]
    assert (sent[-1].prev_log_index, sent[-1].n_entries) == (5, 1)


def test_5_1_follower_restores_a_snapshot() -> None:
    """The snapshot is stored, restores the FSM and the configuration, and replaces the log."""
    s = Solo(terms=[1, 1])
    conf = configuration(RAFT_VOTER, RAFT_VOTER)
    s.recv(msg.install_snapshot(2, 2, 9, 2, conf, 7, fsms.content(4, 5)))
    (_req, trailing, stored, _cb) = s.io.puts[0]
    assert (trailing, stored.index, stored.term, stored.configuration_index) == (0, 9, 2, 7)
    assert s.fsm.restored == []
    s.io.finish_put()
    assert s.fsm.restored == [(4, 5)]
    assert (s.r.last_applied, s.r.commit_index, s.r.last_stored, raft_last_index(s.r)) == (9, 9, 9, 9)
    assert s.r.configuration.n == 2
    assert s.r.configuration_committed_index == 7
    assert s.reply().append_entries_result.last_log_index == 9


def test_5_1_snapshot_of_known_entries_is_no_news() -> None:
    """If the follower's log has the snapshot's last entry, it acknowledges it and keeps its log."""
    s = Solo(terms=[1, 1, 1])
    s.recv(msg.install_snapshot(2, 1, 3, 1, s.conf, 1, fsms.content(4, 5)))
    assert s.io.puts == []
    assert s.reply().append_entries_result.last_log_index == 3
    assert raft_last_index(s.r) == 4
    s.recv(msg.install_snapshot(2, 2, 3, 2, s.conf, 1, fsms.content(4, 5)))
    assert len(s.io.puts) == 1, "of another term it is news (B9)"


def test_5_1_failed_installation_keeps_the_log() -> None:
    """If the snapshot cannot be stored the follower refuses it and has its old log again (B6)."""
    s = Solo(terms=[1, 1, 1])
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(4, 5)))
    s.io.finish_put(18)
    result = s.reply().append_entries_result
    assert (result.rejected, result.last_log_index) == (9, 4)
    assert (raft_last_index(s.r), s.r.last_stored) == (4, 4)
    assert s.fsm.restored == []


# Chapter 6: clients


def test_6_2_leader_steps_down_without_a_majority() -> None:
    """A leader that has not heard from a majority of voters for an election timeout becomes follower."""
    s = leader(*[RAFT_VOTER] * 5)
    for _ in range(10):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 2))
        s.recv(msg.append_entries_result(3, 2, 2))
    assert s.state == RAFT_LEADER
    for _ in range(20):
        s.tick()
        if s.state != RAFT_LEADER:
            break
        s.recv(msg.append_entries_result(2, 2, 2))
    assert s.state == RAFT_FOLLOWER
    assert s.r.current_term == 2


def test_6_2_contact_with_stand_bys_does_not_count() -> None:
    """Only voters count in the check."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    for _ in range(20):
        s.tick()
        if s.state != RAFT_LEADER:
            break
        s.recv(msg.append_entries_result(4, 2, 2))
    assert s.state == RAFT_FOLLOWER


# Chapter 9: elections, pre-vote


def pre_voter() -> Solo:
    """Return a server with pre-vote on and two entries."""
    s = Solo(terms=[1])
    raft_set_pre_vote(s.r, True)
    return s


def test_9_6_pre_vote_changes_nothing_on_disk() -> None:
    """Asking for and granting pre-votes stores neither term nor vote, and restarts no clock."""
    s = pre_voter()
    s.tick(1000)
    assert s.state == RAFT_CANDIDATE
    assert s.io.names() == ["send", "send"]
    assert [(m.request_vote.term, m.request_vote.pre_vote) for m in s.sent()] == [(2, True)] * 2
    voter = Solo(terms=[1])
    voter.tick(900)
    voter.recv(msg.request_vote(2, 2, 2, 1, pre_vote=True))
    result = voter.reply().request_vote_result
    assert (result.vote_granted, result.pre_vote, result.term) == (True, True, 2)
    assert (voter.io.term, voter.io.vote) == (1, 0)
    voter.recv(msg.request_vote(3, 2, 2, 1, pre_vote=True))
    assert voter.reply().request_vote_result.vote_granted, "a pre-vote binds nobody"
    voter.tick(100)
    assert voter.state == RAFT_CANDIDATE


def test_9_6_real_election_follows_a_won_pre_vote() -> None:
    """A majority of pre-votes starts the real election; pre-votes do not count in it."""
    s = pre_voter()
    s.stand()
    s.recv(msg.request_vote_result(2, 2, pre_vote=True))
    assert s.state == RAFT_CANDIDATE
    assert (s.io.term, s.io.vote) == (2, 1)
    requests = [m.request_vote for m in s.sent() if m.type == RAFT_IO_REQUEST_VOTE]
    assert [(a.term, a.pre_vote) for a in requests] == [(2, False)] * 2
    s.recv(msg.request_vote_result(3, 2, pre_vote=True))
    assert s.state == RAFT_CANDIDATE
    s.recv(msg.request_vote_result(3, 2))
    assert s.state == RAFT_LEADER


def test_9_6_pre_vote_needs_an_up_to_date_log_and_no_leader() -> None:
    """A pre-vote is refused to an older log, and by servers that know a leader."""
    s = Solo(terms=[1, 1])
    s.recv(msg.request_vote(2, 2, 1, 1, pre_vote=True))
    assert not s.reply().request_vote_result.vote_granted
    s.recv(msg.append_entries(3, 1, 3, 1))
    s.sent()
    s.recv(msg.request_vote(2, 2, 9, 1, pre_vote=True))
    result = s.reply().request_vote_result
    assert not result.vote_granted
    assert result.pre_vote


def test_9_6_higher_term_ends_a_pre_vote() -> None:
    """A refusal that shows a term beyond the one asked for makes the candidate a follower of it."""
    s = pre_voter()
    s.stand()
    s.recv(msg.request_vote_result(2, 7, granted=False, pre_vote=True))
    assert s.state == RAFT_FOLLOWER
    assert s.io.term == 7


def test_9_6_returning_server_does_not_disturb(new_cluster: NewCluster) -> None:
    """With pre-vote a server that was cut off for long comes back without deposing the leader."""
    c = new_cluster(3, pre_vote=True).ready()
    c.elect(0)
    term = c.term(0)
    c.isolate(2)
    c.elapse(20000)
    assert c.term(2) == term
    c.rejoin(2)
    c.elapse(5000)
    assert c.leader == 0
    assert [c.term(i) for i in range(3)] == [term] * 3
    assert c.state(2) == RAFT_FOLLOWER


# Chapter 10: performance


def test_10_2_1_leader_writes_and_sends_in_parallel() -> None:
    """The leader sends entries before they are on its own disk, and may commit by the others' copies alone."""
    s = leader()
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 2))
    s.sent()
    command(s, 3)
    assert len(s.io.appends) == 1
    assert [m.server_id for m in s.sent()] == [2, 3]
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.r.commit_index == 2
    s.recv(msg.append_entries_result(3, 2, 3))
    assert s.r.commit_index == 3
    assert s.fsm.x == 3
    assert s.r.last_stored == 2
    s.io.finish_appends()
    assert s.r.last_stored == 3


def test_10_2_2_pipelining() -> None:
    """To a follower that acknowledges, every command is sent at once, without waiting for the one before."""
    s = leader()
    for n in range(3, 7):
        command(s)
        (m,) = [m for m in s.sent() if m.server_id == 2]
        assert (m.append_entries.prev_log_index, m.append_entries.n_entries) == (n - 1, 1)


@pytest.mark.parametrize("limit", [16 + 16, 3 * (16 + 16)])
def test_10_2_2_messages_are_bounded(limit: int) -> None:
    """A long backlog goes out in several messages of bounded size, each of at least one entry (B31)."""
    s = Solo(terms=[1] * 8)
    raft_set_max_append_bytes(s.r, limit)
    s.lead()
    term = s.r.current_term
    got = 1
    refusal = msg.append_entries_result(3, term, 1, rejected=9)
    # Of a server that does not announce this the answers would have to be bounded in another way (proof).
    refusal.append_entries_result.features = flags.PROVEN_ANSWERS
    s.recv(refusal)
    for _ in range(20):
        s.tick()
        for m in s.sent():
            if m.server_id != 3:
                continue
            args = m.append_entries
            assert args.n_entries * 32 <= limit or args.n_entries == 1
            assert args.prev_log_index == got
            got += args.n_entries
            answer = msg.append_entries_result(3, term, got)
            answer.append_entries_result.features = flags.PROVEN_ANSWERS
            s.recv(answer)
        s.recv(msg.append_entries_result(2, term, 10))
        if got == 10:
            break
    assert got == 10


def test_10_2_2_backlog_is_streamed() -> None:
    """To a follower that acknowledges, a backlog goes out in several messages at once, without waiting for results."""
    s = leader()
    raft_set_max_append_bytes(s.r, 64)
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)] * 5, 5, None) == 0
    sent = [m.append_entries for m in s.sent() if m.server_id == 2]
    assert [(a.prev_log_index, a.n_entries) for a in sent] == [(2, 2), (4, 2), (6, 1)]
    assert raft_errmsg(s.r) == ""

"""The rules of the Raft dissertation that the library implements, one test each, named for its section.

Sections 3.3 to 3.10 here (figure 3.1 and what its text adds), the rest in test_dissertation_more.py. One server runs
against a scripted world (tests/lib/solo.py) where the rule is about what a server does with one message; a simulated
cluster is used where it is about several servers.
"""

from collections.abc import Callable

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_TIMEOUT_NOW,
    RAFT_LEADER,
    RAFT_NOTLEADER,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftApply,
    RaftMessage,
    RaftTransfer,
    raft_apply,
    raft_last_index,
    raft_leader,
    raft_start,
    raft_transfer,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo, Statuses, command, configuration, leader

NewCluster = Callable[..., Cluster]


# 3.2, figure 3.2: the properties


def test_3_2_election_safety(new_cluster: NewCluster) -> None:
    """There is at most one leader in a term, however often leaders are cut off and come back."""
    c = new_cluster(5).ready()
    seen: dict[int, int] = {}
    for _ in range(6):
        victim = c.until_leader()
        c.isolate(victim)
        end = c.time + 4000
        while c.time < end:
            c.step()
            for i in range(c.n):
                if c.state(i) == RAFT_LEADER:
                    assert seen.setdefault(c.term(i), i) == i
        c.rejoin(victim)
    assert len(seen) >= 6


def test_3_2_leader_append_only() -> None:
    """A leader never overwrites or deletes an entry of its log, whatever results it gets."""
    s = Solo(terms=[1, 1, 1])
    s.lead()
    before = [(e.term, e.buf) for e in s.io.stored]
    term = s.r.current_term
    s.recv(msg.append_entries_result(3, term, 0, rejected=4))
    s.recv(msg.append_entries_result(3, term, 99))
    s.tick()
    s.io.finish_appends()
    assert [(e.term, e.buf) for e in s.io.stored][: len(before)] == before
    assert "truncate" not in s.io.names()


def test_3_2_state_machine_safety(new_cluster: NewCluster) -> None:
    """All state machines apply the same commands in the same order, across changes of the leader."""
    c = new_cluster(3).ready()
    for i in range(6):
        leader = c.until_leader()
        for value in range(3):
            c.apply(leader, fsms.set_x(10 * i + value))
        c.progress()
        if i % 2:
            c.depose()
    index = c.progress()
    c.until_applied(c.n, index, 5000)
    assert c.fsms[0].applied == c.fsms[1].applied == c.fsms[2].applied
    assert len(c.fsms[0].applied) >= 18


# 3.3, figure 3.1: terms


HIGHER = {
    "AppendEntries": msg.append_entries(2, 9, 1, 1),
    "AppendEntriesResult": msg.append_entries_result(2, 9, 1),
    "RequestVote": msg.request_vote(2, 9, 1, 1),
    "RequestVoteResult": msg.request_vote_result(2, 9, granted=False),
    "InstallSnapshot": msg.install_snapshot(2, 9, 1, 1, configuration(1, 1, 1), 1, fsms.content(0, 0)),
}


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (RAFT_FOLLOWER, "AppendEntries"),
        (RAFT_FOLLOWER, "InstallSnapshot"),
        (RAFT_FOLLOWER, "RequestVote"),
        (RAFT_CANDIDATE, "AppendEntries"),
        (RAFT_CANDIDATE, "InstallSnapshot"),
        (RAFT_CANDIDATE, "RequestVote"),
        (RAFT_CANDIDATE, "RequestVoteResult"),
        (RAFT_LEADER, "AppendEntries"),
        (RAFT_LEADER, "AppendEntriesResult"),
        (RAFT_LEADER, "InstallSnapshot"),
    ],
)
def test_3_3_higher_term_makes_a_follower(state: int, kind: str) -> None:
    """A message with a higher term is adopted: the term is stored and the server becomes follower."""
    s = Solo()
    if state == RAFT_CANDIDATE:
        s.stand()
    elif state == RAFT_LEADER:
        s.lead()
    assert s.state == state
    s.recv(HIGHER[kind])
    assert s.state == RAFT_FOLLOWER
    assert (s.r.current_term, s.io.term) == (9, 9)
    assert s.io.vote == (2 if kind == "RequestVote" and state == RAFT_FOLLOWER else s.r.voted_for)
    assert s.io.vote in (0, 2)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])), id="AppendEntries"),
        pytest.param(msg.request_vote(2, 1, 9, 1), id="RequestVote"),
        pytest.param(
            msg.install_snapshot(2, 1, 9, 1, configuration(1, 1), 1, fsms.content(0, 0)), id="InstallSnapshot"
        ),
    ],
)
def test_3_3_stale_term_is_refused(message: RaftMessage) -> None:
    """A request with a lower term is refused, and the answer tells the current one."""
    s = Solo(term=5)
    s.recv(message)
    reply = s.reply()
    result = reply.append_entries_result or reply.request_vote_result
    assert result.term == 5
    if reply.append_entries_result is not None:
        assert reply.append_entries_result.rejected == (1 if message.install_snapshot is None else 9)
    else:
        assert not reply.request_vote_result.vote_granted
    assert s.r.current_term == 5
    assert s.r.follower_state.current_leader.id == 0
    assert s.io.appends == []
    assert s.io.puts == []


# 3.4: election


def test_3_4_candidate_raises_its_term_and_votes_for_itself() -> None:
    """Term and vote are stored before any request leaves; every other voter is asked."""
    s = Solo(terms=[1, 1])
    s.tick(1000)
    assert s.state == RAFT_CANDIDATE
    assert s.io.names() == ["set_term", "set_vote", "send", "send"]
    requests = s.sent()
    assert [(m.server_id, m.server_address) for m in requests] == [(2, "2"), (3, "3")]
    args = requests[0].request_vote
    assert (args.term, args.candidate_id, args.last_log_index, args.last_log_term) == (2, 1, 3, 1)
    assert not args.pre_vote
    assert not args.disrupt_leader


def test_3_4_majority_makes_a_leader() -> None:
    """A candidate leads once a majority, itself included, voted for it in its term."""
    s = Solo(*[RAFT_VOTER] * 5)
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_CANDIDATE
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_CANDIDATE, "one server has one vote"
    s.recv(msg.request_vote_result(3, 2, granted=False))
    assert s.state == RAFT_CANDIDATE
    s.recv(msg.request_vote_result(4, 1))
    assert s.state == RAFT_CANDIDATE, "a vote of another term does not count"
    s.recv(msg.request_vote_result(5, 2))
    assert s.state == RAFT_LEADER


def test_3_4_votes_of_others_than_voters_do_not_count() -> None:
    """The vote of a stand-by or of a stranger is not counted."""
    s = Solo(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    s.stand()
    s.recv(msg.request_vote_result(4, 2))
    s.recv(msg.request_vote_result(9, 2))
    assert s.state == RAFT_CANDIDATE


def test_3_4_candidate_follows_the_leader_of_its_term() -> None:
    """A candidate that hears from a leader of its own term becomes its follower, keeping its vote."""
    s = Solo()
    s.stand()
    s.recv(msg.append_entries(2, 2, 1, 1))
    assert s.state == RAFT_FOLLOWER
    assert raft_leader(s.r) == (2, "2")
    assert (s.io.term, s.io.vote) == (2, 1)


def test_3_4_candidate_tries_again() -> None:
    """A candidate that neither wins nor loses starts another election in another term after its timeout."""
    s = Solo()
    s.stand()
    s.tick(900)
    assert s.r.current_term == 2
    s.tick(100)
    assert s.state == RAFT_CANDIDATE
    assert s.r.current_term == 3
    assert [m.request_vote.term for m in s.sent()] == [3, 3]


def test_3_4_randomised_timeouts() -> None:
    """Every election timeout is drawn anew from [T, 2T)."""
    s = Solo(start=False)
    drawn: list[tuple[int, int]] = []
    answers = iter([1500, 1999, 1000, 1234])

    def random(io: object, low: int, high: int) -> int:
        drawn.append((low, high))
        return next(answers)

    s.io.random = random
    assert raft_start(s.r) == 0
    assert s.r.follower_state.randomized_election_timeout == 1500
    s.tick(1400)
    assert s.state == RAFT_FOLLOWER
    s.tick(100)
    assert s.state == RAFT_CANDIDATE
    assert s.r.candidate_state.randomized_election_timeout == 1999
    assert set(drawn) == {(1000, 2000)}


def test_3_4_leader_keeps_its_followers_with_heartbeats() -> None:
    """It sends one each interval; that restarts a follower's clock, where it is not of an old term."""
    s = leader()
    s.recv(msg.append_entries_result(3, 2, 2))
    for _ in range(3):
        s.tick(100)
        beats = [(m.server_id, m.append_entries.n_entries) for m in s.sent() if m.append_entries is not None]
        assert sorted(beats) == [(2, 0), (3, 0)]
        s.recv(msg.append_entries_result(2, 2, 2))
    s = Solo()
    for _ in range(30):
        s.tick(100)
        s.recv(msg.append_entries(2, 1, 1, 1))
    assert s.state == RAFT_FOLLOWER
    s.sent()
    s.recv(msg.append_entries(3, 5, 1, 1))
    for _ in range(9):
        s.tick(100)
        s.recv(msg.append_entries(2, 1, 1, 1))
    s.tick(100)
    assert s.state == RAFT_CANDIDATE


def test_3_4_granting_a_vote_restarts_the_clock() -> None:
    """A follower that grants its vote gives the candidate an election timeout; one that refuses does not."""
    granting, refusing = Solo(), Solo(terms=[1])
    for s in (granting, refusing):
        s.tick(900)
        s.recv(msg.request_vote(2, 2, 1, 1))
        s.tick(100)
    assert granting.state == RAFT_FOLLOWER
    assert refusing.state == RAFT_CANDIDATE


def test_3_4_one_vote_per_term() -> None:
    """In one term a server votes for one candidate; that one may ask again. The vote survives a restart."""
    s = Solo()
    s.recv(msg.request_vote(2, 2, 1, 1))
    assert s.reply().request_vote_result.vote_granted
    assert (s.io.term, s.io.vote) == (2, 2)
    s.recv(msg.request_vote(3, 2, 9, 2))
    assert not s.reply().request_vote_result.vote_granted
    s.recv(msg.request_vote(2, 2, 1, 1))
    assert s.reply().request_vote_result.vote_granted
    s.recv(msg.request_vote(3, 3, 9, 2))
    assert s.reply().request_vote_result.vote_granted
    again = Solo(term=3, vote=3)
    again.recv(msg.request_vote(2, 3, 99, 3))
    assert not again.reply().request_vote_result.vote_granted


def test_3_4_vote_is_durable_before_it_is_given() -> None:
    """Term and vote are stored before the answer leaves; if that fails there is no answer."""
    s = Solo()
    s.recv(msg.request_vote(2, 2, 1, 1))
    assert s.io.names() == ["set_term", "set_vote", "send"]
    bad = Solo()
    bad.io.fail("set_vote", 18)
    bad.recv(msg.request_vote(2, 2, 1, 1))
    assert bad.sent() == []
    assert bad.state == RAFT_UNAVAILABLE


def test_3_8_candidate_stands_with_what_is_stored() -> None:
    """Entries on their way to the own disk do not count for it: a restart could take them away after it was elected."""
    s = leader()
    command(s)
    assert (raft_last_index(s.r), s.r.last_stored) == (3, 2)
    s.recv(msg.append_entries_result(3, 5, 0))
    assert s.state == RAFT_FOLLOWER
    s.sent()
    s.tick(2000)
    assert s.state == RAFT_CANDIDATE
    requests = [m.request_vote for m in s.sent() if m.type == RAFT_IO_REQUEST_VOTE]
    assert [(a.last_log_index, a.last_log_term) for a in requests] == [(2, 2)] * 2


# 3.5: replication


def test_3_5_command_is_stored_and_sent_before_it_is_applied() -> None:
    """A command goes to the log, the disk and the followers; it is applied once a majority has it."""
    s = Solo()
    s.lead()
    s.tick()
    s.sent()
    answered = Statuses()
    command(s, 7, answered)
    assert s.io.names()[-2:] == ["append", "send"]
    assert s.fsm.x == 0
    s.io.finish_appends()
    assert (s.fsm.x, answered.seen) == (0, [])
    s.recv(msg.append_entries_result(2, 2, s.r.last_stored))
    assert (s.fsm.x, answered.seen) == (7, [0])


def test_3_5_entries_follow_what_precedes_them() -> None:
    """A follower accepts entries only behind an entry that its log has with that index and term (log matching)."""
    s = Solo(terms=[1, 1])
    for prev, term, good in ((4, 1, False), (3, 2, False), (3, 1, True)):
        s.recv(msg.append_entries(2, 2, prev, term, 0, msg.commands([2])))
        if good:
            assert len(s.io.appends) == 1
        else:
            result = s.reply().append_entries_result
            assert (result.rejected, result.last_log_index) == (prev, 3)
            assert s.io.appends == []


def test_3_5_conflicting_entries_are_deleted_with_all_that_follow() -> None:
    """An entry of another term at the same index, and everything behind it, gives way."""
    s = Solo(terms=[1, 1, 1, 1], term=2)
    s.recv(msg.append_entries(2, 3, 2, 1, 0, msg.commands([1, 3])))
    assert ("truncate", 4) in s.io.calls
    s.io.finish_appends()
    assert [e.term for e in s.io.stored] == [1, 1, 1, 3]
    assert s.reply().append_entries_result.last_log_index == 4


def test_3_5_entries_that_are_present_are_kept() -> None:
    """An older message that ends before the log's end removes nothing behind it."""
    s = Solo(terms=[1, 1, 1])
    entries = s.io.stored[1:2]
    s.recv(msg.append_entries(2, 1, 1, 1, 0, entries))
    assert s.io.names() == ["send"]
    assert s.r.log.offset + len(s.io.stored) == 4
    assert s.reply().append_entries_result.last_log_index == 2, "only what the message proved (B8)"


def test_3_5_leader_goes_back_until_the_logs_agree() -> None:
    """A refusal lowers the follower's next index; the leader sends what follows once they agree."""
    s = Solo(terms=[1, 1, 1])
    s.lead()
    term = s.r.current_term
    progress = s.r.leader_state.progress[2]
    assert progress.next_index == 5
    s.recv(msg.append_entries_result(3, term, 1, rejected=4))
    assert progress.next_index == 2
    s.tick()
    sent = [m.append_entries for m in s.sent() if m.server_id == 3]
    assert [(a.prev_log_index, a.prev_log_term, a.n_entries) for a in sent] == [(1, 1, 4)]
    s.recv(msg.append_entries_result(3, term, 5))
    assert (progress.match_index, progress.next_index) == (5, 6)


def test_3_5_commit_index_travels_with_the_entries() -> None:
    """A follower commits what the leader has committed, as far as its own disk goes, and applies it in order."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 3, msg.commands([1, 1, 1], [fsms.add_x(n) for n in (1, 2, 3)])))
    assert s.r.commit_index == 1, "nothing is stored yet"
    s.io.finish_appends()
    assert s.r.commit_index == 3
    assert s.fsm.x == 3
    s.recv(msg.append_entries(2, 1, 4, 1, 99))
    assert s.r.commit_index == 4
    assert s.fsm.applied == [fsms.add_x(n) for n in (1, 2, 3)]
    longer = Solo(terms=[1, 1, 1])
    longer.recv(msg.append_entries(2, 1, 2, 1, 99))
    assert longer.r.commit_index == 2, "of the entries behind the message it says nothing"


def test_3_5_entries_are_durable_before_they_are_acknowledged() -> None:
    """A follower answers only when the disk has the entries; if the disk fails, it refuses them."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    assert s.sent() == []
    s.io.finish_append()
    assert s.reply().append_entries_result.last_log_index == 2
    s.recv(msg.append_entries(2, 1, 2, 1, 0, msg.commands([1])))
    s.io.finish_append(18)
    result = s.reply().append_entries_result
    assert (result.rejected, result.last_log_index) == (3, 2)


# 3.6: safety


@pytest.mark.parametrize(
    ("last", "last_term", "granted"),
    [(9, 1, False), (2, 2, False), (3, 2, True), (4, 2, True), (1, 3, True)],
)
def test_3_6_1_only_an_up_to_date_candidate_gets_the_vote(last: int, last_term: int, granted: bool) -> None:
    """The log with the higher last term is more up to date; of equal terms the longer one is."""
    s = Solo(terms=[1, 2], term=2)
    s.recv(msg.request_vote(2, 3, last, last_term))
    assert s.reply().request_vote_result.vote_granted == granted
    assert s.io.vote == (2 if granted else 0)
    assert s.r.current_term == 3


def test_3_6_2_entries_of_former_terms_are_not_committed_by_counting() -> None:
    """A leader counts copies only of entries of its own term; with one of these all before it are committed."""
    s = Solo(terms=[1, 1])
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_LEADER
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.r.commit_index == 1, "entries 2 and 3 are on a majority, but of term 1"
    s.io.finish_appends()
    assert s.r.commit_index == 1
    s.recv(msg.append_entries_result(2, 2, 4))
    assert s.r.commit_index == 4
    assert s.r.last_applied == 4


def test_3_6_2_new_leader_appends_an_entry_of_its_term() -> None:
    """A new leader writes a barrier at once, so that it learns what is committed (6.4)."""
    s = Solo(terms=[1, 1])
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    assert [m.type for m in s.sent()] == [RAFT_IO_APPEND_ENTRIES] * 2
    (_req, batch, _cb) = s.io.appends[0]
    assert [(e.term, e.type) for e in batch] == [(2, 2)]


def test_3_6_3_leader_completeness(new_cluster: NewCluster) -> None:
    """A server that lacks a committed entry is not elected; the next leader has it."""
    c = new_cluster(3).led()
    c.isolate(2)
    index = c.progress()
    c.kill(0)
    c.heal(1, 2)
    c.set_randomized(2, 1000)
    c.until_no_leader(100)
    assert c.until_leader(20000) == 1
    c.until_applied(1, index, 5000)
    c.until_applied(2, index, 5000)
    assert c.fsms[2].x == 1


# 3.8: persistent state


def test_3_8_failing_store_changes_nothing() -> None:
    """If the term cannot be stored, it is not adopted: the server becomes unavailable at its old term."""
    s = Solo()
    s.io.fail("set_term", 18)
    s.recv(msg.append_entries(2, 7, 1, 1))
    assert s.state == RAFT_UNAVAILABLE
    assert (s.r.current_term, s.io.term) == (1, 1)
    assert s.sent() == []


# 3.10: leadership transfer


def test_3_10_transfer_stops_requests_and_waits_for_the_target() -> None:
    """The leader takes no more commands, sends TimeoutNow when the target has everything, and follows it."""
    s = Solo()
    s.lead()
    s.tick()
    s.sent()
    command(s)
    fired: list[RaftTransfer] = []
    req = RaftTransfer()
    assert raft_transfer(s.r, req, 2, fired.append) == 0
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == RAFT_NOTLEADER
    assert [m for m in s.sent() if m.type == RAFT_IO_TIMEOUT_NOW] == []
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    (now,) = [m for m in s.sent() if m.type == RAFT_IO_TIMEOUT_NOW]
    assert now.server_id == 2
    args = now.timeout_now
    assert (args.term, args.last_log_index, args.last_log_term) == (2, 3, 2)
    assert fired == []
    s.recv(msg.append_entries(2, 3, 3, 2))
    assert fired == [req]
    assert raft_leader(s.r) == (2, "2")


def test_3_10_timeout_now_starts_an_election_at_once() -> None:
    """The target stands without waiting for its clock or a pre-vote, and tells the others to forget the leader."""
    s = Solo(terms=[1])
    s.r.pre_vote = True
    s.recv(msg.append_entries(2, 1, 2, 1))
    s.sent()
    s.recv(msg.timeout_now(2, 1, 2, 1))
    assert s.state == RAFT_CANDIDATE
    assert s.r.current_term == 2
    requests = [m.request_vote for m in s.sent() if m.type == RAFT_IO_REQUEST_VOTE]
    assert [(a.term, a.disrupt_leader, a.pre_vote) for a in requests] == [(2, True, False)] * 2


@pytest.mark.parametrize(
    ("src", "term", "last", "last_term"),
    [(3, 1, 2, 1), (2, 0, 2, 1), (2, 1, 3, 1), (2, 1, 1, 1), (2, 1, 2, 9)],
)
def test_3_10_timeout_now_of_others_is_ignored(src: int, term: int, last: int, last_term: int) -> None:
    """TimeoutNow is obeyed only from the current leader, of the current term, for an identical log."""
    s = Solo(terms=[1])
    s.recv(msg.append_entries(2, 1, 2, 1))
    s.recv(msg.timeout_now(src, term, last, last_term))
    assert s.state == RAFT_FOLLOWER
    assert s.r.current_term == 1


def test_3_10_transfer_is_given_up_after_an_election_timeout() -> None:
    """If the target does not take over in time the leader goes on."""
    s = Solo()
    s.lead()
    command(s)
    fired: list[RaftTransfer] = []
    assert raft_transfer(s.r, RaftTransfer(), 3, fired.append) == 0
    for _ in range(9):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 2))
    assert fired == []
    s.tick()
    assert len(fired) == 1
    assert s.state == RAFT_LEADER
    command(s)

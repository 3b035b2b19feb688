"""The defects of the C core that pyraft repairs, one by one; the labels are those of pyraft/DEVIATIONS.md.

Each test fails when its repair is taken out.
"""

from typing import Any

import pytest

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    RaftApply,
    RaftChange,
    RaftMessage,
    RaftSnapshot,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_assign,
    raft_errmsg,
    raft_last_applied,
    raft_last_index,
    raft_leader,
    raft_remove,
    raft_set_election_timeout,
    raft_set_max_append_bytes,
    raft_set_max_inflight_bytes,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    raft_transfer,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, change, configuration


class Noted:
    """A callback that notes with what status it fired."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    def __call__(self, req: Any, status: int, result: Any = None) -> None:
        self.statuses.append(status)


def leader(*roles: int) -> Solo:
    """Return a leader of term 2 whose barrier, entry 2, is committed."""
    s = Solo(*roles)
    s.lead()
    return s


def apply(s: Solo, n: int = 1) -> Noted:
    """Submit `n` commands in one request."""
    done = Noted()
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)] * n, n, done) == 0
    return done


def ids(s: Solo) -> list[int]:
    """Return the IDs of the configuration in force."""
    return [server.id for server in s.r.configuration.servers]


def results(messages: list[RaftMessage]) -> list[tuple[int, int]]:
    """Return (rejected, last_log_index) of AppendEntriesResults."""
    answers = [m.append_entries_result for m in messages]
    return [(a.rejected, a.last_log_index) for a in answers if a is not None]


def requests(messages: list[RaftMessage], id: int) -> list[tuple[int, int]]:
    """Return (prev_log_index, number of entries) of the AppendEntries to a server."""
    found = [m.append_entries for m in messages if m.type == RAFT_IO_APPEND_ENTRIES and m.server_id == id]
    return [(a.prev_log_index, a.n_entries) for a in found if a is not None]


def test_b3_own_snapshots_never_pass_for_installs() -> None:
    """With trailing 0 the log in memory is emptied up to the snapshot, but the I/O is not told to replace its log."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    raft_set_snapshot_trailing(s.r, 0)
    apply(s)
    apply(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    [(_, trailing, snapshot, _)] = s.io.puts
    assert (trailing, snapshot.index) == (1, 3)
    s.io.finish_put()
    assert (s.r.log.offset, raft_last_index(s.r)) == (3, 4)
    assert len(s.io.stored) == 4


def test_b4_failed_write_of_a_change_takes_the_configuration_back() -> None:
    """The leader steps down with the configuration that it had before the change whose entry is gone."""
    s = leader()
    done = Noted()
    assert raft_add(s.r, RaftChange(), 4, "4", done) == 0
    assert ids(s) == [1, 2, 3, 4]
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, raft_last_index(s.r), ids(s)) == (RAFT_FOLLOWER, 2, [1, 2, 3])
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (1, 0)
    assert done.statuses == [RAFT_LEADERSHIPLOST]


def test_b4_failed_write_before_a_change_takes_it_back_too() -> None:
    """The log is cut at the first failed write, and so the change behind it goes as well."""
    s = leader()
    first = apply(s)
    assert raft_add(s.r, RaftChange(), 4, "4", None) == 0
    s.io.finish_append(RAFT_IOERR)
    assert (ids(s), first.statuses) == ([1, 2, 3], [RAFT_IOERR])


@pytest.mark.parametrize("what", ["add", "remove", "assign"])
def test_b5_refused_change_leaves_nothing_behind(what: str) -> None:
    """io.append refuses: neither request nor configuration nor progress has changed, and the next one works."""
    s = leader()
    assert s.r.leader_state is not None
    progress = list(s.r.leader_state.progress)

    def submit(done: Noted) -> int:
        if what == "add":
            return raft_add(s.r, RaftChange(), 4, "4", done)
        if what == "remove":
            return raft_remove(s.r, RaftChange(), 3, done)
        return raft_assign(s.r, RaftChange(), 3, RAFT_STANDBY, done)

    refused, done = Noted(), Noted()
    s.io.fail("append", RAFT_IOERR)
    assert submit(refused) == RAFT_IOERR
    assert raft_errmsg(s.r) == "io: append failed"
    assert (ids(s), [x.role for x in s.r.configuration.servers]) == ([1, 2, 3], [RAFT_VOTER] * 3)
    assert s.r.leader_state.change is None
    assert s.r.leader_state.progress == progress
    assert (s.r.configuration_uncommitted_index, raft_last_index(s.r)) == (0, 2)
    assert submit(done) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.recv(msg.append_entries_result(3, 2, 3))
    assert (refused.statuses, done.statuses) == ([], [0])


def installing() -> Solo:
    """Return a follower of term 2 with entries 1 to 3 stored that installs a snapshot up to index 9."""
    s = Solo(terms=[1, 1])
    s.recv(msg.install_snapshot(2, 2, 9, 2, configuration(RAFT_VOTER, RAFT_VOTER), 4, fsms.content(7, 8)))
    assert s.sent() == []
    assert (raft_last_index(s.r), s.r.last_stored) == (9, 0)
    return s


def test_b6_failed_install_puts_the_log_back() -> None:
    """The answer is a rejection with what is stored, and a retry is not taken for done."""
    s = installing()
    s.io.finish_put(RAFT_IOERR)
    assert results(s.sent()) == [(9, 3)]
    assert (raft_last_index(s.r), s.r.last_stored, s.r.log.snapshot.last_index) == (3, 3, 0)
    s.recv(msg.install_snapshot(2, 2, 9, 2, configuration(RAFT_VOTER, RAFT_VOTER), 4, fsms.content(7, 8)))
    assert results(s.sent()) == []
    s.io.finish_put()
    assert results(s.sent()) == [(0, 9)]
    assert (s.fsm.x, s.fsm.y, ids(s), raft_last_applied(s.r)) == (7, 8, [1, 2], 9)


def test_b6_entries_go_on_where_the_log_was() -> None:
    """After a failed install the follower takes entries after its old log."""
    s = installing()
    s.io.finish_put(RAFT_IOERR)
    s.sent()
    s.recv(msg.append_entries(2, 2, 3, 1, 0, msg.commands([2])))
    s.io.finish_appends()
    assert results(s.sent()) == [(0, 4)]


def test_b6_writes_that_end_meanwhile_count() -> None:
    """A write that was under way belongs to the log that comes back, with the configuration in it."""
    s = Solo()
    conf = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    s.recv(msg.append_entries(2, 2, 1, 1, 0, [*msg.commands([2]), change(2, conf)]))
    s.recv(msg.append_entries(2, 2, 3, 2, 0, msg.commands([2])))
    s.recv(msg.install_snapshot(2, 2, 9, 2, s.conf, 1, fsms.content(7, 8)))
    s.io.finish_append()
    s.io.finish_append(RAFT_IOERR)
    assert ids(s) == [1, 2, 3]
    s.sent()
    s.io.finish_put(RAFT_IOERR)
    assert results(s.sent()) == [(9, 3)]
    assert (raft_last_index(s.r), s.r.last_stored, ids(s)) == (3, 3, [1, 2, 3, 4])
    assert s.r.configuration_uncommitted_index == 3


def test_b7_highest_index_of_a_majority_is_committed() -> None:
    """Of five voters, three hold entry 3 when one of them acknowledges 4; nobody just named 3, yet it is committed."""
    s = leader(*[RAFT_VOTER] * 5)
    s.recv(msg.append_entries_result(3, 2, 2))
    assert s.r.commit_index == 2
    apply(s)
    apply(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.r.commit_index == 2
    s.recv(msg.append_entries_result(3, 2, 4))
    assert s.r.commit_index == 3
    s.recv(msg.append_entries_result(4, 2, 4))
    assert s.r.commit_index == 4


def test_b8_success_says_no_more_than_the_message_proved() -> None:
    """Entries 3 and 4 of another leader may differ from this one's; only entry 2, which it named, is confirmed."""
    s = Solo(terms=[1, 1, 1])
    s.recv(msg.append_entries(2, 2, 2, 1))
    assert results(s.sent()) == [(0, 2)]
    s.recv(msg.append_entries(2, 2, 1, 1, 0, msg.commands([1, 1])))
    assert results(s.sent()) == [(0, 3)]


def test_b8_success_after_a_write_is_bounded_too() -> None:
    """A write that ends when more is stored acknowledges its own entries."""
    s = Solo()
    for index in (2, 3):
        s.recv(msg.append_entries(2, 1, index - 1, 1, 0, msg.commands([1])))
    s.r.last_stored = 3
    s.io.finish_append()
    assert results(s.sent()) == [(0, 2)]


def test_b9_only_the_same_term_proves_that_the_entries_are_here() -> None:
    """An entry of a higher term at the snapshot's index is another entry: the snapshot is installed."""
    s = Solo(terms=[2, 2], term=2)
    s.recv(msg.install_snapshot(2, 3, 3, 1, s.conf, 1, fsms.content(7, 8)))
    assert results(s.sent()) == []
    s.io.finish_put()
    assert results(s.sent()) == [(0, 3)]
    assert (s.fsm.x, s.r.log.snapshot.last_term) == (7, 1)


def test_b9_the_same_term_needs_no_install() -> None:
    """By the log matching property everything before is the same."""
    s = Solo(terms=[2, 2], term=2)
    s.recv(msg.install_snapshot(2, 3, 3, 2, s.conf, 1, fsms.content(7, 8)))
    assert results(s.sent()) == [(0, 3)]
    assert s.io.puts == []


def test_b11_one_vote_per_term_for_transfer_targets_too() -> None:
    """A server that has voted in a term does not vote again, not even for the one that it told to take over."""
    s = leader()
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    s.sent()
    s.recv(msg.request_vote(3, 3, 9, 2, disrupt=True))
    s.recv(msg.request_vote(2, 3, 9, 2, disrupt=True))
    granted = [m.request_vote_result.vote_granted for m in s.sent() if m.request_vote_result is not None]
    assert granted == [True, False]
    assert (s.io.term, s.io.vote) == (3, 3)


def test_b14_transfer_ends_when_a_follower_sees_its_target_lead() -> None:
    """While leader nothing a message says ends the transfer; as follower the target's leadership does."""
    s = leader()
    fired: list[Any] = []
    assert raft_transfer(s.r, RaftTransfer(), 2, fired.append) == 0
    s.recv(msg.append_entries_result(2, 2, 2))
    s.recv(msg.request_vote(3, 2, 2, 2))
    assert (s.state, fired, raft_leader(s.r)) == (RAFT_LEADER, [], (0, None))
    s.recv(msg.append_entries(3, 3, 2, 2))
    assert (s.state, fired) == (RAFT_FOLLOWER, [])
    s.recv(msg.append_entries(2, 4, 2, 2))
    assert len(fired) == 1


def test_b27_new_election_timeout_is_drawn_at_once() -> None:
    """The random timeout comes from the new range and the clock restarts, in a follower and in a candidate."""
    s = Solo()
    s.tick(600)
    raft_set_election_timeout(s.r, 500)
    assert s.r.follower_state is not None
    assert s.r.follower_state.randomized_election_timeout == 500
    assert s.r.election_timer_start == 600
    s.tick(499)
    assert s.state == RAFT_FOLLOWER
    s.tick(1)
    assert s.r.candidate_state is not None
    raft_set_election_timeout(s.r, 700)
    assert s.r.candidate_state.randomized_election_timeout == 700


def test_b31_messages_are_bounded_and_the_rest_follows() -> None:
    """A follower that lacks ten entries of 32 bytes gets three a message, as many messages as the window takes."""
    s = leader()
    apply(s, 10)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 12))
    s.sent()
    raft_set_max_append_bytes(s.r, 100)
    raft_set_max_inflight_bytes(s.r, 192)
    s.tick(100)
    assert requests(s.sent(), 3) == [(1, 3)]
    s.recv(msg.append_entries_result(3, 2, 4))
    assert requests(s.sent(), 3) == [(4, 3), (7, 3)]
    s.recv(msg.append_entries_result(3, 2, 7))
    assert requests(s.sent(), 3) == [(10, 2)]
    s.recv(msg.append_entries_result(3, 2, 12))
    raft_set_max_append_bytes(s.r, 1)
    apply(s, 2)
    assert requests(s.sent(), 3) == [(12, 1), (13, 1)]


def test_b31_a_full_window_lets_heartbeats_carry_one_entry() -> None:
    """Nothing is streamed until an answer comes, but heartbeats go on, and each brings an entry."""
    s = leader()
    s.recv(msg.append_entries_result(3, 2, 2))
    raft_set_max_inflight_bytes(s.r, 64)
    apply(s, 2)
    assert requests(s.sent(), 3) == [(2, 2)]
    apply(s, 3)
    assert requests(s.sent(), 3) == []
    s.tick(100)
    assert requests(s.sent(), 3) == [(4, 1)]
    s.recv(msg.append_entries_result(3, 2, 5))
    assert requests(s.sent(), 3) == [(5, 2)]


def test_b32_error_of_the_fsm_survives_the_snapshot() -> None:
    """A pass that fails in fsm.apply and then begins a snapshot has failed: a follower stops."""
    s = Solo()
    raft_set_snapshot_threshold(s.r, 1)
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1, 1], [fsms.add_x(1), b"nonsense"])))
    s.io.finish_appends()
    s.recv(msg.append_entries(2, 1, 3, 1, 3))
    assert raft_last_applied(s.r) == 2
    assert s.state == RAFT_UNAVAILABLE


@pytest.mark.parametrize("how", ["term", "write"])
def test_b33_callbacks_of_a_step_down_cannot_submit(how: str) -> None:
    """The state still reads leader when they fire, as in C, but what they submit gets RAFT_NOTLEADER."""
    s = leader()
    noted: list[Any] = []

    def again(req: RaftApply, status: int, result: Any) -> None:
        noted.append((status, s.state, raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, again)))

    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, again) == 0
    if how == "term":
        s.recv(msg.append_entries_result(2, 9, 2))
        assert noted == [(RAFT_LEADERSHIPLOST, RAFT_LEADER, RAFT_NOTLEADER)]
    else:
        s.io.finish_append(RAFT_IOERR)
        assert noted == [(RAFT_IOERR, RAFT_LEADER, RAFT_NOTLEADER)]
    assert s.state == RAFT_FOLLOWER


def test_b34_single_voter_holds_a_real_election_at_start() -> None:
    """It stores the next term and a vote for itself before it leads."""
    s = Solo(RAFT_VOTER, start=False)
    assert raft_start(s.r) == 0
    assert s.state == RAFT_LEADER
    assert [call for call in s.io.calls if call[0].startswith("set_")] == [("set_term", 2), ("set_vote", 1)]
    assert (s.r.current_term, s.r.voted_for) == (2, 1)


def test_b34_single_voter_leads_in_a_new_term_after_a_failed_write() -> None:
    """A term in which an entry was sent but not stored never gets another entry with that index."""
    s = leader(RAFT_VOTER, RAFT_STANDBY)
    apply(s)
    assert (s.r.current_term, raft_last_index(s.r)) == (2, 2)
    s.io.finish_append(RAFT_IOERR)
    assert s.state == RAFT_FOLLOWER
    s.tick(1000)
    assert s.state == RAFT_LEADER
    assert (s.r.current_term, s.io.term, s.io.vote) == (3, 3, 1)


@pytest.mark.parametrize("role", [RAFT_STANDBY, RAFT_SPARE])
def test_b34_an_only_voters_old_write_commits_when_it_ends(role: int) -> None:
    """An entry that the only voter has stored is committed, in whatever term it was written; no further command is
    needed."""
    s = leader(RAFT_VOTER, role)
    apply(s)
    s.recv(msg.append_entries(2, 3, 2, 2))
    s.tick(2000)
    assert (s.state, s.r.current_term, s.r.commit_index) == (RAFT_LEADER, 4, 1)
    s.io.finish_append()
    assert (s.r.commit_index, len(s.fsm.applied)) == (2, 1)
    s.io.finish_appends()


def test_b34_an_old_change_commits_too_and_ends_the_way_of_the_next() -> None:
    """A change whose write outlived its term is committed like any entry, and another may follow."""
    s = leader(RAFT_VOTER)
    assert raft_add(s.r, RaftChange(), 2, "2", None) == 0
    s.recv(msg.append_entries(2, 3, 2, 2))
    s.tick(2000)
    assert (s.state, s.r.configuration_uncommitted_index) == (RAFT_LEADER, 2)
    s.io.finish_append()
    assert (s.r.configuration_uncommitted_index, s.r.configuration_committed_index) == (0, 2)
    noted = Noted()
    assert raft_assign(s.r, RaftChange(), 2, RAFT_STANDBY, noted) == 0
    s.io.finish_appends()
    assert s.r.configuration.n == 2


def test_b35_write_behind_a_gap_is_not_counted() -> None:
    """The stored part of the log advances only without gaps, however many entries a write has."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.recv(msg.append_entries(2, 1, 2, 1, 0, msg.commands([1])))
    s.io.finish_append(RAFT_IOERR)
    assert (raft_last_index(s.r), s.r.last_stored) == (1, 1)
    s.sent()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1, 1])))
    s.io.finish_append()
    assert s.r.last_stored == 1
    s.io.finish_append()
    assert s.r.last_stored == 3
    assert results(s.sent())[-1] == (0, 3)


def test_b35_what_is_stored_has_no_gap() -> None:
    """A write that ends before the one in front of it says nothing about that one's entries."""
    s = Solo()
    for index in (2, 3):
        s.recv(msg.append_entries(2, 1, index - 1, 1, 0, msg.commands([1])))
    s.io.finish_append(position=1)
    assert s.r.last_stored == 1
    s.io.finish_append()
    assert s.r.last_stored == 2


def test_b35_entries_that_come_again_bring_their_own_payload() -> None:
    """Entries re-sent after a failed write are applied with what the message carries."""
    s = Solo()
    payloads = [fsms.set_x(1), fsms.set_x(2), fsms.set_x(3)]
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1], payloads[:1])))
    s.recv(msg.append_entries(2, 1, 2, 1, 0, msg.commands([1, 1], payloads[1:])))
    s.io.finish_append(RAFT_IOERR)
    s.recv(msg.append_entries(2, 1, 1, 1, 4, msg.commands([1, 1, 1], payloads)))
    s.io.finish_appends()
    assert s.fsm.applied == payloads


def test_b36_entries_that_a_snapshot_replaced_are_no_news() -> None:
    """A leader that starts from entry 1 again finds the compacted ones present; only what is new is written."""
    s = Solo(start=False)
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term = 3, 1
    snapshot.configuration, snapshot.configuration_index = s.conf, 1
    snapshot.bufs = [fsms.content(7, 8)]
    s.io.stored_snapshot, s.io.stored, s.io.start_index = snapshot, [], 4
    assert raft_start(s.r) == 0
    first = change(1, s.conf)
    s.recv(msg.append_entries(2, 1, 0, 0, 0, [first, *msg.commands([1, 1])]))
    assert results(s.sent()) == [(0, 3)]
    assert s.io.appends == []
    s.recv(msg.append_entries(2, 1, 0, 0, 0, [first, *msg.commands([1, 1, 1])]))
    [(_, batch, _)] = s.io.appends
    assert len(batch) == 1
    s.io.finish_appends()
    assert results(s.sent()) == [(0, 4)]


def test_b37_reply_that_cannot_be_sent_stops_the_server() -> None:
    """A synchronous send error after a message with entries is fatal in one way only: unavailable."""
    s = Solo(terms=[1])
    s.io.fail("send", RAFT_IOERR)
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_last_index(s.r) == 2


def test_late_failure_of_a_write_spares_what_replaced_its_entries() -> None:
    """A leader's write fails when another leader's entries are in its place: those stay in the log."""
    s = leader()
    apply(s)
    s.recv(msg.append_entries(2, 3, 2, 2, 0, msg.commands([3, 3])))
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, raft_last_index(s.r)) == (RAFT_FOLLOWER, 4)
    s.io.finish_appends()
    assert results(s.sent()) == [(0, 4)]


def test_installing_server_does_not_stand() -> None:
    """TimeoutNow is ignored while a snapshot is on its way to disk, even if it names exactly our log."""
    s = installing()
    s.recv(msg.timeout_now(2, 2, 9, 2))
    assert s.state == RAFT_FOLLOWER
    s.io.finish_put()
    s.recv(msg.timeout_now(2, 2, 9, 2))
    assert s.state != RAFT_FOLLOWER


def test_write_that_fails_late_spares_the_second_copy_of_its_entries() -> None:
    """Entries that were cut off and have come again belong to the later write, which alone says how they are."""
    s = Solo()
    for index in (2, 3):
        s.recv(msg.append_entries(2, 1, index - 1, 1, 0, msg.commands([1])))
    s.io.finish_append(RAFT_IOERR)
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1, 1])))
    s.io.finish_append(RAFT_IOERR)
    assert raft_last_index(s.r) == 3
    s.io.finish_append()
    assert (raft_last_index(s.r), s.r.last_stored) == (3, 3)


def test_follower_commits_no_more_than_a_message_shows_to_match() -> None:
    """Behind a message that is cut short the log may hold what the leader never had, whatever its commit index."""
    s = Solo(terms=[1, 1, 1])
    s.recv(msg.append_entries(2, 2, 1, 1, 9, msg.commands([1])))
    assert s.r.commit_index == 2
    s.recv(msg.append_entries(2, 2, 2, 1, 9, msg.commands([2])))
    s.io.finish_appends()
    assert (s.r.commit_index, raft_last_index(s.r)) == (3, 3)


def test_snapshot_that_contradicts_a_committed_entry_is_fatal() -> None:
    """No leader can have another entry at a committed index; the state machine is not taken back."""
    s = Solo(terms=[1, 1])
    s.recv(msg.append_entries(2, 1, 3, 1, 3))
    assert raft_last_applied(s.r) == 3
    s.sent()
    s.recv(msg.install_snapshot(2, 2, 3, 2, s.conf, 1, fsms.content(7, 8)))
    assert (s.state, s.io.puts, s.fsm.restored) == (RAFT_UNAVAILABLE, [], [])
    assert "committed" in raft_errmsg(s.r)


def test_deferred_commands_behind_a_failed_write_are_not_written() -> None:
    """Written now, they would take the place of the missing entries on disk."""
    s = Solo(deferring=True)
    s.lead()
    first, second = apply(s), Noted()
    s.io.turn()
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, second) == 0
    s.io.finish_append(RAFT_IOERR)
    s.io.turn()
    assert (first.statuses, second.statuses) == ([RAFT_IOERR], [RAFT_LEADERSHIPLOST])
    assert (s.io.appends, raft_last_index(s.r)) == ([], 2)


def votes(s: Solo) -> list[tuple[bool, int]]:
    """Return (granted, term) of the RequestVoteResults sent."""
    answers = [m.request_vote_result for m in s.sent()]
    return [(a.vote_granted, a.term) for a in answers if a is not None]


def test_vote_of_who_does_not_know_that_it_is_a_voter_comes_in_the_end() -> None:
    """It is refused as in C for a long row of elections; then the candidate may need it to tell this server so."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER)
    term = 2
    for term in range(2, 2 + s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 2, 1))
    assert votes(s) == [(False, t) for t in range(2, term + 1)]
    s.recv(msg.request_vote(2, term + 1, 2, 1))
    assert votes(s) == [(True, term + 1)]


def test_word_from_a_leader_renews_the_patience() -> None:
    """The row of refusals has to be without a leader in between."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER)
    for term in range(2, 2 + s.r.vote_patience):
        s.recv(msg.request_vote(2, term, 2, 1))
    s.recv(msg.append_entries(2, term, 1, 1))
    s.sent()
    s.recv(msg.request_vote(2, term + 1, 2, 1, disrupt=True))
    assert votes(s) == [(False, term + 1)]


def test_longer_log_with_the_lower_term_learns_the_term_from_pre_votes() -> None:
    """Two servers that need each other's pre-vote, one with the longer log, one with the higher term, find together."""
    s = Solo(term=9)
    for _ in range(s.r.vote_patience):
        s.recv(msg.request_vote(2, 5, 7, 4, pre_vote=True))
    assert votes(s) == [(False, 5)] * s.r.vote_patience
    s.recv(msg.request_vote(2, 5, 7, 4, pre_vote=True))
    assert votes(s) == [(False, 9)]
    s.recv(msg.request_vote(2, 10, 7, 4, pre_vote=True))
    assert votes(s) == [(True, 10)]

"""The rarer paths of a leader and of membership changes, on one server against a scripted world."""

from typing import Any

from pyraft import (
    RAFT_BARRIER,
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOCONNECTION,
    RAFT_NOTLEADER,
    RAFT_SHUTDOWN,
    RAFT_SPARE,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftTracer,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_close,
    raft_errmsg,
    raft_last_index,
    raft_promote,
    raft_register_state_cb,
    raft_remove,
    raft_set_max_inflight_bytes,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from pyraft import replicate as core_replicate
from pyraft.progress import PROGRESS__PIPELINE, PROGRESS__PROBE, PROGRESS__SNAPSHOT
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, Statuses, change, command, configuration, leader

# Leaders: writes


def test_leaders_write_that_fails_after_it_stepped_down() -> None:
    """The log is cut and a change that was in it rolled back, though the leader is a follower by then."""
    s = leader()
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    s.recv(msg.append_entries(2, 3, 2, 2))
    assert s.state == RAFT_FOLLOWER
    assert s.r.configuration.n == 2
    s.io.finish_append(RAFT_IOERR)
    assert raft_last_index(s.r) == 2
    assert s.r.configuration.n == 3
    assert s.r.configuration_uncommitted_index == 0


def test_leaders_write_that_fails_when_it_is_candidate() -> None:
    """A candidacy among voters that are not voters any more ends with the rollback."""
    s = leader()
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    s.recv(msg.append_entries(2, 3, 2, 2))
    s.tick(1000)
    assert s.state == RAFT_CANDIDATE
    s.io.finish_append(RAFT_IOERR)
    assert s.state == RAFT_FOLLOWER
    assert s.r.configuration.n == 3


def test_leaders_write_that_ends_after_it_stepped_down() -> None:
    """last_stored advances, nothing is committed."""
    s = leader()
    command(s)
    s.recv(msg.append_entries(2, 3, 2, 2))
    s.io.finish_append()
    assert s.r.last_stored == 3
    assert s.r.commit_index == 2


def test_leaders_write_that_ends_during_an_installation() -> None:
    """The log that an installation replaced is kept up to date: if it fails, the entries are there and known to be
    stored."""
    for status, stored in ((0, 3), (RAFT_IOERR, 2)):
        s = leader()
        command(s)
        s.recv(msg.install_snapshot(2, 3, 9, 3, s.conf, 1, fsms.content(0, 0)))
        assert (raft_last_index(s.r), s.r.last_stored) == (9, 0)
        s.io.finish_append(status)
        s.io.finish_put(RAFT_IOERR)
        assert (raft_last_index(s.r), s.r.last_stored) == (stored, stored)


def test_follower_write_with_a_change_that_ends_during_an_installation() -> None:
    """A configuration that was stored during an installation that failed is put in force afterwards."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [change(1, configuration(1, 1))]))
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(0, 0)))
    s.io.finish_append()
    assert s.r.configuration.n == 3
    s.io.finish_put(RAFT_IOERR)
    assert s.r.last_stored == 2
    assert s.r.configuration.n == 2
    assert s.r.configuration_uncommitted_index == 2


def test_closing_from_the_callback_of_a_failed_write() -> None:
    """A callback that closes the server when its command fails; the second command still gets its own status."""
    s = leader()
    second = Statuses()
    req = RaftApply()
    assert raft_apply(s.r, req, [fsms.add_x(1)], 1, lambda q, status, x: raft_close(s.r, None)) == 0
    command(s, cb=second)
    s.io.finish_append(RAFT_IOERR)
    assert s.state == RAFT_UNAVAILABLE
    assert second.seen == [RAFT_LEADERSHIPLOST]


def test_closing_from_the_callback_of_a_request_that_loses_its_leader() -> None:
    """A callback that closes the server while it becomes unavailable anyway: everything ends once."""
    s = leader()
    seen = Statuses()
    command(s, cb=lambda q, status, x: raft_close(s.r, None))
    command(s, cb=seen)
    s.recv(msg.append_entries(2, 2, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert seen.seen == [RAFT_LEADERSHIPLOST]
    assert s.io.names().count("close") == 1


def test_removed_leader_whose_deferred_commands_cannot_be_written() -> None:
    """The flush of a leader on its way out may fail too; it steps down once."""
    s = leader(deferring=True)
    states: list[tuple[int, int]] = []
    raft_register_state_cb(s.r, lambda r, old, new: states.append((old, new)))
    done, lost = Statuses(), Statuses()
    assert raft_remove(s.r, RaftChange(), 1, done) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    command(s, cb=lost)
    s.io.fail("append", RAFT_IOERR)
    s.recv(msg.append_entries_result(3, 2, 3))
    assert states == [(RAFT_LEADER, RAFT_FOLLOWER)]
    assert done.seen == [0]
    assert lost.seen == [RAFT_IOERR]
    assert raft_last_index(s.r) == 3


def test_flush_that_ends_in_a_close_drops_the_message() -> None:
    """If giving out deferred commands fails and a callback closes the server, the message that caused it is dropped."""
    s = leader(deferring=True)
    command(s, cb=lambda q, status, x: raft_close(s.r, None))
    s.io.fail("append", RAFT_IOERR)
    s.recv(msg.append_entries(2, 9, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert s.r.current_term == 2
    s = leader(deferring=True)
    command(s, cb=lambda q, status, x: raft_close(s.r, None))
    s.io.fail("append", RAFT_IOERR)
    s.tick()
    assert s.state == RAFT_UNAVAILABLE


# Leaders: followers that are slow or wrong


def slow_follower(**options: Any) -> Solo:
    """Return a leader whose snapshot covers entry 5 and whose follower 3 needs it and was heard from."""
    s = leader(**options)
    raft_set_snapshot_threshold(s.r, 4)
    raft_set_snapshot_trailing(s.r, 1)
    for _ in range(3):
        command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 5))
    s.io.finish_put()
    s.recv(msg.append_entries_result(3, 2, 0, rejected=1))
    assert s.r.leader_state.progress[2].next_index == 1
    s.sent()
    s.io.calls.clear()
    return s


def test_pipeline_goes_back_to_probe_on_a_rejection() -> None:
    """A rejection beyond what is known to match ends the streaming; an older one is stale."""
    s = leader()
    command(s)
    progress = s.r.leader_state.progress[1]
    assert progress.state == PROGRESS__PIPELINE
    s.recv(msg.append_entries_result(2, 2, 2, rejected=2))
    assert progress.state == PROGRESS__PIPELINE
    s.recv(msg.append_entries_result(2, 2, 2, rejected=3))
    assert progress.state == PROGRESS__PROBE
    assert progress.next_index == 3


def test_results_of_strangers_are_ignored() -> None:
    """A result of a server that is not in the configuration, or of an older term, changes nothing."""
    s = leader()
    s.recv(msg.append_entries_result(9, 2, 99))
    s.recv(msg.append_entries_result(3, 1, 99))
    assert s.r.leader_state.progress[2].match_index == 0
    assert not s.r.leader_state.progress[2].recent_recv


def test_snapshot_that_cannot_be_read_is_tried_again() -> None:
    """A code of io.snapshot_get, or its failure, leads back to probing, the latter after the timeout."""
    s = slow_follower()
    progress = s.r.leader_state.progress[2]
    s.io.fail("snapshot_get", RAFT_IOERR)
    s.tick()
    assert progress.state == PROGRESS__PROBE
    s.tick()
    assert progress.state == PROGRESS__SNAPSHOT
    s.io.finish_get(RAFT_IOERR)
    assert progress.state == PROGRESS__SNAPSHOT
    assert [m for m in s.sent() if m.type == RAFT_IO_INSTALL_SNAPSHOT] == []


def test_snapshot_that_cannot_be_sent_is_tried_again() -> None:
    """An InstallSnapshot that io.send refuses, or that fails later, leads back to probing."""
    s = slow_follower()
    progress = s.r.leader_state.progress[2]
    s.tick()
    assert progress.state == PROGRESS__SNAPSHOT
    s.sent()
    s.io.fail("send", RAFT_IOERR)
    s.io.finish_get()
    assert progress.state == PROGRESS__PROBE
    s.tick()
    s.sent()
    s.io.finish_get()
    assert progress.state == PROGRESS__SNAPSHOT
    s.io.finish_sends(RAFT_NOCONNECTION)
    assert progress.state == PROGRESS__PROBE


def test_snapshot_that_was_read_too_late_is_not_sent() -> None:
    """A snapshot whose reading ends when the server leads no more, or the follower has gone, is not sent."""
    for what in ("deposed", "removed", "caught up"):
        s = slow_follower()
        s.tick()
        s.sent()
        if what == "deposed":
            s.recv(msg.append_entries(2, 3, 5, 2))
        elif what == "removed":
            assert raft_remove(s.r, RaftChange(), 3, None) == 0
        else:
            s.recv(msg.append_entries_result(3, 2, 5))
        s.sent()
        s.io.finish_get()
        assert [m for m in s.sent() if m.type == RAFT_IO_INSTALL_SNAPSHOT] == []


def test_refused_snapshot_is_tried_again() -> None:
    """A rejection of the snapshot's index leads back to probing; a rejection of another index is stale."""
    s = slow_follower()
    progress = s.r.leader_state.progress[2]
    s.tick()
    s.tick()  # a heartbeat, so that nothing is due when the rejection comes
    s.recv(msg.append_entries_result(3, 2, 0, rejected=3))
    assert progress.state == PROGRESS__SNAPSHOT
    s.recv(msg.append_entries_result(3, 2, 0, rejected=5))
    assert progress.state == PROGRESS__PROBE


def test_sends_that_fail_after_the_leadership_mean_nothing() -> None:
    """A message whose sending fails when the server leads no more changes nothing."""
    s = slow_follower()
    s.tick()
    s.io.finish_get()
    s.recv(msg.append_entries(2, 3, 5, 2))
    s.io.finish_sends(RAFT_NOCONNECTION)
    assert s.state == RAFT_FOLLOWER


def test_snapshot_of_a_follower_that_was_not_heard_from_waits() -> None:
    """A follower that is silent gets heartbeats, not a snapshot."""
    s = slow_follower()
    s.r.leader_state.progress[2].recent_recv = False
    s.tick()
    assert ("snapshot_get",) not in s.io.calls
    (heartbeat,) = [m.append_entries for m in s.sent() if m.server_id == 3]
    assert (heartbeat.prev_log_index, heartbeat.n_entries) == (5, 0)


def test_window_bounds_what_is_on_its_way() -> None:
    """No more is streamed than the window takes; heartbeats beyond it carry one entry, results re-open it."""
    s = leader()
    s.sent()
    raft_set_max_inflight_bytes(s.r, 64)
    for _ in range(5):
        command(s)
    assert [m.append_entries.prev_log_index for m in s.sent() if m.server_id == 2] == [2, 3]
    s.tick()
    (beat,) = [m.append_entries for m in s.sent() if m.server_id == 2]
    assert (beat.prev_log_index, beat.n_entries) == (4, 1)
    s.recv(msg.append_entries_result(2, 2, 5))
    (rest,) = [m.append_entries for m in s.sent() if m.server_id == 2]
    assert (rest.prev_log_index, rest.n_entries) == (5, 2)


# Membership


def test_promotion_judges_only_completed_rounds() -> None:
    """A result that raises match but does not reach the round's target decides nothing."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    command(s)
    assert raft_promote(s.r, RaftChange(), 3, None) == 0
    s.recv(msg.append_entries_result(3, 2, 1))
    assert (s.r.leader_state.promotee_id, s.r.leader_state.round_number) == (3, 1)
    s.recv(msg.append_entries_result(3, 2, 3))
    assert s.r.leader_state.promotee_id == 0


def test_promotion_whose_change_cannot_be_written() -> None:
    """If io.append refuses the CHANGE entry of a promotion, the server is as before, and the leader stops."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    done = Statuses()
    assert raft_promote(s.r, RaftChange(), 3, done) == 0
    s.io.fail("append", RAFT_IOERR)
    s.recv(msg.append_entries_result(3, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert s.r.configuration.servers[2].role == RAFT_SPARE
    assert done.seen == [RAFT_LEADERSHIPLOST]
    assert raft_last_index(s.r) == 2


def test_promotion_whose_first_message_raises() -> None:
    """An I/O table that raises when the first round begins: RAFT_SHUTDOWN and no callback."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    s.io.now += 1000
    s.io.raises("send", RuntimeError("network"))
    done = Statuses()
    assert raft_promote(s.r, RaftChange(), 3, done) == RAFT_SHUTDOWN
    assert s.state == RAFT_UNAVAILABLE
    assert done.seen == []


def test_last_server_cannot_be_removed() -> None:
    """A configuration without servers is RAFT_INVALID; the leader leads on."""
    s = Solo(RAFT_VOTER)
    assert raft_remove(s.r, RaftChange(), 1, None) == RAFT_INVALID
    assert raft_errmsg(s.r) == "a cluster cannot be without a voter"
    assert s.state == RAFT_LEADER
    assert s.r.configuration.n == 1


def test_result_that_removes_its_sender() -> None:
    """A result that commits the removal of its sender is its last one."""
    s = leader()
    assert raft_remove(s.r, RaftChange(), 2, None) == 0
    s.recv(msg.append_entries_result(3, 2, 3))
    assert s.r.commit_index == 2
    s.io.finish_append()
    assert s.r.commit_index == 3
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.state == RAFT_LEADER


def test_callback_that_removes_the_sender() -> None:
    """A callback that removes the server whose result is being digested."""
    s = leader()

    def remove(req: RaftApply, status: int, result: Any) -> None:
        assert raft_remove(s.r, RaftChange(), 2, None) == 0

    command(s, cb=remove)
    s.io.finish_appends()
    s.sent()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert [server.id for server in s.r.configuration.servers] == [1, 3]
    assert s.state == RAFT_LEADER


# Tracing


def test_tracer_hears_what_happens() -> None:
    """An enabled tracer gets a line for elections, terms, failed sends, snapshots, rollbacks and stops."""
    lines: list[str] = []
    s = Solo(terms=[1])
    s.r.tracer = RaftTracer(lambda t, file, line, func, level, message: lines.append(f"{file} {message}"), True, 1)
    s.io.fail("send", RAFT_IOERR)
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.fail("send", RAFT_IOERR)
    s.tick()
    raft_set_snapshot_threshold(s.r, 1)
    for status in (RAFT_IOERR, 0):
        command(s)
        s.io.finish_appends()
        s.recv(msg.append_entries_result(2, 2, raft_last_index(s.r)))
        s.io.finish_put(status)
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    s.recv(msg.append_entries(2, 3, 5, 2, 0, msg.commands([3])))
    s.io.fail("send", RAFT_IOERR)
    s.recv(msg.append_entries(2, 1, 1, 1))
    text = "\n".join(lines)
    for part in ("candidate", "leader", "term 2", "failed", "snapshot", "conflict", "is void", "stop", "unavailable"):
        assert part in text, part
    if core_replicate.__file__.endswith(".py"):  # compiled code has no frames to tell its place by
        assert all(line.startswith("pyraft/") for line in lines)


def test_barrier_entries_have_a_payload_of_eight_bytes() -> None:
    """Barriers are entries that any reader of the log takes."""
    s = leader()
    assert raft_barrier(s.r, RaftBarrier(), None) == 0
    batch = s.io.appends[-1][1]
    assert [(e.type, len(e.buf)) for e in batch] == [(RAFT_BARRIER, 8)]
    assert s.io.messages[-1].type == RAFT_IO_APPEND_ENTRIES


def test_assign_to_an_up_to_date_server_skips_the_catch_up() -> None:
    """A spare whose log is full becomes a voter without a round; another change waits."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    s.r.leader_state.progress[2].match_index = 2
    assert raft_assign(s.r, RaftChange(), 3, RAFT_VOTER, None) == 0
    assert s.r.configuration.servers[2].role == RAFT_VOTER
    assert s.r.leader_state.promotee_id == 0
    assert raft_add(s.r, RaftChange(), 4, "4", None) != 0


def test_requests_while_becoming_leader_are_refused() -> None:
    """The state callback that announces the leadership comes before its set-up: requests are too early there."""
    s = Solo()
    seen: list[int] = []

    def state_cb(r: Raft, old: int, new: int) -> None:
        if new == RAFT_LEADER:
            seen.append(raft_apply(r, RaftApply(), [fsms.add_x(1)], 1, None))

    raft_register_state_cb(s.r, state_cb)
    s.lead()
    assert seen == [RAFT_NOTLEADER]


def test_promotion_without_a_request_is_given_up_quietly() -> None:
    """A promotion that takes too long ends also if nobody is left to be told."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    assert raft_promote(s.r, RaftChange(), 3, None) == 0
    s.r.leader_state.change = None
    for _ in range(51):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 2))
    assert s.state == RAFT_LEADER
    assert s.r.leader_state.promotee_id == 0


def test_promotion_without_a_request_is_carried_out() -> None:
    """A promotion whose request is gone still makes its change."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    assert raft_promote(s.r, RaftChange(), 3, None) == 0
    s.r.leader_state.change = None
    s.recv(msg.append_entries_result(3, 2, 2))
    assert s.r.configuration.servers[2].role == RAFT_VOTER


def test_write_that_fails_during_an_installation_voids_the_one_behind_it() -> None:
    """Of two writes that an installation overtook, the second counts for nothing if the first fails."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.recv(msg.append_entries(2, 1, 2, 1, 0, msg.commands([1])))
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(0, 0)))
    s.io.finish_append(RAFT_IOERR)
    s.io.finish_append()
    s.io.finish_put(RAFT_IOERR)
    assert (raft_last_index(s.r), s.r.last_stored) == (1, 1)


def test_write_refused_by_a_flush_before_a_promotion() -> None:
    """If what was deferred cannot be written when a promotion is due, the leader steps down and promotes nobody."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE, deferring=True)
    done = Statuses()
    assert raft_promote(s.r, RaftChange(), 3, done) == 0
    command(s)
    s.io.fail("append", RAFT_IOERR)
    s.recv(msg.append_entries_result(3, 2, 2))
    assert s.state == RAFT_FOLLOWER
    assert s.r.configuration.servers[2].role == RAFT_SPARE
    assert done.seen == [RAFT_LEADERSHIPLOST]


def test_new_leader_tries_failed_sends_once_more() -> None:
    """A server that could not be sent the barrier of a new leader is tried again at once, in the round after it."""
    s = Solo()
    s.stand()
    s.io.fail("send", RAFT_NOCONNECTION, RAFT_IOERR)
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_LEADER
    assert [m.server_id for m in s.sent()] == [2, 3]


def test_promotion_is_given_up_after_more_than_the_longest_round() -> None:
    """At 5000 ms a round may still end well, beyond it is over."""
    s = leader(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)
    done = Statuses()
    assert raft_promote(s.r, RaftChange(), 3, done) == 0
    for _ in range(50):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 2))
    assert done.seen == []
    s.tick(1)
    assert done.seen == [RAFT_NOCONNECTION]


def test_window_is_empty_after_a_fall_back() -> None:
    """Messages on their way when a send failed are not counted any more, neither then nor when it is acknowledged."""
    s = leader()
    raft_set_max_inflight_bytes(s.r, 64)
    for _ in range(3):
        command(s)
    progress = s.r.leader_state.progress[1]
    assert progress.inflight_bytes == 64
    s.io.finish_sends(RAFT_NOCONNECTION)
    assert (progress.inflight_bytes, len(progress.inflight)) == (0, 0)
    s.io.messages.clear()
    s.recv(msg.append_entries_result(2, 2, 3))
    (rest,) = [m.append_entries for m in s.sent() if m.server_id == 2]
    assert (rest.prev_log_index, rest.n_entries) == (3, 2)
    assert progress.inflight_bytes == 64


def test_new_leader_has_a_whole_timeout_to_hear_from_the_others() -> None:
    """The clock of a leader starts when it is made, not when its election was."""
    s = Solo()
    s.stand()
    s.io.now += 900
    s.recv(msg.request_vote_result(2, 2))
    s.tick(100)
    assert s.state == RAFT_LEADER
    s.tick(900)
    assert s.state == RAFT_FOLLOWER


def test_failed_write_leaves_the_disks_words() -> None:
    """raft_errmsg after a write that failed is what the I/O says of it."""
    s = leader()
    command(s)
    s.io.errmsg = "disk on fire"
    s.io.finish_append(RAFT_IOERR)
    assert raft_errmsg(s.r) == "io: disk on fire"


def test_committed_configuration_outlives_its_entry() -> None:
    """The others have stored entry 3, our own write of it fails: so is lost what a later change is taken back to."""
    s = leader()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    s.recv(msg.append_entries_result(2, 2, 3))
    s.recv(msg.append_entries_result(3, 2, 3))
    assert raft_add(s.r, RaftChange(), 10, "10", None) == 0
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (3, 4)
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, raft_last_index(s.r)) == (RAFT_FOLLOWER, 2)
    assert [server.id for server in s.r.configuration.servers] == [1, 2, 3, 9]
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (3, 0)


def test_change_that_comes_again_after_it_was_committed_stays_committed() -> None:
    """The others have stored entry 3: it stays in force when our own write of it fails and it is sent again."""
    s = leader()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    conf = s.r.configuration
    s.recv(msg.append_entries_result(2, 2, 3))
    s.recv(msg.append_entries_result(3, 2, 3))
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (3, 0)
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, raft_last_index(s.r)) == (RAFT_FOLLOWER, 2)
    s.recv(msg.append_entries(2, 3, 2, 2, 3, [change(2, conf)]))
    s.io.finish_appends()
    assert s.r.last_stored == 3
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (3, 0)


def test_second_of_two_failing_writes_changes_nothing_more() -> None:
    """The first failure has cut the log and ended the leadership; the second finds nothing of its entries."""
    s = leader()
    first, second = Statuses(), Statuses()
    command(s, cb=first)
    command(s, cb=second)
    s.io.finish_append(RAFT_IOERR)
    assert (first.seen, second.seen) == ([RAFT_IOERR], [RAFT_LEADERSHIPLOST])
    s.recv(msg.append_entries(2, 3, 2, 2, 2, msg.commands([3])))
    s.io.finish_append(RAFT_IOERR)
    assert s.state == RAFT_FOLLOWER
    assert raft_last_index(s.r) == 3
    s.io.finish_append()
    assert s.r.last_stored == 3

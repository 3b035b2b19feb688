"""The rarer paths of a start, of elections and of a follower, on one server against a scripted world: faults at odd
moments, late completions, data from elsewhere that makes no sense.
"""

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_CANDIDATE,
    RAFT_COMMAND,
    RAFT_CORRUPT,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_MALFORMED,
    RAFT_NOCONNECTION,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftChange,
    RaftConfiguration,
    RaftEntry,
    RaftSnapshot,
    StderrTracer,
    raft_add,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_last_applied,
    raft_last_index,
    raft_register_state_cb,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_install_snapshot_timeout,
    raft_start,
)
from pyraft import apply as core_apply
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import BAD_CHANGE, ScriptIo, Solo, change, configuration, leader

# Starting


def test_start_of_what_was_never_initialised_is_invalid() -> None:
    """raft_start, raft_bootstrap and raft_close of a fresh Raft are RAFT_INVALID."""
    r = Raft()
    assert raft_start(r) == RAFT_INVALID
    assert raft_bootstrap(r, configuration(RAFT_VOTER)) == RAFT_INVALID
    assert raft_close(r, None) == RAFT_INVALID
    assert raft_errmsg(r) == "not initialized"


def test_init_of_what_is_in_use_is_refused() -> None:
    """raft_init of a server that was initialised and not closed is RAFT_BUSY; after its close it works."""
    s = Solo()
    assert raft_init(s.r, ScriptIo(), fsms.PairFsm(), 1, "1") == RAFT_BUSY
    raft_close(s.r, None)
    s.io.on_close(s.io)
    io = ScriptIo()
    io.term, io.stored = 1, [change(1, s.conf)]
    assert raft_init(s.r, io, fsms.PairFsm(), 1, "1") == 0
    assert raft_start(s.r) == 0
    assert s.state == RAFT_FOLLOWER


def test_bootstrap_with_nobody_is_invalid() -> None:
    """A configuration without servers is RAFT_INVALID."""
    s = Solo(start=False)
    assert raft_bootstrap(s.r, RaftConfiguration()) == RAFT_INVALID
    assert raft_errmsg(s.r) == "the configuration has no servers"


@pytest.mark.parametrize(("heartbeat", "election", "install"), [(0, 1000, 1), (1000, 1000, 1), (100, 1000, 0)])
def test_start_with_impossible_timeouts_is_invalid(heartbeat: int, election: int, install: int) -> None:
    """The heartbeat must be shorter than the election timeout, and no timeout 0."""
    s = Solo(start=False)
    raft_set_heartbeat_timeout(s.r, heartbeat)
    raft_set_election_timeout(s.r, election)
    raft_set_install_snapshot_timeout(s.r, install)
    assert raft_start(s.r) == RAFT_INVALID
    assert "load" not in s.io.names()
    raft_set_heartbeat_timeout(s.r, 100)
    raft_set_install_snapshot_timeout(s.r, 1)
    raft_set_election_timeout(s.r, 1000)
    assert raft_start(s.r) == 0


@pytest.mark.parametrize("name", ["load", "start"])
def test_start_that_fails_can_be_repeated(name: str) -> None:
    """A code of io.load or io.start leaves nothing behind."""
    s = Solo(terms=[1, 1], start=False)
    s.io.fail(name, RAFT_IOERR)
    assert raft_start(s.r) == RAFT_IOERR
    assert raft_errmsg(s.r) == f"io: {name} failed"
    assert s.state == RAFT_UNAVAILABLE
    assert raft_last_index(s.r) == 0
    assert raft_start(s.r) == 0
    assert raft_last_index(s.r) == 3


def test_start_that_fails_leaves_nothing_of_what_it_loaded() -> None:
    """If another disk is there at the next attempt, nothing of the first one is left, not even that it raised."""
    s = Solo(start=False)
    s.io.stored_snapshot, s.io.start_index = stored_snapshot(4, s.conf), 5
    s.io.stored = [change(1, configuration(1, 1)), *msg.commands([1]), change(1, configuration(1, 1, 1, 1))]
    s.io.raises("start", RuntimeError("port"))
    assert raft_start(s.r) == RAFT_IOERR
    s.io.stored_snapshot, s.io.start_index, s.io.stored = None, 1, []
    assert raft_start(s.r) == 0
    assert s.state == RAFT_FOLLOWER
    assert (raft_last_index(s.r), s.r.last_stored, s.r.commit_index, raft_last_applied(s.r)) == (0, 0, 0, 0)
    assert s.r.configuration.n == s.r.configuration_last_snapshot.n == 0
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (0, 0)
    s.tick()
    assert s.state == RAFT_FOLLOWER


def test_start_of_a_single_voter_that_cannot_store_its_vote() -> None:
    """The self-election's error is raft_start's; the server is unavailable."""
    for name in ("set_term", "set_vote"):
        s = Solo(RAFT_VOTER, start=False)
        s.io.fail(name, RAFT_IOERR)
        assert raft_start(s.r) == RAFT_IOERR
        assert raft_errmsg(s.r) == f"io: {name} failed"
        assert s.state == RAFT_UNAVAILABLE


def test_start_of_a_log_that_makes_no_sense_is_corrupt() -> None:
    """A first entry that is not a configuration, and a gap behind the snapshot, are RAFT_CORRUPT."""
    s = Solo(start=False)
    s.io.stored = msg.commands([1])
    assert raft_start(s.r) == RAFT_CORRUPT
    assert raft_errmsg(s.r) == "the log does not begin with a configuration"
    s = Solo(start=False)
    s.io.start_index = 3
    assert raft_start(s.r) == RAFT_CORRUPT
    assert "index 3" in raft_errmsg(s.r)
    s.io.stored_snapshot, s.io.stored, s.io.start_index = stored_snapshot(4, s.conf), [], 6
    assert raft_start(s.r) == RAFT_CORRUPT
    assert raft_errmsg(s.r) == "the log begins with index 6 instead of 5"
    for entry in (RaftEntry(0, RAFT_COMMAND, bytes(8)), RaftEntry(1, 9, bytes(8))):
        s = Solo(start=False)
        s.io.stored.append(entry)
        assert raft_start(s.r) == RAFT_CORRUPT
        assert raft_errmsg(s.r) == "the log has an entry without a term or of an unknown type"


@pytest.mark.parametrize(("index", "term", "n"), [(0, 1, 1), (4, 0, 1), (4, 1, 0), (4, 1, 2)])
def test_start_with_a_snapshot_that_is_none_is_corrupt(index: int, term: int, n: int) -> None:
    """It has no index or no term, or no or several pieces; -O does not change that."""
    s = Solo(start=False)
    found = stored_snapshot(index, s.conf)
    found.term, found.bufs = term, list(found.bufs) * n
    s.io.stored_snapshot, s.io.stored, s.io.start_index = found, [], index + 1
    assert raft_start(s.r) == RAFT_CORRUPT
    assert raft_errmsg(s.r) == f"a snapshot at index {index} of term {term} in {n} pieces"


def test_start_with_a_configuration_that_makes_no_sense_is_malformed() -> None:
    """A CHANGE entry that cannot be decoded is RAFT_MALFORMED."""
    s = Solo(start=False)
    s.io.stored.append(BAD_CHANGE)
    assert raft_start(s.r) == RAFT_MALFORMED
    assert raft_errmsg(s.r) != ""
    assert s.r.configuration.n == 0


def stored_snapshot(index: int, conf: RaftConfiguration) -> RaftSnapshot:
    """Return a snapshot of term 1 with x = 5, y = 6."""
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term = index, 1
    snapshot.configuration, snapshot.configuration_index = conf, 1
    snapshot.bufs = [fsms.content(5, 6)]
    return snapshot


def test_start_with_a_snapshot_that_the_fsm_refuses() -> None:
    """The code of fsm.restore is raft_start's, with a text that names the snapshot."""
    s = Solo(start=False)
    s.io.stored_snapshot, s.io.stored, s.io.start_index = stored_snapshot(4, s.conf), [], 5
    s.fsm.restore = lambda fsm, buf: RAFT_MALFORMED
    assert raft_start(s.r) == RAFT_MALFORMED
    assert raft_errmsg(s.r) == "restore snapshot 4: encoded data is malformed"
    assert raft_last_applied(s.r) == 0


def test_configurations_behind_a_snapshot_count() -> None:
    """Of the CHANGE entries behind the snapshot the newest is uncommitted, the one before it committed."""
    s = Solo(start=False)
    s.io.stored_snapshot, s.io.start_index = stored_snapshot(4, s.conf), 5
    s.io.stored = [change(1, configuration(1, 1)), *msg.commands([1]), change(1, configuration(1, 1, 1, 1))]
    assert raft_start(s.r) == 0
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (5, 7)
    assert s.r.configuration.n == 4


# Elections


def test_close_from_the_state_callback_of_a_candidate() -> None:
    """A callback that closes the server as it becomes candidate stops the election before it begins."""
    for alone in (False, True):
        s = Solo(*([RAFT_VOTER] if alone else []), start=False)
        raft_register_state_cb(s.r, lambda r, old, new: raft_close(r, None) if new == RAFT_CANDIDATE else None)
        raft_start(s.r)
        if not alone:
            s.tick(1000)
        assert s.state == RAFT_UNAVAILABLE
        assert "set_term" not in s.io.names()


def test_close_from_the_state_callback_of_a_follower() -> None:
    """A callback that closes the server as it steps down."""
    s = leader()
    raft_register_state_cb(s.r, lambda r, old, new: raft_close(r, None) if new == RAFT_FOLLOWER else None)
    s.recv(msg.append_entries(2, 9, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert s.sent() == []


def test_candidate_whose_next_round_cannot_be_stored() -> None:
    """A candidate that fails to store the next term, or the vote, becomes unavailable."""
    for name in ("set_term", "set_vote"):
        s = Solo()
        s.stand()
        s.io.fail(name, RAFT_IOERR)
        s.tick(1000)
        assert s.state == RAFT_UNAVAILABLE
        assert s.r.current_term == 2


def test_pre_vote_that_is_won_without_being_able_to_store() -> None:
    """The real election's first store fails: unavailable, in the old term."""
    s = Solo()
    s.r.pre_vote = True
    s.stand()
    s.io.fail("set_term", RAFT_IOERR)
    s.recv(msg.request_vote_result(2, 2, pre_vote=True))
    assert s.state == RAFT_UNAVAILABLE
    assert s.r.current_term == 1


def test_result_with_a_term_that_cannot_be_stored() -> None:
    """A candidate and a leader that cannot store the higher term of a result become unavailable."""
    for message in (msg.request_vote_result(2, 9, granted=False), msg.append_entries_result(2, 9, 2)):
        s = Solo()
        if message.append_entries_result is None:
            s.stand()
        else:
            s.lead()
        s.io.fail("set_term", RAFT_IOERR)
        s.recv(message)
        assert s.state == RAFT_UNAVAILABLE
        assert s.r.current_term == 2


def test_stopping_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A server that an error stops says so to the logger `pyraft`, once and with the reason; a close says nothing."""
    s = Solo()
    s.lead()
    s.io.fail("set_term", RAFT_IOERR)
    s.recv(msg.append_entries_result(2, 9, 2))
    assert s.state == RAFT_UNAVAILABLE
    s.tick(5000)
    s.recv(msg.append_entries_result(2, 9, 2))
    raft_close(s.r, None)
    lines = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    reason = "server 1 stops, until it is closed and started again: io: set_term failed"
    assert lines == [("pyraft", "ERROR", reason)]
    caplog.clear()
    raft_close(leader().r, None)
    assert caplog.records == []


def test_answers_of_older_candidates_and_versions() -> None:
    """A version 1 answer has no phase and counts; one of the other phase does not; a follower ignores all."""
    s = Solo()
    s.recv(msg.request_vote_result(2, 1))
    assert s.state == RAFT_FOLLOWER
    s.r.pre_vote = True
    s.stand()
    s.recv(msg.request_vote_result(2, 2, pre_vote=False))
    assert s.r.candidate_state.in_pre_vote
    s.recv(msg.request_vote_result(2, 2, version=1))
    assert not s.r.candidate_state.in_pre_vote


def test_leader_that_cannot_store_its_barrier_at_once() -> None:
    """If io.append refuses the barrier of a new leader the server becomes unavailable."""
    s = Solo()
    s.stand()
    s.io.fail("append", RAFT_IOERR)
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_last_index(s.r) == 1


def test_vote_of_a_server_with_nothing() -> None:
    """A voter with an empty log cannot be more up to date; but it does not vote before a leader has filled it up."""
    s = Solo(start=False)
    s.io.stored = []
    assert raft_start(s.r) == 0
    s.r.configuration = s.conf
    s.r.recovery_term = 2
    s.recv(msg.request_vote(2, 2, 0, 2))
    assert not s.reply().request_vote_result.vote_granted
    s.r.recovering = s.r.filling = False
    s.recv(msg.request_vote(2, 2, 0, 0))
    assert s.reply().request_vote_result.vote_granted


def test_vote_request_during_an_installation_is_refused() -> None:
    """While a snapshot is being installed no vote is given, but the term is adopted."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(0, 0)))
    s.recv(msg.request_vote(3, 5, 99, 5, disrupt=True))
    assert not s.reply().request_vote_result.vote_granted
    assert s.r.current_term == 5


# Messages that make no sense


def test_odd_messages_are_dropped() -> None:
    """An unknown type, a message without its member and one from server 0 are ignored."""
    s = Solo()
    for message in [msg.message(2, kind) for kind in (1, 2, 3, 4, 5, 6, 77)]:
        s.recv(message)
    s.recv(msg.append_entries(0, 9, 1, 1))
    assert s.io.names() == []
    assert s.state == RAFT_FOLLOWER
    assert s.r.current_term == 1


def test_second_leader_of_our_term_is_fatal() -> None:
    """A leader that hears from another leader of its own term stops: two servers have one id."""
    for message in (
        msg.append_entries(2, 2, 2, 2),
        msg.install_snapshot(2, 2, 9, 2, configuration(1, 1, 1), 1, fsms.content(0, 0)),
    ):
        s = leader()
        s.recv(message)
        assert s.state == RAFT_UNAVAILABLE
        assert raft_errmsg(s.r) == "server 2 leads term 2 as well"


def test_leader_that_contradicts_a_committed_entry_is_fatal() -> None:
    """A prev, or an entry, that conflicts with what is committed stops the follower."""
    for message in (msg.append_entries(2, 3, 2, 2), msg.append_entries(2, 3, 1, 1, 0, msg.commands([2]))):
        s = Solo(terms=[1], term=2)
        s.r.commit_index = 2
        s.recv(message)
        assert s.state == RAFT_UNAVAILABLE
        assert "committed" in raft_errmsg(s.r)


def test_stale_snapshot_is_refused() -> None:
    """An InstallSnapshot of an older term is refused with the current one."""
    s = Solo(term=5)
    s.recv(msg.install_snapshot(2, 4, 9, 4, s.conf, 1, fsms.content(0, 0)))
    result = s.reply().append_entries_result
    assert (result.term, result.rejected, result.last_log_index) == (5, 9, 1)
    assert s.io.puts == []


def test_term_that_cannot_be_stored_stops_whatever_brought_it() -> None:
    """InstallSnapshot, TimeoutNow and RequestVote of a higher term, with set_term failing: unavailable."""
    for message in (
        msg.install_snapshot(2, 4, 9, 4, configuration(1, 1, 1), 1, fsms.content(0, 0)),
        msg.request_vote(2, 4, 9, 4),
        msg.timeout_now(2, 4, 1, 1),
    ):
        s = Solo()
        if message.timeout_now is not None:
            s.recv(msg.append_entries(2, 1, 1, 1))
        s.io.fail("set_term", RAFT_IOERR)
        s.recv(message)
        assert s.state == RAFT_UNAVAILABLE
        assert s.r.current_term == 1


def test_reply_that_finds_no_connection_is_no_error() -> None:
    """RAFT_NOCONNECTION from io.send of a reply is ignored, any other code is fatal."""
    for code, state in ((RAFT_NOCONNECTION, RAFT_FOLLOWER), (RAFT_IOERR, RAFT_UNAVAILABLE)):
        s = Solo()
        s.io.fail("send", code)
        s.recv(msg.append_entries(2, 1, 1, 1))
        assert s.state == state


def test_change_that_cannot_be_decoded_is_not_acknowledged() -> None:
    """A CHANGE entry from a leader that makes no sense is stored but not answered, nor put in force."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, [BAD_CHANGE]))
    s.io.finish_appends()
    assert s.sent() == []
    assert s.r.configuration.n == 3
    assert raft_errmsg(s.r) != ""


def test_rollback_to_a_configuration_that_cannot_be_decoded() -> None:
    """If the committed configuration in the log makes no sense the server stops instead of going without one."""
    s = Solo(start=False)
    s.io.stored += [BAD_CHANGE, change(1, configuration(1, 1))]
    assert raft_start(s.r) == 0
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (2, 3)
    s.recv(msg.append_entries(2, 2, 2, 1, 0, msg.commands([2])))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "configuration has only 8 bytes"


# Followers' disks


def test_truncate_that_fails_is_fatal() -> None:
    """A code of io.truncate stops the follower."""
    s = Solo(terms=[1])
    s.io.fail("truncate", RAFT_IOERR)
    s.recv(msg.append_entries(2, 2, 1, 1, 0, msg.commands([2])))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "io: truncate failed"


def test_write_that_is_refused_is_fatal() -> None:
    """A code of io.append stops a follower."""
    s = Solo()
    s.io.fail("append", RAFT_IOERR)
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_last_index(s.r) == 1


def test_writes_that_end_on_an_unavailable_server() -> None:
    """They acknowledge nothing; a failed one still cuts the log."""
    for status, last in ((0, 2), (RAFT_IOERR, 1)):
        s = Solo()
        s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
        raft_close(s.r, None)
        s.io.finish_append(status)
        assert s.sent() == []
        assert raft_last_index(s.r) == last


def test_later_write_that_ends_after_an_earlier_one_failed() -> None:
    """A write behind a failed one says nothing about what is stored, and what is left out comes again (B35)."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.recv(msg.append_entries(2, 1, 2, 1, 0, msg.commands([1])))
    s.io.finish_append(RAFT_IOERR)
    assert raft_last_index(s.r) == 1
    s.sent()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1, 1])))
    s.io.finish_append()
    assert s.r.last_stored == 1, "entry 3 is stored, entry 2 is not"
    s.sent()
    s.io.finish_append()
    assert s.r.last_stored == 3
    assert s.reply().append_entries_result.last_log_index == 3


def test_write_whose_entries_were_replaced_meanwhile_is_not_acknowledged() -> None:
    """A write that ends after its entries were truncated tells the leader nothing."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.recv(msg.append_entries(3, 2, 1, 1, 0, msg.commands([2])))
    s.io.finish_append()
    assert s.sent() == []
    assert s.r.last_stored == 1
    s.io.finish_append()
    assert s.reply().append_entries_result.last_log_index == 2


def test_write_that_ends_without_a_known_leader_is_not_answered() -> None:
    """A follower that knows no leader any more has nobody to tell."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.r.follower_state.current_leader.id = 0
    s.r.follower_state.current_leader.address = None
    s.io.finish_append()
    assert s.sent() == []
    assert s.r.last_stored == 2


def test_fsm_error_stops_a_follower() -> None:
    """A code of fsm.apply ends in UNAVAILABLE when a message brought the commit, and is swallowed in a completion."""
    bad = [RaftEntry(1, 1, b"odd")]
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 2, bad))
    s.io.finish_append()
    assert s.state == RAFT_FOLLOWER
    assert s.sent() == []
    assert raft_last_applied(s.r) == 1
    s.recv(msg.append_entries(2, 1, 2, 1, 2))
    assert s.state == RAFT_FOLLOWER
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, bad))
    s.io.finish_append()
    s.sent()
    s.recv(msg.append_entries(2, 1, 2, 1, 2))
    assert s.state == RAFT_UNAVAILABLE


def test_apply_pass_ends_where_the_log_ends() -> None:
    """Entries that are committed but not in memory are left for later."""
    s = Solo(terms=[1])
    s.r.commit_index = 5
    assert core_apply.run(s.r) == 0
    assert raft_last_applied(s.r) == 2


def test_timeout_now_during_a_write_is_ignored() -> None:
    """A follower whose last entry is not on its disk yet does not stand (3.10)."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.recv(msg.timeout_now(2, 1, 2, 1))
    assert s.state == RAFT_FOLLOWER
    s.io.finish_append()
    s.recv(msg.timeout_now(2, 1, 2, 1))
    assert s.state == RAFT_CANDIDATE


def test_environment_switches_tracing_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With LIBRAFT_TRACE set, a start tells on stderr what it has loaded; without it nothing is told."""
    Solo(terms=[1, 1])
    assert capsys.readouterr().err == ""
    for name in ("enabled", "level"):
        monkeypatch.setattr(StderrTracer, name, getattr(StderrTracer, name))
    monkeypatch.setenv("LIBRAFT_TRACE", "1")
    Solo(terms=[1, 1])
    assert "loaded: term 1, 3 entries from index 1" in capsys.readouterr().err


def test_timer_is_drawn_anew_while_the_disk_is_busy() -> None:
    """A follower whose timer runs out during a write waits for another whole timeout after that."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 0, msg.commands([1])))
    s.tick(1000)
    s.io.finish_append()
    s.tick(900)
    assert s.state == RAFT_FOLLOWER
    s.tick(100)
    assert s.state == RAFT_CANDIDATE


def test_real_votes_do_not_count_in_the_pre_vote() -> None:
    """An answer of the other phase is ignored, whichever phase that is."""
    s = Solo()
    s.r.pre_vote = True
    s.stand()
    s.recv(msg.request_vote_result(2, 2, pre_vote=False))
    assert s.r.candidate_state.votes == [True, False, False]
    s.recv(msg.request_vote_result(2, 2, pre_vote=True))
    assert not s.r.candidate_state.in_pre_vote
    s.recv(msg.request_vote_result(3, 2, pre_vote=True))
    assert s.r.candidate_state.votes == [True, False, False]


def test_committed_configuration_outlives_what_stands_in_its_place() -> None:
    """A peer that lies sends a command for the index of a committed change that is gone; its write fails as well."""
    s = leader()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    s.recv(msg.append_entries_result(2, 2, 3))
    s.recv(msg.append_entries_result(3, 2, 3))
    s.io.finish_append(RAFT_IOERR)
    s.recv(msg.append_entries(2, 3, 2, 2, 2, msg.commands([3])))
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, raft_last_index(s.r)) == (RAFT_FOLLOWER, 2)
    assert [server.id for server in s.r.configuration.servers] == [1, 2, 3, 9]

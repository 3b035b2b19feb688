"""The rarer paths of taking and installing snapshots, on one server against a scripted world."""

from typing import Any

import pytest

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_MALFORMED,
    RAFT_TOOBIG,
    RAFT_UNAVAILABLE,
    RaftBuffer,
    RaftEntry,
    RaftMessage,
    RaftSnapshot,
    raft_close,
    raft_errmsg,
    raft_last_applied,
    raft_last_index,
    raft_set_election_timeout,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    snapshot,
)
from pyraft.flags import PROVEN_ANSWERS
from pyraft.progress import PROGRESS__PROBE, PROGRESS__SNAPSHOT
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import BAD_CHANGE, ScriptIo, Solo, change, command, configuration, leader


def test_snapshot_during_an_installation_is_not_answered() -> None:
    """A second InstallSnapshot while one is being stored, or an own one taken, gets no answer."""
    s = Solo()
    message = msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1))
    s.recv(message)
    s.recv(message)
    assert len(s.io.puts) == 1
    assert s.sent() == []
    assert s.state == RAFT_FOLLOWER


def take_snapshot(s: Solo) -> None:
    """Have a leader of term 2 commit a command as entry 3, and take a snapshot that leaves no log before its end."""
    raft_set_snapshot_threshold(s.r, 1)
    raft_set_snapshot_trailing(s.r, 0)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.finish_put()


def acknowledged(s: Solo) -> int:
    """Return up to where the one answer to the leader acknowledges."""
    result = s.reply().append_entries_result
    assert result.rejected == 0
    return result.last_log_index


@pytest.mark.parametrize("status", [0, RAFT_IOERR])
def test_snapshot_of_a_new_leader_waits_for_that_of_the_leader_before(status: int) -> None:
    """A snapshot that is being installed answers to nobody in the new term; the new leader would wait for its timeout
    (B53)."""
    s = Solo(terms=[2, 2], term=2)
    s.recv(msg.install_snapshot(2, 2, 9, 2, s.conf, 1, fsms.content(7, 0)))
    s.recv(msg.append_entries(3, 3, 20, 3))
    s.recv(msg.install_snapshot(3, 3, 12, 2, s.conf, 1, fsms.content(8, 0)))
    s.sent()
    s.io.finish_put(status)
    s.io.finish_put()
    assert (raft_last_index(s.r), s.fsm.x, s.io.puts) == (12, 8, [])
    assert acknowledged(s) == 12


def test_snapshot_that_two_leaders_have_sent_is_acknowledged_to_the_second() -> None:
    """It is the one that the leader before has sent."""
    s = Solo(terms=[2, 2], term=2)
    s.recv(msg.install_snapshot(2, 2, 9, 2, s.conf, 1, fsms.content(7, 0)))
    s.recv(msg.install_snapshot(3, 3, 9, 2, s.conf, 1, fsms.content(7, 0)))
    s.io.finish_put()
    assert acknowledged(s) == 9
    assert s.io.puts == []


@pytest.mark.parametrize("status", [0, RAFT_IOERR])
def test_snapshot_of_entries_that_are_being_written_is_acknowledged_when_they_are_stored(status: int) -> None:
    """They came from a leader before, to whom nobody answers any more; or they could not be stored."""
    s = Solo(terms=[1], term=1)
    s.io.features = PROVEN_ANSWERS
    s.recv(msg.append_entries(2, 1, 2, 1, entries=[RaftEntry(1, 1, bytes(8)), RaftEntry(1, 1, bytes(8))]))
    s.recv(msg.install_snapshot(3, 2, 4, 1, s.conf, 1, fsms.content(1, 1)))
    s.tick(100)
    assert s.sent() == []
    s.io.finish_append(status)
    s.sent()
    s.tick(100)
    result = s.reply().append_entries_result
    assert (result.rejected, result.last_log_index) == ((0, 4) if status == 0 else (4, 2))
    s.tick(100)
    assert (s.sent(), s.io.puts) == ([], [])


def test_snapshot_of_entries_that_are_being_written_is_acknowledged_at_once_as_by_c() -> None:
    """The I/O is of C's kind."""
    s = Solo(terms=[1], term=1)
    s.recv(msg.append_entries(2, 1, 2, 1, entries=[RaftEntry(1, 1, bytes(8))]))
    s.recv(msg.install_snapshot(2, 1, 3, 1, s.conf, 1, fsms.content(1, 1)))
    assert acknowledged(s) == 3


def test_snapshot_that_is_not_newer_is_acknowledged() -> None:
    """A snapshot at or below the own one is acknowledged without more ado."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    s.io.finish_put()
    s.sent()
    s.recv(msg.install_snapshot(2, 1, 8, 1, s.conf, 1, fsms.content(1, 1)))
    assert s.io.puts == []
    assert s.reply().append_entries_result.last_log_index == 8


def test_entries_behind_what_the_own_snapshot_has_replaced_match_in_the_end() -> None:
    """A leader whose snapshot reaches less far than ours may have nothing else to go on from; C rejects it for ever."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    s.io.finish_put()
    s.sent()
    behind = msg.append_entries(2, 1, 8, 1, 10, msg.commands([1, 1]))
    for _ in range(snapshot.MAX_REFUSALS):
        s.recv(behind)
        assert s.reply().append_entries_result.rejected == 8
    s.recv(behind)
    s.io.finish_appends()
    assert s.reply().append_entries_result.last_log_index == 10
    assert (raft_last_index(s.r), s.r.commit_index) == (10, 10)


def test_entries_during_an_installation_are_dropped_silently() -> None:
    """While a snapshot is being stored entries are dropped, heartbeats answered, and nothing is committed."""
    s = Solo(terms=[1])
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    s.recv(msg.append_entries(2, 1, 9, 1, 9, msg.commands([1])))
    assert s.sent() == []
    s.recv(msg.append_entries(2, 1, 9, 1, 9))
    assert s.reply().append_entries_result.last_log_index == 0
    assert s.r.commit_index == 1


def test_installation_that_io_refuses() -> None:
    """A code of io.snapshot_put stops the follower, its log as before."""
    s = Solo(terms=[1])
    s.io.fail("snapshot_put", RAFT_IOERR)
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    assert s.state == RAFT_UNAVAILABLE
    assert (raft_last_index(s.r), s.r.last_stored) == (2, 2)


def test_installation_that_ends_on_an_unavailable_server_is_dropped() -> None:
    """Nothing is restored."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    raft_close(s.r, None)
    s.io.finish_put()
    assert s.fsm.restored == []
    assert s.r.snapshot.put is None


def test_installation_that_ends_in_another_term_is_not_answered() -> None:
    """The new leader did not ask; the state is restored all the same."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    s.recv(msg.append_entries(3, 2, 9, 1))
    s.sent()
    s.io.finish_put()
    assert s.sent() == []
    assert s.fsm.restored == [(1, 1)]
    assert raft_last_applied(s.r) == 9


def test_snapshot_that_the_fsm_refuses_blocks_new_entries() -> None:
    """The disk begins behind the refused snapshot, so no entry may be stored before a retry has succeeded."""
    s = Solo(terms=[1])
    restore = s.fsm.restore
    s.fsm.restore = lambda fsm, buf: RAFT_MALFORMED
    message = msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1))
    s.recv(message)
    s.io.finish_put()
    result = s.reply().append_entries_result
    assert (result.rejected, result.last_log_index) == (9, 2)
    assert s.state == RAFT_FOLLOWER
    s.recv(msg.append_entries(2, 1, 2, 1))
    assert s.reply().append_entries_result.last_log_index == 2
    s.fsm.restore = restore
    s.recv(message)
    s.io.finish_put()
    assert s.reply().append_entries_result.last_log_index == 9
    s.recv(msg.append_entries(2, 1, 9, 1, 9, msg.commands([1])))
    s.io.finish_append()
    assert s.reply().append_entries_result.last_log_index == 10

    s = Solo(terms=[1])
    s.fsm.restore = lambda fsm, buf: RAFT_MALFORMED
    s.recv(message)
    s.io.finish_put()
    s.recv(msg.append_entries(2, 1, 2, 1, 1, msg.commands([1])))
    assert s.state == RAFT_UNAVAILABLE
    assert "refused snapshot 9" in raft_errmsg(s.r)


def test_snapshot_of_a_configuration_that_cannot_be_decoded_is_not_taken() -> None:
    """A committed configuration in the log that makes no sense fails the snapshot, not the log."""
    s = Solo(start=False)
    s.io.stored += [BAD_CHANGE, change(1, configuration(1, 1, 1))]
    assert raft_start(s.r) == 0
    raft_set_snapshot_threshold(s.r, 1)
    s.recv(msg.append_entries(2, 1, 3, 1, 2))
    assert s.io.puts == []
    assert s.state == RAFT_UNAVAILABLE


def test_fsm_error_is_not_hidden_by_a_snapshot() -> None:
    """A failing fsm.apply is reported even if the same pass takes a snapshot (B32)."""
    s = Solo()
    raft_set_snapshot_threshold(s.r, 1)
    entries = [*msg.commands([1]), RaftEntry(1, 1, b"odd")]
    s.recv(msg.append_entries(2, 1, 1, 1, 1, entries))
    s.io.finish_append()
    s.sent()
    s.recv(msg.append_entries(2, 1, 3, 1, 3))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_last_applied(s.r) == 2


def test_snapshot_that_ends_on_an_unavailable_server() -> None:
    """An own snapshot that was stored when the server had stopped is still taken note of, and the FSM's lock freed."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    raft_close(s.r, None)
    s.io.finish_put()
    assert s.r.log.snapshot.last_index == 3
    assert not s.fsm.locked


def test_snapshot_that_cannot_be_stored_leaves_the_log() -> None:
    """A put that fails changes nothing; the next apply takes another snapshot."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    raft_set_snapshot_trailing(s.r, 1)
    for index, status, first in ((3, RAFT_IOERR, 1), (4, 0, 4)):
        command(s)
        s.io.finish_appends()
        s.recv(msg.append_entries_result(2, 2, index))
        s.io.finish_put(status)
        assert s.r.log.offset + 1 == first
    assert s.fsm.n_finalized == s.fsm.n_snapshots == 2


def test_entries_that_a_snapshot_has_replaced_count_as_present() -> None:
    """A message from entry 1 on, to a follower that has compacted its log, adds only what is new (B36)."""
    s = Solo()
    raft_set_snapshot_threshold(s.r, 4)
    raft_set_snapshot_trailing(s.r, 1)
    entries = [change(1, s.conf), *msg.commands([1] * 6)]
    s.recv(msg.append_entries(2, 1, 1, 1, 5, entries[1:5]))
    s.io.finish_appends()
    s.io.finish_put()
    assert (s.r.log.offset, s.r.log.snapshot.last_index) == (4, 5)
    s.sent()
    s.recv(msg.append_entries(2, 1, 0, 0, 5, entries))
    assert [len(batch) for _req, batch, _cb in s.io.appends] == [2]
    s.io.finish_appends()
    assert s.reply().append_entries_result.last_log_index == 7
    s.recv(msg.append_entries(2, 1, 0, 0, 5, entries[:2]))
    assert s.reply().append_entries_result.last_log_index == 2
    assert raft_last_index(s.r) == 7


def test_snapshot_that_io_refuses_is_tried_again() -> None:
    """After a code of io.snapshot_put, or io.async_work, the next apply takes the snapshot."""
    for part, snapshot_async in (("snapshot_put", False), ("async_work", True)):
        s = leader(fsm=fsms.PairFsm(3, snapshot_async=snapshot_async))
        raft_set_snapshot_threshold(s.r, 1)
        s.io.fail(part, RAFT_IOERR)
        for index in (3, 4):
            command(s)
            s.io.finish_appends()
            s.recv(msg.append_entries_result(2, 2, index))
        if snapshot_async:
            s.io.finish_work()
        s.io.finish_put()
        assert s.r.log.snapshot.last_index == 4
        assert s.state == RAFT_LEADER


def test_start_with_the_snapshots_own_configuration_in_the_log() -> None:
    """A trailing CHANGE entry that the snapshot covers tells nothing new: the configuration is committed."""
    s = Solo(start=False)
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term = 4, 1
    snapshot.configuration, snapshot.configuration_index = configuration(1, 1), 3
    snapshot.bufs = [fsms.content(0, 0)]
    s.io.stored_snapshot, s.io.start_index = snapshot, 3
    s.io.stored = [change(1, configuration(1, 1)), *msg.commands([1, 1])]
    assert raft_start(s.r) == 0
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (3, 0)
    assert s.r.configuration.n == 2
    assert (raft_last_applied(s.r), raft_last_index(s.r)) == (4, 5)


def test_installed_snapshot_ends_a_change_that_was_under_way() -> None:
    """The configuration of the snapshot is committed, and an uncommitted one of the old log is forgotten."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [change(1, configuration(1, 1))]))
    s.io.finish_append()
    assert s.r.configuration_uncommitted_index == 2
    s.recv(msg.install_snapshot(2, 1, 9, 1, configuration(1, 1, 1), 4, fsms.content(1, 1)))
    s.io.finish_put()
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (4, 0)
    assert s.r.configuration.n == s.r.configuration_last_snapshot.n == 3


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, RaftBuffer], ids=lambda kind: kind.__name__)
def test_loaded_snapshot_may_be_any_buffer(wrap: Any) -> None:
    """The buffer that io.load returns reaches fsm.restore as a read-only bytes-like object."""
    s = Solo(start=False)
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term, snapshot.configuration_index = 4, 1, 1
    snapshot.configuration, snapshot.bufs = s.conf, [wrap(fsms.content(5, 6))]
    s.io.stored_snapshot, s.io.start_index, s.io.stored = snapshot, 5, []
    seen: list[Any] = []
    s.fsm.restore = lambda fsm, buf: seen.append(buf) or 0
    assert raft_start(s.r) == 0
    assert [bytes(buf) for buf in seen] == [fsms.content(5, 6)]
    assert memoryview(seen[0]).readonly


def test_snapshot_that_contradicts_a_committed_entry_is_fatal() -> None:
    """A snapshot that ends at a committed entry with another term takes nothing back: the server stops."""
    s = Solo(terms=[1])
    s.r.commit_index = 2
    s.recv(msg.install_snapshot(2, 3, 2, 3, s.conf, 1, fsms.content(4, 5)))
    assert s.state == RAFT_UNAVAILABLE
    assert raft_errmsg(s.r) == "entry 2 is committed and contradicts the leader's"
    assert s.io.puts == []
    assert raft_last_index(s.r) == 2


def test_old_term_is_never_answered_with_what_reads_as_a_success() -> None:
    """By the time that the answer arrives its receiver may lead the term that it speaks of."""
    s = Solo(terms=[1, 1, 2], term=5)
    s.recv(msg.append_entries(2, 4, 0, 0, 0, msg.commands([1])))
    result = s.reply().append_entries_result
    assert (result.term, result.last_log_index) == (5, 4)
    assert result.rejected > 0


def test_leader_that_sends_a_superfluous_snapshot_again_and_again_is_helped_sooner() -> None:
    """Each of them stands for a whole install_snapshot_timeout in which nothing went on."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    s.io.finish_put()
    s.sent()
    rounds = 0
    while s.r.last_stored < 10:
        rounds += 1
        s.recv(msg.install_snapshot(2, 1, 8, 1, s.conf, 1, fsms.content(1, 1)))
        s.recv(msg.append_entries(2, 1, 8, 1, 10, msg.commands([1, 1])))
        s.io.finish_appends()
    assert 1 < rounds < 5


def test_strides_that_pass_where_the_logs_meet_end_in_one_snapshot() -> None:
    """As B52 has it: the server holds entries up to 12 of ours, we still have those behind 10; next is 6 then."""

    def answer(last: int, rejected: int = 0) -> None:
        message = msg.append_entries_result(3, 2, last, rejected)
        assert message.append_entries_result is not None
        message.append_entries_result.features = PROVEN_ANSWERS
        s.recv(message)

    s = leader()
    raft_set_snapshot_trailing(s.r, 5)
    for _ in range(18):
        command(s)
    s.io.finish_appends()
    raft_set_snapshot_threshold(s.r, 15)
    s.recv(msg.append_entries_result(2, 2, 15))
    s.io.finish_put()
    s.recv(msg.append_entries_result(2, 2, 20))
    assert (s.r.log.offset, raft_last_index(s.r)) == (10, 20)
    p = s.r.leader_state.progress[2]
    p.next_index = 21
    p.state = PROGRESS__PROBE
    probed = []
    for rejected in (20, 19, 17, 13):
        answer(30, rejected)
        probed.append(p.next_index)
        s.recv(msg.append_entries_result(2, 2, 20))
        s.tick()
    assert probed == [20, 18, 14, 6]
    assert (p.state, len(s.io.gets)) == (PROGRESS__SNAPSHOT, 1)
    s.io.finish_get()
    answer(15)
    for _ in range(5):
        s.recv(msg.append_entries_result(2, 2, 20))
        s.tick()
    answer(20)
    assert (p.match_index, s.io.gets) == (20, [])


@pytest.mark.parametrize("newer", [False, True])
def test_snapshot_that_was_read_for_an_earlier_leadership_is_superfluous_and_no_more(newer: bool) -> None:
    """As in C it is sent by the same server's next leadership, in its term: what is in it is committed all the same.

    An acknowledgment of the older of two does not pass for one of the newer.
    """
    s = leader()
    take_snapshot(s)
    old = s.io.stored_snapshot
    s.recv(msg.append_entries_result(3, 2, 0, rejected=2))
    s.tick()
    s.recv(msg.append_entries(2, 3, 3, 2, 3))
    assert (s.state, len(s.io.gets)) == (RAFT_FOLLOWER, 1)
    s.lead()
    if newer:
        s.io.finish_put()
        assert s.io.stored_snapshot is not old
    term, last = s.r.current_term, s.r.last_stored
    s.recv(msg.append_entries_result(3, term, 0, rejected=last - 1))
    s.tick()
    s.tick()
    p = s.r.leader_state.progress[2]
    assert (p.state, len(s.io.gets)) == (PROGRESS__SNAPSHOT, 2)
    s.sent()
    new, s.io.stored_snapshot = s.io.stored_snapshot, old
    s.io.finish_get()
    s.io.stored_snapshot = new
    s.io.finish_get()
    both = [m.install_snapshot for m in s.sent() if m.install_snapshot is not None]
    assert old is not None
    assert new is not None
    assert [(m.term, m.last_index) for m in both] == [(term, old.index), (term, new.index)]
    s.recv(msg.append_entries_result(3, term, old.index))
    assert p.match_index == old.index
    assert p.state == (PROGRESS__SNAPSHOT if newer else PROGRESS__PROBE)
    s.recv(msg.append_entries_result(3, term, new.index))
    assert (p.match_index, p.state) == (new.index, PROGRESS__PROBE)
    s.tick()
    assert s.io.gets == []


@pytest.mark.parametrize("n", [0, 2, None])
def test_snapshot_that_was_read_in_pieces_stops_the_leader(n: int | None) -> None:
    """Such a snapshot cannot be sent; the maker of the I/O table is told, with -O too."""
    s = leader()
    take_snapshot(s)
    s.recv(msg.append_entries_result(3, 2, 1, rejected=2))
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 1, rejected=1))
    s.tick()
    assert len(s.io.gets) == 1
    if n is None:
        s.io.stored_snapshot = None
    else:
        s.io.stored_snapshot.bufs = list(s.io.stored_snapshot.bufs) * n
    s.io.finish_get()
    assert s.state == RAFT_UNAVAILABLE
    assert "not in one piece" in raft_errmsg(s.r)


def test_snapshot_that_a_server_does_not_stand_is_not_read_again_at_once() -> None:
    """If the I/O says that it is too large for its receiver it counts as sent: the disk is left alone for a while."""
    s = leader(deferring=False)
    take_snapshot(s)
    s.recv(msg.append_entries_result(3, 2, 1, rejected=2))
    s.tick()
    s.recv(msg.append_entries_result(3, 2, 1, rejected=1))
    s.tick()
    raft_set_snapshot_threshold(s.r, 100)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 4))
    s.io.fail("send", RAFT_TOOBIG)
    s.io.finish_get()
    for _ in range(100):
        s.recv(msg.append_entries_result(2, 2, 4))
        s.recv(msg.append_entries_result(3, 2, 1, rejected=4))
        s.tick()
    assert s.io.gets == []
    assert sum(message.server_id == 3 for message in s.sent()) > 90
    s.recv(msg.append_entries_result(2, 2, 4))
    s.tick(30_000)
    s.recv(msg.append_entries_result(3, 2, 1, rejected=4))
    s.tick()
    assert len(s.io.gets) == 1


def test_entries_that_a_server_does_not_stand_do_not_cost_the_leadership() -> None:
    """If the I/O says that they are too large for their receiver it gets heartbeats, and the entries when they pass."""
    s = leader(deferring=False)
    send, stands = s.io.send, False

    def refuse(io: ScriptIo, req: Any, message: RaftMessage, cb: Any) -> int:
        args = message.append_entries
        if not stands and message.server_id == 3 and args is not None and args.n_entries > 0:
            return RAFT_TOOBIG
        return send(io, req, message, cb)

    s.io.send = refuse
    s.recv(msg.append_entries_result(3, 2, 2))
    command(s)
    s.io.finish_appends()
    s.sent()

    def beat() -> list[tuple[int, int]]:
        s.recv(msg.append_entries_result(2, 2, 3))
        s.recv(msg.append_entries_result(3, 2, 2, rejected=3))
        s.tick()
        found = [message.append_entries for message in s.sent() if message.server_id == 3]
        return [(args.prev_log_index, args.n_entries) for args in found if args is not None]

    assert [beat() for _ in range(20)] == [[(3, 0)]] * 20
    stands = True
    assert beat() == [(2, 1)]
    assert s.state == RAFT_LEADER


def test_buffers_are_given_back_when_the_snapshot_is_over() -> None:
    """fsm.snapshot_finalize may call into the server, for which no snapshot is under way any more."""
    s = leader()
    seen: list[object] = []
    s.fsm.snapshot_finalize = lambda fsm, bufs: (seen.append(s.r.snapshot.pending), 0)[1]
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert s.r.snapshot.pending is not None
    s.io.finish_put()
    assert seen == [None]


@pytest.mark.parametrize("refused", [False, True])
def test_heartbeats_of_a_leader_that_probes_are_not_taken_for_the_snapshot(refused: bool) -> None:
    """Five were under way to a server that had been away, with the snapshot's last entry as the predecessor.

    The rejection of each passed for one of the snapshot (B48), which was read and sent once more for it. A further one
    may be the snapshot's; the first answer to a heartbeat beside it tells.
    """
    s = leader()
    s.io.features = PROVEN_ANSWERS
    raft_set_election_timeout(s.r, 10**9)
    take_snapshot(s)
    for _ in range(5):
        s.tick()
    p = s.r.leader_state.progress[2]
    s.recv(msg.append_entries_result(3, 2, 1, 3))
    s.tick()
    s.io.finish_get()
    for _ in range(4):
        s.io.now += 10
        s.recv(msg.append_entries_result(3, 2, 1, 3))
        assert (p.state, s.io.gets) == (PROGRESS__SNAPSHOT, [])
    s.tick()
    if refused:
        s.recv(msg.append_entries_result(3, 2, 1, 3))
    s.io.now += 50  # what was sent before the snapshot is answered no later than so long after it
    s.recv(msg.append_entries_result(3, 2, 0))
    assert p.state == (PROGRESS__PROBE if refused else PROGRESS__SNAPSHOT)

"""Configurations of a log that is being applied once more after a restart: what is known to be committed stays known.

A server that starts puts the newest configuration of its log in force and takes the one before it for committed, though
neither is applied yet. Then it applies older ones on the way there.
"""

from pyraft import (
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_STANDBY,
    RAFT_VOTER,
    Raft,
    RaftChange,
    RaftConfiguration,
    RaftEntry,
    RaftSnapshot,
    raft_add,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
)
from pyraft import snapshot as snapshots
from pyraft.reads import SLICE_MSECS
from tests.integration.test_apply_in_pieces import Later
from tests.lib import messages as msg
from tests.lib.fsm import content
from tests.lib.solo import Solo, change, configuration

OLD = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
COMMITTED = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)
UNCOMMITTED = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY, RAFT_VOTER)


def restarted(compacted: bool = False) -> Solo:
    """Return a follower whose log has configurations as entries 1, 3 and 5, and one that is not committed as entry 7.

    Entry 1 alone is applied, or a snapshot has taken the place of the first two.
    """
    s = Solo(start=False)
    (command,) = msg.commands([1])
    log = [s.io.stored[0], command, change(1, OLD), command, change(1, COMMITTED), command, change(1, UNCOMMITTED)]
    s.io.stored = [RaftEntry(entry.term, entry.type, entry.buf) for entry in log]
    if compacted:
        s.io.stored_snapshot = snapshot = RaftSnapshot()
        snapshot.index, snapshot.term, snapshot.configuration_index = 2, 1, 1
        snapshot.configuration, snapshot.bufs = s.conf, [content(0, 0)]
        s.io.start_index, s.io.stored = 3, s.io.stored[2:]
    assert raft_start(s.r) == 0
    assert roles(s.r.configuration) == roles(UNCOMMITTED)
    assert indexes(s.r) == (5, 7)
    return s


def roles(conf: RaftConfiguration) -> list[int]:
    """Return the roles in a configuration."""
    return [server.role for server in conf.servers]


def indexes(r: Raft) -> tuple[int, int]:
    """Return the indexes of the configurations, (committed, uncommitted)."""
    return r.configuration_committed_index, r.configuration_uncommitted_index


def test_an_old_configuration_is_not_rolled_back_to() -> None:
    """Entry 3 is applied, and then the last entry cut off: the one that was committed last, entry 5, is in force.

    A leader whose messages are short (B31) brings it about, or one whose commit index is old.
    """
    s = restarted()
    s.recv(msg.append_entries(2, 2, 4, 1, commit=4))
    assert s.r.last_applied == 4
    s.recv(msg.append_entries(2, 2, 6, 1, commit=4, entries=msg.commands([2])))
    assert s.io.stored[-1].term == 1
    s.io.finish_appends()
    assert roles(s.r.configuration) == roles(COMMITTED)
    assert indexes(s.r) == (5, 0)
    s.recv(msg.append_entries(2, 2, 7, 2, commit=7))
    assert s.r.last_applied == 7
    assert roles(s.r.configuration) == roles(COMMITTED)
    assert indexes(s.r) == (5, 0)


def test_a_snapshot_has_no_configuration_from_behind_its_end() -> None:
    """None is taken before the configuration that is known to be committed is applied: others would refuse it."""
    s = restarted()
    raft_set_snapshot_threshold(s.r, 2)
    raft_set_snapshot_trailing(s.r, 10)
    s.recv(msg.append_entries(2, 2, 4, 1, commit=4))
    assert s.r.last_applied == 4
    assert s.io.puts == []
    assert snapshots.take_now(s.r) != 0
    assert s.io.puts == []
    s.recv(msg.append_entries(2, 2, 6, 1, commit=6))
    ((_, _, taken, _),) = s.io.puts
    assert (taken.index, taken.configuration_index) == (6, 5)
    assert roles(taken.configuration) == roles(COMMITTED)


def later_snapshot() -> RaftSnapshot:
    """Return a snapshot of entry 4 with the configuration of entry 5, as C takes it of this log."""
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term, snapshot.configuration_index = 4, 1, 5
    snapshot.configuration, snapshot.bufs = COMMITTED, [content(0, 0)]
    return snapshot


def test_a_snapshot_with_a_later_configuration_is_installed() -> None:
    """C servers and older versions take such a one, and their followers have no other; the rest of the log follows."""
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 4, 1, COMMITTED, 5, content(0, 0)))
    s.io.finish_put()
    assert s.io.stored_snapshot is not None
    assert s.io.stored_snapshot.configuration_index == 4
    assert roles(s.r.configuration) == roles(COMMITTED)
    assert indexes(s.r) == (4, 0)
    s.recv(msg.append_entries(2, 1, 4, 1, commit=4, entries=[change(1, COMMITTED), change(1, UNCOMMITTED)]))
    s.io.finish_appends()
    assert roles(s.r.configuration) == roles(UNCOMMITTED)
    assert indexes(s.r) == (5, 6)


def test_a_snapshot_with_a_later_configuration_is_loaded_and_sent() -> None:
    """It goes out with a number that all take, and a log that ends before its configuration can be changed."""
    s = Solo(RAFT_VOTER, RAFT_VOTER, start=False)
    s.io.stored_snapshot, s.io.start_index, s.io.stored = later_snapshot(), 5, []
    assert raft_start(s.r) == 0
    assert indexes(s.r) == (4, 0)
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    s.recv(msg.request_vote_result(3, 2))
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 5))
    s.recv(msg.append_entries_result(3, 2, 5))
    assert s.r.commit_index == 5
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    s.sent()
    s.recv(msg.append_entries_result(4, 2, 0, rejected=4))
    s.tick()
    s.io.finish_get()
    (message,) = [m for m in s.sent() if m.type == RAFT_IO_INSTALL_SNAPSHOT]
    assert message.install_snapshot is not None
    assert message.install_snapshot.conf_index == 4


def test_configurations_that_come_together_are_known_to_be_committed_but_for_the_last() -> None:
    """A server that is filled up has three of them in one message; the last is cut off while the first is applied."""
    s = Solo()
    later = Later(s, 2 * SLICE_MSECS)
    log = [msg.commands([1])[0], change(1, OLD), *msg.commands([1]), change(1, COMMITTED), change(1, UNCOMMITTED)]
    s.recv(msg.append_entries(2, 1, 1, 1, commit=5, entries=log))
    s.io.finish_appends()
    assert s.r.last_applied == 2
    assert indexes(s.r) == (5, 6)
    s.recv(msg.append_entries(3, 2, 5, 1, commit=5, entries=msg.commands([2])))
    s.io.finish_appends()
    assert s.r.last_applied < 3
    assert roles(s.r.configuration) == roles(COMMITTED)
    later.rest()
    assert s.r.last_applied == 5
    assert roles(s.r.configuration) == roles(COMMITTED)
    assert indexes(s.r) == (5, 0)


def test_the_leader_of_a_cluster_that_was_recovered_with_less_cuts_off_what_was_known_to_be_committed() -> None:
    """Then the configuration before it is in force, and one that takes its place is adopted like any other."""
    s = restarted()
    s.recv(msg.append_entries(2, 2, 3, 1, commit=1, entries=msg.commands([2])))
    assert roles(s.r.configuration) == roles(OLD)
    assert indexes(s.r) == (3, 0)
    s.io.finish_appends()
    s.recv(msg.append_entries(2, 2, 4, 2, commit=4, entries=[change(2, UNCOMMITTED)]))
    s.io.finish_appends()
    assert roles(s.r.configuration) == roles(UNCOMMITTED)
    assert indexes(s.r) == (3, 5)


def test_without_any_in_front_of_the_cut_the_snapshots_configuration_is_in_force() -> None:
    """As before, with a log that begins behind a snapshot."""
    s = restarted(compacted=True)
    s.recv(msg.append_entries(2, 2, 2, 1, commit=2, entries=msg.commands([2])))
    assert roles(s.r.configuration) == roles(s.conf)
    assert indexes(s.r) == (2, 0)
    s.io.finish_appends()
    s.recv(msg.append_entries(2, 2, 3, 2, commit=3, entries=[change(2, COMMITTED)]))
    s.io.finish_appends()
    assert roles(s.r.configuration) == roles(COMMITTED)

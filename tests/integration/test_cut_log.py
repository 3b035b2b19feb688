"""A leader's own disk fails to store what the others have committed, with snapshots around it: indexes stay the same.

The log is then cut in front of entries that are applied, and perhaps in a snapshot that is being stored. The core (here
on a scripted world) and the I/O (on io_uv's files) have to agree on where the log goes on.
"""

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_UNAVAILABLE,
    RaftChange,
    RaftConfiguration,
    raft_add,
    raft_last_applied,
    raft_last_index,
    raft_remove,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import Solo, change, command, configuration, leader


def snapshot_under_way(threshold: int = 3) -> Solo:
    """Return a leader of term 2 whose own write of entry 3 is under way, as is its snapshot up to that."""
    s = leader()
    raft_set_snapshot_threshold(s.r, threshold)
    raft_set_snapshot_trailing(s.r, 8)
    command(s)
    committed(s, 3)
    assert s.io.puts[0][2].index == 3
    return s


def committed(s: Solo, index: int) -> None:
    """Let both others acknowledge entries up to an index."""
    for id in (2, 3):
        s.recv(msg.append_entries_result(id, s.r.current_term, index))


def ends(s: Solo) -> tuple[int, int, int]:
    """Return where the log, what is stored of it, and the newest snapshot end."""
    return raft_last_index(s.r), s.r.last_stored, s.r.log.snapshot.last_index


def test_snapshot_takes_the_place_of_the_log_that_was_cut_under_it() -> None:
    """Entries that come meanwhile are not taken, as their place is not known yet; then the log goes on behind it."""
    s = snapshot_under_way()
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, ends(s)) == (RAFT_FOLLOWER, (3, 2, 0))
    s.recv(msg.append_entries(2, 3, 2, 2, 3, msg.commands([2, 3])))
    assert s.io.appends == []
    s.io.finish_put()
    assert (ends(s), raft_last_applied(s.r)) == ((3, 3, 3), 3)
    assert not s.fsm.locked
    s.sent()
    s.recv(msg.append_entries(2, 3, 2, 2, 4, msg.commands([2, 3])))
    [(_, batch, _)] = s.io.appends
    assert batch.terms == [3]
    s.io.finish_appends()
    assert (ends(s), raft_last_applied(s.r)) == ((4, 4, 3), 4)
    assert s.reply().append_entries_result.last_log_index == 4


def test_log_that_was_cut_under_a_snapshot_that_fails_goes_on_where_it_was_cut() -> None:
    """The disk has no snapshot, so nothing takes the place of the log."""
    s = snapshot_under_way()
    s.io.finish_append(RAFT_IOERR)
    s.io.finish_put(RAFT_IOERR)
    assert ends(s) == (2, 2, 0)
    s.recv(msg.append_entries(2, 3, 2, 2, 3, msg.commands([2])))
    s.io.finish_appends()
    assert (ends(s), raft_last_applied(s.r)) == ((3, 3, 0), 3)


def test_nobody_stands_or_votes_while_its_log_is_being_replaced() -> None:
    """It says what is stored of the log, no more, and that it has no vote to give."""
    s = snapshot_under_way()
    s.io.finish_append(RAFT_IOERR)
    s.sent()
    s.recv(msg.append_entries(2, 3, 3, 2, 3))
    result = s.reply().append_entries_result
    assert (result.rejected, result.last_log_index) == (0, 2)
    s.tick(5000)
    assert s.state == RAFT_FOLLOWER
    s.recv(msg.request_vote(3, 4, 9, 3, disrupt=True))
    assert not s.reply().request_vote_result.vote_granted
    s.io.finish_put()
    s.recv(msg.request_vote(3, 5, 9, 3, disrupt=True))
    assert s.reply().request_vote_result.vote_granted


def test_candidate_whose_log_is_being_replaced_steps_back() -> None:
    """It stood while its former write was under way; all that it asked votes for is cut off."""
    s = snapshot_under_way()
    s.tick(1000)
    s.tick(1000)
    assert s.state == RAFT_FOLLOWER
    s.tick(2000)
    assert s.state == RAFT_CANDIDATE
    s.io.finish_append(RAFT_IOERR)
    assert s.state == RAFT_FOLLOWER
    for _ in range(5):
        s.tick(2000)
    assert s.state == RAFT_FOLLOWER
    s.io.finish_put()
    s.tick(2000)
    assert (s.state, ends(s)) == (RAFT_CANDIDATE, (3, 3, 3))


def test_snapshot_whose_last_entry_was_cut_off_while_it_was_taken_is_dropped() -> None:
    """fsm.snapshot_async takes its time, and the write fails meanwhile; later there is another one."""
    s = leader(fsm=fsms.PairFsm(snapshot_async=True))
    raft_set_snapshot_threshold(s.r, 3)
    command(s)
    committed(s, 3)
    s.io.finish_append(RAFT_IOERR)
    s.io.finish_work()
    assert (s.io.puts, ends(s), s.fsm.locked) == ([], (2, 2, 0), False)
    s.recv(msg.append_entries(2, 3, 2, 2, 4, msg.commands([2, 3])))
    s.io.finish_appends()
    s.io.finish_work()
    s.io.finish_put()
    assert ends(s) == (4, 4, 4)


def test_failure_that_is_told_after_the_snapshot_was_stored_cuts_behind_it() -> None:
    """An I/O that keeps to its contract tells in order. One that does not leaves a log that goes on all the same."""
    s = snapshot_under_way()
    command(s)
    s.io.finish_put()
    assert ends(s) == (4, 2, 3)
    s.io.finish_append(RAFT_IOERR)
    assert (s.state, ends(s)) == (RAFT_FOLLOWER, (3, 3, 3))
    s.recv(msg.append_entries(2, 3, 3, 2, 4, msg.commands([3])))
    s.io.finish_append(RAFT_IOERR)  # The second write of the former leader.
    s.io.finish_appends()
    assert (ends(s), raft_last_applied(s.r)) == ((4, 4, 3), 4)


def test_configuration_that_was_committed_behind_the_snapshot_is_kept() -> None:
    """Its entry is cut off, its copy is what a rollback goes back to, not the one in the snapshot."""
    s = snapshot_under_way()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    committed(s, 4)
    assert raft_last_applied(s.r) == 4
    s.io.finish_append(RAFT_IOERR)
    s.io.finish_put()
    assert ends(s) == (3, 3, 3)
    assert [server.id for server in s.r.configuration.servers] == [1, 2, 3, 9]
    assert [server.id for server in s.r.configuration_last_snapshot.servers] == [1, 2, 3, 9]


@pytest.mark.parametrize("index", [3, 4])
def test_snapshot_that_gives_lost_entries_back_is_installed(index: int) -> None:
    """An entry that was committed here and then cut off is unknown, which is not another: it contradicts nothing.

    Where it ends before what is applied, the state machine does not go back to it.
    """
    s = leader()
    for value in (1, 2):
        command(s, value)
    committed(s, 4)
    assert raft_last_applied(s.r) == 4
    s.io.finish_append(RAFT_IOERR)
    assert ends(s) == (2, 2, 0)
    s.recv(msg.install_snapshot(2, 3, index, 2, s.conf, 1, fsms.content(7, 8)))
    s.io.finish_put()
    assert (s.state, ends(s), s.r.commit_index, raft_last_applied(s.r)) == (RAFT_FOLLOWER, (index, index, index), 4, 4)
    assert (s.fsm.x, s.fsm.y) == ((7, 8) if index == 4 else (3, 0))
    s.recv(msg.append_entries(2, 3, index, 2, 5, msg.commands([2, 3][index - 3 :])))
    s.io.finish_appends()
    assert (ends(s), raft_last_applied(s.r)) == ((5, 5, index), 5)


def test_configuration_behind_a_snapshot_that_is_installed_late_stays_in_force() -> None:
    """It was committed, then its entry was cut off; one that is not committed yet goes with the log that had it."""
    s = leader()
    command(s)
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    committed(s, 4)
    s.io.finish_append(RAFT_IOERR)
    s.recv(msg.install_snapshot(2, 3, 3, 2, s.conf, 1, fsms.content(7, 8)))
    s.io.finish_put()
    assert (ends(s), s.r.configuration_committed_index, raft_last_applied(s.r)) == ((3, 3, 3), 4, 4)
    assert [server.id for server in s.r.configuration.servers] == [1, 2, 3, 9]


def test_snapshot_that_contradicts_an_entry_that_is_here_stops_the_server() -> None:
    """An entry that is known, with another term, is a contradiction as ever."""
    s = leader()
    command(s)
    committed(s, 3)
    s.recv(msg.install_snapshot(2, 3, 3, 1, s.conf, 1, fsms.content(7, 8)))
    assert s.state == RAFT_UNAVAILABLE


def members(conf: RaftConfiguration) -> list[int]:
    """Return the ids of a configuration."""
    return [server.id for server in conf.servers]


def change_under_way(snapshot_index: int) -> Solo:
    """Return a former leader whose write of a change in entry 3 is under way, as is the installation of a snapshot."""
    s = leader()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    assert s.r.configuration_uncommitted_index == 3
    s.recv(msg.install_snapshot(2, 3, snapshot_index, 3, s.conf, 1, fsms.content(7, 8)))
    assert s.r.snapshot.install is not None
    return s


@pytest.mark.parametrize("put", [0, RAFT_IOERR])
def test_change_that_fails_while_a_snapshot_is_installed_is_void(put: int) -> None:
    """The configuration before it is in the log that the snapshot replaces; it is in force whatever becomes of that."""
    s = change_under_way(9)
    s.io.finish_append(RAFT_IOERR)
    assert members(s.r.configuration) == [1, 2, 3]
    s.io.finish_put(put)
    assert (s.state, ends(s)) == (RAFT_FOLLOWER, (2, 2, 0) if put else (9, 9, 9))
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (1, 0)
    assert members(s.r.configuration) == [1, 2, 3]


def test_committed_change_that_fails_while_a_snapshot_is_installed_is_kept() -> None:
    """The others have committed it. The installation fails too, and then the configuration is nowhere else."""
    s = leader()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    committed(s, 3)
    assert s.r.configuration_committed_index == 3
    s.recv(msg.install_snapshot(2, 3, 9, 3, s.conf, 3, fsms.content(7, 8)))
    s.io.finish_append(RAFT_IOERR)
    s.io.finish_put(RAFT_IOERR)
    assert (ends(s), s.r.configuration_committed_index) == ((2, 2, 0), 3)
    assert members(s.r.configuration_last_snapshot) == [1, 2, 3, 9]
    s.recv(msg.append_entries(2, 3, 2, 2, 3, [change(2, configuration(1, 1, 1, 1))]))
    s.io.finish_appends()
    assert (ends(s), raft_last_applied(s.r)) == ((3, 3, 0), 3)


def test_members_are_known_while_a_snapshot_is_installed() -> None:
    """The I/O is told, and a stranger is answered, also before the change that is in force is known to be committed."""
    s = leader()
    told: list[list[int]] = []
    s.io.configured = lambda io, servers: told.append([server.id for server in servers])
    s.io.features = 0xFFFF
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    s.recv(msg.install_snapshot(2, 3, 9, 3, s.conf, 1, fsms.content(7, 8)))
    s.tick()
    assert told[-1] == [1, 2, 3]
    s.sent()
    for id, stranger in (3, False), (9, True):
        s.recv(msg.request_vote(id, 3, 9, 3))
        assert s.reply().request_vote_result.no_member is stranger


def test_committed_change_that_is_stored_while_a_snapshot_is_installed_stays_committed() -> None:
    """When the installation fails the log with it comes back: to take effect again would block all further changes."""
    s = leader()
    assert raft_add(s.r, RaftChange(), 9, "9", None) == 0
    committed(s, 3)
    s.recv(msg.install_snapshot(2, 3, 9, 3, s.conf, 3, fsms.content(7, 8)))
    s.io.finish_append()
    s.io.finish_put(RAFT_IOERR)
    assert ends(s) == (3, 3, 0)
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (3, 0)

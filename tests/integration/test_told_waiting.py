"""States that only others, or an operator, can end: each is said once, at WARNING, and again after it had ended."""

import logging

import pytest

from pyraft import (
    RAFT_CORRUPT,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftChange,
    raft_add,
    raft_apply,
    raft_errmsg,
    raft_init,
    raft_remove,
    raft_set_install_snapshot_timeout,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_start,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import ScriptIo, Solo, change, command, configuration, leader


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged at WARNING since the last time."""
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return lines


def refusal(r: Raft) -> str:
    """Return why a server takes no command."""
    assert raft_apply(r, RaftApply(), [fsms.add_x(1)], 1, None) == RAFT_NOTLEADER
    return raft_errmsg(r).partition(": ")[2]


def started(id: int, *roles: int) -> ScriptIo:
    """Return the I/O of a started server whose log has a configuration with these roles, or none."""
    io = ScriptIo()
    if roles:
        io.term = 1
        io.stored = [change(1, configuration(*roles))]
    assert raft_init(r := Raft(), io, fsms.PairFsm(), id, str(id)) == 0
    assert raft_start(r) == 0
    return io


def tick(io: ScriptIo, n: int) -> None:
    """Let n heartbeat intervals pass."""
    for _ in range(n):
        io.now += 100
        io.on_tick(io)


def test_server_without_a_log_says_that_it_withholds_its_vote(caplog: pytest.LogCaptureFixture) -> None:
    """It does at once, as there may never be a leader without it: with two voters, or with most disks replaced."""
    io = started(2)
    for term in range(1, 100):
        io.on_recv(io, msg.request_vote(1, term, 5, 1))
        assert not io.messages[-1].request_vote_result.vote_granted
    [line] = warnings(caplog)
    assert line.startswith("server 2: withholds its vote from server 1: it has no log")
    assert "raft_recover" in line


def test_server_that_is_no_member_by_its_log_says_so_when_it_is_asked_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once or twice a server may ask that has not heard of the removal yet."""
    io = started(3, RAFT_VOTER, RAFT_VOTER)
    assert warnings(caplog) == ["server 3 is not in the configuration on its disk, which has 1, 2"]
    for term in range(2, 12):
        io.on_recv(io, msg.request_vote(1, term, 5, 1))
    assert warnings(caplog) == []
    for term in range(12, 80):
        io.on_recv(io, msg.request_vote(1, term, 5, 1))
    [line] = warnings(caplog)
    assert "withholds its vote from server 1: it is not a member by its log" in line


@pytest.mark.parametrize("pre_vote", [True, False])
def test_candidate_that_nobody_elects_names_who_is_missing(caplog: pytest.LogCaptureFixture, pre_vote: bool) -> None:
    """It does after 16 rounds in a row without a leader."""
    s = Solo(RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY, RAFT_VOTER)
    raft_set_pre_vote(s.r, pre_vote)
    for _ in range(15):
        s.tick(2000)
    assert warnings(caplog) == []
    for _ in range(100):
        s.tick(2000)
        s.recv(msg.request_vote_result(4, s.r.current_term + pre_vote, granted=False, pre_vote=pre_vote))
    [line] = warnings(caplog)
    assert line.endswith("16 rounds without a leader; missing: server 2 at 2, server 4 at 4")


def test_stand_by_says_that_it_waits_for_a_leader(caplog: pytest.LogCaptureFixture) -> None:
    """It does not stand, and if it was removed while it was away nobody tells it."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER)
    s.recv(msg.append_entries(2, 1, 1, 1))
    tick(s.io, 99)
    assert warnings(caplog) == []
    tick(s.io, 100)
    [line] = warnings(caplog)
    assert line.startswith("server 1: has heard of no leader for 10000 ms")
    s.recv(msg.append_entries(2, 1, 1, 1))
    tick(s.io, 100)
    assert len(warnings(caplog)) == 1
    assert s.state == RAFT_FOLLOWER


def test_others_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    """A spare hears of no leader anyway, nor does who is to be added; and a server that is not a member is told when it
    starts."""
    tick(started(3, RAFT_VOTER, RAFT_VOTER), 200)
    assert len(warnings(caplog)) == 1
    tick(started(1, RAFT_SPARE, RAFT_VOTER), 200)
    assert warnings(caplog) == []
    caplog.set_level(logging.INFO, "pyraft")
    tick(started(2), 200)
    assert sum("it was not bootstrapped" in record.getMessage() for record in caplog.records) == 1


def test_not_leader_does_not_name_a_leader_of_an_earlier_term() -> None:
    """A follower that adopts a higher term keeps its leader in mind, as in C (B12)."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1))
    s.recv(msg.request_vote(3, 2, 5, 1, disrupt=True))
    assert refusal(s.r) == "server 2 at 2 led term 1, and who leads term 2 is not known"
    s.recv(msg.append_entries(3, 2, 1, 1))
    assert refusal(s.r) == "server 3 at 3 leads"


def test_not_leader_says_how_long_the_leader_has_been_silent() -> None:
    """A server that never stands never forgets it."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER)
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [change(1, configuration(RAFT_STANDBY, RAFT_VOTER))]))
    s.io.finish_appends()
    s.tick(1900)
    assert refusal(s.r) == "server 2 at 2 leads"
    s.tick(100)
    assert refusal(s.r) == "server 2 at 2 led, but has been silent for 2000 ms"


def test_snapshot_that_cannot_be_read_for_others_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The reason is told once as long as it stays, and again when it comes back: the server that needs it waits."""
    s = leader()
    s.r.snapshot.trailing = 0
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.finish_put()
    raft_set_install_snapshot_timeout(s.r, 1)
    s.recv(msg.append_entries_result(3, 2, 1, rejected=2))
    told = []
    for status in (RAFT_CORRUPT, RAFT_CORRUPT, RAFT_IOERR, 0, RAFT_CORRUPT):
        while not s.io.gets:
            s.tick()
        s.io.errmsg = "the file's checksum"
        s.io.finish_get(status)
        told.append([line for line in warnings(caplog) if "its snapshot cannot be read" in line])
    assert [len(lines) for lines in told] == [1, 0, 1, 0, 1]
    assert "persisted data is corrupted (the file's checksum). Server 3 needs it" in told[0][0]


def test_change_that_only_silent_voters_could_commit_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It is at once, with their names: without it the others could have gone on."""
    s = leader()
    for _ in range(11):
        s.recv(msg.append_entries_result(2, 2, 2))
        s.tick()
    warnings(caplog)
    assert raft_add(s.r, RaftChange(), 4, "4", None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert warnings(caplog) == []
    assert raft_remove(s.r, RaftChange(), 2, None) == 0
    (line,) = warnings(caplog)
    assert "has 2 voters, of whom server 3 at 3 did not answer lately" in line


def test_entries_that_cannot_be_stored_are_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """A follower, which goes on to refuse them, tells the reason, and so does a leader, which steps down."""
    s = Solo()
    told = []
    for _ in range(130):
        s.recv(msg.append_entries(2, 1, 1, 1, 1, msg.commands([1])))
        s.io.errmsg = "write failed"
        s.io.finish_append(RAFT_IOERR)
        told += warnings(caplog)
        s.io.now += 1000
    assert told == ["server 1: entries from 2 on could not be stored: io: write failed"] * 3
    s = leader()
    command(s)
    s.io.errmsg = "write failed"
    s.io.finish_append(RAFT_IOERR)
    assert warnings(caplog) == ["server 1: entries from 3 on could not be stored: io: write failed"]


def test_writes_that_do_not_end_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Their end is told too. One that takes its time is not told, nor are many of them in a row."""
    s = leader(RAFT_VOTER)
    command(s)
    for _ in range(200):
        s.tick()
        command(s)
        s.io.finish_append()
    assert warnings(caplog) == []
    for _ in range(300):
        s.tick()
    (line,) = warnings(caplog)
    assert line.startswith("server 1: entries from 202 on have been on their way to its disk for 10")
    s.io.finish_appends()
    s.tick()
    assert warnings(caplog) == ["server 1: its disk stores entries again"]
    s.tick(100_000)
    assert warnings(caplog) == []

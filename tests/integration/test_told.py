"""The words of a server to callers and operators: the log at INFO and WARNING, traces by level, who leads instead."""

import logging
from typing import Any

import pytest

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_NOTLEADER,
    RAFT_SPARE,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftChange,
    RaftTransfer,
    raft_add,
    raft_apply,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_remove,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_start,
    raft_transfer,
)
from pyraft.tracing import RaftTracer
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import ScriptIo, Solo, change, command, configuration, leader


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log from INFO on."""
    caplog.set_level(logging.INFO, "pyraft")
    return caplog


def said(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return what was logged at a level since the last time; forget all of it."""
    lines = [record.getMessage() for record in log.records if record.levelno == level]
    log.clear()
    return lines


def refusal(r: Raft) -> str:
    """Return why a server takes no command."""
    assert raft_apply(r, RaftApply(), [fsms.add_x(1)], 1, None) == RAFT_NOTLEADER
    head, _, why = raft_errmsg(r).partition(": ")
    assert head == "server is not the leader"
    return why


# ---- who leads -------------------------------------------------------------------------------------------------------


def test_leader_and_followers_say_who_leads_since_when(log: pytest.LogCaptureFixture) -> None:
    """They do once for each leader and term, not with each heartbeat."""
    s = Solo()
    conf = "1 at 1 (voter), 2 at 2 (voter), 3 at 3 (voter)"
    assert said(log)[-1] == f"server 1: starts in term 1 with entries 1 to 1; its configuration: {conf}"
    for _ in range(3):
        s.recv(msg.append_entries(2, 1, 1, 1))
    assert said(log) == ["server 1: server 2 at 2 leads since term 1"]
    s.recv(msg.append_entries(2, 3, 1, 1))
    s.recv(msg.append_entries(2, 3, 1, 1))
    assert said(log) == ["server 1: term 1 -> 3", "server 1: server 2 at 2 leads since term 3"]
    s.lead()
    lines = said(log)
    assert lines == [
        "server 1: stands for election in term 4, 3 voters",
        "server 1: leads since term 4, its log ends with entry 1",
    ]
    s.recv(msg.append_entries(3, 9, 1, 1))
    assert said(log) == [
        "server 1: term 4 -> 9",
        "server 1: does not lead any more, in term 9",
        "server 1: server 3 at 3 leads since term 9",
    ]


def test_elections_that_nobody_wins_are_told_ever_more_rarely(log: pytest.LogCaptureFixture) -> None:
    """A server that is cut off does not fill the disk with that."""
    s = Solo()
    said(log)
    for _ in range(100):
        s.tick(2000)
    lines = said(log)
    assert lines[:3] == [
        "server 1: stands for election in term 2, 3 voters",
        "server 1: not elected in term 2: 1 of 3 votes, its own included",
        "server 1: stands for election in term 3, 3 voters, round 2 without a leader",
    ]
    assert 10 < len(lines) < 20
    s = Solo()
    raft_set_pre_vote(s.r, True)
    said(log)
    s.tick(1000)
    assert said(log) == ["server 1: asks who would vote for it in term 2, 3 voters"]


def test_nothing_is_told_per_command(log: pytest.LogCaptureFixture) -> None:
    """Neither side tells anything per heartbeat either."""
    s = leader()
    s.recv(msg.append_entries_result(3, 2, 2))
    s.tick(1000)
    said(log)
    for index in range(3, 50):
        command(s)
        s.io.finish_appends()
        for id in (2, 3):
            s.recv(msg.append_entries_result(id, 2, index))
        s.tick(100)
    assert said(log) == []
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1))
    said(log)
    for index in range(2, 50):
        s.recv(msg.append_entries(2, 1, index - 1, 1, index, msg.commands([1])))
        s.io.finish_appends()
    assert said(log) == []


def test_servers_that_fall_silent_and_come_back(log: pytest.LogCaptureFixture) -> None:
    """A leader looks once in an election timeout."""
    s = leader()
    said(log)
    s.tick(1000)
    assert said(log) == ["server 1: server 3 at 3 does not answer"]
    for _ in range(2):
        s.recv(msg.append_entries_result(2, 2, 2))
        s.tick(1000)
    assert said(log) == []
    s.recv(msg.append_entries_result(2, 2, 2))
    s.recv(msg.append_entries_result(3, 2, 2))
    s.tick(1000)
    assert said(log) == ["server 1: server 3 at 3 answers again"]


# ---- configurations, snapshots, transfers ----------------------------------------------------------------------------


def test_configurations_in_force_and_committed(log: pytest.LogCaptureFixture) -> None:
    """A leader tells them with the submission, a follower when they are stored, and both when they are void."""
    s = leader()
    said(log)
    assert raft_add(s.r, RaftChange(), 4, "4", None) == 0
    in_force = "1 at 1 (voter), 2 at 2 (voter), 3 at 3 (voter), 4 at 4 (spare)"
    assert said(log) == [f"server 1: the configuration of entry 3 is in force: {in_force}"]
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    assert said(log) == ["server 1: the configuration of entry 3 is committed"]
    assert raft_remove(s.r, RaftChange(), 4, None) == 0
    said(log)
    s.io.finish_append(RAFT_IOERR)
    assert f"server 1: the configuration of entry 4 is void, in force is {in_force}" in said(log)
    s = Solo()
    said(log)
    s.recv(msg.append_entries(2, 1, 1, 1, 2, [change(1, configuration(RAFT_VOTER, RAFT_VOTER, RAFT_SPARE))]))
    s.io.finish_appends()
    assert said(log)[1:] == [
        "server 1: the configuration of entry 2 is in force: 1 at 1 (voter), 2 at 2 (voter), 3 at 3 (spare)",
        "server 1: the configuration of entry 2 is committed",
    ]


def test_snapshots_taken_sent_and_installed(log: pytest.LogCaptureFixture) -> None:
    """Each of them is told once."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    s.r.snapshot.trailing = 0
    said(log)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.finish_put()
    assert said(log) == ["server 1: has taken a snapshot up to entry 3"]
    s.recv(msg.append_entries_result(3, 2, 1, rejected=2))
    s.tick()
    s.io.finish_get()
    assert "server 1: sends server 3 the snapshot up to entry 3" in said(log)
    s = Solo()
    s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
    said(log)
    s.io.finish_put()
    in_force = "1 at 1 (voter), 2 at 2 (voter), 3 at 3 (voter)"
    assert said(log) == [f"server 1: has installed the leader's snapshot up to entry 9; in force is {in_force}"]


def test_transfer_and_its_outcome(log: pytest.LogCaptureFixture) -> None:
    """They are told at INFO if the target leads, at WARNING if not."""
    s = leader()
    said(log)
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    assert said(log) == ["server 1: hands leadership over to server 2"]
    s.recv(msg.append_entries(2, 3, 2, 2))
    assert said(log)[-1] == "server 1: server 2 has taken over"
    s = leader()
    assert raft_transfer(s.r, RaftTransfer(), 3, None) == 0
    s.recv(msg.append_entries_result(2, 2, 2))
    s.tick(1000)
    assert said(log, logging.WARNING) == ["server 1: server 3 has not taken over, this server leads on"]


# ---- RAFT_NOTLEADER --------------------------------------------------------------------------------------------------


def test_not_leader_says_who_leads_or_why_nobody_does_here() -> None:
    """It says what it knows: the leader, an election, no configuration, not started, a transfer, a stop."""
    s = Solo(start=False)
    assert refusal(s.r) == "it is not started"
    assert raft_start(s.r) == 0
    assert refusal(s.r) == "no leader is known"
    s.recv(msg.append_entries(2, 1, 1, 1))
    assert refusal(s.r) == "server 2 at 2 leads"
    s.stand()
    assert refusal(s.r) == "an election is under way"
    s = leader()
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    assert refusal(s.r) == "it is handing leadership over to server 2"
    s.io.fail("set_term", RAFT_IOERR)
    s.recv(msg.append_entries(2, 5, 1, 1))
    assert s.state == RAFT_UNAVAILABLE
    assert refusal(s.r) == "it has stopped: io: set_term failed"
    raft_close(s.r, None)
    assert refusal(s.r) == "it is closed"


def test_not_leader_of_a_server_that_nobody_has_told_of_a_cluster() -> None:
    """It was never bootstrapped; once a leader sends it entries that do not name it, it is not a member."""
    io = ScriptIo()
    io.term = 0
    r = Raft()
    assert raft_init(r, io, fsms.PairFsm(), 9, "9") == 0
    assert raft_start(r) == 0
    assert refusal(r) == "it has no configuration: it was not bootstrapped, and no leader has reached it"
    conf = configuration(RAFT_VOTER, RAFT_VOTER)
    io.on_recv(io, msg.append_entries(2, 1, 0, 0, 1, [change(1, conf)]))
    io.finish_appends()
    assert refusal(r) == "it is not a member, and server 2 at 2 leads"


def test_not_leader_of_a_server_that_was_removed(log: pytest.LogCaptureFixture) -> None:
    """It has stored and committed the entry itself: told once, and it does not stand."""
    s = Solo()
    without = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)
    without.servers.pop(0)
    s.recv(msg.append_entries(2, 1, 1, 1, 2, [change(1, without)]))
    s.io.finish_appends()
    [line] = said(log, logging.WARNING)
    assert line.startswith("server 1: was removed from the cluster, by entry 2: it waits")
    assert refusal(s.r) == "it was removed from the cluster"
    for _ in range(5):
        s.tick(2000)
    assert (s.state, said(log, logging.WARNING)) == (RAFT_FOLLOWER, [])
    again = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)
    s.recv(msg.append_entries(2, 2, 2, 1, 3, [change(2, again)]))
    s.io.finish_appends()
    assert refusal(s.r) == "server 2 at 2 leads"


# ---- removed while it was away ---------------------------------------------------------------------------------------


def test_members_tell_a_server_that_it_was_removed() -> None:
    """They do if they know a leader, and neither of their configurations has it; to C's I/O they say nothing."""
    s = Solo()
    s.io.features = 0xFFFF
    ask = lambda id: (s.recv(msg.request_vote(id, 9, 1, 1)), s.sent()[-1].request_vote_result.no_member)[1]  # noqa: E731
    assert not ask(9)
    s = Solo()
    s.io.features = 0xFFFF
    s.recv(msg.append_entries(2, 1, 1, 1))
    s.sent()
    assert ask(9)
    assert not ask(3)
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [change(1, configuration(RAFT_VOTER, RAFT_VOTER))]))
    s.io.finish_appends()
    s.sent()
    assert [server.id for server in s.r.configuration.servers] == [1, 2]
    assert not ask(3)  # It may still be one by the configuration that is committed.
    s.recv(msg.append_entries(2, 1, 2, 1, 2))
    s.sent()
    assert ask(3)
    s.io.features = 0
    assert not ask(3)


@pytest.mark.parametrize("pre_vote", [True, False])
def test_server_that_members_call_removed_stands_no_more(log: pytest.LogCaptureFixture, pre_vote: bool) -> None:
    """The majority of the others must; one may be behind. A word from a leader makes it a member again."""
    s = Solo()
    raft_set_pre_vote(s.r, pre_vote)
    members: list[list[int]] = []
    s.io.configured = lambda io, servers: members.append([server.id for server in servers])
    s.stand()
    term = s.r.current_term

    def answer(id: int) -> None:
        message = msg.request_vote_result(id, 1, granted=False, pre_vote=pre_vote)
        message.request_vote_result.no_member = True
        s.recv(message)

    answer(2)
    answer(2)
    assert s.state != RAFT_FOLLOWER
    answer(3)
    assert s.state == RAFT_FOLLOWER
    [line] = said(log, logging.WARNING)
    assert line.startswith("server 1: was removed from the cluster, by the answers of server 2, server 3: it waits")
    assert refusal(s.r) == "it was removed from the cluster"
    for _ in range(100):
        s.tick(2000)
    assert (s.state, s.r.current_term, said(log, logging.WARNING)) == (RAFT_FOLLOWER, term, [])
    assert members == [[1, 2, 3], [2, 3]]  # the I/O need not keep connections to them
    s.recv(msg.append_entries(2, term, 1, 1))
    assert refusal(s.r) == "server 2 at 2 leads"
    s.tick()
    assert members[2:] == [[1, 2, 3]]
    s.stand()
    assert s.state != RAFT_FOLLOWER


def test_removed_server_that_comes_back_leaves_the_cluster_alone() -> None:
    """It was away when the whole cluster removed it, and its term does not rise for ever."""
    c = Cluster(3).led()
    for i in range(3):
        c.raft(i).io.features = 0xFFFF
    leads = c.until_leader()
    away = (leads + 1) % 3
    c.kill(away)
    c.until_done(c.remove(leads, away + 1), 10_000)
    c.revive(away)
    c.elapse(20_000)
    term = c.term(away)
    c.elapse(60_000)
    assert (c.term(away), c.state(away), c.state(leads)) == (term, RAFT_FOLLOWER, RAFT_LEADER)


# ---- tracing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_each_level_of_the_trace_shows_what_it_promises(level: int) -> None:
    """1 everything, 2 what happens, 3 what should not, 4 what fails, 5 what stops a server; and all above it."""
    seen: set[int] = set()

    def emit(t: Any, file: str, line: int, func: str, record: int, message: str) -> None:
        if record >= t.level:
            seen.add(record)

    s = Solo(terms=[1])
    s.r.tracer = RaftTracer(emit, True, level)
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([2])))
    s.io.finish_append(RAFT_IOERR)
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([2])))
    s.io.finish_appends()
    s.lead()
    assert s.state == RAFT_LEADER
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    s.recv(msg.append_entries_result(2, 3, 3))
    s.tick(1000)
    s.fsm.apply = lambda fsm, buf: fsms.missing(fsm)
    command(s)
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 3, 4))
    assert s.state == RAFT_UNAVAILABLE
    assert seen == set(range(level, 6))


# ---- misuse ----------------------------------------------------------------------------------------------------------


def test_buffers_that_n_leaves_out_are_told_once(log: pytest.LogCaptureFixture) -> None:
    """They are legal, as in C, but in Python rather a mistake."""
    s = leader()
    for _ in range(3):
        assert raft_apply(s.r, RaftApply(), [fsms.add_x(1), fsms.add_x(2)], 1, None) == 0
    assert said(log, logging.WARNING) == ["server 1: raft_apply was given 2 buffers and n = 1: the others are not used"]
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 2, None) == RAFT_INVALID


def test_functions_that_do_not_go_with_the_version_of_the_fsm_are_told(log: pytest.LogCaptureFixture) -> None:
    """Those that are never called at WARNING; that snapshots stop the loop although the version is 3 at INFO."""
    fsm = fsms.PairFsm(snapshot_async=True)
    fsm.version = 2
    Solo(fsm=fsm)
    assert said(log, logging.WARNING) == ["server 1: fsm.snapshot_async is not called, as fsm.version is 2; it takes 3"]
    fsm = fsms.PairFsm(version=2)
    fsm.version = 1
    Solo(fsm=fsm)
    assert said(log, logging.WARNING) == [
        "server 1: fsm.snapshot_finalize is not called, as fsm.version is 1; it takes 2"
    ]
    Solo(fsm=fsms.PairFsm(version=3))
    assert said(log)[0].startswith(
        "server 1: fsm.version is 3 without fsm.snapshot_async: snapshots are taken on the loop"
    )

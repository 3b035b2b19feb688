"""The rarer paths of leadership transfers, on one server against a scripted world."""

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IO_TIMEOUT_NOW,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftTransfer,
    raft_transfer,
)
from pyraft.progress import PROGRESS__PROBE
from tests.lib import messages as msg
from tests.lib.solo import Solo, change, command, configuration, leader


def test_transfer_whose_message_fails_later_ends() -> None:
    """If TimeoutNow cannot be sent once the target has caught up, the transfer ends at once."""
    s = leader()
    command(s)
    ended: list[RaftTransfer] = []
    assert raft_transfer(s.r, RaftTransfer(), 2, ended.append) == 0
    s.io.fail("send", RAFT_IOERR)
    s.recv(msg.append_entries_result(2, 2, 3))
    assert len(ended) == 1
    assert s.r.transfer is None
    assert s.state == RAFT_LEADER


def test_transfer_survives_a_step_down() -> None:
    """A leader that steps down during a transfer ends it when the target is seen to lead, or after the timeout."""
    for target_leads in (True, False):
        s = leader()
        command(s)
        ended: list[RaftTransfer] = []
        assert raft_transfer(s.r, RaftTransfer(), 2, ended.append) == 0
        s.recv(msg.append_entries(3, 3, 2, 2))
        assert s.state == RAFT_FOLLOWER
        assert ended == []
        if target_leads:
            s.recv(msg.append_entries(2, 4, 2, 2))
        else:
            s.tick(900)
            assert ended == []
            s.recv(msg.append_entries(3, 3, 2, 2))
            s.tick(100)
        assert len(ended) == 1


def test_transfer_picks_the_last_voter_if_nobody_is_up_to_date() -> None:
    """Id 0 with nobody up to date picks the last other voter."""
    s = leader()
    for progress in s.r.leader_state.progress[1:]:
        progress.state = PROGRESS__PROBE
    command(s)
    req = RaftTransfer()
    assert raft_transfer(s.r, req, 0, None) == 0
    assert req.id == 3
    assert RAFT_IO_TIMEOUT_NOW not in [m.type for m in s.sent()]


def test_transfer_without_a_callback() -> None:
    """Nobody needs to be told how a transfer ended."""
    s = leader()
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    s.recv(msg.append_entries(2, 3, 2, 2))
    assert s.r.transfer is None
    assert s.state == RAFT_FOLLOWER


def test_b49_it_is_obeyed_by_whom_the_last_write_makes_a_voter() -> None:
    """The role that counts is that of the moment at which it is obeyed."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER, RAFT_VOTER)
    s.recv(msg.append_entries(2, 2, 1, 1, 1, [change(2, configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER))]))
    s.recv(msg.timeout_now(2, 2, 2, 2))
    assert s.state == RAFT_FOLLOWER
    s.io.finish_append()
    assert (s.state, s.r.current_term) == (RAFT_CANDIDATE, 3)


@pytest.mark.parametrize("term", [2, 9])
def test_b49_of_who_is_no_voter_nothing_is_remembered(term: int) -> None:
    """Its term is not adopted either, as in C."""
    s = Solo(RAFT_STANDBY, RAFT_VOTER, RAFT_VOTER)
    s.recv(msg.append_entries(2, 2, 1, 1))
    s.recv(msg.timeout_now(2, term, 1, 1))
    s.recv(msg.append_entries(2, 2, 1, 1, 1, [change(2, configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER))]))
    s.recv(msg.timeout_now(2, 9, 1, 1))
    s.io.finish_append()
    assert (s.state, s.r.current_term) == (RAFT_FOLLOWER, 2)

"""The counts of what clients propose: derived from the log, so that no command pays for them, and never going back."""

from pyraft import (
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RaftApply,
    RaftChange,
    raft_apply,
    raft_remove,
)
from pyraft import notice as core_notice
from tests.lib import messages as msg
from tests.lib.fsm import add_x
from tests.lib.solo import Solo, Statuses, command, leader


def counted(s: Solo) -> tuple[int, int, int]:
    """Return how many proposals were accepted, failed and refused."""
    return core_notice.accepted(s.r), s.r.counts.failed, s.r.counts.refused


def test_proposals_of_a_leader_are_counted_over_its_terms() -> None:
    """Its own barrier is the first; those that it loses with the leadership stay accepted, and have failed."""
    s = leader()
    assert counted(s) == (1, 0, 0)
    told = Statuses()
    for _ in range(3):
        command(s, cb=told)
    assert raft_remove(s.r, RaftChange(), 3, told) == 0
    assert counted(s) == (5, 0, 0)
    s.recv(msg.append_entries(2, 3, 2, 2))
    assert s.state == RAFT_FOLLOWER
    assert told.seen == [RAFT_LEADERSHIPLOST] * 4
    assert counted(s) == (5, 4, 0)
    assert raft_apply(s.r, RaftApply(), [add_x(1)], 1, None) == RAFT_NOTLEADER
    assert counted(s) == (5, 4, 1)


def test_a_failed_write_takes_nothing_back() -> None:
    """Entries that are cut off the log were accepted all the same: a count that went back would pass for a restart."""
    s = leader()
    told = Statuses()
    command(s, cb=told)
    command(s, cb=told)
    before = counted(s)
    assert before == (3, 0, 0)
    s.io.finish_append(RAFT_IOERR)
    assert s.state == RAFT_FOLLOWER
    assert sorted(told.seen) == sorted([RAFT_IOERR, RAFT_LEADERSHIPLOST])
    assert counted(s) == (3, 2, 0)


def test_proposals_that_are_not_taken_count_for_nothing() -> None:
    """io.append refuses one at once: its caller has the code, and the log is what it was."""
    s = leader()
    s.io.fail("append", RAFT_IOERR)
    assert raft_apply(s.r, RaftApply(), [add_x(1)], 1, None) == RAFT_IOERR
    assert counted(s) == (1, 0, 0)

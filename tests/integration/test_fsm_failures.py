"""State machines that return codes or lack functions, and what the log says of them, how often."""

from typing import Any

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_INVALID,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_MALFORMED,
    RAFT_UNAVAILABLE,
    RaftEntry,
    RaftSnapshot,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_last_applied,
    raft_set_snapshot_threshold,
    raft_start,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo, Statuses, command, leader


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All that was logged since the last time."""
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def commit(s: Solo, index: int) -> None:
    """Store everything and have server 2 acknowledge it up to `index`."""
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, index))


def test_refused_command_on_a_leader_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """As in C nobody is called back and the entry is tried for ever; the log says so, not with each attempt."""
    s = leader()
    apply = s.fsm.apply
    s.fsm.apply = lambda fsm, buf: (RAFT_MALFORMED, None)
    statuses = Statuses()
    command(s, cb=statuses)
    commit(s, 3)
    [line] = said(caplog)
    assert "fsm.apply of server 1 returned 6 (encoded data is malformed) for entry 3" in line
    command(s)
    commit(s, 4)
    assert said(caplog) == []
    assert (statuses.seen, s.state, raft_last_applied(s.r)) == ([], RAFT_LEADER, 2)
    # Another entry is another line.
    s.fsm.apply = lambda fsm, buf: apply(fsm, buf) if raft_last_applied(s.r) == 2 else (RAFT_MALFORMED, None)
    command(s)
    commit(s, 5)
    [line] = said(caplog)
    assert "for entry 4" in line
    assert statuses.seen == [0]


def test_refused_command_on_a_follower_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A follower becomes unavailable, and says why."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [RaftEntry(1, 1, b"odd")]))
    s.io.finish_append()
    s.recv(msg.append_entries(2, 1, 2, 1, 2))
    assert s.state == RAFT_UNAVAILABLE
    line, *_ = said(caplog)  # then that the server is unavailable
    assert "fsm.apply of server 1 returned -1" in line
    assert "entry 2" in line


def test_callbacks_find_what_the_state_machine_raised_in_errmsg() -> None:
    """The code says what becomes of the command, raft_errmsg why, also of those behind the one that raised."""
    s = leader()
    s.fsm.apply = lambda fsm, buf: fsms.missing(fsm)
    found: list[tuple[int, str]] = []
    for _ in range(2):
        command(s, cb=lambda req, status, result: found.append((status, raft_errmsg(s.r))))
    commit(s, 4)
    text = "fsm.apply: AttributeError: 'PairFsm' object has no attribute 'gone'"
    assert found == [(RAFT_LEADERSHIPLOST, text)] * 2
    assert s.r.cause == text
    assert isinstance(s.r.exception, AttributeError)


def test_command_that_raises_stops_one_server_after_the_other() -> None:
    """It is committed: who leads next applies it too. State machines that are mended go on from there."""
    c = Cluster(3).led()
    applies = [c.raft(i).fsm.apply for i in range(3)]
    for i in range(3):
        c.raft(i).fsm.apply = lambda fsm, buf: fsms.missing(fsm)
    outcome = c.add_x(c.until_leader())
    c.until(lambda: c.states().count(RAFT_UNAVAILABLE) >= 2, 20_000)
    assert outcome.status == RAFT_LEADERSHIPLOST
    c.elapse(5000)
    assert c.leader is None
    for i in range(3):
        r = c.raft(i)
        raft_close(r, None)
        assert raft_init(r, r.io, r.fsm, i + 1, str(i + 1)) == 0
        r.fsm.apply = applies[i]
        assert raft_start(r) == 0
    c.until_done(c.add_x(c.until_leader()))
    machine: Any = c.raft(c.until_leader()).fsm
    assert machine.x == 2


def test_apply_that_raises_is_logged_as_that_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An exception has its own line with a traceback; there is no second one about the code made of it."""
    s = leader()

    def fail(fsm: Any, buf: bytes) -> Any:
        raise KeyError("gone")

    s.fsm.apply = fail
    command(s)
    commit(s, 3)
    [line] = said(caplog)
    assert "raised" in line


def test_refused_snapshot_is_logged_once_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    """A code of fsm.snapshot is told when it comes, differs, or comes back after a success; RAFT_BUSY does not count as
    a failure."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 1)
    take = s.fsm.snapshot
    codes = [RAFT_IOERR, RAFT_IOERR, RAFT_BUSY, RAFT_IOERR, RAFT_MALFORMED, 0, RAFT_MALFORMED]
    told = []
    for index, code in enumerate(codes, 3):
        s.fsm.snapshot = lambda fsm, code=code: (code, []) if code != 0 else take(fsm)
        command(s)
        commit(s, index)
        if code == 0:
            s.io.finish_put()
        told.append([line.split(": ")[1] for line in said(caplog)])
    malformed = "fsm.snapshot returned 6 (encoded data is malformed)"
    assert told == [["fsm.snapshot returned 18 (I/O error)"], [], [], [], [malformed], [], [malformed]]
    assert s.state == RAFT_LEADER


def test_state_machine_that_is_busy_all_the_time_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """The log tells once, after sixteen thresholds: it may put a snapshot off, and its log grows meanwhile."""
    s = leader()
    raft_set_snapshot_threshold(s.r, 2)
    s.fsm.snapshot = lambda fsm: (RAFT_BUSY, [])
    told = []
    for index in range(3, 50):
        command(s)
        commit(s, index)
        told += [(index, line.split(": ")[1]) for line in said(caplog)]
    assert told == [(32, "fsm.snapshot returns RAFT_BUSY again and again, so none is taken and the log grows")]


def test_snapshot_that_cannot_be_stored_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """So is one that the disk refuses at once or later, and one whose thread returned a code."""
    s = leader(fsm=fsms.PairFsm(3, snapshot_async=True))
    raft_set_snapshot_threshold(s.r, 1)
    command(s)
    commit(s, 3)
    s.io.fail("snapshot_put", RAFT_IOERR)
    s.io.finish_work()
    assert "could not be stored: 18 (io: snapshot_put failed)" in said(caplog)[0]
    command(s)
    commit(s, 4)
    s.io.finish_work()
    s.io.finish_put(RAFT_IOERR)
    assert "could not be stored: 18 (I/O error)" in said(caplog)[0]
    command(s)
    commit(s, 5)
    s.io.finish_work(RAFT_MALFORMED)
    assert "fsm.snapshot_async returned 6 (encoded data is malformed)" in said(caplog)[0]
    assert not s.fsm.locked


def test_fsm_without_snapshot_takes_none(caplog: pytest.LogCaptureFixture) -> None:
    """It goes on with a log that grows, and is told so once."""
    s = leader()
    s.fsm.snapshot = None
    raft_set_snapshot_threshold(s.r, 1)
    for index in (3, 4, 5):
        command(s)
        commit(s, index)
    [line] = said(caplog)
    assert "fsm.snapshot is not set" in line
    assert (s.state, s.fsm.x, s.io.puts) == (RAFT_LEADER, 3, [])


def test_fsm_without_restore_refuses_snapshots(caplog: pytest.LogCaptureFixture) -> None:
    """A start with a snapshot fails with a text; a leader's snapshot is refused, and the log says why, once."""
    s = Solo(start=False)
    s.fsm.restore = None
    s.io.stored = []
    s.io.stored_snapshot = kept = RaftSnapshot()
    kept.index, kept.term, kept.configuration_index = 9, 1, 1
    kept.configuration = s.conf
    kept.bufs = [fsms.content(1, 2)]
    assert raft_start(s.r) == RAFT_INVALID
    assert raft_errmsg(s.r) == "restore snapshot 9: fsm.restore is not set"

    s = Solo()
    s.fsm.restore = None
    for _ in range(2):
        s.recv(msg.install_snapshot(2, 1, 9, 1, s.conf, 1, fsms.content(1, 1)))
        s.io.finish_put()
        result = s.reply().append_entries_result
        assert result is not None
        assert result.rejected == 9
    [line] = said(caplog)
    assert "restore snapshot 9: fsm.restore is not set" in line

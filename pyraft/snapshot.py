"""Snapshots (chapter 5): taking our own, installing a leader's, restoring.

Duty: at most one snapshot is taken or installed at a time. Taking: the FSM's data with the configuration committed
last, stored by the I/O, after which the log drops all but `trailing` entries. Installing: the log is emptied at
once, the snapshot stored, the FSM restored from it, the leader answered.

Failure modes: one that cannot be taken is tried again after the next apply, and so is one that cannot be stored, then
after two, four and so on entries, up to the threshold; RAFT_BUSY from the FSM is not an error, but told where it goes
on and on. Other problems are logged, unless the same one was logged last. An installation that fails puts the former
log back and is reported to the leader as a rejection. If the disk has the snapshot but the FSM refuses it, no new entry
can be stored until a retry or a restart succeeds.
"""

import logging
from typing import Final

from pyraft import calls, configuration, convert, log, membership, notice, proof, reply, writes
from pyraft.errors import RAFT_BUSY, RAFT_INVALID, RAFT_SHUTDOWN, raft_strerror
from pyraft.state import Raft, RaftInstall
from pyraft.tracing import TRACE_WARN, trace
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_UNAVAILABLE,
    RaftInstallSnapshot,
    RaftIoAsyncWork,
    RaftIoSnapshotPut,
    RaftSnapshot,
)

MAX_REFUSALS: Final = 100
"""How many messages in a row are rejected, as in C, because our snapshot has replaced the entry before theirs."""

_LONG: Final = 16
"""After so many thresholds without a snapshot a state machine that puts it off is told of."""

_logger = logging.getLogger("pyraft")


class PutRequest(RaftIoSnapshotPut):
    """Our own snapshot on its way to disk."""

    __slots__ = ("raft",)

    def __init__(self, raft: Raft) -> None:
        super().__init__()
        self.raft = raft


class TakeRequest(RaftIoAsyncWork):
    """fsm.snapshot_async in a worker thread; `exc` is what it raised."""

    __slots__ = ("exc", "raft", "snapshot")

    def __init__(self, raft: Raft, snapshot: RaftSnapshot) -> None:
        super().__init__()
        self.raft = raft
        self.snapshot = snapshot
        self.exc: BaseException | None = None


def restore(r: Raft, snapshot: RaftSnapshot) -> int:
    """Make the state that `snapshot` holds ours; return the code of fsm.restore, after which nothing has changed."""
    assert len(snapshot.bufs) == 1
    if r.fsm.restore is None:
        r.errmsg = f"restore snapshot {snapshot.index}: fsm.restore is not set"
        return RAFT_INVALID
    rv = calls.fsm_restore(r, snapshot.bufs[0])
    if rv != 0:
        calls.fsm_errmsg(r, rv, f"restore snapshot {snapshot.index}")
        return rv
    r.configuration = configuration.copy(snapshot.configuration)
    # A snapshot of C's may have the configuration of a later entry (see is_due), which will come, or is in the log.
    r.configuration_committed_index = min(snapshot.configuration_index, snapshot.index)
    r.configuration_uncommitted_index = 0
    r.configuration_last_snapshot = configuration.copy(snapshot.configuration)
    r.commit_index = snapshot.index
    r.last_applied = snapshot.index
    r.last_stored = snapshot.index
    return 0


# Taking.


def is_due(r: Raft) -> bool:
    """Return whether it is time to take a snapshot."""
    if r.state == RAFT_UNAVAILABLE or r.snapshot.pending is not None or r.snapshot.put is not None:
        return False
    if r.last_applied < r.configuration_committed_index:
        # C: replication.c:takeSnapshot gives it the configuration that was committed last, which may stand behind its
        # end where a log is applied once more after a start.
        return False
    if r.last_applied < r.snapshot.again_at:
        return False
    return r.last_applied - log.snapshot_index(r.log) >= r.snapshot.threshold


def take_now(r: Raft) -> int:
    """Begin to take a snapshot of all that is applied because somebody asks for it, as long as the next one is not due.

    Return 0 if one is under way now, or there is nothing that the newest does not have; else why none can be: RAFT_BUSY
    (a leader's is being installed, a configuration that is committed is not applied yet, the state machine cannot just
    now, or the own disk has lost the last entry), RAFT_SHUTDOWN (the server is not started, or has stopped), or the
    code of whatever failed. `r.snapshot.problem` tells what became of it.
    """
    return calls.public(r, lambda: _take_now(r))


def _take_now(r: Raft) -> int:
    if r.state == RAFT_UNAVAILABLE or r.closing or r.failed:
        return RAFT_SHUTDOWN
    if is_installing(r) or r.last_applied < r.configuration_committed_index:
        return RAFT_BUSY
    if _is_taking(r) or r.last_applied == log.snapshot_index(r.log):
        return 0
    rv = take(r)
    convert.stop_if_failed(r)
    if rv == 0 and not _is_taking(r) and log.snapshot_index(r.log) < r.last_applied:
        return RAFT_BUSY
    return rv


def _is_taking(r: Raft) -> bool:
    # A function, as mypyc takes a field that was None for None from then on, whatever is called in between.
    return r.snapshot.pending is not None


def take(r: Raft) -> int:
    """Begin to take a snapshot of all that is applied; return 0 or the code of whatever failed."""
    if r.fsm.snapshot is None:
        # C: replication.c:takeSnapshot calls it all the same.
        _warn(r, "fsm.snapshot is not set, so none is taken and the log grows for ever")
        return 0
    taken = RaftSnapshot()
    taken.index = r.last_applied
    taken.term = log.term_of(r.log, r.last_applied)
    if taken.term == 0:
        # C: replication.c:takeSnapshot does not look. The last entry that was applied is not here any more if our own
        # disk has failed to store it. Nobody could use a snapshot without a term; one is taken when the entry is back.
        return 0
    rv, taken.configuration = membership.fetch_last_committed_configuration(r)
    if rv != 0:
        return rv
    taken.configuration_index = r.configuration_committed_index
    if r.tracer.enabled:
        trace(r.tracer, f"take a snapshot up to {taken.index}")
    r.snapshot.pending = taken
    rv, taken.bufs = calls.fsm_snapshot(r)
    if rv != 0:
        r.snapshot.pending = None
        if rv == RAFT_BUSY:
            if taken.index - log.snapshot_index(r.log) >= _LONG * max(r.snapshot.threshold, 1):
                _warn(r, "fsm.snapshot returns RAFT_BUSY again and again, so none is taken and the log grows")
            return 0
        calls.fsm_errmsg(r, rv, f"take snapshot {taken.index}")
        _warn(r, f"fsm.snapshot returned {rv} ({raft_strerror(rv)})")
        return rv
    # C: replication.c:shouldTakeSnapshot looks only at the threshold: while the disk is full all of the state is taken
    # and written with each entry.
    r.snapshot.pause = min(max(2 * r.snapshot.pause, 1), max(r.snapshot.threshold, 1))
    r.snapshot.again_at = taken.index + r.snapshot.pause
    if r.fsm.version < 3 or r.fsm.snapshot_async is None:
        return _put(r, taken)
    req = TakeRequest(r, taken)
    req.work = _take_async
    rv = calls.async_work(r, req, take_cb)
    if rv != 0:
        calls.io_errmsg(r)
        _finish_taking(r, taken)
    return rv


def _take_async(req: TakeRequest) -> int:
    """Run in a worker thread: touches nothing but the request and its snapshot."""
    try:
        rv, req.snapshot.bufs = calls.fsm_snapshot_async(req.raft.fsm, req.snapshot.bufs)
        return rv
    except BaseException as exc:
        req.exc = exc
        return RAFT_SHUTDOWN


def take_cb(req: TakeRequest, status: int) -> None:
    """fsm.snapshot_async has ended: store what it returned."""
    r = req.raft
    if req.exc is not None:
        calls.fail(r, "fsm.snapshot_async", req.exc)
    if status != 0:
        if status != RAFT_BUSY and r.state != RAFT_UNAVAILABLE:
            _warn(r, f"fsm.snapshot_async returned {status} ({raft_strerror(status)})")
        _finish_taking(r, req.snapshot)
    else:
        _put(r, req.snapshot)
    convert.stop_if_failed(r)
    _go_on(r)


def _put(r: Raft, snapshot: RaftSnapshot) -> int:
    assert r.snapshot.put is None
    if log.term_of(r.log, snapshot.index) != snapshot.term:
        # C: replication.c:putSnapshot stores it all the same. Its last entry was cut off while it was taken, since our
        # own disk failed to store what the others have committed. Once that is back there will be another one.
        _finish_taking(r, snapshot)
        return 0
    # C: replication.c:putSnapshot passes 0 on, which tells the I/O to install: to delete all entries, those above
    # the snapshot included (B3). With 1 it deletes none of them.
    req = PutRequest(r)
    r.snapshot.put = req
    rv = calls.snapshot_put(r, max(r.snapshot.trailing, 1), req, snapshot, put_cb)
    if rv != 0:
        calls.io_errmsg(r)
        _warn(r, f"it could not be stored: {rv} ({r.errmsg})")
        r.snapshot.put = None
        _finish_taking(r, snapshot)
    return rv


def put_cb(req: PutRequest, status: int) -> None:
    """Our snapshot has been stored, or not: then the log stays as it is."""
    r = req.raft
    taken = r.snapshot.pending
    assert taken is not None
    r.snapshot.put = None
    if status == 0:
        r.snapshot.problem = ""
        r.snapshot.again_at = r.snapshot.pause = 0
        # If a committed configuration behind the snapshot was cut off, writes.cut_log has kept a copy.
        if taken.configuration_index == r.configuration_committed_index or _holds_committed_configuration(r):
            r.configuration_last_snapshot = configuration.copy(taken.configuration)
        assert log.term_of(r.log, taken.index) == taken.term
        log.snapshot(r.log, taken.index, r.snapshot.trailing)
        if r.snapshot.replacing != 0:
            # The disk's log goes on behind the snapshot now, as ours does (writes.cut_log).
            r.last_stored = taken.index
        notice.snapshot_taken(r, taken.index)
    else:
        if r.snapshot.replacing != 0:
            log.truncate(r.log, r.snapshot.replacing)
        if r.state != RAFT_UNAVAILABLE:
            _warn(r, f"it could not be stored: {status} ({raft_strerror(status)})")
    _finish_taking(r, taken)
    convert.stop_if_failed(r)
    _go_on(r)


def _go_on(r: Raft) -> None:
    """If the snapshot under way is done with, handle the leader's that came meanwhile."""
    if r.snapshot.pending is None and r.snapshot.put is None and r.snapshot.afterwards is not None:
        handle, r.snapshot.afterwards = r.snapshot.afterwards, None
        handle()


def _holds_committed_configuration(r: Raft) -> bool:
    entry = membership.committed_entry(r)
    return entry is not None and entry.type == RAFT_CHANGE


def _warn(r: Raft, problem: str) -> None:
    """Log what is wrong with snapshots, unless it was said last or is an exception, which has been logged."""
    if r.failed or r.snapshot.problem == problem:
        return
    r.snapshot.problem = problem
    _logger.warning("snapshot of server %d at entry %d: %s", r.id, r.last_applied, problem)
    trace(r.tracer, f"snapshot at entry {r.last_applied}: {problem}", TRACE_WARN)


def _finish_taking(r: Raft, snapshot: RaftSnapshot) -> None:
    """Give the buffers back to the FSM, however it ended."""
    r.snapshot.pending = None
    r.snapshot.replacing = 0
    calls.fsm_finalize(r, snapshot.bufs)


# Installing.


def is_installing(r: Raft) -> bool:
    """Return whether a snapshot that replaces the log is on its way to our disk."""
    return r.snapshot.install is not None or r.snapshot.replacing != 0


def nobody_answers(r: Raft, index: int) -> bool:
    """Return whether the snapshot under way gives no answer for a leader's up to `index`, which has to wait for it.

    It gives none if it is our own, if it is from a leader of an earlier term, which gets the answer, or if it is older,
    so that its answer is not enough. One from the leader of our term answers for the same one sent again.
    """
    install = r.snapshot.install
    if install is None:
        return r.snapshot.pending is not None
    return install.term != r.current_term or install.snapshot.index < index


def install(r: Raft, args: RaftInstallSnapshot) -> tuple[int, bool, int]:
    """Begin to install a leader's snapshot; return (rv, whether the answer comes later, rejected index or 0)."""
    if r.snapshot.pending is not None or r.snapshot.put is not None:
        # Either the leader will try again, or `SnapshotState.afterwards` does.
        return RAFT_BUSY, True, args.last_index
    if log.snapshot_index(r.log) >= args.last_index:
        # Count this as a third of the allowed refusals: the leader resends after every time-out.
        r.snapshot.refusals += MAX_REFUSALS // 3
        return 0, _owes(r, args), 0
    # C: replication.c:replicationInstallSnapshot takes a higher local term for proof that the entries are here (B9);
    # only the same term is (log matching property, 3.5).
    term = log.term_of(r.log, args.last_index)
    if args.last_term != 0 and term == args.last_term:
        return 0, _owes(r, args), 0
    # Our disk may have failed to store an entry after the others had committed it. Such an entry is not here and
    # contradicts nothing: the snapshot gives it back.
    if term != 0 and args.last_index <= r.commit_index:
        # C: replication.c:replicationInstallSnapshot would take committed entries back on a liar's word.
        assert r.follower_state is not None
        text = f"entry {args.last_index} is committed and contradicts the leader's"
        return membership.refute(r, r.follower_state.current_leader.id, text), True, 0
    snapshot = RaftSnapshot()
    snapshot.index = args.last_index
    snapshot.term = args.last_term
    snapshot.configuration_index = min(args.conf_index, args.last_index)
    snapshot.configuration = args.conf
    snapshot.bufs = [args.data]
    # C: replication.c:replicationInstallSnapshot forgets the log for good, so that after a failure it claims an index
    # whose content is nowhere (B6).
    r.snapshot.owed = None
    former = log.restore(r.log, args.last_index, args.last_term)
    req = RaftInstall(r, r.current_term, snapshot, former, r.last_stored)
    r.last_stored = 0
    r.snapshot.put = req
    rv = calls.snapshot_put(r, 0, req, snapshot, install_cb)
    if rv != 0:
        calls.io_errmsg(r)
        _put_back(r, req)
    return rv, True, args.last_index


def _owes(r: Raft, args: RaftInstallSnapshot) -> bool:
    """Return whether the answer for a snapshot of entries that are here has to wait until they are stored.

    C: recv_install_snapshot.c:recvInstallSnapshot acknowledges entries that are still being written, too. They are
    committed without this server, so nothing is lost, but the leader believes them stored here when they are not.
    """
    if r.last_stored >= args.last_index or not proof.carries_announcements(r):
        return False
    r.snapshot.owed = (r.current_term, args.last_index, args.last_term)
    return True


def answer_if_stored(r: Raft) -> None:
    """Give the answer that is owed, if the entries are stored now, or gone, as the disk failed to store them."""
    owed = r.snapshot.owed
    if owed is None or is_installing(r):
        return
    term, index, last_term = owed
    held = log.snapshot_index(r.log) >= index or log.term_of(r.log, index) == last_term
    if held and r.last_stored < index and r.current_term == term:
        return
    r.snapshot.owed = None
    if r.current_term == term and r.follower_state is not None:
        reply.send_to_leader(r, 0 if held else index, index if held else r.last_stored)


def install_cb(req: RaftInstall, status: int) -> None:
    """A leader's snapshot has been stored, or not."""
    r = req.raft
    snapshot = req.snapshot
    if r.state == RAFT_UNAVAILABLE:
        r.snapshot.put = None
        return
    rejected = 0
    if status != 0:
        calls.io_errmsg(r)
        rejected = snapshot.index
        _put_back(r, req)
    elif snapshot.index < r.last_applied:
        _installed_behind(r, snapshot)
        _installed(r, snapshot)
    elif restore(r, snapshot) != 0:
        _warn(r, f"the leader's is installed, but not restored: {r.errmsg}")
        rejected = snapshot.index
        _put_back(r, req)
        r.snapshot.refused_index = snapshot.index
    else:
        _installed(r, snapshot)
    # In another term there may be another leader; it did not ask. And fsm.restore may have closed the server.
    if req.term == r.current_term and not r.failed and r.follower_state is not None:
        reply.send_to_leader(r, rejected, r.last_stored)
    convert.stop_if_failed(r)
    _go_on(r)


def _installed(r: Raft, snapshot: RaftSnapshot) -> None:
    """Note that a leader's snapshot has taken the place of the log."""
    r.snapshot.put = None
    notice.snapshot_installed(r, snapshot.index)
    r.snapshot.refused_index = 0
    r.snapshot.problem = ""
    # The log that writes still under way, if any, belong to is gone for good.
    writes.void(r, 0)


def _installed_behind(r: Raft, snapshot: RaftSnapshot) -> None:
    """Go on with a log that begins before the end of what is applied, and with the state machine as it is.

    C: replication.c:replicationInstallSnapshot and installSnapshotCb take the commit index back to the snapshot, and
    the state machine with it, which only ever go forward (figure 3.1). Our disk had failed to store entries that the
    others committed and we applied; all that the snapshot lacks of them is committed, so the leader sends the same
    again.
    """
    r.last_stored = snapshot.index
    if snapshot.configuration_index == r.configuration_committed_index:
        r.configuration_last_snapshot = configuration.copy(snapshot.configuration)
    # A newer one that is committed has left the log before, and writes.cut_log has kept it.
    r.configuration = configuration.copy(r.configuration_last_snapshot)
    r.configuration_uncommitted_index = 0


def _put_back(r: Raft, req: RaftInstall) -> None:
    """Undo the beginning of an installation: the former log and what is known to be stored of it."""
    r.snapshot.put = None
    log.put_back(r.log, req.former)
    r.last_stored = req.former_stored
    # Configurations are adopted when they are stored, which may have happened meanwhile. Those of our own leadership
    # have been in force since they were appended, and one of them may be committed.
    newest = max(r.configuration_committed_index, r.configuration_uncommitted_index)
    for index in range(max(req.former_stored_at_start, newest) + 1, req.former_stored + 1):
        entry = log.get(r.log, index)
        if entry is not None and entry.type == RAFT_CHANGE:
            membership.uncommitted_change(r, index, entry.buf)

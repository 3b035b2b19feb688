"""Writes of entries under way, a leader's and a follower's, and the effect that their ends and cuts have on the log.

Duty: `Raft.writes` lists the appends that io.append has taken and not yet called back (state.RaftWrite). The functions
here say what is stored when a write has ended, and which entries of other writes still count when the log is cut.

Happy path: calls.append lists a write, its completion takes it out and calls `update_last_stored`.

Failure modes: a write that failed is followed by `cut_log`, with which its entries leave the log; entries that leave it
for another reason are told to the writes under way by `void`. A later write of the same indexes speaks for itself only.
"""

from pyraft import log, membership
from pyraft.state import Raft, RaftWrite


def update_last_stored(r: Raft, req: RaftWrite) -> int:
    """Note that the entries of a write are on disk; return how many from req.index on still have the written terms.

    Entries at these indexes may have been cut off, sent and written again meanwhile, and the disk may have forgotten
    the first copy. So only those that have stood in the log all the time count as stored.
    C: replication.c:updateLastStored adds their number, which overshoots when a write before them failed (B35).
    """
    install = r.snapshot.install
    last = req.index + req.standing - 1
    if install is not None:
        # The log that these entries are in may come back.
        if req.standing > 0 and req.index <= install.former_stored + 1:
            install.former_stored = max(install.former_stored, last)
        return log.matching(install.former, req.index, req.entries.terms)
    n = log.matching(r.log, req.index, req.entries.terms)
    if req.standing > 0 and req.index <= r.last_stored + 1:
        r.last_stored = max(r.last_stored, last)
    return n


def cut_log(r: Raft, index: int) -> None:
    """Drop the entries from `index` on, whose write failed, also from a log that a snapshot is replacing.

    C: replication.c:appendLeaderCb and appendFollowerCb also cut what has taken their place since: entries that are on
    disk or on their way, so that memory and disk count differently from then on. Callers test RaftWrite.standing.
    """
    if index <= r.configuration_committed_index and membership.committed_entry(r) is not None:
        # C: replication.c:appendLeaderCb loses the configuration. It is committed, so the others have stored it, and a
        # rollback goes back to it: a copy of it takes the place of the last snapshot's.
        rv, conf = membership.fetch_last_committed_configuration(r)
        if rv == 0:
            r.configuration_last_snapshot = conf
    void(r, index)
    last = log.last_index(r.log)
    if r.snapshot.install is not None:
        log.truncate(r.log, index)
        log.truncate(r.snapshot.install.former, index)
    else:
        log.truncate(r.log, _in_snapshot(r, index) + 1)
    if r.leader_state is not None:
        r.counts.accepted += last - log.last_index(r.log)  # those that are gone were taken all the same


def _in_snapshot(r: Raft, index: int) -> int:
    """Return up to where entries from `index` on stay although the disk's log lacks them, index - 1 for none.

    C: log.c:logSnapshot asserts. A leader may have applied, and put in a snapshot, what the others have committed and
    its own disk then fails to store. If that snapshot is being stored, the disk's log ends before it, and it takes the
    place of that log (see RaftIo). So no entry must be written meanwhile: it would be counted from another index there.
    """
    pending = r.snapshot.pending
    if pending is not None and r.snapshot.put is not None and index <= pending.index:
        r.snapshot.replacing = index
        return pending.index
    covered = log.snapshot_index(r.log)
    if index <= covered:
        # The I/O tells late, when the snapshot is stored and has taken the place of the disk's log.
        r.last_stored = max(r.last_stored, covered)
        return covered
    return index - 1


def void(r: Raft, index: int) -> None:
    """Note for the writes under way that the entries from `index` on have left the log."""
    for req in r.writes:
        req.standing = max(0, min(req.standing, index - req.index))

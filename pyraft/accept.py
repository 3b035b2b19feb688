"""A follower's log: accepting a leader's entries (figure 3.1, AppendEntries RPC, receiver implementation).

Duty: the consistency check, removal of conflicting entries, writing the new ones, and what follows from their being
stored: configuration changes, the commit index, the reply.

Happy path: entries go to the log in memory at once, to disk by io.append, and are acknowledged when that completes.
A message with nothing new is acknowledged at once.

Failure modes: a mismatch before the entries is rejected. One at or below the commit index is RAFT_SHUTDOWN, as a leader
must never contradict what is committed, or membership.DROP if the sender is not a member. After a write that fails the
message is rejected and its entries are forgotten.
"""

from pyraft import apply, calls, convert, election, log, membership, notice, recovering, reply, snapshot, writes
from pyraft.errors import RAFT_SHUTDOWN
from pyraft.state import Raft, RaftWrite
from pyraft.tracing import trace
from pyraft.types import RAFT_CHANGE, UNSET, EntryBatch, RaftAppendEntries


class AppendRequest(RaftWrite):
    """A follower's write of `entries` from `index` on, out of a message of `term` with this commit index."""

    __slots__ = ("leader_commit", "prev_log_index", "term")

    def __init__(self, raft: Raft, args: RaftAppendEntries, commit: int, index: int, entries: EntryBatch) -> None:
        # As RaftWrite's __init__, without the call.
        self.data = None
        self.cb = UNSET
        self.may_wait = False
        self.raft = raft
        self.index = index
        self.entries = entries
        self.standing = len(entries.bufs)
        self.term = args.term
        self.leader_commit = commit
        self.prev_log_index = args.prev_log_index


def entries(r: Raft, args: RaftAppendEntries) -> tuple[int, bool, int]:
    """Process an AppendEntries of the current term; return (rv, whether the answer comes later, rejected or 0)."""
    rejected = args.prev_log_index
    matches, rv = _matches(r, args)
    if not matches:
        return rv, False, rejected
    batch = EntryBatch.of(args.entries, len(args.entries))
    rv, i = _delete_conflicting(r, args.prev_log_index, batch.terms)
    if rv != 0:
        return rv, False, rejected
    if i == len(batch.bufs):
        # Nothing to write, but perhaps to commit; not while a snapshot is being installed, with last_stored 0.
        if not snapshot.is_installing(r):
            rv = commit(r, _matched_commit(args))
        return rv, False, 0
    if r.snapshot.refused_index != 0:
        r.errmsg = f"the state machine refused snapshot {r.snapshot.refused_index}, after which the log on disk begins"
        return RAFT_SHUTDOWN, False, rejected
    return write(r, args, args.prev_log_index + 1 + i, batch if i == 0 else batch[i:]), True, 0


def _matches(r: Raft, args: RaftAppendEntries) -> tuple[bool, int]:
    """Check the log matching property (3.5); return (whether it holds, rv)."""
    if args.prev_log_index == 0:
        return True, 0
    term = log.term_of(r.log, args.prev_log_index)
    if term == args.prev_log_term and term != 0:
        r.snapshot.refusals = 0
        return True, 0
    if term == 0 and args.prev_log_index <= log.snapshot_index(r.log):
        # C: replication.c:checkLogMatchingProperty rejects all that our own snapshot has replaced. A leader whose
        # snapshot reaches less far can then have nothing to go on from, for ever. Committed entries match.
        r.snapshot.refusals += 1
        return r.snapshot.refusals > snapshot.MAX_REFUSALS, 0
    if term != 0 and args.prev_log_index <= r.commit_index:
        return False, _contradiction(r, args.prev_log_index)
    return False, 0


def _contradiction(r: Raft, index: int) -> int:
    follower = r.follower_state
    assert follower is not None
    # C: replication.c:checkLogMatchingProperty and deleteConflictingEntries stop, whoever has sent the message.
    return membership.refute(r, follower.current_leader.id, f"entry {index} is committed and contradicts the leader's")


def _delete_conflicting(r: Raft, prev_index: int, terms: list[int]) -> tuple[int, int]:
    """Delete an entry that conflicts with a new one, and all that follow it; return (rv, position of the first new)."""
    lg = r.log
    last_index = log.last_index(lg)
    for i, term in enumerate(terms):
        index = prev_index + 1 + i
        if index > last_index:
            return 0, i
        local_term = log.term_of(lg, index)
        # C: replication.c:deleteConflictingEntries takes entries that a snapshot has replaced for new ones (B36).
        if local_term == term or (local_term == 0 and index <= log.snapshot_index(lg)):
            continue
        if index <= r.commit_index:
            return _contradiction(r, index), i
        return _truncate(r, index), i
    return 0, len(terms)


def _truncate(r: Raft, index: int) -> int:
    if r.tracer.enabled:
        trace(r.tracer, f"conflict at index {index}, truncate")
    if r.configuration_uncommitted_index >= index:
        rv = membership.rollback(r)
        if rv != 0:
            return rv
    if r.configuration_committed_index >= index:
        rv = membership.give_up_committed(r, index)
        if rv != 0:
            return rv
    rv = calls.truncate(r, index)
    if rv != 0:
        calls.io_errmsg(r)
        return rv
    if r.follower_state is None:
        return RAFT_SHUTDOWN  # closed inside io.truncate, or inside io.configured
    log.truncate(r.log, index)
    writes.void(r, index)
    r.last_stored = min(r.last_stored, index - 1)
    return 0


def _matched_commit(args: RaftAppendEntries) -> int:
    """Return the leader's commit index, as far as the message shows that our logs match (figure 3.1).

    C: replication.c:replicationAppend needs no such bound, as its messages always reach to the end of the leader's
    log (B31); behind a shorter one our log may still hold entries that the leader has never had.
    """
    return min(args.leader_commit, args.prev_log_index + len(args.entries))


def commit(r: Raft, leader_commit: int) -> int:
    """Follow the leader's commit index as far as entries are stored (figure 3.1), and apply."""
    if leader_commit > r.commit_index and r.last_stored >= r.commit_index:
        r.commit_index = min(leader_commit, r.last_stored)
    elif r.stuck_index == r.last_applied + 1:
        return 0
    # Entries that were committed earlier, too: some of them may have been missing here for a while.
    return apply.run(r)


def write(r: Raft, args: RaftAppendEntries, index: int, entries: EntryBatch) -> int:
    """Put new entries in the log and write them, in one piece unless they are very many."""
    follower = r.follower_state
    assert follower is not None
    step = log.MAX_ENTRIES
    # The bound of _matched_commit: these are the last entries of the message.
    commit = min(args.leader_commit, index + len(entries.bufs) - 1)
    for start in range(0, len(entries.bufs), step):
        if start > 0 and (r.follower_state is not follower or log.last_index(r.log) != index + start - 1):
            # The write of the part before has ended inside the call; the state has changed, or that part was cut off.
            return 0
        part = entries if len(entries.bufs) <= step else entries[start : start + step]
        log.append_batch(r.log, part)
        req = AppendRequest(r, args, commit, index + start, part)
        rv = calls.append(r, req, part, append_cb)
        if rv != 0:
            # Memory and disk must not diverge.
            calls.io_errmsg(r)
            log.truncate(r.log, req.index)
            return rv
    return 0


def is_writing(r: Raft) -> bool:
    """Return whether entries from a leader are on their way to disk."""
    return any(isinstance(req, AppendRequest) for req in r.writes)


def append_cb(req: AppendRequest, status: int) -> None:
    """A write of a leader's entries has ended."""
    r = req.raft
    if status == 0 and r.lane and stored(r, req):
        return
    r.writes.remove(req)
    if r.follower_state is not None:
        if status != 0:
            calls.io_errmsg(r)
            notice.not_stored(r, req.index)
            reply.send_to_leader(r, req.prev_log_index + 1, r.last_stored)
        else:
            _append_done(r, req)
    if status != 0 and req.standing > 0:
        writes.cut_log(r, req.index)
    if take_over(r) != 0:
        convert.to_unavailable(r)
    convert.stop_if_failed(r)


def stored(r: Raft, req: AppendRequest) -> bool:
    """The lane, for a write that is done: does the part of append_cb that is left where nothing has interfered.

    Return False, with nothing changed, where a test fails: entries cut off or compacted meanwhile, a configuration
    among them, another term, another state, a snapshot being stored, recovery, a TimeoutNow that waits.
    """
    lg, follower, terms = r.log, r.follower_state, req.entries.terms
    index, n = req.index, len(terms)
    if follower is None or req.term != r.current_term:
        return False
    order = follower.timeout_now  # tested as a variable: what is stored next may bring another one
    if order is not None:
        return False
    if r.recovering or r.snapshot.put is not None or r.snapshot.replacing != 0:
        return False
    if req.entries.alike < 0 and RAFT_CHANGE in req.entries.types:
        return False
    slot = index - 1 - lg.base
    if req.standing != n or index > r.last_stored + 1 or index <= lg.offset or lg.terms[slot : slot + n] != terms:
        return False
    # The write is stored (as in writes.update_last_stored).
    r.writes.remove(req)
    last = index + n - 1
    r.last_stored = max(r.last_stored, last)
    # Follow the commit index, apply, and then tell the leader, unless the state machine has ended all that.
    if commit(r, req.leader_commit) == 0 and req.term == r.current_term and r.follower_state is not None:
        reply.send_to_leader(r, 0, min(r.last_stored, last))
    follower = r.follower_state
    if follower is not None and follower.timeout_now is not None and take_over(r) != 0:
        convert.to_unavailable(r)
    if r.failed:
        convert.stop_if_failed(r)
    return True


def take_over(r: Raft) -> int:
    """Obey the leader's TimeoutNow (3.10), if there is one and all writes have ended; return the code of the stores.

    It is void if the sender leads no more, or if our last entry is not the one named in it.
    """
    follower = r.follower_state
    if follower is None or follower.timeout_now is None or is_writing(r):
        # C: recv_timeout_now.c:recvTimeoutNow forgets a TimeoutNow that comes during a write. Then nobody leads until
        # the leader gives the transfer up: libraft before 0.18 sends it before the writes have ended (B49).
        return 0
    id, args = follower.timeout_now
    follower.timeout_now = None
    if r.current_term != args.term or follower.current_leader.id != id:
        return 0
    if r.recovering or not election.is_voter(r):
        return 0
    if snapshot.is_installing(r):
        # C: recv_timeout_now.c:recvTimeoutNow lets it stand, and asserts when the snapshot is stored.
        return 0
    if log.last_index(r.log) != args.last_log_index or log.last_term(r.log) != args.last_log_term:
        return 0
    return convert.to_candidate(r, True)


def _append_done(r: Raft, req: AppendRequest) -> None:
    n = writes.update_last_stored(r, req)
    # None of the entries in the log any more: nothing to do, nothing to tell.
    if n == 0 or snapshot.is_installing(r):
        return
    types = req.entries.types
    if RAFT_CHANGE in types:
        # C: replication.c:appendFollowerCb adopts a configuration again that is older than the one in force, when the
        # write of an entry that was sent again meanwhile ends late. One that was cut off in between and has come again
        # is for its own write to bring in force: if that fails nothing here would take it out again.
        newest = max(r.configuration_committed_index, r.configuration_uncommitted_index)
        for i in range(max(0, newest + 1 - req.index), min(n, req.standing)):
            if types[i] == RAFT_CHANGE and membership.uncommitted_change(r, req.index + i, req.entries.bufs[i]) != 0:
                return
    if r.recovering and recovering.stored(r) != 0:
        return
    if commit(r, req.leader_commit) != 0:
        return
    # In another term there may be another leader; it did not ask.
    if req.term != r.current_term or r.follower_state is None:
        return
    # C: replication.c:appendFollowerCb acknowledges all that is stored, also what the message says nothing of (B8).
    reply.send_to_leader(r, 0, min(r.last_stored, req.index + len(req.entries.bufs) - 1))

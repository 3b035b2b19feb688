"""A voter whose disk has lost entries that it may have acknowledged, until it has them back.

Duty: `Raft.recovering` is set at the start if io.recovering says so. While it stands the server does not vote, stand
as a candidate or obey TimeoutNow, since its log is no measure for anybody else's; but it stores and acknowledges
entries like any follower. The functions here decide from the leader's AppendEntries when that is over.

Happy path: the leader fills the log up; the predecessor of an empty AppendEntries, which is always the leader's last
entry, of C leaders too, is found stored here; io.recovered makes that durable, and the server is a full voter again.
A leader of a term that is not below ours holds every entry committed with our help: it was elected with our vote
when we still had them, or by a majority that has another member of each majority that we were part of. No message
may arrive that was sent before we started, which is so over connections. libraft has none of this.

Failure modes: a leader that remembers our acknowledgments takes our rejections for old ones and sends nothing. After
install_snapshot_timeout of such rejections we adopt the next term, so that whoever is elected in it starts afresh.
"""

from pyraft import calls, snapshot, term
from pyraft.state import Raft
from pyraft.tracing import TRACE_INFO, trace
from pyraft.types import RaftAppendEntries


def accepted(r: Raft, args: RaftAppendEntries) -> int:
    """Take note of an AppendEntries that matched our log; return 0 or the code that makes the server stop."""
    r.rejecting_since = None
    if args.entries or args.prev_log_index == 0 or r.last_stored < args.prev_log_index:
        return 0
    rv = calls.recovered(r)
    if rv == 0:
        r.recovering = False
        trace(r.tracer, f"all entries are back, up to {args.prev_log_index} of term {args.prev_log_term}", TRACE_INFO)
    # A disk that fails here is no reason to stop: the next heartbeat tries again.
    return rv if r.failed else 0


def rejected(r: Raft, args: RaftAppendEntries) -> int:
    """Take note of an AppendEntries that did not match; return 0 or the code of io.set_term."""
    if snapshot.is_installing(r):
        r.rejecting_since = None
        return 0
    now = calls.now(r)
    if r.rejecting_since is None or args.prev_log_index < r.rejecting_index:
        # A leader that steps back through its log is listening.
        r.rejecting_since = now
        r.rejecting_index = args.prev_log_index
        return 0
    if now - r.rejecting_since < r.install_snapshot_timeout:
        return 0
    return term.bump(r, r.current_term + 1)

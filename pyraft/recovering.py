"""A voter whose disk has lost entries that it may have acknowledged, until it has them back.

Duty: `Raft.recovering` is set at the start if io.recovering says so. While it stands the server does not stand as a
candidate or obey TimeoutNow, and votes only where its log as it was could not have been the better one; but it stores
and acknowledges entries like any follower. The functions here decide from the leader's messages when that is over.

Happy path: the leader fills the log up until the rule of `_is_complete` holds; io.recovered makes that durable, and the
server is a full voter again. libraft has none of this. A server that starts without a log is treated so, too.

Failure modes: a leader that remembers our acknowledgments takes our rejections for old ones and sends nothing (C's, and
ours for some heartbeats); one of the term in which we stopped may never say where its log ends (C's, never idle). Both
are given install_snapshot_timeout; then we adopt the next term, so that whoever is elected in it starts afresh. Where
no leader can be elected without this server's vote, `waiting` says so: nobody can tell then what was lost.
"""

import logging

from pyraft import calls, log, snapshot, term
from pyraft.state import Raft
from pyraft.tracing import TRACE_INFO, trace
from pyraft.types import NOBODYS, RaftAppendEntries

_logger = logging.getLogger("pyraft")

_PATIENCE = 10
"""After how many election timeouts without a leader the log is told that this server's vote may be missing."""


def _is_complete(r: Raft) -> bool:
    """Return whether the log has again all that this server may have helped to commit.

    Let s be the term that we had when we started: we have acknowledged nothing in a later one before. The leader of a
    term t >= s holds every entry that is or ever will be committed in a term below t (Leader Completeness, 3.6.3): each
    majority that commits and the one that elected it have a member in common. If we are that member, we voted while we
    had the entries, as we do not vote now. Our log is complete, too, once we have stored all that this leader had when
    it was elected, and what we acknowledged in t itself before we started.

    (1) t > s, and our stored log ends with an entry of t: it is the leader's up to there (log matching, 3.5), so with
    all that it had when it was elected, and there was nothing to acknowledge in t.

    (2) A message that left a leader of t >= s after we had started shows where its log ended then, whether we could
    take it or not: the predecessor of one without entries is the leader's last entry, C's too, and one of ours says
    whether it goes to the end (RaftAppendEntries.whole). All that we acknowledged in t had come from there, so it is at
    or before that end. When the log is stored up to there and a message has shown it to match so far, we have it all.
    That no message arrives which was sent before we started is so over connections. The leader's commit index does not
    tell such an end: what is behind it may be committed later, with our acknowledgment of entries that we have lost.
    """
    if r.current_term > r.recovery_term and log.term_of(r.log, r.last_stored) == r.current_term:
        return True
    return 0 < r.recovery_end <= min(r.last_stored, r.recovery_matched)


def begin(r: Raft) -> None:
    """Take note, at the start, that entries may be missing; the I/O knows why."""
    r.recovery_term = r.current_term
    r.recovery_reason = r.io.errmsg or "its disk has lost some"
    text = "server %d may lack entries that it acknowledged, and does not vote until a leader has given it all: %s"
    _logger.warning(text, r.id, r.recovery_reason)


def begin_empty(r: Raft) -> None:
    """Take note, at the start, that there is no log.

    This may be a new server, or a voter whose disk was replaced and which has lost what it acknowledged. A leader fills
    up either, in several messages (B31; C's is one). A new server becomes a voter when it has caught up. A former voter
    is one again with the first configuration that it gets, when it has only a part of what it acknowledged. So neither
    votes or stands before it has all that its leader had. If the metadata were lost as well, nobody knows the term in
    which the server stopped; the term of the leader that begins to fill it up stands for it (`meets`). All that the
    server acknowledged in that term came from this leader, so rule (2) holds; for rule (1) the term has to be a later
    one. A server that stops half filled recovers when it starts again, if the I/O can note that (io.filling); otherwise
    it goes on as a voter with what it has.
    """
    r.recovering = r.filling = True
    r.recovery_term = 0


def meets(r: Raft) -> int:
    """Take note of a leader of the current term, the one that begins to fill this server up if it is empty.

    Return 0 or the code of io.filling.
    """
    if not r.filling or log.last_index(r.log) > 0:
        return 0
    if r.recovery_term == 0:
        rv = calls.filling(r)
        if rv != 0:
            calls.io_errmsg(r)
            return rv
    r.recovery_term = r.current_term
    return 0


def heard(r: Raft, args: RaftAppendEntries) -> None:
    """Take note of an AppendEntries of the current term, before it is looked at."""
    end = args.prev_log_index + len(args.entries)
    if r.recovery_end == 0 and end < NOBODYS and (args.whole or not (args.entries or args.partial)):
        r.recovery_end = end  # 0, which shows nothing, beside a snapshot (B48).
    r.recovery_told = False


def accepted(r: Raft, args: RaftAppendEntries) -> int:
    """Take note of an AppendEntries that matched our log; return 0 or the code that makes the server stop."""
    r.rejecting_since = None
    r.recovery_matched = max(r.recovery_matched, args.prev_log_index + len(args.entries))
    rv = stored(r)
    if rv != 0 or not r.recovering or r.filling or r.recovery_end != 0 or r.current_term > r.recovery_term:
        return rv
    now = calls.now(r)
    if r.accepting_since is None:
        r.accepting_since = now
    if now - r.accepting_since < r.install_snapshot_timeout:
        return 0
    return term.bump(r, r.current_term + 1)


def stored(r: Raft) -> int:
    """See whether the recovery is over, after something was stored or shown to match; return 0 or what is fatal."""
    if not _is_complete(r):
        return 0
    rv = 0 if r.filling and r.io.filling is None else calls.recovered(r)
    if rv == 0 and r.filling:
        r.recovering = r.filling = False
        trace(r.tracer, f"has all that its leader had, up to {r.last_stored}", TRACE_INFO)
    elif rv == 0:
        r.recovering = False
        _logger.info("server %d has all entries back, up to %d", r.id, r.last_stored)
        trace(r.tracer, f"all entries are back, up to {r.last_stored}", TRACE_INFO)
    # A disk that fails here does not stop the server: the next heartbeat tries again.
    return rv if r.failed else 0


def rejected(r: Raft, args: RaftAppendEntries) -> int:
    """Take note of an AppendEntries that did not match; return 0 or the code of io.set_term."""
    if args.prev_log_index >= NOBODYS:
        return 0
    if r.filling or snapshot.is_installing(r):
        # Nobody takes the rejections of a new server for old ones.
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


def waiting(r: Raft) -> None:
    """Tell the log, once, when no leader has been heard of for long: perhaps it is our vote that is missing."""
    if r.recovery_told or calls.now(r) - r.election_timer_start < _PATIENCE * r.election_timeout:
        return
    r.recovery_told = True
    why = r.recovery_reason
    if r.filling:
        why = "it was started without a log and has been given a part of it; a new server lacks none"
    _logger.warning(
        "server %d is recovering: it may lack entries that it acknowledged (%s), so it withholds its vote until a "
        "leader has given it all, and no leader has been heard of for %d ms. It may be that none can be elected "
        "without this vote: with two voters it is so, or if one of three has left the voters and not told the others. "
        "Bring all other members back, above all those that have been away. Only if that is impossible, raft_recover "
        "on the member whose last entry has the highest term, of several the one with the longest log, makes a cluster "
        "of what is left; what only lost disks held, acknowledged entries too, is lost for good then",
        r.id,
        why,
        calls.now(r) - r.election_timer_start,
    )

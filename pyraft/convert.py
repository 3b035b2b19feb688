"""State changes: follower, candidate, leader, unavailable (figure 3.3).

Duty: leave the old state, failing what depended on it; set the new one, telling the user; set it up. Changes go
through `set_state`, which holds the table of legal ones, but for two: `to_candidate` takes back a candidacy that could
not be stored, as C does, and `cease` ends a copy in a forked child, or a server that an interrupt has left in the
middle of something.

Order, which users can see: a leader's pending requests and change are called back first, while the state still is
RAFT_LEADER; then the state changes and the state callback fires; then the new state is set up.

Failure modes: an election that cannot store its term or vote leaves the server a follower, silently, and its code
makes the caller go unavailable. Callbacks may call raft_close; code that fired one checks the state before going on.
"""

import logging
from typing import Final

from pyraft import apply, calls, election, log, membership, notice, progress, reads, replicate, request
from pyraft.errors import RAFT_SHUTDOWN
from pyraft.state import CandidateState, FollowerState, LeaderState, Raft
from pyraft.tracing import TRACE_FATAL, trace
from pyraft.types import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_LEADER,
    RAFT_UNAVAILABLE,
    STATE_NAMES,
    RaftBarrier,
)

_logger = logging.getLogger("pyraft")

LEGAL: Final = frozenset(
    (
        (RAFT_UNAVAILABLE, RAFT_FOLLOWER),
        (RAFT_FOLLOWER, RAFT_CANDIDATE),
        (RAFT_CANDIDATE, RAFT_FOLLOWER),
        (RAFT_CANDIDATE, RAFT_LEADER),
        (RAFT_LEADER, RAFT_FOLLOWER),
        (RAFT_FOLLOWER, RAFT_UNAVAILABLE),
        (RAFT_CANDIDATE, RAFT_UNAVAILABLE),
        (RAFT_LEADER, RAFT_UNAVAILABLE),
    )
)
"""The legal changes, (old, new)."""


def set_state(r: Raft, new_state: int) -> None:
    """Change the state, with fresh data for it, and fire the state callback."""
    old_state = r.state
    assert (old_state, new_state) in LEGAL
    if r.tracer.enabled:
        trace(r.tracer, f"{STATE_NAMES[old_state]} -> {STATE_NAMES[new_state]}, term {r.current_term}")
    r.state = new_state
    r.counts.accepted = notice.accepted(r)
    r.follower_state = FollowerState() if new_state == RAFT_FOLLOWER else None
    r.candidate_state = CandidateState() if new_state == RAFT_CANDIDATE else None
    r.leader_state = LeaderState() if new_state == RAFT_LEADER else None
    if old_state == RAFT_LEADER and not r.closing:
        notice.leads_no_more(r)
    calls.fire_state(r, old_state, new_state)


def _leave(r: Raft, new_state: int) -> bool:
    """Wind the current state up; return False if a callback has brought about `new_state` or the end meanwhile."""
    if r.state == RAFT_LEADER:
        # Commands of this turn have to reach the disk and the peers in this term.
        replicate.flush(r)
        leader = r.leader_state
        if leader is not None:
            # C: convert.c:convertClearLeader lets a callback submit to a leader that is on its way out (B33).
            leader.accepting = False
            request.fail_all(r, leader)
            reads.fail_all(r, leader)
    return r.state not in (new_state, RAFT_UNAVAILABLE)


def to_follower(r: Raft) -> None:
    """Become follower, without a known leader and with a fresh election timer; not if the server has stopped."""
    if _leave(r, RAFT_FOLLOWER):
        start_following(r)


def start_following(r: Raft) -> None:
    """Enter the state of a follower. A server that starts is the only one that leaves UNAVAILABLE."""
    set_state(r, RAFT_FOLLOWER)
    if r.state == RAFT_FOLLOWER:
        election.reset_timer(r)


def to_candidate(r: Raft, disrupt_leader: bool) -> int:
    """Become candidate and start an election; `disrupt_leader` if the leader itself asked for it (3.10)."""
    assert election.may_stand(r)
    set_state(r, RAFT_CANDIDATE)
    candidate = r.candidate_state
    if candidate is None:
        return 0
    candidate.disrupt_leader = disrupt_leader
    # C: convert.c:convertToCandidate lets a single voter lead without an election, in the term that it has. Then two
    # different entries can share an index and a term (B34), so it is a real election here, whose only vote is ours.
    alone = election.is_only_voter(r)
    candidate.in_pre_vote = r.pre_vote and not disrupt_leader and not alone
    rv = election.start(r)
    # I/O code may close the server.
    if r.candidate_state is not candidate:
        return rv
    if rv != 0:
        r.state = RAFT_FOLLOWER
        r.candidate_state = None
        r.follower_state = FollowerState()
        return rv
    return to_leader(r) if alone else 0


def to_leader(r: Raft) -> int:
    """Become leader of the current term and commit an entry of it (6.4)."""
    set_state(r, RAFT_LEADER)
    leader = r.leader_state
    if leader is None:
        return 0
    r.election_timer_start = calls.now(r)
    leader.progress = progress.build(r.configuration, r.id, log.last_index(r.log), r.last_stored)
    leader.first_index = log.last_index(r.log) + 1
    if r.transfer is not None:
        # C: convert.c:convertToLeader lets a transfer of an earlier leadership go on. It refuses the barrier below like
        # any request, and the server stops (B47).
        membership.transfer_close(r)
        if r.leader_state is not leader:
            return 0
    leader.accepting = True
    notice.leads(r)
    if not election.is_only_voter(r):
        # 6.4: a leader finds out which entries are committed by committing one of its own term.
        return replicate.submit_barrier(r, leader, RaftBarrier(), None)
    # All that the only voter has stored is committed.
    if r.last_stored > r.commit_index:
        r.commit_index = r.last_stored
        return apply.run(r)
    return 0


def to_unavailable(r: Raft) -> None:
    """Stop: nothing leads back from here. Fails all that is pending, a leadership transfer first.

    Unless the user wants that, the log hears of it: the process goes on, and looks as if all were well.
    """
    if r.state == RAFT_UNAVAILABLE:
        return
    if not r.closing:
        # Before the requests: their callbacks say what has become of them, and find here why.
        r.cause = r.errmsg or "for an unknown reason"
    # An exception is in the log already.
    if not r.closing and not r.failed:
        _logger.error("server %d stops, until it is closed and started again: %s", r.id, r.errmsg)
        trace(r.tracer, f"stops: {r.errmsg}", TRACE_FATAL)
    if r.state == RAFT_LEADER:
        replicate.flush(r)
    if r.leader_state is not None:
        # C: membership.c:membershipLeadershipTransferClose calls back first, and what that submits is taken: a further
        # transfer is then never called back (B33).
        r.leader_state.accepting = False
    if r.transfer is not None:
        membership.transfer_close(r)
    if _leave(r, RAFT_UNAVAILABLE):
        set_state(r, RAFT_UNAVAILABLE)


def cease(r: Raft) -> None:
    """Be unavailable at once, without a look at what was under way: the caller sees to pending callbacks."""
    r.state = RAFT_UNAVAILABLE
    r.counts.accepted = notice.accepted(r)
    r.follower_state = r.candidate_state = r.leader_state = None
    r.transfer = None
    # If this comes inside fsm.apply, nothing follows what is being applied.
    r.commit_index = r.last_applied
    r.apply.waiting = False


def stop_if_failed(r: Raft) -> None:
    """End an entry into the core: if FSM or I/O code raised on the way, stop."""
    if r.failed:
        to_unavailable(r)


def final_code(r: Raft, rv: int) -> int:
    """Do as stop_if_failed, and return the code of a public function: `rv`, or RAFT_SHUTDOWN for 0 and a stop."""
    if r.failed:
        to_unavailable(r)
        return rv if rv != 0 else RAFT_SHUTDOWN
    return rv

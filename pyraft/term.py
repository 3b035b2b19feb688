"""Terms: comparing with a peer's and adopting a higher one.

Duty: the rule for all servers of figure 3.1, "if RPC request or response contains term T > currentTerm: set
currentTerm = T, convert to follower", and the recording of who leads the term.

Failure modes: the code of io.set_term, after which neither term nor vote nor state has changed here.
"""

from pyraft import calls, convert, notice, replicate
from pyraft.state import Raft
from pyraft.types import RAFT_FOLLOWER


def compare(r: Raft, term: int) -> int:
    """Return -1, 0 or 1 as `term` is lower than, equal to or higher than ours."""
    if term < r.current_term:
        return -1
    return 1 if term > r.current_term else 0


def bump(r: Raft, term: int) -> int:
    """Adopt the higher `term`, with no vote cast in it; a candidate or leader becomes a follower."""
    assert term > r.current_term
    # Commands of this turn still belong to the old term; they must go out before the term changes.
    replicate.flush(r)
    rv = calls.set_term(r, term)
    if rv != 0:
        calls.io_errmsg(r)
        return rv
    former, r.current_term = r.current_term, term
    r.voted_for = 0
    notice.term(r, former)
    # Nothing is known yet of whoever leads it (see recovering).
    r.rejecting_since = None
    r.accepting_since = None
    r.recovery_end = 0
    r.recovery_matched = 0
    if r.state != RAFT_FOLLOWER:
        convert.to_follower(r)
    return 0


def ensure_matching(r: Raft, term: int) -> tuple[int, int]:
    """Adopt `term` if it is higher; return (rv, match) with match as `compare` had it before."""
    match = compare(r, term)
    if match <= 0:
        return 0, match
    return bump(r, term), match


def update_leader(r: Raft, id: int, address: str) -> None:
    """Record the leader of the current term; its message proves that it is alive, so the clock restarts."""
    follower = r.follower_state
    assert follower is not None
    follower.current_leader.id = id
    follower.current_leader.address = address
    if r.said.leader_id != id or r.said.leader_term != r.current_term or r.said.removed or r.said.waits:
        notice.follows(r, id, address)
    r.votes_withheld = 0
    r.election_timer_start = calls.now(r)

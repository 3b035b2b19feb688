"""The TimeoutNow RPC at its receiver (3.10): start an election at once, the leader wants us to take over.

Happy path: `accept.take_over` starts the election, at once or when the last write under way has ended.
Failure modes: ignored unless we are a voting follower of the sender at that moment, with exactly its log; codes of the
stores are returned and end in UNAVAILABLE.
"""

from pyraft import accept, election, term
from pyraft.state import Raft
from pyraft.types import RaftTimeoutNow


def handle(r: Raft, id: int, args: RaftTimeoutNow) -> int:
    """Process a TimeoutNow from server `id`."""
    follower = r.follower_state
    if follower is None or follower.current_leader.id != id:
        return 0
    # The write that is under way may be what makes us a voter, or ends a recovery: then `take_over` sees that.
    waits = accept.is_writing(r) and args.term == r.current_term
    if not waits and (r.recovering or not election.is_voter(r)):
        return 0
    rv, match = term.ensure_matching(r, args.term)
    if rv != 0 or match < 0:
        return rv
    follower.timeout_now = (id, args)
    return accept.take_over(r)

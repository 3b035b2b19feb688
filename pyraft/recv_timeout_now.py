"""The TimeoutNow RPC at its receiver (3.10): start an election at once, the leader wants us to take over.

Failure modes: ignored unless we are a voting follower of the sender, with exactly its log, all of it stored; codes
of the stores are returned and end in UNAVAILABLE.
"""

from pyraft import configuration, convert, log, snapshot, term
from pyraft.state import Raft
from pyraft.types import RAFT_VOTER, RaftTimeoutNow


def handle(r: Raft, id: int, args: RaftTimeoutNow) -> int:
    """Process a TimeoutNow from server `id`."""
    server = configuration.get(r.configuration, r.id)
    follower = r.follower_state
    if server is None or server.role != RAFT_VOTER or follower is None or follower.current_leader.id != id:
        return 0
    if r.recovering:
        return 0
    rv, match = term.ensure_matching(r, args.term)
    if rv != 0 or match < 0:
        return rv
    if log.last_index(r.log) != args.last_log_index or log.last_term(r.log) != args.last_log_term:
        return 0
    # C: recv_timeout_now.c:recvTimeoutNow lets an installing server stand, and asserts when the snapshot is stored.
    if follower.append_in_flight_count > 0 or snapshot.is_installing(r):
        return 0
    return convert.to_candidate(r, True)

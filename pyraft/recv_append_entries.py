"""The AppendEntries RPC at its receiver (figure 3.1).

Happy path: adopt the leader, restart the election clock, let `accept` take the entries, answer now or when they are
stored. Failure modes: an older term is answered with a rejection; codes of `accept` and of io.send are returned and
end in UNAVAILABLE.
"""

from pyraft import accept, convert, log, membership, recovering, reply, snapshot, term
from pyraft.errors import RAFT_SHUTDOWN
from pyraft.state import Raft
from pyraft.types import RAFT_CANDIDATE, RAFT_LEADER, RaftAppendEntries


def handle(r: Raft, id: int, address: str, args: RaftAppendEntries) -> int:
    """Process an AppendEntries from server `id`."""
    args.refused = args.partial
    rv, match = term.ensure_matching(r, args.term)
    if rv != 0:
        return rv
    if match < 0:
        # C: recv_append_entries.c:recvAppendEntries rejects index 0 if there is no previous entry, which reads as a
        # success, of our term. By the time that it arrives the sender of old may be the leader of that term.
        return reply.send(r, id, address, max(args.prev_log_index, 1), log.last_index(r.log))
    rv = follow(r, id, address)
    if rv != 0:
        return rv
    if args.question != 0 and args.prev_log_index == 0 and len(args.entries) == 0:
        # 6.4: do we still follow, whatever our log is? The term, the point of the question, was compared above.
        return reply.send(r, id, address, 0, 0, args.question)
    if r.recovering:
        recovering.heard(r, args)
    if snapshot.is_installing(r) and len(args.entries) > 0:
        return 0
    rv, later, rejected = accept.entries(r, args)
    if rv == 0 and rejected == 0:
        args.refused = False
    if rv == 0 and r.recovering:
        rv = recovering.rejected(r, args) if rejected != 0 else recovering.accepted(r, args)
    if rv != 0 or later:
        return rv
    last = r.last_stored
    if rejected == 0:
        # C: recv_append_entries.c:recvAppendEntries acknowledges all that is stored, also what the message says
        # nothing of and what may differ from the leader's (B8).
        last = min(last, args.prev_log_index + len(args.entries))
    return reply.send(r, id, address, rejected, last)


def follow(r: Raft, id: int, address: str) -> int:
    """Recognise server `id` as the leader of the current term (3.4).

    RAFT_SHUTDOWN if that is us; membership.DROP if somebody leads it already, and `id` is not a member.
    """
    if r.state == RAFT_LEADER:
        # C: recv_append_entries.c:recvAppendEntries asserts. It takes a stranger, or two servers with one ID.
        return membership.refute(r, id, f"server {id} leads term {r.current_term} as well")
    if r.state == RAFT_CANDIDATE:
        convert.to_follower(r)
    if r.follower_state is not None:
        leader = r.follower_state.current_leader.id
        if leader not in (0, id) and not membership.knows(r, id):
            # 3.6.3, Election Safety: there is one leader in a term.
            r.errmsg = f"server {leader} leads term {r.current_term}"
            return membership.DROP
        term.update_leader(r, id, address)
        rv = recovering.meets(r) if r.filling else 0
        if rv != 0 or _follows(r):
            return rv
    return RAFT_SHUTDOWN  # closed inside io.time or another function


# A function, as mypyc takes a field that was not None for that from then on, whatever is called in between.
def _follows(r: Raft) -> bool:
    return r.follower_state is not None

"""The leader counts what is stored: its own writes that end, in the lane, and what a majority has (3.5, 3.6.2).

Duty: `advance_commit` commits what a majority of voters has stored. `by_leader` is the lane for a write done: it takes
note of one of the leader's own, whose entries have stood in the log all the time. `replicate` calls both and applies.

These fail a test in `by_leader` and are left to the general path (`writes.update_last_stored`): entries that were cut
off meanwhile, a write behind one that has not ended, a snapshot that is being stored.

Failure modes: none; `by_leader` returns False with nothing changed.
"""

from pyraft import election, log, quorum
from pyraft.state import LeaderState, Raft, RaftWrite
from pyraft.types import RAFT_VOTER


def by_leader(r: Raft, leader: LeaderState, req: RaftWrite) -> bool:
    """Note that a write of a leader is on disk: its match index rises. False if it takes `update_last_stored`."""
    n = len(req.entries.terms)
    if r.snapshot.put is not None or req.standing != n or req.index > r.last_stored + 1:
        return False
    r.writes.remove(req)
    last = req.index + n - 1
    if last > r.last_stored:
        r.last_stored = last
    # 4.2.2: a leader that removes itself leads on until that is committed, but does not count itself.
    for i, server in enumerate(r.configuration.servers):
        if server.id == r.id:
            p = leader.progress[i]
            p.match_index = p.proven_index = r.last_stored
            break
    return True


def advance_commit(r: Raft, leader: LeaderState) -> bool:
    """Commit the highest index of this term that a majority of voters has stored (3.5, 3.6.2); return if there is one.

    C: replication.c:replicationQuorum tests only the index just acknowledged, so an index that a majority holds but
    nobody just named stays uncommitted (B7).

    The only voter commits what it has stored in whatever term, as `convert.to_leader` does: a write of an earlier term
    of its own may end late. Entries of an old term can give way to another leader's in figure 8 because that one was
    elected by voters without them; here every election needs the vote of the one server that has them.
    """
    ahead = voters = 0
    for i, server in enumerate(r.configuration.servers):
        if server.role == RAFT_VOTER:
            voters += 1
            if leader.progress[i].proven_index > r.commit_index:
                ahead += 1
    if 2 * ahead <= voters:
        return False
    matches = [leader.progress[i].proven_index for i, s in enumerate(r.configuration.servers) if s.role == RAFT_VOTER]
    lg = r.log
    index = min(quorum.majority_index(matches), lg.base + len(lg.bufs))
    if index <= r.commit_index:
        return False
    term = lg.terms[index - lg.base - 1] if index > lg.offset else log.term_of(lg, index)
    if term != r.current_term and not election.is_only_voter(r):
        return False
    r.commit_index = index
    return True

"""The answer to a RequestVote, at the candidate (3.4, pre-vote 9.6).

Happy path: votes are counted; a majority turns the pre-vote into a real election, or the candidate into a leader.
Failure modes: answers from non-voters, of older terms or of the other phase are ignored; a higher term is adopted;
codes of the stores are returned and end in UNAVAILABLE.
"""

from pyraft import configuration, convert, election, removal, replicate, term
from pyraft.state import Raft
from pyraft.types import RAFT_LEADER, RaftRequestVoteResult


def handle(r: Raft, id: int, result: RaftRequestVoteResult) -> int:
    """Process a RequestVoteResult from server `id`."""
    voter_index = configuration.index_of_voter(r.configuration, id)
    candidate = r.candidate_state
    if voter_index == len(r.configuration.servers) or candidate is None:
        return 0
    if candidate.in_pre_vote:
        match = term.compare(r, result.term)
    else:
        rv, match = term.ensure_matching(r, result.term)
        if rv != 0:
            return rv
    if r.candidate_state is not candidate:
        return 0
    if result.no_member:
        removal.note(r, id)
        return 0
    if match < 0:
        return 0
    if result.version > 1 and result.pre_vote != candidate.in_pre_vote:
        return 0
    if candidate.in_pre_vote and result.term > r.current_term + 1:
        # We asked for the next term; a server that is further ahead than that has refused.
        return term.bump(r, result.term)
    if not result.vote_granted or not election.tally(r, voter_index):
        return 0
    if candidate.in_pre_vote:
        candidate.in_pre_vote = False
        return election.start(r)
    rv = convert.to_leader(r)
    if rv == 0 and r.state == RAFT_LEADER:
        replicate.trigger_all(r)
    return rv

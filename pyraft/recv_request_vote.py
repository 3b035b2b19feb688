"""The RequestVote RPC at its receiver (figure 3.1, pre-vote 9.6, disrupt_leader 4.2.3).

Happy path: the term is in order and `election.vote` decides; the answer goes out after the vote is stored.
Failure modes: refusals are answered too; codes of the stores and of io.send are returned and end in UNAVAILABLE.
"""

from pyraft import calls, election, log, messages, removal, snapshot, term
from pyraft.state import Raft
from pyraft.types import RAFT_IO_REQUEST_VOTE_RESULT, RaftMessage, RaftRequestVote, RaftRequestVoteResult


def handle(r: Raft, id: int, address: str, args: RaftRequestVote) -> int:
    """Process a RequestVote from server `id`."""
    rv, granted = _decide(r, args)
    if rv != 0:
        return rv
    result = RaftRequestVoteResult()
    # A pre-vote changes nobody's term, but the candidate ignores answers of lower terms than it asked for.
    result.term = args.term if args.pre_vote and not _must_catch_up(r, args) else r.current_term
    result.vote_granted = granted
    result.pre_vote = args.pre_vote
    result.no_member = not granted and removal.is_stranger(r, id)
    message = RaftMessage(RAFT_IO_REQUEST_VOTE_RESULT, id, address)
    message.request_vote_result = result
    rv = messages.send(r, message)
    if rv != 0:
        calls.io_errmsg(r)
    return rv


def _must_catch_up(r: Raft, args: RaftRequestVote) -> bool:
    """Return True if a pre-vote candidate has the longer log and lacks only our term.

    C: recv_request_vote.c:recvRequestVote never tells it a term. If it has the longer log and we the higher term, and
    each majority needs one of us, then both refuse each other's pre-votes for ever. To tell it our term grants nothing:
    a leader that is elected in a later term needs its votes all the same.
    """
    if r.current_term <= args.term or election.knows_leader(r):
        return False
    if (args.last_log_term, args.last_log_index) <= (log.last_term(r.log), log.last_index(r.log)):
        return False
    election.count_refusal(r)
    return election.out_of_patience(r)


def _doubts_leader(r: Raft) -> bool:
    """Return whether the leader that this server knows has been silent for so long that it may be gone.

    C: recv_request_vote.c:recvRequestVote takes a leader that is known for one that is there. A voter forgets it when
    it stands, but a server that is not a voter, or does not know yet that it is one, never stands (see election.vote).
    To doubt costs a live leader its term at worst (4.2.3 is about that alone); the vote has its own rules.
    """
    if r.follower_state is None or not election.is_member(r) or not election.timer_expired(r):
        return False
    if election.is_voter(r):
        # One that recovers does not stand either, and its vote may be needed for a log that is better than its own was.
        return r.recovering
    election.count_refusal(r)
    return election.out_of_patience(r)


def _decide(r: Raft, args: RaftRequestVote) -> tuple[int, bool]:
    # 4.2.3: servers that hear from a leader neither adopt the term nor vote, unless the leader itself asked for this.
    if election.knows_leader(r) and not args.disrupt_leader and not _doubts_leader(r):
        return 0, False
    if args.pre_vote:
        match = term.compare(r, args.term)
    else:
        rv, match = term.ensure_matching(r, args.term)
        if rv != 0:
            return rv, False
    if match < 0 and not election.is_voter(r):
        # Withheld for the term here, not for what we are, but it counts towards election.may_stand.
        election.count_refusal(r)
    if snapshot.is_installing(r) or match < 0:
        return 0, False
    return election.vote(r, args)

"""Leader election (3.4), pre-vote (9.6), and the rules for casting a vote.

Duty: the election timer, rounds of RequestVote, the decision to grant a vote, counting votes.

Happy path: the timer expires, `start` stores term+1 and our vote and asks all other voters; `tally` says when a
majority has answered. In the pre-vote phase nothing is stored and the term asked for is the next one.

Failure modes: codes of io.set_term and io.set_vote are returned, the term and vote in memory then unchanged;
requests that cannot be sent are ignored, the next round repeats them.
"""

from typing import Final

from pyraft import calls, configuration, log, membership, messages, notice, quorum
from pyraft.state import CandidateState, Raft
from pyraft.tracing import trace
from pyraft.types import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_IO_REQUEST_VOTE,
    RAFT_LEADER,
    RAFT_VOTER,
    RaftConfiguration,
    RaftMessage,
    RaftRequestVote,
    RaftServer,
)

STAND_PATIENCE: Final = 3
"""How many votes in a row a server that is about to lose its vote withholds before it stands itself."""


def reset_timer(r: Raft) -> None:
    """Draw a random election timeout between once and twice the base value (3.4) and restart the clock."""
    timeout = calls.random(r, r.election_timeout, 2 * r.election_timeout)
    if r.follower_state is not None:
        r.follower_state.randomized_election_timeout = timeout
    elif r.candidate_state is not None:
        r.candidate_state.randomized_election_timeout = timeout
    else:
        # io.random has closed the server.
        return
    r.election_timer_start = calls.now(r)


def timer_expired(r: Raft) -> bool:
    """Return whether the randomized timeout of a follower or candidate has elapsed, unless io.time has closed it."""
    if r.follower_state is not None:
        timeout = r.follower_state.randomized_election_timeout
    else:
        assert r.candidate_state is not None
        timeout = r.candidate_state.randomized_election_timeout
    return calls.now(r) - r.election_timer_start >= timeout and not r.closing


def start(r: Raft) -> int:
    """Begin a round of the election, in the phase the candidate is in; end it if I/O code closes the server."""
    candidate = r.candidate_state
    assert r.state == RAFT_CANDIDATE
    assert candidate is not None
    n_voters = configuration.voter_count(r.configuration)
    # 4.2.2: a server does not count its own vote unless it is part of its latest configuration.
    own = configuration.index_of_voter(r.configuration, r.id)
    if not candidate.in_pre_vote:
        term = r.current_term + 1
        rv = calls.set_term(r, term)
        if rv != 0:
            calls.io_errmsg(r)
            return rv
        rv = calls.set_vote(r, r.id)
        if rv != 0:
            calls.io_errmsg(r)
            return rv
        r.current_term = term
        r.voted_for = r.id
        if r.candidate_state is not candidate:
            return 0
    reset_timer(r)
    candidate.votes = [i == own for i in range(n_voters)]
    notice.election(r)
    for server in r.configuration.servers:
        if server.id != r.id and server.role == RAFT_VOTER and r.candidate_state is candidate:
            _request_vote(r, candidate, server)
    return 0


def _request_vote(r: Raft, candidate: CandidateState, server: RaftServer) -> None:
    """Ask one server for its vote.

    The last entry on our disk is what we advertise, not the last in memory: an election may only use what a restart
    cannot take away. For the same reason a follower adopts configuration changes once they are stored.
    """
    args = RaftRequestVote()
    args.term = r.current_term + 1 if candidate.in_pre_vote else r.current_term
    args.candidate_id = r.id
    args.last_log_index = r.last_stored
    args.last_log_term = log.term_of(r.log, r.last_stored)
    args.disrupt_leader = candidate.disrupt_leader
    args.pre_vote = candidate.in_pre_vote
    message = RaftMessage(RAFT_IO_REQUEST_VOTE, server.id, server.address)
    message.request_vote = args
    rv = messages.send(r, message)
    if rv != 0 and r.tracer.enabled:
        trace(r.tracer, f"vote request to server {server.id} failed: {rv}")


def is_voter(r: Raft) -> bool:
    """Return whether this server is a voter by its latest configuration."""
    return _votes_in(r, r.configuration)


def _votes_in(r: Raft, conf: RaftConfiguration) -> bool:
    server = configuration.get(conf, r.id)
    return server is not None and server.role == RAFT_VOTER


def is_member(r: Raft) -> bool:
    """Return whether this server is a member, in whatever role, by its latest configuration or the one before.

    The one before, the last committed, counts while the latest is not known to be committed: a leader that removed
    itself and handed that entry to nobody may be the one whose vote the others need. A server whose disk was replaced
    is sent such an entry only after it was committed (4.1), and with it all that this server had acknowledged.
    """
    if configuration.get(r.configuration, r.id) is not None:
        return True
    if r.configuration_uncommitted_index == 0:
        return False
    rv, conf = membership.fetch_last_committed_configuration(r)
    return rv == 0 and configuration.get(conf, r.id) is not None


def is_only_voter(r: Raft) -> bool:
    """Return whether this server is the only voter."""
    return is_voter(r) and configuration.voter_count(r.configuration) == 1


def may_stand(r: Raft) -> bool:
    """Return whether this server may be a candidate: a voter, or one that is about to lose its vote (4.2.2).

    C: tick.c:tickFollower never lets the latter stand. If the entry that takes the vote away has reached nobody else,
    this server's log is longer than those of the others, so it refuses them its vote, and they may need it as leader.

    Nothing committed is lost if it stands: it needs the votes of a majority of the voters of its latest configuration,
    and does not count its own, like any candidate that is not in its latest configuration (4.2.2). In the dissertation
    it stands like any voter. Here it waits until the others have asked for its vote in vain STAND_PATIENCE times, in
    case they can elect one of themselves, as C servers would. That is less than `vote_patience`, with which two voters,
    or two of four, were without a leader for a minute and a half.
    """
    if r.said.removed or r.filling:
        # It was removed, by the word of others or our own log: nobody would vote for us until a leader says otherwise.
        # Or there was no log at the start, and the one by now may be less than it had before (recovering.begin_empty).
        return False
    if is_voter(r):
        return True
    if r.votes_withheld <= min(r.vote_patience, STAND_PATIENCE) or r.configuration_uncommitted_index == 0:
        return False
    rv, conf = membership.fetch_last_committed_configuration(r)
    return rv == 0 and _votes_in(r, conf)


def knows_leader(r: Raft) -> bool:
    """Return whether we lead or follow a leader."""
    return r.state == RAFT_LEADER or (r.follower_state is not None and r.follower_state.current_leader.id != 0)


def count_refusal(r: Raft) -> None:
    """Count a vote withheld for a reason that can keep a cluster without a leader for ever."""
    r.votes_withheld += 1


def out_of_patience(r: Raft) -> bool:
    """Return whether the reasons that count_refusal counts are to yield now.

    They mostly pass by themselves, in the ordinary course of elections, so they hold until they have been given
    `vote_patience` times without a word from a leader. A C server holds to them for ever.

    Only reasons that C adds to Raft's own may ever yield, and only on a member by its own log: that log then holds all
    that this server has acknowledged, which is what the election restriction (3.6.1) rests on. The restriction itself,
    the single vote in a term and a recovery (see recovering) never yield, nor does a server without a configuration:
    perhaps its disk was replaced. Each place that asks this says why it loses nothing.
    """
    return r.votes_withheld > r.vote_patience


def vote(r: Raft, args: RaftRequestVote) -> tuple[int, bool]:
    """Decide on a RequestVote whose term is in order; return (rv, granted). A vote granted is stored first."""
    if r.recovering and args.last_log_term <= r.recovery_term:
        # Our log may lack what we helped to commit, so it does not measure a candidate's. But a log that ends with a
        # later term than we had when we started is better than ours could ever have been (3.6.1).
        return 0, False
    if not is_voter(r):
        # C: election.c:electionVote withholds this vote for ever. If the entry that makes us a voter has reached
        # nobody but the candidate, it may need our vote to hand that out; it knows whose votes count (4.1). To yield
        # loses nothing: what follows are the rules for any vote, and our log has all that we acknowledged. An entry in
        # it that removes us takes nothing away: with the log up to there we should vote, and for more candidates. A
        # server that is not a member by its log never yields: its acknowledgements may be gone with a former directory.
        count_refusal(r)
        if not is_member(r):
            notice.withholds(r, args.candidate_id)
            return 0, False
        if not out_of_patience(r):
            return 0, False
    # C: election.c:electionVote grants a second vote in the term to the target of our own transfer, so that two
    # leaders can share a term (B11). One vote per term (3.4).
    if not args.pre_vote and r.voted_for not in (0, args.candidate_id):
        return 0, False
    if not _is_up_to_date(r, args):
        return 0, False
    if args.pre_vote:
        return 0, True
    rv = calls.set_vote(r, args.candidate_id)
    if rv != 0:
        calls.io_errmsg(r)
        return rv, False
    r.voted_for = args.candidate_id
    r.election_timer_start = calls.now(r)
    return 0, True


def _is_up_to_date(r: Raft, args: RaftRequestVote) -> bool:
    """Election restriction (3.6.1): the later last term wins, then the longer log. Ours counts unwritten entries."""
    last_index = log.last_index(r.log)
    if last_index == 0:
        return True
    last_term = log.last_term(r.log)
    if args.last_log_term != last_term:
        return args.last_log_term > last_term
    return last_index <= args.last_log_index


def tally(r: Raft, voter_index: int) -> bool:
    """Count the vote of a voter; return whether a majority has been reached."""
    candidate = r.candidate_state
    assert candidate is not None
    candidate.votes[voter_index] = True
    return quorum.is_majority(candidate.votes.count(True), len(candidate.votes))


def redraw_timer(r: Raft) -> None:
    """Apply a changed base timeout at once."""
    if r.state in (RAFT_FOLLOWER, RAFT_CANDIDATE):
        reset_timer(r)

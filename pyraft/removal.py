"""A server that was removed while it was away finds that out, and calls no more elections.

Duty: a removed server that has not stored the entry that removed it hears from no leader any more, so it stands, again
and again, with ever higher terms (4.2.3 keeps it from doing harm, not from going on). Here the others tell it. A voter
that knows a leader answers the vote request of a server that is in neither its latest nor its last committed
configuration with `no_member`. The word travels in a bit that C peers ignore, and only where the I/O carries our words.

Happy path: the candidate collects these answers; a majority of the other voters by its own configuration settles it. It
says so once, and waits as a follower for a leader, whose first message makes it a member again.

Why this takes nothing away. A voter by its own log was added, as a spare, by an entry before the one that made it a
voter, and only one change is under way at a time (4.1): that entry was committed, so a majority of those voters has it.
If a majority of them says nevertheless that the server is in neither of its configurations, a later entry has removed
the server. It could never lead again; and it still votes, for which it need not stand.

Failure modes: with C servers in the majority nothing is said, and it goes on as a C server does.
"""

from pyraft import configuration, convert, election, membership, notice, quorum
from pyraft.state import Raft


def is_stranger(r: Raft, id: int) -> bool:
    """Return whether to tell server `id`, which asks for a vote, that it is not a member."""
    if r.io.features == 0 or not election.knows_leader(r) or not election.is_voter(r):
        return False
    if not r.configuration.servers or configuration.get(r.configuration, id) is not None:
        return False
    if r.configuration_uncommitted_index == 0:
        return True
    rv, conf = membership.fetch_last_committed_configuration(r)
    # Empty where none is known to be committed: such a log is too short to know who was a member.
    return rv == 0 and bool(conf.servers) and configuration.get(conf, id) is None


def note(r: Raft, id: int) -> None:
    """Take note that voter `id` says that this candidate is not a member."""
    candidate = r.candidate_state
    assert candidate is not None
    candidate.strangers.add(id)
    others = configuration.voter_count(r.configuration) - (1 if election.is_voter(r) else 0)
    if quorum.is_majority(len(candidate.strangers), others):
        ids = ", ".join(f"server {id}" for id in sorted(candidate.strangers))
        notice.removed(r, f"by the answers of {ids}")
        convert.to_follower(r)

"""The conclusions that a leader may draw from the answers of followers of any kind (README.md has the whole table).

Servers of this project announce (flags.PROVEN_ANSWERS) that they acknowledge no more than a message showed to match.
A C server acknowledges all that it has stored (B8). Under a C leader that is sound, as its messages go to the end of
its log. Ours are bounded (B31), and behind the end of one the log of a C server may go on with entries of old terms.
It also rejects messages of our former terms in the name of this one, whatever its log has.

Rule: as long as a server has not announced it, every message to it ends at or behind index `reach`: an entry of ours
that this server has been without at some moment of this term, at first our first one of this term, then any that it
has refused as a predecessor of a message of this term (`has_to_ask`), unless it may have compacted it (`step_back`).

Failure modes: two kinds of heartbeats cannot reach so far: those of a leader without an entry of its term, the only
voter, and those beside a snapshot that name no predecessor (B48). `acknowledged` has the rule for their answers. So it
has for short messages to one of ours whose place a C server takes, which `answered` notices.
"""

from typing import Final

from pyraft import flags, log
from pyraft.progress import PROGRESS__PROBE, PROGRESS__SNAPSHOT
from pyraft.state import LeaderState, Raft, RaftProgress

NOBODYS: Final = (1 << 64) - (1 << 32)
"""From this index on nobody has an entry."""


def is_announced(p: RaftProgress) -> bool:
    """Return whether a server has announced that its answers count only what the message showed to match."""
    return flags.is_set(p.features, flags.PROVEN_ANSWERS)


def reach(leader: LeaderState, p: RaftProgress) -> int:
    """Return the index that messages to a server have to reach, so that all that it acknowledges is ours.

    Proof: a server that accepts such a message holds the entry at `reach`, which it got from us in this term, since it
    was without it at some moment. When it took that one it cut off all behind it (figure 3.1), and has since stored
    nothing but what we sent. So its log, as far as it may go, is a part of ours (log matching, 3.5), whatever message
    its answer is to, and in whatever order messages and answers arrive. A message in which nothing was left out ends
    with an entry of this term, so where messages are small the rule changes nothing.
    """
    return p.lacking if p.lacking > 0 else leader.first_index


def nobodys_index(r: Raft) -> int:
    """Return an index at which nobody has an entry, and which is another one in each term."""
    return NOBODYS + r.current_term % (1 << 32)


def has_to_ask(r: Raft, leader: LeaderState, p: RaftProgress) -> bool:
    """Return whether the next message has to find out first from when on rejections are about this term.

    C: recv_append_entries.c:recvAppendEntries rejects a message of an older term in the name of its own, so that the
    leader of that one may hear of a rejection of what it sent as the leader of another. To C's this is a step back too
    far. Here it would pass for the proof that an entry is lacking, and what the server has kept behind that from other
    leaders for ours: lost when it is counted. A leader that names a predecessor that nobody has is told so, by its
    index, and whatever is rejected after that was sent after it, as connections keep their order. It takes one
    heartbeat in a term, and only where a message cannot reach far enough from where it would start.
    """
    if p.state != PROGRESS__PROBE or is_announced(p) or not _is_unsure(r, p):
        return False
    target = min(reach(leader, p), log.last_index(r.log))
    return p.next_index < target and _start(r, target, p.next_index) != p.next_index


def is_answer(r: Raft, p: RaftProgress, rejected: int) -> bool:
    """Return whether a rejection of index `rejected` answers what `has_to_ask` wanted to know, and note that."""
    if rejected != nobodys_index(r):
        return False
    p.sure = True
    return True


def _is_unsure(r: Raft, p: RaftProgress) -> bool:
    return not p.sure and flags.is_set(r.io.features, flags.PROVEN_ANSWERS)


def start_within_reach(r: Raft, leader: LeaderState, p: RaftProgress) -> None:
    """Let the next message start where it should, or so little behind that as it takes to reach so far."""
    if p.next_index == 1 and _has_entry_one(r.log, p):
        # C: replication.c:deleteConflictingEntries takes entries that it has compacted for new ones, and asserts (B36).
        p.next_index = 2
    target = min(reach(leader, p), log.last_index(r.log))
    if p.next_index < target and not is_announced(p):
        p.next_index = _start(r, target, p.next_index)


def _has_entry_one(lg: log.RaftLog, p: RaftProgress) -> bool:
    """Return whether a server that answers as C's do has entry 1, the same on all, in its log or in a snapshot."""
    return p.its_end > 0 and not is_announced(p) and log.get(lg, 1) is not None


def step_back(r: Raft, leader: LeaderState, p: RaftProgress, index: int, last: int) -> None:
    """Correct where to go on after a rejection of `index` by a server whose log ends with `last`, in PROBE.

    Where a message from there would not reach far enough, strides that double (B52) lead past where the logs meet, to
    what either side has compacted. The next message starts as far back as it can then (start_within_reach), but not
    behind the end of that server's log, and a snapshot is sent only when all of our log has been refused.
    """
    lg = r.log
    p.its_end = last
    if index == 1 and _has_entry_one(lg, p):
        # It has compacted that: strides that double have led past where the logs meet, and there it refuses what it
        # has, too. From the end of its log on, entry by entry, all that it refuses is behind that point.
        p.linear = True
        p.lacking = 0
        p.steps_back = 0
        p.next_index = last + 1
        return
    lowest = log.lowest_next(lg)
    target = min(reach(leader, p), log.last_index(lg))
    if is_announced(p) or p.next_index >= target or index < lowest:
        return
    if p.next_index >= lowest and _start(r, target, p.next_index) == p.next_index:
        return
    if last < index:
        p.next_index = last + 1
        p.steps_back = 0
    else:
        p.next_index = max(p.next_index, lowest)


def _start(r: Raft, target: int, first: int) -> int:
    return log.reaching(r.log, target, first, r.max_append_bytes, log.MAX_ENTRIES)


def sent(r: Raft, leader: LeaderState, p: RaftProgress, end: int) -> None:
    """Take note of an AppendEntries that ends with index `end`.

    Over an I/O that does not carry features nobody can announce them, and where messages can be lost without a word, as
    in the fixture, their answers would be waited for in vain. Such an I/O is taken to connect servers of this project.
    """
    p.sends += 1
    if end < reach(leader, p) and flags.is_set(r.io.features, flags.PROVEN_ANSWERS):
        if is_announced(p):
            p.short_send = p.sends
        else:
            p.loose += 1


def answered(p: RaftProgress, features: int) -> None:
    """Take note of an answer, and of what its sender announces with it, before it is looked at.

    A server that has announced it and does no more has been replaced: a C process has its directory now. Messages to it
    under that address since the last one that was answered may have been short, and have reached the other one. Answers
    come in order, one for a message at most, so that is counted from the number of those that have come.
    """
    if is_announced(p) and not flags.is_set(features, flags.PROVEN_ANSWERS):
        p.loose += max(0, p.short_send - p.answers)
    p.answers += 1
    p.features = features


def rejected(r: Raft, leader: LeaderState, p: RaftProgress, index: int) -> None:
    """Take note that a server did not have our entry `index`, if that is certain."""
    if is_announced(p) or not _is_unsure(r, p):
        p.lacking = min(reach(leader, p), index)


def shown(leader: LeaderState, p: RaftProgress, last: int) -> int:
    """Return from where to go on after an acknowledgment up to `last`, an index of our log, before `acknowledged`.

    C: replication.c:replicationUpdate believes it. The heartbeat of an only voter may match where an old leader's
    entries go on at a C server, which acknowledges these. An entry of ours that takes such an index meanwhile would
    count as sent, and the server's refusals of it as old ones, for ever.
    """
    if p.loose == 0 or is_announced(p) or p.state == PROGRESS__SNAPSHOT:
        return last
    return min(last, max(p.match_index, leader.first_index - 1))


def acknowledged(r: Raft, leader: LeaderState, p: RaftProgress, last: int) -> bool:
    """Take note of an acknowledgment up to `last`, an index of our log; return whether more counts now.

    `match_index`, as in C, is what a server has acknowledged; it decides what is sent next, and when a server has
    caught up. `proven_index` is what of that counts for a commitment. After messages that did not reach far enough, as
    many acknowledgments prove nothing beyond what is committed or was there before our term: they may be theirs. That
    relies on the order that connections keep.
    """
    if p.loose > 0 and not is_announced(p):
        p.loose -= 1
        last = min(last, max(leader.first_index - 1, r.commit_index))
    if last <= p.proven_index:
        return False
    p.proven_index = last
    return True

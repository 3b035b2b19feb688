"""The conclusions that a leader may draw from the answers of followers of any kind (README.md has the whole table).

Servers of this project announce (flags.PROVEN_ANSWERS) that they acknowledge no more than a message showed to match.
A C server acknowledges all that it has stored (B8). Under a C leader that is sound, as its messages go to the end of
its log. Ours are bounded (B31), and behind the end of one the log of a C server may go on with entries of old terms.
It also rejects messages of our former terms in the name of this one, whatever its log has.

Rule: as long as a server has not announced it, every message to it ends at or behind index `reach`: an entry of ours
that this server has been without at some moment of this term, at first our first one of this term, then any that it
has refused as a predecessor of a message of this term (`has_to_ask`), unless it may have compacted it (`step_back`),
or the one behind the end of its log, if that comes before: it tells that with its refusal.

Failure modes: some messages do not reach so far for certain: heartbeats of a leader without an entry of its term, the
only voter; short ones to one of ours whose place a C server takes; and those behind an index that it was believed to be
without. Their answers count for nothing behind the entries of older terms (`acknowledged`) until the server has refused
a predecessor that nobody has, sent after the last of them (`has_to_fence`). `is_fenced` has the proof.
"""

from typing import Final

from pyraft import configuration, flags, log, progress
from pyraft.progress import PROGRESS__PROBE
from pyraft.state import LeaderState, Raft, RaftProgress
from pyraft.types import NOBODYS, RaftConfiguration

_FENCES: Final = 1 << 12
"""So many questions are told apart in a term."""


def is_announced(p: RaftProgress) -> bool:
    """Return whether a server has announced that its answers count only what the message showed to match."""
    return flags.is_set(p.features, flags.PROVEN_ANSWERS)


def reach(leader: LeaderState, p: RaftProgress) -> int:
    """Return the index that messages to a server have to reach, so that all that it acknowledges is ours.

    Proof: a server that accepts such a message holds the entry at `reach`. It got this entry from us in this term,
    since it lacked it at some moment of the term. When it took the entry it cut off all behind it (figure 3.1), and it
    has since stored only what we sent. So its log, however far it goes, is a part of ours (log matching, 3.5),
    whichever message an answer is to, and in whatever order messages and answers arrive. A message in which nothing was
    left out ends with an entry of this term, so where messages are small the rule changes nothing.
    """
    return p.lacking if p.lacking > 0 else leader.first_index


def nobodys_index(r: Raft, p: RaftProgress) -> int:
    """Return an index at which nobody has an entry: another one in each term, and behind each row of short messages."""
    return NOBODYS + r.current_term % (1 << 20) * _FENCES + p.fence % _FENCES


def is_nobodys(r: Raft, index: int) -> bool:
    """Return whether `index` is one of those, and none of our log: a log may begin near 2^64."""
    return index >= NOBODYS and not r.log.offset <= index <= log.last_index(r.log)


def ask(r: Raft, p: RaftProgress, now: int) -> int:
    """Return the predecessor to name in a message that finds out what was sent before it, and take note of that."""
    p.fenced = now
    return nobodys_index(r, p)


def has_to_ask(r: Raft, leader: LeaderState, p: RaftProgress) -> bool:
    """Return whether the next message has to find out first from when on rejections are about this term.

    C: recv_append_entries.c:recvAppendEntries rejects a message of an older term in the name of its own term. If one
    server leads both terms, it hears in the newer one of a rejection of what it sent in the older one. For C's leader
    that means a step back too far. For ours it would be a false proof that the server lacks an entry; entries of other
    leaders that the server has kept behind that one would pass for ours, and be counted although they are not. So the
    leader names a predecessor that nobody has. The server rejects it by its index, and whatever it rejects after that
    was sent after it, as connections keep their order. That takes one heartbeat in a term, and only where a message
    cannot reach far enough from where it would start.
    """
    if p.state != PROGRESS__PROBE or is_announced(p) or p.sure:
        return False
    target = min(reach(leader, p), log.last_index(r.log))
    return p.next_index < target and _start(r, target, p.next_index) != p.next_index


def has_to_fence(r: Raft, leader: LeaderState, p: RaftProgress, now: int) -> bool:
    """Return whether to ask first, in front of a message that reaches far enough, since others came before it."""
    if is_announced(p) or (p.fenced >= 0 and now - p.fenced < r.heartbeat_timeout):
        return False
    first = leader.first_index
    last_index = log.last_index(r.log)
    if p.loose > 0 and last_index >= reach(leader, p):
        return True
    if p.short == 0 or last_index < first:
        return False
    return first <= p.next_index or _start(r, first, p.next_index) == p.next_index


def is_fenced(r: Raft, p: RaftProgress, rejected: int) -> bool:
    """Return whether a rejection of index `rejected` answers a question of `ask`, and note what that proves.

    Proof: a server answers at once what brings it nothing new, and rejections. So answers at once to messages in front
    of the question have come before this one, as connections keep their order. Those that have not come wait for a
    write. When the server began to write entries of ours it cut off all that it had behind them (figure 3.1), and
    stored nothing but ours from then on, so these answers are true.
    """
    behind = nobodys_index(r, p) - rejected
    number = p.fence - behind % _FENCES
    if not -_FENCES < behind < _FENCES or number < 1 or (number == p.fence and p.fenced < 0):
        return False
    p.sure = True
    if p.loose <= number:
        p.loose = 0
    if p.short <= number:
        p.short = 0
    return True


def is_latest(r: Raft, p: RaftProgress, rejected: int) -> bool:
    """Return whether a rejection of index `rejected` answers the question that `ask` has named last."""
    return p.fenced >= 0 and rejected == nobodys_index(r, p)


def snapshot_read(p: RaftProgress, index: int, now: int) -> None:
    """Note that a snapshot up to `index` is about to be sent (progress.snapshot_read).

    Questions beside the snapshot have another number than questions before it, whose answers say nothing of it.
    """
    _next_question(p)
    progress.snapshot_read(p, index, now)


def carries_announcements(r: Raft) -> bool:
    """Return whether our I/O carries the words of servers of this project to each other."""
    return flags.is_set(r.io.features, flags.PROVEN_ANSWERS)


def names_nobody(r: Raft, p: RaftProgress) -> bool:
    """Return whether a heartbeat without a predecessor should rather name one that nobody has.

    C: recv_append_entries.c:recvAppendEntries rejects index 0 if there is no previous entry, which reads as a success,
    in its own term, and for all that its log holds, when the message is of an older one (B48 says to name none).
    """
    return not is_announced(p) and carries_announcements(r)


def start_within_reach(r: Raft, leader: LeaderState, p: RaftProgress) -> None:
    """Let the next message start at `next_index`, or behind it if it would otherwise not reach far enough (reach)."""
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
        # It has compacted entry 1: strides that double have led past where the logs meet, and it need not lack what it
        # refused there. Once more from the end of its log, with strides that double later (progress.stride).
        p.passes += 1
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

    Over an I/O that does not carry features nobody can announce them, and where nothing is left out its messages are
    those of C (or, beside a snapshot, name nothing, B48). That a server lacks the entry at `reach` is inferred from
    what it has refused. So no answer to a message that ends in front of the first entry of this term counts for more,
    however far it reaches.
    """
    if end >= leader.first_index or is_announced(p):
        return
    if (end == 0 or end >= log.last_index(r.log)) and not carries_announcements(r):
        return
    p.short = _next_question(p)
    if end < reach(leader, p):
        p.loose_end = end if p.loose == 0 else min(p.loose_end, end)
        p.loose = p.short


def _loosen(p: RaftProgress) -> None:
    """Take note that the next answers of a server may be to messages of which nothing is known."""
    p.loose = p.short = _next_question(p)
    p.loose_end = 0


def _next_question(p: RaftProgress) -> int:
    """Return the number of the next question to be asked for the first time."""
    if p.fenced >= 0:
        p.fenced = -1
        p.fence += 1
    return p.fence


def forget_announcement(p: RaftProgress) -> None:
    """Take note that a C server has taken the place of one of ours.

    Messages to the former server under this address may have been short, and have reached the C server. Nor does that
    one lack what the former one lacked.
    """
    _loosen(p)
    p.sure = False
    p.lacking = 0


def answered(p: RaftProgress, features: int) -> None:
    """Take note of an answer, and of what its sender announces with it, before it is looked at."""
    announced = flags.is_set(features, flags.PROVEN_ANSWERS)
    if announced:
        p.loose = p.short = 0
    elif is_announced(p):
        forget_announcement(p)
    p.features = features


def rebuild(r: Raft, leader: LeaderState, old: RaftConfiguration, new: RaftConfiguration, last_index: int) -> None:
    """Keep a progress for each server of `new` from now on; answers of one that was a member may be under way."""
    for server, p in zip(old.servers, leader.progress, strict=True):
        if configuration.get(new, server.id) is None and not is_announced(p) and (p.short > 0 or p.fence > 1):
            leader.unproven.add(server.id)
    leader.progress = progress.rebuild(leader.progress, old, new, last_index)
    for server, p in zip(new.servers, leader.progress, strict=True):
        if configuration.get(old, server.id) is None and server.id in leader.unproven:
            _loosen(p)


def rejected(r: Raft, leader: LeaderState, p: RaftProgress, index: int, last: int) -> None:
    """Take note that a server did not have our entry `index`, nor any behind `last`, if that is certain.

    Only a rejection of what it was asked last counts: an old one may be of what it has compacted (step_back). Its log
    may go on behind `last` with what it is still writing for an older leader. Such an entry is believed to be lacking,
    and so may one be that it has compacted; answers to short messages count for nothing all the same. Without this the
    search went down through all that the server lacks, message by message, each after a heartbeat interval and in vain.
    """
    if p.state != PROGRESS__PROBE or index != p.next_index - 1:
        return
    if is_announced(p) or p.sure:
        p.lacking = min(reach(leader, p), index, last + 1)


def shown(leader: LeaderState, p: RaftProgress, last: int) -> int:
    """Return from where to go on after an acknowledgment up to `last`, an index of our log, before `acknowledged`.

    C: replication.c:replicationUpdate believes it. The heartbeat of an only voter may match where an old leader's
    entries go on at a C server, which acknowledges these. An entry of ours that takes such an index meanwhile would
    count as sent, and the server's refusals of it as old ones, for ever.
    """
    if p.loose > 0 and not is_announced(p):
        return min(last, max(p.match_index, p.loose_end, p.snapshot_index))
    if p.short > 0 and not is_announced(p):
        # A snapshot's index is committed; that it is not installed is found out with the next message.
        return min(last, max(p.match_index, leader.first_index - 1, p.snapshot_index))
    return last


def acknowledged(r: Raft, leader: LeaderState, p: RaftProgress, last: int) -> bool:
    """Take note of an acknowledgment up to `last`, an index of our log; return whether more counts now.

    `match_index`, as in C, is what a server has acknowledged; it decides what is sent next, and when a server has
    caught up. `proven_index` is what of that counts for a commitment. An answer that may be to a short message proves
    nothing beyond what is committed or was there before our term.
    """
    if p.short > 0 and not is_announced(p):
        last = min(last, max(leader.first_index - 1, r.commit_index))
    if last <= p.proven_index:
        return False
    p.proven_index = last
    return True

"""A leader's knowledge of each server's log, as a small state machine (raft.h's struct raft_progress).

Duty: decide when something is due to a server and where to go on after what it answered. Nothing here does I/O or
knows a clock; callers pass the time.

States: PROBE sends one message per heartbeat interval until the server confirms a point where the logs agree;
PIPELINE streams, advancing `next_index` before the answer; SNAPSHOT waits for a snapshot to be installed.

Failure modes: stale or spurious answers are ignored; a rejection or a failed send leads back to PROBE.
"""

from typing import Final

from pyraft import configuration
from pyraft.state import Raft, RaftProgress
from pyraft.types import RaftConfiguration

PROGRESS__PROBE: Final = 0
PROGRESS__PIPELINE: Final = 1
PROGRESS__SNAPSHOT: Final = 2

MAX_REFUSALS: Final = 8
"""After so many refusals in a row an entry that a server had acknowledged is taken to be in its snapshot."""

MAX_DENIALS: Final = 4
"""How often in a row a server may say that it lacks what it has acknowledged before it is believed."""

_MAX_TRIES: Final = 20
"""Behind so many snapshots in a row the pause between them does not grow any more."""


def build(conf: RaftConfiguration, id: int, last_index: int, last_stored: int) -> list[RaftProgress]:
    """Return the progress of all servers at the start of a leadership; our own match is what is on our disk."""
    array = [RaftProgress(last_index) for _ in conf.servers]
    own = configuration.index_of(conf, id)
    if own < len(array):
        array[own].match_index = array[own].proven_index = last_stored
    return array


def rebuild(
    array: list[RaftProgress], old: RaftConfiguration, new: RaftConfiguration, last_index: int
) -> list[RaftProgress]:
    """Return the progress for the servers of `new`: those known from `old` keep theirs, the others start anew."""
    known = {server.id: p for server, p in zip(old.servers, array, strict=True)}
    return [known[server.id] if server.id in known else RaftProgress(last_index) for server in new.servers]


def is_up_to_date(p: RaftProgress, last_index: int) -> bool:
    """Return whether every entry has been sent."""
    return p.next_index == last_index + 1


def persisted_is_up_to_date(p: RaftProgress, last_index: int) -> bool:
    """Return whether every entry has been acknowledged."""
    return p.match_index == last_index


def window_is_full(p: RaftProgress, max_inflight_bytes: int) -> bool:
    """Return whether so much is unacknowledged that no more may be streamed."""
    return p.inflight_bytes >= max_inflight_bytes


def heartbeat_is_due(p: RaftProgress, now: int, heartbeat_timeout: int) -> bool:
    """Return whether nothing has been sent for a heartbeat interval."""
    return now - p.last_send >= heartbeat_timeout


def snapshot_is_due(r: Raft, p: RaftProgress, now: int) -> bool:
    """Return whether a server that needs a snapshot may be sent one now; if not, it is sent a heartbeat.

    C: replication.c:replicationProgress reads and sends a snapshot again, without end, at the first heartbeat that is
    due after the former one has come to nothing. Here one heartbeat goes out instead in front of the third snapshot of
    a row, three in front of the fourth, and so on. The pauses end at half of the time for installing one, as a server
    that recovers loses its patience with a leader that sends it nothing else for all of that time
    (recovering.rejected). A row ends with anything new that the server acknowledges. An interval lies between any two
    snapshots: a leader that was held up has many rejections to read at once, and all heartbeats due.
    """
    if p.snapshot_tries == 0 or r.io.features == 0:
        # Over an I/O without features it is sent as in C.
        return True
    if now - p.snapshot_last_send < r.heartbeat_timeout:
        return False
    pause = min((1 << (p.snapshot_tries - 1)) - 1, r.install_snapshot_timeout // max(2 * r.heartbeat_timeout, 1))
    if p.snapshot_skipped < pause:
        p.snapshot_skipped += 1
        return False
    return True


def to_snapshot(p: RaftProgress, snapshot_index: int) -> None:
    """Wait for a snapshot up to `snapshot_index` to be installed."""
    p.state = PROGRESS__SNAPSHOT
    p.snapshot_index = snapshot_index
    p.snapshot_sent = -1
    p.snapshot_beat = -1
    p.snapshot_doubt = -1
    p.snapshot_tries = min(p.snapshot_tries + 1, _MAX_TRIES)
    p.snapshot_skipped = 0
    p.lacking = 0
    _empty_window(p)


def snapshot_read(p: RaftProgress, index: int, now: int) -> None:
    """Note that a snapshot up to `index` is about to be sent.

    C: replication.c:sendSnapshotGetCb goes on to expect an answer about the snapshot that it decided to send, not about
    the one that was read, which may be newer (B48).
    """
    p.snapshot_index = index
    p.snapshot_sent = now
    p.snapshot_beat = -1
    p.snapshot_doubt = -1


def snapshot_moves(r: Raft, p: RaftProgress, now: int) -> None:
    """Give a server its time for installing a snapshot that was handed to the I/O, or is on its way, from now on.

    C: replication.c:sendSnapshot counts it from the decision. A snapshot that takes long to read and to write is given
    up then while its server stores it or still gets it, and is read and sent a second time.
    """
    if p.state == PROGRESS__SNAPSHOT and r.io.features != 0:
        p.snapshot_last_send = now


def beside_snapshot(p: RaftProgress, now: int) -> None:
    """Note a heartbeat that is about to be sent in SNAPSHOT."""
    if p.snapshot_sent >= 0 and p.snapshot_beat < 0:
        p.snapshot_beat = now


def snapshot_was_refused(p: RaftProgress, rejected: int, last_index: int, now: int) -> bool:
    """At any answer in SNAPSHOT: return whether an earlier one was the refusal of the snapshot after all.

    A rejection that was taken for an old heartbeat's may have been the snapshot's, if answers to old heartbeats have
    been lost. The first answer to a heartbeat beside the snapshot, which tells how long answers take, decides: whatever
    was sent before the snapshot was answered no later than so long after that.
    """
    if rejected == p.snapshot_index:
        if is_awaited(p, rejected) and p.snapshot_sent >= 0:
            p.snapshot_doubt = now
        return False
    if rejected == 0 and last_index >= p.snapshot_index:
        return False
    return p.snapshot_beat >= 0 and now - p.snapshot_beat <= p.snapshot_doubt - p.snapshot_sent


def abort_snapshot(p: RaftProgress) -> None:
    """Give up on the snapshot: sending it failed, or took too long, or the server refused it."""
    p.snapshot_index = 0
    p.state = PROGRESS__PROBE


def to_probe(p: RaftProgress) -> None:
    """Go on from what was acknowledged last; after a snapshot, which was sent, from its index."""
    p.next_index = p.match_index + 1
    if p.state == PROGRESS__SNAPSHOT:
        p.next_index = max(p.next_index, p.snapshot_index)
        p.snapshot_index = 0
    p.state = PROGRESS__PROBE
    _empty_window(p)


def to_pipeline(p: RaftProgress) -> None:
    """Stream from here on."""
    p.state = PROGRESS__PIPELINE


def snapshot_was_superfluous(p: RaftProgress, last_index: int) -> bool:
    """At an acknowledgment in SNAPSHOT that tells nothing new: go on behind the snapshot if that is what it is of.

    C: replication.c:replicationUpdate looks only at acknowledgments that raise `match_index`. A server that has lost
    the end of its log, or compacted more than it has acknowledged, is sent a snapshot that ends before that, and then
    nothing until the time for installing it has passed.
    """
    if p.state != PROGRESS__SNAPSHOT or p.match_index < p.snapshot_index or last_index < p.snapshot_index:
        return False
    abort_snapshot(p)
    return True


def snapshot_done(p: RaftProgress) -> bool:
    """Return whether the server has acknowledged all that the snapshot covers."""
    assert p.state == PROGRESS__SNAPSHOT
    return p.match_index >= p.snapshot_index


def sent(p: RaftProgress, prev_index: int, next_index: int, n_bytes: int) -> None:
    """Advance after a message was handed over in PIPELINE: the entries behind `prev_index` to before `next_index`.

    They weigh `n_bytes`.
    """
    count(p, prev_index)
    p.next_index = next_index
    if n_bytes > 0:
        p.inflight.append((next_index - 1, n_bytes))
        p.inflight_bytes += n_bytes


def count(p: RaftProgress, prev_index: int) -> None:
    """Note that one more message with this predecessor is under way."""
    if prev_index != p.streamed_index:
        if p.state == PROGRESS__SNAPSHOT and p.streamed > 0 and p.streamed_index == p.snapshot_index:
            # Only messages that were sent before the snapshot name its last entry. Their rejections still have to be
            # told from the snapshot's.
            return
        p.streamed_index = prev_index
        p.streamed = 0
    p.streamed += 1


def is_awaited(p: RaftProgress, rejected: int) -> bool:
    """Return whether a message with this predecessor, sent since the latest acknowledgment, has no answer yet."""
    return rejected == p.streamed_index and p.streamed > 0


def was_counted(p: RaftProgress, rejected: int) -> bool:
    """Return whether a rejection of index `rejected` is of a message that `count` has noted. Answers come in order."""
    if not is_awaited(p, rejected):
        if p.state == PROGRESS__PIPELINE or (p.state == PROGRESS__SNAPSHOT and rejected > p.snapshot_index):
            # The answers to earlier ones have been lost. This does not hold while one probes, nor for predecessors in
            # front of a snapshot: there the rejection may answer a message that was sent before those.
            p.streamed = 0
        return False
    p.streamed -= 1
    return True


def denies(p: RaftProgress, rejected: int, last_index: int) -> bool:
    """Count a rejection of what the server has acknowledged; return whether to believe that it does not have it.

    It lacks the entry if its log ends before that, or if in PIPELINE it rejects the last entry that it acknowledged,
    which an idle leader names: no server compacts that one. In other cases a server with a longer log may have
    compacted the entry, see maybe_decrement. Only a rejection of a message that was sent since the latest
    acknowledgment counts: the answers to others have been overtaken.
    C: progress.c:progressMaybeDecrement takes it for an old one, and sends nothing as long as nothing new is to be
    sent. A row of them, with no acknowledgment between, is from a server that has lost its disk or a part of it, or has
    another log in its place. Then all that it acknowledged counts for nothing any more. No acknowledged entry is lost
    by that: the commit index stays, and what is committed from now on has its majority without the old acknowledgments.
    """
    if rejected > p.match_index or not is_awaited(p, rejected):
        return False
    if last_index >= p.match_index and (p.state != PROGRESS__PIPELINE or rejected < p.match_index):
        return False
    p.denials += 1
    if p.denials < MAX_DENIALS:
        return False
    was_counted(p, rejected)
    p.denials = 0
    p.match_index = 0
    p.proven_index = 0
    p.lacking = 0
    if p.state != PROGRESS__SNAPSHOT:
        to_probe(p)
        p.next_index = last_index + 1
    return True


def maybe_decrement(p: RaftProgress, rejected: int, last_index: int) -> bool:
    """Go back after a rejection of index `rejected` by a server whose log ends at `last_index`.

    `last_index` is at most the end of our log. Return False, with nothing changed, if the rejection is stale.
    """
    was_streamed = was_counted(p, rejected)
    if p.state == PROGRESS__SNAPSHOT:
        # C: progress.c:progressMaybeDecrement takes the rejection of a heartbeat that was sent before the snapshot,
        # with its last entry as the predecessor, for a rejection of the snapshot (B48). Then it is sent again, once for
        # each of them that was under way.
        if rejected != p.snapshot_index or was_streamed:
            return False
        abort_snapshot(p)
        return True
    if p.state == PROGRESS__PIPELINE:
        if rejected <= p.match_index:
            return False
        to_probe(p)
        return True
    if rejected != p.next_index - 1:
        return False
    if rejected <= p.match_index and rejected < last_index:
        # C: progress.c:progressMaybeDecrement goes back behind what was acknowledged, down to its snapshot, for ever if
        # that is superfluous. A server that acknowledged an entry, holds later ones and rejects it must have compacted
        # it. One or two such rejections may be old ones that were long on their way. To believe them changes only what
        # is sent next, and that has to match like anything else.
        p.refusals += 1
        if p.refusals > MAX_REFUSALS:
            p.next_index = last_index + 1
            p.lacking = 0
            return True
    elif rejected <= p.match_index and p.refusals > MAX_REFUSALS:
        # It refuses the end of its own log, which it has not compacted: what it has acknowledged is not ours.
        p.match_index = p.proven_index = 0
        p.refusals = p.steps_back = 0
    # A stale rejection may lead back behind what was acknowledged, as in C; accept._matches helps if it is compacted.
    # C: progress.c:progressMaybeDecrement steps back one entry at a time, each after a heartbeat interval (B52). An
    # entry that the server has already does no harm when it comes again. A stride may also lead over the last entries
    # in front of what is compacted here, where the logs may have met: then the server gets a snapshot that it does not
    # need, one at most, as it matches from then on. To look there first would take a message that B52 does not have.
    p.next_index = max(1, min(rejected + 1 - stride(p), last_index + 1))
    p.steps_back += 1
    return True


def stride(p: RaftProgress) -> int:
    """Return how far to step back now: twice as far as the time before (B52).

    A stride may lead over the place where the logs meet, if the server has compacted what is in front of that
    (proof.step_back). Each further pass takes eight times as many steps before it doubles its stride, so it finds a
    stretch that is more than an eighth, a sixty-fourth, … as long as what lies behind it.
    """
    return 1 << min(p.steps_back >> (3 * min(p.passes, 20)), 62)


def maybe_update(p: RaftProgress, last_index: int) -> bool:
    """Advance after an acknowledgement up to `last_index`; return whether it acknowledges anything new."""
    p.streamed = 0
    p.next_index = max(p.next_index, last_index + 1)
    if p.match_index <= last_index:
        p.denials = 0
    if p.match_index >= last_index:
        return False
    p.match_index = last_index
    p.refusals = 0
    p.steps_back = 0
    p.snapshot_tries = 0
    while p.inflight and p.inflight[0][0] <= last_index:
        p.inflight_bytes -= p.inflight.popleft()[1]
    return True


def _empty_window(p: RaftProgress) -> None:
    p.inflight.clear()
    p.inflight_bytes = 0

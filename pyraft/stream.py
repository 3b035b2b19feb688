"""The lane, sending: the one message of a round to all followers that lack nothing but its entries (3.5).

Duty: `message` makes the AppendEntries that is due to a server in PIPELINE, or gives back the one that was made for the
server before it, if that is the same: then the I/O encodes it once (RaftAppendEntries.encoded).

Happy path: all followers have been sent what was there before, and get the entries of this turn, up to the end of the
log, or a heartbeat if there are none and one is due. The cases left out fail a test here and are sent by the general
path (`replicate._progress`): servers that probe or get a snapshot, a full window, more than one message takes, a
predecessor that is compacted or is the snapshot's last entry, messages that do not reach far enough (`proof.reach`).

`sent` notes that the message has left, as `replicate._send` does for messages of all kinds.

Failure modes: none; `message` changes nothing.
"""

from pyraft import log
from pyraft.progress import PROGRESS__PIPELINE
from pyraft.state import LeaderState, Raft, RaftProgress
from pyraft.types import EntryBatch, RaftAppendEntries


def message(
    r: Raft, leader: LeaderState, p: RaftProgress, made: RaftAppendEntries | None, now: int
) -> RaftAppendEntries | None:
    """Return the message that is due to a server, `made` if that is the same; None if the general path is needed."""
    lg = r.log
    first = p.next_index
    last = lg.base + len(lg.bufs)
    n = last + 1 - first
    if p.state != PROGRESS__PIPELINE or not 0 <= n <= log.MAX_ENTRIES or p.inflight_bytes >= r.max_inflight_bytes:
        return None
    if p.short > 0 or last < leader.first_index or first - 1 <= lg.offset:
        return None
    if (first if n > 0 else last) < (p.lacking or leader.first_index):
        return None
    if n == 0 and now - p.last_send < r.heartbeat_timeout:
        # Nothing is due: the general path finds that out in the next line.
        return None
    slot = first - 1 - lg.base
    write = r.writes[-1] if n > 0 and r.writes else None
    if write is not None and write.index == first and write.standing == n == len(write.entries.bufs):
        # The message has exactly the entries of the last write, which the I/O has encoded.
        batch = write.entries
    else:
        batch = EntryBatch(lg.terms[slot:], lg.types[slot:], lg.bufs[slot:])
    if n > 1 and 0 < r.max_append_bytes < log.weight_of(batch):
        return None
    prev_term = lg.terms[slot - 1]
    commit = r.commit_index if r.commit_index < last else last
    if made is not None and made.prev_log_index == first - 1 and made.leader_commit == commit:
        former = made.entries
        # I/O code may have changed term and log since `made` was made; where it has not, these are the same objects.
        if (
            made.term == r.current_term
            and made.prev_log_term == prev_term
            and type(former) is EntryBatch
            and (former is batch or _same(former, batch))
        ):
            return made
    args = RaftAppendEntries()
    args.term = r.current_term
    args.prev_log_index = first - 1
    args.prev_log_term = prev_term
    args.leader_commit = commit
    args.whole = True
    args.entries = batch
    args.encoded = []
    return args


def _same(one: EntryBatch, other: EntryBatch) -> bool:
    return one.bufs == other.bufs and one.terms == other.terms and one.types == other.types


def sent(p: RaftProgress, args: RaftAppendEntries, now: int) -> None:
    """Take note that io.send has taken what `message` made (proof.sent, progress.sent). It reaches what it has to."""
    batch = args.entries
    assert type(batch) is EntryBatch
    bufs = batch.bufs
    n = len(bufs)
    last = args.prev_log_index + n
    if p.state == PROGRESS__PIPELINE:
        if p.streamed_index != args.prev_log_index:
            p.streamed_index = args.prev_log_index
            p.streamed = 0
        p.streamed += 1
        p.next_index = last + 1
        if n > 0:
            weight = len(bufs[0]) + log.HEADER_SIZE if n == 1 else log.weight_of(batch)
            p.inflight.append((last, weight))
            p.inflight_bytes += weight
    p.last_send = now

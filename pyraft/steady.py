"""The lane: the path of one command on servers that do nothing else (3.5).

Duty: the two messages of replication where all is well. `recv.recv_cb` asks `received` first. It tests all that it
relies on before it touches anything, and says None if a test fails: the general path handles the message then.

Happy path of an answer: the follower's match index rises, what a majority has stored is committed and applied, and the
follower is sent what is due; an answer to a heartbeat shows only that it is alive. Happy path of an AppendEntries: the
leader is alive, and entries are written (`accept.write`); without any the commit index moves and the answer goes out.

These fail a test here and are left to the general path: other terms, rejections, questions, servers that probe, get a
snapshot or still have to be proven, promotions, transfers, recovery, installations, conflicts, first words of leaders.
The lane is the same algorithm a second time: `test_steady.py` compares the two over random states and messages,
`test_steady_alone.py` lets each test fail alone.

Failure modes: codes are those of the functions that are called, which are the general path's.
"""

from pyraft import accept, calls, flags, proof, recv_append_entries_result, replicate, reply
from pyraft.progress import PROGRESS__PIPELINE
from pyraft.state import LeaderState, Raft, RaftProgress
from pyraft.types import (
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    EntryBatch,
    RaftAppendEntries,
    RaftAppendEntriesResult,
    RaftMessage,
)


def received(r: Raft, message: RaftMessage) -> int | None:
    """Handle a message if all is well; return 0, the code of what failed, or None with nothing changed."""
    type = message.type
    result = message.append_entries_result
    if type == RAFT_IO_APPEND_ENTRIES_RESULT:
        leader = r.leader_state
        if leader is None or result is None:
            return None
        return _answered(r, leader, message.server_id, result)
    args = message.append_entries
    if type == RAFT_IO_APPEND_ENTRIES and args is not None and result is None:
        return _appended(r, message.server_id, message.server_address, args)
    return None


def _answered(r: Raft, leader: LeaderState, id: int, result: RaftAppendEntriesResult) -> int | None:
    """A follower has stored more: recv_append_entries_result._digest, where nothing else is to be found out."""
    if result.term != r.current_term or result.rejected != 0 or result.question != 0:
        return None
    # Tested as a variable, as mypyc takes a field that was None for None from then on: what is applied may bring one.
    transfer = r.transfer
    if transfer is not None or leader.promotee_id != 0:
        return None
    p: RaftProgress | None = None
    for i, server in enumerate(r.configuration.servers):
        if server.id == id:
            p = leader.progress[i]
            break
    if p is None or p.state != PROGRESS__PIPELINE or p.short != 0 or p.questions != 0:
        return None
    features = result.features
    if features != p.features and proof.is_announced(p) and not flags.is_set(features, flags.PROVEN_ANSWERS):
        return None
    lg = r.log
    last, end = result.last_log_index, lg.base + len(lg.bufs)
    if last > end:
        last = end
    news = last > p.match_index
    if news != (last > p.proven_index) or (not news and last != p.match_index):
        return None
    # It has answered, and to what (proof.answered, proof.acknowledged, progress.maybe_update).
    p.recent_recv = True
    p.features = features
    if p.next_index <= last:
        p.next_index = last + 1
    p.streamed = p.denials = 0
    if not news:
        # To a heartbeat.
        return 0
    p.proven_index = last
    p.match_index = last
    p.refusals = p.steps_back = 0
    inflight = p.inflight
    while inflight and inflight[0][0] <= last:
        p.inflight_bytes -= inflight.popleft()[1]
    # Commit, apply, call back.
    replicate.commit(r, leader)
    if r.leader_state is not leader:
        return 0
    # All that is deferred goes out at the end of the turn, this follower's share of it too. Else nothing is due to a
    # follower that has been sent everything, but for heartbeats.
    if r.transfer is not None or (
        leader.deferred_index == 0
        and (p.next_index <= lg.base + len(lg.bufs) or calls.now(r) - p.last_send >= r.heartbeat_timeout)
    ):
        recv_append_entries_result.after_update(r, leader, id)
    return 0


def _appended(r: Raft, id: int, address: str, args: RaftAppendEntries) -> int | None:
    """The leader goes on: recv_append_entries.handle and accept.entries, where our log ends with the predecessor."""
    follower = r.follower_state
    batch = args.entries
    if follower is None or id <= 0 or type(batch) is not EntryBatch or args.question != 0:
        return None
    if args.term != r.current_term or r.recovering or r.filling:
        return None
    snapshot = r.snapshot
    if snapshot.put is not None and snapshot.install is not None:
        return None
    if snapshot.replacing != 0 or snapshot.refused_index != 0:
        return None
    said = r.said
    if said.leader_id != id or said.leader_term != args.term or said.removed or said.waits:
        return None
    lg = r.log
    last_index = lg.base + len(lg.bufs)
    if args.prev_log_index != last_index or last_index <= lg.offset:
        return None
    if lg.terms[-1] != args.prev_log_term or args.prev_log_term == 0:
        return None
    n = len(batch.bufs)
    if n > 0:
        terms = batch.terms
        one = n == 1 or batch.alike >= 0
        if (terms[0] if one else min(terms)) < 1 or (terms[0] if one else max(terms)) > args.term:
            return None
    # It leads, and is alive (term.update_leader).
    current = follower.current_leader
    current.id = id
    current.address = address
    r.votes_withheld = 0
    r.election_timer_start = calls.now(r)
    snapshot.refusals = 0
    if r.closing:
        return 0  # inside io.time
    if n > 0:
        # New entries: they are acknowledged when they are stored.
        return accept.write(r, args, last_index + 1, batch)
    # A heartbeat: follow the commit index, and answer.
    rv = accept.commit(r, min(args.leader_commit, last_index))
    if rv != 0:
        return rv
    return reply.send(r, id, address, 0, min(r.last_stored, last_index))

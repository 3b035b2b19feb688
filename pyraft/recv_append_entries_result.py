"""The answer to an AppendEntries or InstallSnapshot, at the leader.

Duty: note what the result shows of the server (progress, proof), and draw the consequences: a commit, a promotion, a
transfer, the next message.

Happy path: the acknowledgment raises the server's match index, what a majority has stored is committed and applied
(replicate.commit), and the server is sent what is due.

Failure modes: a rejection leads back through the log; answers to a server that no longer leads, of an older term or
from servers that are not members are ignored; a higher term is adopted.
"""

import logging
from typing import Final

from pyraft import calls, configuration, flags, log, membership, progress, proof, reads, replicate, term
from pyraft.progress import PROGRESS__PIPELINE, PROGRESS__PROBE, PROGRESS__SNAPSHOT
from pyraft.state import LeaderState, Raft, RaftProgress
from pyraft.types import RAFT_VOTER, RaftAppendEntriesResult

_logger = logging.getLogger("pyraft")

_LOST_BY_A_VOTER: Final = (
    "A server whose disk was lost or set back must not come back under its id: what it helped to commit may be missing "
    "from all others that can be elected"
)
_LOST_BY_ANOTHER: Final = "It has no vote: if it never had one, as a new server, nothing depended on them"


def handle(r: Raft, id: int, result: RaftAppendEntriesResult) -> int:
    """Process an AppendEntriesResult from server `id`."""
    if r.leader_state is None:
        return 0
    rv, match = term.ensure_matching(r, result.term)
    if rv != 0 or match != 0:
        return rv
    i = configuration.index_of(r.configuration, id)
    if i == len(r.configuration.servers):
        return 0
    return _digest(r, i, result)


def _digest(r: Raft, i: int, result: RaftAppendEntriesResult) -> int:
    """Digest the answer of the i'th server to an AppendEntries or InstallSnapshot of this term."""
    leader = r.leader_state
    assert leader is not None
    server_id = r.configuration.servers[i].id
    p = leader.progress[i]
    p.recent_recv = True
    if not flags.is_set(result.features, flags.ECHOED_QUESTIONS) and p.questions > 0:
        reads.forget_announcement(p)
    if result.question != 0:
        p.features = result.features
        if reads.answered(r, leader, p, result.question):
            replicate.carry_out_reads(r)
        return 0
    proof.answered(p, result.features)
    if proof.is_nobodys(r, result.rejected):
        proof.is_fenced(r, p, result.rejected)
        # The answer to a question that was asked before the snapshot was sent tells nothing of it.
        if p.state != PROGRESS__SNAPSHOT or p.snapshot_sent < 0 or not proof.is_latest(r, p, result.rejected):
            return 0
    if p.state == PROGRESS__SNAPSHOT and progress.snapshot_was_refused(
        p, result.rejected, result.last_log_index, calls.now(r)
    ):
        progress.abort_snapshot(p)
        replicate.progress_one(r, i)
        return 0
    if result.rejected > 0:
        _rejected(r, leader, i, p, result)
        return 0
    # A longer log than ours is a left-over of earlier terms.
    last = min(result.last_log_index, log.last_index(r.log))
    shown = proof.shown(leader, p, last)
    counts = proof.acknowledged(r, leader, p, last)
    if not progress.maybe_update(p, shown):
        if counts:
            replicate.commit(r, leader)
        progress.snapshot_was_superfluous(p, result.last_log_index)
        return 0
    if p.state == PROGRESS__PROBE:
        progress.to_pipeline(p)
    elif p.state == PROGRESS__SNAPSHOT and progress.snapshot_done(p):
        progress.to_probe(p)
    if leader.promotee_id == server_id:
        replicate.flush(r)
        rv = _advance_promotion(r)
        if rv != 0:
            return rv
    if r.leader_state is leader:
        replicate.commit(r, leader)
    if r.leader_state is leader:
        after_update(r, leader, server_id)
    return 0


def _rejected(r: Raft, leader: LeaderState, i: int, p: RaftProgress, result: RaftAppendEntriesResult) -> None:
    """Go on with the i'th server, which has rejected a message."""
    last = min(result.last_log_index, log.last_index(r.log))
    match_index = p.match_index
    if p.state != PROGRESS__SNAPSHOT:
        proof.rejected(r, leader, p, result.rejected, last)
    if progress.denies(p, result.rejected, last):
        server = r.configuration.servers[i]
        has = f"its log ends with {result.last_log_index}, it had {match_index}"
        if result.last_log_index >= match_index:
            has = f"it refuses {result.rejected}, and has another log now, perhaps another cluster's"
        _logger.warning(
            "server %d has lost entries that it had acknowledged: %s. Server %d sends them again. %s",
            *(server.id, has, r.id),
            _LOST_BY_A_VOTER if server.role == RAFT_VOTER else _LOST_BY_ANOTHER,
        )
        replicate.progress_one(r, i)
    elif p.state == PROGRESS__SNAPSHOT and p.snapshot_sent < 0 and r.io.features != 0:
        # Nobody refuses a snapshot that is still being read. C: progress.c:progressMaybeDecrement begins anew for each
        # rejection of the snapshot's last entry that was under way, and so does ours over an I/O without features.
        progress.was_counted(p, result.rejected)
    # Figure 3.1: if AppendEntries fails because of log inconsistency, decrement nextIndex and retry.
    elif progress.maybe_decrement(p, result.rejected, last):
        if p.state == PROGRESS__PROBE:
            proof.step_back(r, leader, p, result.rejected, last)
        replicate.progress_one(r, i)


def after_update(r: Raft, leader: LeaderState, server_id: int) -> None:
    """Go on with a server that has advanced, unless what was just applied has removed it."""
    i = configuration.index_of(r.configuration, server_id)
    if i == len(r.configuration.servers):
        return
    p = leader.progress[i]
    transfer = r.transfer
    if (
        transfer is not None
        and transfer.id == server_id
        and transfer.send is None
        and progress.persisted_is_up_to_date(p, log.last_index(r.log))
        and membership.transfer_start(r) != 0
        and r.transfer is transfer
    ):
        membership.transfer_close(r)
    if p.state == PROGRESS__PIPELINE and r.leader_state is leader:
        replicate.progress_one(r, i)


def _advance_promotion(r: Raft) -> int:
    """Promote the server that is catching up, if it has (4.2.1); return the code of io.append for the new entry."""
    leader = r.leader_state
    if leader is None or leader.promotee_id == 0 or not membership.update_catch_up_round(r, leader):
        return 0
    id = leader.promotee_id
    conf = configuration.copy(r.configuration)
    server = configuration.get(conf, id)
    assert server is not None
    assert server.role != RAFT_VOTER
    server.role = RAFT_VOTER
    leader.promotee_id = 0
    rv = replicate.append_configuration(r, leader, conf)
    if rv != 0 and r.leader_state is leader:
        leader.promotee_id = id
    return rv

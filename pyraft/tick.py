"""The passing of time (figure 3.1, rules for servers).

Duty: `tick_cb` runs every heartbeat interval. Followers and candidates start elections, leaders check that a
majority still answers, send what is due and watch over a promotion; a transfer that takes too long ends.

Failure modes: an election that cannot store its term or vote makes the server unavailable.
"""

from pyraft import (
    accept,
    calls,
    configuration,
    convert,
    election,
    membership,
    notice,
    quorum,
    reads,
    recovering,
    replicate,
    snapshot,
)
from pyraft.errors import RAFT_NOCONNECTION
from pyraft.state import LeaderState, Raft
from pyraft.types import RAFT_CANDIDATE, RAFT_FOLLOWER, RAFT_LEADER, RAFT_SPARE, RAFT_UNAVAILABLE, RAFT_VOTER, RaftIo


def tick_cb(io: RaftIo) -> None:
    """A heartbeat interval has passed; `io.start` was given this function."""
    r: Raft = io.data
    if r.inside:
        calls.abandoned(r)
    if r.state == RAFT_UNAVAILABLE:
        return
    ident = r.io.thread
    if ident is not None:
        r.thread = ident()
    leader = r.leader_state
    if leader is not None and leader.deferred_index != 0:
        replicate.flush(r)
    membership.tell(r)
    if r.writes or r.said.write is not None:
        notice.writes_end(r)
    rv = 0
    if r.state == RAFT_FOLLOWER:
        rv = _follower(r)
    elif r.state == RAFT_CANDIDATE:
        rv = _candidate(r)
    elif r.state == RAFT_LEADER:
        _leader(r)
    if rv != 0 or r.failed:
        convert.to_unavailable(r)
        return
    transfer = r.transfer
    if transfer is not None and calls.now(r) - transfer.start >= r.election_timeout:
        membership.transfer_close(r)


def _follower(r: Raft) -> int:
    """3.4: a voter that hears nothing for an election timeout stands as a candidate."""
    if r.snapshot.owed is not None:
        snapshot.answer_if_stored(r)
        if r.follower_state is None:
            return 0
    if r.recovering and (not r.filling or election.is_voter(r)):
        recovering.waiting(r)
        return 0
    if not election.timer_expired(r):
        return 0
    if not election.may_stand(r):
        notice.waits(r, calls.now(r) - r.election_timer_start)
        return 0
    if snapshot.is_installing(r) or accept.is_writing(r):
        # Entries on their way to disk came from a leader; wait for them.
        election.reset_timer(r)
        return 0
    return convert.to_candidate(r, False)


def _candidate(r: Raft) -> int:
    """3.4: a candidate that neither wins nor loses within a timeout starts the next round."""
    if not election.timer_expired(r):
        return 0
    notice.election_lost(r)
    return election.start(r)


def _leader(r: Raft) -> None:
    leader = r.leader_state
    assert leader is not None
    now = calls.now(r)
    if now - r.election_timer_start >= r.election_timeout:
        # 6.2: a leader steps down if it has not reached a majority for an election timeout.
        if not _has_contact(r, leader):
            convert.to_follower(r)
            return
        r.election_timer_start = now
    if leader.waiting_change is not None:
        replicate.carry_out_waiting_change(r)
    if r.leader_state is not leader:
        return
    replicate.trigger_all(r)
    if leader.promotee_id != 0:
        _watch_promotion(r, leader, now)
    if leader.reads.asked or leader.reads.waiting:
        _carry_on_reads(r, leader)


def _carry_on_reads(r: Raft, leader: LeaderState) -> None:
    """6.4: ask again, or otherwise, and begin with what has waited for a transfer to end."""
    if r.leader_state is leader and reads.tick(r, leader):
        # Where it cannot be appended the questions stand, and the next tick tries again.
        replicate.flush(r)
        if r.leader_state is leader and leader.reads.asked:
            replicate.append_read_barrier(r, leader)
    replicate.carry_out_reads(r)


def _has_contact(r: Raft, leader: LeaderState) -> bool:
    """Count the voters that have answered since the last time, and ourselves, and begin to count anew."""
    contacts = 0
    for i, server in enumerate(r.configuration.servers):
        p = leader.progress[i]
        if server.id == r.id or (server.role == RAFT_VOTER and p.recent_recv):
            contacts += 1
        if server.id != r.id and server.role != RAFT_SPARE:
            notice.silent(r, server, p)
        p.recent_recv = False
    leader.voter_contacts = contacts
    return quorum.is_majority(contacts, configuration.voter_count(r.configuration))


def _watch_promotion(r: Raft, leader: LeaderState, now: int) -> None:
    """4.2.1: give a promotion up if its last round, or any, takes too long."""
    duration = now - leader.round_start
    too_slow = leader.round_number == r.max_catch_up_rounds and duration > r.election_timeout
    if not too_slow and duration <= r.max_catch_up_round_duration:
        return
    if leader.change is not None:
        r.errmsg = f"server {leader.promotee_id} has not caught up in time, in round {leader.round_number}"
    leader.promotee_id = 0
    leader.round_index = 0
    leader.round_number = 0
    leader.round_start = 0
    change = leader.change
    leader.change = None
    if change is not None:
        r.counts.failed += 1
        calls.fire(r, change, RAFT_NOCONNECTION)

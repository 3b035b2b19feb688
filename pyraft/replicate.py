"""Replication on the leader (3.5): its own disk, the messages to the others, the commit index, changes.

Duty: `trigger` gives new entries to the disk and then runs a round of sends; `progress_one` does what is due to one
server; completions of our own writes end in `append_cb`. Answers come in recv_append_entries_result.

Happy path: trigger → io.append and one AppendEntries per server → results and our write's completion raise match
indexes → `commit` → apply.run.

With an io.defer, raft_apply does not trigger: entries wait for the end of the loop turn, when `flush` gives them out
together. All other events that move the core flush first, so that the order of I/O calls stays that of libraft.

Failure modes: a send that fails is left to the next heartbeat; a write that fails cuts the log at its first entry,
fails the requests in it with its status and ends the leadership, so that a server with a better disk can lead.
"""

import logging
from typing import Any

from pyraft import (
    apply,
    calls,
    configuration,
    convert,
    election,
    log,
    membership,
    notice,
    progress,
    proof,
    reads,
    request,
    stored,
    stream,
    writes,
)
from pyraft.errors import RAFT_NOCONNECTION, RAFT_SHUTDOWN, RAFT_TOOBIG
from pyraft.progress import PROGRESS__PIPELINE, PROGRESS__PROBE, PROGRESS__SNAPSHOT
from pyraft.state import LeaderState, Raft, RaftProgress, RaftWrite
from pyraft.tracing import trace
from pyraft.types import (
    RAFT_BARRIER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_LEADER,
    RAFT_SPARE,
    UNSET,
    EntryBatch,
    RaftAppendEntries,
    RaftBarrier,
    RaftConfiguration,
    RaftInstallSnapshot,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftMessage,
    RaftServer,
    RaftSnapshot,
    no_entries,
)

_BARRIER_PAYLOAD = bytes(8)

_logger = logging.getLogger("pyraft")


class SendRequest(RaftIoSend):
    """A message on its way to `server_id`, an AppendEntries or an InstallSnapshot."""

    __slots__ = ("raft", "server_id")

    def __init__(self, raft: Raft, server_id: int) -> None:
        self.data = None
        self.cb = UNSET
        self.raft = raft
        self.server_id = server_id


class SnapshotGetRequest(RaftIoSnapshotGet):
    """A snapshot being read in order to send it to `server_id`."""

    __slots__ = ("raft", "server_id")

    def __init__(self, raft: Raft, server_id: int) -> None:
        super().__init__()
        self.raft = raft
        self.server_id = server_id


# Sending.


def trigger(r: Raft, index: int) -> int:
    """Write the entries from `index` on to our disk, then run a round; return the code of io.append."""
    assert index > r.last_stored
    rv = _append(r, index, log.acquire(r.log, index))
    # A write that has completed inside the call may have ended the leadership, and so may code that ran in it.
    if rv == 0 and r.leader_state is not None:
        trigger_all(r)
    return rv


def submit_barrier(r: Raft, leader: LeaderState, req: RaftBarrier, cb: Any, may_wait: bool = False) -> int:
    """Append and replicate a barrier, at once, or as commands are if it `may_wait`: at the end of the turn.

    Return 0, or if it is not called back the code of io.append or io.defer, or RAFT_SHUTDOWN.
    """
    index = log.last_index(r.log) + 1
    req.cb = cb
    request.start(leader, req, RAFT_BARRIER, index)
    log.append(r.log, r.current_term, RAFT_BARRIER, _BARRIER_PAYLOAD)
    rv = defer(r, leader, index, [_BARRIER_PAYLOAD]) if may_wait and r.io.defer is not None else trigger(r, index)
    if (rv == 0 and not r.failed) or not take_back(r, leader, index, rv):
        return 0
    return rv if rv != 0 else RAFT_SHUTDOWN


def take_back(r: Raft, leader: LeaderState, index: int, rv: int) -> bool:
    """Undo a submission that failed at once, with code `rv`: the entries from `index` on and their request.

    With 0 the entries stay: they are being written and sent, and the server stops as I/O code has raised on the way.
    Return False, with nothing changed, if the request has been called back meanwhile.
    """
    if not request.discard(leader, index):
        return False
    if rv != 0:
        log.truncate(r.log, index)
    return True


def defer(r: Raft, leader: LeaderState, index: int, bufs: list[bytes]) -> int:
    """Leave the entries `bufs`, which start at `index`, to the end of the loop turn; return the code of io.defer."""
    rv = calls.defer(r, bufs)
    if rv != 0:
        calls.io_errmsg(r)
        return rv
    if leader.deferred_index == 0:
        leader.deferred_index = index
    return 0


def flush(r: Raft) -> None:
    """Give out what was deferred, if anything; an error that io.append returns counts as its completion."""
    leader = r.leader_state
    if leader is None or leader.deferred_index == 0:
        return
    lg = r.log
    # Callbacks of a write that completes inside the call may defer, flush, and end the leadership.
    while 0 < leader.deferred_index <= lg.base + len(lg.bufs):
        index = leader.deferred_index
        entries = log.acquire(lg, index, r.max_append_bytes, log.MAX_ENTRIES)
        following = index + len(entries.bufs)
        leader.deferred_index = following if following <= lg.base + len(lg.bufs) else 0
        rv = _append(r, index, entries)
        if rv != 0:
            notice.not_stored(r, index)
            _append_failed(r, index, len(entries.bufs), rv)
        if r.leader_state is not leader:
            return
    leader.deferred_index = 0
    trigger_all(r)


def flush_turn(r: Raft) -> None:
    """End a loop turn. io.defer runs this."""
    if r.inside:
        calls.abandoned(r)
    flush(r)
    leader = r.leader_state
    if leader is not None and leader.reads.waiting:
        carry_out_reads(r)
    if r.failed:
        convert.stop_if_failed(r)


def _append(r: Raft, index: int, entries: EntryBatch) -> int:
    assert entries.bufs
    # The way to a commit is longest for the followers, so our own write may start behind the messages (10.2.1).
    rv = calls.append(r, RaftWrite(r, index, entries, may_wait=True), entries, append_cb)
    if rv != 0:
        calls.io_errmsg(r)
    return rv


def trigger_all(r: Raft) -> None:
    """Do what is due to each server, in configuration order; spares get nothing unless they are being promoted."""
    leader = r.leader_state
    assert leader is not None
    now = calls.now(r)
    args: RaftAppendEntries | None = None
    for i, server in enumerate(r.configuration.servers):
        if server.id == r.id or (server.role == RAFT_SPARE and server.id != leader.promotee_id):
            continue
        p = leader.progress[i]
        args = stream.message(r, leader, p, args, now) if r.lane and r.leader_state is leader else None
        rv = _progress(r, p, server, now) if args is None else _stream(r, p, server, now, args)
        if rv not in (0, RAFT_NOCONNECTION) and r.tracer.enabled:
            trace(r.tracer, f"send to server {server.id} failed: {rv}")


def progress_one(r: Raft, i: int) -> None:
    """Do what is due to the i'th server; a failure is left to the next heartbeat."""
    leader = r.leader_state
    assert leader is not None
    if leader.deferred_index != 0:
        # The flush at the end of this turn does it, after the write that has to come first.
        return
    _progress(r, leader.progress[i], r.configuration.servers[i], calls.now(r))


def _progress(r: Raft, p: RaftProgress, server: RaftServer, now: int) -> int:
    """Send `server` what is due by the table in README.md, if anything; return the code of the I/O call."""
    lg = r.log
    last_index = log.last_index(lg)
    assert 1 <= p.next_index <= last_index + 1
    if p.state == PROGRESS__SNAPSHOT:
        if now - p.snapshot_last_send >= r.install_snapshot_timeout:
            progress.abort_snapshot(p)
        elif not progress.heartbeat_is_due(p, now, r.heartbeat_timeout):
            return 0
        else:
            progress.beside_snapshot(p, now)
        # While a snapshot is under way, heartbeats keep our authority.
        if last_index == p.snapshot_index:
            if proof.names_nobody(r, p):
                return _ask(r, p, server, now)
            # C: replication.c:replicationProgress names the snapshot's last entry as the predecessor. The rejection of
            # such a heartbeat looks like one of the snapshot, which is then read and sent again and again (B48).
            return _send_entries(r, p, server, now, 0, 0, no_entries())
        return _send_entries(r, p, server, now, last_index, log.last_term(lg), no_entries())
    if not progress.heartbeat_is_due(p, now, r.heartbeat_timeout) and (
        p.state == PROGRESS__PROBE or p.next_index > last_index or progress.window_is_full(p, r.max_inflight_bytes)
    ):
        return 0
    prev_index = p.next_index - 1
    prev_term = log.term_of(lg, prev_index)
    if prev_term == 0 and (prev_index > 0 or log.snapshot_index(lg) > 0):
        # The entry before next_index is compacted away. A snapshot is heavy: only a server that answers gets one.
        if p.recent_recv and progress.snapshot_is_due(r, p, now):
            return _send_snapshot(r, p, server, now)
        return _send_entries(r, p, server, now, last_index, log.last_term(lg), no_entries())
    return _send_pipeline(r, p, server, now)


def _send_pipeline(r: Raft, p: RaftProgress, server: RaftServer, now: int, most: int = log.MAX_ENTRIES) -> int:
    """Send the entries from next on: one message, and in PIPELINE as many as the window takes.

    C: replication.c:sendAppendEntries puts all of them into one message, however many (B31).
    """
    leader = r.leader_state
    if leader is not None:  # I/O code may have closed the server in the middle of a round.
        if proof.has_to_ask(r, leader, p):
            return _ask(r, p, server, now)
        proof.start_within_reach(r, leader, p)
    prev_index = p.next_index - 1
    prev_term = log.term_of(r.log, prev_index)
    # A heartbeat that is due with a full window carries one entry: an empty one would have to skip what is unsent.
    n = 1 if progress.window_is_full(p, r.max_inflight_bytes) else most
    while True:
        if p.short > 0 and leader is not None and proof.has_to_fence(r, leader, p, now):
            _ask(r, p, server, now)
        entries = log.acquire(r.log, prev_index + 1, r.max_append_bytes, n)
        rv = _send_entries(r, p, server, now, prev_index, prev_term, entries)
        if rv == RAFT_TOOBIG and entries.bufs:
            return _too_big(r, p, server, now, len(entries.bufs))
        if rv != 0 or p.state != PROGRESS__PIPELINE:
            return rv
        prev_index = p.next_index - 1
        if prev_index == log.last_index(r.log) or progress.window_is_full(p, r.max_inflight_bytes):
            return 0
        prev_term = log.term_of(r.log, prev_index)


def _ask(r: Raft, p: RaftProgress, server: RaftServer, now: int) -> int:
    """Send a message whose refusal says that answers to those before it have come (proof)."""
    return _send_entries(r, p, server, now, proof.ask(r, p, now), r.current_term, no_entries())


def _stream(r: Raft, p: RaftProgress, server: RaftServer, now: int, args: RaftAppendEntries) -> int:
    """Send what `stream.message` has made, as _send_pipeline would."""
    message = RaftMessage(RAFT_IO_APPEND_ENTRIES, server.id, server.address)
    message.append_entries = args
    rv = calls.send(r, SendRequest(r, server.id), message, send_entries_cb)
    if rv == 0:
        stream.sent(p, args, now)
    elif rv == RAFT_TOOBIG and len(args.entries) > 0:
        return _too_big(r, p, server, now, len(args.entries))
    lg = r.log
    if rv != 0 or p.state != PROGRESS__PIPELINE or p.next_index > lg.base + len(lg.bufs):
        return rv
    # I/O code has submitted more.
    return 0 if progress.window_is_full(p, r.max_inflight_bytes) else _send_pipeline(r, p, server, now)


def _too_big(r: Raft, p: RaftProgress, server: RaftServer, now: int, n: int) -> int:
    """Send half of the `n` entries that are too big for one message, as the I/O says (C's never does).

    In place of one entry alone a heartbeat goes out; with each heartbeat the entry is offered again.
    """
    if n > 1 and r.leader_state is not None:
        return _send_pipeline(r, p, server, now, n // 2)
    progress.to_probe(p)
    return _send_entries(r, p, server, now, log.last_index(r.log), log.last_term(r.log), no_entries())


def _send_entries(
    r: Raft, p: RaftProgress, server: RaftServer, now: int, prev_index: int, prev_term: int, entries: EntryBatch
) -> int:
    """Send one AppendEntries and, if io.send takes it, note that."""
    args = RaftAppendEntries()
    args.term = r.current_term
    args.prev_log_index = prev_index
    args.prev_log_term = prev_term
    # 3.5: the commit index, never more of it than the message shows to match: a C server commits all it has stored.
    end = prev_index + len(entries.bufs)
    args.leader_commit = min(r.commit_index, end)
    args.whole = end == log.last_index(r.log)
    args.entries = entries
    return _send(r, p, server, now, args)


def _send(r: Raft, p: RaftProgress, server: RaftServer, now: int, args: RaftAppendEntries) -> int:
    """Send an AppendEntries and, if io.send takes it, note that."""
    message = RaftMessage(RAFT_IO_APPEND_ENTRIES, server.id, server.address)
    message.append_entries = args
    rv = calls.send(r, SendRequest(r, server.id), message, send_entries_cb)
    if rv != 0:
        return rv
    entries = args.entries
    assert isinstance(entries, EntryBatch)
    prev_index = args.prev_log_index
    end = prev_index + len(entries.bufs)
    leader = r.leader_state
    if leader is not None:
        proof.sent(r, leader, p, end)
    if not proof.is_nobodys(r, prev_index):
        if p.state == PROGRESS__PIPELINE:
            progress.sent(p, prev_index, end + 1, log.weight_of(entries))
        elif prev_index > 0 and r.io.features != 0:
            # Over an I/O without features the snapshot is sent again, as in C.
            progress.count(p, prev_index)
    p.last_send = now
    return 0


def send_entries_cb(req: SendRequest, status: int) -> None:
    """An AppendEntries has left or failed; after a failure go back to probing."""
    p = None if status == 0 else _progress_of(req.raft, req.server_id)
    if p is not None:
        progress.to_probe(p)


def _progress_of(r: Raft, server_id: int) -> RaftProgress | None:
    """Return the progress of a server while we lead and it is a member, else None."""
    leader = r.leader_state
    if leader is None:
        return None
    i = configuration.index_of(r.configuration, server_id)
    return leader.progress[i] if i < len(leader.progress) else None


# Snapshots for servers that are too far behind.


def _send_snapshot(r: Raft, p: RaftProgress, server: RaftServer, now: int) -> int:
    progress.to_snapshot(p, log.snapshot_index(r.log))
    rv = calls.snapshot_get(r, SnapshotGetRequest(r, server.id), snapshot_get_cb)
    if rv != 0:
        progress.abort_snapshot(p)
        if not r.failed:
            notice.snapshot_unread(r, server.id, rv)
        return rv
    p.snapshot_last_send = now
    return 0


def snapshot_get_cb(req: SnapshotGetRequest, snapshot: RaftSnapshot | None, status: int) -> None:
    """A snapshot has been read: send it, if it is still wanted. A read that failed is told, and left to the timeout.

    As in C it may have been read for an earlier leadership of ours, if this one waits for a snapshot, too: then two are
    sent. That loses nothing. All that this server has in a snapshot is committed, its configuration too (5.1), and the
    message is one of the leader that we are now. The older of two is acknowledged with its own index, which does not
    pass for the newer one. The second tells nothing new, or is dropped during the other's installation, and sent again.
    """
    r = req.raft
    p = _progress_of(r, req.server_id)
    server = configuration.get(r.configuration, req.server_id)
    if p is None or server is None or p.state != PROGRESS__SNAPSHOT:
        return
    if status != 0:
        notice.snapshot_unread(r, server.id, status)
        return
    if snapshot is None or len(snapshot.bufs) != 1:
        # C: replication.c:sendSnapshotGetCb asserts; an I/O implementation is not ours to assert about.
        calls.fail(r, "io.snapshot_get", ValueError("the snapshot that was read is not in one piece"))
        convert.stop_if_failed(r)
        return
    r.said.unread = ""
    proof.snapshot_read(p, snapshot.index, calls.now(r))
    args = RaftInstallSnapshot()
    args.term = r.current_term
    args.last_index = snapshot.index
    args.last_term = snapshot.term
    # Versions that do not know of C's snapshots with later ones (snapshot.is_due) would not take it.
    args.conf_index = min(snapshot.configuration_index, snapshot.index)
    args.conf = snapshot.configuration
    args.data = snapshot.bufs[0]
    message = RaftMessage(RAFT_IO_INSTALL_SNAPSHOT, server.id, server.address)
    message.install_snapshot = args
    rv = calls.send(r, SendRequest(r, server.id), message, send_snapshot_cb)
    if rv not in (0, RAFT_TOOBIG):
        progress.abort_snapshot(p)
    # A snapshot that is too big for the server counts as sent: it is tried again after the time for installing it.
    if rv == 0:
        progress.snapshot_moves(r, p, calls.now(r))
        notice.snapshot_sent(r, server.id, snapshot.index)
    convert.stop_if_failed(r)


def send_snapshot_cb(req: SendRequest, status: int) -> None:
    """An InstallSnapshot has left or failed; after a failure go back to probing."""
    p = _progress_of(req.raft, req.server_id)
    if p is not None and status == 0:
        progress.snapshot_moves(req.raft, p, calls.now(req.raft))
    elif p is not None:
        progress.abort_snapshot(p)


# Our own disk: the ends of writes.


def append_cb(req: RaftWrite, status: int) -> None:
    """A write of ours, as leader, has ended."""
    r = req.raft
    leader = r.leader_state
    if status == 0 and leader is not None and r.lane and stored.by_leader(r, leader, req):
        commit(r, leader)
        if r.failed:
            convert.stop_if_failed(r)
        return
    r.writes.remove(req)
    if status != 0:
        calls.io_errmsg(r)
        notice.not_stored(r, req.index)
        if req.standing > 0:
            _append_failed(r, req.index, req.standing, status)
    else:
        _append_done(r, req)
    convert.stop_if_failed(r)


def _append_done(r: Raft, req: RaftWrite) -> None:
    writes.update_last_stored(r, req)
    leader = r.leader_state
    if leader is None:
        return
    # 4.2.2: a leader that removes itself leads on until that is committed, but does not count itself.
    own = configuration.index_of(r.configuration, r.id)
    if own < len(leader.progress):
        leader.progress[own].match_index = leader.progress[own].proven_index = r.last_stored
    commit(r, leader)


def _append_failed(r: Raft, index: int, n: int, status: int) -> None:
    """Step down after a failed write of `n` entries from `index` on, and forget them."""
    leader = r.leader_state
    if leader is not None:
        leader.accepting = False
        # Deferred entries come after those that failed: written now, they would take their place on disk.
        leader.deferred_index = 0
        for i in range(index, index + n):
            req = request.take(r, i)
            if req is not None:
                request.finish(r, req, status)
    writes.cut_log(r, index)
    if r.state == RAFT_LEADER or (r.candidate_state is not None and r.snapshot.replacing != 0):
        # Nobody leads whose log is being replaced.
        convert.to_follower(r)
    # C: replication.c:appendLeaderCb leaves the configuration of an entry in force that is gone (B4).
    if r.configuration_uncommitted_index >= index:
        if r.candidate_state is not None:
            # A candidacy under a configuration that is out of force is void.
            convert.to_follower(r)
        membership.rollback(r)


# Changes of the configuration.


def change_is_ready(r: Raft) -> bool:
    """Return whether a change that has been asked for may be appended to the log.

    C: client.c:clientChangeConfiguration and raft_assign do that at once, also on a leader that has committed no entry
    of its own term yet. A change of an earlier leader may then be in force elsewhere, and two changes from one base,
    each on a majority of its own, commit two histories (B46; Ongaro's correction of 2015 to 4.1). All that the only
    voter has stored is committed.
    """
    if r.transfer is not None:
        return False
    return log.term_of(r.log, r.commit_index) == r.current_term or election.is_only_voter(r)


def carry_out_change(r: Raft, leader: LeaderState) -> int:
    """Begin with the change that `leader.change` asks for; a code of io.append leaves everything as it was."""
    change = leader.waiting_change
    assert change is not None
    leader.waiting_change = None
    conf = change.configuration
    i = configuration.index_of(r.configuration, change.promotee_id)
    if change.promotee_id == 0 or leader.progress[i].match_index == log.last_index(r.log):
        return append_configuration(r, leader, conf)
    # 4.2.1: the first catch-up round of a future voter.
    leader.promotee_id = change.promotee_id
    leader.round_number = 1
    leader.round_index = log.last_index(r.log)
    leader.round_start = calls.now(r)
    progress_one(r, i)
    return 0


def carry_out_waiting_change(r: Raft) -> None:
    """If a change waits that is ready now, begin with it; a failure ends it with its callback."""
    leader = r.leader_state
    if leader is None or leader.waiting_change is None or r.failed or not change_is_ready(r):
        return
    flush(r)
    req = leader.change
    if r.leader_state is not leader or leader.waiting_change is None or req is None:
        return
    rv = carry_out_change(r, leader)
    if rv != 0 and leader.change is req:
        leader.change = None
        r.counts.failed += 1
        calls.fire(r, req, rv)


def append_configuration(r: Raft, leader: LeaderState, conf: RaftConfiguration) -> int:
    """Put `conf` in force and append it to the log; a code of io.append leaves everything as it was."""
    old_conf = r.configuration
    old_progress = leader.progress
    index = log.last_index(r.log) + 1
    log.append_configuration(r.log, r.current_term, conf)
    if len(conf.servers) != len(old_conf.servers):
        proof.rebuild(r, leader, old_conf, conf, index)
    r.configuration = conf
    r.configuration_uncommitted_index = index
    if leader.change is not None:
        leader.change.index = index
    notice.configuration_in_force(r, index)
    rv = trigger(r, index)
    if rv != 0 and r.leader_state is leader and r.configuration_uncommitted_index == index:
        # C: client.c:clientChangeConfiguration leaves the new configuration in force, raft_assign the request (B5).
        log.truncate(r.log, index)
        r.configuration = old_conf
        r.configuration_uncommitted_index = 0
        leader.progress = old_progress
        notice.configuration_rolled_back(r, index)
    return rv


def commit(r: Raft, leader: LeaderState) -> None:
    """Commit and apply what a majority has stored by now, then begin with a change that has waited for that."""
    advanced = stored.advance_commit(r, leader)
    if r.last_applied != r.commit_index:
        apply.run(r)
    if advanced:
        if leader.waiting_change is not None:
            carry_out_waiting_change(r)
        if leader.reads.waiting:
            carry_out_reads(r)


# Reads (6.4).


def carry_out_reads(r: Raft) -> None:
    """Begin a round for the reads that wait, if there are any and nothing stands in the way."""
    leader = r.leader_state
    if leader is not None and reads.take_up(r, leader):
        flush(r)
        if r.leader_state is leader and leader.accepting and leader.reads.waiting and not leader.reads.asked:
            reads.begin(r, leader)
            rv = append_read_barrier(r, leader)
            if rv != 0:
                reads.fail_asked(r, leader, rv)


def append_read_barrier(r: Raft, leader: LeaderState) -> int:
    """Have a barrier confirm the round of reads under way; return the code of io.append, or RAFT_SHUTDOWN."""
    leader.reads.barrier = True
    rv = submit_barrier(r, leader, reads.ReadBarrier(r, leader.reads.number), read_barrier_cb)
    if rv != 0:
        leader.reads.barrier = False
    return rv


def read_barrier_cb(req: reads.ReadBarrier, status: int) -> None:
    """The barrier is applied, and so was committed after the round had begun; or the leadership is over."""
    r = req.raft
    leader = r.leader_state
    if status == 0 and leader is not None and reads.barrier_applied(r, leader, req.number, req.index):
        carry_out_reads(r)

"""Configuration changes (chapter 4) and leadership transfer (3.10).

Duty: rules of what may change and when, catch-up rounds of a server that is being promoted (4.2.1), adopting and
rolling back an uncommitted configuration, the life of a transfer request.

Failure modes: RAFT_NOTLEADER, RAFT_CANTCHANGE; the code of io.send for a TimeoutNow; RAFT_MALFORMED for a CHANGE
entry that cannot be decoded.
"""

from collections.abc import Callable
from typing import Final

from pyraft import calls, configuration, log, messages, notice, request
from pyraft.errors import RAFT_CANTCHANGE, RAFT_SHUTDOWN, errmsg_wrap, raft_strerror
from pyraft.state import LeaderState, Raft
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_IO_TIMEOUT_NOW,
    RaftConfiguration,
    RaftEntry,
    RaftIoSend,
    RaftMessage,
    RaftTimeoutNow,
    RaftTransfer,
)

DROP: Final = -(1 << 62)
"""Stands where a code would, and is unlike all codes: the message that is being handled is dropped, which is logged."""


def can_change_configuration(r: Raft) -> int:
    """Return 0 if a change may be submitted, else RAFT_CANTCHANGE or what request.refuse returns."""
    leader = request.taken_by(r)
    if leader is None:
        return request.refuse(r)
    if r.configuration_uncommitted_index != 0 or leader.promotee_id != 0 or leader.waiting_change is not None:
        r.errmsg = raft_strerror(RAFT_CANTCHANGE)
        return RAFT_CANTCHANGE
    assert r.configuration_committed_index > 0
    assert log.last_index(r.log) >= r.configuration_committed_index
    return 0


def committed_entry(r: Raft) -> RaftEntry | None:
    """Return the entry at the index of the configuration committed last, None if it is gone.

    While a leader's snapshot is being installed it is in the log that this snapshot replaces and that may come back.
    """
    lg = r.log if r.snapshot.install is None else r.snapshot.install.former
    return log.get(lg, r.configuration_committed_index)


def fetch_last_committed_configuration(r: Raft) -> tuple[int, RaftConfiguration]:
    """Return (rv, the configuration committed last), from its entry or, if that is gone, from the copy of the last.

    It is empty if none is known to be committed: on a server that started empty, until a leader has told it.
    """
    if r.configuration_committed_index == 0:
        return 0, RaftConfiguration()
    entry = committed_entry(r)
    # Where a failed write has cut it off (writes.cut_log), something else may stand until a leader sends it again.
    if entry is not None and entry.type == RAFT_CHANGE:
        rv, conf, problem = configuration.decode(entry.buf)
        if rv != 0:
            r.errmsg = problem
        return rv, conf
    assert r.configuration_last_snapshot.servers
    return 0, configuration.copy(r.configuration_last_snapshot)


def knows(r: Raft, id: int) -> bool:
    """Return whether server `id` may be a member: it is one, it was before the last change, or nobody is known yet."""
    if not r.configuration.servers or configuration.get(r.configuration, id) is not None:
        return True
    if r.configuration_uncommitted_index == 0:
        return False
    rv, conf = fetch_last_committed_configuration(r)
    return rv != 0 or not conf.servers or configuration.get(conf, id) is not None


def refute(r: Raft, id: int, text: str) -> int:
    """Return what to do about a leader's message that cannot be true, as `text` says.

    RAFT_SHUTDOWN for a member's: a cluster with a member that is wrong must not go on. DROP for a stranger's, as nobody
    has to believe that.
    """
    r.errmsg = text
    return RAFT_SHUTDOWN if knows(r, id) else DROP


def update_catch_up_round(r: Raft, leader: LeaderState) -> bool:
    """Judge the catch-up round of the promotee (4.2.1); return True if it has caught up, else start the next round."""
    i = configuration.index_of(r.configuration, leader.promotee_id)
    match_index = leader.progress[i].match_index
    if match_index < leader.round_index:
        return False
    now = calls.now(r)
    last_index = log.last_index(r.log)
    if match_index == last_index or now - leader.round_start < r.election_timeout:
        leader.round_number = 0
        leader.round_index = 0
        leader.round_start = 0
        return True
    leader.round_number += 1
    leader.round_index = last_index
    leader.round_start = now
    return False


def uncommitted_change(r: Raft, index: int, buf: bytes) -> int:
    """Put the configuration in the CHANGE entry at `index` in force, as uncommitted.

    The one before it is committed, because only one change is under way at a time (start._restore_configuration), also
    if it is not applied yet. C: replication.c:appendFollowerCb finds that out when it applies it, all at once.
    """
    rv, conf, problem = configuration.decode(buf)
    if rv != 0:
        r.errmsg = problem
        return rv
    if r.configuration_uncommitted_index < index:
        r.configuration_committed_index = max(r.configuration_committed_index, r.configuration_uncommitted_index)
    r.configuration = conf
    r.configuration_uncommitted_index = index
    notice.configuration_in_force(r, index)
    return 0


def rollback(r: Raft) -> int:
    """Put the configuration committed last back in force; the uncommitted one's entry is gone.

    On a server that began without a log there may be none: who says so is not of the cluster that gave it the first.
    """
    assert r.configuration_uncommitted_index > 0
    rv, conf = fetch_last_committed_configuration(r)
    if rv != 0:
        return rv
    index = r.configuration_uncommitted_index
    r.configuration = conf
    r.configuration_uncommitted_index = 0
    notice.configuration_rolled_back(r, index)
    return 0


def give_up_committed(r: Raft, index: int) -> int:
    """Put the newest configuration in front of entry `index` in force: a leader cuts off one that counts as committed.

    That one was never applied here; it counted as committed since another one stood behind it in the log
    (uncommitted_change). So this leader's cluster was made by raft_recover, from a log that lacks what this server has,
    and what the former cluster had committed counts no more.
    """
    newest = log.newest_change(r.log, index - 1)
    entry = log.get(r.log, newest)
    conf = r.configuration_last_snapshot
    if entry is not None:
        rv, conf, problem = configuration.decode(entry.buf)
        if rv != 0:
            r.errmsg = problem
            return rv
    r.configuration = configuration.copy(conf)
    r.configuration_committed_index = newest if newest > 0 else min(index - 1, log.snapshot_index(r.log))
    r.configuration_uncommitted_index = 0
    notice.configuration_rolled_back(r, index)
    return 0


def tell(r: Raft) -> None:
    """Tell the I/O who the members are, if that has changed since it was told last.

    This is called at each tick rather than at the many places where configurations change, so that none of them can be
    forgotten. Until the tick the I/O does no worse than C's, which is never told.
    """
    if r.io.configured is None:
        return
    removed = r.said.removed
    if (
        r.told is r.configuration
        and r.told_uncommitted_index == r.configuration_uncommitted_index
        and r.told_removed == removed
    ):
        return
    r.told = r.configuration
    r.told_uncommitted_index = r.configuration_uncommitted_index
    r.told_removed = removed
    servers = list(r.configuration.servers)
    if r.configuration_uncommitted_index != 0 and r.configuration_committed_index != 0:
        # 4.1: a configuration that is not committed may be rolled back.
        rv, before = fetch_last_committed_configuration(r)
        if rv == 0:
            servers += [s for s in before.servers if configuration.get(r.configuration, s.id) is None]
    if removed:
        # It may not have stored the entry that has removed it (see removal).
        servers = [server for server in servers if server.id != r.id]
    calls.configured(r, servers)


def transfer_init(r: Raft, req: RaftTransfer, id: int, cb: Callable[..., None] | None) -> None:
    """Register a transfer to server `id`."""
    req.cb = cb
    req.pending = True
    req.id = id
    req.start = calls.now(r)
    req.send = None
    r.transfer = req
    notice.transfer_begins(r, req)


def transfer_start(r: Raft) -> int:
    """Tell the target, which is up to date, to start an election at once."""
    req = r.transfer
    assert req is not None
    assert req.send is None
    server = configuration.get(r.configuration, req.id)
    assert server is not None
    args = RaftTimeoutNow()
    args.term = r.current_term
    args.last_log_index = log.last_index(r.log)
    args.last_log_term = log.last_term(r.log)
    message = RaftMessage(RAFT_IO_TIMEOUT_NOW, server.id, server.address)
    message.timeout_now = args
    req.send = RaftIoSend()
    rv = messages.send(r, message, req.send)
    if rv != 0 and not r.failed:
        r.errmsg = errmsg_wrap(r.io.errmsg, f"send timeout now to {server.id}")
    return rv


def transfer_close(r: Raft) -> None:
    """End the transfer and call its request back; whether it worked shows in raft_leader."""
    req = r.transfer
    assert req is not None
    r.transfer = None
    if not r.closing:
        notice.transfer_ends(r, req)
    calls.fire_transfer(r, req)

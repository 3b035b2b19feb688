"""Client requests from submission to completion.

Duty: the leader's table of apply and barrier requests, keyed by the index of the entry that each waits for.
Indexes only grow while a server leads, so the table is also in the order of submission.

Happy path: `start` when the entry is appended, `take` when it is applied. Failure modes: the append is refused
(`discard`), its write fails (`take` for each index written), or leadership ends (`fail_all`).
"""

from pyraft import calls, notice
from pyraft.errors import RAFT_LEADERSHIPLOST, RAFT_NOTLEADER
from pyraft.state import LeaderState, Raft
from pyraft.types import RAFT_COMMAND, RaftReadIndex, RaftRequest, RaftTransfer


def taken_by(r: Raft) -> LeaderState | None:
    """Return the leader's state if this server takes requests now, else None: each of them is RAFT_NOTLEADER then.

    C: client.c:raft_apply and the others take them while the leader steps down (B33).
    """
    leader = r.leader_state
    return leader if leader is not None and leader.accepting and r.transfer is None else None


def refuse(r: Raft) -> int:
    """Set errmsg and return why requests are not taken: RAFT_NOTLEADER, or RAFT_SHUTDOWN in a forked child."""
    if r.forked:
        return calls.closed(r)
    r.counts.refused += 1
    r.errmsg = notice.not_leader(r)
    return RAFT_NOTLEADER


def pending(r: Raft) -> list[RaftRequest]:
    """Return all requests that have not been called back: in order of submission, the change, reads, the transfer."""
    leader = r.leader_state
    found = [] if leader is None else list(leader.requests.values())
    if leader is not None and leader.change is not None:
        found.append(leader.change)
    if leader is not None:
        found += [*leader.reads.confirmed, *leader.reads.asked, *leader.reads.waiting]
    if r.transfer is not None:
        found.append(r.transfer)
    return found


def start(leader: LeaderState, req: RaftRequest, type: int, index: int) -> None:
    """Register `req` for the entry at `index`."""
    req.type = type
    req.index = index
    req.pending = True
    leader.requests[index] = req


def take(r: Raft, index: int) -> RaftRequest | None:
    """Remove and return the request of the entry at `index`, None if there is none."""
    leader = r.leader_state
    if leader is None:
        return None
    return leader.requests.pop(index, None)


def discard(leader: LeaderState, index: int) -> bool:
    """Forget the request at `index`, whose submission failed; return False if it has been called back meanwhile."""
    req = leader.requests.pop(index, None)
    if req is None:
        return False
    req.pending = False
    return True


def finish(r: Raft, req: RaftRequest, status: int) -> None:
    """Fire the callback of a request, of any kind, that has come to nothing."""
    if not isinstance(req, (RaftReadIndex, RaftTransfer)):
        r.counts.failed += 1
    if req.type == RAFT_COMMAND:
        calls.fire_apply(r, req, status, None)
    elif isinstance(req, RaftReadIndex):
        calls.fire_read(r, req, status, 0)
    elif isinstance(req, RaftTransfer):
        calls.fire_transfer(r, req)
    else:
        calls.fire(r, req, status)


def fail_all(r: Raft, leader: LeaderState) -> None:
    """Fail what is outstanding with RAFT_LEADERSHIPLOST: requests in order of submission, then the change."""
    for index in list(leader.requests):
        # A callback may close the server, which fails the rest before it goes on.
        req = leader.requests.pop(index, None)
        if req is not None:
            finish(r, req, RAFT_LEADERSHIPLOST)
    change = leader.change
    leader.change = None
    if change is not None:
        r.counts.failed += 1
        calls.fire(r, change, RAFT_LEADERSHIPLOST)

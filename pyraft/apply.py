"""Applying committed entries to the state machine.

Duty: the one place where entries meet the FSM and requests their success. Both paths that raise the commit index,
answers of other servers and completions of our own writes, end here, as do a follower's.

Happy path: for each entry from last_applied+1 to the commit index, in order: the FSM, last_applied, the callback.
Then, if enough has been applied since the last snapshot, the next one is begun.

Failure modes: an FSM error ends the pass and is returned; the next pass starts with the same entry. As in C that is
all, on a leader nobody is called back, so it is logged, once per entry. An entry that is not in memory (a snapshot is
being installed) ends the pass without error.
"""

import logging

from pyraft import calls, configuration, convert, request, snapshot
from pyraft.errors import raft_strerror
from pyraft.state import Raft
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, RAFT_UNAVAILABLE, RAFT_VOTER

_logger = logging.getLogger("pyraft")


def run(r: Raft) -> int:
    """Apply what is committed and not applied yet; return 0 or the code of the FSM."""
    assert r.state != RAFT_UNAVAILABLE
    assert r.last_applied <= r.commit_index
    if r.last_applied == r.commit_index:
        return 0
    rv = 0
    lg = r.log
    # Callbacks may submit entries, install nothing, and close the server; both indexes are read again each time.
    # C: replication.c:replicationApply counts on by itself, and so applies an entry again that a callback's own
    # submission got applied, its write having ended inside io.append.
    while r.last_applied < r.commit_index:
        index = r.last_applied + 1
        slot = index - lg.base - 1
        if index <= lg.offset or slot >= len(lg.bufs):
            return 0
        type = lg.types[slot]
        if type == RAFT_COMMAND:
            rv = _command(r, index, lg.bufs[slot])
            if rv != 0:
                break
        elif type == RAFT_BARRIER:
            _barrier(r, index)
        else:
            assert type == RAFT_CHANGE
            _change(r, index)
    if r.failed or not snapshot.is_due(r):
        return rv
    snapshot_rv = snapshot.take(r)
    # C: replication.c:replicationApply lets the snapshot's code replace the FSM's (B32).
    return rv if rv != 0 else snapshot_rv


def _command(r: Raft, index: int, buf: bytes) -> int:
    rv, result = calls.fsm_apply(r, buf)
    if rv != 0:
        calls.fsm_errmsg(r, rv, f"apply entry {index}")
        _tell_failure(r, index, rv)
        return rv
    r.last_applied = index
    req = request.take(r, index)
    if req is not None:
        assert req.type == RAFT_COMMAND
        calls.fire_apply(r, req, 0, result)
    return 0


def _tell_failure(r: Raft, index: int, rv: int) -> None:
    """Log that fsm.apply returned a code, unless it raised and that has been logged, or it was this entry before."""
    if r.failed or r.stuck_index == index:
        return
    r.stuck_index = index
    _logger.error(
        "fsm.apply of server %d returned %d (%s) for entry %d: the state machine has failed, neither this entry nor "
        "any behind it is applied",
        r.id,
        rv,
        raft_strerror(rv),
        index,
    )


def _barrier(r: Raft, index: int) -> None:
    r.last_applied = index
    req = request.take(r, index)
    if req is not None:
        assert req.type == RAFT_BARRIER
        calls.fire(r, req, 0)


def _change(r: Raft, index: int) -> None:
    """Take note that a configuration is committed, and complete the leader's change."""
    if r.configuration_uncommitted_index == index:
        r.configuration_uncommitted_index = 0
    r.configuration_committed_index = index
    r.last_applied = index
    leader = r.leader_state
    if leader is None:
        return
    req = leader.change
    leader.change = None
    server = configuration.get(r.configuration, r.id)
    if server is None or server.role != RAFT_VOTER:
        # 4.2.2: a leader that is not part of the new configuration steps down once that is committed.
        convert.to_follower(r)
    if req is not None:
        calls.fire(r, req, 0)

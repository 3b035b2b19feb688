"""Applying committed entries to the state machine.

Duty: the one place where entries meet the FSM and requests their success. Both paths that raise the commit index,
answers of other servers and completions of our own writes, end here, as do a follower's.

Happy path: for each entry from last_applied+1 to the commit index, in order: the FSM, last_applied, the callback.
Then, if enough has been applied since the last snapshot, the next one is begun. With an io.later a long backlog is
applied in pieces, and heartbeats, elections and messages go on between them. A machine with an fsm.apply_batch gets
commands that stand side by side in one call, as many as may be applied without a look at the clock.

Failure modes: an FSM error ends the pass and is returned; the next pass starts with the same entry. As in C, a leader's
clients are not called back, so the failure is logged, once per entry. An entry that is not in memory (a snapshot is
being installed) ends the pass without error.
"""

import bisect
import itertools
import logging
from typing import Final

from pyraft import calls, configuration, convert, notice, reads, request, snapshot
from pyraft.errors import raft_strerror
from pyraft.reads import SLICE_MSECS
from pyraft.state import Raft
from pyraft.tracing import TRACE_ERROR, trace
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, RAFT_UNAVAILABLE, RAFT_VOTER

_logger = logging.getLogger("pyraft")

_PAUSE_MSECS: Final = 1
"""The longest pause between two events of one turn of the loop; after a longer one others have had their turn."""

_MAX_STEP: Final = 32
"""At most so many entries are applied without a look at the clock."""

_MAX_BATCH: Final = 128
"""The same for a machine with an fsm.apply_batch: one call has as many commands at most, also if it is slow by now."""

_MAX_BYTES: Final = 64 * 1024
"""At most so many bytes of commands are, the last command not counted: a long one is likely to take long."""


def run(r: Raft) -> int:
    """Apply what is committed and not applied yet, or begin to; return 0 or the code of the FSM.

    C: replication.c:replicationApply applies all of it in one go, however long that takes, and sends no heartbeat and
    reads no message meanwhile. With an io.later a part of it is applied here, and the rest in pieces, between which
    timers and messages have their turn.
    """
    assert r.state != RAFT_UNAVAILABLE
    assert r.last_applied <= r.commit_index
    if r.last_applied == r.commit_index or r.apply.waiting:
        return 0
    r.apply.goal = r.commit_index
    return _run(r, 0)


def resume(r: Raft) -> None:
    """Apply the next part of a backlog, and call back the next reads. io.later runs this."""
    leader = r.leader_state
    if leader is not None and leader.reads.rest:
        reads.deliver_rest(r, leader)
        convert.stop_if_failed(r)
    if not r.apply.waiting or r.state == RAFT_UNAVAILABLE:
        return
    r.apply.waiting = False
    r.apply.ended = 0
    if r.last_applied >= r.apply.goal:
        r.apply.goal = r.commit_index
    if r.last_applied < r.commit_index and _run(r, 1) != 0 and r.follower_state is not None and _is_stuck(r):
        # An FSM's code stops a follower, as in the message that has committed the entry.
        convert.to_unavailable(r)
    convert.stop_if_failed(r)


def _is_stuck(r: Raft) -> bool:
    """Return whether fsm.apply has returned a code for the next entry."""
    return r.stuck_index == r.last_applied + 1


def _run(r: Raft, at_least: int) -> int:
    if r.apply.owed:
        _call_back(r)  # one of these callbacks has called something that applies more
    if r.io.later is None:
        rv = _entries(r, 0, 0)
    else:
        now = calls.now(r)
        if now - r.apply.ended > _PAUSE_MSECS:
            r.apply.began = now
        rv = _entries(r, at_least, now)
        r.apply.ended = calls.now(r)
        if r.apply.ended - r.apply.looked > 1:
            r.apply.step = 1
    leader = r.leader_state
    if leader is not None and leader.reads.confirmed:
        reads.deliver(r, leader)
    if r.failed or r.last_applied - r.log.snapshot.last_index < r.snapshot.threshold:
        return rv
    if not snapshot.is_due(r) or (r.apply.waiting and r.last_applied < r.apply.goal):
        return rv
    snapshot_rv = snapshot.take(r)
    # C: replication.c:replicationApply lets the snapshot's code replace the FSM's (B32).
    return rv if rv != 0 else snapshot_rv


def _entries(r: Raft, at_least: int, now: int) -> int:
    """Apply entries until there are no more, one is not in memory, one fails, or this has taken long enough.

    `now` is the time, where there is an io.later.
    """
    lg = r.log
    # Where to look at the clock next: more and more rarely, as long as that takes next to no time.
    first = r.last_applied + 1
    check = r.last_applied + at_least if r.io.later is not None else -1
    size = 0
    alone = 0
    r.apply.looked = now
    # Callbacks may submit entries, install nothing, and close the server; both indexes are read again each time.
    # C: replication.c:replicationApply counts on by itself, and so applies an entry again that a callback's own
    # submission got applied, its write having ended inside io.append.
    while r.last_applied < r.commit_index and not r.apply.waiting:
        index = r.last_applied + 1
        slot = index - lg.base - 1
        if index <= lg.offset or slot >= len(lg.bufs):
            return 0
        if index > check >= 0:
            if index != first:
                now = calls.now(r)
            if now - r.apply.began >= SLICE_MSECS and _leave_rest(r):
                return 0
            if now - r.apply.looked > 1:
                r.apply.step = 1
            r.apply.looked = now
            size = 0
            check = r.last_applied + r.apply.step
            r.apply.step = min(2 * r.apply.step, _MAX_STEP if r.fsm.apply_batch is None else _MAX_BATCH)
        type = lg.types[slot]
        if type == RAFT_COMMAND:
            if r.fsm.apply_batch is None or index == r.commit_index or index == alone:
                n = 1
                size += len(lg.bufs[slot])
                rv = _command(r, index, lg.bufs[slot])
            else:
                bufs, weight = _side_by_side(r, slot, check, _MAX_BYTES - size)
                n = len(bufs)
                size += weight
                rv = _command(r, index, bufs[0]) if n == 1 else _commands(r, index, bufs)
            if rv != 0:
                if n == 1 or r.failed:
                    return rv
                alone = r.last_applied + 1  # goes to fsm.apply, which tells what is wrong with it, or takes it
            if size >= _MAX_BYTES and check >= 0:
                check = min(check, r.last_applied)
        elif type == RAFT_BARRIER:
            _barrier(r, index)
        else:
            assert type == RAFT_CHANGE
            _change(r, index)
    return 0


def _leave_rest(r: Raft) -> bool:
    """Have the rest applied in a later turn; return False if that cannot be."""
    r.apply.waiting = True
    if calls.later(r, r.resume) != 0:
        # The I/O is being closed, and this server with it, or it has failed.
        r.apply.waiting = False
    return r.apply.waiting or r.failed


def _command(r: Raft, index: int, buf: bytes) -> int:
    rv, result = calls.fsm_apply(r, buf)
    if rv != 0:
        calls.fsm_errmsg(r, rv, f"apply entry {index}")
        _tell_failure(r, index, rv)
        return rv
    r.last_applied = index
    leader = r.leader_state
    req = leader.requests.pop(index, None) if leader is not None else None  # request.take
    if req is not None:
        assert req.type == RAFT_COMMAND
        calls.fire_apply(r, req, 0, result)
    return 0


def _side_by_side(r: Raft, slot: int, check: int, room: int) -> tuple[list[bytes], int]:
    """Return (the commands, from `slot` of the log on, that one call may apply: one at least; their bytes).

    With an io.later all but the last one have less than `room` bytes together; without it 0 stands for their bytes.
    """
    end = r.commit_index if check < 0 else min(r.commit_index, check)
    types = r.log.types[slot : end - r.log.base]
    n = len(types) if types.count(RAFT_COMMAND) == len(types) else _first_other(types)
    bufs = r.log.bufs[slot : slot + n]
    size = sum(map(len, bufs)) if check >= 0 else 0
    if check >= 0 and size > room:
        ends = list(itertools.accumulate(map(len, bufs)))
        n = bisect.bisect_left(ends, room) + 1
        return bufs[:n], ends[n - 1]
    return bufs, size


def _first_other(types: list[int]) -> int:
    return next(n for n, type in enumerate(types) if type != RAFT_COMMAND)


def _commands(r: Raft, index: int, bufs: list[bytes]) -> int:
    """Apply commands that stand side by side by one call, and call back in their order.

    All of them are applied before the first one is called back, and `last_applied` says so: a snapshot that begins in a
    callback has them. If a callback gets more committed, that follows behind the callbacks that are owed. With a code
    those have been applied that stand before the command that it is about.
    """
    rv, results = calls.fsm_apply_batch(r, bufs)
    r.last_applied = index + len(results) - 1
    leader = r.leader_state
    if leader is not None:
        wanted = filter(leader.requests.__contains__, range(index, index + len(results)))
        r.apply.owed.extend([(i, results[i - index]) for i in wanted])
        _call_back(r)
    return rv


def _call_back(r: Raft) -> None:
    """Call back the requests whose commands were applied together, but for those that have failed meanwhile.

    A callback that ends the leadership or closes the server fails all that have not been called back.
    """
    owed = r.apply.owed
    while owed:
        index, result = owed.popleft()
        leader = r.leader_state
        req = leader.requests.pop(index, None) if leader is not None else None  # request.take
        if req is not None:
            assert req.type == RAFT_COMMAND
            calls.fire_apply(r, req, 0, result)


def _tell_failure(r: Raft, index: int, rv: int) -> None:
    """Log a code of fsm.apply, unless it raised, which is logged, or the log has this entry's code already."""
    if r.failed or r.stuck_index == index:
        return
    r.stuck_index = index
    failed = f"returned {rv} ({raft_strerror(rv)}) for entry {index}: the state machine has failed"
    _logger.error("fsm.apply of server %d %s, neither this entry nor any behind it is applied", r.id, failed)
    trace(r.tracer, f"fsm.apply {failed}", TRACE_ERROR)


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
    # A later one may be known to be committed since it was stored (membership.uncommitted_change). C:
    # replication.c:applyChange forgets that, and a rollback then leads back to this one, for good.
    r.configuration_committed_index = max(r.configuration_committed_index, index)
    r.last_applied = index
    notice.configuration_committed(r, index)
    leader = r.leader_state
    if leader is None:
        return
    req = None
    if leader.waiting_change is None:
        req, leader.change = leader.change, None
    server = configuration.get(r.configuration, r.id)
    if server is None or server.role != RAFT_VOTER:
        # 4.2.2: a leader that is not part of the new configuration steps down once that is committed.
        convert.to_follower(r)
    if req is not None:
        calls.fire(r, req, 0)

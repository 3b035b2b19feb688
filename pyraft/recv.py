"""Receiving messages: one entry for all, one module per RPC.

Duty: hand a message to the lane (steady) or to its handler, and turn what comes back into a state: an error makes the
server unavailable. Afterwards, see whether the message has completed a leadership transfer.

Failure modes: messages to an unavailable server, of an unknown type or from a server without an ID are dropped, and so
are, with a line in the log now and then, those whose numbers no honest server can have sent (see plausible).
RAFT_NOCONNECTION from a handler (a reply could not be sent) is not an error.
"""

import logging
from typing import Final

from pyraft import (
    calls,
    convert,
    membership,
    plausible,
    recv_append_entries,
    recv_append_entries_result,
    recv_install_snapshot,
    recv_request_vote,
    recv_request_vote_result,
    recv_timeout_now,
    replicate,
    snapshot,
    steady,
)
from pyraft.errors import RAFT_BUSY, RAFT_NOCONNECTION, raft_strerror
from pyraft.state import Raft
from pyraft.tracing import TRACE_WARN, trace
from pyraft.types import (
    MESSAGE_NAMES,
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_REQUEST_VOTE_RESULT,
    RAFT_IO_TIMEOUT_NOW,
    RAFT_UNAVAILABLE,
    RaftIo,
    RaftMessage,
)

_logger = logging.getLogger("pyraft")

_QUIET_MSECS: Final = 60_000
"""At most one dropped message is logged in so much time: a peer that sends one such can send many."""


def recv_cb(io: RaftIo, message: RaftMessage) -> None:
    """A message has arrived; `io.start` was given this function."""
    r: Raft = io.data
    if r.inside:
        calls.abandoned(r)
    if r.state == RAFT_UNAVAILABLE:
        return
    taken = steady.received(r, message) if r.lane else None
    if taken is not None:
        rv = taken
    else:
        # C: recv.c:recvCb asserts on server 0 in each handler; the ID comes from the network, so drop it.
        if message.server_id <= 0:
            return
        # C: recv.c:recvCb takes any number, and the last term there is leaves none for the next election.
        problem = plausible.problem(r.current_term, message)
        if problem:
            _doubt(r, message, problem)
            return
        rv = _dispatch(r, message)
    if rv == membership.DROP:
        problem, r.errmsg = r.errmsg, ""
        _doubt(r, message, f"its sender is not a member, and {problem}")
    elif rv not in (0, RAFT_NOCONNECTION):
        if r.tracer.enabled:
            trace(r.tracer, f"{MESSAGE_NAMES.get(message.type)}: {raft_strerror(rv)}, stop", TRACE_WARN)
        convert.to_unavailable(r)
        return
    transfer = r.transfer
    # C: recv.c:recvMessage reads the follower's field in any state (B14).
    if transfer is not None and r.state == RAFT_FOLLOWER:
        follower = r.follower_state
        assert follower is not None
        if follower.current_leader.id == transfer.id:
            membership.transfer_close(r)
    if r.failed:
        convert.stop_if_failed(r)


def _doubt(r: Raft, message: RaftMessage, problem: str) -> None:
    """Tell that a message was dropped."""
    name = MESSAGE_NAMES.get(message.type, "message")
    text = f"{name} from server {message.server_id} at {message.server_address} dropped: {problem}"
    trace(r.tracer, text, TRACE_WARN)
    now = calls.now(r)
    if r.doubted_at is None or now - r.doubted_at >= _QUIET_MSECS:
        r.doubted_at = now
        _logger.warning("server %d: %s", r.id, text)


def _recv_late(r: Raft, message: RaftMessage) -> None:
    """Handle an InstallSnapshot that had to wait as if it came now, unless its sender leads no more in its term."""
    follower = r.follower_state
    args = message.install_snapshot
    assert args is not None
    if follower is not None and follower.current_leader.id == message.server_id and r.current_term == args.term:
        recv_cb(r.io, message)


def _dispatch(r: Raft, message: RaftMessage) -> int:
    id = message.server_id
    address = message.server_address
    type = message.type
    if type == RAFT_IO_APPEND_ENTRIES_RESULT and message.append_entries_result is not None:
        # The one message that a busy leader gets all the time; it leaves what is deferred alone.
        return recv_append_entries_result.handle(r, id, message.append_entries_result)
    replicate.flush(r)
    if r.state == RAFT_UNAVAILABLE:
        return 0
    if type == RAFT_IO_APPEND_ENTRIES and message.append_entries is not None:
        return recv_append_entries.handle(r, id, address, message.append_entries)
    if type == RAFT_IO_REQUEST_VOTE and message.request_vote is not None:
        return recv_request_vote.handle(r, id, address, message.request_vote)
    if type == RAFT_IO_REQUEST_VOTE_RESULT and message.request_vote_result is not None:
        return recv_request_vote_result.handle(r, id, message.request_vote_result)
    if type == RAFT_IO_INSTALL_SNAPSHOT and message.install_snapshot is not None:
        rv = recv_install_snapshot.handle(r, id, address, message.install_snapshot)
        if rv == RAFT_BUSY and snapshot.nobody_answers(r, message.install_snapshot.last_index):
            # C: replication.c:replicationInstallSnapshot drops it, and the leader waits for an answer until
            # install_snapshot_timeout (B53).
            r.snapshot.afterwards = lambda: _recv_late(r, message)
        return 0 if rv == RAFT_BUSY else rv
    if type == RAFT_IO_TIMEOUT_NOW and message.timeout_now is not None:
        return recv_timeout_now.handle(r, id, message.timeout_now)
    return 0

"""Replies to AppendEntries and InstallSnapshot, which are the same message.

Duty: build an AppendEntriesResult and send it. Failure modes: the code of io.send is returned; an asynchronous
failure means nothing, the leader will ask again.
"""

from pyraft import calls, flags, messages
from pyraft.state import Raft
from pyraft.types import RAFT_IO_APPEND_ENTRIES_RESULT, RaftAppendEntriesResult, RaftIoSend, RaftMessage


def send(r: Raft, id: int, address: str, rejected: int, last_log_index: int, question: int = 0) -> int:
    """Tell server `id` how its request ended; `rejected` is 0 for success, `question` the number of a question."""
    result = RaftAppendEntriesResult()
    result.term = r.current_term
    result.rejected = rejected
    result.last_log_index = last_log_index
    result.features = flags.DEFAULT_FEATURES | ((flags.PROVEN_ANSWERS | flags.ECHOED_QUESTIONS) & r.io.features)
    result.question = question
    message = RaftMessage(RAFT_IO_APPEND_ENTRIES_RESULT, id, address)
    message.append_entries_result = result
    req = RaftIoSend()
    req.data = r
    rv = calls.send(r, req, message, messages.send_cb)  # messages.send
    if rv != 0:
        calls.io_errmsg(r)
    return rv


def send_to_leader(r: Raft, rejected: int, last_log_index: int) -> None:
    """Tell the leader that is current now, as a disk operation ends; errors are ignored."""
    follower = r.follower_state
    if follower is None:
        return  # closed inside io.time
    leader = follower.current_leader
    if leader.address is None:
        # C: replication.c:sendAppendEntriesResult sends to server 0, which no I/O implementation can reach.
        return
    send(r, leader.id, leader.address, rejected, last_log_index)

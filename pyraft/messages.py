"""Sending messages whose senders do not ask whether they have arrived.

Duty: `send` hands a message to the I/O; replies, vote requests and TimeoutNow use it. AppendEntries and InstallSnapshot
have requests of their own, in replicate, since the leader has to know how their sending ended.

Failure modes: the code of io.send is returned and raft_errmsg left to the caller; a failure that comes later means
nothing, as whoever needs the message asks again.
"""

from pyraft import calls
from pyraft.state import Raft
from pyraft.types import RaftIoSend, RaftMessage


def send(r: Raft, message: RaftMessage, req: RaftIoSend | None = None) -> int:
    """Send a message, with this request or a fresh one, and forget it; return the code of io.send."""
    if req is None:
        req = RaftIoSend()
    req.data = r
    return calls.send(r, req, message, send_cb)


def send_cb(req: RaftIoSend, status: int) -> None:
    """Ignore how the sending ended."""

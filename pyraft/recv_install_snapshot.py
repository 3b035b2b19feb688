"""The InstallSnapshot RPC at its receiver (figure 5.3).

Happy path: as for AppendEntries, then `snapshot.install`; the answer, an AppendEntriesResult, comes when the state
machine is restored, or when all that the snapshot stands for is stored as entries. Failure modes: an older term is
answered with a rejection; RAFT_BUSY, without an answer, while another snapshot is being taken or installed.
"""

from pyraft import log, recv_append_entries, reply, snapshot, term
from pyraft.state import Raft
from pyraft.types import RaftInstallSnapshot


def handle(r: Raft, id: int, address: str, args: RaftInstallSnapshot) -> int:
    """Process an InstallSnapshot from server `id`."""
    rv, match = term.ensure_matching(r, args.term)
    if rv != 0:
        return rv
    if match < 0:
        return reply.send(r, id, address, args.last_index, log.last_index(r.log))
    rv = recv_append_entries.follow(r, id, address)
    if rv != 0:
        return rv
    rv, later, rejected = snapshot.install(r, args)
    if rv == 0 and later:
        r.rejecting_since = None  # The leader is at work (see recovering).
    if rv != 0 or later:
        return rv
    return reply.send(r, id, address, rejected, args.last_index)

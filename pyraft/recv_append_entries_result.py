"""The answer to an AppendEntries or InstallSnapshot, at the leader.

Happy path: `replicate.update`. Failure modes: answers to somebody who no longer leads, of an older term or from a
server that is no member are ignored; a higher term is adopted.
"""

from pyraft import configuration, replicate, term
from pyraft.state import Raft
from pyraft.types import RaftAppendEntriesResult


def handle(r: Raft, id: int, result: RaftAppendEntriesResult) -> int:
    """Process an AppendEntriesResult from server `id`."""
    if r.leader_state is None:
        return 0
    rv, match = term.ensure_matching(r, result.term)
    if rv != 0 or match != 0:
        return rv
    i = configuration.index_of(r.configuration, id)
    if i == len(r.configuration.servers):
        return 0
    return replicate.update(r, i, result)

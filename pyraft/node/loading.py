"""The reading of a member's log at its start, and what has to be in it.

Duty: `Loading` stands before `io.load`, which runs in a thread. In that thread the snapshot with which the state begins
is read ahead. A member whose log is gone does not start: it has made promises that it has forgotten.

Happy path: `Loading(io, identity, replica)`, before the server starts.

Failure modes: with an identity whose log had begun, and nothing in the directory, the load ends with RAFT_CORRUPT, and
`refusal` says what that means. So it does for a snapshot that the program cannot read, as it lacks a class.
"""

from typing import Any

from pyraft import RAFT_CORRUPT, RaftIo
from pyraft.node.errors import Refused
from pyraft.node.identity import MEMBER, NODE_FILE, Directory, Identity
from pyraft.node.replica import Replica


class Loading:
    """See the head of this module."""

    def __init__(self, io: RaftIo, identity: Identity, replica: Replica) -> None:
        """Take the place of `io.load`."""
        self.is_lost = False
        """Whether the log is gone."""
        self._identity = identity
        self._replica = replica
        self._io_load = io.load
        io.load = self._load

    def _load(self, io: RaftIo) -> Any:
        loaded = self._io_load(io)
        rv, _, _, snapshot, _, entries = loaded
        if rv == 0 and self._identity.phase == MEMBER and snapshot is None and len(entries) == 0:
            self.is_lost = True
            return RAFT_CORRUPT, 0, 0, None, 0, entries
        if rv == 0 and snapshot is not None:
            self._replica.prepare(snapshot.bufs[0])
        return loaded

    def refusal(self, directory: Directory) -> Refused | None:
        """Return why the member does not start: its log is gone, or has a snapshot of another program."""
        if self._replica.unreadable:
            return Refused(
                f"the snapshot of member {self._identity.id} in '{directory}' is of another program: it has "
                f"{self._replica.unreadable}. Nothing was changed: start the member with code that has it"
            )
        if not self.is_lost:
            return None
        return Refused(
            f"member {self._identity.id} has lost its log, '{directory}' has its {NODE_FILE} and no entry. It has "
            "stored and promised what is not here any more, so it must not go on under its id: remove the member, "
            "and join as a new one in an empty directory"
        )

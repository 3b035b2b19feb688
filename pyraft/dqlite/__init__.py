"""Members of clusters of dqlite: a Python node among those of canonical/dqlite and go-dqlite.

Duty: `Member` is a node with a role in a cluster that runs: voter without SQL (a witness), stand-by or spare.
`pyraft dqlite witness` starts one from the shell. The bytes are `io_uv.dqlite`'s, whose README has the rest.

    async with Member("data/3", "10.0.0.3:9001", join=["10.0.0.1:9001"]) as member:
        await member.wait_closed()

Failure modes: those of the modules. `Refused` has the reason why a member does not begin.
"""

from pyraft.dqlite.errors import DqliteError, Refused
from pyraft.dqlite.member import Member
from pyraft.dqlite.peer import Peer, find_leader
from pyraft.dqlite.settings import Settings

__all__ = ["DqliteError", "Member", "Peer", "Refused", "Settings", "find_leader"]

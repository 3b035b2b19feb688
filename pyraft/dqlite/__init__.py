"""Clusters of dqlite: a Python node among those of canonical/dqlite and go-dqlite, and a client of them.

Duty: `Member` is a node with a role in a cluster that runs: voter without SQL (a witness), stand-by or spare.
`Replica` is one whose databases other programs read while they change.
`pyraft dqlite witness` starts one from the shell. `Client` runs statements on a database of a cluster, `Cluster`
administers its members. The bytes are `io_uv.dqlite`'s, whose README has the rest.

    async with Member("data/3", "10.0.0.3:9001", join=["10.0.0.1:9001"]) as member:
        await member.wait_closed()

    async with Client(["10.0.0.1:9001"], "shop.db") as client:
        await client.execute("insert into stock values(?, ?)", "apple", 7)

Failure modes: those of the modules. `Refused` has the reason why a member does not begin.
"""

from pyraft.dqlite.client import Client, Table, Transaction
from pyraft.dqlite.cluster import Cluster
from pyraft.dqlite.dialing import dial_upgrade, dialer
from pyraft.dqlite.errors import Aborted, DqliteError, Overrun, Refused, Unavailable, Unknown
from pyraft.dqlite.lxd import LxdTls
from pyraft.dqlite.member import Member
from pyraft.dqlite.peer import Peer, find_leader
from pyraft.dqlite.pool import Addresses, Store
from pyraft.dqlite.publish import Change, Changes
from pyraft.dqlite.replica import Replica
from pyraft.dqlite.session import Statement
from pyraft.dqlite.settings import Settings
from pyraft.dqlite.store import NodeStore
from pyraft.dqlite.tls import dial_tls

__all__ = [
    "Aborted",
    "Addresses",
    "Change",
    "Changes",
    "Client",
    "Cluster",
    "DqliteError",
    "LxdTls",
    "Member",
    "NodeStore",
    "Overrun",
    "Peer",
    "Refused",
    "Replica",
    "Settings",
    "Statement",
    "Store",
    "Table",
    "Transaction",
    "Unavailable",
    "Unknown",
    "dial_tls",
    "dial_upgrade",
    "dialer",
    "find_leader",
]

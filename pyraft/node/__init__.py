"""Machines: what a Python program replicates, as a class with commands and queries.

    from pyraft.node import Machine, command, query

    class Shop(Machine):
        def __init__(self) -> None:
            self.stock: dict[str, int] = {}

        @command
        def take(self, item: str, n: int = 1) -> int:
            if self.stock.get(item, 0) < n:
                raise LookupError(item)        # reaches the caller, changes nothing, stops nobody
            self.stock[item] -= n
            return self.stock[item]

`machine` has the classes, `replica` executes committed entries on them, once per session and number, and takes
snapshots while commands go on; `codec`, `journal`, `tracked` and `containers` are what they stand on. This layer may
import io_uv and asyncio, and nothing of the core imports it.

What is not there yet: a node, that is, what ties a replica to a server, a port and the other members.
"""

from pyraft.node.errors import CommandFailed, Malformed, MissingCommand, NodeError, SessionExpired, Unknown
from pyraft.node.machine import Command, Machine, Query, command, query
from pyraft.node.replica import Replica
from pyraft.node.tracked import Record

__all__ = [
    "Command",
    "CommandFailed",
    "Machine",
    "Malformed",
    "MissingCommand",
    "NodeError",
    "Query",
    "Record",
    "Replica",
    "SessionExpired",
    "Unknown",
    "command",
    "query",
]

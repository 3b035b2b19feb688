"""Machines and nodes: what a Python program replicates, as a class with commands and queries, and what carries it.

    from pyraft.node import Machine, Node, command, query

    class Shop(Machine):
        def __init__(self) -> None:
            self.stock: dict[str, int] = {}

        @command
        def take(self, item: str, n: int = 1) -> int:
            if self.stock.get(item, 0) < n:
                raise LookupError(item)        # reaches the caller, changes nothing, stops nobody
            self.stock[item] -= n
            return self.stock[item]

        @query
        def left(self, item: str) -> int:
            return self.stock.get(item, 0)

    async with Node("data/1", Shop()) as node:     # the directory was made by `init`, once
        await node.machine.take("apple")
        await node.machine.left("apple")

README.md beside this file says what there is and what is not there yet. This layer may import io_uv and asyncio, and
nothing of the core imports it.
"""

from pyraft.node.client import Client, connect
from pyraft.node.council import Member, View
from pyraft.node.errors import (
    CommandFailed,
    Malformed,
    MissingCommand,
    NodeError,
    Refused,
    SessionExpired,
    Stopped,
    Unavailable,
    Unknown,
)
from pyraft.node.founding import init, join
from pyraft.node.handles import Counter, Event, Map, Queue, Set
from pyraft.node.holding import Barrier, Lock, Semaphore
from pyraft.node.identity import Identity
from pyraft.node.machine import Command, Machine, Query, command, query
from pyraft.node.node import Node
from pyraft.node.offer import offer_status
from pyraft.node.recipes import Compacted, Conflict
from pyraft.node.replica import Replica
from pyraft.node.settings import Settings
from pyraft.node.tls import Tls
from pyraft.node.tracked import Record

__all__ = [
    "Barrier",
    "Client",
    "Command",
    "CommandFailed",
    "Compacted",
    "Conflict",
    "Counter",
    "Event",
    "Identity",
    "Lock",
    "Machine",
    "Malformed",
    "Map",
    "Member",
    "MissingCommand",
    "Node",
    "NodeError",
    "Query",
    "Queue",
    "Record",
    "Refused",
    "Replica",
    "Semaphore",
    "SessionExpired",
    "Set",
    "Settings",
    "Stopped",
    "Tls",
    "Unavailable",
    "Unknown",
    "View",
    "command",
    "connect",
    "init",
    "join",
    "offer_status",
    "query",
]

"""The common part of tests of nodes: a machine, loops of both kinds, and directories of members.

Duty: `Shop` is a machine with commands and queries of each kind; `run` gives a scenario a loop, asyncio's or uvloop's,
and a deadline.

Failure modes: a scenario that hangs fails after five minutes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from io_uv import pyuv
from pyraft.node import Machine, Node, Settings, command, init, join, query
from pyraft.node.council import ROLES
from pyraft.node.identity import read
from tests.lib.uvnode import free_addresses

LOOPS = ("asyncio", "uvloop")

QUICK = Settings(heartbeat_msecs=20, election_timeout_msecs=200)
"""Settings of tests that wait for elections. On a busy machine there may be elections that nobody waits for."""

PATIENT = Settings(heartbeat_msecs=20, election_timeout_msecs=10_000)
"""Settings of tests in which only the first node is elected, or one that is given the leadership."""


class Shop(Machine):
    """A stock, by item, and what was noted."""

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}
        self.notes: list[str] = []

    @command
    def put(self, item: str, n: int = 1) -> int:
        """Add to the stock."""
        self.stock[item] = self.stock.get(item, 0) + n
        return self.stock[item]

    @command
    def take(self, item: str, n: int = 1) -> int:
        """Take from the stock, or raise LookupError."""
        if self.stock.get(item, 0) < n:
            raise LookupError(item)
        self.stock[item] -= n
        return self.stock[item]

    @command
    def note(self, text: str) -> int:
        """Keep a text."""
        self.notes.append(text)
        return len(self.notes)

    @command
    def burst(self) -> bytes:
        """Return more than can travel, having noted it."""
        self.notes.append("burst")
        return bytes(5 << 20)

    @query
    def left(self, item: str) -> int:
        """Look at the stock of one item."""
        return self.stock.get(item, 0)

    @query
    def all(self) -> dict[str, int]:
        """Return the stock."""
        return self.stock

    @query
    def spoil(self) -> None:
        """Try to change something, as a query must not."""
        self.stock["spoiled"] = 1


def run(scenario: Callable[[], Coroutine[Any, Any, None]], kind: str = "asyncio") -> None:
    """Run a scenario on a loop of its own."""

    async def main() -> None:
        await asyncio.wait_for(scenario(), 300)

    loop = new_loop(kind)
    try:
        loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a loop of asyncio or of uvloop."""
    if kind == "asyncio":
        return asyncio.new_event_loop()
    owner = pyuv.Loop()
    cls = type(owner._uv)
    owner.close()
    return cls()


async def until(test: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `test()` is true."""

    async def poll() -> None:
        while not test():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), seconds)


async def all_of(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await all of them at once."""
    return list(await asyncio.gather(*awaitables))


class Nodes:
    """A cluster of nodes in this process, on directories below `dir`; `async with` closes them, the leader last.

    By then there is nobody left to hand the leadership to, and so that is not tried.
    """

    def __init__(self, dir: Path, *, settings: Settings = PATIENT) -> None:
        self.dir = dir
        self.settings = settings
        self.addresses = free_addresses(9)
        self.nodes: dict[int, Node[Shop]] = {}

    async def __aenter__(self) -> "Nodes":
        return self

    async def __aexit__(self, *exc: object) -> None:
        for node in sorted(self.nodes.values(), key=lambda node: node._server is not None and node.is_leader):
            if node._ground is not None:  # not closed yet
                await node._close()

    async def start(self, number: int) -> Node[Shop]:
        """Start a node on its directory, made by init (the first) or join where there is none."""
        where = self.dir / str(number)
        if read(where) is None:
            if number == 1:
                await init(where, self.addresses[1])
            else:
                await join(where, self.addresses[number], *[node.address for node in self.nodes.values()])
        node = Node(where, Shop(), settings=self.settings)
        await node.__aenter__()
        self.nodes[number] = node
        return node

    async def grow(self, n: int) -> list[Node[Shop]]:
        """Start nodes 1 to n and wait until all of them vote."""
        for number in range(1, n + 1):
            await self.start(number)
        await until(lambda: all(self.roles(node) == ["voter"] * n for node in self.nodes.values()))
        return [self.nodes[number] for number in range(1, n + 1)]

    def roles(self, node: Node[Shop]) -> list[str]:
        """Return the roles of all members as a node knows them."""
        return [ROLES[server.role] for server in node.server.raft.configuration.servers]

    def leader(self) -> Node[Shop]:
        """Return the node that leads."""
        (node,) = [node for node in self.nodes.values() if node.is_leader]
        return node

    async def leading(self) -> tuple[int, Node[Shop]]:
        """Wait until a node leads, as with QUICK one does most of the time; return its number and itself."""
        while True:
            for number, node in self.nodes.items():
                if node.is_leader:
                    return number, node
            await asyncio.sleep(0.005)

    def followers(self) -> list[Node[Shop]]:
        """Return those that do not lead."""
        return [node for node in self.nodes.values() if not node.is_leader]

    async def vanish(self, number: int) -> None:
        """Close a node without its handing over anything."""
        node = self.nodes.pop(number)
        await node._close()

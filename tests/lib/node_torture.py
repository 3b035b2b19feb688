"""A program with a node, for `tests.fuzzy.torture_nodes`: `python -m tests.lib.node_torture DIR` until SIGTERM.

`Book` is the machine: counters, each increment of which answers what the counter is then, and registers.
"""

import asyncio
import signal
import sys

from pyraft.node import Machine, Node, Settings, command, query

SETTINGS = Settings(heartbeat_msecs=50, election_timeout_msecs=500, snapshot_entries=500, trailing_entries=100)


class Book(Machine):
    """Counters and registers."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.registers: dict[int, int] = {}

    @command
    def add(self, *names: str) -> list[int]:
        """Count up; return what the counters are then."""
        for name in names:
            self.counts[name] = self.counts.get(name, 0) + 1
        return [self.counts[name] for name in names]

    @command
    def put(self, key: int, value: int) -> bool:
        """Set a register."""
        self.registers[key] = value
        return True

    @command
    def cas(self, key: int, expected: int, value: int) -> bool:
        """Set a register if it has a value; return whether it had."""
        if self.registers.get(key, 0) != expected:
            return False
        self.registers[key] = value
        return True

    @query
    def get(self, key: int) -> int:
        """Return a register."""
        return self.registers.get(key, 0)

    @query
    def all(self) -> dict[str, int]:
        """Return the counters."""
        return self.counts


async def main(directory: str) -> None:
    """Be a member until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Node(directory, Book(), settings=SETTINGS) as node:
        await node.ready()
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

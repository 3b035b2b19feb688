"""The counterpart of server.c on pyraft.node: same arguments (settings are ignored), same lines in and out.

A load is a number of tasks, each of which awaits one call after the other, as programs do: `await machine.put(data)`.
A sixth word of `load` has them ask instead: `query`, or `lease` for queries under a lease. Any member takes a load.
"""

import asyncio
import gc
import struct
import sys
import time
from array import array

from io_uv import pyuv
from pyraft import RAFT_VOTER, raft_last_applied, raft_last_index, raft_role, raft_state
from pyraft.node import Machine, Node, NodeError, Settings, command, init, join, query

U64 = struct.Struct("<Q")
SETTINGS = Settings(snapshot_entries=1 << 30, pending_calls=4096)


class Counter(Machine):
    """Counts what is applied."""

    def __init__(self) -> None:
        self.count = 0

    @command
    def put(self, data: bytes) -> None:
        self.count += 1

    @query
    def get(self) -> int:
        return self.count


class Server:
    """A member and the lines it is driven by."""

    def __init__(self, node: "Node[Counter]", addresses: list[str]) -> None:
        self.node = node
        self.addresses = addresses
        self.number = 0
        self.done = self.failed = 0

    async def run(self) -> None:
        """Take lines until `quit`, or the end of them."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            word, *arguments = line.decode().split()
            if word == "quit":
                return
            if word == "load":
                calls, _, size, seconds, entries, *kind = arguments
                await self.load(int(calls), int(size), float(seconds), int(entries), kind[0] if kind else "")
            elif word == "status":
                self.status()

    def status(self) -> None:
        """Say what this member knows; the leader is 0 until it votes itself."""
        raft = self.node.server.raft
        address = self.node.leader[1]
        votes = raft_role(raft) == RAFT_VOTER
        leader = self.addresses.index(address) + 1 if address in self.addresses and votes else 0
        say("status", raft_state(raft), leader, raft_last_index(raft), raft_last_applied(raft), self.node.machine.count)

    async def load(self, calls: int, size: int, seconds: float, entries: int, kind: str) -> None:
        """Keep so many calls outstanding, and measure them."""
        self.done = self.failed = 0
        self.latencies = array("q")
        self.rest = b"\x5a" * (size - 8)
        began = time.perf_counter_ns()
        deadline = began + int(seconds * 1e9)
        limit = self.number + entries if entries else 1 << 62
        with self.node.read(lease=kind == "lease"):
            await asyncio.gather(*[self.caller(deadline, limit, kind != "") for _ in range(calls)])
        took = time.perf_counter_ns() - began
        found = sorted(self.latencies)
        n = len(found)
        p50, p99, most = (found[n // 2], found[n * 99 // 100], found[-1]) if n else (0, 0, 0)
        say("loaded", self.done, took // 1000, p50, p99, most, self.failed, self.number)

    async def caller(self, deadline: int, limit: int, asks: bool) -> None:
        """Make one call after the other."""
        machine, latencies = self.node.machine, self.latencies
        now = time.perf_counter_ns()
        while now < deadline and self.number < limit and not self.failed:
            try:
                if asks:
                    await machine.get()
                else:
                    self.number += 1
                    await machine.put(U64.pack(self.number) + self.rest)
            except NodeError:
                self.failed += 1
                return
            end = time.perf_counter_ns()
            latencies.append(end - now)
            self.done += 1
            now = end
            if asks and self.done % 64 == 0:
                await asyncio.sleep(0)  # a query under a lease waits for nothing


def say(*words: object) -> None:
    """Write a line."""
    print(*words, flush=True)


async def main() -> None:
    """Be a member: the first one makes the cluster, the others join it."""
    dir, id, joined, *_ = sys.argv[1:]
    addresses = joined.split(",")
    own = addresses[int(id) - 1]
    if id == "1":
        await init(dir, own)
    else:
        await join(dir, own, addresses[0], timeout_seconds=60)
    start = time.perf_counter_ns()
    async with Node(dir, Counter(), settings=SETTINGS) as node:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        say("started", (time.perf_counter_ns() - start) // 1000, 0)
        await Server(node, addresses).run()
    say("bye")


if __name__ == "__main__":
    loop = type(pyuv.Loop()._uv)()
    loop.run_until_complete(main())

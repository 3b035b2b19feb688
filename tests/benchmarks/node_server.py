"""The counterpart of server.c on pyraft.node: same arguments (settings are ignored), same lines in and out.

A load is a number of tasks, each of which awaits one call after the other, as programs do: `await machine.put(data)`.
A sixth word of `load` has them ask instead: `query`, or `lease` for queries under a lease. Any member takes a load.
`fill N` puts N items into the machine, `snapshot` has this member take one.
"""

import asyncio
import cProfile
import gc
import os
import struct
import sys
import time
from array import array

from io_uv import pyuv
from pyraft import RAFT_VOTER, metrics, raft_last_applied, raft_last_index, raft_role, raft_state
from pyraft.node import Machine, Node, NodeError, Settings, command, init, join, query
from pyraft.node.operate import Operator

U64 = struct.Struct("<Q")
FILL_ITEMS = 10_000
"""Items of one command."""
WATCH_SECONDS = 0.002
SETTINGS = Settings(snapshot_entries=1 << 30, pending_calls=4096)


class Counter(Machine):
    """Counts what is applied."""

    def __init__(self) -> None:
        self.count = 0
        self.items: dict[int, bytes] = {}

    @command
    def fill(self, first: int, n: int) -> None:
        for i in range(first, first + n):
            self.items[i] = U64.pack(i) * 8

    @command
    def put(self, data: bytes) -> None:
        self.count += 1

    @query
    def get(self) -> int:
        return self.count


class Server:
    """A member and the lines it is driven by."""

    def __init__(self, node: "Node[Counter]", id: int, addresses: list[str]) -> None:
        self.node = node
        self.id = id
        self.addresses = addresses
        self.number = 0
        self.done = self.failed = 0
        self.watching: asyncio.Task[None] | None = None
        self.gaps = Gaps()

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
            elif word == "fill":
                for first in range(0, int(arguments[0]), FILL_ITEMS):
                    await self.node.machine.fill(first, FILL_ITEMS)
                say("fill", len(self.node.machine.items))
            elif word == "snapshot":
                own = self.addresses[self.id - 1]
                async with Operator([own], seconds=300.0) as operator:
                    say("snapshot", await operator.snapshot(own))
            elif word == "stall":
                self.gaps.switch(arguments[0] == "on")
            elif word == "metrics":
                await self.watch(arguments[0] == "on")
                say("metrics", *arguments)

    async def watch(self, on: bool) -> None:
        """Have the node's metrics collected, and read every second, fifteen times as often as usual; or end that."""
        watching, self.watching = self.watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        if on:
            self.watching = asyncio.get_running_loop().create_task(self.scrape())

    async def scrape(self) -> None:
        """Read the metrics as a scrape does."""
        collector = metrics.of(self.node)
        while True:
            await metrics.render(collector)
            await asyncio.sleep(1.0)

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


class Gaps:
    """By how much a timer of the loop is late."""

    def __init__(self) -> None:
        self.found = array("q")
        self.task: asyncio.Task[None] | None = None

    def switch(self, on: bool) -> None:
        """Say the longest and the 99.9th percentile since the last time, in microseconds, and go on or end."""
        found = sorted(self.found)
        say("stall", *((found[-1] // 1000, found[len(found) * 999 // 1000] // 1000) if found else (0, 0)))
        self.found = array("q")
        if self.task is not None:
            self.task.cancel()
        self.task = asyncio.get_running_loop().create_task(self._watch()) if on else None

    async def _watch(self) -> None:
        last = time.perf_counter_ns()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.perf_counter_ns()
            self.found.append(max(now - last - int(WATCH_SECONDS * 1e9), 0))
            last = now


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
        await Server(node, int(id), addresses).run()


if __name__ == "__main__":
    loop = type(pyuv.Loop()._uv)()
    profile = os.environ.get("BENCH_PROFILE")
    if profile:
        cProfile.runctx("loop.run_until_complete(main())", {}, {"loop": loop, "main": main}, f"{profile}.{sys.argv[2]}")
    else:
        loop.run_until_complete(main())
    say("bye")

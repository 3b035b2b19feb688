"""The counterpart of server.c on PySyncObj: same arguments (settings are ignored), same lines in and out.

By default an entry waits up to 100 ms for others. Here each load gets the setting that is best for it: one call at a
time is sent at once, many wait for up to 1 ms. With BENCH_UNBATCHED in the environment nothing ever waits. The journal
is on; PySyncObj never syncs it.
"""

import os
import struct
import sys
import threading
import time
from array import array
from collections import deque
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated

U64 = struct.Struct("<Q")
FOLLOWER, LEADER = 1, 3
POLL_SECONDS = 0.005
IDLE_PERIOD_SECONDS = 0.1
UNBATCHED = "BENCH_UNBATCHED" in os.environ


class Counter(SyncObj):
    """Counts what is applied."""

    def __init__(self, address: str, others: list[str], dir: str) -> None:
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            journalFile=f"{dir}/journal",
            dynamicMembershipChange=False,
            commandsQueueSize=1_000_000,
            # No compaction: without a dump file it would forget entries.
            logCompactionMinEntries=1 << 40,
            logCompactionMinTime=1 << 40,
        )
        self.count = 0
        super().__init__(address, others, conf)

    @replicated  # type: ignore[untyped-decorator]
    def put(self, data: bytes) -> None:
        self.count += 1


class Server:
    """A server and the lines it is driven by."""

    def __init__(self, dir: str, id: int, addresses: list[str]) -> None:
        start = time.perf_counter_ns()
        others = [address for n, address in enumerate(addresses, 1) if n != id]
        self.ids = {address: n for n, address in enumerate(addresses, 1)}
        self.counter = Counter(addresses[id - 1], others, dir)
        self.lines: deque[str] = deque()
        self.number = 0
        self.outstanding = 0
        self.longest = self.last = 0
        self.watching = False
        say("started", (time.perf_counter_ns() - start) // 1000, 0)

    def run(self) -> None:
        threading.Thread(target=self.read, daemon=True).start()
        while True:
            self.counter.doTick(POLL_SECONDS if not self.outstanding else 0.001)
            if self.watching:
                now = time.perf_counter_ns()
                self.longest, self.last = max(self.longest, now - self.last), now
            while self.lines:
                command, *arguments = self.lines.popleft().split()
                if command == "quit":
                    say("bye")
                    return
                getattr(self, command)(*arguments)

    def read(self) -> None:
        for line in sys.stdin:
            self.lines.append(line)
        self.lines.append("quit")

    def status(self) -> None:
        status = self.counter.getStatus()
        leader = self.ids.get(str(status["leader"]), 0) if status["leader"] is not None else 0
        state = LEADER if self.counter._isLeader() else FOLLOWER
        say("status", state, leader, status["log_len"], status["last_applied"], self.counter.count)

    def stall(self, on: str) -> None:
        if on == "on":
            self.longest, self.last = 0, time.perf_counter_ns()
        self.watching = on == "on"
        say("stall", self.longest // 1000, 0)

    def load(self, calls: str, buffers: str, size: str, seconds: str, entries: str) -> None:
        self.batch(1e-3 if int(calls) * int(buffers) > 1 and not UNBATCHED else None)
        self.buffers, self.rest = int(buffers), b"\x5a" * (int(size) - 8)
        self.began = time.perf_counter_ns()
        self.deadline = self.began + int(float(seconds) * 1e9)
        self.limit = self.number + int(entries) if int(entries) else 1 << 62
        self.done = self.failed = 0
        self.latencies = array("q")
        self.outstanding = int(calls) * self.buffers
        for _ in range(self.outstanding):
            self.call(time.perf_counter_ns())

    def batch(self, seconds: float | None) -> None:
        """Let entries wait for others for so long, or not at all; heartbeats follow the same setting."""
        conf = self.counter._SyncObj__conf
        conf.appendEntriesUseBatch = seconds is not None
        conf.appendEntriesPeriod = seconds or IDLE_PERIOD_SECONDS

    def call(self, now: int) -> None:
        if now >= self.deadline or self.number >= self.limit or self.failed:
            self.outstanding -= 1
            if not self.outstanding:
                self.finish()
            return
        self.number += 1

        def applied(result: Any, error: int) -> None:
            end = time.perf_counter_ns()
            self.latencies.append(end - now)
            if error:
                self.failed += 1
            else:
                self.done += 1
            self.call(end)

        self.counter.put(U64.pack(self.number) + self.rest, callback=applied)

    def finish(self) -> None:
        self.batch(IDLE_PERIOD_SECONDS)
        took = time.perf_counter_ns() - self.began
        found = sorted(self.latencies)
        n = len(found)
        p50, p99, most = (found[n // 2], found[n * 99 // 100], found[-1]) if n else (0, 0, 0)
        say("loaded", self.done, took // 1000, p50, p99, most, self.failed, self.number)


def say(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    dir, id, addresses, *_ = sys.argv[1:]
    Server(dir, int(id), addresses.split(",")).run()


if __name__ == "__main__":
    main()

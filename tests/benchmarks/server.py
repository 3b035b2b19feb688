"""The counterpart of server.c on this project: same arguments, same lines in and out (described there)."""

import cProfile
import gc
import os
import struct
import sys
import time
from array import array
from typing import Any

import io_uv
import pyraft
from io_uv import pyuv

U64 = struct.Struct("<Q")
WATCH_SECONDS = 0.002


class Fsm(pyraft.RaftFsm):
    """A count, and as much state as it is told to have."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.count = 0
        # State that does not compress: LZ4 looks back 64 KiB.
        block = os.urandom(min(size, 1 << 20))
        self.state = (block * (size // len(block) + 1))[: max(size - 8, 0)]
        self.version = 3
        self.apply = self.apply_
        self.apply_batch = self.apply_batch_
        self.snapshot = lambda fsm: (0, [])
        self.snapshot_async = self.snapshot_async_
        self.snapshot_finalize = lambda fsm, bufs: 0
        self.restore = self.restore_

    def apply_(self, fsm: Any, buf: bytes) -> tuple[int, None]:
        self.count += 1
        return 0, None

    def apply_batch_(self, fsm: Any, bufs: list[bytes]) -> tuple[int, list[None]]:
        n = len(bufs)
        self.count += n
        return 0, [None] * n

    def snapshot_async_(self, fsm: Any, bufs: Any) -> tuple[int, list[bytes]]:
        return 0, [U64.pack(self.count), self.state]

    def restore_(self, fsm: Any, buf: Any) -> int:
        (self.count,) = U64.unpack_from(buf)
        self.state = buf[8:]
        return 0


class Load:
    """Keeps a number of raft_apply calls outstanding, and measures them."""

    def __init__(self, raft: pyraft.Raft) -> None:
        self.raft = raft
        self.number = 0
        self.running = False

    def start(self, calls: int, buffers: int, size: int, seconds: float, entries: int) -> None:
        self.running = True
        self.buffers, self.size = buffers, size
        self.rest = b"\x5a" * (size - 8)
        self.began = time.perf_counter_ns()
        self.deadline = self.began + int(seconds * 1e9)
        self.limit = self.number + entries if entries else 1 << 62
        self.done = self.failed = 0
        self.outstanding = calls
        self.latencies = array("q")
        for _ in range(calls):
            if self.more(self.began):
                self.call(time.perf_counter_ns())
            else:
                self.outstanding -= 1
        if not self.outstanding:
            self.finish()

    def more(self, now: int) -> bool:
        return now < self.deadline and self.number < self.limit and not self.failed

    def call(self, now: int) -> None:
        number = self.number
        n = min(self.buffers, self.limit - number)
        rest, pack = self.rest, U64.pack
        bufs = [pack(i) + rest for i in range(number + 1, number + n + 1)]
        self.number = number + n

        def applied(req: pyraft.RaftApply, status: int, result: Any) -> None:
            end = time.perf_counter_ns()
            self.latencies.append(end - now)
            if status:
                self.failed += n
            else:
                self.done += n
            if end < self.deadline and self.number < self.limit and not self.failed:
                self.call(end)
                return
            self.outstanding -= 1
            if not self.outstanding:
                self.finish()

        if pyraft.raft_apply(self.raft, pyraft.RaftApply(), bufs, n, applied):
            self.failed += n
            self.number -= n
            self.outstanding -= 1

    def finish(self) -> None:
        took = time.perf_counter_ns() - self.began
        self.running = False
        found = sorted(self.latencies)
        n = len(found)
        p50, p99, most = (found[n // 2], found[n * 99 // 100], found[-1]) if n else (0, 0, 0)
        say("loaded", self.done, took // 1000, p50, p99, most, self.failed, self.number)


class Watch:
    """By how much a timer is late."""

    def __init__(self, loop: pyuv.Loop) -> None:
        self.timer = pyuv.Timer(loop)
        self.last = 0
        self.gaps = array("q")

    def switch(self, on: bool) -> None:
        say("stall", *worst(self.gaps))
        self.gaps = array("q")
        if on:
            self.last = time.perf_counter_ns()
            self.timer.start(self.fire, WATCH_SECONDS, WATCH_SECONDS)
        else:
            self.timer.stop()

    def fire(self, timer: pyuv.Timer) -> None:
        now = time.perf_counter_ns()
        self.gaps.append(max(now - self.last - int(WATCH_SECONDS * 1e9), 0))
        self.last = now


class Server:
    """A server and the lines it is driven by."""

    def __init__(self, dir: str, id: int, addresses: list[str], settings: dict[str, int]) -> None:
        self.loop = pyuv.Loop()
        self.transport = io_uv.RaftUvTransport()
        self.io = pyraft.RaftIo()
        self.raft = pyraft.Raft()
        self.fsm = Fsm(settings.pop("state", 64))
        check(io_uv.raft_uv_tcp_init(self.transport, self.loop), "raft_uv_tcp_init")
        check(io_uv.raft_uv_init(self.io, self.loop, dir, self.transport), self.io.errmsg)
        rv = pyraft.raft_init(self.raft, self.io, self.fsm, id, addresses[id - 1])
        check(rv, pyraft.raft_errmsg(self.raft))
        pyraft.raft_set_snapshot_threshold(self.raft, 1 << 30)
        for name, value in settings.items():
            self.set(name, value)
        if not os.path.exists(os.path.join(dir, "metadata1")):
            self.bootstrap(addresses)
        start = time.perf_counter_ns()
        check(pyraft.raft_start(self.raft), pyraft.raft_errmsg(self.raft))
        took = time.perf_counter_ns() - start
        self.load = Load(self.raft)
        self.watch = Watch(self.loop)
        # README.md recommends this to programs of their own: no collection of what start-up has made.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        say("started", took // 1000, pyraft.raft_last_index(self.raft))
        self.rest = b""
        self.input = pyuv.Pipe(self.loop)
        self.input.open(0)
        self.input.start_read(self.read)

    def set(self, name: str, value: int) -> None:
        calls = {
            "threshold": pyraft.raft_set_snapshot_threshold,
            "trailing": pyraft.raft_set_snapshot_trailing,
            "election": pyraft.raft_set_election_timeout,
            "heartbeat": pyraft.raft_set_heartbeat_timeout,
        }
        if name == "segment":
            io_uv.raft_uv_set_segment_size(self.io, value)
        else:
            calls[name](self.raft, value)

    def bootstrap(self, addresses: list[str]) -> None:
        conf = pyraft.RaftConfiguration()
        for n, address in enumerate(addresses, 1):
            check(pyraft.raft_configuration_add(conf, n, address, pyraft.RAFT_VOTER), address)
        check(pyraft.raft_bootstrap(self.raft, conf), pyraft.raft_errmsg(self.raft))

    def read(self, pipe: pyuv.Pipe, data: bytes | None, error: int | None) -> None:
        if data is None:
            self.quit()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.execute(*line.decode().split())

    def execute(self, command: str, *arguments: str) -> None:
        if command == "load":
            calls, buffers, size, seconds, entries = arguments
            self.load.start(int(calls), int(buffers), int(size), float(seconds), int(entries))
        elif command == "status":
            raft = self.raft
            leader, _ = pyraft.raft_leader(raft)
            last, applied = pyraft.raft_last_index(raft), pyraft.raft_last_applied(raft)
            say("status", pyraft.raft_state(raft), leader, last, applied, self.fsm.count)
        elif command == "stall":
            self.watch.switch(arguments[0] == "on")
        elif command == "quit":
            self.quit()

    def quit(self) -> None:
        if not self.input.closed:
            self.input.close()
            self.watch.timer.close()
            pyraft.raft_close(self.raft, self.closed)

    def closed(self, raft: pyraft.Raft) -> None:
        io_uv.raft_uv_close(self.io)
        io_uv.raft_uv_tcp_close(self.transport)


def worst(gaps: "array[int]") -> tuple[int, int]:
    """The longest and the 99.9th percentile of some times in nanoseconds, in microseconds."""
    found = sorted(gaps)
    return (found[-1] // 1000, found[len(found) * 999 // 1000] // 1000) if found else (0, 0)


def say(*words: object) -> None:
    print(*words, flush=True)


def check(rv: int, text: str) -> None:
    if rv:
        raise SystemExit(f"{pyraft.raft_strerror(rv)}: {text}")


def main() -> None:
    dir, id, addresses, *settings = sys.argv[1:]
    pairs = (setting.split("=") for setting in settings)
    server = Server(dir, int(id), addresses.split(","), {name: int(value) for name, value in pairs})
    profile = os.environ.get("BENCH_PROFILE")
    if profile:
        cProfile.runctx("server.loop.run()", {}, {"server": server}, f"{profile}.{id}")
    else:
        server.loop.run()
    say("bye")


if __name__ == "__main__":
    main()

"""Servers as processes: started, driven by lines (see server.c), measured from /proc, killed."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

LEADER = 3
DEADLINE_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A server did not do what it should."""


class Overloaded(Failed):
    """Calls failed under a load: the leader has lost its leadership."""


@dataclass(frozen=True)
class Side:
    """One of the implementations that are compared."""

    name: str
    program: list[str]
    """The command to run, before DIR ID ADDRESSES."""
    environment: dict[str, str] = field(default_factory=dict)
    journal: str = "raft"
    """The format that it leaves on disk: "raft" (libraft's), "node" (that with pyraft.node's entries), "pysyncobj"."""
    syncs: bool = True
    """Whether it promises that what it has acknowledged is on disk."""


@dataclass(frozen=True)
class Loaded:
    """The answer to a load."""

    entries: int
    seconds: float
    p50: float
    p99: float
    longest: float
    """Latencies of calls in seconds."""
    failed: int
    last: int
    """Number of the last entry."""


@dataclass(frozen=True)
class Status:
    """The answer to a status line."""

    state: int
    leader: int
    last: int
    applied: int
    count: int


def free_ports(n: int) -> list[int]:
    """TCP ports on 127.0.0.1 that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class Process:
    """A server."""

    def __init__(self, side: Side, dir: Path, id: int, addresses: list[str], settings: dict[str, int]) -> None:
        dir.mkdir(parents=True, exist_ok=True)
        self.dir = dir
        self.id = id
        self.stderr = dir.parent / f"{dir.name}.stderr"
        words = [f"{name}={value}" for name, value in settings.items()]
        with self.stderr.open("ab") as stderr:
            self.popen = subprocess.Popen(
                [*side.program, str(dir), str(id), ",".join(addresses), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | side.environment,
            )
        self.pid = self.popen.pid
        self._rest = b""

    def send(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def expect(self, word: str, seconds: float = DEADLINE_SECONDS) -> list[str]:
        """The words after `word` of the next line, which has to begin with it."""
        assert self.popen.stdout is not None
        fd = self.popen.stdout.fileno()
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            if not data:
                what = "is late with" if not ready else "ended before"
                raise Failed(f"server {self.id} {what} {word!r}: {self.stderr.read_text()[-2000:]}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        words = line.decode().split()
        if words[0] != word:
            raise Failed(f"server {self.id} said {line!r} instead of {word!r}")
        return words[1:]

    def status(self) -> Status:
        self.send("status")
        return Status(*map(int, self.expect("status")))

    def load(self, calls: int, buffers: int, size: int, seconds: float, entries: int = 0, kind: str = "") -> Loaded:
        """Keep `calls` calls of `buffers` entries of `size` bytes outstanding (see server.c); wait for the end.

        `kind` is for pyraft.node only (see node_server.py).
        """
        self.send(f"load {calls} {buffers} {size} {seconds} {entries} {kind}".rstrip())
        return self.loaded(seconds)

    def loaded(self, seconds: float = 0.0) -> Loaded:
        words = self.expect("loaded", seconds + DEADLINE_SECONDS)
        done, micros, p50, p99, longest, failed, last = map(int, words)
        return Loaded(done, micros / 1e6, p50 / 1e9, p99 / 1e9, longest / 1e9, failed, last)

    def stall(self, on: bool) -> tuple[float, float]:
        """Begin or end to watch for stalls of the loop; the longest and the 99.9th percentile, in seconds."""
        self.send(f"stall {'on' if on else 'off'}")
        longest, p999 = self.expect("stall")
        return int(longest) / 1e6, int(p999) / 1e6

    def metrics(self, on: bool) -> None:
        """Have metrics collected and read every second, or not (pyraft.node only)."""
        self.send(f"metrics {'on' if on else 'off'}")
        self.expect("metrics")

    def cpu(self) -> float:
        """Seconds of CPU that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def cpu_exact(self) -> float:
        """The same from the scheduler's own clock, in nanoseconds' resolution, summed over the threads."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(FileNotFoundError):
                total += int(Path(f"/proc/{self.pid}/task/{task}/schedstat").read_text().split()[0])
        return total / 1e9

    def written(self) -> int:
        """Bytes that the process has had written to a disk (0 on tmpfs)."""
        for line in Path(f"/proc/{self.pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
        return 0

    def memory(self) -> int:
        """Resident bytes."""
        return self._status("VmRSS:")

    def most(self) -> int:
        """The most resident bytes that there ever were."""
        return self._status("VmHWM:")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        return 0

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def quit(self) -> None:
        """Stop cleanly."""
        self.send("quit")
        self.expect("bye")
        self.kill()


class Cluster:
    """Servers of one side in one directory."""

    def __init__(self, side: Side, root: Path, n: int, **settings: int) -> None:
        self.side = side
        self.root = root
        self.settings = settings
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(n)]
        self.processes: dict[int, Process] = {}
        self.started: dict[int, float] = {}
        """Seconds that raft_start took, by server."""
        self.acknowledged = 0
        """Number of the last entry that was acknowledged."""

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        shutil.rmtree(self.root, ignore_errors=True)

    def start(self, *ids: int) -> None:
        """Start the servers of these ids, or all."""
        wanted = ids or range(1, len(self.addresses) + 1)
        for id in wanted:
            dir = self.root / str(id)
            self.processes[id] = Process(self.side, dir, id, self.addresses, self.settings)
        for id in wanted:
            self.started[id] = int(self.processes[id].expect("started")[0]) / 1e6

    def until(self, what: str, test: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
        """Ask until test() holds."""
        end = time.monotonic() + seconds
        while not test():
            if time.monotonic() > end:
                raise Failed(f"{self.side.name}: waited {seconds:.0f} s for {what}")
            time.sleep(0.02)

    def leader(self) -> Process:
        """The leader, once all running servers know it."""
        found: list[Process] = []

        def known() -> bool:
            statuses = {id: process.status() for id, process in self.processes.items()}
            leaders = {status.leader for status in statuses.values()}
            leading = [id for id, status in statuses.items() if status.state == LEADER]
            if len(leading) == 1 and leaders == set(leading):
                found.append(self.processes[leading[0]])
            return bool(found)

        self.until("a leader", known)
        return found[0]

    def load(self, calls: int, buffers: int, size: int, seconds: float, entries: int = 0) -> Loaded:
        """Load through the leader; every call has to succeed."""
        loaded = self.leader().load(calls, buffers, size, seconds, entries)
        return self.note(loaded)

    def note(self, loaded: Loaded) -> Loaded:
        """Remember what was acknowledged."""
        if loaded.failed:
            raise Overloaded(f"{self.side.name}: {loaded.failed} entries failed")
        self.acknowledged = loaded.last
        return loaded

    def settle(self) -> None:
        """Wait until all running servers have applied the same entries."""
        self.until("the followers", lambda: len({p.status().count for p in self.processes.values()}) == 1)

    def total(self, measure: Callable[[Process], float]) -> float:
        return sum(measure(process) for process in self.processes.values())

    def kill(self, id: int) -> None:
        self.processes.pop(id).kill()

    def kill_all(self) -> None:
        for process in self.processes.values():
            process.popen.send_signal(signal.SIGKILL)
        for id in list(self.processes):
            self.kill(id)

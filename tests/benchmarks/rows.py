"""The rows of the comparison: each starts servers, loads them and measures.

A row is measured for one side at a time, in directories of its own. `Group`s are rows that one running cluster serves
one after the other. Each measurement ends with all servers killed and `verify.check`.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import verify
from tests.benchmarks.processes import Cluster, Failed, Overloaded, Process, Side

Values = dict[str, float]
"""Metric to value. Times are in seconds, sizes in bytes."""

RECORDS = 200_000
"""Entries in the log for the rows on start-up and memory."""
STATE_BYTES = 256 * 1024 * 1024
FAILOVERS = 7
"""Kills of a leader for one value of the row on that."""
SAMPLE = 50_000
"""Entries whose cost is measured for the row on growth."""
ITEMS = 1_000_000
"""Items in a machine for the row on its snapshots."""
TURNS = 40
"""Pairs of loads for the row on the cost of metrics."""
WARM_SECONDS = 0.3
ATTEMPTS = 3


@dataclass(frozen=True)
class Options:
    """The settings of the command line."""

    seconds: float
    places: dict[str, Path]
    """Directory for each kind of file system."""


@dataclass(frozen=True)
class Row:
    """A line of the table. `lead` names its first metric, by which sides are compared; less is better for some."""

    name: str
    lead: str
    measure: Callable[[Cluster, Options], Values] | None = None


@dataclass(frozen=True)
class Group:
    """Rows that are measured one after the other on one cluster."""

    name: str
    rows: tuple[Row, ...]
    place: str
    servers: int
    settings: tuple[tuple[str, int], ...] = ()
    run: Callable[["Group", Side, Path, Options, list[Row]], dict[str, Values]] | None = None


def load_row(name: str, lead: str, calls: int, size: int, buffers: int = 1) -> Row:
    """Throughput, latency, CPU and bytes written per entry, under a closed loop."""

    def measure(cluster: Cluster, options: Options) -> Values:
        cluster.load(calls, buffers, size, WARM_SECONDS)
        cpu, written = cluster.total(Process.cpu_exact), cluster.total(Process.written)
        loaded = cluster.load(calls, buffers, size, options.seconds)
        cpu = cluster.total(Process.cpu_exact) - cpu
        written = cluster.total(Process.written) - written
        entries = max(loaded.entries, 1)
        return {
            "throughput": loaded.entries / loaded.seconds,
            "p50": loaded.p50,
            "p99": loaded.p99,
            "cpu": cpu / entries,
            "written": written / entries,
        }

    return Row(name, lead, measure)


def load_group(servers: int, place: str) -> Group:
    """W = 1, 64, 1024, entries of 64 and 4096 bytes; and 64 entries per call."""
    title = f"{servers} server{'s' if servers > 1 else ''}, {place}"
    rows = []
    for size, label in ((64, "64 B"), (4096, "4 KiB")):
        for calls in (1, 64, 1024):
            lead = "p50" if calls == 1 else "throughput"
            rows.append(load_row(f"{title}, {label}, W={calls}", lead, calls, size))
    rows.append(load_row(f"{title}, 64 B, 64 per call, W=16", "throughput", 16, 64, buffers=64))
    return Group(f"load-{servers}-{place}", tuple(rows), place, servers)


def snapshot_group(place: str) -> Group:
    """A snapshot of 1 MB every 1024 entries."""
    row = load_row(f"3 servers, {place}, 64 B, W=64, 1 MB snapshots", "throughput", 64, 64)
    settings = (("threshold", 1024), ("trailing", 128), ("state", 1_000_000))
    return Group(f"snapshots-3-{place}", (row,), place, 3, settings)


def node_row(name: str, lead: str, calls: int, follower: bool = False, kind: str = "") -> Row:
    """Calls or queries of pyraft.node alone, on the leader or on a follower."""

    def measure(cluster: Cluster, options: Options) -> Values:
        leader = cluster.leader()
        others = [process for process in cluster.processes.values() if process is not leader]
        process = others[0] if follower else leader
        process.load(calls, 1, 64, WARM_SECONDS, kind=kind)
        loaded = process.load(calls, 1, 64, options.seconds, kind=kind)
        if loaded.failed:
            raise Overloaded(f"{cluster.side.name}: {loaded.failed} calls failed")
        return {"throughput": loaded.entries / loaded.seconds, "p50": loaded.p50, "p99": loaded.p99}

    return Row(name, lead, measure)


def node_group(place: str) -> Group:
    """The things that only pyraft.node has: calls on a follower, queries, and queries under a lease."""
    title = f"pyraft.node, 3 members, {place}"
    rows = (
        node_row(f"{title}, on a follower, W=1", "p50", 1, follower=True),
        node_row(f"{title}, on a follower, W=64", "throughput", 64, follower=True),
        node_row(f"{title}, on the leader, W=1024", "throughput", 1024),
        node_row(f"{title}, queries on the leader, W=1024", "throughput", 1024, kind="query"),
        node_row(f"{title}, queries under a lease, W=1024", "throughput", 1024, kind="lease"),
    )
    return Group(f"nodes-3-{place}", rows, place, 3)


def run_loads(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """Measure rows on one cluster."""
    results: dict[str, Values] = {}
    left = list(rows)
    attempts = 0
    while left:
        with Cluster(side, root / str(attempts), group.servers, **dict(group.settings)) as cluster:
            cluster.start()
            cluster.leader()
            try:
                while left:
                    assert left[0].measure is not None
                    results[left[0].name] = left[0].measure(cluster, options)
                    left.pop(0)
            except Overloaded:
                # The leader lost its leadership under the load. Twice more, then the row is given up.
                attempts += 1
                if attempts % ATTEMPTS == 0:
                    print(f"{side.name} does not hold {left.pop(0).name}", file=sys.stderr)
                continue
            verify.check(cluster)
    return results


def run_records(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """200,000 entries of 64 bytes in the log: the servers' memory, then the time that raft_start takes to load them."""
    with Cluster(side, root, 3) as cluster:
        cluster.start()
        cluster.load(256, 1, 64, 600.0, RECORDS)
        cluster.settle()
        memory = statistics.median(process.memory() for process in cluster.processes.values())
        cluster.kill_all()
        began = time.monotonic()
        cluster.start(1)  # alone: the others would share its processors
        whole = time.monotonic() - began
        start = cluster.started[1]
        cluster.start(2, 3)
        cluster.leader()
        cluster.settle()
        verify.check(cluster)
    return {rows[0].name: {"start": start, "process": whole}, rows[1].name: {"memory": memory}}


def run_failover(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """Time from a SIGKILL of the leader to the first commit by the next one: the median of some kills in a row."""
    with Cluster(side, root, 3) as cluster:
        cluster.start()
        cluster.note(cluster.leader().load(16, 1, 64, 0.2))
        number = cluster.acknowledged
        times = []
        # PySyncObj does not count again what it finds in its journal, so nobody can tell when it has caught up.
        for _ in range(FAILOVERS if side.syncs else 1):
            leader = cluster.leader()
            cluster.settle()
            times.append(_failover(cluster, leader))
            cluster.start(leader.id)
        # The new leaders counted from 1: what matters is that the first one's entries are there.
        cluster.acknowledged = number
        verify.check(cluster)
    return {rows[0].name: {"failover": statistics.median(times), "longest": max(times)}}


def _failover(cluster: Cluster, leader: Process) -> float:
    """Kill the leader and load the next one as soon as there is one."""
    began = time.monotonic()
    cluster.kill(leader.id)
    while True:
        leading = [p for p in cluster.processes.values() if p.status().state == 3]
        if leading:
            loaded = leading[0].load(1, 1, 64, 5.0, 1)
            if not loaded.failed:
                return time.monotonic() - began
        if time.monotonic() > began + 60:
            raise Failed(f"{cluster.side.name}: no leader a minute after the kill")
        time.sleep(0.002)


def run_idle(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """CPU of the leader of three with nothing to do, as a fraction of a core."""
    with Cluster(side, root, 3) as cluster:
        cluster.start()
        leader = cluster.leader()
        time.sleep(0.5)
        cpu, began = leader.cpu_exact(), time.monotonic()
        time.sleep(max(options.seconds, 3.0))
        used = (leader.cpu_exact() - cpu) / (time.monotonic() - began)
    return {rows[0].name: {"idle": used}}


def run_stalls(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """The longest time that the leader's loop stood still while it took a snapshot of 256 MiB under a light load, and a
    follower's while it installed that.
    """
    threshold = 2000
    with Cluster(side, root, 3, threshold=threshold, trailing=16, state=STATE_BYTES) as cluster:
        cluster.start(1, 2)
        leader = cluster.leader()
        leader.stall(True)
        leader.send(f"load 4 1 64 600 {threshold + 500}")

        def snapshot_of(id: int) -> bool:
            return any(path.suffix == ".meta" for path in (cluster.root / str(id)).glob("snapshot-*"))

        cluster.note(leader.loaded(600.0))
        cluster.until("the snapshot", lambda: snapshot_of(leader.id), 120.0)
        take, _ = leader.stall(False)
        cluster.start(3)
        follower = cluster.processes[3]
        follower.stall(True)
        leader.stall(True)
        count = leader.status().count
        cluster.until("the installation", lambda: follower.status().count >= count, 120.0)
        (install, _), (send, _) = follower.stall(False), leader.stall(False)
        verify.check(cluster)
    return {rows[0].name: {"stall": take}, rows[1].name: {"stall": install, "sender": send}}


def run_pauses(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """How late the leader's loop is under a steady load: the 99.9th percentile and the longest."""
    with Cluster(side, root, 3) as cluster:
        cluster.start()
        leader = cluster.leader()
        cluster.load(64, 1, 64, WARM_SECONDS)
        leader.stall(True)
        cluster.load(64, 1, 64, max(options.seconds, 5.0))
        longest, p999 = leader.stall(False)
        verify.check(cluster)
    return {rows[0].name: {"p999": p999, "stall": longest}}


def run_metrics(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """The cost of metrics that are collected and read every second, W=64: loads with and without take turns on one
    cluster, and each is compared with its neighbour.
    """
    throughputs, costs = [], []
    with Cluster(side, root, 3) as cluster:
        cluster.start()
        leader = cluster.leader()
        leader.load(64, 1, 64, WARM_SECONDS)

        def sample(on: bool) -> tuple[float, float]:
            for process in cluster.processes.values():
                process.metrics(on)
            cpu = cluster.total(Process.cpu_exact)
            loaded = leader.load(64, 1, 64, options.seconds)
            if loaded.failed:
                raise Overloaded(f"{side.name}: {loaded.failed} calls failed")
            return loaded.entries / loaded.seconds, (cluster.total(Process.cpu_exact) - cpu) / loaded.entries

        for turn in range(TURNS):
            pair = [sample(on) for on in ((False, True) if turn % 2 else (True, False))]
            without, beside = pair if turn % 2 else reversed(pair)
            throughputs.append(1 - beside[0] / without[0])
            costs.append(beside[1] / without[1] - 1)
    low, lost, high = statistics.quantiles(throughputs, n=4)
    # A quarter of the pairs is below and one above: what the machine does by itself between two neighbours.
    return {rows[0].name: {"lost": lost, "lost low": low, "lost high": high, "more cpu": statistics.median(costs)}}


def run_items(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """The longest time that a node's loop stood still while it took a snapshot of 1,000,000 items of 64 bytes, and
    its memory without items, with them, and at the most.
    """
    with Cluster(side, root, 1) as cluster:
        cluster.start()
        leader = cluster.leader()
        empty = leader.memory()
        leader.send(f"fill {ITEMS}")
        leader.expect("fill", 300.0)
        full = leader.memory()
        leader.load(4, 1, 64, WARM_SECONDS)
        leader.stall(True)
        leader.send("snapshot")
        leader.expect("snapshot", 300.0)
        longest, p999 = leader.stall(False)
        values = {
            "stall": longest,
            "p999": p999,
            "memory empty": empty,
            "memory": full,
            "memory at most": leader.most(),
        }
    return {rows[0].name: values}


def run_growth(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """The cost of an entry with 1,000,000 in the log, in terms of what it cost with 1,000."""

    def sample(cluster: Cluster) -> float:
        cpu = cluster.total(Process.cpu_exact)
        cluster.load(64, 1, 64, 60.0, SAMPLE)
        return (cluster.total(Process.cpu_exact) - cpu) / SAMPLE

    with Cluster(side, root, 1) as cluster:
        cluster.start()
        cluster.leader()
        cluster.load(64, 1, 64, 60.0, 1000)
        early = sample(cluster)
        cluster.load(64, 64, 64, 600.0, 1_000_000)
        late = sample(cluster)
        verify.check(cluster)
    return {rows[0].name: {"growth": late / early, "cpu": late}}


def groups() -> list[Group]:
    """All groups, in the order of the table."""
    loads = [load_group(servers, place) for place in ("ext4", "tmpfs") for servers in (1, 3)]
    start = Row("raft_start with 200,000 entries", "start")
    memory = Row("memory with 200,000 entries", "memory")
    take = Row("longest stall of the loop, 256 MiB snapshot taken", "stall")
    install = Row("longest stall of the loop, 256 MiB snapshot installed", "stall")
    return [
        *loads,
        node_group("ext4"),
        snapshot_group("ext4"),
        Group("records", (start, memory), "ext4", 3, run=run_records),
        Group("failover", (Row("leader killed to next commit", "failover"),), "ext4", 3, run=run_failover),
        Group("idle", (Row("idle leader of three", "idle"),), "ext4", 3, run=run_idle),
        Group(
            "metrics", (Row("pyraft.node, 3 members, ext4, W=64, lost by metrics", "lost"),), "ext4", 3, run=run_metrics
        ),
        Group(
            "items",
            (Row("longest stall of a node's loop, snapshot of 1,000,000 items", "stall"),),
            "ext4",
            1,
            run=run_items,
        ),
        Group("pauses", (Row("lateness of the leader's loop, W=64, p99.9", "p999"),), "ext4", 3, run=run_pauses),
        Group(
            "growth", (Row("cost of an entry, 1,000,000 to 1,000 in the log", "growth"),), "tmpfs", 1, run=run_growth
        ),
        Group("stalls", (take, install), "ext4", 3, run=run_stalls),
    ]


def applies(side: Side, group: Group, row: Row) -> bool:
    """Whether a side has a counterpart of a row."""
    if side.journal == "node":
        return group.name.startswith(("nodes-3", "load-3", "metrics", "items")) and "per call" not in row.name
    if group.name.startswith(("nodes", "metrics", "items")):
        return False
    if side.journal == "raft":
        return True
    return group.name not in ("snapshots-3-ext4", "stalls", "pauses", "growth") and "per call" not in row.name


def measure(group: Group, side: Side, root: Path, options: Options, rows: list[Row]) -> dict[str, Values]:
    """Measure rows of a group for a side once."""
    return (group.run or run_loads)(group, side, root, options, rows)

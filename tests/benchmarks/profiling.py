"""Where the time goes: `make profile`, or `python -m tests.benchmarks.profiling --help`.

Runs one load on a cluster of this project twice: as it is, for CPU, system calls and context switches per entry; then
under cProfile, whose times are inflated but whose proportions and call counts tell what to look at. The calls per entry
are what to compare before and after a change on a busy machine.
"""

import argparse
import io
import pstats
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import sides
from tests.benchmarks.processes import Cluster, Loaded, Process, Side


def counters(process: Process) -> dict[str, float]:
    """The use of a process so far."""
    found = {"cpu": process.cpu_exact() * 1e6}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.endswith("_ctxt_switches"):
                found[name] = found.get(name, 0) + int(value)
    for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("syscr", "syscw"):
            found[name] = int(value)
    return found


def load(cluster: Cluster, leader: Process, args: argparse.Namespace, seconds: float) -> Loaded:
    """One load on the leader, or on its first follower."""
    followers = [process for process in cluster.processes.values() if process.id != leader.id]
    taker = followers[0] if args.on == "follower" else leader
    return cluster.note(taker.load(args.calls, args.buffers, args.size, seconds, 0, args.kind))


def plain(cluster: Cluster, args: argparse.Namespace) -> None:
    """One load, counted."""
    leader = cluster.leader()
    load(cluster, leader, args, 0.5)
    before = {id: counters(process) for id, process in cluster.processes.items()}
    loaded = load(cluster, leader, args, args.seconds)
    print(
        f"{loaded.entries / loaded.seconds:,.0f} entries/s, p50 {loaded.p50 * 1e6:,.0f} µs, "
        f"p99 {loaded.p99 * 1e6:,.0f} µs, longest {loaded.longest * 1e6:,.0f} µs"
    )
    for id, process in cluster.processes.items():
        after = counters(process)
        used = "  ".join(f"{name} {(after[name] - before[id][name]) / loaded.entries:.2f}" for name in after)
        print(f"{'leader' if id == leader.id else 'follower'} {id}, per entry: {used}")


def calls_per_entry(stats: pstats.Stats, entries: int) -> tuple[float, float]:
    """Python's and C's calls for each entry, of what is called for at least one in four; the load's own left out.

    Unlike times these do not depend on how busy the machine is.
    """
    found: dict[tuple[str, int, str], tuple[Any, ...]] = stats.stats  # type: ignore[attr-defined]
    python = c = 0
    for (file, _, _), (_, calls, *_) in found.items():
        if calls * 4 >= entries and Path(file).parent != Path(__file__).parent:
            if file == "~":
                c += calls
            else:
                python += calls
    return python / entries, c / entries


def profiled(cluster: Cluster, args: argparse.Namespace, prefix: Path) -> None:
    """One load under cProfile; the functions that took most, of the leader and of a follower."""
    leader = cluster.leader()
    loaded = load(cluster, leader, args, args.seconds)
    ids = list(cluster.processes)
    for process in cluster.processes.values():
        process.send("quit")
    for process in cluster.processes.values():
        process.expect("bye")
    follower = next((id for id in ids if id != leader.id), None)  # that which takes the load, if one does
    for id in (leader.id, follower):
        if id is not None:
            out = io.StringIO()
            stats = pstats.Stats(f"{prefix}.{id}", stream=out)
            stats.sort_stats("tottime").print_stats(args.lines)
            role = "leader" if id == leader.id else "follower"
            python, c = calls_per_entry(stats, loaded.entries)
            print(f"\n{role} {id}, {loaded.entries} entries under the profiler")
            print(f"of the library, per entry: {python:.0f} Python calls, {c:.0f} C calls")
            print("\n".join(line for line in out.getvalue().splitlines()[4:] if line.strip()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make profile", description=__doc__)
    parser.add_argument("--side", default="pyraft", choices=("pyraft", "pyraft-compiled", "pyraft-node", "libraft"))
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1, help="calls outstanding (%(default)s)")
    parser.add_argument("--buffers", type=int, default=1, help="entries per call (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="bytes per entry (%(default)s)")
    parser.add_argument("--on", default="leader", choices=("leader", "follower"), help="the member that is loaded")
    parser.add_argument("--kind", default="", help="`query` or `lease` instead of commands (pyraft-node only)")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--lines", type=int, default=30, help="functions to show (%(default)s)")
    args = parser.parse_args()
    workshop = Path(tempfile.mkdtemp(prefix="bench-", dir=args.dir))
    try:
        found, missing = sides.find([args.side], workshop)
        if not found:
            print("\n".join(missing), file=sys.stderr)
            return 1
        side = found[0]
        with Cluster(side, workshop / "plain", args.servers) as cluster:
            cluster.start()
            plain(cluster, args)
        if side.name == "libraft":
            return 0
        prefix = workshop / "profile"
        environment = side.environment | {"BENCH_PROFILE": str(prefix)}
        with Cluster(Side(side.name, side.program, environment), workshop / "profiled", args.servers) as cluster:
            cluster.start()
            profiled(cluster, args, prefix)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

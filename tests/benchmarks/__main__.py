"""The command line of the benchmarks; `make bench ARGS='...'` passes its arguments on."""

import argparse
import fnmatch
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from mmap import mmap
from pathlib import Path
from typing import Any

from tests.benchmarks import machine, processes, report, rows, sides
from tests.benchmarks.processes import Failed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Compare with the C library and PySyncObj.")
    parser.add_argument(
        "--rows", default="*", help="names of rows or groups to measure, with wildcards, separated by ;"
    )
    parser.add_argument("--list", action="store_true", help="list groups and rows")
    on_request = ", ".join(sides.ON_REQUEST)
    parser.add_argument("--sides", default=",".join(sides.NAMES), help=f"which sides (%(default)s; also {on_request})")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a load (%(default)s)")
    parser.add_argument("--disk", type=Path, help="a directory on a disk, for the rows called ext4 (temporary files')")
    parser.add_argument("--ram", type=Path, default=Path("/dev/shm"), help="one on tmpfs (%(default)s)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--svg", type=Path, help="draw the comparison into this file")
    return parser.parse_args()


def file_system(path: Path) -> str:
    """The type of the file system that a directory is on."""
    best, kind = "", "?"
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, type = line.split()[1:3]
        if str(path.resolve()).startswith(mount) and len(mount) >= len(best):
            best, kind = mount, type
    return kind


def durable_write(dir: Path) -> float:
    """Median time of a bare durable write of 4 KiB to zero-filled blocks, in seconds; no log can go below it."""
    path = dir / "write"
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, bytes(1 << 20))
    os.fsync(fd)
    os.close(fd)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_DIRECT)
    except OSError:  # no direct I/O here
        fd = os.open(path, os.O_WRONLY | os.O_DSYNC)
    times = []
    with mmap(-1, 4096) as page:
        for n in range(200):
            began = time.perf_counter()
            os.pwrite(fd, page, n * 4096)
            times.append(time.perf_counter() - began)
    os.close(fd)
    path.unlink()
    return statistics.median(times)


class Surroundings:
    """The state of the machine while the sides were measured, looked at before each group and each round."""

    def __init__(self, found: list[processes.Side]) -> None:
        pythons = {side.program[0] for side in found if "python" in Path(side.program[0]).name}
        self._writes: list[float] = []
        self._beside: list[machine.Beside] = []
        self._loops: dict[str, list[float]] = {path: [] for path in sorted(pythons)}

    def at_round(self) -> None:
        """Time the loop of each interpreter."""
        for path, times in self._loops.items():
            times.append(machine.loop(path))

    def at_group(self, dir: Path) -> None:
        """Look at the disk and at what others do."""
        self._writes.append(durable_write(dir))
        self._beside.append(machine.beside())

    def facts(self) -> dict[str, Any]:
        """Return what was seen."""
        writes, busy = self._writes, [each.busy for each in self._beside]
        stolen = [each.stolen for each in self._beside]
        return {
            "interpreters": [
                f"{machine.interpreter(path)}: a million additions in {_range([t * 1e3 for t in times])} ms"
                for path, times in self._loops.items()
            ],
            "processors that others used beside, %": _range([100 * share for share in busy]),
            "processors that the host withheld, %": _range([100 * share for share in stolen]),
            "durable write of 4 KiB, seconds": statistics.median(writes) if writes else None,
        }


def _range(values: list[float]) -> str:
    """The median, and the least and the greatest."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else "not looked at"


def about(options: rows.Options, surroundings: Surroundings) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "seconds": options.seconds,
        "file systems": {name: file_system(path) for name, path in options.places.items()},
        **surroundings.facts(),
    }


def chosen(pattern: str) -> list[tuple[rows.Group, list[rows.Row]]]:
    patterns = pattern.split(";")
    found = []
    for group in rows.groups():
        wanted = [
            row
            for row in group.rows
            if any(fnmatch.fnmatch(group.name, p) or fnmatch.fnmatch(row.name, p) for p in patterns)
        ]
        if wanted and group.run is not None:
            wanted = list(group.rows)
        if wanted:
            found.append((group, wanted))
    return found


def one(
    group: rows.Group, wanted: list[rows.Row], side: processes.Side, options: rows.Options, results: report.Results
) -> str:
    """Measure rows of a group for a side, once; return a text about an error, or nothing."""
    fitting = [row for row in wanted if rows.applies(side, group, row)]
    if not fitting:
        return ""
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=options.places[group.place]))
    try:
        for name, values in rows.measure(group, side, root / "data", options, fitting).items():
            results.setdefault(name, {}).setdefault(side.name, []).append(values)
    except Failed as exc:
        return f"{group.name}, {side.name}: {exc}"
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return ""


def main() -> int:
    args = arguments()
    selection = chosen(args.rows)
    if args.list:
        for group, wanted in selection:
            print(group.name)
            for row in wanted:
                print(f"    {row.name}")
        return 0
    disk = args.disk or Path(tempfile.gettempdir())
    options = rows.Options(args.seconds, {"ext4": disk, "tmpfs": args.ram})
    results: report.Results = {}
    failures: list[str] = []
    workshop = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        found, missing = sides.find(args.sides.split(","), workshop)
        for reason in missing:
            print(f"left out: {reason}", file=sys.stderr)
        surroundings = Surroundings(found)
        for round in range(1, args.rounds + 1):
            surroundings.at_round()
            for group, wanted in selection:
                surroundings.at_group(workshop)
                # Each side is first in turn: what comes first meets a disk that has just been left alone.
                turn = round % len(found)
                for side in found[turn:] + found[:turn]:
                    print(f"round {round}/{args.rounds}: {group.name}: {side.name}", file=sys.stderr, flush=True)
                    failure = one(group, wanted, side, options, results)
                    if failure:
                        failures.append(failure)
                        print(f"FAILED: {failure}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    names = [side.name for side in found]
    everything = [row for _, wanted in selection for row in wanted]
    facts = about(options, surroundings)
    print(report.details(results, everything, names), end="\n\n")
    print(report.table(results, everything, names), end="\n\n")
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    if args.json:
        report.write_json(args.json, results, facts)
    if args.svg:
        args.svg.write_text(report.picture(results, everything, names))
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

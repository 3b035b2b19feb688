"""Explore from the command line: `make explore`, `make explore SCENARIO=elections`, `make explore REPLAY='…'`.

Each scenario is one search in a process of its own, as many at a time as there are processors. Finds are told,
and the exit status is 1 then.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.lib.explorer.report import explore, replay
from tests.lib.explorer.scenarios import SCENARIOS


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Try every schedule of small clusters up to a bound.")
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--states", type=int, default=0, help="end each search after so many states")
    parser.add_argument("--seconds", type=float, default=1e9, help="end each search after so long")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="searches at a time")
    parser.add_argument("--without", action="append", default=[], help="leave out: promises, commitment, dead-ends")
    parser.add_argument("--replay", help="a schedule, as a story ends with it")
    args = parser.parse_args()
    without = frozenset(args.without)
    if args.replay is not None:
        return replay(args.replay.split(), without)
    unknown = [name for name in args.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenarios: {', '.join(unknown)}")
    names = args.scenarios or list(SCENARIOS)
    failed = states = 0
    begin = time.monotonic()
    with ProcessPoolExecutor(max_workers=min(args.jobs, len(names))) as pool:
        runs = [pool.submit(explore, name, args.states, args.seconds, without) for name in names]
        for run in runs:
            n, line, text = run.result()
            states += n
            print(line, flush=True)
            if text:
                failed = 1
                print(text, flush=True)
    if len(names) > 1:
        print(f"{states} states in {time.monotonic() - begin:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())

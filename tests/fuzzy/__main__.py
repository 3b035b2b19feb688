"""Run simulated clusters from the command line: `make sim SEED=1 N=1000 STEPS=5000`.

Each seed is one cluster (see tests.lib.simulation). The first failure ends the run with its story and exit status 1;
the story contains the command that repeats it. With TRACE=1 in the environment every event is printed.
"""

import argparse
import logging
import sys
import time
from collections import Counter

from tests.lib import linearizability
from tests.lib.simulation import themes, world


def quiet() -> None:
    """Keep the core's log of the faults that are injected on purpose off the terminal."""
    logger = logging.getLogger("pyraft")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def run_one(seed: int, steps: int) -> world.World:
    """Run one seed, and check its history."""
    cluster = world.run(seed, steps)
    try:
        failure = linearizability.check(cluster.history)
    except linearizability.Undecided:
        return cluster
    if failure is not None:
        raise world.Violation(f"{failure!r}\n  repeat: {cluster.command()}")
    return cluster


def main() -> int:
    """Run the seeds asked for; return the exit status."""
    parser = argparse.ArgumentParser(description="Simulate clusters under random faults and check Raft's invariants.")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--n", type=int, default=200, help="how many seeds")
    parser.add_argument("--steps", type=int, default=2000, help="events per seed before everything is mended")
    parser.add_argument("--themes", default="", help="only seeds with one of these themes, with commas between")
    args = parser.parse_args()
    quiet()
    begin = time.monotonic()
    steps = elections = commands = 0
    told: list[str] = []
    met: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + args.n):
        theme = themes.pick(seed)
        if args.themes and theme not in args.themes.split(","):
            continue
        try:
            cluster = run_one(seed, args.steps)
        except AssertionError as exc:
            print(exc, flush=True)
            return 1
        steps += cluster.steps
        elections += cluster.checks.elections
        commands += len(cluster.checks.commands)
        met[theme] += 1
        if cluster.told_why or cluster.abandoned:
            told.append(f"  seed {seed} ended early: {cluster.told_why or cluster.abandoned}")
    elapsed = time.monotonic() - begin
    print(*told, ", ".join(f"{theme} {n}" for theme, n in sorted(met.items())), sep="\n")
    print(f"{met.total()} clusters from seed {args.seed}: {steps} events in {elapsed:.1f} s, {elections} elections,")
    print(f"{commands} commands applied, no invariant broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Interrupt programs at lines of pyraft and io_uv, a sample or all of them: `python -m tests.lib.interrupt --help`.

Duty: choose cases by seed, run them, print those that went wrong with the command that repeats each, and the figures.
"""

import argparse
import random
import resource
import sys
import time

from tests.lib import interrupted
from tests.lib.interrupted import KINDS, PROGRAMS, Case, Line

GAPS = (1, 2, 3, 5, 8, 13, 30, 100, 400)
"""How many lines after the first interrupt the second comes."""


def cases(program: str, kinds: list[str], twice: list[bool], every: int, seed: int) -> list[Case]:
    """Return cases for each of the program's lines, and every of `every` of them: its first time, and another one."""
    rng = random.Random(f"{program} {seed}")
    found = []
    for (file, number), times in sorted(interrupted.lines_of(program).items()):
        for kind in kinds:
            for again in twice:
                which = 1 if rng.random() < 0.5 else rng.randint(1, times)
                gap = rng.choice(GAPS) if again else 0
                found.append(Case(program, kind, Line(file, number, which), gap))
    rng.shuffle(found)
    return found[: max(1, len(found) // every)]


def processor_seconds() -> float:
    """Return what this process and its children have used."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", choices=PROGRAMS, action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--times", choices=("once", "twice", "both"), default="both")
    parser.add_argument("--every", type=int, default=1, help="of N cases take one")
    parser.add_argument("--seconds", type=float, default=1e9, help="of processor time, then stop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--line", type=Line.parse, action="append", help="these only: file:line:time")
    parser.add_argument("--again", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    twice = {"once": [False], "twice": [True], "both": [False, True]}[options.times]
    todo: list[Case] = []
    if options.line:
        todo = [Case(options.program[0], options.kind[0], line, options.again) for line in options.line]
    else:
        for program in options.program or PROGRAMS:
            todo += cases(program, options.kind or list(KINDS), twice, options.every, options.seed)
        random.Random(options.seed).shuffle(todo)
    wrong = reached = second = done = acknowledged = 0
    longest = 0.0
    for case in todo:
        began = time.monotonic()
        outcome = interrupted.run(case)
        longest = max(longest, time.monotonic() - began)
        done += 1
        reached += outcome.reached > 0
        second += outcome.reached > 1
        acknowledged += outcome.acknowledged
        if outcome.problem:
            wrong += 1
            print(f"{outcome.problem}: python -m tests.lib.interrupt {case}", flush=True)
        if options.verbose:
            print(outcome, outcome.stderr, flush=True)
        if processor_seconds() > options.seconds:
            break
    print(
        f"{done} of {len(todo)} cases (seed {options.seed}), {reached} interrupted, {second} of them twice, "
        f"{acknowledged} commands acknowledged, {wrong} wrong, the longest took {longest:.1f} s, "
        f"{processor_seconds():.0f} s of processor time"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

"""Interrupt programs at lines of pyraft and io_uv, a sample or all of them: `python -m tests.lib.interrupt --help`.

Duty: choose cases by seed, run them, several at a time, print those that went wrong with the command that repeats each,
and the figures. All lines take hours: with `--kept FILE` the results are added to a file, and what is in it is not run
again, as long as the sources are the same.
"""

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.lib import interrupted
from tests.lib.interrupted import KINDS, PACKAGES, PROGRAMS, ROOT, Case, Line, Outcome

PATIENCE = 6
"""How much more time a case gets that did not end, when it runs once more, alone: perhaps there were too many."""

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


@dataclass
class Figures:
    """All that has been run, in the end also by earlier processes."""

    seconds: float = 0.0
    done: int = 0
    reached: int = 0
    second: int = 0
    acknowledged: int = 0
    wrong: int = 0
    longest: float = 0.0

    def add(self, outcome: Outcome, took: float) -> None:
        """Count a case."""
        self.done += 1
        self.reached += outcome.reached > 0
        self.second += outcome.reached > 1
        self.acknowledged += outcome.acknowledged
        self.wrong += outcome.problem != ""
        self.longest = max(self.longest, took)

    def __str__(self) -> str:
        return (
            f"{self.done} cases, {self.reached} interrupted, {self.second} of them twice, {self.acknowledged} commands "
            f"acknowledged, {self.wrong} wrong, the longest took {self.longest:.1f} s, {self.seconds:.0f} s of "
            "processor time"
        )


def _sources() -> str:
    """Return a name for the packages and programs as they are."""
    paths = [path for package in PACKAGES for path in sorted(Path(package).rglob("*.py"))]
    paths += [ROOT / "README.md", *sorted((ROOT / "examples").glob("*.py")), Path(interrupted.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


@dataclass
class Kept:
    """The file of results: lines of a name for the sources, the case, what became of it."""

    path: Path | None
    sources: str = field(default_factory=_sources)
    known: set[str] = field(default_factory=set)

    def read(self, figures: Figures) -> None:
        """Take up what is there from these sources."""
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            sources, key, reached, acknowledged, took, seconds, problem = line.split("\t")
            if sources == self.sources:
                self.known.add(key)
                figures.add(Outcome(problem, int(reached), int(acknowledged)), float(took))
                figures.seconds += float(seconds)

    def add(self, case: Case, outcome: Outcome, took: float, seconds: float) -> None:
        """Write a result down."""
        if self.path is not None:
            words = (self.sources, self.key(case), outcome.reached, outcome.acknowledged, round(took, 2))
            with self.path.open("a") as file:
                print(*words, round(seconds, 3), outcome.problem, sep="\t", file=file)

    @staticmethod
    def key(case: Case) -> str:
        """Return what a case is known by: how often a line is executed is not the same each time."""
        where = f"{os.path.relpath(case.line.file, ROOT)}:{case.line.number}"
        return f"{case.program} {case.kind} {where} {'twice' if case.again else 'once'}"


def _run(todo: list[Case], jobs: int, base: str, kept: Kept, figures: Figures, options: argparse.Namespace) -> None:
    """Run cases, so many at a time, until all are done or the time is over."""
    began = processor_seconds()
    running: list[interrupted.Run] = []
    todo = todo[::-1]
    before = figures.seconds
    slow: list[Case] = []
    while todo or running:
        while todo and len(running) < jobs and processor_seconds() - began < options.seconds:
            case = todo.pop()
            running.append(interrupted.begin(case.program, case, base))
        if not running:
            break
        for run in [run for run in running if run.ended()]:
            running.remove(run)
            outcome = run.end()
            if outcome.problem == interrupted.ENDLESS and run.case is not None:
                slow.append(run.case)
            else:
                _note(run, outcome, kept, figures, options.verbose, before + processor_seconds() - began)
        time.sleep(0.002)
    for case in slow:
        run = interrupted.begin(case.program, case, base, PATIENCE * interrupted.DEADLINE)
        run.wait()
        _note(run, run.end(), kept, figures, options.verbose, before + processor_seconds() - began)


def _note(run: interrupted.Run, outcome: Outcome, kept: Kept, figures: Figures, verbose: bool, seconds: float) -> None:
    """Take note of what became of a case."""
    took, case = time.monotonic() - run.began, run.case
    assert case is not None
    figures.add(outcome, took)
    kept.add(case, outcome, took, seconds - figures.seconds)
    figures.seconds = seconds
    if outcome.problem:
        print(f"{outcome.problem}: python -m tests.lib.interrupt {case}", flush=True)
    if verbose:
        print(outcome, outcome.stderr, flush=True)


def processor_seconds() -> float:
    """Return what this process and its children have used."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--program", choices=PROGRAMS, action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--times", choices=("once", "twice", "both"), default="both")
    parser.add_argument("--every", type=int, default=1, help="of N cases take one")
    parser.add_argument("--seconds", type=float, default=1e9, help="of processor time, then stop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--jobs", type=int, default=4, help="how many at a time: most of a case is waiting for the disk"
    )
    parser.add_argument("--kept", type=Path, help="a file with results, to go on with")
    parser.add_argument("--line", type=Line.parse, action="append", help="these only: file:line:time")
    parser.add_argument("--again", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    # A shell that starts this in the background leaves SIGINT ignored; then no program would notice it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    twice = {"once": [False], "twice": [True], "both": [False, True]}[options.times]
    interrupted.freeze()
    todo: list[Case] = []
    if options.line:
        todo = [Case(options.program[0], options.kind[0], line, options.again) for line in options.line]
    else:
        for program in options.program or PROGRAMS:
            todo += cases(program, options.kind or list(KINDS), twice, options.every, options.seed)
        random.Random(options.seed).shuffle(todo)
    figures, kept = Figures(), Kept(options.kept)
    kept.read(figures)
    planned = len(todo)
    todo = [case for case in todo if kept.key(case) not in kept.known]
    base, owner = tempfile.mkdtemp(prefix="interrupted-"), os.getpid()
    try:
        _run(todo, options.jobs, base, kept, figures, options)
    finally:
        if os.getpid() == owner:  # a child passes here on its way out
            shutil.rmtree(base, ignore_errors=True)
    print(f"of {planned} cases (seed {options.seed}): {figures}")
    sys.exit(1 if figures.wrong else 0)


if __name__ == "__main__":
    main()

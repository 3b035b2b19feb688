"""Run the whole suite again and again, in another order of files and beside other busy programs each time.

`python -m tests.fuzzy.flaky --n 10 --seed 7`. Run number i of a seed has the same order and the same number of busy
programs (none, one, three, none, ...) wherever it is repeated; `--only i` repeats that run alone. Tests that are named
on the command line are run in place of the whole suite. A run's own processes have ended when the next begins.

Exit code 1 and the failures, with the command that repeats their run, if there are any.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent.parent
BUSY = (0, 1, 3)
"""How many busy programs are beside a run, in turn."""

_SPIN = "while True: sum(range(10000))"


def order(files: list[str], seed: int, number: int) -> list[str]:
    """Return the files in the order of run `number`."""
    shuffled = sorted(files)
    random.Random(f"{seed} {number}").shuffle(shuffled)
    return shuffled


def test_files(names: list[str]) -> list[str]:
    """Return the test files that are meant by files and directories, relative to the root."""
    found: list[str] = []
    for name in names:
        path = ROOT / name
        paths = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found += [each.relative_to(ROOT).as_posix() for each in paths if "__pycache__" not in each.parts]
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def beside(n: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Keep `n` processors busy."""
    busy: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(n):
            busy.append(subprocess.Popen([sys.executable, "-c", _SPIN]))
        yield busy
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(files: list[str], busy: int, options: list[str]) -> tuple[int, list[str]]:
    """Run the files in this order; return pytest's exit code and the lines that name what failed."""
    command = [sys.executable, "-m", "pytest", "-q", *options, *files]
    with beside(busy):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            output = process.communicate()[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    failed = re.findall(r"^(?:FAILED|ERROR) .*$", output, re.MULTILINE)
    if process.returncode != 0:
        print(output[-20000:], flush=True)
    return process.returncode, failed


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def main(arguments: list[str]) -> int:
    """Run the tool with these arguments; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzy.flaky", description=__doc__)
    parser.add_argument("--n", type=int, default=10, help="how many runs")
    parser.add_argument("--seed", type=int, help="of the orders; printed if it is left out")
    parser.add_argument("--only", type=int, help="only this run, counted from 1")
    parser.add_argument("names", nargs="*", default=["tests"], help="files and directories, or options after --")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1000000) if options.seed is None else options.seed
    files = test_files([name for name in options.names if not name.startswith("-")] or ["tests"])
    passed_on = [name for name in options.names if name.startswith("-")]
    signal.signal(signal.SIGTERM, _stop)
    failures: list[str] = []
    for number in range(1, options.n + 1) if options.only is None else [options.only]:
        busy = BUSY[(number - 1) % len(BUSY)]
        print(f"run {number} of --seed {seed}: {len(files)} files beside {busy} busy programs", flush=True)
        begin = time.monotonic()
        code, failed = run(order(files, seed, number), busy, passed_on)
        print(f"run {number}: exit code {code} after {time.monotonic() - begin:.0f} s", flush=True)
        if code != 0:
            failures += [f"{line}  (--seed {seed} --only {number})" for line in failed or [f"exit code {code}"]]
    for line in failures:
        print(line)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the whole suite again and again, in another order of files and beside other busy programs each time.

`python -m tests.fuzzy.flaky --n 10 --seed 7`. Run number i of a seed has the same order and the same number of busy
programs (none, one, three, none, ...) wherever it is repeated; `--only i` repeats that run alone. As in `make test`,
`--jobs` processes share the files, and those whose clusters are many processes already come behind them, one at a
time. Tests that are named on the command line are run in place of the whole suite. `--rough` moreover stops pytest and
the processes that tests start for up to two seconds now and then, and has tests and threads dawdle. A run's own
processes have ended when the next begins.

A test that takes longer than `--limit` has its threads written down and ends its pytest; all that is left of the run
goes on in another one.

Exit code 1 and the failures, if there are any: each with the file that ran before its own, and with the command that
repeats the run.
"""

import argparse
import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.lib.stops import Stops, descendants

ROOT = Path(__file__).resolve().parent.parent.parent
BUSY = (0, 1, 3)
"""How many busy programs are beside a run, in turn."""
TOLERATED = 5
"""Exit code of pytest: no tests. Options may leave a file none."""
ALONE = ("tests/fuzzy/", "tests/interop/")
"""Where the files are that are not shared, see the Makefile, but for SEARCHES."""
SEARCHES = tuple(
    f"tests/fuzzy/test_{name}.py"
    for name in (
        *("c_cases", "explorer", "faults", "linearizability", "mutations", "node_fuzz", "node_reads", "reads"),
        "simulation",
    )
)
"""Files about clusters in virtual time: one process each."""

_clock = time.monotonic
_SPIN = "import os\nwhile os.getppid() == %d: sum(range(10000))"


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
    """Keep `n` processors busy. The programs end by themselves, too, when this process is gone."""
    busy: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(n):
            busy.append(subprocess.Popen([sys.executable, "-c", _SPIN % os.getpid()]))
        yield busy
    finally:
        for process in busy:
            process.kill()
            process.wait()


@dataclass
class Run:
    """One run of the suite: its order and load, and its failures, as (test, file that ran before its file)."""

    seed: int
    number: int
    options: list[str]
    limit: float
    rough: bool
    jobs: int = 1
    failed: list[tuple[str, str]] = field(default_factory=list)
    stops: int = 0

    @property
    def busy(self) -> int:
        """How many busy programs are beside it."""
        return BUSY[(self.number - 1) % len(BUSY)]

    @property
    def again(self) -> str:
        """The options that repeat it."""
        jobs = f" --jobs {self.jobs}" if self.jobs > 1 else ""
        return f"--seed {self.seed} --only {self.number}{jobs}{' --rough' if self.rough else ''}"

    def all(self, files: list[str]) -> None:
        """Run the files in this order, those that can be shared first."""
        shared = [file for file in files if file in SEARCHES or not file.startswith(ALONE)]
        alone = [file for file in files if file not in shared]
        with beside(self.busy):
            self._run([shared[i :: self.jobs] for i in range(self.jobs)])
            self._run([alone])

    def _run(self, lists: list[list[str]]) -> None:
        """Run each list of files in a thread of its own; end them all where this one is told to stop."""
        rows = [_Row(self, files) for files in lists]
        with ThreadPoolExecutor(len(rows)) as pool:
            try:
                for each in [pool.submit(row.all) for row in rows]:
                    each.result()
            finally:
                for row in rows:
                    row.stop()
        for row in rows:
            self.failed += row.failed
            self.stops += row.stops


class _Row:
    """Files that run one behind the other, beside other rows of the same run."""

    def __init__(self, run: Run, files: list[str]) -> None:
        self.failed: list[tuple[str, str]] = []
        self.stops = 0
        self._of = run
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        """End what runs, and have nothing more run."""
        self._stopped = True
        if (process := self._process) is not None:
            _end(process)

    def all(self) -> None:
        """Run the files in this order; where a test hangs, or pytest dies, go on with the file behind."""
        files = self._files
        with tempfile.TemporaryDirectory() as dir:
            while files and not self._stopped:
                report = Path(dir) / "report"
                report.write_text("")
                code = self._pytest(files, report)
                lines = [json.loads(line) for line in report.read_text().splitlines()]
                self.failed += [(line["failed"], line["after"]) for line in lines if "failed" in line]
                if code in (0, 1, TOLERATED):
                    return
                last = lines[-1] if lines else {}
                test = last.get("begin", last.get("failed", ""))
                self.failed.append((f"{test or 'pytest'}: exit code {code}", last.get("after", "")))
                file = test.partition("::")[0]
                files = files[files.index(file) + 1 :] if file in files else []

    def _pytest(self, files: list[str], report: Path) -> int:
        output = report.with_name("output")
        command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "tests.lib.watched"]
        again = self._of.again
        environment = dict(os.environ, FLAKY_REPORT=str(report), FLAKY_DAWDLE=again if self._of.rough else "")
        with output.open("wb") as file:
            self._process = process = subprocess.Popen(
                [*command, *self._of.options, *files],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        stops = Stops(process.pid, again) if self._of.rough else None
        try:
            if not self._stopped:
                self._wait(process, report)
        finally:
            if stops is not None:
                stops.end()
                self.stops += stops.count
            self._process = None
            _end(process)
        if process.returncode not in (0, TOLERATED):
            print(output.read_text(errors="replace")[-20000:], flush=True)
        return process.returncode

    def _wait(self, process: "subprocess.Popen[bytes]", report: Path) -> None:
        """Wait for the end; SIGABRT, at which pytest writes down its threads, where nothing begins for too long."""
        size, since = 0, _clock()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(1.0, self._of.limit))
                return
            if report.stat().st_size != size:
                size, since = report.stat().st_size, _clock()
            elif _clock() - since > self._of.limit:
                _end(process, signal.SIGABRT)
                return


def _end(process: "subprocess.Popen[bytes]", with_signal: signal.Signals = signal.SIGKILL) -> None:
    """End what is left of a run: pytest, its process group, and other processes below it as long as it lives."""
    left: list[int] = []
    for pid in descendants(process.pid) if process.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            left.append(os.pidfd_open(pid))
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(with_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for descriptor in left:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], 60)  # until it has ended
        os.close(descriptor)


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def main(arguments: list[str]) -> int:
    """Run the tool with these arguments; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzy.flaky", description=__doc__)
    parser.add_argument("--n", type=int, default=10, help="how many runs")
    parser.add_argument("--seed", type=int, help="of the orders; printed if it is left out")
    parser.add_argument("--only", type=int, help="only this run, counted from 1")
    parser.add_argument("--rough", action="store_true", help="stop processes, and have threads dawdle")
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds that a test may take, %(default)s if left out"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many processes share the files (%(default)s)")
    parser.add_argument("names", nargs="*", default=["tests"], help="files and directories, or options after --")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1000000) if options.seed is None else options.seed
    files = test_files([name for name in options.names if not name.startswith("-")] or ["tests"])
    passed_on = [name for name in options.names if name.startswith("-")]
    signal.signal(signal.SIGTERM, _stop)
    failures: list[str] = []
    for number in range(1, options.n + 1) if options.only is None else [options.only]:
        run = Run(seed, number, passed_on, options.limit, options.rough, options.jobs)
        print(f"run {number} of --seed {seed}: {len(files)} files beside {run.busy} busy programs", flush=True)
        begin = time.monotonic()
        run.all(order(files, seed, number))
        stopped = f", {run.stops} times a process stopped" if run.rough else ""
        print(f"run {number}: {len(run.failed)} failures, {time.monotonic() - begin:.0f} s{stopped}", flush=True)
        for test, after in run.failed:
            failures.append(f"{test}, after {after or 'nothing'}, beside {run.busy} busy programs  ({run.again})")
    for line in failures:
        print(line)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

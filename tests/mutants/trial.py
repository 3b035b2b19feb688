"""One trial: a mutant meets the tests that execute its line, the fastest first and as many as a budget of seconds
allows, then those that start processes, until one fails.

A test that fails is run again by itself, and once without the change. If it passes by itself, or fails without the
change too, it proves nothing, is called unsteady and is not run any more. The remains of a run, processes included, are
gone before the next begins: the tool adopts what its children's children leave running.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.mutants.changes import Edit
from tests.mutants.reach import Reach, chunks
from tests.mutants.tree import Tree

REST = ("tests/integration/test_examples.py", "tests/integration/test_readme.py", "tests/interop", "tests/fuzzy")
"""Where tests are that coverage does not follow, because the code runs in other processes."""

CAUGHT, SURVIVED, TIMEOUT = "caught", "survived", "caught (too slow)"

_WALL, _WALL_FACTOR = 90.0, 10.0
_CPU, _CPU_FACTOR = 60.0, 6.0
_REST_SECONDS = 1200.0
_MEMORY = 8 << 30
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER


class Verdict(NamedTuple):
    """The end of a mutant: the verdict, the test that noticed, the number of tests that were to be run before."""

    verdict: str
    test: str
    ran: int


class _Run(NamedTuple):
    """How one process with tests ended: its exit code, None if it was too slow, and the test that failed or stood."""

    code: int | None
    test: str


class Trial:
    """Judges mutants in a tree."""

    def __init__(self, tree: Tree, reach: Reach, seconds: float, with_rest: bool) -> None:
        self.tree = tree
        self.reach = reach
        self.budget = seconds
        self.with_rest = with_rest
        self.unsteady: set[str] = set()
        self.sound: set[str] = set()
        ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)

    def judge(self, edit: Edit, source: str) -> Verdict:
        """Return what becomes of a mutant of a file with the text `source`."""
        self.tree.write(edit.path, edit.apply(source))
        try:
            return self._judge(edit, source)
        finally:
            self.tree.write(edit.path, source)

    def _judge(self, edit: Edit, source: str) -> Verdict:
        names = self.reach.within(self.budget, self.reach.tests_of(edit.path, source, edit.first, edit.last))
        for chunk in chunks([name for name in names if name not in self.unsteady]):
            verdict = self._meet(edit, source, chunk, len(names))
            if verdict is not None:
                return verdict
        if self.with_rest:
            verdict = self._meet_rest(edit, source, len(names))
            if verdict is not None:
                return verdict
        return Verdict(SURVIVED, "", len(names))

    def _limits(self, names: list[str]) -> tuple[float, float]:
        seconds = self.reach.seconds(names)
        return _WALL + _WALL_FACTOR * seconds, _CPU + _CPU_FACTOR * seconds

    def _is_sound(self, edit: Edit, source: str, test: str) -> bool:
        """Return whether a test passes without the change; it may have come to fail since the measuring."""
        if test not in self.sound:
            self.tree.write(edit.path, source)
            if self._pytest([test], _REST_SECONDS, _REST_SECONDS).code == 0:
                self.sound.add(test)
            self.tree.write(edit.path, edit.apply(source))
        return test in self.sound

    def _meet(self, edit: Edit, source: str, chunk: list[str], count: int) -> Verdict | None:
        wall, cpu = self._limits(chunk)
        left = list(chunk)
        while left:
            run = self._pytest(left, wall, cpu)
            if run.code == 0:
                return None
            if run.code is None or run.test == "":
                return Verdict(TIMEOUT if run.code is None else CAUGHT, run.test or "the import", count)
            if self._pytest([run.test], wall, cpu).code != 0 and self._is_sound(edit, source, run.test):
                return Verdict(CAUGHT, run.test, count)
            self.unsteady.add(run.test)
            left = left[left.index(run.test) + 1 :]
        return None

    def _meet_rest(self, edit: Edit, source: str, count: int) -> Verdict | None:
        known = {name for name, _ in self.reach.tests}
        files = [path for path in REST if (self.tree.root / path).exists()]
        run = self._pytest(files, _REST_SECONDS, _REST_SECONDS, skip=known | self.unsteady)
        while run.code not in (0, 5):
            if run.code is None or run.test == "":
                return Verdict(TIMEOUT if run.code is None else CAUGHT, run.test or "the import", count)
            again = self._pytest([run.test], _REST_SECONDS, _REST_SECONDS)
            if again.code != 0 and self._is_sound(edit, source, run.test):
                return Verdict(CAUGHT, run.test, count)
            self.unsteady.add(run.test)
            run = self._pytest(files, _REST_SECONDS, _REST_SECONDS, skip=known | self.unsteady)
        return None

    def _pytest(self, names: list[str], wall: float, cpu: float, skip: set[str] | None = None) -> _Run:
        """Run tests until one fails: `names` in that order, or all in these files but those to `skip`."""
        chosen, noted = self.tree.top / "tests", self.tree.top / "noted"
        chosen.write_text("\n".join(names if skip is None else sorted(skip)))
        noted.write_text("")
        files = list(dict.fromkeys(name.split("::")[0] for name in names))
        # Most runs need nothing of hypothesis, whose import takes longer than they do; those that do, import it.
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:hypothesispytest"]
        command += ["-p", "tests.mutants.plugin", *files]
        variable = "MUTANTS_TESTS" if skip is None else "MUTANTS_SKIP"
        environment = self.tree.environment() | {variable: str(chosen), "MUTANTS_NOTE": str(noted)}
        with open(self.tree.top / "output", "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.tree.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: _limit(cpu),
            )
            try:
                code: int | None = process.wait(wall)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_all(process)
        if code == -signal.SIGXCPU:
            code = None
        self.tree.clear()
        return _Run(code, _failed(noted, code))


def _limit(cpu: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu), int(cpu) + 10))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _failed(noted: Path, code: int | None) -> str:
    """Return the test that failed, by what the plugin noted, or the last one that began if the process died."""
    lines = noted.read_text().splitlines()
    failed = [line.removeprefix("failed ") for line in lines if line.startswith("failed ")]
    begun = [line.removeprefix("began ") for line in lines if line.startswith("began ")]
    if failed:
        return failed[0]
    return begun[-1] if begun and code != 0 else ""


def end_all(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process with its group, and everything that it has started and left to us."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(100):
        left = _children()
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]

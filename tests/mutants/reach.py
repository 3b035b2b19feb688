"""Which tests execute which lines of the packages, and how long each takes.

`measure` runs most of the suite once under coverage, with a context for each test, in a copy of the tree. The answer is
kept in a file, together with the sources that it is true for: `Reach.tests_of` finds an edited line's old number by
comparing the two, so that the file lasts for days of small edits. A test that failed is not in it.
"""

import contextlib
import difflib
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.mutants.tree import Tree

MEASURED = [
    "tests/unit",
    "tests/integration",
    "tests/lockstep",
    "tests/fuzzy/test_simulation.py",
    "tests/fuzzy/test_mutations.py",
    "tests/fuzzy/test_hostile_peers.py",
]
UNMEASURED = [
    "tests/integration/test_examples.py",
    "tests/integration/test_readme.py",
    "tests/unit/test_benchmarks.py",
    "tests/unit/test_build.py",
    "tests/unit/test_mutants.py",
]
"""Tests that start processes, which coverage does not follow, or that look at other things than the packages' work."""

CHUNK = (25, 150)
"""How many tests the first runs for a mutant have; the last one has all others."""


class Reach:
    """The findings of `measure`.

    `tests` are pairs (node id, seconds). `lines` has for each file, by its path from the root, and line the tests that
    execute it, as the bits of a number. `sources` are the files' lines when they were measured.
    """

    def __init__(self, content: Mapping[str, object]) -> None:
        self.tests: list[tuple[str, float]] = [tuple(pair) for pair in content["tests"]]  # type: ignore[attr-defined]
        self.sources: dict[str, list[str]] = content["sources"]  # type: ignore[assignment]
        self.lines: dict[str, dict[int, int]] = {
            path: {int(line): int(bits, 16) for line, bits in found.items()}
            for path, found in content["lines"].items()  # type: ignore[attr-defined]
        }
        self._moved: dict[str, dict[int, int]] = {}

    @staticmethod
    def load(path: Path) -> "Reach":
        """Read the file that `measure` wrote."""
        return Reach(json.loads(gzip.decompress(path.read_bytes())))

    def tests_of(self, path: str, source: str, first: int, last: int) -> list[str]:
        """Return the tests that execute any of the lines `first` to `last` of a file whose text is `source` now, the
        fastest first; for lines that only run at import, those of the whole file.
        """
        former = self._former(path, source)
        found = self.lines[former]
        old = self._old_lines(path, former, source)
        bits = 0
        for line in range(first, last + 1):
            bits |= found.get(old.get(line, 0), 0)
        if not bits:
            for line_bits in found.values():
                bits |= line_bits
        chosen = [pair for i, pair in enumerate(self.tests) if bits >> i & 1]
        return [name for name, _ in sorted(chosen, key=lambda pair: pair[1])]

    def seconds(self, names: list[str]) -> float:
        """Return how long these tests took together."""
        took = dict(self.tests)
        return sum(took[name] for name in names)

    def within(self, budget: float, names: list[str]) -> list[str]:
        """Return the first of these tests, those that took `budget` seconds together."""
        took = dict(self.tests)
        total = 0.0
        for i, name in enumerate(names):
            total += took[name]
            if total > budget:
                return names[:i]
        return names

    def _former(self, path: str, source: str) -> str:
        """Return the file that was measured: for a new one that with which it has most lines in common."""
        if path in self.sources:
            return path
        lines = set(source.splitlines())
        return max(self.sources, key=lambda name: len(lines & set(self.sources[name])))

    def _old_lines(self, path: str, former: str, source: str) -> dict[int, int]:
        """Return for each line of the file as it is now the number that it had when it was measured."""
        if path not in self._moved:
            matcher = difflib.SequenceMatcher(None, self.sources[former], source.splitlines(), autojunk=False)
            self._moved[path] = {
                block.b + i + 1: block.a + i + 1 for block in matcher.get_matching_blocks() for i in range(block.size)
            }
        return self._moved[path]


def chunks(names: list[str]) -> Iterator[list[str]]:
    """Yield a few tests, then more, then the rest: a mutant that is caught at once costs the import of a few files."""
    begin = 0
    for size in (*CHUNK, len(names)):
        if begin < len(names):
            yield names[begin : begin + size]
        begin += size


def measure(tree: Tree, into: Path) -> Reach:
    """Run the measured part of the suite in `tree` and keep the answer in `into`."""
    answer = tree.scratch / "reach.json.gz"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.plugin", *MEASURED]
    command += [f"--ignore={path}" for path in UNMEASURED]
    environment = tree.environment() | {"MUTANTS_MEASURE": str(answer), "COVERAGE_CORE": "ctrace"}
    begin = time.monotonic()
    subprocess.run(command, cwd=tree.root, env=environment, check=False)
    if not answer.is_file():
        raise SystemExit("the measuring run ended without an answer")
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_bytes(answer.read_bytes())
    reach = Reach.load(into)
    print(f"measured {len(reach.tests)} tests in {time.monotonic() - begin:.0f} s, kept in {into}", flush=True)
    return reach


def keep(path: Path, root: Path, tests: list[tuple[str, float]], contexts: dict[str, dict[int, list[str]]]) -> None:
    """Write what one run found: `contexts` names for each file and line the tests that executed it."""
    number = {name: i for i, (name, _) in enumerate(tests)}
    lines: dict[str, dict[int, str]] = {}
    sources: dict[str, list[str]] = {}
    for file, by_line in contexts.items():
        if not Path(file).is_file():
            continue  # a test compiled a function under a name that it made up
        name = Path(file).relative_to(root).as_posix()
        sources[name] = Path(file).read_text().splitlines()
        lines[name] = {}
        for line, names in by_line.items():
            bits = 0
            for test in names:
                with contextlib.suppress(KeyError):  # also what was executed between tests, and what failed
                    bits |= 1 << number[test]
            lines[name][line] = f"{bits:x}"
    content = json.dumps({"tests": tests, "lines": lines, "sources": sources})
    scratch = path.with_suffix(".new")
    scratch.write_bytes(gzip.compress(content.encode(), 6))
    os.replace(scratch, path)

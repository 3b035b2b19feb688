"""Run mutants: `python -m tests.mutants --n 300 --seed 7`.

Results are added to a file as they come, so that a run which was interrupted goes on where it stopped. Measurements and
results are kept in build/mutants.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.lib.source import ROOT
from tests.mutants import reach, survivors
from tests.mutants.changes import Edit
from tests.mutants.sample import draw, sources
from tests.mutants.tree import Tree
from tests.mutants.trial import SURVIVED, Trial

KEPT = ROOT / "build" / "mutants"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="how many mutants")
    parser.add_argument("--seed", type=int, help="which ones; printed if it is left out")
    parser.add_argument("--paths", nargs="*", default=[], help="only files that begin so, for instance io_uv/disk")
    parser.add_argument("--only", type=int, help="only this one of the sample, counted from 1, and show its output")
    parser.add_argument("--show", action="store_true", help="show the changes and run nothing")
    parser.add_argument("--measure", action="store_true", help="find out anew which tests execute which lines")
    parser.add_argument("--again", action="store_true", help="run those that survived before again")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant, as long as they took once")
    parser.add_argument("--near", action="store_true", help="leave the tests that start processes out")
    return parser.parse_args()


def _describe(number: int, edit: Edit, source: str) -> str:
    before, after = edit.lines(source)
    head = f"{number}. {edit.kind}: {edit.path}:{edit.first} {edit.where}"
    return "\n".join([head, *(f"    - {line}" for line in before), *(f"    + {line}" for line in after)])


class _Results:
    """The results so far, by what was changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key: dict[str, dict[str, object]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                result = json.loads(line)
                self.by_key[result["key"]] = result

    def add(self, result: dict[str, object]) -> None:
        self.by_key[str(result["key"])] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(result) + "\n")


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


def main() -> int:
    """Run the tool; return 1 if a mutant survived that nobody has looked at."""
    options = _arguments()
    seed = random.SystemRandom().randrange(1000000) if options.seed is None else options.seed
    print(f"--n {options.n} --seed {seed}", flush=True)
    texts = sources(ROOT)
    drawn = draw(texts, options.n, seed, options.paths)
    if options.show:
        for number, edit in enumerate(drawn, 1):
            print(_describe(number, edit, texts[edit.path]))
        return 0
    signal.signal(signal.SIGTERM, _stop)
    top = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        return _run(options, Tree(top), texts, drawn, _Results(KEPT / "results.jsonl"))
    finally:
        Tree.remove_at(top)


def _run(options: argparse.Namespace, tree: Tree, texts: dict[str, str], drawn: list[Edit], results: _Results) -> int:
    measured = KEPT / "reach.json.gz"
    found = reach.measure(tree, measured) if options.measure or not measured.exists() else reach.Reach.load(measured)
    trial = Trial(tree, found, options.seconds, not options.near)
    known = survivors.known()
    survived: list[str] = []
    accepted = 0
    for number, edit in enumerate(drawn, 1):
        if options.only not in (None, number):
            continue
        source = texts[edit.path]
        key = survivors.key(edit, source)
        old = results.by_key.get(key)
        if old is None or options.only or (options.again and old["verdict"] == SURVIVED):
            begin = time.monotonic()
            verdict = trial.judge(edit, source)
            took = round(time.monotonic() - begin, 1)
            old = {"key": key, "verdict": verdict.verdict, "test": verdict.test, "ran": verdict.ran, "took": took}
            results.add(old)
        print(f"{_describe(number, edit, source)}\n    = {old['verdict']} {old['test']} {old['took']} s", flush=True)
        if options.only:
            print((tree.top / "output").read_text(errors="replace"))
        if old["verdict"] == SURVIVED:
            if key in known:
                accepted += 1
                print(f"    known: {known[key]}")
            else:
                survived.append(_describe(number, edit, source))
    for text in survived:
        print(f"survived: {text}")
    if trial.unsteady:
        print(f"tests that passed alone, or failed without the change too: {sorted(trial.unsteady)}")
    total = len(drawn) if options.only is None else 1
    share = 100 * (total - len(survived) - accepted) / max(total, 1)
    print(f"{total} mutants, {share:.1f} % caught, {accepted} survived and are known, {len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

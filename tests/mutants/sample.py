"""Which of all changes are tried: a random sample, the same for the same seed and sources."""

import random
from pathlib import Path

from tests.mutants.changes import SHARES, Edit, edits_of, is_program
from tests.mutants.tree import PACKAGES

LIGHT = {"pyraft/fixture": 0.25, "io_uv/pyuv/errno": 0.1, "pyraft/_build": 0.0}
"""Beginnings of paths, each with the weight of its files: what serves tests, tables of names, what builds the wheel."""


def sources(root: Path) -> dict[str, str]:
    """Return the text of every module of the packages by its path from `root`."""
    found = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_text() for path in found if "__pycache__" not in path.parts}


def weight(path: str) -> float:
    """Return how likely a place in a file is drawn, compared with one elsewhere."""
    return next((value for begin, value in LIGHT.items() if path.startswith(begin)), 1.0)


def draw(texts: dict[str, str], n: int, seed: int, beginnings: list[str]) -> list[Edit]:
    """Draw `n` different changes, or all there are, of files whose paths begin with one of `beginnings`, if any.

    The kind is drawn first, by its share, then a place. That of a larger `n` begins with that of a smaller one.
    """
    dice = random.Random(seed)
    by_kind: dict[str, list[Edit]] = {kind: [] for kind in SHARES}
    for path, text in texts.items():
        if weight(path) > 0 and (not beginnings or path.startswith(tuple(beginnings))):
            for edit in edits_of(path, text):
                by_kind[edit.kind].append(edit)
    drawn: list[Edit] = []
    while len(drawn) < n and any(by_kind.values()):
        kind = dice.choices(list(SHARES), [share if by_kind[kind] else 0 for kind, share in SHARES.items()])[0]
        places = by_kind[kind]
        edit = places.pop(dice.randrange(len(places)))
        if dice.random() < weight(edit.path) and is_program(edit.apply(texts[edit.path])):
            drawn.append(edit)
    return drawn

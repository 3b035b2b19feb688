"""The edits that break a copy of the core on purpose: each finds its text, once, in the code of today.

The failures of the broken copies are in tests/fuzzy; that takes minutes, and a text that has changed is seen here at
once.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

import pyraft
from tests.fuzzy import faults
from tests.fuzzy.test_mutations import MUTATIONS
from tests.lib.explorer.broken import FAULTS

SOURCE = Path(pyraft.__file__).parent


def edits() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every edit's name and its parts."""
    yield from MUTATIONS.items()
    for name, fault in FAULTS.items():
        yield name, fault.edits
    for name, old in faults.FAULTS.items():
        yield name, old.edits


@pytest.mark.parametrize(("name", "parts"), list(edits()))
def test_an_edit_finds_its_text(name: str, parts: tuple[str, ...]) -> None:
    """Each part is (file, old text, new text)."""
    for file, old, new in zip(*[iter(parts)] * 3, strict=True):
        assert (SOURCE / file).read_text().count(old) == 1, f"{file} has changed: write {name!r} anew"
        assert old != new

"""Words on libraft, and to users: marks name a place in C, numbers have rows, texts of errors are read once."""

import ast
import re
from pathlib import Path

import io_uv
import pyraft
from tests.lib.prose import IS_NO, paragraphs

PACKAGES = [Path(name).parent for name in (pyraft.__file__, io_uv.__file__) if name is not None]
TABLES = [package / "DEVIATIONS.md" for package in PACKAGES]
TESTS = Path(__file__).resolve().parents[1]

MARK = re.compile(r"(?:^|[.;:] )C: (?P<place>\S+ )")
"""A mark, at the beginning of a comment or docstring's paragraph, or behind a sentence."""


def test_marks_name_a_place_in_c() -> None:
    """`# C: file.c:function …`, or the file where no function of it is meant, so that one finds what is spoken of."""
    found = 0
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            for line, text in paragraphs(path):
                for mark in MARK.finditer(text):
                    found += 1
                    assert re.match(r"\w+\.[ch](:\w+)? ", mark["place"]), f"{path.name}:{line}: {text[:80]}"
    assert found > 90


def test_numbers_of_defects_have_rows() -> None:
    """Every B1, B2, … that code, tests and documents speak of is in a table of differences."""
    rows = {number for table in TABLES for number in re.findall(r"\bB(\d+)\b", table.read_text())}
    for top in (*PACKAGES, TESTS):
        for path in sorted([*top.rglob("*.py"), *top.rglob("*.md")]):
            spoken = set(re.findall(r"\bB(\d{1,2})\b", path.read_text()))
            assert spoken <= rows, f"{path.name} speaks of {sorted(spoken - rows)}"


def test_texts_for_users_are_read_once() -> None:
    """No text of an error or a log line says "is no …", where what it is would be told in one reading."""
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not IS_NO.search(node.value), f"{path.name}:{node.lineno}: {node.value[:80]}"

"""Words on libraft, and to users: marks name a place in C, numbers have rows, texts of errors are read once."""

import ast
import re
from pathlib import Path

import io_uv
import pyraft
from tests.lib.header_names import RAFT_ADDITIONS, UV_ADDITIONS
from tests.lib.messages import fields_of
from tests.lib.prose import IS_NO, IS_NONE, paragraphs

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


def test_a_module_of_tests_sets_its_pytest_marks_once() -> None:
    """A second `pytestmark` would take back the first, which perhaps skips the tests where they cannot run."""
    for path in sorted(TESTS.rglob("test_*.py")):
        targets = [node.targets for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
        names = [target.id for each in targets for target in each if isinstance(target, ast.Name)]
        assert names.count("pytestmark") <= 1, path.name


def test_numbers_of_defects_have_rows() -> None:
    """Every B1, B2, … that code, tests and documents speak of is in a table of differences."""
    rows = {number for table in TABLES for number in re.findall(r"\bB(\d+)\b", table.read_text())}
    for top in (*PACKAGES, TESTS):
        for path in sorted([*top.rglob("*.py"), *top.rglob("*.md")]):
            spoken = set(re.findall(r"\bB(\d{1,2})\b", path.read_text()))
            assert spoken <= rows, f"{path.name} speaks of {sorted(spoken - rows)}"


def test_texts_for_users_are_read_once() -> None:
    """No text of an error or a log line says "is no …" or "is none", where what it is would be told in one reading."""
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = " ".join(node.value.split())
                    found = IS_NO.search(text) or IS_NONE.search(text)
                    assert not found, f"{path.name}:{node.lineno}: {text[:80]}"


def test_additions_are_told() -> None:
    """Each name that raft.h and uv.h do not have, and each function of ours in RaftIo, is in the list of additions."""
    core, uv = (table.read_text() for table in TABLES)
    assert {name for name in RAFT_ADDITIONS if f"`{name}`" not in core} == set()
    assert {name for name in UV_ADDITIONS if f"`{name}`" not in uv} == set()
    of_c = (
        "init close load start bootstrap recover set_term set_vote send append truncate snapshot_put snapshot_get time"
    )
    of_c += " random async_work version data impl errmsg"
    assert {
        name for name in fields_of(pyraft.RaftIo()) if name not in of_c.split() and f"`io.{name}`" not in core
    } == set()

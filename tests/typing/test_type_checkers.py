"""The words of type checkers to the people who use the packages: they find mistakes, and nothing where there are
none."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import io_uv
import pyraft
from pyraft import fixture
from tests.integration.test_readme import blocks
from tests.lib import header_names as names
from tests.lib.typecheck import MARK, RIGHT, ROOT, WRONG, Findings, misjudged, mypy, pyright

checkers = pytest.mark.parametrize("checker", [mypy, pyright])


@checkers
def test_every_mistake_is_found_and_no_other(checker: Callable[..., Findings]) -> None:
    """The lines in which a checker finds something are those that say so."""
    assert misjudged(checker(*WRONG)) == []


@checkers
def test_right_programs_are_accepted(checker: Callable[..., Findings], tmp_path: Path) -> None:
    """Subclasses of requests and tables, buffers of all kinds, and the programs of the README and the examples."""
    readme = tmp_path / "readme.py"
    readme.write_text("# mypy: allow-untyped-defs, allow-untyped-calls\n" + "".join(blocks()))
    assert misjudged(checker(RIGHT, readme, *sorted((ROOT / "examples").glob("*.py")))) == []


def test_every_public_function_is_called_wrongly() -> None:
    """No function of the three headers is left out in the programs with mistakes."""
    text = "\n".join(line for path in WRONG for line in path.read_text().splitlines() if line.endswith(MARK))
    called = set(re.findall(r"\b(raft_\w+)\(", text))
    for module in (pyraft, io_uv, fixture):
        functions = {name for name in module.__all__ if callable(getattr(module, name)) and name.startswith("raft_")}
        aliases = {*names.RAFT_H_TYPES, *names.RAFT_ADDED_TYPES, *names.UV_H_TYPES, *names.UV_ADDED_TYPES}
        aliases |= {*names.FIXTURE_H_TYPES}
        assert functions - aliases - called == set()


def test_every_function_of_the_tables_is_assigned_wrongly() -> None:
    """No slot of a table takes just anything."""
    text = "\n".join(line for path in WRONG for line in path.read_text().splitlines() if line.endswith(MARK))
    tables = {
        "disk": (pyraft.RaftIo(), "version data impl errmsg"),
        "plain": (pyraft.RaftFsm(), "version data"),
        "transport": (io_uv.RaftUvTransport(), "version data impl errmsg"),
        r"RaftHeap\(\)": (pyraft.RaftHeap(), "data"),
        r"RaftTracer\(\)": (pyraft.RaftTracer(), "impl enabled level"),
    }
    for name, (table, fields) in tables.items():
        assigned = set(re.findall(rf"\b{name}\.(\w+) = ", text))
        functions = {field for field in dir(table) if not field.startswith("_")} - set(fields.split())
        assert functions - assigned == set(), name

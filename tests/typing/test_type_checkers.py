"""The words of type checkers to the people who use the packages: they find mistakes, and nothing where there are
none."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import io_uv
import pyraft
from pyraft import fixture
from tests.integration.test_readme import blocks
from tests.lib import header_names as names

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RIGHT = HERE / "right_programs.py"
WRONG = sorted(HERE.glob("wrong_*.py"))
MARK = "  # wrong"

Findings = dict[Path, dict[int, str]]
"""By file, what was found in which line."""


def mypy(*paths: Path) -> Findings:
    """Return what mypy --strict finds."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Findings = {path: {} for path in paths}
    for path, line, text in re.findall(r"^(.*?):(\d+): error: (.*)$", done.stdout, re.M):
        found.setdefault(ROOT / path, {})[int(line)] = text
    return found


def pyright(*paths: Path) -> Findings:
    """Return what pyright finds."""
    if importlib.util.find_spec("pyright") is None and os.environ.get("CI") != "true":
        pytest.skip("pyright is not installed")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Findings = {path: {} for path in paths}
    for item in json.loads(done.stdout)["generalDiagnostics"]:
        if item["severity"] == "error":
            found.setdefault(Path(item["file"]), {})[item["range"]["start"]["line"] + 1] = item["message"]
    return found


checkers = pytest.mark.parametrize("checker", [mypy, pyright])


@checkers
def test_every_mistake_is_found_and_no_other(checker: Callable[..., Findings]) -> None:
    """The lines in which a checker finds something are those that say so."""
    for path, found in checker(*WRONG).items():
        lines = path.read_text().splitlines()
        marked = {number for number, line in enumerate(lines, 1) if line.endswith(MARK)}
        missed = [f"{path.name}:{number}: {lines[number - 1]}" for number in sorted(marked - found.keys())]
        assert missed == []
        assert {number: text for number, text in found.items() if number not in marked} == {}


@checkers
def test_right_programs_are_accepted(checker: Callable[..., Findings], tmp_path: Path) -> None:
    """Subclasses of requests and tables, buffers of all kinds, and the programs of the README and the examples."""
    readme = tmp_path / "readme.py"
    readme.write_text("# mypy: allow-untyped-defs, allow-untyped-calls\n" + "".join(blocks()))
    found = checker(RIGHT, readme, *sorted((ROOT / "examples").glob("*.py")))
    assert {path: errors for path, errors in found.items() if errors} == {}


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

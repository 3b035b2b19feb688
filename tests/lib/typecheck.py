"""The two type checkers, asked about programs that use the packages: those of the source tree, or installed ones.

Duty: `mypy` and `pyright` return what they find, by file and line; `misjudged` compares that with the lines that are
marked as wrong.

Failure modes: AssertionError with all that was said where a checker cannot do its work. Where pyright is not installed
the test that asks for it skips, in continuous integration it fails.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "typing"
RIGHT = PROGRAMS / "right_programs.py"
WRONG = sorted(PROGRAMS.glob("wrong_*.py"))
MARK = "  # wrong"

Findings = dict[Path, dict[int, str]]
"""By file, what was found in which line."""


def _said(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(*paths: Path, python: str = sys.executable, cwd: Path = ROOT) -> Findings:
    """Return what mypy --strict finds, if the packages are those of `python`, or are in `cwd`."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"]
    command += [f"--python-executable={python}", *map(str, paths)]
    found: Findings = {path: {} for path in paths}
    for path, line, text in re.findall(r"^(.*?):(\d+): error: (.*)$", _said(command, cwd), re.M):
        found.setdefault(cwd / path, {})[int(line)] = text
    return found


def pyright(*paths: Path, python: str = sys.executable, cwd: Path = ROOT) -> Findings:
    """Return what pyright finds, likewise."""
    if importlib.util.find_spec("pyright") is None and os.environ.get("CI") != "true":
        pytest.skip("pyright is not installed")
    command = [sys.executable, "-m", "pyright", "--pythonpath", python, "--outputjson", *map(str, paths)]
    found: Findings = {path: {} for path in paths}
    for item in json.loads(_said(command, cwd))["generalDiagnostics"]:
        if item["severity"] == "error":
            found.setdefault(Path(item["file"]), {})[item["range"]["start"]["line"] + 1] = item["message"]
    return found


def misjudged(found: Findings) -> list[str]:
    """Return the lines that are marked as wrong, and in which nothing was found, and what was found in others."""
    problems = []
    for path, errors in found.items():
        lines = path.read_text().splitlines()
        marked = {number for number, line in enumerate(lines, 1) if line.endswith(MARK)}
        missed = sorted(marked - errors.keys())
        problems += [f"{path.name}:{number}: not found: {lines[number - 1]}" for number in missed]
        problems += [f"{path.name}:{number}: {text}" for number, text in errors.items() if number not in marked]
    return problems

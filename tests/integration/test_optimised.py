"""Python's -O and -OO take assertions and docstrings out of the packages. Guards against input have to stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

GUARDS = (
    "integration/test_fixture.py",
    "integration/test_core_arguments.py",
    "integration/test_core_edges.py",
    "integration/test_core_misuse.py",
    "integration/test_uv_load_closed.py",
    "integration/test_uv_metadata.py",
    "unit/test_encoding.py",
)
"""Tests of what the fixture checks, and of what a caller, a disk and a peer may hand in."""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python from the root without writing bytecode, and not in development mode, in which some tests skip."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONDEVMODE": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_checks_stay(option: str) -> None:
    """All tests of checks pass without a single assertion in the packages."""
    quiet = ("-W", "ignore::pytest.PytestWarning", "-p", "tests.lib.optimised")
    done = run(option, "-m", "pytest", "-q", *quiet, *(f"tests/{name}" for name in GUARDS))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_assertions_go(option: str) -> None:
    """These options do what the tests above rely on, in the pure form: the core's invariants are not looked at."""
    program = "from pyraft import log; log.snapshot(log.RaftLog(), 7, 1); print(log.__file__)"
    pure = run("-c", "from pyraft import log; print(log.__file__)").stdout.strip().endswith(".py")
    assert (run(option, "-c", program).returncode == 0) == pure
    assert run("-c", program).returncode != 0

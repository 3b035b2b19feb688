"""The torture bites: ways to lose what was acknowledged or promised, each noticed after a few kills.

A mutation is one edit of the sources, made in a copy. More of them were tried by hand: tests/README.md.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

KILLS = 30

MUTATIONS = {
    "says of entries that they are durable, and then writes them": (
        "io_uv/append.py",
        "    req.cb = cb\n    failure =",
        "    uv.end_of_turn.add(lambda: cb(req, 0))\n    req.cb = lambda *_: None\n    failure =",
        "was on its disk and committed",
    ),
    "a candidate does not store its own vote": (
        "pyraft/election.py",
        "        rv = calls.set_vote(r, r.id)\n",
        "        rv = 0\n",
        "voted for",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_server_that_is_caught(name: str, tmp_path: Path) -> None:
    """A torture of mutated servers ends with what they did not keep."""
    file, old, new, text = MUTATIONS[name]
    for package in ("pyraft", "io_uv", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    source = (tmp_path / file).read_text()
    assert source.count(old) == 1, f"{file} has changed: write this mutation anew"
    (tmp_path / file).write_text(source.replace(old, new))
    command = [
        sys.executable,
        "-m",
        "tests.fuzzy.torture",
        "--kills",
        str(KILLS),
        "--seed",
        "7",
        "--dir",
        str(tmp_path),
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1, f"not noticed: {result.stdout[-500:]}"
    assert text in result.stderr, result.stderr[-2000:]

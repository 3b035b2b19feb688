"""The files of the source tree: those that git knows of or would take, or all of an unpacked archive.

An archive (an sdist, a download without git) has no list, so everything in it counts but what building, checking and
testing have put there since.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

MADE = (".venv", "build", "dist", "__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
"""Directories that nobody has written."""


def source_files() -> list[Path]:
    """Return every file, sorted by what git says or by name."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    names = [ROOT / name for name in dict.fromkeys(listed.split("\0")) if name]
    return [path for path in names or _all_files() if path.is_file()]


def _all_files() -> list[Path]:
    found = []
    for top, directories, files in os.walk(ROOT):
        directories[:] = [name for name in directories if name not in MADE and not name.endswith(".egg-info")]
        found += [Path(top) / name for name in files]
    return sorted(found)

"""A copy of the working tree in which mutants live, so that the tree itself is never changed.

The copy has the files of the source tree, as they are on disk now. Everything that tests leave (temporary files, caches
of bytecode) lands in the copy's scratch directory or dies with the copy.
"""

import os
import shutil
from pathlib import Path

from tests.lib.source import ROOT, source_files

PACKAGES = ("pyraft", "io_uv")


class Tree:
    """A copy in a new directory under `top`: `root` is the tree, `scratch` takes temporary files."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "tree"
        self.scratch = top / "tmp"
        self.scratch.mkdir(parents=True)
        for path in source_files():
            target = self.root / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    def environment(self) -> dict[str, str]:
        """Return the variables for a process that runs on the copy."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MUTANTS_")}
        return variables | {"PYTHONPATH": str(self.root), "TMPDIR": str(self.scratch)}

    def write(self, path: str, text: str) -> None:
        """Give a file another text. Its bytecode goes: a change of one second and the same size would not be seen."""
        target = self.root / path
        target.write_text(text)
        for stale in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
            stale.unlink()

    def clear(self) -> None:
        """Remove what tests have left in the scratch directory."""
        for path in self.scratch.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    @staticmethod
    def remove_at(top: Path) -> None:
        """Remove a copy, whole or not."""
        shutil.rmtree(top, ignore_errors=True)

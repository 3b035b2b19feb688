"""A copy of the working tree in which mutants live, so that the tree itself is never changed.

The copy has what git knows of or would take, as it is on disk now. Everything that tests leave (temporary files, caches
of bytecode) lands in the copy's scratch directory or dies with the copy.
"""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("pyraft", "io_uv")


class Tree:
    """A copy in a new directory under `top`: `root` is the tree, `scratch` takes temporary files."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = top / "tree"
        self.scratch = top / "tmp"
        self.scratch.mkdir(parents=True)
        for name in _files():
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)

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


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    return [name for name in dict.fromkeys(listed) if name and (ROOT / name).is_file()]

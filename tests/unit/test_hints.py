"""What a type checker tells an embedder about the state machine that he writes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
from typing import Any

from pyraft import RaftFsm


class Store(RaftFsm):
    def __init__(self) -> None:
        super().__init__()
        self.apply = Store.do_apply
        self.snapshot = Store.do_snapshot
        self.restore = Store.do_restore
        self.snapshot_finalize = Store.do_finalize
        self.snapshot_async = Store.do_async

    def do_apply(self, buf: bytes) -> tuple[int, str]:
        return 0, "result"

    def do_snapshot(self) -> tuple[int, list[bytes]]:
        return 0, []

    def do_restore(self, buf: Any) -> int:
        return 0

    def do_finalize(self, bufs: list[bytes]) -> int:
        return 0

    def do_async(self, bufs: list[bytes]) -> tuple[int, list[memoryview]]:
        return 0, []


def no_code(fsm: Store, buf: bytes) -> str:
    return "result"


def nothing(fsm: Store, buf: Any) -> None:
    return None


fsm = Store()
fsm.apply = no_code  # type: ignore[assignment]
fsm.snapshot = no_code  # type: ignore[assignment]
fsm.restore = nothing  # type: ignore[assignment]
fsm.snapshot_finalize = nothing  # type: ignore[assignment]
fsm.snapshot_async = no_code  # type: ignore[assignment]
"""


def test_functions_of_another_shape_are_found(tmp_path: Path) -> None:
    """mypy takes a subclass's methods, and finds each assignment below them wrong: an ignore too many is an error."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""How far a tool is with a directory, for those who wait in front of it.

Duty: `Progress` is what a caller gives to the functions that take long where much is in a directory; `Tally` adds up
the bytes of one of their steps and tells it.

Happy path: `tally = Tally(progress, "reading", total)`, and `tally.add(n)` for each piece. Failure modes: none; without
a `Progress` nothing is told. An exception of the caller's function ends the call that told it.
"""

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a step, and how many of how many bytes of it are done. Steps follow each other."""


class Tally:
    """The bytes of one step."""

    def __init__(self, progress: Progress | None, step: str, total: int) -> None:
        self._progress = progress
        self._step = step
        self._done = 0
        self._total = total

    def add(self, n: int) -> None:
        """Count n more bytes."""
        self.to(self._done + n)

    def to(self, done: int) -> None:
        """Count as many bytes as there are now in all."""
        self._done = done
        if self._progress is not None:
            self._progress(self._step, self._done, max(self._done, self._total))

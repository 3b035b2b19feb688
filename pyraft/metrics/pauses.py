"""The pauses that Python's garbage collection makes in this process, as a histogram.

Duty: `watched` returns it, and has the interpreter report its collections as long as somebody keeps what it returns. A
collection holds every thread up; a full one takes longer the more objects there are.

Happy path: a `Collector` keeps it, and reads `histogram` when it is asked.

Failure modes: none. Collections before the first call are not in it.
"""

import gc
import time
import weakref
from typing import Any

from io_uv.histogram import Histogram


class Pauses:
    """The collections of this process since it was made."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        gc.callbacks.append(_callback(self.histogram))
        weakref.finalize(self, gc.callbacks.remove, gc.callbacks[-1])


def _callback(found: Histogram) -> Any:
    def collected(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.began = time.perf_counter()
        elif found.began:
            found.observe(time.perf_counter() - found.began)

    return collected


_pauses: "weakref.ref[Pauses] | None" = None


def watched() -> Pauses:
    """Return the pauses of this process, the same for all who ask."""
    global _pauses
    found = None if _pauses is None else _pauses()
    if found is None:
        found = Pauses()
        _pauses = weakref.ref(found)
    return found

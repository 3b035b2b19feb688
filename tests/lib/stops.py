"""Stops random processes of a tree for a while, as a machine does that swaps, or has too much else to do.

Duty: `Stops` has a thread that sends SIGSTOP to a process, lets it lie for 0.3 to 2 s, and sends SIGCONT, over and
over: in one of two cases the root of the tree, else one of its descendants. `end` lets the last one go on.

Failure modes: a process that somebody else has stopped is left alone. A process is held by a descriptor while it is
looked at and signalled, so that no other one of the same number is meant.
"""

import contextlib
import os
import random
import signal
import threading
from pathlib import Path


def parents() -> dict[int, tuple[int, str]]:
    """Return the parent and the state letter of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name before the last parenthesis may hold anything.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            found[int(path.parent.name)] = (int(parent), state)
    return found


def descendants(root: int) -> list[int]:
    """Return the processes below `root` that run or may run, in order of their numbers."""
    known = parents()
    below = {root}
    while more := {pid for pid, (parent, _) in known.items() if parent in below} - below:
        below |= more
    return sorted(pid for pid in below if pid != root and known[pid][1] not in "TtZX")


class Stops:
    """Stops processes of the tree below `root` and itself, `gap` seconds apart on average, until `end`."""

    def __init__(self, root: int, seed: str, gap: float = 3.0) -> None:
        self.count = 0
        self._root = root
        self._dice = random.Random(seed)
        self._gap = gap
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Let everything go on."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._dice.uniform(0.2, 1.8) * self._gap):
            below = [] if self._dice.random() < 0.5 else descendants(self._root)
            self._stop(self._dice.choice(below) if below else self._root, self._dice.uniform(0.3, 2))

    def _stop(self, pid: int, seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                if pid == self._root or pid in descendants(self._root):
                    signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
                    self.count += 1
                    self._end.wait(seconds)
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            finally:
                os.close(descriptor)

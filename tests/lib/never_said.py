"""The lines that no server may ever write, whatever is done to it by SIGKILL, SIGSTOP and load.

Duty: `found` picks them out of what servers have said, `check` reads files and fails if there is one. They tell of
bytes that no peer of ours sends, of files that no kill leaves, and of exceptions that nobody has caught: what clients
see may be right all the same, as a connection is made anew and the log of another server is whole.

Left out is whatever a kill explains: connections that end, peers that cannot be reached, the torn end of an open
segment, which is cut without a word (io_uv.open_segment), and a server that recovers since it was killed while its
empty log was being filled up. A line that a kill has cut short counts by what is there of it.

Failure modes: AssertionError with the lines and the files that they are in.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

NEVER: Final = (
    # A message that cannot be read, or that no honest server sends (io_uv.recv, pyraft.plausible, membership.DROP).
    r" dropped: ",
    r" at byte \d+",
    # A directory that no kill leaves behind (io_uv.disk): writes that the kernel has taken are made.
    r"(?i)corrupt",
    r" is set aside as ",
    r" is cut, ",
    r"acknowledged entries may be missing",
    r" has lost entries that it had acknowledged",
    # A server that has stopped, or does what it was told at the wrong time.
    r" stops, until it is closed and started again",
    r"^unavailable:",
    r" of server \d+ raised",
    r"^(io\.report|a tracer) raised",
    r" does nothing: ",
    # The interpreter's own words.
    r"^Traceback \(most recent call last\)",
    r"^Unhandled exception in ",
    r"^Exception (ignored in|in callback|while getting)",
    r"^Fatal Python error",
    r" exception was never retrieved",
    r" was never awaited",
    r"\bResourceWarning\b",
)

_FORBIDDEN: Final = [re.compile(pattern) for pattern in NEVER]


def found(lines: Iterable[str]) -> list[str]:
    """Return the lines that must not be there."""
    return [line for line in lines if any(pattern.search(line) for pattern in _FORBIDDEN)]


def check(paths: Iterable[Path]) -> None:
    """Fail if one of these files, in which servers have written, has such a line."""
    told = []
    for path in sorted(paths):
        wrong = found(path.read_text(errors="replace").splitlines())
        told += [f"{path.name}: {line}" for line in wrong]
    assert not told, "servers have said what they never should:\n" + "\n".join(told[:20])

"""Feature flags: 64-bit sets of what a server is capable of, exchanged in AppendEntriesResult.

Duty: the operations on such a set, and the flags that this library announces. Peers of other kinds ignore them.
Sets are plain integers (raft_flags).

Failure modes: none; bits above 63 are cut off, as in C.
"""

from typing import Final

DEFAULT_FEATURES: Final = 0
"""The features of the C library, and of this one over an I/O that does not carry these words (RaftIo.features)."""

PROVEN_ANSWERS: Final = 1 << 15
"""The server's answers to AppendEntries count what the message showed to match, not all that is stored (ours, B8)."""

ECHOED_QUESTIONS: Final = 1 << 14
"""The server answers a leader's question whether it still follows with the question's number (ours, see reads)."""

_ALL: Final = (1 << 64) - 1


def set(flags: int, which: int) -> int:
    """Return `flags` with those in `which` added."""
    return (flags | which) & _ALL


def clear(flags: int, which: int) -> int:
    """Return `flags` without those in `which`."""
    return flags & ~which & _ALL


def is_set(flags: int, flag: int) -> bool:
    """Return whether any of the bits of `flag` is in `flags`."""
    return (flags & flag) != 0

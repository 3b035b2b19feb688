"""The settings of a node, in one object, with their units in their names and their ranges checked.

Duty: `Settings` holds what a program may want otherwise. All members of a cluster should have the same timeouts; the
rest is each node's own.

Happy path: `Node("data/1", Shop(), settings=Settings(timeout_seconds=3))`.

Failure modes: a value that is not a number, or out of its range, is a ValueError that names the setting, its range and
what was given; so is a heartbeat that is not well below the election timeout.
"""

import dataclasses
from dataclasses import dataclass
from typing import Final

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "heartbeat_msecs": (5, 60_000),
    "election_timeout_msecs": (20, 600_000),
    "timeout_seconds": (0.001, 86_400),
    "command_bytes": (64, 4 << 20),
    "pending_calls": (1, 65_536),
    "pending_bytes": (4096, 1 << 30),
    "snapshot_entries": (1, 1 << 40),
    "trailing_entries": (0, 1 << 40),
    "connections": (1, 65_536),
    "voters": (1, 99),
    "replace_seconds": (0.1, 1e9),
    "clock_drift": (0.0, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings, with the defaults."""

    heartbeat_msecs: int = 100
    """How often a leader sends messages when there is nothing to say."""
    election_timeout_msecs: int = 1000
    """How long a follower hears nothing before it calls an election: this, up to twice as long."""
    timeout_seconds: float = 10.0
    """How long a call may take. `node.timeout(seconds)` sets it for the calls in its block."""
    command_bytes: int = 1 << 20
    """How large the packed arguments of one call may be."""
    pending_calls: int = 4096
    """Calls of this node that may wait for their outcome; the next one waits for room."""
    pending_bytes: int = 16 << 20
    """The same, by the size of their arguments."""
    snapshot_entries: int = 8192
    """A snapshot is taken after so many entries."""
    trailing_entries: int = 8192
    """So many entries are kept behind a snapshot, for members that are a little behind."""
    connections: int = 256
    """Connections of other nodes and of clients that are served at a time."""
    voters: int = 5
    """How many members vote, at most; the others stand by."""
    replace_seconds: float = 300.0
    """How long the leader hears nothing from a voter before a standby takes its place."""
    clock_drift: float = 0.05
    """By how much, as a share, the clock of one member may be slower than that of another: for leases."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, high = _RANGES[field.name]
            kinds = (int, float) if field.type in (float, "float") else (int,)
            if type(value) not in kinds or not low <= value <= high:  # a NaN is in no range
                raise ValueError(f"{field.name} must be {_kind(kinds)} from {low} to {high}, not {value!r}")
        if self.heartbeat_msecs * 2 > self.election_timeout_msecs:
            raise ValueError(
                f"heartbeat_msecs ({self.heartbeat_msecs}) must be at most half of election_timeout_msecs "
                f"({self.election_timeout_msecs})"
            )


def _kind(kinds: tuple[type, ...]) -> str:
    return "a number" if float in kinds else "a whole number"

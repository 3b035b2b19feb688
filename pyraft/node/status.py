"""The state of one member as it tells it itself: what an operator asks first, as plain values that travel.

Duty: `Status` is that; `gather` reads it off a server, which costs nothing until somebody asks. `packed` and `parse`
are its two ends on the wire. It is the same for a node and for a server that only uses the C-style API (`desk`).

Happy path: `gather(raft, io)` at the member, `parse(answer)` where it was asked for.

Failure modes: an answer whose parts are of other types is Malformed. Parts that one side does not know are left out or
have their defaults, so that members of several versions can be asked.
"""

import dataclasses
import platform
import time
from dataclasses import dataclass
from typing import Any, Final

from io_uv import health
from io_uv.histogram import Histogram
from pyraft import RAFT_LEADER, Raft, RaftIo, __version__, log, raft_leader, raft_state, types
from pyraft.node.council import rows
from pyraft.node.errors import Malformed
from pyraft.types import STATE_NAMES

VERSION: Final = __version__ + ("" if types.__file__.endswith(".py") else " compiled")


@dataclass(frozen=True)
class Status:
    """One member, as it sees itself and the cluster. Indexes are those of log entries; sizes are in bytes."""

    id: int = 0
    address: str = ""
    cluster: str = ""
    """The cluster's id; empty for a server that only uses the C-style API."""
    machine: str = ""
    """The class of the program's machine; empty likewise."""
    version: str = ""
    """The version of this library."""
    python: str = ""
    state: str = ""
    """leader, follower, candidate or unavailable."""
    cause: str = ""
    """Why it has stopped, if it has."""
    term: int = 0
    leader: int = 0
    """The leader's id as this member knows it, 0 for none."""
    leader_address: str = ""
    leader_seconds: float = -1.0
    """For how long it has known this leader, or has known none; below 0 where nobody has counted."""
    up_seconds: float = -1.0
    """For how long it has run, likewise."""
    first: int = 0
    """The index of the first entry in its log; `last` is that of the last one."""
    last: int = 0
    stored: int = 0
    """The last one that its disk has."""
    commit: int = 0
    applied: int = 0
    snapshot: int = 0
    """The last entry of its newest snapshot, 0 without one."""
    snapshot_taken: int = 0
    """When that was taken, in ms since the epoch."""
    snapshot_problem: str = ""
    """Why the last one could not be taken or stored."""
    stuck: int = 0
    """An entry that its state machine refuses, 0 for none."""
    recovering: str = ""
    """Why it takes no part in elections, if it does not."""
    disk: str = ""
    """Why its disk does not take entries, if it does not."""
    segments: int = 0
    segment_bytes: int = 0
    snapshot_bytes: int = 0
    free: int = -1
    """The room on its disk, and the size of that; below 0 where nobody can tell."""
    total: int = -1
    segment_size: int = 0
    """How large the next file of its log is, and its newest snapshot, as the next may be; 0 where nobody can tell."""
    newest_bytes: int = 0
    clock: int = 0
    """Its time of day, in microseconds since 1970."""
    members: list[list[Any]] = dataclasses.field(default_factory=list)
    """The members as it knows them: [id, address, role], and of a node the name that each has told."""
    matches: list[list[int]] = dataclasses.field(default_factory=list)
    """At the leader: [id, last entry that this member has acknowledged]."""
    links: list[list[Any]] = dataclasses.field(default_factory=list)
    """Its connections to members: [id, address, whether there is one]."""
    visitors: list[list[Any]] = dataclasses.field(default_factory=list)
    """Connections of this layer that others have opened: [host, id or 0 for a client]."""
    commit_counts: list[int] = dataclasses.field(default_factory=list)
    """How many calls of this leader took how long, by the ranges of `io_uv.histogram`; empty where nobody measures."""
    write_counts: list[int] = dataclasses.field(default_factory=list)
    """The same of durable writes of entries."""
    changes: bool = False
    """Whether a server that only uses the C-style API takes changes of the members over its port. Nodes all do."""
    page: str = ""
    """Where its own page is, if it serves one."""


def gather(
    r: Raft,
    io: RaftIo,
    microseconds: int | None = None,
    visitors: list[list[Any]] | None = None,
    commits: Histogram | None = None,
) -> Status:
    """Return what can be read off a server at once, without its disk."""
    leader = raft_leader(r)
    return Status(
        id=r.id,
        address=r.address,
        version=VERSION,
        python=platform.python_version(),
        state=STATE_NAMES[raft_state(r)],
        cause=r.cause,
        term=r.current_term,
        leader=leader[0],
        leader_address=leader[1] or "",
        first=r.log.offset + 1 if log.num_entries(r.log) else 0,
        last=log.last_index(r.log),
        stored=r.last_stored,
        commit=r.commit_index,
        applied=r.last_applied,
        snapshot=log.snapshot_index(r.log),
        snapshot_problem=r.snapshot.problem,
        stuck=r.stuck_index if r.stuck_index == r.last_applied + 1 else 0,
        recovering=recovering(r),
        disk=health.ailment(io),
        segment_size=health.segment_size(io),
        clock=time.time_ns() // 1000 if microseconds is None else microseconds,
        members=rows(r.configuration),
        matches=_matches(r),
        links=[list(link) for link in health.links(io)],
        visitors=visitors or [],
        commit_counts=[] if commits is None else list(commits.counts),
        write_counts=list(health.writes(io).counts),
    )


def with_sizes(status: Status, sizes: health.Sizes) -> Status:
    """Return a status with what is in the data directory."""
    return dataclasses.replace(
        status,
        snapshot_taken=sizes.snapshot_taken,
        segments=sizes.segments,
        segment_bytes=sizes.segment_bytes,
        snapshot_bytes=sizes.snapshot_bytes,
        free=sizes.free,
        total=sizes.total,
        newest_bytes=sizes.newest_bytes,
    )


def recovering(r: Raft) -> str:
    """Return why a server takes no part in elections until a leader has filled its log up, "" if it does."""
    if r.recovering and r.recovery_reason:
        return r.recovery_reason
    if r.filling:
        return "it has no log yet, and is given one"
    return "entries of its log were set aside" if r.recovering else ""


def _matches(r: Raft) -> list[list[int]]:
    leader = r.leader_state
    if leader is None or raft_state(r) != RAFT_LEADER:
        return []
    return [[s.id, p.match_index] for s, p in zip(r.configuration.servers, leader.progress, strict=False)]


# On the wire.


def packed(status: Status) -> dict[str, Any]:
    """Return a status as it travels."""
    return dataclasses.asdict(status)


def parse(answer: Any) -> Status:
    """Return the status that came in an answer. Raises Malformed."""
    if type(answer) is not dict:
        raise Malformed("an answer that is not a status")
    known: dict[str, Any] = {}
    for field in dataclasses.fields(Status):
        value = answer.get(field.name, _DEFAULTS[field.name])
        if type(value) is not type(_DEFAULTS[field.name]):
            raise Malformed(f"a status whose {field.name} is a {type(value).__name__}")
        rows = _ROWS.get(field.name)
        if rows is not None and not all(_fits(row, rows) for row in value):
            raise Malformed(f"a status with a wrong {field.name}")
        if field.name in _NUMBERS and not all(type(one) is int for one in value):
            raise Malformed(f"a status with {field.name} other than numbers")
        known[field.name] = value
    return Status(**known)


def _fits(row: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a row has at least these parts: later versions may have more."""
    return type(row) is list and len(row) >= len(kinds) and all(type(v) is k for v, k in zip(row, kinds, strict=False))


_DEFAULTS: Final[dict[str, Any]] = dataclasses.asdict(Status())
_ROWS: Final[dict[str, tuple[type, ...]]] = {
    "members": (int, str, str),
    "matches": (int, int),
    "links": (int, str, bool),
    "visitors": (str, int),
}
_NUMBERS: Final = ("commit_counts", "write_counts")

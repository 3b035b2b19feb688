"""The settings of a member, which all nodes of a cluster should have alike.

Duty: `Settings` has those of dqlite's server.c as defaults; `apply` hands them to raft.

Happy path: `Member(…, settings=Settings(snapshot_threshold=64, snapshot_trailing=64))`.

A log of large transactions would be a large part of the database, in memory: `log_bytes` bounds it. dqlite from 1.18 on
bounds it by the size of a snapshot.

Failure modes: Refused for values that make no sense, as dqlite has it: fewer than 4 trailing entries, or fewer than the
threshold.
"""

import dataclasses
from dataclasses import dataclass

from pyraft import (
    Raft,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_max_catch_up_round_duration,
    raft_set_max_catch_up_rounds,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
)
from pyraft.dqlite.errors import Refused

MAX_CATCH_UP_ROUNDS = 100
MAX_CATCH_UP_ROUND_MSECS = 50_000
LEAST_TRAILING = 4


@dataclass(frozen=True)
class Settings:
    """Times are in milliseconds, thresholds in entries of the log."""

    election_msecs: int = 3000
    heartbeat_msecs: int = 500
    snapshot_threshold: int = 1024
    snapshot_trailing: int = 8192
    log_bytes: int = 32 << 20
    """Bytes of applied entries behind which a snapshot is taken, whatever the threshold; it keeps as many, at most."""
    failure_domain: int = 0
    """For DESCRIBE: nodes of one domain are likely to fail together."""
    weight: int = 0
    """For DESCRIBE, until a client sets another one: go-dqlite prefers lower ones for voters."""

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_msecs < self.election_msecs:
            raise Refused(f"heartbeats every {self.heartbeat_msecs} ms, elections after {self.election_msecs} ms")
        least = max(LEAST_TRAILING, self.snapshot_threshold)
        if self.snapshot_trailing < least:
            every = f"snapshots every {self.snapshot_threshold}"
            raise Refused(f"{self.snapshot_trailing} trailing entries, where {every} take {least} or more")
        if self.log_bytes <= 0:
            raise Refused(f"snapshots every {self.log_bytes} bytes")
        for name, value in (("failure domain", self.failure_domain), ("weight", self.weight)):
            if not 0 <= value < 1 << 64:
                raise Refused(f"a {name} of {value}, where 0 to 2**64 - 1 may be")

    def at_latency(self, msecs: int) -> "Settings":
        """Return these settings with the times that dqlite has for a network of this latency."""
        return dataclasses.replace(self, election_msecs=15 * msecs, heartbeat_msecs=15 * msecs // 10)

    def trailing(self, raft: Raft) -> int:
        """Return how many entries a snapshot that is taken now is to keep: those that fit into log_bytes."""
        left, n = self.log_bytes, 0
        for buf in reversed(raft.log.bufs):
            left -= len(buf)
            if left < 0 or n == self.snapshot_trailing:
                break
            n += 1
        return max(n, LEAST_TRAILING)

    def apply(self, raft: Raft) -> None:
        """Set what raft has to know, before raft_start."""
        raft_set_election_timeout(raft, self.election_msecs)
        raft_set_heartbeat_timeout(raft, self.heartbeat_msecs)
        raft_set_snapshot_threshold(raft, self.snapshot_threshold)
        raft_set_snapshot_trailing(raft, self.snapshot_trailing)
        raft_set_pre_vote(raft, True)
        raft_set_max_catch_up_rounds(raft, MAX_CATCH_UP_ROUNDS)
        raft_set_max_catch_up_round_duration(raft, MAX_CATCH_UP_ROUND_MSECS)

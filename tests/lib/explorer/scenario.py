"""The start of a search and its bounds: one `Scenario` is one file's worth of bounds.

Duty: the kinds of steps, their bounds, and the settings of the servers. A bound of 0 leaves a kind out.

Failure modes: `Scenario.bounds` raises ValueError for a kind that does not exist.
"""

from typing import Final

import pyraft
from pyraft import RAFT_SPARE, RAFT_STANDBY, RAFT_VOTER, Raft
from tests.lib.explorer.freeze import LONG

KINDS: Final = {
    "timeouts": "the election timeout of a follower or candidate passes",
    "heartbeats": "a heartbeat interval of a leader passes",
    "contacts": "a leader's election timeout passes, and it counts who has answered",
    "expiries": "the timeout of a transfer passes",
    "crashes": "a server is killed, with what its disk has done by then, and starts again",
    "cuts": "what a server sends to another one in a step is lost, and it is told so",
    "drops": "the next message on a link is lost (overtaken and forgotten ones are free, see `capacity`)",
    "repeats": "a message arrives and stays on its link, to arrive again",
    "overtakes": "a message arrives before those that were sent before it",
    "slow": "the writes of a step take longer than that step",
    "failures": "a write fails",
    "meta": "a term or vote cannot be stored",
    "power": "a server is killed in the middle of a step",
    "commands": "a client submits a command to a leader",
    "changes": "a leader is asked for a change of the configuration",
    "transfers": "a leader is asked to hand over",
    "reads": "a client asks a leader for a linearizable read",
}
NAMES: Final = tuple(KINDS)
ROLES: Final = {"v": RAFT_VOTER, "s": RAFT_STANDBY, "x": RAFT_SPARE, "c": RAFT_VOTER}


class Scenario:
    """`servers` has a letter for each: v voter, c voter that answers like C's, s stand-by, x spare, o outside, with an
    empty disk.

    `led` starts with server 0 as leader and everything committed everywhere, otherwise everybody has just started.
    `changes_to` are the roles to assign, with + for additions and - for removals. `lazy`: each write ends by a step of
    its own. `capacity`: so many messages are on each link, the oldest is lost when one more is sent. `one_entry`: a
    message carries one entry. `patience`: see Raft.vote_patience. `depth` and `states` end the search.
    """

    def __init__(
        self,
        name: str,
        why: str,
        servers: str,
        *,
        led: bool = False,
        lazy: bool = False,
        capacity: int = 1,
        pre_vote: bool = False,
        one_entry: bool = False,
        threshold: int = 1024,
        trailing: int = 0,
        changes_to: str = "",
        patience: int = 2,
        depth: int = 100,
        states: int = 100_000,
        **bounds: int,
    ) -> None:
        unknown = set(bounds) - set(NAMES)
        if unknown:
            raise ValueError(f"{name}: no such bounds: {sorted(unknown)}")
        self.name = name
        self.why = why
        self.servers = servers
        self.led = led
        self.lazy = lazy
        self.capacity = capacity
        self.pre_vote = pre_vote
        self.one_entry = one_entry
        self.threshold = threshold
        self.trailing = trailing
        self.changes_to = changes_to
        self.patience = patience
        self.depth = depth
        self.states = states
        self.bounds = tuple(bounds.get(kind, 0) for kind in NAMES)

    @property
    def n(self) -> int:
        """Number of servers."""
        return len(self.servers)

    def apply_to(self, r: Raft) -> None:
        """Make the settings of a server. Every timeout is one of the two leaps that clocks make, see `freeze`."""
        pyraft.raft_set_heartbeat_timeout(r, 1)
        pyraft.raft_set_election_timeout(r, LONG)
        pyraft.raft_set_install_snapshot_timeout(r, LONG)
        pyraft.raft_set_max_catch_up_round_duration(r, LONG // 2)
        pyraft.raft_set_snapshot_threshold(r, self.threshold)
        pyraft.raft_set_snapshot_trailing(r, self.trailing)
        pyraft.raft_set_pre_vote(r, self.pre_vote)
        if self.one_entry:
            pyraft.raft_set_max_append_bytes(r, 1)
        r.vote_patience = self.patience

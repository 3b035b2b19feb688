"""The checks of a fixture after every step: the leader, Election Safety, Leader Append-Only (figure 3.2).

Duty: `find_leader` looks the stable leader up and checks that no term has two leaders; `LeaderLog` is a copy of the
leader's log that follows it as it grows, and says when an entry of the past has changed.

A step must stay cheap however long the log is. So the copy takes only what is new, and a check compares the newest
`WINDOW` entries and `WINDOW` further ones, those next to the ones of the check before: a change in the middle of a
long log is noticed within length / WINDOW steps, any change in a log of up to 2 * WINDOW entries at once.

Failure modes: AssertionError, whose text names the property, the servers or the index, and the values. These are
checks, not assertions: python -O leaves them in.
"""

from typing import Final

from pyraft import log
from pyraft.fixture_io import RaftFixtureServer
from pyraft.state import Raft
from pyraft.types import RAFT_FOLLOWER, RAFT_LEADER, RAFT_SPARE

WINDOW: Final = 32


def require(holds: bool, text: str) -> None:
    """Raise AssertionError if it does not hold: a check, which stays when Python runs with -O."""
    if not holds:
        raise AssertionError(text)


def find_leader(servers: list[RaftFixtureServer]) -> RaftFixtureServer | None:
    """Return the alive leader of the highest term if it is stable, else None; check Election Safety."""
    leader: RaftFixtureServer | None = None
    leaders = 0
    for s in servers:
        if s.raft.state == RAFT_LEADER:
            leaders += 1
            if s.alive and (leader is None or s.raft.current_term > leader.raft.current_term):
                leader = s
    if leaders > 1:
        _check_election_safety(servers)
    if leader is not None and _is_stable(servers, leader):
        return leader
    return None


def _check_election_safety(servers: list[RaftFixtureServer]) -> None:
    """At most one leader can be elected in a given term (figure 3.2)."""
    leaders = [s for s in servers if s.raft.state == RAFT_LEADER]
    for i, s in enumerate(leaders):
        for other in leaders[i + 1 :]:
            if (s.alive or other.alive) and s.raft.current_term == other.raft.current_term:
                raise AssertionError(
                    f"Election Safety: servers {s.id} and {other.id} both lead in term {s.raft.current_term}"
                )


def _is_stable(servers: list[RaftFixtureServer], leader: "RaftFixtureServer") -> bool:
    """Return whether all reachable members follow the leader and are, with it, a majority of the members."""
    members = 0
    followers = 0
    for s in servers:
        r = s.raft
        role = RAFT_SPARE
        for member in r.configuration.servers:
            if member.id == s.id:
                role = member.role
                break
        if role == RAFT_SPARE:
            continue
        members += 1
        if s is leader or not s.alive or leader.impl.peers[s.id].saturated:
            continue
        if r.state != RAFT_FOLLOWER or r.current_term != leader.raft.current_term:
            return False
        if r.follower_state is None or r.follower_state.current_leader.id != leader.id:
            return False
        followers += 1
    return followers >= members // 2


class LeaderLog:
    """A copy of the stable leader's log: terms, types and payloads of the entries from index `start` on."""

    __slots__ = ("bufs", "cursor", "start", "terms", "types")

    def __init__(self) -> None:
        self.start = 1
        self.terms: list[int] = []
        self.types: list[int] = []
        self.bufs: list[bytes] = []
        self.cursor = 0  # Where in the copy the next check goes on.

    def forget(self, start: int = 1) -> None:
        """Forget the copy; the next one begins at index `start`."""
        self.start = start
        self.terms, self.types, self.bufs = [], [], []
        self.cursor = 0

    def check(self, r: Raft) -> None:
        """A leader never overwrites or deletes entries in its own log, it only appends new ones (figure 3.2)."""
        n = len(self.bufs)
        last = self.start + n - 1
        if log.last_index(r.log) < last:
            raise AssertionError(
                f"Leader Append-Only: server {r.id} had entries up to {last} and has them up to {log.last_index(r.log)}"
            )
        self._compare(r, max(0, n - WINDOW), n)
        if n > WINDOW:
            end = min(n, self.cursor + WINDOW)
            self._compare(r, self.cursor, end)
            self.cursor = end if end < n else 0

    def follow(self, r: Raft) -> None:
        """Copy what the leader has appended, and drop what it has compacted away."""
        leader = r.log
        if leader.offset >= self.start:
            gone = leader.offset - self.start + 1
            if gone >= len(self.bufs):
                self.forget(leader.offset + 1)
            elif gone >= WINDOW:
                del self.terms[:gone], self.types[:gone], self.bufs[:gone]
                self.start += gone
                self.cursor = 0
        slot = self.start + len(self.bufs) - leader.base - 1
        if slot < len(leader.bufs):
            self.terms += leader.terms[slot:]
            self.types += leader.types[slot:]
            self.bufs += leader.bufs[slot:]

    def _compare(self, r: Raft, begin: int, end: int) -> None:
        """Compare the entries `begin` to `end` of the copy with the leader's, those that it still holds."""
        begin = max(begin, r.log.offset + 1 - self.start)
        if begin >= end:
            return
        shift = self.start - r.log.base - 1
        if (
            self.bufs[begin:end] == r.log.bufs[begin + shift : end + shift]
            and self.terms[begin:end] == r.log.terms[begin + shift : end + shift]
            and self.types[begin:end] == r.log.types[begin + shift : end + shift]
        ):
            return
        for i in range(begin, end):
            was = (self.terms[i], self.types[i], self.bufs[i])
            now = (r.log.terms[i + shift], r.log.types[i + shift], r.log.bufs[i + shift])
            if was != now:
                raise AssertionError(
                    f"Leader Append-Only: server {r.id} changed entry {self.start + i} from (term, type, payload) "
                    f"{was} to {now}"
                )

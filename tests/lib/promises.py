"""The words of a server about itself bind it and the others, also after it was killed.

Duty: `Promises` is told every status of every server, and what a server finds on its disk when it starts. A history of
clients shows a loss only when nobody else has what was lost; this shows it on the server that lost it:

* its term never goes back, and a vote is never changed or forgotten within a term (3.4);
* what was committed, and on its own disk by its own word or that of a leader, is there when it starts again;
* a term has one leader (election safety), and servers that have applied the same entries have the same state (state
  machine safety), whichever they are and whenever.

Failure modes: AssertionError that names the server and both statements.
"""

from pyraft import RAFT_LEADER


class Status:
    """The words of a server about itself.

    `stored` is the last entry on its own disk, `last` may still be on its way there. `stall` is its loop's longest
    delay so far, in microseconds. `snapshots` and `installs` count those that it has taken, and taken over. `matches`
    are a leader's words of what all servers have stored.
    """

    def __init__(self, numbers: list[int], at: float) -> None:
        self.state, self.term, self.leader, self.last, self.commit, self.applied, self.digest, *rest = numbers
        self.stall, self.vote, self.stored, self.snapshots, self.installs, *matches = rest
        self.matches = dict(zip(matches[::2], matches[1::2], strict=True))
        self.at = at


class Promises:
    """The statements so far."""

    def __init__(self) -> None:
        self._terms: dict[int, int] = {}
        self._votes: dict[int, int] = {}
        self._durable: dict[int, int] = {}
        self._leaders: dict[int, int] = {}
        self._digests: dict[int, tuple[int, int]] = {}
        # Of each server: how many snapshots it has taken and taken over in this life, and in all of them.
        self._counts: dict[int, tuple[int, int]] = {}
        self.snapshots = 0
        self.installs = 0

    @property
    def leaders(self) -> int:
        """How many terms had a leader that was heard of."""
        return len(self._leaders)

    def heard(self, id: int, status: Status) -> None:
        """Take a status."""
        self._term(id, status.term, status.vote)
        if status.state == RAFT_LEADER:
            known = self._leaders.setdefault(status.term, id)
            assert known == id, f"servers {known} and {id} both lead term {status.term}"
        other, digest = self._digests.setdefault(status.applied, (id, status.digest))
        assert digest == status.digest, (
            f"server {id} has applied {status.applied} entries with the result {status.digest}, "
            f"server {other} the same with {digest}"
        )
        snapshots, installs = self._counts.get(id, (0, 0))
        self._counts[id] = status.snapshots, status.installs
        self.snapshots += status.snapshots - snapshots
        self.installs += status.installs - installs
        # While a snapshot is installed `stored` is 0.
        for server, stored in ((id, status.stored), *status.matches.items()):
            self._durable[server] = max(self._durable.get(server, 0), min(status.commit, stored))

    def started(self, id: int, term: int, vote: int, stored: int) -> None:
        """Take what a server has found on its disk."""
        self._term(id, term, vote)
        self._counts[id] = 0, 0
        durable = self._durable.get(id, 0)
        assert stored >= durable, (
            f"server {id} starts with entries up to {stored}; {durable} was on its disk and committed"
        )

    def _term(self, id: int, term: int, vote: int) -> None:
        former, voted = self._terms.get(id, 0), self._votes.get(id, 0)
        assert term >= former, f"server {id} is in term {term}, it was in {former}"
        assert term > former or voted in (0, vote), f"server {id} voted for {voted} in term {term}, now {vote}"
        self._terms[id], self._votes[id] = term, vote

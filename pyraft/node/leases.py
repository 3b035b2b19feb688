"""Leases: how a leader answers queries without a round, for as long as nobody else can lead (dissertation, 6.4.1).

Duty: `Restraint` makes a member keep a promise: for `kept` seconds after it has heard from a leader, or has started, no
vote request enters or leaves it, but for those of a leader that hands over. It announces that in its answers. `Leases`
is the leader's side: the conclusions that it may draw from answers to its questions.

Happy path: a round begins at t. A majority of voters answers questions that were sent after t, so each of them keeps
still until t + kept, by its own clock, and no other server can be elected before. Until t + kept * (1 - drift), by the
leader's clock, all that is acknowledged to anybody is therefore applied here, or is not acknowledged yet.

Failure modes: nothing is concluded from members that have not announced as much, as those of the C library. A lease
ends with the leadership, with a change of the members, and for good with the first attempt to hand over: a member that
was asked to take over may do so at any time later. If the rates of two members' clocks differ by more than `drift`,
queries under a lease may see an older state. Nothing else can lead to that: a process that was stopped looks at its
clock first, members that restart keep still first, and a member that was asked to take over disturbs others in that one
term only. Older versions do not keep still when they start. So a member that ends properly keeps its directory until
its promise is over (`leave`), and an older version does not start on the directory of one that was killed
(`identity.BOUND`).
"""

from collections.abc import Callable
from typing import Any, Final

from pyraft import RAFT_NOCONNECTION, RAFT_VOTER, Raft, RaftIo, RaftMessage
from pyraft.node.admission import REGISTERS
from pyraft.types import (
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_INSTALL_SNAPSHOT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_TIMEOUT_NOW,
)

SHIFT: Final = 8
BITS: Final = 0x1F
"""Where the features of an answer say for how long it is kept: a power of two of milliseconds, 0 for not at all."""


class Restraint:
    """A member's promise; it stands between the core and its I/O."""

    def __init__(self, raft: Raft, io: RaftIo, now: Callable[[], float], election_timeout_msecs: int) -> None:
        """Take the place of some functions of `io`. `now()` is a time in seconds that goes on while machines sleep."""
        self._raft = raft
        self._now = now
        self.exponent = election_timeout_msecs.bit_length() - 1
        """The announced time: the largest power of two, in ms, that is not above an election timeout."""
        self.kept = (1 << self.exponent) / 1000
        """For how long it keeps still, in seconds."""
        self.announces = True
        """Whether it may say so: not where it could not be noted in the directory (`identity.BOUND`)."""
        self._heard = now()
        self.features = REGISTERS
        """The other things that are announced."""
        self._contacts: dict[int, float] = {}
        self._contacts_of: Any = None
        self._asked_in = -1
        """The term in which this member was asked to take over last."""
        self.handed_over: Any = None
        """The leadership in which this member, as the leader, has asked another one to take over."""
        self._left = False
        self._io_start, self._io_send = io.start, io.send
        io.start = self._start
        io.send = self._send

    def is_bound(self) -> bool:
        """Return whether a vote, given or asked for, would break the promise."""
        return self._now() < self._heard + self.kept

    def leave(self) -> float:
        """Take part in nothing any more; return for how many seconds the promise still goes.

        The directory must not be given back before: an older version on it would not keep the promise.
        """
        self._left = True
        voters = sum(server.role == RAFT_VOTER for server in self._raft.configuration.servers)
        return max(0.0, self._heard + self.kept - self._now()) if voters > 1 else 0.0

    def contact(self, id: int) -> float | None:
        """Return when a member has answered the leader that this one is last, by `now`; None for not yet."""
        leads = self._contacts_of is self._raft.leader_state and self._contacts_of is not None
        return self._contacts.get(id) if leads else None

    def _note(self, id: int) -> None:
        leadership = self._raft.leader_state
        if self._contacts_of is not leadership:
            self._contacts_of, self._contacts = leadership, {}
        self._contacts[id] = self._now()

    def _start(self, io: RaftIo, msecs: int, tick: Any, recv: Callable[[RaftIo, RaftMessage], None]) -> int:
        def receive(io: RaftIo, message: RaftMessage) -> None:
            if not self._left and self._lets_in(message):
                recv(io, message)

        return self._io_start(io, msecs, tick, receive)

    def _lets_in(self, message: RaftMessage) -> bool:
        kind = message.type
        if kind == RAFT_IO_APPEND_ENTRIES_RESULT:
            self._note(message.server_id)
        elif kind in (RAFT_IO_APPEND_ENTRIES, RAFT_IO_INSTALL_SNAPSHOT):
            args = message.append_entries or message.install_snapshot
            if args is not None and args.term >= self._raft.current_term:
                self._heard = self._now()  # before it is answered
        elif kind == RAFT_IO_REQUEST_VOTE:
            vote = message.request_vote
            return vote is None or vote.disrupt_leader or not self.is_bound()
        elif kind == RAFT_IO_TIMEOUT_NOW and message.timeout_now is not None:
            self._asked_in = message.timeout_now.term
        return True

    def _send(self, io: RaftIo, req: Any, message: RaftMessage, cb: Any) -> int:
        kind = message.type
        if kind == RAFT_IO_APPEND_ENTRIES_RESULT and message.append_entries_result is not None:
            kept = self.exponent << SHIFT if self.announces else 0
            message.append_entries_result.features |= kept | self.features
        elif kind == RAFT_IO_TIMEOUT_NOW:
            self.handed_over = self._raft.leader_state
        elif kind == RAFT_IO_REQUEST_VOTE and message.request_vote is not None:
            vote = message.request_vote
            if vote.term != self._asked_in + 1:
                # A candidate that was not elected when it was asked to take over would ask on in this way.
                vote.disrupt_leader = False
            if not vote.disrupt_leader and self.is_bound():
                io.errmsg = "a leader was heard too recently"
                return RAFT_NOCONNECTION
        return self._io_send(io, req, message, cb)


class Round:
    """The knowledge of a leader when a round began."""

    __slots__ = ("began", "committed", "leadership", "number", "uncommitted")

    def __init__(self, raft: Raft, began: float) -> None:
        self.began = began
        self.leadership = raft.leader_state
        self.number = 0 if raft.leader_state is None else raft.leader_state.reads.number
        self.committed = raft.configuration_committed_index
        self.uncommitted = raft.configuration_uncommitted_index


class Leases:
    """The leader's side."""

    def __init__(self, raft: Raft, restraint: Restraint, now: Callable[[], float], drift: float) -> None:
        self._raft = raft
        self._restraint = restraint
        self._now = now
        self.length = restraint.kept * (1 - drift)
        """How long a lease is, from the beginning of its round, in seconds."""
        self._round: Round | None = None

    def begin(self) -> Round:
        """Note the beginning of a round, before anybody is asked."""
        return Round(self._raft, self._now())

    def end(self, round: Round) -> None:
        """The round has succeeded: take the lease that follows from answers to questions of after its beginning."""
        if not self._stands(round) or not self._is_backed(round):
            return
        self._round = round

    def silence(self, id: int) -> float | None:
        """Return for how many seconds this leader has not heard of a member; None if it never has since it leads."""
        heard = self._restraint.contact(id)
        return None if heard is None else self._now() - heard

    def leave(self) -> float:
        """Take part in nothing any more; return for how long the directory must not be given back."""
        return self._restraint.leave()

    @property
    def left(self) -> float:
        """For how many seconds queries may be answered without a round; 0 or less for not at all."""
        if self._round is None or not self._stands(self._round) or self._raft.last_applied < self._raft.commit_index:
            return 0.0
        return self._round.began + self.length - self._now()

    def _stands(self, round: Round) -> bool:
        """Return whether what was true at the beginning of a round still is, by what is known here."""
        raft = self._raft
        return (
            raft.leader_state is round.leadership is not None
            and raft.transfer is None
            and self._restraint.handed_over is not round.leadership
            and round.committed == raft.configuration_committed_index
            and round.uncommitted == raft.configuration_uncommitted_index
        )

    def _is_backed(self, round: Round) -> bool:
        """Return whether a majority of voters has answered since, each of whom keeps still for as long as we do."""
        raft, leader = self._raft, self._raft.leader_state
        assert leader is not None
        voters = backers = 0
        for i, server in enumerate(raft.configuration.servers):
            if server.role != RAFT_VOTER:
                continue
            voters += 1
            progress = leader.progress[i]
            keeps = progress.features >> SHIFT & BITS >= self._restraint.exponent
            backers += server.id == raft.id or (progress.answered > round.number and keeps)
        return backers * 2 > voters

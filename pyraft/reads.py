"""Linearizable reads without an entry of their own (ReadIndex, 6.4).

Duty: the reads that clients have asked a leader for, from the request to the callback: when a round may begin, what it
asks the others, what their answers prove, and when the state machine is far enough.

Happy path: once an entry of the leader's term is committed, all reads that wait share a round: its index is the commit
index now, and every other voter is asked under a new number whether it still follows. When a majority has answered to
that number, the reads are called back as soon as `last_applied` reaches the index. One round is under way at a time.

Failure modes: questions may be lost, so each tick asks again; servers that do not take them (C's, and ours over an I/O
without such words) answer a barrier entry instead; with the end of the leadership all reads fail. `_is_confirmed` has
the proof.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from pyraft import calls, configuration, election, flags, log, messages, proof, quorum
from pyraft.errors import RAFT_LEADERSHIPLOST, RAFT_SHUTDOWN
from pyraft.state import LeaderState, Raft, RaftProgress
from pyraft.types import (
    RAFT_IO_APPEND_ENTRIES,
    RAFT_VOTER,
    RaftAppendEntries,
    RaftBarrier,
    RaftMessage,
    RaftReadIndex,
    no_entries,
)

MAX_NUMBER: Final = (1 << 31) - 1
"""The last number of a term: a message has 31 bits for it. Reads behind it take barriers."""

Test: TypeAlias = Callable[[Raft, LeaderState, int], bool]

SLICE_MSECS: Final = 10
"""After so long the rest of the callbacks, or of a backlog (apply), waits for a later turn of the loop."""

_PATIENCE: Final = 2
"""After so many ticks a round tries a barrier too, if that reaches voters whom its questions do not."""


class ReadBarrier(RaftBarrier):
    """A barrier in the place of questions, for round `number` of reads."""

    __slots__ = ("number", "raft")

    def __init__(self, raft: Raft, number: int) -> None:
        super().__init__()
        self.raft = raft
        self.number = number


def ask(r: Raft, leader: LeaderState, req: RaftReadIndex) -> bool:
    """Take note of a read; return whether to see now if a round can begin, else that is done later in the turn."""
    reads = leader.reads
    reads.waiting.append(req)
    if reads.asked:
        return False
    # Reads of one turn of the loop share a round. An I/O that refuses for the sake of entries is not asked to wait.
    return r.io.defer is None or calls.defer(r, []) != 0


def take_up(r: Raft, leader: LeaderState) -> bool:
    """Begin a round for the reads that wait, if that is possible now; True if it has to be a barrier."""
    reads = leader.reads
    if not reads.waiting or reads.asked or not leader.accepting:
        return False
    if election.is_only_voter(r):
        # All that it has stored is committed, and nobody leads without its vote.
        reads.asked, reads.waiting = reads.waiting, []
        _confirm(r, leader, r.commit_index)
        return False
    if log.term_of(r.log, r.commit_index) != r.current_term:
        return False
    if not _is_enough(r, leader, _takes_questions) or reads.number >= MAX_NUMBER:
        # During a transfer nothing is appended.
        return r.transfer is None
    begin(r, leader)
    _send_questions(r, leader)
    return False


def begin(r: Raft, leader: LeaderState) -> None:
    """Begin a round for the reads that wait."""
    reads = leader.reads
    reads.asked, reads.waiting = reads.waiting, []
    reads.number += 1
    reads.index = r.commit_index
    reads.ticks = 0


def answered(r: Raft, leader: LeaderState, p: RaftProgress, number: int) -> bool:
    """Take note that a server has answered a question; return whether that has ended the round under way."""
    p.questions = max(p.questions - 1, 0)
    reads = leader.reads
    if not reads.asked or number != reads.number:
        return False
    p.answered = number
    return _look(r, leader)


def forget_announcement(p: RaftProgress) -> None:
    """A server that took questions takes them no more: another kind of server has its place now.

    The questions that it got name no predecessor: answers to them prove nothing about its log (proof.acknowledged).
    """
    proof.forget_announcement(p)
    p.questions = 0


def tick(r: Raft, leader: LeaderState) -> bool:
    """Ask again who has not answered; return True if the round should try a barrier too."""
    reads = leader.reads
    # The configuration may have changed since.
    if not reads.asked or _look(r, leader):
        return False
    reads.ticks += 1
    if reads.number <= MAX_NUMBER:
        _send_questions(r, leader)
    if r.leader_state is not leader or not reads.asked or reads.ticks < _PATIENCE:
        return False
    if reads.barrier or r.transfer is not None:
        return False
    return any(
        server.id != r.id and server.role == RAFT_VOTER and not _takes_questions(r, leader, i)
        for i, server in enumerate(r.configuration.servers)
    )


def barrier_applied(r: Raft, leader: LeaderState, number: int, index: int) -> bool:
    """Take note that the barrier of round `number` was applied; return whether that has ended the round."""
    reads = leader.reads
    reads.barrier = False
    if not reads.asked or number != reads.number:
        return False
    _confirm(r, leader, index)
    return True


def deliver(r: Raft, leader: LeaderState) -> None:
    """Call back the reads whose index is applied, in the order in which they were asked for.

    With an io.later, if that takes long, a part in each turn of the loop.
    """
    reads = leader.reads
    if reads.delivering or r.apply.owed:
        # A callback has got here: its caller goes on, in the second case behind the callbacks of commands.
        return
    reads.delivering = True
    began = 0 if r.io.later is None else calls.now(r)
    while reads.confirmed and reads.confirmed[0].index <= r.last_applied and not reads.rest:
        req = reads.confirmed.popleft()
        calls.fire_read(r, req, 0, req.index)
        if r.io.later is not None and reads.confirmed and calls.now(r) - began >= SLICE_MSECS:
            # Reads of one round may be any number, and no heartbeat goes out meanwhile.
            reads.rest = calls.later(r, r.resume) == 0
    reads.delivering = False


def deliver_rest(r: Raft, leader: LeaderState) -> None:
    """Go on in a later turn."""
    leader.reads.rest = False
    deliver(r, leader)


def fail_asked(r: Raft, leader: LeaderState, status: int) -> None:
    """End the round under way, whose barrier could not be appended, with `status` for its reads."""
    asked, leader.reads.asked = leader.reads.asked, []
    for req in asked:
        calls.fire_read(r, req, status, 0)


def fail_all(r: Raft, leader: LeaderState) -> None:
    """Fail all reads, in the order in which they were asked for: the leadership is over."""
    status = RAFT_SHUTDOWN if r.closing else RAFT_LEADERSHIPLOST
    reads = leader.reads
    found = [*reads.confirmed, *reads.asked, *reads.waiting]
    reads.confirmed.clear()
    reads.asked, reads.waiting = [], []
    for req in found:
        calls.fire_read(r, req, status, 0)


def _takes_questions(r: Raft, leader: LeaderState, i: int) -> bool:
    return flags.is_set(leader.progress[i].features, flags.ECHOED_QUESTIONS)


def _has_answered(r: Raft, leader: LeaderState, i: int) -> bool:
    return leader.progress[i].answered == leader.reads.number


def _is_enough(r: Raft, leader: LeaderState, test: Test) -> bool:
    """Return whether those voters of whom `test` is true, and ourselves if we are one, are a majority (4.2.2)."""
    count = 0
    for i, server in enumerate(r.configuration.servers):
        if server.role == RAFT_VOTER and (server.id == r.id or test(r, leader, i)):
            count += 1
    return quorum.is_majority(count, configuration.voter_count(r.configuration))


def _is_confirmed(r: Raft, leader: LeaderState) -> bool:
    """Return whether a majority of voters has answered the question of the round under way.

    Proof that then nothing had been acknowledged, when the round began, that is not committed up to its index. An
    answer to number k in term T is given by a server in term T, to a question of T's leader that was sent after round
    k had begun: a number names one round of one leader, and to a question of an older term none is given back. Had the
    leader appended an entry x when the round began, all who answer could have stored x in T instead. So x would have
    been committed in T, by the voters and the rule of `stored.advance_commit`, and each leader of a later term would
    have it (Leader Completeness, 3.6.3). One that was elected before x was there has not: so none had been when the
    round began. All that was acknowledged to anybody by then was therefore committed in terms up to T; all that came
    before T lies in front of the first entry of T, which is committed, and for what came in T the leader's own commit
    index is the measure. Nothing else is assumed: neither clocks nor that messages arrive, in order, or only once.
    """
    return _is_enough(r, leader, _has_answered)


def _look(r: Raft, leader: LeaderState) -> bool:
    """If a majority has answered, end the round; return whether that is so."""
    reads = leader.reads
    if not reads.asked or not _is_confirmed(r, leader):
        return False
    _confirm(r, leader, reads.index)
    return True


def _confirm(r: Raft, leader: LeaderState, index: int) -> None:
    """End the round: its reads wait for `index` to be applied."""
    reads = leader.reads
    asked, reads.asked = reads.asked, []
    for req in asked:
        req.index = index
        reads.confirmed.append(req)
    deliver(r, leader)


def _send_questions(r: Raft, leader: LeaderState) -> None:
    """Ask each voter that takes questions and has not answered; the next tick asks again, whatever is lost."""
    number = leader.reads.number
    for i, server in enumerate(list(r.configuration.servers)):
        if server.id == r.id or server.role != RAFT_VOTER or not _takes_questions(r, leader, i):
            continue
        p = leader.progress[i]
        if p.answered == number:
            continue
        args = RaftAppendEntries()
        args.term = r.current_term
        args.entries = no_entries()
        args.question = number
        message = RaftMessage(RAFT_IO_APPEND_ENTRIES, server.id, server.address)
        message.append_entries = args
        if messages.send(r, message) == 0:
            p.questions += 1
        # I/O code may end the leadership.
        if r.leader_state is not leader or not leader.reads.asked:
            return

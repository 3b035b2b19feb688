"""A leader's C-like follower at the other end of connections: all keeps its order, nothing its time.

Messages and answers take longer than a heartbeat, so several are under way when the leader changes its mind. The
follower compacts, loses power, fails to write what an older leader sent, and has left-overs of other terms.
"""

import random
from collections import deque

import pytest

from pyraft import (
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftAppendEntries,
    RaftApply,
    RaftChange,
    RaftMessage,
    flags,
    progress,
    proof,
    raft_add,
    raft_apply,
    raft_assign,
    raft_last_index,
    raft_remove,
)
from pyraft.progress import PROGRESS__SNAPSHOT
from pyraft.state import RaftProgress
from pyraft.types import NOBODYS
from tests.integration.test_c_like_followers import (
    CFollower,
    check,
    check_own_term,
    exchange,
    leader_of_three,
    progress_of,
    to,
    until_equal,
)
from tests.lib import fsm
from tests.lib import messages as msg
from tests.lib.solo import Solo


class Wires:
    """Server 3 behind two connections, `there` and `back`, with what can happen to it."""

    def __init__(self, s: Solo, follower: CFollower, dice: random.Random) -> None:
        self.s = s
        self.follower = follower
        self.dice = dice
        self.there: deque[tuple[int, RaftAppendEntries]] = deque()
        self.back: deque[tuple[int, RaftMessage]] = deque()
        self.now = 0
        self.delay = dice.choice((0, 40, 150, 350))

    def step(self) -> None:
        """Let 20 ms go by, with what arrives and is stored then."""
        s, follower, dice = self.s, self.follower, self.dice
        self.now += 20
        s.tick(20)
        s.recv(msg.append_entries_result(2, s.r.current_term, 1))  # so that it goes on to lead
        self.collect()
        while self.there and self.there[0][0] <= self.now:
            follower.take(self.there.popleft()[1])
            while follower.writes and dice.random() < 0.5:
                follower.store()
        while follower.writes and dice.random() < 0.7:
            follower.store()
        while self.back and self.back[0][0] <= self.now:
            s.recv(self.back.popleft()[1])
        self.collect()

    def collect(self) -> None:
        """Put what both have said on the wires, and see what the leader makes of it."""
        for args in to(self.s, 3):
            self.there.append((self.now + self.dice.randint(0, self.delay), args))
        for answer in self.follower.answers:
            self.say(answer)
        self.follower.answers = []
        check_own_term(self.s, self.follower)

    def say(self, answer: RaftMessage) -> None:
        """Send an answer."""
        self.back.append((self.now + self.dice.randint(0, self.delay), answer))

    def happen(self) -> None:
        """Let something go wrong, now and then."""
        s, follower, dice = self.s, self.follower, self.dice
        what = dice.random()
        if what < 0.02:
            # The connection breaks: the ends of both rows are lost.
            for row in (self.there, self.back):
                for _ in range(dice.randint(0, len(row))):
                    row.pop()
            s.io.finish_sends(1)
        elif what < 0.03:
            # The power of the follower fails, and what was on its way to it is lost.
            follower.writes = []
            del follower.terms[follower.stored :]
            self.there.clear()
        elif what < 0.04 and follower.commit > follower.offset + 2:
            follower.offset = dice.randint(follower.offset + 1, follower.commit - 1)
        elif what < 0.10:
            assert raft_apply(s.r, RaftApply(), [fsm.add_x(1)], 1, None) == 0
            s.io.finish_appends()
        self.collect()

    def settle(self) -> None:
        """Let time go by, with nothing lost, until the follower has all."""
        for _ in range(2000):
            self.step()
            if progress_of(self.s, 3).proven_index == raft_last_index(self.s.r):
                break
        assert self.follower.terms[self.follower.offset :] == self.s.r.log.terms[self.follower.offset :]
        assert self.s.r.commit_index == progress_of(self.s, 3).proven_index == raft_last_index(self.s.r)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("seed", range(120))
def test_nothing_is_believed_of_a_slow_c_follower_that_is_not_so(seed: int, carried: bool) -> None:
    """It has compacted, left over, lost and refused all kinds of things, and the leader hears of that late."""
    dice = random.Random(f"wires {seed}")
    common = [1] * dice.randint(2, 20)
    ours = common + [2] * dice.randint(0, 30)
    theirs = common + [dice.choice((2, 3)) if ours[len(common) :] else 3] * dice.randint(0, 30)
    s = leader_of_three([*ours, 4], dice.choice((1, 60, 100, 300)))
    s.io.features = flags.PROVEN_ANSWERS if carried else 0
    follower = CFollower(s.r.current_term, theirs[:], len(theirs), dice.choice((0, dice.randint(0, len(common) - 1))))
    follower.commit = max(1, follower.offset)
    wires = Wires(s, follower, dice)
    for _ in range(dice.choice((0, 0, 3))):
        # In the name of this term it rejects what was sent in an older one, or what it could not write then.
        wires.say(msg.append_entries_result(3, s.r.current_term, len(theirs), dice.randint(1, len(ours))))
    late = dice.choice((0, 5, 50)) if dice.random() < 0.5 else -1
    for i in range(300):
        wires.step()
        wires.happen()
        if i == late:
            index = dice.randint(1, len(common))
            wires.say(msg.append_entries_result(3, s.r.current_term, follower.stored, index))
    wires.settle()


def alone(terms: tuple[int, ...], left_over: int) -> tuple[Solo, CFollower]:
    """Return an only voter, whose first entry of its term is not there yet, and a stand-by like C's with left-overs."""
    s = Solo(RAFT_VOTER, RAFT_STANDBY, terms=terms)
    s.io.features = flags.PROVEN_ANSWERS
    assert s.state == RAFT_LEADER
    known = [1, *terms]
    return s, CFollower(s.r.current_term, known + [7] * left_over, len(known) + left_over)


def hear(s: Solo, follower: CFollower, sent: list[RaftAppendEntries]) -> list[RaftMessage]:
    """Return what the stand-by, server 2, says to messages."""
    for args in sent:
        follower.take(args)
    answers, follower.answers = follower.answers, []
    for answer in answers:
        answer.server_id = 2
    return answers


def test_who_was_a_member_before_is_believed_when_all_has_come_that_it_had_to_say() -> None:
    """Of its first membership an answer is under way still, to a message that proves nothing."""
    s, follower = alone((1, 1), 9)
    s.tick(100)
    [late] = hear(s, follower, to(s, 2))
    assert raft_remove(s.r, RaftChange(), 2, None) == 0
    s.io.finish_appends()
    assert raft_add(s.r, RaftChange(), 2, "2", None) == 0
    s.io.finish_appends()
    assert raft_apply(s.r, RaftApply(), [fsm.add_x(1)] * 9, 9, None) == 0
    s.io.finish_appends()
    to(s, 2)
    change = RaftChange()
    s.recv(late)
    assert progress_of(s, 2).match_index == 0
    assert progress_of(s, 2).proven_index <= s.r.commit_index
    assert raft_assign(s.r, change, 2, RAFT_VOTER, None) == 0
    for _ in range(5):
        s.tick(100)
        for answer in hear(s, follower, to(s, 2)):
            s.recv(answer)
        while follower.writes:
            follower.store()
        for answer in hear(s, follower, []):
            s.recv(answer)
        s.io.finish_appends()
    assert follower.terms == s.r.log.terms
    assert s.r.configuration.servers[1].role == RAFT_VOTER
    assert s.r.commit_index == progress_of(s, 2).proven_index == raft_last_index(s.r)


def test_a_question_that_is_lost_is_asked_again_under_load() -> None:
    """Messages of new entries follow each other, so no heartbeat is due; all that came with them counts in the end."""
    s, follower = alone((1, 1), 9)
    s.tick(100)
    for answer in hear(s, follower, to(s, 2)):
        s.recv(answer)
    for i in range(12):
        s.tick(20)
        assert raft_apply(s.r, RaftApply(), [fsm.add_x(1)], 1, None) == 0
        s.io.finish_appends()
        sent = [args for args in to(s, 2) if i > 0 or args.prev_log_index < NOBODYS]
        assert len(sent) < 3
        answers = hear(s, follower, sent)
        while follower.writes:
            follower.store()
        for answer in answers + hear(s, follower, []):
            s.recv(answer)
    assert follower.terms == s.r.log.terms
    assert progress_of(s, 2).match_index == progress_of(s, 2).proven_index == raft_last_index(s.r)


def test_of_messages_of_older_terms_answers_tell_nothing_of_this_ones_logs() -> None:
    """A server like C's answers one that names no predecessor, and is of an older term, as if it matched all it has."""
    s = leader_of_three([1] * 9, 1000)
    s.io.features = flags.PROVEN_ANSWERS
    p = progress_of(s, 3)
    p.state, p.snapshot_index, p.snapshot_last_send = PROGRESS__SNAPSHOT, raft_last_index(s.r), 1000
    s.sent()
    s.tick(100)
    [beat] = to(s, 3)
    assert beat.prev_log_index == proof.nobodys_index(s.r, p)
    s.recv(msg.append_entries_result(3, s.r.current_term, 5, beat.prev_log_index))
    assert p.state == PROGRESS__SNAPSHOT
    # To one of ours none is named (B48): it rejects what is older under index 1.
    p.features = flags.PROVEN_ANSWERS
    s.tick(100)
    [beat] = to(s, 3)
    assert beat.prev_log_index == 0


@pytest.mark.parametrize(("common", "compacted", "left_over"), [(300, 100, 1000), (2000, 20, 300), (60, 50, 70)])
def test_a_log_with_left_overs_is_not_stepped_back_through_entry_by_entry(
    common: int, compacted: int, left_over: int
) -> None:
    """Strides have led past where the logs meet: a further pass, with shorter ones, takes seconds and not minutes."""
    s = leader_of_three([1] * common + [2] * left_over, 100_000)
    s.io.features = flags.PROVEN_ANSWERS
    theirs = [1] * common + [3] * left_over
    follower = CFollower(s.r.current_term, theirs, len(theirs), compacted)
    follower.commit = compacted
    wires = Wires(s, follower, random.Random(1))
    wires.delay = 0
    while progress_of(s, 3).proven_index < raft_last_index(s.r):
        wires.step()
        assert wires.now < 20_000
    assert follower.terms == s.r.log.terms


def test_who_refuses_the_end_of_its_own_log_has_not_compacted_that() -> None:
    """Its acknowledgment was of another server, or of another log; it is asked where the logs meet, from there on."""
    p = RaftProgress()
    p.match_index = p.proven_index = 34
    for _ in range(progress.MAX_REFUSALS + 1):
        p.next_index = 30
        assert progress.maybe_decrement(p, 29, 34)
    # It may have compacted that, so it is asked for its end.
    assert p.next_index == 35
    assert progress.maybe_decrement(p, 34, 34)
    assert (p.match_index, p.proven_index, p.next_index) == (0, 0, 34)


@pytest.mark.parametrize("ends", [1, 3, 150])
def test_a_c_follower_whose_log_ends_early_is_found_out_at_once(ends: int) -> None:
    """It says where its log ends; to go there message by message took a heartbeat interval for each, in vain."""
    s = leader_of_three([1] * 300, 100)
    follower = CFollower(s.r.current_term, [1] * ends, ends)
    s.sent()
    for _ in range(6):
        exchange(s, follower)
        check(s, follower)
    assert len(follower.terms) > ends
    until_equal(s, follower)

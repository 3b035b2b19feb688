"""A leader's treatment of followers that answer as C's do, with all that they have stored (B8), to bounded messages."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv.pyuv import Loop
from pyraft import (
    RAFT_IO_APPEND_ENTRIES,
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftAppendEntries,
    RaftApply,
    RaftChange,
    RaftMessage,
    RaftSnapshot,
    flags,
    proof,
    raft_apply,
    raft_assign,
    raft_last_index,
    raft_set_max_append_bytes,
    raft_start,
)
from pyraft.state import RaftProgress
from pyraft.types import NOBODYS
from tests.lib import fsm
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo
from tests.lib.uvnode import make_nodes, settled
from tests.lib.uvtest import run_until

NewCluster = Callable[..., Cluster]


class CFollower:
    """The log of a C server, as terms from index 1 on; all that it sends goes to `answers`.

    Writes are stored when `store` is called, in order, and answered then, those of earlier terms not at all. As long as
    `ours` is set it is a server of this project, that announces what its answers mean.
    """

    def __init__(self, term: int, terms: list[int], stored: int, offset: int = 0) -> None:
        self.term = term
        self.offset = offset  # It refuses compacted entries as a predecessor.
        self.terms = terms
        self.stored = stored
        self.commit = 1
        self.ours = False
        self.answers: list[RaftMessage] = []
        self.writes: list[tuple[int, int, int]] = []
        if stored < len(terms):
            self.writes.append((0, len(terms), 0))

    def take(self, args: RaftAppendEntries) -> None:
        """Process an AppendEntries of its term, as replicationAppend does."""
        prev = args.prev_log_index
        known = self.offset < prev <= len(self.terms) or prev == 0
        if not known or (prev > 0 and self.terms[prev - 1] != args.prev_log_term):
            self._say(msg.append_entries_result(3, self.term, self.stored, prev))
            return
        new = [entry.term for entry in args.entries]
        for i, term in enumerate(new):
            index = prev + 1 + i
            if index > len(self.terms) or self.terms[index - 1] != term:
                del self.terms[index - 1 :]
                self.stored = min(self.stored, index - 1)
                self.writes = [(t, min(last, index - 1), commit) for t, last, commit in self.writes]
                self.terms += new[i:]
                self.writes.append((self.term, len(self.terms), args.leader_commit))
                return
        self.answer(args.leader_commit, prev + len(new))

    def answer(self, leader_commit: int, end: int) -> None:
        """Commit as much as is stored, and acknowledge it; ours no more than up to the end of the message."""
        last = min(self.stored, end) if self.ours else self.stored
        self.commit = max(self.commit, min(leader_commit, last))
        self._say(msg.append_entries_result(3, self.term, last))

    def _say(self, answer: RaftMessage) -> None:
        assert answer.append_entries_result is not None
        answer.append_entries_result.features = flags.PROVEN_ANSWERS if self.ours else 0
        self.answers.append(answer)

    def store(self) -> None:
        """End the oldest write."""
        term, last, leader_commit = self.writes.pop(0)
        self.stored = max(self.stored, last)
        if term == self.term:
            self.answer(leader_commit, last)


def leader_of_three(terms: list[int], max_append_bytes: int) -> Solo:
    """Return server 1, just elected, with a log of these terms (entry 1 is there anyway) and its barrier stored."""
    s = Solo(terms=terms[1:], term=terms[-1])
    raft_set_max_append_bytes(s.r, max_append_bytes)
    s.tick(1000)
    s.recv(msg.request_vote_result(2, s.r.current_term))
    assert s.state == RAFT_LEADER
    s.io.finish_appends()
    return s


def progress_of(s: Solo, id: int) -> RaftProgress:
    """Return what a leader knows of a server."""
    assert s.r.leader_state is not None
    return s.r.leader_state.progress[id - 1]


def to(s: Solo, id: int) -> list[RaftAppendEntries]:
    """Return the AppendEntries sent to a server since the last time."""
    sent = [m for m in s.sent() if m.type == RAFT_IO_APPEND_ENTRIES and m.server_id == id]
    return [m.append_entries for m in sent if m.append_entries is not None]


def check(s: Solo, follower: CFollower) -> None:
    """The entries that the leader counts are stored there and are its own, and the follower has committed nothing
    else."""
    ours = list(s.r.log.terms)
    for proven in (progress_of(s, 3).proven_index, follower.commit):
        assert proven <= follower.stored
        assert follower.terms[:proven] == ours[:proven]


def check_own_term(s: Solo, follower: CFollower) -> None:
    """As `check`, but what counts from before the leader's term, which commits nothing by itself, may be wrong."""
    leader = s.r.leader_state
    assert leader is not None
    if progress_of(s, 3).proven_index >= leader.first_index:
        check(s, follower)
    assert follower.terms[: follower.commit] == list(s.r.log.terms)[: follower.commit]


def mishaps(s: Solo, follower: CFollower, dice: random.Random) -> None:
    """Deliver, drop, repeat and delay messages and answers at random, with new entries in between."""
    under_way: list[RaftAppendEntries] = []
    answers: list[RaftMessage] = []
    for _ in range(300):
        what = dice.random()
        if what < 0.2:
            s.tick(100)
        elif what < 0.3:
            assert raft_apply(s.r, RaftApply(), [fsm.add_x(1)], 1, None) == 0
            s.io.finish_appends()
        elif what < 0.6 and under_way:
            args = under_way.pop(dice.choice((0, dice.randrange(len(under_way)))))
            if dice.random() < 0.2:
                under_way.append(args)
            if dice.random() < 0.9:
                follower.take(args)
        elif what < 0.75 and follower.writes:
            follower.store()
        elif answers:
            answer = answers.pop(dice.choice((0, dice.randrange(len(answers)))))
            if dice.random() < 0.2:
                answers.append(answer)
            if dice.random() < 0.9:
                s.recv(answer)
        if dice.random() < 0.03:
            s.io.finish_sends(1)  # goes back to what was acknowledged
        under_way += to(s, 3)
        s.recv(msg.append_entries_result(2, s.r.current_term, 1))  # so that it goes on to lead
        answers += follower.answers
        follower.answers = []
        check(s, follower)


def exchange(s: Solo, follower: CFollower) -> None:
    """Let a heartbeat's time go by, with nothing lost; server 2 answers, so that ours goes on to lead."""
    s.tick(100)
    s.recv(msg.append_entries_result(2, s.r.current_term, 1))
    for args in to(s, 3):
        follower.take(args)
    while follower.writes:
        follower.store()
    while follower.answers:
        s.recv(follower.answers.pop(0))


def until_equal(s: Solo, follower: CFollower) -> None:
    """Let time go by, with nothing lost, until the follower has all."""
    for _ in range(400):
        exchange(s, follower)
        check(s, follower)
    assert follower.terms == s.r.log.terms
    assert s.r.commit_index == progress_of(s, 3).proven_index == raft_last_index(s.r)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_a_c_server_acknowledges_is_its_leaders(seed: int) -> None:
    """Left-overs have any length, stored or not, messages and answers are lost; at the end it has all."""
    dice = random.Random(f"c {seed}")
    common = [1] * dice.randint(1, 6)
    ours = common + [2] * dice.randint(0, 12)
    theirs = common + [dice.choice((2, 3)) if ours[len(common) :] else 3] * dice.randint(0, 20)
    s = leader_of_three([*ours, 4][:-1] + [max(4, ours[-1])] * dice.randint(0, 3), dice.choice((1, 60, 100)))
    follower = CFollower(s.r.current_term, theirs[:], dice.randint(1, len(theirs)))
    mishaps(s, follower, dice)
    until_equal(s, follower)


@pytest.mark.parametrize("seed", range(60))
def test_rejections_of_what_was_sent_in_an_older_term_prove_nothing(seed: int) -> None:
    """A C server in this term rejects what its leader sent as the leader of an older one, although it has that."""
    dice = random.Random(f"older {seed}")
    common = [1] * dice.randint(1, 6)
    theirs = common + [3] * dice.randint(1, 20)
    s = leader_of_three([*common, *[2] * dice.randint(0, 12), 4], dice.choice((1, 60, 100)))
    s.io.features = flags.PROVEN_ANSWERS
    follower = CFollower(s.r.current_term, theirs[:], len(theirs))
    for _ in range(dice.randint(1, 8)):
        # Messages of the leader meanwhile come after that, as connections keep their order.
        index = dice.randint(1, len(common) + 3)
        s.recv(msg.append_entries_result(3, s.r.current_term, follower.stored, index))
        s.tick(dice.choice((0, 100)))
        s.recv(msg.append_entries_result(2, s.r.current_term, 1))
    for args in to(s, 3):
        follower.take(args)
    until_equal(s, follower)


def test_which_rejections_are_of_this_term_is_asked_once() -> None:
    """The predecessor that nobody has, another one in each term, is named once, and only where one message is not
    enough; a rejection that comes before the answer counts for nothing.
    """
    s = leader_of_three([1] * 10 + [2], 60)
    s.io.features = flags.PROVEN_ANSWERS
    p, term = progress_of(s, 3), s.r.current_term
    s.sent()
    s.recv(msg.append_entries_result(3, term, 9, 11))
    s.recv(msg.append_entries_result(3, term, 9, p.next_index - 1))
    assert (p.lacking, p.sure) == (0, False)
    s.tick(100)
    [question] = to(s, 3)
    assert question.prev_log_index == proof.nobodys_index(s.r, p) == (1 << 64) - (1 << 32) + (term << 12) + 1
    assert len(question.entries) == 0
    for other in (-1, 1, 2, -(1 << 12), 1 << 12):
        s.recv(msg.append_entries_result(3, term, 9, question.prev_log_index + other))
        assert not p.sure
    s.recv(msg.append_entries_result(3, term, 9, question.prev_log_index))
    assert p.sure
    s.tick(100)
    [args] = to(s, 3)
    leader = s.r.leader_state
    assert leader is not None
    assert args.prev_log_index + len(args.entries) == proof.reach(leader, p) == 12
    s.recv(msg.append_entries_result(3, term, 9, args.prev_log_index))
    assert p.lacking == args.prev_log_index
    s.tick(100)
    [args] = to(s, 3)
    assert args.prev_log_index < NOBODYS


def taken_over(s: Solo, follower: CFollower, dice: random.Random) -> None:
    """Let the follower be one of ours, whose place a C server takes: what is under way then is lost."""
    follower.ours = True
    steps = dice.randint(1, 12)
    for i in range(2 * steps):
        if i == steps:
            follower.ours = False
            follower.writes = []
            del follower.terms[follower.stored :]
            late = follower.answers[: dice.randint(0, len(follower.answers))]
            follower.answers = []
            if dice.random() < 0.5:
                s.io.finish_sends(1)
        s.tick(100)
        s.recv(msg.append_entries_result(2, s.r.current_term, 1))
        for args in to(s, 3):
            if dice.random() < 0.9:
                follower.take(args)
            if i == steps and late:
                s.recv(late.pop(0))
        while follower.writes and dice.random() < 0.8:
            follower.store()
        while follower.answers and dice.random() < 0.8:
            s.recv(follower.answers.pop(0))
        check_own_term(s, follower)


@pytest.mark.parametrize("seed", range(60))
def test_a_c_server_in_the_place_of_one_of_ours_is_not_taken_for_it(seed: int) -> None:
    """The first of its answers to a short message comes when the leader still takes it for a server of this project."""
    dice = random.Random(f"c for ours {seed}")
    common = [1] * dice.randint(1, 30)
    ours = common + [2] * dice.randint(1, 12)
    theirs = common + [dice.choice((1, 3))] * dice.randint(1, 40)
    s = leader_of_three([*ours, 4], dice.choice((1, 60, 100)))
    s.io.features = flags.PROVEN_ANSWERS
    follower = CFollower(s.r.current_term, theirs[:], len(theirs))
    taken_over(s, follower, dice)
    for _ in range(150):
        exchange(s, follower)
        check_own_term(s, follower)
    assert follower.terms == s.r.log.terms
    assert s.r.commit_index == raft_last_index(s.r)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_what_a_c_server_has_compacted_it_is_not_without(seed: int, carried: bool) -> None:
    """Strides that double lead past where the logs meet: what is refused there is in its snapshot."""
    dice = random.Random(f"compacted {seed}")
    common = [1] * dice.randint(2, 30)
    ours = common + [2] * dice.randint(0, 40)
    theirs = common + [dice.choice((2, 3)) if ours[len(common) :] else 3] * dice.randint(0, 40)
    s = leader_of_three([*ours, 4], dice.choice((1, 60, 100, 300, 600)))
    s.io.features = flags.PROVEN_ANSWERS if carried else 0
    follower = CFollower(s.r.current_term, theirs[:], len(theirs), dice.randint(1, len(common) - 1))
    for i in range(300):
        if i < 100 and dice.random() < 0.03:
            s.io.finish_sends(1)
        s.tick(100)
        s.recv(msg.append_entries_result(2, s.r.current_term, 1))
        for args in to(s, 3):
            assert args.prev_log_index > 0 or not args.entries or i == 0 or follower.stored == 0
            follower.take(args)
        while follower.writes:
            follower.store()
        while follower.answers:
            s.recv(follower.answers.pop(0))
        check_own_term(s, follower)
    assert follower.terms == s.r.log.terms


@pytest.mark.parametrize(("ends", "left_over"), [(25, 0), (25, 30), (70, 0), (70, 30)])
def test_a_c_follower_far_behind_is_given_the_log_in_small_parts_and_no_snapshot(ends: int, left_over: int) -> None:
    """Both have compacted what is before entry 21; strides that double would lead there, to a superfluous snapshot."""
    s = Solo(start=False, term=2)
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term = 20, 1
    snapshot.configuration, snapshot.configuration_index = s.conf, 1
    snapshot.bufs = [fsm.content(0, 0)]
    s.io.stored_snapshot = snapshot
    s.io.start_index = 21
    s.io.stored = msg.commands([1] * 60 + [2] * 20)
    assert raft_start(s.r) == 0
    raft_set_max_append_bytes(s.r, 100)
    s.tick(1000)
    s.recv(msg.request_vote_result(2, 3))
    s.io.finish_appends()
    s.sent()
    follower = CFollower(3, [1] * ends + [9] * left_over, ends + left_over, 19)
    for _ in range(150):
        exchange(s, follower)
        assert not s.io.gets, "a snapshot is read"
    assert follower.terms[20:] == s.r.log.terms
    assert progress_of(s, 3).proven_index == raft_last_index(s.r) == 101


def test_left_overs_of_a_c_follower_count_for_nothing(new_cluster: NewCluster) -> None:
    """A failed send makes the leader start from entry 1; the answer to the first part has the end of the log in it."""
    c = new_cluster(3).ready()
    send = c.raft(2).io.send

    def as_c(io: Any, req: Any, message: RaftMessage, cb: Any) -> int:
        result = message.append_entries_result
        if result is not None and result.rejected == 0:
            result.last_log_index = c.raft(2).last_stored
        return send(io, req, message, cb)

    c.raft(2).io.send = as_c
    c.elect(2)
    for _ in range(20):
        assert c.until_done(c.add_x(2)) == 0
    c.isolate(2)
    for _ in range(10):
        c.add_x(2)
    c.elapse(400)
    c.set_randomized(1, 60_000)
    c.until_state(0, RAFT_LEADER, 20_000)
    raft_set_max_append_bytes(c.raft(0), 100)
    c.disconnect(0, 2)
    c.elapse(400)
    c.isolate(1)
    requests = [c.add_x(0) for _ in range(5)]
    commit = c.raft(0).commit_index
    c.reconnect(0, 2)
    c.heal(0, 2)
    ends = []
    deliver = c.recv_cbs[2]
    assert deliver is not None
    for _ in range(2000):
        c.step()
        ours = c.raft(0).log
        theirs = c.raft(2).log
        assert c.raft(2).commit_index <= commit or ours.terms == theirs.terms[: len(ours.terms)]
        ends.append(c.raft(0).commit_index)
    assert all(request.status == 0 for request in requests)
    assert c.raft(2).log.terms == c.raft(0).log.terms
    assert max(ends) == c.last_index(0)


def test_heartbeats_that_prove_nothing_are_counted() -> None:
    """The only voter has no entry of its term yet: its heartbeat may be answered with the end of any log."""
    s = Solo(RAFT_VOTER, RAFT_STANDBY, terms=(1, 1))
    s.io.features = flags.PROVEN_ANSWERS
    assert s.state == RAFT_LEADER
    s.tick(100)
    [args] = to(s, 2)
    assert (args.prev_log_index, len(args.entries)) == (3, 0)
    assert raft_apply(s.r, RaftApply(), [fsm.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    p = progress_of(s, 2)
    s.recv(msg.append_entries_result(2, s.r.current_term, 9))
    # An entry that the only voter has committed counts by itself; where to go on is told by the heartbeat.
    assert (p.match_index, p.proven_index) == (3, 4)
    assert raft_assign(s.r, RaftChange(), 2, RAFT_VOTER, None) == 0
    s.io.finish_appends()
    s.tick(100)
    assert s.r.commit_index == 4


@pytest.mark.parametrize("left_over", [1, 2, 9])
def test_left_overs_of_a_c_follower_are_not_taken_for_what_comes_next(left_over: int) -> None:
    """An entry that is appended before the answer comes is sent, also if nothing follows it."""
    s = Solo(RAFT_VOTER, RAFT_STANDBY, terms=(1, 1))
    s.io.features = flags.PROVEN_ANSWERS
    follower = CFollower(s.r.current_term, [1, 1, 1] + [7] * left_over, 3 + left_over)
    s.tick(100)
    [heartbeat] = to(s, 2)
    assert raft_apply(s.r, RaftApply(), [fsm.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    sent = [heartbeat]
    for _ in range(5):
        for args in sent:
            follower.take(args)
        while follower.writes:
            follower.store()
        for answer in follower.answers:
            answer.server_id = 2
            s.recv(answer)
        follower.answers = []
        sent = to(s, 2)
        s.tick(100)
        sent += to(s, 2)
    assert follower.terms == s.r.log.terms
    assert follower.commit == 4


def test_an_answer_to_a_heartbeat_that_proves_nothing_does_not_commit() -> None:
    """It may come after its sender has been made a voter, and name an entry that this one has never had."""
    s = Solo(RAFT_VOTER, RAFT_STANDBY, terms=(1, 1))
    s.io.features = flags.PROVEN_ANSWERS
    s.tick(100)
    s.recv(msg.append_entries_result(2, s.r.current_term, 3))
    s.tick(100)
    assert progress_of(s, 2).loose
    s.sent()
    change = RaftChange()
    assert raft_assign(s.r, change, 2, RAFT_VOTER, None) == 0
    s.io.finish_appends()
    [fence, entry] = to(s, 2)
    assert (fence.prev_log_index >= NOBODYS, len(entry.entries)) == (True, 1)
    s.recv(msg.append_entries_result(2, s.r.current_term, 5))
    assert s.r.commit_index == 3
    s.recv(msg.append_entries_result(2, s.r.current_term, 5, fence.prev_log_index))
    s.recv(msg.append_entries_result(2, s.r.current_term, 4))
    assert s.r.commit_index == 4


def test_servers_that_announce_what_their_answers_mean_need_no_such_care() -> None:
    """A leader goes back as far as it likes at once, and counts what they say."""
    s = leader_of_three([1] * 40, 60)
    p = progress_of(s, 3)
    s.sent()
    answer = msg.append_entries_result(3, s.r.current_term, 2, 40)
    assert answer.append_entries_result is not None
    answer.append_entries_result.features = flags.PROVEN_ANSWERS
    s.recv(answer)
    s.tick(100)
    [args] = to(s, 3)
    assert args.prev_log_index == p.next_index - 1 == 2


def test_over_the_network_servers_announce_it(tmp_path: Path) -> None:
    """The fixture's do not: there C's features are 0 as well."""
    loop = Loop()
    nodes = make_nodes(tmp_path, 2, loop)
    leader = settled(nodes)
    assert leader.try_apply(1) == 0
    state = leader.raft.leader_state
    other = 1 - next(i for i, node in enumerate(nodes) if node is leader)
    run_until(loop, lambda: state.progress[other].features == flags.PROVEN_ANSWERS | flags.ECHOED_QUESTIONS)
    for node in nodes:
        node.close()
    loop.close()


def test_commit_index_in_a_message_is_never_beyond_its_end() -> None:
    """A C follower commits all that it has stored, as far as the commit index in the message goes."""
    s = leader_of_three([1] * 20, 1)
    s.recv(msg.append_entries_result(2, s.r.current_term, 21))
    assert s.r.commit_index == 21
    s.sent()
    s.recv(msg.append_entries_result(3, s.r.current_term, 30, 20))  # it has left-overs
    s.tick(100)
    [question] = to(s, 3)
    s.recv(msg.append_entries_result(3, s.r.current_term, 30, question.prev_log_index))
    s.tick(100)
    [args] = to(s, 3)
    s.recv(msg.append_entries_result(3, s.r.current_term, 30, args.prev_log_index))
    s.tick(100)
    [args] = to(s, 3)
    assert args.leader_commit == args.prev_log_index + len(args.entries) == 20


# Members that have lost what they acknowledged.


@pytest.mark.parametrize("keep", [0, 5])
@pytest.mark.parametrize("compacted", [False, True])
def test_an_idle_leader_fills_a_member_that_lost_its_disk(
    new_cluster: NewCluster, caplog: pytest.LogCaptureFixture, keep: int, compacted: bool
) -> None:
    """It does so within ten heartbeats, and says so once; with a snapshot if it has to."""
    c = new_cluster(3)
    if compacted:
        c.compact_early()
    c.led()
    for _ in range(20):
        assert c.until_done(c.add_x(0)) == 0
    c.elapse(500)
    if compacted and keep:
        keep = c.raft(2).log.offset + 1
    c.restart(2, keep)
    with caplog.at_level(logging.WARNING, "pyraft"):
        c.until_applied(2, c.last_index(0), 1000)
        c.elapse(1000)
    told = [r.getMessage() for r in caplog.records if "had acknowledged" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("server 3 has lost entries that it had acknowledged: its log ends with")
    assert c.fsms[2].x == c.fsms[0].x == 20
    assert c.until_done(c.add_x(0)) == 0


@pytest.mark.parametrize("voters", [2, 3])
def test_what_a_server_without_a_vote_has_lost_is_told_in_other_words(
    new_cluster: NewCluster, caplog: pytest.LogCaptureFixture, voters: int
) -> None:
    """A new server that comes back empty while it is filled up for the first time has committed nothing."""
    c = new_cluster(3)
    c.led(voters)
    for _ in range(20):
        assert c.until_done(c.add_x(0)) == 0
    c.elapse(500)
    c.restart(2, 0)
    with caplog.at_level(logging.WARNING, "pyraft"):
        c.until_applied(2, c.last_index(0), 1000)
    [told] = [r.getMessage() for r in caplog.records if "had acknowledged" in r.getMessage()]
    assert ("must not come back under its id" in told) == (voters == 3)
    assert ("nothing depended on them" in told) == (voters == 2)


def test_what_was_lost_does_not_count_for_a_majority() -> None:
    """An entry was acknowledged by a server that lost it before another one had it: two of five, not three."""
    s = Solo(*[RAFT_VOTER] * 5, terms=(1,))
    s.tick(1000)
    for id in (2, 3):
        s.recv(msg.request_vote_result(id, s.r.current_term))
    assert s.state == RAFT_LEADER
    s.io.finish_appends()
    term = s.r.current_term
    s.recv(msg.append_entries_result(3, term, 3))
    for _ in range(4):
        s.tick(100)
        s.recv(msg.append_entries_result(3, term, 0, 3))
    assert progress_of(s, 3).proven_index == 0
    s.recv(msg.append_entries_result(2, term, 3))
    assert s.r.commit_index == 1
    s.recv(msg.append_entries_result(4, term, 3))
    assert s.r.commit_index == 3


def test_old_rejections_are_not_taken_for_a_lost_disk() -> None:
    """An acknowledgment in between begins the row anew, and a log that reaches as far as acknowledged is not meant."""
    s = leader_of_three([1] * 9, 1000)
    term = s.r.current_term
    p = progress_of(s, 3)
    s.recv(msg.append_entries_result(3, term, 10))
    for _ in range(5):
        for _ in range(3):
            s.recv(msg.append_entries_result(3, term, 4, 8))
        s.recv(msg.append_entries_result(3, term, 10))
    for _ in range(8):
        s.recv(msg.append_entries_result(3, term, 10, 8))
    assert p.match_index == 10

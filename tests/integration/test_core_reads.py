"""raft_read_index: what a round asks, which answers prove that the leader leads, and when reads are called back."""

from collections.abc import Callable

from pyraft import (
    RAFT_LEADER,
    RAFT_NOSPACE,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftReadIndex,
    raft_read_index,
    reads,
)
from pyraft.types import NOBODYS
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.fsm import PairFsm
from tests.lib.reads import Read, answer, asked, asking_leader, progress_of, questions, result, state_of
from tests.lib.solo import Solo, command, leader

NewCluster = Callable[..., Cluster]

# A round.


def test_a_read_is_confirmed_by_a_majority_that_answers_its_question() -> None:
    """Each other voter is asked once; with the first of two answers the read has the commit index."""
    s = asking_leader()
    read = asked(s)
    assert questions(s) == {2: 1, 3: 1}
    assert read.calls == []
    s.recv(answer(3, 1))
    assert read.calls == [(0, 2)]
    assert (read.index, read.pending) == (2, False)
    assert s.io.appends == []
    s.recv(answer(2, 1))
    assert len(read.calls) == 1
    assert s.sent() == []


def test_answers_to_earlier_questions_do_not_count() -> None:
    """Those of later numbers, other terms, heartbeats, stand-bys, strangers, or the same server twice do not either."""
    s = asking_leader(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    first, second = asked(s), asked(s)
    s.recv(answer(2, 1))
    s.recv(answer(3, 1))
    assert (first.calls, second.calls) == ([(0, 2)], [])
    assert questions(s) == {2: 2, 3: 2, 4: 2, 5: 2}
    for message in (
        *(answer(2, 1), answer(3, 1), answer(4, 1), answer(5, 1)),
        *(answer(4, 3), answer(5, 3)),
        *(answer(3, 2, term=1), answer(4, 2, term=1)),
        *(result(2, 2), result(3, 2), result(4, 2)),
        *(answer(6, 2), answer(7, 2)),
        *(answer(5, 2), answer(5, 2)),
    ):
        s.recv(message)
        assert second.calls == []
    s.recv(answer(2, 2))
    assert second.calls == [(0, 2)]


def test_reads_that_come_during_a_round_share_the_next() -> None:
    """They were asked for after its questions were sent; order is that of the requests."""
    s = asking_leader()
    order: list[str] = []
    all_reads = [Read(order, name) for name in "abc"]
    for read in all_reads:
        assert read.ask(s) == 0
    assert questions(s) == {2: 1, 3: 1}
    s.recv(answer(2, 1))
    assert order == ["a"]
    assert questions(s) == {2: 2, 3: 2}
    s.recv(answer(3, 2))
    assert order == ["a", "b", "c"]


def test_reads_of_a_turn_share_a_round() -> None:
    """With io.defer the questions follow at its end; where that is refused they are sent at once."""
    s = asking_leader(deferring=True)
    first, second = asked(s), asked(s)
    assert questions(s) == {}
    s.io.turn()
    assert questions(s) == {2: 1, 3: 1}
    s.recv(answer(2, 1))
    assert (first.calls, second.calls) == ([(0, 2)], [(0, 2)])
    s.io.fail("defer", RAFT_NOSPACE)
    third = asked(s)
    assert questions(s) == {2: 2, 3: 2}
    s.recv(answer(2, 2))
    assert third.calls == [(0, 2)]


def test_a_read_does_not_hold_commands_up_nor_wait_for_them() -> None:
    """A command that is submitted before and committed behind it, or meanwhile, is not part of it."""
    s = asking_leader()
    command(s)
    read = asked(s)
    s.io.finish_appends()
    s.recv(result(2, 3))
    assert s.r.commit_index == 3
    s.recv(answer(2, 1))
    assert read.calls == [(0, 2)]
    assert asked(s).calls == []
    s.recv(answer(3, 2))


def test_a_leader_without_a_committed_entry_of_its_term_waits_for_one() -> None:
    """Until then its commit index may be behind what others have acknowledged (6.4)."""
    s = Solo(terms=[1, 1])
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    assert s.state == RAFT_LEADER
    s.io.finish_appends()
    assert (s.r.last_stored, s.r.commit_index) == (4, 1)
    read = asked(s)
    assert questions(s) == {}
    s.recv(result(2, 3))
    s.tick()
    assert (questions(s), s.io.appends) == ({}, [])
    s.recv(result(3, 4))
    assert s.r.commit_index == 4
    assert questions(s) == {2: 1, 3: 1}
    s.recv(answer(2, 1))
    assert read.calls == [(0, 4)]


def test_a_read_waits_until_its_index_is_applied() -> None:
    """It comes behind the callback of the entry; a state machine that fails holds it up."""
    fsm = PairFsm()
    s = asking_leader(fsm=fsm)
    order: list[str] = []
    apply = fsm.apply
    fsm.apply = lambda fsm, buf: (7, None)
    command(s, cb=lambda req, status, result: order.append("command"))
    s.io.finish_appends()
    s.recv(result(2, 3))
    assert (s.r.commit_index, s.r.last_applied) == (3, 2)
    read = Read(order)
    assert read.ask(s) == 0
    s.recv(answer(2, 1))
    assert read.calls == []
    fsm.apply = apply
    command(s, cb=lambda req, status, result: order.append("later"))
    s.io.finish_appends()
    s.recv(result(2, 4))
    assert order == ["command", "read", "later"]
    assert read.calls == [(0, 3)]


def test_the_only_voter_needs_nobody() -> None:
    """It is called back inside the call, with io.defer at the end of the turn; a stand-by does not count."""
    s = Solo(RAFT_VOTER, RAFT_STANDBY)
    s.stand()
    assert s.state == RAFT_LEADER
    assert asked(s).calls == [(0, 1)]
    assert s.sent() == []
    s = Solo(RAFT_VOTER, deferring=True)
    s.stand()
    read = asked(s)
    assert read.calls == []
    s.io.turn()
    assert read.calls == [(0, 1)]


def test_a_callback_may_ask_again() -> None:
    """It may on the only voter too, where all are called back at once, one after the other, not inside each other."""
    s = Solo(RAFT_VOTER)
    s.stand()
    depth = [0]
    count = [0]

    def again(req: RaftReadIndex, status: int, index: int) -> None:
        depth[0] += 1
        count[0] += 1
        assert depth[0] == 1
        if count[0] < 5000:
            assert raft_read_index(s.r, req, again) == 0
        depth[0] -= 1

    assert raft_read_index(s.r, RaftReadIndex(), again) == 0
    assert count == [5000]


# Questions that get lost.


def test_a_question_without_an_answer_is_asked_again_with_each_tick() -> None:
    """Those are asked who have not answered; a question that cannot be sent does no harm."""
    s = asking_leader(*[RAFT_VOTER] * 5)
    read = asked(s)
    questions(s)
    s.recv(answer(2, 1))
    s.io.fail("send", RAFT_NOSPACE)
    s.tick(1)
    assert questions(s) == {4: 1, 5: 1}
    s.tick(1)
    assert questions(s) == {3: 1, 4: 1, 5: 1}
    s.recv(answer(4, 1))
    assert read.calls == [(0, 2)]
    s.tick(1)
    assert questions(s) == {}


def test_questions_are_no_heartbeats() -> None:
    """They neither put these off nor change what the leader believes of its followers, whatever comes back."""
    s = asking_leader()
    before = {name: getattr(progress_of(s, 2), name) for name in ("next_index", "match_index", "state", "last_send")}
    asked(s)
    questions(s)
    message = answer(2, 1)
    assert message.append_entries_result is not None
    message.append_entries_result.last_log_index = 999
    s.recv(message)
    assert {name: getattr(progress_of(s, 2), name) for name in before} == before
    s.io.now += 100
    s.tick(0)
    assert [message.server_id for message in s.sent()] == [2, 3]


def test_answers_are_signs_of_life() -> None:
    """A leader whose followers answer nothing but questions leads on."""
    s = asking_leader()
    for _ in range(30):
        asked(s)
        for id, number in questions(s).items():
            s.recv(answer(id, number))
        s.tick()
    assert s.state == RAFT_LEADER


# Servers that do not take questions.


def test_a_barrier_takes_the_place_of_questions_that_too_few_take() -> None:
    """C's servers take none; one barrier serves all reads that wait, and the reads have its index."""
    s = leader()
    first = asked(s)
    assert questions(s) == {}
    assert [len(batch) for _, batch, _ in s.io.appends] == [1]
    second, third = asked(s), asked(s)
    s.io.finish_appends()
    s.recv(result(2, 3, features=0))
    assert (first.calls, second.calls) == ([(0, 3)], [])
    assert s.r.last_applied == 3
    s.io.finish_appends()
    s.recv(result(2, 4, features=0))
    assert (second.calls, third.calls) == ([(0, 4)], [(0, 4)])
    assert s.io.appends == []


def test_an_io_that_does_not_carry_questions_gets_barriers(new_cluster: NewCluster) -> None:
    """The fixture's does not by default; where it says that it does, nothing is appended."""
    c = new_cluster(3).led()
    c.progress()
    before = c.last_index(0)
    p = c.pending(0, RaftReadIndex())
    assert raft_read_index(c.raft(0), p.req, p.fire) == 0
    assert c.until_done(p) == 0
    assert (c.last_index(0), p.result) == (before + 1, before + 1)
    for i in range(3):
        c.raft(i).io.features = 0xFFFF
    c.elapse(300)
    p = c.pending(0, RaftReadIndex())
    assert raft_read_index(c.raft(0), p.req, p.fire) == 0
    assert c.until_done(p) == 0
    assert (c.last_index(0), p.result) == (before + 1, before + 1)


def test_a_round_that_does_not_end_tries_a_barrier_too() -> None:
    """It reaches a voter whom questions do not: of two others one is gone, and one is a C server."""
    s = leader()
    s.recv(result(3, 2))
    s.sent()
    read = asked(s)
    assert questions(s) == {3: 1}
    s.tick()
    assert (questions(s), s.io.appends) == ({3: 1}, [])
    s.tick()
    assert len(s.io.appends) == 1
    s.tick()
    s.io.finish_appends()
    s.recv(result(2, 3, features=0))
    assert read.calls == [(0, 3)]
    assert (s.io.appends, len(read.calls)) == ([], 1)
    following = asked(s)
    s.recv(answer(3, 2))
    assert following.calls == [(0, 3)]


def test_a_barrier_confirms_no_round_that_began_after_it() -> None:
    """The round for which it was tried has ended by answers; the next read came after it was sent."""
    s = leader()
    s.recv(result(3, 2))
    first = asked(s)
    s.tick()
    s.tick()
    assert len(s.io.appends) == 1
    s.recv(answer(3, 1))
    assert first.calls == [(0, 2)]
    second = asked(s)
    s.io.finish_appends()
    s.recv(result(2, 3, features=0))
    assert s.r.last_applied == 3
    assert second.calls == []
    s.recv(answer(3, 2))
    assert second.calls == [(0, 2)]


def test_no_barrier_is_tried_where_it_would_reach_nobody_else() -> None:
    """All take questions: those who do not answer would not store an entry either."""
    s = asking_leader()
    asked(s)
    for _ in range(5):
        s.tick(50)
    assert s.io.appends == []


def test_a_barrier_that_cannot_be_appended_fails_its_reads() -> None:
    """They get the code of io.append, in their callbacks; the leadership goes on."""
    s = leader()
    s.io.fail("append", RAFT_NOSPACE)
    read = asked(s)
    assert read.calls == [(RAFT_NOSPACE, 0)]
    assert s.state == RAFT_LEADER
    again = asked(s)
    s.io.finish_appends()
    s.recv(result(3, 3, features=0))
    assert again.calls == [(0, 3)]


def test_a_term_in_which_the_numbers_are_used_up_goes_on_with_barriers() -> None:
    """A message has 31 bits for them; answers to the last one prove nothing any more."""
    s = asking_leader()
    state_of(s).reads.number = reads.MAX_NUMBER - 1
    last = asked(s)
    assert questions(s) == {2: reads.MAX_NUMBER, 3: reads.MAX_NUMBER}
    s.recv(answer(2, reads.MAX_NUMBER))
    assert last.calls == [(0, 2)]
    read = asked(s)
    assert questions(s) == {}
    s.recv(answer(3, reads.MAX_NUMBER))
    s.tick()
    assert read.calls == []
    s.io.finish_appends()
    s.recv(result(2, 3))
    assert read.calls == [(0, 3)]


def test_a_c_server_in_the_place_of_ours_proves_nothing_by_its_answers_to_questions() -> None:
    """It takes one for a heartbeat without a predecessor, and acknowledges whatever it has stored."""
    s = asking_leader()
    command(s)
    s.io.finish_appends()
    asked(s)
    assert progress_of(s, 2).questions == 1
    s.recv(result(2, 3, features=0))
    assert s.r.commit_index == 2
    s.recv(result(2, 3, features=0))
    assert s.r.commit_index == 2
    # Its answers count when it has refused what nobody has, which was sent behind the question.
    s.sent()
    s.tick(100)
    fence = next(m.append_entries for m in s.sent() if m.server_id == 2)
    assert fence is not None
    assert fence.prev_log_index >= NOBODYS
    s.recv(msg.append_entries_result(2, s.r.current_term, 3, fence.prev_log_index))
    s.recv(result(2, 3, features=0))
    assert s.r.commit_index == 3

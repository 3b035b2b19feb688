"""The end of reads: with the leadership, by closing, in transfers and changes; and how followers answer questions."""

import pytest

from pyraft import (
    RAFT_BUSY,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTLEADER,
    RAFT_SHUTDOWN,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftBarrier,
    RaftChange,
    RaftMessage,
    RaftReadIndex,
    RaftTransfer,
    raft_add,
    raft_assign,
    raft_barrier,
    raft_close,
    raft_errmsg,
    raft_read_index,
    raft_remove,
    raft_transfer,
)
from tests.lib import messages as msg
from tests.lib.compiled import COMPILED
from tests.lib.reads import FEATURES, Read, answer, asked, asking_leader, questions, result
from tests.lib.solo import Solo, command, leader

# The end of the leadership, transfers, members.


def test_reads_fail_with_the_leadership() -> None:
    """They fail behind commands, barriers and the change, in the order of their requests, whatever they waited for."""
    s = asking_leader()
    order: list[str] = []
    command(s, cb=lambda req, status, result: order.append(f"command {status}"))
    early, late = Read(order, "early"), Read(order, "late")
    assert early.ask(s) == 0
    assert late.ask(s) == 0
    assert raft_barrier(s.r, RaftBarrier(), lambda req, status: order.append(f"barrier {status}")) == 0
    assert raft_add(s.r, RaftChange(), 4, "4", lambda req, status: order.append(f"change {status}")) == 0
    s.recv(msg.append_entries_result(2, 5, 0))
    assert s.state == RAFT_FOLLOWER
    lost = RAFT_LEADERSHIPLOST
    assert order == [f"command {lost}", f"barrier {lost}", f"change {lost}", "early", "late"]
    assert early.calls == late.calls == [(lost, 0)]
    assert Read().ask(s) == RAFT_NOTLEADER


def test_an_answer_in_a_higher_term_ends_the_round() -> None:
    """The server that gives it follows somebody else."""
    s = asking_leader()
    read = asked(s)
    s.recv(answer(2, 1, term=3))
    assert read.calls == [(RAFT_LEADERSHIPLOST, 0)]


def test_closing_ends_reads() -> None:
    """They get RAFT_SHUTDOWN, also those that wait for the state machine."""
    s = asking_leader()
    read = asked(s)
    raft_close(s.r, None)
    assert read.calls == [(RAFT_SHUTDOWN, 0)]
    assert Read().ask(s) == RAFT_NOTLEADER


def test_a_callback_may_close_the_server() -> None:
    """The reads behind it end with RAFT_SHUTDOWN, once each."""
    s = asking_leader(deferring=True)
    closing, behind = RaftReadIndex(), Read()

    def close(req: RaftReadIndex, status: int, index: int) -> None:
        raft_close(s.r, None)

    assert raft_read_index(s.r, closing, close) == 0
    assert behind.ask(s) == 0
    s.io.turn()
    s.recv(answer(2, 1))
    assert behind.calls == [(RAFT_SHUTDOWN, 0)]


def test_what_cannot_be_asked_is_refused() -> None:
    """A follower refuses, a request of another class or under way is refused; and none is ever called back."""
    s = Solo()
    read = Read()
    assert read.ask(s) == RAFT_NOTLEADER
    assert "leader" in raft_errmsg(s.r)
    s = asking_leader()
    if not COMPILED:
        refused = raft_read_index(s.r, RaftBarrier(), lambda *args: pytest.fail("refused"))  # type: ignore[type-var]
        assert refused == RAFT_INVALID
    assert read.ask(s) == 0
    assert read.ask(s) == RAFT_BUSY
    s.recv(answer(2, 1))
    assert read.calls == [(0, 2)]
    assert read.ask(s) == 0


def test_a_transfer_takes_no_new_reads_and_lets_the_others_end() -> None:
    """The leader leads until somebody has a higher term, whatever it has asked of its target."""
    s = asking_leader()
    read = asked(s)
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    assert Read().ask(s) == RAFT_NOTLEADER
    s.recv(answer(2, 1))
    assert read.calls == [(0, 2)]


def test_no_barrier_for_reads_is_appended_during_a_transfer() -> None:
    """Its target would have to catch up once more; they go on when the transfer has come to nothing."""
    s = leader()
    s.recv(result(3, 2))
    read = asked(s)
    assert raft_transfer(s.r, RaftTransfer(), 2, None) == 0
    for _ in range(6):
        s.tick(50)
        s.recv(result(2, 2, features=0))
    assert s.io.appends == []
    while s.r.transfer is not None:
        s.tick()
        s.recv(result(2, 2, features=0))
    s.tick()
    s.tick()
    s.io.finish_appends()
    s.recv(result(2, 3, features=0))
    assert read.calls == [(0, 3)]


def test_the_voters_of_the_configuration_in_force_count() -> None:
    """A leader that removes itself needs a majority of the others; a removal may complete a round."""
    s = asking_leader(*[RAFT_VOTER] * 4)
    assert raft_remove(s.r, RaftChange(), 1, None) == 0
    s.io.finish_appends()
    read = asked(s)
    assert questions(s) == {2: 1, 3: 1, 4: 1}
    s.recv(answer(2, 1))
    assert read.calls == []
    s.recv(answer(3, 1))
    assert read.calls == [(0, 2)]
    s = asking_leader(*[RAFT_VOTER] * 4)
    read = asked(s)
    s.recv(answer(2, 1))
    assert raft_assign(s.r, RaftChange(), 4, RAFT_STANDBY, None) == 0
    assert read.calls == []
    s.tick()
    assert read.calls == [(0, 2)]


# Servers that are asked.


def asked_by_leader(term: int, number: int, prev: int = 0, prev_term: int = 0) -> RaftMessage:
    """Return a question of server 2."""
    message = msg.append_entries(2, term, prev, prev_term)
    assert message.append_entries is not None
    message.append_entries.question = number
    return message


def test_a_follower_answers_a_question_of_its_term() -> None:
    """It says the number and success, whatever its log is, at once even while it writes; and knows its leader."""
    s = Solo(term=2)
    s.io.features = 0xFFFF
    s.recv(asked_by_leader(3, 9))
    reply = s.reply().append_entries_result
    assert reply is not None
    assert (reply.term, reply.rejected, reply.last_log_index, reply.question) == (3, 0, 0, 9)
    assert reply.features == FEATURES
    assert s.r.follower_state is not None
    assert s.r.follower_state.current_leader.id == 2


def test_a_question_of_an_older_term_is_answered_without_its_number() -> None:
    """A leader of that term may lead again by now, with a round of the same number."""
    s = Solo(term=4)
    s.recv(asked_by_leader(3, 9))
    reply = s.reply().append_entries_result
    assert reply is not None
    assert (reply.term, reply.question) == (4, 0)
    assert reply.rejected != 0


def test_other_messages_are_no_questions() -> None:
    """C leaves garbage in the word that questions are in: it is looked at only without entries and predecessor."""
    s = Solo(term=2)
    s.recv(asked_by_leader(2, 9, 1, 1))
    reply = s.reply().append_entries_result
    assert reply is not None
    assert (reply.last_log_index, reply.question) == (1, 0)


def test_a_question_ends_a_candidacy_and_puts_off_the_next() -> None:
    """It comes from the leader of the term."""
    s = Solo(term=2)
    s.stand()
    term = s.r.current_term
    s.recv(asked_by_leader(term, 1))
    assert s.state == RAFT_FOLLOWER
    s.tick(900)
    s.recv(asked_by_leader(term, 2))
    s.tick(900)
    assert s.state == RAFT_FOLLOWER


def test_a_callback_inside_a_public_function_may_call_others() -> None:
    """A close calls the readers back; all that their callbacks call is refused, and does not look torn by an
    interrupt.
    """
    s = asking_leader()
    torn: list[bool] = []
    s.io.check = lambda io, was_torn: torn.append(was_torn)
    answers: list[tuple[int, int]] = []

    def cb(req: RaftReadIndex, status: int, index: int) -> None:
        answers.append((status, raft_barrier(s.r, RaftBarrier(), None)))

    assert raft_read_index(s.r, RaftReadIndex(), cb) == 0
    raft_close(s.r, None)
    assert len(answers) == 1
    assert 0 not in answers[0]
    assert True not in torn

"""Where a leader goes on after a rejection by a server whose answers prove little."""

import pytest

from pyraft import RAFT_LEADER, RaftSnapshot, flags, proof, raft_set_max_append_bytes, raft_start
from pyraft.state import LeaderState, RaftProgress
from pyraft.types import NOBODYS
from tests.lib import fsm
from tests.lib import messages as msg
from tests.lib.solo import Solo


@pytest.fixture
def s() -> Solo:
    """A leader of three with forty entries of an old term and one of its own, whose messages take one entry."""
    s = Solo(terms=(1,) * 39, term=1)
    raft_set_max_append_bytes(s.r, 1)
    s.tick(1000)
    s.recv(msg.request_vote_result(2, s.r.current_term))
    assert s.state == RAFT_LEADER
    return s


def stepped_back(s: Solo, next_index: int, index: int, last: int, features: int = 0) -> RaftProgress:
    """Return what becomes of a progress with `next_index` after a rejection of `index`, from a log up to `last`."""
    p = RaftProgress()
    p.next_index, p.steps_back, p.features = next_index, 3, features
    leader: LeaderState | None = s.r.leader_state
    assert leader is not None
    proof.step_back(s.r, leader, p, index, last)
    return p


def test_a_shorter_log_is_gone_on_from_at_its_end(s: Solo) -> None:
    """No message is sent in vain that begins behind that, and the strides are small again."""
    p = stepped_back(s, 25, 30, 10)
    assert (p.next_index, p.steps_back) == (11, 0)


def test_a_longer_log_is_gone_back_in_as_far_as_ours_reaches(s: Solo) -> None:
    """Where the strides have led there is one entry at least that can be sent."""
    p = stepped_back(s, 25, 30, 40)
    assert (p.next_index, p.steps_back) == (25, 3)


def test_servers_that_announce_what_their_answers_mean_are_gone_back_to_freely(s: Solo) -> None:
    """Their acknowledgments are for our entries, wherever a message ends."""
    p = stepped_back(s, 25, 30, 10, flags.PROVEN_ANSWERS)
    assert (p.next_index, p.steps_back) == (25, 3)


def test_a_question_is_known_also_where_the_log_begins_behind_it() -> None:
    """With indexes near 2^64 the ones that nobody has lie in front of the log; a leader asked there for ever."""
    snapshot = RaftSnapshot()
    snapshot.index, snapshot.term = (1 << 64) - 50_000, 1
    s = Solo(start=False, term=1)
    snapshot.configuration, snapshot.configuration_index = s.conf, 1
    snapshot.bufs = [fsm.content(0, 0)]
    s.io.stored_snapshot = snapshot
    s.io.start_index = snapshot.index + 1
    s.io.stored = msg.commands([1] * 40)
    assert raft_start(s.r) == 0
    raft_set_max_append_bytes(s.r, 1)
    s.tick(1000)
    s.recv(msg.request_vote_result(2, s.r.current_term))
    leader: LeaderState | None = s.r.leader_state
    assert leader is not None
    p = leader.progress[2]
    s.recv(msg.append_entries_result(3, s.r.current_term, snapshot.index, p.next_index - 1))
    s.sent()
    s.tick(100)
    [question] = [m.append_entries for m in s.sent() if m.append_entries is not None and m.server_id == 3]
    assert NOBODYS <= question.prev_log_index < snapshot.index
    s.recv(msg.append_entries_result(3, s.r.current_term, snapshot.index, question.prev_log_index))
    assert p.sure

"""Numbers that no honest server can have sent change nothing, and what is accepted can be gone on from."""

import struct
from pathlib import Path

import pytest

from io_uv.encoding import encode_message
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_FOLLOWER,
    RAFT_LEADER,
    RAFT_UNAVAILABLE,
    RaftConfiguration,
    RaftEntry,
    RaftMessage,
    raft_last_index,
    raft_leader,
)
from pyraft.plausible import FARTHEST, LAST_TERM_STEP, TERM_STEP, problem
from tests.lib import messages as msg
from tests.lib.peer import connect, handshake, port_of
from tests.lib.solo import Solo, configuration, leader
from tests.lib.uvnode import Node, free_addresses, leader_of, settled
from tests.lib.uvtest import run_until

LAST = (1 << 63) - 1
CONF = configuration(1, 1, 1)


def of_term(term: int) -> list[RaftMessage]:
    """Return a message of each kind."""
    return [
        msg.append_entries(99, term, 0, 0, 0),
        msg.append_entries_result(99, term, 0),
        msg.request_vote(99, term, LAST, LAST),
        msg.request_vote(99, term, LAST, LAST, disrupt=True),
        msg.request_vote_result(99, term, True),
        msg.install_snapshot(99, term, 9, 1, CONF, 1, bytes(8)),
        msg.timeout_now(99, term, 1, 1),
    ]


@pytest.mark.parametrize("kind", range(7))
@pytest.mark.parametrize("term", [LAST, 1 + TERM_STEP + 1])
def test_a_term_that_elections_cannot_explain_is_dropped(
    kind: int, term: int, caplog: pytest.LogCaptureFixture
) -> None:
    """This holds for every kind of message: nothing is stored or sent, and the log hears of it once a minute."""
    s = Solo()
    for _ in range(3):
        s.recv(of_term(term)[kind])
    assert (s.r.current_term, s.state) == (1, RAFT_FOLLOWER)
    assert s.io.names() == []
    (record,) = caplog.records
    assert f"from server 99 at 99 dropped: term {term} is further ahead of ours, 1, than" in record.getMessage()
    s.io.now += 60_000
    s.recv(of_term(term)[kind])
    assert len(caplog.records) == 2


def test_the_largest_accepted_term_has_successors() -> None:
    """It is adopted, and so is the one of the election after it; near the end of the numbers steps are shorter."""
    s = Solo()
    s.recv(msg.request_vote(2, 1 + TERM_STEP, 9, 9))
    assert s.r.current_term == 1 + TERM_STEP
    s.recv(msg.request_vote(3, 2 + TERM_STEP, 9, 9))
    assert s.r.current_term == 2 + TERM_STEP
    for current in (FARTHEST - 1, FARTHEST, FARTHEST + 5):
        assert problem(current, msg.request_vote(2, current + LAST_TERM_STEP, 9, 9)) == ""
        assert problem(current, msg.request_vote(2, current + LAST_TERM_STEP + 1, 9, 9)) != ""


def test_entries_and_snapshots_are_of_no_later_term_than_their_sender() -> None:
    """An entry of the last term there is would make this log the newest for ever."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [RaftEntry(1, 1, bytes(8)), RaftEntry(LAST, 1, bytes(8))]))
    s.recv(msg.install_snapshot(2, 1, 9, LAST, CONF, 1, bytes(8)))
    s.recv(msg.install_snapshot(2, 1, FARTHEST + 1, 1, CONF, 1, bytes(8)))
    assert s.io.names() == []
    s.recv(msg.append_entries(2, 1, 1, 1, 1, [RaftEntry(1, 1, bytes(8))]))
    assert "append" in s.io.names()


LATER: dict[str, RaftMessage] = {
    "the only entry": msg.append_entries(2, 2, 1, 1, 1, msg.commands([3])),
    "the last entry": msg.append_entries(2, 2, 1, 1, 1, msg.commands([1, 2, 3])),
    "an entry among others": msg.append_entries(2, 2, 1, 1, 1, msg.commands([1, 3, 2])),
    "the predecessor of entries": msg.append_entries(2, 2, 1, 3, 1, msg.commands([2])),
    "the predecessor in a heartbeat": msg.append_entries(2, 2, 1, 3, 1),
    "a snapshot": msg.install_snapshot(2, 2, 9, 3, CONF, 1, bytes(8)),
    "a candidate's log": msg.request_vote(3, 2, 9, 3, disrupt=True),
    "a candidate's log before the election": msg.request_vote(3, 2, 9, 3, pre_vote=True),
    "the leader's log in an order to take over": msg.timeout_now(2, 2, 1, 3),
}


@pytest.mark.parametrize("what", LATER)
@pytest.mark.parametrize("lane", [True, False])
def test_nothing_is_of_a_later_term_than_the_message(what: str, lane: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A leader has nothing of a term above its own: the message is dropped, and told, also one term above."""
    s = Solo()
    s.r.lane = lane
    s.recv(msg.append_entries(2, 2, 1, 1, 1))
    s.io.calls.clear()
    s.recv(LATER[what])
    assert (s.io.names(), s.r.current_term, s.r.errmsg) == ([], 2, "")
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "dropped: " in record.getMessage()
    assert "of term 3 " in record.getMessage()
    s.recv(msg.append_entries(2, 2, 1, 1, 1, msg.commands([1, 2])))
    assert "append" in s.io.names()


@pytest.mark.parametrize("lane", [True, False])
def test_terms_that_fall_are_taken(lane: bool) -> None:
    """A leader of C has such a log after C's raft_recover, which writes an entry of term 1 behind those of term 3."""
    s = Solo()
    s.r.lane = lane
    s.recv(msg.append_entries(2, 4, 1, 1, 1))
    s.recv(msg.append_entries(2, 4, 1, 1, 1, msg.commands([3, 1])))
    s.recv(msg.append_entries(2, 4, 3, 1, 1, msg.commands([4])))
    s.io.finish_appends()
    s.recv(msg.append_entries(2, 4, 4, 4, 4))
    assert (s.r.last_stored, s.r.commit_index) == (4, 4)


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("term", ["older", "ours"])
def test_answers_with_impossible_numbers(term: str, lane: bool) -> None:
    """Below 0 they are dropped, and above the log's end the answer shows no more than that this is stored."""
    s = leader()
    s.r.lane = lane
    assert s.r.leader_state is not None
    p = s.r.leader_state.progress[1]
    before = (p.match_index, p.next_index, p.state, s.r.commit_index)
    for last, rejected in ((-1, 0), (-1, 2), (2, -1), (LAST, -1)):
        for _ in range(9):
            s.recv(msg.append_entries_result(2, s.r.current_term - (term == "older"), last, rejected))
    assert (p.match_index, p.next_index, p.state, s.r.commit_index) == before
    s.recv(msg.append_entries_result(2, s.r.current_term, LAST))
    assert s.state == RAFT_LEADER
    assert p.match_index <= raft_last_index(s.r)
    s.recv(msg.append_entries(2, s.r.current_term - 1, -1, 0))
    assert s.state == RAFT_LEADER


def test_an_entry_in_front_of_the_log_is_dropped() -> None:
    """An own I/O may hand over a number below 0, where C has none."""
    s = Solo()
    s.recv(msg.append_entries(2, 1, -1, 1, 1, msg.commands([1])))
    assert s.io.names() == []


@pytest.mark.parametrize("state", ["follower", "installing", "candidate", "leader"])
def test_what_no_log_can_hold_and_nobody_can_vote_for_is_dropped(state: str) -> None:
    """An I/O may hand over what io_uv refuses on the wire: entries or snapshots without a term, votes for nobody."""
    s = leader() if state == "leader" else Solo()
    if state == "candidate":
        s.stand()
    elif state == "installing":
        s.recv(msg.install_snapshot(2, 1, 5, 1, CONF, 1, bytes(16)))
    term, before = s.r.current_term, s.state
    s.io.calls.clear()
    vote = msg.request_vote(2, term + 1, 9, term, disrupt=True)
    assert vote.request_vote is not None
    vote.request_vote.candidate_id = 0
    for message in (
        vote,
        msg.append_entries(2, term + 1, 1, 1, 1, [RaftEntry(0, 1, bytes(8))]),
        msg.append_entries(2, term + 1, 1, 1, 1, [RaftEntry(1, 1, bytes(8)), RaftEntry(0, 1, bytes(8))]),
        msg.install_snapshot(2, term + 1, 9, 0, CONF, 1, bytes(16)),
        msg.install_snapshot(2, term + 1, 9, 1, RaftConfiguration(), 1, bytes(16)),
    ):
        s.recv(message)
        assert (s.r.current_term, s.state, s.io.names()) == (term, before, [])


def contradictions(id: int) -> list[RaftMessage]:
    """Return messages of term 2 that contradict entry 1 of term 1, which is committed."""
    return [
        msg.append_entries(id, 2, 1, 2, 1),
        msg.append_entries(id, 2, 0, 0, 1, [RaftEntry(2, 1, bytes(8))]),
        msg.install_snapshot(id, 2, 1, 2, CONF, 1, bytes(8)),
    ]


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("known", [True, False])
def test_a_stranger_that_contradicts_what_is_committed_is_not_believed(
    kind: int, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing happens but a line in the log, whoever leads; if a member says so, one of the two is wrong, and stops."""
    s = Solo()
    if known:
        s.recv(msg.append_entries(2, 2, 1, 1, 1))
    s.sent()
    s.recv(contradictions(99)[kind])
    assert (s.state, s.sent(), s.r.errmsg) == (RAFT_FOLLOWER, [], "")
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "from server 99 at 99 dropped: its sender is not a member, and " in record.getMessage()
    s.recv(msg.append_entries(2, 2, 1, 1, 1))
    assert len(s.sent()) == 1
    s.recv(contradictions(2)[kind])
    assert s.state == RAFT_UNAVAILABLE


def test_nobody_but_a_member_can_lead_beside_a_leader() -> None:
    """A leader goes on, and so does a follower that knows one; a member that says so stops a leader."""
    s = leader()
    term = s.r.current_term
    for message in (msg.append_entries(99, term, 1, 1, 1), msg.install_snapshot(99, term, 9, 1, CONF, 1, bytes(8))):
        s.recv(message)
        assert s.state == RAFT_LEADER
    s.recv(msg.append_entries(2, term, 1, 1, 1))
    assert s.state == RAFT_UNAVAILABLE
    s = Solo()
    s.recv(msg.append_entries(2, 1, 1, 1, 1))
    s.sent()
    s.recv(msg.append_entries(99, 1, 1, 1, 1, [RaftEntry(1, 1, bytes(8))]))
    assert (s.sent(), raft_leader(s.r)[0]) == ([], 2)


def test_one_message_does_not_stop_a_cluster_for_good(tmp_path: Path) -> None:
    """Three servers get 104 bytes of server 99 with the last term, and elect a leader after a restart."""
    loop = Loop()
    members = free_addresses(3)
    nodes = []
    for id in members:
        (tmp_path / str(id)).mkdir()
        nodes.append(Node(tmp_path / str(id), id, members, loop).start())
    run_until(loop, lambda: leader_of(nodes))
    for node in nodes:
        for term in (LAST, LAST - 1, 1 << 62, 1 << 63):
            stranger = connect(loop, port_of(node.transport))
            vote = msg.request_vote(99, 1, 9, 9, disrupt=True)
            data = bytearray(encode_message(vote)[0])
            struct.pack_into("<Q", data, 16, term)
            struct.pack_into("<Q", data, 24, 99)
            stranger.send(handshake(99, "127.0.0.1:1") + bytes(data))
            stranger.sock.shutdown(1)
            stranger.wait_end()
            stranger.close()
    for node in nodes:
        node.close()
    nodes = [Node(node.dir, node.id, members, loop).start() for node in nodes]
    leader = settled(nodes)
    assert leader.raft.current_term < 1000
    assert leader.try_apply(7) == 0
    for node in nodes:
        node.close()
    loop.close()

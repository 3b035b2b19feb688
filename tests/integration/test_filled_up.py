"""A server that starts without a log may have been a voter whose disk was replaced.

Until it has all that its leader had it neither votes nor stands: a part of the log makes it a voter again with less
than it had acknowledged. Leaders of our kind fill it up in many messages (B31).
"""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_CANDIDATE,
    RAFT_FOLLOWER,
    RAFT_STANDBY,
    RAFT_VOTER,
    Raft,
    RaftConfiguration,
    RaftEntry,
    RaftIo,
    RaftMessage,
    raft_init,
    raft_last_index,
    raft_set_max_append_bytes,
    raft_set_max_inflight_bytes,
    raft_start,
)
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import ScriptIo, change, configuration

NewCluster = Callable[..., Cluster]

CONF = configuration(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)


class Empty:
    """Server 1 without a log, in a cluster of three voters whose others the test plays."""

    def __init__(self, term: int = 0) -> None:
        self.io = ScriptIo()
        self.io.term = term
        self.r = Raft()
        assert raft_init(self.r, self.io, fsms.PairFsm(), 1, "1") == 0
        assert raft_start(self.r) == 0

    def recv(self, message: RaftMessage) -> None:
        """Hand it a message, and let the writes end."""
        self.io.on_recv(self.io, message)
        self.io.finish_appends()

    def gets(self, term: int, prev: int, prev_term: int, *entries: RaftEntry, whole: bool = False) -> None:
        """Receive entries from leader 2; `whole` as a leader of our kind says that there are no more."""
        message = msg.append_entries(2, term, prev, prev_term, 0, list(entries))
        assert message.append_entries is not None
        message.append_entries.whole = whole
        self.recv(message)

    def votes(self, term: int, last: int, last_term: int) -> bool:
        """Return whether it votes for server 3; it has heard of no leader for long."""
        self.r.follower_state.current_leader.id = 0
        self.recv(msg.request_vote(3, term, last, last_term))
        return self.io.messages[-1].request_vote_result.vote_granted

    def stands(self) -> bool:
        """Return whether it stands when it hears nothing."""
        for _ in range(30):
            self.io.now += 100
            self.io.on_tick(self.io)
        return self.r.state == RAFT_CANDIDATE


def commands(*terms: int) -> list[RaftEntry]:
    """Return entries of these terms."""
    return list(msg.commands(terms))


@pytest.mark.parametrize("term", [0, 4])
def test_half_a_log_makes_no_voter(term: int) -> None:
    """Half a log with more to come in the next message does not either. With the last part of it the server is one."""
    s = Empty(term)
    s.gets(5, 9, 5)  # refused, but it says where the log ends
    s.gets(5, 0, 0, change(1, CONF), *commands(1, 5))
    assert not s.votes(5, 4, 5)
    assert not s.votes(5, 99, 5)
    assert not s.stands()
    s.gets(5, 3, 5, *commands(5, 5, 5, 5, 5))
    assert not s.stands()
    s.gets(5, 8, 5, *commands(5), whole=True)
    assert not s.votes(6, 8, 5)
    assert s.votes(7, 9, 5)
    assert s.stands()


def test_a_leader_like_c_says_where_its_log_ends_with_a_heartbeat() -> None:
    """Its messages do not say that they are whole."""
    s = Empty()
    s.gets(5, 0, 0, change(1, CONF), *commands(5))
    assert not s.stands()
    s.gets(5, 2, 5)
    assert s.stands()


def test_a_heartbeat_in_the_middle_of_a_message_does_not_say_where_the_log_ends() -> None:
    """The I/O gives it in place of the leader's, which wait behind the rest of the message (io_uv/pieces.py)."""
    s = Empty()
    s.gets(5, 0, 0, change(1, CONF), *commands(5))
    message = msg.append_entries(2, 5, 2, 5)
    assert message.append_entries is not None
    message.append_entries.partial = True
    s.recv(message)
    assert not message.append_entries.refused
    assert not s.stands()
    s.gets(5, 2, 5, *commands(5))
    s.gets(5, 3, 5)
    assert s.stands()


def test_an_entry_of_a_later_leader_will_do() -> None:
    """A leader that is elected later has all that this server acknowledged, and it cannot have acknowledged in that
    term."""
    s = Empty()
    s.gets(5, 0, 0, change(1, CONF), *commands(5))
    s.gets(6, 2, 5, *commands(6))
    assert s.votes(7, 3, 6)


def test_a_later_candidate_needs_no_such_proof() -> None:
    """A log that ends with a term after that of the leader that was filling this one up is better than it ever was."""
    s = Empty()
    s.gets(5, 0, 0, change(1, CONF), *commands(5))
    assert not s.votes(7, 9, 5)
    assert s.votes(8, 3, 6)


def test_a_snapshot_is_a_part_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It makes a voter too, and what follows it is missing still. If nobody sends that, the log says so."""
    s = Empty()
    s.recv(msg.install_snapshot(2, 5, 9, 5, CONF, 1, fsms.content(7, 0)))
    s.io.finish_put()
    assert raft_last_index(s.r) == 9
    assert not s.votes(5, 9, 5)
    for _ in range(4):
        assert not s.stands()
    [line] = [record.getMessage() for record in caplog.records if "recovering" in record.getMessage()]
    assert "started without a log" in line
    s.gets(5, 9, 5, whole=True)
    assert s.stands()


def test_term_does_not_rise_for_a_server_that_is_being_filled_up() -> None:
    """A new server may be filled up for minutes: unlike one that recovers it never deposes its leader for that."""
    conf: RaftConfiguration = configuration(RAFT_STANDBY, RAFT_VOTER)
    for rejected in (False, True):
        s = Empty()
        s.gets(5, 0, 0, change(1, conf))
        for i in range(1, 400):
            s.io.now += 200
            if rejected:
                s.gets(5, 10_000, 5)
            else:
                s.gets(5, i, 1 if i == 1 else 5, *commands(5))
        assert (s.r.current_term, s.r.state) == (5, RAFT_FOLLOWER)


def test_voter_whose_disk_was_replaced_elects_nobody_while_it_is_half_filled(new_cluster: NewCluster) -> None:
    """Of three voters one is behind, and the leader goes when it has given back the first entries of many."""
    c = new_cluster(3).ready()
    for i in range(3):
        raft_set_max_append_bytes(c.raft(i), 64)
        raft_set_max_inflight_bytes(c.raft(i), 64)
    c.elect(0)
    c.cut(1, 0)
    c.cut(1, 2)
    c.set_randomized(1, 100_000)
    c.until_done(c.apply(0, *[fsms.add_x(1)] * 50), 10_000)
    c.restart(2, keep=0)
    c.cut(1, 0)
    c.cut(1, 2)
    raft_set_max_append_bytes(c.raft(2), 64)
    c.until(lambda: c.raft(2).last_stored >= 3, 10_000)
    c.kill(0)
    assert c.last_index(2) < 20
    c.heal(1, 2)
    c.set_randomized(1, 1500)  # Others stand after 1000 ms: this one does not split their votes.
    c.elapse(60_000)
    assert c.leader is None
    c.revive(0)
    for i in range(3):
        c.until(lambda: c.fsms[i].x == 50, 60_000)  # noqa: B023


def test_voter_that_stops_half_filled_elects_nobody_when_it_starts_again(new_cluster: NewCluster) -> None:
    """It has the leader's snapshot then, and would be elected with that: what it acknowledged behind it is missing."""
    c = new_cluster(3).ready()
    c.compact_early(10, 1)
    c.elect(0)
    c.cut(1, 0)
    c.cut(1, 2)
    c.set_randomized(1, 100_000)
    for _ in range(45):
        c.until_done(c.add_x(0))
    c.restart(2, keep=0)
    c.cut(1, 2)
    send = c.raft(0).io.send

    def without_entries(io: RaftIo, req: Any, message: RaftMessage, cb: Any) -> int:
        args = message.append_entries
        return 0 if args is not None and len(args.entries) > 0 else send(io, req, message, cb)

    c.raft(0).io.send = without_entries
    c.until(lambda: c.raft(2).log.snapshot.last_index > 0 and c.raft(2).snapshot.install is None, 60_000)
    assert c.last_index(2) < c.last_index(0)
    c.kill(0)
    c.restart(2)
    c.heal(1, 2)
    c.set_randomized(1, 1000)
    c.elapse(60_000)
    assert c.leader is None
    c.raft(0).io.send = send
    c.revive(0)
    for i in range(3):
        c.until(lambda: c.fsms[i].x == 45, 60_000)  # noqa: B023


def test_whoever_takes_the_first_configuration_back_gives_another() -> None:
    """It is of another cluster, by mistake or with intent; nothing is known to be committed, and it stops nobody."""
    s = Empty()
    s.gets(1, 0, 0, change(1, CONF))
    assert (s.r.configuration_committed_index, s.r.configuration_uncommitted_index) == (0, 1)
    s.io.on_recv(s.io, msg.append_entries(3, 2, 0, 0, 0, [change(2, configuration(RAFT_VOTER, RAFT_STANDBY))]))
    assert (s.r.configuration_uncommitted_index, s.r.configuration.servers) == (0, [])
    s.io.finish_appends()
    assert (s.r.configuration_uncommitted_index, len(s.r.configuration.servers)) == (1, 2)
    assert s.r.state == RAFT_FOLLOWER
    assert not s.stands()

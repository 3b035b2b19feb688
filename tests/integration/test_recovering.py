"""A voter that may have forgotten what it acknowledged takes no part in elections until it has all of it back."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import marker
from io_uv.pyuv import Loop
from pyraft import (
    RAFT_CANDIDATE,
    RAFT_CANTBOOTSTRAP,
    RAFT_COMMAND,
    RAFT_CORRUPT,
    RAFT_FOLLOWER,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_VOTER,
    RaftConfiguration,
    RaftEntry,
    RaftMessage,
    raft_bootstrap,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_recover,
    raft_set_election_timeout,
    raft_set_install_snapshot_timeout,
    raft_set_pre_vote,
    raft_start,
)
from pyraft import fixture as fx
from tests.lib import fsm
from tests.lib import messages as msg
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo
from tests.lib.uvnode import Node, free_addresses, make_nodes, settled
from tests.lib.uvtest import run_until


def forgetful(*roles: int, **options: Any) -> Solo:
    """Return a server of term 3 whose log ends with entry 2 and whose I/O says that entries may be missing."""
    solo = Solo(*roles, terms=(1,), term=3, start=False, **options)
    solo.io.recovering = lambda io: True
    solo.io.recovered = lambda io: io.note("recovered")
    return solo


def started(**options: Any) -> Solo:
    """Return such a server, started, one of three voters."""
    solo = forgetful(**options)
    assert raft_start(solo.r) == 0
    solo.io.calls.clear()
    return solo


def test_a_recovering_voter_does_not_stand_as_a_candidate() -> None:
    """However long it hears nothing."""
    solo = started()
    for _ in range(50):
        solo.tick(1000)
    assert solo.state == RAFT_FOLLOWER
    assert solo.sent() == []


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_recovering_voter_grants_no_vote_but_adopts_the_term(pre_vote: bool) -> None:
    """A candidate with a much better log gets none either, nor does one after a row of refusals."""
    solo = started()
    raft_set_pre_vote(solo.r, True)
    for term in range(4, 84):
        solo.recv(msg.request_vote(2, term, 100, 3, pre_vote=pre_vote))
        result = solo.reply().request_vote_result
        assert result is not None
        assert not result.vote_granted
    assert solo.r.current_term == (3 if pre_vote else 83)
    assert solo.io.vote == 0


def test_a_recovering_voter_does_not_obey_timeout_now() -> None:
    """It does not with exactly the leader's log either: only an empty AppendEntries shows that."""
    solo = started()
    solo.recv(msg.append_entries(2, 3, 2, 1, entries=msg.commands([3])))
    solo.io.finish_appends()
    solo.sent()
    solo.recv(msg.timeout_now(2, 3, 3, 3))
    assert solo.state == RAFT_FOLLOWER
    assert solo.sent() == []


def test_a_recovering_voter_stores_and_acknowledges_entries() -> None:
    """Entries that it stores now count; that does not end the recovery, more may be missing."""
    solo = started()
    solo.recv(msg.append_entries(2, 3, 2, 1, entries=msg.commands([3, 3])))
    solo.io.finish_appends()
    result = solo.reply().append_entries_result
    assert result is not None
    assert (result.rejected, result.last_log_index) == (0, 4)
    assert solo.r.recovering
    assert "recovered" not in solo.io.names()


def test_the_predecessor_of_an_empty_append_entries_ends_the_recovery_once_it_is_stored() -> None:
    """To have it in memory is not enough; after that the server stands and votes like any other."""
    solo = started()
    solo.recv(msg.append_entries(2, 3, 2, 1, entries=msg.commands([3])))
    solo.recv(msg.append_entries(2, 3, 3, 3))
    assert solo.r.recovering
    solo.io.finish_appends()
    for names in (["recovered"], []):
        solo.recv(msg.append_entries(2, 3, 3, 3))
        assert [name for name in solo.io.names() if name == "recovered"] == names
        assert not solo.r.recovering
    solo.tick(2000)
    assert solo.state == RAFT_CANDIDATE


def test_a_leader_that_sends_nothing_because_it_remembers_our_acknowledgments_is_made_to_start_afresh() -> None:
    """After install_snapshot_timeout of rejections in a row the server adopts the next term, and says so."""
    solo = started()
    for _ in range(300):
        solo.recv(msg.append_entries(2, 3, 9, 3))
        solo.tick(100)
    assert solo.r.current_term == 3
    solo.sent()
    solo.recv(msg.append_entries(2, 3, 9, 3))
    result = solo.reply().append_entries_result
    assert result is not None
    assert (result.term, result.rejected) == (4, 9)
    assert solo.io.term == 4


def test_a_match_in_between_begins_the_row_of_rejections_again() -> None:
    """The leader is at work."""
    solo = started()
    for i in range(600):
        if i % 200 == 0:
            solo.recv(msg.append_entries(2, 3, 2, 1, entries=msg.commands([3])))
            solo.io.finish_appends()
        solo.recv(msg.append_entries(2, 3, 9, 3))
        solo.tick(100)
    assert solo.r.current_term == 3


def test_a_leader_that_steps_back_through_its_log_is_given_the_time() -> None:
    """Each rejection that it heeds begins the row again, however long it takes to find where the logs agree."""
    s = started()
    for prev in (9, 4, 3, 2):
        s.io.now += s.r.install_snapshot_timeout - 1
        s.recv(msg.append_entries(2, 5, prev, 4, 0, msg.commands([5])))
        assert s.r.current_term == 5
    s.io.now += s.r.install_snapshot_timeout
    s.recv(msg.append_entries(2, 5, 2, 4, 0, msg.commands([5])))
    assert s.r.current_term == 6


def test_an_empty_append_entries_that_is_rejected_or_of_an_older_term_ends_nothing() -> None:
    """Neither shows that what was acknowledged in the own term is there."""
    solo = started()
    solo.recv(msg.append_entries(2, 3, 9, 3))
    solo.recv(msg.append_entries(2, 2, 2, 1))
    assert solo.r.recovering


def whole(message: RaftMessage) -> RaftMessage:
    """Return an AppendEntries that says that it goes to the end of its leader's log."""
    assert message.append_entries is not None
    message.append_entries.whole = True
    return message


def test_a_message_to_the_end_of_the_leaders_log_ends_the_recovery_once_it_is_stored() -> None:
    """It ends at once: the leader may have nothing more to say, as one that has just handed over or stepped down."""
    solo = started()
    solo.recv(whole(msg.append_entries(2, 3, 2, 1, entries=msg.commands([3, 3]))))
    assert solo.r.recovering
    solo.io.finish_appends()
    assert not solo.r.recovering
    assert "recovered" in solo.io.names()


def test_the_end_of_a_leaders_log_is_told_by_messages_that_do_not_match_too() -> None:
    """Under load there is no other: the leader has gone on when what was missing has come."""
    solo = started()
    solo.recv(whole(msg.append_entries(2, 3, 5, 3, entries=msg.commands([3]))))
    solo.recv(msg.append_entries(2, 3, 2, 1, entries=msg.commands([3, 3, 3])))
    solo.io.finish_appends()
    assert solo.r.recovering
    solo.recv(msg.append_entries(2, 3, 5, 3, entries=msg.commands([3, 3, 3])))
    assert solo.r.recovering
    solo.io.finish_appends()
    assert not solo.r.recovering


def test_what_is_stored_but_not_shown_to_match_ends_nothing() -> None:
    """Old entries of our own may stand where the leader has others."""
    solo = forgetful()
    solo.io.stored += msg.commands([1, 1, 1, 1])
    assert raft_start(solo.r) == 0
    solo.recv(whole(msg.append_entries(2, 3, 4, 3, entries=msg.commands([3]))))
    solo.recv(msg.append_entries(2, 3, 2, 1))
    assert solo.r.recovery_end == 5
    assert solo.r.last_stored == 6
    assert solo.r.recovering


def test_an_end_that_the_leader_of_an_earlier_term_told_is_void() -> None:
    """The next one may have more."""
    solo = started()
    solo.recv(whole(msg.append_entries(2, 3, 4, 3)))
    solo.recv(msg.append_entries(3, 4, 2, 1, entries=msg.commands([3, 3, 3])))
    assert solo.r.recovery_end == 0
    solo.io.finish_appends()
    assert solo.r.recovering


def test_an_entry_of_a_later_term_than_at_the_start_ends_the_recovery() -> None:
    """Nothing of that term was acknowledged before, and before it comes all that its leader had when it was elected."""
    solo = started()
    solo.recv(msg.append_entries(2, 4, 2, 1, entries=msg.commands([3, 3])))
    solo.io.finish_appends()
    assert solo.r.recovering
    solo.recv(msg.append_entries(2, 4, 4, 3, entries=msg.commands([4])))
    assert solo.r.recovering
    solo.io.finish_appends()
    assert not solo.r.recovering


def test_under_a_leader_that_is_never_idle_and_never_tells_its_end_the_next_term_begins() -> None:
    """A C leader of the term in which this server stopped is one; it begins once, then its entries tell."""
    solo = started()
    index = 2
    for _ in range(299):
        solo.recv(msg.append_entries(2, 3, index, 1 if index == 2 else 3, entries=msg.commands([3])))
        solo.io.finish_appends()
        solo.tick(100)
        index += 1
    assert (solo.r.current_term, solo.r.recovering) == (3, True)
    solo.tick(200)
    solo.sent()
    solo.recv(msg.append_entries(2, 3, index, 3, entries=msg.commands([3])))
    assert solo.r.current_term == 4
    solo.io.finish_appends()
    for _ in range(400):
        solo.recv(msg.append_entries(2, 5, index, 3))
        solo.tick(100)
    assert solo.r.current_term == 5


def test_a_recovering_voter_votes_for_a_log_that_is_better_than_its_own_ever_was() -> None:
    """It has had no entry of a later term than that in which it started."""
    solo = started()
    for last_term, granted in ((3, False), (4, True)):
        solo.recv(msg.request_vote(2, 4 + last_term, 1, last_term))
        result = solo.reply().request_vote_result
        assert result is not None
        assert result.vote_granted == granted
    assert solo.io.vote == 2


@pytest.mark.parametrize("pre_vote", [False, True])
def test_a_recovering_voter_doubts_a_leader_that_fell_silent(pre_vote: bool) -> None:
    """It never stands, at which others forget their leader: it would refuse a vote that it may give, for ever."""
    solo = started()
    solo.recv(msg.append_entries(2, 5, 9, 4, 1))
    solo.sent()
    solo.recv(msg.request_vote(3, 6, 7, 4, pre_vote=pre_vote))
    assert not solo.reply().request_vote_result.vote_granted
    assert solo.r.current_term == 5
    solo.tick(1000)
    solo.sent()
    solo.recv(msg.request_vote(3, 6, 2, 3, pre_vote=pre_vote))
    assert not solo.reply().request_vote_result.vote_granted
    solo.recv(msg.request_vote(3, 7, 7, 4, pre_vote=pre_vote))
    assert solo.reply().request_vote_result.vote_granted


def test_the_log_says_once_that_a_recovering_voter_may_be_what_keeps_a_leader_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says so again when a leader has been there in between."""
    solo = started()
    for times in (1, 2):
        for _ in range(300):
            solo.tick(100)
        told = [r.getMessage() for r in caplog.records if "withholds its vote" in r.getMessage()]
        assert len(told) == times
        solo.recv(msg.append_entries(2, 3, 9, 3))
    assert told[0].startswith(
        "server 1 is recovering: it may lack entries that it acknowledged (its disk has lost some)"
    )
    assert told[0].index("Bring all other members back") < told[0].index("raft_recover")


NewCluster = Callable[..., Cluster]


def test_recovery_ends_under_load(new_cluster: NewCluster) -> None:
    """A command every 30 ms leaves no time for an empty heartbeat; when the leader dies there is another one."""
    c = new_cluster(3).led()
    for _ in range(20):
        assert c.until_done(c.add_x(0)) == 0
    c.restart(2, keep=12, recovering=True)
    for _ in range(100):
        c.add_x(0)
        c.elapse(30)
    assert not c.raft(2).recovering
    c.kill(0)
    c.until(lambda: c.leader in (1, 2), 20_000)


def test_two_voters_one_of_them_recovering_wait_and_say_so(
    new_cluster: NewCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Server 2 knows of two voters, but entries that named more may be what it lost; the other may lack the same."""
    c = new_cluster(2).led()
    for _ in range(10):
        assert c.until_done(c.add_x(0)) == 0
    c.kill(0)
    c.restart(1, keep=8, recovering=True)
    c.revive(0)
    c.restart(0)
    c.elapse(300_000)
    assert c.leader is None
    assert len([r for r in caplog.records if "withholds its vote" in r.getMessage()]) == 1


def test_a_marker_that_cannot_be_removed_stands_until_the_next_heartbeat() -> None:
    """The server goes on meanwhile, without voting."""
    solo = started()
    solo.io.fail("recovered", RAFT_IOERR)
    solo.recv(msg.append_entries(2, 3, 2, 1))
    assert solo.state == RAFT_FOLLOWER
    assert solo.r.recovering
    solo.recv(msg.append_entries(2, 3, 2, 1))
    assert not solo.r.recovering


def test_an_io_function_that_raises_is_fail_stop() -> None:
    """In recovering raft_start fails, in recovered the server becomes unavailable."""
    solo = forgetful()

    def broken(io: Any) -> Any:
        raise ZeroDivisionError("broken")

    solo.io.recovering = broken
    assert raft_start(solo.r) == RAFT_IOERR
    assert raft_errmsg(solo.r) == "io.recovering: ZeroDivisionError: broken"
    solo = started()
    solo.io.recovered = broken
    solo.recv(msg.append_entries(2, 3, 2, 1))
    assert raft_errmsg(solo.r) == "io.recovered: ZeroDivisionError: broken"
    assert solo.state == 0


def test_a_table_without_recovered_is_enough() -> None:
    """Then the end of the recovery is forgotten with the process."""
    solo = started()
    solo.io.recovered = None
    solo.recv(msg.append_entries(2, 3, 2, 1))
    assert not solo.r.recovering


def test_the_only_voter_refuses_to_start() -> None:
    """Nobody can give it back what it may have forgotten."""
    solo = forgetful(RAFT_VOTER, 0)

    def says_why(io: Any) -> bool:
        io.errmsg = "see there"
        return True

    solo.io.recovering = says_why
    assert raft_start(solo.r) == RAFT_CORRUPT
    text = raft_errmsg(solo.r)
    assert "entries may be lost that it acknowledged, and other members with them: see there" in text


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop that is closed at the end."""
    made = Loop()
    yield made
    made.close()


def damage_last_closed_segment(dir: Path) -> None:
    """Flip a byte in the payload of the last closed segment."""
    name = max(n for n in os.listdir(dir) if n[0] == "0")
    data = bytearray((dir / name).read_bytes())
    data[-1] ^= 0xFF
    (dir / name).write_bytes(data)


def test_on_disk_a_damaged_only_voter_names_the_file_to_read_and_starts_without_it(tmp_path: Path, loop: Loop) -> None:
    """The operator decides; until then every start is refused."""
    members = free_addresses(1)
    node = Node(tmp_path, 1, members, loop).start(segment_size=4096)
    for number in range(8):
        assert node.try_apply(number, 1024) == 0
    node.close()
    damage_last_closed_segment(tmp_path)
    for _ in range(2):
        refused = Node(tmp_path, 1, members, loop)
        assert raft_init(refused.raft, refused.io, refused.fsm, 1, members[1]) == 0
        assert raft_start(refused.raft) == RAFT_CORRUPT
        assert marker.NAME in raft_errmsg(refused.raft)
        assert "remov" not in raft_errmsg(refused.raft)
        text = (tmp_path / marker.NAME).read_text()
        assert text.index("other members") < text.index("would lead a second cluster") < text.index("removing")
        refused.close()
    os.unlink(tmp_path / marker.NAME)
    again = Node(tmp_path, 1, members, loop).start()
    assert again.state == RAFT_LEADER
    again.close()


def test_on_disk_a_log_without_metadata_does_not_start_until_the_operator_recovers_it(
    tmp_path: Path, loop: Loop
) -> None:
    """Term and vote are gone; a server that starts over in term 0 could vote twice."""
    members = free_addresses(1)
    node = Node(tmp_path, 1, members, loop).start()
    assert node.try_apply(7) == 0
    node.close()
    for name in os.listdir(tmp_path):
        if name.startswith("metadata"):
            os.unlink(tmp_path / name)
    refused = Node(tmp_path, 1, members, loop)
    assert raft_init(refused.raft, refused.io, refused.fsm, 1, members[1]) == 0
    assert raft_start(refused.raft) == RAFT_CORRUPT
    assert "metadata was lost" in raft_errmsg(refused.raft)
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 1, members[1], RAFT_VOTER) == 0
    assert raft_bootstrap(refused.raft, conf) == RAFT_CANTBOOTSTRAP
    assert "metadata was lost" in raft_errmsg(refused.raft)
    assert raft_start(refused.raft) == RAFT_CORRUPT
    assert "metadata was lost" in raft_errmsg(refused.raft)
    assert raft_recover(refused.raft, conf) == 0
    refused.close()
    again = Node(tmp_path, 1, members, loop).start()
    assert again.state == RAFT_LEADER
    assert again.fsm.numbers == [7]
    assert again.raft.current_term > 1
    again.close()


def test_on_disk_metadata_that_were_copied_back_do_not_start_until_the_operator_recovers_the_log(
    tmp_path: Path, loop: Loop
) -> None:
    """The server has led in later terms since; the entries of these are kept."""
    members = free_addresses(1)
    node = Node(tmp_path, 1, members, loop).start()
    assert node.try_apply(1) == 0
    node.close()
    kept = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path) if name.startswith("metadata")}
    node = Node(tmp_path, 1, members, loop).start()
    assert node.try_apply(2) == 0
    node.close()
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    refused = Node(tmp_path, 1, members, loop)
    assert raft_init(refused.raft, refused.io, refused.fsm, 1, members[1]) == 0
    assert raft_start(refused.raft) == RAFT_CORRUPT
    assert "newer metadata was lost" in raft_errmsg(refused.raft)
    conf = RaftConfiguration()
    assert raft_configuration_add(conf, 1, members[1], RAFT_VOTER) == 0
    assert raft_recover(refused.raft, conf) == 0
    refused.close()
    again = Node(tmp_path, 1, members, loop).start()
    assert again.state == RAFT_LEADER
    assert again.fsm.numbers == [1, 2]
    again.close()


def test_on_disk_a_damaged_follower_gets_its_entries_back_and_then_votes(tmp_path: Path, loop: Loop) -> None:
    """The marker is there while entries are missing, and gone with the first heartbeat after they are back."""
    nodes = make_nodes(tmp_path, 3, loop)
    leader = settled(nodes)
    for number in range(8):
        assert leader.try_apply(number, 1024) == 0
    run_until(loop, lambda: all(len(node.fsm.numbers) == 8 for node in nodes))
    follower = next(node for node in nodes if node is not leader)
    follower.close()
    damage_last_closed_segment(follower.dir)
    again = Node(follower.dir, follower.id, follower.members, loop)
    nodes[nodes.index(follower)] = again
    again.start(segment_size=4096)
    raft_set_election_timeout(again.raft, 3_600_000)
    raft_set_install_snapshot_timeout(again.raft, 500)
    assert again.raft.recovering
    assert (follower.dir / marker.NAME).exists()
    run_until(loop, lambda: not again.raft.recovering)
    assert not (follower.dir / marker.NAME).exists()
    run_until(loop, lambda: len(again.fsm.numbers) == 8)
    for node in nodes:
        node.close()


def test_the_fixture_knows_of_no_missing_entries_but_of_an_empty_disk() -> None:
    """No file of it can be damaged. Whether a leader has filled up an empty server is remembered."""
    f = fx.RaftFixture()
    assert fx.raft_fixture_init(f) == 0
    assert fx.raft_fixture_grow(f, fsm.PairFsm()) == 0
    io = f.servers[0].io
    assert io.filling is not None
    assert io.recovering is not None
    assert io.recovered is not None
    assert not io.recovering(io)
    assert io.filling(io) == 0
    assert not io.recovering(io)
    fx.raft_fixture_set_term(f, 0, 1)
    fx.raft_fixture_add_entry(f, 0, RaftEntry(1, RAFT_COMMAND, bytes(8)))
    assert io.recovering(io)
    assert io.recovered(io) == 0
    assert not io.recovering(io)
    fx.raft_fixture_close(f)


def test_rejections_during_an_installation_do_not_count() -> None:
    """A recovering voter that is being sent a snapshot has no reason to ask for another leader."""
    s = started()
    raft_set_install_snapshot_timeout(s.r, 1000)
    s.recv(msg.install_snapshot(2, 3, 9, 3, s.conf, 1, fsm.content(0, 0)))
    for _ in range(30):
        s.tick()
        s.recv(msg.append_entries(2, 3, 12, 3))
    assert s.r.current_term == 3
    assert s.state == RAFT_FOLLOWER
    s.io.finish_put()
    for _ in range(12):
        s.recv(msg.append_entries(2, 3, 12, 3))
        s.tick()
    assert s.r.current_term == 4


def test_the_leader_of_a_new_term_is_given_the_time() -> None:
    """The rejections that its predecessor got are not held against it."""
    s = started()
    s.recv(msg.append_entries(2, 3, 9, 3))
    s.io.now += s.r.install_snapshot_timeout
    s.recv(msg.append_entries(2, 4, 9, 3))
    assert s.r.current_term == 4
    s.io.now += s.r.install_snapshot_timeout
    s.recv(msg.append_entries(2, 4, 9, 3))
    assert s.r.current_term == 5


def test_a_snapshot_that_was_long_under_way_begins_the_row_of_rejections_again() -> None:
    """No rejection need have come between its arrival and its end, and the leader did send something."""
    s = started()
    s.recv(msg.append_entries(2, 3, 12, 3))
    s.io.now += s.r.install_snapshot_timeout
    s.recv(msg.install_snapshot(2, 3, 9, 3, s.conf, 1, fsm.content(0, 0)))
    s.io.finish_put()
    s.recv(msg.append_entries(2, 3, 12, 3))
    assert s.r.current_term == 3

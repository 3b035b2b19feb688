"""The defects B46, B47 and B51 of the C core: what a leader may decide about the cluster, and when.

B46 is a hole in the algorithm: a change before an entry of the leader's own term is committed. Each test fails when its
repair is taken out; the labels are those of pyraft/DEVIATIONS.md.
"""

from collections.abc import Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_BUSY,
    RAFT_CANDIDATE,
    RAFT_CANTCHANGE,
    RAFT_CHANGE,
    RAFT_FOLLOWER,
    RAFT_INVALID,
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IOERR,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOTFOUND,
    RAFT_NOTLEADER,
    RAFT_SHUTDOWN,
    RAFT_SPARE,
    RAFT_STANDBY,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftChange,
    RaftTransfer,
    log,
    raft_add,
    raft_apply,
    raft_assign,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_last_index,
    raft_recover,
    raft_remove,
    raft_set_snapshot_threshold,
    raft_transfer,
)
from pyraft import fixture as fx
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib import solo
from tests.lib.cluster import Cluster
from tests.lib.solo import Solo, Statuses, configuration, leader

Change = Callable[[Raft, RaftChange, Any], int]

ROLES = (RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_SPARE)

CHANGES: dict[str, Change] = {
    "add": lambda r, req, cb: raft_add(r, req, 5, "5", cb),
    "remove": lambda r, req, cb: raft_remove(r, req, 3, cb),
    "demote": lambda r, req, cb: raft_assign(r, req, 3, RAFT_STANDBY, cb),
    "promote": lambda r, req, cb: raft_assign(r, req, 4, RAFT_VOTER, cb),
}


def fresh(*roles: int, deferring: bool = False) -> Solo:
    """Return a leader of term 2 whose barrier, entry 2, is on its own disk only."""
    s = Solo(*(roles or ROLES), deferring=deferring)
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    s.io.finish_appends()
    s.sent()
    s.io.calls.clear()
    assert (s.state, s.r.commit_index, s.r.last_stored) == (RAFT_LEADER, 1, 2)
    return s


def members(s: Solo) -> list[tuple[int, int]]:
    """Return (id, role) of the configuration in force."""
    return [(server.id, server.role) for server in s.r.configuration.servers]


def untouched(s: Solo) -> bool:
    """Return whether no change shows: neither in the configuration and its indexes, nor the log, nor a promotion."""
    r = s.r
    indexes = (r.configuration_committed_index, r.configuration_uncommitted_index, raft_last_index(r))
    same = members(s) == [(1, RAFT_VOTER), (2, RAFT_VOTER), (3, RAFT_VOTER), (4, RAFT_SPARE)]
    return same and indexes == (1, 0, 2) and r.leader_state.promotee_id == 0 and len(r.leader_state.progress) == 4


def begun(s: Solo, kind: str) -> bool:
    """Return whether a change of this kind has begun."""
    if kind == "promote":
        return s.r.leader_state.promotee_id == 4 and raft_last_index(s.r) == 2
    return s.r.configuration_uncommitted_index == 3 and raft_last_index(s.r) == 3


@pytest.mark.parametrize("kind", CHANGES)
def test_b46_change_waits_for_an_entry_of_the_leaders_own_term(kind: str) -> None:
    """It is under way, and nothing shows of it until that entry is committed; then it goes the way it always went."""
    s = fresh()
    req, done = RaftChange(), Statuses()
    assert CHANGES[kind](s.r, req, done) == 0
    assert untouched(s)
    assert s.io.calls == []
    assert req.pending
    for other in CHANGES.values():
        assert other(s.r, RaftChange(), done) == RAFT_CANTCHANGE
    s.tick()
    assert untouched(s)
    s.recv(msg.append_entries_result(2, 2, 2))
    assert s.r.commit_index == 2
    assert begun(s, kind)
    if kind == "promote":
        s.recv(msg.append_entries_result(4, 2, 2))
        assert members(s)[3] == (4, RAFT_VOTER)
    assert req.index == 3
    s.io.finish_appends()
    for id in (2, 3, 4):
        s.recv(msg.append_entries_result(id, 2, 3))
    assert done.seen == [0]
    assert not req.pending


@pytest.mark.parametrize("kind", CHANGES)
def test_b46_change_begins_when_the_own_write_commits(kind: str) -> None:
    """A commit may come so, too: the followers have answered, and the leader's own disk is the last."""
    s = Solo(*ROLES)
    s.stand()
    s.recv(msg.request_vote_result(2, 2))
    s.recv(msg.append_entries_result(2, 2, 2))
    assert CHANGES[kind](s.r, RaftChange(), None) == 0
    assert untouched(s)
    s.io.finish_append()
    assert s.r.commit_index == 2
    assert begun(s, kind)


def test_b46_the_checks_come_at_once() -> None:
    """The codes are as before, and what is refused leaves nothing that waits."""
    s = fresh()
    req = RaftChange()
    assert raft_remove(s.r, req, 9, None) == RAFT_BADID
    assert raft_assign(s.r, req, 9, RAFT_VOTER, None) == RAFT_NOTFOUND
    assert raft_assign(s.r, req, 2, RAFT_VOTER, None) == RAFT_BADROLE
    assert not req.pending
    assert raft_add(s.r, req, 5, "5", None) == 0
    s.recv(msg.append_entries_result(2, 2, 2))
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    busy = RaftChange()
    busy.pending = True
    assert raft_remove(s.r, busy, 5, None) == RAFT_BUSY
    assert s.r.leader_state.change is None
    assert raft_remove(s.r, RaftChange(), 5, None) == 0


def test_b46_a_promotion_that_waited_looks_at_the_match_of_its_moment() -> None:
    """Whether the server has everything is decided when the promotion begins: this one needs no catch-up round."""
    s = fresh(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY)
    req = RaftChange()
    assert raft_assign(s.r, req, 4, RAFT_VOTER, None) == 0
    s.recv(msg.append_entries_result(4, 2, 2))
    assert members(s)[3] == (4, RAFT_STANDBY)
    s.recv(msg.append_entries_result(3, 2, 2))
    assert members(s)[3] == (4, RAFT_VOTER)
    assert (req.index, s.r.leader_state.promotee_id) == (3, 0)


@pytest.mark.parametrize("kind", CHANGES)
def test_b46_change_that_waits_begins_at_a_tick_when_a_transfer_has_ended(kind: str) -> None:
    """During it the leader's entry is committed and nothing begins; then it does, before the messages of the tick."""
    s = fresh()
    req = RaftChange()
    assert CHANGES[kind](s.r, req, None) == 0
    assert raft_transfer(s.r, RaftTransfer(), 3, None) == 0
    s.recv(msg.append_entries_result(2, 2, 2))
    assert (s.r.commit_index, untouched(s)) == (2, True)
    for _ in range(9):
        s.tick()
        s.recv(msg.append_entries_result(2, 2, 2))
        assert untouched(s)
    s.tick()
    assert s.r.transfer is None
    s.recv(msg.append_entries_result(4, 2, 2))
    assert untouched(s), "neither a commit nor a tick"
    s.r.leader_state.progress[3].match_index = 0
    s.sent()
    s.io.calls.clear()
    s.tick()
    assert begun(s, kind)
    if kind != "promote":
        assert s.io.names()[0] == "append"
        sent = [m.append_entries for m in s.sent() if m.type == RAFT_IO_APPEND_ENTRIES]
        assert [len(args.entries) for args in sent if args is not None and args.prev_log_index == 2] != []


@pytest.mark.parametrize("how", ["deposed", "closed", "alone"])
def test_b46_change_that_waits_ends_with_the_leadership(how: str) -> None:
    """It gets RAFT_LEADERSHIPLOST, like any change; the next leadership begins without it."""
    s = fresh()
    req, done = RaftChange(), Statuses()
    assert raft_remove(s.r, req, 3, done) == 0
    if how == "deposed":
        s.recv(msg.append_entries(3, 3, 1, 1))
    elif how == "closed":
        raft_close(s.r, None)
    else:
        while s.state == RAFT_LEADER:
            s.tick()
    assert done.seen == [RAFT_LEADERSHIPLOST]
    assert not req.pending
    if how != "closed":
        assert s.state == RAFT_FOLLOWER
        s.lead()
        assert s.r.leader_state.change is None
        assert raft_remove(s.r, req, 3, done) == 0
        assert s.r.configuration.n == 3


def test_b46_refusal_of_the_disk_comes_with_the_callback() -> None:
    """A code of io.append at the later moment ends the change, leaves all as it was, and the next one can be made."""
    for kind in ("add", "remove", "demote"):
        s = fresh()
        done = Statuses()
        assert CHANGES[kind](s.r, RaftChange(), done) == 0
        s.io.fail("append", RAFT_IOERR)
        s.recv(msg.append_entries_result(2, 2, 2))
        assert done.seen == [RAFT_IOERR]
        assert untouched(s)
        assert s.state == RAFT_LEADER
        assert CHANGES[kind](s.r, RaftChange(), None) == 0
        assert begun(s, kind)


def test_b46_exception_of_the_disk_at_the_later_moment_stops_the_server() -> None:
    """It does as at any other moment; the change is called back once."""
    s = fresh()
    done = Statuses()
    assert raft_remove(s.r, RaftChange(), 3, done) == 0
    s.io.raises("append", ValueError("oops"))
    s.recv(msg.append_entries_result(2, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert len(done.seen) == 1
    assert done.seen[0] in (RAFT_IOERR, RAFT_LEADERSHIPLOST)


def test_b46_deferred_commands_go_out_before_the_change() -> None:
    """A command applied in the turn has the lower index, so it is written first."""
    s = fresh(deferring=True)
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.recv(msg.append_entries_result(2, 2, 2))
    assert s.r.configuration_uncommitted_index == 4
    assert [batch.types for _, batch, _ in s.io.appends] == [[1], [RAFT_CHANGE]]


def test_b46_change_waits_for_what_the_commit_brings_to_be_applied() -> None:
    """A callback of that pass still finds the change waiting, and one that ends the leadership ends it."""
    s = fresh()
    done = Statuses()
    seen: list[int] = []
    note = seen.append
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, lambda *_: note(s.r.configuration_uncommitted_index)) == 0
    s.io.finish_appends()
    assert raft_add(s.r, RaftChange(), 5, "5", done) == 0
    s.recv(msg.append_entries_result(2, 2, 3))
    assert seen == [0]
    assert s.r.configuration_uncommitted_index == 4
    s = fresh()
    close: Any = lambda *_: raft_close(s.r, None)  # noqa: E731
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, close) == 0
    s.io.finish_appends()
    done = Statuses()
    assert raft_add(s.r, RaftChange(), 5, "5", done) == 0
    s.recv(msg.append_entries_result(2, 2, 3))
    assert done.seen == [RAFT_LEADERSHIPLOST]


def test_b46_only_voter_need_not_wait() -> None:
    """All that it has stored is committed: there is nobody who could have another change."""
    s = Solo(RAFT_VOTER, RAFT_SPARE)
    assert (s.state, s.r.current_term, s.r.commit_index) == (RAFT_LEADER, 2, 1)
    assert raft_add(s.r, RaftChange(), 3, "3", None) == 0
    assert s.r.configuration.n == 3


def test_b46_compacted_commit_index_counts_by_the_snapshots_term() -> None:
    """A leader whose committed entries are all in a snapshot with an entry of its term changes at once."""
    s = leader(*ROLES)
    raft_set_snapshot_threshold(s.r, 1)
    s.r.snapshot.trailing = 0
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 3))
    s.io.finish_put()
    assert raft_remove(s.r, RaftChange(), 3, None) == 0
    assert s.r.configuration.n == 3


def test_b46_two_leaders_with_changes_from_one_base_commit_one_history() -> None:
    """This is the hole: 1 makes 5 a voter and reaches nobody but 5, 2 is elected by the others and removes 4.

    With that removal in force at once 2 and 3 are a majority, and 1, 4 and 5 are another one.
    """
    c = Cluster(5).ready(4)
    c.elect(0)
    c.until_applied(0, 2, 2000)
    for i in (0, 4):
        for j in (1, 2, 3):
            c.cut(i, j)
    assert raft_assign(c.raft(0), RaftChange(), 5, RAFT_VOTER, None) == 0
    for i in (2, 3):
        fx.raft_fixture_set_randomized_election_timeout(c.f, i, 5000)
    c.until_state(1, RAFT_LEADER, 20000)
    for i in (1, 2):
        c.cut(i, 3)
    change = c.remove(1, 4)
    command = c.apply(1, fsms.set_x(1))
    assert change.rv == command.rv == 0
    c.elapse(500)
    assert not command.done, "2 and 3 of 1, 2, 3 and 4 are no majority"
    assert c.roles(1) == {1: RAFT_VOTER, 2: RAFT_VOTER, 3: RAFT_VOTER, 4: RAFT_VOTER, 5: RAFT_STANDBY}


# B47: state of an earlier leadership


def elected_again(cb: Any) -> Solo:
    """Return a server that leads again while a transfer of its earlier leadership is pending."""
    s = leader()
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    assert raft_transfer(s.r, RaftTransfer(), 2, lambda req: cb(s)) == 0
    s.recv(msg.append_entries(3, 3, 3, 2))
    s.io.finish_appends()
    s.recv(msg.timeout_now(3, 3, 3, 2))
    assert s.r.transfer is not None
    s.recv(msg.request_vote_result(2, 4))
    return s


def test_b47_transfer_of_an_earlier_leadership_ends_when_the_server_leads_again() -> None:
    """Its callback sees a leader that takes no requests yet; then the barrier is appended, and it goes on."""
    seen: list[Any] = []

    def cb(s: Solo) -> None:
        seen.append((s.state, s.r.transfer, raft_last_index(s.r)))
        seen.append(raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None))

    s = elected_again(cb)
    assert seen == [(RAFT_LEADER, None, 3), RAFT_NOTLEADER]
    assert s.state == RAFT_LEADER
    assert raft_last_index(s.r) == 4
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.tick(1000)
    assert len(seen) == 2


def test_b47_callback_may_close_the_server() -> None:
    """Then nothing is appended any more."""
    s = elected_again(lambda s: raft_close(s.r, None))
    assert s.state == RAFT_UNAVAILABLE
    assert s.io.appends == []


def test_b47_only_voter_ends_its_transfer_too() -> None:
    """It does so where it needs no barrier to lead again, too."""
    s = leader(RAFT_VOTER, RAFT_VOTER)
    ended: list[RaftTransfer] = []
    assert raft_remove(s.r, RaftChange(), 2, None) == 0
    s.io.finish_append()
    assert s.r.configuration.n == 1
    s.r.transfer = RaftTransfer()
    s.r.transfer.cb = ended.append
    s.recv(msg.append_entries(2, 3, 3, 2))
    s.tick(2000)
    assert (s.state, len(ended)) == (RAFT_LEADER, 1)


# B51: no configuration without a voter


@pytest.mark.parametrize("rest", [(RAFT_SPARE,), (RAFT_STANDBY, RAFT_SPARE), ()])
@pytest.mark.parametrize("what", ["remove", "stand-by", "spare"])
def test_b51_the_last_voter_stays_a_voter(what: str, rest: tuple[int, ...]) -> None:
    """raft_remove and raft_assign refuse, after all other checks, and the leader leads on."""
    s = Solo(RAFT_VOTER, *rest)
    before = members(s)

    def change(req: RaftChange) -> int:
        if what == "remove":
            return raft_remove(s.r, req, 1, None)
        return raft_assign(s.r, req, 1, RAFT_STANDBY if what == "stand-by" else RAFT_SPARE, None)

    req = RaftChange()
    assert change(req) == RAFT_INVALID
    assert raft_errmsg(s.r) == "a cluster cannot be without a voter"
    assert not req.pending
    assert members(s) == before
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, None) == 0
    s.io.finish_appends()
    assert s.r.commit_index == 2
    req.pending = True
    assert change(req) == RAFT_BUSY


def test_b51_one_of_two_voters_may_go_and_the_other_stays() -> None:
    """The last one is whoever is left."""
    s = leader(RAFT_VOTER, RAFT_VOTER)
    assert raft_assign(s.r, RaftChange(), 2, RAFT_STANDBY, None) == 0
    s.io.finish_append()
    assert s.r.commit_index == 3
    assert raft_remove(s.r, RaftChange(), 1, None) == RAFT_INVALID
    assert raft_remove(s.r, RaftChange(), 2, None) == 0


@pytest.mark.parametrize("write", [raft_bootstrap, raft_recover])
def test_b51_no_cluster_begins_without_a_voter(write: Callable[..., int]) -> None:
    """It is so from the first day on: raft_bootstrap and raft_recover write nothing."""
    s = Solo(start=False)
    s.io.stored = []
    s.io.calls.clear()
    assert write(s.r, configuration(RAFT_STANDBY, RAFT_SPARE)) == RAFT_INVALID
    assert raft_errmsg(s.r) == "the configuration has no voter"
    assert s.io.calls == []


# Configurations of followers.


@pytest.mark.parametrize("status", [RAFT_IOERR, 0])
def test_configuration_that_was_cut_off_and_came_again_waits_for_its_own_write(status: int) -> None:
    """The first write of its entry is of what the log has lost: if the second one fails nobody has that configuration.

    Leader 2 of term 2 sends it, leader 3 of term 3 something else in its place, and leader 2 of term 4 the same again,
    while all three writes are under way.
    """
    s = Solo(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, terms=[1])
    alone = solo.change(2, configuration(RAFT_VOTER, RAFT_STANDBY, RAFT_STANDBY))
    s.recv(msg.append_entries(2, 2, 2, 1, 2, [*msg.commands([2]), alone]))
    s.recv(msg.append_entries(3, 3, 3, 2, 2, msg.commands([3])))
    s.recv(msg.append_entries(2, 4, 3, 2, 2, [alone, *msg.commands([4])]))
    assert log.last_index(s.r.log) == 5
    s.io.finish_append()
    assert (s.r.last_stored, s.r.configuration_uncommitted_index) == (3, 0)
    s.io.finish_append()
    assert s.r.configuration_uncommitted_index == 0
    s.io.finish_append(status)
    assert (s.r.last_stored, s.r.configuration_uncommitted_index) == ((5, 4) if status == 0 else (3, 0))
    assert [server.role for server in s.r.configuration.servers].count(RAFT_VOTER) == (1 if status == 0 else 3)
    s.tick(1000)
    assert s.state == (RAFT_LEADER if status == 0 else RAFT_CANDIDATE)


@pytest.mark.parametrize("name", ["snapshot_put", "send", "append"])
def test_b46_exception_beside_the_change_stops_the_server(name: str) -> None:
    """It comes while what the commit brings is applied, or when the change is on its way, and nothing else follows."""
    s = Solo(RAFT_VOTER, RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)
    raft_set_snapshot_threshold(s.r, 1 if name == "snapshot_put" else 1000)
    s.stand()
    for id in (2, 3):
        s.recv(msg.request_vote_result(id, 2))
    s.io.finish_appends()
    s.recv(msg.append_entries_result(2, 2, 1))
    seen = Statuses()
    assert raft_add(s.r, RaftChange(), 5, "5", seen) == 0
    s.sent()
    s.io.calls.clear()
    s.recv(msg.append_entries_result(3, 2, 2))
    assert s.r.commit_index == 1
    s.io.raises(name, RuntimeError("sick"))
    s.recv(msg.append_entries_result(2, 2, 2))
    assert s.state == RAFT_UNAVAILABLE
    assert seen.seen == ([RAFT_IOERR] if name == "append" else [RAFT_LEADERSHIPLOST])
    # An entry stays if it has been sent, and is gone if it has not.
    assert raft_last_index(s.r) == (3 if name == "send" else 2)
    assert ("append" in s.io.names()) == (name != "snapshot_put")


@pytest.mark.parametrize(
    "call",
    [
        lambda r: raft_add(r, RaftChange(), 1, "1", None),
        lambda r: raft_remove(r, RaftChange(), 9, None),
        lambda r: raft_assign(r, RaftChange(), 1, RAFT_VOTER, None),
        lambda r: raft_transfer(r, RaftTransfer(), 9, None),
    ],
)
def test_exception_of_the_disk_in_front_of_a_change_stops_the_server_at_once(call: Callable[[Raft], int]) -> None:
    """Commands of the turn go out first; if that stops the server there is nothing wrong with the change any more."""
    s = leader(deferring=True)
    seen = Statuses()
    assert raft_apply(s.r, RaftApply(), [fsms.add_x(1)], 1, seen) == 0
    s.io.raises("append", ValueError("oops"))
    assert call(s.r) == RAFT_SHUTDOWN
    assert (s.state, len(seen.seen)) == (RAFT_UNAVAILABLE, 1)
    assert raft_errmsg(s.r) == "io.append: ValueError: oops"

"""The leader's view of one server: modes, and what moves between them."""

import pytest

from pyraft import RAFT_STANDBY, RAFT_VOTER, RaftConfiguration, RaftProgress, progress, raft_configuration_add
from pyraft.progress import PROGRESS__PIPELINE, PROGRESS__PROBE, PROGRESS__SNAPSHOT


def conf_of(*ids: int) -> RaftConfiguration:
    """Return a configuration of voters with these IDs."""
    c = RaftConfiguration()
    for id in ids:
        assert raft_configuration_add(c, id, str(id), RAFT_VOTER if id < 3 else RAFT_STANDBY) == 0
    return c


def made(state: int = PROGRESS__PROBE, next_index: int = 1, match_index: int = 0) -> RaftProgress:
    """Return a progress in a mode."""
    p = RaftProgress()
    p.state = state
    p.next_index = next_index
    p.match_index = match_index
    return p


def test_a_leadership_starts_with_probing_everybody() -> None:
    """Next is after our last entry, nothing is known to match but what is on our own disk."""
    array = progress.build(conf_of(1, 2, 3), 2, 7, 5)
    assert [(p.state, p.next_index, p.match_index, p.last_send) for p in array] == [
        (PROGRESS__PROBE, 8, 0, 0),
        (PROGRESS__PROBE, 8, 5, 0),
        (PROGRESS__PROBE, 8, 0, 0),
    ]
    assert not any(p.recent_recv for p in array)


def test_a_leader_outside_the_configuration_has_no_progress_of_its_own() -> None:
    """It leads until its removal is committed, without counting itself (4.2.2)."""
    assert [p.match_index for p in progress.build(conf_of(1, 2), 9, 7, 5)] == [0, 0]


def test_a_rebuild_keeps_what_is_known() -> None:
    """Members of both configurations keep their progress, wherever they stand; new ones start to be probed."""
    old, new = conf_of(1, 2, 3), conf_of(3, 4, 1)
    array = progress.build(old, 1, 7, 7)
    rebuilt = progress.rebuild(array, old, new, 9)
    assert rebuilt[0] is array[2]
    assert rebuilt[2] is array[0]
    assert (rebuilt[1].state, rebuilt[1].next_index, rebuilt[1].match_index) == (PROGRESS__PROBE, 10, 0)


@pytest.mark.parametrize(("now", "due"), [(99, False), (100, True), (101, True)])
def test_a_heartbeat_is_due_an_interval_after_the_last_message(now: int, due: bool) -> None:
    """The time of the last message is absolute: 0 before the first."""
    assert progress.heartbeat_is_due(made(), now, 100) is due


def test_up_to_date_means_sent_and_persisted_means_acknowledged() -> None:
    """Next counts what was sent, match what was confirmed."""
    p = made(next_index=6, match_index=3)
    assert progress.is_up_to_date(p, 5)
    assert not progress.is_up_to_date(p, 6)
    assert progress.persisted_is_up_to_date(p, 3)
    assert not progress.persisted_is_up_to_date(p, 5)


@pytest.mark.parametrize(
    ("rejected", "last", "changed", "next_index"),
    [(4, 9, True, 4), (4, 1, True, 2), (4, 0, True, 1), (3, 9, False, 5), (5, 9, False, 5)],
)
def test_probe_goes_back_to_where_the_server_ends(rejected: int, last: int, changed: bool, next_index: int) -> None:
    """Only a rejection of the entry before next counts; the server's last index shortens the way."""
    p = made(next_index=5)
    assert progress.maybe_decrement(p, rejected, last) is changed
    assert (p.state, p.next_index) == (PROGRESS__PROBE, next_index)


def test_probe_never_goes_below_the_first_entry() -> None:
    """Next is at least 1."""
    p = made(next_index=1)
    assert progress.maybe_decrement(p, 0, 0)
    assert p.next_index == 1


@pytest.mark.parametrize(("rejected", "changed"), [(3, False), (4, True), (9, True)])
def test_pipeline_falls_back_to_what_is_confirmed(rejected: int, changed: bool) -> None:
    """A rejection above match ends streaming and empties the window; an older one is stale."""
    p = made(PROGRESS__PIPELINE, next_index=8, match_index=3)
    progress.sent(p, 7, 8, 100)
    assert progress.maybe_decrement(p, rejected, 9) is changed
    assert p.state == (PROGRESS__PROBE if changed else PROGRESS__PIPELINE)
    assert p.next_index == (4 if changed else 8)
    assert p.inflight_bytes == (0 if changed else 100)


@pytest.mark.parametrize(("rejected", "changed"), [(5, False), (6, True), (7, False)])
def test_a_refused_snapshot_is_probed_again(rejected: int, changed: bool) -> None:
    """Only a rejection of the snapshot's own index counts; next is kept."""
    p = made(next_index=3)
    progress.to_snapshot(p, 6)
    assert progress.maybe_decrement(p, rejected, 0) is changed
    assert p.state == (PROGRESS__PROBE if changed else PROGRESS__SNAPSHOT)
    assert p.next_index == 3


@pytest.mark.parametrize(("streamed", "refused"), [(0, False), (1, True)])
def test_a_rejection_is_doubted_only_if_a_heartbeat_may_have_had_it(streamed: int, refused: bool) -> None:
    """Where none was under way the rejection of the snapshot's index was not a heartbeat's, and needs no second
    look."""
    p = made(next_index=3)
    progress.to_snapshot(p, 6)
    progress.snapshot_read(p, 6, 10)
    p.streamed, p.streamed_index = streamed, 6
    assert not progress.snapshot_was_refused(p, 6, 0, 30)
    progress.beside_snapshot(p, 32)
    assert progress.snapshot_was_refused(p, 0, 0, 33) is refused


def test_what_a_server_lacked_does_not_matter_behind_a_snapshot() -> None:
    """A refusal before the snapshot says nothing of the log that it has with it."""
    p = made(next_index=3)
    p.lacking = 5
    progress.to_snapshot(p, 6)
    assert p.lacking == 0


def test_an_acknowledgement_raises_match_and_next() -> None:
    """It returns whether anything new was acknowledged; next never goes back."""
    p = made(next_index=3, match_index=1)
    assert progress.maybe_update(p, 4)
    assert (p.match_index, p.next_index) == (4, 5)
    assert not progress.maybe_update(p, 4)
    assert not progress.maybe_update(p, 2)
    assert (p.match_index, p.next_index) == (4, 5)
    p.next_index = 9
    assert progress.maybe_update(p, 6)
    assert p.next_index == 9


def test_an_installed_snapshot_leads_back_to_probing_after_it() -> None:
    """Next is the index of the snapshot, or after match if that is further."""
    p = made(next_index=1, match_index=0)
    progress.to_snapshot(p, 6)
    assert not progress.snapshot_done(p)
    assert progress.maybe_update(p, 6)
    assert progress.snapshot_done(p)
    progress.to_probe(p)
    assert (p.state, p.next_index, p.snapshot_index) == (PROGRESS__PROBE, 7, 0)
    progress.to_snapshot(p, 20)
    progress.to_probe(p)
    assert p.next_index == 20


def test_the_window_fills_and_empties() -> None:
    """Each message counts until an acknowledgement reaches its last entry."""
    p = made(PROGRESS__PIPELINE)
    for end, size in ((3, 100), (5, 50), (6, 0), (9, 70)):
        progress.sent(p, p.next_index - 1, end, size)
    assert (p.next_index, p.inflight_bytes) == (9, 220)
    assert progress.window_is_full(p, 220)
    assert not progress.window_is_full(p, 221)
    assert progress.maybe_update(p, 3)
    assert p.inflight_bytes == 120
    assert progress.maybe_update(p, 4)
    assert p.inflight_bytes == 70
    assert progress.maybe_update(p, 20)
    assert (p.inflight_bytes, len(p.inflight)) == (0, 0)


def test_stale_rejection_leads_behind_what_is_acknowledged_as_in_c() -> None:
    """The next index is the rejected one, or the one behind the server's last."""
    p = RaftProgress(10)
    p.match_index = 8
    p.next_index = 9
    assert progress.maybe_decrement(p, 8, 2)
    assert p.next_index == 3


def test_b52_each_rejection_in_a_row_steps_back_twice_as_far() -> None:
    """Down to entry 1 or the end of the server's log, and from one entry on again when match has been raised."""
    p = RaftProgress(1000)
    for next_index in (1000, 998, 994, 986, 970):
        assert progress.maybe_decrement(p, p.next_index - 1, 2000)
        assert p.next_index == next_index
    assert progress.maybe_decrement(p, 969, 400)
    assert p.next_index == 401
    assert not progress.maybe_decrement(p, 969, 400)
    assert progress.maybe_decrement(p, 400, 500)
    assert p.next_index == 337
    assert not progress.maybe_update(p, 0)
    for next_index in (209, 1, 1, 1):
        p.next_index = max(p.next_index, 2)
        assert progress.maybe_decrement(p, p.next_index - 1, 500)
        assert p.next_index == next_index
    assert progress.maybe_update(p, 100)
    assert progress.maybe_decrement(p, 100, 500)
    assert p.next_index == 100
    for _ in range(200):
        p.next_index = 2**64 - 1
        assert progress.maybe_decrement(p, 2**64 - 2, 2**64 - 2)
    assert p.next_index == 2**64 - 1 - 2**62


def test_who_refuses_what_it_acknowledged_and_has_more_is_asked_for_its_end() -> None:
    """It has a snapshot in the place of that entry; one that has less has lost it, and is led back to where it ends."""
    p = made(next_index=6, match_index=5)
    for k in range(progress.MAX_REFUSALS):
        assert progress.maybe_decrement(p, 5, 9)
        assert p.next_index == max(1, 6 - 2**k)
        p.next_index = 6
    assert progress.maybe_decrement(p, 5, 9)
    assert p.next_index == 10
    assert progress.maybe_update(p, 9)
    assert p.refusals == 0
    p = made(next_index=6, match_index=5)
    assert progress.maybe_decrement(p, 5, 2)
    assert p.next_index == 3
    p = made(next_index=8, match_index=5)
    assert progress.maybe_decrement(p, 7, 9)
    assert p.next_index == 7


@pytest.mark.parametrize(
    ("state", "rejected", "last", "streamed", "counts"),
    [
        (PROGRESS__PROBE, 5, 2, (5, 1), True),
        (PROGRESS__PROBE, 3, 2, (3, 1), True),
        (PROGRESS__PROBE, 4, 2, (5, 1), False),
        (PROGRESS__PROBE, 5, 2, (5, 0), False),
        (PROGRESS__PROBE, 5, 7, (5, 1), False),
        (PROGRESS__PROBE, 7, 2, (7, 1), False),
        (PROGRESS__PIPELINE, 5, 2, (5, 1), True),
        (PROGRESS__PIPELINE, 5, 7, (5, 1), True),
        (PROGRESS__PIPELINE, 5, 7, (5, 0), False),
        (PROGRESS__PIPELINE, 4, 7, (4, 1), False),
        (PROGRESS__PIPELINE, 5, 2, (8, 3), False),
        (PROGRESS__SNAPSHOT, 5, 2, (5, 1), True),
        (PROGRESS__SNAPSHOT, 5, 2, (8, 1), False),
    ],
)
def test_only_an_answer_to_what_was_sent_since_says_that_entries_are_lost(
    state: int, rejected: int, last: int, streamed: tuple[int, int], counts: bool
) -> None:
    """The fifth entry is acknowledged. Answers to messages from before come late where they may be overtaken."""
    p = made(state, 6, 5)
    believed = []
    for _ in range(progress.MAX_DENIALS):
        p.streamed_index, p.streamed = streamed
        believed.append(progress.denies(p, rejected, last))
    assert believed == [False] * (progress.MAX_DENIALS - 1) + [counts]
    assert p.match_index == (0 if counts else 5)


def test_an_acknowledgment_makes_all_answers_to_come_old_ones() -> None:
    """It may have overtaken them; answers to later messages count again."""
    p = made(PROGRESS__PIPELINE, 6, 4)
    for _ in range(9):
        progress.count(p, 5)
    assert progress.maybe_update(p, 5)
    for _ in range(9):
        assert not progress.denies(p, 5, 2)
    for _ in range(progress.MAX_DENIALS):
        progress.count(p, 5)
        assert p.match_index == 5
        progress.denies(p, 5, 2)
    assert p.match_index == 0

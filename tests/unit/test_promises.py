"""The words of servers about themselves, and what contradicts it."""

import pytest

from pyraft import RAFT_FOLLOWER, RAFT_LEADER
from tests.lib.promises import Promises, Status


def status(
    term: int = 1,
    state: int = RAFT_FOLLOWER,
    commit: int = 5,
    applied: int = 5,
    digest: int = 7,
    vote: int = 1,
    stored: int = 5,
    matches: tuple[int, ...] = (),
) -> Status:
    return Status([state, term, 1, 9, commit, applied, digest, 0, vote, stored, 0, 0, *matches], 0.0)


def test_what_agrees_is_fine() -> None:
    """Votes come and go with terms, entries that are not committed too, and a state is the same everywhere."""
    said = Promises()
    said.started(1, 0, 0, 0)
    said.heard(1, status(state=RAFT_LEADER, stored=9))
    said.heard(2, status(vote=0))
    said.heard(2, status(vote=1))
    said.started(1, 1, 1, 5)
    said.heard(1, status(term=2, vote=0, applied=6, digest=8))
    said.heard(3, status(term=2, state=RAFT_LEADER, applied=6, digest=8))
    assert said.leaders == 2


def test_a_vote_is_not_forgotten() -> None:
    """It is not changed either, within a term, by a restart or without."""
    for vote in (0, 2):
        said = Promises()
        said.heard(3, status(vote=1))
        with pytest.raises(AssertionError, match=f"server 3 voted for 1 in term 1, now {vote}"):
            said.started(3, 1, vote, 5)


def test_a_term_does_not_go_back() -> None:
    """Nothing else matters."""
    said = Promises()
    said.heard(3, status(term=4))
    with pytest.raises(AssertionError, match="server 3 is in term 3, it was in 4"):
        said.started(3, 3, 1, 5)


def test_what_was_stored_and_committed_is_there_again() -> None:
    """Be it that the server said so, or its leader of it; all that was only one of both may be gone."""
    said = Promises()
    said.heard(3, status(commit=9, stored=7))
    said.started(3, 1, 1, 7)
    with pytest.raises(AssertionError, match="server 3 starts with entries up to 6; 7 was on its disk and committed"):
        said.started(3, 1, 1, 6)
    said.heard(1, status(state=RAFT_LEADER, commit=9, stored=9, matches=(1, 9, 2, 4, 3, 8)))
    said.started(2, 1, 1, 4)
    with pytest.raises(AssertionError, match="server 3 starts with entries up to 7; 8 was on its disk and committed"):
        said.started(3, 1, 1, 7)


def test_a_term_has_one_leader() -> None:
    """This is election safety."""
    said = Promises()
    said.heard(1, status(state=RAFT_LEADER))
    said.heard(1, status(state=RAFT_LEADER))
    with pytest.raises(AssertionError, match="servers 1 and 2 both lead term 1"):
        said.heard(2, status(state=RAFT_LEADER))


def test_the_same_entries_make_the_same_state() -> None:
    """They do on other servers and in other lives."""
    said = Promises()
    said.heard(1, status(applied=8, digest=1))
    said.started(1, 1, 1, 8)
    for id in (1, 2):
        with pytest.raises(AssertionError, match=f"server {id} has applied 8 entries with the result 2, server 1 the"):
            said.heard(id, status(applied=8, digest=2))


def test_snapshots_are_counted_over_all_lives() -> None:
    """Each life counts from 0."""
    said = Promises()
    for life in range(2):
        said.started(1, 1, 1, 5)
        for snapshots in (0, 2, 3):
            taken = status()
            taken.snapshots, taken.installs = snapshots, snapshots // 2
            said.heard(1, taken)
        assert (said.snapshots, said.installs) == (3 * (life + 1), life + 1)

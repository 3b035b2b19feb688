"""Majorities."""

import itertools

import pytest

from pyraft import quorum


@pytest.mark.parametrize(("n", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_more_than_half_is_a_majority(n: int, needed: int) -> None:
    """Even numbers of voters need one more than half."""
    assert [quorum.is_majority(votes, n) for votes in range(n + 1)] == [votes >= needed for votes in range(n + 1)]


def test_nobody_is_no_majority_of_nobody() -> None:
    """Without voters nothing is ever decided."""
    assert not quorum.is_majority(0, 0)
    assert quorum.majority_index([]) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_majority_index_is_the_highest_that_a_majority_holds(n: int) -> None:
    """It is compared with counting, for all combinations of a few indexes."""
    for matches in itertools.product(range(4), repeat=n):
        index = quorum.majority_index(list(matches))
        assert quorum.is_majority(sum(m >= index for m in matches), n)
        assert not quorum.is_majority(sum(m >= index + 1 for m in matches), n)


def test_the_argument_is_left_alone() -> None:
    """The list of match indexes is not sorted in place."""
    matches = [3, 1, 2]
    quorum.majority_index(matches)
    assert matches == [3, 1, 2]

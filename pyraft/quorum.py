"""Majorities.

Duty: the arithmetic of votes and of replicated indexes, nothing else. Even numbers of voters need more than half.
Failure modes: none.
"""


def is_majority(votes: int, n_voters: int) -> bool:
    """Return whether `votes` of `n_voters` are more than half."""
    return votes > n_voters // 2


def majority_index(match_indexes: list[int]) -> int:
    """Return the highest index that more than half of the voters hold, given what each holds; 0 without voters."""
    if not match_indexes:
        return 0
    descending = sorted(match_indexes, reverse=True)
    return descending[len(descending) // 2]

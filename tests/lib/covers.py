"""Which case of the C library's own suite a test of ours stands for.

A test says it with `@covers("suite/case", …)`, the case's name in the C tree. tests/test_c_cases.py holds the list of
cases to stand for, checks that each has a test or a reason to be left out, and prints the table of tests/README.md.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T", bound=Callable[..., object])


def covers(*cases: str) -> Callable[[T], T]:
    """Mark a test as standing for these cases of the C suite."""

    def mark(test: T) -> T:
        test.__dict__["covers"] = cases
        return test

    return mark

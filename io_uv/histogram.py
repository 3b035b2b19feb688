"""A histogram of times that costs next to nothing to keep: how many were in each range, and their sum.

Duty: `Histogram.observe` counts one time, by a search of its bounds, which are those of all histograms here, so that
figures can be added up over members and compared.

Happy path: the one that measures calls `observe(seconds)`; the one that reports reads `counts`, `total` and BOUNDS when
somebody asks.

Failure modes: none. It is not made for several threads that write; reading from another one gives figures of about now.
"""

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the ranges, in seconds; the last range is beyond."""


class Histogram:
    """Times, in seconds, by ranges."""

    __slots__ = ("began", "counts", "total")

    def __init__(self) -> None:
        self.began = 0.0
        """When the thing that is under way began, for those who have one at a time."""
        self.counts = [0] * (len(BOUNDS) + 1)
        """How many times were in each range, the one without an upper bound last."""
        self.total = 0.0
        """The sum of all of them."""

    def observe(self, seconds: float) -> None:
        """Count one time."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

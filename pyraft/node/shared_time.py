"""The shared time that a leader puts into entries; it ends sessions, locks and values in the same moment everywhere.

Duty: `SharedTime` returns it, in microseconds since 1970. It never goes back, and it goes on as fast as time does: a
clock that jumps while this server leads moves nothing, and where the entries of a leader before came from a clock that
was ahead, the time goes on from there. Otherwise what has a time to live would not end until the other clocks had
caught up, which may be years: nobody would get the lock of a holder that died.

Happy path: at the first entry of a term the time of day, from then on as much more as has passed.

Failure modes: none. A clock that is ahead when its server is elected ends what lives shorter than that at once, for
good: no clock can be trusted to the end, so what the holder of a lock writes elsewhere has to carry its token.
"""

from collections.abc import Callable

from pyraft.node.replica import Replica
from pyraft.state import Raft


class SharedTime:
    """The time of the entries of one server, as long as it leads."""

    def __init__(
        self, raft: Raft, replica: Replica, microseconds: Callable[[], int], seconds: Callable[[], float]
    ) -> None:
        """`microseconds()` is the time of day, `seconds()` a time that goes on evenly."""
        self._raft = raft
        self._replica = replica
        self._microseconds = microseconds
        self._seconds = seconds
        self._term = 0
        self._began = 0
        self._began_at = 0.0

    def __call__(self) -> int:
        """Return what time it is now."""
        if self._term != self._raft.current_term:
            self._begin(self._microseconds())
        now = self._began + int((self._seconds() - self._began_at) * 1e6)
        if now < self._replica.microseconds:  # entries of a leader before, which have come since
            self._begin(self._replica.microseconds)
            now = self._began
        return now

    def _begin(self, microseconds: int) -> None:
        self._term = self._raft.current_term
        self._began = max(microseconds, self._replica.microseconds)
        self._began_at = self._seconds()

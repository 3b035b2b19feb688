"""The time in the entries of a leader, beside clocks that jump."""

from pyraft import Raft
from pyraft.node.machine import Machine
from pyraft.node.replica import Replica
from pyraft.node.shared_time import SharedTime

YEAR = 365 * 86_400 * 1_000_000


class World:
    """A server whose clocks are the test's."""

    def __init__(self) -> None:
        self.day = 50 * YEAR
        self.even = 1000.0
        self.raft = Raft()
        self.raft.current_term = 1
        self.replica = Replica({"": Machine()})
        self.now = SharedTime(self.raft, self.replica, lambda: self.day, lambda: self.even)

    def applies(self, microseconds: int) -> None:
        """An entry of this time is executed."""
        self.replica.do_apply(self.replica.entry(microseconds, []))

    def passes(self, seconds: float) -> None:
        """Time passes on both clocks."""
        self.even += seconds
        self.day += int(seconds * 1e6)


def test_it_is_the_time_of_day() -> None:
    """It is that of the server that leads, as it was when it began to."""
    w = World()
    assert w.now() == 50 * YEAR
    w.passes(7.5)
    assert w.now() == 50 * YEAR + 7_500_000
    w.day += 3_000_000  # meanwhile set right
    w.raft.current_term = 2
    assert w.now() == w.day


def test_a_clock_that_jumps_moves_nothing() -> None:
    """Forwards it would end all sessions and locks, back it would keep them."""
    w = World()
    for jump in (YEAR, -2 * YEAR):
        before = w.now()
        w.day += jump
        assert w.now() == before
        w.passes(1.0)
        assert w.now() == before + 1_000_000


def test_behind_a_clock_that_was_ahead_time_goes_on() -> None:
    """A leader before had a clock that is a year ahead: what it gave a second to live ends after a second."""
    w = World()
    w.applies(51 * YEAR)
    assert w.now() == 51 * YEAR
    w.passes(1.0)
    assert w.now() == 51 * YEAR + 1_000_000
    w.applies(w.now())
    w.raft.current_term = 2
    w.passes(1.0)
    assert w.now() == 51 * YEAR + 1_000_000  # what passes between two leaders is lost
    w.passes(1.0)
    assert w.now() == 51 * YEAR + 2_000_000


def test_it_never_goes_back_behind_an_entry() -> None:
    """One of the leader before that this one executes only after it has begun."""
    w = World()
    assert w.now() == 50 * YEAR
    w.applies(50 * YEAR + 60_000_000)
    assert w.now() == 50 * YEAR + 60_000_000
    w.passes(2.0)
    assert w.now() == 50 * YEAR + 62_000_000

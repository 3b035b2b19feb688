"""The things that every cluster has beside the program's machine, third part: semaphores and barriers, by name.

Duty: `Gates` is the machine behind them; `handles` has what programs use. A place in a semaphore, and a wait at a
barrier, end at a time unless they are kept, so a program that died holds up nobody.

Happy path: `semaphore_acquire` until it returns a token, `semaphore_extend`, `semaphore_release`; `barrier_arrive`,
again and again, until it says that all have come.

Failure modes: programs that do not agree on the number of places, or of those to come, while some of them are there,
get a ValueError. Times are those that all servers share: what has ended is gone for every command from then on, and for
queries when `expire` was executed.
"""

from dataclasses import dataclass, field
from typing import Final

from pyraft.node.machine import Machine, command, query
from pyraft.node.recipes import microseconds
from pyraft.node.tracked import Record

GATES: Final = "pyraft.gates"
"""The name of the machine."""

MAX_PARTIES: Final = 100_000


@dataclass
class Place(Record):
    """A place in a semaphore."""

    token: int
    until: int


@dataclass
class Semaphore(Record):
    """A semaphore of which a place is taken."""

    places: int
    holders: dict[bytes, Place] = field(default_factory=dict)


@dataclass
class Barrier(Record):
    """A barrier at which somebody has waited: those who wait, until when, and those who went through last."""

    parties: int
    waiting: dict[bytes, int] = field(default_factory=dict)
    passed: dict[bytes, int] = field(default_factory=dict)
    until: int = 0
    """When the numbers under which those have come are forgotten."""


class Gates(Machine):
    """Semaphores and barriers; see the head of this module."""

    types = (Place, Semaphore, Barrier)
    optional = True

    def __init__(self) -> None:
        self.token = 0
        self.semaphores: dict[str, Semaphore] = {}
        self.barriers: dict[str, Barrier] = {}
        self.next = 0
        """The time at which something may end, 0 for never."""

    # Semaphores.

    @command
    def semaphore_acquire(self, name: str, owner: bytes, places: int, ttl: float) -> int:
        """Take one of `places`, if one is free; return its token, 0 if none is."""
        check_crowd(places, "places")
        until = self._end(ttl)
        semaphore = self._semaphore(name)
        if semaphore is None:
            self.semaphores[name] = Semaphore(places)
            semaphore = self.semaphores[name]
        if semaphore.places != places:
            raise ValueError(f"semaphore {name!r} has {semaphore.places} places, not {places}")
        place = semaphore.holders.get(owner)
        if place is not None:
            place.until = until
            return place.token
        if len(semaphore.holders) >= places:
            return 0
        self.token += 1
        semaphore.holders[owner] = Place(self.token, until)
        return self.token

    @command
    def semaphore_extend(self, name: str, owner: bytes, ttl: float) -> bool:
        """Keep a place for longer; return whether it is held."""
        until = self._end(ttl)
        semaphore = self._semaphore(name)
        if semaphore is None or owner not in semaphore.holders:
            return False
        semaphore.holders[owner].until = until
        return True

    @command
    def semaphore_release(self, name: str, owner: bytes) -> bool:
        """Give a place back; return whether it was held."""
        semaphore = self.semaphores.get(name)
        if semaphore is None or semaphore.holders.pop(owner, None) is None:
            return False
        if not semaphore.holders:
            del self.semaphores[name]
        return True

    @query
    def semaphore_taken(self, name: str) -> int:
        """Return how many places are taken."""
        semaphore = self.semaphores.get(name)
        return 0 if semaphore is None else len(semaphore.holders)

    @query
    def semaphore_is_free(self, name: str) -> bool:
        """Return whether a place is free."""
        semaphore = self.semaphores.get(name)
        return semaphore is None or len(semaphore.holders) < semaphore.places

    def _semaphore(self, name: str) -> Semaphore | None:
        """Return a semaphore of which a place is taken now."""
        semaphore = self.semaphores.get(name)
        if semaphore is None:
            return None
        now = self._now()
        for owner in [owner for owner, place in semaphore.holders.items() if place.until <= now]:
            del semaphore.holders[owner]
        if not semaphore.holders:
            del self.semaphores[name]
            return None
        return semaphore

    # Barriers.

    @command
    def barrier_arrive(self, name: str, owner: bytes, parties: int, ttl: float) -> int:
        """Come to a barrier, or go on to wait there; return one's number, by arrival, once all have come, -1 before."""
        check_crowd(parties, "parties")
        until = self._end(ttl)
        barrier = self._barrier(name)
        if barrier is None:
            self.barriers[name] = Barrier(parties)
            barrier = self.barriers[name]
        if owner in barrier.passed:
            return barrier.passed[owner]
        if barrier.parties != parties:
            if barrier.waiting:
                raise ValueError(f"barrier {name!r} has {barrier.parties} parties, not {parties}")
            barrier.parties = parties
        barrier.waiting[owner] = until
        if len(barrier.waiting) < parties:
            return -1
        barrier.passed = {owner: at for at, owner in enumerate(barrier.waiting)}
        barrier.waiting = {}
        barrier.until = until
        return barrier.passed[owner]

    @command
    def barrier_leave(self, name: str, owner: bytes) -> bool:
        """Wait at a barrier no more; return whether one did."""
        barrier = self.barriers.get(name)
        if barrier is None or barrier.waiting.pop(owner, None) is None:
            return False
        if not barrier.waiting and not barrier.passed:
            del self.barriers[name]
        return True

    @query
    def barrier_waiting(self, name: str) -> int:
        """Return how many wait at a barrier."""
        barrier = self.barriers.get(name)
        return 0 if barrier is None else len(barrier.waiting)

    @query
    def barrier_has_passed(self, name: str, owner: bytes) -> bool:
        """Return whether all have come with whom `owner` waited."""
        barrier = self.barriers.get(name)
        return barrier is None or owner not in barrier.waiting

    def _barrier(self, name: str) -> Barrier | None:
        """Return a barrier at which somebody waits now, or has gone through a while ago."""
        barrier = self.barriers.get(name)
        if barrier is None:
            return None
        now = self._now()
        for owner in [owner for owner, until in barrier.waiting.items() if until <= now]:
            del barrier.waiting[owner]
        if barrier.until <= now:
            barrier.passed = {}
        if not barrier.waiting and not barrier.passed:
            del self.barriers[name]
            return None
        return barrier

    # Ends.

    def is_due(self, microseconds: int) -> bool:
        """Return whether there may be something for `expire` to do at that time."""
        return 0 < self.next <= microseconds

    @command
    def expire(self) -> None:
        """Remove what has ended by now."""
        for name in list(self.semaphores):
            self._semaphore(name)
        for name in list(self.barriers):
            self._barrier(name)
        ends = [p.until for s in self.semaphores.values() for p in s.holders.values()]
        for barrier in self.barriers.values():
            ends += [*barrier.waiting.values(), *([barrier.until] if barrier.passed else [])]
        self.next = min(ends, default=0)

    def _end(self, ttl: float) -> int:
        """Return when something ends that begins now, and have that looked after."""
        until = self._now() + microseconds(ttl)
        self.next = min(self.next, until) if self.next else until
        return until

    def _now(self) -> int:
        return self._context().microseconds


def check_crowd(number: int, what: str) -> None:
    """Raise ValueError for a number of places or parties that cannot be."""
    if type(number) is not int or not 0 < number <= MAX_PARTIES:
        raise ValueError(f"{what} must be a whole number from 1 to {MAX_PARTIES}, not {number!r:.40}")

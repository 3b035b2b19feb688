"""Machines that are not deterministic, in one way each, and one that is.

Duty: what tests of pyraft.node.testing look for, in a module that another process imports quickly.
"""

import random
import time
from dataclasses import dataclass
from typing import Any

from pyraft.node import Machine, command


class Fair(Machine):
    """Is deterministic, with all that there is for that."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.order: list[Any] = []

    @command
    def add(self, text: str) -> float:
        """Keep a text, the time and a number."""
        self.seen.add(text)
        self.order = sorted(self.seen)
        self.order.append(self.now)
        return self.random.random()

    @command
    def fail(self) -> None:
        """Raise."""
        raise ValueError("always")


@dataclass(frozen=True)
class Parcel:
    """A type of a machine's own."""

    text: str


class Packed(Fair):
    """Takes and gives back values of a type of its own."""

    types = (Parcel,)

    @command
    def wrap(self, parcel: Parcel) -> Parcel:
        """Keep it, and return another one."""
        self.order.append(parcel)
        return Parcel(parcel.text.upper())


class Clock(Fair):
    """Looks at the wall clock."""

    @command
    def add(self, text: str) -> float:
        """Keep it."""
        self.order.append(time.time())
        return 0.0


class Zone(Fair):
    """Looks at the local time zone."""

    @command
    def add(self, text: str) -> float:
        """Return it."""
        return float(time.localtime(0).tm_hour)


class Chance(Fair):
    """Draws numbers of its own."""

    @command
    def add(self, text: str) -> float:
        """Draw one."""
        return random.random()


class Unsorted(Fair):
    """Goes through a set that is not its state."""

    @command
    def add(self, text: str) -> float:
        """Keep the order of the set."""
        self.order = list({text, *self.order})
        return 0.0


class Hidden(Fair):
    """Keeps something where no snapshot finds it."""

    @command
    def add(self, text: str) -> float:
        """Count on the class."""
        Hidden.count = getattr(Hidden, "count", 0) + 1
        self.order = [Hidden.count if self is Hidden.first else -1]
        return 0.0

    def __init__(self) -> None:
        super().__init__()
        Hidden.first = getattr(Hidden, "first", self)

    count: int
    first: "Hidden"

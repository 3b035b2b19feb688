"""The things that every cluster has beside the program's machine, second part: sets and queues, by name.

Duty: `Stores` is the machine behind them; `handles` has what programs use. Nothing in it ends by itself, unlike what
`recipes` has.

Happy path: commands as their names say. A queue gives each value out once, in the order in which they were put in.

Failure modes: those of commands. A value for a set that cannot be in one is a TypeError. Sets and queues that are empty
take no room.
"""

from collections import deque
from typing import Any, Final

from pyraft.node.machine import Machine, command, query

STORES: Final = "pyraft.stores"
"""The name of the machine."""


class Stores(Machine):
    """Sets and queues; see the head of this module."""

    optional = True

    def __init__(self) -> None:
        self.sets: dict[str, set[Any]] = {}
        self.queues: dict[str, deque[Any]] = {}

    @command
    def set_add(self, name: str, value: Any) -> bool:
        """Put a value into a set; return whether it is new there."""
        if name not in self.sets:
            self.sets[name] = set()
        members = self.sets[name]
        if value in members:
            return False
        members.add(value)
        return True

    @command
    def set_discard(self, name: str, value: Any) -> bool:
        """Take a value out of a set; return whether it was there."""
        members = self.sets.get(name)
        if members is None or value not in members:
            return False
        members.discard(value)
        if not members:
            del self.sets[name]
        return True

    @query
    def set_has(self, name: str, value: Any) -> bool:
        """Return whether a value is in a set."""
        return name in self.sets and value in self.sets[name]

    @query
    def set_all(self, name: str) -> set[Any]:
        """Return what is in a set."""
        return set(self.sets.get(name, ()))

    @command
    def queue_put(self, name: str, value: Any) -> int:
        """Put a value at the end of a queue; return how many are in it then."""
        if name not in self.queues:
            self.queues[name] = deque()
        self.queues[name].append(value)
        return len(self.queues[name])

    @command
    def queue_take(self, name: str) -> tuple[Any] | None:
        """Take the first value out of a queue; return it in a tuple, None if there is none."""
        values = self.queues.get(name)
        if values is None:
            return None
        value = values.popleft()
        if not values:
            del self.queues[name]
        return (value,)

    @query
    def queue_has(self, name: str) -> bool:
        """Return whether there is a value in a queue."""
        return name in self.queues

    @query
    def queue_size(self, name: str) -> int:
        """Return how many values are in a queue."""
        return len(self.queues.get(name, ()))

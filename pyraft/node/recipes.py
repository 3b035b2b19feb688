"""The things that every cluster has beside the program's machine: maps, counters and locks, by name.

Duty: `Recipes` is the machine behind them, an example of how to write one's own. `handles` has what programs use.

Happy path: commands as their names say. A map's values have revisions, which never come twice, and may have a time to
live; the last changes are remembered, for watchers. A lock is held until a time, under a token that is larger than all
before.

Failure modes: a change that expects another revision raises Conflict, and nothing is changed. Times are those that all
servers share, which follow the leaders' clocks: what has ended is gone for every command from then on, and for queries
when `expire` was executed, which the leader sees to within a second or two.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pyraft.node.machine import Machine, command, query
from pyraft.node.tracked import Record

RECIPES: Final = "pyraft.recipes"
"""The name of the machine."""

TTL_RANGE: Final = (1e-6, 1e9)
"""How long values may live, in seconds."""

_SECOND: Final = 1_000_000
_LOCK: Final = ""
"""Stands for the name of a map where a lock ends."""


class Conflict(Exception):
    """A value has another revision than was expected: `revision`, 0 if there is none."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(revision)

    def __str__(self) -> str:
        return f"the revision is {self.revision}" if self.revision else "there is no value"


class Compacted(Exception):
    """Changes after a revision are not all known any more: those after `revision` are. Read the map, and watch on."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(revision)

    def __str__(self) -> str:
        return f"changes are known from revision {self.revision} on only"


SET, DELETED, EXPIRED = "set", "deleted", "expired"

Change: TypeAlias = tuple[int, str, str, str, bytes | None, bytes | None]
"""Revision, map, key, SET or what else, and the packed values behind and before it, None for none."""

HISTORY: Final = 4096
HISTORY_BYTES: Final = 4 << 20
"""How many changes are known, and how large their values may be together."""

EVENTS: Final = 256
"""How many changes are told at a time."""


@dataclass
class Value(Record):
    """A value of a map."""

    value: Any
    revision: int
    until: int = 0
    """When it ends, in microseconds of shared time; 0 for never."""


@dataclass
class Held(Record):
    """A lock that is held."""

    owner: bytes
    token: int
    until: int


def microseconds(ttl: float) -> int:
    """Return a time to live, in seconds, as microseconds; ValueError for an impossible one."""
    if not 0 < ttl <= 1e9:  # a NaN is not
        raise ValueError(f"a time to live must be more than 0 and at most 10^9 seconds, not {ttl!r}")
    return int(ttl * _SECOND)


def _with_prefix(values: Mapping[str, object], prefix: str) -> list[str]:
    """Return the keys that begin with `prefix`, in order, but for those that are not strings: old programs set some."""
    return sorted(key for key in values if isinstance(key, str) and key.startswith(prefix))


class Recipes(Machine):
    """Maps, counters and locks; see the head of this module."""

    types = (Value, Held)
    errors = (Conflict, Compacted)

    def __init__(self) -> None:
        self.revision = 0
        self.token = 0
        self.maps: dict[str, dict[str, Value]] = {}
        self.counters: dict[str, int] = {}
        self.locks: dict[str, Held] = {}
        self.ends: dict[int, dict[tuple[str, str], None]] = {}
        """The ends due in each second, as it was meant at some time: map and key, or _LOCK and the lock."""
        self.history: deque[Change] = deque()
        """The last changes of all maps. Revisions are counted by them, so they follow each other without a gap."""
        self.history_bytes = 0

    # Maps.

    @command
    def map_set(self, name: str, key: str, value: Any, ttl: float | None = None, revision: int | None = None) -> int:
        """Set a value; return its revision. With a `revision`, only if the value there has that one (0: none)."""
        self._expect(name, key, revision)
        self._end_value(name, key)
        self.revision += 1
        until = 0 if ttl is None else self._end(name, key, ttl)
        if name not in self.maps:
            self.maps[name] = {}
        old = self._value(name, key)
        self._remember(SET, name, key, value, old)
        self.maps[name][key] = Value(value, self.revision, until)
        return self.revision

    @command
    def map_delete(self, name: str, key: str, revision: int | None = None) -> bool:
        """Remove a value; return whether there was one. With a `revision`, only if it has that one."""
        self._expect(name, key, revision)
        old = self._value(name, key)
        if old is None:
            # One whose time is over is not there, though nobody has told so yet.
            self._end_value(name, key)
            return False
        self.revision += 1
        self._remember(DELETED, name, key, None, old)
        self._drop(name, key)
        return True

    @query
    def map_get(self, name: str, key: str) -> tuple[Any, int] | None:
        """Return a value and its revision."""
        value = self.maps.get(name, {}).get(key)
        return None if value is None else (value.value, value.revision)

    @query
    def map_items(self, name: str, prefix: str = "") -> dict[str, Any]:
        """Return the values whose keys begin with `prefix`, in the order of the keys."""
        values = self.maps.get(name, {})
        return {key: values[key].value for key in _with_prefix(values, prefix)}

    @query
    def map_state(self, name: str, prefix: str = "") -> tuple[int, dict[str, tuple[Any, int]]]:
        """Return the newest revision of all, and the values with theirs: `map_changes` goes on from there."""
        values = self.maps.get(name, {})
        found = {key: (values[key].value, values[key].revision) for key in _with_prefix(values, prefix)}
        return self.revision, found

    @query
    def map_changes(self, name: str, prefix: str, after: int) -> tuple[int, list[Change]]:
        """Return the first changes of a map's keys with a prefix after a revision, and up to which those are all."""
        floor = self.history[0][0] - 1 if self.history else self.revision
        if after < floor:
            raise Compacted(floor)
        found: list[Change] = []
        for change in itertools.islice(self.history, after - floor, None):
            if change[1] == name and isinstance(change[2], str) and change[2].startswith(prefix):
                found.append(change)
                if len(found) == EVENTS:
                    return change[0], found
        return max(self.revision, after), found

    @query
    def has_changed(self, after: int) -> bool:
        """Return whether any map has changed after a revision."""
        return self.revision > after

    def _remember(self, kind: str, name: str, key: str, value: Any, old: Value | None) -> None:
        """Remember the change that this revision is."""
        assert self._node is not None
        pack = self._node.codec.pack
        new = pack(value) if kind == SET else None
        before = None if old is None else pack(old.value)
        if self.history and self.history[-1][0] != self.revision - 1:
            self.history.clear()  # an older program has counted on
            self.history_bytes = 0
        self.history.append((self.revision, name, key, kind, new, before))
        self.history_bytes += len(new or b"") + len(before or b"")
        while len(self.history) > HISTORY or self.history_bytes > HISTORY_BYTES:
            gone = self.history.popleft()
            self.history_bytes -= len(gone[4] or b"") + len(gone[5] or b"")

    def _end_value(self, name: str, key: str) -> None:
        """Remove a value whose time is over, if there is one."""
        value = self.maps.get(name, {}).get(key)
        if value is not None and 0 < value.until <= self._now():
            self.revision += 1
            self._remember(EXPIRED, name, key, None, value)
            self._drop(name, key)

    def _value(self, name: str, key: str) -> Value | None:
        value = self.maps.get(name, {}).get(key)
        return None if value is None or 0 < value.until <= self._now() else value

    def _expect(self, name: str, key: str, revision: int | None) -> None:
        if revision is not None:
            value = self._value(name, key)
            there = 0 if value is None else value.revision
            if there != revision:
                raise Conflict(there)

    def _drop(self, name: str, key: str) -> None:
        values = self.maps.get(name)
        if values is not None and values.pop(key, None) is not None and not values:
            del self.maps[name]

    # Counters.

    @command
    def counter_add(self, name: str, n: int = 1) -> int:
        """Add to a counter; return what it is then."""
        self.counters[name] = self.counters.get(name, 0) + n
        return self.counters[name]

    @query
    def counter_get(self, name: str) -> int:
        """Return what a counter is."""
        return self.counters.get(name, 0)

    # Locks.

    @command
    def lock_acquire(self, name: str, owner: bytes, ttl: float) -> int:
        """Take a lock, if nobody else has it; return its token, 0 if somebody has."""
        held = self._held(name)
        if held is None:
            self.token += 1
            self.locks[name] = Held(owner, self.token, self._end(_LOCK, name, ttl))
            return self.token
        if held.owner != owner:
            return 0
        held.until = self._end(_LOCK, name, ttl)
        return held.token

    @command
    def lock_extend(self, name: str, token: int, ttl: float) -> bool:
        """Keep a lock for longer; return whether it is held under that token."""
        held = self._held(name)
        if held is None or held.token != token:
            return False
        held.until = self._end(_LOCK, name, ttl)
        return True

    @command
    def lock_release(self, name: str, owner: bytes) -> bool:
        """Give a lock back; return whether it was held."""
        held = self.locks.get(name)
        if held is None or held.owner != owner:
            return False
        del self.locks[name]
        return True

    @query
    def lock_token(self, name: str) -> int:
        """Return the token of a lock's holder, 0 if it has none."""
        held = self.locks.get(name)
        return 0 if held is None else held.token

    @query
    def lock_is_free(self, name: str) -> bool:
        """Return whether it is worth asking for a lock."""
        return name not in self.locks

    def _held(self, name: str) -> Held | None:
        held = self.locks.get(name)
        return None if held is None or held.until <= self._now() else held

    # Ends.

    def is_due(self, microseconds: int) -> bool:
        """Return whether there is something for `expire` to do at that time."""
        return bool(self.ends) and min(self.ends) * _SECOND <= microseconds

    @command
    def expire(self) -> None:
        """Remove what has ended by now."""
        now = self._now()
        for second in sorted(second for second in self.ends if second * _SECOND <= now):
            for name, key in list(self.ends.pop(second)):
                if name == _LOCK:
                    held = self.locks.get(key)
                    if held is not None and held.until <= now:
                        del self.locks[key]
                else:
                    self._end_value(name, key)

    def _end(self, name: str, key: str, ttl: float) -> int:
        """Return when something ends that begins now, and take note of that."""
        until = self._now() + microseconds(ttl)
        second = until // _SECOND + 1
        if second not in self.ends:
            self.ends[second] = {}
        self.ends[second][name, key] = None
        return until

    def _now(self) -> int:
        return self._context().microseconds

"""The recipes as programs use them: `node.map(…)`, `node.counter(…)`, `node.set(…)`, `node.queue(…)`.

Duty: each handle stands for one thing with a name, and makes it out of the commands of `recipes` and `stores`. Those
that are held for a time, as locks, are in `holding`.

Happy path: `await node.map("users").set("ann", 7, ttl=60)`; `async for event in node.map("users").watch("a")`.

Failure modes: those of calls and queries. A watcher that comes too late for what the cluster remembers gets Compacted.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyraft.node import caller
from pyraft.node.errors import Stopped
from pyraft.node.given import check_name, check_number, check_seconds
from pyraft.node.recipes import TTL_RANGE, Change, Recipes
from pyraft.node.stores import Stores

Wait: TypeAlias = Callable[..., Awaitable[None]]
"""`wait(machine, query, *arguments)` waits until a query says yes, here, or for clients at the leader."""


@dataclass(frozen=True)
class Event:
    """One change of a map."""

    kind: str
    """"set", "deleted" or "expired"."""
    key: str
    value: Any
    """None unless it was set."""
    previous: Any
    """The value before, None for none."""
    revision: int


class Map:
    """A map, by the name that was given; keys are strings, values all that commands take."""

    def __init__(self, recipes: Recipes, name: str, wait: Wait) -> None:
        check_name("map", name)
        self.name = name
        self._recipes = recipes
        self._wait = wait

    async def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        _check_hashable(key)
        found = await self._recipes.map_get(self.name, key)
        return default if found is None else found[0]

    async def revision(self, key: str) -> int:
        """Return the revision of a value, for changes that expect it; 0 if there is none."""
        _check_hashable(key)
        found = await self._recipes.map_get(self.name, key)
        return 0 if found is None else found[1]

    async def set(self, key: str, value: Any, *, ttl: float | None = None, revision: int | None = None) -> int:
        """Set a value, for `ttl` seconds or for good; return its revision.

        With a `revision`, Conflict is raised unless the value there has that one (0: unless there is none). TypeError
        for a key that is not a string: keys of other types would be found by `get` alone.
        """
        if not isinstance(key, str):
            raise TypeError(f"a key of a map must be a string, not {key!r:.40}")
        if ttl is not None:
            check_seconds("the ttl of a value", ttl, *TTL_RANGE)
        if revision is not None:
            check_number("the revision that a change expects", revision)
        return await self._recipes.map_set(self.name, key, value, ttl, revision)

    async def delete(self, key: str, *, revision: int | None = None) -> bool:
        """Remove a value; return whether there was one. `revision` as for `set`."""
        # Keys of other types are taken here: a program from before may have set one, and wants to be rid of it.
        _check_hashable(key)
        if revision is not None:
            check_number("the revision that a change expects", revision)
        return await self._recipes.map_delete(self.name, key, revision)

    async def items(self, prefix: str = "") -> dict[str, Any]:
        """Return the values whose keys begin with `prefix`, in the order of the keys."""
        _check_prefix(prefix)
        return await self._recipes.map_items(self.name, prefix)

    async def state(self, prefix: str = "") -> tuple[int, dict[str, tuple[Any, int]]]:
        """Return a revision, and the values as of that with their own revisions: `watch(after=…)` goes on from it."""
        _check_prefix(prefix)
        return await self._recipes.map_state(self.name, prefix)

    def watch(self, prefix: str = "", *, after: int | None = None) -> AsyncIterator[Event]:
        """Yield the changes of keys that begin with `prefix`, each once, in order: after a revision, else from now on.

        Raises Compacted if not all of them are known any more, at first or because the caller was busy for so long:
        then `state` is to be read, and watched on from. The end of the node or client is the end of it.
        """
        _check_prefix(prefix)
        if after is not None:
            check_number("the revision to watch from", after)
        return self._watch(prefix, after)

    async def _watch(self, prefix: str, after: int | None) -> AsyncIterator[Event]:
        recipes = self._recipes
        try:
            if after is None:
                after, _ = await recipes.map_state(self.name, "no key has this \0")
            while True:
                await self._wait(recipes, "has_changed", after)
                with caller.read(math.inf, False):  # it is here already
                    after, changes = await recipes.map_changes(self.name, prefix, after)
                for change in changes:
                    yield self._event(change)
        except Stopped:
            return

    def _event(self, change: Change) -> Event:
        binding = self._recipes._node
        assert binding is not None
        revision, _, key, kind, value, previous = change
        new, old = (None if packed is None else binding.codec.unpack(packed) for packed in (value, previous))
        return Event(kind, key, new, old, revision)


def _check_prefix(prefix: object) -> None:
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix of keys must be a text, not {prefix!r:.60}")


def _check_hashable(key: object) -> None:
    """Refuse a key that no map can have. Other types than strings may be of an older program."""
    try:
        hash(key)
    except TypeError:
        raise TypeError(f"a key of a map must be a string, not {key!r:.40}") from None


def _check_member(value: object) -> None:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"a set takes what cannot change, and not {value!r:.60}: a tuple in the place of a list"
        ) from None


class Counter:
    """A counter, by name; it begins with 0."""

    def __init__(self, recipes: Recipes, name: str) -> None:
        check_name("counter", name)
        self.name = name
        self._recipes = recipes

    async def add(self, n: int = 1) -> int:
        """Add to it; return what it is then. TypeError unless `n` is a whole number: no later one mends a NaN."""
        if not isinstance(n, int):
            raise TypeError(f"a counter counts in whole numbers, and {n!r:.40} was to be added")
        return await self._recipes.counter_add(self.name, n)

    async def get(self) -> int:
        """Return what it is."""
        return await self._recipes.counter_get(self.name)


class Set:
    """A set, by name; its members are all that commands take and a set does."""

    def __init__(self, stores: Stores, name: str) -> None:
        check_name("set", name)
        self.name = name
        self._stores = stores

    async def add(self, value: Any) -> bool:
        """Put a value in; return whether it is new."""
        _check_member(value)
        return await self._stores.set_add(self.name, value)

    async def discard(self, value: Any) -> bool:
        """Take a value out; return whether it was there."""
        _check_member(value)
        return await self._stores.set_discard(self.name, value)

    async def has(self, value: Any) -> bool:
        """Return whether a value is in it."""
        _check_member(value)
        return await self._stores.set_has(self.name, value)

    async def all(self) -> set[Any]:
        """Return what is in it."""
        return await self._stores.set_all(self.name)


class Queue:
    """A queue, by name: values come out in the order in which they were put in, each once in the whole cluster."""

    def __init__(self, stores: Stores, name: str, wait: Wait) -> None:
        check_name("queue", name)
        self.name = name
        self._stores = stores
        self._wait = wait

    async def put(self, value: Any) -> int:
        """Put a value at the end; return how many are in it then."""
        return await self._stores.queue_put(self.name, value)

    async def take(self) -> Any:
        """Wait until there is a value, take the first one out and return it.

        A caller that is cancelled here may have taken one all the same. Work that has to be done even if its worker is
        lost has to stay in a map until it is done.
        """
        while True:
            taken = await self._stores.queue_take(self.name)
            if taken is not None:
                return taken[0]
            await self._wait(self._stores, "queue_has", self.name)

    async def size(self) -> int:
        """Return how many values are in it."""
        return await self._stores.queue_size(self.name)

"""The recipes of a node or client: a handle for each thing, by its name.

Duty: `Things` makes the handles (`handles`), for nodes and clients alike.

Happy path: `node.map("users")`, `client.lock("cron")`.

Failure modes: those of the handles. A name that is empty, or a time to live out of its range, is a ValueError.
"""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyraft.node import caller
from pyraft.node.handles import Counter, Lock, Map, Queue, Set, elect
from pyraft.node.outside import Outside
from pyraft.node.recipes import Recipes
from pyraft.node.stores import Stores

R = TypeVar("R")


class Things:
    """See the head of this module."""

    outside: Outside
    _recipes: Recipes
    _stores: Stores

    async def _until(self, test: Callable[[], bool]) -> None:
        """Wait for a change of the machines after which `test()` is true."""
        raise NotImplementedError

    def map(self, name: str) -> Map:
        """Return the map of that name, which all share."""
        return Map(self._recipes, name)

    def counter(self, name: str) -> Counter:
        """Return the counter of that name, which all share."""
        return Counter(self._recipes, name)

    def set(self, name: str) -> Set:
        """Return the set of that name, which all share."""
        return Set(self._stores, name)

    def queue(self, name: str) -> Queue:
        """Return the queue of that name, which all share."""
        return Queue(self._stores, name, self._until)

    def lock(self, name: str, *, ttl: float = 10.0) -> Lock:
        """Return a lock for `async with`, which one holder in the cluster has at a time.

        It is kept as long as this program runs and reaches the cluster, and ends up to `ttl` seconds after that.
        """
        return Lock(self._recipes, name, ttl, self._until, self.timeout, self.outside.token, self.outside.seconds)

    async def elect(self, name: str, job: Callable[[], Coroutine[Any, Any, R]], *, ttl: float = 10.0) -> R:
        """Run `job()` in one program at a time of those that ask for it under that name, and return its result.

        It is cancelled when this program loses the lock behind it, and run again once it has that again.
        """
        return await elect(self.lock(name, ttl=ttl), job)

    def timeout(self, seconds: float) -> "contextlib._GeneratorContextManager[None]":
        """`with node.timeout(0.5):` gives the calls and queries in the block so many seconds each."""
        return caller.timeout(seconds)

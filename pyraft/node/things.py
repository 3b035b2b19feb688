"""The recipes of a node or client: a handle for each thing, by its name.

Duty: `Things` makes the handles (`handles`), for nodes and clients alike.

Happy path: `node.map("users")`, `client.lock("cron")`.

Failure modes: those of the handles. A name that is empty, or a time to live out of its range, is a ValueError.
"""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyraft.node import caller
from pyraft.node.gates import GATES, Gates
from pyraft.node.handles import Counter, Map, Queue, Set
from pyraft.node.holding import Barrier, Lock, Means, Semaphore, elect
from pyraft.node.machine import Machine
from pyraft.node.outside import Outside
from pyraft.node.recipes import RECIPES, Recipes
from pyraft.node.registry import REGISTRY, Registry
from pyraft.node.replica import Replica
from pyraft.node.stores import STORES, Stores
from pyraft.node.traces import TRACES, Traces

R = TypeVar("R")


class Things:
    """See the head of this module."""

    outside: Outside
    _recipes: Recipes
    _stores: Stores
    _gates: Gates
    _registry: Registry
    _replica: Replica

    def _furnish(self, machine: Machine) -> None:
        """Make the machines that every cluster has, beside the program's own."""
        self._recipes, self._stores, self._gates, self._registry = Recipes(), Stores(), Gates(), Registry()
        own = {RECIPES: self._recipes, STORES: self._stores, GATES: self._gates, REGISTRY: self._registry}
        self._replica = Replica({"": machine, **own, TRACES: Traces()})

    async def _wait(self, machine: Machine, query: str, *args: Any) -> None:
        """Wait until a query says yes, by what is known here or at the leader."""
        raise NotImplementedError

    def map(self, name: str) -> Map:
        """Return the map of that name, which all share."""
        self._check_outside()
        return Map(self._recipes, name, self._wait)

    def counter(self, name: str) -> Counter:
        """Return the counter of that name, which all share."""
        self._check_outside()
        return Counter(self._recipes, name)

    def set(self, name: str) -> Set:
        """Return the set of that name, which all share."""
        self._check_outside()
        return Set(self._stores, name)

    def queue(self, name: str) -> Queue:
        """Return the queue of that name, which all share."""
        self._check_outside()
        return Queue(self._stores, name, self._wait)

    def lock(self, name: str, *, ttl: float = 10.0) -> Lock:
        """Return a lock for `async with`, which one holder in the cluster has at a time.

        It is kept as long as this program runs and reaches the cluster, and ends up to `ttl` seconds after that.
        """
        self._check_outside()
        return Lock(self._recipes, name, ttl, self._means())

    def semaphore(self, name: str, places: int, *, ttl: float = 10.0) -> Semaphore:
        """Return a place in a semaphore for `async with`: so many hold one in the cluster, kept as locks are."""
        self._check_outside()
        return Semaphore(self._gates, name, places, ttl, self._means())

    def barrier(self, name: str, parties: int, *, ttl: float = 10.0) -> Barrier:
        """Return a barrier: `await barrier.wait()` ends when so many wait there."""
        self._check_outside()
        return Barrier(self._gates, name, parties, ttl, self._means())

    async def elect(self, name: str, job: Callable[[], Coroutine[Any, Any, R]], *, ttl: float = 10.0) -> R:
        """Run `job()` in one at a time of the programs that ask for it under that name, and return its result.

        The job is cancelled when this program loses the lock behind it, and run again once the program has it again.
        """
        return await elect(self.lock(name, ttl=ttl), job)

    def timeout(self, seconds: float) -> "contextlib._GeneratorContextManager[None]":
        """`with node.timeout(0.5):` gives the calls and queries in the block so many seconds each."""
        return caller.timeout(seconds)

    def _check_outside(self) -> None:
        """Raise RuntimeError inside of a command or query of the program: the things here are awaited."""
        binding = self._replica.machines[""]._node
        if binding is not None:
            binding.check_outside("use maps, locks and the like")

    def _means(self) -> Means:
        return Means(self._wait, self.timeout, self.outside.token, self.outside.seconds)

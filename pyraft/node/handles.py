"""The recipes as programs use them: `node.map(…)`, `node.counter(…)`, `node.set(…)`, `node.queue(…)`, `node.lock(…)`.

Duty: each handle stands for one thing with a name, and makes it out of the commands of `recipes` and `stores`.

Happy path: `await node.map("users").set("ann", 7, ttl=60)`; `async with node.lock("cron") as lock: … lock.token`;
`await node.elect("cron", job)` runs `job()` on one node at a time.

Failure modes: those of calls and queries. A lock ends `ttl` seconds after it was last known to be kept, by this
program's own clock counted from before that was asked for; `lost` is set a sixth of that earlier, or when the lock is
found to be somebody else's. All that the holder asks of others has to carry the token, and these refuse smaller ones
than they have seen: no clock can be trusted to the end.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from pyraft.node.errors import Stopped, Unknown
from pyraft.node.recipes import Recipes
from pyraft.node.stores import Stores

R = TypeVar("R")

_RELEASE_SECONDS: Final = 1.0


class Map:
    """A map, by the name that was given; keys are strings, values all that commands take."""

    def __init__(self, recipes: Recipes, name: str) -> None:
        if not name:
            raise ValueError("a map needs a name")
        self.name = name
        self._recipes = recipes

    async def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        found = await self._recipes.map_get(self.name, key)
        return default if found is None else found[0]

    async def revision(self, key: str) -> int:
        """Return the revision of a value, for changes that expect it; 0 if there is none."""
        found = await self._recipes.map_get(self.name, key)
        return 0 if found is None else found[1]

    async def set(self, key: str, value: Any, *, ttl: float | None = None, revision: int | None = None) -> int:
        """Set a value, for `ttl` seconds or for good; return its revision.

        With a `revision`, Conflict is raised unless the value there has that one (0: unless there is none).
        """
        return await self._recipes.map_set(self.name, key, value, ttl, revision)

    async def delete(self, key: str, *, revision: int | None = None) -> bool:
        """Remove a value; return whether there was one. `revision` as for `set`."""
        return await self._recipes.map_delete(self.name, key, revision)

    async def items(self, prefix: str = "") -> dict[str, Any]:
        """Return the values whose keys begin with `prefix`, in the order of the keys."""
        return await self._recipes.map_items(self.name, prefix)


class Counter:
    """A counter, by name; it begins with 0."""

    def __init__(self, recipes: Recipes, name: str) -> None:
        self.name = name
        self._recipes = recipes

    async def add(self, n: int = 1) -> int:
        """Add to it; return what it is then."""
        return await self._recipes.counter_add(self.name, n)

    async def get(self) -> int:
        """Return what it is."""
        return await self._recipes.counter_get(self.name)


class Set:
    """A set, by name; its members are all that commands take and a set does."""

    def __init__(self, stores: Stores, name: str) -> None:
        self.name = name
        self._stores = stores

    async def add(self, value: Any) -> bool:
        """Put a value in; return whether it is new."""
        return await self._stores.set_add(self.name, value)

    async def discard(self, value: Any) -> bool:
        """Take a value out; return whether it was there."""
        return await self._stores.set_discard(self.name, value)

    async def has(self, value: Any) -> bool:
        """Return whether a value is in it."""
        return await self._stores.set_has(self.name, value)

    async def all(self) -> set[Any]:
        """Return what is in it."""
        return await self._stores.set_all(self.name)


class Queue:
    """A queue, by name: values come out in the order in which they were put in, each once in the whole cluster."""

    def __init__(self, stores: Stores, name: str, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        """`until(test)` waits for a change of the machine after which `test()` is true."""
        self.name = name
        self._stores = stores
        self._until = until

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
            await self._until(lambda: self.name in self._stores.queues)

    async def size(self) -> int:
        """Return how many values are in it."""
        return await self._stores.queue_size(self.name)


class _Lost(asyncio.Event):
    """Set when the lock's time is over, too, which a process that was stopped meanwhile knows before its loop does."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self.end = math.inf
        """The time, by `now`, at which nothing may count on the lock any more."""

    def is_set(self) -> bool:
        """Return whether the lock must not be counted on any more."""
        if self._now() >= self.end:
            self.set()
        return super().is_set()


class Lock:
    """A lock, by name, for `async with`: one holder at a time in the whole cluster. One object is one holder."""

    def __init__(
        self,
        recipes: Recipes,
        name: str,
        ttl: float,
        until: Callable[[Callable[[], bool]], Awaitable[None]],
        call_timeout: Callable[[float], "contextlib._GeneratorContextManager[None]"],
        owner: Callable[[], bytes],
        now: Callable[[], float],
    ) -> None:
        """`until(test)` waits for a change of the machine after which `test()` is true; `owner()` is new each time.

        `now()` is a time in seconds that goes on while the machine sleeps.
        """
        if not 0.5 <= ttl <= 86_400:
            raise ValueError(f"a lock's ttl must be from 0.5 to 86400 seconds, and is {ttl!r}")
        self.name = name
        self.ttl = ttl
        self.token = 0
        """Larger than those of all holders before; 0 while it is not held."""
        self.lost = _Lost(now)
        """Set when this program must not count on the lock any more."""
        self._recipes = recipes
        self._until = until
        self._timeout = call_timeout
        self._new_owner = owner
        self._now = now
        self._owner = b""
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Lock":
        await self.acquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()

    async def acquire(self) -> int:
        """Wait until this is the holder; return the token. Cancelling it is harmless."""
        if self._keeper is not None:
            raise RuntimeError(f"this object holds lock {self.name!r} already")
        self._owner = self._new_owner()
        self.lost.end = math.inf
        self.lost.clear()
        try:
            while True:
                asked = self._now()
                try:
                    with self._timeout(self.ttl):
                        self.token = await self._recipes.lock_acquire(self.name, self._owner, self.ttl)
                except Unknown:
                    continue  # it may be ours by now: asking again tells
                if self.token and self._now() < asked + self.ttl * 5 / 6:
                    break
                if not self.token:
                    await self._until(self._is_free)
        except BaseException:
            self.token = 0
            await self._give_back()
            raise
        self.lost.end = asked + self.ttl * 5 / 6
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        return self.token

    async def release(self) -> None:
        """Give it back, at once if the cluster can be reached, else it ends by itself."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.cancel()
        await asyncio.wait([keeper])
        self.token = 0
        self.lost.set()
        await self._give_back()

    async def _give_back(self) -> None:
        with contextlib.suppress(Unknown, Stopped), self._timeout(min(_RELEASE_SECONDS, self.ttl)):
            await self._recipes.lock_release(self.name, self._owner)

    def _is_free(self) -> bool:
        """Return whether it is worth asking again, by what is known here."""
        return self.name not in self._recipes.locks

    async def _keep(self) -> None:
        """Extend the lock again and again, each time well before its end; tell when that has not worked."""
        try:
            while True:
                await asyncio.sleep(max(0.0, min(self.ttl / 3, self.lost.end - self._now())))
                asked = self._now()
                if self.lost.is_set():
                    return
                try:
                    with self._timeout(max(0.001, self.lost.end - asked)):
                        if not await self._recipes.lock_extend(self.name, self.token, self.ttl):
                            return
                except Unknown:
                    continue
                self.lost.end = asked + self.ttl * 5 / 6
        except (Stopped, RuntimeError):  # the node is closed, or closing
            return
        finally:
            self.lost.set()


async def elect(lock: Lock, job: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run `job()` while this program holds the lock; return its result.

    When the lock is lost the job is cancelled, which it has a sixth of the lock's ttl for, and runs again once this
    program has the lock again.
    """
    while True:
        async with lock:
            task = asyncio.ensure_future(job())
            lost = asyncio.ensure_future(lock.lost.wait())
            try:
                await asyncio.wait([task, lost], return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
            finally:
                for unfinished in (task, lost):
                    unfinished.cancel()
                await asyncio.wait([task, lost])

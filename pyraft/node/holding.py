"""The things that a program holds for a time: locks, semaphores, elections, and waiting for each other at barriers.

Duty: each handle makes one such thing, with a name, out of the commands of `recipes` and `gates`, and keeps what is
held while the program runs.

Happy path: `async with node.lock("cron") as lock: … lock.token`; `await node.elect("cron", job)` runs `job()` on one
node at a time; `async with node.semaphore("gpu", 2):`; `await node.barrier("start", 3).wait()`.

Failure modes: those of calls and queries. A lock or place ends `ttl` seconds after it was last known to be kept, by
this program's own clock counted from before that was asked for; `lost` is set a sixth of that earlier, or when it is
found to be somebody else's. All that the holder asks of others has to carry the token, and these refuse smaller ones
than they have seen: no clock can be trusted to the end.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from pyraft.node.endings import on_its_own
from pyraft.node.errors import NodeError, Stopped, Unknown
from pyraft.node.gates import Gates, check_crowd
from pyraft.node.given import check_job, check_made, check_name, check_seconds
from pyraft.node.handles import Wait
from pyraft.node.recipes import Recipes

R = TypeVar("R")

H = TypeVar("H", bound="Holding")

_RELEASE_SECONDS: Final = 1.0


class Means(NamedTuple):
    """The things of a node or client that these handles need."""

    wait: Wait
    timeout: "Callable[[float], contextlib._GeneratorContextManager[None]]"
    owner: Callable[[], bytes]
    """New each time."""
    now: Callable[[], float]
    """A time in seconds that goes on while the machine sleeps."""


def _check(what: str, name: str, ttl: float) -> None:
    check_name(what, name)
    check_seconds(f"the ttl of {what} {name!r:.60}", ttl, 0.5, 86_400)


class _Lost(asyncio.Event):
    """An event that also counts as set once the lock's time is over: after a pause that shows before the loop turns."""

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


class Holding:
    """A lock, or a place in a semaphore, for `async with`. One object is one holder."""

    _kind = _what = ""

    def __init__(self, name: str, ttl: float, means: Means) -> None:
        _check(self._kind, name, ttl)
        self.name = name
        self.ttl = ttl
        self.token = 0
        """Larger than those of all holders before; 0 while it is not held."""
        self.lost = _Lost(means.now)
        """Set when this program must not count on it any more."""
        self._means = means
        self._timeout, self._now = means.timeout, means.now
        self._owner = b""
        """Empty while nothing is held and nobody waits."""
        self._keeper: asyncio.Task[None] | None = None

    async def _ask(self) -> int:
        """Ask for it; return its token, 0 if it is not to be had."""
        raise NotImplementedError

    async def _extend(self) -> bool:
        """Keep it for longer; return whether it is held."""
        raise NotImplementedError

    async def _release(self) -> object:
        """Give it back."""
        raise NotImplementedError

    async def _is_free(self) -> None:
        """Wait until it is worth asking again."""
        raise NotImplementedError

    async def __aenter__(self: H) -> H:
        await self.acquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()

    async def acquire(self) -> int:
        """Wait until this is the holder; return the token. Cancelling it is harmless."""
        if self._keeper is not None:
            raise RuntimeError(f"this object holds {self._what} {self.name!r} already")
        if self._owner:
            raise RuntimeError(
                f"this object waits for {self._what} {self.name!r} already: one object is one holder, so take another "
                "one of that name for each task"
            )
        self._owner = self._means.owner()
        self.lost.end = math.inf
        self.lost.clear()
        try:
            while True:
                asked = self._now()
                try:
                    with self._timeout(self.ttl):
                        self.token = await self._ask()
                except Unknown:
                    continue  # it may be ours by now: asking again tells
                if self.token and self._now() < asked + self.ttl * 5 / 6:
                    break
                if not self.token:
                    await self._is_free()
        except BaseException:
            self.token = 0
            await on_its_own(self._give_back())
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
        self.token = 0
        self.lost.set()
        await on_its_own(self._give_back(keeper))

    async def _give_back(self, *keepers: "asyncio.Task[None]") -> None:
        try:
            if keepers:
                await asyncio.wait(keepers)
            with contextlib.suppress(Unknown, Stopped), self._timeout(min(_RELEASE_SECONDS, self.ttl)):
                await self._release()
        finally:
            self._owner = b""

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
                        if not await self._extend():
                            return
                except Unknown:
                    continue
                self.lost.end = asked + self.ttl * 5 / 6
        except (Stopped, RuntimeError):  # the node is closed, or closing
            return
        finally:
            self.lost.set()


class Lock(Holding):
    """A lock, by name: one holder at a time in the whole cluster."""

    _kind = _what = "lock"

    def __init__(self, recipes: Recipes, name: str, ttl: float, means: Means) -> None:
        super().__init__(name, ttl, means)
        self._recipes = recipes

    async def _ask(self) -> int:
        return await self._recipes.lock_acquire(self.name, self._owner, self.ttl)

    async def _extend(self) -> bool:
        return await self._recipes.lock_extend(self.name, self.token, self.ttl)

    async def _release(self) -> object:
        return await self._recipes.lock_release(self.name, self._owner)

    async def _is_free(self) -> None:
        await self._means.wait(self._recipes, "lock_is_free", self.name)


class Semaphore(Holding):
    """A place in a semaphore, by name: so many holders at a time in the whole cluster."""

    _kind, _what = "semaphore", "a place in semaphore"

    def __init__(self, gates: Gates, name: str, places: int, ttl: float, means: Means) -> None:
        super().__init__(name, ttl, means)
        check_crowd(places, "places")
        self.places = places
        self._gates = gates

    async def taken(self) -> int:
        """Return how many places are taken."""
        return await self._gates.semaphore_taken(self.name)

    async def _ask(self) -> int:
        return await self._gates.semaphore_acquire(self.name, self._owner, self.places, self.ttl)

    async def _extend(self) -> bool:
        return await self._gates.semaphore_extend(self.name, self._owner, self.ttl)

    async def _release(self) -> object:
        return await self._gates.semaphore_release(self.name, self._owner)

    async def _is_free(self) -> None:
        await self._means.wait(self._gates, "semaphore_is_free", self.name)


class Barrier:
    """A barrier, by name, at which so many wait for each other; then the next so many may."""

    def __init__(self, gates: Gates, name: str, parties: int, ttl: float, means: Means) -> None:
        _check("barrier", name, ttl)
        check_crowd(parties, "parties")
        self.name = name
        self.parties = parties
        self.ttl = ttl
        self._gates = gates
        self._means = means

    async def waiting(self) -> int:
        """Return how many wait."""
        return await self._gates.barrier_waiting(self.name)

    async def wait(self) -> int:
        """Wait until all have come; return the place of this one in the order of arrival, from 0.

        One that is cancelled, or dies, is not counted any more, at once or when `ttl` seconds are over.
        """
        owner = self._means.owner()
        passed = False
        try:
            while True:
                try:
                    with self._means.timeout(self.ttl):
                        at = await self._gates.barrier_arrive(self.name, owner, self.parties, self.ttl)
                except Unknown:
                    continue  # asking again tells
                if at >= 0:
                    passed = True
                    return at
                await self._look(owner)
        finally:
            if not passed:
                with contextlib.suppress(NodeError), self._means.timeout(min(_RELEASE_SECONDS, self.ttl)):
                    await self._gates.barrier_leave(self.name, owner)

    async def _look(self, owner: bytes) -> None:
        """Wait until all have come, or it is time to say that one still waits."""
        waiting = asyncio.ensure_future(self._means.wait(self._gates, "barrier_has_passed", self.name, owner))
        try:
            await asyncio.wait([waiting], timeout=self.ttl / 3)
            if waiting.done():
                waiting.result()
        finally:
            waiting.cancel()


async def elect(lock: Lock, job: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run `job()` while this program holds the lock; return its result.

    When the lock is lost the job is cancelled, which it has a sixth of the lock's ttl for, and runs again once this
    program has the lock again. TypeError for what is not a coroutine function, before anything is waited for.
    """
    check_job(job)
    while True:
        async with lock:
            made = job()
            check_made(made)
            task = asyncio.ensure_future(made)
            lost = asyncio.ensure_future(lock.lost.wait())
            try:
                await asyncio.wait([task, lost], return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
            finally:
                for unfinished in (task, lost):
                    unfinished.cancel()
                await asyncio.wait([task, lost])

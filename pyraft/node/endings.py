"""Ends that have to come to their own end, whoever is cancelled meanwhile.

Duty: `to_the_end` waits for what must not be left half done, as the closing of a node: others would find its directory
in use. `on_its_own` has something carried out that nobody needs to wait for, once the caller is cancelled.

Happy path: both return when the work is over, as if it was awaited.

Failure modes: the cancellation is raised behind the work. anyio cancels again in each turn of the loop, until a task
has left the scope; asyncio cancels again if somebody asks again.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """Return what `work` returns; one who is cancelled waits for its end, and is cancelled then."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # nobody else asks for it
        raise cancelled
    return task.result()


async def on_its_own(work: Coroutine[Any, Any, R]) -> R:
    """Return what `work` returns; it goes on if its caller is cancelled, who does not wait."""
    return await asyncio.shield(asyncio.get_running_loop().create_task(work))

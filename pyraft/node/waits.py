"""Waiting until a query says yes: for handles of this node, and for a while for clients.

Duty: `Waits.wait` has a query asked after each change of the machines, by what is known here; `answer` does so for a
client, which asks again.

Happy path: `await waits.wait(recipes, "lock_is_free", "cron")`.

Failure modes: what the query raises; Stopped at the end of the node. If MOST clients wait already, the query is asked
once, after a tenth of the time, and the client asks again; so its other questions are not kept waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pyraft.errors import printable
from pyraft.node.errors import Refused
from pyraft.node.machine import Machine, queries_of
from pyraft.node.replica import Replica

SECONDS: Final = 5.0
MOST: Final = 128
"""How long a client's wait is answered here, and how many of them at a time; the others look ten times as often."""


class Waits:
    """See the head of this module."""

    def __init__(self, replica: Replica, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        """`until(test)` waits for a change of the machines after which `test()` is true."""
        self._replica = replica
        self._until = until
        self._under_way = 0

    async def wait(self, machine: Machine, query: str, *args: Any) -> None:
        """Wait until a query says yes."""
        ask = queries_of(type(machine))[query].function
        await self._until(lambda: bool(ask(machine, *args)))

    async def answer(self, machine: str, query: str, arguments: bytes) -> bool:
        """Wait for a while until a query says yes; return whether it has."""
        if not self._replica.asks(machine, query):
            raise Refused(f"the program of this member has no query {printable(str(query)[:80])}")
        if self._under_way >= MOST:
            await asyncio.sleep(SECONDS / 10)
            return self._replica.says_yes(machine, query, arguments)
        self._under_way += 1
        waiting = asyncio.ensure_future(self._until(lambda: self._replica.says_yes(machine, query, arguments)))
        try:
            await asyncio.wait([waiting], timeout=SECONDS)
            if waiting.done():
                waiting.result()
            return waiting.done()
        finally:
            self._under_way -= 1
            waiting.cancel()

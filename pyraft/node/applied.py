"""The way of entries from the core into a replica, and those who wait for something that an entry may bring about.

Duty: `Applied` takes the place of the replica's functions at the core. It has the entries executed, several in one call
where the core has several, with a span for each where there are traces.

Happy path: `await applied.until(test)` looks at the replica after each turn of the loop that has applied something.

Failure modes: those of the replica, which stop the server; it ends the waits with its cause. An entry of
another program is named by its index.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from pyraft import aio
from pyraft.node.errors import OtherProgram
from pyraft.node.replica import Replica
from pyraft.node.traces import Tracing


class Applied:
    """See the head of this module."""

    def __init__(
        self, server: aio.Server, replica: Replica, tracing: Tracing | None, microseconds: Callable[[], int]
    ) -> None:
        """`microseconds()` is the time of day. Entries come here from now on."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._due = False
        self._do_apply = replica.do_apply if tracing is None else tracing.around(replica.do_apply, microseconds)
        self._do_apply_batch = replica.do_apply_batch
        replica.apply = self._apply
        replica.apply_batch = self._apply_batch if tracing is None else None

    def _apply(self, fsm: Any, buf: Any) -> Any:
        try:
            result = self._do_apply(buf)
        except OtherProgram as exc:
            exc.entry = self._server.raft.last_applied + 1
            raise
        if self._waiting and not self._due:
            self._look_soon()
        return result

    def _apply_batch(self, fsm: Any, bufs: Any) -> Any:
        try:
            results = self._do_apply_batch(bufs)
        except OtherProgram as exc:
            exc.entry += self._server.raft.last_applied + 1
            raise
        if self._waiting and not self._due:
            self._look_soon()
        return results

    def _look_soon(self) -> None:
        self._due = True
        self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._due = False
        self._server.notice()

    async def until(self, test: Callable[[], bool]) -> None:
        """Wait until `test()` is true. Raises RaftError at the end of the server."""
        self._waiting += 1
        try:
            await self._server.wait_until(test)
        finally:
            self._waiting -= 1

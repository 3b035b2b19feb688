"""An asyncio server against a scripted world (see solo), and what runs scenarios on it.

Duty: `World` for the tests of pyraft.aio; `run` gives a scenario a loop and a deadline, `refused` expects a RaftError.

Failure modes: a scenario that hangs fails after two minutes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyraft import (
    RAFT_VOTER,
)
from pyraft.aio import RaftError, Server
from tests.lib import fsm as fsms
from tests.lib import messages as msg
from tests.lib.solo import ScriptIo, change, configuration


class World:
    """An asyncio server, its table and its state machine; the test plays servers 2, 3, …"""

    def __init__(self, *roles: int) -> None:
        self.io = ScriptIo()
        self.io.term = 1
        self.conf = configuration(*(roles or (RAFT_VOTER, RAFT_VOTER, RAFT_VOTER)))
        self.io.stored = [change(1, self.conf)]
        self.fsm = fsms.PairFsm()
        self.server = Server(self.io, self.fsm, 1, "1")

    def recv(self, message: Any) -> None:
        """Hand the server a message."""
        self.io.on_recv(self.io, message)

    def tick(self, msecs: int = 100) -> None:
        """Let time pass and the tick timer fire."""
        self.io.now += msecs
        self.io.on_tick(self.io)

    async def lead(self) -> None:
        """Start the server and make it leader of term 2, its barrier committed."""
        await self.server.start()
        self.tick(1000)
        self.recv(msg.request_vote_result(2, 2))
        self.io.finish_appends()
        self.recv(msg.append_entries_result(2, 2, 2))
        assert self.server.is_leader

    def commit(self, index: int) -> None:
        """Store everything and have server 2 acknowledge it up to `index`."""
        self.io.finish_appends()
        self.recv(msg.append_entries_result(2, 2, index))

    async def close(self) -> None:
        """Close the server; the I/O ends at once."""
        closing = asyncio.create_task(self.server.close())
        await asyncio.sleep(0)
        self.io.on_close(self.io)
        await closing


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on a loop of its own."""

    async def main() -> None:
        await asyncio.wait_for(scenario(), 120)

    asyncio.run(main())


async def refused(awaitable: Awaitable[Any]) -> RaftError:
    """Await what must fail with a RaftError; return that."""
    with pytest.raises(RaftError) as caught:
        await awaitable
    return caught.value

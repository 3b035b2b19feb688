"""The calls of Python functions that a command of a node costs: a number that does not depend on the machine.

Times on a busy machine show nothing, and a call more per command is quickly added. Each limit is a little above what is
needed today; a change that needs more says why.
"""

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pyraft.node import Machine, Node, command, init
from pyraft.node.replica import NO_SESSION, SESSIONS, Replica
from tests.lib.nodes import run
from tests.lib.uvnode import free_addresses


class Tally(Machine):
    """The least that a machine does."""

    def __init__(self) -> None:
        self.n = 0
        self.last: dict[str, bytes] = {}

    @command
    def add(self, data: bytes) -> None:
        """Count."""
        self.n += 1

    @command
    def put(self, key: str, data: bytes) -> int:
        """Keep, and answer."""
        self.last[key] = data
        return len(data)


class Counted:
    """How many Python functions were called."""

    calls = 0


@contextmanager
def counting() -> Iterator[Counted]:
    """Count the calls of Python functions in the block, but for what the end of other tests' garbage calls."""
    counted = Counted()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counted.calls += 1

    gc.collect()
    gc.disable()
    sys.setprofile(note)
    try:
        yield counted
    finally:
        sys.setprofile(None)
        gc.enable()


def test_executing_a_command_of_an_entry() -> None:
    """The command, its execution and arguments, the change of an attribute; and the result, where there is one."""
    replica = Replica({"": Tally()})
    pack = replica.codec.pack
    session = b"session "
    replica.do_apply(replica.entry(1, [[NO_SESSION, 0, 0, SESSIONS, "open", 1, pack([[session], {}])]]))
    number = 0
    for name, arguments, limit in (("add", [b"x" * 64], 4.3), ("put", ["a", b"x" * 64], 5.4)):
        for n in (100, 200):
            numbers = range(number + 1, number + n + 1)
            calls = [[session, at, number, "", name, 1, pack([arguments, {}])] for at in numbers]
            entry = replica.entry(2, calls)
            number += n
            with counting() as counted:
                _, outcomes = replica.do_apply(entry)
            assert len(outcomes) == n
            assert counted.calls / n < limit


def test_calls_that_come_together(tmp_path: Path) -> None:
    """All of it, from the call to its result, on a cluster of one, with 64 under way."""

    async def scenario() -> None:
        await init(tmp_path, free_addresses(1)[1])
        async with Node(tmp_path, Tally()) as node:
            asyncio.get_running_loop().set_debug(False)  # -X dev has asyncio note where each future was made
            left = 0

            async def caller() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    await node.machine.add(b"x" * 64)

            for total in (64, 3200):
                left = total
                with counting() as counted:
                    await asyncio.gather(*[caller() for _ in range(64)])
            assert counted.calls / 3200 < 27

    run(scenario, "uvloop")

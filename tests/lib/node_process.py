"""A program with a node, for tests that kill processes: it notes texts of its own, on several tasks.

    node_process.py DIR NAME

Each text is counted by its number in the run; all that is acknowledged goes to standard output, a line each, as
`NAME task number`. SIGTERM ends it properly. `Notes` is the machine, which the test opens in the end.
"""

import asyncio
import signal
import sys

from pyraft import RAFT_VOTER, raft_role
from pyraft.node import Machine, Node, command, query
from tests.lib.nodes import QUICK, until

TASKS = 4


class Notes(Machine):
    """How often each text was noted."""

    def __init__(self) -> None:
        self.times: dict[str, int] = {}

    @command
    def note(self, text: str) -> int:
        """Count a text."""
        self.times[text] = self.times.get(text, 0) + 1
        return len(self.times)

    @query
    def all(self) -> dict[str, int]:
        """Return all texts with their counts."""
        return self.times


async def main(directory: str, name: str) -> None:
    """Note texts until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def load(node: Node[Notes], task: int) -> None:
        number = 0
        while True:
            text = f"{name} {task} {number}"
            with node.timeout(60):
                await node.machine.note(text)
            print(text, flush=True)
            number += 1

    async with Node(directory, Notes(), settings=QUICK) as node:
        await until(lambda: raft_role(node.server.raft) == RAFT_VOTER)
        print("votes", flush=True)
        tasks = [asyncio.ensure_future(load(node, task)) for task in range(TASKS)]
        ended = asyncio.ensure_future(stop.wait())
        await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()  # what is under way is not acknowledged
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                raise end


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

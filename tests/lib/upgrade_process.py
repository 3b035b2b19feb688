"""A program with a node, in two versions, for a test that upgrades it: it notes texts on several tasks.

    upgrade_process.py DIR NAME VERSION

All that is acknowledged goes to standard output, a line each, as `NAME task number`; "votes" when it is a voter that
has caught up, "new" when the next version's own command was taken for the first time. A call that fails ends it, with
its traceback and code 1. SIGTERM ends it properly, once the calls under way are over; after SIGUSR1 it makes no more
calls, and says "quiet". `Old` and `New` are the machines, which the test opens in the end.
"""

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import Any

from pyraft import RAFT_VOTER, raft_role
from pyraft.node import CommandFailed, Machine, Node, Settings, command
from tests.lib.nodes import until

TASKS = 4

SETTINGS = Settings(heartbeat_msecs=50, election_timeout_msecs=500, snapshot_entries=64, trailing_entries=16)
"""The state gets to members by entries and by snapshots."""


@dataclass(frozen=True)
class Text:
    """A text of the first version."""

    text: str


class Old(Machine):
    """How often each text was noted, in the first version of the program."""

    types: tuple[type, ...] = (Text,)

    def __init__(self) -> None:
        self.times: dict[Any, int] = {}

    @command
    def note(self, text: Any) -> int:
        """Count a text."""
        self.times[text.text] = self.times.get(text.text, 0) + 1
        return len(self.times)


@dataclass(frozen=True)
class NewText:
    """The same with one more field."""

    text: str
    tag: str = ""


class New(Old):
    """The next version: another meaning of the command, one more command, and one more attribute."""

    types = (NewText,)

    def __init__(self) -> None:
        super().__init__()
        self.marks: dict[str, int] = {}

    @command
    def note(self, text: Any) -> int:
        """Count a text."""
        self.times[text.text] = self.times.get(text.text, 0) + 1
        return len(self.times)

    @note.version(2)  # type: ignore[no-redef]  # mypy takes a second definition for a mistake
    def note(self, text: Any, *, weight: int = 1) -> int:
        """Count a text, and its tag."""
        self.times[text.text] = self.times.get(text.text, 0) + weight
        self.marks[text.tag] = self.marks.get(text.tag, 0) + 1
        return len(self.times)

    @command
    def mark(self, name: str) -> int:
        """Count a mark."""
        self.marks[name] = self.marks.get(name, 0) + 1
        return self.marks[name]


NewText.__name__ = Text.__name__
New.__name__ = Old.__name__


async def main(directory: str, name: str, version: str) -> None:
    """Note texts until SIGTERM."""
    stop, quiet = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: (stop.set(), quiet.set()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, quiet.set)
    machine, text = (Old(), Text) if version == "1" else (New(), NewText)

    async def load(node: Node[Any], task: int) -> None:
        number = 0
        while not quiet.is_set():
            line = f"{name} {task} {number}"
            await node.machine.note(text(line))
            print(line, flush=True)
            number += 1

    async def mark(node: Node[Any]) -> None:
        """Have the new command done, once all members have it."""
        while version == "2" and not quiet.is_set():
            try:
                await node.machine.mark(name)
            except CommandFailed as exc:
                if exc.kind != "MissingCommand":
                    raise
                await asyncio.sleep(0.05)
            else:
                print("new", flush=True)
                return

    async with Node(directory, machine, settings=SETTINGS, version=version) as node:
        with node.timeout(60):
            await until(lambda: raft_role(node.server.raft) == RAFT_VOTER)
            await node.ready()
            print("votes", flush=True)
            tasks = [asyncio.ensure_future(load(node, task)) for task in range(TASKS)]
            await asyncio.gather(*tasks, mark(node))
            print("quiet", flush=True)
            await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

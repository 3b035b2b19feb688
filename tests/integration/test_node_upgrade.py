"""Processes with two versions of their program: upgraded, replaced and moved, under load, without a call that fails."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyraft.node import Node
from pyraft.node.testing.compare import difference, state
from tests.integration.test_command import run as run_command
from tests.integration.test_node_processes import Processes, wait_for
from tests.integration.test_operating import owner
from tests.lib.nodes import run, until
from tests.lib.upgrade_process import SETTINGS, TASKS, New
from tests.lib.uvnode import free_addresses


def pyraft(*words: str) -> str:
    """Run the command; return what it prints."""
    result = run_command(*words)
    assert result.exit_code == 0, result.output
    return result.output


class Members:
    """The processes of a cluster, by number, and what each has said in each of its runs."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.addresses = free_addresses(7)
        self.running: dict[int, subprocess.Popen[str]] = {}
        self.said: dict[int, list[Path]] = {}
        self.killed = 0

    def begin(self, number: int, version: int) -> None:
        """Start a member."""
        runs = self.said.setdefault(number, [])
        name = f"{number}-{len(runs)}"
        runs.append(self.processes.dir / f"said-{name}")
        with runs[-1].open("w") as file:
            program = ("-m", "tests.lib.upgrade_process", str(number), name, str(version))
            self.running[number] = self.processes.start(*program, stdout=file.fileno())

    def start(self, number: int, version: int) -> None:
        """Start a member, and wait until it votes and has caught up."""
        self.begin(number, version)
        wait_for(lambda: self.has_said(number, "votes"))
        self.go_on()

    def stop(self, number: int) -> None:
        """End a member properly: no call of its has failed."""
        process = self.running.pop(number)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0

    def stop_all(self) -> None:
        """End all members, whose calls end before: the last ones could not commit any."""
        for process in self.running.values():
            process.send_signal(signal.SIGUSR1)
        for number in self.running:
            wait_for(lambda number=number: self.has_said(number, "quiet"))
        for number in list(self.running):
            self.stop(number)

    def kill(self, number: int) -> None:
        """End a member at once."""
        process = self.running.pop(number)
        process.kill()
        process.wait()
        self.killed += 1

    def has_said(self, number: int, text: str) -> bool:
        """Return whether a member has said a line in its present run; fail if it has ended by itself."""
        process = self.running[number]
        assert process.poll() is None, f"member {number} has ended with {process.returncode}"
        return text in self.said[number][-1].read_text().splitlines()

    def go_on(self) -> None:
        """Wait until each member that runs has had further calls acknowledged."""
        before = {number: self.said[number][-1].stat().st_size for number in self.running}
        for number in self.running:
            wait_for(lambda number=number: self._size(number) > before[number] + 50)

    def _size(self, number: int) -> int:
        self.has_said(number, "")
        return self.said[number][-1].stat().st_size

    def join(self, number: int, via: int) -> None:
        """Have a new member join."""
        where = str(self.processes.dir / str(number))
        pyraft("join", where, "--address", self.addresses[number], "--via", self.addresses[via])

    def check(self) -> None:
        """Open all members that ran last, with the new program: they have the same, and each text that counts, once."""
        directories = [self.processes.dir / str(number) for number in self.running]
        self.stop_all()
        said = [path.read_text().splitlines() for runs in self.said.values() for path in runs]
        acknowledged = {line for lines in said for line in lines if " " in line}
        found: list[Any] = []

        async def look() -> None:
            nodes: list[Node[Any]] = [Node(directory, New(), settings=SETTINGS) for directory in directories]
            for node in nodes:
                await node.__aenter__()
            for node in nodes:
                await node.ready()
            last = max(node.server.raft.commit_index for node in nodes)
            await until(lambda: all(node.server.raft.last_applied >= last for node in nodes))
            await until(lambda: len({node.server.raft.last_applied for node in nodes}) == 1)
            found.extend(state(node._replica) for node in nodes)
            await asyncio.gather(*(node.close() for node in nodes))

        run(look)
        for other in found[1:]:
            assert difference(found[0], other) == ""
        times = found[0]["machine"]["times"]
        assert set(times.values()) == {1}
        assert acknowledged - times.keys() == set()
        assert len(times.keys() - acknowledged) <= self.killed * TASKS


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    """Three members with the first version of the program, in processes, under load."""
    processes = Processes(tmp_path)
    found = Members(processes)
    try:
        pyraft("init", str(tmp_path / "1"), "--address", found.addresses[1])
        found.start(1, 1)
        for number in (2, 3):
            found.join(number, 1)
            found.start(number, 1)
        yield found
    finally:
        processes.end()


def test_a_cluster_is_upgraded_replaced_and_moved_under_load(members: Members) -> None:
    """A rolling upgrade, a dead member, a fourth one, new addresses: the states of all are equal, and no call fails."""
    for number in (2, 3, 1):
        members.stop(number)
        members.go_on()
        members.start(number, 2)
        assert members.has_said(number, "new") <= (number == 1)
    for number in (1, 2, 3):
        wait_for(lambda number=number: members.has_said(number, "new"))
    members.kill(2)
    members.go_on()
    members.join(4, 3)
    members.start(4, 2)
    pyraft("replace", *(members.addresses[n] for n in (2, 4)), "--via", members.addresses[3])
    members.join(5, 4)
    members.start(5, 2)
    move(members)
    members.go_on()
    members.check()


def move(members: Members) -> None:
    """Stop all, give them new addresses, and start them again."""
    numbers = sorted(members.running)
    assert numbers == [1, 3, 4, 5]
    members.stop_all()
    moved = dict(zip(numbers, free_addresses(len(numbers)).values(), strict=True))
    places = {number: members.processes.dir / str(number) for number in numbers}
    given = [f"{owner(places[number]).id}={address}" for number, address in moved.items()]
    ends = {number: pyraft("dir", "position", str(place)) for number, place in places.items()}
    furthest = max(numbers, key=lambda number: [int(part) for part in ends[number].split(":")[1:]])
    others = [word for number in numbers if number != furthest for word in ("--other", str(places[number]))]
    pyraft("dir", "readdress", str(places[furthest]), *given, *others, "--apply")
    assert {number: owner(place).address for number, place in places.items()} == moved
    for number in numbers:
        members.begin(number, 2)
    for number in numbers:
        wait_for(lambda number=number: members.has_said(number, "votes"))

"""Nodes as processes, started with the commands that the README shows, and killed at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyraft.node import Node
from tests.lib.node_process import TASKS, Notes
from tests.lib.nodes import QUICK, run
from tests.lib.uvnode import free_addresses

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio
import sys

from pyraft.node import Machine, Node, command, query

class Shop(Machine):
    def __init__(self):
        self.stock: dict[str, int] = {"apple": 7}

    @command
    def take(self, item: str, n: int = 1) -> int:
        if self.stock.get(item, 0) < n:
            raise LookupError(item)            # reaches the caller, changes nothing, stops nobody
        self.stock[item] -= n
        return self.stock[item]

    @query
    def left(self, item: str) -> int:
        return self.stock.get(item, 0)

async def main():
    async with Node(sys.argv[1], Shop()) as node:     # created before by `pyraft init`, or joined by `pyraft join`
        shop = node.machine
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                match line.split():
                    case ["take", item]:
                        print(await shop.take(item), flush=True)
                    case ["left", item]:
                        print(await shop.left(item), flush=True)
            except LookupError as exc:
                print("none", exc, flush=True)

asyncio.run(main())
"""


class Processes:
    """Processes of a test, which ends those that are left."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.running: list[subprocess.Popen[str]] = []

    def pyraft(self, *arguments: str, fails: bool = False) -> str:
        """Run the command; return what it says."""
        command = [sys.executable, "-m", "pyraft", *arguments]
        done = subprocess.run(command, cwd=self.dir, capture_output=True, text=True, timeout=300, env=environment())
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *arguments: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
        """Start a Python program."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.dir,
            stdin=subprocess.PIPE,
            stdout=stdout,
            text=True,
            env=environment(),
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        """Kill what is left."""
        for process in self.running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes in a directory of their own."""
    found = Processes(tmp_path)
    yield found
    found.end()


def ask(process: "subprocess.Popen[str]", line: str) -> str:
    """Send a line to a program, and return what it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_the_first_program(processes: Processes) -> None:
    """Three processes of the program that the README begins with, made by its commands: calls and queries on each."""
    (processes.dir / "shop.py").write_text(PROGRAM)
    addresses = free_addresses(3)
    assert "began cluster" in processes.pyraft("init", "data/1", "--address", addresses[1])
    assert "belongs to member" in processes.pyraft("init", "data/1", "--address", addresses[1], fails=True)
    shops = [processes.start("shop.py", "data/1")]
    for number in (2, 3):
        where = ["--address", addresses[number], "--via", addresses[number - 1]]
        if number == 3:
            where += ["--via", addresses[1]]
        assert "joined cluster" in processes.pyraft("join", f"data/{number}", *where)
        assert "joined cluster" in processes.pyraft("join", f"data/{number}", *where)
        shops.append(processes.start("shop.py", f"data/{number}"))
    left = 7
    for shop in shops * 2:
        assert ask(shop, "take apple") == str(left - 1)
        left -= 1
        assert {ask(other, "left apple") for other in shops} == {str(left)}
    assert ask(shops[1], "take pear") == "none pear"
    shops[0].kill()
    shops[0].wait()
    assert ask(shops[1], "take apple") == "0"
    assert ask(shops[2], "left apple") == "0"
    assert ask(shops[2], "take apple") == "none apple"
    again = processes.start("shop.py", "data/1")
    assert ask(again, "left apple") == "0"
    for shop in (*shops[1:], again):
        shop.stdin.close()
        assert shop.wait(300) == 0


def test_kills_at_any_moment(processes: Processes) -> None:
    """While processes are killed and started again under load, each text is noted once that was acknowledged, and at
    most once that was not.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    addresses = free_addresses(3)
    processes.pyraft("init", "1", "--address", addresses[1])
    runs: dict[int, list[tuple[Path, subprocess.Popen[str]]]] = {1: [], 2: [], 3: []}

    def start(number: int) -> None:
        path = processes.dir / f"said-{number}-{len(runs[number])}"
        with path.open("w") as file:
            name = f"{number}-{len(runs[number])}"
            program = processes.start("-m", "tests.lib.node_process", str(number), name, stdout=file.fileno())
        runs[number].append((path, program))

    def said() -> int:
        return sum(len(path.read_text().splitlines()) for run in runs.values() for path, _ in run)

    start(1)
    for number in (2, 3):
        processes.pyraft("join", str(number), "--address", addresses[number], "--via", addresses[1])
        start(number)
    for run_of_one in runs.values():
        wait_for(lambda path=run_of_one[0][0]: "votes" in path.read_text())
    for _ in range(8):
        before = said()
        wait_for(lambda before=before: said() > before + 50)
        number = rng.choice([1, 2, 3])
        runs[number][-1][1].kill()
        runs[number][-1][1].wait()
        if rng.random() < 0.5:
            before = said()
            wait_for(lambda before=before: said() > before + 20)
        start(number)
    before = said()
    wait_for(lambda: said() > before + 50)
    for run_of_one in runs.values():
        wait_for(lambda path=run_of_one[-1][0]: "votes" in path.read_text())
    for number in (1, 2, 3):
        runs[number][-1][1].send_signal(signal.SIGTERM)
    for number in (1, 2, 3):
        assert runs[number][-1][1].wait(300) == 0
    check(processes.dir, runs)


def check(dir: Path, runs: "dict[int, list[tuple[Path, subprocess.Popen[str]]]]") -> None:
    """Compare what was acknowledged with what the cluster has."""
    found: dict[str, int] = {}

    async def read() -> None:
        nodes = [Node(dir / str(number), Notes(), settings=QUICK) for number in runs]
        for node in nodes:
            await node.__aenter__()
        for node in nodes:
            found.update(await node.machine.all())
        for node in reversed(nodes):
            await node.close()

    run(read)
    acknowledged = set()
    for run_of_one in runs.values():
        for path, _ in run_of_one:
            acknowledged |= set(path.read_text().splitlines()) - {"votes"}
    assert {text: count for text, count in found.items() if count != 1} == {}
    assert acknowledged - found.keys() == set()
    killed = sum(len(run_of_one) for run_of_one in runs.values())
    assert len(found.keys() - acknowledged) <= killed * TASKS


def wait_for(test: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until `test()` is true."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)

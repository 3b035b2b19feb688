"""Members as processes, SIGKILL at random moments under load: does each increment count once, is each answer right?

    python -m tests.fuzzy.torture_nodes [--kills 300] [--seed SEED]

Duty: three processes with a node each are killed (one, two, all) and started again, while clients in this process count
up, some of the time with so little time for it that they have to ask what became of a call (`outcome`), read and write
registers, and count from several clients under one name and number (`session`). An increment answers what its counter
is then, so one that is lost or counts twice shows at the next one. The history of the registers has to be linearizable,
and in the end, after all were killed at once, the counters are those that were answered. No member may ever say what
`never_said` has.

Happy path: a line per ten kills, and the figures at the end. Failure modes: AssertionError; the directory is kept and
named. The seed repeats the choices, not the timing.
"""

import argparse
import asyncio
import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pyraft.node import Client, Unavailable, Unknown, connect, init, join
from tests.lib import linearizability, never_said
from tests.lib.kept import kept_if_failed
from tests.lib.linearizability import CAS, GET, PUT, Operation
from tests.lib.node_torture import SETTINGS, Book
from tests.lib.uvnode import free_addresses

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 6
KEYS = 3
"""Registers in use at a time; each run of operations between two kills has new ones."""


class Members:
    """The processes."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.addresses = free_addresses(3)
        self.via = list(self.addresses.values())
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.lives: Counter[int] = Counter()

    async def found(self) -> None:
        """Make the directories of three members, and start them."""
        await init(self.dir / "1", self.addresses[1])
        self.start(1)
        for number in (2, 3):
            await join(self.dir / str(number), self.addresses[number], self.addresses[1], timeout_seconds=120)
            self.start(number)

    def start(self, number: int) -> None:
        """Start one; all that it says goes to a file of this life."""
        self.lives[number] += 1
        with self.path(number).open("ab") as said:
            command = [sys.executable, "-m", "tests.lib.node_torture", str(self.dir / str(number))]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.running[number] = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=environment)

    def kill(self, number: int) -> None:
        """SIGKILL; one that has ended by itself is a fault."""
        process = self.running.pop(number)
        assert process.poll() is None, f"member {number} has ended: {self.said(number)[-3000:]}"
        process.kill()
        process.wait()

    def path(self, number: int) -> Path:
        """Return where the words of a member's life go."""
        return self.dir / f"said-{number}-{self.lives[number]}"

    def hear(self) -> None:
        """See that no member has said, in any of its lives, what it never should."""
        never_said.check(self.dir.glob("said-*"))

    def said(self, number: int) -> str:
        """Return the words of a member in this life."""
        return self.path(number).read_text(errors="replace")

    async def up(self) -> None:
        """Wait until each has all that was acknowledged."""
        deadline = time.monotonic() + 300
        for number, process in self.running.items():
            while "ready\n" not in self.said(number):
                assert process.poll() is None, self.said(number)[-3000:]
                assert time.monotonic() < deadline, f"member {number} is not ready: {self.said(number)[-3000:]}"
                await asyncio.sleep(0.02)

    def end(self) -> None:
        """Kill those that run."""
        for process in self.running.values():
            process.kill()
            process.wait()


class Load:
    """The clients, and what they saw."""

    def __init__(self, members: Members, seed: int) -> None:
        self.members = members
        self.dice = random.Random(f"{seed} load")
        self.clock = itertools.count(1)
        self.values = itertools.count(1)
        self.operations: list[Operation] = []
        self.counts: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self.epoch = 0
        self.over = False

    async def work(self, number: int) -> None:
        """Be one client."""
        addresses = self.members.via
        async with connect(addresses, Book(), settings=SETTINGS) as client:
            while not self.over:
                what = self.dice.random()
                if what < 0.4:
                    await self.increment(client, f"client {number}")
                elif what < 0.5:
                    await self.numbered(client)
                else:
                    await self.register(client, number)
                self.counts["calls"] += 1

    async def increment(self, client: Client[Book], name: str) -> None:
        """Count up one's own counter and that of all, and see that this was once."""
        try:
            with client.timeout(self.dice.choice((0.005, 0.05, 0.5, 120.0))):
                (own, _) = await client.machine.add(name, "all")
        except Unknown as exc:
            if not exc.sent:
                self.counts["not sent"] += 1
                return
            self.counts["asked again"] += 1
            with client.timeout(120):
                (own, _) = await client.outcome(exc)
        self.done[name] += 1
        self.done["all"] += 1
        assert own == self.done[name], f"{name} is {own} after {self.done[name]} increments"

    async def numbered(self, client: Client[Book]) -> None:
        """Make one call twice, from two clients, under a name and number: it counts once."""
        number = next(self.numbers)
        name = f"numbered {number}"

        async def call(client: Client[Book]) -> list[int]:
            with client.timeout(120):
                return await client.session("torture").call(number, client.machine.add, name)

        async with connect(self.members.via, Book(), settings=SETTINGS) as other:
            answers = await asyncio.gather(call(client), call(other))
        assert list(answers) == [[1], [1]], f"call {number} was answered {answers}"
        self.done[name] += 1

    async def register(self, client: Client[Book], number: int) -> None:
        """Make one operation on a register, and note it."""
        key = self.epoch * KEYS + self.dice.randrange(KEYS)
        kind = self.dice.choice((PUT, GET, CAS))
        op = Operation(kind, key, next(self.clock), client=number, value=next(self.values))
        op.expected = self.dice.choice([o.value for o in self.operations[-5:]] or [0])
        self.operations.append(op)
        try:
            with client.timeout(60):
                if kind == GET:
                    op.result = await client.machine.get(key)
                elif kind == PUT:
                    op.result = await client.machine.put(key, op.value)
                else:
                    op.result = await client.machine.cas(key, op.expected, op.value)
        except (Unknown, Unavailable):
            self.counts["without an answer"] += 1
            return
        op.end = next(self.clock)


async def torture(dir: Path, kills: int, seed: int) -> Counter[str]:
    """Kill so many times; return how often what happened."""
    members = Members(dir)
    dice = random.Random(f"{seed} kills")
    load = Load(members, seed)
    try:
        await members.found()
        await members.up()
        clients = [asyncio.ensure_future(load.work(number)) for number in range(CLIENTS)]
        done = 0
        while done < kills:
            await progress(load, clients, dice.randint(5, 60))
            load.epoch += 1
            victims = dice.sample([1, 2, 3], dice.choice((1, 1, 1, 2, 3)))
            for number in victims:
                members.kill(number)
            done += len(victims)
            load.counts["kills"] += len(victims)
            if len(victims) == 1 and dice.random() < 0.5:
                await progress(load, clients, dice.randint(1, 40))
            for number in victims:
                members.start(number)
            if dice.random() < 0.7:
                await members.up()
            if done % 10 < len(victims):
                print(f"{done} kills, {load.counts['calls']} calls", flush=True)
                members.hear()
        await progress(load, clients, 50)
        load.over = True
        await asyncio.wait_for(asyncio.gather(*clients), 180)
        for number in (1, 2, 3):
            members.kill(number)
        for number in (1, 2, 3):
            members.start(number)
        async with connect(members.via, Book(), settings=SETTINGS) as client:
            with client.timeout(120):
                found = await client.machine.all()
        wrong = {name: (found.get(name, 0), n) for name, n in load.done.items() if found.get(name, 0) != n}
        assert not wrong, f"counters that are not what was answered: {wrong}"
        assert set(found) == set(load.done), "increments that nobody made"
        failure = linearizability.check(load.operations)
        assert failure is None, repr(failure)
        members.hear()
        load.counts["increments"] = sum(load.done.values())
        load.counts["operations on registers"] = len(load.operations)
        return load.counts
    finally:
        members.end()


async def progress(load: Load, clients: "Sequence[asyncio.Future[None]]", calls: int) -> None:
    """Wait until so many calls are done."""
    wanted = load.counts["calls"] + calls
    deadline = time.monotonic() + 300
    while load.counts["calls"] < wanted:
        for client in clients:
            if client.done():
                client.result()
        assert time.monotonic() < deadline, f"no progress: {[load.members.said(n)[-1000:] for n in (1, 2, 3)]}"
        await asyncio.sleep(0.005)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with kept_if_failed("torture-nodes-", args.seed) as dir:
        began = time.monotonic()
        counts = asyncio.run(torture(dir, args.kills, args.seed))
    print(f"{dict(counts)} in {time.monotonic() - began:.0f} s: each increment counted once, all answers fit")
    return 0


if __name__ == "__main__":
    sys.exit(main())

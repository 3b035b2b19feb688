"""Queries of nodes in virtual time, under leases and without, among all that could make them wrong: linearizable.

Duty: `history` is one run by seed. On each member a client writes one register and reads it, while leaders are cut off,
hand over and are killed, followers restart at once, messages are slow, and the members' clocks run at rates that differ
as much as `Settings.clock_drift` allows. Each of `MUTATIONS` is a rule of leases left out, and has to be found.
"""

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pyraft import aio
from pyraft.node import Machine, Node, NodeError, Settings, command, query
from pyraft.node.leases import Leases, Restraint, Round
from pyraft.node.testing import Cluster, simulate
from tests.lib import linearizability
from tests.lib.linearizability import GET, PUT, Operation

SEED = int(os.environ.get("READS_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
RUNS = int(os.environ.get("READS_RUNS", "0")) or 4

SETTINGS = Settings(heartbeat_msecs=30, election_timeout_msecs=256, clock_drift=0.05)


class Register(Machine):
    """One number."""

    def __init__(self) -> None:
        self.value = 0

    @command
    def put(self, value: int) -> bool:
        """Set it."""
        self.value = value
        return True

    @query
    def get(self) -> int:
        """Return it."""
        return self.value


class History:
    """The answers that clients saw, and how often queries were answered under a lease."""

    def __init__(self, cluster: Cluster[Register], lease: bool) -> None:
        self.cluster = cluster
        self.lease = lease
        self.operations: list[Operation] = []
        self.counts: Counter[str] = Counter()
        self.clock = itertools.count(1)
        self.values = itertools.count(1)
        self.dice = random.Random(f"{cluster.seed} history")

    async def client(self, number: int, over: "asyncio.Future[None]") -> None:
        """Write and read on one member, whenever it runs."""
        while not over.done():
            node = self.cluster.nodes.get(number)
            if node is not None:
                with node.timeout(0.6), node.read(lease=self.lease):
                    await self.step(node, number)
            await asyncio.sleep(self.dice.uniform(0.0, 0.012))

    async def step(self, node: Node[Register], number: int) -> None:
        """Make one operation, and note it."""
        kind = PUT if self.dice.random() < 0.3 else GET
        op = Operation(kind, client=number, start=next(self.clock), value=next(self.values))
        quick = kind == GET and self.lease and node._leased()
        try:
            op.result = await (node.machine.put(op.value) if kind == PUT else node.machine.get())
        except (NodeError, RuntimeError, aio.RaftError):
            self.counts["without an answer"] += 1
            if kind == GET:
                return
        else:
            op.end = next(self.clock)
            self.counts["under a lease" if quick else "put" if kind == PUT else "by a round"] += 1
        self.operations.append(op)

    async def trouble(self, seconds: float) -> None:
        """Do what could make leases wrong."""
        cluster, dice = self.cluster, self.dice
        end = cluster.now + seconds
        while cluster.now < end:
            await asyncio.sleep(dice.uniform(0.05, 0.7))
            node = cluster.leader
            if node is None:
                cluster.heal()
                continue
            leader = cluster.number_of(node)
            followers = [number for number in cluster.nodes if number != leader]
            kind = dice.choice(("cut off", "cut off", "hand over", "restart", "part", "slow", "heal", "kill"))
            self.counts[kind] += 1
            if kind == "cut off":
                others = dice.sample(followers, len(followers))
                if dice.random() < 0.5 and followers:
                    # One of those who have just answered forgets that.
                    await cluster.kill(others[0])
                    cluster.isolate(leader)
                    await cluster.start(others[0])
                else:
                    cluster.isolate(leader)
                await asyncio.sleep(dice.uniform(0.2, 1.0))
                cluster.heal()
            elif kind == "hand over":
                transfer = asyncio.ensure_future(node.transfer(dice.choice([0, *followers])))
                await asyncio.sleep(dice.uniform(0.0, 0.02))
                if dice.random() < 0.5:
                    cluster.cut(leader, dice.choice([1, 2, 3]))
                await asyncio.wait([transfer])
                transfer.exception()
                cluster.heal()
            elif kind == "part" and followers:
                cluster.cut(leader, dice.choice(followers))
            elif kind == "slow":
                cluster.slow(dice.choice((0.003, 0.02, 0.08)))
            elif kind == "heal":
                cluster.heal()
            elif kind in ("restart", "kill") and len(followers) == 2:
                number = dice.choice(followers if kind == "restart" else [leader])
                await cluster.kill(number)
                await asyncio.sleep(dice.uniform(0.0, 0.1))
                await cluster.start(number)
        await cluster.recover()


def history(seed: int, lease: bool, seconds: float = 12.0) -> History:
    """Make a history in a world of its own."""
    made: list[History] = []

    async def scenario(cluster: Cluster[Register]) -> None:
        found = History(cluster, lease)
        made.append(found)
        slow = found.dice.sample((1.0, 1.0, 1.05), 3)
        for number in (1, 2, 3):
            cluster.clock(number, rate=slow[number - 1])
            await cluster.restart(number)
        over: asyncio.Future[None] = asyncio.ensure_future(found.trouble(seconds))
        await asyncio.gather(over, *(found.client(number, over) for number in (1, 2, 3)))

    simulate(scenario, Register, seed=seed, settings=SETTINGS, seconds=300.0)
    return made[0]


@pytest.mark.parametrize("lease", [True, False])
def test_queries_are_linearizable(lease: bool) -> None:
    """Under all faults, no query sees less than was acknowledged before it; under leases most make no round."""
    counts: Counter[str] = Counter()
    for n in range(RUNS):
        found = history(SEED + n, lease)
        failure = linearizability.check(found.operations)
        assert failure is None, f"READS_SEED={SEED + n} READS_RUNS=1: {failure}"
        counts += found.counts
    print(f"READS_SEED={SEED}: {dict(counts)}")
    assert counts["put"] > 100
    assert (counts["under a lease"] > counts["by a round"] / 4) == lease


def _no_round(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "left", 1.0)


def _from_the_end(patch: pytest.MonkeyPatch) -> None:
    end = Leases.end

    def ended(self: Any, round: Round) -> None:
        round.began = self._now()
        end(self, round)

    patch.setattr(Leases, "end", ended)


def _kept_in_transfer(patch: pytest.MonkeyPatch) -> None:
    def stands(self: Any, round: Round) -> bool:
        return self._raft.leader_state is round.leadership and round.leadership is not None

    patch.setattr(Leases, "_stands", stands)


def _restarts_forget(patch: pytest.MonkeyPatch) -> None:
    make = Restraint.__init__

    def made(self: Any, *args: Any) -> None:
        make(self, *args)
        self._heard = -1000.0

    patch.setattr(Restraint, "__init__", made)


def _without_restraint(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Restraint, "is_bound", lambda self: False)


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no round": _no_round,
    "from the end of the round": _from_the_end,
    "kept in a transfer": _kept_in_transfer,
    "restarts forget": _restarts_forget,
    "no restraint": _without_restraint,
}


FOUND_BY = {"no round": 1}
"""Seeds that show a mutation."""


def seeds_needed(name: str, most: int, first: int = 1) -> int:
    """Return how many histories it takes to find a mutation; 0 if `most` do not."""
    for n in range(most):
        with pytest.MonkeyPatch.context() as patch:
            MUTATIONS[name](patch)
            found = history(first + n, True)
        if linearizability.check(found.operations) is not None:
            return n + 1
    return 0


@pytest.mark.parametrize("name", FOUND_BY)
def test_mutations_are_found(name: str) -> None:
    """Leases with a rule left out give histories that are not linearizable; unit/node/test_leases.py has the rest."""
    assert seeds_needed(name, 1, FOUND_BY[name]) == 1


@pytest.mark.parametrize("seed", [103, 117, 120])
def test_members_that_lead_in_turns_do_not_wait_for_each_other(seed: int) -> None:
    """A member that does not lead any more does not ask the next leader what that one asks it: both waited."""
    assert linearizability.check(history(seed, bool(seed % 2)).operations) is None


if __name__ == "__main__":
    import sys

    for name in sys.argv[2:] or MUTATIONS:
        print(name, seeds_needed(name, int(sys.argv[1])), flush=True)

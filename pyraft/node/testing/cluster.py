"""A cluster of nodes with one's machine in virtual time, with faults by seed.

Duty: `simulate` runs a scenario, a coroutine function that gets the `Cluster`, on a loop of its own. All that is chance
comes from one seed, so that a run is the same each time.

    def test_stock_survives_a_partition():
        async def scenario(cluster):
            await cluster.nodes[1].machine.put("apple", 3)
            cluster.partition([1], [2, 3])
            ...
            cluster.heal()

        simulate(scenario, Shop)

Happy path: as above; in the end the cluster is healed, all members are started, and their machines have to be equal.

Failure modes: an exception of the scenario is raised, with the seed on standard error; Standstill if it waits for ever.
Members whose machines differ are an AssertionError: a command was not deterministic. Programs that are looked at must
leave clocks, chance, orders of sets and threads alone, else a seed does not repeat them.
"""

import asyncio
import inspect
import random
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from pyraft import RAFT_VOTER, RaftConfiguration, configuration, raft_configuration_add
from pyraft.node.client import Client, connect
from pyraft.node.errors import NodeError
from pyraft.node.identity import JOINED, MEMBER, Identity
from pyraft.node.machine import Machine
from pyraft.node.node import Node
from pyraft.node.settings import Settings
from pyraft.node.testing.compare import difference, state
from pyraft.node.testing.network import Network
from pyraft.node.testing.place import Place
from pyraft.node.testing.timeline import Timeline
from pyraft.types import RAFT_CHANGE

M = TypeVar("M", bound=Machine)

CLIENTS: Final = 0
"""The number under which `partition` and `isolate` know clients."""

_FAULTS: Final = ("kill", "stop", "start", "start", "partition", "isolate", "heal", "heal", "disk", "lose")
_CLUSTER: Final = "5" * 32
_QUIET: Final = 60.0
"""Virtual seconds that members may need to become equal once all faults are over."""


class Cluster(Generic[M]):
    """The members of a simulation, by number from 1, and what a scenario does to them."""

    def __init__(self, machine: Callable[[], M], nodes: int, seed: int, settings: Settings, loop: Timeline) -> None:
        self.seed = seed
        self.random = random.Random(f"{seed} scenario")
        """For the scenario's own chance."""
        self.nodes: dict[int, Node[M]] = {}
        """Those that run."""
        self.network = Network(loop, random.Random(f"{seed} network"))
        self.story: list[str] = []
        """The acts on the cluster, a line each, with its virtual time."""
        self.places: dict[int, Place] = {}
        self._machine = machine
        self._settings = settings
        self._loop = loop
        for number in range(nodes + 1):
            self._new_place(number)
        self._bootstrap(nodes)

    # Members.

    @property
    def now(self) -> float:
        """The virtual time, in seconds since the beginning."""
        return self._loop.time()

    @property
    def leader(self) -> Node[M] | None:
        """The member that leads; of several that believe it the one of the latest term."""
        leaders = [node for node in self.nodes.values() if node.is_leader]
        return max(leaders, key=lambda node: node.server.raft.current_term, default=None)

    def number_of(self, node: Node[M]) -> int:
        """Return the number of a member that runs."""
        return next(number for number, other in self.nodes.items() if other is node)

    async def lead(self) -> Node[M]:
        """Wait until a member leads that a majority follows; return it."""
        while True:
            node = self.leader
            if node is not None:
                try:
                    await node.ready()
                    return node
                except NodeError:
                    pass
            await asyncio.sleep(0.01)

    async def start(self, number: int, machine: Callable[[], M] | None = None) -> Node[M]:
        """Start a member that does not run, with another machine if one is given: the next version of a program's."""
        place = self.places[number]
        node = Node(f"member{number}", (machine or self._machine)(), settings=self._settings)
        node.outside = place
        await node.__aenter__()
        self.nodes[number] = node
        self.tell(f"start {number}")
        return node

    async def stop(self, number: int) -> None:
        """Close a member properly."""
        self.tell(f"stop {number}")
        await self.nodes.pop(number).close()

    async def kill(self, number: int) -> None:
        """End a member without a word, as kill -9 and a power cut do; data that was not on its disk yet is lost."""
        self.tell(f"kill {number}")
        node = self.nodes.pop(number)
        life = self.places[number].life
        assert life is not None
        life.kill()
        await node._close()

    async def restart(self, number: int) -> Node[M]:
        """Stop a member and start it again."""
        await self.stop(number)
        return await self.start(number)

    async def add(self) -> Node[M]:
        """Have one more member join, and start it; it catches up by and by."""
        number = max(self.places) + 1
        place = self._new_place(number)
        via = await self.lead()
        id, address = number, place.address
        cluster, members = await via._errand("join", id, address)
        place.disk.identity = Identity(id, address, cluster, JOINED, tuple(members))
        return await self.start(number)

    def client(self, machine: M | None = None) -> Client[M]:
        """Return a client, for `async with`."""
        addresses = [place.address for number, place in self.places.items() if number != CLIENTS]
        client = connect(addresses, machine or self._machine(), settings=self._settings)
        client.outside = self.places[CLIENTS]
        return client

    # Faults.

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut the network between groups of members. Those that are in no group, and clients, reach all."""
        sets = [frozenset(group) for group in groups]
        self.tell("partition " + " | ".join(",".join(map(str, sorted(group))) for group in sets))
        for one in sets:
            for other in sets:
                if one is not other:
                    self.network.cut |= {(a, b) for a in one for b in other}

    def isolate(self, number: int) -> None:
        """Cut a member off from all others, and from clients."""
        self.partition([number], [other for other in self.places if other != number])

    def cut(self, source: int, target: int) -> None:
        """Have nothing get from one place to the other; the way back stays."""
        self.tell(f"cut {source} > {target}")
        self.network.cut.add((source, target))

    def heal(self) -> None:
        """End all cuts of the network."""
        self.tell("heal")
        self.network.heal()

    def lose(self, share: float) -> None:
        """Have so many of raft's messages vanish, from 0 to 1."""
        self.network.loss = share

    def slow(self, seconds: float) -> None:
        """Have each message take up to `seconds`."""
        self.network.slowest = seconds

    def slow_disk(self, number: int, seconds: float) -> None:
        """Have each write of a member take up to `seconds`."""
        self.places[number].disk_seconds = (0.0002, seconds)

    def clock(self, number: int, rate: float = 1.0, ahead: float = 0.0) -> None:
        """Have a member's clocks run at another speed, from its next start on, and its time of day be off."""
        self.tell(f"clock {number}: {rate} {ahead:+}")
        self.places[number].rate, self.places[number].ahead = rate, ahead

    async def faults(self, seconds: float) -> None:
        """Have members killed, stopped, cut off, slow and without some messages, at random, for so long; then heal."""
        dice = random.Random(f"{self.seed} faults")
        end = self.now + seconds
        while self.now < end:
            await asyncio.sleep(dice.uniform(0.05, 1.5))
            kind = dice.choice(_FAULTS)
            await self._fault(kind, dice)
        await self.recover()

    async def _fault(self, kind: str, dice: random.Random) -> None:
        up, members = sorted(self.nodes), sorted(number for number in self.places if number != CLIENTS)
        if kind in ("kill", "stop") and up:
            await (self.kill if kind == "kill" else self.stop)(dice.choice(up))
        elif kind == "start" and len(up) < len(members):
            await self.start(dice.choice([number for number in members if number not in up]))
        elif kind == "partition":
            side = dice.sample(members, dice.randint(1, max(1, len(members) // 2)))
            self.partition(side, [number for number in members if number not in side])
        elif kind == "isolate":
            self.isolate(dice.choice(members))
        elif kind == "disk":
            self.slow_disk(dice.choice(members), dice.choice((0.002, 0.05, 0.3)))
        elif kind == "lose":
            self.lose(dice.choice((0.0, 0.05, 0.2)))
        elif kind == "heal":
            self.heal()

    async def recover(self) -> None:
        """End all faults, and start all members that do not run."""
        self.heal()
        self.lose(0.0)
        for number, place in self.places.items():
            place.disk_seconds = (0.0002, 0.002)
            if number != CLIENTS and number not in self.nodes and place.disk.identity is not None:
                await self.start(number)

    # Conditions.

    async def until(self, test: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait, in virtual time, until `test()` is true; TimeoutError if it is not in so long."""
        end = self.now + seconds
        while not test():
            if self.now > end:
                raise TimeoutError(f"not true after {seconds} s of virtual time: {test}")
            await asyncio.sleep(0.005)

    async def check(self) -> None:
        """Wait until all members that run have applied the same, and see that their machines are equal."""
        leader = await self.lead()

        def equal() -> bool:
            raft = leader.server.raft
            return all(node.server.raft.last_applied == raft.commit_index for node in self.nodes.values())

        await self.until(equal, _QUIET)
        number = self.number_of(leader)
        expected = state(leader._replica)
        for other, node in self.nodes.items():
            found = difference(expected, state(node._replica))
            assert not found, f"members {number} and {other} differ after the same commands: {found}"

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.now:10.4f} {what}")
        self.network.note(what)

    # Below: how it begins.

    def _new_place(self, number: int) -> Place:
        place = self.places[number] = Place(self.network, number, f"{self.seed}", self._where)
        return place

    def _where(self, address: str) -> Place | None:
        return next((place for place in self.places.values() if place.address == address), None)

    def _bootstrap(self, nodes: int) -> None:
        conf = RaftConfiguration()
        for number in range(1, nodes + 1):
            assert raft_configuration_add(conf, number, self.places[number].address, RAFT_VOTER) == 0
        members = tuple(self.places[number].address for number in range(1, nodes + 1))
        for number in range(1, nodes + 1):
            disk = self.places[number].disk
            disk.term = 1
            disk.entries = [(1, RAFT_CHANGE, configuration.encode(conf))]
            disk.identity = Identity(number, self.places[number].address, _CLUSTER, MEMBER, members)


def simulate(
    scenario: Callable[[Cluster[M]], Awaitable[Any]],
    machine: Callable[[], M],
    *,
    nodes: int = 3,
    seed: int | None = None,
    settings: Settings | None = None,
    seconds: float = 3600.0,
    check: bool = True,
) -> Cluster[M]:
    """Run `scenario(cluster)` on a cluster of `nodes` members in virtual time; return the cluster, which is over.

    `machine()` makes a member's machine. Without a `seed` one is drawn, and told where the scenario fails. `seconds` of
    virtual time are the end. `check` has all members recover in the end and compares their machines.
    """
    if not callable(machine):
        raise TypeError(f"simulate() takes what makes a machine, as its class, and not {machine!r:.60}")
    if not callable(scenario) or isinstance(scenario, type):
        if inspect.iscoroutine(scenario):
            scenario.close()  # nobody awaits it
        raise TypeError(f"simulate() takes a coroutine function, async def scenario(cluster), and not {scenario!r:.60}")
    if type(nodes) is not int or nodes < 1:
        raise ValueError(f"the nodes of a simulation must be a whole number from 1, not {nodes!r:.60}")
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    loop = Timeline()
    loop.set_end(seconds)
    cluster = Cluster(machine, nodes, seed, settings or Settings(), loop)

    async def main() -> None:
        for number in range(1, nodes + 1):
            await cluster.start(number)
        try:
            made = scenario(cluster)
            if not inspect.isawaitable(made):
                raise TypeError(f"simulate() takes a coroutine function, and this one has returned {made!r:.60}")
            await made
            if check:
                await cluster.recover()
                await cluster.check()
        finally:
            for number in sorted(cluster.nodes, key=lambda number: cluster.nodes[number].is_leader):
                await cluster.nodes.pop(number)._close()

    try:
        loop.run_until_complete(main())
    except BaseException:
        sys.stderr.write(f"simulate(…, nodes={nodes}, seed={seed}) repeats this; what was done:\n")
        sys.stderr.writelines(f"  {line}\n" for line in cluster.story)
        raise
    finally:
        _end(loop)
    return cluster


def _end(loop: Timeline) -> None:
    """Cancel what is left, as asyncio.run does."""
    loop.set_end(float("inf"))
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()

"""pyraft.node.testing itself: virtual time, faults that replay, and what is not deterministic is found."""

import asyncio
import datetime
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from pyraft.node import Machine, Settings, Stopped, Unknown, command
from pyraft.node.replica import Replica
from pyraft.node.testing import CLIENTS, Cluster, Standstill, Timeline, call, check_deterministic, simulate
from pyraft.node.testing.compare import difference, state
from tests.lib.nodes import Shop
from tests.lib.unfair import Chance, Clock, Fair, Hidden, Packed, Parcel, Unsorted, Zone

Scenario = Callable[[Cluster[Shop]], Awaitable[None]]


def test_partition_in_milliseconds_of_real_time() -> None:
    """Cut off, the old leader answers nothing and the others go on; healed, it has what they did."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        old = await cluster.lead()
        number = cluster.number_of(old)
        assert await old.machine.put("apple") == 1
        cluster.partition([number], [other for other in (1, 2, 3) if other != number])
        others = [node for node in cluster.nodes.values() if node is not old]
        with old.timeout(30):
            late = asyncio.ensure_future(old.machine.put("apple"))
        assert await others[0].machine.put("apple") == 2
        assert cluster.leader in others
        with pytest.raises(Unknown) as caught:
            await late
        cluster.heal()
        assert await old.outcome(caught.value) == 3
        assert await others[1].machine.left("apple") == 3
        assert cluster.now > 30

    began = time.process_time()
    simulate(scenario, Shop)
    assert time.process_time() - began < 20  # of which most is that of a busy machine: one takes 150 ms


async def busy(cluster: Cluster[Shop], least: int = 0) -> None:
    """Have all members and a client put things into the shop while there are faults; each counts once."""
    done = [0] * 4

    async def load(number: int) -> None:
        while not faults.done():
            node = cluster.nodes.get(number)
            if node is None:
                await asyncio.sleep(0.05)
                continue
            try:
                with node.timeout(120):
                    done[number] = await node.machine.put(f"item {number}")
            except Stopped:
                done[number] = -1 << 30  # nobody knows

    async def client() -> None:
        async with cluster.client() as client:
            while not faults.done():
                with client.timeout(120):
                    assert await client.machine.put("item 0") == done[0] + 1
                done[0] += 1

    faults = asyncio.ensure_future(cluster.faults(20))
    await asyncio.gather(faults, client(), *(load(number) for number in (1, 2, 3)))
    node = await cluster.lead()
    found = await node.machine.all()
    assert found.get("item 0", 0) == done[0] >= least
    assert all(found.get(f"item {number}", 0) == done[number] for number in (1, 2, 3) if done[number] >= 0)


@pytest.mark.parametrize("seed", [None, 11, 12])
def test_calls_count_once_under_faults(seed: int | None) -> None:
    """While members are killed, stopped, cut off and slow, acknowledged calls count once, and all members are equal."""
    # A seed of chance may leave no majority for most of the time.
    scenario = busy if seed is None else partial(busy, least=10)
    cluster = simulate(scenario, Shop, seed=seed, settings=Settings(snapshot_entries=30, trailing_entries=10))
    kinds = {line.split()[1] for line in cluster.story}
    assert len(kinds & {"kill", "stop", "partition", "heal", "start"}) >= 3


def test_a_seed_replays_in_another_process() -> None:
    """The same seed gives the same run to the last message, under any hash seed; another one does not."""
    program = "from tests.unit.node.test_testing import replay; import sys; replay(int(sys.argv[1]))"
    found = []
    for seed, hashes in ((5, "1"), (5, "77"), (6, "1")):
        command = [sys.executable, "-c", program, str(seed)]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert found[0] != found[2]


def replay(seed: int) -> None:
    """Print what a run comes to."""
    cluster = simulate(busy, Shop, seed=seed)
    print(json.dumps([cluster.network.digest(), cluster.story]))


def test_failures_tell_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """A scenario that fails says by which seed it did and what was done; so does one that stands still."""

    async def wrong(cluster: Cluster[Shop]) -> None:
        cluster.isolate(2)
        raise ValueError("wrong")

    async def still(cluster: Cluster[Shop]) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ValueError, match="wrong"):
        simulate(wrong, Shop, seed=77)
    told = capsys.readouterr().err
    assert "seed=77" in told
    assert "partition 2 | 0,1,3" in told
    with pytest.raises(Standstill, match=r"50\.000 s of virtual time are over"):
        simulate(still, Shop, seconds=50)


def test_what_was_not_durable_is_lost_with_the_power() -> None:
    """A member whose disk is slow loses in a kill what it had not stored; with all of them, unacknowledged calls go."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        assert await node.machine.put("apple") == 1
        for number in (1, 2, 3):
            cluster.places[number].disk_seconds = (5.0, 5.0)
        call = asyncio.ensure_future(node.machine.put("apple", 10))
        await asyncio.sleep(1)
        for number in (1, 2, 3):
            dice, cluster.places[number].dice = cluster.places[number].dice, Least()  # nothing more gets onto the disk
            await cluster.kill(number)
            cluster.places[number].dice = dice
        with pytest.raises(Stopped):
            await call
        await cluster.recover()
        lost.append(await (await cluster.lead()).machine.left("apple"))

    lost: list[int] = []
    simulate(scenario, Shop)
    assert lost == [1]


class Least(random.Random):
    """Draws the smallest number there is."""

    def randint(self, a: int, b: int) -> int:
        return a


def test_members_join_and_clocks_are_their_own() -> None:
    """A member joins and becomes a voter; the shared time follows the leader's clock, and never goes back."""

    async def scenario(cluster: Cluster[Dated]) -> None:
        await cluster.lead()
        four = await cluster.add()
        await cluster.until(lambda: [s.role for s in four.server.raft.configuration.servers] == [1] * 4)
        first = await four.machine.date()
        for number, ahead in ((1, 1000.0), (2, -1000.0), (3, 5.0), (4, 0.0)):
            cluster.clock(number, ahead=ahead)
        previous = first
        for number in (2, 1, 3, 4, 2):  # a clock that is set counts from the next leadership on, so 1 has to begin one
            await (await cluster.lead()).transfer(number)
            now = await four.machine.date()
            assert now >= previous
            previous = now
        assert previous - first >= datetime.timedelta(seconds=990)

    simulate(scenario, Dated)


def test_one_way_cuts_and_half_open_connections() -> None:
    """A leader that is not heard is followed by another; a client whose connection is cut finds the way again."""

    async def scenario(cluster: Cluster[Shop]) -> None:
        old = await cluster.lead()
        number = cluster.number_of(old)
        async with cluster.client() as client:
            assert await client.machine.put("apple") == 1
            for other in (CLIENTS, 1, 2, 3):
                if other != number:
                    cluster.cut(number, other)
            with client.timeout(60):
                assert await client.machine.put("apple") == 2
            assert cluster.leader is not old

    simulate(scenario, Shop)


def test_timeline_is_a_loop() -> None:
    """Timers fire in their order at their times, threads' work is done, and nothing to wait for is an error."""
    loop = Timeline()

    async def main() -> list[Any]:
        found: list[Any] = []
        loop.call_later(1000, found.append, "late")
        loop.call_later(1, found.append, "early")
        found.append(await loop.run_in_executor(None, sum, [1, 2]))
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        await asyncio.sleep(2000)
        return [*found, loop.time()]

    assert loop.run_until_complete(main()) == [3, "early", "late", 2000.0]
    with pytest.raises(Standstill, match="nothing can happen"):
        loop.run_until_complete(asyncio.Event().wait())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


class Dated(Machine):
    """Returns the shared time."""

    def __init__(self) -> None:
        self.dates = 0

    @command
    def date(self) -> datetime.datetime:
        """Return it."""
        self.dates += 1
        return self.now


SCRIPT = [call("add", text) for text in ("plum", "apple", "pear", "fig", "grape", "lemon")]


def test_deterministic_machines_pass() -> None:
    """A machine that uses only what all members share passes, exceptions included."""
    check_deterministic(Fair, [*SCRIPT, call("fail")])
    check_deterministic(Shop, [call("put", "apple", n=3), call("take", "apple"), call("take", "pear")])
    check_deterministic(Packed, [call("wrap", Parcel("apple")), call("wrap", parcel=Parcel("pear"))])


def test_no_warning_in_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where warnings are errors, they are in the processes that execute the commands, and there are none."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    check_deterministic(Fair, SCRIPT[:2])


@pytest.mark.parametrize("machine", [Clock, Zone, Chance, Unsorted, Hidden])
def test_machines_that_differ_are_found(machine: Callable[[], Machine]) -> None:
    """Clock, time zone, chance, order of sets and state outside of the snapshot: each is found, with its command."""
    with pytest.raises(AssertionError, match=r"command \d, add\('\w+'\), is not deterministic"):
        check_deterministic(machine, SCRIPT)


def test_determinism_is_asked_of_machines_that_can_be_imported() -> None:
    """A machine of a function's own, an unknown command and one that fails to be made say what is wrong."""

    class Local(Fair):
        pass

    with pytest.raises(ValueError, match="put it into a module"):
        check_deterministic(Local, SCRIPT)
    with pytest.raises(AssertionError, match="no command 'steal'"):
        check_deterministic(Fair, [call("steal")])
    with pytest.raises(TypeError, match="type Parcel cannot be packed"):
        check_deterministic(Fair, [call("add", Parcel("apple"))])


def test_members_that_differ_fail_the_simulation() -> None:
    """A machine that draws its own numbers is noticed at the end of any scenario that calls it."""

    async def scenario(cluster: Cluster[Drawn]) -> None:
        await cluster.nodes[1].machine.draw()

    with pytest.raises(AssertionError, match="differ after the same commands"):
        simulate(scenario, Drawn)


class Drawn(Machine):
    """Keeps what it draws by itself."""

    def __init__(self) -> None:
        self.number = 0.0

    @command
    def draw(self) -> None:
        """Draw a number."""
        self.number = random.random()


def test_differences_are_told() -> None:
    """Values, orders of keys, types and lengths that differ are named with their place; sets have no order."""
    one, other = Replica({"": Fair()}), Replica({"": Fair()})
    assert difference(state(one), state(other)) == ""
    other.microseconds = 1
    assert difference(state(one), state(other)) == "shared time is 0 and 1"
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a[1].b is 2 and 3"
    assert "different orders" in difference({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}})
    assert difference({"a": 1}, {"a": True}) == "a is 1 and True"
    assert difference({"a": [1]}, {"a": [1, 2]}) == "a is [1] and [1, 2]"
    assert difference(float("nan"), float("nan")) == ""
    assert "…" in difference("x" * 500, "y")

"""Real clusters on a network that breaks: servers in network namespaces, links cut, one-way, flapping and reset.

Every test loads the cluster with writes, reads and compare-and-sets of several clients while a link is broken, and
checks that the history is linearizable, that the registers of all servers are equal afterwards, and how long the
cluster answered nobody. RAFT_NETWORK_SECONDS makes each test last longer (`make networks`).
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyraft import RAFT_LEADER
from tests.lib import netlab
from tests.lib.register_load import OUTAGE, Run

SECONDS = float(os.environ.get("RAFT_NETWORK_SECONDS", "2"))
"""How long each fault lasts."""
SEED = int(os.environ.get("RAFT_NETWORK_SEED", "0")) or random.SystemRandom().randrange(1 << 32)

MakeRun = Callable[[int], Run[netlab.Lab]]

reason = netlab.why_not()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """Return a maker of runs, with a leader and under load."""
    runs: list[Run[netlab.Lab]] = []

    def make(n: int) -> Run[netlab.Lab]:
        print(f"seed {SEED}: RAFT_NETWORK_SEED={SEED} repeats the choices")
        run = Run(netlab.Lab(tmp_path, n), random.Random(SEED))
        runs.append(run)
        run.until("all servers", lambda: len(run.ready) == n, 30)
        run.leader()
        run.answers()
        run.longest_outage = 0.0
        return run

    yield make
    for run in runs:
        run.lab.close()


def test_an_isolated_leader_is_replaced(make_run: MakeRun) -> None:
    """The others elect a leader and answer clients; the old one steps down, commits nothing, and comes back.

    Often there are two leaders for some tenths of a second: what the old one is asked then shows a read that does not
    ask the others.
    """
    run = make_run(3)
    for _ in range(5):
        old = run.leader()
        run.lab.isolate(old)
        run.question(old)
        run.until("another leader", lambda old=old: run.leader() != old, OUTAGE + 20)
        run.until("the old leader to step down", lambda old=old: run.statuses[old].state != RAFT_LEADER, OUTAGE)
        run.question(0)
        run.answers()
        run.lab.heal_all()
    run.load(SECONDS)
    assert run.longest_outage < OUTAGE
    run.check(run.recover())


def test_an_isolated_follower_disturbs_nobody(make_run: MakeRun) -> None:
    """Pre-vote (9.6) keeps its term where it is, so that it deposes nobody when it comes back."""
    run = make_run(3)
    leader = run.leader()
    before = run.statuses[leader].term
    follower = next(id for id in run.members if id != leader)
    run.lab.isolate(follower)
    run.load(SECONDS + 2)
    recovery = run.recover()
    assert set(run.terms().values()) == {before}
    assert run.longest_outage < 2
    run.check(recovery)


@pytest.mark.parametrize("direction", ["from the leader", "to the leader"])
def test_a_one_way_link_to_a_follower_harms_only_it(make_run: MakeRun, direction: str) -> None:
    """A follower that hears nothing, or is not heard, neither stops nor deposes the others."""
    run = make_run(3)
    leader = run.leader()
    before = run.statuses[leader].term
    follower = next(id for id in run.members if id != leader)
    if direction == "from the leader":
        run.lab.cut(leader, follower)
    else:
        run.lab.cut(follower, leader)
    run.load(SECONDS + 2)
    assert run.longest_outage < 2
    recovery = run.recover()
    assert set(run.terms().values()) == {before}
    run.check(recovery)


def test_a_deaf_leader_steps_down(make_run: MakeRun) -> None:
    """A leader that is heard but hears nobody would keep the others quiet for ever; without answers it steps down."""
    run = make_run(3)
    leader = run.leader()
    for other in run.members:
        if other != leader:
            run.lab.cut(other, leader)
    run.until("another leader", lambda: run.leader() != leader, OUTAGE + 20)
    run.load(SECONDS)
    assert run.longest_outage < OUTAGE + 2
    run.check(run.recover())


def test_a_bridge_between_two_halves(make_run: MakeRun) -> None:
    """Of five servers two pairs cannot talk to each other, and the fifth talks to both: there is always a majority."""
    run = make_run(5)
    bridge = run.leader()
    left, right = [id for id in run.members if id != bridge][:2], [id for id in run.members if id != bridge][2:]
    for one in left:
        for two in right:
            run.lab.cut_both(one, two)
    run.load(SECONDS + 2)
    assert run.longest_outage < OUTAGE
    # The same with a leader who is on one side.
    run.lab.heal_all()
    run.answers()
    sides = [id for id in run.members if id != run.leader()]
    leader = run.leader()
    bridge = sides.pop()
    left, right = [leader, sides.pop()], sides
    run.longest_outage = 0.0
    for one in left:
        for two in right:
            run.lab.cut_both(one, two)
    run.load(SECONDS + 2)
    assert run.longest_outage < OUTAGE
    run.check(run.recover())


def test_a_flapping_link(make_run: MakeRun) -> None:
    """A link of the leader that comes and goes several times a second does not stop the cluster."""
    run = make_run(3)
    leader = run.leader()
    follower = next(id for id in run.members if id != leader)
    end = time.monotonic() + SECONDS + 2
    while time.monotonic() < end:
        run.lab.cut_both(leader, follower)
        run.load(run.random.uniform(0.05, 0.5))
        run.lab.heal_all()
        run.load(run.random.uniform(0.05, 0.5))
    assert run.longest_outage < OUTAGE
    run.check(run.recover())


def test_cuts_at_random(make_run: MakeRun) -> None:
    """Any directions of any links, other ones every moment: slow perhaps, wrong never."""
    run = make_run(5)
    end = time.monotonic() + 2 * SECONDS
    while time.monotonic() < end:
        for _ in range(run.random.randrange(1, 8)):
            one, two = run.random.sample(run.members, 2)
            run.lab.cut(one, two)
        run.load(run.random.uniform(0.1, 1.5))
        for cut in run.random.sample(sorted(run.lab.cuts), run.random.randrange(len(run.lab.cuts) + 1)):
            run.lab.heal(*cut)
    run.check(run.recover())


@pytest.mark.skipif(bool(netlab.why_not(resets=True)), reason=netlab.why_not(resets=True) or "-")
def test_connections_that_are_reset(make_run: MakeRun) -> None:
    """Resets instead of silence: the leader's connections break at once, for a while, again and again."""
    run = make_run(3)
    for _ in range(3):
        leader = run.leader()
        run.lab.reset(leader)
        run.load(max(SECONDS / 3, 1))
        run.lab.heal_all()
        run.answers()
    assert run.longest_outage < OUTAGE
    run.check(run.recover())


@pytest.mark.skipif(SECONDS < 20, reason="lasts half a minute: make networks")
def test_half_open_connections_end(make_run: MakeRun) -> None:
    """Connections to and from a server that vanished without a word are gone half a minute later, on both sides."""
    run = make_run(3)
    leader = run.leader()
    gone = next(id for id in run.members if id != leader)
    assert run.lab.connections(leader, gone) >= 1
    run.lab.isolate(gone)
    run.until("no connection", lambda: run.lab.connections(leader, gone) == 0, 40)
    run.until("no connection there", lambda: run.lab.connections(gone, leader) == 0, 40)
    run.check(run.recover())

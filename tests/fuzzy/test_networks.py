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
from tests.lib import linearizability, netlab
from tests.lib.linearizability import CAS, GET, PUT, Operation

SECONDS = float(os.environ.get("RAFT_NETWORK_SECONDS", "2"))
"""How long each fault lasts."""
SEED = int(os.environ.get("RAFT_NETWORK_SEED", "0")) or random.SystemRandom().randrange(1 << 32)

CLIENTS = 6
KEYS = 4
PATIENCE = 2.0
"""Seconds after which a client gives an answer up and goes on as another client."""
WORDS = {PUT: "write", GET: "read", CAS: "cas"}

OUTAGE = 6.0
"""Seconds within which a majority that can talk to each other answers clients again. An election takes one or two."""
RECOVERY = 15.0
"""Seconds after the last fault within which all servers have caught up: a connection that got no answers for ten
seconds is given up, an attempt to connect lasts five, and the pause between attempts is one."""

reason = netlab.why_not()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)


class Status:
    """What a server has said about itself."""

    def __init__(self, numbers: list[int], at: float) -> None:
        self.state, self.term, self.leader, self.last, self.commit, self.applied, self.digest = numbers
        self.at = at


class Client:
    """Submits one operation at a time."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.operation: Operation | None = None
        self.request = 0
        self.since = 0.0
        self.pause = 0.0


class Run:
    """A lab under load."""

    def __init__(self, dir: Path, n: int) -> None:
        print(f"seed {SEED}: RAFT_NETWORK_SEED={SEED} repeats the choices")
        self.random = random.Random(SEED)
        self.lab = netlab.Lab(dir, n)
        self.members = list(self.lab.members)
        self.history: list[Operation] = []
        self.clients = [Client(i) for i in range(CLIENTS)]
        self.requests: dict[int, tuple[Client, Operation]] = {}
        self.statuses: dict[int, Status] = {}
        self.ready: set[int] = set()
        self.numbers = 0
        self.answered = 0
        self.last_answer = time.monotonic()
        self.longest_outage = 0.0
        self.asked = 0.0
        self.loaded = True
        self.favourite = 1

    def tick(self) -> int:
        """Return the next number of everything that is counted: moments, requests and values."""
        self.numbers += 1
        return self.numbers

    def step(self) -> None:
        """Submit what is due and take what has been said."""
        now = time.monotonic()
        if now - self.asked > 0.1:
            self.asked = now
            for id in self.ready:
                self.lab.members[id].tell("status")
        for client in self.clients:
            if client.operation is not None and now - client.since > PATIENCE:
                # Its operation stays open in the history: it may still take effect.
                self.requests.pop(client.request)
                client.operation = None
                client.id = self.tick()
            if client.operation is None and self.loaded and now >= client.pause and self.ready:
                self._submit(client, now)
        for id, words in self.lab.poll(0.01):
            self._heard(id, words)

    def _submit(self, client: Client, now: float) -> None:
        op = Operation()
        op.client = client.id
        op.key = self.random.randrange(KEYS)
        op.kind = self.random.choice((PUT, GET, CAS))
        op.value = self.tick() if op.kind != GET else 0
        op.expected = self._recent_value(op.key) if op.kind == CAS else 0
        client.operation, client.request, client.since = op, self.tick(), now
        self.requests[client.request] = (client, op)
        values = {PUT: f" {op.value}", GET: "", CAS: f" {op.expected} {op.value}"}[op.kind]
        op.start = self.tick()
        self.history.append(op)
        self.lab.members[self._target()].tell(f"{WORDS[op.kind]} {client.request} {op.key}{values}")

    def _recent_value(self, key: int) -> int:
        for op in reversed(self.history[-20:]):
            if op.key == key and op.end != linearizability.OPEN and op.kind != CAS:
                return int(op.result) if op.kind == GET else op.value
        return 0

    def _target(self) -> int:
        """Return whom to ask: mostly somebody who says that it leads, of whom there may be several for a moment."""
        leaders = [id for id, status in self.statuses.items() if status.state == RAFT_LEADER]
        if leaders and self.random.random() < 0.9:
            return self.random.choice(leaders)
        return self.random.choice(sorted(self.ready))

    def _heard(self, id: int, words: list[str]) -> None:
        what, *numbers = words
        if what == "ready":
            self.ready.add(id)
        elif what == "status":
            self.statuses[id] = Status([int(number) for number in numbers], time.monotonic())
        elif int(numbers[0]) in self.requests:
            client, op = self.requests.pop(int(numbers[0]))
            client.operation = None
            if what == "ok":
                self._answer(op, int(numbers[1]))
            elif what == "no":
                # It will never take effect, so it never was.
                self.history.remove(op)
                client.pause = time.monotonic() + 0.05
            else:
                client.id = self.tick()

    def _answer(self, op: Operation, result: int) -> None:
        now = time.monotonic()
        self.longest_outage = max(self.longest_outage, now - self.last_answer)
        self.last_answer = now
        self.answered += 1
        op.end = self.tick()
        op.result = result if op.kind == GET else bool(result)

    # What tests ask for.

    def until(self, what: str, done: Callable[[], bool], seconds: float) -> float:
        """Go on under load until a condition holds, and return how long that took."""
        begin = time.monotonic()
        while not done():
            assert time.monotonic() - begin < seconds, f"{what}: not within {seconds} s; {self.describe()}"
            self.step()
        return time.monotonic() - begin

    def load(self, seconds: float) -> None:
        """Go on for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def describe(self) -> str:
        """Return the servers' last words."""
        return ", ".join(f"{id}: {vars(status)}" for id, status in sorted(self.statuses.items()))

    def leader(self) -> int:
        """Wait for a leader whom the last words of a majority agree on, and return it."""
        found = 0

        def agreed() -> bool:
            nonlocal found
            votes = [status.leader for status in self.statuses.values()]
            found = max(set(votes), key=votes.count) if votes else 0
            status = self.statuses.get(found)
            majority = 2 * votes.count(found) > len(self.members)
            return found != 0 and majority and status is not None and status.state == RAFT_LEADER

        self.until("a leader", agreed, 20)
        return found

    def answers(self, n: int = 50) -> float:
        """Wait until clients have had so many answers more; return how long that took."""
        goal = self.answered + n
        return self.until(f"{n} answers", lambda: self.answered >= goal, OUTAGE + 10)

    def terms(self) -> dict[int, int]:
        """Return the servers' terms by their last words."""
        return {id: status.term for id, status in self.statuses.items()}

    def recover(self) -> float:
        """Heal everything; return how long it took until all servers had applied the same."""
        self.lab.heal_all()
        self.loaded = False
        healed = time.monotonic()

        def equal() -> bool:
            fresh = [s for s in self.statuses.values() if s.at > healed]
            indexes = {(s.last, s.applied, s.digest) for s in fresh}
            return len(fresh) == len(self.members) and len(indexes) == 1 and fresh[0].last == fresh[0].applied

        self.until("the last answers", lambda: not self.requests, PATIENCE + 5)
        return self.until("equal servers", equal, RECOVERY)

    def check(self, recovery: float) -> None:
        """The history is linearizable, and figures are printed."""
        print(
            f"{len(self.history)} operations, {self.answered} answered; longest without an answer "
            f"{self.longest_outage:.2f} s, equal {recovery:.2f} s after healing; terms {self.terms()}"
        )
        assert self.answered > 100
        failure = linearizability.check(self.history)
        assert failure is None, repr(failure)


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[[int], Run]]:
    """Return a maker of runs, with a leader and under load."""
    runs: list[Run] = []

    def make(n: int) -> Run:
        run = Run(tmp_path, n)
        runs.append(run)
        run.until("all servers", lambda: len(run.ready) == n, 30)
        run.leader()
        run.answers()
        run.longest_outage = 0.0
        return run

    yield make
    for run in runs:
        run.lab.close()


def test_an_isolated_leader_is_replaced(make_run: Callable[[int], Run]) -> None:
    """The others elect a leader and answer clients; the old one steps down, commits nothing, and comes back."""
    run = make_run(3)
    old = run.leader()
    run.lab.isolate(old)
    run.until("another leader", lambda: run.leader() != old, OUTAGE + 20)
    run.until("the old leader to step down", lambda: run.statuses[old].state != RAFT_LEADER, OUTAGE)
    run.load(SECONDS)
    assert run.longest_outage < OUTAGE
    run.check(run.recover())


def test_an_isolated_follower_disturbs_nobody(make_run: Callable[[int], Run]) -> None:
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
def test_a_one_way_link_to_a_follower_harms_only_it(make_run: Callable[[int], Run], direction: str) -> None:
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


def test_a_deaf_leader_steps_down(make_run: Callable[[int], Run]) -> None:
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


def test_a_bridge_between_two_halves(make_run: Callable[[int], Run]) -> None:
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


def test_a_flapping_link(make_run: Callable[[int], Run]) -> None:
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


def test_cuts_at_random(make_run: Callable[[int], Run]) -> None:
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
def test_connections_that_are_reset(make_run: Callable[[int], Run]) -> None:
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

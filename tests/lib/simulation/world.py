"""One simulated cluster from one seed: clock, events, servers, and the run from boot to the last check.

Happy path: `run(seed, steps)` boots a cluster, lets clients and nemesis work for that many events, then heals
everything and waits until a command gets through to all members; finally it closes all servers.

Failure modes: Violation, with what was broken, the profile, the last events, the state of all servers and the one
command that repeats the run.
"""

import os
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

from pyraft import (
    RAFT_LEADER,
    RAFT_SPARE,
    RAFT_VOTER,
    RaftConfiguration,
    raft_configuration_add,
    raft_last_index,
)
from tests.lib.linearizability import Operation
from tests.lib.simulation import standstill
from tests.lib.simulation.admin import Admin
from tests.lib.simulation.checks import Checks
from tests.lib.simulation.clients import Burst, Client, Probe
from tests.lib.simulation.nemesis import Nemesis, mend
from tests.lib.simulation.network import Network
from tests.lib.simulation.node import Node
from tests.lib.simulation.profile import Profile
from tests.lib.simulation.prompt import Prompt

HEALING_TIME: Final = 180_000
"""Virtual ms within which a healed cluster has to apply a command on all members."""

TOLD_EVENTS: Final = 40


class Violation(AssertionError):
    """An invariant was broken."""


class World:
    """A cluster in virtual time. `healed` once no more faults happen, `ending` once servers are closed for good."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed = seed
        self.planned_steps = steps
        self.random = Random(f"simulation {seed}")
        self.profile = Profile(self.random, seed)
        self.now = 0
        self.steps = 0
        self.number = 0
        self.ticks = 0
        self.heap: list[tuple[int, float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.events: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = deque(maxlen=TOLD_EVENTS)
        self.violations: list[str] = []
        self.touched: list[Node] = []
        self.healed = False
        self.ending = False
        self.quiet_until = 0
        """Until when clients keep still."""
        self.history: list[Operation] = []
        self.last_seen: dict[int, int] = {}
        self.tracing = bool(os.environ.get("TRACE"))
        self.calm = False
        self.abandoned = ""
        """Why the run ends early: somebody has done what the READMEs forbid, and what follows proves nothing."""
        self.checks = Checks(self)
        self.prompt = Prompt(self)
        self.network = Network(self)
        ids = self.profile.ids or tuple(range(1, self.profile.machines + 1))
        self.nodes = {id: Node(self, id) for id in ids[: self.profile.machines]}
        for node in self.nodes.values():
            node.c_like = self.random.random() < self.profile.c_like
        self.told_why = ""
        self._boot()

    def _boot(self) -> None:
        conf = RaftConfiguration()
        members = list(self.nodes.values())[: self.profile.servers]
        for i, node in enumerate(members):
            role = RAFT_VOTER if i < self.profile.voters else self.random.choice(self.profile.others)
            raft_configuration_add(conf, node.id, node.address, role)
        for node in members:
            node.bootstrap(conf)
            self.at(self.random.randint(0, 200), node.first_boot)
        for id in range(self.profile.clients):
            Client(self, id)
        if self.profile.noise:
            Burst(self)
        self.admin = Admin(self)
        Nemesis(self)

    # Everybody uses these.

    def at(self, msecs: int, fn: Callable[..., None], *args: Any) -> None:
        """Have `fn(*args)` called in `msecs`; all that is due at the same time happens in random order."""
        self.number += 1
        heappush(self.heap, (self.now + msecs, self.random.random(), self.number, fn, args))

    def at_turn(self, when: int, tie: float, fn: Callable[..., None], *args: Any) -> None:
        """Have `fn(*args)` called at `when`; all that is due at the same time with the same `tie` happens in this
        order.
        """
        self.number += 1
        heappush(self.heap, (when, tie, self.number, fn, args))

    def next_number(self) -> int:
        """Return a number that was never returned before."""
        self.number += 1
        return self.number

    def tick(self) -> int:
        """Return the next point on the time axis of histories."""
        self.ticks += 1
        return self.ticks

    def violate(self, text: str) -> None:
        """Note that an invariant is broken; the step ends with it."""
        self.violations.append(text)

    def elected(self, node: Node) -> None:
        """Be told, within a call of the core, that a server leads."""
        self.admin.elected(node)

    def leader(self) -> Node | None:
        """Return the leader of the highest term, if any."""
        leaders = [n for n in self.nodes.values() if n.up and not n.stopping and n.raft.state == RAFT_LEADER]
        return max(leaders, key=lambda n: n.raft.current_term, default=None)

    def pick_leader(self) -> Node | None:
        """Return some server that claims to lead, now and then just some server, or None."""
        running = [n for n in self.nodes.values() if n.up and not n.stopping]
        leaders = [n for n in running if n.raft.state == RAFT_LEADER]
        if leaders and self.random.random() < 0.95:
            return self.random.choice(leaders)
        return self.random.choice(running) if running else None

    # The run.

    def step(self) -> None:
        """Let the next event happen, and check."""
        self.now, _, _, fn, args = heappop(self.heap)
        self.steps += 1
        self.events.append((self.now, fn, args))
        if self.tracing:
            print(self.describe(self.events[-1]), flush=True)
        fn(*args)
        while self.touched:
            node = self.touched.pop()
            self.checks.after(node)
            node.check_available()
            self.prompt.after(node)
            if self.tracing:
                print(f"          {node!r}", flush=True)
        if self.violations and not self.abandoned:
            raise Violation(self.violations[0])

    def heal(self) -> None:
        """No more faults: all servers run, if not at once, and all links and disks work.

        A server that is paused now goes on later, with what has come meanwhile, which would be overtaken otherwise.
        """
        self.healed = True
        self.calm = not self.profile.busy
        mend(self)
        self.network.loss = self.network.duplication = 0.0
        self.profile.bad_machines = False
        self.profile.disk = (0, 1)
        for node in self.nodes.values():
            node.armed.clear()
            node.power_loss_in = -1
            if node.machine is not None:
                node.machine.fail_apply = False
            if node.booted and not node.up and not node.gave_up:
                node.boot()

    def settle(self) -> None:
        """Wait until all members are equal, if nobody submits anything, and until they all apply a new command."""
        equal = "the members do not become equal while nothing happens"
        if self.profile.idle and not self.profile.unreachable and not self._wait(self._equal, equal):
            return
        if self.profile.wipe_at_rest:
            self._wipe_one()
            if not self._wait(self._equal, "a member that has come back empty stays behind while nothing happens"):
                return
        probe = Probe(self)
        if not self._wait(lambda: self._settled(probe), "no progress"):
            return
        limit = 20 * self.profile.election + 5 * self.profile.install_timeout
        if self._wait(self._recovered, "a server recovers for ever under a leader that is never idle", limit):
            self.calm = True
            self.checks.all_logs()

    def _wait(self, test: Callable[[], bool], problem: str, limit: int = HEALING_TIME) -> bool:
        """Go on until the test is true; return False if it need not be: the logs excuse it, or the run is abandoned."""
        deadline = self.now + limit
        while not self.abandoned:
            if test():
                return True
            if self.now > deadline:
                self.told_why = standstill.reason(self)
                if not self.told_why:
                    raise Violation(f"{problem}: {limit} ms after the faults stopped")
                return False
            self.step()
        return False

    def _equal(self) -> bool:
        """Return whether all members that get entries have stored and applied what their leader has."""
        leader = self.leader()
        if leader is None:
            return False
        r = leader.raft
        members = [self.nodes[s.id] for s in r.configuration.servers if s.role != RAFT_SPARE]
        last = raft_last_index(r)
        # Left-overs behind that do no harm, and go when something else takes their place.
        return all(n.up and n.raft.last_applied == last <= n.raft.last_stored for n in members)

    def _recovered(self) -> bool:
        """Return whether all members that get entries have recovered."""
        leader = self.leader()
        if leader is None:
            return False
        members = [self.nodes[s.id] for s in leader.raft.configuration.servers if s.role != RAFT_SPARE]
        return not any(node.up and node.raft.recovering for node in members)

    def _wipe_one(self) -> None:
        """Replace the disk of a member so quickly that its leader does not notice."""
        leader = self.leader()
        assert leader is not None
        others = [n for n in self.nodes.values() if n.up and n is not leader]
        if others:
            node = self.random.choice(others)
            node.crash()
            node.disk = node.disk.replacement()
            node.boot()

    def _settled(self, probe: Probe) -> bool:
        if not probe.index or probe.leader is None or not probe.leader.up:
            return False
        if self.profile.unreachable:
            return True
        members = probe.leader.raft.configuration.servers
        return all(
            self.nodes[s.id].up and self.nodes[s.id].raft.last_applied >= probe.index
            for s in members
            if s.role != RAFT_SPARE
        )

    def close(self) -> None:
        """Close all servers; every request has called back then."""
        self.ending = True
        for node in self.nodes.values():
            if node.up and not node.stopping:
                node.stop()
        while any(node.up for node in self.nodes.values()):
            self.step()
        if self.violations and not self.abandoned:
            raise Violation(self.violations[0])

    def run(self) -> "World":
        """Do everything; Violation with the whole story if something is wrong."""
        try:
            while self.steps < self.planned_steps and self.heap and not self.abandoned:
                self.step()
            if not self.abandoned:
                self.heal()
                self.settle()
            if not self.abandoned:
                self.calm = True
                self.close()
        except AssertionError as exc:
            raise Violation(self.story(exc)) from exc
        return self

    def story(self, exc: BaseException) -> str:
        """Tell what happened before `exc`."""
        kind = "" if isinstance(exc, Violation) else f"{type(exc).__name__}: "
        lines = [
            f"{kind}{exc or 'an assertion failed'}",
            f"  step {self.steps} at {self.now} ms of seed {self.seed}; repeat: {self.command()}",
            f"  profile: {self.profile!r}",
            "  last events:",
            *(f"    {self.describe(event)}" for event in self.events),
            "  servers:",
            *(f"    {node!r}" for node in self.nodes.values() if node.booted),
        ]
        return "\n".join(lines)

    def command(self) -> str:
        """Return the command that repeats this run."""
        return f"make sim SEED={self.seed} N=1 STEPS={self.planned_steps} TRACE=1"

    def describe(self, event: tuple[int, Callable[..., None], tuple[Any, ...]]) -> str:
        """Return an event in one line."""
        from tests.lockstep.replay import describe_message

        time, fn, args = event
        owner = getattr(fn, "__self__", None)
        who = f"server {owner.id}" if isinstance(owner, Node) else type(owner).__name__
        words = []
        for arg in args:
            if hasattr(arg, "append_entries"):
                words.append(f"{arg.server_id}: {describe_message(arg)}")
            elif isinstance(arg, (int, tuple)):
                words.append(str(arg))
            elif isinstance(arg, Node):
                words.append(f"server {arg.id}")
        return f"{time:>7} {who} {getattr(fn, '__name__', fn)} {' '.join(words)}"


def run(seed: int, steps: int) -> World:
    """Run the cluster of a seed for that many events, then heal and settle it."""
    return World(seed, steps).run()

"""The users of a simulated cluster: clients with a history, and bursts of commands.

Duty: `Client` submits one command at a time to whoever seems to lead, records invocation and response, gives up after
a while and goes on. `Burst` submits several commands in one raft_apply. `Tracked` makes sure that every accepted
request calls back exactly once, and never before the call that submitted it has returned.

Failure modes: a command that was refused has no effect and leaves no trace in the history; one whose answer never
came, or was an error, may have taken effect at any later time: its response is open.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pyraft
from pyraft import RaftApply
from tests.lib.linearizability import CAS, GET, KINDS, PUT, Operation
from tests.lib.simulation import machine

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World

BURST_KEY: Final = 200


class Tracked:
    """The callback of one request, on one server, in one of its lives."""

    def __init__(self, world: "World", node: "Node", what: str, done: Callable[[int, Any], None] | None = None) -> None:
        self.world = world
        self.node = node
        self.life = node.life
        self.number = world.next_number()
        self.what = f"{what} {self.number}"
        self.done = done
        self.accepted = False
        self.fired = False

    def submit(self, fn: Callable[..., Any], *args: Any) -> int | None:
        """Call `fn` on the server with this callback last; return its code, None if the server lost power."""
        rv: int | None = self.node.enter(fn, *args, self.fire)
        if self.fired and rv != 0:
            self.world.violate(f"{self.what} on server {self.node.id} was refused with {rv} and called back")
        if rv == 0 and not self.fired and self.node.life == self.life:
            self.node.pending[self.number] = self.what
        self.accepted = True
        return rv

    def fire(self, req: Any, status: int = 0, result: Any = None) -> None:
        """Be called back."""
        if self.node.lost:
            return  # The core is on its way out of a process that does not exist any more.
        if self.fired:
            self.world.violate(f"{self.what} on server {self.node.id} called back twice")
        if not self.accepted:
            self.world.violate(f"{self.what} on server {self.node.id} called back before it was submitted")
        if self.node.life != self.life:
            self.world.violate(f"{self.what} on server {self.node.id} called back after its end")
        self.fired = True
        self.node.pending.pop(self.number, None)
        if self.done is not None:
            self.done(status, result)


class Client:
    """One client. `busy` while an answer is awaited; a client that gives up does not listen any more."""

    def __init__(self, world: "World", id: int) -> None:
        self.world = world
        self.id = id
        self.attempt = 0
        world.at(world.random.randint(0, 500), self.act, 0)

    def act(self, attempt: int) -> None:
        """Submit the next command, unless an answer came or this is over."""
        world, dice = self.world, self.world.random
        if attempt != self.attempt or world.calm:
            return
        self.attempt += 1
        if world.now < world.quiet_until:
            self._later(world.quiet_until - world.now)
            return
        node = world.pick_leader()
        if node is None:
            self._later(dice.randint(0, 2 * world.profile.think))
            return
        op = Operation()
        op.client = self.id
        op.key = dice.randrange(world.profile.keys)
        op.kind = dice.choice((PUT, PUT, GET, CAS))
        number = world.next_number()
        op.value = number if op.kind != GET else 0
        if op.kind == CAS:
            op.expected = world.last_seen.get(op.key, 0)
        buf = machine.encode(op.kind, op.key, number, op.value, op.expected, dice.choice((0, 0, 3, 50)))
        op.start = world.tick()
        mine = self.attempt
        req = RaftApply()

        def done(status: int, result: Any) -> None:
            if status != 0:
                if mine == self.attempt:
                    self._later(world.profile.think)
                return
            world.checks.acknowledged(node, req.index, buf)
            op.end = world.tick()
            op.result = result
            if op.kind == GET:
                world.last_seen[op.key] = result
            if mine != self.attempt:
                return
            if dice.random() < 0.3:
                self.act(mine)
            else:
                self._later(dice.randint(0, 2 * world.profile.think))

        tracked = Tracked(world, node, KINDS[op.kind], done)
        # Noted before, as the server may lose its power in this call, which ends it if it is made out of a callback.
        world.history.append(op)
        rv = tracked.submit(pyraft.raft_apply, node.raft, req, [buf], 1)
        if rv in (0, None):
            if mine == self.attempt:
                world.at(2 * world.profile.election, self.act, mine)
        else:
            world.history.remove(op)
            self._later(dice.randint(1, 2 * world.profile.think))

    def _later(self, msecs: int) -> None:
        self.world.at(msecs, self.act, self.attempt)


class Burst:
    """Somebody who submits many commands at once; nobody looks at the answers, but they must come."""

    def __init__(self, world: "World") -> None:
        self.world = world
        world.at(100, self.act)

    def act(self) -> None:
        """Submit some requests of some commands."""
        world, dice = self.world, self.world.random
        if world.calm:
            return
        world.at(dice.randint(1, world.profile.bursts or world.profile.election), self.act)
        for _ in range(dice.randint(1, 5)):
            node = world.pick_leader()
            if node is None:
                return
            n = dice.randint(1, 6)
            keys = [BURST_KEY + dice.randrange(8) for _ in range(n)]
            bufs = [machine.encode(PUT, key, world.next_number(), 1, 0, dice.choice((0, 9))) for key in keys]
            Tracked(world, node, f"burst of {n}").submit(pyraft.raft_apply, node.raft, RaftApply(), bufs, n)


class Probe:
    """Shows that the cluster works: has a leader apply a command; `index` is where, 0 until then."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.index = 0
        self.leader: Node | None = None
        self.act()

    def act(self) -> None:
        """Try, and try again."""
        if self.index:
            return
        world = self.world
        world.at(500, self.act)
        node = world.leader()
        if node is None:
            return
        buf = machine.encode(PUT, BURST_KEY, world.next_number(), 1)
        req = RaftApply()

        def done(status: int, result: Any) -> None:
            if status == 0 and not self.index:
                world.checks.acknowledged(node, req.index, buf)
                self.index, self.leader = req.index, node

        Tracked(world, node, "probe", done).submit(pyraft.raft_apply, node.raft, req, [buf], 1)

"""The breaker of simulated clusters: one fault after the other, at random moments, out of those that the profile
allows.

Each fault is one function over the world; faults that last are undone by `mend`, which comes up as often as they do,
or, all of them, when the world is healed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyraft import RAFT_VOTER, log

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World

ARMED: Final = {
    "append_fault",
    "append_sync_fault",
    "term_fault",
    "vote_fault",
    "put_fault",
    "get_fault",
    "send_fault",
}
"""Faults that wait in a server until the call that they make fail."""

OWN: Final = 30
"""With so many entries that a leader alone has, a search one by one for the end of what it shares takes long."""


class Nemesis:
    """Does one random thing every now and then."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.kinds = [k for k in world.profile.faults if k in ARMED or k in ACTIONS]
        if self.kinds:
            world.at(world.random.randint(1, 2 * world.profile.election), self.act)

    def act(self) -> None:
        """Break something, or mend something."""
        world, dice = self.world, self.world.random
        if world.healed:
            return
        world.at(int(dice.expovariate(1 / world.profile.fault_interval)) + 1, self.act)
        running = [n for n in world.nodes.values() if n.up and not n.stopping]
        if not running or dice.random() < 0.4:
            mend(world)
            return
        kind = dice.choice(self.kinds)
        node = dice.choice(running)
        if dice.random() < 0.3:
            node = world.leader() or node
        if kind in ARMED:
            node.armed[kind] = dice.choice((0, 0, 1, 3))
        else:
            ACTIONS[kind](world, node)


def mend(world: "World") -> None:
    """End what lasts: partitions, slowness."""
    world.network.heal()
    for node in world.nodes.values():
        node.disk_factor = 1


def _crash(world: "World", node: "Node") -> None:
    node.crash()


def _stop(world: "World", node: "Node") -> None:
    node.stop()


def _pause(world: "World", node: "Node") -> None:
    # Messages that have come in the meantime are dealt with in order, so one that began before is not cut short.
    node.paused_until = max(node.paused_until, world.now + world.random.choice((20, 300, 1500)))


def _partition(world: "World", node: "Node") -> None:
    cut_off(world, {id for id in world.nodes if world.random.random() < 0.5})


def cut_off(world: "World", side: set[int]) -> None:
    """Cut all links between these servers and the others."""
    world.network.cut |= {(i, j) for i in world.nodes for j in world.nodes if (i in side) != (j in side)}


def _one_way(world: "World", node: "Node") -> None:
    world.network.cut.add((node.id, world.random.choice(sorted(world.nodes))))


def _isolate(world: "World", node: "Node") -> None:
    inward, outward = world.random.choice(((True, True), (True, False), (False, True)))
    for id in world.nodes:
        if outward:
            world.network.cut.add((node.id, id))
        if inward:
            world.network.cut.add((id, node.id))


def _fall_behind(world: "World", node: "Node") -> None:
    """Cut a server off until the leader has compacted what it needs, one at a time."""
    if not world.network.away and world.now >= world.quiet_until:
        world.network.away.add(node.id)
        world.at(world.profile.heartbeat, _catch_up, world, node)


def _catch_up(world: "World", node: "Node") -> None:
    """Let a server that has fallen behind catch up; perhaps nobody submits anything then."""
    leader = world.leader()
    if world.healed or not node.up or leader is None or leader is node:
        world.network.away.clear()
    elif log.last_index(node.raft.log) + 1 < log.lowest_next(leader.raft.log):
        world.network.away.clear()
        if world.random.random() < 0.7:
            world.quiet_until = world.now + world.profile.reading[1]
    else:
        world.at(world.profile.heartbeat // 2, _catch_up, world, node)


def _desert(world: "World", node: "Node") -> None:
    """Cut the leader off until the next one has many entries of its own, one at a time."""
    leader = world.leader()
    if leader is None:
        world.at(world.profile.heartbeat, _desert, world, node)
    elif not world.network.away:
        world.network.away.add(leader.id)
        world.at(world.profile.heartbeat, _come_back, world, leader)


def _come_back(world: "World", node: "Node") -> None:
    """Let a leader come back, whose log ends in entries that it alone has, when the next one has committed as many.

    The next one crashes then, so that a third leader searches for what the logs share, from the end of its own on.
    """
    leader = world.leader()
    if world.healed or not node.up:
        world.network.away.clear()
    elif leader is not None and leader is not node and _has_many(leader):
        world.network.away.clear()
        leader.crash()
    else:
        world.at(world.profile.heartbeat, _come_back, world, node)


def _has_many(leader: "Node") -> bool:
    r = leader.raft
    return log.term_of(r.log, max(r.commit_index - OWN, 0)) == r.current_term


def _refuse(world: "World", node: "Node") -> None:
    world.network.refused.add((node.id, world.random.choice(sorted(world.nodes))))


def _slow_disk(world: "World", node: "Node") -> None:
    node.disk_factor = world.random.choice((5, 30, 100))


def _power_loss(world: "World", node: "Node") -> None:
    node.power_loss_in = world.random.randint(0, 30)


def _apply_fault(world: "World", node: "Node") -> None:
    if node.machine is not None:
        node.machine.fail_apply = True


def _damage(world: "World", node: "Node") -> None:
    """Lose entries. Only some profiles do so where another server recovers already, or where voters are below three."""
    recovering = sum(other.disk.recovering for other in world.nodes.values() if other is not node)
    if recovering > 1 or (not world.profile.several and (recovering > 0 or _voters(world) < 3)):
        return
    node.crash()
    node.disk.damage(world.random)


def _wipe(world: "World", node: "Node") -> None:
    """Replace the disk of a member, one at a time and only where others can lead; sometimes all stop together."""
    if _voters(world) < 3 or any(other.disk.lacks_what_it_had for other in world.nodes.values()):
        return
    if world.random.random() < 0.5:
        for other in world.nodes.values():
            if other.up and not other.stopping and other is not node and world.random.random() < 0.5:
                other.crash()
    node.crash()
    node.disk = node.disk.replacement()


def _voters(world: "World") -> int:
    leader = world.leader()
    return 0 if leader is None else [s.role for s in leader.raft.configuration.servers].count(RAFT_VOTER)


ACTIONS: Final[dict[str, Callable[["World", "Node"], None]]] = {
    "crash": _crash,
    "stop": _stop,
    "pause": _pause,
    "partition": _partition,
    "one_way": _one_way,
    "isolate": _isolate,
    "fall_behind": _fall_behind,
    "desert": _desert,
    "refuse": _refuse,
    "slow_disk": _slow_disk,
    "power_loss": _power_loss,
    "apply_fault": _apply_fault,
    "damage": _damage,
    "wipe": _wipe,
}

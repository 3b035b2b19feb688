"""The administrator of a simulated cluster: membership changes, transfers and barriers, at any moment, also the worst.

Duty: `Admin` does something now and then, and, if the profile is eager, in the first moments of a leadership, when no
entry of the new leader is committed yet; the leader that was just elected may be cut off from some servers then. With a
direction it grows a cluster to all servers there are, shrinks it to one voter, and so on.

Failure modes: none. Refusals of a leader do not matter; that the last voter cannot be taken away is tried, too, and
if that works, the cluster will not heal.
"""

from typing import TYPE_CHECKING

import pyraft
from pyraft import RAFT_LEADER, RAFT_SPARE, RAFT_STANDBY, RAFT_VOTER, RaftApply, RaftBarrier, RaftChange, RaftTransfer
from tests.lib.linearizability import PUT
from tests.lib.simulation import machine
from tests.lib.simulation.clients import BURST_KEY, Tracked
from tests.lib.simulation.nemesis import cut_off

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World


class Admin:
    """Changes the configuration, transfers leadership, sets barriers."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.direction = world.profile.direction
        if world.profile.changes:
            world.at(500 if world.profile.theme == "plain" else 50, self.act)
        if world.profile.transfers:
            world.at(50, self.transfer)

    def act(self) -> None:
        """Do one random thing."""
        world, dice = self.world, self.world.random
        if world.healed:
            return
        world.at(int(dice.expovariate(1 / world.profile.changes)) + 1, self.act)
        node = world.pick_leader()
        if node is None or node.raft.state != RAFT_LEADER:
            return
        what = dice.random()
        if what < 0.15:
            Tracked(world, node, "barrier").submit(pyraft.raft_barrier, node.raft, RaftBarrier())
        elif what < 0.35:
            self._transfer(node)
        else:
            self._change(node, what)

    def transfer(self) -> None:
        """Hand the leadership on, and again a while later."""
        world, dice = self.world, self.world.random
        if world.healed:
            return
        world.at(int(dice.expovariate(1 / world.profile.transfers)) + 1, self.transfer)
        node = world.pick_leader()
        if node is not None and node.raft.state == RAFT_LEADER:
            self._transfer(node)

    def elected(self, node: "Node") -> None:
        """Be told, within a call of the core, that a server leads: come back to it soon."""
        world, dice = self.world, self.world.random
        profile = world.profile
        if world.healed or not (profile.eager or profile.cut_off or profile.tempting):
            return
        if dice.random() < profile.tempting:
            world.at(0, self._tempt, node, node.life)
        if dice.random() < profile.cut_off:
            world.at(dice.randint(0, 20), self._cut_off, node, node.life)
        if dice.random() < profile.eager:
            world.at(dice.randint(0, 10), self._welcome, node, node.life)

    def _cut_off(self, node: "Node", life: int) -> None:
        """Leave a leader with few servers, or alone."""
        world, dice = self.world, self.world.random
        if world.healed or not node.up or node.life != life:
            return
        share = dice.choice((0.0, 0.3, 0.5))
        cut_off(world, {node.id} | {id for id in world.nodes if dice.random() < share})

    def _tempt(self, node: "Node", life: int) -> None:
        """Have a leader change the members so that those whom it reaches would be a majority of the new ones only.

        One change adds the voter that is missing, the other removes one that is away. Each is right by itself, and
        wrong for a leader that does not know yet which changes before its own are committed (B46).
        """
        world, dice = self.world, self.world.random
        r = node.raft
        if world.healed or not node.up or node.stopping or node.life != life or r.state != RAFT_LEADER:
            return
        others = [s.id for s in r.configuration.servers if s.role == RAFT_VOTER and s.id != node.id]
        future = [s.id for s in r.configuration.servers if s.role != RAFT_VOTER]
        world.network.heal()
        if future and dice.random() < 0.5:
            id = dice.choice(future)
            cut_off(world, {node.id, id})
            Tracked(world, node, f"promote {id}").submit(pyraft.raft_assign, r, RaftChange(), id, RAFT_VOTER)
        elif len(others) > 1:
            dice.shuffle(others)
            near = (len(others) + 1) // 2 - 1
            cut_off(world, {node.id, *others[:near]})
            id = dice.choice(others[near:])
            Tracked(world, node, f"remove {id}").submit(pyraft.raft_remove, r, RaftChange(), id)

    def _welcome(self, node: "Node", life: int) -> None:
        world, dice = self.world, self.world.random
        if world.healed or not node.up or node.stopping or node.life != life or node.raft.state != RAFT_LEADER:
            return
        if dice.random() < (0.7 if world.profile.transfers else 0.1):
            self._transfer(node)
        else:
            self._change(node, dice.uniform(0.35, 1.0))

    def _transfer(self, node: "Node") -> None:
        world, dice = self.world, self.world.random
        id = dice.choice((0, dice.choice(sorted(world.nodes))))
        if node.c_like and id not in (0, node.id) and dice.random() < 0.7:
            server = pyraft.configuration.get(node.raft.configuration, id)
            if server is None or server.role != RAFT_VOTER:
                return
            # Older than 0.18, just after a command.
            buf = machine.encode(PUT, BURST_KEY, world.next_number(), 1)
            Tracked(world, node, "command").submit(pyraft.raft_apply, node.raft, RaftApply(), [buf], 1)
            if node.up and node.raft.state == RAFT_LEADER:
                node.enter(node.transfer_like_old_c, id)
            return
        Tracked(world, node, "transfer").submit(pyraft.raft_transfer, node.raft, RaftTransfer(), id)

    def _change(self, node: "Node", what: float) -> None:
        """Add, remove or assign a server; `what`, from 0.35 to 1, says which if the server is a member."""
        world, dice = self.world, self.world.random
        r = node.raft
        members = {s.id: s.role for s in r.configuration.servers}
        voters = [id for id, role in members.items() if role == RAFT_VOTER]
        id = dice.choice(sorted(world.nodes))
        role = dice.choice((RAFT_VOTER, RAFT_VOTER, RAFT_STANDBY, RAFT_SPARE))
        if self.direction == "grow":
            others = [id for id in sorted(world.nodes) if members.get(id) != RAFT_VOTER]
            if not others:
                self.direction = "shrink"
            else:
                id, what, role = dice.choice(others), 1.0, RAFT_VOTER
        elif self.direction == "shrink":
            id, role = dice.choice(sorted(members)), dice.choice((RAFT_STANDBY, RAFT_SPARE))
            if len(voters) == 1 and dice.random() < 0.5:
                self.direction = "grow"
        if id not in members:
            target = world.nodes[id]
            if not target.booted:
                target.boot()
            Tracked(world, node, f"add {id}").submit(pyraft.raft_add, r, RaftChange(), id, target.address)
        elif members[id] == RAFT_VOTER and len(voters) < 2 and world.profile.theme == "plain":
            return
        elif what < 0.5:
            Tracked(world, node, f"remove {id}").submit(pyraft.raft_remove, r, RaftChange(), id)
        else:
            Tracked(world, node, f"assign {id} {role}").submit(pyraft.raft_assign, r, RaftChange(), id, role)

"""The links between simulated servers: latency, loss, duplication, reordering, cuts.

Duty: `carry` takes a message that a server has sent and plans its arrivals, none, one or two, each after its own
latency, so that messages overtake each other. A link may be cut (messages vanish, also those under way) or refuse
(the send fails); both are one-way. A message may arrive in a later life of its target than it was sent to, which is
harder than connections are; where disks are damaged or replaced, or servers behave like C's, it may not, nor overtake
or come twice, as what leaders and recovering servers make of it relies on connections.
"""

from typing import TYPE_CHECKING

from pyraft import RaftMessage

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World


class Network:
    """All links of a world. `cut` and `refused` hold (from id, to id)."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.cut: set[tuple[int, int]] = set()
        self.refused: set[tuple[int, int]] = set()
        self.away: set[int] = set()
        """Servers that are cut off until they come back by themselves."""
        self.connections = world.profile.c_like > 0 or not {"damage", "wipe"}.isdisjoint(world.profile.faults)
        self.latest: dict[tuple[int, int], tuple[int, float]] = {}
        self.loss = world.profile.loss
        self.duplication = world.profile.duplication

    def heal(self) -> None:
        """Mend all links; latencies stay."""
        self.cut.clear()
        self.refused.clear()

    def carry(self, sender: "Node", message: RaftMessage) -> bool:
        """Take a message of `sender` to the server it names; return False if that server refuses connections."""
        world, dice = self.world, self.world.random
        target = world.nodes.get(message.server_id)
        link = (sender.id, message.server_id)
        if target is None or link in self.refused or (not target.up and dice.random() < 0.5):
            world.prompt.lost(link)
            return False
        arrivals = 1
        if self.loss and dice.random() < self.loss:
            arrivals = 0
            world.prompt.lost(link)
        elif self.duplication and dice.random() < self.duplication and not self.connections:
            arrivals = 2
        received = RaftMessage()
        received.type = message.type
        received.server_id = sender.id
        received.server_address = sender.address
        received.request_vote = message.request_vote
        received.request_vote_result = message.request_vote_result
        received.append_entries = message.append_entries
        received.append_entries_result = message.append_entries_result
        received.install_snapshot = message.install_snapshot
        received.timeout_now = message.timeout_now
        for _ in range(arrivals):
            latency = dice.randint(*world.profile.latency)
            if self.connections:
                when, tie = in_turn(world, latency, self.latest, link)
                world.at_turn(when, tie, self._arrive, link, target, target.life, received)
            else:
                world.at(latency, self._arrive, link, target, target.life, received)
        return True

    def _arrive(self, link: tuple[int, int], target: "Node", life: int, message: RaftMessage) -> None:
        if link in self.cut or not self.away.isdisjoint(link) or (life != target.life and self.connections):
            self.world.prompt.lost(link)
            return
        if self.connections and target.up and self.world.now < target.paused_until:
            self.world.at_turn(target.paused_until, -1.0, self._arrive, link, target, life, message)
        else:
            target.receive(message)


def in_turn(
    world: "World", delay: int, latest: dict[tuple[int, int], tuple[int, float]], link: tuple[int, int]
) -> tuple[int, float]:
    """Return when something happens that has to come after all before it on a link; see World.at_turn."""
    when, tie = world.now + delay, world.random.random()
    last_when, last_tie = latest.get(link, (0, 0.0))
    if when <= last_when:
        when, tie = last_when, last_tie
    latest[link] = when, tie
    return when, tie

"""Mixed clusters whose servers are stopped and started at random, the ones of this project with spoilt disks.

Before each round all servers are equal. Then some miss entries, one or two of ours lose acknowledged ones, and any of
them start in any order. `RECOVERING_ROUNDS` and `RECOVERING_SEED` choose how many rounds, and which.
"""

import os
import random
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from io_uv import marker
from tests.interop import formats
from tests.interop.driver import Cluster, Node, Workshop, until

SETTINGS: dict[str, Any] = {
    "election": 250,
    "heartbeat": 50,
    "retry": 100,
    "install": 1000,
    "threshold": 100,
    "trailing": 20,
    "segment": 262_144,
    "blob": 20_000,
}
ROUNDS = int(os.environ.get("RECOVERING_ROUNDS", "2"))
SEED = os.environ.get("RECOVERING_SEED")

State = tuple[int, int, int]


def step(state: State, data: bytes) -> State:
    """The state of a server that applies one more command."""
    count, size, chain = state
    return count + 1, size + len(data), (chain * 6364136223846793005 + zlib.crc32(data) + len(data)) % (1 << 64)


class Ledger:
    """The commands that servers may hold: all acknowledged commands in their order, and of those of unknown fate any
    first ones."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.states: set[State] = {(0, 0, 0)}
        self.acknowledged = 0

    def apply(self, n: int) -> None:
        """Have `n` commands acknowledged."""
        wanted = self.acknowledged + n
        while self.acknowledged < wanted:
            leader = self.cluster.leader()
            payloads = [self.cluster.payload() for _ in range(min(16, wanted - self.acknowledged))]
            numbers = [leader.request("apply", data.hex()) for data in payloads]
            for data, number in zip(payloads, numbers, strict=True):
                self._note(data, leader.result(number)[0] == 0)

    def _note(self, data: bytes, acknowledged: bool) -> None:
        later = {step(state, data) for state in self.states}
        self.acknowledged += acknowledged
        self.states = later if acknowledged else later | self.states

    def check(self) -> None:
        """All servers run, have lost their marks, hold the same, and that is something they may hold."""
        for node in self.cluster.nodes:
            until(f"{node} to lose its mark", lambda node=node: marker.NAME not in node.files())
        # Under a C leader a C follower whose snapshot reaches further than the leader's may get nothing any more.
        self.cluster.lead("py")
        status = self.cluster.settle()
        found = status.count, status.bytes, status.chain
        assert found in self.states, f"{found} instead of {self.states}"
        self.states = {found}


def spoil(node: Node, dice: random.Random) -> None:
    """Flip a bit in the last segment of a server that is not running."""
    path = last_segment(node.dir)
    data = bytearray(path.read_bytes())
    offset = dice.randrange(8, len(data.rstrip(b"\0")))
    data[offset] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    print(f"  {node}: byte {offset} of {path.name}")


def last_segment(dir: Path) -> Path:
    """The open segment that was written last, or else the last closed one."""
    opened = [path for path in formats.open_segments(dir) if any(path.read_bytes()[8:])]
    return opened[-1] if opened else max(dir.glob("0*-0*"))


def end(node: Node, dice: random.Random) -> None:
    """Stop a server in one of two ways."""
    if dice.random() < 0.3:
        node.quit()
    else:
        node.kill()


def play_round(ledger: Ledger, dice: random.Random) -> None:
    """Let a minority miss entries and others of the majority lose them; start all in some order."""
    nodes = ledger.cluster.nodes
    minority = len(nodes) // 2
    ledger.apply(dice.randint(1, 60))
    absent = dice.sample(nodes, dice.randint(0, minority))
    for node in absent:
        end(node, dice)
    ledger.apply(dice.randint(1, 60))
    ours = [node for node in nodes if node.kind == "py" and node.alive]
    spoilt = dice.sample(ours, min(len(ours), dice.randint(1, minority)))
    print(f"  absent {absent}, spoilt {spoilt}")
    for node in spoilt:
        end(node, dice)
        spoil(node, dice)
    for node in nodes:
        if node.alive and dice.random() < 0.7:
            end(node, dice)
    stopped = [node for node in nodes if not node.alive]
    for node in dice.sample(stopped, len(stopped)):
        node.run()
        if dice.random() < 0.6:
            time.sleep(dice.uniform(0, 1.0))  # Let those that run do what they may do without the others.


@pytest.mark.parametrize("kinds", [("c", "c", "py"), ("c", "py", "py"), ("c", "py", "c", "py", "c")], ids=" ".join)
def test_servers_that_lose_entries_come_and_go(workshop: Workshop, kinds: tuple[str, ...]) -> None:
    """Everything acknowledged is there after each round, on all servers, and no mark is left."""
    seed = int(SEED) if SEED else random.randrange(1 << 32)
    dice = random.Random(seed)
    cluster = Cluster([workshop.node(kind, i + 1, **SETTINGS) for i, kind in enumerate(kinds)], seed=seed)
    ledger = Ledger(cluster)
    cluster.start()
    losses = 0
    for number in range(ROUNDS):
        print(f"RECOVERING_SEED={seed}, round {number}")
        play_round(ledger, dice)
        ledger.check()
        for node in cluster.nodes:
            aside = [name for name in node.files() if name.startswith("corrupt-")]
            losses += len(aside) > 0
            for name in aside:
                (node.dir / name).unlink()
    print(f"{ledger.acknowledged} acknowledged, {losses} losses")
    for node in cluster.nodes:
        node.quit()

"""Random scenarios in the script language of `replay`, from a seed.

Duty: scripts of the same kind as the stored ones, for as many seeds as one likes. `hard` ones add odd and zero
latencies, send latencies, many faults, transfers and role changes. A client that does not know who leads asks every
server in turn, so each request is in the script once per server, and all but the leader refuse it.

A script never does what the fixture forbids: links are saturated, killed and revived only while connected, and no
more than eight servers exist. Run as a program it prints a script: `python -m tests.lockstep.generate SEED [hard]`.
"""

import random
import sys
from typing import Final

from pyraft.fixture import RAFT_FIXTURE_MAX_SERVERS

STEPS: Final = (1, 1, 2, 3, 5, 10, 20, 40)
LATENCIES: Final = (1, 5, 15, 60, 200)
HARD_LATENCIES: Final = (0, 1, 5, 15, 30, 60, 200, 300)
SEND_LATENCIES: Final = (0, 1, 7, 40, 250)
DISK_LATENCIES: Final = (0, 1, 10, 30, 50, 200, 300, 700)
FAULTS: Final = ("appendfault", "sendfault", "termfault", "votefault")
COMMANDS: Final = 120


class Writer:
    """A script in the making, and what it has to know about the cluster it drives."""

    def __init__(self, seed: int, hard: bool) -> None:
        self.random = random.Random(f"lockstep {seed} {hard}")
        self.hard = hard
        self.lines: list[str] = []
        self.n = self.random.choice((1, 2, 3, 3, 3, 4, 5))
        self.value = 1
        self.cut: set[tuple[int, int]] = set()
        self.saturated: set[tuple[int, int]] = set()
        self.dead: set[int] = set()

    def put(self, *words: object) -> None:
        """Write one command."""
        self.lines.append(" ".join(str(w) for w in words))

    def all_servers(self, op: str, *args: object) -> None:
        """Write one request to every server."""
        for i in range(self.n):
            self.put(op, i, *args)

    def head(self) -> None:
        """Write the set-up: servers, settings, bootstrap, start."""
        self.put("init", self.n)
        for i in range(self.n):
            if self.random.random() < 0.5:
                self.put("prevote", i, 1)
            if self.random.random() < 0.6:
                self.put("threshold", i, self.random.choice((4, 8, 16, 64)))
                self.put("trailing", i, self.random.choice((0, 1, 4, 16)))
            if self.random.random() < 0.4:
                self.put("rndelection", i, self.random.randrange(1000, 2000))
            self.latency(i)
        self.put("bootstrap", self.random.randint(1, self.n))
        self.put("start")

    def latency(self, i: int) -> None:
        """Perhaps change latencies of server `i`."""
        if self.random.random() < 0.4:
            self.put("netlat", i, self.random.choice(HARD_LATENCIES if self.hard else LATENCIES))
        if self.random.random() < 0.4:
            self.put("disklat", i, self.random.choice(DISK_LATENCIES if self.hard else (1, 10, 50, 200)))
        if self.hard and self.n > 1 and self.random.random() < 0.4:
            j = self.random.choice([j for j in range(self.n) if j != i])
            self.put("sendlat", i, j, self.random.choice(SEND_LATENCIES))

    def apply(self) -> None:
        """Write an apply of one, two or five buffers."""
        n = self.random.choice((1, 1, 1, 2, 5))
        self.all_servers("apply", n, self.value)
        self.value += n

    def grow(self) -> None:
        """Add a server to the fixture and to the configuration."""
        if self.n == RAFT_FIXTURE_MAX_SERVERS:
            return
        self.put("grow")
        self.put("startone", self.n)
        self.n += 1
        # Links of a new server with a dead one are not saturated, as in C.
        self.all_servers("add", self.n, 0)

    def network(self) -> None:
        """Cut or mend a link, one way or both."""
        i, j = self.random.randrange(self.n), self.random.randrange(self.n)
        if i == j or i in self.dead or j in self.dead:
            return
        pairs = [(i, j)] if self.random.random() < 0.5 else [(i, j), (j, i)]
        for pair in pairs:
            if pair in self.cut:
                self.cut.discard(pair)
                self.put("reconnect", *pair)
            elif pair in self.saturated:
                self.saturated.discard(pair)
                self.put("desaturate", *pair)
            elif self.random.random() < 0.6:
                self.cut.add(pair)
                self.put("disconnect", *pair)
            else:
                self.saturated.add(pair)
                self.put("saturate", *pair)

    def life(self) -> None:
        """Kill a server or revive one."""
        i = self.random.randrange(self.n)
        if any(i in pair for pair in self.cut):
            return
        if i in self.dead:
            self.dead.discard(i)
            self.put("revive", i)
        elif len(self.dead) < (self.n - 1) // 2:
            self.dead.add(i)
            self.saturated = {pair for pair in self.saturated if i not in pair}
            self.put("kill", i)

    def command(self) -> None:
        """Write one more random thing that happens, and some steps after it."""
        id = self.random.randint(1, self.n)
        kind = self.random.random()
        if kind < 0.40:
            self.apply()
        elif kind < 0.47:
            self.all_servers("barrier")
        elif kind < 0.51:
            self.grow()
        elif kind < 0.62:
            self.all_servers("assign", id, self.random.choice((0, 1, 1, 2)))
        elif kind < 0.65:
            self.all_servers("remove", id)
        elif kind < (0.75 if self.hard else 0.67):
            self.all_servers("transfer", self.random.choice((0, id)))
        elif kind < 0.85:
            self.network()
        elif kind < 0.90:
            self.life()
        elif self.hard or kind < 0.92:
            self.put(self.random.choice(FAULTS), self.random.randrange(self.n), self.random.randrange(4))
        else:
            self.latency(self.random.randrange(self.n))
        self.put("step", self.random.choice(STEPS))


def script(seed: int, hard: bool = False) -> str:
    """Return the scenario of a seed."""
    writer = Writer(seed, hard)
    writer.head()
    for _ in range(COMMANDS):
        writer.command()
    return "\n".join(writer.lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(script(int(sys.argv[1]), "hard" in sys.argv[2:]))

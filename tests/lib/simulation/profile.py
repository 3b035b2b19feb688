"""The kind of cluster that a seed stands for.

Each seed draws its own mixture: most faults are off in most runs, so that one kind can show without being drowned by
the others, and every combination comes up sooner or later. Then its theme, if it has one, changes what it is about
(see `themes`). All times are in virtual milliseconds.
"""

from random import Random
from typing import Any, Final

from pyraft import RAFT_SPARE, RAFT_STANDBY
from tests.lib.simulation import themes

MAX_SERVERS: Final = 7

FAULTS: Final = (
    "crash",
    "stop",
    "pause",
    "partition",
    "one_way",
    "isolate",
    "refuse",
    "slow_disk",
    "append_fault",
    "append_sync_fault",
    "term_fault",
    "vote_fault",
    "put_fault",
    "get_fault",
    "send_fault",
    "power_loss",
    "apply_fault",
    "damage",
)
"""The powers of the nemesis; see `nemesis` and `node`."""


class Profile:
    """The settings of one run."""

    def __init__(self, dice: Random, seed: int) -> None:
        self._plain()
        self._draw(dice)
        themes.apply(self, seed)

    def _plain(self) -> None:
        """Set what only themes change."""
        self.theme = "plain"
        self.transfers = 0
        """Mean time between transfers of their own, 0 for none but those among the changes."""
        self.eager = 0.0
        """How likely a change or a transfer is in the first moments of a leadership."""
        self.cut_off = 0.0
        """How likely it is that a new leader is cut off from some servers in these moments."""
        self.tempting = 0.0
        """How likely a new leader is cut off so that a change would make a majority of those whom it reaches."""
        self.bursts = 0
        """Time between bursts of commands at most, 0 for an election timeout."""
        self.direction = ""
        """"grow" or "shrink": to all servers or down to one, and back again."""
        self.several = False
        """Whether more than one server may recover from damage at a time."""
        self.busy = False
        """Whether clients go on when the faults stop."""
        self.idle = False
        """Whether nothing is submitted after the faults until all members are equal."""
        self.wipe_at_rest = False
        """Whether a member's disk is replaced when the faults have stopped and all is equal."""
        self.others: tuple[int, ...] = (RAFT_STANDBY, RAFT_SPARE)
        """The role of members at first that are not voters."""
        self.reading = (0, 0)
        """The time that reading a snapshot takes beyond an access to the disk."""
        self.ids: tuple[int, ...] = ()
        """Ids of all servers, 1, 2, … if empty."""
        self.first_index = 0
        """The snapshot index with which a cluster begins, 0 for one that begins with entry 1."""
        self.first_term = 1
        self.unreachable = False
        """Whether indexes are beyond those that a snapshot may have, so that whoever needs one stays behind."""

    def _draw(self, dice: Random) -> None:
        self.servers = dice.choice((1, 2, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7))
        self.voters = dice.randint(1, self.servers)
        if dice.random() < 0.6:
            self.voters = self.servers
        self.machines = min(MAX_SERVERS, self.servers + dice.choice((0, 0, 1, 2)))
        """Servers that exist; those beyond `servers` are empty until somebody adds them."""
        self.heartbeat, self.election = dice.choice(((100, 1000), (100, 300), (50, 150), (50, 120), (20, 60)))
        self.install_timeout = dice.choice((300, 2000, 10000))
        self.pre_vote = dice.choice((0.0, 0.5, 1.0))
        self.threshold = dice.choice((3, 8, 8, 32, 1024))
        self.trailing = dice.choice((0, 1, 1, 4, 32))
        self.machine_version = dice.choice((1, 2, 3))
        self.machine_async = dice.random() < 0.5
        self.bad_machines = dice.random() < 0.1
        self.defer = dice.random() < 0.5
        self.max_append_bytes = dice.choice((0, 40, 40, 200))
        self.max_inflight_bytes = dice.choice((0, 100, 100, 1000))
        self.skew = dice.choice((0.0, 0.0, 0.02, 0.1))
        self.latency = dice.choice(((0, 2), (1, 10), (1, 10), (5, 40), (10, 150)))
        if self.election < 200:
            self.latency = dice.choice(((0, 2), (1, 10)))
        self.loss = dice.choice((0.0, 0.0, 0.01, 0.1, 0.25))
        self.duplication = dice.choice((0.0, 0.0, 0.02, 0.1))
        self.disk = dice.choice(((0, 0), (0, 3), (2, 20), (10, 100)))
        self.clients = dice.randint(1, 4)
        self.keys = dice.choice((1, 2, 5))
        self.think = dice.choice((5, 30, 100))
        self.noise = dice.random() < 0.5
        """Whether somebody submits bursts of several commands at once."""
        self.changes = dice.choice((0, 0, 300, 1000))
        """Mean time between membership changes, transfers and barriers; 0 for none."""
        self.faults = tuple(f for f in FAULTS if dice.random() < 0.35)
        if "damage" in self.faults and self.voters < 3:
            # A server whose disk has lost entries does not vote; the others must be able to do without it.
            self.faults = tuple(f for f in self.faults if f != "damage")
        self.fault_interval = dice.choice((30, 60, 100, 200))
        self.c_like = dice.choice((0.0, 0.0, 0.3, 0.6))
        """The share of servers like C's: messages go to the end of the log, answers have all that is stored."""
        if dice.random() < 0.15:
            # Many writes under way at once, on disks that fail: what fails, what is cut off, what is sent again?
            self.faults = tuple(f for f in FAULTS if f in self.faults or f in ("append_fault", "slow_disk"))
            self.disk = (10, 100)
            self.clients, self.think, self.noise = 4, 5, True
            self.fault_interval = 100
        self.apply_msecs = dice.choice((0, 0, 1, 4, 12))
        """The time that a command takes to apply, where a backlog is applied in pieces; 0 for no time, and no
        pieces."""

    def __repr__(self) -> str:
        fields: dict[str, Any] = vars(self)
        return ", ".join(f"{name}={value}" for name, value in fields.items())

"""The theme of a seed: most seeds have a theme, which makes a kind of world frequent that mixtures rarely bring.

Duty: `pick` says which theme a seed has, `apply` changes the profile accordingly. "plain" leaves it as drawn. Choices
come from dice of their own, so that the seeds without a theme are the same whatever themes there are.

Some faults of the past took several unlikely things in a row, and random mixtures did not bring them about in thousands
of clusters: an administrator who changes the configuration just when a leader is elected and cut off, a disk that is
slow while snapshots come and go, a cluster that is never idle, or always.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

from pyraft import RAFT_STANDBY

if TYPE_CHECKING:
    from tests.lib.simulation.profile import Profile

WORST_IDS: Final = (1, 2, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

ROOM: Final = 50_000
"""How far below a limit numbers begin, so that they do not pass it: more than a run has entries or terms."""

FARTHEST: Final = 1 << 62
"""Up to where a snapshot may bring a log (pyraft.plausible); beyond it nobody can join any more."""


def pick(seed: int) -> str:
    """Return the theme of a seed."""
    dice = Random(f"theme {seed}")
    return dice.choices(list(THEMES), [weight for weight, _ in THEMES.values()])[0]


def apply(profile: "Profile", seed: int) -> None:
    """Change a profile to what the theme of its seed wants."""
    profile.theme = pick(seed)
    dice = Random(f"what the theme is made of {seed}")
    THEMES[profile.theme][1](profile, dice)
    _narrow(profile, seed)
    if profile.theme != "plain":
        profile.idle = profile.idle or (not profile.busy and dice.random() < 0.3)
        if profile.theme in ("changes", "even", "transfers", "snapshots") and dice.random() < 0.15:
            _numbers(profile, dice)


def _narrow(profile: "Profile", seed: int) -> None:
    """Let some seeds of a theme be about a narrower thing."""
    dice = Random(f"what is narrower {seed}")
    share, change = NARROWER.get(profile.theme, (0.0, _plain))
    if dice.random() < share:
        change(profile, dice)


def _with(profile: "Profile", dice: Random, always: tuple[str, ...], sometimes: tuple[str, ...]) -> None:
    """Set the faults: these, and some of those."""
    profile.faults = always + tuple(fault for fault in sometimes if dice.random() < 0.3)


def _quick(profile: "Profile", dice: Random) -> None:
    """Have short elections, so that a run has many."""
    profile.heartbeat, profile.election = dice.choice(((50, 150), (50, 120), (20, 60)))
    profile.latency = dice.choice(((0, 2), (1, 10)))
    profile.disk = dice.choice(((0, 0), (0, 3), (2, 20)))


def _plain(profile: "Profile", dice: Random) -> None:
    pass


def _changes(profile: "Profile", dice: Random) -> None:
    """Change everything, all the time, above all right after elections, of leaders that are cut off then."""
    _quick(profile, dice)
    profile.servers = dice.choice((2, 3, 3, 4, 4, 5))
    profile.voters = dice.choice((profile.servers, profile.servers, max(1, profile.servers - 1)))
    profile.machines = min(6, profile.servers + dice.choice((0, 1, 1)))
    profile.changes = dice.choice((10, 30, 80, 150))
    profile.eager = dice.choice((0.5, 0.9))
    profile.cut_off = dice.choice((0.3, 0.7))
    profile.clients, profile.think, profile.noise = dice.choice((1, 2)), dice.choice((5, 30)), False
    profile.loss = profile.duplication = profile.c_like = 0.0
    profile.apply_msecs = 0
    _with(profile, dice, ("partition", "isolate"), ("crash", "stop", "one_way", "slow_disk", "power_loss", "pause"))
    profile.fault_interval = dice.choice((60, 100, 200))
    if dice.random() < 0.6:
        # Two single changes from one base have majorities that do not meet only if the base has an even number.
        profile.servers, profile.voters, profile.machines = 5, 4, 5
        profile.changes, profile.eager, profile.cut_off, profile.tempting = 300, 0.0, 0.0, 0.6
        profile.disk = (0, 3)
        _with(profile, dice, ("isolate",), ("crash", "stop"))
        profile.fault_interval = 200


def _transfers(profile: "Profile", dice: Random) -> None:
    """Hand the leadership on, to anybody, also while that is under way elsewhere."""
    _quick(profile, dice)
    profile.servers = profile.voters = dice.choice((2, 3, 3, 4, 5))
    profile.machines = profile.servers
    profile.transfers = dice.choice((10, 40, 60, 150))
    profile.eager = dice.choice((0.0, 0.9))
    profile.changes = dice.choice((0, 150))
    _with(profile, dice, (), ("crash", "partition", "isolate", "one_way", "slow_disk", "pause", "refuse"))


def _even(profile: "Profile", dice: Random) -> None:
    """Let two halves of an even number of voters stand against each other."""
    profile.servers = profile.voters = dice.choice((2, 2, 4, 4, 6))
    profile.machines = profile.servers + 1
    profile.changes = dice.choice((80, 300))
    profile.eager = 0.5
    profile.cut_off = dice.choice((0.0, 0.6))
    profile.noise, profile.bursts = True, dice.choice((0, 10, 30))
    profile.loss = profile.c_like = 0.0
    _with(profile, dice, ("partition",), ("crash", "isolate", "one_way", "slow_disk", "append_fault", "power_loss"))


def _growing(profile: "Profile", dice: Random) -> None:
    """Grow from one server to all of them, shrink to one, grow again."""
    profile.servers = profile.voters = 1
    profile.machines = dice.choice((3, 5, 7))
    profile.changes = dice.choice((30, 80, 150))
    profile.direction = "grow"
    profile.c_like = dice.choice((0.0, 0.3))
    _with(profile, dice, (), ("crash", "partition", "isolate", "slow_disk", "append_fault", "power_loss", "send_fault"))
    profile.fault_interval = 200


def _shrinking(profile: "Profile", dice: Random) -> None:
    """Shrink to one voter, sometimes try to take that away, grow again."""
    _growing(profile, dice)
    profile.servers = profile.voters = profile.machines = dice.choice((2, 3, 5))
    profile.direction = "shrink"


def _damaged(profile: "Profile", dice: Random) -> None:
    """Lose entries of one or several disks while the members change and clients never rest."""
    profile.servers = dice.choice((2, 3, 3, 4, 5))
    profile.voters = profile.servers
    profile.machines = profile.servers + dice.choice((0, 1))
    profile.changes = dice.choice((0, 80, 300, 1000))
    profile.several = dice.random() < 0.5
    profile.busy = dice.random() < 0.6
    profile.latency = dice.choice(((0, 2), (1, 10)))
    profile.disk = dice.choice(((0, 0), (0, 3), (2, 20)))
    profile.skew = 0.0
    if profile.busy:
        profile.clients, profile.think = 4, 5
    _with(profile, dice, ("damage",), ("crash", "isolate", "partition", "stop", "power_loss", "slow_disk"))
    profile.fault_interval = dice.choice((100, 200))


def _wiped(profile: "Profile", dice: Random) -> None:
    """Bring members back with empty disks, and make one empty when all is quiet."""
    _quick(profile, dice)
    profile.servers = profile.voters = dice.choice((3, 3, 4, 5))
    profile.machines = profile.servers
    profile.changes = dice.choice((0, 0, 300))
    profile.c_like = 0.0
    profile.loss = profile.duplication = 0.0
    profile.idle = True
    profile.wipe_at_rest = dice.random() < 0.5
    _with(profile, dice, ("wipe", "crash"), ("isolate", "partition"))
    profile.fault_interval = dice.choice((100, 200))


def _like_c(profile: "Profile", dice: Random) -> None:
    """Let some servers be like C's, with short messages, long left-overs and leaders that are cut off."""
    _quick(profile, dice)
    profile.servers = profile.voters = dice.choice((3, 3, 3, 4, 5))
    profile.machines = profile.servers
    profile.c_like = dice.choice((0.3, 0.5, 0.7))
    profile.max_append_bytes = dice.choice((40, 40, 200))
    profile.max_inflight_bytes = dice.choice((0, 100, 1000))
    profile.threshold = dice.choice((8, 32, 1024))
    profile.transfers = dice.choice((0, 0, 60, 150))
    profile.changes = dice.choice((0, 0, 150))
    profile.clients, profile.think, profile.noise = 2, 5, True
    profile.cut_off = dice.choice((0.3, 0.6))
    profile.apply_msecs = 0
    profile.loss = profile.duplication = 0.0
    _with(profile, dice, ("isolate", "partition"), ("crash", "refuse", "one_way", "slow_disk", "power_loss"))
    profile.fault_interval = dice.choice((60, 100, 200))


def _snapshots(profile: "Profile", dice: Random) -> None:
    """Take a snapshot every few entries, keep next to none of them, and have writes fail late in between."""
    profile.servers = profile.voters = dice.choice((2, 3, 3, 5))
    profile.machines = profile.servers + dice.choice((0, 1))
    profile.heartbeat, profile.election = dice.choice(((100, 300), (50, 150), (20, 60)))
    profile.latency = dice.choice(((0, 2), (1, 10)))
    profile.threshold = dice.choice((1, 3, 3, 8))
    profile.trailing = dice.choice((0, 1, 1))
    profile.install_timeout = dice.choice((2000, 10000))
    profile.disk = dice.choice(((0, 3), (2, 20), (10, 100)))
    profile.clients, profile.think = dice.choice((1, 4)), dice.choice((5, 30, 300))
    profile.noise = profile.think < 300 and dice.random() < 0.5
    profile.loss = profile.duplication = 0.0
    profile.changes = dice.choice((0, 0, 300))
    profile.c_like = dice.choice((0.0, 0.0, 0.3))
    always = ("isolate", "slow_disk", *dice.choice((("append_fault",), ("put_fault",), ())))
    _with(profile, dice, always, ("partition", "crash", "get_fault", "pause"))
    profile.fault_interval = dice.choice((30, 100, 200))
    if dice.random() < 0.4:
        # Little happens, every entry is in a snapshot at once, and a server that misses one needs that, on a slow disk.
        profile.heartbeat, profile.election, profile.install_timeout = 100, 300, 10000
        profile.clients, profile.think, profile.noise = 1, dice.choice((100, 300)), False
        profile.threshold, profile.trailing, profile.disk = 1, dice.choice((0, 1)), (10, 100)
        profile.apply_msecs = profile.changes = 0
        _with(profile, dice, ("isolate", "slow_disk"), ("put_fault", "crash"))
        profile.fault_interval = dice.choice((100, 200))
    elif dice.random() < 0.4:
        # The leader's disk is behind the others', and fails when a snapshot of what they committed waits for it.
        profile.heartbeat, profile.election = dice.choice(((100, 1000), (100, 300)))
        profile.servers = profile.voters = dice.choice((3, 3, 5))
        profile.clients, profile.think, profile.noise, profile.bursts = 1, 300, True, 1000
        profile.threshold, profile.trailing, profile.disk = dice.choice((1, 3, 8)), dice.choice((0, 1, 8)), (1, 20)
        profile.latency, profile.apply_msecs, profile.changes = (0, 2), 0, 0
        _with(profile, dice, ("slow_disk", "append_fault"), ("crash", "isolate"))
        profile.fault_interval = dice.choice((60, 100))


def _long_reads(profile: "Profile", dice: Random) -> None:
    """Let members come back that need the snapshot, which takes many heartbeats to read, while nothing happens."""
    profile.servers = profile.voters = profile.machines = 3
    profile.heartbeat, profile.election, profile.reading = dice.choice(
        ((100, 1000, (600, 2000)), (100, 300, (600, 2000)), (50, 300, (300, 1000)))
    )
    profile.latency, profile.disk, profile.install_timeout = dice.choice(((0, 2), (1, 10))), (0, 3), 10000
    profile.threshold, profile.trailing = dice.choice((1, 1, 3)), dice.choice((0, 1))
    profile.clients, profile.think, profile.noise = 1, dice.choice((60, 200)), False
    profile.apply_msecs = profile.changes = 0
    profile.loss = profile.duplication = profile.c_like = profile.skew = 0.0
    _with(profile, dice, ("fall_behind",), ("crash", "slow_disk", "put_fault"))
    profile.fault_interval = dice.choice((30, 100, 300))


def _deserted(profile: "Profile", dice: Random) -> None:
    """Cut leaders off that are given many commands, and let them come back to others that were given as many."""
    profile.servers = profile.voters = profile.machines = 4
    profile.heartbeat, profile.election = dice.choice(((50, 150), (100, 300)))
    profile.latency, profile.disk, profile.skew = (0, 2), dice.choice(((0, 0), (0, 3))), 0.0
    profile.threshold, profile.trailing, profile.apply_msecs = 1024, 32, 0
    profile.clients, profile.think, profile.noise, profile.bursts = 1, 300, True, dice.choice((30, 60))
    profile.changes = profile.transfers = 0
    profile.pre_vote = profile.cut_off = profile.loss = profile.duplication = profile.c_like = 0.0
    _with(profile, dice, ("desert",), ())
    profile.fault_interval = 10 * profile.election


def _alone(profile: "Profile", dice: Random) -> None:
    """Let the only voter lose what others have stored already, and go on at once, far away from them."""
    profile.servers = profile.machines = dice.choice((2, 2, 3))
    profile.voters, profile.others = 1, (RAFT_STANDBY,)
    profile.heartbeat, profile.election = dice.choice(((100, 300), (50, 150)))
    profile.latency, profile.disk = (10, 150), dice.choice(((2, 20), (10, 100)))
    profile.threshold, profile.trailing = 1024, 32
    profile.clients, profile.think, profile.noise = 2, dice.choice((50, 150)), False
    profile.apply_msecs = profile.changes = profile.transfers = 0
    profile.cut_off = profile.loss = profile.duplication = 0.0
    profile.c_like = 0.7
    _with(profile, dice, ("append_fault", "slow_disk"), ("crash", "isolate", "power_loss"))
    profile.fault_interval = dice.choice((60, 100, 200))


def _numbers(profile: "Profile", dice: Random) -> None:
    """Let ids, terms and indexes be as large as they can be, or just where something narrower would overflow."""
    profile.ids = tuple(sorted(dice.sample(WORST_IDS, len(WORST_IDS))[: profile.machines]))
    limit = dice.choice((0, 1 << 31, 1 << 32, 1 << 53, FARTHEST, 1 << 63, 1 << 64))
    # Some cross a boundary of C's that ours does not have; none passes one of ours.
    profile.first_index = max(0, limit - (20 if limit < FARTHEST else ROOM))
    profile.first_term = dice.choice((1, 1 << 31, (1 << 32) - 5, (1 << 53) - 5, (1 << 63) - 5, (1 << 64) - ROOM))
    if profile.first_index > FARTHEST or profile.first_term >= 1 << 31:
        # Nobody comes from nothing so far in one step (pyraft.plausible), so nobody has to.
        profile.machines = profile.servers
    if profile.first_index > FARTHEST:
        profile.threshold = ROOM
        profile.unreachable = True


def _extreme(profile: "Profile", dice: Random) -> None:
    _changes(profile, dice)
    _numbers(profile, dice)


THEMES: Final[dict[str, tuple[int, Callable[["Profile", Random], None]]]] = {
    "plain": (9, _plain),
    "changes": (4, _changes),
    "transfers": (2, _transfers),
    "even": (2, _even),
    "growing": (2, _growing),
    "shrinking": (1, _shrinking),
    "damaged": (3, _damaged),
    "wiped": (2, _wiped),
    "like C": (3, _like_c),
    "snapshots": (3, _snapshots),
    "numbers": (1, _extreme),
}
"""Name -> (how many seeds have it in proportion, what it does to a profile)."""

NARROWER: Final[dict[str, tuple[float, Callable[["Profile", Random], None]]]] = {
    "snapshots": (0.1, _long_reads),
    "like C": (0.2, _alone),
    "even": (0.3, _deserted),
}
"""Theme -> (the share of its seeds, what these are made about)."""

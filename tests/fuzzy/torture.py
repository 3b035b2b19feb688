"""Real servers, real files, SIGKILL at random moments under load: is anything lost, is anything out of order?

    python -m tests.fuzzy.torture [--kills 300] [--servers 3] [--seed SEED] [--dir DIR] [--seconds 0]

Duty: `torture` runs a cluster of processes under load, kills servers (one, several, all), starts them again, takes
snapshots all the while, and in clusters adds, promotes, demotes and removes a further server and transfers leadership.
At the end every register that was ever used is read again, all servers must be equal and the whole history
linearizable. `soak` does the same for a long time, never kills server 1, and shows what that process has grown to.

Happy path: a line per ten kills, and the figures at the end. Failure modes: AssertionError; the directory is kept and
named if it was made here. The seed repeats the choices, not the timing.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pyraft import RAFT_SPARE, RAFT_STANDBY, RAFT_VOTER
from tests.lib.processes import Lab
from tests.lib.register_load import Run

ROLES = {"spare": RAFT_SPARE, "stand-by": RAFT_STANDBY, "voter": RAFT_VOTER}


class Footprint:
    """What a process uses: resident bytes, file descriptors, threads, and files in its directory."""

    def __init__(self, pid: int, dir: Path) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        self.rss = int(fields["VmRSS"].split()[0]) * 1024
        self.threads = int(fields["Threads"])
        self.fds = len(os.listdir(f"/proc/{pid}/fd"))
        self.files = len(os.listdir(dir))

    def __str__(self) -> str:
        return f"{self.rss / 1e6:.1f} MB, {self.fds} fds, {self.threads} threads, {self.files} files"


class Torture:
    """One run: `spared` is never killed, if not 0."""

    def __init__(self, dir: Path, servers: int, seed: int, spared: int = 0) -> None:
        self.random = random.Random(seed)
        self.servers = servers
        self.spared = spared
        extra = 1 if servers > 1 else 0
        self.lab = Lab(dir, servers + extra, servers)
        self.run = Run(self.lab, self.random)
        self.guest = servers + 1 if extra else 0
        self.kills = 0
        self.changes = 0
        self.stall = 0

    def begin(self) -> None:
        """Wait until the cluster is there and answers."""
        self.run.until("all servers", lambda: len(self.run.ready) == len(self.lab.members), 30)
        self.run.answers()

    def blow(self) -> None:
        """Kill somebody under load, perhaps everybody, and start them again a moment later."""
        run, dice = self.run, self.random
        run.fresh_keys()
        run.load(dice.uniform(0.0, 0.6))
        self._note_stall()
        targets = [id for id in self.lab.members if id != self.spared and self.lab.members[id].process is not None]
        roll = dice.random()
        if roll < 0.35 and run.statuses:
            # Whoever says that it leads, if anybody does.
            leaders = [id for id in targets if id in run.statuses and run.statuses[id].leader == id]
            targets = leaders or targets
        chosen = targets if roll > 0.93 else dice.sample(targets, min(len(targets), 2 if roll > 0.8 else 1))
        for id in chosen:
            self.lab.kill(id)
            self.kills += 1
        run.load(dice.choice((0.0, 0.05, 0.3, 0.8)))
        self.lab.heal_all()
        run.until("the killed servers", lambda: len(run.ready) == len(self.lab.members), 30)
        if dice.random() < 0.7:
            run.answers(20)

    def change(self) -> None:
        """Change the configuration in some way, or who leads; a refusal is as good as any other answer."""
        if not self.guest:
            return
        dice = self.random
        guest = self.lab.members[self.guest]
        line = dice.choice(
            (
                f"add {guest.id} {guest.address}",
                f"assign {guest.id} {dice.choice(list(ROLES.values()))}",
                f"assign {guest.id} {RAFT_VOTER}",
                f"remove {guest.id}",
                f"transfer {dice.randint(1, self.servers)}",
            )
        )
        if self.run.change(line) == 0:
            self.changes += 1

    def _note_stall(self) -> None:
        self.stall = max([self.stall, *(status.stall for status in self.run.statuses.values())])

    def finish(self) -> str:
        """Make all servers voters, stop the load, compare everything, and return the figures."""
        run = self.run
        self.lab.heal_all()
        run.until("all servers", lambda: len(run.ready) == len(self.lab.members), 30)
        if self.guest:
            guest = self.lab.members[self.guest]
            run.until("the guest to be a voter", lambda: self._is_voter(guest.id, guest.address), 60)
        run.answers()
        run.read_all()
        self._note_stall()
        recovery = run.recover()
        run.check(recovery)
        return (
            f"{self.kills} kills, {self.changes} changes of configuration or leader, {len(run.history)} operations on "
            f"{len({op.key for op in run.history})} registers, {run.answered} answered; linearizable, nothing lost; "
            f"longest loop stall {self.stall / 1000:.1f} ms"
        )

    def _is_voter(self, id: int, address: str) -> bool:
        """Try to make a server a voter; being one already shows as a refusal of both changes."""
        return self.run.change(f"add {id} {address}") == 3 and self.run.change(f"assign {id} {RAFT_VOTER}") == 5

    def footprint(self) -> Footprint:
        """Return what the spared server uses."""
        member = self.lab.members[self.spared or 1]
        assert member.process is not None
        return Footprint(member.process.pid, member.dir)


def torture(dir: Path, servers: int, kills: int, seed: int, say: bool = True) -> str:
    """Kill so many times; return the figures."""
    run = Torture(dir, servers, seed)
    try:
        run.begin()
        told = 0
        while run.kills < kills:
            run.blow()
            if run.random.random() < 0.5:
                run.change()
            if say and run.kills >= told + 10:
                told = run.kills
                print(f"{run.kills:4} kills, {run.run.answered} answers, {run.changes} changes", flush=True)
        return run.finish()
    finally:
        run.lab.close()


def soak(dir: Path, servers: int, seconds: float, seed: int) -> str:
    """Load for so many seconds with kills and changes now and then, and compare server 1 with what it was at first."""
    run = Torture(dir, servers, seed, spared=1)
    samples: list[Footprint] = []
    try:
        run.begin()
        end = time.monotonic() + seconds
        due = 0.0
        while time.monotonic() < end:
            run.run.load(min(seconds / 40, 10.0))
            if servers > 1:
                run.blow()
                run.change()
            run.run.fresh_keys()
            if time.monotonic() >= due:
                due = time.monotonic() + seconds / 40
                samples.append(run.footprint())
                print(f"{end - time.monotonic():7.0f} s left: {samples[-1]}", flush=True)
        early, late = median(samples[len(samples) // 4 : len(samples) // 2]), median(samples[-len(samples) // 4 :])
        figures = f"server 1 early {early}, late {late}"
        print(figures, flush=True)
        assert late[0] < early[0] * 1.25 + 8e6, f"memory grows: {figures}"
        assert late[1] <= early[1] + 4, f"file descriptors grow: {figures}"
        assert late[2] <= early[2] + 2, f"threads grow: {figures}"
        assert late[3] <= early[3] + 8, f"files grow: {figures}"
        return run.finish() + "; " + figures
    finally:
        run.lab.close()


def median(samples: list[Footprint]) -> tuple[int, int, int, int]:
    """Return the medians of (resident bytes, file descriptors, threads, files)."""
    assert samples
    middle = len(samples) // 2
    rows = [(s.rss, s.fds, s.threads, s.files) for s in samples]
    columns = [sorted(column)[middle] for column in zip(*rows, strict=True)]
    return columns[0], columns[1], columns[2], columns[3]


def main() -> int:
    """Read the options, run, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0, help="soak for so long instead of counting kills")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--dir", type=Path, help="on which disk; a temporary directory by default")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="torture-", dir=options.dir))
    print(f"seed {options.seed}, {options.servers} servers in {base}", flush=True)
    if options.seconds:
        figures = soak(base, options.servers, options.seconds, options.seed)
    else:
        figures = torture(base, options.servers, options.kills, options.seed)
    print(figures)
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())

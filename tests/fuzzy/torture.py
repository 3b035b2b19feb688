"""Real servers, real files, SIGKILL at random moments under load: is anything lost, is anything out of order?

    python -m tests.fuzzy.torture [--kills 300] [--servers 3] [--seed SEED] [--dir DIR] [--seconds 0]

Duty: `torture` runs a cluster of processes under load, kills servers (one, several, all), starts them again, some with
a slow disk, so that they die with writes under way, pauses leaders for longer than an election takes, takes snapshots
all the while, and in clusters adds, promotes, demotes and removes a further server and transfers leadership. The words
of servers must agree with what they said before they were killed and with what the others say (`promises`). At the end
every register that was ever used is read again, all servers must be equal, come back equal after all were killed at
once, and the whole history is linearizable. No server may ever say what `never_said` has. `soak` does the same for a
long time, judges registers as soon as they are out of use, never kills server 1, and sees that no server's directory
and nothing of that process grows (`footprint`).

Happy path: a line per ten kills, or per 40th of the time, and the figures at the end. Failure modes: AssertionError;
the directory is kept and named. Ended by SIGINT or SIGTERM it stops the servers, removes the directory and returns
130 or 143. The seed repeats the choices, not the timing.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from pyraft import RAFT_SPARE, RAFT_STANDBY, RAFT_VOTER
from tests.fuzzy.footprint import Watch
from tests.lib import never_said
from tests.lib.processes import Lab
from tests.lib.register_load import Run

ROLES = {"spare": RAFT_SPARE, "stand-by": RAFT_STANDBY, "voter": RAFT_VOTER}

SLOW_SHARE = 0.3
"""How many lives of servers are lived with a slow disk."""


class Torture:
    """One run: `spared` is never killed, if not 0."""

    def __init__(self, dir: Path, servers: int, seed: int, spared: int = 0) -> None:
        self.random = random.Random(seed)
        self.servers = servers
        self.spared = spared
        extra = 1 if servers > 1 else 0
        self.lab = Lab(dir, servers + extra, servers, lambda id: id != spared and self.random.random() < SLOW_SHARE)
        self.run = Run(self.lab, self.random)
        self.guest = servers + 1 if extra else 0
        self.kills = 0
        self.changes = 0
        self.pauses = 0
        self.stall = 0
        # Servers that were paused since they were started: the delays of their loops are our doing.
        self.paused: set[int] = set()

    def begin(self) -> None:
        """Wait until the cluster is there and answers."""
        self.run.until("all servers", lambda: len(self.run.ready) == len(self.lab.members), 30)
        self.run.answers()

    def blow(self) -> None:
        """Kill somebody under load, perhaps everybody, and start them again a moment later."""
        run, dice = self.run, self.random
        run.load(dice.uniform(0.0, 0.6))
        if self.servers > 1 and dice.random() < 0.2:
            self.pause()
        if dice.random() < 0.7:
            # Killed right after, they have to keep what they just said.
            run.ask()
        self._note_stall()
        targets = [id for id in self.lab.members if id != self.spared and self.lab.members[id].process is not None]
        roll = dice.random()
        if roll < 0.35 and run.statuses:
            # A server that says that it leads, if there is one.
            leaders = [id for id in targets if id in run.statuses and run.statuses[id].leader == id]
            targets = leaders or targets
        chosen = targets if roll > 0.93 else dice.sample(targets, min(len(targets), 2 if roll > 0.8 else 1))
        for id in chosen:
            self._kill(id)
        run.load(dice.choice((0.0, 0.05, 0.3, 0.8)))
        self.lab.heal_all()
        run.until("the killed servers", lambda: len(run.ready) == len(self.lab.members), 30)
        if dice.random() < 0.7:
            run.answers(20)
        self.hear()

    def hear(self) -> None:
        """See that no server has said what it never should."""
        never_said.check([self.lab.dir / "stderr.txt"])

    def _kill(self, id: int) -> None:
        self.lab.kill(id)
        self.kills += 1
        self.paused.discard(id)

    def pause(self) -> None:
        """Pause a leader until there is another one, and ask it before it can have heard of that.

        Its own clock deposes it in the first turn of its loop. Leaders that go on for longer without knowing better
        take a broken network: test_networks.
        """
        run = self.run
        leader = run.leader()
        self.lab.pause(leader)
        self.paused.add(leader)
        self.pauses += 1
        run.question(leader)
        run.load(self.random.uniform(1.0, 1.8))
        run.question(leader)
        run.step()
        self.lab.resume(leader)
        run.answers(20)
        run.question(0)

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
        stalls = (status.stall for id, status in self.run.statuses.items() if id not in self.paused)
        self.stall = max([self.stall, *stalls])

    def finish(self) -> str:
        """Make all servers voters, stop the load, compare everything, and return the figures."""
        run = self.run
        self.lab.heal_all()
        run.until("all servers", lambda: len(run.ready) == len(self.lab.members), 30)
        self.invite()
        run.answers()
        run.read_all()
        self._note_stall()
        recovery = run.recover()
        self._kill_all()
        run.check(recovery)
        self.hear()
        return (
            f"{self.kills} kills, {self.pauses} pauses, {self.changes} changes of configuration or transfers, "
            f"{run.promises.leaders} terms with a leader, {run.promises.snapshots} snapshots, "
            f"{run.promises.installs} installed; {run.submitted} operations on {run.keys[-1] + 1} registers, "
            f"{run.answered} answered; linearizable, nothing lost; longest loop stall {self.stall / 1000:.1f} ms"
        )

    def invite(self) -> None:
        """Make the further server, if there is one, a voter."""
        if self.guest:
            guest = self.lab.members[self.guest]
            self.run.until("the guest to be a voter", lambda: self._is_voter(guest.id, guest.address), 60)

    def _kill_all(self) -> None:
        """Kill all equal servers at rest: what they find on their disks makes them the same as before."""
        run = self.run
        before = {status.digest for status in run.statuses.values()}
        for id in self.lab.members:
            self._kill(id)
        self.lab.heal_all()
        run.until("the killed servers", lambda: len(run.ready) == len(self.lab.members), 30)
        run.recover()
        after = {status.digest for status in run.statuses.values()}
        assert before == after, f"state {before} became {after} by a restart of all"

    def _is_voter(self, id: int, address: str) -> bool:
        """Try to make a server a voter; being one already shows as a refusal of both changes."""
        return self.run.change(f"add {id} {address}") == 3 and self.run.change(f"assign {id} {RAFT_VOTER}") == 5


def torture(dir: Path, servers: int, kills: int, seed: int, say: bool = True) -> str:
    """Kill so many times; return the figures."""
    run = Torture(dir, servers, seed)
    try:
        run.begin()
        told = 0
        while run.kills < kills:
            run.run.fresh_keys()
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
    """Load for so many seconds with kills and changes now and then, and see that nothing has grown meanwhile."""
    run = Torture(dir, servers, seed, spared=1)
    watch = Watch()
    try:
        run.begin()
        run.invite()
        end = time.monotonic() + seconds
        due = 0.0
        while time.monotonic() < end:
            if servers > 1:
                # Nobody is killed in the last tenth, so that the last lives of all are long enough to show something.
                if time.monotonic() < end - seconds / 10:
                    run.blow()
                run.change()
            run.run.load(min(seconds / 40, 10.0))
            # Registers go out of use slowly: servers keep them all.
            run.run.fresh_keys()
            run.run.settle()
            footprints = {id: watch.sample(member) for id, member in run.lab.members.items()}
            if time.monotonic() >= due:
                due = time.monotonic() + seconds / 40
                left = max(end - time.monotonic(), 0)
                print(f"{left:7.0f} s left, {run.kills} kills, {run.run.answered} answers: {footprints[1]}", flush=True)
        print("\n".join(watch.figures()), flush=True)
        history = run.finish()
        return history + "; " + watch.judge(seconds, 1)
    finally:
        run.lab.close()


def _end(number: int, frame: object) -> None:
    """Leave by way of all `finally`, and hear no second signal meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Read the options, run, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0, help="soak for so long instead of counting kills")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--dir", type=Path, help="on which disk; a temporary directory by default")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    base = Path(tempfile.mkdtemp(prefix="torture-", dir=options.dir))
    print(f"seed {options.seed}, {options.servers} servers in {base}", flush=True)
    try:
        if options.seconds:
            figures = soak(base, options.servers, options.seconds, options.seed)
        else:
            figures = torture(base, options.servers, options.kills, options.seed)
    except SystemExit:
        shutil.rmtree(base)
        raise
    print(figures)
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())

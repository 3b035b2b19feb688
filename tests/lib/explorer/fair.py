"""Whether a state still leads anywhere: a fair run without faults, from it to a command that all voters have applied.

Duty: `reaches` says whether a cluster gets there. From here on nothing fails: servers that have stopped are started
again, writes end, messages arrive in order and once, and time passes: leaders send heartbeats, count who has answered
and give transfers up; servers that no leader reaches stand for election, one after the other, each twice.
If there is a leader whose log all its voters have, up to its end, it gets one command, which all of them must apply as
well; after `IDLE_ROUNDS` any leader gets it, as it may take a command to commit what is older.

A state that does not come that far in `ROUNDS` rounds, whoever is the first to stand, is a dead end: no leader, or one
that cannot commit, or a voter that is left behind for ever. That is more rounds than any patience of the core needs.

A run stops as soon as it meets a state in which an earlier run has been, at the end of a round: what leads on from
there leads on from here. So most runs are short. Neither pasts nor names are compared.

Failure modes: `problem` tells what a server broke in a fair run, of what `server` checks; the run is a dead end then.
"""

from collections.abc import Callable, Iterator
from typing import Final

from pyraft import RAFT_LEADER, RAFT_UNAVAILABLE
from tests.lib.explorer.local import Outcome
from tests.lib.explorer.world import State, Step, World

ROUNDS: Final = 150
IDLE_ROUNDS: Final = 10
TOLD_ROUNDS: Final = 6
PROBE: Final = 0xFFFFFF
MAX_STEPS: Final = 2000
HEARING: Final = ("append_entries", "install_snapshot")


class Run:
    """One run, in which the `first` of those that no leader reaches stands first; `tell(step, outcome)` hears all."""

    def __init__(
        self, world: World, state: State, first: int = 0, tell: Callable[[Step, Outcome | None], None] | None = None
    ) -> None:
        self.world = world
        self.locals, self.links, _ = state
        self.first = first
        self.tell = tell
        self.problem = ""
        self.heard: set[int] = set()
        self.steps = 0

    def do(self, step: Step) -> None:
        """Do one step."""
        self.steps += 1
        if step[1][0] == "take":
            message = self.links[step[1][1] * self.world.n + step[0]][0]
            if self.world.table.messages[message][0] in HEARING:
                self.heard.add(step[0])
        self.locals, self.links, outcome = self.world.move(self.locals, self.links, step)
        if outcome is not None and outcome.problem and not self.problem:
            self.problem = f"server {step[0] + 1} {outcome.problem}"
        if self.tell is not None:
            self.tell(step, outcome)

    def quiet(self) -> None:
        """Let everything under way come to its end, and start servers that have stopped."""
        table, n = self.world.table, self.world.n
        limit = self.steps + MAX_STEPS
        busy = True
        while busy and not self.problem and self.steps < limit:
            busy = False
            for i in range(n):
                while not self.problem and self.steps < limit:
                    facts = table.facts(self.locals[i])
                    if facts.pending:
                        self.do((i, ("write",), None))
                    elif facts.reads:
                        self.do((i, ("read",), None))
                    elif facts.state == RAFT_UNAVAILABLE:
                        self.do((i, ("crash", 0), None))
                    else:
                        break
                    busy = True
                for source in range(n):
                    if self.links[source * n + i] and not self.problem:
                        self.do((i, ("take", source, 0, False), None))
                        busy = True

    def leaders(self) -> list[int]:
        """Return who leads, the highest term first."""
        facts = [self.world.table.facts(local) for local in self.locals]
        return sorted((i for i, f in enumerate(facts) if f.state == RAFT_LEADER), key=lambda i: -facts[i].term)

    def pass_time(self, round: int) -> None:
        """Let one round pass."""
        table, n = self.world.table, self.world.n
        self.heard = set(self.leaders())
        for i in self.leaders():
            self.do((i, ("heartbeat",), None))
        self.quiet()
        if round % 4 == 3:
            for i in range(n):
                if table.facts(self.locals[i]).transferring:
                    self.do((i, ("expire",), None))
            for i in self.leaders():
                self.do((i, ("contact",), None))
            self.quiet()
        waiting = [i for i in range(n) if i not in self.heard and table.facts(self.locals[i]).state != RAFT_LEADER]
        if waiting and round % 2 == 1:
            # Twice in a row, as the first time it may only learn how high the terms of the others are.
            self.do((waiting[(self.first + round // 4) % len(waiting)], ("timeout",), None))
            self.quiet()

    def settled(self) -> int:
        """Return who leads a cluster in which all voters have applied all that is in the leader's log, else -1."""
        table = self.world.table
        for i in self.leaders()[:1]:
            facts = table.facts(self.locals[i])
            if facts.transferring or facts.commit != facts.last:
                continue
            if all(table.facts(self.locals[j]).applied == facts.last for j in facts.voters):
                return i
        return -1

    def accepting(self) -> int:
        """Return a leader that takes commands, else -1."""
        facts = self.world.table.facts
        return next((i for i in self.leaders() if not facts(self.locals[i]).transferring), -1)


class Fairness:
    """The states from which a fair run is known to lead on. `problem` and `steps` are of the last one that did not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.good: set[tuple[int, ...]] = set()
        self.problem = ""
        self.broken = False
        self.steps: list[Step] = []
        self.runs = 0

    def reaches(self, state: State) -> bool:
        """Return whether a fair run from `state` gets a command to all voters, whoever is the first to stand in it."""
        self.runs += 1
        return any(self._reaches(state, first) or self.broken for first in range(self.world.n)) and not self.broken

    def _reaches(self, state: State, first: int) -> bool:
        run = Run(self.world, state, first)
        met: list[tuple[int, ...]] = []
        self.broken = False
        for done in self._rounds(run):
            key = self.world.canonical((run.locals, run.links, 0))[0][0]
            met.append(key)
            if done or key in self.good:
                self.good.update(met)
                return True
        self.broken = run.problem != ""
        self.problem = run.problem or f"dead end: no command reaches all voters in {ROUNDS} rounds without faults"
        self._tell(state, first)
        return False

    def _rounds(self, run: Run) -> Iterator[bool]:
        """Let rounds pass; yield at the end of each, when all is quiet, whether the command has been applied."""
        probe = 0
        for round in range(ROUNDS):
            run.quiet()
            if run.problem:
                return
            leader = run.settled()
            yield probe > 0 and leader >= 0 and self.world.table.facts(run.locals[leader]).applied >= probe
            if leader < 0 and round >= IDLE_ROUNDS:
                leader = run.accepting()
            if leader >= 0 and not probe:
                probe = self.world.table.facts(run.locals[leader]).last + 1
                run.do((leader, ("apply", PROBE), None))
                run.quiet()
            run.pass_time(round)
            if run.problem:
                return

    def _tell(self, state: State, first: int) -> None:
        """Run once more from a state that leads nowhere, and keep the steps, of `TOLD_ROUNDS` rounds at most."""
        self.steps = []
        run = Run(self.world, state, first, lambda step, outcome: self.steps.append(step))
        for round, _ in enumerate(self._rounds(run)):
            if round == TOLD_ROUNDS:
                break

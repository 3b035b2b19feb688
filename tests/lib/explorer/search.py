"""The search: breadth first from the first state of a scenario, so that what it finds is a shortest schedule.

Duty: `Search.run` takes each state that was reached, does every step that the bounds allow, judges it and remembers the
state that follows under its canonical names. States are kept as digests of 16 bytes, with the step and the state that
led to each, so that a path can be told; whole states are kept only until it is their turn.

The bounds do not belong to a state: one that was reached before with at least as much of every bound left is not new.

Failure modes: `problem` and `path` tell of the first thing that was found; `complete` is False if a limit ended the
search, then `depth` is how far all schedules have been tried.
"""

import time
from array import array
from collections import deque
from hashlib import blake2b

from tests.lib.explorer.fair import Fairness, Run
from tests.lib.explorer.local import Names
from tests.lib.explorer.scenario import Scenario
from tests.lib.explorer.world import Budget, State, Step, World, costs


class Search:
    """One search. `seconds` is its limit; `without` names checks that are left out, "dead-ends" among them."""

    def __init__(self, scenario: Scenario, seconds: float = 1e9, without: frozenset[str] = frozenset()) -> None:
        self.scenario = scenario
        self.seconds = seconds
        self.limit = scenario.states
        self.world = World(scenario, without)
        self.fairness = None if "dead-ends" in without else Fairness(self.world)
        self.states = 0
        self.transitions = 0
        self.depth = 0
        self.complete = False
        self.problem = ""
        self.path: list[Step] = []
        self.goes_on: list[Step] = []
        self.elapsed = 0.0
        self._met: dict[bytes, Budget | list[Budget]] = {}
        self._parents = array("i")
        self._steps = array("i")
        self._known_steps: dict[Step, int] = {}

    def start(self) -> tuple[State, list[Step]]:
        """Return the first state, and what happened before it, under the servers' first names."""
        world = self.world
        state = world.first(world.boot())
        if not self.scenario.led:
            return state, []
        past = state[2]
        steps: list[Step] = []
        run = Run(world, state, 0, lambda step, outcome: steps.append(step))
        run.do((0, ("timeout",), None))
        run.quiet()
        for _ in range(4):
            run.do((0, ("heartbeat",), None))
            run.quiet()
        assert run.leaders() == [0], "server 0 does not lead"
        locals, links, _ = state
        for step in steps:
            before = locals[step[0]]
            locals, links, outcome = world.move(locals, links, step)
            if outcome is not None:
                past, problem = world.invariants.judge(past, locals, step[0], before, outcome)
                assert not problem, problem
        return (locals, links, past), steps

    def run(self) -> "Search":
        """Search until something is found, everything was tried, or a limit is reached."""
        begin = time.monotonic()
        first, _ = self.start()
        state, _ = self.world.canonical(first)
        queue: deque[tuple[State, Budget, int, int]] = deque()
        self._add(state, self.scenario.bounds, -1, -1)
        queue.append((state, self.scenario.bounds, 0, 0))
        self.complete = True
        while queue and not self.problem:
            state, budget, number, depth = queue.popleft()
            self.depth = depth
            if depth >= self.scenario.depth or self.states >= self.limit:
                self.complete = False
                break
            if number % 64 == 0 and time.monotonic() - begin > self.seconds:
                self.complete = False
                break
            self._expand(queue, state, budget, number, depth)
        self.elapsed = time.monotonic() - begin
        return self

    def _expand(
        self, queue: "deque[tuple[State, Budget, int, int]]", state: State, budget: Budget, number: int, depth: int
    ) -> None:
        world, judge = self.world, self.world.invariants.judge
        locals, links, past = state
        for step in world.steps(state, budget):
            self.transitions += 1
            i = step[0]
            new_locals, new_links, outcome = world.move(locals, links, step)
            new_past = past
            if outcome is not None:
                new_past, problem = judge(past, new_locals, i, locals[i], outcome)
                if problem:
                    self._found(problem, number, step, [])
                    return
            left = budget
            for cost in costs(step):
                left = (*left[:cost], left[cost] - 1, *left[cost + 1 :])
            following, _ = world.canonical((new_locals, new_links, new_past))
            if not self._add(following, left, number, self._step_number(step)):
                continue
            queue.append((following, left, self.states - 1, depth + 1))
            if self.fairness is not None and not self.fairness.reaches(following):
                self._found(self.fairness.problem, number, step, self.fairness.steps)
                return

    def _step_number(self, step: Step) -> int:
        return self._known_steps.setdefault(step, len(self._known_steps))

    def _add(self, state: State, budget: Budget, parent: int, step: int) -> bool:
        """Remember a state; return False if it was reached before with as much of every bound left."""
        locals, links, past = state
        flat = array("I", locals)
        for link in links:
            flat.append(len(link))
            flat.extend(link)
        flat.append(past)
        key = blake2b(flat.tobytes(), digest_size=16).digest()
        known = self._met.get(key)
        if known is None:
            self._met[key] = budget
        elif isinstance(known, tuple):
            if known == budget or all(map(int.__ge__, known, budget)):
                return False
            self._met[key] = [known, budget]
        else:
            if any(all(map(int.__ge__, other, budget)) for other in known):
                return False
            known.append(budget)
        self.states = len(self._parents) + 1
        self._parents.append(parent)
        self._steps.append(step)
        return True

    @property
    def distinct(self) -> int:
        """Number of states that differ by more than what is left of the bounds."""
        return len(self._met)

    def _found(self, problem: str, number: int, last: Step, goes_on: list[Step]) -> None:
        """Note what was found, the path to it and how a fair run goes on, under the servers' first names."""
        self.problem = problem
        by_number = list(self._known_steps)
        steps = [last]
        while self._parents[number] >= 0:
            steps.append(by_number[self._steps[number]])
            number = self._parents[number]
        steps.reverse()
        world = self.world
        state, names = world.canonical(self.start()[0])
        for step in steps:
            self.path.append(world.renamed_step(step, _inverse(names)))
            locals, links, outcome = world.move(state[0], state[1], step)
            past = state[2]
            if outcome is not None:
                past, broken = world.invariants.judge(past, locals, step[0], state[0][step[0]], outcome)
                if broken:
                    return
            state, renaming = world.canonical((locals, links, past))
            names = tuple(renaming[new] for new in names)
        self.goes_on = [world.renamed_step(step, _inverse(names)) for step in goes_on]


def _inverse(names: Names) -> Names:
    back = [0] * len(names)
    for old, new in enumerate(names):
        back[new] = old
    return tuple(back)

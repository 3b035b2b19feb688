"""A sample of `make explore`: nothing is found in the core, each fault is, and what makes the search fast is true.

The whole of it is `make explore`; tests/README.md has its figures.
"""

import re
from itertools import permutations
from pathlib import Path
from random import Random

import pytest

from tests.lib.compiled import COMPILED
from tests.lib.explorer.broken import FAULTS, explore, write_copy
from tests.lib.explorer.scenarios import SCENARIOS
from tests.lib.explorer.search import Search
from tests.lib.explorer.story import Replay, read, tell, write
from tests.lib.explorer.world import State, Step

pytestmark = [
    pytest.mark.skipif(COMPILED, reason="the explorer freezes servers by their __slots__"),
    pytest.mark.usefixtures("quiet_core"),
]

STATES = 1500
WALKS = 3
LENGTH = 30


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_found_in_the_core(name: str) -> None:
    """The first states of every scenario break no invariant, and a fair run leads on from each."""
    scenario = SCENARIOS[name]
    search = Search(scenario)
    search.limit = STATES
    search.run()
    assert not search.problem, tell(search, search.path, search.goes_on)[1]
    assert search.complete or search.distinct > STATES // 2


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, tmp_path: Path) -> None:
    """In a copy of the core with the fault it is found, told, repeated from its words, and the core does not do it."""
    fault = FAULTS[name]
    write_copy(tmp_path, fault.edits)
    done = explore(tmp_path, fault.arguments(), timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    _, problem, *story = done.stdout.splitlines()
    assert re.search(fault.shows, problem), done.stdout
    match = re.fullmatch(r"  again: make explore REPLAY='(.*)'", story[-1])
    assert match is not None
    left_out = [word for check in fault.without for word in ("--without", check)]
    again = explore(tmp_path, ["--replay", match[1], *left_out], timeout=60)
    assert again.returncode == 1, done.stdout + again.stdout
    assert again.stdout.splitlines()[0] == problem or "dead end" in problem


def _walk(search: Search, dice: Random) -> list[Step]:
    """Return random steps from the first state on, each tried on servers that live on too."""
    replay = Replay(search)
    for step in search.start()[1]:
        replay.do(step)
    path: list[Step] = []
    for _ in range(LENGTH):
        choices = list(search.world.steps(replay.state, search.scenario.bounds))
        if not choices:
            break
        step = dice.choice(choices)
        path.append(step)
        replay.do(step)
        assert not replay.problem, "\n".join(replay.lines)
    return path


def _states(search: Search, path: list[Step]) -> list[State]:
    """Return the states along a path."""
    world = search.world
    state = search.start()[0]
    states = [state]
    for step in path:
        locals, links, outcome = world.move(state[0], state[1], step)
        past = state[2]
        if outcome is not None:
            past, _ = world.invariants.judge(past, locals, step[0], state[0][step[0]], outcome)
        state = locals, links, past
        states.append(state)
    return states


@pytest.mark.parametrize("name", SCENARIOS)
def test_frozen_and_renamed_servers_do_what_living_ones_do(name: str) -> None:
    """On random walks a server that is never frozen, with clocks that go on, ends every step as the frozen one does."""
    search = Search(SCENARIOS[name])
    for seed in range(WALKS):
        path = _walk(search, Random(f"{name} {seed}"))
        assert [read(write(step)) for step in path] == path


@pytest.mark.parametrize("name", SCENARIOS)
def test_states_that_differ_by_names_only_are_one_and_lead_to_the_same(name: str) -> None:
    """Under all names a state has one canonical form, and so have the states that follow it."""
    search = Search(SCENARIOS[name])
    world, bounds = search.world, search.scenario.bounds
    dice = Random(name)
    path = _walk(search, dice)
    for state in dice.sample(_states(search, path), min(3, len(path))):
        canonical = world.canonical(state)[0]
        following = _following(search, state)
        for names in permutations(range(world.n)):
            renamed = world.renamed(state, names)
            assert world.canonical(renamed)[0] == canonical
            assert {world.renamed_step(step, names) for step in world.steps(state, bounds)} == set(
                world.steps(renamed, bounds)
            )
            assert _following(search, renamed) == following


def _following(search: Search, state: State) -> set[State]:
    """Return the canonical forms of all states that follow."""
    world = search.world
    found = set()
    for step in world.steps(state, search.scenario.bounds):
        locals, links, outcome = world.move(state[0], state[1], step)
        past, problem = state[2], ""
        if outcome is not None:
            past, problem = world.invariants.judge(past, locals, step[0], state[0][step[0]], outcome)
        if not problem:
            found.add(world.canonical((locals, links, past))[0])
    return found


def test_the_story_of_a_schedule() -> None:
    """It says what happens, to whom, and what came of it."""
    search = Search(SCENARIOS["elections"])
    problem, story = tell(search, [read(word) for word in ("timeout1", "1>2", "2>1", "apply1~", "crash1/1")], [])
    assert not problem
    assert "the election timeout of server 1 passes" in story
    assert "server 2 receives RequestVote of term 2, last entry 1 of term 1 from 1" in story
    assert "1 leads term 2" in story
    assert "a client submits a command to server 1; its writes take longer" in story
    assert "server 1 is killed, 1 of what its disk had to do is done" in story
    assert story.endswith("again: make explore REPLAY='elections timeout1 1>2 2>1 apply1~ crash1/1'")

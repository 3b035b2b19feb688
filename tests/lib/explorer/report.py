"""The outcome of a search, in words.

Duty: `explore` searches one scenario, `replay` tells one schedule; both can be called in a process of their own.
Failure modes: what the search finds and a replay on living servers does not is told as a fault of the search.
"""

import logging

from tests.lib.explorer import story
from tests.lib.explorer.scenarios import SCENARIOS
from tests.lib.explorer.search import Search


def quiet() -> None:
    """Keep the core's log off the terminal."""
    logger = logging.getLogger("pyraft")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def explore(name: str, states: int, seconds: float, without: frozenset[str]) -> tuple[int, str, str]:
    """Search one scenario; return (distinct states, a line about it, the story of what it found or "")."""
    quiet()
    scenario = SCENARIOS[name]
    search = Search(scenario, seconds, without)
    search.limit = states or scenario.states
    search.run()
    how_far = "everything" if search.complete else f"all of {search.depth} steps"
    line = f"{name:<14} {search.distinct:>9} states {search.transitions:>9} steps {search.elapsed:7.1f} s  " + (
        search.problem or f"nothing found, tried {how_far}"
    )
    if not search.problem:
        return search.distinct, line, ""
    problem, text = story.tell(search, search.path, search.goes_on)
    if not problem:
        text = f"the search is at fault, as servers that live on do not do this: {search.problem}\n{text}"
    return search.distinct, line, text


def replay(words: list[str], without: frozenset[str]) -> int:
    """Tell the story of a schedule; return the exit status."""
    quiet()
    if not words or words[0] not in SCENARIOS:
        print(f"a schedule begins with a scenario, one of {', '.join(SCENARIOS)}")
        return 2
    search = Search(SCENARIOS[words[0]], without=without)
    problem, text = story.tell(search, [story.read(word) for word in words[1:]], [])
    print(text)
    return 1 if problem else 0

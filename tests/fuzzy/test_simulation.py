"""300 random clusters of 2,000 events each: no invariant breaks, and each gets back to work when the faults stop.

A failing seed names the command that repeats it with every event printed: `make sim SEED=… N=1 STEPS=2000 TRACE=1`.
"""

from collections import Counter
from typing import Any

import pytest

from pyraft import accept, snapshot
from tests.fuzzy.__main__ import run_one
from tests.lib.simulation import world
from tests.lib.simulation.disk import Disk
from tests.lib.simulation.node import Node
from tests.lib.simulation.profile import FAULTS
from tests.lib.simulation.themes import THEMES

STEPS = 2000


pytestmark = pytest.mark.usefixtures("quiet_core")


@pytest.mark.parametrize("seed", range(300), ids=lambda seed: f"seed{seed}")
def test_no_invariant_breaks(seed: int) -> None:
    """Election Safety to linearizability, checked after every event; see tests.lib.simulation.checks."""
    run_one(seed, STEPS)


def test_a_run_repeats_to_the_last_event() -> None:
    """Everything random comes from the seed."""
    for seed in (3, 11, 42):
        first, second = world.run(seed, STEPS), world.run(seed, STEPS)
        assert (first.now, first.steps, first.number) == (second.now, second.steps, second.number)
        assert first.checks.commands == second.checks.commands
        assert [repr(op) for op in first.history] == [repr(op) for op in second.history]


def test_the_runs_reach_what_they_are_meant_to_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds of faults happen, and lead to elections, truncations, installed snapshots and failed writes."""
    seen: Counter[str] = Counter()

    def counted(owner: Any, name: str, what: str, when: Any = lambda *args: True) -> None:
        inner = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if when(*args):
                seen[what] += 1
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    counted(Disk, "truncate", "truncations")
    counted(Disk, "fail", "failed writes")
    counted(Disk, "put", "snapshots taken", lambda disk, req, cb, trailing, snapshot: trailing > 0)
    counted(snapshot, "install_cb", "snapshots installed", lambda req, status: status == 0)
    counted(snapshot, "install_cb", "snapshots not installed", lambda req, status: status != 0)
    counted(Node, "crash", "crashes")
    counted(Node, "crash", "power losses in a call", lambda node: node.lost)
    counted(Node, "stop", "stops")
    counted(accept, "entries", "AppendEntries")
    worlds = [world.run(seed, STEPS) for seed in range(1000, 1120)]
    seen["elections"] = sum(w.checks.elections for w in worlds)
    seen["commands"] = sum(len(w.checks.commands) for w in worlds)
    seen["deferring"] = sum(w.profile.defer for w in worlds)
    seen["pre-voting"] = sum(w.profile.pre_vote > 0 for w in worlds)
    seen.update(w.profile.theme for w in worlds)
    for fault in FAULTS:
        seen[fault] = sum(fault in w.profile.faults for w in worlds)
    wanted = {"elections": 400, "commands": 8000, "truncations": 20, "snapshots installed": 50, "failed writes": 20}
    wanted |= {"crashes": 200, "power losses in a call": 20, "stops": 50, "snapshots taken": 500, "deferring": 20}
    wanted |= {"snapshots not installed": 1, "pre-voting": 40, **dict.fromkeys(FAULTS, 10)}
    wanted |= dict.fromkeys(THEMES, 3)
    missed = {what: seen[what] for what, least in wanted.items() if seen[what] < least}
    assert not missed, f"too few: {missed}"


def test_a_broken_invariant_is_told_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The story has what broke, the profile, the last events, the servers, and one command."""
    monkeypatch.setattr(Disk, "holds", lambda disk, index, term: False)
    with pytest.raises(world.Violation) as failure:
        world.run(5, STEPS)
    story = str(failure.value)
    assert "repeat: make sim SEED=5 N=1 STEPS=2000 TRACE=1" in story
    assert "profile: theme=" in story
    assert "last events:" in story
    assert ", disk term " in story.split("  servers:\n", 1)[1]


def test_a_cluster_that_stays_broken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liveness is checked too: after the faults a command must get through."""
    monkeypatch.setattr(Node, "receive", lambda node, message: None)
    with pytest.raises(world.Violation, match=f"no progress: {world.HEALING_TIME} ms after the faults stopped"):
        world.run(5, 200)

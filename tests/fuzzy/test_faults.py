"""The simulation sees each fault of the past: the cluster of one known seed breaks in a copy of the core that has it.

`make seeds` looks for such seeds from the first one on; tests/README.md has what it found.
"""

from pathlib import Path

import pytest

from tests.fuzzy.__main__ import quiet, run_one
from tests.fuzzy.faults import FAULTS, STEPS, simulate, write_copy


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.seed >= 0])
def test_a_fault_of_the_past_shows(name: str, tmp_path: Path) -> None:
    """With the fault that cluster ends with a broken invariant; without it does not (test_seeds_of_faults_do_well)."""
    fault = FAULTS[name]
    write_copy(tmp_path, fault.edits)
    result = simulate(tmp_path, fault.seed, 1, timeout=300)
    assert result.returncode == 1, f"not seen with seed {fault.seed}: {result.stdout}{result.stderr[-2000:]}"
    assert f"repeat: make sim SEED={fault.seed} " in result.stdout, result.stdout + result.stderr


def test_seeds_of_faults_do_well() -> None:
    """The failures in these clusters come from the fault."""
    quiet()
    for seed in sorted({fault.seed for fault in FAULTS.values() if fault.seed >= 0}):
        run_one(seed, STEPS)

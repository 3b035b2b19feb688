"""Short runs of `tests.fuzzy.torture_dqlite`: nodes killed at random under load; `make torture` runs long."""

import random
from pathlib import Path

import pytest

from tests.fuzzy import torture_dqlite


@pytest.mark.parametrize(("nodes", "kills"), [(3, 4), (5, 5)])
def test_nodes_are_killed_under_load(go_program: Path, tmp_path: Path, nodes: int, kills: int) -> None:
    """Nothing that was acknowledged is lost, by database/sql or by us; of five nodes two are ours."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    print(dict(torture_dqlite.run(go_program, tmp_path, kills, nodes, seed)))

"""Short runs of `torture`: real processes killed under load; `make torture` and `make soak` run long."""

import random
from pathlib import Path

import pytest

from tests.fuzzy import torture


@pytest.mark.parametrize(("servers", "kills"), [(1, 6), (3, 8)])
def test_killed_servers_lose_nothing(tmp_path: Path, servers: int, kills: int) -> None:
    """Every acknowledged operation is there at the end, on every server, in an order that clients could have seen."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    print(torture.torture(tmp_path, servers, kills, seed, say=False))


def test_a_short_soak_shows_what_a_server_uses(tmp_path: Path) -> None:
    """Memory, file descriptors, threads and files are compared with what they were early in the run."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    figures = torture.soak(tmp_path, 1, 6, seed)
    assert "server 1 early to late" in figures

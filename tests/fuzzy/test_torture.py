"""Short runs of `torture`: real processes killed under load; `make torture` and `make soak` run long."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzzy import torture
from tests.lib import processes


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_soak_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """No server runs on and no file stays."""
    command = [sys.executable, "-m", "tests.fuzzy.torture", "--seconds", "60", "--dir", str(tmp_path)]
    with subprocess.Popen(command, cwd=processes.ROOT, stdout=subprocess.PIPE, text=True) as soak:
        assert soak.stdout is not None
        for line in soak.stdout:
            if "kills" in line:
                break
        assert servers_in(tmp_path)
        soak.send_signal(number)
        assert soak.wait(300) == 128 + number
    assert os.listdir(tmp_path) == []
    deadline = time.monotonic() + 120
    while servers_in(tmp_path):
        assert time.monotonic() < deadline


def servers_in(dir: Path) -> list[str]:
    """Return the processes that were told to work in a directory, except for the soak itself."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if f"{dir}/" in command:
            found.append(command)
    return found

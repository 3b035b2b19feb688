"""Builds the program of go-dqlite once, or says why the tests beside it cannot run."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.dqlite.driver import LATENCY, Cluster, build


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of peer.go."""
    program = tmp_path_factory.mktemp("go") / "peer"
    problem = build(program)
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    return program


@pytest.fixture
def cluster(go_program: Path, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters; all that still runs at the end of a test is killed."""
    made: list[Cluster] = []

    def make(threshold: int = 1024, trailing: int = 8192, latency: int = LATENCY) -> Cluster:
        made.append(Cluster(go_program, tmp_path, threshold, trailing, latency))
        return made[-1]

    yield make
    for one in made:
        one.close()

"""Builds the program of go-dqlite once, or says why the tests beside it cannot run."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.dqlite.driver import Cluster

HERE = Path(__file__).resolve().parent
SOURCES = Path("/usr/share/gocode")
"""Where Debian's golang-github-canonical-go-dqlite-dev puts its sources."""


def _build(program: Path) -> str:
    """Build the program; return why that cannot be, "" if it can."""
    go = shutil.which("go")
    if go is None:
        return "no Go compiler (golang-go)"
    if not Path(SOURCES, "src/github.com/canonical/go-dqlite").is_dir():
        return "no go-dqlite (golang-github-canonical-go-dqlite-dev, libdqlite-dev)"
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(SOURCES),
        "GOFLAGS": "",
        "CGO_LDFLAGS_ALLOW": "-Wl,-z,now",
    }
    command = [go, "build", "-o", str(program), str(HERE / "peer.go")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    return "" if done.returncode == 0 else f"go-dqlite cannot be built: {(done.stdout + done.stderr)[-400:]}"


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of peer.go."""
    program = tmp_path_factory.mktemp("go") / "peer"
    problem = _build(program)
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    return program


@pytest.fixture
def cluster(go_program: Path, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters; what still runs at the end of a test is killed."""
    made: list[Cluster] = []

    def make(threshold: int = 1024, trailing: int = 8192) -> Cluster:
        made.append(Cluster(go_program, tmp_path, threshold, trailing))
        return made[-1]

    yield make
    for one in made:
        one.close()

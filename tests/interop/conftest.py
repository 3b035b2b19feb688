"""Builds the C server once, or says why the tests beside it cannot run.

C_RAFT_FLAGS in the environment has the compiler take another build than the installed libraft, cowsql's for instance:
`C_RAFT_FLAGS="-DTRANSPORT_VERSION=1 -I/tmp/cowsql/include -L/tmp/cowsql -Wl,-rpath,/tmp/cowsql"`.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.driver import HERE, Workshop


def _flags() -> list[str]:
    return shlex.split(os.environ.get("C_RAFT_FLAGS", ""))


def _missing(compiler: str | None) -> str:
    if compiler is None:
        return "no C compiler"
    probe = "#include <raft.h>\n#include <raft/uv.h>\nint main(void) { return raft_strerror(1) == 0; }\n"
    done = subprocess.run(
        [compiler, *_flags(), "-x", "c", "-", "-o", os.devnull, "-lraft", "-luv"],
        input=probe,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"no C library (libraft-dev, libuv1-dev): {done.stderr.strip()[:200]}"


@pytest.fixture(scope="session")
def c_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C server's program."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    problem = _missing(compiler)
    if problem:
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    program = tmp_path_factory.mktemp("c") / "server"
    assert compiler is not None
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *_flags()]
    subprocess.run([compiler, *flags, "-o", program, HERE / "server.c", "-lraft", "-luv"], check=True)
    return program


@pytest.fixture
def workshop(c_server: Path, tmp_path: Path) -> Iterator[Workshop]:
    """Makes servers; all that still runs at the end of a test is killed."""
    made = Workshop(c_server, tmp_path)
    yield made
    made.close()

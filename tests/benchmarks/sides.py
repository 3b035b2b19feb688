"""The sides that are compared: this project (pure, compiled where it was built, pyraft.node), libraft, PySyncObj.

`pyraft-system` and `pyraft-compiled-system` are the same code under the distribution's own interpreter, which Debian
and Ubuntu build with profiles; a Python that pyenv or somebody else has compiled is mostly built without them.

A side that cannot be had (no libraft-dev, no compiler, not built, not installed) is left out, with a word on why.
"""

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.processes import Side

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("pyraft", "io_uv")
NAMES = (
    "pyraft",
    "pyraft-compiled",
    "pyraft-system",
    "pyraft-compiled-system",
    "pyraft-node",
    "libraft",
    "pysyncobj",
)
ON_REQUEST = ("pysyncobj-unbatched",)


def find(names: list[str], workshop: Path) -> tuple[list[Side], list[str]]:
    """The sides of these names, made in a directory for temporary things; and why others are missing."""
    makers = {
        "pyraft": pure,
        "pyraft-compiled": compiled,
        "pyraft-system": pure_system,
        "pyraft-compiled-system": compiled_system,
        "pyraft-node": nodes,
        "libraft": libraft,
        "pysyncobj": pysyncobj,
        "pysyncobj-unbatched": pysyncobj_unbatched,
    }
    found, missing = [], []
    for name in names:
        side = makers[name](workshop)
        if isinstance(side, Side):
            found.append(side)
        else:
            missing.append(f"{name}: {side}")
    return found, missing


def pure(workshop: Path) -> Side | str:
    """The source as it is: a copy without extension modules, in case the tree has been compiled in place."""
    return Side("pyraft", [sys.executable, str(HERE / "server.py")], {"PYTHONPATH": str(_copied(workshop))})


def nodes(workshop: Path) -> Side | str:
    """pyraft.node, on the same source."""
    program = [sys.executable, str(HERE / "node_server.py")]
    return Side("pyraft-node", program, {"PYTHONPATH": str(_copied(workshop))}, journal="node")


def _copied(workshop: Path) -> Path:
    """Return where a copy of the source is."""
    tree = workshop / "pure"
    for package in PACKAGES:
        if not (tree / package).exists():
            ignore = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(ROOT / package, tree / package, ignore=ignore)
    return tree


def compiled(workshop: Path) -> Side | str:
    """The same with the hot modules compiled, in the tree or by `make compiled`."""
    root = next((root for root in (ROOT, ROOT / "build" / "compiled") if list((root / "pyraft").glob("*.so"))), None)
    if root is None:
        return "nothing is compiled, see make compiled"
    return Side("pyraft-compiled", [sys.executable, str(HERE / "server.py")], {"PYTHONPATH": str(root)})


def pure_system(workshop: Path) -> Side | str:
    """The source under the distribution's interpreter."""
    return _on_system(pure(workshop))


def compiled_system(workshop: Path) -> Side | str:
    """The compiled modules under the distribution's interpreter."""
    return _on_system(compiled(workshop))


def _on_system(side: Side | str) -> Side | str:
    """Return the side with the distribution's interpreter, which finds this environment's packages."""
    if isinstance(side, str):
        return side
    python = machine.system_python()
    if isinstance(python, str):
        return python
    path = os.pathsep.join([side.environment["PYTHONPATH"], machine.installed()])
    program = [python.path, *side.program[1:]]
    return dataclasses.replace(side, name=f"{side.name}-system", program=program, environment={"PYTHONPATH": path})


def libraft(workshop: Path) -> Side | str:
    """A small server on the C library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "no C compiler"
    program = workshop / "server"
    command = [compiler, "-std=gnu11", "-O2", "-o", str(program), str(HERE / "server.c"), "-lraft", "-luv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"server.c does not compile (libraft-dev, libuv1-dev?): {done.stderr.strip()[:200]}"
    return Side("libraft", [str(program)])


def pysyncobj(workshop: Path) -> Side | str:
    """PySyncObj with its journal."""
    if importlib.util.find_spec("pysyncobj") is None:
        return "not installed"
    return Side("pysyncobj", [sys.executable, str(HERE / "pysyncobj_server.py")], journal="pysyncobj", syncs=False)


def pysyncobj_unbatched(workshop: Path) -> Side | str:
    """The same with its batching off whatever the load: entries are sent when they come."""
    side = pysyncobj(workshop)
    if isinstance(side, Side):
        side = dataclasses.replace(side, name="pysyncobj-unbatched", environment={"BENCH_UNBATCHED": "1"})
    return side

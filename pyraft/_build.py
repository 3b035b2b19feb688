"""Compiling the core with mypyc, for those who ask: a step of building a wheel, never imported at run time.

Duty: with PYRAFT_COMPILE=1 in the environment, `bdist_wheel` (pyproject.toml names this class for it) turns the
modules of pyraft into extension modules; the sources are installed beside them. Without it the wheel is pure Python.
mypy has to be there, so build without isolation:

    pip install 'setuptools>=77' mypy && PYRAFT_COMPILE=1 pip install --no-build-isolation .

Failure modes: without mypy or a C compiler the build fails; who asked for compiled modules never gets other ones.
"""

import os
from pathlib import Path
from typing import Any

from setuptools.command.bdist_wheel import bdist_wheel

SWITCH = "PYRAFT_COMPILE"

INTERPRETED = {"__init__", "_build", "aio", "tracing"}
"""What stays as it is: it gains nothing, is all waiting, or looks at the frames of its callers."""


def modules() -> list[str]:
    """Return the source files to compile, relative to the root of the project."""
    return sorted(str(path) for path in Path("pyraft").glob("*.py") if path.stem not in INTERPRETED)


class CompilingWheel(bdist_wheel):
    """`bdist_wheel` that adds the extension modules before it decides whether the wheel is pure."""

    def finalize_options(self) -> None:
        """Add the extension modules if they are asked for."""
        if os.environ.get(SWITCH) == "1":
            self.distribution.ext_modules = _extensions()
        super().finalize_options()


def _extensions() -> list[Any]:
    try:
        from mypyc.build import mypycify
    except ImportError:
        raise SystemExit(f"{SWITCH}=1 needs mypy beside setuptools, see {__file__}") from None
    return list(mypycify(modules(), opt_level="3"))

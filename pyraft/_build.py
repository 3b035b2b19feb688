"""Our own steps of building a wheel: compiling with mypyc, where that is asked for. Never imported at run time.

Duty: with PYRAFT_COMPILE=1 in the environment, `bdist_wheel` (pyproject.toml names this class for it) turns the
modules of pyraft, and those of io_uv that every entry passes, into extension modules; the sources are installed beside
them. Without it the wheel is pure Python. mypy has to be there, so build without isolation:

    pip install 'setuptools>=77' mypy && PYRAFT_COMPILE=1 pip install --no-build-isolation .

An sdist gets everything that is under version control, the tests and examples too: `make dist` builds and checks both.
Both are described by the README, without its links to files, which would lead nowhere where an index shows it.

These parts of io_uv stay interpreted: modules that run once per segment, snapshot, connection or start; `fs` and
`kaio`, in front of which tests put sick disks and power cuts; and pyuv, whose handles carry a program's own attributes,
weak references and finalisers, which mypyc's classes do badly or not at all. All compiled modules are one group: calls
between them are those of C functions, so a test cannot replace a function or a global of a compiled module.

Failure modes: without mypy, a C compiler or Python's headers the build fails at once and says which is missing, and so
it does for a PYRAFT_COMPILE that is neither a yes nor a no: a build that should be compiled never ends up interpreted.
"""

import os
import re
import shlex
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

SWITCH = "PYRAFT_COMPILE"
YES = ("1", "true", "yes", "on")
NO = ("", "0", "false", "no", "off")
"""The values of the switch, in capitals too."""

IN_SDIST = (".ci/run", ".gitignore", "Makefile", "examples", "tests")
"""Files that setuptools does not put into an sdist by itself."""

LINK = re.compile(r"(\()?\[([^\]]+)\]\((?!\w+:|#)([^)#]+)(?:#[^)]*)?\)(?(1)\))")
"""A link to a file beside the README. Groups: a parenthesis in front, its text, the file. Addresses do not match."""

WHERE = """
Files that are named here are those of the source distribution (`pip download --no-deps --no-binary :all: pyraft-uv`);
the files below pyraft/ and io_uv/ are installed too, beside the modules.
"""

INTERPRETED = {"__init__", "__main__", "_build", "_install", "aio", "tracing"}
"""The interpreted modules of pyraft: compiled they gain nothing, as they mostly wait, or lose their callers' frames."""

IO = (
    "append",
    "callbacks",
    "client",
    "closing",
    "crc",
    "encoding",
    "end_of_turn",
    "lane",
    "recv",
    "retry",
    "segment_buffer",
    "send",
    "state",
    "writer",
)
"""The compiled modules of io_uv."""


def asked_for() -> bool:
    """Return whether the environment asks for compiled modules; SystemExit for an answer that is neither yes nor no."""
    answer = os.environ.get(SWITCH, "").strip().lower()
    if answer not in YES + NO:
        raise SystemExit(
            f"{SWITCH} is {answer!r}: say {', '.join(YES)} to compile, {', '.join(NO[1:])} or nothing not to"
        )
    return answer in YES


def modules() -> list[str]:
    """Return the source files to compile, relative to the root of the project."""
    core = sorted(str(path) for path in Path("pyraft").glob("*.py") if path.stem not in INTERPRETED)
    return core + [f"io_uv/{name}.py" for name in IO]


def standing_alone(readme: str) -> str:
    """Return the README with paths in place of its links to files, and a paragraph that says where these files are."""
    if LINK.search(readme) is None:
        return readme
    title, _, rest = readme.partition("\n")
    return f"{title}\n{WHERE}{LINK.sub(_named, rest)}"


class DescribingInfo(egg_info):
    """`egg_info`, from which sdists and wheels have their metadata, with a description that stands alone."""

    def finalize_options(self) -> None:
        """Name files where the README links to them: an index has no place for them."""
        super().finalize_options()
        metadata = self.distribution.metadata
        metadata.long_description = standing_alone(metadata.long_description or "")


class CompilingWheel(bdist_wheel):
    """`bdist_wheel` that adds the extension modules before it decides whether the wheel is pure."""

    def finalize_options(self) -> None:
        """Add the extension modules if they are asked for."""
        if asked_for():
            self.distribution.ext_modules = _extensions()
        super().finalize_options()


class WholeSdist(sdist):
    """`sdist` with the tests, the examples and what runs them."""

    def make_distribution(self) -> None:
        """Add what setuptools leaves out, and pack everything."""
        for top in map(Path, IN_SDIST):
            files = top.rglob("*") if top.is_dir() else [top]
            kept = (path for path in files if path.is_file() and "__pycache__" not in path.parts)
            self.filelist.extend(sorted(map(str, kept)))
        super().make_distribution()


def _named(link: re.Match[str]) -> str:
    around, text, path = link.groups()
    if path.endswith(text):
        named = path
    else:
        named = f"{text}: {path}" if around else f"{text} ({path})"
    return f"({named})" if around else named


def _check_compiler() -> None:
    command = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(shlex.split(command)[0]) is None:
        raise SystemExit(f"{SWITCH}=1 needs a C compiler, and there is no {command} (gcc and libc6-dev on Debian)")
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").is_file():
        raise SystemExit(f"{SWITCH}=1 needs Python's headers, and {headers} has none (python3-dev on Debian)")


def _extensions() -> list[Any]:
    _check_compiler()
    try:
        from mypyc.build import mypycify
    except ImportError:
        raise SystemExit(f"{SWITCH}=1 needs mypy beside setuptools, see {__file__}") from None
    return list(mypycify(modules(), opt_level="3"))

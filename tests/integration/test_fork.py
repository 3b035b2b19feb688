"""Forks: the child has dead copies of the parent's servers and loops, and the parent does not notice that it was there.

The programs that fork are processes of their own, `tests.lib.forking` and `tests.lib.forking_aio`. They kill themselves
at the end; all that they acknowledged must be in their directories then.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from io_uv import disk
from pyraft import RAFT_COMMAND
from tests.lib import forking, forking_aio

REFUSED = "server is shutting down"
NO_LOOP = "RuntimeError: the loop is closed: this process was forked from the one that it belongs to"
NOT_BY_CODE = {
    "raft_state": "state 0",
    "raft_leader": "leader 0",
    "loop.run": "RuntimeError",
    "queue_work": "RuntimeError",
    "TCP": "RuntimeError",
    "connect": "AttributeError",
    "uv.timer": "None",
}
"""Functions that do not return a code, and their effect. A timer can be made, and is never due."""

CASES = [(where, "returns") for where in forking.WHERE]
CASES += [(where, "exits") for where in forking.WHERE if where.startswith("in ")]
CASES += [
    (where, "asks everything") for where in ("outside a run", "in a request's callback", "beside the loop's thread")
]


def run(module: str, *args: str) -> tuple[dict[str, Any], str]:
    """Run a program of tests.lib until it kills itself; return what it saw, and standard error."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", f"tests.lib.{module}", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ, PYTHONDEVMODE=""))
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(("where", "how"), CASES)
def test_the_parent_does_not_notice(where: str, how: str, tmp_path: Path) -> None:
    """Wherever it forks and however the child goes on: no file changes, and the parent acknowledges what it is given.

    The child has no descriptor of its parent's but uvloop's own, hears RAFT_SHUTDOWN, and its loop refuses to run.
    """
    saw, errors = run("forking", where, how, str(tmp_path))
    names, watched = saw["before"]
    assert set(names) <= set(saw["after"][0])
    assert set(watched) <= set(saw["after"][1])
    assert saw["acknowledged"] == 40
    assert saw["listens"] == saw["locked"] == [True, True]
    child = saw["child"]
    assert child["descriptors"] == []
    assert child["handler"] == "True"
    assert child["end"] == {"returns": NO_LOOP}.get(how, "left") or child["end"] == "returned"
    for call, answers in child.get("answers", {}).items():
        assert answers == [NOT_BY_CODE.get(call, REFUSED)], call
    assert errors == "" or (where == "in fsm.snapshot" and "it could not be stored" in errors), errors
    for id in ("1", "2"):
        assert numbers_in(tmp_path / id) == list(range(saw["applied"]))


def numbers_in(dir: Path) -> list[int]:
    """Load a directory as the next start does; return the numbers in its snapshot and its log."""
    snapshot, start_index, entries = disk.load(str(dir), False)
    found = [] if snapshot is None else [n for (n,) in struct.iter_unpack("<Q", snapshot.bufs[0])]
    last = 0 if snapshot is None else snapshot.index
    for index, (type, buf) in enumerate(zip(entries.types, entries.bufs, strict=True), start_index):
        if index > last and type == RAFT_COMMAND:
            found.append(int.from_bytes(buf[:8], "little"))
    return found


@pytest.mark.parametrize("host", forking_aio.HOSTS)
def test_a_child_does_not_hear_what_wakes_its_parent(host: str) -> None:
    """A child that goes on in the copy of a program's loop: threads of the parent reach the parent, each time."""
    assert run("forking_jobs", host, "40") == ({"done": 40}, "")


@pytest.mark.parametrize("how", forking_aio.HOW)
@pytest.mark.parametrize("host", forking_aio.HOSTS)
def test_a_fork_in_a_coroutine(host: str, how: str, tmp_path: Path) -> None:
    """A child that leaves, through asyncio's own clean-up, takes nothing from the parent; one that goes on hears no.

    That is the answer to what was under way, too, but for a request of the core's own function: no callback fires in a
    child. The loop, which is the program's, works in both.
    """
    saw, errors = run("forking_aio", host, how, str(tmp_path))
    assert errors == ""
    assert saw["status"] == 0
    assert saw["done"] == list(range(1, 24))
    assert saw["missed"] == []
    if how != "leaves":
        calls = ("under way", "apply", "barrier", "wait_leader")
        ends = {"close": "done", "leads": "False", "sleeps": "done", "called back": "[]"}
        assert saw["child"] == dict.fromkeys(calls, REFUSED) | ends


@pytest.mark.parametrize("call", ["open", "close"])
def test_a_child_has_no_descriptor_that_a_thread_was_busy_with(call: str, tmp_path: Path) -> None:
    """Around the system call there is a moment in which a thread is left behind, and only the system knows."""
    program = f"""
import os, threading
from io_uv import descriptors, fs
parent = os.getpid()
there, go = threading.Event(), threading.Event()
class System:
    def __getattr__(self, name): return getattr(os, name)
    def wait(self):
        if os.getpid() == parent:
            there.set()
            go.wait()
    def open(self, *args):
        fd = os.open(*args)
        if {call!r} == "open": self.wait()
        return fd
    def close(self, fd):
        if {call!r} == "close": self.wait()
        os.close(fd)
def work(): fs.close(fs.open({str(tmp_path)!r}, os.O_RDONLY))
descriptors.os = System()
thread = threading.Thread(target=work)
thread.start()
there.wait()
child = os.fork()
if not child:
    links = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    os._exit({str(tmp_path)!r} in targets)
go.set()
assert os.waitpid(child, 0)[1] == 0
thread.join()
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")

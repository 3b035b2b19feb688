"""Servers in a sandbox: real system calls that the kernel refuses, as the seccomp filter of a container makes it.

`refuse` makes calls fail with an errno in all threads of this process, for good. `python -m tests.lib.sandbox` reads a
list of cases as JSON from standard input, plays each, and prints what came of them. A case is {"dir", "code", "calls",
"late", "no ring"}. Three processes have the directory one after the other, servers of one: the first bootstraps it,
applies, takes snapshots and is killed; the second starts on what is left, applies, and is closed; the third goes on,
with nothing refused to it. With `late` the first one runs for a while before things are refused to it; with `no ring`
it does not read the results of asynchronous writes where they are, but has to call io_getevents.

Failure modes: a case that fails has its traceback under "error".
"""

import ctypes
import errno
import json
import logging
import os
import platform
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from io_uv import kaio
from io_uv.pyuv import Loop
from pyraft import RAFT_LEADER
from tests.lib.uvnode import Node, free_addresses
from tests.lib.uvtest import run_until

_NUMBERS = {
    "x86_64": {
        "epoll_create1": 291,
        "eventfd": 290,
        "fallocate": 285,
        "fcntl": 72,
        "fgetxattr": 193,
        "flock": 73,
        "fremovexattr": 199,
        "fsetxattr": 190,
        "fstatfs": 138,
        "io_destroy": 207,
        "io_getevents": 208,
        "io_setup": 206,
        "io_submit": 209,
        "openat": 257,
        "poll": 7,
        "seccomp": 317,
        "setsockopt": 54,
        "statx": 332,
    },
    "aarch64": {
        "epoll_create1": 20,
        "eventfd": 19,
        "fallocate": 47,
        "fcntl": 25,
        "fgetxattr": 10,
        "flock": 32,
        "fremovexattr": 16,
        "fsetxattr": 7,
        "fstatfs": 44,
        "io_destroy": 1,
        "io_getevents": 4,
        "io_setup": 0,
        "io_submit": 2,
        "openat": 56,
        "poll": 73,
        "seccomp": 277,
        "setsockopt": 208,
        "statx": 291,
    },
}

_F_SETFL, _F_OFD_GETLK, _F_OFD_SETLK = 4, 36, 37

Rule: TypeAlias = tuple[str, tuple[tuple[int, str, int], ...]]
"""A system call, and what its arguments must be like: (position, "is" or "has", number)."""

RULES: dict[str, tuple[Rule, ...]] = {
    "O_DIRECT": (
        ("fcntl", ((1, "is", _F_SETFL), (2, "has", os.O_DIRECT))),
        ("openat", ((2, "has", os.O_DIRECT),)),
    ),
    "ofd_lock": (("fcntl", ((1, "is", _F_OFD_SETLK),)), ("fcntl", ((1, "is", _F_OFD_GETLK),))),
    "tcp_options": (("setsockopt", ()),),
    **{name: ((name, ()),) for name in _NUMBERS["x86_64"] if name not in ("fcntl", "openat", "seccomp")},
}
"""Calls that can be refused."""

KNOWN = sys.platform == "linux" and platform.machine() in _NUMBERS


def _step(code: int, number: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, number & 0xFFFF_FFFF)


def _rule(rule: Rule, code: int) -> bytes:
    """Return the steps of a filter that answer `code`, or go on behind them."""
    name, conditions = rule
    rest = _step(0x06, 0x0005_0000 | code)
    for position, kind, number in reversed(conditions):
        n = len(rest) // 8
        test = _step(0x15, number, 0, n) if kind == "is" else _step(0x45, number, 0, n)
        rest = _step(0x20, 16 + 8 * position) + test + rest
    return _step(0x20, 0) + _step(0x15, _NUMBERS[platform.machine()][name], 0, len(rest) // 8) + rest


def refuse(code: int, *things: str) -> None:
    """Have the kernel answer `code` to these things, of RULES, in every thread of this process from now on."""
    steps = b"".join(_rule(rule, code) for thing in things for rule in RULES[thing]) + _step(0x06, 0x7FFF_0000)
    memory = ctypes.create_string_buffer(steps)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps) // 8, ctypes.addressof(memory)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
    rv = libc.syscall(_NUMBERS[platform.machine()]["seccomp"], 1, 1, program)
    assert rv == 0, os.strerror(ctypes.get_errno())


class _Log(logging.Handler):
    """Keeps what the logger io_uv is told."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        logging.getLogger("io_uv").addHandler(self)
        logging.getLogger("io_uv").propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _apply(node: Node, first: int, n: int) -> None:
    """Apply numbers, all at once, and wait for them."""
    run_until(node.loop, lambda: node.state == RAFT_LEADER)
    outcomes = [node.submit(first + i, 2048)[1] for i in range(n)]
    run_until(node.loop, lambda: all(outcome.calls for outcome in outcomes))
    assert all(outcome.statuses == [0] for outcome in outcomes), [outcome.statuses for outcome in outcomes]


def _begin(case: dict[str, Any]) -> Loop:
    """Refuse what is to be refused from the start, and return a loop."""
    if case.get("no ring"):
        kaio._RING_MAGIC = 0
    if not case.get("late"):
        refuse(getattr(errno, case["code"]), *case["calls"])
    return Loop()


def _first(case: dict[str, Any], found: dict[str, Any]) -> None:
    """A server to which something is refused, from the start or later, bootstraps its directory; it is killed."""
    log = _Log()
    loop = _begin(case)
    found["loop"] = type(loop._uv).__module__.split(".")[0]
    dir = Path(case["dir"])
    node = Node(dir, 1, free_addresses(1), loop).start(threshold=60)
    _apply(node, 0, 40)
    if case.get("late"):
        refuse(getattr(errno, case["code"]), *case["calls"])
    for i in range(40):
        _apply(node, 40 + i, 1)
    _apply(node, 80, 120)
    run_until(loop, lambda: any(name.startswith("snapshot-") for name in os.listdir(dir)))
    found["first"] = node.fsm.numbers == list(range(200))
    found["log"] = log.texts


def _second(case: dict[str, Any], found: dict[str, Any]) -> None:
    """The same is refused to the next one, from the start. It is closed, and everything of it is."""
    log = _Log()
    loop = _begin({**case, "late": False})
    node = Node(Path(case["dir"]), 1, free_addresses(1), loop).start()
    _apply(node, 200, 20)
    found["second"] = node.fsm.numbers == list(range(220))
    node.close()
    loop.close()
    found["again"] = log.texts
    found["open"] = [name for name in os.listdir(case["dir"]) if name.startswith("open-")]


def _third(case: dict[str, Any], found: dict[str, Any]) -> None:
    """Nothing is refused to the last one."""
    log = _Log()
    loop = Loop()
    node = Node(Path(case["dir"]), 1, free_addresses(1), loop).start()
    _apply(node, 220, 5)
    found["third"] = node.fsm.numbers == list(range(225))
    found["at last"] = [text for text in log.texts if "refused" in text]
    node.close()


def _in_child(fn: Callable[[dict[str, Any], dict[str, Any]], None], case: dict[str, Any]) -> dict[str, Any]:
    """Play something in a child, and return what it found."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        found: dict[str, Any] = {}
        try:
            fn(case, found)
        except BaseException:
            found["error"] = traceback.format_exc()
        with open(writer, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if text else {"error": f"the child ended with {status}"}


def main() -> None:
    """Play the cases that come on standard input."""
    results = []
    for case in json.load(sys.stdin):
        found: dict[str, Any] = {}
        for life in (_first, _second, _third):
            if "error" not in found:
                found |= _in_child(life, case)
        results.append(found)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

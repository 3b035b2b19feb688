"""Making file operations of io_uv fail: any one, several, or all from some moment on.

`Faults` stands in front of every system call that `io_uv.fs` and `io_uv.kaio` make and numbers them. A plan says for a
call whether it fails with an errno, writes only a part, or goes through; a stall holds all writes. With `dir` only what
concerns that directory counts. Calls come from several threads.
"""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv import fs, kaio
from io_uv.failure import Failure
from pyraft import errors

CALLS = (
    "open",
    "read",
    "readv",
    "write",
    "pwrite",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "rename",
    "unlink",
    "stat",
    "fstat",
    "links",
    "leads_to",
    "listdir",
)
WRITES = ("write", "pwrite", "aio")

SHORT = -1
"""Instead of an errno: write a part only."""

Plan = Callable[[int, str], int]
"""Takes number (from 0) and name of a call; returns 0 to let it through, an errno, or SHORT."""


def nothing(number: int, name: str) -> int:
    """The plan of a healthy disk."""
    return 0


def between(first: int, last: int, code: int) -> Plan:
    """Fail the calls from number `first` to `last`."""
    return lambda number, name: code if first <= number <= last else 0


def always(code: int, *names: str) -> Plan:
    """Fail all calls of these names, or all there are."""
    return lambda number, name: code if not names or name in names else 0


def error(code: int) -> OSError:
    """Return the exception for an errno."""
    return OSError(code, os.strerror(code))


class Faults:
    """Calls made so far, and the plan for those to come. Active from construction until the patch is undone."""

    def __init__(self, patch: pytest.MonkeyPatch, dir: Path | None = None) -> None:
        self.plan: Plan = nothing
        self.calls: list[str] = []
        self.failed = 0
        self._dir = os.fspath(dir) if dir is not None else ""
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._contexts: set[int] = set()
        for name in CALLS:
            patch.setattr(fs, name, self._wrapped(name, getattr(fs, name)))
        self._submit = kaio.Context.submit
        self._reap = kaio.Context.reap
        patch.setattr(kaio.Context, "submit", lambda context, *args, **options: self._aio(context, args, options))
        patch.setattr(kaio.Context, "reap", lambda context: self._completions(context))

    def begin(self, plan: Plan) -> None:
        """Count from 0 again and follow `plan`."""
        with self._lock:
            self.plan = plan
            self.calls = []
            self.failed = 0

    def heal(self) -> None:
        """Let everything through from now on."""
        self.plan = nothing
        self._flowing.set()

    def stall(self) -> None:
        """Hold every write until heal()."""
        self._flowing.clear()

    def _next(self, name: str) -> int:
        with self._lock:
            number = len(self.calls)
            self.calls.append(name)
            code = self.plan(number, name)
            self.failed += code != 0
            return code

    def _concerned(self, what: Any) -> bool:
        if not self._dir:
            return True
        path = what if isinstance(what, str) else os.readlink(f"/proc/self/fd/{what}")
        return path.startswith(self._dir)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            if not self._concerned(args[0]):
                return call(*args, **options)
            code = self._next(name)
            if code == SHORT and name in WRITES:
                fd, data, *rest = args
                return call(fd, memoryview(data)[: len(data) // 2 // 4096 * 4096 or len(data)], *rest)
            if code > 0:
                raise error(code)
            if name in WRITES:
                self._flowing.wait(600)
            return call(*args, **options)

        return wrapper

    def _aio(self, context: kaio.Context, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if self._concerned(args[0]):
            if not self._flowing.is_set():
                # A disk that stalls takes no write without blocking; the thread that gets it hangs.
                raise error(errno.EAGAIN)
            self._contexts.add(id(context))
        self._submit(context, *args, **options)

    def _completions(self, context: kaio.Context) -> list[tuple[int, int]]:
        done = self._reap(context)
        if id(context) not in self._contexts:
            return done
        return [(tag, self._result(result)) for tag, result in done]

    def _result(self, result: int) -> int:
        code = self._next("aio")
        if code == SHORT:
            return result // 2
        return -code if code > 0 else result


ERRNOS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EACCES, SHORT)
"""The answers of a sick disk."""


def refuse_allocation(monkeypatch: pytest.MonkeyPatch, *counters: int) -> list[str]:
    """Let the disk be full for these segments; return the list of those tried."""
    tried: list[str] = []
    allocate = fs.allocate_file

    def allocate_file(dir: str, name: str, size: int, *args: Any) -> int:
        if name.startswith("open-"):
            tried.append(name)
            if not counters or int(name[5:]) in counters:
                raise Failure(errors.RAFT_NOSPACE, f"not enough space to allocate {size} bytes")
        return allocate(dir, name, size, *args)

    monkeypatch.setattr(fs, "allocate_file", allocate_file)
    return tried

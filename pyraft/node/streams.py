"""Snapshots on their way between a replica and its I/O: in pieces, and in threads.

Duty: `Streams` stands between the core and its I/O. A snapshot that this member takes is encoded while it is written,
in the I/O's thread, piece by piece. One that a leader has sent is read in a thread once it is stored, before the core
hears of that: when the core has the replica restore it, the new state is there already and takes its place in a moment.
The former state is taken apart in a thread as well: freed as a whole it would stop all threads.

Happy path: `Streams(replica, io)`, before the server starts.

Failure modes: a state that cannot be encoded, a mistake of a machine's own `snapshot` for one, is logged, and the log
grows until a snapshot succeeds: all members have the same program, and none is to stop by it. The I/O leaves nothing of
the file. The core tries again, as it does after a disk has failed. If no thread can be had the replica
reads on the loop. Bytes that are not a snapshot are read again, and refused, when it is asked to restore them.
"""

import functools
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

from pyraft import RaftIo, RaftIoAsyncWork, RaftSnapshot
from pyraft.errors import printable
from pyraft.node.containers import TrackedSet
from pyraft.node.replica import Replica
from pyraft.node.tracked import Record, Tracked
from pyraft.types import BytesLike

_logger = logging.getLogger("pyraft")

_NOT_ENCODED: Final = "the state of the machines cannot be encoded"


class Streams:
    """The way of snapshots; see the head of this module."""

    def __init__(self, replica: Replica, io: RaftIo) -> None:
        """Take the place of some functions of `io` and `replica`."""
        self._replica = replica
        self._io = io
        self._told = ""
        """The error that the log has last."""
        self._io_put = io.snapshot_put
        io.snapshot_put = self._put
        replica.version = 2
        replica.snapshot_async = None
        replica.discard = self._discard

    def _put(self, io: RaftIo, trailing: int, req: Any, snapshot: RaftSnapshot, cb: Any) -> int:
        if trailing == 0:
            return self._install(io, req, snapshot, cb)
        snapshot.bufs = cast("Sequence[BytesLike]", self._pieces(snapshot.bufs))

        def stored(req: Any, status: int) -> None:
            cb(req, status)
            problem = self._replica.problem
            if status != 0 and problem is not None:
                req.raft.snapshot.problem = printable(f"{_NOT_ENCODED}: {type(problem).__name__}: {problem}")

        return self._io_put(io, trailing, req, snapshot, stored)

    def _pieces(self, head: Sequence[BytesLike]) -> Iterator[BytesLike]:
        try:
            yield from head
            yield from self._replica.pieces()
        except Exception as exc:
            self._replica.problem = exc
            if repr(exc) != self._told:
                self._told = repr(exc)
                _logger.error("%s, so no snapshot can be taken and the log grows", _NOT_ENCODED, exc_info=exc)
            raise

    def _install(self, io: RaftIo, req: Any, snapshot: RaftSnapshot, cb: Any) -> int:
        def stored(req: Any, status: int) -> None:
            if status != 0 or not self._in_thread(lambda: self._replica.prepare(snapshot.bufs[0]), prepared):
                cb(req, status)

        def prepared() -> None:
            cb(req, 0)
            self._replica.forget()

        return self._io_put(io, 0, req, snapshot, stored)

    def _discard(self, content: dict[str, Any]) -> None:
        self._in_thread(lambda: dismantle(content), lambda: None)

    def _in_thread(self, work: Any, done: Any) -> bool:
        """Have something done in a thread, and `done()` called on the loop, whatever comes of it."""
        request = RaftIoAsyncWork()

        def run(request: RaftIoAsyncWork) -> int:
            work()
            return 0

        request.work = run
        return self._io.async_work(self._io, request, lambda request, status: done()) == 0


def dismantle(content: dict[str, Any]) -> None:
    """Empty containers to which nobody else refers, and those inside them, so that each is freed by itself."""
    left: list[Any] = [content]
    while left:
        value = left.pop()
        pop = _pop(value)
        while value:
            member = pop()
            if isinstance(member, Tracked) and sys.getrefcount(member) <= 2:
                left.append(member.__dict__ if isinstance(member, Record) else member)


def _pop(value: Any) -> Callable[[], Any]:
    """Return the function that takes a member out of a container, whatever changes of it are noted elsewhere."""
    if isinstance(value, TrackedSet):
        order = value._order
        return lambda: (set.pop(value), order.popitem())
    if isinstance(value, dict):
        return lambda: dict.popitem(value)[1]
    return functools.partial(deque.pop if isinstance(value, deque) else list.pop, value)

"""The copy of a server that a forked child has: dead from the first moment, so that the server does not notice.

Duty: `watch(uv)` has a copy of the instance put to death in every child: its descriptors are closed (those of files by
`descriptors`, of handles by pyuv, of the writer here), whatever it was about to do is forgotten, and the table answers
RAFT_SHUTDOWN to everything; `io.forked` tells the core. No file is touched and no callback is called, as the child may
be about to become another program. The lock of the directory stays with the parent, as closing gives up no lock that
another process holds as well. How children learn of it, and what becomes of the loop, is in `pyuv.forked`.

Happy path of a child: it never asks. Happy path of a daemon that forks after raft_start: its next call says
RAFT_SHUTDOWN, and its loop's `run` raises RuntimeError; it has to fork first, and start then.

Failure modes: none. The fork may come in the middle of a callback of this instance; code below it on the stack
finds an instance that is closed, with nothing left to do.
"""

from typing import Final

from io_uv import state
from io_uv.failure import Failure
from io_uv.pyuv import forked
from pyraft import errors
from pyraft.types import UNSET

TEXT: Final = f"the server is closed: {forked.TEXT}"


class _Copy:
    """The watched stand-in for an instance: compiled, it cannot be referred to weakly itself."""

    __slots__ = ("__weakref__", "uv")

    def __init__(self, uv: state.Uv) -> None:
        self.uv = uv

    def _forking(self) -> None:
        pass

    def _forked(self) -> None:
        uv = self.uv
        uv.closing = uv.closed = True
        uv.refusal = Failure(errors.RAFT_SHUTDOWN, TEXT)
        uv.close_cb = None
        io = uv.io
        io.errmsg = TEXT
        if io.impl is uv and io.forked is not None:
            io.forked(io, TEXT)
        if uv.writer is not None:
            uv.writer.forget()
        end_of_turn = getattr(uv, "end_of_turn", None)  # not there before io.init
        if end_of_turn is not None:
            end_of_turn.forget()
        _forget(uv)


def watch(uv: state.Uv) -> None:
    """Have the copies of an instance die with the fork that makes them."""
    uv.copy = _Copy(uv)
    forked.watch(uv.copy)


def _forget(uv: state.Uv) -> None:
    """Let go whatever is under way: it is under way in the parent."""
    uv.append_start = uv.send_start = UNSET
    uv.after_finalize = lambda failure: None
    for requests in (uv.append_pending_reqs, uv.append_writing_reqs, uv.append_done_reqs, uv.append_doomed):
        requests.clear()
    uv.append_segments.clear()
    for waiting in (uv.barriers, uv.finalize_reqs, uv.prepare_reqs, uv.prepare_pool, uv.retries):
        waiting.clear()
    for client in uv.clients:
        client.forget()
    for things in (uv.clients, uv.servers, uv.dirty_clients, uv.aborting):
        things.clear()
    uv.prepare_inflight = uv.truncate_work = uv.snapshot_put_work = None
    uv.timer = uv.retry_timer = None
    uv.finalize_busy = False
    uv.lock = None

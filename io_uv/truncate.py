"""Removing the end of the log: RaftIo.truncate.

Duty: remove the entries from an index on, behind a blocking barrier: entries appended before are written first, what is
appended afterwards waits (uv_truncate.c).

Happy path: a thread cuts the closed segments (segment.truncate_log); then the barrier lets later appends go.

Failure modes: any step fails. C forgets it and goes on with a gap in the log. Here the barrier stays, appends fail with
the reason, and the whole is tried again (retry), until io.close. Entries that never reached the disk, as their append
failed, need no removal: nothing is done then.
"""

from io_uv import append, closing, listing, retry, segment, state, work
from io_uv.failure import Failure
from pyraft import errors
from pyraft.types import RaftIo


class Truncate:
    """A truncate at `index`.

    `attempt` says that a thread is busy with it, `failure` why the last attempt came to nothing, while the next one is
    under way as well: appends fail with it until one succeeds.
    """

    __slots__ = ("attempt", "failure", "index", "uv")

    def __init__(self, uv: state.Uv, index: int) -> None:
        self.uv = uv
        self.index = index
        self.attempt = False
        self.failure: Failure | None = None

    def run(self) -> None:
        """The barrier's turn."""
        uv = self.uv
        if uv.closing:
            return
        assert uv.truncate_work is None
        uv.truncate_work = self
        self.start()

    def start(self) -> None:
        """Make an attempt, unless one is under way."""
        if self.attempt:
            return
        self.attempt = True
        work.run(self.uv, self.remove, self.after)

    def remove(self) -> None:
        """Remove the entries from closed segments; in a thread."""
        _, segments = listing.list(self.uv.dir)
        segment.truncate_log(self.uv.dir, segments, self.index)

    def after(self, failure: Failure | None) -> None:
        """An attempt has ended."""
        uv = self.uv
        self.attempt = False
        if failure is not None and not uv.closing:
            self.failure = failure.wrap(f"truncate from {self.index}")
            retry.failed(uv, self.failure, try_again)
            append.fail_pending(uv, self.failure)
            return
        uv.truncate_work = None
        append.release_barrier(uv)
        closing.maybe_fire(uv)


def truncate(io: RaftIo, index: int) -> int:
    """RaftIo.truncate: remove all entries from `index` on; the next append takes its place.

    There is no callback; appends that follow tell. RAFT_INVALID for index 0, RAFT_CANCELED after io.close.
    """
    uv: state.Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    if index < 1:
        io.errmsg = f"truncate from index {index}"
        return errors.RAFT_INVALID
    if index >= uv.append_next_index:
        # C: uv_truncate.c:UvTruncate asserts. After a failed append the log in memory may be ahead of the disk.
        return 0
    request = Truncate(uv, index)
    append.request_barrier(uv, append.Barrier(request.run, True, lambda next_index: min(next_index, index)))
    return 0


def try_again(uv: state.Uv) -> None:
    """Make another attempt after a failure, if there was one."""
    request = uv.truncate_work
    if request is not None and request.failure is not None:
        request.start()


def close(uv: state.Uv) -> None:
    """Give up a truncate that failed: the next start reads a longer log, as after a crash."""
    request = uv.truncate_work
    if request is not None and request.failure is not None and not request.attempt:
        uv.truncate_work = None
        append.release_barrier(uv)

"""Work off the loop: jobs of other modules in threads, and RaftIo.async_work.

Duty: `run` executes a job on the data directory in the loop's thread pool and reports its outcome on the loop; the job
fails if the path leads no longer to the directory that was locked. `async_work` runs the user's function in the
same way, and counts it among the things that a close waits for (uv_work.c).

Happy path: the job returns, `done(None)` is called on the loop in a later turn.

Failure modes: a job that raises Failure hands it to `done`; any other exception is a defect, which becomes a
RAFT_IOERR that names it, so that the operation ends in every case. Neither kind is ever dropped. A job that no thread
can be started for ends with RAFT_TOOMANY, one that was waiting when the loop was closed with RAFT_CANCELED.
"""

from collections.abc import Callable

from io_uv import callbacks, closing, state
from io_uv.failure import Failure
from io_uv.pyuv import errno
from pyraft import errors
from pyraft.types import RaftIo, RaftIoAsyncWork, raft_io_async_work_cb


class _Job:
    """A function on its way through the thread pool."""

    __slots__ = ("done", "failure", "function", "uv")

    def __init__(self, uv: state.Uv, function: Callable[[], None], done: Callable[[Failure | None], None]) -> None:
        self.uv = uv
        self.function = function
        self.done = done
        self.failure: Failure | None = None

    def work(self) -> None:
        """Run in a thread of the pool."""
        try:
            closing.require_dir(self.uv)
            self.function()
        except Failure as failure:
            self.failure = failure
        except MemoryError:
            self.failure = Failure(errors.RAFT_NOMEM, "out of memory")
        except Exception as exc:
            self.failure = Failure(errors.RAFT_IOERR, f"{type(exc).__name__}: {exc}")

    def after(self, code: int | None) -> None:
        """Run on the loop when `work` has returned, or with the reason why it was never called."""
        self.done(self.failure if code is None else not_run(code))


def not_run(code: int) -> Failure:
    """Return the failure of a job that no thread took; `code` is the reason of queue_work."""
    if code == errno.UV_ECANCELED:
        return Failure(errors.RAFT_CANCELED, "the loop was closed")
    return Failure(errors.RAFT_TOOMANY, f"start thread: {errno.strerror(code)}")


def run(uv: state.Uv, function: Callable[[], None], done: Callable[[Failure | None], None]) -> None:
    """Run `function` in a thread, then `done(failure or None)` on the loop, never before this returns."""
    job = _Job(uv, function, done)
    uv.loop.queue_work(job.work, job.after)


class AsyncWork:
    """A RaftIoAsyncWork under way."""

    __slots__ = ("req", "status", "uv")

    def __init__(self, uv: state.Uv, req: RaftIoAsyncWork) -> None:
        self.uv = uv
        self.req = req
        self.status = 0

    def work(self) -> None:
        """Do it, in a thread."""
        self.status = self.req.work(self.req)

    def done(self, failure: Failure | None) -> None:
        """Call back, on the loop; `failure` says that it raised, or that there was no thread."""
        uv, req = self.uv, self.req
        status = self.status
        if failure is not None:
            status = failure.code
            uv.io.errmsg = errors.errmsg_wrap(failure.message, "async work")
        uv.aborting.remove(self)
        callbacks.fire(uv, req.cb, req, status)
        closing.maybe_fire(uv)


def async_work(io: RaftIo, req: RaftIoAsyncWork, cb: raft_io_async_work_cb) -> int:
    """RaftIo.async_work: run `req.work(req) -> int` in a thread; `cb(req, status)` gets what it returned.

    RAFT_CANCELED: io.close was called. A function that raises gives its callback RAFT_IOERR, one that no
    thread can be had for RAFT_TOOMANY.
    """
    uv: state.Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    req.cb = cb
    work = AsyncWork(uv, req)
    uv.aborting.append(work)
    run(uv, work.work, work.done)
    return 0

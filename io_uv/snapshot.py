"""Storing and loading snapshots: RaftIo.snapshot_put and RaftIo.snapshot_get.

Duty: put behind a barrier, so that the segments are closed that a snapshot may make superfluous; the files are written
and removed in a thread. get loads the newest snapshot in a thread (uv_snapshot.c).

Happy path of put: .meta, then the data, each complete and durable before it has its name; then all snapshots but the
last two go, and closed segments that the trailing entries do not reach into. trailing 0 stands for a snapshot that was
received (install): the log is replaced, so all closed segments go and the next append follows the snapshot. A snapshot
that the log does not reach, since appends before it have failed, replaces the log as well: the indexes of open segments
are counted from what is in front of them.

Failure modes: the state machine's check refuses a snapshot that was received: nothing is written, the log stays, and
the put ends with its code. The files cannot be written: both are removed, RAFT_IOERR. Once they are durable there is no
way back. Old files that cannot be removed are left to the next put. An install tries again and again to remove the
former log, and does not end before: what is appended next would pass for its continuation after a crash. The logger
`io_uv` hears of both. get without a snapshot: RAFT_NOTFOUND (C reports success with garbage, B25). At io.close puts
that wait end inside it with RAFT_CANCELED, an install between two attempts ends with the failure of the last one, and a
put that a thread is busy with ends as ever.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from io_uv import append, callbacks, closing, fs, listing, segment, snapshot_file, state, tcp_common, work
from io_uv.failure import Failure
from io_uv.pyuv import Timer
from io_uv.snapshot_file import SnapshotInfo
from pyraft import errors
from pyraft.tracing import TRACE_WARN, trace
from pyraft.types import (
    BytesLike,
    RaftIo,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftSnapshot,
    raft_io_snapshot_get_cb,
    raft_io_snapshot_put_cb,
)

_log: Final = logging.getLogger("io_uv")


class Put:
    """A RaftIoSnapshotPut under way.

    `installs` says whether it replaces the log, which is certain when its turn comes. `written` is the snapshot once it
    is durable; `failure` and `timer` are those of an install that waits for its next attempt to remove the former log.
    `taken` is how many bytes of large messages `recv` has taken meanwhile.
    """

    __slots__ = (
        "began",
        "failure",
        "former_next_index",
        "installs",
        "req",
        "snapshot",
        "taken",
        "timer",
        "trailing",
        "uv",
        "written",
    )

    def __init__(self, uv: state.Uv, req: RaftIoSnapshotPut, snapshot: RaftSnapshot, trailing: int) -> None:
        self.uv = uv
        self.req = req
        self.snapshot = snapshot
        self.trailing = trailing
        self.former_next_index = 0
        self.installs = trailing == 0
        self.written: SnapshotInfo | None = None
        self.failure: Failure | None = None
        self.timer: Timer | None = None
        self.began = 0.0
        self.taken = 0

    def next_index(self, former: int) -> int:
        """Return the append index after this put: an install goes on after its snapshot."""
        self.former_next_index = former
        if self.snapshot.index >= former:
            # C: uv_snapshot.c:UvSnapshotPut goes on where the log ends. After a crash these entries pass for those that
            # follow the snapshot.
            self.installs = True
        return self.snapshot.index + 1 if self.installs else former

    def run(self) -> None:
        """The barrier's turn."""
        uv = self.uv
        if uv.closing:
            callbacks.fire(uv, self.req.cb, self.req, errors.RAFT_CANCELED)
            return
        uv.snapshot_put_work = self
        self.began = time.monotonic()
        work.run(uv, self.store, self.after)

    def store(self) -> None:
        """Write the snapshot and remove what it makes superfluous; in a thread."""
        uv, snapshot = self.uv, self.snapshot
        if self.trailing == 0 and uv.snapshot_check is not None:
            rv = uv.snapshot_check(snapshot.bufs[0] if len(snapshot.bufs) == 1 else b"".join(snapshot.bufs))
            if rv != 0:
                raise Failure(rv, f"the state machine refuses the snapshot: {errors.raft_strerror(rv)}")
        try:
            snapshots, segments = listing.list(uv.dir)
            last = segment.last_index(segments, snapshots[-1].index if snapshots else 0)
            if last < snapshot.index and not self.installs:
                raise Failure(errors.RAFT_IOERR, f"the log on disk ends with entry {last}, before the snapshot")
            timestamp = snapshot_file.timestamp_now(snapshots, snapshot.term, snapshot.index)
            self.written = snapshot_file.write(uv.dir, snapshot, uv.snapshot_compression, timestamp)
        except Failure as failure:
            raise Failure(errors.RAFT_IOERR, failure.message) from None
        self.clean()

    def clean(self) -> None:
        """Remove what the durable snapshot makes superfluous; in a thread."""
        if self.installs:
            self.remove_former()
        self.remove_old()

    def remove_former(self) -> None:
        """Remove the log that an installed snapshot replaces, and snapshots that would be loaded instead of it."""
        uv = self.uv
        assert self.written is not None
        snapshots, segments = listing.list(uv.dir)
        newer = snapshot_file.newer(snapshots, self.written)
        for info in newer:
            snapshot_file.remove(uv.dir, info)
        if newer:
            fs.sync_dir(uv.dir)
        segment.remove_closed(uv.dir, segments, self.snapshot.index)

    def remove_old(self) -> None:
        """Remove older snapshots, and the segments behind the trailing entries, or leave that to the next put."""
        uv, index = self.uv, self.snapshot.index
        assert self.written is not None
        try:
            snapshots, segments = listing.list(uv.dir)
            newer = snapshot_file.newer(snapshots, self.written)
            if newer:
                # Terms have run backwards. The next start loads that one, on the log behind it.
                raise Failure(errors.RAFT_CORRUPT, f"{newer[-1].data_name} passes for newer")
            snapshot_file.remove_old(uv.dir, snapshots)
            if not self.installs:
                segment.keep_trailing(uv.dir, segments, index, self.trailing)
            fs.sync_dir(uv.dir)
        except Failure as failure:
            text = "%s: snapshot at %s is stored, but what it replaces stays until the next one: %s"
            _log.warning(text, uv.dir, index, failure.message)

    def after(self, failure: Failure | None) -> None:
        """The thread is done."""
        uv = self.uv
        if failure is not None and self.written is not None and not uv.closing:
            self.wait(failure)
            return
        if failure is None and self.failure is not None:
            _log.warning("%s: the log in front of the snapshot at %s is removed", uv.dir, self.snapshot.index)
        self.end(failure)

    def wait(self, failure: Failure) -> None:
        """Try again later to remove the former log."""
        uv = self.uv
        if self.failure is None:
            text = "%s: the log in front of the snapshot at %s cannot be removed: %s; trying again every %s ms"
            _log.warning(text, uv.dir, self.snapshot.index, failure.message, uv.disk_retry_delay)
        self.failure = failure
        self.timer = Timer(uv.loop)
        uv.aborting.append(self.timer)
        self.timer.start(lambda _: self.again(), uv.disk_retry_delay / 1000, 0.0)

    def again(self) -> None:
        """Make another attempt."""
        self.stop()
        work.run(self.uv, self.clean, self.after)

    def stop(self) -> None:
        """Let the timer go."""
        timer, self.timer = self.timer, None
        assert timer is not None
        timer.close(lambda timer: closing.gone(self.uv, timer))

    def end(self, failure: Failure | None) -> None:
        """Call back, and let go what waits behind the put."""
        uv = self.uv
        uv.snapshot_put_work = None
        if failure is not None:
            uv.io.errmsg = errors.errmsg_wrap(failure.message, f"put snapshot at {self.snapshot.index}")
            trace(uv.tracer, uv.io.errmsg, TRACE_WARN)
            if self.installs and uv.append_next_index == self.snapshot.index + 1:
                # The core puts its former log back and goes on from there (B6).
                uv.append_next_index = self.former_next_index
        elif self.written is not None:
            found = uv.figures.installed if self.trailing == 0 else uv.figures.stored
            found.note(time.monotonic() - self.began, self.written.size)
        callbacks.fire(uv, self.req.cb, self.req, 0 if failure is None else failure.code)
        append.release_barrier(uv)


def raft_uv_set_snapshot_check(io: RaftIo, check: Callable[[BytesLike], int] | None) -> None:
    """Have `check(data)` called with each snapshot that a leader has sent, before it is stored; None for nobody. Ours.

    It runs in a thread, so what takes long may be done there in advance: fsm.restore, which gets the same object when
    the snapshot is stored, runs on the loop. A code other than 0 refuses the snapshot: the leader is told, and log and
    state stay as they are; a refusal of fsm.restore comes when the log is gone.

    Raises ValueError as raft_uv_set_block_size does.
    """
    uv = state.of_table(io)
    if not tcp_common.ignored(uv.loop, "raft_uv_set_snapshot_check"):
        uv.snapshot_check = check


def close(uv: state.Uv) -> None:
    """Give up an install that waits for its next attempt; the next start finds the snapshot and finishes it."""
    put: Put | None = uv.snapshot_put_work
    if put is not None and put.timer is not None:
        put.stop()
        put.end(put.failure)


def snapshot_put(
    io: RaftIo, trailing: int, req: RaftIoSnapshotPut, snapshot: RaftSnapshot, cb: raft_io_snapshot_put_cb
) -> int:
    """RaftIo.snapshot_put: store a snapshot and keep `trailing` entries before it (at least); `cb(req, status)`.

    trailing 0, or a log that does not reach it: the snapshot replaces the log. Puts that are asked for while one is
    under way wait for it.
    Returned at once: RAFT_CANCELED after io.close, RAFT_INVALID for an empty configuration.
    Through the callback: the code of the state machine's check, RAFT_IOERR, RAFT_CANCELED, RAFT_NOMEM, and RAFT_TOOMANY
    if no thread can be had.
    """
    uv: state.Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    if not snapshot.configuration.servers:
        io.errmsg = "snapshot has no configuration"
        return errors.RAFT_INVALID
    req.cb = cb
    put = Put(uv, req, snapshot, trailing)
    append.request_barrier(uv, append.Barrier(put.run, put.installs, put.next_index))
    return 0


class Get:
    """A RaftIoSnapshotGet under way."""

    __slots__ = ("began", "req", "snapshot", "uv")

    def __init__(self, uv: state.Uv, req: RaftIoSnapshotGet) -> None:
        self.began = time.monotonic()
        self.uv = uv
        self.req = req
        self.snapshot: RaftSnapshot | None = None

    def load(self) -> None:
        """Load the newest snapshot; in a thread."""
        snapshots, _ = listing.list(self.uv.dir)
        info = snapshot_file.require(snapshots)
        self.snapshot = snapshot_file.read(self.uv.dir, info, self.uv.limits.mapped)

    def after(self, failure: Failure | None) -> None:
        """The thread is done."""
        uv = self.uv
        uv.aborting.remove(self)
        if failure is not None:
            uv.io.errmsg = errors.errmsg_wrap(failure.message, "get snapshot")
            callbacks.fire(uv, self.req.cb, self.req, None, failure.code)
        else:
            if self.snapshot is not None:
                size = sum([memoryview(buf).nbytes for buf in self.snapshot.bufs])
                uv.figures.loaded.note(time.monotonic() - self.began, size)
            callbacks.fire(uv, self.req.cb, self.req, self.snapshot, 0)
        closing.maybe_fire(uv)


def snapshot_get(io: RaftIo, req: RaftIoSnapshotGet, cb: raft_io_snapshot_get_cb) -> int:
    """RaftIo.snapshot_get: load the newest snapshot; `cb(req, snapshot, status)`. Several may run at a time.

    Returned at once: RAFT_CANCELED after io.close. Through the callback: RAFT_NOTFOUND without a snapshot, and the
    codes of loading (RAFT_CORRUPT, RAFT_MALFORMED, RAFT_IOERR, RAFT_NOMEM), RAFT_TOOMANY if no thread can be had; the
    snapshot is None then.
    """
    uv: state.Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    req.cb = cb
    get = Get(uv, req)
    uv.aborting.append(get)
    work.run(uv, get.load, get.after)
    return 0

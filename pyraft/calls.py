"""The border to code that is not the library's: the FSM, the I/O table, and the callbacks of users.

Duty: every call of a `RaftIo` or `RaftFsm` function and of a user's callback goes through here, so that what such
code raises is handled in one place and only integers go on.

Failure modes:

* an FSM or I/O function that raises, or returns something of another shape than its contract, is fail-stop: the
  exception is logged with its traceback, `raft_errmsg` names the function, `Raft.failed` is set and the call counts
  as failed; whoever was entered from outside ends with `convert.settle`, which makes the server unavailable;
* a completion or state callback that raises changes nothing: the exception goes to `io.report`, or to the log if
  the I/O table has none.

KeyboardInterrupt and the like raised by FSM or I/O code are passed on after the server was marked as failed.
"""

import logging
from collections.abc import Sequence
from typing import Any

from pyraft.errors import RAFT_IOERR, RAFT_SHUTDOWN, errmsg_cut, errmsg_wrap, raft_strerror
from pyraft.state import Raft, RaftWrite
from pyraft.types import (
    RAFT_UNAVAILABLE,
    EntryBatch,
    RaftBuffer,
    RaftConfiguration,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftRequest,
    RaftSnapshot,
)

_logger = logging.getLogger("pyraft")


def report(r: Raft, exc: BaseException) -> None:
    """Hand an exception that a user's callback raised to `io.report`, or log it."""
    if r.io.report is not None:
        try:
            r.io.report(r.io, exc)
            return
        except BaseException as reporter_exc:
            _logger.error("io.report raised", exc_info=reporter_exc)
    _logger.error("a callback of server %d raised", r.id, exc_info=exc)


def io_errmsg(r: Raft) -> None:
    """Take over the I/O implementation's message as "io: …", unless the failure was an exception and has its own."""
    if not r.failed:
        r.errmsg = errmsg_wrap(r.io.errmsg, "io")


def fsm_errmsg(r: Raft, rv: int, what: str) -> None:
    """Say that the state machine failed to do `what`, unless it raised and that has been said."""
    if not r.failed:
        r.errmsg = errmsg_wrap(raft_strerror(rv), what)


def fail(r: Raft, what: str, exc: BaseException) -> None:
    """Note that `what` raised `exc`: the server is to become unavailable. Passes on what is no Exception."""
    if not r.failed:
        r.failed = True
        r.exception = exc
        r.errmsg = errmsg_cut(f"{what}: {type(exc).__name__}: {exc}")
    consequence = "" if r.state == RAFT_UNAVAILABLE else ", the server stops"
    _logger.error("%s of server %d raised%s", what, r.id, consequence, exc_info=exc)
    if not isinstance(exc, Exception):
        raise exc


def _io_failed(r: Raft, what: str, exc: BaseException) -> int:
    fail(r, what, exc)
    return RAFT_IOERR


# Callbacks.


def fire_apply(r: Raft, req: RaftRequest, status: int, result: Any) -> None:
    """Call back an apply request."""
    req.pending = False
    if req.cb is not None:
        try:
            req.cb(req, status, result)
        except BaseException as exc:
            report(r, exc)


def fire(r: Raft, req: RaftRequest, status: int) -> None:
    """Call back a barrier or change request."""
    req.pending = False
    if req.cb is not None:
        try:
            req.cb(req, status)
        except BaseException as exc:
            report(r, exc)


def fire_transfer(r: Raft, req: RaftRequest) -> None:
    """Call back a transfer request."""
    req.pending = False
    if req.cb is not None:
        try:
            req.cb(req)
        except BaseException as exc:
            report(r, exc)


def fire_state(r: Raft, old_state: int, new_state: int) -> None:
    """Tell the user about a change of state."""
    if r.callbacks.state_cb is not None:
        try:
            r.callbacks.state_cb(r, old_state, new_state)
        except BaseException as exc:
            report(r, exc)


def fire_close(r: Raft) -> None:
    """Tell the user that the server is closed."""
    if r.close_cb is not None:
        try:
            r.close_cb(r)
        except BaseException as exc:
            report(r, exc)


# The I/O table.


def init(r: Raft) -> int:
    """Call io.init."""
    try:
        return int(r.io.init(r.io, r.id, r.address))
    except BaseException as exc:
        return _io_failed(r, "io.init", exc)


def close(r: Raft, cb: Any) -> None:
    """Call io.close. If it raises, nothing will ever call back, so `cb` is called here."""
    try:
        r.io.close(r.io, cb)
    except BaseException as exc:
        fail(r, "io.close", exc)
        cb(r.io)


def load(r: Raft) -> tuple[int, int, int, RaftSnapshot | None, int, EntryBatch]:
    """Call io.load: (rv, term, voted_for, snapshot or None, start_index, entries)."""
    try:
        rv, term, voted_for, snapshot, start_index, entries = r.io.load(r.io)
        batch = EntryBatch.of(entries, len(entries)) if rv == 0 else EntryBatch([], [], [])
        return int(rv), int(term), int(voted_for), snapshot, int(start_index), batch
    except BaseException as exc:
        return _io_failed(r, "io.load", exc), 0, 0, None, 1, EntryBatch([], [], [])


def recovering(r: Raft) -> bool:
    """Call io.recovering; without it nothing is known to be missing."""
    if r.io.recovering is None:
        return False
    try:
        return bool(r.io.recovering(r.io))
    except BaseException as exc:
        fail(r, "io.recovering", exc)
        return True


def recovered(r: Raft) -> int:
    """Call io.recovered."""
    if r.io.recovered is None:
        return 0
    try:
        return int(r.io.recovered(r.io))
    except BaseException as exc:
        return _io_failed(r, "io.recovered", exc)


def start(r: Raft, msecs: int, tick: Any, recv: Any) -> int:
    """Call io.start."""
    try:
        return int(r.io.start(r.io, msecs, tick, recv))
    except BaseException as exc:
        return _io_failed(r, "io.start", exc)


def bootstrap(r: Raft, conf: RaftConfiguration) -> int:
    """Call io.bootstrap."""
    try:
        return int(r.io.bootstrap(r.io, conf))
    except BaseException as exc:
        return _io_failed(r, "io.bootstrap", exc)


def recover(r: Raft, conf: RaftConfiguration) -> int:
    """Call io.recover."""
    try:
        return int(r.io.recover(r.io, conf))
    except BaseException as exc:
        return _io_failed(r, "io.recover", exc)


def set_term(r: Raft, term: int) -> int:
    """Call io.set_term."""
    try:
        return int(r.io.set_term(r.io, term))
    except BaseException as exc:
        return _io_failed(r, "io.set_term", exc)


def set_vote(r: Raft, server_id: int) -> int:
    """Call io.set_vote."""
    try:
        return int(r.io.set_vote(r.io, server_id))
    except BaseException as exc:
        return _io_failed(r, "io.set_vote", exc)


def send(r: Raft, req: RaftIoSend, message: RaftMessage, cb: Any) -> int:
    """Call io.send."""
    try:
        return int(r.io.send(r.io, req, message, cb))
    except BaseException as exc:
        return _io_failed(r, "io.send", exc)


def append(r: Raft, req: RaftWrite, entries: EntryBatch, cb: Any) -> int:
    """Call io.append; a write is one of `Raft.writes` until its completion callback, which may fire inside the call."""
    r.writes.append(req)
    rv = RAFT_IOERR
    try:
        rv = int(r.io.append(r.io, req, entries, len(entries.bufs), cb))
    except BaseException as exc:
        fail(r, "io.append", exc)
    finally:
        if rv != 0 and req in r.writes:
            r.writes.remove(req)
    return rv


def defer(r: Raft, bufs: list[bytes]) -> int:
    """Call io.defer with `Raft.flush`."""
    try:
        return int(r.io.defer(r.io, bufs, len(bufs), r.flush))
    except BaseException as exc:
        return _io_failed(r, "io.defer", exc)


def truncate(r: Raft, index: int) -> int:
    """Call io.truncate."""
    try:
        return int(r.io.truncate(r.io, index))
    except BaseException as exc:
        return _io_failed(r, "io.truncate", exc)


def snapshot_put(r: Raft, trailing: int, req: RaftIoSnapshotPut, snapshot: RaftSnapshot, cb: Any) -> int:
    """Call io.snapshot_put."""
    try:
        return int(r.io.snapshot_put(r.io, trailing, req, snapshot, cb))
    except BaseException as exc:
        return _io_failed(r, "io.snapshot_put", exc)


def snapshot_get(r: Raft, req: RaftIoSnapshotGet, cb: Any) -> int:
    """Call io.snapshot_get."""
    try:
        return int(r.io.snapshot_get(r.io, req, cb))
    except BaseException as exc:
        return _io_failed(r, "io.snapshot_get", exc)


def async_work(r: Raft, req: RaftIoAsyncWork, cb: Any) -> int:
    """Call io.async_work."""
    try:
        return int(r.io.async_work(r.io, req, cb))
    except BaseException as exc:
        return _io_failed(r, "io.async_work", exc)


def now(r: Raft) -> int:
    """Call io.time; 0 if it raises, so that nothing is due before the server stops."""
    try:
        return int(r.io.time(r.io))
    except BaseException as exc:
        fail(r, "io.time", exc)
        return 0


def random(r: Raft, low: int, high: int) -> int:
    """Call io.random; `high` if it raises."""
    try:
        return int(r.io.random(r.io, low, high))
    except BaseException as exc:
        fail(r, "io.random", exc)
        return high


# The state machine.


def fsm_apply(r: Raft, buf: bytes) -> tuple[int, Any]:
    """Call fsm.apply."""
    try:
        rv, result = r.fsm.apply(r.fsm, buf)
        return int(rv), result
    except BaseException as exc:
        fail(r, "fsm.apply", exc)
        return RAFT_SHUTDOWN, None


def fsm_snapshot(r: Raft) -> tuple[int, list[Any]]:
    """Call fsm.snapshot; its buffers are returned as bytes-like objects."""
    try:
        rv, bufs = r.fsm.snapshot(r.fsm)
        return int(rv), readable(bufs) if rv == 0 else []
    except BaseException as exc:
        fail(r, "fsm.snapshot", exc)
        return RAFT_SHUTDOWN, []


def fsm_finalize(r: Raft, bufs: list[Any]) -> None:
    """Call fsm.snapshot_finalize, if there is one; its return value means nothing, as in C."""
    if r.fsm.version < 2 or r.fsm.snapshot_finalize is None:
        return
    try:
        r.fsm.snapshot_finalize(r.fsm, bufs)
    except BaseException as exc:
        fail(r, "fsm.snapshot_finalize", exc)


def fsm_restore(r: Raft, buf: Any) -> int:
    """Call fsm.restore."""
    try:
        return int(r.fsm.restore(r.fsm, buf))
    except BaseException as exc:
        fail(r, "fsm.restore", exc)
        return RAFT_SHUTDOWN


def readable(bufs: Sequence[Any]) -> list[Any]:
    """Return buffers as read-only bytes-like objects, without copying; TypeError on what is no buffer."""
    return [_readable(buf) for buf in bufs]


def _readable(buf: Any) -> Any:
    if type(buf) is bytes:
        return buf
    if isinstance(buf, RaftBuffer):
        return memoryview(buf.base).cast("B")[: buf.len].toreadonly()
    return memoryview(buf).cast("B").toreadonly()

"""The border to code that is not the library's: the FSM, the I/O table, and the callbacks of users.

Duty: every call of a `RaftIo` or `RaftFsm` function and of a user's callback goes through here, so that what such
code raises is handled in one place and only integers go on.

Failure modes:

* an FSM or I/O function that raises, or returns something of another shape than its contract, is fail-stop: the
  exception is logged with its traceback, `raft_errmsg` names the function, `Raft.failed` is set and the call counts
  as failed; a function entered from outside ends with `convert.stop_if_failed`, which makes the server unavailable;
* a completion or state callback that raises changes nothing: the exception goes to `io.report`, or to the log if
  the I/O table has none.

KeyboardInterrupt and the like raised by FSM or I/O code are passed on after the server was marked as failed.

Such an exception may also come between any two lines of the library's own. A public function that changes anything
leaves a mark with `enter` first, and removes it in the end. If it never came to that, the next call or event finds the
mark, and `abandoned` has the server stop, as nobody can tell what is half done. A kill of the process would be as bad.

A call from another thread may come in the middle of one, too, and would find that mark: it is refused before
(`elsewhere`).

Type checkers hold users to the types of the tables. Here nobody's word is taken: a list that stands for a tuple or a
float for a number will do, compiled too, where a call of what has a type would test it first. Hence `Function`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from pyraft.errors import RAFT_INVALID, RAFT_IOERR, RAFT_SHUTDOWN, errmsg_cut, errmsg_wrap, raft_strerror
from pyraft.state import Raft, RaftWrite
from pyraft.tracing import TRACE_FATAL, trace
from pyraft.types import (
    RAFT_UNAVAILABLE,
    Buffer,
    BytesLike,
    EntryBatch,
    RaftBuffer,
    RaftConfiguration,
    RaftFsm,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftRequest,
    RaftServer,
    RaftSnapshot,
    raft_io_close_cb,
    raft_io_recv_cb,
    raft_io_tick_cb,
)

_logger = logging.getLogger("pyraft")

_ELSEWHERE: Final = "a call from another thread than the one that runs the server's loop does nothing"

Function: TypeAlias = Callable[..., Any]
"""A function of users, whose answer may be anything."""

_Send = TypeVar("_Send", bound=RaftIoSend)
_Write = TypeVar("_Write", bound=RaftWrite)
_Put = TypeVar("_Put", bound=RaftIoSnapshotPut)
_Get = TypeVar("_Get", bound=RaftIoSnapshotGet)
_Work = TypeVar("_Work", bound=RaftIoAsyncWork)


def report(r: Raft, exc: BaseException) -> None:
    """Hand an exception that a user's callback raised to `io.report`, or log it."""
    if r.io.report is not None:
        try:
            r.io.report(r.io, exc)
            return
        except Exception as reporter_exc:
            _logger.error("io.report raised", exc_info=reporter_exc)
    _logger.error("a callback of server %d raised", r.id, exc_info=exc)


def enter(r: Raft) -> None:
    """Begin a public function. It ends with `r.inside = False`, when it returns or raises an Exception."""
    if r.inside:
        abandoned(r)
    r.inside = True


def elsewhere(r: Raft) -> bool:
    """Return whether this is another thread than the one that runs the loop, where the I/O can tell.

    Since the last tick the loop may have ended, and anybody may call. If it has gone to another thread since, calls
    from the former one are noticed from the first tick there on.
    """
    ident, function = r.io.thread, r.io.elsewhere
    return ident is not None and function is not None and ident() != r.thread and bool(function(r.io))


def misplaced(r: Raft, void: bool = False) -> int:
    """Refuse a call from another thread, and change nothing but errmsg; `void`: the caller may not look at the code."""
    r.errmsg = _ELSEWHERE
    if void or not r.said.elsewhere:
        r.said.elsewhere = True
        _logger.error("server %d: %s", r.id, _ELSEWHERE)
    return RAFT_INVALID


def public(r: Raft, function: Callable[[], int]) -> int:
    """Return what `function`, the body of a public function, returns. KeyboardInterrupt and the like leave a mark."""
    if elsewhere(r):
        return misplaced(r)
    enter(r)
    try:
        rv = function()
    except Exception:
        r.inside = False
        raise
    r.inside = False
    return rv


def abandoned(r: Raft) -> None:
    """Have the server stop, if the I/O can do that: some call has never come to its end."""
    if r.initialized:
        check(r, True)
    r.inside = False


def check(r: Raft, torn: bool) -> None:
    """Call io.check, if there is one."""
    if r.io.check is not None:
        r.io.check(r.io, torn)


def closed(r: Raft) -> int:
    """Set errmsg and return RAFT_SHUTDOWN, the answer to calls that come after raft_close, or in a forked child."""
    r.errmsg = r.cause if r.forked else "closed"
    return RAFT_SHUTDOWN


def io_errmsg(r: Raft) -> None:
    """Take over the I/O implementation's message as "io: …", unless the failure was an exception and has its own."""
    if not r.failed:
        r.errmsg = errmsg_wrap(r.io.errmsg, "io")


def fsm_errmsg(r: Raft, rv: int, what: str) -> None:
    """Say that the state machine failed to do `what`, unless it raised and that has been said."""
    if not r.failed:
        r.errmsg = errmsg_wrap(raft_strerror(rv), what)


def fail(r: Raft, what: str, exc: BaseException) -> None:
    """Note that `what` raised `exc`: the server is to become unavailable. Passes on everything but an Exception."""
    if not r.failed:
        r.failed = True
        r.exception = exc
        r.errmsg = errmsg_cut(f"{what}: {type(exc).__name__}: {exc}")
    consequence = "" if r.state == RAFT_UNAVAILABLE else ", the server stops"
    if r.forked and not isinstance(exc, Exception):
        raise exc  # a child that ends as it should
    _logger.error("%s of server %d raised%s", what, r.id, consequence, exc_info=exc)
    trace(r.tracer, f"{what} raised {type(exc).__name__}: {exc}{consequence}", TRACE_FATAL, 2)
    if not isinstance(exc, Exception):
        raise exc


def _io_failed(r: Raft, what: str, exc: BaseException) -> int:
    fail(r, what, exc)
    return RAFT_IOERR


# Callbacks.


def _call_back(r: Raft, cb: Callable[..., None], *args: Any) -> None:
    """Call back a user, who may call public functions there. An exception is reported, and changes nothing."""
    inside = r.inside
    r.inside = False
    try:
        cb(*args)
    except BaseException as exc:
        report(r, exc)
    if inside:
        r.inside = True


def fire_apply(r: Raft, req: RaftRequest, status: int, result: Any) -> None:
    """Call back an apply request: `_call_back` without its further call, as this is done for each command."""
    req.pending = False
    if req.cb is not None:
        inside = r.inside
        r.inside = False
        try:
            req.cb(req, status, result)
        except BaseException as exc:
            report(r, exc)
        if inside:
            r.inside = True


def fire(r: Raft, req: RaftRequest, status: int) -> None:
    """Call back a barrier or change request."""
    req.pending = False
    if req.cb is not None:
        _call_back(r, req.cb, req, status)


def fire_read(r: Raft, req: RaftRequest, status: int, index: int) -> None:
    """Call back a request of raft_read_index."""
    req.pending = False
    if req.cb is not None:
        _call_back(r, req.cb, req, status, index)


def fire_transfer(r: Raft, req: RaftRequest) -> None:
    """Call back a transfer request."""
    req.pending = False
    if req.cb is not None:
        _call_back(r, req.cb, req)


def fire_state(r: Raft, old_state: int, new_state: int) -> None:
    """Tell the user about a change of state."""
    if r.callbacks.state_cb is not None:
        _call_back(r, r.callbacks.state_cb, r, old_state, new_state)


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
        function: Function = r.io.init
        return int(function(r.io, r.id, r.address))
    except BaseException as exc:
        return _io_failed(r, "io.init", exc)


def close(r: Raft, cb: raft_io_close_cb) -> None:
    """Call io.close. If it raises, nothing will ever call back, so `cb` is called here."""
    try:
        r.io.close(r.io, cb)
    except BaseException as exc:
        if not isinstance(exc, Exception):
            check(r, True)  # nobody can ask for the end a second time
        fail(r, "io.close", exc)
        cb(r.io)


def load(r: Raft) -> tuple[int, int, int, RaftSnapshot | None, int, EntryBatch]:
    """Call io.load: (rv, term, voted_for, snapshot or None, start_index, entries)."""
    try:
        function: Function = r.io.load
        rv, term, voted_for, snapshot, start_index, entries = function(r.io)
        batch = EntryBatch.of(entries, len(entries)) if rv == 0 else EntryBatch([], [], [])
        return int(rv), int(term), int(voted_for), snapshot, int(start_index), batch
    except BaseException as exc:
        return _io_failed(r, "io.load", exc), 0, 0, None, 1, EntryBatch([], [], [])


def recovering(r: Raft) -> bool:
    """Call io.recovering, which leaves its reason in io.errmsg; without it nothing is known to be missing."""
    if r.io.recovering is None:
        return False
    r.io.errmsg = ""
    try:
        function: Function = r.io.recovering
        return bool(function(r.io))
    except BaseException as exc:
        fail(r, "io.recovering", exc)
        return True


def recovered(r: Raft) -> int:
    """Call io.recovered."""
    if r.io.recovered is None:
        return 0
    try:
        function: Function = r.io.recovered
        return int(function(r.io))
    except BaseException as exc:
        return _io_failed(r, "io.recovered", exc)


def filling(r: Raft) -> int:
    """Call io.filling."""
    if r.io.filling is None:
        return 0
    try:
        function: Function = r.io.filling
        return int(function(r.io))
    except BaseException as exc:
        return _io_failed(r, "io.filling", exc)


def check_address(r: Raft, address: str) -> int:
    """Call io.check_address; without it every address will do."""
    return 0 if r.io.check_address is None else _check(r, r.io.check_address, "io.check_address", address)


def check_configuration(r: Raft, buf: bytes) -> int:
    """Call io.check_configuration; without it every size will do."""
    function = r.io.check_configuration
    return 0 if function is None else _check(r, function, "io.check_configuration", buf)


def _check(r: Raft, function: Function, what: str, given: str | bytes) -> int:
    try:
        rv = int(function(r.io, given))
    except BaseException as exc:
        return _io_failed(r, what, exc)
    if rv != 0:
        r.errmsg = errmsg_cut(r.io.errmsg)
    return rv


def twin(r: Raft, address: str, servers: list[RaftServer]) -> RaftServer | None:
    """Return the one of `servers` whose address is this one by io.same_address, and name it in errmsg; else None."""
    if r.io.same_address is None:
        return None
    try:
        function: Callable[..., object] = r.io.same_address
        for server in servers:
            if function(r.io, address, server.address):
                r.errmsg = errmsg_cut(f"'{address}' is '{server.address}', which is server {server.id}'s")
                return server
    except BaseException as exc:
        fail(r, "io.same_address", exc)
    return None


def configured(r: Raft, servers: list[RaftServer]) -> None:
    """Call io.configured."""
    if r.io.configured is None:
        return
    try:
        r.io.configured(r.io, servers)
    except BaseException as exc:
        fail(r, "io.configured", exc)


def start(r: Raft, msecs: int, tick: raft_io_tick_cb, recv: raft_io_recv_cb) -> int:
    """Call io.start."""
    try:
        function: Function = r.io.start
        return int(function(r.io, msecs, tick, recv))
    except BaseException as exc:
        return _io_failed(r, "io.start", exc)


def bootstrap(r: Raft, conf: RaftConfiguration) -> int:
    """Call io.bootstrap."""
    try:
        function: Function = r.io.bootstrap
        return int(function(r.io, conf))
    except BaseException as exc:
        return _io_failed(r, "io.bootstrap", exc)


def recover(r: Raft, conf: RaftConfiguration) -> int:
    """Call io.recover."""
    try:
        function: Function = r.io.recover
        return int(function(r.io, conf))
    except BaseException as exc:
        return _io_failed(r, "io.recover", exc)


def set_term(r: Raft, term: int) -> int:
    """Call io.set_term."""
    try:
        function: Function = r.io.set_term
        return int(function(r.io, term))
    except BaseException as exc:
        return _io_failed(r, "io.set_term", exc)


def set_vote(r: Raft, server_id: int) -> int:
    """Call io.set_vote."""
    try:
        function: Function = r.io.set_vote
        return int(function(r.io, server_id))
    except BaseException as exc:
        return _io_failed(r, "io.set_vote", exc)


def send(r: Raft, req: _Send, message: RaftMessage, cb: Callable[[_Send, int], None]) -> int:
    """Call io.send."""
    try:
        function: Function = r.io.send
        return int(function(r.io, req, message, cb))
    except BaseException as exc:
        return _io_failed(r, "io.send", exc)


def append(r: Raft, req: _Write, entries: EntryBatch, cb: Callable[[_Write, int], None]) -> int:
    """Call io.append; a write is one of `Raft.writes` until its completion callback, which may fire inside the call."""
    r.writes.append(req)
    rv = RAFT_IOERR
    try:
        function: Function = r.io.append
        rv = int(function(r.io, req, entries, len(entries.bufs), cb))
    except BaseException as exc:
        fail(r, "io.append", exc)
    finally:
        if rv != 0 and req in r.writes:
            r.writes.remove(req)
    return rv


def defer(r: Raft, bufs: list[bytes]) -> int:
    """Call io.defer with `Raft.flush`."""
    try:
        assert r.io.defer is not None
        function: Function = r.io.defer
        return int(function(r.io, bufs, len(bufs), r.flush))
    except BaseException as exc:
        return _io_failed(r, "io.defer", exc)


def later(r: Raft, fn: Any) -> int:
    """Call io.later."""
    try:
        assert r.io.later is not None
        function: Function = r.io.later
        return int(function(r.io, fn))
    except BaseException as exc:
        return _io_failed(r, "io.later", exc)


def truncate(r: Raft, index: int) -> int:
    """Call io.truncate."""
    try:
        function: Function = r.io.truncate
        return int(function(r.io, index))
    except BaseException as exc:
        return _io_failed(r, "io.truncate", exc)


def snapshot_put(r: Raft, trailing: int, req: _Put, snapshot: RaftSnapshot, cb: Callable[[_Put, int], None]) -> int:
    """Call io.snapshot_put."""
    try:
        function: Function = r.io.snapshot_put
        return int(function(r.io, trailing, req, snapshot, cb))
    except BaseException as exc:
        return _io_failed(r, "io.snapshot_put", exc)


def snapshot_get(r: Raft, req: _Get, cb: Callable[[_Get, RaftSnapshot | None, int], None]) -> int:
    """Call io.snapshot_get."""
    try:
        function: Function = r.io.snapshot_get
        return int(function(r.io, req, cb))
    except BaseException as exc:
        return _io_failed(r, "io.snapshot_get", exc)


def async_work(r: Raft, req: _Work, cb: Callable[[_Work, int], None]) -> int:
    """Call io.async_work."""
    try:
        function: Function = r.io.async_work
        return int(function(r.io, req, cb))
    except BaseException as exc:
        return _io_failed(r, "io.async_work", exc)


def now(r: Raft) -> int:
    """Call io.time; 0 if it raises, so that nothing is due before the server stops."""
    try:
        function: Function = r.io.time
        return int(function(r.io))
    except BaseException as exc:
        fail(r, "io.time", exc)
        return 0


def random(r: Raft, low: int, high: int) -> int:
    """Call io.random; `high` if it raises."""
    try:
        function: Function = r.io.random
        return int(function(r.io, low, high))
    except BaseException as exc:
        fail(r, "io.random", exc)
        return high


# The state machine.


def _pair(answer: Any, wanted: str) -> tuple[int, Any]:
    """Return the code and the other value that a function has returned; TypeError if it returned something else."""
    try:
        rv, rest = answer
        return int(rv), rest
    except (TypeError, ValueError):
        raise _shape(answer, wanted) from None


def _shape(answer: Any, wanted: str) -> TypeError:
    return TypeError(f"it returned {repr(answer)[:80]} where {wanted} is expected")


def fsm_apply(r: Raft, buf: bytes) -> tuple[int, Any]:
    """Call fsm.apply."""
    try:
        function: Function = r.fsm.apply
        answer = function(r.fsm, buf)
        try:  # _pair without its call, as this is done for each command
            rv, result = answer
            return int(rv), result
        except (TypeError, ValueError):
            raise _shape(answer, "(rv, result)") from None
    except BaseException as exc:
        fail(r, "fsm.apply", exc)
        return RAFT_SHUTDOWN, None


def fsm_apply_batch(r: Raft, bufs: list[bytes]) -> tuple[int, list[Any]]:
    """Call fsm.apply_batch; return a code and the results of those commands that were applied."""
    try:
        assert r.fsm.apply_batch is not None
        function: Function = r.fsm.apply_batch
        answer = function(r.fsm, bufs)
        rv, found = _pair(answer, "(rv, results)")
        results = list(found)
        if len(results) > len(bufs) or (len(results) == len(bufs)) != (rv == 0):
            raise TypeError(f"it returned code {rv} with {len(results)} results of {len(bufs)} commands")
        return rv, results
    except BaseException as exc:
        fail(r, "fsm.apply_batch", exc)
        return RAFT_SHUTDOWN, []


def fsm_snapshot(r: Raft) -> tuple[int, list[bytes | memoryview]]:
    """Call fsm.snapshot; its buffers are returned as bytes-like objects."""
    try:
        function: Function = r.fsm.snapshot
        rv, bufs = _pair(function(r.fsm), "(rv, bufs)")
        return rv, readable(bufs) if rv == 0 else []
    except BaseException as exc:
        fail(r, "fsm.snapshot", exc)
        return RAFT_SHUTDOWN, []


def fsm_snapshot_async(fsm: RaftFsm, bufs: Sequence[BytesLike]) -> tuple[int, Sequence[BytesLike]]:
    """Call fsm.snapshot_async, in a worker thread; with a code, `bufs` come back. Its exceptions reach the caller."""
    assert fsm.snapshot_async is not None
    function: Function = fsm.snapshot_async
    rv, fresh = _pair(function(fsm, bufs), "(rv, bufs)")
    return rv, readable(fresh) if rv == 0 else bufs


def fsm_finalize(r: Raft, bufs: Sequence[BytesLike]) -> None:
    """Call fsm.snapshot_finalize, if there is one; its return value means nothing, as in C."""
    if r.fsm.version < 2 or r.fsm.snapshot_finalize is None:
        return
    try:
        function: Function = r.fsm.snapshot_finalize
        function(r.fsm, bufs)
    except BaseException as exc:
        fail(r, "fsm.snapshot_finalize", exc)


def fsm_restore(r: Raft, buf: BytesLike) -> int:
    """Call fsm.restore."""
    try:
        function: Function = r.fsm.restore
        answer = function(r.fsm, buf)
        try:
            return int(answer)
        except (TypeError, ValueError):
            raise _shape(answer, "a code, 0 if all is well") from None
    except BaseException as exc:
        fail(r, "fsm.restore", exc)
        return RAFT_SHUTDOWN


def readable(bufs: Sequence[Buffer]) -> list[bytes | memoryview]:
    """Return buffers as read-only bytes-like objects, without copying; TypeError on anything but a buffer."""
    return [_readable(buf) for buf in bufs]


def _readable(buf: Buffer) -> bytes | memoryview:
    if type(buf) is bytes:
        return buf
    if isinstance(buf, RaftBuffer):
        return memoryview(buf.base).cast("B")[: buf.len].toreadonly()
    return memoryview(buf).cast("B").toreadonly()

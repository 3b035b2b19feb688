"""A server from raft_init to raft_close: construction, settings, questions.

Duty: the functions of raft.h that neither move the log nor talk to peers. Times are milliseconds.

Happy path: raft_init, setters, raft_bootstrap once per cluster, raft_start (see start), raft_close.
Failure modes: an object whose raft_init was refused is unchanged except for raft_errmsg, and so is the table's `data`.
After raft_close only another raft_init leads back. A started server refuses a setting that is not a whole number or is
out of range: it keeps the old one, and raft_errmsg says so. Before, such a setting is stored, and raft_start refuses.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from pyraft import apply, calls, configuration, convert, election, log, notice, replicate, request
from pyraft import start as starting
from pyraft.errors import (
    RAFT_BADID,
    RAFT_BUSY,
    RAFT_DUPLICATEADDRESS,
    RAFT_INVALID,
    RAFT_LEADERSHIPLOST,
    raft_strerror,
)
from pyraft.state import Raft
from pyraft.tracing import TRACE_WARN, StderrTracer, raft_tracer_maybe_enable, trace
from pyraft.types import (
    RAFT_LEADER,
    RAFT_UNAVAILABLE,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    raft_id,
    raft_index,
)

_ELECTION_TIMEOUT_MSECS: Final = 1000
_HEARTBEAT_TIMEOUT_MSECS: Final = 100
_INSTALL_SNAPSHOT_TIMEOUT_MSECS: Final = 30000
_SNAPSHOT_THRESHOLD: Final = 1024
_SNAPSHOT_TRAILING: Final = 2048
_MAX_CATCH_UP_ROUNDS: Final = 10
_MAX_CATCH_UP_ROUND_DURATION_MSECS: Final = 5000
_MAX_APPEND_BYTES: Final = 1 << 20
_MAX_INFLIGHT_BYTES: Final = 8 << 20
_VOTE_PATIENCE: Final = 48

_FSM: Final = ("apply", "apply_batch", "snapshot", "restore", "snapshot_async", "snapshot_finalize")

_logger = logging.getLogger("pyraft")

_Raft = TypeVar("_Raft", bound=Raft)


def raft_init(r: Raft, io: RaftIo, fsm: RaftFsm, id: raft_id, address: str) -> int:
    """Prepare `r` to be server `id` with this `io` and `fsm`, and call io.init.

    Errors: -1 (a version is 0, or the FSM has snapshot_async and the I/O no async_work; raft_errmsg says which),
    codes of io.init ("io: …"). Ours: RAFT_BUSY (`r` is in use), RAFT_BADID (id below 1 or above 64 bits),
    RAFT_INVALID (an address that cannot be encoded, fsm.apply is not set, a function of `fsm` that cannot be
    called or is a coroutine function, no RaftIo, no RaftFsm). Source: raft.h.
    """
    if r.initialized or r.starting:
        r.errmsg = "already initialized"
        return RAFT_BUSY
    for what, table, kind in (("io", io, RaftIo), ("fsm", fsm, RaftFsm)):
        if not _is(table, kind):
            r.errmsg = f"{what} must be a {kind.__name__} and is {table!r}"
            return RAFT_INVALID
    problem = _version_problem(io, fsm)
    if problem:
        r.errmsg = problem
        return -1
    if io.elsewhere is not None and io.elsewhere(io):
        return calls.misplaced(r)
    rv = _check_arguments(r, fsm, id, address)
    if rv != 0:
        return rv
    io_data, io_forked = io.data, io.forked
    _clear(r)
    r.io = io
    io.data = r
    io.forked = lambda io, reason: _forked(r, reason)
    io.interrupted = lambda io, reason: _interrupted(r, reason)
    r.fsm = fsm
    r.tracer = StderrTracer
    raft_tracer_maybe_enable(r.tracer, True)
    r.id = id
    r.address = address
    r.election_timeout = _ELECTION_TIMEOUT_MSECS
    r.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MSECS
    r.install_snapshot_timeout = _INSTALL_SNAPSHOT_TIMEOUT_MSECS
    r.snapshot.threshold = _SNAPSHOT_THRESHOLD
    r.snapshot.trailing = _SNAPSHOT_TRAILING
    r.max_catch_up_rounds = _MAX_CATCH_UP_ROUNDS
    r.max_catch_up_round_duration = _MAX_CATCH_UP_ROUND_DURATION_MSECS
    r.max_append_bytes = _MAX_APPEND_BYTES
    r.max_inflight_bytes = _MAX_INFLIGHT_BYTES
    r.vote_patience = _VOTE_PATIENCE
    r.flush = lambda: replicate.flush_turn(r)
    r.resume = lambda: apply.resume(r)
    rv = calls.init(r)
    if rv != 0:
        calls.io_errmsg(r)
        io.data, io.forked = io_data, io_forked
        problem = r.errmsg
        _clear(r)
        r.errmsg = problem
        return rv
    r.initialized = True
    notice.fsm_version(r)
    return 0


def _forked(r: Raft, reason: str) -> None:
    """RaftIo.forked: be closed, without a word to anybody, as the server goes on in the parent process.

    No user is told, and what is pending there is called back there.
    """
    r.cause = r.errmsg = reason
    r.forked = r.closing = True
    r.initialized = False
    convert.cease(r)


def _interrupted(r: Raft, reason: str) -> None:
    """RaftIo.interrupted: stop, without another look at anything, as it may be half done.

    Pending requests are called back, and nothing is left for raft_close but to end the I/O.
    """
    waiting = request.pending(r)
    state = r.state
    convert.cease(r)
    r.cause = r.errmsg = reason
    r.failed = True
    r.inside = False
    for req in waiting:
        request.finish(r, req, RAFT_LEADERSHIPLOST)
    if state != RAFT_UNAVAILABLE:
        _logger.error("server %d stops, until it is closed and started again: %s", r.id, reason)
        calls.fire_state(r, state, RAFT_UNAVAILABLE)


def _clear(r: Raft) -> None:
    """Make `r`, which may have served before, as new, but for the user's own field."""
    data = r.data
    Raft.__init__(r)
    r.data = data


def _version_problem(io: RaftIo, fsm: RaftFsm) -> str:
    if io.version == 0:
        return "io->version must be set"
    if fsm.version == 0:
        return "fsm->version must be set"
    if fsm.version > 2 and fsm.snapshot_async is not None and (io.version < 2 or io.async_work is None):
        return "async snapshot requires io->version > 1 and async_work method."
    return ""


def _check_arguments(r: Raft, fsm: RaftFsm, id: object, address: object) -> int:
    """Refuse what C's types rule out, or what would be noticed much later: with the first command, at the peers."""
    if not configuration.is_id(id):
        r.errmsg = f"{id!r} is not a server ID: a number from 1 to 2**64 - 1"
        return RAFT_BADID
    if not configuration.is_address(address):
        r.errmsg = f"{address!r} is not an address: a string without NUL"
        return RAFT_INVALID
    if fsm.apply is None:
        r.errmsg = "fsm.apply must be set; a method of that name does not count, see RaftFsm"
        return RAFT_INVALID
    for name in _FSM:
        function: object = getattr(fsm, name)
        if function is not None and not callable(function):
            r.errmsg = f"fsm.{name} must be a function and is {function!r}"
            return RAFT_INVALID
        if inspect.iscoroutinefunction(function):
            r.errmsg = f"fsm.{name} is a coroutine function: the state machine's functions have to return, not to wait"
            return RAFT_INVALID
    return 0


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def raft_close(r: _Raft, cb: Callable[[_Raft], None] | None) -> int:
    """Stop and release everything; `cb(r)`, if any, fires once when nothing is running any more.

    Pending requests are called back inside this call with RAFT_LEADERSHIPLOST. Void in C, which asserts on misuse;
    here the return value is 0, RAFT_INVALID if `r` was never initialised, or if another thread runs the loop, which the
    log says as well, or RAFT_SHUTDOWN if it is closing or closed already, and then `cb` does not fire. Source: raft.h.
    """
    if calls.elsewhere(r):
        return calls.misplaced(r, void=True)
    if r.closing:
        if r.inside:
            calls.abandoned(r)  # the first one was interrupted
        return calls.closed(r)
    if not r.initialized:
        r.errmsg = "not initialized"
        return RAFT_INVALID
    # A raft_start that is under way calls user code, which may call this.
    calls.check(r, r.inside and not r.starting)
    r.closing = r.inside = True
    try:
        convert.to_unavailable(r)
        r.close_cb = cb
        calls.close(r, _close_cb)
    except Exception:
        r.inside = False
        raise
    r.inside = False
    return 0


def _close_cb(io: RaftIo) -> None:
    r: Raft = io.data
    r.initialized = r.inside = False
    calls.fire_close(r)


def raft_register_state_cb(r: _Raft, cb: Callable[[_Raft, int, int], None] | None) -> None:
    """Have `cb(r, old_state, new_state)` called at every change of state; to be set before raft_start (raft.h)."""
    if not _ignored(r):
        r.callbacks.state_cb = cb


def raft_bootstrap(r: Raft, conf: RaftConfiguration) -> int:
    """Write `conf` as the first entry of a pristine server, the same on all servers of the new cluster.

    Errors: RAFT_BUSY (started), RAFT_CANTBOOTSTRAP (not pristine) and other codes of io.bootstrap ("io: …"). Ours:
    RAFT_SHUTDOWN (closed), RAFT_INVALID (not initialised, or `conf` is of another type or has no voter), and for a
    server in `conf` that raft_configuration_add would have refused, or raft_add for its address or for want of room
    (RAFT_TOOBIG with io_uv), the code that these have. Source: raft.h.
    """
    return _write_offline(r, conf, calls.bootstrap)


def raft_recover(r: Raft, conf: RaftConfiguration) -> int:
    """Force `conf` on a stopped server whose cluster has lost its majority, by appending it to the log on disk.

    Stop all servers; call this once, on the one whose last entry has the highest term, of several on the one with the
    longest log (the term in the metadata says nothing of that); replace the data directories of the others by a copy of
    its; start. Errors: RAFT_BUSY (started), codes of io.recover ("io: …"; with
    io_uv RAFT_NOTFOUND without a log); ours, as raft_bootstrap: RAFT_SHUTDOWN, RAFT_INVALID, those of
    raft_configuration_add, and those of raft_add for an address. Source: raft.h.
    """
    return _write_offline(r, conf, calls.recover)


def _write_offline(r: Raft, conf: RaftConfiguration, write: Callable[[Raft, RaftConfiguration], int]) -> int:
    """Have a server that is not running `write` a configuration."""
    return calls.public(r, lambda: _do_write_offline(r, conf, write))


def _do_write_offline(r: Raft, conf: RaftConfiguration, write: Callable[[Raft, RaftConfiguration], int]) -> int:
    if r.closing:
        return calls.closed(r)
    if r.started or r.starting:
        r.errmsg = "already started"
        return RAFT_BUSY
    if not _is(conf, RaftConfiguration):
        r.errmsg = f"the configuration is a {type(conf).__name__}, not a RaftConfiguration"
        return RAFT_INVALID
    if not r.initialized or not conf.servers:
        r.errmsg = "the configuration has no servers" if r.initialized else "not initialized"
        return RAFT_INVALID
    rv = configuration.check(conf)
    if rv != 0:
        r.errmsg = f"the configuration is not valid: {raft_strerror(rv)}"
        return rv
    if configuration.voter_count(conf) == 0:
        # C: raft.c:raft_bootstrap and raft_recover write it, and no server ever stands (see B51).
        r.errmsg = "the configuration has no voter"
        return RAFT_INVALID
    for i, server in enumerate(conf.servers):
        rv = calls.check_address(r, server.address)
        if rv == 0 and (calls.twin(r, server.address, conf.servers[:i]) is not None or r.failed):
            rv = RAFT_DUPLICATEADDRESS
        if rv != 0:
            break
    if rv == 0:
        rv = calls.check_configuration(r, configuration.encode(conf))
    if rv != 0:
        r.failed = False
        r.exception = None
        return rv
    rv = write(r, conf)
    if rv != 0:
        calls.io_errmsg(r)
        r.failed = False
        r.exception = None
    return rv


# Settings.


def _takes(r: Raft, what: str, value: object, least: int = 0) -> bool:
    """Return whether to store a setting: before raft_start any value is, afterwards only a valid one.

    C's setters are void and take what fits an unsigned; an impossible one there stops a server or makes it spin. A
    call from another thread than the loop's stores nothing, see _ignored.
    """
    if _ignored(r):
        return False
    if starting.is_setting(value, least) or not r.started:
        return True
    r.errmsg = f"{what} cannot be {value!r} and stays as it is"
    trace(r.tracer, r.errmsg, TRACE_WARN)
    return False


def _ignored(r: Raft) -> bool:
    """Return whether a setter, which returns nothing, is called from another thread than the loop's, and log that."""
    return calls.elsewhere(r) and calls.misplaced(r, void=True) != 0


def raft_set_election_timeout(r: Raft, msecs: int) -> None:
    """Set the base election timeout, 1000 ms by default, and draw the current random timeout anew (raft.h).

    This and the other setters return nothing, as in C. A value that is not a whole number or out of range: a started
    server keeps the one before, and raft_errmsg says so (ours); one that is not started takes it, and raft_start
    refuses with RAFT_INVALID. From another thread than the one that runs the loop they do nothing, and the log says so.
    """
    if not _takes(r, "election timeout", msecs, 1):
        return
    r.election_timeout = msecs
    # C: raft.c:raft_set_election_timeout announces this and does not do it (B27).
    election.redraw_timer(r)
    convert.stop_if_failed(r)


def raft_set_heartbeat_timeout(r: Raft, msecs: int) -> None:
    """Set the interval of heartbeats, 100 ms by default, at least 1; the ticks of a started server stay (raft.h)."""
    if _takes(r, "heartbeat timeout", msecs, 1):
        r.heartbeat_timeout = msecs


def raft_set_install_snapshot_timeout(r: Raft, msecs: int) -> None:
    """Set how long a server may take to install a snapshot, 30000 ms by default, at least 1 (raft.h)."""
    if _takes(r, "install snapshot timeout", msecs, 1):
        r.install_snapshot_timeout = msecs


def raft_set_snapshot_threshold(r: Raft, n: int) -> None:
    """Set after how many applied entries a snapshot is taken, 1024 by default (raft.h)."""
    if _takes(r, "snapshot threshold", n):
        r.snapshot.threshold = n


def raft_set_snapshot_trailing(r: Raft, n: int) -> None:
    """Set how many entries before a snapshot are kept, 2048 by default (raft.h says 128, the C library has 2048)."""
    if _takes(r, "snapshot trailing", n):
        r.snapshot.trailing = n


def raft_set_pre_vote(r: Raft, enabled: bool) -> None:
    """Switch the pre-vote phase of elections (9.6) on or off; off by default (raft.h)."""
    if not _ignored(r):
        r.pre_vote = bool(enabled)


def raft_set_max_catch_up_rounds(r: Raft, n: int) -> None:
    """Set how many catch-up rounds a promotion may take, 10 by default (raft.h, 4.2.1)."""
    if _takes(r, "max catch-up rounds", n):
        r.max_catch_up_rounds = n


def raft_set_max_catch_up_round_duration(r: Raft, msecs: int) -> None:
    """Set how long a catch-up round may take, 5000 ms by default (raft.h, 4.2.1)."""
    if _takes(r, "max catch-up round duration", msecs):
        r.max_catch_up_round_duration = msecs


def raft_set_max_append_bytes(r: Raft, n: int) -> None:
    """Bound the entries of one AppendEntries, 16 bytes of header each included, 1 MiB by default (ours, B31).

    One entry always goes, also with 0. The same bound holds for one disk write of commands that were deferred.
    """
    if _takes(r, "max append bytes", n):
        r.max_append_bytes = n if n != 0 else 1


def raft_set_max_inflight_bytes(r: Raft, n: int) -> None:
    """Bound the bytes that one follower may be sent before it acknowledges, 8 MiB by default; 0 counts as 1 (ours)."""
    if _takes(r, "max inflight bytes", n):
        r.max_inflight_bytes = n if n != 0 else 1


# Questions.


def raft_errmsg(r: Raft) -> str:
    """Return a description of the last error, at most 255 bytes (raft.h)."""
    return r.errmsg


def raft_state(r: Raft) -> int:
    """Return RAFT_UNAVAILABLE, RAFT_FOLLOWER, RAFT_CANDIDATE or RAFT_LEADER (raft.h)."""
    return r.state


def raft_role(r: Raft) -> int:
    """Return this server's role, -1 if it is not in the configuration (raft.h)."""
    server = configuration.get(r.configuration, r.id)
    return -1 if server is None else server.role


def raft_leader(r: Raft) -> tuple[raft_id, str | None]:
    """Return (id, address) of the leader known, (0, None) for none or while leadership is transferred (raft.h)."""
    if r.follower_state is not None:
        return r.follower_state.current_leader.id, r.follower_state.current_leader.address
    if r.state == RAFT_LEADER and r.transfer is None:
        return r.id, r.address
    return 0, None


def raft_last_index(r: Raft) -> raft_index:
    """Return the index of the last entry of the log, stored or not (raft.h)."""
    return log.last_index(r.log)


def raft_last_applied(r: Raft) -> raft_index:
    """Return the index of the last entry that was applied (raft.h)."""
    return r.last_applied


def raft_voter_contacts(r: Raft) -> int:
    """Return how many voters, itself included, a leader has heard from lately; -1 on other servers (raft.h).

    1 at first, then counted once per election timeout.
    """
    return -1 if r.leader_state is None else r.leader_state.voter_contacts

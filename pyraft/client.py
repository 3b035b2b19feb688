"""Client requests: commands, barriers, membership changes, leadership transfer.

Duty: check, append to the log in memory, register the request, hand over to `replicate`. Each function returns 0 and
calls back later, exactly once, or returns a code and never does.

Failure modes: RAFT_NOTLEADER unless this server leads and no transfer is under way; RAFT_BUSY for a request object
that is under way already, which C does not notice; RAFT_INVALID for arguments of the wrong kind (an assertion in
C) and for requests of another class; codes of io.append, after which everything is as before. A stop caused by FSM or
I/O code that raised inside the call is RAFT_SHUTDOWN if there is no other code, and in a forked child all requests get
that. A request that is called back inside the call, because its write ends there or the server is closed there, has had
its answer: the function then returns 0, whatever else went wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from pyraft import calls, configuration, convert, log, membership, notice, progress, reads, replicate, request
from pyraft.errors import (
    RAFT_BADID,
    RAFT_BADROLE,
    RAFT_BUSY,
    RAFT_DUPLICATEADDRESS,
    RAFT_INVALID,
    RAFT_NOTFOUND,
    raft_strerror,
)
from pyraft.state import LeaderState, Raft, WaitingChange
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_COMMAND,
    RAFT_SPARE,
    RAFT_VOTER,
    ROLE_NAMES,
    Buffer,
    RaftApply,
    RaftBarrier,
    RaftChange,
    RaftConfiguration,
    RaftReadIndex,
    RaftTransfer,
    as_bytes,
    raft_id,
)

# A request may be of a class of the user's own, and its callback then takes that class.
_Apply = TypeVar("_Apply", bound=RaftApply)
_Barrier = TypeVar("_Barrier", bound=RaftBarrier)
_Change = TypeVar("_Change", bound=RaftChange)
_Read = TypeVar("_Read", bound=RaftReadIndex)
_Transfer = TypeVar("_Transfer", bound=RaftTransfer)
_Callback: TypeAlias = Callable[..., None] | None


def raft_apply(
    r: Raft, req: _Apply, bufs: Sequence[Buffer], n: int, cb: Callable[[_Apply, int, Any], None] | None
) -> int:
    """Append the first `n` of `bufs`, buffers of any kind, to the log as commands and replicate them.

    `cb(req, status, result)` fires once, when the first of them is applied, with what fsm.apply made of it, or when
    that can no longer be: RAFT_LEADERSHIPLOST (it may still be applied), or the I/O's status if storing it failed.
    raft_uv needs payloads that are multiples of 8 bytes. With an io.defer, disk and network follow at the end of the
    loop turn.

    Errors: RAFT_NOTLEADER (raft_errmsg says who leads, or why nobody does here), RAFT_BUSY (`req` is under way; ours),
    RAFT_INVALID (n below 1 or above len(bufs), an element is not a buffer, `req` is not a RaftApply; for this and all
    other functions that change something: a thread that does not run the loop, as far as the I/O can tell; ours),
    RAFT_SHUTDOWN (FSM or I/O code raised inside the call, or this is a forked child; ours), codes of io.append
    ("io: …"). Source: raft.h, dissertation 3.5.
    """
    # As calls.public does, whose further calls take a quarter of the time of this one.
    ident = r.io.thread
    if ident is not None and ident() != r.thread and calls.elsewhere(r):
        return calls.misplaced(r)
    if r.inside:
        calls.abandoned(r)
    r.inside = True
    try:
        rv = _apply(r, req, bufs, n, cb)
    except Exception:
        r.inside = False
        raise
    r.inside = False
    return rv


def _apply(r: Raft, req: _Apply, bufs: Sequence[Buffer], n: int, cb: Callable[[_Apply, int, Any], None] | None) -> int:
    payloads: list[bytes] | None = None
    given = 1
    if n == 1 and type(bufs) is list and len(bufs) == 1:
        # One command, as most are, without the call that others take.
        buf = bufs[0]
        if type(buf) is bytes:
            payloads = [buf]
    if payloads is None:
        payloads = _payloads(bufs, n)
        if payloads is not None:
            given = len(bufs)
    if payloads is None or not (type(req) is RaftApply or _is(req, RaftApply)):
        if payloads is not None:
            return _wrong(r, req, RaftApply)
        r.errmsg = "bufs must be a sequence of at least n bytes-like objects, n at least 1"
        return RAFT_INVALID
    if given != n and not r.said.short:
        # Legal, as in C, but in Python rather a mistake.
        notice.short(r, n, given)
    leader = r.leader_state
    if leader is None or not leader.accepting or r.transfer is not None:  # request.taken_by
        return _not_leader(r)
    if req.pending:
        return _busy(r)
    lg = r.log
    index = lg.base + len(lg.bufs) + 1
    # Before the log changes: anything but a request raises here, and leaves no entry behind.
    req.cb = cb
    request.start(leader, req, RAFT_COMMAND, index)
    log.append_commands(lg, r.current_term, payloads)
    if r.io.defer is None:
        rv = replicate.trigger(r, index)
    else:
        rv = calls.defer(r, payloads)
        if rv != 0:
            calls.io_errmsg(r)
        elif leader.deferred_index == 0:
            leader.deferred_index = index  # replicate.defer
    if rv != 0 or r.failed:
        return _undo(r, leader, index, rv)
    return 0


def _payloads(bufs: Sequence[Buffer], n: int) -> list[bytes] | None:
    """Return the first n buffers as bytes, None if there is anything wrong with them."""
    try:
        if n < 1 or n > len(bufs):
            return None
        if n == 1:
            buf = bufs[0]
            return [buf if type(buf) is bytes else as_bytes(buf)]
        return [buf if type(buf) is bytes else as_bytes(buf) for buf in bufs[:n]]
    except (TypeError, ValueError, LookupError, BufferError):
        return None


def _is(req: object, kind: type) -> bool:
    return isinstance(req, kind)


def _wrong(r: Raft, req: object, kind: type) -> int:
    """Refuse a request of another class, which would be called back with the wrong arguments, if at all."""
    r.errmsg = f"the request is a {type(req).__name__}, not a {kind.__name__}"
    return convert.final_code(r, RAFT_INVALID)


def _not_leader(r: Raft) -> int:
    return convert.final_code(r, request.refuse(r))


def _busy(r: Raft) -> int:
    r.errmsg = "the request is under way, it can be used again when it has been called back"
    return convert.final_code(r, RAFT_BUSY)


def _flush(r: Raft) -> int:
    """Give out what is deferred, in front of a request; return 0, or RAFT_SHUTDOWN if FSM or I/O code raised there."""
    replicate.flush(r)
    return convert.final_code(r, 0)


# Functions, since type checkers, and so mypyc, take it that nothing changes an attribute that was tested before.


def _change_is_over(leader: LeaderState, req: RaftChange) -> bool:
    return leader.change is not req


def _transfer_is_over(r: Raft, req: RaftTransfer) -> bool:
    return r.transfer is not req


def _called_back(r: Raft) -> int:
    """Return the code for a request that was called back inside the call: the callback has told everything."""
    convert.stop_if_failed(r)
    return 0


def _undo(r: Raft, leader: LeaderState, index: int, rv: int) -> int:
    """Take back the entries from `index` on and their request; return the code to give to the user."""
    return convert.final_code(r, rv) if replicate.take_back(r, leader, index, rv) else _called_back(r)


def raft_barrier(r: Raft, req: _Barrier, cb: Callable[[_Barrier, int], None] | None) -> int:
    """Append a barrier entry; `cb(req, status)` fires when it, and so all before it, is applied.

    Its status is 0, RAFT_LEADERSHIPLOST, or that of a failed write. Errors: RAFT_NOTLEADER, RAFT_BUSY (`req` is under
    way), RAFT_INVALID (`req` is not a RaftBarrier), RAFT_SHUTDOWN as raft_apply, codes of io.append. Source: raft.h.
    With an io.defer, disk and network follow at the end of the loop turn, as for commands.
    """
    return calls.public(r, lambda: _barrier(r, req, cb))


def _barrier(r: Raft, req: _Barrier, cb: Callable[[_Barrier, int], None] | None) -> int:
    if not _is(req, RaftBarrier):
        return _wrong(r, req, RaftBarrier)
    leader = request.taken_by(r)
    if leader is None:
        return _not_leader(r)
    if req.pending:
        return _busy(r)
    rv = replicate.submit_barrier(r, leader, req, cb, may_wait=True)
    convert.stop_if_failed(r)
    return rv


def raft_read_index(r: Raft, req: _Read, cb: Callable[[_Read, int, int], None] | None) -> int:
    """Find out up to where the log has to be applied for a linearizable read, and wait until it is (ours).

    `cb(req, status, index)` fires once: with status 0 when this server has shown that it led after the request had
    come, and its state machine holds everything that had been acknowledged by then, up to `index` at least. Read it in
    the callback, or later. Nothing is appended to the log, unless too many voters are servers that do not take the
    question (C's); then a barrier does it. Else the status is RAFT_LEADERSHIPLOST, or RAFT_SHUTDOWN if the server was
    closed, or the code of the I/O for that barrier; a read that failed has changed nothing.

    Reads are called back in the order of their requests, behind the callbacks of the entries up to their index. All
    that wait share one round of messages, with an io.defer those of a turn of the loop. The callback may fire inside
    the call, on the only voter without io.defer.

    Errors: RAFT_NOTLEADER, also while a transfer is under way, RAFT_BUSY (`req` is under way), RAFT_INVALID (`req` is
    not a RaftReadIndex), RAFT_SHUTDOWN (a forked child). Source: dissertation 6.4.
    """
    return calls.public(r, lambda: _read_index(r, req, cb))


def _read_index(r: Raft, req: _Read, cb: Callable[[_Read, int, int], None] | None) -> int:
    if not _is(req, RaftReadIndex):
        return _wrong(r, req, RaftReadIndex)
    leader = request.taken_by(r)
    if leader is None:
        return _not_leader(r)
    if req.pending:
        return _busy(r)
    req.cb = cb
    req.type = 0
    req.index = 0
    req.pending = True
    if reads.ask(r, leader, req):
        replicate.carry_out_reads(r)
    return _called_back(r)


def raft_add(r: Raft, req: _Change, id: raft_id, address: str, cb: Callable[[_Change, int], None] | None) -> int:
    """Add a server to the configuration, as RAFT_SPARE; `cb(req, status)` fires when that is committed.

    A leader that has not committed an entry of its own term yet begins with the change when it has: until then nothing
    shows of it, and a code of io.append goes to `cb`, as RAFT_LEADERSHIPLOST does when the leadership ends.

    Errors: RAFT_NOTLEADER, RAFT_CANTCHANGE (a change or promotion is under way), RAFT_BUSY (`req` is under way), those
    of raft_configuration_add (RAFT_BADID, RAFT_DUPLICATEID, RAFT_DUPLICATEADDRESS, RAFT_INVALID), that of
    io.check_address (RAFT_INVALID with io_uv, for an address that no server can be reached at), RAFT_DUPLICATEADDRESS
    where io.same_address finds another spelling of a member's, that of io.check_configuration (RAFT_TOOBIG with io_uv),
    RAFT_INVALID (`req` is not a RaftChange), RAFT_SHUTDOWN as raft_apply, codes of io.append. Source: raft.h,
    dissertation 4.1.
    """
    return calls.public(r, lambda: _add(r, req, id, address, cb))


def _add(r: Raft, req: _Change, id: raft_id, address: str, cb: Callable[[_Change, int], None] | None) -> int:
    rv = _flush(r)
    if rv != 0:
        return rv
    if not _is(req, RaftChange):
        return _wrong(r, req, RaftChange)
    rv = membership.can_change_configuration(r)
    if rv != 0:
        return convert.final_code(r, rv)
    conf = configuration.copy(r.configuration)
    rv = configuration.raft_configuration_add(conf, id, address, RAFT_SPARE)
    if rv != 0:
        r.errmsg = raft_strerror(rv)
        return rv
    rv = calls.check_address(r, address)
    if rv != 0 or r.failed:
        # C: client.c:raft_add commits any text, and where it leads nowhere that shows much later, if at all.
        return convert.final_code(r, rv)
    if calls.twin(r, address, r.configuration.servers) is not None or r.failed:
        # C: client.c:raft_add compares texts: a server under two ids is a member that never answers.
        return convert.final_code(r, RAFT_DUPLICATEADDRESS)
    return _submit_change(r, req, conf, 0, cb)


def raft_remove(r: Raft, req: _Change, id: raft_id, cb: Callable[[_Change, int], None] | None) -> int:
    """Remove a server from the configuration; `cb(req, status)` fires when that is committed.

    It may have to wait, see raft_add. Errors: RAFT_NOTLEADER, RAFT_CANTCHANGE, RAFT_BUSY (`req` is under way),
    RAFT_BADID (not a member), RAFT_INVALID (no voter would be left, or `req` is not a RaftChange), RAFT_SHUTDOWN as
    raft_apply, codes of io.append. Source: raft.h, dissertation 4.1, 4.2.2.
    """
    return calls.public(r, lambda: _remove(r, req, id, cb))


def _remove(r: Raft, req: _Change, id: raft_id, cb: Callable[[_Change, int], None] | None) -> int:
    rv = _flush(r)
    if rv != 0:
        return rv
    if not _is(req, RaftChange):
        return _wrong(r, req, RaftChange)
    rv = membership.can_change_configuration(r)
    if rv != 0:
        return convert.final_code(r, rv)
    conf = configuration.copy(r.configuration)
    rv = configuration.remove(conf, id)
    if rv != 0:
        r.errmsg = raft_strerror(rv)
        return rv
    return _submit_change(r, req, conf, 0, cb)


def raft_assign(r: Raft, req: _Change, id: raft_id, role: int, cb: Callable[[_Change, int], None] | None) -> int:
    """Give a server another role; `cb(req, status)` fires when that is committed, or has come to nothing.

    A future voter first catches up with the log (4.2.1); RAFT_NOCONNECTION is its status if it does not in time. The
    change may have to wait, see raft_add.

    Errors: RAFT_BADROLE (unknown, or what the server has already), RAFT_NOTLEADER, RAFT_CANTCHANGE, RAFT_BUSY (`req`
    is under way), RAFT_NOTFOUND (not a member), RAFT_INVALID (no voter would be left, or `req` is not a RaftChange),
    RAFT_SHUTDOWN as raft_apply, codes of io.append. Source: raft.h, dissertation 4.2.1.
    """
    return calls.public(r, lambda: _assign(r, req, id, role, cb))


def _assign(r: Raft, req: _Change, id: raft_id, role: int, cb: Callable[[_Change, int], None] | None) -> int:
    if not configuration.is_role(role):
        r.errmsg = raft_strerror(RAFT_BADROLE)
        return RAFT_BADROLE
    rv = _flush(r)
    if rv != 0:
        return rv
    if not _is(req, RaftChange):
        return _wrong(r, req, RaftChange)
    rv = membership.can_change_configuration(r)
    if rv != 0:
        return convert.final_code(r, rv)
    i = configuration.index_of(r.configuration, id)
    if i == len(r.configuration.servers):
        r.errmsg = f"no server has ID {id}"
        return RAFT_NOTFOUND
    if r.configuration.servers[i].role == role:
        r.errmsg = f"server is already {ROLE_NAMES[role]}"
        return RAFT_BADROLE
    conf = configuration.copy(r.configuration)
    conf.servers[i].role = int(role)
    return _submit_change(r, req, conf, id if role == RAFT_VOTER else 0, cb)


def raft_promote(r: Raft, req: _Change, id: raft_id, cb: Callable[[_Change, int], None] | None) -> int:
    """Make a server a voter: raft_assign with RAFT_VOTER, and its errors (ours; older versions of raft.h have it)."""
    return raft_assign(r, req, id, RAFT_VOTER, cb)


def _submit_change(r: Raft, req: RaftChange, conf: RaftConfiguration, promotee_id: int, cb: _Callback) -> int:
    """Register a change to `conf`, and begin with it unless it has to wait; a failure leaves everything as it was."""
    leader = r.leader_state
    assert leader is not None
    assert leader.change is None
    if req.pending:
        return _busy(r)
    if configuration.voter_count(conf) == 0:
        # C: client.c:raft_remove and raft_assign take it, and nothing commits any more (B51).
        r.errmsg = "a cluster cannot be without a voter"
        return RAFT_INVALID
    rv = calls.check_configuration(r, configuration.encode(conf))
    if rv != 0 or r.failed:
        # C: client.c:clientChangeConfiguration sends it all the same. Members whose limits it exceeds end connections
        # whenever it comes, so that they hear nothing more of this leader, which steps down for lack of a quorum.
        return convert.final_code(r, rv)
    req.cb = cb
    req.type = RAFT_CHANGE
    req.index = 0
    req.pending = True
    leader.change = req
    leader.waiting_change = WaitingChange(conf, promotee_id)
    if not replicate.change_is_ready(r):
        return convert.final_code(r, 0)
    rv = replicate.carry_out_change(r, leader)
    if _change_is_over(leader, req):
        return _called_back(r)
    if rv != 0 or r.failed:
        req.pending = False
        leader.change = None
    return convert.final_code(r, rv)


def raft_transfer(r: Raft, req: _Transfer, id: raft_id, cb: Callable[[_Transfer], None] | None) -> int:
    """Hand the leadership to voter `id`; 0 stands for the first one that has been sent everything, else the last one.

    `cb(req)` fires when the target is seen to lead, after an election timeout, when the target cannot be told, or when
    this server leads again or stops; ask raft_leader whether it worked. Meanwhile requests get RAFT_NOTLEADER.

    Errors: RAFT_NOTLEADER, RAFT_BUSY (`req` is under way), RAFT_NOTFOUND (id 0 and no other voter), RAFT_BADID (not a
    member, not a voter, or this server), RAFT_INVALID (`req` is not a RaftTransfer), RAFT_SHUTDOWN as raft_apply, codes
    of io.send. Source: raft.h, dissertation 3.10.
    """
    return calls.public(r, lambda: _transfer(r, req, id, cb))


def _transfer(r: Raft, req: _Transfer, id: raft_id, cb: Callable[[_Transfer], None] | None) -> int:
    rv = _flush(r)
    if rv != 0:
        return rv
    if not _is(req, RaftTransfer):
        return _wrong(r, req, RaftTransfer)
    leader = request.taken_by(r)
    if leader is None:
        return _not_leader(r)
    if req.pending:
        return _busy(r)
    if id == 0:
        id = _select_transferee(r, leader)
        if id == 0:
            r.errmsg = "there's no other voting server"
            return RAFT_NOTFOUND
    i = configuration.index_of(r.configuration, id)
    if id == r.id or i == len(r.configuration.servers) or r.configuration.servers[i].role != RAFT_VOTER:
        r.errmsg = raft_strerror(RAFT_BADID)
        return RAFT_BADID
    membership.transfer_init(r, req, id, cb)
    if progress.persisted_is_up_to_date(leader.progress[i], log.last_index(r.log)):
        rv = membership.transfer_start(r)
    if _transfer_is_over(r, req):
        return _called_back(r)
    if rv != 0 or r.failed:
        req.pending = False
        r.transfer = None
    return convert.final_code(r, rv)


def _select_transferee(r: Raft, leader: LeaderState) -> int:
    """Return the first other voter that has been sent everything, else the last other voter, else 0."""
    id = 0
    for i, server in enumerate(r.configuration.servers):
        if server.id == r.id or server.role != RAFT_VOTER:
            continue
        id = server.id
        if progress.is_up_to_date(leader.progress[i], log.last_index(r.log)):
            break
    return id

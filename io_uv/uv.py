"""raft_uv: a RaftIo on disk files and network connections, driven by an io_uv.pyuv loop.

Duty: `raft_uv_init` and raft_uv_close, and those functions of the RaftIo table that have no module of their own: init,
load, start, bootstrap, recover, set_term, set_vote, time, random, close, and our defer and report (uv.c). The setters
of raft/uv.h are in `settings`.

Happy path: raft_uv_init fills the table in; io.init probes the directory and reads term and vote; io.load reads the
log; io.start listens and starts the tick timer; io.close ends everything and calls back; raft_uv_close forgets it.

Failure modes: a Failure of the modules below becomes a code here, its text goes to io.errmsg. A failed set_term or
set_vote changes nothing in memory, so that the next attempt writes the same file again (B42).
"""

import functools
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from io_uv import (
    append,
    callbacks,
    client,
    closing,
    directory,
    disk,
    encoding,
    finalize,
    fork,
    fs,
    interrupted,
    keyfiles,
    marker,
    metadata,
    probe,
    recv,
    refusal,
    retry,
    send,
    snapshot,
    snapshot_file,
    tcp_common,
    truncate,
    work,
)
from io_uv.end_of_turn import EndOfTurn
from io_uv.failure import Failure
from io_uv.pyuv import Loop, Timer
from io_uv.refusal import EVENTFD, LOOP, NO_EVENTFD_AT_ALL, Refusals
from io_uv.state import Limits, Metadata, Uv
from io_uv.transport import RaftUvTransport
from io_uv.writer import AIO, IN_PLACE, THREAD, Writer
from pyraft import errors
from pyraft.types import (
    UNSET,
    EntryBatch,
    RaftConfiguration,
    RaftIo,
    RaftServer,
    RaftSnapshot,
    no_entries,
    raft_io_close_cb,
    raft_io_recv_cb,
    raft_io_tick_cb,
)

_log: Final = logging.getLogger("io_uv")

_DEFAULT_BLOCK_SIZE: Final = 4096


def raft_uv_init(io: RaftIo, loop: Loop, dir: str | os.PathLike[str], transport: RaftUvTransport) -> int:
    """Make `io` store its data in directory `dir` and talk to peers through `transport`, on `loop`. Source: raft/uv.h.

    The directory is not touched before raft_init. Returns RAFT_INVALID if transport.version is 0, or another thread
    runs the loop, RAFT_NAMETOOLONG for a path of more than 894 bytes. Raises TypeError for a loop that is not of pyuv.
    """
    tcp_common.check_loop(loop)
    path = os.fsdecode(dir)
    io.errmsg = ""
    if transport.version == 0:
        io.errmsg = "transport->version must be set"
        return errors.RAFT_INVALID
    if tcp_common.misplaced(loop, io):
        return errors.RAFT_INVALID
    if len(os.fsencode(path)) > fs.MAX_DIR_LEN:
        io.errmsg = "directory path too long"
        return errors.RAFT_NAMETOOLONG
    io.version = 2
    io.impl = uv = Uv(io, loop, path, transport)
    fork.watch(uv)
    interrupted.watch(uv)
    io.init = _init
    io.close = _close
    io.load = _load
    io.start = _start
    io.bootstrap = _bootstrap
    io.recover = _recover
    io.set_term = _set_term
    io.set_vote = _set_vote
    io.send = send.send
    io.append = append.append
    io.truncate = truncate.truncate
    io.snapshot_put = snapshot.snapshot_put
    io.snapshot_get = snapshot.snapshot_get
    io.time = _time
    io.random = _random
    io.async_work = work.async_work
    io.defer = _defer
    io.later = _later
    # It outlives `io.impl`: the close callback, which raft_uv_close is called from, may raise as well.
    io.report = lambda io, exc: _report(loop, exc)
    io.features = 0xFFFF  # Newer relatives keep other things in the rest of that word (encoding).
    io.recovering = _recovering
    io.recovered = _recovered
    io.filling = _filling
    io.check_address = _check_address
    io.same_address = _same_address
    io.check_configuration = _check_configuration
    io.configured = _configured
    io.check = interrupted.check
    tcp_common.mind_threads(io, loop)
    return 0


def raft_uv_close(io: RaftIo) -> None:
    """Release what raft_uv_init allocated, after the close callback of the server. Source: raft/uv.h.

    Called before, it changes nothing, and the log says so.
    """
    uv = io.impl
    if isinstance(uv, Uv) and tcp_common.ignored(uv.loop, "raft_uv_close"):
        return
    if isinstance(uv, Uv) and uv.lock is not None and not uv.closed:
        # C: uv.c:raft_uv_close frees it. Here nobody could close the server then, which would keep directory and port.
        _log.error("raft_uv_close does nothing: server %d is not closed, its raft_close has not called back", uv.id)
        return
    io.impl = None


def _refuse(io: RaftIo, failure: Failure) -> int:
    """Turn a Failure into the code to return."""
    io.errmsg = errors.errmsg_cut(failure.message)
    return failure.code


# Functions of the table, in the order in which they are used.


def _init(io: RaftIo, id: int, address: str) -> int:
    """RaftIo.init: look at the directory and lock it, read term and vote, prepare handles.

    RAFT_BUSY if the directory is in use, by this very table even; RAFT_CANCELED after io.close: raft_uv_init makes the
    table anew; RAFT_INVALID for a transport that nobody has filled in; RAFT_SHUTDOWN on a loop of the parent process.
    """
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    if uv.loop.inherited:
        return _refuse(io, Failure(errors.RAFT_SHUTDOWN, fork.TEXT))
    if uv.lock is not None:
        io.errmsg = f"a server uses this table, and directory '{uv.dir}', already"
        return errors.RAFT_BUSY
    try:
        rv = _open(uv, id, address)
    except Failure as failure:
        _give_up(uv)
        return _refuse(io, failure)
    except BaseException:
        _give_up(uv)
        raise
    if rv != 0:
        _give_up(uv)
        io.errmsg = errors.errmsg_wrap(uv.transport.errmsg, "transport")
        return rv
    uv.transport.data = uv
    uv.timer = Timer(uv.loop)
    uv.end_of_turn = EndOfTurn(uv.loop)
    uv.append_start = functools.partial(append.advance, uv)
    uv.send_start = functools.partial(client.flush, uv)
    uv.after_append = functools.partial(recv.go_on, uv, False)
    uv.after_finalize = functools.partial(append.after_finalize, uv)
    return 0


def _give_up(uv: Uv) -> None:
    """End an io.init that has failed."""
    writer, uv.writer = uv.writer, UNSET
    if writer is not None:
        writer.abandon()()
    closing.unlock(uv)


def _open(uv: Uv, id: int, address: str) -> int:
    """Take the directory, and tell the transport who we are; return its code or raise Failure."""
    transport = uv.transport
    if transport.init is None:
        raise Failure(errors.RAFT_INVALID, "the transport is not initialized, see raft_uv_tcp_init")
    uv.id = id
    uv.address = address
    directory.check_dir(uv.dir)
    uv.dir = directory.absolute(uv.dir)
    keyfiles.warn_of_access(uv.dir, fs.stat(uv.dir))
    uv.refusals = Refusals(uv.dir)
    uv.lock = directory.lock_dir(uv.dir, uv.refusals)
    refusal.begin(uv.refusals)
    _note_loop(uv)
    _probe(uv)
    disk.clean_up(uv.dir)
    disk.refuse_links(uv.dir)
    uv.metadata = metadata.load(uv.dir)
    rv: int = transport.init(transport, id, address)
    return rv


def _note_loop(uv: Uv) -> None:
    """Take note of what is refused to the loop."""
    if uv.loop.refusal is not None:
        call, exc = uv.loop.refusal
        if call == EVENTFD:
            uv.refusals.note(EVENTFD, exc, instead=NO_EVENTFD_AT_ALL)
        else:
            uv.refusals.note(LOOP, exc, call)


def _probe(uv: Uv) -> None:
    """Find out what the file system can do, and choose how to write."""
    found = probe.probe(uv.dir, keep=True)
    uv.direct_io = found.direct_io != 0
    uv.async_io = found.async_io
    uv.fallocate = found.fallocate
    uv.block_size = found.direct_io or _DEFAULT_BLOCK_SIZE
    # Zeros that are written ahead help only where a later write goes to the same place.
    uv.zero_fill = uv.direct_io and uv.fallocate and not found.in_memory and not found.copy_on_write
    mode = AIO if uv.async_io else IN_PLACE if found.in_memory else THREAD
    uv.writer = Writer(uv.loop, mode, uv.refusals, lambda function: uv.end_of_turn.then(function), found.context)


def _load(io: RaftIo) -> tuple[int, int, int, RaftSnapshot | None, int, EntryBatch]:
    """RaftIo.load: return (rv, term, voted_for, snapshot or None, start_index, entries)."""
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv), 0, 0, None, 0, no_entries()
    try:
        closing.require_dir(uv)
        found, start_index, entries = disk.load(uv.dir, uv.auto_recovery, uv.limits.mapped)
        disk.check_term(uv.metadata, found, entries)
    except Failure as failure:
        return _refuse(io, failure), 0, 0, None, 0, no_entries()
    uv.append_next_index = start_index + len(entries)
    return 0, uv.metadata.term, uv.metadata.voted_for, found, start_index, entries


def _start(io: RaftIo, msecs: int, tick: raft_io_tick_cb, recv_cb: raft_io_recv_cb) -> int:
    """RaftIo.start: accept peers and tick every `msecs` ms. A code of the transport's listen leaves no timer.

    RAFT_INVALID for a limit that is not a whole number from 0 on: the first to meet it would stop the server.
    """
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    for name in [name for name in dir(uv.limits) if not name.startswith("_")]:  # compiled, it has no __slots__
        value = getattr(uv.limits, name)
        if not isinstance(value, int) or value < 0:
            io.errmsg = f"the limit '{name}' must be a whole number from 0, not {value!r}"
            return errors.RAFT_INVALID
    uv.tick_cb = tick
    uv.recv_cb = recv_cb
    rv = recv.start(uv)
    if rv != 0:
        return rv
    assert uv.timer is not None
    uv.figures.due = time.monotonic() + msecs / 1000
    uv.timer.start(functools.partial(_tick, uv, msecs / 1000), msecs / 1000, msecs / 1000)
    return 0


def _tick(uv: Uv, interval: float, timer: Timer) -> None:
    """A heartbeat interval has passed. It is one event: what it sends goes out with its end."""
    now = time.monotonic()
    uv.figures.tick(now, interval)
    for server in uv.servers:
        if server.heard_at != server.noted:
            server.note(now)
    uv.end_of_turn.hold()
    try:
        uv.tick_cb(uv.io)
    finally:
        uv.end_of_turn.release()
    if uv.held:
        recv.go_on(uv, True)


def _bootstrap(io: RaftIo, conf: RaftConfiguration) -> int:
    """RaftIo.bootstrap: make term 1 and the configuration entry durable, or go on with that where it was interrupted.

    RAFT_CANTBOOTSTRAP if there is a term otherwise.
    """
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    if uv.metadata.term != 0 and not disk.may_be_half_bootstrapped(uv.metadata):
        io.errmsg = f"metadata contains term {uv.metadata.term}"
        return errors.RAFT_CANTBOOTSTRAP
    try:
        closing.require_dir(uv)
        uv.metadata = disk.bootstrap(uv.dir, conf, uv.block_size)
    except Failure as failure:
        return _refuse(io, failure)
    return 0


def _recover(io: RaftIo, conf: RaftConfiguration) -> int:
    """RaftIo.recover: append the configuration to the log, for good; io.load comes after it."""

    def change(uv: Uv) -> None:
        term = disk.recover(uv.dir, conf, uv.block_size, uv.metadata.term, uv.auto_recovery)
        # The operator has declared this log to be the cluster's, whatever else was lost.
        marker.marker_clear(uv.dir)
        if uv.metadata.term < term:
            fresh = Metadata(uv.metadata.version + 1, term, 0)
            metadata.store(uv.dir, fresh)
            uv.metadata = fresh

    return _change_dir(io, change)


def _set_term(io: RaftIo, term: int) -> int:
    """RaftIo.set_term: store a term without a vote."""
    return _store(io, term, 0)


def _set_vote(io: RaftIo, server_id: int) -> int:
    """RaftIo.set_vote: store the vote in this term."""
    return _store(io, io.impl.metadata.term, server_id)


def _store(io: RaftIo, term: int, voted_for: int) -> int:
    uv: Uv = io.impl
    uv.loop.check()
    if uv.closing:
        return closing.refuse(uv)
    fresh = Metadata(uv.metadata.version + 1, term, voted_for)
    try:
        closing.require_dir(uv)
        metadata.store(uv.dir, fresh)
    except Failure as failure:
        return _refuse(io, failure)
    uv.metadata = fresh
    return 0


def _time(io: RaftIo) -> int:
    """RaftIo.time: the loop's clock in ms."""
    loop: Loop = io.impl.loop
    now = int(loop._uv.time() * 1000.0 + 0.5)
    return now if now > loop._updated else loop._updated  # Loop.now, without its call


def _random(io: RaftIo, min: int, max: int) -> int:
    """RaftIo.random: a number from min to max - 1."""
    return random.randrange(min, max)


def _defer(io: RaftIo, bufs: Sequence[bytes], n: int, fn: Callable[[], None]) -> int:
    """RaftIo.defer: see there."""
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    size = len(bufs[0]) if n == 1 and not uv.append_told else 1
    if size % 8 != 0 or size > uv.limits.payload:
        # One command, where the disk is not known to be sick, needs no more tests than these.
        rv = append.check(uv, bufs, n)
        if rv != 0:
            return rv
    uv.end_of_turn.add(fn)
    return 0


def _later(io: RaftIo, fn: Callable[[], None]) -> int:
    """RaftIo.later: see there."""
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    uv.end_of_turn.later(fn)
    return 0


def _report(loop: Loop, exc: BaseException) -> None:
    """RaftIo.report: give an exception of user code to the loop's excepthook.

    KeyboardInterrupt and SystemExit come out of the loop's run, as from any callback of the loop, but not before the
    core has ended what it was doing: the server can be closed afterwards.
    """
    if isinstance(exc, KeyboardInterrupt | SystemExit) and loop.inherited:
        loop.leave(exc)
    elif isinstance(exc, KeyboardInterrupt | SystemExit):
        interrupted.report(loop, exc)
    else:
        loop.excepthook(type(exc), exc, exc.__traceback__)


def _recovering(io: RaftIo) -> bool:
    """RaftIo.recovering: whether entries are missing that this server may have acknowledged.

    Files were set aside, or it was stopped while a leader filled up an empty log.
    """
    uv: Uv = io.impl
    if uv.closing:
        closing.refuse(uv)
        return True
    try:
        if marker.marker_read(uv.dir) is not None:
            io.errmsg = f"files were set aside, see {marker.NAME} for what to do"
            return True
        if uv.append_next_index > 1 and marker.filling_stands(uv.dir):
            text = "it stopped before a leader had filled up its empty log (a new server lacks none)"
            io.errmsg = f"{text}, see {marker.FILLING_NAME}"
            return True
    except Failure as failure:
        _refuse(io, failure)
        return True
    return False


def _filling(io: RaftIo) -> int:
    """RaftIo.filling: leave a note that the log is about to be filled up."""
    return _change_dir(io, lambda uv: marker.filling_set(uv.dir))


def _recovered(io: RaftIo) -> int:
    """RaftIo.recovered: remove what says that entries may be missing."""
    return _change_dir(io, lambda uv: marker.marker_clear(uv.dir))


def _change_dir(io: RaftIo, change: Callable[[Uv], None]) -> int:
    """Have something in the directory changed, if it still is where it was; return 0, or the code of the Failure."""
    uv: Uv = io.impl
    if uv.closing:
        return closing.refuse(uv)
    try:
        closing.require_dir(uv)
        change(uv)
    except Failure as failure:
        return _refuse(io, failure)
    return 0


def _check_address(io: RaftIo, address: str) -> int:
    """RaftIo.check_address: RAFT_INVALID for an address that the transport can never connect to, if it can tell."""
    transport = io.impl.transport
    if transport.check_address is None:
        return 0
    rv: int = transport.check_address(transport, address)
    if rv != 0:
        io.errmsg = transport.errmsg
    return rv


def _same_address(io: RaftIo, one: str, other: str) -> bool:
    """RaftIo.same_address: whether two addresses are one server's, if the transport can tell."""
    transport = io.impl.transport
    return transport.same_address is not None and bool(transport.same_address(transport, one, other))


def _check_configuration(io: RaftIo, buf: bytes) -> int:
    """RaftIo.check_configuration: RAFT_TOOBIG for one that some message or file that carries it has no room for.

    The members' limits are taken to be the own ones.
    """
    limits: Limits = io.impl.limits
    limit, where = min(
        (limits.payload, "payload of raft_uv_limits"),
        (limits.header - encoding.INSTALL_SNAPSHOT_SIZE, "header of raft_uv_limits"),
        (snapshot_file.MAX_CONFIGURATION, "files of snapshots"),
    )
    if len(buf) <= limit:
        return 0
    io.errmsg = f"a configuration of {len(buf)} bytes exceeds the limit of {limit}, see {where}"
    return errors.RAFT_TOOBIG


def _configured(io: RaftIo, servers: list[RaftServer]) -> None:
    """RaftIo.configured: clients exist for members. An address that was never checked here, as with C, is told once."""
    uv: Uv = io.impl
    for server in servers:
        known = uv.peers.members is not None and uv.peers.members.get(server.id) == server.address
        if not known and _check_address(io, server.address) != 0:
            _log.warning("server %d of the configuration: %s", server.id, io.errmsg)
    if not uv.closing:
        send.configured(uv, {server.id: server.address for server in servers})


def _close(io: RaftIo, cb: raft_io_close_cb) -> None:
    """RaftIo.close: end everything; `cb(io)` once when nothing is left, inside this only if init never succeeded or the
    loop was closed before.
    """
    uv: Uv = io.impl
    if uv.loop.inherited:
        callbacks.fire(uv, cb, io)
        return
    uv.loop.check()
    if uv.torn:
        uv.close_cb = cb
        interrupted.bury(uv)
        return
    assert not uv.closing
    uv.closing = True
    uv.close_cb = cb
    if uv.timer is None:
        closing.maybe_fire(uv)
        return
    if uv.timer.closed or uv.loop._uv.is_closed():
        _abandon(uv)
        return
    uv.aborting += (uv.transport, uv.timer, uv.writer, uv.end_of_turn)
    send.close(uv)
    recv.close(uv)
    append.close(uv)
    truncate.close(uv)
    snapshot.close(uv)
    finalize.close(uv)
    retry.close(uv)
    uv.end_of_turn.close(lambda _: closing.gone(uv, uv.end_of_turn))
    uv.transport.close(uv.transport, lambda _: _transport_closed(uv))
    uv.timer.close(lambda timer: _timer_closed(uv, timer))
    uv.writer.close(lambda: closing.gone(uv, uv.writer))


def _abandon(uv: Uv) -> None:
    """Give the directory back although the loop is gone, and with it every handle and all that was under way."""
    for segment in uv.append_segments:
        if segment.fd >= 0:
            closing.close_file(segment.fd)
    closing.end(uv)


def _transport_closed(uv: Uv) -> None:
    uv.transport.data = None
    closing.gone(uv, uv.transport)


def _timer_closed(uv: Uv, timer: Timer) -> None:
    uv.timer = None
    closing.gone(uv, timer)

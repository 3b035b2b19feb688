"""An in-memory RaftIo with virtual time: the disk, the network and the clock of the servers of a fixture.

Duty: everything that one server of `fixture` asks of its RaftIo table, and the timeline that all of them share. An
asynchronous call becomes a request on the timeline, due at the virtual time of submission plus a latency; the driver of
the timeline (`fixture.raft_fixture_step`) takes the earliest one and hands it to `complete`.

Happy path: `send` is due after the send latency; its completion tests the connection, puts a delivery on the timeline
and calls back; the delivery tests the link again and hands the message to the peer. `append`, `snapshot_put` and
`snapshot_get` take the disk latency, `async_work` a fixed time. `set_term`, `set_vote` and `truncate` act at once.

Failure modes: the four fault countdowns make one call fail with RAFT_IOERR (append: when it completes, and nothing is
stored). A peer that is unknown or disconnected fails the send with RAFT_NOCONNECTION; a saturated link and a dropped
type lose the delivery silently. An exception from a completion callback is kept in `Timeline.reports`.
"""

import sys
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from pyraft import configuration, fixture_copy, types
from pyraft.errors import RAFT_CANTBOOTSTRAP, RAFT_IOERR, RAFT_NOCONNECTION, RAFT_NOTFOUND
from pyraft.state import Raft
from pyraft.tracing import RaftTracer
from pyraft.types import (
    RAFT_CHANGE,
    RAFT_IO_TIMEOUT_NOW,
    UNSET,
    Entries,
    EntryBatch,
    RaftConfiguration,
    RaftEntry,
    RaftIo,
    RaftIoAppend,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftSnapshot,
    as_bytes,
)

RAFT_FIXTURE_TICK: Final = 1
RAFT_FIXTURE_NETWORK: Final = 2
RAFT_FIXTURE_DISK: Final = 3
RAFT_FIXTURE_WORK: Final = 4

ELECTION_TIMEOUT: Final = 1000
NETWORK_LATENCY: Final = 15
DISK_LATENCY: Final = 10
WORK_DURATION: Final = 200
SEND_LATENCY: Final = 0
MESSAGE_TYPES: Final = RAFT_IO_TIMEOUT_NOW

APPEND: Final = 1
SEND: Final = 2
TRANSMIT: Final = 3
SNAPSHOT_PUT: Final = 4
SNAPSHOT_GET: Final = 5
ASYNC_WORK: Final = 6

EVENT_TYPES: Final = {
    SEND: RAFT_FIXTURE_NETWORK,
    TRANSMIT: RAFT_FIXTURE_NETWORK,
    APPEND: RAFT_FIXTURE_DISK,
    SNAPSHOT_PUT: RAFT_FIXTURE_DISK,
    SNAPSHOT_GET: RAFT_FIXTURE_DISK,
    ASYNC_WORK: RAFT_FIXTURE_WORK,
}
"""Which event the completion of a request counts as."""

APPEND_FAULT: Final = 0
VOTE_FAULT: Final = 1
TERM_FAULT: Final = 2
SEND_FAULT: Final = 3


class Request:
    """Something a server asked for that is still pending. `kind` says which of the other fields are in use."""

    __slots__ = ("cb", "entries", "first", "keep", "kind", "message", "req", "snapshot", "trailing")

    def __init__(self, kind: int, req: Any, cb: Callable[..., None]) -> None:
        self.kind = kind
        self.req = req
        self.cb = cb
        self.message: RaftMessage | None = None
        self.entries: EntryBatch | None = None
        self.first = 0  # Index of the first entry of an append.
        self.keep = 0  # How many of its entries are still wanted: a later truncation lowers it.
        self.snapshot: RaftSnapshot | None = None
        self.trailing = 0


class Timeline:
    """The virtual clock of a cluster and what is due on it.

    `heap` holds (time, server index, number, request or None for a tick). Numbers grow with every submission and a
    tick has 0, so the order of the heap is the order of events: earlier time, lower server index, tick before request,
    earlier submission.
    """

    __slots__ = ("heap", "number", "reports", "time")

    def __init__(self) -> None:
        self.time = 0
        self.heap: list[tuple[int, int, int, Request | None]] = []
        self.number = 0
        self.reports: list[BaseException] = []


class Peer:
    """The link from one server to another."""

    __slots__ = ("connected", "impl", "saturated", "send_latency")

    def __init__(self, impl: "FixtureIo") -> None:
        self.impl = impl
        self.connected = True
        self.saturated = False
        self.send_latency = SEND_LATENCY


class FixtureIo:
    """The server behind one RaftIo table (`io.impl`): durable state, links, latencies, faults, counters.

    `stored` maps indexes to (term, type, payload); the unbroken run from `start_index` on counts. `next_index`
    is the index of the next entry to be appended, counting those on their way, `append_due` the time before which no
    further append and no snapshot completes, though the latency be lowered. `filling` is whether a leader has begun to
    give this server a log and not come to the end of its own yet. `peers` maps server ids to links.
    """

    __slots__ = (
        "address",
        "append_due",
        "disk_latency",
        "drop",
        "faults",
        "filling",
        "id",
        "index",
        "io",
        "n_recv",
        "n_send",
        "network_latency",
        "next_index",
        "next_tick",
        "peers",
        "randomized_election_timeout",
        "recv_cb",
        "snapshot",
        "start_index",
        "stored",
        "term",
        "tick_cb",
        "tick_interval",
        "timeline",
        "voted_for",
        "work_duration",
    )

    def __init__(self, io: RaftIo, index: int, timeline: Timeline) -> None:
        self.io = io
        self.index = index
        self.timeline = timeline
        self.id = 0
        self.address = ""
        self.next_tick = 0
        self.tick_interval = 0
        self.tick_cb: types.raft_io_tick_cb = UNSET
        self.recv_cb: types.raft_io_recv_cb | None = None
        self.term = 0
        self.voted_for = 0
        self.snapshot: RaftSnapshot | None = None
        self.start_index = 1
        self.stored: dict[int, tuple[int, int, bytes]] = {}
        self.next_index = 1
        self.filling = False
        self.peers: dict[int, Peer] = {}
        self.randomized_election_timeout = ELECTION_TIMEOUT + 100 * index
        self.network_latency = NETWORK_LATENCY
        self.disk_latency = DISK_LATENCY
        self.append_due = 0
        self.work_duration = WORK_DURATION
        self.faults = [-1, -1, -1, -1]
        self.drop = [False] * (MESSAGE_TYPES + 1)
        self.n_send = [0] * (MESSAGE_TYPES + 1)
        self.n_recv = [0] * (MESSAGE_TYPES + 1)


class RaftFixtureServer:
    """`struct raft_fixture_server`: one server of a fixture; `alive` is False once it was killed."""

    __slots__ = ("address", "alive", "id", "impl", "io", "raft", "tracer")

    def __init__(self, id: int) -> None:
        self.alive = True
        self.id = id
        self.address = str(id)
        self.tracer = RaftTracer(_emit)
        self.io = RaftIo()
        self.raft = Raft()
        self.impl: FixtureIo


def init(io: RaftIo, index: int, timeline: Timeline) -> FixtureIo:
    """Fill the table `io` for server number `index` of a cluster that lives on `timeline`; return what is behind it."""
    impl = FixtureIo(io, index, timeline)
    io.impl = impl
    io.version = 2
    io.init = _init
    io.close = _close
    io.start = _start
    io.load = _load
    io.bootstrap = _bootstrap
    io.recover = _recover
    io.set_term = _set_term
    io.set_vote = _set_vote
    io.append = _append
    io.truncate = _truncate
    io.send = _send
    io.snapshot_put = _snapshot_put
    io.snapshot_get = _snapshot_get
    io.async_work = _async_work
    io.time = _time
    io.random = _random
    io.report = _report
    io.filling = _filling
    io.recovering = _recovering
    io.recovered = _recovered
    return impl


# Links, and the state that a user of the fixture sets directly.


def connect(impl: FixtureIo, other: FixtureIo) -> None:
    """Make messages from `impl` to `other` possible."""
    impl.peers[other.id] = Peer(other)


def add_entry(impl: FixtureIo, entry: RaftEntry) -> None:
    """Append a copy of `entry` to the stored entries."""
    impl.stored[impl.next_index] = (entry.term, entry.type, as_bytes(entry.buf))
    impl.next_index += 1


def set_snapshot(impl: FixtureIo, snapshot: RaftSnapshot) -> None:
    """Replace the stored snapshot. Stored entries that do not reach beyond it are dropped."""
    # C: fixture.c:raft_fixture_set_snapshot leaves the entries alone, and a later load then takes whatever is stored,
    # even the bootstrap entry, for what follows the snapshot.
    impl.snapshot = fixture_copy.of_snapshot(snapshot)
    if impl.next_index <= snapshot.index + 1:
        _restart_log(impl, snapshot.index + 1)


def has_message_for(impl: FixtureIo, id: int) -> bool:
    """Return whether a message from this server to server `id` waits to be sent or delivered."""
    return any(request.message is not None and request.message.server_id == id for request in _pending(impl))


# The table.


def _init(io: RaftIo, id: int, address: str) -> int:
    io.impl.id = id
    io.impl.address = address
    return 0


def _close(io: RaftIo, cb: types.raft_io_close_cb | None) -> None:
    if cb is not None:
        cb(io)


def _start(io: RaftIo, msecs: int, tick: types.raft_io_tick_cb, recv: types.raft_io_recv_cb) -> int:
    impl: FixtureIo = io.impl
    impl.tick_interval = msecs
    impl.tick_cb = tick
    impl.recv_cb = recv
    impl.next_tick = impl.timeline.time + msecs
    heappush(impl.timeline.heap, (impl.next_tick, impl.index, 0, None))
    return 0


def _load(io: RaftIo) -> tuple[int, int, int, RaftSnapshot | None, int, EntryBatch]:
    impl: FixtureIo = io.impl
    snapshot = None if impl.snapshot is None else fixture_copy.of_snapshot(impl.snapshot)
    run: list[tuple[int, int, bytes]] = []
    while impl.start_index + len(run) in impl.stored:
        run.append(impl.stored[impl.start_index + len(run)])
    entries = EntryBatch([e[0] for e in run], [e[1] for e in run], [e[2] for e in run])
    return 0, impl.term, impl.voted_for, snapshot, impl.start_index, entries


def _bootstrap(io: RaftIo, conf: RaftConfiguration) -> int:
    impl: FixtureIo = io.impl
    if impl.term != 0:
        return RAFT_CANTBOOTSTRAP
    if impl.voted_for != 0 or impl.snapshot is not None or impl.stored:
        raise AssertionError("a server without a term has voted, or has a snapshot or entries")
    impl.term = 1
    add_entry(impl, RaftEntry(1, RAFT_CHANGE, configuration.encode(conf)))
    return 0


def _recover(io: RaftIo, conf: RaftConfiguration) -> int:
    return RAFT_IOERR  # As in C, the fixture has no disk to recover.


def _set_term(io: RaftIo, term: int) -> int:
    impl: FixtureIo = io.impl
    if _fault(impl, TERM_FAULT):
        return RAFT_IOERR
    impl.term = term
    impl.voted_for = 0
    return 0


def _set_vote(io: RaftIo, server_id: int) -> int:
    impl: FixtureIo = io.impl
    if _fault(impl, VOTE_FAULT):
        return RAFT_IOERR
    impl.voted_for = server_id
    return 0


def _send(io: RaftIo, req: RaftIoSend, message: RaftMessage, cb: types.raft_io_send_cb) -> int:
    impl: FixtureIo = io.impl
    if _fault(impl, SEND_FAULT):
        return RAFT_IOERR
    request = Request(SEND, req, cb)
    request.message = message
    # C: fixture.c:ioMethodSend reads the latency through a null pointer when the server is unknown.
    peer = impl.peers.get(message.server_id)
    _submit(impl, request, SEND_LATENCY if peer is None else peer.send_latency)
    return 0


def _append(io: RaftIo, req: RaftIoAppend, entries: Entries, n: int, cb: types.raft_io_append_cb) -> int:
    impl: FixtureIo = io.impl
    request = Request(APPEND, req, cb)
    request.entries = EntryBatch.of(entries, n)
    request.first = impl.next_index
    request.keep = n
    impl.next_index += n
    # C: fixture.c:ioMethodAppend lets an append overtake the one before when the latency has been lowered.
    impl.append_due = max(impl.timeline.time + impl.disk_latency, impl.append_due)
    _submit(impl, request, impl.append_due - impl.timeline.time)
    return 0


def _truncate(io: RaftIo, index: int) -> int:
    impl: FixtureIo = io.impl
    # C: fixture.c:ioMethodTruncate counts stored entries from 1, which is wrong after a snapshot, and forgets the
    # writes on their way, which would put back what is cut here.
    _cut(impl, index)
    return 0


def _snapshot_put(
    io: RaftIo, trailing: int, req: RaftIoSnapshotPut, snapshot: RaftSnapshot, cb: types.raft_io_snapshot_put_cb
) -> int:
    impl: FixtureIo = io.impl
    request = Request(SNAPSHOT_PUT, req, cb)
    request.snapshot = snapshot
    request.trailing = trailing
    _submit(impl, request, max(impl.disk_latency, impl.append_due - impl.timeline.time))
    return 0


def _snapshot_get(io: RaftIo, req: RaftIoSnapshotGet, cb: types.raft_io_snapshot_get_cb) -> int:
    _submit(io.impl, Request(SNAPSHOT_GET, req, cb), io.impl.disk_latency)
    return 0


def _async_work(io: RaftIo, req: RaftIoAsyncWork, cb: types.raft_io_async_work_cb) -> int:
    _submit(io.impl, Request(ASYNC_WORK, req, cb), io.impl.work_duration)
    return 0


def _time(io: RaftIo) -> int:
    now: int = io.impl.timeline.time
    return now


def _random(io: RaftIo, min: int, max: int) -> int:
    value: int = io.impl.randomized_election_timeout
    return min if value < min else max if value > max else value


def _report(io: RaftIo, exc: BaseException) -> None:
    io.impl.timeline.reports.append(exc)


def _filling(io: RaftIo) -> int:
    io.impl.filling = True
    return 0


def _recovering(io: RaftIo) -> bool:
    # C: fixture.c has nothing of the kind. A server that stopped with a part of the log that it may have had before its
    # disk was replaced votes there as soon as it is started again.
    impl: FixtureIo = io.impl
    return impl.filling and (impl.snapshot is not None or bool(impl.stored))


def _recovered(io: RaftIo) -> int:
    io.impl.filling = False
    return 0


# Completion.


def fire_next(timeline: Timeline, servers: list[RaftFixtureServer]) -> tuple[int, int]:
    """Move the clock to the earliest event and let that happen; return its RAFT_FIXTURE_* type and server index."""
    while True:
        if not timeline.heap:
            raise AssertionError("nothing is due: no server was started")
        due, index, _, request = heappop(timeline.heap)
        s = servers[index]
        # A server that was started again has a tick of its former life on the timeline.
        if request is not None or due == s.impl.next_tick:
            break
    timeline.time = due
    if request is not None:
        complete(s.impl, request)
        return EVENT_TYPES[request.kind], index
    s.impl.next_tick = due + s.impl.tick_interval
    heappush(timeline.heap, (s.impl.next_tick, index, 0, None))
    if s.alive:
        s.impl.tick_cb(s.io)
    return RAFT_FIXTURE_TICK, index


def complete(impl: FixtureIo, request: Request) -> None:
    """Do what `request` asked for, now, and call back."""
    kind = request.kind
    if kind == SEND:
        _complete_send(impl, request)
    elif kind == TRANSMIT:
        _deliver(impl, request)
    elif kind == APPEND:
        request.cb(request.req, _complete_append(impl, request))
    elif kind == SNAPSHOT_PUT:
        _complete_snapshot_put(impl, request)
        request.cb(request.req, 0)
    elif kind == SNAPSHOT_GET:
        # C: fixture.c:ioFlushSnapshotGet copies a null snapshot.
        snapshot = None if impl.snapshot is None else fixture_copy.of_snapshot(impl.snapshot)
        request.cb(request.req, snapshot, RAFT_NOTFOUND if snapshot is None else 0)
    else:
        assert kind == ASYNC_WORK, f"unknown kind of request {kind}"
        request.cb(request.req, request.req.work(request.req))


def flush(impl: FixtureIo) -> None:
    """Complete whatever this server has pending, and what that submits, in order; discard deliveries."""
    heap = impl.timeline.heap
    while True:
        mine = sorted(item[2] for item in heap if item[1] == impl.index and item[3] is not None)
        if not mine:
            return
        requests = {item[2]: item[3] for item in heap if item[1] == impl.index}
        heap[:] = sorted(item for item in heap if item[1] != impl.index or item[3] is None)
        for number in mine:
            request = requests[number]
            assert request is not None
            if request.kind != TRANSMIT:
                complete(impl, request)


def _pending(impl: FixtureIo) -> list[Request]:
    return [item[3] for item in impl.timeline.heap if item[1] == impl.index and item[3] is not None]


def _submit(impl: FixtureIo, request: Request, latency: int) -> None:
    timeline = impl.timeline
    timeline.number += 1
    heappush(timeline.heap, (timeline.time + latency, impl.index, timeline.number, request))


def _fault(impl: FixtureIo, which: int) -> bool:
    countdown = impl.faults[which]
    if countdown < 0:
        return False
    impl.faults[which] = countdown - 1
    return countdown == 0


def _complete_send(impl: FixtureIo, request: Request) -> None:
    message = request.message
    assert message is not None
    peer = impl.peers.get(message.server_id)
    if peer is None or not peer.connected:
        status = RAFT_NOCONNECTION
    else:
        transmit = Request(TRANSMIT, None, UNSET)
        transmit.message = message
        _submit(impl, transmit, impl.network_latency)
        impl.n_send[message.type] += 1
        status = 0
    if request.cb is not None:
        request.cb(request.req, status)


def _deliver(impl: FixtureIo, request: Request) -> None:
    message = request.message
    assert message is not None
    if impl.drop[message.type]:
        return
    peer = impl.peers.get(message.server_id)
    if peer is None or not peer.connected or peer.saturated:
        return
    target = peer.impl
    if target.recv_cb is None:
        return  # Not started yet: nobody listens. (C would call a null pointer.)
    target.recv_cb(target.io, fixture_copy.received(message, impl.id, impl.address))
    target.n_recv[message.type] += 1


def _complete_append(impl: FixtureIo, request: Request) -> int:
    if _fault(impl, APPEND_FAULT):
        # The core cuts its log here, so what it wrote behind these entries is void too.
        _cut(impl, request.first)
        return RAFT_IOERR
    batch = request.entries
    assert batch is not None
    for i in range(request.keep):
        impl.stored[request.first + i] = (batch.terms[i], batch.types[i], batch.bufs[i])
    return 0


def _complete_snapshot_put(impl: FixtureIo, request: Request) -> None:
    snapshot = request.snapshot
    assert snapshot is not None
    impl.snapshot = fixture_copy.of_snapshot(snapshot)
    beyond = snapshot.index >= impl.next_index
    if beyond or (request.trailing == 0 and _term_of(impl, snapshot.index) != snapshot.term):
        # A snapshot from the leader replaces the log. A local one describes entries that are here, and what follows
        # them stays, unless some of those entries could not be stored.
        _restart_log(impl, snapshot.index + 1)
        return
    while impl.start_index <= snapshot.index - request.trailing:
        impl.stored.pop(impl.start_index, None)
        impl.start_index += 1


def _term_of(impl: FixtureIo, index: int) -> int:
    """Return the term of the entry at `index`, stored or on its way; 0 if there is none."""
    entry = impl.stored.get(index)
    if entry is not None:
        return entry[0]
    for request in _pending(impl):
        if request.entries is not None and request.first <= index < request.first + request.keep:
            return request.entries.terms[index - request.first]
    return 0


def _restart_log(impl: FixtureIo, index: int) -> None:
    """Forget all entries, stored and on their way; the next one is `index`."""
    _cut(impl, impl.start_index)
    impl.start_index = index
    impl.next_index = index


def _cut(impl: FixtureIo, index: int) -> None:
    """Forget the entries from `index` on, stored and on their way; the next one to be appended gets `index`."""
    for i in range(index, impl.next_index):
        impl.stored.pop(i, None)
    for request in _pending(impl):
        if request.kind == APPEND:
            request.keep = max(0, min(request.keep, index - request.first))
    impl.next_index = min(impl.next_index, index)


def _emit(t: RaftTracer, file: str, line: int, func: str, level: int, message: str) -> None:
    if level >= t.level:
        sys.stderr.write(f"{t.impl}: {file:>30}:{line:<3} - {message}\n")

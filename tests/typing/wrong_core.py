"""Mistakes against pyraft that a type checker has to find: one in every line marked as wrong, none in the others.

Nobody runs this; test_type_checkers.py has mypy and pyright read it.
"""

import asyncio
from typing import Any

from pyraft import (
    RAFT_VOTER,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftBuffer,
    RaftChange,
    RaftConfiguration,
    RaftEntry,
    RaftFsm,
    RaftHeap,
    RaftInstallSnapshot,
    RaftIo,
    RaftIoAppend,
    RaftIoAsyncWork,
    RaftIoSend,
    RaftIoSnapshotGet,
    RaftIoSnapshotPut,
    RaftMessage,
    RaftReadIndex,
    RaftSnapshot,
    RaftTracer,
    RaftTransfer,
    aio,
    raft_add,
    raft_aligned_alloc,
    raft_aligned_free,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_calloc,
    raft_close,
    raft_configuration_add,
    raft_configuration_encode,
    raft_digest,
    raft_errmsg,
    raft_free,
    raft_heap_set,
    raft_init,
    raft_io_append_cb,
    raft_last_applied,
    raft_last_index,
    raft_leader,
    raft_malloc,
    raft_promote,
    raft_read_index,
    raft_realloc,
    raft_recover,
    raft_register_state_cb,
    raft_remove,
    raft_role,
    raft_set_election_timeout,
    raft_set_heartbeat_timeout,
    raft_set_install_snapshot_timeout,
    raft_set_max_append_bytes,
    raft_set_max_catch_up_round_duration,
    raft_set_max_catch_up_rounds,
    raft_set_max_inflight_bytes,
    raft_set_pre_vote,
    raft_set_snapshot_threshold,
    raft_set_snapshot_trailing,
    raft_start,
    raft_state,
    raft_strerror,
    raft_tracer_maybe_enable,
    raft_transfer,
    raft_voter_contacts,
)

raft, disk, plain, conf = Raft(), RaftIo(), RaftFsm(), RaftConfiguration()


class Command(RaftApply):
    """A request that has more."""

    def __init__(self) -> None:
        super().__init__()
        self.client = "me"


class Store(RaftFsm):
    """A state machine that has more."""

    def __init__(self) -> None:
        super().__init__()
        self.content: list[bytes] = []


class Disk(RaftIo):
    """A table that has more."""

    def __init__(self) -> None:
        super().__init__()
        self.term = 0


def for_command(req: Command, status: int, result: Any) -> None:
    """Need a Command."""


def for_apply(req: RaftApply, status: int, result: Any) -> None:
    """Be the callback of raft_apply."""


def for_barrier(req: RaftBarrier, status: int) -> None:
    """Be the callback of raft_barrier."""


def for_change(req: RaftChange, status: int) -> None:
    """Be the callback of a change."""


def for_transfer(req: RaftTransfer) -> None:
    """Be the callback of raft_transfer."""


def for_text(req: RaftApply, status: str, result: Any) -> None:
    """Take the status for a text."""


async def later(req: RaftApply, status: int, result: Any) -> None:
    """Be a coroutine, which nobody would await."""


# Client requests: callbacks of the wrong kind, with too few or too many parameters, or no functions at all.

raft_apply(raft, RaftApply(), [b"x"], 1, for_command)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, for_barrier)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, for_text)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, later)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, lambda: None)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, lambda req, status: None)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, lambda req, status, result, more: None)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, lambda req, status, result: print(req.client))  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, "callback")  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1)  # wrong
raft_apply(raft, RaftBarrier(), [b"x"], 1, None)  # wrong
raft_apply(raft, None, [b"x"], 1, None)  # wrong
raft_apply(raft, RaftApply(), b"x", 1, None)  # wrong
raft_apply(raft, RaftApply(), ["x"], 1, None)  # wrong
raft_apply(raft, RaftApply(), [None], 1, None)  # wrong
raft_apply(raft, RaftApply(), {b"x": 1}, 1, None)  # wrong
raft_apply(raft, RaftApply(), [b"x"], "1", None)  # wrong
raft_apply(None, RaftApply(), [b"x"], 1, None)  # wrong
raft_barrier(raft, RaftBarrier(), for_apply)  # wrong
raft_barrier(raft, RaftBarrier(), for_change)  # wrong
raft_barrier(raft, RaftApply(), None)  # wrong
raft_read_index(raft, RaftReadIndex(), for_barrier)  # wrong
raft_read_index(raft, RaftReadIndex(), lambda req, status: None)  # wrong
raft_read_index(raft, RaftReadIndex(), lambda req, status, index: print(index.upper()))  # wrong
raft_read_index(raft, RaftBarrier(), None)  # wrong
raft_read_index(raft, None)  # wrong
raft_add(raft, RaftChange(), 2, "2", for_barrier)  # wrong
raft_add(raft, RaftChange(), 2, "2", for_transfer)  # wrong
raft_add(raft, RaftChange(), "2", "2", None)  # wrong
raft_add(raft, RaftChange(), 2, 2, None)  # wrong
raft_add(raft, RaftTransfer(), 2, "2", None)  # wrong
raft_assign(raft, RaftChange(), 2, RAFT_VOTER, for_barrier)  # wrong
raft_assign(raft, RaftChange(), 2, "voter", None)  # wrong
raft_promote(raft, RaftChange(), 2, for_apply)  # wrong
raft_remove(raft, RaftChange(), 2, for_apply)  # wrong
raft_remove(raft, RaftChange(), "2", None)  # wrong
raft_transfer(raft, RaftTransfer(), 2, for_change)  # wrong
raft_transfer(raft, RaftTransfer(), None, None)  # wrong
raft_transfer(raft, RaftTransfer(), 2, lambda req, status: None)  # wrong
RaftApply().pending = "no"  # wrong
RaftApply().cb = "callback"  # wrong
RaftApply().cb = for_change  # wrong
RaftApply().cb = lambda req, status: None  # wrong
RaftBarrier().cb = for_apply  # wrong
RaftChange().cb = lambda req: None  # wrong
RaftReadIndex().cb = lambda req, status: None  # wrong
RaftTransfer().cb = for_change  # wrong
RaftTransfer().cb = lambda: None  # wrong
RaftTransfer().id = "2"  # wrong
RaftTransfer().stauts = 0  # wrong

# A server.

raft_init(raft, plain, disk, 1, "1")  # wrong
raft_init(raft, disk, plain, "1", "1")  # wrong
raft_init(raft, disk, plain, 1, b"1")  # wrong
raft_init(raft, disk, None, 1, "1")  # wrong
raft_start(disk)  # wrong
raft_close(raft, lambda: None)  # wrong
raft_close(raft, "cb")  # wrong
raft_close(raft)  # wrong
raft_register_state_cb(raft, lambda r, state: None)  # wrong
raft_register_state_cb(raft, lambda r, old, new: old.upper())  # wrong
raft_bootstrap(raft, [1, 2, 3])  # wrong
raft_recover(raft, None)  # wrong
raft_configuration_add(conf, "1", "1", RAFT_VOTER)  # wrong
raft_configuration_add(conf, 1, 1, RAFT_VOTER)  # wrong
raft_configuration_add(conf, 1, "1", "voter")  # wrong
raft_configuration_encode(conf).hex()  # wrong
conf.servers = [1]  # wrong
conf.n = 3  # wrong
raft_digest(b"text", 1)  # wrong
raft_strerror("RAFT_BUSY")  # wrong
raft_set_election_timeout(raft, 1.5)  # wrong
raft_set_heartbeat_timeout(raft, "100")  # wrong
raft_set_install_snapshot_timeout(raft, None)  # wrong
raft_set_snapshot_threshold(raft, 1e6)  # wrong
raft_set_snapshot_trailing(raft, "1")  # wrong
raft_set_pre_vote(raft, "on")  # wrong
raft_set_max_catch_up_rounds(raft, 1.0)  # wrong
raft_set_max_catch_up_round_duration(raft, "1")  # wrong
raft_set_max_append_bytes(raft, 1e6)  # wrong
raft_set_max_inflight_bytes(raft, None)  # wrong
raft_state(raft).upper()  # wrong
raft_role(raft).upper()  # wrong
raft_errmsg(raft).decode()  # wrong
raft_leader(raft).id  # wrong
raft_leader(raft)[1].upper()  # wrong
raft_last_index(raft).upper()  # wrong
raft_last_applied(raft).upper()  # wrong
raft_voter_contacts(raft).upper()  # wrong
raft.tracer = print  # wrong
raft.electoin_timeout = 3  # wrong
raft.id = "1"  # wrong
raft.io = plain  # wrong
raft.log.last_index()  # wrong
raft.leader_state.progress  # wrong

# State machines.


def takes_strings(fsm: RaftFsm, bufs: list[str]) -> int:
    """Take what no snapshot gives."""
    return 0


def joins_strings(fsm: RaftFsm, bufs: list[str]) -> tuple[int, list[bytes]]:
    """Take what no snapshot gives, and give a snapshot."""
    return 0, ["".join(bufs).encode()]


def no_code(fsm: RaftFsm, buf: bytes) -> str:
    """Return a result without a code."""
    return "result"


def nothing(fsm: RaftFsm, buf: Any) -> None:
    """Return nothing."""


def for_store(fsm: Store, buf: bytes) -> tuple[int, None]:
    """Need a Store."""
    return 0, None


async def apply_later(fsm: RaftFsm, buf: bytes) -> tuple[int, None]:
    """Be a coroutine, which nobody would await."""
    return 0, None


class Method(RaftFsm):
    """Gives its method the name of the attribute, where nobody looks for it."""

    def apply(self, buf: bytes) -> tuple[int, None]:  # wrong
        """Never be called."""
        return 0, None


plain.apply = no_code  # wrong
plain.apply = nothing  # wrong
plain.apply_batch = nothing  # wrong
plain.apply = for_store  # wrong
plain.apply = apply_later  # wrong
plain.apply = 3  # wrong
plain.apply = lambda buf: (0, None)  # wrong
plain.apply = lambda fsm, buf: None  # wrong
plain.apply = lambda fsm, buf: (0, fsm.content)  # wrong
plain.snapshot = lambda fsm: [b"state"]  # wrong
plain.snapshot = lambda fsm: (0, b"state")  # wrong
plain.snapshot = lambda fsm: (0, ["state"])  # wrong
plain.snapshot = lambda fsm, bufs: (0, [])  # wrong
plain.restore = nothing  # wrong
plain.restore = lambda buf: 0  # wrong
plain.restore = lambda fsm, buf: len(buf.decode())  # wrong
plain.snapshot_finalize = nothing  # wrong
plain.snapshot_finalize = lambda fsm: 0  # wrong
plain.snapshot_finalize = takes_strings  # wrong
plain.snapshot_async = no_code  # wrong
plain.snapshot_async = lambda fsm, bufs: 0  # wrong
plain.snapshot_async = joins_strings  # wrong
Store().apply = lambda fsm, buf: (0, fsm.contents)  # wrong
plain.apply(plain, "text")  # wrong
plain.versoin = 3  # wrong

# The I/O table.


def for_send(io: RaftIo, req: RaftIoSend, message: RaftMessage, cb: raft_io_append_cb) -> int:
    """Have a callback for another kind of request."""
    return 0


def for_disk(io: Disk, term: int) -> int:
    """Need a Disk."""
    return 0


def wants_str(req: RaftIoAppend, status: str) -> None:
    """Take the status for a text."""


disk.set_term = 3  # wrong
disk.set_term = for_disk  # wrong
disk.set_term = lambda io: 0  # wrong
disk.set_term = lambda io, term: None  # wrong
disk.set_vote = lambda io, server_id: str(server_id)  # wrong
disk.init = lambda io, id: 0  # wrong
disk.close = lambda io: None  # wrong
disk.load = lambda io: (0, 1, 0, None, 1)  # wrong
disk.load = lambda io: (0, 1, 0, None, [], 1)  # wrong
disk.start = lambda io, msecs, tick: 0  # wrong
disk.start = lambda io, msecs, tick, recv: tick()  # wrong
disk.bootstrap = lambda io, conf: conf.servers  # wrong
disk.recover = lambda io: 0  # wrong
disk.send = for_send  # wrong
disk.append = lambda io, req, entries, cb: 0  # wrong
disk.append = lambda io, req, entries, n, cb: cb(req)  # wrong
disk.append = lambda io, req, entries, n, cb: entries[0].payload  # wrong
disk.truncate = lambda io, index, n: 0  # wrong
disk.snapshot_put = lambda io, req, snapshot, cb: 0  # wrong
disk.snapshot_get = lambda io, req: 0  # wrong
disk.time = lambda: 0  # wrong
disk.time = lambda io: 1.5  # wrong
disk.random = lambda io: 4  # wrong
disk.async_work = lambda io, cb: 0  # wrong
disk.defer = lambda io, fn: 0  # wrong
disk.later = lambda io, fn: fn  # wrong
disk.report = lambda exc: None  # wrong
disk.check_address = lambda io, id, address: 0  # wrong
disk.same_address = lambda io, address: True  # wrong
disk.check_configuration = lambda io, conf, n: 0  # wrong
disk.configured = lambda io, servers: [server.name for server in servers]  # wrong
disk.forked = lambda io: None  # wrong
disk.features = "many"  # wrong
disk.recovering = lambda io: "yes"  # wrong
disk.recovered = lambda io: None  # wrong
disk.filling = lambda io: None  # wrong
disk.check = lambda io, id: 0  # wrong
disk.interrupted = lambda io: None  # wrong
disk.thread = lambda: "main"  # wrong
disk.elsewhere = lambda: True  # wrong
disk.errmsg = 3  # wrong
disk.apend = print  # wrong
disk.append(disk, RaftIoAppend(), [RaftEntry()], 1, wants_str)  # wrong
disk.send(disk, RaftIoAppend(), RaftMessage(), lambda req, status: None)  # wrong
RaftIoSend().cb = 3  # wrong
RaftIoAppend().cb = wants_str  # wrong
RaftIoSnapshotPut().cb = lambda req: None  # wrong
RaftIoSnapshotGet().cb = lambda req, status: None  # wrong
RaftIoAsyncWork().work = lambda req: "done"  # wrong
RaftIoAsyncWork().cb = lambda status: None  # wrong

# Callbacks and tables that are handed over.

RaftBuffer("text")  # wrong
RaftBuffer(b"x", "1")  # wrong
RaftEntry(1, 1, "text")  # wrong
RaftEntry("1")  # wrong
RaftMessage().append_entries = RaftMessage()  # wrong
RaftMessage().request_vote.term = 3  # wrong
RaftSnapshot().bufs = "text"  # wrong
RaftSnapshot().bufs = b"x"  # wrong
RaftSnapshot().configuration = None  # wrong
RaftInstallSnapshot().data = "text"  # wrong

# Memory and tracers.

raft_malloc("8")  # wrong
raft_malloc(8)[0] = 1  # wrong
raft_calloc(8)  # wrong
raft_realloc("memory", 8)  # wrong
raft_aligned_alloc(512, 4096)[0] = 1  # wrong
raft_free("memory")  # wrong
raft_aligned_free(512, "memory")  # wrong
raft_heap_set(None)  # wrong
RaftHeap().malloc = lambda size: bytearray(size)  # wrong
RaftHeap().malloc = lambda data, size: "memory"  # wrong
RaftHeap().free = 3  # wrong
RaftHeap().calloc = lambda data, size: bytearray(size)  # wrong
RaftHeap().realloc = lambda data, size: bytearray(size)  # wrong
RaftHeap().aligned_alloc = lambda data, size: bytearray(size)  # wrong
RaftHeap().aligned_free = lambda data, ptr: None  # wrong
RaftTracer(print, "yes")  # wrong
RaftTracer(lambda message: None)  # wrong
RaftTracer().emit = lambda t, message: None  # wrong
raft_tracer_maybe_enable(print, True)  # wrong

# The asyncio front.


async def main() -> None:
    """Make mistakes with coroutines."""
    front = aio.Server(disk, plain, 1, "1")
    aio.Server(plain, disk, 1, "1")  # wrong
    aio.Server(disk, plain, 1)  # wrong
    front.bootstrap([1])  # wrong
    front.on_state = lambda state: None  # wrong
    await front.apply("text")  # wrong
    await front.apply([b"text"])  # wrong
    await front.add("2", "2")  # wrong
    await front.assign(2, "voter")  # wrong
    await front.remove(None)  # wrong
    await front.transfer("2")  # wrong
    await front.wait_until(True)  # wrong
    await front.wait_until(front.start)  # wrong
    (await front.wait_leader()).id  # wrong
    front.is_leader()  # wrong


asyncio.run(main())

"""Programs that a type checker has to accept. Nobody runs this; test_type_checkers.py has mypy and pyright read it."""

import asyncio
import mmap
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import io_uv
from io_uv import pyuv
from pyraft import (
    RAFT_BUSY,
    RAFT_VOTER,
    Buffer,
    EntryBatch,
    NoopTracer,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftBuffer,
    RaftChange,
    RaftConfiguration,
    RaftEntry,
    RaftFsm,
    RaftHeap,
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
    fixture,
    raft_add,
    raft_aligned_alloc,
    raft_apply,
    raft_apply_cb,
    raft_assign,
    raft_barrier,
    raft_close,
    raft_heap_set,
    raft_init,
    raft_io_append_cb,
    raft_io_async_work_cb,
    raft_io_close_cb,
    raft_io_recv_cb,
    raft_io_send_cb,
    raft_io_snapshot_get_cb,
    raft_io_snapshot_put_cb,
    raft_io_tick_cb,
    raft_malloc,
    raft_promote,
    raft_read_index,
    raft_register_state_cb,
    raft_remove,
    raft_transfer,
)

# Client requests.

raft = Raft()


def applied(req: RaftApply, status: int, result: Any) -> None:
    """Take what there is."""


def ended(req: RaftBarrier | RaftChange, status: int) -> None:
    """Serve two kinds of request."""


class Command(RaftApply):
    """A request that knows who sent it, as C programs embed theirs."""

    def __init__(self, client: str) -> None:
        super().__init__()
        self.client = client

    def done(self, status: int, result: object) -> None:
        """Be a callback without a parameter for the request."""


def answered(req: Command, status: int, result: Any) -> None:
    """Use what the subclass adds."""
    print(req.client, status, result)


callback: raft_apply_cb = applied
raft_apply(raft, RaftApply(), [b"one"], 1, callback)
raft_apply(raft, RaftApply(), [b"one"], 1, None)
raft_apply(raft, RaftApply(), [b"one"], 1, lambda req, status, result: print(req.index, status, result))
raft_apply(raft, Command("me"), [b"one"], 1, answered)
raft_apply(raft, Command("me"), [b"one"], 1, Command.done)
raft_apply(raft, Command("me"), [b"one"], 1, applied)
raft_apply(raft, Command("me"), [b"one"], 1, lambda req, status, result: print(req.client))
raft_apply(raft, RaftApply(), (bytearray(8), memoryview(bytes(8)), array("Q", [1]), mmap.mmap(-1, 8)), 4, None)
raft_apply(raft, RaftApply(), [RaftBuffer(bytearray(16), 8), RaftBuffer(array("Q", [1]))], 2, None)
payloads: list[bytes] = [b"one"]
buffers: Sequence[Buffer] = payloads
raft_apply(raft, RaftApply(), payloads, 1, None)
raft_apply(raft, RaftApply(), buffers, 1, None)
raft_barrier(raft, RaftBarrier(), ended)
raft_read_index(raft, RaftReadIndex(), lambda req, status, index: print(req.index, index + 1))
raft_add(raft, RaftChange(), 2, "2", ended)
raft_assign(raft, RaftChange(), 2, RAFT_VOTER, ended)
raft_promote(raft, RaftChange(), 2, ended)
raft_remove(raft, RaftChange(), 2, ended)
raft_transfer(raft, RaftTransfer(), 0, lambda req: print(req.id))


class Member(Raft):
    """A server of somebody's own class."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "member"


raft_register_state_cb(Member(), lambda r, old, new: print(r.name, old, new))
raft_close(Member(), lambda r: print(r.name))
raft_close(raft, None)

# Callbacks that are set by hand.


class Kept(RaftApply):
    """A request with a field."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0
        self.cb = lambda req, status, result: print(req.kept + status, result)


def for_kept(req: Kept, status: int, result: str) -> None:
    """Be the callback of such a request."""


Kept().cb = for_kept
RaftApply().cb = None
RaftApply().cb = lambda req, status, result=None: print(req.index, result)

# State machines.


class Store(RaftFsm):
    """A state machine with methods, in the way of the README."""

    def __init__(self) -> None:
        super().__init__()
        self.content: list[bytes] = []
        self.apply = Store.do_apply
        self.snapshot = Store.do_snapshot
        self.restore = Store.do_restore
        self.snapshot_async = Store.do_async
        self.snapshot_finalize = lambda fsm, bufs: len(fsm.content) + len(bufs)
        self.snapshot_finalize = Store.do_finalize

    def do_apply(self, buf: bytes) -> tuple[int, int]:
        """Keep a command."""
        self.content.append(buf)
        return 0, len(self.content)

    def do_snapshot(self) -> tuple[int, list[bytes]]:
        """Give out everything."""
        return (0, self.content) if self.content else (RAFT_BUSY, [])

    def do_async(self, bufs: list[bytes]) -> tuple[int, list[bytearray | RaftBuffer]]:
        """Write it down."""
        return 0, [bytearray(b"".join(bufs)), RaftBuffer(b"end")]

    def do_finalize(self, bufs: list[bytes | memoryview]) -> int:
        """Let go of it."""
        return len(bufs)

    def do_restore(self, buf: bytes | memoryview) -> int:
        """Take it back."""
        self.content = [bytes(buf)]
        return 0


class Counter(RaftFsm):
    """One whose functions are methods of the object and get the table besides."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.apply = self.do_apply
        self.restore = lambda fsm, buf: fsm.do_restore(bytes(buf))

    def do_apply(self, fsm: RaftFsm, buf: bytes) -> tuple[int, None]:
        """Count a command."""
        self.count += 1
        return 0, None

    def do_restore(self, data: bytes) -> int:
        """Take a count back."""
        self.count = int(data)
        return 0


def apply_nothing(fsm: RaftFsm, buf: bytes) -> tuple[int, object]:
    """Be a function for any table."""
    return 0, None


plain = RaftFsm()
plain.apply = apply_nothing
plain.apply = lambda fsm, buf: (0, None)
plain.apply_batch = lambda fsm, bufs: (0, [None] * len(bufs))
plain.snapshot = lambda fsm: (0, [b"state"])
plain.restore = lambda fsm, buf: 0
store = Store()
store.apply = apply_nothing
store.apply = Store.do_apply
store.data = {"mine": 1}

# A disk and a network of one's own.


class Write(RaftIoAppend):
    """A write with something of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cb = lambda req, status: print(req.begin, status)
        self.begin = 0


class Disk(RaftIo):
    """A table with methods."""

    def __init__(self) -> None:
        super().__init__()
        self.term = 0
        self.set_term = Disk.do_set_term
        self.append = Disk.do_append
        self.start = Disk.do_start
        self.close = Disk.do_close
        self.load = Disk.do_load
        self.send = lambda io, req, message, cb: io.do_send(req, message, cb)
        self.time = lambda io: io.term
        self.report = lambda io, exc: print(io.term, exc)

    def do_set_term(self, term: int) -> int:
        """Keep a term."""
        self.term = term
        return 0

    def do_append(self, req: RaftIoAppend, entries: EntryBatch, n: int, cb: raft_io_append_cb) -> int:
        """Write at once."""
        first: RaftEntry = entries[0]
        rest: EntryBatch = entries[1:n]
        payloads: list[bytes] = rest.bufs
        req.cb = cb
        req.cb(req, first.term + len(payloads))
        return 0

    def do_start(self, msecs: int, tick: raft_io_tick_cb, recv: raft_io_recv_cb) -> int:
        """Tick once."""
        tick(self)
        recv(self, RaftMessage())
        return 0

    def do_close(self, cb: raft_io_close_cb) -> None:
        """Close at once."""
        cb(self)

    def do_load(self) -> tuple[int, int, int, RaftSnapshot | None, int, list[RaftEntry]]:
        """Have a log."""
        return 0, 1, 0, None, 1, [RaftEntry(1, 1, b"x")]

    def do_send(self, req: RaftIoSend, message: RaftMessage, cb: raft_io_send_cb) -> int:
        """Lose a message."""
        cb(req, 0)
        return message.type


def put(io: RaftIo, trailing: int, req: RaftIoSnapshotPut, snapshot: RaftSnapshot, cb: raft_io_snapshot_put_cb) -> int:
    """Store a snapshot."""
    size = sum(memoryview(buf).nbytes for buf in snapshot.bufs)
    cb(req, 0 if size else RAFT_BUSY)
    return 0


def get(io: RaftIo, req: RaftIoSnapshotGet, cb: raft_io_snapshot_get_cb) -> int:
    """Load a snapshot."""
    snapshot = RaftSnapshot()
    snapshot.bufs = [b"one", memoryview(b"two")]
    cb(req, snapshot, 0)
    return 0


def work(io: RaftIo, req: RaftIoAsyncWork, cb: raft_io_async_work_cb) -> int:
    """Work at once."""
    cb(req, req.work(req))
    return 0


def defer(io: RaftIo, bufs: Sequence[bytes], n: int, fn: Callable[[], None]) -> int:
    """Put nothing off."""
    fn()
    return len(bufs[0]) % 8


disk = RaftIo()
disk.snapshot_put = put
disk.snapshot_get = get
disk.async_work = work
disk.defer = defer
raft_init(raft, disk, store, 1, "1")
raft_init(Member(), Disk(), Counter(), 1, "1")

# Tracers, heaps, the fixture.


class Lines(RaftTracer):
    """A tracer with a list."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.emit = Lines.take

    def take(self, file: str, line: int, func: str, level: int, message: str) -> None:
        """Keep a record."""
        self.lines.append(message)


def emit(t: RaftTracer, file: str, line: int, func: str, level: int, message: str) -> None:
    """Drop a record."""


raft.tracer = Lines()
raft.tracer = RaftTracer(emit, True)
raft.tracer = NoopTracer
heap = RaftHeap()
heap.malloc = lambda data, size: None if data else bytearray(size)
heap.aligned_alloc = lambda data, alignment, size: memoryview(bytearray(size))
heap.free = lambda data, ptr: None
raft_heap_set(heap)
memory = raft_malloc(8) or raft_aligned_alloc(8, 8)
if memory is not None:
    memory[:2] = b"ab"

cluster = fixture.RaftFixture()
fixture.raft_fixture_init(cluster)
fixture.raft_fixture_grow(cluster, Store())
fixture.raft_fixture_hook(cluster, lambda f, event: print(f.time, event.type))
fixture.raft_fixture_step_until(cluster, lambda f, limit: f.n > limit, 3, 1000)

# The loop, the stock I/O and other transports.

loop = pyuv.Loop()
timer = pyuv.Timer(loop)


def fired(handle: pyuv.Timer) -> None:
    """Be called by a timer."""
    handle.stop()


timer.start(fired, 0.1, 0)
timer.start(lambda handle: handle.again(), 0.1, 0.1)
timer.close(lambda handle: print(handle.repeat))
server, client = pyuv.TCP(loop), pyuv.TCP(loop)
server.bind(("127.0.0.1", 0))
server.listen(lambda listener, error: listener.accept(client))
client.connect(server.getsockname(), lambda handle, error: handle.write(b"x", lambda handle, error: handle.close()))
client.write([b"a", bytearray(1), memoryview(b"c")])
client.start_read(lambda handle, data, error: handle.close() if data is None else print(data + b"!"))
pyuv.Async(loop, lambda handle: handle.close()).send()
pyuv.Signal(loop).start(lambda handle, signum: handle.stop(), 15)
pyuv.Idle(loop).start(lambda handle: handle.stop())
pyuv.Poll(loop, 0).start(pyuv.UV_READABLE, lambda handle, events, error: handle.stop())
names = [found.sockaddr for found in pyuv.dns.getaddrinfo(loop, "127.0.0.1", 1)]
pyuv.dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda found, error: print(found or error)).cancel()

transport = io_uv.RaftUvTransport()
io_uv.raft_uv_tcp_init(transport, loop)
io_uv.raft_uv_tls_init(transport, loop, "cert.pem", "key.pem", "ca.pem")
io_uv.raft_uv_init(disk, loop, "data", transport)


def serve(t: io_uv.RaftUvTransport, guest: io_uv.RaftUvGuest) -> None:
    """Answer a guest, or find out that it is a server."""

    def read_cb(stream: io_uv.RaftUvDuplex, data: bytes | None, error: int | None) -> None:
        if data is None:
            stream.close()
        elif data == b"server":
            io_uv.raft_uv_upgrade(guest, 7, "127.0.0.1:7", data[6:])
        else:
            stream.write(data, lambda stream, error: None)

    guest.closed_cb = lambda guest: print(guest.host, guest.certificate.get("subjectAltName"))
    guest.stream.start_read(read_cb)


io_uv.raft_uv_serve(transport, 0x2A, serve)
io_uv.raft_uv_serve(transport, lambda word: word > 1 << 32, serve)
io_uv.raft_uv_serve(transport, 0x2A, None)
io_uv.raft_uv_limits(disk).guests = 16


def unix_dial(t: io_uv.RaftUvTransport, req: io_uv.RaftUvDial) -> int:
    """Reach servers by Unix sockets."""
    pipe = io_uv.pyuv.Pipe(loop)
    req.cancel = lambda: pipe.close(lambda pipe: req.cb(req, None, io_uv.pyuv.errno.UV_ECANCELED))
    pipe.connect(req.address, lambda pipe, error: req.cb(req, pipe, 0))
    return 0


class Greeting:
    """A beginning of one's own."""

    answered = False

    def encode(self, id: int, address: str) -> bytes:
        """Introduce a server."""
        return bytes(8)

    def reader(self, limit: int) -> io_uv.RaftUvHandshakeReader:
        """Read as libraft does."""
        raise NotImplementedError


io_uv.raft_uv_set_dialer(transport, unix_dial)
io_uv.raft_uv_set_dialer(transport, unix_dial, lambda t, address: int(not address))
io_uv.raft_uv_set_opening(transport, lambda t, req, stream: 0 if stream.closed else 1)
io_uv.raft_uv_set_handshake(transport, Greeting())
io_uv.raft_uv_tls_set_policy(transport, lambda certificate, id, address: "subject" in certificate)


class Errand(io_uv.RaftUvDial):
    """A dial that knows what it is for."""

    def __init__(self) -> None:
        super().__init__()
        self.purpose = "questions"


def dialled(req: io_uv.RaftUvDial, stream: io_uv.RaftUvDuplex | None, status: int) -> None:
    """Be the callback of a dial."""
    if stream is not None:
        stream.stop_read()


io_uv.raft_uv_dial(transport, Errand(), 0, "127.0.0.1:1", dialled)
io_uv.raft_uv_set_tracer(disk, Lines())
io_uv.raft_uv_limits(disk).queue = 1 << 20


class Pipes(io_uv.RaftUvTransport):
    """Connections through Unix sockets."""

    def __init__(self, loop: pyuv.Loop) -> None:
        super().__init__()
        self.loop = loop
        self.accept_cb: io_uv.raft_uv_accept_cb | None = None
        self.init = lambda t, id, address: 0
        self.listen = Pipes.do_listen
        self.connect = Pipes.do_connect
        self.close = Pipes.do_close

    def do_listen(self, cb: io_uv.raft_uv_accept_cb) -> int:
        """Hand out a connection at once."""
        cb(self, 2, "2", pyuv.Pipe(self.loop))
        return 0

    def do_connect(self, req: io_uv.RaftUvConnect, id: int, address: str, cb: io_uv.raft_uv_connect_cb) -> int:
        """Make a connection."""
        req.cb = cb
        pipe = pyuv.Pipe(self.loop)
        pipe.connect(address, lambda pipe, error: req.cb(req, None if error else pipe, error or 0))
        return 0

    def do_close(self, cb: io_uv.raft_uv_transport_close_cb) -> None:
        """Have nothing to close."""
        cb(self)


io_uv.raft_uv_init(disk, loop, "data", Pipes(loop))


async def main() -> None:
    """Use the asyncio front."""
    async with aio.Server(disk, Store(), 1, "127.0.0.1:9001") as front:
        conf = RaftConfiguration()
        front.bootstrap(conf)
        front.on_state = lambda old, new: print(old, new)
        await front.wait_until(lambda: front.is_leader)
        result: int = await front.apply(b"one", bytearray(8), RaftBuffer(b"two"))
        id, address = await front.wait_leader()
        print(result, id, address or "nobody")


asyncio.run(main())

"""The state of one raft_uv instance, shared by the modules that implement its parts.

Duty: `Uv`, C's struct uv (src/uv.h), to which `RaftIo.impl` points. Each group of fields has one owner, named
beside it; other modules read them. No algorithm is here.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from io_uv.directory import DirLock
from io_uv.failure import Failure
from io_uv.figures import Figures
from io_uv.histogram import Histogram
from io_uv.pyuv import Loop, Timer
from io_uv.refusal import Refusals
from io_uv.teller import Teller
from io_uv.transport import RaftUvTransport
from pyraft.errors import RAFT_CANCELED
from pyraft.tracing import RaftTracer, StderrTracer
from pyraft.types import UNSET, BytesLike, RaftIo, RaftIoAppend, raft_io_close_cb, raft_io_recv_cb, raft_io_tick_cb

if TYPE_CHECKING:
    from io_uv.append import AliveSegment, Append, Barrier
    from io_uv.client import Client
    from io_uv.end_of_turn import EndOfTurn
    from io_uv.finalize import DyingSegment
    from io_uv.prepare import IdleSegment, PrepareCb
    from io_uv.recv import Server
    from io_uv.segment_buffer import Arena
    from io_uv.snapshot import Put
    from io_uv.truncate import Truncate

MAX_SEGMENT_SIZE: Final = 8 * 1024 * 1024
CONNECT_RETRY_DELAY_MSECS: Final = 1000
DISK_RETRY_DELAY_MSECS: Final = 1000


class Limits:
    """The limits of what an instance accepts from the network and queues for it. All sizes in bytes."""

    __slots__ = (
        "answer_msecs",
        "answers",
        "connect_msecs",
        "connections",
        "guests",
        "handshake_address",
        "handshake_msecs",
        "header",
        "mapped",
        "payload",
        "piece",
        "queue",
        "snapshot",
        "unanswered_msecs",
    )

    def __init__(self) -> None:
        self.header = 4 * 1024 * 1024
        """Largest message header."""
        self.payload = 1024 * 1024 * 1024
        """Largest message payload: the entries of an AppendEntries or the data of an InstallSnapshot."""
        self.piece = 4 * 1024 * 1024
        """Payload from which on entries are taken in pieces (`pieces`): `payload` bounds one entry then. 0: never."""
        self.snapshot = 0
        """Largest data of an InstallSnapshot, where that is more than `payload`."""
        self.mapped = 0
        """Size from which on the data of a snapshot is in a file instead of in memory, see `spool`; 0: never."""
        self.handshake_address = 4096
        """Longest address in a handshake, padding included."""
        self.handshake_msecs = 10_000
        """Time a connection has to complete its handshake, in ms."""
        self.connections = 256
        """Inbound connections at a time, and as many again that have not completed their handshake yet."""
        self.guests = 256
        """Accepted connections of other protocols at a time, see raft_uv_serve."""
        self.answers = 16
        """Connections at a time to servers that are not members, to answer them; as many new ones in 4 s."""
        self.answer_msecs = 10_000
        """Time without an answer after which such a connection ends, in ms."""
        self.connect_msecs = 5_000
        """Time that an attempt to connect to one address may take, in ms."""
        self.unanswered_msecs = 10_000
        """Time after which a connection whose peer acknowledges nothing is given up, in ms."""
        self.queue = 64 * 1024 * 1024
        """Bytes queued per peer beyond which io.send answers RAFT_NOCONNECTION."""


class Metadata:
    """The content of metadata1 and metadata2: a version that counts the stores, the term and the vote (0: none)."""

    __slots__ = ("term", "version", "voted_for")

    def __init__(self, version: int = 0, term: int = 0, voted_for: int = 0) -> None:
        self.version = version
        self.term = term
        self.voted_for = voted_for


class Peers:
    """The knowledge of others: the members (None: nobody has told), what strangers are still allowed, and how
    many messages have been received.
    """

    __slots__ = ("answers_at", "answers_left", "heard", "members", "teller")

    def __init__(self, loop: Loop) -> None:
        self.members: dict[int, str] | None = None
        self.answers_left = 1.0
        self.heard = 0
        self.answers_at = -(1 << 40)
        self.teller = Teller(loop)


class BlockWriter(Protocol):
    """A writer.Writer, or what a test puts in its place."""

    @property
    def busy(self) -> bool:
        """Whether a write is in flight."""
        ...

    def setup(self) -> None:
        """Get ready for writing; raises Failure."""

    def submit(
        self, fd: int, arena: "Arena", length: int, offset: int, cb: Callable[[Failure | None], None], /
    ) -> None:
        """Write, and call back later."""

    def close(self, cb: Callable[[], None], /) -> None:
        """Release everything, and call back later."""

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's."""

    def abandon(self) -> Callable[[], None]:
        """Have the thread end, without a callback; return what waits for that and releases everything."""
        ...


class Uv:
    """`struct uv`: everything that a raft_uv instance knows."""

    __slots__ = (
        "aborting",
        "address",
        "after_append",
        "after_finalize",
        "append_broken",
        "append_done_reqs",
        "append_doomed",
        "append_next_index",
        "append_pending_reqs",
        "append_segments",
        "append_start",
        "append_told",
        "append_writing_reqs",
        "async_io",
        "auto_recovery",
        "barriers",
        "block_size",
        "buried",
        "calm",
        "clients",
        "close_cb",
        "closed",
        "closing",
        "connect_retry_delay",
        "copy",
        "dir",
        "direct_io",
        "dirty_clients",
        "disk_retry_delay",
        "end_of_turn",
        "fallocate",
        "figures",
        "finalize_busy",
        "finalize_failure",
        "finalize_reqs",
        "held",
        "id",
        "io",
        "limits",
        "lock",
        "loop",
        "metadata",
        "peers",
        "prepare_failure",
        "prepare_inflight",
        "prepare_next_counter",
        "prepare_pool",
        "prepare_reqs",
        "prepare_used",
        "recv_cb",
        "refusal",
        "refusals",
        "retries",
        "retry_timer",
        "segment_size",
        "send_start",
        "servers",
        "snapshot_check",
        "snapshot_compression",
        "snapshot_put_work",
        "tick_cb",
        "timer",
        "torn",
        "tracer",
        "transport",
        "truncate_work",
        "writer",
        "writes",
        "zero_fill",
    )

    def __init__(self, io: RaftIo, loop: Loop, dir: str, transport: RaftUvTransport) -> None:
        self.io = io
        self.loop = loop
        self.dir = dir
        self.transport = transport
        self.tracer: RaftTracer = StderrTracer
        self.id, self.address = 0, ""
        self.limits = Limits()
        # Disk: the findings of the probe, and settings (uv).
        self.direct_io = self.async_io = self.fallocate = self.zero_fill = False
        self.block_size, self.segment_size = 0, MAX_SEGMENT_SIZE
        self.snapshot_compression = self.auto_recovery = True
        self.metadata = Metadata()
        # Network: send, recv.
        self.clients: list[Client] = []
        self.servers: list[Server] = []
        self.held: list[Server] = []  # those that read nothing until what they have brought is stored
        self.dirty_clients: list[Client] = []
        self.send_start: Callable[[], None] = UNSET
        self.peers = Peers(loop)
        self.connect_retry_delay = CONNECT_RETRY_DELAY_MSECS
        # All that a close waits for and nothing else leads to: handles that are being closed, jobs of threads; at the
        # end transport, timer, writer and end of turn. `closing.maybe_fire` asks the pipelines below for the rest.
        self.aborting: list[object] = []
        # Pool of prepared segments: prepare.
        self.prepare_inflight: IdleSegment | None = None
        self.prepare_reqs: deque[PrepareCb] = deque()
        self.prepare_pool: deque[IdleSegment] = deque()
        self.prepare_next_counter = 1
        self.prepare_failure: Failure | None = None
        self.prepare_used: tuple[int, int] = (1 << 62, 1 << 62)  # bytes in the last two that were closed; unknown yet
        # Append pipeline: append, finalize, truncate.
        self.append_next_index = 1
        self.append_segments: deque[AliveSegment] = deque()
        self.append_pending_reqs: deque[Append] = deque()
        self.append_writing_reqs: deque[Append] = deque()
        self.append_done_reqs: deque[Append] = deque()
        self.append_doomed: list[tuple[RaftIoAppend, Failure]] = []
        # The segment of a failed write is not cut yet: nothing is written. None has ended well since an append failed.
        self.append_broken = self.append_told = False
        self.writes, self.figures = Histogram(), Figures()
        self.append_start: Callable[[], None] = UNSET
        self.after_append: Callable[[], None] = UNSET
        self.writer: BlockWriter = UNSET
        self.barriers: deque[Barrier] = deque()
        self.finalize_reqs: deque[DyingSegment] = deque()
        self.finalize_busy = False  # a thread is closing the first of them; not so while one that failed waits
        self.finalize_failure: Failure | None = None
        self.after_finalize: Callable[[Failure | None], None] = lambda failure: None
        self.truncate_work: Truncate | None = None  # as long as its barrier is the running one, the first
        # Trying again what a sick disk refused: retry. As long as a `_failure` here, or a truncate's, stands, `retries`
        # has what makes the next attempt; it keeps it for `calm` to count some quiet delays, with the timer running.
        self.calm = 0
        self.retries: list[Callable[[Uv], None]] = []
        self.retry_timer: Timer | None = None
        self.disk_retry_delay = DISK_RETRY_DELAY_MSECS
        # Snapshots and work: snapshot, work.
        self.snapshot_put_work: Put | None = None  # as truncate_work
        self.snapshot_check: Callable[[BytesLike], int] | None = None
        # Tick, end of turn, closing, forked children and interruptions: uv, closing, fork, interrupted.
        self.copy: object = None
        self.end_of_turn: EndOfTurn
        self.lock: DirLock | None = None
        self.timer: Timer | None = None
        self.tick_cb: raft_io_tick_cb = UNSET
        self.recv_cb: raft_io_recv_cb = UNSET
        self.closing = self.closed = self.torn = self.buried = False
        self.refusal = Failure(RAFT_CANCELED, "closed")
        self.refusals = Refusals(dir)
        self.close_cb: raft_io_close_cb | None = None


def of_table(io: RaftIo) -> Uv:
    """Return what raft_uv_init has made; ValueError for a table that it has not filled in, or that is released."""
    uv = getattr(io, "impl", None)
    if not isinstance(uv, Uv):
        # C: uv.c follows the pointer.
        raise ValueError("this is not a table of raft_uv_init, or raft_uv_close has released it")
    return uv

"""The structs and constants of raft.h that cross a border of the library.

Duty: the values that users, the core and an I/O implementation hand to each other: entries (of module `entries`),
messages, snapshots, requests and the two function tables `RaftIo` and `RaftFsm`. The state of a server is in `state`;
nothing here has an algorithm.

Rules (see FROM_C.md): a struct is a class named by its tag in CapWords with C's field names; no constructor
argument is required; a union is one attribute per member, the inactive ones None; a count that C keeps beside an
array (`n`, `n_entries`, `n_bufs`) is a read-only property. Buffers that the library keeps are `bytes`.

Failure modes: none of its own, it is data.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mypy_extensions import mypyc_attr

from pyraft.entries import RAFT_BARRIER as RAFT_BARRIER
from pyraft.entries import RAFT_CHANGE as RAFT_CHANGE
from pyraft.entries import RAFT_COMMAND as RAFT_COMMAND
from pyraft.entries import Buffer as Buffer
from pyraft.entries import BytesLike as BytesLike
from pyraft.entries import Entries as Entries
from pyraft.entries import EntryBatch as EntryBatch
from pyraft.entries import Given as Given
from pyraft.entries import RaftBuffer as RaftBuffer
from pyraft.entries import RaftEntry as RaftEntry
from pyraft.entries import as_bytes as as_bytes
from pyraft.entries import no_entries as no_entries

if TYPE_CHECKING:
    from typing_extensions import Self  # type checkers bring it along

    from pyraft.state import Raft

raft_id: TypeAlias = int
raft_term: TypeAlias = int
raft_index: TypeAlias = int
raft_time: TypeAlias = int
raft_flags: TypeAlias = int

RAFT_STANDBY: Final = 0
RAFT_VOTER: Final = 1
RAFT_SPARE: Final = 2

RAFT_UNAVAILABLE: Final = 0
RAFT_FOLLOWER: Final = 1
RAFT_CANDIDATE: Final = 2
RAFT_LEADER: Final = 3

RAFT_IO_APPEND_ENTRIES: Final = 1
RAFT_IO_APPEND_ENTRIES_RESULT: Final = 2
RAFT_IO_REQUEST_VOTE: Final = 3
RAFT_IO_REQUEST_VOTE_RESULT: Final = 4
RAFT_IO_INSTALL_SNAPSHOT: Final = 5
RAFT_IO_TIMEOUT_NOW: Final = 6

NOBODYS: Final = (1 << 64) - (1 << 32)
"""From this index on nobody has an entry: a leader that names such a predecessor wants a refusal of it (proof)."""

RAFT_REQUEST_VOTE_VERSION: Final = 2
RAFT_REQUEST_VOTE_RESULT_VERSION: Final = 2
RAFT_APPEND_ENTRIES_VERSION: Final = 0
RAFT_APPEND_ENTRIES_RESULT_VERSION: Final = 1
RAFT_INSTALL_SNAPSHOT_VERSION: Final = 0
RAFT_TIMEOUT_NOW_VERSION: Final = 0

STATE_NAMES: Final = {
    RAFT_UNAVAILABLE: "unavailable",
    RAFT_FOLLOWER: "follower",
    RAFT_CANDIDATE: "candidate",
    RAFT_LEADER: "leader",
}
ROLE_NAMES: Final = {RAFT_STANDBY: "stand-by", RAFT_VOTER: "voter", RAFT_SPARE: "spare"}
MESSAGE_NAMES: Final = {
    RAFT_IO_APPEND_ENTRIES: "AppendEntries",
    RAFT_IO_APPEND_ENTRIES_RESULT: "AppendEntriesResult",
    RAFT_IO_REQUEST_VOTE: "RequestVote",
    RAFT_IO_REQUEST_VOTE_RESULT: "RequestVoteResult",
    RAFT_IO_INSTALL_SNAPSHOT: "InstallSnapshot",
    RAFT_IO_TIMEOUT_NOW: "TimeoutNow",
}


class RaftServer:
    """`struct raft_server`: one member of a configuration."""

    __slots__ = ("address", "id", "role")

    def __init__(self, id: int = 0, address: str = "", role: int = RAFT_STANDBY) -> None:
        self.id = id
        self.address = address
        self.role = role

    def __repr__(self) -> str:
        return f"RaftServer({self.id}, {self.address!r}, {ROLE_NAMES.get(self.role, self.role)})"


class RaftConfiguration:
    """`struct raft_configuration`: the members of a cluster, in the order in which they were added."""

    __slots__ = ("servers",)

    def __init__(self) -> None:
        self.servers: list[RaftServer] = []

    @property
    def n(self) -> int:
        """Number of servers."""
        return len(self.servers)

    def __repr__(self) -> str:
        return f"RaftConfiguration({self.servers!r})"


class RaftRequestVote:
    """Arguments of a RequestVote RPC (figure 3.1; pre-vote: 9.6; disrupt_leader: 4.2.3)."""

    __slots__ = ("candidate_id", "disrupt_leader", "last_log_index", "last_log_term", "pre_vote", "term", "version")

    def __init__(self) -> None:
        self.version = RAFT_REQUEST_VOTE_VERSION
        self.term = 0
        self.candidate_id = 0
        self.last_log_index = 0
        self.last_log_term = 0
        self.disrupt_leader = False
        self.pre_vote = False


class RaftRequestVoteResult:
    """Result of a RequestVote RPC (figure 3.1); `no_member` (ours): the candidate was removed, see removal."""

    __slots__ = ("no_member", "pre_vote", "term", "version", "vote_granted")

    def __init__(self) -> None:
        self.no_member = False
        self.version = RAFT_REQUEST_VOTE_RESULT_VERSION
        self.term = 0
        self.vote_granted = False
        self.pre_vote = False


class RaftAppendEntries:
    """Arguments of an AppendEntries RPC (figure 3.1); without entries it is a heartbeat.

    `whole` (ours) says that the leader's log ends where the message ends; False tells nothing. `question` (ours), from
    1 to 2^31 - 1, makes a message without entries and predecessor a question whether the receiver still follows, see
    reads; else it is 0. `encoded` (ours), where it is not None, is for the I/O to keep the bytes in: the very same
    object goes to several servers, and nobody changes it. `prev_log_index` of a heartbeat may be NOBODYS and above.
    `partial` (ours) says that the I/O has cut the message from one whose rest follows. Nobody else has such a message;
    its receiver sets `refused` (ours) unless it takes the entries, so that the rest does not come. Without entries it
    stands for heartbeats that wait behind the rest: the leader's log does not end there.
    """

    __slots__ = (
        "encoded",
        "entries",
        "leader_commit",
        "partial",
        "prev_log_index",
        "prev_log_term",
        "question",
        "refused",
        "term",
        "version",
        "whole",
    )

    def __init__(self) -> None:
        self.encoded: list[bytes | memoryview] | None = None
        self.version = RAFT_APPEND_ENTRIES_VERSION
        self.term = 0
        self.prev_log_index = 0
        self.prev_log_term = 0
        self.leader_commit = 0
        self.entries: Entries = ()
        self.whole = False
        self.question = 0
        self.partial = self.refused = False

    @property
    def n_entries(self) -> int:
        """Number of entries."""
        return len(self.entries)


class RaftAppendEntriesResult:
    """Result of an AppendEntries RPC (figure 3.1). `rejected` is 0 on success, else the index that was refused.

    `question` (ours) is the number of the question that this answers, 0 for none.
    """

    __slots__ = ("features", "last_log_index", "question", "rejected", "term", "version")

    def __init__(self) -> None:
        self.version = RAFT_APPEND_ENTRIES_RESULT_VERSION
        self.term = 0
        self.rejected = 0
        self.last_log_index = 0
        self.features = 0
        self.question = 0


class RaftInstallSnapshot:
    """Arguments of an InstallSnapshot RPC (figure 5.3), always sent in one piece."""

    __slots__ = ("conf", "conf_index", "data", "last_index", "last_term", "term", "version")

    def __init__(self) -> None:
        self.version = RAFT_INSTALL_SNAPSHOT_VERSION
        self.term = 0
        self.last_index = 0
        self.last_term = 0
        self.conf = RaftConfiguration()
        self.conf_index = 0
        self.data: BytesLike = b""


class RaftTimeoutNow:
    """Arguments of a TimeoutNow RPC (3.10)."""

    __slots__ = ("last_log_index", "last_log_term", "term", "version")

    def __init__(self) -> None:
        self.version = RAFT_TIMEOUT_NOW_VERSION
        self.term = 0
        self.last_log_index = 0
        self.last_log_term = 0


class RaftMessage:
    """`struct raft_message`: an RPC message to or from the server `server_id`; `type` says which member is set."""

    __slots__ = (
        "append_entries",
        "append_entries_result",
        "install_snapshot",
        "request_vote",
        "request_vote_result",
        "server_address",
        "server_id",
        "timeout_now",
        "type",
    )

    def __init__(self, type: int = 0, server_id: int = 0, server_address: str = "") -> None:
        self.type = type
        self.server_id = server_id
        self.server_address = server_address
        self.request_vote: RaftRequestVote | None = None
        self.request_vote_result: RaftRequestVoteResult | None = None
        self.append_entries: RaftAppendEntries | None = None
        self.append_entries_result: RaftAppendEntriesResult | None = None
        self.install_snapshot: RaftInstallSnapshot | None = None
        self.timeout_now: RaftTimeoutNow | None = None


class RaftSnapshot:
    """`struct raft_snapshot`: a state of the FSM, the entry it ends with and the configuration in force there.

    `bufs` are read-only bytes-like objects; a loaded snapshot has exactly one.
    """

    __slots__ = ("bufs", "configuration", "configuration_index", "index", "term")

    def __init__(self) -> None:
        self.index = 0
        self.term = 0
        self.configuration = RaftConfiguration()
        self.configuration_index = 0
        self.bufs: Sequence[BytesLike] = []

    @property
    def n_bufs(self) -> int:
        """Number of buffers."""
        return len(self.bufs)


UNSET: Final[Any] = None
"""The value of a function before it is assigned, of the type that it has afterwards."""


# Requests of the core to an I/O implementation. Functions of a subclass take that subclass: hence Self, and in tables.


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftIoSend:
    """Request to send a message; `cb(req, status)` when it was handed to the kernel or failed."""

    __slots__ = ("cb", "data")

    def __init__(self) -> None:
        self.data: Any = None
        self.cb: Callable[[Self, int], None] = UNSET


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftIoAppend:
    """Request to store entries; `cb(req, status)` when they are durable or failed.

    `may_wait` (ours) is True for a leader's entries: the I/O may start their write when the messages that the same
    turn of the loop sends are out.
    """

    __slots__ = ("cb", "data", "may_wait")

    def __init__(self) -> None:
        self.data: Any = None
        self.may_wait = False
        self.cb: Callable[[Self, int], None] = UNSET


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftIoSnapshotPut:
    """Request to store a snapshot; `cb(req, status)`."""

    __slots__ = ("cb", "data")

    def __init__(self) -> None:
        self.data: Any = None
        self.cb: Callable[[Self, int], None] = UNSET


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftIoSnapshotGet:
    """Request to load the newest snapshot; `cb(req, snapshot, status)`, snapshot None unless status is 0."""

    __slots__ = ("cb", "data")

    def __init__(self) -> None:
        self.data: Any = None
        self.cb: Callable[[Self, RaftSnapshot | None, int], None] = UNSET


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftIoAsyncWork:
    """Request to run `work(req) -> int` off the loop; `cb(req, status)` on it, with what work returned."""

    __slots__ = ("cb", "data", "work")

    def __init__(self) -> None:
        self.data: Any = None
        self.work: Callable[[Self], int] = UNSET
        self.cb: Callable[[Self, int], None] = UNSET


# Client requests.


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftRequest:
    """The base of all client requests: `data` is the user's, `type` the entry type, `index` the entry's index.

    `pending` (ours) is True from the call that takes the request until its callback fires; till then no other takes it.
    """

    __slots__ = ("cb", "data", "index", "pending", "type")

    def __init__(self) -> None:
        self.data: Any = None
        self.pending = False
        self.type = 0
        self.index = 0
        self.cb: Callable[..., None] | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftApply(RaftRequest):
    """Request of raft_apply: `cb(req, status, result)`."""

    __slots__ = ()
    cb: "Callable[[Self, int, Any], None] | None"


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftBarrier(RaftRequest):
    """Request of raft_barrier: `cb(req, status)`."""

    __slots__ = ()
    cb: "Callable[[Self, int], None] | None"


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftReadIndex(RaftRequest):
    """Request of raft_read_index (ours): `cb(req, status, index)`."""

    __slots__ = ()
    cb: "Callable[[Self, int, int], None] | None"


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftChange(RaftRequest):
    """Request of raft_add, raft_assign and raft_remove: `cb(req, status)`."""

    __slots__ = ()
    cb: "Callable[[Self, int], None] | None"


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftTransfer(RaftRequest):
    """Request of raft_transfer: `cb(req)`, without a status; ask raft_leader afterwards whether it worked.

    `id` is the target, `start` the time in ms at which the transfer began; `send` is the TimeoutNow under way.
    """

    __slots__ = ("id", "send", "start")
    cb: "Callable[[Self], None] | None"

    def __init__(self) -> None:
        super().__init__()
        self.id = 0
        self.start = 0
        self.send: RaftIoSend | None = None


raft_apply_cb: TypeAlias = Callable[[RaftApply, int, Any], None]
raft_barrier_cb: TypeAlias = Callable[[RaftBarrier, int], None]
raft_read_index_cb: TypeAlias = Callable[[RaftReadIndex, int, int], None]
raft_change_cb: TypeAlias = Callable[[RaftChange, int], None]
raft_transfer_cb: TypeAlias = Callable[[RaftTransfer], None]
raft_close_cb: TypeAlias = Callable[["Raft"], None]
raft_state_cb: TypeAlias = Callable[["Raft", int, int], None]
raft_io_send_cb: TypeAlias = Callable[[RaftIoSend, int], None]
raft_io_append_cb: TypeAlias = Callable[[RaftIoAppend, int], None]
raft_io_snapshot_put_cb: TypeAlias = Callable[[RaftIoSnapshotPut, int], None]
raft_io_snapshot_get_cb: TypeAlias = Callable[[RaftIoSnapshotGet, RaftSnapshot | None, int], None]
raft_io_async_work_fn: TypeAlias = Callable[[RaftIoAsyncWork], int]
raft_io_async_work_cb: TypeAlias = Callable[[RaftIoAsyncWork, int], None]
raft_io_tick_cb: TypeAlias = Callable[["RaftIo"], None]
raft_io_recv_cb: TypeAlias = Callable[["RaftIo", RaftMessage], None]
raft_io_close_cb: TypeAlias = Callable[["RaftIo"], None]


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftIo:
    """`struct raft_io`: the disk and the network, as a table of functions that take the table first.

    An `int` function returns 0 or a RAFT_* code and may leave a text in `errmsg`. Signatures:

    * `init(io, id, address) -> int`, `close(io, cb)` with `cb(io)`, `start(io, msecs, tick, recv) -> int` with
      `tick(io)` every `msecs` ms and `recv(io, message)`;
    * `load(io) -> (rv, term, voted_for, snapshot or None, start_index, entries)`;
    * durable on return: `bootstrap(io, conf) -> int`, `recover(io, conf) -> int`, `set_term(io, term) -> int`,
      `set_vote(io, server_id) -> int`;
    * `send(io, req, message, cb) -> int`, `append(io, req, entries, n, cb) -> int`, `truncate(io, index) -> int`;
      appends complete in the order of submission, and when one fails, so do all that were queued behind it;
    * `snapshot_put(io, trailing, req, snapshot, cb) -> int`, `snapshot_get(io, req, cb) -> int`; a put waits for the
      appends before it. With trailing 0, or if the log then ends before the snapshot since appends have failed, it
      replaces the log: the next entry follows the snapshot;
    * `time(io) -> int` in ms, `random(io, min, max) -> int`, `async_work(io, req, cb) -> int` (version 2).

    `data` is the core's from raft_init on, `impl` the implementation's own.

    Ours, optional, None (`features`: 0) where an implementation does not have them:

    * `features`: the words of ours that its messages carry, as bits of `flags`: of a server without any, answers prove
      no more than a C server's;
    * `defer(io, bufs, n, fn) -> int` returns the error that appending the payloads (n may be 0) would give, else 0, and
      runs `fn()` once, at the latest at the end of the loop turn; further calls before that are for the same fn and add
      nothing. `later(io, fn) -> int` has `fn()` called once, when timers and messages have had their turn: with it, and
      a `time` that does not stand still during a turn of the loop, long work is done in pieces;
    * `report(io, exc)` receives an exception that a completion callback raised;
    * `recovering(io) -> bool` says, after load, whether entries that this server acknowledged may be missing from its
      log; `recovered(io) -> int` makes durable that none are; `filling(io) -> int` makes durable that a server which
      has no log is about to be given one: as long as `recovered` has not been called, and there is a log, `recovering`
      is true at later starts;
    * `check_address(io, address) -> int` says, before a server is added, whether others can reach it there, and
      `same_address(io, one, other) -> bool` whether two addresses, spelled differently, are one server's;
      `check_configuration(io, buf) -> int` whether messages and files have room for a configuration, encoded;
      `configured(io, servers)` tells who the members are, `RaftServer`s, those of a configuration that is not committed
      yet together with those of the one before it: within a tick of every change;
    * `check(io, torn)` looks whether an exception such as KeyboardInterrupt has left this server in the middle of
      something; with `torn` the core knows that it has. Then all I/O ends, and `interrupted` is called;
    * `thread() -> int` numbers the thread that calls it, `elsewhere(io) -> bool` says whether another one runs the loop
      just now: such calls are refused. `elsewhere` is asked only if the number is not that of the last tick.

    Ours, set by raft_init: `forked(io, reason)` has the server be closed without a word, in a process that was forked
    from the one in which it runs; its requests get RAFT_SHUTDOWN there. `interrupted(io, reason)` has it stop.
    """

    __slots__ = (
        "append",
        "async_work",
        "bootstrap",
        "check",
        "check_address",
        "check_configuration",
        "close",
        "configured",
        "data",
        "defer",
        "elsewhere",
        "errmsg",
        "features",
        "filling",
        "forked",
        "impl",
        "init",
        "interrupted",
        "later",
        "load",
        "random",
        "recover",
        "recovered",
        "recovering",
        "report",
        "same_address",
        "send",
        "set_term",
        "set_vote",
        "snapshot_get",
        "snapshot_put",
        "start",
        "thread",
        "time",
        "truncate",
        "version",
    )

    def __init__(self) -> None:
        self.version = 2
        self.data: Any = None
        self.impl: Any = None
        self.errmsg = ""
        self.features = 0
        self.init: Callable[[Self, raft_id, str], int] = UNSET
        self.close: Callable[[Self, raft_io_close_cb], None] = UNSET
        self.load: Callable[[Self], tuple[int, raft_term, raft_id, RaftSnapshot | None, raft_index, Entries]] = UNSET
        self.start: Callable[[Self, int, raft_io_tick_cb, raft_io_recv_cb], int] = UNSET
        self.bootstrap: Callable[[Self, RaftConfiguration], int] = UNSET
        self.recover: Callable[[Self, RaftConfiguration], int] = UNSET
        self.set_term: Callable[[Self, raft_term], int] = UNSET
        self.set_vote: Callable[[Self, raft_id], int] = UNSET
        self.send: Callable[[Self, RaftIoSend, RaftMessage, raft_io_send_cb], int] = UNSET
        self.append: Callable[[Self, RaftIoAppend, EntryBatch, int, raft_io_append_cb], int] = UNSET
        self.truncate: Callable[[Self, raft_index], int] = UNSET
        self.snapshot_put: Callable[[Self, int, RaftIoSnapshotPut, RaftSnapshot, raft_io_snapshot_put_cb], int] = UNSET
        self.snapshot_get: Callable[[Self, RaftIoSnapshotGet, raft_io_snapshot_get_cb], int] = UNSET
        self.time: Callable[[Self], raft_time] = UNSET
        self.random: Callable[[Self, int, int], int] = UNSET
        self.async_work: Callable[[Self, RaftIoAsyncWork, raft_io_async_work_cb], int] = UNSET
        self.defer: Callable[[Self, Sequence[bytes], int, Callable[[], None]], int] | None = None
        self.later: Callable[[Self, Callable[[], None]], int] | None = None
        self.report: Callable[[Self, BaseException], None] | None = None
        self.recovering: Callable[[Self], bool] | None = None
        self.recovered: Callable[[Self], int] | None = None
        self.filling: Callable[[Self], int] | None = None
        self.check_address: Callable[[Self, str], int] | None = None
        self.check_configuration: Callable[[Self, bytes], int] | None = None
        self.same_address: Callable[[Self, str, str], bool] | None = None
        self.configured: Callable[[Self, list[RaftServer]], None] | None = None
        self.forked: Callable[[Self, str], None] | None = None
        self.check: Callable[[Self, bool], None] | None = None
        self.thread: Callable[[], int] | None = None
        self.elsewhere: Callable[[Self], bool] | None = None
        self.interrupted: Callable[[Self, str], None] | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class RaftFsm:
    """`struct raft_fsm`: the user's state machine, as a table of functions that take the table first.

    * `apply(fsm, buf) -> (rv, result)`; `snapshot(fsm) -> (rv, bufs)`; `restore(fsm, buf) -> rv`;
    * `apply_batch(fsm, bufs) -> (rv, results)` (ours), optional, applies two commands or more in place of `apply`, and
      comes to the same: a result for each, in order, or a code and the results before the one for `apply` alone;
    * `snapshot_finalize(fsm, bufs) -> rv` (version 2), optional, gets what `snapshot` gave as bytes or memoryviews;
    * `snapshot_async(fsm, bufs) -> (rv, bufs)` (version 3), optional, runs in a thread.

    `rv` is not 0 when the state machine itself has failed, never because a command is refused: that is a `result` like
    any other, on all servers. After a code from `apply` nothing more is applied: a leader tries the entry again and
    again while its clients wait, a follower becomes unavailable; the log says so. A code from `snapshot` is logged, and
    the snapshot tried again later; RAFT_BUSY says that now is a bad time. Without `snapshot` none is taken, and the log
    grows for ever; `restore` is called only where there are snapshots, and refuses them if it is not set.

    These are attributes, to be assigned after `RaftFsm()`, which sets them to None. A subclass gives its methods other
    names and assigns them in its own `__init__`, behind `super().__init__()`, as examples/kv.py does.
    """

    __slots__ = (
        "apply",
        "apply_batch",
        "data",
        "restore",
        "snapshot",
        "snapshot_async",
        "snapshot_finalize",
        "version",
    )

    def __init__(self) -> None:
        self.version = 3
        self.data: Any = None
        self.apply: Callable[[Self, bytes], tuple[int, Any]] = UNSET
        self.apply_batch: Callable[[Self, list[bytes]], tuple[int, Sequence[Any]]] | None = None
        self.snapshot: Callable[[Self], tuple[int, Sequence[Buffer]]] = UNSET
        self.restore: Callable[[Self, bytes | memoryview], int] = UNSET
        self.snapshot_finalize: Given[Self, int] | None = None
        self.snapshot_async: Given[Self, tuple[int, Sequence[Buffer]]] | None = None

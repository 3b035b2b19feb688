"""The state of one server: `struct raft` and the structs inside it.

Duty: data only. C's union of states is three attributes, exactly one of which is set while the server is follower,
candidate or leader, and none while it is unavailable; only `convert` changes them.
A C field whose only use was to be non-NULL while something is under way is an Optional here.

The invariants over the configuration indexes are those of raft.h:

* brand new: both `configuration_*_index` are 0 and `configuration` is empty;
* at rest: `configuration_uncommitted_index` is 0 and `configuration` is that of the committed index;
* changing: uncommitted > committed > 0, and `configuration` is that of the uncommitted index.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from mypy_extensions import mypyc_attr

from pyraft.log import RaftLog
from pyraft.tracing import NoopTracer, RaftTracer
from pyraft.types import (
    RAFT_UNAVAILABLE,
    UNSET,
    EntryBatch,
    RaftChange,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    RaftIoAppend,
    RaftIoSnapshotPut,
    RaftReadIndex,
    RaftRequest,
    RaftSnapshot,
    RaftTimeoutNow,
    RaftTransfer,
)

lane = True
"""Whether servers that are made from now on take the lane (steady, stream); off in tests, which compare."""


class CurrentLeader:
    """The leader that a follower knows; id 0 and address None for none."""

    __slots__ = ("address", "id")

    def __init__(self) -> None:
        self.id = 0
        self.address: str | None = None


class FollowerState:
    """`raft.follower_state`. Times in ms. C's count of appends in flight can be read off `Raft.writes`.

    `timeout_now` (ours) is the order of the current leader to take over, with the leader's id, which waits for the
    writes of a leader's entries to end, if any (accept.is_writing).
    """

    __slots__ = ("current_leader", "randomized_election_timeout", "timeout_now")

    def __init__(self) -> None:
        self.randomized_election_timeout = 0
        self.current_leader = CurrentLeader()
        self.timeout_now: tuple[int, RaftTimeoutNow] | None = None


class CandidateState:
    """`raft.candidate_state`. `votes` has a flag per voter, in configuration order.

    `strangers` (ours): the voters that have said that this server is not a member (see removal).
    """

    __slots__ = ("disrupt_leader", "in_pre_vote", "randomized_election_timeout", "strangers", "votes")

    def __init__(self) -> None:
        self.randomized_election_timeout = 0
        self.votes: list[bool] = []
        self.strangers: set[int] = set()
        self.disrupt_leader = False
        self.in_pre_vote = False


class RaftProgress:
    """`struct raft_progress`: how far one server is, as its leader knows it.

    `state` is PROGRESS__PROBE, PIPELINE or SNAPSHOT (see progress). All that follow are ours. `inflight`,
    `inflight_bytes`: last index and bytes of every message sent in PIPELINE and not acknowledged yet. `streamed`: how
    many messages with the predecessor `streamed_index` have no answer yet. `refusals`: how often in a row the server
    has refused an entry that it had acknowledged; `denials`: in how many of these its log ended before that entry.
    `steps_back`: rejections in PROBE since an acknowledgment last raised `match_index`. `answered`: the number of the
    question that it has answered last; `questions`: how many it has not (reads). `silent`: its silence was logged.
    `snapshot_sent`, `snapshot_beat`, `snapshot_doubt`: the times of the snapshot, of the first heartbeat after it, and
    of the last rejection that may be the snapshot's (progress.snapshot_was_refused); -1 for none. `snapshot_tries`:
    snapshots since `match_index` rose last; `snapshot_skipped`: heartbeats in place of the next.

    For servers that answer as C's do, see proof: `lacking`, `proven_index` and `sure`. `fence`: the number of the
    question that tells short messages from others; `fenced`: the time at which it was sent, -1 for not yet. `short`:
    the number of the question that ends the answers to short messages, 0 if all have come; `loose`: the same for
    messages whose answers prove nothing, and `loose_end` the lowest index at which one of these ends. `its_end`: where
    its log ended when it last refused something; `passes`: how often it was gone back through in vain.
    """

    __slots__ = (
        "answered",
        "denials",
        "features",
        "fence",
        "fenced",
        "inflight",
        "inflight_bytes",
        "its_end",
        "lacking",
        "last_send",
        "loose",
        "loose_end",
        "match_index",
        "next_index",
        "passes",
        "proven_index",
        "questions",
        "recent_recv",
        "refusals",
        "short",
        "silent",
        "snapshot_beat",
        "snapshot_doubt",
        "snapshot_index",
        "snapshot_last_send",
        "snapshot_sent",
        "snapshot_skipped",
        "snapshot_tries",
        "state",
        "steps_back",
        "streamed",
        "streamed_index",
        "sure",
    )

    def __init__(self, last_index: int = 0) -> None:
        self.state = 0
        self.next_index = last_index + 1
        self.match_index = 0
        self.snapshot_index = 0
        self.last_send = 0
        self.snapshot_last_send = 0
        self.recent_recv = False
        self.features = 0
        self.inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        self.refusals = 0
        self.denials = 0
        self.lacking = 0
        self.its_end = 0
        self.passes = 0
        self.loose = self.loose_end = self.short = 0
        self.fence = 1
        self.fenced = -1
        self.sure = False
        self.proven_index = 0
        self.answered = 0
        self.questions = 0
        self.steps_back = 0
        self.streamed = self.streamed_index = 0
        self.snapshot_sent = self.snapshot_beat = self.snapshot_doubt = -1
        self.snapshot_tries = self.snapshot_skipped = 0
        self.silent = False


class WaitingChange:
    """A change that waits for an entry of the leader's own term to be committed (ours, B46).

    `configuration` is what it leads to, `promotee_id` the server that it makes a voter, 0 if none.
    """

    __slots__ = ("configuration", "promotee_id")

    def __init__(self, configuration: RaftConfiguration, promotee_id: int) -> None:
        self.configuration = configuration
        self.promotee_id = promotee_id


class ReadState:
    """The reads that a leader was asked for, in this order: `confirmed`, `asked`, `waiting` (ours, see reads).

    Those in `asked` are of the round under way, with `number` and `index`, which began `ticks` ago; `barrier` says that
    a barrier is under way for it. `delivering`: callbacks of reads are being called; `rest`: some of them, that could
    be called, have their turn later.
    """

    __slots__ = ("asked", "barrier", "confirmed", "delivering", "index", "number", "rest", "ticks", "waiting")

    def __init__(self) -> None:
        self.waiting: list[RaftReadIndex] = []
        self.asked: list[RaftReadIndex] = []
        self.confirmed: deque[RaftReadIndex] = deque()
        self.number = 0
        self.index = 0
        self.ticks = 0
        self.barrier = False
        self.delivering = False
        self.rest = False


class LeaderState:
    """`raft.leader_state`.

    `progress` runs parallel to the configuration's servers. `requests` maps the index of an entry to the apply or
    barrier request that waits for it, in index order. `promotee_id` is 0 unless a server is catching up.
    `accepting` (ours) is False while the state is being set up or left: callbacks that fire then find a leader that
    takes no requests. `deferred_index` (ours) is the first entry not yet given to the disk and the network, 0 if none.
    `first_index` (ours) is the index of the first entry of the leader's term, there already or the next one.
    `unproven` (ours) has the ids of servers that have left and may not have said all that they had to say, see proof.
    `waiting_change` (ours) is what `change` asks for as long as that must not be done; `reads` (ours) see there.
    """

    __slots__ = (
        "accepting",
        "change",
        "deferred_index",
        "first_index",
        "progress",
        "promotee_id",
        "reads",
        "requests",
        "round_index",
        "round_number",
        "round_start",
        "unproven",
        "voter_contacts",
        "waiting_change",
    )

    def __init__(self) -> None:
        self.progress: list[RaftProgress] = []
        self.change: RaftChange | None = None
        self.promotee_id = 0
        self.round_number = 0
        self.round_index = 0
        self.round_start = 0
        self.requests: dict[int, RaftRequest] = {}
        self.voter_contacts = 1
        self.accepting = False
        self.deferred_index = 0
        self.first_index = 0
        self.waiting_change: WaitingChange | None = None
        self.reads = ReadState()
        self.unproven: set[int] = set()


class RaftWrite(RaftIoAppend):
    """A write under way of `entries`, which went into the log at `index` (ours).

    The log still has the first `standing` of them: a cut of the log lowers that number, and entries that take the place
    of those cut off, even the same ones sent again, belong to other writes.
    """

    __slots__ = ("entries", "index", "raft", "standing")

    def __init__(self, raft: "Raft", index: int, entries: EntryBatch, may_wait: bool) -> None:
        # RaftIoAppend's, without its call, as this is done for each write.
        self.data = None
        self.cb = UNSET
        self.may_wait = may_wait
        self.raft = raft
        self.index = index
        self.entries = entries
        self.standing = len(entries.bufs)


class RaftInstall(RaftIoSnapshotPut):
    """A snapshot from a leader on its way to disk (ours).

    `snapshot` came in `term`. `former` and `former_stored` are the log and the `last_stored` that it replaces, kept up
    to date by the writes that end meanwhile (`former_stored_at_start` is not); they come back if the installation
    fails.
    """

    __slots__ = ("former", "former_stored", "former_stored_at_start", "raft", "snapshot", "term")

    def __init__(self, raft: "Raft", term: int, snapshot: RaftSnapshot, former: RaftLog, former_stored: int) -> None:
        super().__init__()
        self.raft = raft
        self.term = term
        self.snapshot = snapshot
        self.former = former
        self.former_stored = former_stored
        self.former_stored_at_start = former_stored


class SnapshotState:
    """`raft.snapshot`: settings, and the snapshot that is being taken (`pending`) or stored (`put`), if any.

    `install` (ours) is `put` if that stores a leader's snapshot. `afterwards` (ours) handles a leader's snapshot that
    came while our own is being taken, or that of an earlier leader or an older one stored, if any. `refused_index`
    (ours) is the last index of a snapshot that the disk holds but the FSM failed to restore, else 0. `refusals` (ours)
    counts the messages rejected in a row because our snapshot has replaced the entry before theirs. `problem` (ours) is
    the failure that was logged last, empty after a success. `replacing` (ours): the first entry, in our own snapshot
    that is being stored, that the disk has failed to store meanwhile, else 0; the snapshot is to take the place of the
    disk's log then. `owed` (ours) is the answer to a leader's snapshot whose entries are here, but not stored yet:
    (our term, last index, its term). `again_at` and `pause` (ours) are the entry with which the next one may be taken,
    and how many lie between that and the last one that has not come to an end, 0 after a success.
    """

    __slots__ = (
        "afterwards",
        "again_at",
        "owed",
        "pause",
        "pending",
        "problem",
        "put",
        "refusals",
        "refused_index",
        "replacing",
        "threshold",
        "trailing",
    )

    def __init__(self) -> None:
        self.threshold = self.trailing = 0
        self.again_at = self.pause = 0
        self.pending: RaftSnapshot | None = None
        self.put: RaftIoSnapshotPut | None = None
        self.afterwards: Callable[[], None] | None = None
        self.owed: tuple[int, int, int] | None = None
        self.replacing = self.refused_index = self.refusals = 0
        self.problem = ""

    @property
    def install(self) -> RaftInstall | None:
        """The leader's snapshot that is being stored, if any."""
        return self.put if isinstance(self.put, RaftInstall) else None


class ApplyState:
    """The part of a backlog that is applied before other work has its turn (ours, see apply).

    `waiting` says that the rest is applied in a later turn. Entries have been applied without a pause since `began` and
    up to `ended` (io.time). `goal` is the commit index of when the backlog was begun. The clock was `looked` at last,
    and is again after `step` entries. `owed` are indexes and results of commands that fsm.apply_batch has applied and
    whose requests have not been called back yet.
    """

    __slots__ = ("began", "ended", "goal", "looked", "owed", "step", "waiting")

    def __init__(self) -> None:
        self.waiting = False
        self.began = 0
        self.ended = 0
        self.goal = 0
        self.looked = 0
        self.step = 1
        self.owed: deque[tuple[int, Any]] = deque()


class Said:
    """The facts that the log has been told (ours, see notice).

    `leader_id` and `leader_term` told last; `rounds` of elections without a leader; whether this server was a `member`,
    has found out that it was `removed`, `waits` for a leader without standing, or `withholds` its vote for good, and
    `short`, that a caller gives more buffers than it says, or calls from `elsewhere`. `unread`: why the own snapshot,
    which another server needs, could not be read the last time; `unstored_at`: when it was told that entries could not
    be stored. `write`: the write that was to end first at the last tick, `write_since`: when it began, `stalled`: the
    log was told that it takes long.
    """

    __slots__ = (
        "elsewhere",
        "leader_id",
        "leader_term",
        "member",
        "removed",
        "rounds",
        "short",
        "stalled",
        "unread",
        "unstored_at",
        "waits",
        "withholds",
        "write",
        "write_since",
    )

    def __init__(self) -> None:
        self.leader_id = 0
        self.leader_term = 0
        self.rounds = 0
        self.member = self.removed = self.short = self.elsewhere = False
        self.unread = ""
        self.unstored_at: int | None = None
        self.write: RaftWrite | None = None
        self.write_since = 0
        self.stalled = self.waits = self.withholds = False


class Counts:
    """Events since this object was made (ours, see notice), for metrics. None is counted per entry.

    `accepted` are the entries that this server has put into its log as the leader of former terms; `notice.accepted`
    has those of this one too. `failed` are commands, barriers and changes that came to nothing behind that, `refused`
    requests of any kind that were not taken, as this server did not lead.
    `elections` begun here, those `elections_lost`, `leaderships` won; `leaders` that became known, itself included;
    snapshots of its own that were taken, those sent to others, and a leader's that were installed.
    """

    __slots__ = (
        "accepted",
        "elections",
        "elections_lost",
        "failed",
        "leaders",
        "leaderships",
        "refused",
        "snapshots_installed",
        "snapshots_sent",
        "snapshots_taken",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.failed = 0
        self.refused = 0
        self.elections = 0
        self.elections_lost = 0
        self.leaders = 0
        self.leaderships = 0
        self.snapshots_installed = 0
        self.snapshots_sent = 0
        self.snapshots_taken = 0


class RaftCallbacks:
    """Callbacks that the user registered: `state_cb(r, old_state, new_state)`."""

    __slots__ = ("state_cb",)

    def __init__(self) -> None:
        self.state_cb: Callable[..., None] | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Raft:
    """`struct raft`: one server of a cluster. Make one, hand it to raft_init; times are in ms.

    Fields are those of raft.h. Ours: `apply`, `said`, `counts`, `max_append_bytes` and `max_inflight_bytes` (see the
    setters in server), `flush` (what io.defer runs), `resume` (what io.later runs), `writes` (the appends under way, in
    order of submission), `initialized`, `inside` (a public function is under way, or never came to its end: see
    calls.enter), `starting` (raft_start is under way), `lane` (see steady; off in tests only), `started`, `closing`,
    `failed` (FSM or I/O code has raised), `recovering` with `filling`, `rejecting_since`, `rejecting_index`,
    `accepting_since` and `recovery_*` (see recovering), `votes_withheld` with its limit `vote_patience` (see
    election.count_refusal), `stuck_index`: the last entry for which fsm.apply was logged to have returned a code,
    `cause`: what raft_errmsg said when the server stopped by itself, empty as long as it has not, `exception`: what FSM
    or I/O code raised, if that is why, and `forked`: this is a dead copy of a server that runs in the parent process
    (`cause` says so); `thread`, that of the last tick (see calls.elsewhere), `doubted_at` (see recv), and `told`,
    `told_removed` and `told_uncommitted_index` (see membership.tell). How the booleans go with `state`, and why none
    can be read off it, is in README.md (Invariants).
    """

    __slots__ = (
        "accepting_since",
        "address",
        "apply",
        "callbacks",
        "candidate_state",
        "cause",
        "close_cb",
        "closing",
        "commit_index",
        "configuration",
        "configuration_committed_index",
        "configuration_last_snapshot",
        "configuration_uncommitted_index",
        "counts",
        "current_term",
        "data",
        "doubted_at",
        "election_timeout",
        "election_timer_start",
        "errmsg",
        "exception",
        "failed",
        "filling",
        "flush",
        "follower_state",
        "forked",
        "fsm",
        "heartbeat_timeout",
        "id",
        "initialized",
        "inside",
        "install_snapshot_timeout",
        "io",
        "lane",
        "last_applied",
        "last_stored",
        "leader_state",
        "log",
        "max_append_bytes",
        "max_catch_up_round_duration",
        "max_catch_up_rounds",
        "max_inflight_bytes",
        "pre_vote",
        "recovering",
        "recovery_end",
        "recovery_matched",
        "recovery_reason",
        "recovery_term",
        "recovery_told",
        "rejecting_index",
        "rejecting_since",
        "resume",
        "said",
        "snapshot",
        "started",
        "starting",
        "state",
        "stuck_index",
        "thread",
        "told",
        "told_removed",
        "told_uncommitted_index",
        "tracer",
        "transfer",
        "vote_patience",
        "voted_for",
        "votes_withheld",
        "writes",
    )

    def __init__(self) -> None:
        self.data: Any = None
        self.thread = 0
        self.tracer: RaftTracer = NoopTracer
        self.io: RaftIo = RaftIo()
        self.fsm: RaftFsm = RaftFsm()
        self.id = 0
        self.address = ""
        self.current_term = 0
        self.voted_for = 0
        self.log = RaftLog()
        self.configuration = RaftConfiguration()
        self.configuration_last_snapshot = RaftConfiguration()
        self.configuration_committed_index = 0
        self.configuration_uncommitted_index = 0
        self.election_timeout = 0
        self.heartbeat_timeout = 0
        self.install_snapshot_timeout = 0
        self.commit_index = 0
        self.last_applied = 0
        self.last_stored = 0
        self.state: int = RAFT_UNAVAILABLE
        self.follower_state: FollowerState | None = None
        self.candidate_state: CandidateState | None = None
        self.leader_state: LeaderState | None = None
        self.election_timer_start = 0
        self.transfer: RaftTransfer | None = None
        self.snapshot = SnapshotState()
        self.close_cb: Callable[..., None] | None = None
        self.errmsg = ""
        self.pre_vote = False
        self.max_catch_up_rounds = 0
        self.max_catch_up_round_duration = 0
        self.callbacks = RaftCallbacks()
        self.max_append_bytes = 0
        self.max_inflight_bytes = 0
        self.flush: Callable[[], None] = UNSET
        self.resume: Callable[[], None] = UNSET
        self.apply = ApplyState()
        self.initialized = False
        self.starting = False
        self.started = False
        self.closing = False
        self.failed = False
        self.forked = False
        self.lane = lane
        self.inside = False
        self.cause = ""
        self.exception: BaseException | None = None
        # The first one ends first: of a list it takes as long as there are others.
        self.writes: deque[RaftWrite] = deque()
        self.recovering = False
        self.filling = False
        self.accepting_since: int | None = None
        self.recovery_term = 0
        self.recovery_end = 0
        self.recovery_matched = 0
        self.recovery_reason = ""
        self.recovery_told = False
        self.rejecting_index = 0
        self.rejecting_since: int | None = None
        self.vote_patience = 0
        self.votes_withheld = 0
        self.stuck_index = 0
        self.said = Said()
        self.counts = Counts()
        self.doubted_at: int | None = None
        self.told: RaftConfiguration | None = None
        self.told_removed = False
        self.told_uncommitted_index = 0

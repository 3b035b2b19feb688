"""The families of metrics: names, units and help by the conventions of Prometheus, and where each figure is from.

Duty: `Collector.collect` reads the figures off a server, its I/O and, for a node, the parts of this layer, and yields
families. Nothing is kept for it but the times of garbage collections: counters and histograms are those that
`Raft.counts`, `Uv.writes`, `Uv.figures` and the proposer have.

Happy path: `REGISTRY.register(of(node))`, or `await render(of(node))` for the text of an answer to a scrape.

Failure modes: a directory that cannot be read leaves out its sizes. One that hangs holds the thread that scrapes.
`collect` may run in a thread beside the loop: it reads whole numbers, which are those of about now.
"""

import asyncio
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from io_uv import health
from io_uv.histogram import BOUNDS, Histogram
from pyraft import RAFT_LEADER, RAFT_UNAVAILABLE, RAFT_VOTER, Raft, RaftIo, log, notice, raft_leader, raft_state
from pyraft.errors import printable
from pyraft.metrics.pauses import Pauses, watched
from pyraft.metrics.text import text
from pyraft.node.desk import Desk
from pyraft.node.node import Node
from pyraft.node.status import VERSION

Family: TypeAlias = "CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily"

Silence: TypeAlias = Callable[[int], "float | None"]

_COMMITS: Final = "Time from a call's entry to its outcome, at the leader."

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Collector:
    """The metrics of one server, for the registry of prometheus_client."""

    def __init__(
        self,
        raft: Raft,
        io: RaftIo,
        desk: Desk | None = None,
        silence: Silence | None = None,
        commits: Histogram | None = None,
    ) -> None:
        """`silence(id)` is for how many seconds a leader has not heard of a member, None where it cannot tell.

        `commits` is where a program without a node counts the times of its calls.
        """
        self._raft = raft
        self._io = io
        self._desk = desk
        self._silence = silence
        self._commits = commits
        self._pauses = watched()

    def describe(self) -> list[Any]:
        """Return nothing: what there is depends on what the server is at the moment."""
        return []

    def collect(self) -> Iterator[Family]:
        """Yield all families."""
        r = self._raft
        yield from _server(r)
        yield from _log(r)
        yield from _counts(r)
        if raft_state(r) == RAFT_LEADER:
            yield from _members(r, self._io, self._silence)
        yield from _disk(self._io)
        yield from _snapshots(self._io)
        yield from _process(self._io, self._pauses)
        if self._desk is not None:
            yield from _node(self._desk)
        elif self._commits is not None:
            yield _histogram("commit_seconds", _COMMITS, self._commits)


def of(node: "Node[Any]") -> Collector:
    """Return the collector of a node that is started."""
    return Collector(node.server.raft, node.server.io, node._desk, node._leases.silence)


def of_server(raft: Raft, io: RaftIo, commits: Histogram | None = None) -> Collector:
    """Return the collector of a server that uses the C-style API. Its I/O knows when members were heard of last.

    A program that measures its own calls, from raft_apply to the callback, gives the histogram that it does it with.
    """
    return Collector(raft, io, None, functools.partial(health.silence, io), commits)


async def render(collector: Collector) -> bytes:
    """Return the text of the metrics (CONTENT_TYPE); it is made in a thread."""
    made = await asyncio.get_running_loop().run_in_executor(None, lambda: text(collector.collect()))
    return made.encode()


def _gauge(name: str, help: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pyraft_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"pyraft_{name}", help, value=value)


def _histogram(name: str, help: str, found: Histogram) -> HistogramMetricFamily:
    buckets: list[tuple[str, float]] = []
    total = 0
    counts = list(found.counts)
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(f"pyraft_{name}", help, buckets=buckets, sum_value=found.total)


def _server(r: Raft) -> Iterator[Family]:
    info = {"id": str(r.id), "address": printable(r.address), "version": VERSION}
    yield InfoMetricFamily("pyraft_server", "The server and its version.", value=info)
    yield _gauge("is_leader", "Whether this server leads.", raft_state(r) == RAFT_LEADER)
    yield _gauge("has_leader", "Whether this server knows a leader.", raft_leader(r)[0] != 0)
    yield _gauge("stopped", "Whether this server has stopped by itself.", raft_state(r) == RAFT_UNAVAILABLE)
    yield _gauge("recovering", "Whether its log may lack entries, so that it does not vote.", r.recovering or r.filling)
    yield _gauge("term", "The current term.", r.current_term)
    voters = [server.id for server in r.configuration.servers if server.role == RAFT_VOTER]
    yield _gauge("is_voter", "Whether this server is a voter.", r.id in voters)
    yield _gauge("voters", "Voters of the configuration in force.", len(voters))
    yield _gauge("members", "Members of the configuration in force.", len(r.configuration.servers))


def _log(r: Raft) -> Iterator[Family]:
    yield _gauge("log_last_index", "The last entry in the log.", log.last_index(r.log))
    yield _gauge("log_stored_index", "The last entry on the own disk.", r.last_stored)
    yield _gauge("log_commit_index", "The last entry that is known to be committed.", r.commit_index)
    yield _gauge("log_applied_index", "The last entry that the state machine has executed.", r.last_applied)
    unapplied = max(0, r.commit_index - r.last_applied)
    yield _gauge("log_unapplied_entries", "Committed entries that wait for the state machine.", unapplied)
    yield _gauge("log_entries", "Entries in the log, in memory.", log.num_entries(r.log))
    yield _gauge("snapshot_index", "The last entry of the newest snapshot, 0 without one.", log.snapshot_index(r.log))
    yield _gauge("snapshot_failing", "Whether the last snapshot could not be taken.", bool(r.snapshot.problem))


def _counts(r: Raft) -> Iterator[Family]:
    counts = r.counts
    taken = "Entries that this server has put into its log as the leader."
    yield _counter("proposals_accepted", taken, notice.accepted(r))
    yield _counter("proposals_failed", "Commands and changes that came to nothing behind that.", counts.failed)
    yield _counter("proposals_refused", "Requests not taken, as this server did not lead.", counts.refused)
    yield _counter("elections", "Elections that this server has begun.", counts.elections)
    yield _counter("elections_lost", "Of these, those that came to nothing.", counts.elections_lost)
    yield _counter("leaderships", "Elections that this server has won.", counts.leaderships)
    yield _counter("leaders", "Leaders that this server has come to know, itself included.", counts.leaders)
    yield _counter("snapshots_taken", "Snapshots of its own.", counts.snapshots_taken)
    yield _counter("snapshots_sent", "Snapshots sent to members that were too far behind.", counts.snapshots_sent)
    yield _counter("snapshots_installed", "Snapshots of a leader's, installed.", counts.snapshots_installed)


def _members(r: Raft, io: RaftIo, silence: Silence | None) -> Iterator[Family]:
    """Yield a leader's knowledge of the others."""
    labels = ["member", "address"]
    match = GaugeMetricFamily("pyraft_member_match_index", "The last entry a member has acknowledged.", labels=labels)
    behind = GaugeMetricFamily("pyraft_member_behind_entries", "Entries that a member lacks.", labels=labels)
    inflight = GaugeMetricFamily("pyraft_member_inflight_bytes", "Entries sent and not acknowledged.", labels=labels)
    connected = GaugeMetricFamily("pyraft_member_connected", "Whether there is a connection to it.", labels=labels)
    heard = GaugeMetricFamily(
        "pyraft_member_silence_seconds", "Time since a member was heard of, by the leader.", labels=labels
    )
    leader = r.leader_state
    last = log.last_index(r.log)
    for server, p in zip(r.configuration.servers, [] if leader is None else leader.progress, strict=False):
        if server.id != r.id:
            names = [str(server.id), printable(server.address)]
            match.add_metric(names, p.match_index)
            if p.match_index > 0 or not p.silent:  # else it has told this leader nothing: it may lack little, or all
                behind.add_metric(names, max(0, last - p.match_index))
            inflight.add_metric(names, p.inflight_bytes)
            seconds = None if silence is None else silence(server.id)
            if seconds is not None:
                heard.add_metric(names, max(0.0, seconds))
    queued = GaugeMetricFamily("pyraft_member_queued_bytes", "Messages that wait to be sent to it.", labels=labels)
    for id, address, there in health.links(io):
        connected.add_metric([str(id), printable(address)], there)
    for id, address, size in health.queues(io):
        queued.add_metric([str(id), printable(address)], size)
    yield from (match, behind, inflight, connected, queued)
    if silence is not None:
        yield heard
    if leader is not None:
        yield _gauge("entries_pending", "Entries of this leader that wait to be committed.", len(leader.requests))


def _disk(io: RaftIo) -> Iterator[Family]:
    where = health.directory(io)
    if not where:
        return
    yield _gauge("disk_sick", "Whether the disk does not take entries.", bool(health.ailment(io)))
    yield _histogram("disk_write_seconds", "Time that a durable write of entries takes.", health.writes(io))
    try:
        sizes = health.measure(where)
    except OSError:
        return
    yield _gauge("disk_free_bytes", "Room on the disk of the data directory.", sizes.free)
    yield _gauge("disk_size_bytes", "Size of that disk.", sizes.total)
    yield _gauge("log_bytes", "Files of the log, those prepared included.", sizes.segment_bytes)
    yield _gauge("log_files", "How many files these are.", sizes.segments)
    yield _gauge("snapshot_bytes", "Files of snapshots.", sizes.snapshot_bytes)
    if sizes.snapshot_taken:
        yield _gauge("snapshot_timestamp_seconds", "When the newest was taken.", sizes.snapshot_taken / 1000)


def _snapshots(io: RaftIo) -> Iterator[Family]:
    found = health.figures(io)
    for name, what, times in (
        ("store", "storing a snapshot of its own", found.stored),
        ("install", "storing a leader's snapshot", found.installed),
        ("load", "reading a snapshot to send it", found.loaded),
    ):
        yield _histogram(f"snapshot_{name}_seconds", f"Time that {what} takes.", times)
        yield _counter(f"snapshot_{name}_bytes", f"Bytes that went through {what}.", times.bytes)


def _process(io: RaftIo, pauses: Pauses) -> Iterator[Family]:
    yield _counter("connections_refused", "Connections of others that were turned away.", health.turned_away(io))
    late = health.figures(io).lateness
    yield _histogram("loop_lateness_seconds", "By how much the loop was late for a tick of the server.", late)
    yield _histogram(
        "gc_pause_seconds", "Time that a garbage collection takes, in which nothing runs.", pauses.histogram
    )


def _node(desk: Desk) -> Iterator[Family]:
    figures = desk.figures()
    yield _gauge("up_seconds", "For how long this node has run.", figures.up_seconds)
    yield _gauge("clock_timestamp_seconds", "Its time of day.", figures.clock)
    yield _gauge("connections", "Connections of other nodes and of clients.", figures.connections)
    yield _counter("calls", "Calls that this node has put into the log as the leader.", figures.calls)
    yield _counter("calls_lost", "Of these, those whose outcome it does not know.", figures.lost)
    yield _histogram("commit_seconds", _COMMITS, figures.commits)

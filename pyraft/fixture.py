"""A whole cluster in one process and in virtual time: raft/fixture.h, for tests of raft and of your own FSM.

Duty: up to eight servers, each a `Raft` over an in-memory RaftIo (`fixture_io`) and an FSM of yours. Nothing happens
until a step fires the next event: the earliest of all ticks, disk completions and messages. Time jumps to that event,
so a minute of cluster life takes milliseconds and every run of the same calls is the same to the last event.

    f = RaftFixture()
    raft_fixture_init(f)
    for fsm in fsms:
        raft_fixture_grow(f, fsm)
    rv, conf = raft_fixture_configuration(f, len(fsms))     # all of them voters
    raft_fixture_bootstrap(f, conf)
    raft_fixture_start(f)
    raft_fixture_elect(f, 0)
    raft_apply(raft_fixture_get(f, 0), RaftApply(), [b"command"], 1, None)
    assert raft_fixture_step_until_applied(f, len(fsms), 3, 1000)
    raft_fixture_close(f)

Events in order: earlier time; lower server index; tick before request; earlier submission. Servers are named by their
index from 0; their ids are index + 1, their addresses the ids in decimal. Times are in milliseconds.

After each step the leader is looked up again, and Election Safety and Leader Append-Only (figure 3.2) are checked.

Failure modes: AssertionError, with python -O too, when a safety property is broken, with the servers, terms and indexes
concerned, or when a function is called in a state that it documents as wrong. An exception that a completion callback
raised comes out of the step that fired it, after all else that the step does; a second one out of the next step.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from pyraft import configuration, convert, fixture_check, fixture_io, server, start
from pyraft.fixture_check import require
from pyraft.fixture_io import (
    ELECTION_TIMEOUT,
    RAFT_FIXTURE_DISK,
    RAFT_FIXTURE_NETWORK,
    RAFT_FIXTURE_TICK,
    RAFT_FIXTURE_WORK,
    RaftFixtureServer,
)
from pyraft.state import Raft
from pyraft.tracing import raft_tracer_maybe_enable
from pyraft.types import (
    RAFT_FOLLOWER,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_LEADER,
    RAFT_STANDBY,
    RAFT_VOTER,
    RaftConfiguration,
    RaftEntry,
    RaftFsm,
    RaftSnapshot,
)

__all__ = [
    "RAFT_FIXTURE_DISK",
    "RAFT_FIXTURE_MAX_SERVERS",
    "RAFT_FIXTURE_NETWORK",
    "RAFT_FIXTURE_TICK",
    "RAFT_FIXTURE_WORK",
    "RaftFixture",
    "RaftFixtureEvent",
    "raft_fixture_add_entry",
    "raft_fixture_alive",
    "raft_fixture_append_fault",
    "raft_fixture_bootstrap",
    "raft_fixture_close",
    "raft_fixture_configuration",
    "raft_fixture_depose",
    "raft_fixture_desaturate",
    "raft_fixture_disconnect",
    "raft_fixture_elect",
    "raft_fixture_event_cb",
    "raft_fixture_event_server_index",
    "raft_fixture_event_type",
    "raft_fixture_get",
    "raft_fixture_grow",
    "raft_fixture_hook",
    "raft_fixture_init",
    "raft_fixture_kill",
    "raft_fixture_leader_index",
    "raft_fixture_make_unavailable",
    "raft_fixture_n",
    "raft_fixture_n_recv",
    "raft_fixture_n_send",
    "raft_fixture_reconnect",
    "raft_fixture_revive",
    "raft_fixture_saturate",
    "raft_fixture_saturated",
    "raft_fixture_send_fault",
    "raft_fixture_set_disk_latency",
    "raft_fixture_set_network_latency",
    "raft_fixture_set_randomized_election_timeout",
    "raft_fixture_set_send_latency",
    "raft_fixture_set_snapshot",
    "raft_fixture_set_term",
    "raft_fixture_start",
    "raft_fixture_start_elect",
    "raft_fixture_step",
    "raft_fixture_step_n",
    "raft_fixture_step_until",
    "raft_fixture_step_until_applied",
    "raft_fixture_step_until_delivered",
    "raft_fixture_step_until_elapsed",
    "raft_fixture_step_until_has_leader",
    "raft_fixture_step_until_has_no_leader",
    "raft_fixture_step_until_state_is",
    "raft_fixture_step_until_term_is",
    "raft_fixture_step_until_voted_for",
    "raft_fixture_term_fault",
    "raft_fixture_time",
    "raft_fixture_vote_fault",
    "raft_fixture_voted_for",
]

RAFT_FIXTURE_MAX_SERVERS: Final = 8

HEARTBEAT_TIMEOUT: Final = 100
INSTALL_SNAPSHOT_TIMEOUT: Final = 30000

_Arg = TypeVar("_Arg")


class RaftFixtureEvent:
    """`struct raft_fixture_event`: the kind of a step, and the index of the server that it was for."""

    __slots__ = ("server_index", "type")

    def __init__(self) -> None:
        self.server_index = 0
        self.type = 0


class RaftFixture:
    """`struct raft_fixture`: a cluster. Call raft_fixture_init first.

    `leader_id` is the stable leader's id or 0 (see raft_fixture_step), `log` the copy of its log that the Leader
    Append-Only check compares with, `commit_index` the highest commit index of any stable leader, `event` the last
    event, `hook` the function of raft_fixture_hook.
    """

    __slots__ = ("commit_index", "event", "hook", "leader_id", "log", "servers", "timeline")

    def __init__(self) -> None:
        self.timeline = fixture_io.Timeline()
        self.servers: list[RaftFixtureServer] = []
        self.leader_id = 0
        self.log = fixture_check.LeaderLog()
        self.commit_index = 0
        self.event = RaftFixtureEvent()
        self.hook: raft_fixture_event_cb | None = None

    @property
    def time(self) -> int:
        """Virtual time in ms, common to all servers."""
        return self.timeline.time

    @property
    def n(self) -> int:
        """Number of servers."""
        return len(self.servers)


raft_fixture_event_cb: TypeAlias = Callable[[RaftFixture, RaftFixtureEvent], None]


def raft_fixture_event_type(event: RaftFixtureEvent) -> int:
    """Return the type of an event: RAFT_FIXTURE_TICK, _NETWORK (send or delivery), _DISK or _WORK (fixture.h)."""
    return event.type


def raft_fixture_event_server_index(event: RaftFixtureEvent) -> int:
    """Return the index of the server an event happened on; for a delivery, the sender's (fixture.h)."""
    return event.server_index


# Building a cluster.


def raft_fixture_init(f: RaftFixture) -> int:
    """Make `f` an empty cluster at time 0; returns 0, always. Add servers with raft_fixture_grow. Source: fixture.h."""
    f.timeline = fixture_io.Timeline()
    f.servers = []
    f.leader_id = 0
    f.log.forget()
    f.commit_index = 0
    f.hook = None
    return 0


def raft_fixture_grow(f: RaftFixture, fsm: RaftFsm) -> int:
    """Add an empty server that runs `fsm`, connected both ways with all others; start it with raft_start.

    Returns 0, or the code of raft_init (-1 without a `version` in `fsm`), in which case nothing was added.
    AssertionError beyond RAFT_FIXTURE_MAX_SERVERS. Source: fixture.h.
    """
    i = len(f.servers)
    require(i < RAFT_FIXTURE_MAX_SERVERS, f"a fixture has at most {RAFT_FIXTURE_MAX_SERVERS} servers")
    s = RaftFixtureServer(i + 1)
    s.impl = fixture_io.init(s.io, i, f.timeline)
    rv = server.raft_init(s.raft, s.io, fsm, s.id, s.address)
    if rv != 0:
        return rv
    server.raft_set_election_timeout(s.raft, ELECTION_TIMEOUT)
    server.raft_set_heartbeat_timeout(s.raft, HEARTBEAT_TIMEOUT)
    server.raft_set_install_snapshot_timeout(s.raft, INSTALL_SNAPSHOT_TIMEOUT)
    s.tracer.impl = s.id
    s.raft.tracer = s.tracer
    raft_tracer_maybe_enable(s.tracer, True)
    f.servers.append(s)
    for other in f.servers:
        fixture_io.connect(s.impl, other.impl)
        fixture_io.connect(other.impl, s.impl)
    return 0


def raft_fixture_configuration(f: RaftFixture, n_voting: int) -> tuple[int, RaftConfiguration]:
    """Return (0, a configuration of all servers): the first `n_voting` are voters, the others stand-bys.

    AssertionError without a server, or for fewer voters than one or more than servers. Source: fixture.h.
    """
    require(len(f.servers) > 0, "the fixture has no server")
    require(0 < n_voting <= len(f.servers), f"{n_voting} voters of {len(f.servers)} servers")
    conf = RaftConfiguration()
    for i, s in enumerate(f.servers):
        rv = configuration.raft_configuration_add(conf, s.id, s.address, RAFT_VOTER if i < n_voting else RAFT_STANDBY)
        if rv != 0:
            return rv, RaftConfiguration()
    return 0, conf


def raft_fixture_bootstrap(f: RaftFixture, conf: RaftConfiguration) -> int:
    """Call raft_bootstrap on all servers in order; returns 0 or the first code, say RAFT_CANTBOOTSTRAP (fixture.h)."""
    for s in f.servers:
        rv = server.raft_bootstrap(s.raft, conf)
        if rv != 0:
            return rv
    return 0


def raft_fixture_start(f: RaftFixture) -> int:
    """Call raft_start on all servers in order; returns 0 or the first code, RAFT_IOERR after a fault (fixture.h)."""
    for s in f.servers:
        rv = start.raft_start(s.raft)
        if rv != 0:
            return rv
    return 0


def raft_fixture_close(f: RaftFixture) -> None:
    """Complete what every server has pending (messages in flight are lost), then close all servers.

    Each request of yours has called back when this returns. An exception from a callback is raised at the end.
    Source: fixture.h.
    """
    for s in f.servers:
        fixture_io.flush(s.impl)
    for s in f.servers:
        server.raft_close(s.raft, None)
    f.servers = []
    f.timeline.heap.clear()
    f.leader_id = 0
    f.log.forget()
    _raise_reported(f)


# Looking at it.


def raft_fixture_n(f: RaftFixture) -> int:
    """Return the number of servers (fixture.h)."""
    return len(f.servers)


def raft_fixture_time(f: RaftFixture) -> int:
    """Return the virtual time in ms; all servers see the same (fixture.h)."""
    return f.timeline.time


def raft_fixture_get(f: RaftFixture, i: int) -> Raft:
    """Return the Raft of server `i` (fixture.h)."""
    return _server(f, i).raft


def raft_fixture_alive(f: RaftFixture, i: int) -> bool:
    """Return whether server `i` is alive: not killed, or revived since (fixture.h)."""
    return _server(f, i).alive


def raft_fixture_leader_index(f: RaftFixture) -> int:
    """Return the index of the stable leader, or the number of servers if there is none (fixture.h)."""
    return f.leader_id - 1 if f.leader_id != 0 else len(f.servers)


def raft_fixture_voted_for(f: RaftFixture, i: int) -> int:
    """Return the id that server `i` has stored as its vote, or 0 (fixture.h)."""
    return _server(f, i).impl.voted_for


def raft_fixture_n_send(f: RaftFixture, i: int, type: int) -> int:
    """Return how many messages of a RAFT_IO_* type server `i` has sent with success (fixture.h)."""
    return _count(_server(f, i).impl.n_send, type)


def raft_fixture_n_recv(f: RaftFixture, i: int, type: int) -> int:
    """Return how many messages of a RAFT_IO_* type server `i` has received (fixture.h)."""
    return _count(_server(f, i).impl.n_recv, type)


# Stepping.


def raft_fixture_step(f: RaftFixture) -> RaftFixtureEvent:
    """Fire the next event, look the leader up, check the safety properties, call the hook; return the event.

    The same event object is returned each time. A tick of a dead server fires without its callback. The leader is the
    alive leader of the highest term, provided that it is stable: every other alive server that is a member by its own
    configuration and no spare follows it in its term, unless the link to it is saturated, and they are half of the
    members at least, not counting the leader. AssertionError when no server was started or a property is broken.
    Source: fixture.h.
    """
    f.event.type, f.event.server_index = fixture_io.fire_next(f.timeline, f.servers)
    leader = fixture_check.find_leader(f.servers)
    if leader is None:
        f.leader_id = 0
    else:
        if leader.id != f.leader_id:
            f.leader_id = leader.id
            f.log.forget()
        else:
            f.log.check(leader.raft)
        f.log.follow(leader.raft)
        f.commit_index = max(f.commit_index, leader.raft.commit_index)
    if f.hook is not None:
        f.hook(f, f.event)
    _raise_reported(f)
    return f.event


def raft_fixture_step_n(f: RaftFixture, n: int) -> RaftFixtureEvent:
    """Step `n` times, at least once; return the last event (fixture.h)."""
    require(n > 0, "step at least once")
    for _ in range(n):
        raft_fixture_step(f)
    return f.event


def raft_fixture_step_until(
    f: RaftFixture, stop: Callable[[RaftFixture, _Arg], bool], arg: _Arg, max_msecs: int
) -> bool:
    """Step until `stop(f, arg)` is true or `max_msecs` have gone by; return whether less has gone by (fixture.h)."""
    test: Callable[..., Any] = stop  # anything true will do, compiled too
    begin = f.timeline.time
    while not test(f, arg) and f.timeline.time - begin < max_msecs:
        raft_fixture_step(f)
    return f.timeline.time - begin < max_msecs


def raft_fixture_step_until_elapsed(f: RaftFixture, msecs: int) -> None:
    """Step until `msecs` have gone by (fixture.h)."""
    raft_fixture_step_until(f, lambda f, _: False, None, msecs)


def raft_fixture_step_until_has_leader(f: RaftFixture, max_msecs: int) -> bool:
    """Step until there is a stable leader; see raft_fixture_step_until (fixture.h)."""
    return raft_fixture_step_until(f, lambda f, _: f.leader_id != 0, None, max_msecs)


def raft_fixture_step_until_has_no_leader(f: RaftFixture, max_msecs: int) -> bool:
    """Step until there is no stable leader; see raft_fixture_step_until (fixture.h)."""
    return raft_fixture_step_until(f, lambda f, _: f.leader_id == 0, None, max_msecs)


def raft_fixture_step_until_applied(f: RaftFixture, i: int, index: int, max_msecs: int) -> bool:
    """Step until server `i`, or all servers if `i` is their number, have applied entry `index` (fixture.h)."""
    servers = f.servers if i == len(f.servers) else [_server(f, i)]
    return raft_fixture_step_until(
        f, lambda _, servers: all(s.raft.last_applied >= index for s in servers), servers, max_msecs
    )


def raft_fixture_step_until_state_is(f: RaftFixture, i: int, state: int, max_msecs: int) -> bool:
    """Step until server `i` is in a RAFT_* state; see raft_fixture_step_until (fixture.h)."""
    return raft_fixture_step_until(f, lambda _, r: bool(r.state == state), raft_fixture_get(f, i), max_msecs)


def raft_fixture_step_until_term_is(f: RaftFixture, i: int, term: int, max_msecs: int) -> bool:
    """Step until server `i` has that term; see raft_fixture_step_until (fixture.h)."""
    return raft_fixture_step_until(f, lambda _, r: bool(r.current_term == term), raft_fixture_get(f, i), max_msecs)


def raft_fixture_step_until_voted_for(f: RaftFixture, i: int, j: int, max_msecs: int) -> bool:
    """Step until server `i` has voted for server `j`; see raft_fixture_step_until (fixture.h)."""
    return raft_fixture_step_until(f, lambda _, r: bool(r.voted_for == j + 1), raft_fixture_get(f, i), max_msecs)


def raft_fixture_step_until_delivered(f: RaftFixture, i: int, j: int, max_msecs: int) -> bool:
    """Step until no message from server `i` to server `j` is on its way; see raft_fixture_step_until (fixture.h)."""
    return raft_fixture_step_until(
        f, lambda _, impl: not fixture_io.has_message_for(impl, j + 1), _server(f, i).impl, max_msecs
    )


def raft_fixture_hook(f: RaftFixture, hook: raft_fixture_event_cb | None) -> None:
    """Have `hook(f, event)` called at the end of every step; None for no more (fixture.h)."""
    f.hook = hook


# Elections on demand.


def raft_fixture_start_elect(f: RaftFixture, i: int) -> None:
    """Make server `i` the first whose election timer expires: its timeout is the least possible, the others' doubled.

    All servers must be followers without a stable leader, and server `i` a voter. Source: fixture.h.
    """
    r = raft_fixture_get(f, i)
    require(f.leader_id == 0, f"server {f.leader_id} is the leader already")
    member = configuration.get(r.configuration, r.id)
    require(member is not None and member.role == RAFT_VOTER, f"server {r.id} is not a voter")
    for s in f.servers:
        require(s.raft.state == RAFT_FOLLOWER, f"server {s.id} is not a follower")
    assert r.follower_state is not None
    # The timer must not have expired in the past.
    elapsed = f.timeline.time - r.election_timer_start
    r.follower_state.randomized_election_timeout = max(r.election_timeout, elapsed)
    _double_election_timeouts(f, i)


def raft_fixture_elect(f: RaftFixture, i: int) -> None:
    """Call raft_fixture_start_elect, and step until server `i` is the stable leader: 20 s at most (fixture.h)."""
    raft_fixture_start_elect(f, i)
    raft_fixture_step_until_has_leader(f, ELECTION_TIMEOUT * 20)
    require(f.leader_id == i + 1, f"server {i + 1} was not elected, the leader is {f.leader_id or 'nobody'}")


def raft_fixture_depose(f: RaftFixture) -> None:
    """Make the stable leader step down, by losing the results of AppendEntries: 3 s at most (fixture.h)."""
    require(f.leader_id != 0, "there is no leader to depose")
    leader = f.servers[f.leader_id - 1]
    require(leader.raft.state == RAFT_LEADER, f"server {leader.id} is not the leader any more")
    _double_election_timeouts(f, leader.id - 1)
    others = [s for s in f.servers if s is not leader]
    for s in others:
        s.impl.drop[RAFT_IO_APPEND_ENTRIES_RESULT] = True
    raft_fixture_step_until_has_no_leader(f, ELECTION_TIMEOUT * 3)
    require(f.leader_id == 0, f"server {f.leader_id} was not deposed")
    for s in others:
        s.impl.drop[RAFT_IO_APPEND_ENTRIES_RESULT] = False


# Faults of the network.


def raft_fixture_disconnect(f: RaftFixture, i: int, j: int) -> None:
    """Cut off `j` from `i`: sends fail with RAFT_NOCONNECTION, messages under way are lost (fixture.h)."""
    _link(f, i, j).connected = False


def raft_fixture_reconnect(f: RaftFixture, i: int, j: int) -> None:
    """Undo raft_fixture_disconnect (fixture.h)."""
    _link(f, i, j).connected = True


def raft_fixture_saturate(f: RaftFixture, i: int, j: int) -> None:
    """Lose all messages from server `i` to server `j` without an error. The two must be connected (fixture.h)."""
    _set_saturated(f, i, j, True)


def raft_fixture_desaturate(f: RaftFixture, i: int, j: int) -> None:
    """Undo raft_fixture_saturate. The two must be connected (fixture.h)."""
    _set_saturated(f, i, j, False)


def raft_fixture_saturated(f: RaftFixture, i: int, j: int) -> bool:
    """Return whether the connection from server `i` to server `j` is saturated; False for i = j (fixture.h)."""
    return _link(f, i, j).saturated


def raft_fixture_kill(f: RaftFixture, i: int) -> None:
    """Kill server `i`: no more ticks, its links saturated both ways. Pending disk operations complete (fixture.h)."""
    for j in range(len(f.servers)):
        if j != i:
            raft_fixture_saturate(f, i, j)
            raft_fixture_saturate(f, j, i)
    _server(f, i).alive = False


def raft_fixture_revive(f: RaftFixture, i: int) -> None:
    """Undo raft_fixture_kill, with the memory the server had; links with dead servers stay saturated (fixture.h)."""
    for j, s in enumerate(f.servers):
        if j != i and s.alive:
            raft_fixture_desaturate(f, i, j)
            raft_fixture_desaturate(f, j, i)
    _server(f, i).alive = True


# Latencies, and the I/O implementation's state.


def raft_fixture_set_randomized_election_timeout(f: RaftFixture, i: int, msecs: int) -> None:
    """Set the ms that server `i` draws for election timeouts, 1000 + 100 i at first; kept in its bounds (fixture.h)."""
    _server(f, i).impl.randomized_election_timeout = msecs


def raft_fixture_set_network_latency(f: RaftFixture, i: int, msecs: int) -> None:
    """Set how many ms messages of server `i` take from now on to be delivered, once sent; 15 at first (fixture.h)."""
    _server(f, i).impl.network_latency = msecs


def raft_fixture_set_disk_latency(f: RaftFixture, i: int, msecs: int) -> None:
    """Set how many ms appends and snapshots of server `i` take from now on; 10 at first (fixture.h)."""
    _server(f, i).impl.disk_latency = msecs


def raft_fixture_set_send_latency(f: RaftFixture, i: int, j: int, msecs: int) -> None:
    """Set how many ms pass until a message from server `i` to server `j` counts as sent, 0 at first (fixture.h)."""
    _link(f, i, j).send_latency = msecs


def raft_fixture_set_term(f: RaftFixture, i: int, term: int) -> None:
    """Set the stored term of server `i`, before it is started (fixture.h)."""
    _server(f, i).impl.term = term


def raft_fixture_set_snapshot(f: RaftFixture, i: int, snapshot: RaftSnapshot) -> None:
    """Set the stored snapshot of server `i`, before it starts. Stored entries that end before it go (fixture.h)."""
    fixture_io.set_snapshot(_server(f, i).impl, snapshot)


def raft_fixture_add_entry(f: RaftFixture, i: int, entry: RaftEntry) -> None:
    """Append an entry to the stored ones of server `i`, before it is started (fixture.h)."""
    fixture_io.add_entry(_server(f, i).impl, entry)


# Faults of the disk and of sends: the call after `delay` good ones fails once, with RAFT_IOERR; -1 takes it back.


def raft_fixture_append_fault(f: RaftFixture, i: int, delay: int) -> None:
    """Make the append that completes on server `i` after `delay` others fail, storing nothing (fixture.h)."""
    _server(f, i).impl.faults[fixture_io.APPEND_FAULT] = delay


def raft_fixture_vote_fault(f: RaftFixture, i: int, delay: int) -> None:
    """Make storing a vote on server `i` fail after `delay` good calls (fixture.h)."""
    _server(f, i).impl.faults[fixture_io.VOTE_FAULT] = delay


def raft_fixture_term_fault(f: RaftFixture, i: int, delay: int) -> None:
    """Make storing a term on server `i` fail after `delay` good calls (fixture.h)."""
    _server(f, i).impl.faults[fixture_io.TERM_FAULT] = delay


def raft_fixture_send_fault(f: RaftFixture, i: int, delay: int) -> None:
    """Make sending on server `i` fail at once after `delay` good calls (fixture.h)."""
    _server(f, i).impl.faults[fixture_io.SEND_FAULT] = delay


def raft_fixture_make_unavailable(f: RaftFixture, i: int) -> None:
    """Put server `i` into the state RAFT_UNAVAILABLE, as a fatal error would (fixture.h)."""
    convert.to_unavailable(raft_fixture_get(f, i))


# Internals.


def _count(counts: list[int], type: int) -> int:
    require(0 <= type < len(counts), f"no message has type {type}")
    return counts[type]


def _server(f: RaftFixture, i: int) -> RaftFixtureServer:
    if not 0 <= i < len(f.servers):  # asked at every step: no text is made for nothing
        raise AssertionError(f"no server {i} among {len(f.servers)}")
    return f.servers[i]


def _link(f: RaftFixture, i: int, j: int) -> fixture_io.Peer:
    return _server(f, i).impl.peers[_server(f, j).id]


def _set_saturated(f: RaftFixture, i: int, j: int, saturated: bool) -> None:
    link = _link(f, i, j)
    require(link.connected, f"server {i} is not connected to server {j}")
    link.saturated = saturated


def _double_election_timeouts(f: RaftFixture, i: int) -> None:
    """Give all servers but `i`, which must be followers, twice the election timeout."""
    for j, s in enumerate(f.servers):
        if j != i:
            require(s.raft.state == RAFT_FOLLOWER, f"server {s.id} is not a follower")
            assert s.raft.follower_state is not None
            s.raft.follower_state.randomized_election_timeout = 2 * s.raft.election_timeout


def _raise_reported(f: RaftFixture) -> None:
    if f.timeline.reports:
        raise f.timeline.reports.pop(0)

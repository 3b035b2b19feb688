"""Starting a server: from what is on disk to a follower, or a leader where it is the only voter.

Happy path: io.load, restore the snapshot and the log, io.start, become follower; a single voter elects itself.

Failure modes: the code of whatever fails. Before io.start nothing stays behind, so raft_start may be called again;
a failed self-election leaves the server unavailable. FSM and I/O code may close the server: then that is the end.
"""

import logging
from typing import Final

from pyraft import calls, configuration, convert, election, log, membership, notice, recovering, recv, snapshot, tick
from pyraft.errors import RAFT_BUSY, RAFT_CORRUPT, RAFT_INVALID, RAFT_IOERR, errmsg_wrap
from pyraft.log import RaftLog
from pyraft.state import Raft
from pyraft.tracing import TRACE_ERROR, trace
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, EntryBatch, RaftConfiguration, RaftSnapshot

_TYPES: Final = frozenset((RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE))

_logger = logging.getLogger("pyraft")

_LOST = "metadata was lost, and votes with it; a new id helps where others are, raft_recover where none is"

_ONLY_VOTER = (
    "this is the only voter by what is left of its log, but entries may be lost that it acknowledged, and other "
    "members with them"
)


def raft_start(r: Raft) -> int:
    """Load the persistent state and start to take part in the cluster.

    Errors: codes of io.load and io.start ("io: …"), of fsm.restore and, on a single voter, of io.set_term and
    io.set_vote; RAFT_MALFORMED (the newest configuration in the log does not decode). Ours: RAFT_INVALID (not
    initialised, or the heartbeat timeout is not between 0 and the election timeout, or the install timeout is 0, or
    another setting is below 0 or not a whole number, or there is a snapshot and no fsm.restore), RAFT_BUSY (started
    before, or being started), RAFT_SHUTDOWN (closed, also meanwhile; FSM or I/O code raised once it had started),
    RAFT_CORRUPT (what io.load returned does not fit together, a log without a term, or a single voter whose disk may
    have lost entries that it acknowledged), RAFT_IOERR (a function of the I/O raised). Source: raft.h.
    """
    if calls.elsewhere(r):
        return calls.misplaced(r)
    if r.inside and not r.starting:
        calls.abandoned(r)
    rv = check(r)
    if rv != 0:
        return rv
    r.inside = True
    r.starting = True
    try:
        rv = _load(r)
        if rv == 0:
            rv = _check_recovering(r)
        if rv == 0:
            rv = _start_io(r)
        if rv != 0:
            r.inside = False
            return _give_up(r, rv)
        _check_identity(r)
        notice.starts(r)
        r.started = True
        convert.start_following(r)
        rv = _maybe_self_elect(r)
        if rv != 0:
            convert.to_unavailable(r)
        rv = convert.final_code(r, _unless_closed(r, rv))
    except Exception:
        r.inside = False
        raise
    finally:
        r.starting = False
    r.inside = False
    return rv


def _unless_closed(r: Raft, rv: int) -> int:
    """Return `rv`, or RAFT_SHUTDOWN if the code that returned it has closed the server."""
    if not r.closing:
        return rv
    return calls.closed(r)


def _load(r: Raft) -> int:
    """Make what is on disk ours."""
    rv, r.current_term, r.voted_for, found, start_index, entries = calls.load(r)
    if rv != 0:
        calls.io_errmsg(r)
    rv = _unless_closed(r, rv)
    if rv != 0:
        return rv
    if r.tracer.enabled:
        trace(r.tracer, f"loaded: term {r.current_term}, {len(entries.bufs)} entries from index {start_index}")
    rv = _unless_closed(r, _restore(r, found, start_index, entries))
    if rv == 0 and r.current_term == 0 and log.last_index(r.log) > 0:
        # C: start.c:raft_start goes on in term 0, where it may have voted otherwise before.
        r.errmsg = f"there is a log but no term: {_LOST}"
        return RAFT_CORRUPT
    return rv


def _start_io(r: Raft) -> int:
    membership.tell(r)
    rv = calls.start(r, r.heartbeat_timeout, tick.tick_cb, recv.recv_cb)
    if rv != 0:
        calls.io_errmsg(r)
    return _unless_closed(r, rv)


def check(r: Raft) -> int:
    """Return why raft_start would refuse at once, or 0. C: start.c:raft_start asserts on all of these."""
    if r.closing:
        return calls.closed(r)
    if not r.initialized:
        r.errmsg = "not initialized"
        return RAFT_INVALID
    if r.started or r.starting:
        r.errmsg = "already started"
        return RAFT_BUSY
    if not all(is_setting(value) for value in _settings(r)):
        r.errmsg = "settings must be whole numbers, none below 0"
        return RAFT_INVALID
    if not 0 < r.heartbeat_timeout < r.election_timeout or r.install_snapshot_timeout <= 0:
        r.errmsg = "timeouts must be 0 < heartbeat < election and 0 < install"
        return RAFT_INVALID
    return 0


def _check_identity(r: Raft) -> None:
    """Warn of a directory that looks like another server's; it may be right, as a removed server starts as well."""
    servers = r.configuration.servers
    own = configuration.get(r.configuration, r.id)
    if own is not None and own.address != r.address:
        _logger.warning("server %d at %s: others are told to find it at %s", r.id, r.address, own.address)
    elif own is None and servers:
        ids = ", ".join(str(server.id) for server in servers)
        _logger.warning("server %d is not in the configuration on its disk, which has %s", r.id, ids)
    elif not servers and calls.check_address(r, r.address) != 0 and not r.failed:
        # C: start.c:raft_start listens wherever that leads, on any port for 0, and waits to be added.
        _logger.warning("server %d: %s. It waits to be added to a cluster, under another address", r.id, r.errmsg)
        r.errmsg = ""
    if servers and configuration.voter_count(r.configuration) == 0:
        # C bootstraps with it, and removes the last voter (B51).
        text = "server %d: the configuration on its disk has no voter, so nobody can lead; raft_recover gives it one"
        _logger.warning(text, r.id)


def _settings(r: Raft) -> tuple[int, ...]:
    return (
        r.heartbeat_timeout,
        r.election_timeout,
        r.install_snapshot_timeout,
        r.snapshot.threshold,
        r.snapshot.trailing,
        r.max_catch_up_rounds,
        r.max_catch_up_round_duration,
        r.max_append_bytes,
        r.max_inflight_bytes,
    )


def is_setting(value: object, least: int = 0) -> bool:
    """Return whether `value` is what a setter is meant to get: a whole number, `least` or more."""
    return isinstance(value, int) and value >= least


def _give_up(r: Raft, rv: int) -> int:
    """Forget what was loaded, and also whether something raised: nothing is running that would have to stop."""
    trace(r.tracer, f"does not start: {r.errmsg}", TRACE_ERROR)
    r.failed = False
    r.exception = None
    r.recovering = r.filling = False
    r.log = RaftLog()
    r.configuration = RaftConfiguration()
    r.configuration_last_snapshot = RaftConfiguration()
    r.configuration_committed_index = 0
    r.configuration_uncommitted_index = 0
    r.commit_index = 0
    r.last_applied = 0
    r.last_stored = 0
    return rv


def _check_recovering(r: Raft) -> int:
    """Ask whether acknowledged entries may be missing; the only voter, which nobody can help, does not start."""
    r.recovering = calls.recovering(r)
    rv = _unless_closed(r, RAFT_IOERR if r.failed else 0)
    if rv != 0:
        return rv
    if r.recovering:
        recovering.begin(r)
    elif log.last_index(r.log) == 0:
        recovering.begin_empty(r)
    if r.recovering and election.is_only_voter(r):
        r.errmsg = errmsg_wrap(r.io.errmsg, _ONLY_VOTER)
        return RAFT_CORRUPT
    return 0


def _check_loaded(r: Raft, found: RaftSnapshot | None, start_index: int, entries: EntryBatch) -> int:
    """Refuse what no server can begin with.

    C: start.c:raft_start and log.c:logStart assert; the content of a disk is not for assertions to judge.
    """
    first = 1
    if found is not None:
        first = found.index + 1
        if found.index < 1 or found.term < 1 or len(found.bufs) != 1:
            r.errmsg = f"a snapshot at index {found.index} of term {found.term} in {len(found.bufs)} pieces"
            return RAFT_CORRUPT
    if start_index > first or start_index < 1:
        r.errmsg = f"the log begins with index {start_index} instead of {first}"
        return RAFT_CORRUPT
    if entries.bufs and (min(entries.terms) < 1 or not set(entries.types) <= _TYPES):
        r.errmsg = "the log has an entry without a term or of an unknown type"
        return RAFT_CORRUPT
    return 0


def _restore(r: Raft, found: RaftSnapshot | None, start_index: int, entries: EntryBatch) -> int:
    rv = _check_loaded(r, found, start_index, entries)
    if rv != 0:
        return rv
    if found is not None:
        found.bufs = calls.readable(found.bufs)
        rv = snapshot.restore(r, found)
        if rv != 0:
            return rv
        log.start(r.log, found.index, found.term, start_index)
    else:
        if entries.bufs:
            if entries.types[0] != RAFT_CHANGE:
                r.errmsg = "the log does not begin with a configuration"
                return RAFT_CORRUPT
            # The first entry is the same on all servers of a cluster.
            r.commit_index = 1
            r.last_applied = 1
        log.start(r.log, 0, 0, start_index)
    log.append_batch(r.log, entries)
    r.last_stored = log.last_index(r.log)
    return _restore_configuration(r, start_index, entries)


def _restore_configuration(r: Raft, start_index: int, entries: EntryBatch) -> int:
    """Put the newest configuration of the log in force.

    Whether it is committed is not known, unless it is entry 1. The one before it is, because only one change is under
    way at a time; it is what a rollback goes back to. Older than the snapshot's they do not count.
    """
    newest = 0
    for i, type in enumerate(entries.types):
        index = start_index + i
        if type == RAFT_CHANGE and index > r.configuration_committed_index:
            if newest != 0:
                r.configuration_committed_index = newest
            newest = index
    if newest == 0:
        return 0
    rv, conf, problem = configuration.decode(entries.bufs[newest - start_index])
    if rv != 0:
        r.errmsg = problem
        return rv
    r.configuration = conf
    if newest == 1:
        r.configuration_committed_index = 1
    else:
        r.configuration_uncommitted_index = newest
    return 0


def _maybe_self_elect(r: Raft) -> int:
    """Elect ourselves at once if nobody else can vote."""
    if r.follower_state is None or not election.is_only_voter(r):
        return 0
    return convert.to_candidate(r, False)

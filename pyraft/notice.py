"""A server in words: the INFO log of the logger `pyraft`, and why it takes no requests.

Duty: one place for the texts of events of a server and its cluster: who leads since when, terms, elections that
came to nothing, configurations in force, snapshots, servers that fall silent and come back, transfers and their
outcome. The same goes to the tracer, with the level that fits. Nothing is told per command, and what happens again and
again (elections that nobody wins) ever more rarely.

Happy path: the code that brings a change about calls one function here, after it.

Failure modes: none; an exception of logging is logging's own matter.
"""

import logging
from typing import Final

from pyraft import calls, configuration, log, quorum
from pyraft.errors import RAFT_NOTLEADER, errmsg_cut, raft_strerror
from pyraft.state import Raft, RaftProgress
from pyraft.tracing import TRACE_ERROR, TRACE_INFO, TRACE_WARN, trace
from pyraft.types import (
    RAFT_LEADER,
    RAFT_SPARE,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    ROLE_NAMES,
    RaftConfiguration,
    RaftServer,
    RaftTransfer,
)

_logger = logging.getLogger("pyraft")

_LOST_ROUNDS: Final = 16
"""How many elections in a row come to nothing before an operator should look at it."""
_PATIENCE: Final = 10
"""After how many election timeouts without a leader a server that does not stand says that it waits for one."""
_QUIET_MSECS: Final = 60_000
"""At most one failed write is logged in so much time."""


def info(r: Raft, text: str) -> None:
    """Log what is good to know, and trace it."""
    _logger.info("server %d: %s", r.id, text)
    trace(r.tracer, text, TRACE_INFO, 3)


def warn(r: Raft, text: str) -> None:
    """Log what an operator should look at, and trace it."""
    _logger.warning("server %d: %s", r.id, text)
    trace(r.tracer, text, TRACE_WARN, 3)


def _name(id: int, address: str | None) -> str:
    return f"server {id} at {address}" if address else f"server {id}"


# Why this server takes no requests.


def not_leader(r: Raft) -> str:
    """Return the text of RAFT_NOTLEADER: who leads as far as this server knows, or why nobody does here."""
    return errmsg_cut(f"{raft_strerror(RAFT_NOTLEADER)}: {_why_not_leader(r)}")


def _why_not_leader(r: Raft) -> str:
    if r.closing:
        return "it is closed"
    if r.state == RAFT_UNAVAILABLE:
        return f"it has stopped: {r.cause}" if r.cause else "it is not started"
    if r.state == RAFT_LEADER:
        if r.transfer is not None:
            return f"it is handing leadership over to server {r.transfer.id}"
        return "its leadership begins or ends at this moment"
    if not r.configuration.servers:
        return "it has no configuration: it was not bootstrapped, and no leader has reached it"
    if r.said.removed:
        return "it was removed from the cluster"
    leader = "no leader is known"
    follower = r.follower_state
    if follower is not None and follower.current_leader.id != 0:
        leader = _known_leader(r, _name(follower.current_leader.id, follower.current_leader.address))
    elif r.candidate_state is not None:
        leader = "an election is under way"
    if configuration.get(r.configuration, r.id) is None:
        return f"it is not a member, and {leader}"
    return leader


def _known_leader(r: Raft, name: str) -> str:
    """Say how likely it is that the leader that a follower remembers, as in C (B12), still leads."""
    if r.said.leader_term != r.current_term:
        return f"{name} led term {r.said.leader_term}, and who leads term {r.current_term} is not known"
    silent = calls.now(r) - r.election_timer_start
    if silent >= 2 * r.election_timeout:
        # A voter has stood by then, and forgotten it.
        return f"{name} led, but has been silent for {silent} ms"
    return f"{name} leads"


def fsm_version(r: Raft) -> None:
    """The table of the state machine has functions that its version does not, or the other way round."""
    fsm = r.fsm
    if fsm.version < 3 and fsm.snapshot_async is not None:
        warn(r, f"fsm.snapshot_async is not called, as fsm.version is {fsm.version}; it takes 3")
    elif fsm.version < 2 and fsm.snapshot_finalize is not None:
        warn(r, f"fsm.snapshot_finalize is not called, as fsm.version is {fsm.version}; it takes 2")
    elif fsm.version >= 3 and fsm.snapshot_async is None and fsm.snapshot is not None:
        info(r, "fsm.version is 3 without fsm.snapshot_async: snapshots are taken on the loop, which waits for them")


def short(r: Raft, n: int, given: int) -> None:
    """A caller of raft_apply gives more buffers than `n`: told once, as only the first n are used."""
    r.said.short = True
    warn(r, f"raft_apply was given {given} buffers and n = {n}: the others are not used")


# Leaders, terms and elections.


def starts(r: Raft) -> None:
    """This server takes part from now on."""
    r.said.member = configuration.get(r.configuration, r.id) is not None
    first, last = r.log.offset + 1, r.last_stored
    entries = f"entries {first} to {last}" if last >= first else "no entries"
    behind = f" behind a snapshot up to {r.log.snapshot.last_index}" if r.log.snapshot.last_index else ""
    info(r, f"starts in term {r.current_term} with {entries}{behind}; its configuration: {describe(r.configuration)}")


def leads(r: Raft) -> None:
    """This server leads from now on."""
    r.said.rounds = 0
    r.said.leader_id, r.said.leader_term = r.id, r.current_term
    r.counts.leaderships += 1
    r.counts.leaders += 1
    info(r, f"leads since term {r.current_term}, its log ends with entry {r.last_stored}")


def follows(r: Raft, id: int, address: str) -> None:
    """This server has heard from the leader of its term; told once for each leader and term."""
    said = r.said
    said.rounds = 0
    said.leader_id, said.leader_term = id, r.current_term
    r.counts.leaders += 1
    said.removed = said.waits = False
    info(r, f"{_name(id, address)} leads since term {r.current_term}")


def accepted(r: Raft) -> int:
    """Return how many entries this server has put into its log as a leader, so far."""
    leader = r.leader_state
    if leader is None or leader.first_index == 0:
        return r.counts.accepted
    return r.counts.accepted + max(0, log.last_index(r.log) + 1 - leader.first_index)


def leads_no_more(r: Raft) -> None:
    """This server has stepped down."""
    info(r, f"does not lead any more, in term {r.current_term}")


def term(r: Raft, former: int) -> None:
    """Another server's higher term was adopted."""
    info(r, f"term {former} -> {r.current_term}")


def election(r: Raft) -> None:
    """A round of an election begins, told for the first of a row, the second, the fourth, and so on."""
    candidate = r.candidate_state
    if candidate is None:
        return
    r.counts.elections += 1
    said = r.said
    said.rounds += 1
    if said.rounds & (said.rounds - 1) != 0:
        return
    voters = configuration.voter_count(r.configuration)
    phase = f"asks who would vote for it in term {r.current_term + 1}"
    if not candidate.in_pre_vote:
        phase = f"stands for election in term {r.current_term}"
    row = f", round {said.rounds} without a leader" if said.rounds > 1 else ""
    info(r, f"{phase}, {voters} voters{row}")


def election_lost(r: Raft) -> None:
    """A candidate has not been elected within its timeout; a long row of these does not pass by itself."""
    r.counts.elections_lost += 1
    candidate = r.candidate_state
    if candidate is None or r.said.rounds & (r.said.rounds - 1) != 0:
        return
    votes, voters = candidate.votes.count(True), len(candidate.votes)
    text = f"not elected in term {r.current_term}: {votes} of {voters} votes, its own included"
    if r.said.rounds != _LOST_ROUNDS:
        info(r, text)
        return
    asked = [server for server in r.configuration.servers if server.role == RAFT_VOTER]
    lacking = [_name(s.id, s.address) for s, vote in zip(asked, candidate.votes, strict=False) if not vote]
    warn(r, f"{text}, {r.said.rounds} rounds without a leader; missing: {', '.join(lacking)}")


def waits(r: Raft, msecs: int) -> None:
    """Tell, once in a row, that a server without a vote has heard of no leader so long: only a leader can end it."""
    if r.said.waits or r.said.removed or msecs < _PATIENCE * r.election_timeout:
        return
    r.said.waits = True
    server = configuration.get(r.configuration, r.id)
    if not r.configuration.servers:
        # A spare as well as a server that is to be added, or was forgotten.
        info(r, f"waits, for {msecs} ms now: it was not bootstrapped, and no leader has reached it")
    elif server is not None and server.role != RAFT_SPARE:
        # A spare hears from no leader, and a server that is not a member was told so at the start or at its removal.
        text = "either none can be elected, or it was removed meanwhile, which nobody tells a server that has no vote"
        warn(r, f"has heard of no leader for {msecs} ms: {text}")


def withholds(r: Raft, id: int) -> None:
    """A server that is not a member by its log was asked for its vote, which it never gives; told once."""
    if r.said.withholds or (r.configuration.servers and r.votes_withheld <= r.vote_patience):
        return
    r.said.withholds = True
    why = "it is not a member by its log"
    if not r.configuration.servers:
        why = "it has no log: it was not bootstrapped, or its disk was replaced or emptied"
    warn(
        r,
        f"withholds its vote from server {id}: {why}. It votes when a leader has given it the log. If none can be "
        "elected without this vote, bring the other members back; only if that is impossible, raft_recover on the "
        "member whose last entry has the highest term, of several the one with the longest log, makes a cluster of "
        "what is left, and what only lost disks held is lost for good",
    )


# Members.


def describe(conf: RaftConfiguration) -> str:
    """Return a configuration in words."""
    return ", ".join(f"{s.id} at {s.address} ({ROLE_NAMES[s.role]})" for s in conf.servers) or "nobody"


def configuration_in_force(r: Raft, index: int) -> None:
    """The configuration of the entry at `index` is in force, not known to be committed yet."""
    if configuration.get(r.configuration, r.id) is not None:
        r.said.member = True
    info(r, f"the configuration of entry {index} is in force: {describe(r.configuration)}")
    leader = r.leader_state
    if leader is None:
        return
    voters = [(s, p) for s, p in zip(r.configuration.servers, leader.progress, strict=True) if s.role == RAFT_VOTER]
    missing = [_name(s.id, s.address) for s, p in voters if p.silent and s.id != r.id]
    if not quorum.is_majority(len(voters) - len(missing), len(voters)):
        # C: client.c:raft_remove says nothing. Without the change the others could go on, so this is an operator's.
        warn(
            r,
            f"the configuration of entry {index} has {len(voters)} voters, of whom {', '.join(missing)} did not answer "
            "lately: before a majority of them answers, neither it nor anything else is committed, and nobody leads",
        )


def configuration_rolled_back(r: Raft, index: int) -> None:
    """The entry with the configuration in force is gone, the one before is back."""
    info(r, f"the configuration of entry {index} is void, in force is {describe(r.configuration)}")


def configuration_committed(r: Raft, index: int) -> None:
    """The configuration of an entry is committed; if this server is not a member any more, that is told once."""
    info(r, f"the configuration of entry {index} is committed")
    if configuration.get(r.configuration, r.id) is not None:
        r.said.member = True
    elif r.said.member and r.configuration_uncommitted_index == 0:
        r.said.member = False
        removed(r, f"by entry {index}")


def removed(r: Raft, by: str) -> None:
    """This server has found out, by what `by` says, that it is not a member any more."""
    r.said.removed = True
    warn(r, f"was removed from the cluster, {by}: it waits for a leader, and calls no elections. It can be closed")


def silent(r: Raft, server: RaftServer, p: RaftProgress) -> None:
    """A leader has counted who answered: tell of a server that has fallen silent or come back."""
    if p.silent == p.recent_recv:
        p.silent = not p.recent_recv
        info(r, f"{_name(server.id, server.address)} {'does not answer' if p.silent else 'answers again'}")


# Transfers and snapshots.


def transfer_begins(r: Raft, req: RaftTransfer) -> None:
    """A leadership transfer is under way."""
    info(r, f"hands leadership over to server {req.id}")


def transfer_ends(r: Raft, req: RaftTransfer) -> None:
    """A leadership transfer is over."""
    follower = r.follower_state
    if follower is not None and follower.current_leader.id == req.id:
        info(r, f"server {req.id} has taken over")
    elif r.state == RAFT_LEADER:
        warn(r, f"server {req.id} has not taken over, this server leads on")
    else:
        warn(r, f"server {req.id} is not known to have taken over")


def snapshot_taken(r: Raft, index: int) -> None:
    """An own snapshot is stored."""
    r.counts.snapshots_taken += 1
    info(r, f"has taken a snapshot up to entry {index}")


def snapshot_sent(r: Raft, id: int, index: int) -> None:
    """A snapshot is on its way to a server that is too far behind."""
    r.counts.snapshots_sent += 1
    info(r, f"sends server {id} the snapshot up to entry {index}")


def not_stored(r: Raft, index: int) -> None:
    """The own disk has failed to store the entries from `index` on, for the reason in errmsg; told once a minute."""
    text = f"entries from {index} on could not be stored: {r.errmsg}"
    trace(r.tracer, text, TRACE_ERROR, 2)
    if r.state == RAFT_UNAVAILABLE:
        return
    now = calls.now(r)
    if r.said.unstored_at is None or now - r.said.unstored_at >= _QUIET_MSECS:
        # A follower that takes nothing, or a leader that steps down again and again, must not do so in silence.
        r.said.unstored_at = now
        _logger.warning("server %d: %s", r.id, text)


def writes_end(r: Raft) -> None:
    """See, at each tick, whether the write of entries that is to end first does; told if it takes very long, and if it
    ends after that.
    """
    said = r.said
    first = r.writes[0] if r.writes else None
    if first is not said.write:
        if said.stalled:
            warn(r, "its disk stores entries again")
        said.write, said.write_since, said.stalled = first, calls.now(r), False
    elif first is not None and not said.stalled:
        msecs = calls.now(r) - said.write_since
        if msecs >= _PATIENCE * r.election_timeout:
            # A leader goes on with the disks of the others, an only voter with none: nobody is told anything else.
            said.stalled = True
            warn(r, f"entries from {first.index} on have been on their way to its disk for {msecs} ms")


def snapshot_unread(r: Raft, id: int, status: int) -> None:
    """The own snapshot cannot be read, and server `id` needs it; told once as long as the reason stays."""
    reason = raft_strerror(status) + (f" ({r.io.errmsg})" if r.io.errmsg else "")
    if r.said.unread == reason:
        return
    r.said.unread = reason
    warn(
        r,
        f"its snapshot cannot be read: {reason}. Server {id} needs it, and gets nothing before it can be read, another "
        "one has been taken, or another server leads; it is tried again from time to time",
    )


def snapshot_installed(r: Raft, index: int) -> None:
    """A leader's snapshot has taken the place of the log."""
    r.counts.snapshots_installed += 1
    r.said.member = r.said.member or configuration.get(r.configuration, r.id) is not None
    info(r, f"has installed the leader's snapshot up to entry {index}; in force is {describe(r.configuration)}")

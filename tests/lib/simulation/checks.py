"""The invariants of Raft (figure 3.2) and of this library, checked after every event on the server it concerned.

Duty: a global record of what happened (leaders by term, votes, entries by index and term, the committed sequence, the
applied commands) and, per server, what it looked like after its last event. A check looks at the difference only,
so its cost is that of the change. Checked are:

* Election Safety: one leader per term; one vote per server and term, stored before it is sent;
* Leader Append-Only; Log Matching: one payload and one predecessor per (index, term); only the leader of a term
  creates entries of it;
* Leader Completeness: a new leader's log has every committed entry;
* State Machine Safety: one committed entry per index, one sequence of commands for all machines;
* commitment: a leader commits only what is durable on a majority of voters, up to an entry of its own term;
* durability: what a server counts or acknowledges as stored is on its disk; every term it speaks in is;
* what a leader takes for stored on a server, by its acknowledgments, is there;
* the configuration in force on a server is the newest that it has stored, or a leader's own;
* monotony of the commit, applied and stored indexes; one uncommitted configuration at most;
* a server whose disk lost entries that it had acknowledged does not vote until it has those that were committed;
* acknowledged commands are committed, at the index of their request.

Failure modes: every broken invariant is handed to `World.violate`, as some are found inside calls of the core.
"""

from typing import TYPE_CHECKING

from pyraft import (
    RAFT_CHANGE,
    RAFT_FOLLOWER,
    RAFT_LEADER,
    RAFT_UNAVAILABLE,
    RAFT_VOTER,
    Raft,
    RaftConfiguration,
    RaftMessage,
    configuration,
    log,
    membership,
)
from pyraft.progress import PROGRESS__SNAPSHOT
from pyraft.state import LeaderState
from pyraft.types import EntryBatch
from tests.lib.simulation import wire

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World


class View:
    """The look of a server after its last event. `terms` are those of the log, from index `base` + 1 on."""

    __slots__ = (
        "applied",
        "base",
        "changes",
        "commit",
        "in_force",
        "last",
        "offset",
        "state",
        "stored",
        "tail",
        "term",
        "terms",
    )

    def __init__(self) -> None:
        self.state = RAFT_UNAVAILABLE
        self.term = 0
        self.commit = 0
        self.applied = 0
        self.stored = 0
        self.offset = 0
        self.last = 0
        self.tail: bytes | None = None
        self.base = 0
        self.terms: list[int] = []
        self.changes: list[int] = []
        self.in_force: tuple[RaftConfiguration | None, int, int] = None, 0, 0


class Checks:
    """All that is known about a world. `committed` holds the terms of the committed entries behind index `base`."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.sent = 0
        self.on_io_uv = wire.is_within(world.profile)
        self.views: dict[int, View] = {}
        self.leaders: dict[int, tuple[int, int]] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.entries: dict[tuple[int, int], tuple[int, bytes, int]] = {}
        # The index before the first of them; all that is up to there is in the snapshot that all begin with.
        self.base = world.profile.first_index
        self.committed: list[int] = []
        # In which term each of them was committed first, as far as anybody knew.
        self.committed_in: list[int] = []
        self.commands: list[tuple[int, bytes]] = []
        self.elections = 0

    @property
    def end(self) -> int:
        """The index of the last committed entry."""
        return self.base + len(self.committed)

    # Told by servers, possibly in the middle of a call of the core.

    def booted(self, node: "Node") -> None:
        """A server begins a life: its disk is what it knows. Entries found there are no news."""
        view = self.views[node.id] = View()
        view.term = node.disk.term
        disk = node.disk
        if disk.snapshot is not None:
            view.commit = min(self.base, disk.snapshot.index)
        previous = 0
        for i, term in enumerate(disk.terms):
            self._meet(node, disk.start + i, term, disk.types[i], disk.bufs[i], previous, disk.start + i == 1)
            previous = term

    def applied(self, node: "Node", count: int, digest: int, buf: bytes) -> None:
        """A machine has applied its `count`-th command."""
        if count == len(self.commands) + 1:
            self.commands.append((digest, buf))
        elif count > len(self.commands) or self.commands[count - 1] != (digest, buf):
            self.world.violate(f"State Machine Safety: server {node.id} applies another command number {count}")

    def restored(self, node: "Node", count: int, digest: int) -> None:
        """A machine has been restored to the state after its `count`-th command."""
        if count and (count > len(self.commands) or self.commands[count - 1][0] != digest):
            self.world.violate(f"State Machine Safety: server {node.id} restores another state after {count} commands")

    def acknowledged(self, node: "Node", index: int, buf: bytes) -> None:
        """The client of server `node` was told that the command `buf` has been applied, at `index`."""
        if index > node.raft.commit_index:
            self.world.violate(f"server {node.id} acknowledges entry {index}, which is not committed")
            return
        entry = log.get(node.raft.log, index)
        if entry is None or entry.buf != buf:
            self.world.violate(f"server {node.id} acknowledges at {index} what is not there")

    def leads(self, node: "Node", term: int) -> None:
        """A server becomes leader: the only one of its term (figure 3.2)."""
        me = (node.id, node.life)
        other = self.leaders.setdefault(term, me)
        if other != me:
            self.world.violate(f"Election Safety: servers {other[0]} and {node.id} lead in term {term}")

    def appends(self, node: "Node", index: int, batch: EntryBatch) -> None:
        """A server begins to write `batch` from `index` on; a leader may have just made these entries."""
        r = node.raft
        leads = r.state == RAFT_LEADER
        previous = log.term_of(r.log, index - 1)
        for i, term in enumerate(batch.terms):
            self._meet(node, index + i, term, batch.types[i], batch.bufs[i], previous, leads and term == r.current_term)
            previous = term

    def recovered(self, node: "Node") -> None:
        """A server whose disk had lost entries says that it has all back that it may have helped to commit."""
        disk = node.disk
        for index in range(self.base + 1, min(disk.damaged_last, self.end) + 1):
            term = self.committed[index - self.base - 1]
            if term <= disk.damaged_term and not disk.holds(index, term):
                self.world.violate(f"server {node.id} thinks that it has recovered, but lacks the entry {index}")
                return

    def commits(self, node: "Node") -> None:
        """Note what a server has committed: others, or its disk, are to know, and it may die before this event ends."""
        r, view = node.raft, self.views[node.id]
        if r.commit_index > view.commit:
            self._commit(node, r, view)

    def sends(self, node: "Node", message: RaftMessage) -> None:
        """A server speaks, so all that it says must be on its disk."""
        disk, r = node.disk, node.raft
        self.commits(node)
        self._carried(node, message)
        if message.request_vote is not None and not message.request_vote.pre_vote:
            if (disk.term, disk.vote) != (message.request_vote.term, node.id):
                self.world.violate(f"server {node.id} asks for votes without having stored its own")
            self._without_its_disk(node, message.request_vote.term)
            self._vote(node, message.request_vote.term, node.id)
        elif message.request_vote_result is not None:
            result = message.request_vote_result
            candidate = self.world.nodes[message.server_id].raft
            # The log of a server as it was cannot have had an entry of a later term than that in which it started.
            later = log.term_of(candidate.log, candidate.last_stored) > node.raft.recovery_term
            if result.vote_granted and disk.recovering and not later:
                self.world.violate(f"server {node.id} votes although its disk has lost entries")
            if result.vote_granted and not r.configuration.servers:
                # Perhaps it had acknowledged entries, on a disk that was replaced.
                self.world.violate(f"server {node.id} votes, and knows of no cluster that it is a member of")
            if result.vote_granted and not result.pre_vote:
                if (disk.term, disk.vote) != (result.term, message.server_id):
                    self.world.violate(f"server {node.id} grants a vote to {message.server_id} that is not stored")
                self._without_its_disk(node, result.term)
                self._vote(node, result.term, message.server_id)
        elif message.append_entries_result is not None:
            self._acknowledges(node, message)
        elif message.append_entries is not None:
            args = message.append_entries
            if args.leader_commit > args.prev_log_index + len(args.entries):
                self.world.violate(f"server {node.id} says of more that it is committed than the message goes to")
        if r.current_term > disk.term:
            self.world.violate(f"server {node.id} speaks in term {r.current_term}, which is not stored")

    def _carried(self, node: "Node", message: RaftMessage) -> None:
        """Each fourth message is one that io_uv carries: all of them would take a third of the time."""
        self.sent += 1
        problem = wire.problem(message) if self.on_io_uv and self.sent % 4 == 0 else ""
        if problem:
            self.world.violate(f"server {node.id} sends {problem}")

    def _without_its_disk(self, node: "Node", term: int) -> None:
        """A server whose disk was replaced votes before it has all again, or for the second time: all bets are off."""
        if node.disk.lacks_what_it_had or term <= node.disk.wiped_term:
            self.world.abandoned = f"server {node.id} votes in term {term}, without the disk that it had"

    def _vote(self, node: "Node", term: int, candidate: int) -> None:
        voted_for = self.votes.setdefault((node.id, term), candidate)
        if voted_for != candidate:
            self.world.violate(f"server {node.id} votes for {voted_for} and for {candidate} in term {term}")

    def _acknowledges(self, node: "Node", message: RaftMessage) -> None:
        result = message.append_entries_result
        assert result is not None
        index = result.last_log_index
        leader = self.world.nodes[message.server_id]
        if result.rejected or index == 0:
            return
        term = log.term_of(node.raft.log, index)
        # A server like C's acknowledges a snapshot that it need not install, as it has the entries in memory, even if
        # they are not stored yet. The part that it covers is committed without this server, so nothing hangs on it.
        if not (node.c_like and index <= self.end) and not node.disk.holds(index, term):
            self.world.violate(f"server {node.id} acknowledges entry {index}, which is not on its disk")
        # Log Matching, at the moment it matters: the leader of that term will count this.
        if leader.up and leader.raft.state == RAFT_LEADER and leader.raft.current_term == result.term:
            theirs = log.term_of(leader.raft.log, index)
            if term and theirs and theirs != term and not node.c_like and index <= log.last_index(leader.raft.log):
                self.world.violate(
                    f"server {node.id} acknowledges entry {index} of term {term}, the leader's is {theirs}"
                )

    # After an event.

    def after(self, node: "Node") -> None:
        """Check a server whose state may have changed."""
        r, view = node.raft, self.views[node.id]
        if not node.up:
            return
        lg = r.log
        last = lg.base + len(lg.bufs)
        if r.current_term != view.term or r.state != view.state:
            self._term_and_state(node, r, view)
        if last != view.last or lg.offset != view.offset or (lg.bufs and lg.bufs[-1] is not view.tail):
            self._log(node, r, view, last)
        if r.commit_index != view.commit:
            self._commit(node, r, view)
        if r.last_applied != view.applied:
            if r.last_applied < view.applied:
                self.world.violate(f"server {node.id} goes back from applied {view.applied} to {r.last_applied}")
            if r.last_applied > r.commit_index:
                self.world.violate(f"server {node.id} applies {r.last_applied}, committed is {r.commit_index}")
            view.applied = r.last_applied
        if r.last_stored != view.stored:
            self._stored(node, r, view)
        if r.leader_state is not None:
            self._beliefs(node, r, r.leader_state)
        node.cut_log = False
        view.state = r.state
        if r.configuration_uncommitted_index != 0:
            self._configuration(node, r)
        if view.changes:
            self._in_force(node, r, view)

    def _term_and_state(self, node: "Node", r: Raft, view: View) -> None:
        if r.current_term < view.term:
            self.world.violate(f"server {node.id} goes back from term {view.term} to {r.current_term}")
        if r.current_term != node.disk.term and not node.faulted:
            self.world.violate(f"server {node.id} is in term {r.current_term}, its disk in {node.disk.term}")
        if r.state == RAFT_LEADER and (view.state != RAFT_LEADER or view.term != r.current_term):
            self.elections += 1
            self._completeness(node, r)
        view.term = r.current_term

    def _completeness(self, node: "Node", r: Raft) -> None:
        """If an entry is committed in a term, it is in the logs of the leaders of all higher terms (figure 3.2)."""
        for index in range(max(r.log.offset, self.base) + 1, self.end + 1):
            slot = index - self.base - 1
            # Votes may arrive so late that a leader of a lower term is elected meanwhile; it commits nothing.
            if self.committed_in[slot] < r.current_term and log.term_of(r.log, index) != self.committed[slot]:
                self.world.violate(f"Leader Completeness: server {node.id} leads without the committed entry {index}")
                return

    def _log(self, node: "Node", r: Raft, view: View, last: int) -> None:
        lg = r.log
        if r.state == RAFT_LEADER and view.state == RAFT_LEADER and last < view.last:
            self.world.violate(f"Leader Append-Only: server {node.id} cut its log from {view.last} to {last}")
        if last < view.base or lg.offset > view.base + len(view.terms):
            view.base = lg.offset
            view.terms = []
        # Go back to the last entry that is certainly the same as before, and look at all that follow.
        index = min(last, view.base + len(view.terms))
        floor = max(lg.offset, view.base)
        while index > floor and (
            lg.terms[index - lg.base - 1] != view.terms[index - view.base - 1]
            or self.entries[(index, lg.terms[index - lg.base - 1])][1] != lg.bufs[index - lg.base - 1]
        ):
            index -= 1
        if r.state == RAFT_LEADER and view.state == RAFT_LEADER and index < min(view.last, last):
            self.world.violate(f"Leader Append-Only: server {node.id} changed its entry {index + 1}")
        del view.terms[index - view.base :]
        view.changes = [i for i in view.changes if i <= index]
        for i in range(max(index, lg.offset) + 1, last + 1):
            slot = i - lg.base - 1
            own = self.leaders.get(lg.terms[slot]) == (node.id, node.life)
            self._meet(node, i, lg.terms[slot], lg.types[slot], lg.bufs[slot], log.term_of(lg, i - 1), own)
            view.terms.append(lg.terms[slot])
            if lg.types[slot] == RAFT_CHANGE:
                view.changes.append(i)
        view.last = last
        view.offset = lg.offset
        view.tail = lg.bufs[-1] if lg.bufs else None
        if sum(i > self.end for i in view.changes) > 1 and self.end > 0:
            self.world.violate(f"server {node.id} has two uncommitted configurations, at {view.changes[-2:]}")

    def _meet(
        self, node: "Node", index: int, term: int, type: int, buf: bytes, previous: int, may_create: bool
    ) -> None:
        """Log Matching: two entries with the same index and term are the same, and so is all before them."""
        known = self.entries.get((index, term))
        if known is None:
            if not may_create:
                self.world.violate(f"server {node.id} has entry {index} of term {term}, which no leader has made")
            self.entries[(index, term)] = (type, buf, previous)
        elif known[0] != type or known[1] != buf:
            self.world.violate(f"Log Matching: server {node.id} has another entry {index} of term {term}")
        elif known[2] != previous and known[2] != 0 and previous != 0:
            self.world.violate(
                f"Log Matching: before entry {index} of term {term} server {node.id} has one of term {previous}, "
                f"another server had one of term {known[2]}"
            )
        elif known[2] == 0 and previous != 0:
            self.entries[(index, term)] = (type, buf, previous)

    def _commit(self, node: "Node", r: Raft, view: View) -> None:
        if r.commit_index < view.commit:
            self.world.violate(f"server {node.id} goes back from commit {view.commit} to {r.commit_index}")
        before = self.end
        for index in range(max(view.commit, self.base) + 1, r.commit_index + 1):
            term = log.term_of(r.log, index)
            if index <= before:
                if term not in (0, self.committed[index - self.base - 1]):
                    self.world.violate(f"State Machine Safety: server {node.id} commits another entry {index}")
            elif term == 0:
                self.world.violate(f"server {node.id} commits entry {index}, which nobody has committed and it lacks")
            else:
                self.committed.append(term)
                self.committed_in.append(r.current_term)
        view.commit = r.commit_index
        if r.commit_index > before and self.views:
            self._majority(node, r, r.commit_index)

    def _majority(self, node: "Node", r: Raft, index: int) -> None:
        """A leader commits an entry of its term once a majority of the voters has stored it (3.6.2)."""
        if index == 1:
            return  # The same on all servers from the beginning.
        if self.leaders.get(r.current_term, (0, 0)) != (node.id, node.life):
            self.world.violate(f"server {node.id} is the first to commit entry {index} without being leader")
        term = log.term_of(r.log, index)
        voters = [s.id for s in r.configuration.servers if s.role == RAFT_VOTER]
        if term != r.current_term and len(voters) > 1:
            self.world.violate(f"server {node.id} commits entry {index} of term {term} in term {r.current_term}")
        holders = self._holders(voters, index, term)
        if holders > len(voters) // 2:
            return
        if r.configuration_uncommitted_index > index:
            # A change that has waited for this commitment (B46) has taken effect in the same event, after it.
            _, before = membership.fetch_last_committed_configuration(r)
            voters = [s.id for s in before.servers if s.role == RAFT_VOTER]
            holders = self._holders(voters, index, term)
        if holders <= len(voters) // 2:
            self.world.violate(
                f"server {node.id} commits entry {index}, which {holders} of {len(voters)} voters have stored"
            )

    def _holders(self, voters: list[int], index: int, term: int) -> int:
        """Count who has stored an entry. A damaged disk had what it acknowledged; its server does not vote now."""
        disks = [self.world.nodes[id].disk for id in voters]
        return sum(d.holds(index, term) or d.may_have_held(index, term) for d in disks)

    def _stored(self, node: "Node", r: Raft, view: View) -> None:
        installing = r.snapshot.install is not None
        if r.last_stored < view.stored and not node.cut_log and not installing:
            self.world.violate(f"server {node.id} goes back from stored {view.stored} to {r.last_stored}")
        if r.last_stored and not node.disk.holds(r.last_stored, log.term_of(r.log, r.last_stored)):
            self.world.violate(
                f"server {node.id} counts entry {r.last_stored} as stored, but its disk does not have it"
            )
        view.stored = r.last_stored

    def _configuration(self, node: "Node", r: Raft) -> None:
        index = r.configuration_uncommitted_index
        if r.state not in (RAFT_LEADER, RAFT_FOLLOWER):
            return
        entry = log.get(r.log, index)
        if index <= r.configuration_committed_index or (entry is not None and entry.type != RAFT_CHANGE):
            self.world.violate(f"server {node.id} takes entry {index} for an uncommitted configuration")

    def _in_force(self, node: "Node", r: Raft, view: View) -> None:
        """A server uses the latest configuration in its log (4.1), here the latest that is stored.

        A leader's configuration is in force from its append on until its write has failed, also where another server
        leads by then and has sent later configurations.
        """
        if r.snapshot.install is not None or r.snapshot.replacing != 0 or r.state == RAFT_UNAVAILABLE:
            return
        if r.last_applied > log.last_index(r.log):
            return  # a leader's own write has failed that the others have stored: what was committed is kept in a copy
        changes = view.changes
        stored = max((i for i in changes if i <= r.last_stored), default=0)
        look = (r.configuration, stored, changes[-1])
        if look == view.in_force or stored <= r.log.offset:
            return
        view.in_force = look
        for index in [i for i in changes if i >= stored]:
            entry = log.get(r.log, index)
            if entry is not None and _members(configuration.decode(entry.buf)[1]) == _members(r.configuration):
                return
        self.world.violate(f"server {node.id} has entry {stored} stored, and another configuration in force")

    def _beliefs(self, node: "Node", r: Raft, leader: LeaderState) -> None:
        """That server has all that a leader does not send any more because it has been acknowledged.

        In SNAPSHOT that counts for less: a server like C's may answer a heartbeat with entries of its own (B48).
        """
        for server, p in zip(r.configuration.servers, leader.progress, strict=True):
            other = self.world.nodes[server.id]
            index, theirs = p.match_index, other.raft
            if not other.up or theirs.current_term != r.current_term or theirs.last_stored < index:
                continue
            term, here = log.term_of(theirs.log, index), log.term_of(r.log, index)
            if term and here and term != here and p.state != PROGRESS__SNAPSHOT:
                self.world.violate(
                    f"server {node.id} takes its entry {index} of term {here} for stored on server {server.id}, "
                    f"whose entry is of term {term}"
                )

    # At the end.

    def all_logs(self) -> None:
        """Compare whole logs and disks with the record, in case a change was overlooked."""
        for node in self.world.nodes.values():
            disk = node.disk
            for i, term in enumerate(disk.terms):
                known = self.entries.get((disk.start + i, term))
                if known is not None and known[:2] != (disk.types[i], disk.bufs[i]):
                    self.world.violate(
                        f"the disk of server {node.id} has another entry {disk.start + i} of term {term}"
                    )
            if node.up:
                lg = node.raft.log
                for index in range(lg.offset + 1, log.last_index(lg) + 1):
                    slot = index - lg.base - 1
                    known = self.entries.get((index, lg.terms[slot]))
                    if known is None or known[:2] != (lg.types[slot], lg.bufs[slot]):
                        self.world.violate(f"Log Matching: entry {index} of server {node.id} is not the known one")


def _members(conf: RaftConfiguration) -> list[tuple[int, str, int]]:
    return [(server.id, server.address, server.role) for server in conf.servers]

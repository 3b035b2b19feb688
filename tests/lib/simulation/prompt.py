"""Acts that must not take long, nor be done again and again, although none of them is wrong.

Duty: `Prompt` hears of every message that is sent, arrives or is lost, and looks at a server after each of its events.

* a leader that looks for the end of what a follower shares with it is there in few steps (B52), if the follower
  answers as ours do: for C's the steps are bounded otherwise (pyraft.proof);
* the same snapshot is not read and sent again and again for a server that is waiting for it, or storing it (B48);
* however much is lost or fails, the snapshots that a leader reads for a server in a row lie further and further apart,
  until the server acknowledges something new;
* a server that acknowledges a snapshot, having acknowledged all in it before, is sent what follows;
* a server that could not store a snapshot is sent something else, or it again, after a few heartbeats (B48);
* a snapshot that arrives is installed, or answered, as soon as the server has none of its own under way (B53);
* a leader does not take a server that has kept its disk for one that has lost entries;
* a TimeoutNow is obeyed when the writes have ended (B49).

Failure modes: handed to `World.violate`. Any harm that the network or a disk does to a server or its messages starts
the counts of steps and sendings anew, and what depends on a life or a term ends with it.
"""

from typing import TYPE_CHECKING, Final

from pyraft import (
    RAFT_LEADER,
    RAFT_VOTER,
    Raft,
    RaftAppendEntriesResult,
    RaftMessage,
    accept,
    configuration,
    log,
    progress,
)
from pyraft.progress import PROGRESS__SNAPSHOT
from pyraft.state import RaftProgress

if TYPE_CHECKING:
    from tests.lib.simulation.node import Node
    from tests.lib.simulation.world import World

MAX_STEPS_BACK: Final = 16
"""So many rejections in a row, each of an earlier entry: enough for a log of 30,000, in steps that double."""

MAX_SENDS: Final = 5
"""How often the same snapshot is read, or sent, within the time for installing it, where answers may overtake."""

MAX_SENDS_IN_ORDER: Final = 3
"""The same over connections."""

PATIENCE: Final = 6
"""Heartbeat intervals, and round trips, in which a leader has gone on after a refusal, a follower after its own."""


class Prompt:
    """The watch over a world. Keys are (id, id) of the sender and the target of a leader's messages."""

    def __init__(self, world: "World") -> None:
        self.world = world
        # The place of each server: lives and term; the last index refused, and how many falling ones there were.
        self.steps: dict[tuple[int, int], tuple[tuple[int, int, int], int, int]] = {}
        # Lives, term and index of the snapshot; when it was sent, or read, first, and how often since then.
        self.sends: dict[tuple[int, int], tuple[tuple[int, int, int, int], int, int]] = {}
        self.reads: dict[tuple[int, int], tuple[tuple[int, int, int, int], int, int]] = {}
        # The progress that counts, what it has acknowledged, how many snapshots were read since that rose, and when the
        # last of them was, by the leader's clock.
        self.rows: dict[tuple[int, int], tuple[RaftProgress, int, int, int]] = {}
        # The progress that counts, and what the server had acknowledged in it.
        self.matches: dict[tuple[int, int], tuple[RaftProgress, int]] = {}
        # The progress of a server that has just acknowledged a snapshot again, and the number of that in its row.
        self.known: list[tuple[int, RaftProgress, int]] = []
        # By follower: what it could not store: life, index.
        self.failed: dict[int, tuple[int, int]] = {}
        # Leader's life and term, when it heard of the refusal.
        self.refused: dict[tuple[int, int], tuple[int, int, int]] = {}
        # By follower: its life, the term, who sent it, its index, and since when nothing is in the way.
        self.offered: dict[int, tuple[int, int, int, int, int]] = {}
        # By follower: life, term, sender, last entry.
        self.summoned: dict[int, tuple[int, int, int, int, int]] = {}
        self.worst_steps = self.worst_sends = self.worst_reads = 0

    def lost(self, link: tuple[int, int]) -> None:
        """A message did not arrive."""
        for key in (link, link[::-1]):
            self.steps.pop(key, None)
            self.sends.pop(key, None)
            self.reads.pop(key, None)
            self.refused.pop(key, None)

    def put_failed(self, node: "Node") -> None:
        """A snapshot could not be stored."""
        install = node.raft.snapshot.install
        self.failed.pop(node.id, None)
        if install is not None:
            self.failed[node.id] = (node.life, install.snapshot.index)
        for key in list(self.sends):
            if key[1] == node.id:
                del self.sends[key]
                self.reads.pop(key, None)

    def not_sent(self, node: "Node") -> None:
        """The I/O did not take a message: perhaps an answer."""
        self.offered.pop(node.id, None)

    def read_failed(self, node: "Node") -> None:
        """A leader could not read its snapshot; it tries again after the time for installing it."""
        for key in list(self.refused):
            if key[0] == node.id:
                del self.refused[key]

    def sent_snapshot(self, node: "Node", message: RaftMessage) -> None:
        """A leader sends a snapshot."""
        args = message.install_snapshot
        assert args is not None
        n, msecs = self._again(self.sends, node, message.server_id, args.last_index)
        self.worst_sends = max(self.worst_sends, n)
        if n > self._most_sends():
            what = f"sends snapshot {args.last_index} to {message.server_id}"
            self.world.violate(f"server {node.id} {what} for the {n}th time in {msecs} ms")

    def reads_snapshot(self, node: "Node", id: int) -> None:
        """A leader begins to read its snapshot in order to send it to server `id`."""
        index = log.snapshot_index(node.raft.log)
        n, msecs = self._again(self.reads, node, id, index)
        self.worst_reads = max(self.worst_reads, n)
        if n > self._most_sends():
            self.world.violate(f"server {node.id} reads snapshot {index} for {id} for the {n}th time in {msecs} ms")
        self._reads_in_a_row(node, id)

    def _most_sends(self) -> int:
        return MAX_SENDS_IN_ORDER if self.world.network.connections else MAX_SENDS

    def _reads_in_a_row(self, node: "Node", id: int) -> None:
        r, now = node.raft, node.io.time(node.io)
        assert r.leader_state is not None
        p = r.leader_state.progress[configuration.index_of(r.configuration, id)]
        known, match, n, before = self.rows.get((node.id, id), (p, 0, 0, 0))
        if known is not p or p.match_index > match:
            n = 0
        most = r.install_snapshot_timeout // (2 * r.heartbeat_timeout)
        if n > 0 and now - before < min(1 << (n - 1), most) * r.heartbeat_timeout:
            what = f"reads its snapshot for {id} for the {n + 1}th time in a row"
            self.world.violate(f"server {node.id} {what}, only {now - before} ms after the time before")
        self.rows[node.id, id] = (p, p.match_index, n + 1, now)

    def _again(
        self,
        before: dict[tuple[int, int], tuple[tuple[int, int, int, int], int, int]],
        node: "Node",
        id: int,
        index: int,
    ) -> tuple[int, int]:
        """Return how often, and in how many ms, the same has been done for the same server."""
        world, target = self.world, self.world.nodes[id]
        key, what = (node.id, id), (node.life, target.life, node.raft.current_term, index)
        known, since, n = before.get(key, (what, world.now, 0))
        if known != what or world.now - since >= world.profile.install_timeout:
            since, n = world.now, 0
        before[key] = (what, since, n + 1)
        return n + 1, world.now - since

    def send(self, node: "Node", message: RaftMessage) -> None:
        """A server has sent a message."""
        if message.install_snapshot is not None:
            self.sent_snapshot(node, message)
        elif message.append_entries_result is not None and node.id in self.offered:
            result, index = message.append_entries_result, self.offered[node.id][3]
            if result.rejected == index or (result.rejected == 0 and result.last_log_index >= index):
                del self.offered[node.id]

    def arrives(self, node: "Node", message: RaftMessage) -> None:
        """A message is about to be handled."""
        r, world = node.raft, self.world
        if message.append_entries_result is not None:
            self._answer(node, message)
        elif message.install_snapshot is not None and message.install_snapshot.term >= r.current_term:
            args = message.install_snapshot
            if world.profile.unreachable or r.snapshot.install is not None:
                return  # It is dropped, as an impossible one (pyraft.plausible), or as another is being installed.
            self.offered[node.id] = (node.life, args.term, message.server_id, args.last_index, world.now)
        elif message.timeout_now is not None:
            order, follower = message.timeout_now, r.follower_state
            is_leaders = follower is not None and follower.current_leader.id == message.server_id
            if is_leaders and order.term == r.current_term and not r.recovering:
                what = (node.life, order.term, message.server_id, order.last_log_index, order.last_log_term)
                self.summoned[node.id] = what

    def _answer(self, node: "Node", message: RaftMessage) -> None:
        """The answer to an AppendEntries or a snapshot reaches a server."""
        r, world = node.raft, self.world
        result = message.append_entries_result
        assert result is not None
        if r.state != RAFT_LEADER or result.term != r.current_term:
            return
        other = world.nodes[message.server_id]
        key, what = (node.id, other.id), (node.life, other.life, r.current_term)
        failed = self.failed.get(other.id)
        if failed is not None and failed == (other.life, result.rejected):
            if not self._passes_for_an_older_one(node, other.id, result.rejected):
                self.refused[key] = (node.life, r.current_term, world.now)
            del self.failed[other.id]
        self._acknowledges(node, other.id, result)
        before = self.steps.get(key)
        if result.rejected == 0 or other.c_like or before is None or before[0] != what:
            self.steps[key] = (what, result.rejected or 1 << 65, 0)
        elif result.rejected < before[1]:
            self.steps[key] = (what, result.rejected, before[2] + 1)
            self.worst_steps = max(self.worst_steps, before[2] + 1)
            if before[2] >= MAX_STEPS_BACK:
                world.violate(
                    f"server {node.id} goes back through its log to find what {other.id} shares, "
                    f"and is at {result.rejected} in the {before[2] + 1}th step"
                )

    def _passes_for_an_older_one(self, node: "Node", id: int, rejected: int) -> bool:
        """Return whether a refusal comes so soon that it may be the answer to a heartbeat that was not answered.

        The leader goes on when the time for installing the snapshot has passed (progress.snapshot_was_refused).
        """
        r = node.raft
        i = configuration.index_of(r.configuration, id)
        if r.leader_state is None or i == len(r.configuration.servers):
            return False
        p = r.leader_state.progress[i]
        soon = node.io.time(node.io) - p.snapshot_sent <= 2 * self.world.profile.latency[1]
        return soon and progress.is_awaited(p, rejected)

    def _acknowledges(self, node: "Node", id: int, result: RaftAppendEntriesResult) -> None:
        r = node.raft
        i = configuration.index_of(r.configuration, id)
        if r.leader_state is None or i == len(r.configuration.servers):
            return
        p = r.leader_state.progress[i]
        index = p.snapshot_index if result.rejected == result.question == 0 else 1 << 65
        if p.state == PROGRESS__SNAPSHOT and result.last_log_index >= index <= p.match_index:
            self.known.append((node.id, p, p.snapshot_tries))

    def after(self, node: "Node") -> None:
        """Look at a server after an event."""
        known, self.known = self.known, []
        if not node.up or node.stopping:
            return
        if node.raft.state == RAFT_LEADER:
            self._leader(node)
            for id, p, n in known:
                if id == node.id and p.state == PROGRESS__SNAPSHOT and p.snapshot_tries == n:
                    self.world.violate(f"server {id} does not hear that its snapshot is known")
        if node.id in self.summoned:
            self._summoned(node)
        if node.id in self.offered:
            self._offered(node)

    def _limit(self) -> int:
        profile = self.world.profile
        return PATIENCE * (profile.heartbeat + 2 * profile.latency[1])

    def _leader(self, node: "Node") -> None:
        r = node.raft
        assert r.leader_state is not None
        for server, p in zip(r.configuration.servers, r.leader_state.progress, strict=True):
            row = self.rows.get((node.id, server.id))
            if row is not None and row[0] is p:
                self.rows[node.id, server.id] = (p, p.match_index, 0 if p.match_index > row[1] else row[2], row[3])
            self._doubts(node, server.id, p)
        for key, (life, term, since) in list(self.refused.items()):
            if key[0] != node.id:
                continue
            i = configuration.index_of(r.configuration, key[1])
            if (life, term) != (node.life, r.current_term) or i == len(r.configuration.servers):
                del self.refused[key]
                continue
            p = r.leader_state.progress[i]
            # Its clock is another one, so count from the last time that anything was sent because of the snapshot.
            if p.state != PROGRESS__SNAPSHOT or self.sends.get(key, ((), 0, 0))[1] >= since:
                del self.refused[key]
            elif node.reads > 0:
                self.refused[key] = (life, term, self.world.now)
            elif self.world.now - since > self._limit() and self.world.now >= node.paused_until:
                self.world.violate(
                    f"server {node.id} heard {self.world.now - since} ms ago that {key[1]} has no snapshot"
                )

    def _doubts(self, node: "Node", id: int, p: RaftProgress) -> None:
        world, disk = self.world, self.world.nodes[id].disk
        known, match = self.matches.get((node.id, id), (p, 0))
        kept = disk.wiped_last == disk.damaged_last == 0
        if known is p and p.match_index < match and kept and not world.nodes[id].c_like:
            world.violate(f"server {node.id} believes that {id} has lost entry {match}, which it has not")
        self.matches[node.id, id] = (p, p.match_index)

    def _summoned(self, node: "Node") -> None:
        life, term, sender, last_index, last_term = self.summoned[node.id]
        r, follower = node.raft, node.raft.follower_state
        if life != node.life or follower is None or r.current_term != term or follower.current_leader.id != sender:
            del self.summoned[node.id]
            return
        if accept.is_writing(r):
            return
        del self.summoned[node.id]
        server = configuration.get(r.configuration, r.id)
        is_voter = server is not None and server.role == RAFT_VOTER
        at_end = (log.last_index(r.log), log.last_term(r.log)) == (last_index, last_term)
        installing = r.snapshot.install is not None or r.snapshot.replacing != 0
        if is_voter and at_end and not installing:
            self.world.violate(f"server {node.id} has stored all and does not obey the TimeoutNow of {sender}")

    def _owes(self, r: Raft) -> bool:
        """Return whether a server waits for the end of a write to answer for a snapshot."""
        return r.snapshot.owed is not None and accept.is_writing(r)

    def _offered(self, node: "Node") -> None:
        life, term, sender, index, since = self.offered[node.id]
        r, follower = node.raft, node.raft.follower_state
        if life != node.life or follower is None or r.current_term != term or follower.current_leader.id != sender:
            del self.offered[node.id]
        elif r.snapshot.pending is not None or r.snapshot.put is not None or self._owes(r):
            # Entries that it has in memory are acknowledged when they are stored.
            self.offered[node.id] = (life, term, sender, index, self.world.now)
        elif self.world.now - since > self._limit():
            self.world.violate(f"server {node.id} has neither installed nor answered a snapshot of server {sender}")

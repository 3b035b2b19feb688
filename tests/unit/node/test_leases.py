"""The promises of members, and the conclusions of a leader, one rule at a time."""

import asyncio
from typing import Any

import pytest

from pyraft import RAFT_NOCONNECTION, RaftIo, RaftMessage
from pyraft.node import Node, Settings, Unavailable
from pyraft.node.admission import REGISTERS
from pyraft.node.leases import SHIFT, Restraint
from pyraft.node.testing import Cluster, simulate
from pyraft.types import (
    RAFT_IO_APPEND_ENTRIES,
    RAFT_IO_APPEND_ENTRIES_RESULT,
    RAFT_IO_REQUEST_VOTE,
    RAFT_IO_TIMEOUT_NOW,
    RaftAppendEntries,
    RaftAppendEntriesResult,
    RaftRequestVote,
    RaftTimeoutNow,
)
from tests.lib.nodes import Shop

SETTINGS = Settings(heartbeat_msecs=30, election_timeout_msecs=300, clock_drift=0.1)


class Core:
    """The part of the core that a Restraint sees and of its I/O."""

    def __init__(self) -> None:
        self.time = 100.0
        self.current_term = 3
        self.leader_state: Any = None
        self.received: list[RaftMessage] = []
        self.sent: list[RaftMessage] = []
        self.io = RaftIo()
        self.io.start = self.start
        self.io.send = lambda io, req, message, cb: self.sent.append(message) or 0
        self.restraint = Restraint(self, self.io, lambda: self.time, 300)  # type: ignore[arg-type]
        self.io.start(self.io, 30, lambda io: None, lambda io, message: self.received.append(message))

    def start(self, io: RaftIo, msecs: int, tick: Any, recv: Any) -> int:
        self.recv = recv
        return 0

    def vote(self, term: int = 4, disrupt: bool = False) -> RaftMessage:
        message = RaftMessage()
        message.type = RAFT_IO_REQUEST_VOTE
        message.request_vote = RaftRequestVote()
        message.request_vote.term, message.request_vote.disrupt_leader = term, disrupt
        return message

    def hear(self, term: int) -> None:
        message = RaftMessage()
        message.type = RAFT_IO_APPEND_ENTRIES
        message.append_entries = RaftAppendEntries()
        message.append_entries.term = term
        self.recv(self.io, message)

    def lets_in(self, message: RaftMessage) -> bool:
        before = len(self.received)
        self.recv(self.io, message)
        return len(self.received) > before

    def lets_out(self, message: RaftMessage) -> bool:
        return self.io.send(self.io, None, message, None) != RAFT_NOCONNECTION  # type: ignore[arg-type]


def test_members_keep_still_behind_a_leader_and_a_start() -> None:
    """For the largest power of two within the election timeout no vote request gets in or out; then it does."""
    core = Core()
    assert core.restraint.kept == 0.256
    for heard in (100.0, 200.0):
        core.time = heard
        if heard == 200.0:
            core.hear(3)
        for later, free in ((0.0, False), (0.25, False), (0.257, True)):
            core.time = heard + later
            assert core.lets_in(core.vote()) is free
            assert core.lets_out(core.vote()) is free
    core.hear(2)  # of a former leader
    assert core.lets_in(core.vote())
    core.hear(3)
    assert not core.lets_in(core.vote())
    assert core.lets_in(core.vote(disrupt=True))


def test_who_was_asked_to_take_over_disturbs_in_that_term_only() -> None:
    """A request in the leader's name leaves a member in the term after the one it was asked in, and in no other."""
    core = Core()
    message = RaftMessage()
    message.type = RAFT_IO_TIMEOUT_NOW
    message.timeout_now = RaftTimeoutNow()
    message.timeout_now.term = 3
    core.hear(3)
    assert not core.lets_out(core.vote(4, disrupt=True))
    core.recv(core.io, message)
    vote = core.vote(4, disrupt=True)
    assert core.lets_out(vote)
    assert vote.request_vote.disrupt_leader
    for term in (5, 3):
        vote = core.vote(term, disrupt=True)
        assert not core.lets_out(vote)
        core.time += 1
        assert core.lets_out(vote)
        assert not vote.request_vote.disrupt_leader
        core.hear(3)


def test_answers_announce_what_is_kept() -> None:
    """The power of two is among the features of each answer, beside those that are there."""
    core = Core()
    message = RaftMessage()
    message.type = RAFT_IO_APPEND_ENTRIES_RESULT
    message.append_entries_result = RaftAppendEntriesResult()
    message.append_entries_result.features = 0xC000
    assert core.lets_out(message)
    assert core.sent[-1].append_entries_result.features == 0xC000 | 8 << SHIFT | REGISTERS
    message = RaftMessage()
    message.type = RAFT_IO_TIMEOUT_NOW
    core.leader_state = object()
    assert core.lets_out(message)
    assert core.restraint.handed_over is core.leader_state


def rounds_of(node: Node[Shop]) -> list[float]:
    """Count the rounds that a node makes, from now on."""
    made: list[float] = []
    make = node._reads._round

    async def counting() -> None:
        made.append(node.outside.seconds())
        await make()

    node._reads._round = counting
    return made


def lease(scenario: Any) -> None:
    """Run a scenario with leases on a cluster that has a leader."""

    async def begun(cluster: Cluster[Shop]) -> None:
        node = await cluster.lead()
        await node.machine.put("apple")
        with node.read(lease=True), node.timeout(5):
            await scenario(cluster, node)

    simulate(begun, Shop, settings=SETTINGS)


def test_queries_under_a_lease_make_no_round() -> None:
    """A leader that is asked all the time makes a round now and then, ahead of need: no query has to wait for it."""

    async def scenario(cluster: Cluster[Shop], node: Node[Shop]) -> None:
        await node.machine.left("apple")
        rounds, began = rounds_of(node), cluster.now
        for _ in range(2000):
            at = cluster.now
            assert await node.machine.left("apple") == 1
            assert cluster.now == at
            await asyncio.sleep(0.001)
        assert 10 < len(rounds) <= (cluster.now - began) / (0.256 * 0.9 / 2) + 1

    lease(scenario)


def test_a_lease_counts_from_the_beginning_of_its_round() -> None:
    """However long the answers took: those who gave them count from when they heard the leader, which was before."""

    async def scenario(cluster: Cluster[Shop], node: Node[Shop]) -> None:
        cluster.slow(0.1)
        await asyncio.sleep(1)
        began = node.outside.seconds()
        await node.machine.left("apple")
        now = node.outside.seconds()
        assert now - began > 0.01
        assert 0 < node._leases.left <= began + 0.256 * 0.9 - now + 1e-9

    lease(scenario)


def test_a_leader_that_is_cut_off_stops_answering_in_time() -> None:
    """Under a lease it answers for up to 0.9 of what the others keep still; nobody else leads before that is over."""

    async def scenario(cluster: Cluster[Shop], node: Node[Shop]) -> None:
        await node.machine.left("apple")
        cluster.isolate(cluster.number_of(node))
        cut = last = cluster.now
        with node.timeout(0.05):
            while cluster.leader is node and cluster.now < cut + 1:
                try:
                    await node.machine.left("apple")
                    last = cluster.now
                except Unavailable:
                    pass
                await asyncio.sleep(0.002)
        assert 0.1 < last - cut <= 0.256 * 0.9
        assert cluster.now - cut > 0.256

    lease(scenario)


def test_no_lease_behind_a_transfer_or_a_change() -> None:
    """An attempt to hand over ends leases of this leadership for good, a change of members those from before it."""

    async def scenario(cluster: Cluster[Shop], node: Node[Shop]) -> None:
        await node.machine.left("apple")
        assert node._leases.left > 0
        other = next(number for number in cluster.nodes if cluster.nodes[number] is not node)
        await node.demote(other)
        assert node._leases.left <= 0
        await node.machine.left("apple")
        assert node._leases.left > 0
        await node.promote(other)
        await node.machine.left("apple")
        assert node._leases.left > 0
        cluster.cut(cluster.number_of(node), other)
        with node.timeout(0.1), pytest.raises(Unavailable):
            await node.transfer(other)
        assert node._leases.left <= 0
        cluster.heal()
        await cluster.until(lambda: node.server.raft.transfer is None)
        rounds = rounds_of(node)
        if node.is_leader:
            for _ in range(3):
                await node.machine.left("apple")
            assert len(rounds) == 3

    lease(scenario)


def test_members_that_promise_nothing_count_for_none() -> None:
    """With voters that do not announce that they keep still, or for a shorter time, queries make rounds as ever."""

    async def scenario(cluster: Cluster[Shop], node: Node[Shop]) -> None:
        for other in cluster.nodes.values():
            if other is not node:
                other._leases._restraint.exponent = 7
        for _ in range(3):
            await asyncio.sleep(0.3)
            rounds = rounds_of(node)
            await node.machine.left("apple")
            assert len(rounds) == 1
            assert node._leases.left <= 0

    lease(scenario)


def test_a_member_that_ends_keeps_its_directory_for_as_long_as_it_has_promised() -> None:
    """An older version on the directory would vote at once. Until then it answers nothing and asks for no votes; one
    that is alone, and one that is killed, is gone at once.
    """

    async def scenario(cluster: Cluster[Shop], node: Node[Shop]) -> None:
        number, other = next((n, other) for n, other in cluster.nodes.items() if other is not node)
        restraint, place = other._leases._restraint, cluster.places[number]
        await node.machine.left("apple")
        stopping = asyncio.ensure_future(cluster.stop(number))
        await cluster.until(lambda: restraint._left)
        heard, stored = restraint._heard, other.server.raft.last_stored
        await node.machine.put("apple")
        assert place.life is not None
        await stopping
        assert place.life is None
        assert cluster.now >= heard + restraint.kept
        assert (restraint._heard, other.server.raft.last_stored) == (heard, stored)
        await cluster.start(number)
        await cluster.nodes[number].ready()
        began = cluster.now
        await cluster.kill(number)
        assert cluster.now == began

    lease(scenario)

    async def alone(cluster: Cluster[Shop]) -> None:
        await cluster.lead()
        began = cluster.now
        await cluster.stop(1)
        assert cluster.now - began < 0.1

    simulate(alone, Shop, nodes=1, check=False)

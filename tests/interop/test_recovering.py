"""A voter of this project that may have forgotten what it acknowledged, among servers of the C library."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from io_uv import marker
from tests.interop import formats
from tests.interop.driver import FOLLOWER, LEADER, Cluster, Node, Status, Workshop, until
from tests.interop.formats import APPEND_ENTRIES, TIMEOUT_NOW
from tests.interop.relay import Relay
from tests.interop.test_mixed_cluster import snapshot_index

QUICK = {"election": 250, "heartbeat": 50, "retry": 100, "threshold": 10_000}
STEADY = {**QUICK, "election": 3000}
"""For clusters in which nobody but the server under test is to end a term."""
NEVER = 3_600_000

CASES = {
    "C C": ("c", "c", "open"),
    "C Python": ("c", "py", "open"),
    "Python C": ("py", "c", "closed"),
}
"""The kind of the server that holds the entries, that of the one which misses them, and the segment that is damaged."""


def trio(workshop: Workshop, *kinds: str, **settings: Any) -> tuple[Cluster, Node, Node, Node]:
    """A running cluster: two servers of the given kinds and one of ours."""
    nodes = [workshop.node(kind, i + 1, **settings) for i, kind in enumerate([*kinds, "py"])]
    return Cluster(nodes, seed=7), nodes[0], nodes[1], nodes[2]


def damage(node: Node, end: str) -> None:
    """End a server and flip a byte of an entry that it acknowledged early, in the last segment of its log.

    "bootstrap" stands for the closed segment that the first configuration is in; all the rest is in an open one.
    """
    if end == "closed":
        node.quit()
    else:
        node.kill()
    path = formats.open_segments(node.dir)[-1] if end == "open" else max(node.dir.glob("0*-0*"))
    data = bytearray(path.read_bytes())
    data[min(2000, len(data) - 10)] ^= 0x20
    path.write_bytes(data)


def marked(node: Node) -> bool:
    """Whether the mark stands in a server's directory."""
    return marker.NAME in node.files()


def set_aside(node: Node) -> list[str]:
    """Return the names of what recovery has put out of the way."""
    return [name for name in node.files() if name.startswith("corrupt-")]


def vote_on_disk(node: Node) -> tuple[int, int]:
    """Return a server's term and for whom it has voted in that, 0 for nobody."""
    found = [struct.unpack("<4Q", path.read_bytes()[:32]) for path in node.dir.glob("metadata[12]")]
    _, _, term, vote = max(found, key=lambda fields: fields[1])
    return term, vote


def content(status: Status) -> tuple[int, int, int]:
    """Return what stands for the commands that a server has applied, in their order."""
    return status.count, status.bytes, status.chain


def lost_a_half(cluster: Cluster, holder: Node, laggard: Node, victim: Node, end: str) -> Status:
    """Have the victim acknowledge what the laggard misses, end all, damage the victim; return what was acknowledged."""
    cluster.start()
    cluster.hand_to(holder)
    cluster.apply(40)
    cluster.settle()
    laggard.kill()
    cluster.apply(40)
    status = holder.status()
    assert status.count >= cluster.acknowledged == 80
    damage(victim, end)
    holder.kill()
    return status


def campaign_in_vain(laggard: Node, victim: Node) -> None:
    """Let a candidate ask in three terms for the vote that it would need, of a server that does not stand either."""
    first, _ = vote_on_disk(victim)
    until("the first term", lambda: vote_on_disk(victim)[0] > first)

    def three_terms_later() -> bool:
        status = laggard.status()
        assert status.state != LEADER
        assert victim.status().state == FOLLOWER
        term, vote = vote_on_disk(victim)
        assert vote == 0
        return min(status.term, term) > first + 3

    until("three more terms", three_terms_later)
    assert marked(victim)


def would_be_forgotten(workshop: Workshop, laggard: Node, victim: Node, acknowledged: int) -> None:
    """On copies: a C server that takes the directory over knows no mark and votes; all that was acknowledged is
    lost.
    """
    other = workshop.copy(laggard, laggard.kind, "laggard's copy")
    heir = workshop.copy(victim, "c", "victim's copy")
    copies = Cluster([other, heir], seed=0)
    for node in copies.nodes:
        node.run()
    until("a barrier to pass", copies.passes)
    assert copies.leader().status().count < acknowledged
    assert marked(heir)
    for node in copies.nodes:
        node.kill()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_nothing_that_it_acknowledged_is_forgotten(workshop: Workshop, case: tuple[str, str, str]) -> None:
    """One of two servers that hold entries is down, the other's disk spoilt: the third one does not get its vote.

    When the one that is down comes back all entries do, and then the vote. A C server in its place gives it too early.
    """
    *kinds, end = case
    cluster, holder, laggard, victim = trio(workshop, *kinds, **QUICK)
    before = lost_a_half(cluster, holder, laggard, victim, end)
    laggard.run()
    victim.settings["election"] //= 2  # it would be the first to stand
    victim.run()
    assert marked(victim)
    assert len(set_aside(victim)) == 1
    assert victim.status().last < laggard.status().last < before.last
    campaign_in_vain(laggard, victim)
    laggard.kill()
    victim.kill()
    victim.settings["election"] *= 2
    would_be_forgotten(workshop, laggard, victim, before.count)
    for node in cluster.nodes:
        node.run()
    until("the mark to go", lambda: not marked(victim))
    assert content(cluster.settle()) == content(before)
    holder.kill()
    cluster.hand_to(victim)
    cluster.hand_to(laggard)
    assert vote_on_disk(victim)[1] == laggard.id
    cluster.apply(10)
    holder.run()
    assert cluster.settle().count >= before.count + 10
    for node in cluster.nodes:
        node.quit()


def give_back(
    workshop: Workshop, threshold: int, leader_install: int, install: int, end: str = "open"
) -> tuple[Status, Status]:
    """Spoil a server whose C leader stays, and wait for its entries; return the leader's status before and after.

    From 30 on C servers take snapshots, so that the leader no longer has what is missing.
    """
    cluster, leader, other, victim = trio(workshop, "c", "c", **STEADY)
    for node in (leader, other):
        node.settings |= {"threshold": threshold, "trailing": 5, "blob": 20_000, "install": leader_install}
    victim.settings["install"] = install
    cluster.start()
    cluster.hand_to(leader)
    cluster.apply(80)
    before = cluster.settle()
    damage(victim, end)
    victim.run()
    aside = set_aside(victim)  # The mark may have gone by now.
    assert aside
    assert any(name.endswith("-0000000000000001-0000000000000001") for name in aside) == (end == "bootstrap")
    until("the mark to go", lambda: not marked(victim))
    after = cluster.settle()
    assert content(after) == content(before)
    assert (snapshot_index(victim) > 0) == (threshold == 30)
    for node in cluster.nodes:
        node.quit()
    return before, after


@pytest.mark.parametrize(("threshold", "leader_install"), [(10_000, NEVER), (30, 1000)], ids=["log", "snapshot"])
def test_a_c_leader_gives_back_what_is_missing(workshop: Workshop, threshold: int, leader_install: int) -> None:
    """It does in its term: the failed write of a heartbeat has made it begin anew with this server.

    That a snapshot is acknowledged tells it nothing new, for which reason it lets install_snapshot_timeout pass.
    """
    before, after = give_back(workshop, threshold, leader_install, NEVER)
    assert (after.leader, after.term) == (before.leader, before.term)


def test_a_c_leader_gives_back_the_configuration_too(workshop: Workshop) -> None:
    """A server of which nothing is left but term and vote does not know that it is a voter, until it has its log."""
    before, after = give_back(workshop, 10_000, NEVER, NEVER, "bootstrap")
    assert (after.leader, after.term) == (before.leader, before.term)


def test_it_does_not_wait_longer_than_it_likes_for_a_c_leader_with_a_snapshot(workshop: Workshop) -> None:
    """After its own install_snapshot_timeout it raises the term."""
    before, after = give_back(workshop, 30, NEVER, 700)
    assert after.term > before.term


@pytest.fixture
def behind_relay(workshop: Workshop) -> Iterator[tuple[Cluster, Node, Node, Relay]]:
    """A C leader, idle, that does not notice how a server of ours is killed and spoilt: its cluster, both, the relay.

    The server never stands, so that nobody but a leader speaks to it and all of that takes its way through the relay.
    """
    cluster, leader, _, victim = trio(workshop, "c", "c", **STEADY)
    victim.settings["election"] = NEVER
    relay = Relay(victim.address)
    victim.known_as = relay.address
    try:
        cluster.start()
        cluster.hand_to(leader)
        cluster.apply(40)
        cluster.settle()
        damage(victim, "open")
        yield cluster, leader, victim, relay
        for node in cluster.nodes:
            node.quit()
    finally:
        relay.close()


def test_a_c_leader_that_remembers_its_acknowledgments_needs_a_new_command(
    behind_relay: tuple[Cluster, Node, Node, Relay],
) -> None:
    """It ignores rejections of what was acknowledged, and hands over at once; the server does not obey that."""
    cluster, leader, victim, relay = behind_relay
    victim.settings["install"] = NEVER
    before = leader.status()
    relay.passed.clear()
    victim.run()
    until("20 heartbeats", lambda: relay.passed[APPEND_ENTRIES] >= 20)
    leader.call("transfer", victim.id)
    assert relay.passed[TIMEOUT_NOW] > 0
    assert marked(victim)
    assert victim.status().last < before.last
    assert (leader.status().state, leader.status().term) == (LEADER, before.term)
    leader.call("apply", "00" * 8)
    until("the mark to go", lambda: not marked(victim))
    assert cluster.settle().count == before.count + 1
    assert leader.status().term == before.term


def test_it_gets_out_by_itself_when_a_c_leader_remembers_its_acknowledgments(
    behind_relay: tuple[Cluster, Node, Node, Relay],
) -> None:
    """After install_snapshot_timeout it raises the term; the server elected in that begins anew."""
    cluster, leader, victim, _ = behind_relay
    victim.settings["install"] = 700
    before = leader.status()
    victim.run()
    assert set_aside(victim)
    until("the mark to go", lambda: not marked(victim))
    after = cluster.settle()
    assert content(after) == content(before)
    assert after.term > before.term

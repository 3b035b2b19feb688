"""Servers of this project and of the C library in one cluster."""

import re
from typing import Any

import pytest

from tests.interop.driver import SPARE, VOTER, Cluster, Failed, Node, Workshop, until

SETTINGS: dict[str, Any] = {
    "election": 3000,
    "heartbeat": 100,
    "threshold": 150,
    "trailing": 30,
    "segment": 262144,
    "blob": 50_000,
    "retry": 100,
    "install": 3000,
}
"""A leader that happens to send the snapshot before its newest one waits for the install timeout: keep that short.

Leaders change by transfers only: none loses its leadership because the machine stands still for a second or two.
"""

MEMBERS = {"3 with one C": ["c", "py", "py"], "3 with two C": ["c", "c", "py"], "5": ["c", "py", "c", "py", "py"]}


def snapshot_index(node: Node) -> int:
    """The last index of the newest snapshot in a server's directory."""
    found = [re.fullmatch(r"snapshot-\d+-(\d+)-\d+", name) for name in node.files()]
    return max((int(match[1]) for match in found if match), default=0)


def oldest_closed(node: Node) -> int:
    """The first index of the oldest closed segment in a server's directory, 0 without one."""
    return min((int(name[:16]) for name in node.files() if re.fullmatch(r"\d{16}-\d{16}", name)), default=0)


def restart_followers(cluster: Cluster, leader: Node) -> None:
    """SIGKILL one follower of each kind under load and bring it back."""
    for kind in ("c", "py"):
        follower = next((n for n in cluster.nodes if n.kind == kind and n is not leader), None)
        if follower is None:
            continue
        numbers = [leader.request("apply", cluster.payload().hex()) for _ in range(50)]
        follower.kill()
        cluster.acknowledged += sum(leader.result(number)[0] == 0 for number in numbers)
        cluster.apply(50)
        follower.run()
        until(f"{follower} to catch up", lambda f=follower: cluster.caught_up(f))


def miss_a_snapshot(cluster: Cluster, leader: Node) -> None:
    """Let a follower of the other kind miss what the leader then drops from its log.

    It mostly needs the leader's snapshot afterwards; not always, for messages that waited for it may bring enough.
    """
    follower = next(n for n in cluster.nodes if n.kind != leader.kind)
    follower.kill()
    missed = leader.status().last
    cluster.apply(SETTINGS["threshold"] + SETTINGS["trailing"] + 50)
    until("the leader's snapshot", lambda: snapshot_index(leader) > missed + SETTINGS["trailing"] + 1)
    follower.run()
    until(f"{follower} to catch up", lambda: cluster.caught_up(follower))


def assert_installed(node: Node) -> None:
    """The directory of a server begins with a snapshot that it cannot have taken itself."""
    assert snapshot_index(node) > 0
    segments = [name for name in node.files() if re.fullmatch(r"\d{16}-\d{16}", name)]
    assert "0000000000000001-0000000000000001" not in node.files()
    assert all(int(name[:16]) > 1 for name in segments), segments


def change_members(cluster: Cluster, leader: Node, workshop: Workshop, id: int) -> None:
    """Have a leader add a server of the other kind, send it its snapshot, promote it and remove it again."""
    fresh = workshop.node("py" if leader.kind == "c" else "c", id, **SETTINGS)
    fresh.run()
    leader.call("add", id, fresh.address)
    assert leader.status().configuration[id] == SPARE
    leader.call("assign", id, VOTER)
    assert leader.status().configuration[id] == VOTER
    cluster.nodes.append(fresh)
    cluster.apply(50)
    cluster.settle()
    assert_installed(fresh)
    leader.call("remove", id)
    cluster.nodes.remove(fresh)
    assert id not in leader.status().configuration
    fresh.kill()


@pytest.mark.parametrize("kinds", MEMBERS.values(), ids=MEMBERS.keys())
def test_both_kinds_lead_and_follow(workshop: Workshop, kinds: list[str]) -> None:
    """2,000 entries through leaders of both kinds, with kills, snapshots, membership changes and transfers between."""
    cluster = Cluster([workshop.node(kind, i + 1, **SETTINGS) for i, kind in enumerate(kinds)], seed=len(kinds))
    cluster.start()
    for turn, kind in enumerate(("c", "py", "c")):
        leader = cluster.lead(kind)
        assert leader.kind == kind
        cluster.apply(300)
        restart_followers(cluster, cluster.lead(kind))
        miss_a_snapshot(cluster, cluster.lead(kind))
        if turn < 2:
            change_members(cluster, cluster.lead(kind), workshop, 10 + turn)
    cluster.lead("py")
    cluster.lead("c")
    cluster.apply(max(0, 2000 - cluster.acknowledged))
    final = cluster.settle()
    assert final.count >= 2000
    for node in cluster.nodes:
        node.quit()


@pytest.mark.parametrize("kind", ["c", "py"])
def test_a_follower_refuses_what_only_a_leader_does(workshop: Workshop, kind: str) -> None:
    """Both kinds answer an apply on a follower with RAFT_NOTLEADER."""
    cluster = Cluster([workshop.node(k, i + 1, **SETTINGS) for i, k in enumerate(("c", "py", "py"))], seed=1)
    cluster.start()
    cluster.lead("py" if kind == "c" else "c")
    follower = next(n for n in cluster.nodes if n.kind == kind)
    with pytest.raises(Failed) as caught:
        follower.call("apply", "00" * 8)
    assert caught.value.code == 7


def test_a_c_follower_whose_snapshot_reaches_further_than_the_leaders_is_not_lost(workshop: Workshop) -> None:
    """A leader that knows nothing of it sends its own snapshot first; all that it then asks for is compacted there.

    Under a C leader such a C follower gets nothing any more, until another leads.
    """
    quick: dict[str, Any] = {"election": 300, "heartbeat": 50, "retry": 400, "trailing": 5, "install": 1000}
    leaders = [workshop.node("py", id, threshold=60, **quick) for id in (1, 2)]
    ahead = workshop.node("c", 3, threshold=6, **quick)
    cluster = Cluster([*leaders, ahead], seed=3)
    cluster.start()

    def is_ahead() -> bool:
        behind = [snapshot_index(node) for node in leaders]
        return min(behind) > 0 and oldest_closed(ahead) > max(behind) + 1

    # The leaders' second snapshot is due at 120. When C removes segments is a matter of how fast it has closed others.
    while not is_ahead():
        assert cluster.acknowledged < 115
        cluster.apply(1)
        # None may be left out because the one before is still being stored.
        until("the snapshot that is due", lambda: ahead.status().applied - snapshot_index(ahead) < 6)
    cluster.settle()
    for node in cluster.nodes:
        node.kill()
    assert is_ahead()
    for node in leaders:
        node.run()
    cluster.apply(3)

    def begins_anew() -> bool:
        leader = cluster.leader()
        return leader.result(leader.request("next", 3)) == (0, 1)

    until("a leader that has given up what it sent to the third server", begins_anew)
    ahead.run()
    cluster.settle()
    for node in cluster.nodes:
        node.quit()

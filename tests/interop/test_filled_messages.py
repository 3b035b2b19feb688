"""A leader of this project whose messages are full, and a C follower that has more in its log than they show."""

from typing import Any

import pytest

from tests.interop.driver import LEADER, Cluster, Node, Workshop, until
from tests.interop.relay import Relay

SETTINGS: dict[str, Any] = {"election": 3000, "heartbeat": 50, "retry": 100, "threshold": 10_000}
COMMON, LEFT_OVER, NEW = 60, 30, 40
PAYLOAD = 512


def apply(node: Node, n: int, word: bytes) -> list[int]:
    """Submit n commands, without waiting for them; return the numbers of the requests."""
    return [node.request("apply", (word * PAYLOAD)[:PAYLOAD].hex()) for _ in range(n)]


def leave_over(cluster: Cluster, ahead: Node, others: list[Node]) -> None:
    """Have one server store, as leader, what nobody else has, and stop it."""
    cluster.hand_to(ahead)
    cluster.acknowledged += sum(ahead.result(number)[0] == 0 for number in apply(ahead, COMMON, b"common.."))
    cluster.settle()
    for node in others:
        node.kill()
    last = ahead.status().last
    apply(ahead, LEFT_OVER, b"left-over")
    until("the leader to notice that it is alone", lambda: ahead.status().state != LEADER)
    assert ahead.status().last == last + LEFT_OVER
    ahead.kill()


@pytest.mark.parametrize("passed", [1, 3])
def test_what_is_acknowledged_with_a_c_servers_help_is_there_when_the_leader_is_gone(
    workshop: Workshop, passed: int
) -> None:
    """Only so many messages of 4 KiB reach it, from a leader that goes back through its log; then that one dies."""
    first, second = (workshop.node("py", id, append=4096, **SETTINGS) for id in (1, 2))
    ahead = workshop.node("c", 3, **SETTINGS)
    relay = Relay(ahead.address)
    ahead.known_as = relay.address
    port = int(relay.address.rpartition(":")[2])
    try:
        cluster = Cluster([first, second, ahead], seed=1)
        cluster.start()
        leave_over(cluster, ahead, [first, second])
        # From here on nobody listens for server 3, so that sends to it fail: the leader goes back to entry 1.
        relay.close()
        for node in (first, second):
            node.run()
        leader = cluster.leader()
        leader.call("barrier")
        other = second if leader is first else first
        until("the other one to have the barrier", lambda: other.status().commit == leader.status().commit)
        ahead.run()
        other.kill()
        numbers = apply(leader, NEW, b"new.....")
        relay = Relay(ahead.address, port, passed, COMMON)
        until("the leader to notice that it is alone", lambda: leader.status().state != LEADER)
        leader.kill()
        acknowledged = [number for number in numbers if leader.ended_well(number)]
        # If the leader gave up before it had gone back far enough, the relay still waits for that: no more.
        relay.filled = relay.below = 1 << 62
        other.run()
        final = cluster.settle()
        assert COMMON + len(acknowledged) <= final.count <= COMMON + NEW
        for node in (other, ahead):
            node.quit()
    finally:
        relay.close()

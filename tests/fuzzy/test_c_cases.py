"""The random cases of the C library's suite: latencies and election timeouts change after every event.

Each case runs for some seeds; `SEED` in the name of a failing test is the one to run again.
"""

import random
from collections.abc import Callable

import pytest

from pyraft import RAFT_STANDBY, RAFT_VOTER, fixture_io
from pyraft import fixture as fx
from tests.lib.cluster import Cluster
from tests.lib.covers import covers

SEEDS = range(3)
NewCluster = Callable[..., Cluster]


def is_append(request: fixture_io.Request | None) -> bool:
    return request is not None and request.kind == fixture_io.APPEND


def randomize(c: Cluster, seed: int) -> random.Random:
    """Draw all latencies and timeouts now, and those of the server concerned again after every event."""
    dice = random.Random(seed)

    def draw(i: int, type: int) -> None:
        r = c.raft(i)
        if type == fx.RAFT_FIXTURE_TICK:
            if r.election_timer_start == c.time:
                c.set_randomized(i, dice.randint(r.election_timeout, 2 * r.election_timeout))
        elif type == fx.RAFT_FIXTURE_DISK:
            # Writes of a server end in the order in which they began, as they do on a real disk.
            busy = (
                max((item[0] for item in c.f.timeline.heap if item[1] == i and is_append(item[3])), default=0) - c.time
            )
            c.set_disk_latency(i, dice.randint(max(10, busy), max(25, busy)))
        elif type == fx.RAFT_FIXTURE_NETWORK:
            c.set_network_latency(i, dice.randint(25, 50))

    for i in range(c.n):
        for type in (fx.RAFT_FIXTURE_TICK, fx.RAFT_FIXTURE_DISK, fx.RAFT_FIXTURE_NETWORK):
            draw(i, type)
    fx.raft_fixture_hook(c.f, lambda f, event: draw(event.server_index, event.type))
    return dice


def started(new_cluster: NewCluster, n: int, seed: int, pre_vote: bool = False) -> tuple[Cluster, random.Random]:
    c = new_cluster(n, pre_vote=pre_vote)
    c.bootstrap()
    dice = randomize(c, seed)
    c.start()
    return c, dice


def led(new_cluster: NewCluster, n: int, seed: int) -> Cluster:
    c, _ = started(new_cluster, n, seed)
    c.until_leader(10000)
    return c


def leader_of(c: Cluster) -> int:
    assert c.leader is not None
    return c.leader


def kill_leader(c: Cluster) -> None:
    c.kill(leader_of(c))
    c.until_no_leader(10000)


def kill_majority(c: Cluster) -> None:
    """Kill a majority of all servers, none of them the leader."""
    victims = [i for i in range(c.n) if i != c.leader][: c.n // 2 + 1]
    for i in victims:
        c.kill(i)


elections = pytest.mark.parametrize("pre_vote", [False, True], ids=["plain", "prevote"])
seeds = pytest.mark.parametrize("seed", SEEDS, ids=[f"seed{s}" for s in SEEDS])


@covers("election/win")
@seeds
@elections
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_a_leader_is_elected(new_cluster: NewCluster, n: int, pre_vote: bool, seed: int) -> None:
    """A cluster whose servers are all up has a leader within 10 s."""
    c, _ = started(new_cluster, n, seed, pre_vote)
    c.until_leader(10000)


@covers("election/change")
@seeds
@elections
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_a_dead_leader_is_replaced(new_cluster: NewCluster, n: int, pre_vote: bool, seed: int) -> None:
    """The others elect a new leader within 20 s."""
    c, _ = started(new_cluster, n, seed, pre_vote)
    c.until_leader(10000)
    kill_leader(c)
    c.until_leader(20000)


@covers("election/changeReviveOutdated")
@seeds
@elections
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_an_outdated_server_that_is_revived_helps_to_elect(
    new_cluster: NewCluster, n: int, pre_vote: bool, seed: int
) -> None:
    """A server that was dead all the time makes the majority again when the leader dies."""
    c, dice = started(new_cluster, n, seed, pre_vote)
    outdated = dice.randrange(n)
    c.kill(outdated)
    c.until_leader(20000)
    c.progress_times(2)
    kill_leader(c)
    c.revive(outdated)
    c.until_leader(20000)


@covers("election/noQuorum")
@seeds
@elections
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_without_a_majority_nobody_is_elected(new_cluster: NewCluster, n: int, pre_vote: bool, seed: int) -> None:
    """With most servers dead there is no leader, even after 30 s."""
    c, _ = started(new_cluster, n, seed, pre_vote)
    kill_majority(c)
    c.elapse(30000)
    assert c.leader is None


@covers("liveness/networkDisconnect")
@seeds
@elections
@pytest.mark.parametrize("n", [3, 4])
def test_commands_get_through_although_links_come_and_go(
    new_cluster: NewCluster, n: int, pre_vote: bool, seed: int
) -> None:
    """Any pair of servers is cut every now and then for 50 to 150 events; a command is applied nevertheless."""
    c, dice = started(new_cluster, n, seed, pre_vote)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    cut: dict[tuple[int, int], int] = {}
    for step in range(25000):
        for pair in pairs:
            if pair not in cut:
                if dice.randint(1, 10) == 1:
                    cut[pair] = step + dice.randint(50, 150)
                    c.cut(*pair)
            elif step > cut[pair]:
                del cut[pair]
                c.heal(*pair)
        c.step()
        if c.leader is not None:
            c.add_x(c.leader)
            if c.applied(c.leader) >= 2:
                break
    for pair in cut:
        c.heal(*pair)
    c.elapse(3000)  # The leader of the moment may be about to find out that it was cut off.
    c.until_leader(20000)
    c.progress()


@covers("membership/addNonVoting")
@seeds
@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_stand_by_is_added(new_cluster: NewCluster, n: int, seed: int) -> None:
    """A new server becomes a spare, then a stand-by, and applies what the others do."""
    c = led(new_cluster, n, seed)
    c.add_spare()
    c.until_applied(leader_of(c), 3, 2000)
    c.assign(leader_of(c), n + 1, RAFT_STANDBY)
    c.until_applied(c.n, 4, 2000)
    assert c.roles(leader_of(c))[n + 1] == RAFT_STANDBY


@covers("membership/addVoting")
@seeds
@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_voter_is_added(new_cluster: NewCluster, n: int, seed: int) -> None:
    """A new server catches up and becomes a voter."""
    c = led(new_cluster, n, seed)
    c.add_spare()
    c.until_applied(leader_of(c), 3, 2000)
    c.assign(leader_of(c), n + 1, RAFT_VOTER)
    c.until_applied(c.n, 4, 2000)
    assert c.roles(leader_of(c))[n + 1] == RAFT_VOTER


@covers("membership/removeVoting")
@seeds
@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_voter_is_removed(new_cluster: NewCluster, n: int, seed: int) -> None:
    """The leader removes another server."""
    c = led(new_cluster, n, seed)
    leader = leader_of(c)
    c.remove(leader, (leader + 1) % n + 1)
    c.until_applied(leader, 3, 2000)
    assert len(c.roles(leader)) == n - 1


@covers("replication/appendEntries")
@seeds
@pytest.mark.parametrize("n", [3, 5, 7])
def test_an_entry_reaches_all_servers(new_cluster: NewCluster, n: int, seed: int) -> None:
    """A command, at index 3, is applied everywhere within 2 s."""
    c = led(new_cluster, n, seed)
    c.add_x(leader_of(c))
    c.until_applied(n, 3, 2000)


@covers("replication/availability")
@seeds
@pytest.mark.parametrize("n", [3, 5, 7])
def test_the_next_leader_goes_on(new_cluster: NewCluster, n: int, seed: int) -> None:
    """After the leader died, its successor applies the next command, behind its own barrier at index 4."""
    c = led(new_cluster, n, seed)
    c.add_x(leader_of(c))
    c.until_applied(n, 3, 2000)
    kill_leader(c)
    c.until_leader(10000)
    c.add_x(leader_of(c))
    c.until_applied(leader_of(c), 5, 2000)


@covers("replication/noQuorum")
@seeds
@pytest.mark.parametrize("n", [3, 5, 7])
def test_without_a_majority_nothing_is_applied(new_cluster: NewCluster, n: int, seed: int) -> None:
    """A command given to a leader whose followers are dead is applied nowhere."""
    c = led(new_cluster, n, seed)
    c.add_x(leader_of(c))
    kill_majority(c)
    before = [c.applied(i) for i in range(n)]
    c.elapse(10000)
    assert max(before) <= 2
    assert all(c.applied(i) < 3 for i in range(n))


@covers("replication/partitioned")
@seeds
@pytest.mark.parametrize("n", [3, 5, 7])
def test_an_isolated_leaders_entry_is_not_applied(new_cluster: NewCluster, n: int, seed: int) -> None:
    """Cut from a majority, the leader commits nothing and steps down; healed, the cluster goes on."""
    c = led(new_cluster, n, seed)
    old = leader_of(c)
    others = [i for i in range(n) if i != old]
    gone = others[: n // 2 + 1]
    for i in gone:
        c.cut(old, i)
    lost = c.add_x(old)
    c.until_no_leader(10000)
    c.elapse(5000)
    assert not (lost.done and lost.status == 0)
    for i in gone:
        c.heal(old, i)
    c.until_leader(30000)
    c.progress()

"""Hostile and broken peers: a real cluster goes on while strangers do their worst, and nothing grows without bound."""

import gc
import os
import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from io_uv import encoding
from io_uv.pyuv import UV_RUN_NOWAIT, UV_RUN_ONCE, Loop
from io_uv.state import Limits
from pyraft import RAFT_UNAVAILABLE, raft_leader
from pyraft.types import RaftMessage
from tests.fuzzy import hostile
from tests.lib import messages as m
from tests.lib import solo
from tests.lib.peer import Connection, PeerServer, connect, handshake, port_of, words
from tests.lib.uvnode import Node, free_addresses, leader_of, make_nodes, settled
from tests.lib.uvtest import configuration, run_until

SEED = int(os.environ.get("HOSTILE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)


def test_hostile_bytes_do_no_harm() -> None:
    """Some thousand of the million inputs of `make fuzz`, others at every run."""
    print(f"seed {SEED}: HOSTILE_SEED={SEED} repeats this")
    print(hostile.run(20_000, SEED))


def test_a_snapshot_cannot_take_back_committed_entries() -> None:
    """Found by a run: a snapshot that ends before the commit index, in another term, made the commit index go back."""
    s = solo.Solo(terms=(1, 1, 1))
    s.recv(m.append_entries(2, 1, 4, 1, commit=4))
    assert s.r.commit_index == 4
    s.recv(m.install_snapshot(2, 7, 3, 7, solo.configuration(1, 1, 1), 1, bytes(16)))
    assert s.state == RAFT_UNAVAILABLE
    assert s.r.errmsg == "entry 3 is committed and contradicts the leader's"
    assert s.r.commit_index == 4
    assert s.io.puts == []


class Cluster:
    """Three servers on one loop, and strangers that connect to them."""

    def __init__(self, dir: Path) -> None:
        self.loop = Loop()
        self.nodes = make_nodes(dir, 3, self.loop)
        self.number = 0
        self.strangers: list[Connection] = []

    def leader(self) -> Node:
        """Turn the loop until there is a leader, and return it."""
        run_until(self.loop, lambda: leader_of(self.nodes) is not None)
        leader = leader_of(self.nodes)
        assert leader is not None
        return leader

    def commit(self, n: int = 1) -> None:
        """Have so many numbers committed, by whoever leads."""
        done = 0

        def step() -> bool:
            nonlocal done
            leader = leader_of(self.nodes)
            if leader is not None and leader.try_apply(self.number + 1) == 0:
                self.number += 1
                done += 1
            return done == n

        run_until(self.loop, step)

    def stranger(self, node: Node, id: int | None = None) -> Connection:
        """Connect to a server, and introduce oneself if there is an id."""
        peer = connect(self.loop, port_of(node.transport))
        if id is not None:
            peer.send(handshake(id, "127.0.0.1:1"))
        self.strangers.append(peer)
        return peer

    def check(self) -> None:
        """All servers have applied the same numbers, and every one that was acknowledged, in order."""
        self.commit()
        run_until(self.loop, lambda: all(node.fsm.numbers[-1:] == [self.number] for node in self.nodes))
        numbers = self.nodes[0].fsm.numbers
        assert all(node.fsm.numbers == numbers for node in self.nodes)
        # A number whose leader has lost its leadership may have been applied all the same, and again.
        assert list(dict.fromkeys(numbers)) == list(range(1, self.number + 1))

    def close(self) -> None:
        """Close everything."""
        for peer in self.strangers:
            peer.close()
        for node in self.nodes:
            node.close()
        self.loop.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with a leader."""
    made = Cluster(tmp_path)
    made.leader()
    yield made
    made.close()


def wire(message: RaftMessage) -> bytes:
    """Return a message's bytes."""
    return b"".join(bytes(buf) for buf in encoding.encode_message(message))


def test_slow_handshakes_keep_nobody_out(cluster: Cluster) -> None:
    """Connections that send a byte now and then are ended in time; meanwhile the cluster works and a peer gets in."""
    node = cluster.nodes[0]
    node.uv.limits.handshake_msecs = 300
    slow = [cluster.stranger(node) for _ in range(100)]
    hello = handshake(9, "127.0.0.1:1")
    for i in range(10):
        for peer in slow:
            if not peer.ended and peer.pump():
                peer.send(hello[i : i + 1])
        cluster.commit()
    node.uv.limits.handshake_msecs = 3_600_000  # of the slow ones the time is over, or will be
    late = cluster.stranger(node, 9)
    run_until(cluster.loop, lambda: any(server.id == 9 for server in node.uv.servers))
    for peer in slow:
        peer.wait_end()
        peer.close()
    late.close()
    transport = node.transport.impl
    run_until(cluster.loop, lambda: len(node.uv.servers) <= 2 and not transport.accepting and not transport.aborting)
    cluster.check()


def test_thousands_of_connections_are_bounded(cluster: Cluster) -> None:
    """However many connect and introduce themselves, a server keeps no more than the limit, and its peers stay."""
    node = cluster.leader()
    node.uv.limits.connections = 50
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    waves = 3000 // 100
    assert soft > 400, "this test opens 100 connections at a time"
    most = 0
    for wave in range(waves):
        peers = [cluster.stranger(node, 1000 + wave * 100 + i) for i in range(100)]
        for _ in range(10):
            cluster.loop.run(UV_RUN_NOWAIT)
        most = max(most, len(node.uv.servers) + len(node.transport.impl.accepting))
        for peer in peers[::2]:
            peer.close()
        if wave % 10 == 0:
            cluster.commit()
    assert most <= 100
    cluster.check()
    cluster.leader()


@pytest.mark.parametrize("what", ["header", "entries", "snapshot", "address"])
def test_giant_lengths_take_no_memory(cluster: Cluster, what: str) -> None:
    """Announcements of gigabytes, from many connections, are refused or cost nothing before the bytes come."""
    node = cluster.nodes[0]
    giant = Limits().payload
    conf = bytes(encoding.encode_message(m.install_snapshot(2, 1, 1, 1, configuration(), 1, b""))[0])
    data = {
        "header": words(1, (1 << 64) - 1),
        "entries": words(1, 64, 1, 0, 0, 0, 1, 1, 1 | (giant & ~7) << 32, 0)[:80] + bytes(1000),
        "snapshot": conf[:-16] + words(giant, 0) + bytes(1000),
        "address": b"",
    }[what]
    gc.collect()
    before = hostile.resident_kib()
    for i in range(100):
        peer = cluster.stranger(node, None if what == "address" else 100 + i)
        peer.send(words(1, 5, 1 << 40) if what == "address" else data)
    for _ in range(20):
        cluster.loop.run(UV_RUN_NOWAIT)
    cluster.commit(5)
    assert hostile.resident_kib() - before < 64 * 1024
    cluster.check()


def test_members_claims_of_old_terms_change_nothing(cluster: Cluster) -> None:
    """Stale messages in the name of a member, of every kind, are answered at most."""
    cluster.commit(3)
    leader = settled(cluster.nodes)
    term = leader.raft.current_term
    for node in cluster.nodes:
        other = next(id for id in node.members if id != node.id)
        peer = cluster.stranger(node, other)
        for message in (
            m.append_entries(other, term - 1, 1, 1, 1000),
            m.append_entries_result(other, term - 1, 1 << 40),
            m.request_vote(other, term - 1, 1 << 40, term - 1),
            m.request_vote_result(other, term - 1),
            m.install_snapshot(other, term - 1, 1000, term - 1, configuration(), 1, bytes(8)),
            m.timeout_now(other, term - 1, 1, 1),
        ):
            if term > 1:
                peer.send(wire(message))
    cluster.commit(3)
    cluster.check()
    assert cluster.leader() is leader
    assert leader.raft.current_term == term


def test_strangers_cannot_commit_or_elect(cluster: Cluster) -> None:
    """Acknowledgements and votes of servers that are not members count for nothing."""
    cluster.commit(3)
    leader = settled(cluster.nodes)
    term = leader.raft.current_term
    others = [node for node in cluster.nodes if node is not leader]
    for id in (77, 78, 79):
        peer = cluster.stranger(leader, id)
        peer.send(wire(m.append_entries_result(id, term, 1 << 40)))
        peer.send(wire(m.request_vote(id, term, 1 << 40, term)))
        for node in others:
            peer = cluster.stranger(node, id)
            peer.send(wire(m.request_vote_result(id, term)))
            # A leader is known, so even a higher term does not depose it (4.2.3).
            peer.send(wire(m.request_vote(id, term + 5, 1 << 40, term + 4)))
    for _ in range(20):
        cluster.loop.run(UV_RUN_NOWAIT)
    # Committed is what a majority has stored; the leader itself may be the one that has not yet (10.2.1).
    stored = sorted(node.raft.last_stored for node in cluster.nodes)
    assert leader.raft.commit_index <= stored[(len(stored) - 1) // 2]
    cluster.check()
    assert cluster.leader() is leader
    assert leader.raft.current_term == term


def test_a_stranger_with_a_higher_term_costs_an_election_only(cluster: Cluster) -> None:
    """The cluster elects a leader of a later term and loses nothing."""
    cluster.commit(3)
    leader = cluster.leader()
    term = leader.raft.current_term + 1000
    cluster.stranger(leader, 77).send(wire(m.append_entries_result(77, term, 1)))
    run_until(cluster.loop, lambda: leader.raft.current_term >= term)
    cluster.commit(3)
    cluster.check()


def test_noise_on_many_connections(cluster: Cluster) -> None:
    """Mangled messages in the name of nobody, hundreds of them, while the cluster works."""
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    good = hostile.corpus(rng)["connection"]
    for _ in range(300):
        node = rng.choice(cluster.nodes)
        peer = cluster.stranger(node)
        # Noise that would be believed does not count as noise: what claims to be entries or votes of the current term
        # can do harm over plain TCP, which protects nothing.
        data = handshake(99, "127.0.0.1:1") + words(rng.choice((0, 7, 8, 666)), 8, 1) + rng.choice(good)
        peer.send(data[: rng.randrange(1, len(data))])
        if rng.randrange(2):
            peer.reset() if rng.randrange(2) else peer.close()
            cluster.strangers.remove(peer)
        cluster.loop.run(UV_RUN_NOWAIT)
        if rng.randrange(20) == 0:
            cluster.commit()
    cluster.check()


def test_a_peer_that_stops_reading_costs_bounded_memory(tmp_path: Path) -> None:
    """A member accepts connections and never reads: the others commit a hundred megabytes, the leader stays small."""
    loop = Loop()
    members = free_addresses(3)
    deaf = PeerServer(loop, port=int(members[3].rpartition(":")[2]))
    nodes = []
    for id in (1, 2):
        (tmp_path / str(id)).mkdir()
        # Compaction keeps the log itself small.
        nodes.append(Node(tmp_path / str(id), id, members, loop).start(8 << 20, threshold=64))
        nodes[-1].uv.limits.queue = 4 << 20
    leader = settled(nodes)
    for i in range(20):
        assert leader.try_apply(i, 512 * 1024) == 0
    gc.collect()
    before = hostile.resident_kib()
    for i in range(200):
        assert leader.try_apply(i, 512 * 1024) == 0
    gc.collect()
    client = next(client for client in leader.uv.clients if client.id == 3)
    assert client.size <= 4 << 20
    grown = hostile.resident_kib() - before
    assert grown < 80 * 1024, f"grew by {grown} KiB"  # of a hundred MiB that were committed
    for node in nodes:
        node.close()
    deaf.close()
    loop.close()


def test_a_connection_whose_peer_vanished_is_watched(cluster: Cluster) -> None:
    """Both ends of every connection are probed by the kernel, so that half-open ones end."""
    cluster.commit()
    handles = [client.stream for node in cluster.nodes for client in node.uv.clients if client.stream is not None]
    handles += [server.stream for node in cluster.nodes for server in node.uv.servers]
    assert len(handles) >= 4
    for handle in handles:
        sock = socket.socket(fileno=handle.fileno())
        try:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        finally:
            sock.detach()
    assert raft_leader(cluster.nodes[0].raft)[0] != 0
    cluster.loop.run(UV_RUN_ONCE)

"""The effect of a flood of connections on the handshakes of honest peers, and how a server knows where these are."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyraft.types import RaftIoSend
from tests.lib import messages as m
from tests.lib.peer import Connection, Transport
from tests.lib.tlstest import Authority, Pair, tls_init

PEER, OTHER = "127.0.0.2", "127.0.0.3"
LIMIT = 4


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


class Target:
    """A server with room for four handshakes, at which a peer has proven itself from one host."""

    def __init__(self, authority: Authority) -> None:
        self.f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
        self.f.t.impl.limits.connections = LIMIT
        self.f.t.impl.limits.handshake_msecs = 3_600_000
        assert self.f.listen() == 0
        self.f.t.impl.gate.trust(PEER)
        self.connections: list[Connection] = []
        self.count = 0

    def connect(self, host: str) -> None:
        """Connect from a host of the loopback network, and say nothing."""
        sock = socket.socket()
        sock.bind((host, 0))
        sock.connect(("127.0.0.1", self.f.port))
        self.connections.append(Connection(self.f.loop, sock))
        self.count += 1
        name = sock.getsockname()
        self.f.run_until(lambda: any(i.stream.getpeername() == name for i in self.f.t.impl.accepting))

    def hosts(self) -> list[str]:
        """Return the hosts of the handshakes that are under way, the oldest first."""
        return [incoming.host for incoming in self.f.t.impl.accepting]

    def close(self) -> None:
        """Close everything."""
        self.f.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def target(authority: Authority) -> Iterator[Target]:
    target = Target(authority)
    yield target
    target.close()


def test_a_flood_from_many_hosts_does_not_push_out_peers_of_one(target: Target) -> None:
    """Two servers behind one address have more handshakes under way than any of the many; and are known."""
    target.connect(PEER)
    target.connect(PEER)
    for i in range(10):
        target.connect(f"127.0.1.{i + 1}")
    assert target.hosts() == [PEER, PEER, "127.0.1.9", "127.0.1.10"]


def test_a_flood_from_a_peers_host_pushes_out_its_own(target: Target) -> None:
    """A newcomer's from elsewhere stays, although nobody has proven himself there."""
    target.connect(OTHER)
    for _ in range(10):
        target.connect(PEER)
    assert target.hosts() == [OTHER, PEER, PEER, PEER]


def test_a_flood_from_a_strange_host_pushes_out_its_own(target: Target) -> None:
    """Other strangers have their chance."""
    target.connect(PEER)
    target.connect("127.0.1.1")
    for _ in range(10):
        target.connect(OTHER)
    assert target.hosts() == [PEER, "127.0.1.1", OTHER, OTHER]


def test_a_server_that_was_reached_is_known_when_it_calls(authority: Authority, pair: Pair) -> None:
    """So a flood that comes right after a restart does not find all hosts equally strange."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    gate = one.transport.impl.gate
    assert list(gate.hosts) == []
    one.wait(one.send_to(two, m.timeout_now(1, 3, 10, 2)))
    assert list(gate.hosts) == ["127.0.0.1"]


def test_a_server_that_is_not_the_one_meant_is_not_known(authority: Authority, pair: Pair) -> None:
    """It has proven nothing that helps."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    three = pair.add(3, tls_init(authority, "three", "raft-server-3"))
    message = m.timeout_now(1, 3, 10, 2)
    message.server_id, message.server_address = 2, three.listens_at
    assert one.io.send(one.io, RaftIoSend(), message, lambda req, status: None) == 0
    pair.run_until(lambda: any("does not name server 2" in text for text in one.traces))
    assert list(one.transport.impl.gate.hosts) == []

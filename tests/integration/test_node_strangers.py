"""Members of other clusters, and members that live where another one did, are refused on raft's own connections."""

import asyncio
import logging
import socket
import struct
from pathlib import Path

import pytest

from io_uv import tcp_common
from pyraft import RAFT_SPARE
from pyraft.node import Node, init
from pyraft.node.greeting import Greeting
from pyraft.node.identity import JOINED, Identity, new_cluster, new_id, read, write
from tests.lib.nodes import QUICK, Nodes, Shop, run, until

CLUSTER, OTHER = "0123456789abcdef" * 2, "f" * 32


def test_libraft_reads_the_handshake_as_its_own() -> None:
    """Words 1 and id, the length, and an address that ends before what we add; older servers take it in any pieces."""
    data = Greeting(CLUSTER, 7).introduce(7, "10.0.0.1:9001", 9)
    word, id, size = struct.unpack_from("<3Q", data)
    assert (word, id, size) == (1, 7, len(data) - 24)
    assert size % 8 == 0
    assert data[24:].split(b"\0")[0] == b"10.0.0.1:9001"
    for step in (1, 3, len(data) + 5):
        reader = tcp_common.Handshake(4096)
        sent = data + b"more"
        done = [reader.feed(sent[at : at + step]) for at in range(0, len(sent), step)]
        assert any(done)
        assert (reader.id, reader.address) == (7, "10.0.0.1:9001")


@pytest.mark.parametrize("address", ["a:1", "10.0.0.1:9001", "name-of-15-bytes:9", "[::1]:65535"])
def test_peers_are_those_of_the_cluster_that_mean_us(address: str) -> None:
    """Others are refused with a reason that names both; those that say nothing are let in."""
    right = Greeting(CLUSTER, 9)

    def fed(data: bytes, by: Greeting = right) -> bool:
        return by.reader(4096).feed(data)

    assert fed(Greeting(CLUSTER, 7).introduce(7, address, 9))
    assert fed(right.encode(7, address))
    assert fed(tcp_common.encode_handshake(7, address))
    assert fed(tcp_common.encode_handshake(7, address, b"something else, that comes later"))
    with pytest.raises(ValueError, match=f"server 7 at .* is of cluster {OTHER}, and this one is of {CLUSTER}"):
        fed(Greeting(OTHER, 7).introduce(7, address, 9))
    with pytest.raises(ValueError, match="calls server 8, and here is server 9 now"):
        fed(Greeting(CLUSTER, 7).introduce(7, address, 8))


def told(caplog: pytest.LogCaptureFixture, *texts: str) -> bool:
    """Return whether a line of the log has all of that."""
    return any(all(text in record.getMessage() for text in texts) for record in caplog.records)


def test_another_cluster_at_a_members_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its member refuses the calls that were meant for the one before; its term stays, and both ends log why."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            one, two = await cluster.grow(2)
            address = two.address
            await cluster.vanish(2)
            await until(lambda: told(caplog, f"server {two.id} at {address} cannot be reached", "refused"))
            await init(tmp_path / "other", address)
            async with Node(tmp_path / "other", Shop(), settings=QUICK) as other:
                await other.machine.put("apple")
                term = other.server.raft.current_term
                await until(lambda: told(caplog, "is not let in", f"is of cluster {one.cluster}", other.cluster))
                await until(
                    lambda: told(
                        caplog, f"server {two.id} at {address}", "cannot be reached", "the peer says", "cluster"
                    )
                )
                await asyncio.sleep(0)
                assert other.server.raft.current_term == term
                assert await other.machine.put("apple") == 2
                assert not other._service.visitors
            await cluster.start(2)
            assert await one.machine.put("pear") == 1
            await until(lambda: told(caplog, f"server {two.id} at {address} is reached"))

    with caplog.at_level(logging.WARNING):
        run(scenario)


def test_a_new_member_where_an_old_one_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its directory was wiped: calls for the old id are refused, so the new one does nothing in its name."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            one, two = await cluster.grow(2)
            await cluster.vanish(2)
            own = Identity(new_id(), two.address, one.cluster, JOINED, (one.address,))
            (tmp_path / "wiped").mkdir()
            write(tmp_path / "wiped", own)
            async with Node(tmp_path / "wiped", Shop(), settings=QUICK) as new:
                text = f"calls server {two.id}, and here is server {own.id} now"
                await until(lambda: told(caplog, "is not let in", text))
                await until(lambda: told(caplog, f"server {two.id} at {two.address}", "cannot be reached", text))
                assert new.server.raft.last_stored == 0
                assert all(s.role == RAFT_SPARE for s in new.server.raft.configuration.servers)

    with caplog.at_level(logging.WARNING):
        run(scenario)


def test_a_refused_peer_is_left_time_to_read_why(tmp_path: Path) -> None:
    """The reason comes before the end of the connection, also to one that has sent messages meanwhile; a peer that
    does not read it is dropped when the time for handshakes is over.
    """

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            (node,) = await cluster.grow(1)
            host, _, port = node.address.rpartition(":")
            greeting = Greeting(new_cluster(), 7).introduce(7, "127.0.0.1:1", node.id)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(greeting + bytes(100_000))
            answer = b""
            while (text := tcp_common.decode_answer(answer)) is None:
                answer += await reader.read(4096)
            assert text.startswith("the peer says: server 7 at 127.0.0.1:1 is of cluster ")
            writer.close()
            # One that says nothing of a cluster, and is nonsense, is closed at once, and is told nothing.
            sock = socket.create_connection((host, int(port)))
            sock.sendall(struct.pack("<3Q", 1, 0, 8))
            assert await asyncio.get_running_loop().run_in_executor(None, sock.recv, 10) == b""
            sock.close()
            assert read(tmp_path / "1") is not None

    run(scenario)

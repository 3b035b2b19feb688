"""Programs that are not members, sessions with numbers of one's own, and TLS on all connections."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from io_uv.credentials import Files
from pyraft.node import (
    Client,
    Node,
    Refused,
    SessionExpired,
    Stopped,
    Tls,
    Unavailable,
    Unknown,
    connect,
    init,
    join,
    wire,
)
from pyraft.node.link import Link
from tests.lib.nodes import LOOPS, PATIENT, QUICK, Nodes, Shop, all_of, run, until
from tests.lib.tlstest import Authority
from tests.lib.uvnode import free_addresses

loops = pytest.mark.parametrize("kind", LOOPS)


@loops
def test_client_of_three_nodes(tmp_path: Path, kind: str) -> None:
    """A client that knows one member that does not lead, and an address where nobody is, has calls and queries done."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(3)
            addresses = [cluster.addresses[9], cluster.followers()[0].address]
            async with connect(addresses, Shop(), name="web") as client:
                shop = client.machine
                assert await shop.put("apple", n=3) == 3
                assert await shop.left("apple") == 3
                assert await shop.all() == {"apple": 3}
                with pytest.raises(LookupError, match="pear"):
                    await shop.take("pear")
                with pytest.raises(RuntimeError, match="only in its commands"):
                    await shop.spoil()
                with pytest.raises(TypeError, match=r"put\(\) missing a required argument: 'item'"):
                    await shop.put()  # type: ignore[call-arg]
                with pytest.raises(TypeError, match="argument"):
                    await shop.left()  # type: ignore[call-arg]
                assert sorted(await all_of(*[shop.put("plum") for _ in range(300)])) == list(range(1, 301))
                assert {m.id for m in await client.members()} == {node.id for node in cluster.nodes.values()}
                assert await cluster.followers()[0].machine.left("plum") == 300
            with pytest.raises(Stopped, match="the client is closed"):
                await shop.put("apple")
            with pytest.raises(Stopped, match="the client is closed"):
                await shop.left("apple")
            with pytest.raises(Stopped):
                await client.members()

    run(scenario, kind)


def test_client_survives_the_loss_of_leaders(tmp_path: Path) -> None:
    """While leaders go without a word, every call of a client counts exactly once."""

    async def scenario() -> None:
        async with Nodes(tmp_path, settings=QUICK) as cluster:
            await cluster.grow(3)
            addresses = [node.address for node in cluster.nodes.values()]
            async with connect(addresses, Shop()) as client:
                done = 0

                async def load() -> None:
                    nonlocal done
                    while True:
                        await client.machine.put("apple")
                        done += 1

                clients = [asyncio.ensure_future(load()) for _ in range(4)]
                for _ in range(3):
                    before = done
                    await until(lambda before=before: done > before + 50)
                    lost, _ = await cluster.leading()
                    await cluster.vanish(lost)
                    before = done
                    await until(lambda before=before: done > before + 50)
                    await cluster.start(lost)
                assert not any(task.done() for task in clients)
                before = done  # more are done while the answer is on its way
                count = await client.machine.left("apple")
                assert before <= count <= done + 4
                for task in clients:
                    task.cancel()
                await asyncio.wait(clients)

    run(scenario)


def test_client_without_a_cluster(tmp_path: Path) -> None:
    """Where nobody is, calls were not sent and queries are unavailable, in time; wrong arguments are refused."""

    async def scenario() -> None:
        async with connect([free_addresses(1)[1]], Shop()) as client:
            with client.timeout(0.2), pytest.raises(Unknown, match=r"will not be: .* connection to a member") as caught:
                await client.machine.put("apple")
            assert not caught.value.sent
            with client.timeout(0.2), pytest.raises(Unavailable, match="connection to a member"):
                await client.machine.left("apple")
        for addresses in ("127.0.0.1:1", ()):
            with pytest.raises(ValueError, match="list of HOST:PORT"):
                connect(addresses, Shop())
        for address in ("127.0.0.1", "127.0.0.1:http", ":1", "127.0.0.1:65536"):
            with pytest.raises(ValueError, match="is not of the form HOST:PORT"):
                connect([address], Shop())
            with pytest.raises(Refused, match="is not of the form HOST:PORT"):
                await join(tmp_path / "joining", "127.0.0.1:1", address)
        wrong: Any
        for wrong in (1, ["127.0.0.1:1"]):
            with pytest.raises(ValueError, match="is not an address"):
                connect([wrong], Shop())
            with pytest.raises(Refused, match="is not an address"):
                await join(tmp_path / "joining", "127.0.0.1:1", wrong)

    run(scenario)


def test_numbered_calls_count_once(tmp_path: Path) -> None:
    """A call with a name and number counts once, from whichever program, until it is acknowledged."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            one = await cluster.start(1)
            two = await cluster.start(2)
            async with connect([one.address], Shop()) as client:
                first = one.session("orders")
                assert await first.call(1, one.machine.put, "apple", n=2) == 2
                assert await two.session("orders").call(1, two.machine.put, "apple", n=2) == 2
                assert await client.session("orders").call(1, client.machine.put, "apple", n=2) == 2
                assert await client.session("others").call(1, client.machine.put, "apple") == 3
                assert await one.machine.left("apple") == 3
                assert await all_of(*[first.call(7, one.machine.put, "plum") for _ in range(20)]) == [1] * 20
                with pytest.raises(LookupError):
                    await first.call(8, one.machine.take, "pear")
                await one.machine.put("pear")
                with pytest.raises(LookupError):
                    await first.call(8, one.machine.take, "pear")  # as the first time
                first.acknowledged = 8
                assert await first.call(9, one.machine.put, "apple") == 4
                with pytest.raises(ValueError, match="follow those acknowledged"):
                    await first.call(8, one.machine.put, "apple")
                with pytest.raises(SessionExpired, match="was acknowledged"):
                    await two.session("orders").call(1, two.machine.put, "apple")
                for name in ("", "x" * 64):
                    with pytest.raises(ValueError, match="name of a session"):
                        one.session(name)
            assert await one.machine.all() == {"apple": 4, "plum": 1, "pear": 1}

    run(scenario)


@loops
def test_tls_on_all_connections(tmp_path: Path, kind: str) -> None:
    """Three nodes and a client have certificates; without, or with those of others, there is no way in."""
    authority, stranger = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    files = Tls(*authority.issue("node", "127.0.0.1"), authority.path)
    wrong = Tls(*stranger.issue("stranger", "127.0.0.1"), stranger.path)
    named = Tls(*authority.issue("named", "example.org"), authority.path)

    async def scenario() -> None:
        addresses = free_addresses(3)
        await init(tmp_path / "1", addresses[1])
        nodes = [Node(tmp_path / "1", Shop(), settings=PATIENT, tls=files)]
        await nodes[0].__aenter__()
        try:
            for tls in (None, wrong):
                with pytest.raises(Unavailable):
                    await join(tmp_path / "2", addresses[2], addresses[1], timeout_seconds=0.5, tls=tls)
                with pytest.raises(Unknown):
                    await put(connect([addresses[1]], Shop(), tls=tls))
            await join(tmp_path / "2", addresses[2], addresses[1], tls=files)
            nodes.append(Node(tmp_path / "2", Shop(), settings=PATIENT, tls=files))
            await nodes[1].__aenter__()
            assert await nodes[1].machine.put("apple") == 1
            assert await nodes[1].machine.left("apple") == 1
            async with connect([addresses[2]], Shop(), tls=named) as client:  # a client's name does not matter
                assert await client.machine.put("apple") == 2
                assert await client.machine.left("apple") == 2
        finally:
            for node in reversed(nodes):
                await node._close()  # the last one would look for somebody to lead

    async def put(client: Client[Shop]) -> None:
        async with client:
            with client.timeout(0.5):
                await client.machine.put("apple")

    run(scenario, kind)


def test_member_with_the_certificate_of_another(tmp_path: Path) -> None:
    """A certificate of the right authority that names another host is not that of the member that was meant."""
    authority = Authority(tmp_path, "ca")
    files = Tls(*authority.issue("node", "127.0.0.1"), authority.path)
    named = Files(*authority.issue("named", "example.org"), authority.path, None)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(wire.pack(wire.WELCOME, wire.VERSION, "c", 1))
        await reader.read()
        writer.transport.abort()

    async def scenario() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=named.load()[0])
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Refused, match=r"the certificate at .* is that of example\.org"):
            await Link.open(f"127.0.0.1:{port}", "c", secure=files.context())
        server.close()
        await server.wait_closed()

    run(scenario)


@pytest.mark.parametrize("kind", LOOPS)
def test_certificates_are_renewed_while_nodes_run(tmp_path: Path, kind: str) -> None:
    """Behind the authority's end, with files of another one in their places, members and clients go on, and those with
    the old ones get in no more; files of no use change nothing.
    """
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    cert, key, ca = tmp_path / "node.pem", tmp_path / "node.key", tmp_path / "ca.pem"

    def put(authority: Authority) -> None:
        for source, target in zip(
            (*authority.issue("node", "127.0.0.1"), authority.path), (cert, key, ca), strict=True
        ):
            target.write_bytes(Path(source).read_bytes())

    async def scenario() -> None:
        addresses = free_addresses(2)
        await init(tmp_path / "1", addresses[1])
        async with Node(tmp_path / "1", Shop(), settings=QUICK, tls=files) as one:
            await join(tmp_path / "2", addresses[2], addresses[1], tls=files)
            two = Node(tmp_path / "2", Shop(), settings=QUICK, tls=files)
            async with two, connect([addresses[1]], Shop(), tls=files) as client:
                assert await two.machine.put("apple") == 1
                assert await client.machine.put("apple") == 2
                stale = Tls(*old.issue("stale", "127.0.0.1"), old.path)
                ca.write_text("nonsense")
                for owner in (one, two, client):
                    with pytest.raises(Refused):
                        owner.reload_certificates()
                assert await two.machine.put("apple") == 3
                put(new)
                for owner in (one, two, client):
                    owner.reload_certificates()
                assert await two.machine.put("apple") == 4
                assert await one.machine.put("apple") == 5
                assert await client.machine.put("apple") == 6
                async with connect([addresses[1]], Shop(), tls=stale) as late:
                    with late.timeout(0.5), pytest.raises(Unknown):
                        await late.machine.put("apple")
                for node in (one, two):
                    peer = node._route._link
                    assert peer is None or peer._secure is not None
        async with Node(tmp_path / "3", Shop()) as plain:
            with pytest.raises(Refused, match="no certificates"):
                plain.reload_certificates()

    put(old)
    files = Tls(cert, key, ca)

    async def prepared() -> None:
        await init(tmp_path / "3", free_addresses(1)[1])
        await scenario()

    run(prepared, kind)


def test_tls_files_of_no_use(tmp_path: Path) -> None:
    """Files that are missing are refused with their names when a node or client starts, and nothing else happens."""
    bad = Tls(tmp_path / "no.pem", tmp_path / "no.key", tmp_path / "no-ca.pem")

    async def scenario() -> None:
        await init(tmp_path / "1", free_addresses(1)[1])
        with pytest.raises(Refused, match=r"no\.pem"):
            async with Node(tmp_path / "1", Shop(), tls=bad):
                pass
        with pytest.raises(Refused, match=r"no\.pem"):
            async with connect(["127.0.0.1:1"], Shop(), tls=bad):
                pass

    run(scenario)


def test_a_query_that_a_closing_member_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    """In a rolling restart no query may fail: that the member closes is nothing that the client did wrong."""

    async def scenario() -> None:
        async with Nodes(tmp_path) as cluster:
            await cluster.grow(1)
            (node,) = cluster.nodes.values()
            answers = dict(node._service.answers)
            refused: list[str] = []

            async def closing(machine: str, name: str, arguments: bytes) -> bytes:
                if len(refused) < 2:
                    refused.append(name)
                    raise Stopped("the node is closed")
                answer: bytes = await answers["query"](machine, name, arguments)
                return answer

            node._service.answers = {**answers, "query": closing}
            async with connect([node.address], Shop()) as client:
                assert await client.machine.all() == {}
            assert refused == ["all", "all"]

    run(scenario, "asyncio")

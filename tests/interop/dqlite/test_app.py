"""Members of this project among go-dqlite's apps, with TLS and without: joining, role management, losing any node."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from io_uv.dqlite import requests, responses
from pyraft.dqlite import Client, Unavailable, Unknown, dial_tls, store
from pyraft.dqlite.peer import dial_tcp
from pyraft.node import Tls
from tests.interop.dqlite.driver import FREQUENCY, Files, Node
from tests.interop.dqlite.driver import Cluster as Nodes
from tests.interop.dqlite.test_witness import CREATE, INSERT, check
from tests.interop.driver import until
from tests.lib.tlstest import shared_certificate


@pytest.fixture(params=["plain", "TLS"])
def apps(request: pytest.FixtureRequest, cluster: Callable[..., Nodes], tmp_path: Path) -> Nodes:
    """A cluster of apps, without TLS and with one certificate for all."""
    made = cluster()
    if request.param == "TLS":
        made.tls = Files(*shared_certificate(tmp_path, "cluster"), "cluster.example")
    return made


def ask(node: Node, line: str) -> str:
    """Have an app do something."""
    assert node.lines is not None
    return node.lines.ask(line)


def roles(app: Node) -> dict[str, str]:
    """Return the members' roles by address, as an app sees them."""
    return {address: role for _, address, role in (one.split() for one in ask(app, "cluster").split(";"))}


def start(*nodes: Node) -> None:
    """Start nodes one after the other."""
    for node in nodes:
        node.start()


def client_of(apps: Nodes) -> Client:
    """Return a client of ours."""
    nodes = [one.address for one in apps.nodes]
    if apps.tls is None:
        return Client(nodes, "test.db", timeout_seconds=60)
    files = Tls(apps.tls.certificate, apps.tls.key, apps.tls.certificate)
    return Client(nodes, "test.db", timeout_seconds=60, dial=dial_tls(files))


async def rows(apps: Nodes, *values: str) -> int:
    """Have rows, of which there are none yet, inserted by a client of ours; return how many there are.

    A leader that loses the leadership leaves it unknown whether it has inserted one: the next one knows.
    """
    async with client_of(apps) as client:
        for value in values:
            done = False
            while not done:
                with contextlib.suppress(Unknown):
                    await client.execute("insert into t(b) values(?)", value)
                [[n]] = await client.query("select count(*) from t where b = ?", value)
                done = n == 1
        [[n]] = await client.query("select count(*) from t")
    assert isinstance(n, int)
    return n


def test_two_apps_and_a_witness_lose_any_one(apps: Nodes, tmp_path: Path) -> None:
    """The apps' role management makes all three voters and leaves it at that; each is killed in turn and comes back."""
    first, second, witness = apps.app(), apps.app(), apps.python()
    start(first, second, witness)
    ask(first, CREATE)
    until("three voters", lambda: set(roles(first).values()) == {"voter"} and len(roles(first)) == 3)
    n = 0
    for node in (first, second, witness):
        node.kill()
        n += 1
        assert asyncio.run(rows(apps, f"{n}")) == n
        node.start()
    other = second if first.lines is None else first
    assert ask(other, f"load 10 {INSERT}") is not None
    assert asyncio.run(rows(apps)) >= n + 10
    until("three voters", lambda: set(roles(first).values()) == {"voter"})
    total = asyncio.run(rows(apps))
    check(apps.until_equal([first, second, witness]), tmp_path, total)
    assert {one.address for one in store.read_cluster(str(witness.dir))} <= {one.address for one in apps.nodes}


def until_roles(app: Node, expected: dict[Node, str], seconds: float = 120.0) -> None:
    """Wait until the members have these roles, and keep them while role management looks ten times.

    On a busy machine it takes a node for lost that does not answer within 2 s, and moves roles to and fro.
    """
    wanted = {node.address: role for node, role in expected.items()}
    since = time.monotonic()

    def settled() -> bool:
        nonlocal since
        if {address: role for address, role in roles(app).items() if address in wanted} != wanted:
            since = time.monotonic()
        return time.monotonic() > since + 10 * FREQUENCY / 1000

    until(f"the roles {list(expected.values())}", settled, seconds)


def test_a_witness_stays_one(apps: Nodes) -> None:
    """It is demoted while it is away, and asks for its vote when it is back; two of the apps vote besides then."""
    first, second, witness = apps.app(), apps.app(), apps.python()
    start(first, second, witness)
    until_roles(first, dict.fromkeys((first, second, witness), "voter"))
    third = apps.app()
    third.start()
    until("three of four vote", lambda: sorted(roles(first).values()) == ["stand-by", *["voter"] * 3])
    witness.kill()
    until_roles(first, {first: "voter", second: "voter", third: "voter", witness: "spare"})
    witness.start()
    until("its vote", lambda: roles(first)[witness.address] == "voter")
    until("three of four vote", lambda: sorted(roles(first).values()) == ["stand-by", *["voter"] * 3])
    until_roles(first, {witness: "voter"})


def test_a_standby_is_promoted_last(apps: Nodes) -> None:
    """Of two nodes without a vote the app is made a voter, as its weight is lower, then ours where nobody is left."""
    first, second, third = apps.app(), apps.app(), apps.app()
    start(first, second, third)
    until_roles(first, dict.fromkeys((first, second, third), "voter"))
    standby = apps.python("standby")
    fourth = apps.app()
    start(standby, fourth)
    until("two stand-bys", lambda: sorted(roles(first).values()) == [*["stand-by"] * 2, *["voter"] * 3])
    voters = [node for node in (second, third, fourth) if roles(first)[node.address] == "voter"]
    [spare] = {second, third, fourth} - set(voters)
    voters[0].kill()
    until_roles(first, {spare: "voter", standby: "stand-by", voters[0]: "spare"})
    voters[1].kill()
    until_roles(first, {standby: "voter", voters[1]: "spare"})


def test_strangers_are_not_let_in(cluster: Callable[..., Nodes], tmp_path: Path) -> None:
    """With a certificate of their own, or none, nobody is a client or a member."""
    apps = cluster()
    apps.tls = Files(*shared_certificate(tmp_path, "cluster"), "cluster.example")
    first, witness = apps.app(), apps.python()
    start(first, witness)
    other = Files(*shared_certificate(tmp_path, "other"), "cluster.example")

    async def refused(address: str, files: Files | None) -> None:
        dial = dial_tcp if files is None else dial_tls(Tls(files.certificate, files.key, files.certificate))
        async with Client([address], "test.db", timeout_seconds=1, dial=dial) as client:
            with pytest.raises(Unavailable):
                await client.query("select 1")

    for address in (first.address, witness.address):
        for files in (other, None):
            asyncio.run(refused(address, files))
    assert first.ask(requests.Leader()) == responses.Server(3297041220608546238, first.address)

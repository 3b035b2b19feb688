"""Mistakes against handles, clients, dqlite, directories, pages and figures, in the manner of wrong_core.py.

Nobody runs this; test_type_checkers.py has mypy and pyright read it.
"""

from io_uv import RaftUvTransport, datadir, pyuv
from io_uv.state import Uv
from pyraft import Raft, RaftApply, RaftConfiguration, RaftFsm, RaftIo, dqlite, metrics, page, raft_apply
from pyraft.node import Client, Machine, Node, Settings, Tls, command, connect, join, offer_status, query
from pyraft.node.testing import Cluster, check_deterministic, simulate

raft, disk, plain, transport, loop = Raft(), RaftIo(), RaftFsm(), RaftUvTransport(), pyuv.Loop()


class Shop(Machine):
    """A machine."""

    def __init__(self) -> None:
        self.sold = 0

    @command
    def sell(self, n: int) -> int:
        self.sold += n
        return self.sold

    @query
    def count(self) -> int:
        return self.sold


class Sink:
    """Has a method that looks like a callback of raft_apply, and takes one parameter less."""

    def done(self, req: RaftApply, status: int) -> None:
        """Take no result."""


# Callbacks that are methods, and results that are taken for others.

raft_apply(raft, RaftApply(), [b"x"], 1, Sink().done)  # wrong
raft_apply(raft, RaftApply(), [b"x"], 1, Sink.done)  # wrong
raft_apply(raft, RaftApply(), (b"x" for _ in range(1)), 1, None)  # wrong
disk.load = lambda io: (0, 1, 0, None, 1, [b"entry"])  # wrong
disk.set_vote = None  # wrong
disk.version = "2"  # wrong
plain.apply_batch = lambda fsm, bufs: (0, None)  # wrong
plain.snapshot = None  # wrong
RaftConfiguration().servers.append("127.0.0.1:9001")  # wrong

# Fields of io_uv's own state.


def inside(uv: Uv) -> None:
    """Mistakes that a change of io_uv could make."""
    uv.clients.append(loop)  # wrong
    uv.append_next_index = None  # wrong
    uv.append_segments.append(1)  # wrong
    uv.metadata.term = "1"  # wrong
    uv.send_start = 3  # wrong
    uv.transport = disk  # wrong
    uv.lop = loop  # wrong
    uv.close_cb = lambda: None  # wrong


# Handles of nodes and clients.


async def handles(node: Node[Shop], client: Client[Shop]) -> None:
    """Right and wrong uses of maps, counters, sets, queues and locks."""
    number: int = await node.counter("hits").add(3)
    number = await client.machine.sell(number)
    revision: int = await client.map("users").set("key", {"any": "value"}, ttl=3.0)
    await node.map("users").delete("key", revision=revision)
    await node.counter("hits").add("3")  # wrong
    await node.counter(3).get()  # wrong
    await node.map("users").set(1, "value")  # wrong
    await node.map("users").set("key", "value", ttl="3")  # wrong
    await node.map("users").set("key", "value", 3.0)  # wrong
    text: str = await node.map("users").revision("key")  # wrong
    print(text)
    for _event in node.map("users").watch():  # wrong
        pass
    with node.lock("cron"):  # wrong
        pass
    node.lock("cron", ttl="10")  # wrong
    node.semaphore("doors")  # wrong
    node.barrier("start", "3")  # wrong
    await node.elect("boss", lambda: 3)  # wrong
    await node.queue("jobs").take(1)  # wrong
    async with node.read(stale=1.0):  # wrong
        pass
    with node.read(stale="1"):  # wrong
        pass
    node.staleness().upper()  # wrong
    await node.tell()  # wrong
    await client.machine.sell("one")  # wrong
    await client.machine.count(1)  # wrong
    client.map()  # wrong
    connect("10.0.0.1:9001")  # wrong
    connect([("10.0.0.1", 9001)], Shop())  # wrong
    connect(["10.0.0.1:9001"], Shop)  # wrong
    await join("data/2")  # wrong
    offer_status(disk, transport, raft)  # wrong
    Node("data/1", Shop(), Settings())  # wrong
    Node("data/1", Shop(), tls="cert.pem")  # wrong
    Tls("cert.pem")  # wrong


# Tests of machines.


async def scenario(cluster: Cluster[Shop]) -> None:
    """Sell on a cluster."""
    cluster.nodes.upper()  # wrong


simulate(Shop(), scenario)  # wrong
check_deterministic(Shop(), [])  # wrong
check_deterministic(Shop, ["sell"])  # wrong

# Clusters of dqlite.


async def databases() -> None:
    """Right and wrong uses of a client of dqlite."""
    client = dqlite.Client(["10.0.0.1:9001"], "shop.db")
    [[n]] = await client.query("select n from stock where item = ?", "apple")
    print(n)
    await client.execute_many("insert into t values(?)", [(1,), ("a",)])
    await client.execute_many("insert into t values(?)", [1, 2])  # wrong
    dqlite.LxdTls.of("/var/lib/lxd")
    dqlite.LxdTls("server.crt")  # wrong
    dqlite.Member("data/1", "10.0.0.1:9001").reload_certificates()
    dqlite.Member("data/1", "10.0.0.1:9001").reload_certificates("cluster.crt")  # wrong
    dqlite.Client(["10.0.0.1:9001"])  # wrong
    dqlite.Client([("10.0.0.1", 9001)], "shop.db")  # wrong
    dqlite.Client(["10.0.0.1:9001"], "shop.db", size="8")  # wrong
    await client.execute("insert into stock values(?)", ["apple"])  # wrong
    await client.execute(b"select 1")  # wrong
    (await client.query("select 1")).rows[0].upper()  # wrong
    client.transaction().execute("select 1")  # wrong
    async with client.transaction() as transaction:
        await transaction.query()  # wrong
        transaction.rollback()  # wrong
    await dqlite.Cluster(["10.0.0.1:9001"]).add("10.0.0.2:9001", 2)  # wrong
    await dqlite.Cluster(["10.0.0.1:9001"]).assign(2, "voter")  # wrong
    dqlite.Member("data/3", 9001)  # wrong
    dqlite.Replica("data/4", "10.0.0.4:9001", join="10.0.0.1:9001").databases.keys().sort()  # wrong


# Directories, figures and pages.


async def operations(node: Node[Shop]) -> None:
    """Right and wrong uses of what operators have."""
    datadir.hold(3)  # wrong
    with datadir.hold("data/1") as held:
        held.close()  # wrong
    datadir.read("data/1").trem  # wrong
    datadir.repair("data/1", apply="yes")  # wrong
    datadir.entries("data/1", "1")  # wrong
    datadir.export("data/1")  # wrong
    datadir.recover("data/1", [1, 2])  # wrong
    metrics.of(raft)  # wrong
    metrics.of_server(disk, raft)  # wrong
    metrics.render(metrics.of(node)).decode()  # wrong
    page.served(node, 8080)  # wrong
    page.application(raft)  # wrong
    page.overlook("10.0.0.1:9001", guard=True)  # wrong

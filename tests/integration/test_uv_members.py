"""The addresses that a server calls: its members', and for a while those that it answers; strangers count little."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv import raft_uv_limits, raft_uv_set_connect_retry_delay, raft_uv_tcp_set_bind_address
from io_uv.client import Client, Large
from io_uv.pyuv import Loop
from io_uv.teller import Teller
from pyraft import (
    RAFT_DUPLICATEADDRESS,
    RAFT_INVALID,
    RAFT_TOOBIG,
    RAFT_VOTER,
    RaftChange,
    RaftConfiguration,
    RaftMessage,
    RaftServer,
    raft_add,
    raft_bootstrap,
    raft_configuration_add,
    raft_errmsg,
    raft_init,
    raft_recover,
    raft_remove,
    raft_start,
)
from pyraft.errors import RAFT_CANCELED, RAFT_NOCONNECTION
from pyraft.types import UNSET, RaftIoSend
from tests.lib import messages as m
from tests.lib.peer import PeerServer, connect, handshake, port_of, unused_port
from tests.lib.solo import Solo, leader
from tests.lib.source import ROOT
from tests.lib.uvnode import Node, free_addresses, make_nodes, settled, unsettle
from tests.lib.uvtest import Outcome, UvIo, run_until


class Answerer(UvIo):
    """A RaftIo that answers, and two sockets that may be called."""

    def __init__(self, dir: Path) -> None:
        super().__init__(dir, "127.0.0.1:9001")
        assert raft_uv_tcp_set_bind_address(self.transport, "127.0.0.1:0") == 0  # 9001 is but a name
        self.start()
        raft_uv_set_connect_retry_delay(self.io, 1)
        self.member, self.claimed = PeerServer(self.loop), PeerServer(self.loop)

    def answer(self, id: int, address: str, message: RaftMessage | None = None) -> tuple[int, Outcome]:
        """Answer a server; return the code and what will be called back."""
        message = message or m.append_entries_result(1, 3, 10)
        message.server_id, message.server_address = id, address
        outcome = Outcome()
        return self.io.send(self.io, RaftIoSend(), message, outcome), outcome

    def configured(self, **members: str) -> None:
        """Tell who the members are."""
        servers = [RaftServer(int(name[1:]), address, RAFT_VOTER) for name, address in members.items()]
        assert self.io.configured is not None
        self.io.configured(self.io, servers)

    @property
    def clients(self) -> list[Client]:
        """The clients there are."""
        found: list[Client] = self.uv.clients
        return found


@pytest.fixture
def f(tmp_path: Path) -> Iterator[Answerer]:
    """An answerer."""
    answerer = Answerer(tmp_path)
    yield answerer
    answerer.close()
    answerer.member.close()
    answerer.claimed.close()


def test_strangers_get_few_connections(f: Answerer, caplog: pytest.LogCaptureFixture) -> None:
    """Of 2,000 that want answers, each at another id, a few are called once, and nothing is left of them."""
    f.configured(s1="127.0.0.1:9001", s2=f.member.address)
    address = f"127.0.0.1:{unused_port()}"
    attempts = 0
    connect_to = f.transport.connect

    def count(*args: object) -> int:
        nonlocal attempts
        attempts += 1
        return connect_to(*args)  # type: ignore[arg-type]

    f.transport.connect = count
    outcomes = []
    for id in range(100, 2100):
        rv, outcome = f.answer(id, address, m.request_vote_result(1, 3))
        assert rv in (0, RAFT_NOCONNECTION)
        outcomes += [outcome] if rv == 0 else []
        assert len(f.clients) <= f.uv.limits.answers
    run_until(f.loop, lambda: not f.clients and not f.uv.aborting)
    assert all(outcome.statuses[0] in (RAFT_NOCONNECTION, RAFT_CANCELED) for outcome in outcomes)
    assert attempts <= 2 * f.uv.limits.answers
    [line] = [record.getMessage() for record in caplog.records if "not members" in record.getMessage()]
    assert line.endswith(", the limit is 16")


def test_a_member_is_answered_at_its_own_address(f: Answerer) -> None:
    """A peer that says it is the member may claim any address: a stranger could have others called so."""
    f.configured(s1="127.0.0.1:9001", s2=f.member.address)
    rv, outcome = f.answer(2, f.claimed.address)
    f.wait(outcome)
    assert (rv, outcome.statuses) == (0, [0])
    assert f.member.accept().read_handshake() == (1, "127.0.0.1:9001")
    assert f.claimed.nobody_waits()
    [client] = f.clients
    assert not client.answering


def test_a_member_that_has_moved_is_answered_where_it_says(f: Answerer) -> None:
    """It is after failures at the address of a perhaps old configuration; else it could never bring the new one."""
    f.configured(s1="127.0.0.1:9001", s2=f"127.0.0.1:{unused_port()}")
    f.answer(2, f.claimed.address)
    run_until(f.loop, lambda: f.clients[0].failures >= 5)
    assert f.claimed.nobody_waits()
    _, outcome = f.answer(2, f.claimed.address)
    f.wait(outcome)
    assert outcome.statuses == [0]
    assert f.claimed.accept().read_handshake() == (1, "127.0.0.1:9001")


def test_who_knows_no_members_answers_whom_it_hears(f: Answerer) -> None:
    """A server that is about to join; the connection lasts as long as it is used, and ends then."""
    f.configured()
    f.uv.limits.answer_msecs = 3_600_000
    for _ in range(3):
        rv, outcome = f.answer(2, f.claimed.address)
        f.wait(outcome)
        assert (rv, outcome.statuses) == (0, [0])
    connection = f.claimed.accept()
    connection.read_handshake()
    for _ in range(3):
        connection.read_message()
    assert f.claimed.nobody_waits()
    [client] = f.clients
    # Its hour is over: used 10 ms before, it is looked at again when it has not been used for 50 ms.
    f.uv.limits.answer_msecs = 50
    client.used_at = f.loop.now() - 10
    assert client.timer is not None
    client._timer_cb(client.timer)
    connection.wait_end()
    run_until(f.loop, lambda: not f.clients and not f.uv.aborting)


def test_a_stranger_that_becomes_a_member_keeps_its_connection(f: Answerer) -> None:
    """The leader that has brought the configuration which names it."""
    f.configured()
    f.uv.limits.answer_msecs = 3_600_000
    _, outcome = f.answer(2, f.claimed.address)
    f.wait(outcome)
    connection = f.claimed.accept()
    [client] = f.clients
    f.uv.limits.answer_msecs = 50
    f.configured(s1="127.0.0.1:9001", s2=f.claimed.address)
    run_until(f.loop, lambda: client.proven)
    assert (f.clients, client.answering) == ([client], False)
    assert connection.pump()


@pytest.mark.parametrize("state", ["connected", "waiting", "connecting"])
def test_a_removed_server_lets_go_of_the_members(f: Answerer, state: str) -> None:
    """It calls nobody by itself any more, and keeps no connection that it does not use; it still answers."""
    f.uv.limits.answer_msecs = 50
    address = f.member.address if state == "connected" else f"127.0.0.1:{unused_port()}"
    f.configured(s1="127.0.0.1:9001", s2=address)
    _, outcome = f.answer(2, address)
    [client] = f.clients
    if state == "connected":
        f.wait(outcome)
    elif state == "waiting":
        raft_uv_set_connect_retry_delay(f.io, 3_600_000)
        run_until(f.loop, lambda: client.timer.active)
    f.configured(s2=address)
    run_until(f.loop, lambda: not f.clients and not f.uv.aborting)
    assert outcome.statuses[0] in ((0,) if state == "connected" else (RAFT_NOCONNECTION, RAFT_CANCELED))
    f.configured(s2=f.member.address)
    rv, outcome = f.answer(2, f.member.address)
    f.wait(outcome)
    assert (rv, outcome.statuses) == (0, [0])
    run_until(f.loop, lambda: not f.clients and not f.uv.aborting)
    f.answer(2, f.member.address)
    f.configured(s1="127.0.0.1:9001", s2=f.member.address)
    assert [client.answering for client in f.clients] == [False]  # it was added again


def test_a_removed_member_calls_nobody(tmp_path: Path) -> None:
    """Of a whole cluster its connections end, and where the others are gone it does not look for them."""
    loop = Loop()
    nodes = make_nodes(tmp_path, 3, loop)
    first = settled(nodes)
    removed = next(node for node in nodes if node is not first)
    removed.uv.limits.answer_msecs = 50
    raft_uv_set_connect_retry_delay(removed.io, 1)
    assert raft_remove(first.raft, RaftChange(), removed.id, lambda req, status: None) == 0
    unsettle([removed])  # the others tell it when it asks for their votes
    run_until(loop, lambda: removed.raft.said.removed)
    for node in nodes:
        if node is not removed:
            node.close()
    run_until(loop, lambda: not removed.uv.clients and not removed.uv.aborting)
    removed.close()
    loop.close()


@pytest.mark.parametrize("state", ["connected", "waiting", "connecting"])
def test_the_client_of_a_removed_server_ends(f: Answerer, state: str) -> None:
    """Connection, timer and what waits in it; a member's stays."""
    f.configured(s2=f.member.address, s3=f.claimed.address)
    addresses = {"waiting": f"127.0.0.1:{unused_port()}"}
    message = m.request_vote(1, 3, 123, 2)
    message.server_id, message.server_address = 3, addresses.get(state, f.claimed.address)
    outcome = Outcome()
    assert f.io.send(f.io, RaftIoSend(), message, outcome) == 0
    rv, kept = f.answer(2, f.member.address)
    [removed] = [client for client in f.clients if client.id == 3]
    if state == "waiting":
        raft_uv_set_connect_retry_delay(f.io, 3_600_000)
        run_until(f.loop, lambda: removed.timer.active)
    elif state == "connected":
        f.wait(outcome)
    f.configured(s2=f.member.address)
    assert [client.id for client in f.clients] == [2]
    run_until(f.loop, lambda: not f.uv.aborting)
    assert outcome.statuses == [0 if state == "connected" else RAFT_CANCELED]
    f.wait(kept)
    assert (rv, kept.statuses) == (0, [0])
    if state == "connected":
        f.claimed.accept().wait_end()


@pytest.mark.parametrize("msecs", [0, -1, 1 << 63])
def test_attempts_to_connect_have_a_pause(f: Answerer, msecs: int) -> None:
    """One of 0 would make an attempt in every turn of the loop, one of less or more an exception from the timer."""
    raft_uv_set_connect_retry_delay(f.io, msecs)
    address = f"127.0.0.1:{unused_port()}"
    f.configured(s1="127.0.0.1:9001", s2=address)
    f.answer(2, address)
    [client] = f.clients
    run_until(f.loop, lambda: client.timer.active or client.failures > 1)
    assert (client.failures, client.timer.active) == (1, True)
    assert f.uv.connect_retry_delay >= 10


# The core tells these.


def test_the_core_tells_who_the_members_are() -> None:
    """It does at the start, and within a tick of a change: a server counts until its removal is committed."""
    s = leader()
    told: list[list[int]] = []
    s.io.configured = lambda io, servers: told.append([server.id for server in servers])
    s.tick()
    assert told == [[1, 2, 3]]
    s.tick()
    assert raft_remove(s.r, RaftChange(), 3, lambda req, status: None) == 0
    s.tick()
    assert told == [[1, 2, 3]] * 2
    s.io.finish_appends()
    s.recv(m.append_entries_result(2, s.r.current_term, s.r.last_stored))
    s.tick()
    assert told[-1] == [1, 2]


def test_members_are_told_before_the_first_message() -> None:
    """raft_start does, before io.start."""
    s = Solo(start=False)
    order: list[str] = []
    start = s.io.start
    s.io.configured = lambda io, servers: order.append("configured")
    s.io.start = lambda *args: order.append("start") or start(*args)
    assert raft_start(s.r) == 0
    assert order == ["configured", "start"]


# Addresses.

BAD = ["127.0.0.1:99999", "127.0.0.1:90a", "http://127.0.0.1:9000", "::1:9000", "", ":23200", "127.0.0.1", "x:0"]
BAD += ["127.0.0.1:+65616", "127.0.0.1: 80", "0.0.0.0:9000", "[::]:9000", "1.2.3.4.5:9000", "a\nb:9000"]
BAD += ["255.255.255.255:9000", "[fe80::1]:9000", "a..b:9000", f"{'x' * 64}:9000", f"{'x.' * 127}x:9000"]


def lone(tmp_path: Path, loop: Loop) -> Node:
    """Return a server that leads alone."""
    (tmp_path / "1").mkdir()
    node = Node(tmp_path / "1", 1, free_addresses(1), loop).start()
    run_until(loop, lambda: node.state == 3)
    return node


def test_addresses_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    """raft_add appends nothing, and says why."""
    loop = Loop()
    node = lone(tmp_path, loop)
    last = node.raft.last_stored
    for id, address in enumerate(BAD, 2):
        assert raft_add(node.raft, RaftChange(), id, address, lambda req, status: None) == RAFT_INVALID
        text = address.replace("\n", "\\n")
        assert raft_errmsg(node.raft).startswith(f"no server can be reached at '{text}': "[:200]), address
    assert node.raft.last_stored == last
    assert len(node.raft.configuration.servers) == 1
    node.close()
    loop.close()


@pytest.mark.parametrize("call", [raft_bootstrap, raft_recover])
def test_configurations_that_lead_nowhere_are_not_written(tmp_path: Path, call: object) -> None:
    """The first one is not, and one that is forced is not either."""
    loop = Loop()
    (tmp_path / "1").mkdir()
    node = Node(tmp_path / "1", 1, free_addresses(1), loop)
    assert raft_init(node.raft, node.io, node.fsm, 1, node.members[1]) == 0
    for address in BAD:
        conf = RaftConfiguration()
        assert raft_configuration_add(conf, 1, node.members[1], RAFT_VOTER) == 0
        assert raft_configuration_add(conf, 2, address, RAFT_VOTER) == 0
        assert call(node.raft, conf) == RAFT_INVALID  # type: ignore[operator]
        assert "no server can be reached" in raft_errmsg(node.raft)
    node.close()
    loop.close()


def test_a_member_under_another_spelling_is_refused(tmp_path: Path) -> None:
    """raft_add, raft_bootstrap and raft_recover name the member; where a transport cannot tell, texts are compared."""
    loop = Loop()
    node = lone(tmp_path, loop)
    port = node.members[1].partition(":")[2]
    for address in (f"localhost:{port}", f"[::1]:{port}", f"127.0.0.1:0{port}", node.members[1]):
        assert raft_add(node.raft, RaftChange(), 2, address, lambda req, status: None) == RAFT_DUPLICATEADDRESS
    assert raft_add(node.raft, RaftChange(), 2, f"LOCALHOST:{port}", None) == RAFT_DUPLICATEADDRESS
    assert raft_errmsg(node.raft) == f"'LOCALHOST:{port}' is '{node.members[1]}', which is server 1's"
    node.transport.same_address = None
    assert raft_add(node.raft, RaftChange(), 2, f"LOCALHOST:{port}", None) == 0
    node.close()
    (tmp_path / "2").mkdir()
    node = Node(tmp_path / "2", 1, free_addresses(1), loop)
    assert raft_init(node.raft, node.io, node.fsm, 1, "127.0.0.1:0") == 0
    conf = RaftConfiguration()
    for id, address in enumerate(("A:9001", "b:9001", "a:9001"), 1):
        assert raft_configuration_add(conf, id, address, RAFT_VOTER) == 0
    for call in (raft_bootstrap, raft_recover):
        assert call(node.raft, conf) == RAFT_DUPLICATEADDRESS
        assert raft_errmsg(node.raft) == "'a:9001' is 'A:9001', which is server 1's"
    node.close()
    loop.close()


def test_other_transports_have_addresses_of_their_own(f: Answerer) -> None:
    """A path is one, for example; without a check of the transport everything goes."""
    assert f.io.check_address is not None
    assert f.io.check_address(f.io, "a path") == RAFT_INVALID
    f.transport.check_address = None
    assert f.io.check_address(f.io, "a path") == 0


def test_configurations_of_c_are_taken_with_a_warning(f: Answerer, caplog: pytest.LogCaptureFixture) -> None:
    """C servers add what they like, and the port may be left out there; the logger hears of each once."""
    for _ in range(2):
        f.configured(s1=":9001", s2="127.0.0.1", s3=f.member.address)
    assert [record.getMessage() for record in caplog.records] == [
        "server 1 of the configuration: no server can be reached at ':9001': there is no host in it"
        " (IPv6 addresses need brackets)",
        "server 2 of the configuration: no server can be reached at '127.0.0.1': there is no port in it",
    ]
    assert f.uv.peers.members == {1: ":9001", 2: "127.0.0.1", 3: f.member.address}


# Strangers say these.


@pytest.mark.parametrize("address", ["127.0.0.1:1\n", "\x1b[2J", "a\x7f", "a\u0085", "a\u2028b"])
def test_control_characters_in_a_handshake_are_refused(f: Answerer, address: str) -> None:
    """They are for the eyes of whoever reads the log."""
    assert f.io.start(f.io, 60_000, lambda io: None, lambda io, message: None) == 0
    stranger = connect(f.loop, port_of(f.transport))
    stranger.send(handshake(9, address))
    stranger.wait_end()
    assert f.uv.servers == []
    stranger.close()


@pytest.mark.parametrize("name", ["pyraft", "io_uv"])
def test_the_log_is_printable(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """One place escapes what others have said, whoever logs it."""
    logging.getLogger(name).warning("server at %s and %d", "\n1970 server 1 is fine\x1b[2J\udc80", 7)
    (record,) = caplog.records
    assert record.getMessage() == "server at \\n1970 server 1 is fine\\x1b[2J\\udc80 and 7"


HELD_BACK = " (and {} more such warnings were held back)"


@pytest.mark.parametrize("start", [0, 7 * 86_400_000])
def test_warnings_about_peers_are_rationed(caplog: pytest.LogCaptureFixture, start: int) -> None:
    """The same one comes once in ten minutes, and no more than twenty in a minute, however late that is."""

    class Clock:
        time = start

        def now(self) -> int:
            return self.time

    clock: Any = Clock()
    teller = Teller(clock)
    for i in range(1000):
        teller.warn(i // 10, "number %d", i)
    texts = [f"number {i}{HELD_BACK.format(9) if i else ''}" for i in range(0, 200, 10)]
    assert [record.getMessage() for record in caplog.records] == texts
    clock.time += 60_000
    teller.warn(0, "again")
    assert len(caplog.records) == 20  # once in ten minutes
    clock.time += 600_000
    teller.warn(0, "again")
    assert caplog.records[-1].getMessage() == "again" + HELD_BACK.format(810)


# Messages that are too large.


def test_a_peer_that_does_not_stand_a_size_is_spared_it() -> None:
    """It is after the third time, with pauses that grow; smaller messages pass, and so do all when one was stood."""
    large = Large()
    now = 0
    for expected in (False, False, True):
        large.written(now, 1 << 20)
        large.written(now + 10, 100)
        assert large.lost(now + 20) is expected
        now += 1000
    pauses = []
    for _ in range(8):
        begin = now
        while large.refuses(now, 1 << 20):
            assert not large.refuses(now, (1 << 20) - 1)
            now += 10
        pauses.append((now - begin) // 1000)
        large.written(now, 1 << 20)
        assert not large.lost(now)
    assert pauses[1:] == [2, 4, 8, 16, 32, 60, 60]
    now += 60_000
    large.written(now, 1 << 20)
    large.written(now + 6_000, 100)
    assert not large.lost(now + 6_000)
    assert not large.refuses(now + 6_001, 1 << 20)


def test_connections_that_end_for_other_reasons_are_no_matter_of_size() -> None:
    """They had small messages only, or a large one long ago."""
    large = Large()
    for _ in range(9):
        large.written(0, 1000)
        assert not large.lost(10)
        large.written(10_000, 1 << 20)
        assert not large.lost(20_000)
    assert not large.refuses(0, 1 << 30)


def test_a_command_above_the_limit_is_refused(tmp_path: Path) -> None:
    """raft_apply says so at once; the cluster goes on."""
    loop = Loop()
    node = lone(tmp_path, loop)
    raft_uv_limits(node.io).payload = 1 << 16
    assert node.try_apply(1, (1 << 16) + 8) == RAFT_TOOBIG
    assert "exceeds the limit of 65536" in raft_errmsg(node.raft)
    assert node.try_apply(1, 1 << 16) == 0
    node.close()
    loop.close()


def test_both_sides_are_told_of_what_is_too_large(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A follower that takes less than its leader: it names its limit, the leader the size; both lead and follow on."""
    loop = Loop()
    nodes = make_nodes(tmp_path, 3, loop)
    first = settled(nodes)
    for node in nodes:
        raft_uv_set_connect_retry_delay(node.io, 10)
        if node is not first:
            raft_uv_limits(node.io).payload = 1 << 16
    term = first.raft.current_term
    rv, outcome = first.submit(1, 1 << 17)
    assert rv == 0

    def texts(*words: str) -> int:
        return sum(all(word in record.getMessage() for word in words) for record in caplog.records)

    run_until(loop, lambda: texts("exceeds the limit of 65536") == 2 and texts("whenever a message of", "131") == 2)
    # Heartbeats go on.
    beats = [0]
    recv_cb = nodes[1 if nodes[0] is first else 0].uv.recv_cb

    def count(io: object, message: RaftMessage) -> None:
        beats[0] += message.append_entries is not None
        recv_cb(io, message)

    nodes[1 if nodes[0] is first else 0].uv.recv_cb = count
    run_until(loop, lambda: beats[0] > 50)
    assert (first.state, first.raft.current_term, outcome.calls) == (3, term, [])
    for node in nodes:
        raft_uv_limits(node.io).payload = 1 << 30
    run_until(loop, lambda: outcome.calls)
    assert outcome.calls[0][1] == 0
    for node in nodes:
        node.close()
    loop.close()


# Limits.


def test_limits_are_those_of_the_description(tmp_path: Path) -> None:
    """io_uv/README.md names each with its default."""
    t = UvIo(tmp_path)
    limits = raft_uv_limits(t.io)
    table = (ROOT / "io_uv" / "README.md").read_text().split("| limit | default |")[1].split("\n\n")[0]
    units = {"MiB": 1 << 20, "GiB": 1 << 30, "s": 1000, "bytes": 1, "": 1}
    told: dict[str, int] = {}
    for names, defaults in re.findall(r"^\| (`.*?`) \| (.*?) \|", table, re.MULTILINE):
        values = re.findall(r"(\d+) ?(MiB|GiB|s\b|bytes|)", defaults)
        for name, (number, unit) in zip(re.findall(r"`(\w+)`", names), values, strict=True):
            told[name] = int(number) * units[unit]
    assert told == {name: getattr(limits, name) for name in dir(limits) if not name.startswith("_")}
    t.close()


@pytest.mark.parametrize("value", [-1, "8", 1.5, None])
@pytest.mark.parametrize("name", ["payload", "queue", "answer_msecs"])
def test_a_limit_that_is_none_is_refused_at_the_start(tmp_path: Path, name: str, value: Any) -> None:
    """An exception when somebody meets it would stop the server."""
    t = UvIo(tmp_path)
    assert t.init() == 0
    try:
        setattr(raft_uv_limits(t.io), name, value)
    except TypeError:
        assert not isinstance(value, int)  # compiled, nothing else can be set
    else:
        assert t.io.start(t.io, 100, UNSET, UNSET) == RAFT_INVALID
        assert t.io.errmsg == f"the limit '{name}' must be a whole number from 0, not {value!r}"
    t.close()

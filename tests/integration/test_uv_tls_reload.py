"""TLS: revoked certificates, and what a reload does to connections that exist."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv import credentials, raft_uv_set_connect_retry_delay, raft_uv_tls_init, raft_uv_tls_reload
from io_uv.client import flush
from io_uv.credentials import shown
from io_uv.pyuv import Loop, errno
from io_uv.transport import RaftUvTransport
from pyraft.errors import RAFT_INVALID, RAFT_IOERR, RAFT_NOCONNECTION
from pyraft.types import RaftIo, RaftMessage
from tests.lib import messages as m
from tests.lib.peer import PeerServer, Transport, connect
from tests.lib.tlstest import DAY, NOW, Authority, Pair, TlsIo, expect_no_message, tls_init
from tests.lib.uvnode import Node, free_addresses, leader_of
from tests.lib.uvtest import configuration, run_until

NAMES = ("one", "raft-server-1"), ("two", "raft-server-2")


@pytest.fixture
def lists(authority: Authority) -> Path:
    """A file with a revocation list that has nobody in it yet."""
    path = authority.dir / "crl.pem"
    path.write_bytes(authority.revocations())
    return path


def add_two(pair: Pair, authority: Authority, lists: Path | None) -> tuple[TlsIo, TlsIo]:
    """Start servers 1 and 2, which trust each other; their certificates are one.pem and two.pem."""
    one, two = (pair.add(i, tls_init(authority, *names, crl=lists)) for i, names in enumerate(NAMES, 1))
    return one, two


def exchange(pair: Pair, one: TlsIo, two: TlsIo) -> None:
    """Have a message pass in each direction."""
    before = len(one.received), len(two.received)
    one.send_to(two, m.timeout_now(1, 3, 10, 2))
    two.send_to(one, m.timeout_now(2, 3, 10, 2))
    pair.run_until(lambda: len(one.received) > before[0] and len(two.received) > before[1])


def streams(server: TlsIo) -> list[Any]:
    """Return the connections that a server has, of both directions."""
    found = [peer.stream for peer in [*server.uv.clients, *server.uv.servers]]
    return [stream for stream in found if stream is not None]


def has(traces: list[str], *words: str) -> bool:
    """Whether a trace has all these words in it."""
    return any(all(word in text for word in words) for text in traces)


# Revocation.


def test_with_empty_lists_servers_talk(authority: Authority, lists: Path, pair: Pair) -> None:
    """A list of the authority on both sides is enough, though it names nobody."""
    exchange(pair, *add_two(pair, authority, lists))


def test_a_revoked_connector_is_refused(authority: Authority, lists: Path, pair: Pair) -> None:
    """The acceptor looks the connector's certificate up, and tells it."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    lists.write_bytes(authority.revocations(authority.dir / "one.pem"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2", crl=lists))
    expect_no_message(pair, one, two, "TLS: certificate revoked", two.traces)
    pair.run_until(lambda: has(one.traces, "server 2", "TLS: the peer says: ", "certificate revoked"))


def test_a_revoked_acceptor_is_refused(authority: Authority, lists: Path, pair: Pair) -> None:
    """The connector looks the acceptor's certificate up before it says who it is."""
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    lists.write_bytes(authority.revocations(authority.dir / "two.pem"))
    one = pair.add(1, tls_init(authority, "one", "raft-server-1", crl=lists))
    expect_no_message(pair, one, two, "TLS: certificate revoked", one.traces)


@pytest.mark.parametrize("revoked", ["nobody", "leaf", "authority", "no list"])
def test_the_whole_chain_is_looked_up(authority: Authority, pair: Pair, revoked: str) -> None:
    """An authority between the root and the peer can be revoked as a peer can, and needs a list as the root does."""
    middle = Authority(authority.dir, "middle", parent=authority)
    files = middle.issue("one", "raft-server-1")
    one = pair.add(1, lambda t, loop: raft_uv_tls_init(t, loop, *files, authority.path))
    lists = authority.dir / "crl.pem"
    data = authority.revocations(*[middle.path] * (revoked == "authority"))
    if revoked != "no list":
        data += middle.revocations(*[files[0]] * (revoked == "leaf"))
    lists.write_bytes(data)
    two = pair.add(2, tls_init(authority, "two", "raft-server-2", crl=lists))
    if revoked == "nobody":
        exchange(pair, one, two)
    elif revoked == "no list":
        expect_no_message(pair, one, two, "TLS: unable to get certificate CRL", two.traces)
    else:
        expect_no_message(pair, one, two, "TLS: certificate revoked", two.traces)


@pytest.mark.parametrize("side", ["acceptor", "connector"])
def test_when_a_list_has_expired_nobody_connects(
    authority: Authority, lists: Path, pair: Pair, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes on with a list past its time refuses everybody, until it has reloaded a newer one."""
    lists.write_bytes(authority.revocations(begin=NOW - 2 * DAY, end=NOW - DAY))
    # Two days ago, which OpenSSL does not know of, it was fine.
    monkeypatch.setattr(time, "time", lambda: (NOW - 1.5 * DAY).timestamp())
    own = {"subjectAltName": (("DNS", "raft-server-1"), ("DNS", "raft-server-2"))}
    monkeypatch.setattr(credentials, "meet_oneself", lambda server, client: own)
    one = pair.add(1, tls_init(authority, "one", "raft-server-1", crl=lists if side == "connector" else None))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2", crl=lists if side == "acceptor" else None))
    monkeypatch.undo()
    strict = one if side == "connector" else two
    expect_no_message(pair, one, two, "TLS: CRL has expired", strict.traces)
    assert raft_uv_tls_reload(strict.transport) == RAFT_INVALID
    lists.write_bytes(authority.revocations())
    assert raft_uv_tls_reload(strict.transport) == 0
    pair.run_until(lambda: two.uv.servers)
    exchange(pair, one, two)


def spoil(authority: Authority, lists: Path, how: str) -> str:
    """Make the file one that is of no use, and return what the error says."""
    if how == "missing":
        lists.unlink()
        return "open: no such file or directory"
    if how == "unreadable":
        lists.unlink()
        lists.mkdir()
        return "read: illegal operation on a directory"
    if how == "unsigned":
        text = lists.read_bytes().splitlines()
        # The last bytes are those of the signature.
        text[-2] = text[-2].swapcase()
        lists.write_bytes(b"\n".join(text) + b"\n")
        return "list 1, of OU=Testing CA"
    if how == "revoked":
        lists.write_bytes(authority.revocations(*authority.dir.glob("[ot]*.pem")))
        return "certificate revoked"
    if how == "expired":
        lists.write_bytes(authority.revocations(begin=NOW - 2 * DAY, end=NOW - DAY))
        return "list 1, of OU=Testing CA"
    if how == "certificates":
        lists.write_bytes(authority.path.read_bytes() + lists.read_bytes())
        return "it has a CERTIFICATE in it"
    if how == "stranger":
        (authority.dir / "stranger").mkdir()
        lists.write_bytes(Authority(authority.dir / "stranger").revocations())
        return "no list of OU=Testing CA"
    lists.write_bytes(lists.read_bytes()[:-40])
    return "a list in it has no end"


def told(authority: Authority, lists: Path, reason: str, name: str) -> str:
    """Return what the text begins with."""
    if reason == "certificate revoked":
        return f"own certificate {shown(f'{authority.dir / name}.pem')} is of no use: {reason}"
    return f"load revocation lists from {shown(str(lists))}: {reason}"[:250]


BAD = ["missing", "unreadable", "unsigned", "revoked", "expired", "malformed", "certificates", "stranger"]


@pytest.mark.parametrize("how", BAD)
def test_lists_that_are_of_no_use_are_refused_at_the_start(authority: Authority, lists: Path, how: str) -> None:
    """raft_uv_tls_init returns RAFT_INVALID with a text that names the file and what is wrong with it."""
    files = authority.issue("one", "raft-server-1")
    reason = spoil(authority, lists, how)
    transport, loop = RaftUvTransport(), Loop()
    assert raft_uv_tls_init(transport, loop, *files, authority.path, crl=lists) == RAFT_INVALID
    assert transport.errmsg.startswith(told(authority, lists, reason, "one"))
    assert transport.impl is None
    loop.close()


@pytest.mark.parametrize("how", BAD)
def test_a_reload_that_fails_changes_nothing(authority: Authority, lists: Path, pair: Pair, how: str) -> None:
    """Connections go on, and the lists that were in force still are."""
    stolen = authority.issue("stolen", "raft-server-1")
    lists.write_bytes(authority.revocations(stolen[0]))
    one, two = add_two(pair, authority, lists)
    exchange(pair, one, two)
    before = streams(one) + streams(two)
    reason = spoil(authority, lists, how)
    assert raft_uv_tls_reload(two.transport) == RAFT_INVALID
    assert two.transport.errmsg.startswith(told(authority, lists, reason, "two"))
    exchange(pair, one, two)
    assert streams(one) + streams(two) == before
    thief = pair.add(1, lambda t, loop: raft_uv_tls_init(t, loop, *stolen, authority.path))
    thief.send_to(two, m.timeout_now(1, 3, 66, 2))
    pair.run_until(lambda: has(two.traces, "TLS: certificate revoked"))
    assert streams(two) == before[2:]


# Reloading.


def test_a_reload_ends_and_remakes_all_connections(authority: Authority, lists: Path, pair: Pair) -> None:
    """The server that reloads does in the call itself; its peers follow by themselves, and messages pass again."""
    one, two = add_two(pair, authority, lists)
    exchange(pair, one, two)
    before = streams(one) + streams(two)
    assert len(before) == 4
    authority.issue("two", "raft-server-2")
    assert raft_uv_tls_reload(two.transport) == 0
    assert streams(two) == []
    assert all(stream.closed for stream in before[2:])
    assert has(two.traces, "TLS: certificates were reloaded, 2 connections ended")
    pair.run_until(lambda: len(streams(one)) == len(streams(two)) == 2)
    assert not set(before) & set(streams(one) + streams(two))
    exchange(pair, one, two)
    assert has(two.traces, "connection to server 1: TLS: certificates were reloaded")
    assert has(two.traces, "peer 1 at", "TLS: certificates were reloaded")


@pytest.mark.parametrize("reloading", [1, 2])
def test_a_revoked_peer_is_cut_off_by_the_reload(authority: Authority, lists: Path, pair: Pair, reloading: int) -> None:
    """It was let in before; from the reload on no message comes from it or goes to it, and others are not hurt."""
    one, two = add_two(pair, authority, lists)
    three = pair.add(3, tls_init(authority, "three", "raft-server-3", crl=lists))
    honest, revoked = (one, two) if reloading == 1 else (two, one)
    exchange(pair, one, two)
    exchange(pair, honest, three)
    counts = len(one.received), len(two.received)
    lists.write_bytes(authority.revocations(authority.dir / f"{NAMES[revoked.id - 1][0]}.pem"))
    # A connection that is already on its way when the server reloads does not count any more.
    revoked.send_to(honest, m.timeout_now(revoked.id, 3, 66, 2))
    flush(revoked.uv)
    assert raft_uv_tls_reload(honest.transport) == 0
    honest.send_to(revoked, m.timeout_now(honest.id, 3, 66, 2))
    pair.run_until(lambda: has(honest.traces, "handshake of", "TLS: certificate revoked"))
    pair.run_until(lambda: has(honest.traces, f"connect to server {revoked.id}", "TLS: certificate revoked"))
    exchange(pair, honest, three)
    assert (len(one.received), len(two.received))[revoked.id - 1] == counts[revoked.id - 1]
    assert all(message.server_id != revoked.id for message in honest.received[counts[honest.id - 1] :])
    assert all(server.id == 3 for server in honest.uv.servers)


def test_messages_that_are_not_being_written_survive_a_reload(authority: Authority, lists: Path, pair: Pair) -> None:
    """Gathered messages go to the new connection; the one that was being written is called back with RAFT_IOERR."""
    one, two = add_two(pair, authority, lists)
    exchange(pair, one, two)
    two.uv.servers[0].stream.stop_read()
    writing = one.send_to(two, m.install_snapshot(1, 3, 10, 2, configuration(), 1, bytes(32 << 20)))
    pair.run_until(lambda: one.uv.clients[0].writing)
    gathered = one.send_to(two, m.timeout_now(1, 3, 77, 2))
    assert one.uv.clients[0].gathered
    assert raft_uv_tls_reload(one.transport) == 0
    one.wait(writing, gathered)
    assert (writing.statuses, gathered.statuses) == ([RAFT_IOERR], [0])
    pair.run_until(lambda: len(two.received) == 2)
    assert two.received[1].timeout_now.last_log_index == 77


def test_a_reload_within_a_callback_ends_the_delivery(authority: Authority, lists: Path, pair: Pair) -> None:
    """After a recv callback that reloads, the rest of what has arrived on that connection is not delivered."""
    one, two = add_two(pair, authority, lists)
    exchange(pair, one, two)
    received: list[RaftMessage] = []

    def recv_cb(io: RaftIo, message: RaftMessage) -> None:
        received.append(message)
        assert raft_uv_tls_reload(two.transport) == 0

    two.uv.recv_cb = recv_cb
    for index in range(3):
        one.send_to(two, m.timeout_now(1, 3, index, 2))
    pair.run_until(lambda: received and not two.uv.servers)
    pair.run_until(lambda: two.uv.servers)
    assert len(received) == 1


def test_a_reload_ends_handshakes(authority: Authority, lists: Path) -> None:
    """A connection that is half made under the old files is not finished, on either side."""
    f = Transport(init=tls_init(authority, "one", "raft-server-1", crl=lists))
    assert f.listen() == 0
    peer = PeerServer(f.loop)
    assert f.connect(peer.address) == 0
    acceptor, connector = peer.accept(), connect(f.loop, f.port)
    acceptor.read(1)
    f.run_until(lambda: f.t.impl.accepting)
    assert raft_uv_tls_reload(f.t) == 0
    assert f.t.impl.accepting == {}
    connector.wait_end()
    assert f.wait_connected() == (None, RAFT_NOCONNECTION)
    assert f.t.errmsg == "uv_tcp_connect(): TLS: certificates were reloaded"
    connector.close()
    peer.close()
    f.close()


def test_a_connection_that_nobody_reads_is_ended_too(authority: Authority, lists: Path) -> None:
    """An owner that begins to read after the reload hears of the end and gets no bytes, nor can it write."""
    a = Transport(id=2, init=tls_init(authority, "two", "raft-server-2", crl=lists))
    assert a.listen() == 0
    b = Transport(id=1, init=tls_init(authority, "one", "raft-server-1", crl=lists))
    assert b.connect(f"127.0.0.1:{a.port}") == 0

    def both_until(done: Callable[[], object]) -> None:
        a.run_until(lambda: (b.loop.run(2), done())[1])

    both_until(lambda: a.accepted and b.connected)
    connector, acceptor = b.connected[0][0], a.accepted[0][2]
    connector.write(b"too late")
    assert raft_uv_tls_reload(a.t) == 0
    heard: list[Any] = []
    acceptor.start_read(lambda stream, data, error: heard.append((data, error)))
    acceptor.write(b"no", lambda stream, error: heard.append(error))
    assert heard == []
    both_until(lambda: len(heard) == 2)
    assert set(heard) == {(None, errno.UV_ECONNABORTED), errno.UV_ECONNABORTED}
    acceptor.close()
    b.close()
    a.close()


def test_closed_connections_are_forgotten(authority: Authority, lists: Path, pair: Pair) -> None:
    """The connections that a reload would have to end are those that exist."""
    one, two = add_two(pair, authority, lists)
    for _ in range(3):
        exchange(pair, one, two)
        assert raft_uv_tls_reload(one.transport) == 0
        pair.run_until(lambda: len(streams(one)) == len(streams(two)) == 2)
    exchange(pair, one, two)
    for server in (one, two):
        known = server.transport.impl.security._streams
        pair.run_until(lambda known=known, server=server: set(known) == set(streams(server)))


# Clusters.


def submit_forever(nodes: list[Node]) -> Callable[[], int]:
    """Return a function that submits the next number, waits and returns it, if need be to the next leader."""
    numbers = itertools.count(1)

    def submit() -> int:
        while True:
            leader = leader_of(nodes)
            number = next(numbers)
            if leader is not None and leader.try_apply(number) == 0:
                return number
            nodes[0].loop.run(2)

    return submit


@pytest.mark.parametrize("how", ["one after the other", "all at once"])
def test_a_cluster_goes_on_committing_through_a_reload(
    authority: Authority, lists: Path, tmp_path: Path, how: str
) -> None:
    """All get new certificates and lists; every acknowledged command is applied everywhere, in order."""
    loop = Loop()
    members = free_addresses(3)
    nodes = []
    for id in members:
        (tmp_path / str(id)).mkdir()
        init = tls_init(authority, f"server{id}", f"raft-server-{id}", crl=lists)
        nodes.append(Node(tmp_path / str(id), id, members, loop, init).start())
        raft_uv_set_connect_retry_delay(nodes[-1].io, 100)
    submit = submit_forever(nodes)
    acknowledged = [submit() for _ in range(20)]
    old = [authority.dir / f"server{id}.old" for id in members]
    for id, path in zip(members, old, strict=True):
        path.write_bytes((authority.dir / f"server{id}.pem").read_bytes())
        authority.issue(f"server{id}", f"raft-server-{id}")
    for node in nodes:
        assert raft_uv_tls_reload(node.transport) == 0, node.transport.errmsg
        if how != "all at once":
            acknowledged += [submit() for _ in range(20)]
    lists.write_bytes(authority.revocations(*old))
    for node in nodes:
        assert raft_uv_tls_reload(node.transport) == 0, node.transport.errmsg
        acknowledged += [submit() for _ in range(20)]
    run_until(loop, lambda: all(node.fsm.numbers[-1:] == acknowledged[-1:] for node in nodes))
    for node in nodes:
        assert node.fsm.numbers == nodes[0].fsm.numbers
        assert [number for number in node.fsm.numbers if number in set(acknowledged)] == acknowledged
    for node in nodes:
        node.close()
    loop.close()

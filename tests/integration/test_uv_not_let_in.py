"""Servers that are not let in hear of it, and so does the server that does not let them in; and floods of strangers."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from io_uv import raft_uv_set_connect_retry_delay, raft_uv_tls_init, tcp_common, tcp_connect, tcp_listen
from pyraft.errors import RAFT_NOCONNECTION, RAFT_UNAUTHORIZED
from pyraft.types import RAFT_COMMAND, RaftEntry, RaftIoSend
from tests.lib import messages as m
from tests.lib.peer import PeerServer, Transport, connect, handshake, port_of, unused_port
from tests.lib.tlstest import Authority, Pair, TlsIo, tls_init, trusting
from tests.lib.uvtest import UvIo, run_until


def said(caplog: pytest.LogCaptureFixture, *words: str) -> bool:
    """Whether a line of the log has all these words in it."""
    return any(all(word in record.getMessage() for word in words) for record in caplog.records)


def expect_both_told(pair: Pair, one: TlsIo, two: TlsIo, caplog: pytest.LogCaptureFixture, mine: str, its: str) -> None:
    """Send from one to two; see that both logs say why it does not arrive, after one attempt, once."""
    raft_uv_set_connect_retry_delay(one.io, 3_600_000)
    outcome = one.send_to(two, m.timeout_now(one.id, 3, 10, 2))
    pair.run_until(lambda: len(caplog.records) == 2)
    assert said(caplog, f"server {two.id} at {two.listens_at} cannot be reached, trying on: ", mine), caplog.text
    assert said(caplog, "a peer at 127.0.0.1 is not let in: ", its), caplog.text
    assert (outcome.calls, two.received, two.uv.servers) == ([], [], [])


def test_both_hear_of_a_revoked_certificate(authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """With TLS 1.3 the connector has done its part before the acceptor has looked at its certificate."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    lists = authority.dir / "crl.pem"
    lists.write_bytes(authority.revocations(authority.dir / "one.pem"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2", crl=lists))
    expect_both_told(pair, one, two, caplog, "the peer says: certificate revoked", "certificate revoked")


def test_both_hear_of_a_foreign_certificate(
    authority: Authority, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that this server's authorities have signed, and the other's have not."""
    stranger = Authority(tmp_path, "stranger")
    files = stranger.issue("one", "raft-server-1")
    one = pair.add(1, lambda t, loop: raft_uv_tls_init(t, loop, *files, trusting(authority, stranger)))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    expect_both_told(
        pair, one, two, caplog, "the peer says: unknown ca", "self-signed certificate in certificate chain"
    )


def test_both_hear_of_an_expired_certificate(
    authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was in force when the server was started."""
    from io_uv import credentials
    from tests.lib.tlstest import DAY, NOW

    files = authority.issue_odd("one", "raft-server-1", begin=NOW - 2 * DAY, end=NOW - DAY)
    names = {"subjectAltName": (("DNS", "raft-server-1"),)}
    monkeypatch.setattr(credentials, "meet_oneself", lambda server, client: names)
    one = pair.add(1, lambda t, loop: raft_uv_tls_init(t, loop, *files, authority.path))
    monkeypatch.undo()
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    expect_both_told(pair, one, two, caplog, "the peer says: certificate expired", "certificate has expired")


def test_both_hear_of_a_certificate_that_names_another_server(
    authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """The acceptor says so itself: TLS has no word for it."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    one.transport.impl.id = 3
    reason = "certificate of raft-server-1 does not name server 3"
    expect_both_told(pair, one, two, caplog, f"the peer says: {reason}", reason)


def test_plain_against_tls(authority: Authority, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that was started without TLS sees an alert come back, and the others see what it speaks."""
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    (tmp_path / "plain").mkdir()
    one = UvIo(tmp_path / "plain", "127.0.0.1:0", 1, pair.loop).start()
    message = m.timeout_now(1, 3, 10, 2)
    message.server_id, message.server_address = 2, two.listens_at
    raft_uv_set_connect_retry_delay(one.io, 50)
    assert one.io.send(one.io, RaftIoSend(), message, lambda req, status: None) == 0
    pair.run_until(lambda: said(caplog, "is not let in: TLS: it does not speak TLS, which this server expects"))
    pair.run_until(lambda: said(caplog, "server 2 at", "cannot be reached, trying on: "))
    one.close()


def test_tls_against_plain(authority: Authority, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the other way round here."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    (tmp_path / "plain").mkdir()
    two = UvIo(tmp_path / "plain", "127.0.0.1:0", 2, pair.loop).start()
    assert two.io.start(two.io, 60_000, lambda io: None, lambda io, message: None) == 0
    message = m.timeout_now(1, 3, 10, 2)
    message.server_id, message.server_address = 2, f"127.0.0.1:{port_of(two.transport)}"
    assert one.io.send(one.io, RaftIoSend(), message, lambda req, status: None) == 0
    pair.run_until(lambda: said(caplog, "is not let in: it speaks TLS, which this server does not"))
    pair.run_until(lambda: said(caplog, "server 2 at", "cannot be reached, trying on: uv_tcp_connect(): TLS: "))
    two.close()


def test_connections_that_a_peer_does_not_keep_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Five that end at once, without a reason, as a load balancer in front of nothing does; and that it is over."""
    one = UvIo(tmp_path, "127.0.0.1:9001").start()
    peer = PeerServer(one.loop)
    raft_uv_set_connect_retry_delay(one.io, 20)
    message = m.timeout_now(1, 3, 10, 2)
    message.server_id, message.server_address = 2, peer.address
    assert one.io.send(one.io, RaftIoSend(), message, lambda req, status: None) == 0
    while not said(caplog, "server 2 at"):
        peer.accept().close()
    [client] = one.uv.clients
    assert client.failures == 5  # in a row: one that lasts longer than the retry delay counts for good
    assert said(caplog, "server 2 at", "cannot be reached, trying on: it ended the connection after")
    peer.accept()
    run_until(one.loop, lambda: said(caplog, "server 2 at", "is reached"))
    one.close()
    peer.close()


def test_an_acceptor_that_does_not_answer_is_believed_after_a_while(
    authority: Authority, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions do not answer."""
    monkeypatch.setattr(tcp_common, "WELCOME", b"")
    monkeypatch.setattr(tcp_connect, "_WELCOME_SECONDS", 0.02)
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    one.wait(one.send_to(two, m.timeout_now(1, 3, 10, 2)))
    pair.run_until(lambda: two.received)
    assert not one.uv.clients[0].stream.welcome


@pytest.mark.parametrize("answer", [b"\2" + bytes(7) + b"\xff" * 8, b"\3" + bytes(15)])
def test_answers_that_make_no_sense(answer: bytes) -> None:
    """Count as a refusal; a reason may come in pieces, and is cut."""
    for n in range(16):
        assert tcp_common.decode_answer(answer[:n]) is None
    assert tcp_common.decode_answer(answer) == "its answer to our handshake makes no sense"
    refusal = tcp_common.encode_refusal("x" * 2000)
    assert len(refusal) == 16 + tcp_common.MAX_REFUSAL
    assert tcp_common.decode_answer(refusal[:-1]) is None
    assert tcp_common.decode_answer(refusal) == "the peer says: " + "x" * tcp_common.MAX_REFUSAL


def test_what_cannot_be_mended_by_trying_again_has_its_own_code(authority: Authority, tmp_path: Path) -> None:
    """RAFT_UNAUTHORIZED, which the log hears of at once."""
    a = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    stranger = Authority(tmp_path, "stranger")
    files = stranger.issue("one", "raft-server-1")
    b = Transport(id=1, init=lambda t, loop: raft_uv_tls_init(t, loop, *files, trusting(authority, stranger)))
    assert a.listen() == 0
    assert b.connect(f"127.0.0.1:{a.port}") == 0
    a.run_until(lambda: (b.loop.run(2), b.connected)[1])
    assert b.connected == [(None, RAFT_UNAUTHORIZED)]
    b.close()
    a.close()


# Floods.


def hello(authority: Authority) -> bytes:
    """Return a ClientHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.path)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def test_a_flood_of_hellos_does_not_keep_an_honest_peer_out(authority: Authority, pair: Pair) -> None:
    """500 connections that begin a handshake each; the peer that comes after them is in, its message arrives."""
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    data = hello(authority)
    strangers = []
    for i in range(500):
        stranger = connect(pair.loop, port_of(two.transport))
        stranger.send(data)
        strangers.append(stranger)
        if i % 50 == 0:
            pair.loop.run(2)
    one.send_to(two, m.timeout_now(1, 3, 10, 2))
    pair.run_until(lambda: two.received)
    assert len(two.transport.impl.accepting) <= two.uv.limits.connections
    for stranger in strangers:
        stranger.close()


def test_a_full_table_makes_room_at_the_cost_of_the_host_that_has_most(authority: Authority) -> None:
    """A flood from one host pushes out its own; among equals those go that nobody has proven himself from."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    assert f.listen() == 0
    t = f.t.impl

    def fill(*hosts: str) -> list[Any]:
        stream: Any = object()
        t.accepting.clear()
        found = [tcp_listen.Incoming(t, stream, host) for host in hosts]
        t.accepting.update(dict.fromkeys(found))
        return found

    found = fill("honest", "flood", "flood")
    assert tcp_listen._victim(t) is found[1]
    found = fill("honest", "other")
    t.gate.trust("honest")
    assert tcp_listen._victim(t) is found[1]
    t.accepting.clear()
    f.close()


def test_bytes_before_authentication_are_not_heaped_up(authority: Authority) -> None:
    """While a handshake waits for its turn nothing more is read from it."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    assert f.listen() == 0
    f.t.impl.gate._credit = -1e9
    peer = connect(f.loop, f.port)
    peer.send(hello(authority))
    f.run_until(lambda: f.t.impl.gate._new)
    [incoming] = f.t.impl.accepting
    peer.send(b"x" * 10_000)
    for _ in range(5):
        f.loop.run(2)
    assert incoming.stream._in.pending < 1000
    peer.close()
    f.close()


def test_noise_is_no_news(authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Peers that hang up, or say nothing of sense over TLS, are in the trace only."""
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    for data in (b"\x16\x03\x01\x00\x05hello", b""):
        peer = connect(pair.loop, port_of(two.transport))
        if data:
            peer.send(data)
        peer.sock.shutdown(1)
        peer.wait_end()
        peer.close()
    assert [record for record in caplog.records if "not let in" not in record.getMessage()] == []
    plain = connect(pair.loop, port_of(two.transport))
    plain.send(handshake(1, "127.0.0.1:1"))
    plain.wait_end()
    plain.close()
    assert said(caplog, "it does not speak TLS")


def test_limits_that_are_met_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are of connections, in their handshake and behind it; of the queue; of an address; an id is there twice."""
    one = UvIo(tmp_path, "127.0.0.1:0").start()
    one.uv.limits.connections = 2
    one.uv.limits.queue = 1 << 10
    assert one.io.start(one.io, 60_000, lambda io: None, lambda io, message: None) == 0
    port = port_of(one.transport)
    peers = []
    accepting = one.transport.impl.accepting
    for id in (0, 0, 0, 2, 3, 4):
        peer = connect(one.loop, port)
        peers.append(peer)
        name = peer.sock.getsockname()
        run_until(one.loop, lambda name=name: name in [each.stream.getpeername() for each in accepting])
        if id:
            peer.send(handshake(id, "x"))
            run_until(one.loop, lambda id=id: id in [server.id for server in one.uv.servers])
    run_until(one.loop, lambda: said(caplog, "more than 2 connections are in their handshake"))
    text = "more than 2 peers are connected: the one silent longest goes, server 2 at x"
    run_until(one.loop, lambda: said(caplog, text))
    for data in (handshake(1, "elsewhere"), handshake(5, "x" * 5000)):
        peers.append(connect(one.loop, port))
        peers[-1].send(data)
    run_until(one.loop, lambda: said(caplog, "a peer that says it is at elsewhere claims to be this server, 1"))
    run_until(one.loop, lambda: said(caplog, "is not let in: address of 5008 bytes at offset 16, the limit is 4096"))
    message = m.append_entries(1, 3, 10, 2, 9, [RaftEntry(3, RAFT_COMMAND, bytes(1000))])
    message.server_id, message.server_address = 2, f"127.0.0.1:{unused_port()}"
    codes = [one.io.send(one.io, RaftIoSend(), message, lambda req, status: None) for _ in range(2)]
    assert codes == [0, RAFT_NOCONNECTION]
    assert said(caplog, "bytes are queued for server 2, the limit is 1024")
    for peer in peers:
        peer.close()
    one.close()

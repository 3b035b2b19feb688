"""TLS: peers are who their certificates say, or they are nobody."""

import errno
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU

import io_uv
from io_uv import encoding, fs, raft_uv_tcp_init, raft_uv_tls_init, raft_uv_tls_reload, tls
from io_uv.credentials import names_server, shown
from io_uv.pyuv import Loop
from io_uv.tls import TlsStream
from io_uv.transport import RaftUvTransport
from pyraft.errors import RAFT_CANCELED, RAFT_INVALID, RAFT_NOCONNECTION
from pyraft.tracing import RaftTracer
from pyraft.types import RAFT_COMMAND, EntryBatch, RaftEntry, RaftIoSend
from tests.lib import messages as m
from tests.lib.peer import Connection, PeerServer, Transport, connect, handshake, port_of, words
from tests.lib.tlstest import DAY, NOW, Authority, Pair, expect_no_message, tls_init, trusting
from tests.lib.uvtest import configuration


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the servers trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


# Servers that trust each other.


@pytest.mark.parametrize("names", [("raft-server-1", "raft-server-2"), ("127.0.0.1", "127.0.0.1")])
def test_servers_with_good_certificates_talk(authority: Authority, pair: Pair, names: tuple[str, str]) -> None:
    """Messages pass in both directions, by certificates with ids or with hosts."""
    one = pair.add(1, tls_init(authority, "one", names[0]))
    two = pair.add(2, tls_init(authority, "two", names[1]))
    outcomes = [one.send_to(two, m.timeout_now(1, 3, 10, 2)), two.send_to(one, m.append_entries_result(2, 3, 10))]
    pair.run_until(lambda: one.received and two.received and all(outcome.calls for outcome in outcomes))
    assert [outcome.statuses for outcome in outcomes] == [[0], [0]]
    assert (one.received[0].server_id, two.received[0].server_id) == (2, 1)
    assert two.received[0].timeout_now.last_log_index == 10


def test_large_payloads_pass_whole(authority: Authority, pair: Pair) -> None:
    """Entries, and a snapshot of many windows, arrive as they were sent, with small messages between them."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    entries = [RaftEntry(3, RAFT_COMMAND, bytes([i]) * size) for i, size in enumerate([8, 200_000, 0, 16, 300_000])]
    data = bytes(range(256)) * 20_000
    outcomes = [
        one.send_to(two, m.append_entries(1, 3, 10, 2, 9, entries)),
        one.send_to(two, m.install_snapshot(1, 3, 10, 2, configuration(), 1, data)),
        one.send_to(two, m.timeout_now(1, 3, 10, 2)),
    ]
    pair.run_until(lambda: len(two.received) == 3 and all(outcome.calls for outcome in outcomes))
    assert [outcome.statuses for outcome in outcomes] == [[0]] * 3
    got = two.received[0].append_entries.entries
    assert isinstance(got, EntryBatch)
    assert got.bufs == [entry.buf for entry in entries]
    assert two.received[1].install_snapshot.data == data


def test_closing_cancels_what_is_not_written(authority: Authority, pair: Pair) -> None:
    """A message of which only a part was encrypted is called back with RAFT_CANCELED, and so is what waits behind."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    first = one.send_to(two, m.timeout_now(1, 3, 10, 2))
    one.wait(first)
    pair.run_until(lambda: two.uv.servers)
    two.uv.servers[0].stream.stop_read()
    outcomes = [
        one.send_to(two, m.install_snapshot(1, 3, 10, 2, configuration(), 1, bytes(32 << 20))),
        one.send_to(two, m.timeout_now(1, 3, 10, 2)),
    ]
    pair.run_until(lambda: one.uv.clients[0].writing)
    one.wait(one.begin_close())
    assert [outcome.statuses for outcome in outcomes] == [[RAFT_CANCELED], [RAFT_CANCELED]]


def test_a_broken_connection_is_made_anew(authority: Authority, pair: Pair) -> None:
    """A peer that closes the connection is noticed, and the next message passes on a new one."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    one.wait(one.send_to(two, m.timeout_now(1, 3, 10, 2)))
    pair.run_until(lambda: two.received)
    stream = one.uv.clients[0].stream
    two.uv.servers[0].abort()
    pair.run_until(lambda: one.uv.clients[0].stream not in (None, stream))
    one.wait(one.send_to(two, m.timeout_now(1, 3, 11, 2)))
    pair.run_until(lambda: len(two.received) == 2)


# Those who are not trusted.


def test_a_certificate_of_another_authority_is_refused_by_the_acceptor(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """A server that trusts us is not thereby trusted by us."""
    stranger = Authority(tmp_path, "stranger")
    files = stranger.issue("evil", "raft-server-1")
    one = pair.add(1, lambda t, loop: raft_uv_tls_init(t, loop, *files, trusting(authority, stranger)))
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    expect_no_message(pair, one, two, "TLS: self-signed certificate in certificate chain", two.traces)


def test_a_certificate_of_another_authority_is_refused_by_the_connector(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """Nothing is said to a server that cannot prove who it is."""
    stranger = Authority(tmp_path, "stranger")
    files = stranger.issue("evil", "raft-server-2")
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    two = pair.add(2, lambda t, loop: raft_uv_tls_init(t, loop, *files, trusting(authority, stranger)))
    expect_no_message(pair, one, two, "TLS: self-signed certificate in certificate chain", one.traces)


def test_a_certificate_binds_the_id(authority: Authority) -> None:
    """A member of the cluster cannot speak as another one."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    traces: list[str] = []
    f.t.impl.tracer = RaftTracer(lambda t, file, line, func, level, text: traces.append(text), True)
    assert f.listen() == 0
    files = authority.issue("one", "raft-server-1", "127.0.0.1")
    peer = TlsPeer(connect(f.loop, f.port), client_context(authority, files))
    f.run_until(lambda: peer.step(peer.tls.do_handshake))
    peer.tls.write(handshake(3, "127.0.0.1:9001"))
    peer.flush()
    peer.connection.wait_end()
    reason = "certificate of raft-server-1, 127.0.0.1 does not name server 3 at 127.0.0.1:9001"
    assert reason in traces[-1]
    assert f.accepted == []
    peer.connection.close()
    f.close()


def test_the_connector_checks_whom_it_has_reached(authority: Authority, pair: Pair) -> None:
    """A server that answers at somebody else's address gets nothing."""
    one = pair.add(1, tls_init(authority, "one", "raft-server-1"))
    three = pair.add(3, tls_init(authority, "three", "raft-server-3"))
    message = m.timeout_now(1, 3, 10, 2)
    message.server_id, message.server_address = 2, three.listens_at
    assert one.io.send(one.io, RaftIoSend(), message, lambda req, status: None) == 0
    reason = "certificate of raft-server-3 does not name server 2"
    pair.run_until(lambda: any(reason in text for text in one.traces))
    assert (three.received, three.uv.servers) == ([], [])


@pytest.mark.parametrize(
    "hello", [handshake(1, "127.0.0.1:9001"), words(0x0103010016, 0, 0), b"GET / HTTP/1.0\r\n\r\n"]
)
def test_plain_bytes_are_refused(authority: Authority, pair: Pair, hello: bytes) -> None:
    """A peer that does not speak TLS is dropped, also if it speaks libraft's protocol perfectly."""
    two = pair.add(2, tls_init(authority, "two", "raft-server-2"))
    peer = connect(pair.loop, port_of(two.transport))
    peer.send(hello + b"".join(encoding.encode_message(m.timeout_now(1, 3, 1, 1))))
    peer.wait_end()
    assert two.received == []
    assert two.uv.servers == []
    peer.close()


def test_a_silent_peer_is_dropped_in_time(authority: Authority) -> None:
    """The time for the handshake includes that of TLS."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    assert f.listen() == 0
    f.t.impl.limits.handshake_msecs = 50
    peer = connect(f.loop, f.port)
    peer.wait_end()
    peer.close()
    f.close()


class TlsPeer:
    """A blocking TLS client in the hands of the test, on memory buffers."""

    def __init__(self, connection: Connection, context: ssl.SSLContext) -> None:
        self.connection = connection
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out)

    def step(self, call: Callable[[], Any]) -> bool:
        """Do something; True when it is done."""
        try:
            call()
        except ssl.SSLWantReadError:
            done = False
        else:
            done = True
        self.flush()
        self.connection.pump()
        self._in.write(self.connection.data)
        self.connection.data = b""
        return done

    def flush(self) -> None:
        """Send what TLS has made."""
        data = self._out.read()
        if data:
            self.connection.send(data)


def client_context(authority: Authority, files: tuple[Path, Path] | None) -> ssl.SSLContext:
    """Return a client's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(authority.path)
    if files is not None:
        context.load_cert_chain(*files)
    return context


def test_a_peer_without_certificate_is_refused(authority: Authority) -> None:
    """Authentication is mutual: encryption alone opens no door."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    assert f.listen() == 0
    peer = TlsPeer(connect(f.loop, f.port), client_context(authority, None))
    f.run_until(lambda: peer.step(peer.tls.do_handshake))
    peer.tls.write(handshake(1, "127.0.0.1:9001"))
    peer.flush()
    peer.connection.wait_end()
    assert f.accepted == []
    peer.connection.close()
    f.close()


def test_older_versions_of_tls_are_refused(authority: Authority) -> None:
    """Only TLS 1.3 is spoken."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    assert f.listen() == 0
    context = client_context(authority, authority.issue("one", "raft-server-1"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    peer = TlsPeer(connect(f.loop, f.port), context)
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        f.run_until(lambda: peer.step(peer.tls.do_handshake))
    peer.connection.close()
    f.close()


@pytest.mark.parametrize("size", [1, 100, 1000])
def test_handshakes_may_come_in_any_pieces(authority: Authority, size: int) -> None:
    """TLS records and the handshake in them may be cut anywhere; all that follows is delivered to the reader."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    assert f.listen() == 0
    peer = TlsPeer(connect(f.loop, f.port), client_context(authority, authority.issue("one", "raft-server-1")))
    send = peer.connection.send

    def send_in_pieces(data: bytes) -> None:
        for at in range(0, len(data), size):
            send(data[at : at + size])
            f.loop.run(2)

    peer.connection.send = send_in_pieces
    f.run_until(lambda: peer.step(peer.tls.do_handshake))
    peer.tls.write(handshake(1, "127.0.0.1:9001") + b"first")
    peer.tls.write(b" and second")
    peer.flush()
    f.run_until(lambda: f.accepted)
    [(id, address, stream)] = f.accepted
    assert (id, address) == (1, "127.0.0.1:9001")
    assert isinstance(stream, TlsStream)
    received: list[Any] = []
    stream.start_read(lambda stream, data, error: received.append(data))
    f.run_until(lambda: b"".join(received) == b"first and second")
    peer.connection.close()
    f.run_until(lambda: received[-1] is None)
    f.close()


def test_reading_may_start_when_a_peer_is_accepted(authority: Authority) -> None:
    """The bytes that followed the handshake come first, also if more has been decrypted when the accept callback
    reads."""
    f = Transport(id=2, init=tls_init(authority, "two", "raft-server-2"))
    received: list[Any] = []

    def accept(t: RaftUvTransport, id: int, address: str, stream: Any) -> None:
        f.accepted.append((id, address, stream))
        stream.start_read(lambda stream, data, error: received.append(data))
        assert received == [], "called back inside start_read"

    assert f.t.listen(f.t, accept) == 0
    peer = TlsPeer(connect(f.loop, f.port), client_context(authority, authority.issue("one", "raft-server-1")))
    f.run_until(lambda: peer.step(peer.tls.do_handshake))
    peer.tls.write(handshake(1, "127.0.0.1:9001") + b"first")
    peer.tls.write(b" and second")
    peer.tls.write(b" and third")
    peer.flush()
    f.run_until(lambda: len(b"".join(received)) == 26)
    assert b"".join(received) == b"first and second and third"
    peer.connection.close()
    f.run_until(lambda: received[-1] is None)
    f.close()


# Certificates.


def subject(*names: tuple[str, str]) -> dict[str, Any]:
    """Return a certificate as the ssl module shows it."""
    return {"subjectAltName": names}


@pytest.mark.parametrize(
    ("names", "id", "address", "expected"),
    [
        ([("DNS", "raft-server-1")], 1, "127.0.0.1:9001", True),
        ([("DNS", "raft-server-1")], 11, "127.0.0.1:9001", False),
        ([("DNS", "raft-server-1"), ("DNS", "raft-server-2")], 2, "x:1", True),
        ([("DNS", "raft-server-1"), ("IP Address", "127.0.0.1")], 2, "127.0.0.1:9001", False),
        ([("IP Address", "127.0.0.1")], 7, "127.0.0.1:9001", True),
        ([("IP Address", "127.0.0.1")], 7, "127.0.0.2:9001", False),
        ([("IP Address", "0:0:0:0:0:0:0:1\n")], 7, "[::1]:9001", True),
        ([("IP Address", "127.0.0.1")], 7, "[::ffff:127.0.0.1]:9001", True),
        ([("IP Address", "127.0.0.1")], 7, "[::FFFF:7f00:1]:9001", True),
        ([("IP Address", "127.0.0.1")], 7, "[::127.0.0.1]:9001", False),
        ([("IP Address", "0:0:0:0:0:FFFF:7F00:1")], 7, "127.0.0.1:9001", True),
        ([("IP Address", "FE80:0:0:0:0:0:0:1")], 7, "[fe80::1%eth0]:9001", True),
        ([("IP Address", "FE80:0:0:0:0:0:0:1")], 7, "[fe80::2%eth0]:9001", False),
        ([("IP Address", "127.0.0.1")], 7, "127.0.0.1%eth0:9001", False),
        ([("DNS", "Host.example")], 7, "host.EXAMPLE:9001", True),
        ([("DNS", "xn--bcher-kva.example")], 7, "B\u00fccher.example:9001", True),
        ([("DNS", "xn--bcher-kva.example")], 7, "bucher.example:9001", False),
        ([("DNS", "a.example\0.b")], 7, "a.example:9001", False),
        ([("DNS", "*.example")], 7, "host.example:9001", False),
        ([("DNS", "*.example")], 7, "*.example:9001", False),
        ([("DNS", "*")], 7, "*:9001", False),
        ([("DNS", "host.example.")], 7, "host.example:9001", True),
        ([("DNS", "RAFT-Server-1")], 1, "x:1", True),
        ([("DNS", "RAFT-SERVER-1"), ("DNS", "host.example")], 2, "host.example:9001", False),
        ([("DNS", "raft-server-01"), ("DNS", "host.example")], 1, "host.example:9001", False),
        ([("DNS", "127.0.0.1")], 7, "127.0.0.1:9001", False),
        ([("DNS", "")], 7, ":9001", False),
        ([("DNS", "host.example")], 7, "x" * 2000, False),
        ([], 1, "127.0.0.1:9001", False),
    ],
)
def test_names_in_certificates(names: list[tuple[str, str]], id: int, address: str, expected: bool) -> None:
    """Ids bind where there are any, else the host of the address does; no wildcards."""
    assert names_server(subject(*names), id, address) is expected


@pytest.mark.parametrize("broken", ["certificate", "key", "authorities", "missing", "foreign key"])
def test_files_that_are_of_no_use_are_refused(authority: Authority, tmp_path: Path, broken: str) -> None:
    """raft_uv_tls_init returns RAFT_INVALID with a text that names the files."""
    certificate, key = authority.issue("one", "raft-server-1")
    authorities = authority.path
    bad = tmp_path / "bad.pem"
    if broken != "missing":
        bad.write_text("nothing of use")
    if broken == "foreign key":
        _, key = authority.issue("other", "raft-server-1")
    elif broken == "key":
        key = bad
    elif broken == "authorities":
        authorities = bad
    else:
        certificate = bad
    transport, loop = RaftUvTransport(), Loop()
    assert raft_uv_tls_init(transport, loop, certificate, key, authorities) == RAFT_INVALID
    assert transport.errmsg.startswith("load certificates from ")
    assert transport.impl is None
    loop.close()


OWN = [
    ("expired", {"begin": NOW - 2 * DAY, "end": NOW - DAY}, "certificate has expired"),
    ("of the future", {"begin": NOW + DAY, "end": NOW + 2 * DAY}, "certificate is not yet valid"),
    ("no client", {"usages": [EKU.SERVER_AUTH]}, "un"),  # "unsuitable" or "unsupported certificate purpose"
    ("no server", {"usages": [EKU.CLIENT_AUTH]}, "un"),
]


@pytest.mark.parametrize(("how", "options", "reason"), OWN)
def test_an_own_certificate_that_no_peer_would_accept_is_refused(
    authority: Authority, how: str, options: dict[str, Any], reason: str
) -> None:
    """With TLS 1.3 who connects with such a certificate believes itself connected, and would never know."""
    files = authority.issue_odd("odd", "raft-server-1", **options)
    transport, loop = RaftUvTransport(), Loop()
    assert raft_uv_tls_init(transport, loop, *files, authority.path) == RAFT_INVALID
    assert transport.errmsg.startswith(f"own certificate {shown(str(files[0]))} is of no use: {reason}")
    assert transport.impl is None
    loop.close()


def test_an_own_certificate_of_a_foreign_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Peers have the same authorities, or one of the two files is the wrong one."""
    files = Authority(tmp_path, "stranger").issue("one", "raft-server-1")
    transport, loop = RaftUvTransport(), Loop()
    assert raft_uv_tls_init(transport, loop, *files, authority.path) == RAFT_INVALID
    assert transport.errmsg.endswith("is of no use: unable to get local issuer certificate")
    loop.close()


def test_an_own_certificate_must_name_the_server(authority: Authority) -> None:
    """The id is known when the server is initialized; a reload keeps what it has when the new one names another."""
    transport, loop = RaftUvTransport(), Loop()
    assert tls_init(authority, "one", "raft-server-1")(transport, loop) == 0
    assert transport.init(transport, 3, "127.0.0.1:9001") == RAFT_INVALID
    text = f"own certificate {shown(str(authority.dir / 'one.pem'))}, of raft-server-1, does not name server "
    assert transport.errmsg == f"{text}3 at 127.0.0.1:9001"
    assert transport.init(transport, 1, "127.0.0.1:9001") == 0
    authority.issue("one", "raft-server-2")
    assert raft_uv_tls_reload(transport) == RAFT_INVALID
    assert transport.errmsg == f"{text.replace('1, does', '2, does')}1 at 127.0.0.1:9001"
    loop.close()


def test_revocation_lists_among_the_authorities_are_refused(authority: Authority, tmp_path: Path) -> None:
    """OpenSSL would take them from there, an old one perhaps, that nobody has looked at."""
    files = authority.issue("one", "raft-server-1")
    authorities, lists = tmp_path / "authorities.pem", tmp_path / "crl.pem"
    lists.write_bytes(authority.revocations())
    authorities.write_bytes(authority.path.read_bytes() + lists.read_bytes())
    transport, loop = RaftUvTransport(), Loop()
    assert raft_uv_tls_init(transport, loop, *files, authorities, crl=lists) == RAFT_INVALID
    assert "there are revocation lists among the authorities" in transport.errmsg
    loop.close()


def test_long_paths_do_not_push_the_reason_out_of_the_text(authority: Authority, tmp_path: Path) -> None:
    """A text has 255 bytes, and three paths may take all of them: of a long path there is the end."""
    dir = tmp_path / ("d" * 100) / ("é" * 60)
    dir.mkdir(parents=True)
    certificate, key, bad = dir / "one.pem", dir / "one.key", dir / "authorities.pem"
    for source, target in zip(authority.issue("one", "raft-server-1"), (certificate, key), strict=True):
        target.write_bytes(source.read_bytes())
    lists = authority.revocations()
    bad.write_bytes(authority.path.read_bytes() + lists)
    transport, loop = RaftUvTransport(), Loop()
    assert raft_uv_tls_init(transport, loop, certificate, key, bad) == RAFT_INVALID
    reason = "there are revocation lists among the authorities"
    assert all(text in transport.errmsg for text in (reason, "/one.pem, …", "/one.key, …", "/authorities.pem: "))
    assert raft_uv_tls_init(transport, loop, certificate, key, authority.path, crl=bad) == RAFT_INVALID
    assert transport.errmsg.startswith("load revocation lists from …")
    assert "/authorities.pem: " in transport.errmsg
    loop.close()


def test_each_file_is_read_once(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content that was judged is used, although the file changes in between."""
    files = *authority.issue("one", "raft-server-1"), authority.path, tmp_path / "crl.pem"
    files[3].write_bytes(authority.revocations())
    opened: list[Any] = []
    open_file = fs.open

    def replace_after_opening(path: str, flags: int) -> int:
        opened.append(path)
        fd = open_file(path, flags)
        Path(path).rename(tmp_path / f"moved{len(opened)}")
        Path(path).write_text("nothing of use")
        return fd

    monkeypatch.setattr(fs, "open", replace_after_opening)
    transport, loop = RaftUvTransport(), Loop()
    try:
        assert raft_uv_tls_init(transport, loop, *files[:3], crl=files[3]) == 0, transport.errmsg
    finally:
        for i, path in enumerate(opened, 1):
            (tmp_path / f"moved{i}").rename(path)
    assert sorted(opened) == sorted(map(str, files))
    loop.close()


def test_without_memory_files_temporary_ones_serve(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox may refuse memfd_create; nothing is left behind then."""

    def refuse(name: str, flags: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    lists = tmp_path / "crl.pem"
    lists.write_bytes(authority.revocations())
    transport, loop = RaftUvTransport(), Loop()
    assert tls_init(authority, "one", "raft-server-1", crl=lists)(transport, loop) == 0, transport.errmsg
    assert os.listdir(tmp_path / "tmp") == []
    loop.close()


def test_files_that_others_may_change_are_told(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """A user who can write the key's or the authorities' file is as good as the server."""
    certificate, key = authority.issue("one", "raft-server-1")
    transport, loop = RaftUvTransport(), Loop()
    certificate.chmod(0o622)
    key.chmod(0o644)
    assert raft_uv_tls_init(transport, loop, certificate, key, authority.path) == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"{certificate} may be written by others (mode 622)",
        f"{key}, which is secret, may be read by everybody (mode 644)",
    ]
    loop.close()


def test_lists_without_cryptography_are_refused(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with an extra, and the text says which; TLS without lists does not need it."""
    lists = tmp_path / "crl.pem"
    lists.write_bytes(authority.revocations())
    monkeypatch.delitem(sys.modules, "io_uv.crl", raising=False)
    monkeypatch.delattr(io_uv, "crl", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    transport, loop = RaftUvTransport(), Loop()
    files = authority.issue("one", "raft-server-1")
    assert raft_uv_tls_init(transport, loop, *files, authority.path, crl=lists) == RAFT_INVALID
    assert "this takes the package cryptography, pip install 'pyraft-uv[tls]'" in transport.errmsg
    assert raft_uv_tls_init(transport, loop, *files, authority.path) == 0
    loop.close()


def test_another_version_of_the_transport_is_refused(authority: Authority) -> None:
    """raft_uv_tcp_init refuses it too."""
    transport, loop = RaftUvTransport(), Loop()
    transport.version = 2
    files = authority.issue("one", "raft-server-1")
    assert raft_uv_tls_init(transport, loop, *files, authority.path) == RAFT_INVALID
    assert transport.errmsg == "Invalid version: 2"
    loop.close()


def test_reload_without_tls_is_refused() -> None:
    """A program may reload on a signal whatever its transport is."""
    transport, loop = RaftUvTransport(), Loop()
    for _ in range(2):
        assert raft_uv_tls_reload(transport) == RAFT_INVALID
        assert transport.errmsg == "not a TLS transport"
        assert raft_uv_tcp_init(transport, loop) == 0
    loop.close()


def test_certificates_are_reloaded(pair: Pair, tmp_path: Path) -> None:
    """After new files were put in place and reloaded, new connections use them; bad files change nothing."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    both = tmp_path / "both.pem"
    both.write_bytes(old.path.read_bytes())
    files = old.issue("one", "raft-server-1")
    one = pair.add(1, lambda t, loop: raft_uv_tls_init(t, loop, *files, both))
    two_files = new.issue("two", "raft-server-2")
    two = pair.add(2, lambda t, loop: raft_uv_tls_init(t, loop, *two_files, trusting(old, new)))
    expect_no_message(pair, one, two, "self-signed certificate in certificate chain", one.traces)
    both.write_text("half written")
    assert raft_uv_tls_reload(one.transport) == RAFT_INVALID
    both.write_bytes(old.path.read_bytes() + new.path.read_bytes())
    assert raft_uv_tls_reload(one.transport) == 0
    pair.run_until(lambda: two.received)
    # The other way round: a renewed certificate of the own.
    files[0].write_bytes(b"")
    assert raft_uv_tls_reload(one.transport) == RAFT_INVALID
    old.issue("one", "raft-server-1")
    assert raft_uv_tls_reload(one.transport) == 0
    two.uv.servers[0].abort()
    pair.run_until(lambda: not two.uv.servers and not two.uv.aborting)
    pair.run_until(lambda: one.uv.clients[0].stream is not None)
    one.wait(one.send_to(two, m.timeout_now(1, 3, 11, 2)))
    pair.run_until(lambda: len(two.received) >= 2)


def test_an_acceptor_that_is_no_server_is_no_connection(authority: Authority) -> None:
    """connect fails when the other side does not speak TLS, or hangs up."""
    for answer in (b"HTTP/1.0 400 Bad Request\r\n\r\n", b""):
        f = Transport("127.0.0.1:9001", init=tls_init(authority, "one", "raft-server-1"))
        peer = PeerServer(f.loop)
        assert f.connect(peer.address) == 0
        connection = peer.accept()
        connection.read(1)
        if answer:
            connection.send(answer)
        connection.sock.shutdown(socket.SHUT_WR)
        assert f.wait_connected() == (None, RAFT_NOCONNECTION)
        assert f.t.errmsg.startswith("uv_tcp_connect(): TLS: ")
        peer.close()
        f.close()


def test_small_buffers_are_joined_and_large_ones_cut() -> None:
    """Each piece costs a call of OpenSSL: no more of them than it takes, and none that is a large copy."""
    piece = tls._PIECE
    for sizes, expected in (
        ([100] * 50, [5000]),
        ([piece - 1, piece - 1, 10], [2 * piece - 2, 10]),
        ([10, 2 * piece + 5, 10], [10, piece, piece, 5, 10]),
        ([], []),
        ([0, 0], []),
    ):
        buffers: list[bytes | memoryview] = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
        pieces = list(tls._pieces(buffers))
        assert [len(each) for each in pieces] == expected
        assert b"".join(pieces) == b"".join(buffers)

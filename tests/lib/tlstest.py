"""Servers that speak TLS on one loop, and an authority that makes real certificates and revocation lists for them."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

import trustme
from cryptography import x509  # what trustme is built on
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU
from cryptography.x509.oid import NameOID

from io_uv import (
    raft_uv_close,
    raft_uv_init,
    raft_uv_set_connect_retry_delay,
    raft_uv_set_tracer,
    raft_uv_tcp_close,
    raft_uv_tls_init,
)
from io_uv.pyuv import Loop
from io_uv.transport import RaftUvTransport
from pyraft.tracing import RaftTracer
from pyraft.types import RaftIoSend, RaftMessage
from tests.lib import messages as m
from tests.lib.peer import port_of
from tests.lib.uvtest import Outcome, UvIo, run_until

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)


class Authority:
    """A certificate authority and the files that it makes."""

    def __init__(self, dir: Path, name: str = "ca", parent: "Authority | None" = None) -> None:
        self.ca: trustme.CA = trustme.CA() if parent is None else parent.ca.create_child_ca()
        self.dir = dir
        self.path = dir / f"{name}.pem"
        self.ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str, *names: str) -> tuple[Path, Path]:
        """Make a certificate for the names; return the paths of certificate and key."""
        issued = self.ca.issue_cert(*names)
        certificate, key = self.dir / f"{name}.pem", self.dir / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return certificate, key

    def issue_odd(
        self,
        name: str,
        *names: str,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        usages: Sequence[x509.ObjectIdentifier] = (EKU.SERVER_AUTH, EKU.CLIENT_AUTH),
    ) -> tuple[Path, Path]:
        """Make a certificate for DNS names, if asked one that peers refuse; return the paths of certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.load_pem_x509_certificate(self.ca.cert_pem.bytes()).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(alternatives, critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=True)
        )
        pem = serialization.Encoding.PEM
        certificate, path = self.dir / f"{name}.pem", self.dir / f"{name}.key"
        certificate.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(pem))
        form = serialization.PrivateFormat.PKCS8
        path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
        path.chmod(0o600)
        return certificate, path

    def revocations(
        self,
        *revoked: Path,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
        number: int | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> bytes:
        """Return a revocation list in PEM with the first certificate of each of these files."""
        builder = x509.CertificateRevocationListBuilder(last_update=begin, next_update=end)
        builder = builder.issuer_name(x509.load_pem_x509_certificate(self.ca.cert_pem.bytes()).subject)
        for path in revoked:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, begin).build())
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The private key."""
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def shared_certificate(dir: Path, name: str, lxd: bool = False) -> tuple[Path, Path]:
    """Make a certificate that is its own authority, as those that all nodes of a cluster of go-dqlite share.

    Return the paths of certificate and key. Its names are NAME.example and 127.0.0.1. With `lxd` it is not fit for an
    authority nor a client, although LXD shows such ones as a client as well.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(f"{name}.example"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=not lxd, path_length=None), critical=True)
    )
    if lxd:
        builder = builder.add_extension(x509.ExtendedKeyUsage([EKU.SERVER_AUTH]), critical=False)
    pem = serialization.Encoding.PEM
    certificate, path = dir / f"{name}.crt", dir / f"{name}.key"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    path.chmod(0o600)
    return certificate, path


def tls_init(
    authority: Authority, name: str, *names: str, crl: Path | None = None
) -> Callable[[RaftUvTransport, Loop], int]:
    """Return a function like raft_uv_tcp_init that makes a transport with a fresh certificate."""
    files = authority.issue(name, *names)
    return lambda transport, loop: raft_uv_tls_init(transport, loop, *files, authority.path, crl=crl)


def trusting(*authorities: Authority) -> Path:
    """Return the path of a file with several authorities."""
    path = authorities[0].dir / ("-".join(authority.path.stem for authority in authorities) + ".pem")
    path.write_bytes(b"".join(authority.path.read_bytes() for authority in authorities))
    return path


class TlsIo(UvIo):
    """A RaftIo over TLS that listens, and what it has received."""

    def __init__(self, dir: Path, id: int, init: Callable[[RaftUvTransport, Loop], int], loop: Loop) -> None:
        dir.mkdir()
        super().__init__(dir, "127.0.0.1:0", id, loop)
        raft_uv_close(self.io)
        raft_uv_tcp_close(self.transport)
        assert init(self.transport, loop) == 0, self.transport.errmsg
        assert raft_uv_init(self.io, loop, str(dir), self.transport) == 0
        self.start()
        raft_uv_set_connect_retry_delay(self.io, 10)
        self.traces: list[str] = []
        tracer = RaftTracer(lambda t, file, line, func, level, text: self.traces.append(text), True)
        raft_uv_set_tracer(self.io, tracer)
        self.received: list[RaftMessage] = []
        rv = self.io.start(self.io, 60_000, lambda io: None, lambda io, message: self.received.append(message))
        assert rv == 0, self.io.errmsg
        self.listens_at = f"127.0.0.1:{port_of(self.transport)}"

    def send_to(self, other: "TlsIo", message: RaftMessage) -> Outcome:
        """Send a message to another server."""
        message.server_id = other.id
        message.server_address = other.listens_at
        outcome = Outcome()
        assert self.io.send(self.io, RaftIoSend(), message, outcome) == 0, self.io.errmsg
        return outcome


class Pair:
    """Servers on one loop."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.loop = Loop()
        self.servers: list[TlsIo] = []

    def add(self, id: int, init: Callable[[RaftUvTransport, Loop], int]) -> TlsIo:
        """Start a server."""
        server = TlsIo(self.dir / str(len(self.servers)), id, init, self.loop)
        self.servers.append(server)
        return server

    def run_until(self, done: Callable[[], object]) -> None:
        """Turn the loop until a condition holds."""
        run_until(self.loop, done)

    def close(self) -> None:
        """Close all servers."""
        for server in self.servers:
            server.close()
        self.loop.close()


def expect_no_message(pair: Pair, sender: TlsIo, target: TlsIo, reason: str, where: list[str]) -> None:
    """Send, wait for the trace that tells why it does not arrive, and see that it did not."""
    sender.send_to(target, m.timeout_now(sender.id, 3, 10, 2))
    pair.run_until(lambda: any(reason in text for text in where))
    assert target.received == []
    assert target.uv.servers == []

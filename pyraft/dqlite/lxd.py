"""TLS as LXD has it: each node has a certificate of its own, and all accept connections with the cluster's.

Duty: `LxdTls` takes the place of `Tls` for members and clients of such a cluster. The end that connects shows its own
certificate, and believes an end that shows the cluster's. The accepting end believes certificates that are in a list.
Source: lxd/cluster/gateway.go of canonical/lxd; seen with LXD 5.0.2.

Happy path: `LxdTls.of("/var/lib/lxd")` has the files of an LXD that is not running, or those of one that is, for
clients. Another node has its own certificate, copies of the cluster's, and a PEM file with those that it lets in.

Failure modes: Failure or Refused for files of no use. All of LXD's certificates are for servers only, and OpenSSL lets
no client in with such a one; so it gets the list in a form that declares each trusted as a client's. The signature of
LXD's authority (`server.ca`) makes no certificate believed.
"""

import hashlib
import os
import sqlite3
import ssl
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import io_uv
from io_uv import credentials, keyfiles, pyuv, tls
from io_uv.failure import Failure
from pyraft.dqlite.errors import Refused
from pyraft.errors import RAFT_INVALID
from pyraft.node.tls import Path, Tls

TRUSTED: Final = "trusted.crt"
"""The certificates of those who may connect, in a directory that is not LXD's own."""

_FAULTS: Final = (OSError, ValueError, Failure, sqlite3.Error)
"""The ways in which files can be of no use."""
_SQLITE: Final = b"SQLite format 3\0"
_SERVER: Final = 2
"""The type of nodes' certificates in LXD's tables."""
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_FOR_CLIENTS: Final = bytes.fromhex("300c300a06082b06010505070302")
"""The end of a "trusted certificate" of OpenSSL (X509_CERT_AUX): it is trusted for clientAuth."""


@dataclass(frozen=True)
class LxdTls(Tls):
    """The files: own certificate and key, and in `ca` the cluster's certificate. Members need the others, too.

    `cluster_key` is the key of the cluster's certificate, `trusted` has the certificates of those who may connect: PEM,
    or LXD's `local.db`.
    """

    cluster_key: Path | None = None
    trusted: Path | None = None

    @classmethod
    def of(cls, directory: str | os.PathLike[str]) -> "LxdTls":
        """Return the files of a directory of LXD, or of one like it that has `trusted.crt`."""
        own, cluster = os.path.join(directory, "server"), os.path.join(directory, "cluster")
        trusted = os.path.join(directory, TRUSTED)
        if not os.path.exists(trusted):
            trusted = os.path.join(directory, "database", "local.db")
        return cls(f"{own}.crt", f"{own}.key", f"{cluster}.crt", None, f"{cluster}.key", trusted)

    def fill(self, transport: io_uv.RaftUvTransport, loop: pyuv.Loop) -> int:
        """Make a transport one that uses these files; return raft_uv_tls_init's code."""
        rv = tls.init(transport, loop, _Source(self))
        if rv == 0:
            # LXD's certificates do not say which node they are of: the owner of one may be any node.
            rv = io_uv.raft_uv_tls_set_policy(transport, lambda certificate, id, address: True)
        return rv

    def fingerprint(self) -> bytes:
        """Return what is another one when the content of a member's files is."""
        found = hashlib.sha256()
        try:
            own, cluster, trusted = _read(self, again=True)
            for one in (*own, *cluster, *sorted(trusted)):
                found.update(hashlib.sha256(one).digest())
        except _FAULTS as exc:
            found.update(_text(exc).encode())
        return found.digest()

    def context(self) -> ssl.SSLContext:
        """Return a context for connections that this end opens. Raises Refused."""
        try:
            own = keyfiles.read(os.fspath(self.cert)), keyfiles.read(os.fspath(self.key), secret=True)
            return _connecting(own, keyfiles.read(os.fspath(self.ca)))
        except _FAULTS as exc:
            raise Refused(f"load certificates from {self.cert}, {self.key}, {self.ca}: {_text(exc)}") from None


class _Source:
    """The contexts of a member's transport, for io_uv.tls."""

    def __init__(self, files: LxdTls) -> None:
        self.certificate = files.ca
        self._files = files

    def load(self) -> tuple[ssl.SSLContext, ssl.SSLContext, dict[str, Any]]:
        """Return contexts for accepting and for connecting, and the own certificate. Raises Failure."""
        try:
            own, cluster, trusted = _read(self._files)
            contexts = _accepting(cluster, trusted), _connecting(own, cluster[0])
            return *contexts, credentials.meet_oneself(*contexts)
        except _FAULTS as exc:
            raise Failure(RAFT_INVALID, f"load certificates of LXD with {self._files.cert}: {_text(exc)}") from None


def _read(files: LxdTls, again: bool = False) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes], list[bytes]]:
    """Return the own certificate and its key, the cluster's, and those that are trusted. Raises one of _FAULTS.

    With `again` the log does not hear once more of files that others may read or write.
    """
    if files.cluster_key is None or files.trusted is None:
        raise Failure(RAFT_INVALID, "a member needs the key of the cluster's certificate, and whom to trust")

    def read(path: Path, secret: bool = False) -> bytes:
        name = os.fsdecode(path)
        return keyfiles.peek(name) if again else keyfiles.read(name, secret)

    own = read(files.cert), read(files.key, secret=True)
    cluster = read(files.ca), read(files.cluster_key, secret=True)
    trusted = _certificates(os.fsdecode(files.trusted), read(files.trusted))
    return own, cluster, [*trusted, *_split(own[0].decode())]


def _text(exc: Exception) -> str:
    return exc.message if isinstance(exc, Failure) else str(exc)


def _connecting(own: tuple[bytes, bytes], cluster: bytes) -> ssl.SSLContext:
    """Return a context that shows the own certificate, and takes the cluster's from the other end."""
    context = credentials.context_of(ssl.PROTOCOL_TLS_CLIENT, own)
    # Nobody else has that certificate, so its names say nothing more.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with keyfiles.in_memory(cluster) as path:
        context.load_verify_locations(path)
    return context


def _accepting(cluster: tuple[bytes, bytes], trusted: list[bytes]) -> ssl.SSLContext:
    """Return a context that shows the cluster's certificate, and takes those that are trusted from the other end."""
    context = credentials.context_of(ssl.PROTOCOL_TLS_SERVER, cluster)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    pem = "".join([_as_trusted(one) for one in dict.fromkeys(trusted)])
    with keyfiles.in_memory(pem.encode()) as path:
        context.load_verify_locations(path)
    return context


def _as_trusted(certificate: bytes) -> str:
    """Return a certificate in the form in which OpenSSL takes it as a client's, whatever it was issued for."""
    return ssl.DER_cert_to_PEM_cert(certificate + _FOR_CLIENTS).replace(
        " CERTIFICATE-----", " TRUSTED CERTIFICATE-----"
    )


def _certificates(path: str, data: bytes) -> list[bytes]:
    """Return the certificates of a PEM file, or of nodes in a database of LXD."""
    if not data.startswith(_SQLITE):
        return _split(data.decode())
    with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)) as connection:
        rows = connection.execute("select certificate from certificates where type = ?", (_SERVER,)).fetchall()
    return [one for (text,) in rows for one in _split(text)]


def _split(pem: str) -> list[bytes]:
    return [ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{part.partition(_END)[0]}{_END}") for part in pem.split(_BEGIN)[1:]]

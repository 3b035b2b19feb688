"""The means by which a server proves itself and believes others: certificates, authorities, revocation lists.

Duty: `Files` makes the two contexts of a TLS transport, for accepting and for connecting, out of an operator's files;
`names_server` says whether a certificate is a given server's.

Happy path: each file is read once; certificates, key and authorities go to OpenSSL as they were read, revocation lists
as `crl` has parsed and encoded them anew. Then the server shakes hands with itself in memory, as its peers will with
it: that shows whether its own certificate is in force, signed by an authority and fit for both ends.

Failure modes: Failure(RAFT_INVALID) with a text that names the files and what is wrong, which is all that a server with
a certificate of no use would ever learn: with TLS 1.3 it believes itself connected until its peers have hung up.
"""

import ipaddress
import os
import ssl
import time
from typing import Any, Final, Protocol, TypeAlias

from io_uv import ip, keyfiles
from io_uv.failure import Failure, message_of
from pyraft.errors import RAFT_INVALID

ID_PREFIX: Final = "raft-server-"

Path: TypeAlias = str | os.PathLike[str]

_SHOWN: Final = 120
# The IPv4 addresses among those of IPv6 (RFC 4291, 2.5.5.2).
_MAPPED: Final = int(ipaddress.IPv6Address("::ffff:0.0.0.0"))


def shown(path: str, size: int = _SHOWN) -> str:
    """Return a path for texts: only the end of a long one, so that the reason that follows it is not cut off."""
    raw = os.fsencode(path)
    return path if len(raw) <= size else "…" + raw[3 - size :].decode("utf-8", "ignore")


class Source(Protocol):
    """Where the contexts of a transport come from."""

    @property
    def certificate(self) -> Path:
        """The file of the own certificate, for texts."""
        ...

    def load(self) -> tuple[ssl.SSLContext, ssl.SSLContext, dict[str, Any]]:
        """Return contexts for accepting and for connecting, and the own certificate as getpeercert has it.

        Raises Failure(RAFT_INVALID).
        """
        ...


class Files:
    """The files that an operator gives: paths, each of which is read once per load."""

    def __init__(self, certificate: Path, key: Path, authorities: Path, crl: Path | None) -> None:
        self.certificate = certificate
        self._key = key
        self._authorities = authorities
        self._crl = crl

    def load(self) -> tuple[ssl.SSLContext, ssl.SSLContext, dict[str, Any]]:
        """Return contexts for accepting and for connecting, and the own certificate as getpeercert has it.

        Raises Failure(RAFT_INVALID), also for an own certificate that no peer with these files would accept.
        """
        certificate, key, authorities = (os.fspath(path) for path in (self.certificate, self._key, self._authorities))
        try:
            own = keyfiles.read(certificate), keyfiles.read(key, secret=True)
            trusted = keyfiles.read(authorities)
            contexts = _context(ssl.PROTOCOL_TLS_SERVER, own, trusted), _context(ssl.PROTOCOL_TLS_CLIENT, own, trusted)
        except (OSError, ValueError, Failure) as exc:
            paths = ", ".join(shown(path, _SHOWN // 3) for path in (certificate, key, authorities))
            raise Failure(RAFT_INVALID, f"load certificates from {paths}: {message_of(exc)}") from None
        if self._crl is not None:
            path = os.fspath(self._crl)
            try:
                use_lists(contexts, keyfiles.read(path))
            except Failure as failure:
                raise Failure(RAFT_INVALID, f"load revocation lists from {shown(path)}: {failure.message}") from None
        try:
            return *contexts, meet_oneself(*contexts)
        except ssl.SSLError as exc:
            raise Failure(
                RAFT_INVALID, f"own certificate {shown(certificate)} is of no use: {reason_of(exc)}"
            ) from None


def context_of(protocol: int, own: tuple[bytes, bytes]) -> ssl.SSLContext:
    """Return a context with an own certificate and its key, as every end of ours has it: TLS 1.3, without tickets."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with keyfiles.in_memory(own[0]) as certificate, keyfiles.in_memory(own[1]) as key:
        # A passphrase would be asked for at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        # A connection is judged by certificates each time.
        context.num_tickets = 0
    return context


def _context(protocol: int, own: tuple[bytes, bytes], trusted: bytes) -> ssl.SSLContext:
    context = context_of(protocol, own)
    # Names are compared by `names_server`, on both sides in the same way.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    with keyfiles.in_memory(trusted) as path:
        context.load_verify_locations(path)
    if context.cert_store_stats()["crl"] != 0:
        raise Failure(RAFT_INVALID, "there are revocation lists among the authorities, which have a file of their own")
    return context


def use_lists(contexts: tuple[ssl.SSLContext, ...], data: bytes) -> None:
    """Have the revocation lists of a file decide in handshakes, if they are good, else raise Failure.

    The authorities are those of the first context.
    """
    try:
        from io_uv import crl
    except ImportError as exc:
        raise Failure(
            RAFT_INVALID, f"this takes the package cryptography, pip install 'pyraft-uv[tls]': {exc}"
        ) from None
    lists = crl.select(data, contexts[0].get_ca_certs(True), time.time())
    for context in contexts:
        before = context.cert_store_stats()
        try:
            # The ssl module takes lists from files only.
            with keyfiles.in_memory(b"".join(lists)) as path:
                context.load_verify_locations(path)
        except (OSError, ValueError) as exc:
            raise Failure(RAFT_INVALID, str(exc)) from None
        # A certificate that gets in here makes its owner an authority.
        if context.cert_store_stats() != {**before, "crl": len(lists)}:
            has = context.cert_store_stats()
            raise Failure(RAFT_INVALID, f"OpenSSL had {before}, was given {len(lists)} lists, and has {has}")
        # Every certificate in the chain is looked up, so that an authority between root and peer can be revoked, too.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN


def meet_oneself(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Shake hands with oneself, as peers with the same files will; return the own certificate, or raise SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    # Hello, certificates of the acceptor, certificates of the connector.
    for end in (*ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ends[1].getpeercert() or {}


def reason_of(exc: ssl.SSLError) -> str:
    """Return what OpenSSL has to say, as short as it can be."""
    reason: str = getattr(exc, "verify_message", "") or exc.reason or str(exc)
    _, alert, what = reason.partition("_ALERT_")
    return f"the peer says: {what.lower().replace('_', ' ')}" if alert else reason


def is_certain(exc: ssl.SSLError) -> bool:
    """Return whether trying again will not help: the certificate of one end does not please the other."""
    return isinstance(exc, ssl.SSLCertVerificationError) or "_ALERT_" in (exc.reason or "")


def names_of(certificate: dict[str, Any]) -> str:
    """Return the names in a certificate, for texts."""
    return ", ".join(str(name) for _, name in certificate.get("subjectAltName", ())) or "nobody"


def names_server(certificate: dict[str, Any], id: int, address: str) -> bool:
    """Whether a certificate, as ssl.SSLObject.getpeercert has it, is one of server `id` with that address."""
    names = certificate.get("subjectAltName", ())
    hosts = [_dns(name) for kind, name in names if kind == "DNS"]
    ids = [name for name in hosts if name.startswith(ID_PREFIX)]
    if ids:
        return f"{ID_PREFIX}{id}" in ids
    try:
        host, _ = ip.split(address)
    except Failure:
        return False
    wanted = _number(host)
    if wanted is None:
        # A name with a wildcard is nobody's, not even that of a host that is called so.
        return host != "" and "*" not in host and (_dns(host) in hosts or _dns(ip.in_ascii(host)) in hosts)
    return any(kind == "IP Address" and _number(name.strip()) == wanted for kind, name in names)


def _dns(name: str) -> str:
    """Return a DNS name as names are compared: without regard to case, and to the dot of the root (RFC 4343)."""
    return name.lower().removesuffix(".")


def _number(host: str) -> int | None:
    """Return an IP address as a number, the same for all spellings of one; None for anything else.

    An IPv4 address counts as itself where it is written as one of IPv6 ("::ffff:10.0.0.1"). The interface behind it
    ("fe80::1%eth0") is left out: it says by which way this machine gets there, and certificates have no place for it.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return _MAPPED | int(address)
    return int(address)

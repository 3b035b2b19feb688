"""Certificate revocation lists: each is judged before it is used, and OpenSSL gets only good ones.

Duty: `select` takes the bytes of a file of PEM revocation lists (RFC 5280, section 5), says what is wrong with it, and
returns those lists that are to be used, encoded anew. The package cryptography parses them, verifies what the given
authorities have signed and compares names; serial numbers are looked up by OpenSSL, in every handshake.

Happy path: the file has nothing but lists, and text between them; each is whole, no delta and not of a part of the
certificates only; each of the given authorities has one that is current. Of several lists of one authority the newest
counts, and of those made in the same second the one with the highest number. Only that one is returned: of two, OpenSSL
would take the first, and the older one when the newer has expired.

Failure modes: Failure(RAFT_INVALID) with a text that names the list by its place in the file. Without this module,
where cryptography is missing, there is no TLS with revocation lists.
"""

import base64
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from io_uv.failure import Failure
from pyraft.errors import RAFT_INVALID

_LABEL: Final = re.compile(rb"-----BEGIN ([^\r\n]*?)-----")
_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)
_X509_CRL: Final = b"X509 CRL"
_CONTROL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")

_Signer: TypeAlias = tuple[x509.Name, bytes]
"""The maker of lists: a name and a key, as an authority may keep its name with a new key."""
_Rank: TypeAlias = tuple[datetime, int]


class _Authority:
    """A given authority: its name for texts, and its certificate."""

    def __init__(self, certificate: bytes) -> None:
        self.certificate = x509.load_der_x509_certificate(certificate)
        self.subject = self.certificate.subject
        self.name = self.subject.rfc4514_string()
        key = self.certificate.public_key()
        self.signer: _Signer = (self.subject, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def has_signed(self, crl: x509.CertificateRevocationList) -> bool:
        """Return whether this authority's key has made a list."""
        return crl.is_signature_valid(self.certificate.public_key())  # type: ignore[arg-type]


def select(data: bytes, certificates: Sequence[bytes], now: float) -> list[bytes]:
    """Return the lists in PEM that are to be used, one for each signer in the file.

    `certificates` holds the authorities in DER, `now` is in seconds since the epoch. Raises Failure(RAFT_INVALID), see
    the head of this module.
    """
    try:
        authorities = [_Authority(certificate) for certificate in certificates]
    except Exception as exc:
        raise _invalid(f"an authority is malformed: {exc}") from None
    moment = datetime.fromtimestamp(now, timezone.utc)
    chosen: dict[_Signer, tuple[_Rank, bytes, bytes]] = {}
    stale: dict[_Signer, str] = {}
    for i, der in enumerate(_lists(data), 1):
        try:
            crl = x509.load_der_x509_crl(der)
            signer, rank, reason = _judge(crl, authorities, moment)
            content, pem = crl.tbs_certlist_bytes, crl.public_bytes(Encoding.PEM)
        except Failure as failure:
            raise _invalid(f"list {i}{failure.message}") from None
        except Exception as exc:
            # cryptography has many words for bytes that are not a list, or none that it can judge.
            raise _invalid(f"list {i} is malformed: {exc}") from None
        if reason:
            stale[signer] = f"list {i}{reason}"
            continue
        before = chosen.get(signer)
        if before is not None and before[0] == rank and before[1] != content:
            raise _invalid(f"list {i} differs from another one of the same authority, time and number")
        if before is None or before[0] < rank:
            chosen[signer] = rank, content, pem
    for signer, reason in stale.items():
        if signer not in chosen:
            raise _invalid(reason)
    for authority in authorities:
        if authority.signer not in chosen:
            raise _invalid(f"no list of {authority.name}")
    return [pem for _, _, pem in chosen.values()]


def _invalid(reason: str) -> Failure:
    return Failure(RAFT_INVALID, reason)


def _lists(data: bytes) -> list[bytes]:
    """Return the DER bytes of all lists in a file that has nothing else in it, but for text."""
    # Anywhere: OpenSSL also finds labels in the middle of a line.
    labels = _LABEL.findall(data)
    for label in labels:
        if label != _X509_CRL:
            raise _invalid(f"it has a {label.decode(errors='replace')} in it")
    texts = _LIST.findall(data)
    if len(texts) != len(labels) or any(b"-----" in text for text in texts):
        raise _invalid("a list in it has no end")
    if not texts:
        raise _invalid("no PEM revocation list in it")
    rest = _LIST.sub(b"", data)
    if b"X509 CRL-" in rest or b"-----END" in rest:
        raise _invalid("a list in it has no beginning")
    if not _is_text(rest):
        # A list in DER, say, whose revocations would count for nothing.
        raise _invalid("there is more in it than text and lists in PEM")
    found = []
    for i, text in enumerate(texts, 1):
        try:
            found.append(base64.b64decode(b"".join(text.split()), validate=True))
        except ValueError as exc:
            raise _invalid(f"list {i} is malformed: {exc}") from None
    return found


def _is_text(data: bytes) -> bool:
    """Return whether that is something to be read, as what `openssl crl -text` writes in front of a list."""
    try:
        return _CONTROL.search(data.decode("utf-8-sig")) is None
    except UnicodeDecodeError:
        return False


def _judge(
    crl: x509.CertificateRevocationList, authorities: list[_Authority], now: datetime
) -> tuple[_Signer, _Rank, str]:
    """Return (the signer of a list, its rank among that signer's lists, what is wrong with it now, "" for nothing).

    Raises Failure for a list that must not be in the file at all.
    """
    issuer = crl.issuer
    namesakes = [authority for authority in authorities if authority.subject == issuer]
    signers = [authority for authority in namesakes if authority.has_signed(crl)]
    name = namesakes[0].name if namesakes else "an authority not among those given"
    if namesakes and not signers:
        raise _invalid(f", of {name}, is not signed by it")
    _refuse_parts(crl, name)
    signer = signers[0].signer if signers else (issuer, _key_identifier(crl))
    begin, end = crl.last_update_utc, crl.next_update_utc
    reason = ""
    if end is not None and end <= now:
        reason = f", of {name}, expired at {_text(end)}"
    elif begin > now:
        reason = f", of {name}, is not valid before {_text(begin)}"
    return signer, (begin, _number(crl)), reason


def _refuse_parts(crl: x509.CertificateRevocationList, name: str) -> None:
    """Raise Failure for a list that does not say of every certificate of its issuer whether it is revoked."""
    extensions = crl.extensions
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.DeltaCRLIndicator):
            # OpenSSL takes a delta list for one that it does not know, unless told to look for them.
            raise _invalid(f", of {name}, is a delta list, which is not supported: give complete ones")
        if isinstance(value, x509.IssuingDistributionPoint):
            only = value.only_contains_user_certs or value.only_contains_ca_certs or value.indirect_crl
            if only or value.only_contains_attribute_certs or value.only_some_reasons is not None:
                raise _invalid(f", of {name}, is of a part of the certificates only, or indirect: give complete ones")
        elif extension.critical and isinstance(value, x509.UnrecognizedExtension):
            raise _invalid(f", of {name}, has the unknown critical extension {extension.oid.dotted_string}")


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return -1


def _key_identifier(crl: x509.CertificateRevocationList) -> bytes:
    try:
        found = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return b""
    return found or b""


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")

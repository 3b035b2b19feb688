"""Revocation lists that cannot be used are noticed when they are loaded."""

import base64
import random
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from io_uv import crl
from io_uv.failure import Failure
from pyraft.errors import RAFT_INVALID
from tests.lib.tlstest import DAY, NOW, Authority


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority."""
    return Authority(tmp_path_factory.mktemp("one"), "one")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another one."""
    return Authority(tmp_path_factory.mktemp("two"), "two")


def pem(der: bytes) -> bytes:
    """Return a list in PEM."""
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


def der(pem: bytes) -> bytes:
    """Return a list in DER."""
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def select(data: bytes, *authorities: Authority) -> list[bytes]:
    """Return what is to be used of a file with this content."""
    certificates = [ssl.PEM_cert_to_DER_cert(authority.path.read_text()) for authority in authorities]
    return crl.select(data, certificates, time.time())


def judge(data: bytes, *authorities: Authority) -> str:
    """Return what is wrong with a file of this content, "" if nothing is."""
    try:
        select(data, *authorities)
    except Failure as failure:
        return failure.message if failure.code == RAFT_INVALID else f"code {failure.code}"
    return ""


def name(authority: Authority) -> str:
    """Return what an authority is called."""
    return x509.load_pem_x509_certificate(authority.path.read_bytes()).subject.rfc4514_string()


def test_lists_of_all_authorities_are_fine(one: Authority, two: Authority) -> None:
    """Several lists may be in the file, in any order, with text around them, and of authorities that are not given."""
    data = b"of two:\r\n" + two.revocations().replace(b"\n", b"\r\n") + b"\nof one:\n" + one.revocations()
    assert judge(data, one, two) == ""
    assert judge(data, one) == ""


def test_a_list_for_every_authority_is_needed(one: Authority, two: Authority) -> None:
    """Without one nobody whom that authority vouches for could connect."""
    assert judge(one.revocations(), one, two) == f"no list of {name(two)}"


def test_times_are_checked(one: Authority, two: Authority) -> None:
    """An expired list and one of the future are refused by number and name; times are in UTC."""
    end = datetime(2020, 2, 29, 23, 59, 58, tzinfo=timezone.utc)
    old = one.revocations(begin=end - DAY, end=end)
    assert judge(two.revocations() + old, one) == f"list 2, of {name(one)}, expired at 2020-02-29T23:59:58Z"
    assert judge(two.revocations() + old, two) == (
        "list 2, of an authority not among those given, expired at 2020-02-29T23:59:58Z"
    )
    begin = datetime(2094, 3, 1, 0, 0, 1, tzinfo=timezone.utc)
    new = one.revocations(begin=begin, end=begin + DAY)
    assert judge(new, one) == f"list 1, of {name(one)}, is not valid before 2094-03-01T00:00:01Z"


def test_a_list_is_valid_from_its_first_second_until_its_last(one: Authority) -> None:
    """At the time of its next update it has expired."""
    begin = NOW.replace(microsecond=0)
    data, second = one.revocations(begin=begin, end=begin + DAY), begin.timestamp()
    authorities = [ssl.PEM_cert_to_DER_cert(one.path.read_text())]
    length = DAY.total_seconds()
    for now in (second, second + length - 1):
        assert crl.select(data, authorities, now) == [data]
    for now, reason in ((second - 1, "not valid before"), (second + length, "expired at")):
        with pytest.raises(Failure, match=reason):
            crl.select(data, authorities, now)


def test_a_valid_list_makes_up_for_others_of_its_authority(one: Authority) -> None:
    """Old lists may stay in the file, and far ends, which are written in another form, count."""
    old = one.revocations(begin=NOW - 3 * DAY, end=NOW - DAY)
    far = one.revocations(end=datetime(2077, 1, 1, tzinfo=timezone.utc))
    assert judge(old + far, one) == ""


def test_a_list_without_an_end_is_valid(one: Authority) -> None:
    """The time of the next update is optional."""
    endless = with_fields(one, lambda fields: fields[:4] + fields[5:])
    assert x509.load_pem_x509_crl(endless).next_update_utc is None
    assert judge(endless, one) == ""


def with_fields(authority: Authority, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """Return a list signed by the authority, some of whose fields (RFC 5280, 5.1.2) were changed."""
    signed = x509.load_pem_x509_crl(authority.revocations(authority.path)).tbs_certlist_bytes
    fields, at = [], header(signed, 0)[0]
    while at < len(signed):
        start, size = header(signed, at)
        fields.append(signed[at : start + size])
        at = start + size
    signed = sequence(b"".join(change(fields)))
    algorithm = fields[1]
    signature = authority.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return pem(sequence(signed + algorithm + b"\x03" + bytes([len(signature) + 1, 0]) + signature))


def header(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a DER element begins, and its length."""
    size = data[at + 1]
    if size < 0x80:
        return at + 2, size
    n = size & 0x7F
    return at + 2 + n, int.from_bytes(data[at + 2 : at + 2 + n], "big")


def sequence(content: bytes) -> bytes:
    """Return a DER sequence."""
    size = len(content)
    if size < 0x80:
        return bytes([0x30, size]) + content
    n = (size.bit_length() + 7) // 8
    return bytes([0x30, 0x80 | n]) + size.to_bytes(n, "big") + content


def test_the_newest_list_counts_alone(one: Authority) -> None:
    """OpenSSL would go back to the older one as soon as the newer has expired, and forget who was revoked since."""
    new = one.revocations(one.path, end=NOW + DAY)
    old = one.revocations(begin=NOW - 2 * DAY, end=NOW + 9 * DAY)
    assert select(old + new, one) == select(new + old, one) == [new]


def test_the_number_decides_between_lists_of_one_second(one: Authority) -> None:
    """Wherever they stand in the file; OpenSSL would take the first."""
    first, second = one.revocations(number=7), one.revocations(one.path, number=10)
    assert select(first + second, one) == select(second + first, one) == [second]
    without = one.revocations()
    assert select(without + first, one) == select(first + without, one) == [first]


def test_two_different_lists_of_one_second_and_number_are_refused(one: Authority) -> None:
    """Nothing says which of them holds; the same list twice is one."""
    first, second = one.revocations(number=7), one.revocations(one.path, number=7)
    assert judge(first + second, one) == "list 2 differs from another one of the same authority, time and number"
    assert select(first + first, one) == [first]


PART: dict[str, Any] = {"full_name": None, "relative_name": None, "only_some_reasons": None, "indirect_crl": False}
ALL = {f"only_contains_{what}_certs": False for what in ("user", "ca", "attribute")}


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (x509.DeltaCRLIndicator(3), "is a delta list"),
        (x509.IssuingDistributionPoint(**{**PART, **ALL, "only_contains_user_certs": True}), "is of a part"),
        (x509.IssuingDistributionPoint(**{**PART, **ALL, "only_contains_ca_certs": True}), "is of a part"),
        (x509.IssuingDistributionPoint(**{**PART, **ALL, "indirect_crl": True}), "is of a part"),
        (
            x509.IssuingDistributionPoint(
                **{**PART, **ALL, "only_some_reasons": frozenset([x509.ReasonFlags.key_compromise])}
            ),
            "is of a part",
        ),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.1"), b"\x05\x00"), "has the unknown critical"),
    ],
)
def test_lists_that_do_not_tell_all_are_refused(one: Authority, extension: x509.ExtensionType, reason: str) -> None:
    """A base list and a delta with a revocation let the revoked peer in, as OpenSSL looks at the base only."""
    part = one.revocations(one.path, extensions=[extension])
    assert f"list 2, of {name(one)}, {reason}" in judge(one.revocations() + part, one)


def test_a_list_that_another_key_has_signed_is_refused(one: Authority, two: Authority) -> None:
    """The issuer's name alone does not make it the issuer's list."""
    forged = x509.CertificateRevocationListBuilder(
        issuer_name=x509.load_pem_x509_certificate(one.path.read_bytes()).subject,
        last_update=NOW - DAY,
        next_update=NOW + DAY,
    ).sign(two.key, hashes.SHA256())
    text = forged.public_bytes(serialization.Encoding.PEM)
    assert judge(one.revocations() + text, one) == f"list 2, of {name(one)}, is not signed by it"


def test_nothing_else_hides_behind_junk(one: Authority, two: Authority) -> None:
    """OpenSSL reads 254 bytes at a time and takes what follows for the beginning of a line, here of an authority."""
    for before in range(260):
        data = one.revocations() + b"x" * before + two.path.read_bytes()
        assert judge(data, one) == "it has a CERTIFICATE in it"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no PEM revocation list in it"),
        (b"nothing of use", "no PEM revocation list in it"),
        (pem(b"\x04\x02no"), "list 1 is malformed: "),
        (pem(b""), "list 1 is malformed: "),
        (pem(b"\x30\x80"), "list 1 is malformed: "),
        (pem(b"\x30\x02\x04\x00"), "list 1 is malformed: "),
        (pem(b"\x30\x08\x30\x06\x30\x00\x30\x00\x30\x00"), "list 1 is malformed: "),
        (
            b"-----BEGIN X509 CRL-----\nAAAA\n-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n",
            "a list in it has no end",
        ),
        (b"-----BEGIN X509 CRL-----\n*\n-----END X509 CRL-----\n", "list 1 is malformed: "),
        (pem(b"x")[:-10], "a list in it has no end"),
        (b"-----BEGIN CERTIFICATE-----\n", "it has a CERTIFICATE in it"),
        (b"-----BEGIN PRIVATE \xff-----\n", "it has a PRIVATE \ufffd in it"),
    ],
)
def test_malformed_files_are_refused(one: Authority, data: bytes, reason: str) -> None:
    """The text says what is wrong."""
    assert judge(data, one).startswith(reason)


def test_good_lists_before_a_bad_one_do_not_help(one: Authority) -> None:
    """A file that was not copied wholly is refused wherever it ends."""
    good = one.revocations()
    for at in range(len(good) + 1, 2 * len(good) - 1):
        data = (good + good)[:at]
        # Less than a begin line is a text like any other.
        if data.count(b"BEGIN X509 CRL-----") == 2:
            assert judge(data, one) == "a list in it has no end"


def test_lists_that_are_not_read_are_not_ignored(one: Authority) -> None:
    """A later list in DER, or with a begin line that is not whole, may have what is not in the others."""
    good = one.revocations()
    for data in (good + der(good), der(good) + good, good + bytes(16), good + "r\xe9voqu\xe9".encode("latin-1")):
        assert judge(data, one) == "there is more in it than text and lists in PEM"
    for data in (
        good + good[1:],
        good[3:] + good,
        good + good[len(good) // 2 :],
        good + good.replace(b"-BEGIN ", b"-"),
    ):
        assert judge(data, one) == "a list in it has no beginning"


def test_text_around_lists_is_text(one: Authority) -> None:
    """As openssl writes it with -text, and an editor with a mark of the byte order."""
    good = one.revocations()
    text = "Certificate Revocation List (CRL):\r\n\tIssuer: CN=Autorit\xe9 ------\n\f".encode()
    for data in (text + good, b"\xef\xbb\xbf" + text + good + text + good, good + b"\n\n"):
        assert judge(data, one) == ""


def test_no_bytes_raise_anything_else(one: Authority) -> None:
    """Cut anywhere or with any bytes changed, a list is refused in the documented way: its signature is looked at."""
    good = der(one.revocations())
    for n in range(len(good)):
        assert judge(pem(good[:n]), one) != ""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data) // 2)] = rng.randrange(256)
        assert bytes(data) == good or judge(pem(bytes(data)), one) != ""


def with_key_identifier(authority: Authority, number: int, end: datetime) -> bytes:
    """Return a list of an authority that names its key."""
    key = x509.AuthorityKeyIdentifier(bytes([number]) * 20, None, None)
    builder = x509.CertificateRevocationListBuilder(last_update=end - DAY, next_update=end)
    builder = builder.issuer_name(x509.load_pem_x509_certificate(authority.path.read_bytes()).subject)
    return (
        builder.add_extension(key, critical=False)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def test_lists_of_namesakes_that_are_not_given_count_by_their_keys(one: Authority, two: Authority) -> None:
    """A list of another key, even of the same name, does not make up for one that has expired."""
    fresh, old = (with_key_identifier(two, key, NOW + days * DAY) for key, days in ((1, 1), (2, -1)))
    assert judge(one.revocations() + fresh, one) == ""
    assert "expired" in judge(one.revocations() + fresh + old, one)
    old = with_key_identifier(two, 1, NOW - DAY)
    assert judge(one.revocations() + fresh + old, one) == ""

"""Revocation lists that cannot be used are noticed when they are loaded."""

import base64
import os
import random
import ssl
from datetime import datetime, timezone
from pathlib import Path

import pytest

from io_uv import crl
from io_uv.fs import Failure
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


def known(*authorities: Authority) -> list[tuple[str, bytes]]:
    """Return authorities as `check` takes them."""
    return [(a.path.stem, ssl.PEM_cert_to_DER_cert(a.path.read_text())) for a in authorities]


def pem(der: bytes) -> bytes:
    """Return a list in PEM."""
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


def der(pem: bytes) -> bytes:
    """Return a list in DER."""
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def sequence(content: bytes) -> bytes:
    """Return a DER sequence."""
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def judge(path: Path, data: bytes, *authorities: Authority) -> str:
    """Return what is wrong with a file of this content, "" if nothing is."""
    path.write_bytes(data)
    try:
        crl.check(os.fspath(path), known(*authorities))
    except Failure as exc:
        failure = exc
    else:
        return ""
    prefix = f"load revocation lists from {path}: "
    assert (failure.code, failure.message[: len(prefix)]) == (RAFT_INVALID, prefix)
    return failure.message[len(prefix) :]


def test_lists_of_all_authorities_are_fine(one: Authority, two: Authority, tmp_path: Path) -> None:
    """Several lists may be in the file, in any order, with text around them, and of authorities that are not given."""
    data = b"of two:\r\n" + two.revocations().replace(b"\n", b"\r\n") + b"\nof one:\n" + one.revocations()
    assert judge(tmp_path / "crl.pem", data, one, two) == ""
    assert judge(tmp_path / "crl.pem", data, one) == ""


def test_a_list_for_every_authority_is_needed(one: Authority, two: Authority, tmp_path: Path) -> None:
    """Without one nobody whom that authority vouches for could connect."""
    assert judge(tmp_path / "crl.pem", one.revocations(), one, two) == "no list of two"


def test_times_are_checked(one: Authority, two: Authority, tmp_path: Path) -> None:
    """An expired list and one of the future are refused by number and name; times are in UTC."""
    path = tmp_path / "crl.pem"
    end = datetime(2020, 2, 29, 23, 59, 58, tzinfo=timezone.utc)
    old = one.revocations(begin=end - DAY, end=end)
    assert judge(path, two.revocations() + old, one) == "list 2, of one, expired at 2020-02-29T23:59:58Z"
    assert judge(path, two.revocations() + old, two) == (
        "list 2, of an authority not among those given, expired at 2020-02-29T23:59:58Z"
    )
    begin = datetime(2094, 3, 1, 0, 0, 1, tzinfo=timezone.utc)
    new = one.revocations(begin=begin, end=begin + DAY)
    assert judge(path, new, one) == "list 1, of one, is not valid before 2094-03-01T00:00:01Z"


def test_a_valid_list_makes_up_for_others_of_its_authority(one: Authority, tmp_path: Path) -> None:
    """Old lists may stay in the file, and far ends, which are written in another form, count."""
    old = one.revocations(begin=NOW - 3 * DAY, end=NOW - DAY)
    far = one.revocations(end=datetime(2077, 1, 1, tzinfo=timezone.utc))
    assert judge(tmp_path / "crl.pem", old + far, one) == ""


def test_a_list_without_an_end_is_valid(one: Authority, tmp_path: Path) -> None:
    """The time of the next update is optional; here the list of revoked certificates follows instead."""
    certificate, _ = one.issue("revoked", "raft-server-1")
    whole = crl._element(der(one.revocations(certificate)), 0)
    signed = crl._element(whole.content, 0)
    version = crl._element(signed.content, 0).whole
    fields = [field.whole for field in crl._fields(whole, crl._INTEGER)]
    assert crl._element(fields[3], 0).tag == crl._UTC_TIME
    del fields[3]
    endless = sequence(sequence(version + b"".join(fields)) + whole.content[len(signed.whole) :])
    assert judge(tmp_path / "crl.pem", pem(endless), one) == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no PEM revocation list in it"),
        (b"nothing of use", "no PEM revocation list in it"),
        (pem(b"\x04\x02no"), "list 1 is malformed: not a sequence"),
        (pem(b""), "list 1 is malformed: cut off"),
        (pem(b"\x30\x80"), "list 1 is malformed: cut off"),
        (pem(b"\x30\x02\x04\x00"), "list 1 is malformed: not a sequence of sequences"),
        (pem(b"\x30\x04\x30\x02\x30\x00"), "list 1 is malformed: too few fields"),
        (pem(b"\x30\x08\x30\x06\x30\x00\x30\x00\x30\x00"), "list 1 is malformed: not a time"),
        (b"-----BEGIN X509 CRL-----\n*\n-----END X509 CRL-----\n", "list 1 is malformed: "),
        (pem(b"x")[:-10], "a list in it has no end"),
        (b"-----BEGIN CERTIFICATE-----\n", "it has a CERTIFICATE in it"),
        (b"-----BEGIN PRIVATE \xff-----\n", "it has a PRIVATE \ufffd in it"),
    ],
)
def test_malformed_files_are_refused(one: Authority, tmp_path: Path, data: bytes, reason: str) -> None:
    """The text says what is wrong."""
    assert judge(tmp_path / "crl.pem", data, one).startswith(reason)


def test_good_lists_before_a_bad_one_do_not_help(one: Authority, tmp_path: Path) -> None:
    """A file that was not copied wholly is refused wherever it ends."""
    good = one.revocations()
    for at in range(len(good) + 1, 2 * len(good) - 1):
        data = (good + good)[:at]
        # Less than a begin line is a text like any other.
        if data.count(b"BEGIN X509 CRL-----") == 2:
            assert judge(tmp_path / "crl.pem", data, one) == "a list in it has no end"


def test_files_that_cannot_be_read_are_refused(one: Authority, tmp_path: Path) -> None:
    """The text has the reason of the system."""
    for path, reason in (
        (tmp_path / "none.pem", "no such file or directory"),
        (tmp_path, "illegal operation on a directory"),
    ):
        with pytest.raises(Failure, match=f"load revocation lists from {path}: .*{reason}"):
            crl.check(os.fspath(path), known(one))


def test_no_bytes_raise_anything_else(one: Authority, tmp_path: Path) -> None:
    """Cut anywhere or with any bytes changed, a list is found good or refused in the documented way."""
    good = der(one.revocations())
    for n in range(len(good)):
        assert judge(tmp_path / "crl.pem", pem(good[:n]), one) != ""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data) // 2)] = rng.randrange(256)
        judge(tmp_path / "crl.pem", pem(bytes(data)), one)

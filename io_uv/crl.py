"""Certificate revocation lists: seeing before they are used that they can be.

Duty: `check` reads a file of PEM revocation lists (RFC 5280, section 5) and says what is wrong with it. It verifies no
signature and looks up no serial number: OpenSSL does both in every handshake, and refuses all peers whose authority has
no list that is valid now. That is why a file that would have this effect must be noticed when it is loaded.

Happy path: the file has nothing but lists, at least one of them is current for each issuer in it, and each of the given
authorities is one of these issuers. Names are compared byte by byte, as RFC 5280 has authorities write them.

Failure modes: Failure(RAFT_INVALID) with a text that names the file and, where it is one list, its place in the file.
"""

import base64
import os
import re
import time
from calendar import timegm
from typing import Final

from io_uv import fs
from io_uv.fs import Failure
from pyraft.errors import RAFT_INVALID

_BEGIN: Final = re.compile(rb"^-----BEGIN ([^\r\n]*)-----", re.MULTILINE)
_LIST: Final = re.compile(rb"^-----BEGIN X509 CRL-----\r?\n(.*?)^-----END X509 CRL-----", re.MULTILINE | re.DOTALL)
_LABEL: Final = b"X509 CRL"

# Tags of DER.
_INTEGER: Final = 0x02
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0


class _Element:
    """A DER element: its tag, its content, and all of it."""

    __slots__ = ("content", "tag", "whole")

    def __init__(self, tag: int, content: bytes, whole: bytes) -> None:
        self.tag = tag
        self.content = content
        self.whole = whole


def check(path: str, authorities: list[tuple[str, bytes]]) -> None:
    """Raise Failure(RAFT_INVALID) unless the file has valid lists of all these authorities, and nothing but lists.

    `authorities` holds the name, for the text, and the DER certificate of each.
    """
    try:
        data = fs.read_file(*os.path.split(os.path.abspath(path)))
        _check(data, authorities, time.time())
    except Failure as failure:
        raise Failure(RAFT_INVALID, f"load revocation lists from {path}: {failure.message}") from None


def _check(data: bytes, authorities: list[tuple[str, bytes]], now: float) -> None:
    labels = _BEGIN.findall(data)
    for label in labels:
        if label != _LABEL:
            raise _invalid(f"it has a {label.decode(errors='replace')} in it")
    lists = _LIST.findall(data)
    if len(lists) != len(labels):
        raise _invalid("a list in it has no end")
    names = {_subject(certificate): name for name, certificate in authorities}
    current: set[bytes] = set()
    stale: dict[bytes, str] = {}
    for i, text in enumerate(lists, 1):
        try:
            issuer, begin, end = _validity(base64.b64decode(b"".join(text.split()), validate=True))
        except ValueError as exc:
            raise _invalid(f"list {i} is malformed: {exc}") from None
        which = f"list {i}, of {names.get(issuer, 'an authority not among those given')},"
        if end is not None and end <= now:
            stale[issuer] = f"{which} expired at {_text(end)}"
        elif begin > now:
            stale[issuer] = f"{which} is not valid before {_text(begin)}"
        else:
            current.add(issuer)
    if not lists:
        raise _invalid("no PEM revocation list in it")
    # OpenSSL prefers a list that is valid now to others of the same issuer.
    for issuer, reason in stale.items():
        if issuer not in current:
            raise _invalid(reason)
    for issuer, name in names.items():
        if issuer not in current:
            raise _invalid(f"no list of {name}")


def _invalid(reason: str) -> Failure:
    return Failure(RAFT_INVALID, reason)


def _validity(crl: bytes) -> tuple[bytes, int, int | None]:
    """Return the issuer of a list and when it begins and ends to be valid. Raises ValueError."""
    fields = _fields(_element(crl, 0), _INTEGER)
    if len(fields) < 3:
        raise ValueError("too few fields")
    end = _time(fields[3]) if len(fields) > 3 and fields[3].tag in (_UTC_TIME, _GENERALIZED_TIME) else None
    return fields[1].whole, _time(fields[2]), end


def _subject(certificate: bytes) -> bytes:
    """Return whom a certificate, one that OpenSSL has accepted, was issued to."""
    return _fields(_element(certificate, 0), _VERSION)[4].whole


def _fields(element: _Element, version: int) -> list[_Element]:
    """Return the elements of the signed part, without the version, which may be absent."""
    if element.tag != _SEQUENCE:
        raise ValueError("not a sequence")
    signed = _element(element.content, 0)
    if signed.tag != _SEQUENCE:
        raise ValueError("not a sequence of sequences")
    found = []
    at = 0
    while at < len(signed.content):
        found.append(_element(signed.content, at))
        at += len(found[-1].whole)
    return found[1:] if found and found[0].tag == version else found


def _element(data: bytes, at: int) -> _Element:
    """Return the DER element that begins at `at`. Raises ValueError when it is not all there."""
    if at + 2 > len(data):
        raise ValueError("cut off")
    size, start = data[at + 1], at + 2
    if size & 0x80:
        n = size & 0x7F
        size, start = int.from_bytes(data[start : start + n], "big"), start + n
    end = start + size
    if end > len(data):
        raise ValueError("cut off")
    return _Element(data[at], data[start:end], data[at:end])


def _time(element: _Element) -> int:
    """Return the seconds since the epoch that a time stands for, which is always in UTC."""
    text = element.content.decode("ascii", "replace")
    if element.tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    elif element.tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def _text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

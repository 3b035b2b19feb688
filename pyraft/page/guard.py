"""The rules of a node's HTTP: who may ask, and who may change something.

Duty: `Guard.refusal` judges one request by its method, its headers, and whether its connection has a certificate.

Happy path: (0, "") for a request that may go on.

Failure modes: 403 for a Host that is a name which was not given: a stranger's page could lead here under a name of its
own, but not under an IP address, so those pass. 401 where a proof is needed and none is there; 403 for changes where no
proof can be given, or that come from another origin; 415 for changes that a form could send.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final

from pyraft.node.link import split

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE: Final = ("", "0.0.0.0", "::")
"""Hosts to listen at that stand for all addresses: nobody calls this one by them."""

NO_PROOF: Final = "changes need a token or a certificate, and none is asked for here"


class Guard:
    """The rules that tell those who may ask, and those who may change something, from others."""

    def __init__(self, token: str = "", names: Iterable[str] = (), certificates: bool = False) -> None:
        """`token` is what others have to know, "" for none; `names` are hosts under which it is reached.

        With `certificates` a connection whose certificate was verified needs no token.
        """
        self.names = {*_LOOPBACK, *(name.lower() for name in names)} - set(_EVERYWHERE)
        self.certificates = certificates
        self._wanted = _digest(f"Bearer {token}") if token else b""

    @property
    def asks_for_proof(self) -> bool:
        """Whether those who look have to prove something, and those who do may change something."""
        return bool(self._wanted) or self.certificates

    def refusal(
        self, method: str, headers: Mapping[str, str], *, is_open: bool = False, certified: bool = False
    ) -> tuple[int, str]:
        """Return the status of a refusal and its reason, (0, "") for none.

        `is_open` is for what tells nothing about the cluster, `certified` for a connection with a certificate.
        """
        host = headers.get("Host", "")
        name = host_of(host)
        if name not in self.names and not _is_address(name):
            return 403, f"this is not {name[:100]!r}: name the host in --http-name"
        if method not in ("GET", "HEAD"):
            if not self.asks_for_proof:
                return 403, NO_PROOF
            origin = headers.get("Origin", "")
            if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or (
                origin and origin.partition("://")[2].lower() != host.lower()
            ):
                return 403, "changes from other pages are refused"
            if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
                return 415, "changes are application/json"
        if is_open or not self.asks_for_proof or (certified and self.certificates):
            return 0, ""
        given = headers.get("Authorization", "")
        if self._wanted and hmac.compare_digest(_digest(given), self._wanted):
            return 0, ""
        if not self._wanted:
            return 401, "a certificate is needed"
        return 401, "that is not the token" if given else "the token is needed"


def _digest(text: str) -> bytes:
    """Return what to compare in place of a text, so that the time which that takes does not even show its length."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def host_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches HOST:PORT. Raises OSError if it is not of that form."""
    return split(address)[0] in _LOOPBACK


def is_everywhere(host: str) -> bool:
    """Return whether a host to listen at stands for all addresses of this machine."""
    return host in _EVERYWHERE

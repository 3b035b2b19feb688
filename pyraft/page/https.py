"""TLS for a node's HTTP, with or without certificates of those who ask.

Duty: `Https` names the files: the certificate of this end, which names the host that browsers are given, and its key;
with `ca`, the authorities of those who may ask, and their revocation lists.

Happy path: `served(node, "10.0.0.1:8443", https=Https("page.pem", "page.key", ca="operators.pem"))`. Those with a
certificate of these authorities need no token. The others get what is open to all, the probes above all, or need one.

Failure modes: files of no use are Refused, with a text that names them. A certificate of another authority, one that is
over, or revoked, ends the handshake. `renew` takes files that have changed, for the ports that are open, whose
connections of before end, as a handshake is where certificates are judged; where one is of no use all stays as it was.
"""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from io_uv import credentials, keyfiles
from io_uv.failure import Failure, message_of
from pyraft.node.errors import Refused
from pyraft.node.tls import Path


@dataclass(frozen=True)
class Https:
    """The files, all PEM; see the head of this module."""

    cert: Path
    key: Path
    ca: Path | None = None
    crl: Path | None = None
    users: list[Callable[[ssl.SSLContext], None]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Functions that take another context: of the ports that these files are used at."""

    def renew(self) -> None:
        """Read the files again, and make all connections anew under what they hold. Raises Refused."""
        self.prepared()()

    def prepared(self) -> Callable[[], None]:
        """Read the files again; return what puts them to use. Raises Refused."""
        context = self.context()

        def use() -> None:
            for user in list(self.users):
                user(context)

        return use

    def context(self) -> ssl.SSLContext:
        """Return the context for connections that others open. Raises Refused."""
        cert, key = os.fspath(self.cert), os.fspath(self.key)
        try:
            own = keyfiles.read(cert), keyfiles.read(key, secret=True)
            context = credentials.context_of(ssl.PROTOCOL_TLS_SERVER, own)
        except (OSError, ValueError, Failure) as exc:
            raise Refused(f"load a certificate from {cert}, {key}: {message_of(exc)}") from None
        if self.ca is not None:
            self._ask(context, os.fspath(self.ca))
        return context

    def _ask(self, context: ssl.SSLContext, ca: str) -> None:
        """Have clients asked for a certificate."""
        try:
            with keyfiles.in_memory(keyfiles.read(ca)) as path:
                context.load_verify_locations(path)
        except (OSError, ValueError, Failure) as exc:
            raise Refused(f"load authorities from {ca}: {message_of(exc)}") from None
        # Not required: probes have none. The guard asks for it wherever something is told.
        context.verify_mode = ssl.CERT_OPTIONAL
        if self.crl is not None:
            path = os.fspath(self.crl)
            try:
                credentials.use_lists((context,), keyfiles.read(path))
            except Failure as failure:
                raise Refused(f"load revocation lists from {path}: {failure.message}") from None

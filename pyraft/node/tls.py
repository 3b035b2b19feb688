"""TLS for all connections of a node or client, in one argument.

Duty: `Tls` names the files that both ends prove themselves with, as `io_uv.tls` takes them: raft's connections and
those of this layer are on the same port and under the same rules.

Happy path: `Node("data/1", Shop(), tls=Tls("node.pem", "node.key", "ca.pem"))`.

Failure modes: files of no use are Refused when the node or client starts, with a text that names them. A peer without
a certificate of one of the authorities gets no further than the handshake. A member's certificate has to name it: its
host, or `raft-server-ID`.
"""

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import io_uv
from io_uv import credentials, pyuv
from io_uv.failure import Failure
from pyraft.node.errors import Refused

Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Tls:
    """The files: own certificate, its key, the authorities, and if there are any their revocation lists; all PEM."""

    cert: Path
    key: Path
    ca: Path
    crl: Path | None = None

    def __post_init__(self) -> None:
        for name in ("cert", "key", "ca", "crl"):
            value = getattr(self, name)
            if not isinstance(value, (str, bytes, os.PathLike)) and not (name == "crl" and value is None):
                raise TypeError(f"{name} of Tls must be the path of a file, not {value!r:.60}")

    def fill(self, transport: io_uv.RaftUvTransport, loop: pyuv.Loop) -> int:
        """Make a transport one that uses these files; return raft_uv_tls_init's code."""
        return io_uv.raft_uv_tls_init(transport, loop, self.cert, self.key, self.ca, self.crl)

    def context(self) -> ssl.SSLContext:
        """Return a context for connections that this end opens. Raises Refused."""
        try:
            return credentials.Files(self.cert, self.key, self.ca, self.crl).load()[1]
        except Failure as failure:
            raise Refused(failure.message) from None


def renew(tls: Tls | None, ground: Any, route: Any, others: Iterable[Callable[[], Callable[[], None]]]) -> None:
    """Have all that uses certificates take the files as they are now. Refused, with nothing changed, if one is bad.

    `ground` and `route` are a node's, and use the files of `tls`; each of `others` reads files of its own and returns
    the function that puts them to use.
    """
    renewed = [prepare() for prepare in others]
    if tls is not None:
        secure = tls.context()
        ground.reload_certificates()
        route.renew(secure)
    for use in renewed:
        use()

"""TLS as go-dqlite's app has it: all nodes and clients of a cluster show one certificate, or certificates of one name.

Duty: `dial_tls` makes the function that opens a client's connections, `shares_name` the rule for those of raft. Source:
app/tls.go of canonical/go-dqlite.

Happy path: `Client(nodes, "shop.db", dial=dial_tls(Tls("cluster.crt", "cluster.key", "cluster.crt")))`. The node at
the other end has to show a certificate of the authorities that has the first DNS name of the own one.

Failure modes: Refused for files of no use, and for a certificate without a DNS name, as there. TLS is 1.3, which Go
speaks; go-dqlite lets 1.2 in as well. Among servers of one certificate nobody can tell who is who: raft believes the
ids that they give, and the owner of the key is trusted with everything.
"""

from collections.abc import Callable
from typing import Any

from io_uv import credentials
from io_uv.failure import Failure
from pyraft.dqlite.errors import Refused
from pyraft.dqlite.lxd import LxdTls
from pyraft.dqlite.peer import Dial, Streams, connect
from pyraft.node.tls import Tls


def dial_tls(tls: Tls) -> Dial:
    """Return a function that opens connections with these files."""
    if isinstance(tls, LxdTls):
        context, name = tls.context(), ""
    else:
        context, name = _load(tls)
        context.check_hostname = True

    async def dial(address: str) -> Streams:
        return await connect(address, ssl=context, server_hostname=name)

    return dial


def shares_name(tls: Tls) -> Callable[[dict[str, Any], int, str], bool]:
    """Return a policy for io_uv.raft_uv_tls_set_policy: a server's certificate has the own one's first DNS name."""
    _, name = _load(tls)
    return lambda certificate, id, address: name in _names(certificate)


def _load(tls: Tls) -> tuple[Any, str]:
    try:
        _, context, own = credentials.Files(tls.cert, tls.key, tls.ca, tls.crl).load()
    except Failure as failure:
        raise Refused(failure.message) from None
    names = _names(own)
    if not names:
        raise Refused(f"certificate {tls.cert} has no DNS name, by which nodes of go-dqlite are known")
    return context, names[0]


def _names(certificate: dict[str, Any]) -> list[str]:
    return [name.lower() for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]

"""How clients reach nodes: over TCP, with TLS in it, with an HTTP upgrade in that.

Duty: `dialer` makes the function that opens connections for `Client`, `Cluster` and `Member`, `dial_upgrade` one that
asks for an upgrade on what another one opens, as nodes of LXD and microcluster want it (`io_uv.dqlite.upgrade`).

Happy path: `Client(nodes, "db.bin", dial=dialer(tls, upgrade.LXD))`.

Failure modes: OSError for a node that does not answer with 101, or whose answer does not follow HTTP; ValueError for a
path that a URL cannot have.
"""

import asyncio

from io_uv.dqlite import upgrade
from io_uv.dqlite.words import ParseError
from pyraft.dqlite.peer import Dial, Streams, dial_tcp
from pyraft.dqlite.tls import dial_tls
from pyraft.node.tls import Tls


def dialer(tls: Tls | None = None, path: str = "") -> Dial:
    """Return a function that opens connections, with a path by an upgrade there."""
    dial = dial_tcp if tls is None else dial_tls(tls)
    return dial_upgrade(path, dial) if path else dial


def dial_upgrade(path: str, dial: Dial = dial_tcp) -> Dial:
    """Return a function that opens connections as `dial` does, and asks on each for dqlite at the path."""
    upgrade.check_path(path)

    async def upgraded(address: str) -> Streams:
        reader, writer = await dial(address)
        try:
            await _ask(reader, writer, path, address)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    return upgraded


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, address: str) -> None:
    """Ask for the upgrade. Raises OSError if there is none."""
    try:
        writer.write(upgrade.request(path, address))
        head = upgrade.take_head(bytearray(await reader.readuntil(b"\r\n\r\n")))
        if head is None:
            raise ParseError("it is too long")
        _, reason = upgrade.refusal(head)
    except asyncio.IncompleteReadError:
        raise ConnectionResetError(f"{address} has ended the connection instead of answering") from None
    except (asyncio.LimitOverrunError, ValueError) as exc:  # ParseError is one
        raise ConnectionError(f"no upgrade at {address}{path}: {exc}") from None
    if reason:
        raise ConnectionError(f"no upgrade at {address}{path}: {reason}")

"""Ports of the loopback that are free, and stay so, for servers that a test starts, perhaps again and again.

Duty: `free_port` binds a socket to a port that the kernel chooses and keeps it bound, without listening, until `let_go`
(tests/conftest.py calls it behind each test). A server can bind to it nevertheless, as every server here does with
SO_REUSEADDR, and listen; nobody else gets it. Without that the kernel may give a port that was bound and closed again
to a client or to another test, while the server that it is meant for is not there yet, or was killed.

Failure modes: of two servers that a test has bind to one port, the one that listens last is refused.
"""

import os
import socket

_kept: list[int] = []


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses, and nobody gets by chance."""
    with socket.socket() as made:
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:  # servers do without it, too, and could not share the port
            keep = False
        else:
            keep = True
        made.bind(("127.0.0.1", 0))
        port = int(made.getsockname()[1])
        if keep:
            _kept.append(made.detach())
    return port


def free_addresses(n: int) -> dict[int, str]:
    """Return addresses of the loopback for servers 1 to n."""
    return {id: f"127.0.0.1:{free_port()}" for id in range(1, n + 1)}


def let_go() -> None:
    """Give back all ports."""
    while _kept:
        os.close(_kept.pop())

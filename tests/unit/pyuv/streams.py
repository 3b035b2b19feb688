"""Streams to test with: servers, connected pairs, and reading what a socket has."""

import socket
from collections.abc import Callable
from typing import Any

from io_uv.pyuv import (
    TCP,
    Pipe,
)
from tests.unit.pyuv.conftest import CheckedLoop

LOCALHOST = ("127.0.0.1", 0)


def listening(loop: CheckedLoop, callback: Callable[[Any, Any], object], kind: Any = TCP, name: Any = LOCALHOST) -> Any:
    """A server bound to a free port or to a name."""
    server = kind(loop)
    server.bind(name)
    server.listen(callback)
    return server


def connected(loop: CheckedLoop, kind: Any = TCP, name: Any = LOCALHOST) -> tuple[Any, Any]:
    """Two ends of a connection: the client's and the server's."""
    ends: list[Any] = []

    def on_connection(server: Any, code: int | None) -> None:
        assert code is None
        end = kind(loop)
        server.accept(end)
        ends.append(end)
        server.close()

    server = listening(loop, on_connection, kind, name)
    client = kind(loop)
    codes: list[int | None] = []
    client.connect(server.getsockname(), lambda _, code: codes.append(code))
    loop.run_until(lambda: codes and ends)
    assert codes == [None]
    return client, ends[0]


def pair(loop: CheckedLoop) -> tuple[Pipe, socket.socket]:
    """A Pipe and a blocking socket that is its other end."""
    a, b = socket.socketpair()
    pipe = Pipe(loop)
    pipe.open(a.detach())
    return pipe, b


def drain(sock: socket.socket) -> bytes:
    """The amount in a non-blocking socket."""
    parts = []
    try:
        while data := sock.recv(1 << 20):
            parts.append(data)
    except BlockingIOError:
        pass
    return b"".join(parts)

"""Options of connections between servers: set where they can be, done without where they are refused."""

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from io_uv import tcp_common
from io_uv.pyuv import TCP, Loop
from io_uv.refusal import REFUSED, Refusals
from io_uv.tcp_common import UvTcp
from io_uv.transport import RaftUvTransport

OPTIONS = {
    "TCP_NODELAY": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "TCP_KEEPIDLE": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "TCP_KEEPINTVL": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "TCP_KEEPCNT": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}


class Connection:
    """A connected handle, of a transport that knows what is refused."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.t = UvTcp(RaftUvTransport(), self.loop)
        self.t.refusals = Refusals("/data")
        server = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        server.close()
        self.handle = TCP(self.loop)
        self.handle.open(accepted.detach())

    def option(self, name: str) -> int:
        """Return the value of an option."""
        sock = socket.socket(fileno=self.handle.fileno())
        try:
            return sock.getsockopt(*OPTIONS[name])
        finally:
            sock.detach()

    def close(self) -> None:
        self.peer.close()
        self.handle.close()
        self.loop.run()
        self.loop.close()


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    made.close()


def refuse(patch: pytest.MonkeyPatch, code: int, *names: str) -> None:
    """Refuse options to every socket."""
    refused = {OPTIONS[name] for name in names}

    class Stubborn(socket.socket):
        def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
            if (level, option) in refused:
                raise OSError(code, "")
            super().setsockopt(level, option, value)

    patch.setattr(socket, "socket", Stubborn)


def test_all_options_are_set(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """They are where none is refused."""
    tcp_common.tune(connection.handle, connection.t)
    values = {name: connection.option(name) for name in OPTIONS}
    assert values == {
        "TCP_NODELAY": 1,
        "SO_KEEPALIVE": 1,
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 10_000,
    }
    assert caplog.records == []


@pytest.mark.parametrize("code", sorted(REFUSED))
@pytest.mark.parametrize("name", list(OPTIONS))
def test_an_option_that_is_refused_is_done_without(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, name: str
) -> None:
    """All others are set; the log hears of it once, however many connections there are."""
    with monkeypatch.context() as patch:
        refuse(patch, code, name)
        tcp_common.tune(connection.handle, connection.t)
        tcp_common.tune(connection.handle, connection.t)
    others = [other for other in OPTIONS if other != name]
    assert all(connection.option(other) > 0 for other in others)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(f"/data: {name} is refused here (")


def test_another_error_is_an_error(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is of no use then."""
    with monkeypatch.context() as patch:
        refuse(patch, errno.EBADF, "TCP_KEEPCNT")
        with pytest.raises(OSError, match="9"):
            tcp_common.tune(connection.handle, connection.t)

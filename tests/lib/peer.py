"""Raw sockets that play the part of another server.

Duty: `PeerServer` listens where the code under test connects to; `connect` goes to where it listens. Both use the
kernel's sockets directly, so that a test decides about every byte and every close. They never block: what has to come
from the loop under test is waited for with `run_until`. `Transport` is a stock transport to be tested by itself.
"""

import socket
import struct
from collections.abc import Callable
from typing import Any

from io_uv import raft_uv_tcp_close, raft_uv_tcp_init
from io_uv.pyuv import Loop
from io_uv.recv import Reader
from io_uv.transport import RaftUvConnect, RaftUvTransport
from tests.lib.ports import free_port
from tests.lib.uvtest import run_until

RST = struct.pack("ii", 1, 0)
"""SO_LINGER value with which close() resets the connection."""


def words(*numbers: int) -> bytes:
    """Return little-endian words of 8 bytes."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def stream_into(reader: Reader, data: bytes) -> None:
    """Give a reader bytes as a stream does: into the buffer that is missing something, if there is one."""
    while data:
        missing = reader.missing
        if missing is None:
            reader.feed(data)
            return
        n = min(len(missing), len(data))
        missing[:n] = data[:n]
        reader.filled(n)
        data = data[n:]


def handshake(id: int, address: str, protocol: int = 1) -> bytes:
    """Return what a server says first on a connection that it opens."""
    name = address.encode() + b"\0"
    name += bytes(-len(name) % 8)
    return words(protocol, id, len(name)) + name


def port_of(transport: Any) -> int:
    """Return the port on which a stock transport listens."""
    port: int = transport.impl.listeners[0].getsockname()[1]
    return port


def unused_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens at the moment."""
    return free_port()


Resolver = Callable[..., list[Any]]


def resolver(answers: dict[str, list[tuple[str, int]] | Exception]) -> Resolver:
    """Return a socket.getaddrinfo that knows these host names and numeric addresses, and asks nobody else."""
    getaddrinfo = socket.getaddrinfo

    def resolve(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
        if host in answers and not flags & socket.AI_NUMERICHOST:
            answer = answers[host]
            if isinstance(answer, Exception):
                raise answer
            if family == socket.AF_INET6:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in answer]
        return getaddrinfo(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)

    return resolve


class Transport:
    """A stock transport of server `id` on a loop of its own, and what its callbacks were called with."""

    def __init__(self, address: str = "127.0.0.1:0", id: int = 1, init: Callable[..., int] = raft_uv_tcp_init) -> None:
        self.loop = Loop()
        self.t = RaftUvTransport()
        assert init(self.t, self.loop) == 0, self.t.errmsg
        assert self.t.init(self.t, id, address) == 0
        self.accepted: list[tuple[int, str, Any]] = []
        self.connected: list[tuple[Any, int]] = []
        self.closed = False
        self.errors: list[BaseException] = []
        self.loop.excepthook = self._excepthook

    def _excepthook(self, typ: Any, value: BaseException, tb: Any) -> None:
        self.errors.append(value)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return port_of(self.t)

    def listen(self) -> int:
        """Call listen; accepted streams are kept in `accepted`."""
        rv: int = self.t.listen(self.t, lambda t, id, address, stream: self.accepted.append((id, address, stream)))
        return rv

    def connect(self, address: str, id: int = 2) -> int:
        """Call connect; all that the callback gets is kept in `connected`."""
        before = len(self.connected)
        req = RaftUvConnect()
        rv: int = self.t.connect(self.t, req, id, address, lambda req, *args: self.connected.append(args))
        assert len(self.connected) == before, "called back inside connect"
        return rv

    def wait_connected(self) -> tuple[Any, int]:
        """Turn the loop until the first connect request has ended; return its stream and status."""
        self.run_until(lambda: self.connected)
        return self.connected[0]

    def run_until(self, done: Callable[[], object]) -> None:
        """Turn the loop until a condition holds."""
        run_until(self.loop, done)

    def begin_close(self) -> None:
        """Call the transport's close; do not wait."""
        assert not self.closed
        ended: list[Any] = []
        self.ended = ended
        self.closed = True
        self.t.close(self.t, ended.append)

    def close(self) -> None:
        """Close everything and check that nothing is left on the loop."""
        for _, _, stream in self.accepted:
            if not stream.closed:
                stream.close()
        for stream, _ in self.connected:
            if stream is not None and not stream.closed:
                stream.close()
        if not self.closed:
            self.begin_close()
        self.run_until(lambda: self.ended)
        assert self.ended == [self.t]
        raft_uv_tcp_close(self.t)
        self.loop.run()
        assert self.loop.handles == []
        self.loop.close()
        assert self.errors == []


class PeerServer:
    """A listening socket."""

    def __init__(self, loop: Loop, family: int = socket.AF_INET, port: int = 0) -> None:
        self.loop = loop
        self._sock = socket.socket(family)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        self._sock.listen(8)
        self._sock.setblocking(False)
        self._accepted: list[Connection] = []
        self.port: int = self._sock.getsockname()[1]
        self.address = f"[::1]:{self.port}" if family == socket.AF_INET6 else f"127.0.0.1:{self.port}"

    def accept(self) -> "Connection":
        """Turn the loop until somebody has connected, and return the connection."""
        before = len(self._accepted)
        run_until(self.loop, lambda: self._try_accept() or len(self._accepted) > before)
        return self._accepted[before]

    def _try_accept(self) -> bool:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return False
        self._accepted.append(Connection(self.loop, sock))
        return True

    def nobody_waits(self) -> bool:
        """Whether no connection is waiting to be accepted."""
        return not self._try_accept()

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._sock.close()
        for connection in self._accepted:
            connection.close()


class Connection:
    """One connected socket."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self.data = b""
        self.ended = False
        sock.setblocking(False)

    def read(self, n: int) -> bytes:
        """Turn the loop until `n` bytes have arrived, and return them; all that came after them stays."""
        run_until(self.loop, lambda: len(self.data) >= n or not self.pump())
        assert len(self.data) >= n, f"connection ended after {len(self.data)} of {n} bytes"
        data, self.data = self.data[:n], self.data[n:]
        return data

    def read_message(self) -> tuple[int, bytes]:
        """Turn the loop until a message's preamble and header have arrived, and return type and header."""
        type, size = struct.unpack("<QQ", self.read(16))
        return type, self.read(size)

    def read_handshake(self) -> tuple[int, str]:
        """Return id and address that the other side introduces itself with."""
        protocol, id, size = struct.unpack("<3Q", self.read(24))
        assert protocol == 1
        assert size % 8 == 0
        return id, self.read(size).rstrip(b"\0").decode()

    def wait_end(self) -> None:
        """Turn the loop until the other side has closed the connection."""
        run_until(self.loop, lambda: not self.pump())

    def pump(self) -> bool:
        """Take what is there; False once the connection has ended."""
        while not self.ended:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                data = b""
            self.data += data
            self.ended = not data
        return False

    def send(self, data: bytes) -> None:
        """Send a few bytes at once."""
        assert self.sock.send(data) == len(data)

    def send_all(self, data: bytes) -> None:
        """Send many bytes, turning the loop while the system takes no more."""
        view = memoryview(data)

        def step() -> bool:
            nonlocal view
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                return False
            return not view

        run_until(self.loop, step)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        self.sock.close()


def connect(loop: Loop, port: int, family: int = socket.AF_INET) -> Connection:
    """Connect to a port on which the code under test listens."""
    sock = socket.socket(family)
    sock.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    return Connection(loop, sock)

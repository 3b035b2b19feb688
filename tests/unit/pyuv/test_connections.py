"""TCP: addresses, connecting, accepting, descriptors from outside, and what happens when there are none left."""

import contextlib
import os
import resource
import socket
import sys
from typing import Any

import pytest

from io_uv.pyuv import (
    TCP,
    UV_TCP_IPV6ONLY,
    Idle,
    Pipe,
    Timer,
    errno,
    error,
)
from tests.lib.threads import open_fds
from tests.unit.pyuv.conftest import CheckedLoop
from tests.unit.pyuv.streams import LOCALHOST, connected, listening


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("::1", 0), ("", 0)])
def test_tcp_connects(loop: CheckedLoop, address: tuple[str, int]) -> None:
    """Client and server know each other's addresses, in IPv4 and IPv6; "" is any address of IPv4."""
    peers: list[Any] = []

    def on_connection(server: TCP, code: int | None) -> None:
        assert code is None
        end = TCP(loop)
        server.accept(end)
        peers.append((end.getsockname(), end.getpeername()))
        end.close()
        server.close()

    server = listening(loop, on_connection, TCP, address)
    name = server.getsockname()
    assert name[1] > 0
    client = TCP(loop)
    mine: list[Any] = []

    def on_connect(client: TCP, code: int | None) -> None:
        assert code is None
        mine.append((client.getpeername(), client.getsockname()))
        client.close()

    client.connect((address[0] or "127.0.0.1", *name[1:]), on_connect)
    assert client.family == (socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    loop.run()
    assert peers == mine


def test_a_refused_connection_is_a_code(loop: CheckedLoop) -> None:
    """Nobody listens: the callback gets UV_ECONNREFUSED, and what was written meanwhile is cancelled."""
    free = TCP(loop)
    free.bind(LOCALHOST)
    calls: list[Any] = []
    client = TCP(loop)
    client.connect(free.getsockname(), lambda h, code: calls.append(("connect", code)))
    client.write(b"x", lambda h, code: calls.append(("write", code)))
    client.start_read(lambda *_: calls.append("read"))
    assert client.active
    loop.run()
    assert sorted(calls) == [("connect", errno.UV_ECONNREFUSED), ("write", errno.UV_ECANCELED)]
    assert not client.active
    assert not client.writable
    client.close()
    free.close()


def test_what_is_written_and_read_while_connecting_follows(loop: CheckedLoop) -> None:
    """write, start_read and shutdown may come before the connection is made."""
    got: list[bytes] = []
    order: list[str] = []

    def on_read(end: TCP, data: bytes | None, code: int | None) -> None:
        if data is None:
            assert code == errno.UV_EOF
            end.write(b"answer")
            end.shutdown(lambda h, _: h.close())
        else:
            got.append(data)

    def on_connection(server: TCP, code: int | None) -> None:
        end = TCP(loop)
        server.accept(end)
        end.start_read(on_read)
        server.close()

    def on_answer(client: TCP, data: bytes | None, code: int | None) -> None:
        if data is None:
            client.close()
        else:
            order.append(data.decode())

    server = listening(loop, on_connection)
    client = TCP(loop)

    def on_connect(client: TCP, code: int | None) -> None:
        order.append("connected")
        assert not client.writable

    client.connect(server.getsockname(), on_connect)
    client.write(b"a", lambda *_: order.append("a"))
    client.write([b"b", b"c"], lambda *_: order.append("bc"))
    client.shutdown(lambda *_: order.append("shutdown"))
    with pytest.raises(error.TCPError):
        client.write(b"d")
    client.start_read(on_answer)
    loop.run()
    assert b"".join(got) == b"abc"
    assert order == ["connected", "a", "bc", "shutdown", "answer"]


def test_closing_a_connecting_stream_cancels(loop: CheckedLoop) -> None:
    """The connect callback gets UV_ECANCELED before the close callback."""
    server = listening(loop, lambda s, _: None)
    order: list[Any] = []
    client = TCP(loop)
    client.connect(server.getsockname(), lambda h, code: order.append(code))
    client.write(b"x", lambda h, code: order.append(("write", code)))
    client.close(lambda h: order.append("closed"))
    server.close()
    assert order == []
    loop.run()
    assert order == [errno.UV_ECANCELED, ("write", errno.UV_ECANCELED), "closed"]


def test_an_address_in_use_is_reported_by_listen_and_connect(loop: CheckedLoop) -> None:
    """bind puts it off, as in libuv."""
    first = listening(loop, lambda *_: None)
    second = TCP(loop)
    second.bind(first.getsockname())
    with pytest.raises(error.TCPError) as caught:
        second.listen(lambda *_: None)
    assert caught.value.args == (errno.UV_EADDRINUSE, "address already in use")
    codes: list[int | None] = []
    second.connect(first.getsockname(), lambda h, code: codes.append(code))
    assert codes == []
    loop.run_until(lambda: codes)
    assert codes == [errno.UV_EADDRINUSE]
    first.close()
    second.close()


def test_a_port_can_be_bound_again_at_once(loop: CheckedLoop) -> None:
    """Connections that linger in the system do not keep a restarted server from its port."""
    client, end = connected(loop)
    name = end.getsockname()
    end.close()
    client.close()
    loop.run()
    again = listening(loop, lambda *_: None, TCP, name)
    assert again.getsockname() == name
    again.close()


@pytest.mark.parametrize(
    ("address", "exception"),
    [
        (["127.0.0.1", 1], TypeError),
        (("127.0.0.1",), TypeError),
        ((1, 1), TypeError),
        (("localhost", 1), ValueError),
        (("127.0.0.1.1", 1), ValueError),
        (("::1%nosuchinterface", 1), ValueError),
        (("a\0b", 1), ValueError),
        (("127.0.0.1", 65536), OverflowError),
        (("127.0.0.1", -1), OverflowError),
        (("::1", 1, 0x100000), OverflowError),
    ],
)
def test_malformed_addresses_are_refused(loop: CheckedLoop, address: Any, exception: type[Exception]) -> None:
    """A shape, a name instead of an address, and numbers out of range."""
    tcp = TCP(loop)
    with pytest.raises(exception):
        tcp.bind(address)
    with pytest.raises(exception):
        tcp.connect(address, lambda *_: None)


def test_an_address_of_the_other_family_is_refused(loop: CheckedLoop) -> None:
    """bind raises UV_EINVAL."""
    with pytest.raises(error.TCPError) as caught:
        TCP(loop, socket.AF_INET6).bind(LOCALHOST)
    assert caught.value.args[0] == errno.UV_EINVAL
    with pytest.raises(error.TCPError):
        TCP(loop).bind(LOCALHOST, UV_TCP_IPV6ONLY)
    with pytest.raises(error.TCPError):
        TCP(loop, socket.AF_UNIX)


@pytest.mark.parametrize(("flags", "only"), [(0, 0), (UV_TCP_IPV6ONLY, 1)])
def test_ipv6_takes_ipv4_unless_told_not_to(loop: CheckedLoop, flags: int, only: int) -> None:
    """The system's setting for the socket follows the flag."""
    tcp = TCP(loop)
    tcp.bind(("::", 0), flags)
    with socket.socket(fileno=os.dup(tcp.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == only


def test_options_reach_the_socket_whenever_they_are_set(loop: CheckedLoop) -> None:
    """nodelay and keepalive before and after there is a socket, on either end."""

    def options(tcp: TCP) -> tuple[bool, bool, int]:
        with socket.socket(fileno=os.dup(tcp.fileno())) as sock:
            return (
                bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)),
                bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
                sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            )

    early = TCP(loop)
    early.nodelay(True)
    early.keepalive(True, 77)
    server = listening(loop, lambda s, _: (s.accept(early), s.close()))
    client = TCP(loop)
    client.nodelay(True)
    client.connect(server.getsockname(), lambda *_: None)
    loop.run()
    assert options(early) == (True, True, 77)
    assert options(client)[:2] == (True, False)
    client.nodelay(False)
    client.keepalive(True, 5)
    assert options(client) == (False, True, 5)
    with pytest.raises(TypeError):
        client.nodelay(1)
    client.simultaneous_accepts(True)
    client.send_buffer_size = 65536
    assert client.send_buffer_size >= 65536
    client.receive_buffer_size = 32768
    assert client.receive_buffer_size >= 32768


def test_a_connection_waits_until_it_is_accepted(loop: CheckedLoop) -> None:
    """No other connection is reported before accept(), however late that comes."""
    reported: list[int] = []
    server = listening(loop, lambda s, code: reported.append(1))
    clients = [TCP(loop) for _ in range(3)]
    up: list[TCP] = []
    for client in clients:
        client.connect(server.getsockname(), lambda c, _: up.append(c))
    loop.run_until(lambda: len(up) == 3 and reported)
    for n in range(1, 4):
        loop.run_until(lambda n=n: len(reported) == n)
        with pytest.raises(TypeError):
            server.accept(Idle(loop))
        server.accept(TCP(loop))
    with pytest.raises(error.TCPError) as caught:
        server.accept(TCP(loop))
    assert caught.value.args[0] == errno.UV_EAGAIN
    for handle in [server, *clients]:
        handle.close()


def test_closing_a_listener_closes_what_was_not_accepted(loop: CheckedLoop) -> None:
    """The connection that nobody took is ended."""
    server = listening(loop, lambda s, code: s.close())
    client = TCP(loop)
    ends: list[int | None] = []
    client.connect(server.getsockname(), lambda c, _: c.start_read(lambda c, d, code: (ends.append(code), c.close())))
    loop.run()
    assert len(ends) == 1
    assert ends[0] in (errno.UV_EOF, errno.UV_ECONNRESET)


def test_running_out_of_descriptors_is_survived(loop: CheckedLoop) -> None:
    """The listener is told UV_EMFILE, waits without spinning, and takes the connection when there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    codes: list[int | None] = []
    fillers: list[int] = []

    def fill(_: object) -> None:
        highest = max(int(fd.split()[0]) for fd in open_fds())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))

    def make_room() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while fillers:
            os.close(fillers.pop())

    def on_connection(server: TCP, code: int | None) -> None:
        codes.append(code)
        if code is not None:
            Timer(loop).start(lambda _: make_room(), 0.03, 0)
            return
        end = TCP(loop)
        server.accept(end)
        for handle in (end, server, client):
            handle.close()

    server = listening(loop, on_connection)
    client = TCP(loop)
    client.connect(server.getsockname(), lambda *_: None)
    Timer(loop).start(fill, 0, 0)
    try:
        loop.run()
    finally:
        make_room()
    assert codes == [errno.UV_EMFILE, None]


def test_open_takes_over_a_descriptor(loop: CheckedLoop) -> None:
    """The handle reads, writes and closes a socket that was made elsewhere."""
    with socket.create_server(LOCALHOST) as listener:
        sock = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
        fd = sock.detach()
        tcp = TCP(loop)
        tcp.open(fd)
        assert tcp.fileno() == fd
        assert not os.get_blocking(fd)
        tcp.write(b"hello")
        assert other.recv(10) == b"hello"
        with pytest.raises(error.TCPError) as caught:
            tcp.open(other.fileno())
        assert caught.value.args[0] == errno.UV_EBUSY
        tcp.close()
        loop.run()
        assert other.recv(10) == b""
        other.close()


def test_open_refuses_what_is_no_stream_socket_of_its_kind(loop: CheckedLoop) -> None:
    """Another kind of socket gets UV_EINVAL, the system says UV_ENOTSOCK and UV_EBADF; the descriptor stays open."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_UNIX) as unix:
        for tcp, fd, code in (
            (TCP(loop), udp.fileno(), errno.UV_EINVAL),
            (TCP(loop), unix.fileno(), errno.UV_EINVAL),
            (Pipe(loop), udp.fileno(), errno.UV_EINVAL),
            (TCP(loop), 0, errno.UV_ENOTSOCK),
            (TCP(loop), 999_999, errno.UV_EBADF),
        ):
            with pytest.raises(error.StreamError) as caught:
                tcp.open(fd)
            assert caught.value.args[0] == code
        os.fstat(udp.fileno())
        os.fstat(0)


def test_a_stream_without_a_socket_says_so(loop: CheckedLoop) -> None:
    """It says UV_EBADF or UV_ENOTCONN, in the exception of the handle's kind."""
    for stream, kind in ((TCP(loop), error.TCPError), (Pipe(loop), error.PipeError)):
        for call, code in (
            (stream.fileno, errno.UV_EBADF),
            (lambda stream=stream: stream.write(b"x"), errno.UV_EBADF),
            (lambda stream=stream: stream.try_write(b"x"), errno.UV_EBADF),
            (lambda stream=stream: stream.start_read(print), errno.UV_ENOTCONN),
            (stream.shutdown, errno.UV_ENOTCONN),
            (stream.getsockname, errno.UV_EBADF),
        ):
            with pytest.raises(kind) as caught:
                call()
            assert caught.value.args[0] == code
        assert not stream.readable
        assert not stream.writable
        stream.stop_read()
    bound = TCP(loop)
    bound.bind(LOCALHOST)
    with pytest.raises(error.TCPError) as caught:
        bound.getpeername()
    assert caught.value.args[0] == errno.UV_ENOTCONN
    with pytest.raises(error.TCPError) as caught:
        bound.write(b"x")
    assert caught.value.args[0] == errno.UV_EPIPE


def test_a_thousand_connections(loop: CheckedLoop) -> None:
    """Connections made and closed in bulk all arrive, and leave nothing behind."""
    assert sys.getrecursionlimit() < 10_000
    count = 300
    seen = [0]

    def on_connection(server: TCP, code: int | None) -> None:
        assert code is None
        end = TCP(loop)
        server.accept(end)
        end.start_read(on_end)

    def on_end(end: TCP, data: bytes | None, code: int | None) -> None:
        if data is None:
            end.close()
            return
        seen[0] += 1
        if seen[0] == count:
            server.close()

    server = listening(loop, on_connection)
    for _ in range(count):
        client = TCP(loop)
        client.connect(server.getsockname(), lambda h, code: h.write(b"x", lambda h, code: h.close()))
    loop.run()
    assert seen == [count]

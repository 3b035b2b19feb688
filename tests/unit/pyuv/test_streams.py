"""TCP and Pipe: connections, reads, writes, shutdown, limits, and handles passed through pipes."""

import contextlib
import hashlib
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv.pyuv import (
    TCP,
    UV_NAMED_PIPE,
    UV_TCP,
    UV_TCP_IPV6ONLY,
    UV_UNKNOWN_HANDLE,
    Idle,
    Pipe,
    Stream,
    Timer,
    errno,
    error,
)
from tests.unit.pyuv.conftest import CheckedLoop, open_fds

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


# Connections.


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
    """Nobody listens: UV_ECONNREFUSED in the callback, and what was written meanwhile is cancelled."""
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
    client.connect(server.getsockname(), lambda *_: order.append("connected"))
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
    """As in libuv bind puts it off."""
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
    """UV_EINVAL from bind."""
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
        client.nodelay(1)  # type: ignore[arg-type]
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
            make_room()
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
    """UV_EINVAL for another kind of socket, UV_ENOTSOCK and UV_EBADF from the system; the descriptor stays open."""
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
    """UV_EBADF or UV_ENOTCONN, in the exception of the handle's kind."""
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


# Writing.


def test_a_write_is_sent_at_once_and_called_back_later(loop: CheckedLoop) -> None:
    """What the system takes is gone when write() returns; the callback never comes inside it."""
    pipe, other = pair(loop)
    codes: list[Any] = []
    pipe.write(b"hello", lambda h, code: codes.append((h, code)))
    assert other.recv(100) == b"hello"
    assert codes == []
    assert pipe.write_queue_size == 0
    assert loop.alive
    loop.run()
    assert codes == [(pipe, None)]
    other.close()


@pytest.mark.parametrize(
    "data",
    [
        b"abcdef",
        bytearray(b"abcdef"),
        memoryview(b"abcdef"),
        [b"abc", bytearray(b"de"), memoryview(b"f")],
        (b"abcdef",),
        [b"", b"abc", b"", b"def", b""],
        memoryview(b"a_b_c_d_e_f_")[::1].cast("B", (6, 2)),
        memoryview(b"abcdef").cast("H"),
    ],
)
def test_writes_take_any_buffers(loop: CheckedLoop, data: Any) -> None:
    """Bytes-like objects of any item size, or sequences of them."""
    pipe, other = pair(loop)
    pipe.write(data)
    assert other.recv(100).replace(b"_", b"") == b"abcdef"
    other.close()


@pytest.mark.parametrize(
    ("data", "exception"),
    [
        (1, TypeError),
        ("abc", TypeError),
        (None, TypeError),
        ([b"a", "b"], TypeError),
        ([], ValueError),
        ((), ValueError),
        ({b"a"}, TypeError),
        (iter([b"a"]), TypeError),
    ],
)
def test_other_data_are_refused(loop: CheckedLoop, data: Any, exception: type[Exception]) -> None:
    """TypeError or ValueError, and nothing is sent."""
    pipe, other = pair(loop)
    with pytest.raises(exception):
        pipe.write(data)
    with pytest.raises(TypeError):
        pipe.write(b"x", 1)  # type: ignore[arg-type]
    pipe.close()
    loop.run()
    assert other.recv(10) == b""
    other.close()


def test_an_empty_write_is_called_back(loop: CheckedLoop) -> None:
    """Nothing to send is sent successfully, alone and behind a queue."""
    pipe, other = pair(loop)
    codes: list[Any] = []
    pipe.write(b"", lambda h, code: codes.append(code))
    loop.run()
    assert codes == [None]
    pipe.write(b"x" * 4_000_000, lambda h, code: codes.append("big"))
    pipe.write(b"", lambda h, code: codes.append("empty"))
    other.setblocking(False)
    while len(codes) < 3:
        drain(other)
        loop.run_until(lambda: True)
        loop.run(2)
    assert codes == [None, "big", "empty"]
    other.close()


def drain(sock: socket.socket) -> bytes:
    """What a non-blocking socket has."""
    parts = []
    try:
        while data := sock.recv(1 << 20):
            parts.append(data)
    except BlockingIOError:
        pass
    return b"".join(parts)


def test_large_writes_arrive_whole_and_in_order(loop: CheckedLoop) -> None:
    """Single buffers, lists that are joined, lists that are gathered, very many buffers: the same bytes, in order."""
    writes: list[Any] = [
        os.urandom(3_000_000),
        [os.urandom(10) for _ in range(100)],
        [os.urandom(100_000) for _ in range(20)],
        [os.urandom(50) for _ in range(5000)],
        b"x",
        bytearray(os.urandom(700_000)),
        [b"", os.urandom(300_000), b"", b"y"],
    ]
    expected = hashlib.sha256()
    for data in writes:
        expected.update(data if isinstance(data, bytes | bytearray) else b"".join(data))
    client, end = connected(loop)
    got = hashlib.sha256()
    done: list[int] = []

    def on_read(h: TCP, data: bytes | None, code: int | None) -> None:
        if data is None:
            h.close()
        else:
            got.update(data)

    for n, data in enumerate(writes):
        client.write(data, lambda h, code, n=n: done.append(n))
    assert client.write_queue_size > 0
    client.shutdown(lambda h, code: h.close())
    end.start_read(on_read)
    loop.run()
    assert got.hexdigest() == expected.hexdigest()
    assert done == list(range(len(writes)))


def test_the_queue_size_counts_what_the_system_has_not_taken(loop: CheckedLoop) -> None:
    """It grows with writes beyond the socket's buffer, and is 0 again at the end or after a close."""
    pipe, other = pair(loop)
    pipe.write(b"x" * 5_000_000)
    first = pipe.write_queue_size
    assert 0 < first < 5_000_000
    pipe.write(b"y" * 1000)
    assert pipe.write_queue_size == first + 1000
    pipe.close()
    assert pipe.write_queue_size == 0
    loop.run()
    other.close()


def test_close_cuts_writes_off(loop: CheckedLoop) -> None:
    """Queued writes are called back with UV_ECANCELED, in order, before the close callback; sent ones with None."""
    pipe, other = pair(loop)
    order: list[Any] = []
    pipe.write(b"sent", lambda h, code: order.append(("sent", code)))
    pipe.write(b"x" * 5_000_000, lambda h, code: order.append(("big", code)))
    pipe.write(b"x", lambda h, code: order.append(("small", code)))
    pipe.shutdown(lambda h, code: order.append(("shutdown", code)))
    pipe.close(lambda h: order.append("closed"))
    loop.run()
    assert order == [
        ("sent", None),
        ("big", errno.UV_ECANCELED),
        ("small", errno.UV_ECANCELED),
        ("shutdown", errno.UV_ECANCELED),
        "closed",
    ]
    other.close()


def test_a_write_to_a_closed_connection_is_a_code(loop: CheckedLoop) -> None:
    """UV_EPIPE in the callback, for a write that is tried at once and for queued ones; no signal."""
    pipe, other = pair(loop)
    codes: list[Any] = []
    pipe.write(b"x" * 5_000_000, lambda h, code: codes.append(code))
    pipe.write(b"y", lambda h, code: codes.append(code))
    other.close()
    loop.run()
    assert codes[0] in (errno.UV_EPIPE, errno.UV_ECONNRESET)
    assert codes[1] == errno.UV_EPIPE
    pipe.write(b"z", lambda h, code: codes.append(code))
    pipe.write(b"nobody listens to this one")
    loop.run()
    assert codes[2] == errno.UV_EPIPE


def test_try_write_takes_what_fits(loop: CheckedLoop) -> None:
    """It returns the number of bytes taken, and raises UV_EAGAIN when none are or when writes are queued."""
    pipe, other = pair(loop)
    assert pipe.try_write(b"abc") == 3
    total = 3

    def fill() -> None:
        nonlocal total
        while True:
            total += pipe.try_write(b"x" * 100_000)

    with pytest.raises(error.PipeError) as caught:
        fill()
    assert caught.value.args[0] == errno.UV_EAGAIN
    pipe.write(b"queued")
    other.setblocking(False)
    assert len(drain(other)) == total
    with pytest.raises(error.PipeError):
        pipe.try_write(b"x")
    loop.run()
    assert drain(other) == b"queued"
    other.close()


def test_shutdown_follows_the_queue(loop: CheckedLoop) -> None:
    """The other end sees everything, then the end; afterwards writing is refused, reading goes on."""
    client, end = connected(loop)
    size = [0]

    def on_read(h: TCP, data: bytes | None, code: int | None) -> None:
        if data is None:
            assert code == errno.UV_EOF
            h.write(b"bye")
            h.close()
        else:
            size[0] += len(data)

    end.start_read(on_read)
    order: list[str] = []
    client.write(b"x" * 3_000_000, lambda *_: order.append("write"))
    client.shutdown(lambda h, code: order.append(f"shutdown {code}"))
    assert not client.writable
    assert client.readable
    with pytest.raises(error.TCPError) as caught:
        client.write(b"x")
    assert caught.value.args[0] == errno.UV_EPIPE
    with pytest.raises(error.TCPError) as caught:
        client.shutdown()
    assert caught.value.args[0] == errno.UV_ENOTCONN
    client.start_read(lambda h, data, code: order.append("bye") if data else h.close())
    loop.run()
    assert size == [3_000_000]
    assert order == ["write", "shutdown None", "bye"]


def test_a_writing_stream_lives_without_references(loop: CheckedLoop) -> None:
    """A stream is held while a write is queued."""
    pipe, other = pair(loop)
    codes: list[Any] = []
    pipe.write(b"x" * 1_000_000, lambda h, code: (codes.append(code), h.close()))
    del pipe
    other.setblocking(False)
    size = 0
    while not codes:
        size += len(drain(other))
        loop.run(2)
    loop.run()
    size += len(drain(other))
    assert (codes, size) == ([None], 1_000_000)
    other.close()


# Reading.


def test_reading_stops_and_goes_on(loop: CheckedLoop) -> None:
    """stop_read in the callback leaves the rest in the system for the next start_read."""
    pipe, other = pair(loop)
    other.sendall(b"x" * 100_000)
    other.close()
    sizes: list[int] = []

    def once(h: Pipe, data: bytes | None, code: int | None) -> None:
        assert data is not None
        sizes.append(len(data))
        h.stop_read()
        assert not h.active

    pipe.start_read(once)
    loop.run()
    assert sizes == [65536]
    pipe.start_read(lambda h, data, code: sizes.append(len(data)) if data else h.close())
    loop.run()
    assert sum(sizes) == 100_000


def test_the_end_is_told_once(loop: CheckedLoop) -> None:
    """At the end of the stream reading stops; the handle stays open."""
    pipe, other = pair(loop)
    calls: list[Any] = []
    other.close()
    pipe.start_read(lambda h, data, code: calls.append((data, code)))
    loop.run()
    assert calls == [(None, errno.UV_EOF)]
    assert not pipe.active
    assert not pipe.closed


def test_a_reset_is_a_code(loop: CheckedLoop) -> None:
    """A connection that the other end breaks off is UV_ECONNRESET."""
    client, end = connected(loop)
    calls: list[Any] = []
    client.start_read(lambda h, data, code: calls.append((data, code)))
    with socket.socket(fileno=os.dup(end.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()
    loop.run()
    assert calls == [(None, errno.UV_ECONNRESET)]


def test_start_read_into_fills_the_callers_buffers(loop: CheckedLoop) -> None:
    """A payload of known size is read into one buffer, without a copy; n counts from the start of what alloc gave."""
    client, end = connected(loop)
    payload = os.urandom(5_000_000)
    client.write(payload)
    buffer, filled = bytearray(len(payload)), [0]
    reads = [0]

    def alloc(h: TCP, suggested: int) -> memoryview:
        assert suggested == 65536
        return memoryview(buffer)[filled[0] :]

    def on_read(h: TCP, n: int | None, code: int | None) -> None:
        assert code is None
        assert n is not None
        reads[0] += 1
        filled[0] += n
        if filled[0] == len(buffer):
            h.close()
            client.close()

    end.start_read_into(alloc, on_read)
    loop.run()
    assert buffer == payload


def test_start_read_into_tells_of_the_end(loop: CheckedLoop) -> None:
    """n is None with a code; an empty buffer is UV_ENOBUFS, an alloc that raises stops reading."""
    pipe, other = pair(loop)
    other.send(b"abc")
    calls: list[Any] = []
    pipe.start_read_into(lambda h, _: bytearray(0), lambda h, n, code: calls.append((n, code)))
    loop.run()
    assert calls == [(None, errno.UV_ENOBUFS)]
    pipe.start_read_into(lambda h, _: 1 / 0, lambda h, n, code: calls.append((n, code)))  # type: ignore[arg-type]
    loop.run()
    assert not pipe.active
    assert [type(exc) for exc in loop.errors] == [ZeroDivisionError]
    loop.errors.clear()
    other.close()
    calls.clear()
    pipe.start_read_into(lambda h, _: bytearray(10), lambda h, n, code: calls.append((n, code)))
    loop.run()
    assert calls == [(3, None), (None, errno.UV_EOF)]


def test_the_kind_of_reading_can_change_in_the_callback(loop: CheckedLoop) -> None:
    """A header by start_read_into, then pieces by start_read, as a protocol would."""
    pipe, other = pair(loop)
    other.sendall(b"head" + b"x" * 100_000)
    other.close()
    got: list[Any] = []

    def on_data(h: Pipe, data: bytes | None, code: int | None) -> None:
        if data is None:
            h.close()
        else:
            got.append(len(data))

    header = bytearray(4)
    pipe.start_read_into(lambda h, _: header, lambda h, n, code: h.start_read(on_data))
    loop.run()
    assert header == b"head"
    assert sum(got) == 100_000


def test_a_fast_sender_does_not_keep_other_handles_from_their_turn(loop: CheckedLoop) -> None:
    """One stream reads a limited amount per turn."""
    pipe, other = pair(loop)
    big = 1 << 22
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, big)
    other.setblocking(False)
    turn = [0]
    most = 0
    got = 0

    def on_read(h: Pipe, data: bytes | None, code: int | None) -> None:
        nonlocal most, got
        assert data is not None
        turn[0] += len(data)
        got += len(data)
        most = max(most, turn[0])
        with contextlib.suppress(BlockingIOError):
            other.send(b"x" * 262_144)
        if got > 50_000_000:
            h.close()
            idle.close()

    idle = Idle(loop)
    idle.start(lambda _: turn.__setitem__(0, 0))
    other.send(b"x" * 262_144)
    pipe.start_read(on_read)
    loop.run()
    assert most <= 33 * 65536
    other.close()


def test_exceptions_in_stream_callbacks_reach_the_hook(loop: CheckedLoop) -> None:
    """Connection, connect, read, write and shutdown callbacks."""

    def on_connection(server: TCP, code: int | None) -> None:
        end = TCP(loop)
        server.accept(end)
        end.write(b"x", lambda *_: 1 / 0)
        end.shutdown(lambda h, _: (h.close(), 1 / 0))
        server.close()
        raise KeyError("connection")

    def on_connect(client: TCP, code: int | None) -> None:
        client.start_read(lambda h, data, code: ((None if data else h.close()), 1 / 0))
        raise KeyError("connect")

    server = listening(loop, on_connection)
    client = TCP(loop)
    client.connect(server.getsockname(), on_connect)
    loop.run()
    assert sorted(type(exc).__name__ for exc in loop.errors) == ["KeyError"] * 2 + ["ZeroDivisionError"] * 4
    loop.errors.clear()


# Pipes.


@pytest.mark.parametrize("abstract", [False, True])
def test_pipes_connect(loop: CheckedLoop, tmp_path: Path, abstract: bool) -> None:
    """By a path, whose file goes with the server, or by an abstract name; bytes or str."""
    name = f"\0{tmp_path}" if abstract else str(tmp_path / "pipe")
    client, end = connected(loop, Pipe, name)
    assert end.getsockname() == name
    assert client.getpeername() == name
    assert client.getsockname() == ""
    client.write(b"x", lambda h, _: h.close())
    got: list[Any] = []
    end.start_read(lambda h, data, code: got.append(data) if data else h.close())
    loop.run()
    assert got == [b"x"]
    assert not (tmp_path / "pipe").exists()


def test_a_pipe_that_cannot_be_bound_or_reached(loop: CheckedLoop, tmp_path: Path) -> None:
    """bind raises; connect calls back."""
    path = os.fsencode(tmp_path / "pipe")
    first, second = Pipe(loop), Pipe(loop)
    first.bind(path)
    with pytest.raises(error.PipeError) as caught:
        first.bind(path)
    assert caught.value.args[0] == errno.UV_EINVAL
    with pytest.raises(error.PipeError) as caught:
        second.bind(path)
    assert caught.value.args[0] == errno.UV_EADDRINUSE
    with pytest.raises(error.PipeError) as caught:
        second.bind(b"x" * 200)
    assert caught.value.args[0] == errno.UV_ENAMETOOLONG
    codes: list[Any] = []
    second.connect(tmp_path / "nobody", lambda h, code: codes.append(code))
    third = Pipe(loop)
    third.connect(b"y" * 200, lambda h, code: codes.append(code))
    loop.run()
    assert codes == [errno.UV_ENOENT, errno.UV_ENAMETOOLONG]
    second.close()
    loop.run()
    assert os.path.exists(path), "a handle removes only what it has made"


@pytest.mark.parametrize("kind", ["TCP", "Pipe"])
def test_handles_are_passed_through_a_pipe(loop: CheckedLoop, tmp_path: Path, kind: str) -> None:
    """A handle goes with the data; the receiver gets a working copy of its own."""
    a, b = socket.socketpair()
    left, right = Pipe(loop, True), Pipe(loop, True)
    left.open(a.detach())
    right.open(b.detach())
    passed: Stream
    if kind == "TCP":
        passed = TCP(loop)
        passed.bind(LOCALHOST)
    else:
        passed = Pipe(loop)
        passed.bind(str(tmp_path / "passed"))
    name = passed.getsockname()
    left.write([b"take ", b"this"], lambda h, code: passed.close(), passed)
    got: list[Any] = []

    def on_read(h: Pipe, data: bytes | None, code: int | None) -> None:
        assert h.pending_handle_type() == (UV_TCP if kind == "TCP" else UV_NAMED_PIPE)
        copy = (TCP if kind == "TCP" else Pipe)(loop)
        h.accept(copy)
        assert h.pending_handle_type() == UV_UNKNOWN_HANDLE
        with pytest.raises(error.PipeError):
            h.accept(TCP(loop))
        got.append((data, copy.getsockname()))
        copy.close()
        h.close()

    right.start_read(on_read)
    loop.run()
    assert got == [(b"take this", name)]


def test_passed_handles_that_nobody_takes_are_closed(loop: CheckedLoop) -> None:
    """Closing the pipe, or more than 64 waiting handles, leaks no descriptor."""
    a, b = socket.socketpair()
    left, right = Pipe(loop, True), Pipe(loop, True)
    left.open(a.detach())
    right.open(b.detach())
    tcp = TCP(loop, socket.AF_INET)
    for _ in range(80):
        left.write(b"x", None, tcp)
    size = [0]

    def on_read(h: Pipe, data: bytes | None, code: int | None) -> None:
        assert data is not None
        size[0] += len(data)
        if size[0] == 80:
            h.close()
            left.close()

    right.start_read(on_read)
    loop.run()


def test_what_cannot_be_passed(loop: CheckedLoop) -> None:
    """A pipe without ipc, a handle without a socket, something else, no data."""
    pipe, other = pair(loop)
    with pytest.raises(error.PipeError) as caught:
        pipe.write(b"x", None, TCP(loop, socket.AF_INET))
    assert caught.value.args[0] == errno.UV_EINVAL
    a, b = socket.socketpair()
    passing = Pipe(loop, True)
    passing.open(a.detach())
    with pytest.raises(error.TCPError):
        passing.write(b"x", None, TCP(loop))
    with pytest.raises(TypeError):
        passing.write(b"x", None, Idle(loop))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="byte"):
        passing.write(b"", None, TCP(loop, socket.AF_INET))
    with pytest.raises(TypeError):
        Pipe(loop, 1)  # type: ignore[arg-type]
    assert (passing.ipc, pipe.ipc) == (True, False)
    other.close()
    b.close()


def test_blocking_writes(loop: CheckedLoop) -> None:
    """set_blocking(True) makes a write wait for the system; False undoes it."""
    pipe, other = pair(loop)
    assert not os.get_blocking(pipe.fileno())
    pipe.set_blocking(True)
    assert os.get_blocking(pipe.fileno())
    pipe.set_blocking(False)
    pipe.pending_instances(5)
    other.close()


# Many.


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

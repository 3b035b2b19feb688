"""Stream reads: bytes, the caller's buffers, the end, fairness, and exceptions in callbacks."""

import contextlib
import os
import socket
from typing import Any

from io_uv.pyuv import (
    TCP,
    Idle,
    Pipe,
    errno,
)
from tests.unit.pyuv.conftest import CheckedLoop
from tests.unit.pyuv.streams import connected, listening, pair


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
    alloc: Any = lambda h, _: 1 / 0  # noqa: E731
    pipe.start_read_into(alloc, lambda h, n, code: calls.append((n, code)))
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

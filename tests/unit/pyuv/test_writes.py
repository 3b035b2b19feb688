"""Stream writes: queueing, gathering, cancelling, shutdown."""

import hashlib
import os
from typing import Any

import pytest

from io_uv.pyuv import (
    TCP,
    UV_RUN_NOWAIT,
    errno,
    error,
)
from tests.unit.pyuv.conftest import CheckedLoop
from tests.unit.pyuv.streams import connected, drain, pair


def test_a_write_is_sent_at_once_and_called_back_later(loop: CheckedLoop) -> None:
    """Bytes that the system takes are gone when write() returns; the callback never comes inside it."""
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
    """They take bytes-like objects of any item size, or sequences of them."""
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
        pipe.write(b"x", 1)
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


def test_write_now_needs_no_callback_for_what_is_taken(loop: CheckedLoop) -> None:
    """It says so itself; all that has to wait, fails, or is behind something that waits, is called back like any
    write.
    """
    pipe, other = pair(loop)
    codes: list[Any] = []
    assert pipe.write_now(b"abc", lambda h, code: codes.append(code)) is True
    assert pipe.write_now([b"d", b"ef"]) is True
    assert other.recv(100) == b"abcdef"
    loop.run()
    assert codes == []
    assert pipe.write_now(b"x" * 10_000_000, lambda h, code: codes.append("large")) is False
    assert pipe.write_now(b"y", lambda h, code: codes.append("small")) is False
    other.setblocking(False)
    total = 0
    while codes != ["large", "small"]:
        total += len(drain(other))
        loop.run(UV_RUN_NOWAIT)
    assert total + len(drain(other)) == 10_000_001
    other.close()
    while pipe.write_now(b"z", lambda h, code: codes.append(code)):
        pass
    assert codes == ["large", "small"]
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


@pytest.mark.parametrize("method", ["write", "shutdown"])
def test_a_callback_that_cannot_be_called_is_refused(loop: CheckedLoop, method: str) -> None:
    """Nothing is sent and nothing ends; without a callback, or with None, it does."""
    pipe, other = pair(loop)
    data = [b"x"] if method == "write" else []
    with pytest.raises(TypeError, match="callable"):
        getattr(pipe, method)(*data, 1)
    pipe.write(b"still open", None)
    pipe.shutdown(None)
    loop.run()
    assert other.recv(100) == b"still open"
    assert other.recv(100) == b""
    other.close()

"""Pipe: names, descriptors that are not sockets, and handles passed between processes."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from io_uv.pyuv import (
    TCP,
    UV_NAMED_PIPE,
    UV_TCP,
    UV_UNKNOWN_HANDLE,
    Idle,
    Pipe,
    Stream,
    errno,
    error,
)
from tests.unit.pyuv.conftest import CheckedLoop
from tests.unit.pyuv.streams import LOCALHOST, connected, pair


@pytest.mark.parametrize("abstract", [False, True])
def test_pipes_connect(loop: CheckedLoop, near_path: Path, abstract: bool) -> None:
    """They do by a path, whose file goes with the server, or by an abstract name, which are bytes or str."""
    name = f"\0{near_path}" if abstract else str(near_path / "pipe")
    client, end = connected(loop, Pipe, name)
    assert end.getsockname() == name
    assert client.getpeername() == name
    assert client.getsockname() == ""
    client.write(b"x", lambda h, _: h.close())
    got: list[Any] = []
    end.start_read(lambda h, data, code: got.append(data) if data else h.close())
    loop.run()
    assert got == [b"x"]
    assert not (near_path / "pipe").exists()


def test_a_pipe_that_cannot_be_bound_or_reached(loop: CheckedLoop, near_path: Path) -> None:
    """bind raises; connect calls back."""
    path = os.fsencode(near_path / "pipe")
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
    second.connect(near_path / "nobody", lambda h, code: codes.append(code))
    third = Pipe(loop)
    third.connect(b"y" * 200, lambda h, code: codes.append(code))
    loop.run()
    assert codes == [errno.UV_ENOENT, errno.UV_ENAMETOOLONG]
    second.close()
    loop.run()
    assert os.path.exists(path), "a handle removes only what it has made"


def test_the_ends_of_a_pipe_are_streams(loop: CheckedLoop) -> None:
    """Each end that `os.pipe` gives can be opened: one end is read, the other written, each in its direction only."""
    reader_fd, writer_fd = os.pipe()
    reader, writer = Pipe(loop), Pipe(loop)
    reader.open(reader_fd)
    writer.open(writer_fd)
    assert (reader.readable, reader.writable, writer.readable, writer.writable) == (True, False, False, True)
    data = os.urandom(1_000_000)
    writer.write([data[:10], data[10:300_000], data[300_000:]], lambda h, code: h.close())
    buffer, filled = bytearray(len(data)), [0]
    ends: list[int | None] = []

    def on_read(h: Pipe, n: int | None, code: int | None) -> None:
        if n is None:
            ends.append(code)
            h.close()
        else:
            filled[0] += n

    reader.start_read_into(lambda h, _: memoryview(buffer)[filled[0] :] or bytearray(1), on_read)
    for call in (lambda: reader.write(b"x"), lambda: writer.start_read(print)):
        with pytest.raises(error.PipeError):
            call()
    loop.run()
    assert buffer == data
    assert ends == [errno.UV_EOF]


def test_a_terminal_is_a_stream(loop: CheckedLoop) -> None:
    """A terminal can be read and written, but is not a socket."""
    master_fd, slave_fd = os.openpty()
    master, slave = Pipe(loop), Pipe(loop)
    master.open(master_fd)
    slave.open(slave_fd)
    got: list[bytes] = []
    codes: list[int | None] = []
    slave.start_read(lambda h, data, code: (got.append(data or b""), h.close()))
    master.write(b"line\n")
    for call in (slave.getsockname, slave.getpeername, lambda: slave.send_buffer_size):
        with pytest.raises(error.PipeError) as caught:
            call()
        assert caught.value.args[0] == errno.UV_ENOTSOCK
    master.shutdown(lambda h, code: codes.append(code))
    loop.run()
    assert (got, codes) == ([b"line\n"], [errno.UV_ENOTSOCK])


def test_a_file_is_no_stream(loop: CheckedLoop, tmp_path: Path) -> None:
    """A plain file cannot be watched, so it is refused and stays open."""
    with open(tmp_path / "f", "w") as f:
        with pytest.raises(error.PipeError) as caught:
            Pipe(loop).open(f.fileno())
        assert caught.value.args[0] in (errno.UV_EINVAL, errno.UV_ENOTSOCK)
        f.write("still open")


@pytest.mark.parametrize("kind", ["TCP", "Pipe"])
def test_handles_are_passed_through_a_pipe(loop: CheckedLoop, near_path: Path, kind: str) -> None:
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
        passed.bind(str(near_path / "passed"))
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
    taken: list[int] = []

    def on_read(h: Pipe, data: bytes | None, code: int | None) -> None:
        assert data is not None
        size[0] += len(data)
        if size[0] == 80:
            while h.pending_handle_type() == UV_TCP:
                h.accept(TCP(loop))
                taken.append(1)
            left.write(b"y", None, tcp)
        elif size[0] == 81:
            h.close()  # with a handle that nobody has taken
            left.write(b"x" * 5_000_000)
            left.write(b"x", None, tcp)
            left.close()  # with a handle that nobody will get

    right.start_read(on_read)
    loop.run()
    assert len(taken) == 64


def test_what_cannot_be_passed(loop: CheckedLoop) -> None:
    """It is a pipe without ipc, a handle without a socket, something else, or no data."""
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
        passing.write(b"x", None, Idle(loop))
    with pytest.raises(ValueError, match="byte"):
        passing.write(b"", None, TCP(loop, socket.AF_INET))
    with pytest.raises(TypeError):
        Pipe(loop, 1)
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

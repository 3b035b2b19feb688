"""Loops and listeners to which a sandbox refuses eventfd, epoll or setsockopt."""

import errno
import os
import select
import socket
import threading
from typing import Any

import pytest

from io_uv.pyuv import TCP, Async, Loop, Poll, Timer, wakeup
from io_uv.pyuv.error import TCPError
from io_uv.pyuv.mailbox import Mailbox
from io_uv.pyuv.tcp import UV_TCP_IPV6ONLY
from tests.lib.threads import open_fds

CODES = [errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EAGAIN]


def refuse(patch: pytest.MonkeyPatch, module: Any, name: str, code: int) -> None:
    def call(*args: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    patch.setattr(module, name, call)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("module", "name", "call"), [(os, "eventfd", "eventfd"), (select, "epoll", "epoll_create1")])
def test_a_loop_of_asyncio_takes_the_place_of_uvloop(
    monkeypatch: pytest.MonkeyPatch, code: int, module: Any, name: str, call: str
) -> None:
    """Timers, threads, wake-ups, descriptors and connections work; nothing stays open."""
    before = open_fds()
    refuse(monkeypatch, module, name, code)
    loop = Loop()
    assert type(loop._uv).__module__.startswith("asyncio")
    assert loop.refusal is not None
    assert (loop.refusal[0], loop.refusal[1].errno) == (call, code)
    seen: list[str] = []
    Timer(loop).start(lambda timer: (seen.append("timer"), timer.close()), 0.001, 0)
    loop.queue_work(lambda: seen.append("work"), lambda error: seen.append(f"done {error}"))
    woken = Async(loop, lambda handle: (seen.append("woken"), handle.close()))
    thread = threading.Thread(target=woken.send)
    thread.start()
    reader, writer = os.pipe()
    watched = Poll(loop, reader)
    watched.start(1, lambda handle, events, error: (seen.append("readable"), handle.close()))
    os.write(writer, b"x")
    listener, client = TCP(loop), TCP(loop)
    listener.bind(("127.0.0.1", 0))

    def connected(handle: TCP, error: int | None) -> None:
        seen.append(f"connected {error}")
        handle.close()
        listener.close()

    listener.listen(lambda handle, error: None, 1)
    client.connect(listener.getsockname(), connected)
    loop.run()
    assert sorted(seen) == ["connected None", "done None", "readable", "timer", "woken", "work"]
    loop.close()
    thread.join()
    os.close(reader)
    os.close(writer)
    assert open_fds() <= before


def test_a_wake_up_through_a_pipe_may_come_behind_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is awake calls what a thread has posted, and may have ended before the thread wakes it."""
    refuse(monkeypatch, os, "eventfd", errno.EPERM)
    box, write = Mailbox(), os.write

    def late(fd: int, data: bytes) -> int:
        box.close()
        return write(fd, data)

    monkeypatch.setattr(os, "write", late)
    assert box.post(lambda: None) is False
    assert box.fd == -1


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_it_runs_in_every_mode(monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """A timer that is due ends a turn."""
    refuse(monkeypatch, os, "eventfd", errno.EPERM)
    loop = Loop()
    seen: list[bool] = []
    Timer(loop).start(lambda timer: (seen.append(True), timer.close()), 0.0, 0)
    while loop.run(mode):
        pass
    assert seen == [True]
    loop.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize(("module", "name"), [(os, "pipe"), (select, "epoll")])
def test_a_shortage_is_no_refusal(monkeypatch: pytest.MonkeyPatch, code: int, module: Any, name: str) -> None:
    """It passes, and concerns asyncio's loop as well."""
    if name == "pipe":
        refuse(monkeypatch, os, "eventfd", code)
    refuse(monkeypatch, module, name, code)
    assert wakeup.uvloop_refusal() is None


def test_a_loop_that_nothing_is_refused_to_is_a_uvloop() -> None:
    """Its descriptor is to be had."""
    loop = Loop()
    assert loop.refusal is None
    assert type(loop._uv).__module__.startswith("uvloop")
    assert loop.fileno() >= 0
    loop.close()


def test_a_backend_without_a_descriptor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """poll(2) has none; epoll under asyncio's loop has one."""
    with monkeypatch.context() as patch:
        refuse(patch, os, "eventfd", errno.EPERM)
        loop = Loop()
        assert loop.fileno() >= 0
        loop.close()
    refuse(monkeypatch, select, "epoll", errno.EPERM)
    loop = Loop()
    with pytest.raises(RuntimeError, match="no descriptor"):
        loop.fileno()
    loop.close()


class Stubborn(socket.socket):
    """A socket whose options cannot be set."""

    code = errno.EPERM

    def setsockopt(self, *args: Any) -> None:
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_listener_does_without_options(monkeypatch: pytest.MonkeyPatch, code: int, address: str) -> None:
    """It says so; only that IPv4 be left out is not left to chance."""
    if address == "::1" and not socket.has_ipv6:
        pytest.skip("needs IPv6")
    loop = Loop()
    monkeypatch.setattr(Stubborn, "code", code)
    monkeypatch.setattr("io_uv.pyuv.tcp.Socket", Stubborn)
    listener = TCP(loop)
    listener.bind((address, 0))
    listener.listen(lambda handle, error: None, 1)
    assert listener.getsockname()[1] > 0
    assert listener.refusal is not None
    assert listener.refusal.errno == code
    listener.close()
    only = TCP(loop)
    with pytest.raises(TCPError):
        only.bind(("::1", 0), UV_TCP_IPV6ONLY)
    only.close()
    loop.run()
    loop.close()

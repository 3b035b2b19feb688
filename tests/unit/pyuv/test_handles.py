"""The common part of all handles: the close protocol, references, and what becomes of one that is forgotten."""

import asyncio
import gc
import os
import signal
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from io_uv.pyuv import (
    TCP,
    UV_READABLE,
    UV_RUN_NOWAIT,
    Async,
    Check,
    Handle,
    Idle,
    Loop,
    Pipe,
    Poll,
    Prepare,
    Signal,
    Timer,
    error,
)
from tests.lib.threads import open_fds
from tests.unit.pyuv.conftest import CheckedLoop

_fd = os.eventfd(0)

KINDS: dict[str, Callable[[Any], Handle]] = {
    "Async": Async,
    "Check": Check,
    "Idle": Idle,
    "Pipe": Pipe,
    "Poll": lambda loop: Poll(loop, _fd),
    "Prepare": Prepare,
    "Signal": Signal,
    "TCP": TCP,
    "Timer": Timer,
}


def start(handle: Any) -> None:
    """Make a handle active."""
    if isinstance(handle, TCP):
        handle.bind(("127.0.0.1", 0))
        handle.listen(lambda *_: None)
    elif isinstance(handle, Pipe):
        handle.bind(f"\0pyuv-test-{id(handle)}")
        handle.listen(lambda *_: None)
    elif isinstance(handle, Poll):
        handle.start(UV_READABLE, lambda *_: None)
    elif isinstance(handle, Timer):
        handle.start(lambda _: None, 30, 0)
    elif isinstance(handle, Signal):
        handle.start(lambda *_: None, 12)
    elif not isinstance(handle, Async):
        handle.start(lambda _: None)


def begin(handle: Any, callback: Callable[..., None]) -> None:
    """Make a handle active and have happen what it waits for."""
    if isinstance(handle, Poll):
        os.eventfd_write(_fd, 1)
        handle.start(UV_READABLE, callback)
    elif isinstance(handle, Timer):
        handle.start(callback, 0, 0)
    elif isinstance(handle, Signal):
        handle.start(callback, signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
    elif isinstance(handle, Async):
        handle.send()
    else:
        handle.start(callback)


@pytest.mark.parametrize("kind", ["Async", "Check", "Idle", "Poll", "Prepare", "Signal", "Timer"])
@pytest.mark.parametrize("muted", [False, True])
def test_a_muted_handle_calls_nobody(loop: CheckedLoop, kind: str, muted: bool) -> None:
    """Neither the callback that it was made or started with, nor that of its close, comes any more."""
    calls: list[str] = []

    def called(*_: object) -> None:
        calls.append("callback")

    handle: Any = Async(loop, called) if kind == "Async" else KINDS[kind](loop)
    begin(handle, called)
    try:
        if muted:
            handle.mute()
        later = Timer(loop)
        later.start(lambda timer: timer.close(), 0.002, 0)
        loop.run_until(lambda: later.closed and (muted or calls))
        handle.close(lambda _: calls.append("closed"))
        if muted:
            handle.mute()
        loop.run()
    finally:
        if kind == "Poll":
            os.eventfd_read(_fd)
    assert bool(calls) is not muted
    assert ("closed" in calls) is not muted


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_close_calls_back_once_from_the_loop(loop: CheckedLoop, kind: str, active: bool) -> None:
    """The callback comes once, with the handle, from the loop and never inside close()."""
    handle = KINDS[kind](loop)
    if active:
        start(handle)
        assert handle.active
    calls: list[Any] = []
    handle.close(calls.append)
    assert calls == []
    assert handle.closed
    assert not handle.active
    assert handle in loop.handles
    assert handle.loop is loop
    loop.run()
    assert calls == [handle]
    assert handle.loop is None
    assert loop.handles == []
    loop.run()
    assert calls == [handle]


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_handle_refuses_everything(loop: CheckedLoop, kind: str) -> None:
    """Every method of a closing or closed handle raises HandleClosedError, close() too."""
    handle: Any = KINDS[kind](loop)
    handle.close()
    arguments: dict[str, tuple[Any, ...]] = {
        "start": {"Poll": (1, print), "Timer": (print, 1, 0), "Signal": (print, 12)}.get(kind, (print,)),
        "bind": ("\0x",) if kind == "Pipe" else (("127.0.0.1", 0),),
        "connect": ("\0x", print) if kind == "Pipe" else (("127.0.0.1", 1), print),
        "listen": (print,),
        "accept": (TCP(loop),),
        "open": (0,),
        "write": (b"x",),
        "try_write": (b"x",),
        "write_now": (b"x",),
        "start_read": (print,),
        "start_read_into": (print, print),
        "set_blocking": (True,),
        "nodelay": (True,),
        "keepalive": (True, 1),
        "simultaneous_accepts": (True,),
        "pending_instances": (1,),
    }
    methods = ["close", "stop", "again", "send", "shutdown", "stop_read", "fileno", "getsockname", "getpeername"]
    checked = 0
    for when in ("closing", "closed"):
        for name in [*arguments, *methods]:
            if hasattr(handle, name):
                with pytest.raises(error.HandleClosedError):
                    getattr(handle, name)(*arguments.get(name, ()))
                checked += 1
        if when == "closing":
            loop.run()
    assert checked >= 4


def test_close_wants_a_callable(loop: CheckedLoop) -> None:
    """A callback that cannot be called is refused, and the handle stays open."""
    timer = Timer(loop)
    with pytest.raises(TypeError):
        timer.close(1)
    assert not timer.closed


def test_close_in_a_close_callback(loop: CheckedLoop) -> None:
    """A close callback may close other handles, whose callbacks follow in a later turn."""
    order: list[str] = []
    first, second = Timer(loop), Timer(loop)

    def closed_first(_: object) -> None:
        second.close(lambda _: order.append("second"))
        order.append("first")

    first.close(closed_first)
    loop.run()
    assert order == ["first", "second"]


def test_close_callbacks_come_in_the_order_of_closing(loop: CheckedLoop) -> None:
    """Handles are called back in the order in which they were closed."""
    order: list[int] = []
    for n in range(5):
        Timer(loop).close(lambda _, n=n: order.append(n))
    loop.run()
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["Check", "Idle", "Poll", "Prepare", "Signal", "TCP", "Timer", "Pipe"])
def test_an_active_handle_is_held_by_the_loop(loop: CheckedLoop, kind: str) -> None:
    """A handle that is active lives without a reference; once stopped or closed and forgotten it goes."""
    handle: Handle | None = KINDS[kind](loop)
    start(handle)
    ref = weakref.ref(handle)
    handle = None
    gc.collect()
    handle = ref()
    assert handle is not None
    handle.close()
    handle = None
    gc.collect()
    assert ref() is not None, "a closing handle is held until its callback"
    loop.run()
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgotten_handle_closes_itself(loop: CheckedLoop, kind: str) -> None:
    """A handle that is neither active nor referenced is closed by the loop. (An Async's activity is not enough.)"""
    handle: Handle | None = KINDS[kind](loop)
    ref = weakref.ref(handle)
    handle = None
    gc.collect()
    assert [h.closed for h in loop.handles] == [True]
    assert loop.alive
    loop.run()
    assert loop.handles == []
    assert ref() is None


def test_a_forgotten_socket_is_closed(loop: CheckedLoop) -> None:
    """The descriptor of a stream that nobody refers to is given back, even if the stream is part of a cycle."""
    before = open_fds()
    for family in (socket.AF_INET, socket.AF_INET6):
        tcp: Any = TCP(loop, family)
        tcp.me = tcp
        del tcp
    gc.collect()
    loop.run()
    assert open_fds() == before


def test_a_handle_forgotten_in_another_thread_is_closed_by_the_loop(loop: CheckedLoop) -> None:
    """Finalisers run in any thread; the loop's own structures are touched in its thread only."""
    closers: list[str] = []

    class Watched(TCP):
        def _release(self) -> None:
            closers.append(threading.current_thread().name)
            super()._release()

    keep = Async(loop)
    box = [Watched(loop, socket.AF_INET)]
    thread = threading.Thread(target=box.clear, name="other")
    thread.start()
    thread.join()
    assert closers == []
    loop.run_until(lambda: closers)
    assert closers == [threading.main_thread().name]
    keep.close()


@pytest.mark.parametrize("kind", KINDS)
def test_handles_of_a_closed_loop_are_closed(kind: str) -> None:
    """A handle that outlives its loop is closed and can be dropped."""
    loop = Loop()
    handle = KINDS[kind](loop)
    loop.close()
    assert handle.closed
    with pytest.raises(error.HandleClosedError):
        handle.close()


def test_handles_carry_attributes_and_can_be_subclassed(loop: CheckedLoop) -> None:
    """As in pyuv a program may hang its own data on a handle, or derive from its class."""

    class Mine(Timer):
        def __init__(self, loop: Any) -> None:
            super().__init__(loop)
            self.fired = 0

    timer: Any = Mine(loop)
    timer.note = "x"
    timer.start(lambda t: setattr(t, "fired", t.fired + 1), 0.001, 0)
    loop.run()
    assert (timer.fired, timer.note) == (1, "x")


def test_a_handle_needs_a_loop_that_is_open(loop: CheckedLoop) -> None:
    """Half-made handles, whose constructor raised, are dropped without a sound."""
    with pytest.raises(TypeError):
        Timer()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Async(loop, 3)
    gc.collect()
    loop.run(UV_RUN_NOWAIT)


def test_a_handle_needs_a_loop_of_ours() -> None:
    """An asyncio or uvloop loop in its place is told how to be wrapped."""
    loop = asyncio.new_event_loop()
    try:
        for wrong in (loop, None):
            with pytest.raises(TypeError, match=r"pyuv\.Loop\(loop\) makes one"):
                Timer(wrong)
    finally:
        loop.close()

"""Loop(asyncio_loop): handles on a loop that an asyncio program runs, uvloop's or asyncio's own."""

import asyncio
import gc
import importlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from io_uv.pyuv import (
    TCP,
    UV_READABLE,
    Async,
    Check,
    Idle,
    Loop,
    Poll,
    Prepare,
    Signal,
    Timer,
    dns,
    error,
)
from tests.lib.threads import foreign_threads, open_fds

uvloop: Any = importlib.import_module("uvloop")  # what the program, not the guest, chooses to run

Program = Callable[[Loop], Awaitable[Any]]

FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=FACTORIES)
def run(request: pytest.FixtureRequest) -> Callable[[Program], Any]:
    """Run a coroutine function with a guest Loop on a fresh asyncio loop; nothing may be left behind."""

    def run(program: Program) -> Any:
        gc.collect()
        fds, threads = open_fds(), foreign_threads()
        aio = FACTORIES[request.param]()

        async def main() -> Any:
            loop = Loop(asyncio.get_running_loop())
            try:
                return await asyncio.wait_for(program(loop), 120)
            finally:
                loop.close()
                while not loop._closed:
                    await asyncio.sleep(0)

        try:
            result = aio.run_until_complete(main())
        finally:
            aio.close()
        gc.collect()
        assert open_fds() == fds
        assert foreign_threads() == threads
        return result

    return run


def test_all_handles_work_on_a_running_loop(run: Callable[[Program], Any]) -> None:
    """Timers, wake-ups, descriptors, phases, streams, threads and names beside the program's own tasks."""

    async def program(loop: Loop) -> list[str]:
        done: list[str] = []
        fd = os.eventfd(1)

        def end(name: str, handle: Any = None) -> None:
            done.append(name)
            if handle is not None:
                handle.close()

        Timer(loop).start(lambda t: end("timer", t), 0.01, 0)
        wake = Async(loop, lambda a: end("async", a))
        sender = threading.Thread(target=wake.send)
        sender.start()
        Poll(loop, fd).start(UV_READABLE, lambda p, *_: end("poll", p))
        for kind in (Prepare, Check, Idle):
            kind(loop).start(lambda h: end(type(h).__name__, h))
        loop.queue_work(lambda: None, lambda code: end(f"work {code}"))
        dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda result, code: end(f"dns {code}"))

        def on_connection(server: TCP, code: int | None) -> None:
            tcp = TCP(loop)
            server.accept(tcp)
            tcp.start_read(lambda h, data, code: end(f"tcp {data!r}", h))
            server.close()

        server = TCP(loop)
        server.bind(("127.0.0.1", 0))
        server.listen(on_connection)
        client = TCP(loop)
        client.connect(server.getsockname(), lambda c, _: c.write(b"x", lambda c, _: c.close()))
        while len(done) < 9 or loop.handles:
            await asyncio.sleep(0.001)
        sender.join(100)
        os.close(fd)
        return sorted(done)

    assert run(program) == sorted(
        ["timer", "async", "poll", "Prepare", "Check", "Idle", "work None", "dns None", "tcp b'x'"]
    )


def test_a_guest_does_not_run_or_stop_the_loop(run: Callable[[Program], Any]) -> None:
    """run, stop and fileno belong to the owner."""

    async def program(loop: Loop) -> None:
        assert not loop.default
        for method in (loop.run, loop.stop, loop.fileno):
            with pytest.raises(RuntimeError):
                method()

    run(program)


def test_close_ends_the_guest_only(run: Callable[[Program], Any]) -> None:
    """Handles are closed, work in progress is awaited, their callbacks follow; the asyncio loop goes on."""

    async def program(loop: Loop) -> list[str]:
        order: list[str] = []
        gate, begun = threading.Event(), threading.Event()
        timer = Timer(loop)
        timer.start(lambda _: order.append("never"), 0, 0)
        loop.queue_work(lambda: (begun.set(), gate.wait(100)), lambda code: order.append(f"work {code}"))
        begun.wait(100)
        closing = Idle(loop)
        closing.close(lambda _: order.append("closed"))
        loop.close()
        loop.close()
        assert timer.closed
        with pytest.raises(RuntimeError):
            Timer(loop)
        with pytest.raises(error.HandleClosedError):
            timer.stop()
        while not order:
            await asyncio.sleep(0.001)
        assert order == ["closed"]
        gate.set()
        while len(order) < 2:
            await asyncio.sleep(0.001)
        return order

    assert run(program) == ["closed", "work None"]


def test_a_turn_after_the_last_one_does_nothing(run: Callable[[Program], Any]) -> None:
    """One more may have been scheduled, as whoever mends an interrupted loop cannot know whether there is one."""

    async def program(loop: Loop) -> list[Any]:
        host = asyncio.get_running_loop()
        raised: list[Any] = []
        host.set_exception_handler(lambda host, context: raised.append(context))
        loop._schedule_anew()
        loop._schedule_anew()
        loop.close()
        for _ in range(5):
            await asyncio.sleep(0)
        return raised

    assert run(program) == []


def test_exceptions_reach_the_guests_hook(run: Callable[[Program], Any]) -> None:
    """They do not reach asyncio's exception handler."""

    async def program(loop: Loop) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: pytest.fail("asyncio was told"))
        seen: list[BaseException] = []
        loop.excepthook = lambda typ, value, tb: seen.append(value)
        Timer(loop).start(lambda _: 1 / 0, 0, 0)
        Idle(loop).start(lambda h: (h.close(), 1 / 0))
        wake = Async(loop, lambda _: 1 / 0)
        wake.send()
        loop.queue_work(lambda: 1 / 0, lambda _: 1 / 0)
        while len(seen) < 5:
            await asyncio.sleep(0.001)
        assert {type(exc) for exc in seen} == {ZeroDivisionError}

    run(program)


def test_signals_reach_a_guest(run: Callable[[Program], Any]) -> None:
    """A Signal handle works in an asyncio program's main thread."""

    async def program(loop: Loop) -> int:
        seen: list[int] = []
        handle = Signal(loop)
        handle.start(lambda h, signum: seen.append(signum), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        while not seen:
            await asyncio.sleep(0.001)
        return seen[0]

    assert run(program) == signal.SIGUSR2


def test_a_forgotten_guest_leaves(run: Callable[[Program], Any]) -> None:
    """A guest Loop that is dropped without close() gives its descriptor back while the asyncio loop runs on."""

    async def program(loop: Loop) -> None:
        before = open_fds()
        guest: Loop | None = Loop(asyncio.get_running_loop())
        Timer(guest)
        guest = None
        gc.collect()
        while open_fds() != before:
            await asyncio.sleep(0.001)

    run(program)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_guest_outlives_its_closed_host(factory: str) -> None:
    """When the program closes its loop first, handles and guest can still be dropped, and leak nothing."""
    gc.collect()
    before = open_fds()
    aio = FACTORIES[factory]()
    loop = Loop(aio)
    tcp, timer, wake = TCP(loop), Timer(loop), Async(loop)
    tcp.bind(("127.0.0.1", 0))
    timer.start(lambda _: None, 30, 0)
    listener = TCP(loop)
    listener.bind(("127.0.0.1", 0))
    listener.listen(lambda *_: None)
    aio.close()
    wake.send()
    del tcp, timer, wake, listener, loop
    gc.collect()
    assert open_fds() == before


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_handle_dropped_behind_its_closed_host_is_closed_at_once(factory: str) -> None:
    """No turn will come in which that could be done, whether the guest lives on or not."""
    aio = FACTORIES[factory]()
    loop = Loop(aio)
    tcp = TCP(loop)
    tcp.bind(("127.0.0.1", 0))
    aio.close()
    gc.collect()
    before, name = open_fds(), f"{tcp.fileno()} "
    del tcp
    gc.collect()
    assert open_fds() == {fd for fd in before if not fd.startswith(name)}
    assert loop.handles == []


def test_two_guests_share_a_host(run: Callable[[Program], Any]) -> None:
    """Each has its own handles and its own end."""

    async def program(loop: Loop) -> list[str]:
        other = Loop(asyncio.get_running_loop())
        order: list[str] = []
        Timer(loop).start(lambda _: order.append("first"), 0.01, 0)
        Timer(other).start(lambda _: order.append("never"), 0.005, 0)
        other.close()
        while not order:
            await asyncio.sleep(0.001)
        return order

    assert run(program) == ["first"]

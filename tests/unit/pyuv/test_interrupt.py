"""Ctrl-C while a loop runs, and exceptions that come out of the middle of the loop's own lines."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from io_uv.pyuv import (
    UV_READABLE,
    UV_RUN_NOWAIT,
    UV_WRITABLE,
    Async,
    Loop,
    Pipe,
    Poll,
    Prepare,
    Timer,
    forked,
    interrupt,
    threadpool,
)
from io_uv.pyuv import loop as loop_module

LIBRARY = str(Path(loop_module.__file__).parent / "of_the_library.py")


def of_library(source: str, **names: Any) -> Callable[..., Any]:
    """Return a function `f` that passes for one of the library's own."""
    exec(compile(source, LIBRARY, "exec"), names)
    function: Callable[..., Any] = names["f"]
    return function


def interrupt_here() -> None:
    """Do what Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop; the handler of SIGINT is Python's own."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    made = Loop()
    yield made
    made.close()
    signal.signal(signal.SIGINT, former)


def soon(loop: Loop, function: Callable[[], object]) -> Timer:
    """Have a function called by the loop."""
    timer = Timer(loop)

    def call(timer: Timer) -> None:
        timer.close()
        function()

    timer.start(call, 0.0, 0.0)
    return timer


def test_functions_of_the_library_come_to_their_end(loop: Loop) -> None:
    """An interrupt, or two, in the middle of one comes out of run after it, and all is in order."""
    for times in (1, 2):
        order: list[str] = []
        source = "def f():\n    for _ in range(times):\n        raise_signal(2)\n    order.append('end')"
        function = of_library(source, raise_signal=signal.raise_signal, order=order, times=times)
        soon(loop, function)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
        assert order == ["end"]
        assert not loop._inside
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert loop.run() is False


def test_a_third_interrupt_comes_at_once(loop: Loop) -> None:
    """A library that never comes to an end does not hold the program for ever."""
    function = of_library("def f():\n    while True:\n        raise_signal(2)", raise_signal=signal.raise_signal)
    soon(loop, function)
    with pytest.raises(KeyboardInterrupt):
        loop.run()


def test_a_callback_of_the_program_is_interrupted_by_the_second(loop: Loop) -> None:
    """The first waits for its end."""
    order: list[str] = []

    def once() -> None:
        interrupt_here()
        order.append("end")

    def twice() -> None:
        interrupt_here()
        interrupt_here()
        order.append("never")

    for function in (once, twice):
        soon(loop, function)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    assert order == ["end"]


def test_the_wait_is_interrupted(loop: Loop) -> None:
    """A loop that has nothing to do ends at once."""
    timer = Timer(loop)
    timer.start(lambda timer: None, 3600.0, 0.0)
    main, waits = threading.get_ident(), threading.Event()

    def send() -> None:
        waits.wait()
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    prepare = Prepare(loop)
    prepare.start(lambda prepare: waits.set())
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    thread.join()


def test_handlers_of_the_program_stay(loop: Loop) -> None:
    """They are called at once, and are there before, in and behind run."""
    seen: list[object] = []

    def handler(signum: int, frame: object) -> None:
        seen.append(signum)

    signal.signal(signal.SIGINT, handler)
    soon(loop, lambda: (interrupt_here(), seen.append(signal.getsignal(signal.SIGINT))))
    loop.run()
    assert seen == [signal.SIGINT, handler]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_that_is_set_meanwhile_stays(loop: Loop) -> None:
    """An exception that a callback sets is not taken back by the end of run."""
    soon(loop, lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    loop.run()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_leave_the_handler_alone(loop: Loop) -> None:
    """Signals are the main thread's business."""
    seen: list[object] = []
    soon(loop, lambda: seen.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=loop.run)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_asyncio_hears_of_it_when_the_library_has_ended() -> None:
    """With asyncio.run the main task is cancelled, after the function, and the handler is put back."""
    order: list[str] = []
    source = "def f():\n    raise_signal(2)\n    order.append('end')"
    function = of_library(source, raise_signal=signal.raise_signal, order=order)

    async def main() -> None:
        guest = Loop(asyncio.get_running_loop())
        try:
            soon(guest, function)
            await asyncio.Event().wait()
        finally:
            order.append("finally")
            guest.close()

    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert order == ["end", "finally"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former)


class Watcher:
    """Counts how often it was told."""

    def __init__(self) -> None:
        self.times = 0

    def _torn(self) -> None:
        self.times += 1


def test_who_watches_is_told_of_what_was_left_in_its_middle(loop: Loop) -> None:
    """It is told of what came through a function of the library, not of what a callback of the program raises."""
    watcher = Watcher()
    loop.watch(watcher)

    def leave() -> None:
        raise KeyboardInterrupt

    for function, times in ((leave, 0), (of_library("def f():\n    raise KeyboardInterrupt"), 1)):
        soon(loop, function)
        with pytest.raises(KeyboardInterrupt):
            loop.run()
        loop.run()
        assert watcher.times == times


def test_work_that_was_not_handed_over_is_not_waited_for(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted before, in or behind the pool's submit, queue_work leaves nothing that keeps run from ending."""
    submit = threadpool.submit

    def before(request: threadpool.Request, slow: bool = False) -> None:
        raise KeyboardInterrupt

    def behind(request: threadpool.Request, slow: bool = False) -> None:
        submit(request, slow)
        raise KeyboardInterrupt

    for function in (before, behind):
        monkeypatch.setattr(threadpool, "submit", function)
        with pytest.raises(KeyboardInterrupt):
            loop.queue_work(lambda: None)
        assert loop.run() is False
        soon(loop, lambda: loop.queue_work(lambda: None))
        with pytest.raises(KeyboardInterrupt):
            loop.run()
        monkeypatch.setattr(threadpool, "submit", submit)
        assert loop.run() is False


def test_a_start_that_was_interrupted_is_counted(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that was started outside of run, but for the count of what keeps the loop going, runs; then run ends."""
    seen: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_retain", interrupted)
    timer = Timer(loop)
    with pytest.raises(KeyboardInterrupt):
        timer.start(lambda timer: seen.append("fired"), 0.0, 0.0)
    monkeypatch.undo()
    assert loop.run() is False
    assert seen == ["fired"]


def test_mending_restores_what_handles_rest_on(loop: Loop) -> None:
    """A turn, a timer and a close that were noted and not begun are begun, a mailbox that was not woken is."""
    seen: list[str] = []
    timer, closing, sent = Timer(loop), Timer(loop), Async(loop, lambda handle: (seen.append("sent"), handle.close()))
    timer.start(lambda timer: (seen.append("fired"), timer.close()), 0.0, 0.0)
    timer._release()
    closing._closed = True
    closing._close_cb = lambda handle: seen.append("closed")
    sent._sent = loop._mailbox._sent = True
    loop._scheduled = loop._inside = True
    loop._alive = 17
    assert loop.run() is False
    assert sorted(seen) == ["closed", "fired", "sent"]


def test_the_loop_notices_only_itself(loop: Loop) -> None:
    """check() in a callback changes nothing, although it is marked."""
    watcher = Watcher()
    loop.watch(watcher)
    soon(loop, loop.check)
    loop.run()
    assert watcher.times == 0
    ran: list[bool] = []
    # Behind the last wait what is pending is called, and nothing below is running.
    waker = Async(loop, lambda _: loop._defer(lambda: (ran.append(loop._uv.is_running()), loop.check())))
    waker.send()
    loop.run(UV_RUN_NOWAIT)
    waker.close()
    assert (ran, watcher.times) == ([False], 0)
    loop._inside = True
    loop.check()
    assert watcher.times == 1
    assert not interrupt.on_stack(Loop._enter.__code__)


class Interrupting:
    """A uvloop of which some functions are interrupted as soon as they, or before they, have done their work."""

    def __init__(self, uv: Any, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> None:
        self.uv = uv
        self.before = before
        self.after = after

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.uv, name)

        def call(*args: Any) -> Any:
            if name in self.before:
                raise KeyboardInterrupt
            result = function(*args)
            if name in self.after:
                raise KeyboardInterrupt
            return result

        return call if name in (*self.before, *self.after) else function


class Recording:
    """A uvloop that notes which descriptors it is told to watch no more."""

    def __init__(self, uv: Any, stopped: list[int]) -> None:
        self.uv = uv
        self.stopped = stopped

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.uv, name)

        def call(fd: int) -> Any:
            self.stopped.append(fd)
            return function(fd)

        return call if name in ("remove_reader", "remove_writer") else function


@pytest.mark.parametrize("events", [UV_READABLE, UV_WRITABLE, UV_READABLE | UV_WRITABLE])
def test_a_poll_whose_start_was_interrupted_watches_nothing_when_it_is_closed(loop: Loop, events: int) -> None:
    """The descriptor may be closed then; libuv aborts the process if it is watched on."""
    left, right = socket.socketpair()
    uv: Any = loop._uv
    poll = Poll(loop, left.fileno())
    loop._uv = Interrupting(uv, after=("add_reader", "add_writer"))
    with pytest.raises(KeyboardInterrupt):
        poll.start(events, lambda poll, events, error: None)
    loop._uv = uv
    poll.close()
    loop.run(UV_RUN_NOWAIT)
    watched = forked.watched(loop.fileno())
    fd = left.fileno()
    uv.remove_reader(fd)
    uv.remove_writer(fd)
    left.close()
    right.close()
    assert fd not in watched


@pytest.mark.parametrize("which", ["_poll", "_arm_writer"])
def test_a_stream_that_stops_watching_and_is_interrupted_watches_nothing_when_it_is_closed(
    loop: Loop, which: str
) -> None:
    """It takes itself for watched until that has been undone."""
    left, right = socket.socketpair()
    uv: Any = loop._uv
    pipe = Pipe(loop)
    pipe.open(left.detach())
    switch = getattr(pipe, which)
    switch(True)
    loop._uv = Interrupting(uv, before=("remove_reader", "remove_writer"))
    with pytest.raises(KeyboardInterrupt):
        switch(False)
    loop._uv = uv
    stopped: list[int] = []
    loop._uv = Recording(uv, stopped)
    fd = pipe.fileno()
    pipe.close()
    loop._uv = uv
    loop.run()
    right.close()
    assert stopped == [fd]


def test_an_exception_that_came_through_what_the_program_had_called_is_told_from_its_own() -> None:
    """A server may have been left in its middle by the former, and has not been by the latter."""
    call = of_library("def f(g):\n    g()\n")
    fail = of_library("def f():\n    raise KeyboardInterrupt\n")

    def own() -> None:
        raise KeyboardInterrupt

    def calling() -> None:
        call(own)

    def through() -> None:
        fail()

    for callback, below in ((own, False), (calling, True), (through, True), (fail, True)):
        with pytest.raises(KeyboardInterrupt) as caught:
            call(callback)
        exc = caught.value
        assert exc.__traceback__ is not None
        assert interrupt.passed_below(exc.with_traceback(exc.__traceback__.tb_next)) is below

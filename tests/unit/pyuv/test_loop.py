"""Loop: run modes, liveness, time, exceptions, close, and threads of its own."""

import gc
import os
import select
import subprocess
import sys
import threading
import weakref

import pytest

from io_uv.pyuv import (
    UV_READABLE,
    UV_RUN_DEFAULT,
    UV_RUN_NOWAIT,
    UV_RUN_ONCE,
    Async,
    Check,
    Idle,
    Loop,
    Poll,
    Prepare,
    Timer,
)
from tests.lib.threads import open_fds
from tests.unit.pyuv.conftest import CheckedLoop


def test_run_returns_at_once_when_nothing_is_active(loop: CheckedLoop) -> None:
    """Every mode answers False without a turn when nothing keeps the loop alive."""
    Timer(loop)
    for mode in (UV_RUN_DEFAULT, UV_RUN_ONCE, UV_RUN_NOWAIT):
        assert loop.run(mode) is False


def test_an_unknown_mode_is_refused(loop: CheckedLoop) -> None:
    """A fourth mode is a ValueError."""
    with pytest.raises(ValueError, match="mode"):
        loop.run(3)


def test_run_once_handles_one_wait(loop: CheckedLoop) -> None:
    """UV_RUN_ONCE returns after the first event, and says that the loop is alive."""
    fired: list[int] = []
    first, second = Timer(loop), Timer(loop)
    first.start(lambda _: fired.append(0), 0.01, 0)
    second.start(lambda _: fired.append(1), 60, 0)
    assert loop.run(UV_RUN_ONCE) is True
    assert fired == [0]
    second.start(lambda _: fired.append(1), 0.01, 0)
    assert loop.run(UV_RUN_ONCE) is False
    assert fired == [0, 1]


def test_run_nowait_does_not_wait(loop: CheckedLoop) -> None:
    """UV_RUN_NOWAIT handles what is ready and leaves the rest."""
    fired: list[int] = []
    timer = Timer(loop)
    timer.start(lambda _: fired.append(1), 30.0, 0)
    before = loop.now()
    assert loop.run(UV_RUN_NOWAIT) is True
    assert fired == []
    loop.update_time()
    assert loop.now() - before < 10_000
    timer.close()


def test_nowait_handles_what_is_ready(loop: CheckedLoop) -> None:
    """A readable descriptor is reported in UV_RUN_NOWAIT."""
    fd = os.eventfd(1)
    seen: list[int | None] = []
    poll = Poll(loop, fd)
    poll.start(UV_READABLE, lambda p, events, error: (seen.append(events), p.close()))
    while loop.run(UV_RUN_NOWAIT):
        pass
    assert seen == [UV_READABLE]
    os.close(fd)


def test_a_turn_runs_its_parts_in_order(loop: CheckedLoop) -> None:
    """They are timers, idle, prepare, events, check, closing: libuv's order."""
    order: list[str] = []
    fd = os.eventfd(1)
    poll, check, prepare, idle = Poll(loop, fd), Check(loop), Prepare(loop), Idle(loop)

    def event(*_: object) -> None:
        order.append("event")
        poll.close(lambda _: order.append("closed"))
        idle.stop()
        prepare.stop()

    poll.start(UV_READABLE, event)
    check.start(lambda h: (order.append("check"), h.stop()))
    prepare.start(lambda _: order.append("prepare"))
    idle.start(lambda _: order.append("idle"))
    loop.run()
    os.close(fd)
    assert order == ["idle", "prepare", "event", "check", "closed"]


def test_a_prepare_does_not_keep_the_loop_spinning(loop: CheckedLoop) -> None:
    """Prepare and check run once per wait, not continuously."""
    counts = {"prepare": 0, "check": 0}

    def count(name: str) -> None:
        counts[name] += 1

    prepare, check = Prepare(loop), Check(loop)
    prepare.start(lambda _: count("prepare"))
    check.start(lambda _: count("check"))
    timer = Timer(loop)
    timer.start(lambda _: loop.stop(), 0.05, 0)
    loop.run()
    assert counts["prepare"] <= 3
    assert 1 <= counts["check"] <= counts["prepare"]


@pytest.mark.parametrize("mode", [UV_RUN_DEFAULT, UV_RUN_ONCE])
def test_a_stop_in_a_timer_ends_the_run_behind_its_turn(loop: CheckedLoop, mode: int) -> None:
    """A timer begins a turn, so prepare and check come once more; with UV_RUN_ONCE it ends the only one there is."""
    order: list[str] = []

    def fire(timer: Timer) -> None:
        order.append("timer")
        loop.stop()
        timer.close()

    def begin(_: Prepare) -> None:
        if not order:
            Timer(loop).start(fire, 0.001, 0)
        order.append("prepare")

    prepare, check, other = Prepare(loop), Check(loop), Timer(loop)
    other.start(lambda _: None, 60, 0)
    prepare.start(begin)
    check.start(lambda _: order.append("check"))
    assert loop.run(mode) is True
    turn = ["prepare", "check"]
    assert order == ([*turn, "timer", *turn] if mode == UV_RUN_DEFAULT else [*turn, "timer"])


def test_stop_before_run_makes_run_return(loop: CheckedLoop) -> None:
    """A stop that finds no running loop is for the next run, and for that one only."""
    timer = Timer(loop)
    timer.start(lambda t: t.close(), 0.001, 0)
    loop.stop()
    assert loop.run() is True
    assert loop.run() is False


def test_stopping_twice_stops_once(loop: CheckedLoop) -> None:
    """Two stops in a turn end one run; the next one runs as if nothing had been."""
    fired: list[int] = []

    def cb(timer: Timer) -> None:
        fired.append(1)
        if len(fired) == 1:
            loop.stop()
            loop.stop()
        elif len(fired) == 3:
            timer.close()

    Timer(loop).start(cb, 0.001, 0.05)  # not twice in one turn
    assert loop.run() is True
    assert len(fired) == 1
    assert loop.run() is False
    assert len(fired) == 3


def test_a_callback_cannot_run_the_loop(loop: CheckedLoop) -> None:
    """run() inside a callback of the loop, or of another of the thread, is refused."""
    other = Loop()
    Timer(other).start(lambda t: None, 0.001, 0)
    Idle(loop).start(lambda h: (h.close(), loop.run()))
    loop.run()
    Idle(loop).start(lambda h: (h.close(), other.run()))
    loop.run()
    assert [type(error) for error in loop.errors] == [RuntimeError, RuntimeError]
    loop.errors.clear()
    other.close()


def test_alive_counts_active_referenced_handles(loop: CheckedLoop) -> None:
    """An active handle keeps the loop alive as long as it is ref'd."""
    timer = Timer(loop)
    assert not loop.alive
    timer.start(lambda _: None, 30, 0)
    assert loop.alive
    timer.ref = False
    assert not loop.alive
    timer.ref = False
    timer.ref = True
    assert loop.alive
    timer.stop()
    assert not loop.alive
    timer.ref = False
    timer.start(lambda _: None, 30, 0)
    assert not loop.alive
    timer.close()
    assert loop.alive


def test_now_is_in_milliseconds_and_moves(loop: CheckedLoop) -> None:
    """The time of the loop passes with its timers; update_time moves it within a callback."""
    times: list[int] = []

    def cb(timer: Timer) -> None:
        times.append(loop.now())
        end = threading.Event()
        end.wait(0.02)
        loop.update_time()
        times.append(loop.now())
        timer.close()

    start = loop.now()
    Timer(loop).start(cb, 0.05, 0)
    loop.run()
    assert 45 <= times[0] - start < 60_000
    assert times[1] - times[0] >= 19


def test_fileno_becomes_readable_when_there_is_something_to_do(loop: CheckedLoop) -> None:
    """The backend's descriptor can be polled by another loop."""
    fd = os.eventfd(0)
    poll = Poll(loop, fd)
    poll.start(UV_READABLE, lambda p, *_: p.close())
    loop.run(UV_RUN_NOWAIT)
    assert select.select([loop.fileno()], [], [], 0)[0] == []
    os.eventfd_write(fd, 1)
    assert select.select([loop.fileno()], [], [], 5)[0] != []
    loop.run()
    os.close(fd)


def test_get_timeout_is_the_time_to_the_next_timer(loop: CheckedLoop) -> None:
    """0 without anything to wait for, else until the nearest timer, -1 when only an event can come."""
    assert loop.get_timeout() == 0.0
    wake = Async(loop)
    assert loop.get_timeout() == -1.0
    timer = Timer(loop)
    timer.start(lambda _: None, 30, 0)
    assert 29 < loop.get_timeout() <= 30
    timer.close()
    assert loop.get_timeout() == 0.0
    wake.close()


def test_default_loop_is_one() -> None:
    """The default loop is made once, and made anew after it was closed."""
    first = Loop.default_loop()
    assert Loop.default_loop() is first
    assert first.default
    first.close()
    second = Loop.default_loop()
    assert second is not first
    assert not first.default
    second.close()


def test_exceptions_reach_the_hook_and_the_loop_goes_on(loop: CheckedLoop) -> None:
    """An exception of a callback is handed to excepthook; later callbacks are not affected."""
    fired: list[int] = []

    def cb(timer: Timer) -> None:
        fired.append(1)
        if len(fired) == 3:
            timer.close(lambda _: 1 / 0)
        raise KeyError(len(fired))

    Timer(loop).start(cb, 0.001, 0.001)
    loop.run()
    assert [repr(error) for error in loop.errors] == [
        "KeyError(1)",
        "KeyError(2)",
        "KeyError(3)",
        "ZeroDivisionError('division by zero')",
    ]
    loop.errors.clear()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_interrupts_come_out_of_run(loop: CheckedLoop, exception: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit end run(), which can be called again; no other callback is lost."""
    order: list[str] = []

    def interrupt(_: object) -> None:
        order.append("interrupt")
        raise exception

    first, second = Async(loop, interrupt), Async(loop, lambda _: order.append("second"))
    first.send()
    second.send()
    with pytest.raises(exception):
        loop.run()
    first.close()
    loop.run_until(lambda: "second" in order)
    assert order == ["interrupt", "second"]
    second.close()


def test_close_ends_everything_and_calls_back(loop: CheckedLoop) -> None:
    """Loop.close closes the open handles, active or not; afterwards nothing works any more."""
    inner = Loop()
    timer, wake = Timer(inner), Async(inner)
    timer.start(lambda _: None, 30, 0)
    closed: list[object] = []
    idle = Idle(inner)
    idle.start(lambda _: None)
    idle.close(closed.append)
    inner.close()
    inner.close()
    assert closed == [idle]
    assert timer.closed
    assert wake.closed
    assert inner.handles == []
    with pytest.raises(RuntimeError, match="closed"):
        inner.run()
    with pytest.raises(RuntimeError, match="closed"):
        Timer(inner)
    with pytest.raises(RuntimeError, match="closed"):
        inner.queue_work(lambda: None)
    with pytest.raises(RuntimeError):
        inner.fileno()


def test_close_refuses_what_callbacks_begin(loop: CheckedLoop) -> None:
    """A close callback that would start something new meets a closed loop, so close() ends."""
    inner = Loop()
    errors: list[BaseException] = []
    inner.excepthook = lambda typ, value, tb: errors.append(value)
    timer = Timer(inner)
    timer.start(lambda _: None, 30, 0)
    timer.close(lambda _: Timer(inner).start(lambda _: None, 30, 0))
    inner.close()
    assert [type(error) for error in errors] == [RuntimeError]


def test_a_running_loop_cannot_be_closed(loop: CheckedLoop) -> None:
    """close() inside a callback is a RuntimeError."""
    Idle(loop).start(lambda h: (h.close(), loop.close()))
    loop.run()
    assert [type(error) for error in loop.errors] == [RuntimeError]
    loop.errors.clear()


def test_a_forgotten_loop_gives_its_descriptors_back() -> None:
    """A Loop that is dropped without close(), with handles or in a cycle, leaks nothing."""
    gc.collect()
    before = open_fds()
    loop = Loop()
    timer = Timer(loop)
    timer.owner = loop  # type: ignore[attr-defined]
    loop.timer = timer  # type: ignore[attr-defined]
    Timer(loop).start(lambda _: None, 30, 0)
    ref = weakref.ref(loop)
    del loop, timer
    gc.collect()
    assert ref() is None
    assert open_fds() == before


def test_a_loop_may_be_run_by_any_thread(loop: CheckedLoop) -> None:
    """Each thread runs its own loop; a loop may be made in one thread and run in another."""
    fired: list[str] = []

    def serve() -> None:
        own = Loop()
        Timer(own).start(lambda t: (fired.append(threading.current_thread().name), t.close()), 0.001, 0)
        own.run()
        own.close()

    threads = [threading.Thread(target=serve, name=f"t{n}") for n in range(4)]
    Timer(loop).start(lambda t: (fired.append(threading.current_thread().name), t.close()), 0.001, 0)
    threads.append(threading.Thread(target=loop.run, name="t4"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(fired) == ["t0", "t1", "t2", "t3", "t4"]


def test_hundreds_of_loops_leak_nothing() -> None:
    """Loops made, used and closed one after the other leave no descriptor."""
    gc.collect()
    before = open_fds()
    for _ in range(200):
        loop = Loop()
        Timer(loop).start(lambda t: t.close(), 0.0, 0)
        loop.run()
        loop.close()
    assert open_fds() == before


def test_the_process_ends_cleanly_with_everything_open() -> None:
    """A program that closes nothing ends without a word: handles, loop and pool are taken down with the interpreter."""
    program = """
from io_uv.pyuv import *
loop = Loop()
tcp = TCP(loop); tcp.bind(("127.0.0.1", 0)); tcp.listen(lambda *a: None)
timer = Timer(loop); timer.start(lambda t: loop.stop(), 0.01, 0)
wake = Async(loop)
loop.queue_work(lambda: None)
loop.run()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""Timer, Prepare, Check, Idle, Async, Poll and Signal."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from io_uv.pyuv import (
    UV_DISCONNECT,
    UV_READABLE,
    UV_WRITABLE,
    Async,
    Check,
    Idle,
    Loop,
    Poll,
    Prepare,
    Signal,
    Timer,
    errno,
    error,
)
from tests.unit.pyuv.conftest import CheckedLoop

# Timer.


def test_a_timer_is_not_early(loop: CheckedLoop) -> None:
    """A timer fires after its timeout, by the loop's clock, and is inactive then."""
    fired: list[int] = []
    timer = Timer(loop)
    start = loop.now()
    timer.start(lambda t: fired.append(loop.now()), 0.05, 0)
    assert timer.active
    loop.run()
    assert not timer.active
    assert len(fired) == 1
    assert fired[0] - start >= 49


def test_timers_fire_in_the_order_of_their_times(loop: CheckedLoop) -> None:
    """The earlier fires first; at one time the one started first. A time counts from the start of its timer."""
    order: list[str] = []
    due: list[tuple[int, str]] = []
    for name, seconds in (("c", 0.03), ("a", 0.01), ("d", 0.03), ("b", 0.02)):
        Timer(loop).start(lambda _, name=name: order.append(name), seconds, 0)
        due.append((loop.now() + int(seconds * 1000), name))
    loop.run()
    assert order == [name for _, name in sorted(due, key=lambda item: item[0])]


def test_a_repeating_timer_can_stop_itself(loop: CheckedLoop) -> None:
    """A timer that repeats fires until it is stopped, from its own callback too."""
    count = [0]

    def cb(timer: Timer) -> None:
        assert timer.active
        count[0] += 1
        if count[0] == 4:
            timer.stop()

    timer = Timer(loop)
    timer.start(cb, 0, 0.001)
    loop.run()
    assert count == [4]
    assert not timer.active


def test_a_timer_can_be_started_anew_in_its_callback(loop: CheckedLoop) -> None:
    """start() in a callback replaces what was armed: callback, timeout and repeat."""
    order: list[str] = []
    timer = Timer(loop)
    timer.start(lambda t: (order.append("first"), t.start(lambda _: order.append("second"), 0.001, 0)), 0, 0.001)
    loop.run()
    assert order == ["first", "second"]


def test_again_restarts_a_repeating_timer(loop: CheckedLoop) -> None:
    """again() uses the repeat value as timeout; it needs a start before, and does nothing without a repeat."""
    timer = Timer(loop)
    with pytest.raises(error.TimerError) as caught:
        timer.again()
    assert caught.value.args == (errno.UV_EINVAL, "invalid argument")
    fired: list[int] = []
    timer.start(lambda t: (fired.append(1), t.stop()), 30, 0.001)
    timer.again()
    loop.run()
    assert fired == [1]
    timer.start(lambda t: None, 30, 0)
    timer.again()
    assert loop.get_timeout() > 29
    timer.close()


def test_repeat_can_be_changed(loop: CheckedLoop) -> None:
    """The repeat value is in seconds; one set in a callback counts from the time after the next."""
    timer = Timer(loop)
    timer.repeat = 0.5
    assert timer.repeat == 0.5
    with pytest.raises(ValueError, match="positive"):
        timer.repeat = -1.0
    fired: list[int] = []

    def cb(t: Timer) -> None:
        fired.append(1)
        t.repeat = 0.0

    timer.start(cb, 0.001, 0.001)
    loop.run()
    assert fired == [1, 1]


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1)])
def test_negative_times_are_refused(loop: CheckedLoop, arguments: tuple[float, float]) -> None:
    """A negative timeout or repeat is a ValueError, and leaves the timer stopped."""
    timer = Timer(loop)
    with pytest.raises(ValueError, match="positive"):
        timer.start(print, *arguments)
    assert not timer.active


def test_times_under_a_millisecond_are_warned_of(loop: CheckedLoop) -> None:
    """Such a time is taken as a millisecond, with a RuntimeWarning."""
    timer = Timer(loop)
    with pytest.warns(RuntimeWarning, match="sub-millisecond"):
        timer.start(lambda t: t.stop(), 0, 0.0001)
    assert timer.repeat == 0.001
    loop.run()


def test_a_callback_must_be_callable(loop: CheckedLoop) -> None:
    """start() refuses what cannot be called, whatever the handle."""
    starts: list[Callable[[], object]] = [
        lambda: Timer(loop).start(1, 0, 0),
        lambda: Idle(loop).start(None),
        lambda: Poll(loop, 0).start(UV_READABLE, "x"),
        lambda: Signal(loop).start(1, 2),
    ]
    for start in starts:
        with pytest.raises(TypeError):
            start()


# Prepare, Check, Idle.


@pytest.mark.parametrize("kind", [Prepare, Check, Idle])
def test_phase_handles_start_and_stop_each_other(loop: CheckedLoop, kind: Any) -> None:
    """One that is stopped by an earlier one is not called; one that is started is called from the next turn on."""
    calls: list[str] = []
    first, second, third = kind(loop), kind(loop), kind(loop)
    spin = Idle(loop)
    spin.start(lambda _: None)

    def cb(_: object) -> None:
        calls.append("first")
        second.stop()
        third.start(lambda _: (calls.append("third"), first.close(), third.close(), spin.close()))

    first.start(cb)
    second.start(lambda _: calls.append("second"))
    loop.run()
    assert calls == ["first", "first", "third"]


@pytest.mark.parametrize("kind", [Prepare, Idle])
def test_a_phase_handle_started_by_an_event_is_called_before_the_next_wait(loop: CheckedLoop, kind: Any) -> None:
    """It does not take another event, here one of a timer that is far away."""
    calls: list[str] = []
    handle, event, far = kind(loop), Timer(loop), Timer(loop)

    def called(_: Any) -> None:
        calls.append("called")
        handle.close()
        far.close()

    far.start(lambda _: (calls.append("far"), handle.close()), 3600, 0)
    event.start(lambda t: t.start(lambda _: handle.start(called), 0.001, 0), 0.001, 0)
    loop.run()
    assert calls == ["called"]


def test_a_phase_handle_started_twice_is_called_once(loop: CheckedLoop) -> None:
    """A second start replaces the callback."""
    calls: list[str] = []
    idle = Idle(loop)
    idle.start(lambda _: calls.append("old"))
    idle.start(lambda h: (calls.append("new"), h.stop()))
    loop.run()
    assert calls == ["new"]
    idle.stop()


# Async.


def test_sends_from_threads_all_arrive(loop: CheckedLoop) -> None:
    """After each send there is a callback: nothing that was done before a send is missed."""
    done: list[int] = []
    seen = [0]
    lock = threading.Lock()

    def cb(wake: Async) -> None:
        seen[0] = len(done)
        if seen[0] == 4000:
            wake.close()

    wake = Async(loop, cb)

    def send() -> None:
        for n in range(1000):
            with lock:
                done.append(n)
            if not wake.closed:
                wake.send()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    loop.run()
    for thread in threads:
        thread.join()
    assert seen == [4000]


def test_sends_before_the_loop_runs_are_one_callback(loop: CheckedLoop) -> None:
    """Sends are merged until the callback; one sent in the callback makes another."""
    calls: list[int] = []

    def cb(wake: Async) -> None:
        calls.append(1)
        if len(calls) == 1:
            wake.send()
        else:
            wake.close()

    wake = Async(loop, cb)
    for _ in range(5):
        wake.send()
    loop.run()
    assert len(calls) == 2


def test_a_send_before_close_is_not_delivered(loop: CheckedLoop) -> None:
    """close() takes back what was sent."""
    calls: list[int] = []
    wake = Async(loop, lambda _: calls.append(1))
    wake.send()
    wake.close()
    loop.run()
    assert calls == []


# Poll.


def test_poll_reports_each_turn_until_stopped(loop: CheckedLoop) -> None:
    """It is level-triggered, and calls again for as long as there is something to read."""
    fd = os.eventfd(3, os.EFD_SEMAPHORE)
    calls: list[tuple[Any, ...]] = []

    def cb(poll: Poll, events: int | None, code: int | None) -> None:
        calls.append((events, code))
        os.eventfd_read(fd)
        if len(calls) == 3:
            poll.stop()

    poll = Poll(loop, fd)
    assert poll.fileno() == fd
    poll.start(UV_READABLE, cb)
    loop.run()
    assert calls == [(UV_READABLE, None)] * 3
    assert not poll.active
    os.close(fd)


def test_poll_can_change_what_it_waits_for(loop: CheckedLoop) -> None:
    """start() on a started handle replaces mask and callback."""
    a, b = socket.socketpair()
    seen: list[int] = []

    def readable(poll: Poll, events: int, code: int | None) -> None:
        seen.append(events)
        poll.close()

    def writable(poll: Poll, events: int, code: int | None) -> None:
        seen.append(events)
        b.send(b"x")
        poll.start(UV_READABLE, readable)

    Poll(loop, a.fileno()).start(UV_WRITABLE, writable)
    loop.run()
    assert seen == [UV_WRITABLE, UV_READABLE]
    a.close()
    b.close()


def test_poll_reports_both_directions(loop: CheckedLoop) -> None:
    """With both in the mask each that holds is reported."""
    a, b = socket.socketpair()
    b.send(b"x")
    seen = 0

    def cb(poll: Poll, events: int, code: int | None) -> None:
        nonlocal seen
        seen |= events
        if seen == UV_READABLE | UV_WRITABLE:
            poll.close()

    Poll(loop, a.fileno()).start(UV_READABLE | UV_WRITABLE, cb)
    loop.run()
    a.close()
    b.close()


def test_poll_reports_a_disconnect(loop: CheckedLoop) -> None:
    """UV_DISCONNECT is set when the other end has hung up, and not before."""
    a, b = socket.socketpair()
    b.send(b"x")
    seen: list[int] = []

    def cb(poll: Poll, events: int, code: int | None) -> None:
        seen.append(events)
        if len(seen) == 1:
            b.close()
        else:
            poll.close()

    Poll(loop, a.fileno()).start(UV_READABLE | UV_DISCONNECT, cb)
    loop.run()
    assert seen == [UV_READABLE, UV_READABLE | UV_DISCONNECT]
    a.close()


def test_poll_refuses_what_it_cannot_watch(loop: CheckedLoop, tmp_path: Any) -> None:
    """A plain file, a closed descriptor, one that is being watched, and odd masks have a code each."""
    with open(tmp_path / "f", "w") as f, pytest.raises(error.PollError) as caught:
        Poll(loop, f.fileno()).start(UV_READABLE, print)
    assert caught.value.args == (errno.UV_EPERM, "operation not permitted")
    with pytest.raises(error.PollError) as caught:
        Poll(loop, 999_999).start(UV_READABLE, print)
    assert caught.value.args[0] == errno.UV_EBADF
    fd = os.eventfd(0)
    first = Poll(loop, fd)
    first.start(UV_READABLE, print)
    with pytest.raises(error.PollError) as caught:
        Poll(loop, fd).start(UV_READABLE, print)
    assert caught.value.args[0] == errno.UV_EEXIST
    first.stop()
    for mask, code in ((0, errno.UV_EINVAL), (8, errno.UV_ENOTSUP), (UV_DISCONNECT, errno.UV_ENOTSUP)):
        with pytest.raises(error.PollError) as caught:
            first.start(mask, print)
        assert caught.value.args[0] == code
    assert not first.active
    os.close(fd)


def test_a_descriptor_number_can_be_used_again(loop: CheckedLoop) -> None:
    """After stop() the descriptor may be closed, and the next one of that number watched."""
    for _ in range(50):
        fd = os.eventfd(1)
        poll = Poll(loop, fd)
        seen: list[int | None] = []
        poll.start(UV_READABLE, lambda p, events, code, seen=seen: (seen.append(events), p.stop()))
        loop.run()
        os.close(fd)
        assert seen == [UV_READABLE]


# Signal.


def test_a_signal_reaches_all_its_handles(loop: CheckedLoop) -> None:
    """Two handles for a signal are both called; a stopped one is not."""
    calls: list[str] = []
    handles = [Signal(loop) for _ in range(3)]
    for name, handle in zip("abc", handles, strict=True):
        handle.start(lambda h, signum, name=name: calls.append(f"{name}{signum}"), signal.SIGUSR2)
    handles[1].stop()
    os.kill(os.getpid(), signal.SIGUSR2)
    loop.run_until(lambda: len(calls) == 2)
    assert calls == [f"a{signal.SIGUSR2}", f"c{signal.SIGUSR2}"]


def test_the_former_handler_comes_back(loop: CheckedLoop) -> None:
    """When the last handle of a signal stops, what handled the signal before does so again."""

    def former(signum: int, frame: object) -> None:
        raise AssertionError("not called")

    original = signal.signal(signal.SIGUSR2, former)
    try:
        handles = [Signal(loop), Signal(loop)]
        for handle in handles:
            handle.start(lambda *_: None, signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR2) is not former
        handles[0].stop()
        assert signal.getsignal(signal.SIGUSR2) is not former
        handles[1].close()
        assert signal.getsignal(signal.SIGUSR2) is former
    finally:
        signal.signal(signal.SIGUSR2, original)


def test_a_handler_set_meanwhile_stays(loop: CheckedLoop) -> None:
    """A handler that the program sets itself while a handle is started is left alone by stop()."""
    original = signal.getsignal(signal.SIGUSR2)
    try:
        handle = Signal(loop)
        handle.start(lambda *_: None, signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        handle.stop()
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, original)


@pytest.mark.parametrize("signum", [signal.SIGKILL, 0, 4711])
def test_signals_that_cannot_be_caught_are_refused(loop: CheckedLoop, signum: int) -> None:
    """SignalError with UV_EINVAL, and the handle can be used for another signal."""
    handle = Signal(loop)
    with pytest.raises(error.SignalError) as caught:
        handle.start(lambda *_: None, signum)
    assert caught.value.args[0] == errno.UV_EINVAL
    assert not handle.active
    handle.start(lambda *_: None, signal.SIGUSR2)
    handle.stop()


def test_a_signal_wakes_a_loop_of_the_main_thread(loop: CheckedLoop) -> None:
    """A signal that arrives while the loop waits is reported at once."""
    handle = Signal(loop)
    handle.start(lambda h, _: h.close(), signal.SIGUSR2)
    Timer(loop).start(lambda _: os.kill(os.getpid(), signal.SIGUSR2), 0.01, 0)
    loop.run()


def test_a_start_in_another_thread_while_the_main_one_waits_in_its_loop(loop: CheckedLoop) -> None:
    """Only the main thread can set handlers: its waiting loop is woken to do so."""
    keep = Async(loop)
    seen: list[int] = []

    def serve() -> None:
        main = Path(f"/proc/self/task/{threading.main_thread().native_id}/syscall")
        for _ in range(100_000):  # until the main thread is in epoll_wait or epoll_pwait, as far as can be seen
            if main.read_text().split()[0] in ("232", "281", "22"):
                break
        own = Loop()
        handle = Signal(own)
        handle.start(lambda h, signum: (seen.append(signum), h.close()), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        own.run()
        own.close()
        keep.send()

    thread = threading.Thread(target=serve)
    Timer(loop).start(lambda _: thread.start(), 0.01, 0)
    loop.run_until(lambda: seen)
    thread.join(120)
    assert seen == [signal.SIGUSR2]
    keep.close()


def test_a_stopped_poll_lets_the_next_one_of_its_descriptor_be(loop: Loop) -> None:
    """It does not watch any more, so there is nothing to let go when it is closed."""
    left, right = socket.socketpair()
    first, second = Poll(loop, left.fileno()), Poll(loop, left.fileno())
    first.start(UV_READABLE, lambda poll, events, error: None)
    first.stop()
    seen: list[int | None] = []
    second.start(UV_READABLE, lambda poll, events, error: (seen.append(events), poll.close()))
    first.close()
    right.send(b"x")
    loop.run()
    left.close()
    right.close()
    assert seen == [UV_READABLE]

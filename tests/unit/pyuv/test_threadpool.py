"""Loop.queue_work, the thread pool, and dns, which uses it."""

import os
import select
import socket
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

from io_uv.pyuv import UV_RUN_NOWAIT, Timer, dns, errno, error
from io_uv.pyuv.mailbox import Mailbox
from tests.lib.threads import Starts
from tests.unit.pyuv.conftest import CheckedLoop


def test_work_runs_in_a_thread_and_ends_in_the_loop(loop: CheckedLoop) -> None:
    """work_callback in another thread, then done_callback(None) in the loop's."""
    threads: list[threading.Thread] = []
    errors: list[int | None] = []

    def done(code: int | None) -> None:
        threads.append(threading.current_thread())
        errors.append(code)

    loop.queue_work(lambda: threads.append(threading.current_thread()), done)
    assert errors == []
    assert loop.alive
    loop.run()
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()
    assert errors == [None]


def test_much_work_is_all_done(loop: CheckedLoop) -> None:
    """Each of thousands of requests ends once, some of which others' callbacks have queued."""
    done: list[int] = []

    def finish(n: int) -> None:
        done.append(n)
        if n < 1000:
            loop.queue_work(lambda: None, lambda _: done.append(n + 1000))

    for n in range(1000):
        loop.queue_work(lambda: None, lambda _, n=n: finish(n))
    loop.run()
    assert sorted(done) == list(range(2000))


def test_work_that_raises_reaches_the_hook(loop: CheckedLoop) -> None:
    """The exception goes to excepthook in the loop's thread; done_callback is called all the same."""
    done: list[int | None] = []
    loop.queue_work(lambda: 1 / 0, done.append)
    loop.queue_work(lambda: 1 / 0)
    loop.run()
    assert [type(exc) for exc in loop.errors] == [ZeroDivisionError, ZeroDivisionError]
    loop.errors.clear()
    assert done == [None]


def test_work_that_has_not_begun_can_be_cancelled(loop: CheckedLoop) -> None:
    """cancel() is True for it, and the callback gets UV_ECANCELED; it is False once a thread has begun."""
    gate, begun = threading.Event(), threading.Semaphore(0)
    ends: list[tuple[str, int | None]] = []

    def block() -> None:
        begun.release()
        gate.wait(60)

    blockers = [loop.queue_work(block, lambda code: ends.append(("blocker", code))) for _ in range(4)]
    for _ in blockers:
        begun.acquire()
    waiting = loop.queue_work(lambda: ends.append(("never", 0)), lambda code: ends.append(("waiting", code)))
    assert waiting.cancel() is True
    assert waiting.cancel() is False
    assert blockers[0].cancel() is False
    loop.run_until(lambda: ends)
    assert ends == [("waiting", errno.UV_ECANCELED)]
    gate.set()
    loop.run()
    assert ends[1:] == [("blocker", None)] * 4


def test_finished_work_is_not_kept(loop: CheckedLoop) -> None:
    """Neither the pool's threads nor the loop keep what the callbacks refer to."""

    class Big:
        def __call__(self, *_: object) -> None:
            """Work and callback at once."""

    big: Big | None = Big()
    ref = weakref.ref(big)
    loop.queue_work(big, big)
    big = None
    loop.run()
    loop.queue_work(lambda: None)
    loop.run()
    assert ref() is None


def test_what_is_not_callable_is_refused(loop: CheckedLoop) -> None:
    """It is a TypeError for either callback."""
    with pytest.raises(TypeError):
        loop.queue_work(1)
    with pytest.raises(TypeError):
        loop.queue_work(print, 1)


PROGRAM = """
import threading
from io_uv.pyuv import Loop
loop = Loop()
names = set()
barrier = threading.Barrier(int({size!r} or 4), timeout=60)
def work():
    barrier.wait()
    names.add(threading.current_thread().name)
for _ in range(barrier.parties):
    loop.queue_work(work)
loop.run()
print(len(names))
loop.close()
"""


@pytest.mark.parametrize(("size", "threads"), [("", 4), ("2", 2), ("9", 9)])
def test_the_number_of_threads_comes_from_the_environment(size: str, threads: int) -> None:
    """There are UV_THREADPOOL_SIZE threads, 4 by default."""
    environment = os.environ | {"UV_THREADPOOL_SIZE": size}
    program = PROGRAM.format(size=size)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == (f"{threads}\n", "")


def test_a_forked_child_has_a_pool_of_its_own(loop: CheckedLoop) -> None:
    """After a fork the child's work is done by threads of the child."""
    program = """
import os
from io_uv.pyuv import Loop
def once():
    loop = Loop()
    done = []
    loop.queue_work(lambda: None, done.append)
    loop.run()
    loop.close()
    return done == [None]
assert once()
pid = os.fork()
if not pid:
    os._exit(0 if once() else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_work_in_progress_ends_before_the_process() -> None:
    """A request that a thread has begun is finished at the end of the process."""
    program = """
import threading, time
from io_uv.pyuv import Loop
loop = Loop()
begun = threading.Event()
def work():
    begun.set()
    time.sleep(0.2)
    print("done", flush=True)
loop.queue_work(work)
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_closing_a_loop_cancels_what_has_not_begun_and_waits_for_the_rest() -> None:
    """After Loop.close every callback has been called."""
    from io_uv.pyuv import Loop

    loop = Loop()
    gate, begun = threading.Event(), threading.Semaphore(0)
    ends: list[int | None] = []

    def block() -> None:
        begun.release()
        gate.wait(60)

    def cancelled(code: int | None) -> None:
        ends.append(code)
        gate.set()

    for _ in range(4):
        loop.queue_work(block, ends.append)
    for _ in range(4):
        begun.acquire()
    for _ in range(3):
        loop.queue_work(lambda: None, cancelled)
    loop.close()
    assert sorted(map(str, ends)) == sorted(["None"] * 4 + [str(errno.UV_ECANCELED)] * 3)


# dns.


def test_getaddrinfo_is_asynchronous(loop: CheckedLoop) -> None:
    """The result is a list of AddrinfoResult; fields as in pyuv."""
    answers: list[tuple[Any, int | None]] = []
    dns.getaddrinfo(
        loop,
        "127.0.0.1",
        9001,
        socket.AF_INET,
        socket.SOCK_STREAM,
        callback=lambda result, code: answers.append((result, code)),
    )
    assert answers == []
    loop.run()
    (result, code) = answers[0]
    assert code is None
    assert len(result) == 1
    assert result[0].family == socket.AF_INET
    assert result[0].socktype == socket.SOCK_STREAM
    assert result[0].sockaddr == ("127.0.0.1", 9001)
    assert result[0].canonname == ""


def test_a_name_that_does_not_exist_is_a_code(loop: CheckedLoop) -> None:
    """UV_EAI_NONAME for what no resolver is asked about; a name out of bounds is a code too."""
    codes: list[int | None] = []
    for name in ("not a name", "x" * 300):
        dns.getaddrinfo(loop, name, 1, flags=socket.AI_NUMERICHOST, callback=lambda r, code: codes.append(code))
        loop.run()
    assert codes[0] == errno.UV_EAI_NONAME
    assert codes[1] in (errno.UV_EAI_NONAME, errno.UV_EINVAL)
    with pytest.raises(error.UVError) as caught:
        dns.getaddrinfo(loop, "not a name", 1, flags=socket.AI_NUMERICHOST)
    assert caught.value.args == (errno.UV_EAI_NONAME, "unknown node or service")


def test_getaddrinfo_checks_its_arguments(loop: CheckedLoop) -> None:
    """It raises TypeError and ValueError at once, with nothing in flight."""
    getaddrinfo: Any = dns.getaddrinfo
    with pytest.raises(TypeError):
        getaddrinfo(loop, 1, 1)
    with pytest.raises(TypeError):
        getaddrinfo(loop, "x", 1.5)
    with pytest.raises(ValueError, match="port"):
        dns.getaddrinfo(loop, "x", 65536)
    with pytest.raises(TypeError):
        getaddrinfo(loop, "x", 1, callback=1)
    assert not loop.alive


def test_slow_names_leave_threads_for_work(loop: CheckedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are being resolved, half of the threads stay free for work."""
    gate = threading.Event()
    running = threading.Semaphore(0)

    def stuck(*_: object) -> list[object]:
        running.release()
        gate.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    answers: list[int | None] = []
    requests = [dns.getaddrinfo(loop, "x", 1, callback=lambda r, code: answers.append(code)) for _ in range(8)]
    running.acquire()
    running.acquire()
    order: list[str] = []
    loop.queue_work(lambda: None, lambda _: order.append("work"))
    loop.run_until(lambda: order)
    assert answers == []
    assert requests[7].cancel() is True
    loop.run_until(lambda: answers)
    assert answers == [errno.UV_ECANCELED]
    gate.set()
    loop.run()
    assert answers[1:] == [None] * 7


def test_without_threads_work_ends_with_a_code(loop: CheckedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no thread can be started, requests end in a later turn, with UV_EAGAIN, and leave nothing behind."""
    with monkeypatch.context() as patch:
        starts = Starts(patch, "pyuv-worker")
        codes: list[int | None] = []
        request = loop.queue_work(lambda: codes.append(0), codes.append)
        dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda result, code: codes.append(code))
        assert codes == []
        assert request.cancel() is False
        loop.run()
        assert codes == [errno.UV_EAGAIN] * 2
        assert starts.refused == 2
        starts.left = 100
        loop.queue_work(lambda: None, codes.append)
        loop.run()
        assert codes[2:] == [None]
        starts.end()


def test_pool_goes_on_with_the_threads_it_has(loop: CheckedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread that could be started does all the work, slow work too; the rest are started when they can be."""
    with monkeypatch.context() as patch:
        starts = Starts(patch, "pyuv-worker")
        starts.left = 1
        codes: list[int | None] = []
        for _ in range(10):
            loop.queue_work(lambda: None, codes.append)
            dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda result, code: codes.append(code))
        loop.run()
        assert codes == [None] * 20
        assert len(starts.pool._threads) == 1
        starts.left = 100
        loop.queue_work(lambda: None, codes.append)
        loop.run()
        assert len(starts.pool._threads) == starts.pool._size
        starts.end()


def test_getnameinfo(loop: CheckedLoop) -> None:
    """It gives host and service of an address, in numbers if asked so."""
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    answers: list[object] = []
    dns.getnameinfo(loop, ("127.0.0.1", 80), flags, lambda result, code: answers.append((result, code)))
    loop.run()
    assert answers == [(("127.0.0.1", "80"), None)]
    assert dns.getnameinfo(loop, ("::1", 80), flags) == ("::1", "80")


def test_a_callback_that_raises_reaches_the_hook(loop: CheckedLoop) -> None:
    """Any callback does."""
    dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda *_: 1 / 0)
    loop.run()
    assert [type(exc) for exc in loop.errors] == [ZeroDivisionError]
    loop.errors.clear()


def test_work_wakes_a_loop_that_does_not_wait(loop: CheckedLoop) -> None:
    """The end of work is seen by UV_RUN_NOWAIT too."""
    begun = threading.Event()
    ends: list[int | None] = []
    loop.queue_work(begun.set, ends.append)
    begun.wait(60)
    keep = Timer(loop)
    keep.start(lambda _: None, 30, 0)
    while not ends:
        loop.run(UV_RUN_NOWAIT)
    keep.close()


def test_a_delivery_whose_token_is_gone_delivers() -> None:
    """One that was interrupted had read it: the next one calls what is there, and raises nothing."""
    box = Mailbox()
    done: list[str] = []
    assert box.post(lambda: done.append("first"))
    os.read(box.fd, 8)
    box.deliver(lambda: None)
    box.deliver(lambda: None)
    assert done == ["first"]
    box.close()


def test_what_is_posted_while_the_loop_looks_wakes_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever that is: an action that comes as the descriptor is being read is called, and so is the next one."""
    box, read = Mailbox(), os.read
    done: list[str] = []

    def reading(fd: int, n: int) -> bytes:
        box.post(lambda: done.append("second"))
        return read(fd, n)

    assert box.post(lambda: done.append("first"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", reading)
        box.deliver(lambda: None)
    assert done == ["first", "second"]
    assert box.post(lambda: done.append("third"))
    assert select.select([box.fd], [], [], 0)[0] == [box.fd]
    box.deliver(lambda: None)
    assert done == ["first", "second", "third"]
    box.close()

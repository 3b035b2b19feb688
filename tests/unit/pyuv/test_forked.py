"""Copies of loops in forked children: dead, quiet, and harmless. Each story is a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import os, signal, socket, sys
from io_uv.pyuv import *
loop = Loop()
parent = os.getpid()
seen = []
def fork(*_):
    global child
    if os.getpid() == parent and "child" not in globals():
        child = os.fork()
        if child == 0:
            signal.alarm(250)
            seen.clear()
        else:
            assert os.waitpid(child, 0)[1] == 0, "the child has not ended well"
def note(*_):
    seen.append(os.getpid() == parent)
"""
END = """
try:
    loop.run()
except RuntimeError as exc:
    assert os.getpid() != parent and "forked" in str(exc), exc
    os._exit(len(seen))
assert os.getpid() == parent
print(seen)
"""
STORIES = {
    "close callbacks": "Timer(loop).close(fork); Timer(loop).close(note); Timer(loop).close(note)",
    "pending callbacks": """
a, b = socket.socketpair()
pipe = Pipe(loop)
pipe.open(a.detach())
pipe.write(b"1", fork); pipe.write(b"2", note); pipe.write(b"3", lambda *_: (note(), pipe.close()))
""",
    "prepare handles": """
first, second = Prepare(loop), Prepare(loop)
first.start(lambda h: (h.close(), fork()))
second.start(lambda h: (h.close(), note()))
Timer(loop).start(note, 0.01, 0)
""",
    "wake-ups": """
first, second = Async(loop, lambda h: (fork(), h.close())), Async(loop, lambda h: (note(), h.close()))
Timer(loop).start(note, 0.01, 0)
first.send(); second.send()
""",
    "timers": """
Timer(loop).start(fork, 0.005, 0); Timer(loop).start(note, 0.005, 0); Timer(loop).start(note, 0.01, 0)
""",
    "reads": """
ends = [socket.socketpair() for _ in range(3)]
for i, (a, b) in enumerate(ends):
    pipe = Pipe(loop)
    pipe.open(a.detach())
    pipe.start_read(lambda h, data, error: (note() if "child" in globals() else fork(), h.close()))
    b.send(b"x")
""",
    "first turn": "Timer(loop).start(fork, 0, 0); Timer(loop).start(note, 0.01, 0); Timer(loop).start(note, 0.02, 0)",
}


def tell(story: str) -> str:
    """Run a program; it must not complain. Return what it prints.

    A child does not close what it has copied, which development mode warns of.
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-W", "ignore::ResourceWarning", "-c", story]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", STORIES)
def test_what_was_to_be_called_is_called_in_the_parent_only(name: str) -> None:
    """The rest of a turn in which a callback forks is the parent's; the child's run raises RuntimeError."""
    assert tell(BEGIN + STORIES[name] + END) == "[True, True]\n"


def test_a_child_can_have_loops_of_its_own() -> None:
    """A new loop works, as does the default loop, which is a new one."""
    story = """
old = Loop.default_loop()
Timer(old).start(lambda _: None, 0.001, 0)
old.run()
if os.fork() == 0:
    for fresh in (Loop(), Loop.default_loop()):
        assert fresh is not old and not fresh.inherited
        done = []
        Timer(fresh).start(note, 0.001, 0)
        fresh.queue_work(lambda: None, done.append)
        fresh.run()
        assert done == [None]
        fresh.close()
    assert old.inherited and loop.inherited
    os._exit(len(seen))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert tell(BEGIN + story) == "2\n"


def test_what_a_dead_loop_allows() -> None:
    """Closing, looking, timers that never come; nothing else."""
    story = """
handles = [Timer(loop), Idle(loop), Async(loop), TCP(loop), Pipe(loop), Signal(loop), Poll(loop, 0)]
if os.fork() == 0:
    for handle in handles:
        assert handle.closed and handle.loop is None
        handle.close()
    timer = Timer(loop)
    timer.start(note, 0, 0)
    timer.again(); timer.stop(); timer.close()
    loop.stop(); loop.close(); loop.now(); loop.update_time(); loop.get_timeout()
    refused = 0
    for call in (
        loop.run, loop.fileno, lambda: loop.queue_work(note), lambda: TCP(loop), lambda: Pipe(loop), lambda: Idle(loop),
        lambda: Poll(loop, 0), lambda: Signal(loop), lambda: Async(loop),
        lambda: dns.getaddrinfo(loop, "x", callback=note),
    ):
        try:
            call()
        except RuntimeError:
            refused += 1
    os._exit(refused)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert tell(BEGIN + story) == "10\n"


def test_signals_of_the_child_are_not_for_the_dead_loop() -> None:
    """The handler goes with the loop: a child can be ended by a signal that its parent handles."""
    story = """
handle = Signal(loop)
handle.start(note, signal.SIGTERM)
told, tell = os.pipe()
child = os.fork()
if child == 0:
    os.write(tell, b"ready")
    signal.pause()
os.read(told, 5)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.wait()[1]))
os.kill(parent, signal.SIGTERM)
loop.run(UV_RUN_ONCE)
print(seen)
"""
    assert tell(BEGIN + story) == "-15\n[True]\n"


def test_the_name_of_a_pipe_is_the_parents(tmp_path: Path) -> None:
    """A child's end removes no file, whichever way it ends."""
    story = f"""
path = {str(tmp_path / "name")!r}
pipe = Pipe(loop)
pipe.bind(path)
if os.fork() == 0:
    pipe.close()
    loop.close()
    sys.exit(0)
os.wait()
print(os.path.exists(path))
"""
    assert tell(BEGIN + story) == "True\n"


def test_a_wrapped_loop_goes_on_in_the_child() -> None:
    """The host keeps what the program watches; all that the guest watched is gone, in the child alone."""
    story = """
import asyncio, uvloop
async def main():
    own = asyncio.get_running_loop()
    guest = Loop(own)
    (a, b), (c, d) = socket.socketpair(), socket.socketpair()
    got = asyncio.Event()
    own.add_reader(a, lambda: (own.remove_reader(a), got.set()))
    pipe = Pipe(guest)
    pipe.open(c.detach())
    pipe.start_read(note)
    await asyncio.sleep(0.01)
    child = os.fork()
    if child == 0:
        asyncio._set_running_loop(own)
    b.send(b"x"); d.send(b"y")
    await got.wait()
    await asyncio.sleep(0.01)
    if child == 0:
        assert guest.inherited
        os._exit(len(seen))
    print(os.waitstatus_to_exitcode(os.wait()[1]), bool(seen))
    pipe.close()
    guest.close()
for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
    own = factory()
    own.run_until_complete(main())
    own.close()
    seen.clear()
"""
    assert tell(BEGIN + story) == "0 True\n0 True\n"


def test_exit_from_the_turn_that_forked() -> None:
    """`leave` has the run in which the child was forked end with an exception."""
    story = """
def leave(timer):
    if os.getpid() == parent and os.fork() == 0:
        loop.leave(SystemExit(7))
Timer(loop).start(leave, 0.005, 0)
loop.run()
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert tell(BEGIN + story) == "7\n"

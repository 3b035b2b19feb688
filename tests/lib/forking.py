"""A program that forks in the middle of its work: two servers on one loop, and a child that finds copies of them.

`python -m tests.lib.forking WHERE HOW DIR` forks at a place, from a callback or a thread, and the child goes on in one
way. The parent then sees whether it misses anything, prints what both saw as JSON, and dies by SIGKILL. Its
acknowledgments are to be found in DIR/1 and DIR/2.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyraft
from io_uv import pyuv, raft_uv_close, raft_uv_init, raft_uv_tcp_close
from io_uv.directory import lock_dir
from io_uv.failure import Failure
from io_uv.pyuv import Loop, Prepare, Signal, Timer, forked
from pyraft import errors
from tests.lib import ports
from tests.lib.uvnode import Node, Numbers, free_addresses, settled
from tests.lib.uvtest import run_until

WHERE = (
    "outside a run",
    "in a timer",
    "in a prepare handle",
    "in a request's callback",
    "in fsm.apply",
    "in fsm.apply of a follower",
    "in fsm.snapshot",
    "in the state callback",
    "in the close callback",
    "in a thread",
    "beside the loop's thread",
    "in a thread of the pool",
)
HOW = ("returns", "exits", "asks everything")

SEGMENT = 64 * 1024


class Story:
    """The parent until it forks, and each of the two afterwards."""

    def __init__(self, where: str, how: str, dir: Path) -> None:
        self.where, self.how = where, how
        self.parent = os.getpid()
        self.told, self.tell = os.pipe()
        self.forked = False
        self.threads: list[threading.Thread] = []
        self.before: list[Any] = []
        self.after: list[Any] = []
        self.numbers = 0
        self.loop = Loop()
        self.signal = Signal(self.loop)
        self.signal.start(lambda handle, signum: None, signal.SIGUSR1)
        members = free_addresses(2)
        self.nodes = [Node(dir / str(id), id, members, self.loop) for id in members]
        for node in self.nodes:
            node.dir.mkdir()

    # The parent's part.

    @property
    def leader(self) -> Node:
        """The node that leads."""
        return next(node for node in self.nodes if node.state == pyraft.RAFT_LEADER)

    def apply(self, n: int, size: int = 8) -> int:
        """Apply n numbers, wait for them, and return how many were acknowledged."""
        run_until(self.loop, lambda: any(node.state == pyraft.RAFT_LEADER for node in self.nodes))
        leader = self.leader
        outcomes = [leader.submit(self.numbers + i, size)[1] for i in range(n)]
        self.numbers += n
        run_until(self.loop, lambda: all(outcome.calls for outcome in outcomes))
        return sum(outcome.statuses == [0] for outcome in outcomes)

    def run(self) -> dict[str, Any]:
        """Fork, go on, and return what happened."""
        if self.where == "in the state callback":
            for node in self.nodes:
                self.on_state(node)
        for node in self.nodes:
            node.start(SEGMENT, 30 if self.where == "in fsm.snapshot" else 1 << 40)
        settled(self.nodes)
        acknowledged = self.apply(20)
        run_until(self.loop, lambda: all(len(node.uv.prepare_pool) == 2 for node in self.nodes))
        self.bring_about()
        for thread in self.threads:
            thread.join()
        assert self.forked
        acknowledged += self.apply(20, SEGMENT // 4)
        return {
            "acknowledged": acknowledged,
            "applied": self.numbers,
            "before": self.before,
            "after": self.after,
            "child": json.loads(os.read(self.told, 100_000)),
            "listens": [listens(node) for node in self.nodes if not node.closed],
            "locked": [is_locked(node) for node in self.nodes if not node.closed],
        }

    def seen(self) -> list[Any]:
        """Return what a child must not change: names of files, and what the loop watches that is run by this thread."""
        names = [f"{node.id}/{name}" for node in self.nodes for name in sorted(os.listdir(node.dir))]
        in_its_thread = not self.loop._running or self.loop._thread == threading.get_ident()
        return [names, sorted(forked.watched(self.loop.fileno())) if in_its_thread else []]

    def fork(self) -> None:
        """Fork once; the child comes back from here, or does not."""
        if self.forked or os.getpid() != self.parent:
            return
        self.forked = True
        ports.let_go()  # the child is to have nothing but what is its own
        self.before = self.seen()
        child = os.fork()
        if child == 0:
            self.live()
            return
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.after = self.seen()
        os.write(self.tell, json.dumps({"status": status}).encode() if status else b"")

    # Places.

    def bring_about(self) -> None:
        """Have fork() called at the place that the story is about."""
        places: dict[str, Callable[[], None]] = {
            "outside a run": self.fork,
            "in a timer": self.in_a_timer,
            "in a prepare handle": self.in_a_prepare_handle,
            "in a request's callback": self.in_a_request,
            "in fsm.apply": lambda: self.in_apply(self.leader),
            "in fsm.apply of a follower": lambda: self.in_apply(self.follower),
            "in fsm.snapshot": self.in_snapshot,
            "in the state callback": lambda: None,
            "in the close callback": self.in_close,
            "in a thread": self.in_a_thread,
            "beside the loop's thread": self.beside,
            "in a thread of the pool": self.in_work,
        }
        places[self.where]()

    @property
    def follower(self) -> Node:
        """The other node."""
        return next(node for node in self.nodes if node is not self.leader)

    def in_a_timer(self) -> None:
        """A timer's callback."""
        timer = Timer(self.loop)
        timer.start(lambda _: (timer.close(), self.fork()), 0.005, 0)
        run_until(self.loop, lambda: self.forked)

    def in_a_prepare_handle(self) -> None:
        """A callback of the phases of a turn."""
        prepare = Prepare(self.loop)
        prepare.start(lambda _: (prepare.close(), self.fork()))
        run_until(self.loop, lambda: self.forked)

    def in_a_request(self) -> None:
        """The callback of the first of several requests that end together."""
        leader, seen = self.leader, []
        for i in range(3):
            buf = (self.numbers + i).to_bytes(8, "little")
            callback = lambda req, status, result: (seen.append(status), self.fork())  # noqa: E731
            assert pyraft.raft_apply(leader.raft, pyraft.RaftApply(), [buf], 1, callback) == 0
        self.numbers += 3
        run_until(self.loop, lambda: len(seen) == 3)

    def in_apply(self, node: Node) -> None:
        """The state machine, of the leader or of the follower."""
        fsm = node.fsm

        def apply(fsm: Any, buf: bytes) -> tuple[int, Any]:
            self.fork()
            return Numbers._apply(fsm, fsm, buf)

        fsm.apply = apply
        self.apply(3)
        run_until(self.loop, lambda: self.forked)

    def in_snapshot(self) -> None:
        """The state machine, asked for a snapshot."""
        fsm = self.leader.fsm

        def snapshot(fsm: Any) -> tuple[int, list[bytes]]:
            self.fork()
            return Numbers._snapshot(fsm, fsm)

        fsm.snapshot = snapshot
        self.apply(20)
        run_until(self.loop, lambda: self.forked)

    def on_state(self, node: Node) -> None:
        """A change of state."""
        start = node.start

        def with_callback(*args: Any) -> Node:
            fork = lambda r, old, new: self.fork() if new == pyraft.RAFT_LEADER else None  # noqa: E731
            init = node.io.init
            node.io.init = lambda *a: (pyraft.raft_register_state_cb(node.raft, fork), init(*a))[1]
            return start(*args)

        node.start = with_callback

    def in_close(self) -> None:
        """The callback of the close of a third server."""
        members = free_addresses(1)
        dir = self.nodes[0].dir.parent / "3"
        dir.mkdir()
        third = Node(dir, 1, members, self.loop).start()
        closed: list[bool] = []
        pyraft.raft_close(third.raft, lambda r: (closed.append(True), self.fork()))
        run_until(self.loop, lambda: closed)
        raft_uv_close(third.io)
        raft_uv_tcp_close(third.transport)

    def in_a_thread(self) -> None:
        """A thread of the program's, while the loop runs."""
        thread = threading.Thread(target=self.fork)
        self.threads.append(thread)
        timer = Timer(self.loop)
        timer.start(lambda _: (timer.close(), thread.start()), 0.005, 0)
        run_until(self.loop, lambda: self.after)

    def beside(self) -> None:
        """The main thread, while another one runs the loop."""
        running = threading.Event()
        stop = pyuv.Async(self.loop, lambda _: self.loop.stop())
        Timer(self.loop).start(lambda timer: (timer.close(), running.set()), 0.005, 0)
        thread = threading.Thread(target=self.loop.run)
        thread.start()
        running.wait(60)
        self.fork()
        if os.getpid() == self.parent:
            stop.send()
            thread.join()
            stop.close()

    def in_work(self) -> None:
        """A thread of the pool, in the program's own function."""
        done: list[int | None] = []
        self.loop.queue_work(self.fork, done.append)
        run_until(self.loop, lambda: done)

    # The child's part.

    def live(self) -> None:
        """The child, as soon as there is one."""
        signal.alarm(60)
        self.seen_by_child: dict[str, Any] = {"descriptors": shared_descriptors(self.tell, self.told)}
        self.seen_by_child["handler"] = str(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
        if self.how == "asks everything":
            self.seen_by_child["answers"] = self.ask()
        if self.how != "returns":
            self.report("left")
            raise SystemExit(0)
        if self.where in ("in a thread", "in a thread of the pool"):
            self.report("returned")  # to where its thread, the only one, ends

    def report(self, end: str) -> None:
        """Tell the parent."""
        self.seen_by_child["end"] = end
        os.write(self.tell, json.dumps(self.seen_by_child).encode())

    def ask(self) -> dict[str, Any]:
        """Call everything that a server, its table and its loop have; return what they say."""
        answers: dict[str, Any] = {}
        for node in self.nodes:
            for name, call in calls(node).items():
                try:
                    answer = call()
                    answer = answer[0] if isinstance(answer, tuple) else answer
                    said = errors.raft_strerror(answer) if isinstance(answer, int) else str(answer)
                except Exception as exc:
                    said = type(exc).__name__
                answers.setdefault(name, set()).add(said)
        gc.collect()
        fresh = pyraft.RaftIo()
        assert raft_uv_init(fresh, self.loop, str(self.nodes[0].dir), self.nodes[0].transport) == 0
        answers["a new server on the old loop"] = {
            errors.raft_strerror(pyraft.raft_init(pyraft.Raft(), fresh, Numbers(), 1, "1"))
        }
        return {name: sorted(said) for name, said in answers.items()}


def calls(node: Node) -> dict[str, Callable[[], Any]]:
    """Return everything that can be asked of a server, by name."""
    r, io, loop = node.raft, node.io, node.loop
    conf = pyraft.RaftConfiguration()
    pyraft.raft_configuration_add(conf, 9, "9", pyraft.RAFT_VOTER)
    nothing = lambda *_: None  # noqa: E731
    change, entry = pyraft.RaftChange, pyraft.RaftEntry(1, pyraft.RAFT_COMMAND, bytes(8))
    snapshot = pyraft.RaftSnapshot()
    return {
        "raft_apply": lambda: pyraft.raft_apply(r, pyraft.RaftApply(), [bytes(8)], 1, nothing),
        "raft_barrier": lambda: pyraft.raft_barrier(r, pyraft.RaftBarrier(), nothing),
        "raft_add": lambda: pyraft.raft_add(r, change(), 9, "9", nothing),
        "raft_assign": lambda: pyraft.raft_assign(r, change(), 2, pyraft.RAFT_SPARE, nothing),
        "raft_remove": lambda: pyraft.raft_remove(r, change(), 2, nothing),
        "raft_transfer": lambda: pyraft.raft_transfer(r, pyraft.RaftTransfer(), 0, nothing),
        "raft_start": lambda: pyraft.raft_start(r),
        "raft_bootstrap": lambda: pyraft.raft_bootstrap(r, conf),
        "raft_recover": lambda: pyraft.raft_recover(r, conf),
        "raft_close": lambda: pyraft.raft_close(r, nothing),
        "io.load": lambda: io.load(io),
        "io.start": lambda: io.start(io, 100, nothing, nothing),
        "io.bootstrap": lambda: io.bootstrap(io, conf),
        "io.recover": lambda: io.recover(io, conf),
        "io.set_term": lambda: io.set_term(io, 99),
        "io.set_vote": lambda: io.set_vote(io, 1),
        "io.send": lambda: io.send(io, pyraft.RaftIoSend(), pyraft.RaftMessage(), nothing),
        "io.append": lambda: io.append(io, pyraft.RaftIoAppend(), [entry], 1, nothing),
        "io.truncate": lambda: io.truncate(io, 1),
        "io.snapshot_put": lambda: io.snapshot_put(io, 0, pyraft.RaftIoSnapshotPut(), snapshot, nothing),
        "io.snapshot_get": lambda: io.snapshot_get(io, pyraft.RaftIoSnapshotGet(), nothing),
        "io.async_work": lambda: io.async_work(io, pyraft.RaftIoAsyncWork(), nothing),
        "io.defer": lambda: io.defer(io, [bytes(8)], 1, nothing),
        "io.recovered": lambda: io.recovered(io),
        "io.init": lambda: io.init(io, 1, "1"),
        "raft_state": lambda: f"state {pyraft.raft_state(r)}",
        "raft_leader": lambda: f"leader {pyraft.raft_leader(r)[0]}",
        "loop.run": lambda: loop.run() if not loop._running else loop.queue_work(nothing),
        "queue_work": lambda: loop.queue_work(nothing),
        "TCP": lambda: pyuv.TCP(loop),
        "uv.timer": lambda: Timer(loop).start(nothing, 0, 0),
        "connect": lambda: node.transport.connect(node.transport, object(), 2, "127.0.0.1:1", nothing),
        "raft_init": lambda: pyraft.raft_init(pyraft.Raft(), io, Numbers(), 1, "1"),
    }


def shared_descriptors(*ours: int) -> list[str]:
    """Return what this process has open that it can have from its parent only, the standard streams left out."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if int(name) <= 2 or int(name) in ours or target.startswith(("/dev/", "/proc/")):
                continue
            if target.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as s:
                    if s.family != socket.AF_UNIX:  # of a uvloop that is running
                        found.append(target)
            elif "/" in target:
                found.append(target)
    return found


def listens(node: Node) -> bool:
    """Return whether a connection is accepted: the server closes one that ends before it has begun."""
    host, port = node.members[node.id].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.shutdown(socket.SHUT_WR)
        s.setblocking(False)

        def is_closed() -> bool:
            try:
                return s.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        run_until(node.loop, is_closed)
    return True


def is_locked(node: Node) -> bool:
    """Return whether the directory is refused to another server."""
    try:
        lock_dir(str(node.dir)).release()
    except Failure as failure:
        return failure.code == errors.RAFT_BUSY
    return False


def main(where: str, how: str, dir: str) -> None:
    """Tell the story."""
    story = Story(where, how, Path(dir))
    try:
        print(json.dumps(story.run()), flush=True)
    except SystemExit:
        if os.getpid() != story.parent:
            os._exit(0)
        raise
    except BaseException as exc:
        if os.getpid() == story.parent:
            raise
        story.report(f"{type(exc).__name__}: {exc}")
        if not isinstance(exc, RuntimeError):
            traceback.print_exc()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])

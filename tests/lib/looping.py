"""A server whose loop is run by a thread of its own, for tests of what other threads may call."""

import threading
from collections.abc import Callable
from pathlib import Path

from io_uv import RaftUvTransport, pyuv, raft_uv_close, raft_uv_init, raft_uv_tcp_close, raft_uv_tcp_init
from pyraft import (
    RAFT_LEADER,
    RAFT_VOTER,
    Raft,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    raft_bootstrap,
    raft_close,
    raft_configuration_add,
    raft_init,
    raft_start,
    raft_state,
)
from tests.lib.ports import free_addresses


class World:
    """The only voter of a cluster, whose loop is run by a thread from `begin` on."""

    def __init__(self, dir: Path) -> None:
        (self.address,) = free_addresses(1).values()
        self.loop = pyuv.Loop()
        self.transport, self.io, self.fsm, self.raft = RaftUvTransport(), RaftIo(), RaftFsm(), Raft()
        self.fsm.version, self.fsm.apply = 1, lambda fsm, buf: (0, None)
        assert raft_uv_tcp_init(self.transport, self.loop) == 0
        assert raft_uv_init(self.io, self.loop, dir, self.transport) == 0
        assert raft_init(self.raft, self.io, self.fsm, 1, self.address) == 0
        assert raft_bootstrap(self.raft, self.conf()) == 0
        self.todo: list[Callable[[], object]] = []
        self.answers: list[object] = []
        self.answered = threading.Semaphore(0)
        self.wake = pyuv.Async(self.loop, self._woken)
        self.thread = threading.Thread(target=self.loop.run)

    def conf(self) -> RaftConfiguration:
        """Return a configuration of this server alone."""
        conf = RaftConfiguration()
        assert raft_configuration_add(conf, 1, self.address, RAFT_VOTER) == 0
        return conf

    def _woken(self, handle: pyuv.Async) -> None:
        while self.todo:
            self.answers.append(self.todo.pop(0)())
            self.answered.release()

    def on_loop(self, call: Callable[[], object]) -> object:
        """Return what a call in the loop's thread does."""
        self.todo.append(call)
        self.wake.send()
        assert self.answered.acquire(timeout=120)
        return self.answers.pop()

    def begin(self) -> None:
        """Start the server, and have the thread run the loop; wait for a tick, which is what tells the thread."""
        assert raft_start(self.raft) == 0
        assert raft_state(self.raft) == RAFT_LEADER
        tick, ticked = self.io.impl.tick_cb, threading.Event()

        def note(io: RaftIo) -> None:
            tick(io)
            ticked.set()

        self.io.impl.tick_cb = note
        self.thread.start()
        assert ticked.wait(120)

    def end(self) -> None:
        """Close everything in the loop's thread, and then what is left here."""
        closed = threading.Event()
        if self.thread.is_alive():
            assert self.on_loop(lambda: raft_close(self.raft, lambda r: closed.set())) == 0
            assert closed.wait(120)
            self.on_loop(self.wake.close)
            self.thread.join(120)
        raft_uv_close(self.io)
        raft_uv_tcp_close(self.transport)
        self.loop.close()
        assert self.io.impl is None
        assert self.transport.impl is None

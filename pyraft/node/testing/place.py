"""Where a simulated member lives: its disk, its clocks, and its life's I/O on the cluster's network.

Duty: `Place` is what stays over a member's lives, and the outside of its nodes (`pyraft.node.outside`). `Life` is the
ground of one of them: it fills a RaftIo with the simulated disk and network.

Happy path: a node's calls of its outside and of its RaftIo, each after some virtual time.

Failure modes: `Life.kill` ends it as a power cut does. Clocks may go wrong: `rate` is the speed of all that the member
measures times with, `ahead` how many seconds its time of day differs.
"""

import asyncio
import functools
import random
import ssl
from collections.abc import Callable
from typing import Any, Final

from pyraft import (
    RAFT_CANTBOOTSTRAP,
    RAFT_CHANGE,
    RAFT_IOERR,
    RAFT_NOCONNECTION,
    RAFT_NOTFOUND,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    RaftMessage,
    aio,
    configuration,
    fixture_copy,
    raft_set_pre_vote,
)
from pyraft.node.errors import Refused
from pyraft.node.identity import Directory, Identity
from pyraft.node.outside import Outside
from pyraft.node.testing.disk import GET, Disk, Write, cancel, copied
from pyraft.node.testing.network import Accept, Network
from pyraft.node.tls import Tls
from pyraft.types import Entries, EntryBatch

FEATURES: Final = 0xFFFF
EPOCH: Final = 1_800_000_000.0
"""The time of day at which virtual time begins."""


class Place(Outside):
    """One member's place, or with number 0 that of clients."""

    def __init__(self, network: Network, number: int, seed: str, where: "Callable[[str], Place | None]") -> None:
        """`where(address)` is the place at an address."""
        self.network = network
        self.number = number
        self.address = f"member{number}:9000"
        self.dice = random.Random(f"{seed} {number}")
        self.disk = Disk()
        self.rate = 1.0
        self.ahead = 0.0
        self.disk_seconds = (0.0002, 0.002)
        """How long a write takes, from and to."""
        self.life: Life | None = None
        self.where = where

    def elapsed(self) -> float:
        """Return how long the cluster has been there, in seconds by this member's clock."""
        return self.network.loop.time() * self.rate

    # Nodes take these from outside.

    def ground(self, directory: Directory, tls: Tls | None) -> "Life":
        """Begin another life here."""
        if tls is not None:
            raise Refused("there is no TLS in virtual time")
        if self.life is not None:
            raise Refused(f"member {self.number} runs already")
        self.life = Life(self)
        return self.life

    def read(self, directory: Directory) -> Identity | None:
        """Return whose place it is."""
        return self.disk.identity

    def write(self, directory: Directory, own: Identity) -> None:
        """Say whose place it is."""
        self.disk.identity = own

    def microseconds(self) -> int:
        """Return the time of day here."""
        return int((EPOCH + self.ahead + self.elapsed()) * 1e6)

    def seconds(self) -> float:
        """Return the time by this member's clock."""
        return self.elapsed()

    def token(self) -> bytes:
        """Return 16 bytes that no other token of this simulation has."""
        return self.dice.randbytes(16)

    async def connect(
        self, protocol: Callable[[], asyncio.Protocol], host: str, port: int, secure: ssl.SSLContext | None
    ) -> None:
        """Connect to another place."""
        target = self.where(f"{host}:{port}")
        await self.network.connect(self.number, None if target is None else target.number, protocol)


class Life:
    """The ground of a member from its start to its end."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.alive = True
        self.io = RaftIo()
        self._server: aio.Server | None = None
        self._recv: Callable[[RaftIo, RaftMessage], None] | None = None
        self._ticks: asyncio.TimerHandle | None = None
        self._pump: asyncio.TimerHandle | None = None
        self._left: list[Write] = []
        self._gets: dict[asyncio.TimerHandle, Write] = {}
        self._fill()

    # The questions of a node to its ground.

    def server(self, fsm: RaftFsm, identity: Identity) -> aio.Server:
        """Return the server, not started yet."""
        self._server = aio.Server(self.io, fsm, identity.id, identity.address)
        raft_set_pre_vote(self._server.raft, True)
        return self._server

    def retry(self, msecs: int) -> None:
        """Do nothing: members that come back are found at once."""

    def serve(self, word: int, accept: Accept | None) -> None:
        """Take connections."""
        if accept is None or not self.alive:
            self.place.network.accept.pop(self.place.number, None)
        else:
            self.place.network.accept[self.place.number] = accept

    def reload_certificates(self) -> None:
        """There are none."""
        raise Refused("there is no TLS in virtual time")

    async def close(self) -> None:
        """End this life properly."""
        if self._server is not None:
            await self._server.close()
        if self.alive:
            self._end()
        if self.place.life is self:
            self.place.life = None

    def kill(self) -> None:
        """End it here and now; data not on the disk yet is lost. `close` is to follow, and does nothing more."""
        if self.alive:
            self._end()
            self._left = self.place.disk.crash(self.place.dice)

    def _end(self) -> None:
        self.alive = False
        for timer in (self._ticks, self._pump):
            if timer is not None:
                timer.cancel()
        self.place.network.end(self.place.number)

    # The table.

    def _fill(self) -> None:
        io, disk = self.io, self.place.disk
        io.version = 2
        io.features = FEATURES
        io.init = lambda io, id, address: 0
        io.close = self._close
        io.start = self._start
        io.load = lambda io: (0, disk.term, disk.vote, disk.snapshot and copied(disk.snapshot), *disk.load())
        io.bootstrap = self._bootstrap
        io.recover = lambda io, conf: RAFT_IOERR
        io.set_term = lambda io, term: self._note(term, 0)
        io.set_vote = lambda io, vote: self._note(disk.term, vote)
        io.append = self._append
        io.truncate = lambda io, index: self._queue(disk.truncate(index))
        io.snapshot_put = lambda io, trailing, req, snapshot, cb: self._queue(
            disk.put(snapshot, trailing, functools.partial(cb, req))
        )
        io.snapshot_get = self._get
        io.async_work = self._work
        io.send = self._send
        io.time = lambda io: int(self.place.elapsed() * 1000)
        io.random = lambda io, min, max: self.place.dice.randint(min, max)

    def _close(self, io: RaftIo, cb: Callable[[RaftIo], None]) -> None:
        def finish() -> None:
            for got in list(self._gets):
                got.cancel()
            left = [*self._left, *self._gets.values(), *self.place.disk.give_up()]
            self._left = []
            self._gets.clear()
            cancel(left)
            cb(io)

        if self._ticks is not None:
            self._ticks.cancel()
        self._recv = None
        self.place.network.loop.call_soon(finish)

    def _start(self, io: RaftIo, msecs: int, tick: Callable[[RaftIo], None], recv: Any) -> int:
        loop = self.place.network.loop

        def ticking() -> None:
            self._ticks = loop.call_later(msecs / 1000 / self.place.rate, ticking)
            tick(io)

        self._recv = recv
        self._ticks = loop.call_later(msecs / 1000 / self.place.rate, ticking)
        return 0

    def _bootstrap(self, io: RaftIo, conf: RaftConfiguration) -> int:
        disk = self.place.disk
        if not disk.is_empty:
            return RAFT_CANTBOOTSTRAP
        disk.term = 1
        disk.entries = [(1, RAFT_CHANGE, configuration.encode(conf))]
        return 0

    def _note(self, term: int, vote: int) -> int:
        if not self.alive:
            return RAFT_IOERR
        self.place.disk.term, self.place.disk.vote = term, vote
        return 0

    # The disk.

    def _append(self, io: RaftIo, req: Any, entries: Entries, n: int, cb: Callable[..., None]) -> int:
        return self._queue(self.place.disk.append(EntryBatch.of(entries, n), functools.partial(cb, req)))

    def _queue(self, write: Write) -> int:
        disk = self.place.disk
        if not self.alive:
            disk.queue.remove(write)
            self._left.append(write)
            return 0
        loop = self.place.network.loop
        write.due = loop.time() + self.place.dice.uniform(*self.place.disk_seconds)
        if self._pump is None:
            self._pump = loop.call_at(write.due, self._done)
        return 0

    def _done(self) -> None:
        """The first of the writes is done."""
        self._pump = None
        disk = self.place.disk
        if not disk.queue:
            return
        write = disk.queue.popleft()
        disk.perform(write)
        if disk.queue:
            loop = self.place.network.loop
            self._pump = loop.call_at(max(loop.time(), disk.queue[0].due), self._done)
        if write.done is not None:
            write.done(0)

    def _get(self, io: RaftIo, req: Any, cb: Callable[..., None]) -> int:
        def got() -> None:
            self._gets.pop(timer, None)
            found = self.place.disk.snapshot
            cb(req, found and copied(found), RAFT_NOTFOUND if found is None else 0)

        timer = self.place.network.loop.call_later(self.place.dice.uniform(*self.place.disk_seconds), got)
        self._gets[timer] = Write(GET, lambda status: cb(req, None, status))
        return 0

    def _work(self, io: RaftIo, req: Any, cb: Callable[..., None]) -> int:
        def work() -> None:
            cb(req, req.work(req))

        self.place.network.loop.call_soon(work)
        return 0

    # The network.

    def _send(self, io: RaftIo, req: Any, message: RaftMessage, cb: Callable[..., None]) -> int:
        network, place = self.place.network, self.place
        target = place.where(message.server_address)
        life = None if target is None else target.life
        if self.alive and life is not None and target is not None:
            received = fixture_copy.received(message, self.io.data.id, self.io.data.address)
            network.send(place.number, target.number, functools.partial(life.receive, received))
        if cb is not None:
            network.loop.call_soon(cb, req, RAFT_NOCONNECTION if life is None else 0)
        return 0

    def receive(self, message: RaftMessage) -> None:
        """A message has come, if this life is not over."""
        if self.alive and self._recv is not None:
            self._recv(self.io, message)

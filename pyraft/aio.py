"""An asyncio front: requests as awaitables, errors as exceptions. It adds no logic of its own.

Duty: `Server` wraps one `Raft` whose RaftIo runs on the asyncio loop that is running (io_uv: a
`pyuv.Loop(asyncio.get_running_loop())`). A request is a future that its callback resolves. The leader can change with
any tick, message or finished write; waiters are looked at after each of them.

Happy path: `server = Server(io, fsm, id, address)`, for a new cluster `server.bootstrap(conf)`, `await server.start()`,
then `await server.apply(data)`; at the end `await server.close()`, after which io and transport can be released.

Failure modes: a code that is not 0 is raised as `RaftError(code, message)`. Cancelling an awaitable takes nothing back:
the entry may be committed all the same. close() ends coroutines that wait with RAFT_CANCELED, and requests that the
core has accepted and not finished with the core's answer (RAFT_LEADERSHIPLOST). A server that stops by itself, because
the state machine or the disk failed, ends both with RAFT_SHUTDOWN and the reason, with the exception that was raised
there as `__cause__`; commands may be applied later or never. Only a new start helps. All coroutines belong to the
server's loop: on another one, or in another thread, they raise RuntimeError and do nothing. In a forked child
everything raises RAFT_SHUTDOWN, also coroutines that were waiting, if the loop goes on in the child.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NoReturn, SupportsIndex

from pyraft import (
    RAFT_CANCELED,
    RAFT_INVALID,
    RAFT_LEADER,
    RAFT_LEADERSHIPLOST,
    RAFT_NOCONNECTION,
    RAFT_SHUTDOWN,
    RAFT_VOTER,
    Buffer,
    Raft,
    RaftApply,
    RaftBarrier,
    RaftBuffer,
    RaftChange,
    RaftConfiguration,
    RaftFsm,
    RaftIo,
    RaftReadIndex,
    RaftRequest,
    RaftTransfer,
    election,
    raft_add,
    raft_apply,
    raft_assign,
    raft_barrier,
    raft_bootstrap,
    raft_close,
    raft_errmsg,
    raft_init,
    raft_leader,
    raft_read_index,
    raft_recover,
    raft_register_state_cb,
    raft_remove,
    raft_start,
    raft_state,
    raft_strerror,
    raft_transfer,
    request,
    start,
)
from pyraft.errors import code_name
from pyraft.types import STATE_NAMES

__all__ = ["RaftError", "Server"]


class RaftError(Exception):
    """The C API's code as an exception: `code` is a RAFT_* number, `message` the text that goes with it."""

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.message = message or raft_strerror(code)
        super().__init__(code, self.message)  # as args they survive pickling

    def __str__(self) -> str:
        return f"{code_name(self.code)}: {self.message}"

    def __repr__(self) -> str:
        return f"RaftError({code_name(self.code)}, {self.message!r})"


class Server:
    """One server. `raft` is the struct behind it, for everything that does not wait: setters, raft_last_index, …

    It is the only public `Server`: io_uv.recv's is a connection, and io_uv.dqlite's an answer, each with its C name.
    Settings like raft_set_snapshot_threshold(server.raft, n) go between construction and start. Methods raise RaftError
    with the codes of the C functions that they name. Beside these all requests raise RAFT_NOTLEADER from a server that
    does not lead, RAFT_CANCELED from one that is not started or closed, RAFT_SHUTDOWN from one that has stopped by
    itself, with the cause, and RAFT_LEADERSHIPLOST when the leadership ends: they may be carried out all the same.
    """

    def __init__(self, io: RaftIo, fsm: RaftFsm, id: int, address: str) -> None:
        """Initialise a server that is not started yet (raft_init)."""
        self.io = io
        self.raft = Raft()
        self.on_state: Callable[[int, int], None] | None = None
        """Called with the old and the new state inside each change of state, as raft_state_cb is."""
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None
        """The task that has the lock, or was the last to have it."""
        self._closed: asyncio.Future[None] | None = None
        self._loading: asyncio.Future[Any] | None = None
        self._ticked = 0
        """The I/O's time at the last tick."""
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # made outside of a loop, it belongs to the first that uses it
            self._loop = asyncio.get_running_loop()
        self._check(raft_init(self.raft, io, fsm, id, address))
        raft_register_state_cb(self.raft, self._state_changed)
        self._forked = io.forked
        io.forked = self._fork

    def __repr__(self) -> str:
        return f"<aio.Server {self.raft.id} at {self.raft.address}, {STATE_NAMES[self.state]}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled: a copy has the descriptors of the original."""
        raise TypeError("an aio.Server cannot be copied or pickled")

    async def __aenter__(self) -> "Server":
        try:
            await self.start()
        except BaseException:
            # Nobody else will close it: __aexit__ follows only a successful __aenter__.
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # Before and after.

    def bootstrap(self, conf: RaftConfiguration) -> None:
        """Write the first configuration of a new cluster; RAFT_CANTBOOTSTRAP if there is one (raft_bootstrap)."""
        self._check(raft_bootstrap(self.raft, conf))

    def recover(self, conf: RaftConfiguration) -> None:
        """Force a configuration upon a cluster that has lost its majority (raft_recover: read its warnings)."""
        self._check(raft_recover(self.raft, conf))

    async def start(self) -> None:
        """Read the log, in a thread, and begin to take part (raft_start)."""
        loop = self._own_loop()
        async with self._busy():
            self._holder = asyncio.current_task()
            # A log is read once: reading it again would finish and remove the segments that are being written.
            self._check(start.check(self.raft))
            io = self.io
            io_load, io_start = io.load, io.start
            loading = self._loading = loop.run_in_executor(None, io_load, io)
            try:
                loaded = await asyncio.shield(loading)
            except asyncio.CancelledError:
                await asyncio.wait([loading])  # close() must not find it still reading
                raise
            finally:
                self._loading = None
            io.load = lambda io: loaded
            io.start = lambda io, msecs, tick, recv: io_start(io, msecs, self._ticking(tick), self._noticing(recv))
            try:
                self._ticked = io.time(io)
                self._check(raft_start(self.raft))
            finally:
                io.load, io.start = io_load, io_start
            self._notice()

    async def close(self) -> None:
        """Stop taking part and wait until all I/O has ended (raft_close). Each further call waits, too."""
        loop = self._own_loop()
        async with self._busy():
            self._holder = asyncio.current_task()
            if self._closed is None:
                closed = loop.create_future()
                if raft_close(self.raft, lambda raft: closed.set_result(None)) != 0:
                    closed.set_result(None)  # somebody else has called raft_close, and its callback is theirs
                self._closed = closed  # not before: a task that closes again, after an interrupt, must not wait in vain
                self._notice()
            await asyncio.shield(self._closed)

    # The leader.

    @property
    def state(self) -> int:
        """RAFT_UNAVAILABLE, RAFT_FOLLOWER, RAFT_CANDIDATE or RAFT_LEADER."""
        return raft_state(self.raft)

    @property
    def is_leader(self) -> bool:
        """Whether this server takes requests, as far as it knows.

        Another may lead already: a leader that is cut off finds out after an election timeout, or two. Only a request
        that succeeds, barrier() for one, shows that this server led when it was made. False also if the core has not
        had its turn for an election timeout, because the process was suspended or its loop was busy: the others may
        have elected another meanwhile, and the next tick tells. The only voter has nobody to be succeeded by.
        """
        raft = self.raft
        if raft_state(raft) != RAFT_LEADER:
            return False
        return self.io.time(self.io) - self._ticked < raft.election_timeout or election.is_only_voter(raft)

    @property
    def leader(self) -> tuple[int, str | None]:
        """Id and address of the leader as this server knows it; (0, None) for none."""
        return raft_leader(self.raft)

    async def wait_leader(self) -> tuple[int, str | None]:
        """Wait until a leader is known, and return it. Ends as wait_until does."""
        await self.wait_until(lambda: self.leader[0] != 0)
        return self.leader

    async def leader_change(self) -> tuple[int, str | None]:
        """Wait until another leader is known than now, or none any more, and return it. Ends as wait_until does."""
        now = self.leader
        await self.wait_until(lambda: self.leader != now)
        return self.leader

    async def wait_until(self, test: Callable[[], bool]) -> None:
        """Wait until `test()` is true; it is asked after every tick, message and change of state.

        Raises RaftError, whatever `test()` says by then: RAFT_CANCELED when the server is closed, RAFT_SHUTDOWN when it
        stops by itself, with the cause.
        """
        loop = self._own_loop()
        end = self._end()
        if end is not None:
            raise end
        if test():
            return
        waiter = (test, loop.create_future())
        self._waiters.append(waiter)
        try:
            await waiter[1]
        finally:
            self._waiters.remove(waiter)

    # Requests.

    async def apply(self, *bufs: Buffer) -> Any:
        """Have commands committed and applied, as one batch; return what fsm.apply answered for the first.

        Raises RaftError: RAFT_INVALID (no command, one that is not bytes-like, or a length that is not a multiple of
        8), RAFT_NOTLEADER, RAFT_CANCELED (not started, or closed): nothing was done; RAFT_LEADERSHIPLOST (it may be
        applied later, or never), or the code of a failed write; RAFT_SHUTDOWN from a server that has stopped by itself:
        nothing was done if it had before, it may be applied later or never if it stopped meanwhile.
        """
        for number, buf in enumerate(bufs, 1):
            if type(buf) is not bytes:
                _check_buffer(number, buf)
        return await self._submit(raft_apply, RaftApply(), bufs, len(bufs))

    async def barrier(self) -> None:
        """Wait until everything that was applied before has been committed and applied here (raft_barrier)."""
        await self._submit(raft_barrier, RaftBarrier())

    async def read_index(self) -> int:
        """Wait until a read of the state machine is linearizable, and return up to where it is applied at least.

        A reader of the state behind this, before it waits for anything else, sees all that had been acknowledged, to
        anybody, when this was called (raft_read_index). Nothing is appended to the log where all voters are servers of
        this library. Raises RaftError; a read that failed has changed nothing. RAFT_LEADERSHIPLOST: ask who leads now.
        RAFT_SHUTDOWN: the server was closed, or has stopped.
        """
        index: int = await self._submit(raft_read_index, RaftReadIndex())
        return index

    async def add(self, id: int, address: str) -> None:
        """Add a server, as a spare (raft_add)."""
        await self._submit(raft_add, RaftChange(), id, address)

    async def assign(self, id: int, role: int = RAFT_VOTER) -> None:
        """Give a server another role; to become a voter it first catches up (raft_assign)."""
        await self._submit(raft_assign, RaftChange(), id, role)

    async def remove(self, id: int) -> None:
        """Remove a server (raft_remove)."""
        await self._submit(raft_remove, RaftChange(), id)

    async def transfer(self, id: int = 0) -> tuple[int, str | None]:
        """Hand leadership to server `id`, 0 for any; return who leads then (raft_transfer).

        Raises RaftError, beside what raft_transfer refuses, when an election timeout later the target does not lead:
        RAFT_NOCONNECTION if this server still does, RAFT_LEADERSHIPLOST if another one does, or none yet.
        """
        req = RaftTransfer()
        await self._submit(raft_transfer, req, id)
        end = self._end()
        if end is not None:
            raise end
        leader = self.leader[0]
        if leader == self.raft.id:
            raise RaftError(RAFT_NOCONNECTION, f"server {req.id} has not taken over, this one leads on")
        if leader == 0 or id not in (0, leader):
            who = f"server {leader} leads" if leader != 0 else "no leader is known"
            raise RaftError(RAFT_LEADERSHIPLOST, f"server {req.id} has not taken over, {who}")
        return self.leader

    # Below: from callbacks to futures.

    def _busy(self) -> asyncio.Lock:
        """Return the lock of start and close: a new one if an interrupt has kept who had it from giving it back."""
        holder = self._holder
        if self._lock.locked() and (holder is None or holder.done() or holder is asyncio.current_task()):
            self._lock = asyncio.Lock()
        return self._lock

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, which must be the one that the I/O is on: the core is not made for two threads."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop and self._loop.is_closed():
            how = "raft_close(server.raft, None) gives its directory back"
            raise RuntimeError(f"{self!r} belongs to another loop, which was closed before it: {how}")
        elif loop is not self._loop:
            raise RuntimeError(f"{self!r} belongs to another loop: asyncio.run_coroutine_threadsafe gets there")
        return loop

    def _end(self) -> RaftError | None:
        """Return why this server will not do anything any more."""
        if self.raft.forked:
            return self._stopped()
        if self._closed is not None or self.raft.closing:
            return RaftError(RAFT_CANCELED, "the server is closed")
        return self._stopped()

    def _stopped(self) -> RaftError | None:
        """Return the error of a server that has stopped by itself, or is about to."""
        if not self.raft.cause:
            return None
        error = RaftError(RAFT_SHUTDOWN, f"the server has stopped: {self.raft.cause}")
        error.__cause__ = self.raft.exception
        return error

    def _submit(self, submit: Callable[..., int], req: RaftRequest, *args: object) -> "asyncio.Future[Any]":
        future = self._own_loop().create_future()
        end = self._end()
        if end is None and not self.raft.started:
            end = RaftError(RAFT_CANCELED, "the server is not started")
        if end is not None:
            raise end

        def done(req: RaftRequest, status: int = 0, result: Any = None) -> None:
            if future.done():
                return
            if status == 0:
                future.set_result(result)
            else:
                # RAFT_LEADERSHIPLOST says what has become of the request, not why: perhaps the server has stopped. With
                # any other code it has not, and the reason, of a write or a promotion that failed, is in raft_errmsg.
                lost = status == RAFT_LEADERSHIPLOST
                stopped = self._stopped() if lost else None
                future.set_exception(stopped or RaftError(status, "" if lost else raft_errmsg(self.raft)))
                future.exception()  # marks it as seen: after an interrupt perhaps nobody awaits it

        req.data = future
        rv = submit(self.raft, req, *args, done)
        if rv != 0:
            future.set_exception(RaftError(rv, raft_errmsg(self.raft)))
            future.exception()
        return future

    def _check(self, rv: int) -> None:
        if rv != 0:
            raise RaftError(rv, raft_errmsg(self.raft))

    def _fork(self, io: RaftIo, reason: str) -> None:
        """RaftIo.forked: this is a child. It may be about to become another program: no callback is called here."""
        waiting = request.pending(self.raft)
        if self._forked is not None:
            self._forked(io, reason)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed
                self._loop.call_soon(self._give_up, waiting)

    def _give_up(self, requests: list[RaftRequest]) -> None:
        """The child's copy of the loop goes on: what waits there is for something that happens in the parent."""
        for req in requests:
            req.pending = False
            # A request of another user of `raft` has no future: callbacks do not fire in a child.
            end, future = self._stopped(), req.data
            if end is not None and isinstance(future, asyncio.Future) and not future.done():
                future.set_exception(end)
                future.exception()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        end = self._stopped()
        if end is not None and self._loading is not None and not self._loading.done():
            self._loading.set_exception(end)  # the thread that reads was left behind
        self._notice()

    def _state_changed(self, raft: Raft, old: int, new: int) -> None:
        # Inside the change the new state is not set up yet; waiters are looked at when it is.
        with contextlib.suppress(RuntimeError):  # its loop was closed, and raft_close called to give the directory back
            asyncio.get_running_loop().call_soon(self._notice)
        if self.on_state is not None:
            self.on_state(old, new)

    def _noticing(self, callback: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            callback(*args)
            self._notice()

        return call

    def _ticking(self, tick: Callable[..., None]) -> Callable[..., None]:
        def call(io: RaftIo) -> None:
            tick(io)
            with contextlib.suppress(Exception):  # the tick has met it as well, and has stopped the server
                self._ticked = io.time(io)
            self._notice()

        return call

    def notice(self) -> None:
        """Ask the tests of wait_until now: for users whose state machine has changed."""
        self._notice()

    def _notice(self) -> None:
        for waiter in list(self._waiters):
            test, future = waiter
            if future.done():
                continue
            end = self._end()
            if end is not None:
                future.set_exception(end)
                continue
            try:
                if test():
                    future.set_result(None)
            except Exception as exc:
                future.set_exception(exc)


def _check_buffer(number: int, buf: Any) -> None:
    try:
        memoryview(buf.base if isinstance(buf, RaftBuffer) else buf)
    except TypeError:
        raise RaftError(RAFT_INVALID, f"command {number} is not a bytes-like object but {type(buf).__name__}") from None

"""The calls of a program on their way: they wait, are sent to whoever leads, and are sent again until answered.

Duty: `Session` numbers the calls of one caller and knows up to which number it has all outcomes; `Outbox` keeps calls
in order, sends them in groups on the path that there is at the moment, and gives each its outcome.

Happy path: `session.begin(…)`, `outbox.put(call)`, `outcome = await call.future`, `session.end(call)`. A session that
nobody has opened yet is opened by a call that goes ahead of its first one.

Failure modes: a path that answers None does not know what has become of a group: its calls go back to their place in
the queue and are sent again, after a pause, or at once when `wake` tells of another leader. They wait as long as there
is no path; a caller that wants an end sets a deadline on the future. Calls whose future is done are not sent any more.
"""

import asyncio
import functools
import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from pyraft.node.deadlines import GRAIN
from pyraft.node.errors import Unknown
from pyraft.node.proposer import Done, Wire

if TYPE_CHECKING:
    from pyraft.node.traces import Tracing

GROUP_CALLS: Final = 1024
GROUP_BYTES: Final = 256 * 1024
GROUPS: Final = 8
"""How much is sent at a time, and how many groups may be without an answer."""

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.25
"""Seconds between attempts when there is no path, or it did not help."""

UNRESOLVED: Final = 1024
"""Calls of a session that have ended with Unknown and whose outcome can be asked for. One more, and the oldest goes."""


class Path(Protocol):
    """A way to the leader: the proposer of this node, or a connection."""

    def send(self, calls: list[Wire], done: Done) -> None:
        """Have calls executed; `done(outcomes or None)` follows, not inside this call."""
        ...


class Call:
    """One call: its bytes, how often they were sent, and the future for its outcome, which is bytes."""

    __slots__ = (
        "arguments",
        "command",
        "context",
        "future",
        "machine",
        "number",
        "place",
        "sends",
        "session",
        "version",
    )

    def __init__(
        self, session: "Session | None", number: int, machine: str, command: str, version: int, arguments: bytes
    ) -> None:
        self.session = session
        self.number = number
        self.machine = machine
        self.command = command
        self.version = version
        self.arguments = arguments
        self.sends = 0
        self.place = 0
        """The order in which calls were put."""
        self.future: asyncio.Future[bytes] | None = None
        self.context: dict[str, str] | None = None
        """The trace that it belongs to, as `traces` has it travel; None or empty for none."""

    def wire(self) -> Wire:
        """Return what travels. The acknowledgement is that of the moment."""
        session = self.session
        if session is None:
            return [b"", 0, 0, self.machine, self.command, self.version, self.arguments]
        acknowledged = session.acknowledged
        return [session.id, self.number, acknowledged, self.machine, self.command, self.version, self.arguments]

    def late(self, future: "asyncio.Future[Any]", why: str = "") -> None:
        """End the wait for the outcome. `why` is what is known of the way to the leader, if that is the reason."""
        sent = self.sends > 0
        what = "may have happened, or may still happen" if sent else "was not sent, and will not be"
        if why and not sent:
            what = f"{what}: {why}"
        future.set_exception(Unknown(f"no outcome in time: {self.command}() {what}", self if sent else None, sent=sent))


class Session:
    """The calls of one caller, by number."""

    def __init__(self, id: bytes, name: str = "") -> None:
        self.id = id
        self.name = name
        self.opened = False
        self.acknowledged = 0
        """The number up to which no outcome is wanted any more."""
        self._next = 1
        self._open: set[int] = set()
        self._unresolved: OrderedDict[int, Call] = OrderedDict()

    def begin(self, machine: str, command: str, version: int, arguments: bytes) -> Call:
        """Return a call with the next number."""
        number = self._next
        self._next += 1
        self._open.add(number)
        return Call(self, number, machine, command, version, arguments)

    def end(self, call: Call) -> None:
        """Take the outcome of a call as known, or as wanted by nobody."""
        number = call.number
        self._open.discard(number)
        if self._unresolved:
            self._unresolved.pop(number, None)
        if number == self.acknowledged + 1:  # else the one that all others wait for is still open
            if number + 1 in self._open:  # as where answers come in order
                self.acknowledged = number
            else:
                self._advance()

    def lose(self, call: Call, exc: BaseException) -> None:
        """Take note that the wait for an outcome has ended with `exc` instead."""
        if not isinstance(exc, Unknown) or not exc.sent:
            self.end(call)  # not sent, cancelled, or the node is closed: nobody asks any more
        else:
            self.leave(call)

    def leave(self, call: Call) -> None:
        """Keep a call without an outcome, which its caller may ask for later, as long as there is room."""
        self._open.discard(call.number)
        self._unresolved[call.number] = call
        if len(self._unresolved) > UNRESOLVED:
            self._unresolved.popitem(last=False)
            self._advance()

    def is_unresolved(self, call: Call) -> bool:
        """Return whether a call was left, and its outcome can still be known."""
        return self._unresolved.get(call.number) is call

    def _advance(self) -> None:
        number = self.acknowledged + 1
        while number < self._next and number not in self._open and number not in self._unresolved:
            self.acknowledged = number
            number += 1


class Outbox:
    """Calls on their way; see the head of this module."""

    def __init__(self, find: Callable[[], Path | None], most_calls: int, most_bytes: int) -> None:
        """`find()` returns the path to the leader, None while there is none."""
        self.tracing: Tracing | None = None
        self.reason: Callable[[], str] = str
        """Returns why there is no path, for those that call in vain."""
        self._find = find
        self._most_calls = most_calls
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Call] = deque()
        self._open: dict[Call, float] = {}
        """The calls without an outcome, and when each is late, by the loop's time."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._places = 0
        self._bytes = 0
        self._room: deque[asyncio.Future[None]] = deque()
        self._groups = 0
        self._due = False
        self._lone = False
        """Whether the last group was of one call: the next one does not wait for company then, if it has none."""
        self._pause = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Callable[[], BaseException] | None = None

    # The caller's side.

    @property
    def is_full(self) -> bool:
        """Whether a caller has to wait for room."""
        return len(self._open) >= self._most_calls or self._bytes >= self._most_bytes or bool(self._room)

    @property
    def is_closed(self) -> bool:
        """Whether all that wait or come get a failure."""
        return self._failure is not None

    async def room(self, began: Callable[[asyncio.Future[None]], None]) -> None:
        """Wait until there is room again; first come, first served. `began(future)` gets what is waited for."""
        future = self._loop.create_future()
        if self._failure is not None:
            raise self._failure()
        self._room.append(future)
        began(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._make_room()  # for the next one, as this one does not take it
            raise

    def put(self, call: Call, seconds: float = math.inf) -> "asyncio.Future[bytes]":
        """Queue a call; return the future for its outcome. `release` has to follow.

        If it is not done in so many seconds, and up to GRAIN more, the call ends with Unknown (`Call.late`).
        """
        future = call.future = self._loop.create_future()
        if self._failure is not None:
            future.set_exception(self._failure())
            return future
        self._places += 1
        call.place = self._places
        self._open[call] = self._loop.time() + seconds
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(GRAIN, self._sweep)
        self._bytes += len(call.arguments)
        self._queue.append(call)
        if not self._due:
            self._schedule()
        return future

    def release(self, call: Call) -> None:
        """Forget a call, answered or not: nobody waits for it."""
        if self._open.pop(call, None) is None:
            return
        self._bytes -= len(call.arguments)
        if self._room:
            self._make_room()

    def _sweep(self) -> None:
        """End the calls that are late."""
        now = self._loop.time()
        for call, deadline in list(self._open.items()):
            if deadline <= now and call.future is not None and not call.future.done():
                call.late(call.future, self.reason())
        self._sweeper = self._loop.call_later(GRAIN, self._sweep) if self._open else None

    def _make_room(self) -> None:
        """Let a caller that waits go on, if there is room: it puts a call, whose release lets the next caller go on."""
        while self._room and len(self._open) < self._most_calls and self._bytes < self._most_bytes:
            future = self._room.popleft()
            if not future.done():
                future.set_result(None)
                return

    def close(self, failure: Callable[[], BaseException]) -> None:
        """Send nothing any more: all that wait or come get `failure()`."""
        self._failure = failure
        self._queue.clear()
        self._stop_timer()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for call in list(self._open):
            if call.future is not None and not call.future.done():
                call.future.set_exception(failure())
        for waiter in self._room:
            if not waiter.done():
                waiter.set_exception(failure())
        self._room.clear()

    # The path's side.

    def wake(self) -> None:
        """Try again now: another server leads, or a connection is there."""
        self._pause = FIRST_PAUSE
        self._stop_timer()
        self._schedule()

    def _schedule(self) -> None:
        if self._due or self._timer is not None or self._groups >= GROUPS:
            return
        if self._lone and len(self._open) == 1:
            self._pump()
        else:
            self._due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._due = False
        while self._queue and self._groups < GROUPS and self._timer is None and self._failure is None:
            path = self._find()
            if path is None:
                self._wait()
                return
            calls = self._take()
            self._lone = len(calls) == 1
            if calls:
                self._groups += 1
                self._send(path, calls)

    def _send(self, path: Path, calls: list[Call]) -> None:
        wires, done = [*map(Call.wire, calls)], functools.partial(self._done, calls)
        if self.tracing is None:
            path.send(wires, done)
        else:
            path.send(*self.tracing.attach(calls, wires, done))

    def _take(self) -> list[Call]:
        taken: list[Call] = []
        size = 0
        while self._queue and len(taken) < GROUP_CALLS and size < GROUP_BYTES:
            call = self._queue.popleft()
            if call.future is None or call.future.done():
                continue
            call.sends += 1
            size += len(call.arguments)
            taken.append(call)
        return taken

    def _done(self, calls: list[Call], outcomes: list[bytes] | None) -> None:
        self._groups -= 1
        if outcomes is None:
            if self._failure is None:
                # Groups that were behind this one may be back already: a session is to be opened before its first call.
                self._queue = deque(heapq.merge(calls, self._queue, key=lambda call: call.place))
                self._wait()
            return
        self._pause = FIRST_PAUSE
        for call, outcome in zip(calls, outcomes, strict=True):
            future = call.future
            if future is not None and not future.done():
                future.set_result(outcome)
        if self._queue:
            self._schedule()

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._waited)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _waited(self) -> None:
        self._timer = None
        self._schedule()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

"""The part that carries out the calls of a machine's users: arguments in, results or exceptions out, each counted once.

Duty: `Calls` checks and packs arguments, gives calls their session and number, waits for outcomes until the deadline,
and turns them into results. Nodes and clients have one each; they differ in the path that the calls take.

Happy path: `await shop.take("apple")` is `await calls.call(shop, "take", 1, ("apple",), {})`.

Failure modes: arguments that do not fit the method, or cannot be packed, are a TypeError, too large ones a ValueError,
and nothing is sent. A deadline that passes is `Unknown`; `outcome` makes that certain. A session that the cluster has
forgotten is replaced by a new one; a call that may have been executed under the old one ends with Unknown, the others
go on. Cancelling a call takes nothing back.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from pyraft.node import traces
from pyraft.node.deadlines import Deadlines
from pyraft.node.errors import SessionExpired, Unknown
from pyraft.node.machine import Machine, commands_of
from pyraft.node.outbox import Call, Outbox, Path, Session
from pyraft.node.replica import EXPIRED, NOTHING, SESSIONS, Replica
from pyraft.node.sessions import MAX_NAME
from pyraft.node.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

_NAMED: "ContextVar[Numbered | None]" = ContextVar("named", default=None)
STALE: ContextVar[float | None] = ContextVar("stale", default=None)
"""The age in seconds up to which the state here may answer queries; None if it may not."""
LEASE: ContextVar[bool] = ContextVar("lease", default=False)
"""Whether queries may be answered under a leader's lease."""
_TIMEOUT: ContextVar[float | None] = ContextVar("timeout", default=None)

_Call: TypeAlias = Callable[[Machine, str, int, Any, Any], Coroutine[Any, Any, Any]]

_SHAPES: Final = 1024
"""Shapes of argument lists that are remembered as fitting."""


class Calls:
    """The calls of one node or client; see the head of this module."""

    def __init__(
        self,
        replica: Replica,
        find: Callable[[], Path | None],
        settings: Settings,
        name: str,
        token: Callable[[], bytes],
    ) -> None:
        """`token()` gives the ids of sessions."""
        self._token = token
        self._replica = replica
        self._codec = replica.codec
        self._settings = settings
        self._name = name
        self._shapes: set[tuple[type, str, int, int, tuple[str, ...]]] = set()
        self._expired = self._codec.pack([EXPIRED])
        self._session = self._new_session()
        self.deadlines = Deadlines()
        self.outbox = Outbox(find, settings.pending_calls, settings.pending_bytes)
        self.tracing = self.outbox.tracing = traces.find()
        self.call: _Call = self._call if self.tracing is None else self._traced
        """Have a command executed, once, and return its result: (machine, name, version, args, kwargs)."""

    def close(self, failure: Callable[[], BaseException]) -> None:
        """End all calls with `failure()`."""
        self.outbox.close(failure)
        self.deadlines.close()

    async def _traced(self, machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> Any:
        assert self.tracing is not None
        with self.tracing.submit(f"{type(machine).__name__}.{name}") as context:
            return await self._call(machine, name, version, args, kwargs, context)

    async def _call(
        self,
        machine: Machine,
        name: str,
        version: int,
        args: Any,
        kwargs: Any,
        context: dict[str, str] | None = None,
    ) -> Any:
        arguments = self._pack(machine, name, version, args, kwargs)
        seconds = _TIMEOUT.get() or self._settings.timeout_seconds
        binding = machine._node
        assert binding is not None
        outbox = self.outbox
        while True:
            if outbox.is_full:
                await self._wait_for_room(name, seconds)
            session = _NAMED.get() or self._session
            call = session.begin(binding.name, name, version, arguments)
            call.context = context
            if not session.opened:
                self._open(session)
            # As `_outcome`, without its call: this is done for each command.
            future = outbox.put(call, seconds)
            try:
                outcome = await future
            except BaseException as exc:
                session.lose(call, exc)
                raise
            finally:
                outbox.release(call)
            session.end(call)
            if outcome == NOTHING:
                return None
            if outcome != self._expired:
                return self._replica.result(binding.name, outcome)
            self._renew(call)

    async def outcome(self, unknown: Unknown) -> Any:
        """Return the result of a call that has ended with Unknown, or raise its exception; see `Node.outcome`."""
        call = unknown.call
        if not isinstance(call, Call) or call.session is None:
            raise ValueError("this call was never sent: it has not happened, and will not")
        if not call.session.is_unresolved(call):
            raise Unknown(f"nobody can know any more what became of {call.command}()", None)
        outcome = await self._outcome(call, self.timeout())
        if outcome == self._expired:
            raise Unknown(f"the session of {call.command}() is over: nobody can know what became of it", None)
        return self._replica.result(call.machine, outcome)

    def named(self, name: str, acknowledged: int) -> "Named":
        """Return a session with numbers of the caller's own."""
        return Named(self, name, acknowledged)

    def timeout(self) -> float:
        """Return how long a call may take here, in seconds."""
        seconds = _TIMEOUT.get()
        return self._settings.timeout_seconds if seconds is None else seconds

    def fits(self, machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> bool:
        """Return whether arguments fit a version of a command."""
        try:
            inspect.signature(commands_of(type(machine))[name].versions[version]).bind(machine, *args, **kwargs)
        except TypeError:
            return False
        return True

    # Below: the parts of a call.

    def _pack(self, machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> bytes:
        shape = (type(machine), name, version, len(args), tuple(kwargs))
        if shape not in self._shapes:
            function = commands_of(type(machine))[name].versions[version]
            try:
                inspect.signature(function).bind(machine, *args, **kwargs)
            except TypeError as exc:
                raise TypeError(f"{name}() {exc}") from None
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            self._shapes.add(shape)
        arguments = self._codec.pack([args if type(args) is list else list(args), kwargs])
        if len(arguments) > self._settings.command_bytes:
            raise ValueError(
                f"the arguments of {name}() take {len(arguments)} bytes, more than the {self._settings.command_bytes} "
                "of Settings.command_bytes"
            )
        return arguments

    async def _wait_for_room(self, name: str, seconds: float) -> None:
        text = f"no room for {name}() in time: {self._settings.pending_calls} calls wait for their outcome already"
        waiting: list[asyncio.Future[None]] = []

        def began(future: asyncio.Future[None]) -> None:
            waiting.append(future)
            self.deadlines.add(future, seconds, lambda future: future.set_exception(Unknown(text, sent=False)))

        try:
            await self.outbox.room(began)
        finally:
            for future in waiting:
                self.deadlines.discard(future)

    async def _outcome(self, call: Call, seconds: float) -> bytes:
        session = call.session
        assert session is not None
        future = self.outbox.put(call, seconds)
        try:
            outcome = await future
        except BaseException as exc:
            session.lose(call, exc)
            raise
        finally:
            self.outbox.release(call)
        session.end(call)
        return outcome

    def _new_session(self) -> Session:
        return Session(self._token(), self._name)

    def _open(self, session: Session) -> None:
        """Have a session opened ahead of its first call. Opening one again changes nothing."""
        session.opened = True
        call = Call(None, 0, SESSIONS, "open", 1, self._codec.pack([[session.id, session.name], {}]))
        future = self.outbox.put(call)
        future.add_done_callback(lambda future: self._opened(call, future))

    def _opened(self, call: Call, future: "asyncio.Future[bytes]") -> None:
        self.outbox.release(call)
        if not future.cancelled():
            future.exception()  # its callers get the same

    def _renew(self, call: Call) -> None:
        """Take a new session, as the cluster has forgotten that of `call`."""
        if isinstance(call.session, Numbered):
            call.session.forgotten(call)
        elif self._session is call.session:
            self._session = self._new_session()
        if call.sends > 1:
            raise Unknown(f"the session of {call.command}() is over: nobody can know what became of it", None)


class Numbered(Session):
    """The session of one call whose number its caller has chosen."""

    def __init__(self, id: bytes, name: str, number: int, acknowledged: int) -> None:
        super().__init__(id, name)
        self.acknowledged = acknowledged
        self._number = number
        self._again = False

    def begin(self, machine: str, command: str, version: int, arguments: bytes) -> Call:
        """Return the call."""
        return Call(self, self._number, machine, command, version, arguments)

    def end(self, call: Call) -> None:
        """Do nothing: the caller itself says what it acknowledges."""

    def leave(self, call: Call) -> None:
        """Nothing: the call can be made again at any time."""

    def is_unresolved(self, call: Call) -> bool:
        """The outcome can be asked for as long as the session lives."""
        return True

    def forgotten(self, call: Call) -> None:
        """The cluster does not execute the call: open the session again, once; else the call was acknowledged."""
        if self._again:
            raise SessionExpired(f"call {call.number} of session {self.name!r} was acknowledged, and is forgotten")
        self._again = True
        self.opened = False


class Named:
    """A session under a name that any program may use, with numbers of the caller's own; see `Node.session`."""

    def __init__(self, calls: Calls, name: str, acknowledged: int) -> None:
        if not 0 < len(name.encode()) <= MAX_NAME - 1:
            raise ValueError(f"the name of a session is 1 to {MAX_NAME - 1} bytes long, and is {name!r:.80}")
        self.name = name
        self.acknowledged = acknowledged
        """The number up to which no outcome is wanted any more. May be set, to larger ones."""
        self._calls = calls

    async def call(
        self, number: int, method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a command of a machine as call `number` of this session, from 1; return its result.

        Made again, by whom and when ever, it is not executed again but returns the same result.
        """
        if type(number) is not int or not self.acknowledged < number < 1 << 63:
            raise ValueError(
                f"the number of a call follows those acknowledged ({self.acknowledged}), and is {number!r}"
            )
        id = b"=" + self.name.encode()
        token = _NAMED.set(Numbered(id, self.name, number, self.acknowledged))
        try:
            return await method(*args, **kwargs)
        finally:
            _NAMED.reset(token)


@contextmanager
def read(seconds: float | None, lease: bool) -> Iterator[None]:
    """Let the queries in this block be answered from a state that is so many seconds old, or under a leader's lease."""
    if seconds is not None and (type(seconds) not in (int, float) or not seconds >= 0):
        raise ValueError(f"the age of a state must be 0 or more seconds, and is {seconds!r}")
    tokens = STALE.set(seconds), LEASE.set(lease)
    try:
        yield
    finally:
        STALE.reset(tokens[0])
        LEASE.reset(tokens[1])


@contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """Give the calls in this block so many seconds each."""
    if type(seconds) not in (int, float) or not 0 < seconds <= 86_400:
        raise ValueError(f"a timeout must be more than 0 and at most 86400 seconds, and is {seconds!r}")
    token = _TIMEOUT.set(seconds)
    try:
        yield
    finally:
        _TIMEOUT.reset(token)

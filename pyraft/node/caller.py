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
from pyraft.node.codec import SCALARS, Codec
from pyraft.node.deadlines import Deadlines
from pyraft.node.errors import SessionExpired, Unknown
from pyraft.node.given import check_depth
from pyraft.node.machine import Machine, commands_of
from pyraft.node.outbox import Call, Outbox, Path, Session
from pyraft.node.outcomes import EXPIRED, NOTHING
from pyraft.node.replica import SESSIONS, Replica
from pyraft.node.sessions import MAX_NAME, NAMED
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
        self._codec = replica.outgoing
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._name = name[:MAX_NAME]
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

    def check_loop(self) -> None:
        """Raise RuntimeError in another event loop: what is awaited here is told of in this one, and has no locks."""
        if asyncio._get_running_loop() is not self._loop:
            raise RuntimeError(
                "this node or client was opened in another event loop, and is awaited there only: have it done by "
                "asyncio.run_coroutine_threadsafe(…, that loop)"
            )

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
        if asyncio._get_running_loop() is not self._loop and not self.outbox.is_closed:
            self.check_loop()
        named = _NAMED.get()
        if named is not None:
            named.take(name)
            args, kwargs = _spelled(machine, name, version, args, kwargs)
        arguments = self._pack(machine, name, version, args, kwargs)
        seconds = _TIMEOUT.get() or self._settings.timeout_seconds
        binding = machine._node
        assert binding is not None
        outbox = self.outbox
        while True:
            if outbox.is_full:
                await self._wait_for_room(name, seconds)
            session = named or self._session
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
        if not isinstance(unknown, Unknown):
            raise TypeError(f"outcome() takes the Unknown that a call has raised, and not {unknown!r:.60}")
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
        if not (SCALARS.issuperset(map(type, args)) and SCALARS.issuperset(map(type, kwargs.values()))):
            check_depth(name, args, kwargs)
        try:
            arguments = self._codec.pack([args if type(args) is list else list(args), kwargs])
        except (TypeError, ValueError) as exc:
            raise _of_a_call(name, exc) from None
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


def _of_a_call(name: str, exc: Exception) -> Exception:
    """Return the error for arguments that cannot be packed, with the name of what was called."""
    kind = TypeError if isinstance(exc, TypeError) else ValueError
    return kind(f"an argument of {name}() cannot be sent: {exc}")


def pack_question(codec: Codec, name: str, args: Any, kwargs: Any) -> bytes:
    """Return the arguments of a query as they travel. Raises TypeError or ValueError for those that cannot."""
    check_depth(name, args, kwargs)
    try:
        return codec.pack([list(args), kwargs])
    except (TypeError, ValueError) as exc:
        raise _of_a_call(name, exc) from None


def _spelled(machine: Machine, name: str, version: int, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return arguments in the one way that all callers under a name spell them: by position, where that is possible.

    Defaults are not added: a later program may have more of them. Those that do not fit stay as they are.
    """
    try:
        bound = inspect.signature(commands_of(type(machine))[name].versions[version]).bind(machine, *args, **kwargs)
    except TypeError:
        return args, kwargs
    return bound.args[1:], bound.kwargs


class Numbered(Session):
    """The session of one call whose number its caller has chosen."""

    def __init__(self, id: bytes, name: str, number: int, acknowledged: int) -> None:
        super().__init__(id, name)
        self.acknowledged = acknowledged
        self._number = number
        self._again = False
        self._taken = ""

    def take(self, command: str) -> None:
        """Have the number stand for a command. Raises RuntimeError for a second one: it would get the first outcome."""
        if self._taken:
            raise RuntimeError(
                f"call {self._number} of session {self.name!r} is one command, {self._taken}(), and {command}() would "
                "be a second one: give each a number of its own"
            )
        self._taken = command

    def begin(self, machine: str, command: str, version: int, arguments: bytes) -> Call:
        """Return the call."""
        return Call(self, self._number, machine, command, version, arguments)

    def end(self, call: Call) -> None:
        """Do nothing: the caller itself says what it acknowledges."""

    def leave(self, call: Call) -> None:
        """Do nothing: the call can be made again at any time."""

    def is_unresolved(self, call: Call) -> bool:
        """Return True: the outcome can be asked for as long as the session lives."""
        return True

    def forgotten(self, call: Call) -> None:
        """Open the session again, once, as the cluster does not execute the call; after that it was acknowledged."""
        if self._again:
            raise SessionExpired(f"call {call.number} of session {self.name!r} was acknowledged, and is forgotten")
        self._again = True
        self.opened = False


class Named:
    """A session under a name that any program may use, with numbers of the caller's own; see `Node.session`."""

    def __init__(self, calls: Calls, name: str, acknowledged: int) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a session must be a text, not {name!r:.60}")
        if not 0 < len(name.encode()) <= MAX_NAME - 1:
            raise ValueError(f"the name of a session must be 1 to {MAX_NAME - 1} bytes long, not {name!r:.80}")
        self.name = name
        self.acknowledged = acknowledged
        """The number up to which no outcome is wanted any more. May be set, to larger ones."""
        self._calls = calls
        self._check_acknowledged()

    async def call(
        self, number: int, method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a command of a machine as call `number` of this session, from 1; return its result.

        Made again, by whom and when ever, it is not executed again but returns the same result. Refused if it was made
        before with another command or other arguments, which says that two calls share a number: nothing is executed.
        Arguments are others where their bytes are: dicts with another order, and 1 and 1.0, are not the same.
        """
        if not callable(method):
            if inspect.iscoroutine(method):
                method.close()  # nobody awaits it
            raise TypeError(
                f'call {number} needs a command and its arguments: session.call({number}, shop.take, "apple")'
            )
        self._check_acknowledged()
        if type(number) is not int or not self.acknowledged < number < 1 << 63:
            raise ValueError(
                f"the number of a call must follow those acknowledged ({self.acknowledged}), not {number!r}"
            )
        id = NAMED + self.name.encode()
        token = _NAMED.set(Numbered(id, self.name, number, self.acknowledged))
        try:
            made = method(*args, **kwargs)
            if not inspect.isawaitable(made):
                raise TypeError(
                    f"call {number} needs a command of a machine, and {method!r:.80} is an ordinary function"
                )
            return await made
        finally:
            _NAMED.reset(token)

    def _check_acknowledged(self) -> None:
        number = self.acknowledged
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise ValueError(
                f"the number up to which calls are acknowledged must be a whole number from 0, not {number!r:.60}"
            )


@contextmanager
def read(seconds: float | None, lease: bool) -> Iterator[None]:
    """Let the queries in this block be answered from a state that is so many seconds old, or under a leader's lease."""
    if seconds is not None and (type(seconds) not in (int, float) or not seconds >= 0):
        raise ValueError(f"the age of a state must be 0 or more seconds, not {seconds!r}")
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
        raise ValueError(f"a timeout must be more than 0 and at most 86400 seconds, not {seconds!r}")
    token = _TIMEOUT.set(seconds)
    try:
        yield
    finally:
        _TIMEOUT.reset(token)

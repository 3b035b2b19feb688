"""Machines: what a program replicates, written as a class with commands and queries.

Duty: `Machine` is the base, `command` marks the methods that change its state, `query` those that only look.

    class Shop(Machine):
        errors = (OutOfStock,)          # exceptions that reach callers as they are, beside built-in ones
        types = (Item,)                 # dataclasses and enumerations among arguments, results and state

        def __init__(self) -> None:
            self.stock: dict[str, int] = {}

        @command
        def take(self, item: str, n: int = 1) -> int: ...

        @take.version(2)
        def take(self, item: str, n: int = 1, *, gift: bool = False) -> int: ...

        @query
        def left(self, item: str) -> int: ...

Happy path: on an instance that belongs to a node, `await shop.take("apple")` has the command executed on all servers,
once, and returns its result. Inside a command, `self.now` is a time that all servers share and `self.random` a
generator that gives all the same numbers; the clock, `random`, files and the network are not for commands, since each
server executes them for itself.

Failure modes: a command that raises is taken back and its exception reaches the caller. State is what `tracked` can
take back; a machine with other state overrides `checkpoint` and `rollback`, `snapshot` and `restore`. A command or
query that calls another one, or returns a coroutine, is a RuntimeError; code that both share belongs into a plain
method. An instance without a node has no commands to offer: RuntimeError.
"""

import copy
import dataclasses
import datetime
import inspect
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from types import MethodType
from typing import Any, ClassVar, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, overload

from pyraft.node.codec import Codec, held, is_flat
from pyraft.node.journal import Journal
from pyraft.node.naming import check_lists, check_names, check_types, how_to_name
from pyraft.node.tracked import MAX_NESTED, TOO_DEEP, Record, arrive

_logger = logging.getLogger("pyraft")

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound="Machine")
P2 = ParamSpec("P2")
R2 = TypeVar("R2")


class Caller(Protocol):
    """The object that carries out the calls of a machine's user: a node or a client."""

    def call(self, machine: "Machine", name: str, version: int, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Have a command executed, and return its result."""
        ...

    def ask(self, machine: "Machine", name: str, args: Any, kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Have a query answered, linearizably."""
        ...


def _check_function(function: object, kind: str) -> None:
    """Raise TypeError unless that is a function which returns when it is done: members call it for its result."""
    if isinstance(function, (staticmethod, classmethod)):
        name = function.__func__.__qualname__
        raise TypeError(f"{kind} {name} is an ordinary method with self: no staticmethod or classmethod")
    if not callable(function):
        raise TypeError(f"a {kind} must be a function, not {function!r}")
    name = getattr(function, "__qualname__", repr(function))
    for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        if test(function):
            raise TypeError(f"{kind} {name} must return its result: no coroutine function or generator")
    if inspect.isfunction(function) and not function.__code__.co_argcount and not function.__code__.co_flags & 4:
        raise TypeError(f"{kind} {name} is a method: its first parameter is self")


def _check_version(number: object) -> None:
    if type(number) is not int or not 0 < number < 1 << 63:
        raise TypeError(
            f"the version of a command must be a whole number from 1, as in @take.version(2), not {number!r:.60}"
        )


class Command(Generic[M, P, R]):
    """A command of a machine's class, in one or more versions; made by `command`."""

    def __init__(self, function: Callable[Concatenate[M, P], R], version: int = 1) -> None:
        _check_function(function, "command")
        _check_version(version)
        self.versions: dict[int, Callable[..., Any]] = {version: function}
        self.newest = version
        self.name = function.__name__
        self.__doc__ = function.__doc__

        def call(machine: "Machine", /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            binding = machine._node
            if binding is None or binding.caller is None or binding.context is not None:
                return machine._caller().call(machine, self.name, self.newest, args, kwargs)  # it says what is wrong
            return binding.caller.call(machine, self.name, self.newest, args, kwargs)

        self._call = call

    def version(self, number: int) -> "Callable[[Callable[Concatenate[M, P2], R2]], Command[M, P2, R2]]":
        """Add a newer version, which calls take from then on; entries of the older ones keep their meaning."""
        _check_version(number)

        def add(function: Callable[Concatenate[M, P2], R2]) -> "Command[M, P2, R2]":
            if number <= self.newest:
                raise TypeError(f"version {number} of {self.name} does not follow version {self.newest}")
            newer: Command[M, P2, R2] = Command(function, number)
            newer.versions.update(self.versions)
            return newer

        return add

    @overload
    def __get__(self, machine: None, cls: type) -> "Command[M, P, R]": ...
    @overload
    def __get__(self, machine: M, cls: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, machine: Any, cls: type) -> Any:
        return self if machine is None else MethodType(self._call, machine)


class Query(Generic[M, P, R]):
    """A query of a machine's class; made by `query`."""

    def __init__(self, function: Callable[Concatenate[M, P], R]) -> None:
        _check_function(function, "query")
        self.function: Callable[..., Any] = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

        def ask(machine: "Machine", /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            binding = machine._node
            if binding is None or binding.caller is None or binding.context is not None:
                return machine._caller().ask(machine, self.name, args, kwargs)  # it says what is wrong
            return binding.caller.ask(machine, self.name, args, kwargs)

        self._ask = ask

    @overload
    def __get__(self, machine: None, cls: type) -> "Query[M, P, R]": ...
    @overload
    def __get__(self, machine: M, cls: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, machine: Any, cls: type) -> Any:
        return self if machine is None else MethodType(self._ask, machine)


@overload
def command(function: Callable[Concatenate[M, P], R], /) -> Command[M, P, R]: ...
@overload
def command(*, version: int) -> Callable[[Callable[Concatenate[M, P], R]], Command[M, P, R]]: ...
def command(function: Any = None, /, *, version: int = 1) -> Any:
    """Make a method a command. `version` is for code that no longer has the versions before."""
    if function is not None:
        return Command(function, version)
    _check_version(version)
    return lambda function: Command(function, version)


def query(function: Callable[Concatenate[M, P], R], /) -> Query[M, P, R]:
    """Make a method a query: it looks at the state and changes nothing (RuntimeError if it tries)."""
    return Query(function)


class Context:
    """The knowledge of commands beside their arguments: the shared time, and a number, from which chance comes."""

    __slots__ = ("generator", "microseconds", "number")

    def __init__(self, microseconds: int) -> None:
        self.microseconds = microseconds
        self.number = 0
        """The number of the command; with another one, and for another attempt, `generator` has to be None."""
        self.generator: random.Random | None = None

    @property
    def random(self) -> random.Random:
        """A generator, seeded from the entry."""
        if self.generator is None:
            self.generator = random.Random(f"{self.microseconds} {self.number}")
        return self.generator


LOOKING: Final = Context(0)
"""The context of a query: it has no time and no chance."""

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Binding:
    """The ties of a machine to the executor of its commands: codec, journal, and the caller for its users."""

    __slots__ = ("caller", "codec", "context", "is_plain", "journal", "name")

    def __init__(self, name: str, codec: Codec, journal: Journal, is_plain: bool) -> None:
        self.is_plain = is_plain
        """Whether checkpoints are the journal's matter alone: the machine overrides nothing of that."""
        self.name = name
        self.codec = codec
        self.journal = journal
        self.caller: Caller | None = None
        self.context: Context | None = None

    def check_outside(self, what: str) -> None:
        """Raise RuntimeError in a command or query of this machine: others are awaited, and these cannot."""
        if self.context is not None:
            kind = "query" if self.context is LOOKING else "command"
            raise RuntimeError(f"a {kind} cannot {what}: share a plain method instead")


class Machine(Record):
    """The base of state machines; see the head of this module."""

    errors: ClassVar[tuple[type[Exception], ...]] = ()
    """Classes of exceptions that reach callers as what they are. Their `args` must be values that can be packed."""
    types: ClassVar[tuple[type, ...]] = ()
    """Dataclasses and enumerations that may be arguments, results or state."""

    optional: ClassVar[bool] = False
    """For the machines of this layer: older programs lack it, so snapshots have it only where it has been used."""

    _node: Binding | None = None

    @property
    def now(self) -> datetime.datetime:
        """In a command: when its leader took it, in UTC; the same on all servers, and never earlier than before."""
        return EPOCH + datetime.timedelta(microseconds=self._context().microseconds)

    @property
    def random(self) -> random.Random:
        """In a command: a random generator that gives the same numbers on all servers."""
        return self._context().random

    def _context(self) -> Context:
        binding = self._node
        if binding is None or binding.context is None or binding.context is LOOKING:
            raise RuntimeError(
                "only a command has a shared time and random numbers: a query that needs a time has it as an argument, "
                "or looks at one that a command has stored"
            )
        return binding.context

    def _caller(self) -> Caller:
        binding = self._node
        if binding is None or binding.caller is None:
            raise RuntimeError(
                f"this {type(self).__name__} belongs to no node or client that is open: call it inside `async with`"
            )
        binding.check_outside("call a command or query")
        return binding.caller

    @property
    def is_tracked(self) -> bool:
        """Whether the state is taken back by its journal, that is, `checkpoint` is not overridden."""
        return type(self).checkpoint is Machine.checkpoint

    # Machines with state of another kind override these.

    def checkpoint(self) -> Any:
        """Prepare for taking back a command; return what `rollback` needs."""
        assert self._node is not None
        self._node.journal.begin()

    def rollback(self, checkpoint: Any) -> None:
        """Put the state back to what it was at the checkpoint."""
        assert self._node is not None
        self._node.journal.rollback()

    def keep(self, checkpoint: Any) -> None:
        """Take the command as done: nobody will roll back to `checkpoint`. Raises TypeError to refuse the new state."""
        if self.is_tracked:
            assert self._node is not None
            self._node.journal.commit()

    def snapshot(self) -> Iterable[bytes] | None:
        """Return the state as pieces of bytes; the iterable is read in a thread, while commands go on.

        None, the default, has the attributes encoded instead, as they are now.
        """
        return None

    def restore(self, pieces: Iterable[bytes]) -> None:
        """Take over a state whose `snapshot` gave out `pieces`."""
        raise NotImplementedError(f"{type(self).__name__} has a snapshot of its own and no restore")


def check_awaited(name: str, value: object) -> None:
    """Raise RuntimeError where a command or query has returned what would have to be awaited."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()  # nobody awaits it
        raise RuntimeError(
            f"{name}() has returned a {type(value).__name__} and not a result: commands and queries await nothing, and "
            "use no commands, queries or recipes, but share plain methods"
        )


def commands_of(cls: type[Machine]) -> dict[str, Command[Any, ..., Any]]:
    """Return the commands of a machine's class, those of its bases included, by name."""
    found: dict[str, Command[Any, ..., Any]] = _marked(cls, Command)
    return found


def queries_of(cls: type[Machine]) -> dict[str, Query[Any, ..., Any]]:
    """Return the queries of a machine's class, those of its bases included, by name."""
    found: dict[str, Query[Any, ..., Any]] = _marked(cls, Query)
    return found


def _marked(cls: type[Machine], kind: type) -> Any:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, kind):
                found[name] = value
            else:
                found.pop(name, None)  # overridden by something else
    return found


def is_unused(machine: Machine) -> bool:
    """Return whether a snapshot does without a machine, since it has its first state."""
    return machine.optional and machine.content() == type(machine)().content()


def beginning_of(machine: Any) -> dict[str, Any]:
    """Return the first state of a machine: snapshots of older programs do not have all of its attributes."""
    if not isinstance(machine, Machine) or not machine.is_tracked or machine._node is not None:
        return {}
    if type(machine).restore is not Machine.restore:
        return {}
    try:
        return copy.deepcopy(machine.content())
    except Exception:  # `bind` says what is wrong with it
        return {}


def bind(machine: Machine, name: str, codec: Codec) -> Binding:
    """Tie `machine` to an executor: its state becomes tracked, its types known to `codec`.

    Raises TypeError for anything but a machine (its class, for one), for state that cannot be tracked and for types
    that cannot be packed or are not named, RuntimeError for a machine that belongs to somebody already.
    """
    if not isinstance(machine, Machine):
        how = (
            f", which {machine.__name__}() makes" if isinstance(machine, type) and issubclass(machine, Machine) else ""
        )
        raise TypeError(
            f"{machine!r} is not an instance of a subclass of Machine{how}; Machine() does for recipes alone"
        )
    if machine._node is not None:
        raise RuntimeError(f"this {type(machine).__name__} belongs to a node already")
    cls = type(machine)
    _check_class(cls, machine, codec)

    def is_immutable(value: Any) -> bool:
        return _is_immutable(value, codec)

    own = ((cls.checkpoint, Machine.checkpoint), (cls.rollback, Machine.rollback), (cls.keep, Machine.keep))
    binding = Binding(name, codec, Journal(is_immutable), all(one is other for one, other in own))
    if machine.is_tracked:
        _track(machine, binding.journal, codec)
    machine._node = binding
    return binding


def _is_immutable(value: Any, codec: Codec) -> bool:
    """Return whether nothing in a value can change. Raises TypeError for one that is nested too deep to be kept."""
    if codec.is_leaf(value) or (_is_frozen(type(value), codec) and is_flat(value)):
        return True
    level = [value]
    for _ in range(MAX_NESTED):
        below: dict[int, Any] = {}
        for one in level:
            if not _is_frozen(type(one), codec):
                return False
            below.update((id(member), member) for member in held(one) if not codec.is_leaf(member))
        level = list(below.values())
        if not level:
            return True
    raise TypeError(TOO_DEEP)


def _is_frozen(cls: type, codec: Codec) -> bool:
    """Return whether a class is tuple or frozenset, or a frozen dataclass that the codec knows."""
    if cls is tuple or cls is frozenset:
        return True
    known = dataclasses.is_dataclass(cls) and codec.find(cls.__name__) is cls
    return known and bool(getattr(cls, "__dataclass_params__").frozen)  # noqa: B009  # not in its type


def _check_class(cls: type[Machine], machine: Machine, codec: Codec) -> None:
    """Make the types of a machine's class known. Raises TypeError for what could not work."""
    check_lists(cls, cls.types, cls.errors)
    commands, queries = commands_of(cls), queries_of(cls)
    for named in cls.types:
        codec.add(named)
    check_names(cls, machine.content() if machine.is_tracked else (), (*commands, *queries), cls.types)
    both = [(name, function) for name, one in commands.items() for function in one.versions.values()]
    results = [(name, one.function) for name, one in queries.items()]
    check_types(cls, both, results, codec, machine.is_tracked and cls.snapshot is Machine.snapshot)


def _track(machine: Machine, journal: Journal, codec: Codec) -> None:
    """Have the state of a machine tracked. Records that it does not name cannot be in a snapshot: TypeError."""
    cls = type(machine)
    unnamed: list[type] = []

    def met(record: type) -> None:
        if record is not cls and codec.find(record.__name__) is not record and cls.snapshot is Machine.snapshot:
            unnamed.append(record)
            if machine._node is not None:  # others execute this command, too, and take what it does
                _logger.error(
                    "%s keeps a record of class %s, which it does not name: no snapshot can be taken, and the log "
                    "grows; %s",
                    cls.__qualname__,
                    record.__qualname__,
                    how_to_name(cls, record),
                )

    journal.met = met
    arrive(machine, journal)
    journal.commit()
    for record in unnamed:
        raise TypeError(f"{cls.__qualname__} keeps a record of class {record.__qualname__}: {how_to_name(cls, record)}")

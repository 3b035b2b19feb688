"""The parameters of commands, as members tell them: the same call has to mean the same on every member.

Duty: `told` makes a text of a command's parameters: names, kinds and defaults. A member tells these with its commands
(`registry`). All members execute a command with the parameters that are in force at its entry, which are those of the
member that has told of it first (`in_force`): the registry is the same on all, at each entry. `adapted` makes a
function with these out of one whose parameters are others, as those of a program that was changed since.

Happy path: all have told the same, and nothing is adapted. A program whose default was changed goes on, at its start,
with entries of its log from before: they get the default that they were written with.

Failure modes: Foreign for a call that this program's function cannot be given: it lacks one of the parameters, or needs
one more. Arguments that do not fit the parameters in force are a TypeError with the same text on all members, where
these were told; before, the text is Python's. A default that cannot be packed, or is long, is told as what it looks
like, and is not put in anywhere else.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from pyraft.node.codec import Codec
from pyraft.node.errors import Foreign, Malformed

SIGNATURE: Final = "signature"
"""The first word of an offer that is the parameters of a command."""

_LONGEST: Final = 256
"""Packed defaults up to so many bytes are told as they are, longer ones by their digest."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ALL: Final = inspect.Parameter.VAR_POSITIONAL
_REST: Final = inspect.Parameter.VAR_KEYWORD


Key: TypeAlias = "tuple[str, str, int]"
"""A command: machine, name, version."""


class Parameter(NamedTuple):
    """One parameter, as it is told."""

    name: str
    kind: int
    default: bytes | str | None
    """Packed; a text for one that cannot be put in elsewhere; None without one."""


class Facts(Protocol):
    """The things that a member has told, as far as they are looked at here."""

    offers: tuple[str, ...]


class Registry(Protocol):
    """The registry, as far as it is looked at here."""

    facts: Mapping[int, Any]


def head(machine: str, command: str, version: int) -> str:
    """Return how the text of a command's parameters begins."""
    return f"{SIGNATURE} {machine} {command} {version}"


def told(machine: str, command: str, version: int, function: Callable[..., Any], codec: Codec) -> str | None:
    """Return the parameters of a command as a text, None for a function whose parameters nobody can know."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if not parameters or parameters[0].kind not in _POSITIONAL:  # the machine is among the others
        return None
    sparse = _sparse(codec)
    packed = codec.pack([[one.name, int(one.kind), _default(one, sparse)] for one in parameters[1:]])
    return f"{head(machine, command, version)} {packed.hex()}"


def of(offers: Iterable[str]) -> dict[str, str]:
    """Return the texts of parameters among what a member offers, by their heads."""
    texts = [text for text in offers if type(text) is str and text.startswith(f"{SIGNATURE} ")]
    return {text.rpartition(" ")[0]: text for text in texts}


def in_force(facts: Mapping[int, Facts]) -> dict[str, str]:
    """Return the texts of the parameters that commands are executed with, by their heads: the first ones told."""
    found: dict[str, str] = {}
    for one in facts.values():
        for key, text in of(one.offers).items():
            found.setdefault(key, text)
    return found


def describe(text: str, codec: Codec) -> str:
    """Return the parameters of a text as they are written in a program."""
    found = _parse(text, codec)
    if found is None:
        return "(?)"
    signature = inspect.Signature([_parameter(one, _shown(one, codec)) for one in found])
    return str(signature)


def adapted(function: Callable[..., Any], name: str, text: str, codec: Codec) -> Callable[..., Any]:
    """Return `function` with the parameters of a text. One that cannot be read changes nothing, on no member."""
    found = _parse(text, codec)
    return function if found is None else _Adapted(function, name, found, codec)


class Parameters:
    """The parameters of a program's commands, here and in force."""

    def __init__(
        self,
        functions: dict[Key, tuple[Any, Callable[..., Any], Any]],
        keys: Iterable[Key],
        registry: Registry | None,
        codec: Codec,
        arguments: Codec,
    ) -> None:
        """`functions`, of the executor, are adapted where they are among `keys`; `arguments` reads what they get."""
        self.texts: dict[str, str] = {}
        """As members tell them, by their heads."""
        self._functions = functions
        self._registry = registry
        self._arguments = arguments
        self._told: set[Key] = set()
        """Commands of which members have told the parameters."""
        self._own: dict[str, tuple[Key, Callable[..., Any]]] = {}
        for key in keys:
            function = functions[key][1]
            text = told(*key, function, codec)
            if text is not None:
                self._own[head(*key)] = key, function
                self.texts[head(*key)] = text

    def agree(self) -> None:
        """Have commands executed with the parameters in force, as on all members."""
        if self._registry is None:
            return
        found = in_force(self._registry.facts)
        for place, (key, function) in self._own.items():
            machine, _, binding = self._functions[key]
            if (text := found.get(place, self.texts[place])) != self.texts[place]:
                function = adapted(function, key[1], text, self._arguments)
            self._functions[key] = machine, function, binding
        self._told = {key for place, (key, _) in self._own.items() if place in found}

    def is_misfit(self, key: Key, arguments: bytes) -> bool:
        """Return whether packed arguments do not fit a command. False where no member has told its parameters."""
        if key not in self._told:
            return False
        machine, function, _ = self._functions[key]
        try:
            args, kwargs = self._arguments.unpack(arguments)
            inspect.signature(function).bind(machine, *args, **kwargs)
        except TypeError:
            return True
        return False

    def key(self, place: str) -> Key:
        """Return which command a head is of."""
        return self._own[place][0]


class _Shown:
    """A default as it is shown."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Adapted:
    """A function with other parameters than its own."""

    def __init__(self, function: Callable[..., Any], name: str, theirs: list[Parameter], codec: Codec) -> None:
        signature = inspect.signature(function)
        machine, *ours = signature.parameters.values()
        self._function = function
        self._name = name
        self._theirs = theirs
        self._codec = codec
        self._signature = signature
        self._machine = machine.name
        self._ours = {one.name: one for one in ours}
        self._by_name = {one.name for one in ours if one.kind in _BY_NAME}
        self._all = next((one.name for one in ours if one.kind == _ALL), None)
        self._rest = next((one.name for one in ours if one.kind == _REST), None)
        self._places = {one.name: self._place(at, one, ours) for at, one in enumerate(theirs)}
        self._sparse = _sparse(codec)
        self._defaults = {one.name: _default(one, self._sparse) for one in ours}
        self.__signature__ = inspect.Signature([_first(theirs), *map(_parameter, theirs)])

    def _place(self, at: int, one: Parameter, ours: list[inspect.Parameter]) -> str | None:
        """Return which of our parameters one of theirs is: that of its name; else that of its place, if it is new."""
        if one.kind in (_ALL, _REST):
            return None
        mine = self._ours.get(one.name)
        if mine is not None and mine.kind not in (_ALL, _REST):
            return one.name
        if at < len(ours) and one.kind in _POSITIONAL and ours[at].kind in _POSITIONAL:
            known = {other.name for other in self._theirs}
            return None if ours[at].name in known else ours[at].name
        return None

    def __call__(self, machine: Any, *args: Any, **kwargs: Any) -> Any:
        given = self.__signature__.bind(machine, *args, **kwargs).arguments
        taken: dict[str, Any] = {self._machine: machine}
        rest: dict[str, Any] = {}
        for one in self._theirs:
            if one.kind == _ALL:
                if given.get(one.name):
                    taken[self._all or self._lacks(f"*{one.name}")] = given[one.name]
            elif one.kind == _REST:
                for key, value in given.get(one.name, {}).items():
                    self._put(key, key if key in self._by_name else None, value, taken, rest)
            elif one.name in given:
                if self._places[one.name] is None and self._rest is None and self._is_default(one, given[one.name]):
                    continue
                self._put(one.name, self._places[one.name], given[one.name], taken, rest)
            elif (place := self._places[one.name]) is not None and self._defaults[place] != one.default:
                if type(one.default) is not bytes:
                    raise Foreign(f"a default of {one.name!r} that this program's {self._name}() does not have")
                taken[place] = self._codec.unpack(one.default)
        if rest and self._rest is not None:
            taken[self._rest] = rest
        return self._call(taken)

    def _put(self, name: str, place: str | None, value: Any, taken: dict[str, Any], rest: dict[str, Any]) -> None:
        if place is not None:
            taken[place] = value
        elif self._rest is not None:
            rest[name] = value
        else:
            self._lacks(name)

    def _lacks(self, name: str) -> str:
        raise Foreign(f"the argument {name!r}, which this program's {self._name}() does not take")

    def _is_default(self, one: Parameter, value: Any) -> bool:
        return type(one.default) is bytes and self._sparse.pack(value) == one.default

    def _call(self, taken: dict[str, Any]) -> Any:
        for one in self._ours.values():
            if one.name not in taken and one.default is inspect.Parameter.empty and one.kind not in (_ALL, _REST):
                raise Foreign(f"nothing for {one.name!r}, which this program's {self._name}() needs")
        bound = inspect.BoundArguments(self._signature, taken)
        bound.apply_defaults()
        return self._function(*bound.args, **bound.kwargs)


def _first(others: list[Parameter]) -> inspect.Parameter:
    """Return the parameter of the machine, under a name that the others do not have."""
    name = "self"
    while name in {one.name for one in others}:
        name = f"_{name}"
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY)


def _sparse(codec: Codec) -> Codec:
    """Return a codec that leaves out all fields with their defaults, so that a new field of a class changes nothing."""
    sparse = codec.outgoing()
    sparse.left_out = frozenset(codec.offers(()))
    return sparse


def _default(one: inspect.Parameter, codec: Codec) -> bytes | str | None:
    """Return a default as it is told."""
    if one.default is inspect.Parameter.empty:
        return None
    try:
        packed = codec.pack(one.default)
    except (TypeError, ValueError):
        return type(one.default).__qualname__
    return packed if len(packed) <= _LONGEST else hashlib.sha256(packed).hexdigest()


def _shown(one: Parameter, codec: Codec) -> Any:
    if one.default is None:
        return inspect.Parameter.empty
    if type(one.default) is not bytes:
        return _Shown("…")
    try:
        return codec.unpack(one.default)
    except Malformed:
        return _Shown("…")


def _parameter(one: Parameter, default: Any = None) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(one.name, _KINDS[one.kind], default=empty if one.default is None else default)


_KINDS: Final = (*_POSITIONAL, _ALL, inspect.Parameter.KEYWORD_ONLY, _REST)


def _parse(text: str, codec: Codec) -> list[Parameter] | None:
    """Return the parameters of a text, None for one that `told` has not made."""
    try:
        found = [Parameter(*one) for one in codec.unpack(bytes.fromhex(text.rpartition(" ")[2]))]
        for one in found:
            if type(one.name) is not str or type(one.kind) is not int or not 0 <= one.kind < len(_KINDS):
                return None
            if one.default is not None and type(one.default) not in (bytes, str):
                return None
        inspect.Signature([_parameter(one) for one in found])
    except (TypeError, ValueError):
        return None
    return found

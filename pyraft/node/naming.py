"""Classes that a machine's `types` have to name, and names that a machine's state cannot have.

Duty: the codec takes dataclasses and enumerations by name, so `types` has to have all that travel or are kept. Where
annotations name them, a machine that has forgotten one is refused at its start, and not by its first call.

Happy path: `check_types` and `check_names` return nothing.

Failure modes: TypeError, with the place and the line that mends it. Annotations that cannot be looked up, as those of
names that exist for type checkers only, say nothing; a class that is not named is then told by the first call with it.
"""

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from pyraft.node.codec import Codec
from pyraft.node.tracked import Record

Functions: TypeAlias = Iterable[tuple[str, Callable[..., Any]]]
"""The functions of a class, with their names."""

_PLAIN: Final = (int, str, bytes, float, dict, list, set)
"""Classes derived from these travel as the ones that they are derived from."""

_TAKEN: Final = frozenset({"adopt_members", "aside", "content", "enter", "forget_fresh", "members"})
"""The methods of records that this layer calls: an attribute of such a name would stand in its place."""

_TAKEN_OF_MACHINES: Final = _TAKEN | {"checkpoint", "keep", "restore", "rollback", "snapshot"}


def check_lists(cls: type, named: object, errors: object) -> None:
    """Refuse `types` and `errors` that are not lists of classes of their kinds."""
    for what, listed in (("types", named), ("errors", errors)):
        example = f"{what} = (Order,)" if what == "types" else f"{what} = (OutOfStock,)"
        if not isinstance(listed, (tuple, list, set, frozenset)):
            raise TypeError(f"{cls.__qualname__}.{what} is a tuple of classes, {example}, and not {listed!r:.60}")
        for one in listed:
            if not isinstance(one, type):
                raise TypeError(f"{cls.__qualname__}.{what} names classes, {example}, and {one!r:.60} is not one")
            if what == "errors" and not issubclass(one, Exception):
                raise TypeError(f"{cls.__qualname__}.errors names exceptions, and {one.__qualname__} is not one")


def check_names(cls: type, attributes: Iterable[str], methods: Iterable[str], named: Iterable[type]) -> None:
    """Refuse state, commands and queries under names that this layer uses itself, of a machine and of its records."""
    for what, names in (("keeps its state in an attribute", attributes), ("has a command or query", methods)):
        for name in names:
            if name in _TAKEN_OF_MACHINES:
                raise TypeError(f"{cls.__qualname__} {what} called {name!r}, which is a method of Machine: rename it")
    for record in named:
        if issubclass(record, Record) and dataclasses.is_dataclass(record):
            for field in dataclasses.fields(record):
                if field.name in _TAKEN:
                    raise TypeError(
                        f"{record.__qualname__} has a field called {field.name!r}, a method of Record: rename it"
                    )


def check_types(cls: type, commands: Functions, queries: Functions, codec: Codec, keeps: bool) -> None:
    """Refuse a machine whose annotations have a class that nobody has named.

    Arguments and results of commands travel, but only the results of queries on a node. `keeps` says that the
    attributes are in snapshots of this layer's own form.
    """
    for functions, results_only in ((commands, False), (queries, True)):
        for name, function in functions:
            for at, hint in _hints(function, getattr(function, "__globals__", {}), cls).items():
                if at == "return":
                    _refuse(cls, f"{cls.__qualname__}.{name}() returns", hint, codec)
                elif not results_only:
                    _refuse(cls, f"{cls.__qualname__}.{name}() takes as {at!r}", hint, codec)
    if keeps:
        for base in cls.__mro__:
            for at, hint in _hints(base, _globals(base), base).items():
                if typing.get_origin(hint) is not typing.ClassVar and not hasattr(cls, at):
                    _refuse(cls, f"{cls.__qualname__} keeps in {at!r}", hint, codec)
    for named in codec.classes():
        if dataclasses.is_dataclass(named):
            hints = _hints(named, _globals(named), named)
            for field in dataclasses.fields(named):
                _refuse(cls, f"{named.__qualname__} has in {field.name!r}", hints.get(field.name), codec)


def how_to_name(cls: type, missing: type) -> str:
    """Return the sentence that says how a class is named."""
    return f"name it in the class {cls.__name__}: types = ({missing.__name__},)"


def _refuse(cls: type, where: str, hint: Any, codec: Codec) -> None:
    for found in _classes(hint):
        if _must_be_named(found, codec):
            kind = "enumeration" if issubclass(found, enum.Enum) else "class"
            raise TypeError(f"{where} the {kind} {found.__qualname__}, which nobody knows: {how_to_name(cls, found)}")


def _must_be_named(cls: type, codec: Codec) -> bool:
    if codec.find(cls.__name__) is cls or any(issubclass(known, cls) for known in codec.classes()):
        return False  # the base of one that is named stands for that
    if issubclass(cls, enum.Enum):
        return len(cls) > 0
    if issubclass(cls, _PLAIN) or cls is Record:
        return False
    return dataclasses.is_dataclass(cls) or issubclass(cls, Record)


def _hints(owner: Any, names: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Return those annotations of a function or class that can be looked up."""
    found = {}
    try:
        given = dict(vars(owner).get("__annotations__", {}) if isinstance(owner, type) else owner.__annotations__)
    except Exception:  # they are looked up only now, by newer versions of Python
        return {}
    for name, annotation in given.items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found.update(typing.get_type_hints(one, dict(names), dict(vars(cls)), include_extras=False))
        except Exception:
            continue
    return found


def _globals(cls: type) -> dict[str, Any]:
    return dict(vars(sys.modules.get(cls.__module__, types)))


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes that stand in an annotation."""
    origin = typing.get_origin(hint)
    if origin is None:
        if isinstance(hint, type):
            yield hint
        elif hasattr(hint, "__supertype__"):  # NewType
            yield from _classes(hint.__supertype__)
        return
    if origin is type or origin is typing.Literal or origin is Callable:
        return
    if isinstance(origin, type):
        yield origin
    for part in typing.get_args(hint):
        yield from _classes(part)

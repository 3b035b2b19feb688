"""The values that a machine may keep, and how one becomes part of it.

Duty: state is a tree of tracked containers (`containers`, `Record`) with immutable values in it. `arrive` takes a value
into a container, while a command runs; `settle` ends that when the command ends; `adopt` does both at once, for a whole
value. `Record` is the tracked object: dataclasses that change derive from it, and so does `Machine`.

Happy path: a command puts a plain dict into a tracked one, fills it, and returns; at its end the dict is replaced by a
tracked one with the same content.

Failure modes: adopt and settle raise TypeError for what could change without notice. State is a tree: a container that
is in a machine already is copied when it is put into a second place, since a snapshot could not tell that the two were
one.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final, TypeAlias

from pyraft.node.codec import SCALARS, is_scalar
from pyraft.node.journal import Journal

Undo: TypeAlias = Callable[[tuple[Callable[..., Any], tuple[Any, ...]]], None]


class Tracked:
    """The common part of all tracked containers: a journal (None for a Record in no machine yet), and whether it has a
    place."""

    __slots__ = ()

    plain: ClassVar[type] = object
    """The built-in type that it stands for."""

    _journal: Any
    _placed: bool

    def adopt_members(self) -> None:
        """Replace what was put in, where it is a plain container, by a tracked one."""
        raise NotImplementedError

    def forget_fresh(self) -> None:
        """Forget which members were put in and are plain still."""
        raise NotImplementedError

    def content(self) -> Any:
        """Return the members in a plain copy, which `members` takes."""
        raise NotImplementedError

    def aside(self) -> Any:
        """Return what stands for the content in a snapshot, which `members` takes, when this is about to change."""
        return self.content()

    def members(self, content: Any, start: int = 0) -> Iterator[Any]:
        """Iterate over `content`, or the container itself, from member `start` on; over pairs where they have keys."""
        raise NotImplementedError


MAKERS: Final[dict[type, Callable[[Any, Journal], Tracked]]] = {}
"""Makes a tracked container of a plain one, by the plain one's type; `containers` fills it."""

MAX_NESTED: Final = 480
"""How deep tuples, frozensets and frozen dataclasses may be nested in a state. This layer goes through them without
recursion, so every member comes to the same result whatever its stack; programs that hash or compare them recurse.
"""

TOO_DEEP: Final = f"a machine cannot keep tuples, frozensets or frozen dataclasses nested deeper than {MAX_NESTED}"


def adopt(value: Any, journal: Journal) -> Any:
    """Return `value` as the machine of `journal` is to keep it, down to its last member. Raises TypeError."""
    if is_scalar(value):
        return value
    if isinstance(value, Tracked):
        value = arrive(value, journal)
        if isinstance(value, Record):
            value.adopt_members()
        return value
    kind = type(value)
    make = MAKERS.get(kind)
    if make is not None:
        return make(value, journal)
    if kind is tuple:
        return _rebuilt(value, lambda member: adopt(member, journal))
    if not journal.is_immutable(value):
        raise TypeError(
            f"a machine cannot keep objects of class {kind.__qualname__}, whose changes nobody would notice: take "
            "dict, list, set, deque, a Record, or a frozen dataclass or enumeration that its `types` name, or give the "
            "machine a checkpoint and a rollback of its own"
        )
    return value


def arrive(value: Any, journal: Journal) -> Any:
    """Return what is to stand in a container for a value that is put into it while a command runs.

    To be called before the change is noted: it may raise, and nothing must be taken back then.

    A tracked container without a place takes this one, one that has a place is copied; all else waits for `settle`.
    """
    if not isinstance(value, Tracked):
        return _rebuilt(value, lambda member: arrive(member, journal)) if type(value) is tuple else value
    if isinstance(value, Record) and value._journal is None:  # a new one
        for name, member in value.content().items():
            value.__dict__[name] = arrive(member, journal)
        value.enter(journal)
        place(value, True)
        journal.inserted(value)
        return value
    if value._journal is journal and not value._placed:
        place(value, True)
        return value
    if isinstance(value, Record):
        twin = object.__new__(type(value))
        twin.__dict__.update(value.content())
        return arrive(twin, journal)
    return MAKERS[value.plain](value.content(), journal)


def settle(value: Any, journal: Journal) -> Any:
    """Return what is to stand for a value that has arrived, now that the command ends. Raises TypeError like adopt."""
    return value if isinstance(value, Tracked) else adopt(value, journal)


def _rebuilt(value: tuple[Any, ...], change: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Return `value` with what `change` returns in the place of each member, however many tuples are around that."""
    if tuple not in map(type, value):
        return tuple([change(member) for member in value])
    levels: list[tuple[Iterator[Any], list[Any]]] = [(iter(value), [])]
    while True:
        members, made = levels[-1]
        for member in members:
            if type(member) is tuple:
                if len(levels) == MAX_NESTED:
                    raise TypeError(TOO_DEEP)
                levels.append((iter(member), []))
                break
            made.append(change(member))
        else:
            levels.pop()
            if not levels:
                return tuple(made)
            levels[-1][1].append(tuple(made))


def check_key(key: Any, journal: Journal) -> None:
    """Raise TypeError if a key of a dict, or member of a set, is something that can change."""
    if is_scalar(key) or journal.is_immutable(key):
        return
    while type(key) is tuple:  # to the member that is to blame
        key = next(member for member in key if not journal.is_immutable(member))
    raise TypeError(f"a machine cannot keep objects of class {type(key).__qualname__} as keys or in a set")


def release(value: Any, undo: Undo) -> None:
    """Take note that `value` leaves its place: it need not be copied for the next one."""
    if isinstance(value, Tracked):
        place(value, False)
        undo((place, (value, True)))


def place(value: Any, in_a_place: bool) -> None:
    """Take note whether a tracked container is in a place."""
    value._placed = in_a_place


class Record(Tracked):
    """An object whose attributes a machine may change. To be the base of a dataclass:

        @dataclass
        class Item(Record):
            name: str
            count: int = 0

    Outside a machine it is an ordinary object. All its attributes are state, except those of the class.
    """

    plain = object
    _journal: Any = None
    _placed = False
    _fresh: dict[str, None] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        journal = self._journal
        if journal is None or name in _OWN:
            object.__setattr__(self, name, value)
            return
        if journal.frozen is None and journal.undo is not None:
            undo = journal.undo.append
        else:
            undo = journal.changing(self)
        state = self.__dict__
        scalar = type(value) in SCALARS
        if name not in state:
            new = value if scalar else arrive(value, journal)
            undo((state.__delitem__, (name,)))
        elif value is state[name]:
            return
        else:
            old = state[name]
            new = value if scalar else arrive(value, journal)
            undo((state.__setitem__, (name, old)))
            if type(old) not in SCALARS:
                release(old, undo)
        state[name] = new
        if not scalar:
            self._note(name)

    def enter(self, journal: Journal) -> None:
        """Become part of the machine of `journal`: all attributes are new there."""
        journal.meet(type(self))
        self._fresh = dict.fromkeys(self.content())
        self._journal = journal

    def __delattr__(self, name: str) -> None:
        journal = self._journal
        state = self.__dict__
        if journal is None or name not in state:
            object.__delattr__(self, name)
            return
        undo = journal.changing(self)
        undo((_refill, (self, self.content())))
        release(state[name], undo)
        del state[name]

    def _note(self, name: str) -> None:
        if self._fresh is None:
            self._fresh = {}
        self._fresh[name] = None
        self._journal.inserted(self)

    def adopt_members(self) -> None:
        """Replace attributes that are plain containers by tracked ones."""
        state = self.__dict__
        for name in self._fresh or ():
            if name in state:
                try:
                    state[name] = settle(state[name], self._journal)
                except TypeError as exc:
                    raise TypeError(f"attribute {name!r} of {type(self).__qualname__}: {exc}") from None
        self._fresh = {}

    def forget_fresh(self) -> None:
        """Forget which members were put in and are plain still."""
        self._fresh = {}

    def content(self) -> dict[str, Any]:
        """Return the attributes that are state."""
        return {name: value for name, value in self.__dict__.items() if name not in _OWN}

    def members(self, content: Any, start: int = 0) -> Iterator[Any]:
        """Iterate over the names and values of the attributes that are state."""
        return itertools.islice((content.content() if isinstance(content, Record) else content).items(), start, None)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.content())


_OWN: Final = frozenset({"_journal", "_placed", "_fresh", "_node"})
"""Attributes of records and machines that are not state."""


def _rebuild(cls: type, content: dict[str, Any]) -> Any:
    record: Any = object.__new__(cls)
    record.__dict__.update(content)
    return record


def _refill(record: Record, content: dict[str, Any]) -> None:
    for name in record.content():
        del record.__dict__[name]
    record.__dict__.update(content)

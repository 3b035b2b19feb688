"""The state of a machine as bytes, and back.

Duty: `write` encodes the state of a machine in pieces, in a thread, as it was when `journal.start_snapshot` was called;
`read` builds it again. Nothing of the size of the whole is made on the way, and the lock that keeps the machine from
changing a container is held for one piece at a time only.

The format is a stream of msgpack objects. A container is a header [kind, count] or, of a record, [kind, count, class],
then its members in lists of up to PIECE, pairs flattened. A member that is a container itself has an empty extension in
its place there, and follows behind the list, in order. An attribute of the machine that was there at first, and that
a command has deleted, has another empty extension as its value.

Happy path: `b"".join(write(machine, …))`, then `read` of what that unpacks to: an equal state, tracked.

Failure modes: a member that the codec does not take is a TypeError that names its type; in a machine with tracked
state that can only be a record that `types` lacks. Bytes that are not a snapshot raise Malformed, and the machine is as
it was.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, NamedTuple

import msgpack

from pyraft.node.codec import BELOW, GONE, MAX_DEPTH, SCALARS, Codec, default_of, is_flat, nests_deeper
from pyraft.node.containers import TrackedDeque, TrackedDict, TrackedList, TrackedSet
from pyraft.node.errors import Malformed
from pyraft.node.journal import Journal
from pyraft.node.tracked import Record, Tracked, adopt, arrive, place

PIECE: Final = 512
"""Members per list. Packing so many scalars takes some 50 microseconds."""

_DEPTH: Final = 32
"""How deep containers are read by recursion, which fills large ones as their members come."""

_DEEP: Final = MAX_DEPTH // 2
"""Tuples nested deeper than this, as commands make by and by, are containers here: the codec takes only so many."""

_DEEPEST: Final = MAX_DEPTH - 4
"""Frozensets and frozen dataclasses are written as containers only if nested deeper than this. Earlier programs take
such containers for damage; of values that deep they could write no snapshot at all."""

_DICT, _SET, _LIST, _DEQUE, _RECORD, _TUPLE, _FROZENSET, _FROZEN = range(8)
_KINDS: Final[dict[type, int]] = {TrackedDict: _DICT, TrackedSet: _SET, TrackedList: _LIST, TrackedDeque: _DEQUE}
_PAIRS: Final = (_DICT, _RECORD, _FROZEN)
_BELOW_VALUE: Final = msgpack.ExtType(BELOW, b"")
_GONE_VALUE: Final = msgpack.ExtType(GONE, b"")


class Frozen:
    """A journal's snapshot as its thread reads it: containers that have changed since are read from their copies."""

    def __init__(self, journal: Journal) -> None:
        self._lock = journal.lock
        frozen = journal.frozen
        assert frozen is not None
        self._frozen = frozen

    def size(self, container: Tracked) -> int:
        """Return how many members `container` had."""
        with self._lock:
            kept = self._frozen.get(id(container))
            content: Any = container if kept is None else kept[1]
            return len(content.content() if isinstance(content, Record) else content)

    def read(self, container: Tracked) -> Iterator[list[Any]]:
        """Yield the members that `container` had, in lists of up to PIECE."""
        done = 0
        iterator: Iterator[Any] | None = None
        from_copy = False
        while True:
            with self._lock:
                kept = self._frozen.get(id(container))
                if iterator is None or (kept is not None and not from_copy):
                    from_copy = kept is not None
                    iterator = container.members(container if kept is None else kept[1], done)
                piece = [member for _, member in zip(range(PIECE), iterator, strict=False)]
            if not piece:
                return
            done += len(piece)
            yield piece


class _Inner(NamedTuple):
    """A container whose bytes come next."""

    value: Any


def write(root: Record, codec: Codec, frozen: Frozen, gone: Sequence[str] = ()) -> Iterator[bytes]:
    """Yield the state of `root` as it was when the journal's snapshot was started.

    `gone` are attributes that `root` had at first and has lost: a reader would otherwise take them for new ones.
    """
    # State may be nested deeper than the interpreter's stack is.
    stack = [_write(root, codec, frozen, gone, is_root=True)]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif isinstance(step, _Inner):
            stack.append(_write(step.value, codec, frozen))
        else:
            yield step


def _write(
    value: Any, codec: Codec, frozen: Frozen, gone: Sequence[str] = (), is_root: bool = False
) -> Iterator[bytes | _Inner]:
    if not isinstance(value, Tracked):
        kind, members, *more = _immutable(value, codec)
        header: list[Any] = [kind, len(members), *more]
        pieces: Iterator[list[Any]] = iter([members] if members else [])
    else:
        kind = _KINDS.get(type(value), _RECORD)
        header = [kind, frozen.size(value) + len(gone)]
        pieces = frozen.read(value)
        if kind == _RECORD:
            cls = type(value)
            if not is_root and codec.find(cls.__name__) is not cls:
                # Nobody could read such a snapshot, this member at its next start included.
                raise TypeError(f"the machine has a record of class {cls.__qualname__}, which its `types` do not name")
            header.append(cls.__name__)
        elif isinstance(value, TrackedDeque):
            header.append(value.maxlen)
    yield codec.pack(header)
    for piece in pieces:
        flat = [part for pair in piece for part in pair] if kind in _PAIRS else piece
        below = [member for member in flat if _is_container(member)]
        if below:
            flat = [_BELOW_VALUE if _is_container(member) else member for member in flat]
        yield codec.pack(flat)
        yield from map(_Inner, below)
    if gone:
        yield codec.pack([part for name in gone for part in (name, _GONE_VALUE)])


def is_gone(value: Any) -> bool:
    """Return whether that stands for an attribute which was deleted."""
    return type(value) is msgpack.ExtType and value.code == GONE


def _immutable(value: Any, codec: Codec) -> tuple[Any, ...]:
    """Return the kind of a container that never changes, a list of its members or pairs, and the name of its class."""
    if type(value) is tuple:
        return _TUPLE, list(value)
    if type(value) is frozenset:
        return _FROZENSET, list(value)
    return _FROZEN, list(codec.fields_of(value).items()), type(value).__name__


def _is_container(value: Any) -> bool:
    kind = type(value)
    if kind in SCALARS:
        return False
    if isinstance(value, Tracked):
        return True
    if is_flat(value):
        return False
    if kind is tuple and (_holds_tracked(value) or (tuple in map(type, value) and nests_deeper([value], _DEEP))):
        return True
    return nests_deeper([value], _DEEPEST)


def _holds_tracked(value: tuple[Any, ...]) -> bool:
    """Return whether a tracked container is in a tuple, with tuples only around it."""
    waiting = [value]
    for one in waiting:
        if any(isinstance(member, Tracked) for member in one):
            return True
        waiting += [member for member in one if type(member) is tuple]
    return False


def read(objects: Iterator[Any], codec: Codec, journal: Journal) -> tuple[str, dict[str, Any]]:
    """Return the name of the class that a snapshot is of, and the attributes, as a machine of `journal` keeps them.

    `objects` yields what was packed. Raises Malformed.
    """
    kind, count, name = _header(objects)
    if kind != _RECORD or type(name) is not str:
        raise Malformed("a snapshot that is not of a machine")
    content = dict(_pairs(_members(objects, count * 2, _Reader(codec, journal), _DEPTH)))
    return name, {attribute: arrive(value, journal) for attribute, value in content.items()}


class _Reader(NamedTuple):
    codec: Codec
    journal: Journal


def _header(objects: Iterator[Any]) -> tuple[int, int, Any]:
    header = next(objects, None)
    if type(header) is not list or not 2 <= len(header) <= 3 or not all(type(n) is int and n >= 0 for n in header[:2]):
        raise Malformed(f"a snapshot with {header!r:.80} where a container begins")
    return header[0], header[1], header[2] if len(header) == 3 else None


def _piece(objects: Iterator[Any], count: int) -> list[Any]:
    """Return the next members of a container that has `count` more."""
    piece = next(objects, None)
    if type(piece) is not list or not piece or len(piece) > count:
        raise Malformed(f"a snapshot with a {type(piece).__name__} where members should be")
    return piece


def _is_below(member: Any) -> bool:
    return type(member) is msgpack.ExtType and member.code == BELOW


def _members(objects: Iterator[Any], count: int, reader: _Reader, depth: int) -> Iterator[Any]:
    """Yield `count` members: pairs count twice."""
    while count > 0:
        piece = _piece(objects, count)
        count -= len(piece)
        for member in piece:
            yield _read(objects, reader, depth - 1) if _is_below(member) else member


def _read(objects: Iterator[Any], reader: _Reader, depth: int) -> Any:
    if depth == 0:
        return _read_deep(objects, reader)
    kind, count, more = _header(objects)
    return _make(kind, more, _members(objects, count * 2 if kind in _PAIRS else count, reader, depth), reader)


class _Level:
    """A container that is being read, with what has come of it."""

    def __init__(self, objects: Iterator[Any]) -> None:
        self.kind, count, self.more = _header(objects)
        self.left = count * 2 if self.kind in _PAIRS else count
        self.piece: Iterator[Any] = iter(())
        self.members: list[Any] = []


def _read_deep(objects: Iterator[Any], reader: _Reader) -> Any:
    """Return a container as `_read` does, however deep it is nested; the members of each are held as a list."""
    levels = [_Level(objects)]
    while True:
        level = levels[-1]
        for member in level.piece:
            if _is_below(member):
                levels.append(_Level(objects))
                break
            level.members.append(member)
        else:
            if level.left > 0:
                piece = _piece(objects, level.left)
                level.left -= len(piece)
                level.piece = iter(piece)
                continue
            levels.pop()
            container = _make(level.kind, level.more, iter(level.members), reader)
            if not levels:
                return container
            levels[-1].members.append(container)


def _make(kind: int, more: Any, members: Iterator[Any], reader: _Reader) -> Any:
    if kind == _RECORD:
        return _record(reader, more, dict(_pairs(members)))
    if kind == _FROZEN:
        return _frozen(reader, more, dict(_pairs(members)))
    make = _MAKE.get(kind)
    if make is None:
        raise Malformed(f"a snapshot with a container of kind {kind}")
    try:
        container = make(members, more, reader.journal)
    except TypeError as exc:
        raise Malformed(f"a snapshot whose members do not fit: {exc}") from None
    if isinstance(container, Tracked):
        place(container, False)  # until the container around it takes it
    return container


def _record(reader: _Reader, name: Any, content: dict[str, Any]) -> Record:
    cls = reader.codec.find(name)
    if cls is None or not issubclass(cls, Record):
        raise Malformed(f"a snapshot with a record of class {name!r}, which this program has not named")
    record: Record = object.__new__(cls)
    content = {**content, **_new_fields(cls, content, reader.journal)}
    record.__dict__.update((attribute, arrive(value, reader.journal)) for attribute, value in content.items())
    record._journal = reader.journal
    record.forget_fresh()
    return record


def _new_fields(cls: type, content: dict[str, Any], journal: Journal) -> dict[str, Any]:
    """Return the fields with defaults that a class has got since the snapshot was made, as new records have them."""
    found: dict[str, Any] = {}
    for field in fields(cls) if is_dataclass(cls) else ():
        default = MISSING if field.name in content else default_of(field)
        if default is not MISSING:
            found[field.name] = adopt(default, journal)
    return found


def _frozen(reader: _Reader, name: Any, content: dict[str, Any]) -> Any:
    cls = reader.codec.find(name)
    if cls is None or issubclass(cls, Record) or not is_dataclass(cls):
        raise Malformed(f"a snapshot with a frozen dataclass {name!r}, which this program has not named")
    make: Callable[..., Any] = cls
    try:
        return make(**content)
    except (TypeError, ValueError) as exc:
        raise Malformed(f"a snapshot whose {name} cannot be made: {exc}") from None


def _dict(members: Iterator[Any], more: Any, journal: Journal) -> TrackedDict:
    made = TrackedDict({}, journal)
    made.fill(_pairs(members))  # no plain dict on the way: one of a million entries takes its time to be freed
    return made


def _tuple(members: Iterator[Any], more: Any, journal: Journal) -> tuple[Any, ...]:
    return tuple(members)


_MAKE: Final[dict[int, Callable[[Iterator[Any], Any, Journal], Any]]] = {
    _DICT: _dict,
    _SET: lambda members, more, journal: TrackedSet(members, journal),
    _LIST: lambda members, more, journal: TrackedList(members, journal),
    _DEQUE: lambda members, more, journal: TrackedDeque(deque(members, more), journal),
    _TUPLE: _tuple,
    _FROZENSET: lambda members, more, journal: frozenset(members),
}


def _pairs(members: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(members, members, strict=False)

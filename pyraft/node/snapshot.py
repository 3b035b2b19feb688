"""The state of a machine as bytes, and back.

Duty: `write` encodes the state of a machine in pieces, in a thread, as it was when `journal.start_snapshot` was called;
`read` builds it again. Nothing of the size of the whole is made on the way, and the lock that keeps the machine from
changing a container is held for one piece at a time only.

The format is a stream of msgpack objects. A container is a header [kind, count] or, of a record, [kind, count, class],
then its members in lists of up to PIECE, pairs flattened. A member that is a container itself has an empty extension in
its place there, and follows behind the list, in order.

Happy path: `b"".join(write(machine, …))`, then `read` of what that unpacks to: an equal state, tracked.

Failure modes: a member that the codec does not take is a TypeError that names its type (a machine whose state was
tracked has none). Bytes that are not a snapshot raise Malformed, and the machine is as it was.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgpack

from pyraft.node.codec import BELOW, MAX_DEPTH, Codec
from pyraft.node.containers import TrackedDeque, TrackedDict, TrackedList, TrackedSet
from pyraft.node.errors import Malformed
from pyraft.node.journal import Journal
from pyraft.node.tracked import Record, Tracked, arrive, place

PIECE: Final = 512
"""Members per list. Packing so many scalars takes some 50 microseconds."""

_DICT, _SET, _LIST, _DEQUE, _RECORD, _TUPLE = range(6)
_KINDS: Final[dict[type, int]] = {TrackedDict: _DICT, TrackedSet: _SET, TrackedList: _LIST, TrackedDeque: _DEQUE}
_PAIRS: Final = (_DICT, _RECORD)
_BELOW_VALUE: Final = msgpack.ExtType(BELOW, b"")


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
                    iterator = container.members(container if kept is None else kept[1])
                    deque(zip(range(done), iterator, strict=False), 0)
                piece = [member for _, member in zip(range(PIECE), iterator, strict=False)]
            if not piece:
                return
            done += len(piece)
            yield piece


def write(root: Record, codec: Codec, frozen: Frozen) -> Iterator[bytes]:
    """Yield the state of `root` as it was when the journal's snapshot was started."""
    yield from _write(root, codec, frozen, MAX_DEPTH)


def _write(value: Any, codec: Codec, frozen: Frozen, depth: int) -> Iterator[bytes]:
    if depth == 0:
        raise ValueError(f"state nested deeper than {MAX_DEPTH}")
    if type(value) is tuple:
        kind = _TUPLE
        header: list[Any] = [kind, len(value)]
        pieces: Iterator[list[Any]] = iter([list(value)] if value else [])
    else:
        kind = _KINDS.get(type(value), _RECORD)
        header = [kind, frozen.size(value)]
        pieces = frozen.read(value)
        if kind == _RECORD:
            header.append(type(value).__name__)
        elif kind == _DEQUE:
            header.append(value.maxlen)
    yield codec.pack(header)
    for piece in pieces:
        flat = [part for pair in piece for part in pair] if kind in _PAIRS else piece
        below = [member for member in flat if _is_container(member)]
        if below:
            flat = [_BELOW_VALUE if _is_container(member) else member for member in flat]
        yield codec.pack(flat)
        for member in below:
            yield from _write(member, codec, frozen, depth - 1)


def _is_container(value: Any) -> bool:
    return isinstance(value, Tracked) or (type(value) is tuple and any(map(_is_container, value)))


def read(objects: Iterator[Any], codec: Codec, journal: Journal) -> tuple[str, dict[str, Any]]:
    """Return the name of the class that a snapshot is of, and the attributes, as a machine of `journal` keeps them.

    `objects` yields what was packed. Raises Malformed.
    """
    kind, count, name = _header(objects)
    if kind != _RECORD or type(name) is not str:
        raise Malformed("a snapshot that is not of a machine")
    content = dict(_pairs(_members(objects, count * 2, _Reader(codec, journal), MAX_DEPTH)))
    return name, {attribute: arrive(value, journal) for attribute, value in content.items()}


class _Reader(NamedTuple):
    codec: Codec
    journal: Journal


def _header(objects: Iterator[Any]) -> tuple[int, int, Any]:
    header = next(objects, None)
    if type(header) is not list or not 2 <= len(header) <= 3 or not all(type(n) is int and n >= 0 for n in header[:2]):
        raise Malformed(f"a snapshot with {header!r:.80} where a container begins")
    return header[0], header[1], header[2] if len(header) == 3 else None


def _members(objects: Iterator[Any], count: int, reader: _Reader, depth: int) -> Iterator[Any]:
    """Yield `count` members: pairs count twice."""
    while count > 0:
        piece = next(objects, None)
        if type(piece) is not list or not piece or len(piece) > count:
            raise Malformed(f"a snapshot with a {type(piece).__name__} where members should be")
        count -= len(piece)
        for member in piece:
            yield (
                _read(objects, reader, depth - 1)
                if type(member) is msgpack.ExtType and member.code == BELOW
                else member
            )


def _read(objects: Iterator[Any], reader: _Reader, depth: int) -> Any:
    if depth == 0:
        raise Malformed(f"a snapshot nested deeper than {MAX_DEPTH}")
    kind, count, more = _header(objects)
    members = _members(objects, count * 2 if kind in _PAIRS else count, reader, depth)
    if kind == _RECORD:
        return _record(reader, more, dict(_pairs(members)))
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
    record.__dict__.update((attribute, arrive(value, reader.journal)) for attribute, value in content.items())
    record._journal = reader.journal
    record.forget_fresh()
    return record


def _tuple(members: Iterator[Any], more: Any, journal: Journal) -> tuple[Any, ...]:
    return tuple(members)


_MAKE: Final[dict[int, Callable[[Iterator[Any], Any, Journal], Any]]] = {
    _DICT: lambda members, more, journal: TrackedDict(dict(_pairs(members)), journal),
    _SET: lambda members, more, journal: TrackedSet(members, journal),
    _LIST: lambda members, more, journal: TrackedList(members, journal),
    _DEQUE: lambda members, more, journal: TrackedDeque(deque(members, more), journal),
    _TUPLE: _tuple,
}


def _pairs(members: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(members, members, strict=False)

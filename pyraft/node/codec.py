"""Values and frames as bytes: the contents of commands, sessions and snapshots.

Duty: `Codec` packs and unpacks values: all that msgpack has (None, bool, int, float, str, bytes, list, dict), and as
extensions tuple, set, frozenset, datetime, date, time, timedelta, UUID, Decimal, integers beyond 64 bits, and the
dataclasses and enumerations that the program has named. `frame` and `unframe` put packed bytes into a command of the
log, whose length must be a multiple of 8. Nothing is ever unpickled: bytes can only become values of these types.

Happy path: `codec.pack(value)` -> bytes, `codec.unpack(bytes)` -> an equal value of the same types.

Failure modes: a value of another type is a TypeError that names the type, before anything is sent. Bytes that are not a
value raise Malformed: truncated, longer than the value, nested deeper than MAX_DEPTH, an extension with content not its
own, a class that the program has not named, or a field of one that its class does not have (Foreign: another
version of the program may have them); in `arguments`, which others have made, also more than MAX_ALIKE keys of a
hash, as numbers can be chosen to have: they are compared with each other by every member, at each start again.
"""

import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import itertools
import struct
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgpack

from pyraft.node.errors import Foreign, Malformed

MAX_DEPTH: Final = 64
"""How deep extensions may be nested, less one; lists and dicts have msgpack's limit, some 1000. Deeper ones are refused
on both sides. In arguments containers of all kinds together count against it (`nests_deeper`), as members that keep a
value go through it by recursion."""

_TOO_DEEP: Final = f"tuples, sets or objects nested deeper than {MAX_DEPTH - 1}"

_LOOKED_AT: Final = MAX_DEPTH - 4
_MOST_BELOW: Final = 4096
"""From the fourth extension inside another one on, all that it holds is looked at: with some 1000 lists in each of 63
extensions the stack of the thread that packs such a value would end, and with it the process."""

MAX_ALIKE: Final = 64
"""How many keys of a dict, or members of a set, may have the same hash in arguments."""

CLASS: Final = "class"
"""The first word of an offer that is a class, or one of its fields or members."""

FRAME_VERSION: Final = 1
_FRAME: Final = struct.Struct("<BBHI")

_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _DECIMAL, _INT, _DATACLASS, _ENUM = range(1, 13)

_FEED: Final = 256 * 1024
"""Bytes of a snapshot that are given to the unpacker at a time."""

BELOW: Final = 100
"""The extension that stands in a snapshot for a member which follows; it is unpacked as what it is."""
GONE: Final = 101
"""The extension that stands in a snapshot for an attribute that a command has deleted."""
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""The types of `is_scalar`, for where each call counts."""
_LEAVES: Final = SCALARS | {
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    decimal.Decimal,
}
_TEXTS: Final[dict[int, Callable[[str], Any]]] = {
    _DATETIME: datetime.datetime.fromisoformat,
    _DATE: datetime.date.fromisoformat,
    _TIME: datetime.time.fromisoformat,
    _DECIMAL: decimal.Decimal,
}


def frame(payload: bytes) -> bytes:
    """Return `payload` as a command: version, flags, 2 reserved bytes, length (u32), the payload, zeros up to 8."""
    return _FRAME.pack(FRAME_VERSION, 0, 0, len(payload)) + payload + bytes(-len(payload) % 8)


def unframe(data: bytes) -> bytes:
    """Return the payload of a command. Raises Malformed for another version, flags, or a length that does not fit."""
    if len(data) < _FRAME.size:
        raise Malformed(f"a frame of {len(data)} bytes")
    version, flags, reserved, length = _FRAME.unpack_from(data)
    if version != FRAME_VERSION or flags != 0 or reserved != 0:
        raise Malformed(f"a frame of version {version}, flags {flags:#x}: written by a later program")
    if len(data) - _FRAME.size != length + -length % 8:
        raise Malformed(f"a frame of {len(data)} bytes for a payload of {length}")
    return data[_FRAME.size : _FRAME.size + length]


class Codec:
    """Packs and unpacks values; `classes` are the dataclasses and enumerations that may be among them.

    They are known by their names (`__name__`), which must differ. A dataclass must have all its fields in `__init__`;
    fields that a later version of the class adds need defaults.
    """

    def __init__(self, classes: Iterable[type] = ()) -> None:
        self._classes: dict[str, type] = {}
        self.met: set[str] | None = None
        """Where it is a set, the classes of what is unpacked are put into it, as `offers_of` names them."""
        self.left_out: Collection[str] = ()
        """The fields that are not packed where they have their default, as `offers_of` names them."""
        self._is_lenient = False
        self._make_dict: Callable[[list[tuple[Any, Any]]], Any] | None = None
        self._keys: Callable[[list[Any]], list[Any]] = list
        self._unpack_small: Callable[[bytes], Any] | None = None
        self._packers: list[msgpack.Packer] = []
        """Those that nobody uses at the moment: to make one takes longer than to pack a call."""
        self._prepare()
        for cls in classes:
            self.add(cls)

    def add(self, cls: type) -> None:
        """Take one more class. Raises TypeError if it is neither, or another one has its name."""
        if self._classes.setdefault(cls.__name__, cls) is not cls:
            raise TypeError(f"two classes are called {cls.__name__}")
        if not (dataclasses.is_dataclass(cls) or issubclass(cls, enum.Enum)):
            raise TypeError(f"{cls.__name__} is neither a dataclass nor an Enum")
        if dataclasses.is_dataclass(cls) and not issubclass(cls, enum.Enum) and not hasattr(cls, "adopt_members"):
            _check_fields(cls)

    def classes(self) -> list[type]:
        """Return the classes that are known."""
        return list(self._classes.values())

    def find(self, name: Any) -> type | None:
        """Return the class of that name."""
        return self._classes.get(name)

    def objects(self, data: Any, at: int = 0) -> "Objects":
        """Iterate over the values that `data` holds one behind the other, from byte `at` on."""
        return Objects(lambda code, content: self._value(code, content, MAX_DEPTH), data, at)

    def is_leaf(self, value: Any) -> bool:
        """Return whether a value is of a type of this codec that cannot change: no container, no dataclass."""
        kind = type(value)
        return kind in _LEAVES or (issubclass(kind, enum.Enum) and self._classes.get(kind.__name__) is kind)

    def _prepare(self) -> None:
        def ext_hook(code: int, content: bytes) -> Any:
            return self._value(code, content, MAX_DEPTH - 1)

        hooks = {"ext_hook": ext_hook, "object_pairs_hook": self._make_dict}
        self._unpackb = functools.partial(msgpack.unpackb, strict_map_key=False, **hooks)
        if self._make_dict is not None:
            # Maps of more than 15 keys begin with one of two bytes. Where neither occurs nobody has to count.
            hooks["object_pairs_hook"] = dict
            self._unpack_small = functools.partial(msgpack.unpackb, strict_map_key=False, **hooks)

    def pack(self, value: Any) -> bytes:
        """Return `value` as bytes. Raises TypeError for a type that has no place here, ValueError for deep nesting.

        Several threads may, and so may what is asked for its content meanwhile: each takes another packer.
        """
        try:
            packer = self._packers.pop()
        except IndexError:
            packer = msgpack.Packer(default=lambda value: self._extension(value, MAX_DEPTH - 1), strict_types=True)
        try:
            packed: bytes = packer.pack(value)
        except (RecursionError, OverflowError, ValueError) as exc:
            raise _nested(exc) from None
        if len(packed) <= _FEED:  # one that has grown is not kept
            self._packers.append(packer)
        return packed

    def unpack(self, data: Any) -> Any:
        """Return the value that `data` holds, all of it. Raises Malformed."""
        try:
            if self._unpack_small is not None and type(data) is bytes and b"\xde" not in data and b"\xdf" not in data:
                return self._unpack_small(data)
            return self._unpackb(data)
        except Malformed:
            raise
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
            raise Malformed(f"no value: {str(exc) or type(exc).__name__}") from None

    def offers(self, but: Iterable[type]) -> list[str]:
        """Return the classes that are known, but for some, with their fields and members, as `offers_of` names them."""
        known = {name: cls for name, cls in self._classes.items() if cls not in but}
        return [text for name, cls in known.items() for text in offers_of(name, _members(cls))]

    def _twin(self) -> "Codec":
        """Return a codec with the classes of this one, those to come included."""
        twin = Codec()
        twin._classes = self._classes
        return twin

    def outgoing(self) -> "Codec":
        """Return a codec for what members with other programs may read, with the classes of this one."""
        return self._twin()

    def lenient(self) -> "Codec":
        """Return a codec for results, with the classes of this one: it passes over fields that these do not have."""
        lenient = self._twin()
        lenient._is_lenient = True
        return lenient

    def arguments(self) -> "Codec":
        """Return a codec for what others have made, with the classes of this one."""
        wary = self._twin()
        wary._make_dict, wary._keys = _dict, _spread
        wary._prepare()
        return wary

    # Packing: msgpack asks `default` for everything that is not exactly one of its own types, subclasses included.

    def _pack(self, value: Any, depth: int) -> bytes:
        if depth <= 0:
            raise ValueError(_TOO_DEEP)
        if depth == _LOOKED_AT and nests_deeper([value], _MOST_BELOW):
            raise ValueError(_TOO_DEEP)

        def default(value: Any) -> Any:
            return self._extension(value, depth - 1)

        try:
            packed: bytes = msgpack.packb(value, default=default, strict_types=True)
        except (RecursionError, OverflowError, ValueError) as exc:
            raise _nested(exc) from None
        return packed

    def _extension(self, value: Any, depth: int) -> Any:
        kind = type(value)
        make = _EXTENSIONS.get(kind)
        if make is not None:
            return make(self, value, depth)
        if self._classes.get(kind.__name__) is kind:
            return self._named(kind, value, depth)
        if isinstance(value, int) and not isinstance(value, enum.Enum):
            if kind is not int:
                return int(value)
            return msgpack.ExtType(_INT, _big(value))
        for plain in (str, bytes, float, dict, list, set):  # subclasses travel as what they are made of
            if isinstance(value, plain) and not isinstance(value, enum.Enum):
                return _plain(plain, value)
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        if inspect.isawaitable(value):
            raise TypeError(f"a {kind.__qualname__} cannot be packed: await it, and give its result")
        raise TypeError(
            f"a value of type {kind.__qualname__} cannot be packed; a dataclass or Enum can be where the machine's "
            "`types` name it"
        )

    def _named(self, kind: type, value: Any, depth: int) -> Any:
        if issubclass(kind, enum.Enum):
            return msgpack.ExtType(_ENUM, self._pack([kind.__name__, value.name], depth))
        return msgpack.ExtType(_DATACLASS, self._pack([kind.__name__, self.fields_of(value)], depth))

    def fields_of(self, value: Any) -> dict[str, Any]:
        """Return the fields of an object as they are packed, by name: without those that are left out."""
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return self._without_what_others_lack(value, fields) if self.left_out else fields

    def _without_what_others_lack(self, value: Any, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an object but for those of `left_out` that have their default: all read the same."""
        offered = offers_of(type(value).__name__, fields)[1:]
        lacking = {name for name, text in zip(fields, offered, strict=True) if text in self.left_out}
        for field in dataclasses.fields(value):
            default = default_of(field) if field.name in lacking else dataclasses.MISSING
            if default is not dataclasses.MISSING and self._is_packed_as(fields[field.name], default):
                del fields[field.name]
        return fields

    def _is_packed_as(self, value: Any, other: Any) -> bool:
        """Return whether two values are the same bytes. One that is nested too deep for that is another one."""
        try:
            return self.pack(value) == self.pack(other)
        except ValueError:
            return False

    # Unpacking.

    def _unpack(self, data: Any, depth: int) -> Any:
        if depth <= 0:
            raise Malformed(_TOO_DEEP)

        def ext_hook(code: int, content: bytes) -> Any:
            return self._value(code, content, depth - 1)

        try:
            value = msgpack.unpackb(data, ext_hook=ext_hook, object_pairs_hook=self._make_dict, strict_map_key=False)
        except Malformed:
            raise
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
            raise Malformed(f"no value: {str(exc) or type(exc).__name__}") from None
        if depth == _LOOKED_AT and nests_deeper([value], _MOST_BELOW):
            raise Malformed(_TOO_DEEP)
        return value

    def _value(self, code: int, content: bytes, depth: int) -> Any:
        """Return the value of an extension, whatever else its content turns out to be: Malformed."""
        try:
            if code in _TEXTS:
                return _TEXTS[code](content.decode())
            if code == _TUPLE:
                return tuple(self._list(content, depth))
            if code == _SET:
                return set(self._keys(self._list(content, depth)))
            if code == _FROZENSET:
                return frozenset(self._keys(self._list(content, depth)))
            if code == _UUID:
                return uuid.UUID(bytes=content)
            if code == _INT:
                return int.from_bytes(content, "little", signed=True)
            if code == _TIMEDELTA:
                days, seconds, microseconds = self._list(content, depth)
                return datetime.timedelta(days, seconds, microseconds)
            if code in (_DATACLASS, _ENUM):
                return self._instance(code, content, depth)
        except Malformed:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
            raise Malformed(f"extension {code}: {exc}") from None
        if code in (BELOW, GONE):
            return msgpack.ExtType(code, content)
        raise Malformed(f"unknown extension {code}")

    def _list(self, content: bytes, depth: int) -> list[Any]:
        value = self._unpack(content, depth)
        if type(value) is not list:
            raise Malformed(f"an extension with a {type(value).__name__} in it")
        return value

    def _instance(self, code: int, content: bytes, depth: int) -> Any:
        name, what = self._list(content, depth)
        cls: Any = self._classes.get(name)
        if cls is None or issubclass(cls, enum.Enum) != (code == _ENUM):
            raise Foreign(f"a value of class {name!r}, which this program has not named")
        if code == _DATACLASS and type(what) is not dict:
            raise Malformed(f"an object with a {type(what).__name__} in it")
        known = _members(cls)
        if self._is_lenient and code == _DATACLASS:  # the effect of a call is there, whatever is read of its result
            what = {key: value for key, value in what.items() if key in known}
        used: dict[Any, None] = dict.fromkeys([what] if code == _ENUM else what)
        for one in used:
            if one not in known:
                raise Foreign(f"a value of class {name} with {one!r:.80}, which this program's {name} does not have")
        if self.met is not None:
            self.met.update(offers_of(name, used))
        if code == _ENUM:
            return cls[what]
        for one, is_required in known.items():
            if is_required and one not in used:
                raise Foreign(
                    f"a value of class {name} without {one!r}, which this program's {name} has no default for"
                )
        return cls(**what)


class Objects:
    """The values that bytes hold one behind the other; Malformed for other bytes, or a last value cut short.

    They are read in pieces: no copy of the whole is made.
    """

    def __init__(self, ext_hook: Callable[[int, bytes], Any], data: Any, at: int) -> None:
        self._unpacker = msgpack.Unpacker(
            ext_hook=ext_hook, strict_map_key=False, max_buffer_size=max(len(data) - at, 1)
        )
        self._view = memoryview(data)
        self._at = at
        self._fed = at
        self._piece = _FEED

    @property
    def at(self) -> int:
        """The byte at which the next value begins."""
        place: int = self._at + self._unpacker.tell()
        return place

    def __iter__(self) -> "Objects":
        return self

    def __next__(self) -> Any:
        while self.at < len(self._view):
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                self._feed()
                continue
            except Malformed:
                raise
            except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
                raise Malformed(f"no value at byte {self.at}: {str(exc) or type(exc).__name__}") from None
            self._piece = _FEED
            return value
        raise StopIteration

    def _feed(self) -> None:
        fed = self._fed
        if fed == len(self._view):
            raise Malformed(f"no value at byte {self.at}: it is cut short") from None
        self._unpacker.feed(self._view[fed : fed + self._piece])
        self._fed = min(fed + self._piece, len(self._view))
        self._piece *= 2  # a large value is not tried again for each piece of it


def may_hold_objects(data: bytes) -> bool:
    """Return whether there may be a dataclass or enumeration in packed bytes: quickly, and rather too often."""
    return b"\x0b" in data or b"\x0c" in data  # _DATACLASS and _ENUM


def _check_fields(cls: type) -> None:
    """Raise TypeError for a dataclass that cannot be made of its fields: what was packed could not be read again."""
    fields = dict.fromkeys(field.name for field in dataclasses.fields(cls))
    try:
        inspect.signature(cls).bind(**fields)
    except TypeError as exc:
        raise TypeError(f"{cls.__name__} must take all its fields, and no more, when it is made: {exc}") from None
    except ValueError:
        pass  # its parameters are not known


def _members(cls: Any) -> dict[str, bool]:
    """Return the names of a class's fields, or of an enumeration's members, and whether a value must have them."""
    if issubclass(cls, enum.Enum):
        return dict.fromkeys(cls.__members__, False)
    missing = dataclasses.MISSING
    return {
        field.name: field.init and field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(cls)
    }


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """Return what a field is where nobody gives it, a new one each time; MISSING if somebody must."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def offers_of(name: str, members: Iterable[str]) -> list[str]:
    """Return how a class, and its fields or members, are named among those that a member of the cluster offers."""
    return [f"{CLASS} {name}", *(f"{CLASS} {name} {member}" for member in members)]


_HASHED_AT_RANDOM: Final = frozenset({str, bytes})


def _dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Make a dict of what came as one."""
    if len(pairs) > MAX_ALIKE:
        _spread([key for key, _ in pairs])
    return dict(pairs)


def _spread(keys: list[Any]) -> list[Any]:
    """Return the keys, or raise Malformed for those that would take time by the square of their number."""
    if len(keys) <= MAX_ALIKE:
        return keys
    counts: dict[bytes, int] = {}  # of bytes, whose own hashes nobody can choose
    for key in keys:
        if type(key) not in _HASHED_AT_RANDOM:
            name = hash(key).to_bytes(8, "little", signed=True)
            counts[name] = n = counts.get(name, 0) + 1
            if n > MAX_ALIKE:
                raise Malformed(f"more than {MAX_ALIKE} keys with the same hash")
    return keys


def _nested(exc: Exception) -> Exception:
    """Return the error for one of msgpack's."""
    if isinstance(exc, UnicodeEncodeError):
        return ValueError(f"a text that is not Unicode, with half of a pair of surrogates: {exc.object!a:.60}")
    if isinstance(exc, ValueError):
        return ValueError("lists or dicts nested too deep to be packed") if "recursion" in str(exc) else exc
    return ValueError(str(exc))


def _big(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _plain(plain: type, value: Any) -> Any:
    if plain is dict:
        return dict(value.items())
    if plain is set:
        return set(value)
    return plain(value)


def _sorted(codec: Codec, value: Iterable[Any], depth: int) -> bytes:
    """Pack the members of a set in an order that is the same in every process."""
    members = sorted(codec._pack(member, depth) for member in value)
    packer = msgpack.Packer()
    header: bytes = packer.pack_array_header(len(members))
    return header + b"".join(members)


def _text(code: int) -> Callable[[Codec, Any, int], Any]:
    def make(codec: Codec, value: Any, depth: int) -> Any:
        text = str(value) if code == _DECIMAL else value.isoformat()
        return msgpack.ExtType(code, text.encode())

    return make


_EXTENSIONS: Final[dict[type, Callable[[Codec, Any, int], Any]]] = {
    tuple: lambda codec, value, depth: msgpack.ExtType(_TUPLE, codec._pack(list(value), depth)),
    set: lambda codec, value, depth: msgpack.ExtType(_SET, _sorted(codec, value, depth)),
    frozenset: lambda codec, value, depth: msgpack.ExtType(_FROZENSET, _sorted(codec, value, depth)),
    datetime.datetime: _text(_DATETIME),
    datetime.date: _text(_DATE),
    datetime.time: _text(_TIME),
    decimal.Decimal: _text(_DECIMAL),
    datetime.timedelta: lambda codec, value, depth: msgpack.ExtType(
        _TIMEDELTA, codec._pack([value.days, value.seconds, value.microseconds], depth)
    ),
    uuid.UUID: lambda codec, value, depth: msgpack.ExtType(_UUID, value.bytes),
}


def nests_deeper(values: Iterable[Any], most: int) -> bool:
    """Return whether one of the values is made of more than `most` containers in each other, of whatever kind.

    It is found level by level, without recursion, and each object is looked at once in a level: one that holds itself
    is nested deeper than anything.
    """
    level = {id(value): value for value in values if _holds(value)}
    for _ in range(most):
        level = {
            id(member): member
            for value in level.values()
            for member in held(value)
            if type(member) not in _LEAVES and _holds(member)
        }
        if not level:
            return False
    return bool(level)


def _holds(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, set, frozenset)) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def held(value: Any) -> Iterable[Any]:
    """Return the members of a container or dataclass, keys included."""
    if isinstance(value, dict):
        return itertools.chain(value, value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def is_flat(value: Any) -> bool:
    """Return whether a tuple, frozenset or dataclass is known to hold scalars only: those of one with slots are not."""
    kind = type(value)
    members = value if kind is tuple or kind is frozenset else getattr(value, "__dict__", None)
    if type(members) is dict:
        members = members.values()
    return members is not None and SCALARS.issuperset(map(type, members))


def is_scalar(value: Any) -> bool:
    """Return whether a value is one of msgpack's own that cannot change and holds nothing."""
    return type(value) in SCALARS

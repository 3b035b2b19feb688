"""Tuples: the parameters of a statement and the rows of an answer, values with their types.

Duty: encode and decode both kinds. A value of SQLite is None, int, float, str or bytes here; bool, `UnixTime` and
`IsoTime` are what dqlite makes of columns declared BOOLEAN, DATETIME, DATE and TIMESTAMP. Source: tuple.c, bind.c.

Happy path: `parameters((1, "a"), 0)` for a request, `row(...)` and `read_row(reader, n)` for ROWS.

Failure modes: a type that nobody knows, more values than there are bytes for, or an int beyond 64 bits: ParseError when
read, ValueError when written. Schema 0 of parameters takes 255 at most, a server older than dqlite 1.12 nothing else.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

from io_uv.dqlite import words
from io_uv.dqlite.words import ParseError, Reader

INTEGER: Final = 1
FLOAT: Final = 2
TEXT: Final = 3
BLOB: Final = 4
NULL: Final = 5
UNIX_TIME: Final = 9
ISO8601: Final = 10
BOOLEAN: Final = 11

MAX_SCHEMA_0: Final = 255
_TYPES: Final = frozenset((INTEGER, FLOAT, TEXT, BLOB, NULL, UNIX_TIME, ISO8601, BOOLEAN))


class UnixTime(int):
    """An integer in a column of dates: seconds since the epoch."""


class IsoTime(str):
    """A text in a column of dates, as it is stored; empty for NULL, which dqlite sends that way."""

    __slots__ = ()


Value: TypeAlias = bool | int | float | str | bytes | None


def type_of(value: Value) -> int:
    """Return the code of a value's type; ValueError if a database has no such type."""
    for kind, code in _CODES:
        if isinstance(value, kind):
            return code
    raise ValueError(f"a {type(value).__name__} is not a value of a database")


_CODES: Final[tuple[tuple[type, int], ...]] = (
    (bool, BOOLEAN),
    (UnixTime, UNIX_TIME),
    (int, INTEGER),
    (float, FLOAT),
    (IsoTime, ISO8601),
    (str, TEXT),
    (bytes, BLOB),
    (type(None), NULL),
)


def parameters(values: Sequence[Value], schema: int) -> bytes:
    """Encode parameters; nothing at all for none of them. `schema` 0 takes 255 at most: ValueError beyond."""
    if not values:
        return b""
    types = bytes(map(type_of, values))
    if schema == 0 and len(values) > MAX_SCHEMA_0:
        raise ValueError(f"{len(values)} parameters, of which schema 0 takes {MAX_SCHEMA_0}")
    head = bytes((len(values),)) if schema == 0 else words.u32(len(values))
    return words.padded(head + types) + _values(values)


def read_parameters(reader: Reader, schema: int) -> tuple[Value, ...]:
    """Return the parameters that a body ends with."""
    if reader.left == 0:
        return ()
    n = reader.u8() if schema == 0 else reader.u32()
    types = bytes(reader.take(n, "types of parameters"))
    reader.align()
    if 9 in types:
        raise ParseError("a parameter cannot be a unix time")  # as dqlite has it
    return tuple([_read_value(reader, code) for code in types])


def row(values: Sequence[Value]) -> bytes:
    """Encode a row."""
    head = bytearray((len(values) + 1) // 2)
    for at, code in enumerate(map(type_of, values)):
        head[at // 2] |= code << at % 2 * 4
    return words.padded(bytes(head)) + _values(values)


def read_row(reader: Reader, n: int) -> tuple[Value, ...]:
    """Return a row of `n` values."""
    head = reader.take((n + 1) // 2, "types of a row")
    reader.align()
    return tuple([_read_value(reader, head[at // 2] >> at % 2 * 4 & 15) for at in range(n)])


def _values(values: Sequence[Value]) -> bytes:
    return b"".join(map(_value, values))


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return words.u64(value)
    if isinstance(value, int):
        if not -1 << 63 <= value < 1 << 63:
            raise ValueError(f"an integer beyond 64 bits: {value}")
        return words.i64(value)
    if isinstance(value, float):
        return words.real(value)
    if isinstance(value, str):
        return words.text(value)
    if isinstance(value, bytes):
        return words.blob(value)
    return words.u64(0)


def _read_value(reader: Reader, code: int) -> Value:
    if code == INTEGER:
        return reader.i64()
    if code == FLOAT:
        return reader.real()
    if code == TEXT:
        return reader.text()
    if code == BLOB:
        return reader.blob()
    if code == UNIX_TIME:
        return UnixTime(reader.i64())
    if code == ISO8601:
        return IsoTime(reader.text())
    if code not in _TYPES:
        raise ParseError(f"a value of type {code} at offset {reader.at}")
    word = reader.u64()
    return None if code == NULL else word != 0

"""Messages between clients and nodes: the header, and how a stream is cut into them.

Duty: `frame` puts a header before a body, `Splitter` finds messages in what a connection brings, in any pieces.
`Layout` is the base of the classes in `requests` and `responses`: their fields in order, with the kind of each.

Happy path: `splitter.feed(data)` yields (type, schema, body). A header is uint32 words of the body, uint8 type, uint8
schema, uint16 0.

Failure modes: a body beyond the limit raises ParseError before anything of it is kept, and so does one without a word,
which no message of the protocol is. Bytes behind the last field of a body are ignored, as dqlite does.
"""

import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from io_uv.dqlite import tuples, words
from io_uv.dqlite.words import ParseError, Reader

PROTOCOL: Final = 1
"""The word that a client, or a peer, begins with."""
HEADER: Final = struct.Struct("<IBBH")

MAX_BODY: Final = 64 << 20
"""Bytes that a body may take by default: dqlite has no limit but 4 GiB."""

U32, U64, TEXT, PARAMETERS, UNUSED, OPTIONAL = range(6)
"""Kinds of fields. UNUSED is a word that says nothing, OPTIONAL a word that may be missing and is 0 then."""


class Layout:
    """A message whose body is a row of fields."""

    TYPE: ClassVar[int]
    SCHEMAS: ClassVar[int] = 0
    """The highest schema that there is."""
    FIELDS: ClassVar[tuple[tuple[str, int], ...]] = ()

    schema: int = 0

    def body(self) -> bytes:
        """Return the encoded fields."""
        return b"".join([self._encode(kind, getattr(self, name, 0)) for name, kind in self.FIELDS])

    def encode(self) -> bytes:
        """Return the message with its header."""
        return frame(self.TYPE, self.body(), self.schema)

    def pieces(self) -> list[bytes | memoryview]:
        """Return the message as buffers to be written one behind the other."""
        return [self.encode()]

    def _encode(self, kind: int, value: Any) -> bytes:
        if kind == U32:
            return words.u32(value)
        if kind == TEXT:
            return words.text(value)
        if kind == PARAMETERS:
            return tuples.parameters(value, self.schema)
        return words.u64(0 if kind == UNUSED else value)

    @classmethod
    def read(cls, reader: Reader, schema: int) -> "Layout":
        """Return the message that a body holds; ParseError if it does not."""
        fields = {name: _read(reader, kind, schema) for name, kind in cls.FIELDS}
        fields = {name: value for name, value in fields.items() if name}
        if cls.SCHEMAS:
            fields["schema"] = schema
        return cls(**fields)


def _read(reader: Reader, kind: int, schema: int) -> Any:
    if kind == U32:
        return reader.u32()
    if kind == TEXT:
        return reader.text()
    if kind == PARAMETERS:
        return tuples.read_parameters(reader, schema)
    if kind == OPTIONAL and reader.left == 0:
        return 0
    return reader.u64()


def frame(type: int, body: bytes, schema: int = 0) -> bytes:
    """Return a body, whole words of it, with its header."""
    return header(type, len(body), schema) + body


def header(type: int, size: int, schema: int = 0) -> bytes:
    """Return the header of a message with a body of so many bytes, whole words."""
    assert size % words.WORD == 0
    return HEADER.pack(size // words.WORD, type, schema, 0)


class Splitter:
    """The messages of one direction of a connection."""

    def __init__(self, limit: int = MAX_BODY) -> None:
        self.limit = limit
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    @property
    def rest(self) -> bytes:
        """The bytes that have not been given out."""
        return bytes(self._data)

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._data += data

    def take(self) -> tuple[int, int, bytes] | None:
        """Return type, schema and body of the next message, None while it is not complete."""
        if len(self._data) < HEADER.size:
            return None
        size, type, schema, _ = HEADER.unpack_from(self._data)
        size *= words.WORD
        if not 0 < size <= self.limit:
            raise ParseError(f"a body of {size} bytes, where up to {self.limit} may be")
        end = HEADER.size + size
        if len(self._data) < end:
            return None
        body = bytes(memoryview(self._data)[HEADER.size : end])
        del self._data[:end]
        return type, schema, body

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        """Give out all that is complete."""
        while (message := self.take()) is not None:
            yield message

"""The elements that all of dqlite's bytes are made of: little-endian numbers, texts and blobs in words of 8 bytes.

Duty: `Reader` takes them out of a message, a command or a snapshot, with every bound checked; `text` and `blob` encode
what is not a number. Source: lib/serialize.h of canonical/dqlite.

Happy path: `Reader(body).text()`. A text is its UTF-8 bytes, a NUL, and NULs up to a multiple of 8; a blob its length,
its bytes, and padding that may hold anything.

Failure modes: what is cut off, or a text without an end, raises `ParseError`, which says at which byte. A text with a
NUL cannot be encoded: ValueError. Bytes that are not UTF-8 survive both ways (surrogateescape).
"""

import struct
from typing import Final

from pyraft.types import BytesLike

WORD: Final = 8

_u32: Final = struct.Struct("<I")
_u64: Final = struct.Struct("<Q")
_i64: Final = struct.Struct("<q")
_real: Final = struct.Struct("<d")


class ParseError(ValueError):
    """Bytes that are not what they should be; dqlite's code for it on the wire is 1005."""


class Reader:
    """Reads elements one after the other; `at` is where the next one begins."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: BytesLike, at: int = 0) -> None:
        self.data = memoryview(data)
        self.at = at
        self.end = len(self.data)

    @property
    def left(self) -> int:
        """The bytes that have not been read."""
        return self.end - self.at

    def take(self, size: int, what: str) -> memoryview:
        """Return the next `size` bytes, not copied."""
        if not 0 <= size <= self.end - self.at:
            raise ParseError(f"{what} of {size} bytes at offset {self.at}, of which {self.left} are there")
        begin = self.at
        self.at += size
        return self.data[begin : self.at]

    def u8(self) -> int:
        """Return the next byte."""
        return self.take(1, "number")[0]

    def u32(self) -> int:
        """Return a number of 4 bytes."""
        value: int = _u32.unpack(self.take(4, "number"))[0]
        return value

    def u64(self) -> int:
        """Return a number of 8 bytes."""
        value: int = _u64.unpack(self.take(8, "number"))[0]
        return value

    def i64(self) -> int:
        """Return a number of 8 bytes that may be negative."""
        value: int = _i64.unpack(self.take(8, "number"))[0]
        return value

    def real(self) -> float:
        """Return an IEEE 754 double."""
        value: float = _real.unpack(self.take(8, "number"))[0]
        return value

    def text(self) -> str:
        """Return a text, up to its NUL."""
        begin = self.at
        # In pieces: what follows a short text may be megabytes.
        size = 64
        while True:
            piece = bytes(self.data[begin : min(begin + size, self.end)])
            length = piece.find(b"\0")
            if length >= 0:
                break
            if begin + size >= self.end:
                raise ParseError(f"text at offset {begin} has no end")
            size *= 4
        self.take(length + WORD - length % WORD, "text")
        return piece[:length].decode("utf-8", "surrogateescape")

    def blob(self) -> bytes:
        """Return a blob."""
        length = self.u64()
        value = bytes(self.take(length, "blob"))
        self.align()
        return value

    def align(self) -> None:
        """Skip the padding up to the next word."""
        self.take(-self.at % WORD, "padding")


def u32(value: int) -> bytes:
    """Encode a number of 4 bytes."""
    try:
        return _u32.pack(value)
    except struct.error:
        raise ValueError(f"{value!r} is not a number from 0 to 2**32 - 1") from None


def u64(value: int) -> bytes:
    """Encode a number of 8 bytes."""
    try:
        return _u64.pack(value)
    except struct.error:
        raise ValueError(f"{value!r} is not a number from 0 to 2**64 - 1") from None


def i64(value: int) -> bytes:
    """Encode a number of 8 bytes that may be negative."""
    try:
        return _i64.pack(value)
    except struct.error:
        raise ValueError(f"{value!r} is not a number of 64 bits") from None


def real(value: float) -> bytes:
    """Encode an IEEE 754 double."""
    return _real.pack(value)


def text(value: str) -> bytes:
    """Encode a text."""
    data = value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError("a text cannot hold a NUL")
    return data + bytes(WORD - len(data) % WORD)


def blob(value: BytesLike) -> bytes:
    """Encode a blob."""
    data = bytes(value)
    return _u64.pack(len(data)) + padded(data)


def padded(data: bytes) -> bytes:
    """Return the bytes with zeros up to a multiple of 8."""
    return data + bytes(-len(data) % WORD)

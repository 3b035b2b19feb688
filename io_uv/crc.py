"""The checksum of the disk format.

Duty: `crc32`: width 32, polynomial 0x04C11DB7, most significant bit first, initial value 0, no final xor; the value
for one piece is the initial value for the next, so that chaining equals concatenation. Segments and the .meta
files of snapshots carry it.

fastcrc computes it (its mpeg_2 with an initial value). Where that cannot be imported, `crc32_stdlib` does with the
standard library alone: zlib's CRC has the same polynomial with the bits of every byte and of the result reversed.

Failure modes: none.
"""

import zlib
from collections.abc import Callable
from typing import Final

from pyraft.types import BytesLike

_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES: Final = 0xFFFF_FFFF


def _reverse32(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big").translate(_REVERSED), "little")


def crc32_stdlib(data: BytesLike, init: int = 0) -> int:
    """`crc32` by the standard library."""
    # zlib inverts its register before and after; inverting the value that goes in and comes out undoes both.
    state = _reverse32(init) ^ _ONES
    return _reverse32(zlib.crc32(bytes(data).translate(_REVERSED), state) ^ _ONES)


def _best() -> Callable[[BytesLike, int], int]:
    try:
        from fastcrc import crc32 as fast
    except ImportError:
        return crc32_stdlib
    return fast.mpeg_2


continued: Final = _best()
"""`crc32` without its call and its default, for what is done for each batch."""


def crc32(data: BytesLike, init: int = 0) -> int:
    """Return the checksum of a contiguous bytes-like object, continuing from `init`."""
    return continued(data, init)

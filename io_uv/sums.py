"""Checksums beside the files of disk format 1 that carry none: NAME.sum for the metadata files and snapshot data.

Duty: `store` writes such a sidecar, `load` reads it. libraft and its relatives ignore the names, so a data directory
moves freely between them. A sidecar has 24 bytes: magic "raftsum" and format 1, a word that says which state of
the file it belongs to (the version of a metadata file, the size of a snapshot), the CRC-32 (zlib's) of the file's
content, and the CRC-32 of the 20 bytes before.

Failure modes: none that matter. A sidecar that is missing, torn or of another format reads as None, which means
"unknown": the file may come from a C process. A sidecar that cannot be written is left out: it only guards data.
"""

import os
import struct
import zlib
from typing import Final

from io_uv import fs
from io_uv.failure import Failure
from pyraft.types import BytesLike

SUFFIX: Final = ".sum"

_MAGIC: Final = b"raftsum\x01"
_LAYOUT: Final = struct.Struct("<8sQI")
_CRC: Final = struct.Struct("<I")
_POLYNOMIAL: Final = 0xEDB8_8320
SIZE: Final = _LAYOUT.size + _CRC.size


class Sum:
    """The content of a sidecar: `of`, the state of the file that it belongs to, and the CRC of the content then."""

    __slots__ = ("crc", "of")

    def __init__(self, of: int, crc: int) -> None:
        self.of = of
        self.crc = crc


def checksum(data: BytesLike, init: int = 0) -> int:
    """Return the CRC-32 of sidecars, continuing from `init`. Other threads run while it computes."""
    return zlib.crc32(data, init)


def joined(first: int, second: int, length: int) -> int:
    """Return the checksum of two pieces one behind the other from those of each; the second one has `length` bytes.

    A byte more behind the first piece multiplies its checksum by x^8, modulo the CRC's polynomial.
    """
    power, factor = 1 << 31, 1 << 23  # x^0 and x^8: bit 31 is the coefficient of x^0
    while length:
        if length & 1:
            power = _product(power, factor)
        factor = _product(factor, factor)
        length >>= 1
    return _product(power, first) ^ second


def _product(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def encode(of: int, crc: int) -> bytes:
    """Return the content of a sidecar."""
    body = _LAYOUT.pack(_MAGIC, of, crc)
    return body + _CRC.pack(zlib.crc32(body))


def decode(data: bytes) -> Sum | None:
    """Return what a sidecar says, None if the bytes are not a whole one."""
    if len(data) != SIZE or zlib.crc32(data[: _LAYOUT.size]) != _CRC.unpack_from(data, _LAYOUT.size)[0]:
        return None
    magic, of, crc = _LAYOUT.unpack_from(data)
    return Sum(of, crc) if magic == _MAGIC else None


def load(dir: str, name: str) -> Sum | None:
    """Return what the sidecar of file `name` says, None if there is none that can be read."""
    try:
        return decode(fs.read_file(dir, name + SUFFIX))
    except Failure:
        return None


def store(dir: str, name: str, of: int, crc: int, durable: bool) -> None:
    """Write the sidecar of file `name`, whose content must be durable already; errors are ignored.

    Without `durable` it reaches the disk when the kernel sees fit, and costs no wait.
    """
    data = encode(of, crc)
    try:
        if durable:
            fs.replace_file(dir, name + SUFFIX, data)
            return
        fd = fs.open_file(dir, name + SUFFIX, os.O_WRONLY | os.O_CREAT)
        try:
            fs.write_all(fd, [data])
        finally:
            fs.close(fd)
    except (Failure, OSError):
        return

"""Data directories for tests: made file by file, damaged, and compared.

The encoders here are written from the format's description, apart from those of io_uv, so that both have to agree.
`Dir` wraps a path: it writes closed and open segments, metadata and snapshots, cuts, overwrites and grows files.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyraft import configuration
from pyraft.types import (
    RAFT_COMMAND,
    RAFT_VOTER,
    Entries,
    RaftConfiguration,
    RaftEntry,
    RaftServer,
    RaftSnapshot,
)

BLOCK_SIZE = 4096
SEGMENT_SIZE = 4 * BLOCK_SIZE


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x8000_0000 else value << 1) & 0xFFFF_FFFF
        table.append(value)
    return table


_TABLE = _table()


def crc(data: bytes, value: int = 0) -> int:
    """The checksum of the disk format, byte by byte from its polynomial."""
    for byte in data:
        value = (value << 8 & 0xFFFF_FFFF) ^ _TABLE[value >> 24 ^ byte]
    return value


def words(*values: int) -> bytes:
    """Return the values as little-endian words of 8 bytes."""
    return struct.pack(f"<{len(values)}Q", *values)


def command(number: int, size: int = 8, term: int = 1) -> RaftEntry:
    """Return a COMMAND whose payload starts with `number` and has no zero byte behind it."""
    return RaftEntry(term, RAFT_COMMAND, words(number).ljust(size, b"\xa5")[:size])


def commands(first: int, n: int, size: int = 8, term: int = 1) -> list[RaftEntry]:
    """Return n commands, numbered from `first`."""
    return [command(first + i, size, term) for i in range(n)]


def batch(entries: Entries) -> bytes:
    """Return one encoded batch."""
    header = words(len(entries))
    for entry in entries:
        header += struct.pack("<QB3xI", entry.term, entry.type, len(entry.buf))
    data = b"".join(entry.buf for entry in entries)
    return struct.pack("<II", crc(header), crc(data)) + header + data


def segment(*batches: Entries) -> bytes:
    """Return the content of a segment with these batches."""
    return words(1) + b"".join(batch(entries) for entries in batches)


def singles(entries: Iterable[RaftEntry]) -> list[list[RaftEntry]]:
    """Return the entries as batches of one."""
    return [[entry] for entry in entries]


def conf(n: int = 1) -> RaftConfiguration:
    """Return a configuration of n voters with ids and addresses 1 to n."""
    c = RaftConfiguration()
    c.servers = [RaftServer(i, str(i), RAFT_VOTER) for i in range(1, n + 1)]
    return c


def snapshot(index: int, term: int = 1, data: Sequence[bytes] = (b"snapshot",), conf_index: int = 1) -> RaftSnapshot:
    """Return a snapshot with one voter."""
    s = RaftSnapshot()
    s.index, s.term, s.configuration, s.configuration_index = index, term, conf(), conf_index
    s.bufs = list(data)
    return s


def numbers(entries: Entries) -> list[int]:
    """Return the numbers of commands."""
    return [int.from_bytes(entry.buf[:8], "little") for entry in entries]


class Dir:
    """A data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return os.fspath(self.path)

    @property
    def names(self) -> list[str]:
        """The names in it, sorted."""
        return sorted(os.listdir(self.path))

    def write(self, name: str, data: bytes) -> Path:
        """Create or replace a file."""
        (self.path / name).write_bytes(data)
        return self.path / name

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.path / name).read_bytes()

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return (self.path / name).exists()

    def remove(self, name: str) -> None:
        """Unlink a file."""
        (self.path / name).unlink()

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file."""
        (self.path / name).rename(self.path / new_name)

    def overwrite(self, name: str, offset: int, data: bytes) -> None:
        """Write over a part of a file."""
        with open(self.path / name, "r+b") as f:
            f.seek(offset)
            f.write(data)

    def resize(self, name: str, size: int) -> None:
        """Cut or grow a file."""
        os.truncate(self.path / name, size)

    def closed(self, first: int, *batches: Entries) -> str:
        """Write a closed segment and return its name."""
        n = sum(map(len, batches))
        name = f"{first:016}-{first + n - 1:016}"
        self.write(name, segment(*batches))
        return name

    def open(self, counter: int, *batches: Entries, size: int = SEGMENT_SIZE, ours: bool = False) -> str:
        """Write an open segment, filled up with zeros; `ours` gives it the note of its size that io_uv gives."""
        name = f"open-{counter}"
        content = segment(*batches) if batches else b""
        self.write(name, content.ljust(size, b"\0"))
        if ours:
            os.setxattr(self.path / name, "user.raft.size", str(size).encode())
        return name

    def metadata(self, n: int, version: int, term: int, voted_for: int = 0) -> str:
        """Write metadata1 or metadata2."""
        name = f"metadata{n}"
        self.write(name, words(1, version, term, voted_for))
        return name

    def snapshot(self, term: int, index: int, time: int = 1000, data: bytes = b"snapshot", conf_index: int = 1) -> str:
        """Write a snapshot as C does with compression off, and return the name of its data file."""
        blob = configuration.encode(conf())
        checked = words(conf_index, len(blob))
        name = f"snapshot-{term}-{index}-{time}"
        self.write(f"{name}.meta", words(1, crc(blob, crc(checked))) + checked + blob)
        self.write(name, data)
        return name

    def unfinalise(self, first: int, last: int, counter: int) -> None:
        """Turn a closed segment into an open one: rename it and let it grow to a segment's size."""
        self.rename(f"{first:016}-{last:016}", f"open-{counter}")
        self.resize(f"open-{counter}", SEGMENT_SIZE)

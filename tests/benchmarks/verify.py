"""Is every acknowledged entry on disk on a majority? A reader of its own, sharing no code with what is measured.

`numbers(dir, journal)` gives the numbers of the entries that a server's directory holds after its last snapshot, and
the number of the last entry that the snapshot covers; `check` holds that against what was acknowledged. libraft's
format is described in io_uv's documentation; checksums are verified, so a torn batch counts as absent.
"""

import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import Cluster, Failed

CLOSED = re.compile(r"(\d+)-(\d+)")
OPEN = re.compile(r"open-(\d+)")
SNAPSHOT = re.compile(r"snapshot-(\d+)-(\d+)-(\d+)")
COMMAND = 1
U64 = struct.Struct("<Q")


def check(cluster: Cluster) -> None:
    """Kill the cluster's servers and read what they leave: entries 1 to the last acknowledged one, on a majority."""
    cluster.kill_all()
    n = len(cluster.addresses)
    complete = 0
    reports = []
    for id in range(1, n + 1):
        covered, found = numbers(cluster.root / str(id), cluster.side.journal)
        missing = set(range(covered + 1, cluster.acknowledged + 1)) - found
        complete += not missing
        reports.append(f"server {id}: {len(missing)} missing after {covered}")
    if complete <= n // 2:
        report = f"{cluster.side.name}: of {cluster.acknowledged} acknowledged entries, {', '.join(reports)}"
        if cluster.side.syncs:
            raise Failed(report)
        # It never said that they would be there; its times count all the same.
        print(report, file=sys.stderr)


def numbers(dir: Path, journal: str) -> tuple[int, set[int]]:
    """The number of the last entry that the newest snapshot covers (0: none), and those of the entries in the log."""
    if journal == "pysyncobj":
        return 0, set(_pysyncobj(dir))
    names = [path.name for path in dir.iterdir()] if dir.exists() else []
    covered = 0
    snapshots = [m for m in map(SNAPSHOT.fullmatch, names) if m and f"{m[0]}.meta" in names]
    if snapshots:
        newest = max(snapshots, key=lambda m: (int(m[1]), int(m[2]), int(m[3])))
        covered = _state(dir / newest[0])
    closed = sorted((int(m[1]), m[0]) for m in map(CLOSED.fullmatch, names) if m)
    opened = sorted((int(m[1]), m[0]) for m in map(OPEN.fullmatch, names) if m)
    found: set[Any] = set()
    for _, name in closed + opened:
        found.update(_segment((dir / name).read_bytes(), _calls if journal == "node" else _number))
    return covered, found


def _number(data: bytes) -> Iterator[int]:
    """The number that an entry begins with."""
    yield U64.unpack_from(data)[0]


def _calls(data: bytes) -> Iterator[int]:
    """The numbers that the arguments of an entry's calls begin with: a frame around [time, calls]."""
    import msgpack

    _, calls = msgpack.unpackb(data[8 : 8 + U64.unpack_from(data)[0] // (1 << 32)])
    for *_, command, _, packed in calls:
        if command == "put":
            yield U64.unpack_from(msgpack.unpackb(packed)[0][0])[0]


def _segment(data: bytes, read: Callable[[bytes], Iterator[int]]) -> Iterator[int]:
    """The numbers of the commands in a segment, up to its end or to the first batch that is not whole."""
    if len(data) < 8 or U64.unpack_from(data)[0] != 1:
        return
    offset = 8
    while offset + 16 <= len(data):
        header_sum, data_sum, n = struct.unpack_from("<IIQ", data, offset)
        start = offset + 16 + 16 * n
        if not n or start > len(data):
            return
        header = data[offset + 8 : start]
        fields = [struct.unpack_from("<QB3xI", header, 8 + 16 * i) for i in range(n)]
        end = start + sum(length for _, _, length in fields)
        if _crc(header) != header_sum or end > len(data) or _crc(data[start:end]) != data_sum:
            return
        at = start
        for _, kind, length in fields:
            if kind == COMMAND:
                yield from read(data[at : at + length])
            at += length
        offset = end


def _state(path: Path) -> int:
    """The count that a snapshot's state begins with."""
    import lz4.frame

    with path.open("rb") as f:
        compressed = f.read(4) == b"\x04\x22\x4d\x18"
    with lz4.frame.open(path) if compressed else path.open("rb") as f:
        return int(U64.unpack(f.read(8))[0])


def _crc(data: bytes) -> int:
    from fastcrc import crc32

    return int(crc32.mpeg_2(data, 0))


def _pysyncobj(dir: Path) -> Iterator[int]:
    """The numbers in a PySyncObj journal: pickled calls of one method with the entry as argument."""
    from pysyncobj.journal import FileJournal

    path = dir / "journal"
    if not path.exists():
        return
    journal = FileJournal(str(path))
    for command, _, _ in journal[:]:
        try:
            call = pickle.loads(command[1:])
        except Exception:
            continue
        if isinstance(call, tuple) and len(call) > 1 and isinstance(call[1], tuple) and call[1]:
            yield U64.unpack_from(call[1][0])[0]

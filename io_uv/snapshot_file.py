"""Snapshot files: `snapshot-TERM-INDEX-TIME` with the data, and the same name with `.meta` for the rest.

Duty: write such a pair, read it back, remove old ones. The .meta file: format word 1; CRC (32 bits, 32 unused); the
words configuration index and length; the configuration. The CRC covers the last three. Data is the FSM's buffers one
after the other, raw or as one LZ4 frame; on reading the frame's magic decides. TIME is in ms since the epoch.

Happy path: .meta first, then the data, each durable under its name before the next, then a sidecar (`sums`) with
the checksum that raw data lacks. The pair counts from the moment that the data has its name.
The functions run in a thread: data moves in pieces of 1 MiB and is not copied whole.

Failure modes: on write the pair is removed again and RAFT_IOERR or RAFT_NOSPACE raised. On read RAFT_CORRUPT for a
checksum mismatch and for what is short or no LZ4 frame any more (C: RAFT_IOERR), RAFT_MALFORMED for another format or a
bad configuration, RAFT_IOERR if the disk refuses. Raw data without a sidecar, as C writes it, is taken as it is.
"""

import mmap
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from io_uv import compress, crc, fs, sums
from io_uv.failure import Failure, Unknown, failure, unknown_format
from pyraft import configuration
from pyraft.errors import RAFT_CORRUPT, RAFT_IOERR, RAFT_MALFORMED, RAFT_NOMEM, RAFT_NOTFOUND, RAFT_TOOBIG
from pyraft.types import BytesLike, RaftConfiguration, RaftSnapshot

FORMAT: Final = 1
META_SUFFIX: Final = ".meta"
MAX_CONFIGURATION: Final = 1024 * 1024
"""Largest encoded configuration in bytes."""
KEEP: Final = 2
"""Snapshots that remove_old leaves."""

_NAME: Final = re.compile(r"snapshot-(\d{1,20})-(\d{1,20})-(\d{1,20})(\.meta|\.sum)?", re.ASCII)
_META: Final = struct.Struct("<QQQQ")
_CHECKED: Final = struct.Struct("<QQ")
# One read(2) delivers at most this; beyond it the content goes into a mapping, piece by piece.
_ONE_READ: Final = 0x7FFF_F000


class SnapshotInfo:
    """A snapshot as its file name tells. `filename` is that of the .meta file, as in C."""

    __slots__ = ("filename", "index", "term", "timestamp")

    def __init__(self, filename: str, term: int, index: int, timestamp: int) -> None:
        self.filename = filename
        self.term = term
        self.index = index
        self.timestamp = timestamp

    @property
    def data_name(self) -> str:
        """Name of the data file."""
        return self.filename[: -len(META_SUFFIX)]

    def __repr__(self) -> str:
        return f"SnapshotInfo({self.filename!r})"


def data_name(term: int, index: int, timestamp: int) -> str:
    """Return the name of the data file of a snapshot."""
    return f"snapshot-{term}-{index}-{timestamp}"


def parse_name(filename: str) -> tuple[SnapshotInfo, str] | None:
    """Return (info, suffix) for a name of a snapshot's file: suffix "", ".meta" or ".sum"; None for any other name."""
    match = _NAME.fullmatch(filename)
    if match is None:
        return None
    suffix = match[4] or ""
    meta = filename[: len(filename) - len(suffix)] + META_SUFFIX
    return SnapshotInfo(meta, int(match[1]), int(match[2]), int(match[3])), suffix


def sort(infos: list[SnapshotInfo]) -> None:
    """Sort in place, newest last."""
    infos.sort(key=_key)


def _key(info: SnapshotInfo) -> tuple[int, int, int, str]:
    return info.term, info.index, info.timestamp, info.filename


def newer(infos: Sequence[SnapshotInfo], than: SnapshotInfo) -> list[SnapshotInfo]:
    """Return those of the sorted `infos` that come behind `than`: they would be loaded instead of it."""
    return [info for info in infos if _key(info) > _key(than)]


def timestamp_now(infos: Sequence[SnapshotInfo], term: int, index: int) -> int:
    """Return the timestamp for a new snapshot: the time in ms since the epoch, above those of the same entry."""
    # C: uv_snapshot.c:UvSnapshotPut takes the loop's clock, which starts again with every boot (B21).
    newest = max((s.timestamp for s in infos if (s.term, s.index) == (term, index)), default=-1)
    return max(time.time_ns() // 1_000_000, newest + 1)


# ---- writing ---------------------------------------------------------------------------------------------------------


def encode_meta(conf: RaftConfiguration, conf_index: int) -> bytes:
    """Return the content of a .meta file; RAFT_TOOBIG above 1 MiB of configuration."""
    blob = configuration.encode(conf)
    if len(blob) > MAX_CONFIGURATION:
        raise Failure(RAFT_TOOBIG, f"configuration of {len(blob)} bytes is too big for a snapshot")
    checksum = crc.crc32(blob, crc.crc32(_CHECKED.pack(conf_index, len(blob))))
    return _META.pack(FORMAT, checksum, conf_index, len(blob)) + blob


class _Tally:
    """Counts and checksums what passes through; `failure` is why the source of it failed, if it did."""

    __slots__ = ("crc", "failure", "size")

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.size = 0
        self.crc = 0

    def over(self, pieces: Iterable[Any]) -> Iterator[Any]:
        """Yield the pieces."""
        try:
            for piece in pieces:
                self.size += len(piece)
                self.crc = sums.checksum(piece, self.crc)
                yield piece
        except Failure as exc:
            self.failure = exc
            raise


def _raw(bufs: Sequence[BytesLike]) -> Iterator[memoryview]:
    for buf in bufs:
        view = memoryview(buf)
        if view.nbytes:
            view = view.cast("B")
            for at in range(0, len(view), fs.CHUNK):
                yield view[at : at + fs.CHUNK]


def _must_frame(bufs: Sequence[BytesLike]) -> bool:
    """Return whether raw data could not be read back: none at all, or some that starts like a frame (B44)."""
    head = b""
    for buf in bufs:
        head += bytes(memoryview(buf).cast("B")[: len(compress.MAGIC)]) if memoryview(buf).nbytes else b""
        if len(head) >= len(compress.MAGIC):
            return compress.is_compressed(head)
    return not head


def write(dir: str, snapshot: RaftSnapshot, compressed: bool, timestamp: int) -> SnapshotInfo:
    """Write the files of a snapshot, durable on return, or leave none of them.

    `snapshot.bufs` are bytes-like objects that nobody changes meanwhile. Empty data, and data that starts with the
    magic of LZ4, is stored as a frame even without `compressed`.
    """
    name = data_name(snapshot.term, snapshot.index, timestamp)
    info = SnapshotInfo(name + META_SUFFIX, snapshot.term, snapshot.index, timestamp)
    meta = encode_meta(snapshot.configuration, snapshot.configuration_index)
    bufs = snapshot.bufs
    tally = _Tally()
    try:
        fs.make_file(dir, info.filename, [meta])
    except Failure as exc:
        raise exc.wrap(f"write {info.filename}") from None
    try:
        pieces = compress.compress(bufs) if compressed or _must_frame(bufs) else _raw(bufs)
        fs.make_file(dir, name, tally.over(pieces))
    except BaseException as exc:
        _discard(dir, info)
        if isinstance(exc, Failure):
            raise exc.wrap(f"write {name}") from None
        raise
    sums.store(dir, name, tally.size, tally.crc, durable=True)
    return info


def _discard(dir: str, info: SnapshotInfo) -> None:
    for name in (info.filename, info.data_name):
        try:
            fs.remove_if_there(dir, name)
        except Failure:
            continue


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read_meta(dir: str, info: SnapshotInfo, snapshot: RaftSnapshot) -> None:
    data = fs.read_file(dir, info.filename)
    if len(data) < _META.size:
        raise Failure(RAFT_CORRUPT, f"short read: {len(data)} bytes instead of {_META.size}")
    format, checksum, conf_index, length = _META.unpack_from(data)
    if format != FORMAT:
        raise unknown_format(format, RAFT_MALFORMED, f"unsupported format {format}")
    if length > MAX_CONFIGURATION:
        raise Failure(RAFT_CORRUPT, f"configuration data too big ({length}) at byte 24")
    if length == 0:
        raise Failure(RAFT_CORRUPT, "no configuration data at byte 24")
    blob = data[_META.size : _META.size + length]
    if len(blob) < length:
        raise Failure(RAFT_CORRUPT, f"short read: {len(blob)} bytes instead of {length}")
    if crc.crc32(blob, crc.crc32(_CHECKED.pack(conf_index, length))) != checksum & 0xFFFF_FFFF:
        raise Failure(RAFT_CORRUPT, "checksum mismatch")
    rv, conf, problem = configuration.decode(blob)
    if rv != 0:
        raise Unknown(rv, f"{problem}, from byte {_META.size}")
    snapshot.configuration_index = conf_index
    snapshot.configuration = conf


def _chunks(fd: int, first: bytes, size: int) -> Iterator[bytes]:
    yield first
    left = size - len(first)
    while left:
        chunk = fs.read_exactly(fd, min(left, compress.INPUT_CHUNK))
        left -= len(chunk)
        yield chunk


def _read_raw(fd: int, first: bytes, size: int) -> bytes | memoryview:
    if len(first) == size:
        return first
    try:
        fs.rewind(fd)
        if size <= _ONE_READ:
            return fs.read_exactly(fd, size)
        mapping = mmap.mmap(-1, size)
        view = memoryview(mapping)
        done = 0
        while done < size:
            n = fs.readv(fd, [view[done : done + fs.CHUNK]])
            if n == 0:
                raise Failure(RAFT_IOERR, f"short read: {done} bytes instead of {size}")
            done += n
        return view.toreadonly()
    except MemoryError:
        raise Failure(RAFT_NOMEM, f"no memory for {size} bytes") from None
    except OSError as exc:
        raise failure("read", exc) from None


def _checksum(data: bytes | memoryview) -> int:
    checksum = 0
    view = memoryview(data)
    for at in range(0, len(view), fs.CHUNK):
        checksum = sums.checksum(view[at : at + fs.CHUNK], checksum)
    return checksum


def _read_content(fd: int, size: int, tally: _Tally) -> bytes | memoryview:
    first = fs.read_exactly(fd, min(size, compress.INPUT_CHUNK))
    if not compress.is_compressed(first):
        data = _read_raw(fd, first, size)
        tally.size, tally.crc = size, _checksum(data)
        return data
    chunks = tally.over(_chunks(fd, first, size))
    try:
        data = compress.decompress(chunks, size)
    except Failure as exc:
        if exc.code == RAFT_IOERR and tally.failure is None:
            raise Failure(RAFT_CORRUPT, exc.message) from None
        raise
    for _ in chunks:  # what follows the frame belongs to the file's checksum
        pass
    return data


def _read_data(dir: str, info: SnapshotInfo) -> bytes | memoryview:
    name = info.data_name
    known = sums.load(dir, name)
    fd = fs.open_file(dir, name, os.O_RDONLY)
    try:
        size = fs.fstat(fd).st_size
        if known is not None and size != known.of:
            raise Failure(RAFT_CORRUPT, f"file has {size} bytes instead of {known.of} by {name}{sums.SUFFIX}")
        tally = _Tally()
        data = _read_content(fd, size, tally)
    except OSError as exc:
        raise failure("stat", exc) from None
    finally:
        fs.close(fd)
    if known is not None and tally.crc != known.crc:
        text = f"bytes 0 to {size} do not match the checksum in {name}{sums.SUFFIX}"
        raise Failure(RAFT_CORRUPT, text)
    return data


def read(dir: str, info: SnapshotInfo) -> RaftSnapshot:
    """Read a snapshot; its data is one buffer, bytes or a read-only view."""
    snapshot = RaftSnapshot()
    snapshot.term = info.term
    snapshot.index = info.index
    try:
        _read_meta(dir, info, snapshot)
    except Failure as exc:
        raise exc.wrap(f"read {info.filename}") from None
    try:
        snapshot.bufs = [_read_data(dir, info)]
    except Failure as exc:
        raise exc.wrap(f"read {info.data_name}") from None
    return snapshot


# ---- removing --------------------------------------------------------------------------------------------------------


def remove(dir: str, info: SnapshotInfo) -> None:
    """Remove the files of a snapshot, .meta first, so that a crash leaves nothing that counts. Not durable yet."""
    try:
        fs.remove_file(dir, info.filename)
        fs.remove_if_there(dir, info.data_name)
        fs.remove_if_there(dir, info.data_name + sums.SUFFIX)
    except Failure as exc:
        raise exc.wrap(f"delete snapshot {info.data_name}") from None


def remove_old(dir: str, infos: Sequence[SnapshotInfo]) -> None:
    """Remove all but the newest two of the sorted `infos`. The directory is left to the caller to sync."""
    for info in infos[:-KEEP]:
        remove(dir, info)


def require(infos: Sequence[SnapshotInfo]) -> SnapshotInfo:
    """Return the newest; RAFT_NOTFOUND if there is none (C: uv_snapshot.c answers success and garbage, B25)."""
    if not infos:
        raise Failure(RAFT_NOTFOUND, "no snapshot")
    return infos[-1]

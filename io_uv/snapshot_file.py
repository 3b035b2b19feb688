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

import itertools
import mmap
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from io_uv import compress, crc, fs, spool, sums
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

    __slots__ = ("filename", "index", "size", "term", "timestamp")

    def __init__(self, filename: str, term: int, index: int, timestamp: int) -> None:
        self.filename = filename
        self.term = term
        self.index = index
        self.timestamp = timestamp
        self.size = 0
        """Bytes of the data file, where this is of one that was just written."""

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


def _raw(bufs: Iterable[BytesLike]) -> Iterator[memoryview]:
    for buf in bufs:
        if memoryview(buf).nbytes:
            yield from spool.windows(buf)


def _begin(bufs: Iterable[BytesLike]) -> tuple[bytes, Iterator[memoryview]]:
    """Return the first bytes of data, up to 4, and all of its pieces; only the pieces with these bytes are held."""
    pieces = _raw(bufs)
    begun: list[memoryview] = []
    head = b""
    for piece in pieces:
        begun.append(piece)
        head += bytes(piece[: len(compress.MAGIC)])
        if len(head) >= len(compress.MAGIC):
            break
    return head[: len(compress.MAGIC)], itertools.chain(begun, pieces)


def _write_data(dir: str, name: str, bufs: Iterable[BytesLike], compressed: bool) -> tuple[int, int]:
    """Write the data file, reading `bufs` once; return its size and checksum.

    A frame begins with the size of its content, without which C takes it for empty. It is known at the end, so the
    header is written then, in the place that was left for it.
    """
    head, pieces = _begin(bufs)
    if not head:  # nothing at all is a frame, too (B44)
        return _write_pieces(dir, name, [compress.EMPTY_FRAME])
    if not (compressed or compress.is_compressed(head)):
        return _write_pieces(dir, name, pieces)
    tally = _Tally()
    blocks = compress.Blocks()
    room = bytes(len(compress.header(1)))
    fs.make_file(
        dir, name, itertools.chain([room], tally.over(blocks.over(pieces))), lambda: compress.header(blocks.size)
    )
    return len(room) + tally.size, sums.joined(sums.checksum(compress.header(blocks.size)), tally.crc, tally.size)


def write(dir: str, snapshot: RaftSnapshot, compressed: bool, timestamp: int) -> SnapshotInfo:
    """Write the files of a snapshot, durable on return, or leave none of them.

    `snapshot.bufs` are bytes-like objects that nobody changes meanwhile, in a sequence or any other iterable, which is
    read once, while it is written. Empty data, and data that starts with the magic of LZ4, is stored as a frame even
    without `compressed`.
    """
    return _write(dir, snapshot, timestamp, lambda name: _write_data(dir, name, snapshot.bufs, compressed))


def write_pieces(dir: str, snapshot: RaftSnapshot, pieces: Iterable[BytesLike], timestamp: int) -> SnapshotInfo:
    """Write the files of a snapshot as `write` does, with `pieces`, of 1 MiB or less, as the content of the data file.

    That is a frame, or raw data that is not empty and does not begin as one.
    """
    return _write(dir, snapshot, timestamp, lambda name: _write_pieces(dir, name, pieces))


def _write_pieces(dir: str, name: str, pieces: Iterable[BytesLike]) -> tuple[int, int]:
    """Write the data file as it comes; return its size and checksum."""
    tally = _Tally()
    fs.make_file(dir, name, tally.over(pieces))
    return tally.size, tally.crc


def _write(
    dir: str, snapshot: RaftSnapshot, timestamp: int, write_data: Callable[[str], tuple[int, int]]
) -> SnapshotInfo:
    """Write the file with the metadata, then that with the data by `write_data`, then the checksum."""
    name = data_name(snapshot.term, snapshot.index, timestamp)
    info = SnapshotInfo(name + META_SUFFIX, snapshot.term, snapshot.index, timestamp)
    meta = encode_meta(snapshot.configuration, snapshot.configuration_index)
    try:
        fs.make_file(dir, info.filename, [meta])
    except Failure as exc:
        raise exc.wrap(f"write {info.filename}") from None
    try:
        info.size, checksum = write_data(name)
    except BaseException as exc:
        _discard(dir, info)
        if isinstance(exc, Failure):
            raise exc.wrap(f"write {name}") from None
        raise
    sums.store(dir, name, info.size, checksum, durable=True)
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


def _map_raw(fd: int, chunks: Iterator[bytes], size: int) -> memoryview:
    """Return a raw file as a buffer, once all of it has been read."""
    for _ in chunks:
        pass
    try:
        return spool.mapped(fd, size)
    except (OSError, ValueError) as exc:
        raise Failure(RAFT_IOERR, f"map {size} bytes: {exc}") from None


def _decompress(chunks: Iterator[bytes], size: int, keeper: spool.Spool | None, tally: _Tally) -> bytes | memoryview:
    """Return the content of a frame, with a keeper as that has it."""
    if keeper is None:
        return compress.decompress(chunks, size)
    pieces = compress.contents(chunks, size)
    for piece in pieces:
        try:
            keeper.write(piece)
        except Failure as exc:
            tally.failure = exc
            raise
    return keeper.take()


def _read_content(fd: int, size: int, tally: _Tally, dir: str, mapped: int) -> bytes | memoryview:
    first = fs.read_exactly(fd, min(size, compress.INPUT_CHUNK))
    chunks = tally.over(_chunks(fd, first, size))
    if not compress.is_compressed(first):
        if 0 < mapped <= size:
            return _map_raw(fd, chunks, size)
        data = _read_raw(fd, first, size)
        tally.size, tally.crc = size, _checksum(data)
        return data
    try:
        data = _decompress(chunks, size, spool.Spool(dir, mapped - 1) if mapped else None, tally)
    except Failure as exc:
        if exc.code == RAFT_IOERR and tally.failure is None:
            raise Failure(RAFT_CORRUPT, exc.message) from None
        raise
    for _ in chunks:  # what follows the frame belongs to the file's checksum
        pass
    return data


def _read_data(dir: str, info: SnapshotInfo, mapped: int) -> bytes | memoryview:
    name = info.data_name
    known = sums.load(dir, name)
    fd = fs.open_file(dir, name, os.O_RDONLY)
    try:
        size = fs.fstat(fd).st_size
        if known is not None and size != known.of:
            raise Failure(RAFT_CORRUPT, f"file has {size} bytes instead of {known.of} by {name}{sums.SUFFIX}")
        tally = _Tally()
        data = _read_content(fd, size, tally, dir, mapped)
    except OSError as exc:
        raise failure("stat", exc) from None
    finally:
        fs.close(fd)
    if known is not None and tally.crc != known.crc:
        text = f"bytes 0 to {size} do not match the checksum in {name}{sums.SUFFIX}"
        raise Failure(RAFT_CORRUPT, text)
    return data


def read(dir: str, info: SnapshotInfo, mapped: int = 0) -> RaftSnapshot:
    """Read a snapshot; its data is one buffer, bytes or a read-only view, of a file if it has `mapped` bytes or more.

    That file is the snapshot's own, or one without a name that has the content of the frame.
    """
    snapshot = read_meta(dir, info)
    try:
        snapshot.bufs = [_read_data(dir, info, mapped)]
    except Failure as exc:
        raise exc.wrap(f"read {info.data_name}") from None
    return snapshot


def read_meta(dir: str, info: SnapshotInfo) -> RaftSnapshot:
    """Read all of a snapshot but its data: `bufs` is empty."""
    snapshot = RaftSnapshot()
    snapshot.term = info.term
    snapshot.index = info.index
    try:
        _read_meta(dir, info, snapshot)
    except Failure as exc:
        raise exc.wrap(f"read {info.filename}") from None
    return snapshot


class Stored:
    """The data of a snapshot on disk, read in pieces as often as one likes, also when its name is gone meanwhile.

    Making one and reading raise Failure as `read` does; a checksum is compared at the end of the data.
    """

    __slots__ = ("_fd", "_known", "_name", "snapshot")

    def __init__(self, dir: str, info: SnapshotInfo) -> None:
        self._fd = -1
        self._name = info.data_name
        self._known = sums.load(dir, info.data_name)
        self.snapshot = read_meta(dir, info)
        """Index, term and configuration."""
        self._fd = fs.open_file(dir, info.data_name, os.O_RDONLY)

    def pieces(self) -> Iterator[bytes]:
        """Yield the data from its beginning, in pieces of at most 1 MiB."""
        try:
            fs.rewind(self._fd)
            size = fs.fstat(self._fd).st_size
        except OSError as exc:
            raise failure(f"read {self._name}", exc) from None
        tally = _Tally()
        try:
            first = fs.read_exactly(self._fd, min(size, compress.INPUT_CHUNK))
            chunks = tally.over(_chunks(self._fd, first, size))
            yield from compress.contents(chunks, size) if compress.is_compressed(first) else chunks
            for _ in chunks:  # what follows the frame belongs to the file's checksum
                pass
        except Failure as exc:
            code = RAFT_CORRUPT if exc.code == RAFT_IOERR and tally.failure is None else exc.code
            raise Failure(code, f"read {self._name}: {exc.message}") from None
        if self._known is not None and (tally.size, tally.crc) != (self._known.of, self._known.crc):
            raise Failure(RAFT_CORRUPT, f"{self._name} does not match the checksum in {self._name}{sums.SUFFIX}")

    def close(self) -> None:
        """Let go of the file; more than once does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fs.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()


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

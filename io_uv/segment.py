"""Closed segments, and what they share with open ones: names, order, the batches inside.

Duty: a segment is a file of log entries. `FIRST-LAST` (16 digits each) is closed and holds exactly these indexes;
`open-N` is being written or was when its server died (`open_segment`). Both start with the format word 1; batches
follow: CRC of the header, CRC of the data, header (number of entries, then term, type and length of each), data.
Here are reading a closed segment in one piece, writing one, and removing entries from either end of the log.

Happy path of a change: new files are durable under their names before an old one goes, and files go in an order in
which a power cut after any step leaves a log that loads (see truncate_log and remove_closed).

Failure modes: RAFT_CORRUPT for what cannot be a complete file of this name, also where bytes are missing (C: RAFT_IOERR
then, which stops automatic recovery), RAFT_MALFORMED for an unknown entry type; the texts name the segment, batch and
byte. RAFT_IOERR is for a disk that refuses.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from io_uv import crc, encoding, fs
from io_uv.failure import Failure, unknown_format
from pyraft.errors import RAFT_CORRUPT
from pyraft.types import RAFT_BARRIER, RAFT_CHANGE, RAFT_COMMAND, EntryBatch, no_entries

DISK_FORMAT: Final = 1
MAX_BATCH_ENTRIES: Final = 262_144
"""Entries that a reader accepts in one batch: 8 MiB, the largest segment, by 32 bytes (uv_segment.c)."""
WORD: Final = 8

_CLOSED: Final = re.compile(r"(\d{1,16})-(\d{1,16})", re.ASCII)
_OPEN: Final = re.compile(r"open-(\d+)", re.ASCII)
_FORMAT: Final = struct.Struct("<Q")
PREAMBLE: Final = struct.Struct("<IIQ")
_CHECKSUMS: Final = struct.Struct("<II")
# A batch of one entry up to its payload: checksums, count, term, type, length.
_SINGLE: Final = struct.Struct("<IIQQB3xI")
_TYPES: Final = (RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE)


class SegmentInfo:
    """A segment file: a closed one with the indexes that its name says, or an open one with its counter."""

    __slots__ = ("counter", "filename", "first_index", "is_open", "last_index")

    def __init__(self, filename: str, first_index: int = 0, last_index: int = 0, counter: int | None = None) -> None:
        self.filename = filename
        self.first_index = first_index
        self.last_index = last_index
        self.is_open = counter is not None
        self.counter = counter or 0

    def __repr__(self) -> str:
        return f"SegmentInfo({self.filename!r})"


def closed_name(first_index: int, last_index: int) -> str:
    """Return the name of the closed segment with these entries, both ends included."""
    return f"{first_index:016}-{last_index:016}"


def open_name(counter: int) -> str:
    """Return the name of an open segment."""
    return f"open-{counter}"


def parse_name(filename: str) -> SegmentInfo | None:
    """Return what a file name says, None if it is not a segment's. Closed names need no leading zeros, as in C."""
    match = _CLOSED.fullmatch(filename)
    if match is not None:
        first, last = int(match[1]), int(match[2])
        # C: uv_segment.c:uvSegmentInfoMatch takes any two numbers and asserts on an empty range.
        return SegmentInfo(filename, first, last) if 0 < first <= last else None
    match = _OPEN.fullmatch(filename)
    if match is not None:
        return SegmentInfo(filename, counter=int(match[1]))
    return None


def sort(infos: list[SegmentInfo]) -> None:
    """Sort in place: closed ones by index, then open ones by counter; numerically."""
    infos.sort(key=lambda s: (s.is_open, s.counter, s.first_index, s.last_index, -len(s.filename)))


# ---- reading ---------------------------------------------------------------------------------------------------------


def check_format(data: bytes) -> None:
    """Check the format word; RAFT_CORRUPT "unexpected format version N"."""
    (format,) = _FORMAT.unpack_from(data)
    if format != DISK_FORMAT:
        raise unknown_format(format, RAFT_CORRUPT, f"unexpected format version {format}")


def _need(data: bytes, at: int, n: int, what: str) -> None:
    if at + n > len(data):
        raise Failure(RAFT_CORRUPT, f"read {what}: short read: {len(data) - at} bytes instead of {n}")


def read_preamble(data: bytes, at: int) -> tuple[int, int, int]:
    """Return header CRC, data CRC and number of entries of the batch at `at`, checked as far as that goes."""
    _need(data, at, WORD, "preamble")
    _need(data, at + WORD, WORD, "preamble")
    header_crc, data_crc, n = PREAMBLE.unpack_from(data, at)
    if n == 0:
        raise Failure(RAFT_CORRUPT, "entries count in preamble is zero")
    if n > MAX_BATCH_ENTRIES:
        raise Failure(RAFT_CORRUPT, f"entries count {n} in preamble is too high")
    return header_crc, data_crc, n


def _cut(payload: bytes, lengths: list[int]) -> list[bytes]:
    size = lengths[0]
    n = len(lengths)
    if n == 1:
        return [payload]
    if size and size * n == len(payload) and lengths.count(size) == n:
        return [payload[at : at + size] for at in range(0, len(payload), size)]
    bufs = []
    at = 0
    for size in lengths:
        bufs.append(payload[at : at + size])
        at += size
    return bufs


def read_batch(data: bytes, at: int, into: EntryBatch) -> int:
    """Append the entries of the batch that starts at `at` to `into`; return where the next one starts."""
    header_crc, data_crc, n = read_preamble(data, at)
    header_at = at + WORD
    header_size = encoding.BATCH_HEADER_SIZE + encoding.ENTRY_HEADER_SIZE * n
    _need(data, header_at + WORD, header_size - WORD, "header")
    payload_at = header_at + header_size
    if crc.crc32(data[header_at:payload_at]) != header_crc:
        raise Failure(RAFT_CORRUPT, "header checksum mismatch")
    terms, types, lengths = encoding.decode_batch_header(data, header_at, n)
    payload_size = sum(lengths)
    _need(data, payload_at, payload_size, "data")
    end = payload_at + payload_size
    payload = data[payload_at:end]
    if crc.crc32(payload) != data_crc:
        raise Failure(RAFT_CORRUPT, "data checksum mismatch")
    into.terms.extend(terms)
    into.types.extend(types)
    into.bufs.extend(_cut(payload, lengths))
    return end


def _read_singles(data: bytes, at: int, into: EntryBatch) -> tuple[int, int]:
    """Append the entries of good batches from `at` on, as long as each has one entry; return their end and number.

    Most batches of a server without much load have one. In one loop they take a third of the time.
    """
    add_term, add_type, add_buf = into.terms.append, into.types.append, into.bufs.append
    unpack, checksum = _SINGLE.unpack_from, crc.crc32
    limit = len(data) - _SINGLE.size
    number = 0
    while at <= limit:
        header_crc, data_crc, n, term, type, length = unpack(data, at)
        start = at + _SINGLE.size
        end = start + length
        if n != 1 or end > len(data) or type not in _TYPES or checksum(data[at + WORD : start]) != header_crc:
            break
        payload = data[start:end]
        if checksum(payload) != data_crc:
            break
        add_term(term)
        add_type(type)
        add_buf(payload)
        at = end
        number += 1
    return at, number


def read_batches(data: bytes, into: EntryBatch) -> tuple[int, int, Failure | None]:
    """Append the entries of all batches behind the format word until the data ends or one is bad.

    Return where reading stopped, the number of the batch there (from 1), and what is wrong with it, None at the end.
    """
    at = WORD
    number = 1
    try:
        while True:
            at, singles = _read_singles(data, at, into)
            number += singles
            if at >= len(data):
                return at, number, None
            at = read_batch(data, at, into)
            number += 1
    except Failure as exc:
        return at, number, exc.wrap(f"entries batch {number} starting at byte {at}")


def read_closed(dir: str, info: SegmentInfo, into: EntryBatch) -> None:
    """Append the entries of a closed segment to `into`; before a Failure those of the good batches in front of it."""
    try:
        data = fs.read_file(dir, info.filename)
    except Failure as exc:
        raise exc.wrap("read file") from None
    if not data:
        raise Failure(RAFT_CORRUPT, "file is empty")
    if len(data) < WORD:
        raise Failure(RAFT_CORRUPT, f"file has only {len(data)} bytes")
    check_format(data)
    before = len(into.bufs)
    _, number, problem = read_batches(data, into)
    if problem is not None:
        raise problem
    if number == 1:
        at = f"entries batch 1 starting at byte {WORD}"
        raise Failure(RAFT_CORRUPT, f"{at}: read preamble: short read: 0 bytes instead of {WORD}")
    found = len(into.bufs) - before
    expected = info.last_index - info.first_index + 1
    if found != expected:
        raise Failure(RAFT_CORRUPT, f"found {found} entries (expected {expected})")


def load_closed(dir: str, info: SegmentInfo, into: EntryBatch) -> None:
    """Append the entries of a closed segment to `into`; after a Failure, whose text names it, `into` is as before."""
    before = len(into.bufs)
    try:
        read_closed(dir, info, into)
    except Failure as exc:
        del into.terms[before:], into.types[before:], into.bufs[before:]
        raise exc.wrap(f"load closed segment {info.filename}") from None


# ---- writing ---------------------------------------------------------------------------------------------------------


def encode_batch(batch: EntryBatch) -> list[bytes]:
    """Return the bytes of one batch as a list of pieces."""
    header = encoding.encode_batch_header(batch)
    data_crc = 0
    for buf in batch.bufs:
        data_crc = crc.crc32(buf, data_crc)
    return [_CHECKSUMS.pack(crc.crc32(header), data_crc) + header, *batch.bufs]


def encode_file(batches: Sequence[EntryBatch]) -> Iterator[bytes]:
    """Yield the content of a closed segment, in pieces."""
    yield _FORMAT.pack(DISK_FORMAT)
    for batch in batches:
        # C: uv_segment.c:uvSegmentTruncate writes one batch, however large, and cannot read it again (B40).
        for at in range(0, len(batch), MAX_BATCH_ENTRIES):
            yield b"".join(encode_batch(EntryBatch.of(batch[at : at + MAX_BATCH_ENTRIES], MAX_BATCH_ENTRIES)))


def write_closed(dir: str, first_index: int, batches: Sequence[EntryBatch]) -> str:
    """Create the closed segment that starts at `first_index` with these entries, durably; return its name.

    Batches stay batches, except that one of more than 262,144 entries is split. A segment of that name is an error.
    """
    n = sum(map(len, batches))
    assert n > 0
    name = closed_name(first_index, first_index + n - 1)
    try:
        fs.make_file(dir, name, encode_file(batches))
    except Failure as exc:
        raise exc.wrap(f"write closed segment {name}") from None
    return name


# ---- removing --------------------------------------------------------------------------------------------------------


def _remove(dir: str, info: SegmentInfo) -> None:
    try:
        fs.remove_file(dir, info.filename)
    except Failure as exc:
        raise exc.wrap(f"delete closed segment {info.filename}") from None


def last_index(infos: Sequence[SegmentInfo], snapshot_index: int) -> int:
    """Return the index in front of the first open segment, which only its neighbours tell.

    That is the last of the sorted closed segments, or without any the newest snapshot, which ends at `snapshot_index`.
    """
    closed = [info for info in infos if not info.is_open]
    return closed[-1].last_index if closed else snapshot_index


def keep_trailing(dir: str, infos: Sequence[SegmentInfo], last_index: int, trailing: int) -> None:
    """Remove closed segments that end more than `trailing` entries before `last_index`, the index of a snapshot.

    Oldest first, up to the first that stays; with less than `trailing` entries before the snapshot none goes. Entries
    above `last_index` never go (B3), and neither does the last segment, from which open ones are counted. The directory
    is left to the caller to sync.
    """
    if last_index <= trailing:
        return
    closed = [info for info in infos if not info.is_open]
    for info in closed[:-1]:
        if info.last_index > last_index - trailing:
            break
        _remove(dir, info)


def remove_closed(dir: str, infos: Sequence[SegmentInfo], last_index: int) -> None:
    """Remove all closed segments after the install of a snapshot that ends at `last_index`; durable on return.

    Segments that reach beyond the snapshot go first, newest first and each durably before the next: a power cut leaves
    a log that starts where it did, which loading then finishes off, never one with a hole behind the snapshot.
    """
    closed = [info for info in infos if not info.is_open]
    for info in reversed(closed):
        _remove(dir, info)
        if info.last_index > last_index:
            fs.sync_dir(dir)
    fs.sync_dir(dir)


def truncate_log(dir: str, infos: Sequence[SegmentInfo], index: int) -> None:
    """Remove the entries from `index` on from the closed segments `infos`; durable on return.

    Later segments go first, newest first and each durably before the next, so that no crash leaves a hole. Then the
    head of the segment that holds `index` is written under its own name, then that segment goes: a crash between the
    two leaves one within the other, which loading sorts out. After a failure the call may be repeated with fresh
    `infos`.
    """
    # C: uv_truncate.c:uvTruncateWorkCb writes the head first and then removes in ascending order (B18).
    closed = [info for info in infos if not info.is_open]
    for info in reversed(closed):
        if info.first_index >= index:
            _remove(dir, info)
            fs.sync_dir(dir)
    for info in closed:
        if info.first_index < index <= info.last_index:
            _keep_head(dir, closed, info, index)
    fs.sync_dir(dir)


def _keep_head(dir: str, closed: Sequence[SegmentInfo], info: SegmentInfo, index: int) -> None:
    entries = no_entries()
    load_closed(dir, info, entries)
    for other in closed:
        if (other.first_index, other.last_index) == (info.first_index, index - 1):
            # Left by an attempt that failed: the whole segment is still there.
            _remove(dir, other)
    write_closed(dir, info.first_index, [entries[: index - info.first_index]])
    _remove(dir, info)

"""Open segments as a crash leaves them: which entries count, and whether a crash can have left them so.

Duty: `read` judges an `open-N` file. Segments are made of zeros; a write covers whole blocks, begins with what its
first block held already, and is durable before the next begins. So all but the last write is complete, and of that one
any 512-byte sectors may be missing: behind the first incomplete batch they read as zeros.

Verdicts: UNWRITTEN, nothing was ever complete; INTACT; TORN, a sector of an incomplete batch reads as zeros, which a
crash explains; DAMAGED, by anything else. C drops whatever follows the first bad batch, acknowledged or not.
A segment of ours carries a note of its size (fs.note_size) until it is closed: a shorter one, or a bad batch that no
tear explains, is DAMAGED. Without the note (C made it, or it was copied without attributes) a bad last batch, or one
that the file ends in, passes for a tear as in C (B1); only good batches behind it prove damage.

Limits, for lack of evidence in format 1: damage to the last write passes for a tear if its last batch has a sector
of zeros by nature, and so does the loss of whole sectors.
"""

import os
import struct
from collections.abc import Sequence
from typing import Final

from io_uv import crc, encoding, fs, refusal, segment
from io_uv.failure import Failure, failure
from pyraft.errors import RAFT_CORRUPT, RAFT_MALFORMED, RAFT_NOMEM
from pyraft.types import EntryBatch, no_entries

SECTOR: Final = 512
"""The least that a disk writes as one."""

UNWRITTEN: Final = 0
INTACT: Final = 1
TORN: Final = 2
DAMAGED: Final = 3

_WORD: Final = segment.WORD


class OpenContent:
    """The content of an open segment.

    `entries` are the good ones, `used` the bytes that they take from the start of `data`, `problem` why it is DAMAGED,
    or what a TORN one's incomplete batch lacks.
    """

    __slots__ = ("data", "entries", "problem", "used", "verdict")

    def __init__(self, verdict: int, problem: Failure | None = None) -> None:
        self.verdict = verdict
        self.problem = problem
        self.data = b""
        self.entries: EntryBatch = no_entries()
        self.used = 0


def _zeros(data: bytes, start: int, end: int) -> bool:
    """Return whether data[start:end] has only zeros."""
    return data[start:end] == bytes(end - start)


def _sector_missing(data: bytes, bad: int, start: int, end: int) -> bool:
    """Return whether a sector that overlaps data[start:end] reads as if it was not written behind `bad`."""
    for sector in range(start - start % SECTOR, min(end, len(data)), SECTOR):
        if _zeros(data, max(sector, bad), min(sector + SECTOR, len(data))):
            return True
    return False


def _count_was_changed(data: bytes, at: int) -> bool:
    """Return whether one byte of the batch's count, put right, makes its header check out: no tear does that."""
    header_crc, _, n = segment.PREAMBLE.unpack_from(data, at)
    header_at = at + _WORD
    body_at = header_at + encoding.BATCH_HEADER_SIZE
    for position in range(8):
        for value in range(256):
            other = n & ~(0xFF << 8 * position) | value << 8 * position
            end = body_at + encoding.ENTRY_HEADER_SIZE * other
            if other == n or not 0 < other <= segment.MAX_BATCH_ENTRIES or end > len(data):
                continue
            if crc.crc32(other.to_bytes(8, "little") + data[body_at:end]) == header_crc:
                return True
    return False


def _torn(data: bytes, at: int) -> bool:
    """Return whether a crash during the last write explains that the batch at `at` is bad."""
    header_at = at + _WORD
    body_at = header_at + encoding.BATCH_HEADER_SIZE
    # A batch that is larger than a segment is alone in one, and makes the file grow.
    can_end = at == _WORD and len(data) % SECTOR == 0
    if _sector_missing(data, at, at, body_at):
        return True
    if body_at > len(data):
        return can_end
    try:
        header_crc, _, n = segment.read_preamble(data, at)
    except Failure:
        # The sector with the count was written, and nobody writes such a count.
        return False
    end = body_at + encoding.ENTRY_HEADER_SIZE * n
    if end > len(data) or crc.crc32(data[header_at:end]) != header_crc:
        explained = _sector_missing(data, at, body_at, end) or (end > len(data) and can_end)
        return explained and not _count_was_changed(data, at)
    try:
        _, _, lengths = encoding.decode_batch_header(data, header_at, n)
    except Failure:
        return False
    data_end = end + sum(lengths)
    return _sector_missing(data, at, end, data_end) or (data_end > len(data) and can_end)


def holds_batch(data: bytes, start: int = 0) -> bool:
    """Return whether a complete batch with good checksums begins anywhere from `start`, a multiple of 8, on."""
    for at in range(start, len(data) - segment.PREAMBLE.size, _WORD):
        # The count is at most 262,144: of its eight bytes the last five are zero.
        if data[at + 11 : at + 16] != b"\0\0\0\0\0" or data[at + 8 : at + 11] == b"\0\0\0":
            continue
        try:
            segment.read_batch(data, at, no_entries())
        except Failure as exc:
            if exc.code == RAFT_NOMEM:
                raise
            if exc.code != RAFT_MALFORMED or not _data_is_good(data, at):
                continue
        return True
    return False


def _data_is_good(data: bytes, at: int) -> bool:
    """Return whether the data of the batch at `at`, whose header is good but for the types in it, checks out."""
    _, data_crc, n = segment.PREAMBLE.unpack_from(data, at)
    start = at + _WORD + encoding.BATCH_HEADER_SIZE
    lengths = struct.unpack_from(f"<{4 * n}I", data, start)[3::4]
    start += encoding.ENTRY_HEADER_SIZE * n
    found: int = crc.crc32(data[start : start + sum(lengths)])
    return found == int(data_crc)


def _without_format(data: bytes) -> OpenContent:
    """Judge a file whose format word is 0 although it holds something (B38)."""
    if holds_batch(data):
        return OpenContent(DAMAGED, Failure(RAFT_CORRUPT, "unexpected format version 0"))
    return OpenContent(TORN)


def judge(data: bytes, noted: int = 0) -> OpenContent:
    """Judge the content of an open segment; `noted` is the size that the file is known to have had, 0 if unknown."""
    if len(data) < _WORD or _zeros(data, 0, len(data)):
        content = OpenContent(UNWRITTEN)
    elif _zeros(data, 0, _WORD):
        content = _without_format(data)
    else:
        content = _judge_batches(data, noted)
    content.data = data
    if len(data) < noted and content.verdict != DAMAGED:
        content.verdict = DAMAGED
        content.problem = Failure(RAFT_CORRUPT, f"file has only {len(data)} bytes instead of {noted}")
    return content


def _judge_batches(data: bytes, noted: int) -> OpenContent:
    try:
        segment.check_format(data)
    except Failure as exc:
        return OpenContent(DAMAGED, exc)
    content = OpenContent(INTACT)
    content.used, _, problem = segment.read_batches(data, content.entries)
    if problem is None or _zeros(data, content.used, len(data)):
        return content
    content.problem = problem
    if problem.code == RAFT_MALFORMED:
        # An unknown entry is not torn by that, however the data behind such a header looks.
        content.verdict = DAMAGED
        return content
    torn = _torn(data, content.used) or (noted == 0 and not holds_batch(data, content.used + _WORD))
    content.verdict = TORN if torn else DAMAGED
    return content


def read(dir: str, name: str) -> OpenContent:
    """Read and judge an open segment. Raises Failure if the file cannot be read."""
    try:
        fd = fs.open_file(dir, name, os.O_RDONLY)
        try:
            noted = fs.noted_size(fd, refusal.at(dir))
            data = fs.read_exactly(fd, fs.fstat(fd).st_size)
        finally:
            fs.close(fd)
    except OSError as exc:
        raise failure("read file: stat", exc) from None
    except Failure as exc:
        raise exc.wrap("read file") from None
    return judge(data, noted)


def settle(contents: Sequence[OpenContent]) -> None:
    """Have tears in any but the last written one of these segments, which are in their order, be damage.

    A tear is the end of the log: only one write is under way at a time, so a segment before one that has been written
    to is complete.
    """
    written_later = False
    for content in reversed(contents):
        if written_later and content.verdict == TORN:
            content.verdict = DAMAGED
            content.problem = content.problem or Failure(RAFT_CORRUPT, "unexpected format version 0")
        written_later = written_later or content.verdict != UNWRITTEN

"""LZ4 frames: the compressed form of snapshot data.

Duty: `compress` turns buffers into the pieces of one LZ4 frame (64 KiB blocks, linked, content size and content
checksum present), `decompress` turns the pieces of any legal frame back into one buffer. Both work in steps of at most
1 MiB, each of which lets other threads run: a snapshot of 256 MiB never holds the interpreter up and is never copied
whole. `is_compressed` decides by the magic, as every relative of libraft does on reading.

Failure modes, all RAFT_IOERR: "LZ4F_decompress ERROR_…" for damage, a frame that ends early, a content size that so
few bytes cannot hold (checked before memory is taken). RAFT_NOMEM when the memory for the content is not to be had.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import lz4.frame

from io_uv.failure import Failure
from io_uv.fs import CHUNK
from pyraft.errors import RAFT_IOERR, RAFT_NOMEM
from pyraft.types import BytesLike

MAGIC: Final = struct.pack("<I", 0x184D2204)
EMPTY_FRAME: Final = bytes.fromhex("04224d186440a700000000055dcc02")
"""The frame of no content: it has a content checksum and no content size, which C reads as 0 bytes."""

INPUT_CHUNK: Final = 64 * 1024
"""Size in bytes in which compressed data is best fed to `decompress`."""

# A byte of LZ4 stands for at most 255 bytes of content; the rest of the bound covers headers and rounding.
_MAX_RATIO: Final = 255
_HEADER_MAX: Final = 19
_SMALL: Final = CHUNK


def is_compressed(data: bytes | memoryview | None) -> bool:
    """Return whether the data starts like an LZ4 frame."""
    return data is not None and len(data) >= len(MAGIC) and bytes(data[: len(MAGIC)]) == MAGIC


def _pieces(buf: BytesLike) -> Iterator[memoryview]:
    view = memoryview(buf).cast("B")
    for at in range(0, len(view), CHUNK):
        yield view[at : at + CHUNK]


def compress(bufs: Sequence[BytesLike]) -> Iterator[bytes]:
    """Yield the pieces of one frame whose content is the buffers one after the other."""
    total = sum(memoryview(buf).nbytes for buf in bufs)
    if total == 0:
        # C: compress.c:Compress refuses empty content, so that a snapshot of an empty FSM cannot be stored.
        yield EMPTY_FRAME
        return
    compressor = lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=True,
        compression_level=0,
        content_checksum=True,
        block_checksum=False,
        auto_flush=False,
    )
    try:
        yield compressor.begin(source_size=total)
        for buf in bufs:
            if memoryview(buf).nbytes:
                for piece in _pieces(buf):
                    yield compressor.compress(piece)
        yield compressor.flush()
    except RuntimeError as exc:
        raise _lz4_failure("LZ4F_compressUpdate", exc) from None
    except MemoryError:
        raise Failure(RAFT_NOMEM, "out of memory") from None


def _lz4_failure(call: str, exc: Exception) -> Failure:
    """Return the Failure for an error of the binding, whose texts read "CALL failed with code: ERROR_…"."""
    words = str(exc).split()
    name = next((word for word in words if word.startswith("ERROR_")), str(exc))
    if words and words[0].startswith("LZ4F_"):
        call = words[0]
    return Failure(RAFT_IOERR, f"{call} {name}")


class _Sink:
    """Collects content: in a list while its size is small or unknown, in one mapping of the right size otherwise."""

    __slots__ = ("_mapping", "_parts", "_size", "got")

    def __init__(self, size: int) -> None:
        self.got = 0
        self._size = size
        self._parts: list[bytes] = []
        self._mapping: mmap.mmap | None = None
        if size > _SMALL:
            self._mapping = _map(size)

    def add(self, piece: bytes) -> None:
        """Append a piece."""
        end = self.got + len(piece)
        if self._size and end > self._size:
            raise Failure(RAFT_IOERR, "LZ4F_decompress ERROR_frameSize_wrong")
        if self._mapping is not None:
            self._mapping[self.got : end] = piece
        else:
            self._parts.append(piece)
        self.got = end

    def take(self) -> bytes | memoryview:
        """Return the content: bytes where it is small, else a read-only view."""
        if self._mapping is not None:
            return memoryview(self._mapping).toreadonly()[: self.got]
        if self.got <= _SMALL:
            return b"".join(self._parts)
        mapping = _map(self.got)
        at = 0
        for part in self._parts:
            mapping[at : at + len(part)] = part
            at += len(part)
        return memoryview(mapping).toreadonly()


def _map(size: int) -> mmap.mmap:
    # An anonymous mapping is filled by the kernel on first touch; a bytearray would be zeroed first, lock held.
    try:
        return mmap.mmap(-1, size)
    except (OSError, ValueError, OverflowError, MemoryError):
        raise Failure(RAFT_NOMEM, f"no memory for {size} bytes") from None


def _content_size(head: bytes, length: int) -> int:
    """Return the content size that the header of a frame of `length` bytes announces, 0 if it announces none."""
    try:
        size = int(lz4.frame.get_frame_info(head)["content_size"])
    except (RuntimeError, ValueError) as exc:
        raise _lz4_failure("LZ4F_getFrameInfo", exc) from None
    if size > length * _MAX_RATIO:
        raise Failure(RAFT_IOERR, f"content size {size} is more than {length} bytes can hold")
    return size


def decompress(chunks: Iterable[bytes], length: int) -> bytes | memoryview:
    """Return the content of the frame that the chunks make up, `length` bytes in all; what follows it is ignored.

    The first chunk must hold the frame's header (19 bytes, or all there is).
    """
    source = iter(chunks)
    first = next(source, b"")
    sink = _Sink(_content_size(first[:_HEADER_MAX], length))
    decompressor = lz4.frame.LZ4FrameDecompressor()
    chunk: bytes | None = first
    try:
        while chunk is not None:
            sink.add(decompressor.decompress(chunk, max_length=CHUNK))
            while not decompressor.eof and not decompressor.needs_input:
                sink.add(decompressor.decompress(b"", max_length=CHUNK))
            if decompressor.eof:
                return sink.take()
            chunk = next(source, None)
    except RuntimeError as exc:
        raise _lz4_failure("LZ4F_decompress", exc) from None
    except MemoryError:
        raise Failure(RAFT_NOMEM, "out of memory") from None
    # C: compress.c:Decompress goes round for ever here (B43).
    raise Failure(RAFT_IOERR, f"LZ4 frame is cut short after {length} bytes")

"""LZ4 frames: the compressed form of snapshot data.

Duty: `header` and `Blocks` make one LZ4 frame of content that comes in pieces (64 KiB blocks, linked, content size and
content checksum present), `decompress` turns the pieces of any legal frame back into one buffer, and `contents` into
pieces. All work in steps of at most 1 MiB, each of which lets other threads run: a snapshot of 256 MiB never holds the
interpreter up and is never copied whole. `is_compressed` decides by the magic, as every relative of libraft does on
reading.

Failure modes, all RAFT_IOERR: "LZ4F_decompress ERROR_…" for damage, a frame that ends early, a content size that so
few bytes cannot hold (checked before memory is taken). RAFT_NOMEM when the memory for the content is not to be had.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import lz4.frame

from io_uv.failure import Failure
from io_uv.fs import CHUNK
from pyraft.errors import RAFT_IOERR, RAFT_NOMEM

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


def header(size: int) -> bytes:
    """Return the header of a frame whose content has `size` bytes, at least 1. Its length is the same for all."""
    begun: bytes = _compressor().begin(source_size=size)
    return begun


def _compressor() -> lz4.frame.LZ4FrameCompressor:
    return lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX64KB,
        block_linked=True,
        compression_level=0,
        content_checksum=True,
        block_checksum=False,
        auto_flush=False,
    )


class Blocks:
    """The part of a frame behind its header, which does not depend on it; `size` counts the content."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def over(self, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """Yield what pieces of content, of 1 MiB or less and none of them empty, are compressed to."""
        compressor = _compressor()
        try:
            compressor.begin()  # with a header of no size, which is left out
            for piece in pieces:
                self.size += len(piece)
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
    """Return the content of the frame that the chunks make up, `length` bytes in all; bytes behind it are ignored.

    The first chunk must hold the frame's header (19 bytes, or all there is).
    """
    source = iter(chunks)
    first = next(source, b"")
    sink = _Sink(_content_size(first[:_HEADER_MAX], length))
    for piece in _steps(first, source, length):
        sink.add(piece)
    return sink.take()


def contents(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """Yield the content of the frame that the chunks make up in pieces of at most 1 MiB; else as `decompress`."""
    source = iter(chunks)
    first = next(source, b"")
    _content_size(first[:_HEADER_MAX], length)  # refuses one that so few bytes cannot hold
    yield from _steps(first, source, length)


def _steps(first: bytes, source: Iterator[bytes], length: int) -> Iterator[bytes]:
    """Yield what each step of the decompression of a frame gives."""
    decompressor = lz4.frame.LZ4FrameDecompressor()
    chunk: bytes | None = first
    try:
        while chunk is not None:
            yield decompressor.decompress(chunk, max_length=CHUNK)
            while not decompressor.eof and not decompressor.needs_input:
                yield decompressor.decompress(b"", max_length=CHUNK)
            if decompressor.eof:
                return
            chunk = next(source, None)
    except RuntimeError as exc:
        raise _lz4_failure("LZ4F_decompress", exc) from None
    except MemoryError:
        raise Failure(RAFT_NOMEM, "out of memory") from None
    # C: compress.c:Decompress goes round for ever here (B43).
    raise Failure(RAFT_IOERR, f"LZ4 frame is cut short after {length} bytes")

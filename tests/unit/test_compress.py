"""LZ4 frames: the bytes of the C library, any legal frame back, nothing held up and nothing copied whole."""

import os
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import compress
from io_uv.failure import Failure
from pyraft.errors import RAFT_IOERR
from tests.lib.covers import covers
from tests.lib.frames import framed

MEGABYTE = 1024 * 1024


def pack(*bufs: Any) -> bytes:
    return framed(bufs)


def chunks(frame: bytes, size: int = compress.INPUT_CHUNK) -> Iterator[bytes]:
    for at in range(0, len(frame), size):
        yield frame[at : at + size]


def unpack(frame: bytes, size: int = compress.INPUT_CHUNK) -> bytes | memoryview:
    return compress.decompress(chunks(frame, size), len(frame))


def failure(frame: bytes) -> Failure:
    with pytest.raises(Failure) as caught:
        unpack(frame)
    assert caught.value.code == RAFT_IOERR
    return caught.value


def content_or_code(frame: bytes) -> bytes | memoryview | int:
    """Return the content, or the code of the Failure."""
    try:
        return unpack(frame)
    except Failure as exc:
        return exc.code


def test_a_frame_has_the_bytes_of_the_c_library() -> None:
    """It has blocks of 64 KiB, linked, the size of its content and a checksum of it."""
    expected = "04224d184c400800000000000000b108000080010203040506070800000000680d3a14"
    assert pack(bytes(range(1, 9))).hex() == expected
    assert pack(b"\x01\x02", b"", bytes(range(3, 9))).hex() == expected
    assert unpack(bytes.fromhex(expected)) == bytes(range(1, 9))


@covers("Compress/compressDecompressZeroLength")
@pytest.mark.parametrize("bufs", [[], [b""], [b"", b""]])
def test_no_content_is_the_empty_frame(bufs: Sequence[bytes]) -> None:
    """C refuses it, so that the snapshot of an empty FSM cannot be stored (B44)."""
    frame = pack(*bufs)
    assert frame.hex() == "04224d186440a700000000055dcc02"
    assert unpack(frame) == b""


@covers("Compress/compressDecompressRandomOne", "Compress/compressDecompressNonRandomOne")
@pytest.mark.parametrize("size", [1, 8, 16, 1024, 65536, 65537, MEGABYTE - 1, MEGABYTE, MEGABYTE + 1, 9 * MEGABYTE])
@pytest.mark.parametrize("noise", [True, False])
def test_one_buffer_comes_back(size: int, noise: bool) -> None:
    """Random content and constant content, which becomes smaller."""
    data = random.Random(size).randbytes(size) if noise else b"\x07" * size
    frame = pack(data)
    assert compress.is_compressed(frame)
    assert noise or size < 64 or len(frame) < size
    assert unpack(frame) == data


@covers("Compress/compressDecompressRandomTwo")
@pytest.mark.parametrize("first", [0, 1, 4096, MEGABYTE + 3])
@pytest.mark.parametrize("second", [0, 1, 65536, 2 * MEGABYTE + 5])
def test_two_buffers_come_back_as_one(first: int, second: int) -> None:
    """Either may be empty."""
    a, b = os.urandom(first), os.urandom(second)
    assert unpack(pack(bytearray(a), memoryview(b))) == a + b


@covers("Compress/compressDecompressCorruption")
def test_a_flipped_byte_is_noticed() -> None:
    """The text has liblz4's name for it."""
    frame = bytearray(pack(random.Random(1).randbytes(2048)))
    frame[19] ^= 0xFF
    assert failure(bytes(frame)).message == "LZ4F_decompress ERROR_contentChecksum_invalid"


@covers("Compress/isCompressedTooSmall", "Compress/isCompressedNull", "Compress/isCompressed", "Compress/notCompressed")
def test_the_magic_decides() -> None:
    """It is 04 22 4d 18 in front."""
    assert not compress.is_compressed(b"\x04\x22\x4d")
    assert not compress.is_compressed(None)
    assert compress.is_compressed(b"\x04\x22\x4d\x18")
    assert not compress.is_compressed(b"\x18\x4d\x22\x04")
    assert compress.is_compressed(memoryview(b"\x04\x22\x4d\x18 and more"))


@pytest.mark.parametrize("size", [0, 8, 100_000])
def test_every_way_to_cut_a_frame_is_noticed(size: int) -> None:
    """C never returns (B43)."""
    frame = pack(random.Random(1).randbytes(size))
    step = max(1, len(frame) // 200)
    for length in range(4, len(frame), step):
        failure(frame[:length])


def test_every_flipped_byte_is_noticed_or_changes_nothing() -> None:
    """The header has a checksum of its own, and so has the content."""
    data = random.Random(2).randbytes(300) + bytes(300)
    frame = pack(data)
    for at in range(4, len(frame)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(frame)
            damaged[at] ^= flip
            assert content_or_code(bytes(damaged)) in (data, RAFT_IOERR)


def test_a_frame_without_content_size_is_read() -> None:
    """C never returns (B43)."""
    for size in (0, 10, 3 * MEGABYTE):
        data = random.Random(size).randbytes(size)
        frame = lz4.frame.compress(data, store_size=False, content_checksum=True)
        assert unpack(frame) == data


@pytest.mark.parametrize("block_size", [4, 5, 6, 7])
@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("checksums", [True, False])
def test_any_legal_frame_is_read(block_size: int, linked: bool, checksums: bool) -> None:
    """Its settings do not matter."""
    data = random.Random(3).randbytes(200_000) + bytes(5 * MEGABYTE)
    frame = lz4.frame.compress(
        data, block_size=block_size, block_linked=linked, block_checksum=checksums, content_checksum=checksums
    )
    assert unpack(frame) == data
    assert unpack(frame, size=19) == data


def test_what_follows_the_frame_is_ignored() -> None:
    """C ignores it too."""
    data = os.urandom(100_000)
    assert unpack(pack(data) + b"more") == data


def test_a_content_size_that_cannot_be_is_refused_before_memory_is_taken() -> None:
    """An LZ4 byte stands for at most 255."""
    # The last byte is the checksum of this header.
    frame = bytes.fromhex("04224d184c40") + struct.pack("<Q", 1 << 50) + b"\xc1" + bytes(100)
    assert failure(frame).message == "content size 1125899906842624 is more than 115 bytes can hold"


@given(st.lists(st.binary(max_size=2000), max_size=4), st.integers(19, 5000))
def test_any_content_comes_back_however_it_is_fed(bufs: list[bytes], size: int) -> None:
    """Chunks of any size that holds the header."""
    assert unpack(pack(*bufs), size) == b"".join(bufs)


@given(st.binary(max_size=200))
def test_garbage_behind_the_magic_is_a_failure_or_a_frame(data: bytes) -> None:
    """It never raises another exception."""
    found = content_or_code(compress.MAGIC + data)
    assert type(found) is bytes or found == RAFT_IOERR


def test_large_content_is_a_read_only_view() -> None:
    """Small content is bytes."""
    assert type(unpack(pack(bytes(MEGABYTE)))) is bytes
    large = unpack(pack(bytes(MEGABYTE + 1)))
    assert type(large) is memoryview
    assert large.readonly
    assert large == bytes(MEGABYTE + 1)


def test_large_content_is_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step has more than 1 MiB to do, and each gives the interpreter lock up in between."""
    steps: list[int] = []

    class Compressor(lz4.frame.LZ4FrameCompressor):
        def compress(self, data: Any) -> Any:
            steps.append(len(data))
            return super().compress(data)

    class Decompressor(lz4.frame.LZ4FrameDecompressor):
        def decompress(self, data: Any, max_length: int = -1) -> Any:
            content = super().decompress(data, max_length)
            steps.append(max(len(data), len(content)))
            return content

    monkeypatch.setattr(lz4.frame, "LZ4FrameCompressor", Compressor)
    monkeypatch.setattr(lz4.frame, "LZ4FrameDecompressor", Decompressor)
    data = random.Random(4).randbytes(MEGABYTE) + bytes(40 * MEGABYTE)
    frame = pack(data, data)
    assert (len(steps), max(steps)) == (82, MEGABYTE)
    steps.clear()
    assert unpack(frame) == data + data
    assert len(steps) >= 82
    assert max(steps) <= MEGABYTE

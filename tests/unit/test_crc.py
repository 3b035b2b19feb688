"""The checksum of the disk format."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from io_uv import crc
from tests.lib import disk
from tests.lib.covers import covers


@pytest.mark.parametrize("function", [crc.crc32, crc.crc32_stdlib, disk.crc])
def test_the_check_value_is_that_of_the_c_library(function: object) -> None:
    """crc("123456789"); zeros have 0 because it starts from 0."""
    assert callable(function)
    assert function(b"123456789") == 0x89A1897F
    assert function(bytes(1000)) == 0
    assert function(b"") == 0


@covers("byteCrc32/valid")
def test_equal_data_has_equal_checksums() -> None:
    """It does not matter where the data lies."""
    assert crc.crc32(b"\x01" * 8) == crc.crc32(memoryview(bytearray(b"x" + b"\x01" * 8))[1:])


@covers("byteCrc32/invalid")
def test_different_data_has_different_checksums() -> None:
    """One bit makes the difference."""
    assert crc.crc32(b"\x01" * 8) != crc.crc32(b"\x01" * 7 + b"\x03")


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_chaining_equals_concatenation_in_both_implementations(pieces: list[bytes]) -> None:
    """The value of one piece is the initial value for the next."""
    for function in (crc.crc32, crc.crc32_stdlib):
        value = 0
        for piece in pieces:
            value = function(piece, value)
        assert value == disk.crc(b"".join(pieces))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer_will_do(kind: type) -> None:
    """It is not copied."""
    data = random.Random(1).randbytes(10_000)
    assert crc.crc32(kind(data)) == crc.crc32_stdlib(kind(data)) == disk.crc(data)


def test_the_standard_library_takes_over_where_fastcrc_is_missing() -> None:
    """The module is imported anew with fastcrc hidden."""
    code = (
        "import sys; sys.modules['fastcrc'] = None; from io_uv import crc; "
        "assert crc.crc32(b'123456789') == 0x89A1897F; assert crc.continued is crc.crc32_stdlib"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""raft_digest: 64 bits out of a text and a number, by which servers get their IDs."""

import pytest

from pyraft import raft_digest
from tests.lib.covers import covers


@covers("raft_digest/bootstrapServerId")
@pytest.mark.parametrize(
    ("text", "n", "digest"),
    [
        ("127.0.0.1:65536", 0, 17791327498928598451),
        ("", 0, 16845441664289232300),
        ("abc", 1, 9372444406277919070),
        ("1", 0, 0x2DC171858C3155BE),
    ],
)
def test_digests_are_those_of_the_c_library(text: str, n: int, digest: int) -> None:
    """SHA1 over the text and 8 little-endian bytes, its last 8 bytes read little-endian."""
    assert raft_digest(text, n) == digest


def test_the_c_suite_sees_the_low_half() -> None:
    """C's own test compares an int, so it shows only 32 bits (B29)."""
    assert raft_digest("127.0.0.1:65536", 0) & 0xFFFFFFFF == 138882483


def test_the_number_is_64_bits() -> None:
    """A larger number is cut, as the C parameter cuts it."""
    assert raft_digest("a", (1 << 64) + 5) == raft_digest("a", 5)
    assert raft_digest("a", -1) == raft_digest("a", (1 << 64) - 1)

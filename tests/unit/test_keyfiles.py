"""Key files, and data that libraries want as a file."""

import os
from pathlib import Path

import pytest

from io_uv import keyfiles
from tests.lib.threads import open_fds


def test_data_has_a_path_until_the_end_of_the_block() -> None:
    """And leaves nothing behind, be its descriptor the first there is."""
    before = open_fds()
    with keyfiles.in_memory(b"content") as path:
        assert Path(path).read_bytes() == b"content"
    assert open_fds() == before
    kept = os.dup(0)
    os.close(0)
    try:
        with keyfiles.in_memory(b"content") as path:
            assert path == "/proc/self/fd/0"
            assert Path(path).read_bytes() == b"content"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert open_fds() == before

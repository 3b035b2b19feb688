"""Key files, and data that libraries want as a file."""

import os
import threading
from pathlib import Path

import pytest

from io_uv import keyfiles
from io_uv.failure import Failure
from tests.lib.threads import open_fds


def test_data_has_a_path_until_the_end_of_the_block() -> None:
    """It leaves nothing behind, be its descriptor the first there is."""
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


def test_a_pipe_is_read_to_its_end_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell gives the output of a program so; at the other end of a FIFO nobody may ever come."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert keyfiles.read(str(fifo)) == b""
    ends = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(ends[1], bytes(100_000)), os.close(ends[1])))
    writer.start()
    assert keyfiles.read(f"/proc/self/fd/{ends[0]}") == bytes(100_000)
    writer.join()
    os.close(ends[0])
    monkeypatch.setattr(keyfiles, "_PATIENCE_MSECS", 1)
    silent = os.open(fifo, os.O_RDWR)
    with pytest.raises(Failure, match="nothing to read in 1 ms"):
        keyfiles.read(str(fifo))
    os.close(silent)


def test_what_never_ends_is_refused() -> None:
    """A device never does, for one."""
    with pytest.raises(Failure, match="more than 16777216 bytes"):
        keyfiles.read("/dev/zero")

"""Closing a segment: what is done to the directory, and in which order."""

from pathlib import Path

import pytest

from io_uv import finalize, fs, segment
from tests.lib.compiled import COMPILED


@pytest.mark.skipif(COMPILED, reason="functions of io_uv.fs are replaced")
@pytest.mark.parametrize("used", [0, 4096])
def test_the_directory_is_synced_after_a_segment_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    """A power cut must not bring an open segment back behind closed ones that came after it."""
    names: list[list[str]] = []
    sync_dir = fs.sync_dir

    def synced(dir: str) -> None:
        names.append(sorted(path.name for path in tmp_path.iterdir()))
        sync_dir(dir)

    monkeypatch.setattr(fs, "sync_dir", synced)
    (tmp_path / segment.open_name(1)).write_bytes(b"x" * 8192)
    dying = finalize.DyingSegment(1, used, 3, 5)
    finalize._close_segment(str(tmp_path), dying)
    assert names[-1] == ([segment.closed_name(3, 5)] if used else [])
    assert dying.moved
    # A sync that failed is what is left to do.
    names.clear()
    finalize._close_segment(str(tmp_path), dying)
    assert len(names) == 1

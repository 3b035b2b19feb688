"""Truncating a log behind a snapshot (io_uv)."""

from pathlib import Path

from tests.lib.covers import covers
from tests.lib.uvtest import SEGMENT_SIZE, UvIo, numbers


@covers("snapshot_truncate/snapshotThenTruncate")
def test_snapshot_then_truncate(tmp_path: Path) -> None:
    """With a snapshot that keeps all entries, truncating leaves those before the index."""
    t = UvIo(tmp_path).start()
    for _ in range(12):
        t.submit(1, SEGMENT_SIZE // 3 // 8 * 8)
    put = t.put(6, trailing=8192)
    t.truncate(8)
    t.wait(put)
    assert put.statuses == [0]
    fresh = t.reopen()
    _, _, _, snapshot, start_index, entries = fresh.loaded
    assert snapshot is not None
    assert snapshot.index == 6
    assert start_index == 1
    assert numbers(entries) == [1, 2, 3, 4, 5, 6, 7]
    fresh.close()

"""The AIO context that io.init probes with: nothing on the loop waits for its end, and nothing keeps it for good."""

import struct
import threading
from pathlib import Path

import pytest

from io_uv import kaio
from tests.lib.threads import open_fds
from tests.lib.uvtest import UvIo


def destroyed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets an item for each io_destroy: whether it ran in this thread."""
    found: list[bool] = []
    call = kaio._call

    def noted(which: int, *args: int, blocking: bool = False) -> int:
        if which == kaio._DESTROY:
            found.append(threading.current_thread() is threading.main_thread())
        return call(which, *args, blocking=blocking)

    monkeypatch.setattr(kaio, "_call", noted)
    return found


@pytest.mark.parametrize("writes", [True, False])
def test_the_loop_never_waits_for_the_end_of_an_aio_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    """The kernel takes tens of milliseconds for it: what has probed writes later, and ends in a thread at the close."""
    UvIo(tmp_path).start().close()  # The pool of threads is there from now on.
    found = destroyed(monkeypatch)
    before = open_fds()
    t = UvIo(tmp_path).start()
    if not t.uv.async_io:
        pytest.skip("needs asynchronous writes")
    if writes:
        t.append()
    assert found == []
    t.close()
    assert found == [False]
    assert open_fds() == before


def test_an_init_that_fails_keeps_no_aio_context(tmp_path: Path) -> None:
    """Nothing else stays open either; the next one probes anew."""
    (tmp_path / "metadata1").write_bytes(b"odd")
    (tmp_path / "metadata2").write_bytes(struct.pack("<4Q", 9, 2, 1, 0))
    t = UvIo(tmp_path)
    before = open_fds()
    for _ in range(2):
        assert t.init() != 0
        assert open_fds() == before
    for name in ("metadata1", "metadata2"):
        (tmp_path / name).unlink(missing_ok=True)
    assert t.init() == 0
    t.close()
